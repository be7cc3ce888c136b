//! The keys in Consul, each in one place.

use super::names::{AppName, NodeName, OrderId};

pub const APPS: &str = "app/";
pub const MAINTENANCES: &str = "maintenance/";
pub const ORDERS: &str = "order/";
pub const HISTORIES: &str = "history/";
pub const NODES: &str = "node/";
pub const REPLICAS: &str = "replica/";
/// What Caddy proves who a site is by, and its key.
pub const CERTIFICATES: &str = "certificate/";
pub const CREDENTIALS: &str = "credential/";
pub const VARIABLES: &str = "env/";
/// The last order that was committed: each deploy's commit changes it, so that no two claim the same at once.
pub const CLAIMS: &str = "claims";

/// The record of a deployed application.
pub fn app(name: &AppName) -> String {
    format!("{APPS}{name}")
}

/// Exists while the application shows its maintenance page.
pub fn maintenance(name: &AppName) -> String {
    format!("{MAINTENANCES}{name}")
}

/// An order that is not finished.
pub fn order(id: &OrderId) -> String {
    format!("{ORDERS}{id}")
}

/// Below it the finished orders of an application.
pub fn histories(name: &AppName) -> String {
    format!("{HISTORIES}{name}/")
}

pub fn history(name: &AppName, id: &OrderId) -> String {
    format!("{HISTORIES}{name}/{id}")
}

/// What the application's repository asks for.
pub fn credential(name: &AppName) -> String {
    format!("{CREDENTIALS}{name}")
}

/// The same, as an order has brought it whose repository has not been cloned with it yet.
pub fn brought(name: &AppName, order: &OrderId) -> String {
    format!("{CREDENTIALS}{name}/{order}")
}

/// What the operator keeps for an application outside of its repository.
pub fn variables(name: &AppName) -> String {
    format!("{VARIABLES}{name}")
}

/// Below it what each holder of replicas has of an application.
pub fn replicas(name: &AppName) -> String {
    format!("{REPLICAS}{name}/")
}

pub fn replica(name: &AppName, holder: &NodeName) -> String {
    format!("{REPLICAS}{name}/{holder}")
}

/// What a node says of itself.
pub fn node(name: &NodeName) -> String {
    format!("{NODES}{name}")
}
