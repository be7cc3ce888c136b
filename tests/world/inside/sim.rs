//! What a test does with the simulation.

use std::any::Any;
use std::fmt::Write as _;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use handler::data::sets;
use handler::here::Here;
use handler::orders;
use handler::outside::doors::World;
use handler::settings::{Address, Routes, Settings, Timeouts, Version};
use handler::verbs::Failure;
use serde_json::Value;

use super::super::state::effect::{Effect, Kind};
use super::super::state::fault::{Act, Hits, by_text, exactly};
use super::super::state::{DRIVER, Reach, State, view};
use super::super::{Cluster, Run};
use super::disk::Disk;
use super::doors::{Door, doors};
use super::log;
use super::schedule::{End, Guard, Inner, Killed, Shared};

/// When the simulation begins: 2026-11-24.
const BEGIN: u64 = 1_795_478_400_000_000;
const DEPLOY: &str = "/deploy";

/// What a handler is started with.
#[derive(Clone, Debug)]
pub enum Start {
    /// Events on its standard input.
    Events(Vec<Value>),
    /// A request of a person's: the event's name and its payload.
    Request(&'static str, Value),
    Reconcile,
    /// What is to be done for one application.
    Work(String),
    /// What is due of the sets, as `check` starts it.
    Sets,
    Replicate(String),
    /// `cancel ORDER`, with the node that the undo is given up on.
    Cancel(String, Option<&'static str>),
    /// `status`: what it says goes to its log.
    Status,
    /// `check`: what it prints goes to its log.
    Check,
    Probe,
    /// `plan` of a request: what it says goes to its log.
    Plan(&'static str, Value),
}

pub struct Sim {
    shared: Arc<Shared>,
}

/// All that a history goes on from.
pub struct Saved {
    state: State,
    disks: std::collections::BTreeMap<String, Disk>,
}

impl Sim {
    /// The nodes' clocks differ by up to two seconds.
    pub fn with_seed(seed: u64, nodes: &[&str]) -> Sim {
        let state = State { time: BEGIN, root: "/nowhere".into(), ..State::default() };
        let mut inner = Inner::new(seed, state, settings());
        for name in nodes {
            inner.state.add_node(name);
            inner.state.node(name).ahead = inner.random.below(4_000_000) as i64 - 2_000_000;
            inner.disks.insert(name.to_string(), Disk::default());
        }
        Sim { shared: Arc::new(Shared::new(inner)) }
    }

    fn inner(&self) -> Guard<'_> {
        self.shared.lock()
    }

    // ---- what happens

    /// The run begins when its turn comes.
    pub fn start(&self, node: &str, start: Start) {
        self.start_later(node, start, Duration::ZERO);
    }

    pub fn start_later(&self, node: &str, start: Start, after: Duration) {
        spawn(&self.shared, &mut self.inner(), node, start, after, 0);
    }

    /// One of those that can go on gets as far as its next door, or to its end.
    pub fn step(&self) {
        self.steps(1);
    }

    pub fn steps(&self, doors: u64) {
        self.shared.drive(doors);
    }

    /// Until every run has ended. One that has given up without a leader begins again with its node's next watch, whatever else is at work
    /// there: others may wait for it.
    pub fn run_until_rest(&self) {
        for _ in 0..8 {
            self.shared.drive(50_000);
            let reached: Vec<String> = {
                let inner = self.inner();
                if inner.runs.is_empty() {
                    return;
                }
                inner.state.nodes.iter().filter(|(_, node)| node.reach == Reach::Fine).map(|(name, _)| name.clone()).collect()
            };
            reached.iter().for_each(|node| self.start(node, Start::Reconcile));
        }
        self.shared.drive(u64::MAX);
    }

    /// How many runs have not ended.
    pub fn at_work(&self) -> usize {
        self.inner().runs.len()
    }

    /// Time passes for everybody.
    pub fn pass(&self, time: Duration) {
        self.inner().state.time += time.as_micros() as u64;
    }

    /// The end of the node's handlers, without a word; what they have started goes on.
    pub fn kill(&self, node: &str) {
        self.inner().state.kill(node);
        self.steps(0);
    }

    /// Its disk has what was synced; its containers are gone, its agent is silent.
    pub fn power_off(&self, node: &str) {
        self.inner().state.die(node);
        self.steps(0);
    }

    /// It has booted; its engine has started what has a restart policy.
    pub fn power_on(&self, node: &str) {
        self.inner().state.revive(node);
    }

    /// From here on, at the node's `nth` door.
    pub fn end_at(&self, node: &str, nth: u64, end: End) {
        self.inner().ends = Some((node.to_owned(), nth, end));
    }

    /// Whether that has happened.
    pub fn has_ended(&self) -> bool {
        self.inner().ends.is_none()
    }

    /// The end: all runs are killed, and what they broke is forgotten.
    pub fn abandon(self) {
        self.end_all();
        self.violations();
    }

    fn end_all(&self) {
        {
            let mut inner = self.inner();
            inner.restarts = 0;
            let nodes: Vec<String> = inner.state.nodes.keys().cloned().collect();
            nodes.iter().for_each(|node| inner.state.kill(node));
        }
        self.run_until_rest();
    }

    // ---- what goes wrong

    pub fn fault(&self, hits: impl Fn(&Effect) -> bool + Send + 'static, nth: usize, act: Act) {
        self.add_fault(Box::new(hits), nth, act);
    }

    fn add_fault(&self, hits: Hits, nth: usize, act: Act) {
        self.inner().faults.add(hits, nth, act);
    }

    /// The first call of this node (of any, for "") whose line contains the text.
    pub fn on(&self, node: &str, text: &str, act: Act) {
        self.add_fault(by_text(node, text), 1, act);
    }

    /// Each of them, for ever.
    pub fn on_each(&self, node: &str, text: &str, act: Act) {
        self.add_fault(by_text(node, text), 0, act);
    }

    pub fn on_exactly(&self, effect: &Effect, nth: usize, act: Act) {
        self.add_fault(exactly(effect), nth, act);
    }

    /// The faults that have struck since the last look.
    pub fn struck(&self) -> Vec<(Kind, &'static str)> {
        std::mem::take(&mut self.inner().faults.struck)
    }

    /// Takes back the faults that are left; answers whether all had struck.
    pub fn no_faults(&self) -> bool {
        self.inner().faults.clear()
    }

    // ---- what a test arranges and looks at

    pub fn settings(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.inner().settings);
    }

    /// Keeps all that happens from now on.
    pub fn record(&self) {
        self.inner().transcript.get_or_insert_default();
    }

    /// Into what is kept.
    pub fn say(&self, text: &str) {
        self.inner().note("----", 0, text);
    }

    pub fn transcript(&self) -> String {
        self.inner().transcript.clone().unwrap_or_default()
    }

    /// How often an agent starts a handler again that was killed.
    pub fn restarts(&self, times: usize) {
        self.inner().restarts = times;
    }

    /// The runs that have ended since the last look.
    pub fn ended(&self) -> Vec<Run> {
        self.inner().ended.drain(..).collect()
    }

    /// How many doors were passed since the runs began to go on.
    pub fn doors(&self) -> u64 {
        self.inner().doors
    }

    pub fn disk<T>(&self, node: &str, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(self.inner().disks.get_mut(node).unwrap())
    }

    /// The state now, to come back to with `load`; all runs have ended.
    pub fn save(&self) -> Saved {
        let inner = self.inner();
        assert!(inner.runs.is_empty());
        Saved { state: inner.state.clone(), disks: inner.disks.clone() }
    }

    pub fn load(&self, saved: &Saved) {
        let mut inner = self.inner();
        assert!(inner.runs.is_empty());
        inner.faults.clear();
        inner.ended.clear();
        inner.orphans.clear();
        inner.ends = None;
        (inner.state, inner.disks) = (saved.state.clone(), saved.disks.clone());
        inner.forget_deaths();
        if let Some(transcript) = &mut inner.transcript {
            transcript.clear();
        }
    }

    /// What must hold and did not, so far.
    pub fn violations(&self) -> Vec<String> {
        self.inner().state.violations.drain(..).collect()
    }

    /// Everything that a person wants to see of a failed test.
    pub fn dump(&self) -> String {
        let mut out = self.transcript() + "\n==== runs\n";
        let inner = self.inner();
        inner.ended.iter().for_each(|run| writeln!(out, "{run}").unwrap());
        out += "==== calls\n";
        inner.state.log.iter().for_each(|e| writeln!(out, "{}: {}", e.node, e.line).unwrap());
        out += "==== keys\n";
        let store = &inner.state.store;
        store.kv.keys().for_each(|k| writeln!(out, "{k} = {}", store.text(k).unwrap()).unwrap());
        for (name, disk) in &inner.disks {
            writeln!(out, "==== {name}\n{}", disk.paths().join("\n")).unwrap();
        }
        let violations = inner.state.violations.join("\n");
        drop(inner);
        out + "==== state\n" + &self.state() + "==== violations\n" + &violations
    }
}

impl Cluster for Sim {
    fn new(nodes: &[&str]) -> Sim {
        Sim::with_seed(1, nodes)
    }

    fn lock(&self) -> impl DerefMut<Target = State> {
        StateGuard(self.inner())
    }

    fn deliver_all(&self, events: &[Value]) -> Vec<Run> {
        let reached = |(name, node): (&String, &super::super::state::Node)| (node.reach == Reach::Fine).then(|| name.clone());
        let nodes: Vec<String> = self.inner().state.nodes.iter().filter_map(reached).collect();
        let before = std::mem::take(&mut self.inner().ended);
        self.restarts(5);
        nodes.iter().for_each(|node| self.start(node, Start::Events(events.to_vec())));
        self.run_until_rest();
        self.restarts(0);
        let mut inner = self.inner();
        let ended = inner.ended.clone();
        inner.ended = [before, ended.clone()].concat();
        ended
    }

    fn try_settle(&self) -> Result<(), String> {
        let mut runs = Vec::new();
        let effects = || self.inner().state.log.iter().filter(|e| !e.is_read).count();
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
        let inner = self.inner();
        inner.state.text(|node| view::checkouts(&inner.disks[node], Path::new(DEPLOY)))
    }
}

struct StateGuard<'a>(Guard<'a>);

impl Deref for StateGuard<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0.state
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0.state
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.end_all();
        if thread::panicking() {
            eprintln!("{}", self.dump());
        } else {
            let violations = self.violations();
            assert!(violations.is_empty(), "what must always hold did not: {violations:#?}\n{}", self.dump());
        }
    }
}

/// As the defaults are, but a container without a check is healthy at once.
fn settings() -> Settings {
    let seconds = Duration::from_secs;
    Settings {
        deploy_dir: DEPLOY.into(),
        driver: DRIVER.into(),
        plugin_socket: None,
        snapshots: super::SNAPSHOTS.into(),
        engine_socket: "/var/run/docker.sock".into(),
        agent: Address { base: "http://127.0.0.1:8500".into(), socket: None, token: None, tls: None },
        routes: Routes { caddy: Version::Two, admin: None, storage: None, ports: None, network: None, upstreams: Vec::new() },
        proxy_protocol: false,
        settle: Duration::ZERO,
        by_watch: false,
        own_ssh: false,
        timeouts: Timeouts {
            git: seconds(600),
            pull: seconds(1800),
            build: seconds(3600),
            up: seconds(300),
            stop: seconds(120),
            script: seconds(3600),
            health: seconds(120),
            send: seconds(6 * 3600),
            handover: seconds(6 * 3600),
            consul: seconds(30),
            order: seconds(600),
            proxy: seconds(60),
        },
    }
}

/// Its thread ends by itself.
pub fn spawn(shared: &Arc<Shared>, inner: &mut Inner, node: &str, start: Start, after: Duration, starts: usize) -> u64 {
    let what = match &start {
        Start::Events(events) => format!("{node}: handler <<< {}", Value::from(events.clone())),
        Start::Request(event, payload) => format!("{node}: handler {event} {payload}"),
        Start::Reconcile => format!("{node}: handler reconcile"),
        Start::Work(name) => format!("{node}: handler work {name}"),
        Start::Replicate(name) => format!("{node}: handler replicate {name}"),
        Start::Sets => format!("{node}: what is due of the sets"),
        Start::Cancel(order, on) => format!("{node}: handler cancel {order} {on:?}"),
        Start::Status => format!("{node}: handler status"),
        Start::Check => format!("{node}: handler check"),
        Start::Probe => format!("{node}: handler probe"),
        Start::Plan(event, payload) => format!("{node}: handler plan {event} {payload}"),
    };
    let run = inner.enter(node, what, after.as_micros() as u64, starts);
    let door = Door { shared: shared.clone(), run, node: node.to_owned() };
    let settings = inner.settings.clone();
    thread::spawn(move || follow(&door, settings, start));
    run
}

/// A run, from its beginning to its end.
fn follow(door: &Door, settings: Settings, start: Start) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        door.shared.begin(door.run);
        log::enter(door);
        carry_out(door, settings, start)
    }));
    log::leave();
    let mut inner = door.shared.lock();
    let status = match ended {
        Ok(status) => Some(status),
        Err(killed) if killed.is::<Killed>() => None,
        Err(panic) => {
            let why = format!("{}: the handler panicked: {}", door.node, text_of(&*panic));
            inner.state.violations.push(why);
            Some(101)
        }
    };
    let starts = inner.runs[&door.run].starts;
    let reached = inner.state.nodes.get(&door.node).is_some_and(|node| node.reach == Reach::Fine);
    if status.is_none() && starts < inner.restarts && reached {
        spawn(&door.shared, &mut inner, &door.node, Start::Events(Vec::new()), Duration::from_millis(500), starts + 1);
    }
    door.shared.end(inner, door.run, status);
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default()
}

/// The exit status.
fn carry_out(door: &Door, settings: Settings, start: Start) -> i32 {
    let here = Here::new(settings, World::new(doors(door)));
    let prepared = here.paths.prepare(&here.world).map_err(Failure::from);
    let ended = prepared.and_then(|()| match start {
        Start::Events(events) => handler::verbs::events(&here, &Value::from(events).to_string(), &[]),
        Start::Request(event, payload) => {
            handler::verbs::request(&here, event, &payload.to_string(), &[], |_| {}, |line| ::log::info!("{line}"))
        }
        Start::Reconcile => handler::verbs::reconcile(&here, &[]),
        Start::Work(name) => handler::verbs::work(&here, &name),
        Start::Replicate(name) => handler::verbs::replicate(&here, &name, false),
        Start::Sets => sets::look(&here)
            .and_then(|seen| sets::due(&here, &seen, &orders::open(&here.consul)?))
            .map_err(Failure::from)
            .and_then(|due| {
                let failed: Vec<Failure> = due.iter().filter_map(|name| handler::verbs::replicate(&here, name, false).err()).collect();
                failed.into_iter().next().map_or(Ok(()), Err)
            }),
        Start::Cancel(order, on) => handler::verbs::cancel(&here, &order, on).map(drop),
        Start::Plan(event, payload) => {
            handler::verbs::plan(&here, event, &payload.to_string()).map(|text| text.lines().for_each(|line| ::log::info!("{line}")))
        }
        Start::Probe => handler::verbs::probe(&here, |text| {
            text.lines().for_each(|line| ::log::info!("{line}"));
            Ok(())
        }),
        Start::Check => {
            let report = handler::verbs::check(&here, &[]);
            report.text.lines().for_each(|line| ::log::info!("{line}"));
            if report.wrong == 0 { Ok(()) } else { Err(Failure::Wrong { count: report.wrong }) }
        }
        Start::Status => handler::verbs::status(&here, None, (true, false), |text| {
            text.lines().for_each(|line| ::log::error!("{line}"));
            Ok(())
        }),
    });
    match ended {
        Ok(()) => 0,
        Err(failure) => {
            ::log::error!("{failure}");
            if matches!(failure, Failure::Usage(_)) { 2 } else { 1 }
        }
    }
}
