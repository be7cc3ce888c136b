//! Sites in the words of Caddy 1 (`CADDY_VERSION=1`), for those who come from the older handler. Pure.
//!
//! Who needs no Caddy 1 any more deletes this file and `Version::One` with what the compiler then names.

use super::caddyfile::{Directive, Position, Site};
use super::directives::{Error, Problem, refused};

/// The command that checks its file.
pub const CHECK: [&str; 4] = ["caddy", "-validate", "-conf", "{path}"];

/// Completes sites, as clusters that exist have them: what every site gets, and one form of `proxy`.
pub fn complete(sites: &mut [Site]) -> Result<(), Error> {
    for site in sites {
        let deep = site.body.iter().flat_map(Directive::lines);
        if let Some(line) = deep.into_iter().find(|line| line.block.is_some()) {
            return refused(line.at(), Problem::BlockInBlock);
        }
        let mut backquoted = None;
        site.each_word(&mut |word| backquoted = backquoted.or((word.quote == Some('`')).then_some(word.at)));
        if let Some(at) = backquoted {
            return refused(at, Problem::Expected { form: "double quotes: Caddy 1 has no others" });
        }
        let http = site.plain_http();
        let at = site.addresses.first().map_or_else(Position::default, |w| w.at);
        for proxy in site.body.iter_mut().filter(|line| line.name() == "proxy") {
            let lines: &[&[&str]] = match http {
                // haproxy has set the headers about the client already
                true => &[
                    &["websocket"],
                    &["insecure_skip_verify"],
                    &["header_upstream", "Host", "{host}"],
                    &["header_upstream", "X-Real-IP", "{remote}"],
                    &["header_upstream", "X-Forwarded-Proto", "{scheme}"],
                ],
                false => &[&["websocket"], &["insecure_skip_verify"], &["transparent"]],
            };
            let line = |words: &&[&str]| Directive::new(words, proxy.at());
            proxy.block = Some(lines.iter().map(line).collect());
        }
        for words in [&["gzip"][..], &["timeouts", "300s"]] {
            if site.body.iter().all(|line| line.name() != words[0]) {
                site.body.push(Directive::new(words, at));
            }
        }
        let format = match http {
            true => {
                r#"{hostonly} - {>X-Forwarded-For} - {user} [{when}] "{method} {uri} {proto}" {status} {size} "{>Referer}" "{>User-Agent}""#
            }
            false => "{hostonly} - {combined}",
        };
        site.body.retain(|line| line.name() != "log");
        site.body.push(Directive::new(&["log", "/", "stdout", format], at));
    }
    Ok(())
}

/// What a site answers in maintenance. Without a page: Caddy 1 has no words for a text of one's own.
pub fn unavailable(retry_after: &str) -> [Directive; 2] {
    let at = Position::default();
    [Directive::new(&["header", "/", "Retry-After", retry_after], at), Directive::new(&["status", "503", "/"], at)]
}
