//! What becomes of data: each promise about it has its room here.

pub mod others;
pub mod own;
pub mod parents;
pub mod remains;
pub mod removal;
pub mod replicas;
pub mod restoring;
pub mod schedules;
pub mod sets;
pub mod takeover;
pub mod told;
pub mod volumes;
