//! Text for people.

pub mod follow;
pub mod history;
pub mod plan;
pub mod status;
