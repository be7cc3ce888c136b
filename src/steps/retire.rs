//! After the commit, only forward: what was replaced goes.

use log::warn;

use super::output::{Output, Snapshots};
use super::run::Run;
use super::{Done, Stop, gate};
use crate::data::sets::{self, Left};
use crate::data::{own, removal, schedules};
use crate::model::names::AppName;
use crate::model::record::Record;
use crate::model::roles::Role;
use crate::node::local::{self, Local, LocalRole};
use crate::service;

pub fn settle(run: &mut Run) -> Result<Output, Stop> {
    let id = (&run.order.id).into();
    let local = Local::new(LocalRole::Master, id, run.data_volumes()?);
    // Remembered before anything can come back by itself.
    local::set(&run.here, &run.name, Some(local))?;
    gate::open(run)?;
    run.here.remove_checkouts(&run.name, Some(&(&run.order.id).into()))?;
    // Of the switch: elsewhere it is what was here before the application was.
    if let (Role::Master, Some(old), Some(taken)) = (run.old_role()?, run.old(), run.taken()) {
        leave(run, &run.name, old, &[(taken, false)]);
    }
    Ok(Output::Nothing)
}

/// What nothing needs any more goes by the keep rule, like sets; whether that is written down. If not, it stays: the order is done.
pub fn leave(run: &Run, name: &AppName, record: &Record, left: &[Left]) -> bool {
    let written = sets::leave(&run.here, name, &run.order.id, record, left);
    written.inspect_err(|why| warn!("the snapshots that this order has taken stay until somebody removes them: {why}")).is_ok()
}

/// A migrate's target runs what it ran.
pub fn reopen(run: &mut Run) -> Result<Output, Stop> {
    gate::open(run)?;
    leave_migrated(run)?;
    Ok(Output::Nothing)
}

/// The target's data as it was before, and the source's as it came: this in the book of the source, where that has one here.
fn leave_migrated(run: &Run) -> Done {
    let (Some(old), Some(source)) = (run.old(), &run.journal.header.source_record) else { return Ok(()) };
    let (me, what, received) = (run.here.me()?, run.replaced(), run.received()?);
    // Of the target's old data there is no more than this: what the restores have kept is the same once more.
    let mut left = vec![(run.taken().unwrap_or_default(), true)];
    let replaced = own::known_as(&run.here, &what)?;
    left.extend(replaced.iter().map(|snapshot| (Snapshots::from([(snapshot.volume(), snapshot.clone())]), false)));
    let has_it = source.master == *me || source.slave.as_ref() == Some(me);
    match run.order.request.source_app().filter(|_| has_it) {
        Some(app) => drop(leave(run, &app.name(), source, &[(received, false)])),
        None => left.push((received, false)),
    }
    if leave(run, &run.name, old, &left) {
        own::release(&run.here, &replaced)?;
    }
    Ok(())
}

pub fn deregister(run: &mut Run) -> Result<Output, Stop> {
    if let Some(old) = run.old() {
        service::deregister(&run.here, &run.name, &old.deploy_id)?;
    }
    Ok(Output::Nothing)
}

pub fn unschedule(run: &mut Run) -> Result<Output, Stop> {
    schedules::set(&run.here.plugin(), &Vec::new(), &[], &run.old_volumes())?;
    Ok(Output::Nothing)
}

pub fn remove(run: &mut Run) -> Result<Output, Stop> {
    let checkout = run.old_checkout()?;
    let timeouts = &run.here.settings.timeouts;
    match &checkout {
        Some((checkout, _)) => checkout.down(&run.here.world, timeouts)?,
        None => run.here.engine().remove(&run.project, timeouts.stop)?,
    }
    let data = run.old_volumes();
    local::forget_volumes(&run.here, &run.name)?;
    data.iter().try_for_each(|volume| removal::remove(&run.here, &run.name, volume, None))?;
    let declared = checkout.map(|(_, compose)| compose.volumes).unwrap_or_default();
    removal::leave_ordinary(&run.here, &run.name, &data, &declared)?;
    run.here.remove_checkouts(&run.name, None)?;
    local::set(&run.here, &run.name, None)?;
    Ok(Output::Nothing)
}
