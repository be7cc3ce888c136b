//! The commit: Consul hears of the service, the plugin of its schedules; the record is written and the order finished in one transaction.

use std::collections::BTreeMap;

use log::warn;
use serde_json::Value;

use super::output::Output;
use super::run::Run;
use super::{Done, Stop, others};
use crate::about;
use crate::data::{replicas, schedules};
use crate::error::{Error, Fault, text_of};
use crate::model::keys;
use crate::model::order::{Deploy, Order, Request, Unknown};
use crate::model::record::Record;
use crate::model::replica::{Set, Taken, newest};
use crate::model::roles::Role;
use crate::outside::consul::Op;
use crate::service;

impl Run {
    fn service(&mut self) -> Result<Value, Error> {
        let (folder, checks) = (self.folder(), self.loaded()?.routes.checks.clone());
        service::read(&self.here, &folder, &self.name, &checks)
    }

    /// That of a deploy, as it was taken: its key may have been removed meanwhile, and the order been made anew by whoever heard of it late. The
    /// other requests have no such step.
    fn deploy(&self) -> Result<Deploy, Fault> {
        match &self.journal.header.order.request {
            Request::Deploy(deploy) => Ok(deploy.clone()),
            _ => Err(Fault::Impossible { what: "a step of a deploy in another order" }),
        }
    }

    /// What the old master has handed over it has, too, on its disk and whole: so its first set under the new record, where this node can look at
    /// what has come.
    fn handed_over(&self, old: &Record, record: &Record) -> Result<Option<Set>, Error> {
        // What a script has made of it since is other data.
        if matches!(&self.order.request, Request::Deploy(deploy) if deploy.update) {
            return Ok(None);
        }
        let received = self.received()?;
        let mut snapshots = BTreeMap::new();
        let seen = !self.takes_over() && self.here.sees_snapshots()?;
        for volume in record.volumes.iter().filter(|_| seen) {
            let Some(snapshot) = received.get(volume) else { continue };
            // What cannot be looked at is confirmed by the next set.
            let found = self.here.world.subvolume(&self.here.snapshot(snapshot)).ok().flatten();
            let uuid = found.and_then(|found| found.received);
            snapshots.extend(uuid.map(|uuid| (volume.clone(), Taken { snapshot: snapshot.clone(), uuid })));
        }
        if snapshots.is_empty() || snapshots.len() < record.volumes.len() {
            return Ok(None);
        }
        let taken = newest(snapshots.values()).unwrap_or_else(|| self.here.world.clock.now());
        let set = Set {
            snapshots,
            taken: taken.rfc3339(),
            master: old.master.clone(),
            deploy_id: record.deploy_id.clone(),
            data_id: record.data_id().clone(),
            boot: about::read(&self.here, &old.master).map(|about| about.boot).unwrap_or_default(),
            millis: 0,
            counted: None,
            destroy: None,
            found: Default::default(),
            replaced: false,
            unknown: Unknown::new(),
        };
        Ok(Some(set))
    }

    /// What changes of the replicas with a new master: what it has not confirmed of the old one's it never will. Keys that cannot be read stay.
    fn replicas_of(&self, record: &Record) -> Result<Vec<Beside>, Error> {
        let Some(old) = self.old().filter(|old| old.master != record.master) else { return Ok(Vec::new()) };
        let mut changes = Vec::new();
        for holder in [&record.master, &old.master] {
            let (mut replica, index) = match replicas::read(&self.here, &self.name, holder) {
                Err(why @ Error::Json { .. }) => {
                    warn!("{why}; it is left as it is");
                    continue;
                }
                read => read?,
            };
            let before = replica.clone();
            // What is whole of it a takeover has set aside.
            let next = replica.next.take();
            next.iter().for_each(|next| replica.call_void(&next.set));
            if *holder == old.master
                && let Some(set) = self.handed_over(old, record)?
            {
                (replica.last, replica.failures, replica.reason) = (Some(set), 0, None);
            }
            if replica != before {
                let key = keys::replica(&self.name, holder);
                let text = text_of(&key, &replica)?;
                changes.push(Beside { key, text: Some(text), index });
            }
        }
        Ok(changes)
    }
}

/// A key that changes with the record, as it was last changed at this index. Without a text it goes.
struct Beside {
    key: String,
    text: Option<Vec<u8>>,
    index: u64,
}

impl Beside {
    fn op(&self) -> Op<'_> {
        match &self.text {
            Some(text) => Op::Cas(&self.key, text, self.index),
            None => Op::Delete(&self.key),
        }
    }
}

pub fn register(run: &mut Run) -> Result<Output, Stop> {
    let service = run.service()?;
    run.here.consul.register(&service)?;
    if let Some(old) = run.old() {
        service::end_older(&run.here, &run.name, &old.deploy_id)?;
    }
    Ok(Output::Nothing)
}

pub fn register_old(run: &mut Run, _: Option<Output>) -> Done {
    let old = match (run.old_role()?, run.old().cloned()) {
        (Role::Master, Some(old)) => old,
        _ => return Ok(run.here.consul.deregister(&run.name)?),
    };
    let checks = run.load(run.here.paths.checkout(&run.name, &old.deploy_id)).map(|loaded| loaded.routes.checks);
    let service = service::again(&run.here, &run.name, &old, checks);
    Ok(run.here.consul.register(&service)?)
}

pub fn schedule(run: &mut Run) -> Result<Output, Stop> {
    let (volumes, gone) = (run.data_volumes()?, run.old_volumes());
    schedules::of_role(&run.here, Role::Master, run.deploy()?.slave.named(), &volumes, &gone)?;
    Ok(Output::Nothing)
}

pub fn schedule_old(run: &mut Run, _: Option<Output>) -> Done {
    let (old, new) = (run.old_volumes(), run.data_volumes()?);
    let role = run.old_role()?;
    let other = run.old().and_then(|record| if role == Role::Master { record.slave.clone() } else { Some(record.master.clone()) });
    Ok(schedules::of_role(&run.here, role, other.as_ref(), &old, &new)?)
}

pub fn commit(run: &mut Run) -> Result<Output, Stop> {
    run.master_is_dead()?;
    run.chose_the_newest()?;
    let deploy = run.deploy()?;
    let commit = run.cloned().ok_or(Fault::Impossible { what: "a commit of what was not cloned" })?;
    let (data, ip, now) = (run.data_volumes()?, run.here.address_of(&deploy.master)?, run.here.world.clock.now());
    let (app, id) = (run.app.clone(), (&run.order.id).into());
    let previous = run.old().map(|old| old.deploy_id.to_string());
    let unknown = run.old().map(|old| old.unknown.clone()).unwrap_or_default();
    let sites = run.checked()?.sites.or(run.old().and_then(|old| old.sites.clone()));
    let loaded = run.loaded()?;
    let routes = loaded.routes.clone();
    let record = Record {
        haproxy: routes.haproxy.clone(),
        caddyfile: routes.caddyfile.clone(),
        repo_url: app.repo,
        branch: app.branch,
        deploy_id: id,
        previous_deploy_id: previous,
        deploy_date: now.deploy_date(),
        domains: routes.domains.clone(),
        urls: routes.urls.clone(),
        ip: ip.to_string(),
        master: deploy.master,
        slave: deploy.slave.into(),
        ct: loaded.compose.services.iter().map(|service| (service.name.clone(), service.container.clone())).collect(),
        volumes: data,
        commit: Some(commit),
        data_id: Some((&run.order.id).into()),
        sites,
        unknown,
    };
    let key = keys::app(&run.name);
    let text = text_of(&key, &record)?;
    finish(run, Op::Cas(&key, &text, run.old_index()), |run| {
        let index = others::claim(&run.here, &run.name, run.old(), &routes, &record)?;
        let claims = Beside { key: keys::CLAIMS.into(), text: Some(run.order.id.as_bytes().to_vec()), index };
        Ok(run.replicas_of(&record)?.into_iter().chain([claims]).collect())
    })
}

pub fn commit_migrate(run: &mut Run) -> Result<Output, Stop> {
    let old = run.old().cloned().ok_or(Fault::Impossible { what: "a migrate into what is not deployed" })?;
    let record = Record { data_id: Some((&run.order.id).into()), ..old };
    let key = keys::app(&run.name);
    let text = text_of(&key, &record)?;
    finish(run, Op::Cas(&key, &text, run.old_index()), |_| Ok(Vec::new()))
}

pub fn commit_destroy(run: &mut Run) -> Result<Output, Stop> {
    let app = keys::app(&run.name);
    finish(run, Op::DeleteCas(&app, run.old_index()), |run| {
        let gone = |key| Beside { key, text: None, index: 0 };
        let replicas = run.here.consul.list(&keys::replicas(&run.name))?.into_iter().map(|entry| gone(entry.key));
        Ok(std::iter::once(gone(keys::credential(&run.name))).chain(replicas).collect())
    })
}

/// With what the history is to say, and what changes beside the record: looked at anew where somebody else has changed that in between.
fn finish(run: &mut Run, record: Op, beside: impl Fn(&Run) -> Result<Vec<Beside>, Error>) -> Result<Output, Stop> {
    let commit = run.cloned();
    let (snapshots, notes) = (run.received()?, [run.checked()?.notes, run.restored().unwrap_or_default().notes].concat());
    loop {
        let found = beside(run)?;
        let changes: Vec<Op> = std::iter::once(record).chain(found.iter().map(Beside::op)).collect();
        let finished = run.finish_order(&changes, |order: &mut Order| {
            order.commit = commit.clone();
            // What the application stands on now: a source deletes its own only if it is what it has sent.
            order.snapshots = snapshots.clone();
            order.notes = [notes.clone(), order.notes.clone()].concat();
        });
        let indexes = |all: &[Beside]| all.iter().map(|it| (it.key.clone(), it.index)).collect::<Vec<_>>();
        match finished {
            Err(Stop::Failed(Error::Fault(Fault::RecordChanged { .. }))) if indexes(&beside(run)?) != indexes(&found) => {}
            ended => return ended.map(|()| Output::Nothing),
        }
    }
}
