//! The cluster as it is, and what each call of a handler makes of it.

pub mod compose;
pub mod consul;
pub mod docker;
pub mod effect;
pub mod engine;
pub mod fault;
pub mod git;
pub mod http;
pub mod laws;
pub mod plugin;
pub mod script;
pub mod sets;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use effect::Effect;

pub const DRIVER: &str = "anybox/buttervolume:latest";

/// The files of a node, as the programs that it runs see them.
pub trait Files {
    fn read(&self, path: &Path) -> Option<String>;
    /// With the folders that it takes.
    fn write(&mut self, path: &Path, text: &str);
    fn remove(&mut self, path: &Path);
    /// Names, and whether they are folders; empty where there is no folder.
    fn list(&self, folder: &Path) -> Vec<(String, bool)>;
}

/// What a program prints, and how it exits.
#[derive(Clone, Debug)]
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
    pub engine: engine::Engine,
    pub has_plugin: bool,
    pub plugin: plugin::Plugin,
    pub services: BTreeMap<String, Value>,
    /// Consul's status of the other members as this node sees it; alive where nothing stands, unlisted for 0.
    pub sees: BTreeMap<String, u8>,
    pub reach: Reach,
    /// Nodes of one island reach each other by ssh.
    pub island: usize,
    /// Its disk is.
    pub full: bool,
    /// Its agent does not see the folder in which the plugin has its snapshots.
    pub no_snapshots_seen: bool,
    /// Its sshd lets nobody in.
    pub shut: bool,
    /// What its agent's token may not do.
    pub read_only: bool,
    /// What its agent tells of its watches and checks.
    pub configured: Value,
    /// By how many microseconds its clock is wrong.
    pub ahead: i64,
    /// The latest time that it has named.
    named: u64,
    /// How often its handlers were killed.
    pub kills: usize,
    /// How often its power failed.
    pub deaths: usize,
}

pub type Killer = Arc<dyn Fn(&str) + Send + Sync>;

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
    /// What paths begin with that no line shows.
    pub root: PathBuf,
    /// Microseconds since 1970; whoever drives the state sets it.
    pub time: u64,
    /// Until then Consul has no leader.
    pub leaderless_until: u64,
    pub closed: bool,
    /// How often members or the leader came and went: blocking queries then return early, as Consul's may at any time.
    pub stirred: usize,
    /// Told of the node whose handlers are to be killed.
    pub killer: Option<Killer>,
}

impl State {
    pub fn add_node(&mut self, name: &str) {
        let addr = format!("10.0.0.{}", self.nodes.len() + 1);
        let configured = json!({"Watches": [{}, {}, {}, {}, {}, {}], "Checks": [{"ScriptArgs": ["handler", "check"]}]});
        self.nodes.insert(name.to_owned(), Node { addr, has_plugin: true, configured, ..Node::default() });
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    /// The time of this node's clock, in microseconds since 1970.
    pub fn clock(&self, node: &str) -> u64 {
        self.time.saturating_add_signed(self.nodes[node].ahead)
    }

    /// The same as text, for names that must increase.
    pub fn now(&mut self, node: &str) -> String {
        let now = self.clock(node);
        let node = self.node(node);
        // A clock that was put back names what comes by what it says.
        node.named = if now + 1_000_000 < node.named { now } else { now.max(node.named + 1) };
        text_of(node.named)
    }

    pub fn reachable(&self, from: &str, to: &str) -> bool {
        self.nodes[from].island == self.nodes[to].island
    }

    /// `ssh … -- ADDRESS date +%s`
    pub fn ssh(&self, node: &str, args: &[&str]) -> Out {
        let [.., "--", host, "date", "+%s"] = args else { return Out::fail(255, &format!("stand-in: no such ssh: {args:?}")) };
        let to = self.nodes.iter().find(|(_, n)| n.addr == *host).map(|(name, _)| name).filter(|to| self.reachable(node, to));
        match to {
            Some(to) if self.nodes[to].shut => Out::fail(255, "root@node: Permission denied (publickey)."),
            Some(to) => Out::ok(format!("{}\n", self.clock(to) / 1_000_000)),
            None => Out::fail(255, &format!("ssh: connect to host {host} port 1122: Connection timed out")),
        }
    }

    pub fn has_leader(&self, node: &str) -> bool {
        self.nodes[node].reach != Reach::NoLeader && self.time >= self.leaderless_until
    }

    /// For this many microseconds there is no leader.
    pub fn lose_leader(&mut self, time: u64) {
        self.leaderless_until = self.time + time;
        self.stirred += 1;
    }

    /// What the leader's catalog says of a member: what those see whom the leader hears.
    pub fn member(&self, member: &str) -> u8 {
        let mut others = self.nodes.iter().filter(|(name, node)| *name != member && node.reach == Reach::Fine);
        others.find_map(|(_, node)| node.sees.get(member).copied()).unwrap_or(1)
    }

    /// The node is gone: its agent silent, its containers with it, and the others told that it failed.
    pub fn die(&mut self, node: &str) {
        self.see(node, 4);
        self.kill(node);
        self.two_may_run = true;
        let n = self.node(node);
        n.deaths += 1;
        n.reach = Reach::Silent;
        n.island = 99;
        self.lose_unsynced_snapshots(node);
        let n = self.node(node);
        // Not stopped: nobody is there to say a last word.
        n.engine.containers.iter_mut().for_each(|c| c.running = false);
    }

    /// It is back after a boot: docker starts what has a restart policy, before any handler runs.
    pub fn revive(&mut self, node: &str) {
        self.see(node, 1);
        let n = self.node(node);
        (n.reach, n.island) = (Reach::Fine, 0);
        n.engine.containers.iter_mut().for_each(|c| c.running = c.comes_back());
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

    pub fn heal(&mut self) {
        for node in self.nodes.values_mut() {
            (node.reach, node.island) = (Reach::Fine, 0);
            node.sees.clear();
        }
        self.stirred += 1;
    }

    /// The end of all handlers of a node, without a word.
    pub fn kill(&mut self, node: &str) {
        self.node(node).kills += 1;
        if let Some(killer) = self.killer.clone() {
            killer(node);
        }
    }
}

/// As the plugin and the engine write it.
fn text_of(micros: u64) -> String {
    let (days, micros) = (micros / 86_400_000_000, micros % 86_400_000_000);
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
