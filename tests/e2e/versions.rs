//! Nodes are upgraded one after another, while orders are open: an older handler and this one in one cluster, and this one after the older on
//! one node. `OLDER_HANDLER` is the older one's binary.

use serde_json::json;

use crate::world::outside::World;
use crate::world::{Act, Cluster, id};
use crate::{APP, DATA, PROJECT, URL, all_well, assert_failed, assert_serves, compose, deploy, finished, push, shop};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// From here on these nodes have the older handler.
fn older(w: &World, nodes: &[&str]) {
    let older = std::env::var("OLDER_HANDLER").unwrap_or_else(|_| panic!("OLDER_HANDLER is not set: see .ci/older"));
    *w.programs.lock().unwrap() = nodes.iter().map(|node| ((*node).to_owned(), older.clone())).collect();
}

/// The shop on node1 with its slave on node2, while `old` have the older handler.
fn deployed_with(old: &[&str]) -> (World, String) {
    let w = shop(&NODES);
    let commit = push(&w, "");
    older(&w, old);
    all_well(&w.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    w.write("node1", DATA, "orders of monday");
    w.settle();
    w.take_log();
    (w, commit)
}

/// There and back again, each time with one older and one newer node.
fn moves_with(old: &str) {
    let (w, _) = deployed_with(&[old]);
    for (word, from, to) in [("there", "node1", "node2"), ("back", "node2", "node1")] {
        let commit = push(&w, "");
        w.deliver_all(&[deploy(word, to, Some(from))]);
        assert_eq!(finished(&w, word)["state"], "done", "{word} with the older handler on {old}");
        assert_serves(&w, to, &commit);
        let data = w.volume(to, DATA).unwrap();
        assert!(data.starts_with("orders of monday"), "{data}");
        w.settle();
        assert_eq!(w.volume(from, DATA), None, "{word}");
    }
    assert_eq!(w.keys("order/"), [""; 0]);
}

#[test]
fn an_application_moves_from_an_older_node_and_back() {
    moves_with("node1");
}

#[test]
fn an_application_moves_to_an_older_node_and_back() {
    moves_with("node2");
}

/// What fails on one of them ends as it began, on both.
fn move_that_fails_with(old: &str) {
    let (w, commit) = deployed_with(&[old]);
    push(&w, "x-standin: {start: unhealthy, writes: WRONG}");
    w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    w.settle();
    assert_failed(&w, "second", &["unhealthy"]);
    assert_serves(&w, "node1", &commit);
    let data = w.volume("node1", DATA).unwrap();
    assert!(data.starts_with("orders of monday") && !data.contains("WRONG"), "{data}");
}

#[test]
fn a_move_from_an_older_node_that_fails_leaves_it_there() {
    move_that_fails_with("node1");
}

#[test]
fn a_move_to_an_older_node_that_fails_leaves_it_there() {
    move_that_fails_with("node2");
}

/// The node is upgraded after its handler was killed in mid-order: the newer one takes its journal up.
fn upgraded_after(what: &str, act: Act, ends: &str) {
    let (w, old_commit) = deployed_with(&NODES);
    let commit = push(&w, "");
    w.on("node1", what, act);
    let run = w.deliver("node1", &[deploy("second", "node1", Some("node2"))]);
    assert_eq!(run.status, None, "{run}");
    older(&w, &[]);
    w.settle();
    // What was undone is still open, and is carried out from its beginning.
    assert_eq!(finished(&w, "second")["state"], ends, "killed at {what}");
    assert_serves(&w, "node1", if ends == "done" { &commit } else { &old_commit });
    let data = w.volume("node1", DATA).unwrap();
    assert!(data.starts_with("orders of monday"), "{data}");
    assert_eq!(w.serving(PROJECT).len(), 2);
    let own = w.deploy_dir("node1").join(".handler");
    let left = std::fs::read_dir(own.join("journal")).unwrap().count();
    assert_eq!((left, own.join("state.json").exists(), own.join("apps").join(APP).join("journal").exists()), (0, false, false));
    assert_eq!(w.keys("order/"), [""; 0]);
}

#[test]
fn a_journal_of_the_older_handler_is_taken_up_before_the_stop() {
    upgraded_after("build", Act::KillAfter, "done");
}

#[test]
fn a_journal_of_the_older_handler_is_taken_up_in_the_switch() {
    upgraded_after("up -d", Act::KillAfter, "done");
}

#[test]
fn a_journal_of_the_older_handler_is_taken_up_after_the_commit() {
    upgraded_after("cas app/", Act::KillAfter, "done");
}

/// An order that needs what not all of its nodes understand is failed by whoever finds it, and says which node is too old.
#[test]
fn an_order_that_a_node_is_too_old_for_fails_and_says_which() {
    let (w, commit) = deployed_with(&["node1"]);
    let request = json!({"deploy": {"repo": crate::URL, "branch": "master", "master": "node2", "slave": "node1", "colour": "blue"}});
    let order = json!({
        "id": id("second"), "name": APP, "request": request, "state": "open", "needs": 5, "created": "2100-01-01T00:00:00Z", "progress": {},
    });
    w.lock().store.set(&format!("order/{}", id("second")), order.to_string().as_bytes());
    w.deliver("node3", &[]);
    assert_failed(&w, "second", &["node2 is too old for it: its handler is 0.2", "upgrade it first"]);
    assert_eq!(finished(&w, "second")["request"]["deploy"]["colour"], "blue");
    assert_serves(&w, "node1", &commit);
}

/// What the older one made goes on as it is: by the main file alone, with nothing in the place of `$CONTAINER`.
#[test]
fn an_undo_makes_no_container_of_an_older_handler_anew() {
    let w = shop(&["node1"]);
    let text = compose(r#"environment: {CADDYFILE: "http://shop.example.com {\n reverse_proxy $CONTAINER:80\n}"}"#);
    let unseen = "services: {web: {labels: {seen: 'no'}}}";
    w.commit(URL, "master", &[("docker-compose.yml", &text), ("docker-compose.override.yml", unseen)]);
    older(&w, &["node1"]);
    all_well(&w.deliver_all(&[deploy("first", "node1", None)]));
    let ids = || w.lock().engine("node1").containers.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    let before = ids();
    w.programs.lock().unwrap().clear();
    push(&w, "");
    w.on("node1", "Snapshot", Act::Fail("no space left".to_owned()));
    w.deliver_all(&[deploy("second", "node1", None)]);
    assert_failed(&w, "second", &["no space left"]);
    assert_eq!((ids(), w.serving(PROJECT).len()), (before, 2));
}
