//! `CADDYFILE`: the sites of one service, read, checked and completed. Pure.

use std::fmt;

use super::address::{self, Scheme, SiteAddress};
use super::caddyfile::{self, At, Site, Word};
use super::haproxy::RESERVED;
use super::reach::Reach;
use super::{caddy1, caddy2, directives};
use crate::settings::Version;

#[derive(Debug)]
pub enum Error {
    Grammar(caddyfile::Error),
    Address(At<Unusable>),
    Directive(directives::Error),
}

/// An address that no site can have.
#[derive(Debug)]
pub struct Unusable {
    pub text: String,
    pub why: Why,
}

#[derive(Debug)]
pub enum Why {
    NoAddress(address::Error),
    Unfit(address::Unfit),
    Reserved(u16),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Grammar(source) => source.fmt(f),
            Error::Address(source) => source.fmt(f),
            Error::Directive(source) => source.fmt(f),
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "the address {:?}: ", self.text)?;
        match &self.why {
            Why::NoAddress(source) => source.fmt(f),
            Why::Unfit(source) => source.fmt(f),
            Why::Reserved(port) => write!(f, "the node itself needs port {port}; choose another one"),
        }
    }
}

/// What one variable gives.
pub struct Own {
    pub sites: Vec<Site>,
    /// As the application wrote them.
    pub addresses: Vec<Word>,
    /// What an upgrade to Caddy 2 left out.
    pub notes: Vec<String>,
}

/// The sites of one variable, checked and completed in the words of `caddy`. `$CONTAINER` stands for `container`.
pub fn own(text: &str, container: &str, reach: &Reach, caddy: Version) -> Result<Own, Error> {
    let mut sites = caddyfile::parse(text).map_err(Error::Grammar)?;
    for site in &mut sites {
        site.each_word(&mut |word| {
            let text = &mut word.text;
            if text.contains("$CONTAINER") || text.contains("${CONTAINER}") {
                // `$$` is how a compose file writes a dollar that compose leaves alone
                *text = text.replace("$$", "$").replace("${CONTAINER}", container).replace("$CONTAINER", container);
            }
        });
        for Word { text, at, .. } in &site.addresses {
            let unusable = |why| Error::Address(At { at: *at, problem: Unusable { text: text.clone(), why } });
            let address = SiteAddress::parse(text).map_err(|source| unusable(Why::NoAddress(source)))?;
            if let Some(why) = address.unfit() {
                return Err(unusable(Why::Unfit(why)));
            }
            let (_, port) = address.served();
            if RESERVED.contains(&port) {
                return Err(unusable(Why::Reserved(port)));
            }
        }
    }
    let addresses = sites.iter().flat_map(|site| &site.addresses).cloned().collect();
    let notes = match caddy {
        Version::One => caddy1::complete(&mut sites).map(|()| Vec::new()),
        Version::Two => caddy2::complete(&mut sites).and_then(|notes| reach.limit(&mut sites).map(|()| notes)),
    };
    Ok(Own { sites, addresses, notes: notes.map_err(Error::Directive)? })
}

/// A record's sites for Caddy 2, upgraded if they were written for Caddy 1.
pub fn upgraded(text: String) -> Result<String, Error> {
    // as the older handler, or this one for Caddy 1, ended every site
    if !text.contains("\n    log / stdout ") {
        return Ok(text);
    }
    let mut sites = caddyfile::parse(&text).map_err(Error::Grammar)?;
    caddy2::complete(&mut sites).map_err(Error::Directive)?;
    Ok(caddyfile::dump(&sites))
}

/// A host that the one has with other `tls` lines than the other.
pub fn in_two_ways(one: &[(String, String)], other: &[(String, String)]) -> Option<String> {
    let differs = |(host, tls): &&(String, String)| other.iter().any(|(its, theirs)| its == host && theirs != tls);
    one.iter().find(differs).map(|(host, _)| host.clone())
}

/// Hosts, each with the `tls` lines of a site of it.
pub fn tls_of(caddyfile: &str) -> Vec<(String, String)> {
    let of = |mut site: Site| {
        // They mean the same in whatever quotes.
        site.each_word(&mut |word| word.quote = None);
        let Site { addresses, mut body } = site;
        body.retain(|line| line.name() == "tls");
        let lines = caddyfile::dump(&[Site { addresses: Vec::new(), body }]);
        let parsed = addresses.iter().filter_map(|word| SiteAddress::parse(&word.text).ok());
        let hosts = parsed.filter(|address| address.served().0 == Scheme::Https).map(|address| address.key().host);
        hosts.map(|host| (host, lines.clone())).collect::<Vec<_>>()
    };
    caddyfile::parse(caddyfile).unwrap_or_default().into_iter().flat_map(of).collect()
}
