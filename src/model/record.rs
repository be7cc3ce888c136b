//! The record of a deployed application, `app/<name>` in Consul: what proxies and people read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::names::{Branch, DeployId, NodeName, RepoUrl, Volume};
use super::order::Unknown;

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
    pub deploy_id: DeployId,
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
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// The commit that runs; absent where the older handler deployed.
    #[serde(default)]
    pub commit: Option<String>,
    /// The order that the data comes from: a migrate's, else that of `deploy_id`. Absent where an older handler deployed.
    #[serde(default)]
    pub data_id: Option<DeployId>,
    /// Absent where no Caddy has said what its sites mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Understood>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What Caddy has made of an application's sites, as far as it was judged: what the proxies are given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Understood {
    /// The MD5 sum of the `caddyfile` that it was: an older handler may have written another one since.
    of: String,
    sites: Vec<Handled>,
}

/// One site, by handlers of Caddy's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handled {
    pub handle: Value,
    /// Of errors; null without any.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub errors: Value,
}

impl Understood {
    pub fn new(caddyfile: &str, sites: Vec<Handled>) -> Understood {
        Understood { of: sum(caddyfile), sites }
    }

    /// Those of this text, one after the other.
    pub fn of(&self, caddyfile: &str) -> Option<&[Handled]> {
        (self.of == sum(caddyfile)).then_some(&*self.sites)
    }
}

fn sum(text: &str) -> String {
    format!("{:x}", md5::compute(text))
}

impl Record {
    /// No more than a node knows by itself of what it runs.
    pub fn remembered(repo_url: RepoUrl, branch: Branch, master: NodeName, deploy_id: DeployId, volumes: Vec<Volume>) -> Record {
        Record {
            haproxy: Map::new(),
            caddyfile: String::new(),
            repo_url,
            branch,
            deploy_id,
            previous_deploy_id: None,
            deploy_date: String::new(),
            domains: Vec::new(),
            urls: String::new(),
            ip: String::new(),
            master,
            slave: None,
            ct: BTreeMap::new(),
            volumes,
            commit: None,
            data_id: None,
            sites: None,
            unknown: Unknown::new(),
        }
    }

    /// Its `deploy_date`, as other times are written: `2026-11-22T17:59:22.841943`.
    pub fn deployed(&self) -> String {
        let at = |from: usize, to: usize| self.deploy_date.get(from..to).unwrap_or_default();
        format!("{}:{}:{}", at(0, 13), at(13, 15), self.deploy_date.get(15..).unwrap_or_default())
    }

    pub fn data_id(&self) -> &DeployId {
        self.data_id.as_ref().unwrap_or(&self.deploy_id)
    }
}
