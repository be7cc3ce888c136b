//! What becomes of data: each promise about it has its room here.

pub mod own;
pub mod removal;
pub mod restoring;
pub mod schedules;
pub mod volumes;
