//! Compose of one node. What a service's containers do stands in the compose file of the test:
//!
//!     x-standin: {build: fails, start: ends | exits | restarts | unhealthy | slow | refused, writes: TEXT}

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::docker::each;
use super::engine::{Container, Made};
use super::{Files, Out, State, git};

pub fn run(s: &mut State, files: &dyn Files, node: &str, args: &[&str], cwd: &Path, given: &BTreeMap<String, String>) -> Out {
    if args == ["version", "--short"] {
        return Out::ok(format!("{}\n", s.engine(node).compose));
    }
    let (mut project, mut used, mut env, mut all, mut rest) = ("", Vec::new(), cwd.join(".env"), false, args);
    while let [option, value, more @ ..] = rest {
        match *option {
            "-p" => project = value,
            "-f" => used.push(cwd.join(value)),
            "--env-file" => env = cwd.join(value),
            "--profile" => all = *value == "*",
            "--project-directory" if cwd == Path::new(value) => {}
            _ => break,
        }
        rest = more;
    }
    let [verb, rest @ ..] = rest else { return Out::fail(1, &format!("stand-in: no such compose command: {args:?}")) };
    let env = files.read(&env).unwrap_or_default();
    // What the handler has it see goes before what stands in `.env`.
    let given: String = given.iter().map(|(name, value)| format!("\n{name}={value}")).collect();
    let model = match resolve(files, project, used, &(env + &given), all, cwd) {
        Ok(model) => model,
        Err(out) => return out,
    };
    let none = Map::new();
    let services = model["services"].as_object().unwrap_or(&none);
    let services: Vec<_> = services.iter().map(|(n, y)| (n.as_str(), y)).collect();
    let reference = |name: &str, y: &Value| match y["image"].as_str() {
        Some(image) => image.to_owned(),
        None => format!("{project}-{name}"),
    };
    let mine = |s: &mut State| -> Vec<String> {
        s.engine(node).containers.iter().filter(|c| c.project == project).map(|c| c.id.clone()).collect()
    };
    match *verb {
        "config" if rest == ["--services"] => {
            return Out::ok(services.iter().map(|(name, _)| format!("{name}\n")).collect::<String>());
        }
        "config" => return Out::ok(serde_json::to_string_pretty(&model).unwrap()),
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
                let content = format!("{name} {}", git::head(files, cwd));
                s.engine(node).tag(&reference(name, y), &content);
            }
        }
        "up" => {
            // All of them, if none is named.
            let value = rest.iter().position(|word| *word == "--pull").map(|at| at + 1);
            let words = rest.iter().enumerate().filter(|(at, _)| Some(*at) != value).map(|(_, word)| word);
            let named: Vec<&&str> = words.filter(|word| !word.starts_with('-')).collect();
            let services: Vec<_> = services.iter().filter(|(n, _)| named.is_empty() || named.contains(&n)).collect();
            if let Err(text) = s.create_volumes(node, project, &model) {
                return Out::fail(1, &format!("Error response from daemon: {text}"));
            }
            if rest.contains(&"--remove-orphans") {
                let gone = |c: &Container| c.project == project && !services.iter().any(|(n, _)| *n == c.service);
                for i in (0..s.engine(node).containers.len()).rev() {
                    if gone(&s.engine(node).containers[i]) {
                        s.stop(node, i);
                        s.engine(node).containers.remove(i);
                    }
                }
            }
            for (name, y) in &services {
                let up = s.up(node, project, (name, y), &model["volumes"], &reference(name, y), rest, cwd);
                if let Err(text) = up {
                    return Out::fail(1, &format!("Error response from daemon: {text}"));
                }
            }
        }
        "stop" => {
            // Not those of `run`, as `down` does.
            let ids: Vec<String> =
                s.engine(node).containers.iter().filter(|c| c.project == project && !c.oneoff).map(|c| c.id.clone()).collect();
            each(s, node, &ids.iter().map(String::as_str).collect::<Vec<_>>(), |s, i| s.stop(node, i));
        }
        "down" => {
            let ids = mine(s);
            each(s, node, &ids.iter().map(String::as_str).collect::<Vec<_>>(), |s, i| {
                s.stop(node, i);
                s.engine(node).containers.remove(i);
            });
            if s.engine(node).held_networks.contains(project) {
                return Out::fail(1, &format!("error while removing network: network {project}_default has active endpoints"));
            }
            if rest.contains(&"-v") {
                for (key, _) in model["volumes"].as_object().into_iter().flatten() {
                    let name = format!("{project}_{key}");
                    s.engine(node).volumes.remove(&name);
                    s.remove_volume(node, &name);
                }
            }
        }
        _ => return Out::fail(1, &format!("stand-in: no such compose command: {args:?}")),
    }
    Out::ok("")
}

/// What `config` prints, as far as tests go by it: of the services that are asked for, with the volumes that they use. What it is given again,
/// it prints again. (The real one leaves out what begins with `x-` in a service; here that is what containers do.)
fn resolve(files: &dyn Files, project: &str, mut used: Vec<PathBuf>, env: &str, all: bool, cwd: &Path) -> Result<Value, Out> {
    let of_env = |name: &str| env.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if used.is_empty() {
        match of_env("COMPOSE_FILE") {
            Some(named) => used.extend(named.split(':').map(|file| cwd.join(file))),
            None => {
                let there = |names: [&str; 4]| names.map(|name| cwd.join(name)).into_iter().find(|file| files.read(file).is_some());
                used.extend(there(["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"]));
                used.extend(there(OVERRIDES));
            }
        }
    }
    if used.is_empty() {
        return Err(Out::fail(14, "no configuration file provided: not found"));
    }
    let mut model = Value::Null;
    while !used.is_empty() {
        let file = used.remove(0);
        let text = files.read(&file).ok_or_else(|| Out::fail(14, &format!("open {}: no such file or directory", file.display())))?;
        let read = serde_yaml::from_str::<serde_yaml::Value>(&text).and_then(|mut y| y.apply_merge().map(|()| y));
        let read = read.and_then(serde_yaml::from_value::<Value>);
        let mut more = read.map_err(|e| Out::fail(15, &format!("yaml: {e}")))?;
        for included in more.as_object_mut().and_then(|more| more.remove("include")).iter().flat_map(|list| list.as_array()).flatten() {
            used.insert(0, cwd.join(included.as_str().unwrap_or_default()));
        }
        merge(&mut model, more);
    }
    let mut missing = None;
    interpolate(&mut model, &mut |name| match name.split_once(":?") {
        None => of_env(name).unwrap_or_default().to_owned(),
        Some((name, why)) => of_env(name).filter(|value| !value.is_empty()).map(str::to_owned).unwrap_or_else(|| {
            missing = Some(Out::fail(1, &format!("error while interpolating: required variable {name} is missing a value: {why}")));
            String::new()
        }),
    });
    if let Some(missing) = missing {
        return Err(missing);
    }
    let profiles: Vec<&str> = of_env("COMPOSE_PROFILES").unwrap_or_default().split(',').collect();
    let none = Map::new();
    let mut services = model["services"].as_object().unwrap_or(&none).clone();
    let asked_for = |name: &Value| all || name.as_str().is_some_and(|name| profiles.contains(&name));
    services.retain(|_, service| service["profiles"].as_array().is_none_or(|of| of.is_empty() || of.iter().any(asked_for)));
    let mut mounted = BTreeSet::new();
    for (name, service) in &mut services {
        let Some(service) = service.as_object_mut() else {
            return Err(Out::fail(15, &format!("services.{name} must be a mapping")));
        };
        canonical(service, cwd);
        let mounts = service.get("volumes").and_then(Value::as_array).into_iter().flatten();
        mounted.extend(mounts.filter(|it| it["type"] == "volume").filter_map(|it| it["source"].as_str().map(str::to_owned)));
    }
    let declared = model["volumes"].as_object().unwrap_or(&none);
    let mut volumes = Map::new();
    for key in mounted {
        let Some(volume) = declared.get(&key) else {
            return Err(Out::fail(15, &format!("service refers to undefined volume {key}: invalid compose project")));
        };
        let mut volume = volume.as_object().unwrap_or(&none).clone();
        volume.entry("name").or_insert_with(|| format!("{project}_{key}").into());
        pairs(volume.get_mut("labels"));
        volumes.insert(key, volume.into());
    }
    let mut resolved = Map::new();
    for (key, value) in model.as_object().unwrap_or(&none).iter().filter(|(key, _)| key.starts_with("x-")) {
        resolved.insert(key.clone(), value.clone());
    }
    resolved.insert("name".into(), project.into());
    resolved.insert("networks".into(), json!({"default": {"name": format!("{project}_default"), "ipam": {}}}));
    resolved.insert("services".into(), services.into());
    resolved.insert("volumes".into(), volumes.into());
    Ok(resolved.into())
}

const OVERRIDES: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// Short forms become long ones.
fn canonical(service: &mut Map<String, Value>, cwd: &Path) {
    pairs(service.get_mut("environment"));
    pairs(service.get_mut("labels"));
    if let Some(Value::Array(names)) = service.get_mut("depends_on") {
        let one = |name: &Value| (name.as_str().unwrap_or_default().to_owned(), json!({"condition": "service_started", "required": true}));
        let all: Map<String, Value> = names.iter().map(one).collect();
        service.insert("depends_on".into(), all.into());
    }
    if let Some(Value::String(_)) = service.get("build") {
        service.insert("build".into(), json!({"context": cwd, "dockerfile": "Dockerfile"}));
    }
    for volume in service.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((source, target)) = volume.as_str().and_then(|text| text.split_once(':')) {
            *volume = match source.starts_with(['.', '/']) {
                true => json!({"type": "bind", "source": cwd.join(source), "target": target, "bind": {"create_host_path": true}}),
                false => json!({"type": "volume", "source": source, "target": target, "volume": {}}),
            };
        }
    }
    for (key, value) in [("command", Value::Null), ("entrypoint", Value::Null), ("networks", json!({"default": null}))] {
        service.entry(key).or_insert(value);
    }
}

/// A list of `KEY=value` becomes a mapping, and each value text.
fn pairs(value: Option<&mut Value>) {
    let Some(value) = value else { return };
    if let Value::Array(list) = value {
        let pair = |text: &Value| {
            let text = text.as_str().unwrap_or_default();
            text.split_once('=').map_or((text.to_owned(), Value::Null), |(key, value)| (key.to_owned(), value.into()))
        };
        *value = list.iter().map(pair).collect::<Map<_, _>>().into();
    }
    for value in value.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if value.is_number() || value.is_boolean() {
            *value = value.to_string().into();
        }
    }
}

/// `$NAME` and `${NAME}`, not `$$NAME`; what is printed has each dollar twice.
fn interpolate(value: &mut Value, value_of: &mut dyn FnMut(&str) -> String) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| interpolate(item, value_of)),
        Value::Object(map) => map.values_mut().for_each(|item| interpolate(item, value_of)),
        Value::String(text) if text.contains('$') => {
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some((before, after)) = rest.split_once('$') {
                out += before;
                if let Some(after) = after.strip_prefix('$') {
                    (out, rest) = (out + "$$", after);
                    continue;
                }
                let braced = after.strip_prefix('{').and_then(|after| after.split_once('}'));
                let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                let (name, after) = braced.unwrap_or_else(|| after.split_at(end));
                out += &value_of(name).replace('$', "$$");
                rest = after;
            }
            *text = out + rest;
        }
        _ => {}
    }
}

/// A later file's mappings go into those of an earlier one, anything else takes its place.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn labels(volume: &Value) -> BTreeMap<String, String> {
    let each = volume["labels"].as_object().into_iter().flatten();
    each.filter_map(|(label, value)| Some((label.to_owned(), value.as_str()?.to_owned()))).collect()
}

impl State {
    fn create_volumes(&mut self, node: &str, project: &str, model: &Value) -> Result<(), String> {
        for (_, y) in model["volumes"].as_object().into_iter().flatten() {
            if y["external"] == true {
                continue;
            }
            let name = y["name"].as_str().unwrap_or_default().to_owned();
            // Compose uses a volume that the plugin alone made, with a warning, and cannot label it.
            // One that is there keeps the labels, and the project, that it was made with; Compose warns.
            if !self.nodes[node].plugin.volumes.contains_key(&name) && !self.engine(node).volumes.contains_key(&name) {
                self.create_volume(node, &name, y["driver"].as_str().unwrap_or("local"))?;
                self.engine(node).volumes.insert(name, Made { project: project.to_owned(), labels: labels(y) });
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn up(
        &mut self,
        node: &str,
        project: &str,
        (name, y): (&str, &Value),
        named: &Value,
        reference: &str,
        how: &[&str],
        cwd: &Path,
    ) -> Result<(), String> {
        // `--pull` goes before what the file says.
        let asked = how.iter().position(|word| *word == "--pull").and_then(|at| how.get(at + 1)).copied();
        let asked = asked.or_else(|| how.iter().find_map(|word| word.strip_prefix("--pull=")));
        let always = asked.or(y["pull_policy"].as_str()) == Some("always");
        if y.get("build").is_none() && (always || self.engine(node).image(reference).is_none()) {
            let content = self.registry.get(reference).cloned().ok_or(format!("manifest for {reference} not found"))?;
            self.engine(node).tag(reference, &content);
        }
        let started = self.now(node) + "Z";
        let e = self.engine(node);
        let image = e.image(reference).cloned().ok_or(format!("No such image: {reference}:latest"))?;
        // Compose's hash leaves the same out.
        let mut config = y.clone();
        config.as_object_mut().map(|config| config.remove("build"));
        let config = config.to_string();
        let old = e.containers.iter().position(|c| c.project == project && c.service == name);
        let (anew, as_it_is) = (how.contains(&"--force-recreate"), how.contains(&"--no-recreate"));
        let unchanged = |c: &Container| c.image == image && c.config == config;
        if let Some(i) = old.filter(|i| as_it_is || !anew && unchanged(&e.containers[*i])) {
            let c = &mut e.containers[i];
            if c.is_down() {
                (c.running, c.stopped, c.started, c.looks) = (true, false, started, 0);
            }
            return Ok(());
        }
        if let Some(i) = old {
            self.stop(node, i);
            self.engine(node).containers.remove(i);
        }
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let own = format!("{project}-{name}-1");
        let container = text(&y["container_name"]).unwrap_or(own);
        let e = self.engine(node);
        if e.containers.iter().any(|c| c.name == container) {
            return Err(format!("Conflict. The container name \"/{container}\" is already in use"));
        }
        e.born += 1;
        let volumes = y["volumes"].as_array().into_iter().flatten().filter(|v| v["type"] == "volume");
        let volumes: Vec<_> = volumes.filter_map(|v| Some(named[v["source"].as_str()?]["name"].as_str()?.to_owned())).collect();
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
            stopped: false,
            volumes: volumes.clone(),
            dir: cwd.display().to_string(),
            config,
            checked: y.get("healthcheck").is_some(),
            restart: text(&y["restart"]).unwrap_or("no".to_owned()),
            start: start.clone(),
            started,
            looks: 0,
            oneoff: false,
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
