//! git: checkouts of an application's branch. It never asks for a password, and speaks only the transports that a request may name.

use std::path::Path;
use std::time::Duration;

use crate::model::order::App;
use crate::outside::process::{Cmd, Error};

fn git(deadline: Duration) -> Cmd {
    let cmd =
        Cmd::new("git", deadline).env("GIT_TERMINAL_PROMPT", "0").env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file").env("LC_ALL", "C");
    // An operator's own ssh command is expected not to ask either.
    if std::env::var_os("GIT_SSH_COMMAND").is_none() { cmd.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes") } else { cmd }
}

/// Clones the branch's newest commit into `folder`, which must not exist; answers the commit.
pub fn clone(app: &App, folder: &Path, deadline: Duration) -> Result<String, Error> {
    let options = ["clone", "--quiet", "--depth", "1", "--single-branch", "--branch", &*app.branch, "--", &*app.repo];
    git(deadline).args(options).args([folder]).run()?;
    head(folder, deadline)
}

pub fn head(folder: &Path, deadline: Duration) -> Result<String, Error> {
    Ok(git(deadline).args(["rev-parse", "HEAD"]).cwd(folder).read()?.trim().to_string())
}

/// Moves a fresh clone to `commit`, for when the branch has moved on since the commit was deployed.
pub fn checkout(folder: &Path, commit: &str, deadline: Duration) -> Result<(), Error> {
    git(deadline).args(["fetch", "--quiet", "--depth", "1", "origin", commit]).cwd(folder).run()?;
    git(deadline).args(["checkout", "--quiet", "--detach", commit]).cwd(folder).run()
}
