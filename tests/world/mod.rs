//! A cluster in one process for the end-to-end tests: the real `handler` runs on every node of it, against a Consul, a docker,
//! a git and a volume plugin that keep the order of all that happens, check what must hold after each of it, and fail or kill on demand.
//! It is for order and failure, never the proof that the real parts work together.

#![allow(dead_code)]

pub mod consul;
pub mod docker;
pub mod git;
pub mod http;
pub mod plugin;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use http::{Request, Response};

pub const DRIVER: &str = "anybox/buttervolume:latest";

/// What a stand-in prints, and how it exits.
pub struct Out {
    pub stdout: String,
    pub stderr: String,
    pub status: u8,
}

impl Out {
    pub fn ok(stdout: impl Into<String>) -> Out {
        Out { stdout: stdout.into(), stderr: String::new(), status: 0 }
    }

    pub fn fail(status: u8, stderr: &str) -> Out {
        Out { stdout: String::new(), stderr: format!("{stderr}\n"), status }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    #[default]
    Fine,
    /// The agent answers, and says that there is no leader.
    NoLeader,
    /// The agent accepts and never answers.
    Silent,
}

#[derive(Clone, Default)]
pub struct Node {
    pub addr: String,
    pub engine: docker::Engine,
    pub has_plugin: bool,
    pub plugin: plugin::Plugin,
    pub services: BTreeMap<String, Value>,
    /// Consul's status of the other members as this node sees it; alive where nothing stands, unlisted for 0.
    pub sees: BTreeMap<String, u8>,
    pub reach: Reach,
    /// Nodes of one island reach each other by ssh.
    pub island: usize,
    handlers: Vec<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub node: String,
    pub line: String,
}

/// What happens to an effect.
pub enum Act {
    /// It is not done, and the caller is told so.
    Fail(String),
    /// It is done, but the caller is told that it failed.
    Lose,
    KillBefore,
    KillAfter,
    /// It hangs until the caller gives up, and is not done.
    Hang,
    Slow(Duration),
    /// Something else happens first.
    First(Box<dyn FnMut(&mut State) + Send>),
}

struct Fault {
    node: String,
    hits: Box<dyn Fn(&str) -> bool + Send>,
    /// The how-manieth hit; every one for 0.
    nth: usize,
    seen: usize,
    act: Act,
}

#[derive(Clone, Default)]
pub struct State {
    pub nodes: BTreeMap<String, Node>,
    pub store: consul::Store,
    pub events: Vec<Value>,
    pub repos: BTreeMap<String, git::Repo>,
    /// image reference → what is there
    pub registry: BTreeMap<String, String>,
    pub log: Vec<Effect>,
    pub violations: Vec<String>,
    /// What a volume held of an application's data when something was written by a deployment that its record names. What a
    /// deployment wrote that never came to a record may go.
    pub precious: BTreeSet<String>,
    /// Set where two nodes may run one application for a while: after a split or a death.
    pub two_may_run: bool,
    dir: PathBuf,
    clock: u64,
    closed: bool,
    /// How often members came and went: blocking queries then return early, as Consul's may at any time.
    stirred: usize,
}

pub struct Shared {
    state: Mutex<State>,
    faults: Mutex<Vec<Fault>>,
    woken: Condvar,
    runs: Mutex<Vec<Run>>,
    pub dir: PathBuf,
}

pub struct World {
    pub shared: Arc<Shared>,
    /// Where each node's agent listens.
    agents: BTreeMap<String, String>,
}

/// A run of the handler that came to its end.
#[derive(Clone, Debug)]
pub struct Run {
    pub what: String,
    /// None when killed.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

static WORLDS: AtomicUsize = AtomicUsize::new(0);

impl World {
    pub fn new(names: &[&str]) -> World {
        // The handler syncs what it writes; on a disk that would take longer than all the rest.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("handler-{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&dir).unwrap();
        let mut state = State { dir: dir.clone(), ..State::default() };
        for (i, name) in names.iter().enumerate() {
            let addr = format!("10.0.0.{}", i + 1);
            let engine = docker::Engine { compose: 2, ..Default::default() };
            state.nodes.insert(name.to_string(), Node { addr, engine, has_plugin: true, ..Node::default() });
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            faults: Mutex::default(),
            woken: Condvar::new(),
            runs: Mutex::default(),
            dir: dir.clone(),
        });
        let mut world = World { shared, agents: BTreeMap::new() };
        let commands = UnixListener::bind(dir.join("world.sock")).unwrap();
        world.listen(move || commands.accept().map(|(s, _)| s), Shared::command);
        for name in names {
            world.add_node(name);
        }
        world
    }

    fn add_node(&mut self, name: &str) {
        let dir = self.shared.dir.join(name);
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir_all(dir.join("deploy")).unwrap();
        for program in ["git", "docker", "docker-compose", "sh"] {
            std::os::unix::fs::symlink(standin(), dir.join("bin").join(program)).unwrap();
        }
        let plugin = UnixListener::bind(dir.join("btrfs.sock")).unwrap();
        let node = name.to_owned();
        self.listen(
            move || plugin.accept().map(|(s, _)| s),
            move |shared, stream| http::serve(stream, |request| shared.plugin(&node, request)),
        );
        let agent = TcpListener::bind("127.0.0.1:0").unwrap();
        self.agents.insert(name.to_owned(), agent.local_addr().unwrap().to_string());
        let node = name.to_owned();
        self.listen(
            move || agent.accept().map(|(s, _)| s),
            move |shared, stream| http::serve(stream, |request| shared.consul(&node, request)),
        );
    }

    fn listen<S: Send + 'static>(
        &self,
        accept: impl Fn() -> std::io::Result<S> + Send + 'static,
        serve: impl Fn(&Shared, S) + Send + Sync + 'static,
    ) {
        let (shared, serve) = (self.shared.clone(), Arc::new(serve));
        thread::spawn(move || {
            while let Ok(stream) = accept() {
                if shared.lock().closed {
                    break;
                }
                let (shared, serve) = (shared.clone(), serve.clone());
                thread::spawn(move || serve(&shared, stream));
            }
        });
    }

    // ---- what a test arranges

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    pub fn commit(&self, url: &str, branch: &str, files: &[(&str, &str)]) -> String {
        self.lock().commit(url, branch, files)
    }

    /// The first effect of this node (of any, for "") whose line contains the text.
    pub fn on(&self, node: &str, text: &str, act: Act) {
        self.on_nth(node, text, 1, act);
    }

    pub fn on_nth(&self, node: &str, text: &str, nth: usize, act: Act) {
        let text = text.to_owned();
        self.fault(node, Box::new(move |line| line.contains(&text)), nth, act);
    }

    pub fn on_exactly(&self, effect: &Effect, nth: usize, act: Act) {
        let line = effect.line.clone();
        self.fault(&effect.node, Box::new(move |l| l == line), nth, act);
    }

    fn fault(&self, node: &str, hits: Box<dyn Fn(&str) -> bool + Send>, nth: usize, act: Act) {
        self.shared.faults.lock().unwrap().push(Fault { node: node.to_owned(), hits, nth, seen: 0, act });
    }

    /// Takes back the faults that are left; answers whether all had struck.
    pub fn no_faults(&self) -> bool {
        let mut faults = self.shared.faults.lock().unwrap();
        faults.drain(..).count() == 0
    }

    /// Data written by a running container of this node.
    pub fn write(&self, node: &str, volume: &str, text: &str) {
        let mut s = self.lock();
        let used = s.nodes[node].engine.containers.iter().any(|c| c.serves() && c.volumes.iter().any(|v| v == volume));
        assert!(used, "no running container on {node} uses {volume}");
        s.append(node, volume, text);
        let content = s.nodes[node].plugin.volumes[volume].clone();
        s.precious.insert(content);
    }

    /// What the plugin's schedules do by the hour.
    pub fn replicate(&self, node: &str) {
        let mut s = self.lock();
        let due: Vec<_> = s.nodes[node].plugin.schedules.keys().cloned().collect();
        for (volume, action) in due {
            let Some(host) = action.strip_prefix("replicate:") else {
                continue;
            };
            let Some(content) = s.nodes[node].plugin.volumes.get(&volume).cloned() else {
                continue;
            };
            let snapshot = s.snapshot(node, &volume, content);
            let body = json!({"Name": snapshot, "Host": host}).to_string().into_bytes();
            let path = "/VolumeDriver.Snapshot.Send".to_owned();
            plugin::answer(&mut s, node, &Request { method: "POST".to_owned(), path, query: Vec::new(), body });
        }
    }

    pub fn die(&self, node: &str) {
        self.lock().die(node);
        self.shared.woken.notify_all();
    }

    pub fn revive(&self, node: &str) {
        self.lock().revive(node);
        self.shared.woken.notify_all();
    }

    pub fn see(&self, member: &str, status: u8) {
        self.lock().see(member, status);
        self.shared.woken.notify_all();
    }

    pub fn split(&self, side: &[&str]) {
        self.lock().split(side);
        self.shared.woken.notify_all();
    }

    pub fn heal(&self) {
        let mut s = self.lock();
        for node in s.nodes.values_mut() {
            (node.reach, node.island) = (Reach::Fine, 0);
            node.sees.clear();
        }
        s.stirred += 1;
        drop(s);
        self.shared.woken.notify_all();
    }

    // ---- the handler

    pub fn handler(&self, node: &str, args: &[&str]) -> Invocation<'_> {
        self.program(node, env!("CARGO_BIN_EXE_handler"), args)
    }

    /// Anything else in the handler's place.
    pub fn program(&self, node: &str, path: &str, args: &[&str]) -> Invocation<'_> {
        let dir = self.shared.dir.join(node);
        let mut command = Command::new(path);
        command.args(args).current_dir(&dir).env_clear();
        command.env("PATH", dir.join("bin"));
        command.env("HOME", &dir);
        command.env("TMPDIR", &dir);
        command.env("DEPLOY_DIR", dir.join("deploy"));
        command.env("CONSUL_HTTP_ADDR", &self.agents[node]);
        command.env("BUTTERVOLUME_SOCKET", dir.join(if self.lock().nodes[node].has_plugin { "btrfs.sock" } else { "none" }));
        command.env("STANDIN_WORLD", self.shared.dir.join("world.sock"));
        command.env("STANDIN_NODE", node);
        command.env("HANDLER_SETTLE", "0");
        for what in ["GIT", "PULL", "BUILD", "UP", "STOP", "SCRIPT", "HEALTH", "SEND", "HANDOVER", "CONSUL", "ORDER"] {
            command.env(format!("HANDLER_TIMEOUT_{what}"), "10");
        }
        Invocation { world: self, node: node.to_owned(), command, stdin: String::new() }
    }

    /// Hands these events to the node's handler, as Consul's watch does.
    pub fn deliver(&self, node: &str, events: &[Value]) -> Run {
        self.handler(node, &[]).stdin(&Value::from(events.to_vec()).to_string()).run()
    }

    /// Hands one list of events to all nodes at once that Consul reaches. Whoever is killed is started again, with no events: an agent starting.
    pub fn deliver_all(&self, events: &[Value]) -> Vec<Run> {
        let reached = |(name, node): (&String, &Node)| (node.reach == Reach::Fine).then(|| name.clone());
        let nodes: Vec<String> = self.lock().nodes.iter().filter_map(reached).collect();
        thread::scope(|scope| {
            let one = |node: String| {
                let mut runs = vec![self.deliver(&node, events)];
                let reached = |node: &str| self.lock().nodes[node].reach == Reach::Fine;
                while runs.last().is_some_and(|r| r.status.is_none()) && runs.len() < 5 && reached(&node) {
                    runs.push(self.deliver(&node, &[]));
                }
                runs
            };
            let all: Vec<_> = nodes.into_iter().map(|n| scope.spawn(move || one(n))).collect();
            all.into_iter().flat_map(|t| t.join().unwrap()).collect()
        })
    }

    /// The watch on `app/` starts the handler everywhere, again and again, until nothing more happens.
    #[track_caller]
    pub fn settle(&self) {
        self.try_settle().unwrap();
    }

    pub fn try_settle(&self) -> Result<(), String> {
        let mut runs = Vec::new();
        for _ in 0..6 {
            let before = self.lock().log.len();
            runs = self.deliver_all(&[]);
            if self.lock().log.len() == before && runs.iter().all(|r| r.status == Some(0)) {
                return Ok(());
            }
        }
        let runs: String = runs.iter().map(Run::to_string).collect();
        Err(format!("the nodes do not come to rest:\n{runs}"))
    }

    // ---- what a test looks at

    pub fn effects(&self) -> Vec<Effect> {
        self.lock().log.clone()
    }

    /// The lines of one node since the last look at any.
    pub fn take_log(&self) -> Vec<String> {
        self.lock().log.drain(..).map(|e| format!("{}: {}", e.node, e.line)).collect()
    }

    pub fn volume(&self, node: &str, volume: &str) -> Option<String> {
        self.lock().nodes[node].plugin.volumes.get(volume).cloned()
    }

    /// Where an application's containers serve, and from what.
    pub fn serving(&self, project: &str) -> Vec<String> {
        let s = self.lock();
        let each = s.nodes.iter().flat_map(|(name, n)| {
            let mine = n.engine.containers.iter().filter(|c| c.project == project && c.serves());
            mine.map(move |c| format!("{name} {} <{}>", c.name, n.engine.images[&c.image]))
        });
        each.collect()
    }

    pub fn kv(&self, key: &str) -> Option<Value> {
        let text = self.lock().store.text(key)?;
        Some(serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.lock().store.kv.keys().filter(|k| k.starts_with(prefix)).cloned().collect()
    }

    /// All that must be as it was, or as it would be, after a failure: what runs from what, data, schedules, keys, checkouts.
    /// Left out: snapshots, images, history, dates.
    pub fn state(&self) -> String {
        let s = self.lock();
        let mut lines = Vec::new();
        for (name, node) in &s.nodes {
            for c in &node.engine.containers {
                let runs = if c.serves() { "serves" } else { "is down" };
                let image = &node.engine.images[&c.image];
                lines.push(format!("{name} {} {runs} <{image}> restart {} with {}", c.name, c.restart, c.volumes.join(" ")));
            }
            let data = node.plugin.volumes.iter();
            lines.extend(data.map(|(v, content)| format!("{name} volume {v} “{}”", content.replace('|', ""))));
            lines.extend(node.plugin.schedules.iter().map(|((v, a), t)| format!("{name} schedule {v} {a} {t}")));
            lines.extend(node.services.keys().map(|id| format!("{name} service {id}")));
            for (path, dir) in files(&self.deploy_dir(name), 1) {
                if !path.starts_with('.') && path != "handler.log" {
                    let commit = if dir { git::head(&self.deploy_dir(name).join(&path)) } else { "a file".to_owned() };
                    lines.push(format!("{name} /deploy/{path} {commit}"));
                }
            }
        }
        for key in s.store.kv.keys().filter(|k| !k.starts_with("history/")) {
            let mut value: Value = serde_json::from_str(&s.store.text(key).unwrap()).unwrap_or_default();
            if let Some(record) = value.as_object_mut() {
                record.remove("deploy_date");
            }
            lines.push(format!("{key} = {value}"));
        }
        lines.join("\n") + "\n"
    }

    pub fn agent(&self, node: &str) -> &str {
        &self.agents[node]
    }

    pub fn deploy_dir(&self, node: &str) -> PathBuf {
        self.shared.dir.join(node).join("deploy")
    }

    /// The state now, to come back to with `load`.
    pub fn save(&self) -> (State, Vec<PathBuf>) {
        let s = self.lock().clone();
        let dirs = s.nodes.keys().map(|n| {
            let kept = self.shared.dir.join(format!("{n}.kept-{}", WORLDS.fetch_add(1, Ordering::Relaxed)));
            copy(&self.deploy_dir(n), &kept);
            kept
        });
        let dirs = dirs.collect();
        (s, dirs)
    }

    pub fn load(&self, (state, dirs): &(State, Vec<PathBuf>)) {
        self.no_faults();
        self.shared.runs.lock().unwrap().clear();
        for (name, kept) in state.nodes.keys().zip(dirs) {
            fs::remove_dir_all(self.deploy_dir(name)).unwrap();
            copy(kept, &self.deploy_dir(name));
        }
        *self.lock() = state.clone();
    }

    /// Everything that a person wants to see of a failed test.
    pub fn dump(&self) -> String {
        let mut out = String::from("\n==== runs\n");
        for run in self.shared.runs.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            writeln!(out, "{run}").unwrap();
        }
        let s = self.lock();
        out += "==== effects\n";
        s.log.iter().for_each(|e| writeln!(out, "{}: {}", e.node, e.line).unwrap());
        out += "==== keys\n";
        s.store.kv.keys().for_each(|k| writeln!(out, "{k} = {}", s.store.text(k).unwrap()).unwrap());
        for name in s.nodes.keys() {
            writeln!(out, "==== {name}: /deploy").unwrap();
            files(&self.deploy_dir(name), 3).iter().for_each(|(path, _)| writeln!(out, "{path}").unwrap());
        }
        drop(s);
        let s = self.state();
        out + "==== state\n" + &s + "==== violations\n" + &self.lock().violations.join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let violations = {
            let mut s = self.lock();
            s.closed = true;
            let names: Vec<String> = s.nodes.keys().cloned().collect();
            names.iter().for_each(|n| s.kill(n));
            s.violations.clone()
        };
        self.shared.woken.notify_all();
        let failed = thread::panicking();
        if failed || !violations.is_empty() {
            eprintln!("{}", self.dump());
        }
        // Wakes the listeners, which then see that the world is closed. One that is gone already is fine.
        UnixStream::connect(self.shared.dir.join("world.sock")).ok();
        for (name, agent) in &self.agents {
            TcpStream::connect(agent).ok();
            UnixStream::connect(self.shared.dir.join(name).join("btrfs.sock")).ok();
        }
        fs::remove_dir_all(&self.shared.dir).ok();
        assert!(failed || violations.is_empty(), "what must always hold did not: {violations:#?}");
    }
}

pub struct Invocation<'a> {
    world: &'a World,
    node: String,
    command: Command,
    stdin: String,
}

impl Invocation<'_> {
    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.to_owned();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn run(self) -> Run {
        self.spawn().join().unwrap()
    }

    /// Starts the handler, and lets the test go on.
    pub fn spawn(mut self) -> JoinHandle<Run> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let shared = self.world.shared.clone();
        let base = shared.dir.join(format!("run-{}", RUNS.fetch_add(1, Ordering::Relaxed)));
        let file = |ext: &str| base.with_extension(ext);
        fs::write(file("in"), &self.stdin).unwrap();
        self.command.stdin(File::open(file("in")).unwrap());
        self.command.stdout(File::create(file("out")).unwrap()).stderr(File::create(file("err")).unwrap());
        let args: Vec<_> = self.command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        let what = format!("{}: handler {} <<< {}", self.node, args.join(" "), self.stdin);
        let child = {
            // Under the lock, so that the world knows the process before its first call.
            let mut s = shared.lock();
            let child = self.command.spawn().unwrap();
            s.nodes.get_mut(&self.node).unwrap().handlers.push(child.id() as i32);
            child
        };
        let (node, streams) = (self.node, (file("out"), file("err")));
        thread::spawn(move || shared.follow(&node, what, child, streams))
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn wait<'a>(&self, s: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.woken.wait_timeout(s, at_most).unwrap_or_else(|e| e.into_inner()).0
    }

    fn follow(&self, node: &str, what: String, mut child: Child, (out, err): (PathBuf, PathBuf)) -> Run {
        let begun = Instant::now();
        let mut overdue = false;
        let status = loop {
            let mut s = self.lock();
            if let Some(status) = child.try_wait().unwrap() {
                s.nodes.get_mut(node).unwrap().handlers.retain(|p| *p != child.id() as i32);
                break status;
            }
            if begun.elapsed() > Duration::from_secs(60) {
                overdue = true;
                s.kill(node);
            }
            drop(s);
            thread::sleep(Duration::from_millis(2));
        };
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let run = Run {
            what,
            status: status.code().or(status.signal().filter(|s| *s != libc::SIGKILL).map(|s| 128 + s)),
            stdout: text(&out),
            stderr: text(&err),
            took: begun.elapsed(),
        };
        self.runs.lock().unwrap().push(run.clone());
        assert!(!overdue, "the handler did not end: {run}");
        run
    }

    /// One outside effect: logged, hit by the fault that is due, done, and followed by a look at what must hold.
    /// None when the caller was killed, or gave up.
    fn effect<T>(
        &self,
        node: &str,
        line: impl FnOnce(&State) -> String,
        failed: impl Fn(&str) -> T,
        gone: impl Fn() -> bool,
        apply: impl FnOnce(&mut State) -> T,
    ) -> Option<T> {
        let mut s = self.lock();
        let line = mask(&line(&s), &s.dir);
        s.log.push(Effect { node: node.to_owned(), line: line.clone() });
        let mut act = self.due(node, &line);
        match &mut act {
            Some(Act::Fail(text)) => return Some(failed(text)),
            Some(Act::First(act)) => {
                act(&mut s);
                self.woken.notify_all();
                if s.nodes[node].reach == Reach::Silent {
                    return None; // it has died
                }
            }
            Some(Act::KillBefore) => {
                s.kill(node);
                return None;
            }
            Some(Act::Slow(time)) => {
                drop(s);
                thread::sleep(*time);
                s = self.lock();
            }
            Some(Act::Hang) => {
                while !s.closed && !gone() {
                    s = self.wait(s, Duration::from_millis(20));
                }
                return None;
            }
            _ => {}
        }
        let answer = apply(&mut s);
        s.check(node, &line);
        if matches!(act, Some(Act::KillAfter)) {
            s.kill(node);
        }
        drop(s);
        self.woken.notify_all();
        match act {
            Some(Act::KillAfter) => None,
            Some(Act::Lose) => Some(failed("rpc error: connection reset by peer")),
            _ => Some(answer),
        }
    }

    fn due(&self, node: &str, line: &str) -> Option<Act> {
        let mut faults = self.faults.lock().unwrap();
        let mut due = None;
        for (i, fault) in faults.iter_mut().enumerate() {
            if (fault.node.is_empty() || fault.node == node) && (fault.hits)(line) {
                fault.seen += 1;
                if fault.nth == 0 || fault.seen == fault.nth {
                    due = due.or(Some(i));
                }
            }
        }
        let i = due?;
        match (&faults[i].act, faults[i].nth) {
            (Act::Fail(text), 0) => Some(Act::Fail(text.clone())),
            (Act::Slow(time), 0) => Some(Act::Slow(*time)),
            (Act::Hang, 0) => Some(Act::Hang),
            (_, 0) => panic!("only failing, slow and hanging can be for ever"),
            _ => Some(faults.remove(i).act),
        }
    }

    fn command(&self, stream: UnixStream) {
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let request: Value = serde_json::from_str(&line).unwrap();
        let node = request["node"].as_str().unwrap();
        let argv: Vec<&str> = request["argv"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let cwd = PathBuf::from(request["cwd"].as_str().unwrap());
        stream.set_nonblocking(true).unwrap();
        let out = self.effect(
            node,
            |s| argv.iter().map(|a| s.nodes[node].engine.readable(a)).collect::<Vec<_>>().join(" "),
            |text| Out::fail(1, text),
            || matches!((&stream).read(&mut [0]), Ok(0)),
            |s| match argv[0] {
                "git" => git::run(s, &argv[1..], &cwd),
                "docker" => docker::run(s, node, &argv[1..]),
                "docker-compose" => docker::compose(s, node, &argv[1..], &cwd),
                _ => script(s, node, &argv[1..], &cwd),
            },
        );
        stream.set_nonblocking(false).unwrap();
        if let Some(out) = out {
            let answer = json!({"stdout": out.stdout, "stderr": out.stderr, "status": out.status});
            // The stand-in was killed at its deadline: nobody is left to tell.
            (&stream).write_all(answer.to_string().as_bytes()).ok();
        }
    }

    fn plugin(&self, node: &str, request: &Request) -> Option<Response> {
        if plugin::is_read(request) && !self.wanted(node, &plugin::describe(request)) {
            return Some(plugin::answer(&mut self.lock(), node, request));
        }
        let began = Instant::now();
        self.effect(
            node,
            |_| plugin::describe(request),
            plugin::error,
            || began.elapsed() > Duration::from_secs(20),
            |s| plugin::answer(s, node, request),
        )
    }

    fn consul(&self, node: &str, request: &Request) -> Option<Response> {
        if request.method == "GET" && !self.wanted(node, &consul::describe(request)) {
            return consul::read(self, node, request);
        }
        let mut s = self.lock();
        while s.nodes[node].reach == Reach::Silent {
            if s.closed {
                return None;
            }
            s = self.wait(s, Duration::from_millis(50));
        }
        drop(s);
        let began = Instant::now();
        self.effect(
            node,
            |_| consul::describe(request),
            |text| Response::new(500, text),
            || began.elapsed() > Duration::from_secs(20),
            |s| match request.method.as_str() {
                "GET" => Response::new(500, "only a failing read is an effect"),
                _ => consul::write(s, node, request),
            },
        )
    }

    /// Reads are no effects, unless a test wants to do something about this one.
    fn wanted(&self, node: &str, line: &str) -> bool {
        let faults = self.faults.lock().unwrap();
        faults.iter().any(|f| (f.node.is_empty() || f.node == node) && line.contains(" GET ") && (f.hits)(line))
    }
}

impl State {
    /// The time, for names that must increase.
    pub fn now(&mut self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        self.clock = now.max(self.clock + 1);
        let (days, micros) = (self.clock / 86_400_000_000, self.clock % 86_400_000_000);
        // Days to a date of the Gregorian calendar, counted from March of the year 0.
        let z = days + 719_468;
        let (era, day) = (z / 146_097, z % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (d, m) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
        let y = year + era * 400 + u64::from(m <= 2);
        let (sec, micros) = (micros / 1_000_000, micros % 1_000_000);
        format!("{y}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{micros:06}", sec / 3600, sec / 60 % 60, sec % 60)
    }

    pub fn reachable(&self, from: &str, to: &str) -> bool {
        self.nodes[from].island == self.nodes[to].island
    }

    /// The node is gone: its agent silent, its containers with it, and the others told that it failed.
    pub fn die(&mut self, node: &str) {
        self.see(node, 4);
        self.kill(node);
        self.two_may_run = true;
        let n = self.nodes.get_mut(node).unwrap();
        n.reach = Reach::Silent;
        n.island = 99;
        // Not stopped: nobody is there to say a last word.
        n.engine.containers.iter_mut().for_each(|c| c.running = false);
    }

    /// It is back after a boot: docker starts what has a restart policy, before any handler runs.
    pub fn revive(&mut self, node: &str) {
        self.see(node, 1);
        let n = self.nodes.get_mut(node).unwrap();
        (n.reach, n.island) = (Reach::Fine, 0);
        n.engine.containers.iter_mut().for_each(|c| c.running = c.restart != "no");
    }

    /// All others see this member so: 1 alive, 2 leaving, 3 left, 4 failed, 0 not listed.
    pub fn see(&mut self, member: &str, status: u8) {
        for (_, node) in self.nodes.iter_mut().filter(|(name, _)| *name != member) {
            node.sees.insert(member.to_owned(), status);
        }
        self.stirred += 1;
    }

    /// Cuts the network between these nodes and the others; the smaller side loses the leader.
    pub fn split(&mut self, side: &[&str]) {
        self.two_may_run = true;
        let all = self.nodes.len();
        let on = |name: &str| side.contains(&name);
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for (name, node) in self.nodes.iter_mut() {
            node.island = usize::from(on(name));
            let mine = names.iter().filter(|n| on(n) == on(name)).count();
            node.reach = if mine * 2 > all { Reach::Fine } else { Reach::NoLeader };
            let others = names.iter().filter(|n| on(n) != on(name));
            node.sees.extend(others.map(|n| (n.clone(), 4)));
        }
        self.stirred += 1;
    }

    /// SIGKILL for all handlers of a node.
    pub fn kill(&mut self, node: &str) {
        for pid in &self.nodes[node].handlers {
            // SAFETY: kill has no memory effects, and the process is a child that was not reaped: it leaves the list under the same lock.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
    }

    fn check(&mut self, node: &str, line: &str) {
        if self.two_may_run {
            return;
        }
        let mut runs: BTreeMap<&str, &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for (name, n) in &self.nodes {
            for c in n.engine.containers.iter().filter(|c| c.running) {
                let other = runs.insert(&c.project, name).filter(|other| other != name);
                twice.extend(other.map(|o| format!("{} runs on {o} and on {name}, after {node}: {line}", c.project)));
            }
        }
        self.violations.extend(twice);
    }
}

fn standin() -> PathBuf {
    let standin = Path::new(env!("CARGO_BIN_EXE_handler")).with_file_name("examples").join("standin");
    assert!(standin.exists(), "build it first: cargo build --example standin");
    standin
}

/// Paths and times away, so that a line is the same in every run.
fn mask(line: &str, dir: &Path) -> String {
    let dir = format!("{}/", dir.display());
    let mut out = String::new();
    for word in line.replace(&dir, "").split(' ') {
        let word = word.split_once('/').filter(|(_, rest)| rest.starts_with("deploy/")).map_or(word, |(_, rest)| rest);
        let (head, time) = word.split_once("@20").unwrap_or((word, ""));
        let host = time.split_once('@').map(|(_, h)| format!("@{h}")).unwrap_or_default();
        let time = if time.is_empty() { "" } else { "@TIME" };
        out += &format!("{}{head}{time}{host}", if out.is_empty() { "" } else { " " });
    }
    out
}

/// `sh SCRIPT …`: the scripts of the tests' repositories say `echo TEXT`, `write VOLUME TEXT` and `exit N`.
fn script(s: &mut State, node: &str, args: &[&str], cwd: &Path) -> Out {
    let text = match fs::read_to_string(cwd.join(args.first().unwrap_or(&"?"))) {
        Ok(text) => text,
        Err(e) => return Out::fail(127, &format!("sh: {e}")),
    };
    let env = fs::read_to_string(cwd.join(".env")).unwrap_or_default();
    let project = env.lines().rev().find_map(|l| l.strip_prefix("COMPOSE_PROJECT_NAME=")).unwrap_or("no_project_name_in_.env");
    let mut out = Out::ok("");
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["exit", n] => {
                return Out { status: n.parse().unwrap(), ..out };
            }
            ["write", volume, text] => s.append(node, &format!("{project}_{volume}"), text),
            _ => out.stderr += &format!("{}\n", line.trim_start_matches("echo ")),
        }
    }
    out
}

impl Run {
    #[track_caller]
    pub fn exits(&self, status: i32) -> &Run {
        assert_eq!(self.status, Some(status), "exit status of {self}");
        self
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> &Run {
        assert!(self.stderr.contains(text), "“{text}” expected on stderr of {self}");
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let status = self.status.map_or("killed".to_owned(), |s| format!("exit {s}"));
        writeln!(f, "---- {}\n{status} after {:?}\n{}{}", self.what, self.took, self.stdout, self.stderr)
    }
}

/// The UUID that stands for this word.
pub fn id(word: &str) -> String {
    let hex = format!("{:x}", md5::compute(word));
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// An event as the watch hands it over.
pub fn event(word: &str, name: &str, payload: &Value) -> Value {
    let payload = STANDARD.encode(payload.to_string());
    json!({"ID": id(word), "Name": name, "Payload": payload, "NodeFilter": "", "ServiceFilter": "", "TagFilter": "", "Version": 1, "LTime": 2})
}

/// The paths below a directory, and whether they are directories.
fn files(dir: &Path, depth: usize) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dir = entry.path().is_dir();
        if is_dir && depth > 1 {
            found.extend(files(&entry.path(), depth - 1).into_iter().map(|(n, d)| (format!("{name}/{n}"), d)));
        }
        found.push((name, is_dir));
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
