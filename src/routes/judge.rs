//! What Caddy has understood of an application's sites, against what is known: an allow-list. What stands in none of the lists below is
//! refused with its name. So it does not matter how a text is written, only what it means. Pure.
//!
//! What must hold of what is let through:
//! - it answers to the addresses that were compared with those of other applications, and to no others;
//! - it leads to the application's own containers, and to what the operator lists;
//! - it reads nothing of the proxy's disk and environment, opens no port, and changes nothing of what Caddy does for others.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::address::{Scheme, SiteAddress, site_addresses};
use super::directives::Problem;
use super::error::Error;
use super::reach::Reach;
use crate::outside::compose_file::Service;

/// What may stand somewhere.
enum Kind {
    /// Texts, numbers, lists and maps of these.
    Any,
    /// An object that has only these members.
    Only(Members),
    /// A list of such objects.
    List(Members),
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// Where its containers are.
    Upstreams,
    /// By the member `handler`.
    Handlers,
    /// Sets of matchers.
    Matchers,
}

use Kind::*;

type Members = &'static [(&'static str, Kind)];

const ROUTES: Members = &[("group", Any), ("match", Matchers), ("handle", Handlers), ("terminal", Any)];
/// For answers of a certain kind.
const RESPONSES: Members = &[("match", Only(&[("status_code", Any), ("headers", Any)])), ("status_code", Any), ("routes", List(ROUTES))];

const HANDLERS: &[(&str, Members)] = &[
    ("subroute", &[("routes", List(ROUTES)), ("errors", Only(&[("routes", List(ROUTES))]))]),
    ("reverse_proxy", PROXY),
    ("intercept", &[("handle_response", List(RESPONSES))]),
    ("copy_response", &[("status_code", Any)]),
    ("copy_response_headers", &[("include", Any), ("exclude", Any)]),
    (
        "encode",
        &[
            ("encodings", Only(&[("gzip", Any), ("zstd", Any)])),
            ("prefer", Any),
            ("minimum_length", Any),
            ("match", Only(&[("status_code", Any), ("headers", Any)])),
        ],
    ),
    ("headers", &[("request", Any), ("response", Any)]),
    (
        "rewrite",
        &[
            ("method", Any),
            ("uri", Any),
            ("strip_path_prefix", Any),
            ("strip_path_suffix", Any),
            ("uri_substring", Any),
            ("path_regexp", Any),
            ("query", Any),
        ],
    ),
    ("static_response", &[("status_code", Any), ("headers", Any), ("body", Any), ("close", Any), ("abort", Any)]),
    ("error", &[("error", Any), ("status_code", Any)]),
    ("authentication", &[("providers", Only(&[("http_basic", Any)]))]),
    ("request_body", &[("max_size", Any), ("read_timeout", Any), ("write_timeout", Any), ("set", Any)]),
    ("map", &[("source", Any), ("destinations", Any), ("mappings", Any), ("defaults", Any)]),
    ("log_append", &[("key", Any), ("value", Any), ("early", Any)]),
    ("push", &[("resources", Any), ("headers", Any)]),
];

const PROXY: Members = &[
    ("upstreams", Upstreams),
    ("transport", Only(TRANSPORT)),
    ("headers", Any),
    ("rewrite", Any),
    ("flush_interval", Any),
    ("request_buffers", Any),
    ("response_buffers", Any),
    ("stream_timeout", Any),
    ("stream_close_delay", Any),
    ("trusted_proxies", Any),
    ("handle_response", List(RESPONSES)),
    (
        "load_balancing",
        Only(&[("selection_policy", Any), ("retries", Any), ("try_duration", Any), ("try_interval", Any), ("retry_match", Matchers)]),
    ),
    (
        "health_checks",
        Only(&[
            ("passive", Any),
            (
                "active",
                // not `upstream`
                Only(&[
                    ("path", Any),
                    ("uri", Any),
                    ("port", Any),
                    ("headers", Any),
                    ("method", Any),
                    ("body", Any),
                    ("follow_redirects", Any),
                    ("interval", Any),
                    ("timeout", Any),
                    ("passes", Any),
                    ("fails", Any),
                    ("max_size", Any),
                    ("expect_status", Any),
                    ("expect_body", Any),
                ]),
            ),
        ]),
    ),
];

const TRANSPORT: Members = &[
    ("protocol", OneOf(&["http", "fastcgi"])),
    ("dial_timeout", Any),
    ("dial_fallback_delay", Any),
    ("response_header_timeout", Any),
    ("expect_continue_timeout", Any),
    ("read_timeout", Any),
    ("write_timeout", Any),
    ("read_buffer_size", Any),
    ("write_buffer_size", Any),
    ("max_response_header_size", Any),
    ("versions", Any),
    ("keep_alive", Any),
    ("max_conns_per_host", Any),
    ("compression", Any),
    (
        "tls",
        Only(&[
            ("insecure_skip_verify", Any),
            ("server_name", Any),
            ("handshake_timeout", Any),
            ("renegotiation", Any),
            ("except_ports", Any),
            ("curves", Any),
        ]),
    ),
    // fastcgi
    ("root", Any),
    ("split_path", Any),
    ("env", Any),
    ("capture_stderr", Any),
    ("resolve_root_symlink", Any),
];

/// Not `file`.
const MATCHERS: [&str; 14] = [
    "path",
    "path_regexp",
    "host",
    "header",
    "header_regexp",
    "method",
    "query",
    "protocol",
    "remote_ip",
    "client_ip",
    "expression",
    "not",
    "vars",
    "vars_regexp",
];

const APPS: Members = &[
    ("http", Any),
    (
        "tls",
        Only(&[(
            "automation",
            Only(&[(
                "policies",
                List(&[
                    ("subjects", Any),
                    (
                        "issuers",
                        List(&[
                            ("module", OneOf(&["internal", "acme"])),
                            ("email", Any),
                            // the second that Caddy asks by itself
                            ("ca", OneOf(&["https://acme.zerossl.com/v2/DV90"])),
                        ]),
                    ),
                ]),
            )]),
        )]),
    ),
];

/// Those of a site stand below its hosts: `routes` and `errors` are looked at apart.
const SERVER: Members = &[
    ("listen", Any),
    ("routes", Any),
    ("errors", Only(&[("routes", Any)])),
    ("logs", Any),
    ("automatic_https", Only(&[("skip", Any)])),
    (
        "tls_connection_policies",
        List(&[
            ("match", Only(&[("sni", Any)])),
            ("protocol_min", Any),
            ("protocol_max", Any),
            ("cipher_suites", Any),
            ("curves", Any),
            ("alpn", Any),
        ]),
    ),
];

/// The same of an application's sites as its record will have them. `listed`: what they may lead to outside.
pub fn understood(adapted: &Value, caddyfile: &str, services: &[Service], listed: &[String]) -> Result<(), Error> {
    let addresses: Vec<SiteAddress> = site_addresses(caddyfile).filter_map(|text| SiteAddress::parse(text).ok()).collect();
    judge(adapted, &addresses, &Reach::of(services, listed)).map_err(|problem| Error::Understood(Box::new(problem)))
}

/// Whether `adapted`, which Caddy made of sites with these addresses, may be served.
pub fn judge(adapted: &Value, addresses: &[SiteAddress], reach: &Reach) -> Result<(), Problem> {
    texts(adapted)?;
    let judge = Judge { reach };
    // Where its log goes is written by us.
    judge.only(adapted, &[("apps", Only(APPS)), ("logging", Any)], "a CADDYFILE")?;
    let mut found = BTreeSet::new();
    for (_, server) in members(&adapted["apps"]["http"]["servers"]) {
        judge.only(server, SERVER, "a site")?;
        let listen = list(&server["listen"]).iter().map(|at| at.as_str().and_then(|at| at.strip_prefix(':')?.parse::<u16>().ok()));
        let Ok([port]) = <[u16; 1]>::try_from(listen.collect::<Option<Vec<u16>>>().unwrap_or_default()) else {
            return Err(Problem::Proxys { name: "bind".into() });
        };
        // `http://` on another port than 80 is so skipped.
        let plain: Vec<&Value> = list(&server["automatic_https"]["skip"]).iter().collect();
        let plain = |host: &str| port == 80 || plain.iter().any(|it| **it == host);
        judge.sites(&server["routes"], &mut |host, path| found.insert(place(plain(host), port, host, path)))?;
        let mut errors = BTreeSet::new();
        judge.sites(&server["errors"]["routes"], &mut |host, path| errors.insert(place(plain(host), port, host, path)))?;
        if let Some(place) = errors.difference(&found).next() {
            return Err(Problem::Address { understood: place.clone() });
        }
    }
    let expected: BTreeSet<String> = addresses.iter().map(written).collect();
    match found.symmetric_difference(&expected).next() {
        Some(place) => Err(Problem::Address { understood: place.clone() }),
        None => Ok(()),
    }
}

fn place(plain: bool, port: u16, host: &str, path: &str) -> String {
    format!("{}://{host}:{port}{path}", if plain { "http" } else { "https" })
}

/// As `place` has it.
fn written(address: &SiteAddress) -> String {
    let (scheme, port) = address.served();
    let host = address.host.trim_matches(['[', ']']).to_ascii_lowercase();
    place(scheme == Scheme::Http, port, &host, address.path)
}

struct Judge<'a> {
    reach: &'a Reach<'a>,
}

impl Judge<'_> {
    /// Routes that begin with hosts.
    fn sites(&self, routes: &Value, found: &mut impl FnMut(&str, &str) -> bool) -> Result<(), Problem> {
        for route in list(routes) {
            self.only(route, &[("match", Any), ("handle", Handlers), ("terminal", Any)], "a site")?;
            let sets = list(&route["match"]);
            if sets.is_empty() {
                return Err(Problem::Address { understood: "every host".into() });
            }
            for set in sets {
                self.only(set, &[("host", Any), ("path", Any)], "a site's address")?;
                let hosts: Vec<&str> = list(&set["host"]).iter().filter_map(Value::as_str).collect();
                if hosts.is_empty() {
                    return Err(Problem::Address { understood: "every host".into() });
                }
                let paths: Vec<&str> = match &set["path"] {
                    Value::Null => vec![""],
                    paths => list(paths).iter().filter_map(Value::as_str).collect(),
                };
                for host in hosts {
                    for path in &paths {
                        found(host, path);
                    }
                }
            }
        }
        Ok(())
    }

    fn only(&self, value: &Value, known: Members, of: &'static str) -> Result<(), Problem> {
        for (name, value) in members(value) {
            match known.iter().find(|(known, _)| known == name) {
                Some((_, kind)) => self.is(value, kind, name, of)?,
                None => return Err(unknown(name, of)),
            }
        }
        Ok(())
    }

    fn is(&self, value: &Value, kind: &Kind, name: &str, of: &'static str) -> Result<(), Problem> {
        match kind {
            Any => Ok(()),
            Only(known) => self.only(value, known, of),
            List(known) => list(value).iter().try_for_each(|value| self.only(value, known, of)),
            OneOf(texts) if value.as_str().is_some_and(|text| texts.contains(&text)) => Ok(()),
            OneOf(_) => Err(unknown(value.as_str().unwrap_or(name), of)),
            Upstreams => list(value).iter().try_for_each(|upstream| {
                self.only(upstream, &[("dial", Any), ("max_requests", Any)], "reverse_proxy")?;
                let dial = upstream["dial"].as_str().unwrap_or_default();
                if self.reach.has(dial) { Ok(()) } else { Err(self.reach.outside(dial)) }
            }),
            Handlers => list(value).iter().try_for_each(|handler| self.handler(handler)),
            Matchers => list(value).iter().try_for_each(matchers),
        }
    }

    fn handler(&self, handler: &Value) -> Result<(), Problem> {
        let name = handler["handler"].as_str().unwrap_or_default();
        if name == "vars" {
            return Ok(());
        }
        let Some((name, known)) = HANDLERS.iter().find(|(known, _)| *known == name) else { return Err(unknown(name, "a site")) };
        members(handler).filter(|(member, _)| *member != "handler").try_for_each(|(member, value)| {
            match known.iter().find(|(known, _)| known == member) {
                Some((_, kind)) => self.is(value, kind, member, name),
                None => Err(unknown(member, name)),
            }
        })
    }
}

fn matchers(set: &Value) -> Result<(), Problem> {
    for (name, value) in members(set) {
        if !MATCHERS.contains(&&**name) {
            return Err(unknown(name, "a matcher"));
        }
        match &**name {
            "not" => list(value).iter().try_for_each(matchers)?,
            "expression" => expression(value)?,
            _ => {}
        }
    }
    Ok(())
}

/// Its function `file` looks at the disk.
fn expression(value: &Value) -> Result<(), Problem> {
    let text = value.as_str().or_else(|| value["expr"].as_str()).unwrap_or_default();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_call = |at: usize| !text[..at].ends_with(is_word) && text[at + "file".len()..].trim_start().starts_with('(');
    if text.match_indices("file").any(|(at, _)| is_call(at)) { Err(Problem::OwnDisk { name: "file".into() }) } else { Ok(()) }
}

/// What Caddy would read from its environment or its disk, wherever it stands: names of headers may have it, too.
fn texts(value: &Value) -> Result<(), Problem> {
    let text = |text: &str| match ["{env.", "{file.", "{$"].iter().any(|begin| text.contains(begin)) {
        true => Err(Problem::Environment { word: text.into() }),
        false => Ok(()),
    };
    match value {
        Value::String(value) => text(value),
        Value::Array(values) => values.iter().try_for_each(texts),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| text(name).and_then(|()| texts(value))),
        _ => Ok(()),
    }
}

fn unknown(name: &str, of: &'static str) -> Problem {
    let name = name.to_string();
    match &*name {
        "file_server" | "templates" | "file" | "fs" => Problem::OwnDisk { name },
        "certificates" | "certificate_selection" | "client_authentication" => Problem::Certificate,
        "acme_server" | "metrics" | "tracing" | "invoke" | "upstream" => Problem::Proxys { name },
        _ => Problem::NotKnownIn { name, directive: of },
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Of what is no object there are none.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::services;
    use super::*;
    use crate::outside::process::Capture;
    use crate::routes::real;

    /// The real Caddy's answers: `tests/vectors/adapted.txt` has texts and what Caddy 2.11 made of them.
    fn adapted() -> impl Iterator<Item = (&'static str, &'static str, Value)> {
        include_str!("../../tests/vectors/adapted.txt").split("=== ").skip(1).map(|case| {
            let (name, case) = case.split_once('\n').unwrap();
            let (text, json) = case.split_once("\n---\n").unwrap();
            (name, text, serde_json::from_str(json).unwrap_or_else(|error| panic!("{name}: {error}")))
        })
    }

    fn judged(adapted: &Value, addresses: &[&str]) -> Result<(), String> {
        let services = services(&[("web", "X", ""), ("api", "X", "")]);
        let listed = ["login.example.com".to_string(), "10.0.0.9:9000".to_string()];
        let addresses: Vec<SiteAddress> = addresses.iter().map(|text| SiteAddress::parse(text).unwrap()).collect();
        judge(adapted, &addresses, &Reach::of(&services, &listed)).map_err(|problem| problem.to_string())
    }

    /// A text's first line begins with its addresses, its name with what becomes of it: `fine`, or a part of the refusal.
    #[test]
    fn what_caddy_has_understood() {
        let mut counts = [0; 2];
        for (name, text, adapted) in adapted() {
            let addresses: Vec<&str> = text.lines().next().unwrap().trim_end_matches(" {").split(", ").collect();
            let found = judged(&adapted, &addresses);
            match name.split_once(" = ") {
                None => assert_eq!(found, Ok(()), "{name}: {text}"),
                Some((_, why)) => assert!(found.as_ref().is_err_and(|found| found.contains(why)), "{name}: {found:?}"),
            }
            counts[usize::from(name.contains(" = "))] += 1;
        }
        assert!(counts[0] >= 20 && counts[1] >= 25, "{counts:?}");
    }

    #[test]
    fn real_caddy_says_what_the_vectors_have() {
        // A file server hides Caddy's own file, wherever that is.
        for (name, text, adapted) in adapted().filter(|(_, text, _)| !text.contains("file_server")) {
            if let Some(printed) = real::run(real::ADAPT, text, Capture::Stdout) {
                assert_eq!(serde_json::from_str::<Value>(&printed).ok(), Some(adapted), "{name}");
            }
        }
    }

    /// Two texts whose addresses Caddy and this handler read differently.
    #[test]
    fn addresses_are_those_that_were_compared() {
        let (_, _, understood) = adapted().find(|(name, ..)| *name == "addresses").unwrap();
        let all = ["http://a.x/", "http://[::1]:8080", "a.x:80/y*", "*.b.x", "https://c.x:8443"];
        assert_eq!(judged(&understood, &all), Ok(()));
        for left_out in 0..all.len() {
            let mut fewer = all.to_vec();
            let text = fewer.remove(left_out);
            let why = judged(&understood, &fewer).unwrap_err();
            assert!(why.contains("do not agree on"), "{text}: {why}");
            fewer.push("http://other.x");
            assert!(judged(&understood, &fewer).is_err(), "{text}");
        }
        assert!(judged(&understood, &[&all[..], &["http://more.x"]].concat()).is_err());
        assert!(judged(&understood, &["http://a.x/", "http://[::1]:8080", "a.x:80/y*", "*.b.x", "http://c.x:8443"]).is_err());
    }
}
