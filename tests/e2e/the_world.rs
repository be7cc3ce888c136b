//! The stand-ins themselves, where the tests lean on them most.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::world::outside::World;
use crate::world::{Act, Cluster};

const COMPOSE: &str = "
services:
  web:
    build: .
    volumes: ['data:/data']
    x-standin: {writes: new}
volumes:
  data: {driver: anybox/buttervolume:latest}
";

fn call(w: &World, node: &str, cwd: &Path, words: &str) -> (i32, String) {
    let mut argv = words.split(' ');
    let bin = w.shared.dir.join(node).join("bin");
    let out = Command::new(bin.join(argv.next().unwrap())).args(argv).current_dir(cwd).env("PATH", bin).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap())
}

fn http(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> (u16, u64, Value) {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    let (mut index, mut length) = (0, 0);
    while line.trim() != "" {
        line.clear();
        lines.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some(("X-Consul-Index", i)) => index = i.parse().unwrap(),
            Some(("Content-Length", l)) => length = l.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    lines.read_exact(&mut body).unwrap();
    (status, index, serde_json::from_slice(&body).unwrap_or(Value::String(String::from_utf8(body).unwrap())))
}

fn consul(w: &World, node: &str, method: &str, path: &str, body: &str) -> (u16, u64, Value) {
    http(TcpStream::connect(w.agent(node)).unwrap(), method, path, body)
}

fn plugin(w: &World, node: &str, call: &str, body: Value) -> Value {
    let socket = UnixStream::connect(w.shared.dir.join(node).join("btrfs.sock")).unwrap();
    http(socket, "POST", &format!("/VolumeDriver.{call}"), &body.to_string()).2
}

#[test]
fn a_stack_is_built_runs_and_keeps_its_data() {
    let w = World::new(&["node1"]);
    let first = w.commit("file:///repos/shop", "master", &[("docker-compose.yml", COMPOSE)]);
    let dir = w.deploy_dir("node1");
    let git = "git clone --depth 1 --single-branch --branch master -- file:///repos/shop shop";
    assert_eq!(call(&w, "node1", &dir, git), (0, String::new()));
    assert_eq!(call(&w, "node1", &dir, git).0, 128);
    let dir = dir.join("shop");
    assert_eq!(call(&w, "node1", &dir, "git rev-parse HEAD").1, first.clone() + "\n");
    let compose = |words: &str| call(&w, "node1", &dir, &format!("docker-compose -p shop -f docker-compose.yml {words}"));
    assert!(compose("up -d --no-build").1.contains("No such image"));
    assert_eq!(compose("build"), (0, String::new()));
    assert_eq!(compose("up -d --no-build"), (0, String::new()));
    assert_eq!(w.serving("shop"), [format!("node1 shop-web-1 <web {first}>")]);
    w.write("node1", "shop_data", " a");
    assert_eq!(compose("stop").0, 0);
    assert_eq!(w.volume("node1", "shop_data").unwrap(), "new a|");
    let id = call(&w, "node1", &dir, "docker ps -aq --no-trunc --filter label=com.docker.compose.project=shop").1;
    let (_, seen) = call(&w, "node1", &dir, &format!("docker inspect {}", id.trim()));
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((&seen[0]["State"]["Status"], &seen[0]["Name"]), (&json!("exited"), &json!("/shop-web-1")));
    assert_eq!(call(&w, "node1", &dir, "docker volume rm shop_data").0, 1);
    assert!(w.effects().iter().any(|e| e.line == "docker inspect shop-web-1"), "{:?}", w.effects());
    let snapshot = plugin(&w, "node1", "Snapshot", json!({"Name": "shop_data"}))["Snapshot"].clone();
    assert_eq!(compose("down -v"), (0, String::new()));
    assert_eq!(w.volume("node1", "shop_data"), None);
    plugin(&w, "node1", "Snapshot.Restore", json!({"Name": snapshot}));
    assert_eq!(w.volume("node1", "shop_data").unwrap(), "new a|");
}

#[test]
fn faults_hit_where_they_are_told() {
    let w = World::new(&["node1"]);
    let dir = w.deploy_dir("node1");
    w.on_nth("node1", "docker", 2, Act::Fail("no space left".to_owned()));
    assert_eq!(call(&w, "node1", &dir, "docker ps -aq"), (0, String::new()));
    assert_eq!(call(&w, "node1", &dir, "docker ps -aq"), (1, "no space left\n".to_owned()));
    assert_eq!(call(&w, "node1", &dir, "docker ps -aq"), (0, String::new()));
    w.on("node1", "PUT kv/x", Act::Lose);
    assert_eq!(consul(&w, "node1", "PUT", "/v1/kv/x", "1").0, 500);
    assert_eq!(w.kv("x"), Some(json!(1)));
}

#[test]
fn who_is_killed_gets_no_further() {
    let w = World::new(&["node1", "node2"]);
    let sh = |node: &str| w.program(node, "/bin/sh", &["-c", "docker tag x y; docker ps -aq; echo alive"]);
    for act in [Act::KillBefore, Act::KillAfter] {
        w.lock().log.clear();
        w.on("node1", "ps", act);
        let other = sh("node2").spawn();
        let run = sh("node1").run();
        assert_eq!((run.status, run.stdout.as_str()), (None, ""));
        other.join().unwrap().exits(0);
        assert_eq!(w.effects().iter().filter(|e| e.node == "node1").count(), 2);
    }
    w.on("node1", "ps", Act::Hang);
    let hangs = sh("node1").spawn();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!hangs.is_finished());
    w.lock().kill("node1");
    assert_eq!(hangs.join().unwrap().status, None);
}

#[test]
fn keys_have_indexes_transactions_and_waiting_readers() {
    let w = World::new(&["node1", "node2"]);
    assert_eq!(consul(&w, "node1", "GET", "/v1/kv/a", "").0, 404);
    assert_eq!(consul(&w, "node1", "PUT", "/v1/kv/a?cas=0", "1").2, true);
    assert_eq!(consul(&w, "node2", "PUT", "/v1/kv/a?cas=0", "2").2, false);
    let (_, index, entries) = consul(&w, "node2", "GET", "/v1/kv/a?consistent", "");
    assert_eq!((&entries[0]["Value"], &entries[0]["ModifyIndex"]), (&json!("MQ=="), &json!(index)));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| consul(&w, "node2", "GET", &format!("/v1/kv/a?index={index}&wait=10s"), ""));
        std::thread::sleep(Duration::from_millis(50));
        consul(&w, "node1", "PUT", "/v1/kv/b", "unrelated");
        consul(&w, "node1", "PUT", "/v1/kv/a", "3");
        assert_eq!(waiting.join().unwrap().2[0]["Value"], STANDARD.encode("3"));
    });
    assert!(begun.elapsed() < Duration::from_secs(5));

    let create = json!([
        {"KV": {"Verb": "check-not-exists", "Key": "history/1"}},
        {"KV": {"Verb": "cas", "Index": 0, "Key": "order/1", "Value": STANDARD.encode("o")}},
    ]);
    assert_eq!(consul(&w, "node1", "PUT", "/v1/txn", &create.to_string()).0, 200);
    let (status, _, answer) = consul(&w, "node2", "PUT", "/v1/txn", &create.to_string());
    assert_eq!((status, &answer["Errors"][0]["OpIndex"]), (409, &json!(1)));
    let finish = json!([
        {"KV": {"Verb": "set", "Key": "history/1", "Value": STANDARD.encode("o")}},
        {"KV": {"Verb": "delete-cas", "Index": 1, "Key": "order/1"}},
    ]);
    assert_eq!(consul(&w, "node1", "PUT", "/v1/txn", &finish.to_string()).0, 409);
    assert_eq!(w.keys("history/"), [""; 0], "a transaction that fails leaves nothing");
}

#[test]
fn a_split_is_seen_by_consul_and_by_ssh() {
    let w = World::new(&["node1", "node2", "node3"]);
    w.lock().plugin("node1").volumes.insert("v".to_owned(), "data".to_owned());
    let snapshot = plugin(&w, "node1", "Snapshot", json!({"Name": "v"}))["Snapshot"].clone();
    let send = || plugin(&w, "node1", "Snapshot.Send", json!({"Name": snapshot, "Host": "10.0.0.2"}))["Err"].clone();
    w.split(&["node1"]);
    assert_eq!(consul(&w, "node1", "GET", "/v1/kv/a", ""), (500, 0, json!("No cluster leader")));
    assert_eq!(consul(&w, "node2", "GET", "/v1/kv/a", "").0, 404);
    let names =
        |path: &str| consul(&w, "node2", "GET", path, "").2.as_array().unwrap().iter().map(|it| it["Node"].clone()).collect::<Vec<_>>();
    assert_eq!(names("/v1/catalog/nodes?consistent"), ["node1", "node2", "node3"]);
    assert_eq!(names("/v1/health/state/passing?consistent"), ["node2", "node3"]);
    assert!(send().as_str().unwrap().contains("timed out"));
    w.heal();
    assert_eq!(send(), "");
    assert!(send().as_str().unwrap().contains("File exists"));
    assert!(!w.lock().plugin("node2").snapshots.contains_key(snapshot.as_str().unwrap()));
    assert_eq!(w.lock().violations.drain(..).count(), 1);
}
