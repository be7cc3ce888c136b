//! The health check: what it finds, what it begins again, and what it leaves alone.

use std::path::Path;
use std::time::Duration;

use handler::outside::doors::Write;
use serde_json::json;

use crate::world::inside::{Disk, Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, push, shop};
use crate::world::{Act, Cluster, Run, id};

const SECONDS: Duration = Duration::from_secs(15);

/// One check, and all that it starts; what it prints is in its log.
fn check(sim: &Sim, node: &str) -> Run {
    sim.ended();
    sim.start(node, Start::Check);
    sim.run_until_rest();
    sim.ended().into_iter().find(|run| run.what.ends_with("handler check")).unwrap()
}

/// As Consul's agent runs it, for so long; the last one.
fn checks(sim: &Sim, node: &str, time: Duration) -> Run {
    let mut last = check(sim, node);
    for _ in 0..time.as_secs() / SECONDS.as_secs() {
        sim.pass(SECONDS);
        last = check(sim, node);
    }
    last
}

fn ups(sim: &Sim) -> usize {
    sim.lock().log.iter().filter(|e| e.line.contains(" up -d")).count()
}

fn kill(sim: &Sim, service: &str, start: &str) {
    let mut s = sim.lock();
    let container = s.engine("node1").containers.iter_mut().find(|c| c.service == service).unwrap();
    (container.running, container.start) = (false, start.to_owned());
}

fn remove(sim: &Sim, service: &str) {
    sim.lock().engine("node1").containers.retain(|c| c.service != service);
}

#[track_caller]
fn assert_serves(sim: &Sim) {
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    assert_eq!(sim.lock().volume("node1", DATA).unwrap().replace('|', ""), "orders of monday");
}

#[test]
fn all_is_well_and_nothing_is_done() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().confirm_sets("node1");
    for node in NODES {
        check(&sim, node).exits(0).says("nothing is wrong (applications of the cluster: 1)");
    }
    // What this node says of itself, said once more.
    assert!(sim.lock().log.iter().all(|e| e.is_read || e.line.contains(" node/")), "{:?}", sim.lock().log);
    assert_eq!(sim.disk("node3", |disk| disk.paths().iter().filter(|path| path.ends_with("/tried.json")).count()), 0);
}

#[test]
fn what_somebody_has_removed_is_made_and_started_again() {
    let sim: Sim = deployed(&NODES, "node1", None);
    let before = sim.state();
    for removed in [&["web"][..], &["cache"], &["web", "cache"]] {
        removed.iter().for_each(|service| remove(&sim, service));
        check(&sim, "node1").exits(1).says(&format!("wrong: {APP}: "));
        check(&sim, "node1").exits(0);
        assert_serves(&sim);
        let state = |text: String| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(state(sim.state()), state(before.clone()), "policies, too");
        checks(&sim, "node1", Duration::from_secs(1000)).exits(0);
    }
}

/// The engine gives up on containers whose volume plugin comes later than it.
#[test]
fn what_the_engine_has_given_up_runs_once_the_plugin_is_there() {
    let sim: Sim = deployed(&NODES, "node1", None);
    sim.pass(Duration::from_secs(60)); // all that is there is on the disk
    sim.power_off("node1");
    sim.run_until_rest();
    sim.power_on("node1");
    ["web", "cache"].iter().for_each(|service| kill(&sim, service, ""));
    sim.lock().node("node1").has_plugin = false;
    let found = checks(&sim, "node1", Duration::from_secs(240));
    found.exits(1).says("the volume plugin is not running on this node").says("not started: the volume plugin is not running");
    found.says("a worker looks again in ").says("it said last: last words");
    assert_eq!(ups(&sim), 0);
    sim.lock().node("node1").has_plugin = true;
    checks(&sim, "node1", Duration::from_secs(600)).exits(0);
    assert_serves(&sim);
}

/// A plugin without its disk has no volumes: compose would make an empty one.
#[test]
fn nothing_is_started_without_its_data() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    let data = sim.lock().plugin("node1").volumes.remove(DATA).unwrap();
    ["web", "cache"].iter().for_each(|service| remove(&sim, service));
    checks(&sim, "node1", Duration::from_secs(60)).exits(1).says(&format!("not started: the record names the data volume {DATA}"));
    assert!(sim.lock().volume("node1", DATA).is_none() && ups(&sim) == 0);
    sim.lock().plugin("node1").volumes.insert(DATA.to_owned(), data);
    checks(&sim, "node1", Duration::from_secs(600)).exits(0);
    assert_serves(&sim);
}

/// The same of a volume that cannot be snapshotted.
#[test]
fn nothing_is_started_without_an_ordinary_volume() {
    let sim: Sim = shop(&["node1"]);
    let text = compose("").replace("image: cache:1", "image: cache:1\n    volumes: ['files:/files']") + "  files: {}\n";
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    all_well(&sim.deliver_all(&[deploy("first", "node1", None)]));
    sim.lock().write("node1", DATA, "orders of monday");
    sim.settle();
    remove(&sim, "cache");
    check(&sim, "node1").exits(1);
    check(&sim, "node1").exits(0);
    remove(&sim, "cache");
    sim.lock().engine("node1").volumes.clear();
    sim.pass(Duration::from_secs(1000));
    let before = ups(&sim);
    checks(&sim, "node1", Duration::from_secs(60)).exits(1).says("_files is not there, and compose would make it anew, empty");
    assert_eq!(ups(&sim), before);
}

#[test]
fn what_a_person_keeps_down_stays_down() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    sim.lock().store.set(&format!("maintenance/{APP}"), b"by hand");
    ["web", "cache"].iter().for_each(|service| kill(&sim, service, ""));
    checks(&sim, "node1", Duration::from_secs(60)).exits(0).says(&format!("note: {APP}: ")).says("keeps it so");
    assert_eq!(ups(&sim), 0);
    // Set right before the start, it is seen there, too.
    sim.lock().store.remove(&format!("maintenance/{APP}"));
    let set = |s: &mut crate::world::State| s.store.set(&format!("maintenance/{APP}"), b"by hand");
    sim.on("node1", "version --short", Act::First(Box::new(set)));
    check(&sim, "node1").exits(1);
    assert!(sim.no_faults());
    assert_eq!(ups(&sim), 0);
}

/// It has served another since the check has looked.
#[test]
fn what_has_gone_to_another_node_meanwhile_is_not_started() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    ["web", "cache"].iter().for_each(|service| kill(&sim, service, ""));
    let away = |s: &mut crate::world::State| {
        let key = format!("app/{APP}");
        let mut record = s.kv(&key).unwrap();
        record["master"] = "node2".into();
        s.store.set(&key, record.to_string().as_bytes());
    };
    sim.on("node1", "version --short", Act::First(Box::new(away)));
    check(&sim, "node1").exits(1);
    assert!(sim.no_faults());
    assert_eq!(ups(&sim), 0);
}

#[test]
fn nothing_is_started_while_an_order_is_at_work() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let order = |state: &str, undone: &[&str]| {
        json!({"id": id("second"), "created": "2026-11-24T00:00:00Z", "name": APP, "state": state, "undone": undone, "reason": "why",
            "request": {"deploy": {"repo": URL, "branch": "master", "master": "node2"}},
            "progress": {"node1": {"step": 1, "of": 2, "name": "clone", "since": ""}, "node2": {"step": 1, "of": 2, "name": "up", "since": ""}}})
    };
    ["web", "cache"].iter().for_each(|service| kill(&sim, service, ""));
    // The worker has no journal of it, and says that it is undone: from then on it is started.
    for (state, undone, started) in [("failed", &["node2"][..], 0), ("failed", &["node1"], 1)] {
        sim.lock().store.set(&format!("order/{}", id("second")), order(state, undone).to_string().as_bytes());
        check(&sim, "node1").exits(1);
        assert_eq!(ups(&sim), started, "{state} {undone:?}");
        sim.pass(SECONDS);
    }
}

/// An init container that has done its work is no reason to start anything, and is not run again with the rest.
#[test]
fn an_init_container_that_has_done_its_work_is_left_alone() {
    let sim: Sim = shop(&["node1"]);
    let init = "depends_on: {init: {condition: service_completed_successfully}}";
    let text = compose(init).replace("  cache:\n", "  init:\n    image: cache:1\n    x-standin: {start: ends}\n  cache:\n");
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
    all_well(&sim.deliver_all(&[deploy("first", "node1", None)]));
    sim.settle();
    sim.lock().log.clear();
    checks(&sim, "node1", Duration::from_secs(30)).exits(0);
    assert_eq!(ups(&sim), 0);
    kill(&sim, "web", "");
    check(&sim, "node1").exits(1).says("the container shopmastere4371-web-1 is exited (exit code 255)");
    check(&sim, "node1").exits(0);
    let up = sim.lock().log.iter().find(|e| e.line.contains(" up -d")).unwrap().line.clone();
    assert!(up.ends_with("--no-build --pull missing --no-recreate --no-deps web cache"), "{up}");
}

#[test]
fn a_crash_loop_is_not_fed() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    kill(&sim, "web", "exits");
    checks(&sim, "node1", Duration::from_secs(3600))
        .exits(1)
        .says("is exited (exit code 3); it was started three times")
        .says("last words");
    assert_eq!(ups(&sim), 3);
    // Whoever mends it starts it; that is forgotten then, and the next time it is started again.
    kill(&sim, "web", "");
    let web = sim.lock().engine("node1").containers.iter().position(|c| c.service == "web").unwrap();
    sim.lock().start("node1", web).unwrap();
    checks(&sim, "node1", Duration::from_secs(30)).exits(0);
    remove(&sim, "cache");
    checks(&sim, "node1", Duration::from_secs(30)).exits(0);
    assert_eq!(ups(&sim), 4);
    assert_serves(&sim);
}

/// The same where compose says each time that it has failed, though the containers were started.
#[test]
fn a_crash_loop_is_not_fed_though_each_start_fails() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    kill(&sim, "web", "exits");
    (1..=9).for_each(|nth| sim.fault(|e| e.node == "node1" && e.line.contains(" up -d"), nth, Act::Lose));
    checks(&sim, "node1", Duration::from_secs(3600)).exits(1).says("it was started three times");
    sim.no_faults();
    assert_eq!(ups(&sim), 3);
}

/// Nothing can be written down there; the engine knows when it has started something last.
#[test]
fn a_crash_loop_is_not_fed_on_a_full_disk() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    sim.lock().node("node1").full = true;
    kill(&sim, "web", "exits");
    checks(&sim, "node1", Duration::from_secs(3600)).exits(1).says("is exited (exit code 3)").says("almost full");
    assert!((2..=6).contains(&ups(&sim)), "{} starts in an hour", ups(&sim));
}

/// The `up` of a worker that was killed goes on; it starts nothing that has gone to another node meanwhile.
#[test]
fn what_a_killed_start_has_left_is_ended_before_anything_else() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    ["web", "cache"].iter().for_each(|service| kill(&sim, service, ""));
    sim.on("node1", " up -d", Act::Orphan(Duration::from_secs(120)));
    check(&sim, "node1");
    assert!(sim.no_faults());
    // It would be at its end between the stop here and the start there.
    sim.on("node2", "Snapshot.Restore", Act::Slow(Duration::from_secs(300)));
    all_well(&sim.deliver_all(&[deploy("second", "node2", Some("node1"))]));
    sim.pass(Duration::from_secs(300));
    sim.settle();
    let serving = sim.lock().serving(PROJECT);
    assert!(serving.len() == 2 && serving.iter().all(|line| line.starts_with("node2")), "{serving:?}");
    assert_eq!(sim.violations(), [""; 0]);
}

/// A run that has given up without a leader is begun again by the check that finds one.
#[test]
fn what_was_left_without_a_leader_is_begun_again() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    push(&sim, "");
    sim.settings(|settings| settings.timeouts.handover = Duration::from_secs(60));
    sim.on("node1", " up -d", Act::First(Box::new(|s| s.lose_leader(3_600_000_000))));
    sim.start("node1", crate::world::inside::Start::Events(vec![deploy("second", "node1", None)]));
    sim.steps(20_000);
    sim.pass(Duration::from_secs(3000));
    let left = sim.disk("node1", |disk| disk.paths().iter().any(|path| path.ends_with("/journal")));
    assert!(left, "it has come to its end");
    sim.lock().leaderless_until = 0;
    checks(&sim, "node1", Duration::from_secs(900)).exits(0);
    let left = sim.disk("node1", |disk| disk.paths().iter().any(|path| path.ends_with("/journal")));
    assert!(!left && sim.lock().keys("order/").is_empty());
    assert_serves(&sim);
}

/// Not every fifteen seconds for ever.
#[test]
fn what_cannot_be_done_is_tried_less_and_less_often() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    let path = format!("/deploy/.handler/apps/{APP}/journal");
    sim.disk("node1", |disk: &mut Disk| disk.write(Path::new(&path), b"{\"format\": 99}\n", Write::Over, true).unwrap());
    let mut workers = 0;
    for _ in 0..240 {
        sim.start("node1", Start::Check);
        sim.run_until_rest();
        workers += sim.ended().iter().filter(|run| run.what.contains("handler work")).count();
        sim.pass(SECONDS);
    }
    // After 15, 30, 60, 120, 240, 480, then each 600 seconds.
    assert!((8..=13).contains(&workers), "{workers} workers in an hour");
    let found = check(&sim, "node1");
    found.exits(1).says("a journal of this node is not at its end").says("a worker looks again in ");
}

#[test]
fn a_node_says_what_is_wrong_with_it() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    sim.lock().node("node1").full = true;
    check(&sim, "node1").exits(1).says("wrong: the disk of /deploy is almost full: 0 of 1048576 MiB are free");
    sim.lock().node("node1").full = false;
    sim.lock().store.set("app/broken", b"{}");
    sim.lock().store.set("order/broken", b"{}");
    let state = format!("/deploy/.handler/apps/{APP}/state.json");
    sim.disk("node1", |disk| disk.write(Path::new(&state), b"{", Write::Over, true).unwrap());
    check(&sim, "node1").exits(1).says("wrong: app/broken in Consul is not a record").says("order/broken in Consul is not").says(&state);
    sim.lock().lose_leader(1_000_000_000_000);
    let found = check(&sim, "node1");
    found.exits(1).says("wrong: Consul cannot be reached");
    assert!(found.took < Duration::from_secs(5), "it waits for {:?}", found.took);
}

/// A node that was only just set up, and by somebody who had better things to do.
#[test]
fn a_fresh_node_says_what_it_lacks() {
    let sim: Sim = Sim::new(&NODES);
    {
        let mut s = sim.lock();
        s.engine("node1").compose = "1.29.2".into();
        s.engine("node1").version = "19.03.1".into();
        s.node("node1").read_only = true;
        s.node("node1").configured = json!({"Watches": [{}], "Checks": []});
        s.node("node2").island = 1;
        s.node("node3").ahead += 100_000_000;
    }
    check(&sim, "node1");
    let found = check(&sim, "node1");
    found.exits(1).says("wrong: docker-compose is version \"1.29.2\"; Compose 2.15 or later is needed");
    found
        .says("wrong: Docker's engine is 19.03.1")
        .says("status 403: Permission denied; with ACLs")
        .says("wrong: node2 is not reached by ssh on port 1122");
    found.says("wrong: Consul's agent has 1 watches").says("wrong: no check of Consul's agent runs handler check");
    found.says("wrong: the clocks of this node and node3 differ by ");
    let probes = |sim: &Sim| sim.lock().log.iter().filter(|e| e.line.starts_with("docker-compose version")).count();
    assert_eq!(probes(&sim), 1);
    {
        let mut s = sim.lock();
        *s.engine("node1") = Default::default();
        s.node("node1").read_only = false;
        s.node("node1").configured = json!({});
        s.node("node1").has_plugin = false;
        s.node("node3").ahead = 0;
        s.node("node3").shut = true;
    }
    check(&sim, "node1").exits(1);
    assert_eq!(probes(&sim), 1);
    // What is mended is not called wrong for an hour; a node without the plugin sends nothing.
    let found = checks(&sim, "node1", Duration::from_secs(120));
    found
        .exits(0)
        .says("note: node2 is not reached")
        .says("note: sshd of node3 answers on port 1122, but")
        .says("note: the volume plugin is not running");
    assert_eq!(probes(&sim), 2);
    checks(&sim, "node1", Duration::from_secs(3000)).exits(0);
    assert_eq!(probes(&sim), 2);
    checks(&sim, "node1", Duration::from_secs(700)).exits(0);
    assert_eq!(probes(&sim), 3);
}

/// The engine and the agent accept, and say nothing.
#[test]
fn who_does_not_answer_is_not_waited_for() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    for (what, says) in
        [("engine GET", "Docker's engine does not answer"), ("plugin GET", "volume plugin: Schedule.List"), ("consul GET", "Consul cannot")]
    {
        sim.on_each("node1", what, Act::Hang);
        let found = check(&sim, "node1");
        found.exits(1).says(says);
        assert!(found.took < Duration::from_secs(8), "{what}: {:?}", found.took);
        sim.no_faults();
    }
}

/// What an older handler has let through is served until there is a new version, and said before that.
#[test]
fn routes_that_would_be_refused_are_named() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    checks(&sim, "node1", Duration::from_secs(60)).exits(0);
    let key = format!("app/{APP}");
    let record = sim.lock().kv(&key).unwrap();
    let backend = json!({"name": "a", "port": 1, "peer_port": 2222, "ct": "c"});
    let haproxy = json!({"x": {"frontend": {"mode": "tcp", "bind": ["*:2222"], "options": ["stats enable"]}, "backends": [backend]}});
    for (member, value, why) in [
        ("haproxy", haproxy, "HAPROXY: x.frontend.options: \"stats enable\" cannot be used here"),
        ("caddyfile", json!("http://* {\n    respond x\n}"), "the address http://*: it stands for every host"),
    ] {
        let mut changed = record.clone();
        changed[member] = value;
        sim.lock().store.set(&key, changed.to_string().as_bytes());
        check(&sim, "node1").exits(0).says("served as its record stands, but a new version of it may be refused: ").says(why);
    }
}

/// A rule that is newer than what runs does not keep it from being taken over, moved or brought other data: only a new version falls by it.
#[test]
fn what_runs_does_not_fall_by_a_newer_rule() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let haproxy = json!({"x": {"frontend": {"mode": "tcp", "bind": ["*:2222"], "options": ["stats enable"]}, "backends": [{"name": "a", "port": 1, "peer_port": 2222}]}});
    let commit = push(&sim, &format!("environment: {{HAPROXY: '{haproxy}'}}"));
    let orders = |id: &str| sim.deliver_all(&[deploy(id, "node2", Some("node1"))]);
    orders("new version");
    sim.settle();
    assert_eq!(sim.lock().ended("new version")["state"], "failed");
    assert!(sim.lock().ended("new version")["reason"].as_str().unwrap().contains("\"stats enable\" cannot be used here"));
    // As if an older handler had deployed it.
    let key = format!("app/{APP}");
    let mut record = sim.lock().kv(&key).unwrap();
    (record["commit"], record["haproxy"]) = (json!(commit), haproxy);
    record["haproxy"]["x"]["backends"][0]["ct"] = json!("c");
    sim.lock().store.set(&key, record.to_string().as_bytes());
    orders("move");
    sim.settle();
    assert_eq!(sim.lock().ended("move")["state"], "done", "{}", sim.lock().ended("move"));
    assert_eq!(sim.lock().kv(&key).unwrap()["haproxy"], record["haproxy"]);
}
