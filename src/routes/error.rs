//! Why an application's routes are refused.

use std::fmt;

use super::bind::Bind;
use super::caddyfile::Position;
use super::{checks, directives, haproxy, sites};

#[derive(Debug)]
pub enum Error {
    /// A variable cannot be read or means nothing.
    Variable {
        service: String,
        problem: Box<Problem>,
    },
    /// Two sites of the application have one address.
    Twice {
        address: String,
        first: Place,
        second: Place,
    },
    /// Caddy has understood the sites, and they are not to be served.
    Understood(Box<directives::Problem>),
    /// Several services together make no sense.
    Together(Box<haproxy::Error>),
    /// A port of it.
    NotOpen {
        what: String,
        open: String,
    },
    /// A proxy's own name.
    ProxysName {
        service: String,
        name: String,
        network: String,
    },
    NotInNetwork {
        service: String,
        network: String,
    },
    LongName {
        service: String,
        container: String,
    },
    /// In KiB.
    TooLong {
        size: usize,
        most: usize,
    },
    /// Another application has it.
    Taken {
        what: Claim,
        by: String,
    },
    /// The application itself has a host with different `tls` lines.
    TwoTls {
        host: String,
    },
    /// Another application has a host with other `tls` lines.
    OtherTls {
        host: String,
        by: String,
    },
    /// Caddy can read the sites, and does not take them beside what it serves.
    NotTaken {
        says: String,
    },
}

/// By variable.
#[derive(Debug)]
pub enum Problem {
    Caddyfile(sites::Error),
    Haproxy(haproxy::Error),
    ConsulCheckUrls(checks::Error),
}

/// Where in an application a site's address stands.
#[derive(Debug, Clone)]
pub struct Place {
    pub service: String,
    pub at: Position,
}

/// What no two applications may have.
#[derive(Debug)]
pub enum Claim {
    Address(String),
    /// One speaks TLS there, the other does not.
    Port(u16),
    Name(String),
    Backend(String),
    Bind(Bind),
    /// A bind of this one is the port of the other's address.
    BindAsPort {
        bind: Bind,
        address: String,
    },
    /// The port of an address of this one is the other's bind.
    PortAsBind {
        port: u16,
        bind: Bind,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Variable { service, problem } => write!(f, "service {service}: {problem}"),
            Error::Twice { address, first, second } => write!(f, "CADDYFILE: the address {address} is used twice: {first}; {second}"),
            Error::Understood(source) => write!(f, "CADDYFILE: {source}"),
            Error::Together(source) => write!(f, "HAPROXY: {source}"),
            Error::NotOpen { what, open } => write!(
                f,
                "{what}: nothing leads to this port: haproxy publishes 80, 443 and {open} on every node (TCP_PORTS of the proxies' .env, \
                 HANDLER_TCP_PORTS of the handler)"
            ),
            Error::ProxysName { service, name, network } => {
                write!(f, "service {service} would answer to the name {name} in {network}, as the proxy does: give it another name there")
            }
            Error::NotInNetwork { service, network } => write!(
                f,
                "service {service} has a route, but is not in the network {network}, where the proxies would find it: add `networks: [{network}]` to it, \
                 and `{network}: {{external: true}}` to the file's networks"
            ),
            Error::LongName { service, container } => write!(
                f,
                "service {service} has a route, but nothing finds its container: no part of a name can have more than 63 characters, and it would be \
                 {container}; give it a shorter `container_name`"
            ),
            Error::TooLong { size, most } => write!(
                f,
                "CADDYFILE: as Caddy has understood them the sites are {size} KiB, and Consul takes a record with {most}; say more with fewer lines, by \
                 `path_regexp` or `map`, or in the application"
            ),
            Error::Taken { what, by } => write!(f, "{what} is used by the application {by} already"),
            Error::TwoTls { host } => {
                write!(
                    f,
                    "CADDYFILE: {host} has sites with different `tls` lines, on whatever port, and Caddy takes one way for a host: write the same ones"
                )
            }
            Error::OtherTls { host, by } => write!(
                f,
                "{host}: the application {by} has it with other `tls` lines, on whatever port, and Caddy takes one way for a host: write the same ones, \
                 or use another host"
            ),
            Error::NotTaken { says } => write!(f, "CADDYFILE: Caddy does not take it: {says}"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Problem::Caddyfile(source) => write!(f, "CADDYFILE: {source}"),
            Problem::Haproxy(source) => write!(f, "HAPROXY: {source}"),
            Problem::ConsulCheckUrls(source) => write!(f, "CONSUL_CHECK_URLS: {source}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Position { line, column } = self.at;
        write!(f, "service {}, line {line}, column {column}", self.service)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Claim::Address(text) => write!(f, "the address {text}"),
            Claim::Port(port) => write!(f, "port {port}, here with and there without TLS or the other way round,"),
            Claim::Name(name) => write!(f, "the HAPROXY name {name}"),
            Claim::Backend(name) => write!(f, "the HAPROXY backend {name}"),
            Claim::Bind(bind) => write!(f, "the HAPROXY bind {bind}"),
            Claim::BindAsPort { bind, address } => write!(f, "the HAPROXY bind {bind}, there as the port of {address},"),
            Claim::PortAsBind { port, bind } => write!(f, "the port {port} of an address, there as the HAPROXY bind {bind},"),
        }
    }
}
