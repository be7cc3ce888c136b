//! What happens in a history, as data: drawn from a seed before anything is played, so that steps can be left out and the rest played again.
//! What a step is about is a number that is always good: of what is there at that moment, the how-manieth.

use crate::world::inside::random::Random;

/// A bit for each node.
pub type Hear = u64;

/// How a new version behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    Good,
    Slow,
    Unhealthy,
    Exits,
    Refused,
    BuildFails,
    /// Its update.sh writes, then fails.
    UpdateFails,
    /// Its post_migrate.sh does.
    PostFails,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum On {
    Consul,
    Plugin,
    Engine,
    Process,
    Disk,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Does {
    Fail,
    Lose,
    Garble,
    Hang,
    Slow,
    KillBefore,
    KillAfter,
    Orphan,
}

/// Where a deploy goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum To {
    Node(u64),
    Master,
    Slave,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The slave: so many nodes after the master.
    Deploy {
        app: u64,
        master: To,
        slave: Option<u64>,
        update: bool,
        hear: Hear,
        by_hand: bool,
    },
    Destroy {
        app: u64,
        hear: Hear,
    },
    Migrate {
        from: u64,
        to: u64,
        update: bool,
        hear: Hear,
    },
    /// What was ordered so many orders ago, once more; or the same event is delivered once more.
    Again {
        back: u64,
        anew: bool,
        hear: Hear,
    },
    Cancel {
        order: u64,
        node: u64,
    },
    GiveUp {
        order: u64,
        node: u64,
        on: u64,
    },
    Push {
        app: u64,
        how: How,
    },
    /// A client's write, which is acknowledged.
    Write {
        app: u64,
        stray: bool,
    },
    /// What the plugin's schedules do by the hour.
    Replicate {
        node: u64,
    },
    /// What the node's check starts for the sets.
    Sets {
        node: u64,
    },
    /// What is sent to the node next is cut off, and its sender may not hear of it.
    Torn {
        node: u64,
        unsaid: bool,
    },
    /// A watch starts the handler.
    Watch {
        node: u64,
    },
    Go {
        doors: u64,
    },
    /// Until every run has ended, and all that lives has looked once more.
    Rest,
    Pass {
        secs: u64,
    },
    Kill {
        node: u64,
    },
    /// Of this node, or of an application's master.
    PowerOff {
        node: u64,
        master_of: Option<u64>,
    },
    PowerOn,
    Cut {
        node: u64,
    },
    Heal,
    /// A node is seen as failed by another, or alive again.
    Flap {
        node: u64,
        by: u64,
    },
    NoLeader {
        secs: u64,
    },
    /// A node's disk is full, or has room again.
    Full {
        node: u64,
    },
    Clock {
        node: u64,
        ahead: i64,
    },
    Break {
        on: On,
        does: Does,
        reads: bool,
        nth: u64,
        secs: u64,
    },
    /// Consul is put back to what it was so many steps ago.
    PutBack {
        ago: u64,
    },
}

/// Their names, in the order of [`Step::kind`].
pub const KINDS: [&str; 27] = [
    "deploy without slave",
    "deploy with slave",
    "deploy with update",
    "destroy",
    "migrate",
    "order again",
    "cancel",
    "give up",
    "good version",
    "bad version",
    "client writes",
    "replicate",
    "watch",
    "go on",
    "rest",
    "time passes",
    "kill",
    "power off",
    "power on",
    "cut",
    "heal",
    "flap",
    "no leader",
    "full disk",
    "clock",
    "sets",
    "torn",
];
const BREAK: usize = KINDS.len();

impl Step {
    /// Its number in [`KINDS`]; none for a fault, which is counted when it strikes, and for what is rare.
    pub fn kind(&self) -> Option<usize> {
        Some(match self {
            Step::Deploy { update: true, .. } => 2,
            Step::Deploy { slave, .. } => usize::from(slave.is_some()),
            Step::Destroy { .. } => 3,
            Step::Migrate { .. } => 4,
            Step::Again { .. } => 5,
            Step::Cancel { .. } => 6,
            Step::GiveUp { .. } => 7,
            Step::Push { how: How::Good | How::Slow, .. } => 8,
            Step::Push { .. } => 9,
            Step::Write { .. } => 10,
            Step::Replicate { .. } => 11,
            Step::Watch { .. } => 12,
            Step::Go { .. } => 13,
            Step::Rest => 14,
            Step::Pass { .. } => 15,
            Step::Kill { .. } => 16,
            Step::PowerOff { .. } => 17,
            Step::PowerOn => 18,
            Step::Cut { .. } => 19,
            Step::Heal => 20,
            Step::Flap { .. } => 21,
            Step::NoLeader { .. } => 22,
            Step::Full { .. } => 23,
            Step::Clock { .. } => 24,
            Step::Sets { .. } => 25,
            Step::Torn { .. } => 26,
            Step::Break { .. } | Step::PutBack { .. } => return None,
        })
    }
}

/// How much of each kind there is in most histories.
const WEIGHTS: [u64; BREAK + 1] = [6, 10, 6, 5, 6, 9, 11, 8, 7, 5, 11, 5, 10, 11, 5, 7, 6, 7, 12, 11, 44, 8, 10, 13, 7, 4, 8, 26];

#[derive(Clone, Debug)]
pub struct History {
    pub seed: u64,
    pub apps: u64,
    /// Of the node that dies last and never comes back, if one is dead in the end.
    pub stays_dead: bool,
    /// A node that does not see the plugin's snapshots: it confirms nothing, and the plugin's own schedules stay.
    pub blind: Option<u64>,
    pub steps: Vec<Step>,
}

fn hear(random: &mut Random) -> Hear {
    // Most are heard by all.
    if random.chance(60) { 7 } else { random.below(8) }
}

/// What is broken, and how, in this history.
struct Habits {
    weights: [u64; BREAK + 1],
    on: Vec<On>,
    does: Vec<Does>,
    doors: u64,
    skew: i64,
    /// How much of it are orders that are disturbed, in percent.
    busy: u64,
}

impl Habits {
    fn draw(random: &mut Random) -> Habits {
        let mut weights = WEIGHTS;
        // Some kinds not at all, some again and again.
        for weight in &mut weights {
            *weight *= *random.pick(&[0, 2, 4, 4, 4, 4, 8, 12]);
        }
        // Without these nothing happens.
        weights[1] = weights[1].max(8);
        weights[13] = weights[13].max(14);
        let mut on = vec![On::Consul, On::Plugin, On::Engine, On::Process, On::Disk];
        on.retain(|_| random.chance(70));
        let mut does = vec![Does::Fail, Does::Lose, Does::Garble, Does::Hang, Does::Slow, Does::KillBefore, Does::KillAfter, Does::Orphan];
        does.retain(|_| random.chance(60));
        // Of a program alone.
        if does.contains(&Does::Orphan) {
            does.push(Does::Orphan);
        }
        on.extend(on.is_empty().then_some(On::Process));
        does.extend(does.is_empty().then_some(Does::Fail));
        Habits {
            weights,
            on,
            does,
            doors: *random.pick(&[20, 100, 400, 1500]),
            // Two that are apart by more than two intervals of the sets call a replica too old, and rightly.
            skew: *random.pick(&[2, 2, 2, 60, 850]),
            busy: *random.pick(&[10, 20, 40]),
        }
    }

    fn kind_of(&self, kinds: &[usize], random: &mut Random) -> usize {
        let wanted: Vec<usize> = kinds.iter().copied().filter(|kind| self.weights[*kind] > 0).collect();
        *random.pick(if wanted.is_empty() { kinds } else { &wanted })
    }

    /// Something is broken, ordered, let go on for a while, disturbed in the middle, and comes to its end.
    fn episode(&self, apps: u64, random: &mut Random, drawn: &mut Vec<Step>) {
        for _ in 0..random.below(4) {
            drawn.push(self.of_kind(BREAK, apps, random));
        }
        let before = self.kind_of(&[8, 9, 9, 10, 11, 15, 17, 19, 25, 26], random);
        drawn.push(self.of_kind(before, apps, random));
        if random.chance(20) {
            let master_of = Some(random.below(apps));
            drawn.extend([Step::Replicate { node: random.below(3) }, Step::Write { app: 0, stray: false }]);
            drawn.push(Step::PowerOff { node: random.below(3), master_of });
        }
        let mut order = self.of_kind(self.kind_of(&[0, 1, 1, 1, 2, 3, 4, 4], random), apps, random);
        if let (Some(Step::PowerOff { master_of: Some(dead), .. }), Step::Deploy { app, master, .. }) = (drawn.last(), &mut order) {
            (*app, *master) = (*dead, To::Slave);
        }
        drawn.push(order);
        for _ in 0..1 + random.below(3) {
            drawn.push(Step::Go { doors: 1 + random.below(self.doors) });
            let disturbs =
                self.kind_of(&[5, 6, 7, 10, 12, 15, 15, 16, 16, 17, 17, 18, 19, 20, 21, 21, 22, 22, 23, 24, 25, 25, BREAK, BREAK], random);
            drawn.push(self.of_kind(disturbs, apps, random));
        }
        for _ in 0..1 + random.below(3) {
            drawn.push(random.pick(&[Step::PowerOn, Step::Heal, Step::Go { doors: self.doors }]).clone());
        }
        drawn.push(Step::Rest);
        drawn.push(Step::Write { app: random.below(apps), stray: random.chance(20) });
    }

    fn kind(&self, random: &mut Random) -> usize {
        let mut at = random.below(self.weights.iter().sum());
        for (kind, weight) in self.weights.iter().enumerate() {
            if at < *weight {
                return kind;
            }
            at -= weight;
        }
        BREAK
    }

    fn step(&self, apps: u64, random: &mut Random) -> Step {
        self.of_kind(self.kind(random), apps, random)
    }

    fn of_kind(&self, kind: usize, apps: u64, random: &mut Random) -> Step {
        let (node, app, order) = (random.below(3), random.below(apps), random.below(4));
        let hear = hear(random);
        let slave = Some(1 + random.below(2));
        let master = *random.pick(&[To::Node(node), To::Node(node), To::Node(node), To::Slave, To::Slave, To::Slave, To::Master]);
        let secs = random.below(30) * random.below(40);
        let deploy = |slave, update, by_hand| Step::Deploy { app, master, slave, update, hear, by_hand };
        match kind {
            0 => deploy(None, false, random.chance(20)),
            1 => deploy(slave, false, random.chance(20)),
            2 => deploy(slave.filter(|_| random.chance(70)), true, false),
            3 => Step::Destroy { app, hear },
            4 => Step::Migrate { from: app, to: (app + 1 + random.below(apps - 1)) % apps, update: random.chance(30), hear },
            5 => Step::Again { back: order, anew: random.chance(70), hear },
            6 => Step::Cancel { order, node },
            7 => Step::GiveUp { order, node, on: random.below(3) },
            8 => Step::Push { app, how: if random.chance(80) { How::Good } else { How::Slow } },
            9 => {
                let bad = [How::Unhealthy, How::Unhealthy, How::Exits, How::Refused, How::BuildFails, How::UpdateFails, How::PostFails];
                Step::Push { app, how: *random.pick(&bad) }
            }
            10 => Step::Write { app, stray: random.chance(20) },
            11 => Step::Replicate { node },
            12 => Step::Watch { node },
            13 => Step::Go { doors: 1 + random.below(self.doors) },
            14 => Step::Rest,
            15 => Step::Pass { secs },
            16 => Step::Kill { node },
            17 => Step::PowerOff { node, master_of: random.chance(50).then_some(app) },
            18 => Step::PowerOn,
            19 => Step::Cut { node },
            20 => Step::Heal,
            21 => Step::Flap { node, by: (node + 1 + random.below(2)) % 3 },
            22 => Step::NoLeader { secs: 1 + random.below(100) },
            23 => Step::Full { node },
            25 => Step::Sets { node },
            26 => Step::Torn { node, unsaid: random.chance(50) },
            24 => Step::Clock { node, ahead: random.below(2 * self.skew as u64 * 1_000_000) as i64 - self.skew * 1_000_000 },
            _ => {
                let (on, does) = (*random.pick(&self.on), *random.pick(&self.does));
                // A program that says falsely that it has done something cannot be guarded against.
                let reads = random.chance(30) || (on == On::Process && does == Does::Garble);
                Step::Break { on, does, reads, nth: 1 + random.below(12), secs: 1 + random.below(60) }
            }
        }
    }
}

/// The same seed gives the same history.
pub fn draw(seed: u64, steps: usize) -> History {
    let mut random = Random::new(seed);
    let apps = 2 + random.below(2);
    let habits = Habits::draw(&mut random);
    let blind = random.chance(15).then(|| random.below(3));
    let mut drawn = Vec::new();
    // Something stands, in most of them.
    for app in 0..if random.chance(90) { apps } else { 0 } {
        let master = To::Node(random.below(3));
        let slave = random.chance(75).then_some(1 + random.below(2));
        drawn.push(Step::Deploy { app, master, slave, update: false, hear: 7, by_hand: false });
        drawn.push(Step::Rest);
        drawn.push(Step::Write { app, stray: false });
    }
    if random.chance(70) {
        drawn.extend((0..3).filter(|_| blind.is_some()).map(|node| Step::Replicate { node }));
        for _ in 0..2 {
            drawn.extend((0..3).map(|node| Step::Sets { node }));
            drawn.push(Step::Rest);
        }
    }
    let all = drawn.len() + steps;
    while drawn.len() < all {
        match random.chance(habits.busy) {
            true => habits.episode(apps, &mut random, &mut drawn),
            false => drawn.push(habits.step(apps, &mut random)),
        }
    }
    let stays_dead = random.chance(15);
    // In the middle of something.
    if random.chance(10) {
        let at = drawn.len() - random.below(steps as u64) as usize;
        drawn.insert(at, Step::PutBack { ago: random.below(20) });
    }
    History { seed, apps, stays_dead, blind, steps: drawn }
}
