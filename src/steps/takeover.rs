//! From a dead master: what is restored is chosen right before, each time anew, and written into the order first.

use log::{info, warn};

use super::output::{Output, Restored};
use super::run::Run;
use super::{Stop, switch};
use crate::data::own;
use crate::data::takeover::{self, Choice};
use crate::error::{Error, Fault};
use crate::model::names::Snapshot;
use crate::model::order::Request;

impl Run {
    /// What a takeover starts from, as things are now.
    pub fn choice(&self) -> Result<Choice, Error> {
        match (self.old(), &self.order.request) {
            (Some(old), Request::Deploy(deploy)) => {
                takeover::choose(&self.here, &self.name, old, deploy, &self.taken().unwrap_or_default())
            }
            _ => Err(Fault::Impossible { what: "a takeover of what nobody has deployed" }.into()),
        }
    }
}

impl Run {
    /// Right before the commit: what has been confirmed meanwhile is newer than what was restored, and what has arrived is set aside. What starts
    /// empty may do so for the same reasons as before.
    pub fn chose_the_newest(&mut self) -> Result<(), Error> {
        if !self.takes_over() {
            return Ok(());
        }
        let chosen = self.restored().map(|restored| restored.chosen).unwrap_or_default();
        let choice = self.choice()?;
        if choice.snapshots != chosen {
            return Err(Fault::NewerConfirmed { snapshots: choice.snapshots.into_values().collect() }.into());
        }
        self.set_aside(&choice.unused)
    }

    fn set_aside(&self, unused: &[Snapshot]) -> Result<(), Error> {
        let what = format!("a newer set that the takeover of the order {} did not use", self.order.id);
        let known = own::all(&self.here)?;
        for snapshot in unused.iter().filter(|snapshot| !known.contains(&***snapshot)) {
            own::remember(&self.here, snapshot, Some(&what))?;
            info!("{snapshot} is set aside");
        }
        Ok(())
    }
}

pub fn restore_replica(run: &mut Run) -> Result<Output, Stop> {
    run.master_is_dead()?;
    let Choice { snapshots, notes, unused } = run.choice()?;
    for note in &notes {
        warn!("taking over: {note}");
    }
    run.set_aside(&unused)?;
    run.update(|order| order.snapshots.clone_from(&snapshots))?;
    switch::put_in_place(run, &snapshots, Restored { chosen: snapshots.clone(), notes, ..Restored::default() })
}
