//! Names, each checked once, where it comes in: past these types nothing is checked again, and none is taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::text::redacted;

/// A text that is not what it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Invalid {
    /// `None` where it is too long to be shown.
    pub value: Option<String>,
    pub rule: &'static str,
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{value:?}: {}", self.rule),
            None => f.write_str(self.rule),
        }
    }
}

/// A text that has passed its check. `Deref`s to `str`.
macro_rules! checked {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                let check: fn(String) -> Result<String, Invalid> = $check;
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

        impl TryFrom<&str> for $name {
            type Error = Invalid;
            fn try_from(text: &str) -> Result<Self, Invalid> {
                Self::try_from(text.to_string())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
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
checked!(
    /// `foobar_master.ddb14`
    AppName,
    check_app
);
checked!(
    /// The order that deployed what runs; the older handler had ids of another form.
    DeployId,
    check_deploy_id
);
checked!(
    /// `foobarmasterddb14`: the compose project, and the first part of its volumes' names.
    Project,
    check_project
);
checked!(
    /// A variable that an operator may set for an application.
    VariableName,
    check_variable
);
checked!(
    /// A volume, by the name that the engine and the volume plugin know.
    Volume,
    check_volume
);
checked!(
    /// A snapshot of a volume.
    Snapshot,
    check_snapshot
);
checked!(
    /// The address of a node.
    Host,
    check_host
);

const SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];

fn check_repo(text: String) -> Result<String, Invalid> {
    // Where a secret may have a space in it, the space would end what is taken for it.
    let shown = || if text.contains('@') { text.replace(|c: char| c.is_whitespace() || c.is_control(), "%20") } else { text.clone() };
    let bad = |rule| Err(Invalid { value: Some(redacted(&shown())), rule });
    let url = text.trim_matches(' ');
    let url = url.strip_suffix(".git").unwrap_or(url);
    let word = |s: &str| !s.is_empty() && !s.starts_with('-') && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if text.len() > 1024 {
        return Err(Invalid { value: None, rule: "longer than 1024 bytes" });
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

fn check_branch(text: String) -> Result<String, Invalid> {
    let bad = |rule| Err(Invalid { value: Some(text.clone()), rule });
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

fn check_node(text: String) -> Result<String, Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fine = !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && text.chars().all(allowed);
    fine_or(fine, text, "a node's name has 1 to 63 of A-Z a-z 0-9 . _ - and does not begin with -")
}

fn check_id(text: String) -> Result<String, Invalid> {
    let shape = |(at, c): (usize, char)| if [8, 13, 18, 23].contains(&at) { c == '-' } else { c.is_ascii_hexdigit() };
    let fine = text.len() == 36 && text.chars().enumerate().all(shape);
    fine_or(fine, text, "not a UUID (8-4-4-4-12 hexadecimal digits)")
}

/// A checkout's folder, and after a prefix a key in Consul.
fn check_app(text: String) -> Result<String, Invalid> {
    let fine = !text.is_empty() && ![".", "..", ".handler"].contains(&&*text) && !text.contains('/') && !text.chars().any(char::is_control);
    fine_or(fine, text, "not the name of an application")
}

/// The older handler's ids, too: whatever can be the last part of a folder's name.
fn check_deploy_id(text: String) -> Result<String, Invalid> {
    let fine = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c)) && !text.starts_with('.');
    fine_or(fine, text, "not the id of a deployment")
}

fn check_project(text: String) -> Result<String, Invalid> {
    let fine = text.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase());
    fine_or(fine, text, "not a compose project")
}

/// What compose, the scripts or the loader take from the node itself, or what the handler says there: no application's to change.
const RESERVED: [&str; 15] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "CONTAINER",
    "DOCKER_*",
    "BUILDKIT_*",
    "BUILDX_*",
    "XDG_*",
    "SSL_CERT_*",
    "COMPOSE_*",
    "CONSUL_*",
    "HANDLER_*",
    "GIT_*",
    "LD_*",
];

fn check_variable(text: String) -> Result<String, Invalid> {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || text.len() > 128 || !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        // Not shown: it may be `NAME=value`, or a value in the place of a name.
        return Err(Invalid {
            value: None,
            rule: "a variable's name has 1 to 128 of A-Z a-z 0-9 _ and begins with no digit; its value is never an argument",
        });
    }
    let is_reserved = RESERVED.iter().any(|name| name.strip_suffix('*').map_or(*name == text, |begin| text.starts_with(begin)));
    fine_or(!is_reserved, text, "the node or the handler says that itself; give the variable another name")
}

/// The volume plugin builds shell commands from these names, so none but plain ones come in.
fn plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(allowed)
}

fn check_volume(text: String) -> Result<String, Invalid> {
    fine_or(plain(&text), text, "not the name of a volume")
}

/// `volume@2026-11-22T17:59:22.841943`. Given a volume's name alone the plugin would take the latest by name, and answer no error when there
/// is none.
fn check_snapshot(text: String) -> Result<String, Invalid> {
    let parts = |(volume, time): (&str, &str)| plain(volume) && plain(time);
    fine_or(text.split_once('@').is_some_and(parts), text, "not the name of a snapshot")
}

fn check_host(text: String) -> Result<String, Invalid> {
    fine_or(plain(&text), text, "not the address of a node")
}

fn fine_or(fine: bool, text: String, rule: &'static str) -> Result<String, Invalid> {
    if fine { Ok(text) } else { Err(Invalid { value: Some(text), rule }) }
}

impl RepoUrl {
    /// Without the user, password or token that a URL may have: two of these are one repository.
    pub fn without_secret(&self) -> String {
        match self.0.split_once("://") {
            Some((scheme, rest)) => {
                let host_end = rest.find('/').unwrap_or(rest.len());
                let user_end = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
                format!("{scheme}://{}", &rest[user_end..])
            }
            None => self.0.clone(),
        }
    }
}

impl RepoUrl {
    /// Of an http or https URL: the scheme, what stands before the `@`, and from the host on.
    pub fn web_parts(&self) -> Option<(&str, Option<&str>, &str)> {
        let (scheme, rest) = self.0.split_once("://").filter(|(scheme, _)| ["http", "https"].contains(scheme))?;
        let host_end = rest.find('/').unwrap_or(rest.len());
        match rest[..host_end].rfind('@') {
            Some(at) => Some((scheme, Some(&rest[..at]), &rest[at + 1..])),
            None => Some((scheme, None, rest)),
        }
    }

    /// Without the user, password or token of an http or https URL. All of it goes: a user that was left could not be told from a token.
    pub fn bare(&self) -> RepoUrl {
        match self.web_parts() {
            Some((scheme, Some(_), rest)) => RepoUrl(format!("{scheme}://{rest}")),
            _ => self.clone(),
        }
    }
}

impl OrderId {
    /// From random bytes.
    pub fn of(mut bytes: [u8; 16]) -> OrderId {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        OrderId([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    }
}

impl From<&OrderId> for DeployId {
    fn from(id: &OrderId) -> DeployId {
        DeployId(id.0.clone())
    }
}

impl Snapshot {
    /// That it is of.
    pub fn volume(&self) -> Volume {
        Volume(self.0.split_once('@').map_or("", |(volume, _)| volume).into())
    }

    /// When it was taken, in the words of the plugin.
    pub fn taken(&self) -> &str {
        self.0.split_once('@').map_or("", |(_, time)| time)
    }
}

impl AppName {
    /// The compose project of the application.
    pub fn project(&self) -> Project {
        Project(self.0.chars().filter(|c| c.is_ascii_digit() || c.is_ascii_lowercase()).collect())
    }
}

impl Project {
    /// The volume that compose makes for `key` of the compose file.
    pub fn prefix(&self) -> String {
        format!("{}_", self.0)
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
    pub fn name(&self) -> AppName {
        let path = repo_path(&self.repo).to_lowercase();
        let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        let segment = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let branch: String = self.branch.chars().map(segment).collect();
        let sum = format!("{:x}", md5::compute(&path));
        AppName(format!("{last}_{branch}.{}", &sum[..5]))
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
            assert_eq!((&*app.repo, &*app.name(), &*app.name().project()), (&*vector.repo_url, &*vector.name, &*vector.project));
        }
    }

    #[test]
    fn a_branch_with_a_slash_is_one_segment_of_a_key() {
        assert_eq!(&*app("/srv/Shop.git", "feature/x").name(), "shop_feature-x.35fcd");
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
}
