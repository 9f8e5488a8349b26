//! Which environment gets which addresses. Pure.

use ipnet::IpNet;

/// A live route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub net: IpNet,
    pub device: String,
}
