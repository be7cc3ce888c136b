//! A restore over a volume is a removal, too: what it replaces is kept by the plugin, which names it. One that names nothing for a volume
//! that was there has lost it, or has looked wrongly: nothing goes on from there.

use log::info;

use super::own;
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::names::{Snapshot, Volume};

/// `aside`: what the volume holds now.
pub fn restore(here: &Here, snapshot: &Snapshot, volume: &Volume, aside: &str) -> Result<(), Error> {
    let plugin = here.plugin();
    let was_there = plugin.exists(volume)?;
    if was_there {
        own::intend(here, volume, Some(aside))?;
    }
    match own::answered(here, volume, plugin.restore(snapshot, volume))? {
        Some(backup) => {
            own::remember(here, &backup, Some(aside))?;
            info!("what {volume} held is kept as {backup}");
        }
        None if was_there => {
            own::ended(here, volume)?;
            return Err(Fault::NoBackup { volume: volume.clone(), snapshot: snapshot.clone() }.into());
        }
        None => {}
    }
    Ok(())
}
