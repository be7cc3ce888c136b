//! `HAPROXY` variables: checked and merged into what the record holds. Pure.
//!
//! What is checked here is later written into a configuration file line by line: each line is a known one ([`words`]). A record that an older
//! handler has written may have others; they are served until its application has a new version, unless they could begin a section of their own.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::address::Scheme;
use super::bind::Bind;
use super::words::{self, Place};
use crate::outside::yaml;

/// The two frontends that every node has; routes add backends to them.
pub const HTTP_IN: &str = "http-in";
pub const HTTPS_IN: &str = "https-in";

/// On these one node's haproxy hears from the others', which say who the client is: for `http-in` and `https-in`.
pub const PEER_HTTP: u16 = 1180;
pub const PEER_HTTPS: u16 = 1443;

/// Ports that the nodes themselves need: the volume plugin's ssh, the proxies' own, and Consul's.
pub const RESERVED: [u16; 8] = [1122, PEER_HTTP, PEER_HTTPS, 8300, 8301, 8302, 8500, 8600];

/// A line that begins with one of these begins a section.
const SECTIONS: &str = " acme backend cache crt-store defaults fcgi-app frontend global http-errors listen log-forward log-profile \
     mailers namespace_list peers program resolvers ring traces userlist ";

/// What is wrong, and where: `git-ssh.backends[0].port`.
#[derive(Debug)]
pub struct Error {
    pub at: String,
    pub problem: Problem,
}

#[derive(Debug)]
pub enum Problem {
    Yaml(yaml::Error),
    /// YAML that JSON cannot say: keys that are no texts.
    Json(serde_json::Error),
    Expected {
        expected: &'static str,
        found: Value,
    },
    NoName,
    Unknown {
        member: String,
        known: &'static [&'static str],
    },
    Missing {
        expected: &'static str,
    },
    /// A mode of one of the two shared frontends.
    Mode {
        mode: String,
    },
    NoBind {
        text: String,
    },
    /// A bind with a port of one of the two shared frontends.
    SharedPort {
        text: String,
    },
    ReservedPort {
        text: String,
    },
    Section {
        text: String,
    },
    NotKnown {
        text: String,
        nearest: Vec<&'static str>,
    },
    NoCondition,
    /// haproxy does not listen there for this configuration.
    NotHeard {
        port: u16,
    },
    /// Of the two shared frontends.
    SharedOption {
        text: String,
    },
    TwoValues {
        known: Value,
        new: Value,
    },
    Twice {
        backend: String,
    },
    BoundToo {
        bind: Bind,
        by: String,
        there: Bind,
    },
    PortOfSite {
        bind: Bind,
        address: String,
    },
    HostOfSite {
        host: String,
        address: String,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.at.as_str() {
            "" => self.problem.fmt(f),
            at => write!(f, "{at}: {}", self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Problem::Yaml(source) => source.fmt(f),
            Problem::Json(source) => source.fmt(f),
            Problem::Expected { expected, found } => match found {
                Value::Null => write!(f, "expected {expected}, found nothing"),
                Value::String(_) | Value::Number(_) | Value::Bool(_) => write!(f, "expected {expected}, found {found}"),
                Value::Array(_) => write!(f, "expected {expected}, found a list"),
                Value::Object(_) => write!(f, "expected {expected}, found a mapping"),
            },
            Problem::NoName => write!(f, "expected {NAME}"),
            Problem::Unknown { member, known } => write!(f, "unknown member {member:?}; known: {}", known.join(", ")),
            Problem::Missing { expected } => write!(f, "missing: {expected}"),
            Problem::Mode { mode } => write!(f, "{mode:?} does not fit: {HTTP_IN} is http, {HTTPS_IN} is tcp"),
            Problem::NoBind { text } => write!(f, "expected *:port, found {text:?}: haproxy listens on every address of every node"),
            Problem::SharedPort { text } => {
                write!(f, "{text:?}: ports 80 and 443 are {HTTP_IN}'s and {HTTPS_IN}'s; use these names")
            }
            Problem::ReservedPort { text } => write!(f, "{text:?}: the node itself needs the ports {RESERVED:?}; choose another one"),
            Problem::Section { text } => write!(f, "{text:?}: a section cannot begin here"),
            Problem::NotKnown { text, nearest } => write!(f, "{text:?} cannot be used here; what can be: {}", nearest.join(", ")),
            Problem::NoCondition => {
                write!(
                    f,
                    "missing: all applications share this frontend, so say which host is yours, such as `if {{ hdr(host) -i shop.example.com }}`"
                )
            }
            Problem::NotHeard { port } => {
                write!(
                    f,
                    "haproxy does not listen on port {port} for this configuration: peer_port is one of its binds, 80 for {HTTP_IN}, 443 for {HTTPS_IN}"
                )
            }
            Problem::SharedOption { text } => {
                write!(f, "{text:?}: all applications share this frontend; an application of its own port has a frontend of its own")
            }
            Problem::TwoValues { known, new } => write!(f, "{known} in one service and {new} in another"),
            Problem::Twice { backend } => write!(f, "the name {backend:?} is used twice"),
            Problem::BoundToo { bind, by, there } => write!(f, "{bind} is bound by {by} too, as {there}"),
            Problem::HostOfSite { host, address } => {
                write!(f, "all requests for {host} would go past the site {address}: leave one of both out")
            }
            Problem::PortOfSite { bind, address } => write!(f, "{bind} has the port of the address {address}"),
        }
    }
}

const NAME: &str = "a name of letters, digits, `.`, `_`, `:` and `-`";

fn refused<T>(at: impl Into<String>, problem: Problem) -> Result<T, Error> {
    Err(Error { at: at.into(), problem })
}

fn wrong<T>(at: impl Into<String>, expected: &'static str, found: Option<&Value>) -> Result<T, Error> {
    refused(at, Problem::Expected { expected, found: found.cloned().unwrap_or_default() })
}

/// Adds one service's variable, whose backends lead to `container`, to what earlier services gave.
pub fn add(all: &mut Map<String, Value>, text: &str, container: &str) -> Result<(), Error> {
    let value = yaml::read(text).or_else(|source| refused("", Problem::Yaml(source)))?;
    match serde_json::to_value(&value).or_else(|source| refused("", Problem::Json(source)))? {
        Value::Object(configurations) => merge(all, configurations, Rules::Known { container }),
        Value::Null => Ok(()),
        other => wrong("", "a mapping of configuration names", Some(&other)),
    }
}

#[derive(Clone, Copy)]
enum Rules<'a> {
    Known {
        container: &'a str,
    },
    /// For what a record of an older handler has.
    Older,
}

fn merge(all: &mut Map<String, Value>, configurations: Map<String, Value>, rules: Rules) -> Result<(), Error> {
    for (name, value) in configurations {
        if !is_name(&name) {
            return refused(name, Problem::NoName);
        }
        let mut given = object(&name, value, &["frontend", "backends"])?;
        let known = all.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        let Some(known) = known.as_object_mut() else {
            continue;
        };
        if let Some(value) = given.remove("frontend").filter(|value| !value.is_null()) {
            let frontend = frontend(&name, value, rules)?;
            unite(&name, known, frontend)?;
        }
        let mut backends = backends(&name, given.remove("backends"), rules)?;
        if let Some(Value::Array(earlier)) = known.get_mut("backends") {
            earlier.append(&mut backends);
        } else {
            known.insert("backends".into(), Value::Array(backends));
        }
    }
    Ok(())
}

/// What can only be said when all services have been added.
pub fn check(all: &Map<String, Value>) -> Result<(), Error> {
    together(all)?;
    for (name, configuration) in all {
        let mode = shared(name).map_or(configuration["frontend"]["mode"].as_str().unwrap_or_default(), |(mode, _)| mode);
        let binds = || binds_of(all).filter(|(of, _)| of == name);
        let listens = |port: u16| shared(name).map_or_else(|| binds().any(|(_, bind)| bind.ports.contains(&port)), |(_, own)| port == own);
        for (n, backend) in list(configuration, "backends").enumerate() {
            let at = |member| format!("{name}.backends[{n}].{member}");
            if let Some(text) = backend["use_backend_option"].as_str().filter(|text| !text.is_empty()) {
                let other = |nearest| refused(at("use_backend_option"), Problem::NotKnown { text: text.into(), nearest });
                words::fits_mode(text, mode).or_else(other)?;
            }
            if let Some(port) = port(backend.get("peer_port")).filter(|port| !listens(*port)) {
                return refused(at("peer_port"), Problem::NotHeard { port });
            }
        }
    }
    Ok(())
}

/// Configuration → the backends to which nothing leads, since one before them takes all, or what has the same condition.
pub fn unused(all: &Map<String, Value>) -> impl Iterator<Item = (&str, &str)> {
    all.iter().flat_map(|(name, configuration)| {
        let condition = |backend: &Value| words::host(backend["use_backend_option"].as_str().unwrap_or_default());
        let mut before = BTreeSet::new();
        list(configuration, "backends").filter_map(move |backend| {
            let is_asked = !before.contains(&None) && before.insert(condition(backend));
            if is_asked { None } else { Some((name.as_str(), backend["name"].as_str()?)) }
        })
    })
}

fn together(all: &Map<String, Value>) -> Result<(), Error> {
    for (name, configuration) in all {
        if !is_shared(name) && configuration.get("frontend").is_none() {
            return refused(format!("{name}.frontend"), Problem::Missing { expected: "mode and bind are needed" });
        }
    }
    let mut known = Vec::new();
    for (name, backend) in backends_of(all) {
        if known.contains(&backend) {
            return refused(format!("{name}.backends"), Problem::Twice { backend: backend.into() });
        }
        known.push(backend);
    }
    let binds: Vec<(&str, Bind)> = binds_of(all).collect();
    for (at, (name, bind)) in binds.iter().enumerate() {
        if let Some((other, there)) = binds[..at].iter().find(|(other, there)| other != name && bind.overlaps(there)) {
            let problem = Problem::BoundToo { bind: bind.clone(), by: other.to_string(), there: there.clone() };
            return refused(format!("{name}.frontend.bind"), problem);
        }
    }
    Ok(())
}

/// What has to hold of what a record has, whoever has written it.
pub fn recheck(all: &Map<String, Value>) -> Result<(), Error> {
    again(all, Rules::Older)
}

/// Why a record's application could not be deployed as it stands there.
pub fn outdated(all: &Map<String, Value>) -> Option<Error> {
    again(all, Rules::Known { container: "" }).err()
}

fn again(all: &Map<String, Value>, rules: Rules) -> Result<(), Error> {
    let mut again = Map::new();
    for (name, configuration) in all {
        for (n, backend) in list(configuration, "backends").enumerate() {
            if !backend["ct"].as_str().is_some_and(is_name) {
                return wrong(format!("{name}.backends[{n}].ct"), "the name of a container", backend.get("ct"));
            }
        }
        let mut configuration = configuration.clone();
        if let Some(backends) = configuration.get_mut("backends").and_then(Value::as_array_mut) {
            for backend in backends.iter_mut().filter_map(Value::as_object_mut) {
                backend.remove("ct");
            }
        }
        merge(&mut again, Map::from_iter([(name.clone(), configuration)]), rules)?;
    }
    match rules {
        Rules::Known { .. } => check(&again),
        Rules::Older => together(&again),
    }
}

/// `http-in` or `https-in`, to which all applications may add.
pub fn is_shared(name: &str) -> bool {
    shared(name).is_some()
}

/// The mode and the port of one of these.
fn shared(name: &str) -> Option<(&'static str, u16)> {
    match name {
        HTTP_IN => Some(("http", 80)),
        HTTPS_IN => Some(("tcp", 443)),
        _ => None,
    }
}

fn frontend(name: &str, value: Value, rules: Rules) -> Result<Map<String, Value>, Error> {
    let at = format!("{name}.frontend");
    let mut frontend = object(&at, value, &["mode", "bind", "options"])?;
    match (shared(name), frontend.get("mode").and_then(Value::as_str)) {
        (Some((own, _)), mode) if mode.is_none_or(|mode| mode == own) => {}
        (Some(_), Some(mode)) => return refused(format!("{at}.mode"), Problem::Mode { mode: mode.into() }),
        (_, Some("tcp" | "http")) => {}
        _ => return wrong(format!("{at}.mode"), "tcp or http", frontend.get("mode")),
    }
    lines(&at, &mut frontend, "options", Place::Frontend, rules)?;
    if let Some((_, port)) = shared(name) {
        // What each node has there in any case.
        let own = |text: &str| text.starts_with("tcp-request ") || ["option tcplog", "option httplog"].contains(&text);
        if let (Rules::Known { .. }, Some(text)) = (rules, list_of(&frontend, "options").find(|text| !own(text))) {
            return refused(format!("{at}.options"), Problem::SharedOption { text: text.into() });
        }
        if let (Rules::Known { .. }, Some(text)) = (rules, list_of(&frontend, "bind").find(|text| *text != format!("*:{port}"))) {
            return refused(format!("{at}.bind"), Problem::SharedOption { text: text.into() });
        }
        if let Rules::Known { .. } = rules {
            frontend.remove("options");
        }
        return Ok(frontend);
    }
    let at = format!("{at}.bind");
    let texts = match frontend.get_mut("bind") {
        Some(Value::Array(texts)) if !texts.is_empty() => texts,
        None | Some(Value::Null | Value::Array(_)) => {
            return refused(at, Problem::Missing { expected: "expected a list of ports, such as \"*:2222\"" });
        }
        other => return wrong(at, "a list of texts", other.as_deref()),
    };
    for item in texts {
        let Value::String(text) = item else { return wrong(at, "a list of texts", Some(item)) };
        if let Rules::Known { .. } = rules {
            let port = text.rsplit_once(':').filter(|(host, _)| ["*", "", "0.0.0.0", "[::]", "::"].contains(host));
            let Some(port) = port.and_then(|(_, port)| port_of(port)) else {
                return refused(at, Problem::NoBind { text: text.clone() });
            };
            *text = format!("*:{port}");
        }
        let Some(binds) = Bind::parse(text).filter(|_| !text.contains(char::is_control)) else {
            return refused(at, Problem::NoBind { text: text.clone() });
        };
        let has = |port: &u16| binds.iter().any(|bind| bind.ports.contains(port));
        if [80, 443].iter().any(has) {
            return refused(at, Problem::SharedPort { text: text.clone() });
        }
        if RESERVED.iter().any(has) {
            return refused(at, Problem::ReservedPort { text: text.clone() });
        }
    }
    Ok(frontend)
}

/// Members without repeats; two modes are a contradiction.
fn unite(name: &str, known: &mut Map<String, Value>, new: Map<String, Value>) -> Result<(), Error> {
    let Some(Value::Object(known)) = known.get_mut("frontend") else {
        known.insert("frontend".into(), Value::Object(new));
        return Ok(());
    };
    for (member, value) in new {
        match (known.get_mut(&member), value) {
            (Some(Value::Array(known)), Value::Array(new)) => {
                for item in new {
                    if !known.contains(&item) {
                        known.push(item);
                    }
                }
            }
            (Some(known), new) if !known.is_null() && *known != new => {
                let problem = Problem::TwoValues { known: known.clone(), new };
                return refused(format!("{name}.frontend.{member}"), problem);
            }
            (_, value) => {
                known.insert(member, value);
            }
        }
    }
    Ok(())
}

fn backends(name: &str, value: Option<Value>, rules: Rules) -> Result<Vec<Value>, Error> {
    let shared = is_shared(name);
    let at = format!("{name}.backends");
    let list = match value {
        Some(Value::Array(list)) if !list.is_empty() => list,
        None | Some(Value::Null | Value::Array(_)) => {
            return refused(at, Problem::Missing { expected: "expected a list of port and peer_port" });
        }
        Some(other) => return wrong(at, "a list", Some(&other)),
    };
    let mut checked = Vec::with_capacity(list.len());
    for (n, value) in list.into_iter().enumerate() {
        let at = format!("{at}[{n}]");
        let mut backend = object(&at, value, &["name", "port", "peer_port", "use_backend_option", "server_option", "options"])?;
        let container = match rules {
            Rules::Known { container } => container,
            Rules::Older => "",
        };
        if backend.get("name").is_none_or(Value::is_null) {
            backend.insert("name".into(), container.into());
        }
        let name = backend.get("name");
        if !name.and_then(Value::as_str).is_some_and(is_name) {
            return wrong(format!("{at}.name"), NAME, name);
        }
        for member in ["port", "peer_port"] {
            if port(backend.get(member)).is_none() {
                return wrong(format!("{at}.{member}"), "a port from 1 to 65535", backend.get(member));
            }
        }
        for (member, place) in [("use_backend_option", Place::Condition), ("server_option", Place::Server)] {
            match backend.get_mut(member) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) => *text = line(&format!("{at}.{member}"), place, text, rules)?,
                other => return wrong(format!("{at}.{member}"), "text in one line", other.as_deref()),
            }
        }
        let condition = backend.get("use_backend_option").and_then(Value::as_str).unwrap_or_default();
        if shared && condition.is_empty() && matches!(rules, Rules::Known { .. }) {
            return refused(format!("{at}.use_backend_option"), Problem::NoCondition);
        }
        lines(&at, &mut backend, "options", Place::Backend, rules)?;
        backend.insert("ct".into(), container.into());
        checked.push(Value::Object(backend));
    }
    Ok(checked)
}

/// A member that is a list of lines for the configuration file, if it is there.
fn lines(at: &str, map: &mut Map<String, Value>, member: &str, place: Place, rules: Rules) -> Result<(), Error> {
    let at = format!("{at}.{member}");
    match map.get_mut(member) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(items)) => items.iter_mut().try_for_each(|item| {
            let Value::String(text) = item else { return wrong(at.as_str(), "a list of one-line texts", Some(item)) };
            *text = line(&at, place, text, rules)?;
            Ok(())
        }),
        other => wrong(at, "a list of texts", other.as_deref()),
    }
}

/// As it is to be written.
fn line(at: &str, place: Place, text: &str, rules: Rules) -> Result<String, Error> {
    match (rules, words::line(place, text)) {
        (_, Ok(line)) => Ok(line),
        (Rules::Known { .. }, Err(nearest)) => refused(at, Problem::NotKnown { text: text.into(), nearest }),
        (Rules::Older, _) if text.contains(char::is_control) => wrong(at, "text in one line", Some(&text.into())),
        // haproxy takes quotes and escapes out first.
        (Rules::Older, _) if place == Place::Frontend || place == Place::Backend => {
            let first = text.split_whitespace().next().unwrap_or_default();
            match !SECTIONS.contains(&format!(" {first} ")) && first.bytes().all(|b| b.is_ascii_lowercase() || b"-_".contains(&b)) {
                true => Ok(text.into()),
                false => refused(at, Problem::Section { text: text.into() }),
            }
        }
        (Rules::Older, _) => Ok(text.into()),
    }
}

fn object(at: &str, value: Value, known: &'static [&'static str]) -> Result<Map<String, Value>, Error> {
    let Value::Object(map) = value else {
        return wrong(at, "a mapping", Some(&value));
    };
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        Some(member) => refused(at, Problem::Unknown { member: member.clone(), known }),
        None => Ok(map),
    }
}

/// A name that can stand in a configuration file.
pub fn is_name(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
    !name.is_empty() && name.len() <= 200 && name.bytes().all(fine)
}

/// A port as number or text.
pub fn port(value: Option<&Value>) -> Option<u16> {
    let port = match value? {
        Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(text) => port_of(text),
        _ => None,
    };
    port.filter(|port| *port > 0)
}

fn port_of(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok().filter(|port| *port > 0))?
}

fn list_of<'a>(map: &'a Map<String, Value>, member: &str) -> impl Iterator<Item = &'a str> {
    map.get(member).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The members of a list, none if it is missing.
pub fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value.get(member).and_then(Value::as_array).into_iter().flatten()
}

/// Configuration → backend's name.
pub fn backends_of(all: &Map<String, Value>) -> impl Iterator<Item = (&str, &str)> {
    all.iter().flat_map(|(name, configuration)| {
        list(configuration, "backends").filter_map(move |backend| Some((name.as_str(), backend["name"].as_str()?)))
    })
}

/// What is led away from the two shared frontends.
pub fn hosts_of(all: &Map<String, Value>) -> impl Iterator<Item = (Scheme, String)> {
    let shared = [(HTTP_IN, Scheme::Http), (HTTPS_IN, Scheme::Https)].into_iter();
    shared.flat_map(|(name, scheme)| {
        let backends = all.get(name).into_iter().flat_map(|configuration| list(configuration, "backends"));
        backends.filter_map(move |backend| Some((scheme, words::host(backend["use_backend_option"].as_str()?)?)))
    })
}

/// Configuration → what its frontend binds, but for the two that are shared.
pub fn binds_of(all: &Map<String, Value>) -> impl Iterator<Item = (&str, Bind)> {
    all.iter().filter(|(name, _)| !is_shared(name)).flat_map(|(name, configuration)| {
        let texts = list(&configuration["frontend"], "bind").filter_map(Value::as_str);
        texts.filter_map(Bind::parse).flatten().map(move |bind| (name.as_str(), bind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(texts: &[&str]) -> Result<Map<String, Value>, Error> {
        let mut all = Map::new();
        for (n, text) in texts.iter().enumerate() {
            add(&mut all, text, &format!("ct{n}"))?;
        }
        check(&all)?;
        Ok(all)
    }

    #[test]
    fn merged() {
        let one =
            "x: {frontend: {mode: tcp, bind: ['*:1', '*:2'], options: [option tcplog]}, backends: [{name: a, port: 1, peer_port: '1'}]}";
        let two = r#"{"x": {"frontend": {"mode": "tcp", "bind": ["*:2", "*:3"], "options": ["maxconn  9"]}, "backends": [{"port": 2, "peer_port": 2, "options": ["balance source"]}]}}"#;
        let three = "{x: {backends: [{name: c, port: 3, peer_port: 3}]}, http-in: {backends: [{name: h, port: 3, peer_port: 80, use_backend_option: 'if {hdr(host) -i h}'}]}}";
        assert_eq!(
            Value::Object(read(&[one, two, three, "", "{}"]).unwrap()),
            json!({
                "x": {
                    "frontend": {"mode": "tcp", "bind": ["*:1", "*:2", "*:3"], "options": ["option tcplog", "maxconn 9"]},
                    "backends": [
                        {"name": "a", "port": 1, "peer_port": "1", "ct": "ct0"},
                        {"name": "ct1", "port": 2, "peer_port": 2, "options": ["balance source"], "ct": "ct1"},
                        {"name": "c", "port": 3, "peer_port": 3, "ct": "ct2"},
                    ],
                },
                "http-in": {"backends": [{"name": "h", "port": 3, "peer_port": 80, "use_backend_option": "if { hdr(host) -i h }", "ct": "ct2"}]},
            })
        );
    }

    #[test]
    fn refused() {
        let backend = "backends: [{name: a, port: 1, peer_port: 1}]";
        let of_host = |word: &str| format!("backends: [{{name: a, port: 1, peer_port: 1, use_backend_option: 'if {{ {word} -i a }}'}}]");
        for (text, message) in [
            ("[]", "expected a mapping of configuration names, found a list"),
            ("x: 1", "x: expected a mapping, found 1"),
            ("'x y': {}", "x y: expected a name of letters, digits, `.`, `_`, `:` and `-`"),
            ("x: {backend: []}", "x: unknown member \"backend\"; known: frontend, backends"),
            ("http-in: {}", "http-in.backends: missing: expected a list of port and peer_port"),
            ("x: {backends: a}", "x.backends: expected a list, found \"a\""),
            (
                "x: {backends: [{name: a b}]}",
                "x.backends[0].name: expected a name of letters, digits, `.`, `_`, `:` and `-`, found \"a b\"",
            ),
            ("x: {backends: [{name: a, port: 1, peer_port: 0}]}", "x.backends[0].peer_port: expected a port from 1 to 65535, found 0"),
            ("x: {backends: [{name: a, port: +1}]}", "x.backends[0].peer_port: expected a port from 1 to 65535, found nothing"),
            ("x: {backends: [{name: a, port: '+1'}]}", "x.backends[0].port: expected a port from 1 to 65535, found \"+1\""),
            (
                "x: {backends: [{name: a, port: 1, peer_port: 1, use_backend_option: \"a\\nb\"}]}",
                "x.backends[0].use_backend_option: \"a\\nb\" cannot be used here; what can be: if { hdr(host) -i NAME }, if { req.hdr(host) -i NAME }, \
                 if { req_ssl_sni -i NAME }, if { req.ssl_sni -i NAME }",
            ),
            (
                "x: {backends: [{name: a, port: 1, peer_port: 1, options: ['balance \\x20y']}]}",
                "x.backends[0].options: \"balance \\\\x20y\" cannot be used here; what can be: balance roundrobin, balance leastconn, balance source",
            ),
            ("x: {frontend: {mode: udp}}", "x.frontend.mode: expected tcp or http, found \"udp\""),
            ("x: {frontend: {mode: tcp}}", "x.frontend.bind: missing: expected a list of ports, such as \"*:2222\""),
            ("x: {frontend: {mode: tcp, bind: '*:1'}}", "x.frontend.bind: expected a list of texts, found \"*:1\""),
            (
                "x: {frontend: {mode: tcp, bind: ['2222']}}",
                "x.frontend.bind: expected *:port, found \"2222\": haproxy listens on every address of every node",
            ),
            (
                "x: {frontend: {mode: tcp, bind: ['10.0.0.1:2222']}}",
                "x.frontend.bind: expected *:port, found \"10.0.0.1:2222\": haproxy listens on every address of every node",
            ),
            (
                "x: {frontend: {mode: tcp, bind: ['*:2222\\x2c*:443']}}",
                "x.frontend.bind: expected *:port, found \"*:2222\\\\x2c*:443\": haproxy listens on every address of every node",
            ),
            (
                "https-in: {frontend: {options: [timeout client 1s]}, backends: [{port: 1, peer_port: 1}]}",
                "https-in.frontend.options: \"timeout client 1s\": all applications share this frontend; an application of its own port has a frontend of its own",
            ),
            (
                "http-in: {backends: [{port: 1, peer_port: 80}]}",
                "http-in.backends[0].use_backend_option: missing: all applications share this frontend, so say which host is yours, such as \
                 `if { hdr(host) -i shop.example.com }`",
            ),
            (
                "x: {frontend: {mode: tcp, bind: ['*:443']}}",
                "x.frontend.bind: \"*:443\": ports 80 and 443 are http-in's and https-in's; use these names",
            ),
            (
                "x: {frontend: {mode: tcp, bind: ['*:8500']}}",
                "x.frontend.bind: \"*:8500\": the node itself needs the ports [1122, 1180, 1443, 8300, 8301, 8302, 8500, 8600]; choose another one",
            ),
            (
                &format!("x: {{frontend: {{mode: tcp, bind: ['*:5']}}, {backend}}}"),
                "x.backends[0].peer_port: haproxy does not listen on port 1 for this configuration: peer_port is one of its binds, 80 for http-in, 443 \
                 for https-in",
            ),
            (
                &format!("x: {{frontend: {{mode: http, bind: ['*:1']}}, {}}}", of_host("req_ssl_sni")),
                "x.backends[0].use_backend_option: \"if { req_ssl_sni -i a }\" cannot be used here; what can be: if { hdr(host) -i NAME }, \
                 if { req.hdr(host) -i NAME }",
            ),
            (
                "http-in: {frontend: {bind: ['*:2222']}}",
                "http-in.frontend.bind: \"*:2222\": all applications share this frontend; an application of its own port has a frontend of its own",
            ),
            ("http-in: {frontend: {mode: tcp}}", "http-in.frontend.mode: \"tcp\" does not fit: http-in is http, https-in is tcp"),
            (&format!("x: {{{backend}}}"), "x.frontend: missing: mode and bind are needed"),
            (
                &format!("http-in: {{{}}}\nhttps-in: {{{}}}", of_host("hdr(host)"), of_host("req_ssl_sni")),
                "https-in.backends: the name \"a\" is used twice",
            ),
            (
                &format!(
                    "x: {{frontend: {{mode: tcp, bind: ['*:5', '*:7']}}, {backend}}}\n\
                     y: {{frontend: {{mode: tcp, bind: [':7']}}, backends: [{{name: b, port: 1, peer_port: 7}}]}}"
                ),
                "y.frontend.bind: *:7 is bound by x too, as *:7",
            ),
        ] {
            assert_eq!(read(&[text]).unwrap_err().to_string(), message, "{text}");
        }
        let tcp = format!("x: {{frontend: {{mode: tcp, bind: ['*:1']}}, {backend}}}");
        assert_eq!(
            read(&[&tcp, &tcp.replace("tcp", "http")]).unwrap_err().to_string(),
            "x.frontend.mode: \"tcp\" in one service and \"http\" in another"
        );
    }

    /// What older handlers have let through is served, and said.
    #[test]
    fn records_of_older_handlers() {
        let record = |options: &str, condition: &str| {
            let backend = json!({"name": "a", "port": 1, "peer_port": 1, "ct": "c", "use_backend_option": condition});
            let record = json!({"x": {"frontend": {"mode": "tcp", "bind": ["10.0.0.1:5-9"], "options": [options]}, "backends": [backend]}});
            record.as_object().unwrap().clone()
        };
        assert!(recheck(&record("tcp-request connection reject if { src 10.0.0.9 }", "if TRUE")).is_ok());
        for section in ["'global'", "\\global", "program x", ".if", "glob\"al\""] {
            assert!(recheck(&record(section, "")).unwrap_err().to_string().ends_with("a section cannot begin here"), "{section}");
        }
        assert_eq!(
            outdated(&record("option tcplog", "")).unwrap().to_string(),
            "x.frontend.bind: expected *:port, found \"10.0.0.1:5-9\": haproxy listens on every address of every node"
        );
        let now =
            read(&["x: {frontend: {mode: tcp, bind: ['*:1']}, backends: [{port: 1, peer_port: 1, server_option: send-proxy}]}"]).unwrap();
        assert!(recheck(&now).is_ok() && outdated(&now).is_none());
    }
}
