//! The disk of a node, which forgets what was not synced when its power fails.
//!
//! A file's content is on the disk when the file is synced, a name when its folder is, and either after half a minute at the latest. What
//! was not is lost by a power failure, or kept in part: of the names those that changed first, of a content that grew its beginning.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use handler::model::time::Time;
use handler::outside::doors::{Found, Write};

use super::super::state::Files;
use super::random::Random;

/// Nobody asks when a file was changed, but of what an older handler has left.
const LONG_AGO: Time = Time { secs: 0, micros: 0 };

/// Microseconds after which the kernel has written what nobody synced.
const WRITEBACK: u64 = 35_000_000;
const ROOT: Ino = 0;

pub type Ino = u64;
type Names = BTreeMap<String, Ino>;

#[derive(Clone)]
enum Inode {
    File {
        now: Vec<u8>,
        synced: Vec<u8>,
        /// When it began to differ from what is synced.
        dirty: Option<u64>,
    },
    Folder {
        now: Names,
        synced: Names,
    },
}

/// A change of names, not on the disk yet.
#[derive(Clone)]
struct Change {
    at: u64,
    removed: Option<(Ino, String)>,
    added: Option<(Ino, String, Ino)>,
}

#[derive(Clone)]
pub struct Disk {
    inodes: BTreeMap<Ino, Inode>,
    /// In the order in which they were made.
    pending: Vec<Change>,
    next: Ino,
    /// Whoever drives the disk sets it.
    pub time: u64,
}

fn error<T>(kind: ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

impl Default for Disk {
    /// With an empty deploy folder.
    fn default() -> Disk {
        let deploy = Names::from([("deploy".to_owned(), 1)]);
        let root = Inode::Folder { now: deploy.clone(), synced: deploy };
        let empty = Inode::Folder { now: Names::new(), synced: Names::new() };
        Disk { inodes: BTreeMap::from([(ROOT, root), (1, empty)]), pending: Vec::new(), next: 2, time: 0 }
    }
}

impl Disk {
    fn names(&self, folder: Ino) -> io::Result<&Names> {
        match &self.inodes[&folder] {
            Inode::Folder { now, .. } => Ok(now),
            Inode::File { .. } => error(ErrorKind::NotADirectory),
        }
    }

    fn at(&self, path: &Path) -> io::Result<Ino> {
        assert!(path.is_absolute(), "{}", path.display());
        let mut at = ROOT;
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    at = *self.names(at)?.get(name.to_str().unwrap_or_default()).ok_or(ErrorKind::NotFound)?;
                }
                Component::RootDir | Component::CurDir => {}
                _ => return error(ErrorKind::InvalidInput),
            }
        }
        Ok(at)
    }

    /// Its folder and its name there.
    fn place(&self, path: &Path) -> io::Result<(Ino, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(ErrorKind::InvalidInput)?;
        Ok((self.at(path.parent().ok_or(ErrorKind::InvalidInput)?)?, name.to_owned()))
    }

    fn change(&mut self, removed: Option<(Ino, String)>, added: Option<(Ino, String, Ino)>) {
        let change = Change { at: self.time, removed, added };
        apply(&mut self.inodes, &change, false);
        self.pending.push(change);
        if self.pending.len() > 200 {
            self.write_back();
        }
    }

    fn create(&mut self, folder: Ino, name: &str, inode: Inode) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, inode);
        self.change(None, Some((folder, name.to_owned(), ino)));
        ino
    }

    fn write_back(&mut self) {
        let due = self.pending.iter().take_while(|change| change.at + WRITEBACK <= self.time).count();
        for change in self.pending.drain(..due) {
            apply(&mut self.inodes, &change, true);
        }
        for inode in self.inodes.values_mut() {
            if let Inode::File { now, synced, dirty } = inode
                && dirty.is_some_and(|at| at + WRITEBACK <= self.time)
            {
                synced.clone_from(now);
                *dirty = None;
            }
        }
    }

    // ---- as the handler sees it

    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        match &self.inodes[&self.at(path)?] {
            Inode::File { now, .. } if now.len() as u64 > limit => error(ErrorKind::FileTooLarge),
            Inode::File { now, .. } => Ok(now.clone()),
            Inode::Folder { .. } => error(ErrorKind::IsADirectory),
        }
    }

    pub fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        match self.at(path) {
            Ok(ino) => Ok(Some(match &self.inodes[&ino] {
                Inode::File { now, .. } => Found { folder: false, len: now.len() as u64, owner: 0, mode: 0o600, modified: LONG_AGO },
                Inode::Folder { .. } => Found { folder: true, len: 4096, owner: 0, mode: 0o700, modified: LONG_AGO },
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        Ok(self.names(self.at(folder)?)?.keys().cloned().collect())
    }

    /// The file that is written to, as it is opened.
    pub fn open(&mut self, path: &Path) -> io::Result<Ino> {
        let (folder, name) = self.place(path)?;
        let there = self.names(folder)?.get(&name).copied();
        match there {
            Some(ino) if matches!(self.inodes[&ino], Inode::Folder { .. }) => error(ErrorKind::IsADirectory),
            Some(ino) => Ok(ino),
            None => Ok(self.create(folder, &name, Inode::File { now: Vec::new(), synced: Vec::new(), dirty: None })),
        }
    }

    pub fn write(&mut self, path: &Path, bytes: &[u8], how: Write, sync: bool) -> io::Result<()> {
        let (ino, time) = (self.open(path)?, self.time);
        let Some(Inode::File { now, synced, dirty }) = self.inodes.get_mut(&ino) else { return error(ErrorKind::IsADirectory) };
        if dirty.is_some_and(|at| at + WRITEBACK <= time) {
            synced.clone_from(now);
            *dirty = None;
        }
        if how == Write::Over {
            now.clear();
        }
        now.extend_from_slice(bytes);
        if sync {
            synced.clone_from(now);
            *dirty = None;
        } else if now != synced {
            dirty.get_or_insert(time);
        }
        Ok(())
    }

    pub fn link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (ino, (folder, name)) = (self.at(from)?, self.place(to)?);
        if self.names(folder)?.contains_key(&name) {
            return error(ErrorKind::AlreadyExists);
        }
        self.change(None, Some((folder, name, ino)));
        Ok(())
    }

    pub fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        let folder = self.at(folder)?;
        self.names(folder)?;
        let touches = |change: &Change| {
            change.removed.as_ref().is_some_and(|(at, _)| *at == folder) || change.added.as_ref().is_some_and(|(at, ..)| *at == folder)
        };
        let (synced, pending) = std::mem::take(&mut self.pending).into_iter().partition(touches);
        self.pending = pending;
        let synced: Vec<Change> = synced;
        synced.iter().for_each(|change| apply(&mut self.inodes, change, true));
        Ok(())
    }

    pub fn sync_disk(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            apply(&mut self.inodes, &change, true);
        }
        for inode in self.inodes.values_mut() {
            if let Inode::File { now, synced, dirty } = inode
                && dirty.take().is_some()
            {
                synced.clone_from(now);
            }
        }
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, ino) = (self.place(from)?, self.at(from)?);
        let to = self.place(to)?;
        if let Some(there) = self.names(to.0)?.get(&to.1) {
            match (&self.inodes[&ino], &self.inodes[there]) {
                (Inode::File { .. }, Inode::Folder { .. }) => return error(ErrorKind::IsADirectory),
                (Inode::Folder { .. }, Inode::File { .. }) => return error(ErrorKind::NotADirectory),
                (_, Inode::Folder { now, .. }) if !now.is_empty() => return error(ErrorKind::DirectoryNotEmpty),
                _ => {}
            }
        }
        self.change(Some(from), Some((to.0, to.1, ino)));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) -> io::Result<()> {
        if let Inode::Folder { .. } = self.inodes[&self.at(path)?] {
            return error(ErrorKind::IsADirectory);
        }
        let place = self.place(path)?;
        self.change(Some(place), None);
        Ok(())
    }

    /// One name after the other, from the bottom.
    pub fn remove_all(&mut self, folder: &Path) -> io::Result<()> {
        for name in self.list(folder)? {
            let path = folder.join(name);
            match self.inodes[&self.at(&path)?] {
                Inode::Folder { .. } => self.remove_all(&path)?,
                Inode::File { .. } => self.remove(&path)?,
            }
        }
        let place = self.place(folder)?;
        self.change(Some(place), None);
        Ok(())
    }

    pub fn create_folders(&mut self, folder: &Path) -> io::Result<()> {
        let mut path = std::path::PathBuf::from("/");
        for part in folder.components().skip(1) {
            path.push(part);
            match self.look(&path)? {
                Some(found) if found.folder => {}
                Some(_) => return error(ErrorKind::AlreadyExists),
                None => {
                    let (folder, name) = self.place(&path)?;
                    self.create(folder, &name, Inode::Folder { now: Names::new(), synced: Names::new() });
                }
            }
        }
        Ok(())
    }

    // ---- what happens to it

    /// What is there afterwards is what was synced, and a part of the rest.
    pub fn power_failure(&mut self, random: &mut Random) {
        self.write_back();
        let all = self.pending.len() as u64;
        let kept = match random.below(3) {
            0 => 0,
            1 => all,
            _ => random.below(all + 1),
        };
        for change in std::mem::take(&mut self.pending).iter().take(kept as usize) {
            apply(&mut self.inodes, change, true);
        }
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File { now, synced, dirty } => {
                    if dirty.take().is_some() {
                        torn(now, synced, random);
                    }
                    now.clone_from(synced);
                }
                Inode::Folder { now, synced } => now.clone_from(synced),
            }
        }
    }

    /// Everything that is there, for comparing.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.below(ROOT, "", &mut found);
        found
    }

    fn below(&self, folder: Ino, path: &str, found: &mut Vec<String>) {
        for (name, ino) in self.names(folder).into_iter().flatten() {
            found.push(format!("{path}/{name}"));
            self.below(*ino, &format!("{path}/{name}"), found);
        }
    }
}

/// Leaves in `synced` what a power failure leaves of a file of which nothing newer was synced.
fn torn(now: &[u8], synced: &mut Vec<u8>, random: &mut Random) {
    let kept = random.below(3);
    if now.starts_with(synced) {
        let tail = &now[synced.len()..];
        let part = if kept == 2 { random.below(tail.len() as u64 + 1) as usize } else { tail.len() * kept as usize };
        synced.extend_from_slice(&tail[..part]);
    } else if kept > 0 {
        // It was cut first, then written.
        let part = if kept == 2 { random.below(now.len() as u64 + 1) as usize } else { 0 };
        *synced = now[..part].to_vec();
    }
}

fn apply(inodes: &mut BTreeMap<Ino, Inode>, change: &Change, on_disk: bool) {
    let mut names = |folder: &Ino, with: &mut dyn FnMut(&mut Names)| {
        if let Some(Inode::Folder { now, synced }) = inodes.get_mut(folder) {
            with(if on_disk { synced } else { now });
        }
    };
    if let Some((folder, name)) = &change.removed {
        names(folder, &mut |names| {
            names.remove(name);
        });
    }
    if let Some((folder, name, ino)) = &change.added {
        names(folder, &mut |names| {
            names.insert(name.clone(), *ino);
        });
    }
}

/// As the programs of the node see it; they sync nothing.
impl Files for Disk {
    fn read(&self, path: &Path) -> Option<String> {
        String::from_utf8(Disk::read(self, path, u64::MAX).ok()?).ok()
    }

    fn write(&mut self, path: &Path, text: &str) {
        self.create_folders(path.parent().unwrap()).unwrap();
        Disk::write(self, path, text.as_bytes(), Write::Over, false).unwrap();
    }

    fn remove(&mut self, path: &Path) {
        // A power failure may have taken it.
        Disk::remove(self, path).ok();
    }

    fn list(&self, folder: &Path) -> Vec<(String, bool)> {
        let is_folder = |name: &String| self.look(&folder.join(name)).is_ok_and(|found| found.is_some_and(|found| found.folder));
        Disk::list(self, folder).unwrap_or_default().into_iter().map(|name| (name.clone(), is_folder(&name))).collect()
    }
}
