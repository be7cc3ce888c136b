//! Before an application moves, requests are turned to where it goes: see [`Turn`].

use std::time::Duration;

use log::warn;

use super::Stop;
use super::output::Output;
use super::run::Run;
use crate::about;
use crate::error::text_of;
use crate::model::keys;
use crate::model::maintenance::{Maintenance, Turn};
use crate::model::names::NodeName;

/// The application runs meanwhile. What proxies have not done until then does not keep it from moving.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn turn(run: &mut Run) -> Result<Output, Stop> {
    let here = run.here.clone();
    let (Ok(to), from) = (NodeName::try_from(run.owner()), here.me()?.clone()) else { return Ok(Output::Nothing) };
    // Where an operator has other proxies nobody would answer.
    if !here.settings.proxy_protocol || !about::read(&here, &to)?.peered {
        return Ok(Output::Nothing);
    }
    let key = keys::maintenance(&run.name);
    let start = here.world.clock.uptime();
    loop {
        let (entry, index) = here.consul.get_indexed(&key)?;
        let Some(entry) = entry else { return Ok(Output::Nothing) };
        let mut maintenance = Maintenance::read(&entry.value);
        let left = PATIENCE.saturating_sub(here.world.clock.uptime().saturating_sub(start));
        match &maintenance.turn {
            Some(turn) if turn.turned => return Ok(Output::Nothing),
            Some(_) if left.is_zero() => break,
            Some(_) => drop(here.consul.wait_below(&key, index, left)?),
            None => {
                maintenance.turn = Some(Turn::new(from.clone(), to.clone()));
                here.consul.cas(&key, &text_of(&key, &maintenance)?, entry.modify_index)?;
            }
        }
    }
    warn!(
        "{}: the proxies of {from} and {to} have not said that they lead there: requests that wait during the move may end with 502",
        run.name
    );
    Ok(Output::Nothing)
}
