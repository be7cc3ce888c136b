//! The environment, read once and checked.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::routes::caddyfile::Version;

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

#[derive(Clone, Debug)]
pub struct Settings {
    /// `DEPLOY_DIR`: checkouts, the log, and `.handler` with the handler's own files.
    pub deploy_dir: PathBuf,
    /// `BTRFSDRIVER`: the volumes of this driver are data.
    pub driver: String,
    /// `BUTTERVOLUME_SOCKET`
    pub plugin_socket: Option<PathBuf>,
    /// `CADDY_VERSION`: the words in which routes are written.
    pub caddy: Version,
    /// `HANDLER_SETTLE`: a container without HEALTHCHECK is healthy when it has run this long.
    pub settle: Duration,
    pub timeouts: Timeouts,
}

pub fn text(name: &str) -> Result<Option<String>, String> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{name}: not UTF-8")),
    }
}

pub fn seconds(name: &str, default: u64) -> Result<Duration, String> {
    let Some(value) = text(name)? else { return Ok(Duration::from_secs(default)) };
    match value.parse::<f64>() {
        Ok(secs) if (0.0..1e9).contains(&secs) => Ok(Duration::from_secs_f64(secs)),
        _ => Err(format!("{name}={value:?}: expected a number of seconds")),
    }
}

impl Settings {
    pub fn from_env() -> Result<Settings, String> {
        let caddy = match text("CADDY_VERSION")?.as_deref() {
            Some("1") => Version::One,
            None | Some("2") => Version::Two,
            Some(other) => return Err(format!("CADDY_VERSION={other:?}: expected 1 or 2")),
        };
        let deploy_dir = PathBuf::from(text("DEPLOY_DIR")?.unwrap_or_else(|| "/deploy".into()));
        if !deploy_dir.is_absolute() {
            return Err(format!("DEPLOY_DIR={deploy_dir:?}: expected an absolute path"));
        }
        let timeout = |kind: &str, default| seconds(&format!("HANDLER_TIMEOUT_{kind}"), default);
        Ok(Settings {
            deploy_dir,
            driver: text("BTRFSDRIVER")?.unwrap_or_else(|| "anybox/buttervolume:latest".into()),
            plugin_socket: text("BUTTERVOLUME_SOCKET")?.map(PathBuf::from),
            caddy,
            settle: seconds("HANDLER_SETTLE", 1)?,
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
