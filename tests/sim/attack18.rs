//! Stories about pruned images, orders that wait, clocks of two nodes and restored keys, in which a promise breaks.

use serde_json::json;

use crate::others::run;
use crate::sets::{EXTRA, MINUTE, backup, checks, commit, data, put_back, reboot, replica, statuses, tick, with_extra};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{COPY, DATA, NODES, PROJECT, URL, all_well, compose, deploy, deployed, push, push_to, shop, with_copy};
use crate::world::state::engine::Made;
use crate::world::state::{DRIVER, State};
use crate::world::{Act, Cluster, event, id};

/// What `docker system prune -af` takes: containers that do not run, and images that no container has.
fn prune(s: &mut State, node: &str, containers: bool) {
    let e = s.engine(node);
    if containers {
        e.containers.retain(|c| !c.is_down());
    }
    let used: Vec<String> = e.containers.iter().map(|c| c.image.clone()).collect();
    e.images.retain(|id, _| used.contains(id));
    let images = e.images.clone();
    e.tags.retain(|_, id| images.contains_key(id));
}

/// A move; while the new master starts the application, the nightly prune on the old one takes its stopped containers and their images. The new
/// version is not well.
#[test]
fn a_source_starts_the_old_version_though_its_image_was_pruned() {
    for pruned in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        push(&sim, "x-standin: {start: unhealthy}");
        if pruned {
            let act = Act::First(Box::new(|s: &mut State| prune(s, "node1", true)));
            sim.fault(|e| e.node == "node2" && e.line.contains("up -d"), 1, act);
        }
        sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        assert!(sim.no_faults());
        checks(&sim, 3);
        let serving = sim.lock().serving(PROJECT);
        let orders = sim.lock().keys("order/");
        let status = run(&sim, "node1", Start::Status);
        sim.violations();
        assert!(serving.len() == 2 && orders.is_empty(), "pruned {pruned}: {serving:?} {orders:?} {status}");
    }
}

/// A move has failed, and the undo on its new master does not come to its end; the old version serves again. The order is given again, and waits. The old
/// master boots, and its engine gives up on what is to be started.
#[test]
fn what_should_run_is_started_though_an_order_waits_behind_one_that_is_not_undone() {
    for again in [false, true] {
        let sim: Sim = deployed(&NODES, "node1", Some("node3"));
        tick(&sim);
        push(&sim, "x-standin: {start: unhealthy}");
        sim.lock().engine("node2").held_networks.insert(PROJECT.to_owned());
        sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        sim.try_settle().ok();
        assert_eq!(sim.lock().kv(&format!("order/{}", id("second"))).unwrap()["state"], "failed");
        assert_eq!(sim.lock().serving(PROJECT).len(), 2);
        push(&sim, "");
        if again {
            sim.deliver_all(&[deploy("third", "node2", Some("node1"))]);
            sim.try_settle().ok();
        }
        reboot(&sim, "node1");
        sim.lock().engine("node1").containers.iter_mut().for_each(|c| c.running = false);
        checks(&sim, 12);
        let serving = sim.lock().serving(PROJECT);
        let status = run(&sim, "node1", Start::Status);
        let check = run(&sim, "node1", Start::Check);
        sim.violations();
        sim.lock().engine("node2").held_networks.clear();
        let told = status.stderr.contains("the container") || check.stderr.contains("the container");
        assert!(serving.len() == 2 || told, "again {again}: two hours later {serving:?}\n{status}\n{check}");
        assert!(serving.len() == 2, "again {again}: two hours later {serving:?}\n{status}\n{check}");
    }
}

/// The shop on node1, deployed twice; Consul is put back to a state from between both.
fn put_back_to_before_a_deploy() -> Sim {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    push(&sim, "x-standin: {writes: ', upgraded'}");
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    put_back(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    sim
}

#[test]
fn that_another_version_runs_than_the_record_says_is_told_of() {
    let sim = put_back_to_before_a_deploy();
    let status = run(&sim, "node1", Start::Status);
    sim.violations();
    assert_eq!(status.status, Some(1), "{status}");
}

#[test]
fn a_deploy_that_fails_ends_on_what_ran_though_consul_was_put_back() {
    let sim = put_back_to_before_a_deploy();
    let serving = sim.lock().serving(PROJECT);
    push(&sim, "x-standin: {start: unhealthy}");
    sim.deliver_all(&[deploy("third", "node1", Some("node2"))]);
    sim.try_settle().ok();
    checks(&sim, 3);
    let after = sim.lock().serving(PROJECT);
    let third = sim.lock().ended("third");
    let status = run(&sim, "node1", Start::Status);
    sim.violations();
    assert_eq!(serving, after, "{third:#}\n{status}");
}

/// On node2 is a volume of the name, brought along. The application is moved to it; its clock is three seconds behind that of the node that sends. Its handler is killed between the
/// restore and the line that remembers what was replaced.
#[test]
fn an_undo_puts_back_what_was_there_though_its_clock_is_behind() {
    for behind in [-3_000_000, 3_000_000] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        for node in NODES {
            sim.lock().node(node).ahead = 0;
        }
        sim.lock().node("node2").ahead = -behind;
        sim.lock().plugin("node2").volumes.insert(DATA.to_owned(), "brought along".to_owned());
        push(&sim, "x-standin: {start: unhealthy}");
        sim.fault(|e| e.node == "node2" && e.what == "Snapshot.Restore", 1, Act::KillAfter);
        sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
        assert!(sim.no_faults());
        sim.settle();
        let second = sim.lock().ended("second");
        let held = data(&sim, "node2", DATA);
        let status = run(&sim, "node2", Start::Status);
        sim.violations();
        assert!(held == "brought along", "behind {behind}: “{held}” {second:#}\n{status}");
    }
}

/// The new version is up, and not well; a newer image of a service that is pulled has come with it. The nightly prune takes both images of the old version:
/// the one that was built, and the one that was pulled. What cannot be had again is not replaced by what the name stands for now.
#[test]
fn an_undo_starts_no_newer_image_though_one_that_was_built_was_pruned_too() {
    for image in ["cache:1", "zcache:1"] {
        let sim: Sim = shop(&NODES);
        let text = |more: &str| compose(more).replace("cache:1", image);
        sim.lock().registry.insert(image.to_owned(), "cache one".to_owned());
        commit(&sim, &text(""));
        all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
        sim.lock().write("node1", DATA, "orders of monday");
        sim.settle();
        sim.lock().registry.insert(image.to_owned(), "cache two".to_owned());
        commit(&sim, &text("x-standin: {start: unhealthy}"));
        let act = Act::First(Box::new(|s: &mut State| prune(s, "node1", false)));
        sim.fault(|e| e.node == "node1" && e.line.contains(" down"), 1, act);
        sim.deliver_all(&[deploy("second", "node1", Some("node2"))]);
        assert!(sim.no_faults());
        checks(&sim, 3);
        let serving = sim.lock().serving(PROJECT);
        let second = sim.lock().ended("second");
        let status = run(&sim, "node1", Start::Status);
        sim.violations();
        let newer = serving.iter().any(|line| line.contains("cache two"));
        // As the code says: what was pulled may be another one by now, and the undo waits for a person.
        assert!(!newer, "{image}: {serving:?} {second:#}\n{status}");
    }
}

/// An application runs well; data of it is to be copied into another one, of which an undo does not come to its end: the migrate waits. The node of the
/// first one boots, and its engine gives up on what is to be started.
#[test]
fn a_source_is_started_though_a_migrate_from_it_waits_for_another_application() {
    let (sim, project, _) = with_copy::<Sim>("node3", "", &[]);
    tick(&sim);
    push_to(&sim, COPY, "x-standin: {start: unhealthy}", &[]);
    sim.lock().engine("node3").held_networks.insert(project);
    let payload = json!({"repo": COPY, "branch": "master", "master": "node3"});
    sim.deliver_all(&[event("bad", "deploy", &payload)]);
    sim.try_settle().ok();
    sim.deliver_all(&[migrate_from_shop("m")]);
    sim.try_settle().ok();
    assert!(sim.lock().kv(&format!("order/{}", id("m"))).is_some());
    reboot(&sim, "node1");
    sim.lock().engine("node1").containers.iter_mut().for_each(|c| c.running = false);
    checks(&sim, 12);
    let serving = sim.lock().serving(PROJECT);
    let status = statuses(&sim);
    let check = run(&sim, "node1", Start::Check);
    sim.violations();
    sim.lock().engine("node3").held_networks.clear();
    assert!(serving.len() == 2, "two hours later {serving:?}\n{status}\n{check}");
}

fn migrate_from_shop(word: &str) -> serde_json::Value {
    event(word, "migrate", &json!({"repo": URL, "branch": "master", "target": {"repo": COPY}}))
}

/// Consul has lost everything. What the status of a node says is done there.
#[test]
fn where_consul_has_lost_everything_a_slave_does_not_say_that_it_is_to_be_deployed_there() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    put_back(&sim, &[]);
    sim.try_settle().ok();
    checks(&sim, 2);
    assert_eq!(sim.lock().serving(PROJECT).len(), 2);
    let status = run(&sim, "node2", Start::Status);
    let master = run(&sim, "node1", Start::Status);
    sim.deliver_all(&[deploy("as told", "node2", Some("node1"))]);
    sim.try_settle().ok();
    let told = sim.lock().ended("as told");
    sim.violations();
    let says = |run: &crate::world::Run| run.stderr.contains("with this node as its master, to keep it");
    assert!(says(&master), "{master}");
    assert!(!says(&status) || told["state"] == "done", "{status}\n{told:#}");
}

/// Consul is put back to a state from before the last deploy on the same node. The node boots, and its engine gives up on what is to be started.
#[test]
fn what_runs_by_an_older_record_is_started_or_told_how() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    put_back(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    reboot(&sim, "node1");
    sim.lock().engine("node1").containers.iter_mut().for_each(|c| c.running = false);
    checks(&sim, 12);
    let serving = sim.lock().serving(PROJECT);
    let status = statuses(&sim);
    sim.violations();
    assert!(serving.len() == 2 || status.contains("deploy it again"), "two hours later {serving:?}\n{status}");
}

/// A move; the nightly prune on the old master takes its stopped containers and their images, which were pulled; their names stand for newer ones by now.
/// The new version is not well.
#[test]
fn a_source_starts_no_newer_image_for_one_that_was_pruned() {
    let sim: Sim = shop(&NODES);
    let text = |more: &str| compose(more).replace("build: .", "image: web:1");
    sim.lock().registry.insert("web:1".to_owned(), "web one".to_owned());
    commit(&sim, &text(""));
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.lock().write("node1", DATA, "orders of monday");
    sim.settle();
    sim.lock().registry.insert("web:1".to_owned(), "web two".to_owned());
    commit(&sim, &text("x-standin: {start: unhealthy}"));
    let act = Act::First(Box::new(|s: &mut State| prune(s, "node1", true)));
    sim.fault(|e| e.node == "node2" && e.line.contains("up -d"), 1, act);
    sim.deliver_all(&[deploy("second", "node2", Some("node1"))]);
    assert!(sim.no_faults());
    checks(&sim, 3);
    let serving = sim.lock().serving(PROJECT);
    let second = sim.lock().ended("second");
    let status = run(&sim, "node1", Start::Status);
    sim.violations();
    assert!(!serving.iter().any(|line| line.contains("web two")), "{serving:?} {second:#}\n{status}");
}

/// A version with a second data volume is deployed where the application is. Consul is put back to a state from before; the application runs on, and
/// nothing is wrong by any status. It is moved, or taken over.
#[test]
fn a_volume_that_an_older_record_does_not_name_is_not_left_behind_without_a_word() {
    let mut wrong = Vec::new();
    for (what, back, dies) in [("move", false, false), ("put back, move", true, false), ("put back, takeover", true, true)] {
        let sim: Sim = deployed(&NODES, "node1", Some("node2"));
        tick(&sim);
        let kept = backup(&sim);
        commit(&sim, &with_extra(""));
        all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
        sim.settle();
        sim.lock().write("node1", EXTRA, "letters of tuesday");
        tick(&sim);
        if back {
            put_back(&sim, &kept);
        }
        sim.try_settle().ok();
        checks(&sim, 2);
        let told = statuses(&sim);
        let plan = run(&sim, "node2", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node3"})));
        if dies {
            sim.power_off("node1");
        }
        sim.deliver_all(&[deploy("third", "node2", Some("node3"))]);
        sim.try_settle().ok();
        let third = sim.lock().ended("third");
        let (one, two) = (data(&sim, "node2", DATA), data(&sim, "node2", EXTRA));
        let later = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).join("");
        sim.violations();
        if third["state"] == "done" && !two.contains("tuesday") && third["notes"].is_null() {
            wrong.push(format!("{what}: “{one}” “{two}”\n{told}\n{plan}\n{third:#}\n{later}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n=====\n"));
}

/// node1 died, node2 has taken over, and has gone on for a day. Consul is put back to a state from before, while node1 is still dead: node2 is fenced. The
/// application is taken over once more.
#[test]
fn a_takeover_where_consul_was_put_back_says_that_the_node_itself_holds_what_is_newer() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    tick(&sim);
    let kept = backup(&sim);
    sim.power_off("node1");
    all_well(&sim.deliver_all(&[deploy("over", "node2", Some("node3"))]));
    sim.settle();
    sim.lock().write("node2", DATA, " and of tuesday");
    tick(&sim);
    put_back(&sim, &kept);
    sim.try_settle().ok();
    checks(&sim, 2);
    let told = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).join("");
    let plan = run(&sim, "node2", Start::Plan("deploy", json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node3"})));
    sim.deliver_all(&[deploy("again", "node2", Some("node3"))]);
    sim.try_settle().ok();
    let again = sim.lock().ended("again");
    let held = data(&sim, "node2", DATA);
    let later = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).join("");
    sim.violations();
    let text = again["notes"].to_string() + &plan.stderr;
    assert!(
        again["state"] != "done" || held.contains("tuesday") || text.contains("fenced"),
        "{told}\n{plan}\n{again:#}\n“{held}”\n{later}"
    );
}

/// A job of a profile has made its data volume after the deploy. Status says that it is protected, moved and snapshotted. The application is moved.
#[test]
fn what_status_calls_protected_is_in_the_sets_and_moves() {
    let sim: Sim = shop(&NODES);
    let reports = format!("{PROJECT}_reports");
    let job = "  report: {image: 'cache:1', profiles: [tools], volumes: ['reports:/reports']}";
    let text = compose("").replace("volumes:\n  data:", &format!("{job}\nvolumes:\n  reports: {{driver: '{DRIVER}'}}\n  data:"));
    commit(&sim, &text);
    all_well(&sim.deliver_all(&[deploy("first", "node1", Some("node2"))]));
    sim.settle();
    {
        let mut s = sim.lock();
        s.create_volume("node1", &reports, DRIVER).unwrap();
        s.engine("node1").volumes.insert(reports.clone(), Made { project: PROJECT.to_owned(), labels: Default::default() });
        s.append("node1", &reports, "reports of a year");
    }
    sim.lock().write("node1", DATA, ".");
    tick(&sim);
    checks(&sim, 3);
    let status = run(&sim, "node1", Start::Status);
    let said = status.stderr.lines().any(|line| line.contains("volumes protected") && line.contains(&reports));
    let in_set = replica(&sim, "node2")["last"]["snapshots"].to_string().contains(&reports);
    let moved = sim.deliver_all(&[deploy("move", "node2", Some("node1"))]);
    sim.settle();
    let there = sim.lock().volume("node2", &reports);
    let order = sim.lock().ended("move");
    let later = statuses(&sim);
    sim.violations();
    let log: String =
        moved.iter().flat_map(|run| run.stderr.lines()).filter(|line| line.contains("reports")).map(|line| format!("{line}\n")).collect();
    assert!(!said || in_set && there.is_some(), "in the set: {in_set}; moved: {there:?}\n{status}\n{log}\n{order:#}\n{later}");
}

/// Data of an application is to be copied into another one, of which an undo does not come to its end: the migrate waits. The first one's master dies; it
/// is to be taken over.
#[test]
fn a_takeover_does_not_wait_for_a_migrate_that_waits_for_another_application() {
    for waits in [false, true] {
        let (sim, project, _) = with_copy::<Sim>("node3", "", &[]);
        tick(&sim);
        push_to(&sim, COPY, "x-standin: {start: unhealthy}", &[]);
        sim.lock().engine("node3").held_networks.insert(project);
        let payload = json!({"repo": COPY, "branch": "master", "master": "node3"});
        sim.deliver_all(&[event("bad", "deploy", &payload)]);
        sim.try_settle().ok();
        if waits {
            sim.deliver_all(&[migrate_from_shop("m")]);
            sim.try_settle().ok();
        }
        sim.power_off("node1");
        // Who waits for another's order waits for ever: not until all have ended.
        for _ in 0..12 {
            ["node2", "node3"].iter().for_each(|node| sim.start(node, Start::Events(vec![deploy("over", "node2", Some("node3"))])));
            sim.steps(3_000);
            sim.pass(11 * MINUTE);
        }
        ["node2", "node3"].iter().for_each(|node| sim.kill(node));
        let over = sim.lock().ended("over");
        let serving = sim.lock().serving(PROJECT);
        let status = ["node2", "node3"].map(|node| run(&sim, node, Start::Status).to_string()).join("");
        sim.violations();
        sim.lock().engine("node3").held_networks.clear();
        assert!(over["state"] == "done" && serving.len() == 2, "waits {waits}: two hours later {over} {serving:?}\n{status}");
    }
}
