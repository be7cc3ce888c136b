//! The worst that single faults are made of, on real parts: an undo that cannot end, a disk without room, an engine that is killed in mid-order,
//! and a handler that is killed again and again, while a client writes all the time.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::deployed;
use crate::harness::{App, Lab, NODES, SOON, Variant, Want, name, secs, wait_until};
use crate::writer::Writer;

/// A move fails and its undo cannot end, since something stands on the volume that it has made. It is given again: nothing begins before
/// the first is undone; then it succeeds, and nothing of the old undo is replayed over what runs.
#[test]
fn a_move_whose_undo_cannot_end_is_given_again() {
    let (lab, app) = deployed("a_move_whose_undo_cannot_end_is_given_again");
    let mut writer = Writer::start(&app);
    writer.rest();
    let holder = format!(
        "tar -C /repos/{} -c testapp | docker import -c 'ENTRYPOINT [\"/testapp\"]' - holder && \
         docker run -d --name holder -v {}_data:/held holder\n",
        app.repo().rsplit('/').next().unwrap(),
        app.project()
    );
    app.commit("2", Variant::Exits);
    app.add("update.sh", &holder);
    let first = lab.fire(3, "deploy", &with_update(&app, 2));
    lab.wait_state(3, &first, "failed");
    // The old version serves, whatever becomes of the undo.
    wait_until("the old version", SOON, || match app.read(1, "version") {
        Some(version) if version.trim() == "1" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    writer.rest();
    app.commit("3", Variant::Good);
    let second = lab.fire(3, "deploy", &app.deploy(2, Some(1)));
    for (node, what) in [(2, "a journal of this node is not at its end"), (3, "has failed and is not undone on every node yet")] {
        let status = lab.node(node).exec(&["handler", "status"]);
        assert!(status.code == Some(1) && status.out.contains(what), "{}: {:?} {}", name(node), status.code, status.out);
    }
    for node in NODES {
        lab.node(node).exec(&["handler", "reconcile"]);
    }
    let waiting = lab.kv(3, &format!("order/{second}")).expect("the second order is not open");
    assert_eq!(waiting["progress"], json!({}), "begun before the first is undone");

    lab.node(2).sh("docker rm -f holder");
    lab.node(2).exec(&["handler", "reconcile"]);
    lab.wait_end(3, &app, &first, secs(60)).failed("");
    lab.wait_end(3, &app, &second, secs(60)).done();
    let want = Want::on(2, Some(1)).version("3");
    lab.expect(&app, &want);
    writer.rest();
    // Every run that could replay something, and all events once more.
    for node in NODES.into_iter().chain(NODES) {
        lab.node(node).exec(&["handler", "reconcile"]);
        lab.node(node).sh("consul reload");
    }
    writer.rest();
    lab.expect(&app, &want);
    writer.expect_all(&lab, &app, 2, Some("2"));
    // What the failed version has made of the data is somebody's to look at; the commands that status prints open and remove it.
    let aside = lab.node(2).sh("handler status --json | jq -r '.aside | keys | .[]'");
    assert_eq!(aside.lines().count(), 1, "{aside}");
    let status = lab.node(2).exec(&["handler", "status"]);
    assert!(status.code == Some(1) && status.out.contains("snapshots set aside on this node: 1"), "{}{}", status.out, status.err);
    let (snapshot, project) = (aside.trim(), app.project());
    lab.node(2).sh(&format!("buttervolume restore {snapshot} {project}_opened && test -d /var/lib/buttervolume/volumes/{project}_opened"));
    lab.node(2).sh(&format!("docker volume rm {project}_opened && buttervolume rm {snapshot}"));
    for node in NODES {
        // The last one may have found a node on its way up, in an earlier scenario.
        lab.node(node).exec(&["handler", "probe"]);
        let status = lab.node(node).exec(&["handler", "status"]);
        assert_eq!(status.code, Some(0), "{}: {}{}", name(node), status.out, status.err);
    }
}

fn with_update(app: &App, master: u8) -> serde_json::Value {
    let mut request = app.deploy(master, Some(3 - master));
    request["update"] = json!(true);
    request
}

/// The deploy folder's disk, ext4 on one node and btrfs on the other, fills in the middle of an order, before one, and with the volumes' own.
#[test]
fn a_disk_without_room() {
    let lab = Lab::take("a_disk_without_room");
    for node in [1, 2] {
        // As older orders leave it; a copy of it has no room of its own.
        lab.node(node).sh("echo 'older_data@2026-01-01T00:00:00.000000' >> /deploy/.handler/own");
    }
    lab.node(1).small_disk("mkfs.ext4 -q -m 0");
    lab.node(2).small_disk("mkfs.btrfs -q");
    let app = lab.app("app", 8080);
    lab.deploy(&app, 1, Some(2)).done();
    let mut writer = Writer::start(&app);
    writer.rest();
    let mut master = 1;
    for (round, to) in [1, 2, 2].into_iter().enumerate() {
        // In mid-order, on the node that carries it out: all is undone on a disk without room.
        app.commit("9", Variant::Good);
        app.add("fill.py", FILL);
        app.add("update.sh", "python3 fill.py /deploy/ballast; exit 7\n");
        let id = lab.fire(3, "deploy", &with_update(&app, to));
        // On btrfs even what is removed needs room: the old version serves all the same, and the order ends once there is some.
        if to == 2 {
            wait_until("the failure", SOON, || match lab.kv(3, &format!("order/{id}")) {
                Some(order) if order["state"] != "failed" => Err(order["state"].to_string()),
                _ => Ok(()),
            });
            writer.rest();
            lab.node(to).sh("rm -rf /deploy/ballast");
            lab.node(to).exec(&["handler", "reconcile"]);
        }
        lab.wait_end(3, &app, &id, secs(60)).failed("update.sh");
        let version = ["1", "2", "3"][round];
        lab.expect(&app, &Want::on(master, Some(3 - master)).version(version));
        writer.rest();
        writer.expect_all(&lab, &app, master, Some("9"));
        // Before the order, down to what the undo has removed: it does not begin, and does once there is room.
        lab.node(to).sh(&format!("python3 - /deploy/ballast <<'END'\n{FILL}\nEND"));
        let version = ["2", "3", "4"][round];
        app.commit(version, Variant::Good);
        let id = lab.fire(3, "deploy", &app.deploy(to, Some(3 - to)));
        wait_until("the order", SOON, || lab.kv(3, &format!("order/{id}")).ok_or("not there".into()));
        lab.node(to).exec(&["handler", "reconcile"]);
        assert!(lab.kv(3, &format!("order/{id}")).is_some(), "it has ended on a full disk");
        writer.rest();
        lab.node(to).sh("rm -rf /deploy/ballast");
        lab.node(to).exec(&["handler", "reconcile"]);
        lab.wait_end(3, &app, &id, secs(60)).done();
        master = to;
        lab.expect(&app, &Want::on(master, Some(3 - master)).version(version));
        writer.rest();
        writer.expect_all(&lab, &app, master, None);
    }
    // The disk of the volumes, where the data is to go: the application stays where it is.
    let ballast = "cd /var/lib/buttervolume && mkdir ballast && for pass in 1 2; do for size in 1G 128M 16M 4M 1M 128K 16K 4K; do \
                   while fallocate -l $size ballast/$size-$(ls ballast | wc -l); do :; done; done; sync; done";
    lab.node(1).exec(&["bash", "-c", ballast]);
    app.store(2, "much", &"much ".repeat(200_000));
    lab.deploy(&app, 1, Some(2)).failed("");
    lab.expect(&app, &Want::on(2, Some(1)).version("4"));
    lab.node(1).sh("rm -rf /var/lib/buttervolume/ballast; sync");
    lab.deploy(&app, 1, Some(2)).done();
    lab.expect(&app, &Want::on(1, Some(2)).version("4"));
    writer.rest();
    writer.expect_all(&lab, &app, 1, None);
    assert!(app.read(1, "much").unwrap_or_default().len() == 1_000_000);
    drop(writer);
}

const FILL: &str = include_str!("fill.py");

/// A sequence that the same seed draws again.
struct Dice(u64);

impl Dice {
    fn new(lab: &Lab) -> Dice {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var("SEED").ok().map_or(now | 1, |seed| seed.parse().expect("SEED is a number"));
        lab.note(&format!("SEED={seed}"));
        Dice(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// What becomes of one order of a storm.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Nothing,
    /// Every run of the handler on this node, and each again that was started since, so many times.
    Handler(u8, u64),
}

/// Redeploys, moves and deploys that fail, with handlers killed in their midst, the engine where it matters most, at moments that
/// are drawn.
#[test]
fn a_client_that_writes_all_the_time_loses_nothing() {
    let lab = Lab::take("a_client_that_writes_all_the_time_loses_nothing");
    lab.set(&[("HANDLER_TIMEOUT_HEALTH", "20")]);
    let mut app = lab.app("app", 8080);
    // Whatever stops it, it comes back: but for a policy that is taken away.
    app.restart = "always";
    app.commit("1", Variant::Good);
    lab.deploy(&app, 1, Some(2)).done();
    let mut writer = Writer::start(&app);
    writer.rest();

    // Between stop and commit: nothing starts by itself.
    app.commit("2", Variant::Good);
    app.add("update.sh", "touch /tmp/updating; while [ -e /tmp/updating ]; do sleep 0.1; done\n");
    let id = lab.fire(3, "deploy", &with_update(&app, 1));
    wait_until("update.sh", SOON, || {
        if lab.node(1).exec(&["test", "-e", "/tmp/updating"]).code == Some(0) { Ok(()) } else { Err("not yet".into()) }
    });
    lab.node(1).restart_engine();
    lab.note("the engine was killed between stop and commit, and is back");
    for _ in 0..10 {
        let running = lab.facts(1, &app).running;
        assert!(running.is_empty(), "started by itself: {running:?}");
    }
    lab.node(1).sh("rm /tmp/updating");
    lab.wait_end(3, &app, &id, secs(60)).done();
    lab.expect(&app, &Want::on(1, Some(2)).version("2"));
    writer.rest();
    writer.expect_all(&lab, &app, 1, None);

    // In the build: the old version comes back with the engine.
    lab.node(1).sh(SLEEPER);
    app.commit("3", Variant::Good);
    app.add("Dockerfile", "FROM sleeper AS slow\nRUN sleep 600\nFROM scratch\nCOPY --from=slow /bin/sleep /sleep\nCOPY testapp /testapp\n");
    let id = lab.fire(3, "deploy", &app.deploy(1, Some(2)));
    wait_until("the build", SOON, || match lab.node(1).exec(&["pgrep", "-f", "^sleep 600"]).code {
        Some(0) => Ok(()),
        _ => Err("not yet".into()),
    });
    lab.node(1).restart_engine();
    lab.note("the engine was killed in the build, and is back");
    lab.node(1).exec(&["handler", "reconcile"]);
    lab.wait_end(3, &app, &id, secs(60)).failed("build");
    lab.expect(&app, &Want::on(1, Some(2)).version("2"));
    writer.rest();
    writer.expect_all(&lab, &app, 1, None);

    let mut dice = Dice::new(&lab);
    let (mut master, mut version) = (1, "2".to_string());
    for round in 0..9 {
        let new = (10 + round).to_string();
        let to = if dice.below(3) == 0 { master } else { 3 - master };
        let good = [Variant::Good; 3];
        let variant = [good.as_slice(), &[Variant::Unhealthy, Variant::Exits, Variant::UpdateFails]].concat()[dice.below(6) as usize];
        let at = 1 + dice.below(2) as u8;
        let fault = match round % 3 {
            // Not the engine: killed while it makes a network, this version of it does not start again.
            0 | 2 => Fault::Handler(at, 1 + dice.below(3)),
            _ => [Fault::Handler(at, 1), Fault::Nothing][dice.below(2) as usize],
        };
        let moment = Duration::from_millis(dice.below(4000));
        app.commit(&new, variant);
        let mut request = app.deploy(to, Some(3 - to));
        request["update"] = json!(variant == Variant::UpdateFails);
        lab.note(&format!("round {round}: {variant:?} from {} to {}, {fault:?} after {moment:?}", name(master), name(to)));
        let id = lab.fire(3, "deploy", &request);
        thread::sleep(moment);
        strike(&lab, fault);
        let ended = lab.wait_end(3, &app, &id, secs(120));
        if ended.state == "done" {
            assert!(variant == Variant::Good, "done: {:#}", ended.order);
            (master, version) = (to, new.clone());
        } else {
            assert!(variant != Variant::Good || fault != Fault::Nothing, "{}", ended.reason);
        }
        lab.expect(&app, &Want::on(master, Some(3 - master)).version(version.clone().leak()));
        let undone = (ended.state != "done" || fault != Fault::Nothing).then_some(&*new);
        writer.rest();
        writer.expect_all(&lab, &app, master, undone);
    }
}

fn strike(lab: &Lab, fault: Fault) {
    match fault {
        Fault::Nothing => {}
        Fault::Handler(node, times) => {
            for _ in 0..times {
                let was = lab.node(node).kill_handler();
                lab.note(&format!("killed on {}: {was}", name(node)));
                // Not waited for: the next kill is to meet it.
                lab.node(node).sh("handler reconcile >/dev/null 2>&1 &");
                thread::sleep(Duration::from_millis(700));
            }
        }
    }
}

/// An image that something can be run in while another is built on it.
const SLEEPER: &str = "tar -chP /bin/sh /bin/sleep $(ldd /bin/sh /bin/sleep | grep -o '/[^ ]*\\.so[^ ]*' | sort -u) | \
                       docker import -c 'ENV PATH=/bin' - sleeper";
