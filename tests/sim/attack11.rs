//! Stories about replicas, takeovers and the health check, in which a promise breaks.

use serde_json::{Value, json};

use crate::others::run;
use crate::sets::{
    EXTRA, MINUTE, after, backup, checks, commit, data, first_set_is_void, held, keeping, last, own, put_back, reboot, replica, snapshots,
    tick, wiped, with_extra, with_two_volumes,
};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, URL, all_well, deploy, deployed, destroy};
use crate::world::{Act, Cluster, Effect, event};

fn over(sim: &Sim, word: &str, payload: &Value) -> Value {
    sim.deliver_all(&[event(word, "deploy", payload)]);
    sim.lock().ended(word)
}

/// The master is the same, the version is the same, the slave has confirmed a set every quarter of an hour. Consul is put back to the state of half
/// an hour (or a night) before, and the master dies before it has sent the next set. The slave has whole sets that it has confirmed itself since, and
/// has them in its book; the takeover starts from the older one that the key names, and says no word of them.
#[test]
fn a_takeover_after_consul_was_put_back_does_not_pass_over_what_its_own_book_has_confirmed() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    sim.settle();
    tick(&sim);
    let kept = backup(&sim);
    sim.lock().write("node1", DATA, " and of tuesday");
    for time in 0..3 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let newest = last(&sim, "node2");
    assert!(held(&sim, "node2", &newest).unwrap().contains("tuesday"));
    put_back(&sim, &kept);
    assert_ne!(last(&sim, "node2"), newest);
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    let payload = json!({"repo": URL, "branch": "master", "master": "node2", "slave": "node3"});
    let plan = run(&sim, "node2", Start::Plan("deploy", payload.clone()));
    let ended = over(&sim, "over", &payload);
    let text = data(&sim, "node2", DATA);
    checks(&sim, 2);
    let status = run(&sim, "node2", Start::Status);
    sim.violations();
    let told = ended["notes"].to_string().contains(&newest) || ended["reason"].to_string().contains(&newest);
    assert!(text.contains("tuesday") || told, "“{text}” {newest}\n{ended:#}\nplan: {plan}\nstatus: {status}");
}

/// The master dies for good, the application is destroyed, and deployed anew where its slave was: what that has of the old one stays until somebody
/// removes it. All of a week is to be kept, and it is deployed ten times a day: a history that has forgotten the destroy after six days lets
/// the sets of the destroyed one go by the new one's rule on the eighth.
#[test]
fn what_is_left_of_a_destroyed_application_stays_however_often_the_new_one_is_deployed() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &keeping("1w"));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    for _ in 0..2 {
        sim.lock().write("node1", DATA, ".");
        after(&sim, 15 * MINUTE);
    }
    let left = snapshots(&sim, "node2", DATA);
    assert!(left.len() > 2, "{left:?}");
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    sim.deliver_all(&[destroy("end")]);
    assert_eq!(sim.lock().ended("end")["state"], "done");
    sim.settle();
    run(&sim, "node2", Start::Status).says("was destroyed; of it this node keeps, until somebody removes them");
    for number in 0..90 {
        all_well(&sim.deliver_all(&[deploy(&format!("anew {number}"), "node2", Some("node3"))]));
        sim.lock().write("node2", DATA, &format!(" {number}"));
        after(&sim, 144 * MINUTE);
    }
    let now = snapshots(&sim, "node2", DATA);
    let forgotten = sim.lock().ended("end").is_null();
    let violations = sim.violations();
    let gone: Vec<&String> = left.iter().filter(|name| !now.contains(name)).collect();
    assert!(gone.is_empty(), "nobody has removed them (forgotten: {forgotten}): {gone:?} of {left:?} {violations:#?}");
}

/// node2's clock is two hours behind. It took a move, and node3 has confirmed what it has written since. node2 dies for good; node3 cannot be used (it
/// is too small), so that a person takes over on node1 from what that had handed over, by the order that the refusal prints. node3, the slave now,
/// has the only copy of what node2 wrote: it compares clocks, takes it for older than what was restored, and purges it.
#[test]
fn a_confirmed_set_that_a_takeover_did_not_use_is_set_aside_whatever_the_clocks_say() {
    // With clocks that agree it is.
    [0, 2 * 3_600_000_000].iter().for_each(|behind| by_a_clock_that_is_behind(*behind));
}

fn by_a_clock_that_is_behind(behind: i64) {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &keeping("1h"));
    sim.lock().node("node2").ahead -= behind;
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    tick(&sim);
    sim.lock().write("node2", DATA, " and of tuesday");
    after(&sim, 20 * MINUTE);
    let newest = last(&sim, "node3");
    assert!(held(&sim, "node3", &newest).unwrap().contains("tuesday"));
    let handed = last(&sim, "node1");
    sim.power_off("node2");
    sim.lock().nodes.remove("node2");
    let mut payload = json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node3"});
    let refused = over(&sim, "over", &payload);
    assert_eq!(refused["state"], "failed", "{refused:#}");
    assert!(refused["reason"].as_str().unwrap().contains(&handed), "{refused:#}");
    payload["replica"] = json!([handed]);
    let ended = over(&sim, "as told", &payload);
    assert_eq!(ended["state"], "done", "{ended:#}");
    sim.settle();
    for time in 0..14 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let (there, aside) = (held(&sim, "node3", &newest), own(&sim, "node3").contains(&newest));
    let violations = sim.violations();
    assert!(there.is_some(), "{behind} behind: {newest} is gone (set aside: {aside}); {:#} {violations:#?}", ended["notes"]);
}

/// Nobody writes to one of two volumes; the plugins are newer ones. The slave boots right after a set has arrived, before it has looked at it: that is
/// void. The next set names the same snapshot of the quiet volume, which is on the slave still: it is sent there a second time.
#[test]
fn what_was_void_for_a_boot_is_not_sent_a_second_time_by_a_newer_plugin() {
    let sim = with_two_volumes("node2");
    sim.lock().write("node1", EXTRA, "invoices");
    tick(&sim);
    sim.lock().write("node1", EXTRA, " of tuesday");
    sim.pass(16 * MINUTE);
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(replica(&sim, "node2")["next"]["sent"].as_bool().unwrap_or_default(), "{:#}", replica(&sim, "node2"));
    reboot(&sim, "node2");
    let mut told = Vec::new();
    for _ in 0..6 {
        sim.lock().write("node1", DATA, ".");
        after(&sim, 6 * MINUTE);
        told.push(format!("{:#}", replica(&sim, "node2")));
    }
    let now = sim.lock().kv(&format!("replica/{APP}/node2")).unwrap();
    let violations = sim.violations();
    assert!(violations.is_empty() && now["failures"] == 0, "{violations:#?}\n{}", told.join("\n"));
}

/// The disk of node2, the master, is dead. A person takes over on node1 from what that had handed over, by the order that the refusal prints, with node3
/// as slave, which holds the confirmed set of what node2 wrote. While the first set is on its way to node3 (of much data for hours), node2 is back under
/// its name with a new disk. That it lives is taken for a sign that its data is fenced there: node3's set, the only copy, is not set aside, and purged.
#[test]
fn a_confirmed_set_that_a_takeover_did_not_use_is_set_aside_though_its_master_is_back_with_a_new_disk() {
    // While that is dead it is.
    [false, true].iter().for_each(|back| with_a_new_disk(*back));
}

fn with_a_new_disk(back: bool) {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &keeping("1h"));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node2"))]));
    sim.settle();
    tick(&sim);
    all_well(&sim.deliver_all(&[deploy("away", "node2", Some("node3"))]));
    sim.settle();
    tick(&sim);
    sim.lock().write("node2", DATA, " and of tuesday");
    after(&sim, 20 * MINUTE);
    let newest = last(&sim, "node3");
    assert!(held(&sim, "node3", &newest).unwrap().contains("tuesday"));
    let handed = last(&sim, "node1");
    sim.power_off("node2");
    let payload = json!({"repo": URL, "branch": "master", "master": "node1", "slave": "node3", "replica": [handed]});
    let ended = over(&sim, "as told", &payload);
    assert_eq!(ended["state"], "done", "{ended:#}");
    let before = own(&sim, "node3").contains(&newest);
    if back {
        wiped(&sim, "node2");
        sim.power_on("node2");
        sim.start("node2", Start::Events(Vec::new()));
        sim.run_until_rest();
    }
    for time in 0..14 {
        sim.lock().write("node1", DATA, &format!(" {time}"));
        after(&sim, 15 * MINUTE);
    }
    let (there, aside) = (held(&sim, "node3", &newest), own(&sim, "node3").contains(&newest));
    let violations = sim.violations();
    assert!(there.is_some(), "back: {back}; {newest} is gone (set aside: {before} {aside}); {:#} {violations:#?}", ended["notes"]);
}

/// Two volumes. The first set of a new slave arrives whole, but the answer to the second send is lost: it is void. The master dies in the middle of the
/// second set: of that the slave has the first volume only. The refused takeover prints an order that mixes the two sets, and says no word of the whole
/// one: the data is of one moment, what belongs to it of another.
#[test]
fn what_a_refused_takeover_offers_is_of_one_moment() {
    let sim: Sim = deployed(&NODES, "node1", Some("node2"));
    commit(&sim, &with_extra(""));
    all_well(&sim.deliver_all(&[deploy("second", "node1", Some("node3"))]));
    sim.settle();
    let is_extra = |e: &Effect| e.node == "node1" && e.line.contains("Snapshot.Send") && e.line.contains(EXTRA);
    sim.fault(is_extra, 1, Act::Lose);
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    let void = replica(&sim, "node3")["void"].clone();
    let whole: Vec<String> = serde_json::from_value(void).unwrap();
    assert_eq!(whole.len(), 2, "{:#}", replica(&sim, "node3"));
    sim.lock().write("node1", DATA, " an order");
    sim.lock().write("node1", EXTRA, " its invoice");
    sim.fault(is_extra, 1, Act::First(Box::new(|s| s.die("node1"))));
    sim.pass(6 * MINUTE);
    sim.start("node1", Start::Sets);
    sim.run_until_rest();
    assert!(sim.no_faults());
    sim.lock().nodes.remove("node1");
    tick(&sim);
    let payload = json!({"repo": URL, "branch": "master", "master": "node3"});
    let ended = over(&sim, "over", &payload);
    let reason = ended["reason"].as_str().unwrap_or_default().to_owned();
    let violations = sim.violations();
    let (_, order) = reason.split_once("handler deploy ").unwrap();
    let of_one = whole.iter().all(|name| order.contains(name)) || whole.iter().all(|name| !order.contains(name));
    assert!(of_one || whole.iter().all(|name| reason.contains(name)), "whole: {whole:?}\n{reason}\n{violations:#?}");
}

/// The same quiet volume and newer plugins, with a slave that is new. Its first set has arrived, is on its disk, and is void since the slave has booted. The
/// second set sends the quiet volume's snapshot over that copy, which is gone by it; the master dies for good before it tries again.
#[test]
fn what_was_void_for_a_boot_is_not_lost_by_being_sent_a_second_time() {
    let sim = with_two_volumes("node3");
    sim.lock().write("node1", EXTRA, "invoices");
    first_set_is_void(&sim);
    sim.lock().write("node1", DATA, ".");
    after(&sim, 6 * MINUTE);
    sim.power_off("node1");
    sim.lock().nodes.remove("node1");
    let payload = json!({"repo": URL, "branch": "master", "master": "node3"});
    let reason = over(&sim, "over", &payload)["reason"].clone();
    let violations = sim.violations();
    assert!(!snapshots(&sim, "node3", EXTRA).is_empty(), "{reason}\n{violations:#?}");
}
