//! Compose 2, by its program `docker-compose`, on one checkout.
//!
//! Compose resolves an application's files once, before anything is touched: variables, includes, overrides, profiles and all. What it prints
//! is kept in the checkout, and is what each later call gets, with what its `.env` was then: what was checked is what runs, and no file of
//! the repository is read again.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use log::warn;
use serde_json::{Map, Value, json};
use serde_yaml::Value as Yaml;

use super::cmd::{self, Bounds, Cmd};
use super::compose_file::{FILES, ORDER, OVERRIDES, ROUTES, Service, plain};
use super::doors::World;
use super::{disk, yaml};
use crate::model::names::Project;
use crate::model::variables::Variables;
use crate::settings::Timeouts;

const PROGRAM: &str = "docker-compose";
/// All files of this program's in a checkout, as `.dockerignore` has it.
pub const OURS: &str = ".handler-*";
/// JSON is YAML, too.
pub const QUIET: &str = ".handler-quiet.yml";
/// What compose has made of the repository's files.
pub const RESOLVED: &str = ".handler-compose.json";
/// What `.env` was then: secrets may be taken from its variables when containers are made.
const ENV: &str = ".handler-compose.env";
/// What the operator had kept for the application then (`handler env`).
pub const VARIABLES: &str = ".handler-variables.json";
pub const MOST: u64 = 16 << 20;
/// Of a file of the repository.
const MOST_RAW: u64 = 1 << 20;

/// `include` and `extends` may name what cannot be looked at before: whatever it is, `config` comes to an end.
const RESOLVING: Duration = Duration::from_secs(30);
const BOUNDS: Bounds = Bounds { memory: 1 << 30, output: MOST };

/// What compose sees of this process's environment. Nothing that an application's file could mean something else by on another node, and
/// none of compose's own variables: those are the repository's to set, in its `.env`.
const SEES: &[&str] = &[
    "PATH",
    "HOME",
    "TMPDIR",
    "TZ",
    "LANG",
    "LC_*",
    "DOCKER_*",
    "BUILDKIT_*",
    "BUILDX_*",
    "XDG_*",
    "SSH_AUTH_SOCK",
    "SSL_CERT_*",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

/// What compose is told that `$CONTAINER` is, to find where it stood: routes mean the name of their container by it. In a container's own
/// variable nothing has ever stood there, and does not now, or each container would be made anew for it.
pub const CONTAINER: &str = "handlers-mark-for-the-container";
/// The main file, for handlers that resolved nothing.
const BEFORE: [&str; 4] = ["docker-compose.yml", "docker-compose.yaml", "compose.yaml", "compose.yml"];
/// The variables that routes are read from.
const OF_ROUTES: [&str; 3] = ["CADDYFILE", "HAPROXY", "CONSUL_CHECK_URLS"];

#[derive(Debug)]
pub enum Error {
    /// Not installed, or it does not say which version it is.
    Version(cmd::Error),
    TooOld {
        version: String,
    },
    NoFile {
        folder: PathBuf,
    },
    /// Of the repository.
    Raw {
        file: &'static str,
        source: yaml::Error,
    },
    NotUtf8 {
        file: &'static str,
    },
    Resolve(cmd::Error),
    /// What it prints is no JSON.
    Printed(serde_json::Error),
    Disk(disk::Error),
}

impl From<disk::Error> for Error {
    fn from(error: disk::Error) -> Error {
        Error::Disk(error)
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Version(error) => error.fmt(f),
            Error::NoFile { folder } => write!(f, "{}: has none of {}", folder.display(), FILES.join(", ")),
            Error::Raw { file, source } => write!(f, "{file}: {source}"),
            Error::NotUtf8 { file } => write!(f, "{file}: not UTF-8"),
            Error::Resolve(error) => {
                let (secs, memory, output) = (RESOLVING.as_secs(), BOUNDS.memory >> 20, BOUNDS.output >> 20);
                write!(
                    f,
                    "compose does not resolve its files (it has {secs} s, {memory} MiB of memory and {output} MiB to print): {error}"
                )?;
                match demanded(&error.to_string()) {
                    Some(name) => write!(f, "\nhandler env NAME set {name} gives it a value, with the next deploy"),
                    None => Ok(()),
                }
            }
            Error::Printed(error) => write!(f, "what docker-compose config has printed cannot be read: {error}"),
            Error::Disk(error) => error.fmt(f),
            Error::TooOld { version } => {
                write!(
                    f,
                    "docker-compose is version {version:?}; Compose 2.15 or later is needed (its plugin for docker is the program, too: link it into PATH)"
                )
            }
        }
    }
}

/// Compose of this node, seen to be of a version that will do.
#[derive(Clone, Debug)]
pub struct Tool(());

impl Tool {
    pub fn find(world: &World) -> Result<Tool, Error> {
        let version =
            Cmd::new(PROGRAM, Duration::from_secs(60)).sees(SEES).args(["version", "--short"]).read(world).map_err(Error::Version)?;
        if will_do(&version) { Ok(Tool(())) } else { Err(Error::TooOld { version: version.trim().into() }) }
    }
}

/// `v2.26.1`, `2.26.1-4`, `5.0.0`; not `1.29.2`. From 2.15 on `up` heeds what it is told of pulling.
fn will_do(version: &str) -> bool {
    let mut parts = version.trim().trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    parts.next().flatten().is_some_and(|major| (major, parts.next().flatten().unwrap_or_default()) >= (2, 15))
}

/// Whether containers that are as they should be are made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recreate {
    Changed,
    /// What should not be there, but is, stands on a volume that has been replaced.
    All,
}

/// Which files of a checkout compose is to resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Those that it finds by itself, and that `.env` names.
    All,
    /// The main file alone, which is what handlers gave compose that resolved nothing: their containers are not to be made anew.
    Main,
}

/// A compose project in one of its checkouts.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub project: Project,
    pub folder: PathBuf,
    pub tool: Tool,
    /// Whether the file that keeps services from starting by themselves is there.
    pub quiet: bool,
    pub variables: Variables,
}

impl Checkout {
    fn project(&self, deadline: Duration) -> Cmd {
        let cmd = Cmd::new(PROGRAM, deadline).sees(SEES).variables(&self.variables).cwd(&self.folder);
        cmd.args(["-p", &*self.project, "--project-directory"]).arg(&self.folder)
    }

    fn compose(&self, deadline: Duration) -> Cmd {
        let cmd = self.project(deadline).arg("--env-file").arg(self.folder.join(ENV)).arg("-f").arg(self.folder.join(RESOLVED));
        if self.quiet { cmd.arg("-f").arg(self.folder.join(QUIET)) } else { cmd }
    }

    /// The resolved file; `None` where nothing was resolved yet.
    pub fn resolved(&self, world: &World) -> Result<Option<Vec<u8>>, disk::Error> {
        world.read_file(&self.folder.join(RESOLVED), MOST)
    }

    /// Has compose resolve the repository's files, and keeps what it prints. `synced`: for good when this returns; without, the caller sees to
    /// it that the checkout is.
    pub fn resolve(&self, world: &World, of: Of, synced: bool) -> Result<Vec<u8>, Error> {
        let env = world.read_within(&self.folder, ".env", MOST_RAW)?.unwrap_or_default();
        let raw = self.look_through(world, &env)?;
        let main = match of {
            Of::All => None,
            Of::Main => BEFORE.iter().map(|file| self.folder.join(file)).find(|file| world.is_file(file)),
        };
        let config = |words: &[&str]| {
            let cmd = self.project(RESOLVING).bounds(BOUNDS).env("CONTAINER", CONTAINER);
            let cmd = if let Some(main) = &main { cmd.arg("-f").arg(main) } else { cmd };
            cmd.args(words)
        };
        // With the services of all profiles: a volume that is not seen is one that is left behind.
        let both = config(&["--profile", "*", "config", "--format", "json"]).both(world).map_err(Error::Resolve)?;
        let (said, printed) = apart(&both);
        not_set(said, &raw).iter().for_each(|warning| warn!("{warning}"));
        let asked_for = if printed.contains("\"profiles\"") {
            Some(config(&["config", "--services"]).read(world).map_err(Error::Resolve)?)
        } else {
            None
        };
        let text = to_keep(&self.project, printed, asked_for.as_deref(), &raw).map_err(Error::Printed)?;
        for (file, bytes) in [(ENV, &env), (RESOLVED, &text)] {
            world.replace_file(&self.folder.join(file), bytes, synced)?;
        }
        Ok(text)
    }

    /// Bounds for what can be looked at before compose reads it; answers what of it can be read here, too.
    fn look_through(&self, world: &World, env: &[u8]) -> Result<Vec<Yaml>, Error> {
        let mut all = Vec::new();
        let mut found = String::from_utf8_lossy(env).contains("COMPOSE_FILE");
        for file in FILES.iter().chain(&OVERRIDES) {
            let Some(text) = world.read_within(&self.folder, file, MOST_RAW)? else { continue };
            let text = String::from_utf8(text).map_err(|_| Error::NotUtf8 { file })?;
            yaml::within_bounds(&text).map_err(|source| Error::Raw { file, source })?;
            found |= FILES.contains(file);
            all.extend(yaml::read(&text)); // compose may know better: several documents, say
        }
        // Compose would go on looking in the folders above.
        if found { Ok(all) } else { Err(Error::NoFile { folder: self.folder.clone() }) }
    }

    /// Writes beside the compose file that none of these services starts by itself, for [`up`](Checkout::up) to heed.
    pub fn keep_quiet(&mut self, world: &World, services: &[Service]) -> Result<(), disk::Error> {
        let never =
            |service: &Service| (service.name.clone(), json!({ "restart": "no", "deploy": { "restart_policy": { "condition": "none" } } }));
        let services: serde_json::Map<String, Value> = services.iter().map(never).collect();
        world.replace_file(&self.folder.join(QUIET), json!({ "services": services }).to_string().as_bytes(), true)?;
        self.quiet = true;
        Ok(())
    }

    pub fn pull(&self, world: &World, services: &[String], timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.pull).arg("pull").args(services).run(world)
    }

    pub fn build(&self, world: &World, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.build).arg("build").run(world)
    }

    /// Containers whose service is gone go, too. With the images that are here, whatever the file says of pulling: those that are to run were looked for.
    pub fn up(&self, world: &World, recreate: Recreate, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        let more: &[&str] = if recreate == Recreate::All { &["--force-recreate"] } else { &[] };
        self.compose(timeouts.up).args(["up", "-d", "--no-build", "--pull", "never", "--remove-orphans"]).args(more).run(world)
    }

    /// What of these services is down is started, and made where it is gone; what there is stays as it is, and nothing else is touched.
    pub fn start(&self, world: &World, services: &[String], timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.up)
            .args(["up", "-d", "--no-build", "--pull", "missing", "--no-recreate", "--no-deps"])
            .args(services)
            .run(world)
    }

    pub fn stop(&self, world: &World, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.stop).arg("stop").run(world)
    }

    /// The containers go, volumes stay.
    pub fn down(&self, world: &World, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.stop).args(["down", "--remove-orphans"]).run(world)
    }

    /// One of the application's own scripts; `false`: it has none of this name.
    pub fn script(&self, world: &World, script: &str, args: &[&str], timeouts: &Timeouts) -> Result<bool, cmd::Error> {
        if !world.is_file(&self.folder.join(script)) {
            return Ok(false);
        }
        let cmd = Cmd::new("sh", timeouts.script).variables(&self.variables).arg(script).args(args);
        cmd.cwd(&self.folder).run(world).map(|()| true)
    }
}

/// What compose says, and the object that it prints.
fn apart(both: &str) -> (&str, &str) {
    let begin = if both.starts_with('{') { 0 } else { both.find("\n{").map_or(0, |at| at + 1) };
    let end = both.rfind('}').map_or(both.len(), |at| at + 1).max(begin);
    (&both[..begin], &both[begin..end])
}

/// The variable of a `${X:?}` that has no value, by what compose says: `required variable X is missing a value: …`.
fn demanded(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("required variable ")?;
    rest.split_once(" is missing a value").map(|(name, _)| name)
}

/// Compose puts nothing in the place of a variable that is not set, as in a password's hash whose dollar signs are not doubled.
fn not_set(said: &str, raw: &[Yaml]) -> Vec<String> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut warnings = Vec::new();
    for (before, _) in said.lines().filter_map(|line| line.split_once(" variable is not set")) {
        let name = before.trim_end_matches(|c| !in_name(c)).rsplit(|c| !in_name(c)).next().unwrap_or_default();
        let why = format!(
            "the variable {name} is not set, so compose puts nothing in its place; handler env gives it a value, and `$${name}` would be that text with its dollar sign"
        );
        let (plain, braced) = (format!("${name}"), format!("${{{name}"));
        let known = warnings.len();
        for (service, value) in raw.iter().filter_map(|file| file.get("services")?.as_mapping()).flatten() {
            let text = serde_json::to_value(value).unwrap_or_default().to_string();
            if text.contains(&braced) || text.split(&plain).skip(1).any(|rest| !rest.starts_with(in_name)) {
                warnings.push(format!("service {}: {why}", service.as_str().unwrap_or_default()));
            }
        }
        if warnings.len() == known {
            warnings.push(why);
        }
    }
    warnings
}

/// What is kept of what compose has printed of the services of all profiles; `asked_for`: the names of those that `up` starts, if not of all.
/// `raw`: files of the repository.
pub fn to_keep(project: &Project, printed: &str, asked_for: Option<&str>, raw: &[Yaml]) -> Result<Vec<u8>, serde_json::Error> {
    let mut model: Map<String, Value> = serde_json::from_str(&printed.replace(CONTAINER, ""))?;
    if let Some(asked_for) = asked_for {
        let services = model.get_mut("services").and_then(Value::as_object_mut);
        for (name, service) in services.into_iter().flatten() {
            if let Some(service) = service.as_object_mut().filter(|_| asked_for.lines().any(|asked| asked.trim() == name)) {
                service.remove("profiles");
            }
        }
    }
    model.remove(ROUTES); // the handler's own word
    if printed.contains(CONTAINER) {
        let written: Value = serde_json::from_str(&printed.replace(CONTAINER, "$CONTAINER"))?;
        let mut routes = Map::new();
        for (name, service) in written["services"].as_object().into_iter().flatten() {
            let text = |variable: &str| Some((variable.to_string(), plain(service["environment"][variable].as_str()?).into()));
            routes.insert(name.clone(), OF_ROUTES.iter().filter_map(|variable| text(variable)).collect::<Map<_, _>>().into());
        }
        model.insert(ROUTES.into(), routes.into());
    }
    let volumes = model.entry("volumes").or_insert_with(|| json!({}));
    let declared = raw.iter().filter_map(|file| serde_yaml::from_value::<Map<String, Value>>(file.get("volumes")?.clone()).ok());
    for (key, volume) in declared.flatten() {
        if let Some((volumes, unused)) =
            volumes.as_object_mut().filter(|known| !known.contains_key(&key)).zip(unused(project, &key, &volume))
        {
            volumes.insert(key, unused);
        }
    }
    // Compose prints them by their names; where several say something of one route, the first one's word counts.
    let services = raw.iter().filter_map(|file| file.get("services")?.as_mapping()).flatten();
    model.insert(ORDER.into(), services.filter_map(|(name, _)| name.as_str()).collect());
    Ok(Value::from(model).to_string().into_bytes())
}

/// A volume that is declared and that no service uses. Compose says nothing of it and does not make it, but an earlier version may have, or
/// compose 1, and then it has data.
fn unused(project: &Project, key: &str, raw: &Value) -> Option<Value> {
    let text = |member: &str, default: String| match &raw[member] {
        Value::Null => Some(default),
        Value::String(text) if !text.contains('$') => Some(text.clone()),
        _ => None,
    };
    if !matches!(raw["external"], Value::Null | Value::Bool(false)) {
        return None;
    }
    let (name, driver) = (text("name", format!("{project}_{key}")), text("driver", "local".into()));
    let Some((name, driver)) = name.zip(driver) else {
        warn!("no service uses the volume {key}, and what its variables stand for is not known: it is left alone");
        return None;
    };
    let labels: Map<String, Value> = match &raw["labels"] {
        Value::Object(map) => {
            map.iter().map(|(label, value)| (label.clone(), value.as_str().map_or(value.to_string(), Into::into).into())).collect()
        }
        Value::Array(list) => {
            let pairs = list.iter().filter_map(|pair| pair.as_str()?.split_once('='));
            pairs.map(|(label, value)| (label.into(), value.into())).collect()
        }
        _ => Map::new(),
    };
    Some(json!({ "name": name, "driver": driver, "labels": labels }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The container gets what it always got, routes the name of their container; services that are asked for are those without a profile.
    #[test]
    fn what_is_kept() {
        let printed = json!({
            "x-handler-routes": {"web": {"HAPROXY": "not the handler's word"}},
            "services": {
                "web": {"environment": {"CADDYFILE": format!("a$$b {CONTAINER}:80"), "OTHER": format!("<{CONTAINER}>")}},
                "asked": {"profiles": ["tools"]},
                "other": {"profiles": ["tools", "more"]},
            },
            "volumes": {"data": {"name": "p_data"}},
        });
        let raw = "services: {other: , web: }
volumes:
  data: {driver: ignored}
  unused: {driver: mine, labels: [a=b]}
  variable: {driver: '${WHAT}'}
  away: {external: true}
";
        let project = Project::try_from("p").unwrap();
        let kept = to_keep(&project, &printed.to_string(), Some("asked\nweb\n"), &[yaml::read(raw).unwrap()]).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&kept).unwrap(),
            json!({
                "x-handler-routes": {"asked": {}, "other": {}, "web": {"CADDYFILE": "a$b $CONTAINER:80"}},
                "x-handler-order": ["other", "web"],
                "services": {
                    "web": {"environment": {"CADDYFILE": "a$$b :80", "OTHER": "<>"}},
                    "asked": {},
                    "other": {"profiles": ["tools", "more"]},
                },
                "volumes": {
                    "data": {"name": "p_data"},
                    "unused": {"name": "p_unused", "driver": "mine", "labels": {"a": "b"}},
                },
            })
        );
    }

    /// As `docker-compose version --short` has printed it.
    #[test]
    fn versions() {
        for (version, fine) in [
            ("2.26.1-4\n", true),
            ("v2.24.0\n", true),
            ("5.0.1", true),
            ("2.15.0", true),
            ("2.14.2", false),
            ("1.29.2\n", false),
            ("", false),
            ("dev", false),
        ] {
            assert_eq!(will_do(version), fine, "{version}");
        }
    }

    /// As 2.26 prints it.
    #[test]
    fn what_compose_swallows_is_named() {
        let both = "time=\"2026-11-26T19:00:00Z\" level=warning msg=\"The \\\"N9qo\\\" variable is not set. Defaulting to a blank string.\"\n\
                    time=\"2026-11-26T19:00:00Z\" level=warning msg=\"The \\\"X\\\" variable is not set. Defaulting to a blank string.\"\n\
                    {\n  \"name\": \"p\"\n}\ntime=\"later\"\n";
        let (said, printed) = apart(both);
        assert_eq!(printed, "{\n  \"name\": \"p\"\n}");
        let raw = yaml::read("services: {web: {environment: {CADDYFILE: 'x $N9qo/'}}, db: {image: '${X:-}', command: $N9q}}").unwrap();
        let why = |place: &str, name: &str| {
            format!(
                "{place}the variable {name} is not set, so compose puts nothing in its place; handler env gives it a value, and `$${name}` would be that text with its dollar sign"
            )
        };
        assert_eq!(not_set(said, &[raw]), [why("service web: ", "N9qo"), why("service db: ", "X")]);
        assert_eq!(not_set(said, &[]), [why("", "N9qo"), why("", "X")]);
        assert_eq!(apart("{}"), ("", "{}"));
        assert_eq!(apart("x"), ("", "x"));
    }
}
