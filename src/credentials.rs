//! What repositories ask for: taken out of the URLs that orders come with, kept in Consul under `credential/<name>`, given to git.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::here::Here;
use crate::model::credential::Credential;
use crate::model::names::{AppName, OrderId, RepoUrl};
use crate::model::order::{Order, Request};
use crate::model::record::Record;
use crate::model::{json, keys};
use crate::outside::git::Git;

/// `credential/<name>`
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Who brought it; so that the key is seen to change even where the same comes again.
    order: OrderId,
    #[serde(flatten)]
    credential: Credential,
}

/// A request without secrets, before anything is told of it; and the one that is to be kept from now on, if it brings one, or if a record that an
/// older handler wrote has one in its URL.
pub fn take_out(here: &Here, request: Request) -> Result<(Request, Option<Credential>), Error> {
    let (request, mut own) = request.without_credentials();
    let (Request::Deploy(_), app) = (&request, request.app()) else { return Ok((request, None)) };
    if own.is_none() && app.repo.web_parts().is_some() {
        let record = here.consul.get(&keys::app(&app.name()))?;
        // One that cannot be read is told of by who carries the order out.
        let record = record.and_then(|entry| json::read::<Record>(&entry.value).ok());
        let record = record.filter(|record| record.repo_url.bare() == app.repo);
        own = record.and_then(|record| Credential::of(&record.repo_url).ok().flatten());
    } else if let Some(alone) = own.as_ref().filter(|own| own.password.is_empty())
        && let Some(kept) = kept(here, &app.name())?
        && !kept.password.is_empty()
        && (&kept.site, &kept.user) == (&alone.site, &alone.user)
    {
        own = None; // no token: the user of the password that is kept
    }
    Ok((request, own))
}

/// As it is kept: key and value.
pub fn entry(order: &Order, credential: Credential) -> Result<(String, Vec<u8>), Error> {
    let key = keys::credential(&order.name);
    match json::write(&Kept { order: order.id.clone(), credential }) {
        Ok(text) => Ok((key, text)),
        Err(source) => Err(Error::Json { at: key, what: "writable", source }),
    }
}

fn kept(here: &Here, name: &AppName) -> Result<Option<Credential>, Error> {
    let key = keys::credential(name);
    let Some(entry) = here.consul.get(&key)? else { return Ok(None) };
    let what = "a credential (order a deploy with it anew, or delete the key)";
    match json::read::<Kept>(&entry.value) {
        Ok(kept) => Ok(Some(kept.credential)),
        Err(source) => Err(Error::Json { at: format!("{key} in Consul"), what, source }),
    }
}

/// git for this repository: with what stands in its URL, as older handlers leave it there, or with what is kept.
pub fn git<'a>(here: &'a Here, name: &AppName, repo: &RepoUrl) -> Result<Git<'a>, Error> {
    let credential = match Credential::of(repo) {
        Ok(Some(own)) => Some(own),
        _ if repo.web_parts().is_none() => None,
        // A repository that has moved to another server must not be given what the first one asked for: git asks for its own server's only.
        _ => kept(here, name)?,
    };
    Ok(Git { credential, ..here.git() })
}
