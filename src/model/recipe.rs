//! How a box is built: the settled form of `box.toml`. Says nothing of layers or digests, those belong to `boxes`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Digest;
use super::names::BoxName;
use super::topology::{BoxRef, DataEngine, Health};

/// A recipe after every check of its file. Paths are relative to its folder and name no `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    pub name: BoxName,
    pub summary: String,
    pub parent: Parent,
    /// Debian packages, each perhaps with `=version` or `/suite`.
    pub packages: Vec<String>,
    /// systemd units that start at boot.
    pub services: Vec<String>,
    /// systemd units that must never start.
    pub mask: Vec<String>,
    /// TCP ports on which the box answers.
    pub exposes: Vec<u16>,
    /// Log files that its programs write besides the journal; says nothing of what the layer holds.
    #[serde(default)]
    pub logs: Vec<String>,
    /// Whether its machines are hosts themselves; says nothing of what the layer holds.
    #[serde(default)]
    pub host: bool,
    /// `None` is what the parent box says and, without one, that init has finished starting.
    pub health: Option<Health>,
    /// For the templates among its files, and as `ADT_VAR_…` for its scripts.
    pub vars: BTreeMap<String, String>,
    /// In the order in which they run, after the packages.
    pub steps: Vec<BuildStep>,
    /// The folder that holds `box.toml`.
    pub folder: PathBuf,
}

impl Recipe {
    /// A recipe that does nothing yet but start from its parent.
    pub fn bare(name: BoxName, parent: Parent, folder: PathBuf) -> Self {
        Self {
            name,
            summary: String::new(),
            parent,
            packages: Vec::new(),
            services: Vec::new(),
            mask: Vec::new(),
            exposes: Vec::new(),
            logs: Vec::new(),
            host: false,
            health: None,
            vars: BTreeMap::new(),
            steps: Vec::new(),
            folder,
        }
    }
}

/// What a box starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parent {
    Box(BoxRef),
    /// A Debian suite, e.g. `bookworm`.
    Suite(String),
    /// A root file system in a tar archive.
    Rootfs(Archive),
    /// An OCI image, in a tar archive or as a folder.
    Oci(Archive),
}

/// What somebody else packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    pub path: PathBuf,
    /// What it must be. Of a folder, it is the digest of the file that names all others by theirs.
    pub sha256: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildStep {
    /// A folder that is copied onto `/`; files ending in `.j2` are rendered and lose the ending.
    Files(PathBuf),
    Script(PathBuf),
    /// An Ansible playbook.
    Ansible(PathBuf),
    /// A folder of Salt states with a `top.sls`.
    Salt(PathBuf),
    /// Data that is loaded, from a dump or a folder. Only a platform's golden layer has these.
    Seed {
        engine: DataEngine,
        path: PathBuf,
    },
}

impl BuildStep {
    /// The key that chooses it in `box.toml`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Script(_) => "script",
            Self::Ansible(_) => "ansible",
            Self::Salt(_) => "salt",
            Self::Seed { .. } => "seed",
        }
    }

    pub fn path(&self) -> &PathBuf {
        match self {
            Self::Files(path) | Self::Script(path) | Self::Ansible(path) | Self::Salt(path) | Self::Seed { path, .. } => path,
        }
    }
}
