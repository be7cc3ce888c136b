//! The environment, read once and checked: the one place that names its variables.

use std::env;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::credential::Credential;

#[cfg(feature = "tls")]
pub use ureq::tls::TlsConfig as Tls;
/// Without the feature there is none.
#[cfg(not(feature = "tls"))]
#[derive(Clone, Debug)]
pub enum Tls {}

/// What is wrong with a variable.
#[derive(Debug, PartialEq)]
pub enum Error {
    NotUtf8 {
        name: String,
    },
    Expected {
        name: String,
        value: String,
        expected: &'static str,
    },
    /// A file that a variable names.
    File {
        name: &'static str,
        path: String,
        why: String,
    },
    NoTls,
    Alone,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::NotUtf8 { name } => write!(f, "{name}: not UTF-8"),
            Error::Expected { name, value, expected } => write!(f, "{name}={value:?}: expected {expected}"),
            Error::File { name, path, why } => write!(f, "{name}: {path}: {why}"),
            Error::NoTls => {
                write!(f, "CONSUL_HTTP_ADDR, CONSUL_HTTP_SSL: this handler was built without TLS; build it with `--features tls`")
            }
            Error::Alone => write!(f, "CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY: one needs the other"),
        }
    }
}

/// The words in which routes are written. Caddy 1 is for those who come from the older handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// In the environment of a git that may have to say who it is, for this program as its helper: site, user and password, a line each.
pub const CREDENTIAL: &str = "HANDLER_CREDENTIAL";

pub fn credential() -> Option<Credential> {
    Credential::from_env(&text(CREDENTIAL).ok()??)
}

/// How long each kind of outside work may take. Set by `HANDLER_TIMEOUT_<KIND>`, in seconds.
#[derive(Clone, Debug)]
pub struct Timeouts {
    pub git: Duration,
    pub pull: Duration,
    pub build: Duration,
    pub up: Duration,
    pub stop: Duration,
    pub script: Duration,
    /// From `up` until every container is running and healthy.
    pub health: Duration,
    /// One snapshot sent to another node.
    pub send: Duration,
    /// One state of an order, waited for by the other node; also how long a node in mid-order waits for Consul.
    pub handover: Duration,
    /// Consul without a leader, outside of an order.
    pub consul: Duration,
    /// An order that its owner does not take up.
    pub order: Duration,
    /// A proxy that does not take its file.
    pub proxy: Duration,
}

/// Where Consul's agent is, and how it is spoken to, as Consul's own command has it.
#[derive(Clone, Debug)]
pub struct Address {
    /// `http://127.0.0.1:8500`
    pub base: String,
    pub socket: Option<PathBuf>,
    pub token: Option<String>,
    pub tls: Option<Tls>,
}

/// What `handler routes` needs besides; see the README for each.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// `HANDLER_PROXIES_DIR`
    pub folder: Option<PathBuf>,
    /// `HANDLER_CADDY`: `host` or `host:http-port:https-port`
    pub caddy: Option<String>,
    /// `HANDLER_HOLD`: maintenance that is shorter is not shown.
    pub hold: Duration,
    /// `HANDLER_MAINTENANCE_PAGE`, `HANDLER_CADDY_HEAD`, `HANDLER_HAPROXY_HEAD`: the text of these files.
    pub page: Option<String>,
    pub caddy_head: Option<String>,
    /// `HANDLER_TRUSTED_PROXIES`: addresses and networks in front of the cluster that say who the client is.
    pub trusted: Vec<String>,
    /// `HANDLER_CERTIFICATES`: a folder of `NAME.crt` and `NAME.key`, as Caddy sees it, too.
    pub certificates: Option<PathBuf>,
    pub haproxy_head: Option<String>,
    /// `HANDLER_CADDY_CHECK` …: commands, as JSON lists, since nothing is ever split on spaces.
    pub caddy_check: Option<Vec<String>>,
    pub caddy_reload: Option<Vec<String>>,
    pub haproxy_check: Option<Vec<String>>,
    pub haproxy_reload: Option<Vec<String>>,
}

/// As compose has them: `2200-2239:2200-2239`, or without the second half; several with commas.
#[derive(Clone, Debug, PartialEq)]
pub struct Ports {
    pub text: String,
    ranges: Vec<RangeInclusive<u16>>,
}

impl Ports {
    pub fn parse(text: &str) -> Option<Ports> {
        let range = |part: &str| {
            let outside = part.trim().split(':').next()?;
            let (low, high) = outside.split_once('-').unwrap_or((outside, outside));
            Some(low.parse().ok()?..=high.parse().ok()?)
        };
        let ranges = text.split(',').map(range).collect::<Option<_>>()?;
        Some(Ports { text: text.into(), ranges })
    }

    pub fn has(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(&port))
    }
}

/// What an application's routes have to fit.
#[derive(Clone, Debug)]
pub struct Routes {
    /// `CADDY_VERSION`
    pub caddy: Version,
    /// `HANDLER_CADDY_ADMIN`: the admin socket of this node's Caddy, which says what a CADDYFILE means; without it nobody vouches for that.
    pub admin: Option<PathBuf>,
    /// `HANDLER_CADDY_DATA`: Caddy's storage, as this program sees it; without it each Caddy has certificates of its own, or an operator has them
    /// share one.
    pub storage: Option<PathBuf>,
    /// `HANDLER_TCP_PORTS`: those that haproxy's container publishes besides 80 and 443, if that is known.
    pub ports: Option<Ports>,
    /// `HANDLER_NETWORK`: in which the proxies are, if that is known.
    pub network: Option<String>,
    /// `HANDLER_UPSTREAMS`: hosts outside that sites may lead to, with or without a port.
    pub upstreams: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// `DEPLOY_DIR`: checkouts, the log, and `.handler` with the handler's own files.
    pub deploy_dir: PathBuf,
    /// `BTRFSDRIVER`: the volumes of this driver are data.
    pub driver: String,
    /// `BUTTERVOLUME_SOCKET`
    pub plugin_socket: Option<PathBuf>,
    /// `HANDLER_SNAPSHOTS`: the folder in which the plugin has its snapshots, as this program sees it.
    pub snapshots: PathBuf,
    /// `DOCKER_HOST`, a unix socket.
    pub engine_socket: PathBuf,
    pub agent: Address,
    pub routes: Routes,
    /// `HANDLER_PROXY_PROTOCOL`: this node's proxies tell each other, and those of other nodes, who the client is.
    pub proxy_protocol: bool,
    /// `HANDLER_SETTLE`: a container without HEALTHCHECK is healthy when it has run this long.
    pub settle: Duration,
    /// A watch of Consul's has started this: it says so by `CONSUL_INDEX`, and waits for the end.
    pub by_watch: bool,
    /// Whether `GIT_SSH_COMMAND` is the operator's own.
    pub own_ssh: bool,
    pub timeouts: Timeouts,
}

fn text(name: &str) -> Result<Option<String>, Error> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Error::NotUtf8 { name: name.into() }),
    }
}

fn seconds(name: &str, default: u64) -> Result<Duration, Error> {
    let Some(value) = text(name)? else { return Ok(Duration::from_secs(default)) };
    match value.parse::<f64>() {
        Ok(secs) if (0.0..1e9).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err(Error::Expected { name: name.into(), value, expected: "a number of seconds" }),
    }
}

fn command(name: &str) -> Result<Option<Vec<String>>, Error> {
    let Some(value) = text(name)? else { return Ok(None) };
    let expected = "a JSON list of the program and its arguments, such as [\"true\"]";
    serde_json::from_str(&value).map(Some).map_err(|_| Error::Expected { name: name.into(), value, expected })
}

fn words(name: &str) -> Result<Vec<String>, Error> {
    let text = text(name)?.unwrap_or_default();
    Ok(text.split([',', ' ']).filter(|word| !word.is_empty()).map(String::from).collect())
}

/// `203.0.113.0/24`, `2001:db8::1`
fn is_network(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= if address.is_ipv4() { 32 } else { 128 }))
}

fn networks(name: &str) -> Result<Vec<String>, Error> {
    let words = words(name)?;
    match words.iter().find(|word| !is_network(word)) {
        Some(word) => {
            let expected = "addresses or networks with commas, such as 203.0.113.0/24,2001:db8::/32";
            Err(Error::Expected { name: name.into(), value: word.clone(), expected })
        }
        None => Ok(words),
    }
}

fn file(name: &'static str) -> Result<Option<String>, Error> {
    let Some(path) = text(name)? else { return Ok(None) };
    std::fs::read_to_string(&path).map(Some).map_err(|error| Error::File { name, path, why: error.to_string() })
}

impl Proxies {
    pub fn from_env() -> Result<Proxies, Error> {
        Ok(Proxies {
            folder: text("HANDLER_PROXIES_DIR")?.map(PathBuf::from),
            caddy: text("HANDLER_CADDY")?,
            hold: seconds("HANDLER_HOLD", 30)?,
            page: file("HANDLER_MAINTENANCE_PAGE")?,
            caddy_head: file("HANDLER_CADDY_HEAD")?,
            haproxy_head: file("HANDLER_HAPROXY_HEAD")?,
            trusted: networks("HANDLER_TRUSTED_PROXIES")?,
            certificates: text("HANDLER_CERTIFICATES")?.map(PathBuf::from),
            caddy_check: command("HANDLER_CADDY_CHECK")?,
            caddy_reload: command("HANDLER_CADDY_RELOAD")?,
            haproxy_check: command("HANDLER_HAPROXY_CHECK")?,
            haproxy_reload: command("HANDLER_HAPROXY_RELOAD")?,
        })
    }
}

impl Address {
    fn from_env() -> Result<Address, Error> {
        const ADDRESS: &str = "CONSUL_HTTP_ADDR";
        let address = text(ADDRESS)?.unwrap_or_else(|| "127.0.0.1:8500".into());
        let token = match file("CONSUL_HTTP_TOKEN_FILE")? {
            Some(token) => Some(token.trim().to_string()),
            None => text("CONSUL_HTTP_TOKEN")?,
        };
        let ssl = text("CONSUL_HTTP_SSL")?.is_some_and(|value| ["1", "t", "true"].contains(&&*value.to_lowercase()));
        let (base, socket, tls) = match address.split_once("://") {
            Some(("unix", path)) => ("http://agent".into(), Some(PathBuf::from(path)), false),
            Some(("https", host)) => (format!("https://{host}"), None, true),
            Some(("http" | "tcp", host)) => (format!("{}://{host}", if ssl { "https" } else { "http" }), None, ssl),
            Some(_) => {
                return Err(Error::Expected {
                    name: ADDRESS.into(),
                    value: address,
                    expected: "host:port, or one of http, https and unix",
                });
            }
            None => (format!("{}://{address}", if ssl { "https" } else { "http" }), None, ssl),
        };
        let tls = if tls { Some(tls_config()?) } else { None };
        Ok(Address { base: base.trim_end_matches('/').to_string(), socket, token, tls })
    }
}

impl Settings {
    pub fn from_env() -> Result<Settings, Error> {
        let expected = |name: &str, value: &str, expected| Error::Expected { name: name.into(), value: value.into(), expected };
        let caddy = match text("CADDY_VERSION")?.as_deref() {
            Some("1") => Version::One,
            None | Some("2") => Version::Two,
            Some(other) => return Err(expected("CADDY_VERSION", other, "1 or 2")),
        };
        let deploy_dir = PathBuf::from(text("DEPLOY_DIR")?.unwrap_or_else(|| "/deploy".into()));
        if !deploy_dir.is_absolute() {
            return Err(expected("DEPLOY_DIR", &deploy_dir.to_string_lossy(), "an absolute path"));
        }
        let engine = text("DOCKER_HOST")?.unwrap_or_else(|| "unix:///var/run/docker.sock".into());
        let Some(engine_socket) = engine.strip_prefix("unix://").map(PathBuf::from) else {
            return Err(expected("DOCKER_HOST", &engine, "unix:///path of the engine's socket on this node"));
        };
        let ports = match text("HANDLER_TCP_PORTS")? {
            None => None,
            Some(ports) => {
                let wrong =
                    || expected("HANDLER_TCP_PORTS", &ports, "ports of this node, such as 2200-2239:2200-2239, or several with commas");
                Some(Ports::parse(&ports).ok_or_else(wrong)?)
            }
        };
        let timeout = |kind: &str, default| seconds(&format!("HANDLER_TIMEOUT_{kind}"), default);
        Ok(Settings {
            deploy_dir,
            driver: text("BTRFSDRIVER")?.unwrap_or_else(|| "anybox/buttervolume:latest".into()),
            plugin_socket: text("BUTTERVOLUME_SOCKET")?.map(PathBuf::from),
            snapshots: PathBuf::from(text("HANDLER_SNAPSHOTS")?.unwrap_or_else(|| "/var/lib/buttervolume/snapshots".into())),
            engine_socket,
            agent: Address::from_env()?,
            routes: Routes {
                caddy,
                admin: text("HANDLER_CADDY_ADMIN")?.map(PathBuf::from).filter(|_| caddy == Version::Two),
                storage: text("HANDLER_CADDY_DATA")?.map(PathBuf::from),
                ports,
                network: text("HANDLER_NETWORK")?,
                upstreams: words("HANDLER_UPSTREAMS")?,
            },
            proxy_protocol: match text("HANDLER_PROXY_PROTOCOL")?.as_deref() {
                None | Some("0") => false,
                Some("1") => true,
                Some(other) => return Err(expected("HANDLER_PROXY_PROTOCOL", other, "1 or 0")),
            },
            settle: seconds("HANDLER_SETTLE", 1)?,
            by_watch: env::var_os("CONSUL_INDEX").is_some(),
            own_ssh: env::var_os("GIT_SSH_COMMAND").is_some(),
            timeouts: Timeouts {
                git: timeout("GIT", 600)?,
                pull: timeout("PULL", 1800)?,
                build: timeout("BUILD", 3600)?,
                up: timeout("UP", 300)?,
                stop: timeout("STOP", 120)?,
                script: timeout("SCRIPT", 3600)?,
                health: timeout("HEALTH", 120)?,
                send: timeout("SEND", 6 * 3600)?,
                handover: timeout("HANDOVER", 6 * 3600)?,
                consul: timeout("CONSUL", 30)?,
                order: timeout("ORDER", 600)?,
                proxy: timeout("PROXY", 60)?,
            },
        })
    }
}

#[cfg(not(feature = "tls"))]
fn tls_config() -> Result<Tls, Error> {
    Err(Error::NoTls)
}

#[cfg(feature = "tls")]
fn tls_config() -> Result<Tls, Error> {
    use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
    let pem_of = |name: &'static str| Ok(file(name)?.map(String::into_bytes));
    let wrong = |name: &'static str, why: &dyn fmt::Display| Error::File {
        name,
        path: text(name).ok().flatten().unwrap_or_default(),
        why: why.to_string(),
    };
    let certificates = |name: &'static str, pem: &[u8]| -> Result<Vec<Certificate<'static>>, Error> {
        let items = parse_pem(pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(wrong(name, &error))),
        });
        items.collect()
    };
    let mut config = TlsConfig::builder();
    if let Some(pem) = pem_of("CONSUL_CACERT")? {
        config = config.root_certs(RootCerts::new_with_certs(&certificates("CONSUL_CACERT", &pem)?));
    }
    match (pem_of("CONSUL_CLIENT_CERT")?, pem_of("CONSUL_CLIENT_KEY")?) {
        (Some(cert), Some(key)) => {
            let key = PrivateKey::from_pem(&key).map_err(|error| wrong("CONSUL_CLIENT_KEY", &error))?;
            config = config.client_cert(Some(ClientCert::new_with_certs(&certificates("CONSUL_CLIENT_CERT", &cert)?, key)));
        }
        (None, None) => {}
        _ => return Err(Error::Alone),
    }
    Ok(config.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_proxies() {
        for good in ["203.0.113.0/24", "10.0.0.1", "2001:db8::/32", "::1"] {
            assert!(is_network(good), "{good}");
        }
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "cdn.example.com", "10.0.0.1/", "::/129", "10.0.0.1/24/1", "private_ranges"] {
            assert!(!is_network(bad), "{bad}");
        }
    }

    #[test]
    fn ports() {
        let ports = Ports::parse("2200-2239:2200-2239, 8443").unwrap();
        assert!(ports.has(2200) && ports.has(2239) && ports.has(8443) && !ports.has(2240));
        assert!(Ports::parse("2222").unwrap().has(2222));
        for bad in ["", "a", "1-", "1,", "127.0.0.1:80:80"] {
            assert_eq!(Ports::parse(bad), None, "{bad}");
        }
    }
}
