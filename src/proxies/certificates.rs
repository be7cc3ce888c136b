//! Certificates go with their application: the new master's Caddy finds them in its own storage before it serves, and asks nobody for new ones.
//! They are handed over in Consul, under `certificate/<host>`, and so is the authority of `tls internal`, which all nodes have in common
//! by that.
//!
//! What must hold: what a node has in its storage is what the present master has, or newer. So whoever is the master writes its own there, and
//! whoever becomes it takes first what the one before it has written, if that is newer than what it has.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use log::{debug, info, warn};
use serde::{Deserialize, Serialize};

use super::view::{Routed, View};
use crate::error::{Error, text_of};
use crate::here::Here;
use crate::model::names::NodeName;
use crate::model::{json, keys};
use crate::outside::consul::Op;
use crate::routes::address::Scheme;

/// Of one file of Caddy's storage.
const MOST: u64 = 64 << 10;
/// Within Caddy's storage: by the issuer and the name; and the authority of `tls internal`.
const CERTIFICATES: &str = "certificates";
const AUTHORITY: &str = "pki/authorities/local";
/// Under which that stands in Consul: no host is called so.
const OF_ALL: &str = "-";

/// `certificate/<host>`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Shared {
    /// Whose they are.
    node: NodeName,
    /// When the last of them was written, by the clock of that node.
    #[serde(default)]
    at: String,
    /// Path within Caddy's storage → text.
    files: BTreeMap<String, String>,
}

/// To be called before Caddy is given its configuration.
pub fn share(here: &Here, apps: &[Routed], view: &View) -> Result<(), Error> {
    let Some(storage) = &here.settings.routes.storage else { return Ok(()) };
    let mut shared = BTreeMap::new();
    for entry in here.consul.list(keys::CERTIFICATES)? {
        // What cannot be read is replaced.
        let known = json::read::<Shared>(&entry.value).inspect_err(|why| debug!("{}: {why}", entry.key)).ok();
        shared.insert(entry.key.trim_start_matches(keys::CERTIFICATES).to_string(), (known, entry.modify_index));
    }
    let mut told = Vec::new();
    told.push((OF_ALL.to_string(), authority(here, storage, view, shared.remove(OF_ALL).unwrap_or_default())));
    let mut known: Vec<String> = Vec::new();
    for app in apps {
        for host in hosts(app) {
            if app.master == view.me {
                let found = shared.get(&host).cloned().unwrap_or_default();
                told.push((host.clone(), of_host(here, storage, view, app, &host, found)));
            }
            known.push(host);
        }
    }
    // One that cannot be handed over keeps no other from it.
    for (host, why) in told.into_iter().filter_map(|(host, done)| Some((host, done.err()?))) {
        warn!("the certificate of {host} is not handed over: {why}");
    }
    // Of what this node has handed over, and nothing has any more.
    let own = |of: &Option<Shared>| of.as_ref().is_some_and(|of| of.node == view.me);
    for (host, (_, index)) in shared.iter().filter(|(host, (of, _))| own(of) && !known.contains(*host)) {
        here.consul.transaction(&[Op::DeleteCas(&key(host), *index)])?;
        debug!("certificate of {host}: handed over no more");
    }
    Ok(())
}

fn key(host: &str) -> String {
    format!("{}{host}", keys::CERTIFICATES)
}

/// Those for which Caddy has a certificate, under a name in its storage that no other host has.
fn hosts(app: &Routed) -> impl Iterator<Item = String> {
    let https = app.addresses().filter(|address| address.served().0 == Scheme::Https && !address.host.is_empty());
    https.map(|address| address.host.to_ascii_lowercase()).filter(|host| is_own(host))
}

fn is_own(host: &str) -> bool {
    stored(host) == host.replace('*', "wildcard_") && !host.starts_with("wildcard_")
}

/// As Caddy calls it in its storage.
fn stored(host: &str) -> String {
    let plain = |c: char| if c == ':' { '-' } else { c };
    let kept = |c: &char| c.is_alphanumeric() || "_@.-".contains(*c);
    host.replace('*', "wildcard_").chars().map(plain).filter(kept).collect::<String>().replace("..", "")
}

/// The hosts of a certificate in PEM, the first one of its file.
pub fn names(pem: &[u8]) -> Vec<String> {
    let pem = String::from_utf8_lossy(pem);
    let lines = pem.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN CERTIFICATE")).skip(1);
    let der = STANDARD.decode(lines.take_while(|line| !line.starts_with('-')).collect::<String>()).unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_*".contains(c);
    // In it a name stands behind its kind and its length.
    let name = |(at, _): (usize, &u8)| {
        let name = der.get(at + 2..at + 2 + usize::from(*der.get(at + 1)?))?;
        std::str::from_utf8(name).ok().filter(|name| name.contains('.') && name.chars().all(fits)).map(str::to_ascii_lowercase)
    };
    der.iter().enumerate().filter(|(_, kind)| **kind == 0x82).filter_map(name).collect()
}

fn of_host(here: &Here, storage: &Path, view: &View, app: &Routed, host: &str, found: (Option<Shared>, u64)) -> Result<(), Error> {
    let name = stored(host);
    let (found, index) = found;
    let kinds = ["crt", "key", "json"].map(|kind| format!("{name}.{kind}"));
    let own = || -> Result<Shared, Error> {
        let mut own = Shared::of(view);
        for issuer in here.world.list_folder_if_any(&storage.join(CERTIFICATES))? {
            own.read(here, storage, &format!("{CERTIFICATES}/{issuer}/{name}"), &kinds)?;
        }
        Ok(own)
    };
    let mut mine = own()?;
    if let Some(found) = found.as_ref().filter(|found| found.is_for(&mine)) {
        let is_its = |path: &str| match path.split('/').collect::<Vec<_>>().as_slice() {
            [CERTIFICATES, _, folder, file] => *folder == name && kinds.iter().any(|kind| kind == file),
            _ => false,
        };
        take(here, storage, found, is_its)?;
        info!("{}: the certificate of {host} is {}'s", app.name, found.node);
        mine = own()?;
    }
    // Until it is the master it has none of its own to hand over.
    if app.moves {
        return Ok(());
    }
    if !mine.files.is_empty() && found.as_ref() != Some(&mine) {
        let key = key(host);
        here.consul.cas(&key, &text_of(&key, &mine)?, index)?;
    }
    Ok(())
}

/// The first node that has one gives it to all; a node that has its own keeps it.
fn authority(here: &Here, storage: &Path, view: &View, (found, index): (Option<Shared>, u64)) -> Result<(), Error> {
    let names = ["root.crt", "root.key", "intermediate.crt", "intermediate.key"].map(String::from);
    let mut own = Shared::of(view);
    own.read(here, storage, AUTHORITY, &names)?;
    match found {
        Some(found) if own.files.is_empty() => {
            let is_its =
                |path: &str| path.strip_prefix(AUTHORITY).is_some_and(|name| names.iter().any(|known| name == format!("/{known}")));
            take(here, storage, &found, is_its)?;
            info!("the authority of `tls internal` is that of {}", found.node);
        }
        None if own.files.len() == 4 => {
            let key = key(OF_ALL);
            here.consul.cas(&key, &text_of(&key, &own)?, index)?;
        }
        _ => {}
    }
    Ok(())
}

impl Shared {
    /// Whether it is to be taken where `mine` is: by one who has none, or an older one.
    fn is_for(&self, mine: &Shared) -> bool {
        self.node != mine.node && (mine.files.is_empty() || self.at > mine.at)
    }

    fn of(view: &View) -> Shared {
        Shared { node: view.me.clone(), at: String::new(), files: BTreeMap::new() }
    }

    fn read(&mut self, here: &Here, storage: &Path, folder: &str, names: &[String]) -> Result<(), Error> {
        for name in names {
            let path = format!("{folder}/{name}");
            let file = storage.join(&path);
            let (Some(text), Some(found)) = (here.world.read_file(&file, MOST)?, here.world.look_at(&file)?) else { continue };
            self.at = found.modified.deploy_date().max(std::mem::take(&mut self.at));
            self.files.insert(path, String::from_utf8_lossy(&text).into_owned());
        }
        Ok(())
    }
}

/// Into Caddy's storage, and nowhere else.
fn take(here: &Here, storage: &Path, found: &Shared, own: impl Fn(&str) -> bool) -> Result<(), Error> {
    for (path, text) in &found.files {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        let file = storage.join(path);
        if !plain || !own(path) || here.world.read_file(&file, MOST)?.is_some_and(|there| there == text.as_bytes()) {
            continue;
        }
        if let Some(folder) = file.parent() {
            here.world.create_folder(folder)?;
        }
        here.world.replace_file(&file, text.as_bytes(), true)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two applications on two nodes may have one host.
    #[test]
    fn an_older_one_is_not_taken() {
        let of = |node: &str, at: &str| {
            let files = (!at.is_empty()).then(|| ("a".into(), at.into())).into_iter().collect();
            Shared { node: NodeName::try_from(node).unwrap(), at: at.into(), files }
        };
        for (theirs, mine, is_for) in [
            ("", "", true),
            ("2026", "", true),
            ("2026", "2025", true),
            ("2026", "2026", false),
            ("2025", "2026", false),
            ("", "2025", false),
        ] {
            assert_eq!(of("node2", theirs).is_for(&of("node1", mine)), is_for, "{theirs} {mine}");
        }
        assert!(!of("node1", "2026").is_for(&of("node1", "2025")));
    }

    /// Of a certificate of its own.
    #[test]
    fn whose_it_is() {
        const PEM: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBojCCAUegAwIBAgIULbQclwCr4EN8AJKhfb4/O6G6nOIwCgYIKoZIzj0EAwIw\n\
DzENMAsGA1UEAwwEc2hvcDAgFw0yNjExMjgxMzQ0NTVaGA8yMTI2MTEwNDEzNDQ1\n\
NVowDzENMAsGA1UEAwwEc2hvcDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABBlZ\n\
r+P+dJGZpjxySxTWkXD+0z513uvi+0R1uo2WWLGYm6RTBMAfaz6OSxrj+zEyG/Sh\n\
PI7+rRT9nt46S0/GTEWjfzB9MB0GA1UdDgQWBBRnioIDfFA34AvwDjdHttwKqLDb\n\
VjAfBgNVHSMEGDAWgBRnioIDfFA34AvwDjdHttwKqLDbVjAPBgNVHRMBAf8EBTAD\n\
AQH/MCoGA1UdEQQjMCGCEFNob3AuZXhhbXBsZS5jb22CDSouZXhhbXBsZS5jb20w\n\
CgYIKoZIzj0EAwIDSQAwRgIhAOLvN+nOuoRxrEWajnVvfVoAkCXmVBJKhavSt23/\n\
rjqBAiEA2LqNxuIf6IVYLXdsTVIuvB/e20xiS/j0PgZosyr7wEw=\n\
-----END CERTIFICATE-----\n\
";
        assert_eq!(names(format!("x\n{PEM}{PEM}").as_bytes()), ["shop.example.com", "*.example.com"]);
        assert!(names(b"half of").is_empty());
    }

    #[test]
    fn names_are_caddys() {
        for (host, name) in [("shop.example.com", "shop.example.com"), ("*.example.com", "wildcard_.example.com"), ("a..b/c", "abc")] {
            assert_eq!(stored(host), name);
        }
        for (host, own) in
            [("shop.example.com", true), ("*.example.com", true), ("wildcard_.example.com", false), ("a..b", false), ("[::1]", false)]
        {
            assert_eq!(is_own(host), own, "{host}");
        }
    }
}
