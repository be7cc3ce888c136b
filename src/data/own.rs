//! The snapshots that this node has made itself where something was removed, replaced or fenced: what a failed version has made of the data may
//! be among them. They are kept, and are no replicas: a takeover takes none of them.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::here::Here;
use crate::model::names::{Snapshot, Volume};
use crate::outside::doors::Write;

const MOST: u64 = 64 << 20;

/// To be called before what the snapshot keeps is gone.
pub fn remember(here: &Here, snapshot: &str) -> Result<(), Error> {
    Ok(here.world.write_file(&here.paths.own_snapshots(), format!("{snapshot}\n").as_bytes(), Write::Append, true)?)
}

/// The snapshots of the volume on this node that came from its master, or were taken while this node was that; oldest first.
pub fn replicas(here: &Here, volume: &Volume) -> Result<Vec<Snapshot>, Error> {
    let text = here.world.read_file(&here.paths.own_snapshots(), MOST)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let own: BTreeSet<&str> = text.lines().collect();
    let mut snapshots = here.plugin().snapshots(volume)?;
    snapshots.retain(|snapshot| !own.contains(&**snapshot));
    Ok(snapshots)
}
