//! Random histories: from a seed, what happens is drawn as data, its probabilities, too; then it is played; after each step the laws are
//! looked at; then the faults stop, and everything must come to rest. One that breaks a law is made shorter, and printed.
//!
//! `make chaos`: `SEED=` for one of them, with all that happened in a file; `RUNS=` for how many, from `FROM=` on; `STEPS=` for how long.
//! With `FIRST=1` the first that breaks a law is the last, and is not made shorter: make mutants.

mod draw;
mod laws;
mod play;
mod shrink;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use draw::{History, KINDS, draw};
use play::{Counts, play};
use shrink::{shrink, way};

const STEPS: u64 = 40;
const RUNS: u64 = 120;
/// For one history.
const SHRINK: Duration = Duration::from_secs(40);
/// Of those that break a law, so many are shown.
const SHOWN: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
}

/// Why it is not as it should be, if so.
fn broken(history: &History, counts: &Mutex<Counts>) -> Option<&'static str> {
    match catch_unwind(AssertUnwindSafe(|| play(history, false))) {
        Ok(played) => {
            counts.lock().unwrap().add(&played.counts);
            way(&played.wrong)
        }
        Err(_) => Some("the test panicked"),
    }
}

/// What is to be said of a history that breaks a law, and how to see it again.
fn told(history: &History, most: Duration) -> String {
    let short = shrink(history, most);
    let played = play(&short, true);
    let mut text = format!("======== SEED={} STEPS={}: make chaos SEED={0} STEPS={1}\n", history.seed, steps());
    for (law, what) in &played.wrong {
        writeln!(text, "{law}: {what}").unwrap();
    }
    writeln!(
        text,
        "shrunk to {} steps, with {} applications{}{}:",
        short.steps.len(),
        short.apps,
        short.blind.map_or(String::new(), |blind| format!("; node{} does not see its snapshots", blind + 1)),
        if short.stays_dead { "; who is dead in the end stays dead" } else { "" }
    )
    .unwrap();
    for (at, step) in short.steps.iter().enumerate() {
        writeln!(text, "{} {at:2} {step:?}", if at == played.at { ">" } else { " " }).unwrap();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}.log", history.seed));
    match std::fs::write(&path, format!("{text}\n{}", played.dump)) {
        Ok(()) => text + &format!("all that happened: {}\n", path.display()),
        Err(why) => text + &format!("{}: {why}\n", path.display()),
    }
}

fn steps() -> u64 {
    number("STEPS").unwrap_or(STEPS)
}

/// In percent of all.
fn table(counts: &Counts, text: &mut String) -> Vec<String> {
    let mut rare = Vec::new();
    let mut rows = |what: &str, rows: Vec<(String, u64)>| {
        let all: u64 = rows.iter().map(|(_, count)| count).sum();
        writeln!(text, "{what}: {all}").unwrap();
        for (name, count) in rows {
            let percent = count as f64 * 100.0 / all.max(1) as f64;
            writeln!(text, "    {percent:5.1} %  {name}").unwrap();
            rare.extend((percent < 1.0).then(|| format!("{name}: {percent:.1} %")));
        }
    };
    rows("steps", KINDS.iter().zip(counts.steps).map(|(name, count)| (name.to_string(), count)).collect());
    let (mut at, mut how) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for ((kind, act), count) in &counts.faults {
        *at.entry(format!("{kind:?}")).or_default() += count;
        *how.entry(act.to_string()).or_default() += count;
    }
    rows("faults, by what they strike", at.into_iter().collect());
    rows("faults, by what they do", how.into_iter().collect());
    let Counts { done, failed, takeovers, deaths, .. } = counts;
    writeln!(text, "{done} orders done ({takeovers} of them takeovers), {failed} failed, {deaths} power failures").unwrap();
    rare
}

#[test]
fn random_histories_keep_the_laws_and_come_to_rest() {
    let begun = Instant::now();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => number("FROM").unwrap_or(0)..number("FROM").unwrap_or(0) + number("RUNS").unwrap_or(RUNS),
    };
    let (next, counts, wrong) = (AtomicU64::new(seeds.start), Mutex::new(Counts::default()), Mutex::new(Vec::new()));
    let (shown, first) = (AtomicUsize::new(0), number("FIRST").is_some());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || (first && !wrong.lock().unwrap().is_empty()) {
                        return;
                    }
                    let history = draw(seed, steps() as usize);
                    let Some(law) = broken(&history, &counts) else { continue };
                    if !first && shown.fetch_add(1, Ordering::Relaxed) < SHOWN {
                        println!("{}", told(&history, SHRINK));
                    }
                    wrong.lock().unwrap().push((law, seed));
                }
            });
        }
    });
    let mut text = String::new();
    let rare = table(&counts.into_inner().unwrap(), &mut text);
    let all = seeds.end - seeds.start;
    println!("{text}{all} histories of {} steps in {:.1} s", steps(), begun.elapsed().as_secs_f32());
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "{} of {all} histories break a law: {wrong:?}", wrong.len());
    assert!(all < RUNS || rare.is_empty(), "under 1 %: {rare:?}");
}
