//! What a difference is made from is on the disk of whoever gets it.
//!
//! The plugin takes its latest mark for a node as the parent of the next difference, whatever became of it there; and a difference inherits
//! what its parent lacks. So before anything is sent, marks for that node go but those of the set that it has confirmed last: without one, all
//! is sent.

use log::info;

use crate::error::Error;
use crate::here::Here;
use crate::model::names::{Host, Volume};
use crate::model::replica::Set;

pub fn only(here: &Here, address: &Host, volumes: &[Volume], confirmed: Option<&Set>) -> Result<(), Error> {
    let plugin = here.plugin();
    for volume in volumes {
        let parent = confirmed.and_then(|set| set.snapshots.get(volume)).map(|taken| format!("{}@{address}", taken.snapshot));
        for mark in plugin.marks(volume, address)?.iter().filter(|mark| Some(*mark) != parent.as_ref()) {
            info!("{mark} is no parent of a difference: nobody has confirmed that it is on the disk there");
            plugin.remove(mark)?;
        }
    }
    Ok(())
}
