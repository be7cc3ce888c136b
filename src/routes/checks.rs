//! `CONSUL_CHECK_URLS`: what Consul is to ask besides the sites. Pure.

use std::fmt;

use crate::outside::yaml::{self, kind};

#[derive(Debug)]
pub enum Error {
    Yaml(yaml::Error),
    NoList { found: &'static str },
    NoUrl { at: usize, found: &'static str },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Yaml(source) => source.fmt(f),
            Error::NoList { found } => write!(f, "expected a list of URLs, found {found}"),
            Error::NoUrl { at, found } => write!(f, "[{at}]: expected a URL, found {found}"),
        }
    }
}

/// The entries that are URLs.
pub fn urls(text: &str) -> Result<Vec<String>, Error> {
    let list = match yaml::read(text).map_err(Error::Yaml)? {
        serde_yaml::Value::Null => Vec::new(),
        serde_yaml::Value::Sequence(list) => list,
        other => return Err(Error::NoList { found: kind(&other) }),
    };
    let mut urls = Vec::new();
    for (at, item) in list.iter().enumerate() {
        let text = item.as_str().ok_or_else(|| Error::NoUrl { at, found: kind(item) })?;
        if is_url(text) {
            urls.push(text.into());
        }
    }
    Ok(urls)
}

/// What Consul can ask.
pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '\t', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_is_left_out_and_what_is_no_text_is_refused() {
        assert_eq!(urls("[http://a, no, https://b/c]").unwrap(), ["http://a", "https://b/c"]);
        assert_eq!(urls("").unwrap().len(), 0);
        assert_eq!(urls("a").unwrap_err().to_string(), "expected a list of URLs, found text");
        assert_eq!(urls("[1]").unwrap_err().to_string(), "[0]: expected a URL, found a number");
    }
}
