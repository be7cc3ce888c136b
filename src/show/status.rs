//! What is deployed where, as text for people.

use crate::error::Error;
use crate::here::Here;
use crate::model::record::Record;
use crate::model::time::{self, Time};
use crate::model::{json, keys, members};
use crate::node::local::{self, LocalRole};
use crate::orders;

pub fn status(here: &Here) -> Result<String, Error> {
    let members = here.consul.members()?;
    let dead = |name: &str| if members::alive(&members, name) { "" } else { " (dead)" };
    let mut lines = Vec::new();
    let records = here.consul.list(keys::APPS)?;
    if records.is_empty() {
        lines.push("no application is deployed".into());
    }
    for entry in records {
        let name = entry.key.trim_start_matches(keys::APPS);
        match json::read::<Record>(&entry.value) {
            Ok(record) => {
                let slave = record.slave.map_or("no slave".into(), |slave| format!("slave {slave}{}", dead(&slave)));
                lines.push(format!("{name}: master {}{}, {slave}, deployed {}", record.master, dead(&record.master), record.deploy_date));
                if !record.urls.is_empty() {
                    lines.push(format!("    {}", record.urls));
                }
            }
            Err(why) => lines.push(format!("{} in Consul is not a record: {why}", entry.key)),
        }
    }
    for (name, local) in local::all(here)?.into_iter().filter(|(_, local)| local.role == LocalRole::Fenced) {
        let volumes: Vec<&str> = local.volumes.iter().map(|volume| &**volume).collect();
        lines.push(format!("{name}: fenced on this node, which ran it; its volumes are kept: {}", volumes.join(", ")));
    }
    for entry in here.consul.list(keys::ORDERS)? {
        match orders::parse(&entry) {
            Ok(order) => {
                let now = here.world.clock.now();
                let age = Time::parse(&order.created).map_or("?".into(), |created| time::age(now.since(created)));
                lines.push(format!("order {}: {} {}, {:?}, since {age}", order.id, order.request.event(), order.name, order.state));
                for (node, progress) in &order.progress {
                    lines.push(format!(
                        "    {node}: step {} of {}: {}, since {}",
                        progress.step, progress.of, progress.name, progress.since
                    ));
                }
            }
            Err(why) => lines.push(why.to_string()),
        }
    }
    Ok(lines.join("\n") + "\n")
}
