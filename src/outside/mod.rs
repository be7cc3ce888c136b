//! Everything that touches the world.

pub mod caddy;
pub mod clock;
pub mod cmd;
pub mod compose;
pub mod compose_file;
pub mod consul;
pub mod disk;
pub mod doors;
pub mod engine;
pub mod git;
pub mod http;
pub mod interrupt;
pub mod plugin;
pub mod process;
pub mod seal;
pub mod terminal;
pub mod yaml;
