//! Docker's engine, over its socket: the containers, images and volumes of one compose project.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::doors::{Request, Service, Unanswered, World};
use crate::model::names::Project;
use crate::model::text::with_short_ids;

const PROJECT: &str = "com.docker.compose.project";
/// For calls that only ask.
pub const QUICK: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum Error {
    /// It does not run on this node, or did not answer: what was asked may have been done.
    Unanswered {
        asked: String,
        why: Unanswered,
    },
    Refused {
        asked: String,
        status: u16,
        says: String,
    },
    Unexpected {
        asked: String,
        body: String,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Unanswered { asked, why } => write!(f, "Docker's engine does not answer: {asked}: {why}"),
            Error::Refused { asked, status, says } => write!(f, "Docker's engine refused: {asked}: status {status}: {says}"),
            Error::Unexpected { asked, body } => write!(f, "Docker's engine: {asked}: unexpected answer: {body}"),
        }
    }
}

/// What the engine says of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    /// The image's ID.
    pub image: String,
    /// The image's name, as the compose file or compose itself gave it.
    pub image_name: String,
    pub service: String,
    /// `running`, `exited` …
    pub status: String,
    pub exit_code: i64,
    pub restarts: u64,
    pub started_at: String,
    /// `starting`, `healthy` or `unhealthy`, and what the last check printed; `None` without a HEALTHCHECK.
    pub health: Option<(String, String)>,
    /// One of `compose run`'s, which is none of the services.
    pub oneoff: bool,
    pub restart: Restart,
}

impl Container {
    /// From `GET /containers/<id>/json`. `None` for what is none.
    fn of(value: &Value) -> Option<Container> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (state, config, policy) = (&value["State"], &value["Config"], &value["HostConfig"]["RestartPolicy"]);
        let health = |health: &Value| {
            let last = health["Log"].as_array().and_then(|log| log.last());
            (text(&health["Status"]), last.map_or(String::new(), |last| text(&last["Output"])))
        };
        Some(Container {
            id: value["Id"].as_str()?.into(),
            name: text(&value["Name"]).trim_start_matches('/').into(),
            image: value["Image"].as_str()?.into(),
            image_name: text(&config["Image"]),
            service: text(&config["Labels"]["com.docker.compose.service"]),
            status: state["Status"].as_str()?.into(),
            exit_code: state["ExitCode"].as_i64().unwrap_or_default(),
            restarts: value["RestartCount"].as_u64().unwrap_or_default(),
            started_at: text(&state["StartedAt"]),
            health: state.get("Health").filter(|health| health.is_object()).map(health),
            oneoff: config["Labels"]["com.docker.compose.oneoff"] == "True",
            restart: Restart {
                name: Some(text(&policy["Name"])).filter(|name| !name.is_empty()).unwrap_or_else(|| "no".into()),
                most: policy["MaximumRetryCount"].as_u64().unwrap_or_default(),
            },
        })
    }
}

/// What the engine does when a container ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// `no`, `always`, `unless-stopped` or `on-failure`
    pub name: String,
    /// How often, with `on-failure`; 0 for ever.
    pub most: u64,
}

impl Restart {
    pub fn never() -> Restart {
        Restart { name: "no".into(), most: 0 }
    }
}

/// A container of a compose project, as the list of all has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    pub project: String,
    pub service: String,
    pub name: String,
    /// `running`, `exited` …
    pub state: String,
    /// One of `compose run`'s.
    pub oneoff: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawListed {
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    labels: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "com.docker.compose.project")]
    project: String,
    #[serde(rename = "com.docker.compose.service")]
    service: String,
    #[serde(rename = "com.docker.compose.oneoff")]
    oneoff: String,
}

impl From<RawListed> for Listed {
    fn from(raw: RawListed) -> Listed {
        let RawListed { names, state, labels: Labels { project, service, oneoff } } = raw;
        let name = names.first().map_or("", |name| name.trim_start_matches('/')).into();
        Listed { project, service, name, state, oneoff: oneoff == "True" }
    }
}

impl Listed {
    pub fn is_down(&self) -> bool {
        ["created", "exited", "dead", "removing"].contains(&&*self.state)
    }
}

/// A volume, as the engine lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
}

impl Made {
    /// The project that compose has made it for.
    pub fn project(&self) -> &str {
        self.labels.get(PROJECT).map_or("", String::as_str)
    }
}

/// The engine of this node.
pub struct Engine<'a> {
    pub world: &'a World,
    /// For calls that only ask.
    pub patience: Duration,
}

impl Engine<'_> {
    fn call(&self, method: &str, path: &str, body: &[u8], timeout: Duration) -> Result<(u16, Vec<u8>), Error> {
        let sent = self.world.net.send(Service::Engine, Request { method, path, body, timeout });
        let answer = sent.map_err(|why| Error::Unanswered { asked: format!("{method} {path}"), why })?;
        Ok((answer.status, answer.body))
    }

    /// `fine`: the statuses that are no failure besides 2xx.
    fn act(&self, method: &str, path: &str, body: &Value, timeout: Duration, fine: &[u16]) -> Result<(), Error> {
        log::info!("engine: {method} {}", with_short_ids(path));
        let text = if body.is_null() { String::new() } else { body.to_string() };
        match self.call(method, path, text.as_bytes(), timeout)? {
            (200..=299, _) => Ok(()),
            (status, _) if fine.contains(&status) => Ok(()),
            (status, body) => Err(refused(method, path, status, &body)),
        }
    }

    /// `None`: there is no such thing.
    fn read(&self, path: &str) -> Result<Option<Value>, Error> {
        match self.call("GET", path, b"", self.patience)? {
            (200, body) => match serde_json::from_slice(&body) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(unexpected(path, &body)),
            },
            (404, _) => Ok(None),
            (status, body) => Err(refused("GET", path, status, &body)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<Value>, Error> {
        match self.read(path)? {
            Some(Value::Array(list)) => Ok(list),
            other => Err(unexpected(path, other.unwrap_or_default().to_string().as_bytes())),
        }
    }

    /// All containers of the project, running or not, but those of `compose run`.
    pub fn containers(&self, project: &Project) -> Result<Vec<Container>, Error> {
        Ok(self.with_oneoffs(project)?.into_iter().filter(|container| !container.oneoff).collect())
    }

    fn with_oneoffs(&self, project: &Project) -> Result<Vec<Container>, Error> {
        let path = format!("/containers/json?all=1&filters={}", project_filter(project));
        let mut containers = Vec::new();
        for listed in self.list(&path)? {
            let path = format!("/containers/{}/json", listed["Id"].as_str().unwrap_or_default());
            // One of them may have gone in between.
            let Some(value) = self.read(&path)? else { continue };
            containers.push(Container::of(&value).ok_or_else(|| unexpected(&path, value.to_string().as_bytes()))?);
        }
        Ok(containers)
    }

    /// The last lines that a container printed.
    pub fn logs(&self, container: &str) -> String {
        let path = format!("/containers/{container}/logs?stdout=1&stderr=1&tail=10");
        match self.call("GET", &path, b"", self.patience) {
            Ok((200, body)) => lines_of(&body),
            Ok((status, body)) => refused("GET", &path, status, &body).to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn each(&self, project: &Project, act: impl Fn(&str) -> Result<(), Error>) -> Result<(), Error> {
        self.with_oneoffs(project)?.iter().try_for_each(|container| act(&container.id))
    }

    /// Stops the project's containers, and keeps them from coming back with the engine.
    pub fn stop_for_good(&self, project: &Project, deadline: Duration) -> Result<(), Error> {
        self.each(project, |id| self.set_restart(id, &Restart::never()))?;
        self.stop(project, deadline)
    }

    /// Wherever their checkout is.
    pub fn stop(&self, project: &Project, deadline: Duration) -> Result<(), Error> {
        self.each(project, |id| self.act("POST", &format!("/containers/{id}/stop"), &Value::Null, deadline, &[304, 404]))
    }

    pub fn start(&self, project: &Project, deadline: Duration) -> Result<(), Error> {
        self.containers(project)?.iter().try_for_each(|container| self.start_one(&container.id, deadline))
    }

    pub fn start_one(&self, id: &str, deadline: Duration) -> Result<(), Error> {
        self.act("POST", &format!("/containers/{id}/start"), &Value::Null, deadline, &[304])
    }

    /// Removes the project's containers, running or not.
    pub fn remove(&self, project: &Project, deadline: Duration) -> Result<(), Error> {
        self.each(project, |id| self.act("DELETE", &format!("/containers/{id}?force=1"), &Value::Null, deadline, &[404]))
    }

    /// The names of all containers, running or not and whosesoever, that have the volume, with their projects.
    pub fn containers_on(&self, volume: &str) -> Result<BTreeMap<String, String>, Error> {
        let filter = escaped(&json!({ "volume": [volume] }).to_string());
        self.names(&format!("/containers/json?all=1&filters={filter}"))
    }

    /// The names of all containers, running or not, with their projects.
    pub fn all_containers(&self) -> Result<BTreeMap<String, String>, Error> {
        self.names("/containers/json?all=1")
    }

    fn names(&self, path: &str) -> Result<BTreeMap<String, String>, Error> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let name = |container: &Value| text(&container["Names"][0]).trim_start_matches('/').to_string();
        Ok(self.list(path)?.iter().map(|container| (name(container), text(&container["Labels"][PROJECT]))).collect())
    }

    /// The containers of all compose projects, running or not.
    pub fn listed(&self) -> Result<Vec<Listed>, Error> {
        let path = format!("/containers/json?all=1&filters={}", escaped(&json!({ "label": [PROJECT] }).to_string()));
        match self.call("GET", &path, b"", self.patience)? {
            // Not by way of a Value: there may be hundreds, and little of each is needed.
            (200, body) => match serde_json::from_slice::<Vec<RawListed>>(&body) {
                Ok(listed) => Ok(listed.into_iter().map(Listed::from).collect()),
                Err(_) => Err(unexpected(&path, &body)),
            },
            (status, body) => Err(refused("GET", &path, status, &body)),
        }
    }

    /// Each compose project that has containers here, and whether one of them is up.
    pub fn projects(&self) -> Result<BTreeMap<String, bool>, Error> {
        Ok(projects(&self.listed()?))
    }

    /// What the engine does when the container ends by itself, or when the engine starts.
    pub fn set_restart(&self, id: &str, policy: &Restart) -> Result<(), Error> {
        let body = json!({ "RestartPolicy": { "Name": policy.name, "MaximumRetryCount": policy.most } });
        self.act("POST", &format!("/containers/{id}/update"), &body, QUICK, &[404])
    }

    /// `20.10.24+dfsg1`
    pub fn version(&self) -> Result<String, Error> {
        let answer = self.read("/version")?.unwrap_or_default();
        answer["Version"].as_str().map(String::from).ok_or_else(|| unexpected("/version", answer.to_string().as_bytes()))
    }

    pub fn has_volume(&self, volume: &str) -> Result<bool, Error> {
        Ok(self.read(&format!("/volumes/{volume}"))?.is_some())
    }

    pub fn remove_volume(&self, volume: &str) -> Result<(), Error> {
        self.act("DELETE", &format!("/volumes/{volume}"), &Value::Null, QUICK, &[])
    }

    /// The volumes that compose has made for the project.
    pub fn volumes(&self, project: &Project) -> Result<Vec<Made>, Error> {
        self.volumes_at(&format!("/volumes?filters={}", project_filter(project)))
    }

    /// Whosesoever.
    pub fn all_volumes(&self) -> Result<Vec<Made>, Error> {
        self.volumes_at("/volumes")
    }

    fn volumes_at(&self, path: &str) -> Result<Vec<Made>, Error> {
        let listed = self.read(path)?.unwrap_or_default();
        let made = |volume: &Value| {
            let labels = volume["Labels"].as_object().into_iter().flatten();
            let labels = labels.filter_map(|(label, value)| Some((label.clone(), value.as_str()?.to_string()))).collect();
            Some(Made { name: volume["Name"].as_str()?.into(), driver: volume["Driver"].as_str().unwrap_or_default().into(), labels })
        };
        Ok(listed["Volumes"].as_array().into_iter().flatten().filter_map(made).collect())
    }

    /// The ID of the image that has this name here.
    pub fn image(&self, name: &str) -> Result<Option<String>, Error> {
        let found = self.read(&format!("/images/{}/json", escaped(name)))?;
        Ok(found.and_then(|image| Some(image["Id"].as_str()?.to_string())))
    }

    /// Gives an image its name back.
    pub fn tag(&self, id: &str, name: &str) -> Result<(), Error> {
        let (repo, tag) = split_tag(name);
        let path = format!("/images/{}/tag?repo={}&tag={}", escaped(id), escaped(repo), escaped(tag));
        self.act("POST", &path, &Value::Null, QUICK, &[])
    }
}

/// Each project of these containers, and whether one of them is up.
pub fn projects(listed: &[Listed]) -> BTreeMap<String, bool> {
    let mut projects = BTreeMap::new();
    for container in listed {
        *projects.entry(container.project.clone()).or_default() |= !container.is_down();
    }
    projects
}

fn refused(method: &str, path: &str, status: u16, body: &[u8]) -> Error {
    let message = serde_json::from_slice::<Value>(body).ok().and_then(|value| Some(value["message"].as_str()?.to_string()));
    let says = message.unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(500)]).trim().into());
    Error::Refused { asked: format!("{method} {path}"), status, says }
}

fn unexpected(path: &str, body: &[u8]) -> Error {
    Error::Unexpected { asked: format!("GET {path}"), body: String::from_utf8_lossy(&body[..body.len().min(500)]).into() }
}

fn project_filter(project: &Project) -> String {
    escaped(&json!({ "label": [format!("{PROJECT}={project}")] }).to_string())
}

/// As a part of a path or query; slashes stay, as the engine's API wants them in names of images.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `registry:5000/a/b:tag`; without a tag it is the latest.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repo, tag)) if !tag.contains('/') => (repo, tag),
        _ => (name, "latest"),
    }
}

/// What a container's log says. Without a terminal each piece stands behind a head of eight bytes: the stream (0 to 2), three zeros, the
/// length.
fn lines_of(log: &[u8]) -> String {
    let (mut text, mut rest) = (Vec::new(), log);
    while let Some(([0..=2, 0, 0, 0, length @ ..], after)) = rest.split_first_chunk::<8>() {
        let Some((piece, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize) else { break };
        text.extend_from_slice(piece);
        rest = after;
    }
    text.extend_from_slice(rest);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As engine 20.10 has answered, shortened.
    const CONTAINER: &str = r#"{"Id": "299f648cd7f0", "Created": "2026-11-24T17:45:28.569313704Z",
        "State": {"Status": "running", "Running": true, "Restarting": false, "ExitCode": 0, "StartedAt": "2026-11-24T17:45:28.898032971Z",
            "Health": {"Status": "unhealthy", "FailingStreak": 3, "Log": [{"ExitCode": 1, "Output": "first\n"}, {"ExitCode": 1, "Output": "not yet\n"}]}},
        "Image": "sha256:de0f704f1cad", "Name": "/rec1", "RestartCount": 0,
        "Config": {"Image": "cache:1", "Labels": {"com.docker.compose.oneoff": "False", "com.docker.compose.project": "rec",
            "com.docker.compose.service": "web"}},
        "HostConfig": {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}}}"#;

    #[test]
    fn a_container_is_read() {
        let container = Container::of(&serde_json::from_str(CONTAINER).unwrap()).unwrap();
        assert_eq!((&*container.name, &*container.service, &*container.image_name), ("rec1", "web", "cache:1"));
        assert_eq!((&*container.status, container.restarts, container.oneoff), ("running", 0, false));
        assert_eq!(container.health, Some(("unhealthy".into(), "not yet\n".into())));
        assert_eq!(Container::of(&json!({"message": "No such container: nope"})), None);
    }

    #[test]
    fn a_log_is_read_with_and_without_heads() {
        assert_eq!(lines_of(b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n"), "out\nerr\n");
        assert_eq!(lines_of(b"a terminal's line\n"), "a terminal's line\n");
        assert_eq!(lines_of(b"\x01\0\0\0\0\0\0\x09torn"), "\x01\0\0\0\0\0\0\x09torn");
        assert_eq!(lines_of(b""), "");
    }

    #[test]
    fn a_refusal_says_why() {
        let error = refused("DELETE", "/volumes/x", 409, br#"{"message":"remove x: volume is in use - [299f648cd7f0]"}"#);
        assert_eq!(
            error.to_string(),
            "Docker's engine refused: DELETE /volumes/x: status 409: remove x: volume is in use - [299f648cd7f0]"
        );
        assert_eq!(refused("GET", "/x", 500, b"oops\n").to_string(), "Docker's engine refused: GET /x: status 500: oops");
    }

    #[test]
    fn names_of_images() {
        assert_eq!(split_tag("registry:5000/a/b"), ("registry:5000/a/b", "latest"));
        assert_eq!(split_tag("registry:5000/a/b:1"), ("registry:5000/a/b", "1"));
        assert_eq!(escaped("a/b:1?x"), "a/b:1%3Fx");
        let project = Project::try_from("shop").unwrap();
        assert_eq!(project_filter(&project), "%7B%22label%22:%5B%22com.docker.compose.project%3Dshop%22%5D%7D");
    }
}
