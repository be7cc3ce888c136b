//! The Consul agent of this node, over HTTP: members, key/value store, transactions, services, events.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use log::{debug, warn};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::doors::{Request, Service, Unanswered, World};
use crate::model::members::Member;
use crate::model::names::{Host, NodeName};

/// For a call that does not block.
const QUICK: Duration = Duration::from_secs(20);
/// How long one blocking query waits; Consul adds up to a sixteenth.
const BLOCK: Duration = Duration::from_secs(10);

/// Of an answer that is quoted.
const QUOTED: usize = 500;

#[derive(Debug)]
pub enum Error {
    /// No agent, no leader, no answer: nothing is known of what was asked, it may even have been done.
    OutOfReach {
        asked: String,
        why: Absence,
    },
    /// An answer that will not get better by asking again.
    Refused {
        asked: String,
        status: u16,
        says: String,
    },
    /// An answer that is not what it should be.
    Unexpected {
        asked: String,
        source: serde_json::Error,
    },
    NotBase64 {
        key: String,
        source: base64::DecodeError,
    },
}

/// Why Consul is out of reach.
#[derive(Debug)]
pub enum Absence {
    Unanswered(Unanswered),
    /// The agent answers, the cluster does not.
    NoCluster {
        status: u16,
        says: String,
    },
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Absence::Unanswered(why) => why.fmt(f),
            Absence::NoCluster { status, says } => write!(f, "status {status}: {says}"),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::OutOfReach { asked, why } => write!(f, "Consul cannot be reached: {asked}: {why}"),
            Error::Refused { asked, status, says } => write!(f, "Consul refused: {asked}: status {status}: {says}"),
            Error::Unexpected { asked, source } => write!(f, "Consul: {asked}: unexpected answer: {source}"),
            Error::NotBase64 { key, source } => write!(f, "Consul: {key}: value is not base64: {source}"),
        }
    }
}

/// Whether an answer of this status says that nothing can be known now. Consul answers 500 for all kinds of things: those that its agent
/// or the cluster cannot do at the moment are known by what is said ("No cluster leader", "rpc error: …", "failed to find …"); anything else
/// is a refusal with a reason of its own ("Scripts are disabled on this agent", an event that is too large).
fn is_absence(status: u16, says: &str) -> bool {
    const PASSING: [&str; 10] = [
        "no cluster leader",
        "no leader",
        "not the leader",
        "rpc error",
        "rpc failed",
        "no known consul servers",
        "leadership lost",
        "connection",
        "timeout",
        "timed out",
    ];
    let says = says.to_lowercase();
    match status {
        429 | 502..=504 => true,
        500 => says.is_empty() || says == "eof" || PASSING.iter().any(|passing| says.contains(passing)),
        _ => false,
    }
}

/// Of a watch an agent tells no more than that it is there.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Configured {
    pub watches: Option<Vec<IgnoredAny>>,
    pub checks: Option<Vec<Check>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check {
    /// A command and its arguments.
    pub script_args: Vec<String>,
}

/// The agent, with how long a call is tried again while Consul is out of reach: a copy with another patience is another value, so that none
/// stays raised.
#[derive(Clone)]
pub struct Consul {
    world: World,
    patience: Duration,
}

/// A key of the store with its value, decoded.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub create_index: u64,
    pub modify_index: u64,
}

/// How the entries of a list stand: differently as soon as one was written or removed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stand {
    entries: usize,
    last: u64,
}

impl Stand {
    pub fn count(&mut self, entry: &Entry) {
        self.entries += 1;
        self.last = self.last.max(entry.modify_index);
    }
}

impl fmt::Display for Stand {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.entries, self.last)
    }
}

/// Borrows from the answer, so that a long list costs no more memory than its text.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEntry<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: Option<Cow<'a, str>>,
    create_index: u64,
    modify_index: u64,
}

impl TryFrom<RawEntry<'_>> for Entry {
    type Error = Error;
    fn try_from(raw: RawEntry) -> Result<Entry, Error> {
        let value = STANDARD.decode(raw.value.as_deref().unwrap_or_default());
        let value = value.map_err(|source| Error::NotBase64 { key: raw.key.to_string(), source })?;
        Ok(Entry { key: raw.key.into(), value, create_index: raw.create_index, modify_index: raw.modify_index })
    }
}

/// What checks say, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Passing,
    /// Consul has not looked yet: until then it calls it critical.
    Unchecked,
    Warning,
    Critical,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Health::Passing => "passing",
            Health::Unchecked => "unchecked",
            Health::Warning => "warning",
            Health::Critical => "critical",
        })
    }
}

/// One operation of a transaction.
#[derive(Clone, Copy)]
pub enum Op<'a> {
    Set(&'a str, &'a [u8]),
    /// Holds if the key was last changed at this index; 0: if it does not exist.
    Cas(&'a str, &'a [u8], u64),
    Delete(&'a str),
    DeleteCas(&'a str, u64),
    CheckAbsent(&'a str),
    CheckIndex(&'a str, u64),
}

impl Op<'_> {
    fn json(&self) -> Value {
        let operation = match self {
            Op::Set(key, value) => json!({"Verb": "set", "Key": key, "Value": STANDARD.encode(value)}),
            Op::Cas(key, value, index) => json!({"Verb": "cas", "Key": key, "Value": STANDARD.encode(value), "Index": index}),
            Op::Delete(key) => json!({"Verb": "delete", "Key": key}),
            Op::DeleteCas(key, index) => json!({"Verb": "delete-cas", "Key": key, "Index": index}),
            Op::CheckAbsent(key) => json!({"Verb": "check-not-exists", "Key": key}),
            Op::CheckIndex(key, index) => json!({"Verb": "check-index", "Key": key, "Index": index}),
        };
        json!({ "KV": operation })
    }
}

/// A key as one path below `/v1/`: everything but the separators and unreserved characters is percent-encoded.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn cas_body(key: &str, value: &[u8], index: u64) -> Vec<u8> {
    Value::Array(vec![Op::Cas(key, value, index).json()]).to_string().into_bytes()
}

impl Consul {
    pub fn new(world: &World, patience: Duration) -> Consul {
        Consul { world: world.clone(), patience }
    }

    /// The same agent, whose calls are tried again for this long while Consul is out of reach.
    pub fn patient(&self, patience: Duration) -> Consul {
        Consul { patience, ..self.clone() }
    }

    /// One request. `Ok` holds any status below 500 but 403 and 429.
    fn once(&self, method: &str, path: &str, body: &[u8], timeout: Duration) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
        let asked = || format!("{method} {path}");
        let request = Request { method, path: &format!("/v1/{path}"), body, timeout };
        let sent = self.world.net.send(Service::Consul, request);
        let answer = sent.map_err(|why| Error::OutOfReach { asked: asked(), why: Absence::Unanswered(why) })?;
        let says = || String::from_utf8_lossy(&answer.body[..answer.body.len().min(QUOTED)]).trim().to_string();
        match answer.status {
            status @ (403 | 429 | 500..) => match says() {
                says if is_absence(status, &says) => Err(Error::OutOfReach { asked: asked(), why: Absence::NoCluster { status, says } }),
                says => Err(Error::Refused { asked: asked(), status, says }),
            },
            status => Ok((status, answer.index, answer.body)),
        }
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
        self.call_for(method, path, body, self.grace())
    }

    /// An agent that accepts and says nothing is not waited for much longer than the patience.
    fn grace(&self) -> Duration {
        self.patience.clamp(Duration::from_secs(2), QUICK)
    }

    fn call_for(&self, method: &str, path: &str, body: &[u8], timeout: Duration) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
        let clock = &self.world.clock;
        let start = clock.uptime();
        let mut pause = Duration::from_millis(50);
        let mut told = false;
        loop {
            match self.once(method, path, body, timeout) {
                Err(error @ Error::OutOfReach { .. }) if clock.uptime().saturating_sub(start) + pause < self.patience => {
                    if !told {
                        warn!("{error}; trying for {} s", self.patience.as_secs());
                        told = true;
                    }
                    clock.sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                answer => return answer,
            }
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        match self.call("GET", path, b"")? {
            // not by way of a Value: what an agent says of itself is long, and little of it is needed
            (200, _, bytes) => parsed(path, &bytes),
            (status, _, bytes) => Err(refused(path, status, &bytes)),
        }
    }

    /// The name of this node, and its address as the others know it.
    pub fn me(&self) -> Result<(NodeName, Host), Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Itself {
            config: Config,
            member: Address,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Address {
            addr: Host,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            node_name: NodeName,
        }
        let itself = self.read::<Itself>("agent/self")?;
        Ok((itself.config.node_name, itself.member.addr))
    }

    /// What the agent of this node was told to run. Nothing where it does not say, as others than those that were tried may.
    pub fn configured(&self) -> Result<Configured, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Itself {
            #[serde(default)]
            debug_config: Configured,
        }
        Ok(self.read::<Itself>("agent/self")?.debug_config)
    }

    /// By the leader's catalog: what an agent hears by gossip may differ from one to the next.
    pub fn members(&self) -> Result<Vec<Member>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Node {
            node: String,
            address: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Check {
            node: String,
            #[serde(rename = "CheckID")]
            check_id: String,
        }
        const SERF: &str = "serfHealth";
        let nodes = self.read::<Vec<Node>>("catalog/nodes?consistent")?;
        let passing = self.read::<Vec<Check>>("health/state/passing?consistent&filter=CheckID%20%3D%3D%20serfHealth")?;
        let alive = |name: &str| passing.iter().any(|check| check.check_id == SERF && check.node == name);
        Ok(nodes.into_iter().map(|Node { node, address }| Member { alive: alive(&node), name: node, address }).collect())
    }

    /// Of each service the worst that its checks say, by its ID; those of nodes, and services without checks, are not among them.
    pub fn services_health(&self) -> Result<BTreeMap<String, Health>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Check {
            #[serde(rename = "ServiceID", default)]
            service_id: String,
            status: String,
            #[serde(default)]
            output: String,
        }
        let mut found = BTreeMap::new();
        for check in self.read::<Vec<Check>>("health/state/any")?.into_iter().filter(|check| !check.service_id.is_empty()) {
            let health = match &*check.status {
                "passing" => Health::Passing,
                "warning" => Health::Warning,
                _ if check.output.is_empty() => Health::Unchecked,
                _ => Health::Critical,
            };
            let worst = found.entry(check.service_id).or_insert(health);
            *worst = health.max(*worst);
        }
        Ok(found)
    }

    pub fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        Ok(self.get_indexed(key)?.0)
    }

    /// Waits until the key has changed since `index`, at most [`BLOCK`].
    pub fn wait(&self, key: &str, index: u64) -> Result<(), Error> {
        self.wait_below(key, index, BLOCK).map(drop)
    }

    /// The index of everything below a prefix, to [`wait_below`](Consul::wait_below) from.
    pub fn index(&self, prefix: &str) -> Result<u64, Error> {
        self.wait_below(prefix, 0, Duration::ZERO)
    }

    /// Waits until anything below the prefix has changed since `index`, at most `time`; the index then. Names of folders come back, no
    /// values.
    pub fn wait_below(&self, prefix: &str, index: u64, time: Duration) -> Result<u64, Error> {
        let wait = time.min(BLOCK).max(Duration::from_millis(100));
        let path = format!("kv/{}?keys&separator=/&index={index}&wait={:.1}s", escaped(prefix), wait.as_secs_f64());
        match self.call_for("GET", &path, b"", wait + wait / 16 + self.grace())? {
            (200 | 404, index, _) => Ok(index.unwrap_or(1).max(1)),
            (status, _, bytes) => Err(refused(&path, status, &bytes)),
        }
    }

    /// The key, and the index to [`wait`](Consul::wait) from, which exists for a missing key too.
    pub fn get_indexed(&self, key: &str) -> Result<(Option<Entry>, u64), Error> {
        let path = format!("kv/{}?consistent", escaped(key));
        let (status, index, bytes) = self.call("GET", &path, b"")?;
        let entry = match status {
            200 => parsed::<Vec<RawEntry>>(&path, &bytes)?.into_iter().next().map(Entry::try_from).transpose()?,
            404 => None,
            _ => return Err(refused(&path, status, &bytes)),
        };
        Ok((entry, index.unwrap_or(1).max(1)))
    }

    /// Everything below a prefix.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        self.each(prefix, |entry| entries.push(entry))?;
        Ok(entries)
    }

    /// The same, one by one.
    pub fn each(&self, prefix: &str, mut visit: impl FnMut(Entry)) -> Result<(), Error> {
        let path = format!("kv/{}?consistent&recurse", escaped(prefix));
        match self.call("GET", &path, b"")? {
            (200, _, bytes) => {
                for raw in parsed::<Vec<RawEntry>>(&path, &bytes)? {
                    visit(Entry::try_from(raw)?);
                }
                Ok(())
            }
            (404, ..) => Ok(()),
            (status, _, bytes) => Err(refused(&path, status, &bytes)),
        }
    }

    /// The keys below a prefix, without what they hold.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = format!("kv/{}?consistent&keys", escaped(prefix));
        match self.call("GET", &path, b"")? {
            (200, _, bytes) => parsed(&path, &bytes),
            (404, ..) => Ok(Vec::new()),
            (status, _, bytes) => Err(refused(&path, status, &bytes)),
        }
    }

    pub fn put(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.act("PUT", &format!("kv/{}", escaped(key)), value)
    }

    /// Sets the key if it has not changed since `index`; its new index.
    pub fn cas(&self, key: &str, value: &[u8], index: u64) -> Result<Option<u64>, Error> {
        self.cas_answer(self.call("PUT", "txn", &cas_body(key, value, index))?)
    }

    /// The same, tried once.
    pub fn try_cas(&self, key: &str, value: &[u8], index: u64) -> Result<Option<u64>, Error> {
        self.cas_answer(self.once("PUT", "txn", &cas_body(key, value, index), QUICK)?)
    }

    fn cas_answer(&self, (status, _, bytes): (u16, Option<u64>, Vec<u8>)) -> Result<Option<u64>, Error> {
        match status {
            // A plain check-and-set answers no index, a transaction does.
            200 => Ok(parsed::<Value>("txn", &bytes)?["Results"][0]["KV"]["ModifyIndex"].as_u64()),
            409 => Ok(None),
            _ => Err(refused("txn", status, &bytes)),
        }
    }

    pub fn delete(&self, key: &str) -> Result<(), Error> {
        self.act("DELETE", &format!("kv/{}", escaped(key)), b"")
    }

    /// All of it or nothing; whether it held.
    pub fn transaction(&self, operations: &[Op]) -> Result<bool, Error> {
        let body = Value::Array(operations.iter().map(Op::json).collect()).to_string();
        match self.call("PUT", "txn", body.as_bytes())? {
            (200, ..) => Ok(true),
            (409, _, bytes) => {
                debug!("a transaction did not hold: {}", String::from_utf8_lossy(&bytes));
                Ok(false)
            }
            (status, _, bytes) => Err(refused("txn", status, &bytes)),
        }
    }

    pub fn register(&self, service: &Value) -> Result<(), Error> {
        self.act("PUT", "agent/service/register", service.to_string().as_bytes())
    }

    /// A service that is not there is no error.
    pub fn deregister(&self, id: &str) -> Result<(), Error> {
        match self.call("PUT", &format!("agent/service/deregister/{}", escaped(id)), b"")? {
            (200 | 404, ..) => Ok(()),
            (status, _, bytes) => Err(refused("agent/service/deregister", status, &bytes)),
        }
    }

    pub fn fire(&self, event: &str, payload: &str) -> Result<(), Error> {
        self.act("PUT", &format!("event/fire/{event}"), payload.as_bytes())
    }

    /// Whose answer is only that it is done.
    fn act(&self, method: &str, path: &str, body: &[u8]) -> Result<(), Error> {
        match self.call(method, path, body)? {
            (200, ..) => Ok(()),
            (status, _, bytes) => Err(refused(path, status, &bytes)),
        }
    }
}

fn parsed<'a, T: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Unexpected { asked: path.into(), source })
}

fn refused(path: &str, status: u16, bytes: &[u8]) -> Error {
    Error::Refused { asked: path.into(), status, says: String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED)]).trim().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As agents of Consul 1.8 and 1.22 have said it.
    #[test]
    fn what_passes_is_told_from_what_is_refused() {
        for (status, says) in [
            (500, "No cluster leader"),
            (500, "rpc error making call: No cluster leader"),
            (500, "No known Consul servers"),
            (500, "rpc error getting client: failed to get conn: dial tcp 10.0.0.1:0->10.0.0.1:8300: connect: connection refused"),
            (500, "rpc error making call: EOF"),
            (500, "leadership lost while committing log"),
            (500, "raft is not the leader"),
            (503, ""),
            (504, "timeout"),
            (429, "Your IP is issuing too many concurrent connections, please rate limit your calls"),
        ] {
            assert!(is_absence(status, says), "{says}");
        }
        for (status, says) in [
            (
                500,
                "Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or 'enable_local_script_checks' to true",
            ),
            (500, "user event exceeds configured limit of 512 bytes before encoding"),
            (500, "Invalid check: TTL must be > 0 for TTL checks"),
            (403, "Permission denied"),
            (403, "rpc error making call: Permission denied"),
        ] {
            assert!(!is_absence(status, says), "{says}");
        }
    }
}
