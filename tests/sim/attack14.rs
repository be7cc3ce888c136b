//! Stories about ordinary volumes and about starting empty, in which a promise breaks.

use std::time::Duration;

use serde_json::json;

use crate::beside::until;
use crate::sets::{MINUTE, checks, data, held, last, own, replica, tick};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, COPY, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, destroy, shop};
use crate::world::state::engine::Made;
use crate::world::state::plugin::Subvolume;
use crate::world::state::{Reach, State};
use crate::world::{Act, Cluster, event};

/// The shop's compose file with one more volume.
fn with_volume(key: &str, of_it: &str, more: &str) -> String {
    compose(more).replace("'data:/data'", &format!("'data:/data', '{key}:/{key}'")) + &format!("  {key}: {of_it}\n")
}

fn has_volume(sim: &Sim, node: &str, name: &str) -> bool {
    sim.lock().nodes[node].engine.volumes.contains_key(name)
}

/// A volume was a cache, labelled disposable; it has become what users upload, and the label is taken out. Docker never changes the labels of a volume
/// that is there. The deploy says that the volume is kept on its node; the next move (or a destroy) deletes it, and nobody has a copy.
#[test]
fn a_volume_that_is_labelled_disposable_no_more_is_not_deleted() {
    let mut wrong = Vec::new();
    for (word, leaves) in [("move", deploy("move", "node2", Some("node1"))), ("end", destroy("end"))] {
        let sim: Sim = shop(&NODES);
        let files = format!("{PROJECT}_files");
        let labelled = "{labels: {com.github.mlfmonde.cluster.disposable: 'true'}}";
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &with_volume("files", labelled, ""))]);
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &with_volume("files", "{}", ""))]);
        let runs = sim.deliver_all(&[deploy("second", "node1", None)]);
        all_well(&runs);
        sim.settle();
        let said = format!("volumes NOT protected, kept on the node where they are: {files}");
        assert!(runs.iter().any(|run| run.stderr.contains(&said)), "{said}");
        assert!(has_volume(&sim, "node1", &files));
        sim.deliver_all(&[leaves]);
        sim.settle();
        assert_eq!(sim.lock().ended(word)["state"], "done");
        if !has_volume(&sim, "node1", &files) {
            wrong.push(format!("{word}: {files}, which is kept on node1 as the deploy said, was removed"));
        }
        sim.violations();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A data volume of a service with a profile, which `docker-compose run` has made: the record does not name it yet. It is labelled disposable. A move
/// deletes it past the one door of data volumes: no snapshot of it is taken.
#[test]
fn a_volume_of_the_data_driver_that_the_record_does_not_name_goes_through_the_one_door() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let reports = format!("{PROJECT}_reports");
    {
        let mut s = sim.lock();
        let labels = [("com.github.mlfmonde.cluster.disposable".to_owned(), "true".to_owned())].into();
        s.engine("node1").volumes.insert(reports.clone(), Made { project: PROJECT.to_owned(), labels });
        s.plugin("node1").volumes.insert(reports.clone(), "reports of a year".into());
    }
    all_well(&sim.deliver_all(&[deploy("move", "node2", Some("node1"))]));
    sim.settle();
    let there = sim.lock().volume("node1", &reports);
    let kept = sim.lock().nodes["node1"].plugin.snapshots.values().any(|held| held.contains("reports of a year"));
    assert!(there.is_some() || kept, "{reports} is gone, and no snapshot has it");
}

/// A version with a new ordinary volume, with a name of its own, does not come up; another application that gives a volume the same name was ordered at
/// the same time, so that neither has seen the other's, and runs. The undo cannot remove the volume: the old version stays down, and its order
/// open, for ever.
#[test]
fn an_undo_starts_the_old_version_though_a_volume_that_it_would_remove_is_in_use() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let shared = |more: &str| with_volume("files", "{name: uploads}", more);
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &shared("x-standin: {start: unhealthy}"))]);
    sim.lock().commit(COPY, "master", &[("docker-compose.yml", &shared(""))]);
    let copy = event("copy", "deploy", &json!({"repo": COPY, "branch": "master", "master": "node1"}));
    // A build of some minutes; the failing one is undone after that.
    sim.fault(|e| e.node == "node1" && e.line.contains("copy") && e.line.ends_with(" build"), 1, Act::Slow(Duration::from_secs(30)));
    sim.fault(|e| e.node == "node1" && e.line.contains(PROJECT) && e.line.contains(" down"), 1, Act::Slow(Duration::from_secs(100)));
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![copy.clone(), deploy("second", "node1", None)])));
    sim.run_until_rest();
    assert!(sim.no_faults());
    assert_eq!(sim.lock().ended("copy")["state"], "done");
    sim.try_settle().ok();
    checks(&sim, 3);
    sim.try_settle().ok();
    let serving = sim.lock().serving(PROJECT);
    let orders = sim.lock().keys("order/");
    let second = sim.lock().ended("second");
    let violations = sim.violations();
    assert!(violations.is_empty(), "{violations:#?}");
    assert!(serving.len() == 2 && orders.is_empty(), "serving {serving:?}, open {orders:?}, {second:#}");
}

/// Another application uses the shop's cache, which is labelled disposable, as an external volume. The shop moves away: the cache cannot be removed. It
/// can never come back to that node, although all is well.
#[test]
fn an_application_comes_back_to_a_node_though_its_cache_is_in_use_there() {
    let sim: Sim = shop(&NODES);
    let cache = with_volume("thumbs", "{name: thumbs, labels: {com.github.mlfmonde.cluster.disposable: 'true'}}", "");
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &cache)]);
    sim.lock().commit(COPY, "master", &[("docker-compose.yml", &with_volume("thumbs", "{name: thumbs, external: true}", ""))]);
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    let copy = event("copy", "deploy", &json!({"repo": COPY, "branch": "master", "master": "node1"}));
    sim.deliver_all(&[copy]);
    sim.settle();
    let told = sim.lock().ended("copy");
    assert_eq!(told["state"], "done", "{told:#}");
    sim.deliver_all(&[deploy("away", "node2", None)]);
    sim.try_settle().ok();
    assert_eq!(sim.lock().ended("away")["state"], "done");
    sim.deliver_all(&[deploy("back", "node1", None)]);
    sim.try_settle().ok();
    checks(&sim, 3);
    sim.try_settle().ok();
    let back = sim.lock().ended("back");
    sim.violations();
    assert_eq!(back["state"], "done", "{back:#}");
}

/// The first set is being sent when node1's agent ends, and nothing else of it: its plugin goes on sending. An operator orders a takeover that may start
/// empty. The set arrives on node2 when the takeover has chosen already, and is confirmed there before the commit.
#[test]
fn what_is_confirmed_while_a_takeover_starts_empty_is_not_passed_over() {
    let mut wrong = Vec::new();
    for confirmed in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        // Told, and being sent.
        let newer = {
            let mut s = sim.lock();
            let record = s.kv(&format!("app/{APP}")).unwrap();
            let set = s.send_set("node1", "node2", &record).unwrap();
            let mut replica = s.kv(&format!("replica/{APP}/node2")).unwrap_or_else(|| json!({}));
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
        assert!(replica(&sim, "node2")["last"].is_null(), "{:#}", replica(&sim, "node2"));
        let name = newer.clone();
        let arrives = move |s: &mut State| {
            let plugin = s.plugin("node2");
            plugin.snapshots.insert(name.clone(), whole.0.clone());
            plugin.subvolumes.insert(name.clone(), whole.1.clone());
        };
        sim.on("node2", "up -d", Act::First(Box::new(arrives)));
        sim.on("node2", "agent/service/register", Act::Slow(MINUTE));
        let payload = json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node3", "empty": true});
        for node in ["node2", "node3"] {
            sim.start(node, Start::Events(vec![event("over", "deploy", &payload)]));
        }
        until(&sim, "the arrival", || held(&sim, "node2", &newer).is_some_and(|held| held.contains("monday")));
        if confirmed {
            sim.start("node2", Start::Sets);
            until(&sim, "the confirmation", || last(&sim, "node2") == newer);
            assert!(sim.lock().ended("over").is_null(), "it is not at its end yet");
        }
        sim.run_until_rest();
        sim.no_faults();
        checks(&sim, 2);
        let over = sim.lock().ended("over");
        let has = data(&sim, "node2", DATA).contains("monday");
        let aside = own(&sim, "node2").contains(&newer);
        sim.violations();
        if over["state"] == "done" && !has {
            wrong.push(format!("confirmed {confirmed}: it runs without the data, set aside: {aside}, notes {}", over["notes"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The power of two nodes of five fails: of the master, and of its slave, which has the only confirmed set. An operator orders a takeover elsewhere that
/// may start empty. The slave is back before that is at its commit: it lives, and holds the data.
#[test]
fn nothing_is_committed_empty_while_a_node_that_holds_a_confirmed_set_lives() {
    let mut wrong = Vec::new();
    for when in ["pull", "up -d"] {
        let sim: Sim = deployed(&["node1", "node2", "node3", "node4", "node5"], "node1", Some("node2"));
        tick(&sim);
        let set = last(&sim, "node2");
        assert!(held(&sim, "node2", &set).is_some_and(|held| held.contains("monday")));
        sim.power_off("node1");
        sim.power_off("node2");
        sim.on("node3", when, Act::First(Box::new(|s: &mut State| s.revive("node2"))));
        let payload = json!({"repo": URL, "branch": "master", "master": "node3", "slave": "node4", "empty": true});
        for node in ["node3", "node4", "node5"] {
            sim.start(node, Start::Events(vec![event("over", "deploy", &payload)]));
        }
        sim.run_until_rest();
        assert!(sim.no_faults());
        let over = sim.lock().ended("over");
        sim.violations();
        if over["state"] == "done" && !data(&sim, "node3", DATA).contains("monday") {
            wrong.push(format!("back at {when}: it runs without the data, {}", over["notes"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
