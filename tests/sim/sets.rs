//! What stories about sets and replicas share: the runs that the health check starts, and what there is of it in Consul and on the nodes.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::others::run;
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed};
use crate::world::state::Reach;
use crate::world::{Cluster, id};

pub const MINUTE: Duration = Duration::from_secs(60);
pub const EXTRA: &str = "shopmastere4371_extra";

/// The nodes that run and reach the others.
pub fn fine(sim: &Sim) -> Vec<String> {
    sim.lock().nodes.iter().filter(|(_, node)| node.reach == Reach::Fine).map(|(name, _)| name.clone()).collect()
}

/// What the checks of all nodes start of the sets, until nothing is due.
pub fn tick(sim: &Sim) {
    for _ in 0..3 {
        fine(sim).iter().for_each(|node| sim.start(node, Start::Sets));
        sim.run_until_rest();
    }
}

pub fn after(sim: &Sim, time: Duration) {
    sim.pass(time);
    tick(sim);
}

/// The health checks of all nodes, and what they start of the sets, again and again.
pub fn checks(sim: &Sim, times: usize) {
    for _ in 0..times {
        sim.pass(11 * MINUTE);
        for start in [Start::Check, Start::Sets] {
            fine(sim).iter().for_each(|node| sim.start(node, start.clone()));
            sim.run_until_rest();
        }
    }
}

/// It has booted, and its agent's watches have fired.
pub fn reboot(sim: &Sim, node: &str) {
    sim.power_off(node);
    sim.power_on(node);
    sim.start(node, Start::Events(Vec::new()));
    sim.run_until_rest();
}

pub fn replica(sim: &Sim, holder: &str) -> Value {
    sim.lock().kv(&format!("replica/{APP}/{holder}")).unwrap_or_default()
}

pub fn last(sim: &Sim, holder: &str) -> String {
    replica(sim, holder)["last"]["snapshots"][DATA]["snapshot"].as_str().unwrap_or_default().to_owned()
}

pub fn data(sim: &Sim, node: &str, volume: &str) -> String {
    sim.lock().volume(node, volume).unwrap_or_default().replace('|', "")
}

/// What a snapshot holds on a node; nothing where it is not.
pub fn held(sim: &Sim, node: &str, snapshot: &str) -> Option<String> {
    sim.lock().nodes[node].plugin.snapshots.get(snapshot).map(|text| text.replace('|', ""))
}

/// Of the volume, but the marks of what was sent.
pub fn snapshots(sim: &Sim, node: &str, volume: &str) -> Vec<String> {
    let is_of = |name: &&String| name.starts_with(&format!("{volume}@")) && name.matches('@').count() == 1;
    sim.lock().nodes[node].plugin.snapshots.keys().filter(is_of).cloned().collect()
}

/// The plugins are newer ones: of a volume that nobody has written to they name the snapshot that they have taken last.
pub fn thrifty(sim: &Sim) {
    sim.lock().nodes.values_mut().for_each(|node| node.plugin.thrifty = true);
}

pub fn own(sim: &Sim, node: &str) -> String {
    let text = sim.disk(node, |disk| disk.read(Path::new("/deploy/.handler/own"), 1 << 20));
    text.map_or(String::new(), |text| String::from_utf8(text).unwrap())
}

/// The shop with a second data volume.
pub fn with_extra(more: &str) -> String {
    compose(more).replace("['data:/data']", "['data:/data', 'extra:/extra']") + "  extra: {driver: 'anybox/buttervolume:latest'}\n"
}

/// The shop with it on node1, and newer plugins.
pub fn with_two_volumes(slave: &str) -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    thrifty(&sim);
    commit(&sim, &with_extra(""));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some(slave))]));
    sim.settle();
    sim
}

/// The first set of node3, its slave now, has arrived, is on its disk, and is void since it has booted.
pub fn first_set_is_void(sim: &Sim) {
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(replica(sim, "node3")["next"]["sent"].as_bool().unwrap_or_default(), "{:#}", replica(sim, "node3"));
    sim.lock().sync_snapshots("node3");
    reboot(sim, "node3");
    tick(sim);
    assert_eq!(replica(sim, "node3")["void"].as_array().map(Vec::len), Some(2), "{:#}", replica(sim, "node3"));
    assert_eq!(snapshots(sim, "node3", EXTRA).len(), 1);
}

/// A deploy on node1 that cannot be undone there: a person gives its undo up.
pub fn fails_and_is_given_up(sim: &Sim) {
    sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
    sim.start("node3", Start::Cancel(id("bad"), Some("node1")));
    sim.run_until_rest();
    sim.no_faults();
    sim.settle();
    assert_eq!(sim.lock().ended("bad")["state"], "failed");
}

/// Newer plugins, and a volume that nobody writes to: one snapshot of it is in each of the sets of the last hour.
pub fn with_a_quiet_volume() -> Sim {
    let sim = with_two_volumes("node2");
    sim.lock().write("node1", EXTRA, "settings|");
    for time in 0..4 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    sim
}

pub fn commit(sim: &Sim, text: &str) {
    sim.lock().commit(URL, "master", &[("docker-compose.yml", text)]);
}

/// Its disks are new.
pub fn wiped(sim: &Sim, node: &str) {
    sim.disk(node, |disk| drop(std::mem::take(disk)));
    let mut s = sim.lock();
    let plugin = s.plugin(node);
    plugin.volumes.clear();
    plugin.snapshots.clear();
    plugin.subvolumes.clear();
    plugin.schedules.clear();
    let engine = s.engine(node);
    engine.containers.clear();
    engine.volumes.clear();
}

/// All keys of Consul, as a backup has them.
pub fn backup(sim: &Sim) -> Vec<(String, String)> {
    let s = sim.lock();
    s.keys("").into_iter().filter_map(|key| Some((key.clone(), s.store.text(&key)?))).collect()
}

/// Consul is put back to that state.
pub fn put_back(sim: &Sim, backup: &[(String, String)]) {
    let mut s = sim.lock();
    s.keys("").iter().for_each(|key| s.store.remove(key));
    backup.iter().for_each(|(key, text)| s.store.set(key, text.as_bytes()));
}

/// The shop, of which sets are kept for so long.
pub fn keeping(keep: &str) -> String {
    let labels = format!("driver: 'anybox/buttervolume:latest', labels: {{com.github.mlfmonde.cluster.keep: '{keep}'}}");
    compose("").replace("driver: 'anybox/buttervolume:latest'", &labels)
}

pub fn statuses(sim: &Sim) -> String {
    NODES.iter().map(|node| format!("{node}: {}", run(sim, node, Start::Status))).collect()
}

/// What serves, what orders there are, and what a status says.
pub fn outcome(sim: &Sim) -> (Vec<String>, Vec<String>, String) {
    sim.try_settle().ok();
    checks(sim, 3);
    let serving = sim.lock().serving(PROJECT);
    let orders = sim.lock().keys("order/");
    (serving, orders, statuses(sim))
}
