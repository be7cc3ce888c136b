//! This node against the records.

pub mod done;
pub mod fence;
pub mod local;
pub mod probe;
pub mod reconcile;
pub mod start;

use crate::error::{Error, in_consul};
use crate::here::Here;
use crate::model::keys;
use crate::model::names::AppName;
use crate::model::record::Record;

pub fn record(here: &Here, name: &AppName) -> Result<Option<Record>, Error> {
    here.consul.get(&keys::app(name))?.map(|entry| in_consul(&entry, "a record")).transpose()
}
