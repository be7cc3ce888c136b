//! An application's routes: from its services' variables to what the record holds, and what two applications may not share. Pure.

use crate::outside::compose_file::Service;
use crate::routes::caddy1 as upgrade;
use crate::routes::caddyfile::{self, Address, Position, Scheme, Site, Version, Word};
use crate::routes::haproxy::{self, Bind};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::fmt;

const CADDYFILE: &str = "CADDYFILE";
const HAPROXY: &str = "HAPROXY";
const CONSUL_CHECK_URLS: &str = "CONSUL_CHECK_URLS";

/// What the record and Consul's service say about routes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routes {
    /// All sites, written out.
    pub caddyfile: String,
    /// Merged `HAPROXY` maps.
    pub haproxy: Map<String, Value>,
    /// host[:port] of every site address with a scheme.
    pub domains: Vec<String>,
    /// All site addresses, joined by ", ".
    pub urls: String,
    /// What Consul checks.
    pub checks: Vec<String>,
    /// What an upgrade to Caddy 2 left out, for the operator.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A variable cannot be read or means nothing.
    Variable { service: String, variable: &'static str, problem: String },
    /// Two sites of the application have one address.
    Twice { address: String, first: Place, second: Place },
    /// Several services together make no sense.
    Together(haproxy::Error),
    /// Another application has it.
    Taken { what: String, by: String },
}

/// Where in an application a site's address stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub service: String,
    pub at: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "service {}, line {line}, column {column}", self.service)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Variable { service, variable, problem } => write!(f, "service {service}: {variable}: {problem}"),
            Error::Twice { address, first, second } => write!(f, "{CADDYFILE}: the address {address} is used twice: {first}; {second}"),
            Error::Together(error) => write!(f, "{HAPROXY}: {error}"),
            Error::Taken { what, by } => {
                write!(f, "{what} is used by the application {by} already")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Reads the variables of all services; sites are completed for and written in the words of `caddy`.
pub fn read(services: &[Service], caddy: Version) -> Result<Routes, Error> {
    let mut routes = Routes::default();
    let (mut sites, mut addresses) = (Vec::new(), Vec::new());
    let mut places = HashMap::new();
    for service in services {
        let variable = |variable, problem: String| Error::Variable { service: service.name.clone(), variable, problem };
        if let Some(text) = service.environment.get(CADDYFILE) {
            let own = own_sites(text, &service.container, caddy).map_err(|error| variable(CADDYFILE, error.to_string()))?;
            for word in own.addresses {
                if let Some(key) = Key::parse(&word.text) {
                    let second = Place { service: service.name.clone(), at: word.at };
                    if let Some(first) = places.insert(key, second.clone()) {
                        return Err(Error::Twice { address: word.text, first, second });
                    }
                }
                addresses.push(word.text);
            }
            let note = |note| format!("service {}: {CADDYFILE}: {note}", service.name);
            routes.notes.extend(own.notes.into_iter().map(note));
            sites.extend(own.sites);
        }
        if let Some(text) = service.environment.get(HAPROXY) {
            haproxy::add(&mut routes.haproxy, text, &service.container).map_err(|error| variable(HAPROXY, error.to_string()))?;
        }
        if let Some(text) = service.environment.get(CONSUL_CHECK_URLS) {
            let urls = haproxy::urls(text).map_err(|error| variable(CONSUL_CHECK_URLS, error.to_string()))?;
            routes.checks.extend(urls);
        }
    }
    haproxy::check(&routes.haproxy).map_err(Error::Together)?;
    let claims = Claims::new("", &routes.haproxy);
    for bind in claims.binds() {
        if let Some((text, _)) = other_ports(addresses.iter().map(String::as_str)).find(|(_, port)| bind.ports.contains(port)) {
            let at = "frontend.bind".into();
            let problem = format!("{bind} has the port of the address {text}");
            return Err(Error::Together(haproxy::Error { at, problem }));
        }
    }
    let mut checks = Vec::new();
    for text in &addresses {
        let Some(address) = Address::parse(text).ok().filter(|a| a.scheme.is_some()) else {
            continue;
        };
        let domain = address.domain();
        if !routes.domains.contains(&domain) {
            routes.domains.push(domain);
        }
        // nothing can ask for `*.example.com`; a path may be a pattern
        let url = text.trim_end_matches('*');
        if haproxy::is_url(url) && !url.contains('*') {
            checks.push(url.to_string());
        }
    }
    checks.append(&mut routes.checks);
    routes.checks = checks;
    routes.urls = addresses.join(", ");
    routes.caddyfile = caddyfile::dump(&sites);
    Ok(routes)
}

/// What one variable gives.
struct Own {
    sites: Vec<Site>,
    /// As the application wrote them.
    addresses: Vec<Word>,
    notes: Vec<String>,
}

/// The sites of one variable, checked and completed.
fn own_sites(text: &str, container: &str, caddy: Version) -> Result<Own, caddyfile::Error> {
    let mut sites = caddyfile::parse(text)?;
    for site in &mut sites {
        site.each_word(&mut |word| {
            if word.contains("$CONTAINER") || word.contains("${CONTAINER}") {
                // `$$` is how a compose file writes a dollar that compose leaves alone
                *word = word.replace("$$", "$").replace("${CONTAINER}", container).replace("$CONTAINER", container);
            }
        });
        for word in &site.addresses {
            let refused = |problem: String| {
                let problem = format!("the address {:?}: {problem}", word.text);
                Err(caddyfile::Error::new(word.at, problem))
            };
            match Address::parse(&word.text).map(|address| address.served().1) {
                Err(problem) => return refused(problem.into()),
                Ok(port) if haproxy::RESERVED.contains(&port) => {
                    return refused(format!("the node itself needs port {port}; choose another one"));
                }
                Ok(_) => {}
            }
        }
    }
    let addresses = sites.iter().flat_map(|site| &site.addresses).cloned();
    let addresses = addresses.collect();
    let notes = match caddy {
        Version::One => caddyfile::complete_one(&mut sites).map(|()| Vec::new()),
        Version::Two => upgrade::complete_two(&mut sites),
    }?;
    Ok(Own { sites, addresses, notes })
}

/// A site's address as the proxy compares it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    scheme: Scheme,
    host: String,
    port: u16,
    path: String,
}

impl Key {
    fn parse(text: &str) -> Option<Key> {
        let address = Address::parse(text).ok()?;
        let (scheme, port) = address.served();
        Some(Key { scheme, host: address.host.to_ascii_lowercase(), port, path: site_path(&address).into() })
    }
}

/// What an application claims for itself: no other one may have the same.
pub struct Claims<'a> {
    caddyfile: &'a str,
    haproxy: &'a Map<String, Value>,
}

impl<'a> Claims<'a> {
    /// Of a record's two members. Nothing is computed before it is asked for.
    pub fn new(caddyfile: &'a str, haproxy: &'a Map<String, Value>) -> Claims<'a> {
        Claims { caddyfile, haproxy }
    }

    fn addresses(&self) -> impl Iterator<Item = (&'a str, Address<'a>)> {
        caddyfile::site_addresses(self.caddyfile).filter_map(|text| Some((text, Address::parse(text).ok()?)))
    }

    /// Names of configurations that are not shared.
    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.haproxy.keys().map(String::as_str).filter(|name| !haproxy::is_shared(name))
    }

    fn backends(&self) -> impl Iterator<Item = &'a str> {
        self.haproxy
            .values()
            .flat_map(|configuration| haproxy::list(configuration, "backends"))
            .filter_map(|backend| backend["name"].as_str())
    }

    fn binds(&self) -> impl Iterator<Item = Bind> {
        self.haproxy.iter().filter(|(name, _)| !haproxy::is_shared(name)).flat_map(|(_, configuration)| haproxy::binds_of(configuration))
    }
}

/// Compares what the application `name` would claim with its `master` against all `others`: name, master, caddyfile, haproxy. The error is the
/// first thing that two would share; the warnings are what works, but hardly as meant.
pub fn conflicts<'a>(
    name: &str,
    master: &str,
    mine: &Routes,
    others: impl IntoIterator<Item = (&'a str, &'a str, &'a str, &'a Map<String, Value>)>,
) -> Result<Vec<String>, Error> {
    let claims = Claims::new(&mine.caddyfile, &mine.haproxy);
    let mut hosts: HashMap<String, Vec<Address>> = HashMap::new();
    let mut ports: HashMap<u16, Scheme> = HashMap::new();
    for (_, address) in claims.addresses() {
        let (scheme, port) = address.served();
        ports.insert(port, scheme);
        hosts.entry(address.host.to_ascii_lowercase()).or_default().push(address);
    }
    let names: HashSet<&str> = claims.names().collect();
    let backends: HashSet<&str> = claims.backends().collect();
    let binds: Vec<Bind> = claims.binds().collect();
    let ports_alone: Vec<u16> = other_ports(caddyfile::site_addresses(&mine.caddyfile)).map(|(_, port)| port).collect();
    let mut warnings = Vec::new();
    let mut lower = String::new();
    for (other, its_master, caddyfile, haproxy) in others {
        if other == name {
            continue;
        }
        let taken = |what: String| Error::Taken { what, by: other.into() };
        let theirs = Claims::new(caddyfile, haproxy);
        for (text, address) in theirs.addresses() {
            let (scheme, port) = address.served();
            if !matches!(port, 80 | 443)
                && let Some(mine) = binds.iter().find(|bind| bind.ports.contains(&port))
            {
                return Err(taken(format!("the {HAPROXY} bind {mine}, there as the port of {text},")));
            }
            if ports.get(&port).is_some_and(|mine| *mine != scheme) {
                return Err(taken(format!("port {port}, here with and there without TLS or the other way round,")));
            }
            lower.clear();
            lower.push_str(address.host);
            lower.make_ascii_lowercase();
            let Some(same_host) = hosts.get(&lower) else {
                continue;
            };
            let path = site_path(&address);
            if same_host.iter().any(|mine| mine.served() == (scheme, port) && site_path(mine) == path) {
                return Err(taken(format!("the address {text}")));
            }
            if its_master != master && !lower.is_empty() {
                let warning =
                    format!("{lower} leads to {master} for {name} and to {its_master} for {other}: requests for it reach one of them only");
                if !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        if haproxy.is_empty() {
            continue;
        }
        if let Some(name) = theirs.names().find(|name| names.contains(name)) {
            return Err(taken(format!("the {HAPROXY} name {name}")));
        }
        if let Some(name) = theirs.backends().find(|name| backends.contains(name)) {
            return Err(taken(format!("the {HAPROXY} backend {name}")));
        }
        for bind in theirs.binds() {
            if let Some(mine) = binds.iter().find(|mine| mine.overlaps(&bind)) {
                return Err(taken(format!("the {HAPROXY} bind {mine}")));
            }
            if let Some(port) = ports_alone.iter().find(|port| bind.ports.contains(port)) {
                return Err(taken(format!("the port {port} of an address, there as the {HAPROXY} bind {bind},")));
            }
        }
    }
    Ok(warnings)
}

/// The addresses whose ports haproxy binds for them alone.
fn other_ports<'a>(addresses: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (&'a str, u16)> {
    addresses.filter_map(|text| {
        let port = Address::parse(text).ok()?.served().1;
        (!matches!(port, 80 | 443)).then_some((text, port))
    })
}

/// A path in an address is a prefix, with or without saying so.
fn site_path<'a>(address: &Address<'a>) -> &'a str {
    address.path.trim_end_matches(['*', '/'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::compose_file::{Compose, Dialect};
    use serde_json::json;
    use std::collections::BTreeSet;

    fn members(value: &Value) -> BTreeSet<String> {
        let list = value.as_array().unwrap().iter();
        list.map(|item| item.as_str().unwrap().to_string()).collect()
    }

    /// The records' parts that come from the compose file.
    #[test]
    fn vectors() {
        for (name, project, text, expected) in [
            (
                "anchors",
                "anchorsmaster5bf1d",
                include_str!("../../tests/vectors/records/anchors.yml"),
                include_str!("../../tests/vectors/records/anchors.json"),
            ),
            (
                "blog",
                "blogmaster03d9b",
                include_str!("../../tests/vectors/records/blog.yml"),
                include_str!("../../tests/vectors/records/blog.json"),
            ),
            (
                "forge",
                "forgemastera7312",
                include_str!("../../tests/vectors/records/forge.yml"),
                include_str!("../../tests/vectors/records/forge.json"),
            ),
            (
                "plain",
                "plainmaster00d08",
                include_str!("../../tests/vectors/records/plain.yml"),
                include_str!("../../tests/vectors/records/plain.json"),
            ),
        ] {
            let expected: Value = serde_json::from_str(expected).unwrap();
            let record = &expected["record"];
            let driver = "anybox/buttervolume:latest";
            let compose = Compose::parse(text, project, Dialect::One, driver).unwrap();
            let routes = read(&compose.services, Version::One).unwrap();
            assert_eq!(routes.caddyfile, record["caddyfile"], "{name}");
            assert_eq!(routes.urls, record["urls"], "{name}");
            assert_eq!(json!(routes.checks.len()), expected["checks"], "{name}");
            let domains: BTreeSet<_> = routes.domains.iter().cloned().collect();
            assert_eq!(domains.len(), routes.domains.len(), "{name}");
            assert_eq!(domains, members(&record["domains"]), "{name}");
            let volumes = compose.volumes.iter().filter(|volume| volume.data);
            let volumes: Vec<_> = volumes.map(|volume| &volume.name).collect();
            assert_eq!(json!(volumes), record["volumes"], "{name}");
            let ct = compose.services.iter().map(|s| (&s.name, &s.container));
            assert_eq!(json!(ct.collect::<HashMap<_, _>>()), record["ct"], "{name}");
            let mut haproxy = [Value::Object(routes.haproxy), record["haproxy"].clone()];
            for merged in &mut haproxy {
                for list in ["bind", "options"] {
                    if let Some(list) = merged.pointer_mut(&format!("/git-ssh/frontend/{list}")) {
                        *list = json!(members(list));
                    }
                }
            }
            assert_eq!(haproxy[0], haproxy[1], "{name}");
        }
    }

    pub(super) fn services(variables: &[(&str, &str, &str)]) -> Vec<Service> {
        let service = |(name, key, value): &(&str, &str, &str)| Service {
            name: name.to_string(),
            container: format!("p-{name}-1"),
            image: None,
            build: true,
            environment: [(key.to_string(), value.to_string())].into(),
            oneshot: false,
        };
        variables.iter().map(service).collect()
    }

    #[test]
    fn containers() {
        for variable in ["$CONTAINER", "$$CONTAINER", "${CONTAINER}", "$${CONTAINER}"] {
            let text = format!("http://a {{\n proxy / {variable}:80\n}}");
            let routes = read(&services(&[("web", CADDYFILE, &text)]), Version::One).unwrap();
            assert!(routes.caddyfile.contains(" proxy / p-web-1:80 {"), "{routes:?}");
        }
    }

    #[test]
    fn refused() {
        for (variables, message) in [
            (
                vec![("web", CADDYFILE, "http://a {\n")],
                "service web: CADDYFILE: line 2, column 1: expected a directive or `}`, found the end of the text",
            ),
            (
                vec![("web", CADDYFILE, "http://a, ftp://b {\n}")],
                "service web: CADDYFILE: line 1, column 11: the address \"ftp://b\": its scheme is neither http nor https",
            ),
            (
                vec![("web", CADDYFILE, "http://a {\n}\nHTTPS://b {\n}")],
                "service web: CADDYFILE: line 3, column 1: the address \"HTTPS://b\": its scheme is neither http nor https",
            ),
            (
                vec![("web", CADDYFILE, "http://a/x {\n}\nhttp://a {\n}"), ("tls", CADDYFILE, "\n A:80/ {\n}")],
                "CADDYFILE: the address A:80/ is used twice: service web, line 3, column 1; service tls, line 2, column 2",
            ),
            (
                vec![("web", HAPROXY, "x: {backends: [{name: a}]}")],
                "service web: HAPROXY: x.backends[0].port: expected a port from 1 to 65535, found nothing",
            ),
            (
                vec![("web", HAPROXY, "x: {backends: [{name: a, port: 1, peer_port: 1}]}")],
                "HAPROXY: x.frontend: missing: mode and bind are needed",
            ),
            (vec![("web", CONSUL_CHECK_URLS, "a")], "service web: CONSUL_CHECK_URLS: expected a list of URLs, found text"),
        ] {
            for caddy in [Version::One, Version::Two] {
                let error = read(&services(&variables), caddy).unwrap_err();
                assert_eq!(error.to_string(), message);
            }
        }
    }

    #[test]
    fn compared_with_others() {
        let ssh =
            r#"{"ssh": {"frontend": {"mode": "tcp", "bind": ["*:2222"]}, "backends": [{"name": "ssh", "port": 22, "peer_port": 2222}]}}"#;
        let mine = read(
            &services(&[
                ("web", CADDYFILE, "http://a.example.com, http://a.example.com/x, https://b.example.com:8443 {\n respond hello\n}"),
                ("ssh", HAPROXY, ssh),
            ]),
            Version::Two,
        )
        .unwrap();
        let compare = |caddyfile: &str, haproxy: Value| {
            let haproxy = haproxy.as_object().unwrap().clone();
            let others = [("mine", "n1", mine.caddyfile.as_str(), &mine.haproxy), ("other", "n2", caddyfile, &haproxy)];
            conflicts("mine", "n1", &mine, others).map_err(|error| error.to_string())
        };
        let taken = |what: &str| Err(format!("{what} is used by the application other already"));
        assert_eq!(compare("", json!({})), Ok(vec![]));
        assert_eq!(compare("http://c, A.example.com:80/ {\n}", json!({})), taken("the address A.example.com:80/"));
        assert_eq!(compare("http://a.example.com/x/* {\n}", json!({})), taken("the address http://a.example.com/x/*"));
        assert_eq!(
            compare("https://a.example.com, http://a.example.com/y, http://c {\n}", json!({})),
            Ok(vec!["a.example.com leads to n1 for mine and to n2 for other: requests for it reach one of them only".into()])
        );
        assert_eq!(compare("http://c:8443 {\n}", json!({})), taken("port 8443, here with and there without TLS or the other way round,"));
        assert_eq!(compare("", json!({"ssh": {}})), taken("the HAPROXY name ssh"));
        assert_eq!(compare("", json!({"http-in": {"backends": [{"name": "ssh"}]}})), taken("the HAPROXY backend ssh"));
        assert_eq!(compare("", json!({"x": {"frontend": {"bind": ["10.0.0.1:2000-3000"]}}})), taken("the HAPROXY bind *:2222"));
        assert_eq!(compare("", json!({"x": {"frontend": {"bind": ["*:2223"]}}})), Ok(vec![]));
        assert_eq!(compare("http://c:2222 {\n}", json!({})), taken("the HAPROXY bind *:2222, there as the port of http://c:2222,"));
        assert_eq!(
            compare("", json!({"x": {"frontend": {"bind": ["*:8443"]}}})),
            taken("the port 8443 of an address, there as the HAPROXY bind *:8443,")
        );
    }

    /// Bounded by a multiple of what it takes, so that only a change of its order of growth is noticed.
    #[test]
    fn ten_thousand_others() {
        let site = |n: usize| {
            format!(
                "https://app{n}.example.com, http://app{n}.example.com, http://www.app{n}.example.com {{\n{}}}",
                "    reverse_proxy http://project-web-1:8069 {\n        header_up X-Real-IP {remote_host}\n    }\n".repeat(5)
            )
        };
        let others: Vec<String> = (1..10_000).map(site).collect();
        let mine = Routes { caddyfile: site(0), ..Routes::default() };
        let none = Map::new();
        let start = std::time::Instant::now();
        let others = others.iter().map(|text| ("other", "n2", text.as_str(), &none));
        assert_eq!(conflicts("mine", "n1", &mine, others), Ok(vec![]));
        println!("{:?}", start.elapsed());
        assert!(start.elapsed().as_secs() < 5);
    }
}
