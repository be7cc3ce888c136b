//! The simulation itself, where the tests lean on it most.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use handler::outside::doors::Write;
use serde_json::json;

use crate::world::inside::random::Random;
use crate::world::inside::{Disk, Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, all_well, deploy, deployed, push, shop};
use crate::world::{Act, Cluster, Kind};

/// A history with a fault, a kill, a death and a return; all that happened in it.
fn history(seed: u64) -> String {
    let sim = Sim::with_seed(seed, &NODES);
    sim.record();
    sim.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    push(&sim, "");
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.lock().write("node1", DATA, "orders of monday");
    push(&sim, "x-standin: {writes: ', upgraded'}");
    sim.fault(|e| e.kind == Kind::Plugin && e.what == "Snapshot.Send", 1, Act::Lose);
    sim.fault(|e| e.line.contains("up -d"), 1, Act::KillAfter);
    sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    sim.no_faults();
    NODES.iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("third", "node3", Some("node1"))])));
    sim.steps(200);
    sim.power_off("node2");
    sim.run_until_rest();
    sim.pass(Duration::from_secs(900));
    sim.power_on("node2");
    sim.try_settle().ok();
    sim.violations();
    sim.transcript()
}

#[test]
fn the_same_seed_is_the_same_history() {
    let first = history(7);
    let again = history(7);
    if let Some((at, (one, other))) = first.lines().zip(again.lines()).enumerate().find(|(_, (one, other))| one != other) {
        panic!("line {at} of {}:\n{one}\n{other}", first.lines().count());
    }
    assert_eq!(first.len(), again.len());
    assert!(first.lines().count() > 500);
    assert_ne!(first, history(8));
}

#[test]
fn waiting_costs_no_time() {
    let began = Instant::now();
    let sim: Sim = shop(&NODES);
    sim.settings(|settings| settings.timeouts.git = Duration::from_secs(3600));
    sim.on("node1", "git clone", Act::Hang);
    let runs = sim.deliver_all(&[deploy("first", "node1", None)]);
    let slowest = runs.iter().map(|run| run.took).max().unwrap();
    assert!(slowest >= Duration::from_secs(3600), "{slowest:?}");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(sim.lock().ended("first")["state"], "failed");
}

#[test]
fn clocks_differ_and_go_on() {
    let sim: Sim = deployed(&["node1"], "node1", None);
    sim.lock().node("node1").ahead = 86_400_000_000;
    push(&sim, "");
    all_well(&sim.deliver_all(&[deploy("second", "node1", None)]));
    let date = sim.lock().kv(&format!("app/{APP}")).unwrap()["deploy_date"].clone();
    assert!(date.as_str().unwrap().starts_with("2026-11-25T"), "{date}");
}

#[test]
fn one_run_of_a_node_waits_for_the_other() {
    let sim: Sim = shop(&["node1"]);
    for _ in 0..2 {
        sim.start("node1", Start::Events(vec![deploy("first", "node1", None)]));
    }
    sim.run_until_rest();
    all_well(&sim.ended());
    let clones = sim.lock().log.iter().filter(|e| e.what == "git clone").count();
    assert_eq!(clones, 1);
}

#[test]
fn a_request_is_followed_to_its_end() {
    let sim: Sim = shop(&NODES);
    let payload = json!({"repo": URL, "branch": "master", "master": "node1"});
    sim.start("node1", Start::Request("deploy", payload));
    sim.run_until_rest();
    all_well(&sim.ended());
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
}

/// A redeploy of which a killed handler has left the `up`: it goes on by itself, and the next run finds it.
#[test]
fn what_a_killed_run_has_started_goes_on_or_is_ended() {
    for seconds in [0, 5, 3600] {
        let sim: Sim = deployed(&["node1"], "node1", None);
        push(&sim, "");
        sim.on("node1", "up -d", Act::Orphan(Duration::from_secs(seconds)));
        sim.deliver_all(&[deploy("second", "node1", None)]);
        assert!(sim.no_faults());
        sim.settle();
        assert_eq!(sim.lock().ended("second")["state"], "done");
        assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    }
}

/// Printed, not judged: a step is a run of the handler to its end.
#[test]
fn speed() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    let start = sim.save();
    let events = [deploy("second", "node2", Some("node1"))];
    for (what, deliveries) in [("a swap of master and slave, and coming to rest", 1), ("nothing to do", 0)] {
        let (began, cpu) = (Instant::now(), cpu_time());
        let (mut steps, mut doors) = (0, 0);
        while began.elapsed() < Duration::from_secs(1) {
            sim.load(&start);
            for _ in 0..deliveries {
                steps += sim.deliver_all(&events).len();
                doors += sim.doors();
            }
            steps += sim.deliver_all(&[]).len();
            doors += sim.doors();
        }
        let each = (cpu_time() - cpu).as_secs_f64() / f64::from(steps as u32);
        println!(
            "{what}: {:.0} steps a second, {:.2} ms of CPU each, {} doors each",
            f64::from(steps as u32) / began.elapsed().as_secs_f64(),
            each * 1e3,
            doors / steps as u64
        );
    }
}

/// Of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the value, which outlives it.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What is left after the power failed, by many seeds.
fn left(write: impl Fn(&mut Disk)) -> BTreeSet<String> {
    let each = (0..200).map(|seed| {
        let mut disk = Disk::default();
        write(&mut disk);
        disk.power_failure(&mut Random::new(seed));
        let content = |path: &String| disk.read(Path::new(path), 100).map(|bytes| String::from_utf8(bytes).unwrap()).unwrap_or_default();
        disk.paths().iter().skip(1).map(|path| format!("{path} {}", content(path))).collect::<Vec<_>>().join(", ")
    });
    each.collect()
}

#[test]
fn a_disk_forgets_what_was_not_synced() {
    let (old, new, folder) = (Path::new("/deploy/old"), Path::new("/deploy/new"), Path::new("/deploy"));
    let set = |all: &[&str]| all.iter().map(|text| text.to_string()).collect::<BTreeSet<_>>();
    let begun = |disk: &mut Disk| {
        disk.write(old, b"a", Write::Over, true).unwrap();
        disk.sync_folder(folder).unwrap();
    };
    let replaced = |disk: &mut Disk, content: bool, name: bool| {
        begun(disk);
        disk.write(new, b"b", Write::Over, content).unwrap();
        disk.rename(new, old).unwrap();
        if name {
            disk.sync_folder(folder).unwrap();
        }
    };
    assert_eq!(left(|disk| replaced(disk, true, true)), set(&["/deploy/old b"]));
    // The old or the new; and where the name was first, the new name still.
    assert_eq!(left(|disk| replaced(disk, true, false)), set(&["/deploy/new b, /deploy/old a", "/deploy/old a", "/deploy/old b"]));
    // Without its content synced the new one may be empty.
    assert_eq!(left(|disk| replaced(disk, false, true)), set(&["/deploy/old ", "/deploy/old b"]));
    let appended = |disk: &mut Disk| {
        begun(disk);
        disk.write(old, b"bc", Write::Append, false).unwrap();
    };
    assert_eq!(left(appended), set(&["/deploy/old a", "/deploy/old ab", "/deploy/old abc"]));
    let waited = |disk: &mut Disk| {
        replaced(disk, false, false);
        disk.time += 60_000_000;
    };
    assert_eq!(left(waited), set(&["/deploy/old b"]));
}
