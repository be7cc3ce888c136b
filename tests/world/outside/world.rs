//! The process world: the real binary on every node, with stand-in programs on its PATH and sockets for its services.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::DerefMut;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::super::state::effect::{Call, Effect, Kind, Reply};
use super::super::state::fault::{Act, Faults, by_text, exactly};
use super::super::state::http::{Request, Response};
use super::super::state::{Killer, Reach, State, consul, view};
use super::super::{Cluster, Run};
use super::run::{Handlers, Invocation};
use super::{RealFiles, http};

pub struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    woken: Condvar,
    pub runs: Mutex<Vec<Run>>,
    /// Programs that got variables which are none of their business.
    pub told: Mutex<Vec<String>>,
    pub handlers: Arc<Handlers>,
    pub dir: PathBuf,
}

pub struct World {
    pub shared: Arc<Shared>,
    /// Where each node's agent listens.
    agents: BTreeMap<String, String>,
    /// The handler of a node that has another than the one under test.
    pub programs: Mutex<BTreeMap<String, String>>,
}

static WORLDS: AtomicUsize = AtomicUsize::new(0);

impl World {
    fn add_node(&mut self, name: &str) {
        self.lock().add_node(name);
        let dir = self.shared.dir.join(name);
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::create_dir_all(dir.join("deploy")).unwrap();
        for program in ["git", "docker", "docker-compose", "sh", "ssh"] {
            std::os::unix::fs::symlink(standin(), dir.join("bin").join(program)).unwrap();
        }
        for (socket, kind) in [("btrfs.sock", Kind::Plugin), ("engine.sock", Kind::Engine)] {
            let listener = UnixListener::bind(dir.join(socket)).unwrap();
            self.serve(name, kind, move || listener.accept().map(|(s, _)| s));
        }
        let agent = TcpListener::bind("127.0.0.1:0").unwrap();
        self.agents.insert(name.to_owned(), agent.local_addr().unwrap().to_string());
        self.serve(name, Kind::Consul, move || agent.accept().map(|(s, _)| s));
    }

    fn serve<S: Read + Write + Send + 'static>(&self, node: &str, kind: Kind, accept: impl Fn() -> std::io::Result<S> + Send + 'static) {
        let node = node.to_owned();
        self.listen(accept, move |shared, stream| http::serve(stream, |request| shared.answer(&node, kind, request)));
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

    pub fn commit(&self, url: &str, branch: &str, files: &[(&str, &str)]) -> String {
        self.lock().commit(url, branch, files)
    }

    /// The first effect of this node (of any, for "") whose line contains the text.
    pub fn on(&self, node: &str, text: &str, act: Act) {
        self.on_nth(node, text, 1, act);
    }

    pub fn on_nth(&self, node: &str, text: &str, nth: usize, act: Act) {
        self.shared.faults.lock().unwrap().add(by_text(node, text), nth, act);
    }

    pub fn on_exactly(&self, effect: &Effect, nth: usize, act: Act) {
        self.shared.faults.lock().unwrap().add(exactly(effect), nth, act);
    }

    /// Takes back the faults that are left; answers whether all had struck.
    pub fn no_faults(&self) -> bool {
        self.shared.faults.lock().unwrap().clear()
    }

    /// Data written by a running container of this node.
    pub fn write(&self, node: &str, volume: &str, text: &str) {
        self.lock().write(node, volume, text);
    }

    pub fn replicate(&self, node: &str) {
        self.lock().replicate(node);
    }

    fn stir(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.lock());
        self.shared.woken.notify_all();
    }

    pub fn die(&self, node: &str) {
        self.stir(|s| s.die(node));
    }

    pub fn revive(&self, node: &str) {
        self.stir(|s| s.revive(node));
    }

    pub fn see(&self, member: &str, status: u8) {
        self.stir(|s| s.see(member, status));
    }

    pub fn split(&self, side: &[&str]) {
        self.stir(|s| s.split(side));
    }

    pub fn heal(&self) {
        self.stir(State::heal);
    }

    // ---- the handler

    pub fn handler(&self, node: &str, args: &[&str]) -> Invocation<'_> {
        let own = self.programs.lock().unwrap().get(node).cloned();
        self.program(node, own.as_deref().unwrap_or(env!("CARGO_BIN_EXE_handler")), args)
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
        command.env("DOCKER_HOST", format!("unix://{}", dir.join("engine.sock").display()));
        command.env("BUTTERVOLUME_SOCKET", dir.join(if self.lock().nodes[node].has_plugin { "btrfs.sock" } else { "none" }));
        command.env("HANDLER_SNAPSHOTS", dir.join("snapshots"));
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

    // ---- what a test looks at

    /// What changed something, and every process.
    pub fn effects(&self) -> Vec<Effect> {
        self.lock().log.iter().filter(|e| !e.is_read || e.kind == Kind::Process).cloned().collect()
    }

    /// The same as lines, since the last look.
    pub fn take_log(&self) -> Vec<String> {
        let lines = self.effects().iter().map(|e| format!("{}: {}", e.node, e.line)).collect();
        self.lock().log.clear();
        lines
    }

    pub fn volume(&self, node: &str, volume: &str) -> Option<String> {
        self.lock().volume(node, volume)
    }

    pub fn serving(&self, project: &str) -> Vec<String> {
        self.lock().serving(project)
    }

    pub fn kv(&self, key: &str) -> Option<Value> {
        self.lock().kv(key)
    }

    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.lock().keys(prefix)
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
            view::tree(&RealFiles, &self.deploy_dir(name), 3).iter().for_each(|(path, _)| writeln!(out, "{path}").unwrap());
        }
        drop(s);
        let s = self.state();
        out + "==== state\n" + &s + "==== violations\n" + &self.lock().violations.join("\n")
    }
}

impl Cluster for World {
    fn new(names: &[&str]) -> World {
        // The handler syncs what it writes; on a disk that would take longer than all the rest.
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("handler-{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&dir).unwrap();
        let handlers = Arc::new(Handlers::default());
        let killer = handlers.clone();
        let killer: Killer = Arc::new(move |node| killer.kill(node));
        let state = State { root: dir.clone(), killer: Some(killer), ..State::default() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            faults: Mutex::default(),
            woken: Condvar::new(),
            runs: Mutex::default(),
            told: Mutex::default(),
            handlers,
            dir: dir.clone(),
        });
        let mut world = World { shared, agents: BTreeMap::new(), programs: Mutex::default() };
        let commands = UnixListener::bind(dir.join("world.sock")).unwrap();
        world.listen(move || commands.accept().map(|(s, _)| s), Shared::command);
        for name in names {
            world.add_node(name);
        }
        world
    }

    fn lock(&self) -> impl DerefMut<Target = State> {
        self.shared.lock()
    }

    fn deliver_all(&self, events: &[Value]) -> Vec<Run> {
        let reached = |(name, node): (&String, &super::super::state::Node)| (node.reach == Reach::Fine).then(|| name.clone());
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

    fn try_settle(&self) -> Result<(), String> {
        let mut runs = Vec::new();
        let effects = || self.lock().log.iter().filter(|e| !e.is_read).count();
        for _ in 0..6 {
            let before = effects();
            runs = self.deliver_all(&[]);
            if effects() == before && runs.iter().all(|r| r.status == Some(0)) {
                return Ok(());
            }
        }
        let runs: String = runs.iter().map(Run::to_string).collect();
        Err(format!("the nodes do not come to rest:\n{runs}"))
    }

    fn state(&self) -> String {
        self.lock().text(|node| view::checkouts(&RealFiles, &self.deploy_dir(node)))
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
            for socket in ["btrfs.sock", "engine.sock"] {
                UnixStream::connect(self.shared.dir.join(name).join(socket)).ok();
            }
        }
        fs::remove_dir_all(&self.shared.dir).ok();
        assert!(failed || violations.is_empty(), "what must always hold did not: {violations:#?}");
    }
}

impl Shared {
    /// The state, with the time as it is now.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut s = self.state.lock().unwrap_or_else(|e| e.into_inner());
        s.time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        s
    }

    fn wait<'a>(&self, s: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        let mut s = self.woken.wait_timeout(s, at_most).unwrap_or_else(|e| e.into_inner()).0;
        s.time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        s
    }

    /// One call: logged, hit by the fault that is due, done, and followed by a look at what must hold.
    /// None when the caller was killed, or gave up.
    fn call(&self, node: &str, call: Call, gone: impl Fn() -> bool) -> Option<Reply> {
        let mut s = self.lock();
        while call.kind() == Kind::Consul && s.nodes[node].reach == Reach::Silent {
            // Says nothing; the client has its own deadline.
            if s.closed {
                return None;
            }
            s = self.wait(s, Duration::from_millis(50));
        }
        let effect = call.effect(&s, node);
        s.log.push(effect.clone());
        let mut act = self.faults.lock().unwrap().due(&effect);
        match &mut act {
            Some(Act::Fail(text)) => return Some(call.failed(text)),
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
        let (reply, mut s) = self.done(s, node, call)?;
        s.check(&effect);
        if matches!(act, Some(Act::KillAfter)) {
            s.kill(node);
        }
        drop(s);
        self.woken.notify_all();
        match act {
            Some(Act::KillAfter) => None,
            Some(Act::Garble(text)) => Some(call.garbled(text)),
            Some(Act::Lose) => Some(call.failed("rpc error: connection reset by peer")),
            _ => Some(reply),
        }
    }

    /// Blocking queries wait here.
    fn done<'a>(&'a self, mut s: MutexGuard<'a, State>, node: &str, call: Call) -> Option<(Reply, MutexGuard<'a, State>)> {
        let wait = if let Call::Consul(request) = call { consul::waits(request).map(|(_, wait)| wait) } else { None };
        // Early, as Consul may at any time: a member may have gone between the caller's look at the members and this.
        let until = Instant::now() + wait.unwrap_or_default().min(Duration::from_secs(1));
        let stirred = s.stirred;
        loop {
            if s.closed {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            let patient = !left.is_zero() && s.stirred == stirred;
            match call.answer(&mut s, &mut RealFiles, node, patient) {
                Some(reply) => return Some((reply, s)),
                None => s = self.wait(s, left),
            }
        }
    }

    /// A stand-in program asks what to print.
    fn command(&self, stream: UnixStream) {
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let request: Value = serde_json::from_str(&line).unwrap();
        let argv: Vec<&str> = request["argv"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let cwd = PathBuf::from(request["cwd"].as_str().unwrap());
        let env: BTreeMap<String, String> = serde_json::from_value(request["env"].clone()).unwrap();
        if let Some(told) = request["told"].as_array().filter(|told| !told.is_empty()) {
            self.told.lock().unwrap().push(format!("{}: {told:?}", argv[0]));
        }
        stream.set_nonblocking(true).unwrap();
        let gone = || matches!((&stream).read(&mut [0]), Ok(0));
        let reply = self.call(request["node"].as_str().unwrap(), Call::Process { argv: &argv, cwd: &cwd, env: &env }, gone);
        stream.set_nonblocking(false).unwrap();
        if let Some(Reply::Out(out)) = reply {
            let answer = json!({"stdout": out.stdout, "stderr": out.stderr, "status": out.status});
            // The stand-in was killed at its deadline: nobody is left to tell.
            (&stream).write_all(answer.to_string().as_bytes()).ok();
        }
    }

    fn answer(&self, node: &str, kind: Kind, request: &Request) -> Option<Response> {
        let call = match kind {
            Kind::Consul => Call::Consul(request),
            Kind::Plugin => Call::Plugin(request),
            _ => Call::Engine(request),
        };
        let began = Instant::now();
        match self.call(node, call, || began.elapsed() > Duration::from_secs(20))? {
            Reply::Http(response) => Some(response),
            Reply::Out(_) => None,
        }
    }
}

fn standin() -> PathBuf {
    let standin = Path::new(env!("CARGO_BIN_EXE_handler")).with_file_name("examples").join("standin");
    assert!(standin.exists(), "build it first: cargo build --example standin");
    standin
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
