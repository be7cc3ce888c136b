//! This node against the records.

pub mod reconcile;
pub mod store;
