//! What orders leave: snapshots that nothing needs once they are done become sets of the book, so that they are kept, and purged, by the rule. An
//! order waits for nobody who is at the sets: it leaves them in a file of its own, and whoever is at them next takes that in.

use std::collections::BTreeMap;
use std::path::Path;

use log::warn;

use super::Part;
use crate::error::{Error, text_of};
use crate::here::{Here, LEFT};
use crate::model::json;
use crate::model::names::{AppName, OrderId, Snapshot, Volume};
use crate::model::record::Record;
use crate::model::replica::{Set, Taken, newest};

const MOST: u64 = 1 << 20;

/// Snapshots of one moment, and whether the order has replaced what they have.
pub type Left = (BTreeMap<Volume, Snapshot>, bool);

/// To be called once the order is done, as often as one likes. `record`: what was in force before it.
pub fn leave(here: &Here, name: &AppName, id: &OrderId, record: &Record, left: &[Left]) -> Result<(), Error> {
    // Where that cannot be looked at there is no book, and the plugin purges.
    if !here.sees_snapshots()? {
        return Ok(());
    }
    let mut sets = Vec::new();
    for (left, replaced) in left {
        let mut snapshots = BTreeMap::new();
        for (volume, snapshot) in left {
            let found = here.world.subvolume(&here.snapshot(snapshot))?;
            let taken = found.map(|found| Taken { snapshot: snapshot.clone(), uuid: found.stands_for().into() });
            snapshots.extend(taken.map(|taken| (volume.clone(), taken)));
        }
        let taken = newest(snapshots.values());
        sets.extend(taken.map(|taken| Set {
            snapshots,
            taken: taken.rfc3339(),
            master: record.master.clone(),
            deploy_id: record.deploy_id.clone(),
            data_id: record.data_id().clone(),
            boot: String::new(),
            millis: 0,
            counted: None,
            destroy: None,
            found: Default::default(),
            replaced: *replaced,
            unknown: Default::default(),
        }));
    }
    if sets.is_empty() {
        return Ok(());
    }
    here.paths.prepare_app(&here.world, name)?;
    let path = here.paths.left(name, id);
    let text = text_of(path.display(), &sets)?;
    Ok(here.world.replace_file(&path, &text, true)?)
}

/// Where it cannot be read, and nothing else takes it away, the health check says so.
pub fn read(here: &Here, path: &Path) -> Result<Vec<Set>, Error> {
    let text = here.world.read_file(path, MOST)?;
    let what = "what an order has left of snapshots, which are not purged (repair it, or remove it and them)";
    let read = text.map_or(Ok(Vec::new()), |text| json::read(&text));
    read.map_err(|source| Error::Json { at: path.display().to_string(), what, source })
}

pub fn take_in(part: &mut Part) -> Result<(), Error> {
    let (here, name) = (part.here, part.name);
    let folder = here.paths.app(name);
    for file in here.world.list_folder(&folder)?.into_iter().filter(|file| file.ends_with(LEFT)) {
        let path = folder.join(file);
        let sets = match read(here, &path) {
            Err(why @ Error::Json { .. }) => {
                warn!("{why}");
                continue;
            }
            read => read?,
        };
        let every = part.known()?.map_or(0, |known| known.every());
        for set in sets {
            if !part.book.has(&set) {
                part.book.add(here, name, &set, every)?;
            }
        }
        here.world.remove_file(&path)?;
    }
    Ok(())
}
