//! What a frontend of haproxy listens on. Pure.

use std::fmt;
use std::ops::RangeInclusive;

/// One address with its ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Bind {
    /// "" for every address.
    pub host: String,
    pub ports: RangeInclusive<u16>,
}

impl Bind {
    /// `text` is what follows haproxy's `bind`: addresses that commas separate, each with a port or a range, then options.
    pub fn parse(text: &str) -> Option<Vec<Bind>> {
        let addresses = text.split_whitespace().next()?;
        let bind = |address: &str| {
            let (host, ports) = address.rsplit_once(':')?;
            let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
            let (low, high) = (low.parse().ok()?, high.parse().ok()?);
            let host = match host {
                "*" | "0.0.0.0" | "::" | "[::]" | "ipv4@" | "ipv6@" | "ipv4@*" | "ipv6@*" => "",
                host if host.contains('@') => return None,
                host => host,
            };
            (0 < low && low <= high).then(|| Bind { host: host.to_ascii_lowercase(), ports: low..=high })
        };
        addresses.split(',').map(bind).collect()
    }

    pub fn overlaps(&self, other: &Bind) -> bool {
        let everywhere = self.host.is_empty() || other.host.is_empty();
        (everywhere || self.host == other.host) && self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end()
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let host = if self.host.is_empty() { "*" } else { &self.host };
        match (self.ports.start(), self.ports.end()) {
            (low, high) if low == high => write!(f, "{host}:{low}"),
            (low, high) => write!(f, "{host}:{low}-{high}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds() {
        let bind = |text| Bind::parse(text).unwrap().remove(0);
        assert!(bind("*:1").overlaps(&bind("127.0.0.1:1")));
        assert!(bind(":5-9 ssl").overlaps(&bind("a:9")));
        assert!(!bind("a:1").overlaps(&bind("b:1")));
        assert!(!bind("*:1").overlaps(&bind("*:2")));
        assert_eq!(Bind::parse("a:1,[::]:2").unwrap().len(), 2);
        for bad in ["", "a", "a:", "a:x", "a:0", "a:2-1", "unix@/x:1", "a:1,b"] {
            assert_eq!(Bind::parse(bad), None, "{bad}");
        }
    }
}
