//! What repositories ask for: taken out of the URLs that orders come with, kept in Consul under `credential/<name>`, given to git. What an order
//! brings replaces what is kept once the repository has been cloned with it: one that is refused changes nothing.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::here::Here;
use crate::model::credential::Credential;
use crate::model::names::{AppName, OrderId, RepoUrl};
use crate::model::order::{Order, Request};
use crate::model::record::Record;
use crate::model::{json, keys};
use crate::outside::consul::{Entry, Op};
use crate::outside::git::Git;

/// `credential/<name>`
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Who brought it.
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
        && let Some(kept) = kept(here, &app.name(), None)?
        && !kept.password.is_empty()
        && (&kept.site, &kept.user) == (&alone.site, &alone.user)
    {
        own = None; // no token: the user of the password that is kept
    }
    Ok((request, own))
}

/// As an order brings it: key and value.
pub fn entry(order: &Order, credential: Credential) -> Result<(String, Vec<u8>), Error> {
    let key = keys::brought(&order.name, &order.id);
    match json::write(&Kept { order: order.id.clone(), credential }) {
        Ok(text) => Ok((key, text)),
        Err(source) => Err(Error::Json { at: key, what: "writable", source }),
    }
}

/// What the order brings, or else what is kept.
fn kept(here: &Here, name: &AppName, order: Option<&OrderId>) -> Result<Option<Credential>, Error> {
    let own = order.map(|order| here.consul.get(&keys::brought(name, order))).transpose()?.flatten();
    let entry = if own.is_some() { own } else { here.consul.get(&keys::credential(name))? };
    let Some(Entry { key, value, .. }) = entry else { return Ok(None) };
    let what = "a credential (order a deploy with it anew, or delete the key)";
    match json::read::<Kept>(&value) {
        Ok(kept) => Ok(Some(kept.credential)),
        Err(source) => Err(Error::Json { at: format!("{key} in Consul"), what, source }),
    }
}

/// What the order has brought is kept from now on.
pub fn keep(here: &Here, name: &AppName, order: &OrderId) -> Result<(), Error> {
    let (brought, key) = (keys::brought(name, order), keys::credential(name));
    let Some(entry) = here.consul.get(&brought)? else { return Ok(()) };
    let changes = [Op::CheckIndex(&brought, entry.modify_index), Op::Set(&key, &entry.value), Op::Delete(&brought)];
    // Where it is gone meanwhile, the order has failed.
    Ok(here.consul.transaction(&changes).map(drop)?)
}

/// git for this repository: with what stands in its URL, as older handlers leave it there, with what the order has brought, or with what is kept.
pub fn git<'a>(here: &'a Here, name: &AppName, repo: &RepoUrl, order: Option<&OrderId>) -> Result<Git<'a>, Error> {
    let credential = match Credential::of(repo) {
        Ok(Some(own)) => Some(own),
        _ if repo.web_parts().is_none() => None,
        // A repository that has moved to another server must not be given what the first one asked for: git asks for its own server's only.
        _ => kept(here, name, order)?,
    };
    Ok(Git { credential, ..here.git() })
}
