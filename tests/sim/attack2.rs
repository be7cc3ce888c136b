//! Workers of several applications at once, and what one of them leaves to the others.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::attack::takes_over_from_the_replica;
use crate::beside::{HOUR, at_work_everywhere, copy, until};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, COPY, DATA, NODES, PROJECT, URL, compose, deploy, deployed, migrate, push, push_to, shop, with_copy};
use crate::world::{Act, Cluster, Effect, Kind, event, id};

/// node2 takes over from node1, which is cut off; once that is back it is stopped.
#[track_caller]
pub fn taken_over(sim: &Sim) {
    let serves = || sim.lock().serving(PROJECT).iter().any(|line| line.starts_with("node1"));
    ["node2", "node3"].iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("over", "node2", Some("node3"))])));
    until(sim, "the takeover", || sim.lock().ended("over")["state"] == "done");
    assert!(serves(), "it does not know yet");
    sim.lock().heal();
    sim.start("node1", Start::Events(Vec::new()));
    until(sim, "the end of the old master", || !serves());
}

/// A master in the middle of a send of hours, behind which another worker waits already, as after each change of an order, is cut off, and
/// another takes over.
#[test]
fn a_master_that_is_still_sending_is_fenced_at_once_though_another_worker_waits_already() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.fault(|e| e.kind == Kind::Plugin && e.what == "Snapshot.Send", 1, Act::Slow(5 * HOUR));
    let begun = sim.lock().time;
    at_work_everywhere(&sim, &[deploy("away", "node3", Some("node1"))]);
    let order = format!("order/{}", id("away"));
    until(&sim, "the send", || sim.lock().kv(&order).is_some_and(|order| order["state"] == "ready"));
    // The watch on the orders.
    sim.start("node1", Start::Events(Vec::new()));
    sim.steps(200);
    sim.lock().split(&["node1"]);
    until(&sim, "the end of the move", || sim.lock().ended("away")["state"] == "failed");
    taken_over(&sim);
    assert!(sim.lock().time - begun < 3 * 3_600_000_000, "the send goes on");
    assert!(sim.at_work() > 0);
    sim.run_until_rest();
    sim.settle();
}

/// A migrate is done; what comes next of its target takes its time.
#[test]
fn the_source_of_a_migrate_does_not_wait_for_the_next_order_of_its_target() {
    let (sim, project, _) = with_copy::<Sim>("node1", "", &[]);
    let copies = sim.lock().keys("app/").into_iter().find(|key| key.contains("copy")).unwrap().replace("app/", "");
    push_to(&sim, COPY, "", &[]);
    push(&sim, "");
    sim.fault(move |e| e.line.contains(&project) && e.line.ends_with(" build"), 1, Act::Slow(Duration::from_secs(3000)));
    for event in [migrate("m"), copy("anew")] {
        sim.start("node3", Start::Events(vec![event]));
        sim.run_until_rest();
    }
    sim.start("node1", Start::Work(copies));
    until(&sim, "the migrate", || sim.lock().ended("m")["state"] == "done");
    sim.start("node1", Start::Events(vec![deploy("second", "node1", Some("node2"))]));
    sim.run_until_rest();
    let [anew, second] = ["anew", "second"].map(|word| sim.lock().ended(word));
    assert_eq!((&anew["state"], &second["state"]), (&json!("done"), &json!("done")));
    assert!(second["finished"].as_str() < anew["finished"].as_str(), "{} {}", second["finished"], anew["finished"]);
}

/// The same; the node is cut off meanwhile, and the source is taken over.
#[test]
fn the_source_of_a_migrate_is_fenced_at_once_whatever_its_target_is_in_the_middle_of() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    sim.lock().replicate("node1");
    let copies = sim.lock().keys("app/").into_iter().find(|key| key.contains("copy")).unwrap().replace("app/", "");
    push_to(&sim, COPY, "", &[]);
    sim.fault(|e| e.node == "node1" && e.line.ends_with(" build"), 1, Act::Slow(5 * HOUR));
    sim.settings(|settings| settings.timeouts.build = 6 * HOUR);
    for word in [migrate("m"), copy("anew")] {
        sim.start("node3", Start::Events(vec![word]));
        sim.run_until_rest();
    }
    sim.start("node1", Start::Work(copies));
    until(&sim, "the migrate", || sim.lock().ended("m")["state"] == "done");
    let order = format!("order/{}", id("anew"));
    until(&sim, "the build", || sim.lock().kv(&order).is_some_and(|order| order["progress"]["node1"]["name"] == "build"));
    let begun = sim.lock().time;
    sim.lock().split(&["node1"]);
    taken_over(&sim);
    assert!(sim.lock().time - begun < 3_600_000_000, "the build goes on");
    assert!(sim.at_work() > 0, "the build goes on");
    sim.run_until_rest();
}

/// The same, while the migrate itself is at work on both.
#[test]
fn the_source_of_a_migrate_is_fenced_at_once_while_the_migrate_is_at_work() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[("post_migrate.sh", "write data ,anonymous")]);
    sim.lock().replicate("node1");
    sim.settings(|settings| settings.timeouts.script = 6 * HOUR);
    sim.on("node1", "post_migrate.sh", Act::Slow(5 * HOUR));
    let order = format!("order/{}", id("m"));
    sim.start("node1", Start::Events(vec![migrate("m")]));
    until(&sim, "the script", || sim.lock().kv(&order).is_some_and(|order| order["progress"]["node1"]["name"] == "post-migrate"));
    let begun = sim.lock().time;
    sim.lock().split(&["node1"]);
    taken_over(&sim);
    assert!(sim.lock().time - begun < 3_600_000_000, "the script goes on");
    sim.run_until_rest();
    sim.settle();
}

/// Somebody has damaged one record; the order that is to mend it says more than an older handler understands.
#[test]
fn a_record_that_cannot_be_read_holds_up_no_other_application() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    let key = sim.lock().keys("app/").into_iter().find(|key| key.contains("copy")).unwrap();
    sim.lock().store.set(&key, b"{");
    let mend = event("mend", "deploy", &json!({"repo": COPY, "branch": "master", "master": "node1", "slave": null}));
    push(&sim, "");
    sim.deliver_all(&[mend]);
    sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
    assert_eq!(sim.lock().ended("second")["state"], "done");
}

/// An order about it, which nobody can carry out, does not stay for ever.
#[test]
fn an_order_about_a_record_that_cannot_be_read_fails() {
    for slave in [json!("node2"), Value::Null] {
        let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
        let key = sim.lock().keys("app/").into_iter().find(|key| key.contains("copy")).unwrap();
        sim.lock().store.set(&key, b"{");
        let mend = event("mend", "deploy", &json!({"repo": COPY, "branch": "master", "master": "node1", "slave": slave}));
        sim.deliver_all(&[mend]);
        for _ in 0..4 {
            sim.pass(Duration::from_secs(700));
            sim.deliver_all(&[]);
        }
        assert_eq!(sim.lock().ended("mend")["state"], "failed", "nobody can carry it out");
    }
}

fn other_branch(word: &str, master: &str) -> Value {
    event(word, "deploy", &json!({"repo": URL, "branch": "mas-ter", "master": master}))
}

/// Two branches whose projects have one name, ordered together for two nodes: a later move would bring them together.
#[test]
fn two_applications_with_one_project_are_not_deployed_on_two_nodes_at_once() {
    let sim: Sim = shop(&NODES);
    sim.lock().commit(URL, "mas-ter", &[("docker-compose.yml", &compose(""))]);
    at_work_everywhere(&sim, &[deploy("one", "node1", None), other_branch("two", "node2")]);
    sim.run_until_rest();
    let ended = ["one", "two"].map(|word| sim.lock().ended(word)["state"].clone());
    assert_eq!(ended, ["done", "failed"]);
}

/// Two branches whose projects have one name, ordered together.
#[test]
fn two_applications_with_one_project_are_not_deployed_side_by_side() {
    let sim: Sim = shop(&NODES);
    sim.lock().commit(URL, "mas-ter", &[("docker-compose.yml", &compose(""))]);
    sim.on_each("node1", "build", Act::Slow(Duration::from_secs(60)));
    at_work_everywhere(&sim, &[deploy("one", "node1", None), other_branch("two", "node1")]);
    sim.run_until_rest();
    sim.no_faults();
    let ended = ["one", "two"].map(|word| sim.lock().ended(word));
    let done = ended.iter().filter(|ended| ended["state"] == "done").count();
    assert_eq!(done, 1, "{ended:#?}");
}

/// The same, and the second fails.
#[test]
fn an_application_with_the_same_project_that_fails_leaves_the_other_alone() {
    let sim: Sim = shop(&NODES);
    sim.lock().commit(URL, "mas-ter", &[("docker-compose.yml", &compose("x-standin: {start: unhealthy}"))]);
    sim.on("node1", "build", Act::Slow(Duration::from_secs(60)));
    at_work_everywhere(&sim, &[deploy("one", "node1", None), other_branch("two", "node1")]);
    until(&sim, "the first", || !sim.lock().ended("one").is_null());
    if sim.lock().ended("one")["state"] == "done" {
        sim.lock().write("node1", DATA, "orders of monday");
    }
    sim.run_until_rest();
    sim.settle();
    let ended = ["one", "two"].map(|word| sim.lock().ended(word));
    assert_eq!(ended[0]["state"], "done", "{ended:#?}");
    let data = sim.lock().volume("node1", DATA);
    assert!(data.as_ref().is_some_and(|data| data.contains("monday")), "{data:?}");
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
}

/// Two applications that want one address, ordered together.
#[test]
fn two_applications_do_not_get_one_address() {
    let sim: Sim = shop(&NODES);
    let route = r#"environment: {CADDYFILE: "http://shop.example.com {\n reverse_proxy $CONTAINER:80\n}"}"#;
    push(&sim, route);
    push_to(&sim, COPY, route, &[]);
    sim.on_each("node1", "build", Act::Slow(Duration::from_secs(60)));
    at_work_everywhere(&sim, &[deploy("one", "node1", None), copy("two")]);
    sim.run_until_rest();
    sim.no_faults();
    let ended = ["one", "two"].map(|word| sim.lock().ended(word));
    let done = ended.iter().filter(|ended| ended["state"] == "done").count();
    assert_eq!(done, 1, "{ended:#?}");
}

/// After a boot the engine answers later than Consul's agent does; what the node remembered is lost.
#[test]
fn what_could_not_be_looked_at_is_looked_at_again() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.power_off("node1");
    let state = format!("/deploy/.handler/apps/{APP}/state.json");
    sim.disk("node1", |disk| disk.remove(Path::new(&state)).unwrap());
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    sim.settle();
    sim.power_on("node1");
    sim.fault(|e| e.node == "node1" && e.line.contains("engine"), 0, Act::Fail("no engine".to_owned()));
    for _ in 0..4 {
        sim.start("node1", Start::Events(Vec::new()));
        sim.run_until_rest();
    }
    sim.no_faults();
    for _ in 0..4 {
        sim.start("node1", Start::Events(Vec::new()));
        sim.run_until_rest();
    }
    let serving = sim.lock().serving(PROJECT);
    assert!(serving.iter().all(|line| line.starts_with("node2")), "{serving:?}");
}

/// The disk fills when the new version, which is none, starts: the old one is back all the same, since nothing of it needs room.
#[test]
fn an_undo_on_a_full_disk_gives_the_old_version_back() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    let full = Arc::new(AtomicBool::new(false));
    let (fills, is_full) = (full.clone(), full.clone());
    sim.on("node1", "up -d", Act::First(Box::new(move |_| fills.store(true, Ordering::SeqCst))));
    // There is room in the journal, and for what is to be remembered.
    let hits = move |e: &Effect| {
        e.kind == Kind::Disk
            && e.what == "write"
            && !e.line.contains("/journal")
            && !e.line.ends_with("/own")
            && is_full.load(Ordering::SeqCst)
    };
    sim.fault(hits, 0, Act::Fail("No space left on device".to_owned()));
    sim.start("node1", Start::Events(vec![deploy("two", "node1", None)]));
    sim.run_until_rest();
    for _ in 0..3 {
        sim.start("node1", Start::Events(Vec::new()));
        sim.run_until_rest();
    }
    let serving = sim.lock().serving(PROJECT);
    assert_eq!(serving.len(), 2, "{serving:?}");
}

/// An image that two applications have, and one of them goes back while the other goes forward.
#[test]
fn an_undo_does_not_take_an_image_back_that_another_application_has_pulled() {
    let (sim, project, _) = with_copy::<Sim>("node1", "", &[]);
    sim.lock().registry.insert("cache:1".to_owned(), "cache two".to_owned());
    push(&sim, "x-standin: {start: unhealthy}");
    push_to(&sim, COPY, "", &[]);
    let copies = project.clone();
    let built = move |e: &Effect| e.line.contains("build") && e.line.contains(&copies);
    sim.fault(built, 1, Act::Slow(Duration::from_secs(600)));
    at_work_everywhere(&sim, &[deploy("bad", "node1", Some("node2")), copy("anew")]);
    sim.run_until_rest();
    sim.no_faults();
    let states = ["bad", "anew"].map(|word| sim.lock().ended(word)["state"].clone());
    assert_eq!(states, ["failed", "done"]);
    let serving = sim.lock().serving(&project);
    assert!(serving.iter().any(|line| line.contains("cache two")), "{serving:?}");
}

/// Two branches of one repository whose data volume has a name of its own; one of them comes to the other's node.
#[test]
fn a_move_does_not_replace_a_volume_that_another_application_stands_on() {
    let sim: Sim = shop(&NODES);
    sim.lock().two_may_run = true;
    let named = compose("").replace("anybox/buttervolume:latest'", "anybox/buttervolume:latest', name: shared");
    for branch in ["master", "staging"] {
        sim.lock().commit(URL, branch, &[("docker-compose.yml", &named)]);
    }
    let staging = |word: &str, master: &str| event(word, "deploy", &json!({"repo": URL, "branch": "staging", "master": master}));
    sim.deliver_all(&[deploy("one", "node1", None)]);
    sim.lock().plugin("node1").volumes.insert("shared".to_owned(), "orders of monday".to_owned());
    sim.deliver_all(&[staging("two", "node2")]);
    sim.deliver_all(&[staging("three", "node1")]);
    sim.settle();
    let ended = ["one", "two", "three"].map(|word| sim.lock().ended(word)["state"].clone());
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    let data = sim.lock().volume("node1", "shared");
    assert_eq!(data.as_deref(), Some("orders of monday"), "{ended:?}");
}

/// A plan of what nobody would carry out is none.
#[test]
fn a_plan_says_that_an_order_is_refused() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().store.remove("node/node3");
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "slave": null});
    sim.start("node1", Start::Request("deploy", payload.clone()));
    sim.run_until_rest();
    let ordered = sim.ended().into_iter().find(|run| run.what.contains("handler deploy")).unwrap();
    ordered.exits(1).says("node3 is too old for it");
    sim.start("node1", Start::Plan("deploy", payload));
    sim.run_until_rest();
    let planned = sim.ended().into_iter().find(|run| run.what.contains("handler plan")).unwrap();
    planned.exits(1).says("node3 is too old for it");
}

/// Containers whose compose file gives them no restart policy, which is what it says where it says nothing, do not come back with the engine.
#[test]
fn an_application_that_does_not_come_back_is_told_of() {
    let sim: Sim = shop(&["node1"]);
    let text = compose("").replace("    restart: unless-stopped\n", "");
    assert!(!text.contains("restart"));
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    sim.deliver_all(&[deploy("one", "node1", None)]);
    sim.settle();
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    sim.power_off("node1");
    sim.power_on("node1");
    sim.settle();
    sim.ended();
    let down = sim.lock().serving(PROJECT).is_empty();
    sim.start("node1", Start::Status);
    sim.run_until_rest();
    let status = sim.ended().pop().unwrap();
    assert!(!down || status.status == Some(1), "{status}");
}

/// The clock of the slave goes two hours ahead. It was the master once.
#[test]
fn a_takeover_starts_from_the_newest_replica_whatever_the_clocks_say() {
    let sim: Sim = deployed(&NODES, "node2", Some("node1"));
    sim.lock().node("node1").ahead = 0;
    sim.lock().node("node2").ahead = 2 * 3_600_000_000;
    sim.deliver_all(&[deploy("away", "node1", Some("node2"))]);
    sim.settle();
    assert_eq!(sim.lock().ended("away")["state"], "done");
    sim.pass(Duration::from_secs(1800));
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.lock().replicate("node1");
    sim.pass(Duration::from_secs(60));
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", None)]);
    sim.settle();
    let ended = sim.lock().ended("over");
    assert_eq!(ended["state"], "done", "{ended:#}");
    let data = sim.lock().volume("node2", DATA).unwrap();
    assert!(data.contains("tuesday"), "“{data}” {}", ended["notes"]);
}

/// The plugin replicates by its own clock, also while a version is up that is about to fail.
#[test]
fn a_takeover_does_not_start_from_what_was_replicated_of_a_failed_version() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().nodes.values_mut().for_each(|node| node.ahead = 0);
    sim.lock().replicate("node1");
    sim.pass(Duration::from_secs(60));
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    let replicates = Act::First(Box::new(|s| s.replicate("node1")));
    sim.fault(|e| e.node == "node1" && e.line.contains(" down") | e.line.contains("tag "), 1, replicates);
    sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
    sim.settle();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("bad")["state"], "failed");
    assert!(!sim.lock().volume("node1", DATA).unwrap().contains("WRONG"));
    sim.power_off("node1");
    takes_over_from_the_replica(&sim);
}

/// The clock of a node is put right, by two hours, after it has seen an order that nobody has taken up yet.
#[test]
fn an_order_has_not_waited_longer_because_a_clock_was_put_right() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.start("node2", Start::Events(vec![deploy("second", "node1", Some("node2"))]));
    sim.run_until_rest();
    sim.pass(Duration::from_secs(5));
    sim.lock().node("node2").ahead += 2 * 3_600_000_000;
    sim.start("node2", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.settle();
    let ended = sim.lock().ended("second");
    assert_eq!(ended["state"], "done", "{}", ended["reason"]);
}

/// The engine does not answer while a failed version is being undone; it does a moment later, and the watches have run for all that has changed
/// in Consul: the health check begins it again.
#[test]
fn an_undo_that_the_engine_has_kept_from_its_end_is_tried_again_without_being_asked() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    push(&sim, "x-standin: {start: unhealthy}");
    sim.fault(|e| e.node == "node1" && e.line.ends_with("down --remove-orphans"), 0, Act::Fail("no engine".to_owned()));
    sim.start("node1", Start::Events(vec![deploy("two", "node1", None)]));
    sim.run_until_rest();
    // As Consul's watches do: whenever something below `app/` or an order has changed.
    let keys = || {
        let s = sim.lock();
        let of = |prefix: &str| s.keys(prefix).into_iter().map(|key| (key.clone(), s.store.text(&key))).collect::<Vec<_>>();
        [of("app/"), of("order/")]
    };
    let mut before = Default::default();
    while before != keys() {
        before = keys();
        sim.start("node1", Start::Events(Vec::new()));
        sim.run_until_rest();
    }
    sim.no_faults();
    sim.pass(Duration::from_secs(24 * 3600));
    sim.start("node1", Start::Check);
    sim.run_until_rest();
    let serving = sim.lock().serving(PROJECT);
    assert_eq!(serving.len(), 2, "{serving:?}");
}
