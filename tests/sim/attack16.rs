//! Stories about sets, confirmation, purge and what is set aside, in which a promise breaks.

use std::path::Path;

use serde_json::json;

use crate::beside::{HOUR, until};
use crate::others::run;
use crate::sets::{
    EXTRA, MINUTE, after, commit, fails_and_is_given_up, first_set_is_void, held, keeping, last, own, reboot, replica, snapshots, thrifty,
    tick, with_a_quiet_volume, with_extra, with_two_volumes,
};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, COPY, DATA, NODES, PROJECT, URL, all_well, deploy, deployed, push, with_copy};
use crate::world::{Act, Cluster, event};

fn book(sim: &Sim, node: &str) -> String {
    let text = sim.disk(node, |disk| disk.read(Path::new(&format!("/deploy/.handler/apps/{APP}/sets")), 1 << 24));
    text.map_or(String::new(), |text| String::from_utf8(text).unwrap())
}

/// Those of the shop's data that no book, no key and no list of what is set aside names: nobody will ever remove them, nor say that they are there.
fn orphans(sim: &Sim, node: &str) -> Vec<String> {
    let (book, own) = (book(sim, node), own(sim, node));
    let keys: String = NODES.iter().map(|node| replica(sim, node).to_string()).collect();
    let mut all = snapshots(sim, node, DATA);
    all.retain(|name| !book.contains(&**name) && !own.contains(&**name) && !keys.contains(&**name));
    all
}

/// The answer of Consul to the words of one set is lost, once; it has taken them in.
#[test]
fn a_set_that_was_told_of_and_whose_answer_was_lost_does_not_stay_for_ever() {
    for lost in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        sim.lock().write("node1", DATA, " and of tuesday");
        let before = orphans(&sim, "node1");
        sim.pass(16 * MINUTE);
        if lost {
            sim.fault(|e| e.node == "node1" && e.line.contains("cas replica/"), 1, Act::Lose);
        }
        tick(&sim);
        assert!(sim.no_faults());
        for number in 0..5 {
            sim.lock().write("node1", DATA, &format!(" {number}"));
            after(&sim, 16 * MINUTE);
        }
        let left: Vec<String> = orphans(&sim, "node1").into_iter().filter(|name| !before.contains(name)).collect();
        sim.violations();
        assert!(left.is_empty(), "lost {lost}: {left:?}\n{:#}", replica(&sim, "node2"));
    }
}

/// The slave's agent sees the plugin's snapshots no more (a mount that is gone after a reboot). Neither the handler nor the plugin replicates from then
/// on: status says so, until somebody copies data into the application.
#[test]
fn that_nothing_is_replicated_any_more_stays_wrong_after_a_migrate() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    tick(&sim);
    assert!(replica(&sim, "node2")["last"].is_object());
    sim.lock().node("node2").no_snapshots_seen = true;
    sim.settle();
    after(&sim, HOUR);
    let before = run(&sim, "node1", Start::Status);
    let payload = json!({"repo": COPY, "branch": "master", "target": {"repo": URL}});
    all_well(&sim.deliver_all(&[event("m", "migrate", &payload)]));
    sim.settle();
    for _ in 0..48 {
        sim.lock().write("node1", DATA, " and more");
        after(&sim, HOUR);
    }
    let after = run(&sim, "node1", Start::Status);
    let schedules: Vec<_> = sim.lock().nodes["node1"].plugin.schedules.keys().cloned().collect();
    sim.violations();
    assert_eq!((before.status, after.status), (Some(1), Some(1)), "before: {before}\nafter: {after}\nschedules: {schedules:?}");
}

/// The same before the first set has come.
#[test]
fn that_nothing_is_replicated_is_wrong_where_it_never_was() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().node("node2").no_snapshots_seen = true;
    sim.settle();
    for _ in 0..48 {
        sim.lock().write("node1", DATA, " and more");
        after(&sim, HOUR);
    }
    let status = run(&sim, "node1", Start::Status);
    let schedules: Vec<_> = sim.lock().nodes["node1"].plugin.schedules.keys().cloned().collect();
    sim.violations();
    assert!(status.status == Some(1) || !schedules.is_empty(), "{status}\nschedules: {schedules:?}");
}

/// The plugin does not answer while an undo would put the data back; an operator gives the undo up, mends the plugin, and removes the file that he was told
/// to remove. What was intended last stays open: each set that is taken from then on passes for what was set aside.
#[test]
fn sets_after_an_undo_that_was_given_up_are_sets() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    push(&sim, "x-standin: {start: unhealthy, writes: WRONG}");
    sim.on_each("node1", "Snapshot.Restore", Act::Hang);
    fails_and_is_given_up(&sim);
    let given_up = sim.disk("node1", |disk| disk.paths().into_iter().find(|path| path.contains("given-up")));
    let given_up = given_up.expect("a journal that was given up");
    // He has put the old data back into the volume.
    sim.lock().plugin("node1").volumes.insert(DATA.to_owned(), "orders of monday|".to_owned());
    let path = Path::new(given_up.split_whitespace().next().unwrap()).to_owned();
    sim.disk("node1", |disk| disk.remove(&path).unwrap());
    for start in [Start::Check, Start::Work(APP.to_owned()), Start::Check] {
        sim.pass(MINUTE);
        sim.start("node1", start);
        sim.run_until_rest();
    }
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    let before = run(&sim, "node1", Start::Status);
    let aside = |text: &str| text.lines().filter(|line| line.starts_with(&format!("    {DATA}@"))).count();
    for number in 0..24 {
        sim.lock().write("node1", DATA, &format!(" {number}"));
        after(&sim, HOUR);
    }
    assert!(replica(&sim, "node2")["last"]["snapshots"].is_object(), "{:#}", replica(&sim, "node2"));
    let now = run(&sim, "node1", Start::Status);
    let newest = last(&sim, "node2");
    sim.violations();
    assert!(
        aside(&now.stderr) <= aside(&before.stderr) && !now.stderr.contains(&format!("    {newest}:")),
        "{}\nbefore: {before}\nnow: {now}",
        own(&sim, "node1")
    );
}

/// A set is on its way when the application is deployed with another slave. It arrives, is void, and nobody ever removes it.
#[test]
fn what_was_on_its_way_to_a_former_slave_goes() {
    for slave in ["node2", "node3"] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.pass(16 * MINUTE);
        sim.on("node1", "Snapshot.Send", Act::Slow(5 * MINUTE));
        sim.start("node1", Start::Sets);
        until(&sim, "the set", || !replica(&sim, "node2")["next"].is_null());
        let set = replica(&sim, "node2")["next"]["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned();
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("second", "node1", Some(slave))])));
        sim.run_until_rest();
        sim.no_faults();
        sim.settle();
        assert_eq!(sim.lock().ended("second")["state"], "done");
        for number in 0..60 {
            sim.lock().write("node1", DATA, &format!(" {number}"));
            after(&sim, 12 * HOUR);
        }
        assert!(held(&sim, slave, &last(&sim, slave)).is_some());
        let there = held(&sim, "node2", &set).is_some();
        let (in_book, aside) = (book(&sim, "node2").contains(&set), own(&sim, "node2").contains(&set));
        sim.violations();
        assert!(
            !there,
            "slave {slave}: a month later {set} is on node2; in its book {in_book}, aside {aside}\n{:#}",
            replica(&sim, "node2")
        );
    }
}

/// A test instance, deployed months ago, into which data is copied each night. A set is on its way when it is deployed anew. No master has ever died.
#[test]
fn what_a_deploy_overtakes_is_not_set_aside_as_of_a_dead_master() {
    for nights in [3, 59] {
        let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
        tick(&sim);
        for night in 0..nights {
            sim.pass(2 * HOUR);
            let payload = json!({"repo": COPY, "branch": "master", "target": {"repo": URL}});
            all_well(&sim.deliver_all(&[event(&format!("m{night}"), "migrate", &payload)]));
        }
        sim.settle();
        tick(&sim);
        assert!(held(&sim, "node2", &last(&sim, "node2")).is_some());
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.pass(16 * MINUTE);
        sim.on("node1", &format!("Snapshot.Send {DATA}"), Act::Slow(5 * MINUTE));
        sim.start("node1", Start::Sets);
        until(&sim, "the set", || !replica(&sim, "node2")["next"].is_null());
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("second", "node1", Some("node2"))])));
        sim.run_until_rest();
        sim.no_faults();
        sim.settle();
        assert_eq!(sim.lock().ended("second")["state"], "done");
        for _ in 0..3 {
            sim.lock().write("node1", DATA, ".");
            after(&sim, 16 * MINUTE);
        }
        let status = run(&sim, "node2", Start::Status);
        sim.violations();
        assert!(!status.stderr.contains("of a master that died"), "nights {nights}: {status}");
    }
}

/// The master dies in the middle of a send; its slave takes over from the confirmed set. What has arrived is torn.
#[test]
fn what_a_dead_master_was_sending_does_not_stay_torn_for_ever() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.pass(16 * MINUTE);
    sim.lock().plugin("node2").torn = 1;
    sim.fault(|e| e.node == "node1" && e.what == "Snapshot.Send", 1, Act::KillAfter);
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    let torn = replica(&sim, "node2")["next"]["snapshots"][DATA]["snapshot"].as_str().unwrap().to_owned();
    assert!(!sim.lock().nodes["node2"].plugin.subvolumes[&torn].read_only);
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    tick(&sim);
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    sim.settle();
    assert_eq!(sim.lock().ended("over")["state"], "done");
    for number in 0..60 {
        sim.lock().write("node2", DATA, &format!(" {number}"));
        after(&sim, 12 * HOUR);
    }
    let there = held(&sim, "node2", &torn).is_some();
    let left = orphans(&sim, "node2");
    sim.violations();
    assert!(!there, "a month later: {torn} {left:?}\n{:#}", replica(&sim, "node2"));
}

/// The same where the sender is still at the first of two volumes: the former slave finds nothing of the second one yet, and forgets its name. Then it
/// arrives.
#[test]
fn what_a_sender_of_an_old_reign_sends_after_it_was_called_void_is_not_forgotten() {
    let mut wrong = Vec::new();
    for (what, master, slave) in [("another slave", "node1", "node3"), ("moved", "node2", "node1"), ("a redeploy", "node1", "node2")] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        commit(&sim, &with_extra(""));
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        sim.settle();
        tick(&sim);
        assert!(replica(&sim, "node2")["last"]["snapshots"][EXTRA].is_object());
        for volume in [DATA, EXTRA] {
            sim.lock().write("node1", volume, " and of tuesday");
        }
        sim.pass(16 * MINUTE);
        sim.on("node1", &format!("Snapshot.Send {DATA}"), Act::Slow(2 * HOUR));
        sim.start("node1", Start::Sets);
        until(&sim, "the set", || !replica(&sim, "node2")["next"].is_null());
        let set = replica(&sim, "node2")["next"]["snapshots"][EXTRA]["snapshot"].as_str().unwrap().to_owned();
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("third", master, Some(slave))])));
        until(&sim, "the deploy", || !sim.lock().ended("third").is_null());
        assert_eq!(sim.lock().ended("third")["state"], "done");
        sim.pass(MINUTE);
        sim.start("node2", Start::Sets);
        sim.run_until_rest();
        sim.no_faults();
        sim.settle();
        for number in 0..60 {
            sim.lock().write(master, DATA, &format!(" {number}"));
            sim.lock().write(master, EXTRA, &format!(" {number}"));
            after(&sim, 12 * HOUR);
        }
        let there = held(&sim, "node2", &set).is_some();
        let key = replica(&sim, "node2");
        let named = book(&sim, "node2").contains(&set) || own(&sim, "node2").contains(&set) || key.to_string().contains(&set);
        let violations = sim.violations();
        if there {
            wrong.push(format!("{what}: a month later {set} is on node2, named anywhere: {named}; {violations:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Newer plugins. A send of two hours; meanwhile the application, to which nobody writes, is deployed anew twice. The plugin names for the second deploy
/// what it took for the first one, which is in no book yet: it passes for a person's, and never goes.
#[test]
#[ignore = "open: with newer plugins what waits in `left` is not counted as written down"]
fn what_two_deploys_during_a_long_send_have_taken_goes_by_the_rule() {
    for long in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        thrifty(&sim);
        commit(&sim, &keeping("1h:1d"));
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        sim.settle();
        tick(&sim);
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.pass(16 * MINUTE);
        if long {
            sim.on("node1", "Snapshot.Send", Act::Slow(2 * HOUR));
        }
        sim.start("node1", Start::Sets);
        until(&sim, "the set", || !replica(&sim, "node2")["next"].is_null());
        sim.lock().write("node1", DATA, " and of wednesday");
        let mut taken = Vec::new();
        for word in ["third", "fourth"] {
            let before = snapshots(&sim, "node1", DATA);
            NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy(word, "node1", Some("node2"))])));
            until(&sim, word, || !sim.lock().ended(word).is_null());
            assert_eq!(sim.lock().ended(word)["state"], "done");
            // Until the worker has ended.
            sim.steps(300);
            if !long {
                tick(&sim);
            }
            taken.extend(snapshots(&sim, "node1", DATA).into_iter().filter(|name| !before.contains(name)));
        }
        sim.run_until_rest();
        sim.no_faults();
        sim.settle();
        for number in 0..60 {
            sim.lock().write("node1", DATA, &format!(" {number}"));
            after(&sim, 12 * HOUR);
        }
        let left: Vec<String> = snapshots(&sim, "node1", DATA).into_iter().filter(|name| taken.contains(name)).collect();
        sim.violations();
        assert!(!taken.is_empty() && left.is_empty(), "long {long}: a month later {left:?} of {taken:?}; own: {}", own(&sim, "node1"));
    }
}

/// Newer plugins; nobody writes to one of two volumes. A deploy failed and was undone, so that the plugin names for the quiet volume what the undo has
/// taken. The slave boots when the next set has arrived: that is void, stays until something newer is confirmed, and nothing newer is ever taken.
#[test]
#[ignore = "open: with newer plugins an undo's snapshot stands for the next set's, and is not this program's to remove"]
fn sets_go_on_after_a_deploy_that_failed_and_a_slave_that_has_booted() {
    for failed in [false, true] {
        let sim = with_two_volumes("node2");
        sim.lock().write("node1", EXTRA, "settings|");
        tick(&sim);
        if failed {
            commit(&sim, &with_extra("x-standin: {start: unhealthy}"));
            sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
            sim.settle();
            assert_eq!(sim.lock().ended("bad")["state"], "failed");
        }
        sim.lock().write("node1", DATA, " and of tuesday");
        sim.pass(16 * MINUTE);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        assert_eq!(replica(&sim, "node2")["next"]["sent"], true);
        sim.lock().sync_snapshots("node2");
        reboot(&sim, "node2");
        for number in 0..48 {
            sim.lock().write("node1", DATA, &format!(" {number}"));
            after(&sim, HOUR);
        }
        let status = run(&sim, "node1", Start::Status);
        let newest = held(&sim, "node2", &last(&sim, "node2")).unwrap_or_default();
        sim.violations();
        assert!(newest.contains("47"), "failed {failed}: “{newest}”\n{status}\n{:#}", replica(&sim, "node2"));
    }
}

/// Newer plugins; nobody writes to the application, so that a set is of the snapshots of the one before, which is confirmed. A deploy overtakes it before
/// the slave has looked: the master strikes the confirmed one from its book with it, and what it has of that never goes.
#[test]
fn a_quiet_set_that_a_deploy_overtakes_takes_the_confirmed_one_from_no_book() {
    for overtaken in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        thrifty(&sim);
        commit(&sim, &keeping("1h:1d"));
        all_well(&sim.deliver_all(&[deploy("keeping", "node1", Some("node2"))]));
        sim.settle();
        sim.lock().write("node1", DATA, ".");
        tick(&sim);
        let confirmed = last(&sim, "node2");
        sim.pass(16 * MINUTE);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        assert_eq!(replica(&sim, "node2")["next"]["snapshots"][DATA]["snapshot"], confirmed);
        if !overtaken {
            tick(&sim);
        }
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        sim.settle();
        tick(&sim);
        for number in 0..20 {
            sim.lock().write("node1", DATA, &format!(" {number}"));
            after(&sim, 12 * HOUR);
        }
        let there = held(&sim, "node1", &confirmed).is_some();
        let named = book(&sim, "node1").contains(&confirmed) || own(&sim, "node1").contains(&confirmed);
        sim.violations();
        assert!(
            !there,
            "overtaken {overtaken}: ten days later {confirmed} is on node1, where one day is to be kept, which knows of it: {named}"
        );
    }
}

/// Newer plugins; nobody writes to one of two volumes. The master dies when a set has arrived, and its slave has not looked yet. `plan` says how to start
/// from that set: the order that it prints is refused.
#[test]
fn the_order_that_starts_from_a_newer_set_is_taken_though_one_of_its_snapshots_is_the_confirmed_ones() {
    for quiet in [false, true] {
        let sim = with_two_volumes("node2");
        sim.lock().write("node1", EXTRA, "settings|");
        tick(&sim);
        sim.lock().write("node1", DATA, " and of tuesday");
        if !quiet {
            sim.lock().write("node1", EXTRA, " changed");
        }
        sim.pass(16 * MINUTE);
        sim.start("node1", Start::Sets);
        sim.run_until_rest();
        assert!(replica(&sim, "node2")["next"]["sent"] == true);
        sim.power_off("node1");
        sim.lock().nodes.remove("node1");
        let payload = json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node3"});
        let plan = run(&sim, "node2", Start::Plan("deploy", payload.clone()));
        let said = plan.stderr.clone() + &plan.stdout;
        let note = said.lines().find(|line| line.contains("to start from it instead")).unwrap_or_default().to_owned();
        let names = note.split_once("\"replica\": ").map(|(_, names)| names[..=names.find(']').unwrap()].to_owned()).expect(&said);
        let mut by_name = payload;
        by_name["replica"] = serde_json::from_str(&names).unwrap();
        sim.deliver_all(&[event("over", "deploy", &by_name)]);
        let over = sim.lock().ended("over");
        sim.violations();
        assert!(over["state"] == "done", "quiet {quiet}: plan: {note}\n{:#}", over["reason"]);
    }
}

/// Newer plugins; a quiet volume, whose one snapshot is in each of the sets of the last hour. Another slave, whose first set is void: the master removes that
/// snapshot to take it anew, and is killed in between, or the plugin has no room. The sets of the last hour lack the volume for ever.
#[test]
#[ignore = "open: with newer plugins a snapshot that stands for another is taken after that has gone"]
fn the_sets_of_the_last_hour_stay_whole_though_a_snapshot_could_not_be_renewed() {
    for (what, act) in [("fine", None), ("killed", Some(Act::KillBefore)), ("fails", Some(Act::Fail("no space left on device".into())))] {
        let sim = with_a_quiet_volume();
        all_well(&sim.deliver_all(&[deploy("third", "node1", Some("node3"))]));
        sim.settle();
        first_set_is_void(&sim);
        sim.lock().write("node1", DATA, ".");
        let faulty = act.is_some();
        if let Some(act) = act {
            sim.fault(|e| e.node == "node1" && e.what == "Snapshot" && e.line.contains(EXTRA), 2, act);
        }
        after(&sim, 6 * MINUTE);
        assert!(sim.no_faults() || !faulty);
        after(&sim, 6 * MINUTE);
        after(&sim, 16 * MINUTE);
        assert!(replica(&sim, "node3")["last"].is_object(), "{:#}", replica(&sim, "node3"));
        let sets: Vec<serde_json::Value> = serde_json::from_str(&book(&sim, "node1")).unwrap();
        let there = [snapshots(&sim, "node1", DATA), snapshots(&sim, "node1", EXTRA)].concat();
        let names = |set: &serde_json::Value| -> Vec<String> {
            set["snapshots"].as_object().unwrap().values().map(|taken| taken["snapshot"].as_str().unwrap().to_owned()).collect()
        };
        let lacking = sets.iter().filter(|set| !names(set).iter().all(|name| there.contains(name))).count();
        sim.violations();
        assert!(lacking == 0, "{what}: {lacking} of {} sets on node1 lack a volume", sets.len());
    }
}
