//! Several nodes: roles change, data moves, nodes die and come back.

use serde_json::{Value, json};

use crate::world::outside::World;
use crate::world::shop::{COPY, destroy, migrate, taking_over};
use crate::world::{Act, Cluster, event, id};
use crate::{APP, DATA, PROJECT, URL, all_well, assert_failed, assert_order, assert_serves, compose, deploy, deployed, push, shop};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn schedules(w: &crate::world::outside::World, node: &str) -> Vec<String> {
    w.lock().nodes[node].plugin.schedules.iter().map(|((v, a), t)| format!("{v} {a} {t}")).collect()
}

fn purge() -> String {
    format!("{DATA} purge:1h:1d:1w:4w:1y 1440")
}

#[test]
fn master_and_slave_have_their_schedules() {
    let w = deployed(&NODES, "node1", Some("node2"));
    assert_eq!(schedules(&w, "node1"), [purge(), format!("{DATA} replicate:10.0.0.2 60")]);
    assert_eq!(schedules(&w, "node2"), [purge()]);
    assert_eq!(schedules(&w, "node3"), [""; 0]);
    assert!(w.state().contains(&format!("node2 /deploy/{APP}-{}", id("first"))));
    assert_eq!(w.volume("node2", DATA), None);
}

#[test]
fn a_move_takes_the_data_along() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let second = push(&w, "");
    let runs = w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    all_well(&runs);
    w.settle();
    assert_serves(&w, "node2", &second);
    // With what was written while it stopped.
    assert_eq!(w.volume("node2", DATA).unwrap(), "orders of monday|");
    assert_eq!(w.volume("node1", DATA), None);
    assert_eq!(schedules(&w, "node1"), [purge()]);
    assert_eq!(schedules(&w, "node2"), [purge(), format!("{DATA} replicate:10.0.0.1 60")]);
    let log = w.take_log();
    assert_order(
        &log,
        &[
            "node2: git clone",
            "node2: docker-compose",
            "(ready)",
            "node1: docker-compose",
            "(sent)",
            "node2: plugin Snapshot.Restore",
            "node2: docker-compose",
            "history/",
            "node1: docker",
        ],
    );
    let sends = log.iter().filter(|l| l.contains("Snapshot.Send")).count();
    assert!(sends >= 2, "a first snapshot goes while the application runs");
}

#[test]
fn a_move_to_a_node_without_a_role() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let first = w.lock().repos[URL].branches["master"].clone();
    let payload = json!({"repo": URL, "branch": "master", "master": "node3", "slave": null});
    all_well(&w.deliver_all(&[event("second", "deploy", &payload)]));
    w.settle();
    assert_serves(&w, "node3", &first);
    assert_eq!(w.volume("node3", DATA).unwrap(), "orders of monday|");
    assert_eq!((schedules(&w, "node1"), schedules(&w, "node2")), (vec![], vec![]));
    let left: Vec<_> = w.state().lines().filter(|l| l.contains("/deploy/")).map(str::to_owned).collect();
    assert_eq!(left, [format!("node3 /deploy/{APP}-{} {first}", id("second"))]);
}

#[test]
fn a_slave_changes() {
    let w = deployed(&NODES, "node1", Some("node2"));
    all_well(&w.deliver_all(&[deploy("second", "node1", Some("node3"))]));
    w.settle();
    assert_eq!(schedules(&w, "node1"), [purge(), format!("{DATA} replicate:10.0.0.3 60")]);
    assert_eq!((schedules(&w, "node2"), schedules(&w, "node3")), (vec![], vec![purge()]));
}

#[test]
fn a_new_master_that_cannot_start_it_gives_it_back() {
    for more in ["build: fails", "start: unhealthy, writes: WRONG", "start: refused"] {
        let w = deployed(&NODES, "node1", Some("node2"));
        let before = w.state();
        push(&w, &format!("x-standin: {{{more}}}"));
        let runs = w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        assert!(runs.iter().any(|r| r.status == Some(1)));
        w.settle();
        assert_eq!(w.state(), before, "{more}");
        assert_failed(&w, "second", &[]);
    }
}

#[test]
fn a_node_that_does_not_see_the_data_is_refused() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let before = w.state();
    let events = Value::from(vec![deploy("second", "node1", Some("node2"))]).to_string();
    w.handler("node1", &[]).env("BTRFSDRIVER", "other:latest").stdin(&events).run().exits(1);
    w.settle();
    assert_eq!(w.state(), before);
    assert_failed(&w, "second", &["holds the data", "BTRFSDRIVER"]);
}

#[test]
fn a_source_that_cannot_send_keeps_it() {
    // Once is nothing: it is sent as a whole then.
    for (broken, times) in [("Snapshot.Send", 0), (" stop", 1)] {
        let w = deployed(&NODES, "node1", Some("node2"));
        let before = w.state();
        w.on_nth("node1", broken, times, Act::Fail("connection refused".to_owned()));
        w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        w.no_faults();
        w.settle();
        assert_eq!(w.state(), before, "{broken}");
        assert_failed(&w, "second", &["connection refused"]);
    }
}

#[test]
fn a_send_that_fails_after_the_stop_gives_it_back() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let before = w.state();
    let refuse = |s: &mut crate::world::State| s.nodes.get_mut("node2").unwrap().island = 5;
    w.on("node1", " stop", Act::First(Box::new(refuse)));
    w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    w.heal();
    w.settle();
    assert_eq!(w.state(), before);
    assert_failed(&w, "second", &["timed out"]);
}

#[test]
fn destroy_leaves_the_snapshots() {
    let w = deployed(&NODES, "node1", Some("node2"));
    all_well(&w.deliver_all(&[destroy("end")]));
    w.settle();
    assert_eq!(w.state(), "\n");
    let kept = w.lock().nodes["node1"].plugin.snapshots.values().any(|c| c == "orders of monday|");
    assert!(kept, "with what was written while it stopped");
    assert_eq!(crate::finished(&w, "end")["state"], "done");
}

#[test]
fn destroy_of_nothing_fails_clearly() {
    let w = shop(&NODES);
    w.deliver("node1", &[destroy("end")]).exits(1).says(APP);
}

fn with_copy(node: &str, more: &str, files: &[(&str, &str)]) -> (World, String, String) {
    crate::world::shop::with_copy(node, more, files)
}

#[test]
fn migrate_copies_the_data() {
    for node in ["node1", "node3"] {
        let scripts = [("post_migrate.sh", "write data ,anonymous"), ("update.sh", "write data ,updated")];
        let (w, project, data) = with_copy(node, "", &scripts);
        all_well(&w.deliver_all(&[migrate("m")]));
        w.settle();
        assert_eq!(w.volume(node, &data).unwrap(), "orders of monday,anonymous,updated");
        assert_eq!(w.volume("node1", DATA).unwrap(), "orders of monday");
        assert_eq!((w.serving(&project).len(), w.serving(PROJECT).len()), (2, 2));
        let log = w.take_log();
        let post = format!("{node}: sh post_migrate.sh -R {URL} -B master -r {COPY} -b master");
        assert_order(&log, &["Snapshot.Restore", &post, "sh update.sh", "up -d"]);
        assert_eq!(log.iter().any(|l| l.contains("Snapshot.Send")), node == "node3");
        assert!(w.lock().nodes[node].plugin.snapshots.values().any(|c| c == "old copy|"), "the old data is kept");
    }
}

#[test]
fn a_migrate_that_fails_gives_the_old_data_back() {
    let (w, _, _) = with_copy("node3", "", &[("post_migrate.sh", "write data HALF\nexit 1")]);
    let before = w.state();
    w.deliver_all(&[migrate("m")]);
    w.settle();
    assert_eq!(w.state(), before);
    assert_eq!(w.keys("order/"), [""; 0]);
}

#[test]
fn non_migrable_volumes_stay() {
    let (w, _, data) = with_copy("node3", "", &[]);
    let text =
        compose("").replace("buttervolume:latest'", "buttervolume:latest', labels: {com.github.mlfmonde.cluster.nonmigrable: 'True'}");
    w.commit(COPY, "master", &[("docker-compose.yml", &text)]);
    let payload = json!({"repo": COPY, "branch": "master", "master": "node3"});
    all_well(&w.deliver_all(&[event("copy2", "deploy", &payload)]));
    w.deliver_all(&[migrate("m")]).iter().for_each(|r| assert!(r.status.is_some()));
    assert!(w.volume("node3", &data).unwrap().starts_with("old copy"));
}

#[test]
fn a_slave_takes_over_from_a_dead_master() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let first = w.lock().repos[URL].branches["master"].clone();
    w.replicate("node1");
    w.write("node1", DATA, " and tuesday");
    w.die("node1");
    let over = taking_over(&w.lock(), "second", "node2", Some("node3"));
    for node in ["node2", "node3"] {
        w.deliver(node, std::slice::from_ref(&over)).exits(0);
    }
    assert_eq!(w.volume("node2", DATA).unwrap(), "orders of monday");
    let serving = w.serving(PROJECT);
    assert!(serving.contains(&format!("node2 {PROJECT}-web-1 <web {first}>")), "{serving:?}");
    // It comes back with its containers running, and must put them away without touching the data.
    w.revive("node1");
    w.deliver("node1", &[]).exits(0);
    assert!(w.serving(PROJECT).iter().all(|c| c.starts_with("node2")), "{:?}", w.serving(PROJECT));
    let held = w.lock();
    let mine = &held.nodes["node1"].plugin;
    let kept = mine.volumes.values().chain(mine.snapshots.values()).any(|c| c.contains("tuesday"));
    assert!(kept, "what was written after the last replication is still there");
    assert!(!mine.schedules.keys().any(|(_, action)| action.starts_with("replicate")), "{:?}", mine.schedules);
}

#[test]
fn without_a_replica_a_takeover_says_so() {
    let w = deployed(&NODES, "node1", None);
    w.die("node1");
    w.deliver("node3", &[deploy("second", "node3", None)]).exits(1).says("empty");
    assert_failed(&w, "second", &["empty"]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node3", "empty": true});
    w.deliver("node3", &[event("third", "deploy", &payload)]).exits(0);
    assert_eq!(w.serving(PROJECT).len(), 2);
}

#[test]
fn an_application_destroyed_meanwhile_is_put_away() {
    let w = deployed(&NODES, "node1", Some("node2"));
    w.die("node1");
    all_well(&w.deliver_all(&[destroy("end")]));
    w.settle();
    assert_eq!(w.keys("app/"), [""; 0]);
    w.revive("node1");
    w.deliver("node1", &[]).exits(0).says("it has been destroyed");
    assert_eq!(w.serving(PROJECT), [""; 0]);
    assert!(!w.state().contains("/deploy/"), "the checkouts go");
    assert_eq!(schedules(&w, "node1"), [""; 0]);
    assert_eq!(w.volume("node1", DATA).unwrap(), "orders of monday|", "the data stays");
    w.settle();
}

/// Somebody restored an old backup of Consul, or deleted too much: no reason to stop anything.
#[test]
fn records_that_are_gone_without_a_destroy_stop_nothing() {
    let w = deployed(&NODES, "node1", Some("node2"));
    w.lock().store.remove(&format!("app/{APP}"));
    let before = w.state();
    for node in NODES {
        let run = w.deliver(node, &[]);
        run.exits(0);
        if node != "node3" {
            run.says("nothing is touched");
        }
    }
    assert_eq!(w.state(), before);
    let keys = w.keys("");
    keys.iter().for_each(|key| w.lock().store.remove(key));
    all_well(&w.deliver_all(&[]));
    assert_eq!(w.state(), before, "an empty Consul is the same");
}

#[test]
fn a_master_cut_off_from_consul_keeps_running() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let before = w.state();
    w.split(&["node1"]);
    let run = w.handler("node1", &["reconcile"]).env("HANDLER_TIMEOUT_CONSUL", "1").run();
    run.exits(1);
    assert_eq!(w.state(), before);
}

#[test]
fn a_reload_in_mid_deploy_does_nothing_twice() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let second = push(&w, "");
    let event = json!([deploy("second", "node2", Some("node1"))]).to_string();
    let runs: Vec<_> = (0..3).flat_map(|_| NODES).map(|n| w.handler(n, &[]).stdin(&event).spawn()).collect();
    all_well(&runs.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>());
    assert_serves(&w, "node2", &second);
    let ups = w.take_log().iter().filter(|l| l.contains("up -d")).count();
    assert_eq!(ups, 1);
}
