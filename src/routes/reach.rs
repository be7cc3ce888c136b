//! What a site may reach: its own application, and what the operator lists. Pure.
//!
//! Its upstreams are its own containers, by whatever name it calls them: the network that applications share with the proxies may have a service of
//! that name for each of them. Of the proxy itself, of its files, its environment and its ports, it reaches nothing. So words are known ones here.

use std::collections::BTreeMap;

use super::caddyfile::{Directive, Site, Word};
use super::directives::{Error, NESTING, Problem, TWO, refused};
use crate::outside::compose_file::Service;

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
/// In the block of `reverse_proxy`. Those that end with `*` stand for all that begin so.
const PROXY: [&str; 24] = [
    "to",
    "header_up",
    "header_down",
    "flush_interval",
    "buffer_requests",
    "buffer_responses",
    "request_buffers",
    "response_buffers",
    "stream_timeout",
    "stream_close_delay",
    "max_buffer_size",
    "lb_*",
    "health_*",
    "fail_duration",
    "max_fails",
    "unhealthy_*",
    "trusted_proxies",
    "method",
    "rewrite",
    "uri",
    "copy_headers",
    "replace_status",
    "handle_response",
    "transport",
];
const TRANSPORT: [&str; 28] = [
    "dial_timeout",
    "dial_fallback_delay",
    "response_header_timeout",
    "expect_continue_timeout",
    "read_timeout",
    "write_timeout",
    "read_buffer",
    "write_buffer",
    "max_response_header",
    "versions",
    "keepalive",
    "keepalive_interval",
    "keepalive_idle_conns",
    "keepalive_idle_conns_per_host",
    "max_conns_per_host",
    "max_idle_conns_per_host",
    "compression",
    "tls",
    "tls_insecure_skip_verify",
    "tls_server_name",
    "tls_timeout",
    "tls_renegotiation",
    // of fastcgi
    "root",
    "split",
    "env",
    "index",
    "capture_stderr",
    "resolve_root_symlink",
];
const TLS: [&str; 4] = ["protocols", "ciphers", "curves", "alpn"];

/// Whom an application may call by which name.
pub struct Reach<'a> {
    /// Names and containers. A container's own name is nobody else's, so these come first.
    own: Vec<(&'a str, Vec<String>)>,
    /// Hosts outside, with or without a port.
    listed: &'a [String],
}

impl<'a> Reach<'a> {
    pub fn of(services: &'a [Service], listed: &'a [String]) -> Reach<'a> {
        // `$CONTAINER` stands for all of a service.
        let mut own: Vec<(&str, Vec<String>)> = services.iter().map(|service| (service.container.as_str(), service.containers())).collect();
        for service in services {
            own.push((&service.name, service.containers()));
            own.extend(service.aliases.iter().map(|alias| (alias.as_str(), service.containers())));
        }
        Reach { own, listed }
    }

    /// As a record has them.
    pub fn of_containers(ct: &'a BTreeMap<String, String>, listed: &'a [String]) -> Reach<'a> {
        let own = ct.values().map(|container| (container.as_str(), vec![container.clone()])).collect();
        Reach { own, listed }
    }

    /// Writes upstreams by their containers' names; refuses what leads elsewhere.
    pub fn limit(&self, sites: &mut [Site]) -> Result<(), Error> {
        sites.iter_mut().try_for_each(|site| self.lines(&mut site.body))
    }

    fn lines(&self, lines: &mut [Directive]) -> Result<(), Error> {
        for line in lines {
            environment(line)?;
            let name = line.name().to_string();
            match &*name {
                "reverse_proxy" | "forward_auth" => self.proxy(line)?,
                "tls" => tls(line)?,
                "intercept" => {
                    let responses = line.block.iter_mut().flatten().filter(|line| line.name() == "handle_response");
                    responses.into_iter().try_for_each(|line| self.lines(line.block.as_deref_mut().unwrap_or_default()))?;
                }
                "file_server" | "php_fastcgi" | "root" | "templates" | "try_files" | "fs" => {
                    return refused(line.at(), Problem::OwnDisk { name });
                }
                name if name.starts_with('@') => matchers(line)?,
                "acme_server" | "bind" | "metrics" => return refused(line.at(), Problem::Proxys { name }),
                name if TWO.contains(&name) => {}
                _ => return refused(line.at(), Problem::Unknown { name }),
            }
            if NESTING.contains(&&*name) {
                self.lines(line.block.as_deref_mut().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn proxy(&self, line: &mut Directive) -> Result<(), Error> {
        let has_matcher = line.arguments().next().is_some_and(|word| word == "*" || word.starts_with(['/', '@']));
        self.upstreams(line, if has_matcher { 2 } else { 1 })?;
        for line in line.block.iter_mut().flatten() {
            let name = line.name().to_string();
            let is_known = |known: &&str| known.strip_suffix('*').map_or(*known == name, |begin| name.starts_with(begin));
            match &*name {
                "to" => self.upstreams(line, 1)?,
                "health_upstream" => return refused(line.at(), Problem::Proxys { name }),
                "handle_response" => self.lines(line.block.as_deref_mut().unwrap_or_default())?,
                "transport" => match line.arguments().next() {
                    Some("http" | "fastcgi") => only(line, &TRANSPORT)?,
                    _ => return refused(line.at(), Problem::NotKnownIn { name, directive: "reverse_proxy" }),
                },
                name if name.starts_with('@') || PROXY.iter().any(is_known) => {}
                _ => return refused(line.at(), Problem::NotKnownIn { name, directive: "reverse_proxy" }),
            }
        }
        Ok(())
    }

    /// Those behind the first words of a line.
    fn upstreams(&self, line: &mut Directive, first: usize) -> Result<(), Error> {
        let upstreams = line.words.split_off(first.min(line.words.len()));
        for word in upstreams {
            line.words.extend(self.upstream(word)?);
        }
        Ok(())
    }

    fn upstream(&self, word: Word) -> Result<Vec<Word>, Error> {
        let (scheme, rest) = match word.text.split_once("://") {
            Some((scheme @ ("http" | "https" | "h2c"), rest)) => (format!("{scheme}://"), rest),
            _ => (String::new(), word.text.as_str()),
        };
        let (host, port) = rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        let fits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit() || b == b'-'));
        if let Some((_, containers)) = self.own.iter().find(|(name, _)| fits && *name == host) {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            return Ok(containers.iter().map(|container| Word::new(format!("{scheme}{container}{port}"), word.at)).collect());
        }
        // A further one of a service.
        let number = |number: &str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let first = host.rsplit_once('-').filter(|(_, end)| number(end)).map(|(begin, _)| format!("{begin}-1"));
        let is_own = fits && first.is_some_and(|first| self.own.iter().any(|(name, _)| *name == first));
        if is_own || self.listed.iter().any(|listed| listed == rest || fits && listed == host) {
            return Ok(vec![word]);
        }
        refused(word.at, self.outside(&word.text))
    }

    pub fn outside(&self, text: &str) -> Problem {
        Problem::Outside { text: text.into(), own: self.own.iter().map(|(name, _)| name.to_string()).collect() }
    }

    /// Whether it may be led to, as Caddy has it: `host:port`.
    pub fn has(&self, dial: &str) -> bool {
        let Some((host, _)) = dial.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else { return false };
        let own = self.own.iter().any(|(_, containers)| containers.iter().any(|container| container == host));
        own || self.listed.iter().any(|listed| listed == dial || listed == host)
    }
}

/// Lines of its block.
fn only(line: &Directive, known: &[&str]) -> Result<(), Error> {
    let directive = if line.name() == "tls" { "tls" } else { "transport" };
    match line.lines().iter().find(|line| !known.contains(&line.name())) {
        Some(line) => refused(line.at(), Problem::NotKnownIn { name: line.name().into(), directive }),
        None => Ok(()),
    }
}

fn tls(line: &Directive) -> Result<(), Error> {
    let words: Vec<&str> = line.arguments().collect();
    match words[..] {
        [] | ["internal"] => only(line, &TLS),
        [address] if address.contains('@') => only(line, &TLS),
        _ => refused(line.at(), Problem::Certificate),
    }
}

/// `@name matcher …`, `@name { … }`, or `@name expression`.
fn matchers(line: &Directive) -> Result<(), Error> {
    let one = line.words.get(1).into_iter().map(|word| (word, line.words.len() == 2 && line.block.is_none()));
    let lines = line.lines().iter().filter_map(|line| Some((line.words.first()?, false)));
    for (word, alone) in one.chain(lines) {
        let is_expression = alone && !MATCHERS.contains(&&*word.text) && word.text != "file";
        if !is_expression && !MATCHERS.contains(&&*word.text) {
            return refused(word.at, Problem::NotKnownIn { name: word.text.clone(), directive: "a matcher" });
        }
    }
    let nots = line.lines().iter().filter(|line| line.name() == "not");
    nots.chain(Some(line).filter(|line| line.words.get(1).is_some_and(|word| word.text == "not"))).try_for_each(|not| {
        let inner = not.words.iter().skip_while(|word| word.text != "not").nth(1).into_iter();
        let mut inner = inner.chain(not.lines().iter().filter_map(|line| line.words.first()));
        match inner.find(|word| !MATCHERS.contains(&&*word.text)) {
            Some(word) => refused(word.at, Problem::NotKnownIn { name: word.text.clone(), directive: "a matcher" }),
            None => Ok(()),
        }
    })
}

/// What Caddy would read from its environment or its disk.
fn environment(line: &Directive) -> Result<(), Error> {
    let calls = |text: &str| text.match_indices("file(").any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
    let reads = |word: &&Word| word.text.contains("{env.") || word.text.contains("{file.") || calls(&word.text);
    if let Some(word) = line.words.iter().find(reads) {
        return refused(word.at, Problem::Environment { word: word.text.clone() });
    }
    line.lines().iter().try_for_each(environment)
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::services;
    use super::*;
    use crate::routes::caddyfile::{dump, parse};

    fn limited(body: &str) -> Result<String, String> {
        let mut services = services(&[("web", "X", ""), ("api", "X", "")]);
        services[1].aliases.push("backend".into());
        services.push(Service { name: "many".into(), container: "p-many-1".into(), replicas: 3, ..services[0].clone() });
        let listed = ["login.example.com".to_string(), "10.0.0.9:9000".to_string()];
        let mut sites = parse(&format!("http://a {{\n{body}\n}}")).unwrap();
        Reach::of(&services, &listed).limit(&mut sites).map(|()| dump(&sites)).map_err(|error| error.problem.to_string())
    }

    #[test]
    fn upstreams_are_the_applications_own() {
        for (written, read) in [
            ("reverse_proxy api:4000", "reverse_proxy p-api-1:4000"),
            ("reverse_proxy /x* http://web https://backend:8443", "reverse_proxy /x* http://p-web-1 https://p-api-1:8443"),
            ("reverse_proxy many:80", "reverse_proxy p-many-1:80 p-many-2:80 p-many-3:80"),
            ("reverse_proxy p-many-2:80", "reverse_proxy p-many-2:80"),
            ("reverse_proxy @x p-web-1:8001-8003", "reverse_proxy @x p-web-1:8001-8003"),
            ("reverse_proxy {\n to h2c://api:1 web:2\n}", "to h2c://p-api-1:1 p-web-1:2"),
            (
                "handle /a {\n forward_auth login.example.com:443 {\n uri /x\n copy_headers A\n}\n reverse_proxy 10.0.0.9:9000\n}",
                "reverse_proxy 10.0.0.9:9000",
            ),
            ("reverse_proxy web:1 {\n @bad status 5xx\n handle_response @bad {\n  reverse_proxy api:2\n }\n}", "reverse_proxy p-api-1:2"),
        ] {
            let is = limited(written).unwrap();
            assert!(is.contains(read), "{written}: {is}");
        }
        for outside in [
            "localhost:2019",
            "127.0.0.1:80",
            ":8080",
            "unix//run/x.sock",
            "{header.X}:80",
            "other-web-1:80",
            "api.:80",
            "10.0.0.9:9001",
            "http://api:{x}",
            "ftp://api:1",
        ] {
            for line in [format!("reverse_proxy {outside}"), format!("route {{\n reverse_proxy {{\n  to {outside}\n }}\n}}")] {
                let why = limited(&line).unwrap_err();
                assert!(
                    why.contains(
                        "is no container of the application: write $CONTAINER:port, or one of p-web-1, p-api-1, p-many-1, web, api, backend, many;"
                    ),
                    "{why}"
                );
            }
        }
    }

    #[test]
    fn nothing_of_the_proxy_is_reached() {
        for (line, why) in [
            ("root * /srv", "put a web server into it"),
            ("handle {\n file_server browse\n}", "put a web server into it"),
            ("intercept {\n @x status 404\n handle_response @x {\n  file_server\n }\n}", "put a web server into it"),
            ("reverse_proxy web {\n transport other\n}", "\"transport\" cannot be used in reverse_proxy here"),
            ("php_fastcgi web:9000", "put a web server into it"),
            ("templates", "put a web server into it"),
            ("bind 203.0.113.9", "is the proxy's own"),
            ("acme_server", "is the proxy's own"),
            ("metrics /m", "is the proxy's own"),
            ("tls /cert.pem /key.pem", "a certificate that you have is for the operator to place"),
            ("tls {\n ca_root /x\n}", "\"ca_root\" cannot be used in tls here"),
            ("respond {env.HOME}", "the proxy's own environment"),
            ("header X {file./etc/passwd}", "the proxy's own environment"),
            ("@x file /a", "\"file\" cannot be used in a matcher here"),
            ("@x {\n not file /a\n}", "\"file\" cannot be used in a matcher here"),
            ("@x `file({'root': '/'})`", "the proxy's own environment"),
            ("reverse_proxy web {\n dynamic a x 80\n}", "\"dynamic\" cannot be used in reverse_proxy here"),
            ("reverse_proxy web {\n health_upstream localhost:2019\n}", "is the proxy's own"),
            (
                "reverse_proxy web {\n transport http {\n  tls_client_auth a b\n }\n}",
                "\"tls_client_auth\" cannot be used in transport here",
            ),
        ] {
            let is = limited(line).unwrap_err();
            assert!(is.contains(why), "{line}: {is}");
        }
    }

    #[test]
    fn what_people_use_stays() {
        for line in [
            "tls internal",
            "tls me@example.com {\n protocols tls1.2 tls1.3\n}",
            "@api {\n path /api/*\n not header X y\n}",
            "@x not path /a",
            "@x `{method} == \"PUT\"`",
            "@x expression `path('/profile(x)')`",
            "header {\n -Server\n}",
            "handle_errors {\n respond \"{err.status_code}\"\n}",
            "reverse_proxy web:80 {\n health_uri /health\n lb_policy least_conn\n unhealthy_status 5xx\n transport fastcgi {\n  root /var/www\n  env A b\n }\n}",
        ] {
            assert!(limited(line).is_ok(), "{line}: {:?}", limited(line));
        }
    }
}
