//! git: checkouts of an application's branch. It never asks for a password, and speaks only the transports that a request may name.

use std::path::Path;
use std::time::Duration;

use super::cmd::{Cmd, Error};
use super::doors::World;
use crate::model::credential::Credential;
use crate::model::names::App;
use crate::settings::CREDENTIAL;

/// git on this node, with a deadline for each of its commands.
pub struct Git<'a> {
    pub world: &'a World,
    pub deadline: Duration,
    /// An operator's own ssh command is expected not to ask for anything either.
    pub own_ssh: bool,
    /// What the server asks for.
    pub credential: Option<Credential>,
}

impl Git<'_> {
    fn cmd(&self) -> Cmd {
        let cmd = Cmd::new("git", self.deadline).env("GIT_TERMINAL_PROMPT", "0");
        let cmd = cmd.env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file").env("LC_ALL", "C");
        if self.own_ssh { cmd } else { cmd.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes") }
    }

    /// One that may speak to the server. When that asks, git starts this program as its credential helper, by a shell of its own; for the
    /// credential's server alone, whatever submodules and redirections lead to.
    ///
    /// The secret goes by the environment, which only this user and root can read, and which ends with git. A file of mode 0600 would be no
    /// safer, and one more thing that a kill or a power failure leaves behind.
    fn asked(&self) -> Cmd {
        let cmd = self.cmd();
        let Some(credential) = &self.credential else { return cmd };
        let helper = format!("credential.{}.helper=", credential.site);
        // Otherwise the node's own helpers would answer first, and be told to remember ours. A name alone may be the user of one of theirs.
        let cmd = if credential.password.is_empty() { cmd } else { cmd.args(["-c", &*helper]) };
        // By the process: the program's file may be replaced or moved while it runs.
        let cmd = cmd.arg("-c").arg(format!("{helper}/proc/{}/exe credential", self.world.disk.process()));
        cmd.env(CREDENTIAL, credential.to_env())
    }

    /// Clones the branch's newest commit into `folder`, which must not exist; answers the commit.
    pub fn clone(&self, app: &App, folder: &Path) -> Result<String, Error> {
        // git writes the URL into the checkout.
        let repo = app.repo.bare();
        let options = ["clone", "--quiet", "--depth", "1", "--single-branch", "--branch", &*app.branch, "--", &*repo];
        self.asked().args(options).args([folder]).run(self.world)?;
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
        self.asked().args(["fetch", "--quiet", "--depth", "1", "origin", commit]).cwd(folder).run(self.world)?;
        self.asked().args(["checkout", "--quiet", "--detach", commit]).cwd(folder).run(self.world)
    }
}
