//! What must not run here is stopped, and what it holds is kept. Nothing is deleted.

use log::warn;

use super::local::{self, Local, LocalRole};
use crate::data::schedules;
use crate::error::Error;
use crate::here::Here;
use crate::model::names::{AppName, NodeName};
use crate::service;

/// This node ran the application, but `master` is its master now, or without one it has been destroyed.
pub fn fence(here: &Here, name: &AppName, local: Option<&Local>, master: Option<&NodeName>) -> Result<(), Error> {
    match master {
        Some(master) => warn!("{name}: this node ran it, but {master} is its master now; fencing it here"),
        None => warn!("{name}: this node ran it, but it has been destroyed; fencing it here"),
    }
    here.engine().stop_for_good(&name.project(), here.settings.timeouts.stop)?;
    let Some(local) = local else { return Ok(()) };
    let plugin = here.plugin();
    schedules::set(&plugin, &Vec::new(), &[], &local.volumes)?;
    here.consul.deregister(&service::id_of(here, name, &local.deploy_id))?;
    for volume in &local.volumes {
        if plugin.exists(volume)? {
            let snapshot = plugin.snapshot(volume)?;
            warn!("{name}: fenced; {volume} as it was here is kept as {snapshot}");
        }
    }
    local::set(here, name, Some(Local { role: LocalRole::Fenced, ..local.clone() }))
}
