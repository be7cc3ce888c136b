//! Beside a wildcard the hosts that are named stay what they were: to Caddy it would count for them, too, whosever it is. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::routes::address::{Key, Scheme, SiteAddress, site_addresses};

/// `config` is Caddy's, of this text; `certificates` are the operator's.
pub fn keep_apart(config: &mut Value, text: &str, certificates: &[Value]) {
    let keys: Vec<Key> = site_addresses(text).filter_map(|text| Some(SiteAddress::parse(text).ok()?.key())).collect();
    let is_secure = |key: &&Key| key.scheme == Scheme::Https;
    let named = keys.iter().filter(is_secure).filter(|key| !key.host.starts_with('*'));
    let covered = named.filter_map(|key| Some((key.host.clone(), format!("*.{}", key.host.split_once('.')?.1))));
    let covered: BTreeSet<_> = covered.filter(|(_, wildcard)| keys.iter().any(|key| key.host == *wildcard)).collect();
    let port = format!(":{}", config["apps"]["http"]["http_port"].as_u64().unwrap_or(80));
    // As the operator's head has it.
    let servers = config["apps"]["http"]["servers"].as_object();
    let is_off = |what: &str| servers.is_some_and(|servers| servers.values().any(|server| server["automatic_https"][what] == true));
    let leads = !is_off("disable") && !is_off("disable_redirects");
    let gets = !is_off("disable") && !is_off("disable_certificates");
    for (host, wildcard) in &covered {
        let ports = || keys.iter().filter(is_secure).filter(|key| key.host == *host).map(Key::own_port);
        let own = ports().min().flatten().map_or(String::new(), |port| format!(":{port}"));
        for (_, server) in config.pointer_mut("/apps/http/servers").and_then(Value::as_object_mut).into_iter().flatten() {
            if let Some(policies) = server.get_mut("tls_connection_policies").and_then(Value::as_array_mut) {
                let of = |name: &str| policies.iter().any(|policy| has(&policy["match"]["sni"], name));
                // It takes the first one that fits.
                if of(wildcard) && !of(host) {
                    policies.insert(0, json!({"match": {"sni": [host]}}));
                }
            }
            let listens =
                server["listen"].as_array().is_some_and(|all| all.iter().any(|at| at.as_str().is_some_and(|at| at.ends_with(&port))));
            if let Some(routes) = server.get_mut("routes").and_then(Value::as_array_mut).filter(|_| leads && listens)
                && let Some(at) = routes.iter().position(|route| has(&route["match"][0]["host"], wildcard))
            {
                // As Caddy has it behind them.
                let location = format!("https://{{http.request.host}}{own}{{http.request.uri}}");
                let handler = json!({"handler": "static_response", "status_code": 308, "headers": {"Location": [location]}, "close": true});
                routes.insert(at, json!({"match": [{"host": [host]}], "handle": [handler], "terminal": true}));
            }
        }
        let is_operators = certificates.iter().any(|file| [host, wildcard].iter().any(|name| has(&file["tags"], name)));
        let is_managed = keys.iter().filter(is_secure).any(|key| key.host == *wildcard);
        if gets && is_managed && !is_operators {
            match &mut config["apps"]["tls"]["certificates"]["automate"] {
                Value::Array(hosts) => hosts.push(json!(host)),
                none => *none = json!([host]),
            }
        }
    }
}

fn has(names: &Value, name: &str) -> bool {
    names.as_array().is_some_and(|names| names.iter().any(|it| it == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "https://shop.x {\n}\nhttps://b.x:8443 {\n}\nhttps://a.b.x {\n}\nhttp://c.x {\n}\nhttp://*.x, https://*.x {\n}\n";

    fn kept(mut config: Value, text: &str, certificates: Value) -> Value {
        keep_apart(&mut config, text, certificates.as_array().unwrap());
        config
    }

    #[test]
    fn a_wildcard_takes_nothing_of_a_named_host() {
        let site = |host: &str| json!({"match": [{"host": [host]}], "handle": [], "terminal": true});
        let servers = json!({
            "srv0": {"listen": [":443"], "routes": [site("shop.x"), site("*.x")], "tls_connection_policies": [{"match": {"sni": ["b.x"]}, "alpn": ["x"]}, {"match": {"sni": ["*.x"]}, "protocol_min": "tls1.3"}, {}]},
            "srv1": {"listen": [":80"], "routes": [site("c.x"), site("*.x")]},
            "srv2": {"listen": [":8080"], "routes": [site("*.x")]},
        });
        let config = json!({"apps": {"http": {"servers": servers}, "tls": {}}});
        let found = kept(config.clone(), TEXT, json!([]));
        let at = |pointer: &str| found.pointer(pointer).unwrap_or(&Value::Null);
        let policies = at("/apps/http/servers/srv0/tls_connection_policies").as_array().unwrap();
        assert_eq!((policies.len(), &policies[0]), (4, &json!({"match": {"sni": ["shop.x"]}})));
        let routes = at("/apps/http/servers/srv1/routes").as_array().unwrap();
        assert_eq!((routes.len(), &routes[0], &routes[3]), (4, &site("c.x"), &site("*.x")));
        let led = |n: usize| (&routes[n]["match"][0]["host"][0], &routes[n]["handle"][0]["headers"]["Location"][0]);
        let to = |port: &str| json!(format!("https://{{http.request.host}}{port}{{http.request.uri}}"));
        assert_eq!((led(1), led(2)), ((&json!("b.x"), &to(":8443")), (&json!("shop.x"), &to(""))));
        assert_eq!(at("/apps/http/servers/srv0/routes"), &config["apps"]["http"]["servers"]["srv0"]["routes"]);
        assert_eq!(at("/apps/http/servers/srv2"), &config["apps"]["http"]["servers"]["srv2"]);
        assert_eq!(at("/apps/tls/certificates/automate"), &json!(["b.x", "shop.x"]));
        // The operator's are used, and Caddy gets none.
        for (name, automate) in [("shop.x", json!(["b.x"])), ("*.x", Value::Null)] {
            assert_eq!(kept(config.clone(), TEXT, json!([{"tags": [name]}]))["apps"]["tls"]["certificates"]["automate"], automate);
        }
        assert_eq!(kept(config.clone(), "https://shop.x {\n}\nhttps://*.y {\n}\n", json!([])), config);
    }

    #[test]
    fn what_the_operator_has_switched_off_stays_so() {
        let servers =
            json!({"srv0": {"listen": [":80"], "automatic_https": {"disable": true}, "routes": [{"match": [{"host": ["*.x"]}]}]}});
        let config = json!({"apps": {"http": {"servers": servers}}});
        assert_eq!(kept(config.clone(), TEXT, json!([])), config);
    }
}
