//! What is deployed where, as text for people; and what of it is wrong.

use std::time::Duration;

use crate::data::{own, volumes};
use crate::error::Error;
use crate::here::Here;
use crate::model::members::{self, Member};
use crate::model::names::AppName;
use crate::model::order::{Order, State};
use crate::model::record::Record;
use crate::model::time::{self, Time};
use crate::model::{json, keys};
use crate::node::local::{self, Local, LocalRole};
use crate::orders;
use crate::steps::journal::GIVEN_UP;
use crate::worker;

/// An order that no node has taken up for so long is named: the watches start handlers within a second.
const UNTAKEN: Duration = Duration::from_secs(60);

pub struct Status {
    pub text: String,
    /// How many things are wrong: named in the text's first lines.
    pub wrong: usize,
}

pub fn status(here: &Here) -> Result<Status, Error> {
    let members = here.consul.members()?;
    let (mut wrong, mut lines) = (Vec::new(), Vec::new());
    let records = here.consul.list(keys::APPS)?;
    if records.is_empty() {
        lines.push("no application is deployed".into());
    }
    let mut served_here = Vec::new();
    for entry in records {
        let name = entry.key.trim_start_matches(keys::APPS);
        match (AppName::try_from(name), json::read::<Record>(&entry.value)) {
            (Ok(name), Ok(record)) => {
                lines.extend(described(&name, &record, &members));
                lines.extend(volumes::deployed(here, &name, &record)?.into_iter().map(|line| format!("    {line}")));
                if !members::alive(&members, &record.master) {
                    wrong.push(format!("{name}: its master, {}, is dead", record.master));
                }
                if record.master == *here.me()? {
                    served_here.push(name);
                }
            }
            (Err(why), _) => wrong.push(format!("{} in Consul is not a record: {why}", entry.key)),
            (_, Err(why)) => wrong.push(format!("{} in Consul is not a record: {why}", entry.key)),
        }
    }
    for name in served_here {
        if here.consul.get(&keys::maintenance(&name))?.is_none() {
            wrong.extend(not_running(here, &name));
        }
    }
    for name in here.apps()? {
        wrong.extend(of_this_node(here, &name)?);
    }
    let (journals, _) = here.paths.older();
    if here.world.is_folder(&journals) {
        let files = here.world.list_folder(&journals)?;
        wrong.extend(files.iter().map(|file| format!("an older handler's journal is here: {}", journals.join(file).display())));
    }
    for entry in here.consul.list(keys::ORDERS)? {
        match orders::parse(&entry) {
            Ok(order) => {
                lines.extend(order_described(here, &order));
                wrong.extend(wrong_with(here, &order, &members));
            }
            Err(why) => wrong.push(why.to_string()),
        }
    }
    match own::aside(here) {
        Ok(aside) if aside.is_empty() => {}
        Ok(aside) => {
            lines.push(
                "set aside on this node; buttervolume restore SNAPSHOT NEW_VOLUME opens one, buttervolume rm SNAPSHOT removes it:".into(),
            );
            lines.extend(aside.iter().map(|(snapshot, what)| format!("    {snapshot}: {what}")));
        }
        Err(why) => wrong.push(format!("what is set aside on this node cannot be told: {why}")),
    }
    let text: Vec<String> = wrong.iter().map(|wrong| format!("wrong: {wrong}")).chain(lines).collect();
    Ok(Status { text: text.join("\n") + "\n", wrong: wrong.len() })
}

fn described(name: &AppName, record: &Record, members: &[Member]) -> Vec<String> {
    let dead = |name: &str| if members::alive(members, name) { "" } else { " (dead)" };
    let slave = record.slave.as_ref().map_or("no slave".into(), |slave| format!("slave {slave}{}", dead(slave)));
    let mut lines = vec![format!("{name}: master {}{}, {slave}, deployed {}", record.master, dead(&record.master), record.deploy_date)];
    if !record.urls.is_empty() {
        lines.push(format!("    {}", record.urls));
    }
    lines
}

/// The containers of an application of this node that should be up and are not.
fn not_running(here: &Here, name: &AppName) -> Vec<String> {
    let containers = match here.engine().containers(&name.project()) {
        Ok(containers) if containers.is_empty() => return vec![format!("{name}: its master is this node, and no container of it is here")],
        Ok(containers) => containers,
        Err(why) => return vec![format!("{name}: whether it runs cannot be told: {why}")],
    };
    // One that does not come back by itself has done its work if it says so.
    let down =
        containers.iter().filter(|container| container.status != "running" && (container.restart.name != "no" || container.exit_code != 0));
    down.map(|container| format!("{name}: the container {} is {}", container.name, container.status)).collect()
}

/// What is wrong with an application by this node's own files.
fn of_this_node(here: &Here, name: &AppName) -> Result<Vec<String>, Error> {
    let mut wrong = Vec::new();
    let folder = here.paths.app(name);
    for file in here.world.list_folder(&folder)? {
        let path = folder.join(&file);
        if path == here.paths.journal(name) {
            wrong.push(format!("{name}: a journal of this node is not at its end: {}", path.display()));
        } else if file.ends_with(GIVEN_UP) {
            wrong.push(format!(
                "{name}: an undo on this node was given up by hand; look at its journal, then remove it: {}",
                path.display()
            ));
        }
    }
    match local::of(here, name) {
        Ok(Some(Local { role: LocalRole::Fenced, volumes, .. })) => {
            let volumes: Vec<&str> = volumes.iter().map(|volume| &**volume).collect();
            wrong.push(format!("{name}: fenced on this node, which ran it; its volumes are kept: {}", volumes.join(", ")));
        }
        Ok(_) => {}
        Err(why) => wrong.push(format!("{name}: {why}")),
    }
    Ok(wrong)
}

fn order_described(here: &Here, order: &Order) -> Vec<String> {
    let age = Time::parse(&order.created).map_or("?".into(), |created| time::age(here.world.clock.now().since(created)));
    let mut lines = vec![format!("order {}: {} {}, {:?}, since {age}", order.id, order.request.event(), order.name, order.state)];
    for (node, progress) in &order.progress {
        lines.push(format!("    {node}: step {} of {}: {}, since {}", progress.step, progress.of, progress.name, progress.since));
    }
    lines
}

/// Why an open order does not come to its end, as far as that can be seen from here.
fn wrong_with(here: &Here, order: &Order, members: &[Member]) -> Option<String> {
    let what = format!("order {} of {}", order.id, order.name);
    if order.state == State::Failed {
        let reason = order.reason.as_deref().unwrap_or_default();
        return Some(format!("{what} has failed and is not undone on every node yet: {reason}"));
    }
    let waited = worker::seen_untaken(here, order).map(Option::unwrap_or_default);
    match waited.and_then(|waited| Ok((waited, worker::lost(here, order, members, waited)?))) {
        Err(why) => Some(format!("{what}: {why}")),
        Ok((_, Some(why))) => Some(format!("{what} will fail: {why}")),
        Ok((waited, None)) if waited > UNTAKEN => Some(format!("{what}: no node has taken it up for {}", time::age(waited))),
        Ok((_, None)) => None,
    }
}
