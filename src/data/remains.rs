//! What is still on this node of applications that were destroyed, or of whose record it is no part any more: kept until somebody removes it.

use std::collections::{BTreeMap, BTreeSet};

use super::{own, sets};
use crate::error::Error;
use crate::here::Here;
use crate::model::keys;
use crate::model::names::{AppName, Snapshot, Volume};
use crate::model::record::Record;
use crate::orders::{self, Open};

/// Application → volume → snapshots, oldest first, but what is set aside. `records`: of all that are deployed.
/// `open`: an order that is at work may be bringing it here.
pub fn of(
    here: &Here,
    records: &BTreeMap<AppName, Record>,
    open: &[Open],
) -> Result<BTreeMap<AppName, BTreeMap<Volume, Vec<Snapshot>>>, Error> {
    // Where it was never deployed there is no folder of it, and what was sent there all the same.
    let history = here.consul.keys(keys::HISTORIES)?;
    let ordered = history.iter().filter_map(|key| AppName::try_from(key.strip_prefix(keys::HISTORIES)?.split('/').next()?).ok());
    let me = here.me()?;
    let is_here = |record: &Record| record.master == *me || record.slave.as_ref() == Some(me);
    let is_open = |name: &AppName| open.iter().any(|open| open.order.apps().contains(name));
    let is_over = |name: &AppName| records.get(name).is_none_or(|record| !is_here(record) && !is_open(name));
    let ordered = ordered.filter(|name| !records.contains_key(name));
    let names: BTreeSet<AppName> = ordered.chain(here.apps()?).filter(is_over).collect();
    let mut remains = BTreeMap::new();
    if names.is_empty() {
        return Ok(remains);
    }
    let (own, aside) = (own::all(here)?, own::aside(here)?);
    let mut there: BTreeMap<Volume, Vec<Snapshot>> = BTreeMap::new();
    for snapshot in here.plugin().all()?.into_iter().filter(|snapshot| !aside.contains_key(snapshot)) {
        there.entry(snapshot.volume()).or_default().push(snapshot);
    }
    for name in names {
        let prefix = name.project().prefix();
        let own = own.iter().filter(|own| own.starts_with(&prefix)).filter_map(|own| Snapshot::try_from(&**own).ok());
        let known: BTreeSet<Volume> = sets::written_down(here, &name)?.into_iter().chain(own).map(|it| it.volume()).collect();
        // A migrate may have brought what is another's. What was sent here and never confirmed stands in no list.
        let is_anothers = |volume: &Volume| records.iter().any(|(other, record)| *other != name && record.volumes.contains(volume));
        let is_of = |volume: &Volume| (known.contains(volume) || volume.starts_with(&prefix)) && !is_anothers(volume);
        let of_it: BTreeMap<Volume, Vec<Snapshot>> =
            there.iter().filter(|(volume, _)| is_of(volume)).map(|(volume, all)| (volume.clone(), all.clone())).collect();
        if !of_it.is_empty() && (records.contains_key(&name) || orders::was_destroyed(&here.consul, &name)?) {
            remains.insert(name, of_it);
        }
    }
    Ok(remains)
}
