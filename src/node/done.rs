//! The orders that have come to their end on this node as done, by their IDs: Consul may be put back to a state in which one of them is open once
//! more, or lose it.
//!
//! What must hold:
//! - Such an order is neither begun again, nor gone on with, nor undone: Consul hears from this node that it is done.
//! - It is written down before its journal goes, and is on the disk then. A journal of such an order is at its end.
//! - Its room is taken before it begins, as the journal's is: a full disk keeps nothing from its end.

use crate::error::Error;
use crate::here::Here;
use crate::inbox;
use crate::model::names::{AppName, OrderId};
use crate::node::local::{self, LocalRole};
use crate::outside::doors::Write;

const MOST: u64 = 1 << 20;

/// Where nothing is written down yet, an older handler has done what this node is the master of, unless it is in the middle of it.
fn known(here: &Here, name: &AppName) -> Result<String, Error> {
    let at_rest = !here.world.is_file(&here.paths.journal(name));
    let local = || local::of(here, name).ok().flatten().filter(|local| at_rest && local.role == LocalRole::Master);
    Ok(match here.world.read_file(&here.paths.done(name), MOST)? {
        Some(text) => String::from_utf8_lossy(&text).into_owned(),
        None => local().map_or(String::new(), |local| local.deploy_id.to_string()),
    })
}

pub fn has(here: &Here, name: &AppName, order: &OrderId) -> Result<bool, Error> {
    Ok(known(here, name)?.lines().any(|line| *line == **order))
}

/// To be called before an order begins.
pub fn make_room(here: &Here, name: &AppName) -> Result<(), Error> {
    let path = here.paths.done(name);
    if !here.world.is_file(&path) {
        here.world.replace_file(&path, known(here, name)?.as_bytes(), true)?;
    }
    inbox::trim(here, &path)?;
    let used = here.world.look_at(&path)?.map_or(0, |found| found.len);
    Ok(here.world.reserve_file(&path, used + inbox::LINE)?)
}

/// To be called before its journal goes.
pub fn remember(here: &Here, name: &AppName, order: &OrderId) -> Result<(), Error> {
    // A line that was torn ends here.
    Ok(here.world.write_file(&here.paths.done(name), format!("\n{order}").as_bytes(), Write::Append, true)?)
}
