//! Whose turn it is: under the node's lock, what killed runs have left is taken up, then this node's part of each open order, in the one
//! order in which Consul has them, until none is left for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use log::{debug, error, info, warn};

use crate::about;
use crate::error::{Error, Fault};
use crate::here::Here;
use crate::inbox;
use crate::logger;
use crate::model::members::{self, Member};
use crate::model::names::{Host, NodeName};
use crate::model::order::{Order, Request, Slave, State, UNDERSTANDS};
use crate::model::record::Record;
use crate::model::time::Time;
use crate::model::{json, keys};
use crate::node::reconcile;
use crate::orders::{self, Failing, Open};
use crate::steps::journal::{Header, Journal, Part, Unreadable};
use crate::steps::machine::Outcome;
use crate::steps::plan::{self, Facts};
use crate::steps::run::Run;
use crate::steps::table::Step;

/// How this node's orders went.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    pub done: usize,
    pub failed: usize,
    /// Something could not be brought to its end; a later run has to.
    pub left: usize,
    /// Applications that are not as their records say.
    pub unreconciled: usize,
    /// An application went to another node, or data did.
    handed_over: bool,
}

impl Tally {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Left => self.left += 1,
        }
    }

    fn is_idle(&self) -> bool {
        *self == Tally::default()
    }
}

/// Applications with a journal on this node.
#[derive(Debug, Default)]
struct Busy {
    /// And whether this node is the owner of what it is in the middle of.
    names: BTreeMap<String, reconcile::Busy>,
    /// Their orders, whose checkouts are still needed.
    orders: BTreeSet<String>,
}

/// This node's part of everything that is to be done; `told` that there is something new. Waits until no other run is at work here.
pub fn work(here: &Here, told: bool) -> Result<Tally, Error> {
    let lock = here.paths.lock();
    let _lock = match here.world.try_lock_file(&lock)? {
        Some(lock) => lock,
        None => {
            debug!("another run of the handler is at work on this node; waiting for it");
            here.world.lock_file(&lock)?
        }
    };
    inbox::trim_seen(here)?;
    let mut tally = Tally::default();
    let (journals, busy) = left(here, Some(&mut tally))?;
    // Of the whole store: that of a prefix can go back to an earlier one, when a deleted key is forgotten.
    let index = if told { 0 } else { here.consul.index("")? };
    if journals.is_empty() && tally.is_idle() && is_quiet(here, index) {
        debug!("nothing has changed since there was nothing to do");
        return Ok(tally);
    }
    about::tell(here)?;
    // First of all what must not run here any more is stopped; then what killed runs have left, then what is new.
    let mut seen = reconcile::look(here)?;
    let mut unfenced = reconcile::fence(here, &seen, &busy.names)?;
    if !journals.is_empty() {
        resume(here, journals, &mut tally);
        (seen, unfenced) = fence_anew(here)?;
    }
    let mut unreconciled = reconcile(here, &seen)?;
    let none_open = carry_out(here, &unfenced, &mut tally)?;
    let idle = tally.is_idle();
    if !idle {
        (_, unfenced) = fence_anew(here)?;
    }
    if tally.handed_over {
        unreconciled = reconcile(here, &reconcile::look(here)?)?;
    }
    // 1 is what an empty store answers, whatever comes next; 0 was not asked for.
    if idle && none_open && unreconciled + unfenced.len() == 0 && index > 1 {
        here.world.replace_file(&here.paths.quiet(), quiet(index).as_bytes(), false)?;
    }
    tally.unreconciled = unreconciled + unfenced.len();
    debug!("{tally:?}");
    Ok(tally)
}

/// A run that somebody has gone on without leaves what it has started: with its journal gone nothing else says that it may stand here.
fn fence_anew(here: &Here) -> Result<(reconcile::Seen, BTreeSet<String>), Error> {
    let seen = reconcile::look(here)?;
    let unfenced = reconcile::fence(here, &seen, &left(here, None)?.1.names)?;
    Ok((seen, unfenced))
}

/// Consul's index at which there was nothing to do here: as long as it stands, there is nothing. Not for a handler that understands more: it has
/// to say so.
fn quiet(index: u64) -> String {
    format!("{index} {UNDERSTANDS}")
}

fn is_quiet(here: &Here, index: u64) -> bool {
    here.world.read_file(&here.paths.quiet(), 64).is_ok_and(|text| text.is_some_and(|text| text == quiet(index).as_bytes()))
}

/// Finishes or undoes what killed runs have left.
fn resume(here: &Here, journals: Vec<Journal>, tally: &mut Tally) {
    for journal in journals {
        let order = journal.header.order.clone();
        let _order = logger::order(&order.id);
        let outcome = Run::new(here, journal, order, 0).resume();
        // What is brought to its end here has been counted by the run that began it, or is taken up again below.
        if outcome != Outcome::Done {
            tally.count(outcome);
        }
    }
}

/// The journals that killed runs have left, and the applications that have one. One that cannot be read keeps its application alone from
/// everything; a `tally` counts it, and it is told of then.
fn left(here: &Here, tally: Option<&mut Tally>) -> Result<(Vec<Journal>, Busy), Error> {
    let folder = here.paths.journals();
    let (journals, unreadable) = Journal::left(&here.world, &folder, |step| Step::named(step).is_some())?;
    let mut busy = Busy::default();
    for journal in &journals {
        let how = match journal.header.part {
            Part::Owner => reconcile::Busy::Owner(journal.header.order.id.clone()),
            Part::Source | Part::Bystander => reconcile::Busy::Other,
        };
        busy.names.extend(journal.header.order.apps().iter().map(|app| (app.to_string(), how.clone())));
        busy.orders.insert(journal.header.order.id.to_string());
    }
    if let Some(tally) = tally {
        for Unreadable { path, app, why, .. } in &unreadable {
            let what = app
                .as_ref()
                .map_or("of an application that it does not name".into(), |app| format!("of {app}, which nothing is done about here"));
            error!("the journal {}, {what}: {why}; start the handler that wrote it, or move the file away", path.display());
        }
        tally.left += unreadable.len();
    }
    for Unreadable { order, app, .. } in unreadable {
        busy.names.extend(app.map(|app| (app, reconcile::Busy::Other)));
        busy.orders.insert(order);
    }
    Ok((journals, busy))
}

fn reconcile(here: &Here, seen: &reconcile::Seen) -> Result<usize, Error> {
    let (_, busy) = left(here, None)?;
    reconcile::reconcile(here, seen, &busy.names.into_keys().collect(), &busy.orders)
}

/// Takes this node's part in open orders until none is left for it; whether none is left for anybody.
fn carry_out(here: &Here, unfenced: &BTreeSet<String>, tally: &mut Tally) -> Result<bool, Error> {
    // What could not be brought to its end here, and what this node cannot read, stays as it is in this run.
    let mut passed: BTreeSet<String> = BTreeSet::new();
    loop {
        let open = orders::open(&here.consul)?;
        if open.is_empty() {
            return Ok(true);
        }
        let me = here.me()?.clone();
        let members = here.consul.members()?;
        let (_, busy) = left(here, None)?;
        let mut again = false;
        for (at, next) in open.iter().enumerate() {
            let order = &next.order;
            if passed.contains(&*order.id) {
                continue;
            }
            let _order = logger::order(&order.id);
            if order.state == State::Failed {
                passed.insert(order.id.to_string());
                if after_failed(here, order, &busy, &me)? {
                    again = true;
                    break;
                }
                continue;
            }
            if let Some(reason) = lost(here, order, &members)? {
                warn!("{} {}: {reason}", order.request.event(), order.name);
                passed.insert(order.id.to_string());
                orders::fail(here, &order.id, &reason, None)?;
                again = true;
                break;
            }
            // While an application has a journal here, nothing of it is begun; a newer handler carries out what this one does not understand.
            let busy = busy.orders.contains(&*order.id) || order.apps().iter().any(|app| busy.names.contains_key(&**app));
            if order.needs > UNDERSTANDS || busy || order.apps().iter().any(|app| unfenced.contains(&**app)) {
                continue;
            }
            let earlier: Vec<&Open> = open[..at].iter().filter(|other| shares_app(&other.order, order)).collect();
            let records = Records::of(here, order)?;
            if earlier.iter().any(|open| open.order.state == State::Failed) {
                debug!("{} waits until an earlier order of it is undone", order.name);
                continue;
            }
            if let Some(first) = earlier.first() {
                if may_concern(order, &earlier, &records, &me) {
                    info!("{} waits for the order {} of the same application", order.name, first.order.id);
                    here.consul.wait(&first.order.key(), first.modify_index)?;
                    again = true;
                    break;
                }
                continue;
            }
            if let Some(outcome) = take(here, next, &records, &members, &me, tally)? {
                tally.count(outcome);
                if outcome == Outcome::Left {
                    error!("the order {} is not at its end; the next run takes it up", order.id);
                    passed.insert(order.id.to_string());
                }
                again = true;
                break;
            }
        }
        if !again {
            return Ok(false);
        }
    }
}

/// An order that has failed stays until all is undone; whether that is so now. What this node has no journal of, it has nothing to undo of.
fn after_failed(here: &Here, order: &Order, busy: &Busy, me: &NodeName) -> Result<bool, Error> {
    let undone = Some(me).filter(|me| order.progress.contains_key(&***me) && !busy.orders.contains(&*order.id));
    Ok(orders::fail(here, &order.id, order.reason.as_deref().unwrap_or_default(), undone)? == Failing::Archived)
}

fn shares_app(a: &Order, b: &Order) -> bool {
    let apps = a.apps();
    b.apps().iter().any(|app| apps.contains(app))
}

/// The records that an order is about, with the index of the first.
pub struct Records {
    pub record: Option<(Record, u64)>,
    pub source: Option<Record>,
}

impl Records {
    pub fn of(here: &Here, order: &Order) -> Result<Records, Error> {
        let get = |name: &_| -> Result<Option<(Record, u64)>, Error> {
            let key = keys::app(name);
            let Some(entry) = here.consul.get(&key)? else { return Ok(None) };
            let record = json::read(&entry.value);
            let record = record.map_err(|source| Error::Json { at: format!("{key} in Consul"), what: "a record", source })?;
            Ok(Some((record, entry.modify_index)))
        };
        let source = order.request.source_app().map(|app| get(&app.name())).transpose()?.flatten();
        Ok(Records { record: get(&order.name)?, source: source.map(|(record, _)| record) })
    }

    pub fn facts<'a>(&'a self, members: &'a [Member]) -> Facts<'a> {
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
pub fn lost(here: &Here, order: &Order, members: &[Member]) -> Result<Option<String>, Error> {
    let alive = |name: &str| members::alive(members, name);
    if order.needs > 1
        && order.state == State::Open
        && let Some(why) = too_old(here, order)?
    {
        return Ok(Some(why.to_string()));
    }
    if order.state == State::Failed {
        return Ok(None); // it goes when all is undone
    }
    if let Some(owner) = order.owner.as_deref().filter(|owner| !alive(owner)) {
        // A source that lives knows better: it may have to start the application again. A migrate's has nothing to start.
        let hands_over = matches!(order.request, Request::Deploy(_));
        let nobody = !hands_over || order.source.as_deref().is_none_or(|source| !alive(source));
        return Ok(nobody.then(|| format!("{owner} has died while it carried it out")));
    }
    // Nobody has taken it up in time.
    let age = Time::parse(&order.created).map_or(Duration::ZERO, |created| here.world.clock.now().since(created));
    if order.owner.is_some() || age <= here.settings.timeouts.order {
        return Ok(None);
    }
    let (owner, state) = match &order.request {
        Request::Deploy(deploy) => (&*deploy.master, if alive(&deploy.master) { "" } else { ", which is dead," }),
        Request::Destroy(_) | Request::Migrate(_) => ("its node", ""),
    };
    Ok(Some(format!("not taken up by {owner}{state} within {} s", here.settings.timeouts.order.as_secs())))
}

/// A node that would take part in the order and does not understand it.
fn too_old(here: &Here, order: &Order) -> Result<Option<Fault>, Error> {
    let records = Records::of(here, order)?;
    let master = match &order.request {
        Request::Deploy(deploy) => Some(deploy.master.clone()),
        Request::Destroy(_) | Request::Migrate(_) => None,
    };
    let masters = [master, records.record.map(|(record, _)| record.master), records.source.map(|record| record.master)];
    for node in masters.into_iter().flatten() {
        let about = about::read(here, &node)?;
        if about.understands < order.needs {
            return Ok(Some(Fault::TooOld { node: node.to_string(), version: about.version, needs: order.needs }));
        }
    }
    Ok(None)
}

/// This node's part of the order, if it has one.
fn take(
    here: &Here,
    open: &Open,
    records: &Records,
    members: &[Member],
    me: &NodeName,
    tally: &mut Tally,
) -> Result<Option<Outcome>, Error> {
    let order = &open.order;
    let facts = records.facts(members);
    let planned = plan::owner(order, &facts).and_then(|owner| Ok((plan::plan(order, &facts, me)?, owner)));
    let (plan, owner) = match planned {
        Ok(planned) => planned,
        // Whoever carries it out knows what is left to do.
        Err(_) if order.owner.as_ref().is_some_and(|owner| owner != me) => return Ok(None),
        Err(reason) => {
            // It may have come to its end since the orders were listed: then the records are those that it has left.
            if orders::fail(here, &order.id, &reason.to_string(), None)? == Failing::Gone {
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
    let order = &if plan.part == Part::Owner { with_slave(order, &facts) } else { order.clone() };
    let source = plan::source(order, &owner, &facts).filter(|source| facts.alive(source));
    let peer = if plan.part == Part::Owner { source.as_ref() } else { Some(&owner) };
    let address = peer.and_then(|peer| Some(members.iter().find(|member| member.name == **peer)?.address.clone()));
    info!("{} {}: {me} is its {}", order.request.event(), order.name, if plan.part == Part::Owner { "owner" } else { "source" });
    let header = Header {
        format: 0, // set where it is written
        order: order.clone(),
        part: plan.part,
        origin: Some(plan.origin),
        steps: plan.steps.iter().map(|step| step.row().name.into()).collect(),
        old: records.record.clone(),
        source_record: records.source.clone(),
        peer_address: address.and_then(|address| Host::try_from(address).ok()),
        unknown: Default::default(),
    };
    let journal = Journal::create(&here.world, &here.paths.journals(), header)?;
    let run = Run::new(here, journal, order.clone(), open.modify_index);
    Ok(Some(run.start(owner, source)))
}

/// As its owner takes it: with the slave that the application is to have, once and for all.
fn with_slave(order: &Order, facts: &Facts) -> Order {
    let mut order = order.clone();
    let Request::Deploy(deploy) = &mut order.request else { return order };
    let (slave, said) = plan::slave(deploy, facts);
    match (slave, said) {
        (Some(slave), Some(said)) => {
            info!("{said}");
            deploy.slave = Slave::Named(slave);
        }
        (None, Some(said)) => {
            warn!("{said}");
            order.notes = vec![said];
        }
        (_, None) => {}
    }
    order
}
