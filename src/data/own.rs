//! The snapshots that this node has made itself where something was removed, replaced or fenced: what a failed version has made of the data may
//! be among them. They are kept, and are no replicas: a takeover takes none of them.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::here::Here;
use crate::model::names::{Snapshot, Volume};
use crate::outside::doors::Write;

const MOST: u64 = 64 << 20;

/// Bytes that are taken for what an order may have to remember, before it begins: its undo must not want for room.
const ROOM: u64 = 1 << 16;

/// To be called before an order begins.
pub fn make_room(here: &Here) -> Result<(), Error> {
    let [path, _] = here.paths.own_snapshots();
    let used = match here.world.look_at(&path)? {
        Some(found) => found.len,
        None => 0,
    };
    Ok(here.world.reserve_file(&path, used + ROOM)?)
}

/// To be called before what the snapshot keeps is gone.
pub fn remember(here: &Here, snapshot: &str) -> Result<(), Error> {
    let [path, _] = here.paths.own_snapshots();
    Ok(here.world.write_file(&path, format!("{snapshot}\n").as_bytes(), Write::Append, true)?)
}

/// The snapshots of the volume on this node that came from its master, or were taken while this node was that; oldest first.
pub fn replicas(here: &Here, volume: &Volume) -> Result<Vec<Snapshot>, Error> {
    let mut own = BTreeSet::new();
    for path in here.paths.own_snapshots() {
        let text = here.world.read_file(&path, MOST)?.unwrap_or_default();
        own.extend(String::from_utf8_lossy(&text).lines().map(String::from));
    }
    let mut snapshots = here.plugin().snapshots(volume)?;
    snapshots.retain(|snapshot| !own.contains(&**snapshot));
    Ok(snapshots)
}
