//! `HAPROXY` variables: checked and merged into what the record holds. Pure.
//!
//! What is checked here is later written into a configuration file line by line, so no value may begin a line or a section of its own.

use crate::outside::yaml::{self, kind};
use serde_json::{Map, Value};
use std::fmt;
use std::ops::RangeInclusive;

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
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    pub at: String,
    pub problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at.as_str() {
            "" => f.write_str(&self.problem),
            at => write!(f, "{at}: {}", self.problem),
        }
    }
}

impl std::error::Error for Error {}

fn error<T>(at: impl Into<String>, problem: impl Into<String>) -> Result<T, Error> {
    let (at, problem) = (at.into(), problem.into());
    Err(Error { at, problem })
}

/// Adds one service's variable, whose backends lead to `container`, to what earlier services gave.
pub fn add(all: &mut Map<String, Value>, text: &str, container: &str) -> Result<(), Error> {
    let value = yaml::read(text).or_else(|e| error("", e.to_string()))?;
    let value = serde_json::to_value(&value).or_else(|e| error("", e.to_string()))?;
    let configurations = match value {
        Value::Object(configurations) => configurations,
        Value::Null => return Ok(()),
        other => return wrong("", "a mapping of configuration names", &other),
    };
    merge(all, configurations, container)
}

fn merge(all: &mut Map<String, Value>, configurations: Map<String, Value>, container: &str) -> Result<(), Error> {
    for (name, value) in configurations {
        if !is_name(&name) {
            return error(name, "expected a name of letters, digits, `.`, `_`, `:` and `-`");
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
    let mut backends = Vec::new();
    let mut binds: Vec<(&str, Bind)> = Vec::new();
    for (name, configuration) in all {
        let shared = is_shared(name);
        if !shared && configuration.get("frontend").is_none() {
            return error(format!("{name}.frontend"), "missing: mode and bind are needed");
        }
        for backend in list(configuration, "backends").filter_map(|b| b["name"].as_str()) {
            if backends.contains(&backend) {
                let at = format!("{name}.backends");
                return error(at, format!("the name {backend:?} is used twice"));
            }
            backends.push(backend);
        }
        if shared {
            continue;
        }
        for bind in binds_of(configuration) {
            let taken = |(other, earlier): &&(&str, Bind)| *other != name && bind.overlaps(earlier);
            if let Some((other, earlier)) = binds.iter().find(taken) {
                let problem = format!("{bind} is bound by {other} too, as {earlier}");
                return error(format!("{name}.frontend.bind"), problem);
            }
            binds.push((name, bind));
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
                return wrong(format!("{name}.backends[{n}].ct"), "the name of a container", &backend["ct"]);
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
        (HTTP_IN | HTTPS_IN, Some(mode)) => {
            let problem = format!("{mode:?} does not fit: {HTTP_IN} is http, {HTTPS_IN} is tcp");
            return error(format!("{at}.mode"), problem);
        }
        (_, Some("tcp" | "http")) => {}
        _ => {
            let found = frontend.get("mode").unwrap_or(&Value::Null);
            return wrong(format!("{at}.mode"), "tcp or http", found);
        }
    }
    lines(&at, &frontend, "options")?;
    lines(&at, &frontend, "bind")?;
    if !is_shared(name) {
        let mut binds = texts(&frontend, "bind").peekable();
        if binds.peek().is_none() {
            let problem = "missing: expected a list of address:port, such as \"*:2222\"";
            return error(format!("{at}.bind"), problem);
        }
        for text in binds {
            let at = format!("{at}.bind");
            let Some(parsed) = Bind::parse(text) else {
                return error(at, format!("expected address:port, found {text:?}"));
            };
            for bind in parsed {
                if bind.ports.contains(&80) || bind.ports.contains(&443) {
                    let problem = format!("{text:?}: ports 80 and 443 are {HTTP_IN}'s and {HTTPS_IN}'s; use these names");
                    return error(at, problem);
                }
                if RESERVED.iter().any(|port| bind.ports.contains(port)) {
                    let problem = format!("{text:?}: the node itself needs the ports {RESERVED:?}; choose another one");
                    return error(at, problem);
                }
            }
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
            (Some(known), value) if !known.is_null() && *known != value => {
                let problem = format!("{known} in one service and {value} in another");
                return error(format!("{name}.frontend.{member}"), problem);
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
            let problem = "missing: expected a list of name, port and peer_port";
            return error(at, problem);
        }
        Some(other) => return wrong(at, "a list", &other),
    };
    let mut checked = Vec::with_capacity(list.len());
    for (n, value) in list.into_iter().enumerate() {
        let at = format!("{at}[{n}]");
        let members = ["name", "port", "peer_port", "use_backend_option", "server_option", "options"];
        let mut backend = object(&at, value, &members)?;
        match backend.get("name").and_then(Value::as_str) {
            Some(name) if is_name(name) => {}
            _ => {
                let found = backend.get("name").unwrap_or(&Value::Null);
                let expected = "a name of letters, digits, `.`, `_`, `:` and `-`";
                return wrong(format!("{at}.name"), expected, found);
            }
        }
        for member in ["port", "peer_port"] {
            if port(backend.get(member)).is_none() {
                let found = backend.get(member).unwrap_or(&Value::Null);
                return wrong(format!("{at}.{member}"), "a port from 1 to 65535", found);
            }
        }
        for member in ["use_backend_option", "server_option"] {
            match backend.get(member) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if one_line(text) => {}
                Some(other) => {
                    return wrong(format!("{at}.{member}"), "text in one line", other);
                }
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
                return wrong(at.as_str(), "a list of one-line texts", item);
            };
            let first = text.split_whitespace().next().unwrap_or_default();
            if SECTIONS.contains(&first) || first.starts_with('.') {
                let problem = format!("{text:?}: a section cannot begin here");
                return error(at.as_str(), problem);
            }
            Ok(())
        }),
        Some(other) => wrong(at, "a list of texts", other),
    }
}

fn object(at: &str, value: Value, members: &[&str]) -> Result<Map<String, Value>, Error> {
    let Value::Object(map) = value else {
        return wrong(at, "a mapping", &value);
    };
    match map.keys().find(|key| !members.contains(&key.as_str())) {
        Some(key) => {
            let problem = format!("unknown member {key:?}; known: {}", members.join(", "));
            error(at, problem)
        }
        None => Ok(map),
    }
}

fn wrong<T>(at: impl Into<String>, expected: &str, found: &Value) -> Result<T, Error> {
    let found = match found {
        Value::Null => "nothing".into(),
        Value::String(_) | Value::Number(_) | Value::Bool(_) => found.to_string(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    };
    error(at, format!("expected {expected}, found {found}"))
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

fn texts<'a>(map: &'a Map<String, Value>, member: &str) -> impl Iterator<Item = &'a str> {
    let list = map.get(member).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// What a configuration's frontend binds.
pub fn binds_of(configuration: &Value) -> impl Iterator<Item = Bind> {
    list(&configuration["frontend"], "bind").filter_map(|bind| Bind::parse(bind.as_str()?)).flatten()
}

/// One address with its ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Bind {
    /// "" for every address.
    pub host: String,
    pub ports: RangeInclusive<u16>,
}

impl Bind {
    /// `text` is what follows haproxy's `bind`: addresses that commas separate, each with a port or a range, then options.
    pub fn parse(text: &str) -> Option<Vec<Bind>> {
        let addresses = text.split_whitespace().next()?;
        let bind = |address: &str| {
            let (host, ports) = address.rsplit_once(':')?;
            let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
            let (low, high) = (low.parse().ok()?, high.parse().ok()?);
            let host = match host {
                "*" | "0.0.0.0" | "::" | "[::]" | "ipv4@" | "ipv6@" | "ipv4@*" | "ipv6@*" => "",
                host if host.contains('@') => return None,
                host => host,
            };
            (0 < low && low <= high).then(|| Bind { host: host.to_ascii_lowercase(), ports: low..=high })
        };
        addresses.split(',').map(bind).collect()
    }

    pub fn overlaps(&self, other: &Bind) -> bool {
        let everywhere = self.host.is_empty() || other.host.is_empty();
        (everywhere || self.host == other.host) && self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end()
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.is_empty() { "*" } else { &self.host };
        match (self.ports.start(), self.ports.end()) {
            (low, high) if low == high => write!(f, "{host}:{low}"),
            (low, high) => write!(f, "{host}:{low}-{high}"),
        }
    }
}

/// Used by `CONSUL_CHECK_URLS`, YAML like the rest: the entries that are URLs.
pub fn urls(text: &str) -> Result<Vec<String>, Error> {
    let value = yaml::read(text).or_else(|e| error("", e.to_string()))?;
    let list = match value {
        serde_yaml::Value::Null => Vec::new(),
        serde_yaml::Value::Sequence(list) => list,
        other => {
            return error("", format!("expected a list of URLs, found {}", kind(&other)));
        }
    };
    let mut urls = Vec::new();
    for (n, item) in list.iter().enumerate() {
        let Some(text) = item.as_str() else {
            let problem = format!("expected a URL, found {}", kind(item));
            return error(format!("[{n}]"), problem);
        };
        if is_url(text) {
            urls.push(text.into());
        }
    }
    Ok(urls)
}

/// What Consul can check.
pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '\t', '\n']))
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

    #[test]
    fn binds() {
        let bind = |text| Bind::parse(text).unwrap().remove(0);
        assert!(bind("*:1").overlaps(&bind("127.0.0.1:1")));
        assert!(bind(":5-9 ssl").overlaps(&bind("a:9")));
        assert!(!bind("a:1").overlaps(&bind("b:1")));
        assert!(!bind("*:1").overlaps(&bind("*:2")));
        assert_eq!(Bind::parse("a:1,[::]:2").unwrap().len(), 2);
        for bad in ["", "a", "a:", "a:x", "a:0", "a:2-1", "unix@/x:1", "a:1,b"] {
            assert_eq!(Bind::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn check_urls() {
        assert_eq!(urls("[http://a, no, https://b/c]").unwrap(), ["http://a", "https://b/c"]);
        assert_eq!(urls("").unwrap().len(), 0);
        assert_eq!(urls("a").unwrap_err().to_string(), "expected a list of URLs, found text");
        assert_eq!(urls("[1]").unwrap_err().to_string(), "[0]: expected a URL, found a number");
    }
}
