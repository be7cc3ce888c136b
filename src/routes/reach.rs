//! Whom a site may lead to: its own application, and what the operator lists. Pure.
//!
//! Its upstreams are its own containers, by whatever name it calls them: the network that applications share with the proxies may have a service of
//! that name for each of them. So they are written by their containers' names, before Caddy reads them; whatever else leads elsewhere, what Caddy
//! has understood shows (`judge`).

use super::caddyfile::{Directive, Site, Word};
use super::directives::{Error, Problem, refused};
use crate::outside::compose_file::Service;

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

    /// Writes upstreams by their containers' names; refuses those that are elsewhere.
    pub fn limit(&self, sites: &mut [Site]) -> Result<(), Error> {
        sites.iter_mut().try_for_each(|site| self.lines(&mut site.body, ""))
    }

    /// Those below a line of this name.
    fn lines(&self, lines: &mut [Directive], below: &str) -> Result<(), Error> {
        const PROXIES: [&str; 2] = ["reverse_proxy", "forward_auth"];
        for line in lines {
            let name = line.name().to_string();
            if PROXIES.contains(&&*name) {
                let has_matcher = line.arguments().next().is_some_and(|word| word == "*" || word.starts_with(['/', '@']));
                self.upstreams(line, if has_matcher { 2 } else { 1 })?;
            }
            if name == "to" && PROXIES.contains(&below) {
                self.upstreams(line, 1)?;
            }
            self.lines(line.block.as_deref_mut().unwrap_or_default(), &name)?;
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
}
