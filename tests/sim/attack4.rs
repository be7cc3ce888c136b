//! Stories about orders, undo, records and what is given up, in which a promise breaks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::beside::until;
use crate::others::run;
use crate::sets::{EXTRA, MINUTE, checks, commit, data, fails_and_is_given_up, put_back, with_extra};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, COPY, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, migrate, push, shop, with_copy};
use crate::world::state::engine::Container;
use crate::world::{Act, Cluster, Effect, State, event, id};

const STAGING: &str = "shopstaginge4371";

/// Whether a volume or a snapshot of this node has exactly this.
fn kept(sim: &Sim, node: &str, text: &str) -> bool {
    let s = sim.lock();
    let plugin = &s.nodes[node].plugin;
    plugin.volumes.values().chain(plugin.snapshots.values()).any(|held| held.replace('|', "") == text)
}

// ---- an undo harms

/// Two applications give their data volume one name. The first is up and not committed yet when the second looks whose it is: nobody's. The first
/// is committed, and serves. The second comes up, fails, and is undone.
#[test]
fn an_undo_puts_nothing_back_over_a_volume_that_another_application_has() {
    let sim: Sim = shop(&NODES);
    let shared = |more: &str| compose(more).replace("anybox/buttervolume:latest'", "anybox/buttervolume:latest', name: shared");
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &shared(""))]);
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &shared("x-standin: {start: unhealthy}"))]);
    sim.on("node1", "agent/service/register", Act::Slow(MINUTE));
    let building = |e: &Effect| e.line.contains(STAGING) && e.line.ends_with(" build");
    sim.fault(building, 1, Act::Slow(5 * MINUTE));
    // It serves, and is written to, until the other is taken back.
    let written = Act::First(Box::new(|s: &mut State| s.write("node1", "shared", " and of tuesday")));
    sim.fault(|e| e.line.contains(STAGING) && e.line.contains(" down"), 1, written);
    sim.start("node1", Start::Events(vec![deploy("one", "node1", None)]));
    until(&sim, "the first", || sim.lock().serving(PROJECT).len() == 2);
    let staging = json!({"repo": URL, "branch": "staging", "master": "node1"});
    sim.start("node1", Start::Events(vec![event("two", "deploy", &staging)]));
    until(&sim, "the commit of the first", || sim.lock().ended("one")["state"] == "done");
    sim.lock().write("node1", "shared", "orders of monday");
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("two")["state"], "failed");
    let held = data(&sim, "node1", "shared");
    let violations = sim.violations();
    assert!(held.contains("monday") && held.contains("tuesday") && violations.is_empty(), "“{held}” {violations:#?}");
}

/// A version without a volume, then one with it again, whose update.sh changes it and which does not come up.
#[test]
fn a_deploy_that_fails_leaves_a_volume_as_it_was_that_only_an_earlier_version_had() {
    for updates in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        commit(&sim, &with_extra(""));
        all_well(&sim.deliver_all(&[deploy("with", "node1", Some("node2"))]));
        sim.lock().write("node1", EXTRA, "invoices");
        push(&sim, "");
        all_well(&sim.deliver_all(&[deploy("without", "node1", Some("node2"))]));
        sim.settle();
        let before = data(&sim, "node1", EXTRA);
        let script = if updates { "write extra ,HALF-CONVERTED\nexit 1" } else { "echo nothing" };
        let text = with_extra("x-standin: {start: unhealthy, writes: ',WRONG'}");
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text), ("update.sh", script)]);
        let payload = json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node2", "update": true});
        sim.deliver_all(&[event("again", "deploy", &payload)]);
        sim.settle();
        assert_eq!(sim.lock().ended("again")["state"], "failed");
        let after = data(&sim, "node1", EXTRA);
        assert_eq!((before.as_str(), after.as_str(), kept(&sim, "node1", "invoices")), ("invoices", "invoices", true), "updates {updates}");
    }
}

/// A version with a new volume writes to it, and does not come up; the next one, which is well, gets what that has left.
#[test]
fn a_new_volume_of_a_version_that_failed_is_not_the_next_ones() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &with_extra("x-standin: {start: unhealthy, writes: ',WRONG'}"));
    sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
    sim.settle();
    assert_eq!(sim.lock().ended("bad")["state"], "failed");
    commit(&sim, &with_extra(""));
    all_well(&sim.deliver_all(&[deploy("good", "node1", Some("node2"))]));
    let held = data(&sim, "node1", EXTRA);
    assert!(!held.contains("WRONG"), "“{held}”");
}

/// A move with update.sh, to a node on which a volume is that the old version does not have: brought along for the new one.
#[test]
fn a_move_that_fails_leaves_what_was_there_before_as_it_was() {
    for update in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().plugin("node2").volumes.insert(EXTRA.to_owned(), "brought along".to_owned());
        let text = with_extra("x-standin: {start: unhealthy}");
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text), ("update.sh", "write extra ,HALF-CONVERTED")]);
        let payload = json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node1", "update": update});
        sim.deliver_all(&[event("move", "deploy", &payload)]);
        sim.settle();
        assert_eq!(sim.lock().ended("move")["state"], "failed");
        let held = data(&sim, "node2", EXTRA);
        assert!(held == "brought along" && kept(&sim, "node2", "brought along"), "update {update}: “{held}”");
    }
}

/// The record vanishes: nothing is touched, and the log says to deploy it again. That fails.
#[test]
fn the_deploy_that_is_to_keep_what_has_lost_its_record_does_not_end_it() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().store.remove(&format!("app/{APP}"));
    let run = run(&sim, "node1", Start::Work(APP.to_owned()));
    run.says("deploy it again, with this node as its master, to keep it");
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.deliver_all(&[deploy("again", "node1", Some("node2"))]);
    sim.try_settle().ok();
    checks(&sim, 3);
    assert_eq!(sim.lock().ended("again")["state"], "failed");
    let serving = sim.lock().serving(PROJECT);
    let held = data(&sim, "node1", DATA);
    assert!(serving.len() == 2 && held == "orders of monday", "“{held}” {serving:?}");
}

/// It is deployed elsewhere meanwhile: without its data it would begin anew there.
#[test]
fn what_has_lost_its_record_is_deployed_where_it_is() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().store.remove(&format!("app/{APP}"));
    let runs = sim.deliver_all(&[deploy("away", "node3", None)]);
    sim.settle();
    let away = sim.lock().ended("away");
    assert!(away["reason"].as_str().unwrap().contains("node1 ran it last"), "{away:#}");
    assert!(runs.iter().all(|run| !run.stderr.contains("git clone")) && sim.lock().serving(PROJECT).len() == 2);
    all_well(&sim.deliver_all(&[deploy("here", "node1", Some("node2")), deploy("then", "node3", None)]));
    sim.settle();
    assert_eq!(data(&sim, "node3", DATA), "orders of monday");
}

/// Consul has lost everything, and nobody but that node knows that it runs there; or it is in the last steps of a deploy; or its engine is silent.
#[test]
fn what_nobody_else_knows_of_is_not_begun_anew_elsewhere() {
    for (seed, what) in (1..=5).map(|seed| (seed, "well")).chain([(1, "busy"), (1, "silent")]) {
        let sim = Sim::with_seed(seed, &NODES);
        sim.lock().registry.insert("cache:1".into(), "cache one".into());
        push(&sim, "");
        if what == "busy" {
            sim.on_each("node1", "restart=unless-stopped", Act::Fail("broken".into()));
        }
        sim.deliver_all(&[deploy("first", "node1", Some("node2"))]);
        sim.lock().write("node1", DATA, "orders of monday");
        put_back(&sim, &[]);
        if what == "silent" {
            sim.on_each("node1", "engine GET", Act::Fail("Cannot connect to the Docker daemon".into()));
        }
        sim.deliver_all(&[deploy("away", "node3", None)]);
        assert!(what == "well" || !sim.struck().is_empty());
        sim.no_faults();
        sim.settle();
        let away = sim.lock().ended("away");
        assert!(away["state"] == "failed" && away["reason"].as_str().unwrap().contains("node1 ran it last"), "{seed} {what}: {away:#}");
        assert_eq!(sim.lock().serving(PROJECT).len(), 2, "{seed} {what}");
        all_well(&sim.deliver_all(&[deploy("here", "node1", Some("node2")), deploy("then", "node3", None)]));
        sim.settle();
        assert_eq!(data(&sim, "node3", DATA), "orders of monday");
    }
}

// ---- two at once

/// Somebody removes the key of an order that takes too long, while its new master waits for the health of what it has started.
#[test]
fn an_order_whose_key_vanishes_does_not_have_two_nodes_run_it() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node2", "agent/service/register", Act::Slow(MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node1"))])));
    until(&sim, "the new version", || sim.lock().serving(PROJECT).iter().any(|line| line.starts_with("node2")));
    sim.lock().store.remove(&format!("order/{}", id("move")));
    sim.run_until_rest();
    let violations = sim.violations();
    sim.settle();
    assert!(violations.is_empty(), "{violations:#?}");
}

// ---- stuck, and in another's way

/// A test instance gets the shop's data, and its undo cannot end. The shop, whose part was a snapshot, cannot be deployed.
#[test]
fn the_undo_of_a_migrate_that_cannot_end_is_not_in_the_way_of_its_source() {
    after_a_migrate_whose_undo_cannot_end(false);
}

/// Nor taken over.
#[test]
fn the_undo_of_a_migrate_that_cannot_end_is_not_in_the_way_of_a_takeover_of_its_source() {
    after_a_migrate_whose_undo_cannot_end(true);
}

fn after_a_migrate_whose_undo_cannot_end(dies: bool) {
    let sim = with_a_migrate_whose_undo_cannot_end("node3", |sim| sim.lock().replicate("node1"));
    let order = sim.lock().kv(&format!("order/{}", id("m"))).unwrap();
    assert_eq!(order["undone"], json!(["node1"]), "{order:#}");
    its_source_is_deployed(&sim, dies, 12);
}

/// A test instance on this node gets the shop's data, and its undo cannot end. `before`: what there is of replicas by then.
pub fn with_a_migrate_whose_undo_cannot_end(node: &'static str, before: impl FnOnce(&Sim)) -> Sim {
    let (sim, _, volume): (Sim, String, String) = with_copy(node, "", &[("post_migrate.sh", "write data WRONG\nexit 1")]);
    before(&sim);
    let begun = Arc::new(AtomicBool::new(false));
    let (begins, has_begun) = (begun.clone(), begun.clone());
    sim.on(node, "post_migrate.sh", Act::First(Box::new(move |_| begins.store(true, Ordering::SeqCst))));
    let restores = move |e: &Effect| e.what == "Snapshot.Restore" && e.line.contains(&volume) && has_begun.load(Ordering::SeqCst);
    sim.fault(restores, 0, Act::Fail("no space left on device".to_owned()));
    sim.deliver_all(&[migrate("m")]);
    sim.try_settle().ok();
    let order = sim.lock().kv(&format!("order/{}", id("m"))).unwrap();
    assert_eq!(order["state"], "failed", "{order:#}");
    sim
}

/// Where it was, or, if that dies, where its replica is.
pub fn its_source_is_deployed(sim: &Sim, dies: bool, within: usize) {
    push(sim, "");
    let master = if dies { "node2" } else { "node1" };
    if dies {
        sim.power_off("node1");
    }
    sim.deliver_all(&[deploy("next", master, None)]);
    checks(sim, within);
    let next = sim.lock().ended("next");
    let open = sim.lock().kv(&format!("order/{}", id("next"))).unwrap_or_default();
    let serving = sim.lock().serving(PROJECT);
    assert_eq!(next["state"], "done", "the master dies {dies}: after {within} checks {next:#} {open:#} {serving:?}");
}

/// A new master takes a move, and dies for good; the old one has lost its power at the same time, and comes back. The dead one is taken out of the
/// cluster.
#[test]
fn a_move_whose_new_master_is_no_member_any_more_ends() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on(
        "node3",
        "git clone",
        Act::First(Box::new(|s: &mut State| {
            s.die("node3");
            s.die("node1");
        })),
    );
    sim.start("node3", Start::Events(vec![deploy("move", "node3", Some("node2"))]));
    sim.run_until_rest();
    assert!(sim.no_faults());
    sim.lock().nodes.remove("node3");
    sim.power_on("node1");
    checks(&sim, 1);
    let order = sim.lock().kv(&format!("order/{}", id("move"))).unwrap_or_default();
    assert_eq!(sim.lock().ended("move")["state"], "failed", "{order:#}");
    all_well(&sim.deliver_all(&[deploy("next", "node1", Some("node2"))]));
    sim.settle();
}

// ---- what is said

/// Records vanish: of an application that runs, and that no proxy leads to any more.
#[test]
fn status_says_that_a_record_is_gone() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.try_settle().ok();
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    let (status, check) = (run(&sim, "node1", Start::Status), run(&sim, "node1", Start::Check));
    assert!(status.status == Some(1) && check.status == Some(1), "{status}{check}");
}

/// An undo cannot put the data back, and is given up. A person does it by hand, starts the application, and removes the journal as is said.
#[test]
fn what_a_given_up_order_has_put_in_maintenance_does_not_stay_so() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.on_each("node1", "Snapshot.Restore", Act::Fail("no space left".into()));
    fails_and_is_given_up(&sim);
    checks(&sim, 2);
    assert_eq!(sim.lock().keys("maintenance/").len(), 1, "a person is at it");
    assert_eq!(sim.lock().serving(PROJECT).len(), 0);
    let given_up = format!("/deploy/.handler/apps/{APP}/{}.given-up", id("bad"));
    sim.disk("node1", |disk| disk.remove(Path::new(&given_up)).unwrap());
    sim.lock().plugin("node1").volumes.insert(DATA.to_owned(), "orders of monday".to_owned());
    checks(&sim, 4);
    let maintenance = sim.lock().keys("maintenance/");
    let serving = sim.lock().serving(PROJECT);
    let status = run(&sim, "node1", Start::Status);
    let told = status.stderr.lines().any(|line| line.contains("wrong: ") && line.contains("no container of it is here"));
    assert!(maintenance.is_empty() && (serving.len() == 2 || told), "{maintenance:?} is of an order that has ended; {serving:?} {status}");
}

/// Both applications give their data volume a name of its own.
#[test]
fn a_migrate_that_copies_nothing_says_so() {
    let sim: Sim = shop(&NODES);
    let named = |name: &str| compose("").replace("anybox/buttervolume:latest'", &format!("anybox/buttervolume:latest', name: {name}"));
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &named("shop-data"))]);
    sim.lock().commit(COPY, "master", &[("docker-compose.yml", &named("copy-data"))]);
    all_well(&sim.deliver_all(&[deploy("first", "node1", None)]));
    all_well(&sim.deliver_all(&[event("copy", "deploy", &json!({"repo": COPY, "branch": "master", "master": "node1"}))]));
    sim.lock().write("node1", "shop-data", "orders of monday");
    sim.lock().write("node1", "copy-data", "old copy");
    sim.deliver_all(&[migrate("m")]);
    sim.settle();
    let ended = sim.lock().ended("m");
    let reason = ended["reason"].as_str().unwrap_or_default();
    assert!(
        ended["state"] == "failed" && reason.contains("data volumes (shop-data) has a counterpart in the target (copy-data)"),
        "{ended:#}"
    );
    assert_eq!(data(&sim, "node1", "copy-data"), "old copy");
}

// ---- what runs

/// `docker-compose run` of a person's, or of a nightly job, on the volume of the master, which is cut off. Another takes over; it is back.
#[test]
fn what_compose_run_has_started_is_fenced_too_and_once() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    {
        let mut s = sim.lock();
        let web = s.engine("node1").containers.iter().find(|c| c.service == "web").unwrap().clone();
        let name = format!("{PROJECT}-web-run-0123456789ab");
        let job = Container { id: "0".repeat(64), name, restart: "no".into(), checked: false, oneoff: true, ..web };
        s.engine("node1").containers.push(job);
    }
    sim.lock().split(&["node1"]);
    ["node2", "node3"].iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("over", "node2", Some("node3"))])));
    until(&sim, "the takeover", || sim.lock().ended("over")["state"] == "done");
    sim.lock().heal();
    sim.try_settle().ok();
    let count = || sim.lock().nodes["node1"].plugin.snapshots.keys().filter(|name| name.starts_with(&format!("{DATA}@"))).count();
    let before = count();
    checks(&sim, 10);
    let after = count();
    let up: Vec<String> = sim.lock().nodes["node1"].engine.containers.iter().filter(|c| c.running).map(|c| c.name.clone()).collect();
    assert!(up.is_empty() && after == before, "node1 runs {up:?}; snapshots before {before}, after two hours {after}");
}

// ---- once

/// Without a leader node2 cannot take an event in, keeps it, and loses its power. The order is done, the application moves on, and is deployed
/// so often that the history has forgotten it. node2 is back.
#[test]
fn an_event_that_waits_in_an_inbox_is_not_ordered_again_when_the_history_has_forgotten_it() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let old = deploy("old", "node1", Some("node2"));
    sim.lock().lose_leader(100_000_000);
    sim.start("node2", Start::Events(vec![old.clone()]));
    sim.run_until_rest();
    sim.power_off("node2");
    let inbox = |sim: &Sim| sim.disk("node2", |disk| disk.paths()).into_iter().filter(|path| path.contains("/inbox/")).count();
    assert_eq!(inbox(&sim), 1);
    sim.pass(2 * MINUTE);
    all_well(&sim.deliver_all(&[old]));
    assert_eq!(sim.lock().ended("old")["state"], "done");
    all_well(&sim.deliver_all(&[deploy("away", "node3", Some("node1"))]));
    sim.lock().write("node3", DATA, " and of tuesday");
    for n in 0..66 {
        sim.deliver_all(&[deploy(&format!("{n}"), "node3", Some("node1"))]);
    }
    assert_eq!(sim.lock().ended("old")["state"], "done", "not while an event may wait for it");
    sim.pass(49 * 60 * MINUTE);
    sim.deliver_all(&[deploy("last", "node3", Some("node1"))]);
    assert!(sim.lock().ended("old").is_null());
    sim.power_on("node2");
    sim.start("node2", Start::Events(Vec::new()));
    // Consul's watch on the orders: if one has come, they hear of it.
    for node in ["node3", "node1"] {
        sim.start_later(node, Start::Events(Vec::new()), Duration::from_secs(5));
    }
    sim.run_until_rest();
    sim.settle();
    let record = sim.lock().kv(&format!("app/{APP}")).unwrap();
    let old = sim.lock().ended("old");
    assert_eq!(inbox(&sim), 0);
    assert!(old.is_null() && record["master"] == "node3", "{old:#}");
}
