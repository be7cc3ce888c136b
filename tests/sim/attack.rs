//! Pairs: a failure, and a second one while the first is being undone or taken up, or a later order.

use std::time::Duration;

use serde_json::json;

use crate::takeover::offered;
use crate::world::inside::{End, Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, deploy, deployed, migrate, push, with_copy};
use crate::world::{Act, Cluster, Effect, event};

/// Where what is not the master's part is: schedules that replicate, services, what serves.
fn out_of_place(sim: &Sim) -> Vec<String> {
    let s = sim.lock();
    let master = s.kv(&format!("app/{APP}")).map(|record| record["master"].as_str().unwrap().to_owned()).unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, node) in s.nodes.iter().filter(|(name, _)| **name != master) {
        let replicates =
            node.plugin.schedules.keys().filter(|(volume, action)| volume.starts_with(PROJECT) && !action.starts_with("purge"));
        wrong.extend(replicates.map(|(volume, action)| format!("{name} has the schedule {action} of {volume}")));
        wrong.extend(node.services.keys().filter(|id| id.contains("shop")).map(|id| format!("{name} has the service {id}")));
        let up = node.engine.containers.iter().filter(|c| c.project == PROJECT && c.running);
        wrong.extend(up.map(|c| format!("{name} runs {}", c.name)));
    }
    wrong
}

/// node2 takes over, and has nothing of what a failed version had made of the data.
#[track_caller]
pub fn takes_over_from_the_replica(sim: &Sim) {
    push(sim, "");
    sim.deliver_all(&[deploy("takeover", "node2", None)]);
    let mut ended = sim.lock().ended("takeover");
    // Where no set is confirmed, it is answered with the order to give.
    if let Some(reason) = ended["reason"].as_str() {
        sim.deliver_all(&[offered(reason, "as told")]);
        ended = sim.lock().ended("as told");
    }
    sim.settle();
    assert_eq!(ended["state"], "done", "{ended}");
    let data = sim.lock().volume("node2", DATA).unwrap();
    assert!(!data.contains("WRONG"), "“{data}” {}", ended["notes"]);
}

/// A failed move has left a snapshot of what the failing version made of the data; it is no replica.
#[test]
fn a_takeover_starts_from_the_replica_and_not_from_what_a_failed_version_has_made_of_it() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    // As good clocks are.
    sim.lock().nodes.values_mut().for_each(|node| node.ahead = 0);
    sim.pass(Duration::from_secs(60));
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.deliver_all(&[deploy("bad", "node2", Some("node1"))]);
    sim.settle();
    assert_eq!(sim.lock().ended("bad")["state"], "failed");
    assert!(!sim.lock().volume("node1", DATA).unwrap().contains("WRONG"));
    // Before the next hour, the master dies.
    sim.power_off("node1");
    takes_over_from_the_replica(&sim);
}

/// The same with a takeover that fails, and is ordered again.
#[test]
fn a_second_takeover_starts_from_the_replica_too() {
    for confirmed in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        // As good clocks are.
        sim.lock().nodes.values_mut().for_each(|node| node.ahead = 0);
        sim.lock().replicate("node1");
        sim.power_off("node1");
        sim.pass(Duration::from_secs(60));
        push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
        sim.deliver_all(&[deploy("bad", "node2", None)]);
        sim.settle();
        assert_eq!(sim.lock().ended("bad")["state"], "failed");
        if !confirmed {
            sim.lock().store.remove(&format!("replica/{APP}/node2"));
        }
        takes_over_from_the_replica(&sim);
    }
}

/// The node that a migrate writes to dies for good in the middle of it: its source, which is well, is not kept from everything.
#[test]
fn a_migrate_whose_target_has_died_keeps_nobody_waiting() {
    for at in ["stop", "git", "Snapshot", "update"] {
        let (sim, ..): (Sim, String, String) = with_copy("node3", "", &[("post_migrate.sh", "write data ,anonymous")]);
        let at_node3 = move |e: &Effect| e.node == "node3" && e.line.contains(at) && !e.is_read;
        sim.fault(at_node3, 1, Act::First(Box::new(|s| s.die("node3"))));
        sim.deliver_all(&[migrate("m")]);
        if !sim.no_faults() {
            continue;
        }
        sim.lock().nodes.remove("node3");
        sim.pass(Duration::from_secs(3600));
        sim.try_settle().ok();
        let open = sim.lock().keys("order/");
        assert!(open.is_empty(), "{at}: {open:?} {:?}", sim.lock().kv(&open[0]));
        all_well(&sim.deliver_all(&[deploy("next", "node1", Some("node2"))]));
        assert_eq!(sim.lock().ended("next")["state"], "done");
    }
}

/// A node loses its power anywhere in an order, another takes over, it comes back.
fn deaths_and_takeovers(order: impl Fn(&Sim) -> serde_json::Value) {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    push(&sim, "");
    let event = order(&sim);
    sim.pass(Duration::from_secs(60));
    let start = sim.save();
    let mut wrong = String::new();
    for nth in 1.. {
        sim.load(&start);
        sim.end_at("node1", nth, End::PowerOff);
        sim.deliver_all(std::slice::from_ref(&event));
        if !sim.has_ended() {
            break;
        }
        sim.try_settle().ok();
        sim.pass(Duration::from_secs(900));
        sim.try_settle().ok();
        sim.deliver_all(&[deploy("takeover", "node2", Some("node3"))]);
        sim.settle();
        let ended = sim.lock().ended("takeover");
        sim.power_on("node1");
        sim.settle();
        let mut found = out_of_place(&sim);
        found.extend(sim.violations());
        if !found.is_empty() {
            wrong += &format!(
                "door {nth}: {} {}: takeover {} {}: {found:?}\n",
                event["Name"],
                sim.lock().ended("two")["state"],
                ended["state"],
                ended["reason"]
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_master_that_died_in_a_redeploy_is_fenced_when_it_is_back() {
    deaths_and_takeovers(|_| deploy("two", "node1", Some("node2")));
}

#[test]
fn a_master_that_died_in_a_move_is_fenced_when_it_is_back() {
    deaths_and_takeovers(|_| deploy("two", "node2", Some("node1")));
}

/// A new master is cut off in the middle; the others go on without it; it is back, and its run, which has waited, ends.
#[test]
fn a_run_that_others_have_gone_on_without_leaves_nothing_running() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    push(&sim, "");
    let cut = Act::First(Box::new(|s| s.split(&["node2"])));
    sim.fault(|e| e.node == "node2" && e.line.contains("agent/service/register"), 1, cut);
    for node in NODES {
        sim.start(node, Start::Events(vec![deploy("two", "node2", Some("node1"))]));
    }
    sim.steps(3000);
    sim.start("node1", Start::Events(Vec::new()));
    sim.steps(1000);
    for node in ["node1", "node3"] {
        sim.start(node, Start::Events(vec![deploy("three", "node3", None)]));
    }
    sim.steps(3000);
    let ended = sim.lock().ended("three");
    assert_eq!(ended["state"], "done", "{ended}");
    sim.lock().heal();
    sim.run_until_rest();
    let found = out_of_place(&sim);
    assert!(found.is_empty(), "{found:?}");
}

/// Both die to the others: the owner is cut off, the source loses its power. The third says that the order has failed.
#[test]
fn a_source_starts_again_only_when_the_owner_is_down_though_the_order_is_in_the_history() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    let cut = Act::First(Box::new(|s| {
        s.split(&["node2"]);
        s.die("node1");
    }));
    sim.fault(|e| e.node == "node2" && e.line.contains("agent/service/register"), 1, cut);
    for node in NODES {
        sim.start(node, Start::Events(vec![deploy("two", "node2", Some("node1"))]));
    }
    sim.steps(3000);
    sim.start("node3", Start::Events(Vec::new()));
    sim.steps(1000);
    assert_eq!(sim.lock().ended("two")["state"], "failed");
    let up = |sim: &Sim| sim.lock().serving(PROJECT);
    assert!(up(&sim).iter().any(|line| line.starts_with("node2")), "{:?}", up(&sim));
    sim.lock().heal();
    sim.power_on("node1");
    sim.lock().two_may_run = false;
    // As long as a stop of its takes.
    sim.on("node2", " down", Act::Slow(Duration::from_secs(60)));
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    let violations = sim.violations();
    assert!(violations.is_empty(), "{violations:?}");
}

/// What is said to start empty does.
#[test]
fn what_starts_empty_is_empty() {
    let sim: Sim = deployed(&NODES, "node1", None);
    sim.power_off("node1");
    sim.lock().plugin("node2").volumes.insert(DATA.to_owned(), "of last year".to_owned());
    let payload = json!({"repo": URL, "branch": "master", "master": "node2", "empty": true});
    sim.deliver_all(&[event("two", "deploy", &payload)]);
    sim.settle();
    let ended = sim.lock().ended("two");
    assert_eq!(ended["state"], "done");
    let data = sim.lock().volume("node2", DATA).unwrap();
    assert!(data.is_empty() || !ended["notes"].to_string().contains("starts empty"), "“{data}” {}", ended["notes"]);
}

/// A first deploy that fails, of an application whose data was put there before.
#[test]
fn a_first_deploy_that_fails_leaves_the_data_that_was_there() {
    let sim: Sim = crate::world::shop::shop(&NODES);
    sim.lock().plugin("node1").volumes.insert(DATA.to_owned(), "brought along".to_owned());
    sim.lock().precious.insert("brought along".to_owned());
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.deliver_all(&[deploy("one", "node1", None)]);
    sim.settle();
    assert_eq!(sim.lock().ended("one")["state"], "failed");
    let s = sim.lock();
    let kept =
        s.nodes["node1"].plugin.volumes.values().chain(s.nodes["node1"].plugin.snapshots.values()).any(|held| held == "brought along");
    assert!(kept, "{:?} {:?}", s.nodes["node1"].plugin.volumes, s.nodes["node1"].plugin.snapshots);
}
