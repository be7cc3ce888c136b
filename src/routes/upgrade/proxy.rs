//! `proxy` of Caddy 1 as `reverse_proxy`.

use super::words::{First, needs, prefix, renamed, unknown};
use crate::routes::address::Scheme;
use crate::routes::caddyfile::{Directive, Position, Word};
use crate::routes::directives::{Error, Problem, refused};

/// One `proxy`, read.
#[derive(Default)]
pub struct Proxied {
    at: Position,
    /// What the paths begin with that it is for.
    pub from: String,
    to: Vec<String>,
    /// Of all upstreams: what their paths begin with.
    base: String,
    without: Option<String>,
    except: Vec<String>,
    lines: Vec<Directive>,
    transport: Vec<Directive>,
}

impl Proxied {
    /// `http`: of a site without TLS.
    pub fn read(line: &Directive, http: bool) -> Result<Proxied, Error> {
        let at = line.at();
        let mut proxy = Proxied { at, ..Proxied::default() };
        let [from, to @ ..] = &line.words[1..] else {
            return needs(at, "proxy PATH UPSTREAM");
        };
        prefix(&from.text, from.at)?;
        proxy.from = from.text.clone();
        let mut upstreams: Vec<&Word> = to.iter().collect();
        let mut real_ip = !http;
        for line in line.lines() {
            let arguments = &line.words[1..];
            let texts: Vec<&str> = line.arguments().collect();
            let mut add = |words: &[&str]| proxy.lines.push(Directive::new(words, line.at()));
            match (line.name(), texts.as_slice()) {
                // what Caddy 2 does by itself, and what every upstream with https gets
                ("websocket" | "transparent" | "insecure_skip_verify", []) => {}
                ("preset", ["websocket" | "transparent"]) => {}
                ("header_upstream", [name, value]) if implied(name, value) => {}
                ("header_upstream", [name, ..]) => {
                    real_ip &= !name.eq_ignore_ascii_case("X-Real-IP");
                    proxy.lines.push(renamed("header_up", line)?);
                }
                ("header_downstream", [_, ..]) => proxy.lines.push(renamed("header_down", line)?),
                ("policy", ["random" | "least_conn" | "round_robin" | "first" | "ip_hash" | "uri_hash"]) | ("policy", ["header", _]) => {
                    proxy.lines.push(renamed("lb_policy", line)?)
                }
                ("fail_timeout", [time]) => add(&["fail_duration", time]),
                ("max_fails", [number]) => add(&["max_fails", number]),
                ("max_conns", [number]) => add(&["unhealthy_request_count", number]),
                ("try_duration", [time]) => add(&["lb_try_duration", time]),
                ("try_interval", [time]) => add(&["lb_try_interval", time]),
                ("health_check", [path]) => add(&["health_uri", path]),
                ("health_check_port", [port]) => add(&["health_port", port]),
                ("health_check_interval", [time]) => add(&["health_interval", time]),
                ("health_check_timeout", [time]) => add(&["health_timeout", time]),
                ("health_check_contains", [text]) => add(&["health_body", text]),
                ("keepalive", ["0"]) => proxy.transport.push(Directive::new(&["keepalive", "off"], line.at())),
                ("keepalive", [_]) => proxy.transport.push(renamed("keepalive_idle_conns", line)?),
                ("timeout", [_]) => proxy.transport.push(renamed("dial_timeout", line)?),
                ("fallback_delay", [_]) => proxy.transport.push(renamed("dial_fallback_delay", line)?),
                ("ca_certificates", [_, ..]) => proxy.transport.push(renamed("tls_trusted_ca_certs", line)?),
                ("tls_client", [_, _]) => proxy.transport.push(renamed("tls_client_auth", line)?),
                ("upstream", [_]) => upstreams.extend(arguments),
                ("without", [path]) => {
                    prefix(path, arguments[0].at)?;
                    proxy.without = Some(path.trim_end_matches('/').into());
                }
                ("except", [_, ..]) => {
                    for word in arguments {
                        let path = prefix(&word.text, word.at)?;
                        proxy.except.push(path.unwrap_or_else(|| "*".into()));
                    }
                }
                _ => return unknown(line, "proxy"),
            }
        }
        proxy.without = proxy.without.filter(|path| !path.is_empty());
        if real_ip {
            proxy.lines.push(Directive::new(&["header_up", "X-Real-IP", "{remote_host}"], at));
        }
        let mut schemes = Vec::new();
        for (n, word) in upstreams.iter().enumerate() {
            let (scheme, place, base) = upstream(word)?;
            if n > 0 && (proxy.base != base || !schemes.contains(&scheme)) {
                return refused(word.at, Problem::UpstreamsDiffer);
            }
            proxy.base = base;
            proxy.to.push(place);
            schemes.push(scheme);
        }
        if upstreams.is_empty() {
            return needs(at, "proxy PATH UPSTREAM");
        }
        // containers have certificates that nobody knows
        if schemes.contains(&Scheme::Https) {
            let insecure = Directive::new(&["tls_insecure_skip_verify"], at);
            proxy.transport.insert(0, insecure);
        }
        Ok(proxy)
    }

    /// Whether Caddy 2 needs a `handle` for it, and then for every other one of the site.
    pub fn is_nested(&self) -> bool {
        self.without.is_some() || !self.base.is_empty()
    }

    /// `nested`: in a `handle`.
    pub fn written(self, first: &mut First, nested: bool) -> Directive {
        let at = self.at;
        let path = (self.from != "/").then(|| format!("{}*", self.from));
        let matcher = match self.except.is_empty() {
            true => path,
            false => {
                let mut not = vec!["not".to_string(), "path".to_string()];
                not.extend(self.except);
                let mut lines: Vec<Directive> = path.iter().map(|path| Directive::new(&["path", path], at)).collect();
                lines.push(Directive::new(&not, at));
                Some(first.matcher(lines, at))
            }
        };
        let mut lines = self.lines;
        if !self.transport.is_empty() {
            lines.push(Directive::new(&["transport", "http"], at).with(self.transport));
        }
        let mut words = vec!["reverse_proxy".to_string()];
        if !nested {
            words.extend(matcher.clone());
        }
        words.extend(self.to);
        let proxy = Directive::new(&words, at).with(lines);
        if !nested {
            return proxy;
        }
        let mut steps = Vec::new();
        if let Some(without) = &self.without {
            steps.push(Directive::new(&["uri", "strip_prefix", without], at));
        }
        if !self.base.is_empty() {
            let to = format!("{}{{uri}}", self.base);
            steps.push(Directive::new(&["rewrite", "*", &to], at));
        }
        // Caddy 2 would rewrite before it strips
        let both = steps.len() == 2;
        steps.push(proxy);
        if both {
            steps = vec![Directive::new(&["route"], at).with(steps)];
        }
        let mut words = vec!["handle".to_string()];
        words.extend(matcher);
        Directive::new(&words, at).with(steps)
    }
}

/// Scheme, address for Caddy 2, and the path that all requests get in front.
fn upstream(word: &Word) -> Result<(Scheme, String, String), Error> {
    let text = &word.text;
    let fail = |expected| refused(word.at, Problem::Upstream { text: text.clone(), expected });
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok((Scheme::Http, format!("unix/{path}"), String::new()));
    }
    let (scheme, rest) = match text.split_once("://") {
        None | Some(("http", _)) => (Scheme::Http, "http"),
        Some(("https", _)) => (Scheme::Https, "https"),
        Some(_) => return fail("http://, https:// or unix:"),
    };
    let place = text.split_once("://").map_or(text.as_str(), |(_, place)| place);
    let (place, base) = place.split_at(place.find('/').unwrap_or(place.len()));
    if place.is_empty() || place.contains(['{', '}']) {
        return fail("host:port");
    }
    if let Some((_, port)) = place.rsplit_once(':')
        && !place.ends_with(']')
        && port.parse::<u16>().is_err()
    {
        return fail("one port (ranges cannot be upgraded)");
    }
    let base = base.trim_end_matches('/').to_string();
    Ok((scheme, format!("{rest}://{place}"), base))
}

/// Headers that Caddy 2, or haproxy in front of it, sets by itself.
fn implied(name: &str, value: &str) -> bool {
    let (name, value) = (name.to_ascii_lowercase(), value);
    matches!(
        (name.as_str(), value),
        ("host", "{host}" | "{hostonly}" | "{>Host}")
            | ("x-forwarded-for", "{remote}" | "{>X-Forwarded-For}")
            | ("x-forwarded-proto", "{scheme}" | "{>X-Forwarded-Proto}")
            | ("x-forwarded-host", "{host}")
            | ("x-real-ip", "{remote}")
            | ("connection", "{>Connection}")
            | ("upgrade", "{>Upgrade}")
    )
}
