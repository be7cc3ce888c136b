//! What Caddy has understood of an application's sites, against what is known: an allow-list. What stands in none of the lists below is
//! refused with its name. So it does not matter how a text is written, only what it means. Pure.
//!
//! What must hold of what is let through:
//! - it answers to the addresses that were compared with those of other applications, and to no others;
//! - it leads to the application's own containers, and to what the operator lists;
//! - it reads nothing of the proxy's disk and environment, opens no port, and changes nothing of what Caddy does for others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::address::{Scheme, SiteAddress, site_addresses};
use super::directives::Problem;
use super::error::Error;
use super::reach::Reach;
use crate::model::record::Handled;
use crate::outside::compose_file::Service;

/// What may stand where, as Caddy 2.11 has it: a line for each kind of object, with its name and those of its members. `*`: whatever it has.
/// A member's value is of whatever texts, numbers, lists and maps; or, behind `=`, an object of that kind, with `[` a list of such objects,
/// with `?` one of these texts, with `<` a number of MiB at most. `upstreams`, `handlers`, `matchers`, `expression` and `hash` have functions of their own.
/// A handler's line begins with `@`.
const KNOWN: &str = "\
CADDYFILE apps=apps logging
apps http tls=tls-app
tls-app automation=automation
automation policies=[policy
policy subjects issuers=[tls
tls module=?internal|acme email ca=?https://acme.zerossl.com/v2/DV90
site listen routes errors=errors logs automatic_https=automatic-https tls_connection_policies=[connection
errors routes
automatic-https skip
connection match=sni protocol_min protocol_max cipher_suites curves alpn
sni sni
hosts match handle=handlers terminal
address host path
route group match=matchers handle=handlers terminal
routes routes=[route
response match=answer status_code routes=[route
answer status_code headers
@subroute routes=[route errors=routes
@vars *
@intercept handle_response=[response
@copy_response status_code
@copy_response_headers include exclude
@encode encodings=encodings prefer minimum_length match=answer
encodings gzip zstd
@headers request response
@rewrite method uri strip_path_prefix strip_path_suffix uri_substring path_regexp query
@static_response status_code headers body close abort
@error error status_code
@authentication providers=providers
providers http_basic=http-basic
http-basic accounts=[account hash hash_cache realm
account username password=hash
@request_body max_size read_timeout write_timeout set
@map source destinations mappings defaults
@log_append key value early
@push resources headers
@reverse_proxy upstreams=upstreams transport=transport headers rewrite flush_interval request_buffers=<16 response_buffers=<16 stream_timeout \
stream_close_delay trusted_proxies handle_response=[response load_balancing=balancing health_checks=health
upstream dial max_requests
balancing selection_policy retries try_duration try_interval retry_match=matchers
health passive active=active-health
active-health path uri port headers method body follow_redirects interval timeout passes fails max_size expect_status expect_body
transport protocol=?http|fastcgi dial_timeout dial_fallback_delay response_header_timeout expect_continue_timeout read_timeout write_timeout \
read_buffer_size=<1 write_buffer_size=<1 max_response_header_size versions keep_alive max_conns_per_host compression tls=transport-tls root split_path \
env capture_stderr resolve_root_symlink
transport-tls insecure_skip_verify server_name handshake_timeout renegotiation except_ports curves
matcher path path_regexp host header header_regexp method query protocol remote_ip client_ip expression=expression not=matchers vars vars_regexp
";

/// What is known of a member of such an object.
fn known(kind: &str, member: &str) -> Option<&'static str> {
    if member == "handler" && kind.starts_with('@') {
        return Some("");
    }
    let mut members = KNOWN.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?.split(' ');
    members.find_map(|word| match word.split_once('=').unwrap_or((word, "")) {
        (name, of) if name == member || name == "*" => Some(of),
        _ => None,
    })
}

/// What is to be served of `adapted`, which Caddy made of one site as its record will have it. `listed`: what it may lead to outside.
pub fn understood(adapted: &Value, site: &str, services: &[Service], listed: &[String]) -> Result<Handled, Error> {
    let addresses: Vec<SiteAddress> = site_addresses(site).filter_map(|text| SiteAddress::parse(text).ok()).collect();
    let judged = judge(adapted, &addresses, &Reach::of(services, listed)).and_then(|()| handled(adapted));
    judged.map_err(|problem| Error::Understood(Box::new(problem)))
}

/// The handlers of a site, which are the same for each of its addresses.
pub fn handled(adapted: &Value) -> Result<Handled, Problem> {
    let servers = || members(&adapted["apps"]["http"]["servers"]).map(|(_, server)| server);
    let handlers = |mut routes: Vec<&Value>| {
        routes.dedup_by(|a, b| regrouped(&a["handle"]) == regrouped(&b["handle"]));
        match routes.as_slice() {
            [] => Ok(Value::Null),
            [route] => Ok(route["handle"].clone()),
            _ => Err(unknown("a site that means several things", "site")),
        }
    };
    Ok(Handled {
        handle: handlers(servers().flat_map(|server| list(&server["routes"])).collect())?,
        errors: handlers(servers().flat_map(|server| list(&server["errors"]["routes"])).collect())?,
    })
}

/// With the groups of its routes numbered anew: Caddy numbers them through the whole configuration.
fn regrouped(handle: &Value) -> Value {
    fn number(value: &mut Value, known: &mut Vec<String>) {
        match value {
            Value::Array(all) => all.iter_mut().for_each(|value| number(value, known)),
            Value::Object(map) => {
                if let Some(Value::String(group)) = map.get_mut("group") {
                    let at = known.iter().position(|name| name == group).unwrap_or_else(|| {
                        known.push(group.clone());
                        known.len() - 1
                    });
                    *group = at.to_string();
                }
                map.values_mut().for_each(|value| number(value, known));
            }
            _ => {}
        }
    }
    let mut regrouped = handle.clone();
    number(&mut regrouped, &mut Vec::new());
    regrouped
}

/// Whether `adapted`, which Caddy made of sites with these addresses, may be served.
pub fn judge(adapted: &Value, addresses: &[SiteAddress], reach: &Reach) -> Result<(), Problem> {
    texts(adapted)?;
    let judge = Judge { reach };
    // Where its log goes is written by us.
    judge.object(adapted, "CADDYFILE")?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (_, server) in members(&adapted["apps"]["http"]["servers"]) {
        judge.object(server, "site")?;
        let listen = list(&server["listen"]).iter().map(|at| at.as_str().and_then(|at| at.strip_prefix(':')?.parse::<u16>().ok()));
        let Ok([port]) = <[u16; 1]>::try_from(listen.collect::<Option<Vec<u16>>>().unwrap_or_default()) else {
            return Err(Problem::Proxys { name: "bind".into() });
        };
        // `http://` on another port than 80 is so skipped.
        let plain: Vec<&Value> = list(&server["automatic_https"]["skip"]).iter().collect();
        let plain = |host: &str| port == 80 || plain.iter().any(|it| **it == host);
        judge.sites(&server["routes"], &mut |host, path| found.push(place(plain(host), port, host, path)))?;
        judge.sites(&server["errors"]["routes"], &mut |host, path| errors.push(place(plain(host), port, host, path)))?;
    }
    let expected: Vec<String> = addresses.iter().map(written).collect();
    let more = found.iter().chain(&errors).find(|place| !expected.contains(place));
    match more.or_else(|| expected.iter().find(|place| !found.contains(place))) {
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
    fn sites(&self, routes: &Value, found: &mut dyn FnMut(&str, &str)) -> Result<(), Problem> {
        for route in list(routes) {
            self.object(route, "hosts")?;
            let sets = list(&route["match"]);
            if sets.is_empty() {
                return Err(Problem::Address { understood: "every host".into() });
            }
            for set in sets {
                self.object(set, "address")?;
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

    fn object(&self, value: &Value, kind: &'static str) -> Result<(), Problem> {
        members(value).try_for_each(|(name, value)| match known(kind, name) {
            Some(of) => self.member(value, name, of, kind),
            None => Err(unknown(name, kind)),
        })
    }

    fn member(&self, value: &Value, name: &str, of: &'static str, kind: &'static str) -> Result<(), Problem> {
        let each = |kind| list(value).iter().try_for_each(|value| self.object(value, kind));
        match of {
            "" => Ok(()),
            "handlers" => list(value).iter().try_for_each(|handler| self.handler(handler)),
            "matchers" => each("matcher"),
            "expression" => expression(value),
            "hash" => hash(value),
            "upstreams" => list(value).iter().try_for_each(|upstream| {
                self.object(upstream, "upstream")?;
                let dial = upstream["dial"].as_str().unwrap_or_default();
                if self.reach.has(dial) { Ok(()) } else { Err(self.reach.outside(dial)) }
            }),
            of => match (of.strip_prefix('['), of.strip_prefix('?'), of.strip_prefix('<')) {
                (Some(of), ..) => each(of),
                // Memory of the proxy, for each request.
                (.., Some(mib)) => match (value.as_u64(), mib.parse::<u64>()) {
                    (Some(size), Ok(most)) if size <= most << 20 => Ok(()),
                    _ => Err(Problem::Memory { name: name.into(), mib }),
                },
                (_, Some(texts), _) => match value.as_str() {
                    Some(text) if texts.split('|').any(|known| known == text) => Ok(()),
                    text => Err(unknown(text.unwrap_or(name), kind)),
                },
                _ => self.object(value, of),
            },
        }
    }

    fn handler(&self, handler: &Value) -> Result<(), Problem> {
        let name = handler["handler"].as_str().unwrap_or_default();
        let kind = KNOWN.lines().filter_map(|line| line.split(' ').next()).find(|kind| kind.strip_prefix('@') == Some(name));
        let Some(kind) = kind else { return Err(unknown(name, "site")) };
        self.object(handler, kind)
    }
}

/// Functions of an expression that are Caddy's matchers, and CEL's own.
const MATCHERS: &str = " host path path_regexp method header header_regexp query protocol remote_ip client_ip vars vars_regexp ";
const FUNCTIONS: &str =
    " startsWith endsWith contains matches size has in int uint double bool string lowerAscii upperAscii isTransportError ";

/// Only known functions are called: others read the disk, or any placeholder by its name. Within a text a placeholder stands as a whole, and Caddy's
/// matchers, which look for it there once more, are given texts only: so what is to be seen by `texts` cannot be put together.
fn expression(value: &Value) -> Result<(), Problem> {
    let refused = |what: &str| Err(unknown(what, "expression"));
    let text = value.as_str().or_else(|| value["expr"].as_str()).unwrap_or_default();
    for (at, _) in text.match_indices('\\') {
        if let Some(c) = text[at + 1..].chars().next().filter(|c| "xXuU01234567".contains(*c)) {
            return refused(&format!("\\{c}"));
        }
    }
    let (mut code, mut rest) = (String::new(), text);
    while let Some((before, quoted)) = rest.find(['"', '\'']).map(|at| rest.split_at(at)) {
        let (quote, quoted) = quoted.split_at(1);
        let (is_raw, mut escaped) = (before.ends_with(['r', 'R']), false);
        let ends = |c: char| {
            let ends = !escaped && quote.starts_with(c);
            escaped = !is_raw && !escaped && c == '\\';
            ends
        };
        let Some((inside, after)) = quoted.find(ends).map(|end| (&quoted[..end], &quoted[end + 1..])) else { return refused(quote) };
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_.,-".contains(c);
        if inside.split('{').skip(1).any(|behind| !behind.trim_start_matches(is_part).starts_with('}')) {
            return refused("{");
        }
        if after.starts_with(quote) {
            return refused(&quote.repeat(3));
        }
        code.push_str(before.trim_end_matches(['r', 'R', 'b', 'B']));
        code.push_str("''");
        rest = after;
    }
    code.push_str(rest);
    if let Some(other) = ["\\", "`", "//"].iter().find(|other| code.contains(**other)) {
        return refused(other);
    }
    for (at, _) in code.match_indices('(') {
        let name = code[..at].trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let mut depth = 0;
        let mut arguments = code[at..].chars().take_while(|c| {
            depth += i32::from(*c == '(') - i32::from(*c == ')');
            depth > 0
        });
        match format!(" {name} ") {
            is if MATCHERS.contains(&is) && arguments.any(char::is_alphabetic) => return refused(&format!("{name}({{…}})")),
            is if name.is_empty() || MATCHERS.contains(&is) || FUNCTIONS.contains(&is) => {}
            _ => return refused(name),
        }
    }
    Ok(())
}

/// Each request with a password has it computed: one that costs more keeps all cores busy, for whoever asks.
fn hash(value: &Value) -> Result<(), Problem> {
    let text = value.as_str().unwrap_or_default();
    // Caddy takes it in base64, too.
    let decoded = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let number = |text: &str, most: u32| text.parse::<u32>().is_ok_and(|number| number <= most);
    let is_fine = match decoded.as_deref().unwrap_or(text).split(['$', ',']).collect::<Vec<_>>().as_slice() {
        ["", "2a" | "2b" | "2y", cost, _] => number(cost, 14),
        ["", "argon2id", _, memory, time, threads, _, _] => [(memory, "m=", 128 << 10), (time, "t=", 4), (threads, "p=", 16)]
            .iter()
            .all(|(text, name, most)| text.strip_prefix(name).is_some_and(|text| number(text, *most))),
        _ => false,
    };
    if is_fine { Ok(()) } else { Err(Problem::Hash) }
}

/// What Caddy would read from its environment or its disk, wherever it stands: names of headers may have it, too.
fn texts(value: &Value) -> Result<(), Problem> {
    let text = |text: &str| match ["{env.", "{file.", "{$"].iter().find_map(|begin| text.find(begin)) {
        // The rest may be a password.
        Some(at) => Err(Problem::Environment { word: text[at..].split_inclusive('}').next().unwrap_or_default().into() }),
        None => Ok(()),
    };
    match value {
        Value::String(value) => text(value),
        Value::Array(values) => values.iter().try_for_each(texts),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| text(name).and_then(|()| texts(value))),
        _ => Ok(()),
    }
}

fn unknown(name: &str, kind: &'static str) -> Problem {
    let name = name.to_string();
    match &*name {
        "file_server" | "templates" | "file" | "fs" => Problem::OwnDisk { name },
        "certificates" | "certificate_selection" | "client_authentication" => Problem::Certificate,
        "acme_server" | "metrics" | "tracing" | "invoke" | "upstream" => Problem::Proxys { name },
        _ => Problem::NotKnownIn { name, directive: kind.trim_start_matches('@') },
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
pub(crate) mod tests {
    use serde_json::json;

    use super::super::read::tests::services;
    use super::*;
    use crate::outside::process::Capture;
    use crate::routes::real;

    /// The real Caddy's answers: `tests/vectors/adapted.txt` has texts and what Caddy 2.11 made of them.
    pub fn adapted() -> impl Iterator<Item = (&'static str, &'static str, Value)> {
        include_str!("../../tests/vectors/adapted.txt").split("=== ").skip(1).map(|case| {
            let (name, case) = case.split_once('\n').unwrap();
            let (text, json) = case.split_once("\n---\n").unwrap();
            (name, text, serde_json::from_str(json).unwrap_or_else(|error| panic!("{name}: {error}")))
        })
    }

    /// Caddy numbers the groups of routes through the whole configuration, so that a site on two ports has other ones there.
    #[test]
    fn a_site_is_one_on_all_its_ports() {
        let site = |groups: [&str; 3]| json!({"handle": groups.map(|group| json!({"group": group, "handle": []}))});
        let of = |one: [&str; 3], two: [&str; 3]| {
            let servers = json!({"srv0": {"routes": [site(one)]}, "srv1": {"routes": [site(two)]}});
            handled(&json!({"apps": {"http": {"servers": servers}}})).is_ok()
        };
        assert!(of(["g2", "g2", "g5"], ["g4", "g4", "g1"]));
        assert!(!of(["g2", "g2", "g5"], ["g4", "g1", "g1"]));
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
    fn expressions_read_nothing_of_the_proxys() {
        let problem = |text: &str| {
            let value = Value::from(text);
            texts(&value).and_then(|()| expression(&value)).err().map(|problem| problem.to_string())
        };
        for fine in [
            "{http.error.status_code} == 404",
            "path('/a', '/b*') && !(method('GET') || {http.request.host}.startsWith('x'))",
            r#"path_regexp('n', r'^/api(/\d{2,3}|/x\.y)?$') && header({'A': ['b', '*c*'], "D": 'it\'s'})"#,
            "{http.request.method} in ['PUT', 'POST'] && size({http.request.uri}) > int('7') && vars({'\\{http.vars.a}': 'x'})",
            "client_ip('10.0.0.0/8') && protocol('https') && 'file(x) // ph(req)' != 'a'",
        ] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for (bad, what) in [
            (r#"ph(req, "env.SECRET") == "x""#, r#""ph" cannot be used in expression"#),
            (r#"file({"root": "/"})"#, "put a web server into it"),
            ("file\n ( 'x')", "put a web server into it"),
            (r"vars({'\x7benv.SECRET\x7d': 'x'})", r#""\\x" cannot"#),
            (r"vars({'\u007benv.SECRET}': 'x'})", r#""\\u" cannot"#),
            (r"vars({'\173env.SECRET}': 'x'})", r#""\\1" cannot"#),
            ("vars({'{' + 'env.SECRET}': 'x'})", r#""{" cannot"#),
            ("vars({'{en' + 'v.SECRET}': 'x'})", r#""{" cannot"#),
            ("vars({'\\{env.SECRET}': 'x'})", "the proxy's own environment"),
            ("vars_regexp({http.request.header.X}, '^a')", r#""vars_regexp({…})" cannot"#),
            ("['x'].exists(x, x == 'x')", r#""exists" cannot"#),
            (r"path(r'\') && ph(req, 'env.X') == '\'')", r#""ph" cannot"#),
            ("path('''a''')", "\"'''\" cannot"),
            ("ph // (\n(req, 'env.X')", r#""//" cannot"#),
            ("path('a", "\"'\" cannot"),
        ] {
            let found = problem(bad);
            assert!(found.as_ref().is_some_and(|found| found.contains(what)), "{bad}: {found:?}");
        }
    }

    /// One of cost 31 holds a core for hours, for whoever asks.
    #[test]
    fn hashes_cost_no_more_than_is_usual() {
        let argon = |costs: &str| format!("$argon2id$v=19${costs}$c2FsdHNhbHQ$aGFzaA");
        let bcrypt = |cost: &str| format!("$2a${cost}$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        for fine in [bcrypt("14"), bcrypt("08"), STANDARD.encode(bcrypt("14")), argon("m=131072,t=4,p=4"), argon("m=47104,t=1,p=1")] {
            assert!(hash(&fine.as_str().into()).is_ok(), "{fine}");
        }
        let bad = ["m=131073,t=4,p=4", "m=65536,t=5,p=4", "m=99999999999,t=1,p=1", "t=1,m=65536,p=1", "m=1"].map(argon);
        for bad in
            [bcrypt("31"), bcrypt("15"), bcrypt("+"), STANDARD.encode(bcrypt("31")), "hunter2!".into(), String::new()].iter().chain(&bad)
        {
            assert!(hash(&bad.as_str().into()).is_err(), "{bad}");
        }
        let site = |password: String| serde_json::json!({"handler": "authentication", "providers": {"http_basic": {"accounts": [{"username": "a", "password": password}]}}});
        let reach = Reach::of(&[], &[]);
        let judge = Judge { reach: &reach };
        assert_eq!(judge.handler(&site(bcrypt("14"))), Ok(()));
        assert_eq!(judge.handler(&site(bcrypt("31"))), Err(Problem::Hash));
    }

    /// What each request takes is Caddy's memory, and others need it, too.
    #[test]
    fn buffers_take_no_more_than_is_usual() {
        let (listed, mib) = (["a:1".to_string()], 1u64 << 20);
        let reach = Reach::of(&[], &listed);
        let site = |request: Value, read: Value| {
            serde_json::json!({"handler": "reverse_proxy", "upstreams": [{"dial": "a:1"}], "request_buffers": request,
                "transport": {"protocol": "http", "read_buffer_size": read}})
        };
        for (request, read, fine) in [
            (Value::from(16 * mib), Value::from(mib), true),
            (Value::from(16 * mib + 1), Value::from(1), false),
            (Value::from(-1), Value::from(1), false),
            (Value::from(1), Value::from(mib + 1), false),
        ] {
            let judged = Judge { reach: &reach }.handler(&site(request.clone(), read.clone()));
            assert_eq!(judged.is_ok(), fine, "{request} {read}: {judged:?}");
        }
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
