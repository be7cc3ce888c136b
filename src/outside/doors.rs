//! The four doors to the world: processes, requests to this node's services, the clock, and the disk with what the kernel says.
//!
//! Nothing else in the handler starts, asks, waits or writes (but the log, and the environment, which `settings` reads once). So the same
//! code runs in a simulated world: each call of a door is a point at which the simulation may let another node go on, fail it, or end the
//! run.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::cmd::{self, Capture, Cmd};
use crate::model::time::Time;

pub trait Processes {
    /// Runs the command to its end or its deadline; answers what was to be captured.
    fn run(&self, cmd: &Cmd, capture: Capture) -> Result<String, cmd::Error>;
    /// Ends what carries this mark in its environment, and waits until it has ended.
    fn end_marked(&self, mark: &str) -> Result<(), cmd::Error>;
    /// Starts the handler itself once more, apart from this process: it goes on when this one ends. `seen`: what it logs is shown here, too.
    fn start_apart(&self, args: &[String], seen: bool) -> Result<Box<dyn Apart>, cmd::Error>;
}

/// What was started apart.
pub trait Apart {
    /// Waits for its end; its exit status, if it had one.
    fn wait(&mut self) -> Option<i32>;
}

/// The services of this node that are asked over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Consul,
    /// The volume plugin.
    Plugin,
    /// Docker's engine.
    Engine,
    /// Its admin socket.
    Caddy,
}

#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a str,
    /// With its query: `/v1/kv/x?consistent`.
    pub path: &'a str,
    pub body: &'a [u8],
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// Consul's `X-Consul-Index`.
    pub index: Option<u64>,
    pub body: Vec<u8>,
}

/// No answer: nothing is known of what was asked, it may even have been done.
#[derive(Clone, Debug, PartialEq)]
pub enum Unanswered {
    /// Nothing listens there.
    NoSocket { place: String },
    /// Neither in time, or not whole.
    Failed { place: String, why: String },
}

impl std::error::Error for Unanswered {}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unanswered::NoSocket { place } => write!(f, "no socket {place}"),
            Unanswered::Failed { place, why } => write!(f, "{place}: {why}"),
        }
    }
}

pub trait Net {
    /// One request, one answer of whatever status.
    fn send(&self, to: Service, request: Request) -> Result<Answer, Unanswered>;
}

pub trait Clock {
    fn now(&self) -> Time;
    /// Since this machine has started: goes on evenly, whatever is done to its clock.
    fn uptime(&self) -> Duration;
    fn sleep(&self, time: Duration);
}

/// What a file is written to. A new one is for this user alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Its end; it is created if need be.
    Append,
    /// Whatever is there is replaced, not in one piece.
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub folder: bool,
    /// Bytes.
    pub len: u64,
    /// The user it belongs to.
    pub owner: u32,
    /// Who may what: `0o700`.
    pub mode: u32,
    /// When its contents were last changed, by this machine's clock.
    pub modified: Time,
}

impl Found {
    /// To the group or to others.
    pub fn is_open(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

/// A snapshot or a volume, as btrfs knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subvolume {
    /// Hexadecimal, as all three.
    pub uuid: String,
    /// Of what it was received from; only a whole stream leaves it, with the flag below.
    pub received: Option<String>,
    pub read_only: bool,
}

/// Bytes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// For this user to write.
    pub free: u64,
    pub all: u64,
}

impl Subvolume {
    /// What a stream of it says that it is, and so what the Received UUID of a copy is: that of the first of all copies.
    pub fn stands_for(&self) -> &str {
        self.received.as_deref().unwrap_or(&self.uuid)
    }
}

/// Let go when it is dropped, or when the process ends in whatever way.
pub struct Lock(#[allow(dead_code, reason = "held, not read")] pub Box<dyn Any>);

pub trait Disk {
    /// At most `limit` bytes; a longer file is an error (`FileTooLarge`).
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// An error, unless what a link there leads to stands in the folder as well, and is a file; nothing at all may be there.
    fn within(&self, folder: &Path, path: &Path) -> io::Result<()>;
    /// `None`: nothing is there.
    fn look(&self, path: &Path) -> io::Result<Option<Found>>;
    /// The names in a folder, in order; those that are not UTF-8 are left out.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// A new file is this user's alone. `synced`: the content is on the disk when this returns; the name of a new file is when its folder is
    /// synced.
    fn write(&self, path: &Path, bytes: &[u8], how: Write, synced: bool) -> io::Result<()>;
    /// Room for so many bytes of the file, which stays as long as it is. A disk that cannot do that takes none; where it can, and this file
    /// can have none any more, that is an error (`Unsupported`).
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// A second name for a file; an error where something has that name (`AlreadyExists`).
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// What btrfs knows of it; an error where it is no subvolume, or of another file system (`ENOTTY`).
    fn subvolume(&self, path: &Path) -> io::Result<Subvolume>;
    fn is_btrfs(&self, folder: &Path) -> io::Result<bool>;
    /// All of the disk that holds the folder, whoever has written it.
    fn sync_disk(&self, folder: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    fn remove_all(&self, folder: &Path) -> io::Result<()>;
    /// New ones are this user's alone.
    fn create_folders(&self, folder: &Path) -> io::Result<()>;
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// `None`: somebody else has it, and `wait` is not set.
    fn lock(&self, path: &Path, wait: bool) -> io::Result<Option<Lock>>;
    /// Of the disk that holds the folder.
    fn space(&self, folder: &Path) -> io::Result<Space>;
    /// The user that this process runs as.
    fn user(&self) -> io::Result<u32>;
    /// No other process has this number now.
    fn process(&self) -> u32;
    fn random(&self) -> io::Result<[u8; 16]>;
}

pub struct Doors {
    pub processes: Box<dyn Processes>,
    pub net: Box<dyn Net>,
    pub clock: Box<dyn Clock>,
    pub disk: Box<dyn Disk>,
}

/// The doors, as a run has them.
#[derive(Clone)]
pub struct World {
    doors: Rc<Doors>,
    mark: Option<Rc<str>>,
}

impl World {
    pub fn new(doors: Doors) -> World {
        World { doors: Rc::new(doors), mark: None }
    }

    /// What is started through this one carries the mark in its environment, as does what that starts in turn.
    pub fn marked(&self, mark: &str) -> World {
        World { doors: self.doors.clone(), mark: Some(mark.into()) }
    }

    pub fn mark(&self) -> Option<&str> {
        self.mark.as_deref()
    }
}

impl std::ops::Deref for World {
    type Target = Doors;
    fn deref(&self) -> &Doors {
        &self.doors
    }
}
