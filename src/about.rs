//! What each node says of itself in Consul, so that the others know what they can ask of it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, in_consul, text_of};
use crate::here::Here;
use crate::model::names::NodeName;
use crate::model::order::{UNDERSTANDS, Unknown};
use crate::model::{json, keys};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `node/<name>`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Of the handler.
    pub version: String,
    /// What an order may need: [`UNDERSTANDS`].
    pub understands: u32,
    /// This run of its machine, as the kernel names it.
    #[serde(default)]
    pub boot: String,
    /// It sees the plugin's snapshots as btrfs has them, and confirms what is sent to it.
    #[serde(default)]
    pub confirms: bool,
    /// Its haproxy has the ports on which others of the cluster say who the client is.
    #[serde(default)]
    pub peered: bool,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A node that says nothing has a handler from before nodes did.
pub fn read(here: &Here, node: &NodeName) -> Result<About, Error> {
    let key = keys::node(node);
    let Some(entry) = here.consul.get(&key)? else {
        return Ok(About { version: "older than 0.2".into(), understands: 1, ..About::default() });
    };
    in_consul(&entry, "what a node says of itself")
}

/// Writes it where it is not what stands there.
pub fn tell(here: &Here) -> Result<(), Error> {
    let key = keys::node(here.me()?);
    let own = About {
        version: VERSION.into(),
        understands: UNDERSTANDS,
        boot: here.world.boot()?,
        confirms: here.sees_snapshots()?,
        peered: here.settings.proxy_protocol,
        unknown: Unknown::new(),
    };
    let stands = here.consul.get(&key)?.and_then(|entry| json::read::<About>(&entry.value).ok());
    if stands.is_some_and(|stands| About { unknown: Unknown::new(), ..stands } == own) {
        return Ok(());
    }
    let text = text_of(&key, &own)?;
    Ok(here.consul.put(&key, &text)?)
}
