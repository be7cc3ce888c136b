//! `HAPROXY` variables: checked and merged into what the record holds. Pure.
//!
//! What is checked here is later written into a configuration file line by line, so no value may begin a line or a section of its own.

use std::fmt;

use serde_json::{Map, Value};

use super::bind::Bind;
use crate::outside::yaml;

/// The two frontends that every node has; routes add backends to them.
pub const HTTP_IN: &str = "http-in";
pub const HTTPS_IN: &str = "https-in";

/// Ports that the nodes themselves need: the volume plugin's ssh, and Consul's.
pub const RESERVED: [u16; 6] = [1122, 8300, 8301, 8302, 8500, 8600];

/// A line that begins with one of these begins a section.
const SECTIONS: [&str; 20] = [
    "acme",
    "backend",
    "cache",
    "crt-store",
    "defaults",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "listen",
    "log-forward",
    "log-profile",
    "mailers",
    "namespace_list",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

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
            Problem::NoBind { text } => write!(f, "expected address:port, found {text:?}"),
            Problem::SharedPort { text } => {
                write!(f, "{text:?}: ports 80 and 443 are {HTTP_IN}'s and {HTTPS_IN}'s; use these names")
            }
            Problem::ReservedPort { text } => write!(f, "{text:?}: the node itself needs the ports {RESERVED:?}; choose another one"),
            Problem::Section { text } => write!(f, "{text:?}: a section cannot begin here"),
            Problem::TwoValues { known, new } => write!(f, "{known} in one service and {new} in another"),
            Problem::Twice { backend } => write!(f, "the name {backend:?} is used twice"),
            Problem::BoundToo { bind, by, there } => write!(f, "{bind} is bound by {by} too, as {there}"),
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
        Value::Object(configurations) => merge(all, configurations, container),
        Value::Null => Ok(()),
        other => wrong("", "a mapping of configuration names", Some(&other)),
    }
}

fn merge(all: &mut Map<String, Value>, configurations: Map<String, Value>, container: &str) -> Result<(), Error> {
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
            let frontend = frontend(&name, value)?;
            unite(&name, known, frontend)?;
        }
        let mut backends = backends(&name, given.remove("backends"), container)?;
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

/// The same checks for what a record holds, which another program may have written.
pub fn recheck(all: &Map<String, Value>) -> Result<(), Error> {
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
        merge(&mut again, Map::from_iter([(name.clone(), configuration)]), "")?;
    }
    check(&again)
}

/// `http-in` or `https-in`, to which all applications may add.
pub fn is_shared(name: &str) -> bool {
    name == HTTP_IN || name == HTTPS_IN
}

fn frontend(name: &str, value: Value) -> Result<Map<String, Value>, Error> {
    let at = format!("{name}.frontend");
    let frontend = object(&at, value, &["mode", "bind", "options"])?;
    match (name, frontend.get("mode").and_then(Value::as_str)) {
        (HTTP_IN, None | Some("http")) | (HTTPS_IN, None | Some("tcp")) => {}
        (HTTP_IN | HTTPS_IN, Some(mode)) => return refused(format!("{at}.mode"), Problem::Mode { mode: mode.into() }),
        (_, Some("tcp" | "http")) => {}
        _ => return wrong(format!("{at}.mode"), "tcp or http", frontend.get("mode")),
    }
    lines(&at, &frontend, "options")?;
    lines(&at, &frontend, "bind")?;
    if is_shared(name) {
        return Ok(frontend);
    }
    let at = format!("{at}.bind");
    let texts = frontend.get("bind").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut none = true;
    for text in texts {
        none = false;
        let Some(binds) = Bind::parse(text) else {
            return refused(at, Problem::NoBind { text: text.into() });
        };
        let has = |port: &u16| binds.iter().any(|bind| bind.ports.contains(port));
        if [80, 443].iter().any(has) {
            return refused(at, Problem::SharedPort { text: text.into() });
        }
        if RESERVED.iter().any(has) {
            return refused(at, Problem::ReservedPort { text: text.into() });
        }
    }
    if none {
        return refused(at, Problem::Missing { expected: "expected a list of address:port, such as \"*:2222\"" });
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

fn backends(name: &str, value: Option<Value>, container: &str) -> Result<Vec<Value>, Error> {
    let at = format!("{name}.backends");
    let list = match value {
        Some(Value::Array(list)) if !list.is_empty() => list,
        None | Some(Value::Null | Value::Array(_)) => {
            return refused(at, Problem::Missing { expected: "expected a list of name, port and peer_port" });
        }
        Some(other) => return wrong(at, "a list", Some(&other)),
    };
    let mut checked = Vec::with_capacity(list.len());
    for (n, value) in list.into_iter().enumerate() {
        let at = format!("{at}[{n}]");
        let mut backend = object(&at, value, &["name", "port", "peer_port", "use_backend_option", "server_option", "options"])?;
        let name = backend.get("name");
        if !name.and_then(Value::as_str).is_some_and(is_name) {
            return wrong(format!("{at}.name"), NAME, name);
        }
        for member in ["port", "peer_port"] {
            if port(backend.get(member)).is_none() {
                return wrong(format!("{at}.{member}"), "a port from 1 to 65535", backend.get(member));
            }
        }
        for member in ["use_backend_option", "server_option"] {
            match backend.get(member) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if one_line(text) => {}
                other => return wrong(format!("{at}.{member}"), "text in one line", other),
            }
        }
        lines(&at, &backend, "options")?;
        backend.insert("ct".into(), container.into());
        checked.push(Value::Object(backend));
    }
    Ok(checked)
}

/// A member that is a list of lines for the configuration file, if it is there.
fn lines(at: &str, map: &Map<String, Value>, member: &str) -> Result<(), Error> {
    let at = format!("{at}.{member}");
    match map.get(member) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(items)) => items.iter().try_for_each(|item| {
            let Some(text) = item.as_str().filter(|text| one_line(text)) else {
                return wrong(at.as_str(), "a list of one-line texts", Some(item));
            };
            let first = text.split_whitespace().next().unwrap_or_default();
            if SECTIONS.contains(&first) || first.starts_with('.') {
                return refused(at.as_str(), Problem::Section { text: text.into() });
            }
            Ok(())
        }),
        other => wrong(at, "a list of texts", other),
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

fn one_line(text: &str) -> bool {
    !text.contains(char::is_control)
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
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    port.filter(|port| *port > 0)
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
        let one = "x: {frontend: {mode: tcp, bind: ['*:1', '*:2'], options: [a]}, backends: [{name: a, port: 1, peer_port: '1'}]}";
        let two = r#"{"x": {"frontend": {"mode": "tcp", "bind": ["*:2", "*:3"], "options": ["b"]}, "backends": [{"name": "b", "port": 2, "peer_port": 2, "options": ["o"]}]}}"#;
        let three = "{x: {backends: [{name: c, port: 3, peer_port: 3}]}, http-in: {backends: [{name: h, port: 3, peer_port: 80}]}}";
        assert_eq!(
            Value::Object(read(&[one, two, three, "", "{}"]).unwrap()),
            json!({
                "x": {
                    "frontend": {"mode": "tcp", "bind": ["*:1", "*:2", "*:3"], "options": ["a", "b"]},
                    "backends": [
                        {"name": "a", "port": 1, "peer_port": "1", "ct": "ct0"},
                        {"name": "b", "port": 2, "peer_port": 2, "options": ["o"], "ct": "ct1"},
                        {"name": "c", "port": 3, "peer_port": 3, "ct": "ct2"},
                    ],
                },
                "http-in": {"backends": [{"name": "h", "port": 3, "peer_port": 80, "ct": "ct2"}]},
            })
        );
    }

    #[test]
    fn refused() {
        let backend = "backends: [{name: a, port: 1, peer_port: 1}]";
        for (text, message) in [
            ("[]", "expected a mapping of configuration names, found a list"),
            ("x: 1", "x: expected a mapping, found 1"),
            ("'x y': {}", "x y: expected a name of letters, digits, `.`, `_`, `:` and `-`"),
            ("x: {backend: []}", "x: unknown member \"backend\"; known: frontend, backends"),
            ("http-in: {}", "http-in.backends: missing: expected a list of name, port and peer_port"),
            ("x: {backends: a}", "x.backends: expected a list, found \"a\""),
            ("x: {backends: [{port: 1}]}", "x.backends[0].name: expected a name of letters, digits, `.`, `_`, `:` and `-`, found nothing"),
            ("x: {backends: [{name: a, port: 1, peer_port: 0}]}", "x.backends[0].peer_port: expected a port from 1 to 65535, found 0"),
            ("x: {backends: [{name: a, port: +1}]}", "x.backends[0].peer_port: expected a port from 1 to 65535, found nothing"),
            ("x: {backends: [{name: a, port: '+1'}]}", "x.backends[0].port: expected a port from 1 to 65535, found \"+1\""),
            (
                "x: {backends: [{name: a, port: 1, peer_port: 1, use_backend_option: \"a\\nb\"}]}",
                "x.backends[0].use_backend_option: expected text in one line, found \"a\\nb\"",
            ),
            (
                "x: {backends: [{name: a, port: 1, peer_port: 1, options: ['backend y']}]}",
                "x.backends[0].options: \"backend y\": a section cannot begin here",
            ),
            ("x: {frontend: {mode: udp}}", "x.frontend.mode: expected tcp or http, found \"udp\""),
            ("x: {frontend: {mode: tcp}}", "x.frontend.bind: missing: expected a list of address:port, such as \"*:2222\""),
            ("x: {frontend: {mode: tcp, bind: '*:1'}}", "x.frontend.bind: expected a list of texts, found \"*:1\""),
            ("x: {frontend: {mode: tcp, bind: ['2222']}}", "x.frontend.bind: expected address:port, found \"2222\""),
            (
                "x: {frontend: {mode: tcp, bind: ['*:440-450']}}",
                "x.frontend.bind: \"*:440-450\": ports 80 and 443 are http-in's and https-in's; use these names",
            ),
            (
                "x: {frontend: {mode: tcp, bind: ['*:8500']}}",
                "x.frontend.bind: \"*:8500\": the node itself needs the ports [1122, 8300, 8301, 8302, 8500, 8600]; choose another one",
            ),
            ("http-in: {frontend: {mode: tcp}}", "http-in.frontend.mode: \"tcp\" does not fit: http-in is http, https-in is tcp"),
            (&format!("x: {{{backend}}}"), "x.frontend: missing: mode and bind are needed"),
            (&format!("http-in: {{{backend}}}\nhttps-in: {{{backend}}}"), "https-in.backends: the name \"a\" is used twice"),
            (
                &format!(
                    "x: {{frontend: {{mode: tcp, bind: ['*:5-9']}}, {backend}}}\n\
                     y: {{frontend: {{mode: tcp, bind: ['1.1.1.1:7']}}, backends: [{{name: b, port: 1, peer_port: 1}}]}}"
                ),
                "y.frontend.bind: 1.1.1.1:7 is bound by x too, as *:5-9",
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
}
