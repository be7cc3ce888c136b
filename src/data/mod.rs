//! What becomes of data: each promise about it has its room here.

pub mod schedules;
