//! What an operator asks for, checked once, here: past these types nothing is checked again. And the order, its form in Consul.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that has passed its check. `Deref`s to `str`.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(String) -> Result<String, String> = $check;
                check(text).map($name)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }
    };
}

checked!(
    /// Where an application's repository is: an `https`, `http`, `ssh`, `git` or `file` URL, `user@host:path`, or an absolute path.
    /// Without surrounding spaces and without one trailing `.git`.
    RepoUrl,
    check_repo
);
checked!(
    /// A branch or tag, as `git check-ref-format --branch` allows it.
    Branch,
    check_branch
);
checked!(
    /// A member of the cluster.
    NodeName,
    check_node
);
checked!(
    /// The ID of an event and of the order it became: a UUID.
    OrderId,
    check_id
);

const SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];

fn check_repo(text: String) -> Result<String, String> {
    let bad = |rule: &str| Err(format!("{:?}: {rule}", crate::outside::process::redacted(&text)));
    let url = text.trim_matches(' ');
    let url = url.strip_suffix(".git").unwrap_or(url);
    let word = |s: &str| !s.is_empty() && !s.starts_with('-') && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if text.len() > 1024 {
        return Err("longer than 1024 bytes".into());
    }
    if text.chars().any(char::is_control) {
        return bad("has control characters");
    }
    if url.starts_with('-') {
        return bad("begins with -");
    }
    if let Some((scheme, rest)) = url.split_once("://") {
        if !SCHEMES.contains(&scheme) {
            return bad("not one of the URLs https, http, ssh, git and file");
        }
        let host = rest.split('/').next().unwrap_or("");
        let host = host.rsplit('@').next().unwrap_or("");
        if host.starts_with('-') || (host.is_empty() != (scheme == "file")) {
            return bad(if scheme == "file" { "expected file:///path" } else { "has no usable host" });
        }
    } else if !url.starts_with('/') {
        let parts = url.split_once(':').and_then(|(at, path)| Some((at.split_once('@')?, path)));
        match parts {
            Some(((user, host), path)) if word(user) && word(host) && !path.is_empty() && !path.starts_with(':') => {}
            _ => return bad("not a URL (https, http, ssh, git, file), user@host:path or absolute path"),
        }
    }
    if repo_path(url).rsplit('/').all(str::is_empty) {
        return bad("names no repository");
    }
    Ok(url.into())
}

/// The path part of a cleaned URL, without query and fragment; all of it when there is no scheme.
fn repo_path(url: &str) -> &str {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => url,
    };
    path.split(['?', '#']).next().unwrap_or("")
}

fn check_branch(text: String) -> Result<String, String> {
    let bad = |rule: &str| Err(format!("{text:?}: {rule}"));
    if text.is_empty() || text.len() > 200 {
        return bad("must have 1 to 200 bytes");
    }
    if text.starts_with('-') {
        return bad("begins with -");
    }
    if text.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
        return bad("has a space, a control character or one of ~ ^ : ? * [ \\");
    }
    let component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    if !text.split('/').all(component) || text.ends_with('.') || text.contains("..") || text.contains("@{") {
        return bad("not a name that git allows for a branch");
    }
    if text == "@" || text == "HEAD" {
        return bad("not a name that git allows for a branch");
    }
    Ok(text)
}

fn check_node(text: String) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > 63 || text.starts_with('-') || !text.chars().all(allowed) {
        return Err(format!("{text:?}: a node's name has 1 to 63 of A-Z a-z 0-9 . _ - and does not begin with -"));
    }
    Ok(text)
}

fn check_id(text: String) -> Result<String, String> {
    let shape = |(at, c): (usize, char)| if [8, 13, 18, 23].contains(&at) { c == '-' } else { c.is_ascii_hexdigit() };
    if text.len() != 36 || !text.chars().enumerate().all(shape) {
        return Err(format!("{text:?}: not a UUID (8-4-4-4-12 hexadecimal digits)"));
    }
    Ok(text)
}

impl OrderId {
    /// A random one.
    pub fn new() -> std::io::Result<OrderId> {
        let mut bytes = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(OrderId([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")))
    }
}

/// An application: a branch of a repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    pub repo: RepoUrl,
    pub branch: Branch,
}

impl App {
    /// `foobar_master.ddb14`: its key below `app/`, its Consul service, the first part of its checkouts' names.
    pub fn name(&self) -> String {
        let path = repo_path(&self.repo).to_lowercase();
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        let segment = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let branch: String = self.branch.chars().map(segment).collect();
        let sum = format!("{:x}", md5::compute(&path));
        format!("{last}_{branch}.{}", &sum[..5])
    }

    /// `foobarmasterddb14`: the compose project, and the first part of its volumes' names.
    pub fn project(&self) -> String {
        project_of(&self.name())
    }
}

/// The compose project of an application's name.
pub fn project_of(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_digit() || c.is_ascii_lowercase()).collect()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    pub repo: RepoUrl,
    pub branch: Branch,
    #[serde(alias = "target")]
    pub master: NodeName,
    #[serde(default)]
    pub slave: Option<NodeName>,
    #[serde(default)]
    pub update: bool,
    /// Take over from a dead master even where none of its data has been replicated.
    #[serde(default)]
    pub empty: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    pub repo: RepoUrl,
    pub branch: Branch,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    pub repo: RepoUrl,
    pub branch: Branch,
    pub target: MigrateTarget,
    #[serde(default = "yes")]
    pub update: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrateTarget {
    #[serde(default)]
    pub repo: Option<RepoUrl>,
    #[serde(default)]
    pub branch: Option<Branch>,
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

impl Request {
    /// From an event's name and its decoded payload. The error names the member, the value and the rule.
    pub fn parse(event: &str, payload: &str) -> Result<Request, String> {
        let request = match event {
            "deploy" => Request::Deploy(members(payload)?),
            "destroy" => Request::Destroy(members(payload)?),
            "migrate" => Request::Migrate(members(payload)?),
            _ => return Err(format!("unknown event {event:?}: expected one of {}", EVENTS.join(", "))),
        };
        match &request {
            Request::Deploy(deploy) if deploy.slave.as_ref() == Some(&deploy.master) => {
                return Err(format!("slave: {:?} is the master too; leave it out or name another node", &*deploy.master));
            }
            Request::Migrate(migrate) if migrate.target == (MigrateTarget { repo: None, branch: None }) => {
                return Err("target: has neither repo nor branch; one of the two is needed".into());
            }
            Request::Migrate(_) if Some(request.app()) == request.source_app() => {
                return Err("target: is the source itself".into());
            }
            _ => {}
        }
        // A checkout is <name>-<id>, and a file name has at most 255 bytes.
        for app in [Some(request.app()), request.source_app()].into_iter().flatten() {
            if app.name().len() > 200 {
                return Err(format!("repo, branch: the application's name {} is longer than 200 bytes", app.name()));
            }
        }
        Ok(request)
    }

    /// The application that changes.
    pub fn app(&self) -> App {
        let (repo, branch) = match self {
            Request::Deploy(Deploy { repo, branch, .. }) | Request::Destroy(Destroy { repo, branch }) => (repo, branch),
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

/// Like `serde_json::from_str`, but an error begins with the path of the member it is about.
fn members<T: serde::de::DeserializeOwned>(payload: &str) -> Result<T, String> {
    let value: serde_json::Value = serde_json::from_str(payload).map_err(|error| format!("payload: not JSON: {error}"))?;
    let serde_json::Value::Object(map) = &value else {
        return Err(format!("payload: expected a JSON object, found {value}"));
    };
    // serde names no member when a value is wrong: without each in turn, the one that changes the error is the one.
    crate::model::json::from(value.clone()).map_err(|error| {
        let error = error.to_string();
        let culprit = map.keys().find(|key| {
            let alone = serde_json::Value::Object([((*key).clone(), map[*key].clone())].into_iter().collect());
            crate::model::json::from::<T>(alone).is_err_and(|alone| alone.to_string() == error)
        });
        match culprit {
            Some(member) if !error.contains("missing field") && !error.contains(&format!("`{member}`")) => {
                format!("payload: {member}: {error}")
            }
            _ => format!("payload: {error}"),
        }
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

/// How far a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub step: usize,
    pub of: usize,
    pub name: String,
    pub since: String,
}

/// An order as it stands in Consul, under `order/<id>` and, finished, under `history/<name>/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: OrderId,
    /// The application that changes.
    pub name: String,
    pub request: Request,
    pub state: State,
    /// RFC 3339, UTC, by the clock of the node that took the event in.
    pub created: String,
    #[serde(default)]
    pub finished: Option<String>,
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
    pub snapshots: BTreeMap<String, String>,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// What an operator should know of a finished order, the age of restored data for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    #[serde(default)]
    pub progress: BTreeMap<String, Progress>,
}

impl Order {
    pub fn new(id: OrderId, request: Request, now: crate::model::time::Time) -> Order {
        Order {
            id,
            name: request.app().name(),
            request,
            state: State::Open,
            created: now.rfc3339(),
            finished: None,
            owner: None,
            source: None,
            commit: None,
            snapshots: BTreeMap::new(),
            reason: None,
            notes: Vec::new(),
            progress: BTreeMap::new(),
        }
    }

    pub fn key(&self) -> String {
        format!("order/{}", self.id)
    }

    pub fn history_key(&self) -> String {
        format!("history/{}/{}", self.name, self.id)
    }

    /// The names of the applications that it reads or changes.
    pub fn apps(&self) -> Vec<String> {
        let source = self.request.source_app().map(|app| app.name());
        std::iter::once(self.name.clone()).chain(source).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(repo: &str, branch: &str) -> App {
        App { repo: RepoUrl::try_from(repo.to_string()).unwrap(), branch: Branch::try_from(branch.to_string()).unwrap() }
    }

    #[test]
    fn names_are_those_of_the_older_handler() {
        #[derive(Deserialize)]
        struct Name {
            repo: String,
            branch: String,
            repo_url: String,
            name: String,
            project: String,
        }
        let names: Vec<Name> = serde_json::from_str(include_str!("../../tests/vectors/names.json")).unwrap();
        assert!(!names.is_empty());
        for vector in names {
            let app = app(&vector.repo, &vector.branch);
            assert_eq!((&*app.repo, app.name(), app.project()), (&*vector.repo_url, vector.name, vector.project));
        }
    }

    #[test]
    fn a_branch_with_a_slash_is_one_segment_of_a_key() {
        assert_eq!(app("/srv/Shop.git", "feature/x").name(), "shop_feature-x.35fcd");
    }

    #[test]
    fn repositories_that_git_would_take_for_something_else_are_refused() {
        for bad in [
            "",
            "  ",
            "-u",
            "--upload-pack=x",
            "ext::sh -c id",
            "ftp://host/x",
            "https://",
            "https:///x",
            "https://host",
            "file://host/x",
            "ssh://-oProxyCommand=id/x",
            "ssh://u@-x/y",
            "host:path",
            "-a@b:c",
            "a@-b:c",
            "git@host::x",
            "relative/path",
            "a\nb",
            "/",
            "file:///",
        ] {
            assert!(check_repo(bad.into()).is_err(), "{bad:?} was accepted");
        }
        assert!(check_repo(format!("/{}", "x".repeat(1024))).is_err());
    }

    #[test]
    fn branches_follow_git() {
        for good in ["master", "feature/x", "v1.2.3", "2019_01", "a@b", "é"] {
            assert!(check_branch(good.into()).is_ok(), "{good:?} was refused");
        }
        for bad in [
            "", "-x", "a..b", "a b", "a\tb", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.lock/b", "a.", "@", "a@{b", "a:b", "a~1", "a^",
            "a?", "a*", "a[b", "a\\b", "HEAD",
        ] {
            assert!(check_branch(bad.into()).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn errors_name_the_member_the_value_and_the_rule() {
        let error = |event, payload| Request::parse(event, payload).unwrap_err();
        for (event, payload, expected) in [
            ("deploy", "[1]", "payload: expected a JSON object, found [1]"),
            ("deploy", "{", "payload: not JSON: EOF while parsing an object at line 1 column 1"),
            ("deploy", r#"{"repo":"/r","branch":"b"}"#, "payload: missing field `master`"),
            (
                "deploy",
                r#"{"repo":"/r","branch":"b","master":"n","x":1}"#,
                "payload: unknown field `x`, expected one of `repo`, `branch`, `master`, `target`, `slave`, `update`, `empty`",
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
        let order = Order::new(OrderId::new().unwrap(), request, crate::model::time::Time::now());
        let text = serde_json::to_string(&order).unwrap();
        assert!(text.contains(r#""request":{"deploy":{"repo":"https://h/a","branch":"b","master":"n1""#), "{text}");
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
    }
}
