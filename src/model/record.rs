//! The record of a deployed application, `app/<name>` in Consul: what proxies and people read.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::model::order::{Branch, NodeName, RepoUrl};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Merged HAPROXY maps of the services.
    #[serde(default)]
    pub haproxy: Map<String, Value>,
    /// All sites, written out.
    #[serde(default)]
    pub caddyfile: String,
    pub repo_url: RepoUrl,
    pub branch: Branch,
    /// The order that deployed it; the checkout is `<name>-<deploy_id>`.
    pub deploy_id: String,
    pub previous_deploy_id: Option<String>,
    /// `%Y-%m-%dT%H%M%S.%f`, UTC.
    #[serde(default)]
    pub deploy_date: String,
    #[serde(default)]
    pub domains: Vec<String>,
    #[serde(default)]
    pub urls: String,
    /// The master's address.
    #[serde(default)]
    pub ip: String,
    pub master: NodeName,
    pub slave: Option<NodeName>,
    /// Service → container.
    #[serde(default)]
    pub ct: BTreeMap<String, String>,
    /// Data volumes.
    #[serde(default, deserialize_with = "volumes")]
    pub volumes: Vec<String>,
    /// The commit that runs; absent where the older handler deployed.
    #[serde(default)]
    pub commit: Option<String>,
}

/// The volume plugin builds shell commands from these names, so none but plain ones come in.
fn volumes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    match names.iter().find(|name| !plain(name)) {
        Some(name) => Err(serde::de::Error::custom(format!("volumes: {name:?} is not the name of a volume"))),
        None => Ok(names),
    }
}

/// Whether a volume's name or a host's address may reach the volume plugin.
pub fn plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(allowed)
}

impl Record {
    pub fn parse(key: &str, value: &[u8]) -> Result<Record, String> {
        crate::model::json::read(value).map_err(|error| format!("{key} in Consul is not a record: {error}"))
    }
}

/// The part of a record that says who has which role: all that reconcile needs of each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Roles {
    pub master: NodeName,
    pub slave: Option<NodeName>,
    pub deploy_id: String,
}

/// All records in one piece: a version, then the name and the value of each, every one behind its length.
pub struct All(Vec<u8>);

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

impl All {
    pub fn new(version: &str) -> All {
        let mut all = All(Vec::new());
        all.push(version.as_bytes());
        all
    }

    /// What was kept of this version.
    pub fn kept(bytes: Vec<u8>, version: &str) -> Option<All> {
        (split(&bytes)?.0 == version.as_bytes()).then_some(All(bytes))
    }

    pub fn push(&mut self, part: &[u8]) {
        self.0.extend((part.len() as u32).to_le_bytes());
        self.0.extend(part);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = split(&self.0).map_or(&[][..], |(_, rest)| rest);
        std::iter::from_fn(move || {
            let (name, after) = split(rest)?;
            let (value, after) = split(after)?;
            rest = after;
            Some((std::str::from_utf8(name).ok()?, value))
        })
    }
}
