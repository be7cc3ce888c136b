//! What a node holds of an application's data besides the live volumes: `replica/<name>/<holder>` in Consul.
//!
//! A set is the snapshots of all data volumes of an application, taken one right after the other while no order was at work on it. It is
//! restored whole or not at all, and never mixed with another. What must hold:
//!
//! - `last` is confirmed: the holder has seen each snapshot whole (read-only, with the UUID of the one that was sent as its Received UUID),
//!   by the boot that was told when the sending began, and has put its disk in order since. A takeover uses nothing else by itself.
//! - `next` is written before anything is sent, in a transaction that checks the record it was taken under: a former master that wakes up
//!   writes nothing.
//! - What has failed is in `void`, until the holder has removed it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::{DeployId, NodeName, OrderId, Snapshot, Volume};
use super::order::Unknown;
use super::record::Record;
use super::time::Time;

/// Clocks of nodes may differ by so much; the probe names more.
const SKEW: Duration = Duration::from_secs(5);

/// Minutes from one set to the next, where nothing is said.
pub const EVERY: u32 = 15;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    /// The newest that the holder has confirmed.
    #[serde(default)]
    pub last: Option<Set>,
    /// On its way.
    #[serde(default)]
    pub next: Option<Next>,
    /// Since the last set that was confirmed.
    #[serde(default)]
    pub failures: u32,
    /// When the last try began, or came to its end, by its master's clock alone; RFC 3339.
    #[serde(default)]
    pub tried: Option<String>,
    /// The data that it was of: what failed before a deploy or a migrate says nothing of what is in force since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_of: Option<DeployId>,
    /// Why the last one has failed, if it has.
    #[serde(default)]
    pub reason: Option<String>,
    /// Names of snapshots that the holder is to remove.
    #[serde(default)]
    pub void: Vec<Snapshot>,
    /// Of those, what they were taken under, as far as that is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub void_of: BTreeMap<Snapshot, String>,
    /// Of those, whole sets, by when they were taken: what else is of that moment may be confirmed, or of a volume that nobody has written to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub void_sets: BTreeMap<String, Vec<Snapshot>>,
    /// Minutes from one set to the next.
    #[serde(default)]
    pub every: u32,
    /// What is kept of the sets: `1h:1d:1w:4w:1y`.
    #[serde(default)]
    pub keep: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Set {
    pub snapshots: BTreeMap<Volume, Taken>,
    /// RFC 3339.
    pub taken: String,
    /// The node that took it.
    pub master: NodeName,
    /// The code and the data that it was taken under.
    pub deploy_id: DeployId,
    pub data_id: DeployId,
    /// The holder's boot when the sending began.
    #[serde(default)]
    pub boot: String,
    /// From the first snapshot until the last was sent.
    #[serde(default)]
    pub millis: u64,
    /// In a node's book, where it was written down: [`counted`](super::keep::counted).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<i64>,
    /// In a node's book: the last destroy that was done when it was written down, if it is of what was deployed after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroy: Option<OrderId>,
    /// In a node's book, where it was taken: what a newer plugin has named that was there already, of a person perhaps. It is nobody's to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Snapshot>,
    /// A migrate has replaced what it has: no later set has that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    pub snapshot: Snapshot,
    /// Of the snapshot on the node that took it.
    pub uuid: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    #[serde(flatten)]
    pub set: Set,
    /// The sender has come to its end: the holder may confirm.
    #[serde(default)]
    pub sent: bool,
}

/// When the last of them was taken, by their names: of a volume that nobody has written to a newer plugin names one that it took before.
pub fn newest<'t>(snapshots: impl Iterator<Item = &'t Taken>) -> Option<Time> {
    snapshots.filter_map(|taken| Time::parse(taken.snapshot.taken())).max()
}

impl Replica {
    /// The confirmed one, and the one on its way.
    pub fn sets(&self) -> impl Iterator<Item = &Set> {
        self.last.iter().chain(self.next.as_ref().map(|next| &next.set))
    }

    /// It is not to be believed, by what it was taken under; the holder removes it.
    pub fn call_void(&mut self, set: &Set) {
        let new: Vec<Snapshot> = set.names().filter(|name| !self.void.contains(name)).cloned().collect();
        self.void_of.extend(new.iter().map(|name| (name.clone(), set.deploy_id.to_string())));
        self.void.extend(new);
        self.void_sets.insert(set.taken.clone(), set.names().cloned().collect());
    }

    /// These are gone, or are somebody else's to see to.
    pub fn clear_void(&mut self, goes: impl Fn(&Snapshot) -> bool) {
        self.void.retain(|name| !goes(name));
        let void: BTreeSet<&Snapshot> = self.void.iter().collect();
        self.void_of.retain(|name, _| void.contains(name));
        self.void_sets.retain(|_, names| names.iter().any(|name| void.contains(name)));
    }

    /// What must not be sent: it would be sent over what is there. What is confirmed is not sent again.
    pub fn not_to_send(&self) -> BTreeSet<Snapshot> {
        let confirmed = |name: &&Snapshot| self.last.iter().any(|last| last.names().any(|known| known == *name));
        self.void.iter().filter(|name| !confirmed(name)).cloned().collect()
    }

    /// Minutes from one set to the next.
    pub fn every(&self) -> u32 {
        if self.every == 0 { EVERY } else { self.every }
    }

    /// Seconds until the master is to take the next set; 0: now. At once after a commit; what has failed is tried again after 5, 10 and 15
    /// minutes, then every 30.
    pub fn due_in(&self, record: &Record, now: Time) -> u64 {
        let left = |since: &str, minutes: u32| match Time::parse(since) {
            // Clocks differ a little.
            Some(since) if since.since(now) <= SKEW => (u64::from(minutes) * 60).saturating_sub(now.since(since).as_secs()),
            // What is of a time to come a wrong clock has written.
            _ => 0,
        };
        let failures = if self.tried_of.as_ref().is_none_or(|of| of == record.data_id()) { self.failures } else { 0 };
        match (&self.last, failures) {
            // What was handed over is a set, but of another master, which may have said otherwise how often.
            (Some(last), 0) if last.is_of(record) && last.master == record.master => left(&last.taken, self.every()),
            (_, 0) => 0,
            (_, failures @ 1..=3) => self.tried.as_deref().map_or(0, |tried| left(tried, 5 * failures)),
            _ => self.tried.as_deref().map_or(0, |tried| left(tried, 30)),
        }
    }
}

/// A snapshot, as btrfs has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Whole,
    Missing,
    /// What a receive leaves that was cut off.
    Torn,
    /// Of the same name.
    Another,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Seen::Whole => "is whole",
            Seen::Missing => "is not there",
            Seen::Torn => "is not whole: its receive was cut off",
            Seen::Another => "is another one than was sent",
        })
    }
}

impl Set {
    /// Whether it was taken under what is in force by the record.
    pub fn is_of(&self, record: &Record) -> bool {
        self.deploy_id == record.deploy_id && self.data_id == *record.data_id()
    }

    /// When it was taken, and what was counted until then; an older handler has counted nothing.
    pub fn when(&self) -> Option<(Time, i64)> {
        let time = Time::parse(&self.taken)?;
        Some((time, self.counted.unwrap_or(time.secs)))
    }

    pub fn names(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.values().map(|taken| &taken.snapshot)
    }

    /// Those that were taken for it.
    pub fn made(&self) -> impl Iterator<Item = &Snapshot> {
        self.names().filter(|name| !self.found.contains(*name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it stands in Consul: other versions read it.
    #[test]
    fn its_form_stays() {
        let text = r#"{"last":{"snapshots":{"v_data":{"snapshot":"v_data@2026-11-26T10:00:00.000001","uuid":"0123"}},
            "taken":"2026-11-26T10:00:00Z","master":"node1","deploy_id":"a","data_id":"b","boot":"c","millis":12},
            "next":{"snapshots":{},"taken":"2026-11-26T10:15:00Z","master":"node1","deploy_id":"a","data_id":"b","boot":"c","millis":0,"sent":true},
            "failures":1,"tried":"2026-11-26T10:15:00Z","reason":"no route","void":["v_data@2026-11-26T09:00:00.000001"],"every":15,
            "keep":"1h:1d","later":1}"#;
        let read: Replica = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::from_str::<serde_json::Value>(text).unwrap());
        // Of an older book the calendar tells.
        let set = read.last.unwrap();
        assert_eq!(set.when(), Some((Time::parse(&set.taken).unwrap(), Time::parse(&set.taken).unwrap().secs)));
        let bare: Replica = serde_json::from_str("{}").unwrap();
        assert_eq!(bare, Replica::default());
    }

    #[test]
    fn when_the_next_is_due() {
        let record =
            r#"{"repo_url": "/shop", "branch": "main", "deploy_id": "a", "previous_deploy_id": null, "master": "n", "slave": null}"#;
        let record: Record = serde_json::from_str(record).unwrap();
        let now = Time::parse("2026-11-26T10:00:00Z").unwrap();
        let set = |deploy: &str, taken: &str| {
            let text =
                format!(r#"{{"snapshots": {{}}, "taken": "{taken}", "master": "n", "deploy_id": "{deploy}", "data_id": "{deploy}"}}"#);
            Some(serde_json::from_str::<Set>(&text).unwrap())
        };
        let of = |last, every, failures, tried: &str| Replica { last, every, failures, tried: Some(tried.into()), ..Replica::default() };
        for (replica, due) in [
            (Replica::default(), 0),
            (of(set("a", "2026-11-26T09:50:00Z"), 0, 0, ""), 300),
            (of(set("a", "2026-11-26T09:50:00Z"), 60, 0, ""), 3000),
            (of(set("a", "2026-11-26T09:30:00Z"), 0, 0, ""), 0),
            (of(set("b", "2026-11-26T09:59:00Z"), 0, 0, ""), 0),
            (of(set("a", "2026-11-26T10:00:05Z"), 0, 0, ""), 900),
            (of(set("a", "2026-11-26T10:00:06Z"), 0, 0, ""), 0),
            (of(None, 0, 1, "2026-11-26T09:57:00Z"), 120),
            (of(None, 0, 3, "2026-11-26T09:57:00Z"), 720),
            (of(set("a", "2026-11-26T09:30:00Z"), 0, 4, "2026-11-26T09:57:00Z"), 1620),
            (of(None, 0, 99, "2026-11-26T09:57:00Z"), 1620),
            (of(None, 0, 1, "2026-11-26T10:57:00Z"), 0),
            (of(None, 0, 1, "?"), 0),
        ] {
            assert_eq!(replica.due_in(&record, now), due, "{replica:?}");
        }
    }
}
