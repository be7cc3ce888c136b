//! What is deployed where, as text for people.

use std::fmt::Write;

use crate::here::Node;
use crate::model::record::Record;
use crate::model::time::{self as clock, Time};
use crate::node::store::LocalRole;
use crate::outside::consul;
use crate::steps::run::parse_order;

pub fn status(node: &Node) -> Result<String, String> {
    let members = node.consul.members().map_err(|error| error.to_string())?;
    let dead = |name: &str| if consul::alive(&members, name) { "" } else { " (dead)" };
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").map_err(|error| error.to_string());
    let records = node.consul.list("app/").map_err(|error| error.to_string())?;
    if records.is_empty() {
        line("no application is deployed".into())?;
    }
    for entry in records {
        let name = entry.key.trim_start_matches("app/");
        match Record::parse(&entry.key, &entry.value) {
            Ok(record) => {
                let slave = record.slave.map_or("no slave".into(), |slave| format!("slave {slave}{}", dead(&slave)));
                line(format!("{name}: master {}{}, {slave}, deployed {}", record.master, dead(&record.master), record.deploy_date))?;
                if !record.urls.is_empty() {
                    line(format!("    {}", record.urls))?;
                }
            }
            Err(why) => line(why)?,
        }
    }
    for (name, local) in node.store.locals()?.into_iter().filter(|(_, local)| local.role == LocalRole::Fenced) {
        line(format!("{name}: fenced on this node, which ran it; its volumes are kept: {}", local.volumes.join(", ")))?;
    }
    for entry in node.consul.list("order/").map_err(|error| error.to_string())? {
        match parse_order(&entry) {
            Ok(order) => {
                let age = Time::parse(&order.created).map_or("?".into(), |created| clock::age(Time::now().since(created)));
                line(format!("order {}: {} {}, {:?}, since {age}", order.id, order.request.event(), order.name, order.state))?;
                for (node, progress) in &order.progress {
                    line(format!("    {node}: step {} of {}: {}, since {}", progress.step, progress.of, progress.name, progress.since))?;
                }
            }
            Err(why) => line(why)?,
        }
    }
    Ok(text)
}
