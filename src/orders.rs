//! Orders in Consul: created once, read, changed by check-and-set, finished, kept in the history.

use std::time::Duration;

use log::{error, info, warn};

use crate::error::{Error, Fault, in_consul, text_of};
use crate::here::Here;
use crate::model::keys;
use crate::model::members;
use crate::model::names::{AppName, NodeName, OrderId, Project};
use crate::model::order::{NULL_AND_CREDENTIAL, Order, Request, State, VARIABLES};
use crate::model::time::Time;
use crate::outside::consul::{Consul, Entry, Op};
use crate::{about, credentials};

/// An open order and its indexes.
pub struct Open {
    pub order: Order,
    pub create_index: u64,
    pub modify_index: u64,
}

pub fn parse(entry: &Entry) -> Result<Order, Error> {
    in_consul(entry, "an order")
}

pub fn is_open(entry: &Entry) -> bool {
    parse(entry).is_ok_and(|order| matches!(order.state, State::Open | State::Ready | State::Sent))
}

pub fn text(order: &Order) -> Result<Vec<u8>, Error> {
    text_of(order.key(), order)
}

/// Writes the order, unless it is open or finished already; and apart from it what it brings for its repository.
pub fn create(here: &Here, id: OrderId, request: Request) -> Result<Order, Error> {
    let (request, credential) = credentials::take_out(here, request)?;
    let mut order = Order::new(id, request, here.world.clock.now());
    needs(here, &mut order, credential.is_some())?;
    if order.needs > 1 {
        about::tell(here)?; // this node's first run, perhaps
    }
    understood_by_all(here, &order)?;
    let (key, history, text) = (order.key(), order.history_key(), text(&order)?);
    let mut operations = vec![Op::CheckAbsent(&history), Op::Cas(&key, &text, 0)];
    let credential = credential.map(|credential| credentials::entry(&order, credential)).transpose()?;
    operations.extend(credential.as_ref().map(|(key, text)| Op::Set(key, text)));
    if here.consul.transaction(&operations)? {
        info!("ordered: {} {}", order.request.event(), order.name);
    } else {
        info!("{} {} is ordered already", order.request.event(), order.name);
    }
    Ok(order)
}

/// What it needs beside what its request says.
pub fn needs(here: &Here, order: &mut Order, credential: bool) -> Result<(), Error> {
    if credential {
        order.needs = order.needs.max(NULL_AND_CREDENTIAL);
    }
    if matches!(order.request, Request::Deploy(_)) && here.consul.get(&keys::variables(&order.name))?.is_some() {
        order.needs = order.needs.max(VARIABLES);
    }
    Ok(())
}

/// A node that is too old would take the order for another one. Any member may come to have a part in it, one that is dead now as well.
pub fn understood_by_all(here: &Here, order: &Order) -> Result<(), Error> {
    if order.needs == 1 {
        return Ok(());
    }
    for member in here.consul.members()? {
        let Ok(node) = NodeName::try_from(member.name) else { continue };
        if node == *here.me()? || !order.takes_part(&node, member.alive) {
            continue;
        }
        let about = about::read(here, &node)?;
        if about.understands < order.needs {
            let too_old = Fault::TooOld { node: node.to_string(), version: about.version, needs: order.needs };
            return Err(Error::Refused(Box::new(too_old)));
        }
    }
    Ok(())
}

/// In the one order in which Consul has them.
pub fn open(consul: &Consul) -> Result<Vec<Open>, Error> {
    let (open, unreadable) = listed(consul)?;
    unreadable.iter().for_each(|why| error!("{why}; it is left alone"));
    Ok(open)
}

/// The same, and why others cannot be read: a newer handler's, perhaps, which will be carried out or failed by whoever understands it.
pub fn listed(consul: &Consul) -> Result<(Vec<Open>, Vec<Error>), Error> {
    let (mut open, mut unreadable) = (Vec::new(), Vec::new());
    for entry in consul.list(keys::ORDERS)? {
        match parse(&entry) {
            Ok(order) => open.push(Open { order, create_index: entry.create_index, modify_index: entry.modify_index }),
            Err(why) => unreadable.push(why),
        }
    }
    open.sort_by_key(|open| open.create_index);
    Ok((open, unreadable))
}

/// Whether an order that is open was ordered before it and is about the same application.
pub fn waits(consul: &Consul, order: &Order) -> Result<bool, Error> {
    let open = open(consul)?;
    let mut before = open.iter().take_while(|open| open.order.id != order.id);
    Ok(before.any(|open| shares_app(&open.order, order)))
}

/// Those that are, or may be, at work. Not those that nobody has begun, and that wait for an earlier one of their applications: until that has come to
/// its end, a person has to see to it perhaps, they change nothing.
pub fn at_work(open: &[Open]) -> impl Iterator<Item = &Order> {
    let waits = |at: usize, order: &Order| !order.is_begun() && open[..at].iter().any(|earlier| shares_app(&earlier.order, order));
    open.iter().enumerate().map(|(at, open)| (at, &open.order)).filter(move |(at, order)| !waits(*at, order)).map(|(_, order)| order)
}

/// By their projects: two whose names differ have the same containers and volumes where those are the same.
pub fn shares_app(a: &Order, b: &Order) -> bool {
    let projects: Vec<Project> = a.keeps().iter().map(AppName::project).collect();
    b.keeps().iter().any(|app| projects.contains(&app.project()))
}

pub fn open_one(consul: &Consul, id: &OrderId) -> Result<Order, Error> {
    let entry = consul.get(&keys::order(id))?;
    parse(&entry.ok_or_else(|| Fault::NotOpen { id: id.to_string() })?)
}

/// An order as it stands, open or finished, with its index if it is open.
pub fn read(consul: &Consul, name: &AppName, id: &OrderId) -> Result<(Order, Option<u64>), Error> {
    if let Some(entry) = consul.get(&keys::order(id))? {
        return Ok((parse(&entry)?, Some(entry.modify_index)));
    }
    match consul.get(&keys::history(name, id))? {
        Some(entry) => Ok((parse(&entry)?, None)),
        None => Err(Fault::Vanished { id: id.to_string() }.into()),
    }
}

/// Moves the order into the history as done, together with `changes`, or not at all; whether it held.
pub fn finish(here: &Here, order: &Order, index: u64, changes: &[Op]) -> Result<bool, Error> {
    let (key, history, text) = (order.key(), order.history_key(), text(order)?);
    let maintenance = keys::maintenance(&order.name);
    // Alone, a delete-cas holds for a key that is gone, too.
    let mut operations = vec![Op::CheckIndex(&key, index)];
    operations.extend(changes.iter().copied());
    operations.extend([Op::Delete(&maintenance), Op::Delete(&key), Op::Set(&history, &text)]);
    let held = here.consul.transaction(&operations)?;
    if held {
        prune(here, &order.name);
    }
    Ok(held)
}

/// One that this node has done, and that Consul has once more: it was put back to an older state, or a node that was away has said it again. The
/// record stays as it is.
pub fn done_before(here: &Here, open: &Open) -> Result<(), Error> {
    let note = "it was carried out before, and Consul was put back to an older state since: order anew what you want";
    warn!("{} {}: {note}", open.order.request.event(), open.order.name);
    let mut order = Order { state: State::Done, reason: None, ..open.order.clone() };
    order.finished = Some(here.world.clock.now().rfc3339());
    order.notes.push(note.into());
    finish(here, &order, open.modify_index, &[Op::Delete(&keys::brought(&order.name, &order.id))]).map(drop)
}

/// What became of an order that was to fail.
#[derive(Clone, Debug, PartialEq)]
pub enum Failing {
    /// It is in the history.
    Archived,
    /// It has failed, and these nodes that live have still to undo their part: until then it stays.
    Undoing(Vec<NodeName>),
    /// It was not open any more.
    Gone,
}

/// Fails an order that is open, if it has not failed already, and moves it into the history once every node that lives has undone its part;
/// `undone` has. A dead node is not waited for: it finds out by the record when it is back.
pub fn fail(here: &Here, id: &OrderId, reason: &str, undone: Option<&NodeName>) -> Result<Failing, Error> {
    change(here, id, |order| {
        order.state = State::Failed;
        // Whoever has undone it may have something to add.
        if order.reason.as_deref().is_none_or(|said| reason.starts_with(said)) {
            order.reason = Some(reason.into());
        }
        if let Some(node) = undone.filter(|node| !order.undone.contains(*node)) {
            order.undone.push(node.clone());
        }
    })
}

/// The same of an order that others have put into the history while this node seemed dead: who waits for it has to hear of it.
pub fn undone_late(here: &Here, name: &AppName, id: &OrderId, node: &NodeName) -> Result<(), Error> {
    let key = keys::history(name, id);
    loop {
        let Some(entry) = here.consul.get(&key)? else { return Ok(()) };
        let mut order = parse(&entry)?;
        if order.state != State::Failed || order.undone.contains(node) || order.owner.as_ref() != Some(node) {
            return Ok(());
        }
        order.undone.push(node.clone());
        if here.consul.cas(&key, &text(&order)?, entry.modify_index)?.is_some() {
            return Ok(());
        }
    }
}

/// Says again what a node is in the middle of, where somebody has removed the order's key: as failed, or nobody would hear when it is undone.
pub fn say_again(here: &Here, order: &Order) -> Result<(), Error> {
    let order = Order { state: State::Failed, ..order.clone() };
    let (key, history, text) = (order.key(), order.history_key(), text(&order)?);
    here.consul.transaction(&[Op::CheckAbsent(&history), Op::Cas(&key, &text, 0)])?;
    Ok(())
}

/// Why a node does not come to the end of its undo, as it is now.
pub fn undo_failed(here: &Here, id: &OrderId, node: &NodeName, why: &str) -> Result<(), Error> {
    let begins = format!("undoing it on {node} failed: ");
    change(here, id, |order| {
        let note = format!("{begins}{why}");
        match order.notes.iter_mut().find(|note| note.starts_with(&begins)) {
            Some(said) => *said = note,
            None => order.notes.push(note),
        }
    })
    .map(drop)
}

/// A person gives up the undo on a node: its journal is set aside there, nothing of it is undone or removed.
pub fn give_up(here: &Here, id: &OrderId, node: &NodeName) -> Result<Failing, Error> {
    change(here, id, |order| {
        if !order.given_up.contains(node) {
            order.given_up.push(node.clone());
            order.notes.push(format!("undo given up on {node}"));
        }
    })
}

/// The same of an order that is in the history, and was not undone on a node that seemed dead: another one waits for that, perhaps. Whether there is
/// one.
pub fn give_up_late(here: &Here, id: &OrderId, node: &NodeName) -> Result<bool, Error> {
    let is_it = |entry: &Entry| entry.key.ends_with(&format!("/{id}"));
    while let Some(entry) = here.consul.list(keys::HISTORIES)?.into_iter().find(is_it) {
        let mut order = parse(&entry)?;
        if order.state != State::Failed || !order.pending.contains(node) {
            break;
        }
        if order.given_up.contains(node) {
            return Ok(true);
        }
        order.given_up.push(node.clone());
        order.notes.push(format!("undo given up on {node}"));
        here.consul.cas(&entry.key, &text(&order)?, entry.modify_index)?;
    }
    Ok(false)
}

/// Changes an order that has failed, or fails by that.
fn change(here: &Here, id: &OrderId, change: impl Fn(&mut Order)) -> Result<Failing, Error> {
    let key = keys::order(id);
    loop {
        let Some(entry) = here.consul.get(&key)? else { return Ok(Failing::Gone) };
        let before = parse(&entry)?;
        let mut order = before.clone();
        change(&mut order);
        let members = here.consul.members()?;
        let (pending, dead): (Vec<NodeName>, Vec<NodeName>) = pending(&order).into_iter().partition(|node| members::alive(&members, node));
        if pending.is_empty() {
            order.finished = Some(here.world.clock.now().rfc3339());
            order.notes.extend(dead.iter().map(|node| format!("undo pending on {node}, which is dead")));
            order.pending = dead;
            let (history, text, brought) = (order.history_key(), text(&order)?, keys::brought(&order.name, id));
            let index = Op::CheckIndex(&key, entry.modify_index);
            if here.consul.transaction(&[index, Op::Delete(&key), Op::Delete(&brought), Op::Set(&history, &text)])? {
                prune(here, &order.name);
                return Ok(Failing::Archived);
            }
        } else if order == before || here.consul.cas(&key, &text(&order)?, entry.modify_index)?.is_some() {
            return Ok(Failing::Undoing(pending));
        }
    }
}

/// The nodes that have begun their part of an order, and have not said that they have undone it.
fn pending(order: &Order) -> Vec<NodeName> {
    let begun = order.progress.keys().filter_map(|node| NodeName::try_from(&**node).ok());
    begun.filter(|node| !order.undone.contains(node) && !order.given_up.contains(node)).collect()
}

/// Whether the last order of the application that came to its end was a destroy: that alone tells what a record that is gone means.
pub fn was_destroyed(consul: &Consul, name: &AppName) -> Result<bool, Error> {
    Ok(last_done(consul, name)?.is_some_and(|order| matches!(order.request, Request::Destroy(_))))
}

/// The last deploy or destroy of the application that was done, by Consul's index: clocks differ.
pub fn last_done(consul: &Consul, name: &AppName) -> Result<Option<Order>, Error> {
    Ok(all_done(consul, name)?.into_iter().next())
}

/// The last one first.
pub fn all_done(consul: &Consul, name: &AppName) -> Result<Vec<Order>, Error> {
    let mut entries = consul.list(&keys::histories(name))?;
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.modify_index));
    Ok(entries.iter().filter_map(|entry| parse(entry).ok()).filter(placed).collect())
}

/// Whether it says since when the application is where, or is no more.
fn placed(order: &Order) -> bool {
    order.state == State::Done && !matches!(order.request, Request::Migrate(_))
}

/// Keeps the newest 50 orders of an application, and up to ten more, so that not every order has all of them read; and those of two days: an
/// event that waits in an inbox, for one at most, is not ordered again. The history is for people: that it is too long is no failure.
fn prune(here: &Here, name: &AppName) {
    const KEPT: usize = 50;
    const AGE: Duration = Duration::from_secs(48 * 3600);
    let (consul, now) = (&here.consul, here.world.clock.now());
    let prefix = keys::histories(name);
    let pruned = consul.keys(&prefix).and_then(|keys| {
        let mut entries = if keys.len() > KEPT + 10 { consul.list(&prefix)? } else { Vec::new() };
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.modify_index));
        let is = |entry: &&Entry, is: fn(&Order) -> bool| parse(entry).is_ok_and(|it| is(&it));
        let newest = |of: fn(&Order) -> bool| entries.iter().find(|entry| is(entry, of)).map(|entry| &entry.key);
        // What became of the application last is asked for: see last_done. And what it was before: sets of that may be on their way.
        let last = entries.iter().filter(|entry| is(entry, placed)).take(2).map(|entry| Some(&entry.key));
        // And what it was destroyed by: what was taken before is not the new one's to purge.
        let destroyed = newest(|order| placed(order) && matches!(order.request, Request::Destroy(_)));
        let kept: Vec<Option<&String>> = last.chain([destroyed]).collect();
        let ended = |entry: &Entry| parse(entry).ok().and_then(|order| Time::parse(&order.finished?));
        let is_old = |entry: &&Entry| !kept.contains(&Some(&entry.key)) && ended(entry).is_none_or(|ended| now.since(ended) > AGE);
        let old = entries.iter().skip(KEPT).filter(is_old);
        old.into_iter().try_for_each(|entry| consul.delete(&entry.key))
    });
    if let Err(error) = pruned {
        warn!("the history of {name} is not pruned: {error}");
    }
}
