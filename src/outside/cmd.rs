//! A command as a value, and how one ends.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::text::redacted;
use crate::model::variables::{Variables, hidden};

#[derive(Clone, Debug)]
pub struct Cmd {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub cwd: Option<PathBuf>,
    pub env: Vec<(Cow<'static, str>, OsString)>,
    /// What is shown of nothing that it prints.
    pub secrets: Vec<String>,
    /// What it sees of this process's environment: these names (`DOCKER_*`: all that begin so). `None`: all but what is [`kept_back`].
    pub sees: Option<&'static [&'static str]>,
    pub bounds: Option<Bounds>,
    pub deadline: Duration,
}

/// What a command may use, in bytes: the kernel sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub memory: u64,
    /// Also of any file that it writes.
    pub output: u64,
}

/// No child gets what Consul is spoken to with: no script of a repository, and nothing that git or compose starts.
pub fn kept_back(name: &str) -> bool {
    name.starts_with("CONSUL_")
}

#[derive(Debug)]
pub enum Error {
    NotFound {
        cmd: String,
    },
    NoFolder {
        cmd: String,
        cwd: PathBuf,
    },
    Start {
        cmd: String,
        source: io::Error,
    },
    Exit {
        cmd: String,
        code: i32,
        tail: String,
    },
    Signal {
        cmd: String,
        signal: i32,
        tail: String,
    },
    Timeout {
        cmd: String,
        deadline: Duration,
        tail: String,
    },
    /// It says that all went well, and something else than it was asked for.
    Unexpected {
        cmd: String,
        said: String,
    },
    /// What a killed run has left does not end.
    Orphans {
        pids: Vec<i32>,
    },
    /// Which processes there are cannot be told.
    NoProc {
        source: io::Error,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let tail = match self {
            Error::NotFound { cmd } => return write!(f, "`{cmd}`: the program is not installed or not in PATH"),
            Error::NoFolder { cmd, cwd } => return write!(f, "`{cmd}`: its folder {} is missing", cwd.display()),
            Error::Unexpected { cmd, said } => return write!(f, "`{cmd}` answered {said:?}"),
            Error::Orphans { pids } => return write!(f, "the processes {pids:?}, which a killed run has left, do not end"),
            Error::NoProc { source } => return write!(f, "/proc: {source}"),
            Error::Start { cmd, source } => return write!(f, "`{cmd}`: could not be started: {source}"),
            Error::Exit { cmd, code, tail } => {
                write!(f, "`{cmd}` exited with {code}")?;
                tail
            }
            Error::Signal { cmd, signal, tail } => {
                write!(f, "`{cmd}` was killed by signal {signal}")?;
                tail
            }
            Error::Timeout { cmd, deadline, tail } => {
                write!(f, "`{cmd}` was stopped after {} s", deadline.as_secs_f64())?;
                tail
            }
        };
        if tail.is_empty() { write!(f, " and printed nothing") } else { write!(f, "; its last lines:\n{tail}") }
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let words = std::iter::once(&self.program).chain(&self.args);
        let line: Vec<String> = words.map(|word| quoted(&redacted(&word.to_string_lossy()))).collect();
        write!(f, "{}", line.join(" "))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%*".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>, deadline: Duration) -> Cmd {
        let program = program.as_ref().to_owned();
        Cmd { program, args: Vec::new(), cwd: None, env: Vec::new(), secrets: Vec::new(), sees: None, bounds: None, deadline }
    }

    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, args: I) -> Cmd {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn arg(self, arg: impl AsRef<OsStr>) -> Cmd {
        self.args([arg])
    }

    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Cmd {
        self.cwd = Some(folder.into());
        self
    }

    /// Of this process's environment it sees these names alone.
    pub fn sees(mut self, names: &'static [&'static str]) -> Cmd {
        self.sees = Some(names);
        self
    }

    pub fn bounds(mut self, bounds: Bounds) -> Cmd {
        self.bounds = Some(bounds);
        self
    }

    /// Whether this variable of this process's environment is the child's, too.
    pub fn passes(&self, name: &str) -> bool {
        let named = |shown: &&str| shown.strip_suffix('*').map_or(*shown == name, |begin| name.starts_with(begin));
        !kept_back(name) && self.sees.is_none_or(|names| names.iter().any(named))
    }

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Cmd {
        self.env.push((name.into(), value.into()));
        self
    }

    /// In its environment, and in nothing that is told of it.
    pub fn variables(mut self, variables: &Variables) -> Cmd {
        for (name, value) in variables.iter() {
            self.env.push((name.to_string().into(), value.into()));
        }
        self.secrets = variables.secrets();
        self
    }

    /// What is told of what it has printed: without secrets.
    pub fn told(&self, text: &str) -> String {
        hidden(&self.secrets, &redacted(text))
    }
}

/// What of a command's output is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    Nothing,
    Stdout,
    /// Both streams, as they came.
    Both,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_sees() {
        let any = Cmd::new("git", Duration::ZERO);
        assert!(any.passes("GIT_SSH_COMMAND") && !any.passes("CONSUL_HTTP_TOKEN") && !any.passes("CONSUL_CLIENT_KEY"));
        let few = any.sees(&["PATH", "DOCKER_*", "CONSUL_*"]);
        assert!(few.passes("PATH") && few.passes("DOCKER_HOST") && !few.passes("PATHS") && !few.passes("COMPOSE_FILE"));
        assert!(!few.passes("CONSUL_HTTP_ADDR"), "whatever it asks for");
    }
}
