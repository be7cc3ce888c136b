//! The only place that starts a process.
//!
//! A command is a value: program, arguments, folder, environment, deadline. Its standard input is empty and its output goes
//! to an unlinked temporary file, so that neither a noisy child nor a grandchild that keeps a pipe open can hang the handler.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use log::{Level, debug, info, log_enabled};

use super::cmd::kept_back;
pub use super::cmd::{Bounds, Capture, Cmd, Error};
use super::disk;
use super::doors::{Apart, Processes, World};

/// How much of a failed command's output is quoted.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: u64 = 4096;
/// Between the polite signal and the one that cannot be ignored.
const GRACE: Duration = Duration::from_secs(5);

impl Cmd {
    /// For what changes something: logged at info, both streams live in the log at debug, an error quotes the last lines of both.
    pub fn run(&self, world: &World) -> Result<(), Error> {
        info!("run: {self}");
        self.by(world, Capture::Nothing).map(drop)
    }

    /// For what asks: logged at debug, answers standard output; an error quotes the last lines of both streams.
    pub fn read(&self, world: &World) -> Result<String, Error> {
        debug!("run: {self}");
        self.by(world, Capture::Stdout)
    }

    /// Like [`read`](Cmd::read), but answers both streams, as they came.
    pub fn both(&self, world: &World) -> Result<String, Error> {
        debug!("run: {self}");
        self.by(world, Capture::Both)
    }

    fn by(&self, world: &World, capture: Capture) -> Result<String, Error> {
        match world.mark() {
            Some(mark) => world.processes.run(&self.clone().env(MARK, mark), capture),
            None => world.processes.run(self, capture),
        }
    }
}

/// Processes of this machine.
pub struct RealProcesses;

impl Processes for RealProcesses {
    fn run(&self, it: &Cmd, capture: Capture) -> Result<String, Error> {
        let cmd = || it.to_string();
        let start_error = |source| Error::Start { cmd: cmd(), source };
        if let Some(cwd) = it.cwd.as_ref().filter(|cwd| !cwd.is_dir()) {
            return Err(Error::NoFolder { cmd: cmd(), cwd: cwd.clone() });
        }
        let mut err = unlinked_file().map_err(start_error)?;
        // Unless standard output is wanted alone, both streams share one file, so that the lines stand in their order.
        let mut out = if capture == Capture::Stdout { unlinked_file() } else { err.try_clone() }.map_err(start_error)?;
        let mut command = Command::new(&it.program);
        let shown = std::env::vars_os().filter(|(name, _)| it.passes(&name.to_string_lossy()));
        command.args(&it.args).env_clear().envs(shown).envs(it.env.iter().map(|(name, value)| (&**name, value)));
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(out.try_clone().map_err(start_error)?).stderr(err.try_clone().map_err(start_error)?);
        if let Some(cwd) = &it.cwd {
            command.current_dir(cwd);
        }
        #[allow(clippy::disallowed_methods, reason = "the one place")]
        let spawned = command.spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound { cmd: cmd() }),
            Err(error) => return Err(start_error(error)),
        };
        if let Some(bounds) = it.bounds {
            bound(&child, bounds);
        }
        let mut live = Live { of: it, file: err.try_clone().ok(), at: 0, partial: String::new() };
        let ended = wait(&mut child, it.deadline, &mut live).map_err(start_error)?;
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
                let mut tail = tail_of(it, &mut err);
                if tail.is_empty() {
                    tail = tail_of(it, &mut out);
                }
                Err(match failed {
                    None => Error::Timeout { cmd: cmd(), deadline: it.deadline, tail },
                    Some(status) => match status.code() {
                        Some(code) => Error::Exit { cmd: cmd(), code, tail },
                        None => Error::Signal { cmd: cmd(), signal: status.signal().unwrap_or(0), tail },
                    },
                })
            }
        }
    }

    fn start_apart(&self, args: &[String], seen: bool) -> Result<Box<dyn Apart>, Error> {
        let mut command = Command::new("/proc/self/exe");
        // So that `ps` shows whose it is.
        command.arg0("handler").args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(if seen { Stdio::inherit() } else { Stdio::null() });
        // In a session of its own: whoever ends the process group of this one, or hangs up its terminal, ends nothing that was started.
        // SAFETY: between fork and exec; the call takes no memory and no lock.
        unsafe {
            command.pre_exec(|| match libc::setsid() {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        #[allow(clippy::disallowed_methods, reason = "the one place")]
        let spawned = command.spawn();
        let child = spawned.map_err(|source| Error::Start { cmd: format!("handler {}", args.join(" ")), source })?;
        Ok(Box::new(Running(child)))
    }

    fn end_marked(&self, mark: &str) -> Result<(), Error> {
        let mark = [MARK.as_bytes(), b"=", mark.as_bytes()].concat();
        let is_marked = |pid: &libc::pid_t| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(); // of nobody, or of another user
            environment.split(|byte| *byte == 0).any(|variable| variable == mark)
        };
        let start = Instant::now();
        let mut told = Vec::new();
        loop {
            let all = fs::read_dir("/proc").map_err(|source| Error::NoProc { source })?.flatten();
            let left: Vec<_> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect();
            if left.is_empty() {
                return Ok(());
            }
            if start.elapsed() > GRACE * 4 {
                return Err(Error::Orphans { pids: left });
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
}

/// A program that talks with the person at this terminal, with one file, until it ends. Its words are parted by spaces.
pub fn in_front(program: &str, file: &Path) -> io::Result<()> {
    let mut words = program.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    std::env::vars_os().filter(|(name, _)| kept_back(&name.to_string_lossy())).for_each(|(name, _)| {
        command.env_remove(name);
    });
    #[allow(clippy::disallowed_methods, reason = "the one place")]
    let ended = command.args(words).arg(file).status();
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(io::Error::other(format!("{program}: {status}"))),
        Err(why) => Err(io::Error::other(format!("{program}: {why}"))),
    }
}

struct Running(Child);

impl Apart for Running {
    fn wait(&mut self) -> Option<i32> {
        self.0.wait().ok()?.code()
    }
}

/// From right after its start on. Where it has ended already there is nothing to bound.
fn bound(child: &Child, bounds: Bounds) {
    let limit = |most| libc::rlimit { rlim_cur: most, rlim_max: most };
    let (memory, output) = (limit(bounds.memory), limit(bounds.output));
    // SAFETY: both limits outlive the calls, which write nothing.
    unsafe {
        libc::prlimit(child.id() as libc::pid_t, libc::RLIMIT_DATA, &raw const memory, std::ptr::null_mut());
        libc::prlimit(child.id() as libc::pid_t, libc::RLIMIT_FSIZE, &raw const output, std::ptr::null_mut());
    }
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
struct Live<'c> {
    of: &'c Cmd,
    file: Option<File>,
    at: u64,
    partial: String,
}

impl Live<'_> {
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
                debug!("| {}", self.of.told(self.partial[..end].trim_end()));
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
    let file = OpenOptions::new().read(true).append(true).create_new(true).mode(disk::PRIVATE).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The last lines of a file, without secrets.
fn tail_of(of: &Cmd, file: &mut File) -> String {
    let mut bytes = Vec::new();
    let length = file.metadata().map(|data| data.len()).unwrap_or(0);
    let read = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).and_then(|_| file.read_to_end(&mut bytes));
    if let Err(error) = read {
        return format!("(its output cannot be read: {error})");
    }
    let text = of.told(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// In the environment of all that a run starts, and of what that starts in turn.
const MARK: &str = "HANDLER_RUN";

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Cmd {
        Cmd::new("sh", Duration::from_secs(20)).args(["-c", script])
    }

    fn read(cmd: &Cmd) -> Result<String, Error> {
        RealProcesses.run(cmd, Capture::Stdout)
    }

    #[test]
    fn output_is_read_and_errors_quote_the_last_lines() {
        assert_eq!(read(&sh("echo out; echo err >&2")).unwrap(), "out\n");
        let error = RealProcesses.run(&sh("echo one; echo two >&2; exit 3"), Capture::Nothing).unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'echo one; echo two >&2; exit 3'` exited with 3; its last lines:\none\ntwo");
        let error = read(&sh("kill -9 $$")).unwrap_err().to_string();
        assert_eq!(error, "`sh -c 'kill -9 $$'` was killed by signal 9 and printed nothing");
    }

    #[test]
    fn situations_have_their_own_sentences() {
        let error = read(&Cmd::new("no-such-program", GRACE)).unwrap_err().to_string();
        assert_eq!(error, "`no-such-program`: the program is not installed or not in PATH");
        let error = read(&Cmd::new("true", GRACE).cwd("/no/such")).unwrap_err().to_string();
        assert_eq!(error, "`true`: its folder /no/such is missing");
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let cmd = Cmd::new("sh", Duration::from_millis(100)).args(["-c", "echo begun; sleep 60 & sleep 60"]);
        let error = read(&cmd).unwrap_err();
        assert!(matches!(&error, Error::Timeout { tail, .. } if tail == "begun"), "{error}");
    }

    #[test]
    fn bounds_end_it() {
        let bounds = Bounds { memory: 64 << 20, output: 100_000 };
        // It looks first, since the bounds come right after its start.
        let noisy = sh("sleep 0.2; dd if=/dev/zero bs=1000 count=1000").bounds(bounds);
        assert!(matches!(read(&noisy).unwrap_err(), Error::Exit { .. } | Error::Signal { .. }));
        let greedy = sh("sleep 0.2; dd if=/dev/zero of=/dev/null bs=100M count=1").bounds(bounds);
        let error = read(&greedy).unwrap_err().to_string();
        assert!(error.contains("memory"), "{error}");
        assert_eq!(read(&sh("sleep 0.2; echo fine").bounds(bounds)).unwrap(), "fine\n");
    }

    #[test]
    fn a_child_does_not_see_how_consul_is_spoken_to() {
        let shown = |cmd: Cmd| read(&cmd.env("CONSUL_HTTP_TOKEN", "given")).unwrap();
        // The test runner's own environment has what cargo gives it, and PATH.
        let all = shown(sh("env"));
        assert!(all.contains("CARGO") && all.contains("PATH=") && all.contains("CONSUL_HTTP_TOKEN=given"), "{all}");
        let few = shown(sh("env").sees(&["PATH"]));
        assert!(few.contains("PATH=") && !few.contains("CARGO"), "{few}");
    }

    #[test]
    fn a_grandchild_that_keeps_the_output_open_is_not_waited_for() {
        // Waiting for it would pass the deadline, which is an error.
        assert_eq!(read(&sh("sleep 30 & echo done")).unwrap(), "done\n");
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // what a killed run has left
    fn orphans_of_a_run_are_ended_and_no_others() {
        let started = |journal: &str| {
            let child = Command::new("sh").args(["-c", "sleep 60 & wait"]).env(MARK, journal).process_group(0).spawn().unwrap();
            let environment = || fs::read(format!("/proc/{}/environ", child.id())).unwrap();
            while !String::from_utf8_lossy(&environment()).contains(journal) {} // it is only just becoming sh
            child
        };
        let (mine, mut other) = (format!("/journal/{}", std::process::id()), started("/journal/another"));
        let mut orphan = started(&mine);
        RealProcesses.end_marked(&mine).unwrap();
        assert_eq!(orphan.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(other.try_wait().unwrap(), None);
        RealProcesses.end_marked("/journal/another").unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_command_is_shown_without_secrets() {
        let cmd = Cmd::new("git", GRACE).args(["clone", "--", "https://me:secret@host/r", "/a b"]);
        assert_eq!(cmd.to_string(), "git clone -- https://***@host/r '/a b'");
    }
}
