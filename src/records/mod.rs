//! Records of a target's names, where their zone's own servers keep them: looked up, changed, and proven.
//!
//! ```text
//! operator ─ signed (TSIG), TCP ─> the server that takes changes        [`rfc2136`]
//!          ─ as anybody, UDP ────> every server that the zone names     [`world`]
//! ```
//! A name is changed only where adt's mark is beside it: the text record `_adt.<name>`, which says for which environment. The mark and
//! what was seen go with each change as its prerequisites, so the server itself refuses a change of what is somebody else's, or was
//! changed meanwhile. There is no moment at which a name is half changed.
//!
//! Must never know which addresses a name shall have, or why. Not chosen: a list of names on this host (another operator's host has
//! none, and a record that somebody made by hand would look like ours).

mod key;
mod rfc2136;
mod transport;
pub mod world;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::model::Domain;
use crate::model::records::{Entry, Seen};

pub use key::Key;
pub use rfc2136::Rfc2136;

/// Who keeps the records of a zone.
///
/// Nothing of it is tried twice by itself: whoever does not know whether a change was made looks again.
pub trait Records: Send + Sync {
    /// What the server that takes changes says of a name.
    fn look(&self, name: &Domain) -> Result<Seen, Error>;

    /// Makes a name lead where it shall, or nowhere, whole or not at all. It must be as it was seen, and be nobody else's:
    /// [`Error::Moved`] where it is not any more.
    fn change(&self, name: &Domain, seen: &Seen, wanted: &Entry) -> Result<(), Error>;

    /// Who answers to the world for the zone, and who takes its changes, each once.
    fn witnesses(&self) -> Result<Vec<Witness>, Error>;
}

/// A name server of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    pub name: String,
    /// None where nobody knows one.
    pub at: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read `{}`: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("nobody knows the address of `{0}`")]
    Unknown(String),
    #[error("`{server}` gives no answer: {reason}")]
    Silent { server: String, reason: String },
    #[error("`{server}` answers with something that is none: {reason}")]
    Garbled { server: String, reason: String },
    #[error("`{server}` does not know the key `{key}`, or lets it do nothing")]
    UnknownKey { server: String, key: String },
    #[error("`{server}` has another secret for the key `{key}`")]
    OtherSecret { server: String, key: String },
    #[error("the clock of `{server}` differs from this one by more than five minutes")]
    Clock { server: String },
    #[error("the answer of `{server}` is not signed with the key `{key}`: somebody else may have given it")]
    Unsigned { server: String, key: String },
    #[error("`{server}` does not let the key `{key}` do this")]
    Refused { server: String, key: String },
    #[error("`{name}` is not in what `{server}` has of the zone `{zone}`")]
    NotThere { server: String, name: String, zone: Domain },
    #[error("`{0}` is not as it was seen a moment ago: somebody else changed it")]
    Moved(Domain),
    #[error("`{server}` failed with `{code}`")]
    Failed { server: String, code: String },
}
