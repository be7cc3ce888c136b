//! What this node remembers of each application: the file `state.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::here::Here;
use crate::model::json;
use crate::model::names::{AppName, DeployId, Volume};
use crate::model::order::Unknown;
use crate::model::roles::Role;

const MOST: u64 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalRole {
    Master,
    Slave,
    /// Was master when another took over; stopped, its volumes kept.
    Fenced,
}

/// What this node runs or keeps of one application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Local {
    pub role: LocalRole,
    pub deploy_id: DeployId,
    /// Data volumes.
    pub volumes: Vec<Volume>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Local {
    pub fn new(role: LocalRole, deploy_id: DeployId, volumes: Vec<Volume>) -> Local {
        Local { role, deploy_id, volumes, unknown: Unknown::new() }
    }

    /// The role that its volumes and containers are in.
    pub fn role(local: Option<&Local>) -> Role {
        match local.map(|local| local.role) {
            Some(LocalRole::Master) => Role::Master,
            Some(LocalRole::Slave) => Role::Slave,
            Some(LocalRole::Fenced) | None => Role::None,
        }
    }
}

pub type Locals = BTreeMap<AppName, Local>;

pub fn all(here: &Here) -> Result<Locals, Error> {
    let path = here.paths.state();
    let Some(text) = here.world.read_file(&path, MOST)? else { return Ok(Locals::new()) };
    let what = "what this node remembers of its applications (repair it, or remove it to have it made anew from the records)";
    json::read(&text).map_err(|source| Error::Json { at: path.display().to_string(), what, source })
}

/// Changes what is remembered of one application; `None` forgets it. Under the lock.
pub fn set(here: &Here, name: &AppName, local: Option<Local>) -> Result<(), Error> {
    let mut locals = all(here)?;
    let before = match &local {
        Some(local) => locals.insert(name.clone(), local.clone()),
        None => locals.remove(name),
    };
    if before == local {
        return Ok(());
    }
    let path = here.paths.state();
    let text = json::write(&locals).map_err(|source| Error::Json { at: path.display().to_string(), what: "writable", source })?;
    Ok(here.world.replace_file(&path, &text, true)?)
}
