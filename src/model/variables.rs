//! What an operator keeps for an application outside of its repository, as environment variables: passwords, settings.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde::de::Error as _;

use super::json;
use super::names::VariableName;

/// Bytes of one value. Linux takes no longer string into an environment than 128 KiB.
pub const MOST: usize = 64 << 10;
/// Of all of them, with their names. Consul takes values up to 512 KiB, and JSON may write a byte as several.
const MOST_OF_ALL: usize = 128 << 10;

/// Bytes. What is shorter stands in any text, and is none.
const SECRET: usize = 6;

type Unchecked = BTreeMap<String, String>;

#[derive(Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Variables(BTreeMap<VariableName, String>);

/// Whatever prints them prints no secret.
impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Names the variable, never its value.
#[derive(Debug, PartialEq)]
pub enum Error {
    Value { name: VariableName },
    TooMany,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Value { name } => write!(f, "{name}: a value has at most {} KiB and no NUL byte", MOST >> 10),
            Error::TooMany => write!(f, "all variables of an application have at most {} KiB", MOST_OF_ALL >> 10),
        }
    }
}

impl Variables {
    /// As they stand in Consul and in a checkout.
    pub fn read(text: &[u8]) -> Result<Variables, serde_json::Error> {
        // What serde says of one that is no text shows it.
        let read = json::read::<Unchecked>(text).map_err(|_| serde_json::Error::custom("not a mapping of names to texts"))?;
        let mut variables = Variables::default();
        for (name, value) in read {
            variables.set(VariableName::try_from(name).map_err(serde_json::Error::custom)?, value).map_err(serde_json::Error::custom)?;
        }
        Ok(variables)
    }

    /// What of them is hidden where it is printed, the longest first: one may begin as another.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets: Vec<String> =
            self.0.values().flat_map(|value| value.lines()).filter(|line| line.len() >= SECRET).map(str::to_string).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets
    }

    /// The text without them.
    pub fn hidden(&self, text: &str) -> String {
        hidden(&self.secrets(), text)
    }

    pub fn names(&self) -> impl Iterator<Item = &VariableName> {
        self.0.keys()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&VariableName, &String)> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn set(&mut self, name: VariableName, value: String) -> Result<(), Error> {
        if value.len() > MOST || value.contains('\0') {
            return Err(Error::Value { name });
        }
        self.0.insert(name, value);
        match self.0.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() {
            ..=MOST_OF_ALL => Ok(()),
            _ => Err(Error::TooMany),
        }
    }

    /// Whether there was one.
    pub fn unset(&mut self, name: &VariableName) -> bool {
        self.0.remove(name).is_some()
    }
}

pub fn hidden(secrets: &[String], text: &str) -> String {
    secrets.iter().fold(text.to_string(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> VariableName {
        VariableName::try_from(name).unwrap()
    }

    #[test]
    fn of_one_that_begins_as_another_nothing_is_shown() {
        let mut variables = Variables::default();
        for (one, value) in [("A", "geheim"), ("B", "geheim-4711\nsecond line"), ("C", "1")] {
            variables.set(name(one), value.into()).unwrap();
        }
        assert_eq!(variables.hidden("geheim-4711, geheim, second line, 1"), "***, ***, ***, 1");
    }

    #[test]
    fn names_are_those_of_a_shell_and_none_of_the_nodes_own() {
        for fine in ["A", "_x9", "DB_PASSWORD", "TZ", "HTTP_PROXY", "PATHS", "COMPOSED"] {
            assert_eq!(&*name(fine), fine);
        }
        for bad in ["", "9A", "A=b", "A B", "ä", "PATH", "LD_PRELOAD", "COMPOSE_FILE", "CONSUL_HTTP_TOKEN", "CONTAINER", &"A".repeat(129)]
        {
            assert!(VariableName::try_from(bad).is_err(), "{bad}");
        }
        assert!(!VariableName::try_from("PASSWORD=geheim").unwrap_err().to_string().contains("geheim"));
    }

    #[test]
    fn values_are_bounded_and_shown_by_nothing() {
        let mut variables = Variables::default();
        variables.set(name("A"), "geheim".into()).unwrap();
        assert_eq!(format!("{variables:?}"), r#"[VariableName("A")]"#);
        assert_eq!(variables.set(name("B"), "x\0".into()), Err(Error::Value { name: name("B") }));
        assert_eq!(variables.set(name("B"), "x".repeat(MOST + 1)), Err(Error::Value { name: name("B") }));
        variables.set(name("B"), "x".repeat(MOST)).unwrap();
        assert_eq!(variables.set(name("C"), "x".repeat(MOST)), Err(Error::TooMany));
        for bad in [r#"{"A": 4711}"#, r#"{"A": "4711\u0000"}"#, r#"{"A=4711": "x"}"#, "4711"] {
            let why = Variables::read(bad.as_bytes()).unwrap_err().to_string();
            assert!(!why.contains("4711"), "{why}");
        }
        assert_eq!(Variables::read(br#"{"A": "geheim"}"#).unwrap().iter().next(), Some((&name("A"), &"geheim".to_string())));
    }
}
