//! A history is played in a simulated cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::draw::{Does, History, How, KINDS, On, Step, To};
use super::laws::{BAD, Watched, Witness, Wrong};
use crate::sets::{backup, put_back};
use crate::world::inside::{Sim, Start};
use crate::world::shop::{COPY, NODES, URL, compose};
use crate::world::state::{Reach, State};
use crate::world::{Act, Cluster, Effect, Kind, event, id};

const WIKI: &str = "file:///repos/wiki";
const NONSENSE: [&str; 3] = ["<html>502 Bad Gateway</html>", "", "{\"Err\": "];

/// How often what happened, over many histories.
#[derive(Default)]
pub struct Counts {
    pub steps: [u64; KINDS.len()],
    pub faults: BTreeMap<(Kind, &'static str), u64>,
    pub done: usize,
    pub failed: usize,
    pub takeovers: usize,
    pub deaths: usize,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.steps.iter_mut().zip(other.steps).for_each(|(sum, more)| *sum += more);
        other.faults.iter().for_each(|(fault, more)| *self.faults.entry(*fault).or_default() += more);
        self.done += other.done;
        self.failed += other.failed;
        self.takeovers += other.takeovers;
        self.deaths += other.deaths;
    }
}

struct Player {
    sim: Sim,
    witness: Witness,
    /// The events that were given: name, payload, word.
    ordered: Vec<(&'static str, Value, String)>,
    written: u64,
    cut: bool,
    stays_dead: bool,
    /// All keys, before each step: to be put back to.
    saved: Vec<Vec<(String, String)>>,
    counts: Counts,
}

pub struct Played {
    /// The step that broke a law, or as many as there are for the rest at the end.
    pub at: usize,
    pub wrong: Vec<Wrong>,
    pub counts: Counts,
    /// What a person wants to see of it.
    pub dump: String,
}

/// Up to the first law that is broken.
pub fn play(history: &History, keep: bool) -> Played {
    let sim = Sim::with_seed(history.seed, &NODES);
    if keep {
        sim.record();
    }
    sim.restarts(5);
    if let Some(blind) = history.blind {
        sim.lock().node(NODES[blind as usize]).no_snapshots_seen = true;
    }
    sim.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    let apps = [(URL, &["data"] as &[_]), (COPY, &["data"]), (WIKI, &["data", "more"])];
    let apps = apps[..history.apps as usize].iter().map(|(url, keys)| Watched::new(url, keys)).collect();
    let mut player = Player {
        sim,
        witness: Witness::new(apps),
        ordered: Vec::new(),
        written: 0,
        cut: false,
        stays_dead: history.stays_dead,
        saved: Vec::new(),
        counts: Counts::default(),
    };
    (0..history.apps).for_each(|app| player.push(app, How::Good));
    let (mut at, mut wrong) = (0, Vec::new());
    let is_put_back = history.steps.iter().any(|step| matches!(step, Step::PutBack { .. }));
    for step in &history.steps {
        if is_put_back {
            player.saved.push(backup(&player.sim));
        }
        if keep {
            player.sim.say(&format!("step {at}: {step:?}"));
        }
        if player.step(step)
            && let Some(kind) = step.kind()
        {
            player.counts.steps[kind] += 1;
        }
        wrong = player.witness.look(&player.sim);
        if !keep {
            player.sim.ended();
            player.sim.lock().log.clear();
        }
        if !wrong.is_empty() {
            break;
        }
        at += 1;
    }
    if wrong.is_empty() {
        wrong = player.rest();
    }
    for struck in player.sim.struck() {
        *player.counts.faults.entry(struck).or_default() += 1;
    }
    let Witness { done, failed, takeovers, .. } = player.witness;
    let deaths = player.sim.lock().nodes.values().map(|node| node.deaths).sum();
    let counts = Counts { done, failed, takeovers, deaths, ..player.counts };
    let dump = if keep { player.sim.dump() } else { String::new() };
    // Whoever is still at work is of no interest, and breaks no law any more.
    player.sim.abandon();
    Played { at, wrong, counts, dump }
}

impl Player {
    fn alive(&self) -> Vec<&'static str> {
        NODES.into_iter().filter(|node| self.sim.lock().nodes[*node].reach != Reach::Silent).collect()
    }

    fn dead(&self) -> Vec<&'static str> {
        NODES.into_iter().filter(|node| self.sim.lock().nodes[*node].reach == Reach::Silent).collect()
    }

    fn number(&mut self) -> u64 {
        self.written += 1;
        self.written
    }

    fn push(&mut self, app: u64, how: How) {
        let n = self.number();
        let is_bad = !matches!(how, How::Good | How::Slow | How::UpdateFails | How::PostFails);
        let start = match how {
            How::Slow => "slow",
            How::Unhealthy => "unhealthy",
            How::Exits => "exits",
            How::Refused => "refused",
            _ => "fine",
        };
        let build = if how == How::BuildFails { "fails" } else { "fine" };
        let mark = if is_bad { BAD } else { 'v' };
        let more = format!("x-standin: {{build: {build}, start: {start}, writes: '{mark}{n};'}}");
        let mut text = compose(&more);
        if self.witness.apps[app as usize].keys.len() > 1 {
            text = text.replace("['data:/data']", "['data:/data', 'more:/more', 'files:/files']");
            text += "  more: {driver: 'anybox/buttervolume:latest'}\n  files: {}\n";
        }
        let script = |fails: bool, mark: char| match fails {
            true => format!("write data {BAD}{n};\nexit 1"),
            false => format!("write data {mark}{n};"),
        };
        let (update, post) = (script(how == How::UpdateFails, 'u'), script(how == How::PostFails, 'p'));
        let files = [("docker-compose.yml", &*text), ("update.sh", &*update), ("post_migrate.sh", &*post)];
        let url = self.witness.apps[app as usize].url;
        self.sim.lock().commit(url, "master", &files);
    }

    fn order(&mut self, name: &'static str, payload: Value, hear: u64, by_hand: bool) {
        let word = format!("order {}", self.ordered.len());
        if name == "migrate" {
            self.witness.promise(id(&word), payload["repo"].as_str().unwrap_or_default());
        }
        self.ordered.push((name, payload.clone(), word.clone()));
        let alive = self.alive();
        let Some(first) = alive.first() else { return };
        if by_hand {
            return self.sim.start(first, Start::Request(name, payload));
        }
        self.hear(&event(&word, name, &payload), hear);
    }

    /// At least one node hears of it.
    fn hear(&self, event: &Value, hear: u64) {
        let alive = self.alive();
        let mut hears: Vec<&str> =
            NODES.iter().enumerate().filter(|(at, node)| hear >> at & 1 == 1 && alive.contains(node)).map(|(_, n)| *n).collect();
        if hears.is_empty() {
            hears.extend(alive.first());
        }
        hears.iter().for_each(|node| self.sim.start(node, Start::Events(vec![event.clone()])));
    }

    /// The id of one of the open orders, or of the last that there was.
    fn pick(&self, at: u64, wanted: &str) -> Option<String> {
        let s = self.sim.lock();
        let mut open: Vec<(u64, String)> = s.keys("order/").into_iter().map(|key| (s.store.kv[&key].create, key)).collect();
        open.sort();
        let failed: Vec<_> = open.iter().filter(|(_, key)| s.kv(key).is_some_and(|order| order["state"] == wanted)).collect();
        let open: Vec<_> = if failed.is_empty() { open.iter().collect() } else { failed };
        match open.len() {
            0 => self.ordered.last().map(|(.., word)| id(word)),
            n => Some(open[at as usize % n].1.trim_start_matches("order/").to_owned()),
        }
    }

    /// Whether there was anything to do.
    fn step(&mut self, step: &Step) -> bool {
        let alive = self.alive();
        let dead = self.dead();
        let is_alive = |node: u64| alive.contains(&NODES[node as usize]);
        match step {
            Step::Deploy { app, master, slave, update, hear, by_hand } => {
                let app = &self.witness.apps[*app as usize];
                let record = app.record(&self.sim.lock()).unwrap_or_default();
                let of = |role: &str| NODES.iter().position(|node| record[role] == *node).unwrap_or(0);
                let master = match master {
                    To::Node(node) => *node as usize,
                    To::Master => of("master"),
                    To::Slave => of("slave"),
                };
                let mut payload = json!({"repo": app.url, "branch": "master", "master": NODES[master], "update": update});
                if let Some(slave) = slave {
                    payload["slave"] = NODES[(master + *slave as usize) % 3].into();
                }
                self.order("deploy", payload, *hear, *by_hand);
            }
            Step::Destroy { app, hear } => {
                let url = self.witness.apps[*app as usize].url;
                self.order("destroy", json!({"repo": url, "branch": "master"}), *hear, false);
            }
            Step::Migrate { from, to, update, hear } => {
                let [from, to] = [from, to].map(|app| self.witness.apps[*app as usize].url);
                self.order("migrate", json!({"repo": from, "branch": "master", "target": {"repo": to}, "update": update}), *hear, false);
            }
            Step::Again { back, anew, hear } => {
                let Some(at) = self.ordered.len().checked_sub(1 + *back as usize) else { return false };
                let (name, payload, word) = self.ordered[at].clone();
                if *anew {
                    self.order(name, payload, *hear, false);
                } else {
                    self.hear(&event(&word, name, &payload), *hear);
                }
            }
            Step::Cancel { order, node } => {
                let Some(order) = self.pick(*order, "open").filter(|_| is_alive(*node)) else { return false };
                self.sim.start(NODES[*node as usize], Start::Cancel(order, None));
            }
            Step::GiveUp { order, node, on } => {
                let Some(order) = self.pick(*order, "failed").filter(|_| is_alive(*node)) else { return false };
                let mut s = self.sim.lock();
                let key = s.keys("order/").into_iter().chain(s.keys("history/")).find(|key| key.ends_with(&order));
                s.two_may_run |= key.and_then(|key| s.kv(&key)).is_some_and(|order| order["state"] != "done");
                drop(s);
                self.sim.start(NODES[*node as usize], Start::Cancel(order, Some(NODES[*on as usize])));
            }
            Step::Push { app, how } => self.push(*app, *how),
            Step::Write { app, stray } => return self.write(*app, *stray),
            Step::Replicate { node } => {
                if !is_alive(*node) {
                    return false;
                }
                self.sim.lock().run_schedules(NODES[*node as usize]);
            }
            Step::Sets { node } => {
                if !is_alive(*node) {
                    return false;
                }
                self.sim.start(NODES[*node as usize], Start::Sets);
            }
            Step::Torn { node, unsaid } => {
                let mut s = self.sim.lock();
                // Where the receiver cannot look, what the plugin says is all there is, as the README says.
                let unsaid = *unsaid && !s.nodes[NODES[*node as usize]].no_snapshots_seen;
                let plugin = s.plugin(NODES[*node as usize]);
                (plugin.torn, plugin.unsaid) = (1, unsaid);
            }
            Step::Watch { node } => {
                if !is_alive(*node) {
                    return false;
                }
                self.sim.start(NODES[*node as usize], Start::Events(Vec::new()));
            }
            Step::Go { doors } => self.sim.steps(*doors),
            // What a full disk keeps from its end, others may wait for.
            Step::Rest if self.sim.lock().nodes.values().any(|node| node.full) => self.sim.steps(5000),
            Step::Rest => {
                self.sim.run_until_rest();
                let rests = self.sim.try_settle().is_ok();
                self.sim.restarts(5);
                let mut s = self.sim.lock();
                let whole = |s: &State| s.nodes.values().all(|n| n.reach == Reach::Fine && n.sees.values().all(|seen| *seen == 1));
                // Of what runs without a record only its node knows: whoever deploys it elsewhere, unheard by that, begins anew.
                let unknown = self.witness.apps.iter().any(|app| app.record(&s).is_none() && !s.serving(&app.project).is_empty());
                if rests && !self.cut && whole(&s) && !unknown {
                    s.two_may_run = false;
                }
            }
            Step::Pass { secs } => self.sim.pass(Duration::from_secs(*secs)),
            Step::Kill { node } => self.sim.kill(NODES[*node as usize]),
            Step::PowerOff { node, master_of } => {
                let record = master_of.and_then(|app| self.witness.apps[app as usize].record(&self.sim.lock()));
                let master = record.and_then(|record| NODES.iter().position(|node| record["master"] == *node));
                let node = master.unwrap_or(*node as usize);
                if !is_alive(node as u64) || self.cut {
                    return false;
                }
                self.sim.power_off(NODES[node]);
                if alive.len() * 2 <= 4 {
                    self.sim.lock().lose_leader(u64::MAX / 4);
                }
            }
            Step::PowerOn => {
                let Some(node) = dead.first() else { return false };
                self.power_on(node);
            }
            Step::Cut { node } => {
                if self.cut || !dead.is_empty() {
                    return false;
                }
                self.cut = true;
                self.sim.lock().split(&[NODES[*node as usize]]);
            }
            Step::Heal => {
                if !self.cut {
                    return false;
                }
                self.cut = false;
                self.sim.lock().heal();
            }
            Step::Flap { node, by } => {
                if !is_alive(*node) || self.cut {
                    return false;
                }
                let mut s = self.sim.lock();
                s.two_may_run = true;
                s.stirred += 1;
                let sees = s.node(NODES[*by as usize]).sees.entry(NODES[*node as usize].to_owned()).or_insert(1);
                *sees = if *sees == 1 { 4 } else { 1 };
            }
            Step::NoLeader { secs } => {
                let mut s = self.sim.lock();
                if s.leaderless_until > s.time {
                    return false;
                }
                s.lose_leader(secs * 1_000_000);
            }
            Step::Full { node } => {
                let mut s = self.sim.lock();
                let full = &mut s.node(NODES[*node as usize]).full;
                *full = !*full;
            }
            Step::Clock { node, ahead } => self.sim.lock().node(NODES[*node as usize]).ahead = *ahead,
            Step::PutBack { ago } => {
                put_back(&self.sim, &self.saved[(self.saved.len() - 1).saturating_sub(*ago as usize)]);
                self.sim.lock().two_may_run = true;
                self.witness.put_back();
            }
            Step::Break { on, does, reads, nth, secs } => self.break_it(*on, *does, *reads, *nth, *secs),
        }
        true
    }

    fn power_on(&self, node: &str) {
        self.sim.power_on(node);
        let mut s = self.sim.lock();
        if s.nodes.values().filter(|n| n.reach != Reach::Silent).count() >= 2 && s.leaderless_until > s.time + 1_000_000_000 {
            s.leaderless_until = s.time;
        }
        drop(s);
        // The agent's watches fire when it starts.
        self.sim.start(node, Start::Events(Vec::new()));
    }

    /// Acknowledged only where a client can reach it: on the record's master, or, `stray`, on one that had been that.
    fn write(&mut self, app: u64, stray: bool) -> bool {
        let n = self.number();
        let app = &mut self.witness.apps[app as usize];
        let mut s = self.sim.lock();
        if app.in_maintenance(&s) {
            return false;
        }
        let record = app.record(&s).unwrap_or_default();
        let mut found: Option<(String, bool)> = None;
        for (node, at) in &s.nodes {
            for c in at.engine.containers.iter().filter(|c| c.project == app.project && c.service == "web" && c.serves()) {
                // A container that is as the next version wants it stays as it was made.
                let committed = app.committed.iter().any(|id| c.dir.ends_with(&**id));
                let named = record["master"] == **node;
                if committed && found.as_ref().is_none_or(|(_, found)| *found == stray) {
                    found = Some((node.clone(), named));
                }
            }
        }
        let Some((node, named)) = found else { return false };
        for key in app.keys {
            let token = format!("w{n}{};", &key[..1]);
            s.write(&node, &app.volume(key), &token);
            if named { app.owe(token, key) } else { app.keep(token) }
        }
        true
    }

    fn break_it(&self, on: On, does: Does, reads: bool, nth: u64, secs: u64) {
        let kind = match on {
            On::Consul => Kind::Consul,
            On::Plugin => Kind::Plugin,
            On::Engine => Kind::Engine,
            On::Process => Kind::Process,
            On::Disk => Kind::Disk,
        };
        // What a program prints may be anything; that it has failed is not printed.
        let prints = matches!(does, Does::Garble) && kind == Kind::Process;
        let hits = move |e: &Effect| e.kind == kind && (reads || !e.is_read) && (e.is_read || !prints);
        let failed = || Act::Fail("broken by the test".to_owned());
        let act = match does {
            Does::KillBefore => Act::KillBefore,
            Does::KillAfter => Act::KillAfter,
            _ if kind == Kind::Disk => failed(),
            Does::Fail => failed(),
            Does::Lose => Act::Lose,
            Does::Garble => Act::Garble(NONSENSE[secs as usize % NONSENSE.len()]),
            Does::Hang => Act::Hang,
            Does::Orphan if kind == Kind::Process => Act::Orphan(Duration::from_secs(secs)),
            Does::Orphan => Act::KillAfter,
            Does::Slow => Act::Slow(Duration::from_secs(secs * 20)),
        };
        self.sim.fault(hits, nth as usize, act);
    }

    /// The faults stop, the dead return but perhaps one, time passes, and everything comes to rest.
    fn rest(&mut self) -> Vec<Wrong> {
        for struck in self.sim.struck() {
            *self.counts.faults.entry(struck).or_default() += 1;
        }
        self.sim.no_faults();
        {
            let mut s = self.sim.lock();
            s.nodes.values_mut().for_each(|node| (node.full, node.plugin.torn) = (false, 0));
            if self.cut {
                s.heal();
            }
        }
        let dead = self.dead();
        let stays = self.stays_dead && dead.len() == 1;
        {
            let mut s = self.sim.lock();
            s.leaderless_until = s.leaderless_until.min(s.time + 100_000_000);
            for (name, node) in &mut s.nodes {
                node.sees.retain(|other, _| dead.contains(&&**other) && other != name);
            }
        }
        if !stays {
            dead.iter().for_each(|node| self.power_on(node));
        }
        self.sim.run_until_rest();
        let mut rest = Ok(());
        let mut settle = |rounds| {
            for _ in 0..rounds {
                self.sim.pass(Duration::from_secs(2000));
                rest = self.sim.try_settle();
            }
            self.sim.lock().keys("order/").len()
        };
        // An order that nobody has taken up in time is failed by the first look after that; those behind it have their time after it, those
        // too that were still in an inbox.
        let open = settle(3);
        settle(open);
        // What one look confirms is followed by the next set, which is confirmed by the look after that.
        for look in 0..12 {
            self.sim.pass(Duration::from_secs(if look % 3 == 0 { 2000 } else { 15 }));
            self.alive().iter().for_each(|node| self.sim.start(node, Start::Sets));
            self.sim.run_until_rest();
        }
        let mut wrong = self.witness.look(&self.sim);
        wrong.extend(rest.err().map(|text| ("no rest", text)));
        wrong.extend(self.witness.rest(&self.sim));
        if wrong.is_empty() {
            wrong = self.status();
        }
        wrong
    }

    /// Nothing is wrong but what a person has to look at.
    fn status(&self) -> Vec<Wrong> {
        self.sim.ended();
        self.alive().iter().for_each(|node| self.sim.start(node, Start::Status));
        self.sim.run_until_rest();
        let given_up = self.witness.apps.iter().any(|app| app.given_up || app.unwell);
        let of_dead = |line: &str| {
            self.dead()
                .iter()
                .any(|dead| line.contains(&format!("replica on {dead}")) || line.contains(&format!("snapshots on {dead} itself")))
        };
        // What was handed over to a node that looks at nothing grows old.
        let blind: Vec<String> =
            self.sim.lock().nodes.iter().filter(|(_, node)| node.no_snapshots_seen).map(|(name, _)| name.clone()).collect();
        let expected = |line: &str| {
            ["fenced on this node", "set aside on this node", "was given up", ", is dead"].iter().any(|known| line.contains(known))
                || of_dead(line)
                || blind.iter().any(|blind| line.contains(&format!("since {blind} cannot look at its snapshots any more")))
        };
        let mut wrong = Vec::new();
        for run in self.sim.ended() {
            let lines = run.stderr.lines().filter(|line| line.contains("wrong: ") && !expected(line) && !given_up);
            wrong.extend(lines.map(|line| ("status", format!("{}: {line}", run.node))));
            wrong.extend((run.status.is_none_or(|status| status > 1)).then(|| ("status", run.to_string())));
        }
        wrong
    }
}
