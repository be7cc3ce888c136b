//! The real haproxy and Caddy, where they are installed: whether they accept what is written for them.

use std::time::Duration;

use crate::outside::disk::RealDisk;
use crate::outside::doors::{Disk, Processes, Write};
use crate::outside::process::{Capture, Cmd, Error, RealProcesses};

/// Has `command` check `text`, unless the program is not installed.
pub fn accepts(command: &[&str], text: &str) {
    run(command, text, Capture::Both);
}

/// What it prints of it.
pub fn run(command: &[&str], text: &str, capture: Capture) -> Option<String> {
    let own = format!("handler-{}-{}-{:?}", command[0], std::process::id(), std::thread::current().id());
    let folder = std::env::temp_dir().join(own);
    let file = folder.join("file");
    RealDisk.create_folders(&folder).unwrap();
    RealDisk.write(&file, text.as_bytes(), Write::Over, false).unwrap();
    let cmd = Cmd::new(command[0], Duration::from_secs(60)).args(&command[1..]).arg(&file);
    let ran = match RealProcesses.run(&cmd.env("XDG_DATA_HOME", &folder).env("XDG_CONFIG_HOME", &folder), capture) {
        // The laboratory has both, and insists.
        Err(Error::NotFound { cmd }) if std::env::var_os("REAL_PROXIES").is_none() => {
            eprintln!("LEFT OUT: `{cmd}`: not installed");
            None
        }
        Err(error) => panic!("{text}\n{error}"),
        Ok(printed) => Some(printed),
    };
    RealDisk.remove_all(&folder).unwrap();
    ran
}

pub const HAPROXY: &[&str] = &["haproxy", "-c", "-f"];
pub const CADDY: &[&str] = &["caddy", "validate", "--adapter", "caddyfile", "--config"];
pub const ADAPT: &[&str] = &["caddy", "adapt", "--adapter", "caddyfile", "--config"];
