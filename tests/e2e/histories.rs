//! Random histories on the real binary, with real kills: up to three calls of an order, those of its undo among them, are broken. In the end
//! all is as the order says. `REAL=` for how many of each transition, `FROM=` for the seed of the first.

use std::fmt::Write as _;

use crate::matrix::numbered;
use crate::world::inside::random::Random;
use crate::world::outside::World;
use crate::world::shop::{Transition, difference};
use crate::world::{Act, Cluster, shop};

macro_rules! transitions {
    ($($name:ident,)*) => {$(
        #[test]
        fn $name() {
            histories(shop::$name());
        }
    )*};
}

transitions! {
    redeploy_with_a_slave,
    master_and_slave_swap,
    a_move_to_a_node_without_a_role,
    migrate_between_nodes,
    redeploy_that_fails,
    swap_that_fails,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

fn histories((w, word, event, end): Transition<World>) {
    let (before, start) = (w.state(), w.save());
    w.deliver_all(std::slice::from_ref(&event));
    let effects = numbered(w.effects());
    w.settle();
    let done = w.state();
    assert_eq!(w.lock().ended(word)["state"], end);
    let from = number("FROM").unwrap_or(0);
    let mut wrong = String::new();
    for seed in from..from + number("REAL").unwrap_or(2) {
        let mut random = Random::new(seed);
        w.load(&start);
        let mut broken = String::new();
        for _ in 0..1 + random.below(3) {
            let (effect, nth) = random.pick(&effects);
            let (how, act) = match random.below(5) {
                0 | 1 => ("killed before", Act::KillBefore),
                2 | 3 => ("killed after", Act::KillAfter),
                _ => ("lost", Act::Lose),
            };
            writeln!(broken, "{how}: {}: {} #{nth}", effect.node, effect.line).unwrap();
            w.on_exactly(effect, *nth, act);
        }
        w.deliver_all(std::slice::from_ref(&event));
        w.no_faults();
        let rest = w.try_settle();
        let order = w.lock().ended(word);
        let state = w.state();
        let violations: Vec<String> = w.lock().violations.drain(..).collect();
        let wanted = if order["state"] == "done" { &done } else { &before };
        let ended = order["state"] == "done" || order["reason"].is_string();
        if ended && state == *wanted && rest.is_ok() && violations.is_empty() {
            continue;
        }
        writeln!(wrong, "======== FROM={seed} REAL=1: {} {}\n{broken}", order["state"], order["reason"]).unwrap();
        writeln!(wrong, "{}{}{}", rest.err().unwrap_or_default(), violations.join("\n"), difference(wanted, &state)).unwrap();
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
