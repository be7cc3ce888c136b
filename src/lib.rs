//! The handler: a short-lived program on every node of a cluster, started by Consul, that carries out `deploy`, `destroy` and
//! `migrate` for stateful docker-compose applications.
//!
//! The map, from the ground up; each room knows those above it in this list, and none below:
//!
//! - [`model`]: what all speak of: names, orders, records, keys, times. No effects.
//! - [`settings`]: the environment, read once.
//! - [`outside`]: everything that touches the world, behind four [doors](outside::doors).
//! - [`routes`]: what an application says of its routes.
//! - [`error`]: what went wrong, as callers tell it apart.
//! - [`logger`]: the log.
//! - [`here`]: this node: its doors, its name, its files.
//! - [`about`]: what each node says of itself.
//! - [`credentials`]: what repositories ask for.
//! - [`variables`]: what an operator keeps for an application outside of its repository.
//! - [`orders`]: orders in Consul: created, read, changed, finished, archived. [`service`]: what Consul is told of an application.
//! - [`inbox`]: events become orders.
//! - [`data`]: what becomes of data.
//! - [`node`]: this node against the records: reconcile, fence.
//! - [`proxies`]: the files of haproxy and Caddy.
//! - [`steps`]: carrying an order out, and undoing it.
//! - [`older`]: what an older handler has left on this node.
//! - [`worker`]: what is to be done for one application. [`dispatch`]: for which there is something to do.
//! - [`findings`]: what is to be said of this node. [`check`]: the health check.
//! - [`show`]: text for people. [`by_name`]: what people say in few words.
//! - [`verbs`]: what the handler can be asked to do; [`cli`]: how.

pub mod about;
pub mod by_name;
pub mod check;
pub mod cli;
pub mod credentials;
pub mod data;
pub mod dispatch;
pub mod error;
pub mod findings;
pub mod here;
pub mod inbox;
pub mod logger;
pub mod model;
pub mod node;
pub mod older;
pub mod orders;
pub mod outside;
pub mod proxies;
pub mod routes;
pub mod service;
pub mod settings;
pub mod show;
pub mod steps;
pub mod variables;
pub mod verbs;
pub mod worker;
