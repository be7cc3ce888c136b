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

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::names::{DeployId, NodeName, Snapshot, Volume};
use super::order::Unknown;
use super::record::Record;

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
    /// When the last try began, RFC 3339.
    #[serde(default)]
    pub tried: Option<String>,
    /// Why the last one has failed, if it has.
    #[serde(default)]
    pub reason: Option<String>,
    /// Names of snapshots that the holder is to remove.
    #[serde(default)]
    pub void: Vec<Snapshot>,
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

impl Set {
    /// Whether it was taken under what is in force by the record.
    pub fn is_of(&self, record: &Record) -> bool {
        self.deploy_id == record.deploy_id && self.data_id == *record.data_id()
    }

    pub fn names(&self) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.values().map(|taken| &taken.snapshot)
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
        let bare: Replica = serde_json::from_str("{}").unwrap();
        assert_eq!(bare, Replica::default());
    }
}
