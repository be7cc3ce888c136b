//! What belongs to another stays its own: volumes, containers, projects, images, what a repository asks for. And what is set aside is named.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::beside::at_work_everywhere;
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, destroy, push, shop, with_copy};
use crate::world::{Act, Cluster, Run, event, id};

/// The shop's other branch.
fn staging(word: &str, master: &str) -> Value {
    event(word, "deploy", &json!({"repo": URL, "branch": "staging", "master": master}))
}

fn ended(sim: &Sim, word: &str) -> (String, String) {
    let order = sim.lock().ended(word);
    let text = |member: &str| order[member].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

pub fn run(sim: &Sim, node: &str, start: Start) -> Run {
    // A worker that it starts may end before it.
    let verb = match start {
        Start::Check => "handler check",
        _ => "",
    };
    sim.ended();
    sim.start(node, start);
    sim.run_until_rest();
    sim.ended().into_iter().find(|run| run.node == node && run.what.contains(verb)).unwrap()
}

/// The shop on node1, and a second application that is refused for this reason, on whatever node, before anything is touched.
#[track_caller]
fn refused(first: &str, second: &str, nodes: &[&str], why: &str) {
    for node in nodes {
        let sim: Sim = shop(&NODES);
        sim.lock().commit(URL, "master", &[("docker-compose.yml", first)]);
        sim.lock().commit(URL, "staging", &[("docker-compose.yml", second)]);
        all_well(&sim.deliver_all(&[deploy("one", "node1", Some("node2"))]));
        sim.settle();
        let before = sim.state();
        sim.deliver_all(&[staging("two", node)]);
        let (state, reason) = ended(&sim, "two");
        assert!(state == "failed" && reason.contains(why) && reason.contains(APP), "{node}: {state} {reason}");
        assert_eq!(sim.state(), before, "{node}");
        // Its own it may have.
        all_well(&sim.deliver_all(&[deploy("again", "node1", Some("node2"))]));
    }
}

fn with_volume(name: &str, driver: &str) -> String {
    compose("").replace("'anybox/buttervolume:latest'", &format!("'{driver}', name: {name}"))
}

const DRIVER: &str = "anybox/buttervolume:latest";

#[test]
fn a_volume_of_another_application_is_refused() {
    let shared = with_volume("shared", DRIVER);
    let why = "the volume shared belongs to";
    // By its record, on every node: it moves, and replicas of it have its name.
    refused(&shared, &shared, &["node1", "node2", "node3"], why);
    // By whoever made it; other nodes do not have it.
    let ordinary = with_volume("shared", "local");
    refused(&ordinary, &ordinary, &["node1"], why);
    // By its name: whether it is there yet or not.
    refused(&compose(""), &with_volume(DATA, DRIVER), &NODES, "the volume shopmastere4371_data belongs to");
    refused(&compose(""), &with_volume(&format!("{PROJECT}_more"), "local"), &["node3"], "the volume shopmastere4371_more belongs to");
}

/// The one with a name of its own came first.
#[test]
fn an_application_does_not_get_the_volume_that_another_has_given_its_name() {
    let sim: Sim = shop(&NODES);
    sim.lock().commit(URL, "staging", &[("docker-compose.yml", &with_volume(DATA, DRIVER))]);
    all_well(&sim.deliver_all(&[staging("one", "node1")]));
    sim.deliver_all(&[deploy("two", "node1", None)]);
    let (state, reason) = ended(&sim, "two");
    assert!(state == "failed" && reason.contains("belongs to shop_staging."), "{state} {reason}");
    // Whose it was is gone, and what it held is kept.
    all_well(&sim.deliver_all(&[event("end", "destroy", &json!({"repo": URL, "branch": "staging"}))]));
    sim.settle();
    all_well(&sim.deliver_all(&[deploy("three", "node1", None)]));
}

/// Neither is there yet when the other one looks.
#[test]
fn of_two_that_name_one_volume_at_once_one_fails_and_leaves_it_alone() {
    for there in ["node1", "node2"] {
        let sim: Sim = shop(&NODES);
        for branch in ["master", "staging"] {
            sim.lock().commit(URL, branch, &[("docker-compose.yml", &with_volume("shared", DRIVER))]);
        }
        sim.on_each("node1", "build", Act::Slow(Duration::from_secs(60)));
        sim.on_each("node2", "build", Act::Slow(Duration::from_secs(60)));
        // The other one's commit comes between the second look and the commit.
        sim.on("node1", ", cas app/", Act::Slow(Duration::from_secs(60)));
        at_work_everywhere(&sim, &[deploy("one", "node1", None), staging("two", there)]);
        sim.run_until_rest();
        assert!(sim.struck().len() > 2);
        sim.no_faults();
        sim.settle();
        let ended = ["one", "two"].map(|word| ended(&sim, word));
        let failed: Vec<_> = ended.iter().filter(|(state, _)| state == "failed").collect();
        assert!(failed.len() == 1 && failed[0].1.contains("the volume shared belongs to"), "{ended:?}");
        let s = sim.lock();
        let record = s.keys("app/").into_iter().find_map(|key| s.kv(&key)).unwrap();
        let master = record["master"].as_str().unwrap().to_owned();
        assert!(s.nodes[&master].plugin.volumes.contains_key("shared"));
        assert_eq!((s.keys("order/"), s.nodes[&master].engine.containers.iter().filter(|c| c.running).count()), (vec![], 2));
    }
}

#[test]
fn a_container_of_another_is_refused_before_anything_stops() {
    let named = compose("container_name: web");
    refused(&named, &named, &["node1"], "the container web belongs to");
    let sim: Sim = shop(&NODES);
    for branch in ["master", "staging"] {
        sim.lock().commit(URL, branch, &[("docker-compose.yml", &named)]);
    }
    all_well(&sim.deliver_all(&[deploy("one", "node1", None), staging("two", "node2")]));
    assert_eq!(sim.lock().serving(PROJECT).len(), 2, "other nodes have no such container");
}

// ---- one project

fn other_branch(word: &str, what: &str) -> Value {
    let payload = json!({"repo": URL, "branch": "mas-ter"});
    event(word, what, &if what == "deploy" { json!({"repo": URL, "branch": "mas-ter", "master": "node1"}) } else { payload })
}

/// The project of one that was destroyed has another application now.
#[test]
fn what_was_destroyed_does_not_stop_the_application_that_has_its_project_now() {
    let sim: Sim = shop(&NODES);
    sim.lock().commit(URL, "mas-ter", &[("docker-compose.yml", &compose(""))]);
    all_well(&sim.deliver_all(&[other_branch("one", "deploy")]));
    all_well(&sim.deliver_all(&[other_branch("end", "destroy")]));
    sim.settle();
    sim.lock().log.clear();
    // Nor while it is being deployed.
    sim.on("node1", "up -d", Act::Slow(Duration::from_secs(60)));
    sim.start("node1", Start::Events(vec![deploy("two", "node1", Some("node2"))]));
    sim.steps(600);
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    assert_eq!(ended(&sim, "two"), ("done".into(), String::new()));
    all_well(&sim.deliver_all(&[]));
    sim.settle();
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    // What was stopped would be started again by itself.
    let stopped = sim.lock().log.iter().any(|e| e.line.starts_with("engine stop"));
    assert!(!stopped);
}

#[test]
fn a_deploy_right_behind_a_destroy_of_the_same_project_waits_for_it() {
    for master in ["node1", "node3"] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        sim.lock().commit(URL, "mas-ter", &[("docker-compose.yml", &compose(""))]);
        sim.on("node1", " down", Act::Slow(Duration::from_secs(60)));
        let two = event("two", "deploy", &json!({"repo": URL, "branch": "mas-ter", "master": master}));
        NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![destroy("end"), two.clone()])));
        sim.run_until_rest();
        sim.settle();
        assert_eq!((ended(&sim, "end").0, ended(&sim, "two")), ("done".into(), ("done".into(), String::new())), "{master}");
        assert_eq!(sim.lock().serving(PROJECT).len(), 2);
        assert!(sim.lock().volume(master, DATA).is_some_and(|data| !data.contains("monday")));
    }
}

// ---- images

/// Another application has pulled a newer one meanwhile, and nothing of this one has been stopped yet.
#[test]
fn a_tag_that_somebody_else_has_moved_is_not_given_back() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    sim.lock().registry.insert("cache:1".to_owned(), "cache two".to_owned());
    push(&sim, "x-standin: {build: fails}");
    let pulled = Act::First(Box::new(|s| s.engine("node1").tag("cache:1", "cache three")));
    sim.fault(|e| e.line.ends_with(" build"), 1, pulled);
    sim.deliver_all(&[deploy("bad", "node1", Some("node2"))]);
    assert_eq!(ended(&sim, "bad").0, "failed");
    let s = sim.lock();
    let engine = &s.nodes["node1"].engine;
    assert_eq!(engine.images[engine.image("cache:1").unwrap()], "cache three");
}

// ---- what a node does not know

/// After a boot the engine answers later than Consul's agent does; what the node remembered is lost.
#[test]
fn where_it_cannot_be_told_what_runs_nothing_is_begun() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.power_off("node1");
    let state = format!("/deploy/.handler/apps/{APP}/state.json");
    sim.disk("node1", |disk| disk.remove(Path::new(&state)).unwrap());
    sim.deliver_all(&[deploy("over", "node2", Some("node1"))]);
    sim.settle();
    sim.power_on("node1");
    sim.fault(|e| e.node == "node1" && e.line.contains("engine"), 0, Act::Fail("no engine".to_owned()));
    run(&sim, "node1", Start::Work(APP.to_owned())).exits(1).says("not fenced");
    assert!(!sim.disk("node1", |disk| disk.paths()).contains(&state), "its part in it has begun");
    sim.no_faults();
    sim.settle();
    assert!(sim.lock().serving(PROJECT).iter().all(|line| line.starts_with("node2")));
    assert!(sim.disk("node1", |disk| disk.paths()).contains(&state));
}

/// What another node says of itself cannot be read, and the order needs to know it.
#[test]
fn an_order_that_cannot_be_taken_for_what_a_node_says_is_named_and_ends() {
    for cancelled in [true, false] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        let payload = json!({"repo": URL, "branch": "master", "master": "node3", "slave": null});
        sim.power_off("node1");
        sim.start("node2", Start::Events(vec![event("second", "deploy", &payload)]));
        sim.on("node2", "check-not-exists", Act::KillAfter);
        sim.run_until_rest();
        sim.lock().store.set("node/node1", b"{");
        run(&sim, "node3", Start::Events(Vec::new())).exits(1);
        let said = run(&sim, "node3", Start::Status);
        said.exits(1).says("node/node1 in Consul is not what a node says of itself").says(&id("second"));
        if cancelled {
            run(&sim, "node3", Start::Cancel(id("second"), None)).exits(0);
        }
        for _ in 0..2 {
            sim.pass(Duration::from_secs(700));
            run(&sim, "node3", Start::Events(Vec::new()));
        }
        let (state, reason) = ended(&sim, "second");
        assert!(state == "failed" && (cancelled || reason.contains("node/node1 in Consul")), "{state} {reason}");
        all_well(&[run(&sim, "node3", Start::Events(Vec::new()))]);
    }
}

// ---- what is set aside

/// A version that fails has been up, and somebody has written to it: that is taken back, kept, and named until somebody removes it.
#[test]
fn what_was_written_to_a_version_that_failed_is_named() {
    for (to, from) in [("node1", "node2"), ("node2", "node1")] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        push(&sim, "x-standin: {start: unhealthy, writes: ', acknowledged'}");
        sim.deliver_all(&[deploy("bad", to, Some(from))]);
        sim.settle();
        assert_eq!(ended(&sim, "bad").0, "failed");
        let held = |snapshot: &str| sim.lock().nodes[to].plugin.snapshots.get(snapshot).cloned().unwrap_or_default();
        let said = run(&sim, to, Start::Status);
        let named: Vec<String> = said.stderr.split_whitespace().filter(|word| word.starts_with(DATA)).map(str::to_owned).collect();
        let named: Vec<&str> = named.iter().map(|word| word.trim_end_matches([':', ','])).collect();
        let aside = named.iter().find(|snapshot| held(snapshot).contains("acknowledged"));
        let aside = aside.unwrap_or_else(|| panic!("{to}: {said}")).to_string();
        said.says("buttervolume restore").says("buttervolume rm");
        // A person removes it.
        sim.lock().plugin(to).snapshots.remove(&aside);
        assert!(!run(&sim, to, Start::Status).stderr.contains(&aside));
    }
}
