//! Sequences of failures that have lost data, or stopped what was to run: an undo that fails, an order that is given again, what turns up again
//! later, a node that seems dead and is not. Each story once broke a promise.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use handler::outside::doors::Write;
use serde_json::{Value, json};

use crate::beside::until;
use crate::world::inside::{Disk, Sim, Start};
use crate::world::shop::{
    APP, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, destroy, migrate, push, push_files, shop, with_copy,
};
use crate::world::{Act, Cluster, Kind, Run, State, event, id};

// ---- what the stories look at

/// One run of the handler on this node, to its end; nobody starts it again.
fn run(sim: &Sim, node: &str, events: &[Value]) -> Run {
    sim.ended();
    sim.start(node, Start::Events(events.to_vec()));
    sim.run_until_rest();
    sim.ended().remove(0)
}

/// An order as it stands, open or in the history.
fn order(sim: &Sim, word: &str) -> Value {
    let open = sim.lock().kv(&format!("order/{}", id(word)));
    open.unwrap_or_else(|| sim.lock().ended(word))
}

#[track_caller]
fn assert_ended(sim: &Sim, word: &str, state: &str, why: &str) {
    let ended = sim.lock().ended(word);
    assert_eq!(ended["state"], state, "{ended:#}");
    let reason = ended["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(why), "“{why}” expected in “{reason}”");
}

/// The orders that a node has a journal of; of one that was given up the name of its file.
fn journals(sim: &Sim, node: &str) -> Vec<String> {
    let of = |disk: &mut Disk, path: &str| {
        let (_, file) = path.strip_prefix("/deploy/.handler/apps/")?.split_once('/')?;
        if file != "journal" {
            return file.ends_with(".given-up").then(|| file.to_owned());
        }
        let text = disk.read(Path::new(path), 1 << 20).unwrap();
        let header: Value = serde_json::from_slice(text.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
        Some(header["order"]["id"].as_str().unwrap().to_owned())
    };
    sim.disk(node, |disk| disk.paths().iter().filter_map(|path| of(disk, path)).collect())
}

fn data(sim: &Sim, node: &str) -> Option<String> {
    sim.lock().volume(node, DATA).map(|content| content.replace('|', ""))
}

/// Whether a volume or a snapshot of this node has the text.
fn kept(sim: &Sim, node: &str, text: &str) -> bool {
    let s = sim.lock();
    let plugin = &s.nodes[node].plugin;
    plugin.volumes.values().chain(plugin.snapshots.values()).any(|content| content.contains(text))
}

/// Both containers serve, on this node only, and the record says so.
#[track_caller]
fn assert_serves(sim: &Sim, node: &str) {
    let s = sim.lock();
    let serving = s.serving(PROJECT);
    assert!(serving.len() == 2 && serving.iter().all(|line| line.starts_with(node)), "{node} is to serve: {serving:?}");
    assert_eq!(s.kv(&format!("app/{APP}")).unwrap()["master"], node);
}

/// No open order, no journal but those that a person has given up, one that serves.
#[track_caller]
fn assert_rest(sim: &Sim, node: &str) {
    assert_serves(sim, node);
    assert_eq!(sim.lock().keys("order/"), [""; 0]);
    assert_eq!(sim.lock().keys("maintenance/"), [""; 0]);
    for node in NODES.iter().filter(|node| sim.lock().nodes.contains_key(**node)) {
        let left: Vec<String> = journals(sim, node).into_iter().filter(|name| !name.ends_with(".given-up")).collect();
        assert_eq!(left, [""; 0], "journals of {node}");
    }
}

fn update(word: &str) -> Value {
    event(word, "deploy", &json!({"repo": URL, "branch": "master", "master": "node1", "update": true}))
}

fn first(act: impl FnMut(&mut State) + Send + 'static) -> Act {
    Act::First(Box::new(act))
}

// ---- an undo that fails

/// An undo that can never end keeps its journal; its node dies, another takes over, and the one that returns with its containers is fenced all
/// the same.
#[test]
fn a_journal_that_cannot_end_keeps_nobody_from_being_fenced() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    push(&sim, "");
    sim.lock().plugin("node1").paused = true;
    sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
    assert_eq!(order(&sim, "second")["state"], "failed");
    assert_eq!(journals(&sim, "node1"), [id("second")]);
    assert_serves(&sim, "node1");
    sim.power_off("node1");
    sim.deliver_all(&[deploy("third", "node2", Some("node3"))]);
    sim.try_settle().ok(); // the watch on orders: the one before it has gone into the history
    assert_ended(&sim, "third", "done", "");
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.power_on("node1");
    assert_eq!(sim.lock().serving(PROJECT).len(), 4, "its engine has started it");
    run(&sim, "node1", &[]);
    assert_serves(&sim, "node2");
    sim.lock().plugin("node1").paused = false;
    sim.settle();
    assert_rest(&sim, "node2");
    assert_eq!(data(&sim, "node2").unwrap(), "orders of monday and of tuesday");
    assert!(kept(&sim, "node1", "monday"));
}

/// A newer handler's journal, perhaps: its application is not touched, but does not run beside its master.
#[test]
fn a_journal_that_nobody_can_read_keeps_nobody_from_being_fenced() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    let (path, text) = (format!("/deploy/.handler/apps/{APP}/journal"), json!({"format": 99, "order": {"name": APP}}).to_string());
    sim.disk("node1", |disk| disk.write(Path::new(&path), text.as_bytes(), Write::Over, true).unwrap());
    sim.pass(Duration::from_secs(60));
    sim.power_off("node1");
    sim.deliver_all(&[deploy("second", "node2", Some("node3"))]);
    assert_ended(&sim, "second", "done", "");
    sim.power_on("node1");
    assert_eq!(sim.lock().serving(PROJECT).len(), 4, "its engine has started it");
    run(&sim, "node1", &[]).exits(1);
    assert_serves(&sim, "node2");
}

/// A move fails, and so does its undo, for ever, but the old version serves again. The operator gives it again, at first in vain, then gives
/// the undo up; it succeeds, and the old undo is never replayed over what runs.
fn a_move_whose_undo_cannot_end(hold: impl Fn(&Sim), let_go: impl Fn(&Sim)) {
    let sim: Sim = deployed(&NODES, "node1", Some("node3"));
    push(&sim, "x-standin: {start: unhealthy}");
    hold(&sim);
    sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    sim.try_settle().ok();
    assert_eq!(order(&sim, "second")["state"], "failed");
    assert_eq!(sim.lock().ended("second"), Value::Null, "not archived before it is undone");
    assert_eq!(journals(&sim, "node2"), [id("second")]);
    // Whatever cannot be removed: what the move had started is down, so the old version serves again.
    assert_serves(&sim, "node1");
    push(&sim, "");
    sim.deliver_all(&[deploy("third", "node2", Some("node1"))]);
    sim.try_settle().ok();
    assert_eq!(order(&sim, "third")["progress"], json!({}), "nobody takes it while the undo is pending");
    assert_eq!(data(&sim, "node1").unwrap(), "orders of monday");
    sim.start("node3", Start::Cancel(id("second"), Some("node2")));
    sim.run_until_rest();
    // Consul's watch on orders: the other node, too, hears of each change.
    sim.start("node2", Start::Events(Vec::new()));
    sim.start("node1", Start::Events(Vec::new()));
    sim.start_later("node2", Start::Events(Vec::new()), Duration::from_secs(60));
    sim.run_until_rest();
    sim.settle();
    assert_ended(&sim, "second", "failed", "unhealthy");
    let notes = sim.lock().ended("second")["notes"].clone();
    assert!(notes[0].as_str().unwrap().starts_with("undoing it on node2 failed: \"start the application\": "), "{notes}");
    assert_eq!(notes[1], "undo given up on node2");
    assert_ended(&sim, "third", "done", "");
    assert_rest(&sim, "node2");
    assert_eq!(journals(&sim, "node2"), [format!("{}.given-up", id("second"))]);
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.settle();
    let_go(&sim);
    sim.settle();
    assert_rest(&sim, "node2");
    assert_eq!(data(&sim, "node2").unwrap(), "orders of monday and of tuesday");
    assert_eq!(data(&sim, "node1"), None);
    assert!(kept(&sim, "node1", "monday"));
}

/// Something is connected to the application's network, which so cannot be removed; its containers are gone.
#[test]
fn a_move_whose_network_cannot_be_removed_is_given_again() {
    let hold = |sim: &Sim| {
        sim.lock().engine("node2").held_networks.insert(PROJECT.to_owned());
    };
    a_move_whose_undo_cannot_end(hold, |sim| sim.lock().engine("node2").held_networks.clear());
}

/// The engine does not remove anything: the failed version's containers stay.
#[test]
fn a_move_whose_containers_cannot_be_removed_is_given_again() {
    let hold = |sim: &Sim| sim.on_each("node2", " down", Act::Fail("network shop_default has active endpoints".to_owned()));
    a_move_whose_undo_cannot_end(hold, |sim| {
        sim.no_faults();
    });
}

/// The old master cannot remove a volume that somebody else uses; the application comes back to it, and what was still to be removed is
/// the live volume now.
#[test]
fn a_stale_remove_is_not_replayed_over_a_live_master() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().plugin("node1").held.insert(DATA.to_owned());
    sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    assert_ended(&sim, "second", "done", "");
    let path = format!("/deploy/.handler/apps/{APP}/journal");
    let journal = sim.disk("node1", |disk| disk.read(Path::new(&path), 1 << 20).unwrap());
    sim.lock().write("node2", DATA, " and of tuesday");
    // It goes nowhere while the first is not at its end there.
    sim.deliver_all(&[deploy("third", "node1", Some("node2"))]);
    sim.try_settle().ok();
    assert_serves(&sim, "node2");
    assert_eq!(data(&sim, "node2").unwrap(), "orders of monday and of tuesday");
    sim.lock().plugin("node1").held.clear();
    sim.settle();
    if order(&sim, "third")["state"] != "done" {
        all_well(&sim.deliver_all(&[deploy("fourth", "node1", Some("node2"))]));
    }
    sim.settle();
    assert_rest(&sim, "node1");
    sim.lock().write("node1", DATA, " and of wednesday");
    // As if it had never gone away: a disk that forgets, a folder from a backup.
    sim.disk("node1", |disk| disk.write(Path::new(&path), &journal, Write::Over, true).unwrap());
    sim.settle();
    assert_rest(&sim, "node1");
    assert_eq!(data(&sim, "node1").unwrap(), "orders of monday and of tuesday and of wednesday");
}

/// A redeploy is killed in the middle, the undo fails at the next start, the order is still open: the same run must not take it anew, over the
/// only way back.
#[test]
fn a_resumed_undo_that_fails_keeps_the_way_back() {
    let broken = |sim: &Sim| (1..=3).for_each(|nth| sim.fault(|e| e.what == "Snapshot.Restore", nth, Act::Fail("busy".to_owned())));
    let away = |sim: &Sim| sim.lock().node("node1").has_plugin = false;
    let healed = |sim: &Sim| {
        sim.no_faults();
    };
    for (breaks, heals) in
        [(&broken as &dyn Fn(&Sim), &healed as &dyn Fn(&Sim)), (&away, &|sim: &Sim| sim.lock().node("node1").has_plugin = true)]
    {
        let sim: Sim = deployed(&["node1"], "node1", None);
        push_files(&sim, "x-standin: {start: unhealthy}", &[("update.sh", "write data HALF-UPGRADED")]);
        sim.on("node1", "up -d", Act::KillAfter);
        assert_eq!(run(&sim, "node1", &[update("two")]).status, None);
        breaks(&sim);
        run(&sim, "node1", &[]).exits(1);
        assert_eq!(journals(&sim, "node1"), [id("two")]);
        let clones = sim.lock().log.iter().filter(|e| e.what == "git clone").count();
        assert_eq!(clones, 1, "not taken anew before it is undone");
        heals(&sim);
        sim.settle();
        assert_rest(&sim, "node1");
        assert_ended(&sim, "two", "failed", "unhealthy");
        assert_eq!(data(&sim, "node1").unwrap(), "orders of monday");
    }
}

/// Somebody changes the record by hand in the middle of the switch: nothing was deployed since, so that the old version comes back.
#[test]
fn a_record_that_a_person_has_touched_leaves_nothing_stopped() {
    for killed in [false, true] {
        for to in ["node1", "node2"] {
            let sim: Sim = deployed(&NODES, "node1", Some("node2"));
            let state = |sim: &Sim| {
                sim.state().lines().filter(|line| !line.starts_with("app/")).map(|line| line.to_owned() + "\n").collect::<String>()
            };
            let before = state(&sim);
            push(&sim, "");
            sim.on(
                to,
                "up -d",
                first(|s| {
                    let key = format!("app/{APP}");
                    let mut record = s.kv(&key).unwrap();
                    record["note"] = "mine".into();
                    s.store.set(&key, record.to_string().as_bytes());
                }),
            );
            if killed {
                sim.on(to, "agent/service/register", Act::KillAfter);
            }
            sim.deliver_all(&[deploy("second", to, Some(if to == "node1" { "node2" } else { "node1" }))]);
            assert!(sim.no_faults());
            sim.settle();
            assert_ended(&sim, "second", "failed", "was changed by somebody else");
            assert_rest(&sim, "node1");
            assert_eq!(state(&sim), before);
        }
    }
}

/// The undo cannot ask Compose: that is no reason to believe that there is nothing to start. It is tried again, and the old version is up.
#[test]
fn an_undo_that_cannot_ask_compose_is_tried_again() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    let before = sim.state();
    push(&sim, "x-standin: {start: unhealthy}");
    sim.on("node1", "engine tag", Act::KillAfter);
    assert_eq!(run(&sim, "node1", &[deploy("two", "node1", None)]).status, None);
    sim.on("node1", "version --short", Act::Fail("docker-compose: out of memory".to_owned()));
    run(&sim, "node1", &[]);
    assert!(sim.no_faults());
    sim.settle();
    assert_ended(&sim, "two", "failed", "unhealthy");
    assert_rest(&sim, "node1");
    assert_eq!(sim.state(), before);
}

/// Killed after it had registered the service; what was healthy is started again, and that fails: the service goes with the rest.
#[test]
fn what_came_after_a_start_is_undone_when_the_second_start_fails() {
    let sim: Sim = shop(&["node1"]);
    let before = sim.state();
    sim.on("node1", "agent/service/register", Act::KillAfter);
    assert_eq!(run(&sim, "node1", &[deploy("first", "node1", None)]).status, None);
    sim.on("node1", "up -d", Act::Fail("no space left on device".to_owned()));
    run(&sim, "node1", &[]);
    assert!(sim.no_faults());
    sim.settle();
    assert_ended(&sim, "first", "failed", "no space left");
    assert_eq!(sim.state(), before);
}

// ---- what looks like something else

/// The plugin says once, at the switch, that there is no such volume: the move fails, instead of going on without the data.
#[test]
fn a_volume_that_is_not_found_once_is_not_left_behind() {
    for to in ["node1", "node2"] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        let before = sim.state();
        push(&sim, "");
        // A redeploy has looked before.
        let at = if to == "node1" { "git clone" } else { " stop" };
        let blinks = if to == "node1" { 2 } else { 1 };
        sim.on("node1", at, first(move |s| s.plugin("node1").blind = blinks));
        sim.deliver_all(&[deploy("second", to, Some("node2").filter(|_| to == "node1"))]);
        assert!(sim.no_faults());
        sim.settle();
        assert_ended(&sim, "second", "failed", DATA);
        assert_rest(&sim, "node1");
        assert_eq!(sim.state(), before);
    }
}

/// The old master reboots after it has sent, and its application is one that always comes back: it does not, so nobody writes what the move
/// would delete.
#[test]
fn a_source_that_reboots_starts_nothing_by_itself() {
    for policy in ["always", "unless-stopped"] {
        let sim: Sim = shop(&NODES);
        let text = compose("").replace("unless-stopped", policy);
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.lock().write("node1", DATA, "orders of monday");
        sim.settle();
        sim.on(
            "node2",
            "up -d",
            first(|s| {
                s.die("node1");
                s.revive("node1");
                let runs = s.serving(PROJECT);
                assert!(runs.is_empty(), "{runs:?}");
            }),
        );
        sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        assert!(sim.no_faults());
        sim.settle();
        assert_ended(&sim, "second", "done", "");
        assert_rest(&sim, "node2");
        assert_eq!(data(&sim, "node2").unwrap(), "orders of monday");
        let comes_back = sim.lock().engine("node2").containers.iter().all(|c| c.restart == policy);
        assert!(comes_back, "the commit gives the policies back");
    }
}

/// The old master's handler is killed after it has sent: it waits on, and starts nothing beside the new version.
#[test]
fn a_source_that_was_killed_after_it_had_sent_waits_on() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.on("node2", "agent/service/register", Act::Slow(Duration::from_secs(60)));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("second", "node2", Some("node1"))])));
    until(&sim, "the start on node2", || sim.lock().serving(PROJECT).iter().any(|line| line.starts_with("node2")));
    sim.kill("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.settle();
    assert_ended(&sim, "second", "done", "");
    assert_rest(&sim, "node2");
    assert_eq!(sim.violations(), [""; 0]);
}

/// The power fails in the middle of the first deploy of which a node hears: the journal is not lost with the folder that was made for it.
#[test]
fn a_journal_is_not_lost_with_a_new_folder() {
    for at in ["git clone", " config", "pull", "build", "up -d", "agent/service/register"] {
        let sim: Sim = shop(&["node1"]);
        sim.on("node1", at, first(|s| s.die("node1")));
        run(&sim, "node1", &[deploy("first", "node1", None)]);
        assert!(sim.no_faults(), "{at}");
        assert_eq!(journals(&sim, "node1"), [id("first")], "{at}");
        sim.power_on("node1");
        sim.settle();
        assert_rest(&sim, "node1");
    }
}

/// Killed right after the commit, and what Consul knew of the order is gone, or all of it: who cannot tell whether it was done removes nothing.
#[test]
fn an_order_that_nobody_remembers_takes_nothing_with_it() {
    for gone in [&["order/", "history/"] as &[&str], &[""]] {
        let sim: Sim = shop(&["node1"]);
        sim.on("node1", "cas app/", Act::KillAfter);
        assert_eq!(run(&sim, "node1", &[deploy("first", "node1", None)]).status, None);
        sim.lock().write("node1", DATA, "orders of monday");
        let keys: Vec<String> = gone.iter().flat_map(|prefix| sim.lock().keys(prefix)).collect();
        keys.iter().for_each(|key| sim.lock().store.remove(key));
        sim.try_settle().ok();
        assert_eq!(sim.lock().serving(PROJECT).len(), 2, "{gone:?}");
        assert_eq!(data(&sim, "node1").unwrap(), "orders of monday", "{gone:?}");
        assert_eq!(journals(&sim, "node1"), [""; 0]);
    }
}

/// Destroyed once and deployed again since: when its record vanishes, the old destroy is no reason to stop it.
#[test]
fn an_old_destroy_says_nothing_of_a_record_that_vanished() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    all_well(&sim.deliver_all(&[destroy("end")]));
    sim.settle();
    all_well(&sim.deliver_all(&[deploy("again", "node1", Some("node2"))]));
    sim.lock().write("node1", DATA, "orders of tuesday");
    sim.settle();
    let key = format!("app/{APP}");
    let record = sim.lock().store.text(&key).unwrap();
    sim.lock().store.remove(&key);
    sim.try_settle().ok();
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    assert_eq!(data(&sim, "node1").unwrap(), "orders of tuesday");
    sim.lock().store.set(&key, record.as_bytes());
    sim.settle();
    assert_rest(&sim, "node1");
}

/// The old master returns without its state file: what must not run is known by what runs.
#[test]
fn a_returning_master_that_remembers_nothing_is_fenced() {
    for policy in ["unless-stopped", "no"] {
        let sim: Sim = shop(&NODES);
        let text = compose("").replace("unless-stopped", &format!("'{policy}'"));
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.lock().write("node1", DATA, "orders of monday");
        sim.settle();
        sim.lock().replicate("node1");
        sim.lock().write("node1", DATA, " and of the last hour");
        sim.power_off("node1");
        sim.deliver_all(&[deploy("second", "node2", Some("node3"))]);
        sim.disk("node1", |disk| disk.remove(Path::new("/deploy/.handler/apps/shop_master.e4371/state.json")).unwrap());
        sim.power_on("node1");
        run(&sim, "node1", &[]);
        assert_serves(&sim, "node2");
        sim.settle();
        assert_rest(&sim, "node2");
        assert!(kept(&sim, "node1", "the last hour"));
        let dangerous = sim.lock().engine("node1").containers.iter().any(|c| c.comes_back());
        assert!(!dangerous);
    }
}

/// git says something else than a commit, and that all went well: it does not come into the record, from which no slave could clone it.
#[test]
fn what_is_no_commit_is_not_recorded_as_one() {
    let sim: Sim = shop(&NODES);
    sim.on("node1", "git rev-parse", Act::Garble("<html>502 Bad Gateway</html>"));
    sim.deliver_all(&[deploy("first", "node1", Some("node2"))]);
    sim.settle();
    assert_ended(&sim, "first", "failed", "git rev-parse");
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    assert_rest(&sim, "node1");
}

/// Killed right after its commit, and gone on without: the application is destroyed before it remembers that it is its master. It knows by
/// its journal what is to be fenced. That Compose does not answer says nothing of its volumes.
#[test]
fn a_master_that_has_not_remembered_that_it_is_one_is_fenced_as_a_whole() {
    for (from, answers) in [(None, true), (Some("node1"), true), (None, false)] {
        let sim: Sim = if from.is_some() { deployed(&NODES, "node1", Some("node2")) } else { shop(&NODES) };
        sim.on("node2", "cas app/", Act::KillAfter);
        for node in NODES.into_iter().filter(|node| *node == "node2" || from == Some(*node)) {
            sim.start(node, Start::Events(vec![deploy("two", "node2", Some("node3"))]));
        }
        sim.run_until_rest();
        assert_eq!(sim.lock().ended("two")["state"], "done");
        sim.lock().split(&["node2"]);
        sim.start("node3", Start::Events(vec![destroy("end")]));
        sim.run_until_rest();
        assert_ended(&sim, "end", "done", "");
        sim.lock().heal();
        if !answers {
            sim.on("node2", "version --short", Act::Fail("docker-compose: out of memory".to_owned()));
        }
        sim.settle();
        assert!(sim.no_faults());
        let s = sim.lock();
        let left = &s.nodes["node2"];
        assert!(!left.engine.containers.iter().any(|c| c.running || c.comes_back()), "{from:?}");
        assert!(left.services.is_empty() && left.plugin.schedules.is_empty(), "{from:?}: {:?} {:?}", left.services, left.plugin.schedules);
    }
}

// ---- who is alive

/// The master seems dead to the new one for the moment in which the move is planned: it does not lose its last hour to an old replica.
#[test]
fn a_move_is_no_takeover_because_somebody_seems_dead() {
    for all_hear in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().replicate("node1");
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.lock().node("node2").sees.insert("node1".to_owned(), 4);
        sim.on("node2", "git clone", first(|s| s.node("node2").sees.clear()));
        let move_it = [deploy("second", "node2", Some("node1"))];
        if all_hear {
            sim.deliver_all(&move_it);
        } else {
            run(&sim, "node2", &move_it);
        }
        assert!(sim.no_faults());
        sim.settle();
        let ended = sim.lock().ended("second");
        let master = if ended["state"] == "done" { "node2" } else { "node1" };
        if master == "node1" {
            assert_ended(&sim, "second", "failed", "lives after all");
        }
        assert_rest(&sim, master);
        assert_eq!(data(&sim, master).unwrap(), "orders of monday and of tuesday");
    }
}

/// Another takes over while the master, which seems dead, waits to take the application back: it is fenced by the record of that moment first.
#[test]
fn a_master_is_fenced_before_it_takes_back_what_another_has_taken_over() {
    let sim: Sim = deployed(&NODES, "node2", Some("node1"));
    sim.lock().replicate("node2");
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.lock().two_may_run = true;
    sim.lock().node("node1").sees.insert("node2".to_owned(), 4);
    let (over, back) = (deploy("over", "node1", Some("node2")), deploy("back", "node2", Some("node1")));
    sim.start("node1", Start::Events(vec![over.clone()]));
    while order(&sim, "over")["origin"].is_null() {
        sim.steps(1);
    }
    sim.on("node1", "cas app/", first(|s| s.node("node1").sees.clear()));
    sim.start("node2", Start::Events(vec![over, back]));
    sim.start_later("node1", Start::Events(Vec::new()), Duration::from_secs(60));
    sim.run_until_rest();
    sim.settle();
    assert_ended(&sim, "over", "done", "");
    assert_ended(&sim, "back", "done", "");
    assert_rest(&sim, "node2");
    assert!(kept(&sim, "node2", "tuesday"));
    assert_eq!(sim.violations(), [""; 0]);
}

/// The same, right after its worker has looked whether it is to be fenced.
#[test]
fn a_master_is_fenced_by_the_record_that_it_takes_an_order_on() {
    let sim: Sim = deployed(&NODES, "node2", Some("node1"));
    sim.lock().replicate("node2");
    sim.lock().two_may_run = true;
    sim.lock().node("node1").sees.insert("node2".to_owned(), 4);
    sim.start("node1", Start::Events(vec![deploy("over", "node1", Some("node2"))]));
    until(&sim, "the takeover", || !order(&sim, "over")["origin"].is_null());
    sim.on("node1", "cas app/", first(|s| s.node("node1").sees.clear()));
    sim.start("node3", Start::Events(vec![deploy("back", "node2", Some("node1"))]));
    sim.on("node2", "engine GET containers", Act::Slow(Duration::from_secs(300)));
    sim.start("node2", Start::Work(APP.to_owned()));
    until(&sim, "the way back", || !order(&sim, "back")["owner"].is_null());
    assert_serves(&sim, "node1");
    sim.run_until_rest();
    sim.settle();
    assert_ended(&sim, "over", "done", "");
    assert_ended(&sim, "back", "done", "");
    assert_rest(&sim, "node2");
}

/// The master seems dead for a while in the middle of a move, at one step after the other: it stays a move, or fails.
#[test]
fn a_move_that_has_begun_stays_a_move() {
    for (from, until) in
        [("git clone", "build"), ("build", "(ready)"), ("build", "Snapshot.Restore"), ("(ready)", "up -d"), ("up -d", "cas app/")]
    {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().replicate("node1");
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.on(
            "node2",
            from,
            first(|s| {
                s.node("node2").sees.insert("node1".to_owned(), 4);
            }),
        );
        sim.on("node2", until, first(|s| s.node("node2").sees.clear()));
        sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        sim.no_faults();
        sim.lock().node("node2").sees.clear();
        sim.settle();
        let ended = sim.lock().ended("second");
        let master = if ended["state"] == "done" { "node2" } else { "node1" };
        assert_rest(&sim, master);
        assert_eq!(data(&sim, master).unwrap(), "orders of monday and of tuesday", "from {from} until {until}: {ended:#}");
    }
}

/// A takeover takes its time; the master comes back meanwhile and is written to: the takeover fails, and the master keeps its data.
#[test]
fn a_master_that_lives_after_all_keeps_its_data() {
    for at in ["build", "up -d", "agent/service/register"] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().replicate("node1");
        sim.power_off("node1");
        sim.on(
            "node2",
            at,
            first(|s| {
                s.revive("node1");
                s.write("node1", DATA, " and after the return");
            }),
        );
        sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        assert!(sim.no_faults());
        sim.settle();
        assert_ended(&sim, "second", "failed", "lives after all");
        assert_rest(&sim, "node1");
        assert_eq!(data(&sim, "node1").unwrap(), "orders of monday and after the return", "{at}");
    }
}

// ---- names, clocks, room

/// Two branches with one name: neither deploy nor destroy of the one touches the other.
#[test]
fn two_branches_with_one_name_are_not_one_application() {
    let sim: Sim = Sim::new(&["node1"]);
    sim.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    for branch in ["feature/x", "feature-x"] {
        sim.lock().commit(URL, branch, &[("docker-compose.yml", &compose(""))]);
    }
    let of = |word: &str, what: &str, branch: &str| event(word, what, &json!({"repo": URL, "branch": branch, "master": "node1"}));
    let end = |word: &str, branch: &str| event(word, "destroy", &json!({"repo": URL, "branch": branch}));
    all_well(&sim.deliver_all(&[of("a", "deploy", "feature/x")]));
    sim.settle();
    let before = sim.state();
    sim.deliver_all(&[of("b", "deploy", "feature-x")]);
    sim.deliver_all(&[end("c", "feature-x")]);
    sim.settle();
    assert_ended(&sim, "b", "failed", "feature-x");
    assert_ended(&sim, "c", "failed", "feature-x");
    assert_eq!(sim.state(), before);
    all_well(&sim.deliver_all(&[end("d", "feature/x")]));
}

/// The disk is full from some call of a redeploy on: no run can write a journal then; when there is room again everything comes to rest by
/// itself, with the data.
#[test]
fn a_full_disk_leaves_nothing_down_for_good() {
    for at in ["git clone", " config", "build", " stop", "Snapshot", "up -d", "agent/service/register", "cas app/"] {
        let sim: Sim = deployed(&["node1"], "node1", None);
        push_files(&sim, "x-standin: {writes: ', upgraded'}", &[("update.sh", "write data ,more")]);
        let full = Arc::new(AtomicBool::new(false));
        let (fills, is_full) = (full.clone(), full.clone());
        let writes = move |what: &str| ["write", "create"].contains(&what) && is_full.load(Ordering::SeqCst);
        sim.on("node1", at, first(move |_| fills.store(true, Ordering::SeqCst)));
        sim.fault(move |e| e.kind == Kind::Disk && writes(&e.what), 0, Act::Fail("No space left on device".to_owned()));
        run(&sim, "node1", &[update("two")]);
        run(&sim, "node1", &[]);
        full.store(false, Ordering::SeqCst);
        sim.no_faults();
        sim.settle();
        assert_rest(&sim, "node1");
        let ended = sim.lock().ended("two");
        let wanted = if ended["state"] == "done" { "orders of monday,more, upgraded" } else { "orders of monday" };
        assert_eq!(data(&sim, "node1").unwrap(), wanted, "{at}: {ended:#}");
    }
}

/// The master of a migrate's target dies once the source has sent: the source is not blocked by it, and the target neither once its master
/// is back.
#[test]
fn a_migrate_whose_target_dies_does_not_block_its_source() {
    for at in ["Snapshot.Restore", "Snapshot", "up -d"] {
        let (sim, project, copy) = with_copy::<Sim>("node3", "", &[]);
        sim.on("node3", at, first(|s| s.die("node3")));
        sim.deliver_all(&[migrate("m")]);
        assert!(sim.no_faults(), "{at}");
        sim.pass(Duration::from_secs(900));
        sim.deliver_all(&[]);
        push(&sim, "");
        sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
        assert_ended(&sim, "second", "done", "");
        sim.power_on("node3");
        sim.settle();
        assert_rest(&sim, "node1");
        assert_eq!(sim.lock().serving(&project).len(), 2, "{at}");
        let state = sim.lock().ended("m")["state"].clone();
        assert_eq!(state, "failed", "{at}");
        assert_eq!(sim.lock().volume("node3", &copy).unwrap().replace('|', ""), "old copy", "{at}");
    }
}

// ---- through the door

/// Besides the data an ordinary volume with files, and one that is labelled disposable.
fn with_ordinary_volumes() -> Sim {
    let sim: Sim = shop(&NODES);
    let more = "  files: {}\n  thumbs: {labels: {com.github.mlfmonde.cluster.disposable: 'true'}}\n";
    let text = compose("").replace("'data:/data'", "'data:/data', 'files:/files', 'thumbs:/thumbs'") + more;
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.lock().write("node1", DATA, "orders of monday");
    sim.settle();
    sim
}

fn ordinary(sim: &Sim, node: &str) -> Vec<String> {
    let s = sim.lock();
    s.nodes[node].engine.volumes.keys().filter(|name| *name != DATA).map(|name| name.replace(PROJECT, "")).collect()
}

/// Neither a move nor a destroy deletes an ordinary volume, of which nobody has a copy; a disposable one goes.
#[test]
fn ordinary_volumes_stay_and_are_named() {
    for (word, leaves) in [("second", deploy("second", "node2", Some("node1"))), ("end", destroy("end"))] {
        let sim = with_ordinary_volumes();
        assert_eq!(ordinary(&sim, "node1"), ["_files", "_thumbs"]);
        let runs = sim.deliver_all(&[leaves]);
        sim.settle();
        assert_ended(&sim, word, "done", "");
        assert_eq!(ordinary(&sim, "node1"), ["_files"], "{word}");
        assert_eq!(data(&sim, "node1"), None);
        assert!(kept(&sim, "node1", "monday"));
        let said = format!("docker volume rm {PROJECT}_files");
        assert!(runs.iter().any(|run| run.node == "node1" && run.stderr.contains(&said)), "{said}");
    }
}

/// A move that fails takes back the volumes that it has made, and leaves those that were there.
#[test]
fn a_move_that_fails_leaves_the_ordinary_volumes_that_were_there() {
    let sim = with_ordinary_volumes();
    all_well(&sim.deliver_all(&[deploy("second", "node2", Some("node1"))]));
    sim.settle();
    push(&sim, "x-standin: {start: unhealthy}");
    sim.deliver_all(&[deploy("third", "node1", Some("node2"))]);
    sim.settle();
    assert_ended(&sim, "third", "failed", "unhealthy");
    assert_rest(&sim, "node2");
    assert_eq!(ordinary(&sim, "node1"), ["_files"]);
    assert_eq!(ordinary(&sim, "node2"), ["_files", "_thumbs"]);
}

/// A restore that replaces a volume and names no backup has lost something, or looked wrongly: the move goes no further.
#[test]
fn a_restore_that_names_no_backup_is_an_error() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.power_off("node1");
    sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    sim.power_on("node1");
    sim.settle();
    sim.lock().write("node2", DATA, " and of tuesday");
    assert!(data(&sim, "node1").is_some(), "fenced, and kept");
    sim.lock().plugin("node1").nameless = true;
    sim.deliver_all(&[deploy("third", "node1", Some("node2"))]);
    sim.settle();
    assert_ended(&sim, "third", "failed", DATA);
    assert_rest(&sim, "node2");
    assert_eq!(data(&sim, "node2").unwrap(), "orders of monday and of tuesday");
    sim.lock().plugin("node1").nameless = false;
    all_well(&sim.deliver_all(&[deploy("fourth", "node1", Some("node2"))]));
    sim.settle();
    assert_rest(&sim, "node1");
    assert_eq!(data(&sim, "node1").unwrap(), "orders of monday and of tuesday");
}
