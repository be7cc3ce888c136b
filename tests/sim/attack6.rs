//! Stories about orders said again, records that vanish and come back, failed migrates and shared names, in which a promise breaks.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::attack4::{its_source_is_deployed, with_a_migrate_whose_undo_cannot_end};
use crate::beside::until;
use crate::others::run;
use crate::sets::{MINUTE, checks, data, held, last, replica, tick};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{
    APP, COPY, DATA, NODES, PROJECT, Transition, URL, all_well, compose, deploy, deployed, difference, migrate, push, shop, with_copy,
};
use crate::world::state::engine::Container;
use crate::world::{Act, Cluster, Effect, State, event, id};

const STAGING: &str = "shopstaginge4371";

fn order(sim: &Sim, word: &str) -> Value {
    sim.lock().kv(&format!("order/{}", id(word))).unwrap_or_default()
}

fn images(sim: &Sim) -> String {
    sim.lock().serving(PROJECT).join("\n")
}

// ---- two at once

/// A move: the new master has the new version up and is not at its commit yet. The handler of the old one is killed, as when its agent is made
/// anew; somebody removes the key of the order. The old master's next run finds neither order nor history.
#[test]
fn a_source_that_was_killed_starts_nothing_though_the_key_of_its_order_has_vanished() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node2", "agent/service/register", Act::Slow(MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node1"))])));
    until(&sim, "the new version", || order(&sim, "move")["progress"]["node2"]["name"] == "await-healthy");
    sim.kill("node1");
    sim.lock().store.remove(&format!("order/{}", id("move")));
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    let violations = sim.violations();
    sim.settle();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// The record of an application vanishes in the middle of a move. The order fails, and the log says to deploy it again where it was.
#[test]
fn a_record_that_vanishes_in_the_middle_of_a_move_does_not_have_two_nodes_run_it() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "x-standin: {writes: ', upgraded'}");
    sim.on("node2", "up -d", Act::First(Box::new(|s: &mut State| s.store.remove(&format!("app/{APP}")))));
    sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
    assert!(sim.no_faults());
    sim.try_settle().ok();
    checks(&sim, 2);
    let (before, ended) = (images(&sim), sim.lock().ended("move"));
    sim.deliver_all(&[deploy("again", "node1", Some("node2"))]);
    sim.try_settle().ok();
    let violations = sim.violations();
    let again = sim.lock().ended("again");
    assert!(violations.is_empty(), "{violations:#?}\nbefore: {before}\n{}\n{}", ended["reason"], again["state"]);
}

// ---- an undo harms

/// Two applications give a data volume one name. The first is up and not committed yet when the second, which has been deployed for long, looks
/// whose it is: nobody's. The first is committed, and serves. The second is refused at its commit, and undone.
#[test]
fn the_undo_of_a_redeploy_puts_nothing_back_over_a_volume_that_another_application_has() {
    let sim: Sim = shop(&NODES);
    let shared = compose("").replace("anybox/buttervolume:latest'", "anybox/buttervolume:latest', name: shared");
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &compose(""))]);
    let staging = json!({"repo": URL, "branch": "staging", "master": "node1"});
    all_well(&sim.deliver_all(&[event("zero", "deploy", &staging)]));
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &shared)]);
    let with = compose("").replace("['data:/data']", "['data:/data', 'extra:/extra']")
        + "  extra: {driver: 'anybox/buttervolume:latest', name: shared}\n";
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &with)]);
    sim.on("node1", "agent/service/register", Act::Slow(MINUTE));
    sim.fault(|e: &Effect| e.line.contains(STAGING) && e.line.ends_with(" build"), 1, Act::Slow(5 * MINUTE));
    // It serves, and is written to, until the other is taken back.
    let written = Act::First(Box::new(|s: &mut State| s.write("node1", "shared", " and of tuesday")));
    sim.fault(|e| e.line.contains(STAGING) && e.line.contains(" down"), 1, written);
    sim.start("node1", Start::Events(vec![deploy("one", "node1", None)]));
    until(&sim, "the first", || sim.lock().serving(PROJECT).len() == 2);
    sim.start("node1", Start::Events(vec![event("two", "deploy", &staging)]));
    until(&sim, "the commit of the first", || sim.lock().ended("one")["state"] == "done");
    sim.lock().write("node1", "shared", "orders of monday");
    sim.run_until_rest();
    assert!(sim.no_faults());
    let two = sim.lock().ended("two");
    assert_eq!(two["state"], "failed", "{two:#}");
    let held = data(&sim, "node1", "shared");
    let violations = sim.violations();
    assert!(held.contains("monday") && held.contains("tuesday") && violations.is_empty(), "“{held}” {violations:#?}");
}

/// The record is gone; it is deployed again, as the log says; meanwhile somebody puts the record back. The new version is not healthy, or well; its
/// data is that of a migrate, or not.
fn with_a_record_that_comes_back(healthy: bool) {
    for migrated in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        let key = format!("app/{APP}");
        let mut record = sim.lock().kv(&key).unwrap();
        if migrated {
            record["data_id"] = id("a migrate").into();
        }
        let before = images(&sim);
        sim.lock().store.remove(&key);
        push(&sim, if healthy { "x-standin: {writes: WRONG}" } else { "x-standin: {start: unhealthy, writes: WRONG}" });
        sim.on("node1", " build", Act::First(Box::new(move |s: &mut State| s.store.set(&key, record.to_string().as_bytes()))));
        sim.deliver_all(&[deploy("again", "node1", Some("node2"))]);
        assert!(sim.no_faults());
        sim.try_settle().ok();
        checks(&sim, 3);
        let again = sim.lock().ended("again");
        let (held, after) = (data(&sim, "node1", DATA), images(&sim));
        let status = run(&sim, "node1", Start::Status);
        assert_eq!(again["state"], "failed", "{again:#}");
        assert!(held == "orders of monday" && after == before, "{migrated} “{held}”\n{before}\n{after}\n{}\n{status}", again["reason"]);
    }
}

#[test]
fn a_deploy_that_fails_is_undone_though_the_record_has_come_back_meanwhile() {
    with_a_record_that_comes_back(false);
}

#[test]
fn a_deploy_whose_commit_finds_the_record_back_is_undone() {
    with_a_record_that_comes_back(true);
}

/// The same; what the failed version has made of the data is replicated as what is deployed.
#[test]
fn what_a_failed_version_has_made_is_in_no_set_though_the_record_has_come_back() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let key = format!("app/{APP}");
    let record = sim.lock().store.text(&key).unwrap();
    sim.lock().store.remove(&key);
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.on("node1", " build", Act::First(Box::new(move |s: &mut State| s.store.set(&key, record.as_bytes()))));
    sim.deliver_all(&[deploy("again", "node1", Some("node2"))]);
    assert!(sim.no_faults());
    sim.try_settle().ok();
    checks(&sim, 3);
    let held = held(&sim, "node2", &last(&sim, "node2")).unwrap_or_default();
    assert!(!held.contains("WRONG"), "the confirmed set of {}: “{held}”", replica(&sim, "node2")["last"]["deploy_id"]);
}

/// The record vanishes in the middle of a redeploy.
#[test]
fn a_redeploy_whose_record_vanishes_meanwhile_ends_with_the_old_version_or_with_the_new_one() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let before = images(&sim);
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.on("node1", "up -d", Act::First(Box::new(|s: &mut State| s.store.remove(&format!("app/{APP}")))));
    sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
    assert!(sim.no_faults());
    sim.try_settle().ok();
    checks(&sim, 3);
    let bad = sim.lock().ended("bad");
    let (held, after) = (data(&sim, "node1", DATA), images(&sim));
    let status = run(&sim, "node1", Start::Status);
    let end = format!("{}: {}\n{before}\n{after}\n{status}", bad["state"], bad["reason"]);
    assert!(held == "orders of monday" && after == before, "“{held}” {end}");
}

// ---- begins anew

/// A record vanishes, and its master dies. It is deployed on the slave, which has confirmed set after set.
#[test]
fn what_has_lost_its_record_and_its_master_does_not_begin_empty_without_a_word() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.try_settle().ok();
    sim.power_off("node1");
    let plan = run(&sim, "node2", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node2"})));
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    sim.settle();
    let over = sim.lock().ended("over");
    let held = data(&sim, "node2", DATA);
    let begins_empty = over["state"] == "done" && !held.contains("monday");
    assert!(!begins_empty, "“{held}” {over:#}\n{plan}");
}

/// The same of a test instance that gets the shop's data every night: its history is full of that.
#[test]
fn what_gets_data_every_night_is_known_by_its_last_deploy_too() {
    let (sim, project, volume) = with_copy::<Sim>("node1", "", &[]);
    for night in 0..62 {
        sim.pass(24 * 60 * MINUTE);
        all_well(&sim.deliver_all(&[migrate(&format!("night {night}"))]));
    }
    let key = sim.lock().keys("app/").into_iter().find(|key| key.contains("copy")).unwrap();
    sim.lock().store.remove(&key);
    let elsewhere = event("away", "deploy", &json!({"repo": COPY, "branch": "master", "master": "node3"}));
    sim.deliver_all(&[elsewhere]);
    let away = sim.lock().ended("away");
    let serving = sim.lock().serving(&project);
    let held = data(&sim, "node3", &volume);
    let violations = sim.violations();
    assert!(away["state"] == "failed" && violations.is_empty(), "“{held}” {serving:?} {violations:#?} {away:#}");
}

// ---- what is said

/// The record is gone; it is deployed again, as the log says, without a word about its slave.
#[test]
fn what_has_lost_its_record_keeps_its_slave_or_says_so() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().store.remove(&format!("app/{APP}"));
    let plan = run(&sim, "node1", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node1"})));
    all_well(&sim.deliver_all(&[deploy("again", "node1", None)]));
    let record = sim.lock().kv(&format!("app/{APP}")).unwrap();
    let again = sim.lock().ended("again");
    let told = again["notes"].to_string().contains("slave") || plan.stderr.contains("slave: ") || plan.stderr.contains("no slave");
    assert!(record["slave"] == "node2" || told, "slave {} and nobody says so: {again:#}\n{plan}", record["slave"]);
}

// ---- stuck, and in another's way

#[test]
fn the_undo_of_a_migrate_that_cannot_end_does_not_end_the_replication_of_its_source() {
    let sim = with_a_migrate_whose_undo_cannot_end("node3", tick);
    sim.lock().write("node1", DATA, " and of tuesday");
    for _ in 0..8 {
        sim.pass(20 * MINUTE);
        tick(&sim);
    }
    let held = held(&sim, "node2", &last(&sim, "node2")).unwrap_or_default();
    sim.no_faults();
    assert!(held.contains("tuesday"), "after two hours and a half the last set has “{held}”");
}

#[test]
fn the_undo_of_a_migrate_that_cannot_end_does_not_keep_its_source_from_being_started_again() {
    let sim = with_a_migrate_whose_undo_cannot_end("node1", tick);
    sim.lock().engine("node1").containers.retain(|it| it.project != PROJECT || it.service != "web");
    checks(&sim, 6);
    let serving = sim.lock().serving(PROJECT);
    let status = run(&sim, "node1", Start::Status);
    sim.no_faults();
    let told = status.stderr.lines().any(|line| line.contains(APP) && line.contains("has no container"));
    assert!(serving.len() == 2, "{serving:?}; status tells: {told} {status}");
}

/// It is cancelled while the copy is started, and what has been started cannot be removed.
#[test]
fn the_undo_of_a_cancelled_migrate_that_cannot_end_is_not_in_the_way_of_its_source() {
    let (sim, project, _): (Sim, String, String) = with_copy("node1", "", &[]);
    let (up, down) = (project.clone(), project);
    sim.fault(move |e| e.line.contains(&up) && e.line.contains(" up -d"), 1, Act::KillAfter);
    sim.fault(move |e| e.line.contains(&down) && e.line.contains(" down"), 0, Act::Fail("network has active endpoints".into()));
    sim.start("node1", Start::Events(vec![migrate("m")]));
    sim.run_until_rest();
    sim.start("node3", Start::Cancel(id("m"), None));
    sim.run_until_rest();
    sim.try_settle().ok();
    assert_eq!(order(&sim, "m")["state"], "failed");
    push(&sim, "");
    sim.deliver_all(&[deploy("next", "node1", Some("node2"))]);
    checks(&sim, 12);
    let next = sim.lock().ended("next");
    let open = order(&sim, "next");
    sim.no_faults();
    assert_eq!(next["state"], "done", "after two hours {} {open:#}", next["reason"]);
}

/// A move; old and new master lose their power after the data was sent. The disk of the new one is dead: it comes back as a new machine of the same
/// name.
#[test]
fn a_source_whose_new_master_comes_back_with_an_empty_disk_can_be_told_to_start_again() {
    let nodes = ["node1", "node2", "node3", "node4", "node5"];
    let sim: Sim = deployed(&nodes, "node1", Some("node3"));
    push(&sim, "");
    sim.on("node2", "agent/service/register", Act::Slow(10 * MINUTE));
    nodes.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node1"))])));
    until(&sim, "the new version", || sim.lock().serving(PROJECT).iter().any(|line| line.starts_with("node2")));
    sim.power_off("node1");
    sim.power_off("node2");
    sim.start("node3", Start::Events(Vec::new()));
    sim.run_until_rest();
    checks(&sim, 1);
    let ended = sim.lock().ended("move");
    assert_eq!(ended["state"], "failed", "{ended:#}");
    sim.disk("node2", |disk| {
        for name in disk.list(Path::new("/deploy")).unwrap() {
            disk.remove_all(&Path::new("/deploy").join(name)).unwrap();
        }
    });
    sim.lock().engine("node2").containers.clear();
    sim.lock().plugin("node2").volumes.clear();
    sim.lock().plugin("node2").snapshots.clear();
    sim.power_on("node2");
    sim.power_on("node1");
    checks(&sim, 6);
    let serving = sim.lock().serving(PROJECT);
    let cancel = run(&sim, "node3", Start::Cancel(id("move"), Some("node2")));
    checks(&sim, 3);
    let then = sim.lock().serving(PROJECT);
    let status = run(&sim, "node1", Start::Status);
    assert!(serving.is_empty() && then.len() == 2, "{serving:?}, after {cancel} {then:?} {status}");
}

// ---- once

/// An event that an older handler has put into its inbox, and could not take in before the node was taken down for months.
#[test]
fn an_event_that_an_older_handler_has_left_in_its_inbox_is_not_ordered_again() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let old = deploy("old", "node1", Some("node2"));
    sim.lock().lose_leader(100_000_000);
    sim.start("node2", Start::Events(vec![old.clone()]));
    sim.run_until_rest();
    sim.power_off("node2");
    let path = sim.disk("node2", |disk| disk.paths()).into_iter().find(|path| path.contains("/inbox/")).unwrap();
    sim.pass(2 * MINUTE);
    all_well(&sim.deliver_all(&[old]));
    all_well(&sim.deliver_all(&[deploy("away", "node3", Some("node1"))]));
    for n in 0..66 {
        sim.deliver_all(&[deploy(&format!("{n}"), "node3", Some("node1"))]);
    }
    sim.pass(49 * 60 * MINUTE);
    sim.deliver_all(&[deploy("last", "node3", Some("node1"))]);
    // As it writes it.
    sim.disk("node2", |disk| {
        let text = String::from_utf8(disk.read(Path::new(&path), 1 << 20).unwrap()).unwrap();
        let mut event: Value = serde_json::from_str(&text).unwrap();
        event.as_object_mut().unwrap().retain(|member, _| member != "Since");
        disk.write(Path::new(&path), event.to_string().as_bytes(), handler::outside::doors::Write::Over, true).unwrap();
    });
    sim.power_on("node2");
    sim.start("node2", Start::Events(Vec::new()));
    for node in ["node3", "node1"] {
        sim.start_later(node, Start::Events(Vec::new()), Duration::from_secs(5));
    }
    sim.run_until_rest();
    sim.settle();
    let ended = sim.lock().ended("old");
    let open = order(&sim, "old");
    assert!(ended.is_null() && open.is_null(), "{ended:#} {open:#}");
}

/// A move fails, and the new master cannot stop what it has started: the old one waits. Somebody removes the key of the order that blocks.
#[test]
fn a_source_that_waits_for_its_owner_goes_on_waiting_when_the_key_of_the_order_vanishes() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node2", "agent/service/register", Act::Fail("a check is invalid".into()));
    let hangs = |e: &Effect| e.node == "node2" && (e.line.contains(" down") || e.line.contains("stop"));
    sim.fault(hangs, 0, Act::Fail("did not receive an exit event".into()));
    sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
    sim.try_settle().ok();
    let stuck = order(&sim, "move");
    assert!(stuck["state"] == "failed" && stuck["down"].is_null(), "{stuck:#}");
    assert!(sim.violations().is_empty());
    sim.lock().store.remove(&format!("order/{}", id("move")));
    checks(&sim, 2);
    let violations = sim.violations();
    let said = order(&sim, "move");
    sim.no_faults();
    sim.settle();
    assert!(violations.is_empty(), "{violations:#?} {said:#}");
}

/// The source has begun when its power fails, and the new master dies for good, and is taken out of the cluster.
#[test]
fn a_move_that_its_source_has_begun_ends_when_the_new_master_is_no_member_any_more() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node3", " build", Act::Slow(10 * MINUTE));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node3", Some("node2"))])));
    // That it waits is told only where nobody else writes to the order at that moment.
    let has_sent = || sim.lock().log.iter().any(|e| e.node == "node1" && e.what == "Snapshot.Send");
    until(&sim, "both", || has_sent() && order(&sim, "move")["progress"]["node1"].is_object() && order(&sim, "move")["owner"] == "node3");
    sim.power_off("node1");
    sim.power_off("node3");
    sim.lock().nodes.remove("node3");
    sim.power_on("node1");
    checks(&sim, 12);
    let open = order(&sim, "move");
    let status = run(&sim, "node2", Start::Status);
    let ended = sim.lock().ended("move");
    assert_eq!(ended["state"], "failed", "after two hours {open:#} {status}");
    assert!(ended["owner"] == "node3" && ended["progress"]["node1"].is_object(), "{ended:#}");
}

/// Two applications that give a volume one name are deployed for the first time, one right after the other. The second fails before the first is
/// at its commit.
#[test]
fn an_undo_puts_nothing_back_over_a_volume_on_which_another_application_has_started() {
    let sim: Sim = shop(&NODES);
    let shared = |more: &str| compose(more).replace("anybox/buttervolume:latest'", "anybox/buttervolume:latest', name: shared");
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &shared(""))]);
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &shared("x-standin: {start: unhealthy}"))]);
    sim.on("node1", "agent/service/register", Act::Slow(10 * MINUTE));
    let written = Act::First(Box::new(|s: &mut State| s.write("node1", "shared", "its first tables")));
    sim.fault(|e| e.line.contains(STAGING) && e.line.contains(" down"), 1, written);
    sim.start("node1", Start::Events(vec![deploy("one", "node1", None)]));
    until(&sim, "the first", || sim.lock().serving(PROJECT).len() == 2);
    let staging = json!({"repo": URL, "branch": "staging", "master": "node1"});
    sim.start("node1", Start::Events(vec![event("two", "deploy", &staging)]));
    sim.run_until_rest();
    sim.no_faults();
    let one = sim.lock().ended("one")["state"].clone();
    let two = data(&sim, "node1", "shared");
    let violations = sim.violations();
    assert!(two.contains("tables") && violations.is_empty(), "{one} “{two}” {violations:#?}");
}

/// node1 is cut off, and node2 takes over. The record vanishes. node1 is back: by the last order node2 is the master.
#[test]
fn a_node_that_is_master_by_no_order_is_not_said_to_be_the_one_to_deploy_on() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().split(&["node1"]);
    ["node2", "node3"].iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("over", "node2", Some("node3"))])));
    until(&sim, "the takeover", || sim.lock().ended("over")["state"] == "done");
    sim.run_until_rest();
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.lock().store.remove(&format!("app/{APP}"));
    sim.lock().heal();
    sim.try_settle().ok();
    checks(&sim, 1);
    let both = sim.lock().serving(PROJECT).len() == 4;
    let status = run(&sim, "node1", Start::Status);
    let says = status.stderr.contains("deploy it again, with this node as its master");
    // As it says; the other one dies before.
    sim.power_off("node2");
    sim.deliver_all(&[deploy("as told", "node1", None)]);
    let told = sim.lock().ended("as told");
    let held = data(&sim, "node1", DATA);
    let old = told["state"] == "done" && !held.contains("tuesday") && told["notes"].is_null();
    assert!(!says && !old, "both run {both}, says {says}; “{held}” without a word: {old} {told:#} {status}");
}

/// node2 has taken over from node1, which is fenced: what it held is in its volume. A move back to it fails.
#[test]
fn a_move_back_that_fails_leaves_what_is_fenced_in_its_volume() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().split(&["node1"]);
    sim.lock().write("node1", DATA, " and of tuesday");
    crate::attack2::taken_over(&sim);
    sim.run_until_rest();
    sim.settle();
    let fenced = data(&sim, "node1", DATA);
    assert!(fenced.contains("tuesday"));
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.deliver_all(&[deploy("back", "node1", Some("node2"))]);
    sim.settle();
    assert_eq!(sim.lock().ended("back")["state"], "failed");
    let held = data(&sim, "node1", DATA);
    let status = run(&sim, "node1", Start::Status);
    assert_eq!(held, fenced, "{status}");
}

/// The copy is on the node of the shop.
#[test]
fn held_the_undo_of_a_migrate_on_one_node_is_not_in_the_way_of_its_source() {
    for dies in [false, true] {
        let sim = with_a_migrate_whose_undo_cannot_end("node1", tick);
        its_source_is_deployed(&sim, dies, 3);
        sim.no_faults();
    }
}

/// Each gets the other's data, at once, and a handler of either node is killed anywhere.
#[test]
fn held_two_migrates_in_both_directions() {
    for at in ["", "Snapshot.Send", "Snapshot.Restore", "up -d", "stop"] {
        for (node, act) in [("node1", true), ("node1", false), ("node3", true), ("node3", false)] {
            let (sim, project, volume): (Sim, String, String) = with_copy("node3", "", &[]);
            let back = event("back", "migrate", &json!({"repo": COPY, "branch": "master", "target": {"repo": URL}}));
            if !at.is_empty() {
                sim.on(node, at, if act { Act::KillBefore } else { Act::KillAfter });
            }
            sim.deliver_all(&[migrate("m"), back]);
            sim.no_faults();
            sim.try_settle().ok();
            checks(&sim, 3);
            let [m, back] = ["m", "back"].map(|word| sim.lock().ended(word)["state"].clone());
            let held = [data(&sim, "node1", DATA), data(&sim, "node3", &volume)];
            let open = sim.lock().keys("order/");
            let up = [PROJECT, &project].map(|project| sim.lock().serving(project).len());
            assert!(open.is_empty() && up == [2, 2], "{node} {at} {act}: {m} {back} {held:?} {open:?} {up:?}");
        }
    }
}

/// In the middle of a move that says nothing of the slave its key is replaced by what was ordered, as whoever takes an event in late does.
#[test]
fn the_slave_is_that_of_the_order_as_it_was_taken() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let key = format!("order/{}", id("move"));
    let anew = Act::First(Box::new(move |s: &mut State| {
        let mut order = s.kv(&key).unwrap();
        order["request"]["deploy"].as_object_mut().unwrap().remove("slave").unwrap();
        s.store.set(&key, order.to_string().as_bytes());
    }));
    sim.on("node3", "up -d", anew);
    sim.deliver_all(&[event("move", "deploy", &json!({"repo": URL, "branch": "master", "master": "node3"}))]);
    assert!(sim.no_faults());
    let record = sim.lock().kv(&format!("app/{APP}")).unwrap();
    assert_eq!((&record["master"], &record["slave"]), (&json!("node3"), &json!("node2")), "{:#}", sim.lock().ended("move"));
}

/// What `docker-compose run` starts in a service of the project: an import of every night.
fn job(sim: &Sim, node: &str, project: &str) {
    let mut s = sim.lock();
    let web = s.engine(node).containers.iter().find(|c| c.service == "web" && c.project == project).unwrap().clone();
    let name = format!("{project}-web-run-0123456789ab");
    let job = Container { id: "0".repeat(64), name, restart: "no".into(), checked: false, oneoff: true, ..web };
    s.engine(node).containers.push(job);
}

/// A move, while `docker-compose run` is at work on the data.
#[test]
fn what_compose_run_writes_during_a_move_moves_too_or_is_named() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    job(&sim, "node1", PROJECT);
    let writes = Act::First(Box::new(|s: &mut State| {
        if s.engine("node1").containers.iter().any(|c| c.running && c.oneoff) {
            s.write("node1", DATA, " and what was imported");
        }
    }));
    sim.fault(|e| e.node == "node1" && e.what == "Snapshot.Send", 2, writes);
    sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
    assert!(sim.no_faults());
    sim.try_settle().ok();
    let ended = sim.lock().ended("move");
    let moved = data(&sim, "node2", DATA);
    let held: Vec<String> = {
        let s = sim.lock();
        let plugin = &s.nodes["node1"].plugin;
        plugin.snapshots.iter().filter(|(_, held)| held.contains("imported")).map(|(name, _)| name.clone()).collect()
    };
    let status = run(&sim, "node1", Start::Status);
    let named = held.iter().any(|name| status.stderr.contains(name)) || ended["notes"].to_string().contains("run");
    // Stopped in time it has written nothing.
    assert!(held.is_empty() || moved.contains("imported") || named, "“{moved}”, but {held:?}; {status}");
}

/// A migrate, while `docker-compose run` is at work on its target.
#[test]
fn a_migrate_restores_nothing_under_what_compose_run_has_started() {
    let (sim, project, volume): (Sim, String, String) = with_copy("node3", "", &[]);
    job(&sim, "node3", &project);
    sim.deliver_all(&[migrate("m")]);
    let violations = sim.violations();
    let held = data(&sim, "node3", &volume);
    assert!(violations.is_empty(), "“{held}” {violations:#?}");
}

/// What happens to the key of an order.
type Change = fn(&mut State, &str);

fn removed(s: &mut State, key: &str) {
    s.store.remove(key);
}

/// As `cancel` does.
fn cancelled(s: &mut State, key: &str) {
    let Some(mut order) = s.kv(key) else { return };
    if order["state"] != "failed" {
        order["state"] = "failed".into();
        order["reason"] = "cancelled by hand".into();
        s.store.set(key, order.to_string().as_bytes());
    }
}

/// Before each call of an order its key changes so: alone, and while the handlers of one node or of all of them are killed.
fn changed_at_every_call((sim, word, event, _): Transition<Sim>, change: Change) {
    sim.pass(MINUTE);
    let (before, start) = (sim.state(), sim.save());
    sim.deliver_all(std::slice::from_ref(&event));
    let calls = sim.lock().log.len();
    sim.settle();
    let done = sim.state();
    let mut wrong = Vec::new();
    let nodes: Vec<String> = sim.lock().nodes.keys().cloned().collect();
    let mut kills: Vec<Vec<String>> = vec![Vec::new(), nodes.clone()];
    kills.extend(nodes.into_iter().map(|node| vec![node]));
    for at in 1..=calls {
        for killed in &kills {
            sim.load(&start);
            let (kill, key) = (killed.clone(), format!("order/{}", id(word)));
            let strikes = move |s: &mut State| {
                change(s, &key);
                kill.iter().for_each(|node| s.kill(node));
            };
            sim.fault(|_| true, at, Act::First(Box::new(strikes)));
            sim.deliver_all(std::slice::from_ref(&event));
            sim.no_faults();
            sim.pass(2 * MINUTE);
            let rest = sim.try_settle().is_ok();
            let violations = sim.violations();
            let state = sim.state();
            let open = sim.lock().keys("order/");
            let as_it_should = state == before || state == done;
            if !rest || !violations.is_empty() || !open.is_empty() || !as_it_should {
                let ended = sim.lock().ended(word);
                let differs = if as_it_should { String::new() } else { difference(&before, &state) };
                wrong.push(format!("{at} {killed:?} at rest {rest} {open:?} {} {violations:#?}\n{differs}", ended["state"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), calls * kills.len(), wrong.join("\n"));
}

macro_rules! changed {
    ($change:ident: $($name:ident,)*) => {
        mod $change {
            $(#[test]
            fn $name() {
                super::changed_at_every_call(crate::world::shop::$name(), super::$change);
            })*
        }
    };
}

changed! {
    removed:
    redeploy_with_a_slave,
    master_and_slave_swap,
    a_move_to_a_node_without_a_role,
    migrate_on_one_node,
    migrate_between_nodes,
    swap_that_fails,
    destroy_of_the_shop,
    takeover,
}

changed! {
    cancelled:
    redeploy_with_a_slave,
    master_and_slave_swap,
    a_move_to_a_node_without_a_role,
    migrate_on_one_node,
    migrate_between_nodes,
    swap_that_fails,
    destroy_of_the_shop,
    takeover,
}

fn unchanged(_: &mut State, _: &str) {}

/// The record is gone; it is deployed again, well or not, and whoever is at it is killed anywhere.
#[test]
fn held_what_has_lost_its_record_is_deployed_again_or_stays_as_it_was() {
    for (more, end) in [("x-standin: {writes: ', upgraded'}", "done"), ("x-standin: {start: unhealthy, writes: WRONG}", "failed")] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().store.remove(&format!("app/{APP}"));
        push(&sim, more);
        changed_at_every_call((sim, "again", deploy("again", "node1", Some("node2")), end), unchanged);
    }
}

/// Consul's servers have lost all that they knew, and a new cluster begins. An operator deploys on the node that was the slave.
#[test]
fn what_runs_elsewhere_does_not_begin_empty_where_its_slave_was_though_consul_has_lost_all() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    {
        let mut s = sim.lock();
        s.keys("").iter().for_each(|key| s.store.remove(key));
    }
    sim.try_settle().ok();
    let status = run(&sim, "node2", Start::Status);
    sim.deliver_all(&[deploy("anew", "node2", Some("node3"))]);
    let anew = sim.lock().ended("anew");
    let held = data(&sim, "node2", DATA);
    let violations = sim.violations();
    let first = violations.first().cloned().unwrap_or_default();
    assert!(anew["state"] != "done" && first.is_empty(), "“{held}” {first} {} {}\n{status}", anew["state"], anew["notes"]);
}
