//! What all speak of: names, orders, records, keys, times. No effects.

pub mod credential;
pub mod event;
pub mod json;
pub mod keep;
pub mod keys;
pub mod maintenance;
pub mod members;
pub mod names;
pub mod order;
pub mod record;
pub mod replica;
pub mod roles;
pub mod text;
pub mod time;
pub mod variables;
