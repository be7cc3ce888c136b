//! What Consul is told of an application: its own `service.json`, else one HTTP check for each of its URLs. Its ID there is the application's name.

use std::path::Path;

use log::warn;
use serde_json::{Value, json};

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::names::{AppName, DeployId};
use crate::model::record::Record;
use crate::routes::Routes;
use crate::routes::checks::is_url;
use crate::routes::haproxy::RESERVED;

const FILE: &str = "service.json";
const MOST: u64 = 1 << 20;

/// The members that `service.json` may have, as Consul's `/v1/agent/service/register` takes them. What would change something, run a program or stand
/// for another service is none of them.
const SERVICE: [&str; 8] = ["ID", "Name", "Tags", "Meta", "Address", "Port", "Check", "Checks"];
const CHECK: [&str; 9] = ["Name", "Notes", "HTTP", "TCP", "Method", "Header", "TLSSkipVerify", "Interval", "Timeout"];

/// What is wrong with a service.
fn wrong(service: &Value) -> Option<String> {
    let unknown = |value: &Value, known: &[&str]| {
        let Some(members) = value.as_object() else { return Some("expected {…}".into()) };
        let unknown = members.keys().find(|member| !known.contains(&&***member))?;
        Some(format!("{unknown:?} cannot be used here; what can be: {}", known.join(", ")))
    };
    if let Some(why) = unknown(service, &SERVICE) {
        return Some(why);
    }
    if service["Name"].as_str().is_none_or(str::is_empty) {
        return Some("has no \"Name\"".into());
    }
    type Fits = fn(&Value) -> bool;
    let types: [(&str, Fits, &str); 4] = [
        ("Tags", |value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string)), "a list of texts"),
        ("Meta", |value| value.as_object().is_some_and(|map| map.values().all(Value::is_string)), "texts by name"),
        ("Port", Value::is_u64, "a number"),
        ("Checks", Value::is_array, "a list of checks"),
    ];
    if let Some((member, _, expected)) = types.iter().find(|(member, fits, _)| service.get(*member).is_some_and(|value| !fits(value))) {
        return Some(format!("{member:?}: expected {expected}"));
    }
    let checks = service.get("Check").into_iter().chain(service["Checks"].as_array().into_iter().flatten());
    checks.map(|check| unknown(check, &CHECK).or_else(|| wrong_check(check))).find_map(|why| why)
}

fn wrong_check(check: &Value) -> Option<String> {
    let place = match (check["HTTP"].as_str(), check["TCP"].as_str()) {
        (Some(url), None) if is_url(url) => url.split("://").nth(1).unwrap_or_default().split(['/', '?', '#']).next().unwrap_or_default(),
        (None, Some(place)) if place.contains(':') => place,
        _ => return Some("a check asks one URL (\"HTTP\", http:// or https://) or one address (\"TCP\", host:port)".into()),
    };
    let port = place.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if let Some(port) = port.filter(|port| RESERVED.contains(port)) {
        return Some(format!("a check asks port {port}, which is the node's own"));
    }
    if ["Interval", "Timeout"].iter().any(|member| check.get(member).map_or(*member == "Interval", |value| !value.is_string())) {
        return Some("a check has an \"Interval\", and perhaps a \"Timeout\", such as \"10s\"".into());
    }
    match check.get("Method") {
        None => None,
        Some(method) if method == "GET" || method == "HEAD" => None,
        Some(method) => Some(format!("a check's \"Method\" is GET or HEAD, not {method}: a check only looks")),
    }
}

/// As `/v1/agent/service/register` takes it.
pub fn read(here: &Here, folder: &Path, name: &AppName, checks: &[String]) -> Result<Value, Error> {
    let Some(text) = here.world.read_within(folder, FILE, MOST)? else { return Ok(plain(name, checks)) };
    let mut service: Value = serde_json::from_slice(&text).map_err(|source| Error::Json { at: FILE.into(), what: "a service", source })?;
    if let Some(why) = wrong(&service) {
        return Err(Fault::NotAService { file: FILE, why }.into());
    }
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
        Routes::of_record(record).checks
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
