//! The real handler on the nodes of a world of stand-ins: what it does in which order, and what is left when something fails.

// Helpers of tests are tests, too; clippy sees only the functions that say so.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../world/mod.rs"]
mod world;

mod cluster;
mod deploy;
mod intake;
mod matrix;
mod orders;
mod recovery;
mod routes;
mod the_world;

use serde_json::{Value, json};
use world::{Run, World, event, id};

const URL: &str = "file:///repos/shop";
const APP: &str = "shop_master.e4371";
const PROJECT: &str = "shopmastere4371";
const DATA: &str = "shopmastere4371_data";

/// A shop with a web server that is built and has the data, and a cache that is pulled. `more` goes into the web server's service.
fn compose(more: &str) -> String {
    format!(
        "services:
  web:
    build: .
    restart: unless-stopped
    volumes: ['data:/data']
    healthcheck: {{test: [CMD, 'true']}}
    {more}
  cache:
    image: cache:1
    restart: unless-stopped
volumes:
  data: {{driver: 'anybox/buttervolume:latest'}}
"
    )
}

/// A world with the shop in its repository, not deployed yet.
fn shop(nodes: &[&str]) -> World {
    let w = World::new(nodes);
    w.lock().registry.insert("cache:1".to_owned(), "cache one".to_owned());
    push(&w, "");
    w
}

/// The next version; answers its commit.
fn push(w: &World, more: &str) -> String {
    push_files(w, more, &[])
}

fn push_files(w: &World, more: &str, files: &[(&str, &str)]) -> String {
    let text = compose(more);
    let mut all = vec![("docker-compose.yml", text.as_str())];
    all.extend(files);
    w.commit(URL, "master", &all)
}

fn deploy(word: &str, master: &str, slave: Option<&str>) -> Value {
    let mut payload = json!({"repo": URL, "branch": "master", "master": master});
    if let Some(slave) = slave {
        payload["slave"] = slave.into();
    }
    event(word, "deploy", &payload)
}

/// The shop, deployed and with data in it.
fn deployed(nodes: &[&str], master: &str, slave: Option<&str>) -> World {
    let w = shop(nodes);
    all_well(&w.deliver_all(&[deploy("first", master, slave)]));
    w.write(master, DATA, "orders of monday");
    w.settle();
    w.take_log();
    w
}

#[track_caller]
fn all_well(runs: &[Run]) {
    for run in runs {
        run.exits(0);
    }
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
