//! After the commit, only forward: what was replaced goes.

use super::Stop;
use super::output::Output;
use super::run::Run;
use crate::data::schedules;
use crate::node::local::{self, Local, LocalRole};
use crate::outside::compose::Volumes;
use crate::service;

pub fn settle(run: &mut Run) -> Result<Output, Stop> {
    let id = (&run.order.id).into();
    let local = Local::new(LocalRole::Master, id, run.data_volumes()?);
    local::set(&run.here, &run.name, Some(local))?;
    run.here.remove_checkouts(&run.name, Some(&(&run.order.id).into()))?;
    Ok(Output::Nothing)
}

pub fn deregister(run: &mut Run) -> Result<Output, Stop> {
    if let Some(old) = run.old() {
        run.here.consul.deregister(&service::id_of(&run.here, &run.name, &old.deploy_id))?;
    }
    Ok(Output::Nothing)
}

pub fn unschedule(run: &mut Run) -> Result<Output, Stop> {
    schedules::set(&run.here.plugin(), &Vec::new(), &[], &run.old_volumes())?;
    Ok(Output::Nothing)
}

pub fn remove(run: &mut Run) -> Result<Output, Stop> {
    let checkout = run.old_checkout();
    let (timeouts, engine) = (&run.here.settings.timeouts, run.here.engine());
    match checkout {
        Some(checkout) => checkout.down(&run.here.world, Volumes::Remove, timeouts)?,
        None => {
            engine.remove(&run.project, timeouts.stop)?;
            engine.volumes(&run.project)?.iter().try_for_each(|volume| engine.remove_volume(volume))?;
        }
    }
    // A volume that was restored here has no label of compose's.
    let plugin = run.here.plugin();
    for volume in run.old_volumes() {
        if plugin.exists(&volume)? {
            engine.remove_volume(&volume)?;
        }
    }
    run.here.remove_checkouts(&run.name, None)?;
    local::set(&run.here, &run.name, None)?;
    Ok(Output::Nothing)
}
