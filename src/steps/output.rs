//! What steps leave for those after them, and for their own undo.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::names::{Snapshot, Volume};
use crate::model::record::Understood;
use crate::outside::engine::Restart;

/// Volume → snapshot.
pub type Snapshots = BTreeMap<Volume, Snapshot>;

/// Image name → ID.
pub type Images = BTreeMap<String, String>;

/// What a step has learnt, kept in the journal for the steps after it and for its own undo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    Nothing,
    Cloned(Cloned),
    Checked(Checked),
    /// As they are pulled or built.
    Images(Images),
    /// Of the containers that ran, where nothing was checked.
    Ran(Images),
    /// The restart policies that the old containers had.
    Stopped(BTreeMap<String, Restart>),
    /// Snapshots taken in the switch, to come back to.
    Taken(Snapshots),
    /// Those of a source on this node, to be copied.
    Copied(Snapshots),
    /// What the other node has now.
    Sent(Snapshots),
    /// What the other node has sent here.
    Received(Snapshots),
    Restored(Restored),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cloned {
    pub commit: String,
}

/// How it was here before, and what a dead master has left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The data volumes of the compose file that this node had.
    pub existing: BTreeSet<Volume>,
    /// The volumes that compose had made for the project on this node, where that was looked up.
    #[serde(default)]
    pub ordinary: Option<Vec<String>>,
    /// Of the containers that ran.
    pub images: Images,
    /// What a takeover restores, by an older handler: since then it chooses right before the restore.
    pub replicas: Snapshots,
    /// For the history: how old that is.
    pub notes: Vec<String>,
    /// What Caddy has made of the sites of a new version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Understood>,
}

/// Written down before the first of it is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Volumes that were not here before.
    pub created: BTreeSet<Volume>,
    /// What a takeover has chosen, and what is to be said of it.
    #[serde(default, skip_serializing_if = "Snapshots::is_empty")]
    pub chosen: Snapshots,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
