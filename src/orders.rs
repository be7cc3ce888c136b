//! Orders in Consul: created once, read, changed by check-and-set, finished, kept in the history.

use log::{error, info, warn};

use crate::error::{Error, Fault};
use crate::here::Here;
use crate::model::names::{AppName, OrderId};
use crate::model::order::{Order, Request, State};
use crate::model::{json, keys};
use crate::outside::consul::{Consul, Entry, Op};

/// An open order and its indexes.
pub struct Open {
    pub order: Order,
    pub create_index: u64,
    pub modify_index: u64,
}

pub fn parse(entry: &Entry) -> Result<Order, Error> {
    json::read(&entry.value).map_err(|source| Error::Json { at: format!("{} in Consul", entry.key), what: "an order", source })
}

pub fn text(order: &Order) -> Result<Vec<u8>, Error> {
    json::write(order).map_err(|source| Error::Json { at: order.key(), what: "writable", source })
}

/// Writes the order, unless it is open or finished already.
pub fn create(here: &Here, id: OrderId, request: Request) -> Result<Order, Error> {
    let order = Order::new(id, request, here.world.clock.now());
    let (key, history) = (order.key(), order.history_key());
    if here.consul.transaction(&[Op::CheckAbsent(&history), Op::Cas(&key, &text(&order)?, 0)])? {
        info!("ordered: {} {}", order.request.event(), order.name);
    } else {
        info!("{} {} is ordered already", order.request.event(), order.name);
    }
    Ok(order)
}

/// In the one order in which Consul has them.
pub fn open(consul: &Consul) -> Result<Vec<Open>, Error> {
    let mut open = Vec::new();
    for entry in consul.list(keys::ORDERS)? {
        match parse(&entry) {
            Ok(order) => open.push(Open { order, create_index: entry.create_index, modify_index: entry.modify_index }),
            // A newer handler's, perhaps: it will be carried out or failed by whoever understands it.
            Err(why) => error!("{why}; it is left alone"),
        }
    }
    open.sort_by_key(|open| open.create_index);
    Ok(open)
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
pub fn finish(consul: &Consul, order: &Order, index: u64, changes: &[Op]) -> Result<bool, Error> {
    let (key, history, text) = (order.key(), order.history_key(), text(order)?);
    let maintenance = keys::maintenance(&order.name);
    // Alone, a delete-cas holds for a key that is gone, too.
    let mut operations = vec![Op::CheckIndex(&key, index)];
    operations.extend(changes.iter().copied());
    operations.extend([Op::Delete(&maintenance), Op::Delete(&key), Op::Set(&history, &text)]);
    let held = consul.transaction(&operations)?;
    if held {
        prune(consul, &order.name);
    }
    Ok(held)
}

/// Moves an order that is open or has failed into the history as failed. One that is finished already stays as it is.
/// Whether it was still open.
pub fn archive_failed(here: &Here, id: &OrderId, reason: &str) -> Result<bool, Error> {
    let key = keys::order(id);
    loop {
        let Some(entry) = here.consul.get(&key)? else { return Ok(false) };
        let mut order = parse(&entry)?;
        order.state = State::Failed;
        order.reason.get_or_insert_with(|| reason.into());
        order.finished = Some(here.world.clock.now().rfc3339());
        let history = order.history_key();
        let operations = [Op::CheckIndex(&key, entry.modify_index), Op::Delete(&key), Op::Set(&history, &text(&order)?)];
        if here.consul.transaction(&operations)? {
            prune(&here.consul, &order.name);
            return Ok(true);
        }
    }
}

/// Whether the history has a destroy of the application: that alone tells what a record that is gone means.
pub fn was_destroyed(consul: &Consul, name: &AppName) -> Result<bool, Error> {
    let is_destroy = |order: Order| matches!(order.request, Request::Destroy(_)) && order.state == State::Done;
    Ok(consul.list(&keys::histories(name))?.iter().any(|entry| parse(entry).is_ok_and(is_destroy)))
}

/// Keeps the newest 50 orders of an application, and up to ten more, so that not every order has all of them read. The history is for
/// people: that it is too long is no failure.
fn prune(consul: &Consul, name: &AppName) {
    const KEPT: usize = 50;
    let prefix = keys::histories(name);
    let pruned = consul.count(&prefix).and_then(|(count, _)| {
        let mut entries = if count > KEPT + 10 { consul.list(&prefix)? } else { Vec::new() };
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.modify_index));
        entries.iter().skip(KEPT).try_for_each(|entry| consul.delete(&entry.key))
    });
    if let Err(error) = pruned {
        warn!("the history of {name} is not pruned: {error}");
    }
}
