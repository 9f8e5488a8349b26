//! A platform as it was meant: machines, sites, and what each needs. The settled form of `platform.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::machine::Limits;
use super::names::{BoxName, Domain, MachineName, PlatformName, RoleName, SiteName};

/// A platform after every check: names are unique, boxes and roles that it mentions exist, `after` and `needs` have no cycle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    pub name: PlatformName,
    pub summary: String,
    /// Overrides the host's domain.
    pub domain: Option<Domain>,
    /// Roles in the order in which the file names them.
    pub machines: Vec<Machine>,
    pub sites: Vec<Site>,
    /// The folder that holds `platform.toml`.
    pub folder: PathBuf,
}

/// A role and how many machines play it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub role: RoleName,
    pub summary: String,
    pub boxed: BoxRef,
    /// `None` is a single machine without an index in its name.
    pub count: Option<u32>,
    pub limits: Limits,
    /// Roles that must answer before these start.
    pub after: Vec<RoleName>,
    /// Absolute folders inside the machine that survive when its box changes.
    pub data: Vec<String>,
    /// Scripts of the platform run once on top of the box; their result is the platform's golden layer.
    pub provision: Vec<PathBuf>,
}

impl Machine {
    /// The names of its machines, in order.
    pub fn names(&self) -> Vec<MachineName> {
        let indexes = match self.count {
            None => vec![None],
            Some(count) => (1..=count).map(Some).collect(),
        };
        indexes
            .into_iter()
            .map(|index| self.role.machine(index).expect("configuration refuses roles whose indexed names are too long"))
            .collect()
    }
}

/// Which recipe a machine runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BoxRef {
    pub name: BoxName,
}

/// An application reachable as `<site>.<environment>.<platform>.<domain>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    pub name: SiteName,
    pub on: RoleName,
    pub port: u16,
    /// Path that answers 200–399 when the site works.
    pub health: String,
    /// Production's names for it, valid inside the environment.
    pub aliases: Vec<String>,
}

/// How to tell that something answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The port accepts a connection.
    Tcp { port: u16 },
    /// `GET path` answers 200–399.
    Http {
        port: u16,
        path: String,
        /// Name to ask for; the machine's own where none is given.
        host: Option<String>,
    },
    /// The program exits with 0 inside the machine.
    Command { argv: Vec<String> },
    /// The machine's init has finished starting.
    Booted,
}

/// What must hold before a machine counts as up, and for how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub checks: Vec<Check>,
    pub deadline_seconds: u32,
}

impl Platform {
    /// Every machine of an environment with its role.
    pub fn machines_by_name(&self) -> BTreeMap<MachineName, &Machine> {
        self.machines.iter().flat_map(|machine| machine.names().into_iter().map(move |name| (name, machine))).collect()
    }

    pub fn domain_or<'a>(&'a self, host: &'a Domain) -> &'a Domain {
        self.domain.as_ref().unwrap_or(host)
    }
}
