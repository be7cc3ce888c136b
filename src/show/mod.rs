//! Text for people.

pub mod follow;
pub mod plan;
pub mod status;
