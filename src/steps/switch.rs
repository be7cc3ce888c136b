//! The switch: the old version stops, its data is kept and put where it is to be, the new one starts.

use std::time::Duration;

use log::{error, info, warn};

use super::gate;
use super::health::{Health, health};
use super::output::{Output, Restored, Snapshots};
use super::run::Run;
use super::table::Step;
use super::{Done, Stop, prepare};
use crate::data::{own, removal, replicas, restoring};
use crate::error::{Error, Fault, text_of};
use crate::model::keys;
use crate::model::maintenance::Maintenance;
use crate::model::replica::Seen;
use crate::model::variables::Variables;
use crate::outside::compose::{Checkout, Recreate};
use crate::outside::compose_file::Compose;

pub fn maintenance_on(run: &mut Run) -> Result<Output, Stop> {
    let (order, since) = (Some(run.order.id.to_string()), Some(run.here.world.clock.now().rfc3339()));
    let key = keys::maintenance(&run.name);
    // An undo starts these, whatever their names stand for by then. Where something was checked it knows them.
    let images = if run.steps().contains(&Step::Check) { Output::Nothing } else { Output::Ran(prepare::run_now(run)?) };
    run.here.consul.put(&key, &text_of(&key, &Maintenance { order, since, ..Maintenance::default() })?)?;
    Ok(images)
}

pub fn maintenance_off(run: &mut Run, _: Option<Output>) -> Done {
    Ok(run.here.consul.delete(&keys::maintenance(&run.name))?)
}

pub fn stop(run: &mut Run) -> Result<Output, Stop> {
    let stopped = gate::close(run)?;
    match run.old_checkout()? {
        Some((checkout, _)) => checkout.stop(&run.here.world, &run.here.settings.timeouts)?,
        None => run.here.engine().stop(&run.project, run.here.settings.timeouts.stop)?,
    }
    // What somebody has begun with `run` compose does not stop: it would go on writing to what is kept and sent now.
    let engine = run.here.engine();
    let jobs = engine.listed()?.into_iter().filter(|it| it.project == *run.project && !it.is_down());
    let jobs: Vec<String> = jobs.map(|job| job.name).collect();
    if !jobs.is_empty() {
        warn!("{}: stopped, too, and not started again: {}", run.name, jobs.join(", "));
        engine.stop(&run.project, run.here.settings.timeouts.stop)?;
    }
    Ok(stopped)
}

/// The old version is waited for like a new one: that an undo has worked is not known before.
pub fn start_old(run: &mut Run, stopped: Option<Output>) -> Done {
    let checkout = run.old_checkout()?;
    have_images(run, checkout.as_ref())?;
    // Twice: a stop that was cut off may go on in the engine, and stop what was believed to be up.
    for try_again in [true, false] {
        match &checkout {
            Some((checkout, _)) => checkout.up(&run.here.world, Recreate::Changed, &run.here.settings.timeouts)?,
            None => run.here.engine().start(&run.project, run.here.settings.timeouts.up)?,
        }
        let oneshots = checkout.as_ref().map(|(_, compose)| compose.oneshots()).unwrap_or_default();
        let variables = checkout.as_ref().map(|(checkout, _)| checkout.variables.clone()).unwrap_or_default();
        run.unwell = match await_all(run, &oneshots, &variables) {
            Ok(()) => None,
            Err(_) if try_again => continue,
            Err(why) => {
                error!("AFTER THE UNDO THE OLD VERSION IS NOT WELL: {why}");
                Some(why.to_string())
            }
        };
        break;
    }
    match stopped {
        Some(Output::Stopped(policies)) => gate::open_again(run, &policies),
        _ => Ok(()),
    }
}

pub fn snapshot(run: &mut Run) -> Result<Output, Stop> {
    prepare::look_again(run)?;
    // What only an earlier version had and this one has again is its data, too.
    let (mut volumes, mut existing) = (run.old_volumes(), run.checked()?.existing);
    existing.retain(|volume| !volumes.contains(volume));
    volumes.extend(existing);
    Ok(Output::Taken(run.snapshot_all(&volumes)?))
}

/// The old version starts with the images that it had. What was built and is gone is built again, from what is there; what was pulled is pulled
/// again, and may be another one by now.
fn have_images(run: &Run, checkout: Option<&(Checkout, Compose)>) -> Done {
    let gone = prepare::retag(run)?;
    let Some(first) = gone.first() else { return Ok(()) };
    let Some((checkout, compose)) = checkout else { return Err(Fault::NoImage { image: first.clone() }.into()) };
    let (world, timeouts) = (&run.here.world, &run.here.settings.timeouts);
    let services = compose.services.iter().filter(|it| it.image.as_ref().is_some_and(|image| gone.contains(image)));
    let pulled: Vec<String> = services.filter(|it| !it.build).map(|it| it.name.clone()).collect();
    let is_pulled = |image: &String| compose.services.iter().any(|it| !it.build && it.image.as_ref() == Some(image));
    if !pulled.is_empty() {
        if let Err(why) = checkout.pull(world, &pulled, timeouts) {
            warn!("{why}");
        }
        if let Some(image) = prepare::retag(run)?.into_iter().find(is_pulled) {
            return Err(Fault::NoImage { image }.into());
        }
    }
    if !gone.iter().all(is_pulled) {
        checkout.build(world, timeouts)?;
    }
    Ok(())
}

/// Only where something may have changed the volumes since.
pub fn restore_own(run: &mut Run, taken: Option<Output>) -> Done {
    let written = run.journal.written;
    restore_kept(run, taken.filter(|_| written))
}

/// That each snapshot is here is looked up before any volume is touched.
fn look_up(run: &Run, snapshots: &Snapshots) -> Result<(), Error> {
    for (volume, snapshot) in snapshots {
        if !run.here.plugin().snapshots(volume)?.contains(snapshot) {
            return Err(Fault::NotArrived { snapshot: snapshot.clone() }.into());
        }
    }
    Ok(())
}

/// What another node has sent is what is here, whole, and not hollow: from a receive until the restore, which takes it to the disk, this node has
/// not lost its power.
fn look_at_what_was_sent(run: &Run, snapshots: &Snapshots) -> Result<(), Error> {
    let handover = run.order.handover.clone().unwrap_or_default();
    if !handover.boot.is_empty() && handover.boot != run.here.world.boot()? {
        return Err(Fault::Rebooted { node: run.here.me()?.clone() }.into());
    }
    for snapshot in snapshots.values() {
        match replicas::look(&run.here, snapshot, handover.uuids.get(snapshot).map(String::as_str))? {
            None | Some(Seen::Whole) => {}
            Some(seen) => return Err(Fault::NotWhole { snapshot: snapshot.clone(), seen }.into()),
        }
    }
    Ok(())
}

pub fn restore(run: &mut Run) -> Result<Output, Stop> {
    // What this version does not declare as well: it stays with the application, as in a deploy on the same node.
    let received = run.received()?;
    look_at_what_was_sent(run, &received)?;
    put_in_place(run, &received, Restored::default())
}

pub fn put_in_place(run: &mut Run, snapshots: &Snapshots, restored: Restored) -> Result<Output, Stop> {
    let existing = run.checked()?.existing;
    look_up(run, snapshots)?;
    let created = snapshots.keys().filter(|volume| !existing.contains(*volume)).cloned().collect();
    let restored = Output::Restored(Restored { created, ..restored });
    run.journal.keep(&run.here.world, restored.clone())?;
    for (volume, snapshot) in snapshots {
        restoring::restore(&run.here, snapshot, volume, &run.replaced())?;
    }
    Ok(restored)
}

pub fn remove_restored(run: &mut Run, restored: Option<Output>) -> Done {
    let Some(Output::Restored(Restored { created, .. })) = restored else { return Ok(()) };
    // What a volume held that was here before, of a node that was fenced for one, goes back into it.
    let replaced = own::aside(&run.here)?.into_iter().filter(|(_, what)| *what == run.replaced());
    let mut kept = Snapshots::new();
    for (snapshot, _) in replaced {
        // The first: a try after it has replaced what this order had brought itself.
        kept.entry(snapshot.volume()).or_insert(snapshot);
    }
    restore_kept(run, Some(Output::Taken(kept)))?;
    Ok(created.iter().try_for_each(|volume| removal::remove(&run.here, &run.name, volume, Some(&run.failed())))?)
}

pub fn restore_source(run: &mut Run) -> Result<Output, Stop> {
    let received = run.received()?;
    look_at_what_was_sent(run, &received)?;
    look_up(run, &received)?;
    let source_prefix = run.source_prefix()?;
    let volumes = run.loaded()?.compose.volumes.clone();
    for (from, snapshot) in &received {
        let key = from.strip_prefix(&source_prefix).unwrap_or(from);
        match volumes.iter().find(|volume| volume.data && volume.key == key) {
            Some(volume) if volume.migrable => restoring::restore(&run.here, snapshot, &volume.name, &run.replaced())?,
            Some(volume) => info!("{} keeps its data: it is labelled non-migrable", volume.name),
            None => info!("{from} has no counterpart in {}", run.name),
        }
    }
    Ok(Output::Nothing)
}

fn script(run: &mut Run, script: &str, args: &[&str]) -> Result<Output, Stop> {
    let checkout = run.loaded()?.checkout.clone();
    if !checkout.script(&run.here.world, script, args, &run.here.settings.timeouts)? {
        info!("there is no {script}");
    }
    Ok(Output::Nothing)
}

pub fn post_migrate(run: &mut Run) -> Result<Output, Stop> {
    let (app, source) = (run.app.clone(), run.order.request.source_app());
    let source = source.ok_or(Fault::Impossible { what: "post_migrate.sh without a source" })?;
    script(run, "post_migrate.sh", &["-R", &source.repo.bare(), "-B", &source.branch, "-r", &app.repo.bare(), "-b", &app.branch])
}

pub fn update_script(run: &mut Run) -> Result<Output, Stop> {
    let app = run.app.clone();
    let before = keep_what_was_here(run)?;
    script(run, "update.sh", &["-r", &app.repo.bare(), "-b", &app.branch])?;
    Ok(before)
}

pub fn up(run: &mut Run) -> Result<Output, Stop> {
    let recreate = if run.journal.replaced { Recreate::All } else { Recreate::Changed };
    let loaded = run.loaded()?;
    let (mut checkout, services) = (loaded.checkout.clone(), loaded.compose.services.clone());
    // Created so; the commit gives each what its compose file says.
    checkout.keep_quiet(&run.here.world, &services)?;
    let kept = keep_what_was_here(run)?;
    prepare::tag(run)?;
    checkout.up(&run.here.world, recreate, &run.here.settings.timeouts)?;
    Ok(kept)
}

/// Where no switch has taken a snapshot, and nothing is restored: data that was here before the application was, brought along or left behind.
fn keep_what_was_here(run: &mut Run) -> Result<Output, Stop> {
    let received = run.received()?;
    let existing = run.checked()?.existing;
    if run.taken().is_some() || existing.iter().all(|volume| received.contains_key(volume)) {
        return Ok(Output::Nothing);
    }
    let mut kept = Snapshots::new();
    for volume in existing.iter().filter(|volume| !received.contains_key(*volume)) {
        kept.insert(volume.clone(), run.here.plugin().snapshot(volume)?);
    }
    run.journal.keep(&run.here.world, Output::Taken(kept.clone()))?;
    Ok(Output::Taken(kept))
}

/// What was here before, as it was.
pub fn restore_kept(run: &mut Run, kept: Option<Output>) -> Done {
    let Some(Output::Taken(kept)) = kept else { return Ok(()) };
    for (volume, snapshot) in &kept {
        if !run.journal.is_back(snapshot) && !removal::is_anothers(&run.here, &run.name, volume)? {
            restoring::restore(&run.here, snapshot, volume, &run.failed())?;
            run.journal.put_back(&run.here.world, snapshot)?;
        }
    }
    Ok(())
}

/// With the volumes that this order has made, and no others.
pub fn down(run: &mut Run, kept: Option<Output>) -> Done {
    let checked = run.checked()?;
    let loaded = run.readable()?.map(|loaded| (loaded.checkout.clone(), loaded.compose.data_volumes()));
    let timeouts = &run.here.settings.timeouts;
    let failed = run.failed();
    // The checkout may be damaged; the containers have to go all the same.
    match &loaded {
        Some((checkout, _)) => checkout.down(&run.here.world, timeouts)?,
        None => run.here.engine().remove(&run.project, timeouts.stop)?,
    }
    restore_kept(run, kept)?;
    // What is whose among the volumes cannot be told then: they stay.
    let Some((_, data)) = loaded else { return Ok(()) };
    let made = data.iter().filter(|volume| !checked.existing.contains(*volume));
    made.into_iter().try_for_each(|volume| removal::remove(&run.here, &run.name, volume, Some(&failed)))?;
    match checked.ordinary {
        Some(before) => Ok(removal::remove_made(&run.here, &run.name, &data, &before, &failed)?),
        None => Ok(()),
    }
}

pub fn await_healthy(run: &mut Run) -> Result<Output, Stop> {
    let (oneshots, variables) = (run.loaded()?.compose.oneshots(), run.loaded()?.checkout.variables.clone());
    await_all(run, &oneshots, &variables)?;
    Ok(Output::Nothing)
}

/// Waits until every container of the project is healthy.
fn await_all(run: &Run, oneshots: &[String], variables: &Variables) -> Result<(), Error> {
    let (limit, settle) = (run.here.settings.timeouts.health, run.here.settings.settle);
    let (clock, engine) = (&run.here.world.clock, run.here.engine());
    let start = clock.uptime();
    loop {
        let containers = engine.containers(&run.project)?;
        if containers.is_empty() {
            return Err(Fault::NoContainer { project: run.project.clone() }.into());
        }
        let mut waiting = None;
        for container in &containers {
            match health(container, clock.now(), settle, oneshots.contains(&container.service)) {
                Health::Good => {}
                Health::Waiting(why) => waiting = Some(why),
                Health::Bad(why) => {
                    let last_lines = Some(variables.hidden(&engine.logs(&container.id)));
                    return Err(Fault::Unhealthy { why, last_lines }.into());
                }
            }
        }
        let Some(why) = waiting else { return Ok(()) };
        if clock.uptime().saturating_sub(start) > limit {
            return Err(Fault::NotHealthyInTime { why, secs: limit.as_secs_f64() }.into());
        }
        clock.sleep(Duration::from_millis(100));
    }
}
