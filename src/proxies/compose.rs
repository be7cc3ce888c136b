//! From the text of `caddy.rs` to Caddy's own configuration: Caddy reads the addresses, which are ours, and what a site does is put in its place
//! as it was judged. So no text of one application ever stands beside that of another. Certificates of the operator's are added.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::view::{Frame, UNDERSCORED};
use super::wildcards::keep_apart;
use crate::error::{Error, Fault};
use crate::model::record::Handled;
use crate::outside::caddy;
use crate::routes::caddyfile::{Directive, Position};

/// Begins the text's last line, a comment: the sum that all marks begin with, and what stands for them.
const MARKED: &str = "# marked ";

/// What sites do, each with a mark in its place, and the certificates. The sum is over all of it, so that no text which was there before has a mark.
pub struct Marks {
    sum: String,
    what: String,
    certificates: bool,
    next: usize,
}

impl Marks {
    pub fn of<'a>(sites: impl Iterator<Item = &'a Handled>, frame: &Frame) -> Marks {
        let mut sites: Value = sites.map(|site| json!([site.handle, site.errors])).collect();
        if !frame.trusted.is_empty() {
            behind_proxies(&mut sites);
        }
        // Where Caddy is given text there is no place for them.
        let certificates: &[Value] = if frame.composed { &frame.certificates } else { &[] };
        let what = json!([sites, certificates]).to_string();
        Marks { sum: format!("{:x}", md5::compute(&what)), what, certificates: !certificates.is_empty(), next: 0 }
    }

    /// The body of the next site.
    pub fn body(&mut self, site: &Handled) -> Vec<Directive> {
        let at = Position::default();
        let mark = Directive::new(&["respond", &format!("{}:{}", self.sum, self.next)], at);
        self.next += 1;
        let errors = Directive::new(&["handle_errors"], at).with(vec![mark.clone()]);
        if site.errors.is_null() { vec![mark] } else { vec![mark, errors] }
    }

    pub fn last_line(&self) -> String {
        if self.next == 0 && !self.certificates { String::new() } else { format!("{MARKED}{} {}\n", self.sum, self.what) }
    }
}

/// What Caddy is given for the text. `adapt`: how it reads one.
pub fn composed(text: &str, adapt: impl FnOnce(&str) -> Result<Value, caddy::Error>) -> Result<String, Error> {
    let mut config = adapt(text)?;
    // The last line and no other: an application's own text may have the same words.
    let certificates = match text.lines().next_back().and_then(|line| line.strip_prefix(MARKED)?.split_once(' ')) {
        Some((sum, what)) => place(&mut config, sum, what)?,
        None => Value::Null,
    };
    let files = certificates.as_array().map_or(&[][..], Vec::as_slice);
    keep_apart(&mut config, text, files);
    say_who_is_the_client(&mut config);
    if !files.is_empty() {
        config["apps"]["tls"]["certificates"]["load_files"] = certificates;
    }
    Ok(config.to_string())
}

/// What the sites do, in the place of their marks; the certificates.
fn place(config: &mut Value, sum: &str, what: &str) -> Result<Value, Error> {
    let mut what: Value = serde_json::from_str(what).map_err(|_| Fault::Impossible { what: "marks that cannot be read" })?;
    let (mut sites, certificates) = (what[0].take(), what[1].take());
    let all = sites.as_array().map_or(0, Vec::len);
    let mut placed = BTreeSet::new();
    for (_, server) in config.pointer_mut("/apps/http/servers").and_then(Value::as_object_mut).into_iter().flatten() {
        for (pointer, of_errors) in [("/routes", false), ("/errors/routes", true)] {
            for route in server.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten() {
                let Some(number) = marked(&route["handle"], sum) else { continue };
                let what = sites.get_mut(number).ok_or(Fault::Impossible { what: "a mark of nothing" })?;
                let Some(route) = route.as_object_mut() else { continue };
                // A site that only handles errors has no others.
                match &what[usize::from(of_errors)] {
                    Value::Null => route.remove("handle"),
                    what => route.insert("handle".into(), what.clone()),
                };
                placed.insert(number);
            }
        }
    }
    if placed.len() < all {
        return Err(Fault::Impossible { what: "a site that Caddy has not read as one" }.into());
    }
    Ok(certificates)
}

/// What a client says of itself by https, which haproxy does not read, is not believed: by no name that an application may take for a header of the
/// proxies, and `Connection` names none that would then be taken out. Who is trusted, Caddy knows.
fn say_who_is_the_client(config: &mut Value) {
    let mistakable = UNDERSCORED.map(|begin| format!("{begin}*"));
    let upgrade = json!([{"search_regexp": r"(?is)^(?:.*\b(upgrade)\b)?.*$", "replace": "$1"}]);
    let of_all = json!({"handler": "headers", "request": {"delete": mistakable, "replace": {"Connection": upgrade}}});
    let of_strangers = json!({"handler": "headers",
        "request": {"delete": ["X-Forwarded-*", "Forwarded"], "set": {"X-Real-IP": ["{http.vars.client_ip}"]}}});
    let first = [
        json!({"match": [{"protocol": "https"}], "handle": [of_all]}),
        json!({"match": [{"protocol": "https", "vars": {"trusted_proxy": ["false"]}}], "handle": [of_strangers]}),
    ];
    for (_, server) in config.pointer_mut("/apps/http/servers").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(routes) = server.get_mut("routes").and_then(Value::as_array_mut) {
            routes.splice(..0, first.clone());
        }
    }
}

/// Who is the client, and not who is in front: a matcher that means the client by the connection goes by what trusted proxies say.
fn behind_proxies(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(behind_proxies),
        Value::Object(map) => {
            // Beside a `client_ip`, which says the same of other networks, it stays: both have to hold.
            let is_free = !map.contains_key("client_ip");
            if let Some(ranges) = map.get("remote_ip").filter(|it| is_free && it["ranges"].is_array()).cloned() {
                map.remove("remote_ip");
                map.insert("client_ip".into(), ranges);
            }
            let expression = map.get_mut("expression");
            if let Some(Value::String(text)) = expression.map(|it| if it.is_object() { &mut it["expr"] } else { it }) {
                *text = text.replace("remote_ip(", "client_ip(");
            }
            map.values_mut().for_each(behind_proxies);
        }
        _ => {}
    }
}

/// The number of the mark that these handlers are, however deep.
fn marked(handle: &Value, sum: &str) -> Option<usize> {
    let [handler] = handle.as_array()?.as_slice() else { return None };
    match handler["body"].as_str() {
        Some(body) => body.strip_prefix(sum)?.strip_prefix(':')?.parse().ok(),
        None => match handler["routes"].as_array()?.as_slice() {
            [route] => marked(&route["handle"], sum),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::caddy::written;
    use super::super::view::View;
    use super::super::view::tests::{app, whole_view};
    use super::*;
    use crate::model::record::Understood;
    use crate::outside::process::Capture;
    use crate::routes::judge::handled;
    use crate::routes::judge::tests::adapted;
    use crate::routes::real;

    fn view() -> View {
        let view = whole_view();
        View { frame: Frame { composed: true, ..view.frame.clone() }, ..view }
    }

    fn record(caddyfile: &str, sites: Vec<Handled>) -> Value {
        json!({"master": "node1", "caddyfile": caddyfile, "sites": Understood::new(caddyfile, sites)})
    }

    fn respond(body: &str) -> Handled {
        let handle = json!([{"handler": "subroute", "routes": [{"handle": [{"handler": "static_response", "body": body}]}]}]);
        Handled { handle, errors: Value::Null }
    }

    fn sites(config: &Value) -> BTreeSet<String> {
        let servers = config["apps"]["http"]["servers"].as_object().unwrap().values();
        servers.flat_map(|server| server["routes"].as_array().unwrap()).map(|route| route["handle"].to_string()).collect()
    }

    /// Host by host, as a Caddy of its author's alone would.
    #[test]
    fn real_caddy_serves_a_site_as_its_author_wrote_it() {
        for (name, text, adapted) in adapted().filter(|(name, ..)| !name.contains(" = ")) {
            let apps = [app(name, record(text, vec![handled(&adapted).unwrap()]))];
            let view = View { frame: Frame { caddy_head: String::new(), ..view().frame }, ..view() };
            let text = written(&apps.iter().collect::<Vec<_>>(), &view);
            // A heredoc is not read here, and so not marked.
            let sum = text.rsplit_once(MARKED).map_or("", |(_, last)| last.split(' ').next().unwrap());
            assert!(text.split("respond ").skip(1).all(|mark| mark.starts_with(sum)), "nothing of the author's words: {text}");
            let Some(printed) = real::run(real::ADAPT, &text, Capture::Stdout) else { return };
            let config: Value = composed(&text, |_| Ok(serde_json::from_str(&printed).unwrap())).unwrap().parse().unwrap();
            let mut expected = adapted.clone();
            say_who_is_the_client(&mut expected);
            // Two addresses on one port have a block each.
            match name {
                "addresses" => assert_eq!(sites(&config), sites(&expected)),
                _ => assert_eq!(config["apps"], expected["apps"], "{name}"),
            }
        }
    }

    /// What the operator has is nobody's else: it comes into Caddy's own configuration, and a renewed one makes another text.
    #[test]
    fn certificates_are_added() {
        let mut view = view();
        let certificate = |sum: &str| json!({"certificate": "/c/a.crt", "key": "/c/a.key", "tags": [sum]});
        view.frame.certificates = vec![certificate("1")];
        let text = written(&[], &view);
        let of = |adapted: Value| composed(&text, |_| Ok(adapted)).unwrap().parse::<Value>().unwrap();
        let files = json!([{"certificate": "/c/a.crt", "key": "/c/a.key", "tags": ["1"]}]);
        assert_eq!(of(json!({})), json!({"apps": {"tls": {"certificates": {"load_files": files.clone()}}}}));
        let tls = json!({"apps": {"tls": {"automation": {"policies": []}}}});
        assert_eq!(of(tls)["apps"]["tls"], json!({"automation": {"policies": []}, "certificates": {"load_files": files}}));
        view.frame.certificates = vec![certificate("2")];
        assert_ne!(written(&[], &view), text);
        view.frame.composed = false;
        assert!(!written(&[], &view).contains(MARKED));
    }

    #[test]
    fn behind_trusted_proxies_a_matcher_means_the_client() {
        let ranges = json!({"ranges": ["10.0.0.0/8"]});
        let of = |name: &str, call: &str| {
            let matchers =
                json!([{"not": [{name: ranges}]}, {"expression": {"expr": format!("{call}('10.0.0.0/8')")}}, {"path": ["/remote_ip("]}]);
            Handled { handle: json!([{"handler": "subroute", "routes": [{"match": matchers}]}]), errors: Value::Null }
        };
        let mut frame = view().frame;
        assert_eq!(
            Marks::of([of("remote_ip", "remote_ip")].iter(), &frame).what,
            json!([[[of("remote_ip", "remote_ip").handle, null]], []]).to_string()
        );
        frame.trusted = vec!["198.51.100.0/24".into()];
        assert_eq!(
            Marks::of([of("remote_ip", "remote_ip")].iter(), &frame).what,
            json!([[[of("client_ip", "client_ip").handle, null]], []]).to_string()
        );
    }

    #[test]
    fn nothing_of_one_stands_beside_another() {
        let sites = "http://a.x {\n    tls internal\n    respond a\n}\nhttps://a.x {\n    respond b\n}";
        let old = json!({"master": "node1", "caddyfile": "http://old.x {\n    respond old\n}"});
        let apps = [app("new", record(sites, vec![respond("a"), respond("b")])), app("old", old)];
        let mut view = view();
        view.frame.caddy_head = String::new();
        let all: Vec<_> = apps.iter().collect();
        let text = written(&all, &view);
        let sum = text.rsplit_once("# marked ").unwrap().1.split(' ').next().unwrap().to_string();
        assert!(
            text.contains(&format!("http://a.x {{\n    tls internal\n    respond {sum}:0\n}}\nhttps://a.x {{\n    respond {sum}:1\n}}\n")),
            "{text}"
        );
        assert!(text.contains("# old\nhttp://old.x {\n    respond old\n}\n"), "{text}");
        // An older handler has written another text beside it.
        let stale =
            json!({"master": "node1", "caddyfile": "http://a.x {\n    respond c\n}", "sites": record(sites, vec![respond("a")])["sites"]});
        assert!(written(&[&app("new", stale)], &view).ends_with("http://a.x {\n    respond c\n}\n"));
        // In maintenance, and where nobody can be given more than text.
        view.maintenance = ["new".into()].into();
        assert!(!written(&all, &view).contains("# marked"));
        view.maintenance.clear();
        view.frame.composed = false;
        assert!(!written(&all, &view).contains("# marked"));
    }

    #[test]
    fn each_site_is_found_again() {
        let config = |servers: Value| json!({"apps": {"http": {"servers": servers}}});
        let marks = Marks::of([respond("a"), respond("b")].iter(), &view().frame);
        let mark = |number: usize| json!([{"handler": "subroute", "routes": [{"handle": [{"handler": "static_response", "body": format!("{}:{number}", marks.sum)}]}]}]);
        let route = |handle: Value| json!({"match": [{"host": ["x"]}], "handle": handle});
        let text = format!("{MARKED}{} {}\n", marks.sum, marks.what);
        let of = |servers: Value| composed(&text, |_| Ok(config(servers)));
        let found: Value =
            of(json!({"srv0": {"routes": [route(mark(1)), route(json!([]))]}, "srv1": {"routes": [route(mark(0)), route(mark(1))]}}))
                .unwrap()
                .parse()
                .unwrap();
        let mut expected = config(
            json!({"srv0": {"routes": [route(respond("b").handle), route(json!([]))]}, "srv1": {"routes": [route(respond("a").handle), route(respond("b").handle)]}}),
        );
        say_who_is_the_client(&mut expected);
        assert_eq!(found, expected);
        assert!(of(json!({"srv0": {"routes": [route(mark(1))]}})).is_err(), "one is missing");
        assert!(of(json!({"srv0": {"routes": [route(mark(2))]}})).is_err(), "one too many");
        // An application's own text has the words with which the last line begins.
        let marks = Marks::of([respond("# marked x")].iter(), &view().frame);
        let text = format!("a {{\n    x `\n{MARKED}y z`\n}}\n{MARKED}{} {}\n", marks.sum, marks.what);
        let mark = json!([{"handler": "static_response", "body": format!("{}:0", marks.sum)}]);
        let found = composed(&text, |_| Ok(config(json!({"srv0": {"routes": [route(mark)]}})))).unwrap();
        assert!(found.contains(r##""body":"# marked x""##) && !found.contains(&marks.sum), "{found}");
        let plain = config(Value::Object(Map::new()));
        assert_eq!(composed("x", |_| Ok(plain.clone())).unwrap(), plain.to_string());
    }
}
