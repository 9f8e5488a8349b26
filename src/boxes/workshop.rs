//! Where boxes are built: a machine that stands on the parent's layers and is thrown away or becomes a layer.
//!
//! The engine implements it with a provider and a network; the tests with folders. A machine is named by the digest that it
//! builds, so a later run finds and removes what an interrupted one left.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::exec::{Follow, HostPath};
use crate::model::machine::Mount;
use crate::model::{Digest, Exec, Failure, Stream};

pub type Result<T> = std::result::Result<T, Failure>;

/// The machine to build in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchSpec {
    /// What is being built. The machine belongs to the reserved environment `box/<first 12 digits>`.
    pub digest: Digest,
    /// The parent's chain, the base first.
    pub layers: Vec<Digest>,
    pub mounts: Vec<Mount>,
}

/// Gives machines to build in. Called from several threads at once, never twice at once for one digest.
pub trait Workshop: Sync {
    /// Removes what an interrupted build of this digest left, creates the machine with a network that reaches out, starts
    /// it, and returns as soon as its init runs. On failure nothing is left.
    fn open(&self, spec: &BenchSpec) -> Result<Box<dyn Bench + '_>>;
}

/// One machine to build in. Exactly one of [`Bench::commit`] and [`Bench::discard`] ends it; a bench that is merely dropped
/// (a panic) must be discarded by its `Drop`.
pub trait Bench {
    /// Runs a program inside, waits for its end and returns its exit code (128 + signal, 126 and 127 as shells say it). The
    /// environment is exactly `exec.env` plus the machine's own defaults. Its complaints come in order with the rest (see [`Exec::as_one_stream`]).
    fn run(&self, exec: &Exec, stdin: Option<&[u8]>, each: &mut dyn FnMut(Stream, &str)) -> Result<i32>;

    /// The same for one that is followed: its two streams are handed over apart, and it is ended with all that it started as
    /// soon as `each` breaks.
    fn follow(&self, exec: &Exec, each: &mut Follow<'_>) -> Result<i32>;

    /// [`Bench::run`] with input of any size; where reading it fails, so does this.
    fn feed(&self, exec: &Exec, input: &mut (dyn Read + Send), each: &mut dyn FnMut(Stream, &str)) -> Result<i32>;

    /// Copies a file or the whole folder `source` to the path `target`, which does not exist yet; its parent does. Owners
    /// become root of the machine, modes are kept. A `source` that ends in `/.` is the content of a folder, for one that exists.
    fn copy_in(&self, source: HostPath<'_>, target: &str) -> Result<()>;

    /// Copies the folder `source` of the machine to `target`, which does not exist yet. What comes out is not trusted: no
    /// entry lands elsewhere, is a device or carries a set-id bit.
    fn copy_out(&self, source: &str, target: &Path) -> Result<()>;

    /// Shuts down gracefully, then by force. A halted machine is fine.
    fn halt(&self) -> Result<()>;

    /// The host folder with what the machine wrote beside its copy-on-write mount `target`. Read after [`Bench::halt`];
    /// files may be moved out of it.
    fn harvest(&self, target: &str) -> Result<PathBuf>;

    /// Moves the halted machine's own changes to `target`, which does not exist and is on the store's filesystem, and
    /// removes the machine and its environment.
    fn commit(self: Box<Self>, target: &Path) -> Result<()>;

    /// Removes the machine and its environment, whatever their state. Anything left is removed by the next `open`.
    fn discard(self: Box<Self>) -> Result<()>;
}
