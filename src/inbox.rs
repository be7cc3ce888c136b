//! Events and requests become orders in Consul, each once, whichever node hears of it first.

use log::{error, info};

use crate::here::Node;
use crate::logger;
use crate::model::event::{Asked, Event};
use crate::model::json;
use crate::model::order::{Order, OrderId, Request};
use crate::model::time::Time;
use crate::outside::consul::{self, Consul, Op};

/// What came of a list of events.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    pub events: usize,
    pub new: usize,
    pub failed: usize,
}

/// Takes in the events that this node has not seen, and those that an earlier run could not take in.
pub fn events(node: &Node, events: Vec<Result<Event, String>>) -> Result<Tally, String> {
    let mut tally = Tally { events: events.len(), ..Tally::default() };
    let mut seen = node.store.seen()?;
    let mut new = node.store.inbox()?;
    new.retain(|event| !seen.contains(&*event.id));
    for event in events {
        match event {
            Ok(event) if seen.insert(event.id.to_string()) && !new.contains(&event) => {
                // Consul gives an event once; from here on it is not lost with this run.
                node.store.put_inbox(&event, false)?;
                new.push(event);
            }
            Ok(_) => {} // known
            Err(why) => {
                error!("{why}");
                tally.failed += 1;
            }
        }
    }
    tally.new = new.len();
    for event in new {
        let _order = logger::order(&event.id);
        match event.asked() {
            Ok(Asked::Order(id)) => info!("told of the order {id}"),
            Ok(Asked::Request(request)) => match create(&node.consul, event.id.clone(), request) {
                Ok(_) => {}
                Err(consul::Error::Unreachable(why)) => {
                    node.store.put_inbox(&event, true)?;
                    return Err(format!("the event {} waits in the inbox for the next run: {why}", event.id));
                }
                Err(why) => {
                    error!("{}: {why}", event.name);
                    tally.failed += 1;
                }
            },
            Err(why) => {
                error!("{}: {why}", event.name);
                tally.failed += 1;
            }
        }
        node.store.add_seen(&event.id)?;
        node.store.remove_inbox(&event)?;
    }
    Ok(tally)
}

/// Writes the order, unless it is open or finished already.
pub fn create(consul: &Consul, id: OrderId, request: Request) -> Result<Order, consul::Error> {
    let order = Order::new(id, request, Time::now());
    let text = json::write(&order).map_err(consul::Error::Refused)?;
    let (key, history) = (order.key(), order.history_key());
    if consul.transaction(&[Op::CheckAbsent(&history), Op::Cas(&key, &text, 0)])? {
        info!("ordered: {} {}", order.request.event(), order.name);
    } else {
        info!("{} {} is ordered already", order.request.event(), order.name);
    }
    Ok(order)
}
