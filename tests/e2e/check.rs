//! The health check as Consul's agent runs it: the real binary, its exit status, and what it starts apart.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::world::Cluster;
use crate::world::outside::World;
use crate::world::{Act, Run};
use crate::{APP, PROJECT, deployed};

fn check(w: &World) -> Run {
    w.handler("node1", &["check"]).run()
}

fn log(w: &World) -> PathBuf {
    w.shared.dir.join("node1/deploy/handler.log")
}

/// A worker that nobody waits for comes to its end.
#[track_caller]
fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..4000 {
        if so() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} does not come");
}

/// There is no btrfs here: a note says so, and turns nothing red.
#[track_caller]
fn without_btrfs(run: &Run) -> Vec<&str> {
    let (note, others): (Vec<&str>, Vec<&str>) =
        run.stdout.lines().partition(|line| line.contains("is not seen here as a folder of btrfs"));
    assert!(
        matches!(note[..], [note] if note.starts_with("note: ") && note.ends_with("or have HANDLER_SNAPSHOTS say where it is")),
        "{run}"
    );
    others
}

#[test]
fn all_is_well_and_nothing_is_written() {
    let w = deployed(&["node1"], "node1", None);
    w.lock().log.clear();
    let fine = check(&w);
    fine.exits(0);
    assert_eq!((without_btrfs(&fine), &*fine.stderr), (vec!["nothing is wrong (applications of the cluster: 1)"], ""));
    until("the probe", || check(&w).status == Some(0) && w.shared.dir.join("node1/deploy/.handler/probe.json").exists());
    // What this node says of itself, said once more.
    assert!(w.lock().log.iter().all(|e| e.is_read || e.line.contains(" node/")));
}

#[test]
fn what_was_removed_is_started_by_a_worker_of_its_own() {
    let w = deployed(&["node1"], "node1", None);
    w.lock().engine("node1").containers.clear();
    // It takes longer than the check.
    w.on("node1", " up -d", Act::Slow(Duration::from_millis(500)));
    let down = check(&w);
    down.exits(1);
    assert_eq!(without_btrfs(&down), [format!("wrong: {APP}: no container of it is here; a worker looks again in 15 s")]);
    assert_eq!(down.stderr, "");
    until("the application", || w.serving(PROJECT).len() == 2);
    until("the end of it", || check(&w).status == Some(0));
    assert!(fs::read_to_string(log(&w)).unwrap().contains("no container of it is here; this node is its master, and starts it"));
}

#[test]
fn it_goes_on_without_consul_and_the_plugin() {
    let w = deployed(&["node1"], "node1", None);
    w.lock().lose_leader(3_600_000_000);
    fs::remove_file(w.shared.dir.join("node1/btrfs.sock")).unwrap();
    let lost = check(&w);
    lost.exits(1);
    let lines = without_btrfs(&lost);
    assert!(lines[0].starts_with("wrong: Consul cannot be reached: ") && lines[0].ends_with("No cluster leader"), "{lost}");
    assert!(lines[1].starts_with("wrong: the volume plugin is not running on this node: no socket "), "{lost}");
    assert_eq!(lines.len(), 2);
}
