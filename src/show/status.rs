//! What is deployed where, as text for people or as JSON for programs; and what of it is wrong. On one screen: a line for each application, and
//! one more for what a person has to know of it; or all that is known of one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::data::{own, remains, sets, told, volumes};
use crate::error::Error;
use crate::findings::{self, Finding, Findings};
use crate::here::Here;
use crate::model::json as text;
use crate::model::keys;
use crate::model::members::{self, Member};
use crate::model::names::{AppName, Snapshot};
use crate::model::order::Order;
use crate::model::record::Record;
use crate::model::replica::Replica;
use crate::model::time::{self, Time};
use crate::node::reconcile;

/// Both say the same.
pub struct Status {
    pub text: String,
    pub json: Value,
    /// How many things are wrong: named in the text's first lines.
    pub wrong: usize,
}

/// `of`: of one application only, and nothing of the node. `details`: all that is known of each.
pub fn status(here: &Here, of: Option<&AppName>, details: bool) -> Result<Status, Error> {
    let seen = reconcile::look(here);
    let sets = sets::look(here);
    let mut found = findings::find(here, seen.as_ref(), sets.as_ref());
    let (mut lines, mut applications, mut orders) = (Vec::new(), Vec::new(), Vec::new());
    let mut records = BTreeMap::new();
    let mut table = vec![HEAD.map(String::from)];
    let mut below: Vec<Vec<String>> = vec![Vec::new()];
    if let Ok(seen) = &seen {
        let members = here.consul.members()?;
        let (healths, maintenances) = (here.consul.services_health()?, here.consul.list(keys::MAINTENANCES)?);
        let now = here.world.clock.now();
        for entry in here.consul.list(keys::APPS)? {
            // What cannot be read is among what was found.
            let name = AppName::try_from(entry.key.trim_start_matches(keys::APPS));
            let Ok((name, record)) = name.map(|name| (name, text::read::<Record>(&entry.value))) else { continue };
            let Ok(record) = record else { continue };
            if of.is_some_and(|of| *of != name) {
                continue;
            }
            let volumes = volumes::deployed(here, &name, &record)?;
            let known = sets.as_ref().ok().and_then(|sets| Some((sets, sets.apps.iter().find(|known| known.name == name)?)));
            let told = known.and_then(|(sets, known)| told::of(sets, known, now));
            let health = match healths.get(&*name) {
                _ if !members::alive(&members, &record.master) => "dead".into(),
                _ if maintenances.iter().any(|entry| entry.key == keys::maintenance(&name)) => "maintenance".into(),
                Some(health) => health.to_string(),
                None => "no check".into(),
            };
            if details {
                lines.extend(described(&name, &record, &members));
                lines.push(format!("    health: {health}; commit {}", record.commit.as_deref().unwrap_or("unknown")));
                lines.extend(volumes.iter().map(|line| format!("    {line}")));
                lines.extend(told.iter().map(|told| format!("    {}", told.line)));
            } else {
                let brief = told.as_ref().map_or("no data".into(), |told| told.brief.clone());
                table.push(row(&name, &record, &members, &health, brief, now));
                below.push(volumes.iter().filter(|line| line.contains(volumes::NOT)).map(|line| format!("    {line}")).collect());
            }
            if let Some((sets, known)) = known.filter(|(sets, known)| findings::is_anothers(here, sets, known)) {
                found.wrong.extend(findings::of_replica(here, sets, known));
            }
            let replica = known.and_then(|(_, known)| known.replicas.get(known.holder()));
            applications.push(as_json(&name, &record, &members, &volumes, replica, &health));
            if !members::alive(&members, &record.master) {
                let text = format!("{name}: its master, {}, is dead", record.master);
                found.wrong.push(Finding { app: Some(name.clone()), text });
            }
            records.insert(name, record);
        }
        if applications.is_empty() {
            lines.push("no application is deployed".into());
        } else if !details {
            lines.extend(aligned(&table).into_iter().zip(below).flat_map(|(row, below)| std::iter::once(row).chain(below)));
        }
        for open in seen.orders.iter().filter(|open| of.is_none_or(|of| open.order.apps().contains(of))) {
            lines.extend(order_described(here, &open.order));
            orders.push(serde_json::to_value(&open.order).unwrap_or_default());
        }
    }
    // Why it cannot be told is among what was found.
    let aside = if of.is_none() { own::aside(here).unwrap_or_default() } else { Default::default() };
    if !aside.is_empty() {
        lines.push(
            "set aside on this node; buttervolume restore SNAPSHOT NEW_VOLUME opens one, buttervolume rm SNAPSHOT removes it:".into(),
        );
        lines.extend(aside.iter().map(|(snapshot, what)| format!("    {snapshot}: {what}")));
    }
    let remains = seen.as_ref().ok().filter(|_| of.is_none()).map_or(Ok(BTreeMap::new()), |seen| remains::of(here, &records, &seen.orders));
    let remains = remains.unwrap_or_else(|why| {
        lines.push(format!("what is left here of applications that are no longer here cannot be told: {why}"));
        BTreeMap::new()
    });
    for (name, volumes) in &remains {
        let what = if records.contains_key(name) { "is on other nodes now" } else { "was destroyed" };
        lines.push(format!(
            "{name} {what}; of it this node keeps, until somebody removes them (buttervolume snapshots VOLUME lists them, buttervolume \
             restore SNAPSHOT NEW_VOLUME opens one, buttervolume rm SNAPSHOT removes it):"
        ));
        let newest = |snapshots: &[Snapshot]| snapshots.last().map_or(String::new(), |newest| format!(", the newest {newest}"));
        lines.extend(volumes.iter().map(|(volume, all)| format!("    {volume}: {} snapshots{}", all.len(), newest(all))));
    }
    if of.is_some() {
        found.wrong.retain(|it| it.app.as_ref() == of);
        found.notes.retain(|it| it.app.as_ref() == of);
    }
    let Findings { wrong, notes } = &found;
    let text = wrong.iter().map(|it| format!("wrong: {}", it.text)).chain(notes.iter().map(|it| format!("note: {}", it.text)));
    let text: Vec<String> = text.chain(lines).collect();
    let (left, destroyed): (BTreeMap<_, _>, BTreeMap<_, _>) = remains.into_iter().partition(|(name, _)| records.contains_key(name));
    let json = json!({
        "wrong": wrong, "notes": notes, "applications": applications, "orders": orders, "aside": aside, "destroyed": destroyed, "left": left,
    });
    Ok(Status { text: text.join("\n") + "\n", json, wrong: wrong.len() })
}

const HEAD: [&str; 6] = ["APPLICATION", "MASTER", "SLAVE", "HEALTH", "REPLICA", "DEPLOYED"];

fn row(name: &AppName, record: &Record, members: &[Member], health: &str, replica: String, now: Time) -> [String; 6] {
    let node = |name: &str| if members::alive(members, name) { name.into() } else { format!("{name} (dead)") };
    let age = Time::parse(&record.deployed()).map_or("?".into(), |at| time::age(now.since(at)));
    let commit = record.commit.as_deref().map_or(String::new(), |commit| format!(", {}", commit.get(..7).unwrap_or(commit)));
    let slave = record.slave.as_ref().map_or("none".into(), |slave| node(slave));
    [name.to_string(), node(&record.master), slave, health.into(), replica, age + &commit]
}

/// Two spaces between columns as wide as they have to be.
fn aligned(rows: &[[String; 6]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + 2;
    let widths: [usize; 6] = std::array::from_fn(width);
    let line =
        |row: &[String; 6]| row.iter().zip(widths).map(|(text, width)| format!("{text:width$}")).collect::<String>().trim_end().to_string();
    rows.iter().map(line).collect()
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

fn as_json(name: &AppName, record: &Record, members: &[Member], volumes: &[String], replica: Option<&Replica>, health: &str) -> Value {
    let node = |name: &str| json!({ "name": name, "alive": members::alive(members, name) });
    json!({
        "name": name,
        "master": node(&record.master),
        "slave": record.slave.as_ref().map(|slave| node(slave)),
        "repo_url": record.repo_url,
        "branch": record.branch,
        "commit": record.commit,
        "deploy_id": record.deploy_id,
        "deploy_date": record.deploy_date,
        "urls": record.urls,
        "volumes": volumes,
        "replica": replica,
        "health": health,
    })
}

fn order_described(here: &Here, order: &Order) -> Vec<String> {
    let since = Time::parse(&order.created).map(|created| here.world.clock.now().since(created));
    let age = since.map_or("?".into(), time::age);
    let mut lines = vec![format!("order {}: {} {}, {:?}, since {age}", order.id, order.request.event(), order.name, order.state)];
    lines.extend(order.progress.iter().map(|(node, progress)| {
        format!("    {node}: step {} of {}: {}, since {}", progress.step, progress.of, progress.name, progress.since)
    }));
    lines
}
