//! Between the stop of a switch and its commit nothing starts by itself.
//!
//! What must hold: no container, old or new, has a restart policy then; what an engine that comes back would start might be written to, and
//! that would be lost with the undo or with the move. The old ones' policies are in the journal before they are taken away, the new ones are
//! created without; the commit and a completed undo both give them back. A node that reboots in between starts nothing by itself: its next
//! run goes on by the journal.

use std::collections::BTreeMap;

use super::Done;
use super::output::Output;
use super::run::Run;
use crate::error::Error;
use crate::outside::engine::Restart;

/// Container's name → what it had.
pub type Policies = BTreeMap<String, Restart>;

/// To be called before the old version stops.
pub fn close(run: &mut Run) -> Result<Output, Error> {
    let engine = run.here.engine();
    let containers = engine.containers(&run.project)?;
    let never = Restart::never();
    // A try before this one may have taken them away already: what it had found counts.
    let mut policies = match run.journal.output() {
        Some(Output::Stopped(policies)) => policies.clone(),
        _ => Policies::new(),
    };
    for container in containers.iter().filter(|container| container.restart != never) {
        policies.entry(container.name.clone()).or_insert_with(|| container.restart.clone());
    }
    run.journal.keep(&run.here.world, Output::Stopped(policies.clone()))?;
    for container in containers.iter().filter(|container| container.restart != never) {
        engine.set_restart(&container.id, &never)?;
    }
    Ok(Output::Stopped(policies))
}

/// Gives the old version's containers back what they had.
pub fn open_again(run: &Run, policies: &Policies) -> Done {
    Ok(give(run, |name, _| policies.get(name).cloned())?)
}

/// Gives the new version's containers what its compose file says, and starts those that a power failure since has kept down.
pub fn open(run: &mut Run) -> Done {
    let services = run.loaded()?.compose.services.clone();
    let of = |service: &str| services.iter().find(|it| it.name == service).map(|it| it.restart.clone());
    Ok(give(run, |_, service| of(service))?)
}

fn give(run: &Run, wanted: impl Fn(&str, &str) -> Option<Restart>) -> Result<(), Error> {
    let engine = run.here.engine();
    for container in engine.containers(&run.project)? {
        let Some(policy) = wanted(&container.name, &container.service) else { continue };
        if policy != container.restart {
            engine.set_restart(&container.id, &policy)?;
        }
        let has_ended_well = policy.name == "on-failure" && container.status == "exited" && container.exit_code == 0;
        if policy != Restart::never() && ["created", "exited"].contains(&&*container.status) && !has_ended_well {
            engine.start_one(&container.id, run.here.settings.timeouts.up)?;
        }
    }
    Ok(())
}
