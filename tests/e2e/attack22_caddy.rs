//! More attacks on routes, with a real Caddy, and a real haproxy (of the `PATH`) in front of it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::real_caddy::*;
use crate::world::outside::World;
use crate::world::{Cluster, event, id};

/// What a node's haproxy is given.
fn written(w: &World, node: &str) -> String {
    let run =
        w.handler(node, &["routes"]).env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]").env("HANDLER_CADDY_CHECK", "[\"/bin/true\"]").run();
    let path = w.deploy_dir(node).join(".handler/proxies/haproxy.cfg");
    fs::read_to_string(path).unwrap_or_else(|_| panic!("{run:?}"))
}

/// Ends with the test.
struct Running {
    process: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The file of one of the nodes, word for word, but: the nodes are on `net.1` and `net.2` here, and each container is the port behind it.
fn haproxy(w: &World, cfg: &str, net: &str, node: usize, container: u16) -> Running {
    let mut text = String::new();
    for line in cfg.lines() {
        let line = line.replace("bind *:", &format!("bind {net}.{node}:")).replace("10.0.0.", &format!("{net}."));
        match line.trim_start().strip_prefix("server ").and_then(|rest| rest.split_once(" resolvers ")) {
            Some((server, _)) => {
                let (name, rest) = server.split_once(' ').unwrap();
                let options = rest.split_once(' ').map_or("", |(_, options)| options);
                text.push_str(&format!("    server {name} 127.0.0.1:{container} {options}\n"));
            }
            None => text.push_str(&(line + "\n")),
        }
        if text.ends_with("\ndefaults\n") {
            text.push_str(&format!("    source {net}.{node}\n"));
        }
    }
    let dir = w.deploy_dir("node1").parent().unwrap().to_path_buf();
    let (path, log) = (dir.join(format!("haproxy-{node}.cfg")), dir.join(format!("haproxy-{node}.log")));
    fs::write(&path, &text).unwrap();
    let out = fs::File::create(&log).unwrap();
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]).arg(&path).stdout(out.try_clone().unwrap()).stderr(out);
    let process = command.spawn().unwrap_or_else(|error| panic!("this needs a haproxy: {error}"));
    sleep(Duration::from_millis(500));
    Running { process, log }
}

/// A container that speaks HTTP.
fn container(port: u16, says: &'static str) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let read = stream.read(&mut [0; 4096]);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{says}", says.len());
            read.and_then(|_| stream.write_all(answer.as_bytes())).ok();
        }
    });
}

fn curl(args: &[&str]) -> String {
    let out = Command::new("curl").args(["-sSk", "-m", "8"]).args(args).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).trim().to_string()
}

/// Clients say the port with the host, if it is not 80.
#[test]
fn a_host_on_a_port_of_its_own_is_served() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let text = "own:\n  frontend: {mode: http, bind: ['*:2299']}\n  \
         backends: [{name: a, port: 80, peer_port: 2299, use_backend_option: 'if { hdr(host) -i a.example.com }'}]";
    let ended = deploy(&w, &caddy, 25000, "a", &variable(&w, "a", "HAPROXY", text)).1;
    container(25009, "served");
    let _haproxy = haproxy(&w, &written(&w, "node1"), "127.22.1", 1, 25009);
    // The world and its haproxy are fine: who does not say the port is served.
    assert_eq!(curl(&["-H", "Host: a.example.com", "http://127.22.1.1:2299/"]), "served");
    let said = curl(&["--resolve", "a.example.com:2299:127.22.1.1", "http://a.example.com:2299/"]);
    assert!(ended["state"] == "failed" || said == "served", "{}: {said}", ended["state"]);
}

/// A container that speaks TLS, whatever host is asked.
fn tls(w: &World, port: u16) -> Running {
    let dir = w.deploy_dir("node1").parent().unwrap().to_path_buf();
    let (key, crt) = (dir.join("k.pem"), dir.join("c.pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x", "-keyout"]).arg(&key);
    assert!(make.arg("-out").arg(&crt).stderr(Stdio::null()).status().unwrap().success());
    let mut serve = Command::new("openssl");
    serve.args(["s_server", "-quiet", "-www", "-accept", &format!("127.0.0.1:{port}"), "-key"]).arg(&key).arg("-cert").arg(&crt);
    let process = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    Running { process, log: dir }
}

fn handshakes(at: &str, port: u16) -> bool {
    let resolve = format!("a.example.com:{port}:{at}");
    curl(&["--resolve", &resolve, &format!("https://a.example.com:{port}/"), "-o", "/dev/null", "-w", "%{http_code}"]) == "200"
}

/// haproxy knows the host of a TLS connection when it has read the first of it, and reads that only if it is told to wait for it.
#[test]
fn a_tls_host_on_a_port_of_its_own_is_served() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let text = |options: &str| {
        format!(
            "own:\n  frontend: {{mode: tcp, bind: ['*:2298']{options}}}\n  \
                 backends: [{{name: a, port: 443, peer_port: 2298, use_backend_option: 'if {{ req_ssl_sni -i a.example.com }}'}}]"
        )
    };
    let _container = tls(&w, 25019);
    let mut states = Vec::new();
    // The second one has the lines that the README lists: the world and its haproxy are fine.
    let waits = ", options: ['tcp-request inspect-delay 5s', 'tcp-request content accept if { req_ssl_hello_type 1 }']";
    for (n, options) in ["", waits].iter().enumerate() {
        let (run, ended) = deploy(&w, &caddy, 25010, &format!("w{n}"), &variable(&w, "a", "HAPROXY", &text(options)));
        let _haproxy = haproxy(&w, &written(&w, "node1"), "127.22.2", 1, 25019);
        let served = (0..5).filter(|_| handshakes("127.22.2.1", 2298)).count();
        states.push(format!("{} with {served} of 5 served; said {}", ended["state"], run.stderr.contains("inspect-delay")));
    }
    assert!(states[1].starts_with("\"done\" with 5 of 5"), "{states:?}");
    assert!(states[0].starts_with("\"failed\"") || states[0].starts_with("\"done\" with 5 of 5"), "{states:?}");
}

/// The check of a backend is asked of the container. Another node's haproxy asks the same of the port that all hosts share, without a host.
#[test]
fn a_check_is_asked_of_the_container() {
    let w = World::new(&["node1", "node2"]);
    let caddy = caddy(&w, "node1");
    let _container = tls(&w, 25029);
    let mut states = Vec::new();
    for (n, options) in ["", ", options: ['option ssl-hello-chk']"].iter().enumerate() {
        let text = format!(
            "https-in:\n  backends: [{{name: a, port: 443, peer_port: 443, use_backend_option: 'if {{ \
                 req_ssl_sni -i a.example.com }}'{options}}}]"
        );
        let ended = deploy(&w, &caddy, 25020, &format!("w{n}"), &variable(&w, "a", "HAPROXY", &text)).1;
        let _here = haproxy(&w, &written(&w, "node1"), "127.22.3", 1, 25029);
        let _there = haproxy(&w, &written(&w, "node2"), "127.22.3", 2, 25029);
        sleep(Duration::from_secs(8));
        states.push((ended["state"].to_string(), handshakes("127.22.3.1", 443), handshakes("127.22.3.2", 443)));
    }
    assert_eq!(states[0], ("\"done\"".to_string(), true, true));
    assert!(states[1].0 == "\"failed\"" || states[1] == states[0], "state, by node1, by node2: {states:?}");
}

/// While two nodes differ about who is the master, each leads to the other. A request must not go round in circles: each round is two more connections,
/// and soon neither haproxy takes another one, for whatever site.
#[test]
fn no_request_goes_round_in_circles() {
    let text = "own:\n  frontend: {mode: http, bind: ['*:2297']}\n  backends: [{name: a, port: 80, peer_port: 2297}]";
    // Before a move, and behind it: one of the nodes has not got its new file yet.
    let of = |master: &str, node: &str| {
        let w = World::new(&["node1", "node2"]);
        let caddy = caddy(&w, master);
        let payload = json!({"repo": variable(&w, "a", "HAPROXY", text), "branch": "master", "master": master});
        with(&w, &caddy, 25030, master, &[]).stdin(&json!([event("a", "deploy", &payload)]).to_string()).run().exits(0);
        let payload =
            json!({"repo": repository(&w, "b", "http://b.example.com {\n    respond b\n}"), "branch": "master", "master": "node1"});
        let of_node1 = (master != "node1").then(|| crate::real_caddy::caddy(&w, "node1"));
        with(&w, of_node1.as_ref().unwrap_or(&caddy), 25030, "node1", &[])
            .stdin(&json!([event("b", "deploy", &payload)]).to_string())
            .run()
            .exits(0);
        let cfg = written(&w, node);
        (w, cfg)
    };
    let ((one, at_one), (_two, at_two)) = (of("node2", "node1"), of("node1", "node2"));
    let nodes = [haproxy(&one, &at_one, "127.22.4", 1, 25039), haproxy(&one, &at_two, "127.22.4", 2, 25039)];
    container(25039, "served");
    let neighbour = || curl(&["-H", "Host: b.example.com", "http://127.22.4.1:80/"]);
    assert_eq!(neighbour(), "served");
    let said = curl(&["-H", "Host: a.example.com", "http://127.22.4.1:2297/", "-m", "2"]);
    let connections = |node: &Running| {
        let tcp = fs::read_dir(format!("/proc/{}/fd", node.process.id())).unwrap();
        tcp.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|to| to.display().to_string().starts_with("socket:"))).count()
    };
    let memory = |node: &Running| {
        let status = fs::read_to_string(format!("/proc/{}/status", node.process.id())).unwrap();
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default().trim().to_string()
    };
    let counts: Vec<usize> = nodes.iter().map(connections).collect();
    let memory: Vec<String> = nodes.iter().map(memory).collect();
    let neighbour = neighbour();
    let log = fs::read_to_string(&nodes[0].log).unwrap();
    let last = log.lines().last();
    assert!(
        counts.iter().all(|count| *count < 100),
        "one request, which ends with {said:?}: {counts:?} sockets, {memory:?}; neighbours get {neighbour:?}; {last:?}"
    );
}

/// The usual Matrix: one site on the usual port and on that of the federation, in which `handle` stands twice.
#[test]
fn a_site_on_two_ports() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let body = "{\n    tls internal\n    handle /.well-known/matrix/server {\n        \
         respond `{\"m.server\": \"m.example.com:443\"}`\n    }\n    handle {\n        respond other\n    }\n}";
    let mut states = Vec::new();
    for (n, addresses) in [
        "https://mNN.example.com",
        "https://mNN.example.com:2208",
        "https://mNN.example.com, https://mNN.example.com:2208",
        "http://mNN.example.com, http://mNN.example.com:2209",
    ]
    .iter()
    .enumerate()
    {
        let body = if n == 3 { body.replace("    tls internal\n", "") } else { body.to_string() };
        let url = repository(&w, &format!("m{n}"), &format!("{} {body}", addresses.replace("NN", &n.to_string())));
        let ended = deploy(&w, &caddy, 25040, &format!("w{n}"), &url).1;
        states.push(format!("{addresses}: {} {}", ended["state"], ended["reason"]));
    }
    assert!(states.iter().all(|state| state.contains(": \"done\"")), "{}", states.join("\n"));
}

/// What a node's order ends with.
fn order(w: &World, caddy: &Caddy, ports: u16, node: &str, word: &str, url: &str) -> Value {
    let payload = json!({"repo": url, "branch": "master", "master": node, "empty": true});
    with(w, caddy, ports, node, &[]).stdin(&json!([event(word, "deploy", &payload)]).to_string()).run();
    let key = w.keys("history/").into_iter().find(|key| key.ends_with(&id(word)));
    key.and_then(|key| w.kv(&key)).unwrap_or_default()
}

/// A host with an address for the authority on the usual port, and without on another one: Caddy takes it as long as nobody else has a site with a certificate.
const TWO_WAYS: &str =
    "https://two.example.com {\n    tls me@example.com\n    respond two\n}\nhttps://two.example.com:2211 {\n    respond b\n}";
const SHOP: &str = "https://shop.example.com {\n    tls internal\n    respond shop\n}";

/// It is its own fault, and not that of whoever comes next.
#[test]
fn one_that_goes_with_nobody_keeps_no_neighbour_out() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let two = order(&w, &caddy, 25050, "node1", "a", &repository(&w, "two", TWO_WAYS));
    routes(&w, &caddy, 25050);
    let shop = order(&w, &caddy, 25050, "node1", "b", &repository(&w, "shop", SHOP));
    assert!(shop["state"] == "done", "two: {} {}; shop: {} {}", two["state"], two["reason"], shop["state"], shop["reason"]);
}

/// Both were done and served, each on its node. One of the nodes dies.
#[test]
fn what_was_done_on_another_node_can_be_taken_over() {
    let w = World::new(&["node1", "node2"]);
    let caddies = ["node1", "node2"].map(|node| caddy(&w, node));
    let two = order(&w, &caddies[0], 25054, "node1", "a", &repository(&w, "two", TWO_WAYS));
    routes(&w, &caddies[0], 25054);
    let shop = repository(&w, "shop", SHOP);
    let before = order(&w, &caddies[1], 25056, "node2", "b", &shop);
    with(&w, &caddies[1], 25056, "node2", &["routes"]).run().exits(0);
    let states = (two["state"].as_str(), before["state"].as_str());
    w.die("node2");
    let over = order(&w, &caddies[0], 25054, "node1", "c", &shop);
    routes(&w, &caddies[0], 25054);
    let run = routes(&w, &caddies[0], 25054);
    let resolve = "shop.example.com:25055:127.0.0.1";
    let said = curl(&["--resolve", resolve, "https://shop.example.com:25055/"]);
    assert!(
        said == "shop" || states.0 == Some("failed"),
        "{states:?}, then {} {}: {said}\n\
         {}",
        over["state"],
        over["reason"],
        run.stderr
    );
}

/// Docker makes a folder where a file is to be mounted that is not there. It keeps no site from being served.
#[test]
fn what_is_no_certificate_among_the_operators() {
    let mut wrong = Vec::new();
    for what in ["folder", "other key", "no key"] {
        let w = World::new(&["node1"]);
        let caddy = caddy(&w, "node1");
        let folder = w.deploy_dir("node1").join(".certificates");
        fs::create_dir_all(&folder).unwrap();
        let make = |crt: &str, key: &str| {
            let mut make = Command::new("openssl");
            make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]);
            make.args(["-addext", "subjectAltName=DNS:x.example.com", "-keyout"]).arg(folder.join(key)).arg("-out").arg(folder.join(crt));
            assert!(make.stderr(Stdio::null()).status().unwrap().success());
        };
        match what {
            "folder" => fs::create_dir_all(folder.join("other.crt")).unwrap(),
            "other key" => {
                make("other.crt", "x.key");
                make("x.pem", "other.key");
            }
            _ => make("other.crt", "x.key"),
        }
        let folder = folder.display().to_string();
        let payload = json!({"repo": repository(&w, "shop", "http://shop.example.com {\n    respond shop\n\
             }"), "branch": "master", "master": "node1"});
        let run = with(&w, &caddy, 25060, "node1", &[])
            .env("HANDLER_CERTIFICATES", &folder)
            .stdin(&json!([event("a", "deploy", &payload)]).to_string())
            .run();
        let routes = with(&w, &caddy, 25060, "node1", &["routes"]).env("HANDLER_CERTIFICATES", &folder).run();
        let said = ask(25060, "shop.example.com", "/", &[]);
        if said != "shop" {
            wrong.push(format!("{what}: {said:?}\n{}\n{}", run.stderr, routes.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A wildcard counts for hosts that nobody names. A host that a `HAPROXY` names is one that somebody does.
#[test]
fn a_wildcard_counts_for_no_host_that_haproxy_has() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let named = "https-in:\n  backends: [{name: a, port: 443, peer_port: 443, use_backend_option: 'if { \
             req_ssl_sni -i shop.example.com }'}]";
    assert_eq!(deploy(&w, &caddy, 25070, "a", &variable(&w, "shop", "HAPROXY", named)).1["state"], "done");
    // In the place of Caddy, which has sites of the wildcard's application only.
    container(25079, "of the wildcard's application");
    let ask = || {
        let _haproxy = haproxy(&w, &written(&w, "node1"), "127.22.7", 1, 25079);
        curl(&["--resolve", "shop.example.com:80:127.22.7.1", "http://shop.example.com/", "-H", "Cookie: session=shop"])
    };
    let before = ask();
    let wild = deploy(&w, &caddy, 25070, "b", &repository(&w, "wild", "http://*.example.com {\n    respond wild\n}")).1;
    let after = ask();
    assert!(!after.contains("wildcard"), "{}: {before:?}, then {after:?}", wild["state"]);
}

/// The site of an application that gives its host to a container past Caddy, too, is not served on that port: its author hears it.
#[test]
fn a_site_that_the_same_application_leads_past_caddy() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    w.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    let text = "services:\n  web:\n    image: cache:1\n    environment:\n      CADDYFILE: |\n        \
         http://a.example.com {\n            respond site\n        }\n  api:\n    image: cache:1\n    environment:\n      HAPROXY: |\n        http-in:\n          backends: [{port: 80, peer_port: 80, use_backend_option: 'if { hdr(host) -i a.example.com }'}]\n";
    w.commit("file:///repos/a", "master", &[("docker-compose.yml", text)]);
    let (run, ended) = deploy(&w, &caddy, 25080, "a", "file:///repos/a");
    let said = run.stderr.lines().any(|line| line.contains("a.example.com") && !line.contains("INFO"));
    let cfg = written(&w, "node1");
    let first = cfg.lines().find(|line| line.contains("use_backend")).unwrap_or_default();
    assert!(ended["state"] == "failed" || said, "{}: {first:?} stands before the site, and nobody says so", ended["state"]);
}

/// Of two backends with the same condition only the first is ever used: its author hears it.
#[test]
fn each_condition_leads_to_its_backend() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let text = "https-in:\n  backends:\n  - {name: one, port: 443, peer_port: 443, use_backend_option: 'if { \
         req_ssl_sni -i a.example.com }'}\n  - {name: two, port: 444, peer_port: 443, use_backend_option: 'if { req.ssl_sni -i A.example.com }'}";
    let (run, ended) = deploy(&w, &caddy, 25084, "a", &variable(&w, "two", "HAPROXY", text));
    assert!(
        ended["state"] == "failed" || run.stderr.contains("nothing leads to two"),
        "{}: nobody says that two is never used",
        ended["state"]
    );
}

/// What begins most Caddyfiles that there are. Its author hears what it is and where it belongs.
#[test]
fn what_begins_a_caddyfile_is_refused_with_a_remedy() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut reasons = Vec::new();
    for (n, (text, remedy)) in [
        ("{\n    email me@example.com\n}\nhttp://a.example.com {\n    respond a\n}", "global options"),
        ("(common) {\n    header X-A b\n}\nhttp://a.example.com {\n    import common\n    respond a\n}", "snippet"),
    ]
    .iter()
    .enumerate()
    {
        let ended = deploy(&w, &caddy, 25088, &format!("w{n}"), &repository(&w, &format!("a{n}"), text)).1;
        if !ended["reason"].to_string().contains(remedy) {
            reasons.push(format!("{remedy}: {}", ended["reason"]));
        }
    }
    assert!(reasons.is_empty(), "{}", reasons.join("\n"));
}

/// A node takes over one that goes with nobody, and is the older one. What the node has served before it serves on.
#[test]
fn what_is_taken_over_costs_no_neighbour_its_site() {
    let mut served = Vec::new();
    // The first one is as its author should have written it: the world is fine.
    for (n, text) in
        [TWO_WAYS.replace("    respond b\n", "    tls me@example.com\n    respond b\n"), TWO_WAYS.to_string()].iter().enumerate()
    {
        let ports = 25092 + 4 * u16::try_from(n).unwrap();
        let w = World::new(&["node1", "node2"]);
        let caddies = ["node1", "node2"].map(|node| caddy(&w, node));
        let aaa = repository(&w, "aaa", text);
        let ended = order(&w, &caddies[0], ports, "node1", "a", &aaa);
        with(&w, &caddies[0], ports, "node1", &["routes"]).run();
        let shop = order(&w, &caddies[1], ports + 2, "node2", "b", &repository(&w, "shop", SHOP));
        let at_node2 = || with(&w, &caddies[1], ports + 2, "node2", &["routes"]).run();
        at_node2();
        let resolve = format!("shop.example.com:{}:127.0.0.1", ports + 3);
        let ask = || curl(&["--resolve", &resolve, &format!("https://shop.example.com:{}/", ports + 3)]);
        let before = ask();
        w.die("node1");
        let over = order(&w, &caddies[1], ports + 2, "node2", "c", &aaa);
        let run = at_node2();
        served.push((ended["state"].to_string(), shop["state"].to_string(), before, over["state"].to_string(), ask(), run.stderr));
    }
    let still = |n: usize| (served[n].2.as_str(), served[n].4.as_str()) == ("shop", "shop");
    assert!(still(0), "{:?}", served[0]);
    assert!(still(1), "aaa, shop, served, taken over, served then: {:?}", served[1]);
}

/// "It asks Let's Encrypt, which has to reach the site by its name": that asks on port 80 or 443, whatever port the site is on.
#[test]
fn who_gives_certificates_reaches_a_site_on_a_port_of_its_own() {
    let mut reached = Vec::new();
    for (n, address) in ["https://a.example.com", "https://a.example.com:2211"].iter().enumerate() {
        let port = 25110 + 4 * u16::try_from(n).unwrap();
        let w = World::new(&["node1"]);
        let caddy = caddy(&w, "node1");
        let (run, ended) = deploy(&w, &caddy, port, "a", &repository(&w, "a", &format!("{address} {{\n    respond a\n}}")));
        // In the place of Caddy.
        container(port + 2, "Caddy");
        let _haproxy = haproxy(&w, &written(&w, "node1"), &format!("127.22.{}", 11 + n), 1, port + 2);
        let ask = |scheme: &str, port: u16, tls: bool| {
            let url = format!("{scheme}://a.example.com:{port}/.well-known/acme-challenge/x");
            let said = curl(&["--resolve", &format!("a.example.com:{port}:127.22.{}.1", 11 + n), &url]);
            // What stands in for Caddy speaks no TLS, and answers all the same.
            if tls { said.contains("wrong version number") } else { said == "Caddy" }
        };
        let by = (ask("http", 80, false), ask("https", 443, true));
        reached.push((ended["state"].to_string(), by, run.stderr.contains("2211")));
    }
    assert_eq!(reached[0], ("\"done\"".to_string(), (true, true), false));
    let (state, by, said) = &reached[1];
    assert!(state == "\"failed\"" || *said || by.0 || by.1, "state, reached on 80 and 443, said: {reached:?}");
}

/// For a wildcard Caddy has to prove something in DNS, which it cannot here: without a certificate of the operator's or `tls internal` nobody is served,
/// and its author hears that.
#[test]
fn a_wildcard_without_a_certificate_is_not_just_done() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let (run, ended) = deploy(&w, &caddy, 25120, "a", &repository(&w, "wild", "https://*.example.com {\n    respond wild\n}"));
    routes(&w, &caddy, 25120);
    sleep(Duration::from_secs(2));
    let said = curl(&["--resolve", "x.example.com:25121:127.0.0.1", "https://x.example.com:25121/"]);
    let told = run.stderr.lines().any(|line| line.contains("WARN") || line.contains("certificate"));
    assert!(ended["state"] == "failed" || told || said == "wild", "{}: {said}; nobody is told", ended["state"]);
}
