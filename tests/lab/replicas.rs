//! Replicas on real btrfs: whole and on the disk, or not believed.

use std::thread;

use crate::deployed;
use crate::harness::{App, Lab, SOON, Want, name, wait_until};

const SNAPSHOTS: &str = "/var/lib/buttervolume/snapshots";

impl Lab {
    /// Each snapshot of the set that is confirmed is there, as the whole stream has left it; whether there is such a set.
    fn expect_whole(&self, app: &App, holder: u8) -> bool {
        let replica = self.replica(app, holder);
        let set = &replica["last"]["snapshots"];
        for taken in set.as_object().into_iter().flat_map(|set| set.values()) {
            let (snapshot, uuid) = (taken["snapshot"].as_str().unwrap(), taken["uuid"].as_str().unwrap());
            let shown = self.node(holder).sh(&format!("btrfs subvolume show {SNAPSHOTS}/{snapshot}"));
            let is = |field: &str, value: &str| {
                shown.lines().any(|line| {
                    let (name, found) = line.split_once(':').unwrap_or_default();
                    name.trim() == field && found.trim().replace('-', "") == value
                })
            };
            assert!(is("Received UUID", uuid) && is("Flags", "readonly"), "{snapshot} is confirmed on {}: {shown}", name(holder));
        }
        !set.is_null()
    }
}

/// The sender's network, the holder's memory, the holder's disk.
#[test]
fn a_replica_is_whole_and_on_the_disk_or_not_believed() {
    let (lab, app) = deployed("a_replica_is_whole_and_on_the_disk_or_not_believed");
    app.store(1, "key", "first");
    lab.replicate(&app, 1, 2);
    assert!(lab.expect_whole(&app, 2));
    let data = format!("/var/lib/buttervolume/volumes/{}_data", app.project());

    // sshd is killed in the middle of a send: what receives is stopped as soon as it is seen. The plugin tries once more by itself; in every
    // other round that is cut off, too.
    let kill = |times: u32| {
        format!(
            "left={times}; for i in $(seq 1000); do sleep 0.005; ! pkill -STOP -f '[b]trfs receive' || {{ pkill -KILL -f '[s]shd: root'; \
             pkill -CONT -f '[b]trfs receive'; left=$((left - 1)); [ $left -gt 0 ] || exit 0; sleep 0.1; }}; done"
        )
    };
    let mut torn = 0;
    for round in 0..10 {
        lab.node(1).sh(&format!("head -c 60M /dev/urandom > {data}/blob; sync"));
        thread::scope(|scope| {
            scope.spawn(|| lab.node(2).exec(&["bash", "-c", &kill(1 + round % 2)]));
            lab.node(1).exec(&["handler", "replicate", &app.name(), "--now"]);
        });
        lab.node(2).exec(&["handler", "replicate", &app.name()]);
        torn += usize::from(lab.replica(&app, 2)["failures"].as_u64().is_some_and(|failures| failures > 0));
        assert!(lab.expect_whole(&app, 2));
    }
    lab.note(&format!("{torn} of 10 sends were cut off"));
    assert!(torn > 0, "none was cut off");
    app.store(1, "key", "second");
    lab.replicate(&app, 1, 2);
    assert!(lab.expect_whole(&app, 2));
    // What was cut off is gone.
    wait_until("torn snapshots gone", SOON, || {
        lab.node(2).exec(&["handler", "replicate", &app.name()]);
        let left = lab.node(2).sh(&format!("for s in {SNAPSHOTS}/{}_*; do btrfs property get $s ro; done", app.project()));
        if left.contains("ro=false") { Err(left) } else { Ok(()) }
    });

    // Its power fails when all has been received, before the disk has it.
    lab.node(1).sh(&format!("for i in $(seq 100); do echo content of $i > {data}/many$i; done"));
    lab.node(1).exec(&["handler", "replicate", &app.name(), "--now"]);
    lab.node(2).lose_power();
    lab.note("node2 has lost its power");
    lab.settle_consul();
    lab.replicate(&app, 1, 2);
    assert!(lab.expect_whole(&app, 2));

    // Its disk is full.
    let ballast = "cd /var/lib/buttervolume && mkdir -p ballast && for size in 1G 128M 16M 4M 1M 128K 16K 4K; do \
                   while fallocate -l $size ballast/$size-$(ls ballast | wc -l); do :; done; done; sync";
    lab.node(2).exec(&["bash", "-c", ballast]);
    lab.node(1).sh(&format!("head -c 60M /dev/urandom > {data}/blob"));
    lab.node(1).exec(&["handler", "replicate", &app.name(), "--now"]);
    assert!(lab.replica(&app, 2)["failures"].as_u64().is_some_and(|failures| failures > 0), "{:#}", lab.replica(&app, 2));
    assert!(lab.expect_whole(&app, 2));
    lab.node(2).sh("rm -rf /var/lib/buttervolume/ballast; sync");
    lab.replicate(&app, 1, 2);

    // It is the whole of it that is taken over; the master that returns sends nothing under its old reign.
    app.store(1, "late", "after the last set");
    let set = lab.replica(&app, 2)["last"].clone();
    lab.node(1).kill();
    lab.wait_dead(&[2, 3], 1);
    lab.deploy(&app, 2, Some(1)).done();
    assert_eq!(app.read(2, "key").as_deref(), Some("second"));
    let count = lab.node(2).sh(&format!("cat {data}/many* | grep -c '^content of '"));
    assert_eq!(count.trim(), "100");
    lab.node(1).start();
    lab.settle_consul();
    lab.node(1).exec(&["handler", "replicate", &app.name(), "--now"]);
    assert_eq!(lab.replica(&app, 2)["last"], set, "the old master has sent something");
    lab.expect(&app, &Want::on(2, Some(1)).fenced(1));
    lab.replicate(&app, 2, 1);
    assert!(lab.expect_whole(&app, 1));
}
