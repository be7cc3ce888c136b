//! The commit: Consul hears of the service, the plugin of its schedules; the record is written and the order finished in one transaction.

use serde_json::Value;

use super::output::Output;
use super::run::Run;
use super::{Done, Stop};
use crate::data::schedules;
use crate::error::{Error, Fault};
use crate::model::names::NodeName;
use crate::model::order::{Deploy, Order, Request};
use crate::model::record::Record;
use crate::model::roles::Role;
use crate::model::{json, keys};
use crate::outside::consul::Op;
use crate::service;

impl Run {
    fn service(&mut self) -> Result<Value, Error> {
        let (folder, checks) = (self.folder(), self.loaded()?.routes.checks.clone());
        service::read(&self.here, &folder, &self.name, &checks)
    }

    /// That of a deploy; the other requests have no such step.
    fn deploy(&self) -> Result<Deploy, Fault> {
        match &self.order.request {
            Request::Deploy(deploy) => Ok(deploy.clone()),
            _ => Err(Fault::Impossible { what: "a step of a deploy in another order" }),
        }
    }

    fn master_schedule(&self, slave: Option<&NodeName>) -> Result<schedules::Schedule, Error> {
        let address = slave.map(|slave| self.here.address_of(slave)).transpose()?;
        Ok(schedules::of_master(address.as_ref()))
    }
}

pub fn register(run: &mut Run) -> Result<Output, Stop> {
    let service = run.service()?;
    run.here.consul.register(&service)?;
    let old = run.old().map(|old| service::id_of(&run.here, &run.name, &old.deploy_id));
    if let Some(old) = old.filter(|old| *old != service::id(&service)) {
        run.here.consul.deregister(&old)?;
    }
    Ok(Output::Nothing)
}

pub fn register_old(run: &mut Run, _: Option<Output>) -> Done {
    let new = service::id(&run.service()?);
    let old = match (run.old_role()?, run.old()) {
        (Role::Master, Some(old)) => {
            let folder = run.here.paths.checkout(&run.name, &old.deploy_id);
            let checks = run.load(folder.clone())?.routes.checks;
            Some(service::read(&run.here, &folder, &run.name, &checks)?)
        }
        _ => None,
    };
    if old.as_ref().map(service::id).as_ref() != Some(&new) {
        run.here.consul.deregister(&new)?;
    }
    match old {
        Some(old) => Ok(run.here.consul.register(&old)?),
        None => Ok(()),
    }
}

pub fn schedule(run: &mut Run) -> Result<Output, Stop> {
    let (volumes, gone) = (run.data_volumes()?, run.old_volumes());
    let wanted = run.master_schedule(run.deploy()?.slave.named())?;
    schedules::set(&run.here.plugin(), &wanted, &volumes, &gone)?;
    Ok(Output::Nothing)
}

pub fn schedule_old(run: &mut Run, _: Option<Output>) -> Done {
    let (old, new) = (run.old_volumes(), run.data_volumes()?);
    let slave = run.old().and_then(|old| old.slave.clone());
    let wanted = match run.old_role()? {
        Role::Master => run.master_schedule(slave.as_ref())?,
        Role::Slave => schedules::of_slave(),
        Role::None => Vec::new(),
    };
    Ok(schedules::set(&run.here.plugin(), &wanted, &old, &new)?)
}

pub fn commit(run: &mut Run) -> Result<Output, Stop> {
    run.master_is_dead()?;
    let deploy = run.deploy()?;
    let commit = run.cloned().ok_or(Fault::Impossible { what: "a commit of what was not cloned" })?;
    let (data, ip, now) = (run.data_volumes()?, run.here.address_of(&deploy.master)?, run.here.world.clock.now());
    let (app, id) = (run.app.clone(), (&run.order.id).into());
    let previous = run.old().map(|old| old.deploy_id.to_string());
    let unknown = run.old().map(|old| old.unknown.clone()).unwrap_or_default();
    let loaded = run.loaded()?;
    let record = Record {
        haproxy: loaded.routes.haproxy.clone(),
        caddyfile: loaded.routes.caddyfile.clone(),
        repo_url: app.repo,
        branch: app.branch,
        deploy_id: id,
        previous_deploy_id: previous,
        deploy_date: now.deploy_date(),
        domains: loaded.routes.domains.clone(),
        urls: loaded.routes.urls.clone(),
        ip: ip.to_string(),
        master: deploy.master,
        slave: deploy.slave.into(),
        ct: loaded.compose.services.iter().map(|service| (service.name.clone(), service.container.clone())).collect(),
        volumes: data,
        commit: Some(commit),
        data_id: Some((&run.order.id).into()),
        unknown,
    };
    let key = keys::app(&run.name);
    let text = json::write(&record).map_err(|source| Error::Json { at: key.clone(), what: "writable", source })?;
    finish(run, &[Op::Cas(&key, &text, run.old_index())])
}

pub fn commit_migrate(run: &mut Run) -> Result<Output, Stop> {
    let old = run.old().cloned().ok_or(Fault::Impossible { what: "a migrate into what is not deployed" })?;
    let record = Record { data_id: Some((&run.order.id).into()), ..old };
    let key = keys::app(&run.name);
    let text = json::write(&record).map_err(|source| Error::Json { at: key.clone(), what: "writable", source })?;
    finish(run, &[Op::Cas(&key, &text, run.old_index())])
}

pub fn commit_destroy(run: &mut Run) -> Result<Output, Stop> {
    let (app, credential) = (keys::app(&run.name), keys::credential(&run.name));
    finish(run, &[Op::DeleteCas(&app, run.old_index()), Op::Delete(&credential)])
}

/// With what the history is to say.
fn finish(run: &mut Run, changes: &[Op]) -> Result<Output, Stop> {
    let commit = run.cloned();
    let (snapshots, notes) = (run.received()?, run.checked()?.notes);
    run.finish_order(changes, |order: &mut Order| {
        order.commit = commit.clone();
        // What the application stands on now: a source deletes its own only if it is what it has sent.
        order.snapshots = snapshots.clone();
        order.notes = [notes.clone(), order.notes.clone()].concat();
    })?;
    Ok(Output::Nothing)
}
