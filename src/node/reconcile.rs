//! What this node has, compared with what the records say it should have, so that a node that was away finds its way back.
//!
//! [`tasks`] says what is to be done about an application; it is asked for printing and for doing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use log::{error, info, warn};

use super::local::{self, Local, LocalRole};
use super::start::{self, Down, Starts};
use super::{fence, record};
use crate::credentials;
use crate::data::schedules;
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::maintenance::Maintenance;
use crate::model::members;
use crate::model::names::{App, AppName, DeployId, OrderId};
use crate::model::order::Request;
use crate::model::record::Record;
use crate::model::roles::{Role, Roles};
use crate::model::{json, keys};
use crate::orders::{self, Open};
use crate::outside::consul::{Entry, Op, Stand};
use crate::outside::engine::{self, Listed};

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
            Task::SchedulePurge => ("schedule-purge", "schedule the purge of replicated snapshots, where the handler keeps no sets"),
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

/// What one look at Consul and the engine gave.
pub struct Seen {
    pub records: BTreeMap<AppName, Roles>,
    pub stand: Stand,
    pub orders: Vec<Open>,
    /// What stands in Consul and cannot be read: records, and orders.
    pub unreadable: (Vec<String>, Vec<Error>),
    /// All that belong to compose projects.
    pub containers: Result<Vec<Listed>, engine::Error>,
    /// The applications of which something should run here and does not.
    pub idle: BTreeMap<AppName, Idle>,
    /// Those of this node whose maintenance is of an order that has ended.
    pub closed: BTreeSet<AppName>,
}

pub struct Idle {
    /// An error: that cannot be told.
    pub down: Result<Vec<Down>, Error>,
    pub starts: Starts,
    pub deploy_id: DeployId,
    /// A person, or a deploy, keeps it so.
    pub maintenance: bool,
}

impl Idle {
    pub fn is_due(&self) -> bool {
        let startable = self.down.as_ref().is_ok_and(|down| down.iter().any(|down| down.startable));
        startable && !self.maintenance && !self.starts.are_spent()
    }
}

struct Records {
    all: BTreeMap<AppName, Roles>,
    stand: Stand,
    /// Those that name this node as their master, as they are.
    mine: Vec<(AppName, Vec<u8>)>,
    unreadable: Vec<String>,
}

fn records(here: &Here) -> Result<Records, Error> {
    let mut records = Records { all: BTreeMap::new(), stand: Stand::default(), mine: Vec::new(), unreadable: Vec::new() };
    let me = here.me()?;
    here.consul.each(keys::APPS, |entry| {
        records.stand.count(&entry);
        let name = entry.key.trim_start_matches(keys::APPS).to_string();
        let why = match (AppName::try_from(name), serde_json::from_slice::<Roles>(&entry.value)) {
            (Ok(name), Ok(roles)) => {
                if roles.master == *me {
                    records.mine.push((name.clone(), entry.value));
                }
                return drop(records.all.insert(name, roles));
            }
            (Err(why), _) => why.to_string(),
            (_, Err(why)) => why.to_string(),
        };
        records.unreadable.push(format!("{} in Consul is not a record: {why}", entry.key));
    })?;
    Ok(records)
}

pub fn look(here: &Here) -> Result<Seen, Error> {
    let Records { all: records, stand, mine, unreadable } = records(here)?;
    // Before the orders: one of an order that is not open by then has ended.
    let maintenances = if mine.is_empty() { Vec::new() } else { here.consul.list(keys::MAINTENANCES)? };
    let (orders, no_orders) = orders::listed(&here.consul)?;
    // Where nothing is known of this node's applications, it need not have an engine.
    let nothing = records.is_empty() && here.apps()?.is_empty();
    let containers = if nothing { Ok(Vec::new()) } else { here.engine().listed() };
    let (idles, closed) = (BTreeMap::new(), BTreeSet::new());
    let mut seen = Seen { records, stand, orders, unreadable: (unreadable, no_orders), containers, idle: idles, closed };
    let ordered: BTreeSet<&str> = seen.orders.iter().map(|open| &*open.order.id).collect();
    for (name, record) in mine {
        let entry = maintenances.iter().find(|entry| entry.key == keys::maintenance(&name));
        if entry.and_then(|entry| left_by(here, &name, entry)).is_some_and(|id| !ordered.contains(&*id)) {
            seen.closed.insert(name.clone());
        }
        match json::read::<Record>(&record) {
            Ok(record) => drop(idle(here, &seen, &name, &record, entry.is_some())?.map(|idle| seen.idle.insert(name, idle))),
            Err(why) => seen.unreadable.0.push(format!("{} in Consul is not a record: {why}", keys::app(&name))),
        }
    }
    Ok(seen)
}

/// What of an application that this node is the master of does not run; not while an order or a journal says more of it.
fn idle(here: &Here, seen: &Seen, name: &AppName, record: &Record, maintenance: bool) -> Result<Option<Idle>, Error> {
    let ordered = orders::at_work(&seen.orders).any(|order| start::is_at_work(order, name, &record.master));
    let Ok(listed) = &seen.containers else { return Ok(None) };
    if ordered || here.world.look_at(&here.paths.journal(name))?.is_some() {
        return Ok(None);
    }
    let down = start::down(here, name, record, listed);
    if down.as_ref().is_ok_and(Vec::is_empty) {
        return Ok(None);
    }
    let maintenance = maintenance && !seen.closed.contains(name);
    Ok(Some(Idle { down, starts: Starts::of(here, name, &record.deploy_id), deploy_id: record.deploy_id.clone(), maintenance }))
}

/// The order that a maintenance is of, unless its journal is here: that of an undo which a person was given goes when he is done.
fn left_by(here: &Here, name: &AppName, entry: &Entry) -> Option<OrderId> {
    let id = OrderId::try_from(Maintenance::read(&entry.value).order?).ok()?;
    let mut files = [here.paths.journal(name), here.paths.given_up(name, &id)].into_iter();
    files.all(|file| here.world.look_at(&file).is_ok_and(|found| found.is_none())).then_some(id)
}

/// Ends it. Under the application's lock, without a journal of it.
fn open_again(here: &Here, name: &AppName) -> Result<(), Error> {
    let key = keys::maintenance(name);
    let Some(entry) = here.consul.get(&key)? else { return Ok(()) };
    if let Some(id) = left_by(here, name, &entry)
        && here.consul.get(&keys::order(&id))?.is_none()
    {
        info!("{name}: its maintenance was of an order that has ended, and ends");
        here.consul.transaction(&[Op::DeleteCas(&key, entry.modify_index)])?;
    }
    Ok(())
}

/// The applications about which this node has something to do.
pub fn due(here: &Here, seen: &Seen) -> Result<BTreeSet<AppName>, Error> {
    let known = here.apps()?;
    let mut due: BTreeSet<AppName> = seen.idle.iter().filter(|(_, idle)| idle.is_due()).map(|(name, _)| name.clone()).collect();
    due.extend(seen.closed.iter().cloned());
    if seen.records.is_empty() && known.is_empty() {
        return Ok(due);
    }
    let me = here.me()?;
    let projects = seen.containers.as_ref().map(|listed| engine::projects(listed));
    let mut used = BTreeSet::new();
    let names: BTreeSet<&AppName> = seen.records.keys().chain(&known).collect();
    for name in names {
        let (local, roles) = (local::of(here, name), seen.records.get(name));
        let Ok(local) = local else {
            due.insert(name.clone()); // its worker says what is wrong with it
            continue;
        };
        let runs = runs(projects.as_ref().ok().and_then(|projects| projects.get(&*name.project())), local.as_ref(), roles);
        let runs = runs && !(roles.is_none() && is_served_here(&seen.records, name, me));
        let unkept = local.iter().flat_map(|local| &local.unkept);
        let mut there = unkept.map(|volume| here.plugin().exists(volume));
        if !tasks(local.as_ref(), runs, roles, me).is_empty() || there.any(|exists| exists.is_ok_and(|exists| exists)) {
            due.insert(name.clone());
        }
        used.extend(kept(local.as_ref(), roles).map(|id| (name.clone(), id.to_string())));
        // Whatever has never been an application of this cluster is somebody else's.
        if local.is_some() || roles.is_some() {
            used.insert((name.clone(), String::new()));
        }
    }
    let checkouts = here.checkouts()?.into_iter().map(|(name, id, _)| (name, id));
    due.extend(checkouts.filter_map(|(name, id)| {
        let is = |id: &str| used.contains(&(name.clone(), id.to_string()));
        (is("") && !is(&id)).then_some(name)
    }));
    Ok(due)
}

/// Whether containers of the application run here, or may again; `project`: whether the engine has some that run.
fn runs(project: Option<&bool>, local: Option<&Local>, roles: Option<&Roles>) -> bool {
    match project {
        Some(true) => true,
        // Stopped, and nobody remembers why: they may come back with the engine.
        Some(false) => local.is_none() && roles.is_some(),
        None => false,
    }
}

/// The deployments whose checkouts are used on this node.
fn kept<'a>(local: Option<&'a Local>, roles: Option<&'a Roles>) -> impl Iterator<Item = &'a DeployId> {
    let local = local.filter(|local| local.role != LocalRole::Fenced).map(|local| &local.deploy_id);
    local.into_iter().chain(roles.map(|roles| &roles.deploy_id))
}

/// How a node is in the middle of something with an application.
#[derive(Clone, Debug, PartialEq)]
pub enum Busy {
    /// It carries out this order: as long as that is open, what it has started may run.
    Owner(OrderId),
    Other,
}

/// Stops what of the application must not run here, journal or not: by what runs, not by what a file says.
pub fn fence(here: &Here, name: &AppName, busy: Option<&Busy>) -> Result<(), Error> {
    start::end_left(here, name)?;
    let me = here.me()?;
    let local = local::of(here, name).unwrap_or_else(|why| {
        error!("{why}");
        None
    });
    let record = match record(here, name)? {
        None if local.is_some() && !may_act(here, name, None)? => by_the_last_order(here, name)?,
        record => record,
    };
    let roles = record.as_ref().map(Roles::from);
    let must_stop = |runs| tasks(local.as_ref(), runs, roles.as_ref(), me).contains(&Task::Fence);
    // Of one that is stopped.
    let keep_the_rest = || local.clone().filter(|_| busy.is_none()).map_or(Ok(()), |local| fence::keep(here, name, local));
    // Where it may run it need not be known whether it does; elsewhere nothing is done without knowing.
    if !must_stop(true) {
        return keep_the_rest();
    }
    let runs = runs(here.engine().projects()?.get(&*name.project()), local.as_ref(), roles.as_ref());
    if !must_stop(runs) || is_anothers(here, name)? || !may_act(here, name, record.as_ref())? {
        return keep_the_rest();
    }
    match busy {
        // Until the commit the record names the node that has handed over.
        Some(Busy::Owner(order)) if here.consul.get(&keys::order(order))?.is_some_and(|entry| orders::is_open(&entry)) => Ok(()),
        Some(_) => Ok(here.engine().stop_for_good(&name.project(), here.settings.timeouts.stop)?),
        None => fence::fence(here, name, local.as_ref(), record.as_ref()),
    }
}

/// What stands in for a record that is gone, to say what must not run here: by the last deploy that was done it went elsewhere, perhaps.
fn by_the_last_order(here: &Here, name: &AppName) -> Result<Option<Record>, Error> {
    let Some(order) = orders::last_done(&here.consul, name)? else { return Ok(None) };
    let App { repo, branch } = order.request.app();
    Ok(match order.request {
        Request::Deploy(deploy) => {
            Some(Record { slave: deploy.slave.into(), ..Record::remembered(repo, branch, deploy.master, (&order.id).into(), Vec::new()) })
        }
        Request::Destroy(_) | Request::Migrate(_) => None,
    })
}

/// Whether the project has another application now, whose master this node is: what runs is known by the project alone.
fn is_served_here(records: &BTreeMap<AppName, Roles>, name: &AppName, me: &str) -> bool {
    records.iter().any(|(other, roles)| other != name && roles.of(me) == Role::Master && other.project() == name.project())
}

/// The same, or one that this node is about to start.
fn is_anothers(here: &Here, name: &AppName) -> Result<bool, Error> {
    if is_served_here(&records(here)?.all, name, here.me()?) {
        return Ok(true);
    }
    for other in here.apps()?.iter().filter(|other| *other != name && other.project() == name.project()) {
        if here.world.look_at(&here.paths.journal(other))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A record that is gone means a destroy only if the history has one: missing information is nothing to act on.
fn may_act(here: &Here, name: &AppName, record: Option<&Record>) -> Result<bool, Error> {
    let Some(advice) = (if record.is_some() { None } else { gone(here, name)? }) else { return Ok(true) };
    warn!("{name}: {advice}; nothing is touched");
    Ok(false)
}

/// What is to be done about an application without a record. `None`: it was destroyed.
pub fn gone(here: &Here, name: &AppName) -> Result<Option<String>, Error> {
    let keep = match orders::last_done(&here.consul, name)?.map(|order| order.request) {
        Some(Request::Destroy(_)) => return Ok(None),
        Some(Request::Deploy(last)) if last.master != *here.me()? => {
            let back = if members::alive(&here.consul.members()?, &last.master) { "" } else { ", which is dead: bring it back" };
            format!(
                "by its last order {0} runs it{back}: deploy it again there, with {0} as its master, to keep what that has",
                last.master
            )
        }
        _ if local::was_passed_on(here, name)? => {
            "deploy it again on the node that runs it, as its own status says; this one does not".into()
        }
        _ => "deploy it again, with this node as its master, to keep it".into(),
    };
    Ok(Some(format!("its record is gone, and no order has destroyed it: {keep}")))
}

/// Fences what a run leaves as it is, while the application went on without it.
pub fn leave(here: &Here, name: &AppName, local: &Local) -> Result<(), Error> {
    let record = record(here, name)?;
    if may_act(here, name, record.as_ref())? { fence::fence(here, name, Some(local), record.as_ref()) } else { Ok(()) }
}

/// Brings the application to what its record says. Not where it has a journal here, which knows better.
pub fn reconcile(here: &Here, name: &AppName) -> Result<(), Error> {
    let (local, record) = (local::of(here, name)?, record(here, name)?);
    let roles = record.as_ref().map(Roles::from);
    let tasks = tasks(local.as_ref(), false, roles.as_ref(), here.me()?);
    // What is still to be fenced has been told of where that was tried.
    if tasks.contains(&Task::Fence) {
        return Ok(());
    }
    if !tasks.is_empty() && may_act(here, name, record.as_ref())? {
        carry_out(here, name, local.as_ref(), record.as_ref(), &tasks)?;
    }
    let started = match &record {
        Some(record) if runs_here(here, name, record)? => open_again(here, name).and_then(|()| start::start(here, name, record)),
        _ => Ok(()),
    };
    remove_unused_checkouts(here, name, roles.as_ref()).and(started)
}

/// Whether this node is the application's master by the record, and has that version of it.
fn runs_here(here: &Here, name: &AppName, record: &Record) -> Result<bool, Error> {
    let local = local::of(here, name)?.filter(|local| local.role == LocalRole::Master && local.deploy_id == record.deploy_id);
    Ok(record.master == *here.me()? && local.is_some())
}

fn carry_out(here: &Here, name: &AppName, local: Option<&Local>, record: Option<&Record>, tasks: &[Task]) -> Result<(), Error> {
    let volumes = local.map(|local| local.volumes.clone()).unwrap_or_default();
    for task in tasks {
        info!("{name}: {task}");
        match (task, record) {
            (Task::Fence, _) => return Err(Fault::Impossible { what: "what is to be fenced, and is not" }.into()),
            (Task::Adopt, Some(record)) => adopt(here, name, record)?,
            (Task::CloneSlave, Some(record)) => clone(here, name, record)?,
            (Task::SchedulePurge, Some(record)) => {
                schedules::of_role(here, Role::Slave, Some(&record.master), &record.volumes, &volumes)?;
                let slave = Local::new(LocalRole::Slave, record.deploy_id.clone(), record.volumes.clone());
                let unkept = local.map(|local| local.unkept.clone()).unwrap_or_default();
                local::set(here, name, Some(Local { unkept, ..slave }))?;
            }
            (Task::Unschedule, _) => {
                schedules::set(&here.plugin(), &Vec::new(), &[], &volumes)?;
                let unkept = local.filter(|local| !local.unkept.is_empty());
                local::set(here, name, unkept.map(|local| Local { role: LocalRole::Fenced, ..local.clone() }))?;
            }
            (Task::RemoveCheckouts, record) => {
                let me = here.me()?;
                let keep = record.filter(|record| Roles::from(*record).of(me) == Role::Slave).map(|record| &record.deploy_id);
                here.remove_checkouts(name, keep)?;
            }
            (Task::Adopt | Task::CloneSlave | Task::SchedulePurge, None) => {
                return Err(Fault::Impossible { what: "a role without a record" }.into());
            }
        }
    }
    Ok(())
}

/// Whether another node went on with it, so that what is here is for nobody: it was fenced, or it became the slave, and a record that was put back
/// names it as the master.
pub fn holds_what_is_old(here: &Here, name: &AppName) -> Result<bool, Error> {
    match local::of(here, name)?.map(|local| local.role) {
        None | Some(LocalRole::Master) => Ok(false),
        Some(LocalRole::Fenced) => Ok(true),
        Some(LocalRole::Slave) => {
            let (me, record) = (here.me()?, record(here, name)?);
            Ok(record.is_some_and(|record| record.master == *me))
        }
    }
}

/// This node is the master by the record, but does not remember it.
fn adopt(here: &Here, name: &AppName, record: &Record) -> Result<(), Error> {
    if local::was_passed_on(here, name)? {
        warn!("{name}: {}", local::FENCED_MASTER);
        return Ok(());
    }
    if !here.world.is_folder(&here.paths.checkout(name, &record.deploy_id)) {
        warn!("{name}: this node is its master by the record but has no checkout of it; deploy it again");
        return Ok(());
    }
    local::set(here, name, Some(Local::new(LocalRole::Master, record.deploy_id.clone(), record.volumes.clone())))
}

fn clone(here: &Here, name: &AppName, record: &Record) -> Result<(), Error> {
    let folder = here.paths.checkout(name, &record.deploy_id);
    let (git, wanted) = (credentials::git(here, name, &record.repo_url, None)?, record.commit.as_deref());
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
fn remove_unused_checkouts(here: &Here, name: &AppName, roles: Option<&Roles>) -> Result<(), Error> {
    let local = local::of(here, name)?;
    // Whatever has never been an application of this cluster is somebody else's.
    if local.is_none() && roles.is_none() {
        return Ok(());
    }
    for (app, id, path) in here.checkouts()? {
        let used = kept(local.as_ref(), roles).any(|kept| **kept == *id);
        if app == *name && !used {
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
