//! Sets: taken, sent, confirmed, kept and purged; and what becomes of them when something fails in between.

use std::time::Duration;

use serde_json::{Value, json};

use crate::beside::{HOUR, until};
use crate::sets::{MINUTE, after, last, reboot, replica, tick};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, deploy, deployed, push, shop};
use crate::world::state::State;
use crate::world::{Act, Cluster, event, id};

fn snapshots(sim: &Sim, node: &str) -> Vec<String> {
    sim.lock().nodes[node].plugin.snapshots.keys().filter(|name| name.starts_with(&format!("{DATA}@"))).cloned().collect()
}

fn count(sim: &Sim, node: &str, what: &str) -> usize {
    sim.lock().log.iter().filter(|effect| effect.node == node && effect.what == what).count()
}

fn state_of(sim: &Sim, word: &str) -> Value {
    sim.lock().ended(word)["state"].clone()
}

fn keys(sim: &Sim, prefix: &str) -> usize {
    sim.lock().keys(prefix).len()
}

/// The last confirmed set is there, whole, on the disk, and holds what was written.
#[track_caller]
fn holds(sim: &Sim, holder: &str, content: &str) {
    let (name, set) = (last(sim, holder), replica(sim, holder));
    let s = sim.lock();
    let plugin = &s.nodes[holder].plugin;
    let found = plugin.subvolumes.get(&name).unwrap_or_else(|| panic!("{holder} has no {name}: {set:#}"));
    assert!(found.read_only && found.on_disk && !found.hollow, "{name}");
    assert!(plugin.snapshots[&name].contains(content), "{}", plugin.snapshots[&name]);
    assert_eq!((&set["failures"], &set["void"], &set["next"]), (&json!(0), &json!([]), &Value::Null), "{set:#}");
}

#[test]
fn a_set_is_taken_sent_confirmed_and_known_everywhere() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    // As an older handler has left it.
    let older = [("node1", "replicate:10.0.0.2"), ("node1", "purge:1h:1d:1w:4w:1y"), ("node2", "purge:1h:1d:1w:4w:1y")];
    for (node, action) in older {
        sim.lock().plugin(node).schedules.insert((DATA.into(), action.into()), "60".into());
    }
    tick(&sim);
    holds(&sim, "node2", "orders of monday");
    let first = replica(&sim, "node2");
    assert_eq!((&first["every"], &first["keep"], &first["last"]["master"]), (&json!(15), &json!("1h:1d:1w:4w:1y"), &json!("node1")));
    assert_eq!(first["last"]["deploy_id"], id("first"));
    // Nothing is due.
    sim.lock().log.clear();
    after(&sim, 14 * MINUTE);
    assert_eq!((count(&sim, "node1", "Snapshot"), replica(&sim, "node2")), (0, first.clone()));
    sim.lock().write("node1", DATA, ", tuesday");
    after(&sim, MINUTE);
    holds(&sim, "node2", "tuesday");
    assert_eq!((count(&sim, "node1", "Snapshot"), count(&sim, "node1", "Snapshot.Send")), (1, 1));
    assert!(NODES.iter().all(|node| sim.lock().nodes[*node].plugin.schedules.is_empty()), "the handler does it itself");
    // Its parent was the first.
    let parent = first["last"]["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned();
    assert_eq!((count(&sim, "node1", "Snapshot.Remove"), snapshots(&sim, "node2").contains(&parent)), (0, true));
    // Nothing more than a look, and one who is at it keeps others from it.
    sim.on("node1", "Snapshot.Send", Act::Slow(5 * HOUR));
    sim.pass(15 * MINUTE);
    sim.start("node1", Start::Sets);
    until(&sim, "the send", || count(&sim, "node1", "Snapshot.Send") == 2);
    for _ in 0..3 {
        sim.start("node1", Start::Sets);
    }
    sim.run_until_rest();
    assert_eq!(count(&sim, "node1", "Snapshot"), 2);
    tick(&sim);
    holds(&sim, "node2", "tuesday");
}

#[test]
fn what_is_cut_off_is_no_replica() {
    for unsaid in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let before = last(&sim, "node2");
        sim.lock().write("node1", DATA, ", tuesday");
        sim.lock().plugin("node2").torn = 1;
        sim.lock().plugin("node2").unsaid = unsaid;
        after(&sim, 15 * MINUTE);
        let torn = replica(&sim, "node2");
        assert_eq!((last(&sim, "node2"), &torn["failures"], &torn["void"]), (before.clone(), &json!(1), &json!([])), "{torn:#}");
        let reason = torn["reason"].as_str().unwrap();
        assert!(reason.contains(if unsaid { "is torn" } else { "short read" }), "{reason}");
        assert_eq!(snapshots(&sim, "node2"), [&*before], "what is torn is gone");
        after(&sim, 4 * MINUTE);
        assert_eq!(last(&sim, "node2"), before);
        after(&sim, MINUTE);
        holds(&sim, "node2", "tuesday");
        sim.settle();
    }
}

#[test]
fn what_is_another_is_no_replica() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    let sent = snapshots(&sim, "node2").remove(0);
    sim.lock().plugin("node2").subvolumes.get_mut(&sent).unwrap().received = Some("another".into());
    tick(&sim);
    let foreign = replica(&sim, "node2");
    assert!(foreign["last"].is_null() && foreign["reason"].as_str().is_some_and(|reason| reason.contains("another one")), "{foreign:#}");
}

/// What was received is still in the memory of a node whose power fails.
#[test]
fn what_is_hollow_is_no_replica_and_no_parent() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert_eq!(replica(&sim, "node2")["next"]["sent"], true);
    reboot(&sim, "node2");
    assert!(sim.lock().nodes["node2"].plugin.subvolumes.values().any(|subvolume| subvolume.hollow));
    tick(&sim);
    let hollow = replica(&sim, "node2");
    assert!(hollow["reason"].as_str().is_some_and(|reason| reason.contains("booted")) && hollow["last"].is_null(), "{hollow:#}");
    after(&sim, 5 * MINUTE);
    holds(&sim, "node2", "orders of monday");
    // Confirmed, it is on the disk.
    reboot(&sim, "node2");
    holds(&sim, "node2", "orders of monday");
    after(&sim, 15 * MINUTE);
    holds(&sim, "node2", "orders of monday");
}

/// What nobody has confirmed may be all that there is of a dead master.
#[test]
fn nothing_of_a_dead_master_goes() {
    for killed in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        if killed {
            sim.on("node1", "Snapshot.Send", Act::KillAfter);
        }
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        sim.power_off("node1");
        reboot(&sim, "node2");
        let before = (snapshots(&sim, "node2"), replica(&sim, "node2"));
        // It can be hollow, and is all that there is.
        assert!(!before.0.is_empty() && (before.1["next"].is_object() || !killed), "{before:?}");
        tick(&sim);
        // Nor where somebody has it looked at that is not due.
        sim.start("node2", Start::Replicate(APP.to_owned()));
        sim.run_until_rest();
        assert_eq!((snapshots(&sim, "node2"), replica(&sim, "node2")), before, "killed {killed}");
        reboot(&sim, "node1");
        tick(&sim);
        after(&sim, 5 * MINUTE);
        holds(&sim, "node2", "orders of monday");
    }
}

/// What is kept is less than what lies between two sets: the confirmed one stays until another one is.
#[test]
fn the_confirmed_set_stays_whatever_the_rule_says() {
    let sim: Sim = shop(&NODES);
    let label = "labels: {com.github.mlfmonde.cluster.keep: 5m}, driver: 'anybox/buttervolume:latest'";
    let text = crate::world::shop::compose("").replace("driver: 'anybox/buttervolume:latest'", label);
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    sim.deliver_all(&[deploy("one", "node1", Some("node2"))]);
    sim.lock().write("node1", DATA, "orders of monday");
    tick(&sim);
    let confirmed = last(&sim, "node2");
    assert_eq!(replica(&sim, "node2")["keep"], "5m");
    // Nor does a mark hold it, when somebody has removed that.
    sim.lock().plugin("node1").snapshots.retain(|name, _| name.matches('@').count() == 1);
    sim.on("node1", "Snapshot.Send", Act::KillBefore);
    sim.pass(16 * MINUTE);
    for _ in 0..3 {
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
    }
    assert!(sim.no_faults() && replica(&sim, "node2")["next"].is_object(), "{:#}", replica(&sim, "node2"));
    assert_eq!(last(&sim, "node2"), confirmed);
    for node in ["node1", "node2"] {
        assert!(snapshots(&sim, node).contains(&confirmed), "{node}: {confirmed} of {:?}", snapshots(&sim, node));
    }
    (0..3).for_each(|_| after(&sim, HOUR));
    holds(&sim, "node2", "orders of monday");
    assert!(!snapshots(&sim, "node2").contains(&confirmed));
}

#[test]
fn what_a_dead_master_has_sent_is_confirmed() {
    for marked in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        if !marked {
            sim.on("node1", "Snapshot.Send", Act::KillAfter);
        }
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        assert_eq!(replica(&sim, "node2")["next"]["sent"], marked);
        sim.power_off("node1");
        tick(&sim);
        holds(&sim, "node2", "orders of monday");
    }
}

/// Another has become the master right before the set is told of.
#[test]
fn a_former_master_writes_nothing() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let before = snapshots(&sim, "node1");
    let overtake = |s: &mut State| {
        let key = format!("app/{APP}");
        let mut record = s.kv(&key).unwrap();
        (record["master"], record["slave"], record["deploy_id"]) = (json!("node2"), json!("node1"), json!(id("over")));
        s.store.set(&key, record.to_string().as_bytes());
        s.two_may_run = true;
    };
    sim.fault(|e| e.node == "node1" && e.what == "Snapshot", 1, Act::First(Box::new(overtake)));
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert!(keys(&sim, "replica/") == 0);
    assert_eq!((count(&sim, "node1", "Snapshot"), count(&sim, "node1", "Snapshot.Send")), (1, 0));
    assert_eq!(snapshots(&sim, "node1"), before);
}

/// Killed in mid-send, before or after it has arrived.
#[test]
fn a_killed_sender_leaves_nothing_that_is_believed() {
    for (arrives, act) in [(false, Act::KillBefore), (true, Act::KillAfter)] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.on("node1", "Snapshot.Send", act);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        assert!(sim.no_faults());
        assert_eq!((&replica(&sim, "node2")["next"]["sent"], &replica(&sim, "node2")["last"]), (&json!(false), &Value::Null));
        tick(&sim);
        if !arrives {
            let reason = replica(&sim, "node2")["reason"].to_string();
            assert!(reason.contains("is missing"), "{reason}");
            after(&sim, 5 * MINUTE);
        }
        holds(&sim, "node2", "orders of monday");
        assert_eq!(snapshots(&sim, "node2").len(), 1);
    }
}

#[test]
fn a_slave_that_takes_nothing_is_asked_less_and_less_often() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().node("node2").full = true;
    let mut tries = Vec::new();
    for minute in 0..125 {
        let before = count(&sim, "node1", "Snapshot.Send");
        tick(&sim);
        tries.extend((count(&sim, "node1", "Snapshot.Send") > before).then_some(minute));
        sim.pass(MINUTE);
    }
    assert!(matches!(tries[..6], [0, 5 | 6, 15..=17, 30..=33, 60..=65, 90..=97]) && tries.len() <= 7, "{tries:?}");
    assert_eq!(replica(&sim, "node2")["failures"], tries.len());
    assert!(snapshots(&sim, "node2").len() <= 1);
    assert!(snapshots(&sim, "node1").len() <= 1, "those that came to nothing are gone here, too");
    sim.lock().node("node2").full = false;
    after(&sim, 30 * MINUTE);
    holds(&sim, "node2", "orders of monday");
}

#[test]
fn no_order_waits_for_a_set_and_what_it_overtakes_is_void() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node1", "Snapshot.Send", Act::Slow(2 * HOUR));
    sim.start("node1", Start::Sets);
    until(&sim, "the send", || count(&sim, "node1", "Snapshot.Send") == 1);
    let begun = sim.lock().time;
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("second", "node1", Some("node2"))])));
    until(&sim, "the order's end", || state_of(&sim, "second") == "done");
    assert!(sim.lock().time - begun < 3_600_000_000);
    sim.run_until_rest();
    let overtaken = replica(&sim, "node2");
    assert!(overtaken["last"].is_null(), "{overtaken:#}");
    tick(&sim);
    holds(&sim, "node2", "orders of monday");
    assert_eq!((replica(&sim, "node2")["last"]["deploy_id"].clone(), snapshots(&sim, "node2").len()), (id("second").into(), 1));
}

/// While an order is open nothing is taken; its commit makes a set due at once.
#[test]
fn an_open_order_goes_first() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node1", "git clone", Act::Slow(HOUR / 10));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("second", "node1", Some("node2"))])));
    until(&sim, "the order", || keys(&sim, "order/") == 1);
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert_eq!(state_of(&sim, "second"), "done");
    assert!(keys(&sim, "replica/") == 0);
    tick(&sim);
    assert_eq!(replica(&sim, "node2")["last"]["deploy_id"], id("second"));
}

/// Its worker was killed in the middle of the switch: what a failed version writes is in no set.
#[test]
fn what_is_in_the_middle_of_an_order_is_in_no_set() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "x-standin: {writes: WRONG}");
    sim.on("node1", "up -d", Act::KillAfter);
    sim.start("node1", Start::Events(vec![deploy("second", "node1", Some("node2"))]));
    sim.run_until_rest();
    assert!(sim.no_faults() && keys(&sim, "order/") == 1);
    sim.lock().log.clear();
    sim.start("node1", Start::Replicate(APP.into()));
    sim.run_until_rest();
    assert_eq!((count(&sim, "node1", "Snapshot"), keys(&sim, "replica/")), (0, 0));
    sim.settle();
    tick(&sim);
    assert_eq!(replica(&sim, "node2")["last"]["deploy_id"], id("second"));
}

#[test]
fn without_a_slave_the_master_holds_its_sets() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    let check = |time| {
        sim.pass(time);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
    };
    check(Duration::ZERO);
    holds(&sim, "node1", "orders of monday");
    sim.lock().write("node1", DATA, ", tuesday");
    check(15 * MINUTE);
    holds(&sim, "node1", "tuesday");
    assert_eq!(count(&sim, "node1", "Snapshot.Send"), 0);
    assert!(sim.lock().nodes["node1"].plugin.schedules.is_empty());
}

/// The plugin goes on as before where a slave cannot look at what it has.
#[test]
fn a_slave_that_cannot_look_gets_no_sets() {
    let sim: Sim = shop(&NODES);
    sim.lock().node("node2").no_snapshots_seen = true;
    sim.deliver_all(&[deploy("first", "node1", Some("node2"))]);
    sim.settle();
    after(&sim, HOUR);
    assert!(keys(&sim, "replica/") == 0);
    assert!(sim.lock().nodes["node1"].plugin.schedules.keys().any(|(_, action)| action.starts_with("replicate:")));
}

#[test]
fn seventy_volumes_are_one_set() {
    let sim: Sim = shop(&NODES);
    let names: Vec<String> = (0..70).map(|n| format!("v{n}")).collect();
    let mounts: Vec<String> = names.iter().map(|name| format!("'{name}:/{name}'")).collect();
    let volumes: String = names.iter().map(|name| format!("  {name}: {{driver: 'anybox/buttervolume:latest'}}\n")).collect();
    let text = format!("services:\n  web:\n    image: cache:1\n    volumes: [{}]\nvolumes:\n{volumes}", mounts.join(", "));
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    sim.deliver_all(&[deploy("first", "node1", Some("node2"))]);
    tick(&sim);
    let set = replica(&sim, "node2");
    assert_eq!(set["last"]["snapshots"].as_object().map(|snapshots| snapshots.len()), Some(70), "{set:#}");
}

/// A week, in which the master's clock is put back a day and later forth: few are left, the last is always there, and what the handler has not
/// written down stays.
#[test]
fn a_week_of_sets() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    for node in ["node1", "node2"] {
        let mut s = sim.lock();
        s.snapshot(node, DATA, "by hand".into());
    }
    let kept: Vec<Vec<String>> = ["node1", "node2"].iter().map(|node| snapshots(&sim, node)).collect();
    for hour in 0..(8 * 24) {
        match hour {
            50 => sim.lock().node("node1").ahead -= 86_400_000_000,
            100 => sim.lock().node("node1").ahead += 86_400_000_000,
            _ => {}
        }
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        sim.start("node2", Start::Sets);
        sim.run_until_rest();
        sim.pass(HOUR);
        if hour % 10 == 0 {
            sim.ended();
            sim.lock().log.clear();
            holds(&sim, "node2", "orders of monday");
        }
    }
    for (node, kept) in ["node1", "node2"].iter().zip(kept) {
        let found = snapshots(&sim, node);
        let marks = found.iter().filter(|name| name.split('@').count() == 3).count();
        assert!((25..50).contains(&(found.len() - marks)), "{node}: {}", found.len());
        assert!(marks <= 1 && kept.iter().all(|name| found.contains(name)), "{found:?}");
    }
}

/// A move starts from what its owner has on the disk, whatever the plugin's marks say.
#[test]
fn a_hollow_replica_is_no_parent_of_a_move() {
    for blind in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        let record = sim.lock().kv(&format!("app/{APP}")).unwrap();
        sim.lock().send_set("node1", "node2", &record).unwrap();
        sim.lock().node("node2").no_snapshots_seen = blind;
        reboot(&sim, "node2");
        assert!(sim.lock().nodes["node2"].plugin.subvolumes.values().any(|subvolume| subvolume.hollow));
        sim.deliver_all(&[deploy("away", "node2", Some("node1"))]);
        assert_eq!(state_of(&sim, "away"), "done");
        assert!(sim.lock().volume("node2", DATA).unwrap().contains("orders of monday"), "blind: {blind}");
        assert!(sim.lock().serving(PROJECT).iter().all(|line| line.starts_with("node2")));
        if !blind {
            tick(&sim);
            holds(&sim, "node1", "orders of monday");
        }
    }
}

#[test]
fn labels_say_how_often_and_a_wrong_one_is_refused() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let push = |label: &str, value: &str| {
        let text = crate::world::shop::compose("");
        let label = format!("labels: {{com.github.mlfmonde.cluster.{label}: \"{value}\"}}");
        let text = text.replace("'anybox/buttervolume:latest'}", &format!("'anybox/buttervolume:latest', {label}}}"));
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    };
    push("replicate", "often");
    sim.deliver_all(&[deploy("wrong", "node1", Some("node2"))]);
    let ended = sim.lock().ended("wrong");
    assert!(ended["reason"].as_str().is_some_and(|reason| reason.contains("expected a number of minutes")), "{ended:#}");
    push("replicate", "5");
    sim.deliver_all(&[event("right", "deploy", &json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node2"}))]);
    tick(&sim);
    assert_eq!(replica(&sim, "node2")["every"], 5);
    let first = last(&sim, "node2");
    after(&sim, 4 * MINUTE);
    assert_eq!(last(&sim, "node2"), first);
    after(&sim, MINUTE);
    assert_ne!(last(&sim, "node2"), first);
}
