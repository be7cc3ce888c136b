//! The application that the tests deploy, and every transition that they break.

use serde_json::{Value, json};

use super::state::State;
use super::{Cluster, Run, event};

pub const NODES: [&str; 3] = ["node1", "node2", "node3"];
pub const URL: &str = "file:///repos/shop";
pub const APP: &str = "shop_master.e4371";
pub const PROJECT: &str = "shopmastere4371";
pub const DATA: &str = "shopmastere4371_data";
/// The shop's copy, which a migrate writes to.
pub const COPY: &str = "file:///repos/copy";

/// A shop with a web server that is built and has the data, and a cache that is pulled. `more` goes into the web server's service.
pub fn compose(more: &str) -> String {
    format!(
        "services:
  web:
    build: .
    restart: unless-stopped
    volumes: ['data:/data']
    healthcheck: {{test: [CMD, 'true']}}
    {more}
  cache:
    image: cache:1
    restart: unless-stopped
volumes:
  data: {{driver: 'anybox/buttervolume:latest'}}
"
    )
}

/// A cluster with the shop in its repository, not deployed yet.
pub fn shop<C: Cluster>(nodes: &[&str]) -> C {
    let c = C::new(nodes);
    c.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    push(&c, "");
    c
}

/// The next version; answers its commit.
pub fn push<C: Cluster>(c: &C, more: &str) -> String {
    push_files(c, more, &[])
}

pub fn push_files<C: Cluster>(c: &C, more: &str, files: &[(&str, &str)]) -> String {
    push_to(c, URL, more, files)
}

pub fn push_to<C: Cluster>(c: &C, url: &str, more: &str, files: &[(&str, &str)]) -> String {
    let text = compose(more);
    let mut all = vec![("docker-compose.yml", text.as_str())];
    all.extend(files);
    c.lock().commit(url, "master", &all)
}

pub fn deploy(word: &str, master: &str, slave: Option<&str>) -> Value {
    let mut payload = json!({"repo": URL, "branch": "master", "master": master});
    if let Some(slave) = slave {
        payload["slave"] = slave.into();
    }
    event(word, "deploy", &payload)
}

pub fn destroy(word: &str) -> Value {
    event(word, "destroy", &json!({"repo": URL, "branch": "master"}))
}

pub fn migrate(word: &str) -> Value {
    event(word, "migrate", &json!({"repo": URL, "branch": "master", "target": {"repo": COPY}}))
}

/// The shop, deployed and with data in it.
#[track_caller]
pub fn deployed<C: Cluster>(nodes: &[&str], master: &str, slave: Option<&str>) -> C {
    let c: C = shop(nodes);
    all_well(&c.deliver_all(&[deploy("first", master, slave)]));
    c.lock().write(master, DATA, "orders of monday");
    c.settle();
    c.lock().log.clear();
    c
}

#[track_caller]
pub fn all_well(runs: &[Run]) {
    for run in runs {
        run.exits(0);
    }
}

/// The shop on node1 with node2 as slave, and a copy of it on `node`; the copy's project and volume.
#[track_caller]
pub fn with_copy<C: Cluster>(node: &str, more: &str, files: &[(&str, &str)]) -> (C, String, String) {
    let c: C = deployed(&NODES, "node1", Some("node2"));
    push_to(&c, COPY, more, files);
    let payload = json!({"repo": COPY, "branch": "master", "master": node});
    all_well(&c.deliver_all(&[event("copy", "deploy", &payload)]));
    let app = c.lock().keys("app/").into_iter().find(|k| k.contains("copy")).unwrap();
    let project = app.replace("app/", "").replace(['_', '.'], "");
    let data = format!("{project}_data");
    c.lock().write(node, &data, "old copy");
    c.lock().log.clear();
    (c, project, data)
}

/// A cluster, the word for the order's id, the event that is given to it, and how the order ends when nothing else is broken.
pub type Transition<C> = (C, &'static str, Value, &'static str);

pub fn first_deploy<C: Cluster>() -> Transition<C> {
    (shop(&["node1"]), "one", deploy("one", "node1", None), "done")
}

pub fn first_deploy_with_a_slave<C: Cluster>() -> Transition<C> {
    let c: C = shop(&NODES);
    c.settle(); // each has said what it is: of a slave that has not, the plugin takes care
    (c, "one", deploy("one", "node1", Some("node2")), "done")
}

pub fn redeploy<C: Cluster>() -> Transition<C> {
    let c: C = deployed(&["node1"], "node1", None);
    push(&c, "x-standin: {writes: ', upgraded'}");
    (c, "two", deploy("two", "node1", None), "done")
}

pub fn redeploy_with_a_slave<C: Cluster>() -> Transition<C> {
    let c: C = deployed(&NODES, "node1", Some("node2"));
    push_files(&c, "x-standin: {writes: ', upgraded'}", &[("update.sh", "write data ,more")]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node2", "update": true});
    (c, "two", event("two", "deploy", &payload), "done")
}

pub fn master_and_slave_swap<C: Cluster>() -> Transition<C> {
    let c: C = deployed(&NODES, "node1", Some("node2"));
    push(&c, "x-standin: {writes: ', upgraded'}");
    (c, "two", deploy("two", "node2", Some("node1")), "done")
}

/// Its slave becomes the master, and it the slave, without a word.
pub fn a_swap_that_names_no_slave<C: Cluster>() -> Transition<C> {
    (deployed(&NODES, "node1", Some("node2")), "two", deploy("two", "node2", None), "done")
}

pub fn a_move_to_a_node_without_a_role<C: Cluster>() -> Transition<C> {
    (deployed(&NODES, "node1", Some("node2")), "two", deploy("two", "node3", None), "done")
}

pub fn destroy_of_the_shop<C: Cluster>() -> Transition<C> {
    (deployed(&NODES, "node1", Some("node2")), "end", destroy("end"), "done")
}

/// node1, the master, is dead for good.
fn without_the_master<C: Cluster>() -> C {
    let c: C = deployed(&NODES, "node1", Some("node2"));
    let mut s = c.lock();
    s.replicate("node1");
    s.die("node1");
    s.nodes.remove("node1");
    assert!(s.nodes["node2"].plugin.snapshots.keys().any(|s| s.starts_with(DATA)));
    drop(s);
    c
}

pub fn takeover<C: Cluster>() -> Transition<C> {
    let c: C = without_the_master();
    let event = taking_over(&c.lock(), "two", "node2", Some("node3"));
    (c, "two", event, "done")
}

/// A deploy to a node other than that of the dead master; where no set is confirmed there, from what it has, by name.
pub fn taking_over(s: &State, word: &str, master: &str, slave: Option<&str>) -> Value {
    let mut payload = json!({"repo": URL, "branch": "master", "master": master});
    if let Some(slave) = slave {
        payload["slave"] = slave.into();
    }
    if s.kv(&format!("replica/{APP}/{master}")).is_none() {
        payload["replica"] = json!([newest(s, master)]);
    }
    event(word, "deploy", &payload)
}

/// The newest snapshot of the shop's data on a node.
pub fn newest(s: &State, node: &str) -> String {
    let mut names = s.nodes[node].plugin.snapshots.keys();
    names.rfind(|name| name.starts_with(&format!("{DATA}@")) && name.matches('@').count() == 1).cloned().unwrap()
}

pub fn destroy_without_the_master<C: Cluster>() -> Transition<C> {
    (without_the_master(), "end", destroy("end"), "done")
}

pub fn migrate_on_one_node<C: Cluster>() -> Transition<C> {
    (with_copy("node1", "", &[("post_migrate.sh", "write data ,anonymous")]).0, "m", migrate("m"), "done")
}

pub fn migrate_between_nodes<C: Cluster>() -> Transition<C> {
    (with_copy("node3", "", &[("post_migrate.sh", "write data ,anonymous")]).0, "m", migrate("m"), "done")
}

// Those that fail, for the undo.

pub fn redeploy_that_fails<C: Cluster>() -> Transition<C> {
    let c: C = deployed(&["node1"], "node1", None);
    push_files(&c, "x-standin: {start: unhealthy}", &[("update.sh", "write data WRONG")]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "update": true});
    (c, "two", event("two", "deploy", &payload), "failed")
}

pub fn swap_that_fails<C: Cluster>() -> Transition<C> {
    let c: C = deployed(&NODES, "node1", Some("node2"));
    push(&c, "x-standin: {start: unhealthy, writes: WRONG}");
    (c, "two", deploy("two", "node2", Some("node1")), "failed")
}

pub fn migrate_that_fails<C: Cluster>() -> Transition<C> {
    (with_copy("node3", "", &[("post_migrate.sh", "write data WRONG\nexit 1")]).0, "m", migrate("m"), "failed")
}

impl State {
    /// How the order of this word ended; null while it has not.
    pub fn ended(&self, word: &str) -> Value {
        let key = self.keys("history/").into_iter().find(|k| k.ends_with(&super::id(word)));
        key.and_then(|k| self.kv(&k)).unwrap_or_default()
    }
}

/// What stands in one of two texts only, by lines.
pub fn difference(wanted: &str, found: &str) -> String {
    let without = |these: &str, those: &str, sign: &str| -> String {
        these.lines().filter(|line| !those.lines().any(|other| other == *line)).map(|line| format!("  {sign} {line}\n")).collect()
    };
    without(wanted, found, "-") + &without(found, wanted, "+")
}
