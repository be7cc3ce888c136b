//! What the files come from: the applications and the members as this node sees them, and what the operator has set. Pure.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::model::maintenance::Turn;
use crate::model::names::{Invalid, NodeName};
use crate::model::record::Handled;
use crate::routes::address::{SiteAddress, site_addresses};
use crate::routes::claims::Recorded;
use crate::routes::{haproxy, sites};
use crate::settings::{self, Version};

/// Shown while an application is away for long, unless the operator has a page of their own.
const PAGE: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Maintenance</title>\
    <body style=\"font-family: sans-serif; text-align: center; margin-top: 20vh\">\
    <h1>Back in a moment</h1><p>This service is being updated. Please try again shortly.</p></body></html>\n";
/// What clients are told to wait for an application in maintenance, in seconds.
pub const RETRY_AFTER: &str = "30";

/// In front of Caddy 2's file, unless the operator has their own: nothing leads UDP to Caddy, so HTTP/3 must not be offered.
const CADDY_HEAD: &str = "{\n    servers {\n        protocols h1 h2\n    }\n}\n";
/// The same, and who the client is says whoever is in front, which can only be a neighbour.
const CADDY_HEAD_TOLD: &str = "\
{
    servers {
        protocols h1 h2
        listener_wrappers {
            proxy_protocol {
                allow 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 fc00::/7 ::1/128
            }
            tls
        }
    }
}
";
/// A head has this word where Caddy takes that.
pub const TOLD: &str = "proxy_protocol";

/// In front of haproxy's file, unless the operator has their own. No maxconn: haproxy takes what its limit of open files allows, and would
/// not start with more.
const HAPROXY_HEAD: &str = "\
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

/// Many an application takes `_` and `-` in a header's name for the same. What begins like this could be taken for what the proxies say.
pub const UNDERSCORED: [&str; 4] = ["X_Forwarded", "X-Forwarded_", "X_Real", "X-Real_"];

/// Both files begin with it.
pub const NOTE: &str = "# Written by `handler routes`; changes made here are lost.\n";

/// One application as far as proxies are concerned.
#[derive(Debug, Clone)]
pub struct Routed {
    pub name: String,
    pub master: NodeName,
    /// It is on its way there, and its record names another one.
    pub moves: bool,
    /// As its record says, for a master that is no member.
    ip: String,
    /// What Caddy serves of it here: nothing on other nodes than its master.
    pub caddyfile: String,
    /// What its sites do, one after the other, where that was judged.
    pub sites: Vec<Handled>,
    /// Of its sites, wherever they are served.
    addresses: Vec<String>,
    pub haproxy: Map<String, Value>,
}

/// Why an application cannot be served as its record stands.
#[derive(Debug)]
pub enum Unservable {
    Name,
    Record(serde_json::Error),
    Master(Invalid),
    Haproxy(haproxy::Error),
    Sites(sites::Error),
}

impl fmt::Display for Unservable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Unservable::Name => write!(f, "not the name of an application"),
            Unservable::Record(source) => source.fmt(f),
            Unservable::Master(source) => write!(f, "master: {source}"),
            Unservable::Haproxy(source) => write!(f, "haproxy: {source}"),
            Unservable::Sites(source) => source.fmt(f),
        }
    }
}

impl Routed {
    /// Of a record. `me` is this node. While it moves it is served where it goes.
    pub fn of(name: &str, record: &[u8], me: &NodeName, caddy: Version, turn: Option<&Turn>) -> Result<Routed, Unservable> {
        let Recorded { master, ip, caddyfile, haproxy, sites, .. } = Recorded::parse(record).map_err(Unservable::Record)?;
        // It stands in comments only; Caddy would put a variable's value there, lines and all.
        if name.contains(|c: char| c.is_control() || c == '{') {
            return Err(Unservable::Name);
        }
        haproxy::recheck(&haproxy).map_err(Unservable::Haproxy)?;
        let master = NodeName::try_from(master).map_err(Unservable::Master)?;
        let goes = turn.and_then(|turn| turn.master(me, &master));
        let (moves, master) = (goes.is_some(), goes.unwrap_or(&master).clone());
        let addresses = site_addresses(&caddyfile).map(String::from).collect();
        let sites = sites.as_ref().and_then(|sites| sites.of(&caddyfile)).unwrap_or_default().to_vec();
        let caddyfile = match caddy {
            _ if master != *me => String::new(),
            Version::One => caddyfile,
            Version::Two => sites::upgraded(caddyfile).map_err(Unservable::Sites)?,
        };
        Ok(Routed { name: name.into(), master, moves, ip, caddyfile, sites, addresses, haproxy })
    }

    pub fn addresses(&self) -> impl Iterator<Item = SiteAddress<'_>> {
        self.addresses.iter().filter_map(|text| SiteAddress::parse(text).ok())
    }

    /// Whether Caddy's file has a part of it.
    pub fn in_caddyfile(&self) -> bool {
        !self.caddyfile.is_empty()
    }

    /// Whether haproxy's file has a part of it.
    pub fn in_haproxy(&self) -> bool {
        !self.addresses.is_empty() || !self.haproxy.is_empty()
    }
}

/// Where haproxy finds this node's Caddy.
#[derive(Debug, Clone, PartialEq)]
pub struct CaddyPlace {
    pub host: String,
    http: u16,
    https: u16,
}

impl CaddyPlace {
    /// `host` or `host:http-port:https-port`
    fn parse(text: &str) -> Option<CaddyPlace> {
        let parts: Vec<&str> = text.split(':').collect();
        let (host, http, https) = match parts.as_slice() {
            [host] => (host, 80, 443),
            [host, http, https] => (host, http.parse().ok()?, https.parse().ok()?),
            _ => return None,
        };
        (haproxy::is_name(host) && http > 0 && https > 0).then(|| CaddyPlace { host: host.to_string(), http, https })
    }

    /// A site's port is Caddy's own, but for the two that Caddy may have elsewhere.
    pub fn port(&self, port: u16) -> u16 {
        match port {
            80 => self.http,
            443 => self.https,
            other => other,
        }
    }
}

/// What the operator has set.
#[derive(Debug, Clone)]
pub struct Frame {
    pub page: String,
    pub caddy: CaddyPlace,
    pub caddy_version: Version,
    /// Whether Caddy is given its own configuration.
    pub composed: bool,
    /// What stands in front of the files.
    pub caddy_head: String,
    pub haproxy_head: String,
    /// In front of the cluster, and believed.
    pub trusted: Vec<String>,
    /// What the operator has of them, as Caddy's `load_files` has it; Caddy gets none itself for the names that they are of.
    pub certificates: Vec<Value>,
}

impl Frame {
    pub fn of(settings: &settings::Proxies, routes: &settings::Routes, proxy_protocol: bool) -> Result<Frame, settings::Error> {
        let caddy_version = routes.caddy;
        let place = settings.caddy.as_deref().unwrap_or("caddy");
        let caddy = CaddyPlace::parse(place).ok_or_else(|| settings::Error::Expected {
            name: "HANDLER_CADDY".into(),
            value: place.into(),
            expected: "host or host:http-port:https-port",
        })?;
        let caddy_head = match caddy_version {
            Version::One => "",
            Version::Two if proxy_protocol => CADDY_HEAD_TOLD,
            Version::Two => CADDY_HEAD,
        };
        let mut caddy_head = caddy_head.to_string();
        if caddy_version == Version::Two && !settings.trusted.is_empty() {
            let trusted =
                format!("    servers {{\n        trusted_proxies static {}\n        trusted_proxies_strict\n", settings.trusted.join(" "));
            caddy_head = caddy_head.replacen("    servers {\n", &trusted, 1);
        }
        let or = |text: &Option<String>, default: &str| text.clone().unwrap_or_else(|| default.into());
        Ok(Frame {
            page: or(&settings.page, PAGE),
            caddy,
            caddy_version,
            composed: routes.admin.is_some(),
            caddy_head: or(&settings.caddy_head, &caddy_head),
            haproxy_head: or(&settings.haproxy_head, HAPROXY_HEAD),
            trusted: settings.trusted.clone(),
            certificates: Vec::new(),
        })
    }
}

/// All but the applications that decides about the files.
#[derive(Debug, Clone)]
pub struct View {
    pub frame: Frame,
    pub me: NodeName,
    /// Node → address.
    pub members: BTreeMap<String, String>,
    /// Applications that show the maintenance page.
    pub maintenance: HashSet<String>,
    pub clients: Clients,
}

/// Who is told, by the PROXY protocol, who the client is.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    /// This node's Caddy has taken a file by which it listens to that.
    pub caddy: bool,
    /// This node's haproxy listens on the ports for it.
    pub here: bool,
    /// Nodes whose haproxys do.
    pub peers: HashSet<String>,
}

/// Where requests for an application go.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    Here,
    /// The address of another node.
    There(String),
}

/// There is no way.
#[derive(Debug, PartialEq)]
pub struct Lost {
    master: NodeName,
    address: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "its master {} is no member, and its record's address is {:?}", self.master, self.address)
    }
}

impl View {
    pub fn way(&self, app: &Routed) -> Result<Way, Lost> {
        if app.master == self.me {
            return Ok(Way::Here);
        }
        let address = self.members.get(&*app.master).unwrap_or(&app.ip);
        match address.parse() {
            Ok(IpAddr::V4(ip)) => Ok(Way::There(ip.to_string())),
            Ok(IpAddr::V6(ip)) => Ok(Way::There(format!("[{ip}]"))),
            Err(_) => Err(Lost { master: app.master.clone(), address: address.clone() }),
        }
    }

    /// Whether it is away for so long that its page is shown.
    pub fn in_maintenance(&self, app: &Routed) -> bool {
        self.maintenance.contains(&app.name)
    }
}

/// A text, and the end of its line if that is missing.
pub fn push_line(out: &mut String, text: &str) {
    out.push_str(text);
    if !text.is_empty() && !text.ends_with('\n') {
        out.push('\n');
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::routes::read::tests::set;

    /// Of node1, one of two, without heads.
    pub fn view() -> View {
        let members = [("node1", "10.0.0.1"), ("node2", "10.0.0.2")];
        let frame = Frame::of(&settings::Proxies::default(), &set(Version::Two), false).unwrap();
        View {
            frame: Frame { caddy_head: String::new(), haproxy_head: String::new(), ..frame },
            me: NodeName::try_from("node1").unwrap(),
            members: members.map(|(name, ip)| (name.into(), ip.into())).into(),
            maintenance: HashSet::new(),
            clients: Clients::default(),
        }
    }

    /// Whose proxies tell each other who the client is.
    pub fn told_view() -> View {
        let frame = Frame::of(&settings::Proxies::default(), &set(Version::Two), true).unwrap();
        View { frame, clients: Clients { caddy: true, here: true, peers: ["node2".into()].into() }, ..view() }
    }

    /// With what stands in front of the files.
    pub fn whole_view() -> View {
        View { frame: Frame::of(&settings::Proxies::default(), &set(Version::Two), false).unwrap(), ..view() }
    }

    fn tried(name: &str, record: Value) -> Result<Routed, Unservable> {
        Routed::of(name, record.to_string().as_bytes(), &NodeName::try_from("node1").unwrap(), Version::Two, None)
    }

    pub fn app(name: &str, record: Value) -> Routed {
        tried(name, record).unwrap()
    }

    pub fn ssh(name: &str, port: u16) -> Value {
        let bind = format!("*:{port}");
        json!({name: {"frontend": {"mode": "tcp", "bind": [bind], "options": ["option tcplog"]},
            "backends": [{"name": name, "port": "22", "peer_port": port, "ct": "git-ct", "server_option": "send-proxy"}]}})
    }

    /// Of everything one.
    pub fn apps() -> Vec<Routed> {
        let extra = json!({"http-in": {"backends": [{"name": "forge.example.com", "port": 8080, "peer_port": 80, "ct": "forge",
            "use_backend_option": "if { hdr(host) -i forge.example.com }"}]}});
        vec![
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
        ]
    }

    #[test]
    fn refused() {
        let of = |name: &str, record: Value| tried(name, record).unwrap_err().to_string();
        for name in ["a\nb", "{$HOME}"] {
            assert_eq!(of(name, json!({"master": "node1"})), "not the name of an application");
        }
        // but what a repository at the top of an ssh account gives is one
        assert!(app("git@git.example.com:top_main.372b1", json!({"master": "node1", "caddyfile": "http://a {\n}"})).in_caddyfile());
        assert!(of("a", json!({})).contains("missing field `master`"));
        assert!(of("a", json!({"master": "a\nb", "ip": "10.0.0.9"})).starts_with("master: \"a\\nb\": a node's name has"));
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
        assert_eq!(CaddyPlace::parse("caddy"), Some(CaddyPlace { host: "caddy".into(), http: 80, https: 443 }));
        assert_eq!(CaddyPlace::parse("127.0.0.1:8080:8443"), Some(CaddyPlace { host: "127.0.0.1".into(), http: 8080, https: 8443 }));
        for bad in ["", "a:80", "a:0:1", "a b"] {
            assert_eq!(CaddyPlace::parse(bad), None, "{bad}");
        }
        let settings = settings::Proxies { caddy: Some("a:80".into()), ..settings::Proxies::default() };
        assert_eq!(
            Frame::of(&settings, &set(Version::Two), false).unwrap_err().to_string(),
            "HANDLER_CADDY=\"a:80\": expected host or host:http-port:https-port"
        );
    }
}
