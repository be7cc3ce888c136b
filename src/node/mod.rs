//! This node against the records.

pub mod about;
pub mod fence;
pub mod local;
pub mod reconcile;
