//! Orders: one after another, bounded in time, taken up again after a kill; and the plan that is printed.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::world::outside::World;
use crate::world::{Act, Cluster, event, id};
use crate::{APP, PROJECT, URL, all_well, assert_order, assert_serves, compose, deploy, deployed, finished, push, shop};

#[test]
fn a_plan_changes_nothing_and_is_what_runs() {
    let w = deployed(&["node1"], "node1", None);
    push(&w, "");
    let before = w.state();
    let payload = json!({"repo": URL, "branch": "master", "master": "node1"}).to_string();
    let plan = w.handler("node1", &["plan", "deploy", &payload]).run();
    plan.exits(0);
    assert_eq!(w.state(), before);
    let wrote = w.take_log().into_iter().find(|l| {
        let reads = ["inspect", "ls-remote", " ps ", "volume ls", "version", "clone"];
        !reads.iter().any(|r| l.contains(r))
    });
    assert_eq!(wrote, None, "a plan reads only");
    let steps: Vec<String> = plan.stdout.lines().map(str::to_owned).collect();
    assert_order(&steps, &["node1", "clone", "pull", "build", "stop", "snapshot", "up"]);
}

#[test]
fn a_second_handler_on_a_node_waits_for_the_first() {
    let w = shop(&["node1"]);
    w.on("node1", "build", Act::Slow(Duration::from_millis(500)));
    let events = json!([deploy("one", "node1", None)]).to_string();
    let first = w.handler("node1", &[]).stdin(&events).spawn();
    std::thread::sleep(Duration::from_millis(100));
    let second = w.handler("node1", &[]).stdin(&events).spawn();
    first.join().unwrap().exits(0);
    second.join().unwrap().exits(0);
    let clones = w.take_log().iter().filter(|l| l.contains("git clone")).count();
    assert_eq!(clones, 1);
}

#[test]
fn orders_of_one_application_run_in_the_order_of_their_creation() {
    let w = shop(&["node1", "node2"]);
    w.deliver("node2", &[deploy("a", "node1", None), deploy("b", "node1", None)]).exits(0);
    assert_eq!(w.keys("order/"), [format!("order/{}", id("a")), format!("order/{}", id("b"))]);
    w.deliver("node1", &[]).exits(0);
    let record = w.kv(&format!("app/{APP}")).unwrap();
    assert_eq!((&record["deploy_id"], &record["previous_deploy_id"]), (&json!(id("b")), &json!(id("a"))));
}

#[test]
fn different_orders_at_once_end_in_one_place() {
    for round in 0..10 {
        let w = shop(&["node1", "node2", "node3"]);
        let all = [("node1", "node1"), ("node2", "node2")].map(|(at, master)| {
            let events = json!([deploy(&format!("{master}-{round}"), master, None)]);
            w.handler(at, &[]).stdin(&events.to_string()).spawn()
        });
        let runs = all.map(|r| r.join().unwrap());
        w.settle();
        assert!(runs.iter().all(|r| r.status.is_some()));
        let record = w.kv(&format!("app/{APP}")).unwrap();
        let master = record["master"].as_str().unwrap();
        assert_eq!(w.serving(PROJECT).len(), 2);
        assert!(w.serving(PROJECT).iter().all(|c| c.starts_with(master)), "{record}");
    }
}

#[test]
fn two_applications_at_once_both_arrive() {
    let w = shop(&["node1", "node2"]);
    w.commit("file:///repos/blog", "master", &[("docker-compose.yml", &compose(""))]);
    let blog = json!({"repo": "file:///repos/blog", "branch": "master", "master": "node2"});
    let events = [deploy("a", "node1", Some("node2")), event("b", "deploy", &blog)];
    all_well(&w.deliver_all(&events));
    w.settle();
    assert_eq!((w.keys("app/").len(), w.keys("order/").len()), (2, 0));
}

#[test]
fn an_order_that_nobody_takes_fails() {
    let w = shop(&["node1", "node2"]);
    w.deliver("node1", &[deploy("a", "node2", None)]).exits(0);
    std::thread::sleep(Duration::from_millis(1100));
    let run = w.handler("node1", &[]).stdin("[]").env("HANDLER_TIMEOUT_ORDER", "1").run();
    assert!(run.status.is_some());
    assert_eq!(finished(&w, "a")["state"], "failed");
    assert_eq!(w.keys("order/"), [""; 0]);
}

#[test]
fn a_command_says_that_it_waits_for_a_dead_node() {
    let w = shop(&["node1", "node2"]);
    w.die("node2");
    let payload = json!({"repo": URL, "branch": "master", "master": "node2"}).to_string();
    let run = w.handler("node1", &["deploy", &payload]).env("HANDLER_TIMEOUT_ORDER", "1").run();
    assert!(run.stdout.contains("node2 is dead; the order waits for it, 1 s at most"), "{run}");
    run.exits(1).says("not taken up by node2, which is dead, within 1 s");
    assert_eq!((w.keys("order/").len(), w.keys("app/").len()), (0, 0));
}

fn killed(act: fn() -> Act, at: &str) -> (World, String) {
    let w = deployed(&["node1"], "node1", None);
    let second = push(&w, "");
    w.on("node1", at, act());
    let run = w.deliver("node1", &[deploy("second", "node1", None)]);
    assert_eq!(run.status, None, "{run}");
    (w, second)
}

#[test]
fn a_run_that_was_killed_is_taken_up_again() {
    for act in [|| Act::KillBefore, || Act::KillAfter] as [fn() -> Act; 2] {
        let (w, second) = killed(act, "up -d");
        w.settle();
        let order = finished(&w, "second");
        if order["state"] == "done" {
            assert_serves(&w, "node1", &second);
        }
        assert_eq!(w.serving(PROJECT).len(), 2);
        assert_eq!(w.keys("maintenance/"), [""; 0]);
    }
}

#[test]
fn a_command_says_how_it_ended() {
    let w = shop(&["node1"]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node1"}).to_string();
    w.handler("node1", &["deploy", &payload]).run().exits(0);
    push(&w, "x-standin: {start: unhealthy}");
    w.handler("node1", &["deploy", &payload]).run().exits(1).says("unhealthy");
}

/// Whoever works, the command tells of each step as it happens, with the seconds since the start.
#[test]
fn a_command_follows_the_steps_of_all_nodes() {
    let w = deployed(&["node1", "node2"], "node1", None);
    push(&w, "");
    w.on("node2", " build", Act::Slow(Duration::from_millis(300)));
    let payload = json!({"repo": URL, "branch": "master", "master": "node2"}).to_string();
    let command = w.handler("node1", &["deploy", &payload]).spawn();
    // Consul's watch on the other node.
    while w.keys("order/").is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    w.deliver("node2", &[]).exits(0);
    let run = command.join().unwrap();
    run.exits(0);
    for step in ["node2: step 4 of 13: build", "node1: step ", "done"] {
        assert!(run.stdout.lines().any(|line| line.contains(" s  ") && line.contains(step)), "{step:?} expected in {run}");
    }
}

/// Ctrl-C ends the watching, not the work.
#[test]
fn a_command_that_is_interrupted_stops_watching_and_nothing_else() {
    let w = shop(&["node1"]);
    let handlers = w.shared.handlers.clone();
    w.on("node1", " build", Act::First(Box::new(move |_| handlers.signal("node1", libc::SIGINT))));
    let payload = json!({"repo": URL, "branch": "master", "master": "node1"}).to_string();
    let run = w.handler("node1", &["deploy", &payload]).run();
    run.exits(130).says("no longer watched; the order goes on: handler status");
    while !w.keys("order/").is_empty() || w.keys("history/").is_empty() {
        thread::sleep(Duration::from_millis(5));
    }
    w.settle();
    assert_eq!(w.serving(PROJECT).len(), 2);
}

/// Green is what runs and is looked after; what is not is named first, and fails.
#[test]
fn the_status_says_what_is_wrong_and_fails() {
    let w = deployed(&["node1", "node2"], "node1", None);
    let status = |node: &str| w.handler(node, &["status"]).run();
    let fine = status("node1");
    fine.exits(0);
    assert!(
        fine.stdout.starts_with("note: ") && fine.stdout.contains(&format!("\n{APP}  node1   none   passing  unconfirmed  ")),
        "{fine}"
    );
    assert!(fine.stdout.lines().skip(1).all(|line| line.chars().count() <= 80), "{fine}");
    // An application whose containers were stopped by somebody.
    w.lock().engine("node1").containers.iter_mut().for_each(|container| container.running = false);
    let down = status("node1");
    down.exits(1).says("1 thing is wrong");
    assert!(down.stdout.starts_with(&format!("wrong: {APP}: the container {PROJECT}-")), "{down}");
    assert!(down.stdout.contains("is exited (exit code 255)") && down.stdout.contains("; it said last: last words\n"), "{down}");
    let json = w.handler("node1", &["status", "--json"]).run();
    json.exits(1);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["wrong"][0]["app"], &json["applications"][0]["master"]["name"]), (&json!(APP), &json!("node1")), "{json:#}");
    assert_eq!((json["notes"].as_array().map(Vec::len), &json["orders"]), (Some(1), &json!([])));
    // While it shows its maintenance page that is meant.
    w.lock().store.set(&format!("maintenance/{APP}"), b"by hand");
    status("node1").exits(0);
    w.die("node1");
    let dead = status("node2");
    dead.exits(1);
    assert!(dead.stdout.starts_with(&format!("wrong: {APP}: its master, node1, is dead")), "{dead}");
}

#[test]
fn the_plan_says_who_the_slave_will_be() {
    let w = crate::deployed(&["node1", "node2", "node3"], "node1", Some("node2"));
    let plan = |payload: serde_json::Value| {
        let run = w.handler("node1", &["plan", "deploy", &payload.to_string()]).run();
        run.exits(0);
        run.stdout
    };
    let order = |master: &str| json!({"repo": crate::URL, "branch": "master", "master": master});
    let says = plan(order("node1"));
    assert!(says.contains("\nslave: node2, as before\n") && says.contains("node2 (slave -> slave)"), "{says}");
    let says = plan(order("node2"));
    assert!(says.contains("\nslave: node1, which was the master\n") && says.contains("node1 (master -> slave)"), "{says}");
    let mut none = order("node1");
    none["slave"] = json!(null);
    let says = plan(none);
    assert!(!says.contains("slave: ") && says.contains("node2 (slave -> none)"), "{says}");
}
