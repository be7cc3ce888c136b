//! A cluster in one process for tests: a Consul, an engine, a git and a volume plugin that keep the order of all that happens, check what
//! must hold after each of it, and fail or kill on demand. It is for order and failure, never the proof that the real parts work together.
//!
//! `state` is the cluster and what each call makes of it; it knows no socket, no process, no clock and no disk. `outside` puts it before
//! the real binary, over sockets and stand-in programs. `inside` puts it behind the four doors of handlers that are threads of this
//! process, one of which goes on at a time.

#![allow(dead_code, unused_imports)] // each test binary uses one side

pub mod inside;
pub mod outside;
pub mod shop;
pub mod state;

use std::fmt;
use std::ops::DerefMut;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

pub use state::State;
pub use state::effect::{Effect, Kind};
pub use state::fault::Act;

/// A run of the handler that came to its end.
#[derive(Clone, Debug)]
pub struct Run {
    pub node: String,
    pub what: String,
    /// None when killed.
    pub status: Option<i32>,
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    #[track_caller]
    pub fn exits(&self, status: i32) -> &Run {
        assert_eq!(self.status, Some(status), "exit status of {self}");
        self
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> &Run {
        assert!(self.stderr.contains(text), "“{text}” expected on stderr of {self}");
        self
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let status = self.status.map_or("killed".to_owned(), |s| format!("exit {s}"));
        writeln!(f, "---- {}\n{status} after {:?}\n{}{}", self.what, self.took, self.stdout, self.stderr)
    }
}

/// What tests of either kind do with a cluster.
pub trait Cluster {
    fn new(nodes: &[&str]) -> Self;
    fn lock(&self) -> impl DerefMut<Target = State>;
    /// Hands one list of events to all nodes at once that Consul reaches. Whoever is killed is started again, with no events: an agent
    /// starting.
    fn deliver_all(&self, events: &[Value]) -> Vec<Run>;
    /// The watch on `app/` starts the handler everywhere, again and again, until nothing more happens.
    fn try_settle(&self) -> Result<(), String>;
    /// All that must be as it was, or as it would be, after a failure: what runs from what, data, schedules, keys, checkouts.
    fn state(&self) -> String;

    #[track_caller]
    fn settle(&self) {
        self.try_settle().unwrap();
    }
}

/// The UUID that stands for this word.
pub fn id(word: &str) -> String {
    let hex = format!("{:x}", md5::compute(word));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// An event as the watch hands it over.
pub fn event(word: &str, name: &str, payload: &Value) -> Value {
    let payload = STANDARD.encode(payload.to_string());
    json!({"ID": id(word), "Name": name, "Payload": payload, "NodeFilter": "", "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": 2})
}
