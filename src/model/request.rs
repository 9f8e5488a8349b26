//! What can be asked of the engine. The command line makes these, and so will the daemon's socket and the API.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::names::{BoxName, EnvironmentId, EnvironmentName, MachineName, PlatformName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    HostBootstrap { remove: bool, dry_run: bool },
    HostCheck,
    HostBind(Bind),
    HostUnbind { environment: Option<EnvironmentId> },

    PlatformInit(PlatformInit),
    PlatformList,
    PlatformPull { platform: PlatformName },
    PlatformBuild { platform: PlatformName, force: bool },
    PlatformUp { platform: PlatformName, environments: Vec<EnvironmentName>, dry_run: bool },
    PlatformHalt { platform: PlatformName, environments: Vec<EnvironmentName>, dry_run: bool },
    PlatformDestroy { platform: PlatformName, environments: Vec<EnvironmentName>, dry_run: bool },
    PlatformCheck { platform: PlatformName, environments: Vec<EnvironmentName> },

    EnvInit { id: EnvironmentId, dry_run: bool },
    EnvUp { id: EnvironmentId, dry_run: bool },
    EnvHalt { id: EnvironmentId, dry_run: bool },
    EnvDestroy { id: EnvironmentId, dry_run: bool },
    EnvReload { id: EnvironmentId, dry_run: bool },
    EnvCheck { id: EnvironmentId },
    EnvList { platform: Option<PlatformName> },
    EnvShow { id: EnvironmentId },
    EnvFacts { id: EnvironmentId },
    EnvUrls { id: EnvironmentId, check: bool },
    EnvCopy { id: EnvironmentId, machine: MachineName, copy: Copy },

    BoxList { platform: Option<PlatformName> },
    BoxBuild { platform: Option<PlatformName>, boxes: Vec<BoxName>, force: bool },
    BoxShow { platform: Option<PlatformName>, name: BoxName },
    BoxPrune { dry_run: bool },
}

/// Who serves names and pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Only this environment, beside what is there.
    pub environment: Option<EnvironmentId>,
    /// `apache`, `nginx`, `bind`, `dnsmasq`; empty is adt itself.
    pub with: Vec<String>,
    /// Write the files there instead, to look at.
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformInit {
    /// A git address, a folder, or the name of a shipped example.
    pub source: String,
    pub branch: Option<String>,
    /// Where the platform's folder goes; `None` is its name below `here`.
    pub into: Option<PathBuf>,
    /// The folder in which the user stands.
    pub here: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "direction")]
pub enum Copy {
    In { source: PathBuf, target: String },
    Out { source: String, target: PathBuf },
}
