//! Stories about sets, confirmation, purge and takeover in which a promise breaks.

use std::time::Duration;

use serde_json::json;

use crate::beside::{HOUR, until};
use crate::others::run;
use crate::sets::{MINUTE, after, held, last, own, replica, tick};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, deploy, deployed, push, push_files};
use crate::world::state::plugin::Subvolume;
use crate::world::state::{Reach, State};
use crate::world::{Act, Cluster, event};

fn data(sim: &Sim, node: &str) -> String {
    sim.lock().volume(node, DATA).unwrap_or_default().replace('|', "")
}

fn snapshots(sim: &Sim, node: &str) -> Vec<String> {
    sim.lock().nodes[node].plugin.snapshots.keys().filter(|name| name.starts_with(&format!("{DATA}@"))).cloned().collect()
}

/// node1 has handed over to node2, whose slave is node3; node3 confirms set after set. node2 dies. A takeover on node1, which lives, starts
/// from what was handed over, though every node knows of a newer confirmed set on node3.
#[test]
fn a_takeover_starts_from_the_newest_confirmed_set_that_any_node_has() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    for day in [" and of tuesday", " and of wednesday", " and of thursday"] {
        sim.lock().write("node2", DATA, day);
        after(&sim, 24 * HOUR);
    }
    assert!(held(&sim, "node3", &last(&sim, "node3")).unwrap().contains("thursday"));
    let status = run(&sim, "node3", Start::Status);
    status.says("replica on node3: confirmed, ");
    sim.power_off("node2");
    let payload = json!({"repo": URL, "branch": "master", "master": "node1"});
    let plan = run(&sim, "node1", Start::Plan("deploy", payload));
    plan.says(&last(&sim, "node3"));
    sim.deliver_all(&[deploy("over", "node1", None)]);
    let over = sim.lock().ended("over");
    assert!(over["state"] != "done" || data(&sim, "node1").contains("thursday"), "“{}” {over:#}", data(&sim, "node1"));
}

/// A set arrives whole, and the answer is lost: its sender calls it void, and dies before the holder has removed it. The takeover starts from the
/// set before; what is newer, and nowhere else, is then removed.
#[test]
fn what_a_dead_master_called_void_does_not_go_after_the_takeover() {
    let mut wrong = Vec::new();
    for reboot in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let first = last(&sim, "node2");
        sim.lock().write("node1", DATA, " and of tuesday");
        if !reboot {
            sim.on("node1", "Snapshot.Send", Act::Lose);
        }
        sim.pass(15 * MINUTE);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        let newer = snapshots(&sim, "node2").pop().unwrap();
        if reboot {
            // A minute later: btrfs has long written what has come. The check of the booted node looks, and its master dies.
            sim.lock().sync_snapshots("node2");
            sim.power_off("node2");
            sim.power_on("node2");
            sim.lock().sync_snapshots("node2");
            sim.start("node2", Start::Events(Vec::new()));
            sim.run_until_rest();
            sim.start("node2", Start::Sets);
            sim.run_until_rest();
        }
        assert!(newer != first && held(&sim, "node2", &newer).unwrap().contains("tuesday"));
        assert_eq!(replica(&sim, "node2")["void"], json!([newer]), "{:#}", replica(&sim, "node2"));
        sim.power_off("node1");
        // Dead for good.
        sim.lock().nodes.remove("node1");
        tick(&sim);
        assert!(held(&sim, "node2", &newer).is_some(), "of a dead one it may be all that there is");
        sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
        let over = sim.lock().ended("over");
        assert_eq!(over["state"], "done", "{over:#}");
        assert!(!data(&sim, "node2").contains("tuesday"));
        tick(&sim);
        let (named, aside) = (over["notes"].to_string().contains(&newer), own(&sim, "node2").contains(&newer));
        let there = held(&sim, "node2", &newer).is_some();
        let violations = sim.violations();
        if !(named && aside && there && violations.is_empty()) {
            wrong.push(format!("reboot {reboot}: named {named}, set aside {aside}, there {there}: {violations:#?} {:#}", over["notes"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// node1's agent has ended, and nothing else of it: its plugin goes on sending. What it sends arrives on node2 when a takeover there has chosen
/// already, and node2's check confirms it before the commit.
#[test]
fn what_is_confirmed_between_the_choice_and_the_commit_is_not_passed_over() {
    let mut wrong = Vec::new();
    for confirmed in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let first = last(&sim, "node2");
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.pass(15 * MINUTE);
        // Told, and being sent.
        let newer = {
            let mut s = sim.lock();
            let record = s.kv(&format!("app/{APP}")).unwrap();
            let set = s.send_set("node1", "node2", &record).unwrap();
            let mut replica = s.kv(&format!("replica/{APP}/node2")).unwrap();
            replica["next"] = set.clone();
            replica["next"]["sent"] = json!(false);
            s.store.set(&format!("replica/{APP}/node2"), replica.to_string().as_bytes());
            set["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned()
        };
        let whole = {
            let mut s = sim.lock();
            let plugin = s.plugin("node2");
            let whole = (plugin.snapshots.insert(newer.clone(), "half".into()).unwrap(), plugin.subvolumes[&newer].clone());
            plugin.subvolumes.insert(newer.clone(), Subvolume { uuid: "torn".into(), ..Subvolume::default() });
            whole
        };
        {
            let mut s = sim.lock();
            s.see("node1", 4);
            s.kill("node1");
            s.two_may_run = true;
            s.node("node1").reach = Reach::Silent;
        }
        tick(&sim);
        assert_eq!(last(&sim, "node2"), first);
        let name = newer.clone();
        let arrives = move |s: &mut State| {
            let plugin = s.plugin("node2");
            plugin.snapshots.insert(name.clone(), whole.0.clone());
            plugin.subvolumes.insert(name.clone(), whole.1.clone());
        };
        sim.on("node2", "up -d", Act::First(Box::new(arrives)));
        sim.on("node2", "agent/service/register", Act::Slow(MINUTE));
        for node in ["node2", "node3"] {
            sim.start(node, Start::Events(vec![deploy("over", "node2", Some("node3"))]));
        }
        until(&sim, "the arrival", || held(&sim, "node2", &newer).is_some_and(|held| held.contains("tuesday")));
        if confirmed {
            sim.start("node2", Start::Sets);
            until(&sim, "the confirmation", || last(&sim, "node2") == newer);
            assert!(sim.lock().ended("over").is_null(), "it is not at its end yet");
        }
        sim.run_until_rest();
        sim.no_faults();
        let over = sim.lock().ended("over");
        let named = over["notes"].to_string().contains(&newer);
        let aside = own(&sim, "node2").contains(&newer);
        let has = data(&sim, "node2").contains("tuesday");
        // What only arrives then is set aside, and status names it.
        if over["state"] == "done" && !has && !(aside && (named || !confirmed)) {
            let now = last(&sim, "node2") == newer;
            wrong.push(format!("confirmed {confirmed}: named {named}, set aside {aside}, is node2's last: {now}; {}", over["notes"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The new version's data is what its update.sh has made of the old one's. The new master dies in the quarter of an hour after the move.
#[test]
fn what_a_move_with_an_update_hands_over_is_not_of_the_new_version() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    push_files(&sim, "", &[("update.sh", "write data ,in-the-new-format")]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node1", "update": true});
    all_well(&sim.deliver_all(&[event("move", "deploy", &payload)]));
    tick(&sim);
    sim.settle();
    assert!(data(&sim, "node2").contains("new-format"));
    after(&sim, 10 * MINUTE);
    let status = run(&sim, "node3", Start::Status);
    let tells = status.stderr.contains("replica on node1: confirmed");
    sim.power_off("node2");
    sim.deliver_all(&[deploy("over", "node1", Some("node3"))]);
    let over = sim.lock().ended("over");
    assert!(
        over["state"] != "done" || data(&sim, "node1").contains("new-format"),
        "status says that it is confirmed: {tells}; “{}” {over:#}",
        data(&sim, "node1")
    );
}

/// The clock of a node is wrong for one set.
#[test]
fn a_clock_that_is_a_year_ahead_for_a_quarter_of_an_hour_purges_nothing() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    let check = |time| {
        sim.pass(time);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
    };
    for _ in 0..6 {
        check(Duration::ZERO);
        sim.lock().write("node1", DATA, ", more");
        sim.pass(2 * HOUR);
    }
    let before = snapshots(&sim, "node1");
    assert_eq!(before.len(), 6);
    sim.lock().node("node1").ahead += 500 * 86_400_000_000;
    check(Duration::ZERO);
    sim.lock().node("node1").ahead -= 500 * 86_400_000_000;
    check(15 * MINUTE);
    let gone: Vec<&String> = before.iter().filter(|name| !snapshots(&sim, "node1").contains(name)).collect();
    assert!(gone.is_empty(), "{} of {}: {gone:#?}", gone.len(), before.len());
}

/// The disk with the handler's files is full, that of the volumes is not.
#[test]
fn what_cannot_be_written_down_does_not_stay_for_ever() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let before = snapshots(&sim, "node1").len();
    sim.lock().node("node1").full = true;
    for _ in 0..10 {
        after(&sim, 30 * MINUTE);
    }
    sim.lock().node("node1").full = false;
    let mut counts = vec![snapshots(&sim, "node1").len()];
    for _ in 0..30 {
        after(&sim, 30 * MINUTE);
    }
    counts.push(snapshots(&sim, "node1").len());
    let book = sim.disk("node1", |disk| disk.read(std::path::Path::new(&format!("/deploy/.handler/apps/{APP}/sets")), 1 << 20)).unwrap();
    let book = String::from_utf8(book).unwrap();
    let unknown = snapshots(&sim, "node1").iter().filter(|name| name.matches('@').count() == 1 && !book.contains(&***name)).count();
    assert!(counts[0] <= before + 1, "before {before}, then {counts:?}; here and not written down: {unknown}");
}

/// A version that does not declare a volume any more is deployed to another node, and taken back there.
#[test]
fn a_volume_that_the_new_version_does_not_declare_is_not_deleted_by_a_move() {
    const EXTRA: &str = "shopmastere4371_extra";
    for moved in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        let with = crate::world::shop::compose("").replace("['data:/data']", "['data:/data', 'extra:/extra']")
            + "  extra: {driver: 'anybox/buttervolume:latest'}\n";
        let commit = |text: &str| sim.lock().commit(URL, "master", &[("docker-compose.yml", text)]);
        commit(&with);
        all_well(&sim.deliver_all(&[deploy("with", "node1", Some("node2"))]));
        sim.lock().write("node1", EXTRA, "invoices");
        push(&sim, "");
        let master = if moved { "node2" } else { "node1" };
        let slave = if moved { "node1" } else { "node2" };
        all_well(&sim.deliver_all(&[deploy("without", master, Some(slave))]));
        sim.settle();
        let stays = sim.lock().volume("node1", EXTRA);
        // Taken back.
        commit(&with);
        all_well(&sim.deliver_all(&[deploy("back", master, Some(slave))]));
        let now = sim.lock().volume(master, EXTRA).unwrap_or_default();
        let back = sim.lock().ended("back");
        assert_eq!((&back["state"], &sim.lock().ended("without")["state"]), (&json!("done"), &json!("done")));
        assert!(now.contains("invoices"), "moved {moved}: node1 {stays:?}, after it was taken back “{now}” {back:#}");
    }
}

/// The master's clock was put back by an hour between two sets: the newer one has an earlier time.
#[test]
fn a_newer_set_is_named_and_set_aside_though_the_clock_was_put_back() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.pass(15 * MINUTE);
    sim.lock().node("node1").ahead -= 3_600_000_000;
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    let next = replica(&sim, "node2")["next"]["snapshots"][DATA]["snapshot"].as_str().unwrap_or_default().to_owned();
    assert!(held(&sim, "node2", &next).is_some_and(|held| held.contains("tuesday")), "{:#}", replica(&sim, "node2"));
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    let over = sim.lock().ended("over");
    assert_eq!(over["state"], "done", "{over:#}");
    let (named, aside) = (over["notes"].to_string().contains(&next), own(&sim, "node2").contains(&next));
    assert!(data(&sim, "node2").contains("tuesday") || named && aside, "named {named}, aside {aside} {over:#}");
}

/// A move fails, and its undo on node2, whose handler is killed right after it has taken the snapshot of what the failed version had made of the
/// data, and before it has written that down. node1 dies; a takeover on node2 is ordered as the refusal says.
#[test]
fn what_a_failed_version_has_made_is_no_replica_though_the_undo_was_killed() {
    let mut wrong = Vec::new();
    for (killed, blind) in [(false, false), (false, true), (true, false), (true, true)] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().nodes.values_mut().for_each(|node| node.ahead = 0);
        sim.lock().node("node2").no_snapshots_seen = blind;
        sim.pass(MINUTE);
        push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
        if killed {
            sim.fault(|e| e.node == "node2" && e.what == "Snapshot", 1, Act::KillAfter);
        }
        sim.deliver_all(&[deploy("bad", "node2", Some("node1"))]);
        assert!(sim.no_faults());
        sim.settle();
        assert_eq!(sim.lock().ended("bad")["state"], "failed");
        assert!(!data(&sim, "node1").contains("WRONG"));
        sim.power_off("node1");
        push(&sim, "");
        sim.deliver_all(&[deploy("over", "node2", None)]);
        let reason = sim.lock().ended("over")["reason"].as_str().unwrap().to_owned();
        sim.deliver_all(&[crate::takeover::offered(&reason, "as told")]);
        assert_eq!(sim.lock().ended("as told")["state"], "done");
        if data(&sim, "node2").contains("WRONG") {
            wrong.push(format!("killed {killed}, blind {blind}: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A version comes up, a client writes to it, it fails. Its undo is killed right after the plugin has restored the old data.
#[test]
fn status_names_what_an_undo_has_taken_back_though_it_was_killed() {
    status_names_it(false);
    status_names_it(true);
}

fn status_names_it(killed: bool) {
    let sim: Sim = deployed(&["node1"], "node1", None);
    push(&sim, "x-standin: {start: unhealthy, writes: ' and of a client'}");
    if killed {
        sim.on("node1", "Snapshot.Restore", Act::KillAfter);
    }
    sim.deliver_all(&[deploy("bad", "node1", None)]);
    assert!(sim.no_faults());
    sim.settle();
    assert_eq!(sim.lock().ended("bad")["state"], "failed");
    assert!(!data(&sim, "node1").contains("client"));
    let kept: Vec<String> =
        snapshots(&sim, "node1").into_iter().filter(|name| held(&sim, "node1", name).unwrap().contains("client")).collect();
    assert!(!kept.is_empty());
    let status = run(&sim, "node1", Start::Status);
    assert!(kept.iter().any(|name| status.stderr.contains(name)), "killed {killed}: {kept:?} in {status}");
}

/// An undo that cannot put the data back is given up; what the failed version has made of it becomes the confirmed set.
#[test]
fn what_a_failed_version_has_made_is_in_no_set_after_a_give_up() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.on_each("node1", "Snapshot.Restore", Act::Fail("no space left".into()));
    sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
    sim.start("node3", Start::Cancel(crate::world::id("bad"), Some("node1")));
    sim.run_until_rest();
    sim.no_faults();
    sim.settle();
    assert_eq!(sim.lock().ended("bad")["state"], "failed");
    after(&sim, 15 * MINUTE);
    let name = last(&sim, "node2");
    let wrong = held(&sim, "node2", &name).unwrap_or_default();
    let serving = sim.lock().serving(PROJECT);
    assert!(!wrong.contains("WRONG"), "the confirmed set {name}: “{wrong}”; serving {serving:?}");
}

// ---- what held

/// The former master is in the middle of a send when it is cut off; it is back, and its send ends.
#[test]
fn held_a_former_master_that_wakes_up_in_a_send_changes_nothing() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.pass(15 * MINUTE);
    sim.on("node1", "Snapshot.Send", Act::Slow(HOUR));
    sim.start("node1", Start::Sets);
    until(&sim, "the set", || !replica(&sim, "node2")["next"].is_null());
    sim.lock().split(&["node1"]);
    crate::attack2::taken_over(&sim);
    sim.run_until_rest();
    sim.settle();
    tick(&sim);
    assert!(!replica(&sim, "node2")["last"].is_null());
    let s = sim.lock();
    let kept = s.nodes["node1"].plugin.volumes.get(DATA).is_some_and(|held| held.contains("tuesday"));
    assert!(kept && s.serving(PROJECT).iter().all(|line| line.starts_with("node2")));
}

/// A master is dead when its application is destroyed; then deploys of it fail, at last so many that the history has forgotten the destroy; it is
/// back.
#[test]
fn a_destroyed_application_does_not_run_where_its_master_comes_back() {
    for failing in [3, 75] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        sim.power_off("node1");
        sim.deliver_all(&[crate::world::shop::destroy("end")]);
        assert_eq!(sim.lock().ended("end")["state"], "done");
        push(&sim, "x-standin: {build: fails}");
        for n in 0..failing {
            sim.deliver_all(&[deploy(&format!("try {n}"), "node3", None)]);
        }
        sim.power_on("node1");
        for _ in 0..3 {
            sim.start("node1", Start::Events(Vec::new()));
            sim.run_until_rest();
        }
        let serving = sim.lock().serving(PROJECT);
        assert!(serving.is_empty(), "after {failing}: {serving:?}; of the destroy the history has {}", sim.lock().ended("end"));
    }
}

/// Between what is sent ahead and what is sent the new master boots, unseen.
#[test]
fn held_a_boot_between_both_sends_of_a_move() {
    for at in ["Snapshot.Send", "(sent)"] {
        for nth in [1, 2] {
            let sim: Sim = deployed(&NODES, "node1", Some("node2"));
            tick(&sim);
            sim.lock().write("node1", DATA, " and of tuesday");
            let reboots = Act::First(Box::new(|s: &mut State| {
                s.die("node2");
                s.revive("node2");
            }));
            sim.fault(move |e| e.node == "node1" && e.line.contains(at), nth, reboots);
            sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
            sim.no_faults();
            sim.settle();
            let ended = sim.lock().ended("move");
            let master = if ended["state"] == "done" { "node2" } else { "node1" };
            assert!(data(&sim, master).contains("tuesday"), "{at} {nth}: {ended:#}");
        }
    }
}

/// Cancelled after it was sent, and the new master killed then.
#[test]
fn held_a_move_that_is_cancelled_after_the_send() {
    for act in [Act::KillBefore, Act::KillAfter] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        sim.lock().write("node1", DATA, " and of tuesday");
        push(&sim, "");
        sim.on("node2", "up -d", act);
        for node in NODES {
            sim.start(node, Start::Events(vec![deploy("move", "node2", Some("node1"))]));
        }
        let order = format!("order/{}", crate::world::id("move"));
        until(&sim, "the send", || sim.lock().kv(&order).is_some_and(|order| order["state"] == "sent"));
        sim.start("node3", Start::Cancel(crate::world::id("move"), None));
        sim.run_until_rest();
        sim.settle();
        let ended = sim.lock().ended("move");
        assert_eq!(ended["state"], "failed", "{ended:#}");
        assert!(data(&sim, "node1").contains("tuesday") && sim.lock().serving(PROJECT).len() == 2);
    }
}
