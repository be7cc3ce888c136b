//! A history that breaks a law is made as short as it can be while it still breaks that law.

use std::time::{Duration, Instant};

use super::draw::History;
use super::laws::Wrong;
use super::play::play;

/// The laws that are broken; the first of them is what must stay.
pub fn way(wrong: &[Wrong]) -> Option<&'static str> {
    wrong.first().map(|(law, _)| *law)
}

/// Leaves out pieces, large ones first, as long as it takes at most.
pub fn shrink(history: &History, most: Duration) -> History {
    let begun = Instant::now();
    let first = play(history, false);
    let Some(law) = way(&first.wrong) else { return history.clone() };
    let mut best = history.clone();
    // Nothing after the step that broke it matters.
    best.steps.truncate(first.at + 1);
    let fails = |history: &History| {
        let played = play(history, false);
        (way(&played.wrong) == Some(law)).then_some(played.at)
    };
    if fails(&best).is_none() {
        best = history.clone();
    }
    let mut size = best.steps.len().div_ceil(2);
    loop {
        let (mut at, mut shorter) = (0, false);
        while at < best.steps.len() {
            if begun.elapsed() > most {
                return best;
            }
            let mut without = best.clone();
            without.steps.drain(at..(at + size).min(best.steps.len()));
            if let Some(broken) = fails(&without) {
                without.steps.truncate(broken + 1);
                (best, shorter) = (without, true);
            } else {
                at += size;
            }
        }
        match (size, shorter) {
            (1, false) => return best,
            (1, true) => {}
            _ => size = size.div_ceil(2),
        }
    }
}
