//! The only place that starts a process.
//!
//! A command is a value: program, arguments, folder, environment, deadline. Its standard input is empty and its output goes
//! to an unlinked temporary file, so that neither a noisy child nor a grandchild that keeps a pipe open can hang the handler.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use log::{Level, debug, info, log_enabled};

/// How much of a failed command's output is quoted.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 4096;
/// Between the polite signal and the one that cannot be ignored.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    cwd: Option<PathBuf>,
    env: Vec<(&'static str, OsString)>,
    deadline: Duration,
}

#[derive(Debug)]
pub enum Error {
    NotFound { cmd: String },
    NoFolder { cmd: String, cwd: PathBuf },
    Start { cmd: String, source: io::Error },
    Exit { cmd: String, code: i32, tail: String },
    Signal { cmd: String, signal: i32, tail: String },
    Timeout { cmd: String, deadline: Duration, tail: String },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let tail = match self {
            Error::NotFound { cmd } => return write!(f, "`{cmd}`: the program is not installed or not in PATH"),
            Error::NoFolder { cmd, cwd } => return write!(f, "`{cmd}`: its folder {} is missing", cwd.display()),
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
                write!(f, "`{cmd}` was stopped after {} s", deadline.as_secs_f32())?;
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

/// `text` without the passwords and tokens of its URLs (`https://user:token@host` → `https://***@host`).
pub fn redacted(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let host_end = after.find(|c: char| c == '/' || c.is_whitespace() || "'\"".contains(c)).unwrap_or(after.len());
        rest = match after[..host_end].rfind('@') {
            // A user name alone (ssh://git@host) is no secret, a token in its place (https://token@host) is.
            Some(user) if after[..user].contains(':') || !before.ends_with("ssh://") => {
                out.push_str("***");
                &after[user..]
            }
            _ => after,
        };
    }
    out + rest
}

impl Cmd {
    pub fn new(program: impl AsRef<OsStr>, deadline: Duration) -> Cmd {
        let program = program.as_ref().to_owned();
        Cmd { program, args: Vec::new(), cwd: None, env: Vec::new(), deadline }
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

    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Cmd {
        self.env.push((name, value.into()));
        self
    }

    /// For what changes something: logged at info, both streams live in the log at debug, an error quotes the last lines of both.
    pub fn run(&self) -> Result<(), Error> {
        info!("run: {self}");
        self.execute(Capture::Nothing).map(drop)
    }

    /// For what asks: logged at debug, answers standard output; an error quotes the last lines of both streams.
    pub fn read(&self) -> Result<String, Error> {
        debug!("run: {self}");
        self.execute(Capture::Stdout)
    }

    /// Like [`read`](Cmd::read), but answers both streams, as they came.
    pub fn both(&self) -> Result<String, Error> {
        debug!("run: {self}");
        self.execute(Capture::Both)
    }

    fn execute(&self, capture: Capture) -> Result<String, Error> {
        let cmd = || self.to_string();
        let start_error = |source| Error::Start { cmd: cmd(), source };
        if let Some(cwd) = self.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
            return Err(Error::NoFolder { cmd: cmd(), cwd: cwd.clone() });
        }
        let mut err = unlinked_file().map_err(start_error)?;
        // Unless standard output is wanted alone, both streams share one file, so that the lines stand in their order.
        let mut out = if capture == Capture::Stdout { unlinked_file() } else { err.try_clone() }.map_err(start_error)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).process_group(0);
        if let Some(run) = &*run_at_work() {
            command.env(RUN, run);
        }
        command.stdout(out.try_clone().map_err(start_error)?).stderr(err.try_clone().map_err(start_error)?);
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        #[allow(clippy::disallowed_methods, reason = "the one place")]
        let spawned = command.spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound { cmd: cmd() }),
            Err(error) => return Err(start_error(error)),
        };
        let mut live = Live { file: err.try_clone().ok(), at: 0, partial: String::new() };
        let ended = wait(&mut child, self.deadline, &mut live).map_err(start_error)?;
        live.forward();
        match ended {
            Some(status) if status.success() => {
                let mut text = String::new();
                if capture != Capture::Nothing {
                    let mut bytes = Vec::new();
                    out.seek(SeekFrom::Start(0)).and_then(|_| out.read_to_end(&mut bytes)).map_err(start_error)?;
                    text = String::from_utf8_lossy(&bytes).into_owned();
                }
                Ok(text)
            }
            failed => {
                let mut tail = tail_of(&mut err);
                if tail.is_empty() {
                    tail = tail_of(&mut out);
                }
                Err(match failed {
                    None => Error::Timeout { cmd: cmd(), deadline: self.deadline, tail },
                    Some(status) => match status.code() {
                        Some(code) => Error::Exit { cmd: cmd(), code, tail },
                        None => Error::Signal { cmd: cmd(), signal: status.signal().unwrap_or(0), tail },
                    },
                })
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Capture {
    Nothing,
    Stdout,
    Both,
}

/// Waits until the child ends (`Some`) or, past the deadline, ends its whole process group (`None`).
fn wait(child: &mut Child, deadline: Duration, live: &mut Live) -> io::Result<Option<ExitStatus>> {
    const SLICE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    let mut patience = deadline;
    let mut overdue = false;
    // SAFETY: the call takes no memory and gives a new descriptor, or -1 where the kernel has no such call.
    let ended = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) } as libc::c_int;
    // SAFETY: the descriptor was opened here and is nobody else's.
    let _closed = (ended >= 0).then(|| unsafe { OwnedFd::from_raw_fd(ended) });
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!overdue).then_some(status));
        }
        let elapsed = start.elapsed();
        if elapsed >= patience {
            let signal = if overdue { libc::SIGKILL } else { libc::SIGTERM };
            // SAFETY: no memory is involved; the child is not reaped yet, so its group is still the one started here.
            unsafe { libc::kill(-(child.id() as libc::pid_t), signal) };
            overdue = true;
            patience = elapsed + GRACE;
        }
        live.forward();
        // Woken by the child's end; without a descriptor, or where its lines are shown as they come, it is looked at again and again.
        let slice = if ended < 0 || log_enabled!(Level::Debug) { SLICE } else { patience.saturating_sub(elapsed) };
        let mut event = libc::pollfd { fd: ended, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which outlives the call; an entry of -1 is passed over.
        unsafe { libc::poll(&raw mut event, 1, slice.as_millis().clamp(1, 60_000) as libc::c_int) };
    }
}

/// The child's output, forwarded to the log while it runs.
struct Live {
    file: Option<File>,
    at: u64,
    partial: String,
}

impl Live {
    fn forward(&mut self) {
        if !log_enabled!(Level::Debug) {
            return;
        }
        let Some(file) = &self.file else { return };
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = std::os::unix::fs::FileExt::read_at(file, &mut buffer, self.at) {
            self.at += count as u64;
            self.partial.push_str(&String::from_utf8_lossy(&buffer[..count]));
            while let Some(end) = self.partial.find('\n') {
                debug!("| {}", redacted(self.partial[..end].trim_end()));
                self.partial.drain(..=end);
            }
        }
    }
}

fn unlinked_file() -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("handler-{}-{number}", std::process::id()));
    if path.exists() {
        fs::remove_file(&path)?; // left by a killed process of the same number
    }
    let file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The last lines of a file, without secrets.
fn tail_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let length = file.metadata().map(|data| data.len()).unwrap_or(0);
    let read = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).and_then(|_| file.read_to_end(&mut bytes));
    if let Err(error) = read {
        return format!("(its output cannot be read: {error})");
    }
    let text = redacted(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// In the environment of all that a run starts, and of what that starts in turn.
const RUN: &str = "HANDLER_RUN";
static RUN_AT_WORK: Mutex<Option<PathBuf>> = Mutex::new(None);

fn run_at_work() -> MutexGuard<'static, Option<PathBuf>> {
    RUN_AT_WORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is started from here on belongs to the run of this journal.
pub fn belongs_to(journal: &Path) {
    *run_at_work() = Some(journal.into());
}

/// Ends what a killed run has left running, and waits until it has ended: an orphan of `compose up` would start containers while they are
/// being undone.
pub fn end_orphans(journal: &Path) -> Result<(), String> {
    let mark = [RUN.as_bytes(), b"=", journal.as_os_str().as_bytes()].concat();
    let is_marked = |pid: &libc::pid_t| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(); // of nobody, or of another user
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    let start = Instant::now();
    let mut told = Vec::new();
    loop {
        let all = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?.flatten();
        let left: Vec<_> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect();
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > GRACE * 4 {
            return Err(format!("the processes {left:?}, which a killed run has left, do not end"));
        }
        for pid in left {
            let signal = if start.elapsed() > GRACE { libc::SIGKILL } else { libc::SIGTERM };
            if signal == libc::SIGKILL || !told.contains(&pid) {
                info!("ending the process {pid}, which a killed run has left");
                // SAFETY: no memory is involved.
                unsafe { libc::kill(pid, signal) };
                told.push(pid);
            }
        }
        sleep(Duration::from_millis(50));
    }
}

/// Whether a program of this name is in PATH.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh", Duration::from_secs(20)).args(["-c", script])
    }

    #[test]
    fn output_is_read_and_errors_quote_the_last_lines() {
        assert_eq!(sh("echo out; echo err >&2").read().unwrap(), "out\n");
        let error = sh("echo one; echo two >&2; exit 3").run().unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'echo one; echo two >&2; exit 3'` exited with 3; its last lines:\none\ntwo");
        let error = sh("kill -9 $$").run().unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'kill -9 $$'` was killed by signal 9 and printed nothing");
    }

    #[test]
    fn situations_have_their_own_sentences() {
        let error = Cmd::new("no-such-program", GRACE).run().unwrap_err().to_string();
        assert_eq!(error, "`no-such-program`: the program is not installed or not in PATH");
        let error = Cmd::new("true", GRACE).cwd("/no/such").run().unwrap_err().to_string();
        assert_eq!(error, "`true`: its folder /no/such is missing");
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let cmd = Cmd::new("sh", Duration::from_millis(100)).args(["-c", "echo begun; sleep 60 & sleep 60"]);
        let error = cmd.run().unwrap_err();
        assert!(matches!(&error, Error::Timeout { tail, .. } if tail == "begun"), "{error}");
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_is_not_waited_for() {
        // Waiting for it would pass the deadline, which is an error.
        assert_eq!(sh("sleep 30 & echo done").read().unwrap(), "done\n");
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // what a killed run has left
    fn orphans_of_a_run_are_ended_and_no_others() {
        let started = |journal: &str| {
            let child = Command::new("sh").args(["-c", "sleep 60 & wait"]).env(RUN, journal).process_group(0).spawn().unwrap();
            let environment = || fs::read(format!("/proc/{}/environ", child.id())).unwrap();
            while !String::from_utf8_lossy(&environment()).contains(journal) {} // it is only just becoming sh
            child
        };
        let (mine, mut other) = (format!("/journal/{}", std::process::id()), started("/journal/another"));
        let mut orphan = started(&mine);
        end_orphans(Path::new(&mine)).unwrap();
        assert_eq!(orphan.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(other.try_wait().unwrap(), None);
        end_orphans(Path::new("/journal/another")).unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn secrets_of_urls_are_not_shown() {
        for (text, expected) in [
            ("https://u:p@h/x y https://t@h/", "https://***@h/x y https://***@h/"),
            ("ssh://git@h:22/x", "ssh://git@h:22/x"),
            ("file:///a@b", "file:///a@b"),
            ("git@h:x", "git@h:x"),
        ] {
            assert_eq!(redacted(text), expected);
        }
        let cmd = Cmd::new("git", GRACE).args(["clone", "--", "https://me:secret@host/r", "/a b"]);
        assert_eq!(cmd.to_string(), "git clone -- https://***@host/r '/a b'");
    }
}
