//! What a handler logs goes to its run. `SIM_LOG=debug` for more of it.

use std::cell::RefCell;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

use super::doors::Door;

thread_local! {
    /// The run of this thread.
    static RUN: RefCell<Option<Door>> = const { RefCell::new(None) };
}

struct Runs;

impl Log for Runs {
    fn enabled(&self, _: &Metadata) -> bool {
        RUN.with_borrow(Option::is_some)
    }

    fn log(&self, record: &Record) {
        RUN.with_borrow(|door| {
            let Some(door) = door else { return };
            let line = format!("{:5} {}", record.level(), record.args());
            let mut inner = door.shared.lock();
            inner.note(&door.node, door.run, &line);
            if let Some(run) = inner.runs.get_mut(&door.run) {
                run.log += &format!("{line}\n");
            }
        });
    }

    fn flush(&self) {}
}

/// What this thread logs from now on is this run's.
pub fn enter(door: &Door) {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        let level = std::env::var("SIM_LOG").ok().and_then(|level| level.parse().ok());
        log::set_logger(&Runs).unwrap();
        log::set_max_level(level.unwrap_or(LevelFilter::Info));
    });
    RUN.set(Some(door.clone()));
}

pub fn leave() {
    RUN.set(None);
}
