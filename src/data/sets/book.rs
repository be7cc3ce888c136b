//! What this node has itself taken or confirmed of an application's data. Nothing else is ever purged. The file is replaced as a whole: it is
//! read and written under the lock of the sets alone.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

use super::purge;
use crate::error::{Error, text_of};
use crate::here::Here;
use crate::model::keep;
use crate::model::names::{AppName, Snapshot};
use crate::model::replica::{Set, Taken};
use crate::model::time::Time;
use crate::orders;

const MOST: u64 = 64 << 20;

pub struct Book {
    /// In the order in which they were written down.
    pub sets: Vec<Set>,
}

/// `None`: nothing is written down.
pub fn parsed<T: DeserializeOwned>(here: &Here, name: &AppName) -> Result<Option<T>, Error> {
    let path = here.paths.sets(name).0;
    let Some(text) = here.world.read_file(&path, MOST)? else { return Ok(None) };
    let what = "what this node has written down of its sets (repair it, or remove it: then nothing that stands in it is ever purged)";
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Json { at: path.display().to_string(), what, source })
}

impl Book {
    pub fn read(here: &Here, name: &AppName) -> Result<Book, Error> {
        Ok(Book { sets: parsed(here, name)?.unwrap_or_default() })
    }

    /// On the disk when this returns.
    fn write(&self, here: &Here, name: &AppName) -> Result<(), Error> {
        let path = here.paths.sets(name).0;
        let text = text_of(path.display(), &self.sets)?;
        Ok(here.world.replace_file(&path, &text, true)?)
    }

    pub fn has(&self, set: &Set) -> bool {
        self.sets.iter().any(|known| known.snapshots == set.snapshots)
    }

    /// A later set may be of the same snapshots: of volumes that nobody has written to a newer plugin takes none. `every`: minutes from one to
    /// the next.
    pub fn add(&mut self, here: &Here, name: &AppName, set: &Set, every: u32) -> Result<(), Error> {
        let before = self.sets.clone();
        let latest = before.iter().rev().find_map(Set::when);
        let counted = Time::parse(&set.taken).map(|taken| keep::counted(latest, taken, every));
        self.sets.retain(|known| known.snapshots != set.snapshots);
        let destroy = purge::lives_since(&orders::all_done(&here.consul, name)?, set);
        self.sets.push(Set { counted, destroy, ..set.clone() });
        // What could not be written down is not kept by it.
        self.write(here, name).inspect_err(|_| self.sets = before)
    }

    /// Of this volume the one stands for the other: nobody has written to it between them.
    pub fn replace(&mut self, here: &Here, name: &AppName, old: &Snapshot, new: &Taken) -> Result<(), Error> {
        for taken in self.sets.iter_mut().flat_map(|set| set.snapshots.values_mut()).filter(|taken| taken.snapshot == *old) {
            *taken = new.clone();
        }
        self.write(here, name)
    }

    pub fn strike(&mut self, here: &Here, name: &AppName, goes: &[Set]) -> Result<(), Error> {
        self.sets.retain(|known| !goes.iter().any(|set| set.snapshots == known.snapshots));
        self.write(here, name)
    }

    pub fn names(&self) -> BTreeSet<Snapshot> {
        self.sets.iter().flat_map(Set::names).cloned().collect()
    }
}
