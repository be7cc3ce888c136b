//! After the commit, only forward: what was replaced goes.

use super::output::Output;
use super::run::Run;
use super::{Stop, gate};
use crate::data::{removal, schedules};
use crate::node::local::{self, Local, LocalRole};
use crate::service;

pub fn settle(run: &mut Run) -> Result<Output, Stop> {
    let id = (&run.order.id).into();
    let local = Local::new(LocalRole::Master, id, run.data_volumes()?);
    // Remembered before anything can come back by itself.
    local::set(&run.here, &run.name, Some(local))?;
    gate::open(run)?;
    run.here.remove_checkouts(&run.name, Some(&(&run.order.id).into()))?;
    Ok(Output::Nothing)
}

/// A migrate's target runs what it ran.
pub fn reopen(run: &mut Run) -> Result<Output, Stop> {
    gate::open(run)?;
    Ok(Output::Nothing)
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
    match checkout {
        Some((checkout, _)) => checkout.down(&run.here.world, timeouts)?,
        None => run.here.engine().remove(&run.project, timeouts.stop)?,
    }
    let data = run.old_volumes();
    data.iter().try_for_each(|volume| removal::remove(&run.here, &run.name, volume, None))?;
    removal::leave_ordinary(&run.here, &run.project, &data)?;
    run.here.remove_checkouts(&run.name, None)?;
    local::set(&run.here, &run.name, None)?;
    Ok(Output::Nothing)
}
