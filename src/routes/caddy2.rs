//! Sites for Caddy 2: Caddy 1 words upgraded, Caddy 2 words kept, and what every site gets. Pure.

use super::address::{Scheme, SiteAddress};
use super::caddyfile::{Directive, Position, Site, Word};
use super::directives::{self, NESTING};
use super::upgrade;

/// Requests wait so long for a container that is away, as in a redeploy. Longer outages show the maintenance page.
const HOLD: &str = "30s";
const RETRY: &str = "100ms";

/// Completes the sites of one `CADDYFILE`; answers what was left out because Caddy 2 does it otherwise.
pub fn complete(sites: &mut Vec<Site>) -> Result<Vec<String>, directives::Error> {
    let mut notes = Vec::new();
    let one = sites.iter().flat_map(|site| &site.body).any(directives::is_one);
    split(sites);
    for site in sites {
        let at = site.addresses.first().map_or_else(Position::default, |word| word.at);
        directives::refuse_environment(&site.addresses)?;
        if one {
            upgrade::upgrade(site, &mut notes)?;
        }
        directives::check(&site.body)?;
        let http = site.plain_http();
        hold(&mut site.body, http);
        if !uses(&site.body, "encode") {
            site.body.push(Directive::new(&["encode", "gzip"], at));
        }
        site.body.retain(|line| line.name() != "log");
        let lines = [["output", "stdout"], ["format", "json"]];
        let lines = lines.map(|words| Directive::new(&words, at));
        site.body.push(Directive::new(&["log"], at).with(lines.into()));
    }
    Ok(notes)
}

/// Splits sites that have addresses with and without TLS: haproxy speaks for the client in one case and passes the client's own words on in
/// the other, so that not both can be believed.
fn split(sites: &mut Vec<Site>) {
    for site in std::mem::take(sites) {
        let plain = |word: &Word| SiteAddress::parse(&word.text).is_ok_and(|address| address.served().0 == Scheme::Http);
        let Site { addresses, body } = site;
        let (http, https): (Vec<Word>, Vec<Word>) = addresses.into_iter().partition(plain);
        let body_of = |addresses: Vec<Word>| Site { addresses, body: body.clone() };
        sites.extend([http, https].into_iter().filter(|addresses| !addresses.is_empty()).map(body_of));
    }
}

fn uses(lines: &[Directive], name: &str) -> bool {
    lines.iter().any(|line| line.name() == name || NESTING.contains(&line.name()) && uses(line.lines(), name))
}

/// Lets proxies hold requests while the container is away, and believe haproxy about the client where it is haproxy that spoke HTTP with it.
fn hold(lines: &mut [Directive], http: bool) {
    for line in lines {
        let at = line.at();
        if matches!(line.name(), "reverse_proxy" | "forward_auth" | "php_fastcgi") {
            let block = line.block.get_or_insert_default();
            let mut add = |words: &[&str]| {
                if block.iter().all(|line| line.name() != words[0]) {
                    block.push(Directive::new(words, at));
                }
            };
            if http {
                add(&["trusted_proxies", "private_ranges"]);
            }
            add(&["lb_try_duration", HOLD]);
            add(&["lb_try_interval", RETRY]);
        }
        // What a response leads to, too.
        hold(line.block.as_deref_mut().unwrap_or_default(), http);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::caddyfile::{dump, parse};
    use crate::routes::real;

    /// Or why it is refused.
    fn completed(text: &str) -> String {
        let mut sites = parse(text).unwrap();
        match complete(&mut sites) {
            Ok(_) => dump(&sites),
            Err(error) => error.to_string(),
        }
    }

    /// Name, sites as an application writes them, what becomes of them.
    fn cases() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        include_str!("../../tests/vectors/caddy2.txt").split("=== ").skip(1).map(|case| {
            let (name, case) = case.split_once('\n').unwrap();
            let (input, output) = case.split_once("\n---\n").unwrap();
            (name, input, output.trim_end())
        })
    }

    #[test]
    fn vectors() {
        for (name, input, expected) in cases() {
            assert_eq!(completed(input), expected, "{name}");
            // what is written is Caddy 2's, and stays as it is
            if !name.starts_with("refused-") {
                assert_eq!(completed(expected), expected, "{name}");
            }
        }
    }

    #[test]
    fn real_caddy_accepts_every_output() {
        let sites = cases().filter(|(name, ..)| !name.starts_with("refused-")).map(|(.., output)| output);
        let sites: Vec<&str> = sites.collect();
        assert!(sites.len() > 40);
        let text = sites.join("\n").replace("/ca.pem", "/etc/ssl/certs/ca-certificates.crt");
        let text = format!("{{\n    admin off\n}}\n{text}\n");
        real::accepts(real::CADDY, &text);
    }
}
