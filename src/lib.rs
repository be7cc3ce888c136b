//! The handler: a short-lived program on every node of a cluster, started by Consul, that carries out `deploy`, `destroy` and
//! `migrate` for stateful docker-compose applications.

pub mod cli;
pub mod here;
pub mod inbox;
pub mod logger;
pub mod model;
pub mod node;
pub mod outside;
pub mod proxies;
pub mod routes;
pub mod settings;
pub mod show;
pub mod steps;
pub mod worker;
