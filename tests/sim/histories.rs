//! Random histories: orders, new versions that may not start, kills, deaths, faults, no leader; then it ends, all come back, and everything
//! comes to rest with one master that serves. `SEED=` for one of them, with all that happened; `RUNS=` for how many.

use std::time::Duration;

use serde_json::json;

use crate::world::inside::random::Random;
use crate::world::inside::{Sim, Start};
use crate::world::shop::{APP, DATA, NODES, PROJECT, URL, destroy, push};
use crate::world::state::Reach;
use crate::world::{Act, Cluster, Effect, Kind, event};

/// One step of a history.
fn something(sim: &Sim, random: &mut Random, at: usize) {
    let node = *random.pick(&NODES);
    let alive = |node: &str| sim.lock().nodes[node].reach == Reach::Fine;
    let dead = NODES.iter().filter(|node| !alive(node)).count();
    match random.below(20) {
        0..=4 if alive(node) => {
            let (master, slave) = (*random.pick(&NODES), *random.pick(&NODES));
            let slave = (slave != master && random.chance(60)).then_some(slave);
            let mut payload = json!({"repo": URL, "branch": "master", "master": master, "update": random.chance(30)});
            if let Some(slave) = slave {
                payload["slave"] = slave.into();
            }
            let order = if random.chance(10) { destroy(&format!("{at}")) } else { event(&format!("{at}"), "deploy", &payload) };
            // Not all of them hear of it.
            for hears in NODES.iter().filter(|hears| alive(hears) && (**hears == node || random.chance(70))) {
                sim.start(hears, Start::Events(vec![order.clone()]));
            }
        }
        5..=6 => {
            let how =
                *random.pick(&["", "", "", "x-standin: {start: unhealthy}", "x-standin: {build: fails}", "x-standin: {start: refused}"]);
            push(sim, how);
        }
        7 if sim.lock().serving(PROJECT).iter().any(|line| line.starts_with(&format!("{node} {PROJECT}-web"))) => {
            sim.lock().write(node, DATA, &format!(",{at}"));
        }
        8 => sim.kill(node),
        9 if dead == 0 => sim.power_off(node),
        10..=11 if !alive(node) => {
            sim.power_on(node);
            // The agent's watches fire when it starts.
            sim.start(node, Start::Events(Vec::new()));
        }
        12 => sim.lock().lose_leader(random.below(60_000_000)),
        13 => {
            let kind = *random.pick(&[Kind::Plugin, Kind::Engine, Kind::Process]);
            let hits = move |e: &Effect| e.kind == kind;
            let act = match random.below(4) {
                0 => Act::Fail("broken by the test".into()),
                1 => Act::Lose,
                2 => Act::KillAfter,
                _ => Act::Hang,
            };
            sim.fault(hits, 1 + random.below(20) as usize, act);
        }
        14 => sim.pass(Duration::from_secs(random.below(900))),
        15 => rest(sim),
        16..=17 if alive(node) => sim.start(node, Start::Events(Vec::new())),
        _ => sim.steps(random.below(300)),
    }
}

/// Until all has ended; each node looks once more, so that none waits for one that has given up without a leader.
fn rest(sim: &Sim) {
    NODES.iter().filter(|node| sim.lock().nodes[**node].reach == Reach::Fine).for_each(|node| sim.start(node, Start::Events(Vec::new())));
    sim.run_until_rest();
}

/// How many orders were done, how many failed, and how many handlers and nodes died.
type Sum = [usize; 4];

fn history(seed: u64, sum: &mut Sum) -> Result<(), String> {
    let mut random = Random::new(seed);
    let sim = Sim::with_seed(seed, &NODES);
    if std::env::var("SEED").is_ok() {
        sim.record();
    }
    sim.restarts(5);
    sim.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    push(&sim, "");
    (0..30).for_each(|at| something(&sim, &mut random, at));
    sim.no_faults();
    rest(&sim);
    NODES.iter().filter(|node| sim.lock().nodes[**node].reach != Reach::Fine).for_each(|node| sim.power_on(node));
    sim.pass(Duration::from_secs(900));
    // Twice: an order that nobody has taken up in time is failed by the first.
    sim.try_settle().ok();
    let rest = sim.try_settle();
    let (violations, state) = (sim.violations(), sim.state());
    let s = sim.lock();
    let master = s.kv(&format!("app/{APP}")).map(|record| record["master"].as_str().unwrap().to_owned());
    let serving = s.serving(PROJECT);
    let mut wrong: Vec<String> = violations;
    for key in s.keys("history/") {
        sum[usize::from(s.kv(&key).unwrap()["state"] != "done")] += 1;
    }
    for node in s.nodes.values() {
        sum[2] += node.kills;
        sum[3] += node.deaths;
    }
    wrong.extend(rest.err());
    if serving.iter().any(|line| master.as_ref().is_none_or(|master| !line.starts_with(master.as_str()))) {
        wrong.push(format!("{serving:?}, though the record names {master:?}"));
    }
    for (name, node) in s.nodes.iter().filter(|(name, _)| master.as_ref() != Some(*name)) {
        let replicates = node.plugin.schedules.keys().filter(|(_, action)| action.starts_with("replicate:"));
        wrong.extend(replicates.map(|(volume, action)| format!("{name} has {action} of {volume}, though the record names {master:?}")));
    }
    let open = [s.keys("order/"), s.keys("maintenance/")].concat();
    if !open.is_empty() {
        wrong.push(format!("still there: {open:?}"));
    }
    drop(s);
    if wrong.is_empty() {
        return Ok(());
    }
    if std::env::var("SEED").is_ok() {
        eprintln!("{}", sim.dump());
    }
    Err(format!("======== SEED={seed}\n{}\n{state}", wrong.join("\n")))
}

#[test]
fn random_histories_come_to_rest() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RUNS").unwrap_or(100),
    };
    let mut sum = Sum::default();
    let wrong: Vec<String> = seeds.filter_map(|seed| history(seed, &mut sum).err()).collect();
    let [done, failed, kills, deaths] = sum;
    println!("{done} orders done, {failed} failed, {kills} kills, {deaths} of them with the node");
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}
