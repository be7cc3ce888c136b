//! What this node has, compared with what the records say it should have, so that a node that was away finds its way back.

use std::collections::{BTreeMap, HashSet};

use log::{error, info, warn};

use crate::here::Node;
use crate::model::order::{App, Request, State, project_of};
use crate::model::record::{Record, Roles};
use crate::node::store::{Local, LocalRole};
use crate::outside::consul;
use crate::outside::engine as docker;
use crate::outside::git;
use crate::outside::plugin::{self as buttervolume, Plugin};
use crate::steps::journal::Journal;
use crate::steps::plan::{self, Role, Step};
use crate::steps::run::parse_order;

/// The number of applications that could not be brought to what their record says.
pub fn reconcile(node: &Node) -> Result<usize, String> {
    let mut records: BTreeMap<String, Roles> = BTreeMap::new();
    let mut unreadable: HashSet<String> = HashSet::new();
    let listed = node.consul.each("app/", |entry| {
        let name = entry.key.trim_start_matches("app/").to_string();
        match serde_json::from_slice(&entry.value) {
            Ok(roles) => drop(records.insert(name, roles)),
            Err(why) => {
                error!("{} in Consul is not a record: {why}", entry.key);
                unreadable.insert(name);
            }
        }
    });
    listed.map_err(|error| error.to_string())?;
    let locals = node.store.locals()?;
    if records.is_empty() && locals.is_empty() && unreadable.is_empty() {
        return Ok(0);
    }
    let me = node.me().map_err(|error| error.to_string())?;
    let unfinished = Journal::left(&node.store.journals())?;
    let busy: HashSet<&str> = unfinished.iter().map(|journal| &*journal.header.order.name).collect();
    let mut failed = unreadable.len();

    let names: HashSet<&String> = records.keys().chain(locals.keys()).collect();
    let mut names: Vec<&String> = names.into_iter().filter(|name| !unreadable.contains(*name) && !busy.contains(&***name)).collect();
    names.sort();
    for name in names {
        let record = records.get(name);
        let role = record.map_or(Role::None, |record| plan::role(me, &record.master, record.slave.as_deref()));
        let local = locals.get(name);
        let result = match (role, local) {
            (Role::Master, Some(Local { role: LocalRole::Master, deploy_id, .. })) if record.is_some_and(|r| r.deploy_id == *deploy_id) => {
                Ok(())
            }
            (Role::Slave, Some(Local { role: LocalRole::Slave, deploy_id, .. })) if record.is_some_and(|r| r.deploy_id == *deploy_id) => {
                Ok(())
            }
            (Role::None, None | Some(Local { role: LocalRole::Fenced, .. })) => Ok(()),
            (Role::Master, _) => adopt(node, name),
            (_, local) => leave_or_follow(node, name, record, role, local),
        };
        if let Err(why) = result {
            error!("{name}: {why}");
            failed += 1;
        }
    }
    let keep: HashSet<String> = unfinished.iter().map(|journal| journal.header.order.id.to_string()).collect();
    remove_unused_checkouts(node, &records, &unreadable, &busy, &keep)?;
    Ok(failed)
}

fn record(node: &Node, name: &str) -> Result<Option<Record>, String> {
    let key = format!("app/{name}");
    let entry = node.consul.get(&key).map_err(|error: consul::Error| error.to_string())?;
    entry.map(|entry| Record::parse(&key, &entry.value)).transpose()
}

/// This node is the master by the record, but does not remember it: the older handler deployed it, or the files were lost.
fn adopt(node: &Node, name: &str) -> Result<(), String> {
    let Some(record) = record(node, name)? else { return Ok(()) };
    if !node.checkout(name, &record.deploy_id).is_dir() {
        warn!("{name}: this node is its master by the record but has no checkout of it; deploy it again");
        return Ok(());
    }
    info!("{name}: this node is its master by the record; taking it on");
    let local = Local { role: LocalRole::Master, deploy_id: record.deploy_id, volumes: record.volumes };
    node.store.set_local(name, Some(local))
}

/// This node is not the master (any more): fence what runs here, then take the role that the record gives.
fn leave_or_follow(node: &Node, name: &str, roles: Option<&Roles>, role: Role, local: Option<&Local>) -> Result<(), String> {
    let old = match local {
        Some(Local { role: LocalRole::Master, .. }) => Role::Master,
        Some(Local { role: LocalRole::Slave, .. }) => Role::Slave,
        _ => Role::None,
    };
    if roles.is_none() && !destroyed(node, name)? {
        warn!("{name}: its record is gone, but no destroy of it is in the history; nothing is touched, deploy it again to keep it");
        return Ok(());
    }
    if let Some(local) = local.filter(|_| old == Role::Master) {
        match roles {
            Some(roles) => warn!("{name}: this node ran it, but {} is its master now; fencing it here", roles.master),
            None => warn!("{name}: this node ran it, but it has been destroyed; fencing it here"),
        }
        fence(node, name, local)?;
    }
    let record = record(node, name)?;
    for step in plan::reconcile_steps(old, role) {
        info!("{name}: {step}");
        match (step, &record) {
            (Step::CloneSlave, Some(record)) => clone(node, name, record)?,
            (Step::SchedulePurge, Some(record)) => {
                let gone = local.map(|local| local.volumes.clone()).unwrap_or_default();
                schedule(node, &record.volumes, &gone)?;
                let local = Local { role: LocalRole::Slave, deploy_id: record.deploy_id.clone(), volumes: record.volumes.clone() };
                node.store.set_local(name, Some(local))?;
            }
            (Step::Unschedule, _) => {
                schedule(node, &[], local.map_or(&[], |local| &local.volumes))?;
                node.store.set_local(name, None)?;
            }
            (Step::RemoveCheckouts, _) => {
                let keep = record.as_ref().filter(|_| role == Role::Slave).map(|record| &*record.deploy_id);
                node.remove_checkouts(name, keep)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A record that is gone means a destroy only if the history has one: missing information is nothing to act on.
fn destroyed(node: &Node, name: &str) -> Result<bool, String> {
    let history = node.consul.list(&format!("history/{name}/")).map_err(|error| error.to_string())?;
    let is_destroy = |order: crate::model::order::Order| matches!(order.request, Request::Destroy(_)) && order.state == State::Done;
    Ok(history.iter().any(|entry| parse_order(entry).is_ok_and(is_destroy)))
}

/// Stops what runs here and keeps what it holds. Nothing is deleted.
fn fence(node: &Node, name: &str, local: &Local) -> Result<(), String> {
    docker::stop_for_good(&project_of(name), node.settings.timeouts.stop)?;
    schedule(node, &[], &local.volumes)?;
    let service = node.service_id(name, &node.checkout(name, &local.deploy_id));
    node.consul.deregister(&service).map_err(|error| error.to_string())?;
    if !local.volumes.is_empty() {
        let plugin = Plugin::find(&node.settings)?;
        for volume in &local.volumes {
            if plugin.exists(volume)? {
                let snapshot = plugin.snapshot(volume)?;
                warn!("{name}: fenced; {volume} as it was here is kept as {snapshot}");
            }
        }
    }
    node.store.set_local(name, Some(Local { role: LocalRole::Fenced, ..local.clone() }))
}

fn clone(node: &Node, name: &str, record: &Record) -> Result<(), String> {
    let folder = node.checkout(name, &record.deploy_id);
    let deadline = node.settings.timeouts.git;
    let wanted = record.commit.as_deref();
    if folder.is_dir() && git::head(&folder, deadline).is_ok_and(|head| wanted.is_none_or(|wanted| wanted == head)) {
        return Ok(());
    }
    crate::node::store::remove_folder(&folder)?;
    let app = App { repo: record.repo_url.clone(), branch: record.branch.clone() };
    let head = git::clone(&app, &folder, deadline).map_err(|error| error.to_string())?;
    match wanted {
        Some(wanted) if wanted != head => git::checkout(&folder, wanted, deadline).map_err(|error| error.to_string()),
        _ => Ok(()),
    }
}

/// A slave's schedule for `volumes`, none for those of `gone` that are not among them.
fn schedule(node: &Node, volumes: &[String], gone: &[String]) -> Result<(), String> {
    if volumes.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let plugin = Plugin::find(&node.settings)?;
    let present = plugin.schedules()?;
    for volume in volumes {
        plugin.schedule(volume, &buttervolume::slave_schedule(), &present)?;
    }
    gone.iter().filter(|volume| !volumes.contains(volume)).try_for_each(|volume| plugin.schedule(volume, &[], &present))
}

/// Old checkouts that no deployment uses.
fn remove_unused_checkouts(
    node: &Node,
    records: &BTreeMap<String, Roles>,
    unreadable: &HashSet<String>,
    busy: &HashSet<&str>,
    keep: &HashSet<String>,
) -> Result<(), String> {
    let locals = node.store.locals()?;
    for (name, id, path) in node.checkouts()? {
        let used_here = locals.get(&name).is_some_and(|local| local.role != LocalRole::Fenced && local.deploy_id == *id);
        let recorded = records.get(&name).is_some_and(|record| record.deploy_id == *id);
        // Whatever has never been an application of this cluster is somebody else's.
        let known = records.contains_key(&name) || locals.contains_key(&name);
        if known && !used_here && !recorded && !keep.contains(&*id) && !busy.contains(&*name) && !unreadable.contains(&name) {
            info!("removing the checkout {name}-{id}, which nothing uses");
            crate::node::store::remove_folder(&path)?;
        }
    }
    Ok(())
}
