//! What an older handler has left on this node becomes what this one has: one file of state for all applications, and a folder of journals,
//! a file for each order.

use std::collections::BTreeMap;

use log::{error, info};

use crate::error::Error;
use crate::here::{GIVEN_UP, Here};
use crate::model::json;
use crate::model::names::{AppName, OrderId};
use crate::node::local::{self, Local};
use crate::steps::journal;

const MOST: u64 = 64 << 20;

/// The number of files that cannot be taken over; each is told of, and holds up nothing but itself.
pub fn take_over(here: &Here) -> Result<usize, Error> {
    let (journals, state) = here.paths.older();
    let world = &here.world;
    let files = world.list_folder_if_any(&journals)?;
    let remembered = world.is_file(&state);
    if files.is_empty() && !remembered {
        return Ok(0);
    }
    // An older handler that is still at work has it.
    let _lock = world.lock_file(&here.paths.lock())?;
    let mut left = 0;
    for file in files {
        let from = journals.join(&file);
        let (id, end) = file.split_once('.').unwrap_or((&file, ""));
        let names = journal::apps_of(world, &from);
        let to = match (OrderId::try_from(id), names.first(), end) {
            (Ok(_), Some(name), "") => here.paths.journal(name),
            (Ok(_), Some(name), GIVEN_UP) => here.paths.app(name).join(&file),
            // Was not finished before anything began.
            (Ok(_), _, end) if end != GIVEN_UP && !end.is_empty() => {
                world.remove_file(&from)?;
                continue;
            }
            _ => {
                error!(
                    "the journal {}, of an application that it does not name, cannot be read: start the handler that wrote it, or move the file away",
                    from.display()
                );
                left += 1;
                continue;
            }
        };
        if let Some(name) = names.first() {
            here.paths.prepare_app(world, name)?;
        }
        let same = || world.read_file(&from, MOST).ok().flatten() == world.read_file(&to, MOST).ok().flatten();
        match world.link_file(&from, &to) {
            Err(why) if !same() => {
                error!("{}: {why}; look at both, and move one of them away", from.display());
                left += 1;
            }
            _ => {
                info!("{} is {} from now on", from.display(), to.display());
                world.remove_file(&from)?;
            }
        }
    }
    if world.is_folder(&journals) {
        world.sync_folder(&journals)?;
    }
    if remembered {
        let text = world.read_file(&state, MOST)?.unwrap_or_default();
        let what = "what this node remembers of its applications (repair it, or remove it to have it made anew from the records)";
        let all: Result<BTreeMap<AppName, Local>, _> = json::read(&text);
        let all = all.map_err(|source| Error::Json { at: state.display().to_string(), what, source });
        match all.and_then(|all| all.iter().try_for_each(|(name, local)| take_over_state(here, name, local))) {
            Ok(()) => world.remove_file(&state)?,
            Err(why) => {
                error!("{why}");
                left += 1;
            }
        }
    }
    Ok(left)
}

fn take_over_state(here: &Here, name: &AppName, local: &Local) -> Result<(), Error> {
    here.paths.prepare_app(&here.world, name)?;
    // What this handler has written since is newer.
    if here.world.is_file(&here.paths.state(name)) { Ok(()) } else { local::set(here, name, Some(local.clone())) }
}
