//! The orders that have ended, the last one first.

use serde_json::Value;

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::json;
use crate::model::keys;
use crate::model::order::{Order, Request, State};
use crate::model::time::{self, Time};

/// Of an application, by any part of its name, or one by its ID; as text, or as JSON with all that is known.
pub fn history(here: &Here, of: Option<&str>, as_json: bool) -> Result<String, Error> {
    let mut entries = here.consul.list(keys::HISTORIES)?;
    let is_asked = |key: &str| of.is_none_or(|of| key[keys::HISTORIES.len()..].contains(of));
    entries.retain(|entry| is_asked(&entry.key));
    // By Consul's index: clocks differ.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.create_index));
    match (of, &entries[..]) {
        (Some(of), []) => return Err(Fault::NothingEnded { of: of.into() }.into()),
        (None, []) if !as_json => return Ok("no order has ended\n".into()),
        _ if as_json => {
            let all = entries.iter().map(|entry| json::read(&entry.value).unwrap_or(Value::Null)).collect();
            return Ok(format!("{}\n", Value::Array(all)));
        }
        _ => {}
    }
    let text = entries.iter().map(|entry| match json::read::<Order>(&entry.value) {
        Ok(order) => described(&order),
        Err(why) => format!("{}: {why}\n", entry.key),
    });
    Ok(text.collect())
}

fn described(order: &Order) -> String {
    let Order { name, request, created, finished, stopped, .. } = order;
    let what = match request {
        Request::Deploy(deploy) => format!("deploy {name} on {}", deploy.master),
        Request::Destroy(_) => format!("destroy {name}"),
        Request::Migrate(_) => format!("migrate {} to {name}", request.source_app().map_or(String::new(), |app| app.name().to_string())),
    };
    // In seconds, by the clocks of the nodes.
    let between = |from: &str| Some(Time::parse(finished.as_deref()?)?.since(Time::parse(from)?));
    let took = between(created).map_or(String::new(), |took| format!(" after {}", time::age(took)));
    let away = stopped.as_deref().filter(|_| order.state == State::Done && !matches!(request, Request::Destroy(_))).and_then(between);
    let away = away.map_or(String::new(), |away| format!(", away for {}", time::age(away)));
    let how = if order.state == State::Done { "done" } else { "failed" };
    let mut lines = vec![format!("{created}  {what}: {how}{took}{away}"), format!("    order {}", order.id)];
    lines.extend(order.commit.iter().map(|commit| format!("    commit {commit}")));
    let indented = |text: &str| text.lines().collect::<Vec<_>>().join("\n        ");
    lines.extend(order.reason.iter().map(|reason| format!("    because {}", indented(reason))));
    lines.extend(order.notes.iter().map(|note| format!("    note: {}", indented(note))));
    let waits = order.pending.iter().filter(|node| !order.undone.contains(node) && !order.given_up.contains(node));
    lines.extend(waits.map(|node| format!("    not undone yet on {node}, which was dead")));
    lines.join("\n") + "\n"
}
