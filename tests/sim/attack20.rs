//! Stories about orders that Consul has once more, and about what a source does that had stopped when Consul was put back, in which a promise breaks.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::others::run;
use crate::sets::{backup, checks, data, outcome, put_back, tick};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, all_well, deploy, deployed, destroy, migrate, push, with_copy};
use crate::world::state::State;
use crate::world::{Act, Cluster, Effect, id};

type Kept = Arc<Mutex<Vec<(String, String)>>>;

fn all(s: &State) -> Vec<(String, String)> {
    s.keys("").into_iter().filter_map(|key| Some((key.clone(), s.store.text(&key)?))).collect()
}

/// Consul is saved (`consul snapshot save`, by cron) right before that.
fn saved_at(sim: &Sim, node: &'static str, line: &'static str) -> Kept {
    let kept = Kept::default();
    let saved = kept.clone();
    let act = Act::First(Box::new(move |s: &mut State| *saved.lock().unwrap() = all(s)));
    sim.fault(move |e| e.node == node && e.line.contains(line), 1, act);
    kept
}

fn put_back_to(sim: &Sim, kept: &Kept) {
    put_back(sim, &kept.lock().unwrap());
}

/// Consul is saved while data of the shop is copied into another application, which is done then, and written to for a week. Consul is put back to that.
/// Nobody orders anything.
#[test]
fn a_migrate_that_was_at_work_when_consul_was_saved_is_not_done_over_what_was_written_since() {
    let mut wrong = Vec::new();
    for (node, line) in [("node1", "up -d"), ("node3", "up -d"), ("node3", "stop")] {
        let (sim, project, copy) = with_copy::<Sim>(node, "", &[]);
        tick(&sim);
        let kept = saved_at(&sim, node, line);
        all_well(&sim.deliver_all(&[migrate("m")]));
        assert!(sim.no_faults());
        sim.settle();
        sim.lock().write(node, &copy, ", orders of a week");
        tick(&sim);
        put_back_to(&sim, &kept);
        let (_, orders, status) = outcome(&sim);
        let held = data(&sim, node, &copy);
        let m = sim.lock().ended("m");
        let serving = sim.lock().serving(&project);
        sim.violations();
        if !held.contains("week") || serving.len() != 2 {
            wrong.push(format!("{node} {line}: “{held}” {serving:?} {orders:?} {m:#}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// Consul is saved while node2 takes over from node1, which is dead, or gets a move. That is done, and it is deployed once more there the next day. Consul is put back.
/// Nobody orders anything.
#[test]
fn an_order_that_was_at_work_when_consul_was_saved_is_not_done_once_more_though_another_has_come_since() {
    let mut wrong = Vec::new();
    for dead in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        if dead {
            sim.power_off("node1");
        }
        let kept = saved_at(&sim, "node2", "up -d");
        all_well(&sim.deliver_all(&[deploy("over", "node2", Some("node3"))]));
        assert!(sim.no_faults());
        sim.settle();
        all_well(&sim.deliver_all(&[deploy("next day", "node2", Some("node3"))]));
        sim.settle();
        sim.lock().write("node2", DATA, "orders of tuesday");
        tick(&sim);
        put_back_to(&sim, &kept);
        sim.try_settle().ok();
        checks(&sim, 3);
        let held = data(&sim, "node2", DATA);
        let over = sim.lock().ended("over");
        let serving = sim.lock().serving(PROJECT);
        let status = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).join("");
        sim.violations();
        if !held.contains("tuesday") {
            wrong.push(format!("dead {dead}: “{held}” {serving:?} {over:#}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// node1 is evacuated, and its applications come back to it a day later. Consul was saved in the middle of the evacuation, and is put back to that while node1
/// is cut off for some minutes. Nobody orders anything.
#[test]
fn a_move_that_was_at_work_when_consul_was_saved_is_not_done_once_more_though_it_has_come_back_since() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = saved_at(&sim, "node2", "up -d");
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node1"))]));
    assert!(sim.no_faults());
    sim.settle();
    all_well(&sim.deliver_all(&[deploy("back", "node1", Some("node2"))]));
    sim.settle();
    sim.lock().write("node1", DATA, "orders of tuesday");
    tick(&sim);
    sim.lock().split(&["node1"]);
    put_back_to(&sim, &kept);
    sim.try_settle().ok();
    sim.lock().heal();
    let (serving, orders, status) = outcome(&sim);
    let held = NODES.map(|node| data(&sim, node, DATA));
    let away = sim.lock().ended("away");
    sim.violations();
    let live = held.iter().zip(NODES).find(|(_, node)| serving.iter().any(|it| it.starts_with(node))).map_or("", |(held, _)| held);
    assert!(live.contains("tuesday"), "{held:?} {serving:?} {orders:?} {away:#}\n{status}");
}

/// A deploy builds for an hour, and a destroy waits behind it, when Consul is saved. Both are done; later it is deployed anew, and used for a year. Consul is put
/// back to that. Nobody orders anything.
#[test]
fn a_destroy_that_waited_when_consul_was_saved_does_not_destroy_what_was_deployed_since() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    push(&sim, "");
    let kept = saved_at(&sim, "node1", " build");
    sim.deliver_all(&[deploy("second", "node1", Some("node2")), destroy("end")]);
    assert!(sim.no_faults());
    sim.settle();
    assert_eq!(sim.lock().ended("end")["state"], "done");
    assert!(kept.lock().unwrap().iter().any(|(key, _)| *key == format!("order/{}", id("end"))));
    all_well(&sim.deliver_all(&[deploy("anew", "node1", Some("node2"))]));
    sim.settle();
    sim.lock().write("node1", DATA, "orders of a year");
    tick(&sim);
    put_back_to(&sim, &kept);
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node1", DATA);
    let end = sim.lock().ended("end");
    sim.violations();
    assert!(serving.len() == 2 && held.contains("year"), "“{held}” {serving:?} {orders:?} {end:#}\n{status}");
}

/// The shop on node1, deployed twice; Consul was put back to a state from between both.
fn put_back_to_before_a_deploy() -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    put_back(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    sim
}

/// It is deployed again, as the status says, and the handler is killed once while it builds.
#[test]
fn what_is_ordered_after_consul_was_put_back_goes_on_after_a_kill_like_any_other() {
    let sim = put_back_to_before_a_deploy();
    sim.on("node1", " build", Act::KillBefore);
    sim.deliver_all(&[deploy("third", "node1", Some("node2"))]);
    assert!(sim.no_faults());
    let (serving, orders, status) = outcome(&sim);
    let third = sim.lock().ended("third");
    sim.violations();
    assert!(third["state"] == "done", "{serving:?} {orders:?} {third:#}\n{status}");
}

/// It is moved; the new master hears of the order first.
#[test]
fn a_move_after_consul_was_put_back_does_not_depend_on_who_hears_of_it_first() {
    let mut wrong = Vec::new();
    for first in ["node1", "node2"] {
        let sim = put_back_to_before_a_deploy();
        sim.start(first, Start::Events(vec![deploy("move", "node2", Some("node1"))]));
        for _ in 0..5000 {
            sim.step();
            let order = sim.lock().kv(&format!("order/{}", id("move"))).unwrap_or_default();
            if order["progress"].as_object().is_some_and(|all| !all.is_empty()) {
                break;
            }
        }
        NODES.iter().for_each(|node| sim.start(node, Start::Events(Vec::new())));
        sim.run_until_rest();
        let (serving, orders, status) = outcome(&sim);
        let moved = sim.lock().ended("move");
        sim.violations();
        if moved["state"] != "done" {
            wrong.push(format!("{first} first: {serving:?} {orders:?} {moved:#}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// node1 is evacuated, and switched off as soon as node2 serves: its handler has not seen that yet. `then`: what becomes of Consul while it is off.
fn switched_off_right_after_a_move(then: impl Fn(&Sim, &[(String, String)])) -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let before = backup(&sim);
    let act = Act::First(Box::new(|s: &mut State| s.die("node1")));
    sim.fault(|e| e.node == "node2" && e.line.contains("cas app/"), 1, act);
    sim.deliver_all(&[deploy("move", "node2", Some("node3"))]);
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("move")["state"], "done");
    sim.try_settle().ok();
    sim.lock().write("node2", DATA, "orders of tuesday");
    tick(&sim);
    then(&sim, &before);
    sim.try_settle().ok();
    checks(&sim, 2);
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim
}

/// Consul has lost everything meanwhile. node1 is back: it finds neither order nor record, and starts the old version beside the new one.
#[test]
fn a_source_starts_nothing_beside_the_new_master_though_consul_has_lost_everything() {
    let sim = switched_off_right_after_a_move(|sim, _| put_back(sim, &[]));
    let (serving, orders, status) = outcome(&sim);
    sim.violations();
    assert!(serving.iter().all(|it| it.starts_with("node2")) && serving.len() == 2, "{serving:?} {orders:?}\n{status}");
}

/// Consul is put back to the state from before the move meanwhile. node1 is back: it takes mastership back by itself.
#[test]
fn a_source_does_not_take_mastership_back_though_consul_was_put_back() {
    let sim = switched_off_right_after_a_move(put_back);
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node1", DATA);
    sim.violations();
    assert!(!serving.iter().any(|it| it.starts_with("node1")), "“{held}” {serving:?} {orders:?}\n{status}");
}

/// A move is done; the old master's power is cut when it has removed its volume, and its checkout not yet (or a second volume is in use there). Consul is put
/// back to the state from before the move, or loses everything. It is back.
#[test]
fn a_source_starts_nothing_on_data_that_it_has_removed() {
    let mut wrong = Vec::new();
    for lost in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let before = backup(&sim);
        sim.on("node1", "volume rm", Act::KillAfter);
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node3"))])));
        sim.run_until_rest();
        assert!(sim.no_faults());
        assert_eq!(sim.lock().ended("move")["state"], "done");
        sim.power_off("node1");
        sim.lock().write("node2", DATA, "orders of tuesday");
        tick(&sim);
        put_back(&sim, if lost { &[] } else { &before });
        sim.try_settle().ok();
        sim.power_on("node1");
        sim.start("node1", Start::Events(Vec::new()));
        sim.run_until_rest();
        let (serving, orders, status) = outcome(&sim);
        let held = data(&sim, "node1", DATA);
        let moved = sim.lock().ended("move");
        sim.violations();
        if serving.iter().any(|it| it.starts_with("node1")) {
            wrong.push(format!("lost {lost}: “{held}” {serving:?} {orders:?} {moved:#}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// Consul's servers are lost while a deploy has the application stopped: its run leaves everything. They come back from the snapshot of the night, from before
/// the last deploy. The application was up before, and both versions are there.
#[test]
fn what_a_deploy_had_stopped_runs_again_though_consul_was_put_back_to_before_the_last_one() {
    let mut wrong = Vec::new();
    for (what, order, line, node) in [
        ("stopped", deploy("third", "node1", Some("node2")), "up -d", "node1"),
        ("moved", deploy("third", "node2", Some("node1")), "up -d", "node2"),
    ] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let night = backup(&sim);
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        sim.settle();
        sim.lock().write("node1", DATA, ", orders of tuesday");
        tick(&sim);
        push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
        let act = Act::First(Box::new(move |s: &mut State| {
            s.lose_leader(3_600_000_000);
            s.keys("").iter().for_each(|key| s.store.remove(key));
            night.iter().for_each(|(key, text)| s.store.set(key, text.as_bytes()));
            for node in NODES {
                s.kill(node);
            }
        }));
        sim.fault(move |e| e.node == node && e.line.contains(line), 1, act);
        sim.deliver_all(&[order]);
        assert!(sim.no_faults());
        sim.pass(Duration::from_secs(4000));
        let (serving, orders, status) = outcome(&sim);
        let held = data(&sim, "node1", DATA);
        let third = sim.lock().ended("third");
        sim.violations();
        if serving.len() != 2 || held.contains("WRONG") || !held.contains("tuesday") {
            wrong.push(format!("{what}: “{held}” {serving:?} {orders:?} {third:#}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// A move and the move back; node1's power fails when its journal is past the commit (it gives the containers their policies), for which there is no way back by
/// then. It is off for an hour, and what the proxies had let through is in its volume. Meanwhile Consul is put back to the state from between both.
#[test]
fn what_is_past_its_commit_is_not_undone_though_consul_was_put_back() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    let between = backup(&sim);
    sim.on("node1", "restart=unless-stopped", Act::KillBefore);
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("back", "node1", Some("node2"))])));
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("back")["state"], "done");
    sim.lock().write("node1", DATA, "orders of tuesday");
    sim.power_off("node1");
    put_back(&sim, &between);
    sim.try_settle().ok();
    sim.power_on("node1");
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node1", DATA);
    let back = sim.lock().ended("back");
    sim.violations();
    assert!(held.contains("tuesday") && !status.contains("which failed"), "“{held}” {serving:?} {orders:?} {back:#}\n{status}");
}

/// A destroy is past its commit and has removed the volume when its handler is killed. Consul is put back to the state from before.
#[test]
fn a_destroy_that_is_past_its_commit_starts_nothing_empty_though_consul_was_put_back() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let before = backup(&sim);
    sim.on("node1", "volume rm", Act::KillAfter);
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![destroy("end")])));
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("end")["state"], "done");
    put_back(&sim, &before);
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node1", DATA);
    let end = sim.lock().ended("end");
    sim.violations();
    assert!(serving.is_empty() || held.contains("monday"), "“{held}” {serving:?} {orders:?} {end:#}\n{status}");
}

/// Whether the node is in the middle of something.
fn has_journal(sim: &Sim, node: &str) -> bool {
    sim.disk(node, |disk| disk.paths()).iter().any(|path| path.ends_with("/journal"))
}

/// A destroy, or a move, is past its commit on the old master when its handler is killed; nothing is removed yet. Consul is put back to the state from before.
#[test]
fn what_the_record_needs_once_more_is_not_removed() {
    let mut wrong = Vec::new();
    for order in [destroy("end"), deploy("end", "node2", Some("node3"))] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let before = backup(&sim);
        sim.fault(|e| e.node == "node1" && e.line.contains(" down"), 1, Act::KillBefore);
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![order.clone()])));
        sim.run_until_rest();
        assert!(sim.no_faults());
        assert_eq!(sim.lock().ended("end")["state"], "done");
        put_back(&sim, &before);
        let (serving, orders, status) = outcome(&sim);
        let held = data(&sim, "node1", DATA);
        let told = status.contains("its record names this node as its master, but another node went on with it");
        sim.violations();
        if !held.contains("monday") || !serving.is_empty() || !told || has_journal(&sim, "node1") {
            wrong.push(format!("“{held}” {serving:?} {orders:?}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// A move is written down as done, and the handler is killed before its journal is gone. Consul is put back to the state from before.
#[test]
fn a_journal_of_what_is_done_is_at_its_end() {
    let mut wrong = Vec::new();
    for node in ["node1", "node2"] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let before = backup(&sim);
        sim.fault(move |e| e.node == node && e.line.starts_with("disk remove") && e.line.ends_with("/journal"), 1, Act::KillBefore);
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node3"))])));
        sim.run_until_rest();
        assert!(sim.no_faults());
        assert_eq!(sim.lock().ended("move")["state"], "done");
        assert!(has_journal(&sim, node));
        sim.lock().write("node2", DATA, "orders of tuesday");
        put_back(&sim, &before);
        let (serving, orders, status) = outcome(&sim);
        let held = data(&sim, "node2", DATA);
        let left = NODES.iter().any(|node| has_journal(&sim, node));
        sim.violations();
        if left || !serving.is_empty() || !orders.is_empty() || !held.contains("tuesday") || status.contains("which failed") {
            wrong.push(format!("{node}: “{held}” {serving:?} {orders:?}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// The disk is full from when the containers of a new version have got their policies.
#[test]
fn what_is_done_is_written_down_on_a_full_disk() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let act = Act::First(Box::new(|s: &mut State| s.node("node1").full = true));
    sim.fault(|e| e.node == "node1" && e.line.contains("restart=unless-stopped"), 1, act);
    sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
    assert!(sim.no_faults());
    let done = sim.disk("node1", |disk| disk.read(Path::new(&format!("/deploy/.handler/apps/{APP}/done")), 1 << 20).unwrap());
    let left = has_journal(&sim, "node1");
    sim.lock().node("node1").full = false;
    sim.violations();
    assert!(String::from_utf8(done).unwrap().contains(&id("second")) && !left);
}

/// Consul is saved while an older handler deploys, which writes down nowhere what it has done. Later it is put back to that.
#[test]
fn what_an_older_handler_has_done_is_not_done_once_more() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = saved_at(&sim, "node1", "up -d");
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    assert!(sim.no_faults());
    sim.settle();
    sim.disk("node1", |disk| disk.remove(Path::new(&format!("/deploy/.handler/apps/{APP}/done"))).unwrap());
    sim.lock().write("node1", DATA, "orders of tuesday");
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    put_back_to(&sim, &kept);
    let (serving, orders, status) = outcome(&sim);
    let held = data(&sim, "node1", DATA);
    let second = sim.lock().ended("second");
    sim.violations();
    assert!(
        second["state"] == "done" && held.contains("tuesday") && !held.contains("WRONG"),
        "“{held}” {serving:?} {orders:?} {second:#}\n{status}"
    );
}

/// A deploy on the same node is done; right then the power fails. Consul is put back to the state from before.
#[test]
fn a_power_failure_does_not_forget_the_commit() {
    for seed in 1..=10 {
        let sim = Sim::with_seed(seed, &NODES);
        sim.lock().registry.insert("cache:1".into(), "cache one".into());
        push(&sim, "");
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.settle();
        let before = backup(&sim);
        sim.on("node1", "restart=unless-stopped", Act::KillBefore);
        sim.start("node1", Start::Events(vec![deploy("second", "node1", Some("node2"))]));
        sim.run_until_rest();
        assert!(sim.no_faults());
        sim.lock().write("node1", DATA, "orders of tuesday");
        sim.power_off("node1");
        put_back(&sim, &before);
        sim.power_on("node1");
        let (serving, orders, status) = outcome(&sim);
        let held = data(&sim, "node1", DATA);
        sim.violations();
        assert!(held.contains("tuesday") && !status.contains("which failed"), "{seed}: “{held}” {serving:?} {orders:?}\n{status}");
    }
}

/// What the new master remembers is written, but its disk says that it is not. The next run finds it there, and the power fails before its journal
/// is gone.
#[test]
fn what_is_remembered_by_the_second_try_is_there_after_a_power_failure() {
    let mut wrong = Vec::new();
    for seed in 1..=10 {
        let sim = Sim::with_seed(seed, &NODES);
        sim.lock().registry.insert("cache:1".into(), "cache one".into());
        push(&sim, "");
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.settle();
        let written = Arc::new(AtomicBool::new(false));
        let is_written = written.clone();
        let renamed = |e: &Effect| e.node == "node2" && e.what == "rename" && e.line.ends_with("/state.json");
        sim.fault(renamed, 1, Act::First(Box::new(move |_| written.store(true, Ordering::SeqCst))));
        let syncs = move |e: &Effect| e.node == "node2" && e.what == "sync" && is_written.load(Ordering::SeqCst);
        sim.fault(syncs, 1, Act::Fail("input/output error".to_owned()));
        sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
        sim.fault(|e| e.node == "node2" && e.what == "remove" && e.line.ends_with("/journal"), 1, Act::KillBefore);
        sim.start("node2", Start::Work(APP.to_owned()));
        sim.run_until_rest();
        assert!(sim.no_faults() && sim.lock().ended("move")["state"] == "done" && has_journal(&sim, "node2"));
        sim.power_off("node2");
        sim.power_on("node2");
        let (serving, _, status) = outcome(&sim);
        sim.violations();
        if serving.len() != 2 || status.contains("another node went on") {
            wrong.push(format!("{seed}: {serving:?}\n{status}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}
