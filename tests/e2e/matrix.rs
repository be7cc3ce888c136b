//! Every outside effect of every transition, once failed, once with the handler killed right before it, once right after it, once
//! done with its answer lost: in the end all is as without it, or as before. `MATRIX=text` runs the cases whose name contains it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cluster::{migrate, with_copy};
use crate::world::{Act, Effect, World, event, id};
use crate::{DATA, URL, deploy, deployed, push, push_files, shop};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A world, the word for the order's id, the event that is given to it, and how the order ends when nothing else is broken.
type Transition = (World, &'static str, Value, &'static str);

/// One test for each transition and what happens to its effects, so that they share the processors well.
macro_rules! transitions {
    ($($name:ident,)*) => {$(
        mod $name {
            use crate::world::Act;

            #[test]
            fn fail() {
                super::matrix(super::$name(), || Act::Fail("broken by the test".to_owned()));
            }
            #[test]
            fn lose() {
                super::matrix(super::$name(), || Act::Lose);
            }
            #[test]
            fn kill_before() {
                super::matrix(super::$name(), || Act::KillBefore);
            }
            #[test]
            fn kill_after() {
                super::matrix(super::$name(), || Act::KillAfter);
            }
        }
    )*};
}

transitions! {
    first_deploy,
    first_deploy_with_a_slave,
    redeploy,
    master_and_slave_swap,
    a_move_to_a_node_without_a_role,
    destroy,
    takeover,
    migrate_on_one_node,
    migrate_between_nodes,
    redeploy_that_fails,
    swap_that_fails,
    migrate_that_fails,
}

/// Each effect with how many like it came before.
fn numbered(effects: Vec<Effect>) -> Vec<(Effect, usize)> {
    let nth = |i: usize| effects[..=i].iter().filter(|e| **e == effects[i]).count();
    (0..effects.len()).map(|i| (effects[i].clone(), nth(i))).collect()
}

fn matrix((w, word, event, end): Transition, act: fn() -> Act) {
    let before = w.state();
    let start = w.save();
    w.deliver_all(std::slice::from_ref(&event));
    let effects = numbered(w.effects());
    w.settle();
    let done = w.state();
    assert_eq!(order(&w, word)["state"], end);
    let only = std::env::var("MATRIX").unwrap_or_default();
    let (mut count, mut wrong) = (0, String::new());
    for (effect, nth) in &effects {
        let case = format!("{}: {} #{nth}", effect.node, effect.line);
        if !case.contains(&only) {
            continue;
        }
        count += 1;
        w.load(&start);
        w.on_exactly(effect, *nth, act());
        w.deliver_all(std::slice::from_ref(&event));
        let hit = w.no_faults();
        let rest = w.try_settle();
        let order = order(&w, word);
        let state = w.state();
        let violations: Vec<String> = w.lock().violations.drain(..).collect();
        let as_it_says = match order["state"].as_str() {
            Some("done") => state == done,
            Some("failed") => state == before && order["reason"].is_string(),
            _ => false,
        };
        if as_it_says && rest.is_ok() && violations.is_empty() {
            continue;
        }
        let hit = if hit { "" } else { " (not reached)" };
        writeln!(wrong, "======== {case}{hit}: {}", order["state"]).unwrap();
        writeln!(wrong, "{}{}", rest.err().unwrap_or_default(), violations.join("\n")).unwrap();
        let nearer = if order["state"] == "done" { &done } else { &before };
        difference(&mut wrong, nearer, &state);
        if !only.is_empty() {
            eprintln!("{case}{}", w.dump());
        }
    }
    eprintln!("{count} cases of {} effects", effects.len());
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn order(w: &World, word: &str) -> Value {
    let key = w.keys("history/").into_iter().find(|k| k.ends_with(&id(word)));
    key.and_then(|k| w.kv(&k)).unwrap_or_default()
}

fn difference(out: &mut String, wanted: &str, found: &str) {
    for line in wanted.lines().filter(|l| !found.lines().any(|f| f == *l)) {
        writeln!(out, "  - {line}").unwrap();
    }
    for line in found.lines().filter(|l| !wanted.lines().any(|f| f == *l)) {
        writeln!(out, "  + {line}").unwrap();
    }
}

fn first_deploy() -> Transition {
    (shop(&["node1"]), "one", deploy("one", "node1", None), "done")
}

fn first_deploy_with_a_slave() -> Transition {
    (shop(&NODES), "one", deploy("one", "node1", Some("node2")), "done")
}

fn redeploy() -> Transition {
    let w = deployed(&["node1"], "node1", None);
    push(&w, "x-standin: {writes: ', upgraded'}");
    (w, "two", deploy("two", "node1", None), "done")
}

fn master_and_slave_swap() -> Transition {
    let w = deployed(&NODES, "node1", Some("node2"));
    push(&w, "x-standin: {writes: ', upgraded'}");
    (w, "two", deploy("two", "node2", Some("node1")), "done")
}

fn a_move_to_a_node_without_a_role() -> Transition {
    let w = deployed(&NODES, "node1", Some("node2"));
    (w, "two", deploy("two", "node3", None), "done")
}

fn destroy() -> Transition {
    let w = deployed(&NODES, "node1", Some("node2"));
    (w, "end", event("end", "destroy", &json!({"repo": URL, "branch": "master"})), "done")
}

fn takeover() -> Transition {
    let w = deployed(&NODES, "node1", Some("node2"));
    w.replicate("node1");
    w.die("node1");
    w.lock().nodes.remove("node1");
    assert!(w.lock().nodes["node2"].plugin.snapshots.keys().any(|s| s.starts_with(DATA)));
    (w, "two", deploy("two", "node2", Some("node3")), "done")
}

fn migrate_on_one_node() -> Transition {
    let files = [("post_migrate.sh", "write data ,anonymous")];
    let (w, _, _) = with_copy("node1", "", &files);
    (w, "m", migrate("m"), "done")
}

fn migrate_between_nodes() -> Transition {
    let files = [("post_migrate.sh", "write data ,anonymous")];
    let (w, _, _) = with_copy("node3", "", &files);
    (w, "m", migrate("m"), "done")
}

// The undo, too, is broken once.

fn redeploy_that_fails() -> Transition {
    let w = deployed(&["node1"], "node1", None);
    push_files(&w, "x-standin: {start: unhealthy}", &[("update.sh", "write data WRONG")]);
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "update": true});
    (w, "two", event("two", "deploy", &payload), "failed")
}

fn swap_that_fails() -> Transition {
    let w = deployed(&NODES, "node1", Some("node2"));
    push(&w, "x-standin: {start: unhealthy, writes: WRONG}");
    (w, "two", deploy("two", "node2", Some("node1")), "failed")
}

fn migrate_that_fails() -> Transition {
    let (w, _, _) = with_copy("node3", "", &[("post_migrate.sh", "write data WRONG\nexit 1")]);
    (w, "m", migrate("m"), "failed")
}
