//! What Consul is told of an application: its own `service.json`, else one HTTP check for each of its URLs.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::names::{AppName, DeployId};

const FILE: &str = "service.json";
const MOST: u64 = 1 << 20;

/// As `/v1/agent/service/register` takes it.
pub fn read(here: &Here, folder: &Path, name: &AppName, checks: &[String]) -> Result<Value, Error> {
    let Some(text) = here.world.read_file(&folder.join(FILE), MOST)? else {
        let check = |url: &String| json!({ "Name": format!("HTTP {url}"), "HTTP": url, "Interval": "60s", "Timeout": "10s" });
        return Ok(json!({ "ID": name, "Name": name, "Checks": checks.iter().map(check).collect::<Vec<Value>>() }));
    };
    let service: Value = serde_json::from_slice(&text).map_err(|source| Error::Json { at: FILE.into(), what: "a service", source })?;
    match service["Name"].as_str() {
        Some(name) if !name.is_empty() => Ok(service),
        _ => Err(Fault::NotAService { file: FILE }.into()),
    }
}

pub fn id(service: &Value) -> String {
    service["ID"].as_str().or(service["Name"].as_str()).unwrap_or_default().to_string()
}

/// The ID that the application's service has in Consul, as the checkout of that deployment may say.
pub fn id_of(here: &Here, name: &AppName, deploy_id: &DeployId) -> String {
    let path = here.paths.checkout(name, deploy_id).join(FILE);
    let own = here.world.read_file(&path, MOST).ok().flatten().and_then(|text| serde_json::from_slice(&text).ok());
    own.map(|service| id(&service)).filter(|id| !id.is_empty()).unwrap_or_else(|| name.to_string())
}
