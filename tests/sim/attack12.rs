//! A source that goes back before anybody knows of it.

use std::time::Duration;

use crate::world::inside::{Sim, Start};
use crate::world::shop::{DATA, NODES, PROJECT, deploy, deployed};
use crate::world::{Act, Cluster, id};

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
fn until(sim: &Sim, what: &str, holds: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        sim.step();
    }
    panic!("never: {what}");
}

/// A move from node1 to node2. node1 has stopped and sent, and node2 has the new version up and is registering it. node2 is cut off for a moment, so that
/// Consul calls it dead (the first fault); node1 hears it, writes into its journal that it goes back, and its handler is killed before it has told
/// Consul so (the second). node2 is there again: for it and for everybody the order is open, and it goes on.
fn a_source_that_was_killed_before_it_had_said_that_it_goes_back() -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.on("node2", "agent/service/register", Act::Slow(10 * MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("second", "node2", Some("node1"))])));
    until(&sim, "the start on node2", || sim.lock().serving(PROJECT).iter().any(|line| line.starts_with("node2")));
    sim.on("node1", "(failed)", Act::KillBefore);
    sim.lock().split(&["node2"]);
    until(&sim, "node1 hears that node2 is dead", || sim.struck().iter().any(|(_, how)| *how == "killed before"));
    sim.lock().heal();
    sim.lock().two_may_run = false;
    let order = sim.lock().kv(&format!("order/{}", id("second"))).unwrap();
    assert_eq!(order["state"], "sent", "{order:#}");
    assert_eq!(sim.violations(), [""; 0], "up to here nothing runs twice");
    sim
}

/// node1's next run takes its journal up: it goes back, the order is open, and so nobody is waited for: it starts the old version while the new one is
/// up on node2, which has neither stopped nor died.
#[test]
fn a_source_does_not_start_the_old_version_beside_the_new_one() {
    let sim = a_source_that_was_killed_before_it_had_said_that_it_goes_back();
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.settle();
    assert_eq!(sim.violations(), [""; 0]);
}

/// The old version takes orders for some seconds before node1's run comes to tell that the order has failed (it waits until all of it is healthy, or
/// Consul is slow); by then node2 has committed. What was written on node1 is not in the application any more.
#[test]
fn what_is_written_to_an_old_version_that_a_source_has_started_again_is_not_lost() {
    let sim = a_source_that_was_killed_before_it_had_said_that_it_goes_back();
    sim.lock().two_may_run = true;
    sim.on("node1", "(failed)", Act::Slow(30 * MINUTE));
    sim.start("node1", Start::Events(Vec::new()));
    until(&sim, "an end on node1", || {
        let s = sim.lock();
        s.serving(PROJECT).iter().any(|line| line.starts_with("node1")) || !s.ended("second").is_null()
    });
    let again = sim.lock().serving(PROJECT).iter().any(|line| line.starts_with("node1"));
    if again {
        sim.lock().write("node1", DATA, " and of tuesday");
    }
    sim.run_until_rest();
    sim.settle();
    let master = if sim.lock().ended("second")["state"] == "done" { "node2" } else { "node1" };
    let held = sim.lock().volume(master, DATA).unwrap_or_default();
    sim.violations();
    assert!(!again || held.contains("tuesday"), "{master} serves {held:?}; {:#}", sim.lock().ended("second"));
}
