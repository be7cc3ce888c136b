//! Going through the steps of a run: forward, back, and on from where a killed run has left them.

use std::time::Duration;

use log::{debug, error, info, warn};

use super::journal::{Begins, Part};
use super::run::Run;
use super::table::{Flag, Step, Undo};
use super::verdict::{Facts, Fate, Says, Verdict, verdict};
use super::{Done, Stop, prepare};
use crate::error::{Error, Fault, in_consul};
use crate::model::keys;
use crate::model::members;
use crate::model::names::NodeName;
use crate::model::order::{Order, Progress, Request, State};
use crate::model::record::Record;
use crate::node::local::{Local, LocalRole};
use crate::node::{done, reconcile};
use crate::orders::{self, Failing};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Done,
    Failed,
    /// Not at its end; a later run takes it up from the journal.
    Left,
}

impl Run {
    /// The journal was opened only because each of them is known.
    pub fn steps(&self) -> Vec<Step> {
        self.journal.header.steps.iter().filter_map(|name| Step::named(name)).collect()
    }

    /// The number of the step after which there is no way back.
    fn commit_at(&self) -> Option<usize> {
        self.steps().iter().position(|step| step.is(Flag::Commit))
    }

    /// From the first step to the end. That this node takes part is said first, so that nobody forgets what it may have to undo.
    pub fn start(mut self, owner: NodeName, source: Option<NodeName>) -> Outcome {
        let first = self.first_progress();
        let (part, origin) = (self.journal.header.part, self.journal.header.origin);
        let me = match self.here.me() {
            Ok(me) => me.to_string(),
            Err(why) => return Run::left(&why.into()),
        };
        let (request, notes) = (self.order.request.clone(), self.order.notes.clone());
        let taken = self.update(|order| {
            if part == Part::Owner {
                // With the slave that the application is to have, and what is to be said of it.
                order.request = request.clone();
                order.notes.clone_from(&notes);
                order.owner = Some(owner.clone());
                order.source = source.clone();
            }
            order.origin = order.origin.or(origin);
            order.progress.extend(first.clone().map(|first| (me.clone(), first)));
        });
        match taken {
            // Somebody has decided otherwise since the plan was made.
            Ok(()) if self.order.origin != origin => self.finish(Outcome::Done),
            Ok(()) => self.go(0),
            Err(stop) => self.give_up(stop),
        }
    }

    /// What a killed run has left. An order that is undone here and still open is taken up again from its beginning.
    pub fn resume(self) -> Outcome {
        let (at, steps) = (self.journal.at, self.steps());
        info!("a run was killed at step {} of {}: {}", at + 1, steps.len(), steps.get(at).map(Step::to_string).unwrap_or_default());
        if let Some(mark) = self.here.world.mark()
            && let Err(why) = self.here.world.processes.end_marked(mark)
        {
            error!("{why}; nothing is changed until they have");
            return Outcome::Left;
        }
        match done::has(&self.here, &self.name, &self.order.id) {
            Ok(true) => self.finish(Outcome::Done), // it was killed before its journal was gone, or its disk has forgotten that
            Ok(false) => self.decide(),
            Err(why) => Run::left(&why),
        }
    }

    /// What becomes of this run now, by the record.
    fn decide(mut self) -> Outcome {
        let facts = match self.facts() {
            Ok(facts) => facts,
            Err(why) => return Run::left(&why),
        };
        let verdict = verdict(facts);
        debug!("{facts:?}: {verdict:?}");
        let given_up = self.here.me().is_ok_and(|me| self.order.given_up.contains(me));
        let (at, steps) = (self.journal.at, self.steps());
        let commit = self.commit_at().unwrap_or(steps.len());
        match verdict {
            _ if given_up => {
                warn!("its undo was given up by hand: the journal is set aside, and nothing is changed");
                // But for names: what is started by them later is the version that the record names.
                if verdict == Verdict::Undo
                    && self.old_images().is_ok()
                    && let Err(why) = prepare::retag(&self)
                {
                    warn!("the images of the old version have not got their names back: {why}");
                }
                let aside = self.here.paths.given_up(&self.name, &self.order.id);
                match self.journal.set_aside(&self.here.world, &aside) {
                    Ok(()) => Outcome::Failed,
                    Err(why) => Run::left(&why),
                }
            }
            Verdict::Finish => self.go(at.max(commit + 1)),
            Verdict::StartAgain => {
                let up = steps.iter().position(|step| *step == Step::Up).unwrap_or(at);
                self.go(up)
            }
            Verdict::Await => self.go(commit),
            Verdict::Undo if facts.fate == Fate::Unknown => match self.say_again() {
                Ok(()) => self.decide(),
                Err(why) => Run::left(&why),
            },
            Verdict::Undo => self.undo_all(),
            Verdict::Drop | Verdict::Fence => {
                warn!(
                    "somebody has gone on since, or Consul was put back: what this run had begun is neither finished nor undone; the record decides \
                     what runs here"
                );
                match self.leave(facts, verdict) {
                    Ok(()) if verdict == Verdict::Fence => self.end(),
                    Ok(()) => self.drop_journal(facts.fate),
                    Err(why) => Run::left(&why),
                }
            }
        }
    }

    fn facts(&mut self) -> Result<Facts, Error> {
        let fate = match orders::read(&self.here.consul, &self.name, &self.order.id) {
            Ok((order, index)) => {
                self.archived = index.is_none();
                self.index = index.unwrap_or(self.index);
                self.order = order;
                match self.order.state {
                    State::Done => Fate::Done,
                    State::Failed => Fate::Failed,
                    State::Open | State::Ready | State::Sent => Fate::Open,
                }
            }
            Err(Error::Fault(Fault::Vanished { .. })) => Fate::Unknown,
            Err(why) => return Err(why),
        };
        let me = self.here.me()?.clone();
        let id = &*self.order.id;
        let entry = self.here.consul.get(&keys::app(&self.name))?;
        let index = entry.as_ref().map_or(0, |entry| entry.modify_index);
        let record: Option<Record> = entry.map(|entry| in_consul(&entry, "a record")).transpose()?;
        let mine = record.as_ref().is_some_and(|record| record.master == me);
        let ours = match (&self.order.request, &record) {
            (Request::Deploy(_), Some(record)) => *record.deploy_id == *id,
            (Request::Migrate(_), Some(record)) => record.data_id.as_ref().is_some_and(|data| **data == *id),
            (Request::Destroy(_), None) => fate == Fate::Done,
            _ => false,
        };
        let (at, steps) = (self.journal.at, self.steps());
        let past = self.commit_at().is_some_and(|commit| commit < at);
        let healthy = steps[..at.min(steps.len())].contains(&Step::AwaitHealthy);
        // No record then and none now, and nobody knows the order: whether the commit has been cannot be told.
        let lost = index == 0 && fate == Fate::Unknown && healthy;
        // Nothing was deployed since, even if somebody has written to it by hand, or has put it back: what stood in for it knew no more.
        let remembered = self.old_index() == 0;
        let reign = |record: &Record| (record.master.clone(), record.deploy_id.clone(), (!remembered).then(|| record.data_id().clone()));
        let same = record.as_ref().map(reign).zip(self.old().map(reign)).is_some_and(|(now, then)| now == then);
        // One that has vanished says nothing, unless another order was done since.
        let is_known = |last: Order| *last.id == *id || self.old().is_some_and(|old| *old.deploy_id == *last.id);
        let vanished = index == 0 && (past || fate != Fate::Done) && orders::last_done(&self.here.consul, &self.name)?.is_none_or(is_known);
        // Consul was put back to before the old one was deployed, of which it knows nothing: nobody has gone on from that.
        let older = match (&record, self.old()) {
            (Some(now), Some(old)) if now.master == old.master && !same => {
                orders::all_done(&self.here.consul, &self.name)?.iter().all(|done| *done.id != *old.deploy_id)
            }
            _ => false,
        };
        let says = match record {
            _ if ours || past && vanished => Says::Ours,
            _ if (same || older || index == self.old_index() || vanished) && !lost => Says::Unchanged,
            _ => Says::Changed,
        };
        Ok(Facts {
            part: self.journal.header.part,
            says,
            fate,
            mine,
            past,
            removes: steps.contains(&Step::Remove),
            going_back: self.journal.undoing.is_some() || self.journal.any_undone(),
            healthy,
            handed_over: self.sent().is_some_and(|sent| sent == self.order.snapshots),
        })
    }

    /// Its key was removed, by hand perhaps; the other node may be at it still.
    fn say_again(&self) -> Result<(), Error> {
        let mut order = self.order.clone();
        let mut begun = vec![self.here.me()?.clone()];
        // The journal's is that of its first line.
        if matches!(order.request, Request::Deploy(_)) {
            order.snapshots = self.sent().or(self.received().ok()).unwrap_or(order.snapshots);
            order.owner = order.owner.or(NodeName::try_from(self.owner()).ok());
            begun.extend(order.owner.clone());
        }
        if let Some(first) = self.first_progress() {
            for node in begun {
                order.progress.entry(node.to_string()).or_insert_with(|| first.clone());
            }
        }
        order.reason.get_or_insert_with(|| "its key vanished from Consul while it was carried out".into());
        warn!(
            "the order is neither open nor in the history: it is said again, as failed, so that each node that has begun undoes its part"
        );
        orders::say_again(&self.here, &order)
    }

    /// What a deploy has started, registered and scheduled here, where another node is the master now, and what was to be removed here: once the
    /// journal is gone nobody knows of it any more.
    fn leave(&mut self, facts: Facts, verdict: Verdict) -> Result<(), Error> {
        let up = self.steps().iter().position(|step| *step == Step::Up);
        let is_deploy = facts.part == Part::Owner && matches!(self.order.request, Request::Deploy(_));
        let local = if is_deploy && !facts.mine && up.is_some_and(|up| up <= self.journal.furthest) {
            // Of a checkout that is damaged the record may still know the volumes.
            let volumes = if self.readable()?.is_some() { self.data_volumes()? } else { self.old_volumes() };
            Local::new(LocalRole::Master, (&self.order.id).into(), volumes)
        } else if let Some(old) = self.old().filter(|_| verdict == Verdict::Fence) {
            Local::new(LocalRole::Master, old.deploy_id.clone(), old.volumes.clone())
        } else {
            return Ok(());
        };
        reconcile::leave(&self.here, &self.name, &local)
    }

    /// A migrate's source has nothing to finish or to undo, and leaves no more than snapshots.
    fn drop_journal(self, fate: Fate) -> Outcome {
        match fate {
            Fate::Open => {
                let why = Fault::RecordChanged { app: self.name.clone() }.to_string();
                self.say_undone(&why)
            }
            Fate::Failed => self.say_undone("for an unknown reason"),
            Fate::Done => self.end(),
            Fate::Unknown => self.finish(Outcome::Done),
        }
    }

    fn go(mut self, from: usize) -> Outcome {
        let steps = self.steps();
        let commit = self.commit_at().unwrap_or(steps.len());
        for (at, step) in steps.iter().enumerate().skip(from) {
            match self.begin(at, *step).and_then(|()| (step.row().act)(&mut self)) {
                Ok(output) => self.journal.left_behind(output),
                // The owner has finished it: the way goes on behind the commit, if the record says so.
                Err(Stop::Done) if at == commit => return self.decide(),
                Err(stop) if at <= commit => return self.give_up(stop),
                Err(stop) => {
                    let why = match stop {
                        Stop::Failed(why) | Stop::Away(why) => why.to_string(),
                        Stop::Obey(why) => why,
                        Stop::Done => continue,
                    };
                    error!("the order is done, but step {} ({step}) failed and will be tried again: {why}", at + 1);
                    return Outcome::Left;
                }
            }
        }
        info!("done");
        self.end()
    }

    /// The order is done, and this node's part of it. Without a commit, as of a migrate's source, it may fail yet.
    fn end(self) -> Outcome {
        match self.commit_at().map_or(Ok(()), |_| done::remember(&self.here, &self.name, &self.order.id)) {
            Ok(()) => self.finish(Outcome::Done),
            Err(why) => Run::left(&why),
        }
    }

    fn progress(&self, at: usize, step: Step) -> Progress {
        let since = self.here.world.clock.now().rfc3339();
        Progress { step: at + 1, of: self.steps().len(), name: step.row().name.into(), since }
    }

    fn first_progress(&self) -> Option<Progress> {
        self.steps().first().map(|first| self.progress(0, *first))
    }

    fn begin(&mut self, at: usize, step: Step) -> Done {
        let begins = Begins { at, writes: step.is(Flag::Writes), replaces: step.is(Flag::Replaces) };
        self.journal.begin(&self.here.world, begins, !step.is(Flag::Repeatable))?;
        info!("step {} of {}: {}: {step}", at + 1, self.journal.header.steps.len(), step.row().name);
        if step.is(Flag::Away) {
            self.here.consul = self.here.consul.patient(self.here.settings.timeouts.handover);
        }
        if self.commit_at().is_some_and(|commit| commit < at) {
            return Ok(()); // the order has left `order/`; writing its progress there would open it again
        }
        let me = self.here.me()?.to_string();
        let nothing_to_do = match step {
            Step::Pull => self.pulled()?.0.is_empty(),
            Step::Build => !self.builds()?,
            _ => step.is(Flag::Quick),
        };
        // The first step has been told with the order's owner.
        if nothing_to_do || self.order.progress.get(&me).is_some_and(|told| told.step == at + 1) {
            return Ok(());
        }
        let progress = self.progress(at, step);
        if step == Step::Stop {
            self.order.stopped.get_or_insert_with(|| progress.since.clone());
        }
        self.order.progress.insert(me, progress);
        match self.here.consul.try_cas(&self.order.key(), &orders::text(&self.order)?, self.index) {
            Ok(Some(index)) => self.index = index,
            Ok(None) => self.refresh()?,
            Err(error) => debug!("progress is not written: {error}"),
        }
        Ok(())
    }

    fn finish(self, outcome: Outcome) -> Outcome {
        match self.journal.remove(&self.here.world) {
            Ok(()) => outcome,
            Err(error) => {
                error!("{error}");
                Outcome::Left
            }
        }
    }

    fn left(why: &Error) -> Outcome {
        error!("{why}; everything is left as it is, to be taken up by a later run");
        Outcome::Left
    }

    fn give_up(mut self, stop: Stop) -> Outcome {
        match stop {
            Stop::Away(why) => Run::left(&why),
            Stop::Done => self.decide(),
            Stop::Obey(reason) => {
                error!("the order has failed: {reason}");
                self.decide()
            }
            Stop::Failed(why) => {
                let reason = why.to_string();
                error!("failed: {reason}");
                if let Err(why) = self.journal.undo_for(&self.here.world, &reason) {
                    error!("{why}");
                    return Outcome::Left;
                }
                // An owner has first to stop what it has started: then its source starts its own again.
                let told = if self.journal.header.part == Part::Owner { Ok(()) } else { self.say_failed(&reason, false) };
                match told {
                    Ok(()) => self.decide(),
                    Err(why) => Run::left(&why),
                }
            }
        }
    }

    /// From here on the others undo their part, too. `down`: an owner has stopped what it had started.
    fn say_failed(&mut self, reason: &str, down: bool) -> Result<(), Error> {
        let owner = self.journal.header.part == Part::Owner;
        let told = self.update(|order| {
            order.state = State::Failed;
            order.reason.get_or_insert_with(|| reason.into());
            order.down |= owner && down;
        });
        match told {
            Ok(()) | Err(Stop::Obey(_) | Stop::Done) => Ok(()),
            Err(Stop::Failed(why) | Stop::Away(why)) => Err(why),
        }
    }

    /// Undoes the steps up to the one that has begun, the last first, each once. What comes after the switch is undone even where something
    /// fails, the switch itself only as far as it goes. The checkout goes last, and only when nothing needs it any more.
    fn undo_all(mut self) -> Outcome {
        let steps = self.steps();
        let mut reason = self.journal.undoing.clone();
        let failed = self.order.state == State::Failed;
        if failed {
            reason = reason.or(self.order.reason.clone()).or(Some("for an unknown reason".into()));
        }
        if let Some(reason) = reason.as_deref().filter(|_| self.journal.undoing.is_none())
            && let Err(why) = self.journal.undo_for(&self.here.world, reason)
        {
            return Run::left(&why);
        }
        // Of a run that was killed before it could say that it goes back nobody knows: the owner may go on.
        if let Some(reason) = reason.as_deref()
            && self.journal.header.part == Part::Source
            && matches!(self.order.state, State::Open | State::Ready | State::Sent)
        {
            return match self.say_failed(reason, false) {
                Ok(()) => self.decide(),
                Err(why) => Run::left(&why),
            };
        }
        if self.owner_may_have_it_up() {
            info!(
                "the order has failed, and {0} has not said yet that it has stopped what it had started: waiting for that. Where nothing of it can \
                 run on {0}: handler cancel {1} --give-up {0}",
                self.owner(),
                self.order.id
            );
            return Outcome::Left;
        }
        let mut stuck = None;
        // Whether something of the new version may still be up here.
        let up = steps.iter().position(|step| *step == Step::Up).unwrap_or(0);
        let owner = self.journal.header.part == Part::Owner;
        let mut told = failed && (!owner || self.order.down);
        for (at, step) in steps.iter().enumerate().take(self.journal.furthest + 1).rev() {
            if at < up
                && let Some(reason) = reason.as_deref().filter(|_| !std::mem::replace(&mut told, true))
                && let Err(why) = self.say_failed(reason, true)
            {
                return Run::left(&why);
            }
            if self.journal.is_undone(at) {
                continue;
            }
            if at == 0 && stuck.is_some() {
                break;
            }
            debug!("undo: {step}");
            if let Err(why) = self.undo_step(at, *step).and_then(|()| self.journal.undid(&self.here.world, at)) {
                error!("undoing \"{step}\" failed, and is tried again by the next run: {why}");
                stuck = Some(format!("\"{step}\": {why}"));
                if step.is(Flag::Gate) {
                    break;
                }
            }
        }
        let Some(stuck) = stuck else {
            return match reason {
                Some(reason) => self.say_undone(&reason),
                // Still open, and nobody has failed it: it is taken up again from its beginning.
                None => self.finish(Outcome::Done),
            };
        };
        let Some(reason) = reason else { return Outcome::Left };
        // It has failed, even if its undo never ends: so that others know of it, a person can give the undo up, and the old version serves as soon
        // as nothing of the new one is up, whatever cannot be removed.
        let said = if told { Ok(()) } else { self.say_failed(&reason, self.nothing_is_up()) };
        let said = said.and_then(|()| orders::undo_failed(&self.here, &self.order.id, self.here.me()?, &stuck));
        said.map_or_else(|why| Run::left(&why), |()| Outcome::Left)
    }

    /// Without a restart policy nothing of it comes up again, and an undo of a move starts nothing on its owner.
    fn nothing_is_up(&self) -> bool {
        self.here.engine().projects().is_ok_and(|projects| projects.get(&*self.project) != Some(&true))
    }

    fn undone_late(&self) -> Result<(), Error> {
        orders::undone_late(&self.here, &self.name, &self.order.id, self.here.me()?)
    }

    /// A source that has sent its data starts nothing again while the new version may be up: until its owner says that it is down, has undone
    /// its part, is dead, or a person has given it up.
    fn owner_may_have_it_up(&self) -> bool {
        let Order { state, owner, down, undone, pending, given_up, .. } = &self.order;
        let (Some(owner), Some(sent)) = (owner, self.sent()) else { return false };
        // With other snapshots the owner has never heard of these. In the history all is undone, but by those who seemed dead.
        let told = self.journal.header.part == Part::Owner || sent != self.order.snapshots || *state != State::Failed;
        if told || *down || undone.contains(owner) || given_up.contains(owner) || (self.archived && !pending.contains(owner)) {
            return false;
        }
        // Who cannot be asked about may live.
        self.here.consul.members().map_or(true, |members| members::alive(&members, owner))
    }

    /// This node has nothing of a failed order left.
    fn say_undone(self, reason: &str) -> Outcome {
        let reason = match &self.unwell {
            Some(why) => format!("{reason}; and after the undo the old version is not well: {why}"),
            None => reason.into(),
        };
        let said = match self.here.me() {
            Ok(me) => orders::fail(&self.here, &self.order.id, &reason, Some(me)),
            Err(why) => Err(why.into()),
        };
        match said {
            Ok(Failing::Undoing(nodes)) => {
                let nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
                info!("undone here; still to be undone on {}", nodes.join(", "));
                self.finish(Outcome::Failed)
            }
            Ok(Failing::Archived) => self.finish(Outcome::Failed),
            Ok(Failing::Gone) => match self.undone_late() {
                Ok(()) => self.finish(Outcome::Failed),
                Err(why) => Run::left(&why),
            },
            Err(why) => Run::left(&why),
        }
    }

    fn undo_step(&mut self, at: usize, step: Step) -> Result<(), Error> {
        const TRIES: u32 = 3;
        let Undo::By(undo) = step.row().undo else { return Ok(()) };
        let output = self.journal.output_of(at).cloned();
        let mut tries = 1;
        loop {
            match undo(self, output.clone()) {
                Ok(()) | Err(Stop::Done) => return Ok(()),
                Err(Stop::Failed(why)) if tries < TRIES => {
                    warn!("undoing \"{step}\" failed, trying it again: {why}");
                    tries += 1;
                    self.here.world.clock.sleep(Duration::from_millis(200));
                }
                Err(Stop::Failed(why) | Stop::Away(why)) => return Err(why),
                Err(Stop::Obey(_)) => return Err(Fault::Impossible { what: "an undo that obeys an order" }.into()),
            }
        }
    }
}
