//! What a takeover starts from, and what a move hands over.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, URL, all_well, deploy, deployed, destroy, migrate, newest, push, shop, with_copy};
use crate::world::state::plugin::Subvolume;
use crate::world::{Act, Cluster, Run, State, event};

const REPLICA: &str = "replica/shop_master.e4371/node2";

fn ended(sim: &Sim, word: &str) -> Value {
    sim.lock().ended(word)
}

#[track_caller]
fn refused(sim: &Sim, word: &str, why: &str) -> String {
    let ended = ended(sim, word);
    assert_eq!(ended["state"], "failed", "{ended:#}");
    let reason = ended["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains(why), "“{why}” expected in “{reason}”");
    reason
}

/// The order that the reason of a refused one says.
pub fn offered(reason: &str, word: &str) -> Value {
    let (_, text) = reason.split_once("handler deploy '").unwrap_or_else(|| panic!("no order in “{reason}”"));
    event(word, "deploy", &serde_json::from_str(text.split('\'').next().unwrap()).unwrap())
}

fn data(sim: &Sim, node: &str) -> String {
    sim.lock().volume(node, DATA).unwrap_or_default().replace('|', "")
}

/// The shop on node1, with a confirmed set on node2 and something newer on node1.
fn with_a_set() -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.pass(Duration::from_secs(450));
    sim
}

/// A newer set has come to node2, and nobody has confirmed it.
fn next(s: &mut State) -> String {
    let record = s.kv(&format!("app/{APP}")).unwrap();
    let mut set = s.send_set("node1", "node2", &record).unwrap();
    set["sent"] = true.into();
    let mut replica = s.kv(REPLICA).unwrap_or_else(|| json!({}));
    replica["next"] = set.clone();
    s.store.set(REPLICA, replica.to_string().as_bytes());
    set["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned()
}

fn change(sim: &Sim, change: impl Fn(&mut Value)) {
    let mut s = sim.lock();
    let mut replica = s.kv(REPLICA).unwrap();
    change(&mut replica);
    s.store.set(REPLICA, replica.to_string().as_bytes());
}

fn own(sim: &Sim, node: &str) -> String {
    let text = sim.disk(node, |disk| disk.read(std::path::Path::new("/deploy/.handler/own"), 1 << 20));
    text.map_or(String::new(), |text| String::from_utf8(text).unwrap())
}

fn planned(sim: &Sim, node: &str, payload: Value) -> Run {
    sim.ended();
    sim.start(node, Start::Plan("deploy", payload));
    sim.run_until_rest();
    sim.ended().remove(0)
}

/// The confirmed set is what it starts from; the newer one stays, whatever purges, and is named with what it takes to have it.
#[test]
fn a_takeover_starts_from_the_confirmed_set_and_names_a_newer_one() {
    let sim = with_a_set();
    let unused = next(&mut sim.lock());
    sim.power_off("node1");
    let payload = json!({"repo": URL, "branch": "master", "master": "node2"});
    let plan = planned(&sim, "node2", payload.clone());
    plan.exits(0).says("from the confirmed set of ").says("7 min old").says(&format!("\"replica\": [\"{unused}\"]"));
    planned(&sim, "node3", payload).exits(0).says("replica on node2: confirmed, 7 min old").says("`handler plan` says on node2");
    assert!(!own(&sim, "node2").contains(&unused));
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    let over = ended(&sim, "over");
    assert_eq!((&over["state"], data(&sim, "node2")), (&json!("done"), "orders of monday".into()), "{over:#}");
    let notes = over["notes"].to_string();
    assert!(notes.contains("from the confirmed set") && notes.contains(&unused), "{notes}");
    let last = sim.lock().kv(REPLICA).unwrap();
    assert_eq!(over["snapshots"][DATA], last["last"]["snapshots"][DATA]["snapshot"]);
    assert_eq!(last["next"], Value::Null, "what its master has never confirmed nobody will");
    assert!(own(&sim, "node2").contains(&unused), "it is set aside");
    sim.settle();
}

/// The same, and the newer one is asked for.
#[test]
fn a_newer_set_is_taken_over_where_the_order_names_it() {
    let sim = with_a_set();
    let newer = next(&mut sim.lock());
    sim.power_off("node1");
    let payload = json!({"repo": URL, "branch": "master", "master": "node2", "replica": [newer]});
    sim.deliver_all(&[event("over", "deploy", &payload)]);
    let over = ended(&sim, "over");
    assert_eq!((&over["state"], data(&sim, "node2")), (&json!("done"), "orders of monday and of tuesday".into()), "{over:#}");
    assert_eq!((&over["needs"], over["notes"].to_string().contains("nobody has confirmed that it is whole")), (&json!(3), true));
    sim.settle();
}

/// Between the look and the restore another set is confirmed: it is what the restore starts from, and what the order says.
#[test]
fn what_is_restored_is_chosen_right_before() {
    let sim = with_a_set();
    let newer = next(&mut sim.lock());
    sim.power_off("node1");
    let confirm = Act::First(Box::new(|s: &mut State| {
        let mut replica = s.kv(REPLICA).unwrap();
        replica["last"] = replica["next"].take();
        s.store.set(REPLICA, replica.to_string().as_bytes());
    }));
    sim.on("node2", "build", confirm);
    sim.deliver_all(&[deploy("over", "node2", None)]);
    assert!(sim.no_faults());
    assert_eq!((&ended(&sim, "over")["snapshots"][DATA], data(&sim, "node2")), (&json!(newer), "orders of monday and of tuesday".into()));
    sim.settle();
}

/// Of what was deployed before: not without a person, who is told since when and how.
#[test]
fn a_set_from_before_a_deploy_is_taken_over_by_name_only() {
    let sim = with_a_set();
    push(&sim, "");
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", None)]);
    let reason = refused(&sim, "over", "is from before the deploy of 2026-11-24 ");
    assert!(reason.contains(&newest(&sim.lock(), "node2")), "{reason}");
    sim.deliver_all(&[offered(&reason, "again")]);
    assert_eq!((&ended(&sim, "again")["state"], data(&sim, "node2")), (&json!("done"), "orders of monday".into()));
    sim.settle();
}

/// The same of a migrate, which changes the data alone.
#[test]
fn a_set_from_before_a_migrate_is_taken_over_by_name_only() {
    let (sim, _, volume) = with_copy::<Sim>("node1", "", &[]);
    let copy = sim.lock().keys("app/").into_iter().find(|key| key.contains("copy")).unwrap().replace("app/", "");
    let payload = json!({"repo": crate::world::shop::COPY, "branch": "master", "master": "node1", "slave": "node2"});
    all_well(&sim.deliver_all(&[event("slaved", "deploy", &payload)]));
    sim.lock().replicate("node1");
    all_well(&sim.deliver_all(&[migrate("m")]));
    sim.power_off("node1");
    let over = json!({"repo": crate::world::shop::COPY, "branch": "master", "master": "node2"});
    sim.deliver_all(&[event("over", "deploy", &over)]);
    let reason = refused(&sim, "over", "is from before the migrate of 2026-11-24T");
    sim.deliver_all(&[offered(&reason, "again")]);
    assert_eq!(ended(&sim, "again")["state"], "done", "{copy}");
    assert_eq!(sim.lock().volume("node2", &volume).unwrap().replace('|', ""), "old copy");
    sim.settle();
}

/// What was confirmed is looked at again: what is gone, was written over or is another one since starts nothing.
#[test]
fn a_set_that_is_not_what_was_confirmed_is_not_taken_over() {
    type Break = fn(&mut State, &str);
    let breaks: [(Break, &str); 3] = [
        (
            |s, name| {
                let plugin = s.plugin("node2");
                plugin.snapshots.remove(name);
                plugin.subvolumes.remove(name);
            },
            "no replica of",
        ),
        (|s, name| s.plugin("node2").subvolumes.get_mut(name).unwrap().read_only = false, "no replica of"),
        (|s, name| s.plugin("node2").subvolumes.get_mut(name).unwrap().received = Some("another".into()), "is another one than was sent"),
    ];
    for (breaks, says) in breaks {
        let sim = with_a_set();
        let name = newest(&sim.lock(), "node2");
        breaks(&mut sim.lock(), &name);
        sim.power_off("node1");
        sim.deliver_all(&[deploy("over", "node2", None)]);
        refused(&sim, "over", says);
        // Broken between the look and the restore it is found, too.
        let sim = with_a_set();
        let name = newest(&sim.lock(), "node2");
        sim.power_off("node1");
        sim.on("node2", "build", Act::First(Box::new(move |s| breaks(s, &name))));
        sim.deliver_all(&[deploy("over", "node2", None)]);
        assert!(sim.no_faults());
        refused(&sim, "over", says);
        assert_eq!(data(&sim, "node2"), "");
    }
}

/// A set is whole or nothing: a volume that it lacks is not taken from elsewhere.
#[test]
fn no_set_is_mixed_with_another() {
    let sim = with_a_set();
    change(&sim, |replica| replica["last"]["snapshots"] = json!({}));
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", None)]);
    let reason = refused(&sim, "over", &format!("has no snapshot of {DATA}"));
    sim.deliver_all(&[offered(&reason, "again")]);
    assert_eq!(ended(&sim, "again")["state"], "done");
    sim.settle();
}

/// Just upgraded, or the slave cannot look: it is told what is here and the order to give. "empty" starts empty only where nothing is.
#[test]
fn without_a_confirmed_set_a_takeover_is_told_what_to_order() {
    for blind in [true, false] {
        let sim: Sim = shop(&NODES);
        sim.lock().nodes.values_mut().for_each(|node| node.no_snapshots_seen = true);
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.lock().write("node1", DATA, "orders of monday");
        sim.lock().replicate("node1");
        sim.lock().node("node2").no_snapshots_seen = blind;
        sim.power_off("node1");
        let empty = json!({"repo": URL, "branch": "master", "master": "node2", "empty": true});
        sim.deliver_all(&[event("over", "deploy", &empty)]);
        let says = if blind {
            "this node cannot look at the snapshots (/snapshots is no folder on btrfs here)"
        } else {
            "none has been confirmed"
        };
        let reason = refused(&sim, "over", says);
        sim.deliver_all(&[offered(&reason, "again")]);
        assert_eq!((&ended(&sim, "again")["state"], data(&sim, "node2")), (&json!("done"), "orders of monday".into()));
        sim.settle();
    }
}

/// Only for a takeover; each of a data volume; and here.
#[test]
fn snapshots_are_named_for_a_takeover_only() {
    let sim = with_a_set();
    let there = newest(&sim.lock(), "node2");
    let over = |word: &str, names: &[&str]| {
        event(word, "deploy", &json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node1", "replica": names}))
    };
    sim.deliver_all(&[over("lives", &[&there])]);
    refused(&sim, "lives", "replica: nothing is taken over, node1 is the master and lives");
    sim.power_off("node1");
    sim.deliver_all(&[over("other", &["othershop_data@2026-11-24T00:00:00.000000"])]);
    refused(&sim, "other", "is of none of the data volumes that are taken over");
    let gone = format!("{DATA}@2026-11-20T00:00:00.000000");
    sim.deliver_all(&[over("gone", &[&gone])]);
    refused(&sim, "gone", "is not on this node");
    assert_eq!(data(&sim, "node2"), "");
}

/// The dead master cannot be upgraded before its application is taken over.
#[test]
fn a_dead_master_that_is_too_old_is_not_waited_for() {
    for node in ["node1", "node2"] {
        let sim = with_a_set();
        let there = newest(&sim.lock(), "node2");
        sim.power_off("node1");
        sim.lock().store.set(&format!("node/{node}"), json!({"version": "0.2", "understands": 2}).to_string().as_bytes());
        let over = json!({"repo": URL, "branch": "master", "master": "node2", "replica": [there]});
        sim.ended();
        sim.start("node3", Start::Events(vec![event("over", "deploy", &over)]));
        sim.run_until_rest();
        let run = sim.ended().remove(0);
        match node {
            "node1" => {
                sim.settle();
                assert_eq!(ended(&sim, "over")["state"], "done");
            }
            _ => drop(run.exits(1).says("node2 is too old for it")),
        }
    }
}

// ---- what a move hands over

/// The old master has what it has sent: it is its first set under the new record, and a takeover back starts from it.
#[test]
fn a_move_leaves_a_confirmed_set_with_the_old_master() {
    let sim = with_a_set();
    all_well(&sim.deliver_all(&[deploy("move", "node2", Some("node1"))]));
    sim.settle();
    let replica = sim.lock().kv(&REPLICA.replace("node2", "node1")).unwrap();
    assert_eq!((&replica["last"]["deploy_id"], &replica["last"]["master"]), (&ended(&sim, "move")["id"], &json!("node1")), "{replica:#}");
    sim.lock().write("node2", DATA, " and of wednesday");
    sim.power_off("node2");
    sim.deliver_all(&[deploy("back", "node1", Some("node3"))]);
    let back = ended(&sim, "back");
    assert_eq!((&back["state"], data(&sim, "node1")), (&json!("done"), "orders of monday and of tuesday".into()), "{back:#}");
    sim.settle();
}

/// Where the new master cannot look at what has come, nobody says that the old one has it.
#[test]
fn a_move_to_a_node_that_cannot_look_leaves_none() {
    let sim = with_a_set();
    sim.lock().node("node2").no_snapshots_seen = true;
    all_well(&sim.deliver_all(&[deploy("move", "node2", Some("node1"))]));
    assert_eq!(sim.lock().kv(&REPLICA.replace("node2", "node1")), None);
    sim.settle();
}

/// What is received is in memory until it is restored: a power failure in between leaves it whole by its looks, and empty.
#[test]
fn a_new_master_that_was_rebooted_since_the_sending_began_does_not_serve_what_it_has_received() {
    for killed in [false, true] {
        let sim = with_a_set();
        // Nobody sees it die.
        let reboots = Act::First(Box::new(|s: &mut State| {
            s.die("node2");
            s.revive("node2");
        }));
        sim.on("node1", "(sent)", reboots);
        if killed {
            sim.on("node1", "(sent)", Act::KillAfter);
        }
        sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
        sim.no_faults();
        sim.settle();
        refused(&sim, "move", "node2 has lost its power or was rebooted since the sending began");
        assert_eq!(data(&sim, "node1"), "orders of monday and of tuesday");
        all_well(&sim.deliver_all(&[deploy("again", "node2", Some("node1"))]));
        sim.settle();
        assert_eq!(data(&sim, "node2"), "orders of monday and of tuesday");
    }
}

/// What stands there under the name that was sent is another snapshot, or was cut off.
#[test]
fn a_move_does_not_restore_what_was_not_sent() {
    type Break = fn(&mut Subvolume);
    let breaks: [(Break, &str); 2] = [
        (|it| it.read_only = false, "its receive was cut off"),
        (|it| it.received = Some("another".into()), "is another one than was sent"),
    ];
    for (breaks, says) in breaks {
        let sim = with_a_set();
        let broken = Act::First(Box::new(move |s: &mut State| {
            let name = newest(s, "node2");
            breaks(s.plugin("node2").subvolumes.get_mut(&name).unwrap());
        }));
        sim.on("node1", "(sent)", broken);
        sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
        assert!(sim.no_faults());
        sim.settle();
        refused(&sim, "move", says);
        assert_eq!(data(&sim, "node1"), "orders of monday and of tuesday");
    }
}

#[test]
fn a_destroy_leaves_no_word_of_replicas() {
    let sim = with_a_set();
    all_well(&sim.deliver_all(&[destroy("end")]));
    assert_eq!(sim.lock().keys("replica/"), [""; 0]);
    sim.settle();
}

// ---- schedules

fn schedules(sim: &Sim, node: &str) -> Vec<String> {
    sim.lock().nodes[node].plugin.schedules.keys().map(|(_, action)| action.clone()).collect()
}

/// Where the handler keeps sets the plugin does nothing by itself, but what an operator has told it besides; else as ever.
#[test]
fn the_plugin_replicates_only_where_the_handler_does_not() {
    const PURGE: &str = "purge:1h:1d:1w:4w:1y";
    let sim: Sim = shop(&NODES);
    sim.lock().node("node2").no_snapshots_seen = true;
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.settle();
    assert_eq!((schedules(&sim, "node1"), schedules(&sim, "node2")), (vec![PURGE.into(), "replicate:10.0.0.2".into()], vec![PURGE.into()]));
    sim.lock().plugin("node1").schedules.insert((DATA.into(), "replicate:backup.example.com".into()), "1440".into());
    sim.lock().node("node2").no_snapshots_seen = false;
    push(&sim, "");
    // Its agent is started anew with the folder in it, and says so.
    sim.settle();
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    assert_eq!((schedules(&sim, "node1"), schedules(&sim, "node2")), (vec!["replicate:backup.example.com".to_owned()], vec![]));
}

// ---- what is said

#[test]
fn status_says_how_old_the_replica_is() {
    let sim = with_a_set();
    sim.ended();
    sim.start("node3", Start::Status);
    sim.run_until_rest();
    sim.ended().remove(0).exits(0);
    sim.pass(Duration::from_secs(3600));
    sim.start("node3", Start::Status);
    sim.run_until_rest();
    sim.ended().remove(0).exits(1).says("replica on node2: too old: 67 min, and one is due every 15 min");
}
