//! Several applications on one node, and several orders of one: what waits for what.

use std::path::Path;
use std::time::Duration;

use handler::outside::doors::Write;
use serde_json::{Value, json};

use crate::attack2::taken_over;
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, COPY, DATA, NODES, PROJECT, deploy, deployed, push, with_copy};
use crate::world::{Act, Cluster, Kind, event, id};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn copy(word: &str) -> Value {
    event(word, "deploy", &json!({"repo": COPY, "branch": "master", "master": "node1"}))
}

fn done(sim: &Sim, word: &str) -> String {
    let ended = sim.lock().ended(word);
    assert_eq!(ended["state"], "done", "{ended:#}");
    ended["finished"].as_str().unwrap().to_owned()
}

pub fn at_work_everywhere(sim: &Sim, events: &[Value]) {
    NODES.iter().for_each(|node| sim.start(node, Start::Events(events.to_vec())));
}

/// The runs go on until it is so, and no further.
#[track_caller]
pub fn until(sim: &Sim, what: &str, so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if so() {
            return;
        }
        sim.step();
    }
    panic!("{what} does not come");
}

#[test]
fn a_send_of_hours_holds_up_no_other_application() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    sim.fault(|e| e.what == "Snapshot.Send", 1, Act::Slow(5 * HOUR));
    at_work_everywhere(&sim, &[deploy("away", "node2", Some("node1")), copy("anew")]);
    sim.run_until_rest();
    assert!(sim.no_faults());
    let (away, anew) = (done(&sim, "away"), done(&sim, "anew"));
    assert!(anew.as_str() < "2026-11-24T01" && away.as_str() > "2026-11-24T02", "{anew} {away}");
}

#[test]
fn a_journal_that_cannot_be_read_holds_up_no_other_application() {
    let (sim, ..) = with_copy::<Sim>("node1", "", &[]);
    let path = format!("/deploy/.handler/apps/{APP}/journal");
    sim.disk("node1", |disk| disk.write(Path::new(&path), b"{\"format\": 99}\n", Write::Over, true).unwrap());
    sim.deliver_all(&[deploy("second", "node1", Some("node2")), copy("anew")]);
    done(&sim, "anew");
    assert!(sim.lock().ended("second").is_null(), "nothing is done about it");
    sim.disk("node1", |disk| disk.remove(Path::new(&path)).unwrap());
    sim.settle();
    done(&sim, "second");
}

/// The one before it takes longer than an order may wait for its owner.
#[test]
fn an_order_that_waits_for_another_has_not_been_forgotten() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.on("node1", "build", Act::Slow(Duration::from_secs(3000)));
    at_work_everywhere(&sim, &[deploy("second", "node1", Some("node2")), deploy("third", "node1", Some("node2"))]);
    for minutes in [11, 22, 33, 44, 51, 52] {
        NODES.iter().for_each(|node| sim.start_later(node, Start::Events(Vec::new()), Duration::from_secs(60 * minutes)));
    }
    sim.run_until_rest();
    assert!(sim.no_faults());
    done(&sim, "second");
    done(&sim, "third");
}

/// Whose clock is right does not matter to how long an order has waited.
#[test]
fn an_order_of_a_node_whose_clock_is_behind_is_carried_out() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    push(&sim, "");
    sim.lock().node("node1").ahead = -2 * 3_600_000_000;
    sim.on("node1", "check-not-exists", Act::KillAfter);
    sim.start("node1", Start::Events(vec![deploy("second", "node1", Some("node2"))]));
    sim.run_until_rest();
    // Those with the right time look first, and look again.
    for node in ["node2", "node3", "node2", "node3", "node1"] {
        assert_eq!(sim.lock().keys("order/").len(), 1);
        sim.start(node, Start::Events(Vec::new()));
        sim.run_until_rest();
    }
    done(&sim, "second");
}

/// A master in the middle of a send of hours is cut off, and another takes over. It is stopped when it is back, not when the send has ended.
#[test]
fn a_master_that_is_still_sending_is_fenced_at_once() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.lock().replicate("node1");
    sim.fault(|e| e.kind == Kind::Plugin && e.what == "Snapshot.Send", 1, Act::Slow(5 * HOUR));
    let begun = sim.lock().time;
    at_work_everywhere(&sim, &[deploy("away", "node3", Some("node1"))]);
    let order = format!("order/{}", id("away"));
    until(&sim, "the send", || sim.lock().kv(&order).is_some_and(|order| order["state"] == "ready"));
    sim.lock().split(&["node1"]);
    until(&sim, "the end of the move", || sim.lock().ended("away")["state"] == "failed");
    taken_over(&sim);
    assert!(sim.lock().time - begun < 3 * 3_600_000_000, "the send goes on");
    assert!(sim.at_work() > 0);
    sim.run_until_rest();
    sim.settle();
    assert!(sim.lock().serving(PROJECT).iter().all(|line| line.starts_with("node2")));
    assert!(sim.lock().volume("node2", DATA).is_some());
}

/// One state of all applications, a folder of journals, the undo that a person has given up; and a file that nobody can read, which holds up
/// nothing but itself.
#[test]
fn what_an_older_handler_has_left_is_taken_over() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let own = |file: &str| format!("/deploy/.handler/{file}");
    let (state, given_up) = (own(&format!("apps/{APP}/state.json")), format!("{}.given-up", id("gone")));
    let header = json!({"order": {"name": APP}}).to_string();
    sim.disk("node1", |disk| {
        let text = String::from_utf8(disk.read(Path::new(&state), 1 << 20).unwrap()).unwrap();
        disk.remove_all(Path::new(&own("apps"))).unwrap();
        disk.create_folders(Path::new(&own("journal"))).unwrap();
        let files = [
            ("state.json", format!("{{\"{APP}\": {text}}}")),
            (&format!("journal/{given_up}"), header),
            (&format!("journal/{}", id("torn")), "{".into()),
            (&format!("journal/{}.17.new", id("half")), String::new()),
        ];
        files.iter().for_each(|(file, text)| disk.write(Path::new(&own(file)), text.as_bytes(), Write::Over, true).unwrap());
    });
    let runs = sim.deliver_all(&[]);
    let first = runs.iter().find(|run| run.node == "node1" && run.what.contains("<<<")).unwrap();
    first.exits(1).says(&id("torn"));
    let paths = sim.disk("node1", |disk| disk.paths());
    let there = |file: &str| paths.contains(&own(file));
    assert!(there(&format!("apps/{APP}/state.json")) && there(&format!("apps/{APP}/{given_up}")), "{paths:#?}");
    assert!(there(&format!("journal/{}", id("torn"))) && !there("state.json") && !there(&format!("journal/{}.17.new", id("half"))));
    push(&sim, "");
    sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
    done(&sim, "second");
    sim.disk("node1", |disk| disk.remove(Path::new(&own(&format!("journal/{}", id("torn"))))).unwrap());
    sim.settle();
}
