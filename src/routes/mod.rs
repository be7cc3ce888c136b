//! What an application says of its routes: from its services' variables to what its record holds, and what no two applications may share.
//! Pure.
//!
//! - [`read`](fn@read): all variables of all services → [`Routes`]. [`sites`], [`haproxy`] and [`checks`] have a variable each.
//! - [`caddyfile`] is the grammar; [`directives`] knows the words of both Caddys. [`caddy2`] completes sites, with [`upgrade`] for those in
//!   the words of Caddy 1; [`caddy1`] writes for Caddy 1 itself.
//! - [`reach`]: what a site may reach. [`judge`](mod@judge): whether what Caddy has understood may be served.
//! - [`words`]: what may be written into haproxy's configuration.
//! - [`claims`]: the comparison with the other applications' records.

pub mod address;
pub mod bind;
pub mod caddy1;
pub mod caddy2;
pub mod caddyfile;
pub mod checks;
pub mod claims;
pub mod directives;
pub mod error;
pub mod haproxy;
pub mod judge;
pub mod reach;
pub mod read;
#[cfg(test)]
pub(crate) mod real;
pub mod sites;
pub mod upgrade;
pub mod words;

pub use claims::{conflicts, outdated};
pub use error::Error;
pub use judge::understood;
pub use read::{Routes, read};
