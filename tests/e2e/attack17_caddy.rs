//! Attacks on routes, with a real Caddy.

use std::fs;
use std::process::Command;

use crate::real_caddy::*;
use crate::world::Cluster;
use crate::world::outside::World;

/// The text of one site has the words with which the last line of `caddy.sites` begins: what stands for the marks is not found, and every site of
/// the node answers with its mark.
#[test]
fn a_text_that_looks_like_the_last_line_takes_all_sites_down() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
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
    let caddy = caddy(&w, "node1");
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
    let caddy = caddy(&w, "node1");
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
    let caddy = caddy(&w, "node1");
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
    let caddy = caddy(&w, "node1");
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
    let caddy = caddy(&w, "node1");
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
    let caddy = caddy(&w, "node1");
    let one = repository(&w, "one", "http://x.example.com/shop* {\n    respond one\n}");
    let two = repository(&w, "two", "http://x.example.com/*/login* {\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 23052, "a", &one).1["state"], "done");
    let ended = deploy(&w, &caddy, 23052, "b", &two).1;
    routes(&w, &caddy, 23052);
    assert_eq!(ask(23052, "x.example.com", "/shop/login", &[]), "one", "{}", ended["state"]);
}

/// Another port of the same host, by another application: nothing is said, and the site on 443 is not served, since for Caddy a name is proved in one
/// way.
#[test]
fn another_port_of_the_same_host_takes_nothing() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let one = repository(&w, "one", "https://x.example.com:2201 {\n    tls internal\n    respond one\n}");
    let two = repository(&w, "two", "https://x.example.com {\n    tls me@example.com\n    respond two\n}");
    assert_eq!(deploy(&w, &caddy, 23070, "a", &one).1["state"], "done");
    let ended = deploy(&w, &caddy, 23070, "b", &two).1;
    let run = routes(&w, &caddy, 23070);
    assert!(ended["state"] == "failed" || run.status == Some(0), "{}: {run:?}", ended["state"]);
}

/// What an honest author may write: none of it is refused, and Caddy takes all of it.
#[test]
fn honest_authors() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
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
        "basic_auth argon2id {\n bob $$argon2id$$v=19$$m=47104,t=1,p=1$$D2w550kRj8F283jEAkGeNQ$$TZoFVilMBLAKz20yH0fzYrROGYvo8XEQsVau8W/aCXA\n}\nrespond x",
        "basic_auth {\n bob $$2a$$14$$iOz9xnGTzLg/SvE17.865OwbFiq7cKU28ZD6C9sPVB8x7mlYF/2mm\n}\nrespond x",
        "@x expression `{http.request.method} in ['GET', 'PUT'] && path_regexp('n', r'^/api(/\\d{2,3})?$') && !header({'A': ['b', '*c']})`\nrespond @x y",
        "@x expression `{http.request.uri}.startsWith('/a') || size({http.request.host}) > 3 && client_ip('10.0.0.0/8')`\nrespond @x y",
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

/// A reason stands in the history, and is shown by `status` and the log.
#[test]
fn a_reason_has_no_secret() {
    let w = World::new(&["node1"]);
    let caddy = caddy(&w, "node1");
    let mut shown = Vec::new();
    for (n, line) in [
        "request_header X-Key s3cret-of-mine{",
        "request_header X-Key }s3cret-of-mine",
        "request_header X-Key a b s3cret-of-mine",
        "basic_auth {\n bob $$2a$$14$$s3cret-of-mine s3cret-of-mine\n}",
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
