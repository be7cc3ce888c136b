//! Random texts of an application beside a neighbour's, with a real Caddy: what is let through leads nowhere but to the application itself, and the
//! neighbour is served as before. `RUNS=` how many, `FROM=` the first seed: one that breaks this is printed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use handler::model::names::NodeName;
use handler::model::record::{Handled, Understood};
use handler::outside::compose_file::Service;
use handler::outside::engine::Restart;
use handler::proxies::compose::composed;
use handler::proxies::view::{Clients, Frame, Routed, View};
use handler::routes::address::{SiteAddress, site_addresses};
use handler::routes::{self, Routes};
use handler::settings::{self, Version};
use handler::{outside, proxies};
use serde_json::{Map, Value, json};

use crate::real_caddy::{ask, caddy};
use crate::world::Cluster;
use crate::world::inside::random::Random;
use crate::world::outside::World;

const PORTS: u16 = 24600;
const MINE: [&str; 2] = ["mine-web-1", "mine-api-1"];
const ADDRESSES: [&str; 28] = [
    "a.example.com",
    "a.example.com",
    "http://a.example.com",
    "https://a.example.com",
    "https://b.example.com, http://b.example.com",
    "https://a.example.com/x*",
    "http://a.example.com:8080",
    "https://a.example.com:8443",
    "A.Example.COM.",
    "*.example.com",
    "http://*.example.com",
    "*.n.example.com",
    "n.example.com",
    "http://n.example.com/x*",
    "http://n.example.com/served",
    "N.EXAMPLE.com.:80",
    "http://n.example.com:0080",
    "n.example.com:8080",
    "http://",
    ":80",
    "*",
    "http://*",
    "127.0.0.1",
    "http://127.0.0.1",
    "[::1]",
    "a.example.com:80-90",
    "unix//run/x.sock",
    "{$HOST}",
];
const TOKENS: [&str; 44] = [
    "$CONTAINER",
    "$CONTAINER:80",
    "web:80",
    "http://api:8080",
    "mine-api-1:8080",
    "other-web-1:80",
    "https://other-web-1",
    "localhost:2019",
    "127.0.0.1:80",
    "unix//deploy/.caddy/admin.sock",
    "{args[0]}",
    "{env.HOME}",
    "{$HOME}",
    "{http.request.host}",
    "{http.reverse_proxy.upstream.address}",
    "{file./etc/passwd}",
    "{upstream_hostport}",
    "{",
    "}",
    "{}",
    "{\n}",
    "\n",
    "\\\n",
    "\"",
    "`",
    "'",
    "#",
    "<<X\nrespond\nX\n",
    "*",
    "/",
    "@m",
    "host n.example.com",
    "@n host n.example.com",
    "abort",
    "respond mine",
    "import *",
    "handle",
    "route",
    "handle_errors",
    "uri replace a b",
    "rewrite * http://other-web-1",
    "to other-web-1:80",
    "dynamic a other-web-1 80",
    "lb_try_duration 30s",
];

fn sock(socket: &Path, path: &str, kind: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: caddy\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    // An answer in chunks has their lengths in lines of their own.
    let body = if head.contains("chunked") { chunks(body) } else { body.to_owned() };
    if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap_or_else(|why| panic!("{why}: {head}\n{body}")) }
}

fn chunks(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        if length == 0 {
            break;
        }
        whole.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    whole
}

fn adapt(socket: &Path, text: &str) -> Option<Value> {
    let mut said = sock(socket, "/adapt", "text/caddyfile", text);
    said["result"].is_object().then(|| said["result"].take())
}

/// What stands in the examples: directives with all that is in their braces.
fn directives() -> Vec<String> {
    let mut all = Vec::new();
    let examples = include_str!("../vectors/adapted.txt").split("=== ").chain(include_str!("../vectors/caddy2.txt").split("=== "));
    // Those that are refused have a `=`.
    for example in examples.filter(|example| !example.lines().next().is_some_and(|name| name.contains('='))) {
        let text = example.split("\n---\n").next().unwrap_or_default();
        let text =
            text.replace("p-web-1", "$CONTAINER").replace("p-api-1", "api").replace("container:", "$CONTAINER:").replace(" ct:", " api:");
        let (mut depth, mut one) = (0, String::new());
        // Without the name, and the line with which the site begins.
        for line in text.lines().skip(2) {
            depth += i32::from(line.trim_end().ends_with('{')) - i32::from(line.trim() == "}");
            if depth < 0 {
                break;
            }
            one.push_str(line);
            one.push('\n');
            if depth == 0 {
                all.push(std::mem::take(&mut one));
            }
        }
    }
    all
}

fn word<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    let found: &&str = random.pick(from);
    found
}

fn drawn(random: &mut Random, directives: &[String]) -> String {
    let mut text = String::new();
    for _ in 0..=random.below(2) {
        let some = if random.chance(70) { &ADDRESSES[..12] } else { &ADDRESSES[..] };
        text.push_str(word(random, some));
        while random.chance(20) {
            text.push_str(word(random, &[", ", " ", ",\n"]));
            text.push_str(word(random, &ADDRESSES));
        }
        text.push_str(" {\n");
        for _ in 0..=random.below(3) {
            text.push_str(random.pick(directives).as_str());
        }
        text.push_str("}\n");
    }
    while random.chance(50) {
        let words: Vec<&str> = text.split_inclusive([' ', '\n']).collect();
        let at = random.below(words.len() as u64) as usize;
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let token = word(random, &TOKENS);
        match random.below(5) {
            0 => drop(words.remove(at)),
            1 => words.insert(at, format!("{token} ")),
            2 => words[at] = format!("{token}{}", if random.chance(50) { "\n" } else { " " }),
            3 => words[at] = words[random.below(words.len() as u64) as usize].clone(),
            _ => {
                let word = &mut words[at];
                let cut = (0..=word.len()).rev().find(|cut| word.is_char_boundary(*cut) && *cut as u64 <= random.below(30)).unwrap_or(0);
                word.insert_str(cut, token);
            }
        }
        text = words.concat();
        if text.is_empty() {
            text.push('\n');
        }
    }
    text
}

fn service(name: &str, container: &str, caddyfile: &str) -> Service {
    Service {
        restart: Restart::never(),
        name: name.into(),
        container: container.into(),
        image: None,
        build: true,
        dockerfile: None,
        environment: [("CADDYFILE".to_string(), caddyfile.to_string())].into(),
        oneshot: false,
        made: true,
        replicas: 1,
        networks: Vec::new(),
        aliases: Vec::new(),
    }
}

fn set(socket: &Path) -> settings::Routes {
    let admin = Some(socket.to_owned());
    settings::Routes { caddy: Version::Two, admin, storage: None, ports: None, network: None, upstreams: Vec::new() }
}

/// What its record has of its routes, if a deploy lets it through.
fn deployed(socket: &Path, services: &[Service]) -> Option<(Routes, Value)> {
    let set = set(socket);
    let routes = routes::read(services, &set).ok()?;
    let sites: Option<Vec<Handled>> =
        routes.sites.iter().map(|site| routes::understood(&adapt(socket, site)?, site, services, &[]).ok()).collect();
    let record = json!({"master": "node1", "ip": "10.0.0.1", "caddyfile": routes.caddyfile, "haproxy": routes.haproxy,
        "sites": Understood::new(&routes.caddyfile, sites?)});
    Some((routes, record))
}

fn dials(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| dials(value, found)),
        Value::Object(map) => {
            found.extend(map.get("dial").map(|dial| dial.as_str().unwrap_or("no text").to_owned()));
            map.values().for_each(|value| dials(value, found));
        }
        _ => {}
    }
}

/// What is wrong with the configuration: `mine` are the hosts of the application, the neighbour has `n.example.com`.
fn wrong(config: &Value, mine: &BTreeSet<String>) -> Option<String> {
    for (_, server) in config["apps"]["http"]["servers"].as_object()? {
        let routes = server["routes"].as_array().into_iter().chain(server["errors"]["routes"].as_array()).flatten();
        for route in routes.filter(|route| route["handle"][0]["handler"] != "headers" || route["match"][0]["protocol"] != "https") {
            let matchers = route["match"].as_array().map_or(&[][..], Vec::as_slice);
            let hosts: Vec<&str> = matchers.iter().flat_map(|one| one["host"].as_array()).flatten().filter_map(Value::as_str).collect();
            let named = !matchers.is_empty() && matchers.iter().all(|one| one["host"].as_array().is_some_and(|hosts| !hosts.is_empty()));
            let is_neighbours = named && route["handle"].to_string().contains("neighbour");
            let is_mine = named && !is_neighbours && hosts.iter().all(|host| mine.contains(*host));
            let mut dialled = BTreeSet::new();
            dials(route, &mut dialled);
            let leads = |dial: &String| MINE.iter().any(|own| dial.strip_prefix(own).is_some_and(|port| port.starts_with(':')));
            // As Caddy leads from http to https.
            if route["handle"][0]["headers"]["Location"][0] == "https://{http.request.host}{http.request.uri}" {
                continue;
            }
            let fine = match is_neighbours {
                true => hosts == ["n.example.com"] && dialled.is_empty(),
                false => is_mine && dialled.iter().all(leads),
            };
            if !fine {
                return Some(format!("{hosts:?} {dialled:?}: {route}"));
            }
        }
    }
    None
}

#[test]
fn what_is_let_through_harms_no_neighbour() {
    let number = |name: &str, default: u64| std::env::var(name).ok().map_or(default, |text| text.parse().unwrap());
    let (from, runs) = (number("FROM", 1), number("RUNS", 400));
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let socket = &*caddy.socket;
    let head = format!("{{\n http_port {PORTS}\n https_port {}\n local_certs\n skip_install_trust\n}}\n", PORTS + 1);
    let set = set(socket);
    let proxies = settings::Proxies { caddy_head: Some(head), ..Default::default() };
    let me = NodeName::try_from("node1").unwrap();
    let view = View {
        frame: Frame::of(&proxies, &set, false).unwrap(),
        me: me.clone(),
        members: [("node1".to_owned(), "10.0.0.1".to_owned())].into(),
        maintenance: Default::default(),
        clients: Clients::default(),
    };
    let routed = |name: &str, record: &Value| Routed::of(name, record.to_string().as_bytes(), &me, Version::Two, None);
    let neighbours = [service("web", "other-web-1", "http://n.example.com, https://n.example.com {\n respond neighbour\n}")];
    let (theirs, record) = deployed(socket, &neighbours).unwrap();
    let neighbour = routed("other", &record).unwrap();
    let none = Map::new();
    let (directives, mut taken, mut failed) = (directives(), 0, Vec::new());
    for seed in from..from + runs {
        let text = drawn(&mut Random::new(seed), &directives);
        let services = [service("web", MINE[0], &text), service("api", MINE[1], "")];
        let Some((routes, record)) = deployed(socket, &services) else { continue };
        if routes.caddyfile.is_empty()
            || routes::conflicts("mine", "node1", &routes, [("other", "node1", &*theirs.caddyfile, &none)]).is_err()
        {
            continue;
        }
        let all = [&neighbour, &routed("mine", &record).expect("what a deploy lets through can be served")];
        let written = proxies::caddy::written(&all, &view);
        // Whether it is taken beside what is served a deploy asks, too.
        let Ok(config) = composed(&written, |text| adapt(socket, text).ok_or(outside::caddy::Error::NotLoaded { says: String::new() }))
        else {
            continue;
        };
        if !sock(socket, "/load", "application/json", &config).is_null() {
            continue;
        }
        taken += 1;
        let config: Value = serde_json::from_str(&config).unwrap();
        let mine = site_addresses(&routes.caddyfile).filter_map(|text| SiteAddress::parse(text).ok()).map(|it| it.key().host).collect();
        let mut said = wrong(&config, &mine);
        for path in ["/", "/served", "/x/y"] {
            let claimed = routes.caddyfile.to_lowercase().contains("n.example.com");
            let seen = ask(PORTS, "n.example.com", path, &[]);
            if seen != "neighbour" && !claimed {
                said = Some(format!("the neighbour answers {seen:?} at {path}"));
            }
        }
        if let Some(said) = said {
            println!("==== FROM={seed} RUNS=1: {said}\n{text}\n---- as written\n{}", routes.caddyfile);
            failed.push(seed);
        }
    }
    println!("{taken} of {runs} texts were let through");
    assert!(failed.is_empty() && taken * 50 > runs, "{taken} of {runs} were let through; these harm: {failed:?}");
}
