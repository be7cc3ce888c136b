//! The directives of Caddy 1 and Caddy 2: whose a line is, and why one is refused. Pure.
//!
//! A Caddyfile counts as Caddy 1 when it uses a word that only Caddy 1 has, since some words (`redir`, `header`, `rewrite` …) are in
//! both and mean different things.

use std::fmt;

use super::caddyfile::{At, Directive, Position, Word};
pub use crate::outside::caddy::DIRECTIVES as TWO;

/// Only Caddy 1 has these.
pub const ONE: [&str; 22] = [
    "browse",
    "errors",
    "expvar",
    "ext",
    "fastcgi",
    "gzip",
    "index",
    "internal",
    "limits",
    "markdown",
    "mime",
    "on",
    "pprof",
    "proxy",
    "realip",
    "request_id",
    "shutdown",
    "startup",
    "status",
    "timeouts",
    "websocket",
    "cgi",
];

/// Directives whose block holds directives.
pub const NESTING: [&str; 5] = ["handle", "handle_errors", "handle_path", "handle_response", "route"];

/// Why a site is refused, though it can be read.
pub type Error = At<Problem>;

#[derive(Debug, PartialEq)]
pub enum Problem {
    /// The word has a variable of the proxy's own environment.
    Environment {
        word: String,
    },
    Import,
    /// No directive of Caddy 2.
    Unknown {
        name: String,
    },
    /// Nor can it be upgraded.
    UnknownToBoth {
        name: String,
    },
    /// Of Caddy 1, in its place.
    NotUpgradable {
        name: String,
    },
    NotUpgradableIn {
        name: String,
        directive: &'static str,
    },
    Expected {
        form: &'static str,
    },
    NoPath {
        text: String,
    },
    NoPlaceholder {
        name: String,
    },
    /// Of an upstream.
    Upstream {
        text: String,
        expected: &'static str,
    },
    UpstreamsDiffer,
    /// Neither a container of the application nor what the operator lists.
    Outside {
        text: String,
        own: Vec<String>,
    },
    OwnDisk {
        name: String,
    },
    Certificate,
    /// Caddy and this handler do not take a text for the same address.
    Address {
        understood: String,
    },
    /// Of the proxy itself, or of other sites.
    Proxys {
        name: String,
    },
    NotKnownIn {
        name: String,
        directive: &'static str,
    },
    PasswordFile,
    /// None of a kind that is known to cost no more than is usual.
    Hash,
    /// Of the proxy, for each request.
    Memory {
        name: String,
        mib: &'static str,
    },
    TlsOff,
    /// Sites are to be written for Caddy 1.
    BlockInBlock,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Problem::Environment { word } => write!(f, "{word:?}: the proxy's own environment cannot be used"),
            Problem::Import => write!(f, "`import` is refused: an application's routes stand in its own CADDYFILE"),
            Problem::Unknown { name } => write!(f, "{name:?} is no directive of Caddy 2"),
            Problem::UnknownToBoth { name } => write!(f, "{name:?} is no directive of Caddy 2 and cannot be upgraded"),
            Problem::NotUpgradable { name } => {
                write!(f, "{name:?} of Caddy 1 cannot be upgraded as it stands; write it in the words of Caddy 2")
            }
            Problem::NotUpgradableIn { name, directive } => write!(f, "{name:?} in {directive} of Caddy 1 cannot be upgraded to Caddy 2"),
            Problem::Expected { form } => write!(f, "expected {form}"),
            Problem::NoPath { text } => write!(f, "expected a path, found {text:?}"),
            Problem::NoPlaceholder { name } => write!(f, "the placeholder {{{name}}} cannot be upgraded to Caddy 2"),
            Problem::Upstream { text, expected } => write!(f, "{text:?}: expected {expected}"),
            Problem::UpstreamsDiffer => write!(f, "all upstreams of one proxy need the same scheme and path in Caddy 2"),
            Problem::Outside { text, own } => write!(
                f,
                "{text:?} is no container of the application: write $CONTAINER:port, or one of {}; what is outside the operator lists in \
                 HANDLER_UPSTREAMS",
                own.join(", ")
            ),
            Problem::OwnDisk { name } => {
                write!(
                    f,
                    "{name}: the proxy's disk has nothing of the application; put a web server into it, and lead to that by reverse_proxy"
                )
            }
            Problem::Certificate => {
                write!(
                    f,
                    "tls: `internal`, or an address for the certificate authority; a certificate that you have is for the operator to place"
                )
            }
            Problem::Address { understood } => {
                write!(f, "its addresses are not what they seem: Caddy and the handler do not agree on {understood}; write them plainly")
            }
            Problem::Proxys { name } => write!(f, "{name}: is the proxy's own, which serves other applications, too"),
            Problem::NotKnownIn { name, directive } => write!(f, "{name:?} cannot be used in {directive} here"),
            Problem::PasswordFile => write!(f, "a password file cannot be read from the application; write the password"),
            Problem::Hash => write!(
                f,
                "basic_auth needs a password's hash as `caddy hash-password` makes it: bcrypt with a cost of at most 14, or argon2id with at most 128 MiB \
                 (m=131072) and t=4"
            ),
            Problem::Memory { name, mib } => {
                write!(f, "{name}: takes the proxy's memory for each request, and other applications need it, too: at most {mib}MiB")
            }
            Problem::TlsOff => write!(f, "`tls off`: write the site's address with http://"),
            Problem::BlockInBlock => write!(f, "Caddy 1 has no blocks in blocks; Caddy 2 has (CADDY_VERSION=2)"),
        }
    }
}

pub fn refused<T>(at: Position, problem: Problem) -> Result<T, Error> {
    Err(At { at, problem })
}

/// Whether only Caddy 1 reads this.
pub fn is_one(line: &Directive) -> bool {
    let arguments: Vec<&str> = line.arguments().collect();
    match (line.name(), arguments.as_slice()) {
        (name, _) if ONE.contains(&name) => true,
        ("log", [path, ..]) => path.starts_with('/'),
        ("tls", [mode]) => matches!(*mode, "off" | "self_signed"),
        ("basicauth", [.., algorithm, _]) => !matches!(*algorithm, "bcrypt" | "scrypt") && !has_matcher(line),
        ("redir" | "rewrite", _) => line.block.is_some(),
        _ => false,
    }
}

/// Whether it is or begins with one of Caddy 2's matchers, so that it is no Caddy 1 line.
pub fn has_matcher(line: &Directive) -> bool {
    let first = line.arguments().next();
    first.is_some_and(|first| first == "*" || first.starts_with('@')) || line.name().starts_with('@')
}

pub fn refuse_environment(words: &[Word]) -> Result<(), Error> {
    match words.iter().find(|word| word.text.contains("{$")) {
        Some(word) => refused(word.at, Problem::Environment { word: word.text.clone() }),
        None => Ok(()),
    }
}

/// Known words only: an unknown one would make the whole file invalid.
pub fn check(lines: &[Directive]) -> Result<(), Error> {
    fn environment(lines: &[Directive]) -> Result<(), Error> {
        lines.iter().try_for_each(|line| {
            refuse_environment(&line.words)?;
            environment(line.lines())
        })
    }
    environment(lines)?;
    for line in lines {
        let name = line.name();
        if name == "import" {
            return refused(line.at(), Problem::Import);
        }
        if !name.starts_with('@') && !TWO.contains(&name) {
            return refused(line.at(), Problem::Unknown { name: name.into() });
        }
        if NESTING.contains(&name) {
            check(line.lines())?;
        }
    }
    Ok(())
}
