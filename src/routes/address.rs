//! The addresses of sites. Pure.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

/// As written: `http://shop.example.com:8080/path`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SiteAddress<'a> {
    pub scheme: Option<Scheme>,
    /// "" for all hosts.
    pub host: &'a str,
    pub port: Option<u16>,
    /// "" or with its `/`.
    pub path: &'a str,
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    Scheme,
    Port,
    Host,
    NoHost,
    Path,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Error::Scheme => "its scheme is neither http nor https",
            Error::Port => "its port is no number from 1 to 65535",
            Error::Host => {
                "its host has characters other than letters, digits, `.`, `-`, `_` and `*` (a name in another script is written as xn--…)"
            }
            Error::NoHost => "it has no host",
            Error::Path => "its path has characters that no path has",
        })
    }
}

impl<'a> SiteAddress<'a> {
    pub fn parse(text: &'a str) -> Result<SiteAddress<'a>, Error> {
        let (scheme, rest) = match text.split_once("://") {
            None => (None, text),
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(Error::Scheme),
        };
        let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (place, None),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(Error::Port),
        };
        let fine = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
            None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_*".contains(&b)),
        };
        if !fine {
            return Err(Error::Host);
        }
        if host.is_empty() && port.is_none() && scheme.is_none() {
            return Err(Error::NoHost);
        }
        if path.contains(|c: char| c.is_whitespace() || "{}\"'`,?#\\".contains(c)) {
            return Err(Error::Path);
        }
        Ok(SiteAddress { scheme, host, port, path })
    }

    /// How it is served: a port means its scheme, and without either Caddy serves HTTPS.
    pub fn served(&self) -> (Scheme, u16) {
        match (self.scheme, self.port) {
            (None | Some(Scheme::Http), Some(80)) | (Some(Scheme::Http), None) => (Scheme::Http, 80),
            (None | Some(Scheme::Https), None) => (Scheme::Https, 443),
            (scheme, Some(port)) => (scheme.unwrap_or(Scheme::Https), port),
        }
    }

    /// host[:port]
    pub fn domain(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.into(),
        }
    }

    /// As the proxies compare it.
    pub fn key(&self) -> Key {
        let (scheme, port) = self.served();
        // a path is a prefix, with or without saying so, and Caddy ignores its case; with a `*` right behind a word it is one of longer words, too
        let (path, star) = self.path.strip_suffix('*').map_or((self.path, ""), |path| (path, if path.ends_with('/') { "" } else { "*" }));
        let path = path.trim_end_matches('/').to_lowercase() + star;
        Key { scheme, host: self.host.trim_end_matches('.').to_ascii_lowercase(), port, path }
    }

    /// Why no application may have it, though it can be read.
    pub fn unfit(&self) -> Option<Unfit> {
        let ip = self.host.starts_with('[');
        match self.served() {
            _ if self.host.is_empty() || self.host == "*" => Some(Unfit::EveryHost),
            _ if self.host.ends_with('.') => Some(Unfit::Dot),
            _ if self.has_anothers_name() => Some(Unfit::Name),
            _ if ip => Some(Unfit::Ip),
            (Scheme::Https, _) if self.host.parse::<Ipv4Addr>().is_ok() => Some(Unfit::Ip),
            _ if self.host.strip_prefix("*.").unwrap_or(self.host).contains('*') => Some(Unfit::Wildcard),
            (Scheme::Http, 443) | (Scheme::Https, 80) => Some(Unfit::Scheme),
            _ if self.path.strip_suffix('*').unwrap_or(self.path).contains(['*', '[', '%']) => Some(Unfit::Pattern),
            _ => None,
        }
    }

    /// haproxy's backends have `_` for a wildcard, Caddy's storage has `wildcard_`, and leaves `..` out.
    fn has_anothers_name(&self) -> bool {
        let first = self.host.split('.').next().unwrap_or_default().to_ascii_lowercase();
        first == "_" || first.starts_with("wildcard_") || self.host.split('.').any(str::is_empty)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    EveryHost,
    Dot,
    Name,
    Ip,
    Wildcard,
    Scheme,
    Pattern,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Unfit::EveryHost => "it stands for every host, and other applications have theirs; name yours",
            Unfit::Dot => "write the host without the dot at its end",
            Unfit::Name => {
                "no part of a host can be empty, nor its first one be `_` or begin with `wildcard_`, as the proxies call wildcards"
            }
            Unfit::Ip => "the proxies know sites by their names, and no client says one for an IP address: use a name",
            Unfit::Wildcard => "`*` can only stand for the first part of a host, as in *.example.com",
            Unfit::Scheme => "port 80 is for http:// and port 443 for https://",
            Unfit::Pattern => {
                "`*` can only stand at the end of a path, and `[` and `%` nowhere (letters stand as they are); what is meant for less is for matchers \
                 within the site"
            }
        })
    }
}

/// Two addresses whose keys are equal are one for the proxies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    path: String,
}

impl Key {
    /// All of a host, on the port that need not be said.
    pub fn of_host(scheme: Scheme, host: String) -> Key {
        let port = if scheme == Scheme::Http { 80 } else { 443 };
        Key { scheme, host, port, path: String::new() }
    }

    /// Whether a request may be for both. Those to 80 and 443 are one: Caddy leads from the one to the other.
    pub fn meets(&self, other: &Key) -> bool {
        let within = |path: &str, of: &str| match of.strip_suffix('*') {
            Some(of) => path.starts_with(of),
            None => path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest == "*" || rest.starts_with('/')),
        };
        self.host == other.host
            && self.own_port() == other.own_port()
            && (within(&self.path, &other.path) || within(&other.path, &self.path))
    }

    /// The port, if haproxy binds it for such addresses alone.
    pub fn own_port(&self) -> Option<u16> {
        Some(self.port).filter(|port| !matches!(port, 80 | 443))
    }
}

/// The addresses of a written-out Caddyfile, by its lines: so the addresses are known even of a file that has more in it than sites, such
/// as the operator's own head. Only for what `caddyfile::dump` gave, or the older handler, which wrote the same form.
pub fn site_addresses(text: &str) -> impl Iterator<Item = &str> {
    // a quoted word may span lines and look like a site there
    let mut quote = None;
    let sites = text.split('\n').filter_map(move |line| {
        let inside = quote.is_some();
        if !inside && line.trim_start().starts_with('#') {
            return None;
        }
        let mut before = b' ';
        for byte in line.bytes() {
            quote = match quote {
                None => Some(byte).filter(|byte| b"\"`".contains(byte) && b" \t".contains(&before)),
                Some(open) if byte == open && (open == b'`' || before != b'\\') => None,
                still => still,
            };
            // Two backslashes stand for themselves.
            before = if (before, byte) == (b'\\', b'\\') { b'-' } else { byte };
        }
        let begins = !inside && !line.starts_with([' ', '\t', '}', '"']);
        begins.then(|| line.strip_suffix(" {")).flatten()
    });
    sites.flat_map(|addresses| addresses.split(',').map(|address| address.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |text| {
            let address = SiteAddress::parse(text)?;
            Ok::<_, Error>((address.served(), address.domain(), address.path))
        };
        let fine = |scheme, port, domain: &str, path| Ok(((scheme, port), domain.into(), path));
        use Scheme::*;
        assert_eq!(parsed("http://a.b"), fine(Http, 80, "a.b", ""));
        assert_eq!(parsed("a.b:80/x"), fine(Http, 80, "a.b:80", "/x"));
        assert_eq!(parsed("a.b"), fine(Https, 443, "a.b", ""));
        assert_eq!(parsed("https://*.b:8443/"), fine(Https, 8443, "*.b:8443", "/"));
        assert_eq!(parsed("http://[::1]:80"), fine(Http, 80, "[::1]:80", ""));
        assert_eq!(parsed("http://[::1]"), fine(Http, 80, "[::1]", ""));
        assert_eq!(parsed(":8080"), fine(Https, 8080, ":8080", ""));
        for bad in ["", "ftp://a", "a:b", "a:0", "a:99999", "{$X}", "a b", "a:1:2", "[a]", "a/{x}", "é.fr"] {
            assert!(SiteAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_application_may_have() {
        let unfit = |text| SiteAddress::parse(text).unwrap().unfit();
        for text in
            ["http://a.b", "*.a.b", "_dmarc.a.b", "http://a/x/*", "https://A.b:8443/x*", "a:80", "http://192.0.2.1", "http://a:8080"]
        {
            assert_eq!(unfit(text), None, "{text}");
        }
        for (text, why) in [
            ("http://", Unfit::EveryHost),
            (":8080", Unfit::EveryHost),
            ("http://*", Unfit::EveryHost),
            ("a.b.:8080", Unfit::Dot),
            ("a.*.b", Unfit::Wildcard),
            ("http://[::1]", Unfit::Ip),
            ("192.0.2.1", Unfit::Ip),
            ("*a.b", Unfit::Wildcard),
            ("*.*.b", Unfit::Wildcard),
            ("_.a.b", Unfit::Name),
            ("http://Wildcard_.a.b", Unfit::Name),
            ("a..b", Unfit::Name),
            (".a", Unfit::Name),
            ("http://a/*/x*", Unfit::Pattern),
            ("http://a/x**", Unfit::Pattern),
            ("http://a/[s]hop", Unfit::Pattern),
            ("http://a/caf%C3%A9", Unfit::Pattern),
            ("https://a:80", Unfit::Scheme),
            ("http://a:443", Unfit::Scheme),
        ] {
            assert_eq!(unfit(text), Some(why), "{text}");
        }
    }

    #[test]
    fn who_meets() {
        let meet = |one, two| SiteAddress::parse(one).unwrap().key().meets(&SiteAddress::parse(two).unwrap().key());
        for (one, two) in [
            ("http://a", "https://A."),
            ("http://a", "a:80/login*"),
            ("a/shop*", "a/shopping*"),
            ("a/shop*", "a/Shopping"),
            ("a/x", "a/x/y"),
            ("a/x", "a/X/Y*"),
            ("a:8443", "https://a:8443/x"),
        ] {
            assert!(meet(one, two) && meet(two, one), "{one} {two}");
        }
        for (one, two) in [("http://a", "http://b"), ("http://a/x", "http://a/xy"), ("a", "a:8443"), ("*.a", "b.a")] {
            assert!(!meet(one, two) && !meet(two, one), "{one} {two}");
        }
    }

    #[test]
    fn of_written_sites() {
        let text = "http://a, b {\n    x \"q\\\"\nno {\n\"\n    y {\n        z\n    }\n}\nc {\n}";
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["http://a", "b", "c"]);
        let text = "a {\n    x `\\\"` y`z \"`\n# {\nno {\n\"\n    # \"\n}\nb {\n}";
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(site_addresses("").count(), 0);
        let text = "a {\n}\nb {\n    x {\n    }\n}\nc {\n}\nd {\n}";
        assert_eq!(site_addresses(text).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }
}
