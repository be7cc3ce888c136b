//! What applications write, whatever they write: no panic, no hang, and what is written out reads back as the same.
//! `cargo +nightly fuzz run routes -- -max_total_time=600 -timeout=10`
#![no_main]

use handler::model::names::Project;
use handler::outside::compose_file::{Compose, Service};
use handler::outside::engine::Restart;
use handler::proxies::view::Routed;
use handler::routes::address::{SiteAddress, site_addresses};
use handler::routes::{self, caddy2, caddyfile};
use handler::settings::{self, Version};
use libfuzzer_sys::fuzz_target;

/// The first byte chooses the reader.
fn read(data: &[u8]) -> Option<()> {
    let (kind, text) = data.split_first()?;
    let text = std::str::from_utf8(text).ok()?;
    match kind % 4 {
        0 => {
            let sites = caddyfile::parse(text).ok()?;
            let words: Vec<&str> = sites.iter().flat_map(|site| &site.addresses).map(|word| &*word.text).collect();
            // others are refused before anything is written
            if words.iter().all(|word| SiteAddress::parse(word).is_ok()) {
                let out = caddyfile::dump(&sites);
                let again = caddyfile::parse(&out).expect("what was written is read");
                assert_eq!(caddyfile::dump(&again), out);
                let addresses: Vec<&str> = site_addresses(&out).collect();
                assert_eq!(addresses, words, "{out}");
            }
        }
        1 => drop(Compose::parse(text.as_bytes(), &Project::try_from("project").ok()?, "driver")),
        2 | 3 => {
            let (variable, version) = match kind & 0x0c {
                0 => ("CADDYFILE", Version::One),
                0x04 => ("HAPROXY", Version::Two),
                0x08 => ("CONSUL_CHECK_URLS", Version::Two),
                _ => ("CADDYFILE", Version::Two),
            };
            let service = Service {
                restart: Restart::never(),
                name: "web".into(),
                container: "web".into(),
                image: None,
                build: true,
                dockerfile: None,
                environment: [(variable.to_string(), text.to_string())].into(),
                oneshot: false,
                made: true,
                replicas: 1,
                networks: Vec::new(),
                aliases: Vec::new(),
            };
            let set = settings::Routes { caddy: version, admin: None, storage: None, ports: None, network: None, upstreams: Vec::new() };
            let routes = routes::read(&[service], &set).ok()?;
            let none = serde_json::Map::new();
            let others = [("other", "node2", routes.caddyfile.as_str(), &routes.haproxy), ("x", "node1", "", &none)];
            drop(routes::conflicts("mine", "node1", &routes, others));
            let node = handler::model::names::NodeName::try_from("node1").expect("the name of a node");
            let record = serde_json::json!({"master": "node1", "caddyfile": routes.caddyfile, "haproxy": routes.haproxy});
            assert!(routes::haproxy::outdated(&routes.haproxy).is_none(), "what a deploy accepts is accepted again");
            drop(Routed::of("mine", record.to_string().as_bytes(), &node, version, None).expect("what a deploy accepts can be served"));
            if version == Version::Two {
                let mut sites = caddyfile::parse(&routes.caddyfile).expect("what was written is read");
                caddy2::complete(&mut sites).expect("what is Caddy 2's stays");
                assert_eq!(caddyfile::dump(&sites), routes.caddyfile);
            }
        }
        _ => unreachable!(),
    }
    Some(())
}

fuzz_target!(|data: &[u8]| {
    read(data);
});
