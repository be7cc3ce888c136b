//! What comes in on stdin and on the command line: exit codes, and what is said.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::world::{Cluster as _, event, id};
use crate::{APP, PROJECT, URL, assert_serves, deploy, finished, shop};

const USAGE: &str = include_str!("usage.txt");

fn raw(word: &str, name: &str, payload: Value) -> Value {
    let mut e = event(word, name, &json!({}));
    e["Payload"] = payload;
    e
}

fn bytes(payload: &[u8]) -> Value {
    STANDARD.encode(payload).into()
}

#[test]
fn no_events_are_fine_and_quiet() {
    let w = shop(&["node1"]);
    w.deliver("node1", &[]).exits(0);
    w.take_log(); // the first run says which version it is
    let run = w.deliver("node1", &[]);
    run.exits(0);
    assert_eq!(run.stdout, "");
    assert_eq!(w.effects(), []);
}

#[test]
fn what_is_no_event_list_ends_with_2() {
    let w = shop(&["node1"]);
    for text in ["", "null", "{}", "[", "\"deploy\"", "\u{0}"] {
        w.handler("node1", &[]).stdin(text).run().exits(2);
    }
    assert_eq!(w.effects(), []);
}

#[test]
fn each_bad_event_is_said_once_and_stops_none_after_it() {
    let good = json!({"repo": URL, "branch": "master", "master": "node1"});
    let with = |key: &str, value: Value| {
        let mut payload = good.clone();
        payload[key] = value;
        payload
    };
    let json = |payload: Value| bytes(payload.to_string().as_bytes());
    let cases = [
        ("null", Value::Null, ""),
        ("empty", "".into(), ""),
        ("base64", "?!".into(), "base64"),
        ("utf8", bytes(b"\"\xff\""), "UTF-8"),
        ("json", bytes(b"{"), ""),
        ("list", json(json!([])), ""),
        ("unknown member", json(with("mastre", "node1".into())), "mastre"),
        ("wrong type", json(with("branch", 5.into())), "branch"),
        ("wrong update", json(with("update", "yes".into())), "update"),
        ("repo option", json(with("repo", "--upload-pack=x".into())), "repo"),
        ("repo ext", json(with("repo", "ext::sh -c x".into())), "repo"),
        ("repo long", json(with("repo", format!("/{}", "r".repeat(1024)).into())), "repo"),
        ("repo control", json(with("repo", "/a\nb".into())), "repo"),
        ("branch option", json(with("branch", "-b".into())), "branch"),
        ("branch dots", json(with("branch", "a..b".into())), "branch"),
        ("branch space", json(with("branch", "a b".into())), "branch"),
        ("master option", json(with("master", "-x".into())), "master"),
        ("master shell", json(with("master", "node1;reboot".into())), "master"),
        ("master long", json(with("master", "n".repeat(64).into())), "master"),
        ("same slave", json(with("slave", "node1".into())), "slave"),
        ("no repo", json(json!({"branch": "master", "master": "node1"})), "repo"),
        ("too big", json(with("repo", "r".repeat(70_000).into())), ""),
    ];
    for (word, payload, says) in cases {
        let w = shop(&["node1"]);
        let events = [raw(word, "deploy", payload), deploy("good", "node1", None)];
        let run = w.deliver("node1", &events);
        run.exits(1).says(says).says(&id(word));
        assert_eq!(finished(&w, "good")["state"], "done");
        let again = w.deliver("node1", &events);
        again.exits(0);
        assert_eq!(again.stderr, "", "{word} is said once");
    }
}

#[test]
fn a_node_that_is_no_member_is_refused() {
    let w = shop(&["node1", "node2"]);
    w.deliver("node1", &[deploy("a", "node9", None)]).exits(1).says("node9");
    assert_eq!(w.keys("app/"), [""; 0]);
}

#[test]
fn an_unknown_event_is_said() {
    let w = shop(&["node1"]);
    w.deliver("node1", &[raw("a", "backup", Value::Null)]).exits(1).says("backup");
    assert_eq!(w.keys(""), ["node/node1"]);
}

#[test]
fn a_whole_buffer_is_carried_out_once() {
    let w = shop(&["node1"]);
    let mut events: Vec<Value> = (0..255).map(|i| raw(&format!("bad{i}"), "deploy", Value::Null)).collect();
    events.push(deploy("good", "node1", None));
    w.deliver("node1", &events).exits(1).says("255 of 256");
    assert_eq!(finished(&w, "good")["state"], "done");
    w.take_log();
    w.deliver("node1", &events).exits(0);
    assert!(!w.take_log().iter().any(|l| l.contains("git clone")));
}

#[test]
fn an_event_twice_in_a_list_or_late_at_another_node_is_one_order() {
    let w = shop(&["node1", "node2"]);
    let event = deploy("one", "node1", None);
    w.deliver("node1", &[event.clone(), event.clone()]).exits(0);
    w.deliver("node2", std::slice::from_ref(&event)).exits(0);
    w.deliver("node1", &[event]).exits(0);
    let clones = w.take_log().iter().filter(|l| l.contains("git clone")).count();
    assert_eq!((clones, w.keys("history/").len(), w.keys("order/").len()), (1, 1, 0));
}

#[test]
fn target_is_another_word_for_master() {
    let w = shop(&["node1"]);
    let payload = json!({"repo": format!("{URL}.git "), "branch": "master", "target": "node1"});
    w.deliver("node1", &[event("a", "deploy", &payload)]).exits(0);
    assert_eq!(w.serving(PROJECT).len(), 2);
    assert_eq!(w.keys("app/"), [format!("app/{APP}")]);
}

#[test]
fn the_short_form_names_an_order() {
    let w = shop(&["node1"]);
    w.deliver("node1", &[event("x", "deploy", &json!({"order": id("nowhere")}))]);
    let commit = w.lock().repos[URL].branches["master"].clone();
    let payload = json!({"repo": URL, "branch": "master", "master": "node1"});
    let run = w.handler("node1", &["deploy", &payload.to_string()]).run();
    run.exits(0);
    assert_serves(&w, "node1", &commit);
    let event = w.lock().events[0].clone();
    w.take_log();
    w.deliver("node1", &[event]).exits(0);
    assert!(!w.take_log().iter().any(|l| l.contains("git clone")));
}

#[test]
fn wrong_usage_ends_with_2() {
    let w = shop(&["node1"]);
    for args in [&["deploi"] as &[&str], &["--nope"], &["deploy"], &["plan", "deploy"], &["deploy", "{"], &["--log-format", "xml"]] {
        let run = w.handler("node1", args).run();
        run.exits(2);
        assert_ne!(run.stderr, "", "{args:?}");
    }
    w.handler("node1", &["deploy", r#"{"repo": "-x", "branch": "b", "master": "node1"}"#]).run().exits(2).says("repo");
    assert_eq!(w.effects(), []);
}

#[test]
fn usage_and_version() {
    let w = shop(&["node1"]);
    let help = w.handler("node1", &["--help"]).run();
    help.exits(0);
    assert_eq!((help.stdout.as_str(), help.stderr.as_str()), (USAGE, ""));
    let version = w.handler("node1", &["-V"]).run();
    version.exits(0);
    assert_eq!(version.stdout, format!("handler {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_consul_nothing_is_touched() {
    let w = shop(&["node1"]);
    for reach in [crate::world::state::Reach::NoLeader, crate::world::state::Reach::Silent] {
        w.lock().nodes.get_mut("node1").unwrap().reach = reach;
        let run = w.handler("node1", &[]).env("HANDLER_TIMEOUT_CONSUL", "1");
        run.stdin(&json!([deploy("a", "node1", None)]).to_string()).run().exits(1);
    }
    assert!(!w.take_log().iter().any(|l| !l.contains("consul")));
    // Consul gives it once only: it was kept.
    w.lock().nodes.get_mut("node1").unwrap().reach = crate::world::state::Reach::Fine;
    // The silent agent may have passed it on when its answer was no longer waited for: then its age counts from there.
    w.handler("node1", &[]).env("HANDLER_TIMEOUT_ORDER", "60").stdin("[]").run().exits(0);
    assert_eq!(finished(&w, "a")["state"], "done");
    w.take_log();
    w.deliver("node1", &[deploy("a", "node1", None)]).exits(0);
    assert_eq!(w.take_log(), [""; 0], "once");
}

/// A watch hears of nothing else while what it has started is at work: it has a worker started, and ends.
#[test]
fn a_watch_waits_for_no_worker() {
    let w = shop(&["node1"]);
    let app = w.deploy_dir("node1").join(".handler/apps").join(APP);
    std::fs::create_dir_all(&app).unwrap();
    let lock = std::fs::File::create(app.join("lock")).unwrap();
    lock.lock().unwrap();
    let events = Value::from(vec![deploy("one", "node1", None)]).to_string();
    w.handler("node1", &[]).env("CONSUL_INDEX", "7").stdin(&events).run().exits(0).says(&format!("at work for {APP}"));
    assert_eq!(w.kv(&format!("order/{}", id("one"))).unwrap()["owner"], Value::Null);
    lock.unlock().unwrap();
    for _ in 0..3000 {
        if w.kv(&format!("history/{APP}/{}", id("one"))).is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(finished(&w, "one")["state"], "done");
    // It ends after that.
    lock.lock().unwrap();
}
