//! What random histories have found, and what they have not within a minute.

use std::time::Duration;

use serde_json::json;

use crate::beside::{copy, until};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{COPY, DATA, NODES, URL, deploy, deployed, migrate, push, push_to, shop, with_copy};
use crate::world::{Act, Cluster, id};

/// There is no leader for longer than a redeploy is patient. An order of two applications waits for it, and for that one an order of the
/// other, whose worker on the same node waits for both.
#[test]
fn what_has_given_up_without_a_leader_is_begun_again_though_another_worker_of_its_node_waits_for_it() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    push_to(&sim, COPY, "", &[]);
    sim.on("node1", " build", Act::First(Box::new(|s| s.lose_leader(100_000_000))));
    sim.start("node1", Start::Events(vec![copy("anew")]));
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert!(sim.lock().kv(&format!("order/{}", id("anew"))).is_some(), "it has given up");
    sim.pass(Duration::from_secs(100));
    sim.start("node2", Start::Events(vec![migrate("m")]));
    sim.run_until_rest();
    sim.start("node1", Start::Request("deploy", json!({"repo": URL, "branch": "master", "master": "node1"})));
    sim.run_until_rest();
    assert_eq!(sim.violations(), [""; 0]);
    assert_eq!(sim.lock().keys("order/"), [""; 0]);
    let states = ["anew", "m"].map(|word| sim.lock().ended(word)["state"].clone());
    assert_eq!(states, ["done", "done"]);
}

/// A first deploy, over data that was put there before or over none, is killed once it is up, and its undo asks Compose in vain: that says
/// nothing of the checkout, and nothing of what the failed version has written stays in its place.
#[test]
fn an_undo_of_a_first_deploy_that_cannot_ask_compose_is_tried_again() {
    for brought in [Some("brought along"), None] {
        let sim: Sim = shop(&NODES);
        if let Some(data) = brought {
            sim.lock().plugin("node1").volumes.insert(DATA.to_owned(), data.to_owned());
        }
        push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
        sim.on("node1", "up -d", Act::KillAfter);
        sim.start("node1", Start::Events(vec![deploy("one", "node1", None)]));
        sim.run_until_rest();
        sim.on("node1", "version --short", Act::Fail("docker-compose: out of memory".to_owned()));
        sim.settle();
        assert!(sim.no_faults());
        assert_eq!(sim.lock().ended("one")["state"], "failed");
        let data = sim.lock().volume("node1", DATA).map(|data| data.replace('|', ""));
        assert_eq!(data.as_deref(), brought);
    }
}

/// A move's new master is killed before it has changed anything, and begins anew once the old one has died: it is a move all the same, and
/// fails. What was written since the last replica is not given up by an order that was no takeover.
#[test]
fn a_move_that_is_begun_anew_is_no_takeover() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.on("node2", "git clone", Act::KillBefore);
    sim.start("node2", Start::Events(vec![deploy("second", "node2", Some("node3"))]));
    until(&sim, "the kill", || sim.at_work() == 0);
    assert!(sim.no_faults());
    sim.power_off("node1");
    sim.settle();
    let ended = sim.lock().ended("second");
    assert_eq!((&ended["state"], &ended["origin"]), (&json!("failed"), &json!("alive")), "{ended:#}");
}
