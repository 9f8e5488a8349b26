//! Releases: a site's tree as it is put on machines, built once and named by everything that it was made of.
//!
//! ```text
//! commit's tree ─┐
//! buildpack      ├─> digest ──> shelf has it? ── yes ──────────────────────────────> archive ──> machines
//! box's layers   │                   │ no                                               ▲
//! variables     ─┘                   └─> export ──> buildpack in a clean machine ──> pack
//! ```
//!
//! The same inputs are never built twice, whichever environment asks, because no environment's name is one of them. Nothing
//! here knows which machines a release goes to; [`phase`] holds what their scripts may do, as programs to run there, and
//! [`packed`] how a release goes to another store.

pub mod archive;
pub mod build;
pub mod inputs;
pub mod packed;
pub mod phase;
pub mod shelf;

use std::path::PathBuf;

use crate::model::{Digest, Failure, Kind};

pub use inputs::Inputs;
pub use shelf::{Manifest, Shelf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a release can't hold `{entry}`: it {reason}")]
    BadEntry { entry: String, reason: &'static str },
    #[error("`{path}` can't be rendered: the release has `{entry}`")]
    Taken { path: String, entry: String },
    #[error("release `{}` is not in the store", digest.short())]
    Missing { digest: Digest },
    #[error("`{path}` is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("what came is no release: {reason}")]
    NoRelease { reason: String },
    #[error("release `{}` did not come as it is: {reason}", digest.short())]
    Unfit { digest: Digest, reason: String },
    #[error("release `{}` is here with other files: its content is `{here}`, not `{there}`", digest.short())]
    OtherContent { digest: Digest, here: Digest, there: Digest },
    #[error("cancelled")]
    Cancelled,
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    #[error(transparent)]
    Sources(#[from] crate::sources::Error),
}

/// What to do where two builds of the same made different files.
pub const OTHER_CONTENT: &str = "it was built twice, and its buildpack made other files: promote from where the other one was built, or deploy another commit";

impl Error {
    /// For `map_err`: `Error::io("could not read", path)`.
    fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::BadEntry { .. } => Kind::Buildpack,
            Self::Taken { .. } | Self::Sources(crate::sources::Error::Unfit { .. }) => Kind::Config,
            Self::Missing { .. } => Kind::NotFound,
            Self::NoRelease { .. } | Self::Unfit { .. } | Self::OtherContent { .. } => Kind::Conflict,
            Self::Damaged { .. } => Kind::Store,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Kind::Exhausted,
            Self::Io { .. } => Kind::Internal,
            Self::Cancelled | Self::Store(crate::store::Error::Cancelled { .. }) => Kind::Cancelled,
            Self::Store(_) => Kind::Store,
            Self::Sources(crate::sources::Error::Exec(error)) => error.kind(),
            Self::Sources(_) => Kind::Program,
        }
    }

    /// For the edge: what could not be done, with this error and its sources as causes.
    pub fn failure(&self, sentence: impl Into<String>) -> Failure {
        let failure = Failure::new(self.kind(), sentence).because(self);
        match self {
            Self::BadEntry { .. } => failure.hint("make links to what outlives a release, and pipes, in `predeploy`"),
            Self::Damaged { path, .. } => {
                let folder = path.parent().unwrap_or(path);
                failure.hint(format!("remove `{}` and give the command again: it is built anew", folder.display()))
            }
            Self::Sources(crate::sources::Error::Exec(error)) => failure.tail(error.tail().iter().cloned()),
            Self::Unfit { .. } => failure.hint("give the same command again: what is damaged on the way is sent once more"),
            Self::OtherContent { .. } => failure.hint(OTHER_CONTENT),
            _ if self.kind() == Kind::Exhausted => failure.hint("free disk space, e.g. with `adt box:prune`"),
            _ => failure,
        }
    }
}
