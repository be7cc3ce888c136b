//! What the handler can be asked to do, each verb a function; [`main`](../handler/index.html) chooses.

use std::fmt;

use log::{error, info};

use crate::by_name;
use crate::check::{self, Report};
use crate::data::sets;
use crate::dispatch::{self, Sent};
use crate::error::{Error, Fault, ends_with_an_error};
use crate::here::Here;
use crate::inbox;
use crate::logger;
use crate::model::event::{self, Asked};
use crate::model::keys;
use crate::model::maintenance::Maintenance;
use crate::model::names::{AppName, NodeName, OrderId, VariableName};
use crate::model::order::{Order, Request, State};
use crate::node::{probe, reconcile};
use crate::orders::{self, Failing};
use crate::outside::consul::Op;
use crate::show::{follow, plan, status};
use crate::{variables, worker};

/// Why a run ends with another status than 0.
#[derive(Debug)]
pub enum Failure {
    /// 1: what it was about has failed.
    Failed(Error),
    /// 1: at least one event or order failed. Its reason has been logged where it happened, this sums up.
    Events {
        failed: usize,
        of: usize,
    },
    Orders {
        failed: usize,
        of: usize,
    },
    Unreconciled {
        app: AppName,
    },
    Workers {
        failed: usize,
        of: usize,
    },
    /// 1: what was asked about is not as it should be.
    Wrong {
        count: usize,
    },
    /// 1: the order that was given has failed.
    Order {
        event: &'static str,
        name: String,
        reason: String,
    },
    /// 2: wrong usage or unreadable input.
    Usage(Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Failed(error) | Failure::Usage(error) => error.fmt(f),
            Failure::Events { failed, of } => write!(f, "failed {failed} of {of} events"),
            Failure::Orders { failed, of } => write!(f, "failed {failed} of {of} orders"),
            Failure::Unreconciled { app } => write!(f, "{app} is not as its record says"),
            Failure::Workers { failed, of } => write!(f, "something failed or is left for {failed} of {of} applications"),
            Failure::Wrong { count: 1 } => write!(f, "1 thing is wrong"),
            Failure::Wrong { count } => write!(f, "{count} things are wrong"),
            Failure::Order { event, name, reason } => write!(f, "{event} {name} failed: {reason}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

ends_with_an_error!(Failure);

fn judged(sent: &Sent) -> Result<(), Failure> {
    match sent.failed {
        0 => Ok(()),
        failed => Err(Failure::Workers { failed, of: sent.workers.max(failed) }),
    }
}

/// Consul's event watch: a list of events on standard input. `flags`: how those that it starts are to log.
pub fn events(here: &Here, input: &str, flags: &[String]) -> Result<(), Failure> {
    let events = event::parse(input).map_err(|why| Failure::Usage(Error::Events(why)))?;
    let taken = inbox::take(here, events);
    let sent = dispatch::dispatch(here, taken.as_ref().is_ok_and(|taken| taken.new > 0), flags);
    let taken = taken?;
    judged(&sent?)?;
    match taken.failed {
        0 => Ok(()),
        failed => Err(Failure::Events { failed, of: taken.events }),
    }
}

/// Another watch runs this; what it writes to standard input does not matter.
pub fn reconcile(here: &Here, flags: &[String]) -> Result<(), Failure> {
    let taken = inbox::take(here, Vec::new());
    judged(&dispatch::dispatch(here, false, flags)?)?;
    Ok(taken.map(drop)?)
}

/// What is to be done for one application.
pub fn work(here: &Here, name: &str) -> Result<(), Failure> {
    let name = AppName::try_from(name).map_err(|source| Failure::Usage(Error::Name { what: "work", source }))?;
    let tally = worker::work(here, &name)?;
    match (tally.failed + tally.left, tally.unreconciled) {
        (0, false) => Ok(()),
        (0, true) => Err(Failure::Unreconciled { app: name }),
        (failed, _) => Err(Failure::Orders { failed, of: failed + tally.done }),
    }
}

/// This node's part in the replicas of one application.
pub fn replicate(here: &Here, name: &str, now: bool) -> Result<(), Failure> {
    let name = AppName::try_from(name).map_err(|source| Failure::Usage(Error::Name { what: "replicate", source }))?;
    Ok(sets::replicate(here, &name, now, &|| Ok(worker::is_busy(here, &name)? || reconcile::holds_what_is_old(here, &name)?))?)
}

/// An order of one's own: written first, then the bell is rung, then a worker started apart and the order followed to its end, whoever works
/// on it. `flags`: how the worker is to log. `ordered` gets the order before anything is done for it, `told` a line for each step.
pub fn request(
    here: &Here,
    event: &str,
    json: &str,
    flags: &[String],
    ordered: impl FnOnce(&Order),
    told: impl FnMut(&str),
) -> Result<(), Failure> {
    let request = Request::parse(event, json);
    let request = request.map_err(|source| Failure::Usage(Error::Request { event: event.into(), source }))?;
    let id = here.world.new_id()?;
    let _order = logger::order(&id);
    let order = orders::create(here, id, request)?;
    ordered(&order);
    let bell = serde_json::json!({ "order": order.id }).to_string();
    if let Err(why) = here.consul.fire(event, &bell) {
        // The order stands in Consul all the same, and is found at each node's next run.
        error!("the other nodes are not told: {why}");
    }
    // Apart, so that whoever stops watching stops nothing else. It waits where another run is at work, and finds nothing left to do.
    let mut worker = here.world.processes.start_apart(&dispatch::work(flags, &order.name), false)?;
    let ended = follow::follow(here, &order, told)?;
    let status = worker.wait();
    match (ended.state, status) {
        (State::Done, Some(0)) => Ok(()),
        (State::Done, _) => Err(Failure::Failed(Fault::WorkerFailed { log: here.paths.log() }.into())),
        _ => Err(Failure::Order { event: order.request.event(), name: ended.name.to_string(), reason: ended.reason.unwrap_or_default() }),
    }
}

/// All that runs on a node goes elsewhere, one after the other; the first one that fails is the last one that is tried.
pub fn evacuate(
    here: &Here,
    (node, to): (&str, Option<&str>),
    flags: &[String],
    ordered: impl Fn(&Order),
    mut told: impl FnMut(&str),
) -> Result<(), Failure> {
    for (name, to, payload) in by_name::evacuation(here, node, to)? {
        told(&format!("{name} to {to}"));
        request(here, "deploy", &payload, flags, &ordered, &mut told)?;
    }
    Ok(())
}

/// What each of these orders would do.
pub fn plan_evacuation(here: &Here, node: &str, to: Option<&str>) -> Result<String, Failure> {
    by_name::evacuation(here, node, to)?.iter().map(|(.., payload)| plan(here, "deploy", payload)).collect()
}

/// An operator's own maintenance: that of an order is the order's.
pub fn maintenance(here: &Here, name: &str, on: bool) -> Result<(), Failure> {
    let deployed = by_name::Deployed::read(here)?;
    let (name, _) = deployed.find(name)?;
    let key = keys::maintenance(name);
    let found = here.consul.get(&key)?;
    if let Some(id) = found.as_ref().and_then(|entry| Maintenance::read(&entry.value).order) {
        return Err(Fault::Maintained { name: name.clone(), id }.into());
    }
    match (on, found) {
        (true, None) => drop(here.consul.cas(&key, b"{}", 0)?),
        (false, Some(entry)) => drop(here.consul.transaction(&[Op::DeleteCas(&key, entry.modify_index)])?),
        _ => {}
    }
    Ok(())
}

/// What is to be done about an application's variables.
#[derive(Debug, PartialEq)]
pub enum Variable {
    Set(String),
    Unset(String),
    List,
    Edit,
    Clear,
}

/// Answers what to print. `ask` gets a value, `edit` gives a text to a person and what is made of it to the function.
pub fn env(
    here: &Here,
    (of, branch): (&str, Option<&str>),
    what: &Variable,
    ask: impl FnOnce(&str) -> Result<String, Failure>,
    edit: impl FnOnce(&str, &dyn Fn(&str) -> Result<(), Error>) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let name = by_name::with_variables(here, of, branch)?;
    let named = |variable: &str| VariableName::try_from(variable).map_err(|source| Failure::Usage(Error::Name { what: "env", source }));
    let done = match what {
        Variable::List => {
            return Ok(variables::read(here, &name)?.0.names().map(|name| format!("{name}\n")).collect());
        }
        Variable::Set(variable) => {
            let variable = named(variable)?;
            variables::set(here, &name, variable.clone(), ask(&format!("{variable} of {name}: "))?)?;
            format!("{variable} is set")
        }
        Variable::Unset(variable) => {
            let variable = named(variable)?;
            variables::unset(here, &name, &variable)?;
            format!("{variable} is unset")
        }
        Variable::Edit => {
            let (before, index) = variables::read(here, &name)?;
            edit(&variables::to_edit(&name, &before), &|text| variables::replace(here, &name, &variables::edited(text)?, index))?;
            "its variables are as you have written them".into()
        }
        Variable::Clear => {
            variables::clear(here, &name)?;
            "all its variables are removed".into()
        }
    };
    info!("{name}: {done}");
    Ok(format!("{name}: {done}; what runs has them as they were, until it is deployed again\n"))
}

/// An open order fails; with `give_up` the undo of one that has failed is a person's from now on, on that node.
pub fn cancel(here: &Here, id: &str, give_up: Option<&str>) -> Result<String, Failure> {
    let invalid = |source| Failure::Usage(Error::Name { what: "cancel", source });
    let id = OrderId::try_from(id).map_err(invalid)?;
    let node = give_up.map(NodeName::try_from).transpose().map_err(invalid)?;
    let _order = logger::order(&id);
    let order = match (orders::open_one(&here.consul, &id), &node) {
        (Err(Error::Fault(Fault::NotOpen { .. })), Some(node)) if orders::give_up_late(here, &id, node)? => {
            return Ok(format!("{id}: failed; the undo is given up on {node}\n"));
        }
        (order, _) => order?,
    };
    let failing = match &node {
        Some(node) if order.state != State::Failed => return Err(Fault::NotFailed { id: id.to_string(), node: node.to_string() }.into()),
        Some(node) => orders::give_up(here, &id, node)?,
        None => orders::fail(here, &id, "cancelled by hand", None)?,
    };
    Ok(match failing {
        Failing::Archived => format!("{id}: failed\n"),
        Failing::Gone => format!("{id}: has come to its end meanwhile\n"),
        Failing::Undoing(nodes) => {
            let nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
            format!("{id}: failed; to be undone on {}\n", nodes.join(", "))
        }
    })
}

/// What each node would do, as text for people.
pub fn plan(here: &Here, event: &str, json: &str) -> Result<String, Failure> {
    let asked = event::asked(event, json).map_err(|source| Failure::Usage(Error::Request { event: event.into(), source }))?;
    let order = match asked {
        Asked::Request(request) => {
            let (request, credential) = request.without_credentials();
            let mut order = Order::new(here.world.new_id()?, request, here.world.clock.now());
            orders::needs(here, &mut order, credential.is_some())?;
            orders::understood_by_all(here, &order)?;
            order
        }
        Asked::Order(id) => orders::open_one(&here.consul, &id)?,
    };
    Ok(plan::plan(here, &order)?)
}

/// What is deployed where, or of one application, for people or as `json`; what is wrong is a failure, once `print` has shown it.
pub fn status<E: From<Failure>>(
    here: &Here,
    of: Option<&str>,
    (details, json): (bool, bool),
    print: impl FnOnce(&str) -> Result<(), E>,
) -> Result<(), E> {
    let named = of.map(|of| Ok(by_name::Deployed::read(here)?.find(of)?.0.clone())).transpose().map_err(|why: Error| Failure::from(why))?;
    let status = status::status(here, named.as_ref(), details || of.is_some()).map_err(Failure::from)?;
    print(&if json { format!("{}\n", status.json) } else { status.text })?;
    match status.wrong {
        0 => Ok(()),
        count => Err(Failure::Wrong { count }.into()),
    }
}

/// What this node needs, looked at; what is missing is a failure, once `print` has shown it.
pub fn probe<E: From<Failure>>(here: &Here, print: impl FnOnce(&str) -> Result<(), E>) -> Result<(), E> {
    let probed = probe::probe(here).map_err(Failure::from)?;
    let lines = probed.wrong.iter().map(|why| format!("wrong: {why}\n")).chain(probed.notes.iter().map(|why| format!("note: {why}\n")));
    print(&lines.collect::<String>())?;
    match probed.wrong.len() {
        0 => Ok(()),
        count => Err(Failure::Wrong { count }.into()),
    }
}

/// The health check. Whether something is wrong is no failure of its own: who runs it wants its words and its exit status.
pub fn check(here: &Here, flags: &[String]) -> Report {
    check::check(here, flags)
}
