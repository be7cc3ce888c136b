//! What a node holds of an application's data, by Consul, and whether a snapshot here is what it should be.

use crate::error::Error;
use crate::here::Here;
use crate::model::names::{AppName, NodeName, Snapshot};
use crate::model::replica::{Replica, Seen};
use crate::model::{json, keys};
use crate::outside::consul::Entry;

pub fn parse(entry: &Entry) -> Result<Replica, Error> {
    let what = "what a node holds of an application";
    json::read(&entry.value).map_err(|source| Error::Json { at: format!("{} in Consul", entry.key), what, source })
}

/// With its index; 0: nothing is written there.
pub fn read(here: &Here, name: &AppName, holder: &NodeName) -> Result<(Replica, u64), Error> {
    match here.consul.get(&keys::replica(name, holder))? {
        Some(entry) => Ok((parse(&entry)?, entry.modify_index)),
        None => Ok((Replica::default(), 0)),
    }
}

/// Whether this node sees the plugin's snapshots as btrfs has them.
pub fn can_look(here: &Here) -> bool {
    here.world.is_on_btrfs(&here.settings.snapshots)
}

/// `uuid`: of the snapshot where it was taken, if that is known. `None`: this node cannot look.
pub fn look(here: &Here, snapshot: &Snapshot, uuid: Option<&str>) -> Result<Option<Seen>, Error> {
    if !can_look(here) {
        return Ok(None);
    }
    let Some(found) = here.world.subvolume(&here.settings.snapshots.join(&**snapshot))? else { return Ok(Some(Seen::Missing)) };
    // Received here, or taken here.
    let is_it = |uuid: &str| found.received.as_deref() == Some(uuid) || found.uuid == uuid;
    Ok(Some(match uuid {
        _ if !found.read_only => Seen::Torn,
        Some(uuid) if !is_it(uuid) => Seen::Another,
        _ => Seen::Whole,
    }))
}
