//! What must not run here is stopped, and what it holds is kept. Nothing is deleted.

use std::collections::BTreeSet;

use log::warn;

use super::local::{self, Local, LocalRole};
use crate::data::{own, schedules};
use crate::error::Error;
use crate::here::Here;
use crate::model::names::{AppName, DeployId, Volume};
use crate::model::record::Record;
use crate::service;

/// The application runs here, or did when this node was last seen; by its `record` another node is its master, or without one it has been
/// destroyed; or the record is from before it went on elsewhere. Its containers are stopped before anything else is looked at.
pub fn fence(here: &Here, name: &AppName, local: Option<&Local>, record: Option<&Record>) -> Result<(), Error> {
    match record {
        Some(record) => warn!("{name}: this node ran it; by its record {} is its master: what is here is fenced", record.master),
        None => warn!("{name}: this node ran it, but it has been destroyed: what is here is fenced"),
    }
    here.engine().stop_for_good(&name.project(), here.settings.timeouts.stop)?;
    // What this node does not remember, the record does.
    let known = local.into_iter().flat_map(|local| &local.volumes).chain(record.into_iter().flat_map(|record| &record.volumes));
    let volumes: Vec<Volume> = known.cloned().collect::<BTreeSet<Volume>>().into_iter().collect();
    let id: Option<&DeployId> = local.map(|local| &local.deploy_id).or(record.map(|record| &record.deploy_id));
    let Some(id) = id else { return Ok(()) };
    let plugin = here.plugin();
    schedules::set(&plugin, &Vec::new(), &[], &volumes)?;
    service::deregister(here, name, id)?;
    let (remembered, mut unkept) = (local::of(here, name).ok().flatten(), BTreeSet::new());
    for volume in &volumes {
        // What the record names besides may never have been here, nor what a run had begun to make; a slave has none.
        let had = |local: &Local| local.role != LocalRole::Slave && local.volumes.contains(volume);
        if remembered.as_ref().is_some_and(had) || plugin.exists(volume)? {
            unkept.insert(volume.clone());
        }
    }
    let fenced = Local { unkept, ..Local::new(LocalRole::Fenced, id.clone(), volumes) };
    local::set(here, name, Some(fenced.clone()))?;
    keep(here, name, fenced)
}

/// What is still to be kept of a fenced one. What the plugin does not find it may find later: its disk is mounted late, perhaps.
pub fn keep(here: &Here, name: &AppName, mut local: Local) -> Result<(), Error> {
    for volume in local.unkept.clone() {
        if !here.plugin().exists(&volume)? {
            warn!("{name}: fenced; {volume} is not found here: what it holds is kept once it is");
            continue;
        }
        let snapshot = own::take(here, &volume, Some(own::FENCED))?;
        warn!("{name}: fenced; {volume} as it was here is kept as {snapshot}");
        local.unkept.remove(&volume);
        local::set(here, name, Some(local.clone()))?;
    }
    Ok(())
}
