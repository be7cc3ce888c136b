//! Compose of one node. What a service's containers do stands in the compose file of the test:
//!
//!     x-standin: {build: fails, start: exits | restarts | unhealthy | slow | refused, writes: TEXT}

use std::collections::BTreeMap;
use std::path::Path;

use serde_yaml::Value as Yaml;

use super::docker::each;
use super::engine::{Container, Made};
use super::{Files, Out, State, git};

pub fn run(s: &mut State, files: &dyn Files, node: &str, args: &[&str], cwd: &Path) -> Out {
    if args == ["version", "--short"] {
        return Out::ok(format!("{}\n", s.engine(node).compose));
    }
    let (project, used, verb, rest) = match args {
        ["-p", project, "-f", file, "-f", more, verb, rest @ ..] => (project, vec![*file, *more], verb, rest),
        ["-p", project, "-f", file, verb, rest @ ..] => (project, vec![*file], verb, rest),
        _ => return Out::fail(1, &format!("stand-in: no such compose command: {args:?}")),
    };
    let mut yaml = Yaml::Null;
    for file in used {
        let Some(text) = files.read(&cwd.join(file)) else {
            return Out::fail(14, &format!("open {file}: no such file or directory"));
        };
        match serde_yaml::from_str::<Yaml>(&text).and_then(|mut y| y.apply_merge().map(|()| y)) {
            Ok(more) => merge(&mut yaml, more),
            Err(e) => return Out::fail(15, &format!("yaml: {e}")),
        }
    }
    let services = yaml["services"].as_mapping().into_iter().flatten();
    let services: Vec<_> = services.map(|(n, y)| (n.as_str().unwrap_or_default(), y)).collect();
    let reference = |name: &str, y: &Yaml| match y["image"].as_str() {
        Some(image) => image.to_owned(),
        None => format!("{project}-{name}"),
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
                let content = format!("{name} {}", git::head(files, cwd));
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
                let anew = rest.contains(&"--force-recreate");
                let up = s.up(node, project, name, y, &reference(name, y), anew, cwd);
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
            if s.engine(node).held_networks.contains(*project) {
                return Out::fail(1, &format!("error while removing network: network {project}_default has active endpoints"));
            }
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

/// A later file's mappings go into those of an earlier one, anything else takes its place.
fn merge(into: &mut Yaml, more: Yaml) {
    match (into, more) {
        (Yaml::Mapping(into), Yaml::Mapping(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Yaml::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

/// As a mapping, the way the tests write them.
fn labels(volume: &Yaml) -> BTreeMap<String, String> {
    let each = volume["labels"].as_mapping().into_iter().flatten();
    each.filter_map(|(label, value)| Some((label.as_str()?.to_owned(), value.as_str()?.to_owned()))).collect()
}

impl State {
    fn create_volumes(&mut self, node: &str, project: &str, yaml: &Yaml) -> Result<(), String> {
        for (key, y) in yaml["volumes"].as_mapping().into_iter().flatten() {
            if y.get("external").and_then(Yaml::as_bool) == Some(true) {
                continue;
            }
            let name = format!("{project}_{}", key.as_str().unwrap_or_default());
            // Compose uses a volume that the plugin alone made, with a warning, and cannot label it.
            if !self.nodes[node].plugin.volumes.contains_key(&name) {
                self.create_volume(node, &name, y.get("driver").and_then(Yaml::as_str).unwrap_or("local"))?;
                self.engine(node).volumes.insert(name, Made { project: project.to_owned(), labels: labels(y) });
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn up(&mut self, node: &str, project: &str, name: &str, y: &Yaml, reference: &str, anew: bool, cwd: &Path) -> Result<(), String> {
        if y.get("build").is_none() && self.engine(node).image(reference).is_none() {
            let content = self.registry.get(reference).cloned().ok_or(format!("manifest for {reference} not found"))?;
            self.engine(node).tag(reference, &content);
        }
        let started = self.now(node) + "Z";
        let e = self.engine(node);
        let image = e.image(reference).cloned().ok_or(format!("No such image: {reference}:latest"))?;
        let config = serde_yaml::to_string(y).unwrap_or_default();
        let old = e.containers.iter().position(|c| c.project == project && c.service == name);
        if let Some(i) = old.filter(|i| !anew && e.containers[*i].image == image && e.containers[*i].config == config) {
            let c = &mut e.containers[i];
            if !c.running {
                (c.running, c.stopped, c.started, c.looks) = (true, false, started, 0);
            }
            return Ok(());
        }
        if let Some(i) = old {
            self.stop(node, i);
            self.engine(node).containers.remove(i);
        }
        let text = |v: &Yaml| v.as_str().map(str::to_owned);
        let own = format!("{project}-{name}-1");
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
            stopped: false,
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
