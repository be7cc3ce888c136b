//! What a test looks at.

use std::path::Path;

use serde_json::Value;

use super::{Files, State, git};

impl State {
    pub fn volume(&self, node: &str, volume: &str) -> Option<String> {
        self.nodes[node].plugin.volumes.get(volume).cloned()
    }

    /// Where an application's containers serve, and from what.
    pub fn serving(&self, project: &str) -> Vec<String> {
        let each = self.nodes.iter().flat_map(|(name, n)| {
            let mine = n.engine.containers.iter().filter(|c| c.project == project && c.serves());
            mine.map(move |c| format!("{name} {} <{}>", c.name, n.engine.images[&c.image]))
        });
        each.collect()
    }

    pub fn kv(&self, key: &str) -> Option<Value> {
        let text = self.store.text(key)?;
        Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.kv.keys().filter(|k| k.starts_with(prefix)).cloned().collect()
    }

    /// Data written by a running container of this node.
    pub fn write(&mut self, node: &str, volume: &str, text: &str) {
        let used = self.nodes[node].engine.containers.iter().any(|c| c.serves() && c.volumes.iter().any(|v| v == volume));
        assert!(used, "no running container on {node} uses {volume}");
        self.append(node, volume, text);
        let content = self.nodes[node].plugin.volumes[volume].clone();
        self.precious.insert(content);
    }

    /// All that must be as it was, or as it would be, after a failure: what runs from what, data, schedules, keys, checkouts.
    /// Left out: snapshots, images, history, whose commit was the last, what nodes say of themselves and hold, dates. `checkouts`: see [`checkouts`].
    pub fn text(&self, checkouts: impl Fn(&str) -> Vec<String>) -> String {
        let mut lines = Vec::new();
        for (name, node) in &self.nodes {
            for c in &node.engine.containers {
                let runs = if c.serves() { "serves" } else { "is down" };
                let image = &node.engine.images[&c.image];
                lines.push(format!("{name} {} {runs} <{image}> restart {} with {}", c.name, c.restart, c.volumes.join(" ")));
            }
            let data = node.plugin.volumes.iter();
            lines.extend(data.map(|(v, content)| format!("{name} volume {v} “{}”", content.replace('|', ""))));
            lines.extend(node.plugin.schedules.iter().map(|((v, a), t)| format!("{name} schedule {v} {a} {t}")));
            lines.extend(node.services.keys().map(|id| format!("{name} service {id}")));
            lines.extend(checkouts(name).into_iter().map(|line| format!("{name} {line}")));
        }
        for key in
            self.store.kv.keys().filter(|k| !["claims", "history/", "node/", "replica/"].iter().any(|left_out| k.starts_with(left_out)))
        {
            let mut value: Value = serde_json::from_str(&self.store.text(key).unwrap()).unwrap_or_default();
            if let Some(record) = value.as_object_mut() {
                record.remove("deploy_date");
            }
            lines.push(format!("{key} = {value}"));
        }
        lines.join("\n") + "\n"
    }
}

/// What lies in a deploy folder, a line each.
pub fn checkouts(files: &dyn Files, folder: &Path) -> Vec<String> {
    let found = files.list(folder).into_iter().filter(|(name, _)| !name.starts_with('.') && name != "handler.log");
    let line = |(name, is_folder)| match is_folder {
        true => format!("/deploy/{name} {}", git::head(files, &folder.join(&name))),
        false => format!("/deploy/{name} a file"),
    };
    found.map(line).collect()
}

/// The paths below a folder, and whether they are folders.
pub fn tree(files: &dyn Files, folder: &Path, depth: usize) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for (name, is_folder) in files.list(folder) {
        if is_folder && depth > 1 {
            let below = tree(files, &folder.join(&name), depth - 1);
            found.extend(below.into_iter().map(|(n, d)| (format!("{name}/{n}"), d)));
        }
        found.push((name, is_folder));
    }
    found.sort();
    found
}
