//! The engine of one node: its containers, images and volumes, and its API.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::http::{Request, Response};
use super::{DRIVER, State};

pub const PROJECT: &str = "com.docker.compose.project";

#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub project: String,
    pub service: String,
    pub name: String,
    pub image: String,
    pub reference: String,
    pub running: bool,
    /// By somebody, so that it does not come back with the engine unless it is to do so always.
    pub stopped: bool,
    pub volumes: Vec<String>,
    pub dir: String,
    pub config: String,
    pub start: String,
    pub checked: bool,
    pub restart: String,
    pub started: String,
    /// How often it was inspected since its start: time, for what happens later.
    pub looks: u32,
    /// One of `docker-compose run`'s.
    pub oneoff: bool,
}

/// A volume that was made through docker.
#[derive(Clone, Debug)]
pub struct Made {
    pub project: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone)]
pub struct Engine {
    /// What docker-compose says that it is.
    pub compose: String,
    pub version: String,
    pub containers: Vec<Container>,
    /// id → what it was made from
    pub images: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    pub volumes: BTreeMap<String, Made>,
    /// Projects whose network something else is connected to: it cannot be removed.
    pub held_networks: BTreeSet<String>,
    pub born: usize,
}

impl Default for Engine {
    fn default() -> Engine {
        let (containers, images, tags, volumes, held_networks) = Default::default();
        Engine { compose: "2.26.1".into(), version: "20.10.24+dfsg1".into(), containers, images, tags, volumes, held_networks, born: 0 }
    }
}

/// An image's name without a tag means the latest.
pub fn with_tag(reference: &str) -> String {
    if reference.contains(':') { reference.to_owned() } else { format!("{reference}:latest") }
}

impl Engine {
    pub fn image(&self, reference: &str) -> Option<&String> {
        self.tags.get(&with_tag(reference)).or_else(|| self.images.get_key_value(reference).map(|(id, _)| id))
    }

    /// An image has one id for one content, as a build with a cache has.
    pub fn tag(&mut self, reference: &str, content: &str) {
        let id = format!("sha256:{:x}{:x}", md5::compute(content), md5::compute(reference));
        self.images.insert(id.clone(), content.to_owned());
        self.tags.insert(with_tag(reference), id);
    }

    pub fn tags_of(&self, id: &str) -> Vec<&String> {
        self.tags.iter().filter(|(_, i)| *i == id).map(|(tag, _)| tag).collect()
    }

    pub fn give_tag(&mut self, id: &str, reference: &str) -> Result<(), String> {
        let id = self.image(id).cloned().ok_or_else(|| format!("No such image: {id}"))?;
        self.tags.insert(with_tag(reference), id);
        Ok(())
    }

    /// Names for the log instead of ids.
    pub fn readable(&self, arg: &str) -> String {
        let container = self.containers.iter().find(|c| c.id == arg).map(|c| c.name.clone());
        container.or_else(|| self.images.get(arg).map(|i| format!("<{i}>"))).unwrap_or_else(|| arg.to_owned())
    }
}

/// What is asked of it, in words that stay the same from one run to the next.
pub fn describe(s: &State, node: &str, request: &Request) -> String {
    let engine = &s.nodes[node].engine;
    let parts: Vec<&str> = request.path.trim_matches('/').splitn(2, '/').collect();
    let rest = parts.get(1).copied().unwrap_or_default();
    let (name, verb) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let name = engine.readable(name);
    match (request.method.as_str(), parts[0], verb) {
        ("GET", "version", _) => "engine GET version".to_owned(),
        ("GET", "containers", "") | ("GET", "volumes", _) => format!("engine GET {} {}", parts[0], project_of(request)),
        ("GET", "images", _) => format!("engine GET image {name}"),
        ("GET", kind, verb) => format!("engine GET {} {name}", if verb == "json" { kind.trim_end_matches('s') } else { verb }),
        ("DELETE", "containers", _) => format!("engine rm {}", engine.readable(rest)),
        ("DELETE", "volumes", _) => format!("engine volume rm {rest}"),
        ("POST", "images", "tag") => {
            format!("engine tag {name} {}:{}", request.get("repo").unwrap_or("?"), request.get("tag").unwrap_or("?"))
        }
        (_, _, verb) => {
            let policy = policy_of(request).map(|name| format!(" restart={name}")).unwrap_or_default();
            format!("engine {verb} {name}{policy}")
        }
    }
}

fn policy_of(request: &Request) -> Option<String> {
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    body["RestartPolicy"]["Name"].as_str().map(str::to_owned)
}

fn filter(request: &Request, by: &str) -> Option<String> {
    let filters: Value = serde_json::from_str(request.get("filters").unwrap_or_default()).unwrap_or_default();
    filters[by][0].as_str().map(str::to_owned)
}

fn label_of(request: &Request) -> String {
    filter(request, "label").unwrap_or_default()
}

fn volume_of(request: &Request) -> Option<String> {
    filter(request, "volume")
}

/// What is filtered by: a project, all of them, or a volume.
fn project_of(request: &Request) -> String {
    match (volume_of(request), label_of(request).split_once('=')) {
        (Some(volume), _) => format!("on {volume}"),
        (None, Some((_, project))) => project.to_owned(),
        (None, None) => "of all projects".to_owned(),
    }
}

pub fn error(status: u16, text: &str) -> Response {
    Response::new(status, json!({ "message": text }).to_string())
}

pub fn answer(s: &mut State, node: &str, request: &Request) -> Response {
    let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let json = |value: Value| Response::new(200, value.to_string());
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["version"]) => json(json!({"Version": s.engine(node).version})),
        ("GET", ["containers", "json"]) => {
            let all = request.get("all").is_some_and(|all| all == "1");
            let (wanted, volume) = (label_of(request), volume_of(request));
            let fits = |c: &&Container| match (&volume, wanted.split_once('=')) {
                (Some(volume), _) => c.volumes.contains(volume),
                (None, Some((_, project))) => c.project == project,
                (None, None) => true,
            };
            let found = s.engine(node).containers.iter().filter(|c| all || c.running).filter(fits);
            let one = |c: &Container| {
                let oneoff = if c.oneoff { "True" } else { "False" };
                let labels = json!({PROJECT: c.project, "com.docker.compose.service": c.service, "com.docker.compose.oneoff": oneoff});
                json!({"Id": c.id, "Names": [format!("/{}", c.name)], "State": c.status().0, "Labels": labels})
            };
            json(found.map(one).collect())
        }
        ("GET", ["volumes"]) => {
            let wanted = label_of(request);
            let (made, plugin) = (&s.nodes[node].engine.volumes, &s.nodes[node].plugin);
            let found = made.iter().filter(|(_, made)| wanted.is_empty() || wanted == format!("{PROJECT}={}", made.project));
            let one = |(name, made): (&String, &Made)| {
                let mut labels = json!(made.labels);
                labels[PROJECT] = made.project.clone().into();
                json!({"Name": name, "Driver": if plugin.volumes.contains_key(name) { DRIVER } else { "local" }, "Labels": labels})
            };
            // An engine asks its plugins, too, for what it has not made itself.
            let brought = plugin.volumes.keys().filter(|name| wanted.is_empty() && !made.contains_key(*name));
            let all: Vec<Value> =
                found.map(one).chain(brought.map(|name| json!({"Name": name, "Driver": DRIVER, "Labels": null}))).collect();
            json(json!({"Volumes": all, "Warnings": null}))
        }
        ("GET", ["volumes", name]) if s.engine(node).volumes.contains_key(*name) => json(json!({"Name": name})),
        ("DELETE", ["volumes", name]) => match s.remove_engine_volume(node, name) {
            Ok(()) => Response::new(204, ""),
            Err(text) => error(if text.contains("in use") { 409 } else { 404 }, &text),
        },
        ("GET", ["images", name @ .., "json"]) => {
            let (e, name) = (s.engine(node), name.join("/"));
            match e.image(&name) {
                Some(id) => json(json!({"Id": id, "RepoTags": e.tags_of(id)})),
                None => error(404, &format!("No such image: {name}")),
            }
        }
        ("POST", ["images", name @ .., "tag"]) => {
            // A name with a digest is given to no image: ParseNormalizedNamed takes no `@` without what follows it.
            if request.get("repo").is_some_and(|repo| repo.contains('@')) {
                return error(400, "invalid reference format");
            }
            let reference = format!("{}:{}", request.get("repo").unwrap_or_default(), request.get("tag").unwrap_or("latest"));
            match s.engine(node).give_tag(&name.join("/"), &reference) {
                Ok(()) => Response::new(201, ""),
                Err(text) => error(404, &text),
            }
        }
        (method, ["containers", id, rest @ ..]) => {
            let found = s.engine(node).containers.iter().position(|c| c.id == *id || c.name == *id);
            let Some(i) = found else { return error(404, &format!("No such container: {id}")) };
            container(s, node, i, method, rest, request)
        }
        _ => error(404, "page not found"),
    }
}

fn container(s: &mut State, node: &str, i: usize, method: &str, verb: &[&str], request: &Request) -> Response {
    let running = s.engine(node).containers[i].running;
    match (method, verb) {
        ("GET", ["json"]) => Response::new(200, s.engine(node).containers[i].inspect().to_string()),
        // As one piece of the standard error.
        ("GET", ["logs"]) => {
            let config: Value = serde_json::from_str(&s.engine(node).containers[i].config).unwrap_or_default();
            let said = format!("{}\n", config["x-standin"]["says"].as_str().unwrap_or("last words"));
            Response::new(200, [&[2, 0, 0, 0, 0, 0, 0, said.len() as u8], said.as_bytes()].concat())
        }
        ("POST", ["stop"]) if !running => Response::new(304, ""),
        ("POST", ["stop"]) => {
            s.stop(node, i);
            Response::new(204, "")
        }
        ("POST", ["start"]) if running => Response::new(304, ""),
        ("POST", ["start"]) => match s.start(node, i) {
            Ok(()) => Response::new(204, ""),
            Err(text) => error(500, &text),
        },
        ("POST", ["update"]) => {
            if let Some(policy) = policy_of(request) {
                s.engine(node).containers[i].restart = policy;
            }
            Response::new(200, r#"{"Warnings": null}"#)
        }
        ("DELETE", []) if running && request.get("force").is_none_or(|force| force != "1") => {
            error(409, "You cannot remove a running container. Stop the container before attempting removal or force remove")
        }
        // Killed, not stopped: without a last write.
        ("DELETE", []) => {
            s.engine(node).containers.remove(i);
            Response::new(204, "")
        }
        _ => error(404, "page not found"),
    }
}

impl Container {
    pub fn inspect(&mut self) -> Value {
        self.looks += u32::from(self.running);
        let late = self.looks > 1;
        let (status, code) = self.status();
        let health = match self.start.as_str() {
            "unhealthy" if late => "unhealthy",
            "unhealthy" => "starting",
            "slow" if self.looks < 4 => "starting",
            _ => "healthy",
        };
        let is_up = ["running", "restarting"].contains(&status);
        let mut state = json!({
            "Status": status, "Running": is_up, "Restarting": status == "restarting",
            "ExitCode": code, "StartedAt": self.started, "Error": "", "Paused": false, "Dead": false, "OOMKilled": false,
        });
        if self.checked && status == "running" {
            state["Health"] = json!({"Status": health, "FailingStreak": 0, "Log": []});
        }
        let labels = json!({
            PROJECT: self.project, "com.docker.compose.service": self.service, "com.docker.compose.container-number": "1",
            "com.docker.compose.project.working_dir": self.dir, "com.docker.compose.oneoff": if self.oneoff { "True" } else { "False" },
        });
        json!({
            "Id": self.id, "Name": format!("/{}", self.name), "Image": self.image, "State": state,
            "RestartCount": if status == "restarting" { self.looks } else { 0 },
            "Config": {"Image": self.reference, "Labels": labels}, "HostConfig": {"RestartPolicy": {"Name": self.restart}},
        })
    }

    /// With its exit code.
    fn status(&self) -> (&'static str, i64) {
        match (self.running, self.start.as_str()) {
            (false, "refused") => ("created", 128),
            // Nobody has stopped it: the power failed.
            (false, _) => ("exited", if self.stopped { 0 } else { 255 }),
            (true, "exits") => ("exited", 3),
            (true, "exits-late") if self.looks > 1 => ("exited", 3),
            (true, "ends") => ("exited", 0),
            (true, "restarts") => ("restarting", 3),
            (true, _) => ("running", 0),
        }
    }

    /// Stopped, or ended by itself.
    pub fn is_down(&self) -> bool {
        !self.running || self.status().0 == "exited"
    }

    /// Whether it starts with the engine.
    pub fn comes_back(&self) -> bool {
        match self.restart.as_str() {
            "always" => true,
            "unless-stopped" => !self.stopped,
            _ => false,
        }
    }

    /// Serving, as a client sees it.
    pub fn serves(&self) -> bool {
        self.running && !["ends", "exits", "exits-late", "restarts", "unhealthy"].contains(&self.start.as_str())
    }
}

impl State {
    pub fn engine(&mut self, node: &str) -> &mut Engine {
        &mut self.nodes.get_mut(node).unwrap().engine
    }

    /// The last write of a container is made while it stops: “|”. A snapshot taken before has not got it.
    pub fn stop(&mut self, node: &str, i: usize) {
        let c = &mut self.engine(node).containers[i];
        let dir = c.dir.clone();
        c.stopped = true;
        let volumes = if std::mem::take(&mut c.running) { c.volumes.clone() } else { Vec::new() };
        for v in volumes {
            self.append(node, &v, "|");
            if self.recorded(node, &dir) {
                let content = self.nodes[node].plugin.volumes.get(&v).cloned();
                self.precious.extend(content);
            }
        }
    }

    /// Whether a record names the deployment that has its checkout here.
    fn recorded(&self, node: &str, dir: &str) -> bool {
        let records = self.store.kv.iter().filter(|(key, _)| key.starts_with("app/"));
        let mut records = records.filter_map(|(_, e)| serde_json::from_slice::<Value>(&e.value).ok());
        records.any(|r| r["master"] == node && r["deploy_id"].as_str().is_some_and(|id| dir.ends_with(id)))
    }

    pub fn append(&mut self, node: &str, volume: &str, text: &str) {
        if let Some(content) = self.plugin(node).volumes.get_mut(volume).filter(|c| !c.ends_with(text)) {
            content.push_str(text);
        }
    }

    pub fn start(&mut self, node: &str, i: usize) -> Result<(), String> {
        let started = self.now(node) + "Z";
        let c = &mut self.engine(node).containers[i];
        if c.start == "refused" {
            return Err("driver failed programming external connectivity: port is already allocated".to_owned());
        }
        if c.is_down() {
            (c.running, c.stopped, c.started, c.looks) = (true, false, started, 0);
        }
        Ok(())
    }

    pub fn remove_engine_volume(&mut self, node: &str, name: &str) -> Result<(), String> {
        if self.plugin(node).held.contains(name) || self.engine(node).containers.iter().any(|c| c.volumes.iter().any(|v| v == name)) {
            return Err(format!("remove {name}: volume is in use"));
        }
        let known = self.engine(node).volumes.remove(name).is_some();
        if !known && !self.plugin(node).volumes.contains_key(name) {
            return Err(format!("get {name}: no such volume"));
        }
        self.remove_volume(node, name);
        Ok(())
    }
}
