//! Records of a target's names: which name server keeps them, and what is seen and wanted of one name.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::names::{Domain, EnvironmentId};

/// A zone that adt may change, as a target's configuration names it. It holds no secret: that is in the key file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    pub zone: Domain,
    pub server: NameServer,
    /// As it was written, so below the platform's folder unless it is absolute.
    pub key_file: PathBuf,
    /// For how many seconds an answer may be kept.
    pub ttl: u32,
}

impl Zone {
    /// Whether a name is in it, so that its records are not somebody else's matter.
    pub fn has(&self, name: &Domain) -> bool {
        *name == self.zone || name.is_below(&self.zone)
    }
}

/// Who takes changes of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameServer {
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
}

impl NameServer {
    pub const PORT: u16 = 53;
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (Self::PORT, _) => f.write_str(&self.host),
            (port, true) => write!(f, "[{}]:{port}", self.host),
            (port, false) => write!(f, "{}:{port}", self.host),
        }
    }
}

/// What a zone's own server says of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub addresses: BTreeSet<IpAddr>,
    /// The longest of its addresses' lives; 0 without any.
    pub ttl: u32,
    /// The other name that it only stands for.
    pub alias: Option<String>,
    /// Whose mark is beside it.
    pub owner: Option<String>,
}

/// What a name shall be. Without addresses it shall be none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub addresses: BTreeSet<IpAddr>,
    pub ttl: u32,
}

/// The mark that adt puts beside each name of a target: what has another, or none, is never changed.
pub fn mark(id: &EnvironmentId) -> String {
    format!("{MARK}{id}")
}

/// What every mark begins with, whosever it is.
pub const MARK: &str = "adt ";

/// Where the mark of a name is.
pub fn mark_of(name: &Domain) -> String {
    format!("_adt.{name}")
}
