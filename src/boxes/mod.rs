//! Boxes: from a recipe to an immutable layer that every provider can stack machines on.
//!
//! ```text
//! catalogue ──> Resolved (recipe + digest + parent) ──> schedule ──> base | build ──> layer
//!   folders         digest.rs                            parallel    mmdebstrap,      <store>/layers/<digest>/
//!                                                                    archives | Workshop            │
//!                                                                                    packed <───────┘ another host's store
//! ```
//!
//! A layer is named by what went into it, so an unchanged box is never built twice and a changed one never overwrites what a
//! machine stands on. Nothing here knows providers, networks or `platform.toml`: machines to build in come from a
//! [`Workshop`], parsing and rendering are functions that the caller hands over.

pub mod apt;
pub mod archive;
pub mod base;
pub mod build;
pub mod cache;
pub mod catalogue;
pub mod compressed;
pub mod digest;
pub mod fake;
pub mod inputs;
pub mod layer;
pub mod oci;
pub mod packed;
pub mod phases;
pub mod prune;
pub mod schedule;
pub mod seed;
pub mod shift;
pub mod task;
pub mod workshop;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::model::{BoxName, Digest, Event, Failure, Kind, Place};

pub use catalogue::{Catalogue, Resolved};
pub use layer::{Layer, Layers};
pub use workshop::{Bench, BenchSpec, Workshop};

pub type Result<T> = std::result::Result<T, Error>;

/// Fills in a template: its text, the file it is from, the values it may use.
pub type Render<'a> = &'a (dyn Fn(&str, &Path, &BTreeMap<String, String>) -> std::result::Result<String, Failure> + Sync);

/// What every build needs besides its recipe.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The store's folder; layers, package caches and shipped recipes are below it.
    pub store: &'a Path,
    pub workshop: &'a dyn Workshop,
    pub render: Render<'a>,
    /// How long a machine to build in may take to boot.
    pub boot_deadline: Duration,
    pub emit: &'a (dyn Fn(Event) + Sync),
    /// Looked at between steps.
    pub cancel: &'a AtomicBool,
}

impl Context<'_> {
    /// For programs that are followed: whether to go on.
    fn flow(&self) -> ControlFlow<()> {
        if self.cancel.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// For a step whose program did not do what it should: whether we ended it.
    fn check_ended(&self, name: &BoxName, step: &str) -> Result<()> {
        match self.flow() {
            ControlFlow::Break(()) => Err(Error::Ended { name: name.clone(), step: step.to_owned() }),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn check_cancelled(&self, name: &str) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled { name: name.to_owned() }) } else { Ok(()) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no box is called `{name}`")]
    Unknown { name: BoxName, place: Option<Box<Place>>, nearest: Option<BoxName>, known: Vec<BoxName> },
    #[error("boxes stand on each other in a circle: {}", chain.join(" -> "))]
    Cycle { chain: Vec<String> },
    #[error("the recipe `{path}` can't be used")]
    Recipe {
        path: PathBuf,
        #[source]
        source: Box<Failure>,
    },
    #[error("the recipe of `{name}` points at `{path}`, which is outside of its folder")]
    Outside { name: BoxName, path: PathBuf },
    #[error("`{path}` changed while a box was built of it")]
    Changed { path: PathBuf },
    #[error("layer `{digest}` is not in the store")]
    LayerMissing { digest: Digest },
    #[error("layer description `{path}` is damaged: {reason}")]
    LayerDamaged { path: PathBuf, reason: String },
    #[error("box `{name}` can't be built again while machines stand on its layer `{}`", digest.short())]
    LayerInUse { name: BoxName, digest: Digest },
    #[error("layer `{child}` has a parent `{parent}` that leads back to itself")]
    LayerCycle { child: Digest, parent: Digest },
    #[error("`{suite}` is not the name of a suite")]
    BadSuite { suite: String },
    #[error("step `{step}` of box `{name}` ended with exit code {code}")]
    Step { name: BoxName, step: String, code: i32, tail: Vec<String> },
    #[error("the seed `{}`{} can't be loaded: {reason}", file.display(), line.map(|line| format!(" (line {line})")).unwrap_or_default())]
    Seed { file: PathBuf, line: Option<u64>, reason: String },
    #[error("step `{step}` of box `{name}` could not run")]
    Bench {
        name: BoxName,
        step: String,
        #[source]
        source: Box<Failure>,
    },
    #[error("the machine that builds box `{name}` did not finish booting within {seconds} s: {state}")]
    BootDeadline { name: BoxName, seconds: u64, state: String },
    #[error("`{archive}` holds an entry that can't be taken: `{entry}` {reason}")]
    BadArchive { archive: PathBuf, entry: String, reason: String },
    #[error("`{archive}` does not fit on the disk: `{entry}` would take what must stay free")]
    NoRoom { archive: PathBuf, entry: String },
    #[error("`{archive}` is not what box `{name}` wants: its SHA-256 is `{found}`, the recipe says `{wanted}`")]
    OtherDigest { name: BoxName, archive: PathBuf, found: Digest, wanted: Digest },
    #[error("the disk of `{store}` is full; box `{name}` is not built", store = store.display())]
    Full {
        name: BoxName,
        store: PathBuf,
        #[source]
        source: Box<Error>,
    },
    #[error("box `{name}` can't be packed: `{entry}` {reason}")]
    CantTravel { name: BoxName, entry: String, reason: String },
    #[error("layer `{}` of box `{name}` in `{archive}` has the content `{}`, but the one that is here has `{}`", digest.short(), there.short(), here.short())]
    OtherContent { archive: PathBuf, name: BoxName, digest: Digest, there: Digest, here: Digest },
    #[error("box `{name}` in `{archive}` stands on layer `{}`, which is neither here nor before it in the file", parent.short())]
    ParentMissing { archive: PathBuf, name: BoxName, parent: Digest },
    #[error("the work on box `{name}` was stopped")]
    Cancelled { name: String },
    #[error("building box `{name}` was stopped in `{step}`, which was ended with all that it had started")]
    Ended { name: BoxName, step: String },
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
    Exec(#[from] crate::exec::Error),
}

impl Error {
    /// For `map_err`: `Error::io("could not read", path)`.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// What an archive holds can't be taken.
    pub(crate) fn bad_archive(archive: &Path, entry: impl ToString, reason: impl Into<String>) -> Self {
        Self::BadArchive { archive: archive.to_owned(), entry: entry.to_string(), reason: reason.into() }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } | Self::LayerMissing { .. } | Self::ParentMissing { .. } => Kind::NotFound,
            Self::Cycle { .. }
            | Self::Outside { .. }
            | Self::BadSuite { .. }
            | Self::BadArchive { .. }
            | Self::CantTravel { .. }
            | Self::OtherDigest { .. } => Kind::Config,
            Self::Recipe { source, .. } | Self::Bench { source, .. } => source.kind,
            Self::LayerDamaged { .. } | Self::LayerCycle { .. } => Kind::Store,
            Self::LayerInUse { .. } | Self::OtherContent { .. } | Self::Changed { .. } => Kind::Conflict,
            Self::Step { tail, .. } if is_full(tail) => Kind::Exhausted,
            Self::Step { .. } | Self::Seed { .. } => Kind::Program,
            Self::BootDeadline { .. } => Kind::Deadline,
            Self::Cancelled { .. } | Self::Ended { .. } => Kind::Cancelled,
            Self::Full { .. } | Self::NoRoom { .. } => Kind::Exhausted,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Kind::Exhausted,
            Self::Exec(crate::exec::Error::Missing { .. }) => Kind::Host,
            Self::Store(crate::store::Error::Cancelled { .. }) => Kind::Cancelled,
            Self::Exec(error) if is_full(error.tail()) => Kind::Exhausted,
            Self::Io { .. } => Kind::Internal,
            Self::Store(_) => Kind::Store,
            Self::Exec(_) => Kind::Program,
        }
    }

    /// The last lines of the program that failed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Step { tail, .. } => tail,
            Self::Recipe { source, .. } | Self::Bench { source, .. } => &source.tail,
            Self::Exec(error) => error.tail(),
            Self::Full { source, .. } => source.tail(),
            _ => &[],
        }
    }

    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Unknown { nearest, known, .. } => {
                let known = known.iter().map(BoxName::as_str).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "no box is known".to_owned() } else { format!("known are: {known}") };
                nearest.iter().map(|name| format!("did you mean `{name}`?")).chain([known]).collect()
            }
            Self::LayerDamaged { .. } | Self::LayerMissing { .. } => vec!["build it again with `adt box:build`".to_owned()],
            Self::LayerInUse { .. } => vec!["destroy these environments first; `adt platform:list` shows them".to_owned()],
            Self::OtherContent { .. } => vec![
                "both were built of the same recipe at different times; what stands on one does not fit the other".to_owned(),
                "to take this one, destroy what stands on the other and remove it with `adt box:prune`".to_owned(),
            ],
            Self::Changed { .. } => vec!["build again once nobody writes there".to_owned()],
            Self::ParentMissing { .. } => vec!["export it again without `--without`".to_owned()],
            Self::OtherDigest { .. } => vec![
                "get the archive again from where its digest is from; where it was meant to change, correct `sha256`".to_owned(),
            ],
            Self::Seed { .. } => vec!["correct it and build again; until then what was built before stays in use".to_owned()],
            Self::Exec(crate::exec::Error::Missing { program }) => vec![format!("install it: `apt install {program}`")],
            Self::Recipe { source, .. } | Self::Bench { source, .. } => source.hints.clone(),
            _ if self.kind() == Kind::Exhausted => vec!["free disk space, e.g. with `adt box:prune`".to_owned()],
            _ => Vec::new(),
        }
    }

    /// For the edge: what could not be done, with this error and its sources as causes.
    pub fn failure(&self, sentence: impl Into<String>) -> Failure {
        let mut failure = Failure::new(self.kind(), sentence).because(self).tail(self.tail().iter().cloned());
        failure.place = match self {
            Self::Recipe { source, .. } | Self::Bench { source, .. } => source.place.clone(),
            Self::Unknown { place, .. } => place.as_deref().cloned(),
            _ => None,
        };
        failure.hints = self.hints();
        failure
    }
}

/// Programs have no exit code for a full disk, but all use the C library's words.
fn is_full(tail: &[String]) -> bool {
    tail.iter().any(|line| line.contains("No space left on device"))
}

#[cfg(test)]
mod tests;
