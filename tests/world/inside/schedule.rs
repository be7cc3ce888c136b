//! Who goes on: one run at a time, picked from the seed at every door. Time is the simulation's, and jumps when nobody can go on.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use handler::settings::Settings;

use super::super::Run;
use super::super::state::State;
use super::super::state::effect::Call;
use super::super::state::fault::Faults;
use super::disk::{Disk, Ino};
use super::random::Random;

/// More than any history of a test takes, though a send may hang for six hours and others look every few seconds: whoever goes on beyond it will
/// not end.
const MOST_DOORS: u64 = 2_000_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Turn {
    /// The test.
    Driver,
    Run(u64),
}

/// The panic of a run that is killed.
pub struct Killed;

#[derive(Clone, Debug)]
pub enum Wait {
    Ready,
    /// A time.
    Until(u64),
    /// A change of Consul's store or of who is there, at most until a time.
    Change {
        index: u64,
        stirred: usize,
        leader: bool,
        until: u64,
    },
    /// A lock on this node.
    Lock(Ino),
    /// The end of another run.
    End(u64),
}

pub struct Running {
    pub node: String,
    pub what: String,
    /// The node's kills when it began.
    kills: usize,
    pub began: u64,
    pub wait: Wait,
    pub log: String,
    /// For the agent that starts it again.
    pub starts: usize,
    woken: Arc<Condvar>,
}

/// A process whose handler was killed; it goes on.
pub struct Orphan {
    pub node: String,
    pub at: u64,
    pub argv: Vec<String>,
    pub cwd: std::path::PathBuf,
    pub env: BTreeMap<String, String>,
    pub mark: Option<String>,
}

pub struct Inner {
    pub state: State,
    pub disks: BTreeMap<String, Disk>,
    pub faults: Faults,
    pub random: Random,
    pub settings: Settings,
    pub runs: BTreeMap<u64, Running>,
    pub ended: Vec<Run>,
    /// Who holds which lock.
    pub locks: BTreeMap<(String, Ino), u64>,
    pub orphans: Vec<Orphan>,
    /// How the runs ended that a handler has started apart.
    pub apart: BTreeMap<u64, Option<i32>>,
    /// All that happened, if it is to be kept.
    pub transcript: Option<String>,
    /// How often an agent starts a killed handler again, with no events.
    pub restarts: usize,
    /// A node and the how-manieth of its doors, counted from here, at which it is killed or loses its power.
    pub ends: Option<(String, u64, End)>,
    pub turn: Turn,
    /// Doors until it is the driver's turn again.
    pub budget: u64,
    pub doors: u64,
    next_run: u64,
    /// How probable it is that who is at work goes on, in percent.
    sticky: u64,
    deaths: BTreeMap<String, usize>,
    rest: Arc<Condvar>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Kill,
    PowerOff,
}

pub type Guard<'a> = MutexGuard<'a, Inner>;

pub struct Shared(Mutex<Inner>);

impl Inner {
    pub fn new(seed: u64, state: State, settings: Settings) -> Inner {
        let mut random = Random::new(seed);
        let sticky = *random.pick(&[0, 50, 80, 95]);
        Inner {
            state,
            disks: BTreeMap::new(),
            faults: Faults::default(),
            random,
            settings,
            runs: BTreeMap::new(),
            ended: Vec::new(),
            locks: BTreeMap::new(),
            orphans: Vec::new(),
            apart: BTreeMap::new(),
            transcript: None,
            restarts: 0,
            ends: None,
            turn: Turn::Driver,
            budget: 0,
            doors: 0,
            next_run: 1,
            sticky,
            deaths: BTreeMap::new(),
            rest: Arc::default(),
        }
    }

    /// Puts it into the list of those that can go on; its thread is the caller's to start.
    pub fn enter(&mut self, node: &str, what: String, after: u64, starts: usize) -> u64 {
        let id = self.next_run;
        self.next_run += 1;
        let kills = self.state.nodes[node].kills;
        let wait = if after == 0 { Wait::Ready } else { Wait::Until(self.state.time + after) };
        let began = self.state.time;
        self.note(node, id, &format!("starts: {what}"));
        let running = Running { node: node.to_owned(), what, kills, began, wait, log: String::new(), starts, woken: Arc::default() };
        self.runs.insert(id, running);
        id
    }

    pub fn note(&mut self, node: &str, run: u64, text: &str) {
        let time = self.state.time;
        if let Some(transcript) = &mut self.transcript {
            *transcript += &format!("{}.{:06} {node} {run} {text}\n", time / 1_000_000, time % 1_000_000);
        }
    }

    pub fn is_killed(&self, run: u64) -> bool {
        let run = &self.runs[&run];
        self.state.nodes.get(&run.node).is_none_or(|node| node.kills != run.kills)
    }

    fn can_go_on(&self, id: u64) -> bool {
        let run = &self.runs[&id];
        self.is_killed(id)
            || match &run.wait {
                Wait::Ready => true,
                Wait::Until(time) => *time <= self.state.time,
                Wait::Change { index, stirred, leader, until } => {
                    let s = &self.state;
                    *until <= s.time || *index != s.store.index || *stirred != s.stirred || *leader != s.has_leader(&run.node)
                }
                Wait::End(run) => !self.runs.contains_key(run),
                Wait::Lock(ino) => !self.locks.contains_key(&(run.node.clone(), *ino)),
            }
    }

    fn deadline(run: &Running) -> Option<u64> {
        match run.wait {
            Wait::Until(time) | Wait::Change { until: time, .. } => Some(time),
            _ => None,
        }
    }

    /// Who goes on now; jumps to the next time at which somebody can.
    fn pick(&mut self, me: Turn) -> Turn {
        self.see_deaths();
        loop {
            self.adopt_orphans();
            let can: Vec<u64> = self.runs.keys().copied().filter(|id| self.can_go_on(*id)).collect();
            // Whoever is killed is gone at once.
            if let Some(killed) = can.iter().find(|id| self.is_killed(**id)) {
                return Turn::Run(*killed);
            }
            if self.runs.is_empty() || self.budget == 0 {
                return Turn::Driver;
            }
            if let Turn::Run(me) = me
                && can.contains(&me)
                && self.random.chance(self.sticky)
            {
                return Turn::Run(me);
            }
            if !can.is_empty() {
                return Turn::Run(*self.random.pick(&can));
            }
            let times = self.runs.values().filter_map(Inner::deadline).chain(self.orphans.iter().map(|orphan| orphan.at));
            match times.min() {
                Some(time) => self.state.time = time.max(self.state.time),
                None => self.give_up("nobody can go on"),
            }
        }
    }

    fn give_up(&mut self, why: &str) {
        let who: Vec<String> = self.runs.values().map(|run| format!("{} {:?}", run.what, run.wait)).collect();
        self.state.violations.push(format!("{why}: {who:?}"));
        let nodes: Vec<String> = self.state.nodes.keys().cloned().collect();
        self.restarts = 0;
        nodes.iter().for_each(|node| self.state.kill(node));
    }

    /// Those that the state shows now have been dealt with.
    pub fn forget_deaths(&mut self) {
        self.deaths = self.state.nodes.iter().map(|(name, node)| (name.clone(), node.deaths)).collect();
    }

    /// What the power failure of a node does besides what its state shows.
    fn see_deaths(&mut self) {
        for (name, node) in &self.state.nodes {
            let seen = self.deaths.entry(name.clone()).or_default();
            if *seen != node.deaths {
                *seen = node.deaths;
                let disk = self.disks.get_mut(name).unwrap();
                disk.time = self.state.time;
                disk.power_failure(&mut self.random);
                self.orphans.retain(|orphan| orphan.node != *name);
            }
        }
    }

    /// What became of processes that were left behind.
    fn adopt_orphans(&mut self) {
        while let Some(i) = self.orphans.iter().position(|orphan| orphan.at <= self.state.time) {
            let orphan = self.orphans.remove(i);
            let argv: Vec<&str> = orphan.argv.iter().map(String::as_str).collect();
            let call = Call::Process { argv: &argv, cwd: &orphan.cwd, env: &orphan.env };
            let effect = call.effect(&self.state, &orphan.node);
            self.note(&orphan.node, 0, &format!("orphan {}", effect.line));
            let disk = self.disks.get_mut(&orphan.node).unwrap();
            disk.time = self.state.time;
            call.answer(&mut self.state, disk, &orphan.node, false);
            self.state.check(&effect);
        }
    }

    fn wake(&self) {
        match self.turn {
            Turn::Driver => self.rest.notify_one(),
            Turn::Run(id) => self.runs[&id].woken.notify_one(),
        }
    }
}

impl Shared {
    pub fn new(inner: Inner) -> Shared {
        Shared(Mutex::new(inner))
    }

    pub fn lock(&self) -> Guard<'_> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for its turn; does not come back if it is killed.
    fn wait_for_turn<'a>(&self, mut inner: Guard<'a>, me: u64) -> Guard<'a> {
        let woken = inner.runs[&me].woken.clone();
        while inner.turn != Turn::Run(me) {
            inner = woken.wait(inner).unwrap_or_else(|e| e.into_inner());
        }
        inner.runs.get_mut(&me).unwrap().wait = Wait::Ready;
        inner
    }

    /// The first of a run.
    pub fn begin(&self, me: u64) {
        let inner = self.wait_for_turn(self.lock(), me);
        drop(die_if_killed(inner, me));
    }

    /// A point at which another may go on.
    pub fn pass(&self, me: u64) -> Guard<'_> {
        let mut inner = self.lock();
        inner.doors += 1;
        inner.budget = inner.budget.saturating_sub(1);
        inner.state.time += 1 + inner.random.below(200);
        if inner.doors > MOST_DOORS {
            inner.doors = 0;
            inner.give_up("the runs do not end");
        }
        let node = inner.runs[&me].node.clone();
        if let Some((at, left, end)) = &mut inner.ends
            && *at == node
        {
            *left -= 1;
            if *left == 0 {
                let end = *end;
                inner.ends = None;
                inner.note(&node, me, &format!("{end:?}"));
                match end {
                    End::Kill => inner.state.kill(&node),
                    End::PowerOff => inner.state.die(&node),
                }
            }
        }
        self.let_go_on(inner, me)
    }

    fn let_go_on<'a>(&'a self, mut inner: Guard<'a>, me: u64) -> Guard<'a> {
        let next = inner.pick(Turn::Run(me));
        if next != Turn::Run(me) {
            inner.turn = next;
            inner.wake();
        }
        let inner = self.wait_for_turn(inner, me);
        die_if_killed(inner, me)
    }

    /// Until what is waited for has come.
    pub fn wait<'a>(&'a self, mut inner: Guard<'a>, me: u64, wait: Wait) -> Guard<'a> {
        inner.runs.get_mut(&me).unwrap().wait = wait;
        self.let_go_on(inner, me)
    }

    /// The same, for a caller that has to do something before it goes when it is killed meanwhile: false then.
    pub fn wait_or_die<'a>(&'a self, mut inner: Guard<'a>, me: u64, until: u64) -> (Guard<'a>, bool) {
        inner.runs.get_mut(&me).unwrap().wait = Wait::Until(until);
        let next = inner.pick(Turn::Run(me));
        if next != Turn::Run(me) {
            inner.turn = next;
            inner.wake();
        }
        let inner = self.wait_for_turn(inner, me);
        let alive = !inner.is_killed(me);
        (inner, alive)
    }

    /// The last of a run: whoever is next goes on.
    pub fn end(&self, mut inner: Guard<'_>, me: u64, status: Option<i32>) {
        let run = inner.runs.remove(&me).unwrap();
        inner.locks.retain(|_, holder| *holder != me);
        if let Some(ended) = inner.apart.get_mut(&me) {
            *ended = status;
        }
        let took = std::time::Duration::from_micros(inner.state.time - run.began);
        inner.note(&run.node, me, &format!("ends: {status:?}"));
        inner.ended.push(Run { node: run.node, what: run.what, status, stdout: String::new(), stderr: run.log, took });
        inner.turn = inner.pick(Turn::Driver);
        inner.wake();
    }

    /// The driver lets the runs go on through so many doors; it returns when none is left to go on.
    pub fn drive(&self, doors: u64) {
        let mut inner = self.lock();
        inner.budget = doors;
        inner.doors = 0;
        inner.turn = inner.pick(Turn::Driver);
        if inner.turn == Turn::Driver {
            return;
        }
        inner.wake();
        let rest = inner.rest.clone();
        while inner.turn != Turn::Driver {
            inner = rest.wait(inner).unwrap_or_else(|e| e.into_inner());
        }
    }
}

pub fn die_if_killed(inner: Guard<'_>, me: u64) -> Guard<'_> {
    if inner.is_killed(me) {
        die(inner);
    }
    inner
}

/// The end of this thread's run, without a word.
pub fn die(inner: Guard<'_>) -> ! {
    drop(inner);
    // Unlike a panic it is not reported.
    resume_unwind(Box::new(Killed))
}
