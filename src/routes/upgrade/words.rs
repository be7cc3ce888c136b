//! What the upgrade of every directive is made of: paths, placeholders, matchers.

use crate::routes::caddyfile::{Directive, Position, Word};
use crate::routes::directives::{Error, Problem, refused};

/// What stands before the rest of a site: matchers, and what Caddy 2 needs outside a `route`.
#[derive(Default)]
pub struct First {
    pub lines: Vec<Directive>,
    matchers: usize,
}

impl First {
    /// Adds a matcher of these lines; its name.
    pub fn matcher(&mut self, lines: Vec<Directive>, at: Position) -> String {
        self.matchers += 1;
        let name = format!("@m{}", self.matchers);
        self.lines.push(Directive::new(&[&name], at).with(lines));
        name
    }

    /// The number of the next matcher, as in its name.
    pub fn number(&self) -> usize {
        self.matchers + 1
    }
}

/// A line within a directive's block.
pub fn unknown<T>(line: &Directive, directive: &'static str) -> Result<T, Error> {
    refused(line.at(), Problem::NotUpgradableIn { name: line.name().into(), directive })
}

pub fn needs<T>(at: Position, form: &'static str) -> Result<T, Error> {
    refused(at, Problem::Expected { form })
}

/// Caddy 1's path, which matches what begins with it, as a matcher; `None` for all paths.
pub fn prefix(path: &str, at: Position) -> Result<Option<String>, Error> {
    match path {
        "/" => Ok(None),
        _ if !path.starts_with('/') || path.contains(['{', '}', '"']) => refused(at, Problem::NoPath { text: path.into() }),
        _ if path.ends_with('*') => Ok(Some(path.into())),
        _ => Ok(Some(format!("{path}*"))),
    }
}

pub fn converted(lines: &[Directive]) -> Result<Vec<Directive>, Error> {
    let line = |line: &Directive| {
        let words = line.words.iter().map(|word| placeholders(word, 0));
        let words = words.collect::<Result<_, _>>()?;
        Ok(Directive { words, block: None })
    };
    lines.iter().map(line).collect()
}

pub fn renamed(name: &str, line: &Directive) -> Result<Directive, Error> {
    let mut line = converted(std::slice::from_ref(line))?.remove(0);
    line.words[0].text = name.into();
    Ok(line)
}

/// The word with Caddy 1's placeholders as Caddy 2's. `{1}` is a part of what the pattern of matcher `group` matched; 0 for none.
pub fn placeholders(word: &Word, group: usize) -> Result<Word, Error> {
    let mut out = String::with_capacity(word.text.len());
    let mut rest = word.text.as_str();
    while let Some(open) = rest.find('{') {
        let Some(close) = rest[open..].find('}') else {
            break;
        };
        let name = &rest[open + 1..open + close];
        out.push_str(&rest[..open]);
        let (kind, of) = name.split_at(name.chars().next().map_or(0, char::len_utf8));
        match (name, kind) {
            ("path" | "query" | "method" | "scheme" | "uri", _) => out.push_str(&format!("{{{name}}}")),
            ("host", _) => out.push_str("{hostport}"),
            ("hostonly", _) => out.push_str("{host}"),
            ("remote", _) => out.push_str("{remote_host}"),
            ("port", _) => out.push_str("{remote_port}"),
            ("server_port", _) => out.push_str("{port}"),
            ("dir" | "file", _) => out.push_str(&format!("{{{name}}}")),
            ("proto", _) => out.push_str("{http.request.proto}"),
            ("user", _) => out.push_str("{http.auth.user.id}"),
            ("rewrite_path", _) => out.push_str("{path}"),
            ("rewrite_uri", _) => out.push_str("{uri}"),
            ("hostname", _) => out.push_str("{system.hostname}"),
            ("request_id", _) => out.push_str("{http.request.uuid}"),
            (_, ">") if !of.is_empty() => out.push_str(&format!("{{header.{of}}}")),
            (_, "~") if !of.is_empty() => out.push_str(&format!("{{cookie.{of}}}")),
            (_, "?") if !of.is_empty() => out.push_str(&format!("{{query.{of}}}")),
            _ if group > 0 && name.parse::<u8>().is_ok() => {
                out.push_str(&format!("{{re.m{group}.{name}}}"));
            }
            // already Caddy 2's
            _ if name.contains('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) => {
                out.push_str(&format!("{{{name}}}"));
            }
            _ => return refused(word.at, Problem::NoPlaceholder { name: name.into() }),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    Ok(Word { text: out, ..word.clone() })
}
