//! What compose makes of an application's files is what counts: wherever a volume is declared, and by whatever variable its driver is named.

use serde_json::Value;

use crate::world::inside::Sim;
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, push, push_files, shop};
use crate::world::state::DRIVER;
use crate::world::{Act, Cluster, Kind};

fn volumes(sim: &Sim) -> Vec<String> {
    let record = sim.lock().kv(&format!("app/{APP}")).unwrap_or_default();
    record["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn named(key: &str) -> String {
    format!("{PROJECT}_{key}")
}

fn ended(sim: &Sim, word: &str) -> (String, String) {
    let order = sim.lock().ended(word);
    let text = |member: &str| order[member].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

/// A data volume that is not seen is one that is left behind, or lost.
#[test]
fn data_moves_wherever_its_volume_is_declared() {
    let by_variable = compose("").replace("'anybox/buttervolume:latest'", "'${DRIVER}'");
    let more = |volumes: &str| {
        format!("services: {{db: {{image: 'cache:1', volumes: ['{volumes}']}}}}\nvolumes: {{db: {{driver: '${{DRIVER}}'}}}}")
    };
    let (env, db) = (format!("DRIVER={DRIVER}"), more("db:/db"));
    let included = format!("include: [db.yml]\n{by_variable}");
    let named_files = format!("{env}\nCOMPOSE_FILE=main.yml:db.yml");
    let layouts: [(&str, Vec<(&str, &str)>); 4] = [
        ("an override file", vec![("docker-compose.yml", &by_variable), ("docker-compose.override.yml", &db), (".env", &env)]),
        ("an include", vec![("docker-compose.yml", &included), ("db.yml", &db), (".env", &env)]),
        ("files that .env names", vec![("main.yml", &by_variable), ("db.yml", &db), (".env", &named_files)]),
        ("another name", vec![("compose.yaml", &by_variable), ("compose.override.yaml", &db), (".env", &env)]),
    ];
    for (what, files) in layouts {
        let sim: Sim = shop(&NODES);
        sim.lock().commit(URL, "master", &files);
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        assert_eq!(volumes(&sim), [DATA, &named("db")], "{what}");
        sim.lock().write("node1", &named("db"), "accounts");
        all_well(&sim.deliver_all(&[deploy("second", "node2", Some("node1"))]));
        sim.settle();
        let there = sim.lock().volume("node2", &named("db")).unwrap_or_default();
        assert!(there.starts_with("accounts"), "{what}: {there:?}");
        assert_eq!(sim.lock().volume("node1", &named("db")), None, "{what}");
    }
}

/// Its services do not run unasked, and its volume is not made by a deploy. Where somebody has made it, it is data like any other.
#[test]
fn the_data_of_a_profile_is_seen() {
    let backup = "  backup: {image: 'cache:1', profiles: [tools], volumes: ['dump:/dump']}";
    let text = compose("").replace("volumes:\n  data:", &format!("{backup}\nvolumes:\n  dump: {{driver: '${{DRIVER}}'}}\n  data:"));
    let (sim, dump): (Sim, _) = (shop(&NODES), named("dump"));
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &text), (".env", &format!("DRIVER={DRIVER}"))]);
    for word in ["first", "again"] {
        all_well(&sim.deliver_all(&[deploy(word, "node1", Some("node2"))]));
        assert_eq!(volumes(&sim), [DATA], "{word}");
    }
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    let mut s = sim.lock();
    s.create_volume("node1", &dump, DRIVER).unwrap();
    s.append("node1", &dump, "dump of monday");
    drop(s);
    all_well(&sim.deliver_all(&[deploy("third", "node1", Some("node2"))]));
    assert_eq!(volumes(&sim), [DATA, &dump]);
    for (word, to, from) in [("there", "node2", "node1"), ("back", "node1", "node2")] {
        all_well(&sim.deliver_all(&[deploy(word, to, Some(from))]));
        sim.settle();
        assert_eq!(sim.lock().volume(to, &dump).as_deref(), Some("dump of monday"), "{word}");
        assert_eq!(volumes(&sim), [DATA, &dump], "{word}");
    }
}

/// The next version may use it again.
#[test]
fn data_that_no_service_uses_any_more_moves_as_long_as_it_is_declared() {
    let used = compose("").replace("    image: cache:1", "    image: cache:1\n    volumes: ['db:/db']")
        + "  db: {driver: 'anybox/buttervolume:latest'}\n";
    let (sim, db): (Sim, _) = (shop(&NODES), named("db"));
    for (word, text) in [("first", used.clone()), ("second", used.replace("\n    volumes: ['db:/db']", ""))] {
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
        all_well(&sim.deliver_all(&[deploy(word, "node1", Some("node2"))]));
        assert_eq!(volumes(&sim), [DATA, &db], "{word}");
    }
    sim.lock().append("node1", &db, "accounts");
    all_well(&sim.deliver_all(&[deploy("third", "node2", Some("node1"))]));
    sim.settle();
    assert!(sim.lock().volume("node2", &db).is_some_and(|text| text.contains("accounts")));
}

/// What was checked is what runs: no later call of compose reads what the repository says, and one call resolves it.
#[test]
fn it_is_resolved_once() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push_files(&sim, "", &[("update.sh", "echo fine")]);
    all_well(&sim.deliver_all(&[deploy("second", "node2", Some("node1"))]));
    sim.settle();
    let lines: Vec<String> = sim.lock().log.iter().filter(|e| e.line.starts_with("docker-compose -p ")).map(|e| e.line.clone()).collect();
    let (resolving, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.contains(" config"));
    assert_eq!(resolving.len(), 1, "{lines:#?}");
    assert!(others.len() >= 4, "{lines:#?}");
    for line in others {
        assert!(line.contains("/.handler-compose.json") && line.contains("--env-file"), "{line}");
    }
}

/// A data volume by another of the plugin's names would be taken for an ordinary one, and stay behind.
#[test]
fn the_plugin_by_another_name_is_refused() {
    for name in ["btrfs", "anybox/buttervolume", "Registry.example.com/ButterVolume:3.12"] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        let before = sim.state();
        let text = compose("").replace("volumes:\n  data:", &format!("volumes:\n  more: {{driver: '{name}'}}\n  data:"));
        sim.lock().commit(URL, "master", &[("docker-compose.yml", &text)]);
        sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
        let (state, why) = ended(&sim, "second");
        assert!(state == "failed" && why.contains(name) && why.contains(DRIVER) && why.contains(&named("more")), "{why}");
        assert_eq!(sim.state(), before);
        assert!(!sim.lock().log.iter().any(|e| e.line.ends_with(" stop")));
    }
}

/// A checkout that a handler made which resolved nothing: its containers are those of the main file, and go on.
#[test]
fn what_was_deployed_before_is_not_made_anew() {
    let sim: Sim = shop(&["node1"]);
    push(&sim, r#"environment: {CADDYFILE: "http://shop.example.com {\n reverse_proxy $CONTAINER:80\n}"}"#);
    all_well(&sim.deliver_all(&[deploy("first", "node1", None)]));
    let routes = sim.lock().kv(&format!("app/{APP}")).unwrap()["caddyfile"].to_string();
    assert!(routes.contains(&format!("{PROJECT}-web-1:80")), "{routes}");
    let ids = |sim: &Sim| sim.lock().nodes["node1"].engine.containers.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    let before = ids(&sim);
    let checkout = sim.disk("node1", |disk| disk.paths()).into_iter().find(|path| path.ends_with("/.handler-compose.json")).unwrap();
    sim.disk("node1", |disk| {
        use crate::world::state::Files;
        Files::remove(disk, checkout.as_ref());
        let beside = checkout.replace(".handler-compose.json", "docker-compose.override.yml");
        Files::write(disk, beside.as_ref(), "services: {web: {labels: {seen: 'no'}}}");
    });
    push(&sim, "");
    // After the stop, and before the new version's containers take the place of the old ones.
    sim.fault(|e| e.kind == Kind::Plugin && e.what == "Snapshot", 1, Act::Fail("no space left".to_owned()));
    sim.deliver_all(&[deploy("second", "node1", None)]);
    assert_eq!(ended(&sim, "second").0, "failed");
    sim.settle();
    assert_eq!(ids(&sim), before);
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    assert!(sim.disk("node1", |disk| disk.paths()).contains(&checkout), "resolved when it was needed, and kept");
}

/// Compose's own trouble is the order's, before anything stops.
#[test]
fn what_compose_does_not_resolve_stops_nothing() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let before = sim.state();
    push(&sim, "");
    sim.on("node1", " config", Act::Fail("services.web Additional property is not allowed".to_owned()));
    sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
    let (state, why) = ended(&sim, "second");
    assert!(state == "failed" && why.contains("compose does not resolve its files") && why.contains("Additional property"), "{why}");
    assert_eq!(sim.state(), before);
    sim.on("node1", " config", Act::Hang);
    sim.deliver_all(&[deploy("third", "node1", Some("node2"))]);
    assert!(ended(&sim, "third").1.contains("was stopped after 30 s"), "{:?}", ended(&sim, "third"));
    assert_eq!(sim.state(), before);
    let aliases: String = (0..2_000).map(|n| format!("x-{n}: *m\n")).collect();
    let many = format!("x-m: &m {{{}}}\n{aliases}{}", (0..200).map(|n| format!("k{n}: v, ")).collect::<String>(), compose(""));
    sim.lock().commit(URL, "master", &[("docker-compose.yml", &many)]);
    sim.lock().log.clear();
    sim.deliver_all(&[deploy("fourth", "node1", Some("node2"))]);
    assert!(ended(&sim, "fourth").1.contains("docker-compose.yml: more than 100000 values"), "{:?}", ended(&sim, "fourth"));
    assert!(!sim.lock().log.iter().any(|e| e.line.contains(" config")), "compose is not asked");
    assert_eq!(sim.state(), before);
}
