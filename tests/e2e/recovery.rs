//! Nodes that die in the middle, come back, or have forgotten; orders that meet.

use std::thread;

use serde_json::json;

use crate::world::outside::World;
use crate::world::shop::{newest, taking_over};
use crate::world::{Act, Cluster, State, event, id};
use crate::{
    APP, DATA, PROJECT, URL, all_well, assert_failed, assert_order, assert_serves, compose, deploy, deployed, finished, push, push_files,
    shop,
};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const KEY: &str = "app/shop_master.e4371";

/// One node serves the shop, the record names it, and it has the data.
#[track_caller]
fn assert_one_serves(w: &World) -> String {
    let master = w.kv(KEY).unwrap()["master"].as_str().unwrap().to_owned();
    let serving = w.serving(PROJECT);
    assert!(serving.len() == 2 && serving.iter().all(|c| c.starts_with(&master)), "{master} by the record: {serving:?}");
    let data = w.volume(&master, DATA).unwrap();
    assert!(data.starts_with("orders of monday"), "{data}");
    assert_eq!((w.keys("order/").len(), w.keys("maintenance/").len()), (0, 0));
    master
}

fn dies(node: &'static str) -> Act {
    Act::First(Box::new(move |s: &mut State| s.die(node)))
}

/// The shop moves from node1 to node2; `node` dies when `at` is about to happen on the other. Then it comes back.
fn move_with_a_death(node: &'static str, other: &str, at: &str, ends: &str) {
    let w = deployed(&NODES, "node1", Some("node2"));
    w.replicate("node1");
    push(&w, "");
    w.on(other, at, dies(node));
    w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    assert!(w.no_faults(), "{other}: {at} was not reached");
    w.settle();
    assert_eq!(finished(&w, "second")["state"], ends, "{node} dies at {at}");
    let serving = w.serving(PROJECT).len();
    let expected = if (ends == "done") == (node == "node1") { 2 } else { 0 };
    assert_eq!(serving, expected, "where one node is left to serve, it does: {node} dies at {at}");
    w.revive(node);
    w.settle();
    w.settle();
    assert_one_serves(&w);
}

#[test]
fn the_new_master_dies_while_the_old_one_waits_for_it() {
    let w = deployed(&NODES, "node1", Some("node2"));
    let before = w.state();
    w.on("node2", "build", dies("node2"));
    w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    w.settle();
    // The old master finds out where it waits, or where it sends, whichever comes first.
    assert_failed(&w, "second", &[]);
    assert_eq!(w.serving(PROJECT).len(), 2);
    w.revive("node2");
    w.settle();
    assert_eq!(w.state(), before);
}

#[test]
fn the_new_master_dies_when_the_old_one_has_stopped() {
    for at in ["plugin Snapshot.Restore", "up -d", "agent/service/register", "cas app/"] {
        let w = deployed(&NODES, "node1", Some("node2"));
        let before = w.state();
        w.on("node2", at, dies("node2"));
        w.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        w.settle();
        let held: Vec<_> = w.serving(PROJECT);
        if finished(&w, "second")["state"] == "failed" {
            assert!(held.len() == 2 && held[0].starts_with("node1"), "{at}: {held:?}");
        }
        w.revive("node2");
        w.settle();
        assert_one_serves(&w);
        if finished(&w, "second")["state"] == "failed" {
            assert_eq!(w.state(), before, "{at}");
        }
    }
}

#[test]
fn the_old_master_dies_before_it_has_sent() {
    for at in ["git clone", "build", "(ready)"] {
        move_with_a_death("node1", "node2", at, "failed");
    }
}

#[test]
fn the_old_master_dies_after_it_has_sent() {
    for at in ["plugin Snapshot.Restore", "up -d", "cas app/"] {
        move_with_a_death("node1", "node2", at, "done");
    }
}

#[test]
fn an_order_whose_owner_died_does_not_block_the_next_one() {
    let w = shop(&NODES);
    w.on("node2", "up -d", dies("node2"));
    w.deliver_all(&[deploy("first", "node2", None)]);
    w.settle();
    assert_failed(&w, "first", &["node2 has died while it carried it out"]);
    let commit = w.lock().repos[URL].branches["master"].clone();
    w.deliver("node3", &[deploy("second", "node3", None)]).exits(0);
    w.revive("node2");
    w.settle();
    assert_serves(&w, "node3", &commit);
    assert!(!w.state().contains("node2 "), "{}", w.state());
}

#[test]
fn a_takeover_says_how_old_the_data_is() {
    let w = deployed(&NODES, "node1", Some("node2"));
    w.replicate("node1");
    w.die("node1");
    // Nobody has confirmed what is here: its folder is not on btrfs.
    let payload = json!({"repo": URL, "branch": "master", "master": "node2"}).to_string();
    let said = format!("Here is of {DATA} {}, ", newest(&w.lock(), "node2"));
    let plan = w.handler("node2", &["plan", "deploy", &payload]).run();
    assert!(plan.stdout.contains("is no folder on btrfs here") && plan.stdout.contains(&said), "{plan}");
    w.deliver("node2", &[deploy("first try", "node2", None)]).exits(1).says(&said).says("handler deploy '{");
    let payload = json!({"repo": URL, "branch": "master", "master": "node2", "replica": [newest(&w.lock(), "node2")]});
    let (note, over) = (format!("{DATA}: {DATA}@20"), event("second", "deploy", &payload));
    let payload = payload.to_string();
    let plan = w.handler("node2", &["plan", "deploy", &payload]).run();
    plan.exits(0);
    let lines: Vec<String> = plan.stdout.lines().map(str::to_owned).collect();
    assert_order(&lines, &["node1 (master -> none, dead: once it is back)", "fence", "node2 (slave -> master, carries it out)", &note]);
    w.deliver("node2", &[over]).exits(0).says("taking over: ").says(&note);
    let notes = finished(&w, "second")["notes"].clone();
    let told = notes[0].as_str().unwrap_or_default();
    assert!(told.starts_with(&note) && told.contains(" s old, as the order says; nobody has confirmed"), "{notes}");
}

#[test]
fn what_was_sent_from_elsewhere_is_no_newer_for_its_name() {
    // The names of snapshots are times; only those of the shop's own volume count.
    let w = deployed(&NODES, "node1", Some("node2"));
    w.replicate("node1");
    w.lock().plugin("node2").snapshots.insert("othershop_data@2099-01-01T00:00:00.000000".to_owned(), "other".to_owned());
    w.die("node1");
    let said = format!("Here is of {DATA} {}, ", newest(&w.lock(), "node2"));
    w.deliver("node2", &[deploy("first try", "node2", None)]).exits(1).says(&said);
    let over = taking_over(&w.lock(), "second", "node2", None);
    w.deliver("node2", &[over]).exits(0);
    assert_eq!(w.volume("node2", DATA).unwrap(), "orders of monday");
}

#[test]
fn a_deployment_of_the_older_handler_is_adopted() {
    let w = deployed(&NODES, "node1", Some("node2"));
    for node in NODES {
        std::fs::remove_dir_all(w.deploy_dir(node).join(".handler")).unwrap();
    }
    // Its records had no commit, and members that are not known today.
    let mut record = w.kv(KEY).unwrap();
    record.as_object_mut().unwrap().remove("commit");
    record["nginx"] = "old".into();
    w.lock().store.set(KEY, record.to_string().as_bytes());
    let before = w.state();
    w.deliver("node1", &[]).exits(0).says("remember that the application runs here");
    w.settle();
    assert_eq!(w.state(), before);
    let second = push(&w, "");
    all_well(&w.deliver_all(&[deploy("second", "node2", Some("node1"))]));
    w.settle();
    assert_serves(&w, "node2", &second);
    assert_eq!(w.volume("node1", DATA), None);
}

#[test]
fn a_master_without_its_checkout_says_so_and_is_healed_by_a_deploy() {
    let w = deployed(&["node1"], "node1", None);
    std::fs::remove_dir_all(w.deploy_dir("node1")).unwrap();
    w.deliver("node1", &[]).exits(0).says("has no checkout of it; deploy it again");
    assert_eq!(w.serving(PROJECT).len(), 2);
    let second = push(&w, "");
    w.deliver("node1", &[deploy("second", "node1", None)]).exits(0);
    assert_serves(&w, "node1", &second);
    assert_eq!(w.volume("node1", DATA).unwrap(), "orders of monday|");
}

#[test]
fn two_moves_of_one_application_at_once() {
    for round in 0..5 {
        let w = deployed(&NODES, "node1", Some("node2"));
        let each = ["node2", "node3"].map(|to| {
            let events = json!([deploy(&format!("to {to} {round}"), to, Some("node1"))]).to_string();
            w.handler(to, &[]).stdin(&events).spawn()
        });
        // The source hears of both.
        let source = w.handler("node1", &[]).stdin("[]").spawn();
        thread::sleep(std::time::Duration::from_millis(20 * round));
        w.deliver_all(&[deploy(&format!("to node2 {round}"), "node2", Some("node1"))]);
        each.into_iter().chain([source]).for_each(|run| assert!(run.join().unwrap().status.is_some()));
        w.settle();
        let master = assert_one_serves(&w);
        assert_ne!(master, "node1");
        let states: Vec<_> = ["node2", "node3"].map(|to| finished(&w, &format!("to {to} {round}"))["state"].clone()).into();
        assert_eq!(states, ["done", "done"], "one after the other");
    }
}

#[test]
fn two_applications_change_places() {
    const BLOG: &str = "file:///repos/blog";
    for round in 0..5 {
        let w = deployed(&["node1", "node2"], "node1", None);
        w.commit(BLOG, "master", &[("docker-compose.yml", &compose(""))]);
        let blog = |word: &str, node: &str| event(word, "deploy", &json!({"repo": BLOG, "branch": "master", "master": node}));
        all_well(&w.deliver_all(&[blog("b", "node2")]));
        w.settle();
        let mut both = [deploy("a2", "node2", None), blog("b2", "node1")];
        let one = json!(both).to_string();
        both.reverse();
        let other = json!(both).to_string();
        let runs = [("node1", one), ("node2", other)].map(|(node, events)| w.handler(node, &[]).stdin(&events).spawn());
        all_well(&runs.map(|run| run.join().unwrap()));
        w.settle();
        assert_eq!(assert_one_serves(&w), "node2", "round {round}");
        let app = w.keys("app/").into_iter().find(|key| key.contains("blog")).unwrap();
        assert_eq!(w.kv(&app).unwrap()["master"], "node1");
        let project = app.replace("app/", "").replace(['_', '.'], "");
        assert!(w.serving(&project).iter().all(|c| c.starts_with("node1")) && w.serving(&project).len() == 2);
    }
}

#[test]
fn a_finish_whose_answer_is_lost_is_finished() {
    let w = deployed(&["node1"], "node1", None);
    let second = push(&w, "");
    w.on("node1", "cas app/", Act::Lose);
    w.deliver("node1", &[deploy("second", "node1", None)]).exits(0);
    assert!(w.no_faults());
    assert_eq!(finished(&w, "second")["state"], "done");
    assert_serves(&w, "node1", &second);
}

#[test]
fn the_history_keeps_the_newest_fifty_and_those_of_two_days() {
    let w = deployed(&["node1"], "node1", None);
    for i in 0..60 {
        w.lock().store.set(&format!("history/{APP}/old-{i:02}"), b"{}");
    }
    w.lock().store.set("history/other_master.00000/old", b"{}");
    w.deliver("node1", &[deploy("second", "node1", None)]).exits(0);
    let kept = w.keys(&format!("history/{APP}/"));
    assert_eq!(kept.len(), 51);
    assert!(kept.contains(&format!("history/{APP}/{}", id("second"))));
    assert!(kept.contains(&format!("history/{APP}/old-11")) && !kept.contains(&format!("history/{APP}/old-10")));
    assert!(kept.contains(&format!("history/{APP}/{}", id("first"))), "it is of today");
    assert_eq!(w.keys("history/other").len(), 1);
}

#[test]
fn an_application_describes_its_own_service() {
    let w = deployed(&["node1"], "node1", None);
    let services = |w: &World| w.lock().nodes["node1"].services.keys().cloned().collect::<Vec<_>>();
    assert_eq!(services(&w), [APP]);
    let own =
        json!({"ID": "shop-1", "Name": "shop", "Port": 80, "Tags": ["a"], "Check": {"TCP": "127.0.0.1:80", "Interval": "10s"}}).to_string();
    push_files(&w, "", &[("service.json", &own)]);
    w.deliver("node1", &[deploy("second", "node1", None)]).exits(0);
    assert_eq!(services(&w), [APP], "its ID is not its own to choose");
    let service = w.lock().nodes["node1"].services[APP].clone();
    assert_eq!((&service["Name"], &service["Port"], &service["Tags"]), (&json!("shop"), &json!(80), &json!(["a"])));
    // As an older handler has registered it.
    w.lock().nodes.get_mut("node1").unwrap().services.insert("shop-1".into(), service);
    let before = w.state();
    let check = |check: serde_json::Value| json!({"Name": "shop", "Checks": [check]}).to_string();
    for (refused, why) in [
        ("{".into(), "service.json"),
        (json!({"Name": "shop", "Tags": "a"}).to_string(), "\"Tags\": expected a list of texts"),
        (check(json!({"TCP": "a:1"})), "a check has an \"Interval\""),
        (json!({"ID": "x"}).to_string(), "has no \"Name\""),
        (json!({"Name": "shop", "Connect": {}}).to_string(), "\"Connect\" cannot be used here"),
        (check(json!({"Args": ["sh", "-c", "id"], "Interval": "10s"})), "\"Args\" cannot be used here"),
        (check(json!({"HTTP": "http://a", "Method": "PUT", "Interval": "10s"})), "a check only looks"),
        (check(json!({"HTTP": "http://127.0.0.1:8500/v1/agent/self", "Interval": "10s"})), "port 8500, which is the node's own"),
        (check(json!({"TCP": "localhost:1122", "Interval": "10s"})), "port 1122, which is the node's own"),
        (check(json!({"HTTP": "file:///etc/passwd", "Interval": "10s"})), "a check asks one URL"),
    ] {
        push_files(&w, "", &[("service.json", &refused)]);
        w.deliver("node1", &[deploy(&format!("refused {why}"), "node1", None)]).exits(1).says("service.json").says(why);
        assert_eq!(w.state(), before);
    }
    push(&w, "");
    w.deliver("node1", &[deploy("fourth", "node1", None)]).exits(0);
    assert_eq!(services(&w), [APP]);
    w.deliver("node1", &[event("end", "destroy", &json!({"repo": URL, "branch": "master"}))]).exits(0);
    assert_eq!(services(&w), [""; 0]);
}

#[test]
fn a_journal_without_its_end_is_read() {
    let w = deployed(&["node1"], "node1", None);
    let second = push(&w, "");
    w.on("node1", "up -d", Act::KillBefore);
    assert_eq!(w.deliver("node1", &[deploy("second", "node1", None)]).status, None);
    // Torn while it was written.
    let journal = w.deploy_dir("node1").join(format!(".handler/apps/{APP}/journal"));
    let mut text = std::fs::read(&journal).unwrap();
    text.truncate(text.len() - 7);
    std::fs::write(&journal, text).unwrap();
    w.deliver("node1", &[]).exits(0).says("a run was killed at step");
    w.settle();
    assert_eq!(finished(&w, "second")["state"], "done");
    assert_serves(&w, "node1", &second);
    assert!(!journal.exists());
}

/// The nodes of a minority can do nothing, those of the majority do without them; once healed, one node runs it.
fn split(side: &'static [&'static str], at: &str) {
    let w = deployed(&NODES, "node1", Some("node2"));
    w.replicate("node1");
    let cut = move |s: &mut State| s.split(side);
    w.on("", at, Act::First(Box::new(cut)));
    let runs: Vec<_> = NODES
        .iter()
        .map(|node| {
            let run = w.handler(node, &[]).env("HANDLER_TIMEOUT_CONSUL", "0.3").env("HANDLER_TIMEOUT_HANDOVER", "1");
            run.stdin(&json!([deploy("second", "node2", Some("node1"))]).to_string()).spawn()
        })
        .collect();
    runs.into_iter().for_each(|run| assert!(run.join().unwrap().status.is_some()));
    assert!(w.no_faults(), "{at} was not reached");
    w.heal();
    w.settle();
    assert_one_serves(&w);
}

#[test]
fn a_split_with_the_old_master_alone() {
    for at in ["git clone", "(ready)", "(sent)", "Snapshot.Restore", "up -d", "cas app/"] {
        split(&["node1"], at);
    }
}

#[test]
fn a_split_with_the_new_master_alone() {
    for at in ["git clone", "(ready)", "(sent)", "Snapshot.Restore", "up -d", "cas app/"] {
        split(&["node2"], at);
    }
}
