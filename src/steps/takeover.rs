//! From a dead master: what is restored is chosen right before, each time anew, and written into the order first.

use log::{info, warn};

use super::output::{Output, Restored};
use super::run::Run;
use super::{Stop, switch};
use crate::data::own;
use crate::data::takeover::{self, Choice};
use crate::error::{Error, Fault};
use crate::model::order::Request;

impl Run {
    /// What a takeover starts from, as things are now.
    pub fn choice(&mut self) -> Result<Choice, Error> {
        let data = self.loaded()?.compose.data_volumes();
        match (self.old(), &self.order.request) {
            (Some(old), Request::Deploy(deploy)) => takeover::choose(&self.here, &self.name, old, deploy, &data),
            _ => Err(Fault::Impossible { what: "a takeover of what nobody has deployed" }.into()),
        }
    }
}

pub fn restore_replica(run: &mut Run) -> Result<Output, Stop> {
    run.master_is_dead()?;
    let Choice { snapshots, notes, unused } = run.choice()?;
    for note in &notes {
        warn!("taking over: {note}");
    }
    let what = format!("a newer set that the takeover of the order {} did not use", run.order.id);
    for snapshot in &unused {
        own::remember(&run.here, snapshot, Some(&what))?;
        info!("{snapshot} is set aside");
    }
    run.update(|order| order.snapshots.clone_from(&snapshots))?;
    switch::put_in_place(run, &snapshots, Restored { chosen: snapshots.clone(), notes, ..Restored::default() })
}
