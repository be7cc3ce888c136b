//! The handler on the nodes of a simulated cluster, in this process: thousands of failures in the time that one run of the binary takes.

// Helpers of tests are tests, too; clippy sees only the functions that say so.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../world/mod.rs"]
mod world;

mod attack;
mod attack10;
mod attack11;
mod attack12;
mod attack13;
mod attack14;
mod attack15;
mod attack16;
mod attack18;
mod attack19;
mod attack2;
mod attack20;
mod attack21;
mod attack3;
mod attack4;
mod attack5;
mod attack6;
mod attack7;
mod attack8;
mod attack9;
mod basics;
mod beside;
mod chaos;
mod check;
mod matrix;
mod orders;
mod others;
mod replicas;
mod resolved;
mod seeds;
mod sets;
mod stories;
mod takeover;
