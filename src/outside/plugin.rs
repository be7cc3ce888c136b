//! The volume plugin, over its unix socket: snapshots of btrfs volumes, sent, restored and scheduled.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, info, warn};
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

use crate::outside::http;
use crate::settings::Settings;

/// For the calls that do not move data.
const QUICK: Duration = Duration::from_secs(60);
const MAX_ANSWER: u64 = 64 << 20;
const PLUGINS: &str = "/run/docker/plugins";

/// Every 60 minutes a snapshot, on a master replicated to its slave if there is one; old ones are purged once a day.
const SNAPSHOT_MINUTES: &str = "60";
const PURGE_MINUTES: &str = "1440";
pub const PURGE: &str = "purge:1h:1d:1w:4w:1y";

pub struct Plugin {
    agent: Agent,
    send_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Scheduled {
    pub name: String,
    pub action: String,
}

/// The actions, with their minutes, that a volume of a master has.
pub fn master_schedule(slave_address: Option<&str>) -> Vec<(String, &'static str)> {
    let copy = slave_address.map_or("snapshot".into(), |address| format!("replicate:{address}"));
    vec![(copy, SNAPSHOT_MINUTES), (PURGE.into(), PURGE_MINUTES)]
}

pub fn slave_schedule() -> Vec<(String, &'static str)> {
    vec![(PURGE.into(), PURGE_MINUTES)]
}

impl Plugin {
    /// The plugin of this node; an error says where it was looked for.
    pub fn find(settings: &Settings) -> Result<Plugin, String> {
        let socket = match &settings.plugin_socket {
            Some(socket) if socket.exists() => Some(socket.clone()),
            Some(_) => None,
            None => find_socket(Path::new(PLUGINS)),
        };
        let socket = socket.ok_or_else(|| {
            let place = settings.plugin_socket.as_ref().map_or(format!("btrfs.sock under {PLUGINS}"), |path| path.display().to_string());
            format!("the volume plugin is not running on this node: no socket {place}")
        })?;
        Ok(Plugin { agent: http::agent(QUICK, None, Some(socket)), send_timeout: settings.timeouts.send })
    }

    fn call(&self, method: &str, body: Option<Value>, timeout: Duration) -> Result<Value, String> {
        let about = || format!("volume plugin: {method} {}", body.as_ref().map(Value::to_string).unwrap_or_default());
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", about().trim_end());
        let url = format!("http://plugin/VolumeDriver.{method}");
        let sent = match &body {
            None => self.agent.get(url).config().timeout_global(Some(timeout)).build().call(),
            Some(body) => self.agent.post(url).config().timeout_global(Some(timeout)).build().send(body.to_string()),
        };
        let mut response = sent.map_err(|error| failed(&error))?;
        let status = response.status();
        let bytes = http::body(&mut response, MAX_ANSWER).map_err(|error| failed(&error))?;
        let answer: Value = serde_json::from_slice(&bytes)
            .map_err(|_| failed(&format!("status {status}: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]))))?;
        match answer["Err"].as_str().unwrap_or_default().trim_end() {
            "" => Ok(answer),
            error => Err(failed(&error)),
        }
    }

    fn act(&self, method: &str, body: Value, timeout: Duration) -> Result<Value, String> {
        info!("volume plugin: {method} {body}");
        self.call(method, Some(body), timeout)
    }

    /// The new snapshot's name: `volume@2026-11-22T17:59:22.841943`.
    pub fn snapshot(&self, volume: &str) -> Result<String, String> {
        let answer = self.act("Snapshot", json!({ "Name": volume }), QUICK)?;
        let name = answer["Snapshot"].as_str().ok_or_else(|| format!("volume plugin: Snapshot {volume}: no name in {answer}"))?;
        info!("snapshot {name}");
        Ok(name.into())
    }

    /// The volume's snapshots on this node, oldest first.
    pub fn snapshots(&self, volume: &str) -> Result<Vec<String>, String> {
        let mut names = self.all_snapshots(volume)?;
        names.retain(|name| name.split('@').count() == 2);
        names.sort_unstable();
        Ok(names)
    }

    /// With the marks of what was sent last, `snapshot@address`.
    fn all_snapshots(&self, volume: &str) -> Result<Vec<String>, String> {
        let answer = self.call(&format!("Snapshot.List/{volume}"), None, QUICK)?;
        crate::model::json::from(answer["Snapshots"].clone()).map_err(|error| format!("volume plugin: Snapshot.List/{volume}: {error}"))
    }

    /// Sends a snapshot of the volume, blocks until the node at `address` has it, and answers the name of what was sent: `snapshot`,
    /// or a newer one of the same volume.
    ///
    /// The plugin sends the difference from what it sent to `address` last, and goes on doing so when that is gone there. Nor may a
    /// snapshot be sent twice: the second time destroys the good copy there. So after a failure it is made to forget what it sent, and
    /// sends a new snapshot as a whole.
    pub fn send(&self, volume: &str, snapshot: String, address: &str) -> Result<String, String> {
        let send = |snapshot: &str| self.act("Snapshot.Send", json!({ "Name": snapshot, "Host": address }), self.send_timeout);
        match send(&snapshot) {
            Ok(_) => Ok(snapshot),
            Err(error) => {
                warn!("{error}; sending a new snapshot as a whole");
                for mark in self.all_snapshots(volume)?.iter().filter(|name| name.ends_with(&format!("@{address}"))) {
                    self.act("Snapshot.Remove", json!({ "Name": mark }), QUICK)?;
                }
                let snapshot = self.snapshot(volume)?;
                send(&snapshot).map(|_| snapshot)
            }
        }
    }

    /// Puts the snapshot in the place of the volume, whose content is kept as a snapshot.
    pub fn restore(&self, snapshot: &str, volume: &str) -> Result<(), String> {
        if !snapshot.contains('@') {
            // Given a volume's name the plugin takes the latest by name and answers no error when there is none.
            return Err(format!("{snapshot:?} is not the name of a snapshot"));
        }
        let answer = self.act("Snapshot.Restore", json!({ "Name": snapshot, "Target": volume }), self.send_timeout)?;
        debug!("what {volume} held before is kept as {}", answer["VolumeBackup"]);
        Ok(())
    }

    pub fn exists(&self, volume: &str) -> Result<bool, String> {
        match self.call("Get", Some(json!({ "Name": volume })), QUICK) {
            Ok(_) => Ok(true),
            Err(error) if error.to_lowercase().contains("no such volume") => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn remove(&self, volume: &str) -> Result<(), String> {
        self.act("Remove", json!({ "Name": volume }), QUICK).map(drop)
    }

    pub fn schedules(&self) -> Result<Vec<Scheduled>, String> {
        let answer = self.call("Schedule.List", None, QUICK)?;
        crate::model::json::from(answer["Schedule"].clone()).map_err(|error| format!("volume plugin: Schedule.List: {error}"))
    }

    /// Makes `wanted` what is scheduled for the volume; looks first, so that it says and does nothing when nothing differs.
    /// What an operator has scheduled besides stays until nothing at all is wanted.
    pub fn schedule(&self, volume: &str, wanted: &[(String, &str)], present: &[Scheduled]) -> Result<(), String> {
        let has = |action: &str| present.iter().any(|s| s.name == volume && s.action == action);
        let ours = |action: &str| wanted.is_empty() || action == "snapshot" || action.starts_with("replicate:");
        let unwanted = |s: &&Scheduled| s.name == volume && ours(&s.action) && !wanted.iter().any(|(action, _)| *action == s.action);
        for old in present.iter().filter(unwanted) {
            self.act("Schedule", json!({ "Name": volume, "Action": old.action, "Timer": "0" }), QUICK)?;
        }
        for (action, minutes) in wanted.iter().filter(|(action, _)| !has(action)) {
            self.act("Schedule", json!({ "Name": volume, "Action": action, "Timer": minutes }), QUICK)?;
        }
        Ok(())
    }
}

/// `btrfs.sock` in this folder or one folder down.
fn find_socket(folder: &Path) -> Option<PathBuf> {
    let direct = folder.join("btrfs.sock");
    if direct.exists() {
        return Some(direct);
    }
    let mut below: Vec<PathBuf> =
        fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path().join("btrfs.sock"))).filter(|path| path.exists()).collect();
    below.sort();
    below.into_iter().next()
}
