//! What the store remembers of a platform and of an environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::machine::Rewound;
use crate::model::topology::{HOST_FOLDER, Mode, RoleFile};
use crate::model::{
    Digest, Domain, Edge, EnvironmentId, Health, Machine, MachineName, Platform, PlatformName, ProviderName, RoleName, Seat,
    Site, SiteName,
};

/// A platform this host knows: where its folder is and where that came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformRecord {
    pub name: PlatformName,
    pub folder: PathBuf,
    /// Git address, folder or name of a shipped example.
    pub source: String,
    pub branch: Option<String>,
    /// Seconds since 1970.
    pub created: i64,
    /// Whose folder it was when it was added: what lies in it is read as them, whatever its path leads to by then. An earlier
    /// adt did not write it down.
    #[serde(default)]
    pub keeper: Option<u32>,
}

/// Whom an environment belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub name: String,
    /// What identifies them: a name can be given to another person later. An earlier adt wrote down the name alone.
    pub user: Option<u32>,
}

/// What the user wants of an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    Up,
    Halted,
    /// Halted with its platform; `platform:up` brings exactly these back.
    Paused,
    /// A destroy has begun and must be finished.
    Gone,
}

impl Wanted {
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Halted => "halted",
            Self::Paused => "paused",
            Self::Gone => "gone",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        [Self::Up, Self::Halted, Self::Paused, Self::Gone].into_iter().find(|wanted| wanted.word() == word)
    }
}

/// An environment as it was created or last reloaded. Machines are derived from this alone, so that a change in the
/// platform's folder is in force after `env:reload` and not before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    pub id: EnvironmentId,
    pub wanted: Wanted,
    pub created: i64,
    pub updated: i64,
    /// The person who made it.
    pub owner: Owner,
    /// Everybody who may use this host's adt may do with it what its owner may.
    pub shared: bool,
    pub network: Ipv4Net,
    pub definition: Definition,
    /// Bytes on disk when it was last measured: when it was halted or, where many are up, behind a listing.
    pub disk: Option<u64>,
}

/// Records as they were read: a damaged one hides none of the others.
#[derive(Debug, Default)]
pub struct Readable {
    pub sound: Vec<Environment>,
    pub damaged: Vec<Damaged>,
}

/// A record that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// As they are written there, which may be no name.
    pub platform: String,
    pub name: String,
    pub what: String,
}

impl Damaged {
    /// `None` where its very name is damaged; then nothing but the record can be there.
    pub fn id(&self) -> Option<EnvironmentId> {
        let (platform, name) = (self.platform.parse().ok()?, self.name.parse().ok()?);
        Some(EnvironmentId { platform, name })
    }

    /// The command that removes it.
    pub fn removal(&self) -> String {
        removal(&self.platform, &self.name)
    }
}

/// What may be no name is one word for a shell.
pub fn removal(platform: &str, name: &str) -> String {
    let word = |word: &str| {
        let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    format!("adt env:destroy {} {}", word(platform), word(name))
}

/// The frozen copy of the platform that an environment runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    pub platform: Platform,
    pub domain: Domain,
    #[serde(default)]
    pub providers: Providers,
    pub boxes: BTreeMap<RoleName, BoxInUse>,
    /// Host numbers within the network; a machine keeps its own for life.
    pub numbers: BTreeMap<MachineName, u8>,
    /// How often the machines of a role went back to their seed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seeded: BTreeMap<RoleName, u32>,
    /// The layers that the volumes of a role begin from, by path, where these are no longer its box's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seeds: BTreeMap<RoleName, BTreeMap<String, Vec<Digest>>>,
    /// A way back to a snapshot that is not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewound: Option<Rewound>,
    /// Sites of the platform that this environment does without; `platform` has only the others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<SiteName>,
    /// The platform's files for its machines, not yet rendered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<RoleName, Vec<RoleFile>>,
    /// The release that each site with a source serves, where a promotion says so. What is served meanwhile, and everywhere
    /// else, is kept apart: see [`SiteCode`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub promoted: BTreeMap<SiteName, SiteCode>,
    /// By which names the world reaches its sites; only an environment that was promoted has some.
    #[serde(default, skip_serializing_if = "Edge::is_empty")]
    pub edge: Edge,
    /// Which server each machine stands on, where several carry the environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placed: BTreeMap<MachineName, String>,
    /// Which of them this host is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seat: Option<Seat>,
}

impl Definition {
    /// The layers that a role's volume at `path` begins from. The machines of a host begin from none.
    pub fn seed(&self, role: &RoleName, path: &str) -> &[Digest] {
        if path == HOST_FOLDER && self.platform.machines.iter().any(|machine| machine.role == *role && machine.host) {
            return &[];
        }
        let own = self.seeds.get(role).and_then(|paths| paths.get(path));
        own.or_else(|| self.boxes.get(role).map(|boxed| &boxed.layers)).map(Vec::as_slice).unwrap_or_default()
    }

    /// What machines of a role run on.
    pub fn provider<'a>(&'a self, machine: &'a Machine) -> &'a ProviderName {
        let own = machine.provider.as_ref().map(|wish| &wish.name).filter(|_| !self.providers.for_all);
        own.unwrap_or(&self.providers.usual)
    }

    /// Whether a machine of it stands on this host, not on another server of its target.
    pub fn is_here(&self, machine: &MachineName) -> bool {
        self.seat.as_ref().is_none_or(|seat| self.placed.get(machine) == Some(&seat.own))
    }

    /// The machines that stand on this host.
    pub fn machines_here(&self) -> BTreeMap<MachineName, &Machine> {
        let mut machines = self.platform.machines_by_name();
        machines.retain(|name, _| self.is_here(name));
        machines
    }

    /// The machines here that serve a site, in order.
    pub fn serving(&self, site: &Site) -> Vec<MachineName> {
        let names = self.platform.machine(&site.on).map(Machine::names).unwrap_or_default();
        names.into_iter().filter(|name| self.is_here(name)).collect()
    }

    /// Every layer that its machines here and their volumes need.
    pub fn layers(&self) -> impl Iterator<Item = &Digest> {
        let roles: BTreeSet<_> = self.machines_here().into_values().map(|machine| &machine.role).collect();
        let is_here = move |role: &RoleName| roles.contains(role);
        let boxes = self.boxes.iter().filter({
            let is_here = is_here.clone();
            move |(role, _)| is_here(role)
        });
        let seeds = self.seeds.iter().filter(move |(role, _)| is_here(role));
        boxes.flat_map(|(_, boxed)| &boxed.layers).chain(seeds.flat_map(|(_, paths)| paths.values().flatten()))
    }
}

/// What the machines of an environment run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Providers {
    /// Those of roles that wish nothing.
    pub usual: ProviderName,
    /// Those of all roles, whatever they wish.
    #[serde(default)]
    pub for_all: bool,
    /// Every one that a machine of it was ever wanted on: where its machines, its data and what a killed command left are
    /// looked for.
    pub ever: BTreeSet<ProviderName>,
}

impl Providers {
    /// Nothing is there yet.
    pub fn new(usual: ProviderName, for_all: bool) -> Self {
        Self { ever: [usual.clone()].into(), usual, for_all }
    }
}

/// Those of a record that is older than this word.
impl Default for Providers {
    fn default() -> Self {
        Self::new(ProviderName::first(), false)
    }
}

/// The layers that a role's machines stand on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxInUse {
    /// The base first.
    pub layers: Vec<Digest>,
    pub health: Health,
    /// Log files that these boxes' programs write.
    #[serde(default)]
    pub logs: Vec<String>,
    /// Units that these boxes enable.
    #[serde(default)]
    pub services: Vec<String>,
}

/// What an environment runs of one site's code. A site without it is served by its box as it is. Kept apart from the
/// definition, which most environments of a platform share to the letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCode {
    pub branch: String,
    pub choice: Choice,
    pub commit: String,
    pub mode: Mode,
    /// The release that is served and those before it, newest first; empty in live mode.
    #[serde(default)]
    pub releases: Vec<Digest>,
}

/// Why a site runs the branch it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Choice {
    /// The user said so.
    Chosen,
    /// It is what the platform's pattern becomes for this ticket.
    Ticket,
    /// No branch of the ticket's name exists.
    Default { tried: String },
}

impl Choice {
    pub fn words(&self) -> String {
        match self {
            Self::Chosen => "chosen".to_owned(),
            Self::Ticket => "the ticket's".to_owned(),
            Self::Default { tried } => format!("default: there is no `{}`", tried.escape_debug()),
        }
    }
}
