//! The journal of one run of an order: what it set out to do and how far it came, so that a killed run can be finished or undone.
//!
//! A file of JSON lines: the first says what is to be done, each later one what has happened: a step has left this, the next begins, all is
//! being undone for this reason, a step is undone. A line is synced before its step begins; a torn last line is as good as not written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::output::{Checked, Cloned, Output, Restored, Snapshots};
use crate::error::{Error, Fault, text_of};
use crate::model::json;
use crate::model::names::{AppName, Host, Snapshot, Volume};
use crate::model::order::{Order, Origin, Unknown};
use crate::model::record::Record;
use crate::outside::doors::{World, Write};

/// Format 1 had, in each line, the step that begins and a bag with all that was learnt.
const FORMAT: u32 = 2;
const MOST: u64 = 64 << 20;
/// Bytes that are taken for it when it is made: some ten times what an application with seventy volumes needs.
const ROOM: u64 = 1 << 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Carries the order out and finishes it.
    Owner,
    /// Hands its data over.
    Source,
    /// Learns of it from the record.
    Bystander,
}

/// What does not change during a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    #[serde(default = "first_format")]
    pub format: u32,
    pub order: Order,
    pub part: Part,
    /// Absent in the first format.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// By their names.
    pub steps: Vec<String>,
    /// The record when the order was taken, and the index it was last changed at.
    pub old: Option<(Record, u64)>,
    /// Of the application whose data a migrate copies.
    pub source_record: Option<Record>,
    /// The address of the node that data is sent to.
    pub peer_address: Option<Host>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

fn first_format() -> u32 {
    1
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Line {
    /// A step, by its number, has left this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<(usize, Output)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begins: Option<Begins>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undoing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undone: Option<usize>,
    /// An undo that is not at its end has put this into its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back: Option<Snapshot>,
}

/// A step, by its number, and what it may do to the volumes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begins {
    pub at: usize,
    /// It may change what they hold.
    #[serde(default)]
    pub writes: bool,
    /// It puts others in the place of those that containers may stand on.
    #[serde(default)]
    pub replaces: bool,
}

/// One line of format 1.
#[derive(Default, Deserialize)]
struct FirstLine {
    at: usize,
    data: FirstData,
}

#[derive(Default, Deserialize)]
struct FirstData {
    commit: Option<String>,
    images: BTreeMap<String, String>,
    existing: BTreeSet<Volume>,
    had_volumes: bool,
    snapshots: Snapshots,
    received: Snapshots,
    notes: Vec<String>,
    #[serde(default)]
    undoing: Option<String>,
    #[serde(default)]
    undone: Vec<usize>,
}

#[derive(Debug)]
pub struct Journal {
    pub path: PathBuf,
    pub header: Header,
    /// The step that has begun.
    pub at: usize,
    /// The furthest that has: what was healthy is started again from an earlier one, and what came after it stays to be undone.
    pub furthest: usize,
    /// Whether one has begun that may have changed what the volumes hold, or that puts others in their place.
    pub written: bool,
    pub replaced: bool,
    outputs: BTreeMap<usize, Output>,
    /// Not written yet: it goes with the next line.
    pending: Option<(usize, Output)>,
    /// Why the steps are being undone.
    pub undoing: Option<String>,
    /// Once is enough: the second time would restore over what the old deployment wrote since.
    undone: BTreeSet<usize>,
    back: BTreeSet<Snapshot>,
}

impl Journal {
    /// The room for all that will be written into it is taken now: a full disk must not keep an undo from its end.
    pub fn create(world: &World, path: PathBuf, header: Header) -> Result<Journal, Error> {
        let header = Header { format: FORMAT, ..header };
        let mut text = text_of(path.display(), &header)?;
        text.push(b'\n');
        world.create_file(&path, &text, ROOM)?;
        Ok(Journal::empty(path, header))
    }

    fn empty(path: PathBuf, header: Header) -> Journal {
        Journal {
            path,
            header,
            at: 0,
            furthest: 0,
            written: false,
            replaced: false,
            outputs: BTreeMap::new(),
            pending: None,
            undoing: None,
            undone: BTreeSet::new(),
            back: BTreeSet::new(),
        }
    }

    /// What a run has left there, if any. One that has a step which `knows` does not is a newer handler's.
    pub fn open(world: &World, path: PathBuf, knows: impl Fn(&str) -> bool) -> Result<Option<Journal>, Error> {
        let Some(text) = world.read_file(&path, MOST)? else { return Ok(None) };
        let mut lines = text.split(|byte| *byte == b'\n');
        let first = lines.next().filter(|line| !line.is_empty()).ok_or(Fault::EmptyJournal)?;
        let header: Value = json::read(first).map_err(|source| unreadable(&path, source))?;
        // Before the rest of it: a newer one may have anything in it.
        let format = header["format"].as_u64().unwrap_or(1) as u32;
        if format > FORMAT {
            return Err(Fault::NewerJournal { version: format }.into());
        }
        let header: Header = json::from(header).map_err(|source| unreadable(&path, source))?;
        let mut journal = Journal::empty(path, header);
        // A line that is torn is as good as not written.
        match format {
            1 => journal.take_first(lines.rev().find_map(|line| json::read(line).ok()).unwrap_or_default()),
            _ => lines.filter_map(|line| json::read::<Line>(line).ok()).for_each(|line| journal.take(line)),
        }
        match journal.header.steps.iter().find(|step| !knows(step)) {
            Some(step) => Err(Fault::UnknownStep { name: step.clone() }.into()),
            None => Ok(Some(journal)),
        }
    }

    fn at(&mut self, Begins { at, writes, replaces }: Begins) {
        self.at = at;
        self.furthest = self.furthest.max(at);
        self.written |= writes;
        self.replaced |= replaces;
    }

    fn take(&mut self, line: Line) {
        self.outputs.extend(line.left);
        line.begins.into_iter().for_each(|begins| self.at(begins));
        self.undoing = line.undoing.or(self.undoing.take());
        self.undone.extend(line.undone);
        self.back.extend(line.back);
    }

    /// What the bag of format 1 says, step by step. Steps had the names of a type's variants then: `SendAhead`.
    fn take_first(&mut self, FirstLine { at, data }: FirstLine) {
        let steps: Vec<String> = self.header.steps.iter().map(|step| dashed(step)).collect();
        let takes_over = steps.iter().any(|step| step == "restore-replica");
        let replicas = if takes_over { data.received.clone() } else { Snapshots::new() };
        for (number, step) in steps.iter().enumerate().take(at + 1) {
            let past = number < at;
            let output = match &**step {
                "clone" => data.commit.clone().map(|commit| Output::Cloned(Cloned { commit })),
                "check" if past => Some(Output::Checked(Checked {
                    existing: data.existing.clone(),
                    ordinary: (!data.had_volumes).then(Vec::new),
                    images: data.images.clone(),
                    replicas: replicas.clone(),
                    notes: data.notes.clone(),
                    sites: None,
                })),
                "snapshot" if past => Some(Output::Taken(data.snapshots.clone())),
                "send" => Some(Output::Sent(data.snapshots.clone())),
                "snapshot-source" if past => Some(Output::Copied(data.received.clone())),
                "await-sent" if past => Some(Output::Received(data.received.clone())),
                "restore" | "restore-replica" => {
                    let created = data.received.keys().filter(|volume| !data.existing.contains(*volume)).cloned().collect();
                    Some(Output::Restored(Restored { created, ..Restored::default() }))
                }
                _ => None,
            };
            self.outputs.extend(output.map(|output| (number, output)));
            let writes = ["restore-source", "post-migrate", "update", "up"].contains(&&**step);
            self.at(Begins { at: number, writes, replaces: ["restore", "restore-replica"].contains(&&**step) });
        }
        self.header.origin = Some(if takes_over { Origin::Dead } else { Origin::Alive });
        self.header.steps = steps;
        self.undoing = data.undoing;
        self.undone.extend(data.undone);
    }

    /// To be called before the step does anything. Where the power may fail during the step without harm, the line is not synced.
    pub fn begin(&mut self, world: &World, begins: Begins, synced: bool) -> Result<(), Error> {
        self.at(begins);
        let left = self.pending.take();
        self.write(world, Line { left, begins: Some(begins), ..Line::default() }, synced)
    }

    /// What the present step has left; written with the next line.
    pub fn left_behind(&mut self, output: Output) {
        if output != Output::Nothing && self.outputs.get(&self.at) != Some(&output) {
            self.outputs.insert(self.at, output.clone());
            self.pending = Some((self.at, output));
        }
    }

    /// Keeps what the present step leaves at once, where it must be known before the step goes on.
    pub fn keep(&mut self, world: &World, output: Output) -> Result<(), Error> {
        self.keep_of(world, self.at, output)
    }

    /// Of a step before it, which is seen anew.
    pub fn keep_of(&mut self, world: &World, at: usize, output: Output) -> Result<(), Error> {
        self.outputs.insert(at, output.clone());
        self.write(world, Line { left: Some((at, output)), ..Line::default() }, true)
    }

    pub fn undo_for(&mut self, world: &World, reason: &str) -> Result<(), Error> {
        self.undoing = Some(reason.into());
        let left = self.pending.take();
        self.write(world, Line { left, undoing: Some(reason.into()), ..Line::default() }, true)
    }

    pub fn is_undone(&self, at: usize) -> bool {
        self.undone.contains(&at)
    }

    pub fn any_undone(&self) -> bool {
        !self.undone.is_empty()
    }

    pub fn undid(&mut self, world: &World, at: usize) -> Result<(), Error> {
        self.undone.insert(at);
        let left = self.pending.take();
        self.write(world, Line { left, undone: Some(at), ..Line::default() }, true)
    }

    pub fn is_back(&self, snapshot: &Snapshot) -> bool {
        self.back.contains(snapshot)
    }

    /// What an undo has put into its volume stays there when the rest of it is tried again: nothing is started on it before the undo of its step
    /// is at its end.
    pub fn put_back(&mut self, world: &World, snapshot: &Snapshot) -> Result<(), Error> {
        self.back.insert(snapshot.clone());
        self.write(world, Line { back: Some(snapshot.clone()), ..Line::default() }, true)
    }

    fn write(&self, world: &World, line: Line, synced: bool) -> Result<(), Error> {
        let mut text = json::write(&line).map_err(|source| unreadable(&self.path, source))?;
        // A torn line of a killed run, if any, ends here.
        text.insert(0, b'\n');
        text.push(b'\n');
        Ok(world.write_file(&self.path, &text, Write::Append, synced)?)
    }

    pub fn output_of(&self, at: usize) -> Option<&Output> {
        self.outputs.get(&at)
    }

    /// The applications that it is about: a migrate that is being undone does nothing to its source.
    pub fn apps(&self) -> Vec<AppName> {
        if self.undoing.is_some() || self.any_undone() { vec![self.header.order.name.clone()] } else { self.header.order.apps() }
    }

    /// What the present step has left before it was killed, or before another try.
    pub fn output(&self) -> Option<&Output> {
        self.output_of(self.at)
    }

    pub fn outputs(&self) -> impl Iterator<Item = &Output> {
        self.outputs.values()
    }

    /// Out of the way, for a person to look at.
    pub fn set_aside(self, world: &World, aside: &Path) -> Result<(), Error> {
        Ok(world.rename_file(&self.path, aside)?)
    }

    pub fn remove(self, world: &World) -> Result<(), Error> {
        Ok(world.remove_file(&self.path)?)
    }
}

/// `SendAhead` → `send-ahead`
fn dashed(name: &str) -> String {
    let mut dashed = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !dashed.is_empty() {
            dashed.push('-');
        }
        dashed.push(c.to_ascii_lowercase());
    }
    dashed
}

/// The applications that a journal is about, where no more of it can be read.
pub fn apps_of(world: &World, path: &Path) -> Vec<AppName> {
    let text = world.read_file(path, MOST).ok().flatten().unwrap_or_default();
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let header: Value = serde_json::from_slice(first).unwrap_or_default();
    match json::from::<Order>(header["order"].clone()) {
        Ok(order) => order.apps(),
        Err(_) => header["order"]["name"].as_str().and_then(|name| AppName::try_from(name).ok()).into_iter().collect(),
    }
}

fn unreadable(path: &Path, source: serde_json::Error) -> Error {
    Error::Json { at: path.display().to_string(), what: "a journal that this handler can read", source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::clock::SystemClock;
    use crate::outside::disk::RealDisk;
    use crate::outside::doors::{Answer, Doors, Net, Request, Service, Unanswered};
    use crate::outside::process::RealProcesses;

    struct Nobody;

    impl Net for Nobody {
        fn send(&self, _: Service, _: Request) -> Result<Answer, Unanswered> {
            Err(Unanswered::NoSocket { place: "nowhere".into() })
        }
    }

    /// A world with a folder of its own.
    fn world(name: &str) -> (World, PathBuf) {
        let doors =
            Doors { processes: Box::new(RealProcesses), net: Box::new(Nobody), clock: Box::new(SystemClock), disk: Box::new(RealDisk) };
        let folder = std::env::temp_dir().join(format!("handler-journal-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).unwrap();
        (World::new(doors), folder)
    }

    const ID: &str = "908f76a8-0000-0000-0000-000000000001";

    fn order() -> Value {
        serde_json::json!({
            "id": ID, "name": "shop_master.e4371", "state": "open", "created": "2026-11-24T10:00:00Z",
            "request": {"deploy": {"repo": "file:///repos/shop", "branch": "master", "master": "node2"}},
        })
    }

    fn header() -> Header {
        let header = serde_json::json!({
            "order": order(), "part": "Owner", "origin": "alive", "steps": ["clone", "check", "restore", "up"], "old": null,
            "source_record": null, "peer_address": "10.0.0.1", "colour": "blue",
        });
        serde_json::from_value(header).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_a_torn_line_is_as_good_as_not_written() {
        let (world, folder) = world("read");
        let mut journal = Journal::create(&world, folder.join("journal"), header()).unwrap();
        assert!(Journal::create(&world, folder.join("journal"), header()).is_err(), "never over another");
        let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(folder.join("journal")).unwrap()) * 512;
        assert!(taken >= ROOM, "{taken}");
        let begins = |at, replaces| Begins { at, writes: false, replaces };
        journal.begin(&world, begins(0, false), false).unwrap();
        journal.left_behind(Output::Cloned(Cloned { commit: "abc".into() }));
        journal.begin(&world, begins(1, false), false).unwrap();
        journal.left_behind(Output::Nothing);
        journal.begin(&world, begins(2, true), true).unwrap();
        journal.keep(&world, Output::Restored(Restored::default())).unwrap();
        journal.undo_for(&world, "broken").unwrap();
        let put_back = |at: &str| Snapshot::try_from(format!("v_data@2026-11-24T10:00:0{at}.000001")).unwrap();
        journal.put_back(&world, &put_back("1")).unwrap();
        journal.undid(&world, 2).unwrap();
        let path = folder.join("journal");
        world.write_file(&path, b"\n{\"undone\": 1", Write::Append, false).unwrap();
        assert_eq!(world.list_folder(&folder).unwrap(), ["journal"]);
        let read = Journal::open(&world, path, |_| true).unwrap().unwrap();
        assert_eq!((read.at, read.written, read.replaced), (2, false, true));
        assert_eq!(read.outputs, journal.outputs);
        assert_eq!(read.outputs[&0], Output::Cloned(Cloned { commit: "abc".into() }));
        assert_eq!((read.undoing.as_deref(), read.is_undone(2), read.is_undone(1)), (Some("broken"), true, false));
        assert!(read.is_back(&put_back("1")) && !read.is_back(&put_back("2")));
        assert_eq!(read.header.unknown["colour"], "blue");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_that_cannot_be_read_says_which_application_it_is_about() {
        let (world, folder) = world("unreadable");
        let mut newer = serde_json::json!({"format": 3, "order": {"name": "shop_master.e4371"}, "anything": []});
        for (text, app, says) in [
            (newer.to_string(), "shop_master.e4371", "was written by a newer handler (format 3); start that one again"),
            (String::new(), "", "is empty"),
            ("half a".into(), "", "a journal that this handler can read"),
            (
                {
                    newer = serde_json::to_value(header()).unwrap();
                    newer["steps"][1] = "unheard-of".into();
                    newer.to_string()
                },
                "shop_master.e4371",
                "has a step that this handler does not know: \"unheard-of\"",
            ),
        ] {
            let path = folder.join("journal");
            std::fs::write(&path, text).unwrap();
            let why = Journal::open(&world, path.clone(), |step| step != "unheard-of").unwrap_err().to_string();
            assert!(why.contains(says), "{why}");
            assert_eq!(apps_of(&world, &path).first().map_or("", |app| &**app), app);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_first_format_is_taken_over() {
        let (world, folder) = world("first");
        let header = serde_json::json!({
            "order": order(), "part": "Owner", "steps": ["Clone", "Check", "Pull", "Build", "Ready", "AwaitSent", "Restore", "Up"], "old": null,
            "source_record": null, "peer_address": null,
        });
        let line = serde_json::json!({"at": 7, "data": {
            "commit": "abc", "images": {"cache:1": "sha256:1"}, "existing": ["v_old"], "had_volumes": true, "snapshots": {},
            "received": {"v_data": "v_data@2026-11-24T10:00:01.000001", "v_old": "v_old@2026-11-24T10:00:01.000002"}, "notes": [],
            "undoing": null, "undone": [],
        }});
        std::fs::write(folder.join(ID), format!("{header}\n\n{{\"at\":0}}\n\n{line}\n")).unwrap();
        let read = Journal::open(&world, folder.join(ID), |_| true).unwrap().unwrap();
        assert_eq!(read.header.steps.join(" "), "clone check pull build ready await-sent restore up");
        assert_eq!((read.at, read.written, read.replaced), (7, true, true));
        assert_eq!(read.outputs[&0], Output::Cloned(Cloned { commit: "abc".into() }));
        assert!(matches!(&read.outputs[&1], Output::Checked(checked) if checked.ordinary.is_none() && checked.images.len() == 1));
        assert!(matches!(&read.outputs[&5], Output::Received(received) if received.len() == 2));
        assert!(matches!(&read.outputs[&6], Output::Restored(restored) if restored.created.iter().map(|v| &**v).eq(["v_data"])));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
