//! What other applications have, by their records.

use log::warn;

use crate::error::Error;
use crate::here::Here;
use crate::model::keys;
use crate::model::names::AppName;
use crate::routes::claims::Recorded;

/// Of all but `name`.
pub fn read(here: &Here, name: &AppName) -> Result<Vec<(AppName, Recorded)>, Error> {
    let mut others = Vec::new();
    for entry in here.consul.list(keys::APPS)? {
        let other = AppName::try_from(entry.key.trim_start_matches(keys::APPS));
        let Some(other) = other.ok().filter(|other| other != name) else { continue };
        let record = Recorded::parse(&entry.value).unwrap_or_else(|error| {
            warn!("{} in Consul is not a record: {error}; its routes and volumes are not compared", entry.key);
            Recorded::default()
        });
        others.push((other, record));
    }
    Ok(others)
}
