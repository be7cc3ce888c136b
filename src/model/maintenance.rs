//! `maintenance/<name>`: while it is there the application is away, or about to be.

use serde::{Deserialize, Serialize};

use super::json;
use super::names::NodeName;
use super::order::Unknown;

/// An operator may write anything there: what cannot be read says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Maintenance {
    /// That ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// RFC 3339. The page is shown some time after it; without it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Where requests wait meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Maintenance {
    pub fn read(value: &[u8]) -> Maintenance {
        json::read(value).unwrap_or_default()
    }
}

/// An application moves. Requests that wait at a Caddy end with 502 when that is loaded anew, as the old master's is once the application has
/// left. So they wait at the new master's, to which everybody leads before anything is stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub from: NodeName,
    pub to: NodeName,
    /// What the new master's Caddy needs to serve them is in Consul.
    #[serde(default)]
    pub given: bool,
    /// The new master's Caddy has its sites.
    #[serde(default)]
    pub held: bool,
    /// The old master's haproxy leads there, and its Caddy has them no more.
    #[serde(default)]
    pub turned: bool,
}

impl Turn {
    pub fn new(from: NodeName, to: NodeName) -> Turn {
        Turn { from, to, given: false, held: false, turned: false }
    }

    /// Who is to be led to, as far as this node is concerned. `master` is that of the record.
    pub fn master(&self, me: &NodeName, master: &NodeName) -> Option<&NodeName> {
        // Not there before there is something.
        (self.from == *master && (self.held || self.given && self.to == *me)).then_some(&self.to)
    }

    /// What this node has to say of it, once its proxies are as they should be; whether that is something new.
    pub fn says(&mut self, me: &NodeName) -> bool {
        let next = match (self.given, self.held, self.turned) {
            (false, ..) if self.from == *me => &mut self.given,
            (true, false, _) if self.to == *me => &mut self.held,
            (true, true, false) if self.from == *me => &mut self.turned,
            _ => return false,
        };
        *next = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_it_is_given_then_held_then_all_turn() {
        let [one, two, three] = ["node1", "node2", "node3"].map(|name| NodeName::try_from(name).unwrap());
        let mut turn = Turn::new(one.clone(), two.clone());
        let all = [&one, &two, &three];
        assert_eq!(all.map(|me| turn.master(me, &one)), [None; 3]);
        assert_eq!([&two, &three, &one, &one].map(|me| turn.says(me)), [false, false, true, false]);
        assert_eq!(all.map(|me| turn.master(me, &one)), [None, Some(&two), None]);
        assert_eq!([&one, &three, &two, &two].map(|me| turn.says(me)), [false, false, true, false]);
        assert_eq!(all.map(|me| turn.master(me, &one)), [Some(&two); 3]);
        assert_eq!([&two, &three, &one, &one].map(|me| turn.says(me)), [false, false, true, false]);
        assert!(turn.given && turn.held && turn.turned);
        // of a record that has changed since
        assert_eq!(turn.master(&one, &three), None);
    }

    #[test]
    fn an_operators_own_is_read_as_nothing() {
        for text in ["", "by hand", "{}", "[]", "{\"order\": 1}"] {
            assert_eq!(Maintenance::read(text.as_bytes()), Maintenance::default(), "{text}");
        }
    }
}
