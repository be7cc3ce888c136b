//! What must hold in every history. A witness remembers each acknowledged write and follows what the orders that were done mean for it.

use std::collections::{BTreeMap, BTreeSet};

use handler::model::names::{App, Branch, RepoUrl};
use serde_json::Value;

use crate::world::Cluster;
use crate::world::inside::Sim;
use crate::world::shop::NODES;
use crate::world::state::plugin::Subvolume;
use crate::world::state::{Reach, State};

/// Which law, and what is wrong.
pub type Wrong = (&'static str, String);

/// Begins what a version writes that cannot become healthy.
pub const BAD: char = '!';

pub struct Watched {
    pub url: &'static str,
    pub name: String,
    pub project: String,
    /// The keys of its data volumes.
    pub keys: &'static [&'static str],
    /// What was written and acknowledged, with the volume's key: it must be in the live volume…
    owed: BTreeMap<String, &'static str>,
    /// …and this somewhere: another's data, or an older replica, took its place by an order that was done, or it was written to a node that
    /// the record did not name.
    kept: BTreeSet<String>,
    /// The deployments that a record has named.
    pub committed: BTreeSet<String>,
    /// Ordinary volumes of a deployment that was in force: node and name.
    ordinary: BTreeSet<(String, String)>,
    /// A person has given up an undo of it: what is where is a person's.
    pub given_up: bool,
    /// Undone, and the old version did not become well again: that was said.
    pub unwell: bool,
}

impl Watched {
    pub fn new(url: &'static str, keys: &'static [&'static str]) -> Watched {
        let branch = Branch::try_from("master".to_owned()).unwrap();
        let name = App { repo: RepoUrl::try_from(url.to_owned()).unwrap(), branch }.name();
        let project = name.project().to_string();
        let (owed, kept, committed, ordinary) = Default::default();
        Watched { url, name: name.to_string(), project, keys, owed, kept, committed, ordinary, given_up: false, unwell: false }
    }

    pub fn volume(&self, key: &str) -> String {
        format!("{}_{key}", self.project)
    }

    pub fn record(&self, s: &State) -> Option<Value> {
        s.kv(&format!("app/{}", self.name))
    }

    pub fn in_maintenance(&self, s: &State) -> bool {
        s.store.kv.contains_key(&format!("maintenance/{}", self.name))
    }

    fn live<'a>(&self, s: &'a State, master: &str, key: &str) -> Option<&'a String> {
        s.nodes.get(master)?.plugin.volumes.get(&self.volume(key))
    }

    pub fn owe(&mut self, token: String, key: &'static str) {
        self.owed.insert(token, key);
    }

    pub fn keep(&mut self, token: String) {
        self.kept.insert(token);
    }

    /// What was owed is kept from now on, but what the live volumes hold all the same.
    fn let_go(&mut self, s: &State, master: Option<&str>) -> bool {
        let owed = std::mem::take(&mut self.owed);
        let (stays, goes): (BTreeMap<_, _>, BTreeMap<_, _>) = owed
            .into_iter()
            .partition(|(token, key)| master.and_then(|master| self.live(s, master, key)).is_some_and(|data| data.contains(token)));
        self.owed = stays;
        let any = !goes.is_empty();
        self.kept.extend(goes.into_keys());
        any
    }
}

pub struct Witness {
    pub apps: Vec<Watched>,
    ended: BTreeSet<String>,
    /// What a migrate's source owed when it was ordered.
    promised: BTreeMap<String, BTreeMap<String, &'static str>>,
    /// Where a write was seen last.
    seen: BTreeMap<String, (String, String)>,
    /// Consul was put back to an older state: what serves is a person's, but nothing is lost, and all comes to rest.
    is_put_back: bool,
    pub done: usize,
    pub failed: usize,
    pub takeovers: usize,
}

/// The orders in whose middle this node is; of those that a person has given up, with that.
pub fn journals(sim: &Sim, node: &str) -> Vec<String> {
    let paths = sim.disk(node, |disk| disk.paths());
    let own = paths.into_iter().filter(|path| path.starts_with("/deploy/.handler/apps/"));
    own.filter(|path| path.ends_with("/journal") || path.ends_with(".given-up")).collect()
}

impl Witness {
    pub fn new(apps: Vec<Watched>) -> Witness {
        let (ended, promised, seen) = Default::default();
        Witness { apps, ended, promised, seen, is_put_back: false, done: 0, failed: 0, takeovers: 0 }
    }

    fn app(&mut self, name: &str) -> Option<&mut Watched> {
        self.apps.iter_mut().find(|app| app.name == name)
    }

    pub fn put_back(&mut self) {
        self.is_put_back = true;
        self.apps.iter_mut().for_each(|app| app.given_up = true);
    }

    /// What the source owes now, a migrate's target owes when it is done.
    pub fn promise(&mut self, id: String, source: &str) {
        let owed = self.apps.iter().find(|app| app.url == source).map(|app| app.owed.clone());
        self.promised.insert(id, owed.unwrap_or_default());
    }

    /// Of what a person has given up an undo: of an order that is open, or of one that has ended without that node.
    fn see_given_up(&mut self, s: &State) {
        let orders = s.keys("order/").into_iter().chain(s.keys("history/")).filter_map(|key| s.kv(&key));
        for order in orders.filter(|order| order["given_up"].as_array().is_some_and(|nodes| !nodes.is_empty())) {
            let name = order["name"].as_str().unwrap_or_default();
            self.app(name).into_iter().for_each(|app| app.given_up = true);
            if let Some(source) = source_of(&order, &self.apps) {
                self.apps[source].given_up = true;
            }
        }
    }

    /// After each step; runs may be in the middle of something.
    pub fn look(&mut self, sim: &Sim) -> Vec<Wrong> {
        let in_the_middle: BTreeSet<&str> = NODES
            .into_iter()
            .filter(|node| journals(sim, node).iter().any(|path| !path.ends_with(".given-up") && !path.ends_with(".new")))
            .collect();
        let mut wrong: Vec<Wrong> = sim.violations().into_iter().map(|text| (label(&text), text)).collect();
        let s = &*sim.lock();
        self.see_given_up(s);
        self.see_orders(s, &mut wrong);
        // What a key says of them may be older than they are.
        wrong.extend(if self.is_put_back { Vec::new() } else { unsound_replicas(s) });
        for app in &mut self.apps {
            let record = app.record(s);
            let master = record.as_ref().and_then(|record| record["master"].as_str());
            app.committed.extend(record.as_ref().and_then(|record| record["deploy_id"].as_str()).map(str::to_owned));
            let ordered = s.keys("order/").iter().any(|key| s.store.text(key).is_some_and(|order| order.contains(&app.name)));
            let quiet = |node: &str| !ordered && !in_the_middle.contains(node);
            if let Some(master) = master.filter(|master| quiet(master) && !app.given_up) {
                for (token, key) in &app.owed {
                    if app.live(s, master, key).is_none_or(|data| !data.contains(token)) {
                        let live = app.live(s, master, key);
                        wrong.push(("not live", format!("{}: {token} was acknowledged, and {key} on {master} is {live:?}", app.name)));
                    }
                }
                for key in app.keys {
                    if let Some(data) = app.live(s, master, key).filter(|data| data.contains(BAD)) {
                        wrong.push(("failed data", format!("{}: {key} on {master} holds what a failed version wrote: {data}", app.name)));
                    }
                }
            }
            for (node, name) in &app.ordinary {
                if !s.nodes[node].engine.volumes.contains_key(name) {
                    wrong.push(("ordinary", format!("{}: the ordinary volume {name} is gone from {node}", app.name)));
                }
            }
            for (node, n) in s.nodes.iter().filter(|(node, _)| quiet(node) && Some(node.as_str()) == master) {
                let mine = |name: &&String| name.starts_with(&app.volume("")) && !app.keys.iter().any(|key| **name == app.volume(key));
                let found: Vec<_> = n.engine.volumes.keys().filter(mine).map(|name| (node.clone(), name.clone())).collect();
                app.ordinary.extend(found);
            }
            for token in app.owed.keys().chain(&app.kept) {
                if !is_somewhere(s, &mut self.seen, token) {
                    wrong.push(("lost", format!("{}: {token} was acknowledged, and is nowhere", app.name)));
                }
            }
        }
        wrong
    }

    /// What the orders that have come to their end since mean for what was written.
    fn see_orders(&mut self, s: &State, wrong: &mut Vec<Wrong>) {
        let mut new: Vec<(u64, String)> =
            s.store.kv.iter().filter(|(key, _)| key.starts_with("history/")).map(|(k, e)| (e.modify, k.clone())).collect();
        new.retain(|(_, key)| !self.ended.contains(key));
        new.sort();
        for (_, key) in new {
            let order = s.kv(&key).unwrap_or_default();
            self.ended.insert(key.clone());
            let name = order["name"].as_str().unwrap_or_default().to_owned();
            let unwell = order["reason"].as_str().is_some_and(|reason| reason.contains("is not well"));
            let of = source_of(&order, &self.apps);
            let promised = self.promised.get(order["id"].as_str().unwrap_or_default()).cloned().unwrap_or_default();
            let still: BTreeMap<String, &'static str> = of.map(|of| self.apps[of].owed.clone()).unwrap_or_default();
            if order["state"] != "done" {
                self.failed += 1;
                let names = |key: &str, node: &str| order[key].as_array().is_some_and(|nodes| nodes.iter().any(|it| it == node));
                let begun = order["progress"].as_object().into_iter().flatten().map(|(node, _)| node.as_str());
                let open = begun.filter(|node| !["undone", "pending", "given_up"].iter().any(|key| names(key, node)));
                wrong.extend(open.map(|node| ("early", format!("{key} has failed, and {node} has not undone its part"))));
                self.app(&name).into_iter().for_each(|app| app.unwell |= unwell);
                continue;
            }
            self.done += 1;
            self.takeovers += usize::from(order["origin"] == "dead");
            let Some(app) = self.app(&name) else { continue };
            app.unwell = false;
            let record = app.record(s);
            let master = record.as_ref().and_then(|record| record["master"].as_str());
            match order["request"].as_object().and_then(|request| request.keys().next()).map(String::as_str) {
                Some("migrate") => {
                    app.let_go(s, None);
                    // Of what was acknowledged before the order, what the source has not lost since by a takeover or another migrate.
                    let brought = promised.into_iter().filter(|(token, key)| still.contains_key(token) && app.keys.contains(key));
                    app.owed.extend(brought);
                }
                Some("deploy") => {
                    // One that was destroyed since had what it had.
                    let unsaid = master.is_some() && order["notes"].as_array().is_none_or(Vec::is_empty);
                    if order["origin"] == "dead" && app.let_go(s, master) && unsaid {
                        wrong.push(("unsaid", format!("{name}: a takeover has lost something, and says nothing of how old its data is")));
                    }
                }
                _ => {
                    app.let_go(s, None);
                }
            }
        }
    }

    /// Once nothing fails any more, all that returns has returned, and time has passed.
    pub fn rest(&self, sim: &Sim) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        let left: Vec<(&str, Vec<String>)> = NODES.iter().map(|node| (*node, journals(sim, node))).collect();
        let s = &*sim.lock();
        let alive = |node: &str| s.nodes[node].reach == Reach::Fine;
        for (node, left) in left.iter().filter(|(node, _)| alive(node)) {
            // What is half written is nobody's journal.
            for path in left.iter().filter(|path| !path.ends_with(".given-up") && !path.ends_with(".new")) {
                wrong.push(("journal", format!("{node} has {path}")));
            }
        }
        // Of one whose master is dead nobody is served anyway; its node ends it when it is back. What was given up is a person's.
        let of_dead = |key: &str| {
            let mine = self.apps.iter().filter(|app| key.ends_with(&app.name));
            let master_dead = |app: &Watched| app.record(s).is_some_and(|record| !alive(record["master"].as_str().unwrap_or_default()));
            mine.into_iter().any(|app| app.given_up || master_dead(app))
        };
        let maintenance = s.keys("maintenance/").into_iter().filter(|key| !of_dead(key)).collect();
        for key in [s.keys("order/"), maintenance].concat() {
            wrong.push(("open", format!("{key}: {}", s.store.text(&key).unwrap_or_default())));
        }
        for app in self.apps.iter().filter(|app| !app.given_up) {
            let Some(record) = app.record(s) else { continue };
            let (master, holder) = (record["master"].as_str().unwrap_or_default(), record["slave"].as_str());
            let holder = holder.unwrap_or(master);
            let looks = |node: &str| alive(node) && !s.nodes[node].no_snapshots_seen;
            if looks(master) && looks(holder) && record["volumes"].as_array().is_some_and(|volumes| !volumes.is_empty()) {
                let replica = s.kv(&format!("replica/{}/{holder}", app.name)).unwrap_or_default();
                if replica["last"]["deploy_id"] != record["deploy_id"] || replica["last"]["data_id"] != record["data_id"] {
                    wrong.push(("no replica", format!("{}: {holder} has confirmed nothing of what is in force: {replica}", app.name)));
                }
            }
        }
        for app in &self.apps {
            let record = app.record(s);
            // Where it is gone, what runs goes on.
            if self.is_put_back && record.is_none() {
                continue;
            }
            let text = |key: &str| record.as_ref().and_then(|record| record[key].as_str());
            let (master, commit) = (text("master"), text("commit").unwrap_or("?"));
            let serves = |service: &str, image: &str| {
                let n = master.and_then(|master| s.nodes.get(master));
                n.is_some_and(|n| {
                    let mut all = n.engine.containers.iter().filter(|c| c.project == app.project && c.service == service);
                    all.any(|c| c.serves() && n.engine.images[&c.image] == image && c.restart == "unless-stopped")
                })
            };
            if let Some(master) = master.filter(|master| alive(master) && !app.given_up && !app.unwell)
                && !(serves("web", &format!("web {commit}")) && serves("cache", "cache one"))
            {
                wrong.push(("down", format!("{} does not serve on {master} as the record says: {:?}", app.name, s.serving(&app.project))));
            }
            for (node, n) in s.nodes.iter().filter(|(node, _)| alive(node) && Some(node.as_str()) != master) {
                let up = n.engine.containers.iter().filter(|c| c.project == app.project && (c.running || c.comes_back()));
                wrong.extend(up.map(|c| ("stray", format!("{node} has {} up, or it comes back; the record names {master:?}", c.name))));
                let schedules = n.plugin.schedules.keys().filter(|(volume, _)| volume.starts_with(&app.volume("")));
                let copies = schedules.filter(|(_, action)| action.starts_with("replicate:"));
                wrong.extend(
                    copies.map(|(volume, action)| ("stray", format!("{node} has {action} of {volume}; the record names {master:?}"))),
                );
                let services = n.services.keys().filter(|id| id.contains(&app.name));
                wrong.extend(services.map(|id| ("stray", format!("{node} has the service {id}; the record names {master:?}"))));
            }
        }
        wrong
    }
}

/// What a key says that a node has confirmed is there, whole, and on its disk.
fn unsound_replicas(s: &State) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for key in s.keys("replica/") {
        let (replica, holder) = (s.kv(&key).unwrap_or_default(), key.rsplit('/').next().unwrap_or_default());
        let Some(node) = s.nodes.get(holder) else { continue };
        for (_, taken) in replica["last"]["snapshots"].as_object().into_iter().flatten() {
            let found = taken["snapshot"].as_str().and_then(|name| node.plugin.subvolumes.get(name));
            let is_it = |uuid: &str| taken["uuid"] == uuid;
            let sound = |it: &Subvolume| it.read_only && it.on_disk && !it.hollow && is_it(it.received.as_deref().unwrap_or(&it.uuid));
            if !found.is_some_and(sound) {
                wrong.push(("unsound", format!("{key}: {taken} is confirmed, and is {found:?}")));
            }
        }
    }
    wrong
}

/// The application whose data the order copies.
fn source_of(order: &Value, apps: &[Watched]) -> Option<usize> {
    let repo = order["request"]["migrate"]["repo"].as_str()?;
    apps.iter().position(|app| app.url == repo)
}

fn is_somewhere(s: &State, seen: &mut BTreeMap<String, (String, String)>, token: &str) -> bool {
    let at = |node: &str, name: &str| {
        let plugin = s.nodes.get(node).map(|n| &n.plugin)?;
        plugin.volumes.get(name).or(plugin.snapshots.get(name))
    };
    if seen.get(token).and_then(|(node, name)| at(node, name)).is_some_and(|data| data.contains(token)) {
        return true;
    }
    let all =
        s.nodes.iter().flat_map(|(node, n)| n.plugin.snapshots.iter().chain(&n.plugin.volumes).map(move |(name, data)| (node, name, data)));
    match all.into_iter().find(|(_, _, data)| data.contains(token)) {
        Some((node, name, _)) => {
            seen.insert(token.to_owned(), (node.clone(), name.clone()));
            true
        }
        None => false,
    }
}

/// Of what the world itself has seen.
fn label(text: &str) -> &'static str {
    for (part, label) in [
        (" runs on ", "two run"),
        ("only copy", "removed"),
        ("panicked", "panic"),
        ("nobody can go on", "stuck"),
        ("do not end", "endless"),
        ("a second time", "sent twice"),
        ("under a running", "under it"),
    ] {
        if text.contains(part) {
            return label;
        }
    }
    "world"
}
