//! Open orders, in the one order in which Consul has them: this node's part of each, until none is left for it.

use std::time::{Duration, Instant};

use log::{error, info, warn};

use crate::here::Node;
use crate::logger;
use crate::model::order::{Deploy, NodeName, Order, Request, State};
use crate::model::record::Record;
use crate::model::time::Time;
use crate::outside::consul::{self, Member};
use crate::steps::journal::{Header, Journal};
use crate::steps::plan::{self, Facts, Part};
use crate::steps::run::{Outcome, Run, archive_failed, parse_order};

/// How this node's orders went.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    pub done: usize,
    pub failed: usize,
    /// Something could not be brought to its end; a later run has to.
    pub left: usize,
    /// An application went to another node, or data did.
    pub handed_over: bool,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Left => self.left += 1,
        }
    }
}

/// An open order and its indexes.
struct Open {
    order: Order,
    create_index: u64,
    modify_index: u64,
}

/// Finishes or undoes what killed runs have left.
pub fn resume(node: &Node, tally: &mut Tally) -> Result<(), String> {
    for journal in Journal::left(&node.store.journals())? {
        let order = journal.header.order.clone();
        let _order = logger::order(&order.id);
        let outcome = Run::new(node, journal, order, 0).resume();
        // What is brought to its end here has been counted by the run that began it, or is taken up again below.
        if outcome != Outcome::Done {
            tally.count(outcome);
        }
    }
    Ok(())
}

/// Takes this node's part in open orders until none is left for it; whether none is left for anybody.
pub fn orders(node: &Node, tally: &mut Tally) -> Result<bool, String> {
    let text = |error: consul::Error| error.to_string();
    loop {
        let open = open_orders(node).map_err(text)?;
        if open.is_empty() {
            return Ok(true);
        }
        let me = node.me().map_err(text)?.clone();
        let members = node.consul.members().map_err(text)?;
        let mut again = false;
        for (at, next) in open.iter().enumerate() {
            let order = &next.order;
            let _order = logger::order(&order.id);
            if let Some(reason) = lost(node, order, &members) {
                warn!("{} {}: {reason}", order.request.event(), order.name);
                archive_failed(node, &order.id, &reason)?;
                again = true;
                break;
            }
            if order.state == State::Failed {
                continue; // whoever failed it is undoing its part
            }
            let earlier: Vec<&Open> =
                open[..at].iter().filter(|other| other.order.state != State::Failed && shares_app(&other.order, order)).collect();
            let records = Records::of(node, order)?;
            if let Some(first) = earlier.first() {
                if may_concern(order, &earlier, &records, &me) {
                    info!("{} waits for the order {} of the same application", order.name, first.order.id);
                    node.consul.wait(&first.order.key(), first.modify_index).map_err(text)?;
                    again = true;
                    break;
                }
                continue;
            }
            match take(node, next, &records, &members, &me, tally)? {
                Some(outcome) => {
                    tally.count(outcome);
                    if outcome == Outcome::Left {
                        return Err(format!("the order {} is not at its end; the next run takes it up", order.id));
                    }
                    again = true;
                    break;
                }
                None => continue,
            }
        }
        if !again {
            return Ok(false);
        }
    }
}

fn open_orders(node: &Node) -> Result<Vec<Open>, consul::Error> {
    let mut open = Vec::new();
    for entry in node.consul.list("order/")? {
        match parse_order(&entry) {
            Ok(order) => open.push(Open { order, create_index: entry.create_index, modify_index: entry.modify_index }),
            Err(why) => error!("{why}; delete the key to get rid of it"),
        }
    }
    open.sort_by_key(|open| open.create_index);
    Ok(open)
}

fn shares_app(a: &Order, b: &Order) -> bool {
    let apps = a.apps();
    b.apps().iter().any(|app| apps.contains(app))
}

/// The records that an order is about, with the index of the first.
struct Records {
    record: Option<(Record, u64)>,
    source: Option<Record>,
}

impl Records {
    fn of(node: &Node, order: &Order) -> Result<Records, String> {
        let get = |name: &str| -> Result<Option<(Record, u64)>, String> {
            let key = format!("app/{name}");
            let entry = node.consul.get(&key).map_err(|error| error.to_string())?;
            entry.map(|entry| Ok((Record::parse(&key, &entry.value)?, entry.modify_index))).transpose()
        };
        let source = order.request.source_app().map(|app| get(&app.name())).transpose()?.flatten();
        Ok(Records { record: get(&order.name)?, source: source.map(|(record, _)| record) })
    }

    fn facts<'a>(&'a self, members: &'a [Member]) -> Facts<'a> {
        Facts { members, record: self.record.as_ref().map(|(record, _)| record), source_record: self.source.as_ref() }
    }
}

/// Whether the order can become this node's once the earlier ones of its applications are finished. In doubt yes: a node that
/// took a later order instead could wait for one that waits for it.
fn may_concern(order: &Order, earlier: &[&Open], records: &Records, me: &NodeName) -> bool {
    let master_of = |order: &Order| match &order.request {
        Request::Deploy(deploy) => Some(deploy.master.clone()),
        Request::Destroy(_) | Request::Migrate(_) => None,
    };
    let masters =
        [records.record.as_ref().map(|(record, _)| record.master.clone()), records.source.as_ref().map(|record| record.master.clone())];
    let orders = earlier.iter().map(|open| master_of(&open.order)).chain([master_of(order)]);
    masters.into_iter().chain(orders).flatten().any(|node| node == *me)
}

/// Why nobody will bring the order to its end, if so.
fn lost(node: &Node, order: &Order, members: &[Member]) -> Option<String> {
    let alive = |name: &str| consul::alive(members, name);
    if let Some(owner) = order.owner.as_deref().filter(|owner| order.state != State::Failed && !alive(owner)) {
        // A source that lives knows better: it may have to start the application again.
        return order.source.as_deref().is_none_or(|source| !alive(source)).then(|| format!("{owner} has died while it carried it out"));
    }
    // Nobody has taken it up in time, or whoever failed it did not come back to say so.
    let age = Time::parse(&order.created).map_or(Duration::ZERO, |created| Time::now().since(created));
    if (order.owner.is_some() && order.state != State::Failed) || age <= node.settings.timeouts.order {
        return None;
    }
    let (owner, state) = match &order.request {
        Request::Deploy(deploy) => (&*deploy.master, if alive(&deploy.master) { "" } else { ", which is dead," }),
        Request::Destroy(_) | Request::Migrate(_) => ("its node", ""),
    };
    Some(format!("not taken up by {owner}{state} within {} s", node.settings.timeouts.order.as_secs()))
}

/// This node's part of the order, if it has one.
fn take(
    node: &Node,
    open: &Open,
    records: &Records,
    members: &[Member],
    me: &NodeName,
    tally: &mut Tally,
) -> Result<Option<Outcome>, String> {
    let order = &open.order;
    let facts = records.facts(members);
    let planned = plan::owner(order, &facts).and_then(|owner| Ok((plan::plan(order, &facts, me)?, owner)));
    let (plan, owner) = match planned {
        Ok(planned) => planned,
        // Whoever carries it out knows what is left to do.
        Err(_) if order.owner.as_ref().is_some_and(|owner| owner != me) => return Ok(None),
        Err(reason) => {
            // It may have come to its end since the orders were listed: then the records are those that it has left.
            if !archive_failed(node, &order.id, &reason)? {
                return Ok(None);
            }
            error!("{} {} is refused: {reason}", order.request.event(), order.name);
            return Ok(Some(Outcome::Failed));
        }
    };
    let sent = plan.part == Part::Source && matches!(order.request, Request::Migrate(_)) && order.state == State::Sent;
    if plan.part == Part::Bystander || sent || plan.steps.is_empty() {
        return Ok(None);
    }
    tally.handed_over |= plan.part == Part::Source;
    let source = plan::source(order, &owner, &facts).filter(|source| facts.alive(source));
    let peer = if plan.part == Part::Owner { source.as_ref() } else { Some(&owner) };
    let peer_address = peer.and_then(|peer| Some(members.iter().find(|member| member.name == **peer)?.address.clone()));
    info!("{} {}: {me} is its {}", order.request.event(), order.name, if plan.part == Part::Owner { "owner" } else { "source" });
    let header = Header {
        order: order.clone(),
        part: plan.part,
        steps: plan.steps,
        old: records.record.clone(),
        source_record: records.source.clone(),
        peer_address,
    };
    let journal = Journal::create(&node.store.journals(), header)?;
    let run = Run::new(node, journal, order.clone(), open.modify_index);
    Ok(Some(run.start(owner, source)))
}

/// What `order` would mean for each node concerned, as text for people. Changes nothing.
pub fn describe(node: &Node, order: &Order) -> Result<String, String> {
    use std::fmt::Write;
    let members = node.consul.members().map_err(|error| error.to_string())?;
    let records = Records::of(node, order)?;
    let facts = records.facts(&members);
    let owner = plan::owner(order, &facts).map_err(|reason| format!("refused: {reason}"))?;
    let mut text = format!("{} {}\n", order.request.event(), order.name);
    let mut line = |line: String| writeln!(text, "{line}").map_err(|error| error.to_string());
    for member in &members {
        let Ok(name) = NodeName::try_from(member.name.clone()) else { continue };
        let plan = plan::plan(order, &facts, &name)?;
        if plan.steps.is_empty() && plan.then.is_empty() {
            continue;
        }
        let what = if name == owner { ", carries it out" } else { "" };
        let alive = if member.alive { "" } else { ", dead: once it is back" };
        line(format!("{name} ({}{what}{alive})", roles(order, &facts, &name)))?;
        for (at, step) in plan.steps.iter().enumerate() {
            line(format!("  {:2}  {:16} {step}", at + 1, step.name()))?;
        }
        for step in &plan.then {
            line(format!("   -  {:16} {step}", step.name()))?;
        }
        if plan.steps.contains(&plan::Step::RestoreReplica) {
            for note in replicas(node, &name, &facts)? {
                line(format!("      {note}"))?;
            }
        }
    }
    Ok(text)
}

fn roles(order: &Order, facts: &Facts, name: &NodeName) -> String {
    let old = plan::role_in(facts.record, name);
    match &order.request {
        Request::Deploy(deploy) => format!("{old} -> {}", plan::role(name, &deploy.master, deploy.slave.as_deref())),
        Request::Destroy(_) => format!("{old} -> none"),
        Request::Migrate(_) => format!("{old}"),
    }
}

/// How old the data is that a takeover would start with; known on the node itself only.
fn replicas(node: &Node, name: &NodeName, facts: &Facts) -> Result<Vec<String>, String> {
    let volumes = facts.record.map(|record| record.volumes.clone()).unwrap_or_default();
    if node.me().map_err(|error| error.to_string())? != name {
        return Ok(vec![format!("how old its replicas are, `handler plan` says on {name}")]);
    }
    if volumes.is_empty() {
        return Ok(Vec::new());
    }
    let plugin = crate::outside::plugin::Plugin::find(&node.settings)?;
    let note = |volume: &String| {
        let newest = plugin.snapshots(volume)?.pop();
        Ok(newest.map_or(format!("{volume}: no replica here"), |snapshot| crate::steps::run::replica_note(volume, &snapshot)))
    };
    volumes.iter().map(note).collect()
}

/// Waits for the end of an order; how it ended. `told` gets each change of its progress.
pub fn follow(node: &Node, order: &Order, mut told: impl FnMut(&str)) -> Result<Order, String> {
    let start = Instant::now();
    let mut last = String::new();
    loop {
        let (entry, index) = node.consul.get_indexed(&order.key()).map_err(|error| error.to_string())?;
        let Some(entry) = entry else { break };
        let now = parse_order(&entry)?;
        let members = node.consul.members().map_err(|error| error.to_string())?;
        let line = match (&now.owner, &now.request) {
            (Some(owner), _) => now.progress.get(&**owner).map(|at| format!("{owner}: step {} of {}: {}", at.step, at.of, at.name)),
            (None, Request::Deploy(Deploy { master, .. })) if !consul::alive(&members, master) => {
                Some(format!("{master} is dead; the order waits for it, {} s at most", node.settings.timeouts.order.as_secs()))
            }
            _ => None,
        };
        if let Some(line) = line.filter(|line| *line != last) {
            told(&line);
            last = line;
        }
        if start.elapsed() > node.settings.timeouts.handover * 4 {
            return Err(format!("the order {} has not ended; it goes on without being followed", order.id));
        }
        if let Some(reason) = lost(node, &now, &members).filter(|_| now.state != State::Failed) {
            archive_failed(node, &now.id, &reason)?;
        }
        node.consul.wait(&order.key(), index).map_err(|error| error.to_string())?;
    }
    match node.consul.get(&order.history_key()).map_err(|error| error.to_string())? {
        Some(entry) => parse_order(&entry),
        None => Err(format!("the order {} is neither open nor in the history", order.id)),
    }
}
