//! Stories about replicas, what is purged and what is told, in which a promise breaks.

use serde_json::{Value, json};

use crate::others::run;
use crate::sets::{MINUTE, after, checks, commit, data, held, keeping, last, own, replica, snapshots, thrifty, tick};
use crate::takeover::offered;
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, URL, all_well, deploy, deployed, destroy};
use crate::world::{Act, Cluster, event};

/// The nodes on which a volume or a snapshot holds this.
fn anywhere(sim: &Sim, text: &str) -> Vec<String> {
    let s = sim.lock();
    let has = |all: &std::collections::BTreeMap<String, String>| all.values().any(|held| held.replace('|', "").contains(text));
    s.nodes.iter().filter(|(_, node)| has(&node.plugin.volumes) || has(&node.plugin.snapshots)).map(|(name, _)| name.clone()).collect()
}

fn over(sim: &Sim, word: &str, payload: Value) -> Value {
    sim.deliver_all(&[event(word, "deploy", &payload)]);
    sim.lock().ended(word)
}

// ---- what is purged

/// A person stops an application, takes a snapshot by hand, and deploys the next version: a newer plugin names that snapshot for the deploy, since
/// nobody has written to the volume. It becomes a set of the book, and is purged by the rule, though this program has not taken it.
#[test]
fn a_snapshot_that_a_person_has_taken_before_a_deploy_is_not_purged() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    thrifty(&sim);
    commit(&sim, &keeping("1h"));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.lock().engine("node1").containers.iter_mut().for_each(|container| container.running = false);
    let content = sim.lock().volume("node1", DATA).unwrap();
    let by_hand = sim.lock().snapshot("node1", DATA, content);
    all_well(&sim.deliver_all(&[deploy("third", "node1", Some("node2"))]));
    sim.settle();
    for time in 0..12 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let there = held(&sim, "node1", &by_hand);
    sim.violations();
    assert!(there.is_some(), "{by_hand} is gone: {:#?}", snapshots(&sim, "node1", DATA));
}

/// A clock was ten minutes ahead and is put right. A person takes a snapshot by hand, whose name comes before that of the last set; nobody writes to the
/// volume, and a newer plugin names it for the next set. It passes for one that this program has taken, and is purged.
#[test]
fn a_snapshot_that_a_person_has_taken_by_a_clock_that_was_put_right_is_not_purged() {
    // Where it was right it stays.
    [0, 600_000_000].iter().for_each(|ahead| by_a_clock_that_was(*ahead));
}

fn by_a_clock_that_was(ahead: i64) {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    thrifty(&sim);
    commit(&sim, &keeping("1h"));
    sim.lock().node("node1").ahead += ahead;
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    {
        let mut s = sim.lock();
        s.write("node1", DATA, " and of tuesday");
        s.node("node1").ahead -= ahead;
        s.time += 60_000_000;
    }
    let content = sim.lock().volume("node1", DATA).unwrap();
    let by_hand = by_hand(&sim, content);
    assert_eq!(by_hand < last(&sim, "node2"), ahead > 0, "{by_hand} {}", last(&sim, "node2"));
    // What a clock to come has taken is followed at once.
    after(&sim, if ahead > 0 { 5 * MINUTE } else { 15 * MINUTE });
    for time in 0..14 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let there = held(&sim, "node1", &by_hand);
    sim.violations();
    assert!(there.is_some(), "a clock that was {ahead} ahead: {by_hand} is gone: {:#?}", snapshots(&sim, "node1", DATA));
}

/// As the plugin names it, by a clock that was put back: names need not increase.
fn by_hand(sim: &Sim, content: String) -> String {
    let mut s = sim.lock();
    let name = s.snapshot("node1", DATA, content.clone());
    let now = s.clock("node1");
    let minutes = (now / 60_000_000) % 60;
    let hours = (now / 3_600_000_000) % 24;
    let wanted = format!("{}T{hours:02}:{minutes:02}:30.000001", name.split_once('T').unwrap().0);
    let plugin = s.plugin("node1");
    let (text, subvolume) = (plugin.snapshots.remove(&name).unwrap(), plugin.subvolumes.remove(&name).unwrap());
    plugin.snapshots.insert(wanted.clone(), text);
    plugin.subvolumes.insert(wanted.clone(), subvolume);
    wanted
}

/// The master dies for good, and the application is destroyed. Its slave says that it keeps what there is of it until somebody removes that. Then it
/// is deployed anew there, empty: by the new one's rule the sets of the destroyed one are purged, which were all that there was.
#[test]
fn what_is_left_of_a_destroyed_application_stays_though_it_is_deployed_anew() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &keeping("1h"));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    for _ in 0..2 {
        sim.lock().write("node1", DATA, ".");
        after(&sim, 15 * MINUTE);
    }
    let left = snapshots(&sim, "node2", DATA);
    assert!(left.len() > 2, "{left:?}");
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    sim.deliver_all(&[destroy("end")]);
    assert_eq!(sim.lock().ended("end")["state"], "done");
    sim.settle();
    run(&sim, "node2", Start::Status).says("was destroyed; of it this node keeps, until somebody removes them");
    assert_eq!(anywhere(&sim, "monday"), ["node2"]);
    all_well(&sim.deliver_all(&[deploy("anew", "node2", Some("node3"))]));
    sim.settle();
    assert_eq!(data(&sim, "node2", DATA), "");
    for time in 0..12 {
        sim.lock().write("node2", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let there = anywhere(&sim, "monday");
    let now = snapshots(&sim, "node2", DATA);
    assert!(left.iter().all(|name| now.contains(name)), "{left:?} {now:?}");
    let status = run(&sim, "node2", Start::Status);
    let violations = sim.violations();
    assert!(there == ["node2"], "nobody has removed it: {there:?} {violations:#?} {status}");
}

// ---- what a takeover leaves behind

/// node2 has a confirmed set; a minute later the application is deployed again, and node1 dies before there is one of that. It is taken over on node3,
/// which has never had anything, as its reason says: empty. Nobody is told of what node2 has, which is purged there once it is the slave.
#[test]
fn nothing_starts_empty_without_a_word_of_a_set_from_before_the_last_deploy() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &keeping("1h"));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("third", "node1", Some("node2"))]));
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    let mut payload = json!({"repo": URL, "branch": "master", "master": "node3", "slave": "node2"});
    let refused = over(&sim, "over", payload.clone());
    assert_eq!(refused["state"], "failed");
    payload["empty"] = true.into();
    let plan = run(&sim, "node3", Start::Plan("deploy", payload.clone()));
    let done = over(&sim, "empty", payload);
    for time in 0..12 {
        sim.lock().write("node3", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let (there, violations) = (anywhere(&sim, "monday"), sim.violations());
    let named = done["state"] != "done" || done.to_string().contains(&format!("{DATA}@")) || done["notes"].to_string().contains("node2");
    assert!(named, "{}\n{plan}{done:#}\nthree hours later it is on {there:?} {violations:#?}", refused["reason"]);
}

/// node1 has handed over to node2, whose slave, node3, has a confirmed set. node2 dies for good; node1 is deployed to, which is refused, and says the
/// order that starts there all the same. That is given: what node3 has alone is neither named nor set aside, and is purged there.
#[test]
fn a_confirmed_set_elsewhere_that_a_takeover_by_name_does_not_use_stays() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &keeping("1h"));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    tick(&sim);
    sim.lock().write("node2", DATA, " and of tuesday");
    after(&sim, 15 * MINUTE);
    let newest = last(&sim, "node3");
    assert!(held(&sim, "node3", &newest).unwrap().contains("tuesday"));
    sim.power_off("node2");
    sim.lock().nodes.remove("node2");
    let refused = over(&sim, "over", json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node3"}));
    assert_eq!(refused["state"], "failed", "{refused:#}");
    sim.deliver_all(&[offered(refused["reason"].as_str().unwrap(), "as told")]);
    let told = sim.lock().ended("as told");
    assert_eq!(told["state"], "done", "{told:#}");
    sim.settle();
    for time in 0..12 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let (there, violations) = (anywhere(&sim, "tuesday"), sim.violations());
    let aside = own(&sim, "node3").contains(&newest);
    assert!(!there.is_empty(), "three hours later {newest} is gone, set aside: {aside}; {:#} {violations:#?}", told["notes"]);
}

// ---- what is said

/// node1 was fenced. A person has looked at what it held, and has removed it as README says: its containers, its volume, its snapshots. There is nothing
/// left to do, and it is called wrong for ever.
#[test]
fn what_was_fenced_is_wrong_until_somebody_has_removed_it() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    assert_eq!(sim.lock().ended("over")["state"], "done");
    sim.power_on("node1");
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    checks(&sim, 2);
    run(&sim, "node1", Start::Check).says("fenced on this node").says("snapshots set aside on this node: 1");
    {
        let mut s = sim.lock();
        s.engine("node1").containers.clear();
        let plugin = s.plugin("node1");
        plugin.volumes.clear();
        plugin.snapshots.clear();
        plugin.subvolumes.clear();
    }
    checks(&sim, 3);
    let check = run(&sim, "node1", Start::Check);
    sim.violations();
    assert!(check.status == Some(0), "{check}");
}

/// The sender of a set is killed in mid-send; then the application is deployed with another slave. What has arrived at the former one stays for
/// ever, and so does what its key says.
#[test]
fn what_was_on_its_way_to_a_former_slave_does_not_stay_for_ever() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.on("node1", "Snapshot.Send", Act::KillAfter);
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert_eq!(replica(&sim, "node2")["next"]["sent"], false);
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node3"))]));
    sim.settle();
    for _ in 0..12 {
        after(&sim, 15 * MINUTE);
    }
    checks(&sim, 3);
    let former = replica(&sim, "node2");
    assert!(former["next"].is_null(), "{former:#} {:?}", snapshots(&sim, "node2", DATA));
}

/// node1 has handed over to node2, whose handler is an older one: it says of nothing that it calls void what that was taken under. A set arrives whole at
/// node3, the answer is lost. node2 dies for good, node1 takes over, which names what node3 has: and that is removed there.
#[test]
fn what_an_older_dead_master_called_void_stays_where_another_node_takes_over() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.fault(|e| e.node == "node2" && e.what == "Snapshot.Send", 1, Act::Lose);
    sim.start("node2", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    let mut of_older = replica(&sim, "node3");
    of_older.as_object_mut().unwrap().remove("void_of");
    sim.lock().store.set(&format!("replica/{APP}/node3"), of_older.to_string().as_bytes());
    let void = of_older["void"][0].as_str().unwrap().to_owned();
    sim.power_off("node2");
    sim.lock().nodes.remove("node2");
    tick(&sim);
    sim.deliver_all(&[deploy("over", "node1", None)]);
    let over = sim.lock().ended("over");
    assert_eq!(over["state"], "done", "{over:#}");
    checks(&sim, 2);
    let there = anywhere(&sim, "tuesday");
    let violations = sim.violations();
    assert_eq!(there, ["node3"], "{void}: {:#} {violations:#?}", over["notes"]);
}

/// A newer plugin; nobody writes to the volume. The answer to a move's send is lost: the same snapshot is sent a second time, which takes the good copy.
#[test]
fn a_move_sends_no_snapshot_a_second_time() {
    let sim: Sim = deployed(&NODES, "node1", None);
    thrifty(&sim);
    sim.fault(|e| e.node == "node1" && e.what == "Snapshot.Send", 1, Act::Lose);
    sim.deliver_all(&[deploy("away", "node2", None)]);
    assert!(sim.no_faults());
    let away = sim.lock().ended("away");
    let violations = sim.violations();
    assert!(violations.is_empty(), "{violations:#?} {away:#}");
}

/// A newer plugin; nobody has written since the last set, which node2 has confirmed. A move there fails to send it once more: the marks go, and the same
/// snapshot is sent again over the confirmed copy. node1 dies for good: there is nothing to take over.
#[test]
fn a_move_that_fails_leaves_the_confirmed_set_of_its_slave() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    thrifty(&sim);
    tick(&sim);
    let confirmed = last(&sim, "node2");
    assert!(held(&sim, "node2", &confirmed).unwrap().contains("monday"));
    sim.fault(|e| e.node == "node1" && e.what == "Snapshot.Send", 1, Act::Fail("ssh: connect to host: Connection timed out".into()));
    sim.deliver_all(&[deploy("away", "node2", Some("node1"))]);
    assert!(sim.no_faults());
    let away = sim.lock().ended("away");
    let there = held(&sim, "node2", &confirmed);
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    sim.deliver_all(&[deploy("over", "node2", None)]);
    let over = sim.lock().ended("over");
    let violations = sim.violations();
    assert!(
        away["state"] == "done" || over["state"] == "done",
        "{confirmed}: {there:?} {} {} {violations:#?}",
        away["reason"],
        over["reason"]
    );
}

/// The mark of the confirmed set is gone: the plugin's own purge has taken it, perhaps. The move goes on with what is there.
#[test]
fn what_the_new_master_holds_is_not_sent_though_its_mark_is_gone() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    thrifty(&sim);
    tick(&sim);
    let confirmed = last(&sim, "node2");
    let marks = |name: &String| name.starts_with(&format!("{confirmed}@"));
    sim.lock().plugin("node1").snapshots.retain(|name, _| !marks(name));
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node1"))]));
    assert_eq!(sim.violations(), [""; 0]);
    assert!(data(&sim, "node2", DATA).contains("monday"));
}
