//! What is kept of an application's sets, by their age: `1h:1d:1w:4w:1y` keeps all of the last hour, of the last day one for each hour, of the
//! last week one for each day, and so on; nothing that is older than the last. Pure.
//!
//! What must hold: a wrong clock takes nothing away that a right one would keep. So ages are counted from the newest set and not from the
//! present, which may be a year later; what is of a time to come stays, and counts for nothing. And beside the calendar there is what was
//! [`counted`] from set to set, in which a clock that jumps is no time at all: a set is no older than the younger of both says.

use std::fmt;

use super::time::Time;

pub const DEFAULT: &str = "1h:1d:1w:4w:1y";

const DAY: i64 = 24 * 3600;

/// Seconds, by a count of its own, until a set that comes after the one `before`. A clock that was put back counts for nothing; nor does one that
/// was put forth by days, or a time without sets, which cannot be told from that. `every`: minutes from one set to the next.
pub fn counted(before: Option<(Time, i64)>, taken: Time, every: u32) -> i64 {
    let Some((time, counted)) = before else { return taken.secs };
    let most = 2 * DAY.max(60 * i64::from(every));
    let passed = taken.secs - time.secs;
    counted + if (0..=most).contains(&passed) { passed } else { 0 }
}

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

    /// Which of the sets go, by when they were taken and what was counted until then: their numbers. `stands_for`: whether a later one has all
    /// that an earlier one has; what none stands for is kept to the end.
    pub fn goes(&self, sets: &[(Time, i64)], now: Time, stands_for: impl Fn(usize, usize) -> bool) -> Vec<usize> {
        let past = || sets.iter().enumerate().filter(|(_, (time, _))| *time <= now);
        let newest = past().map(|(_, (time, _))| time.secs).max();
        let most = past().map(|(_, (_, counted))| *counted).max();
        let Some((newest, most)) = newest.zip(most) else { return Vec::new() };
        let goes = |at: usize, (time, counted): &(Time, i64)| {
            let age = (newest - time.secs).min(most - counted);
            let Some(longer) = self.units.iter().position(|unit| age <= *unit) else { return true };
            let Some(unit) = longer.checked_sub(1).map(|shorter| self.units[shorter]) else { return false };
            // The newest of each hour, day …, which all clocks begin at the same time.
            let same = |other: &Time| other.secs.div_euclid(unit) == time.secs.div_euclid(unit);
            past().any(|(number, (other, _))| same(other) && (other.secs, number) > (time.secs, at) && stands_for(number, at))
        };
        past().filter(|(at, set)| goes(*at, set)).map(|(at, _)| at).collect()
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

    /// Writes one down, as the book does.
    fn push(sets: &mut Vec<(Time, i64)>, secs: i64) {
        sets.push((at(secs), counted(sets.last().copied(), at(secs), 15)));
    }

    fn purge(rule: &Rule, sets: &mut Vec<(Time, i64)>, now: i64) {
        let goes = rule.goes(sets, at(now), |_, _| true);
        for number in goes.iter().rev() {
            sets.remove(*number);
        }
        assert_eq!(rule.goes(sets, at(now), |_, _| true).len(), 0, "what stays, stays");
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
            push(&mut sets, now);
            purge(&rule, &mut sets, now + 3);
            assert!(sets.len() <= 2 + 24 + 7 + 4 + 14, "{}", sets.len());
            assert_eq!(sets.last(), Some(&(at(now), now)));
            for pair in sets.windows(2) {
                let (age, gap) = (now - pair[0].0.secs, pair[1].0.secs - pair[0].0.secs);
                let unit = rule.units.iter().rev().find(|unit| age > **unit).copied().unwrap_or(HOUR);
                assert!(gap <= 2 * unit, "{gap} s without a set, {age} s ago");
            }
        }
        let oldest = BEGIN + 400 * DAY - sets[0].0.secs;
        assert!((330 * DAY..=366 * DAY).contains(&oldest), "{} days", oldest / DAY);
    }

    /// After a year without power the newest are still there, and those before them as they were.
    #[test]
    fn time_without_sets_makes_none_older() {
        let (rule, mut sets) = (Rule::default(), Vec::new());
        for tick in 0..200 {
            push(&mut sets, BEGIN + tick * HOUR / 4);
            purge(&rule, &mut sets, BEGIN + tick * HOUR / 4);
        }
        let before = sets.clone();
        purge(&rule, &mut sets, BEGIN + 700 * DAY);
        assert_eq!(sets, before);
        // Nor have the first ones after it made them older than they were.
        for tick in 0..3 {
            push(&mut sets, BEGIN + 700 * DAY + tick * HOUR / 4);
            purge(&rule, &mut sets, BEGIN + 700 * DAY + tick * HOUR / 4);
        }
        assert!(before.len() - (sets.len() - 3) <= 3, "{} of {}", sets.len() - 3, before.len());
    }

    #[test]
    fn what_no_later_one_has_is_kept_to_the_end() {
        let (rule, mut sets) = (Rule::default(), Vec::new());
        for day in 0..=370 {
            push(&mut sets, BEGIN + day * DAY);
            let goes = rule.goes(&sets, at(BEGIN + day * DAY), |_, at| at != 1);
            assert_eq!(goes.contains(&1), day > 366, "{day}");
        }
    }

    /// For as long as nobody sees it: nothing goes by it, neither while it is wrong nor when it is right again. Then all goes on as ever.
    #[test]
    fn a_clock_that_is_ahead() {
        let rule = Rule::default();
        for (ahead, wrong) in [(600 * DAY, 3), (600 * DAY, 4 * 24 * 10), (3 * DAY, 3), (-600 * DAY, 100)] {
            let (mut sets, mut all) = (Vec::new(), 0);
            for tick in 0..24 {
                push(&mut sets, BEGIN + tick * HOUR);
            }
            let (before, mut now) = (sets.clone(), BEGIN + 23 * HOUR);
            for tick in 0..wrong + 40 * 4 * 24 {
                now += HOUR / 4;
                let clock = if tick < wrong { now + ahead } else { now };
                push(&mut sets, clock);
                purge(&rule, &mut sets, clock);
                all = all.max(sets.len());
                let passed = now - BEGIN - 23 * HOUR;
                let there = before.iter().filter(|set| sets.contains(set) || BEGIN + 23 * HOUR + passed - set.0.secs > DAY).count();
                assert_eq!(there, before.len(), "{ahead} {passed}");
            }
            assert!(sets.len() < 60 + wrong as usize, "{ahead}: {} stay, of {all}", sets.len());
        }
    }

    #[test]
    fn what_is_of_a_time_to_come_stays_and_counts_for_nothing() {
        let rule = Rule::default();
        let mut sets = Vec::new();
        [0, 10, 20, 30 * DAY, 500 * DAY, 500 * DAY + 1].iter().for_each(|since| push(&mut sets, BEGIN + since));
        // It has not come by one jump, nor by two.
        for now in [-1, 30, 500 * DAY, 500 * DAY + 1] {
            assert_eq!(rule.goes(&sets, at(BEGIN + now), |_, _| true).len(), 0, "{now}");
        }
        // Of an older handler, which counted nothing, the calendar alone tells.
        let sets: Vec<(Time, i64)> = sets.iter().map(|(time, _)| (*time, time.secs)).collect();
        assert_eq!(rule.goes(&sets, at(BEGIN + 30), |_, _| true).len(), 0);
        assert_eq!(rule.goes(&sets, at(BEGIN + 500 * DAY + 1), |_, _| true), [0, 1, 2, 3]);
    }

    /// A clock that is put back and forth by up to a week: nothing of the last hour ever goes, and of what stays it is the newest of its hour.
    #[test]
    fn a_clock_that_jumps() {
        let (rule, mut sets, mut state) = (Rule::default(), Vec::new(), 1u64);
        let mut now = BEGIN;
        for _ in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = (state >> 33) as i64;
            now += match draw % 50 {
                0 => draw % (7 * DAY) - 5 * DAY,
                _ => 5 * MINUTE + draw % (20 * MINUTE),
            };
            push(&mut sets, now);
            let before = sets.clone();
            purge(&rule, &mut sets, now);
            for (gone, _) in before.iter().filter(|set| !sets.contains(set)) {
                assert!(gone.secs < now - HOUR, "{} s ago", now - gone.secs);
                let bucket = |time: &Time| time.secs.div_euclid(HOUR);
                let newer = before.iter().any(|(other, _)| other.secs > gone.secs && bucket(other) == bucket(gone));
                assert!(newer || now - gone.secs > DAY, "{} s ago", now - gone.secs);
            }
        }
    }
}
