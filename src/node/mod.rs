//! This node against the records.

pub mod fence;
pub mod local;
pub mod reconcile;
