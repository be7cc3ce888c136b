//! `haproxy.cfg`: the whole cluster's routes, as this node sees them. Pure: the same records give the same text.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use serde_json::Value;

use super::view::{NOTE, RETRY_AFTER, Routed, UNDERSCORED, View, Way, push_line};
use crate::routes::address::{Scheme, SiteAddress, Unfit};
use crate::routes::haproxy::{HTTP_IN, HTTPS_IN, PEER_HTTP, PEER_HTTPS, RESERVED, hosts_of, is_name, is_shared, list, port};

/// The file's second line, where Caddy is told who the client is.
pub const TELLS: &str = "# Caddy is told who the client is, by the PROXY protocol.\n";

/// TLS is read as far as its host.
const HELLO: &str = "    tcp-request inspect-delay 5s\n    tcp-request content accept if { req.ssl_hello_type 1 }\n";
/// Where a connection comes from, if it is a node that says who its client is.
const FROM: &str = "    tcp-request connection set-var(sess.from) src\n";

/// Applications whose master is nowhere are left out.
pub fn written(apps: &[&Routed], view: &View) -> String {
    let placed: Vec<(&Routed, Way)> = apps.iter().filter_map(|app| Some((*app, view.way(app).ok()?))).collect();
    let served = placed.iter().filter(|(app, _)| !view.in_maintenance(app)).flat_map(|(app, _)| app.addresses());
    let mut web = Web { served: served.map(|address| address.host.to_ascii_lowercase()).collect(), ..Web::default() };
    for (app, way) in &placed {
        web.add(app, way, view);
    }
    for (app, way) in &placed {
        web.redirects(app, way, view);
    }
    let mut frontends: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut extras = String::new();
    let mut known = HashSet::new();
    for (app, way) in &placed {
        for (name, configuration) in &app.haproxy {
            let configurations = frontends.entry(name).or_default();
            configurations.push(configuration);
            let mode = mode(name, configurations);
            for backend in list(configuration, "backends") {
                if known.insert(text(backend, "name")) {
                    extra_backend(&mut extras, mode, backend, app, way, view);
                }
            }
        }
    }
    let mut out = String::from(NOTE);
    if view.clients.caddy {
        out.push_str(TELLS);
    }
    push_line(&mut out, &view.frame.haproxy_head);
    web.frontends(&mut out, &frontends, view);
    for (name, configurations) in frontends.iter().filter(|(name, _)| !is_shared(name)) {
        let mode = mode(name, configurations);
        out.push_str(&format!("\nfrontend front-{name}\n    mode {mode}\n{FROM}"));
        lines(&mut out, configurations, "bind", "bind ");
        lines(&mut out, configurations, "options", "");
        if mode == "http" {
            from_member(&mut out, view);
            http_in_rules(&mut out, view);
        }
        waits_for_host(&mut out, configurations);
        uses(&mut out, configurations);
    }
    out.push_str(&web.backends);
    peers(&mut out, &web.peers);
    out.push_str(&extras);
    out
}

fn mode<'a>(name: &str, configurations: &[&'a Value]) -> &'a str {
    let own = configurations.iter().find_map(|configuration| configuration["frontend"]["mode"].as_str());
    own.unwrap_or(if name == HTTP_IN { "http" } else { "tcp" })
}

/// The lines of a frontend's list, without repeats.
fn lines(out: &mut String, configurations: &[&Value], member: &str, keyword: &str) {
    let mut known = HashSet::new();
    for configuration in configurations {
        for text in list(&configuration["frontend"], member).filter_map(Value::as_str) {
            if known.insert(text) {
                out.push_str(&format!("    {keyword}{text}\n"));
            }
        }
    }
}

/// The host of a TLS connection is known when its first bytes have been read, and haproxy reads them before it chooses only if it is told to.
fn waits_for_host(out: &mut String, configurations: &[&Value]) {
    let asks = |backend: &Value| text(backend, "use_backend_option").contains("ssl_sni");
    let waits = |line: &str| line.starts_with("tcp-request ");
    let mut options = configurations.iter().flat_map(|configuration| list(&configuration["frontend"], "options"));
    let has_own = options.any(|line| line.as_str().is_some_and(waits));
    if !has_own && configurations.iter().flat_map(|configuration| list(configuration, "backends")).any(asks) {
        out.push_str(HELLO);
    }
}

fn uses(out: &mut String, configurations: &[&Value]) {
    for backend in configurations.iter().flat_map(|configuration| list(configuration, "backends")) {
        // Clients say the port with the host, if it is not the usual one.
        let condition = text(backend, "use_backend_option").replace("hdr(host) -i", "hdr(host),field(1,:) -i");
        let line = format!("    use_backend backend-{} {condition}", text(backend, "name"));
        push_line(out, line.trim_end());
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn extra_backend(out: &mut String, mode: &str, backend: &Value, app: &Routed, way: &Way, view: &View) {
    out.push_str(&format!("\n# {}\nbackend backend-{}\n    mode {mode}\n", app.name, text(backend, "name")));
    if mode == "http" && view.in_maintenance(app) {
        return unavailable(out, &view.frame.page);
    }
    if mode == "tcp" {
        out.push_str("    option tcp-check\n");
        // its own rules would not be asked any more
        if !list(backend, "options").filter_map(Value::as_str).any(|option| option.starts_with("tcp-request")) {
            not_in_circles(out, way);
        }
    }
    // What is asked of the container, the container's node asks; its haproxy may have other containers on that port.
    let is_check = |option: &&str| option.starts_with("option ") && (option.contains("chk") || option.contains("-check"));
    let all = list(backend, "options").filter_map(Value::as_str);
    for option in all.filter(|option| *way == Way::Here || !is_check(option)) {
        out.push_str(&format!("    {option}\n"));
    }
    let (name, host, member, option) = match way {
        Way::Here => (text(backend, "ct"), text(backend, "ct"), "port", text(backend, "server_option")),
        // haproxy there speaks to the container; the option is for that
        Way::There(address) => (&*app.master, &**address, "peer_port", ""),
    };
    let server = Server { name, host, port: port(backend.get(member)).unwrap_or_default() };
    let check = if mode == "tcp" { CHECK } else { "" };
    server.write(out, &format!("{check} {option}"));
}

/// Each server is the only one of its backend: one that failed a check, while the other node's haproxy read its file again for
/// example, has to be used again as soon as it is back.
const CHECK: &str = " check inter 3s downinter 200ms rise 1";

/// One backend's destination.
struct Server<'a> {
    name: &'a str,
    host: &'a str,
    port: u16,
}

impl Server<'_> {
    fn write(&self, out: &mut String, options: &str) {
        let Server { name, host, port } = self;
        let is_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
        // a container that is away has no address, and comes back with another
        let resolved = if is_address { "" } else { " resolvers system init-addr last,libc,none" };
        out.push_str(&format!("    server {name} {host}:{port}{}{resolved}\n", options.trim_end()));
    }
}

/// While two nodes differ about who is the master, each leads to the other. Unlike a request, a connection cannot be counted nor refused with
/// words: one that came from the very node to which it should go rests first, until they agree. Without that it would be back in a
/// millisecond, and each round is one more connection on both.
fn not_in_circles(out: &mut String, way: &Way) {
    let Way::There(address) = way else { return };
    let address = address.trim_matches(['[', ']']);
    if address.parse::<IpAddr>().is_ok() {
        out.push_str(&format!(
            "    tcp-request inspect-delay 2s\n    tcp-request content accept unless {{ var(sess.from) -m ip {address} }}\n    \
             tcp-request content accept if WAIT_END\n"
        ));
    }
}

fn unavailable(out: &mut String, page: &str) {
    // in single quotes nothing is special but the quote and the end of the line; a percent sign would begin a variable only in formats
    let page = page.replace('\'', "&#39;").replace(['\n', '\r'], " ");
    out.push_str(&format!(
        "    http-request return status 503 content-type \"text/html; charset=utf-8\" hdr Retry-After {RETRY_AFTER} hdr Cache-Control no-store \
         string '{page}'\n"
    ));
}

/// Who the client is and whom it asked, the first node says; nobody else is believed, and what names headers in `Connection` would have those
/// that we set taken out again. While nodes differ about who is the master, a request must not go round
/// in circles: it passes two nodes at most.
fn http_in_rules(out: &mut String, view: &View) {
    for trusted in view.frame.trusted.chunks(40) {
        out.push_str(&format!("    acl from-trusted src {}\n", trusted.join(" ")));
    }
    // Whoever the operator has in front of the cluster says it even before.
    let unless = |said: &str| match view.frame.trusted.is_empty() {
        true => format!("unless from-member{said}"),
        false => format!("unless from-member{said} || from-trusted{said}"),
    };
    for begin in UNDERSCORED {
        out.push_str(&format!("    http-request del-header {begin} -m beg\n"));
    }
    let said = |header: &str| unless(&format!(" {{ req.hdr({header}) -m found }}"));
    let (nothing, ip, host) = (unless(""), said("X-Real-IP"), said("X-Forwarded-Host"));
    let proto = if view.frame.trusted.is_empty() { String::new() } else { format!(" {}", said("X-Forwarded-Proto")) };
    out.push_str(&format!(
        "    acl first-hop var(txn.hop) -m str 1
    acl second-hop var(txn.hop) -m str 2
    http-request del-header X-Forwarded- -m beg {nothing}
    http-request del-header Forwarded {nothing}
    http-request set-header X-Real-IP %[src] {ip}
    http-request set-header X-Forwarded-Host %[req.hdr(host)] {host}
    http-request set-header X-Forwarded-Proto http{proto}
    option forwardfor if-none
    http-request set-header Connection upgrade if {{ req.hdr(Connection) -m sub -i upgrade }}
    http-request del-header Connection unless {{ req.hdr(Connection) -m sub -i upgrade }}
    http-request set-var(txn.hop) req.hdr(X-Handler-Hop) if from-member
    http-request deny deny_status 503 if second-hop
    http-request set-header X-Handler-Hop 1 unless first-hop
    http-request set-header X-Handler-Hop 2 if first-hop
",
    ));
}

/// A connection that a node passes on comes to a port of its own, and first says who the client is. Whoever else knocks there is sent away.
fn listens(out: &mut String, port: u16, peer: Option<u16>, view: &View) {
    out.push_str(&format!("    bind *:{port}\n"));
    let peer = peer.filter(|_| view.clients.here);
    if let Some(peer) = peer {
        out.push_str(&format!("    bind *:{peer}\n"));
    }
    out.push_str(FROM);
    from_member(out, view);
    if let Some(peer) = peer {
        out.push_str(&format!(
            "    acl passed-on dst_port {peer}\n    tcp-request connection reject if passed-on !from-member\n    \
             tcp-request connection expect-proxy layer4 if passed-on\n"
        ));
    }
}

fn from_member(out: &mut String, view: &View) {
    let members: Vec<&String> = view.members.values().filter(|member| member.parse::<IpAddr>().is_ok()).collect();
    out.push_str("    acl from-member always_false\n");
    for members in members.chunks(40) {
        let members: String = members.iter().map(|member| format!(" {member}")).collect();
        out.push_str(&format!("    acl from-member var(sess.from) -m ip{members}\n"));
    }
}

/// Whether a node's ports for that are reached, for all backends that lead there.
fn peers(out: &mut String, peers: &BTreeMap<String, String>) {
    for (node, address) in peers {
        out.push_str(&format!("\nbackend peer-{node}\n    mode tcp\n"));
        for (name, port) in [("http", PEER_HTTP), ("https", PEER_HTTPS)] {
            Server { name, host: address, port }.write(out, CHECK);
        }
    }
}

/// HTTP by Host and HTTPS by SNI: the backend's name says the host, so that a frontend needs no line for each of them.
#[derive(Default)]
struct Web {
    backends: String,
    known: HashSet<String>,
    /// Hosts of which some application is not in maintenance: Caddy has the page of those that are.
    served: HashSet<String>,
    /// Port → what is spoken there. The ports of `http-in` and `https-in` too.
    ports: BTreeMap<u16, Scheme>,
    /// (Port, what hosts under it end with), with the dot.
    wildcards: BTreeSet<(u16, String)>,
    /// By port; only the wildcards need them.
    hosts: HashMap<u16, Vec<String>>,
    /// Node → address, of those that are to be told who the client is.
    peers: BTreeMap<String, String>,
}

/// In names of frontends and backends, with the port that needs not be said there, and the configuration that adds to it.
fn kind(scheme: Scheme) -> (&'static str, u16, &'static str) {
    match scheme {
        Scheme::Http => ("http", 80, HTTP_IN),
        Scheme::Https => ("https", 443, HTTPS_IN),
    }
}

/// What is spoken on which port for the address, if haproxy leads there.
fn served(address: &SiteAddress) -> Option<(Scheme, u16)> {
    let (scheme, port) = address.served();
    let usual = !matches!((scheme, port), (Scheme::Http, 443) | (Scheme::Https, 80));
    // An older handler let a host be called as a wildcard is here.
    let unfit = address.host.is_empty() || address.host.starts_with('[') || address.unfit() == Some(Unfit::Name);
    (!unfit && usual && !RESERVED.contains(&port)).then_some((scheme, port))
}

impl Web {
    fn add(&mut self, app: &Routed, way: &Way, view: &View) {
        for address in app.addresses() {
            let Some((scheme, port)) = served(&address) else { continue };
            let host = address.host.to_ascii_lowercase();
            self.backend(app, &host, scheme, port, way, view);
        }
        // Nobody else has them, whatever a wildcard is for: not on the port for which they are not named either.
        for (_, host) in hosts_of(&app.haproxy) {
            for port in [80, 443] {
                self.hosts.entry(port).or_default().push(host.clone());
            }
        }
    }

    /// Caddy redirects to HTTPS and answers for its certificates on port 80, whatever port the site is on. Once all have what they name.
    fn redirects(&mut self, app: &Routed, way: &Way, view: &View) {
        for host in app.addresses().filter(|address| served(address).is_some_and(|(scheme, _)| scheme == Scheme::Https)) {
            self.backend(app, &host.host.to_ascii_lowercase(), Scheme::Http, 80, way, view);
        }
    }

    fn backend(&mut self, app: &Routed, host: &str, scheme: Scheme, port: u16, way: &Way, view: &View) {
        // another application speaks something else there: its deploy would be refused
        if *self.ports.entry(port).or_insert(scheme) != scheme {
            return;
        }
        let (kind, usual, _) = kind(scheme);
        let (label, wildcard) = match host.strip_prefix('*') {
            Some(rest) => (format!("_{rest}"), Some(rest)),
            None => (host.to_string(), None),
        };
        let name = match port == usual {
            true => format!("{kind}-{label}"),
            false => format!("{kind}-{label}:{port}"),
        };
        if !is_name(&name) || label.contains('*') || self.known.contains(&name) {
            return;
        }
        match wildcard {
            Some(rest) => drop(self.wildcards.insert((port, rest.to_string()))),
            None => self.hosts.entry(port).or_default().push(host.to_string()),
        }
        let out = &mut self.backends;
        out.push_str(&format!("\nbackend {name}\n"));
        self.known.insert(name);
        let caddy = &view.frame.caddy;
        let check = match scheme {
            Scheme::Http => "",
            Scheme::Https => CHECK,
        };
        match scheme {
            Scheme::Http => {
                out.push_str("    mode http\n");
                if view.in_maintenance(app) && !self.served.contains(host) {
                    return unavailable(out, &view.frame.page);
                }
            }
            Scheme::Https => {
                out.push_str("    mode tcp\n    option tcp-check\n");
                not_in_circles(out, way);
            }
        }
        let master = &*app.master;
        match way {
            Way::Here => {
                let told = if view.clients.caddy { " send-proxy-v2" } else { "" };
                Server { name: "caddy", host: &caddy.host, port: caddy.port(port) }.write(out, &format!("{check}{told}"));
            }
            // A node that cannot be reached there is reached as before, without a word about the client.
            Way::There(address) if port == usual && view.clients.here && view.clients.peers.contains(master) && is_name(master) => {
                self.peers.insert(master.into(), address.clone());
                let peer = if scheme == Scheme::Http { PEER_HTTP } else { PEER_HTTPS };
                Server { name: master, host: address, port: peer }.write(out, &format!(" send-proxy-v2 track peer-{master}/{kind}"));
                Server { name: &format!("{master}-plain"), host: address, port }.write(out, &format!("{check} backup"));
            }
            Way::There(address) => Server { name: master, host: address, port }.write(out, check),
        }
    }

    fn frontends(&mut self, out: &mut String, others: &BTreeMap<&str, Vec<&Value>>, view: &View) {
        for scheme in [Scheme::Http, Scheme::Https] {
            let (_, port, name) = kind(scheme);
            if others.contains_key(name) {
                self.ports.entry(port).or_insert(scheme);
            }
        }
        if self.ports.is_empty() && others.is_empty() {
            // haproxy does not start without a frontend
            self.ports.insert(80, Scheme::Http);
        }
        for (port, scheme) in &self.ports {
            let (kind, usual, name) = kind(*scheme);
            let (suffix, colon) = match *port == usual {
                true => (String::new(), String::new()),
                false => (format!("-{port}"), format!(":{port}")),
            };
            let peer = if *scheme == Scheme::Http { PEER_HTTP } else { PEER_HTTPS };
            out.push_str(&format!("\nfrontend {kind}-in{suffix}\n"));
            listens(out, *port, Some(peer).filter(|_| *port == usual), view);
            let host = match scheme {
                Scheme::Http => {
                    out.push_str("    mode http\n    option httplog\n");
                    http_in_rules(out, view);
                    "req.hdr(host),field(1,:),lower"
                }
                Scheme::Https => {
                    out.push_str("    mode tcp\n    option tcplog\n");
                    out.push_str(HELLO);
                    "req.ssl_sni,lower"
                }
            };
            if let Some(extra) = others.get(name).filter(|_| *port == usual) {
                lines(out, extra, "options", "");
                uses(out, extra);
            }
            // The longer one is meant for less, and asked first.
            let mut wildcards: Vec<&String> = self.wildcards.iter().filter(|(its, _)| its == port).map(|(_, end)| end).collect();
            wildcards.sort_by_key(|end| std::cmp::Reverse(end.len()));
            for (n, end) in wildcards.into_iter().enumerate() {
                let exact = self.hosts.get(port).into_iter().flatten().filter(|host| host.ends_with(end.as_str()));
                out.push_str(&format!("    acl exact-{n} always_false\n"));
                for exact in exact {
                    out.push_str(&format!("    acl exact-{n} {host} -m str {exact}\n"));
                }
                out.push_str(&format!("    use_backend {kind}-_{end}{colon} if {{ {host} -m end {end} }} !exact-{n}\n"));
            }
            out.push_str(&format!("    use_backend {kind}-%[{host}]{colon}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::view::tests::{app, apps, told_view, view, whole_view};
    use super::*;
    use crate::routes::real;

    fn text_of(apps: &[Routed], view: &View) -> String {
        written(&apps.iter().collect::<Vec<_>>(), view)
    }

    #[test]
    fn the_whole_file() {
        assert_eq!(text_of(&apps(), &view()), include_str!("../../tests/vectors/haproxy.cfg"));
    }

    #[test]
    fn nothing() {
        assert!(text_of(&[], &view()).starts_with(&format!("{NOTE}\nfrontend http-in\n    bind *:80\n")));
    }

    #[test]
    fn maintenance() {
        let mut view = view();
        view.frame.page = "it's\n`50 %` {gone}".into();
        view.maintenance = ["here", "there", "extra", "git-here"].map(String::from).into();
        let text = text_of(&apps(), &view);
        let page = "    http-request return status 503 content-type \"text/html; charset=utf-8\" hdr Retry-After 30 hdr Cache-Control no-store \
                    string 'it&#39;s `50 %` {gone}'\n";
        for name in ["http-here.example.com", "http-there.example.com", "backend-forge.example.com"] {
            assert!(text.contains(&format!("backend {name}\n    mode http\n{page}")), "{name}: {text}");
        }
        assert!(text.contains("backend backend-git\n    mode tcp\n    option tcp-check\n    server git-ct git-ct:22"), "{text}");
    }

    #[test]
    fn who_the_client_is() {
        let text = text_of(&apps(), &told_view());
        for part in [
            "    bind *:80\n    bind *:1180\n    tcp-request connection set-var(sess.from) src\n    acl from-member always_false\n    \
             acl from-member var(sess.from) -m ip 10.0.0.1 10.0.0.2\n    acl passed-on dst_port 1180\n    \
             tcp-request connection reject if passed-on !from-member\n    tcp-request connection expect-proxy layer4 if passed-on\n    mode http\n",
            "backend http-here.example.com\n    mode http\n    server caddy caddy:80 send-proxy-v2 resolvers",
            "backend http-there.example.com\n    mode http\n    server node2 10.0.0.2:1180 send-proxy-v2 track peer-node2/http\n    \
             server node2-plain 10.0.0.2:80 backup\n",
            "    server node2 10.0.0.2:1443 send-proxy-v2 track peer-node2/https\n    server node2-plain 10.0.0.2:443 check inter 3s downinter 200ms rise 1 backup\n",
            // a port of its own has no port beside it
            "backend https-_.example.com:8443\n    mode tcp\n    option tcp-check\n    tcp-request inspect-delay 2s\n    \
             tcp-request content accept unless { var(sess.from) -m ip 10.0.0.2 }\n    tcp-request content accept if WAIT_END\n    \
             server node2 10.0.0.2:8443 check",
            "\nbackend peer-node2\n    mode tcp\n    server http 10.0.0.2:1180 check",
            // of a node that does not listen there
            "backend http-gone.example.com\n    mode http\n    server node3 10.0.0.3:80\n",
        ] {
            assert!(text.contains(part), "{part}\n--\n{text}");
        }
        assert!(text.starts_with(&format!("{NOTE}{TELLS}")));
        assert!(!text_of(&apps(), &view()).contains("send-proxy-v2"));
    }

    /// A host counts with its port, TLS is read as far as its host, no request goes round in circles, and the container's node alone asks the
    /// container.
    #[test]
    fn ports_of_their_own() {
        let of = |master: &str, mode: &str, condition: &str| {
            let backend = json!({"name": "a", "port": 1, "peer_port": 2299, "ct": "ct", "use_backend_option": condition,
                "options": ["option ssl-hello-chk", "balance source"]});
            let own = json!({"own": {"frontend": {"mode": mode, "bind": ["*:2299"]}, "backends": [backend]}});
            text_of(&[app("a", json!({"master": master, "haproxy": own}))], &view())
        };
        let http = of("node2", "http", "if { hdr(host) -i a.x }");
        assert!(http.contains("deny_status 503 if second-hop\n") && http.contains("if { hdr(host),field(1,:) -i a.x }\n"), "{http}");
        for (master, asks) in [("node1", true), ("node2", false)] {
            let tls = of(master, "tcp", "if { req_ssl_sni -i a.x }");
            assert!(tls.contains(&format!("    bind *:2299\n{HELLO}    use_backend")), "{tls}");
            assert!(tls.contains("option ssl-hello-chk") == asks && tls.contains("    balance source\n"), "{tls}");
        }
    }

    #[test]
    fn real_haproxy_accepts_it() {
        let (apps, mut view) = (apps(), whole_view());
        real::accepts(real::HAPROXY, &text_of(&[], &view));
        real::accepts(real::HAPROXY, &text_of(&apps, &view));
        real::accepts(real::HAPROXY, &text_of(&apps, &told_view()));
        view.frame.trusted = (0..50).map(|n| format!("198.51.100.{n}/32")).chain(["2001:db8::/32".into()]).collect();
        view.maintenance = apps.iter().map(|app| app.name.clone()).collect();
        real::accepts(real::HAPROXY, &text_of(&apps, &view));
    }

    fn backend_of(text: &str, name: &str) -> String {
        let rest = text.split_once(&format!("\nbackend {name}\n")).unwrap_or_else(|| panic!("{name}: {text}")).1;
        rest.split("\n\n").next().unwrap().to_string()
    }

    /// `_.example.com` is a host, too: what another application has of it is not all of `*.example.com`.
    #[test]
    fn attack17_a_host_that_is_called_as_a_wildcard() {
        let record = |master: &str, address: &str| json!({"master": master, "caddyfile": format!("{address} {{\n    respond x\n}}")});
        let apps = [app("first", record("node2", "http://_.example.com")), app("wild", record("node1", "http://*.example.com"))];
        let text = text_of(&apps, &view());
        let led = text.lines().find(|line| line.contains("-m end .example.com }"));
        assert!(led.is_some(), "nothing leads to *.example.com: {text}");
        let backend = backend_of(&text, "http-_.example.com");
        assert!(backend.contains("server caddy caddy:80"), "*.example.com is here, and led by {led:?} to {backend}");
    }

    /// Two applications share a host by paths. The page of the one is not that of the other.
    #[test]
    fn attack17_a_maintenance_of_one_that_shares_a_host() {
        let record = |path: &str| json!({"master": "node1", "caddyfile": format!("http://x.example.com{path} {{\n    respond x\n}}")});
        let apps = [app("one", record("/one*")), app("two", record("/two*"))];
        let mut view = view();
        view.maintenance = ["one".into()].into();
        let backend = backend_of(&text_of(&apps, &view), "http-x.example.com");
        assert!(!backend.contains("503"), "/two is served, and here: {backend}");
    }
}
