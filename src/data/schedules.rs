//! What the volume plugin does by itself, by its own schedules.

use crate::model::names::{Host, Volume};
use crate::outside::plugin::{Error, Plugin, Scheduled};

/// Every 60 minutes a snapshot, on a master replicated to its slave if there is one; old ones are purged once a day.
const SNAPSHOT_MINUTES: &str = "60";
const PURGE_MINUTES: &str = "1440";
const PURGE: &str = "purge:1h:1d:1w:4w:1y";

/// The actions of a volume, with their minutes.
pub type Schedule = Vec<(String, &'static str)>;

pub fn of_master(slave: Option<&Host>) -> Schedule {
    let copy = slave.map_or("snapshot".into(), |address| format!("replicate:{address}"));
    vec![(copy, SNAPSHOT_MINUTES), (PURGE.into(), PURGE_MINUTES)]
}

pub fn of_slave() -> Schedule {
    vec![(PURGE.into(), PURGE_MINUTES)]
}

/// Makes `wanted` the schedule of each of `volumes`, and ends those of `gone` that are not among them. Without either the plugin is not asked.
pub fn set(plugin: &Plugin, wanted: &Schedule, volumes: &[Volume], gone: &[Volume]) -> Result<(), Error> {
    if volumes.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let present = plugin.schedules()?;
    for volume in volumes {
        set_one(plugin, volume, wanted, &present)?;
    }
    gone.iter().filter(|volume| !volumes.contains(volume)).try_for_each(|volume| set_one(plugin, volume, &Vec::new(), &present))
}

/// Looks first, so that it does nothing when nothing differs. What an operator has scheduled besides stays until nothing at all is wanted.
fn set_one(plugin: &Plugin, volume: &Volume, wanted: &Schedule, present: &[Scheduled]) -> Result<(), Error> {
    let has = |action: &str| present.iter().any(|s| *s.name == **volume && s.action == action);
    let ours = |action: &str| wanted.is_empty() || action == "snapshot" || action.starts_with("replicate:");
    let unwanted = |s: &&Scheduled| *s.name == **volume && ours(&s.action) && !wanted.iter().any(|(action, _)| *action == s.action);
    for old in present.iter().filter(unwanted) {
        plugin.schedule(volume, &old.action, "0")?;
    }
    wanted.iter().filter(|(action, _)| !has(action)).try_for_each(|(action, minutes)| plugin.schedule(volume, action, minutes))
}
