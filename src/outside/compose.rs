//! Compose 2, by its program `docker-compose`, on one checkout.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::cmd::{self, Cmd};
use super::compose_file::Service;
use super::disk;
use super::doors::World;
use serde_json::{Value, json};

use crate::model::names::Project;
use crate::settings::Timeouts;

const PROGRAM: &str = "docker-compose";
/// JSON is YAML, too.
pub const QUIET: &str = ".handler-quiet.yml";

#[derive(Debug)]
pub enum Error {
    /// Not installed, or it does not say which version it is.
    Version(cmd::Error),
    TooOld {
        version: String,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Version(error) => error.fmt(f),
            Error::TooOld { version } => {
                write!(
                    f,
                    "docker-compose is version {version:?}; Compose 2 is needed (its plugin for docker is the program, too: link it into PATH)"
                )
            }
        }
    }
}

/// Compose of this node, seen to be of a version that will do.
#[derive(Clone, Debug)]
pub struct Tool(());

impl Tool {
    pub fn find(world: &World) -> Result<Tool, Error> {
        let version = Cmd::new(PROGRAM, Duration::from_secs(60)).args(["version", "--short"]).read(world).map_err(Error::Version)?;
        if will_do(&version) { Ok(Tool(())) } else { Err(Error::TooOld { version: version.trim().into() }) }
    }
}

/// `v2.26.1`, `2.26.1-4`, `5.0.0`; not `1.29.2`.
fn will_do(version: &str) -> bool {
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major >= 2)
}

/// Whether containers that are as they should be are made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recreate {
    Changed,
    /// What should not be there, but is, stands on a volume that has been replaced.
    All,
}

/// A compose project in one of its checkouts.
#[derive(Clone, Debug)]
pub struct Checkout {
    pub project: Project,
    pub folder: PathBuf,
    /// The compose file's name in the folder.
    pub file: String,
    pub tool: Tool,
    /// Whether the file that keeps services from starting by themselves is there.
    pub quiet: bool,
}

impl Checkout {
    fn compose(&self, deadline: Duration) -> Cmd {
        let cmd = Cmd::new(PROGRAM, deadline).args(["-p", &*self.project, "-f"]).args([self.folder.join(&self.file)]);
        let cmd = if self.quiet { cmd.arg("-f").arg(self.folder.join(QUIET)) } else { cmd };
        cmd.cwd(&self.folder)
    }

    /// Writes beside the compose file that none of these services starts by itself, for [`up`](Checkout::up) to heed.
    pub fn keep_quiet(&mut self, world: &World, services: &[Service]) -> Result<(), disk::Error> {
        let never =
            |service: &Service| (service.name.clone(), json!({ "restart": "no", "deploy": { "restart_policy": { "condition": "none" } } }));
        let services: serde_json::Map<String, Value> = services.iter().map(never).collect();
        world.replace_file(&self.folder.join(QUIET), json!({ "services": services }).to_string().as_bytes(), true)?;
        self.quiet = true;
        Ok(())
    }

    pub fn pull(&self, world: &World, services: &[String], timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.pull).arg("pull").args(services).run(world)
    }

    pub fn build(&self, world: &World, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.build).arg("build").run(world)
    }

    /// Containers whose service is gone go, too.
    pub fn up(&self, world: &World, recreate: Recreate, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        let more: &[&str] = if recreate == Recreate::All { &["--force-recreate"] } else { &[] };
        self.compose(timeouts.up).args(["up", "-d", "--no-build", "--remove-orphans"]).args(more).run(world)
    }

    pub fn stop(&self, world: &World, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.stop).arg("stop").run(world)
    }

    /// The containers go, volumes stay.
    pub fn down(&self, world: &World, timeouts: &Timeouts) -> Result<(), cmd::Error> {
        self.compose(timeouts.stop).args(["down", "--remove-orphans"]).run(world)
    }

    /// One of the application's own scripts; `false`: it has none of this name.
    pub fn script(&self, world: &World, script: &str, args: &[&str], timeouts: &Timeouts) -> Result<bool, cmd::Error> {
        if !world.is_file(&self.folder.join(script)) {
            return Ok(false);
        }
        Cmd::new("sh", timeouts.script).arg(script).args(args).cwd(&self.folder).run(world).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::will_do;

    /// As `docker-compose version --short` has printed it.
    #[test]
    fn versions() {
        for (version, fine) in
            [("2.26.1-4\n", true), ("v2.24.0\n", true), ("5.0.1", true), ("1.29.2\n", false), ("", false), ("dev", false)]
        {
            assert_eq!(will_do(version), fine, "{version}");
        }
    }
}
