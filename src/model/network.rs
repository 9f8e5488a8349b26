//! The network of an environment and a machine's place in it.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::names::EnvironmentId;
use super::tag::Tag;
use super::tie::Tie;

/// Size of an environment's network.
pub const PREFIX: u8 = 26;

/// Host numbers that machines may have; 1 is the bridge and 63 the broadcast address.
pub const NUMBERS: std::ops::RangeInclusive<u8> = 2..=62;

/// The address of a host number.
pub fn numbered(network: Ipv4Net, number: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()) + u32::from(number))
}

/// One bridge per environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub id: EnvironmentId,
    pub tag: Tag,
    /// A /26 of the host's pool; its first address is the bridge itself.
    pub v4: Ipv4Net,
    /// A /64 of the installation's unique local prefix.
    pub v6: Ipv6Net,
    /// How it goes on where other servers carry machines of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie: Option<Tie>,
}

impl NetworkSpec {
    /// Linux allows 15 characters for an interface.
    pub fn bridge(&self) -> String {
        format!("adt{}", self.tag)
    }

    pub fn gateway_v4(&self) -> Ipv4Addr {
        numbered(self.v4, 1)
    }

    pub fn gateway_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.v6.network()) + 1)
    }

    /// The place of host number `number` (2 to 62) in this network.
    pub fn attach(&self, number: u8) -> Attachment {
        Attachment {
            net: self.bridge(),
            cable: format!("adt{}-{number}", self.tag),
            mac: mac(&self.tag, number),
            v4: numbered(self.v4, number),
            v4_prefix: self.v4.prefix_len(),
            v4_gateway: self.gateway_v4(),
            v6: Ipv6Addr::from(u128::from(self.v6.network()) + u128::from(number)),
            v6_prefix: self.v6.prefix_len(),
        }
    }
}

/// Locally administered, and the same again after every restart, so that neighbours' caches stay right.
fn mac(tag: &Tag, number: u8) -> String {
    let b = tag.as_str().as_bytes();
    format!("02:ad:{:02x}:{:02x}:{:02x}:{number:02x}", b[0] ^ (b[1] << 3), b[2] ^ (b[3] << 3), b[4] ^ (b[5] << 3))
}

/// A machine's place in its environment's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The environment's network by its name. Where this host has it, its bridge is called so.
    #[serde(rename = "bridge")]
    pub net: String,
    /// The machine's cable. Where it ends on this host, that end is called so.
    #[serde(rename = "host_link")]
    pub cable: String,
    pub mac: String,
    pub v4: Ipv4Addr,
    pub v4_prefix: u8,
    pub v4_gateway: Ipv4Addr,
    pub v6: Ipv6Addr,
    pub v6_prefix: u8,
}
