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
/// destroyed. Its containers are stopped before anything else is looked at.
pub fn fence(here: &Here, name: &AppName, local: Option<&Local>, record: Option<&Record>) -> Result<(), Error> {
    match record {
        Some(record) => warn!("{name}: this node ran it, but {} is its master now; fencing it here", record.master),
        None => warn!("{name}: this node ran it, but it has been destroyed; fencing it here"),
    }
    let ran = here.engine().projects()?.get(&*name.project()) == Some(&true);
    here.engine().stop_for_good(&name.project(), here.settings.timeouts.stop)?;
    // What this node does not remember, the record does.
    let known = local.into_iter().flat_map(|local| &local.volumes).chain(record.into_iter().flat_map(|record| &record.volumes));
    let volumes: Vec<Volume> = known.cloned().collect::<BTreeSet<Volume>>().into_iter().collect();
    let id: Option<&DeployId> = local.map(|local| &local.deploy_id).or(record.map(|record| &record.deploy_id));
    let plugin = here.plugin();
    schedules::set(&plugin, &Vec::new(), &[], &volumes)?;
    if let Some(id) = id {
        service::deregister(here, name, id)?;
    }
    // What a fence has kept that could not come to its end is not kept again, unless something has run since.
    let before = id.map(|id| Local::new(LocalRole::Master, id.clone(), volumes.clone()));
    let known = local::of(here, name).ok().flatten().filter(|known| !ran && id == Some(&known.deploy_id));
    let mut kept = known.map(|known| known.kept).unwrap_or_default();
    for volume in &volumes {
        if kept.contains(volume) || !plugin.exists(volume)? {
            continue;
        }
        let snapshot = own::take(here, volume, Some("as it was when this node was fenced"))?;
        warn!("{name}: fenced; {volume} as it was here is kept as {snapshot}");
        kept.insert(volume.clone());
        if let Some(before) = &before {
            local::set(here, name, Some(Local { kept: kept.clone(), ..before.clone() }))?;
        }
    }
    let Some(id) = id.cloned() else { return Ok(()) };
    local::set(here, name, Some(Local { volumes, role: LocalRole::Fenced, ..Local::new(LocalRole::Fenced, id, Vec::new()) }))
}
