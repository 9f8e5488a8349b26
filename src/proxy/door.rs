//! The doors that clients come in by.

use std::net::Ipv4Addr;

/// What a client came in by.
#[derive(Debug, Clone, Copy)]
pub struct Door {
    pub secure: bool,
    /// As the client sees it.
    pub port: u16,
    pub whom: Whom,
}

/// Whom a door is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Whoever may reach this host's own address: everything is served.
    Host,
    /// The machines of the environment with this gateway: they see their own sites.
    Machines(Ipv4Addr),
    /// Anybody: there are public names, and nothing else.
    World,
}

impl Whom {
    pub fn gateway(self) -> Option<Ipv4Addr> {
        match self {
            Self::Machines(gateway) => Some(gateway),
            Self::Host | Self::World => None,
        }
    }
}
