//! What machines run on.
//!
//! [`Provider`] is the whole contract; abilities that not every provider has are small traits of their own, reached through
//! `Option`, so nothing ever answers "unimplemented". Only [`choose`] names the concrete ones; everybody else asks the
//! [`Registry`] for the one that a machine's record names, and never which one it is. Several stand side by side, in one
//! environment too. A cloud provider implements the same trait: nothing in it may assume that a machine lives on this host.
//!
//! A new provider is a folder here, whose `mod.rs` implements [`Provider`] and as many of the optional powers as it has, and a
//! line in [`choose::registry`]. What it owes:
//! - the rules below, and what is written at each verb;
//! - opening costs next to nothing and fails with [`Error::HostLacks`] and a remedy where it can't work on this host;
//! - it finds its machines by itself, by their names and by what tells this installation from another, never by a file of ours
//!   that a killed run may not have written;
//! - machines hang on the network of their environment with the cable and the addresses of their specification, so names,
//!   isolation and pages are the same for all;
//! - with [`Volumes`], what is in a volume outlives its machine, byte for byte;
//! - it passes the contract suite, `tests/contract/mod.rs`, and the verbs of the engine run on it as on the fake one.
//!
//! Rules for every verb:
//! - A second call with the same arguments succeeds and changes nothing.
//! - A call that is killed anywhere leaves something that `inspect` reports (often [`MachineState::Broken`]), that
//!   calling the verb again completes, and that `delete` removes without a trace.
//! - What streams files ends as cancelled, with whatever was there by then, soon after `cancel` is set.
//! - Calls for different machines may run at the same time; calls for one machine never do (the engine holds its lock).

pub mod choose;
pub mod copies;
pub mod fake;
pub mod lxc;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::exec::{Cancel, Ends, Follow, Output};
use crate::model::machine::SeenVolume;
use crate::model::{
    Digest, EnvironmentId, Exec, MachineId, MachineName, MachineSpec, MachineState, ProviderName, SnapshotName, Stream,
};

pub use registry::{Open, Registry};

/// Half of the memory that this host has: what one machine may use of it at most unless somebody says otherwise.
pub fn half_of_memory() -> u64 {
    let host = rustix::system::sysinfo();
    // Integers of the C library, whose width differs between processors.
    #[allow(clippy::useless_conversion)]
    let total = u64::from(host.totalram).saturating_mul(host.mem_unit.into());
    total / 2
}

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} is missing on this host")]
    HostLacks { what: String, hint: String },
    #[error("{what}: {reason}")]
    Setup { what: &'static str, reason: String },
    #[error("this adt has no provider `{name}`")]
    Unknown { name: ProviderName, known: Vec<ProviderName> },
    #[error("machine `{id}` does not exist")]
    Absent { id: MachineId },
    #[error("machine `{id}` is {state}, not running")]
    NotRunning { id: MachineId, state: &'static str },
    #[error("machine `{id}` is damaged: {reason}")]
    Broken { id: MachineId, reason: String },
    #[error("layer `{digest}` of machine `{id}` is missing from the store")]
    LayerMissing { id: MachineId, digest: String },
    #[error("{verb} `{id}` failed: {reason}")]
    Failed { verb: &'static str, id: MachineId, reason: String, tail: Vec<String> },
    #[error("{verb} `{id}` did not finish within {seconds} s")]
    Deadline { verb: &'static str, id: MachineId, seconds: u64 },
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Exec(#[from] crate::exec::Error),
}

/// How a program inside a machine gets its input and output.
pub enum Stdio<'a> {
    /// Bytes in, each line out as it comes.
    Pipes { stdin: Option<&'a [u8]>, each: &'a mut dyn FnMut(Stream, &str) },
    /// The same with input of any size.
    Fed { input: &'a mut (dyn std::io::Read + Send), each: &'a mut dyn FnMut(Stream, &str) },
    /// No input; each line as it comes, none kept, until the program ends or `each` breaks: then it is told to end (TERM), and
    /// it and what is left of its group are killed where that takes longer than some seconds.
    Follow { each: &'a mut Follow<'a> },
    /// What comes from the caller's descriptor 0 and goes to 1 and 2, any size, any bytes. The program gets pipes, never the
    /// descriptors: whoever holds a terminal can type into it, and whoever holds a file can cut it off.
    Caller,
    /// A new terminal inside, joined to the caller's: window size, signals and raw mode included.
    Terminal,
    /// The same two for a caller at the other end of a wire.
    Ends(Given),
}

/// Descriptors that were made for this one program: pipes, or one terminal that nobody else has.
pub struct Given {
    pub ends: Ends,
    /// The kind of that terminal; a new one inside is joined to it.
    pub terminal: Option<String>,
}

/// Something on the host that makes machines less apart than they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub seen: String,
    pub remedy: String,
}

/// Something that it needs of this host, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// `program apparmor_parser`
    pub subject: String,
    /// What is there; `Err` says what is missing.
    pub state: std::result::Result<String, String>,
    /// The Debian package that brings it; what none brings, [`Setup::set_up`] does.
    pub package: Option<&'static str>,
}

/// A machine whose init runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    /// What its user should know of it: how it is less apart from others than it should be.
    pub warning: Option<String>,
}

/// How a program inside a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// 128 + signal where a signal ended it, as shells say it; 126 not executable, 127 not found.
    pub code: i32,
    /// Filled with [`Stdio::Pipes`] and [`Stdio::Fed`] only, and with no more than the beginning of what never ends.
    pub output: Output,
}

/// A file for a machine's own root. Its text may be secret, so this can't be printed.
pub struct File {
    /// Below the machine's root, without a leading slash.
    pub path: String,
    pub mode: u32,
    /// The user of the machine whose group may read it; root owns it.
    pub group: Option<String>,
    pub text: secrecy::SecretString,
}

pub trait Provider: Send + Sync {
    /// Whether a machine of it may be a host itself (`MachineSpec::host`).
    fn hosts(&self) -> bool {
        false
    }

    /// What it needs of this host is there: its version in words. Costs more than the verbs; for checks.
    fn ready(&self) -> Result<String>;

    /// What of this host makes machines less apart from its users or from each other; for checks.
    fn troubles(&self) -> Vec<Trouble> {
        Vec::new()
    }

    /// Every machine of this installation, running or not, with its state; one cheap pass, whatever their number.
    fn list(&self) -> Result<Vec<(MachineId, MachineState)>>;

    /// The machines of one environment as [`Provider::list`] tells them; what others there are costs nothing.
    fn machines(&self, environment: &EnvironmentId) -> Result<BTreeMap<MachineName, MachineState>>;

    /// What is there right now. Absence is a value. Never cached. Waits for a start that outlived its killed caller.
    fn inspect(&self, id: &MachineId) -> Result<MachineState>;

    /// Makes the machine without starting it. On a machine that exists: brings its configuration (limits, network, hosts,
    /// mounts, layers) to `spec`, keeping its files; what a running machine can't take over live is in force at its next start.
    fn create(&self, spec: &MachineSpec) -> Result<()>;

    /// Puts files into a machine that does not run, over whatever has their names, and takes away its own files of the paths
    /// in `gone`; what lies below them in its layers shows again. A path that leads over a link is refused.
    fn place(&self, id: &MachineId, files: &[File], gone: &[String]) -> Result<()>;

    /// Starts init and returns as soon as it runs; services come up later. Thaws a frozen machine.
    fn start(&self, id: &MachineId) -> Result<Started>;

    /// Graceful shutdown, then force after `grace`. A machine that is halted or absent is fine.
    fn stop(&self, id: &MachineId, grace: Duration) -> Result<()>;

    /// Stops by force and removes everything. An absent machine is fine.
    fn delete(&self, id: &MachineId) -> Result<()>;

    /// Runs a program inside a running machine, waits for its end.
    fn exec(&self, id: &MachineId, exec: &Exec, stdio: Stdio<'_>) -> Result<Ended>;

    /// Unpacks a tar stream into a folder that a running machine has, as a user of it who may write there: what it holds becomes theirs.
    fn unpack(&self, id: &MachineId, tar: &mut (dyn Read + Send), folder: &str, user: &str, cancel: &Cancel) -> Result<()>;

    /// Writes a file or folder of a running machine as a tar stream whose only top entry is called as [`copies::split`] says.
    /// Whoever reads it trusts nothing of it.
    fn pack(&self, id: &MachineId, path: &str, tar: &mut (dyn Write + Send), cancel: &Cancel) -> Result<()>;

    /// Where the machine is reached, from its configuration; empty when it is absent.
    fn address(&self, id: &MachineId) -> Result<Vec<IpAddr>>;

    /// Bytes on disk that are this machine's own, layers not counted.
    fn disk(&self, id: &MachineId) -> Result<u64>;

    fn freezer(&self) -> Option<&dyn Freezer> {
        None
    }

    fn console(&self) -> Option<&dyn Console> {
        None
    }

    fn layers(&self) -> Option<&dyn Layers> {
        None
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        None
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    fn setup(&self) -> Option<&dyn Setup> {
        None
    }
}

/// Providers whose machines are this host's need things of it that are theirs alone.
pub trait Setup: Sync {
    /// Each of them. Costs little.
    fn needs(&self) -> Vec<Need>;

    /// Brings what no package brings, once the packages are there.
    fn set_up(&self) -> Result<()>;

    /// Takes away what that brought and nothing else needs, and tells its files. With `dry_run` it only tells them.
    fn take_out(&self, dry_run: bool) -> Result<Vec<String>>;

    /// Starts a machine that nobody asked for, runs a program in it, and leaves nothing of it; for checks. What its user should know
    /// of machines here is a value, as in [`Started::warning`].
    fn prove(&self) -> Result<Option<String>>;
}

/// Copies of all that an environment's machines are, at one moment: of those that this provider has, and so with every verb
/// here. What the environment itself is, its record knows.
pub trait Snapshots: Sync {
    /// What a copy takes of the disk now, looking at each file; `None` where it shares its blocks with what it is a copy of.
    fn cost(&self, environment: &EnvironmentId) -> Result<Option<Cost>>;

    /// Copies every machine's own files and every volume. Nobody writes meanwhile: each machine is halted or frozen. A copy of
    /// that name that was not sealed is begun anew.
    fn copy(&self, environment: &EnvironmentId, name: &SnapshotName, cancel: &Cancel) -> Result<()>;

    /// What was copied is a snapshot, and outlives a power cut. Machines may write again.
    fn seal(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<()>;

    /// Removes copies that were never sealed. Nobody copies meanwhile.
    fn sweep(&self, environment: &EnvironmentId) -> Result<()>;

    /// Every sealed one.
    fn names(&self, environment: &EnvironmentId) -> Result<BTreeSet<SnapshotName>>;

    /// Bytes that go with it: those that nothing else shares. Looks at each file.
    fn alone(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<u64>;

    /// A machine that does not run gets the files and volumes that the snapshot has of it, whatever it had.
    fn restore(&self, id: &MachineId, name: &SnapshotName, cancel: &Cancel) -> Result<()>;

    /// One that is not there is fine.
    fn remove(&self, environment: &EnvironmentId, name: &SnapshotName) -> Result<()>;
}

/// What a copy takes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub bytes: u64,
    pub files: u64,
}

/// Folders of machines that outlive these; an environment's are those that this provider has. [`Provider::create`] begins those of its specification that are not there, and
/// begins those anew that have another `seeded` than it; [`Provider::delete`] leaves them.
pub trait Volumes: Sync {
    /// What lies at the place of a volume among a machine's own files moves into the volume, unless that has begun. The
    /// machine does not run. Of one that is damaged, whatever is left.
    fn keep(&self, spec: &MachineSpec) -> Result<()>;

    /// Every volume of an environment, whether a machine still uses it or not.
    fn seen(&self, environment: &EnvironmentId) -> Result<Vec<SeenVolume>>;

    /// Bytes on disk beyond its seed; looks at each file.
    fn size(&self, environment: &EnvironmentId, volume: &SeenVolume) -> Result<u64>;

    /// Whether there is anything to erase.
    fn any(&self, environment: &EnvironmentId) -> bool;

    /// The layers that some volume began from and still shows, in a snapshot too.
    fn held(&self) -> Result<BTreeSet<Digest>>;

    /// Ends all volumes of an environment, and its snapshots; its machines are gone.
    fn erase(&self, environment: &EnvironmentId) -> Result<()>;
}

/// Stops the time of a machine without ending its programs.
pub trait Freezer: Sync {
    fn freeze(&self, id: &MachineId) -> Result<()>;
    fn thaw(&self, id: &MachineId) -> Result<()>;
}

/// The machine's own console, as a screen and keyboard would show it.
pub trait Console {
    /// Joins the caller's terminal, or one that was made for this, to it until the escape (Ctrl-] twice) is typed.
    fn attach(&self, id: &MachineId, ends: Option<Ends>) -> Result<()>;

    /// The last lines of its log; works for a machine that is gone down too.
    fn tail(&self, id: &MachineId, lines: usize) -> Result<Vec<String>>;
}

/// Providers whose machines stand on stacked folders can turn a halted machine's own files into a layer.
pub trait Layers {
    /// Moves the machine's changes to `target` (a path on the same filesystem that does not exist) and deletes the machine.
    fn commit(&self, id: &MachineId, target: &Path) -> Result<()>;

    /// The host folder with what a halted machine wrote beside its copy-on-write mount `target`; files may be moved out.
    fn written(&self, id: &MachineId, target: &str) -> Result<std::path::PathBuf>;
}
