//! git: checkouts of an application's branch. It never asks for a password, and speaks only the transports that a request may name.

use std::path::Path;
use std::time::Duration;

use super::cmd::{Cmd, Error};
use super::doors::World;
use crate::model::names::App;

/// git on this node, with a deadline for each of its commands.
pub struct Git<'a> {
    pub world: &'a World,
    pub deadline: Duration,
    /// An operator's own ssh command is expected not to ask for anything either.
    pub own_ssh: bool,
}

impl Git<'_> {
    fn cmd(&self) -> Cmd {
        let cmd = Cmd::new("git", self.deadline).env("GIT_TERMINAL_PROMPT", "0");
        let cmd = cmd.env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file").env("LC_ALL", "C");
        if self.own_ssh { cmd } else { cmd.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes") }
    }

    /// Clones the branch's newest commit into `folder`, which must not exist; answers the commit.
    pub fn clone(&self, app: &App, folder: &Path) -> Result<String, Error> {
        let options = ["clone", "--quiet", "--depth", "1", "--single-branch", "--branch", &*app.branch, "--", &*app.repo];
        self.cmd().args(options).args([folder]).run(self.world)?;
        self.head(folder)
    }

    pub fn head(&self, folder: &Path) -> Result<String, Error> {
        let cmd = self.cmd().args(["rev-parse", "HEAD"]).cwd(folder);
        let said = cmd.read(self.world)?;
        let commit = said.trim();
        // It goes into the record, by which other nodes fetch it.
        if commit.len() < 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::Unexpected { cmd: cmd.to_string(), said: said.chars().take(200).collect() });
        }
        Ok(commit.into())
    }

    /// Moves a fresh clone to `commit`, for when the branch has moved on since the commit was deployed.
    pub fn checkout(&self, folder: &Path, commit: &str) -> Result<(), Error> {
        self.cmd().args(["fetch", "--quiet", "--depth", "1", "origin", commit]).cwd(folder).run(self.world)?;
        self.cmd().args(["checkout", "--quiet", "--detach", commit]).cwd(folder).run(self.world)
    }
}
