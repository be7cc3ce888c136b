//! A run of the real binary on one of the nodes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::Run;
use super::world::{Shared, World};

/// The processes of handlers by node.
#[derive(Default)]
pub struct Handlers(Mutex<BTreeMap<String, Vec<i32>>>);

impl Handlers {
    /// SIGKILL for all of a node: the handlers that were started, and the workers that these have started in turn.
    pub fn kill(&self, node: &str) {
        for pid in self.0.lock().unwrap().get(node).into_iter().flatten() {
            let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|child| child.parse().ok());
            let workers: Vec<i32> = children.filter(|child| program(*child).is_some_and(|exe| Some(exe) == program(*pid))).collect();
            signal(*pid, libc::SIGKILL);
            workers.iter().for_each(|worker| signal(*worker, libc::SIGKILL));
        }
    }

    pub fn signal(&self, node: &str, number: i32) {
        self.0.lock().unwrap().get(node).into_iter().flatten().for_each(|pid| signal(*pid, number));
    }
}

fn signal(pid: i32, number: i32) {
    // SAFETY: kill has no memory effects, and the process is a child that was not reaped (it leaves the list under the same lock), or was a
    // moment ago a child of such a one.
    unsafe { libc::kill(pid, number) };
}

pub struct Invocation<'a> {
    pub world: &'a World,
    pub node: String,
    pub command: Command,
    pub stdin: String,
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
            let _state = shared.lock();
            let child = self.command.spawn().unwrap();
            shared.handlers.0.lock().unwrap().entry(self.node.clone()).or_default().push(child.id() as i32);
            child
        };
        let (node, streams) = (self.node, (file("out"), file("err")));
        thread::spawn(move || follow(&shared, node, what, child, streams))
    }
}

fn follow(shared: &Arc<Shared>, node: String, what: String, mut child: Child, (out, err): (PathBuf, PathBuf)) -> Run {
    let begun = Instant::now();
    let mut overdue = false;
    let status = loop {
        {
            let mut handlers = shared.handlers.0.lock().unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                handlers.get_mut(&node).unwrap().retain(|p| *p != child.id() as i32);
                break status;
            }
        }
        if begun.elapsed() > Duration::from_secs(60) {
            overdue = true;
            shared.handlers.kill(&node);
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let run = Run {
        node,
        what,
        status: status.code().or(status.signal().filter(|s| *s != libc::SIGKILL).map(|s| 128 + s)),
        stdout: text(&out),
        stderr: text(&err),
        took: begun.elapsed(),
    };
    shared.runs.lock().unwrap().push(run.clone());
    assert!(!overdue, "the handler did not end: {run}");
    run
}
