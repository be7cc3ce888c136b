//! What an operator asks for, checked once, here; and the order, its form in Consul.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::credential::Credential;
use super::json;
use super::keys;
use super::names::{App, AppName, Branch, Invalid, NodeName, OrderId, RepoUrl, Snapshot, Volume};
use super::text::redacted;
use super::time::Time;

/// What an order of this version may need of whoever takes part in it. An order that needs more than a node understands is failed, with the
/// name of that node, by whoever finds it.
pub const UNDERSTANDS: u32 = 4;

/// Needed by an order whose `"slave": null` is meant, and by one whose repository asks for what Consul keeps as its credential. Without it a null
/// means that nothing was said: older handlers write it so.
pub const NULL_AND_CREDENTIAL: u32 = 2;

/// Needed by a takeover that names the snapshots which it is to start from.
pub const REPLICA: u32 = 3;

/// Needed by a deploy of an application for which an operator keeps variables: an older node would deploy it without.
pub const VARIABLES: u32 = 4;

/// Members that this version does not know: kept in what is stored, refused in what people write.
pub type Unknown = Map<String, Value>;

/// What a deploy says of its slave.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Option<NodeName>", into = "Option<NodeName>")]
pub enum Slave {
    /// Nothing: the application keeps the one that it has.
    #[default]
    Kept,
    /// `null`: it is to have none.
    Ended,
    Named(NodeName),
}

impl From<Option<NodeName>> for Slave {
    fn from(node: Option<NodeName>) -> Slave {
        node.map_or(Slave::Ended, Slave::Named)
    }
}

impl From<Slave> for Option<NodeName> {
    fn from(slave: Slave) -> Option<NodeName> {
        slave.named().cloned()
    }
}

impl Slave {
    pub fn named(&self) -> Option<&NodeName> {
        match self {
            Slave::Named(node) => Some(node),
            Slave::Kept | Slave::Ended => None,
        }
    }

    fn is_kept(&self) -> bool {
        *self == Slave::Kept
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    pub repo: RepoUrl,
    pub branch: Branch,
    #[serde(alias = "target")]
    pub master: NodeName,
    #[serde(default, skip_serializing_if = "Slave::is_kept")]
    pub slave: Slave,
    #[serde(default)]
    pub update: bool,
    /// Take over from a dead master even where none of its data has been replicated.
    #[serde(default)]
    pub empty: bool,
    /// Take over from a dead master with exactly these snapshots, one of each data volume, whether anybody has confirmed them or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replica: Vec<Snapshot>,
    /// The repository is at another host than the deployed one of the same name, and that is meant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repo_moved: bool,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Destroy {
    pub repo: RepoUrl,
    pub branch: Branch,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Migrate {
    pub repo: RepoUrl,
    pub branch: Branch,
    pub target: MigrateTarget,
    #[serde(default = "yes")]
    pub update: bool,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrateTarget {
    #[serde(default)]
    pub repo: Option<RepoUrl>,
    #[serde(default)]
    pub branch: Option<Branch>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

fn yes() -> bool {
    true
}

/// A checked request: an event's name and payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    Deploy(Deploy),
    Destroy(Destroy),
    Migrate(Migrate),
}

pub const EVENTS: [&str; 3] = ["deploy", "destroy", "migrate"];

/// Why a request is refused.
#[derive(Debug)]
pub enum Refused {
    UnknownEvent {
        event: String,
    },
    NotJson(serde_json::Error),
    NotAnObject {
        found: String,
    },
    /// serde names no member when a value is wrong.
    Member {
        member: Option<String>,
        source: serde_json::Error,
    },
    UnknownMember {
        member: String,
        known: &'static [&'static str],
    },
    SlaveIsMaster {
        node: NodeName,
    },
    TwoOfOneVolume {
        volume: Volume,
    },
    Repo(Invalid),
    NoTarget,
    TargetIsSource,
    LongName {
        name: AppName,
    },
    NoPayload,
    LongPayload {
        most: usize,
    },
    NotBase64(base64::DecodeError),
    NotUtf8(std::str::Utf8Error),
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    /// What is quoted may be a URL, and not only where one is expected.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&redacted(&Plain(self).to_string()))
    }
}

struct Plain<'a>(&'a Refused);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Refused::UnknownEvent { event } => write!(f, "unknown event {event:?}: expected one of {}", EVENTS.join(", ")),
            Refused::NotJson(source) => write!(f, "payload: not JSON: {source}"),
            Refused::NotAnObject { found } => write!(f, "payload: expected a JSON object, found {found}"),
            Refused::Member { member: Some(member), source } => write!(f, "payload: {member}: {source}"),
            Refused::Member { member: None, source } => write!(f, "payload: {source}"),
            Refused::UnknownMember { member, known } => {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                write!(f, "payload: unknown field `{member}`, expected one of {}", known.join(", "))
            }
            Refused::SlaveIsMaster { node } => write!(f, "slave: {:?} is the master too; leave it out or name another node", &**node),
            Refused::TwoOfOneVolume { volume } => {
                write!(f, "replica: names two snapshots of {:?}; one of each volume is restored", &**volume)
            }
            Refused::Repo(source) => write!(f, "repo: {source}"),
            Refused::NoTarget => write!(f, "target: has neither repo nor branch; one of the two is needed"),
            Refused::TargetIsSource => write!(f, "target: is the source itself"),
            Refused::LongName { name } => write!(f, "repo, branch: the application's name {name} is longer than 200 bytes"),
            Refused::NoPayload => write!(f, "payload: empty; expected a JSON object"),
            Refused::LongPayload { most } => write!(f, "payload: longer than {most} bytes"),
            Refused::NotBase64(source) => write!(f, "payload: not base64: {source}"),
            Refused::NotUtf8(source) => write!(f, "payload: not UTF-8: {source}"),
        }
    }
}

impl Request {
    /// From an event's name and its decoded payload. The error names the member, the value and the rule.
    pub fn parse(event: &str, payload: &str) -> Result<Request, Refused> {
        let request = match event {
            "deploy" => Request::Deploy(members(payload)?),
            "destroy" => Request::Destroy(members(payload)?),
            "migrate" => Request::Migrate(members(payload)?),
            _ => return Err(Refused::UnknownEvent { event: event.into() }),
        };
        if let Some((member, known)) = request.unknown() {
            return Err(Refused::UnknownMember { member: member.clone(), known });
        }
        match &request {
            Request::Deploy(deploy) if deploy.slave.named() == Some(&deploy.master) => {
                return Err(Refused::SlaveIsMaster { node: deploy.master.clone() });
            }
            Request::Deploy(Deploy { replica, .. }) => {
                let volumes: Vec<Volume> = replica.iter().map(Snapshot::volume).collect();
                if let Some(volume) = volumes.iter().enumerate().find(|(at, volume)| volumes[..*at].contains(volume)).map(|(_, it)| it) {
                    return Err(Refused::TwoOfOneVolume { volume: volume.clone() });
                }
            }
            Request::Migrate(migrate) if migrate.target.repo.is_none() && migrate.target.branch.is_none() => return Err(Refused::NoTarget),
            Request::Migrate(_) if Some(request.app()) == request.source_app() => return Err(Refused::TargetIsSource),
            _ => {}
        }
        if let Some(source) = request.repos().find_map(|repo| Credential::of(repo).err()) {
            return Err(Refused::Repo(source));
        }
        // A checkout is <name>-<id>, and a file name has at most 255 bytes.
        match [Some(request.app()), request.source_app()].into_iter().flatten().map(|app| app.name()).find(|name| name.len() > 200) {
            Some(name) => Err(Refused::LongName { name }),
            None => Ok(request),
        }
    }

    /// The first member that this version does not know, and those that it does.
    fn unknown(&self) -> Option<(&String, &'static [&'static str])> {
        let first = |unknown: &'_ Unknown| unknown.keys().next().cloned();
        match self {
            Request::Deploy(deploy) if first(&deploy.unknown).is_some() => {
                let known = &["repo", "branch", "master", "target", "slave", "update", "empty", "replica", "repo_moved"];
                Some((deploy.unknown.keys().next()?, known))
            }
            Request::Destroy(destroy) => Some((destroy.unknown.keys().next()?, &["repo", "branch"])),
            Request::Migrate(migrate) => match migrate.target.unknown.keys().next() {
                Some(member) => Some((member, &["repo", "branch"])),
                None => Some((migrate.unknown.keys().next()?, &["repo", "branch", "target", "update"])),
            },
            Request::Deploy(_) => None,
        }
    }

    fn repos(&self) -> impl Iterator<Item = &RepoUrl> {
        let (repo, target) = match self {
            Request::Deploy(Deploy { repo, .. }) | Request::Destroy(Destroy { repo, .. }) => (repo, None),
            Request::Migrate(Migrate { repo, target, .. }) => (repo, target.repo.as_ref()),
        };
        std::iter::once(repo).chain(target)
    }

    /// The same without passwords and tokens; and that of a deploy. The others clone nothing.
    pub fn without_credentials(mut self) -> (Request, Option<Credential>) {
        let mut credential = None;
        match &mut self {
            Request::Deploy(Deploy { repo, .. }) => {
                credential = Credential::of(repo).ok().flatten();
                *repo = repo.bare();
            }
            Request::Destroy(Destroy { repo, .. }) => *repo = repo.bare(),
            Request::Migrate(Migrate { repo, target, .. }) => {
                *repo = repo.bare();
                target.repo = target.repo.take().map(|repo| repo.bare());
            }
        }
        (self, credential)
    }

    /// See [`UNDERSTANDS`].
    fn needs(&self) -> u32 {
        match self {
            Request::Deploy(Deploy { replica, .. }) if !replica.is_empty() => REPLICA,
            Request::Deploy(Deploy { slave: Slave::Ended, .. }) => NULL_AND_CREDENTIAL,
            _ => 1,
        }
    }

    /// The application that changes.
    pub fn app(&self) -> App {
        let (repo, branch) = match self {
            Request::Deploy(Deploy { repo, branch, .. }) | Request::Destroy(Destroy { repo, branch, .. }) => (repo, branch),
            Request::Migrate(Migrate { repo, branch, target, .. }) => {
                (target.repo.as_ref().unwrap_or(repo), target.branch.as_ref().unwrap_or(branch))
            }
        };
        App { repo: repo.clone(), branch: branch.clone() }
    }

    /// The application whose data a migrate copies.
    pub fn source_app(&self) -> Option<App> {
        match self {
            Request::Migrate(Migrate { repo, branch, .. }) => Some(App { repo: repo.clone(), branch: branch.clone() }),
            _ => None,
        }
    }

    pub fn event(&self) -> &'static str {
        match self {
            Request::Deploy(_) => "deploy",
            Request::Destroy(_) => "destroy",
            Request::Migrate(_) => "migrate",
        }
    }
}

/// Like `serde_json::from_str`, but an error names the member that it is about.
fn members<T: serde::de::DeserializeOwned>(payload: &str) -> Result<T, Refused> {
    let value: Value = serde_json::from_str(payload).map_err(Refused::NotJson)?;
    let Value::Object(map) = &value else {
        return Err(Refused::NotAnObject { found: value.to_string() });
    };
    // Without each in turn: the one that changes the error is the one.
    json::from(value.clone()).map_err(|source| {
        let error = source.to_string();
        let culprit = map.keys().find(|key| {
            let alone = Value::Object([((*key).clone(), map[*key].clone())].into_iter().collect());
            json::from::<T>(alone).is_err_and(|alone| alone.to_string() == error)
        });
        let named = culprit.filter(|member| !error.contains("missing field") && !error.contains(&format!("`{member}`")));
        Refused::Member { member: named.cloned(), source }
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for its owner, or the owner prepares.
    Open,
    /// The owner could start at once: the source may stop.
    Ready,
    /// The source has stopped and sent the snapshots that the order names.
    Sent,
    Done,
    Failed,
}

/// Where the data of a new master comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Nothing ran before, or it is here already.
    New,
    /// The old master hands it over.
    Alive,
    /// The old master is dead: what it had replicated.
    Dead,
}

/// How far a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub step: usize,
    pub of: usize,
    pub name: String,
    pub since: String,
}

/// What the source knows of what it sends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    /// The owner's boot before anything was sent to it: what it receives may be in its memory alone until it is restored.
    #[serde(default)]
    pub boot: String,
    /// Of the snapshots on the source.
    #[serde(default)]
    pub uuids: BTreeMap<Snapshot, String>,
}

/// An order as it stands in Consul, under `order/<id>` and, finished, under `history/<name>/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Order {
    pub id: OrderId,
    /// The application that changes.
    pub name: AppName,
    pub request: Request,
    pub state: State,
    /// See [`UNDERSTANDS`].
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub needs: u32,
    /// RFC 3339, UTC, by the clock of the node that took the event in.
    pub created: String,
    #[serde(default)]
    pub finished: Option<String>,
    /// When the application was stopped for it, by the clock of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// The node that carries it out; empty until it has taken the order up.
    #[serde(default)]
    pub owner: Option<NodeName>,
    /// The node that hands its data over.
    #[serde(default)]
    pub source: Option<NodeName>,
    #[serde(default)]
    pub commit: Option<String>,
    /// What the source has sent: volume → snapshot.
    #[serde(default)]
    pub snapshots: BTreeMap<Volume, Snapshot>,
    /// How these can be told from others of the same name. Older nodes drop it; then nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Handover>,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// Where the data of a new master comes from: written when the order is first taken, and never changed, so that a move does not become a
    /// takeover because somebody seems dead for a moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The owner of an order that has failed has nothing of the new version up any more: its source may start the old one again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub down: bool,
    /// The nodes that have undone their part of an order that has failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undone: Vec<NodeName>,
    /// The nodes that seemed dead when the order went into the history, and had not undone their part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<NodeName>,
    /// The nodes whose undo a person has given up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<NodeName>,
    /// What an operator should know of a finished order, the age of restored data for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(default)]
    pub progress: BTreeMap<String, Progress>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's way to call it")]
fn is_one(needs: &u32) -> bool {
    *needs == 1
}

impl Serialize for Order {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Order::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Order, D::Error> {
        let mut order = Order::deserialize(from)?;
        if let Request::Deploy(Deploy { slave: slave @ Slave::Ended, .. }) = &mut order.request
            && order.needs < NULL_AND_CREDENTIAL
        {
            *slave = Slave::Kept;
        }
        Ok(order)
    }
}

impl Order {
    pub fn new(id: OrderId, request: Request, now: Time) -> Order {
        Order {
            id,
            name: request.app().name(),
            needs: request.needs(),
            request,
            state: State::Open,
            created: now.rfc3339(),
            finished: None,
            stopped: None,
            owner: None,
            source: None,
            commit: None,
            snapshots: BTreeMap::new(),
            handover: None,
            reason: None,
            origin: None,
            down: false,
            undone: Vec::new(),
            pending: Vec::new(),
            given_up: Vec::new(),
            notes: Vec::new(),
            progress: BTreeMap::new(),
            unknown: Unknown::new(),
        }
    }

    pub fn key(&self) -> String {
        keys::order(&self.id)
    }

    pub fn history_key(&self) -> String {
        keys::history(&self.name, &self.id)
    }

    /// Whether what the order needs is needed of this node, too. A takeover must not wait until the dead master is upgraded; when that is back it
    /// leaves alone what it does not understand.
    pub fn takes_part(&self, node: &NodeName, alive: bool) -> bool {
        alive || !matches!(&self.request, Request::Deploy(deploy) if !deploy.replica.is_empty() && deploy.master != *node)
    }

    /// Whether a node has taken its part in it.
    pub fn is_begun(&self) -> bool {
        self.owner.is_some() || !self.progress.is_empty()
    }

    /// The names of the applications that it reads or changes.
    pub fn apps(&self) -> Vec<AppName> {
        let source = self.request.source_app().map(|app| app.name());
        std::iter::once(self.name.clone()).chain(source).collect()
    }

    /// Those that it keeps from later orders: a migrate that has failed has nothing to undo in its source.
    pub fn keeps(&self) -> Vec<AppName> {
        if self.state == State::Failed { vec![self.name.clone()] } else { self.apps() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_member_the_value_and_the_rule() {
        let error = |event, payload| Request::parse(event, payload).unwrap_err().to_string();
        for (event, payload, expected) in [
            ("deploy", "[1]", "payload: expected a JSON object, found [1]"),
            ("deploy", "{", "payload: not JSON: EOF while parsing an object at line 1 column 1"),
            ("deploy", r#"{"repo":"/r","branch":"b"}"#, "payload: missing field `master`"),
            (
                "deploy",
                r#"{"repo":"/r","branch":"b","master":"n","x":1}"#,
                "payload: unknown field `x`, expected one of `repo`, `branch`, `master`, `target`, `slave`, `update`, `empty`, `replica`, `repo_moved`",
            ),
            (
                "deploy",
                r#"{"repo":"/r","branch":"b","master":"n","replica":["v_a@2026-01-01","v_b@2026-01-01","v_a@2026-01-02"]}"#,
                "replica: names two snapshots of \"v_a\"; one of each volume is restored",
            ),
            (
                "deploy",
                r#"{"repo":"/r","branch":"b","master":"n","replica":["v_a"]}"#,
                "payload: replica: \"v_a\": not the name of a snapshot",
            ),
            ("destroy", r#"{"repo":"/r","branch":"b","master":"n"}"#, "payload: unknown field `master`, expected one of `repo`, `branch`"),
            (
                "migrate",
                r#"{"repo":"/r","branch":"b","target":{"branch":"c","x":1}}"#,
                "payload: unknown field `x`, expected one of `repo`, `branch`",
            ),
            ("deploy", r#"{"repo":"/r","branch":"b","master":3}"#, "payload: master: invalid type: integer `3`, expected a string"),
            ("deploy", r#"{"repo":"/r","branch":"-b","master":"n"}"#, "payload: branch: \"-b\": begins with -"),
            (
                "deploy",
                r#"{"repo":"/r","branch":"b","master":"n","update":"yes"}"#,
                "payload: update: invalid type: string \"yes\", expected a boolean",
            ),
            (
                "deploy",
                r#"{"repo":"/r","branch":"b","master":"n","slave":"n"}"#,
                "slave: \"n\" is the master too; leave it out or name another node",
            ),
            ("migrate", r#"{"repo":"/r","branch":"b","target":{}}"#, "target: has neither repo nor branch; one of the two is needed"),
            ("migrate", r#"{"repo":"/r","branch":"b","target":{"branch":"b"}}"#, "target: is the source itself"),
            ("restart", "{}", "unknown event \"restart\": expected one of deploy, destroy, migrate"),
        ] {
            assert_eq!(error(event, payload), expected);
        }
    }

    #[test]
    fn an_order_survives_its_form_in_consul() {
        let request = Request::parse("deploy", r#"{"repo":"https://h/a.git","branch":"b","target":"n1"}"#).unwrap();
        let order = Order::new(OrderId::of([7; 16]), request, Time { secs: 0, micros: 0 });
        let text = serde_json::to_string(&order).unwrap();
        assert!(text.contains(r#""request":{"deploy":{"repo":"https://h/a","branch":"b","master":"n1""#), "{text}");
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
    }

    /// Newer nodes may know more of an order than this one; what it does not know it keeps.
    #[test]
    fn what_a_newer_version_has_stored_is_kept() {
        let request = Request::parse("deploy", r#"{"repo":"/a","branch":"b","master":"n1"}"#).unwrap();
        let order = Order::new(OrderId::of([7; 16]), request, Time { secs: 0, micros: 0 });
        let mut newer = serde_json::to_value(&order).unwrap();
        newer["colour"] = "blue".into();
        newer["request"]["deploy"]["weight"] = 3.into();
        let read: Order = json::from(newer.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), newer);
    }
}
