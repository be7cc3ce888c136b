//! Caddy on this node, over its admin socket: how it reads a Caddyfile.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::doors::{Request, Service, Unanswered, World};

/// The standard directives of Caddy 2, except those that reach beyond the site: `import` reads files, `invoke` needs what other sites define.
pub const DIRECTIVES: [&str; 42] = [
    "abort",
    "acme_server",
    "basic_auth",
    "basicauth",
    "bind",
    "copy_response",
    "copy_response_headers",
    "encode",
    "error",
    "file_server",
    "forward_auth",
    "fs",
    "handle",
    "handle_errors",
    "handle_path",
    "handle_response",
    "header",
    "intercept",
    "log",
    "log_append",
    "log_name",
    "log_skip",
    "map",
    "method",
    "metrics",
    "php_fastcgi",
    "push",
    "redir",
    "request_body",
    "request_header",
    "respond",
    "reverse_proxy",
    "rewrite",
    "root",
    "route",
    "skip_log",
    "templates",
    "tls",
    "tracing",
    "try_files",
    "uri",
    "vars",
];

/// It answers within milliseconds.
const QUICK: Duration = Duration::from_secs(30);
/// Until it serves another configuration.
const LONG: Duration = Duration::from_secs(120);
/// Until it is asked again where it may be starting.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub enum Error {
    Unanswered(Unanswered),
    /// It cannot read the text: where, and what.
    Refused {
        says: String,
        /// Its number in the text as it is written out, and its first word: the rest may be a password.
        line: Option<(usize, String)>,
    },
    /// It does not take a configuration.
    NotLoaded {
        says: String,
    },
    Unexpected {
        status: u16,
        body: String,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Unanswered(why) => {
                write!(
                    f,
                    "Caddy on this node does not answer: {why}; without it nobody can say what a CADDYFILE means (HANDLER_CADDY_ADMIN)"
                )
            }
            Error::Refused { says, line: Some((number, word)) } => {
                write!(f, "CADDYFILE: Caddy does not understand “{word} …”, line {number} of the sites as they are written out: {says}")
            }
            Error::Refused { says, line: None } => write!(f, "CADDYFILE: Caddy does not understand it: {says}"),
            Error::NotLoaded { says } => write!(f, "Caddy on this node does not take its configuration: {says}"),
            Error::Unexpected { status, body } => write!(f, "Caddy on this node: unexpected answer: status {status}: {body}"),
        }
    }
}

pub struct Caddy {
    world: World,
    /// With one that is starting.
    patience: Duration,
}

impl Caddy {
    pub fn new(world: &World, patience: Duration) -> Caddy {
        Caddy { world: world.clone(), patience }
    }

    /// Has it serve this configuration from now on, in one step, or go on as it was.
    pub fn load(&self, config: &str) -> Result<(), Error> {
        let request = Request { method: "POST", path: "/load", body: config.as_bytes(), timeout: LONG };
        let answer = self.world.net.send(Service::Caddy, request).map_err(Error::Unanswered)?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match said["error"].as_str() {
            None if answer.status == 200 => Ok(()),
            Some(says) => Err(Error::NotLoaded { says: says.into() }),
            None => Err(Error::Unexpected { status: answer.status, body: String::from_utf8_lossy(&answer.body).into_owned() }),
        }
    }

    /// What the text means, as Caddy's own configuration in JSON. Nothing is loaded.
    pub fn adapt(&self, text: &str) -> Result<Value, Error> {
        let begun = self.world.clock.uptime();
        loop {
            let request = Request { method: "POST", path: "/adapt", body: text.as_bytes(), timeout: QUICK };
            match self.world.net.send(Service::Caddy, request) {
                Ok(answer) => return adapted(answer.status, &answer.body, text),
                Err(_) if self.world.clock.uptime().saturating_sub(begun) < self.patience => self.world.clock.sleep(AGAIN),
                Err(why) => return Err(Error::Unanswered(why)),
            }
        }
    }
}

/// What Caddy says of a text, without what it quotes or repeats of it: that may be a password, of whatever letters.
pub fn without_words(says: &str, text: &str) -> String {
    let between = |c: char| !c.is_alphanumeric() && c != '_';
    let words = text.split_whitespace().map(|word| word.trim_matches(['"', '`', '\'']));
    let mut words: Vec<&str> = words.chain(text.split(between)).filter(|word| word.len() > 3 && !DIRECTIVES.contains(word)).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    let mut says = says.to_string();
    for word in words {
        says = says.replace(word, "…");
    }
    let (mut out, mut rest) = (String::new(), &*says);
    while let Some((at, quote)) = rest.char_indices().find(|(at, c)| "'\"`".contains(*c) && !rest[..*at].ends_with(char::is_alphanumeric)) {
        // Names of its own are no secrets.
        let own = ["module ", "module name ", "tokens for "].iter().any(|before| rest[..at].ends_with(before));
        let quoted = &rest[at + 1..];
        let end = if own { quoted.find(quote) } else { quoted.rfind(quote) }.unwrap_or(quoted.len());
        out.push_str(&rest[..=at]);
        out.push_str(if own { &quoted[..end] } else { "…" });
        out.push(quote);
        rest = quoted.get(end + 1..).unwrap_or_default();
    }
    out + rest
}

fn adapted(status: u16, body: &[u8], text: &str) -> Result<Value, Error> {
    let mut said: Value = serde_json::from_slice(body).unwrap_or_default();
    match said["error"].as_str() {
        None if status == 200 && said["result"].is_object() => Ok(said["result"].take()),
        Some(error) => {
            // `…: Caddyfile:3: unrecognized directive: foo`, `…: wrong argument count, at Caddyfile:3`
            let says = error.trim_start_matches("adapting config using caddyfile adapter: ");
            let number =
                says.split_once("Caddyfile:").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
            let line = number.and_then(|number| {
                let number = number.parse::<usize>().ok()?;
                let word = text.lines().nth(number.checked_sub(1)?)?.split_whitespace().next()?;
                Some((number, if DIRECTIVES.contains(&word) { word.into() } else { "…".into() }))
            });
            let says = match says.strip_prefix("Caddyfile:").and_then(|rest| rest.split_once(": ")) {
                Some((_, says)) => says,
                None => says.split(", at Caddyfile:").next().unwrap_or_default(),
            };
            Err(Error::Refused { says: without_words(says, text), line })
        }
        None => Err(Error::Unexpected { status, body: String::from_utf8_lossy(body).into_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let text = "http://a {\n    respond x\n    foo {\n    bob $2a$14$secret\n}\n";
        let said = |status, body: &str| adapted(status, body.as_bytes(), text).map_err(|error| error.to_string());
        assert_eq!(said(200, r#"{"warnings":[],"result":{"apps":{}}}"#).unwrap(), serde_json::json!({"apps": {}}));
        for (body, message) in [
            (
                r#"{"error":"adapting config using caddyfile adapter: Caddyfile:3: unrecognized directive: foo"}"#,
                "CADDYFILE: Caddy does not understand “… …”, line 3 of the sites as they are written out: unrecognized directive: foo",
            ),
            (
                r#"{"error":"adapting config using caddyfile adapter: parsing caddyfile tokens for 'respond': wrong argument count, at Caddyfile:2"}"#,
                "CADDYFILE: Caddy does not understand “respond …”, line 2 of the sites as they are written out: parsing caddyfile tokens for \
                 'respond': wrong argument count",
            ),
            (
                r#"{"error":"wrong argument count or unexpected line ending after 'secret', $2a$14$secret in module 'http_basic', at Caddyfile:4"}"#,
                "CADDYFILE: Caddy does not understand “… …”, line 4 of the sites as they are written out: wrong argument count or unexpected \
                 line ending after '…'",
            ),
            (r#"{"error":"nothing"}"#, "CADDYFILE: Caddy does not understand it: nothing"),
            (r#"{"error":"at Caddyfile:99"}"#, "CADDYFILE: Caddy does not understand it: at Caddyfile:99"),
            ("<html>", "Caddy on this node: unexpected answer: status 400: <html>"),
        ] {
            assert_eq!(said(400, body).unwrap_err(), message);
        }
    }
}
