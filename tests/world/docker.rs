//! The engine of one node with compose 1 or 2. What a service's containers do stands in the compose file of the test:
//!
//!     x-standin: {build: fails, start: exits | restarts | unhealthy | slow | refused, writes: TEXT}

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use serde_yaml::Value as Yaml;

use super::{Out, State, git};

const PROJECT: &str = "com.docker.compose.project";

#[derive(Clone, Debug)]
pub struct Container {
    pub id: String,
    pub project: String,
    pub service: String,
    pub name: String,
    pub image: String,
    reference: String,
    pub running: bool,
    pub volumes: Vec<String>,
    dir: String,
    config: String,
    start: String,
    checked: bool,
    pub restart: String,
    started: String,
    /// How often it was inspected since its start: time, for what happens later.
    looks: u32,
}

#[derive(Clone, Default)]
pub struct Engine {
    /// 1 or 2; 0 for none
    pub compose: u8,
    pub containers: Vec<Container>,
    /// id → what it was made from
    pub images: BTreeMap<String, String>,
    pub tags: BTreeMap<String, String>,
    /// The volumes that were made through docker, and for which project.
    pub volumes: BTreeMap<String, String>,
    pub born: usize,
}

/// An image's name without a tag means the latest.
fn with_tag(reference: &str) -> String {
    if reference.contains(':') { reference.to_owned() } else { format!("{reference}:latest") }
}

impl Engine {
    fn image(&self, reference: &str) -> Option<&String> {
        self.tags.get(&with_tag(reference)).or_else(|| self.images.get_key_value(reference).map(|(id, _)| id))
    }

    /// An image has one id for one content, as a build with a cache has.
    pub fn tag(&mut self, reference: &str, content: &str) {
        let id = format!("sha256:{:x}{:x}", md5::compute(content), md5::compute(reference));
        self.images.insert(id.clone(), content.to_owned());
        self.tags.insert(with_tag(reference), id);
    }

    /// Names for the log instead of ids.
    pub fn readable(&self, arg: &str) -> String {
        let container = self.containers.iter().find(|c| c.id == arg).map(|c| c.name.clone());
        container.or_else(|| self.images.get(arg).map(|i| format!("<{i}>"))).unwrap_or_else(|| arg.to_owned())
    }
}

pub fn run(s: &mut State, node: &str, args: &[&str]) -> Out {
    match args {
        ["info", "--format", _] if s.engine(node).compose == 2 => Out::ok("docker-compose\n"),
        ["info", "--format", _] => Out::ok("\n"),
        ["ps", rest @ ..] => {
            let (all, project) = (rest.iter().any(|a| a.starts_with("-a")), project_of(rest));
            let found = s.engine(node).containers.iter().filter(|c| c.project == project && (all || c.running));
            Out::ok(found.map(|c| c.id.clone() + "\n").collect::<String>())
        }
        ["image", "inspect", "--format", _, references @ ..] | ["image", "inspect", references @ ..] => {
            let e = s.engine(node);
            let found = references.iter().filter_map(|r| {
                let id = e.image(r)?;
                let tags: Vec<_> = e.tags.iter().filter(|(_, i)| *i == id).map(|(t, _)| t).collect();
                Some(json!({"Id": id, "RepoTags": tags}))
            });
            listed(found.collect(), references, "Error response from daemon: No such image")
        }
        ["inspect", ids @ ..] => {
            let all = &mut s.engine(node).containers;
            let found = all.iter_mut().filter(|c| ids.contains(&c.id.as_str()) || ids.contains(&c.name.as_str()));
            listed(found.map(Container::inspect).collect(), ids, "Error: No such object")
        }
        ["tag", id, reference] => {
            let e = s.engine(node);
            let Some(id) = e.image(id).cloned() else {
                return Out::fail(1, &format!("Error response from daemon: No such image: {id}"));
            };
            e.tags.insert(with_tag(reference), id);
            Out::ok("")
        }
        ["stop", ids @ ..] => each(s, node, ids, |s, i| s.stop(node, i)),
        ["update", "--restart=no", ids @ ..] => each(s, node, ids, |s, i| s.engine(node).containers[i].restart = "no".to_owned()),
        // Killed, not stopped: without a last write.
        ["rm", "--force", ids @ ..] => each(s, node, ids, |s, i| drop(s.engine(node).containers.remove(i))),
        ["logs", "--tail", _, _] => Out { stderr: "last words\n".to_owned(), ..Out::ok("") },
        ["volume", "ls", "-q", rest @ ..] => {
            let project = project_of(rest);
            let found = s.engine(node).volumes.iter().filter(|(_, p)| **p == project);
            Out::ok(found.map(|(name, _)| format!("{name}\n")).collect::<String>())
        }
        ["volume", "rm", names @ ..] => {
            for name in names {
                if s.engine(node).containers.iter().any(|c| c.volumes.contains(&name.to_string())) {
                    return Out::fail(1, &format!("Error response from daemon: remove {name}: volume is in use"));
                }
                let known = s.engine(node).volumes.remove(*name).is_some();
                if !known && !s.plugin(node).volumes.contains_key(*name) {
                    return Out::fail(1, &format!("Error response from daemon: get {name}: no such volume"));
                }
                s.remove_volume(node, name);
            }
            Out::ok("")
        }
        _ => Out::fail(125, &format!("stand-in: no such docker command: {args:?}")),
    }
}

fn project_of(args: &[&str]) -> String {
    let prefix = format!("label={PROJECT}=");
    args.iter().find_map(|a| a.strip_prefix(&prefix)).unwrap_or("?").to_owned()
}

fn listed(found: Vec<Value>, wanted: &[&str], missing: &str) -> Out {
    let all = found.len() == wanted.len();
    let stderr = if all { String::new() } else { format!("{missing}: {}\n", wanted.join(" ")) };
    Out { stdout: Value::from(found).to_string(), stderr, status: u8::from(!all) }
}

fn each(s: &mut State, node: &str, ids: &[&str], act: impl Fn(&mut State, usize)) -> Out {
    for id in ids {
        match s.engine(node).containers.iter().position(|c| c.id == *id || c.name == *id) {
            Some(i) => act(s, i),
            None => {
                return Out::fail(1, &format!("Error response from daemon: No such container: {id}"));
            }
        }
    }
    Out::ok(ids.join("\n"))
}

pub fn compose(s: &mut State, node: &str, args: &[&str], cwd: &Path) -> Out {
    let ["-p", project, "-f", file, verb, rest @ ..] = args else {
        return Out::fail(1, &format!("stand-in: no such compose command: {args:?}"));
    };
    let text = match std::fs::read_to_string(cwd.join(file)) {
        Ok(text) => text,
        Err(e) => return Out::fail(14, &format!("open {file}: {e}")),
    };
    let yaml = match serde_yaml::from_str::<Yaml>(&text).and_then(|mut y| y.apply_merge().map(|()| y)) {
        Ok(yaml) => yaml,
        Err(e) => return Out::fail(15, &format!("yaml: {e}")),
    };
    let sep = if s.engine(node).compose == 2 { '-' } else { '_' };
    let services = yaml["services"].as_mapping().into_iter().flatten();
    let services: Vec<_> = services.map(|(n, y)| (n.as_str().unwrap_or_default(), y)).collect();
    let reference = |name: &str, y: &Yaml| match y["image"].as_str() {
        Some(image) => image.to_owned(),
        None => format!("{project}{sep}{name}"),
    };
    let mine = |s: &mut State| -> Vec<String> {
        s.engine(node).containers.iter().filter(|c| c.project == *project).map(|c| c.id.clone()).collect()
    };
    match *verb {
        "pull" => {
            for (name, y) in services.iter().filter(|(n, _)| rest.is_empty() || rest.contains(n)) {
                let reference = reference(name, y);
                match s.registry.get(&reference).cloned() {
                    Some(content) => s.engine(node).tag(&reference, &content),
                    None => {
                        return Out::fail(18, &format!("Error response from daemon: manifest for {reference} not found"));
                    }
                }
            }
        }
        "build" => {
            for (name, y) in services.iter().filter(|(_, y)| y.get("build").is_some()) {
                if y["x-standin"]["build"].as_str() == Some("fails") {
                    return Out::fail(17, &format!("#1 [{name}]\nfailed to solve: process \"/bin/sh -c make\" exit code: 2"));
                }
                let content = format!("{name} {}", git::head(cwd));
                s.engine(node).tag(&reference(name, y), &content);
            }
        }
        "up" => {
            if let Err(text) = s.create_volumes(node, project, &yaml) {
                return Out::fail(1, &format!("Error response from daemon: {text}"));
            }
            if rest.contains(&"--remove-orphans") {
                let gone = |c: &Container| c.project == *project && !services.iter().any(|(n, _)| *n == c.service);
                for i in (0..s.engine(node).containers.len()).rev() {
                    if gone(&s.engine(node).containers[i]) {
                        s.stop(node, i);
                        s.engine(node).containers.remove(i);
                    }
                }
            }
            for (name, y) in &services {
                let up = s.up(node, project, name, y, &reference(name, y), sep, cwd);
                if let Err(text) = up {
                    return Out::fail(1, &format!("Error response from daemon: {text}"));
                }
            }
        }
        "stop" => {
            let ids = mine(s);
            each(s, node, &ids.iter().map(String::as_str).collect::<Vec<_>>(), |s, i| s.stop(node, i));
        }
        "down" => {
            let ids = mine(s);
            each(s, node, &ids.iter().map(String::as_str).collect::<Vec<_>>(), |s, i| {
                s.stop(node, i);
                s.engine(node).containers.remove(i);
            });
            if rest.contains(&"-v") {
                for (key, _) in yaml["volumes"].as_mapping().into_iter().flatten() {
                    let name = format!("{project}_{}", key.as_str().unwrap_or_default());
                    s.engine(node).volumes.remove(&name);
                    s.remove_volume(node, &name);
                }
            }
        }
        _ => return Out::fail(1, &format!("stand-in: no such compose command: {args:?}")),
    }
    Out::ok("")
}

impl Container {
    fn inspect(&mut self) -> Value {
        self.looks += u32::from(self.running);
        let late = self.looks > 1;
        let (status, code) = match (self.running, self.start.as_str()) {
            (false, "refused") => ("created", 128),
            (false, _) => ("exited", 0),
            (true, "exits") => ("exited", 3),
            (true, "exits-late") if late => ("exited", 3),
            (true, "restarts") => ("restarting", 3),
            (true, _) => ("running", 0),
        };
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
            "com.docker.compose.project.working_dir": self.dir, "com.docker.compose.oneoff": "False",
        });
        json!({
            "Id": self.id, "Name": format!("/{}", self.name), "Image": self.image, "State": state,
            "RestartCount": if status == "restarting" { self.looks } else { 0 },
            "Config": {"Image": self.reference, "Labels": labels}, "HostConfig": {"RestartPolicy": {"Name": self.restart}},
        })
    }

    /// Serving, as a client sees it.
    pub fn serves(&self) -> bool {
        self.running && !["exits", "exits-late", "restarts", "unhealthy"].contains(&self.start.as_str())
    }
}

impl State {
    pub fn engine(&mut self, node: &str) -> &mut Engine {
        &mut self.nodes.get_mut(node).unwrap().engine
    }

    /// The last write of a container is made while it stops: “|”. A snapshot taken before has not got it.
    fn stop(&mut self, node: &str, i: usize) {
        let c = &mut self.engine(node).containers[i];
        let dir = c.dir.clone();
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

    fn create_volumes(&mut self, node: &str, project: &str, yaml: &Yaml) -> Result<(), String> {
        for (key, y) in yaml["volumes"].as_mapping().into_iter().flatten() {
            if y.get("external").and_then(Yaml::as_bool) == Some(true) {
                continue;
            }
            let name = format!("{project}_{}", key.as_str().unwrap_or_default());
            // Compose uses a volume that the plugin alone made, with a warning, and cannot label it.
            if !self.nodes[node].plugin.volumes.contains_key(&name) {
                self.create_volume(node, &name, y.get("driver").and_then(Yaml::as_str).unwrap_or("local"))?;
                self.engine(node).volumes.insert(name, project.to_owned());
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn up(&mut self, node: &str, project: &str, name: &str, y: &Yaml, reference: &str, sep: char, cwd: &Path) -> Result<(), String> {
        if y.get("build").is_none() && self.engine(node).image(reference).is_none() {
            let content = self.registry.get(reference).cloned().ok_or(format!("manifest for {reference} not found"))?;
            self.engine(node).tag(reference, &content);
        }
        let started = self.now() + "Z";
        let e = self.engine(node);
        let image = e.image(reference).cloned().ok_or(format!("No such image: {reference}:latest"))?;
        let config = serde_yaml::to_string(y).unwrap_or_default();
        let old = e.containers.iter().position(|c| c.project == project && c.service == name);
        if let Some(i) = old.filter(|i| e.containers[*i].image == image && e.containers[*i].config == config) {
            let c = &mut e.containers[i];
            if !c.running {
                (c.running, c.started, c.looks) = (true, started, 0);
            }
            return Ok(());
        }
        if let Some(i) = old {
            self.stop(node, i);
            self.engine(node).containers.remove(i);
        }
        let text = |v: &Yaml| v.as_str().map(str::to_owned);
        let own = format!("{project}{sep}{name}{sep}1");
        let container = text(&y["container_name"]).unwrap_or(own);
        let e = self.engine(node);
        if e.containers.iter().any(|c| c.name == container) {
            return Err(format!("Conflict. The container name \"/{container}\" is already in use"));
        }
        e.born += 1;
        let volumes = y["volumes"].as_sequence().into_iter().flatten().filter_map(|v| v.as_str()?.split(':').next());
        let volumes: Vec<_> = volumes.filter(|v| !v.contains('/')).map(|v| format!("{project}_{v}")).collect();
        let start = text(&y["x-standin"]["start"]).unwrap_or_default();
        let born = format!("{node} {} {container}", e.born);
        e.containers.push(Container {
            id: format!("{:x}{:x}", md5::compute(&born), md5::compute(born.clone() + " ")),
            project: project.to_owned(),
            service: name.to_owned(),
            name: container,
            image,
            reference: reference.to_owned(),
            running: start != "refused",
            volumes: volumes.clone(),
            dir: cwd.display().to_string(),
            config,
            checked: y.get("healthcheck").is_some(),
            restart: text(&y["restart"]).unwrap_or("no".to_owned()),
            start: start.clone(),
            started,
            looks: 0,
        });
        if start == "refused" {
            return Err("driver failed programming external connectivity: port is already allocated".to_owned());
        }
        if let Some(writes) = y["x-standin"]["writes"].as_str() {
            for v in &volumes {
                if !self.nodes[node].plugin.volumes.get(v).is_some_and(|c| c.contains(writes)) {
                    self.append(node, v, writes);
                }
            }
        }
        Ok(())
    }
}
