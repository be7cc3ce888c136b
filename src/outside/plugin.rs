//! The volume plugin, over its unix socket: snapshots of btrfs volumes, sent, restored and scheduled.

use std::fmt;
use std::time::Duration;

use log::{info, warn};
use serde::Deserialize;
use serde_json::{Value, json};

use super::doors::{Request, Service, Unanswered, World};
use crate::model::names::{Host, Invalid, Snapshot, Volume};

#[derive(Debug)]
pub enum Error {
    /// It does not run on this node, or did not answer: what was asked may have been done.
    Unanswered {
        asked: String,
        why: Unanswered,
    },
    /// Its answer is an error.
    Refused {
        asked: String,
        says: String,
    },
    Unexpected {
        asked: String,
        status: u16,
        body: String,
    },
    Name {
        asked: String,
        source: Invalid,
    },
}

impl Error {
    /// It has answered, and is not at it any more.
    pub fn is_answer(&self) -> bool {
        !matches!(self, Error::Unanswered { .. })
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Unanswered { why: why @ Unanswered::NoSocket { .. }, .. } => {
                write!(f, "the volume plugin is not running on this node: {why}")
            }
            Error::Unanswered { asked, why: Unanswered::Failed { why, .. } } => write!(f, "volume plugin: {asked}: {why}"),
            Error::Refused { asked, says } => write!(f, "volume plugin: {asked}: {says}"),
            Error::Unexpected { asked, status, body } => write!(f, "volume plugin: {asked}: status {status}: {body}"),
            Error::Name { asked, source } => write!(f, "volume plugin: {asked}: {source}"),
        }
    }
}

/// The plugin of this node.
pub struct Plugin {
    world: World,
    /// For what moves data.
    patience: Duration,
    /// For what does not.
    quick: Duration,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Scheduled {
    pub name: String,
    pub action: String,
}

impl Plugin {
    /// `patience`: how long one snapshot may take to be sent.
    /// `quick`: any other call.
    pub fn new(world: &World, patience: Duration, quick: Duration) -> Plugin {
        Plugin { world: world.clone(), patience, quick }
    }

    fn call(&self, method: &str, body: Option<Value>, timeout: Duration) -> Result<Value, Error> {
        let text = body.as_ref().map(Value::to_string).unwrap_or_default();
        let asked = || format!("{method} {text}").trim_end().to_string();
        let path = format!("/VolumeDriver.{method}");
        let method = if body.is_some() { "POST" } else { "GET" };
        let request = Request { method, path: &path, body: text.as_bytes(), timeout };
        let sent = self.world.net.send(Service::Plugin, request).map_err(|why| Error::Unanswered { asked: asked(), why })?;
        said(sent.status, &sent.body, asked)
    }

    fn act(&self, method: &str, body: Value, timeout: Duration) -> Result<Value, Error> {
        info!("volume plugin: {method} {body}");
        self.call(method, Some(body), timeout)
    }

    /// Takes one.
    pub fn snapshot(&self, volume: &Volume) -> Result<Snapshot, Error> {
        let answer = self.act("Snapshot", json!({ "Name": volume }), self.quick)?;
        let name = answer["Snapshot"].as_str().unwrap_or_default();
        let snapshot = Snapshot::try_from(name).map_err(|source| Error::Name { asked: format!("Snapshot {volume}"), source })?;
        info!("snapshot {snapshot}");
        Ok(snapshot)
    }

    /// The volume's snapshots on this node, oldest first.
    pub fn snapshots(&self, volume: &Volume) -> Result<Vec<Snapshot>, Error> {
        Ok(parsed(self.names(&format!("/{volume}"))?))
    }

    /// Those of all volumes.
    pub fn all(&self) -> Result<Vec<Snapshot>, Error> {
        Ok(parsed(self.names("")?))
    }

    /// With the marks of what was sent last, `snapshot@address`. `of`: nothing, or `/volume`.
    fn names(&self, of: &str) -> Result<Vec<String>, Error> {
        let method = format!("Snapshot.List{of}");
        let answer = self.call(&method, None, self.quick)?;
        list(&method, &answer["Snapshots"])
    }

    /// The marks of what was sent to that node: the parent of the next difference is the latest of them, whatever became of it there.
    pub fn marks(&self, volume: &Volume, address: &Host) -> Result<Vec<String>, Error> {
        let mut marks = self.all_marks(volume)?;
        marks.retain(|name| name.ends_with(&format!("@{address}")));
        Ok(marks)
    }

    /// For whatever node.
    pub fn all_marks(&self, volume: &Volume) -> Result<Vec<String>, Error> {
        let mut marks = self.names(&format!("/{volume}"))?;
        marks.retain(|name| name.split('@').count() == 3);
        Ok(marks)
    }

    /// A snapshot, or a mark.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        self.act("Snapshot.Remove", json!({ "Name": name }), self.quick).map(drop)
    }

    /// Sends a snapshot, once, and blocks until the node at `address` has it. The second time would destroy the good copy there.
    pub fn send_once(&self, snapshot: &Snapshot, address: &Host) -> Result<(), Error> {
        self.act("Snapshot.Send", json!({ "Name": snapshot, "Host": address }), self.patience).map(drop)
    }

    /// Sends a snapshot of the volume, blocks until the node at `address` has it, and answers the name of what was sent: `snapshot`,
    /// or a newer one of the same volume.
    ///
    /// The plugin sends the difference from what it sent to `address` last, and goes on doing so when that is gone there. So after a failure
    /// it is made to forget what it sent, and sends a new snapshot as a whole.
    pub fn send(&self, volume: &Volume, snapshot: Snapshot, address: &Host) -> Result<Snapshot, Error> {
        match self.send_once(&snapshot, address) {
            Ok(()) => Ok(snapshot),
            Err(error) => {
                warn!("{error}; sending a new snapshot as a whole");
                self.marks(volume, address)?.iter().try_for_each(|mark| self.remove(mark))?;
                match self.snapshot(volume)? {
                    // Nobody has written to the volume: of a newer plugin it is the same, which may be there, and sent again would go there.
                    same if same == snapshot => Err(error),
                    another => self.send_once(&another, address).map(|()| another),
                }
            }
        }
    }

    /// Puts the snapshot in the place of the volume; answers as what the content is kept that it replaces.
    pub fn restore(&self, snapshot: &Snapshot, volume: &Volume) -> Result<Option<String>, Error> {
        let answer = self.act("Snapshot.Restore", json!({ "Name": snapshot, "Target": volume }), self.patience)?;
        Ok(answer["VolumeBackup"].as_str().filter(|name| !name.is_empty()).map(String::from))
    }

    pub fn exists(&self, volume: &Volume) -> Result<bool, Error> {
        match self.call("Get", Some(json!({ "Name": volume })), self.quick) {
            Ok(_) => Ok(true),
            Err(Error::Refused { says, .. }) if is_unknown_volume(&says) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn schedules(&self) -> Result<Vec<Scheduled>, Error> {
        let answer = self.call("Schedule.List", None, self.quick)?;
        list("Schedule.List", &answer["Schedule"])
    }

    /// `minutes`: "0" ends it; repeating is fine.
    pub fn schedule(&self, volume: &str, action: &str, minutes: &str) -> Result<(), Error> {
        self.act("Schedule", json!({ "Name": volume, "Action": action, "Timer": minutes }), self.quick).map(drop)
    }
}

/// What an answer says.
fn said(status: u16, body: &[u8], asked: impl Fn() -> String) -> Result<Value, Error> {
    let quoted = || String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Err(Error::Unexpected { asked: asked(), status, body: quoted() });
    };
    match answer["Err"].as_str().unwrap_or_default().trim_end() {
        "" if answer.is_object() => Ok(answer),
        "" => Err(Error::Unexpected { asked: asked(), status, body: quoted() }),
        says => Err(Error::Refused { asked: asked(), says: says.into() }),
    }
}

/// How the plugin says that it has no such volume. It says so for whatever goes wrong in looking, too.
fn is_unknown_volume(says: &str) -> bool {
    says.to_lowercase().contains("no such volume")
}

/// Without the marks.
fn parsed(names: Vec<String>) -> Vec<Snapshot> {
    let mut snapshots: Vec<Snapshot> = names.into_iter().filter_map(|name| Snapshot::try_from(name).ok()).collect();
    snapshots.sort_unstable();
    snapshots
}

fn list<T: serde::de::DeserializeOwned>(method: &str, value: &Value) -> Result<Vec<T>, Error> {
    let unexpected = || Error::Unexpected { asked: method.into(), status: 200, body: value.to_string() };
    crate::model::json::from(value.clone()).map_err(|_| unexpected())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As buttervolume 3.13 has said it.
    #[test]
    fn answers_are_read() {
        let read = |text: &str| said(200, text.as_bytes(), || "Get".into());
        assert_eq!(read(r#"{"Err": "", "Snapshot": "v@2026-11-22T17:59:22.841943"}"#).unwrap()["Snapshot"], "v@2026-11-22T17:59:22.841943");
        let error = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"Err": "/var/lib/buttervolume/volumes/v: no such volume\n"}"#),
            "volume plugin: Get: /var/lib/buttervolume/volumes/v: no such volume"
        );
        assert_eq!(error("<html>"), "volume plugin: Get: status 200: <html>");
        assert_eq!(error("[]"), "volume plugin: Get: status 200: []");
        assert!(is_unknown_volume("/var/lib/buttervolume/volumes/v: No such volume"));
        assert!(!is_unknown_volume("ERROR: cannot snapshot"));
    }
}
