//! The proxies' files of this node: what they come from, their text, and how they get to the proxies.
//!
//! haproxy stands in front on every node and leads to the node where the application runs: HTTP by Host, HTTPS unopened by SNI, other TCP
//! by port. Caddy serves the applications of its own node: by what was judged of their sites, or by the sites' text where nobody has read it.

pub mod apply;
pub mod caddy;
pub mod certificates;
pub mod compose;
pub mod error;
pub mod file;
pub mod haproxy;
#[cfg(test)]
mod random;
pub mod view;
pub mod wildcards;

pub use error::Error;
