//! What a node holds of an application's data, by Consul, and whether a snapshot here is what it should be.

use crate::error::{Error, Fault, in_consul};
use crate::here::Here;
use crate::model::keys;
use crate::model::names::{AppName, NodeName, Snapshot, Volume};
use crate::model::record::Record;
use crate::model::replica::{Replica, Seen};
use crate::model::time::{self, Time};
use crate::outside::consul::Entry;

pub fn parse(entry: &Entry) -> Result<Replica, Error> {
    in_consul(entry, "what a node holds of an application")
}

/// With its index; 0: nothing is written there.
pub fn read(here: &Here, name: &AppName, holder: &NodeName) -> Result<(Replica, u64), Error> {
    match here.consul.get(&keys::replica(name, holder))? {
        Some(entry) => Ok((parse(&entry)?, entry.modify_index)),
        None => Ok((Replica::default(), 0)),
    }
}

/// What the nodes but this one hold. What cannot be read confirms nothing.
pub fn of_others(here: &Here, name: &AppName) -> Result<Vec<(NodeName, Replica)>, Error> {
    let (prefix, me) = (keys::replicas(name), here.me()?);
    let entries = here.consul.list(&prefix)?;
    let others = entries.iter().filter_map(|entry| Some((NodeName::try_from(entry.key.strip_prefix(&prefix)?).ok()?, parse(entry).ok()?)));
    Ok(others.filter(|(holder, _)| holder != me).collect())
}

/// A data volume that the record names and that is not here: who has the newest confirmed set of what is deployed?
pub fn no_volume(here: &Here, name: &AppName, record: &Record, volume: &Volume) -> Result<Error, Error> {
    let others = of_others(here, name)?.into_iter();
    let sets = others.filter_map(|(holder, replica)| Some((Time::parse(&replica.last.filter(|last| last.is_of(record))?.taken)?, holder)));
    let newest = sets.max().map(|(taken, holder)| (holder, time::age(here.world.clock.now().since(taken))));
    Ok(Fault::NoVolume { volume: volume.clone(), elsewhere: newest }.into())
}

/// `uuid`: of the snapshot where it was taken, if that is known. `None`: this node cannot look.
pub fn look(here: &Here, snapshot: &Snapshot, uuid: Option<&str>) -> Result<Option<Seen>, Error> {
    if !here.sees_snapshots()? {
        return Ok(None);
    }
    let Some(found) = here.world.subvolume(&here.snapshot(snapshot))? else { return Ok(Some(Seen::Missing)) };
    // Received here, or taken here.
    let is_it = |uuid: &str| found.received.as_deref() == Some(uuid) || found.uuid == uuid;
    Ok(Some(match uuid {
        _ if !found.read_only => Seen::Torn,
        Some(uuid) if !is_it(uuid) => Seen::Another,
        _ => Seen::Whole,
    }))
}
