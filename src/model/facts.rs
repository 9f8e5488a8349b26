//! What templates know of their environment, and what `env:show --facts` prints. A key of these types is a word that users
//! write between `{{` and `}}`, so none changes its name or its meaning.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::names::{Domain, EnvironmentName, MachineName, PlatformName, RoleName, SiteName};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `1161`
    pub env: EnvironmentName,
    pub platform: PlatformName,
    pub domain: Domain,
    /// The person who made it.
    pub owner: String,
    /// `1161.shop.example.test`
    pub host: String,
    pub url: String,
    pub network: NetworkFacts,
    pub machines: BTreeMap<MachineName, MachineFacts>,
    /// The same machines, by role and in order.
    pub roles: BTreeMap<RoleName, Vec<MachineFacts>>,
    pub sites: BTreeMap<SiteName, SiteFacts>,
    pub data: BTreeMap<String, DataFacts>,
    /// The machine that a file is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine: Option<MachineFacts>,
    /// The site that a file or a variable is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub site: Option<SiteFacts>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFacts {
    /// `10.213.0.0/26`
    pub v4: String,
    pub v6: String,
    pub gateway: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineFacts {
    pub name: MachineName,
    pub role: RoleName,
    /// Its place among the machines of its role, from 1.
    pub number: usize,
    /// `web1.1161.shop.example.test`
    pub host: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteFacts {
    pub name: SiteName,
    /// `www.1161.shop.example.test`
    pub host: String,
    pub url: String,
    pub role: RoleName,
    pub port: u16,
    pub aliases: Vec<String>,
    pub machines: Vec<MachineName>,
    /// Only the site's own files know what they are of.
    #[serde(flatten)]
    pub code: Option<CodeFacts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFacts {
    /// None where the checkout is on no branch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub branch: Option<String>,
    pub commit: String,
    /// As `site:list` shows it; none for a checkout.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub release: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    pub role: RoleName,
    /// The first machine that holds it.
    pub machine: MachineName,
    /// `mariadb`; none where it is no database.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub engine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub database: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
}

/// `env:show --facts`: the facts, and beside them what they become where secrets are used, each shown as stars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FactSheet {
    #[serde(flatten)]
    pub facts: Facts,
    /// Each site's variables.
    pub variables: BTreeMap<SiteName, BTreeMap<String, String>>,
    /// The names with which templates of this environment call `secret('…')`.
    pub secrets: BTreeMap<String, String>,
}
