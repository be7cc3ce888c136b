//! The journal of one run of an order: what it set out to do and how far it came, so that a killed run can be finished or undone.
//!
//! A file of JSON lines: the first says what is to be done, each later one the step that is about to begin and what the
//! steps before it learnt. A line is synced before its step begins; a torn last line is as good as not written.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::json;
use crate::model::order::Order;
use crate::model::record::Record;
use crate::node::store;
use crate::steps::plan::{Part, Step};

/// What does not change during a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    pub order: Order,
    pub part: Part,
    pub steps: Vec<Step>,
    /// The record when the order was taken, and the index it was last changed at.
    pub old: Option<(Record, u64)>,
    /// Of the application whose data a migrate copies.
    pub source_record: Option<Record>,
    /// The address of the node that data is sent to.
    pub peer_address: Option<String>,
}

/// What the steps have learnt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    pub commit: Option<String>,
    /// Image name → ID, of the containers that ran before.
    pub images: BTreeMap<String, String>,
    /// The data volumes that this node had before.
    pub existing: Vec<String>,
    /// Whether the project had any volume on this node before, data or not.
    pub had_volumes: bool,
    /// Volume → snapshot taken in the switch.
    pub snapshots: BTreeMap<String, String>,
    /// Volume of the source → snapshot to restore from.
    pub received: BTreeMap<String, String>,
    pub notes: Vec<String>,
    /// Why the steps are being undone.
    #[serde(default)]
    pub undoing: Option<String>,
    /// The steps that are undone. Once is enough: the second time would restore over what the old deployment wrote since.
    #[serde(default)]
    pub undone: Vec<usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    at: usize,
    data: Data,
}

#[derive(Debug)]
pub struct Journal {
    pub path: PathBuf,
    file: File,
    pub header: Header,
    /// The step that has begun.
    pub at: usize,
    pub data: Data,
}

fn error(path: &Path, error: impl std::fmt::Display) -> String {
    format!("journal {}: {error}", path.display())
}

impl Journal {
    pub fn create(folder: &Path, header: Header) -> Result<Journal, String> {
        let path = folder.join(&*header.order.id);
        let mut text = json::write(&header).map_err(|e| error(&path, e))?;
        text.push(b'\n');
        store::write(&path, &text)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| error(&path, e))?;
        Ok(Journal { path, file, header, at: 0, data: Data::default() })
    }

    /// The journals that killed runs have left.
    pub fn left(folder: &Path) -> Result<Vec<Journal>, String> {
        let mut journals = Vec::new();
        for entry in fs::read_dir(folder).map_err(|e| error(folder, e))? {
            let path = entry.map_err(|e| error(folder, e))?.path();
            if path.extension().is_some() {
                continue; // was not finished before anything began
            }
            journals.push(Journal::open(path)?);
        }
        journals.sort_by(|a, b| a.header.order.created.cmp(&b.header.order.created));
        Ok(journals)
    }

    fn open(path: PathBuf) -> Result<Journal, String> {
        let text = fs::read(&path).map_err(|e| error(&path, e))?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let header = json::read(lines.next().unwrap_or_default()).map_err(|e| error(&path, e))?;
        let last = lines.rev().find_map(|line| json::read::<Line>(line).ok());
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| error(&path, e))?;
        let (at, data) = last.map_or((0, Data::default()), |line| (line.at, line.data));
        Ok(Journal { path, file, header, at, data })
    }

    /// To be called before the step does anything. Where the power may fail during the step without harm, the line is not synced.
    pub fn begin(&mut self, at: usize, synced: bool) -> Result<(), String> {
        self.at = at;
        self.write(synced)
    }

    /// Keeps what the present step has learnt, where it may not be learnt again.
    pub fn save(&mut self) -> Result<(), String> {
        self.write(true)
    }

    fn write(&mut self, synced: bool) -> Result<(), String> {
        // A torn line of a killed run, if any, ends here.
        let mut line = json::write(&Line { at: self.at, data: self.data.clone() }).map_err(|e| error(&self.path, e))?;
        line.insert(0, b'\n');
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| error(&self.path, e))?;
        if synced { self.file.sync_data().map_err(|e| error(&self.path, e)) } else { Ok(()) }
    }

    /// Whether this step has begun.
    pub fn begun(&self, step: Step) -> bool {
        self.header.steps.iter().take(self.at + 1).any(|s| *s == step)
    }

    pub fn remove(self) -> Result<(), String> {
        store::remove(&self.path)
    }
}
