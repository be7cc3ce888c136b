//! Orders by name, and what an operator asks for besides.

use serde_json::{Value, json};

use crate::world::Cluster as _;
use crate::{APP, URL, assert_order, deployed, push, shop};

#[test]
fn what_is_new_needs_its_branch_and_its_master_and_what_is_deployed_only_its_name() {
    let w = shop(&["node1", "node2"]);
    for (words, says) in [
        (&["deploy", URL][..], "say --branch"),
        (&["deploy", URL, "--branch", "master"], "say --master"),
        (&["deploy", "shop"], "no application is deployed"),
        (&["evacuate", "node9"], "no member of the cluster"),
    ] {
        let run = w.handler("node1", words).run();
        run.exits(1);
        assert!(run.stderr.contains(says), "{words:?}: {run}");
    }
    w.handler("node1", &["deploy", URL, "--branch", "master", "--master", "node1", "--slave", "node2"]).run().exits(0);
    let commit = push(&w, "");
    w.handler("node1", &["deploy", "sho"]).run().exits(0);
    let record = w.kv(&format!("app/{APP}")).unwrap();
    assert_eq!((&record["commit"], &record["master"], &record["slave"]), (&json!(commit), &json!("node1"), &json!("node2")));
    // It has to say that it knows of this.
    w.handler("node2", &["reconcile"]).run().exits(0);
    w.handler("node1", &["deploy", APP, "--slave", "none"]).run().exits(0);
    assert_eq!(w.kv(&format!("app/{APP}")).unwrap()["slave"], Value::Null);
    // Another branch is another application, which begins empty.
    let other = w.handler("node1", &["plan", "deploy", "shop", "--branch", "v2", "--master", "node2"]).run();
    other.exits(0);
    assert!(other.stdout.starts_with("deploy shop_v2."), "{other}");
    let other = w.handler("node1", &["deploy", "shop", "--branch", "v2"]).run();
    assert!(other.stderr.contains("is not deployed yet: say --master"), "{other}");
}

#[test]
fn a_part_of_a_name_that_is_no_ones_or_of_two_is_answered_with_what_there_is() {
    let w = deployed(&["node1"], "node1", None);
    let mut second = w.kv(&format!("app/{APP}")).unwrap();
    second["branch"] = json!("next");
    w.lock().store.set("app/shop_next.e4371", second.to_string().as_bytes());
    let run = w.handler("node1", &["plan", "destroy", "shop"]).run();
    run.exits(1);
    assert!(run.stderr.contains("\"shop\" may be any of "), "{run}");
    assert!([APP, "shop_next.e4371"].iter().all(|name| run.stderr.contains(name)), "{run}");
    let run = w.handler("node1", &["plan", "destroy", "blog"]).run();
    run.exits(1);
    assert!(run.stderr.contains("\"blog\"") && run.stderr.contains(APP), "{run}");
    w.handler("node1", &["plan", "destroy", "shop_n"]).run().exits(0);
    w.handler("node1", &["plan", "migrate", "shop_m", "shop_n"]).run().exits(0);
    // What is before the branch is its name, too, whoever else begins so.
    w.lock().store.remove("app/shop_next.e4371");
    second["repo_url"] = json!(URL.replace("shop", "shop-test"));
    w.lock().store.set("app/shop-test_next.f35ca", second.to_string().as_bytes());
    w.handler("node1", &["plan", "migrate", "shop", "shop-test"]).run().exits(0);
}

#[test]
fn a_destroy_by_name_asks_and_without_a_terminal_wants_to_be_told() {
    let w = deployed(&["node1"], "node1", None);
    let run = w.handler("node1", &["destroy", "shop"]).run();
    run.exits(2);
    assert!(run.stderr.contains("say --yes"), "{run}");
    assert!(w.kv(&format!("app/{APP}")).is_some());
    w.handler("node1", &["destroy", "shop", "--yes"]).run().exits(0);
    assert!(w.kv(&format!("app/{APP}")).is_none());
    // Its history stays, by name and by ID, for people and for programs.
    let history = w.handler("node1", &["history", "shop"]).run();
    history.exits(0);
    let lines: Vec<String> = history.stdout.lines().map(str::to_owned).collect();
    assert_order(&lines, &["destroy shop_master.e4371: done", "order ", "deploy shop_master.e4371 on node1: done", "order ", "commit "]);
    let id = lines[1].trim().trim_start_matches("order ");
    let one = w.handler("node1", &["history", id, "--json"]).run();
    let one: Value = serde_json::from_str(&one.stdout).unwrap();
    assert_eq!((&one[0]["id"], one.as_array().map(Vec::len)), (&json!(id), Some(1)));
    let none = w.handler("node1", &["history", "blog"]).run();
    none.exits(1);
    assert!(none.stderr.contains("no order of \"blog\" has ended"), "{none}");
}

#[test]
fn the_history_says_how_long_an_application_was_away() {
    let w = deployed(&["node1"], "node1", None);
    push(&w, "");
    w.handler("node1", &["deploy", "shop"]).run().exits(0);
    let history = w.handler("node1", &["history"]).run();
    let lines: Vec<&str> = history.stdout.lines().filter(|line| line.contains("deploy ")).collect();
    // The first one stopped nothing.
    assert!(lines.len() == 2 && lines[0].contains(", away for ") && !lines[1].contains("away"), "{history}");
}

#[test]
fn a_maintenance_of_ones_own_is_ones_own_and_that_of_an_order_the_orders() {
    let w = deployed(&["node1"], "node1", None);
    let key = format!("maintenance/{APP}");
    for (word, there) in [("on", true), ("on", true), ("off", false), ("off", false)] {
        w.handler("node1", &["maintenance", "shop", word]).run().exits(0);
        assert_eq!(w.kv(&key).is_some(), there, "{word}");
    }
    let of_order = json!({"order": "8b04d5e3-775d-298e-7845-5efc5ca404d5", "since": "2026-11-24T00:00:00Z"}).to_string();
    w.lock().store.set(&key, of_order.as_bytes());
    let run = w.handler("node1", &["maintenance", "shop", "off"]).run();
    run.exits(1);
    assert!(run.stderr.contains("by the order 8b04d5e3"), "{run}");
    assert!(w.kv(&key).is_some());
}

#[test]
fn an_evacuation_goes_to_the_slave_or_where_it_is_told_and_begins_only_if_all_can_go() {
    let w = deployed(&["node1", "node2", "node3"], "node1", Some("node2"));
    let plan = w.handler("node3", &["evacuate", "node1", "--plan"]).run();
    plan.exits(0);
    let lines: Vec<String> = plan.stdout.lines().map(str::to_owned).collect();
    assert_order(&lines, &["deploy shop_master.e4371", "node1 (master -> slave)", "node2 (slave -> master, carries it out)"]);
    let plan = w.handler("node3", &["evacuate", "node1", "--to", "node3", "--plan"]).run();
    plan.exits(0);
    assert!(plan.stdout.contains("node3 (none -> master, carries it out)"), "{plan}");
    // Nothing runs there.
    w.handler("node3", &["evacuate", "node3"]).run().exits(0);
    w.lock().see("node2", 4);
    let refused = w.handler("node3", &["evacuate", "node1"]).run();
    refused.exits(1);
    assert!(refused.stderr.contains("shop_master.e4371 has no slave that is alive") && refused.stderr.contains("--to NODE"), "{refused}");
    assert_eq!(w.keys("order/"), [""; 0]);
}

#[test]
fn the_status_of_one_application_is_of_nothing_else() {
    let w = deployed(&["node1"], "node1", None);
    let mut second = w.kv(&format!("app/{APP}")).unwrap();
    second["branch"] = json!("next");
    w.lock().store.set("app/shop_next.e4371", second.to_string().as_bytes());
    let all = w.handler("node1", &["status"]).run();
    assert!(all.stdout.contains("\nshop_next.e4371    node1"), "{all}");
    let one = w.handler("node1", &["status", "master"]).run();
    one.exits(0);
    assert!(one.stdout.contains("shop_master.e4371: master node1") && !one.stdout.contains("shop_next"), "{one}");
}

/// bash knows it as it is printed.
#[test]
fn bash_completes_commands_and_their_flags() {
    let w = shop(&["node1"]);
    let script = w.handler("node1", &["completion", "bash"]).run();
    script.exits(0);
    let complete = |line: &[&str]| {
        let words = line.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let ask = format!("{}COMP_WORDS=({words}); COMP_CWORD={}; _handler; echo \"${{COMPREPLY[*]}}\"", script.stdout, line.len() - 1);
        let found = std::process::Command::new("bash").args(["-c", &ask]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["handler", "de"]), "deploy destroy");
    assert_eq!(complete(&["handler", "-v", "hist"]), "history");
    assert_eq!(complete(&["handler", "deploy", "shop", "--ma"]), "--master");
    assert_eq!(complete(&["handler", "status", ""]), "--json --watch");
    assert_eq!(complete(&["handler", "probe", ""]), "");
}
