//! Stories about old knowledge, names that come again, clocks, restored keys and nodes that were wiped, in which a promise breaks.

use std::time::Duration;

use serde_json::{Value, json};

use crate::attack2::taken_over;
use crate::beside::until;
use crate::others::run;
use crate::sets::{MINUTE, checks, data, held, last, replica, statuses, tick, wiped};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, destroy, push, shop};
use crate::world::{Act, Cluster, event, id};

const HOUR: Duration = Duration::from_secs(3600);
const STAGING: &str = "shopstaginge4371";

fn order(sim: &Sim, word: &str) -> Value {
    sim.lock().kv(&format!("order/{}", id(word))).unwrap_or_default()
}

fn staging(word: &str, master: &str) -> Value {
    event(word, "deploy", &json!({"repo": URL, "branch": "staging", "master": master}))
}

/// All keys of Consul, as a backup has them.
fn backup(sim: &Sim) -> Vec<(String, String)> {
    let s = sim.lock();
    s.keys("").into_iter().filter_map(|key| Some((key.clone(), s.store.text(&key)?))).collect()
}

fn restore(sim: &Sim, backup: &[(String, String)]) {
    let mut s = sim.lock();
    s.keys("").iter().for_each(|key| s.store.remove(key));
    backup.iter().for_each(|(key, text)| s.store.set(key, text.as_bytes()));
}

// ---- an undo

/// The shop has given its volume a name of its own. node1 was fenced of it, its containers stand there, stopped; it is destroyed. Its other
/// branch, which declares the same volume, runs on node1, and is deployed anew: that fails.
#[test]
fn a_failed_redeploy_is_undone_though_stopped_containers_of_a_destroyed_application_are_on_its_volume() {
    let shared = |more: &str| compose(more).replace("anybox/buttervolume:latest'", "anybox/buttervolume:latest', name: shared");
    let sim: Sim = shop(&NODES);
    sim.settle();
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &shared(""))]);
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.lock().write("node1", "shared", "orders of monday");
    sim.settle();
    tick(&sim);
    sim.lock().split(&["node1"]);
    taken_over(&sim);
    sim.run_until_rest();
    sim.settle();
    all_well(&sim.deliver_all(&[destroy("end")]));
    sim.settle();
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &shared(""))]);
    all_well(&sim.deliver_all(&[staging("new", "node1")]));
    sim.lock().write("node1", "shared", " and of tuesday");
    sim.settle();
    let (before, serving) = (data(&sim, "node1", "shared"), sim.lock().serving(STAGING));
    assert!(before.contains("tuesday") && serving.len() == 2, "{before} {serving:?}");
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &shared("x-standin: {start: unhealthy, writes: WRONG}"))]);
    let runs = sim.deliver_all(&[staging("bad", "node1")]);
    sim.settle();
    let bad = sim.lock().ended("bad");
    assert_eq!(bad["state"], "failed", "{bad:#}");
    let said: String = runs.iter().flat_map(|run| run.stderr.lines()).filter(|line| line.contains("stays as it is")).collect();
    let held = data(&sim, "node1", "shared");
    assert_eq!(held, before, "{said}\n{}", bad["reason"]);
}

// ---- old knowledge

/// A master dies in the middle of a redeploy. Another takes over. The record vanishes. The first is back.
#[test]
fn a_master_that_died_in_a_redeploy_starts_nothing_though_the_record_of_who_took_over_has_vanished() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    push(&sim, "");
    sim.on("node1", "agent/service/register", Act::Slow(MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("two", "node1", Some("node2"))])));
    until(&sim, "the new version", || order(&sim, "two")["progress"]["node1"]["name"] == "await-healthy");
    sim.power_off("node1");
    sim.run_until_rest();
    let _ = sim.no_faults();
    sim.try_settle().ok();
    checks(&sim, 1);
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    sim.settle();
    let [two, over] = ["two", "over"].map(|word| sim.lock().ended(word));
    assert!(two["state"] == "failed" && over["state"] == "done", "{two:#} {over:#}");
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.try_settle().ok();
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.try_settle().ok();
    sim.violations();
    let serving = sim.lock().serving(PROJECT);
    let status = run(&sim, "node1", Start::Status);
    assert!(serving.iter().all(|line| line.starts_with("node2")), "{serving:#?} {status}");
}

/// A clock was an hour ahead when the application was deployed, and is put right. Its master dies, it is destroyed, and the master is back.
#[test]
fn what_was_destroyed_is_fenced_though_a_clock_was_an_hour_ahead_when_it_was_deployed() {
    let sim: Sim = shop(&NODES);
    sim.settle();
    sim.lock().node("node1").ahead += 3_600_000_000;
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.settle();
    sim.lock().node("node1").ahead -= 3_600_000_000;
    sim.lock().write("node1", DATA, "orders of monday");
    sim.pass(20 * MINUTE);
    sim.power_off("node1");
    all_well(&sim.deliver_all(&[destroy("end")]));
    assert_eq!(sim.lock().ended("end")["state"], "done");
    sim.pass(20 * MINUTE);
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.try_settle().ok();
    checks(&sim, 2);
    let serving = sim.lock().serving(PROJECT);
    let status = run(&sim, "node1", Start::Status);
    sim.violations();
    assert!(serving.is_empty(), "{serving:?} {status}");
}

// ---- begins anew

/// The record is gone, and the disk of the node that ran it: it has been made anew. It is deployed there, as the reason of the refused order says,
/// while its slave holds a confirmed set.
#[test]
fn what_has_lost_its_record_and_its_masters_disk_does_not_begin_empty_as_it_is_told() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    assert!(replica(&sim, "node2")["last"].is_object());
    sim.power_off("node1");
    wiped(&sim, "node1");
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.try_settle().ok();
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    let over = sim.lock().ended("over");
    let reason = over["reason"].as_str().unwrap_or_default().to_owned();
    assert!(over["state"] == "failed" && reason.contains("node1 ran it last: deploy it there"), "{over:#}");
    let plan = run(&sim, "node1", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node2"})));
    sim.deliver_all(&[deploy("as told", "node1", Some("node2"))]);
    let told = sim.lock().ended("as told");
    let held = data(&sim, "node1", DATA);
    let next = replica(&sim, "node2");
    let begins_empty = told["state"] == "done" && !held.contains("monday") && told["notes"].is_null();
    assert!(!begins_empty, "{reason}\n“{held}” {told:#}\n{next:#}\n{plan}");
}

/// The master's disk has been made anew, under the same name; the record is there, and the slave holds a confirmed set. A deploy on the slave is a
/// move from what lives, and fails; its reason says what to do: that is done.
#[test]
fn what_a_new_disk_has_lost_does_not_begin_empty_on_the_slave_that_has_it_as_it_is_told() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    assert!(replica(&sim, "node2")["last"].is_object());
    sim.power_off("node1");
    wiped(&sim, "node1");
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.try_settle().ok();
    checks(&sim, 1);
    let before = statuses(&sim);
    sim.deliver_all(&[deploy("over", "node2", Some("node1"))]);
    sim.try_settle().ok();
    let reason = sim.lock().ended("over")["reason"].as_str().unwrap_or_default().to_owned();
    let says = "make it anew (docker volume create), then order again";
    if reason.contains(says) {
        sim.lock().create_volume("node1", DATA, "anybox/buttervolume:latest").unwrap();
    }
    sim.deliver_all(&[deploy("as told", "node2", Some("node1"))]);
    sim.try_settle().ok();
    let told = sim.lock().ended("as told");
    let held = data(&sim, "node2", DATA);
    sim.violations();
    let begins_empty = told["state"] == "done" && !held.contains("monday");
    assert!(!begins_empty && (!reason.contains(says) || reason.contains("node2")), "{before}\n{reason}\n“{held}” {told:#}");
    // As the reason says.
    assert!(reason.contains("node2 has a confirmed set"), "{reason}");
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over it", "node2", Some("node3"))]);
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.settle();
    assert!(data(&sim, "node2", DATA).contains("monday"), "{:#}", sim.lock().ended("over it"));
}

/// The record is gone, and what the node remembered of it.
#[test]
fn a_plan_does_not_say_that_a_node_remembers_what_it_does_not() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.power_off("node1");
    wiped(&sim, "node1");
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.power_on("node1");
    let plan = run(&sim, "node1", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node1"})));
    assert!(!plan.stderr.contains("from what it remembers") || !plan.stderr.contains("none -> master"), "{plan}");
}

// ---- Consul from a backup

/// node1 was cut off, node2 has taken over; node1 is fenced. Consul is restored from a backup of before. What is told is done.
#[test]
fn a_backup_of_consul_from_before_a_takeover_does_not_serve_older_data_without_a_word() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    sim.lock().split(&["node1"]);
    taken_over(&sim);
    sim.run_until_rest();
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.settle();
    tick(&sim);
    restore(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    let serving = sim.lock().serving(PROJECT);
    let before = statuses(&sim);
    let plan = run(&sim, "node1", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node2"})));
    let runs = sim.deliver_all(&[deploy("as told", "node1", Some("node2"))]);
    sim.try_settle().ok();
    let told = sim.lock().ended("as told");
    let held = data(&sim, "node1", DATA);
    let log: String = runs.iter().map(|run| run.stderr.clone()).collect();
    sim.violations();
    let old = told["state"] == "done" && !held.contains("tuesday");
    assert!(
        !old || told["notes"].is_array(),
        "after the restore {serving:?}\n{before}\n{plan}\n“{held}” {told:#}\n{log}\n{}",
        statuses(&sim)
    );
}

/// The same from before a move. What runs is stopped; an order to bring it up where it was fails, and its reason says what to do: that is done.
#[test]
fn a_backup_of_consul_from_before_a_move_does_not_end_with_an_empty_application_as_it_is_told() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    all_well(&sim.deliver_all(&[deploy("move", "node3", Some("node2"))]));
    sim.settle();
    sim.lock().write("node3", DATA, " and of tuesday");
    tick(&sim);
    restore(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    let serving = sim.lock().serving(PROJECT);
    let before = statuses(&sim);
    sim.deliver_all(&[deploy("back", "node3", Some("node2"))]);
    sim.try_settle().ok();
    let reason = sim.lock().ended("back")["reason"].as_str().unwrap_or_default().to_owned();
    if reason.contains("make it anew (docker volume create), then order again") {
        sim.lock().create_volume("node1", DATA, "anybox/buttervolume:latest").unwrap();
    }
    sim.deliver_all(&[deploy("as told", "node3", Some("node2"))]);
    sim.try_settle().ok();
    let told = sim.lock().ended("as told");
    let held = data(&sim, "node3", DATA);
    sim.violations();
    let begins_empty = told["state"] == "done" && !held.contains("tuesday");
    assert!(!begins_empty, "after the restore {serving:?}\n{before}\n{reason}\n“{held}” {told:#}");
    // As the README says.
    sim.power_off("node1");
    all_well(&sim.deliver_all(&[destroy("end")]));
    all_well(&sim.deliver_all(&[deploy("from there", "node3", Some("node2"))]));
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.settle();
    let serving = sim.lock().serving(PROJECT);
    let held = data(&sim, "node3", DATA);
    assert!(held.contains("tuesday") && serving.len() == 2, "“{held}” {serving:?}");
}

/// From before a takeover. It runs nowhere.
#[test]
fn what_runs_nowhere_since_consul_was_restored_is_told_of() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    sim.lock().split(&["node1"]);
    taken_over(&sim);
    sim.run_until_rest();
    sim.settle();
    restore(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 3);
    let serving = sim.lock().serving(PROJECT);
    let status = statuses(&sim);
    sim.violations();
    let told = ["container", "runs nowhere", "does not run", "no checkout", "deploy it again"].iter().any(|word| status.contains(word));
    assert!(serving.len() == 2 || told, "{serving:?} {status}");
}

// ---- what is said

/// A set is on its way to the slave when the application is moved away; the old node is switched off.
#[test]
fn a_set_that_a_move_has_overtaken_is_nothing_to_look_at_though_its_sender_is_switched_off() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.pass(20 * MINUTE);
    sim.fault(|e| e.node == "node1" && e.what == "Snapshot.Send", 1, Act::Slow(HOUR));
    sim.start("node1", Start::Sets);
    until(&sim, "the set", || replica(&sim, "node2")["next"].is_object());
    sim.steps(400);
    sim.run_until_rest();
    let _ = sim.no_faults();
    sim.settle();
    let next = replica(&sim, "node2")["next"].clone();
    all_well(&sim.deliver_all(&[deploy("move", "node3", Some("node2"))]));
    sim.settle();
    sim.power_off("node1");
    checks(&sim, 3);
    tick(&sim);
    let status = run(&sim, "node2", Start::Status);
    let lies = status.stderr.contains("went on from another one");
    assert!(!lies, "{next} {status}");
}

/// An application without a slave has its sets on its own node. That dies; it is deployed on a node that had it before.
#[test]
fn nobody_is_sent_to_the_node_that_has_died() {
    let sim: Sim = deployed(&NODES, "node2", None);
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("move", "node1", None)]));
    sim.settle();
    sim.pass(20 * MINUTE);
    tick(&sim);
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", None)]);
    let over = sim.lock().ended("over");
    let reason = over["reason"].as_str().unwrap_or_default();
    assert!(!reason.contains("deploy to node1"), "{reason}");
}

/// A record vanishes, and its master dies. Nobody who lives says that anything is wrong.
#[test]
fn what_has_lost_its_record_and_its_master_is_told_of() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.try_settle().ok();
    sim.power_off("node1");
    checks(&sim, 3);
    let said: Vec<String> = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).into();
    sim.violations();
    assert!(said.iter().any(|said| said.contains(APP)), "{}", said.join("\n"));
}

// ---- what held

/// A new master dies in a move with the new version up; its undo is given up late; it is back, and the journal that was set aside is removed.
#[test]
fn held_an_undo_that_was_given_up_late_harms_nothing_when_its_node_is_back() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "x-standin: {writes: WRONG}");
    sim.on("node2", "agent/service/register", Act::Slow(10 * MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node1"))])));
    until(&sim, "the new version", || order(&sim, "move")["progress"]["node2"]["name"] == "await-healthy");
    sim.power_off("node2");
    sim.run_until_rest();
    let _ = sim.no_faults();
    sim.try_settle().ok();
    checks(&sim, 1);
    assert_eq!(sim.lock().ended("move")["state"], "failed");
    run(&sim, "node1", Start::Cancel(id("move"), Some("node2")));
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.power_on("node2");
    sim.start("node2", Start::Events(Vec::new()));
    sim.run_until_rest();
    checks(&sim, 2);
    let serving = sim.lock().serving(PROJECT);
    assert!(serving.len() == 2 && serving.iter().all(|line| line.starts_with("node1")), "{serving:?}");
    push(&sim, "");
    sim.deliver_all(&[deploy("again", "node2", Some("node1"))]);
    sim.try_settle().ok();
    checks(&sim, 2);
    let again = sim.lock().ended("again");
    let held = data(&sim, "node2", DATA);
    let violations = sim.violations();
    assert!(
        violations.is_empty() && again["state"] == "done" && held == "orders of monday and of tuesday",
        "{violations:#?} {again:#} “{held}”"
    );
}

/// Consul is restored from a backup of the middle of a move, which is long done. Its order is open again.
#[test]
fn held_a_backup_of_consul_from_the_middle_of_a_move_puts_no_older_data_in_place() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.on("node3", "agent/service/register", Act::Slow(10 * MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node3", Some("node2"))])));
    until(&sim, "the new version", || order(&sim, "move")["progress"]["node3"]["name"] == "await-healthy");
    let kept = backup(&sim);
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("move")["state"], "done");
    sim.lock().write("node3", DATA, " and of tuesday");
    sim.settle();
    tick(&sim);
    restore(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    let serving = sim.lock().serving(PROJECT);
    let told = sim.lock().ended("move");
    let held = data(&sim, "node3", DATA);
    sim.violations();
    assert!(held.contains("tuesday"), "“{held}” {serving:?} {told:#}\n{}", statuses(&sim));
}

/// The slave's disk has been made anew, under the same name.
#[test]
fn held_a_slave_with_a_new_disk_gets_sets_again() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.power_off("node2");
    wiped(&sim, "node2");
    sim.power_on("node2");
    sim.start("node2", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.lock().write("node1", DATA, " and of tuesday");
    checks(&sim, 6);
    let set = held(&sim, "node2", &last(&sim, "node2")).unwrap_or_default();
    let status = run(&sim, "node2", Start::Status);
    sim.violations();
    assert!(set.contains("tuesday"), "an hour later “{set}” {status}");
}

/// node1 is fenced, and has in its volume what it alone wrote; node2 runs the application. It goes back to node1, moved or taken over, well or not,
/// while node1's handler is killed, its power cut or the order cancelled at any call: what was fenced is in the volume, or set aside.
fn back_where_it_was_fenced(takeover: bool, more: &str) {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().split(&["node1"]);
    sim.lock().write("node1", DATA, " and of tuesday");
    taken_over(&sim);
    sim.run_until_rest();
    sim.settle();
    all_well(&sim.deliver_all(&[deploy("slave", "node2", Some("node1"))]));
    sim.lock().write("node2", DATA, " and of wednesday");
    sim.settle();
    tick(&sim);
    sim.pass(20 * MINUTE);
    tick(&sim);
    let fenced = data(&sim, "node1", DATA);
    assert!(fenced.contains("tuesday"));
    if takeover {
        sim.power_off("node2");
    }
    push(&sim, more);
    sim.lock().log.clear();
    let start = sim.save();
    let back = || deploy("back", "node1", Some("node3"));
    sim.deliver_all(&[back()]);
    let calls = sim.lock().log.iter().filter(|e| e.node == "node1").count();
    let mut wrong = Vec::new();
    for at in 1..=calls {
        for how in 0..3 {
            sim.load(&start);
            let key = format!("order/{}", id("back"));
            let act = match how {
                0 => Act::KillAfter,
                1 => Act::KillBefore,
                _ => Act::First(Box::new(move |s| {
                    if let Some(mut order) = s.kv(&key) {
                        order["state"] = "failed".into();
                        order["reason"] = "cancelled by hand".into();
                        s.store.set(&key, order.to_string().as_bytes());
                        s.kill("node1");
                    }
                })),
            };
            sim.fault(|e| e.node == "node1", at, act);
            sim.deliver_all(&[back()]);
            let _ = sim.no_faults();
            sim.pass(2 * MINUTE);
            let rest = sim.try_settle().is_ok();
            checks(&sim, 1);
            let state = sim.lock().ended("back")["state"].as_str().unwrap_or_default().to_owned();
            let now = data(&sim, "node1", DATA);
            let kept = sim.lock().nodes["node1"].plugin.snapshots.values().any(|held| held.contains("tuesday"));
            let open = sim.lock().keys("order/");
            let as_it_should = match &*state {
                "failed" => now == fenced,
                "done" => now.contains("wednesday") && kept,
                _ => false,
            };
            let violations = sim.violations();
            if !rest || !as_it_should || !open.is_empty() || !violations.is_empty() {
                wrong.push(format!("{at} {how}: at rest {rest} {state} “{now}” kept {kept} {open:?} {violations:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 3 * calls, wrong.join("\n"));
}

#[test]
fn held_a_move_back_to_where_it_was_fenced() {
    ["", "x-standin: {start: unhealthy, writes: WRONG}"].iter().for_each(|more| back_where_it_was_fenced(false, more));
}

#[test]
fn held_a_takeover_where_it_was_fenced() {
    ["", "x-standin: {start: unhealthy, writes: WRONG}"].iter().for_each(|more| back_where_it_was_fenced(true, more));
}
