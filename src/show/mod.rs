//! Text for people.

pub mod status;
