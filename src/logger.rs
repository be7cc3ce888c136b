//! The log: to standard error and a file, as text or JSON lines; every line of an order carries its id.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use env_logger::{Builder, Env, Target};

use crate::outside::clock::SystemClock;
use crate::outside::disk;
use crate::outside::doors::Clock;

thread_local! {
    /// The order at work in this thread.
    static ORDER: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While it lives, this thread's lines carry the order's id.
pub struct OrderGuard(Option<String>);

pub fn order(id: &str) -> OrderGuard {
    OrderGuard(ORDER.replace(Some(id.into())))
}

/// The id that a line of this thread carries now.
pub fn order_at_work() -> Option<String> {
    ORDER.with_borrow(Clone::clone)
}

impl Drop for OrderGuard {
    fn drop(&mut self) {
        ORDER.set(self.0.take());
    }
}

/// Writes to standard error and the file. That nobody reads the one is no reason to lose the other.
struct Tee(Option<File>);

impl Write for Tee {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let to_stderr = io::stderr().write_all(line);
        match &mut self.0 {
            Some(file) => file.write_all(line)?,
            None => to_stderr?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What others have printed can look like no line of ours: ours alone begin where lines begin, and no terminal is told anything.
fn as_one(text: &str) -> String {
    text.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}").replace('\n', "\n    ")
}

/// A file that is longer becomes the older one, of which there is one: a run at work goes on writing there.
const MOST: u64 = 8 << 20;

fn open(path: &Path, most: u64) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).mode(disk::PRIVATE).open(path);
    let file = open()?;
    let found = file.metadata()?;
    // Of several runs one does it, and only to what still has this name.
    if !found.is_file() || found.len() <= most || file.try_lock().is_err() {
        return Ok(file);
    }
    if fs::metadata(path).is_ok_and(|now| now.ino() == found.ino()) && fs::rename(path, path.with_added_extension("1")).is_err() {
        return Ok(file);
    }
    open()
}

/// `level` holds unless `RUST_LOG` is set. An error names the file that cannot be written; the log goes to standard error then.
pub fn init(level: &str, json: bool, path: Option<&Path>) -> Result<(), disk::Error> {
    let opened = path.map(|path| open(path, MOST).map_err(|source| disk::Error { doing: "write", path: path.into(), source }));
    let (file, error) = match opened.transpose() {
        Ok(file) => (file, None),
        Err(error) => (None, Some(error)),
    };
    Builder::from_env(Env::default().default_filter_or(level))
        .target(Target::Pipe(Box::new(Tee(file))))
        .format(move |out, record| {
            let time = SystemClock.now().rfc3339();
            let order = order_at_work();
            if json {
                                let line = serde_json::json!({"time": time, "level": record.level().as_str(), "order": order, "message": record.args().to_string()});
                writeln!(out, "{line}")
            } else {
                let order = order.as_ref().map(|id| format!("[{id}] ")).unwrap_or_default();
                writeln!(out, "{time} {:5} {order}{}", record.level(), as_one(&record.args().to_string()))
            }
        })
        .init();
    error.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_becomes_the_older_one() {
        let path = std::env::temp_dir().join(format!("handler-log-{}", std::process::id()));
        let older = path.with_added_extension("1");
        let write = |text: &str| open(&path, 10).unwrap().write_all(text.as_bytes()).unwrap();
        write("0123456789");
        // Two have it open, and both see that it is long.
        let (mut at_work, locked) = (open(&path, 10).unwrap(), open(&path, 10).unwrap());
        write("a");
        locked.lock().unwrap();
        write("b");
        drop(locked);
        write("c");
        at_work.write_all(b"d").unwrap();
        write("e");
        let text = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!((&*text(&older), &*text(&path)), ("0123456789abd", "ce"));
        fs::remove_file(&path).unwrap();
        fs::remove_file(&older).unwrap();
    }

    #[test]
    fn nobody_else_begins_a_line() {
        let forged = "its last lines:\nx\r\n2026-11-26T20:00:00Z INFO  the order is done\x1b[2K";
        assert_eq!(as_one(forged), "its last lines:\n    x\u{fffd}\n    2026-11-26T20:00:00Z INFO  the order is done\u{fffd}[2K");
    }
}
