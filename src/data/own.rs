//! The snapshots that this node has made itself where something was removed, replaced or fenced: what a failed version has made of the data may
//! be among them. They are kept, and are no replicas: a takeover takes none of them. Those that nothing that runs stands on are set aside: they
//! are named until somebody removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::Error;
use crate::here::Here;
use crate::model::names::{Snapshot, Volume};
use crate::outside::doors::Write;
use crate::outside::plugin;

const MOST: u64 = 64 << 20;

/// What is set aside of a volume whose application went on elsewhere.
pub const FENCED: &str = "as it was when this node was fenced";

/// Bytes that are taken for what an order may have to remember, before it begins: its undo must not want for room.
const ROOM: u64 = 1 << 20;

/// To be called before an order begins.
pub fn make_room(here: &Here) -> Result<(), Error> {
    let [path, _] = here.paths.own_snapshots();
    let used = match here.world.look_at(&path)? {
        Some(found) => found.len,
        None => 0,
    };
    here.world.reserve_file(&path, used + ROOM)?;
    // What somebody was killed over is settled before this node can become a master, whose snapshots are replicas.
    open(&lines(here, &path)?).iter().try_for_each(|(volume, intended)| intended.settle(here, volume))
}

/// To be called before what the snapshot keeps is gone. `aside`: what it is, where it is set aside.
pub fn remember(here: &Here, snapshot: &str, aside: Option<&str>) -> Result<(), Error> {
    let [path, _] = here.paths.own_snapshots();
    let line = format!("{snapshot} {}", aside.unwrap_or_default());
    Ok(here.world.write_file(&path, format!("{}\n", line.trim_end()).as_bytes(), Write::Append, true)?)
}

/// To be called before a snapshot is taken whose name is not known yet: who is killed before it is remembered has left what there was, so that
/// it is found as one that came later. Names do not tell that: a clock may have been put back.
pub fn intend(here: &Here, volume: &Volume, aside: Option<&str>) -> Result<(), Error> {
    ended(here, volume)?;
    let there = here.plugin().snapshots(volume)?;
    let times: Vec<&str> = there.iter().map(Snapshot::taken).collect();
    remember(here, &format!("{BESIDE}{volume}@{}", times.join(",")), aside)
}

/// To be called with what the plugin has said to what was intended. Where that is an error, what it has made all the same is there by now: what
/// comes later is somebody else's. An answer that was lost says nothing.
pub fn answered<T>(here: &Here, volume: &Volume, said: Result<T, plugin::Error>) -> Result<T, Error> {
    if said.as_ref().is_err_and(plugin::Error::is_answer) {
        ended(here, volume)?;
    }
    Ok(said?)
}

/// All that comes of what was intended is there.
pub fn ended(here: &Here, volume: &Volume) -> Result<(), Error> {
    let [path, _] = here.paths.own_snapshots();
    let open = open(&lines(here, &path)?);
    open.iter().filter(|(of, _)| of == volume).try_for_each(|(_, intended)| intended.settle(here, volume))
}

/// Takes one that is no replica.
pub fn take(here: &Here, volume: &Volume, aside: Option<&str>) -> Result<Snapshot, Error> {
    let there = here.plugin().snapshots(volume)?;
    intend(here, volume, aside)?;
    let snapshot = answered(here, volume, here.plugin().snapshot(volume))?;
    // A newer plugin has named what was there, since nobody has written to the volume: it stays what it was.
    match aside.is_none() && there.contains(&snapshot) {
        true => ended(here, volume)?,
        false => remember(here, &snapshot, aside)?,
    }
    Ok(snapshot)
}

/// Begins the line of what is intended: the volume, and when the snapshots of it that are there were taken.
const BESIDE: &str = "beside:";
/// The same of an older handler: the newest snapshot.
const AFTER: &str = "after:";
/// All that has come of what was intended is remembered.
const SETTLED: &str = "settled:";

/// Begins the line of what was set aside, and is a set like others now.
const RELEASED: &str = "released:";

struct Intended {
    line: String,
    what: String,
}

impl Intended {
    /// What was not remembered is looked for, and remembered.
    fn settle(&self, here: &Here, volume: &Volume) -> Result<(), Error> {
        for snapshot in self.found(here, volume)? {
            remember(here, &snapshot, Some(&self.what))?;
        }
        remember(here, &format!("{SETTLED}{volume}@"), None)
    }

    /// The snapshots that it may have become.
    fn found(&self, here: &Here, volume: &Volume) -> Result<Vec<Snapshot>, Error> {
        let there: BTreeSet<&str> = self.line.rsplit('@').next().unwrap_or_default().split(',').collect();
        made(here, volume, |snapshot| match self.line.strip_prefix(AFTER) {
            Some(after) => **snapshot > *after,
            None => !there.contains(snapshot.taken()),
        })
    }
}

/// The snapshots of the volume that were made here, of those that are new.
pub fn made(here: &Here, volume: &Volume, is_new: impl Fn(&Snapshot) -> bool) -> Result<Vec<Snapshot>, Error> {
    let mut made = Vec::new();
    for snapshot in here.plugin().snapshots(volume)?.into_iter().filter(is_new) {
        if is_made(here, &snapshot)? {
            made.push(snapshot);
        }
    }
    Ok(made)
}

/// Whether the snapshot was made here, and not received. What cannot be looked at may be.
fn is_made(here: &Here, snapshot: &Snapshot) -> Result<bool, Error> {
    Ok(!here.sees_snapshots()? || here.world.subvolume(&here.snapshot(snapshot))?.is_some_and(|it| it.received.is_none()))
}

fn lines(here: &Here, path: &Path) -> Result<Vec<(String, String)>, Error> {
    let text = here.world.read_file(path, MOST)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let line = |line: &str| line.split_once(' ').map_or((line.into(), String::new()), |(name, what)| (name.into(), what.into()));
    Ok(text.lines().map(line).collect())
}

/// What was intended and is not remembered.
fn open(lines: &[(String, String)]) -> Vec<(Volume, Intended)> {
    let mut open: Vec<(Volume, Intended)> = Vec::new();
    for (name, what) in lines {
        let intended = name.strip_prefix(BESIDE).or(name.strip_prefix(AFTER));
        let of = intended.or(name.strip_prefix(SETTLED)).unwrap_or(name);
        let Ok(volume) = Volume::try_from(of.split_once('@').map_or("", |(volume, _)| volume)) else { continue };
        open.retain(|(intended, _)| *intended != volume);
        if intended.is_some() {
            open.push((volume, Intended { line: name.clone(), what: what.clone() }));
        }
    }
    open
}

/// What was remembered as this, released or not.
pub fn known_as(here: &Here, what: &str) -> Result<Vec<Snapshot>, Error> {
    let [path, _] = here.paths.own_snapshots();
    let lines = lines(here, &path)?.into_iter().filter(|(_, it)| it == what);
    Ok(lines.filter_map(|(name, _)| Snapshot::try_from(&*name).ok()).collect())
}

/// They are set aside no more. To be called once they are kept as something else.
pub fn release(here: &Here, snapshots: &[Snapshot]) -> Result<(), Error> {
    snapshots.iter().try_for_each(|snapshot| remember(here, &format!("{RELEASED}{snapshot}"), None))
}

fn released(lines: &[(String, String)]) -> BTreeSet<String> {
    lines.iter().filter_map(|(name, _)| Some(name.strip_prefix(RELEASED)?.into())).collect()
}

/// What is set aside here, and what it is: those that are still there.
pub fn aside(here: &Here) -> Result<BTreeMap<Snapshot, String>, Error> {
    let [path, _] = here.paths.own_snapshots();
    let lines = lines(here, &path)?;
    let (intended, released) = (open(&lines), released(&lines));
    let known = lines.into_iter().filter(|(name, what)| !what.is_empty() && !released.contains(name));
    let mut aside: BTreeMap<Snapshot, String> = known.filter_map(|(name, what)| Some((Snapshot::try_from(&*name).ok()?, what))).collect();
    let volumes: BTreeSet<Volume> = aside.keys().map(Snapshot::volume).collect();
    let mut there = BTreeSet::new();
    for volume in &volumes {
        there.extend(here.plugin().snapshots(volume)?);
    }
    aside.retain(|snapshot, _| there.contains(snapshot));
    for (volume, intended) in intended {
        aside.extend(intended.found(here, &volume)?.into_iter().map(|snapshot| (snapshot, intended.what.clone())));
    }
    Ok(aside)
}

/// Their names.
pub fn all(here: &Here) -> Result<BTreeSet<String>, Error> {
    let mut own = BTreeSet::new();
    for path in here.paths.own_snapshots() {
        let lines = lines(here, &path)?;
        for (volume, intended) in open(&lines) {
            own.extend(intended.found(here, &volume)?.iter().map(Snapshot::to_string));
        }
        let released = released(&lines);
        own.extend(lines.into_iter().map(|(name, _)| name).filter(|name| !released.contains(name)));
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
