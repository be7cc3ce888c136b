//! What a node is to an application.

use std::fmt;

use serde::Deserialize;

use super::names::{DeployId, NodeName};
use super::record::Record;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Master,
    Slave,
    None,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Role::Master => "master",
            Role::Slave => "slave",
            Role::None => "none",
        })
    }
}

/// The part of a record that says who has which role.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Roles {
    pub master: NodeName,
    pub slave: Option<NodeName>,
    pub deploy_id: DeployId,
}

pub fn role(node: &str, master: &str, slave: Option<&str>) -> Role {
    if node == master {
        Role::Master
    } else if slave == Some(node) {
        Role::Slave
    } else {
        Role::None
    }
}

impl From<&Record> for Roles {
    fn from(record: &Record) -> Roles {
        Roles { master: record.master.clone(), slave: record.slave.clone(), deploy_id: record.deploy_id.clone() }
    }
}

impl Roles {
    pub fn of(&self, node: &str) -> Role {
        role(node, &self.master, self.slave.as_deref())
    }
}

/// The role that a record gives a node.
pub fn role_in(record: Option<&Record>, node: &str) -> Role {
    record.map_or(Role::None, |record| role(node, &record.master, record.slave.as_deref()))
}
