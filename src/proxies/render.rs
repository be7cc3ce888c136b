//! The proxies' files from what Consul knows. Pure: the same records give the same text.
//!
//! haproxy stands in front on every node and leads to the node where the application runs: HTTP by Host, HTTPS unopened by SNI, other TCP
//! by port. Caddy serves the applications of its own node.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::routes::caddy1 as upgrade;
use crate::routes::caddyfile::{self, Address, Directive, Position, Scheme, Site, Version};
use crate::routes::haproxy;

/// Shown while an application is away for long, unless the operator has a page of their own.
pub const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Maintenance</title>\
    <body style=\"font-family: sans-serif; text-align: center; margin-top: 20vh\">\
    <h1>Back in a moment</h1><p>This service is being updated. Please try again shortly.</p></body></html>\n";
/// What clients are told to wait, in seconds.
const RETRY_AFTER: u32 = 30;

const NOTE: &str = "# Written by `handler routes`; changes made here are lost.\n";

/// In front of Caddy 2's file, unless the operator has their own: nothing leads UDP to Caddy, so HTTP/3 must not be offered.
pub const CADDY_HEAD: &str = "{\n    servers {\n        protocols h1 h2\n    }\n}\n";

/// In front of haproxy's file, unless the operator has their own. No maxconn: haproxy takes what its limit of open files allows, and would
/// not start with more.
pub const HAPROXY_HEAD: &str = "\
global
    log stdout format raw local0 info

defaults
    log global
    option dontlognull
    option redispatch
    retries 3
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout tunnel 1h
    timeout http-request 30s
    timeout http-keep-alive 60s

# Containers come back with another address.
resolvers system
    parse-resolv-conf
    hold valid 1s
    hold obsolete 5s
";

/// One application as far as proxies are concerned.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct App {
    pub name: String,
    /// `None` for what runs on every node: `swarm/` keys.
    master: Option<String>,
    /// As its record says, for a master that is no member.
    ip: String,
    /// Sites, where they are needed: on their master.
    caddyfile: Option<String>,
    /// Site addresses, one a line.
    addresses: String,
    haproxy: Map<String, Value>,
}

/// The part of a record that proxies need, and the comparison of one application's routes with those of all others.
#[derive(Deserialize)]
pub struct Routed<'a> {
    #[serde(borrow, default)]
    pub caddyfile: Cow<'a, str>,
    #[serde(default)]
    pub haproxy: Map<String, Value>,
    #[serde(borrow)]
    pub master: Cow<'a, str>,
    #[serde(borrow, default)]
    pub ip: Cow<'a, str>,
}

impl Routed<'_> {
    pub fn parse(value: &[u8]) -> Result<Routed<'_>, serde_json::Error> {
        serde_json::from_slice(value)
    }
}

impl App {
    /// Of a record. `me` is this node; what only other nodes need is not kept.
    pub fn of_record(name: &str, record: &[u8], me: &str, caddy: Version) -> Result<App, String> {
        let record = Routed::parse(record).map_err(|error| error.to_string())?;
        let mut app = App { master: Some(record.master.into()), ip: record.ip.into(), ..App::of(name, record.haproxy)? };
        for address in caddyfile::site_addresses(&record.caddyfile) {
            app.addresses.push_str(address);
            app.addresses.push('\n');
        }
        if app.master.as_deref() == Some(me) {
            app.caddyfile = Some(match caddy {
                Version::Two if is_one(&record.caddyfile) => upgraded(&record.caddyfile)?,
                _ => record.caddyfile.into(),
            });
        }
        Ok(app)
    }

    /// Of a `swarm/` key: domains that Caddy serves on every node, and what haproxy reaches there.
    pub fn of_swarm(name: &str, value: &[u8]) -> Result<App, String> {
        #[derive(Deserialize)]
        struct Swarm {
            #[serde(default)]
            domains: Vec<String>,
            #[serde(default)]
            haproxy: Map<String, Value>,
            #[serde(default)]
            caddyfile: String,
        }
        let swarm: Swarm = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let mut app = App::of(name, swarm.haproxy)?;
        for domain in &swarm.domains {
            // haproxy asks for the port too where there is one
            let address = if domain.contains(':') { format!("http://{domain}") } else { format!("https://{domain}") };
            Address::parse(&address).map_err(|problem| format!("the domain {domain:?}: {problem}"))?;
            app.addresses.push_str(&address);
            app.addresses.push('\n');
        }
        app.caddyfile = (!swarm.caddyfile.is_empty()).then_some(swarm.caddyfile);
        Ok(app)
    }

    #[cfg(test)]
    pub fn named(name: String) -> App {
        App { name, ..App::default() }
    }

    fn of(name: &str, haproxy: Map<String, Value>) -> Result<App, String> {
        // It stands in comments only; Caddy would put a variable's value there, lines and all.
        if name.contains(|c: char| c.is_control() || c == '{') {
            return Err("not the name of an application".into());
        }
        if !haproxy.is_empty() {
            haproxy::recheck(&haproxy).map_err(|error| format!("haproxy: {error}"))?;
        }
        Ok(App { name: name.into(), haproxy, ..App::default() })
    }

    fn addresses(&self) -> impl Iterator<Item = Address<'_>> {
        self.addresses.lines().filter_map(|text| Address::parse(text).ok())
    }

    /// What Caddy serves of it here.
    pub fn sites(&self) -> impl Iterator<Item = &str> {
        self.caddyfile.iter().flat_map(|text| caddyfile::site_addresses(text))
    }

    /// Whether Caddy's file has a part of it.
    pub fn in_caddyfile(&self) -> bool {
        self.caddyfile.as_ref().is_some_and(|text| !text.is_empty())
    }

    /// Whether haproxy's file has a part of it.
    pub fn in_haproxy(&self) -> bool {
        !self.addresses.is_empty() || !self.haproxy.is_empty()
    }
}

/// Written for Caddy 1, as the older handler wrote every site.
fn is_one(caddyfile: &str) -> bool {
    caddyfile.contains("\n    log / stdout ")
}

fn upgraded(text: &str) -> Result<String, String> {
    let mut sites = caddyfile::parse(text).map_err(|error| error.to_string())?;
    upgrade::complete_two(&mut sites).map_err(|error| error.to_string())?;
    Ok(caddyfile::dump(&sites))
}

/// Where haproxy finds this node's Caddy: in text `host` or `host:http port:https port`.
#[derive(Debug, Clone, PartialEq)]
pub struct Caddy {
    pub host: String,
    pub http: u16,
    pub https: u16,
}

impl Caddy {
    pub fn parse(text: &str) -> Option<Caddy> {
        let parts: Vec<&str> = text.split(':').collect();
        let (host, http, https) = match parts.as_slice() {
            [host] => (host, 80, 443),
            [host, http, https] => (host, http.parse().ok()?, https.parse().ok()?),
            _ => return None,
        };
        (haproxy::is_name(host) && http > 0 && https > 0).then(|| Caddy { host: host.to_string(), http, https })
    }

    /// A site's port is Caddy's own, but for the two that Caddy may have elsewhere.
    fn port(&self, port: u16) -> u16 {
        match port {
            80 => self.http,
            443 => self.https,
            other => other,
        }
    }
}

/// What else decides about the files.
#[derive(Debug, Clone)]
pub struct View {
    pub me: String,
    /// Node → address.
    pub members: BTreeMap<String, String>,
    /// Applications that show the maintenance page.
    pub maintenance: HashSet<String>,
    pub page: String,
    pub caddy: Caddy,
    pub caddy_version: Version,
    /// What stands in front of the files.
    pub caddy_head: String,
    pub haproxy_head: String,
}

impl View {
    /// Where requests for it go: `None` is here.
    pub fn away(&self, app: &App) -> Result<Option<String>, String> {
        let Some(master) = app.master.as_ref().filter(|master| **master != self.me) else { return Ok(None) };
        let address = self.members.get(master).unwrap_or(&app.ip);
        match address.parse() {
            Ok(IpAddr::V4(ip)) => Ok(Some(ip.to_string())),
            Ok(IpAddr::V6(ip)) => Ok(Some(format!("[{ip}]"))),
            Err(_) => Err(format!("its master {master} is no member, and its record's address is {address:?}")),
        }
    }

    fn away_for_long(&self, app: &App) -> bool {
        self.maintenance.contains(&app.name)
    }
}

/// This node's sites.
pub fn caddyfile(apps: &[&App], view: &View) -> String {
    let needed: usize = apps.iter().filter_map(|app| app.caddyfile.as_ref()).map(|text| text.len() + 80).sum();
    let mut out = String::with_capacity(needed + view.caddy_head.len() + view.page.len() + 500);
    out.push_str(NOTE);
    line(&mut out, &view.caddy_head);
    let mut page_written = false;
    for app in apps.iter().filter(|app| app.in_caddyfile()) {
        let Some(text) = &app.caddyfile else { continue };
        out.push_str("# ");
        out.push_str(&app.name);
        out.push('\n');
        if !view.away_for_long(app) {
            line(&mut out, text);
            continue;
        }
        if view.caddy_version == Version::Two && !page_written {
            page_written = true;
            line(&mut out, &page_snippet(&view.page));
        }
        line(&mut out, &maintenance_sites(text, view.caddy_version));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    if !text.is_empty() && !text.ends_with('\n') {
        out.push('\n');
    }
}

/// What every site in maintenance imports.
fn page_snippet(page: &str) -> String {
    let at = Position::default();
    let seconds = RETRY_AFTER.to_string();
    let body = vec![
        Directive::new(&["header", "Retry-After", &seconds], at),
        Directive::new(&["header", "Cache-Control", "no-store"], at),
        Directive::new(&["header", "Content-Type", "text/html; charset=utf-8"], at),
        // braces would be placeholders, backquotes would end the word
        Directive::new(&["respond", &page.replace('{', "&#123;").replace('`', "&#96;"), "503"], at),
    ];
    let addresses = vec![caddyfile::Word::new("(maintenance)", at)];
    caddyfile::dump(&[Site { addresses, body }])
}

/// The same addresses, and how they prove who they are; nothing else of the application.
fn maintenance_sites(text: &str, version: Version) -> String {
    let at = Position::default();
    let mut sites = match caddyfile::parse(text) {
        Ok(sites) => sites,
        Err(_) => {
            let addresses = caddyfile::site_addresses(text).map(|address| caddyfile::Word::new(address, at));
            vec![Site { addresses: addresses.collect(), body: Vec::new() }]
        }
    };
    for site in &mut sites {
        site.body.retain(|line| matches!(line.name(), "tls" | "bind" | "log"));
        match version {
            Version::Two => site.body.push(Directive::new(&["import", "maintenance"], at)),
            // without the page: Caddy 1 has no words for a text of one's own
            Version::One => {
                site.body.push(Directive::new(&["header", "/", "Retry-After", &RETRY_AFTER.to_string()], at));
                site.body.push(Directive::new(&["status", "503", "/"], at));
            }
        }
    }
    sites.retain(|site| !site.addresses.is_empty());
    caddyfile::dump(&sites)
}

/// One backend's destination.
struct Server<'a> {
    name: &'a str,
    host: Cow<'a, str>,
    port: u16,
}

/// The whole cluster's routes, as this node sees them. Applications whose master is nowhere are left out.
pub fn haproxy(apps: &[&App], view: &View) -> String {
    let mut out = String::with_capacity(view.haproxy_head.len() + 4000 + apps.len() * 300);
    out.push_str(NOTE);
    line(&mut out, &view.haproxy_head);
    let placed: Vec<(&App, Option<String>)> = apps.iter().filter_map(|app| Some((*app, view.away(app).ok()?))).collect();
    let mut web = Web::default();
    for (app, away) in &placed {
        web.add(app, away.as_deref(), view);
    }
    let mut frontends: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut extras = String::new();
    let mut known = HashSet::new();
    for (app, away) in &placed {
        for (name, configuration) in &app.haproxy {
            frontends.entry(name).or_default().push(configuration);
            for backend in haproxy::list(configuration, "backends") {
                let first = backend["name"].as_str().is_some_and(|name| known.insert(name));
                if first {
                    extra_backend(&mut extras, name, &frontends, backend, app, away.as_deref(), view);
                }
            }
        }
    }
    let shared = |name| frontends.get(name).map_or(&[][..], Vec::as_slice);
    web.frontends(&mut out, shared(haproxy::HTTP_IN), shared(haproxy::HTTPS_IN), frontends.is_empty(), view);
    for (name, configurations) in frontends.iter().filter(|(name, _)| !haproxy::is_shared(name)) {
        let mode = mode(name, configurations);
        let _infallible = write!(out, "\nfrontend front-{name}\n    mode {mode}\n");
        lines(&mut out, configurations, "bind", "bind ");
        lines(&mut out, configurations, "options", "");
        uses(&mut out, configurations);
    }
    out.push_str(&web.backends);
    out.push_str(&extras);
    out
}

fn mode<'a>(name: &str, configurations: &[&'a Value]) -> &'a str {
    let own = configurations.iter().find_map(|configuration| configuration["frontend"]["mode"].as_str());
    own.unwrap_or(if name == haproxy::HTTP_IN { "http" } else { "tcp" })
}

/// The lines of a frontend's list, without repeats.
fn lines(out: &mut String, configurations: &[&Value], member: &str, keyword: &str) {
    let mut known = HashSet::new();
    for configuration in configurations {
        for text in haproxy::list(&configuration["frontend"], member).filter_map(Value::as_str) {
            if known.insert(text) {
                let _infallible = writeln!(out, "    {keyword}{text}");
            }
        }
    }
}

fn uses(out: &mut String, configurations: &[&Value]) {
    for configuration in configurations {
        for backend in haproxy::list(configuration, "backends") {
            let (name, option) = (text(backend, "name"), text(backend, "use_backend_option"));
            let _infallible = writeln!(out, "{}", format!("    use_backend backend-{name} {option}").trim_end());
        }
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn extra_backend(
    out: &mut String,
    frontend: &str,
    frontends: &BTreeMap<&str, Vec<&Value>>,
    backend: &Value,
    app: &App,
    away: Option<&str>,
    view: &View,
) {
    let mode = mode(frontend, frontends.get(frontend).map_or(&[], Vec::as_slice));
    let _infallible = write!(out, "\n# {}\nbackend backend-{}\n    mode {mode}\n", app.name, text(backend, "name"));
    if mode == "http" && view.away_for_long(app) {
        return unavailable(out, &view.page);
    }
    if mode == "tcp" {
        out.push_str("    option tcp-check\n");
        // its own rules would not be asked any more
        if !haproxy::list(backend, "options").filter_map(Value::as_str).any(|option| option.starts_with("tcp-request")) {
            not_in_circles(out, away);
        }
    }
    for option in haproxy::list(backend, "options").filter_map(Value::as_str) {
        let _infallible = writeln!(out, "    {option}");
    }
    let (port, peer_port) = (haproxy::port(backend.get("port")), haproxy::port(backend.get("peer_port")));
    let (server, option) = match away {
        None => {
            let container = text(backend, "ct");
            (Server { name: container, host: container.into(), port: port.unwrap_or_default() }, text(backend, "server_option"))
        }
        // haproxy there speaks to the container; the option is for that
        Some(address) => {
            let name = app.master.as_deref().unwrap_or_default();
            (Server { name, host: address.into(), port: peer_port.unwrap_or_default() }, "")
        }
    };
    let check = if mode == "tcp" { CHECK } else { "" };
    server.write(out, &format!("{check} {option}"));
}

/// Each server is the only one of its backend: one that failed a check, while the other node's haproxy read its file again for
/// example, has to be used again as soon as it is back.
const CHECK: &str = " check inter 3s downinter 200ms rise 1";

impl Server<'_> {
    fn write(&self, out: &mut String, options: &str) {
        let Server { name, host, port } = self;
        let is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
        // a container that is away has no address, and comes back with another
        let resolved = if is_address { "" } else { " resolvers system init-addr last,libc,none" };
        let _infallible = writeln!(out, "    server {name} {host}:{port}{}{resolved}", options.trim_end());
    }
}

/// While two nodes differ about who is the master, each leads to the other. Unlike a request, a connection cannot be counted nor refused with
/// words: one that came from the very node to which it should go rests first, until they agree. Without that it would be back in a
/// millisecond, and each round is one more connection on both.
fn not_in_circles(out: &mut String, away: Option<&str>) {
    let Some(address) = away else { return };
    let address = address.trim_matches(['[', ']']);
    let _infallible = write!(
        out,
        "    tcp-request inspect-delay 2s\n    tcp-request content accept unless {{ src {address} }}\n    \
         tcp-request content accept if WAIT_END\n"
    );
}

fn unavailable(out: &mut String, page: &str) {
    // in single quotes nothing is special but the quote and the end of the line; a percent sign would begin a variable only in formats
    let page = page.replace('\'', "&#39;").replace(['\n', '\r'], " ");
    let _infallible = writeln!(
        out,
        "    http-request return status 503 content-type \"text/html; charset=utf-8\" hdr Retry-After {RETRY_AFTER} hdr Cache-Control no-store string '{page}'"
    );
}

/// Who the client is, the first node says; nobody else is believed. While nodes differ about who is the master, a request must not go round
/// in circles: it passes two nodes at most.
fn http_in_rules(out: &mut String, view: &View) {
    let members: Vec<&String> = view.members.values().filter(|member| member.parse::<IpAddr>().is_ok()).collect();
    out.push_str("    acl from-member always_false\n");
    for members in members.chunks(40) {
        let members = members.iter().map(|member| format!(" {member}")).collect::<String>();
        let _infallible = writeln!(out, "    acl from-member src{members}");
    }
    out.push_str(
        "    acl first-hop var(txn.hop) -m str 1
    acl second-hop var(txn.hop) -m str 2
    http-request del-header X-Forwarded-For unless from-member
    http-request set-header X-Real-IP %[src] unless from-member { req.hdr(X-Real-IP) -m found }
    http-request set-header X-Forwarded-Proto http
    option forwardfor if-none
    http-request set-var(txn.hop) req.hdr(X-Handler-Hop) if from-member
    http-request deny deny_status 503 if second-hop
    http-request set-header X-Handler-Hop 1 unless first-hop
    http-request set-header X-Handler-Hop 2 if first-hop
",
    );
}

/// HTTP by Host and HTTPS by SNI: the backend's name says the host, so that a frontend needs no line for each of thousands.
#[derive(Default)]
struct Web {
    backends: String,
    known: HashSet<String>,
    /// Port → what is spoken there. The ports of `http-in` and `https-in` too.
    ports: BTreeMap<u16, Scheme>,
    /// (Port, what hosts under it end with), with the dot.
    wildcards: BTreeSet<(u16, String)>,
    /// Only as many as wildcards need.
    hosts: HashMap<u16, Vec<String>>,
}

impl Web {
    fn add(&mut self, app: &App, away: Option<&str>, view: &View) {
        for address in app.addresses() {
            let (scheme, port) = address.served();
            if address.host.is_empty() || address.host.starts_with('[') || haproxy::RESERVED.contains(&port) {
                continue;
            }
            let host = address.host.to_ascii_lowercase();
            self.backend(app, &host, scheme, port, away, view);
            // Caddy redirects to HTTPS and answers for its certificates there
            if (scheme, port) == (Scheme::Https, 443) {
                self.backend(app, &host, Scheme::Http, 80, away, view);
            }
        }
    }

    fn backend(&mut self, app: &App, host: &str, scheme: Scheme, port: u16, away: Option<&str>, view: &View) {
        // another application speaks something else there: its deploy would be refused
        if *self.ports.entry(port).or_insert(scheme) != scheme {
            return;
        }
        let (kind, usual) = match scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
        };
        let (label, wildcard) = match host.strip_prefix('*') {
            Some(rest) => (format!("_{rest}"), Some(rest)),
            None => (host.to_string(), None),
        };
        let name = match port == usual {
            true => format!("{kind}-{label}"),
            false => format!("{kind}-{label}:{port}"),
        };
        if !haproxy::is_name(&name) || label.contains('*') || self.known.contains(&name) {
            return;
        }
        match wildcard {
            Some(rest) => drop(self.wildcards.insert((port, rest.to_string()))),
            None => self.hosts.entry(port).or_default().push(host.to_string()),
        }
        let out = &mut self.backends;
        let _infallible = write!(out, "\nbackend {name}\n");
        self.known.insert(name);
        let server = match away {
            None => Server { name: "caddy", host: view.caddy.host.as_str().into(), port: view.caddy.port(port) },
            Some(address) => Server { name: app.master.as_deref().unwrap_or("node"), host: address.into(), port },
        };
        match scheme {
            Scheme::Http => {
                out.push_str("    mode http\n");
                match view.away_for_long(app) {
                    true => unavailable(out, &view.page),
                    false => server.write(out, ""),
                }
            }
            Scheme::Https => {
                out.push_str("    mode tcp\n    option tcp-check\n");
                not_in_circles(out, away);
                server.write(out, CHECK);
            }
        }
    }

    fn frontends(&mut self, out: &mut String, http_in: &[&Value], https_in: &[&Value], no_others: bool, view: &View) {
        if !http_in.is_empty() {
            self.ports.entry(80).or_insert(Scheme::Http);
        }
        if !https_in.is_empty() {
            self.ports.entry(443).or_insert(Scheme::Https);
        }
        if self.ports.is_empty() && no_others {
            // haproxy does not start without a frontend
            self.ports.insert(80, Scheme::Http);
        }
        for (port, scheme) in &self.ports {
            let (kind, usual, extra) = match scheme {
                Scheme::Http => ("http", 80, http_in),
                Scheme::Https => ("https", 443, https_in),
            };
            let (suffix, colon) = match *port == usual {
                true => (String::new(), String::new()),
                false => (format!("-{port}"), format!(":{port}")),
            };
            let _infallible = write!(out, "\nfrontend {kind}-in{suffix}\n    bind *:{port}\n");
            let host = match scheme {
                Scheme::Http => {
                    out.push_str("    mode http\n    option httplog\n");
                    http_in_rules(out, view);
                    "req.hdr(host),field(1,:),lower"
                }
                Scheme::Https => {
                    out.push_str(
                        "    mode tcp\n    option tcplog\n    tcp-request inspect-delay 5s\n    \
                         tcp-request content accept if { req.ssl_hello_type 1 }\n",
                    );
                    "req.ssl_sni,lower"
                }
            };
            if *port == usual {
                lines(out, extra, "options", "");
                uses(out, extra);
            }
            for (n, (_, end)) in self.wildcards.iter().filter(|(its, _)| its == port).enumerate() {
                let exact = self.hosts.get(port).into_iter().flatten().filter(|host| host.ends_with(end.as_str()));
                let _infallible = writeln!(out, "    acl exact-{n} always_false");
                for exact in exact {
                    let _infallible = writeln!(out, "    acl exact-{n} {host} -m str {exact}");
                }
                let _infallible = writeln!(out, "    use_backend {kind}-_{end}{colon} if {{ {host} -m end {end} }} !exact-{n}");
            }
            let _infallible = writeln!(out, "    use_backend {kind}-%[{host}]{colon}");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    fn view() -> View {
        View {
            me: "node1".into(),
            members: [("node1", "10.0.0.1"), ("node2", "10.0.0.2")].map(|(name, ip)| (name.into(), ip.into())).into(),
            maintenance: HashSet::new(),
            page: PAGE.into(),
            caddy: Caddy::parse("caddy").unwrap(),
            caddy_version: Version::Two,
            caddy_head: String::new(),
            haproxy_head: String::new(),
        }
    }

    fn app(name: &str, record: Value) -> App {
        App::of_record(name, record.to_string().as_bytes(), "node1", Version::Two).unwrap()
    }

    fn ssh(name: &str, port: u16) -> Value {
        let bind = format!("*:{port}");
        json!({name: {"frontend": {"mode": "tcp", "bind": [bind], "options": ["option tcplog"]},
            "backends": [{"name": name, "port": "22", "peer_port": port, "ct": "git-ct", "server_option": "send-proxy"}]}})
    }

    /// Of everything one.
    fn apps() -> Vec<App> {
        let extra = json!({"http-in": {"backends": [{"name": "forge.example.com", "port": 8080, "peer_port": 80, "ct": "forge",
            "use_backend_option": "if { hdr(host) -i forge.example.com }"}]}});
        let mut apps = vec![
            app("extra", json!({"master": "node1", "haproxy": extra, "caddyfile": ""})),
            app("git-here", json!({"master": "node1", "haproxy": ssh("git", 2222)})),
            app("git-there", json!({"master": "node2", "haproxy": ssh("git2", 2223)})),
            app("gone", json!({"master": "node3", "ip": "10.0.0.3", "caddyfile": "http://gone.example.com {\n}"})),
            app(
                "here",
                json!({"master": "node1", "caddyfile": "http://Here.example.com, https://here.example.com/x {\n    respond here\n}"}),
            ),
            app("nowhere", json!({"master": "node3", "ip": "", "caddyfile": "http://nowhere.example.com {\n}"})),
            app("port", json!({"master": "node1", "caddyfile": "http://port.example.com:8080 {\n    respond port\n}"})),
            app("there", json!({"master": "node2", "caddyfile": "https://there.example.com {\n    respond there\n}"})),
            app("wild", json!({"master": "node2", "caddyfile": "http://*.example.com, https://*.example.com:8443 {\n}"})),
        ];
        apps.push(App::of_swarm("swarm", br#"{"domains": ["swarm.example.com"], "haproxy": {}}"#).unwrap());
        apps
    }

    fn haproxy_of(apps: &[App], view: &View) -> String {
        haproxy(&apps.iter().collect::<Vec<_>>(), view)
    }

    fn caddyfile_of(apps: &[App], view: &View) -> String {
        caddyfile(&apps.iter().collect::<Vec<_>>(), view)
    }

    #[test]
    fn the_whole_file() {
        let (apps, view) = (apps(), view());
        let expected = include_str!("../../tests/vectors/haproxy.cfg");
        let now = haproxy_of(&apps, &view);
        let file = std::env::temp_dir().join("haproxy.cfg");
        if now != expected {
            std::fs::write(&file, &now).unwrap();
        }
        assert!(now == expected, "tests/vectors/haproxy.cfg differs from {}", file.display());
        assert_eq!(
            caddyfile_of(&apps, &view),
            format!(
                "{NOTE}# here\nhttp://Here.example.com, https://here.example.com/x {{\n    respond here\n}}\n\
                 # port\nhttp://port.example.com:8080 {{\n    respond port\n}}\n"
            )
        );
    }

    #[test]
    fn nothing() {
        assert!(haproxy_of(&[], &view()).starts_with(&format!("{NOTE}\nfrontend http-in\n    bind *:80\n")));
        assert_eq!(caddyfile_of(&[], &view()), NOTE);
    }

    #[test]
    fn maintenance() {
        let mut view = view();
        view.page = "it's\n`50 %` {gone}".into();
        view.maintenance = ["here", "there", "extra", "git-here"].map(String::from).into();
        let apps = apps();
        assert_eq!(
            caddyfile_of(&apps[4..5], &view),
            format!(
                "{NOTE}# here\n(maintenance) {{\n    header Retry-After 30\n    header Cache-Control no-store\n    \
                 header Content-Type \"text/html; charset=utf-8\"\n    respond \"it's\n&#96;50 %&#96; &#123;gone}}\" 503\n}}\n\
                 http://Here.example.com, https://here.example.com/x {{\n    import maintenance\n}}\n"
            )
        );
        let text = haproxy_of(&apps, &view);
        let page = "    http-request return status 503 content-type \"text/html; charset=utf-8\" hdr Retry-After 30 hdr Cache-Control no-store \
                    string 'it&#39;s `50 %` {gone}'\n";
        for name in ["http-here.example.com", "http-there.example.com", "backend-forge.example.com"] {
            assert!(text.contains(&format!("backend {name}\n    mode http\n{page}")), "{name}: {text}");
        }
        assert!(text.contains("backend backend-git\n    mode tcp\n    option tcp-check\n    server git-ct git-ct:22"), "{text}");
    }

    #[test]
    fn caddy_one_records_are_upgraded() {
        let record: Value = serde_json::from_str(include_str!("../../tests/vectors/records/blog.json")).unwrap();
        let blog = app("blog_master.03d9b", record["record"].clone());
        let text = caddyfile_of(&[blog], &view());
        assert!(text.contains("    reverse_proxy http://blogmaster03d9b_web_1:80 {\n"), "{text}");
        assert!(text.contains("    redir http://blog.example.com 301\n"), "{text}");
        let one = App::of_record("blog", record["record"].to_string().as_bytes(), "node1", Version::One).unwrap();
        let view = View { caddy_version: Version::One, ..view() };
        let text = caddyfile_of(&[one], &view);
        assert_eq!(text, format!("{NOTE}# blog\n{}\n", record["record"]["caddyfile"].as_str().unwrap()));
    }

    #[test]
    fn refused() {
        let of = |name: &str, record: Value| App::of_record(name, record.to_string().as_bytes(), "node1", Version::Two).unwrap_err();
        for name in ["a\nb", "{$HOME}"] {
            assert_eq!(of(name, json!({"master": "node1"})), "not the name of an application");
        }
        // but what a repository at the top of an ssh account gives is one
        assert!(app("git@git.example.com:top_main.372b1", json!({"master": "node1", "caddyfile": "http://a {\n}"})).in_caddyfile());
        assert!(of("a", json!({})).contains("missing field `master`"));
        let mut bad = ssh("git", 2222);
        bad["git"]["backends"][0]["ct"] = "ct\nlisten x".into();
        assert_eq!(
            of("a", json!({"master": "node1", "haproxy": bad})),
            "haproxy: git.backends[0].ct: expected the name of a container, found \"ct\\nlisten x\""
        );
        bad = ssh("git", 2222);
        bad["git"]["backends"][0]["server_option"] = "x\nlisten x".into();
        assert!(of("a", json!({"master": "node1", "haproxy": bad})).contains("expected text in one line"));
    }

    #[test]
    fn caddys_place() {
        assert_eq!(Caddy::parse("caddy"), Some(Caddy { host: "caddy".into(), http: 80, https: 443 }));
        assert_eq!(Caddy::parse("127.0.0.1:8080:8443"), Some(Caddy { host: "127.0.0.1".into(), http: 8080, https: 8443 }));
        for bad in ["", "a:80", "a:0:1", "a b"] {
            assert_eq!(Caddy::parse(bad), None, "{bad}");
        }
    }

    /// Runs `command` on `text`, unless the program is not installed.
    #[allow(clippy::disallowed_methods)] // a test's own process
    pub(crate) fn accepted(command: &[&str], text: &str) {
        let folder = std::env::temp_dir().join(format!("handler-{}-{}-{:?}", command[0], std::process::id(), std::thread::current().id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("file");
        std::fs::write(&file, text).unwrap();
        let done = std::process::Command::new(command[0])
            .args(&command[1..])
            .arg(&file)
            .env("XDG_DATA_HOME", &folder)
            .env("XDG_CONFIG_HOME", &folder)
            .output();
        match done {
            // The laboratory has both, and insists.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && std::env::var_os("REAL_PROXIES").is_none() => {
                eprintln!("LEFT OUT: {} is not installed", command[0]);
            }
            Err(error) => panic!("{error}"),
            Ok(done) => assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr)),
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn real_proxies_accept_both_files() {
        let apps = apps();
        let mut view = View { haproxy_head: HAPROXY_HEAD.into(), caddy_head: CADDY_HEAD.into(), ..view() };
        for _ in 0..2 {
            accepted(&["haproxy", "-c", "-f"], &haproxy_of(&apps, &view));
            accepted(&["caddy", "validate", "--adapter", "caddyfile", "--config"], &caddyfile_of(&apps, &view));
            // then with everything in maintenance
            view.maintenance = apps.iter().map(|app| app.name.clone()).collect();
        }
        accepted(&["haproxy", "-c", "-f"], &haproxy_of(&[], &view));
        accepted(&["caddy", "validate", "--adapter", "caddyfile", "--config"], &caddyfile_of(&[], &view));
    }
}
