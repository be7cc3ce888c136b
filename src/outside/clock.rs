//! The system's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::doors::Clock;
use crate::model::time::Time;

pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Time { secs: since.as_secs() as i64, micros: since.subsec_micros() }
    }

    fn uptime(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it is written to as long as the call lasts. Linux has had this clock for fifteen years.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
