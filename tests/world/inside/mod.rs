//! The cluster behind the four doors of handlers in this process: no process, no socket, no real time, a disk that forgets what was not
//! synced. Each run of a handler is a thread, of which one at a time goes on; each call of a door is a point at which the seed decides
//! which. The same seed gives the same history.

mod disk;
mod doors;
mod log;
pub mod random;
mod schedule;
mod sim;

/// Where the plugin of each node has its snapshots.
const SNAPSHOTS: &str = "/snapshots";

pub use disk::Disk;
pub use schedule::End;
pub use sim::{Saved, Sim, Start};
