//! What an application says of its routes.

pub mod caddy1;
pub mod caddyfile;
pub mod haproxy;
pub mod read;
