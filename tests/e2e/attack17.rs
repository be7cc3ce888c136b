//! Attacks on routes, with a real Caddy behind its socket (left out where none is installed: `CADDY=/path/to/caddy`, or one in the PATH).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::world::outside::{Invocation, World};
use crate::world::{Cluster, event, id};

struct Caddy {
    process: Child,
    socket: PathBuf,
}

impl Drop for Caddy {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn caddy(w: &World, node: &str) -> Option<Caddy> {
    let program = std::env::var("CADDY").unwrap_or_else(|_| "caddy".into());
    let dir = w.deploy_dir(node).parent().unwrap().to_path_buf();
    let socket = dir.join("caddy.sock");
    let mut command = Command::new(program);
    command.arg("run").env("CADDY_ADMIN", format!("unix/{}|0600", socket.display()));
    command.env("XDG_DATA_HOME", dir.join("xdg")).env("XDG_CONFIG_HOME", dir.join("xdg")).env("SECRET", "of-the-proxy");
    let Ok(process) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        eprintln!("LEFT OUT: no caddy");
        return None;
    };
    let caddy = Caddy { process, socket };
    for _ in 0..100 {
        if caddy.socket.exists() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    Some(caddy)
}

/// Ports that a test may have.
fn with<'a>(w: &'a World, caddy: &Caddy, ports: u16, node: &str, args: &[&str]) -> Invocation<'a> {
    let head = w.deploy_dir(node).parent().unwrap().join("head");
    fs::write(&head, format!("{{\n    http_port {ports}\n    https_port {}\n}}\n", ports + 1)).unwrap();
    let program = std::env::var("CADDY").unwrap_or_else(|_| "caddy".into());
    w.handler(node, args)
        .env("HANDLER_CADDY_ADMIN", &caddy.socket.display().to_string())
        .env("HANDLER_CADDY_HEAD", &head.display().to_string())
        .env("HANDLER_TIMEOUT_PROXY", "0")
        .env("XDG_DATA_HOME", &head.with_extension("xdg").display().to_string())
        .env("HANDLER_CADDY_CHECK", &json!([program, "validate", "--config", "{path}"]).to_string())
        .env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]")
}

fn ask(ports: u16, host: &str, path: &str, more: &[&str]) -> String {
    let url = format!("http://127.0.0.1:{ports}{path}");
    let mut args = vec!["-s", "-m", "10", "-H"];
    let header = format!("Host: {host}");
    args.push(&header);
    args.extend(more);
    args.push(&url);
    String::from_utf8_lossy(&Command::new("curl").args(args).output().unwrap().stdout).into_owned()
}

fn repository(w: &World, name: &str, caddyfile: &str) -> String {
    let url = format!("file:///repos/{name}");
    let mut text = String::from("services:\n  web:\n    image: cache:1\n    restart: unless-stopped\n    environment:\n      CADDYFILE: |\n");
    caddyfile.lines().for_each(|line| text.push_str(&format!("        {line}\n")));
    w.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    w.commit(&url, "master", &[("docker-compose.yml", &text)]);
    url
}

fn deploy(w: &World, caddy: &Caddy, ports: u16, word: &str, url: &str) -> (crate::world::Run, Value) {
    let payload = json!({"repo": url, "branch": "master", "master": "node1"});
    let run = with(w, caddy, ports, "node1", &[]).stdin(&json!([event(word, "deploy", &payload)]).to_string()).run();
    let key = w.keys("history/").into_iter().find(|key| key.ends_with(&id(word)));
    let ended = key.and_then(|key| w.kv(&key)).unwrap_or_default();
    (run, ended)
}

fn routes(w: &World, caddy: &Caddy, ports: u16) -> crate::world::Run {
    with(w, caddy, ports, "node1", &["routes"]).run()
}

/// The text of one site has the words with which the last line of `caddy.sites` begins: what stands for the marks is not found, and every site of
/// the node answers with its mark.
#[test]
fn a_text_that_looks_like_the_last_line_takes_all_sites_down() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let good = repository(&w, "good", "http://good.example.com {\n    respond \"good is served\"\n}");
    let bad = repository(&w, "bad", "http://bad.example.com {\n    respond \"# marked x\"\n}");
    assert_eq!(deploy(&w, &caddy, 23010, "one", &good).1["state"], "done");
    routes(&w, &caddy, 23010).exits(0);
    assert_eq!(ask(23010, "good.example.com", "/", &[]), "good is served");
    assert_eq!(deploy(&w, &caddy, 23010, "two", &bad).1["state"], "done");
    routes(&w, &caddy, 23010);
    assert_eq!(ask(23010, "good.example.com", "/", &[]), "good is served");
}

/// Caddy's adapter does not look into what it adapts: a regular expression, a hash, a network. The order is done, and nothing is served.
#[track_caller]
fn done_is_served(ports: u16, body: &str) {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let url = repository(&w, "typo", &format!("http://typo.example.com {{\n{body}\n    respond served\n}}"));
    let (_, ended) = deploy(&w, &caddy, ports, "one", &url);
    let run = routes(&w, &caddy, ports);
    let answer = ask(ports, "typo.example.com", "/", &[]);
    assert!(ended["state"] == "failed" || answer == "served", "{} but {answer:?}: {run:?}", ended["state"]);
}

#[test]
fn done_is_served_with_a_bad_expression() {
    done_is_served(23020, "    @a path_regexp ^/(a|b\n    respond @a a");
}

#[test]
fn done_is_served_with_a_password_that_is_no_hash() {
    done_is_served(23022, "    basic_auth /admin* {\n        bob hunter2!\n    }");
}

#[test]
fn done_is_served_with_a_bad_network() {
    done_is_served(23024, "    @in remote_ip 10.0.0.0/33\n    respond @in a");
}

/// `ph` is what Caddy makes of a placeholder in an expression; it can be written, too.
#[test]
fn an_expression_reads_the_proxys_disk_and_environment() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let secret = w.deploy_dir("node1").parent().unwrap().join("secret");
    fs::write(&secret, "hash-of-a-neighbour").unwrap();
    let text = format!(
        "http://spy.example.com {{\n    @env expression `path('/env') && ph(req, \"env.SECRET\").startsWith(\"of-the\")`\n    @disk expression `path('/disk') && \
         ph(req, \"file.{}\") == \"hash-of-a-neighbour\"`\n    respond @env \"environment read\"\n    respond @disk \"disk read\"\n}}",
        secret.display()
    );
    let url = repository(&w, "spy", &text);
    let (_, ended) = deploy(&w, &caddy, 23030, "one", &url);
    routes(&w, &caddy, 23030);
    let said = (ask(23030, "spy.example.com", "/env", &[]), ask(23030, "spy.example.com", "/disk", &[]));
    assert!(ended["state"] == "failed", "{}: {said:?}", ended["state"]);
}

/// The same by an escape of the expression's own, which the search for `{file.` does not see.
#[test]
fn an_escape_in_an_expression_hides_a_placeholder() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let text = "http://spy.example.com {\n    @env expression `vars({'\\x7benv.SECRET\\x7d': 'of-the-proxy'})`\n    respond @env \"environment read\"\n}";
    let url = repository(&w, "spy", text);
    let (_, ended) = deploy(&w, &caddy, 23032, "one", &url);
    routes(&w, &caddy, 23032);
    let said = ask(23032, "spy.example.com", "/", &[]);
    assert!(ended["state"] == "failed", "{}: {said:?}", ended["state"]);
}

/// Two applications share a host by paths. The second version of the first one takes the second one out.
#[test]
fn a_neighbour_on_the_same_host_stays_served() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let one = repository(&w, "one", "https://x.example.com/one* {\n    tls internal\n    respond one\n}");
    let two = repository(&w, "two", "https://x.example.com/two* {\n    tls internal\n    respond two\n}");
    for (word, url) in [("a", &one), ("b", &two)] {
        assert_eq!(deploy(&w, &caddy, 23040, word, url).1["state"], "done");
    }
    let run = routes(&w, &caddy, 23040);
    let two_is_served = || {
        let resolve = "x.example.com:23041:127.0.0.1";
        let out = Command::new("curl").args(["-sk", "-m", "10", "--resolve", resolve, "https://x.example.com:23041/two"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout) == "two"
    };
    assert!(two_is_served(), "{run:?}");
    repository(&w, "one", "https://x.example.com/one* {\n    tls me@example.com\n    respond one\n}");
    let (_, ended) = deploy(&w, &caddy, 23040, "c", &one);
    let run = routes(&w, &caddy, 23040);
    assert!(two_is_served(), "{}: {run:?}", ended["state"]);
}

/// Caddy compares paths without case.
#[test]
fn a_path_in_other_letters_is_the_same() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let one = repository(&w, "one", "http://x.example.com/shop* {\n    respond one\n}");
    let two = repository(&w, "two", "http://x.example.com/Shop/Cart* {\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 23050, "a", &one).1["state"], "done");
    routes(&w, &caddy, 23050).exits(0);
    assert_eq!(ask(23050, "x.example.com", "/shop/cart/1", &[]), "one");
    let ended = deploy(&w, &caddy, 23050, "b", &two).1;
    routes(&w, &caddy, 23050);
    assert_eq!(ask(23050, "x.example.com", "/shop/cart/1", &[]), "one", "{}", ended["state"]);
}

/// In the middle of a path `*` stands for whatever another application has there.
#[test]
fn a_pattern_within_a_path_takes_others_paths() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let one = repository(&w, "one", "http://x.example.com/shop* {\n    respond one\n}");
    let two = repository(&w, "two", "http://x.example.com/*/login* {\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 23052, "a", &one).1["state"], "done");
    let ended = deploy(&w, &caddy, 23052, "b", &two).1;
    routes(&w, &caddy, 23052);
    assert_eq!(ask(23052, "x.example.com", "/shop/login", &[]), "one", "{}", ended["state"]);
}

/// Where the new node's Caddy does not accept its part, requests are turned there all the same while the old node still serves it.
#[test]
fn nothing_is_turned_to_where_it_is_left_out() {
    let w = World::new(&["node1", "node2"]);
    let record = json!({"master": "node1", "ip": "10.0.0.1", "caddyfile": "http://a.example.com {\n    respond refused\n}"});
    w.lock().store.set("app/a", record.to_string().as_bytes());
    let run = |node: &str| {
        let check = if node == "node2" { "! /bin/grep -q refused \"$0\"" } else { "exit 0" };
        w.handler(node, &["routes"])
            .env("HANDLER_TIMEOUT_PROXY", "0")
            .env("HANDLER_HOLD", "2")
            .env("HANDLER_CADDY_CHECK", &json!(["/bin/sh", "-c", check, "{path}"]).to_string())
            .env("HANDLER_HAPROXY_CHECK", "[\"/bin/true\"]")
            .run()
    };
    run("node1").exits(0);
    let since = w.lock().now("node1");
    let turn = json!({"order": "x", "since": since, "turn": {"from": "node1", "to": "node2", "given": true}});
    w.lock().store.set("maintenance/a", turn.to_string().as_bytes());
    let said = run("node2");
    assert!(w.kv("maintenance/a").unwrap()["turn"]["held"] != true, "{said:?}");
}

/// Another port of the same host, by another application: nothing is said, and the site on 443 is not served, since for Caddy a name is proved in one
/// way.
#[test]
fn another_port_of_the_same_host_takes_nothing() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let one = repository(&w, "one", "https://x.example.com:2201 {\n    tls internal\n    respond one\n}");
    let two = repository(&w, "two", "https://x.example.com {\n    tls me@example.com\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 23070, "a", &one).1["state"], "done");
    let ended = deploy(&w, &caddy, 23070, "b", &two).1;
    let run = routes(&w, &caddy, 23070);
    assert!(ended["state"] == "failed" || run.status == Some(0), "{}: {run:?}", ended["state"]);
}

/// A clock that is ahead: for as long nothing of any other application is written on the node where requests wait.
#[test]
fn a_clock_that_is_ahead_holds_nothing_for_long() {
    let w = World::new(&["node1", "node2"]);
    let site = |name: &str, master: &str| {
        let record = json!({"master": master, "ip": "10.0.0.1", "caddyfile": format!("http://{name}.example.com {{\n    respond {name}\n}}")});
        w.lock().store.set(&format!("app/{name}"), record.to_string().as_bytes());
    };
    site("a", "node1");
    let turn = json!({"order": "x", "since": "2099-01-01T00:00:00Z", "turn": {"from": "node1", "to": "node2", "given": true, "held": true}});
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

/// What an honest author may write: none of it is refused, and Caddy takes all of it.
#[test]
fn honest_authors() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let bodies = [
        "handle_errors 404 {\n respond \"no\" 404\n}\nhandle_errors {\n respond \"{err.status_code} {err.status_text}\"\n}\nerror 404",
        "handle_errors {\n @n expression {err.status_code} == 404\n respond @n gone 404\n}\nrespond x",
        "header {\n -Server\n Strict-Transport-Security max-age=31536000\n defer\n}\nrespond x",
        "reverse_proxy $CONTAINER:80 {\n header_up Host {upstream_hostport}\n header_down -Server\n transport http {\n dial_timeout 5s\n keepalive 30s\n }\n}",
        "reverse_proxy $CONTAINER:80 {\n @err status 500 502\n handle_response @err {\n respond sorry 503\n }\n}",
        "reverse_proxy {\n to $CONTAINER:80\n lb_policy cookie\n health_uri /h\n health_interval 5s\n fail_duration 30s\n}",
        "reverse_proxy /ws/* $CONTAINER:80\nredir /old /new permanent",
        "@ws {\n header Connection *Upgrade*\n header Upgrade websocket\n}\nreverse_proxy @ws $CONTAINER:81\nreverse_proxy $CONTAINER:80",
        "forward_auth $CONTAINER:9000 {\n uri /auth\n copy_headers Remote-User Remote-Groups\n}\nreverse_proxy $CONTAINER:80",
        "@in client_ip private_ranges\nhandle @in {\n reverse_proxy $CONTAINER:80\n}\nhandle {\n respond 403\n}",
        "map {path} {to} {\n /a /b\n default /c\n}\nredir {to}",
        "uri strip_prefix /x\nuri query +a b\nuri replace /a /b\nrewrite * /index.php?{query}\nmethod GET\nreverse_proxy $CONTAINER:80",
        "log_skip /health\nlog_append user {http.auth.user.id}\nrequest_body {\n max_size 10GB\n}\nrequest_header -X-A\nreverse_proxy $CONTAINER:80",
        "intercept {\n @a status 404\n handle_response @a {\n respond gone 404\n }\n}\nreverse_proxy $CONTAINER:80",
        "route {\n vars a b\n respond \"{vars.a}\"\n}",
        "encode zstd gzip {\n minimum_length 100\n match {\n header Content-Type text/*\n }\n}\nrespond x",
        "@x not path /a /b\nrespond @x \"{http.request.uri.query} {labels.1} {time.now.year}\"",
        "handle_path /api/* {\n reverse_proxy $CONTAINER:1\n}\nhandle {\n abort\n}",
        "reverse_proxy https://$CONTAINER:443 {\n transport http {\n tls_insecure_skip_verify\n tls_server_name x\n }\n}",
        "reverse_proxy h2c://$CONTAINER:50051",
        "reverse_proxy $CONTAINER:80 {\n header_up X-Real-IP {remote_host}\n flush_interval -1\n}",
        "reverse_proxy $CONTAINER:80 {\n lb_retries 2\n unhealthy_status 5xx\n max_fails 3\n}",
        "push /style.css\nrespond x",
        "@q query a=b\n@h host h.example.com\n@p protocol https\n@r header_regexp r Cookie ^a=(.*)$\nrespond @r {re.r.1}",
        "log {\n output discard\n}\nlog_name x\nrespond x",
    ];
    let mut wrong = Vec::new();
    for (n, body) in bodies.iter().enumerate() {
        for scheme in ["http", "https"] {
            let name = format!("h{n}{scheme}");
            let tls = if scheme == "https" { "tls internal\n" } else { "" };
            let url = repository(&w, &name, &format!("{scheme}://{name}.example.com {{\n{tls}{body}\n}}"));
            let ended = deploy(&w, &caddy, 23080, &name, &url).1;
            if ended["state"] != "done" {
                wrong.push(format!("{body}\n  => {}", ended["reason"]));
            }
        }
    }
    let run = routes(&w, &caddy, 23080);
    let left_out: Vec<&str> = run.stderr.lines().filter(|line| line.contains("left out")).collect();
    assert!(wrong.is_empty() && left_out.is_empty(), "WRONG {}\n{left_out:?}", wrong.join("\n"));
}

/// While it is looked for who is at fault the check itself does not work for a moment (the engine, or Caddy, starts anew). Whoever was looked at then
/// is left out, and stays so: what was refused is not tried again.
#[test]
fn a_check_that_did_not_work_for_a_moment_leaves_nobody_out_for_ever() {
    let w = World::new(&["node1"]);
    for name in ["a", "b", "c", "d"] {
        let body = if name == "a" { "refused" } else { name };
        let record = json!({"master": "node1", "ip": "10.0.0.1", "caddyfile": format!("http://{name}.example.com {{\n    respond {body}\n}}")});
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

/// A reason stands in the history, and is shown by `status` and the log.
#[test]
fn a_reason_has_no_secret() {
    let w = World::new(&["node1"]);
    let Some(caddy) = caddy(&w, "node1") else { return };
    let mut shown = Vec::new();
    for (n, line) in [
        "request_header X-Key s3cret-of-mine{",
        "request_header X-Key }s3cret-of-mine",
        "request_header X-Key a b s3cret-of-mine",
        "basic_auth {\n bob $2a$14$s3cret-of-mine s3cret-of-mine\n}",
        "request_header X-Key \"s3cret-of-mine \\\\\" `",
    ]
    .iter()
    .enumerate()
    {
        let url = repository(&w, &format!("s{n}"), &format!("http://s{n}.example.com {{\n    {line}\n    respond x\n}}"));
        let (_, ended) = deploy(&w, &caddy, 23090, &format!("w{n}"), &url);
        let reason = ended["reason"].to_string();
        if reason.contains("s3cret-of-mine") {
            shown.push(format!("{line} => {reason}"));
        }
    }
    assert!(shown.is_empty(), "{}", shown.join("\n"));
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
