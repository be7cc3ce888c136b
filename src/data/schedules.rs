//! What the volume plugin does by itself, by its own schedules.

use crate::about;
use crate::error::Error;
use crate::here::Here;
use crate::model::names::{Host, NodeName, Volume};
use crate::model::roles::Role;
use crate::outside::plugin::{self, Plugin, Scheduled};

/// Every 60 minutes a snapshot, on a master replicated to its slave if there is one; old ones are purged once a day.
const SNAPSHOT_MINUTES: &str = "60";
const PURGE_MINUTES: &str = "1440";
const PURGE: &str = "purge:1h:1d:1w:4w:1y";

/// The actions of a volume, with their minutes.
pub type Schedule = Vec<(String, &'static str)>;

/// Whether the handler keeps sets of what the two nodes have, this one and the `other`, if there is one: both have to be able to look at them.
/// The plugin replicates and purges nothing then: its purge takes whatever is old, set aside or not.
pub fn keeps_sets(here: &Here, other: Option<&NodeName>) -> Result<bool, Error> {
    let looks = |node| about::read(here, node).map(|about| about.confirms);
    Ok(here.sees_snapshots()? && other.map_or(Ok(true), looks)?)
}

/// Makes the schedules of `volumes` what they are to be on a node of this role, and ends those of `gone`. `other`: of a master its slave, of a slave
/// its master.
pub fn of_role(here: &Here, role: Role, other: Option<&NodeName>, volumes: &[Volume], gone: &[Volume]) -> Result<(), Error> {
    let plugin = here.plugin();
    if role != Role::None && keeps_sets(here, other)? {
        let gone: Vec<Volume> = gone.iter().filter(|volume| !volumes.contains(volume)).cloned().collect();
        set(&plugin, &Vec::new(), &[], &gone)?;
        return end_ours(here, volumes);
    }
    let wanted = match role {
        Role::Master => of_master(other.map(|slave| here.address_of(slave)).transpose()?.as_ref()),
        Role::Slave => of_slave(),
        Role::None => Vec::new(),
    };
    Ok(set(&plugin, &wanted, volumes, gone)?)
}

/// Whether the plugin takes snapshots of all of `volumes` here, for whomever.
pub fn has_any(here: &Here, volumes: &[Volume]) -> Result<bool, Error> {
    let there = here.plugin().schedules()?;
    let takes = |it: &Scheduled| it.action == "snapshot" || it.action.starts_with("replicate:");
    Ok(volumes.iter().all(|volume| there.iter().any(|it| *it.name == **volume && takes(it))))
}

/// Those that this handler or an older one has set. What is sent to who is no member of the cluster is an operator's.
pub fn end_ours(here: &Here, volumes: &[Volume]) -> Result<(), Error> {
    if volumes.is_empty() {
        return Ok(());
    }
    let (plugin, members) = (here.plugin(), here.consul.members()?);
    let to_member = |action: &str| action.strip_prefix("replicate:").is_some_and(|to| members.iter().any(|member| member.address == to));
    let ours = |action: &str| ["snapshot", PURGE].contains(&action) || to_member(action);
    for old in plugin.schedules()?.iter().filter(|old| volumes.iter().any(|volume| **volume == *old.name) && ours(&old.action)) {
        plugin.schedule(&old.name, &old.action, "0")?;
    }
    Ok(())
}

fn of_master(slave: Option<&Host>) -> Schedule {
    let copy = slave.map_or("snapshot".into(), |address| format!("replicate:{address}"));
    vec![(copy, SNAPSHOT_MINUTES), (PURGE.into(), PURGE_MINUTES)]
}

fn of_slave() -> Schedule {
    vec![(PURGE.into(), PURGE_MINUTES)]
}

/// Makes `wanted` the schedule of each of `volumes`, and ends those of `gone` that are not among them. Without either the plugin is not asked.
pub fn set(plugin: &Plugin, wanted: &Schedule, volumes: &[Volume], gone: &[Volume]) -> Result<(), plugin::Error> {
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
fn set_one(plugin: &Plugin, volume: &Volume, wanted: &Schedule, present: &[Scheduled]) -> Result<(), plugin::Error> {
    let has = |action: &str| present.iter().any(|s| *s.name == **volume && s.action == action);
    let ours = |action: &str| wanted.is_empty() || action == "snapshot" || action.starts_with("replicate:");
    let unwanted = |s: &&Scheduled| *s.name == **volume && ours(&s.action) && !wanted.iter().any(|(action, _)| *action == s.action);
    for old in present.iter().filter(unwanted) {
        plugin.schedule(volume, &old.action, "0")?;
    }
    wanted.iter().filter(|(action, _)| !has(action)).try_for_each(|(action, minutes)| plugin.schedule(volume, action, minutes))
}
