//! UTC times as text. No time zones, no leap seconds.

use std::time::Duration;

/// Seconds and microseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    pub secs: i64,
    pub micros: u32,
}

impl Time {
    fn civil(self) -> (i64, i64, i64, i64, i64, i64) {
        // Days to a date of the proleptic Gregorian calendar, counted from 0000-03-01 in eras of 400 years.
        let (days, secs) = (self.secs.div_euclid(86_400), self.secs.rem_euclid(86_400));
        let z = days + 719_468;
        let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        (year, month, doy - (153 * mp + 2) / 5 + 1, secs / 3600, secs / 60 % 60, secs % 60)
    }

    /// `2026-11-22T17:59:22Z`
    pub fn rfc3339(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
    }

    /// `2026-11-22T175922.841943`, the record's `deploy_date`.
    pub fn deploy_date(self) -> String {
        let (y, mo, d, h, mi, s) = self.civil();
        format!("{y:04}-{mo:02}-{d:02}T{h:02}{mi:02}{s:02}.{:06}", self.micros)
    }

    /// Reads `2026-11-22T17:59:22`, with or without a fraction, whatever follows: RFC 3339 and the names of snapshots.
    pub fn parse(text: &str) -> Option<Time> {
        let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let (y, mo, d) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (h, mi, s) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let y = if mo <= 2 { y - 1 } else { y };
        let yoe = y.rem_euclid(400);
        let doy = (153 * (if mo > 2 { mo - 3 } else { mo + 9 }) + 2) / 5 + d - 1;
        let days = y.div_euclid(400) * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
        let fraction = text.get(19..).and_then(|rest| rest.strip_prefix('.')).unwrap_or("");
        let digits: String = fraction.chars().take_while(char::is_ascii_digit).chain("000000".chars()).take(6).collect();
        Some(Time { secs: days * 86_400 + h * 3600 + mi * 60 + s, micros: digits.parse().unwrap_or(0) })
    }

    /// Time from `earlier` to this one; zero when the clocks disagree.
    pub fn since(self, earlier: Time) -> Duration {
        let micros = |time: Time| time.secs * 1_000_000 + i64::from(time.micros);
        Duration::from_micros((micros(self) - micros(earlier)).max(0) as u64)
    }
}

/// `42 s`, `7 min`, `3 h 20 min`, `2 d 4 h`: an age for people.
pub fn age(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_370_362, "2026-11-22T17:59:22Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(Time { secs, micros: 0 }.rfc3339(), text);
            assert_eq!(Time::parse(text), Some(Time { secs, micros: 0 }));
        }
        let time = Time { secs: 1_795_370_362, micros: 841_943 };
        assert_eq!(time.deploy_date(), "2026-11-22T175922.841943");
        assert_eq!(Time::parse("2026-11-22T17:59:22.841943"), Some(time));
        assert_eq!(Time::parse("2026-11-22T17:59:22.841943123Z"), Some(time));
        assert_eq!(Time::parse("volume"), None);
    }

    #[test]
    fn ages_are_for_people() {
        let ages = [5, 125, 7500, 200_000].map(|s| age(Duration::from_secs(s)));
        assert_eq!(ages, ["5 s", "2 min", "2 h 5 min", "2 d 7 h"]);
    }
}
