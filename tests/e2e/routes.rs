//! `handler routes`: which files it leaves, how often the proxies read them, and who is left out.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
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
        self.with_proxies(node, "routes")
    }

    fn with_proxies(&self, node: &str, verb: &str) -> crate::world::outside::Invocation<'_> {
        let reload = |file: &str| json!(["/bin/sh", "-c", format!("echo {file} >> reloads"), "{name}"]).to_string();
        let invoked = self.w.handler(node, &[verb]).env("HANDLER_HOLD", self.hold).env("HANDLER_TIMEOUT_PROXY", "0");
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

/// Consul's watches pause for minutes after its leader has died: what is taken over then would not be served.
#[test]
fn the_health_check_has_them_written_if_no_watch_does() {
    let c = Proxies::new();
    c.app("a", "node2", "http://a.example.com {\n    respond a\n}");
    c.routes("node1").exits(0);
    c.app("a", "node1", "http://a.example.com {\n    respond a\n}");
    c.with_proxies("node1", "check").run();
    let start = Instant::now();
    while !c.file("node1", "Caddyfile").contains("respond a") {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not served: {}", c.file("node1", "haproxy.cfg"));
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn who_makes_a_file_invalid_is_left_out_and_named() {
    let c = Proxies::new();
    for name in ["a", "b", "c", "d"] {
        c.app(name, "node1", &format!("http://{name}.example.com {{\n    respond {name}\n}}"));
    }
    c.app("c", "node1", "http://c.example.com {\n    respond refused\n}");
    c.set("app/e", json!({"master": 1}));
    c.routes("node1").exits(1).says("c is left out of Caddyfile").says("app/e is left out").says("proxies' files: c, e");
    let check = c.with_proxies("node1", "check").run();
    check.exits(1);
    for name in ["c", "e"] {
        assert!(
            check.stdout.contains(&format!("wrong: {name} is left out of the proxies' files of this node: `handler routes` says why")),
            "{check}"
        );
    }
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

/// The new master's Caddy has the site first, then all lead there; and it is not loaded anew while requests wait at it.
#[test]
fn requests_wait_where_an_application_goes() {
    let c = Proxies::new();
    let site = "http://a.example.com {\n    respond a\n}";
    c.app("a", "node1", site);
    ["node1", "node2"].iter().for_each(|node| _ = c.routes(node).exits(0));
    c.reloads("node2");
    let turn = || c.w.lock().kv("maintenance/a").unwrap()["turn"].clone();
    let until = |what: &str, is: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}: {} {:?}", turn(), c.file("node2", "haproxy.cfg"));
            sleep(Duration::from_millis(20));
        }
    };
    c.set("maintenance/a", json!({"order": "x", "since": c.w.lock().now("node1"), "turn": {"from": "node1", "to": "node2"}}));
    // It looks first, but leads nowhere yet.
    let first = c.invoked("node1").spawn();
    let second = c.invoked("node2").spawn();
    until("both have turned", &|| turn()["held"] == true && turn()["turned"] == true);
    assert!(c.file("node2", "Caddyfile").contains("respond a") && !c.file("node1", "Caddyfile").contains("respond a"));
    assert!(c.file("node1", "haproxy.cfg").contains("server node2 10.0.0.2:80"));
    assert_eq!(c.reloads("node2"), "caddy\nhaproxy\n");
    // Another one has to wait, and is not forgotten.
    c.app("b", "node2", "http://b.example.com {\n    respond b\n}");
    let third = c.invoked("node2").env("RUST_LOG", "debug").spawn();
    sleep(Duration::from_millis(500));
    assert_eq!(c.reloads("node2"), "");
    c.app("a", "node2", site);
    c.w.lock().store.remove("maintenance/a");
    [first, second, third].into_iter().for_each(|run| _ = run.join().unwrap().exits(0));
    assert!(c.file("node2", "Caddyfile").contains("respond a") && c.file("node2", "Caddyfile").contains("respond b"));
    assert_eq!(c.reloads("node2"), "caddy\nhaproxy\n");
}

/// What the master's Caddy has it finds at the next one, in its storage, before it serves; and what was renewed since comes back.
#[test]
fn certificates_go_with_their_application() {
    let c = Proxies::new();
    let storage = |node: &str| c.w.deploy_dir(node).join("caddy");
    let file = |node: &str, path: &str| fs::read_to_string(storage(node).join(path)).unwrap_or_default();
    let write = |node: &str, path: &str, text: &str| {
        let path = storage(node).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let routes = |node: &str| _ = c.invoked(node).env("HANDLER_CADDY_DATA", &storage(node).display().to_string()).run().exits(0);
    let keys = || c.w.lock().keys("certificate/");
    let (folder, root) = ("certificates/local/a.example.com", "pki/authorities/local/root.key");
    let key = &*format!("{folder}/a.example.com.key");
    c.app("a", "node1", "https://a.example.com {\n    respond a\n}");
    for kind in ["crt", "key", "json"] {
        write("node1", &format!("{folder}/a.example.com.{kind}"), "first");
    }
    for name in ["root.crt", "root.key", "intermediate.crt", "intermediate.key"] {
        write("node1", &format!("pki/authorities/local/{name}"), "of node1");
    }
    write("node1", "certificates/local/other.example.com/other.example.com.key", "nobody's");
    routes("node1");
    assert_eq!(keys().len(), 2, "{:?}", keys());
    // A node that does not serve it gets the authority alone.
    routes("node2");
    assert_eq!((file("node2", key), file("node2", root)), (String::new(), "of node1".into()));
    c.app("a", "node2", "https://a.example.com {\n    respond a\n}");
    routes("node2");
    assert_eq!(file("node2", key), "first");
    assert_eq!(fs::metadata(storage("node2").join(key)).unwrap().permissions().mode() & 0o777, 0o600);
    // It is renewed there; the old one has an old one, which it says no more.
    write("node2", key, "second");
    // Some weeks later.
    let renewed = fs::File::options().write(true).open(storage("node2").join(key)).unwrap();
    renewed.set_modified(std::time::SystemTime::now() + Duration::from_secs(10)).unwrap();
    routes("node2");
    routes("node1");
    routes("node2");
    assert_eq!((file("node1", key), file("node2", key)), ("first".into(), "second".into()));
    c.app("a", "node1", "https://a.example.com {\n    respond a\n}");
    routes("node1");
    assert_eq!(file("node1", key), "second");
    // What somebody else has written there goes nowhere else in the storage.
    let evil = json!({"node": "node2", "files": {"../evil": "x", "certificates/local/b.example.com/b.example.com.key": "x", "last_clean.json": "x"}});
    c.set("certificate/a.example.com", evil);
    routes("node1");
    assert_eq!(file("node1", "certificates/local/b.example.com/b.example.com.key") + &file("node1", "last_clean.json"), "");
    assert!(!c.w.deploy_dir("node1").join("evil").exists());
    c.w.lock().store.remove("app/a");
    routes("node1");
    assert_eq!(keys().len(), 1, "{:?}", keys());
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

/// A Caddy that knows sites with one plain address and one `respond`, and takes every configuration that does not have `refused` in it.
fn caddy(socket: &Path) -> Arc<Mutex<Vec<Value>>> {
    let loaded = Arc::new(Mutex::new(Vec::new()));
    let (listener, takes) = (UnixListener::bind(socket).unwrap(), loaded.clone());
    thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line: &String| line != "\r\n") {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap() == 0 {
                    break;
                }
                lines.push(line);
            }
            let len = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            let mut body = vec![0; len.unwrap_or(0)];
            reader.read_exact(&mut body).unwrap();
            let body = String::from_utf8(body).unwrap();
            let (status, said) = match lines.first().map_or("", |line| line) {
                line if line.starts_with("POST /adapt ") => ("200 OK", json!({"result": adapted(&body)})),
                line if line.starts_with("POST /load ") && !body.contains("refused") => {
                    takes.lock().unwrap().push(body.parse().unwrap());
                    ("200 OK", Value::Null)
                }
                _ => ("400 Bad Request", json!({"error": "loading: no such thing"})),
            };
            let said = if said.is_null() { String::new() } else { said.to_string() };
            write!(&stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{said}", said.len()).ok();
        }
    });
    loaded
}

fn adapted(text: &str) -> Value {
    let mut routes = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let Some(host) = line.strip_prefix("http://").and_then(|line| line.strip_suffix(" {")) else { continue };
        let respond = text.lines().nth(at + 1).unwrap().trim().strip_prefix("respond ").unwrap();
        routes.push(json!({"match": [{"host": [host]}], "handle": handlers(respond)}));
    }
    json!({"apps": {"http": {"servers": {"srv0": {"listen": [":80"], "routes": routes}}}}})
}

fn handlers(respond: &str) -> Value {
    json!([{"handler": "subroute", "routes": [{"handle": [{"handler": "static_response", "body": respond}]}]}])
}

#[test]
fn caddy_is_given_what_was_judged() {
    let c = Proxies::new();
    let socket = c.w.deploy_dir("node1").parent().unwrap().join("caddy.sock");
    let run = || c.invoked("node1").env("HANDLER_CADDY_ADMIN", &socket.display().to_string()).run();
    let app = |name: &str, says: &str| {
        let text = format!("http://{name}.example.com {{\n    respond {says}\n}}");
        let sites = json!({"of": format!("{:x}", md5::compute(&text)), "sites": [{"handle": handlers("judged")}]});
        c.set(&format!("app/{name}"), json!({"master": "node1", "ip": "10.0.0.9", "caddyfile": text, "sites": sites}));
    };
    app("a", "a");
    c.app("old", "node1", "http://old.example.com {\n    respond old\n}");
    // Without Caddy the other proxy has its file all the same, and nothing is called read.
    run().exits(1).says("Caddy on this node does not answer");
    assert_eq!(c.reloads("node1"), "haproxy\n");
    let loaded = caddy(&socket);
    run().exits(0);
    assert_eq!(c.reloads("node1"), "", "by its socket");
    // What a client says of itself by https is not believed.
    let clients = loaded.lock().unwrap()[0]["apps"]["http"]["servers"]["srv0"]["routes"].as_array().unwrap()[..2].to_vec();
    assert!(clients.iter().all(|route| route["handle"][0]["handler"] == "headers" && route["match"][0]["protocol"] == "https"));
    let expected = |sites: &[(&str, &str)]| {
        let route = |(host, says): &(&str, &str)| json!({"match": [{"host": [format!("{host}.example.com")]}], "handle": handlers(says)});
        let routes: Vec<Value> = clients.iter().cloned().chain(sites.iter().map(route)).collect();
        json!({"apps": {"http": {"servers": {"srv0": {"listen": [":80"], "routes": routes}}}}})
    };
    let given = expected(&[("a", "judged"), ("old", "old")]);
    assert_eq!(loaded.lock().unwrap().as_slice(), std::slice::from_ref(&given));
    assert_eq!(c.file("node1", "caddy.json").parse::<Value>().unwrap(), given);
    run().exits(0);
    assert_eq!(loaded.lock().unwrap().len(), 1, "it has it");
    // Whose part is refused is left out, and what Caddy does not take stays to be given.
    c.app("bad", "node1", "http://bad.example.com {\n    respond refused\n}");
    run().exits(1).says("bad is left out of caddy.sites");
    assert_eq!(loaded.lock().unwrap().len(), 1, "the rest is what it has");
    app("b", "b");
    run().exits(1).says("left out of the proxies' files: bad");
    assert_eq!(loaded.lock().unwrap().last(), Some(&expected(&[("a", "judged"), ("old", "old"), ("b", "judged")])));
}
