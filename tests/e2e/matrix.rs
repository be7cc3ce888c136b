//! The worst cases of the failure matrix on the real binary: the handler is killed around what decides, or the answer is lost. The whole
//! matrix runs in `tests/sim`. `MATRIX=text` runs the cases whose name contains it.

use std::fmt::Write as _;

use crate::world::outside::World;
use crate::world::shop::{Transition, difference};
use crate::world::{Act, Cluster, Effect, shop};

/// What decides: the steps after which there is another state to go on from.
const WORST: [&str; 5] = ["Snapshot.Restore", "Snapshot.Send", " up -d", "cas app/", "(sent)"];

type Way = (&'static str, fn() -> Act);

const WAYS: [Way; 3] = [("kill before", || Act::KillBefore), ("kill after", || Act::KillAfter), ("lose", || Act::Lose)];

macro_rules! transitions {
    ($($name:ident,)*) => {$(
        #[test]
        fn $name() {
            matrix(shop::$name());
        }
    )*};
}

transitions! {
    redeploy,
    master_and_slave_swap,
    takeover,
    migrate_between_nodes,
    swap_that_fails,
}

/// Each effect with how many like it came before.
pub fn numbered(effects: Vec<Effect>) -> Vec<(Effect, usize)> {
    let nth = |i: usize| effects[..=i].iter().filter(|e| **e == effects[i]).count();
    (0..effects.len()).map(|i| (effects[i].clone(), nth(i))).collect()
}

fn matrix((w, word, event, end): Transition<World>) {
    let before = w.state();
    let start = w.save();
    w.deliver_all(std::slice::from_ref(&event));
    let effects = numbered(w.effects());
    w.settle();
    let done = w.state();
    assert_eq!(w.lock().ended(word)["state"], end);
    let only = std::env::var("MATRIX").unwrap_or_default();
    let (mut count, mut wrong) = (0, String::new());
    let worst = effects.iter().filter(|(effect, _)| WORST.iter().any(|text| effect.line.contains(text)));
    for ((effect, nth), (how, act)) in worst.flat_map(|worst| WAYS.map(|act| (worst, act))) {
        let case = format!("{how}: {}: {} #{nth}", effect.node, effect.line);
        if !case.contains(&only) {
            continue;
        }
        count += 1;
        w.load(&start);
        w.on_exactly(effect, *nth, act());
        w.deliver_all(std::slice::from_ref(&event));
        let hit = w.no_faults();
        let rest = w.try_settle();
        let order = w.lock().ended(word);
        let state = w.state();
        let violations: Vec<String> = w.lock().violations.drain(..).collect();
        let as_it_says = match order["state"].as_str() {
            Some("done") => state == done,
            Some("failed") => state == before && order["reason"].is_string(),
            _ => false,
        };
        if as_it_says && rest.is_ok() && violations.is_empty() {
            continue;
        }
        let hit = if hit { "" } else { " (not reached)" };
        writeln!(wrong, "======== {case}{hit}: {}", order["state"]).unwrap();
        writeln!(wrong, "{}{}", rest.err().unwrap_or_default(), violations.join("\n")).unwrap();
        wrong += &difference(if order["state"] == "done" { &done } else { &before }, &state);
        if !only.is_empty() {
            eprintln!("{case}{}", w.dump());
        }
    }
    eprintln!("{count} cases");
    assert!(wrong.is_empty(), "\n{wrong}");
}
