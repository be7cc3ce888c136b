//! What an order does not say, and what it says that nobody else is to hear: the slave that is kept, and what a repository asks for.

use std::path::Path;
use std::time::Duration;

use handler::model::names::App;
use serde_json::{Value, json};

use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, URL, all_well, deploy, deployed, push_to, shop};
use crate::world::{Act, Cluster, Run, event, id};

fn record(sim: &Sim) -> Value {
    let s = sim.lock();
    s.kv(&s.keys("app/")[0]).unwrap()
}

fn without_a_slave(word: &str, master: &str) -> Value {
    event(word, "deploy", &json!({"repo": URL, "branch": "master", "master": master, "slave": null}))
}

/// The shop on node1 with its slave on node2, then an order without one for `master`; the slave afterwards.
#[track_caller]
fn slave_after(sim: Sim, master: &str, before: impl Fn(&Sim)) -> (Sim, Value) {
    sim.lock().replicate("node1");
    before(&sim);
    sim.deliver_all(&[deploy("second", master, None)]);
    sim.settle();
    let ended = sim.lock().ended("second");
    assert_eq!(ended["state"], "done", "{ended:#}");
    let record = record(&sim);
    assert_eq!(record["master"], master);
    assert_eq!(ended["request"]["deploy"]["slave"], record["slave"], "the order says who it is");
    (sim, record["slave"].clone())
}

/// Whose nodes cannot look at snapshots, so that the plugin replicates by its schedules.
fn scheduled() -> Sim {
    let sim: Sim = shop(&NODES);
    sim.lock().nodes.values_mut().for_each(|node| node.no_snapshots_seen = true);
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.lock().write("node1", DATA, "orders of monday");
    sim.settle();
    sim
}

fn replicates_to(sim: &Sim, node: &str) -> Vec<String> {
    let s = sim.lock();
    let actions = s.nodes[node].plugin.schedules.keys().map(|(_, action)| action.clone());
    actions.filter(|action| action.starts_with("replicate:")).collect()
}

#[test]
fn a_slave_that_is_not_named_stays() {
    let (sim, slave) = slave_after(scheduled(), "node1", |_| {});
    assert_eq!(slave, "node2");
    assert_eq!(replicates_to(&sim, "node1"), ["replicate:10.0.0.2"]);
    // Dead or alive, and when the application moves.
    assert_eq!(slave_after(scheduled(), "node1", |sim| sim.power_off("node2")).1, "node2");
    let (sim, slave) = slave_after(scheduled(), "node3", |_| {});
    assert_eq!(slave, "node2");
    assert_eq!(replicates_to(&sim, "node3"), ["replicate:10.0.0.2"]);
}

#[test]
fn the_old_master_becomes_the_slave_of_its_slave_if_it_lives() {
    let (sim, slave) = slave_after(scheduled(), "node2", |_| {});
    assert_eq!(slave, "node1");
    assert_eq!(replicates_to(&sim, "node2"), ["replicate:10.0.0.1"]);
    let (sim, slave) = slave_after(deployed(&NODES, "node1", Some("node2")), "node2", |sim| sim.power_off("node1"));
    assert_eq!(slave, Value::Null);
    let notes = sim.lock().ended("second")["notes"].to_string();
    assert!(notes.contains("no slave: node1, which was the master, is dead"), "{notes}");
}

#[test]
fn a_slave_that_is_no_member_any_more_is_a_warning() {
    let (sim, slave) = slave_after(scheduled(), "node1", |sim| drop(sim.lock().nodes.remove("node2")));
    assert_eq!(slave, Value::Null);
    let notes = sim.lock().ended("second")["notes"].to_string();
    assert!(notes.contains("no slave: node2, which was it, is no member of the cluster any more"), "{notes}");
}

/// It dies as soon as it has said who the slave will be; what it has said then holds.
#[test]
fn what_the_owner_has_settled_stays_settled() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.fault(|e| e.node == "node2" && e.line.contains("cas order/"), 1, Act::KillAfter);
    sim.start("node2", Start::Events(vec![deploy("second", "node2", None)]));
    sim.run_until_rest();
    // The event is taken in once more.
    sim.fault(|e| e.node == "node2" && e.line.contains("cas order/"), 2, Act::KillAfter);
    sim.start("node2", Start::Events(Vec::new()));
    sim.run_until_rest();
    let open = sim.lock().kv(&format!("order/{}", id("second"))).unwrap();
    assert_eq!((&open["owner"], &open["request"]["deploy"]["slave"]), (&json!("node2"), &json!("node1")), "{open:#}");
    sim.no_faults();
    sim.settle();
    assert_eq!(record(&sim)["slave"], "node1");
}

#[test]
fn null_ends_it_and_is_another_thing_than_nothing() {
    let sim = scheduled();
    all_well(&sim.deliver_all(&[without_a_slave("second", "node1")]));
    sim.settle();
    assert_eq!(record(&sim)["slave"], Value::Null);
    assert_eq!(replicates_to(&sim, "node1"), [""; 0]);
    assert_eq!(sim.lock().ended("second")["needs"], 2);
}

/// An older handler has written it so where nothing was said.
#[test]
fn a_null_in_an_order_that_needs_nothing_says_nothing() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let request = json!({"deploy": {"repo": URL, "branch": "master", "master": "node1", "slave": null, "update": false, "empty": false}});
    let order =
        json!({"id": id("old"), "name": APP, "request": request, "state": "open", "created": "2100-01-01T00:00:00Z", "progress": {}});
    sim.lock().store.set(&format!("order/{}", id("old")), order.to_string().as_bytes());
    sim.settle();
    assert_eq!(sim.lock().ended("old")["state"], "done");
    assert_eq!(record(&sim)["slave"], "node2");
}

/// One that is dead may come back, too.
#[test]
fn null_is_refused_while_a_member_is_too_old_for_it() {
    for about in [None, Some(json!({"version": "0.1", "understands": 1}))] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        match &about {
            Some(about) => sim.lock().store.set("node/node3", about.to_string().as_bytes()),
            None => sim.lock().store.remove("node/node3"),
        }
        sim.power_off("node3");
        let said = if about.is_some() { "node3 is too old for it: its handler is 0.1" } else { "its handler is older than 0.2" };
        for run in sim.deliver_all(&[without_a_slave("second", "node1")]) {
            run.exits(1).says("refused: ").says(said);
        }
        assert_eq!((record(&sim)["slave"].clone(), sim.lock().keys("order/").len()), ("node2".into(), 0));
        sim.power_on("node3");
        sim.settle();
        all_well(&sim.deliver_all(&[without_a_slave("third", "node1")]));
        assert_eq!(record(&sim)["slave"], Value::Null, "once it has said that it is new enough");
    }
}

// ---- what a repository asks for

const WEB: &str = "https://git.example.com/shop";

/// Its server asks from now on.
fn asks(sim: &Sim, user: &str, password: &str) {
    push_to(sim, WEB, "", &[("update.sh", "echo updated")]);
    sim.lock().repos.get_mut(WEB).unwrap().asks = Some(format!("https://git.example.com\n{user}\n{password}"));
}

fn ordered(word: &str, repo: &str, slave: bool) -> Value {
    let mut payload = json!({"repo": repo, "branch": "master", "master": "node1", "update": true});
    if slave {
        payload["slave"] = "node2".into();
    }
    event(word, "deploy", &payload)
}

fn web() -> Sim {
    let sim = <Sim as Cluster>::new(&NODES);
    sim.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    NODES.iter().for_each(|node| sim.start(node, Start::Events(Vec::new())));
    sim.run_until_rest();
    sim.ended();
    sim
}

/// What Consul keeps for the application.
fn credential(sim: &Sim) -> Option<Value> {
    let s = sim.lock();
    s.keys("credential/").first().map(|key| s.kv(key).unwrap())
}

/// All that anybody could read, but that key: Consul's other keys, what the nodes have on their disks, what was said, how programs were called.
#[track_caller]
fn assert_nowhere(sim: &Sim, runs: &[Run], secret: &str) {
    let mut found: Vec<String> =
        runs.iter().filter(|run| format!("{}{}", run.stdout, run.stderr).contains(secret)).map(Run::to_string).collect();
    let s = sim.lock();
    found.extend(s.keys("").into_iter().filter(|key| !key.starts_with("credential/") && s.store.text(key).unwrap().contains(secret)));
    found.extend(s.log.iter().map(|effect| effect.line.clone()).filter(|line| line.contains(secret)));
    drop(s);
    for node in NODES {
        let files = sim.disk(node, |disk| {
            let read = |path: &String| disk.read(Path::new(path), 1 << 20).unwrap_or_default();
            let has = |path: &String| String::from_utf8_lossy(&read(path)).contains(secret);
            disk.paths().into_iter().filter(has).collect::<Vec<_>>()
        });
        found.extend(files);
    }
    assert!(found.is_empty(), "“{secret}” in:\n{}", found.join("\n"));
}

#[test]
fn a_password_is_kept_apart_and_serves_every_node_and_the_next_order() {
    let sim = web();
    asks(&sim, "bob", "s3cr@t");
    let runs = sim.deliver_all(&[ordered("first", "https://bob:s3cr%40t@git.example.com/shop.git", true)]);
    all_well(&runs);
    sim.settle();
    let kept = json!({"order": id("first"), "site": "https://git.example.com", "user": "bob", "password": "s3cr@t"});
    assert_eq!(credential(&sim).unwrap(), kept);
    assert_eq!((record(&sim)["repo_url"].clone(), record(&sim)["slave"].clone()), (WEB.into(), "node2".into()));
    let cloned = |node: &str| sim.lock().log.iter().filter(|e| e.node == node && e.what == "git clone").count();
    assert_eq!((cloned("node1"), cloned("node2")), (1, 1));
    assert_nowhere(&sim, &runs, "s3cr");
    // Without it, and by the user alone.
    for (word, repo) in [("second", WEB.to_owned()), ("third", "https://bob@git.example.com/shop".to_owned())] {
        push_to(&sim, WEB, "", &[("update.sh", "echo updated")]);
        all_well(&sim.deliver_all(&[ordered(word, &repo, true)]));
        sim.settle();
        assert_eq!(credential(&sim).unwrap()["password"], "s3cr@t");
    }
    let script = format!("sh update.sh -r {WEB} -b master");
    assert_eq!(sim.lock().log.iter().filter(|e| e.line == script).count(), 2);
    // A new one replaces it.
    asks(&sim, "token", "");
    let runs = sim.deliver_all(&[ordered("fourth", WEB, true)]);
    assert_eq!(sim.lock().ended("fourth")["state"], "failed");
    assert_nowhere(&sim, &runs, "s3cr");
    let runs = sim.deliver_all(&[ordered("fifth", "https://t0ken@git.example.com/shop", true)]);
    assert_eq!(sim.lock().ended("fifth")["state"], "failed", "the wrong one");
    all_well(&sim.deliver_all(&[ordered("sixth", "https://token@git.example.com/shop", true)]));
    assert_eq!((credential(&sim).unwrap()["user"].clone(), sim.lock().ended("sixth")["needs"].clone()), ("token".into(), 2.into()));
    assert_nowhere(&sim, &runs, "t0ken");
}

#[test]
fn a_destroy_that_is_done_removes_it_but_not_that_of_a_later_order() {
    let destroy = || event("end", "destroy", &json!({"repo": "https://x:y@git.example.com/shop", "branch": "master"}));
    for later in [false, true] {
        let sim = web();
        asks(&sim, "bob", "s3cret");
        all_well(&sim.deliver_all(&[ordered("first", "https://bob:s3cret@git.example.com/shop", true)]));
        let mut events = vec![destroy()];
        if later {
            events.push(ordered("again", "https://bob:s3cret@git.example.com/shop", true));
        }
        let runs = sim.deliver_all(&events);
        all_well(&runs);
        sim.settle();
        assert_eq!(sim.lock().ended("end")["state"], "done");
        assert_eq!(credential(&sim).is_some(), later);
        assert_eq!(sim.lock().keys("app/").len(), usize::from(later));
        assert_nowhere(&sim, &runs, "s3cret");
    }
}

/// Of an older handler: the record has it in its URL, and its slave goes on with that until the next deploy takes it out.
#[test]
fn a_record_with_a_password_goes_on_working_until_the_next_deploy_takes_it_out() {
    let sim = web();
    asks(&sim, "bob", "s3cret");
    all_well(&sim.deliver_all(&[ordered("first", "https://bob:s3cret@git.example.com/shop", false)]));
    let app = sim.lock().keys("app/")[0].clone();
    let key = sim.lock().keys("credential/")[0].clone();
    let mut old = record(&sim);
    old["repo_url"] = "https://bob:s3cret@git.example.com/shop".into();
    old["slave"] = "node2".into();
    sim.lock().store.set(&app, old.to_string().as_bytes());
    sim.lock().store.remove(&key);
    sim.settle();
    assert!(sim.lock().log.iter().any(|e| e.node == "node2" && e.what == "git clone"));
    assert_eq!(credential(&sim), None);
    push_to(&sim, WEB, "", &[]);
    let runs = sim.deliver_all(&[ordered("second", WEB, false)]);
    all_well(&runs);
    sim.settle();
    assert_eq!((record(&sim)["repo_url"].clone(), record(&sim)["slave"].clone()), (WEB.into(), "node2".into()));
    assert_eq!(credential(&sim).unwrap()["user"], "bob");
    let disk = |node| sim.disk(node, |disk| disk.paths()).into_iter().any(|path| path.contains(".git"));
    assert!(disk("node1") && disk("node2"));
}

/// So does an order that an older handler has written.
#[test]
fn an_order_with_a_password_is_carried_out() {
    let sim = web();
    asks(&sim, "bob", "s3cret");
    let repo = "https://bob:s3cret@git.example.com/shop";
    let request =
        json!({"deploy": {"repo": repo, "branch": "master", "master": "node1", "slave": "node2", "update": true, "empty": false}});
    let app = App { repo: repo.try_into().unwrap(), branch: "master".try_into().unwrap() };
    let order = json!({"id": id("old"), "name": app.name(), "request": request, "state": "open", "created": "2100-01-01T00:00:00Z", "progress": {}});
    sim.lock().store.set(&format!("order/{}", id("old")), order.to_string().as_bytes());
    sim.settle();
    assert_eq!(sim.lock().ended("old")["state"], "done");
    assert_eq!(record(&sim)["slave"], "node2");
    let lines: Vec<String> = sim.lock().log.iter().map(|effect| effect.line.clone()).filter(|line| line.contains("s3cret")).collect();
    assert_eq!(lines, [""; 0]);
}

#[test]
fn a_password_is_not_given_to_another_server() {
    let sim = web();
    asks(&sim, "bob", "s3cret");
    all_well(&sim.deliver_all(&[ordered("first", "https://bob:s3cret@git.example.com/shop", true)]));
    let other = "https://evil.example.com/shop";
    push_to(&sim, other, "", &[]);
    sim.lock().repos.get_mut(other).unwrap().asks = Some("https://evil.example.com\nbob\ns3cret".to_owned());
    let payload = json!({"repo": other, "branch": "master", "master": "node1", "repo_moved": true});
    sim.deliver_all(&[event("second", "deploy", &payload)]);
    let ended = sim.lock().ended("second");
    assert!(ended["reason"].to_string().contains("could not read Username for 'https://evil.example.com'"), "{ended:#}");
}

/// Whether it was for another repository, with a wrong password, or nobody has taken it.
#[test]
fn an_order_that_is_refused_leaves_what_is_kept() {
    let sim = web();
    asks(&sim, "bob", "s3cret");
    all_well(&sim.deliver_all(&[ordered("first", "https://bob:s3cret@git.example.com/shop", true)]));
    sim.power_off("node3");
    let away =
        json!({"repo": "https://bob:thr33@git.example.com/shop", "branch": "master", "master": "node3", "slave": "node1", "update": true});
    for (word, order) in [
        ("other", ordered("other", "https://bob:0ne@evil.example.com/shop", true)),
        ("wrong", ordered("wrong", "https://bob:tw0@git.example.com/shop", true)),
        ("away", event("away", "deploy", &away)),
    ] {
        sim.deliver_all(&[order]);
        sim.pass(Duration::from_secs(700));
        sim.settle();
        let ended = sim.lock().ended(word);
        assert_eq!(ended["state"], "failed", "{word}: {ended:#}");
        assert_eq!(sim.lock().keys("credential/").len(), 1, "{word}");
        assert_eq!(credential(&sim).unwrap()["order"], id("first"), "{word}");
    }
    all_well(&sim.deliver_all(&[ordered("last", WEB, true)]));
}

#[test]
fn an_order_with_a_password_is_refused_while_a_member_is_too_old_for_it() {
    let sim = web();
    asks(&sim, "bob", "s3cret");
    sim.lock().store.remove("node/node3");
    sim.power_off("node3");
    let runs = sim.deliver_all(&[ordered("first", "https://bob:s3cret@git.example.com/shop", true)]);
    for run in &runs {
        run.exits(1).says("node3 is too old for it");
    }
    assert_eq!((credential(&sim), sim.lock().keys("order/").len()), (None, 0));
    assert_nowhere(&sim, &runs, "s3cret");
}

/// An event that cannot be taken in waits as it came, and is gone once it is an order.
#[test]
fn what_waited_in_the_inbox_is_gone() {
    let sim = web();
    asks(&sim, "bob", "s3cret");
    let inbox = |node: &str| {
        let paths = sim.disk(node, |disk| disk.paths());
        paths.into_iter().filter(|path| path.contains("/inbox/")).count()
    };
    sim.lock().lose_leader(100_000_000);
    sim.start("node1", Start::Events(vec![ordered("first", "https://bob:s3cret@git.example.com/shop", true)]));
    sim.run_until_rest();
    assert_eq!(inbox("node1"), 1);
    let runs = sim.ended();
    sim.pass(Duration::from_secs(120));
    sim.settle();
    assert_eq!((inbox("node1"), sim.lock().ended("first")["state"].clone()), (0, "done".into()));
    assert_nowhere(&sim, &runs, "s3cret");
}

#[test]
fn an_order_that_is_wrong_is_refused_without_its_password() {
    let sim = web();
    for (word, repo) in [
        ("a", "https://bob:s3c/ret@git.example.com/shop"),
        ("b", "https://bob:s3cret x@git.example.com"),
        ("c", "ftp://bob:s3c\nret@git.example.com/shop"),
        ("d", "https://bob:s3cret%0a@git.example.com/shop"),
    ] {
        for run in sim.deliver_all(&[ordered(word, repo, true)]) {
            run.exits(1).says("repo");
            assert!(!run.stderr.contains("s3c") && !run.stderr.contains("ret"), "{run}");
        }
    }
    for payload in [json!(["https://bob:s3cret@h/x"]), json!({"repo": "/r", "branch": "https://bob:s3cret@h/x", "master": "n"})] {
        for run in sim.deliver_all(&[event("e", "deploy", &payload)]) {
            assert!(!run.stderr.contains("s3cret"), "{run}");
        }
    }
}
