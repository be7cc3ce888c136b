//! What an application may not have, since another one has it: its project, volumes, containers and routes.
//!
//! Before anything stops it is looked at on this node and in all records. Two orders that look at the same time do not see each other; so it is
//! looked at again for the commit, whose transaction changes the key of [`claims`](keys::CLAIMS): of two at once one comes second, looks once
//! more, and fails.

use log::{info, warn};

use super::Done;
use super::run::Run;
use crate::data::others;
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::keys;
use crate::model::names::{AppName, Volume};
use crate::model::record::Record;
use crate::outside::compose_file;
use crate::outside::engine::Made;
use crate::routes::{self, Routes, claims::Recorded};

/// What is known without the node on which it is. `old`: its own record; what it has there it keeps.
fn compare(
    name: &AppName,
    master: &str,
    old: Option<&Record>,
    routes: &Routes,
    volumes: &[&Volume],
    others: &[(AppName, Recorded)],
) -> Result<Vec<String>, Error> {
    for (other, record) in others {
        if other.project() == name.project() {
            return Err(Fault::SameProject { app: name.clone(), other: other.clone(), project: name.project() }.into());
        }
        if let Some(volume) = volumes.iter().find(|volume| record.volumes.iter().any(|theirs| **theirs == ****volume)) {
            return Err(Fault::Anothers { what: "volume", name: volume.to_string(), owner: other.to_string() }.into());
        }
    }
    let compared = others.iter().map(|(name, record)| (&**name, &*record.master, &*record.caddyfile, &record.haproxy));
    match routes::conflicts(name, master, routes, compared) {
        Err(why) if old.is_some_and(|old| old.caddyfile == routes.caddyfile && old.haproxy == routes.haproxy) => Ok(vec![why.to_string()]),
        compared => Ok(compared?),
    }
}

/// `found`: the volumes here.
pub fn check(run: &mut Run, master: &str, found: &[Made]) -> Done {
    let (name, project, old) = (run.name.clone(), run.project.clone(), run.old().cloned());
    let (others, containers) = (others::read(&run.here, &name)?, run.here.engine().all_containers()?);
    let loaded = run.loaded()?;
    let volumes: Vec<&Volume> = loaded.compose.volumes.iter().map(|volume| &volume.name).collect();
    let warnings = compare(&name, master, old.as_ref(), &loaded.routes, &volumes, &others)?;
    for compose_file::Volume { name, .. } in &loaded.compose.volumes {
        // Compose's own names begin with the project, which has no punctuation.
        let projects = [name.split_once('_').map(|(project, _)| project), found.iter().find(|it| it.name == **name).map(Made::project)];
        let is_of = |other: &AppName| projects.iter().flatten().any(|project| **project == *other.project());
        if let Some((other, _)) = others.iter().find(|(other, _)| is_of(other)) {
            return Err(Fault::Anothers { what: "volume", name: name.to_string(), owner: other.to_string() }.into());
        }
    }
    for service in &loaded.compose.services {
        let name = &service.container;
        let Some(owner) = containers.get(name).filter(|owner| **owner != *project) else { continue };
        let owner = others.iter().find(|(other, _)| *other.project() == **owner).map_or(&**owner, |(other, _)| other);
        return Err(Fault::Anothers { what: "container", name: name.clone(), owner: owner.into() }.into());
    }
    loaded.routes.notes.iter().for_each(|note| info!("{note}"));
    warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(())
}

/// Looks again; the index under which it holds, until another deploy is committed.
pub fn claim(here: &Here, name: &AppName, old: Option<&Record>, routes: &Routes, record: &Record) -> Result<u64, Error> {
    // Before the records: who commits in between changes it.
    let index = here.consul.get(keys::CLAIMS)?.map_or(0, |entry| entry.modify_index);
    compare(name, &record.master, old, routes, &record.volumes.iter().collect::<Vec<_>>(), &others::read(here, name)?)?;
    Ok(index)
}
