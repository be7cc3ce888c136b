//! What random histories have found.

use crate::world::inside::{Sim, Start};
use crate::world::shop::{DATA, NODES, deploy, push, shop};
use crate::world::{Act, Cluster};

/// A first deploy over data that was put there before is killed once it is up, and its undo asks Compose in vain: that says nothing of the
/// checkout, and the data is put back.
#[test]
fn an_undo_of_a_first_deploy_that_cannot_ask_compose_is_tried_again() {
    let sim: Sim = shop(&NODES);
    sim.lock().plugin("node1").volumes.insert(DATA.to_owned(), "brought along".to_owned());
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.on("node1", "up -d", Act::KillAfter);
    sim.start("node1", Start::Events(vec![deploy("one", "node1", None)]));
    sim.run_until_rest();
    sim.on("node1", "version --short", Act::Fail("docker-compose: out of memory".to_owned()));
    sim.settle();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("one")["state"], "failed");
    let data = sim.lock().volume("node1", DATA).unwrap();
    assert!(data.contains("brought along") && !data.contains("WRONG"), "“{data}”");
}
