//! Every call of every transition, broken in every way: in the end all is as without it, or as before; the order says which.
//! `MATRIX=text` runs the cases whose name contains it, and shows all of each that is wrong.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::world::inside::{End, Saved, Sim, Start};
use crate::world::shop::{Transition, difference};
use crate::world::state::Reach;
use crate::world::{Act, Cluster, Effect, Kind, shop};

/// One test for each transition, so that they share the processors.
macro_rules! transitions {
    ($($name:ident,)*) => {$(
        mod $name {
            #[test]
            fn every_call_is_broken() {
                super::Matrix::new(super::shop::$name()).every_call();
            }

            #[test]
            fn a_node_is_killed_at_every_door() {
                super::Matrix::new(super::shop::$name()).every_door(super::End::Kill);
            }

            #[test]
            fn a_nodes_power_fails_at_every_door() {
                super::Matrix::new(super::shop::$name()).every_door(super::End::PowerOff);
            }

            #[test]
            fn the_leader_is_lost_at_every_call() {
                super::Matrix::new(super::shop::$name()).leader();
            }
        }
    )*};
}

transitions! {
    first_deploy,
    first_deploy_with_a_slave,
    redeploy,
    redeploy_with_a_slave,
    master_and_slave_swap,
    a_swap_that_names_no_slave,
    a_move_to_a_node_without_a_role,
    destroy_of_the_shop,
    destroy_without_the_master,
    takeover,
    migrate_on_one_node,
    migrate_between_nodes,
    redeploy_that_fails,
    swap_that_fails,
    migrate_that_fails,
}

type Way = (&'static str, fn() -> Act);

/// What is done to a call; a question has no effect that a kill could come before or after of, but the run is at another point.
const WAYS: [Way; 5] = [
    ("fail", || Act::Fail("broken by the test".to_owned())),
    ("lose", || Act::Lose),
    ("kill before", || Act::KillBefore),
    ("kill after", || Act::KillAfter),
    ("hang", || Act::Hang),
];

/// The handler is killed while a process of its runs, which goes on for so long.
const ORPHANS: [Way; 2] =
    [("orphan for a second", || Act::Orphan(Duration::from_secs(1))), ("orphan for a minute", || Act::Orphan(Duration::from_secs(60)))];

struct Matrix {
    sim: Sim,
    word: &'static str,
    event: Value,
    /// How the order ends when nothing is broken.
    end: &'static str,
    start: Saved,
    before: String,
    done: String,
    /// The calls of the transition, each with how many like it came before.
    calls: Vec<(Effect, usize)>,
    only: String,
    /// A node dies: it may be the only one that has heard of the event, and what it comes back with may be put away instead of removed.
    dies: bool,
    count: usize,
    wrong: String,
}

/// Without the containers that are kept from starting, and without data that nothing runs on.
fn put_away(state: &str) -> String {
    let away = |line: &&str| line.contains(" is down ") && line.contains(" restart no ");
    let serves = |line: &str| state.lines().any(|other| other.contains(" serves ") && other.split(' ').next() == line.split(' ').next());
    let kept = state.lines().filter(|line| !away(line) && (!line.contains(" volume ") || serves(line)));
    kept.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

impl Matrix {
    fn new((sim, word, event, end): Transition<Sim>) -> Matrix {
        sim.pass(Duration::from_secs(60)); // all that is there is on the disk
        let (before, start) = (sim.state(), sim.save());
        sim.deliver_all(std::slice::from_ref(&event));
        let log = sim.lock().log.clone();
        let nth = |i: usize| log[..=i].iter().filter(|e| **e == log[i]).count();
        let calls = (0..log.len()).map(|i| (log[i].clone(), nth(i))).collect();
        sim.settle();
        let done = sim.state();
        assert_eq!(sim.lock().ended(word)["state"], end);
        let only = std::env::var("MATRIX").unwrap_or_default();
        Matrix { sim, word, event, end, start, before, done, calls, only, dies: false, count: 0, wrong: String::new() }
    }

    fn every_call(mut self) {
        for (effect, nth) in self.calls.clone() {
            let orphans: &[Way] = if effect.kind == Kind::Process { &ORPHANS } else { &[] };
            for (how, act) in WAYS.iter().chain(orphans) {
                let case = format!("{how}: {}: {} #{nth}", effect.node, effect.line);
                self.case(&case, |sim| sim.on_exactly(&effect, nth, act()), false);
            }
        }
        self.judge();
    }

    /// For a few seconds, and once longer than any call is tried again for.
    fn leader(mut self) {
        let asked: Vec<Effect> = self.calls.iter().map(|(effect, _)| effect.clone()).filter(|effect| effect.kind == Kind::Consul).collect();
        for (at, effect) in asked.iter().enumerate() {
            for seconds in [4, 100] {
                let case = format!("no leader for {seconds} s from call {}: {}: {}", at + 1, effect.node, effect.line);
                let lose = move || Act::First(Box::new(move |s| s.lose_leader(seconds * 1_000_000)));
                // Nothing is decided while nothing is known; a write that is given up may be what decides.
                let must = seconds == 4 || effect.is_read;
                let arrange = |sim: &Sim| {
                    sim.fault(|e| e.kind == Kind::Consul, at + 1, lose());
                    // Whoever has given up is started again once there is a leader.
                    let nodes: Vec<String> = sim.lock().nodes.keys().cloned().collect();
                    nodes.iter().for_each(|node| sim.start_later(node, Start::Events(Vec::new()), Duration::from_secs(seconds + 30)));
                };
                self.case(&case, arrange, must);
            }
        }
        self.judge();
    }

    /// Each node, at each of its doors; one whose power has failed comes back when the others have done what they can.
    fn every_door(mut self, end: End) {
        self.dies = true;
        self.sim.load(&self.start);
        let nodes: Vec<String> = self.sim.lock().nodes.keys().cloned().collect();
        for node in nodes {
            for nth in 1.. {
                let case = format!("{end:?} of {node} at its door {nth}");
                self.case(&case, |sim| sim.end_at(&node, nth, end), false);
                if !self.sim.has_ended() {
                    break;
                }
            }
        }
        self.judge();
    }

    /// `must_end_so`: the order ends as it does when nothing is broken.
    fn case(&mut self, case: &str, arrange: impl FnOnce(&Sim), must_end_so: bool) {
        if !case.contains(&self.only) {
            return;
        }
        self.count += 1;
        let sim = &self.sim;
        sim.load(&self.start);
        if !self.only.is_empty() {
            sim.record();
        }
        arrange(sim);
        let runs = sim.deliver_all(std::slice::from_ref(&self.event));
        let hit = sim.no_faults();
        // Whatever was still without a leader has one again.
        sim.pass(Duration::from_secs(120));
        let rest = loop {
            let rest = sim.try_settle();
            let silent: Vec<String> =
                sim.lock().nodes.iter().filter(|(_, n)| n.reach == Reach::Silent).map(|(name, _)| name.clone()).collect();
            if silent.is_empty() {
                break rest;
            }
            silent.iter().for_each(|node| sim.power_on(node));
        };
        let order = sim.lock().ended(self.word);
        let state = sim.state();
        let violations = sim.violations();
        let same = |state: &str, wanted: &str| state == wanted || self.dies && put_away(state) == put_away(wanted);
        let as_it_says = match order["state"].as_str() {
            Some("done") => same(&state, &self.done),
            Some("failed") => same(&state, &self.before) && order["reason"].is_string(),
            // Consul has refused to take the order, and whoever gave it was told so; or the event went with those who had heard of it.
            _ if case.starts_with("fail") => state == self.before && runs.iter().any(|run| run.status == Some(1)),
            _ => self.dies && same(&state, &self.before) && sim.lock().keys("order/").is_empty(),
        };
        let ended = !must_end_so || order["state"] == self.end;
        if as_it_says && ended && rest.is_ok() && violations.is_empty() {
            return;
        }
        let hit = if hit { "" } else { " (not reached)" };
        writeln!(self.wrong, "======== {case}{hit}: {} {}", order["state"], order["reason"]).unwrap();
        writeln!(self.wrong, "{}{}", rest.err().unwrap_or_default(), violations.join("\n")).unwrap();
        self.wrong += &difference(if order["state"] == "done" { &self.done } else { &self.before }, &state);
        if !self.only.is_empty() {
            eprintln!("{case}\n{}", sim.dump());
        }
    }

    fn judge(self) {
        println!("{} cases of {} calls", self.count, self.calls.len());
        assert!(self.wrong.is_empty(), "\n{}", self.wrong);
    }
}
