//! Makes this host trust adt's authorities, and stop trusting them: the system's store, and those of browsers.
//!
//! Every function may be called twice; removal takes away what installing brought and nothing else. Must never know how
//! certificates are made.
//!
//! Two installations on one host may have the same domain: what is put anywhere carries its owner's id in its name, and nothing
//! else is ever removed, but what an earlier adt put there without one and is of the owner's own key.

mod browsers;
mod installed;
mod system;

use std::path::{Path, PathBuf};

use crate::model::Domain;

pub use browsers::{Home, databases, has_firefox_profile, trace};
pub use installed::{Installed, Place};
pub use system::System;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("change the certificates that {whose} trusts")]
    Program {
        whose: String,
        #[source]
        source: crate::exec::Error,
    },
    #[error("this host has no folder for certificates that adt knows: none of {looked}")]
    NoStore { looked: String },
}

impl Error {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Program { source: crate::exec::Error::Missing { program }, .. } if program == "certutil" => {
                Some("install it: apt-get install libnss3-tools")
            }
            Self::Program { source: crate::exec::Error::Missing { .. }, .. } | Self::NoStore { .. } => {
                Some("install it: apt-get install ca-certificates")
            }
            _ => None,
        }
    }

    /// The last lines of the program that failed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Program { source, .. } => source.tail(),
            Self::Io { .. } | Self::NoStore { .. } => &[],
        }
    }
}

/// The installation whose authorities are trusted.
#[derive(Clone, Copy)]
pub struct Owner<'a> {
    pub install: &'a str,
    /// Its folder, for the message of another one.
    pub store: &'a Path,
    /// Whether a certificate is of the key that this installation signs a domain's names with.
    pub is_own: &'a dyn Fn(&Domain, &str) -> bool,
}

/// Whether a call had to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Made,
    Nothing,
}
