//! Carrying an order out on this node, step by step.

pub mod journal;
pub mod plan;
pub mod run;
