//! What is still on this node of applications that were destroyed: kept until somebody removes it.

use std::collections::{BTreeMap, BTreeSet};

use super::{own, sets};
use crate::error::Error;
use crate::here::Here;
use crate::model::names::{AppName, Snapshot, Volume};
use crate::model::record::Record;
use crate::orders;

/// Application → volume → snapshots, oldest first, but what is set aside. `records`: of all that are deployed.
pub fn of(here: &Here, records: &BTreeMap<AppName, Record>) -> Result<BTreeMap<AppName, BTreeMap<Volume, Vec<Snapshot>>>, Error> {
    let (own, aside) = (own::all(here)?, own::aside(here)?);
    let snapshot = |name: &String| Snapshot::try_from(&**name).ok();
    let mut remains = BTreeMap::new();
    for name in here.apps()?.into_iter().filter(|name| !records.contains_key(name)) {
        if !orders::was_destroyed(&here.consul, &name)? {
            continue;
        }
        let mut known = sets::written_down(here, &name)?;
        let prefix = name.project().prefix();
        // What was sent here and never confirmed stands in no list.
        known.extend(
            here.world.list_folder_if_any(&here.settings.snapshots)?.iter().filter(|it| it.starts_with(&prefix)).filter_map(snapshot),
        );
        known.extend(own.iter().filter(|own| own.starts_with(&prefix)).filter_map(snapshot));
        // A migrate may have brought what is another's.
        let is_used = |volume: &Volume| records.values().any(|record| record.volumes.contains(volume));
        let mut of_it = BTreeMap::new();
        for volume in known.iter().map(Snapshot::volume).filter(|volume| !is_used(volume)).collect::<BTreeSet<Volume>>() {
            let mut there = here.plugin().snapshots(&volume)?;
            there.retain(|snapshot| !aside.contains_key(snapshot));
            if !there.is_empty() {
                of_it.insert(volume, there);
            }
        }
        if !of_it.is_empty() {
            remains.insert(name, of_it);
        }
    }
    Ok(remains)
}
