//! Attacks on routes: applications that share a node, a host or a name, and checks that do not answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::world::Cluster;
use crate::world::outside::World;

/// Where the new node's Caddy does not accept its part, requests are turned there all the same while the old node still serves it.
#[test]
fn nothing_is_turned_to_where_it_is_left_out() {
    let w = World::new(&["node1", "node2"]);
    let record = json!({"master": "node1", "ip": "10.0.0.1", "caddyfile": "http://a.example.com {\n    respond refused\n}"});
    w.lock().store.set("app/a", record.to_string().as_bytes());
    // Caddy takes the page of an application that is away for long, and every node shows it then.
    let run = w.handler("node2", &["routes"]).env("HANDLER_TIMEOUT_PROXY", "0").env("HANDLER_HOLD", "60");
    let check = json!(["/bin/sh", "-c", "! /bin/grep -q refused \"$0\"", "{path}"]).to_string();
    let run = run.env("HANDLER_CADDY_CHECK", &check).env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]");
    let since = w.lock().now("node1");
    let turn = json!({"order": "x", "since": since, "turn": {"from": "node1", "to": "node2", "given": true}});
    w.lock().store.set("maintenance/a", turn.to_string().as_bytes());
    let run = run.spawn();
    sleep(Duration::from_secs(4));
    let turn = w.kv("maintenance/a").unwrap();
    w.lock().store.remove("maintenance/a");
    let said = run.join().unwrap();
    said.says("a is left out of Caddyfile");
    assert!(turn["turn"]["held"] != true, "{said:?}");
}

/// Requests of one application wait on the new node, whose Caddy is not loaded anew meanwhile. Another one comes there, too: it is not led there before
/// Caddy has it.
#[test]
fn nothing_is_turned_to_where_others_wait() {
    let w = World::new(&["node1", "node2"]);
    let since = w.lock().now("node1");
    for (name, held) in [("a", true), ("b", false)] {
        let record =
            json!({"master": "node1", "ip": "10.0.0.1", "caddyfile": format!("http://{name}.example.com {{\n    respond {name}\n}}")});
        w.lock().store.set(&format!("app/{name}"), record.to_string().as_bytes());
        let turn = json!({"order": name, "since": since, "turn": {"from": "node1", "to": "node2", "given": true, "held": held}});
        w.lock().store.set(&format!("maintenance/{name}"), turn.to_string().as_bytes());
    }
    let run = w.handler("node2", &["routes"]).env("HANDLER_HOLD", "60").env("HANDLER_CADDY_CHECK", "[\"/bin/true\"]");
    let run = run.env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]").spawn();
    sleep(Duration::from_secs(3));
    let early = w.kv("maintenance/b").unwrap();
    w.lock().store.remove("maintenance/a");
    let held = || w.kv("maintenance/b").is_some_and(|turn| turn["turn"]["held"] == true);
    for _ in 0..200 {
        if held() {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    let late = held();
    w.lock().store.remove("maintenance/b");
    let run = run.join().unwrap();
    assert!(early["turn"]["held"] != true, "{early:#} {run:?}");
    assert!(late, "{run:?}");
}

/// A clock that is ahead: for as long nothing of any other application is written on the node where requests wait.
#[test]
fn a_clock_that_is_ahead_holds_nothing_for_long() {
    let w = World::new(&["node1", "node2"]);
    let site = |name: &str, master: &str| {
        let record =
            json!({"master": master, "ip": "10.0.0.1", "caddyfile": format!("http://{name}.example.com {{\n    respond {name}\n}}")});
        w.lock().store.set(&format!("app/{name}"), record.to_string().as_bytes());
    };
    site("a", "node1");
    let turn =
        json!({"order": "x", "since": "2099-01-01T00:00:00Z", "turn": {"from": "node1", "to": "node2", "given": true, "held": true}});
    w.lock().store.set("maintenance/a", turn.to_string().as_bytes());
    site("b", "node2");
    let run = w.handler("node2", &["routes"]).env("HANDLER_HOLD", "1").env("HANDLER_CADDY_CHECK", "[\"/bin/true\"]");
    let run = run.env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]").spawn();
    sleep(Duration::from_secs(8));
    let there = w.deploy_dir("node2").join(".handler/proxies/haproxy.cfg").exists();
    w.lock().store.remove("maintenance/a");
    let run = run.join().unwrap();
    assert!(there, "after eight times the hold: {run:?}");
}

/// While it is looked for who is at fault the check itself does not work for a moment (the engine, or Caddy, starts anew). Whoever was looked at then
/// is left out, and stays so: what was refused is not tried again.
#[test]
fn a_check_that_did_not_work_for_a_moment_leaves_nobody_out_for_ever() {
    let w = World::new(&["node1"]);
    for name in ["a", "b", "c", "d"] {
        let body = if name == "a" { "refused" } else { name };
        let record =
            json!({"master": "node1", "ip": "10.0.0.1", "caddyfile": format!("http://{name}.example.com {{\n    respond {body}\n}}")});
        w.lock().store.set(&format!("app/{name}"), record.to_string().as_bytes());
    }
    // From the third to the eighth call it is away.
    let check = "echo x >> calls; n=$(/bin/grep -c x calls); test $n -ge 3 && test $n -le 8 && exit 125; ! /bin/grep -q refused \"$0\"";
    let run = || {
        w.handler("node1", &["routes"])
            .env("HANDLER_TIMEOUT_PROXY", "0")
            .env("HANDLER_CADDY_CHECK", &json!(["/bin/sh", "-c", check, "{path}"]).to_string())
            .env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]")
            .run()
    };
    run();
    let again = run();
    let text = fs::read_to_string(w.deploy_dir("node1").join(".handler/proxies/Caddyfile")).unwrap();
    assert!(["b", "c", "d"].iter().all(|name| text.contains(&format!("respond {name}\n"))), "{again:?}");
}

fn storage(w: &World, node: &str) -> PathBuf {
    w.deploy_dir(node).join("caddy")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn share(w: &World, node: &str) -> crate::world::Run {
    w.handler(node, &["routes"])
        .env("HANDLER_CADDY_DATA", &storage(w, node).display().to_string())
        .env("HANDLER_CADDY_CHECK", "[\"/bin/true\"]")
        .env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]")
        .run()
}

fn app(w: &World, name: &str, master: &str, host: &str) {
    let record = json!({"master": master, "ip": "10.0.0.9", "caddyfile": format!("https://{host} {{\n    respond x\n}}")});
    w.lock().store.set(&format!("app/{name}"), record.to_string().as_bytes());
}

/// What stands under `certificate/a…` by somebody's hand keeps `b`'s from being handed over.
#[test]
fn a_bad_certificate_in_consul_harms_nobody_else() {
    let w = World::new(&["node1", "node2"]);
    app(&w, "a", "node1", "a.example.com");
    app(&w, "b", "node1", "b.example.com");
    for host in ["a.example.com", "b.example.com"] {
        for kind in ["crt", "key", "json"] {
            write(&storage(&w, "node1").join(format!("certificates/local/{host}/{host}.{kind}")), "x");
        }
    }
    let bad = json!({"node": "node2", "files": {"certificates/local/a.example.com/a.example.com.key/x": "x"}});
    w.lock().store.set("certificate/a.example.com", bad.to_string().as_bytes());
    let run = share(&w, "node1");
    assert!(w.keys("certificate/").contains(&"certificate/b.example.com".to_string()), "{run:?}");
}

/// One that cannot be read is never replaced, so that the certificate goes to no other node any more.
#[test]
fn a_certificate_in_consul_that_cannot_be_read_is_made_anew() {
    let w = World::new(&["node1", "node2"]);
    app(&w, "a", "node1", "a.example.com");
    for kind in ["crt", "key", "json"] {
        write(&storage(&w, "node1").join(format!("certificates/local/a.example.com/a.example.com.{kind}")), "x");
    }
    w.lock().store.set("certificate/a.example.com", b"{}");
    for _ in 0..3 {
        share(&w, "node1").exits(0);
    }
    app(&w, "a", "node2", "a.example.com");
    let run = share(&w, "node2");
    let key = storage(&w, "node2").join("certificates/local/a.example.com/a.example.com.key");
    assert!(key.exists(), "{:?} {run:?}", w.kv("certificate/a.example.com"));
}

/// `wildcard_.example.com` is a host; it is also what the storage calls `*.example.com`. Another application's key goes with it.
#[test]
fn a_host_that_is_called_as_a_wildcard_is_stored() {
    let w = World::new(&["node1", "node2"]);
    app(&w, "victim", "node1", "*.example.com");
    app(&w, "thief", "node1", "wildcard_.example.com");
    let key = "certificates/acme/wildcard_.example.com/wildcard_.example.com.key";
    write(&storage(&w, "node1").join(key), "the victim's");
    share(&w, "node1").exits(0);
    app(&w, "thief", "node2", "wildcard_.example.com");
    share(&w, "node2").exits(0);
    let stolen = fs::read_to_string(storage(&w, "node2").join(key)).unwrap_or_default();
    assert_eq!(stolen, "", "node2 serves nothing of the victim's");
    // And back: an older one over a newer one.
    write(&storage(&w, "node1").join(key), "the victim's, renewed");
    app(&w, "thief", "node1", "wildcard_.example.com");
    share(&w, "node1");
    assert_eq!(fs::read_to_string(storage(&w, "node1").join(key)).unwrap(), "the victim's, renewed");
}

/// Two applications share a host by paths, on two nodes (which is warned of): the one node's older certificate over the other's newer one.
#[test]
fn no_older_certificate_over_a_newer_one() {
    let w = World::new(&["node1", "node2"]);
    let site = |name: &str, master: &str, path: &str| app(&w, name, master, &format!("a.example.com{path}"));
    site("one", "node1", "/one*");
    site("two", "node2", "/two*");
    let key = "certificates/acme/a.example.com/a.example.com.key";
    write(&storage(&w, "node2").join(key), "first");
    share(&w, "node2").exits(0);
    share(&w, "node1").exits(0);
    // Where requests go it is renewed.
    write(&storage(&w, "node2").join(key), "second");
    share(&w, "node2").exits(0);
    assert_eq!(fs::read_to_string(storage(&w, "node2").join(key)).unwrap(), "second");
}
