//! Stories about images by digest and by policy, Consul put back into the middle of an order, and two nodes that cannot undo, in which a promise breaks.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::others::run;
use crate::sets::{checks, commit, data, outcome, put_back, reboot, tick};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{COPY, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, destroy, push, shop, with_copy};
use crate::world::state::State;
use crate::world::{Act, Cluster, event, id};

const PINNED: &str = "cache@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The shop on node1 with its cache from this image, as the compose file has it after `image: `.
fn with_cache(image: &str, name: &str) -> (Sim, impl Fn(&str) -> String) {
    let sim: Sim = shop(&NODES);
    let image = image.to_owned();
    let text = move |more: &str| compose(more).replace("cache:1", &image);
    sim.lock().registry.insert(name.to_owned(), "cache one".to_owned());
    commit(&sim, &text(""));
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.lock().write("node1", DATA, "orders of monday");
    sim.settle();
    (sim, text)
}

/// An image is named by its digest, as is usual where it is to be the same everywhere. A new version is not well, or is not built, or its move fails.
/// No fault besides.
#[test]
fn an_undo_works_where_an_image_is_named_by_its_digest() {
    let mut wrong = Vec::new();
    for (what, more, master) in [
        ("not well", "x-standin: {start: unhealthy}", "node1"),
        ("not built", "x-standin: {build: fails}", "node1"),
        ("moved", "x-standin: {start: unhealthy}", "node2"),
    ] {
        let (sim, text) = with_cache(PINNED, PINNED);
        let before = sim.lock().serving(PROJECT);
        assert_eq!(before.len(), 2);
        commit(&sim, &text(more));
        sim.deliver_all(&[deploy("second", master, Some(if master == "node1" { "node2" } else { "node1" }))]);
        let (serving, orders, status) = outcome(&sim);
        sim.violations();
        if serving != before || !orders.is_empty() {
            wrong.push(format!("{what}: {serving:?} {orders:?}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// `pull_policy: always`: Compose pulls such an image at each `up`. Its name stands for a newer one since, or the registry does not answer while the new
/// version is undone.
#[test]
fn an_undo_starts_what_ran_where_compose_is_to_pull_always() {
    let mut wrong = Vec::new();
    for (what, master) in [("newer", "node1"), ("newer", "node2"), ("registry is away", "node1"), ("registry is away", "node2")] {
        let (sim, text) = with_cache("cache:1\n    pull_policy: always", "cache:1");
        let before = sim.lock().serving(PROJECT);
        assert_eq!(before.len(), 2);
        if what == "newer" {
            sim.lock().registry.insert("cache:1".to_owned(), "cache two".to_owned());
        } else {
            let act = Act::First(Box::new(|s: &mut State| drop(s.registry.remove("cache:1"))));
            sim.fault(|e| e.line.contains(" down"), 1, act);
        }
        commit(&sim, &text("x-standin: {start: unhealthy}"));
        sim.deliver_all(&[deploy("second", master, Some(if master == "node1" { "node2" } else { "node1" }))]);
        assert!(sim.no_faults());
        let (serving, orders, status) = outcome(&sim);
        sim.violations();
        if serving != before || !orders.is_empty() {
            wrong.push(format!("{what}, to {master}: {serving:?} {orders:?}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// The same image policy; a container was removed by hand, or the node's boot has left it down, and the registry does not answer: what is here is started.
#[test]
fn what_should_run_is_started_with_the_image_that_it_had() {
    let mut wrong = Vec::new();
    for away in [false, true] {
        let (sim, _) = with_cache("cache:1\n    pull_policy: always", "cache:1");
        let before = sim.lock().serving(PROJECT);
        match away {
            true => drop(sim.lock().registry.remove("cache:1")),
            false => drop(sim.lock().registry.insert("cache:1".to_owned(), "cache two".to_owned())),
        }
        reboot(&sim, "node1");
        sim.lock().engine("node1").containers.iter_mut().for_each(|c| c.running = false);
        checks(&sim, 3);
        let serving = sim.lock().serving(PROJECT);
        let status = run(&sim, "node1", Start::Status);
        sim.violations();
        if serving != before {
            wrong.push(format!("away {away}: {serving:?}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

type Kept = Arc<Mutex<Vec<(String, String)>>>;

/// Consul is saved (`consul snapshot save`, by cron) right before that.
fn saved_at(sim: &Sim, node: &'static str, line: &'static str) -> Kept {
    let kept = Kept::default();
    let saved = kept.clone();
    let act = Act::First(Box::new(move |s: &mut State| {
        let all = s.keys("").into_iter().filter_map(|key| Some((key.clone(), s.store.text(&key)?))).collect();
        *saved.lock().unwrap() = all;
    }));
    sim.fault(move |e| e.node == node && e.line.contains(line), 1, act);
    kept
}

/// Consul is saved while a deploy on the same node is at work, which is done then. Days later, with a bad version at the head of the branch, Consul is put
/// back to that. Nobody orders anything.
#[test]
fn an_order_that_was_at_work_when_consul_was_saved_harms_nothing_that_it_has_deployed() {
    let mut wrong = Vec::new();
    for (what, line, more) in [
        ("up, unhealthy", "up -d", "x-standin: {start: unhealthy, writes: WRONG}"),
        ("up, not built", "up -d", "x-standin: {build: fails}"),
        ("build, unhealthy", " build", "x-standin: {start: unhealthy, writes: WRONG}"),
    ] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        push(&sim, "x-standin: {writes: ', upgraded'}");
        let kept = saved_at(&sim, "node1", line);
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        assert!(sim.no_faults());
        sim.settle();
        sim.lock().write("node1", DATA, "orders of tuesday");
        tick(&sim);
        let before = sim.lock().serving(PROJECT);
        push(&sim, more);
        put_back(&sim, &kept.lock().unwrap());
        let (serving, orders, status) = outcome(&sim);
        reboot(&sim, "node1");
        checks(&sim, 2);
        let later = sim.lock().serving(PROJECT);
        let held = data(&sim, "node1", DATA);
        let second = sim.lock().ended("second");
        sim.violations();
        if serving != before || later != before || !held.contains("tuesday") {
            wrong.push(format!("{what}: “{held}” {serving:?}, after a boot {later:?} {orders:?} {second:#}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// The same with a takeover: node1 has died, and is still dead when Consul is put back. Nobody orders anything.
#[test]
fn a_takeover_that_was_at_work_when_consul_was_saved_is_not_done_over_what_it_has_become() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.power_off("node1");
    let kept = saved_at(&sim, "node2", "up -d");
    all_well(&sim.deliver_all(&[deploy("over", "node2", Some("node3"))]));
    assert!(sim.no_faults());
    sim.settle();
    sim.lock().write("node2", DATA, "orders of tuesday");
    tick(&sim);
    put_back(&sim, &kept.lock().unwrap());
    sim.try_settle().ok();
    checks(&sim, 3);
    let held = data(&sim, "node2", DATA);
    let over = sim.lock().ended("over");
    let serving = sim.lock().serving(PROJECT);
    let status = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).join("");
    sim.violations();
    assert!(held.contains("tuesday"), "“{held}” {serving:?} {over:#}\n{status}");
}

/// The same with a destroy, after which it was deployed again.
#[test]
fn a_destroy_that_was_at_work_when_consul_was_saved_does_not_destroy_what_was_deployed_since() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = saved_at(&sim, "node1", " stop");
    all_well(&sim.deliver_all(&[destroy("end")]));
    assert!(sim.no_faults());
    sim.settle();
    all_well(&sim.deliver_all(&[deploy("anew", "node1", Some("node2"))]));
    sim.settle();
    sim.lock().write("node1", DATA, "orders of a year");
    tick(&sim);
    put_back(&sim, &kept.lock().unwrap());
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node1", DATA);
    let end = sim.lock().ended("end");
    sim.violations();
    assert!(serving.len() == 2 && held.contains("year"), "“{held}” {serving:?} {orders:?} {end:#}\n{status}");
}

/// A move has failed, and neither node can undo its part. What each says of it does not change, so that nobody is woken by it: each write of the order
/// starts the handlers of all nodes, and each of them tries again.
#[test]
fn two_nodes_that_cannot_undo_do_not_wake_each_other_for_ever() {
    let sim: Sim = shop(&NODES);
    let text = |more: &str| compose(more).replace("build: .", "image: web:1");
    sim.lock().registry.insert("web:1".to_owned(), "web one".to_owned());
    commit(&sim, &text(""));
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.settle();
    sim.lock().registry.insert("web:1".to_owned(), "web two".to_owned());
    commit(&sim, &text("x-standin: {start: unhealthy}"));
    let act = Act::First(Box::new(|s: &mut State| {
        let e = s.engine("node1");
        e.containers.retain(|c| !c.is_down());
        let used: Vec<String> = e.containers.iter().map(|c| c.image.clone()).collect();
        e.images.retain(|id, _| used.contains(id));
        let images = e.images.clone();
        e.tags.retain(|_, id| images.contains_key(id));
        s.engine("node2").held_networks.insert(PROJECT.to_owned());
    }));
    sim.fault(|e| e.node == "node2" && e.line.contains("up -d"), 1, act);
    sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    assert!(sim.no_faults());
    sim.try_settle().ok();
    let key = format!("order/{}", id("second"));
    let mut seen = Vec::new();
    for _ in 0..4 {
        for node in ["node1", "node2"] {
            sim.start(node, Start::Events(Vec::new()));
            sim.run_until_rest();
            seen.push(sim.lock().store.text(&key).unwrap_or_default());
        }
    }
    sim.violations();
    sim.lock().engine("node2").held_networks.clear();
    let last: Vec<&String> = seen.iter().skip(2).collect();
    assert!(last.windows(2).all(|two| two[0] == two[1]), "{}", seen.join("\n"));
}

/// The master of the source is dead. It is taken over, and, given right behind, its data is copied into another application.
#[test]
fn a_migrate_that_waits_for_the_takeover_of_its_source_is_carried_out() {
    let (sim, _, _) = with_copy::<Sim>("node3", "", &[]);
    tick(&sim);
    sim.power_off("node1");
    let m = event("m", "migrate", &json!({"repo": URL, "branch": "master", "target": {"repo": COPY}}));
    sim.deliver_all(&[deploy("over", "node2", Some("node3")), m]);
    sim.try_settle().ok();
    let over = sim.lock().ended("over");
    let m = sim.lock().ended("m");
    sim.violations();
    assert!(over["state"] == "done" && m["state"] == "done", "{over:#} {m:#}");
}

/// The same with a move, after which the application runs on node2. Nobody orders anything.
#[test]
fn a_move_that_was_at_work_when_consul_was_saved_is_not_done_over_what_it_has_become() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = saved_at(&sim, "node2", "up -d");
    all_well(&sim.deliver_all(&[deploy("move", "node2", Some("node3"))]));
    assert!(sim.no_faults());
    sim.settle();
    sim.lock().write("node2", DATA, "orders of tuesday");
    tick(&sim);
    put_back(&sim, &kept.lock().unwrap());
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node2", DATA);
    let moved = sim.lock().ended("move");
    sim.violations();
    assert!(held.contains("tuesday"), "“{held}” {serving:?} {orders:?} {moved:#}\n{status}");
}

/// Something else is in the network of the application, so that the failed version is not taken down to its end. The undo is given up as the README says,
/// nothing was written, and the file is removed: the old version is started.
#[test]
fn what_is_given_up_is_started_with_the_image_of_the_version_that_the_record_names() {
    let (sim, text) = with_cache("cache:1", "cache:1");
    let before = sim.lock().serving(PROJECT);
    commit(&sim, &text("x-standin: {start: unhealthy}"));
    sim.lock().engine("node1").held_networks.insert(PROJECT.to_owned());
    sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
    sim.try_settle().ok();
    sim.start("node3", Start::Cancel(id("second"), Some("node1")));
    sim.run_until_rest();
    sim.try_settle().ok();
    let file = sim.disk("node1", |disk| disk.paths().into_iter().find(|path| path.ends_with("given-up"))).unwrap();
    sim.disk("node1", |disk| disk.remove(Path::new(&file)).unwrap());
    let (serving, orders, status) = outcome(&sim);
    sim.violations();
    sim.lock().engine("node1").held_networks.clear();
    assert!(serving == before && orders.is_empty(), "{serving:?} {orders:?}\n{status}");
}
