//! What all speak of; no effects.

pub mod event;
pub mod json;
pub mod order;
pub mod record;
pub mod time;
