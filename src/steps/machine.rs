//! Going through the steps of a run: forward, back, and on from where a killed run has left them.

use std::time::Duration;

use log::{debug, error, info, warn};

use super::journal::{Begins, Part};
use super::run::Run;
use super::table::{Flag, Step, Undo};
use super::{Done, Stop};
use crate::error::{Error, Fault};
use crate::model::names::NodeName;
use crate::model::order::{Progress, State};
use crate::orders;

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
    fn steps(&self) -> Vec<Step> {
        self.journal.header.steps.iter().filter_map(|name| Step::named(name)).collect()
    }

    /// The number of the step after which there is no way back.
    fn commit_at(&self) -> Option<usize> {
        self.steps().iter().position(|step| step.is(Flag::Commit))
    }

    /// From the first step to the end. The owner says first that it has taken the order up.
    pub fn start(mut self, owner: NodeName, source: Option<NodeName>) -> Outcome {
        if self.journal.header.part == Part::Owner {
            let first = self.steps().first().map(|first| self.progress(0, *first));
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
        let at = self.journal.at;
        let steps = self.steps();
        info!("a run was killed at step {} of {}: {}", at + 1, steps.len(), steps.get(at).map(Step::to_string).unwrap_or_default());
        if let Some(mark) = self.here.world.mark()
            && let Err(why) = self.here.world.processes.end_marked(mark)
        {
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
        match (state, self.commit_at()) {
            (Ok(State::Open | State::Ready | State::Sent), _) if self.journal.undoing.is_some() => {
                let reason = self.journal.undoing.clone().unwrap_or_default();
                self.undo_and_archive(&reason)
            }
            (Ok(State::Done), Some(commit)) if owner || self.handed_over() => self.go(at.max(commit + 1)),
            // Another node has taken over; reconcile finds out what that means here.
            (Ok(State::Done), _) => self.finish(Outcome::Done),
            // Half undone: only backwards.
            (Ok(_), _) if self.journal.any_undone() => self.undo_for_another_try(at),
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
        self.sent().is_some_and(|sent| sent == self.order.snapshots)
    }

    fn go(mut self, from: usize) -> Outcome {
        let steps = self.steps();
        let commit = self.commit_at().unwrap_or(steps.len());
        for (at, step) in steps.iter().enumerate().skip(from) {
            let result = self.begin(at, *step).and_then(|()| (step.row().act)(&mut self));
            match result {
                Ok(output) => self.journal.left_behind(output),
                Err(Stop::Done) if at <= commit && self.handed_over() => {}
                Err(stop) if at <= commit => return self.give_up(stop),
                Err(Stop::Failed(why) | Stop::Away(why)) => {
                    error!("the order is done, but step {} ({step}) failed and will be tried again: {why}", at + 1);
                    return Outcome::Left;
                }
                Err(Stop::Obey(why)) => {
                    error!("the order is done, but step {} ({step}) failed and will be tried again: {why}", at + 1);
                    return Outcome::Left;
                }
                Err(Stop::Done) => {}
            }
        }
        info!("done");
        self.finish(Outcome::Done)
    }

    fn progress(&self, at: usize, step: Step) -> Progress {
        let since = self.here.world.clock.now().rfc3339();
        Progress { step: at + 1, of: self.steps().len(), name: step.row().name.into(), since }
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
        error!("{why}; everything is left as it is, to be taken up when Consul is back");
        Outcome::Left
    }

    fn give_up(mut self, stop: Stop) -> Outcome {
        match stop {
            // Not for us to undo: the node that finished it has the data now.
            Stop::Done => self.finish(Outcome::Done),
            Stop::Away(why) => Run::left(&why),
            Stop::Obey(reason) => {
                error!("the order has failed: {reason}");
                self.undo_and_archive(&reason)
            }
            // The others hear of it when this node has stopped what it had started: the source starts its own again.
            Stop::Failed(why) if self.journal.header.part == Part::Owner => {
                let reason = why.to_string();
                error!("failed: {reason}");
                match self.journal.undo_for(&self.here.world, &reason) {
                    Ok(()) => self.undo_and_archive(&reason),
                    Err(why) => {
                        error!("{why}");
                        Outcome::Left
                    }
                }
            }
            Stop::Failed(why) => {
                let reason = why.to_string();
                error!("failed: {reason}");
                let told = self.update(|order| {
                    order.state = State::Failed;
                    order.reason = Some(reason.clone());
                });
                match told {
                    Ok(()) => self.undo_and_archive(&reason),
                    Err(Stop::Obey(theirs)) => self.undo_and_archive(&theirs),
                    Err(Stop::Done) if self.handed_over() => {
                        let commit = self.commit_at().unwrap_or(0);
                        self.go(commit + 1)
                    }
                    Err(Stop::Done) => self.finish(Outcome::Done),
                    Err(Stop::Away(why) | Stop::Failed(why)) => Run::left(&why),
                }
            }
        }
    }

    fn undo_and_archive(mut self, reason: &str) -> Outcome {
        let clean = self.undo(self.journal.at);
        match orders::archive_failed(&self.here, &self.order.id, reason) {
            Ok(_) if clean => self.finish(Outcome::Failed),
            Ok(_) => Outcome::Left,
            Err(why) => {
                error!("{why}");
                Outcome::Left
            }
        }
    }

    /// Undoes the steps up to and with `at`, the last first, each once; whether all of it worked. What comes after the switch
    /// is undone even where something fails, the switch itself only as far as it goes.
    fn undo(&mut self, at: usize) -> bool {
        let steps = self.steps();
        let mut clean = true;
        for (at, step) in steps.iter().enumerate().take(at + 1).rev() {
            if self.journal.is_undone(at) {
                continue;
            }
            debug!("undo: {step}");
            let undone = self.undo_step(at, *step).and_then(|()| self.journal.undid(&self.here.world, at));
            if let Err(why) = undone {
                error!("undoing \"{step}\" failed, and is tried again by the next run: {why}");
                clean = false;
                if step.is(Flag::Gate) {
                    return false;
                }
            }
        }
        clean
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
