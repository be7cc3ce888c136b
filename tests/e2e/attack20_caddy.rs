//! More attacks on routes, with a real Caddy.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::real_caddy::*;
use crate::world::outside::World;
use crate::world::{Cluster, event, id};

/// What a handshake for this host ends with: the name in the certificate's issuer, or why there is none.
fn handshake(ports: u16, host: &str, more: &[&str]) -> String {
    let resolve = format!("{host}:{}:127.0.0.1", ports + 1);
    let url = format!("https://{host}:{}/", ports + 1);
    let mut args = vec!["-sSk", "-m", "10", "--resolve", &resolve];
    args.extend(more);
    args.push(&url);
    let out = Command::new("curl").args(args).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).trim().to_string()
}

/// One application has `*.example.com`, and no way to prove it. Caddy, since 2.10, gets no certificate for a name that a wildcard covers: the neighbour,
/// which was served, is not any more.
#[test]
fn a_wildcard_takes_no_neighbours_certificate() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let shop = repository(&w, "shop", "https://shop.example.com {\n    tls internal\n    respond shop\n}");
    let wild = repository(&w, "wild", "https://*.example.com {\n    respond wild\n}");
    assert_eq!(deploy(&w, &caddy, 24010, "a", &shop).1["state"], "done");
    routes(&w, &caddy, 24010).exits(0);
    assert_eq!(handshake(24010, "shop.example.com", &[]), "shop");
    let ended = deploy(&w, &caddy, 24010, "b", &wild).1;
    routes(&w, &caddy, 24010);
    let run = routes(&w, &caddy, 24010);
    sleep(Duration::from_secs(1));
    assert_eq!(handshake(24010, "shop.example.com", &[]), "shop", "{} {run:?}", ended["state"]);
}

/// How TLS is spoken, too, Caddy takes from the wildcard: the first policy whose name fits.
#[test]
fn a_wildcard_says_nothing_of_a_neighbours_tls() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let shop = repository(&w, "shop", "https://shop.example.com {\n    tls internal\n    respond shop\n}");
    let wild = repository(&w, "wild", "https://*.example.com {\n    tls internal {\n        protocols tls1.3\n    }\n    respond wild\n}");
    assert_eq!(deploy(&w, &caddy, 24020, "a", &shop).1["state"], "done");
    routes(&w, &caddy, 24020).exits(0);
    let old = ["--tls-max", "1.2"];
    assert_eq!(handshake(24020, "shop.example.com", &old), "shop");
    let ended = deploy(&w, &caddy, 24020, "b", &wild).1;
    let run = routes(&w, &caddy, 24020);
    assert_eq!(handshake(24020, "shop.example.com", &old), "shop", "{} {run:?}", ended["state"]);
}

/// GB where KB was meant: the first request for it has Caddy take so much at once, and ends it with all sites of the node.
#[test]
fn a_buffer_ends_caddy() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let listener = std::net::TcpListener::bind("127.0.0.1:24039").unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let good = repository(&w, "good", "http://good.example.com {\n    respond good\n}");
    let text = "http://big.example.com {\n    reverse_proxy 127.0.0.1:24039 {\n        transport http {\n            read_buffer 4TB\n        }\n    }\n}";
    let big = repository(&w, "big", text);
    assert_eq!(deploy(&w, &caddy, 24030, "a", &good).1["state"], "done");
    // What the operator lists is there in a test; a container of its own it would be elsewhere.
    let payload = json!({"repo": big, "branch": "master", "master": "node1"});
    let run = with(&w, &caddy, 24030, "node1", &[])
        .env("HANDLER_UPSTREAMS", "127.0.0.1:24039")
        .stdin(&json!([event("b", "deploy", &payload)]).to_string())
        .run();
    routes(&w, &caddy, 24030);
    assert_eq!(ask(24030, "good.example.com", "/", &[]), "good");
    ask(24030, "big.example.com", "/", &[]);
    assert_eq!(ask(24030, "good.example.com", "/", &[]), "good", "{run:?}");
}

/// Bodies are kept in Caddy's memory, however long: of whoever sends one.
#[test]
fn a_body_fills_caddys_memory() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let url = repository(
        &w,
        "big",
        "http://big.example.com {\n    reverse_proxy $CONTAINER:80 {\n        request_buffers unlimited\n        lb_try_duration 1s\n    }\n}",
    );
    let ended = deploy(&w, &caddy, 24040, "a", &url).1;
    routes(&w, &caddy, 24040);
    let body = w.deploy_dir("node1").parent().unwrap().join("body");
    fs::File::create(&body).unwrap().set_len(600 << 20).unwrap();
    ask(24040, "big.example.com", "/", &["-X", "POST", "-H", "Expect:", "-T", &body.display().to_string()]);
    let status = fs::read_to_string(format!("/proc/{}/status", caddy.process.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap();
    assert!(peak < 400 << 10, "{}: {} MiB for one request of 600 MiB", ended["state"], peak >> 10);
}

/// `é` is `%C3%A9` in every request.
#[test]
fn a_path_in_other_writing_is_the_same() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let one = repository(&w, "one", "http://x.example.com/café* {\n    respond one\n}");
    let two = repository(&w, "two", "http://x.example.com/caf%C3%A9* {\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 24050, "a", &one).1["state"], "done");
    routes(&w, &caddy, 24050).exits(0);
    assert_eq!(ask(24050, "x.example.com", "/caf%C3%A9/1", &[]), "one");
    let ended = deploy(&w, &caddy, 24050, "b", &two).1;
    routes(&w, &caddy, 24050);
    let run = routes(&w, &caddy, 24050);
    assert!(ended["state"] == "failed", "{}: {} {run:?}", ended["state"], ask(24050, "x.example.com", "/caf%C3%A9/1", &[]));
}

/// The README: paths of which none begins with another's.
#[test]
fn a_path_that_begins_with_anothers() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let one = repository(&w, "one", "http://x.example.com/shop* {\n    respond one\n}");
    let two = repository(&w, "two", "http://x.example.com/shopping* {\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 24052, "a", &one).1["state"], "done");
    routes(&w, &caddy, 24052).exits(0);
    assert_eq!(ask(24052, "x.example.com", "/shopping", &[]), "one");
    let ended = deploy(&w, &caddy, 24052, "b", &two).1;
    routes(&w, &caddy, 24052);
    assert_eq!(ask(24052, "x.example.com", "/shopping", &[]), "one", "{}", ended["state"]);
}

/// What the author's own Caddy answers.
fn own_answer(w: &World, ports: u16, text: &str, host: &str, more: &[&str]) -> String {
    let dir = w.deploy_dir("node1").parent().unwrap().join("own");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("Caddyfile"), format!("{{\n    admin off\n    http_port {ports}\n}}\n{text}\n")).unwrap();
    let mut command = Command::new(program());
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(dir.join("Caddyfile"));
    command.env("XDG_DATA_HOME", &dir).env("XDG_CONFIG_HOME", &dir);
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let own = Caddy { process, socket: dir };
    for _ in 0..100 {
        if std::net::TcpStream::connect(("127.0.0.1", ports)).is_ok() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    let answer = ask(ports, host, "/", more);
    drop(own);
    answer
}

/// What is served is what the author's own Caddy serves, or it is refused and that would have refused it, too.
#[track_caller]
fn as_its_authors_caddy(ports: u16, bodies: &[&str]) {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut wrong = Vec::new();
    for (n, body) in bodies.iter().enumerate() {
        let host = format!("q{n}.example.com");
        let text = format!("http://{host} {{\n{body}\n}}");
        let own = own_answer(&w, ports + 4, &text, &host, &["-H", "X-Version: 2"]);
        let ended = deploy(&w, &caddy, ports, &format!("w{n}"), &repository(&w, &format!("q{n}"), &text)).1;
        routes(&w, &caddy, ports);
        let served = ask(ports, &host, "/", &["-H", "X-Version: 2"]);
        if served != own {
            wrong.push(format!("{body}: {} {served:?} {}; by its author's own Caddy {own:?}", ended["state"], ended["reason"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// For Caddy `'` is a letter like others.
#[test]
fn single_quotes_are_caddys() {
    as_its_authors_caddy(
        24060,
        &[
            "respond 'hello'",
            "respond it's",
            "respond {\n body 'none'\n}",
            "respond a\\\\b",
            "respond \"a\\nb\"",
            "respond `a\\\"b`",
            "respond \"it\\'s\"",
            "respond \"tail\\\\\"",
            "respond \"/\"",
            "respond \"*\"",
            "respond \"@a\"",
            "respond \"#a\" # b",
            "respond a\"b\"",
        ],
    );
}

/// Caddy takes the words of an expression as they are written, with their quotes.
#[test]
fn expressions_keep_their_quotes() {
    as_its_authors_caddy(
        24064 + 2,
        &[
            "@a expression {header.X-Version} == \"2\"\nrespond @a two\nrespond other",
            "@a expression {header.X-Version} == '2'\nrespond @a two\nrespond other",
            "@a expression {method} == 'GET'\nrespond @a two\nrespond other",
            "@a expression method(\"GET\") && {header.X-Version} == `2`\nrespond @a two\nrespond other",
            "@a `{header.X-Version}==\"2\"`\nrespond @a two\nrespond other",
            "@a `{header.X-Version}.size()==1`\nrespond @a two\nrespond other",
            "@a expression {method} in ['GET', 'POST']\nrespond @a two\nrespond other",
        ],
    );
}

/// Every proxied request waits while the container is away, the one that asks whether the client may, too.
#[test]
fn a_request_that_asks_for_leave_waits() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut refused = Vec::new();
    for (n, body) in [
        "reverse_proxy $CONTAINER:80",
        "forward_auth $CONTAINER:9000 {\n uri /auth\n}\nreverse_proxy $CONTAINER:80",
        "respond a\nhandle_errors {\n reverse_proxy $CONTAINER:80\n}",
    ]
    .iter()
    .enumerate()
    {
        let host = format!("f{n}.example.com");
        let url = repository(&w, &format!("f{n}"), &format!("http://{host} {{\n{body}\n}}"));
        assert_eq!(deploy(&w, &caddy, 24070, &format!("w{n}"), &url).1["state"], "done");
        routes(&w, &caddy, 24070).exits(0);
        // It cannot be found, and so is away.
        let said = ask(24070, &host, "/", &["-m", "3", "-o", "/dev/null", "-w", "%{http_code}"]);
        if said == "502" {
            refused.push(format!("{body}: {said}"));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// haproxy leads by names: to a site at an address of an IP version 6 nothing leads, and to https at any IP no client says a name.
#[test]
fn an_ip_is_served_or_refused() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut lost = Vec::new();
    for (n, address) in ["http://[2001:db8::1]", "https://[2001:db8::1]", "https://192.0.2.1"].iter().enumerate() {
        let url = repository(&w, &format!("i{n}"), &format!("{address} {{\n    respond x\n}}"));
        let ended = deploy(&w, &caddy, 24080, &format!("w{n}"), &url).1;
        routes(&w, &caddy, 24080);
        if ended["state"] == "done" {
            lost.push(*address);
        }
    }
    let cfg = fs::read_to_string(w.deploy_dir("node1").join(".handler/proxies/haproxy.cfg")).unwrap();
    let backends: Vec<&str> = cfg.lines().filter(|line| line.starts_with("backend ")).collect();
    assert!(lost.is_empty(), "done: {lost:?}; haproxy leads to {backends:?}");
}

/// Behind trusted proxies `remote_ip` means the client, beside a `client_ip` that means another thing.
#[test]
fn both_matchers_of_the_client_count() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let text = "http://x.example.com {\n    @in {\n        remote_ip 127.0.0.0/8\n        client_ip 203.0.113.7\n    }\n    respond @in in\n    respond out\n}";
    let url = repository(&w, "x", text);
    assert_eq!(deploy(&w, &caddy, 24090, "a", &url).1["state"], "done");
    routes(&w, &caddy, 24090).exits(0);
    assert_eq!(ask(24090, "x.example.com", "/", &[]), "out");
    with(&w, &caddy, 24090, "node1", &["routes"]).env("HANDLER_TRUSTED_PROXIES", "198.51.100.0/24").run().exits(0);
    assert_eq!(ask(24090, "x.example.com", "/", &[]), "out");
}

/// A condition that can never hold where it stands: its author hears it, or it leads somewhere.
#[test]
fn conditions_that_never_hold() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut done = Vec::new();
    for (n, text) in [
        "https-in:\n  backends: [{name: aNN, port: 443, peer_port: 443, use_backend_option: 'if { hdr(host) -i aNN.example.com }'}]",
        "http-in:\n  backends: [{name: aNN, port: 80, peer_port: 80, use_backend_option: 'if { req_ssl_sni -i aNN.example.com }'}]",
        "own:\n  frontend: {mode: http, bind: ['*:2299']}\n  backends: [{name: aNN, port: 80, peer_port: 2299, use_backend_option: 'if { req_ssl_sni -i aNN.example.com }'}]",
        // Nothing listens there.
        "http-in:\n  frontend: {mode: http, bind: ['*:2298']}\n  backends: [{name: aNN, port: 80, peer_port: 80, use_backend_option: 'if { hdr(host) -i aNN.example.com }'}]",
    ].iter().enumerate() {
        let url = variable(&w, &format!("c{n}"), "HAPROXY", &text.replace("NN", &n.to_string()));
        let ended = deploy(&w, &caddy, 24094, &format!("w{n}"), &url).1;
        if ended["state"] == "done" {
            done.push(text.to_string());
        }
    }
    assert!(done.is_empty(), "done:\n{}", done.join("\n"));
}

/// The port on which the other nodes ask is one on which haproxy listens for it, or its author hears that.
#[test]
fn the_other_nodes_ask_where_it_is_heard() {
    let w = World::new(&["node1", "node2"]);
    let caddy = caddy(&w, "node1");
    let mut done = Vec::new();
    for (n, text) in [
        "ssh:\n  frontend: {mode: tcp, bind: ['*:2222']}\n  backends: [{port: 22, peer_port: 2223}]",
        "http-in:\n  backends: [{port: 8080, peer_port: 8080, use_backend_option: 'if { hdr(host) -i a.example.com }'}]",
    ]
    .iter()
    .enumerate()
    {
        let ended = deploy(&w, &caddy, 24110, &format!("w{n}"), &variable(&w, &format!("p{n}"), "HAPROXY", text)).1;
        if ended["state"] == "done" {
            done.push(*text);
        }
    }
    // The neighbour's: what node2 is asked for the first one on 2222 it asks on 2223 of node1.
    let neighbour = "git:\n  frontend: {mode: tcp, bind: ['*:2223']}\n  backends: [{name: git, port: 22, peer_port: 2223}]";
    assert_eq!(deploy(&w, &caddy, 24110, "n", &variable(&w, "git", "HAPROXY", neighbour)).1["state"], "done");
    w.handler("node2", &["routes"]).env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]").env("HANDLER_CADDY_CHECK", "[\"/bin/true\"]").run();
    let cfg = fs::read_to_string(w.deploy_dir("node2").join(".handler/proxies/haproxy.cfg")).unwrap_or_default();
    let servers: Vec<&str> = cfg.lines().filter(|line| line.contains("server node1 ")).collect();
    assert!(done.is_empty(), "done:\n{}\nnode2: {servers:#?}", done.join("\n"));
}

/// Of two backends without a condition only the first is ever used: its author hears it.
#[test]
fn each_backend_is_led_to() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let text = "ssh:\n  frontend: {mode: tcp, bind: ['*:2222']}\n  backends: [{name: one, port: 22, peer_port: 2222}, {name: two, port: 23, peer_port: 2222}]";
    let run = deploy(&w, &caddy, 24114, "a", &variable(&w, "two", "HAPROXY", text)).0;
    run.says("nothing leads to two of ssh: a backend without a condition, or with the same one, stands before it");
}

/// One certificate of the operator's that cannot be read, as in the middle of a renewal by hand, keeps no site from being served; or the order says so.
#[test]
fn a_bad_certificate_of_the_operators() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let folder = w.deploy_dir("node1").join(".certificates");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("other.crt"), "half of").unwrap();
    fs::write(folder.join("other.key"), "it").unwrap();
    let url = repository(&w, "shop", "http://shop.example.com {\n    respond shop\n}");
    let payload = json!({"repo": url, "branch": "master", "master": "node1"});
    let folder = folder.display().to_string();
    let run = with(&w, &caddy, 24120, "node1", &[])
        .env("HANDLER_CERTIFICATES", &folder)
        .stdin(&json!([event("a", "deploy", &payload)]).to_string())
        .run();
    let routes = with(&w, &caddy, 24120, "node1", &["routes"]).env("HANDLER_CERTIFICATES", &folder).run();
    let key = w.keys("history/").into_iter().find(|key| key.ends_with(&id("a"))).unwrap();
    let ended = w.kv(&key).unwrap();
    let said = ask(24120, "shop.example.com", "/", &[]);
    assert!(ended["state"] == "failed" || said == "shop", "{}: {said:?}\n{}\n{}", ended["state"], run.stderr, routes.stderr);
}

/// A reason stands in the history. Passwords of small letters only are passwords, too.
#[test]
fn a_reason_has_no_secret_of_small_letters() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut shown = Vec::new();
    for (n, body) in [
        "@a expression {header.X-Key} == 'correcthorse'\nrespond @a x",
        "@a expression {header.X-Key} == \"correcthorse\" &&\nrespond @a x",
        "@a expression `{header.X-Key} == 'correcthorse' &&`\nrespond @a x",
        "@a expression `header({'X-Key':'correcthorse'})) && method('GET'`\nrespond @a x",
        "basic_auth {\n bob correcthorse\n}",
        "reverse_proxy $CONTAINER:80 {\n header_up Authorization a b correcthorse\n}",
        "reverse_proxy $CONTAINER:80 {\n lb_policy cookie lb x correcthorse y\n}",
        "reverse_proxy $CONTAINER:80 {\n health_headers {\n  X-Key\n  correcthorse\n }\n}",
        "@a header_regexp a Authorization correcthorse(\nrespond @a x",
        "@a header_regexp a Authorization \"^Bearer correcthorse(\"\nrespond @a x",
        "@a query key correcthorse\nrespond @a x",
        "map {header.X-Key} {user} {\n correcthorse\n}\nrespond x",
        "map {header.X-Key} {user} {\n ~correcthorse( x\n}\nrespond x",
        "@a not {\n header_regexp correcthorse[\n}\nrespond @a x",
        "respond correcthorse abc",
        "redir /a correcthorse bcd",
        "uri query correcthorse",
        "uri replace correcthorse",
        "uri path_regexp correcthorse( a",
        "vars correcthorse",
        "@a remote_ip correcthorse\nrespond @a x",
        "method correcthorse b",
        "error correcthorse x y",
        "request_header Authorization \"Bearer correcthorse",
    ]
    .iter()
    .enumerate()
    {
        let url = repository(&w, &format!("s{n}"), &format!("http://s{n}.example.com {{\n{body}\n}}"));
        let (run, ended) = deploy(&w, &caddy, 24140, &format!("w{n}"), &url);
        if (ended["reason"].to_string() + &run.stderr).contains("correcthorse") {
            shown.push(format!("{body}\n   => {}", ended["reason"]));
        }
    }
    assert!(shown.is_empty(), "{}", shown.join("\n"));
}

/// The site of a host leads from http to https. A neighbour's `http://*.example.com` answers in its place.
#[test]
fn a_wildcard_takes_no_neighbours_redirect() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let shop = repository(&w, "shop", "https://shop.example.com {\n    tls internal\n    respond shop\n}");
    let wild = repository(&w, "wild", "http://*.example.com {\n    respond wild\n}");
    assert_eq!(deploy(&w, &caddy, 24150, "a", &shop).1["state"], "done");
    routes(&w, &caddy, 24150).exits(0);
    let redirect = ["-o", "/dev/null", "-w", "%{http_code}"];
    assert_eq!(ask(24150, "shop.example.com", "/", &redirect), "308");
    let ended = deploy(&w, &caddy, 24150, "b", &wild).1;
    routes(&w, &caddy, 24150);
    assert_eq!(ask(24150, "shop.example.com", "/", &redirect), "308", "{}: {}", ended["state"], ask(24150, "shop.example.com", "/", &[]));
}

/// Some thousand redirects are some hundred KiB as Caddy's own configuration, and Consul takes no record of that size. That is said before anything is
/// touched.
#[test]
fn what_no_record_holds_is_said_at_once() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let many = |count: usize| {
        let lines: String = (0..count).map(|n| format!("    redir /old-{n} /new-{n} permanent\n")).collect();
        format!("http://a.example.com {{\n{lines}    respond a\n}}")
    };
    let url = repository(&w, "a", &many(1));
    assert_eq!(deploy(&w, &caddy, 24160, "a", &url).1["state"], "done");
    repository(&w, "a", &many(2500));
    let (run, ended) = deploy(&w, &caddy, 24160, "b", &url);
    let stopped = run.stderr.lines().find(|line| line.contains("stop")).map(String::from);
    assert!(ended["state"] == "done" || stopped.is_none(), "{} {}: {stopped:?}\n{}", ended["state"], ended["reason"], run.stderr);
}

/// What a response is looked at for leads to the application's own container once more: that waits for it, too.
#[test]
fn a_request_behind_a_response_waits() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let listener = std::net::TcpListener::bind("127.0.0.1:24179").unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            use std::io::{Read, Write};
            assert!(stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0));
            stream.write_all(b"HTTP/1.1 200 OK\r\nX-Accel-Redirect: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
        }
    });
    let text = "http://a.example.com {\n    reverse_proxy 127.0.0.1:24179 {\n        @accel header X-Accel-Redirect *\n        handle_response @accel {\n            reverse_proxy $CONTAINER:9000\n        }\n    }\n}";
    let url = repository(&w, "a", text);
    let payload = json!({"repo": url, "branch": "master", "master": "node1"});
    let run = with(&w, &caddy, 24170, "node1", &[])
        .env("HANDLER_UPSTREAMS", "127.0.0.1:24179")
        .stdin(&json!([event("a", "deploy", &payload)]).to_string())
        .run();
    routes(&w, &caddy, 24170).exits(0);
    let said = ask(24170, "a.example.com", "/", &["-m", "3", "-o", "/dev/null", "-w", "%{http_code}"]);
    assert!(said == "000", "{said}: {run:?}");
}

/// Caddy asks sites in an order that the longest of all their hosts decides, and whether one of them is a wildcard. So a neighbour's wildcard is asked before
/// a host that is named.
#[test]
fn a_wildcard_is_asked_after_a_neighbours_host() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let shop = repository(&w, "shop", "http://shop.example.com, http://*.shop.de {\n    respond shop\n}");
    let wild = repository(&w, "wild", "http://*.example.com, http://customers.wild.example.net {\n    respond wild\n}");
    assert_eq!(deploy(&w, &caddy, 24180, "a", &shop).1["state"], "done");
    routes(&w, &caddy, 24180).exits(0);
    assert_eq!(ask(24180, "shop.example.com", "/", &[]), "shop");
    let ended = deploy(&w, &caddy, 24180, "b", &wild).1;
    routes(&w, &caddy, 24180);
    assert_eq!(ask(24180, "shop.example.com", "/", &[]), "shop", "{}", ended["state"]);
}

/// `root` without a matcher is Caddy 2's, too.
#[test]
fn words_of_both_are_caddy_twos() {
    as_its_authors_caddy(
        24190,
        &["root /srv\nredir / /b\nrespond x", "root /srv\nheader X-A b\nrespond x", "root /srv\nhandle {\n respond y\n}"],
    );
}

/// No name with a part of more than 63 characters can be asked for: nothing finds the container of a long branch.
#[test]
fn a_container_that_no_name_leads_to() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let name = "customer-portal-feature-1234-new-checkout-flow-with-invoices-and-refunds";
    let url = repository(&w, name, "http://a.example.com {\n    reverse_proxy $CONTAINER:80\n}");
    let ended = deploy(&w, &caddy, 24210, "a", &url).1;
    routes(&w, &caddy, 24210);
    let config: Value =
        fs::read_to_string(w.deploy_dir("node1").join(".handler/proxies/caddy.json")).unwrap_or_default().parse().unwrap_or_default();
    let text = config.to_string();
    let dial = text.split("\"dial\":\"").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or_default();
    assert!(ended["state"] == "failed" || dial.len() <= 63, "{}: {dial} has {} characters", ended["state"], dial.len());
}

/// Caddy makes an authority as soon as it checks a site with `tls internal`: before the node has taken the one that another node has handed over.
#[test]
fn the_authority_is_that_of_the_first() {
    let w = World::new(&["node1", "node2"]);
    let caddies = ["node1", "node2"].map(|node| caddy(&w, node));
    let data = |node: &str| w.deploy_dir(node).parent().unwrap().join("xdg");
    // As in the container of Caddy, where it is checked.
    let at = |n: usize, args: &[&str]| {
        let node = ["node1", "node2"][n];
        let run = with(&w, &caddies[n], 24220 + 4 * u16::try_from(n).unwrap(), node, args);
        run.env("XDG_DATA_HOME", &data(node).display().to_string())
            .env("HANDLER_CADDY_DATA", &data(node).join("caddy").display().to_string())
    };
    for (n, name) in ["one", "two"].iter().enumerate() {
        let url = repository(&w, name, &format!("https://{name}.example.com {{\n    tls internal\n    respond {name}\n}}"));
        let payload = json!({"repo": url, "branch": "master", "master": format!("node{}", n + 1)});
        at(n, &[]).stdin(&json!([event(name, "deploy", &payload)]).to_string()).run().exits(0);
        at(n, &["routes"]).run();
        at(n, &["routes"]).run();
    }
    let root = |node: &str| fs::read_to_string(data(node).join("caddy/pki/authorities/local/root.crt")).unwrap();
    assert!(w.keys("certificate/").contains(&"certificate/-".to_string()), "{:?}", w.keys("certificate/"));
    at(1, &["routes"]).run();
    assert!(root("node1") == root("node2"), "each node has an authority of its own");
}

/// A client asks by https, and says in headers who it is. An application takes `_` for `-`, and what `Connection` names would be taken out.
#[test]
fn what_a_client_says_of_itself_by_https_is_not_believed() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let names =
        ["X-Real-IP", "X-Real_IP", "X_Real_IP", "X-Forwarded-For", "X-Forwarded-Host", "X_Forwarded_For", "X-Forwarded_Proto", "Forwarded"];
    let shown = names.map(|name| format!("{{header.{name}}}")).join(" ");
    let said: Vec<String> = names.iter().map(|name| format!("{name}: 6.6.6.6")).collect();
    let said: Vec<&str> = said.iter().flat_map(|line| ["-H", line]).collect();
    let shop =
        repository(&w, "shop", &format!("https://shop.example.com {{\n tls internal\n respond \"{shown} {{header.Connection}}|\"\n}}"));
    assert_eq!(deploy(&w, &caddy, 24510, "a", &shop).1["state"], "done");
    routes(&w, &caddy, 24510).exits(0);
    for (connection, left) in [("X-Real-IP, close", ""), ("keep-alive, Upgrade, X-Real-IP", "Upgrade")] {
        let connection = format!("Connection: {connection}");
        let seen = handshake(24510, "shop.example.com", &[&said[..], &["--http1.1", "-H", &connection]].concat());
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>().join(" "), format!("127.0.0.1 {left}|"));
    }
    // Whoever the operator trusts is believed.
    let run = with(&w, &caddy, 24510, "node1", &["routes"]);
    let head = "{\n    http_port 24510\n    https_port 24511\n    servers {\n        trusted_proxies static 127.0.0.1/32\n    }\n}\n";
    fs::write(w.deploy_dir("node1").parent().unwrap().join("head"), head).unwrap();
    run.run().exits(0);
    let seen = handshake(24510, "shop.example.com", &said);
    assert!(seen.starts_with("6.6.6.6   6.6.6.6 6.6.6.6   6.6.6.6"), "{seen}");
}
