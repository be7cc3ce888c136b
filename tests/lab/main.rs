//! Scenarios in the laboratory (`make lab-test`, one alone with `make lab-test ONE=name`): real engines, real Consul
//! servers, real btrfs, and a network that can be cut. They print what they measure, and judge only what is to be found.
//! Order and failure of every single step are tested with stand-ins in `tests/e2e`.
#![cfg(feature = "lab")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)] // a scenario stops at the first surprise

#[path = "../client/mod.rs"]
mod client;
mod harness;
mod machine;
mod replicas;
mod trouble;
mod writer;

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use harness::{App, Lab, NODES, Node, SOON, Variant, Want, address, client_of, name, secs, socket, wait_until};
use serde_json::json;

/// The laboratory with an application on node1, replicated to node2.
fn deployed(scenario: &str) -> (Lab, App) {
    let lab = Lab::take(scenario);
    let app = lab.app("app", 8080);
    lab.deploy(&app, 1, Some(2)).done();
    (lab, app)
}

#[test]
fn deploy_with_a_slave() {
    let (lab, app) = deployed("deploy_with_a_slave");
    lab.expect(&app, &Want::on(1, Some(2)));
    app.store(1, "key", "value");
    // The volume plugin itself replicates, a few seconds after it was told to.
    wait_until("the first replica", SOON, || if lab.facts(2, &app).snapshots.is_empty() { Err("none yet".into()) } else { Ok(()) });
}

#[test]
fn moves_and_comes_back_with_its_data() {
    let (lab, app) = deployed("moves_and_comes_back_with_its_data");
    app.store(1, "first", "from node1");
    let client = lab.client(&app);
    lab.deploy(&app, 2, Some(1)).done();
    lab.expect(&app, &Want::on(2, Some(1)));
    let seen = client.stop();
    lab.measured("outage of a move", seen.outage);
    assert!(!seen.twice, "two nodes served at once");
    assert_eq!(app.read(2, "first").as_deref(), Some("from node1"));

    app.store(2, "second", "from node2");
    app.store(2, "first", "changed on node2");
    let client = lab.client(&app);
    lab.deploy(&app, 1, Some(2)).done();
    lab.expect(&app, &Want::on(1, Some(2)));
    let seen = client.stop();
    lab.measured("outage of the way back", seen.outage);
    assert!(!seen.twice, "two nodes served at once");
    assert_eq!(app.read(1, "first").as_deref(), Some("changed on node2"));
    assert_eq!(app.read(1, "second").as_deref(), Some("from node2"));

    // To a node that has never had it, and without a slave.
    let mut request = app.deploy(3, None);
    request["slave"] = json!(null);
    let id = lab.fire(3, "deploy", &request);
    lab.wait_end(3, &app, &id, secs(120)).done();
    lab.expect(&app, &Want::on(3, None));
    assert_eq!(app.read(3, "second").as_deref(), Some("from node2"));
}

#[test]
fn redeploys_in_place() {
    let (lab, app) = deployed("redeploys_in_place");
    app.store(1, "key", "value");
    app.commit("2", Variant::Good);
    let client = lab.client(&app);
    lab.deploy(&app, 1, Some(2)).done();
    lab.expect(&app, &Want::on(1, Some(2)).version("2"));
    let seen = client.stop();
    lab.measured("outage of a redeploy", seen.outage);
    let client = lab.client(&app);
    lab.node(1).sh(&format!("docker ps -q --filter label=com.docker.compose.project={} | xargs docker restart", app.project()));
    lab.expect(&app, &Want::on(1, Some(2)).version("2"));
    lab.measured("outage of Docker's own restart of the container", client.stop().outage);
    assert_eq!(app.read(1, "key").as_deref(), Some("value"));
    // Another slave.
    lab.deploy(&app, 1, Some(3)).done();
    lab.expect(&app, &Want::on(1, Some(3)).version("2"));
}

#[test]
fn a_failed_deploy_leaves_the_old_one_serving() {
    let lab = Lab::take("a_failed_deploy_leaves_the_old_one_serving");
    lab.set(&[("HANDLER_TIMEOUT_HEALTH", "20")]);
    let app = lab.app("app", 8080);
    lab.deploy(&app, 1, Some(2)).done();
    app.store(1, "key", "value");
    let failures = [
        (Variant::BadCompose, "docker-compose.yml"),
        (Variant::NoImage, "pull"),
        (Variant::BuildFails, "build"),
        (Variant::UpdateFails, "no such column: colour"),
        (Variant::Exits, "testapp"),
        (Variant::Unhealthy, "unhealthy"),
    ];
    for (variant, reason) in failures {
        app.commit("9", variant);
        // What fails while preparing fails alike on either node; each step of each transition is made to fail in tests/e2e.
        let moves = matches!(variant, Variant::UpdateFails | Variant::Unhealthy);
        for (master, slave) in if moves { &[(1, 2), (2, 1)][..] } else { &[(1, 2)] }.iter().copied() {
            let mut request = app.deploy(master, Some(slave));
            request["update"] = json!(variant == Variant::UpdateFails);
            let id = lab.fire(3, "deploy", &request);
            lab.wait_end(3, &app, &id, secs(120)).failed(reason);
            lab.expect(&app, &Want::on(1, Some(2)));
            assert_eq!(app.read(1, "key").as_deref(), Some("value"));
        }
    }
    // Something new that fails leaves nothing.
    let other = lab.app("other", 8081);
    other.commit("1", Variant::Exits);
    lab.deploy(&other, 1, Some(2)).failed("");
    lab.expect(&other, &Want::nowhere());
    // And the next good one goes through.
    app.commit("3", Variant::Good);
    lab.deploy(&app, 2, Some(1)).done();
    lab.expect(&app, &Want::on(2, Some(1)).version("3"));
    assert_eq!(app.read(2, "key").as_deref(), Some("value"));
}

#[test]
fn destroy_keeps_the_snapshots_only() {
    let (lab, app) = deployed("destroy_keeps_the_snapshots_only");
    lab.expect(&app, &Want::on(1, Some(2)));
    app.store(1, "key", "value");
    let output = lab.order(2, "destroy", &app.request());
    assert_eq!(output.code, Some(0), "{}", output.err);
    lab.expect(&app, &Want::nowhere());
    assert!(!lab.facts(1, &app).snapshots.is_empty());
    // Not there any more: refused.
    assert_eq!(lab.order(2, "destroy", &app.request()).code, Some(1));
    // And it can be deployed again, empty.
    lab.deploy(&app, 2, None).done();
    lab.expect(&app, &Want::on(2, None));
}

#[test]
fn migrate_copies_the_data() {
    let lab = Lab::take("migrate_copies_the_data");
    let mut prod = lab.app("app", 8080);
    prod.volumes = vec!["data".into(), "fixed".into()];
    prod.fixed = vec!["fixed".into()];
    prod.commit("1", Variant::Good);
    let stage = prod.branch("stage", 8081);
    stage.add("post_migrate.sh", "echo \"$@\" > migrated\n");
    stage.add("update.sh", "echo \"$@\" > updated\n");
    lab.deploy(&prod, 1, Some(2)).done();
    // The same node, then another one.
    for target in [1, 3] {
        lab.deploy(&stage, target, None).done();
        prod.store(1, "key", &format!("of prod {target}"));
        stage.store(target, "key", "of stage");
        let fixed = format!("/var/lib/buttervolume/volumes/{}_fixed", stage.project());
        lab.node(target).sh(&format!("echo mine > {fixed}/here"));
        let mut request = prod.request();
        request["target"] = json!({"branch": "stage"});
        let output = lab.order(2, "migrate", &request);
        assert_eq!(output.code, Some(0), "{}", output.err);
        lab.expect(&stage, &Want::on(target, None));
        assert_eq!(stage.read(target, "key"), Some(format!("of prod {target}")));
        assert_eq!(lab.node(target).sh(&format!("cat {fixed}/here")).trim(), "mine");
        let checkout = lab.facts(target, &stage).checkouts.pop().unwrap();
        let said = lab.node(target).sh(&format!("cat {checkout}/migrated {checkout}/updated"));
        let repo = prod.repo();
        assert_eq!(said, format!("-R {repo} -B main -r {repo} -b stage\n-r {repo} -b stage\n"));
        lab.expect(&prod, &Want::on(1, Some(2)));
    }
    // One that fails puts the target's own data back.
    stage.store(3, "key", "of stage");
    let checkout = lab.facts(3, &stage).checkouts.pop().unwrap();
    lab.node(3).sh(&format!("echo exit 3 > {checkout}/post_migrate.sh"));
    let mut request = prod.request();
    request["target"] = json!({"branch": "stage"});
    assert_eq!(lab.order(2, "migrate", &request).code, Some(1));
    lab.expect(&stage, &Want::on(3, None));
    assert_eq!(stage.read(3, "key").as_deref(), Some("of stage"));
}

/// The engine gives up on containers whose volumes are not there yet; they run again by themselves, and Consul's catalog tells of it.
#[test]
fn runs_again_after_a_reboot_with_a_late_plugin() {
    let (lab, app) = deployed("runs_again_after_a_reboot_with_a_late_plugin");
    app.store(1, "key", "value");
    let is = |status: &'static str, says: &'static str| {
        move || match Node(1).health() {
            (found, output) if found == status && output.contains(says) => Ok(output),
            other => Err(format!("{other:?}")),
        }
    };
    // The catalog does not hear at once of what is printed while the status stays.
    wait_until("a first check", SOON, || {
        let printed = lab.node(1).sh("consul-api agent/checks | jq -r .handler.Output");
        if printed.contains("nothing is wrong") { Ok(()) } else { Err(printed) }
    });
    // A set that is cut off is one that has failed, until the next one.
    lab.replicate(&app, 1, 2);
    lab.node(1).sh("touch /etc/plugin-late; sync");
    lab.node(1).lose_power();
    let start = Instant::now();
    lab.note(wait_until("a warning", secs(120), is("warning", "the volume plugin is not running")).trim());
    assert!(app.read(1, "key").is_none(), "the engine has started it");
    lab.node(1).sh("rm /etc/plugin-late");
    wait_until("the application", secs(180), || match app.read(1, "key") {
        Some(value) if value == "value" => Ok(()),
        other => Err(format!("{other:?} {:?}", Node(1).health())),
    });
    lab.note(&format!("serves again {} s after the boot, the first of them without the plugin", start.elapsed().as_secs()));
    lab.expect(&app, &Want::on(1, Some(2)));
    wait_until("that all is well", secs(90), is("passing", "nothing is wrong"));
    // Somebody removes a container.
    lab.node(1).sh(&format!("docker ps -q --filter label=com.docker.compose.project={} | head -n 1 | xargs docker rm -f", app.project()));
    wait_until("the application", SOON, || app.read(1, "key").ok_or_else(|| format!("{:?}", Node(1).health())));
    lab.expect(&app, &Want::on(1, Some(2)));
}

#[test]
fn takes_over_from_a_dead_master_which_then_returns() {
    let (lab, app) = deployed("takes_over_from_a_dead_master_which_then_returns");
    app.store(1, "key", "replicated");
    lab.replicate(&app, 1, 2);
    app.store(1, "late", "after the last replication");
    lab.node(1).kill();
    lab.wait_dead(&[2, 3], 1);
    lab.note("node1 is seen as dead");

    // A node without a replica must say so, and can be told to start empty; that is not done here.
    let refused = lab.order(3, "deploy", &app.deploy(3, None));
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("replica"), "{}", refused.err);

    let start = Instant::now();
    let ended = lab.deploy(&app, 2, Some(3)).done();
    lab.measured("takeover of a dead master", start.elapsed());
    assert!(ended.order["notes"].to_string().contains("old"), "the order does not say how old the data is: {:#}", ended.order);
    lab.expect(&app, &Want::on(2, Some(3)));
    assert_eq!(app.read(2, "key").as_deref(), Some("replicated"));
    app.store(2, "key", "changed on node2");

    lab.node(1).start();
    lab.settle_consul();
    lab.note("node1 is back");
    lab.expect(&app, &Want::on(2, Some(3)).fenced(1));
    assert_eq!(app.read(2, "key").as_deref(), Some("changed on node2"));
    // What only the dead master had is still to be found there.
    let found = lab.node(1).sh("grep -rl 'after the last replication' /var/lib/buttervolume/snapshots | head -n 1");
    assert!(found.contains(&app.project()), "{found}");
    // It can become the master again, with the new data.
    lab.deploy(&app, 1, Some(2)).done();
    lab.expect(&app, &Want::on(1, Some(2)));
    assert_eq!(app.read(1, "key").as_deref(), Some("changed on node2"));
}

#[test]
fn starts_empty_only_when_told_to() {
    let lab = Lab::take("starts_empty_only_when_told_to");
    let app = lab.app("app", 8080);
    lab.deploy(&app, 1, None).done();
    app.store(1, "key", "value");
    lab.node(1).kill();
    lab.wait_dead(&[2, 3], 1);
    let mut request = app.deploy(3, None);
    assert_eq!(lab.order(3, "deploy", &request).code, Some(1));
    request["empty"] = json!(true);
    let output = lab.order(3, "deploy", &request);
    assert_eq!(output.code, Some(0), "{}", output.err);
    lab.expect(&app, &Want::on(3, None));
    lab.node(1).start();
    lab.settle_consul();
    lab.expect(&app, &Want::on(3, None).fenced(1));
}

#[test]
fn destroyed_while_its_old_master_was_dead() {
    let (lab, app) = deployed("destroyed_while_its_old_master_was_dead");
    app.store(1, "key", "value");
    lab.replicate(&app, 1, 2);
    lab.node(1).kill();
    lab.wait_dead(&[2, 3], 1);
    let output = lab.order(3, "destroy", &app.request());
    assert_eq!(output.code, Some(0), "{}", output.err);
    lab.node(1).start();
    lab.settle_consul();
    lab.expect(&app, &Want::nowhere().fenced(1));
}

#[test]
fn finds_its_way_back_after_a_cut() {
    let (lab, app) = deployed("finds_its_way_back_after_a_cut");
    app.store(1, "key", "value");
    lab.replicate(&app, 1, 2);
    lab.cut(&[1], &[2, 3]);
    lab.wait_dead(&[2, 3], 1);
    lab.deploy(&app, 2, None).done();
    assert_eq!(app.read(2, "key").as_deref(), Some("value"));
    app.store(2, "key", "changed on node2");
    lab.wait_dead(&[1], 2);
    thread::sleep(secs(8));
    lab.heal();
    lab.note("network whole again");
    lab.settle_consul();
    let start = Instant::now();
    // Consul's own watch comes back with a growing pause, three minutes at most.
    lab.expect(&app, &Want::on(2, None).fenced(1).within(secs(200)));
    lab.measured("fenced, after the members met again", start.elapsed());
    assert_eq!(app.read(2, "key").as_deref(), Some("changed on node2"));
}

#[test]
fn two_operators_at_the_same_moment() {
    const ROUNDS: u8 = 4;
    let lab = Lab::take("two_operators_at_the_same_moment");
    let app = lab.app("app", 8080);
    lab.deploy(&app, 3, None).done();
    app.store(3, "key", "value");
    for round in 1..=ROUNDS {
        let (one, two) = (app.deploy(1, Some(3)), app.deploy(2, Some(3)));
        let ids = thread::scope(|scope| {
            let one = scope.spawn(|| lab.fire(1, "deploy", &one));
            let two = scope.spawn(|| lab.fire(2, "deploy", &two));
            [one.join().unwrap(), two.join().unwrap()]
        });
        let ends = ids.map(|id| lab.wait_end(3, &app, &id, secs(120)));
        assert!(ends.iter().any(|end| end.state == "done"), "round {round}: neither arrived");
        let master = lab.expect_one(&app, &[("key", "value")], SOON);
        lab.note(&format!("round {round}: node{master}"));
        if round == ROUNDS {
            lab.expect(&app, &Want::on(master, Some(3)));
        }
    }
}

#[test]
fn two_applications_at_once() {
    let lab = Lab::take("two_applications_at_once");
    let (a, b) = (lab.app("a", 8080), lab.app("b", 8081));
    let deploys = [(&a, 1, 2), (&b, 2, 1)];
    for (masters, round) in [(deploys, 1), ([(&a, 2, 1), (&b, 1, 2)], 2)] {
        let ids = masters.map(|(app, master, slave)| lab.fire(3, "deploy", &app.deploy(master, Some(slave))));
        for ((app, master, slave), id) in masters.into_iter().zip(ids) {
            lab.wait_end(3, app, &id, secs(120)).done();
            lab.expect(app, &Want::on(master, Some(slave)));
            if round == 1 {
                app.store(master, "key", "value");
            }
            assert_eq!(app.read(master, "key").as_deref(), Some("value"));
        }
    }
}

#[test]
fn a_reload_of_consul_does_nothing_twice() {
    let (lab, app) = deployed("a_reload_of_consul_does_nothing_twice");
    app.store(1, "key", "value");
    let id = lab.fire(3, "deploy", &app.deploy(2, Some(1)));
    wait_until("the order", SOON, || lab.kv(3, &format!("order/{id}")).ok_or("not there".into()));
    for node in NODES.into_iter().chain(NODES) {
        lab.node(node).sh("consul reload");
    }
    lab.wait_end(3, &app, &id, secs(120)).done();
    lab.expect(&app, &Want::on(2, Some(1)));
    let container = || lab.node(2).sh(&format!("docker ps -q --filter label=com.docker.compose.project={}", app.project()));
    let before = (container(), lab.keys(3, &format!("history/{}/", app.name())));
    for node in NODES {
        lab.node(node).sh("consul reload");
    }
    // Every buffered event comes again on every node; each run is short.
    thread::sleep(secs(10));
    assert_eq!((container(), lab.keys(3, &format!("history/{}/", app.name()))), before);
    lab.expect(&app, &Want::on(2, Some(1)));
    assert_eq!(app.read(2, "key").as_deref(), Some("value"));
}

#[test]
fn routes_on_every_node() {
    let lab = Lab::take("routes_on_every_node");
    lab.set(&[("HANDLER_HOLD", "1"), ("HANDLER_TIMEOUT_PROXY", "3")]);
    lab.proxies();
    let mut app = lab.app("app", 8080);
    app.domain = Some("shop.example.com");
    app.commit("1", Variant::Good);
    lab.deploy(&app, 1, Some(2)).done();
    lab.expect_routes(&app, 1, "1");
    let sites = lab.node(1).sh("cat /deploy/.proxies/caddy.sites");
    let modes = lab.node(1).sh("stat -c %a /deploy/.proxies/caddy.sites /deploy/.proxies/caddy.json");
    assert_eq!(modes.split_whitespace().collect::<Vec<_>>(), ["600", "600"], "hashes of passwords may stand there");
    assert!(sites.contains("# marked ") && !sites.contains("    reverse_proxy"), "what was judged, not the author's words: {sites}");
    // What Caddy does not understand is refused before anything is touched, and so is all that it cannot be asked about.
    app.replace("reverse_proxy", "encode lzw\n            reverse_proxy");
    lab.deploy(&app, 1, Some(2)).failed("Caddy does not understand “encode …”");
    app.commit("1", Variant::Good);
    lab.node(1).sh("docker stop -t 2 caddy");
    lab.deploy(&app, 1, Some(2)).failed("Caddy on this node does not answer");
    lab.node(1).sh("docker start caddy");
    lab.expect_routes(&app, 1, "1");
    // What a client says of itself is not believed, by the application's own node nor by another one.
    let told = "X_Real_IP: 10.9.9.9\r\nX-Forwarded-Host: evil.example.com\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 10.9.9.9\r\nX-Real-IP: 10.9.9.9\r\n\
                Forwarded: for=10.9.9.9\r\nConnection: X-Real-IP, X-Forwarded-For, X-Forwarded-Host\r\n";
    for node in NODES {
        let request = format!("GET /request HTTP/1.1\r\nHost: shop.example.com\r\n{told}Connection: close\r\n\r\n");
        let seen = client::ask(socket(node, 80), &request).expect("no answer").to_lowercase();
        for line in ["host: shop.example.com", "x-forwarded-host: shop.example.com", "x-forwarded-proto: http", "x-real-ip: 172.31.77.1"] {
            assert!(seen.lines().any(|is| is == line), "{}: no {line} in\n{seen}", name(node));
        }
        assert!(
            seen.contains("x-forwarded-for: 172.31.77.1") && !seen.contains("evil") && !seen.contains("10.9.9.9"),
            "{}: {seen}",
            name(node)
        );
        let upgrade =
            ["-H", "Connection: X-Real-IP, Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
        let seen = lab.node(node).routed_with("http://shop.example.com/request", &upgrade).expect("no answer").to_lowercase();
        assert!(seen.contains("upgrade: websocket") && seen.contains("x-real-ip: "), "{}: {seen}", name(node));
        // Who is no node of the cluster is not asked who its client is.
        let forged = format!("PROXY TCP4 10.9.9.9 10.9.9.8 1000 80\r\n{request}");
        assert_eq!(client::ask(socket(node, 1180), &forged), None, "{}", name(node));
        // What haproxy cannot read.
        let client = format!("x-forwarded-for: {}", address(client_of(node).0));
        wait_until(&format!("the client's address by {}", name(node)), SOON, || {
            match lab.node(node).routed("https://shop.example.com/request")? {
                seen if seen.to_lowercase().lines().any(|line| line == client) => Ok(()),
                seen => Err(seen),
            }
        });
        let said: Vec<&str> = told.lines().chain(["X_Forwarded_For: 10.9.9.9"]).flat_map(|line| ["-H", line]).collect();
        let seen = lab.node(node).routed_with("https://shop.example.com/request", &said).expect("no answer").to_lowercase();
        assert!(seen.contains("x-real-ip: 172.") && !seen.contains("evil") && !seen.contains("10.9.9.9"), "{}: {seen}", name(node));
    }
    // But whoever is in front of the cluster is, if the operator trusts it.
    let trusted = NODES.map(address).join(",");
    for node in NODES {
        lab.node(node).sh(&format!("echo export HANDLER_TRUSTED_PROXIES={trusted} >> /etc/handler.env; handler routes"));
    }
    for (node, scheme) in [(1, "http"), (2, "http"), (1, "https"), (3, "https")] {
        let said = ["-H", "X-Forwarded-For: 198.51.100.7", "-H", "X-Forwarded-Proto: https"];
        wait_until(&format!("what the proxy in front of {} says by {scheme}", name(node)), SOON, || {
            match lab.node(node).routed_with(&format!("{scheme}://shop.example.com/request"), &said)?.to_lowercase() {
                seen if seen.contains("x-forwarded-for: 198.51.100.7") && seen.contains("x-forwarded-proto: https") => Ok(()),
                seen => Err(seen),
            }
        });
        let seen =
            client::ask(socket(node, 80), &format!("GET /request HTTP/1.1\r\nHost: shop.example.com\r\n{told}Connection: close\r\n\r\n"));
        assert!(
            seen.is_some_and(|seen| !seen.contains("10.9.9.9") && !seen.to_lowercase().contains("x-forwarded-proto: https")),
            "{}",
            name(node)
        );
    }
    // A certificate of the operator's is served, and not Caddy's own.
    lab.node(1).sh("cd /deploy/.certificates && openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=shop.example.com \
                    -addext subjectAltName=DNS:shop.example.com -keyout shop.key -out shop.crt 2>&1 && handler routes");
    let certificate = lab.node(1).sh("cat /deploy/.certificates/shop.crt");
    client_of(1).sh(&format!("echo '{}' > /tmp/shop.crt", certificate.trim()));
    wait_until("the operator's certificate", SOON, || {
        lab.node(1).routed_with("https://shop.example.com/version", &["--cacert", "/tmp/shop.crt"]).map(drop)
    });
    lab.node(1).sh("rm /deploy/.certificates/shop.* && handler routes");
    lab.expect_routes(&app, 1, "1");
    lab.deploy(&app, 2, Some(1)).done();
    let start = Instant::now();
    lab.expect_routes(&app, 2, "1");
    lab.measured("until all nodes were seen to lead to the new master", start.elapsed());

    // Away for long.
    app.add("update.sh", "while [ -e /tmp/update ]; do sleep 0.1; done\n");
    lab.node(2).sh("touch /tmp/update");
    let mut request = app.deploy(2, Some(1));
    request["update"] = json!(true);
    let id = lab.fire(3, "deploy", &request);
    for node in NODES {
        for url in ["http://shop.example.com/version", "https://shop.example.com/version"] {
            wait_until(&format!("the maintenance page of {url} by {}", name(node)), SOON, || match lab.node(node).routed(url)? {
                text if text.contains(" 503") && text.to_lowercase().contains("retry-after: 30") && text.contains("<h1>") => Ok(()),
                text => Err(text),
            });
        }
    }
    lab.note("the maintenance page is shown everywhere");
    lab.node(2).sh("rm /tmp/update");
    lab.wait_end(3, &app, &id, secs(120)).done();
    lab.expect_routes(&app, 2, "1");

    // A node that starts again, the application's and another one.
    for node in [2, 3] {
        lab.node(node).kill();
        lab.node(node).start();
        lab.settle_consul();
        lab.expect_routes(&app, 2, "1");
    }
    lab.order(1, "destroy", &app.request());
    for node in NODES {
        wait_until(&format!("no route left on {}", name(node)), SOON, || match lab.node(node).routed("http://shop.example.com/version") {
            Ok(text) if text.contains(" 503") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn requests_during_a_redeploy_and_a_move() {
    let lab = Lab::take("requests_during_a_redeploy_and_a_move");
    lab.proxies();
    let mut app = lab.app("app", 8080);
    app.domain = Some("shop.example.com");
    app.commit("1", Variant::Good);
    lab.deploy(&app, 1, Some(2)).done();
    lab.expect_routes(&app, 1, "1");
    // Sites of others, on both nodes: their Caddys answer to names that they do not know, too, by a redirection for good.
    for (node, label, port, domain) in [(1, "blog", 8081, "blog.example.com"), (2, "forge", 8082, "forge.example.com")] {
        let mut other = lab.app(label, port);
        other.domain = Some(domain);
        other.commit("1", Variant::Good);
        lab.deploy(&other, node, None).done();
    }
    lab.trust(&[1, 2]);
    // Those of which haproxy knows nothing but where they go.
    let connections = || -> usize {
        let count = "docker logs haproxy 2>&1 | grep -c ' https-in https-shop\\| front-raw-2222 ' || true";
        [1, 2].map(|node| lab.node(node).sh(count).trim().parse::<usize>().unwrap()).iter().sum()
    };
    for (during, master, version) in [("a redeploy", 1, "2"), ("a move", 2, "3")] {
        let crowds = [(1, "http", ""), (2, "http", ""), (2, "https", ""), (2, "http", ":2222")].map(|(node, scheme, port)| {
            let url = format!("{scheme}://shop.example.com{port}/version");
            (node, lab.node(node).crowd(&url), url)
        });
        app.commit(version, Variant::Good);
        let (before, mut asked) = (connections(), 0);
        lab.deploy(&app, master, Some(3 - master)).done();
        lab.expect_routes(&app, master, version);
        for (node, crowd, url) in crowds {
            let answers = crowd.stop();
            let slowest = answers.iter().map(|answer| answer.time).max().unwrap_or_default();
            lab.measured(&format!("slowest answer to {url} by {} during {during}", name(node)), slowest);
            let mut kinds = BTreeMap::new();
            for answer in &answers {
                *kinds.entry((answer.status, &answer.problem)).or_insert(0) += 1;
            }
            lab.note(&format!("answers to {url} by {}: {kinds:?}", name(node)));
            assert!(answers.len() > 20, "{url} by {}: {} answers", name(node), answers.len());
            // Behind a port of which nothing else is known, only the application can answer: nobody says that it is away, and what it has
            // accepted is closed when it is stopped. But haproxy takes every connection.
            let raw = url.contains(":2222");
            asked += if raw || url.starts_with("https") { answers.len() } else { 0 };
            let allowed = |answer: &&&harness::Answer| match (answer.status, answer.bytes) {
                (200, 1..) => true,
                (0, 0) => raw && answer.problem == "closed without an answer",
                _ => false,
            };
            let wrong: Vec<_> = answers.iter().filter(|answer| !allowed(&answer)).collect();
            assert!(wrong.is_empty(), "{url} by {}: {wrong:#?}", name(node));
        }
        if during == "a move" {
            // A client that trusts one node's authority trusts that of all, and what was handed over is what it was.
            let of = |file: &str| {
                let path = "/var/lib/docker/volumes/proxies_caddy-data/_data/caddy";
                [1, 2].map(|node| lab.node(node).sh(&format!("sha256sum < {path}/{file}")))
            };
            for file in ["pki/authorities/local/root.crt", "certificates/local/shop.example.com/shop.example.com.crt"] {
                let [one, two] = of(file);
                assert_eq!(one, two, "{file}");
            }
        }
        let connections = connections() - before;
        lab.note(&format!("{asked} connections were {connections} between haproxys during {during}"));
        assert!(connections < 6 * asked, "they went round in circles");
    }
}

/// An application moves from node1 to node2, and one of them is cut off when the order has reached this state.
fn split(scenario: &str, lonely: u8, state: &str) {
    let lab = Lab::take(scenario);
    lab.set(&[("HANDLER_TIMEOUT_HANDOVER", "60")]);
    let app = lab.app("app", 8080);
    lab.deploy(&app, 1, Some(2)).done();
    app.store(1, "key", "value");
    lab.replicate(&app, 1, 2);
    let others: Vec<u8> = NODES.into_iter().filter(|node| *node != lonely).collect();
    let id = lab.fire(3, "deploy", &app.deploy(2, Some(1)));
    lab.wait_state(3, &id, state);
    lab.cut(&[lonely], &others);
    // Both sides have called the other dead, and had time to draw conclusions.
    lab.wait_dead(&others, lonely);
    lab.wait_dead(&[lonely], others[0]);
    thread::sleep(secs(8));
    lab.heal();
    lab.note("network whole again");
    lab.settle_consul();
    lab.wait_end(3, &app, &id, secs(200));
    lab.expect_one(&app, &[("key", "value")], secs(200));
}

macro_rules! splits {
    ($($name:ident: $lonely:expr, $state:expr;)*) => {$(
        #[test]
        fn $name() {
            split(stringify!($name), $lonely, $state);
        }
    )*};
}

splits! {
    // The master alone, before: finds_its_way_back_after_a_cut. Whoever else is cut off, and whenever: the simulated histories.
    split_target_alone_when_ready: 2, "ready";
    split_master_alone_when_sent: 1, "sent";
    split_target_alone_when_sent: 2, "sent";
}
