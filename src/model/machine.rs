//! One machine: what is wanted of it and what is seen of it. Free of local notions, so that a cloud server fits too.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::names::{Digest, EnvironmentId, MachineId, MachineName, SnapshotName};
use super::network::Attachment;
use super::topology::Health;

/// Eight characters that stand for an environment in names that the kernel keeps short: interfaces, nft tables, cgroups.
/// Derived from the installation and the environment, so a later run finds what an interrupted one left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(String);

impl Tag {
    /// FNV-1a over installation and environment, in 40 bits of base 32: no table is needed, and 1,000 environments meet
    /// in one tag once in two million installations.
    pub fn of(install: &str, id: &EnvironmentId) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in format!("{install}/{id}").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // The upper bits of FNV mix best; fold them onto the forty that are kept.
        let mut bits = hash ^ (hash >> 29);
        let mut text = String::with_capacity(8);
        for _ in 0..8 {
            text.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[(bits & 31) as usize]));
            bits >>= 5;
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a machine may use of its host. `None` means no limit, but for memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// `None` is what the host gives to a machine of which nobody said how much it needs.
    pub memory_bytes: Option<u64>,
    /// Shares of a processor, e.g. 1.5.
    pub cpus: Option<f64>,
    pub processes: Option<u32>,
}

impl Limits {
    /// As much memory as the host has.
    pub const ALL_MEMORY: u64 = u64::MAX;
}

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
    /// Whether adt runs machines in it: it gets what these need of their host, and [`HOST_FOLDER`] is a volume of its own kind.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host: bool,
}

/// Where a machine that is a host itself has its machines and their layers: a plain folder, since no overlay stands on another.
pub const HOST_FOLDER: &str = "/var/lib/adt";

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
        init_pid: u32,
    },
    Frozen {
        init_pid: u32,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{EnvironmentName, PlatformName};

    #[test]
    fn tags_differ_between_environments_and_installations() {
        let id = |name: &str| EnvironmentId {
            platform: PlatformName::new("shop").unwrap(),
            name: EnvironmentName::new(name).unwrap(),
        };
        let mut seen = std::collections::BTreeSet::new();
        for install in ["a", "b"] {
            for number in 0..5_000 {
                assert!(seen.insert(Tag::of(install, &id(&number.to_string()))), "{install} {number}");
            }
        }
        assert!(seen.iter().all(|tag| tag.as_str().len() == 8));
    }
}
