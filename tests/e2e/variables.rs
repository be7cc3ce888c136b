//! What an operator keeps for an application outside of its repository: `handler env`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::world::outside::World;
use crate::world::state::fault::Act;
use crate::world::{Cluster as _, event};
use crate::{APP, PROJECT, URL, all_well, compose, deploy, deployed, finished, push_files, shop};

const SECRET: &str = "geheim $1 \"zwei\"";

fn set(w: &World, node: &str, of: &[&str], value: &str) {
    let args: Vec<&str> = ["env"].iter().chain(of).copied().collect();
    w.handler(node, &args).stdin(value).run().exits(0);
}

/// What a container of the shop's web server was made from.
fn config(w: &World, node: &str) -> String {
    w.lock().engine(node).containers.iter().find(|c| c.project == PROJECT && c.service == "web").unwrap().config.clone()
}

fn updating(word: &str, master: &str, slave: Option<&str>) -> Value {
    event(word, "deploy", &json!({"repo": URL, "branch": "master", "master": master, "slave": slave, "update": true}))
}

/// With a variable that is demanded, and a script that shows it.
fn demanding() -> String {
    compose("environment:\n      DB_PASSWORD: ${DB_PASSWORD:?say which}\n")
}

fn with_script(w: &World) -> String {
    w.commit(URL, "master", &[("docker-compose.yml", &demanding()), ("update.sh", "show DB_PASSWORD\n"), (".env", "DB_PASSWORD=\n")])
}

#[test]
fn a_variable_that_is_demanded_is_named_and_once_it_is_set_compose_and_the_scripts_have_it_and_nobody_else() {
    let w = shop(&["node1", "node2"]);
    w.deliver("node2", &[]).exits(0); // it says which version it is
    with_script(&w);
    let refused = w.deliver("node1", &[deploy("none", "node1", Some("node2"))]);
    assert!(refused.stderr.contains("required variable DB_PASSWORD is missing a value: say which"), "{refused}");
    assert!(refused.stderr.contains("handler env NAME set DB_PASSWORD"), "{refused}");
    w.settle();
    assert_eq!(w.serving(PROJECT), [""; 0]);

    set(&w, "node2", &[URL, "--branch", "master", "set", "DB_PASSWORD"], &format!("{SECRET}\n"));
    let listed = w.handler("node1", &["env", "shop", "list"]).run();
    listed.exits(0);
    assert_eq!(listed.stdout, "DB_PASSWORD\n");
    let mut runs = w.deliver_all(&[deploy("one", "node1", Some("node2"))]);
    all_well(&runs);
    w.settle();
    assert_eq!(finished(&w, "one")["state"], "done");
    let escaped = json!(SECRET.replace('$', "$$")).to_string();
    assert!(config(&w, "node1").contains(&escaped), "{}", config(&w, "node1"));

    // A redeploy runs the script, and a move takes them along.
    with_script(&w);
    for (word, master, slave) in [("two", "node1", "node2"), ("three", "node2", "node1")] {
        runs.extend(w.deliver_all(&[updating(word, master, Some(slave))]));
        w.settle();
        assert_eq!(finished(&w, word)["state"], "done");
        assert!(config(&w, master).contains(&escaped));
    }
    let plan = w.handler("node1", &["-v", "plan", "deploy", "shop"]).run();
    plan.exits(0);
    assert!(plan.stdout.contains("its variables: DB_PASSWORD\n"), "{plan}");
    runs.push(plan);
    let said: String = runs.iter().map(|run| format!("{}{}", run.stdout, run.stderr)).collect();
    assert!(!said.contains("geheim"), "{said}");
    let mut of_checkouts = 0;
    for node in ["node1", "node2"] {
        assert!(!fs::read_to_string(w.deploy_dir(node).join("handler.log")).unwrap().contains("geheim"));
        for path in crate::credentials::below(&w.deploy_dir(node)).iter().filter(|path| path.is_file()) {
            if String::from_utf8_lossy(&fs::read(path).unwrap()).contains("geheim") {
                assert!(path.to_str().unwrap().contains("/.handler-"), "{}", path.display());
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
                of_checkouts += 1;
            }
        }
    }
    assert!(of_checkouts >= 2, "the master's, at least");
    let keys = w.keys("").into_iter().filter(|key| w.kv(key).is_some_and(|value| value.to_string().contains("geheim")));
    assert_eq!(keys.collect::<Vec<_>>(), [format!("env/{APP}")]);
    assert!(w.take_log().iter().all(|line| !line.contains("geheim")), "an argument list");
}

#[test]
fn what_a_script_prints_of_them_is_not_told() {
    let w = deployed(&["node1"], "node1", None);
    set(&w, "node1", &["shop", "set", "DB_PASSWORD"], SECRET);
    let script = "show DB_PASSWORD\nexit 3\n";
    push_files(&w, "", &[("update.sh", script)]);
    let failed = w.handler("node1", &["-v"]).stdin(&json!([updating("two", "node1", None)]).to_string()).run();
    assert!(failed.stderr.contains("DB_PASSWORD is ***") && !failed.stderr.contains("geheim"), "{failed}");
    assert!(finished(&w, "two")["reason"].as_str().unwrap().contains("DB_PASSWORD is ***"));
}

#[test]
fn an_undo_goes_back_to_what_the_old_version_had() {
    let w = shop(&["node1"]);
    set(&w, "node1", &[URL, "--branch", "master", "set", "DB_PASSWORD"], "the first one");
    with_script(&w);
    all_well(&w.deliver_all(&[deploy("one", "node1", None)]));
    set(&w, "node1", &["shop", "set", "DB_PASSWORD"], "the second one");
    with_script(&w);
    w.on("node1", " up -d", Act::Fail("no".into()));
    w.deliver("node1", &[deploy("two", "node1", None)]);
    w.settle();
    assert_eq!(finished(&w, "two")["state"], "failed");
    assert!(w.no_faults());
    assert!(config(&w, "node1").contains("the first one"), "{}", config(&w, "node1"));
    all_well(&w.deliver_all(&[deploy("three", "node1", None)]));
    assert!(config(&w, "node1").contains("the second one"), "{}", config(&w, "node1"));
}

#[test]
fn they_outlive_a_destroy_and_go_when_they_are_cleared() {
    let w = deployed(&["node1"], "node1", None);
    set(&w, "node1", &["shop", "set", "A"], "1");
    set(&w, "node1", &["shop", "set", "B"], "\n");
    let plan = w.handler("node1", &["plan", "destroy", "shop"]).run();
    assert!(plan.stdout.contains(&format!("its variables stay in Consul until `handler env {APP} clear`")), "{plan}");
    w.handler("node1", &["destroy", "shop", "--yes"]).run().exits(0);
    assert_eq!(w.keys("app/"), [""; 0]);
    assert_eq!(w.handler("node1", &["env", "shop", "list"]).run().stdout, "A\nB\n");
    w.handler("node1", &["env", "shop", "unset", "A"]).run().exits(0);
    let gone = w.handler("node1", &["env", "shop", "unset", "A"]).run();
    gone.exits(1);
    assert!(gone.stderr.contains("has no variable A; it has B"), "{gone}");
    w.handler("node1", &["env", "shop", "clear"]).run().exits(0);
    assert_eq!(w.keys("env/"), [""; 0]);
    w.handler("node1", &["env", "shop", "list"]).run().exits(1);
}

#[test]
fn what_is_no_name_or_no_value_is_refused_and_not_shown() {
    let w = deployed(&["node1"], "node1", None);
    for (args, status, why) in [
        (&["set", "DB_PASSWORD=geheim"][..], 2, "its value is never an argument"),
        (&["set", "DB_PASSWORD", "geheim"], 2, "a value is no argument"),
        (&["set", "COMPOSE_FILE"], 2, "give the variable another name"),
        (&["set", "geheim geheim"], 2, "a variable's name has"),
    ] {
        let args: Vec<&str> = ["env", "shop"].iter().chain(args).copied().collect();
        let refused = w.handler("node1", &args).stdin("x").run();
        refused.exits(status);
        assert!(refused.stderr.contains(why) && !refused.stderr.contains("geheim"), "{refused}");
    }
    let none = w.handler("node1", &["env", "shop", "set", "A"]).stdin("").run();
    none.exits(2).says("no value was given: standard input is empty");
    let long = w.handler("node1", &["env", "shop", "set", "A"]).stdin(&"x".repeat((64 << 10) + 1)).run();
    long.exits(1);
    assert!(long.stderr.contains("A: a value has at most 64 KiB"), "{long}");
    assert_eq!(w.keys("env/"), [""; 0]);
    // What somebody has put there by hand is named, and can be cleared.
    w.lock().store.set(&format!("env/{APP}"), br#"{"A": 4711}"#);
    let unread = w.handler("node1", &["env", "shop", "list"]).run();
    unread.exits(1);
    assert!(unread.stderr.contains("handler env NAME clear") && !unread.stderr.contains("4711"), "{unread}");
    w.handler("node1", &["env", "shop", "clear"]).run().exits(0);
}

#[test]
fn an_editor_gets_them_as_yaml_and_again_with_what_is_wrong() {
    let w = deployed(&["node1"], "node1", None);
    set(&w, "node1", &["shop", "set", "A"], SECRET);
    let editor = w.shared.dir.join("editor");
    let edit = |lines: &[&str]| {
        let script = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\necho \"--- $CONSUL_HTTP_ADDR\" >>{0}.saw\ncat \"$1\" >>{0}.saw\n{1}\n",
            editor.display(),
            lines.join("\n")
        );
        let mut file = fs::File::create(&editor).unwrap();
        file.write_all(script.as_bytes()).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        drop(file);
        let run = w.handler("node1", &["env", "shop", "edit"]).env("EDITOR", editor.to_str().unwrap()).run();
        let saw = fs::read_to_string(editor.with_extension("saw")).unwrap();
        fs::remove_file(editor.with_extension("saw")).unwrap();
        (run, saw)
    };
    let read = || w.kv(&format!("env/{APP}")).unwrap_or(Value::Null);
    // Twice: the first time it is a number.
    let (run, saw) = edit(&["if grep -q 'NOT TAKEN' \"$1\"; then sed -i 's/4711/\"4711\"/' \"$1\"; else echo 'B: 4711' >>\"$1\"; fi"]);
    run.exits(0);
    assert_eq!(saw.matches("--- \n").count(), 2, "twice, and without what Consul is spoken to with: {saw}");
    assert!(
        saw.contains("A: \"geheim $1 \\\"zwei\\\"\"\n")
            && saw.contains("# NOT TAKEN: the variables cannot be read: B: put its value in quotes\n"),
        "{saw}"
    );
    assert_eq!(read(), json!({"A": SECRET, "B": "4711"}));
    assert!(!format!("{}{}", run.stdout, run.stderr).contains("geheim"));
    let (run, _) = edit(&["true"]);
    run.exits(1);
    assert!(run.stderr.contains("nothing was changed"), "{run}");
    let (run, _) = edit(&["exit 1"]);
    run.exits(1);
    let (run, _) = edit(&[": >\"$1\""]);
    run.exits(0);
    assert_eq!(read(), Value::Null);
    let left = |path: &Path| fs::read_dir(path).unwrap().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("edit"));
    assert!(!left(&w.deploy_dir("node1").join(".handler")));
}
