//! The proxies' files of this node.

pub mod apply;
pub mod render;
