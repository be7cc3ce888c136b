//! The four doors of one run.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use handler::model::time::Time;
use handler::outside::doors::{
    self, Answer, Apart, Clock, Doors, Found, Lock, Net, Processes, Service, Space, Subvolume, Unanswered, Write,
};
use handler::outside::process::{self, Capture, Cmd};

use super::super::state::Reach;
use super::super::state::consul;
use super::super::state::effect::{Call, Effect, Kind, Reply};
use super::super::state::fault::Act;
use super::super::state::http::Request;
use super::disk::{Disk, Ino};
use super::schedule::{Guard, Orphan, Shared, Wait, die, die_if_killed};
use super::sim::{Start, spawn};

/// How long a program runs at most, in microseconds: half of it before it has done what it does.
const PROGRAM: u64 = 400_000;
/// And how long a service thinks.
const SERVICE: u64 = 5_000;

#[derive(Clone)]
pub struct Door {
    pub shared: Arc<Shared>,
    pub run: u64,
    pub node: String,
}

pub fn doors(door: &Door) -> Doors {
    let [processes, net, clock, disk] = [door; 4].map(|door| Box::new(door.clone()));
    Doors { processes, net, clock, disk }
}

/// What the caller hears.
enum Heard {
    Reply(Reply),
    Lost,
    TimedOut,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}

/// A run that unwinds does nothing more.
fn is_gone() -> bool {
    std::thread::panicking()
}

impl Door {
    fn pass(&self) -> Guard<'_> {
        self.shared.pass(self.run)
    }

    fn wait<'a>(&'a self, inner: Guard<'a>, time: u64) -> Guard<'a> {
        let until = inner.state.time.saturating_add(time);
        self.shared.wait(inner, self.run, Wait::Until(until))
    }

    fn kill<'a>(&self, mut inner: Guard<'a>) -> Guard<'a> {
        inner.state.kill(&self.node);
        die_if_killed(inner, self.run)
    }

    /// One call: logged, hit by the fault that is due, done, and followed by a look at what must hold.
    fn call(&self, call: Call, limit: Duration, mark: Option<&str>) -> Heard {
        let mut inner = self.pass();
        let limit = micros(limit);
        let effect = call.effect(&inner.state, &self.node);
        inner.state.log.push(effect.clone());
        inner.note(&self.node, self.run, &effect.line);
        if effect.kind == Kind::Consul && inner.state.nodes[&self.node].reach == Reach::Silent {
            drop(self.wait(inner, limit));
            return Heard::TimedOut;
        }
        let mut act = inner.faults.due(&effect);
        match &mut act {
            Some(Act::Fail(text)) => return Heard::Reply(call.failed(text)),
            Some(Act::First(act)) => {
                act(&mut inner.state);
                // Its power may have failed.
                inner = self.wait(inner, 0);
            }
            Some(Act::KillBefore) => inner = self.kill(inner),
            Some(Act::Slow(time)) => inner = self.wait(inner, micros(*time).min(limit / 2)),
            Some(Act::Hang) => {
                drop(self.wait(inner, limit));
                return Heard::TimedOut;
            }
            Some(Act::Orphan(time)) => {
                self.orphan(&mut inner, call, micros(*time), mark);
                inner = self.kill(inner);
            }
            _ => {}
        }
        inner = self.take_time(inner, call, mark, true);
        let (reply, mut inner) = self.done(inner, call);
        inner.state.check(&effect);
        self.note_reply(&mut inner, &reply);
        if matches!(act, Some(Act::KillAfter)) {
            inner = self.kill(inner);
        }
        drop(self.take_time(inner, call, None, false));
        match (act, effect.kind) {
            (Some(Act::Lose), Kind::Process) => Heard::Reply(call.failed("connection reset by peer")),
            (Some(Act::Lose), _) => Heard::Lost,
            (Some(Act::Garble(text)), _) => Heard::Reply(call.garbled(text)),
            _ => Heard::Reply(reply),
        }
    }

    /// What a program does takes a while; it goes on when its handler is killed meanwhile.
    fn take_time<'a>(&'a self, mut inner: Guard<'a>, call: Call, mark: Option<&str>, before: bool) -> Guard<'a> {
        let Call::Process { .. } = call else {
            let time = inner.random.below(SERVICE / 2);
            inner.state.time += time;
            return inner;
        };
        let time = 1_000 + inner.random.below(PROGRAM / 2);
        let until = inner.state.time + time;
        if !before {
            return self.wait(inner, time);
        }
        let (mut inner, alive) = self.shared.wait_or_die(inner, self.run, until);
        if !alive {
            // Unless it has died with its node.
            if inner.state.nodes.get(&self.node).is_some_and(|node| node.reach != Reach::Silent) {
                self.orphan(&mut inner, call, time, mark);
            }
            die(inner);
        }
        inner
    }

    fn orphan(&self, inner: &mut Guard, call: Call, time: u64, mark: Option<&str>) {
        let Call::Process { argv, cwd, env } = call else { panic!("only a process goes on without its handler") };
        let at = inner.state.time + time;
        let argv = argv.iter().map(|word| word.to_string()).collect();
        let orphan = Orphan { node: self.node.clone(), at, argv, cwd: cwd.to_owned(), env: env.clone(), mark: mark.map(str::to_owned) };
        inner.orphans.push(orphan);
    }

    /// Blocking queries wait here; Consul takes up to a sixteenth longer.
    fn done<'a>(&'a self, mut inner: Guard<'a>, call: Call) -> (Reply, Guard<'a>) {
        let wait = if let Call::Consul(request) = call { consul::waits(request).map(|(_, wait)| wait) } else { None };
        let until = inner.state.time + micros(wait.unwrap_or_default().mul_f64(33.0 / 32.0));
        let stirred = inner.state.stirred;
        loop {
            let here = &mut *inner;
            let patient = here.state.time < until && here.state.stirred == stirred;
            let disk = here.disks.get_mut(&self.node).unwrap();
            disk.time = here.state.time;
            if let Some(reply) = call.answer(&mut here.state, disk, &self.node, patient) {
                return (reply, inner);
            }
            let (index, leader) = (here.state.store.index, here.state.has_leader(&self.node));
            inner = self.shared.wait(inner, self.run, Wait::Change { index, stirred, leader, until });
        }
    }

    fn note_reply(&self, inner: &mut Guard, reply: &Reply) {
        if inner.transcript.is_some() {
            let text = match reply {
                Reply::Http(response) => format!("  {} {}", response.status, String::from_utf8_lossy(&response.body)),
                Reply::Out(out) => format!("  exit {} {}{}", out.status, out.stdout, out.stderr),
            };
            inner.note(&self.node, self.run, text.trim_end());
        }
    }
}

impl Processes for Door {
    fn run(&self, cmd: &Cmd, capture: Capture) -> Result<String, process::Error> {
        let words: Vec<String> = std::iter::once(&cmd.program).chain(&cmd.args).map(|word| word.to_string_lossy().into_owned()).collect();
        let argv: Vec<&str> = words.iter().map(String::as_str).collect();
        let tail = |text: &str| {
            let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        if is_gone() {
            return Err(process::Error::NotFound { cmd: cmd.to_string() });
        }
        let cwd = cmd.cwd.clone().unwrap_or_else(|| "/".into());
        if !self.shared.lock().disks[&self.node].look(&cwd).is_ok_and(|found| found.is_some_and(|found| found.folder)) {
            return Err(process::Error::NoFolder { cmd: cmd.to_string(), cwd });
        }
        let env: BTreeMap<String, String> =
            cmd.env.iter().map(|(name, value)| (name.to_string(), value.to_string_lossy().into_owned())).collect();
        let mark = env.get(MARK).map(String::as_str);
        match self.call(Call::Process { argv: &argv, cwd: &cwd, env: &env }, cmd.deadline, mark) {
            Heard::Reply(Reply::Out(out)) if out.status == 0 => Ok(match capture {
                Capture::Nothing => String::new(),
                Capture::Stdout => out.stdout,
                Capture::Both => out.stdout + &out.stderr,
            }),
            Heard::Reply(Reply::Out(out)) => {
                let tail = tail(if out.stderr.is_empty() { &out.stdout } else { &out.stderr });
                Err(process::Error::Exit { cmd: cmd.to_string(), code: out.status.into(), tail })
            }
            _ => Err(process::Error::Timeout { cmd: cmd.to_string(), deadline: cmd.deadline, tail: String::new() }),
        }
    }

    fn end_marked(&self, mark: &str) -> Result<(), process::Error> {
        if !is_gone() {
            let mut inner = self.pass();
            inner.note(&self.node, self.run, &format!("end what is marked {mark}"));
            inner.orphans.retain(|orphan| orphan.node != self.node || orphan.mark.as_deref() != Some(mark));
        }
        Ok(())
    }

    fn start_apart(&self, args: &[String], _: bool) -> Result<Box<dyn Apart>, process::Error> {
        if is_gone() {
            return Err(process::Error::NotFound { cmd: args.join(" ") });
        }
        let start = match args {
            [verb, name] if verb == "work" => Start::Work(name.clone()),
            [verb, name] if verb == "replicate" => Start::Replicate(name.clone()),
            [verb] if verb == "reconcile" => Start::Reconcile,
            [verb] if verb == "probe" => Start::Probe,
            _ => panic!("a simulated handler starts {args:?}"),
        };
        let mut inner = self.pass();
        let run = spawn(&self.shared, &mut inner, &self.node, start, Duration::ZERO, 0);
        inner.apart.insert(run, None);
        Ok(Box::new(StartedApart { by: self.clone(), run }))
    }
}

/// A run that was started by another.
struct StartedApart {
    by: Door,
    run: u64,
}

impl Apart for StartedApart {
    fn wait(&mut self) -> Option<i32> {
        if is_gone() {
            return None;
        }
        let inner = self.by.pass();
        let mut inner = self.by.shared.wait(inner, self.by.run, Wait::End(self.run));
        inner.apart.remove(&self.run).flatten()
    }
}

/// The variable that carries a run's mark.
const MARK: &str = "HANDLER_RUN";

impl Net for Door {
    fn send(&self, to: Service, request: doors::Request) -> Result<Answer, Unanswered> {
        let place = || format!("{to:?} of {}", self.node);
        let failed = |why: &str| Unanswered::Failed { place: place(), why: why.into() };
        if is_gone() {
            return Err(failed("killed"));
        }
        if to == Service::Plugin && !self.shared.lock().state.nodes[&self.node].has_plugin {
            return Err(Unanswered::NoSocket { place: place() });
        }
        let asked = Request::new(request.method, request.path, request.body);
        let call = match to {
            Service::Consul => Call::Consul(&asked),
            Service::Plugin => Call::Plugin(&asked),
            Service::Engine => Call::Engine(&asked),
            Service::Caddy => return Err(Unanswered::NoSocket { place: place() }),
        };
        match self.call(call, request.timeout, None) {
            Heard::Reply(Reply::Http(response)) => Ok(Answer { status: response.status, index: response.index, body: response.body }),
            Heard::Lost => Err(failed("connection reset by peer")),
            _ => Err(failed("timeout: global")),
        }
    }
}

impl Clock for Door {
    fn now(&self) -> Time {
        let now = self.shared.lock().state.clock(&self.node);
        Time { secs: (now / 1_000_000) as i64, micros: (now % 1_000_000) as u32 }
    }

    fn uptime(&self) -> Duration {
        Duration::from_micros(self.shared.lock().state.time)
    }

    fn sleep(&self, time: Duration) {
        if !is_gone() {
            let inner = self.pass();
            drop(self.wait(inner, micros(time)));
        }
    }
}

impl Door {
    /// One call of the disk: seen by faults, not kept in the log.
    fn disk<T>(&self, is_read: bool, what: &str, path: &Path, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        if is_gone() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut inner = self.pass();
        let line = || format!("disk {what} {}", path.display());
        if inner.transcript.is_some() {
            inner.note(&self.node, self.run, &line());
        }
        let mut after = false;
        if !inner.faults.is_empty() {
            let effect = Effect { node: self.node.clone(), kind: Kind::Disk, what: what.to_owned(), is_read, line: line() };
            match inner.faults.due(&effect) {
                Some(Act::Fail(text)) => return Err(io::Error::new(io::ErrorKind::StorageFull, text)),
                Some(Act::KillBefore) => inner = self.kill(inner),
                Some(Act::KillAfter) => after = true,
                Some(Act::First(mut act)) => {
                    act(&mut inner.state);
                    inner = self.wait(inner, 0);
                }
                Some(_) => panic!("a disk fails or the handler is killed at it"),
                None => {}
            }
        }
        let here = &mut *inner;
        // What has its room needs none, and a folder that is there needs none.
        let needs_room = match what {
            "write" => !["journal", "own", "done"].iter().any(|name| path.ends_with(name)),
            "create" => !matches!(here.disks[&self.node].look(path), Ok(Some(_))),
            "reserve" => true,
            _ => false,
        };
        if here.state.nodes[&self.node].full && needs_room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let disk = here.disks.get_mut(&self.node).unwrap();
        disk.time = here.state.time;
        let done = act(disk);
        if after {
            drop(self.kill(inner));
        }
        done
    }
}

impl doors::Disk for Door {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        if path.ends_with("random/boot_id") {
            let deaths = self.shared.lock().state.nodes[&self.node].deaths;
            return Ok(format!("boot {deaths} of {}\n", self.node).into_bytes());
        }
        self.disk(true, "read", path, |disk| disk.read(path, limit))
    }

    fn look(&self, path: &Path) -> io::Result<Option<Found>> {
        self.disk(true, "look", path, |disk| disk.look(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk(true, "list", folder, |disk| disk.list(folder))
    }

    fn write(&self, path: &Path, bytes: &[u8], how: Write, synced: bool) -> io::Result<()> {
        self.disk(false, "write", path, |disk| disk.write(path, bytes, how, synced))
    }

    fn reserve(&self, path: &Path, _: u64) -> io::Result<()> {
        self.disk(false, "reserve", path, |disk| disk.open(path).map(drop))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk(false, "link", to, |disk| disk.link(from, to))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.disk(false, "sync", folder, |disk| disk.sync_folder(folder))
    }

    fn subvolume(&self, path: &Path) -> io::Result<Subvolume> {
        self.disk(true, "look at the subvolume", path, |_| Ok(()))?;
        let inner = self.shared.lock();
        let node = &inner.state.nodes[&self.node];
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let found = node.plugin.subvolumes.get(&*name).filter(|_| !node.no_snapshots_seen).ok_or(io::ErrorKind::NotFound)?;
        Ok(Subvolume { uuid: found.uuid.clone(), received: found.received.clone(), read_only: found.read_only })
    }

    /// There are no links here.
    fn within(&self, _: &Path, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn is_btrfs(&self, folder: &Path) -> io::Result<bool> {
        self.disk(true, "look at", folder, |_| Ok(()))?;
        Ok(!self.shared.lock().state.nodes[&self.node].no_snapshots_seen)
    }

    fn sync_disk(&self, folder: &Path) -> io::Result<()> {
        self.disk(false, "sync the disk of", folder, |disk| {
            disk.sync_disk();
            Ok(())
        })?;
        if folder.starts_with(super::SNAPSHOTS) {
            self.shared.lock().state.sync_snapshots(&self.node);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk(false, "rename", to, |disk| disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk(false, "remove", path, |disk| disk.remove(path))
    }

    fn remove_all(&self, folder: &Path) -> io::Result<()> {
        self.disk(false, "remove all", folder, |disk| disk.remove_all(folder))
    }

    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        self.disk(false, "create", folder, |disk| disk.create_folders(folder))
    }

    fn set_mode(&self, path: &Path, _: u32) -> io::Result<()> {
        self.disk(false, "mode", path, |disk| disk.look(path)?.map(drop).ok_or(io::ErrorKind::NotFound.into()))
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Option<Lock>> {
        let ino = self.disk(false, "lock", path, |disk| {
            disk.write(path, b"", Write::Over, false)?;
            disk.open(path)
        })?;
        let mut inner = self.shared.lock();
        let key = (self.node.clone(), ino);
        while inner.locks.contains_key(&key) {
            if !wait {
                return Ok(None);
            }
            inner = self.shared.wait(inner, self.run, Wait::Lock(ino));
        }
        inner.locks.insert(key, self.run);
        Ok(Some(Lock(Box::new(Held { door: self.clone(), ino }))))
    }

    fn space(&self, folder: &Path) -> io::Result<Space> {
        let full = self.shared.lock().state.nodes[&self.node].full;
        self.disk(true, "space", folder, |_| Ok(Space { free: if full { 0 } else { 1 << 40 }, all: 1 << 40 }))
    }

    fn user(&self) -> io::Result<u32> {
        Ok(0)
    }

    fn process(&self) -> u32 {
        self.run as u32
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let random = &mut self.shared.lock().random;
        let [high, low] = [random.next(), random.next()];
        Ok(((u128::from(high) << 64) | u128::from(low)).to_be_bytes())
    }
}

struct Held {
    door: Door,
    ino: Ino,
}

impl Drop for Held {
    fn drop(&mut self) {
        let key = (self.door.node.clone(), self.ino);
        let mut inner = self.door.shared.lock();
        if inner.locks.get(&key) == Some(&self.door.run) {
            inner.locks.remove(&key);
        }
    }
}
