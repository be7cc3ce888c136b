//! What an order would mean for each node concerned, as text for people. Changes nothing.

use crate::data::{replicas, takeover, told, volumes};
use crate::error::Error;
use crate::here::Here;
use crate::model::names::NodeName;
use crate::model::order::{Order, Request};
use crate::model::roles::{role, role_in};
use crate::steps::plan::{self, Facts};
use crate::steps::table::Step;
use crate::worker::Records;
use crate::{about, variables};

pub fn plan(here: &Here, order: &Order) -> Result<String, Error> {
    let members = here.consul.members()?;
    let records = Records::of(here, order)?;
    let facts = records.facts(&members);
    let owner = plan::owner(order, &facts).map_err(|reason| Error::Refused(Box::new(reason)))?;
    let mut lines = vec![format!("{} {}", order.request.event(), order.name)];
    if let Request::Deploy(deploy) = &order.request {
        lines.extend(plan::slave(deploy, &facts).1);
    }
    if facts.record.is_none()
        && let Some(master) = facts.lost.filter(|master| **master == owner)
    {
        let does = if here.me()? == master {
            "does not know itself as its master, and begins anew"
        } else {
            "switches from what it remembers, if it does"
        };
        lines.push(format!("its record is gone: {master} {does}"));
    }
    for member in &members {
        let Ok(name) = NodeName::try_from(member.name.clone()) else { continue };
        let plan = plan::plan(order, &facts, &name)?;
        if plan.steps.is_empty() && plan.then.is_empty() {
            continue;
        }
        let what = if name == owner { ", carries it out" } else { "" };
        let alive = if member.alive { "" } else { ", dead: once it is back" };
        lines.push(format!("{name} ({}{what}{alive})", roles(order, &facts, &name)));
        for (at, step) in plan.steps.iter().enumerate() {
            lines.push(format!("  {:2}  {:16} {step}", at + 1, step.row().name));
        }
        for task in &plan.then {
            lines.push(format!("   -  {:16} {task}", task.name()));
        }
        if plan.steps.contains(&Step::RestoreReplica) {
            lines.extend(replicas(here, order, &name, &facts)?.into_iter().map(|note| format!("      {note}")));
        }
    }
    lines.extend(read(here, order, &facts)?);
    let routed = facts.record.is_some_and(|record| !record.caddyfile.is_empty());
    if routed && here.settings.routes.admin.is_none() && matches!(order.request, Request::Deploy(_)) {
        lines.push("routes: nobody vouches for what they mean, since HANDLER_CADDY_ADMIN names no Caddy that reads them".into());
    }
    lines.extend(variables(here, order)?);
    Ok(lines.join("\n") + "\n")
}

/// Which an operator keeps for it, and what becomes of them.
fn variables(here: &Here, order: &Order) -> Result<Option<String>, Error> {
    let names: Vec<String> = variables::read(here, &order.name)?.0.names().map(|name| name.to_string()).collect();
    Ok(match order.request {
        _ if names.is_empty() => None,
        Request::Deploy(_) => Some(format!("its variables: {}", names.join(", "))),
        Request::Destroy(_) => Some(format!("its variables stay in Consul until `handler env {} clear`", order.name)),
        Request::Migrate(_) => None,
    })
}

/// Which volumes are protected: in the version that is ordered, once this node has read its repository; until then in the deployed one.
fn read(here: &Here, order: &Order, facts: &Facts) -> Result<Vec<String>, Error> {
    match (here.resolved(&order.name, &(&order.id).into())?, facts.record) {
        (Some(compose), _) => Ok(volumes::protection(&compose.volumes)),
        (None, Some(record)) => volumes::deployed(here, &order.name, record),
        (None, None) => Ok(Vec::new()),
    }
}

fn roles(order: &Order, facts: &Facts, name: &NodeName) -> String {
    let old = role_in(facts.record, name);
    match &order.request {
        Request::Deploy(deploy) => format!("{old} -> {}", role(name, &deploy.master, plan::slave(deploy, facts).0.as_deref())),
        Request::Destroy(_) => format!("{old} -> none"),
        Request::Migrate(_) => format!("{old}"),
    }
}

/// What a takeover would start from. What is here is known on the node itself only, what is confirmed on every node.
fn replicas(here: &Here, order: &Order, name: &NodeName, facts: &Facts) -> Result<Vec<String>, Error> {
    let (Some(record), Request::Deploy(deploy)) = (facts.record, &order.request) else { return Ok(Vec::new()) };
    if here.me()? != name {
        let (replica, _) = replicas::read(here, &order.name, name)?;
        let blind = (!about::read(here, name)?.confirms).then_some(name);
        let told = told::told(name, &replica, blind, record, (false, true), here.world.clock.now());
        return Ok(vec![told.line, format!("what it would start from, `handler plan` says on {name}")]);
    }
    match takeover::choose(here, &order.name, record, deploy, &Default::default()) {
        Ok(choice) => Ok(choice.notes),
        Err(why) if why.is_out_of_reach() => Err(why),
        Err(why) => Ok(vec![format!("it would fail: {why}")]),
    }
}
