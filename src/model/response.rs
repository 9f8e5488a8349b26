//! What the engine answers. `--json` prints these types as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::access::AccessReport;
use super::edge::Edge;
use super::facts::FactSheet;
use super::failure::Failure;
use super::limits::Limits;
use super::machine::MachineState;
use super::mishap::Broken;
use super::names::{BoxName, Digest, EnvironmentId, MachineName, ProviderName, RoleName, SiteName, SnapshotName};
use super::seat::Seat;
use super::step::Plan;
use super::target::{LayerProof, Promoted, ReleaseProof, TargetStep, TargetSummary};
use super::topology::Mode;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    Done(Done),
    Check(Checklist),
    Platforms(Vec<PlatformSummary>),
    Environments(Vec<EnvironmentSummary>),
    Environment(Box<EnvironmentDetail>),
    Facts(Box<FactSheet>),
    Sites(Vec<SiteDetail>),
    Urls(Vec<Url>),
    Boxes(Vec<BoxSummary>),
    BoxDetail(Box<BoxDetail>),
    Snapshots(Vec<SnapshotSummary>),
    Built(Vec<Built>),
    Carried(Vec<Carried>),
    Targets(Vec<TargetSummary>),
    History(Vec<Promoted>),
    Promotion(Box<Promotion>),
    Access(Vec<AccessReport>),
}

/// One moment of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    pub name: SnapshotName,
    /// Seconds since 1970.
    pub taken: i64,
    pub reason: String,
    /// Whether the platform's rule may remove it.
    pub automatic: bool,
    /// Bytes that would be free without it.
    pub alone: Option<u64>,
}

/// The end of a verb.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// One line for the user, e.g. "`shop/1161` is up".
    pub summary: String,
    pub changed: bool,
    /// With a dry run: what would be done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<Plan>,
    /// What to do next, as commands.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub next: Vec<String>,
    /// By which names the world reaches it then, of an environment of a target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub edge: Option<Box<Edge>>,
    /// What vanishes or vanished, for destructive verbs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub removes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checklist {
    pub items: Vec<CheckItem>,
}

impl Checklist {
    pub fn healthy(&self) -> bool {
        !self.items.iter().any(|item| item.verdict == Verdict::Fault)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Ok,
    /// Works, but something should be known.
    Notice,
    Fault,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckItem {
    /// Where it lies on the way from a browser to a site, if it does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<CheckStep>,
    /// The environment that was probed, in a check of several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub environment: Option<EnvironmentId>,
    /// What was probed, e.g. `www.1161.shop.example.test` or `shop/1161/web1`.
    pub subject: String,
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
}

/// The way from a name to an answer, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckStep {
    /// The host's resolver knows the name.
    Name,
    /// Somebody listens where the name leads.
    Address,
    /// A browser trusts who listens.
    Certificate,
    /// Who listens knows the site.
    Proxy,
    /// The machine runs and its port is open.
    Machine,
    /// The site works.
    Application,
    /// The world reaches the site.
    World,
}

impl CheckStep {
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Address => "address",
            Self::Certificate => "certificate",
            Self::Proxy => "proxy",
            Self::Machine => "machine",
            Self::Application => "application",
            Self::World => "world",
        }
    }
}

impl CheckItem {
    pub fn ok(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        let (subject, seen) = (subject.into(), seen.into());
        Self { step: None, environment: None, subject, verdict: Verdict::Ok, seen, remedy: None }
    }

    pub fn notice(subject: impl Into<String>, seen: impl Into<String>, remedy: Option<String>) -> Self {
        Self { verdict: Verdict::Notice, remedy, ..Self::ok(subject, seen) }
    }

    /// Whatever is at fault has something that helps.
    pub fn fault(subject: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fault, remedy: Some(remedy.into()), ..Self::ok(subject, seen) }
    }

    pub fn at(self, step: CheckStep) -> Self {
        Self { step: Some(step), ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlatformSummary {
    /// As it is in its record; of a damaged one this may be no name.
    pub name: String,
    pub summary: String,
    pub folder: PathBuf,
    pub source: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub branch: Option<String>,
    pub environments: usize,
    pub up: usize,
    /// Why its definition can't be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<Failure>,
}

/// One word for a whole environment, derived from its machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnvironmentState {
    Up,
    /// Some machines run, some don't.
    Partial,
    Halted,
    Frozen,
    /// Wanted up, but nothing runs: the host was restarted.
    Down,
    /// A destroy was interrupted.
    Leaving,
    Broken,
}

impl EnvironmentState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Partial => "partial",
            Self::Halted => "halted",
            Self::Frozen => "frozen",
            Self::Down => "down",
            Self::Leaving => "leaving",
            Self::Broken => "broken",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentSummary {
    /// As they are in its record; of a damaged one these may be no names.
    pub platform: String,
    pub name: String,
    pub state: EnvironmentState,
    pub machines: BTreeMap<MachineName, String>,
    pub sites: Vec<SiteName>,
    /// What runs of the sites that have a source, as the store says it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub code: BTreeMap<SiteName, CodeSummary>,
    pub owner: String,
    /// Everybody who may use this host's adt may do with it what its owner may.
    #[serde(default)]
    pub shared: bool,
    pub created: i64,
    pub updated: i64,
    /// Bytes beyond its layers; `None` when it could not be read.
    pub disk: Option<u64>,
    /// Why its record can't be read; then state and the rest say nothing about its machines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentDetail {
    pub id: EnvironmentId,
    pub state: EnvironmentState,
    pub owner: String,
    #[serde(default)]
    pub shared: bool,
    pub created: i64,
    pub updated: i64,
    pub folder: PathBuf,
    pub network: String,
    pub machines: Vec<MachineDetail>,
    pub sites: Vec<SiteDetail>,
    #[serde(default)]
    pub volumes: Vec<VolumeDetail>,
}

/// A folder of a machine whose content outlives the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeDetail {
    pub machine: MachineName,
    pub path: String,
    /// Bytes on disk beyond its seed.
    pub size: u64,
    /// Whether the definition still has a machine that shows it.
    pub used: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineDetail {
    pub name: MachineName,
    pub role: RoleName,
    pub state: MachineState,
    pub boxed: BoxName,
    pub provider: ProviderName,
    pub fqdn: String,
    pub addresses: Vec<IpAddr>,
    pub limits: Limits,
    pub disk: Option<u64>,
    pub layers: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteDetail {
    pub name: SiteName,
    pub host: String,
    /// Where each of its machines serves it.
    pub addresses: Vec<String>,
    pub aliases: Vec<String>,
    /// Its code, where that is not its box's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<CodeDetail>,
}

/// Which code of a site an environment runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeSummary {
    pub branch: String,
    /// Why this branch.
    pub why: String,
    /// The commit that it was brought to last.
    pub commit: String,
    pub mode: Mode,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub release: Option<Digest>,
}

/// The same with what its person has made of it since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeDetail {
    #[serde(flatten)]
    pub summary: CodeSummary,
    pub source: String,
    /// The working tree of a live site.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub folder: Option<PathBuf>,
    /// In words, e.g. `2 changed files`; empty where it is as its branch.
    pub drift: Vec<String>,
    /// Seconds since the host's mirror was last known to be as the source.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mirror_age: Option<i64>,
}

/// A page of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Url {
    /// `None` is the environment's own homepage.
    pub site: Option<SiteName>,
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxSummary {
    pub name: BoxName,
    pub summary: String,
    /// `shipped`, `host` or the platform's name.
    pub origin: String,
    pub from: String,
    pub built: bool,
    pub digest: Option<Digest>,
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxDetail {
    #[serde(flatten)]
    pub summary: BoxSummary,
    pub folder: PathBuf,
    pub packages: Vec<String>,
    pub services: Vec<String>,
    pub exposes: Vec<u16>,
    /// The layers it stands on, the base first.
    pub chain: Vec<LayerSummary>,
    pub used_by: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSummary {
    pub name: BoxName,
    /// What it is made of.
    pub digest: Digest,
    /// What it is; `None` where nobody asked yet.
    pub content: Option<Digest>,
    /// `None` where it is not built.
    pub size: Option<u64>,
}

/// What became of a layer that was to be written to a file, or is read from one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    pub name: BoxName,
    pub digest: Digest,
    pub content: Option<Digest>,
    pub size: u64,
    pub outcome: CarryOutcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarryOutcome {
    Packed,
    /// Who receives it has it.
    LeftOut,
    Imported,
    /// The same was in the store.
    There,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Built {
    pub name: String,
    pub outcome: BuildOutcome,
    pub digest: Option<Digest>,
    pub milliseconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildOutcome {
    Built,
    Unchanged,
    Failed,
    /// Its parent failed.
    Skipped,
}

/// A release on a shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseSummary {
    /// What it is made of.
    pub digest: Digest,
    /// What it is; `None` where nobody asked yet.
    pub content: Option<Digest>,
    /// Bytes of its archive.
    pub size: u64,
}

/// What a server has of an environment and of all that it could stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Bytes that its store may still take.
    pub free: u64,
    /// Every whole layer.
    pub layers: Vec<LayerSummary>,
    /// The layers that the environment stands on.
    #[serde(default)]
    pub stands_on: Vec<Digest>,
    /// Every whole release.
    #[serde(default)]
    pub releases: Vec<ReleaseSummary>,
    /// What the environment's sites serve of their sources.
    #[serde(default)]
    pub serves: BTreeMap<SiteName, CodeSummary>,
    /// What the environment is wanted to be, in a word; `None` where there is none.
    pub wanted: Option<String>,
    /// Its promotions, the oldest first.
    pub promotions: Vec<Promoted>,
    /// Which networks its target lets in, as far as that is in force.
    #[serde(default)]
    pub admin: BTreeSet<IpNet>,
    /// The environment's.
    #[serde(default)]
    pub edge: Edge,
    /// What a way back would make of it; `None` where there is no way back.
    #[serde(default)]
    pub edge_before: Option<Edge>,
    /// What the last promotion brought, which a way back may have taken away since.
    #[serde(default)]
    pub edge_last: Option<Edge>,
    /// The path of each of its sites that answers when it works.
    #[serde(default)]
    pub health: BTreeMap<SiteName, String>,
    /// Certificates, in PEM, of adt's authorities there for names that the world knows.
    #[serde(default)]
    pub authorities: Vec<String>,
    /// What it knows of other servers that carry the environment.
    #[serde(default)]
    pub seat: Option<Seat>,
    /// Where each machine stands, as far as it was told.
    #[serde(default)]
    pub placed: BTreeMap<MachineName, String>,
    /// The machines whose data is here.
    #[serde(default)]
    pub holds: BTreeSet<MachineName>,
}

/// What a promotion or a way back did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// The environment on the server.
    pub id: EnvironmentId,
    pub server: String,
    pub summary: String,
    pub changed: bool,
    /// Whether this is only what would be done.
    pub dry_run: bool,
    /// What this was decided from, on both sides. `None` where nothing was looked at to be saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Digest>,
    pub steps: Vec<TargetStep>,
    /// Empty unless something was done.
    pub layers: Vec<LayerProof>,
    /// The same for what its sites serve.
    pub releases: Vec<ReleaseProof>,
    /// What the environment says of itself there; empty unless something was done.
    pub checks: Checklist,
    /// What a rehearsal broke on the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<Broken>,
    pub next: Vec<String>,
}

impl Promotion {
    /// Nothing of it is done yet.
    pub fn planned(id: EnvironmentId, server: String, dry_run: bool, steps: Vec<TargetStep>) -> Self {
        Self {
            id,
            server,
            summary: String::new(),
            changed: false,
            dry_run,
            seen: None,
            steps,
            layers: Vec::new(),
            releases: Vec::new(),
            checks: Checklist::default(),
            broken: Vec::new(),
            next: Vec::new(),
        }
    }

    /// Whether what was done is proven.
    pub fn holds(&self) -> bool {
        self.checks.healthy() && self.layers.iter().all(LayerProof::is_equal) && self.releases.iter().all(ReleaseProof::is_equal)
    }
}
