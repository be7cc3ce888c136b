//! What is kept of an application's sets, by their age: `1h:1d:1w:4w:1y` keeps all of the last hour, of the last day one for each hour, of the
//! last week one for each day, and so on; nothing that is older than the last. Pure.
//!
//! What must hold: a wrong clock takes nothing away that a right one would keep. So ages are counted from the newest set and not from the
//! present, which may be a year later; what is of a time to come stays, and counts for nothing. A newest one that is more than a day after the
//! one before it may have been taken while the clock was wrong: until it has a second beside it, ages are counted from the one before.

use std::fmt;

use super::time::Time;

pub const DEFAULT: &str = "1h:1d:1w:4w:1y";

const DAY: i64 = 24 * 3600;

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    text: String,
    /// Seconds, each more than the one before.
    units: Vec<i64>,
}

impl Default for Rule {
    fn default() -> Rule {
        const HOUR: i64 = 3600;
        Rule { text: DEFAULT.into(), units: vec![HOUR, 24 * HOUR, 7 * 24 * HOUR, 28 * 24 * HOUR, 365 * 24 * HOUR] }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Rule {
    /// `None`: it is none.
    pub fn parse(text: &str) -> Option<Rule> {
        let unit = |part: &str| {
            let secs = match part.chars().last()? {
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                'w' => 7 * 86_400,
                'y' => 365 * 86_400,
                _ => return None,
            };
            let number = part[..part.len() - 1].parse::<i64>().ok().filter(|number| (1..=100_000).contains(number));
            Some(number? * secs)
        };
        let units = text.split(':').map(unit).collect::<Option<Vec<i64>>>()?;
        units.is_sorted_by(|a, b| a < b).then(|| Rule { text: text.into(), units })
    }

    /// Which of the sets go, by when they were taken: their numbers.
    pub fn goes(&self, taken: &[Time], now: Time) -> Vec<usize> {
        let past = || taken.iter().enumerate().filter(|(_, time)| **time <= now);
        let mut times: Vec<i64> = past().map(|(_, time)| time.secs).collect();
        times.sort_unstable();
        let newest = match times[..] {
            [] => return Vec::new(),
            [.., before, last] if last - before > DAY => before,
            [.., last] => last,
        };
        let goes = |at: usize, time: &Time| {
            let age = newest - time.secs;
            let Some(longer) = self.units.iter().position(|unit| age <= *unit) else { return true };
            let Some(unit) = longer.checked_sub(1).map(|shorter| self.units[shorter]) else { return false };
            // The newest of each hour, day …, which all clocks begin at the same time.
            let same = |other: &Time| other.secs.div_euclid(unit) == time.secs.div_euclid(unit);
            past().any(|(number, other)| same(other) && (other.secs, number) > (time.secs, at))
        };
        past().filter(|(at, time)| goes(*at, time)).map(|(at, _)| at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const BEGIN: i64 = 1_795_478_400;

    fn at(secs: i64) -> Time {
        Time { secs, micros: 0 }
    }

    fn purge(rule: &Rule, sets: &mut Vec<Time>, now: i64) {
        let goes = rule.goes(sets, at(now));
        for number in goes.iter().rev() {
            sets.remove(*number);
        }
        assert_eq!(rule.goes(sets, at(now)).len(), 0, "what stays, stays");
    }

    #[test]
    fn rules_are_read() {
        assert_eq!(Rule::parse(DEFAULT), Some(Rule::default()));
        assert_eq!(Rule::parse("90m").unwrap().units, [90 * MINUTE]);
        for wrong in ["", "1", "h", "0h", "-1h", "1h:", "1h:1h", "1d:1h", "1M", "1h 1d", "100001h", "1h:1ü"] {
            assert_eq!(Rule::parse(wrong), None, "{wrong}");
        }
    }

    /// A set every hour for a year and a bit: few stay, and nowhere is a gap.
    #[test]
    fn a_year() {
        let (rule, mut sets) = (Rule::default(), Vec::new());
        for tick in 0..(400 * DAY / HOUR) {
            let now = BEGIN + tick * HOUR;
            sets.push(at(now));
            purge(&rule, &mut sets, now + 3);
            assert!(sets.len() <= 2 + 24 + 7 + 4 + 14, "{}", sets.len());
            assert_eq!(sets.last(), Some(&at(now)));
            for pair in sets.windows(2) {
                let (age, gap) = (now - pair[0].secs, pair[1].secs - pair[0].secs);
                let unit = rule.units.iter().rev().find(|unit| age > **unit).copied().unwrap_or(HOUR);
                assert!(gap <= 2 * unit, "{gap} s without a set, {age} s ago");
            }
        }
        let oldest = BEGIN + 400 * DAY - sets[0].secs;
        assert!((330 * DAY..=366 * DAY).contains(&oldest), "{} days", oldest / DAY);
    }

    /// After a year without power the newest are still there, and those before them as they were.
    #[test]
    fn time_without_sets_makes_none_older() {
        let (rule, mut sets) = (Rule::default(), Vec::new());
        for tick in 0..200 {
            sets.push(at(BEGIN + tick * HOUR / 4));
            purge(&rule, &mut sets, BEGIN + tick * HOUR / 4);
        }
        let before = sets.clone();
        purge(&rule, &mut sets, BEGIN + 700 * DAY);
        assert_eq!(sets, before);
    }

    #[test]
    fn what_is_of_a_time_to_come_stays_and_counts_for_nothing() {
        let rule = Rule::default();
        let times: Vec<Time> = [0, 10, 20, 30 * DAY, 500 * DAY, 500 * DAY + 1].map(|since| at(BEGIN + since)).to_vec();
        assert_eq!(rule.goes(&times, at(BEGIN + 30)).len(), 0);
        assert_eq!(rule.goes(&times, at(BEGIN - 1)).len(), 0);
        // Once it has come with a second beside it, what is too old by it goes.
        assert!(!rule.goes(&times, at(BEGIN + 500 * DAY)).contains(&3));
        assert_eq!(rule.goes(&times, at(BEGIN + 500 * DAY + 1)), [0, 1, 2, 3]);
    }

    /// A clock that is put back and forth by up to a week: nothing of the last hour ever goes, and of what stays it is the newest of its hour.
    #[test]
    fn a_clock_that_jumps() {
        let (rule, mut sets, mut state) = (Rule::default(), Vec::<Time>::new(), 1u64);
        let mut now = BEGIN;
        for _ in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = (state >> 33) as i64;
            now += match draw % 50 {
                0 => draw % (7 * DAY) - 5 * DAY,
                _ => 5 * MINUTE + draw % (20 * MINUTE),
            };
            sets.push(at(now));
            let before = sets.clone();
            purge(&rule, &mut sets, now);
            for gone in before.iter().filter(|set| !sets.contains(set)) {
                assert!(gone.secs < now - HOUR, "{} s ago", now - gone.secs);
                let bucket = |time: &Time| time.secs.div_euclid(HOUR);
                let newer = before.iter().any(|other| other.secs > gone.secs && bucket(other) == bucket(gone));
                assert!(newer || now - gone.secs > DAY, "{} s ago", now - gone.secs);
            }
        }
    }
}
