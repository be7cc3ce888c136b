//! The real handler on the nodes of a world of stand-ins: what it does in which order, and what is left when something fails.

// Helpers of tests are tests, too; clippy sees only the functions that say so.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../world/mod.rs"]
mod world;

mod attack17;
#[cfg(feature = "caddy")]
mod attack17_caddy;
#[cfg(feature = "caddy")]
mod attack20_caddy;
#[cfg(feature = "caddy")]
mod attack22_caddy;
mod by_name;
mod check;
mod cluster;
mod credentials;
mod deploy;
mod histories;
mod intake;
mod matrix;
mod orders;
#[cfg(feature = "caddy")]
mod random_routes;
#[cfg(feature = "caddy")]
mod real_caddy;
mod recovery;
mod resolved;
mod routes;
mod the_world;
mod variables;
#[cfg(feature = "older")]
mod versions;

use serde_json::Value;
use world::id;
use world::outside::World;
use world::shop::{APP, DATA, PROJECT, URL, all_well, compose, deploy, push, push_files};

/// The shop in the process world.
fn shop(nodes: &[&str]) -> World {
    world::shop::shop(nodes)
}

fn deployed(nodes: &[&str], master: &str, slave: Option<&str>) -> World {
    world::shop::deployed(nodes, master, slave)
}

/// Where the web server serves, and which commit.
#[track_caller]
fn assert_serves(w: &World, node: &str, commit: &str) {
    let web = format!("{node} {PROJECT}-web-1 <web {commit}>");
    let cache = format!("{node} {PROJECT}-cache-1 <cache one>");
    let mut serving = w.serving(PROJECT);
    serving.sort();
    assert_eq!(serving, [cache, web]);
}

/// The texts stand in these lines, in this order.
#[track_caller]
fn assert_order(lines: &[String], texts: &[&str]) {
    let mut rest = lines.iter();
    for text in texts {
        assert!(rest.any(|l| l.contains(text)), "“{text}” expected next, of {texts:?}, in:\n{}", lines.join("\n"));
    }
}

/// The finished order of the shop, from the history.
#[track_caller]
fn finished(w: &World, word: &str) -> Value {
    let order = w.kv(&format!("history/{APP}/{}", id(word)));
    order.unwrap_or_else(|| panic!("no order {word} in the history"))
}

#[track_caller]
fn assert_failed(w: &World, word: &str, reason: &[&str]) {
    let order = finished(w, word);
    assert_eq!(order["state"], "failed", "{order:#}");
    let given = order["reason"].as_str().unwrap_or_default();
    for text in reason {
        assert!(given.contains(text), "“{text}” expected in “{given}”");
    }
    assert_eq!(w.keys("order/"), [""; 0]);
    assert_eq!(w.keys("maintenance/"), [""; 0]);
}
