//! The system's clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::doors::Clock;
use crate::model::time::Time;

pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time { secs: since.as_secs() as i64, micros: since.subsec_micros() }
    }

    fn uptime(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
