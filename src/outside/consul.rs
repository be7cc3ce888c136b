//! The Consul agent of this node, over HTTP: members, key/value store, transactions, services, events.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use log::{debug, warn};
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use crate::model::order::NodeName;
use crate::outside::http;

/// For a call that does not block.
const QUICK: Duration = Duration::from_secs(20);
/// How long one blocking query waits; Consul adds up to a sixteenth.
const BLOCK: Duration = Duration::from_secs(10);
const MAX_ANSWER: u64 = 256 << 20;

#[derive(Debug)]
pub enum Error {
    /// No agent, no leader, no answer: nothing is known of what was asked, it may even have been done.
    Unreachable(String),
    /// An answer that will not get better by asking again.
    Refused(String),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Unreachable(why) => write!(f, "Consul cannot be reached: {why}"),
            Error::Refused(why) => write!(f, "Consul refused: {why}"),
        }
    }
}

pub struct Consul {
    agent: Agent,
    base: String,
    token: Option<String>,
    /// How long a call is tried again while Consul is unreachable.
    patience: std::cell::Cell<Duration>,
}

/// A key of the store with its value, decoded.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    pub create_index: u64,
    pub modify_index: u64,
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
        let value = value.map_err(|error| Error::Refused(format!("{}: value is not base64: {error}", raw.key)))?;
        Ok(Entry { key: raw.key.into(), value, create_index: raw.create_index, modify_index: raw.modify_index })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub name: String,
    pub address: String,
    /// Neither failed nor left.
    pub alive: bool,
}

/// Dead: reported as failed or left, or not listed.
pub fn alive(members: &[Member], name: &str) -> bool {
    members.iter().any(|member| member.name == name && member.alive)
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

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Consul {
    /// From `CONSUL_HTTP_ADDR` and its kin, as Consul's own command reads them.
    pub fn from_env(patience: Duration) -> Result<Consul, String> {
        let address = variable("CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".into());
        let token = match variable("CONSUL_HTTP_TOKEN_FILE") {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(|error| format!("CONSUL_HTTP_TOKEN_FILE: {path}: {error}"))?;
                Some(text.trim().to_string())
            }
            None => variable("CONSUL_HTTP_TOKEN"),
        };
        let ssl = variable("CONSUL_HTTP_SSL").is_some_and(|value| ["1", "t", "true"].contains(&&*value.to_lowercase()));
        let (base, socket, tls) = match address.split_once("://") {
            Some(("unix", path)) => ("http://agent".into(), Some(PathBuf::from(path)), false),
            Some(("https", host)) => (format!("https://{host}"), None, true),
            Some(("http" | "tcp", host)) => (format!("{}://{host}", if ssl { "https" } else { "http" }), None, ssl),
            Some((other, _)) => return Err(format!("CONSUL_HTTP_ADDR: {other:?} is none of http, https and unix")),
            None => (format!("{}://{address}", if ssl { "https" } else { "http" }), None, ssl),
        };
        let tls = if tls { Some(tls_config()?) } else { None };
        let base = base.trim_end_matches('/').to_string();
        Ok(Consul { agent: http::agent(QUICK, tls, socket), base, token, patience: patience.into() })
    }

    /// From now on calls are tried again for this long while Consul is unreachable.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// One request. `Ok` holds any status below 500 but 403.
    fn once(&self, method: &str, path: &str, body: &[u8], timeout: Duration) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
        let about = format!("{method} {path}");
        let unreachable = |error: &dyn fmt::Display| Error::Unreachable(format!("{} {about}: {error}", self.base));
        let mut request = Request::builder().method(method).uri(format!("{}/v1/{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", token);
        }
        let broken = |error: ureq::http::Error| Error::Refused(format!("{about}: {error}"));
        let sent = if method == "GET" {
            let request = request.body(()).map_err(broken)?;
            self.agent.run(self.agent.configure_request(request).timeout_global(Some(timeout)).build())
        } else {
            let request = request.body(body.to_vec()).map_err(broken)?;
            self.agent.run(self.agent.configure_request(request).timeout_global(Some(timeout)).build())
        };
        let mut response: Response<Body> = sent.map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        let index = response.headers().get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = http::body(&mut response, MAX_ANSWER).map_err(|error| unreachable(&error))?;
        let text = || String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).trim().to_string();
        match status {
            // An event that is too large is a 500 too, and will not get smaller.
            500.. if !path.starts_with("event/") => Err(unreachable(&format!("status {status}: {}", text()))),
            403 | 500.. => Err(Error::Refused(format!("{about}: status {status}: {}", text()))),
            _ => Ok((status, index, bytes)),
        }
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
        self.call_for(method, path, body, self.grace())
    }

    /// An agent that accepts and says nothing is not waited for much longer than the patience.
    fn grace(&self) -> Duration {
        self.patience.get().clamp(Duration::from_secs(2), QUICK)
    }

    fn call_for(&self, method: &str, path: &str, body: &[u8], timeout: Duration) -> Result<(u16, Option<u64>, Vec<u8>), Error> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(50);
        let mut told = false;
        loop {
            match self.once(method, path, body, timeout) {
                Err(Error::Unreachable(why)) if start.elapsed() + pause < self.patience.get() => {
                    if !told {
                        warn!("Consul cannot be reached, trying for {} s: {why}", self.patience.get().as_secs());
                        told = true;
                    }
                    sleep(pause);
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
    pub fn me(&self) -> Result<(NodeName, String), Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Itself {
            config: Config,
            member: Address,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Address {
            addr: String,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Config {
            node_name: NodeName,
        }
        let itself = self.read::<Itself>("agent/self")?;
        Ok((itself.config.node_name, itself.member.addr))
    }

    pub fn members(&self) -> Result<Vec<Member>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Raw {
            name: String,
            addr: String,
            status: u8,
        }
        // 1 alive, 2 leaving, 3 left, 4 failed
        let member = |raw: Raw| Member { name: raw.name, address: raw.addr, alive: matches!(raw.status, 1 | 2) };
        Ok(self.read::<Vec<Raw>>("agent/members")?.into_iter().map(member).collect())
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
        let path = format!("kv/{}?keys&separator=/&index={index}&wait={:.1}s", escaped(prefix), wait.as_secs_f32());
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

    /// How many keys there are below a prefix, and the index of the latest change.
    pub fn count(&self, prefix: &str) -> Result<(usize, u64), Error> {
        let path = format!("kv/{}?consistent&keys", escaped(prefix));
        match self.call("GET", &path, b"")? {
            (200, index, bytes) => Ok((parsed::<Value>(&path, &bytes)?.as_array().map_or(0, Vec::len), index.unwrap_or_default())),
            (404, ..) => Ok((0, 0)),
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
    serde_json::from_slice(bytes).map_err(|error| unexpected(path, &error))
}

fn unexpected(path: &str, error: &serde_json::Error) -> Error {
    Error::Refused(format!("{path}: unexpected answer: {error}"))
}

fn refused(path: &str, status: u16, bytes: &[u8]) -> Error {
    Error::Refused(format!("{path}: status {status}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).trim()))
}

#[cfg(not(feature = "tls"))]
fn tls_config() -> Result<http::Tls, String> {
    Err("CONSUL_HTTP_ADDR, CONSUL_HTTP_SSL: this handler was built without TLS; build it with `--features tls`".into())
}

#[cfg(feature = "tls")]
fn tls_config() -> Result<http::Tls, String> {
    use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
    let file = |name: &str| {
        let Some(path) = variable(name) else { return Ok(None) };
        std::fs::read(&path).map(Some).map_err(|error| format!("{name}: {path}: {error}"))
    };
    let certificates = |name: &str, pem: &[u8]| -> Result<Vec<Certificate<'static>>, String> {
        let items = parse_pem(pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(format!("{name}: {error}"))),
        });
        items.collect()
    };
    let mut config = TlsConfig::builder();
    if let Some(pem) = file("CONSUL_CACERT")? {
        config = config.root_certs(RootCerts::new_with_certs(&certificates("CONSUL_CACERT", &pem)?));
    }
    match (file("CONSUL_CLIENT_CERT")?, file("CONSUL_CLIENT_KEY")?) {
        (Some(cert), Some(key)) => {
            let key = PrivateKey::from_pem(&key).map_err(|error| format!("CONSUL_CLIENT_KEY: {error}"))?;
            config = config.client_cert(Some(ClientCert::new_with_certs(&certificates("CONSUL_CLIENT_CERT", &cert)?, key)));
        }
        (None, None) => {}
        _ => return Err("CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY: one needs the other".into()),
    }
    Ok(config.build())
}
