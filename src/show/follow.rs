//! Following an order to its end, whoever works on it.

use std::collections::BTreeMap;

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::members;
use crate::model::order::{Deploy, Order, Progress, Request, State};
use crate::orders;
use crate::worker;

/// Waits for the end of an order; how it ended. `told` gets a line for each step of each node, with the seconds since the start.
pub fn follow(here: &Here, order: &Order, mut told: impl FnMut(&str)) -> Result<Order, Error> {
    let clock = &here.world.clock;
    let start = clock.uptime();
    let mut seen: BTreeMap<String, Progress> = BTreeMap::new();
    let mut waits = false;
    // Since when nobody takes it up, though its turn has come.
    let mut untaken = start;
    loop {
        let (entry, index) = here.consul.get_indexed(&order.key())?;
        let elapsed = clock.uptime().saturating_sub(start);
        let mut line = |text: String| told(&format!("{:7.1} s  {text}", elapsed.as_secs_f64()));
        let Some(entry) = entry else { break };
        let now = orders::parse(&entry)?;
        for (node, at) in now.progress.iter().filter(|(node, at)| seen.get(*node).is_none_or(|seen| seen.step != at.step)) {
            line(format!("{node}: step {} of {}: {}", at.step, at.of, at.name));
        }
        seen.clone_from(&now.progress);
        let members = here.consul.members()?;
        if let (None, Request::Deploy(Deploy { master, .. })) = (&now.owner, &now.request)
            && !members::alive(&members, master)
            && !std::mem::replace(&mut waits, true)
        {
            line(format!("{master} is dead; the order waits for it, {} s at most", here.settings.timeouts.order.as_secs()));
        }
        if elapsed > here.settings.timeouts.handover * 4 {
            return Err(Fault::Unfollowed { id: order.id.to_string() }.into());
        }
        if now.owner.is_some() || orders::waits(&here.consul, &now)? {
            untaken = clock.uptime();
        }
        let waited = clock.uptime().saturating_sub(untaken);
        if let Some(reason) = worker::lost(here, &now, &members, waited)?.filter(|_| now.state != State::Failed) {
            orders::fail(here, &now.id, &reason, None)?;
        }
        here.consul.wait(&order.key(), index)?;
    }
    let (ended, _) = orders::read(&here.consul, &order.name, &order.id)?;
    let how = if ended.state == State::Done { "done" } else { "failed" };
    told(&format!("{:7.1} s  {how}", clock.uptime().saturating_sub(start).as_secs_f64()));
    Ok(ended)
}
