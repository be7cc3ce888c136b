//! This node against the records.

pub mod fence;
pub mod local;
pub mod probe;
pub mod reconcile;
pub mod start;

use crate::error::Error;
use crate::here::Here;
use crate::model::names::AppName;
use crate::model::record::Record;
use crate::model::{json, keys};

pub fn record(here: &Here, name: &AppName) -> Result<Option<Record>, Error> {
    let key = keys::app(name);
    let entry = here.consul.get(&key)?;
    let read = entry.map(|entry| json::read(&entry.value)).transpose();
    read.map_err(|source| Error::Json { at: format!("{key} in Consul"), what: "a record", source })
}
