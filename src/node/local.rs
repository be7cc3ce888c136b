//! What this node remembers of an application: the file `state.json` in its folder.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, text_of};
use crate::here::Here;
use crate::model::json;
use crate::model::names::{AppName, DeployId, Volume};
use crate::model::order::Unknown;
use crate::model::record::Record;
use crate::model::roles::Role;

const MOST: u64 = 1 << 20;

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
    /// Those of which a fence has still to keep what they hold.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unkept: BTreeSet<Volume>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What is to be said where a record names a node as the master that was fenced of it, or became its slave.
pub const FENCED_MASTER: &str = "its record names this node as its master, but another node went on with it since, or it was destroyed: Consul was put \
     back to an older state, perhaps. It runs nowhere by itself. Deploy it again here to go on from what this node holds; to go on from what \
     another one holds, destroy it, and deploy it there";

/// What is to be said where a record is of another deploy than what runs.
pub const ANOTHER: &str = "its record is of another deploy than what runs here: Consul was put back to an older state, perhaps";

impl Local {
    pub fn new(role: LocalRole, deploy_id: DeployId, volumes: Vec<Volume>) -> Local {
        Local { role, deploy_id, volumes, unkept: BTreeSet::new(), unknown: Unknown::new() }
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

pub fn of(here: &Here, name: &AppName) -> Result<Option<Local>, Error> {
    let path = here.paths.state(name);
    let Some(text) = here.world.read_file(&path, MOST)? else { return Ok(None) };
    let what = "what this node remembers of the application (repair it, or remove it to have it made anew from the record)";
    json::read(&text).map_err(|source| Error::Json { at: path.display().to_string(), what, source })
}

/// Whether another node went on with it, as far as this one remembers: only an order makes this one its master again.
pub fn was_passed_on(here: &Here, name: &AppName) -> Result<bool, Error> {
    Ok(of(here, name)?.is_some_and(|local| local.role != LocalRole::Master))
}

/// What this node runs as the application's master, where its record is of another deploy, of which nothing is here.
pub fn runs_another(here: &Here, name: &AppName, record: &Record) -> Result<Option<Local>, Error> {
    if record.master != *here.me()? || here.world.is_folder(&here.paths.checkout(name, &record.deploy_id)) {
        return Ok(None);
    }
    let is_there = |local: &Local| here.world.is_folder(&here.paths.checkout(name, &local.deploy_id));
    Ok(of(here, name)?.filter(|local| local.role == LocalRole::Master && local.deploy_id != record.deploy_id && is_there(local)))
}

/// Changes what is remembered of an application; `None` forgets it. Under its lock.
pub fn set(here: &Here, name: &AppName, local: Option<Local>) -> Result<(), Error> {
    let path = here.paths.state(name);
    let Some(local) = local else {
        here.world.remove_file(&path)?;
        return Ok(here.world.sync_folder(&here.paths.app(name))?);
    };
    if of(here, name).is_ok_and(|before| before.as_ref() == Some(&local)) {
        // It may be there from a try that failed, and not be on the disk yet.
        return Ok(here.world.sync_folder(&here.paths.app(name))?);
    }
    let text = text_of(path.display(), &local)?;
    Ok(here.world.replace_file(&path, &text, true)?)
}

/// That its volumes are here, where that can be read. To be called before they are removed: a fence has nothing of them to keep. Under its lock.
pub fn forget_volumes(here: &Here, name: &AppName) -> Result<(), Error> {
    let Some(local) = of(here, name).ok().flatten() else { return Ok(()) };
    set(here, name, Some(Local { volumes: Vec::new(), unkept: BTreeSet::new(), ..local }))
}
