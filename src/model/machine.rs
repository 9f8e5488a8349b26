//! One machine: what is wanted of it and what is seen of it. Free of local notions, so that a cloud server fits too.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::names::{Digest, MachineId, MachineName, ProviderName, SnapshotName};
use super::network::Attachment;
use super::topology::Health;

/// Ids of the kernel's that this host gives to machines, the first and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdPool {
    pub first: u32,
    pub last: u32,
}

impl fmt::Display for IdPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Everything a provider needs to create one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineSpec {
    pub id: MachineId,
    /// What it is to run on.
    #[serde(default = "ProviderName::first")]
    pub provider: ProviderName,
    /// `web1`
    pub hostname: String,
    /// `web1.1161.shop.example.test`
    pub fqdn: String,
    /// Box layers, the base first.
    pub layers: Vec<Digest>,
    /// How often its data went back to the seed. Another number means another machine.
    #[serde(default)]
    pub seeded: u32,
    pub limits: Limits,
    pub network: Attachment,
    /// Whole text of `/etc/hosts`.
    pub hosts: String,
    /// Name servers for `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
    /// Suffixes for `/etc/resolv.conf`.
    pub search: Vec<String>,
    /// Authorities that its programs trust beside those of its box: PEM by name.
    #[serde(default)]
    pub trusted: BTreeMap<String, String>,
    /// Host folders shown inside, for builds and for sites.
    pub mounts: Vec<Mount>,
    /// Folders whose content is not the machine's own but its volumes'. `None` is a machine that was made before there were
    /// any: what it keeps still lies among its own files.
    #[serde(default)]
    pub volumes: Option<Vec<Volume>>,
    /// The snapshot that its files and volumes are to be put back from; `None` wishes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewound: Option<Rewound>,
    /// Files that are put into it before it starts, by path. Their texts may be secret, so only digests are here.
    #[serde(default)]
    pub files: BTreeMap<String, Digest>,
    pub health: Health,
    /// Whether adt runs machines in it: it gets what these need of their host, and [`HOST_FOLDER`](super::topology::HOST_FOLDER) is a volume of its own kind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
    /// Whether what it writes can be made again, so that its programs need not wait for the disk: a build's machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spare: bool,
}

/// A folder inside a machine whose content outlives the machine: one that is made anew finds it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute path inside.
    pub path: String,
    /// It begins as what these layers have there, the base first. One that has begun keeps its beginning.
    pub seed: Vec<Digest>,
}

/// A way back to a snapshot. Another number means another way back, to the same one perhaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewound {
    pub snapshot: SnapshotName,
    pub number: u32,
}

/// A volume that is there, in use or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenVolume {
    pub machine: MachineName,
    pub path: String,
}

/// A folder of the host shown inside a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: std::path::PathBuf,
    /// Absolute path inside.
    pub target: String,
    pub mode: MountMode,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountMode {
    ReadOnly,
    /// Owners are those of the machine's own id range.
    ReadWrite,
    /// The machine sees the folder and writes beside it: changes go to the machine's own folder, never to the source.
    CopyOnWrite,
    /// Both sides write: whoever owns the folder on the host is `user` inside (root where the box has no such user). A
    /// running machine can get and lose these.
    Shared {
        user: String,
        /// Whose the folder must be: it can be another by the time that it is mounted. Unknown for who was known by name alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<u32>,
    },
}

/// What is seen of a machine right now; never remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum MachineState {
    Absent,
    Halted,
    /// Its init runs. Whether its services answer is another question, see [`Health`].
    Running {
        boot: BootId,
    },
    Frozen {
        boot: BootId,
    },
    /// Something is there that is no whole machine: a create or delete was interrupted, or files are damaged.
    Broken {
        reason: String,
    },
}

impl MachineState {
    /// One word for tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Halted => "halted",
            Self::Running { .. } => "running",
            Self::Frozen { .. } => "frozen",
            Self::Broken { .. } => "broken",
        }
    }
}

/// Tells one start of a machine from its next, and nothing else: what it is made of is its provider's own business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(String);

impl BootId {
    pub fn new(value: impl fmt::Display) -> Self {
        Self(value.to_string())
    }
}

/// A program to run inside a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    /// `None` is root's home.
    pub cwd: Option<String>,
    /// A user name of the machine; `None` is root.
    pub user: Option<String>,
}

impl Exec {
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The same with standard error joined to standard output: through two pipes, the order of its lines would be lost.
    pub fn as_one_stream(&self) -> Self {
        let joined = ["/bin/sh", "-c", "exec \"$@\" 2>&1", "adt"].map(str::to_owned);
        Self { argv: joined.into_iter().chain(self.argv.iter().cloned()).collect(), ..self.clone() }
    }
}
