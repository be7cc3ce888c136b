//! What Consul is told of an application: its own `service.json`, else one HTTP check for each of its URLs. Its ID there is the application's name.

use std::collections::BTreeMap;
use std::path::Path;

use log::warn;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::names::{AppName, DeployId};
use crate::model::record::Record;
use crate::routes::checks::is_url;
use crate::routes::haproxy::RESERVED;

const FILE: &str = "service.json";
const MOST: u64 = 1 << 20;

/// The members that `service.json` may have, as Consul's `/v1/agent/service/register` takes them. What would change something, run a program or stand
/// for another service is none of them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Service {
    #[serde(rename = "ID", default, skip_serializing)]
    _id: Option<String>,
    name: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    meta: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Check {
    #[serde(default)]
    name: String,
    #[serde(default)]
    notes: String,
    #[serde(rename = "HTTP", default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "TCP", default, skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(default)]
    header: BTreeMap<String, Vec<String>>,
    #[serde(rename = "TLSSkipVerify", default)]
    tls_skip_verify: bool,
    interval: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

impl Check {
    /// What is wrong with it.
    fn wrong(&self) -> Option<String> {
        let place = match (&self.http, &self.tcp) {
            (Some(url), None) if is_url(url) => {
                url.split("://").nth(1).unwrap_or_default().split(['/', '?', '#']).next().unwrap_or_default()
            }
            (None, Some(place)) if place.contains(':') => place,
            _ => return Some("a check asks one URL (\"HTTP\", http:// or https://) or one address (\"TCP\", host:port)".into()),
        };
        let port = place.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if let Some(port) = port.filter(|port| RESERVED.contains(port)) {
            return Some(format!("a check asks port {port}, which is the node's own"));
        }
        let method = self.method.as_deref().filter(|method| !["GET", "HEAD"].contains(method));
        method.map(|method| format!("a check's \"Method\" is GET or HEAD, not {method:?}: a check only looks"))
    }
}

/// As `/v1/agent/service/register` takes it.
pub fn read(here: &Here, folder: &Path, name: &AppName, checks: &[String]) -> Result<Value, Error> {
    let Some(text) = here.world.read_within(folder, FILE, MOST)? else { return Ok(plain(name, checks)) };
    let cannot = |source| Error::Json { at: FILE.into(), what: "a service", source };
    let service: Service = serde_json::from_slice(&text).map_err(cannot)?;
    let wrong = match service.name.is_empty() {
        true => Some("\"Name\" is empty".to_string()),
        false => service.check.iter().chain(&service.checks).find_map(Check::wrong),
    };
    if let Some(why) = wrong {
        return Err(Fault::NotAService { file: FILE, why }.into());
    }
    let mut service = serde_json::to_value(service).map_err(cannot)?;
    service["ID"] = json!(name);
    Ok(service)
}

fn plain(name: &AppName, checks: &[String]) -> Value {
    let check = |url: &String| json!({ "Name": format!("HTTP {url}"), "HTTP": url, "Interval": "60s", "Timeout": "10s" });
    json!({ "ID": name, "Name": name, "Checks": checks.iter().map(check).collect::<Vec<Value>>() })
}

/// That of what runs by a record, when it has to be said again: no rule that is newer than it stands in the way.
pub fn again(here: &Here, name: &AppName, record: &Record, checks: Result<Vec<String>, Error>) -> Value {
    let checks = checks.unwrap_or_else(|why| {
        warn!("{name}: Consul checks its addresses only: {why}");
        record.urls.split(", ").filter(|url| is_url(url) && !url.contains('*')).map(String::from).collect()
    });
    read(here, &here.paths.checkout(name, &record.deploy_id), name, &checks).unwrap_or_else(|why| {
        warn!("{name}: registered without its {FILE}: {why}");
        plain(name, &checks)
    })
}

/// Ends what Consul was told of it: by its name, and by the ID that the checkout of that deployment gave when an older handler registered it.
pub fn deregister(here: &Here, name: &AppName, deploy_id: &DeployId) -> Result<(), Error> {
    here.consul.deregister(name)?;
    end_older(here, name, deploy_id)
}

pub fn end_older(here: &Here, name: &AppName, deploy_id: &DeployId) -> Result<(), Error> {
    let path = here.paths.checkout(name, deploy_id).join(FILE);
    let own = here.world.read_file(&path, MOST).ok().flatten().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let Some(own) = own.and_then(|own| Some(own["ID"].as_str().or(own["Name"].as_str())?.to_string())) else { return Ok(()) };
    // Not what is another application's.
    if own == **name || own.is_empty() || here.apps()?.iter().any(|other| **other == *own) {
        return Ok(());
    }
    Ok(here.consul.deregister(&own)?)
}
