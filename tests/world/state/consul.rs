//! One key/value store seen through an agent for each node: as much of Consul's HTTP API as the handler uses.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::State;
use super::http::{Request, Response};

#[derive(Clone, Debug)]
pub struct Entry {
    pub value: Vec<u8>,
    pub create: u64,
    pub modify: u64,
}

#[derive(Clone, Default)]
pub struct Store {
    pub kv: BTreeMap<String, Entry>,
    /// What has been deleted, until Consul forgets it.
    pub graves: BTreeMap<String, u64>,
    pub index: u64,
}

impl Store {
    pub fn set(&mut self, key: &str, value: &[u8]) {
        self.index += 1;
        let index = self.index;
        let entry = self.kv.entry(key.to_owned()).or_insert(Entry { value: Vec::new(), create: index, modify: 0 });
        // Consul leaves the index of a key alone when nothing in it changes.
        if entry.value != value || entry.modify == 0 {
            (entry.value, entry.modify) = (value.to_owned(), index);
        }
    }

    pub fn remove(&mut self, key: &str) {
        self.index += 1;
        if self.kv.remove(key).is_some() {
            self.graves.insert(key.to_owned(), self.index);
        }
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.kv.get(key).map(|e| String::from_utf8_lossy(&e.value).into_owned())
    }

    fn holds(&self, key: &str, index: u64) -> bool {
        self.kv.get(key).map_or(0, |e| e.modify) == index
    }

    fn json(&self, key: &str) -> Value {
        let e = &self.kv[key];
        let value = if e.value.is_empty() { Value::Null } else { STANDARD.encode(&e.value).into() };
        json!({"Key": key, "Value": value, "Flags": 0, "LockIndex": 0, "CreateIndex": e.create, "ModifyIndex": e.modify})
    }

    /// The index to wait on, and the entries.
    fn read(&self, key: &str, recurse: bool) -> (u64, Vec<Value>) {
        let matches = |k: &str| {
            if recurse { k.starts_with(key) } else { k == key }
        };
        let keys: Vec<_> = self.kv.keys().filter(|k| matches(k)).collect();
        let graves = self.graves.iter().filter(|(k, _)| matches(k)).map(|(_, i)| *i);
        let index = keys.iter().map(|k| self.kv[*k].modify).chain(graves).max();
        (index.unwrap_or(self.index).max(1), keys.into_iter().map(|k| self.json(k)).collect())
    }

    fn transact(&mut self, body: &str) -> Response {
        let ops: Vec<Value> = match serde_json::from_str(body) {
            Ok(ops) => ops,
            Err(e) => return Response::new(400, format!("Failed to parse body: {e}")),
        };
        if ops.len() > 64 {
            return Response::new(413, "Transaction contains too many operations (66 > 64)");
        }
        let mut trial = self.clone();
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for (i, op) in ops.iter().map(|o| &o["KV"]).enumerate() {
            let (verb, key) = (op["Verb"].as_str().unwrap_or_default(), op["Key"].as_str().unwrap_or_default());
            let index = op["Index"].as_u64().unwrap_or_default();
            let value = STANDARD.decode(op["Value"].as_str().unwrap_or_default()).unwrap_or_default();
            let there = trial.kv.contains_key(key);
            let refusal = match verb {
                "check-not-exists" if there => Some(format!("key \"{key}\" exists")),
                "check-index" | "get" if !there => Some(format!("key \"{key}\" doesn't exist")),
                "check-index" if !trial.holds(key, index) => Some("index is stale".to_owned()),
                "cas" if !trial.holds(key, index) => Some(format!("failed to set key \"{key}\", index is stale")),
                // Of a key that is gone, delete-cas says that all is well: so does Consul.
                "delete-cas" if there && !trial.holds(key, index) => Some(format!("failed to delete key \"{key}\", index is stale")),
                "set" | "cas" => {
                    trial.set(key, &value);
                    None
                }
                "delete" | "delete-cas" => {
                    trial.remove(key);
                    None
                }
                "get" | "check-index" | "check-not-exists" => None,
                _ => return Response::new(400, format!("unknown verb {verb:?}")),
            };
            match refusal {
                Some(what) => errors.push(json!({"OpIndex": i, "What": what})),
                None if trial.kv.contains_key(key) => results.push(json!({"KV": trial.json(key)})),
                None => {}
            }
        }
        if !errors.is_empty() {
            return Response::new(409, json!({"Results": null, "Errors": errors}).to_string());
        }
        *self = trial;
        Response::new(200, json!({"Results": results, "Errors": null}).to_string())
    }
}

/// In words that stay the same from one run to the next: an order's state is worth seeing.
pub fn describe(request: &Request) -> String {
    let path = request.path.trim_start_matches("/v1/");
    let state = |value: &[u8]| {
        let order: Value = serde_json::from_slice(value).unwrap_or_default();
        order["state"].as_str().map(|s| format!(" ({s})")).unwrap_or_default()
    };
    if request.method == "GET" {
        let how = ["keys", "recurse", "index"].iter().filter(|name| request.get(name).is_some_and(|value| value != "0"));
        return format!("consul GET {path}{}", how.map(|name| format!(" {name}")).collect::<String>());
    }
    if path != "txn" {
        let shown = if path.starts_with("kv/order/") { state(&request.body) } else { String::new() };
        return format!("consul {} {path}{shown}", request.method);
    }
    let ops: Vec<Value> = serde_json::from_slice(&request.body).unwrap_or_default();
    let words = ops.iter().map(|o| &o["KV"]).map(|op| {
        let value = STANDARD.decode(op["Value"].as_str().unwrap_or_default()).unwrap_or_default();
        format!(" {} {}{}", op["Verb"].as_str().unwrap_or("?"), op["Key"].as_str().unwrap_or("?"), state(&value))
    });
    format!("consul txn:{}", words.collect::<Vec<_>>().join(","))
}

/// The index that a reader waits to see passed, and how long.
pub fn waits(request: &Request) -> Option<(u64, Duration)> {
    let after = request.get("index")?.parse().ok().filter(|index| *index > 0)?;
    let seconds = |w: &str| w.trim_end_matches('s').parse().unwrap_or(300.0);
    Some((after, Duration::from_secs_f64(request.get("wait").map_or(300.0_f64, seconds))))
}

/// None: the reader waits for a change, and there is none. Not for an agent that is silent.
pub fn answer(s: &mut State, node: &str, request: &Request, patient: bool) -> Option<Response> {
    if !s.has_leader(node) && !request.path.starts_with("/v1/agent/") {
        return Some(Response::new(500, "No cluster leader"));
    }
    if request.method != "GET" && s.nodes[node].read_only {
        return Some(Response::new(403, "Permission denied"));
    }
    if request.method != "GET" {
        return Some(write(s, node, request));
    }
    if let Some(key) = request.path.strip_prefix("/v1/kv/") {
        return read(&s.store, key, request, patient);
    }
    let me = &s.nodes[node];
    let body = match request.path.as_str() {
        "/v1/agent/self" => {
            json!({"Config": {"NodeName": node}, "Member": {"Name": node, "Addr": me.addr}, "DebugConfig": me.configured})
        }
        // What older handlers ask.
        "/v1/agent/members" => {
            let all = s.nodes.iter().filter_map(|(name, n)| {
                let status = me.sees.get(name).copied().unwrap_or(1);
                (status > 0).then(|| json!({"Name": name, "Addr": n.addr, "Port": 8301, "Status": status, "Tags": {}}))
            });
            all.collect()
        }
        "/v1/catalog/nodes" => {
            s.nodes.iter().filter(|(name, _)| s.member(name) != 0).map(|(name, n)| json!({"Node": name, "Address": n.addr})).collect()
        }
        "/v1/health/state/passing" => {
            let alive = s.nodes.keys().filter(|name| matches!(s.member(name), 1 | 2));
            alive.map(|name| json!({"Node": name, "CheckID": "serfHealth", "Status": "passing"})).collect()
        }
        "/v1/health/state/any" => {
            let of = |(node, n): (&String, &super::Node)| -> Vec<Value> {
                let services = n
                    .services
                    .keys()
                    .map(|id| json!({"Node": node, "CheckID": format!("service:{id}"), "ServiceID": id, "Status": "passing"}));
                services.chain([json!({"Node": node, "CheckID": "serfHealth", "ServiceID": "", "Status": "passing"})]).collect()
            };
            s.nodes.iter().flat_map(of).collect()
        }
        "/v1/agent/services" => me.services.iter().map(|(id, v)| (id.clone(), v.clone())).collect(),
        "/v1/status/leader" => "127.0.0.1:8300".into(),
        _ => {
            return Some(Response::new(404, "Invalid URL path: not a recognized HTTP API endpoint"));
        }
    };
    Some(Response::new(200, body.to_string()))
}

fn read(store: &Store, key: &str, request: &Request, patient: bool) -> Option<Response> {
    let keys = request.get("keys").is_some();
    let (index, mut entries) = store.read(key, keys || request.get("recurse").is_some());
    if patient && waits(request).is_some_and(|(after, _)| index <= after) {
        return None;
    }
    if keys {
        let separator = request.get("separator").unwrap_or("\0");
        let folded = |entry: &Value| {
            let name = entry["Key"].as_str().unwrap();
            let end = name[key.len()..].find(separator).map_or(name.len(), |at| key.len() + at + separator.len());
            Value::from(&name[..end])
        };
        entries = entries.iter().map(folded).collect();
        entries.dedup();
    }
    let status = if entries.is_empty() { 404 } else { 200 };
    let body = if entries.is_empty() { String::new() } else { Value::from(entries).to_string() };
    Some(Response { status, index: Some(index), body: body.into() })
}

fn write(s: &mut State, node: &str, request: &Request) -> Response {
    if request.body.len() > 512 * 1024 {
        return Response::new(413, "Request body too large, max size: 524288 bytes");
    }
    let cas = request.get("cas").and_then(|i| i.parse().ok());
    let (method, path) = (request.method.as_str(), request.path.trim_start_matches("/v1/"));
    if let Some(key) = path.strip_prefix("kv/") {
        let fine = cas.is_none_or(|index| s.store.holds(key, index) || method == "DELETE" && !s.store.kv.contains_key(key));
        match method {
            _ if !fine => {}
            "PUT" => s.store.set(key, &request.body),
            _ if request.get("recurse").is_some() => {
                let all: Vec<_> = s.store.kv.keys().filter(|k| k.starts_with(key)).cloned().collect();
                all.iter().for_each(|k| s.store.remove(k));
            }
            _ => s.store.remove(key),
        }
        return Response::new(200, fine.to_string());
    }
    if path == "txn" {
        return s.store.transact(&request.text());
    }
    if let Some(name) = path.strip_prefix("event/fire/") {
        return fire(s, name, &request.body);
    }
    let services = &mut s.nodes.get_mut(node).unwrap().services;
    if path == "agent/service/register" {
        let service: Value = serde_json::from_str(&request.text()).unwrap_or_default();
        let Some(id) = service["ID"].as_str().or(service["Name"].as_str()) else {
            return Response::new(400, "Missing service name");
        };
        services.insert(id.to_owned(), service.clone());
        return Response::new(200, "");
    }
    if let Some(id) = path.strip_prefix("agent/service/deregister/") {
        return match services.remove(id) {
            Some(_) => Response::new(200, ""),
            None => Response::new(404, format!("Unknown service ID {id:?}.")),
        };
    }
    Response::new(404, "Invalid URL path: not a recognized HTTP API endpoint")
}

fn fire(s: &mut State, name: &str, payload: &[u8]) -> Response {
    // What today's Consul lets through; older ones take up to four times as much.
    if name.len() + payload.len() > 100 {
        return Response::new(500, "user event exceeds configured limit of 512 bytes before encoding");
    }
    let count = s.events.len() + 1;
    let event = json!({
        "ID": format!("00000000-0000-4000-8000-{count:012}"), "Name": name, "Payload": STANDARD.encode(payload),
        "NodeFilter": "", "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": count,
    });
    s.events.push(event.clone());
    Response::new(200, event.to_string())
}
