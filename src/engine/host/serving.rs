//! Who serves names and pages on this host: adt's own process, or a server that adt wrote configuration for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::bind::{self, Home, Server};
use crate::engine::Engine;
use crate::model::EnvironmentId;
use crate::resolver::holder::{SYSTEMD, who_listens};
use crate::store;

/// Who answers at the address that names lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// adt's own process, if it runs.
    Own(Option<store::Holder>),
    Other(Server, bind::Bound),
}

impl Engine {
    /// Who is meant to serve pages: adt itself, unless only another server was bound.
    pub(in crate::engine) fn pages_served(&self) -> Serving {
        self.served([Server::Apache, Server::Nginx])
    }

    pub(in crate::engine) fn names_served(&self) -> Serving {
        self.served([Server::Bind, Server::Dnsmasq])
    }

    /// Whether somebody serves the pages of an environment now.
    pub(in crate::engine) fn is_served(&self, id: &EnvironmentId) -> bool {
        let pages = self.pages_served();
        pages != Serving::Own(None) && pages.is_bound_to(id)
    }

    fn served(&self, others: [Server; 2]) -> Serving {
        let own = self.store.server();
        if own.is_some() {
            return Serving::Own(own);
        }
        // What can't be read was not written by this adt; `host:check` tells of it.
        let bound = |server| {
            let home = Home::debian(server);
            // Another installation's serves nothing of this one.
            let owner = bind::owner(&home).ok().flatten()?;
            let is_ours = owner.is_empty() || owner == self.store.install();
            bind::bound(&home).ok().flatten().filter(|_| is_ours).map(|bound| Serving::Other(server, bound))
        };
        others.into_iter().find_map(bound).unwrap_or(Serving::Own(None))
    }
}

impl Serving {
    /// The command that starts it.
    pub fn start(&self) -> String {
        match self {
            Self::Own(_) => "adt host:up --detach".to_owned(),
            Self::Other(server, _) => {
                let unit = Home::debian(*server).unit.unwrap_or_else(|| server.to_string());
                format!("systemctl restart {unit}")
            }
        }
    }

    /// The command that makes it serve an environment it does not know.
    pub fn follow(&self, id: &EnvironmentId) -> String {
        match self {
            Self::Own(_) => "adt host:halt; adt host:up --detach".to_owned(),
            Self::Other(server, _) => format!("adt host:bind-proxy --with {server} {} {}", id.platform, id.name),
        }
    }

    /// Where names are asked for: another server keeps to the addresses that it has.
    pub fn name_server(&self, listen: Ipv4Addr) -> SocketAddr {
        let ip = if matches!(self, Self::Own(_)) { listen } else { Ipv4Addr::LOCALHOST };
        (ip, 53).into()
    }

    /// The commands that make this host's resolver ask it; another server's place there is its owner's affair.
    pub fn ask(&self) -> &'static str {
        match self {
            Self::Own(_) => "adt host:bind-proxy",
            Self::Other(..) => "adt host:up --detach; adt host:bind-proxy",
        }
    }

    pub fn is_bound_to(&self, id: &EnvironmentId) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Other(_, bound) => bound.holds(id),
        }
    }
}

/// Who has one address, seen from what should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    Nobody,
    /// By whom it should be; in words.
    Right(String),
    Foreign(Vec<String>),
}

/// Looks who listens at one of the ports that `serving` should have.
pub fn held(serving: &Serving, listen: Ipv4Addr, port: u16) -> Held {
    let holders = who_listens(SocketAddr::new(IpAddr::V4(listen), port));
    let right = holders.iter().find(|holder| match serving {
        Serving::Own(own) => own.as_ref().is_some_and(|own| own.pid == holder.pid),
        Serving::Other(server, _) => holder.program == program(*server),
    });
    match right {
        _ if holders.is_empty() => Held::Nobody,
        Some(right) => Held::Right(right.to_string()),
        None => Held::Foreign(holders.iter().map(ToString::to_string).collect()),
    }
}

/// What to do about others at an address: they may serve adt's sites too where adt can write for them.
pub fn make_way(serving: &Serving, listen: Ipv4Addr, port: u16) -> String {
    let holders = who_listens(SocketAddr::new(IpAddr::V4(listen), port));
    let start = serving.start();
    match holders.first() {
        None => start,
        // It keeps what adt listened at until that runs again.
        Some(holder) if holder.pid == SYSTEMD => start,
        Some(holder) => match Server::ALL.into_iter().find(|server| program(*server) == holder.program) {
            Some(server) => format!("adt host:bind-proxy --with {server}"),
            None => format!("kill {}; {start}", holder.pid),
        },
    }
}

/// What the kernel calls a server's process.
fn program(server: Server) -> &'static str {
    match server {
        Server::Apache => "apache2",
        Server::Nginx => "nginx",
        Server::Bind => "named",
        Server::Dnsmasq => "dnsmasq",
    }
}
