//! What can be asked of the engine. The command line makes these; they reach the engine as they are, or over the wire.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::access::AccessChange;
use super::mishap::Mishap;
use super::names::{
    BoxName, BranchName, Digest, EnvironmentId, EnvironmentName, MachineId, MachineName, PlatformName, ProviderName, SiteName,
    SnapshotName,
};
use super::target::Back;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    HostBootstrap(Bootstrap),
    HostCheck,
    HostBind(Bind),
    HostUnbind {
        environment: Option<EnvironmentId>,
    },

    PlatformInit(PlatformInit),
    PlatformList,
    PlatformPull {
        platform: PlatformName,
    },
    PlatformBuild {
        platform: PlatformName,
        force: bool,
    },
    PlatformUp {
        platform: PlatformName,
        environments: Vec<EnvironmentName>,
        dry_run: bool,
    },
    PlatformHalt {
        platform: PlatformName,
        environments: Vec<EnvironmentName>,
        dry_run: bool,
    },
    PlatformDestroy {
        platform: PlatformName,
        environments: Vec<EnvironmentName>,
        dry_run: bool,
    },
    PlatformCheck {
        platform: PlatformName,
        environments: Vec<EnvironmentName>,
    },

    /// `on`: what all of its machines run on, whatever their roles say.
    EnvInit {
        id: EnvironmentId,
        sites: Vec<SiteWish>,
        #[serde(default)]
        on: Option<ProviderName>,
        /// Everybody may do with it what its owner may.
        #[serde(default)]
        shared: bool,
        dry_run: bool,
    },
    EnvUp {
        id: EnvironmentId,
        dry_run: bool,
    },
    EnvHalt {
        id: EnvironmentId,
        dry_run: bool,
    },
    EnvDestroy {
        id: EnvironmentId,
        dry_run: bool,
    },
    /// Removes records that have no valid name, so that nothing but these can be there: an environment's, or without one a
    /// platform's.
    Forget {
        platform: String,
        environment: Option<String>,
    },
    EnvShare {
        id: EnvironmentId,
        shared: bool,
    },
    /// `data`: what its machines hold goes back to the seed.
    EnvReload {
        id: EnvironmentId,
        data: bool,
        dry_run: bool,
    },
    EnvSnapshot {
        id: EnvironmentId,
        name: Option<SnapshotName>,
    },
    EnvSnapshots {
        id: EnvironmentId,
    },
    EnvSnapshotRemove {
        id: EnvironmentId,
        name: SnapshotName,
        dry_run: bool,
    },
    /// To the newest where none is named.
    EnvRewind {
        id: EnvironmentId,
        name: Option<SnapshotName>,
        dry_run: bool,
    },
    EnvCheck {
        id: EnvironmentId,
    },
    EnvList {
        platform: Option<PlatformName>,
    },
    EnvShow {
        id: EnvironmentId,
    },
    EnvFacts {
        id: EnvironmentId,
    },
    EnvUrls {
        id: EnvironmentId,
        check: bool,
    },
    EnvCopy {
        id: EnvironmentId,
        machine: MachineName,
        copy: Copy,
    },

    SiteDeploy {
        id: EnvironmentId,
        site: SiteName,
        what: Deploy,
        dry_run: bool,
    },
    SiteRollback {
        id: EnvironmentId,
        site: SiteName,
        to: Option<String>,
        dry_run: bool,
    },
    SiteAdd {
        id: EnvironmentId,
        site: SiteWish,
        dry_run: bool,
    },
    SiteRemove {
        id: EnvironmentId,
        site: SiteName,
        dry_run: bool,
    },
    SiteBranch {
        id: EnvironmentId,
        site: SiteName,
        branch: BranchName,
        dry_run: bool,
    },
    SiteList {
        id: EnvironmentId,
    },

    BoxList {
        platform: Option<PlatformName>,
    },
    BoxBuild {
        platform: Option<PlatformName>,
        boxes: Vec<BoxName>,
        force: bool,
    },
    BoxShow {
        platform: Option<PlatformName>,
        name: BoxName,
    },
    BoxPrune {
        dry_run: bool,
    },

    TargetList {
        platform: Option<PlatformName>,
    },
    TargetCheck(TargetOf),
    /// What was promoted there, and when.
    TargetHistory(TargetOf),
    /// Who may reach it.
    TargetAccess(TargetOf),
    /// A grant, or its end.
    TargetAdmit {
        of: TargetOf,
        change: AccessChange,
    },
    EnvPromote {
        /// The ticket's environment.
        id: EnvironmentId,
        target: EnvironmentName,
        dry_run: bool,
        /// Of a saved plan: nothing is done where the world is another than it was then.
        #[serde(default)]
        seen: Option<Digest>,
    },
    EnvRollback {
        of: TargetOf,
        back: Back,
        dry_run: bool,
    },
    TargetRehearse {
        of: TargetOf,
        /// The ticket's environment.
        from: EnvironmentName,
        keep: bool,
        /// What is broken at each step, one after the other; none is a rehearsal that goes well.
        #[serde(default)]
        faults: Vec<Mishap>,
    },
}

impl Request {
    /// It looks at the store and the kernel, changes nothing and waits for nobody.
    pub fn only_reads(&self) -> bool {
        match self {
            Self::PlatformList
            | Self::EnvList { .. }
            | Self::EnvShow { .. }
            | Self::EnvFacts { .. }
            | Self::BoxList { .. }
            | Self::BoxShow { .. } => true,
            Self::EnvUrls { check, .. } => !check,
            Self::HostBootstrap(_)
            | Self::HostCheck
            | Self::HostBind(_)
            | Self::HostUnbind { .. }
            | Self::PlatformInit(_)
            | Self::PlatformPull { .. }
            | Self::PlatformBuild { .. }
            | Self::PlatformUp { .. }
            | Self::PlatformHalt { .. }
            | Self::PlatformDestroy { .. }
            | Self::PlatformCheck { .. }
            | Self::EnvInit { .. }
            | Self::EnvUp { .. }
            | Self::EnvHalt { .. }
            | Self::EnvDestroy { .. }
            | Self::Forget { .. }
            | Self::EnvReload { .. }
            | Self::EnvShare { .. }
            | Self::EnvSnapshot { .. }
            | Self::EnvSnapshots { .. }
            | Self::EnvSnapshotRemove { .. }
            | Self::EnvRewind { .. }
            | Self::EnvCheck { .. }
            | Self::EnvCopy { .. }
            | Self::SiteDeploy { .. }
            | Self::SiteRollback { .. }
            | Self::SiteAdd { .. }
            | Self::SiteRemove { .. }
            | Self::SiteBranch { .. }
            | Self::SiteList { .. }
            | Self::BoxBuild { .. }
            | Self::BoxPrune { .. }
            | Self::TargetList { .. }
            | Self::TargetCheck(_)
            | Self::TargetHistory(_)
            | Self::TargetAccess(_)
            | Self::TargetAdmit { .. }
            | Self::EnvPromote { .. }
            | Self::EnvRollback { .. }
            | Self::TargetRehearse { .. } => false,
        }
    }
}

/// A target of a platform. Its environment there has its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetOf {
    pub platform: PlatformName,
    pub target: EnvironmentName,
}

impl TargetOf {
    /// The environment there.
    pub fn id(&self) -> EnvironmentId {
        EnvironmentId { platform: self.platform.clone(), name: self.target.clone() }
    }
}

/// What is set up on this host, or taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    pub remove: bool,
    /// With `remove`: what runs is halted, and all that anybody made stays for whoever sets adt up here again.
    #[serde(default)]
    pub keep_data: bool,
    pub service: bool,
    /// With what must be downloaded; without, what is missing is only told.
    #[serde(default)]
    pub packages: bool,
    /// Bytes that the store's pool may grow to; `None` makes no pool.
    pub pool: Option<u64>,
    /// With `remove`: also a pool that holds boxes and platforms.
    pub remove_pool: bool,
    pub dry_run: bool,
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

/// A site as the user names it: `www` or `www:hotfix`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteWish {
    pub site: SiteName,
    pub branch: Option<BranchName>,
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

impl Copy {
    /// What is true once it is done.
    pub fn summary(&self, machine: &MachineId) -> String {
        match self {
            Self::In { source, target } => format!("`{}` is at `{machine}:{target}`", source.display()),
            Self::Out { source, target } => format!("`{machine}:{source}` is at `{}`", target.display()),
        }
    }
}

/// Layers that are written to a file: no request, because the file is a stream of the caller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub platform: Option<PlatformName>,
    /// With all that they stand on; empty is all that the platform needs.
    pub boxes: Vec<BoxName>,
    /// Layers that who receives the file has, by the digest of their inputs or their content.
    pub without: BTreeSet<Digest>,
}

/// What a deploy puts on machines; without either, the newest commit of the branch that the site is on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    pub branch: Option<BranchName>,
    /// As git abbreviates it.
    pub commit: Option<String>,
}
