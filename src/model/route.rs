//! Names and traffic as data: what the name server, the proxy and the generated configurations are all made from.
//!
//! Routes are a pure function of the store, so every reader of them says the same, and the same store gives the same bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::edge::Edge;
use super::names::{Domain, EnvironmentId, MachineName, PlatformName, SiteName};

/// The header by which an answer of the proxy itself is told from one of a machine.
pub const OWN_PAGE: &str = "adt-page";

/// Everything that can be reached by name on this host. Sorted by name at every level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// The host's own domain; `adt` has its homepage there.
    pub domain: Domain,
    pub platforms: Vec<PlatformRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformRoute {
    pub name: PlatformName,
    pub summary: String,
    /// The host's, unless the platform has its own.
    pub domain: Domain,
    pub environments: Vec<EnvironmentRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentRoute {
    pub id: EnvironmentId,
    pub domain: Domain,
    /// Meant to be up. Names of a halted environment still resolve, so that its page can say that it is halted.
    pub up: bool,
    pub owner: String,
    /// Seconds since 1970.
    pub created: i64,
    pub gateway_v4: Ipv4Addr,
    pub gateway_v6: Ipv6Addr,
    pub machines: Vec<MachineRoute>,
    pub sites: Vec<SiteRoute>,
    /// By which names the world reaches its sites.
    #[serde(default, skip_serializing_if = "Edge::is_empty")]
    pub edge: Edge,
}

/// Reached directly, on every port: `db.1161.shop.example.test:3306`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRoute {
    pub name: MachineName,
    pub v4: Ipv4Addr,
    /// `None` where another server has it: between servers it is IPv4 only.
    pub v6: Option<Ipv6Addr>,
}

impl MachineRoute {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        std::iter::once(IpAddr::V4(self.v4)).chain(self.v6.map(IpAddr::V6))
    }
}

/// Reached through the proxy: `https://www.1161.shop.example.test`, and any name below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRoute {
    pub name: SiteName,
    /// `www.1161.shop.example.test`
    pub host: String,
    /// Production's names for it; valid inside the environment only.
    pub aliases: Vec<String>,
    pub backends: Vec<Backend>,
    /// Path that answers 200 to 399 when a backend works.
    pub health: String,
    pub protocol: Protocol,
    /// A client stays with the backend that answered it first.
    pub sticky: bool,
    /// Whether http is answered with a redirect to https.
    pub https_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub machine: MachineName,
    pub address: SocketAddr,
}

/// What a backend speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS, as gRPC servers do.
    H2c,
}

impl PlatformRoute {
    /// `shop.example.test`
    pub fn host(&self) -> String {
        format!("{}.{}", self.name, self.domain)
    }
}

impl EnvironmentRoute {
    /// The first address of the /26 that an address is in: each environment has one.
    pub fn network_v4(address: Ipv4Addr) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(address) & !0x3f)
    }

    /// `1161.shop.example.test`
    pub fn host(&self) -> String {
        self.id.fqdn(&self.domain)
    }

    /// The sites that the world reaches, each once for each of its names there.
    pub fn world(&self) -> impl Iterator<Item = (&SiteRoute, &Domain)> {
        let named = |name: &SiteName| self.sites.iter().find(|site| site.name == *name);
        self.edge.all().filter_map(move |(site, name)| Some((named(site)?, name)))
    }

    /// `db.1161.shop.example.test`
    pub fn machine_host(&self, machine: &MachineRoute) -> String {
        format!("{}.{}", machine.name, self.host())
    }
}

impl Routes {
    pub fn environments(&self) -> impl Iterator<Item = &EnvironmentRoute> {
        self.platforms.iter().flat_map(|platform| &platform.environments)
    }

    /// Whether the world reaches anything here.
    pub fn has_world(&self) -> bool {
        self.environments().any(|environment| environment.world().next().is_some())
    }

    /// Every domain that adt answers for: the host's, and those of platforms with their own.
    pub fn domains(&self) -> Vec<&Domain> {
        let mut all = vec![&self.domain];
        for platform in &self.platforms {
            if !all.contains(&&platform.domain) {
                all.push(&platform.domain);
            }
        }
        all
    }
}
