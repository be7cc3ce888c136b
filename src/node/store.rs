//! The handler's own files, below `<deploy dir>/.handler`: lock, seen events, inbox, and what this node runs.
//!
//! What is replaced is written beside, synced and renamed, so that a reader sees the old or the new, never a half.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::event::Event;
use crate::model::json;

/// How many event IDs are remembered.
const SEEN: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalRole {
    Master,
    Slave,
    /// Was master when another took over; stopped, its volumes kept.
    Fenced,
}

/// What this node runs or keeps of one application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Local {
    pub role: LocalRole,
    pub deploy_id: String,
    /// Data volumes.
    pub volumes: Vec<String>,
}

/// Application's name → what this node has of it.
pub type Locals = BTreeMap<String, Local>;

pub struct Store {
    folder: PathBuf,
}

fn context(what: &'static str, path: &Path) -> impl Fn(io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{what} {path}: {error}")
}

impl Store {
    pub fn open(deploy_dir: &Path) -> Result<Store, String> {
        let folder = deploy_dir.join(".handler");
        for folder in [folder.join("inbox"), folder.join("journal")] {
            fs::create_dir_all(&folder).map_err(context("cannot create", &folder))?;
        }
        // What another user has left can often be read but not replaced, and git refuses another's checkouts.
        let user = |path: &Path| fs::metadata(path).map(|found| found.uid()).map_err(context("cannot read", path));
        let (owner, me) = (user(&folder)?, user(Path::new("/proc/self"))?);
        if owner != me {
            return Err(format!(
                "{} belongs to the user {owner}, this runs as {me}; run it as that user (docker exec --user {owner} …), or give this one \
                 all of {} (chown -R {me})",
                folder.display(),
                deploy_dir.display()
            ));
        }
        Ok(Store { folder })
    }

    /// Waits until no other run of this node holds the lock; it is let go with the answer.
    pub fn lock(&self) -> Result<File, String> {
        let path = self.folder.join("lock");
        let file = File::create(&path).map_err(context("cannot create", &path))?;
        if file.try_lock().is_err() {
            log::debug!("another run of the handler is at work on this node; waiting for it");
            file.lock().map_err(context("cannot lock", &path))?;
        }
        Ok(file)
    }

    pub fn journals(&self) -> PathBuf {
        self.folder.join("journal")
    }

    fn seen_path(&self) -> PathBuf {
        self.folder.join("seen")
    }

    /// The IDs of the events that have been taken in.
    pub fn seen(&self) -> Result<HashSet<String>, String> {
        let path = self.seen_path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(String::from).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(HashSet::new()),
            Err(error) => Err(context("cannot read", &path)(error)),
        }
    }

    pub fn add_seen(&self, id: &str) -> Result<(), String> {
        let path = self.seen_path();
        let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(context("cannot open", &path))?;
        file.write_all(format!("{id}\n").as_bytes()).map_err(context("cannot write", &path))
    }

    /// Forgets the oldest IDs once there are twice as many as are to be kept. Under the lock.
    pub fn trim_seen(&self) -> Result<(), String> {
        let path = self.seen_path();
        // An ID and its line's end take 37 bytes.
        if fs::metadata(&path).map_or(0, |data| data.len()) < 2 * SEEN as u64 * 37 {
            return Ok(());
        }
        let text = fs::read_to_string(&path).map_err(context("cannot read", &path))?;
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() < 2 * SEEN {
            return Ok(());
        }
        write(&path, format!("{}\n", lines[lines.len() - SEEN..].join("\n")).as_bytes())
    }

    fn inbox_path(&self, id: &str) -> PathBuf {
        self.folder.join("inbox").join(id)
    }

    /// Keeps an event until it has become an order, whatever happens to this run, or, if `synced`, to this node.
    pub fn put_inbox(&self, event: &Event, synced: bool) -> Result<(), String> {
        let text = json::write(event)?;
        let path = self.inbox_path(&event.id);
        if synced { write(&path, &text) } else { put(&path, &text, false) }
    }

    pub fn remove_inbox(&self, event: &Event) -> Result<(), String> {
        remove(&self.inbox_path(&event.id))
    }

    /// Events that an earlier run could not take in.
    pub fn inbox(&self) -> Result<Vec<Event>, String> {
        let folder = self.folder.join("inbox");
        let mut events = Vec::new();
        for entry in fs::read_dir(&folder).map_err(context("cannot read", &folder))? {
            let path = entry.map_err(context("cannot read", &folder))?.path();
            if path.extension().is_some() {
                continue; // written only half
            }
            match fs::read(&path).map_err(|error| error.to_string()).and_then(|text| match text.is_empty() {
                true => Ok(None), // the power failed before any of it was on the disk
                false => json::read(&text).map(Some).map_err(|error| error.to_string()),
            }) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => remove(&path)?,
                Err(error) => log::error!("{}: {error}; remove it by hand", path.display()),
            }
        }
        Ok(events)
    }

    fn quiet_path(&self) -> PathBuf {
        self.folder.join("quiet")
    }

    /// Consul's index at which there was nothing to do here: as long as it stands, there is nothing.
    pub fn quiet_index(&self) -> Option<u64> {
        fs::read_to_string(self.quiet_path()).ok()?.parse().ok()
    }

    pub fn set_quiet_index(&self, index: u64) -> Result<(), String> {
        put(&self.quiet_path(), index.to_string().as_bytes(), false)
    }

    fn locals_path(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    pub fn locals(&self) -> Result<Locals, String> {
        let path = self.locals_path();
        match fs::read(&path) {
            Ok(text) => json::read(&text)
                .map_err(|error| format!("{}: {error}; repair it, or remove it to have it made anew from the records", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Locals::new()),
            Err(error) => Err(context("cannot read", &path)(error)),
        }
    }

    /// Changes what is remembered of one application; `None` forgets it. Under the lock.
    pub fn set_local(&self, name: &str, local: Option<Local>) -> Result<(), String> {
        let mut locals = self.locals()?;
        let before = match &local {
            Some(local) => locals.insert(name.into(), local.clone()),
            None => locals.remove(name),
        };
        if before == local {
            return Ok(());
        }
        let text = json::write(&locals)?;
        // were the old one back after a power failure, reconcile would find what has changed
        put(&self.locals_path(), &text, true)
    }
}

/// Replaces a file, on the disk when it returns.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    put(path, bytes, true)?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_data()).map_err(context("cannot write", folder))
}

/// Writes beside and renames; a power failure may bring the old one back, or if not `synced` leave an empty one. Two runs may write the
/// same file at once, each beside in its own.
fn put(path: &Path, bytes: &[u8], synced: bool) -> Result<(), String> {
    let beside = path.with_added_extension(format!("{}.new", std::process::id()));
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        if synced {
            file.sync_data()?;
        }
        fs::rename(&beside, path)
    });
    written.map_err(context("cannot write", path))
}

/// A file that is gone already is no error.
pub fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(context("cannot remove", path)(error)),
        _ => Ok(()),
    }
}

/// A folder that is gone already is no error.
pub fn remove_folder(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(context("cannot remove", path)(error)),
        _ => Ok(()),
    }
}
