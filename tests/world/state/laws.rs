//! What must hold after each call, whatever failed.

use std::collections::BTreeMap;

use super::State;
use super::effect::Effect;
use super::plugin::Plugin;

impl State {
    /// Looked at after each call.
    pub fn check(&mut self, after: &Effect) {
        self.one_runs(after);
    }

    /// No application runs on two nodes.
    fn one_runs(&mut self, after: &Effect) {
        if self.two_may_run {
            return;
        }
        let mut runs: BTreeMap<&str, &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for (name, n) in &self.nodes {
            for c in n.engine.containers.iter().filter(|c| c.running) {
                let other = runs.insert(&c.project, name).filter(|other| other != name);
                twice.extend(other.map(|o| format!("{} runs on {o} and on {name}, after {}: {}", c.project, after.node, after.line)));
            }
        }
        self.violations.extend(twice);
    }

    /// Data may go only where a copy of it stays.
    pub fn removed(&mut self, node: &str, what: &str, content: &str) {
        // An older snapshot may go where a later one has what it holds, and more.
        let more = what.starts_with("snapshot ");
        let held = |p: &Plugin| p.volumes.values().chain(p.snapshots.values()).any(|c| c == content || (more && c.contains(content)));
        if self.precious.contains(content) && !self.nodes.values().any(|n| held(&n.plugin)) {
            self.violations.push(format!("{node}: {what} removed, and with it the only copy of “{content}”"));
        }
    }
}
