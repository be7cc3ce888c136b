//! What is to be said of this node: [`find`] finds it, and whoever prints it or does something about it asks that.
//!
//! What is wrong stays wrong until somebody has done something, this program or a person: what is set aside, too, is data that somebody has to
//! look at. A note is for whoever wants to know, and turns no light red.

use serde::Serialize;

use crate::data::{own, schedules, sets, told};
use crate::error::Error;
use crate::here::{GIVEN_UP, Here, LEFT};
use crate::model::keys;
use crate::model::members::{self, Member};
use crate::model::names::AppName;
use crate::model::order::{Order, State};
use crate::model::text::redacted;
use crate::model::time;
use crate::node::local::{self, LocalRole};
use crate::node::probe;
use crate::node::reconcile::{self, Idle, Seen};
use crate::outside::plugin;
use crate::routes;
use crate::worker;

/// An order that no node has taken up for so long is named: the watches start handlers within a second.
const UNTAKEN: std::time::Duration = std::time::Duration::from_secs(60);
/// A disk is almost full with less than this, and less than a twentieth of it.
const LITTLE: u64 = 1 << 30;
const PART: u64 = 20;
/// Of what a container said last.
const LAST_LINES: usize = 3;
const LAST_CHARS: usize = 300;
/// Of so many that are down it is asked: a node on which nothing runs has one cause.
const ASKED: usize = 3;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub app: Option<AppName>,
    /// One line.
    pub text: String,
}

/// Those that matter most come first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    pub wrong: Vec<Finding>,
    pub notes: Vec<Finding>,
}

pub fn of_node(text: impl ToString) -> Finding {
    Finding { app: None, text: line(&text.to_string()) }
}

fn of(name: &AppName, text: &str) -> Finding {
    Finding { app: Some(name.clone()), text: line(&format!("{name}: {text}")) }
}

/// Whatever others have said, as one line without what a terminal would obey, and without secrets.
fn line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    redacted(&lines.join(" | ").replace(char::is_control, " "))
}

/// `seen` and `sets`: what a look has given, or why it has not.
pub fn find(here: &Here, seen: Result<&Seen, &Error>, sets: Result<&sets::Seen, &Error>) -> Findings {
    let mut found = Findings::default();
    match seen {
        Ok(seen) => {
            if let Err(why) = &seen.containers {
                found.wrong.push(of_node(why));
            }
        }
        Err(why) => {
            found.wrong.push(of_node(why));
            found.wrong.extend(here.engine().listed().err().map(of_node));
        }
    }
    // Its own files are there without Consul, too.
    let mut own = Findings::default();
    let needs_plugin = match here.apps() {
        Ok(names) => names.iter().filter(|name| of_folder(here, name, sets.ok(), &mut own)).count() > 0,
        Err(why) => {
            own.wrong.push(of_node(why));
            true
        }
    };
    of_plugin(here, needs_plugin, &mut found);
    if let Ok(seen) = seen {
        of_applications(here, seen, &mut found);
        found.wrong.extend(seen.unreadable.0.iter().map(of_node));
        of_orders(here, seen, &mut found);
        // Without Consul nothing is known of either, for one reason.
        match sets {
            Ok(sets) => {
                of_replicas(here, sets, &mut found);
                of_routes(here, sets, &mut found);
            }
            Err(why) => found.wrong.push(of_node(why)),
        }
    }
    match here.sees_snapshots() {
        Ok(false) if needs_plugin => found.notes.push(of_node(format!(
            "{} is not seen here as a folder of btrfs, so that no replica is confirmed on this node: mount the volume plugin's folder there, \
             read-only, or have HANDLER_SNAPSHOTS say where it is",
            here.settings.snapshots.display()
        ))),
        Err(why) => found.wrong.push(of_node(why)),
        Ok(_) => {}
    }
    found.wrong.extend(own.wrong);
    found.wrong.extend(of_aside(here));
    found.wrong.extend(left_by_an_older_one(here));
    found.wrong.extend(of_disk(here));
    found.notes.extend(own.notes);
    if let (Some(probed), _) = probe::last(here) {
        found.wrong.extend(probed.wrong.iter().map(of_node));
        found.notes.extend(probed.notes.iter().map(of_node));
    }
    found
}

/// Of those that this node serves, or nobody does: their masters tell of the others.
fn of_replicas(here: &Here, seen: &sets::Seen, found: &mut Findings) {
    found.wrong.extend(seen.unreadable.iter().map(of_node));
    for known in seen.apps.iter().filter(|known| !is_anothers(here, seen, known)) {
        found.wrong.extend(of_replica(here, seen, known));
    }
}

/// By which records the proxies' files of this node were written last, and a line for each thing that is wrong with them.
pub fn routed(here: &Here) -> Option<String> {
    let text = here.world.read_file(&here.paths.routed(), 1 << 20).ok()??;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// What the proxies are not given, and what an older handler has let through.
fn of_routes(here: &Here, seen: &sets::Seen, found: &mut Findings) {
    let wrong = routed(here).unwrap_or_default();
    found.wrong.extend(wrong.lines().skip(1).map(|line| of_node(format!("{line}: `handler routes` says why"))));
    for known in seen.apps.iter().filter(|known| here.me().is_ok_and(|me| *me == known.record.master)) {
        if let Some(why) = routes::outdated(&known.record, &here.settings.routes) {
            found.notes.push(of(&known.name, &format!("served as its record stands, but a new version of it may be refused: {why}")));
        }
    }
}

/// Whether another node, which lives, serves it.
pub fn is_anothers(here: &Here, seen: &sets::Seen, known: &sets::Known) -> bool {
    let master = &known.record.master;
    here.me().is_ok_and(|me| me != master) && members::alive(&seen.members, master)
}

pub fn of_replica(here: &Here, seen: &sets::Seen, known: &sets::Known) -> Vec<Finding> {
    let told = told::of(seen, known, here.world.clock.now());
    let Some(told) = told else { return Vec::new() };
    let mut wrong: Vec<Finding> = told.wrong.iter().map(|wrong| of(&known.name, wrong)).collect();
    // Where nobody can look the plugin replicates: what was deployed since then.
    if told.blind && wrong.is_empty() && here.me().is_ok_and(|me| *me == known.record.master) {
        match schedules::has_any(here, &known.record.volumes) {
            Ok(true) => {}
            Ok(false) => wrong.push(of(
                &known.name,
                &format!("{}; nor does the volume plugin replicate what was deployed before: mount it, or deploy it again", told.line),
            )),
            Err(why) => wrong.push(of(&known.name, &format!("whether the volume plugin replicates it cannot be told: {why}"))),
        }
    }
    wrong
}

fn of_plugin(here: &Here, needed: bool, found: &mut Findings) {
    match here.plugin().schedules() {
        Ok(_) => {}
        Err(why @ plugin::Error::Unanswered { .. }) if !needed => {
            found.notes.push(of_node(format!("{why}; applications with data volumes need it")));
        }
        Err(why @ plugin::Error::Refused { .. }) => found.notes.push(of_node(why)),
        Err(why) => found.wrong.push(of_node(why)),
    }
}

fn of_applications(here: &Here, seen: &Seen, found: &mut Findings) {
    let mut asked = 0;
    for (name, idle) in &seen.idle {
        let down = match &idle.down {
            Ok(down) => down,
            Err(why) => {
                found.wrong.push(of(name, &format!("whether it runs cannot be told: {why}")));
                continue;
            }
        };
        let what = down.iter().map(|down| &*down.what).collect::<Vec<&str>>().join(", ");
        if idle.maintenance {
            found.notes.push(of(name, &format!("{what}; maintenance/{name} keeps it so")));
            continue;
        }
        let container = down.iter().find_map(|down| down.container.as_deref()).filter(|_| asked < ASKED);
        let said = container.map(|id| last_words(&hidden(here, name, idle, &here.engine().logs(id)))).filter(|said| !said.is_empty());
        asked += usize::from(container.is_some());
        let said = said.map(|said| format!("; it said last: {said}")).unwrap_or_default();
        found.wrong.push(of(name, &format!("{what}{}{said}", kept_from(idle))));
    }
}

/// What a container has said may have passwords in it.
fn hidden(here: &Here, name: &AppName, idle: &Idle, said: &str) -> String {
    match here.variables(&here.paths.checkout(name, &idle.deploy_id)) {
        Ok(variables) => variables.hidden(said),
        Err(why) => why.to_string(),
    }
}

/// Why it is not started again.
fn kept_from(idle: &Idle) -> String {
    match &idle.starts.why {
        _ if idle.starts.are_spent() => {
            "; it was started three times within ten minutes and is not again: see why, then start it (docker start) or deploy it".into()
        }
        Some(why) => format!("; not started: {why}"),
        None => String::new(),
    }
}

fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ");
    let skipped = text.chars().count().saturating_sub(LAST_CHARS);
    text.chars().skip(skipped).collect()
}

/// What this node's own files say of an application; whether it has data here. `sets`: the applications that have a record, if that is known.
fn of_folder(here: &Here, name: &AppName, sets: Option<&sets::Seen>, found: &mut Findings) -> bool {
    let folder = here.paths.app(name);
    let files = here.world.list_folder(&folder).unwrap_or_else(|why| {
        found.wrong.push(of(name, &why.to_string()));
        Vec::new()
    });
    for file in &files {
        let path = folder.join(file);
        if path == here.paths.journal(name) {
            let at_work = here.world.try_lock_file(&here.paths.worker_locks(name).0).is_ok_and(|lock| lock.is_none());
            let text = format!("a journal of this node is not at its end: {}", path.display());
            match at_work {
                true => found.notes.push(of(name, &format!("{text}; a worker is at it"))),
                false => found.wrong.push(of(name, &text)),
            }
        } else if file.ends_with(GIVEN_UP) {
            let text = format!("an undo on this node was given up by hand; look at its journal, then remove it: {}", path.display());
            found.wrong.push(of(name, &text));
        } else if file.ends_with(LEFT) {
            found.wrong.extend(sets::read_left(here, &path).err().map(|why| of(name, &why.to_string())));
        }
    }
    found.wrong.extend(sets::unreadable(here, name).map(|why| of(name, &why.to_string())));
    match local::of(here, name) {
        Ok(Some(local)) => {
            if local.role == LocalRole::Fenced {
                let volumes: Vec<&str> = local.volumes.iter().filter(|it| !local.unkept.contains(*it)).map(|it| &**it).collect();
                let plugin = here.plugin();
                let is_left = local.volumes.iter().any(|volume| plugin.exists(volume).unwrap_or(true));
                match is_left || local.volumes.is_empty() || !local.unkept.is_empty() {
                    true => {
                        let text = format!("fenced on this node, which ran it; its volumes are kept: {}", volumes.join(", "));
                        found.wrong.push(of(name, &text));
                    }
                    false => found.notes.push(of(name, "fenced on this node, which ran it; none of its volumes is there any more")),
                }
            }
            let is_master = |known: &sets::Known| known.name == *name && here.me().is_ok_and(|me| *me == known.record.master);
            let at_work = files.iter().any(|file| folder.join(file) == here.paths.journal(name));
            if local.role != LocalRole::Master && !at_work && sets.is_some_and(|sets| sets.apps.iter().any(is_master)) {
                found.wrong.push(of(name, local::FENCED_MASTER));
            }
            let record = sets.and_then(|sets| sets.apps.iter().find(|known| known.name == *name)).filter(|_| !at_work);
            if record.is_some_and(|known| local::runs_another(here, name, &known.record).is_ok_and(|other| other.is_some())) {
                let text = format!("{}; nothing of it is started by itself: deploy it again with this node as its master", local::ANOTHER);
                found.wrong.push(of(name, &text));
            }
            for volume in &local.unkept {
                let text = format!(
                    "what {volume} held when this node was fenced is not kept yet: it is once the plugin finds it; if it was removed by hand, strike \
                     it from \"unkept\" in {}",
                    here.paths.state(name).display()
                );
                found.wrong.push(of(name, &text));
            }
            if local.role != LocalRole::Fenced && sets.is_some_and(|sets| sets.apps.iter().all(|known| known.name != *name)) {
                let entry = here.consul.get(&keys::app(name)).map_err(Error::from);
                match entry.and_then(|entry| if entry.is_some() { Ok(None) } else { reconcile::gone(here, name) }) {
                    Ok(advice) => found.wrong.extend(advice.map(|advice| of(name, &advice))),
                    Err(why) => found.wrong.push(of(name, &why.to_string())),
                }
            }
            !local.volumes.is_empty()
        }
        Ok(None) => false,
        Err(why) => {
            found.wrong.push(of(name, &why.to_string()));
            false
        }
    }
}

/// Why an open order does not come to its end, as far as that can be seen from here.
fn of_order(here: &Here, order: &Order, members: &[Member]) -> Option<Finding> {
    let what = format!("order {} of {}", order.id, order.name);
    let waited = worker::seen_untaken(here, order).map(Option::unwrap_or_default);
    let text = match waited.and_then(|waited| Ok((waited, worker::lost(here, order, members, waited)?))) {
        _ if order.state == State::Failed => {
            let reason = order.reason.as_deref().unwrap_or_default();
            let undo = order.notes.iter().filter(|note| note.starts_with("undoing")).map(|note| format!("{note}; ")).collect::<String>();
            format!("{what} has failed and is not undone on every node yet: {undo}it failed with: {reason}")
        }
        Err(why) => format!("{what}: {why}"),
        Ok((_, Some(why))) => format!("{what} will fail: {why}"),
        Ok((waited, None)) if waited > UNTAKEN => format!("{what}: no node has taken it up for {}", time::age(waited)),
        Ok((_, None)) => return None,
    };
    Some(Finding { app: Some(order.name.clone()), text: line(&text) })
}

fn of_orders(here: &Here, seen: &Seen, found: &mut Findings) {
    found.wrong.extend(seen.unreadable.1.iter().map(of_node));
    if seen.orders.is_empty() {
        return;
    }
    match here.consul.members() {
        Ok(members) => found.wrong.extend(seen.orders.iter().filter_map(|open| of_order(here, &open.order, &members))),
        Err(why) => found.wrong.push(of_node(why)),
    }
}

fn of_aside(here: &Here) -> Option<Finding> {
    match own::aside(here).map(|aside| aside.len()) {
        Ok(0) => None,
        Ok(number) => Some(of_node(format!(
            "snapshots set aside on this node: {number}; handler status lists them, with the commands that open and remove them"
        ))),
        Err(why) => Some(of_node(format!("what is set aside on this node cannot be told: {why}"))),
    }
}

fn left_by_an_older_one(here: &Here) -> Vec<Finding> {
    let (journals, _) = here.paths.older();
    match here.world.list_folder_if_any(&journals) {
        Ok(files) => {
            files.iter().map(|file| of_node(format!("an older handler's journal is here: {}", journals.join(file).display()))).collect()
        }
        Err(why) => vec![of_node(why)],
    }
}

fn of_disk(here: &Here) -> Option<Finding> {
    let folder = &here.paths.deploy_dir;
    match here.world.space(folder) {
        Ok(space) if space.free < LITTLE && space.free < space.all / PART => {
            let mib = |bytes: u64| bytes >> 20;
            Some(of_node(format!(
                "the disk of {} is almost full: {} of {} MiB are free",
                folder.display(),
                mib(space.free),
                mib(space.all)
            )))
        }
        Ok(_) => None,
        Err(why) => Some(of_node(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_one_line_that_no_terminal_obeys() {
        assert_eq!(line("a\n\n  b\x1b[31m\tc\r\n"), "a | b [31m c");
        assert_eq!(line("https://u:p@h/x"), "https://***@h/x");
        let long = last_words(&format!("one\ntwo\n\n{}\nthree\n", "x".repeat(400)));
        assert!(long.ends_with("xx | three") && long.chars().count() == LAST_CHARS, "{long}");
        assert_eq!(last_words("one\ntwo\nthree\nfour\n"), "two | three | four");
        assert_eq!(last_words(" \n"), "");
    }
}
