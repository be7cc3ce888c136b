//! Certificates go with their application: the new master's Caddy finds them in its own storage before it serves, and asks nobody for new ones.
//! They are handed over in Consul, under `certificate/<host>`, and so is the authority of `tls internal`, which all nodes have in common
//! by that.
//!
//! What must hold: what a node has in its storage is what the present master has, or newer. So whoever is the master writes its own there, and
//! whoever becomes it takes first what the one before it has written.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use log::{debug, info};
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
    /// Path within Caddy's storage → text.
    files: BTreeMap<String, String>,
}

/// To be called before Caddy is given its configuration.
pub fn share(here: &Here, apps: &[Routed], view: &View) -> Result<(), Error> {
    let Some(storage) = &here.settings.routes.storage else { return Ok(()) };
    let mut shared = BTreeMap::new();
    for entry in here.consul.list(keys::CERTIFICATES)? {
        match json::read::<Shared>(&entry.value) {
            Ok(known) => drop(shared.insert(entry.key.trim_start_matches(keys::CERTIFICATES).to_string(), (known, entry.modify_index))),
            Err(why) => debug!("{}: {why}", entry.key),
        }
    }
    authority(here, storage, view, shared.remove(OF_ALL).map(|(known, _)| known))?;
    let mut known: Vec<String> = Vec::new();
    for app in apps {
        for host in hosts(app) {
            let found = shared.get(&host).cloned();
            if app.master == view.me {
                of_host(here, storage, view, app, &host, found)?;
            }
            known.push(host);
        }
    }
    // Of what this node has handed over, and nothing has any more.
    for (host, (of, index)) in shared.iter().filter(|(host, (of, _))| of.node == view.me && !known.contains(*host)) {
        here.consul.transaction(&[Op::DeleteCas(&key(host), *index)])?;
        debug!("certificate of {host}, which was {}'s: handed over no more", of.node);
    }
    Ok(())
}

fn key(host: &str) -> String {
    format!("{}{host}", keys::CERTIFICATES)
}

/// Those for which Caddy has a certificate.
fn hosts(app: &Routed) -> impl Iterator<Item = String> {
    let https = app.addresses().filter(|address| address.served().0 == Scheme::Https && !address.host.is_empty());
    https.map(|address| address.host.to_ascii_lowercase())
}

/// As Caddy calls it in its storage.
fn stored(host: &str) -> String {
    let plain = |c: char| if c == ':' { '-' } else { c };
    let kept = |c: &char| c.is_alphanumeric() || "_@.-".contains(*c);
    host.replace('*', "wildcard_").chars().map(plain).filter(kept).collect::<String>().replace("..", "")
}

fn of_host(here: &Here, storage: &Path, view: &View, app: &Routed, host: &str, found: Option<(Shared, u64)>) -> Result<(), Error> {
    let name = stored(host);
    let (found, index) = found.map_or((None, 0), |(found, index)| (Some(found), index));
    if let Some(found) = found.as_ref().filter(|found| found.node != view.me) {
        let own = |path: &str| path.strip_prefix(CERTIFICATES).is_some_and(|path| path.split('/').nth(2) == Some(&*name));
        take(here, storage, found, own)?;
        info!("{}: the certificate of {host} is {}'s", app.name, found.node);
    }
    // Until it is the master it has none of its own to hand over.
    if app.moves {
        return Ok(());
    }
    let mut files = BTreeMap::new();
    for issuer in here.world.list_folder_if_any(&storage.join(CERTIFICATES))? {
        let folder = format!("{CERTIFICATES}/{issuer}/{name}");
        read(here, storage, &folder, ["crt", "key", "json"].map(|kind| format!("{name}.{kind}")), &mut files)?;
    }
    let own = Shared { node: view.me.clone(), files };
    if !own.files.is_empty() && found.as_ref() != Some(&own) {
        let key = key(host);
        here.consul.cas(&key, &text_of(&key, &own)?, index)?;
    }
    Ok(())
}

/// The first node that has one gives it to all; a node that has its own keeps it.
fn authority(here: &Here, storage: &Path, view: &View, found: Option<Shared>) -> Result<(), Error> {
    let mut files = BTreeMap::new();
    read(here, storage, AUTHORITY, ["root.crt", "root.key", "intermediate.crt", "intermediate.key"].map(String::from), &mut files)?;
    match found {
        Some(found) if files.is_empty() => {
            take(here, storage, &found, |path| Path::new(path).parent() == Some(Path::new(AUTHORITY)))?;
            info!("the authority of `tls internal` is that of {}", found.node);
        }
        None if files.len() == 4 => {
            let (key, own) = (key(OF_ALL), Shared { node: view.me.clone(), files });
            here.consul.cas(&key, &text_of(&key, &own)?, 0)?;
        }
        _ => {}
    }
    Ok(())
}

fn read<const N: usize>(
    here: &Here,
    storage: &Path,
    folder: &str,
    names: [String; N],
    files: &mut BTreeMap<String, String>,
) -> Result<(), Error> {
    for name in names {
        let path = format!("{folder}/{name}");
        if let Some(text) = here.world.read_file(&storage.join(&path), MOST)? {
            files.insert(path, String::from_utf8_lossy(&text).into_owned());
        }
    }
    Ok(())
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

    #[test]
    fn names_are_caddys() {
        for (host, name) in [("shop.example.com", "shop.example.com"), ("*.example.com", "wildcard_.example.com"), ("a..b/c", "abc")] {
            assert_eq!(stored(host), name);
        }
    }
}
