//! What an application claims for itself, and that no other one may have. Pure.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::address::{Key, SiteAddress, site_addresses};
use super::bind::Bind;
use super::error::{Claim, Error};
use super::read::Routes;
use super::{haproxy, sites};
use crate::model::json;
use crate::model::record::{Record, Understood};
use crate::settings;

/// The part of another application's record that says what is its own: where it is reached, and its data volumes.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Recorded {
    pub master: String,
    /// The master's address.
    #[serde(default)]
    pub ip: String,
    #[serde(default)]
    pub caddyfile: String,
    #[serde(default)]
    pub haproxy: Map<String, Value>,
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub sites: Option<Understood>,
}

impl Recorded {
    pub fn parse(value: &[u8]) -> Result<Recorded, serde_json::Error> {
        json::read(value)
    }
}

/// Of a record's two members.
struct Claims<'a> {
    /// Of its sites, and the hosts that it has in the shared frontends.
    addresses: Vec<(Cow<'a, str>, Key)>,
    /// Names of configurations that are not shared.
    names: Vec<&'a str>,
    backends: Vec<&'a str>,
    binds: Vec<Bind>,
}

impl<'a> Claims<'a> {
    fn of(caddyfile: &'a str, haproxy: &'a Map<String, Value>) -> Claims<'a> {
        let key = |text| Some((Cow::from(text), SiteAddress::parse(text).ok()?.key()));
        let hosts = haproxy::hosts_of(haproxy).map(|(scheme, host)| (Cow::from(host.clone()), Key::of_host(scheme, host)));
        Claims {
            addresses: site_addresses(caddyfile).filter_map(key).chain(hosts).collect(),
            names: haproxy.keys().map(String::as_str).filter(|name| !haproxy::is_shared(name)).collect(),
            backends: haproxy::backends_of(haproxy).map(|(_, name)| name).collect(),
            binds: haproxy::binds_of(haproxy).map(|(_, bind)| bind).collect(),
        }
    }

    /// The first thing that both have.
    fn shared(&self, theirs: &Claims) -> Option<Claim> {
        let binds = |port: &u16| self.binds.iter().find(|bind| bind.ports.contains(port));
        for (text, their) in &theirs.addresses {
            if let Some(bind) = their.own_port().and_then(|port| binds(&port)) {
                return Some(Claim::BindAsPort { bind: bind.clone(), address: text.to_string() });
            }
            let differ = |mine: &Key| mine.own_port() == their.own_port() && mine.own_port().is_some() && mine.scheme != their.scheme;
            if self.addresses.iter().any(|(_, mine)| differ(mine)) {
                return Some(Claim::Port(their.port));
            }
            if self.addresses.iter().any(|(_, mine)| mine.meets(their)) {
                return Some(Claim::Address(text.to_string()));
            }
        }
        if let Some(name) = theirs.names.iter().find(|name| self.names.contains(name)) {
            return Some(Claim::Name(name.to_string()));
        }
        if let Some(name) = theirs.backends.iter().find(|name| self.backends.contains(name)) {
            return Some(Claim::Backend(name.to_string()));
        }
        for their in &theirs.binds {
            if let Some(mine) = self.binds.iter().find(|mine| mine.overlaps(their)) {
                return Some(Claim::Bind(mine.clone()));
            }
            let mut ports = self.addresses.iter().filter_map(|(_, mine)| mine.own_port());
            if let Some(port) = ports.find(|port| their.ports.contains(port)) {
                return Some(Claim::PortAsBind { port, bind: their.clone() });
            }
        }
        None
    }
}

/// Compares what the application `name` would claim with its `master` against all `others`: name, master, caddyfile, haproxy. The error is the
/// first thing that two would share; the warnings are what works, but hardly as meant.
pub fn conflicts<'a>(
    name: &str,
    master: &str,
    mine: &Routes,
    others: impl IntoIterator<Item = (&'a str, &'a str, &'a str, &'a Map<String, Value>)>,
) -> Result<Vec<String>, Error> {
    let my_tls = sites::tls_of(&mine.caddyfile);
    let mine = Claims::of(&mine.caddyfile, &mine.haproxy);
    let mut warnings = Vec::new();
    for (other, its_master, caddyfile, haproxy) in others {
        if other == name {
            continue;
        }
        let theirs = Claims::of(caddyfile, haproxy);
        if let Some(what) = mine.shared(&theirs) {
            return Err(Error::Taken { what, by: other.into() });
        }
        // On whatever port: for Caddy a host has one way to prove who it is, and of two it takes none, for nobody.
        let their_tls = if my_tls.is_empty() { Vec::new() } else { sites::tls_of(caddyfile) };
        if let Some(host) = sites::in_two_ways(&my_tls, &their_tls) {
            return Err(Error::OtherTls { host, by: other.into() });
        }
        if its_master == master {
            continue;
        }
        for Key { host, .. } in theirs.addresses.iter().map(|(_, key)| key).filter(|key| !key.host.is_empty()) {
            let warning =
                format!("{host} leads to {master} for {name} and to {its_master} for {other}: requests for it reach one of them only");
            if mine.addresses.iter().any(|(_, mine)| mine.host == *host) && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    Ok(warnings)
}

/// Why a new version of a record's application would or may be refused, if its routes stay as they are: it is served all the same until then.
pub fn outdated(record: &Record, set: &settings::Routes) -> Option<String> {
    let unfit = |text: &str| Some(format!("the address {text}: {}", SiteAddress::parse(text).ok()?.unfit()?));
    let of_haproxy = haproxy::outdated(&record.haproxy).map(|why| format!("HAPROXY: {why}"));
    let unread = set.admin.is_some() && !record.caddyfile.is_empty() && record.sites.is_none();
    let unread = || unread.then(|| "CADDYFILE: an older handler has deployed it, and no Caddy has said yet what it means".into());
    let two_ways = || {
        let tls = sites::tls_of(&record.caddyfile);
        sites::in_two_ways(&tls, &tls).filter(|_| set.caddy == settings::Version::Two).map(|host| Error::TwoTls { host }.to_string())
    };
    of_haproxy.or_else(|| site_addresses(&record.caddyfile).find_map(unfit)).or_else(two_ways).or_else(unread)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::routes::read::read;
    use crate::routes::read::tests::{services, set};
    use crate::settings::Version;

    #[test]
    fn compared_with_others() {
        let ssh =
            r#"{"ssh": {"frontend": {"mode": "tcp", "bind": ["*:2222"]}, "backends": [{"name": "ssh", "port": 22, "peer_port": 2222}]}}"#;
        let mine = read(
            &services(&[
                ("web", "CADDYFILE", "http://a.example.com, http://a.example.com/x, https://b.example.com:8443 {\n respond hello\n}"),
                ("ssh", "HAPROXY", ssh),
            ]),
            &set(Version::Two),
        )
        .unwrap();
        let compare = |caddyfile: &str, haproxy: Value| {
            let haproxy = haproxy.as_object().unwrap().clone();
            let others = [("mine", "n1", mine.caddyfile.as_str(), &mine.haproxy), ("other", "n2", caddyfile, &haproxy)];
            conflicts("mine", "n1", &mine, others).map_err(|error| error.to_string())
        };
        let taken = |what: &str| Err(format!("{what} is used by the application other already"));
        assert_eq!(compare("", json!({})), Ok(vec![]));
        assert_eq!(compare("http://c, A.example.com:80/ {\n}", json!({})), taken("the address A.example.com:80/"));
        assert_eq!(compare("http://a.example.com/x/* {\n}", json!({})), taken("the address http://a.example.com/x/*"));
        assert_eq!(
            compare("http://a.example.com:8080, http://c {\n}", json!({})),
            Ok(vec!["a.example.com leads to n1 for mine and to n2 for other: requests for it reach one of them only".into()])
        );
        assert_eq!(compare("https://a.example.com {\n}", json!({})), taken("the address https://a.example.com"));
        assert_eq!(compare("http://a.example.com./login* {\n}", json!({})), taken("the address http://a.example.com./login*"));
        let other_tls = "b.example.com: the application other has it with other `tls` lines";
        let refused = compare("https://B.example.com:8444/x {\n    tls internal\n}", json!({})).unwrap_err();
        assert!(refused.starts_with(other_tls), "{refused}");
        assert_eq!(compare("http://b.example.com:8444 {\n    tls internal\n}", json!({})).map(|warnings| warnings.len()), Ok(1));
        assert_eq!(compare("https://b.example.com:8444 {\n    respond x\n}", json!({})).map(|warnings| warnings.len()), Ok(1));
        let shared = json!({"https-in": {"backends": [{"name": "x", "use_backend_option": "if { req_ssl_sni -i A.example.com }"}]}});
        assert_eq!(compare("", shared), taken("the address a.example.com"));
        assert_eq!(compare("http://c:8443 {\n}", json!({})), taken("port 8443, here with and there without TLS or the other way round,"));
        assert_eq!(compare("", json!({"ssh": {}})), taken("the HAPROXY name ssh"));
        assert_eq!(compare("", json!({"http-in": {"backends": [{"name": "ssh"}]}})), taken("the HAPROXY backend ssh"));
        assert_eq!(compare("", json!({"x": {"frontend": {"bind": ["10.0.0.1:2000-3000"]}}})), taken("the HAPROXY bind *:2222"));
        assert_eq!(compare("", json!({"x": {"frontend": {"bind": ["*:2223"]}}})), Ok(vec![]));
        assert_eq!(compare("http://c:2222 {\n}", json!({})), taken("the HAPROXY bind *:2222, there as the port of http://c:2222,"));
        assert_eq!(
            compare("", json!({"x": {"frontend": {"bind": ["*:8443"]}}})),
            taken("the port 8443 of an address, there as the HAPROXY bind *:8443,")
        );
    }
    #[test]
    fn what_no_caddy_has_read_is_named() {
        let record = |sites: Value| -> Record {
            serde_json::from_value(json!({
                "repo_url": "/srv/shop", "branch": "b", "deploy_id": "d", "previous_deploy_id": null, "master": "n", "slave": null,
                "caddyfile": "http://a {\n}", "sites": sites,
            }))
            .unwrap()
        };
        let read = settings::Routes { admin: Some("/run/caddy.sock".into()), ..set(Version::Two) };
        assert!(outdated(&record(Value::Null), &read).is_some_and(|why| why.contains("no Caddy has said yet")));
        assert_eq!(outdated(&record(json!({"of": "", "sites": []})), &read), None);
        assert_eq!(outdated(&record(Value::Null), &set(Version::Two)), None);
        let two = Record {
            caddyfile: "https://a.x {\n    tls internal\n}\nhttps://a.x:2201 {\n}".into(),
            ..record(json!({"of": "", "sites": []}))
        };
        assert!(outdated(&two, &read).is_some_and(|why| why.starts_with("CADDYFILE: a.x has sites with different `tls` lines")));
    }
}
