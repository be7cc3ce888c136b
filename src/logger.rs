//! The log: to standard error and a file, as text or JSON lines; every line of an order carries its id.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use env_logger::{Builder, Env, Target};

use crate::model::time::Time;

/// The order at work. One at a time: orders run one after another.
static ORDER: Mutex<Option<String>> = Mutex::new(None);

fn order_at_work() -> std::sync::MutexGuard<'static, Option<String>> {
    ORDER.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// While it lives, lines carry the order's id.
pub struct OrderGuard(Option<String>);

pub fn order(id: &str) -> OrderGuard {
    OrderGuard(order_at_work().replace(id.into()))
}

impl Drop for OrderGuard {
    fn drop(&mut self) {
        *order_at_work() = self.0.take();
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

/// `level` holds unless `RUST_LOG` is set. An error names the file that cannot be written; the log goes to standard error then.
pub fn init(level: &str, json: bool, path: Option<&Path>) -> Result<(), String> {
    let opened = path.map(|path| {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.map_err(|error| format!("{}: {error}; the log goes to standard error only", path.display()))
    });
    let (file, error) = match opened.transpose() {
        Ok(file) => (file, None),
        Err(error) => (None, Some(error)),
    };
    Builder::from_env(Env::default().default_filter_or(level))
        .target(Target::Pipe(Box::new(Tee(file))))
        .format(move |out, record| {
            let time = Time::now().rfc3339();
            let order = order_at_work();
            if json {
                let order = order.as_deref();
                let line = serde_json::json!({"time": time, "level": record.level().as_str(), "order": order, "message": record.args().to_string()});
                writeln!(out, "{line}")
            } else {
                let order = order.as_ref().map(|id| format!("[{id}] ")).unwrap_or_default();
                writeln!(out, "{time} {:5} {order}{}", record.level(), record.args())
            }
        })
        .init();
    error.map_or(Ok(()), Err)
}
