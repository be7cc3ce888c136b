//! Carrying an order out on this node: step by step, each journaled before it begins, all undone in reverse if one fails
//! before the commit.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use serde_json::{Value, json};

use crate::here::Node;
use crate::model::json;
use crate::model::order::{App, NodeName, Order, Progress, Request, State};
use crate::model::record::{Record, plain};
use crate::model::time::{self as clock, Time};
use crate::node::store::{self, Local, LocalRole};
use crate::outside::compose_file::Compose;
use crate::outside::consul::{self, Op};
use crate::outside::engine::{self as docker, Container, Project, Tool};
use crate::outside::git;
use crate::outside::plugin::{self as buttervolume, Plugin};
use crate::outside::process as command;
use crate::proxies::render::Routed;
use crate::routes::read::{self as routes, Routes};
use crate::steps::journal::Journal;
use crate::steps::plan::{Part, Role, Step, role_in};

/// Why the steps of a run end early.
#[derive(Debug)]
pub enum Stop {
    /// A step failed: undo, and the order fails with this reason.
    Failed(String),
    /// Somebody else has failed the order, for this reason: undo.
    Obey(String),
    /// Somebody else has finished the order.
    Done,
    /// Consul is out of reach, so nothing can be known: leave everything, the journal brings it back.
    Away(String),
}

impl From<consul::Error> for Stop {
    fn from(error: consul::Error) -> Stop {
        match error {
            consul::Error::Unreachable(_) => Stop::Away(error.to_string()),
            consul::Error::Refused(_) => Stop::Failed(error.to_string()),
        }
    }
}

impl From<command::Error> for Stop {
    fn from(error: command::Error) -> Stop {
        Stop::Failed(error.to_string())
    }
}

impl From<String> for Stop {
    fn from(error: String) -> Stop {
        Stop::Failed(error)
    }
}

type Done = Result<(), Stop>;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Done,
    Failed,
    /// Not at its end; a later run takes it up from the journal.
    Left,
}

/// A checkout with its compose file read.
struct Loaded {
    project: Project,
    compose: Compose,
    routes: Routes,
}

pub struct Run<'a> {
    node: &'a Node,
    app: App,
    name: String,
    /// The order as last seen, and its index.
    order: Order,
    index: u64,
    journal: Journal,
    loaded: Option<Loaded>,
    tool: Option<Tool>,
}

type Act<'a> = fn(&mut Run<'a>) -> Done;

fn nothing(_: &mut Run) -> Done {
    Ok(())
}

/// Each step beside its undo.
#[rustfmt::skip]
fn verbs<'a>(step: Step) -> (Act<'a>, Act<'a>) {
    match step {
        Step::Clone          => (Run::clone,            Run::remove_checkout),
        Step::Check          => (Run::check,            nothing),
        Step::Pull           => (Run::pull,             Run::retag),
        Step::Build          => (Run::build,            nothing), // undone with the pull
        Step::SendAhead      => (Run::send_ahead,       nothing),
        Step::Ready          => (Run::ready,            nothing),
        Step::AwaitReady     => (Run::await_ready,      nothing),
        Step::Send           => (Run::send,             nothing),
        Step::AwaitSent      => (Run::await_sent,       nothing),
        Step::AwaitDone      => (Run::await_done,       nothing),
        Step::Maintenance    => (Run::maintenance_on,   Run::maintenance_off),
        Step::Stop           => (Run::stop,             Run::start_old),
        Step::Snapshot       => (Run::snapshot,         Run::restore_own),
        Step::SnapshotSource => (Run::snapshot_source,  nothing),
        Step::Restore        => (Run::restore,          Run::remove_restored),
        Step::RestoreReplica => (Run::restore,          Run::remove_restored),
        Step::RestoreSource  => (Run::restore_source,   nothing), // undone with the snapshots of the switch
        Step::PostMigrate    => (Run::post_migrate,     nothing), // the same
        Step::Update         => (Run::update_script,    nothing), // the same
        Step::Up             => (Run::up,               Run::down),
        Step::AwaitHealthy   => (Run::await_healthy,    nothing),
        Step::Register       => (Run::register,         Run::register_old),
        Step::Schedule       => (Run::schedule,         Run::schedule_old),
        Step::Commit         => (Run::commit,           nothing),
        Step::CommitMigrate  => (Run::commit_migrate,   nothing),
        Step::CommitDestroy  => (Run::commit_destroy,   nothing),
        Step::Settle         => (Run::settle,           nothing),
        Step::Deregister     => (Run::deregister,       nothing),
        Step::Unschedule     => (Run::unschedule,       nothing),
        Step::Remove         => (Run::remove,           nothing),
        Step::CloneSlave | Step::SchedulePurge | Step::RemoveCheckouts | Step::Fence => (nothing, nothing), // reconcile's
    }
}

fn progress(at: usize, step: Step, of: usize) -> Progress {
    Progress { step: at + 1, of, name: step.name(), since: Time::now().rfc3339() }
}

/// After this step has succeeded there is no way back.
fn is_commit(step: Step) -> bool {
    matches!(step, Step::Commit | Step::CommitMigrate | Step::CommitDestroy | Step::AwaitDone)
}

impl<'a> Run<'a> {
    pub fn new(node: &'a Node, journal: Journal, order: Order, index: u64) -> Run<'a> {
        let app = order.request.app();
        command::belongs_to(&journal.path);
        Run { node, app, name: order.name.clone(), order, index, journal, loaded: None, tool: None }
    }

    /// From the first step to the end. The owner says first that it has taken the order up.
    pub fn start(mut self, owner: NodeName, source: Option<NodeName>) -> Outcome {
        if self.journal.header.part == Part::Owner {
            let steps = &self.journal.header.steps;
            let first = steps.first().map(|first| progress(0, *first, steps.len()));
            let taken = self.update(|order| {
                order.owner = Some(owner.clone());
                order.source = source.clone();
                order.progress.extend(first.clone().map(|first| (owner.to_string(), first)));
            });
            if let Err(stop) = taken {
                return self.give_up(stop);
            }
        }
        self.go(0)
    }

    /// What a killed run has left: finished where that is safe, else undone. An order that is undone here and still open
    /// is taken up again from its beginning.
    pub fn resume(mut self) -> Outcome {
        let steps = self.journal.header.steps.clone();
        let at = self.journal.at;
        let commit = steps.iter().position(|step| is_commit(*step));
        info!("a run was killed at step {} of {}: {}", at + 1, steps.len(), steps.get(at).map(Step::to_string).unwrap_or_default());
        if let Err(why) = command::end_orphans(&self.journal.path) {
            error!("{why}; nothing is changed until they have");
            return Outcome::Left;
        }
        let state = match self.refresh() {
            Ok(()) => Ok(self.order.state),
            Err(Stop::Done) => Ok(State::Done),
            Err(Stop::Obey(reason)) => Err(reason),
            Err(Stop::Away(why) | Stop::Failed(why)) => {
                error!("{why}; nothing is changed until it is back");
                return Outcome::Left;
            }
        };
        let owner = self.journal.header.part == Part::Owner;
        match (state, commit) {
            (Ok(State::Open | State::Ready | State::Sent), _) if self.journal.data.undoing.is_some() => {
                let reason = self.journal.data.undoing.clone().unwrap_or_default();
                self.give_up(Stop::Failed(reason))
            }
            (Ok(State::Done), Some(commit)) if owner => self.go(at.max(commit + 1)),
            (Ok(State::Done), Some(commit)) if self.handed_over() => self.go(at.max(commit + 1)),
            // Another node has taken over; reconcile finds out what that means here.
            (Ok(State::Done), _) => self.finish(Outcome::Done),
            // Half undone: only backwards.
            (Ok(_), _) if !self.journal.data.undone.is_empty() => self.undo_for_another_try(at),
            (Ok(State::Sent), Some(commit)) if !owner => self.go(commit),
            (Ok(_), _) if owner && steps[..at.min(steps.len())].contains(&Step::AwaitHealthy) => self.go(at),
            (Ok(_), _) => self.undo_for_another_try(at),
            (Err(reason), _) => self.give_up(Stop::Obey(reason)),
        }
    }

    /// The order is still open: it is taken up again from its beginning.
    fn undo_for_another_try(mut self, at: usize) -> Outcome {
        if self.undo(at) { self.finish(Outcome::Done) } else { Outcome::Left }
    }

    /// Whether the finished order stands on what this node has sent for it. If not, another has taken over in another way, and
    /// what is here may be newer: reconcile keeps it.
    fn handed_over(&self) -> bool {
        let sent = self.journal.header.part == Part::Source && self.journal.begun(Step::Send);
        sent && self.order.snapshots == self.journal.data.snapshots
    }

    fn go(mut self, from: usize) -> Outcome {
        let steps = self.journal.header.steps.clone();
        let commit = steps.iter().position(|step| is_commit(*step)).unwrap_or(steps.len());
        for (at, step) in steps.iter().enumerate().skip(from) {
            let result = self.begin(at, *step, steps.len()).and_then(|()| verbs(*step).0(&mut self));
            match result {
                Ok(()) => {}
                Err(Stop::Done) if at <= commit && self.handed_over() => {}
                Err(stop) if at <= commit => return self.give_up(stop),
                Err(Stop::Failed(why) | Stop::Away(why) | Stop::Obey(why)) => {
                    error!("the order is done, but step {} ({step}) failed and will be tried again: {why}", at + 1);
                    return Outcome::Left;
                }
                Err(Stop::Done) => {}
            }
        }
        info!("done");
        self.finish(Outcome::Done)
    }

    fn begin(&mut self, at: usize, step: Step, of: usize) -> Done {
        self.journal.begin(at, !step.is_repeatable())?;
        info!("step {} of {of}: {}: {step}", at + 1, step.name());
        // From here on the application is down or in two places: better wait for Consul than leave it so.
        if matches!(step, Step::Stop | Step::AwaitReady | Step::AwaitSent) {
            self.node.consul.set_patience(self.node.settings.timeouts.handover);
        }
        if self.journal.header.steps[..at].iter().any(|step| is_commit(*step)) {
            return Ok(()); // the order has left `order/`; writing its progress there would open it again
        }
        let me = self.node.me()?.to_string();
        let nothing_to_do = match step {
            Step::Pull => self.pulled()?.0.is_empty(),
            Step::Build => !self.builds()?,
            _ => step.is_quick(),
        };
        // The first step has been told with the order's owner.
        if nothing_to_do || self.order.progress.get(&me).is_some_and(|told| told.step == at + 1) {
            return Ok(());
        }
        self.order.progress.insert(me, progress(at, step, of));
        let text = json::write(&self.order)?;
        match self.node.consul.try_cas(&self.order.key(), &text, self.index) {
            Ok(Some(index)) => self.index = index,
            Ok(None) => self.refresh()?,
            Err(error) => debug!("progress is not written: {error}"),
        }
        Ok(())
    }

    fn finish(self, outcome: Outcome) -> Outcome {
        self.node.consul.set_patience(self.node.settings.timeouts.consul);
        match self.journal.remove() {
            Ok(()) => outcome,
            Err(error) => {
                error!("{error}");
                Outcome::Left
            }
        }
    }

    fn give_up(mut self, stop: Stop) -> Outcome {
        let reason = match stop {
            // Not for us to undo: the node that finished it has the data now.
            Stop::Done => return self.finish(Outcome::Done),
            Stop::Away(why) => {
                error!("{why}; everything is left as it is, to be taken up when Consul is back");
                return Outcome::Left;
            }
            Stop::Obey(reason) => {
                error!("the order has failed: {reason}");
                reason
            }
            // The others hear of it when this node has stopped what it had started: the source starts its own again.
            Stop::Failed(reason) if self.journal.header.part == Part::Owner => {
                error!("failed: {reason}");
                self.journal.data.undoing = Some(reason.clone());
                if let Err(why) = self.journal.save() {
                    error!("{why}");
                    return Outcome::Left;
                }
                reason
            }
            Stop::Failed(reason) => {
                error!("failed: {reason}");
                let told = self.update(|order| {
                    order.state = State::Failed;
                    order.reason = Some(reason.clone());
                });
                match told {
                    Ok(()) => reason,
                    Err(Stop::Obey(theirs)) => theirs,
                    Err(Stop::Done) if self.handed_over() => return self.go_on_after_commit(),
                    Err(Stop::Done) => return self.finish(Outcome::Done),
                    Err(Stop::Away(why) | Stop::Failed(why)) => {
                        error!("{why}; everything is left as it is, to be taken up when Consul is back");
                        return Outcome::Left;
                    }
                }
            }
        };
        let clean = self.undo(self.journal.at);
        match archive_failed(self.node, &self.order.id, &reason) {
            Ok(_) if clean => self.finish(Outcome::Failed),
            Ok(_) => Outcome::Left,
            Err(why) => {
                error!("{why}");
                Outcome::Left
            }
        }
    }

    fn go_on_after_commit(self) -> Outcome {
        let commit = self.journal.header.steps.iter().position(|step| is_commit(*step)).unwrap_or(0);
        self.go(commit + 1)
    }

    /// Undoes the steps up to and with `at`, the last first, each once; whether all of it worked. What comes after the switch
    /// is undone even where something fails, the switch itself only as far as it goes: nothing is restored below running
    /// containers, nothing started on data that is not restored.
    fn undo(&mut self, at: usize) -> bool {
        let steps = self.journal.header.steps.clone();
        let mut clean = true;
        for (at, step) in steps.iter().enumerate().take(at + 1).rev() {
            if self.journal.data.undone.contains(&at) {
                continue;
            }
            debug!("undo: {step}");
            match self.undo_step(*step).and_then(|()| {
                self.journal.data.undone.push(at);
                self.journal.save()
            }) {
                Ok(()) => {}
                Err(why) => {
                    error!("undoing \"{step}\" failed, and is tried again by the next run: {why}");
                    clean = false;
                    if matches!(step, Step::Up | Step::Snapshot | Step::Stop) {
                        return false;
                    }
                }
            }
        }
        clean
    }

    fn undo_step(&mut self, step: Step) -> Result<(), String> {
        const TRIES: u32 = 3;
        let mut tries = 1;
        loop {
            match verbs(step).1(self) {
                Ok(()) | Err(Stop::Done) => return Ok(()),
                Err(Stop::Failed(why) | Stop::Obey(why)) if tries < TRIES => {
                    warn!("undoing \"{step}\" failed, trying it again: {why}");
                    tries += 1;
                    sleep(Duration::from_millis(200));
                }
                Err(Stop::Failed(why) | Stop::Obey(why) | Stop::Away(why)) => return Err(why),
            }
        }
    }

    // ---- the order in Consul

    /// Reads the order again. `Ok`: it is open.
    fn refresh(&mut self) -> Done {
        let order = match self.node.consul.get(&self.order.key())? {
            Some(entry) => {
                self.index = entry.modify_index;
                parse_order(&entry)?
            }
            None => match self.node.consul.get(&self.order.history_key())? {
                Some(entry) => parse_order(&entry)?,
                None => return Err(Stop::Obey("the order is neither open nor in the history".into())),
            },
        };
        let state = order.state;
        let reason = order.reason.clone();
        self.order = order;
        match state {
            State::Done => Err(Stop::Done),
            State::Failed => Err(Stop::Obey(reason.unwrap_or_else(|| "for an unknown reason".into()))),
            State::Open | State::Ready | State::Sent => Ok(()),
        }
    }

    /// Changes the open order by check-and-set.
    fn update(&mut self, change: impl Fn(&mut Order)) -> Done {
        loop {
            let mut next = self.order.clone();
            change(&mut next);
            if let Some(index) = self.node.consul.cas(&next.key(), &json::write(&next)?, self.index)? {
                self.index = index;
                self.order = next;
                return Ok(());
            }
            self.refresh()?;
        }
    }

    /// Finishes the order as done, together with `changes`, or not at all.
    fn finish_order(&mut self, changes: &[Op]) -> Done {
        loop {
            self.order.state = State::Done;
            self.order.finished = Some(Time::now().rfc3339());
            self.order.commit = self.journal.data.commit.clone();
            // What the application stands on now: a source deletes its own only if it is what it has sent.
            self.order.snapshots = self.journal.data.received.clone();
            self.order.notes = self.journal.data.notes.clone();
            let (order, history) = (self.order.key(), self.order.history_key());
            let text = json::write(&self.order)?;
            let maintenance = self.maintenance_key();
            // Alone, a delete-cas holds for a key that is gone, too.
            let mut operations = vec![Op::CheckIndex(&order, self.index)];
            operations.extend(changes.iter().copied());
            operations.extend([Op::Delete(&maintenance), Op::Delete(&order), Op::Set(&history, &text)]);
            if self.node.consul.transaction(&operations)? {
                prune_history(self.node, &self.name);
                return Ok(());
            }
            let index = self.index;
            match self.refresh() {
                // An attempt whose answer was lost.
                Err(Stop::Done) => return Ok(()),
                Ok(()) if self.index != index => {} // the other node wrote its progress in between
                Ok(()) => return Err(Stop::Failed(format!("the record app/{} was changed by somebody else meanwhile", self.name))),
                Err(stop) => return Err(stop),
            }
        }
    }

    /// Waits until `ready` of the order holds, while the node `peer` is alive.
    fn wait_for(&mut self, peer: &str, what: &str, ready: impl Fn(&Order) -> bool) -> Done {
        let start = Instant::now();
        let limit = self.node.settings.timeouts.handover;
        loop {
            let (entry, index) = self.node.consul.get_indexed(&self.order.key())?;
            match entry {
                Some(entry) => {
                    self.order = parse_order(&entry)?;
                    self.index = entry.modify_index;
                    if self.order.state == State::Failed {
                        return self.refresh();
                    }
                    if ready(&self.order) {
                        return Ok(());
                    }
                }
                None => return self.refresh(),
            }
            if start.elapsed() > limit {
                return Err(Stop::Failed(format!("{peer} did not {what} within {} s", limit.as_secs())));
            }
            let timeout = self.node.settings.timeouts.order;
            if !self.order.progress.contains_key(peer) && start.elapsed() > timeout {
                return Err(Stop::Failed(format!("{peer} did not take its part within {} s; does its handler run?", timeout.as_secs())));
            }
            if !consul::alive(&self.node.consul.members()?, peer) {
                return Err(Stop::Failed(format!("{peer} has died before it could {what}")));
            }
            self.node.consul.wait(&self.order.key(), index)?;
        }
    }

    // ---- what the steps need to know

    fn old(&self) -> Option<&Record> {
        self.journal.header.old.as_ref().map(|(record, _)| record)
    }

    fn old_role(&self) -> Result<Role, Stop> {
        Ok(role_in(self.old(), self.node.me()?))
    }

    fn maintenance_key(&self) -> String {
        format!("maintenance/{}", self.name)
    }

    /// The checkout that the order makes, or for a migrate the one that runs.
    fn checkout(&self) -> PathBuf {
        let id = match (&self.order.request, self.old()) {
            (Request::Migrate(_), Some(record)) => &record.deploy_id,
            _ => &*self.order.id,
        };
        self.node.checkout(&self.name, id)
    }

    fn tool(&mut self) -> Result<Tool, Stop> {
        match &self.tool {
            Some(tool) => Ok(tool.clone()),
            None => Ok(self.tool.insert(docker::tool()?).clone()),
        }
    }

    fn load(&mut self, folder: PathBuf) -> Result<Loaded, Stop> {
        let tool = self.tool()?;
        let (project, compose) = self.node.project(&self.app.project(), folder, tool)?;
        let routes = routes::read(&compose.services, self.node.settings.caddy).map_err(|error| error.to_string())?;
        Ok(Loaded { project, compose, routes })
    }

    /// The checkout of this order.
    fn loaded(&mut self) -> Result<&Loaded, Stop> {
        if self.loaded.is_none() {
            self.loaded = Some(self.load(self.checkout())?);
        }
        self.loaded.as_ref().ok_or_else(|| Stop::Failed("the checkout is not read".into()))
    }

    /// The checkout that ran before, if it is still there and readable.
    fn old_project(&mut self) -> Option<Project> {
        let folder = self.node.checkout(&self.name, &self.old()?.deploy_id);
        let tool = self.tool().ok()?;
        match self.node.project(&self.app.project(), folder, tool) {
            Ok((project, _)) => Some(project),
            Err(why) => {
                warn!("{why}; going by the containers' labels");
                None
            }
        }
    }

    fn plugin(&self) -> Result<Plugin, Stop> {
        Ok(Plugin::find(&self.node.settings)?)
    }

    fn data_volumes(&mut self) -> Result<Vec<String>, Stop> {
        let volumes = self.loaded()?.compose.volumes.iter().filter(|volume| volume.data);
        Ok(volumes.map(|volume| volume.name.clone()).collect())
    }

    fn old_volumes(&self) -> Vec<String> {
        self.old().map(|record| record.volumes.clone()).unwrap_or_default()
    }

    fn peer_address(&self) -> Result<String, Stop> {
        let address = self.journal.header.peer_address.clone();
        Ok(address.filter(|address| plain(address)).ok_or("the address of the other node is unknown".to_string())?)
    }

    fn address_of(&self, node: &str) -> Result<String, Stop> {
        let address = self.node.address_of(node)?;
        Ok(address.filter(|address| plain(address)).ok_or(format!("the address of {node} is unknown"))?)
    }

    // ---- prepare

    fn clone(&mut self) -> Done {
        self.remove_checkout()?;
        let commit = git::clone(&self.app, &self.checkout(), self.node.settings.timeouts.git)?;
        info!("commit {commit}");
        self.journal.data.commit = Some(commit);
        Ok(())
    }

    fn remove_checkout(&mut self) -> Done {
        Ok(store::remove_folder(&self.checkout())?)
    }

    fn check(&mut self) -> Done {
        let app_project = self.app.project();
        let request = self.order.request.clone();
        if let Request::Deploy(_) = request {
            // So that an operator can run compose by hand in the checkout.
            let env = self.checkout().join(".env");
            let begins_line = fs::read(&env).is_ok_and(|text| !text.is_empty() && !text.ends_with(b"\n"));
            let line = format!("{}COMPOSE_PROJECT_NAME={app_project}\n", if begins_line { "\n" } else { "" });
            let opened = fs::OpenOptions::new().append(true).create(true).open(&env);
            opened.and_then(|mut file| file.write_all(line.as_bytes())).map_err(|error| format!("{}: {error}", env.display()))?;
        }
        self.service()?;
        if let Request::Deploy(deploy) = &request {
            self.check_others(&deploy.master)?;
        }
        let (data, held, driver) = (self.data_volumes()?, self.old_volumes(), &self.node.settings.driver);
        // Deployed so, it would start empty, and a move would delete what it leaves behind.
        if let Some(volume) = self.loaded()?.compose.volumes.iter().find(|volume| !volume.data && held.contains(&volume.name)) {
            return Err(Stop::Failed(format!(
                "the volume {} holds the data of the deployed version, but its driver in the compose file is not {}, which \
                 BTRFSDRIVER of this node names; rename the volume to go on without its data",
                volume.name, driver
            )));
        }
        if !data.is_empty() {
            let plugin = self.plugin()?;
            for volume in &data {
                if plugin.exists(volume)? {
                    self.journal.data.existing.push(volume.clone());
                }
            }
        }
        self.journal.data.had_volumes = !self.journal.data.existing.is_empty() || !docker::volumes(&app_project)?.is_empty();
        if self.old_role()? == Role::Master {
            let named = |c: Container| (!c.image_name.is_empty()).then_some((c.image_name, c.image));
            self.journal.data.images = docker::containers(&app_project)?.into_iter().filter_map(named).collect();
        }
        if self.journal.header.steps.contains(&Step::RestoreReplica) {
            self.find_replicas(&data)?;
        }
        Ok(())
    }

    /// No other application has this project's name or one of these routes.
    fn check_others(&mut self, master: &str) -> Done {
        let project = self.app.project();
        let mut others = Vec::new();
        let records = self.node.records()?;
        for (name, value) in records.iter() {
            if name == self.name {
                continue;
            }
            if crate::model::order::project_of(name) == project {
                return Err(Stop::Failed(format!(
                    "{} and the deployed {name} would have the same compose project, {project}; rename the branch",
                    self.name
                )));
            }
            match Routed::parse(value) {
                Ok(record) => others.push((name, record)),
                Err(error) => warn!("app/{name} in Consul is not a record: {error}; its routes are not compared"),
            }
        }
        let name = self.name.clone();
        let routes = &self.loaded()?.routes;
        for note in &routes.notes {
            info!("{note}");
        }
        let compared = others.iter().map(|(name, record)| (*name, &*record.master, &*record.caddyfile, &record.haproxy));
        for warning in routes::conflicts(&name, master, routes, compared).map_err(|error| error.to_string())? {
            warn!("{warning}");
        }
        Ok(())
    }

    /// What a dead master has left here: the newest snapshot of each volume.
    fn find_replicas(&mut self, data: &[String]) -> Done {
        let Request::Deploy(deploy) = &self.order.request else { return Ok(()) };
        let (empty, master) = (deploy.empty, self.old().map_or(String::new(), |old| old.master.to_string()));
        let expected = self.old_volumes();
        let (mut found, mut missing, mut notes) = (BTreeMap::new(), Vec::new(), Vec::new());
        for volume in data.iter().filter(|volume| expected.contains(volume)) {
            match self.plugin()?.snapshots(volume)?.pop() {
                Some(snapshot) => {
                    notes.push(replica_note(volume, &snapshot));
                    found.insert(volume.clone(), snapshot);
                }
                None => missing.push(volume.clone()),
            }
        }
        if !missing.is_empty() && !empty {
            return Err(Stop::Failed(format!(
                "{master}, the master, is dead, and this node has no replica of {}; deploy to a node that has one, \
                 or with \"empty\": true to start without its data",
                missing.join(", ")
            )));
        }
        notes.extend(missing.iter().map(|volume| format!("{volume} starts empty")));
        for note in &notes {
            warn!("taking over from {master}: {note}");
        }
        self.journal.data.received = found;
        self.journal.data.notes = notes;
        Ok(())
    }

    /// The services whose images come from elsewhere, and these images.
    fn pulled(&mut self) -> Result<(Vec<String>, Vec<String>), Stop> {
        let services = self.loaded()?.compose.services.iter().filter(|service| !service.build);
        Ok(services.filter_map(|service| Some((service.name.clone(), service.image.clone()?))).unzip())
    }

    fn pull(&mut self) -> Done {
        let (names, images) = self.pulled()?;
        let project = self.loaded()?.project.clone();
        if names.is_empty() {
            return Ok(());
        }
        match project.pull(&names, &self.node.settings.timeouts) {
            Err(error) if docker::has_images(&images) => {
                warn!("pulling failed, going on with the images that are here: {error}");
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn builds(&mut self) -> Result<bool, Stop> {
        Ok(self.loaded()?.compose.services.iter().any(|service| service.build))
    }

    fn build(&mut self) -> Done {
        if !self.builds()? {
            return Ok(());
        }
        let project = self.loaded()?.project.clone();
        Ok(project.build(&self.node.settings.timeouts)?)
    }

    /// Gives the names of images back to those that the old containers ran.
    fn retag(&mut self) -> Done {
        // Once is enough, whichever undo comes first.
        for (name, id) in self.journal.data.images.iter().filter(|(name, id)| name != id) {
            docker::tag(id, name)?;
        }
        self.journal.data.images.clear();
        Ok(())
    }

    // ---- the hand-over

    fn send_ahead(&mut self) -> Done {
        let snapshots = self.snapshot_all(&self.old_volumes())?;
        self.send_all(snapshots).map(drop)
    }

    /// Volume → the snapshot that the other node has now.
    fn send_all(&mut self, snapshots: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Stop> {
        if snapshots.is_empty() {
            return Ok(snapshots);
        }
        let (address, plugin) = (self.peer_address()?, self.plugin()?);
        let mut sent = BTreeMap::new();
        for (volume, snapshot) in snapshots {
            let snapshot = plugin.send(&volume, snapshot, &address)?;
            sent.insert(volume, snapshot);
        }
        Ok(sent)
    }

    fn ready(&mut self) -> Done {
        self.update(|order| {
            if order.state == State::Open {
                order.state = State::Ready;
            }
        })
    }

    fn await_ready(&mut self) -> Done {
        let owner = self.order_master();
        self.wait_for(&owner, "get ready", |order| order.state != State::Open)
    }

    fn order_master(&self) -> String {
        match &self.order.request {
            Request::Deploy(deploy) => deploy.master.to_string(),
            _ => self.old().map_or(String::new(), |old| old.master.to_string()),
        }
    }

    fn send(&mut self) -> Done {
        let snapshots = self.send_all(self.journal.data.snapshots.clone())?;
        // Kept before it is said: by this the source knows whether the finished order stands on its data.
        self.journal.data.snapshots = snapshots.clone();
        self.journal.save()?;
        self.sent(snapshots)
    }

    fn sent(&mut self, snapshots: BTreeMap<String, String>) -> Done {
        self.update(|order| {
            order.state = State::Sent;
            order.snapshots = snapshots.clone();
        })
    }

    fn await_sent(&mut self) -> Done {
        let source = match self.order.request {
            Request::Migrate(_) => self.journal.header.source_record.as_ref(),
            _ => self.old(),
        };
        let source = source.map_or(String::new(), |record| record.master.to_string());
        self.wait_for(&source, "send its data", |order| order.state == State::Sent)?;
        self.journal.data.received = self.order.snapshots.clone();
        Ok(())
    }

    fn await_done(&mut self) -> Done {
        let owner = self.order_master();
        self.wait_for(&owner, "start the application", |_| false)
    }

    // ---- switch

    fn maintenance_on(&mut self) -> Done {
        let value = json!({ "order": self.order.id, "since": Time::now().rfc3339() });
        Ok(self.node.consul.put(&self.maintenance_key(), value.to_string().as_bytes())?)
    }

    fn maintenance_off(&mut self) -> Done {
        Ok(self.node.consul.delete(&self.maintenance_key())?)
    }

    fn stop(&mut self) -> Done {
        let timeouts = &self.node.settings.timeouts;
        match self.old_project() {
            Some(project) => Ok(project.stop(timeouts)?),
            None => Ok(docker::stop(&self.app.project(), timeouts.stop)?),
        }
    }

    fn start_old(&mut self) -> Done {
        self.retag()?;
        let timeouts = &self.node.settings.timeouts;
        match self.old_project() {
            Some(project) => Ok(project.up(false, timeouts)?),
            None => Ok(docker::start(&self.app.project(), timeouts.up)?),
        }
    }

    fn snapshot_all(&mut self, volumes: &[String]) -> Result<BTreeMap<String, String>, Stop> {
        let mut snapshots = BTreeMap::new();
        for volume in volumes {
            let plugin = self.plugin()?;
            // asked for once: the application is down
            if self.journal.data.existing.contains(volume) || plugin.exists(volume)? {
                snapshots.insert(volume.clone(), plugin.snapshot(volume)?);
            } else {
                warn!("the record names the volume {volume}, but this node has none");
            }
        }
        Ok(snapshots)
    }

    fn snapshot(&mut self) -> Done {
        self.journal.data.snapshots = self.snapshot_all(&self.old_volumes())?;
        Ok(())
    }

    /// Only where something may have changed the volumes since.
    fn restore_own(&mut self) -> Done {
        let changed = [Step::RestoreSource, Step::PostMigrate, Step::Update, Step::Up].iter().any(|step| self.journal.begun(*step));
        for (volume, snapshot) in self.journal.data.snapshots.iter().filter(|_| changed) {
            self.plugin()?.restore(snapshot, volume)?;
        }
        Ok(())
    }

    /// A migrate's first part: the volumes that both applications have, as they are now.
    fn snapshot_source(&mut self) -> Done {
        let header = &self.journal.header;
        let (Some(source), Some(target)) = (&header.source_record, self.old()) else {
            return Err(Stop::Failed("the records of the two applications are not both there".into()));
        };
        let (source_project, target_project) = (self.source_project(), self.app.project());
        let of_target = |volume: &str| format!("{target_project}{}", volume.strip_prefix(&*source_project).unwrap_or(volume));
        let both: Vec<String> = source.volumes.iter().filter(|volume| target.volumes.contains(&of_target(volume))).cloned().collect();
        let snapshots = self.snapshot_all(&both)?;
        if self.journal.header.part == Part::Owner {
            self.journal.data.received = snapshots;
            return Ok(());
        }
        let snapshots = self.send_all(snapshots)?;
        self.sent(snapshots)
    }

    fn source_project(&self) -> String {
        self.order.request.source_app().map(|app| app.project()).unwrap_or_default()
    }

    /// That each snapshot is here is looked up before any volume is touched.
    fn look_up(&self, snapshots: &BTreeMap<String, String>) -> Done {
        for (volume, snapshot) in snapshots {
            if !self.plugin()?.snapshots(volume)?.contains(snapshot) {
                return Err(Stop::Failed(format!("the snapshot {snapshot} has not arrived on this node")));
            }
        }
        Ok(())
    }

    fn restore(&mut self) -> Done {
        let data = self.data_volumes()?;
        let mut received = self.journal.data.received.clone();
        received.retain(|volume, _| data.contains(volume));
        self.look_up(&received)?;
        for (volume, snapshot) in &received {
            self.plugin()?.restore(snapshot, volume)?;
        }
        Ok(())
    }

    fn remove_restored(&mut self) -> Done {
        for volume in self.journal.data.received.keys().filter(|volume| !self.journal.data.existing.contains(volume)) {
            let plugin = self.plugin()?;
            if plugin.exists(volume)? {
                plugin.remove(volume)?;
            }
        }
        Ok(())
    }

    fn restore_source(&mut self) -> Done {
        let received = self.journal.data.received.clone();
        self.look_up(&received)?;
        let source_project = self.source_project();
        let volumes = self.loaded()?.compose.volumes.clone();
        for (from, snapshot) in &received {
            let key = from.strip_prefix(&format!("{source_project}_")).unwrap_or(from);
            match volumes.iter().find(|volume| volume.data && volume.key == key) {
                Some(volume) if volume.migrable => self.plugin()?.restore(snapshot, &volume.name)?,
                Some(volume) => info!("{} keeps its data: it is labelled non-migrable", volume.name),
                None => info!("{from} has no counterpart in {}", self.name),
            }
        }
        Ok(())
    }

    fn script(&mut self, script: &str, args: &[&str]) -> Done {
        let project = self.loaded()?.project.clone();
        if !project.has(script) {
            info!("there is no {script}");
            return Ok(());
        }
        Ok(project.script(script, args, &self.node.settings.timeouts)?)
    }

    fn post_migrate(&mut self) -> Done {
        let (app, source) = (self.app.clone(), self.order.request.source_app());
        let Some(source) = source else { return Ok(()) };
        self.script("post_migrate.sh", &["-R", &source.repo, "-B", &source.branch, "-r", &app.repo, "-b", &app.branch])
    }

    fn update_script(&mut self) -> Done {
        let app = self.app.clone();
        self.script("update.sh", &["-r", &app.repo, "-b", &app.branch])
    }

    fn up(&mut self) -> Done {
        let project = self.loaded()?.project.clone();
        // What should not be there, but is, stands on a volume that the restore has replaced.
        let anew = self.journal.begun(Step::Restore) || self.journal.begun(Step::RestoreReplica);
        Ok(project.up(anew, &self.node.settings.timeouts)?)
    }

    /// Volumes go only where there were none before.
    fn down(&mut self) -> Done {
        let with_volumes = !self.journal.data.had_volumes && self.old_role()? != Role::Master;
        let timeouts = self.node.settings.timeouts.clone();
        match self.loaded() {
            Ok(loaded) => Ok(loaded.project.down(with_volumes, &timeouts)?),
            // The checkout may be damaged; the containers have to go all the same.
            Err(_) => Ok(docker::remove(&self.app.project(), with_volumes, timeouts.stop)?),
        }
    }

    fn await_healthy(&mut self) -> Done {
        let start = Instant::now();
        let (limit, settle) = (self.node.settings.timeouts.health, self.node.settings.settle);
        let project = self.app.project();
        let oneshot: Vec<String> =
            self.loaded()?.compose.services.iter().filter(|service| service.oneshot).map(|service| service.name.clone()).collect();
        loop {
            let containers = docker::containers(&project)?;
            if containers.is_empty() {
                return Err(Stop::Failed(format!("the project {project} has no container")));
            }
            let mut waiting = None;
            for container in &containers {
                match health(container, settle, oneshot.contains(&container.service)) {
                    Health::Good => {}
                    Health::Waiting(why) => waiting = Some(why),
                    Health::Bad(why) => {
                        return Err(Stop::Failed(format!("{why}; its last lines:\n{}", docker::logs(&container.id).trim_end())));
                    }
                }
            }
            let Some(why) = waiting else { return Ok(()) };
            if start.elapsed() > limit {
                return Err(Stop::Failed(format!("{why}, after {} s", limit.as_secs_f32())));
            }
            sleep(Duration::from_millis(100));
        }
    }

    // ---- commit

    /// What Consul is told of the application: its own `service.json`, else one HTTP check for each of its URLs.
    fn service(&mut self) -> Result<Value, Stop> {
        let name = self.name.clone();
        let loaded = self.loaded()?;
        Ok(service(&loaded.project, &name, &loaded.routes.checks)?)
    }

    fn register(&mut self) -> Done {
        let service = self.service()?;
        self.node.consul.register(&service)?;
        let old = self.old().map(|old| self.node.service_id(&self.name, &self.node.checkout(&self.name, &old.deploy_id)));
        match old.filter(|old| *old != service_id(&service)) {
            Some(old) => Ok(self.node.consul.deregister(&old)?),
            None => Ok(()),
        }
    }

    fn register_old(&mut self) -> Done {
        let new = service_id(&self.service()?);
        let old = match (self.old_role()?, self.old()) {
            (Role::Master, Some(old)) => {
                let folder = self.node.checkout(&self.name, &old.deploy_id);
                let loaded = self.load(folder)?;
                Some(service(&loaded.project, &self.name, &loaded.routes.checks)?)
            }
            _ => None,
        };
        if old.as_ref().map(service_id) != Some(new.clone()) {
            self.node.consul.deregister(&new)?;
        }
        match old {
            Some(old) => Ok(self.node.consul.register(&old)?),
            None => Ok(()),
        }
    }

    /// Schedules as `role` has them with this slave for `volumes`, none for those of `gone` that are not among them.
    fn set_schedules(&mut self, role: Role, slave: Option<&str>, volumes: &[String], gone: &[String]) -> Done {
        if volumes.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let wanted = match (role, slave) {
            (Role::Master, Some(slave)) => buttervolume::master_schedule(Some(&self.address_of(slave)?)),
            (Role::Master, None) => buttervolume::master_schedule(None),
            (Role::Slave, _) => buttervolume::slave_schedule(),
            (Role::None, _) => Vec::new(),
        };
        let plugin = self.plugin()?;
        let present = plugin.schedules()?;
        for volume in volumes {
            plugin.schedule(volume, &wanted, &present)?;
        }
        for volume in gone.iter().filter(|volume| !volumes.contains(volume)) {
            plugin.schedule(volume, &[], &present)?;
        }
        Ok(())
    }

    fn schedule(&mut self) -> Done {
        let Request::Deploy(deploy) = self.order.request.clone() else { return Ok(()) };
        let (volumes, gone) = (self.data_volumes()?, self.old_volumes());
        self.set_schedules(Role::Master, deploy.slave.as_deref(), &volumes, &gone)
    }

    fn schedule_old(&mut self) -> Done {
        let (role, slave) = (self.old_role()?, self.old().and_then(|old| old.slave.clone()));
        let (old, new) = (self.old_volumes(), self.data_volumes()?);
        self.set_schedules(role, slave.as_deref(), &old, &new)
    }

    fn commit(&mut self) -> Done {
        let Request::Deploy(deploy) = self.order.request.clone() else { return Ok(()) };
        let data = self.data_volumes()?;
        let ip = self.address_of(&deploy.master)?;
        let commit = self.journal.data.commit.clone();
        let (app, id) = (self.app.clone(), self.order.id.to_string());
        let previous = self.old().map(|old| old.deploy_id.clone());
        let loaded = self.loaded()?;
        let record = Record {
            haproxy: loaded.routes.haproxy.clone(),
            caddyfile: loaded.routes.caddyfile.clone(),
            repo_url: app.repo,
            branch: app.branch,
            deploy_id: id,
            previous_deploy_id: previous,
            deploy_date: Time::now().deploy_date(),
            domains: loaded.routes.domains.clone(),
            urls: loaded.routes.urls.clone(),
            ip,
            master: deploy.master,
            slave: deploy.slave,
            ct: loaded.compose.services.iter().map(|service| (service.name.clone(), service.container.clone())).collect(),
            volumes: data,
            commit,
        };
        let text = json::write(&record)?;
        let index = self.journal.header.old.as_ref().map_or(0, |(_, index)| *index);
        let key = format!("app/{}", self.name);
        self.finish_order(&[Op::Cas(&key, &text, index)])
    }

    fn commit_migrate(&mut self) -> Done {
        let index = self.journal.header.old.as_ref().map_or(0, |(_, index)| *index);
        let key = format!("app/{}", self.name);
        self.finish_order(&[Op::CheckIndex(&key, index)])
    }

    fn commit_destroy(&mut self) -> Done {
        let index = self.journal.header.old.as_ref().map_or(0, |(_, index)| *index);
        let key = format!("app/{}", self.name);
        self.finish_order(&[Op::DeleteCas(&key, index)])
    }

    // ---- after the commit

    fn settle(&mut self) -> Done {
        let id = self.order.id.to_string();
        let local = Local { role: LocalRole::Master, deploy_id: id, volumes: self.data_volumes()? };
        self.node.store.set_local(&self.name, Some(local))?;
        self.node.remove_checkouts(&self.name, Some(&self.order.id))?;
        Ok(())
    }

    fn deregister(&mut self) -> Done {
        let Some(old) = self.old() else { return Ok(()) };
        let folder = self.node.checkout(&self.name, &old.deploy_id);
        Ok(self.node.consul.deregister(&self.node.service_id(&self.name, &folder))?)
    }

    fn unschedule(&mut self) -> Done {
        let volumes = self.old_volumes();
        self.set_schedules(Role::None, None, &[], &volumes)
    }

    fn remove(&mut self) -> Done {
        let timeouts = &self.node.settings.timeouts;
        match self.old_project() {
            Some(project) => project.down(true, timeouts)?,
            None => docker::remove(&self.app.project(), true, timeouts.stop)?,
        }
        // A volume that was restored here has no label of compose's.
        let volumes = self.old_volumes();
        if !volumes.is_empty() {
            let plugin = self.plugin()?;
            for volume in volumes {
                if plugin.exists(&volume)? {
                    docker::remove_volume(&volume)?;
                }
            }
        }
        self.node.store.set_local(&self.name, None)?;
        self.node.remove_checkouts(&self.name, None)?;
        Ok(())
    }
}

pub fn parse_order(entry: &consul::Entry) -> Result<Order, String> {
    crate::model::json::read(&entry.value).map_err(|error| format!("{} in Consul is not an order: {error}", entry.key))
}

/// Moves an order that is open or has failed into the history as failed. One that is finished already stays as it is.
/// Whether it was still open.
pub fn archive_failed(node: &Node, id: &str, reason: &str) -> Result<bool, String> {
    let key = format!("order/{id}");
    loop {
        let Some(entry) = node.consul.get(&key).map_err(|error| error.to_string())? else { return Ok(false) };
        let mut order = parse_order(&entry)?;
        order.state = State::Failed;
        order.reason.get_or_insert_with(|| reason.into());
        order.finished = Some(Time::now().rfc3339());
        let (history, text) = (order.history_key(), json::write(&order)?);
        let operations = [Op::CheckIndex(&key, entry.modify_index), Op::Delete(&key), Op::Set(&history, &text)];
        if node.consul.transaction(&operations).map_err(|error| error.to_string())? {
            prune_history(node, &order.name);
            return Ok(true);
        }
    }
}

/// Keeps the newest 50 orders of an application, and up to ten more, so that not every order has all of them read. The history is for
/// people: that it is too long is no failure.
fn prune_history(node: &Node, name: &str) {
    const KEPT: usize = 50;
    let prefix = format!("history/{name}/");
    let pruned = node.consul.count(&prefix).and_then(|(count, _)| {
        let mut entries = if count > KEPT + 10 { node.consul.list(&prefix)? } else { Vec::new() };
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.modify_index));
        entries.iter().skip(KEPT).try_for_each(|entry| node.consul.delete(&entry.key))
    });
    if let Err(error) = pruned {
        warn!("the history of {name} is not pruned: {error}");
    }
}

/// `foo_data: the newest replica is 42 min old (foo_data@2026-…)`
pub fn replica_note(volume: &str, snapshot: &str) -> String {
    let taken = snapshot.split('@').nth(1).and_then(Time::parse);
    let age = taken.map_or("of unknown age".into(), |taken| format!("{} old", clock::age(Time::now().since(taken))));
    format!("{volume}: the newest replica is {age} ({snapshot})")
}

fn service(project: &Project, name: &str, checks: &[String]) -> Result<Value, String> {
    let path = project.folder.join("service.json");
    if path.is_file() {
        let text = fs::read_to_string(&path).map_err(|error| format!("service.json: {error}"))?;
        let service: Value = serde_json::from_str(&text).map_err(|error| format!("service.json: {error}"))?;
        if service["Name"].as_str().is_none_or(str::is_empty) {
            return Err("service.json: has no \"Name\"; it is what Consul's /v1/agent/service/register takes".into());
        }
        return Ok(service);
    }
    let check = |url: &String| json!({ "Name": format!("HTTP {url}"), "HTTP": url, "Interval": "60s", "Timeout": "10s" });
    Ok(json!({ "ID": name, "Name": name, "Checks": checks.iter().map(check).collect::<Vec<Value>>() }))
}

pub fn service_id(service: &Value) -> String {
    service["ID"].as_str().or(service["Name"].as_str()).unwrap_or_default().to_string()
}

enum Health {
    Good,
    Waiting(String),
    Bad(String),
}

/// Healthy: running and, with a HEALTHCHECK, healthy, else for at least `settle`. One that exited or restarted is not.
fn health(container: &Container, settle: Duration, oneshot: bool) -> Health {
    let Container { name, exit_code, .. } = container;
    if container.restarts > 0 || container.status == "restarting" {
        return Health::Bad(format!("the container {name} restarted (exit code {exit_code})"));
    }
    match (&*container.status, &container.health) {
        ("exited" | "dead", _) if oneshot && *exit_code == 0 => Health::Good,
        ("exited" | "dead", _) => Health::Bad(format!("the container {name} exited with {exit_code}")),
        ("running", Some((health, _))) if health == "healthy" => Health::Good,
        ("running", Some((health, output))) if health == "unhealthy" => {
            Health::Bad(format!("the container {name} is unhealthy: {}", output.trim()))
        }
        ("running", None) => match Time::parse(&container.started_at) {
            Some(started) if Time::now().since(started) < settle => Health::Waiting(format!("the container {name} has only just started")),
            _ => Health::Good,
        },
        ("running", Some(_)) => Health::Waiting(format!("the container {name} is not healthy yet")),
        (status, _) => Health::Waiting(format!("the container {name} is {status}")),
    }
}
