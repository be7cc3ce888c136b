//! The one door through which a volume goes.
//!
//! What must hold: nothing that exists nowhere else is deleted. So nothing stands on the volume that could run again, a snapshot of it is
//! taken and seen listed, and only then it is removed. An ordinary volume, of another driver, cannot be snapshotted: it stays, unless its compose
//! file calls it disposable or this very order has made it, and nothing stands on it.

use log::{info, warn};

use super::{others, own};
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::names::{AppName, Volume};
use crate::outside::compose_file;
use crate::outside::engine::Made;

/// A volume of the data driver, which the application `name` has. One that is gone already has been through here. `aside`: what it is, if
/// nothing stands on what it holds.
pub fn remove(here: &Here, name: &AppName, volume: &Volume, aside: Option<&str>) -> Result<(), Error> {
    let (plugin, engine) = (here.plugin(), here.engine());
    if !plugin.exists(volume)? {
        return Ok(());
    }
    if is_anothers(here, name, volume)? {
        return Ok(());
    }
    if let Some((container, _)) = engine.containers_on(volume)?.pop_first() {
        return Err(Fault::VolumeInUse { volume: volume.to_string(), container }.into());
    }
    let snapshot = own::take(here, volume, aside)?;
    if !plugin.snapshots(volume)?.contains(&snapshot) {
        return Err(Fault::NotKept { volume: volume.clone(), snapshot }.into());
    }
    info!("removing the volume {volume}; what it holds is kept as {snapshot}");
    Ok(engine.remove_volume(volume)?)
}

/// The undo of one that gave a volume the name of another's leaves it as it is: it is that one's by its record, or, of two that did so at the same
/// time and have none yet, by the containers that it has begun here.
pub fn is_anothers(here: &Here, name: &AppName, volume: &Volume) -> Result<bool, Error> {
    let mut others = others::read(here, name)?.into_iter();
    let of_record = others.find(|(_, record)| record.volumes.iter().any(|it| **it == **volume)).map(|(other, _)| other);
    let (project, on) = (name.project(), here.engine().containers_on(volume)?);
    let is_on = |other: &AppName| other.project() != project && on.values().any(|project| *project == *other.project());
    let begins = |other: &AppName| is_on(other) && here.world.is_file(&here.paths.journal(other));
    let owner = of_record.or(here.apps()?.into_iter().find(begins));
    if let Some(other) = &owner {
        warn!("the volume {volume} is {other}'s: it stays as it is");
    }
    Ok(owner.is_some())
}

/// The ordinary volumes of a project that leaves this node: those that the version which leaves calls disposable go, the others are named and kept.
/// Docker's labels are those that a volume was made with.
pub fn leave_ordinary(here: &Here, app: &AppName, data: &[Volume], declared: &[compose_file::Volume]) -> Result<(), Error> {
    for made in here.engine().volumes(&app.project())? {
        let name = &made.name;
        if data.iter().any(|data| **data == **name) {
            continue;
        }
        if declared.iter().any(|volume| *volume.name == **name && volume.disposable && !volume.data) {
            let what = "what it held when the application, which called it disposable, left this node";
            remove_unused(here, app, &made, "is labelled disposable", what)?;
        } else {
            warn!("the volume {name} is none of the recorded data volumes: it stays on this node; docker volume rm {name} removes it");
        }
    }
    Ok(())
}

/// The ordinary volumes that an order which is being undone has made: those of the project that were not here `before`.
pub fn remove_made(here: &Here, app: &AppName, data: &[Volume], before: &[String], failed: &str) -> Result<(), Error> {
    for made in here.engine().volumes(&app.project())? {
        if !before.contains(&made.name) && !data.iter().any(|data| **data == *made.name) {
            remove_unused(here, app, &made, "was made by this order", failed)?;
        }
    }
    Ok(())
}

/// Nobody needs that it goes: what somebody else has mounted stays, and nothing waits for it. One that is of the data driver, whatever a compose file
/// says of it, goes through the door, and is set aside as `what`.
fn remove_unused(here: &Here, app: &AppName, made: &Made, why: &str, what: &str) -> Result<(), Error> {
    let volume = &made.name;
    match here.engine().containers_on(volume)?.pop_first() {
        Some((container, _)) => {
            warn!("the volume {volume} {why}, but the container {container} is on it: it stays; docker volume rm {volume} removes it")
        }
        None if made.driver == here.settings.driver => match Volume::try_from(&**volume) {
            Ok(volume) => remove(here, app, &volume, Some(what))?,
            Err(why) => warn!("the volume {volume} stays: {why}"),
        },
        None => {
            info!("removing the volume {volume}, which {why}");
            here.engine().remove_volume(volume)?;
        }
    }
    Ok(())
}
