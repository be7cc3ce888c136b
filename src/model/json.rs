//! JSON that is read by way of [`Value`], all of it: one deserializer for every type keeps the binary small.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Error, Value};

pub fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).and_then(from)
}

pub fn from<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
}

pub fn write(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
}
