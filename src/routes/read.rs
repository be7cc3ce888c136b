//! From the services' variables to the routes of the application.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::address::{Key, SiteAddress};
use super::error::{Error, Place, Problem};
use super::reach::Reach;
use super::{caddyfile, checks, haproxy, sites};
use crate::model::record::Record;
use crate::outside::compose_file::Service;
use crate::settings;

/// What the record and Consul's service say about routes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routes {
    /// All sites, written out; and each of them alone.
    pub caddyfile: String,
    pub sites: Vec<String>,
    /// Merged `HAPROXY` maps.
    pub haproxy: Map<String, Value>,
    /// host[:port] of every site address with a scheme.
    pub domains: Vec<String>,
    /// All site addresses, joined by ", ".
    pub urls: String,
    /// What Consul checks.
    pub checks: Vec<String>,
    /// What an upgrade to Caddy 2 left out, for the operator.
    pub notes: Vec<String>,
}

impl Routes {
    /// As they were when it was deployed; Consul checks its addresses.
    pub fn of_record(record: &Record) -> Routes {
        Routes {
            caddyfile: record.caddyfile.clone(),
            sites: Vec::new(),
            haproxy: record.haproxy.clone(),
            domains: record.domains.clone(),
            urls: record.urls.clone(),
            checks: record.urls.split(", ").filter(|url| checks::is_url(url) && !url.contains('*')).map(String::from).collect(),
            notes: Vec::new(),
        }
    }
}

/// Reads the variables of all services; sites are completed for and written in the words of the Caddy that is set.
pub fn read(services: &[Service], set: &settings::Routes) -> Result<Routes, Error> {
    let mut routes = Routes::default();
    let (mut sites, mut addresses) = (Vec::new(), Vec::new());
    let mut places: HashMap<Key, Place> = HashMap::new();
    let reach = Reach::of(services, &set.upstreams);
    for Service { name, container, environment, networks, aliases, .. } in services {
        let has_route =
            ["CADDYFILE", "HAPROXY"].iter().any(|variable| environment.get(*variable).is_some_and(|text| !text.trim().is_empty()));
        if let Some(network) = &set.network {
            match networks.contains(network) {
                false if has_route => return Err(Error::NotInNetwork { service: name.clone(), network: network.clone() }),
                true if !has_route => routes.notes.push(format!(
                    "service {name} has no route, but is in {network}, where all applications find it by that name: leave it out of there"
                )),
                _ => {}
            }
            let proxys = aliases.iter().chain([name]).find(|name| ["caddy", "haproxy"].contains(&&***name));
            if let Some(proxy) = proxys.filter(|_| networks.contains(network)) {
                return Err(Error::ProxysName { service: name.clone(), name: proxy.clone(), network: network.clone() });
            }
        }
        if has_route && container.split('.').any(|part| part.len() > 63) {
            return Err(Error::LongName { service: name.clone(), container: container.clone() });
        }
        let variable = |problem| Error::Variable { service: name.clone(), problem: Box::new(problem) };
        if let Some(text) = environment.get("CADDYFILE") {
            let own = sites::own(text, container, &reach, set.caddy).map_err(|source| variable(Problem::Caddyfile(source)))?;
            for word in own.addresses {
                if let Ok(address) = SiteAddress::parse(&word.text) {
                    let second = Place { service: name.clone(), at: word.at };
                    if let Some(first) = places.insert(address.key(), second.clone()) {
                        return Err(Error::Twice { address: word.text, first, second });
                    }
                }
                addresses.push(word.text);
            }
            routes.notes.extend(own.notes.into_iter().map(|note| format!("service {name}: CADDYFILE: {note}")));
            sites.extend(own.sites);
        }
        if let Some(text) = environment.get("HAPROXY") {
            haproxy::add(&mut routes.haproxy, text, container).map_err(|source| variable(Problem::Haproxy(source)))?;
        }
        if let Some(text) = environment.get("CONSUL_CHECK_URLS") {
            routes.checks.extend(checks::urls(text).map_err(|source| variable(Problem::ConsulCheckUrls(source)))?);
        }
    }
    haproxy::check(&routes.haproxy).map_err(|source| Error::Together(Box::new(source)))?;
    routes.notes.extend(haproxy::unused(&routes.haproxy).map(|(name, backend)| {
        format!("HAPROXY: nothing leads to {backend} of {name}: a backend without a condition, or with the same one, stands before it")
    }));
    let parsed: Vec<(&String, SiteAddress)> = addresses.iter().filter_map(|text| Some((text, SiteAddress::parse(text).ok()?))).collect();
    for (_, bind) in haproxy::binds_of(&routes.haproxy) {
        let has = |address: &SiteAddress| address.key().own_port().is_some_and(|port| bind.ports.contains(&port));
        if let Some((text, _)) = parsed.iter().find(|(_, address)| has(address)) {
            let problem = haproxy::Problem::PortOfSite { bind, address: text.to_string() };
            return Err(Error::Together(Box::new(haproxy::Error { at: "frontend.bind".into(), problem })));
        }
    }
    for (scheme, host) in haproxy::hosts_of(&routes.haproxy) {
        let all = Key::of_host(scheme, host);
        let is_it = |key: Key| (key.scheme, &key.host, key.own_port()) == (all.scheme, &all.host, None);
        if let Some((text, _)) = parsed.iter().find(|(_, address)| is_it(address.key())) {
            let problem = haproxy::Problem::HostOfSite { host: all.host, address: text.to_string() };
            return Err(Error::Together(Box::new(haproxy::Error { at: "use_backend_option".into(), problem })));
        }
    }
    if let Some(open) = &set.ports {
        let of_sites = parsed.iter().filter_map(|(text, address)| Some((text.to_string(), address.key().own_port()?)));
        let of_binds = haproxy::binds_of(&routes.haproxy).map(|(_, bind)| (format!("the bind {bind}"), *bind.ports.start()));
        if let Some((what, _)) = of_sites.chain(of_binds).find(|(_, port)| !open.has(*port)) {
            return Err(Error::NotOpen { what, open: open.text.clone() });
        }
    }
    let mut checks = Vec::new();
    for (text, address) in parsed.iter().filter(|(_, address)| address.scheme.is_some()) {
        let domain = address.domain();
        if !routes.domains.contains(&domain) {
            routes.domains.push(domain);
        }
        // nothing can ask for `*.example.com`; a path may be a pattern
        let url = text.trim_end_matches('*');
        if checks::is_url(url) && !url.contains('*') {
            checks.push(url.to_string());
        }
    }
    checks.append(&mut routes.checks);
    routes.checks = checks;
    routes.urls = addresses.join(", ");
    routes.sites = sites.into_iter().map(|site| caddyfile::dump(&[site])).collect();
    routes.caddyfile = routes.sites.join("\n");
    let tls = sites::tls_of(&routes.caddyfile);
    routes.notes.extend(tls.iter().filter(|(host, tls)| host.starts_with('*') && !tls.contains("tls")).map(|(host, _)| {
        format!("CADDYFILE: Caddy gets no certificate for {host} by itself: the operator places one, or `tls internal` makes one")
    }));
    match sites::in_two_ways(&tls, &tls).filter(|_| set.caddy == settings::Version::Two) {
        Some(host) => Err(Error::TwoTls { host }),
        None => Ok(routes),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::model::names::Project;
    use crate::outside::compose_file::Compose;
    use crate::outside::{compose, yaml};
    use crate::settings::{Ports, Version};

    const CADDYFILE: &str = "CADDYFILE";
    const HAPROXY: &str = "HAPROXY";

    fn members(value: &Value) -> BTreeSet<String> {
        let list = value.as_array().unwrap().iter();
        list.map(|item| item.as_str().unwrap().to_string()).collect()
    }

    /// The records' parts that come from the compose file.
    #[test]
    fn vectors() {
        for (name, project, raw, printed, expected) in [
            (
                "anchors",
                "anchorsmaster5bf1d",
                include_str!("../../tests/vectors/records/anchors.yml"),
                include_str!("../../tests/vectors/records/anchors.config.json"),
                include_str!("../../tests/vectors/records/anchors.json"),
            ),
            (
                "blog",
                "blogmaster03d9b",
                include_str!("../../tests/vectors/records/blog.yml"),
                include_str!("../../tests/vectors/records/blog.config.json"),
                include_str!("../../tests/vectors/records/blog.json"),
            ),
            (
                "forge",
                "forgemastera7312",
                include_str!("../../tests/vectors/records/forge.yml"),
                include_str!("../../tests/vectors/records/forge.config.json"),
                include_str!("../../tests/vectors/records/forge.json"),
            ),
            (
                "plain",
                "plainmaster00d08",
                include_str!("../../tests/vectors/records/plain.yml"),
                include_str!("../../tests/vectors/records/plain.config.json"),
                include_str!("../../tests/vectors/records/plain.json"),
            ),
        ] {
            let expected: Value = serde_json::from_str(expected).unwrap();
            let record = &expected["record"];
            let driver = "anybox/buttervolume:latest";
            let project = Project::try_from(project).unwrap();
            let kept = compose::to_keep(&project, printed, None, &[yaml::read(raw).unwrap()]).unwrap();
            let mut compose = Compose::parse(&kept, &project, driver).unwrap();
            // the older handler had compose 1, which made other names
            for service in &mut compose.services {
                service.container = record["ct"][&service.name].as_str().unwrap().into();
            }
            let routes = read(&compose.services, &set(Version::One)).unwrap();
            assert_eq!(routes.caddyfile, record["caddyfile"], "{name}");
            assert_eq!(routes.urls, record["urls"], "{name}");
            assert_eq!(json!(routes.checks.len()), expected["checks"], "{name}");
            let domains: BTreeSet<_> = routes.domains.iter().cloned().collect();
            assert_eq!(domains.len(), routes.domains.len(), "{name}");
            assert_eq!(domains, members(&record["domains"]), "{name}");
            let volumes = compose.volumes.iter().filter(|volume| volume.data);
            let volumes: BTreeSet<String> = volumes.map(|volume| volume.name.to_string()).collect();
            assert_eq!(volumes, members(&record["volumes"]), "{name}");
            let mut haproxy = [Value::Object(routes.haproxy), record["haproxy"].clone()];
            for merged in &mut haproxy {
                for list in ["bind", "options"] {
                    if let Some(list) = merged.pointer_mut(&format!("/git-ssh/frontend/{list}")) {
                        *list = json!(members(list));
                    }
                }
            }
            assert_eq!(haproxy[0], haproxy[1], "{name}");
        }
    }

    pub fn set(caddy: Version) -> settings::Routes {
        settings::Routes { caddy, admin: None, storage: None, ports: None, network: None, upstreams: Vec::new() }
    }

    /// Service, variable, value.
    pub fn services(variables: &[(&str, &str, &str)]) -> Vec<Service> {
        let service = |(name, key, value): &(&str, &str, &str)| Service {
            restart: crate::outside::engine::Restart::never(),
            name: name.to_string(),
            container: format!("p-{name}-1"),
            image: None,
            build: true,
            dockerfile: None,
            environment: [(key.to_string(), value.to_string())].into(),
            oneshot: false,
            made: true,
            replicas: 1,
            networks: Vec::new(),
            aliases: Vec::new(),
        };
        variables.iter().map(service).collect()
    }

    #[test]
    fn containers() {
        for variable in ["$CONTAINER", "$$CONTAINER", "${CONTAINER}", "$${CONTAINER}"] {
            let text = format!("http://a {{\n proxy / {variable}:80\n}}");
            let routes = read(&services(&[("web", CADDYFILE, &text)]), &set(Version::One)).unwrap();
            assert!(routes.caddyfile.contains(" proxy / p-web-1:80 {"), "{routes:?}");
        }
    }

    #[test]
    fn refused() {
        for (variables, message) in [
            (
                vec![("web", CADDYFILE, "http://a {\n")],
                "service web: CADDYFILE: line 2, column 1: expected a directive or `}`, found the end of the text",
            ),
            (
                vec![("web", CADDYFILE, "http://a, ftp://b {\n}")],
                "service web: CADDYFILE: line 1, column 11: the address \"ftp://b\": its scheme is neither http nor https",
            ),
            (
                vec![("web", CADDYFILE, "http://a {\n}\nHTTPS://b {\n}")],
                "service web: CADDYFILE: line 3, column 1: the address \"HTTPS://b\": its scheme is neither http nor https",
            ),
            (
                vec![("web", CADDYFILE, "http://a/x {\n}\nhttp://a {\n}"), ("tls", CADDYFILE, "\n A:80/ {\n}")],
                "CADDYFILE: the address A:80/ is used twice: service web, line 3, column 1; service tls, line 2, column 2",
            ),
            (
                vec![("web", HAPROXY, "x: {backends: [{name: a}]}")],
                "service web: HAPROXY: x.backends[0].port: expected a port from 1 to 65535, found nothing",
            ),
            (
                vec![("web", HAPROXY, "x: {backends: [{name: a, port: 1, peer_port: 1}]}")],
                "HAPROXY: x.frontend: missing: mode and bind are needed",
            ),
            (vec![("web", "CONSUL_CHECK_URLS", "a")], "service web: CONSUL_CHECK_URLS: expected a list of URLs, found text"),
        ] {
            for caddy in [Version::One, Version::Two] {
                let error = read(&services(&variables), &set(caddy)).unwrap_err();
                assert_eq!(error.to_string(), message);
            }
        }
    }

    #[test]
    fn ports_that_nobody_has_opened() {
        let open = settings::Routes { ports: Ports::parse("2200-2239:2200-2239"), ..set(Version::Two) };
        let read = |variable, text: &str| super::read(&services(&[("web", variable, text)]), &open);
        let bound = |port: u16| format!("x: {{frontend: {{mode: tcp, bind: ['*:{port}']}}, backends: [{{port: 22, peer_port: {port}}}]}}");
        assert!(read(HAPROXY, &bound(2239)).is_ok() && read(CADDYFILE, "http://a, https://a, a:2200 {\n}").is_ok());
        for (variable, text, what) in [(HAPROXY, &*bound(2240), "the bind *:2240"), (CADDYFILE, "https://a:8443 {\n}", "https://a:8443")] {
            assert_eq!(
                read(variable, text).unwrap_err().to_string(),
                format!(
                    "{what}: nothing leads to this port: haproxy publishes 80, 443 and 2200-2239:2200-2239 on every node (TCP_PORTS of the proxies' \
                     .env, HANDLER_TCP_PORTS of the handler)"
                )
            );
        }
    }

    #[test]
    fn a_host_is_one_thing() {
        let read = |variables: &[(&str, &str, &str)]| super::read(&services(variables), &set(Version::Two));
        let two = "https://a.x {\n    tls internal\n}\nhttps://a.x:2201 {\n}";
        assert!(matches!(read(&[("web", CADDYFILE, two)]), Err(Error::TwoTls { host }) if host == "a.x"));
        assert!(read(&[("web", CADDYFILE, "https://a.x {\n    tls internal\n}\nhttp://a.x {\n}")]).is_ok());
        let past = |host: &str| {
            format!("http-in: {{backends: [{{port: 80, peer_port: 80, use_backend_option: 'if {{ hdr(host) -i {host} }}'}}]}}")
        };
        for (site, fine) in
            [("http://a.x {\n}", false), ("http://a.x/x {\n}", false), ("https://a.x {\n}", true), ("http://*.x {\n}", true)]
        {
            let routes = read(&[("web", CADDYFILE, site), ("api", HAPROXY, &past("a.x"))]);
            assert_eq!(routes.is_ok(), fine, "{site}: {routes:?}");
        }
        let both = "http-in: {backends: [{name: a, port: 80, peer_port: 80, use_backend_option: 'if { hdr(host) -i a.x }'},
            {name: b, port: 80, peer_port: 80, use_backend_option: 'if { req.hdr(host) -i A.x }'}]}";
        assert!(read(&[("web", HAPROXY, both)]).unwrap().notes[0].starts_with("HAPROXY: nothing leads to b of http-in"));
    }

    #[test]
    fn services_out_of_the_proxies_reach() {
        let set = settings::Routes { network: Some("cluster_default".into()), ..set(Version::Two) };
        let mut services = services(&[("web", CADDYFILE, "http://a {\n}"), ("db", "X", "")]);
        assert_eq!(
            read(&services, &set).unwrap_err().to_string(),
            "service web has a route, but is not in the network cluster_default, where the proxies would find it: add `networks: [cluster_default]` to \
             it, and `cluster_default: {external: true}` to the file's networks"
        );
        services.iter_mut().for_each(|service| service.networks = vec!["cluster_default".into()]);
        services[1].aliases = vec!["caddy".into()];
        assert_eq!(
            read(&services, &set).unwrap_err().to_string(),
            "service db would answer to the name caddy in cluster_default, as the proxy does: give it another name there"
        );
        services[1].aliases.clear();
        assert_eq!(
            read(&services, &set).unwrap().notes,
            ["service db has no route, but is in cluster_default, where all applications find it by that name: leave it out of there"]
        );
    }
}
