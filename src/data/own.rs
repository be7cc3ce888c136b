//! The snapshots that this node has made itself where something was removed, replaced or fenced: what a failed version has made of the data may
//! be among them. They are kept, and are no replicas: a takeover takes none of them. Those that nothing that runs stands on are set aside: they
//! are named until somebody removes them.

use std::collections::{BTreeMap, BTreeSet};

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

/// To be called before what the snapshot keeps is gone. `aside`: what it is, where it is set aside.
pub fn remember(here: &Here, snapshot: &str, aside: Option<&str>) -> Result<(), Error> {
    let [path, _] = here.paths.own_snapshots();
    let line = format!("{snapshot} {}", aside.unwrap_or_default());
    Ok(here.world.write_file(&path, format!("{}\n", line.trim_end()).as_bytes(), Write::Append, true)?)
}

/// What is set aside here, and what it is: those that are still there.
pub fn aside(here: &Here) -> Result<BTreeMap<Snapshot, String>, Error> {
    let [path, _] = here.paths.own_snapshots();
    let text = here.world.read_file(&path, MOST)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = |line: &str| line.split_once(' ').and_then(|(name, what)| Some((Snapshot::try_from(name).ok()?, what.to_string())));
    let mut aside: BTreeMap<Snapshot, String> = text.lines().filter_map(line).collect();
    let volumes: BTreeSet<Volume> = aside.keys().map(Snapshot::volume).collect();
    let mut there = BTreeSet::new();
    for volume in &volumes {
        there.extend(here.plugin().snapshots(volume)?);
    }
    aside.retain(|snapshot, _| there.contains(snapshot));
    Ok(aside)
}

/// Their names.
pub fn all(here: &Here) -> Result<BTreeSet<String>, Error> {
    let mut own = BTreeSet::new();
    for path in here.paths.own_snapshots() {
        let text = here.world.read_file(&path, MOST)?.unwrap_or_default();
        own.extend(String::from_utf8_lossy(&text).lines().filter_map(|line| line.split(' ').next()).map(String::from));
    }
    Ok(own)
}

/// The snapshots of the volume on this node that came from its master, or were taken while this node was that; oldest first.
pub fn replicas(here: &Here, volume: &Volume) -> Result<Vec<Snapshot>, Error> {
    let own = all(here)?;
    let mut snapshots = here.plugin().snapshots(volume)?;
    snapshots.retain(|snapshot| !own.contains(&**snapshot));
    Ok(snapshots)
}
