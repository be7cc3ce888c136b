//! Which of an application's volumes are protected, as text for people.

use crate::error::Error;
use crate::here::Here;
use crate::model::names::AppName;
use crate::model::record::Record;
use crate::outside::compose_file::Volume;

/// A line for each kind that there is.
pub fn protection(volumes: &[Volume]) -> Vec<String> {
    let names = |of: &dyn Fn(&Volume) -> bool| -> Vec<&str> { volumes.iter().filter(|it| of(it)).map(|it| &*it.name).collect() };
    lines(&names(&|it| it.data), &names(&|it| !it.data && !it.disposable), &names(&|it| !it.data && it.disposable))
}

fn lines(data: &[&str], ordinary: &[&str], disposable: &[&str]) -> Vec<String> {
    let kinds = [("protected, moved and snapshotted", data), (NOT, ordinary), ("disposable, gone after a move or a destroy", disposable)];
    kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(what, names)| format!("volumes {what}: {}", names.join(", "))).collect()
}

/// Of those that stay where they are.
pub const NOT: &str = "NOT protected, kept on the node where they are";

/// Of what is deployed: all of them on its master, which has its compose file; elsewhere those that the record names.
pub fn deployed(here: &Here, name: &AppName, record: &Record) -> Result<Vec<String>, Error> {
    if record.master == *here.me()? {
        match here.resolved(name, &record.deploy_id) {
            Ok(Some(compose)) => {
                // What a job has made since it was deployed.
                let is_later = |it: &Volume| it.data && !record.volumes.contains(&it.name);
                let (later, known): (Vec<Volume>, Vec<Volume>) = compose.volumes.into_iter().partition(is_later);
                let mut lines = protection(&known);
                if !later.is_empty() {
                    let names: Vec<&str> = later.iter().map(|it| &*it.name).collect();
                    lines.push(format!("volumes {NOT} until the next deploy, which finds them if they are there: {}", names.join(", ")));
                }
                return Ok(lines);
            }
            Ok(None) => {}
            Err(why) => return Ok(vec![format!("volumes: {why}")]),
        }
    }
    let data: Vec<&str> = record.volumes.iter().map(|volume| &**volume).collect();
    Ok(lines(&data, &[], &[]))
}
