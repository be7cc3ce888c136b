//! Stories about sets of dead masters, what was fenced, and what a plugin does not find, in which a promise breaks.

use std::time::Duration;

use serde_json::json;

use crate::others::run;
use crate::sets::{self, backup, checks, data, held, own, reboot, replica, statuses, thrifty, tick, wiped};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, deploy, deployed, push_files, shop};
use crate::world::{Act, Cluster, event};

const HOUR: Duration = Duration::from_secs(3600);

// ---- what a dead master has sent

/// node1 has handed over to node2. A power failure takes node2 right after its first set has arrived on node3.
fn killed_over_its_first_set() -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.fault(|e| e.node == "node2" && e.what == "Snapshot.Send", 1, Act::KillAfter);
    sim.start("node2", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    sim.power_off("node2");
    sim
}

/// node1 has handed over to node2. A power failure takes node2, for good, right after its first set has arrived on node3, and node3, which comes
/// back: it has the set, whole, and has not confirmed it. Answers what the set's snapshot is.
fn sent_and_dead() -> (Sim, String) {
    let sim = killed_over_its_first_set();
    sim.lock().nodes.remove("node2");
    // A minute later all that has arrived is on the disk.
    sim.lock().sync_snapshots("node3");
    let next = replica(&sim, "node3")["next"]["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned();
    assert!(held(&sim, "node3", &next).unwrap().contains("tuesday"));
    (sim, next)
}

/// node1 takes over from what it had handed over, and the history names the set on node3 as newer. It is deployed to node3 right after that:
/// the commit calls that set void without saying what it is of, and what node2 wrote last is removed.
#[test]
fn what_a_dead_master_has_sent_stays_where_the_application_is_moved_to() {
    let (sim, next) = sent_and_dead();
    reboot(&sim, "node3");
    tick(&sim);
    sim.deliver_all(&[deploy("over", "node1", None), deploy("on", "node3", None)]);
    sim.settle();
    let over = sim.lock().ended("over");
    let on = sim.lock().ended("on");
    assert_eq!((&over["state"], &on["state"]), (&json!("done"), &json!("done")), "{over:#} {on:#}");
    assert!(over["notes"].to_string().contains(&next), "{over:#}");
    let before = replica(&sim, "node3");
    checks(&sim, 2);
    let there = held(&sim, "node3", &next);
    sim.violations();
    assert!(there.is_some(), "{next} is gone; {} {before:#} {over:#} {}", data(&sim, "node3", DATA), own(&sim, "node3"));
}

/// node3 is away for three days; meanwhile it is deployed every hour, so that the history has forgotten the takeover when node3 is back. The set
/// is called overtaken, and removed.
#[test]
fn what_a_dead_master_has_sent_stays_though_the_history_has_forgotten_the_takeover() {
    let (sim, next) = sent_and_dead();
    sim.power_off("node3");
    sim.deliver_all(&[deploy("over", "node1", Some("node3"))]);
    let over = sim.lock().ended("over");
    assert!(over["state"] == "done" && over["notes"].to_string().contains(&next), "{over:#}");
    for hour in 0..70 {
        sim.pass(HOUR);
        all_well(&sim.deliver_all(&[deploy(&format!("hour {hour}"), "node1", None)]));
    }
    assert!(sim.lock().ended("over").is_null());
    sim.power_on("node3");
    sim.start("node3", Start::Events(Vec::new()));
    sim.run_until_rest();
    checks(&sim, 3);
    let there = held(&sim, "node3", &next);
    sim.violations();
    assert!(there.is_some(), "{next} is gone; {:#} {}", replica(&sim, "node3"), own(&sim, "node3"));
}

// ---- what a plugin does not find

/// A volume was brought along, with the data of an old server, and its application is deployed for the first time. The plugin does not find it
/// once, at the check; the version writes to it and fails. The undo takes it for one that this order has made.
#[test]
fn an_undo_removes_no_volume_that_was_brought_along_and_was_not_found_once() {
    let mut wrong = Vec::new();
    for blind in [0, 1] {
        let sim: Sim = shop(&NODES);
        push_files(&sim, "x-standin: {start: unhealthy, writes: WRONG}", &[]);
        sim.lock().plugin("node1").volumes.insert(DATA.into(), "of the old server".into());
        sim.lock().plugin("node1").blind = blind;
        sim.deliver_all(&[deploy("first", "node1", None)]);
        sim.settle();
        let first = sim.lock().ended("first");
        assert_eq!(first["state"], "failed");
        let volume = sim.lock().volume("node1", DATA);
        let snapshots: Vec<String> = sim.lock().nodes["node1"].plugin.snapshots.values().cloned().collect();
        sim.violations();
        if volume.as_deref() != Some("of the old server") {
            wrong.push(format!("blind {blind}: the volume holds {volume:?}, snapshots {snapshots:?}: {first:#}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// ---- what was fenced

/// node1 was fenced. A person has looked at what it kept, and has removed it, as the README says. `status` and `check` go on to say that its
/// volumes are kept there, and nothing ends that.
#[test]
fn what_was_fenced_and_removed_by_hand_is_not_said_to_be_kept() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    checks(&sim, 2);
    let before = run(&sim, "node1", Start::Status);
    assert!(before.stderr.contains("fenced"), "{before}");
    {
        let mut s = sim.lock();
        s.engine("node1").containers.retain(|it| !it.volumes.iter().any(|volume| volume.starts_with(PROJECT)));
        let plugin = s.plugin("node1");
        plugin.volumes.remove(DATA);
        plugin.snapshots.clear();
        plugin.subvolumes.clear();
    }
    checks(&sim, 3);
    let status = run(&sim, "node1", Start::Status);
    sim.violations();
    assert!(!status.stderr.contains("its volumes are kept"), "{status}");
}

/// node1 dies, node2 takes over with node1 as its slave, and node1 is back: it is fenced, and the slave. Then Consul is put back to a state
/// from before.
fn put_back() -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    sim.power_off("node1");
    all_well(&sim.deliver_all(&[deploy("over", "node2", Some("node1"))]));
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.settle();
    tick(&sim);
    let roles = sim.lock().kv(&format!("app/{APP}")).unwrap();
    assert_eq!((&roles["master"], &roles["slave"]), (&json!("node2"), &json!("node1")));
    sets::put_back(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 3);
    sim
}

/// A former master was fenced and is the slave when Consul is put back to a state from before: what it remembers is the slave only. The application
/// runs nowhere, and no node's `status` says so, or what to do.
#[test]
fn what_runs_nowhere_since_consul_was_put_back_is_told_of_though_its_master_was_the_slave() {
    let sim = put_back();
    let serving = sim.lock().serving(PROJECT);
    let status = statuses(&sim);
    sim.violations();
    let told = ["container", "runs nowhere", "does not run", "no checkout", "deploy it again", "Deploy it again"];
    assert!(serving.len() == 2 || told.iter().any(|word| status.contains(word)), "serving {serving:?}\n{status}");
}

/// The same; it is deployed again on the node that the record names. That goes on from what node1 had, and no note in the history says that
/// another node may hold what is newer.
#[test]
fn a_deploy_where_a_slave_was_fenced_has_a_note_in_the_history_though_consul_was_put_back() {
    let sim = put_back();
    sim.deliver_all(&[deploy("as told", "node1", Some("node2"))]);
    sim.try_settle().ok();
    let told = sim.lock().ended("as told");
    let holds = data(&sim, "node1", DATA);
    sim.violations();
    let old = told["state"] == "done" && !holds.contains("tuesday");
    assert!(!old || told["notes"].to_string().contains("may hold what is newer"), "“{holds}” {told:#}");
}

/// A power failure takes node2 in the middle of its first set, and node3, on which that has arrived, and which has booted since. node2 is back
/// under its name with new disks: it lives, so that the set on node3 is called void, and the last of the data is removed.
#[test]
fn what_has_arrived_whole_stays_where_the_disk_of_the_master_is_new() {
    let sim = killed_over_its_first_set();
    sim.lock().sync_snapshots("node3");
    let next = replica(&sim, "node3")["next"]["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned();
    reboot(&sim, "node3");
    checks(&sim, 2);
    assert!(held(&sim, "node3", &next).unwrap().contains("tuesday"), "of a dead one it stays");
    wiped(&sim, "node2");
    sim.power_on("node2");
    sim.start("node2", Start::Events(Vec::new()));
    sim.run_until_rest();
    checks(&sim, 3);
    let there = held(&sim, "node3", &next);
    sim.violations();
    assert!(there.is_some(), "{next} is gone; {:#} {}\n{}", replica(&sim, "node3"), own(&sim, "node3"), statuses(&sim));
}

/// It is moved from node1 to node2 with an `update`, so that what node1 has handed over confirms nothing; node2 dies before its first set. node1
/// has what it sent, as a snapshot. With a newer plugin that is also what was named when node1 removed the volume, so that it counts as none of
/// the data: the failed takeover calls an older one the newest, and prints the order that starts from that.
#[test]
fn a_takeover_finds_what_was_handed_over_with_a_newer_plugin_too() {
    let mut wrong = Vec::new();
    for newer in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        if newer {
            thrifty(&sim);
        }
        sim.lock().write("node1", DATA, " and of tuesday");
        push_files(&sim, "", &[("update.sh", "write data ,more")]);
        let payload = json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node3", "update": true});
        all_well(&sim.deliver_all(&[event("away", "deploy", &payload)]));
        sim.settle();
        sim.power_off("node2");
        sim.lock().nodes.remove("node2");
        let payload = json!({"repo": URL, "branch": "master", "master": "node1", "slave": null, "empty": true});
        sim.deliver_all(&[event("over", "deploy", &payload)]);
        sim.settle();
        let over = sim.lock().ended("over");
        let snapshots = sim.lock().nodes["node1"].plugin.snapshots.clone();
        // With the last write, which is made while it stops.
        let is_newest = |(name, text): &(&String, &String)| name.matches('@').count() == 1 && text.ends_with('|');
        let named = snapshots.iter().filter(is_newest).any(|(name, _)| over["reason"].to_string().contains(name));
        sim.violations();
        if !named {
            wrong.push(format!("newer {newer}: {over:#}, though there is {snapshots:#?} {}", own(&sim, "node1")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A move to the slave fails, and is undone there. Its power fails before the disk knows of it: it reads that it is in the middle
/// of a move that others have ended, and fences itself. As a slave it had no volume, and misses none.
#[test]
fn a_slave_that_was_to_become_the_master_misses_no_volume_after_a_power_failure() {
    let mut back = 0;
    for seed in 1..=20 {
        let sim = Sim::with_seed(seed, &NODES);
        sim.lock().registry.insert("cache:1".into(), "cache one".into());
        push_files(&sim, "", &[]);
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        tick(&sim);
        push_files(&sim, "x-standin: {start: exits}", &[]);
        let undone =
            |e: &crate::world::state::effect::Effect| e.node == "node2" && e.line.contains("cas order/") && e.line.contains("(failed)");
        sim.fault(undone, 2, Act::KillAfter);
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("away", "node2", None)])));
        sim.run_until_rest();
        assert!(sim.no_faults());
        assert_eq!(sim.lock().ended("away")["state"], "failed");
        sim.power_off("node2");
        push_files(&sim, "", &[]);
        all_well(&sim.deliver_all(&[deploy("again", "node1", Some("node2"))]));
        sim.power_on("node2");
        sim.ended();
        sim.start("node2", Start::Events(Vec::new()));
        sim.run_until_rest();
        back += usize::from(sim.ended().iter().any(|run| run.stderr.contains("somebody has gone on since")));
        checks(&sim, 2);
        let status = run(&sim, "node2", Start::Status);
        sim.violations();
        assert!(!status.stderr.contains("is not kept yet"), "{status}");
    }
    assert!(back > 0, "the journal was never back");
}
