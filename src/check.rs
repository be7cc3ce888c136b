//! The health check: says what is wrong on this node, and begins what is due.
//!
//! Consul's agent runs it every few seconds, waits for it, and ends its process group when it takes too long. So it waits for no lock and for
//! nobody who does not answer at once, and what takes longer is started apart.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::data::sets;
use crate::dispatch;
use crate::error::{Error, text_of};
use crate::findings::{self, Findings};
use crate::here::Here;
use crate::model::json;
use crate::model::names::AppName;
use crate::model::time::age;
use crate::node::probe;
use crate::node::reconcile::{self, Seen};
use crate::node::start::{self, Starts};

/// A worker that could not do what it was started for is started again after this, then after twice as long, at most after [`LONGEST`].
const FIRST: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(600);

/// Consul keeps 4 KiB of what a check prints.
const MOST: usize = 3800;
const LINE: usize = 600;

pub struct Report {
    pub text: String,
    pub wrong: usize,
}

/// `flags`: how those that it starts are to log.
pub fn check(here: &Here, flags: &[String]) -> Report {
    let here = here.hurried();
    let seen = reconcile::look(&here);
    let sets = sets::look(&here);
    let mut found = findings::find(&here, seen.as_ref(), sets.as_ref());
    if let (Ok(seen), Ok(sets)) = (&seen, &sets) {
        let (next, failed) = begin(&here, seen, sets, flags);
        say_when(&mut found, &next);
        // What keeps several from being begun, a full disk for one, is one cause.
        found.wrong.extend(failed.first().map(findings::of_node));
    }
    Report { text: text(&found, seen.as_ref().ok()), wrong: found.wrong.len() }
}

/// Starts what is due; for each application with something to do, in how long that is tried again; and what failed. What fails for one keeps no
/// other from being begun.
fn begin(here: &Here, seen: &Seen, sets: &sets::Seen, flags: &[String]) -> (BTreeMap<AppName, Duration>, Vec<Error>) {
    let (mut next, mut failed) = (BTreeMap::new(), Vec::new());
    let due = told(dispatch::due(here, seen), &mut failed);
    let sets = told(sets::due(here, sets, &seen.orders), &mut failed);
    let apps = told(here.apps(), &mut failed);
    for name in due.iter().flatten() {
        let after = told(try_again(here, &here.paths.tried(name), &dispatch::work(flags, name)), &mut failed);
        next.extend(after.map(|after| (name.clone(), after)));
    }
    for name in sets.iter().flatten() {
        let args = [flags, &["replicate".into(), name.to_string()]].concat();
        failed.extend(try_again(here, &here.paths.tried_sets(name), &args).err());
    }
    for name in apps.iter().flatten() {
        if due.as_ref().is_some_and(|due| !due.contains(name)) {
            failed.extend(forget(here, seen, name).err());
        }
        if sets.as_ref().is_some_and(|sets| !sets.contains(name)) {
            failed.extend(remove(here, &here.paths.tried_sets(name)).err());
        }
    }
    // Events, and what an older handler has left, become orders and journals first.
    let left = |folder: &Path| here.world.is_folder(folder) && here.world.list_folder(folder).is_ok_and(|files| !files.is_empty());
    let probe_is_due = probe::last(here).1;
    let others = [
        ("reconcile", here.paths.tried_all(), left(&here.paths.inbox()) || left(&here.paths.older().0)),
        ("probe", here.paths.tried_probe(), probe_is_due),
        // Certificates that were renewed are handed over, about as often. And Consul's watches pause for minutes after its leader has died.
        ("routes", here.paths.tried_routes(), probe_is_due && here.settings.routes.storage.is_some() || are_old(here, seen)),
    ];
    for (verb, tried, is_due) in others {
        let done = if is_due { try_again(here, &tried, &[flags, &[verb.into()]].concat()).map(drop) } else { remove(here, &tried) };
        failed.extend(done.err());
    }
    (next, failed)
}

/// Whether the proxies' files are by other records than these, where this node has proxies.
fn are_old(here: &Here, seen: &Seen) -> bool {
    findings::routed(here).is_some_and(|routed| routed.lines().next().unwrap_or_default() != seen.stand.to_string())
}

fn told<T>(done: Result<T, Error>, failed: &mut Vec<Error>) -> Option<T> {
    done.map_err(|why| failed.push(why)).ok()
}

/// Where nothing is to be removed nothing is written.
fn remove(here: &Here, path: &Path) -> Result<(), Error> {
    if here.world.is_file(path) { Ok(here.world.remove_file(path)?) } else { Ok(()) }
}

/// What was done about an application that has nothing to do any more.
fn forget(here: &Here, seen: &Seen, name: &AppName) -> Result<(), Error> {
    remove(here, &here.paths.tried(name))?;
    let starts = here.paths.starts(name);
    if seen.containers.is_ok() && !seen.idle.contains_key(name) && here.world.is_file(&starts) {
        let over = match seen.records.get(name) {
            Some(roles) => Starts::of(here, name, &roles.deploy_id).are_over(here.world.clock.uptime()),
            None => true,
        };
        if over {
            here.world.remove_file(&starts)?;
        }
    }
    Ok(())
}

/// How often something was tried since it is due.
#[derive(Default, Serialize, Deserialize)]
struct Tried {
    boot: String,
    times: u32,
    /// The last time, in seconds since the boot.
    at: u64,
}

impl Tried {
    fn pause(&self) -> Duration {
        (FIRST * 2u32.saturating_pow(self.times.saturating_sub(1).min(10))).min(LONGEST)
    }
}

/// Starts it apart, unless that was done a short while ago; in how long it is next.
fn try_again(here: &Here, path: &Path, args: &[String]) -> Result<Duration, Error> {
    let (boot, now) = (start::boot(here), here.world.clock.uptime());
    let text = here.world.read_file(path, 4096)?;
    let tried = text.and_then(|text| json::read::<Tried>(&text).ok()).filter(|tried| tried.boot == boot && tried.at <= now.as_secs());
    let tried = tried.unwrap_or_default();
    let since = now.saturating_sub(Duration::from_secs(tried.at));
    if tried.times > 0 && since < tried.pause() {
        return Ok(tried.pause() - since);
    }
    let tried = Tried { boot, times: tried.times.saturating_add(1), at: now.as_secs() };
    let text = text_of(path.display(), &tried)?;
    // On a full disk it is started all the same, at each check: an undo has its room, and what cannot do anything ends soon.
    let kept = path.parent().map_or(Ok(()), |folder| here.world.create_folder(folder));
    let kept = kept.and_then(|()| here.world.replace_file(path, &text, false));
    here.world.processes.start_apart(args, false)?;
    kept?;
    Ok(tried.pause())
}

fn say_when(found: &mut Findings, next: &BTreeMap<AppName, Duration>) {
    let mut next = next.clone();
    for finding in &mut found.wrong {
        if let Some(after) = finding.app.as_ref().and_then(|app| next.remove(app)) {
            finding.text += &format!("; a worker looks again in {}", age(after));
        }
    }
}

fn text(found: &Findings, seen: Option<&Seen>) -> String {
    let wrong = found.wrong.iter().map(|it| format!("wrong: {}", it.text));
    let mut lines: Vec<String> = wrong.chain(found.notes.iter().map(|it| format!("note: {}", it.text))).collect();
    if found.wrong.is_empty() {
        let known = seen.map_or(0, |seen| seen.records.len());
        lines.insert(0, format!("nothing is wrong (applications of the cluster: {known})"));
    }
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let line: String = line.chars().take(LINE).collect();
        if text.len() + line.len() > MOST {
            return text + &format!("and {} more: handler status\n", lines.len() - at);
        }
        text += &line;
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Finding;

    #[test]
    fn the_pause_grows_to_ten_minutes() {
        let pauses = [1, 2, 3, 6, 7, 40].map(|times| Tried { times, ..Tried::default() }.pause().as_secs());
        assert_eq!(pauses, [15, 30, 60, 480, 600, 600]);
    }

    #[test]
    fn what_consul_would_cut_off_is_counted() {
        let finding = |text: &str| Finding { app: None, text: text.into() };
        let found = Findings { wrong: vec![finding(&"x".repeat(1000)); 10], notes: vec![finding("y")] };
        let text = text(&found, None);
        assert!(text.len() < 4000 && text.ends_with("and 5 more: handler status\n"), "{text}");
        assert_eq!(super::text(&Findings::default(), None), "nothing is wrong (applications of the cluster: 0)\n");
    }
}
