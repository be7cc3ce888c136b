//! Events and requests become orders in Consul, each once, whichever node hears of it first.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use log::{error, info};

use crate::error::{Error, Fault, text_of};
use crate::here::Here;
use crate::logger;
use crate::model::event::{self, Asked, Event};
use crate::model::json;
use crate::model::time::{Time, age};
use crate::orders;
use crate::outside::disk;
use crate::outside::doors::Write;

/// How many IDs are remembered, of events and of orders that are done.
const SEEN: usize = 1000;
/// An ID and its line's end.
pub const LINE: u64 = 37;
/// Of one event as a file.
const MOST: u64 = 1 << 20;
/// Of one that waits: what the history may have forgotten is not ordered again.
const OLDEST: Duration = Duration::from_secs(24 * 3600);

/// What came of a list of events.
#[derive(Debug, Default, PartialEq)]
pub struct Taken {
    pub events: usize,
    pub new: usize,
    pub failed: usize,
}

/// Takes in the events that this node has not seen, and those that an earlier run could not take in.
pub fn take(here: &Here, events: Vec<Result<Event, event::Error>>) -> Result<Taken, Error> {
    let mut taken = Taken { events: events.len(), ..Taken::default() };
    let mut seen = seen(here)?;
    let mut new = left(here)?;
    new.retain(|event| !seen.contains(&*event.id));
    for event in events {
        match event {
            Ok(mut event) if seen.insert(event.id.to_string()) && new.iter().all(|waits| waits.id != event.id) => {
                event.since = Some(here.world.clock.now().rfc3339());
                // Consul gives an event once; from here on it is not lost with this run.
                keep(here, &event, false)?;
                new.push(event);
            }
            Ok(_) => {} // known
            Err(why) => {
                error!("{why}");
                taken.failed += 1;
            }
        }
    }
    taken.new = new.len();
    for event in new {
        let _order = logger::order(&event.id);
        let asked = event.asked().map_err(|source| Error::Request { event: event.name.clone(), source });
        let waited = event.since.as_deref().and_then(Time::parse).map_or(Duration::ZERO, |since| here.world.clock.now().since(since));
        let told = asked.and_then(|asked| match asked {
            Asked::Order(id) => {
                info!("told of the order {id}");
                Ok(())
            }
            Asked::Request(_) if waited > OLDEST => Err(Fault::OldEvent { waited: age(waited) }.into()),
            Asked::Request(request) => orders::create(here, event.id.clone(), request).map(drop),
        });
        match told {
            Ok(()) => {}
            Err(why) if why.is_out_of_reach() => {
                keep(here, &event, true)?;
                error!("the event {} waits in the inbox for the next run", event.id);
                return Err(why);
            }
            Err(why) => {
                error!("{why}");
                taken.failed += 1;
            }
        }
        let line = format!("{}\n", event.id);
        here.world.write_file(&here.paths.seen(), line.as_bytes(), Write::Append, false)?;
        here.world.remove_file(&here.paths.inbox().join(&*event.id))?;
    }
    Ok(taken)
}

/// The IDs of the events that have been taken in.
fn seen(here: &Here) -> Result<HashSet<String>, disk::Error> {
    let text = here.world.read_file(&here.paths.seen(), LINE * SEEN as u64 * 100)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().map(String::from).collect())
}

/// Forgets the oldest IDs once there are twice as many as are to be kept. Under the lock.
pub fn trim(here: &Here, path: &Path) -> Result<(), disk::Error> {
    if here.world.look_at(path)?.map_or(0, |found| found.len) < 2 * SEEN as u64 * LINE {
        return Ok(());
    }
    let text = here.world.read_file(path, u64::MAX - 1)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() < 2 * SEEN {
        return Ok(());
    }
    here.world.replace_file(path, format!("{}\n", lines[lines.len() - SEEN..].join("\n")).as_bytes(), true)
}

/// Keeps an event until it has become an order, whatever happens to this run, or, if `synced`, to this node.
fn keep(here: &Here, event: &Event, synced: bool) -> Result<(), Error> {
    let path = here.paths.inbox().join(&*event.id);
    let text = text_of(path.display(), event)?;
    Ok(here.world.replace_file(&path, &text, synced)?)
}

/// Events that an earlier run could not take in.
fn left(here: &Here) -> Result<Vec<Event>, disk::Error> {
    let folder = here.paths.inbox();
    let mut events = Vec::new();
    for name in here.world.list_folder(&folder)? {
        if name.contains('.') {
            continue; // written only half
        }
        let path = folder.join(name);
        let text = here.world.read_file(&path, MOST)?.unwrap_or_default();
        if text.is_empty() {
            here.world.remove_file(&path)?; // the power failed before any of it was on the disk
            continue;
        }
        match json::read::<Event>(&text) {
            Ok(mut event) => {
                // An older handler does not write it down.
                let kept = here.world.look_at(&path)?.map(|found| found.modified.rfc3339());
                event.since = event.since.or(kept);
                events.push(event);
            }
            Err(error) => error!("{}: {error}; remove it by hand", path.display()),
        }
    }
    Ok(events)
}
