//! What this node has, compared with what the records say it should have, so that a node that was away finds its way back.
//!
//! [`tasks`] says what is to be done about an application; it is asked for printing and for doing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use log::{error, info, warn};

use super::fence;
use super::local::{self, Local, LocalRole};
use crate::credentials;
use crate::data::schedules;
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::keys;
use crate::model::names::{App, AppName, OrderId};
use crate::model::record::Record;
use crate::model::roles::{Role, Roles};
use crate::{model::json, orders};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Remember what the record says: the older handler deployed it, or this node's files were lost.
    Adopt,
    Fence,
    CloneSlave,
    SchedulePurge,
    Unschedule,
    RemoveCheckouts,
}

impl Task {
    fn row(self) -> (&'static str, &'static str) {
        match self {
            Task::Adopt => ("adopt", "remember that the application runs here"),
            Task::Fence => ("fence", "stop the containers, end schedules, deregister, snapshot the volumes and keep them"),
            Task::CloneSlave => ("clone-slave", "clone the deployed commit"),
            Task::SchedulePurge => ("schedule-purge", "schedule the purge of replicated snapshots"),
            Task::Unschedule => ("unschedule", "end the volumes' schedules"),
            Task::RemoveCheckouts => ("remove-checkouts", "remove checkouts that are no longer used"),
        }
    }

    pub fn name(self) -> &'static str {
        self.row().0
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

/// What `me` has to do about an application of which it has `local`, or containers (`runs`), and whose record says `roles`. Without a record:
/// it was destroyed. What must not run here comes first, and goes by what runs.
pub fn tasks(local: Option<&Local>, runs: bool, roles: Option<&Roles>, me: &str) -> Vec<Task> {
    let (had, has) = (Local::role(local), roles.map_or(Role::None, |roles| roles.of(me)));
    let same_deployment = local.zip(roles).is_some_and(|(local, roles)| local.deploy_id == roles.deploy_id);
    let fence = if (had == Role::Master || runs) && has != Role::Master { &[Task::Fence][..] } else { &[] };
    let follow: &[Task] = match (had, has) {
        (Role::Master, Role::Master) | (Role::Slave, Role::Slave) if same_deployment => &[],
        (Role::None, Role::None) => &[],
        (_, Role::Master) => &[Task::Adopt],
        (_, Role::Slave) => &[Task::CloneSlave, Task::SchedulePurge, Task::RemoveCheckouts],
        // What is remembered goes last: nobody would look for the checkout afterwards.
        (Role::Slave, Role::None) => &[Task::RemoveCheckouts, Task::Unschedule],
        (Role::Master, Role::None) => &[Task::RemoveCheckouts],
    };
    [fence, follow].concat()
}

/// The records, as one look at Consul gave them.
pub struct Seen {
    records: BTreeMap<AppName, Roles>,
    unreadable: HashSet<String>,
}

pub fn look(here: &Here) -> Result<Seen, Error> {
    let mut seen = Seen { records: BTreeMap::new(), unreadable: HashSet::new() };
    here.consul.each(keys::APPS, |entry| {
        let name = entry.key.trim_start_matches(keys::APPS).to_string();
        let why = match (AppName::try_from(name.clone()), serde_json::from_slice(&entry.value)) {
            (Ok(name), Ok(roles)) => return drop(seen.records.insert(name, roles)),
            (Err(why), _) => why.to_string(),
            (_, Err(why)) => why.to_string(),
        };
        error!("{} in Consul is not a record: {why}", entry.key);
        seen.unreadable.insert(name);
    })?;
    Ok(seen)
}

/// How a node is in the middle of something with an application.
#[derive(Clone, Debug, PartialEq)]
pub enum Busy {
    /// It carries out this order: as long as that is open, what it has started may run.
    Owner(OrderId),
    Other,
}

/// Stops what must not run here, journal or not; the applications where that did not work. Nothing else is done for these.
pub fn fence(here: &Here, seen: &Seen, busy: &BTreeMap<String, Busy>) -> Result<BTreeSet<String>, Error> {
    let locals = local::all(here)?;
    if seen.records.is_empty() && locals.is_empty() {
        return Ok(BTreeSet::new());
    }
    let me = here.me()?;
    let projects = here.engine().projects();
    let mut unfenced = BTreeSet::new();
    let names: BTreeSet<&AppName> = seen.records.keys().chain(locals.keys()).collect();
    for name in names.into_iter().filter(|name| !seen.unreadable.contains(&***name)) {
        let (local, roles) = (locals.get(name), seen.records.get(name));
        let runs = match (projects.as_ref().map(|projects| projects.get(&*name.project())), local) {
            (Ok(Some(true)), _) => true,
            // Stopped, and nobody remembers why: it may come back with the engine.
            (Ok(Some(false)), None) => true,
            _ => false,
        };
        if !tasks(local, runs, roles, me).contains(&Task::Fence) {
            continue;
        }
        if let Err(why) = fence_one(here, name, local, roles, busy.get(&**name)) {
            error!("{name}: not fenced: {why}");
            unfenced.insert(name.to_string());
        }
    }
    if let Err(why) = projects {
        error!("what runs here cannot be told: {why}");
    }
    Ok(unfenced)
}

fn fence_one(here: &Here, name: &AppName, local: Option<&Local>, roles: Option<&Roles>, busy: Option<&Busy>) -> Result<(), Error> {
    if roles.is_none() && !orders::was_destroyed(&here.consul, name)? {
        warn!("{name}: its record is gone, but its last order was no destroy; nothing is touched, deploy it again to keep it");
        return Ok(());
    }
    match busy {
        // Until the commit the record names the node that has handed over.
        Some(Busy::Owner(order)) if here.consul.get(&keys::order(order))?.is_some_and(|entry| orders::is_open(&entry)) => Ok(()),
        Some(_) => Ok(here.engine().stop_for_good(&name.project(), here.settings.timeouts.stop)?),
        None => {
            let record = record(here, name)?;
            fence::fence(here, name, local, record.as_ref())
        }
    }
}

/// The number of applications that could not be brought to what their record says. Those that are `busy` have a journal here, which knows
/// better; `keep` are the orders whose checkouts it still needs.
pub fn reconcile(here: &Here, seen: &Seen, busy: &BTreeSet<String>, keep: &BTreeSet<String>) -> Result<usize, Error> {
    let Seen { records, unreadable } = seen;
    let locals = local::all(here)?;
    if records.is_empty() && locals.is_empty() && unreadable.is_empty() {
        return Ok(0);
    }
    let me = here.me()?;
    let mut failed = unreadable.len();
    let names: BTreeSet<&AppName> = records.keys().chain(locals.keys()).collect();
    for name in names.into_iter().filter(|name| !unreadable.contains(&***name) && !busy.contains(&***name)) {
        let (local, roles) = (locals.get(name), records.get(name));
        // What is still to be fenced has been counted where that was tried.
        let tasks = tasks(local, false, roles, me);
        if tasks.contains(&Task::Fence) {
            continue;
        }
        if let Err(why) = carry_out(here, name, local, roles, &tasks) {
            error!("{name}: {why}");
            failed += 1;
        }
    }
    remove_unused_checkouts(here, records, unreadable, busy, keep)?;
    Ok(failed)
}

fn carry_out(here: &Here, name: &AppName, local: Option<&Local>, roles: Option<&Roles>, tasks: &[Task]) -> Result<(), Error> {
    if tasks.is_empty() {
        return Ok(());
    }
    // A record that is gone means a destroy only if the history has one: missing information is nothing to act on.
    if roles.is_none() && !orders::was_destroyed(&here.consul, name)? {
        warn!("{name}: its record is gone, but its last order was no destroy; nothing is touched, deploy it again to keep it");
        return Ok(());
    }
    let (volumes, mut record) = (local.map(|local| local.volumes.clone()).unwrap_or_default(), None);
    if roles.is_some() {
        record = self::record(here, name)?;
        if record.is_none() {
            return Ok(()); // gone meanwhile: the next run finds out what that means
        }
    }
    for task in tasks {
        info!("{name}: {task}");
        match (task, &record) {
            (Task::Fence, _) => return Err(Fault::Impossible { what: "what is to be fenced, and is not" }.into()),
            (Task::Adopt, Some(record)) => adopt(here, name, record)?,
            (Task::CloneSlave, Some(record)) => clone(here, name, record)?,
            (Task::SchedulePurge, Some(record)) => {
                schedules::set(&here.plugin(), &schedules::of_slave(), &record.volumes, &volumes)?;
                let local = Local::new(LocalRole::Slave, record.deploy_id.clone(), record.volumes.clone());
                local::set(here, name, Some(local))?;
            }
            (Task::Unschedule, _) => {
                schedules::set(&here.plugin(), &Vec::new(), &[], &volumes)?;
                local::set(here, name, None)?;
            }
            (Task::RemoveCheckouts, record) => {
                let me = here.me()?;
                let keep = record.as_ref().filter(|record| Roles::from(*record).of(me) == Role::Slave).map(|record| &record.deploy_id);
                here.remove_checkouts(name, keep)?;
            }
            (Task::Adopt | Task::CloneSlave | Task::SchedulePurge, None) => {
                return Err(Fault::Impossible { what: "a role without a record" }.into());
            }
        }
    }
    Ok(())
}

fn record(here: &Here, name: &AppName) -> Result<Option<Record>, Error> {
    let key = keys::app(name);
    let entry = here.consul.get(&key)?;
    let read = entry.map(|entry| json::read(&entry.value)).transpose();
    read.map_err(|source| Error::Json { at: format!("{key} in Consul"), what: "a record", source })
}

/// This node is the master by the record, but does not remember it.
fn adopt(here: &Here, name: &AppName, record: &Record) -> Result<(), Error> {
    if !here.world.is_folder(&here.paths.checkout(name, &record.deploy_id)) {
        warn!("{name}: this node is its master by the record but has no checkout of it; deploy it again");
        return Ok(());
    }
    local::set(here, name, Some(Local::new(LocalRole::Master, record.deploy_id.clone(), record.volumes.clone())))
}

fn clone(here: &Here, name: &AppName, record: &Record) -> Result<(), Error> {
    let folder = here.paths.checkout(name, &record.deploy_id);
    let (git, wanted) = (credentials::git(here, name, &record.repo_url)?, record.commit.as_deref());
    if here.world.is_folder(&folder) && git.head(&folder).is_ok_and(|head| wanted.is_none_or(|wanted| wanted == head)) {
        return Ok(());
    }
    here.world.remove_folder(&folder)?;
    let app = App { repo: record.repo_url.clone(), branch: record.branch.clone() };
    let head = git.clone(&app, &folder)?;
    if let Some(wanted) = wanted.filter(|wanted| *wanted != head) {
        git.checkout(&folder, wanted)?;
    }
    // Before it is remembered to be there.
    Ok(here.world.sync_disk(&folder)?)
}

/// Old checkouts that no deployment uses.
fn remove_unused_checkouts(
    here: &Here,
    records: &BTreeMap<AppName, Roles>,
    unreadable: &HashSet<String>,
    busy: &BTreeSet<String>,
    keep: &BTreeSet<String>,
) -> Result<(), Error> {
    let locals = local::all(here)?;
    for (name, id, path) in here.checkouts()? {
        let used_here = locals.get(&name).is_some_and(|local| local.role != LocalRole::Fenced && *local.deploy_id == *id);
        let recorded = records.get(&name).is_some_and(|record| *record.deploy_id == *id);
        // Whatever has never been an application of this cluster is somebody else's.
        let known = records.contains_key(&name) || locals.contains_key(&name);
        if known && !used_here && !recorded && !keep.contains(&*id) && !busy.contains(&*name) && !unreadable.contains(&*name) {
            info!("removing the checkout {name}-{id}, which nothing uses");
            here.world.remove_folder(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{DeployId, NodeName};

    #[test]
    fn what_a_node_has_to_do_follows_from_what_it_has_and_what_the_record_says() {
        let id = |id: &str| DeployId::try_from(id).unwrap();
        let node = |name: &str| NodeName::try_from(name).unwrap();
        let local = |role, deploy: &str| Some(Local::new(role, id(deploy), Vec::new()));
        let roles = |master: &str, slave: Option<&str>| Some(Roles { master: node(master), slave: slave.map(node), deploy_id: id("2") });
        let slave = "clone-slave schedule-purge remove-checkouts";
        use LocalRole::{Fenced, Master, Slave};
        for (local, runs, roles, expected) in [
            (local(Master, "2"), false, roles("n", None), ""),
            (local(Slave, "2"), false, roles("a", Some("n")), ""),
            (None, false, roles("a", Some("b")), ""),
            (local(Fenced, "1"), false, roles("a", None), ""),
            (None, false, roles("n", None), "adopt"),
            (local(Master, "1"), false, roles("n", None), "adopt"),
            (local(Fenced, "1"), false, roles("n", None), "adopt"),
            (None, false, roles("a", Some("n")), slave),
            (local(Slave, "1"), false, roles("a", Some("n")), slave),
            (local(Fenced, "1"), false, roles("a", Some("n")), slave),
            (local(Master, "2"), false, roles("a", Some("n")), &format!("fence {slave}")),
            (local(Master, "1"), false, roles("a", None), "fence remove-checkouts"),
            (local(Slave, "1"), false, roles("a", Some("b")), "remove-checkouts unschedule"),
            (local(Slave, "1"), false, roles("n", None), "adopt"),
            (local(Master, "1"), false, None, "fence remove-checkouts"),
            (local(Slave, "1"), false, None, "remove-checkouts unschedule"),
            (local(Fenced, "1"), false, None, ""),
            (None, false, None, ""),
            (None, true, roles("a", None), "fence"),
            (None, true, None, "fence"),
            (local(Fenced, "1"), true, roles("a", None), "fence"),
            (local(Slave, "2"), true, roles("a", Some("n")), "fence"),
            (local(Master, "2"), true, roles("n", None), ""),
        ] {
            let names: Vec<&str> = tasks(local.as_ref(), runs, roles.as_ref(), "n").iter().map(|task| task.name()).collect();
            assert_eq!(names.join(" "), expected, "{local:?} {roles:?}");
        }
    }
}
