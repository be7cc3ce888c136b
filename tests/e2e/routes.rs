//! `handler routes`: which files it leaves, how often the proxies read them, and who is left out.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::outside::World;
use crate::world::{Cluster, Run};

/// A check that refuses what contains `refused`, and a reload that leaves a mark.
struct Proxies {
    w: World,
    check: String,
    hold: &'static str,
}

impl Proxies {
    fn new() -> Proxies {
        let check = json!(["/bin/sh", "-c", "! /bin/grep -n refused \"$0\"", "{path}"]).to_string();
        Proxies { w: World::new(&["node1", "node2"]), check, hold: "30" }
    }

    fn set(&self, key: &str, value: Value) {
        self.w.lock().store.set(key, value.to_string().as_bytes());
    }

    fn app(&self, name: &str, master: &str, caddyfile: &str) {
        self.set(&format!("app/{name}"), json!({"master": master, "ip": "10.0.0.9", "caddyfile": caddyfile}));
    }

    fn invoked(&self, node: &str) -> crate::world::outside::Invocation<'_> {
        let reload = |file: &str| json!(["/bin/sh", "-c", format!("echo {file} >> reloads"), "{name}"]).to_string();
        let invoked = self.w.handler(node, &["routes"]).env("HANDLER_HOLD", self.hold).env("HANDLER_TIMEOUT_PROXY", "0");
        let invoked = invoked.env("HANDLER_CADDY_CHECK", &self.check).env("HANDLER_HAPROXY_CHECK", &self.check);
        invoked.env("HANDLER_CADDY_RELOAD", &reload("caddy")).env("HANDLER_HAPROXY_RELOAD", &reload("haproxy"))
    }

    fn routes(&self, node: &str) -> Run {
        self.invoked(node).run()
    }

    fn folder(&self, node: &str) -> PathBuf {
        self.w.deploy_dir(node).join(".handler/proxies")
    }

    fn file(&self, node: &str, name: &str) -> String {
        fs::read_to_string(self.folder(node).join(name)).unwrap()
    }

    /// Since the last time.
    fn reloads(&self, node: &str) -> String {
        let path = self.w.deploy_dir(node).parent().unwrap().join("reloads");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::remove_file(&path).ok();
        text
    }
}

#[test]
fn files_follow_the_records() {
    let c = Proxies::new();
    c.app("a", "node1", "http://a.example.com {\n    respond a\n}");
    c.app("b", "node2", "https://b.example.com {\n    respond b\n}");
    c.routes("node1").exits(0);
    assert!(c.file("node1", "Caddyfile").ends_with("# a\nhttp://a.example.com {\n    respond a\n}\n"));
    let haproxy = c.file("node1", "haproxy.cfg");
    assert!(haproxy.contains("backend http-a.example.com\n    mode http\n    server caddy caddy:80 "), "{haproxy}");
    assert!(haproxy.contains("server node2 10.0.0.2:443 check inter 3s downinter 200ms rise 1\n"), "{haproxy}");
    assert_eq!(c.reloads("node1"), "caddy\nhaproxy\n");
    // nothing has changed
    c.routes("node1").exits(0);
    assert_eq!(c.reloads("node1"), "");
    // what does not concern the other file leaves it alone
    c.app("a", "node1", "http://a.example.com {\n    respond other\n}");
    c.routes("node1").exits(0);
    assert_eq!(c.reloads("node1"), "caddy\n");
    // it moves
    c.app("a", "node2", "http://a.example.com {\n    respond other\n}");
    c.routes("node1").exits(0);
    assert!(!c.file("node1", "Caddyfile").contains("a.example.com"));
    assert!(c.file("node1", "haproxy.cfg").contains("server node2 10.0.0.2:80\n"));
    // haproxy first, lest it leads to what Caddy does not serve any more
    assert_eq!(c.reloads("node1"), "haproxy\ncaddy\n");
    c.routes("node2").exits(0);
    assert!(c.file("node2", "Caddyfile").contains("respond other"));
    let left: Vec<_> = fs::read_dir(c.folder("node1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn who_makes_a_file_invalid_is_left_out_and_named() {
    let c = Proxies::new();
    for name in ["a", "b", "c", "d"] {
        c.app(name, "node1", &format!("http://{name}.example.com {{\n    respond {name}\n}}"));
    }
    c.app("c", "node1", "http://c.example.com {\n    respond refused\n}");
    c.set("app/e", json!({"master": 1}));
    c.routes("node1").exits(1).says("c is left out of Caddyfile").says("app/e is left out").says("2 applications are left out");
    let caddyfile = c.file("node1", "Caddyfile");
    for (name, there) in [("a", true), ("b", true), ("c", false), ("d", true)] {
        assert_eq!(caddyfile.contains(&format!("respond {name}")), there, "{name}: {caddyfile}");
    }
    assert!(!caddyfile.contains("refused"));
    assert_eq!(c.reloads("node1"), "caddy\nhaproxy\n");
    // the same again is not tried again, and still said
    c.routes("node1").exits(1).says("still left out: c");
    assert_eq!(c.reloads("node1"), "");
    c.app("c", "node1", "http://c.example.com {\n    respond c\n}");
    c.w.lock().store.remove("app/e");
    c.routes("node1").exits(0);
    assert!(c.file("node1", "Caddyfile").contains("respond c\n"));
}

#[test]
fn a_check_that_cannot_work_leaves_the_files_alone() {
    let mut c = Proxies::new();
    c.app("a", "node1", "http://a.example.com {\n    respond a\n}");
    c.routes("node1").exits(0);
    c.reloads("node1");
    c.check = json!(["/bin/false"]).to_string();
    c.app("a", "node1", "http://a.example.com {\n    respond b\n}");
    c.routes("node1").exits(1).says("Caddyfile stays as it is");
    assert!(c.file("node1", "Caddyfile").contains("respond a"));
    assert_eq!(c.reloads("node1"), "");
    c.check = json!(["/not/installed"]).to_string();
    c.routes("node1").exits(0);
    assert!(c.file("node1", "Caddyfile").contains("respond b"));
}

#[test]
fn a_reload_that_failed_is_tried_again() {
    let c = Proxies::new();
    c.app("a", "node1", "http://a.example.com {\n    respond a\n}");
    let fails = json!(["/bin/false"]).to_string();
    c.invoked("node1").env("HANDLER_CADDY_RELOAD", &fails).run().exits(1).says("/bin/false");
    // the other proxy gets its file all the same
    assert_eq!(c.reloads("node1"), "haproxy\n");
    c.routes("node1").exits(0);
    assert_eq!(c.reloads("node1"), "caddy\n");
    // and by the same run, for a proxy that is just starting
    c.app("a", "node1", "http://a.example.com {\n    respond b\n}");
    let starting = json!(["/bin/sh", "-c", "test -e started || { : > started; exit 1; }"]).to_string();
    c.invoked("node1").env("HANDLER_CADDY_RELOAD", &starting).env("HANDLER_TIMEOUT_PROXY", "60").run().exits(0).says("tried again");
    let left: Vec<_> = fs::read_dir(c.folder("node1")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn only_long_maintenance_is_shown() {
    let mut c = Proxies::new();
    c.hold = "1.5";
    c.app("a", "node1", "http://a.example.com {\n    respond a\n}");
    c.set("maintenance/a", json!({"order": "x", "since": c.w.lock().now("node1")}));
    let start = Instant::now();
    let run = c.invoked("node1").env("RUST_LOG", "debug").spawn();
    let shown = || fs::read_to_string(c.folder("node1").join("Caddyfile")).is_ok_and(|text| text.contains("import maintenance"));
    while !c.folder("node1").join("haproxy.cfg").exists() {
        assert!(start.elapsed() < Duration::from_secs(5));
        sleep(Duration::from_millis(20));
    }
    assert!(!shown());
    run.join().unwrap().exits(0);
    assert!(shown());
    assert!(c.file("node1", "haproxy.cfg").contains("status 503"));
    // a key without a date, as the older handler wrote it, is shown at once
    c.w.lock().store.remove("maintenance/a");
    c.routes("node1").exits(0);
    assert!(!shown());
    c.w.lock().store.set("maintenance/a", b"");
    c.routes("node1").exits(0);
    assert!(shown());
}

#[test]
fn a_burst_is_written_once() {
    let c = Proxies::new();
    c.app("a", "node1", "http://a.example.com {\n    respond a\n}");
    let runs: Vec<_> = (0..12).map(|_| c.invoked("node1").spawn()).collect();
    for run in runs {
        run.join().unwrap().exits(0);
    }
    assert_eq!(c.reloads("node1"), "caddy\nhaproxy\n");
}
