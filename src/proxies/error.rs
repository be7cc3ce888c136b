//! Why the proxies' files are not as they should be.

use std::fmt;

use super::view::TOLD;
use crate::error;
use crate::outside::{consul, disk, process};
use crate::settings;

#[derive(Debug)]
pub enum Error {
    Settings(settings::Error),
    Other(error::Error),
    /// Even without any application, or it gives no answer.
    CheckFails {
        file: &'static str,
        why: Box<error::Error>,
    },
    /// Applications, and certificates of the operator's.
    LeftOut {
        all: Vec<String>,
    },
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Error::Settings(source) => source.fmt(f),
            Error::Other(source) => source.fmt(f),
            Error::CheckFails { file, why } => {
                let why = why.to_string();
                let told = if why.contains(TOLD) {
                    "; Caddy has to be 2.7 or later for it (CADDY_IMAGE), or PROXY_PROTOCOL=0 in the .env"
                } else {
                    ""
                };
                write!(f, "{file} stays as it is: the check fails even without any application, or gives no answer: {why}{told}")
            }
            Error::LeftOut { all } => write!(f, "left out of the proxies' files: {}", all.join(", ")),
        }
    }
}

impl From<settings::Error> for Error {
    fn from(source: settings::Error) -> Error {
        Error::Settings(source)
    }
}

impl From<error::Error> for Error {
    fn from(source: error::Error) -> Error {
        Error::Other(source)
    }
}

impl From<consul::Error> for Error {
    fn from(source: consul::Error) -> Error {
        Error::Other(source.into())
    }
}

impl From<disk::Error> for Error {
    fn from(source: disk::Error) -> Error {
        Error::Other(source.into())
    }
}

impl From<process::Error> for Error {
    fn from(source: process::Error) -> Error {
        Error::Other(source.into())
    }
}
