//! The switch: the old version stops, its data is kept and put where it is to be, the new one starts.

use std::time::Duration;

use log::info;
use serde_json::json;

use super::health::{Health, health};
use super::output::{Output, Restored, Snapshots};
use super::prepare::retag;
use super::run::Run;
use super::{Done, Stop};
use crate::error::{Error, Fault};
use crate::model::keys;
use crate::model::roles::Role;
use crate::outside::compose::{Recreate, Volumes};

pub fn maintenance_on(run: &mut Run) -> Result<Output, Stop> {
    let value = json!({ "order": run.order.id, "since": run.here.world.clock.now().rfc3339() });
    run.here.consul.put(&keys::maintenance(&run.name), value.to_string().as_bytes())?;
    Ok(Output::Nothing)
}

pub fn maintenance_off(run: &mut Run, _: Option<Output>) -> Done {
    Ok(run.here.consul.delete(&keys::maintenance(&run.name))?)
}

pub fn stop(run: &mut Run) -> Result<Output, Stop> {
    match run.old_checkout() {
        Some(checkout) => checkout.stop(&run.here.world, &run.here.settings.timeouts)?,
        None => run.here.engine().stop(&run.project, run.here.settings.timeouts.stop)?,
    }
    Ok(Output::Nothing)
}

pub fn start_old(run: &mut Run, _: Option<Output>) -> Done {
    retag(run, None)?;
    match run.old_checkout() {
        Some(checkout) => checkout.up(&run.here.world, Recreate::Changed, &run.here.settings.timeouts)?,
        None => run.here.engine().start(&run.project, run.here.settings.timeouts.up)?,
    }
    Ok(())
}

pub fn snapshot(run: &mut Run) -> Result<Output, Stop> {
    Ok(Output::Taken(run.snapshot_all(&run.old_volumes())?))
}

/// Only where something may have changed the volumes since.
pub fn restore_own(run: &mut Run, taken: Option<Output>) -> Done {
    let Some(Output::Taken(taken)) = taken.filter(|_| run.journal.written) else { return Ok(()) };
    for (volume, snapshot) in &taken {
        run.here.plugin().restore(snapshot, volume)?;
    }
    Ok(())
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

pub fn restore(run: &mut Run) -> Result<Output, Stop> {
    let (data, existing) = (run.data_volumes()?, run.checked()?.existing);
    let mut received = run.received()?;
    received.retain(|volume, _| data.contains(volume));
    look_up(run, &received)?;
    let created = received.keys().filter(|volume| !existing.contains(*volume)).cloned().collect();
    let restored = Output::Restored(Restored { created });
    run.journal.keep(&run.here.world, restored.clone())?;
    for (volume, snapshot) in &received {
        run.here.plugin().restore(snapshot, volume)?;
    }
    Ok(restored)
}

pub fn remove_restored(run: &mut Run, restored: Option<Output>) -> Done {
    let Some(Output::Restored(Restored { created })) = restored else { return Ok(()) };
    let plugin = run.here.plugin();
    for volume in &created {
        if plugin.exists(volume)? {
            plugin.remove(volume)?;
        }
    }
    Ok(())
}

pub fn restore_source(run: &mut Run) -> Result<Output, Stop> {
    let received = run.received()?;
    look_up(run, &received)?;
    let source_prefix = run.source_prefix()?;
    let volumes = run.loaded()?.compose.volumes.clone();
    for (from, snapshot) in &received {
        let key = from.strip_prefix(&source_prefix).unwrap_or(from);
        match volumes.iter().find(|volume| volume.data && volume.key == key) {
            Some(volume) if volume.migrable => run.here.plugin().restore(snapshot, &volume.name)?,
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
    script(run, "post_migrate.sh", &["-R", &source.repo, "-B", &source.branch, "-r", &app.repo, "-b", &app.branch])
}

pub fn update_script(run: &mut Run) -> Result<Output, Stop> {
    let app = run.app.clone();
    script(run, "update.sh", &["-r", &app.repo, "-b", &app.branch])
}

pub fn up(run: &mut Run) -> Result<Output, Stop> {
    let recreate = if run.journal.replaced { Recreate::All } else { Recreate::Changed };
    let checkout = run.loaded()?.checkout.clone();
    checkout.up(&run.here.world, recreate, &run.here.settings.timeouts)?;
    Ok(Output::Nothing)
}

/// Volumes go only where there were none before.
pub fn down(run: &mut Run, _: Option<Output>) -> Done {
    let new_here = run.old_role()? != Role::Master && !run.checked()?.had_volumes;
    let volumes = if new_here { Volumes::Remove } else { Volumes::Keep };
    let checkout = run.loaded().map(|loaded| loaded.checkout.clone());
    let (timeouts, engine) = (&run.here.settings.timeouts, run.here.engine());
    if let Ok(checkout) = checkout {
        return Ok(checkout.down(&run.here.world, volumes, timeouts)?);
    }
    // The checkout may be damaged; the containers have to go all the same.
    engine.remove(&run.project, timeouts.stop)?;
    if volumes == Volumes::Remove {
        engine.volumes(&run.project)?.iter().try_for_each(|volume| engine.remove_volume(volume))?;
    }
    Ok(())
}

pub fn await_healthy(run: &mut Run) -> Result<Output, Stop> {
    let (limit, settle) = (run.here.settings.timeouts.health, run.here.settings.settle);
    let oneshot: Vec<String> =
        run.loaded()?.compose.services.iter().filter(|service| service.oneshot).map(|service| service.name.clone()).collect();
    let (clock, engine) = (&run.here.world.clock, run.here.engine());
    let start = clock.uptime();
    loop {
        let containers = engine.containers(&run.project)?;
        if containers.is_empty() {
            return Err(Fault::NoContainer { project: run.project.clone() }.into());
        }
        let mut waiting = None;
        for container in &containers {
            match health(container, clock.now(), settle, oneshot.contains(&container.service)) {
                Health::Good => {}
                Health::Waiting(why) => waiting = Some(why),
                Health::Bad(why) => return Err(Fault::Unhealthy { why, last_lines: Some(engine.logs(&container.id)) }.into()),
            }
        }
        let Some(why) = waiting else { return Ok(Output::Nothing) };
        if clock.uptime().saturating_sub(start) > limit {
            return Err(Fault::NotHealthyInTime { why, secs: limit.as_secs_f32() }.into());
        }
        clock.sleep(Duration::from_millis(100));
    }
}
