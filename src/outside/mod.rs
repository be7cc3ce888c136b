//! Everything that touches the world.

pub mod compose_file;
pub mod consul;
pub mod engine;
pub mod git;
pub mod http;
pub mod plugin;
pub mod process;
pub mod yaml;
