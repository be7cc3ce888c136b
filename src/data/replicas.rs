//! What a node holds of an application's data, by Consul, and whether a snapshot here is what it should be.

use crate::error::{Error, in_consul};
use crate::here::Here;
use crate::model::keys;
use crate::model::names::{AppName, NodeName, Snapshot};
use crate::model::replica::{Replica, Seen};
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

/// `uuid`: of the snapshot where it was taken, if that is known. `None`: this node cannot look.
pub fn look(here: &Here, snapshot: &Snapshot, uuid: Option<&str>) -> Result<Option<Seen>, Error> {
    if !here.sees_snapshots() {
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
