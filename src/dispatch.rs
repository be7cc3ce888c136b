//! For which applications this node has something to do: a worker is started for each, so that none waits for another.

use std::collections::BTreeSet;

use log::{debug, error, info, warn};

use crate::about;
use crate::error::Error;
use crate::here::Here;
use crate::inbox;
use crate::model::names::AppName;
use crate::model::order::UNDERSTANDS;
use crate::node::reconcile::{self, Seen};
use crate::older;
use crate::outside::doors::Apart;

/// How the workers have ended, as far as they were waited for.
#[derive(Debug, Default, PartialEq)]
pub struct Sent {
    pub workers: usize,
    /// Those that could not bring everything to its end, and what no worker could be started for.
    pub failed: usize,
}

/// Starts what is to be done here; `told` that there is something new. `flags`: how the workers are to log. Waits for them, but not where a
/// watch of Consul's has started this: that would hear of nothing else meanwhile.
pub fn dispatch(here: &Here, told: bool, flags: &[String]) -> Result<Sent, Error> {
    let left = older::take_over(here)?;
    if let Some(_lock) = here.world.try_lock_file(&here.paths.lock())? {
        inbox::trim(here, &here.paths.seen())?;
    }
    // Of the whole store: that of a prefix can go back to an earlier one, when a deleted key is forgotten.
    let index = if told { 0 } else { here.consul.index("")? };
    if journals(here)?.is_empty() && left == 0 && is_quiet(here, index) {
        debug!("nothing has changed since there was nothing to do");
        return Ok(Sent::default());
    }
    about::tell(here)?;
    let seen = reconcile::look(here)?;
    let (records, orders) = &seen.unreadable;
    records.iter().for_each(|why| error!("{why}"));
    orders.iter().for_each(|why| error!("{why}; it is left alone"));
    if let Err(why) = &seen.containers {
        error!("what runs here cannot be told: {why}");
    }
    let due = due(here, &seen)?;
    let wrong = records.len() + left;
    // 1 is what an empty store answers, whatever comes next; 0 was not asked for.
    if due.is_empty() && wrong == 0 && seen.containers.is_ok() && index > 1 {
        here.world.replace_file(&here.paths.quiet(), quiet(here, index)?.as_bytes(), false)?;
    }
    let mut sent = Sent { workers: due.len(), failed: wrong };
    let mut started: Vec<(AppName, Box<dyn Apart>)> = Vec::new();
    for name in due {
        match here.world.processes.start_apart(&work(flags, &name), !here.settings.by_watch) {
            Ok(worker) => started.push((name, worker)),
            Err(why) => {
                error!("{name}: {why}");
                sent.failed += 1;
            }
        }
    }
    if here.settings.by_watch {
        if !started.is_empty() {
            let names: Vec<&str> = started.iter().map(|(name, _)| &**name).collect();
            info!("at work for {}", names.join(", "));
        }
        return Ok(sent);
    }
    for (name, mut worker) in started {
        match worker.wait() {
            Some(0) => {}
            Some(_) => sent.failed += 1,
            None => {
                warn!("the worker of {name} was killed");
                sent.failed += 1;
            }
        }
    }
    debug!("{sent:?}");
    Ok(sent)
}

/// The applications that have something for a worker of this node to do.
pub fn due(here: &Here, seen: &Seen) -> Result<BTreeSet<AppName>, Error> {
    let mut due = journals(here)?;
    due.extend(seen.orders.iter().flat_map(|open| open.order.apps()));
    due.extend(reconcile::due(here, seen)?);
    Ok(due)
}

/// The arguments of a worker.
pub fn work(flags: &[String], name: &AppName) -> Vec<String> {
    [flags, &["work".into(), name.to_string()]].concat()
}

/// The applications that this node is in the middle of something with.
fn journals(here: &Here) -> Result<BTreeSet<AppName>, Error> {
    let mut names = BTreeSet::new();
    for name in here.apps()? {
        if here.world.look_at(&here.paths.journal(&name))?.is_some() {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Consul's index at which there was nothing to do here: as long as it stands, there is nothing. Not for a handler that understands more: it has
/// to say so; nor after a boot, or where the snapshots are seen now.
fn quiet(here: &Here, index: u64) -> Result<String, Error> {
    Ok(format!("{index} {UNDERSTANDS} {} {}", here.world.boot()?, here.sees_snapshots()?))
}

fn is_quiet(here: &Here, index: u64) -> bool {
    let stands = here.world.read_file(&here.paths.quiet(), 128).ok().flatten();
    stands.is_some_and(|stands| quiet(here, index).is_ok_and(|now| stands == now.as_bytes()))
}
