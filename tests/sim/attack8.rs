//! Stories about what orders leave, what is purged, and newer plugins, in which a promise breaks.

use std::path::Path;

use handler::outside::doors::Write;

use crate::others::run;
use crate::sets::{EXTRA, MINUTE, after, checks, commit, data, held, own, replica, snapshots, thrifty, tick, with_extra, with_two_volumes};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, all_well, deploy, deployed, migrate, push, with_copy};
use crate::world::{Act, Cluster};

// ---- what is kept

/// The shop has a volume that its test instance has not, which gets the shop's data at the end of each hour. What the migrate has taken, of one
/// volume of two, is the newest set of the hour: the whole ones go, and of the other volume nothing is kept.
#[test]
fn what_a_migrate_takes_of_a_part_of_the_volumes_does_not_replace_whole_sets() {
    let mut kept = Vec::new();
    for migrates in [false, true] {
        let (sim, ..): (Sim, String, String) = with_copy("node2", "", &[]);
        commit(&sim, &with_extra(""));
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        sim.settle();
        tick(&sim);
        for hour in 0..6 {
            for _ in 0..3 {
                sim.lock().write("node1", DATA, ".");
                sim.lock().write("node1", EXTRA, ".");
                after(&sim, 15 * MINUTE);
            }
            sim.pass(13 * MINUTE);
            if migrates {
                all_well(&sim.deliver_all(&[migrate(&format!("hour {hour}"))]));
            }
            after(&sim, 2 * MINUTE);
        }
        after(&sim, 15 * MINUTE);
        sim.violations();
        for node in ["node1", "node2"] {
            let mut hours: Vec<String> =
                snapshots(&sim, node, EXTRA).iter().filter_map(|name| Some(name.split_once('T')?.1[..2].into())).collect();
            hours.dedup();
            kept.push(format!("{node}: {hours:?}"));
        }
    }
    assert_eq!(kept[..2], kept[2..], "of each hour one is to be kept");
}

/// A version does not declare a volume any more, by mistake. What the slave has of it no later set has; a year is to be kept.
#[test]
fn the_last_replica_of_a_volume_that_is_declared_no_more_is_kept() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &with_extra(""));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    sim.lock().write("node1", EXTRA, "invoices");
    tick(&sim);
    after(&sim, 15 * MINUTE);
    let invoices =
        |node: &str| snapshots(&sim, node, EXTRA).iter().filter(|name| held(&sim, node, name).unwrap().contains("invoices")).count();
    assert!(invoices("node2") > 0);
    push(&sim, "");
    all_well(&sim.deliver_all(&[deploy("third", "node1", Some("node2"))]));
    sim.settle();
    for _ in 0..3 * 24 {
        sim.lock().write("node1", DATA, ".");
        after(&sim, 60 * MINUTE);
    }
    let (master, slave) = (invoices("node1"), invoices("node2"));
    let status = ["node1", "node2"].map(|node| run(&sim, node, Start::Status));
    sim.violations();
    assert!(slave > 0, "three days later: on the master {master}, on the slave {slave}; {} {}", status[0], status[1]);
}

/// A person has taken a snapshot by hand, and nobody has written to the volume since, so that the next set names it. Of the other volume none can
/// be taken: what was taken of the set is removed.
#[test]
fn a_snapshot_that_a_person_has_taken_is_not_removed_with_a_set_that_failed() {
    let sim = with_two_volumes("node2");
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    let content = sim.lock().volume("node1", DATA).unwrap();
    let by_hand = sim.lock().snapshot("node1", DATA, content);
    sim.on("node1", &format!("Snapshot {EXTRA}"), Act::Fail("no space left on device".into()));
    after(&sim, 15 * MINUTE);
    assert!(sim.no_faults());
    sim.lock().write("node1", DATA, " WRONG");
    after(&sim, 15 * MINUTE);
    let there = held(&sim, "node1", &by_hand);
    sim.violations();
    assert!(there.is_some_and(|held| held.contains("tuesday")), "{by_hand}: {:#?}", snapshots(&sim, "node1", DATA));
}

/// A set is due once a day, and it is deployed each night; two days are to be kept. Nobody writes to one of its volumes.
#[test]
fn sets_grow_old_though_one_volume_is_never_written_to() {
    let mut counts = Vec::new();
    for newer in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        if newer {
            thrifty(&sim);
        }
        let labels = "driver: 'anybox/buttervolume:latest', labels: {com.github.mlfmonde.cluster.replicate: '1440', \
                      com.github.mlfmonde.cluster.keep: '2d'}";
        commit(&sim, &with_extra("").replace("driver: 'anybox/buttervolume:latest'", labels));
        for night in 0..30 {
            sim.lock().write("node1", DATA, ".");
            all_well(&sim.deliver_all(&[deploy(&format!("night {night}"), "node1", Some("node2"))]));
            sim.settle();
            tick(&sim);
            for _ in 0..6 {
                after(&sim, 4 * 60 * MINUTE - MINUTE);
            }
        }
        counts.push(snapshots(&sim, "node1", DATA).len());
        sim.violations();
    }
    assert!(counts[1] < counts[0] + 10, "after thirty nights {}, with newer plugins {}", counts[0], counts[1]);
}

/// node1 has handed over to node2, whose slave is node3. The first set arrives there, whole, but the answer is lost, and it is called void. node2
/// dies for good; node1 takes over from what it had handed over: what node2 wrote is in that set alone.
#[test]
fn what_a_dead_master_called_void_stays_where_another_node_takes_over() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    assert!(replica(&sim, "node3")["last"].is_null());
    sim.lock().write("node2", DATA, " and of tuesday");
    sim.fault(|e| e.node == "node2" && e.what == "Snapshot.Send", 1, Act::Lose);
    sim.start("node2", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    let void = replica(&sim, "node3")["void"][0].as_str().unwrap().to_owned();
    assert!(held(&sim, "node3", &void).unwrap().contains("tuesday"));
    sim.power_off("node2");
    sim.lock().nodes.remove("node2");
    tick(&sim);
    assert!(held(&sim, "node3", &void).is_some(), "of a dead one it may be all that there is");
    sim.deliver_all(&[deploy("over", "node1", None)]);
    let over = sim.lock().ended("over");
    checks(&sim, 2);
    let there = held(&sim, "node3", &void);
    let named = over["notes"].to_string().contains(&void) || own(&sim, "node3").contains(&void);
    sim.violations();
    assert!(over["state"] != "done" || there.is_some() && named, "on node3 {there:?}, named {named}: {over:#}");
}

// ---- what is said

/// What an order has left cannot be read, by a newer handler perhaps: it stays, and so do the snapshots that it names.
#[test]
fn the_check_names_what_an_order_has_left_and_cannot_be_read() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let path = format!("/deploy/.handler/apps/{APP}/6f8f5771-5090-da26-3245-3988d9a1501b.left");
    sim.disk("node1", |disk| disk.write(Path::new(&path), b"[{]", Write::Over, true).unwrap());
    checks(&sim, 3);
    let said = [Start::Check, Start::Status].map(|start| run(&sim, "node1", start));
    assert!(sim.disk("node1", |disk| disk.read(Path::new(&path), 1 << 20).is_ok()));
    assert!(said.iter().all(|said| said.stderr.contains(".left") && said.status == Some(1)), "{} {}", said[0], said[1]);
}

/// A former master is back, and its plugin comes up before the disk of the volumes is mounted: it says that it has no such volume. It is fenced
/// all the same, and what it alone wrote is kept as no snapshot. Once it is the slave nobody is told of it.
#[test]
fn a_fence_keeps_what_the_plugin_does_not_find_at_first() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    sim.power_off("node1");
    sim.deliver_all(&[deploy("over", "node2", Some("node3"))]);
    assert_eq!(sim.lock().ended("over")["state"], "done");
    sim.power_on("node1");
    sim.lock().plugin("node1").blind = 3;
    sim.start("node1", Start::Events(Vec::new()));
    sim.run_until_rest();
    sim.lock().plugin("node1").blind = 0;
    checks(&sim, 3);
    let kept = |sim: &Sim| snapshots(sim, "node1", DATA).iter().any(|name| held(sim, "node1", name).unwrap().contains("tuesday"));
    assert!(kept(&sim), "it is found again");
    all_well(&sim.deliver_all(&[deploy("slave", "node2", Some("node1"))]));
    sim.settle();
    checks(&sim, 3);
    let status = run(&sim, "node1", Start::Status);
    assert!(data(&sim, "node1", DATA).contains("tuesday"));
    sim.violations();
    assert!(kept(&sim) && status.stderr.contains("as it was when this node was fenced"), "{status}");
}
