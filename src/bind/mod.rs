//! The routes as configuration of servers that a team runs already: Apache or nginx for traffic, Bind or dnsmasq for names.
//!
//! ```text
//! Routes ─ files() ─► bytes ─ apply() ─► <root>/.adt-new ─ server's own check ─► <root>/adt ─ whole check ─► reload
//!                                              ▲                    │ fails            │ fails
//!                                              └──── removed ◄──────┘    swapped back ◄┘
//! ```
//! Everything that adt owns is in one folder, `<root>/adt`, and is replaced by one `renameat2(RENAME_EXCHANGE)`, so there is
//! never half of it. Beside it there is only a link, or one line, that makes the server read the folder: see `hook`.
//! `files` is pure: the same routes and the same previous serial numbers give the same bytes.
//!
//! Must never know: machines, the store's database, how adt's own proxy and name server work.
//!
//! Health paths and aliases are not used: neither server checks health without further modules (a failed member is left out
//! for a second instead, and its requests go to the others), and aliases hold inside an environment only.

mod apply;
mod check;
mod front;
mod hook;
mod manifest;
mod material;
mod page;
mod safe;
mod shared;
mod traffic;
mod zone;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::names::EnvironmentId;
use crate::model::route::Routes;
use crate::{exec, template};

pub use apply::{Outcome, apply, bound, outdated, output, owner, unbind};
pub use check::Reloaded;
pub use manifest::Bound;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Template(#[from] template::Error),
    #[error("{what} `{}` can't become part of a server's configuration", value.escape_debug())]
    Unsafe { what: &'static str, value: String },
    #[error("`{path}` would be written twice: two names of the routes are the same")]
    Twice { path: String },
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{server} is not set up here: there is no `{missing}`")]
    NotThere { server: Server, missing: PathBuf },
    #[error("`{path}` is there already and is not adt's")]
    Foreign { path: PathBuf },
    #[error("{server} serves the names of another adt, whose store is {}", named(.store.as_deref(), .owner))]
    Taken { server: Server, store: Option<PathBuf>, owner: String },
    #[error("`{path}` was written by another adt: {what}")]
    BadManifest { path: PathBuf, what: String },
    /// Nothing was replaced, or what was replaced is back.
    #[error("{server} does not accept the new configuration, the old one stays")]
    Refused {
        server: Server,
        #[source]
        source: exec::Error,
    },
    #[error("reload {server}, the old configuration is back")]
    Reload {
        server: Server,
        #[source]
        source: exec::Error,
    },
}

impl Error {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    /// What the server's checker printed.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Refused { source, .. } | Self::Reload { source, .. } => source.tail(),
            Self::Template(_)
            | Self::Unsafe { .. }
            | Self::Twice { .. }
            | Self::Io { .. }
            | Self::NotThere { .. }
            | Self::Foreign { .. }
            | Self::Taken { .. }
            | Self::BadManifest { .. } => &[],
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Template(error) => error.hint(),
            Self::NotThere { server, .. } => Some(format!("install it: `apt install {}`", server.package())),
            Self::Foreign { path } => Some(format!("move `{}` away, then repeat the command", path.display())),
            Self::Taken { store, .. } => Some(match store {
                Some(store) => format!("unbind it there first: adt --store {} host:unbind-proxy", store.display()),
                None => "unbind it there first: `adt --store FOLDER host:unbind-proxy`".to_owned(),
            }),
            Self::Refused { .. } => Some("`adt host:bind-proxy --output DIR` writes the files to a folder to look at".to_owned()),
            Self::Unsafe { .. } | Self::Twice { .. } | Self::Io { .. } | Self::BadManifest { .. } | Self::Reload { .. } => None,
        }
    }
}

/// A store as a person knows it; an earlier adt left its id alone.
fn named(store: Option<&Path>, owner: &str) -> String {
    store.map_or_else(|| format!("the one with the id `{owner}`"), |store| format!("`{}`", store.display()))
}

/// Whose configuration is written.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The installation; another one on the same host has no say in what it wrote.
    pub install: &'a str,
    /// For the other one's message.
    pub store: &'a Path,
}

/// A server that adt can write configuration for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    Apache,
    Nginx,
    Bind,
    Dnsmasq,
}

impl Server {
    pub const ALL: [Self; 4] = [Self::Apache, Self::Nginx, Self::Bind, Self::Dnsmasq];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apache => "apache",
            Self::Nginx => "nginx",
            Self::Bind => "bind",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Apache => "apache2",
            Self::Nginx => "nginx",
            Self::Bind => "bind9",
            Self::Dnsmasq => "dnsmasq",
        }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Server {
    type Err = String;
    fn from_str(word: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|server| server.as_str() == word).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|server| format!("`{server}`")).collect();
            format!("`{word}` is not a server that adt can write for: {}", known.join(", "))
        })
    }
}

/// Where one server has its configuration and how it is told to read it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    pub server: Server,
    /// e.g. `/etc/apache2`
    pub root: PathBuf,
    /// The file that the server starts with; checked as a whole before a reload.
    pub main: PathBuf,
    /// Asked first, through systemctl.
    pub unit: Option<String>,
    /// Where there is no such unit, whoever wrote this file gets the signal to reload.
    pub pid_file: PathBuf,
}

impl Home {
    /// As Debian and Ubuntu have it.
    pub fn debian(server: Server) -> Self {
        let (root, main, unit, pid_file) = match server {
            Server::Apache => ("/etc/apache2", "/etc/apache2/apache2.conf", "apache2", "/run/apache2/apache2.pid"),
            Server::Nginx => ("/etc/nginx", "/etc/nginx/nginx.conf", "nginx", "/run/nginx.pid"),
            Server::Bind => ("/etc/bind", "/etc/bind/named.conf", "named", "/run/named/named.pid"),
            Server::Dnsmasq => ("/etc/dnsmasq.d", "/etc/dnsmasq.conf", "dnsmasq", "/run/dnsmasq/dnsmasq.pid"),
        };
        Self { server, root: root.into(), main: main.into(), unit: Some(unit.to_owned()), pid_file: pid_file.into() }
    }

    fn adt(&self) -> PathBuf {
        self.root.join("adt")
    }
}

/// Where the web server listens, and at which address its names are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    pub v4: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
    pub http: u16,
    pub https: u16,
    /// Empty for every address of the host.
    pub listen: Vec<IpAddr>,
}

/// Files that the web server reads, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// What the files are made from, beside the routes.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The installation whose routes they are.
    pub owner: Owner<'a>,
    pub routes: &'a Routes,
    pub front: &'a Front,
    /// The certificate of a site, an environment, a platform or a domain; it must hold the name and `*.name`.
    pub certificate: &'a dyn Fn(&str) -> Option<Certificate>,
    /// A folder whose files win over adt's own templates: `apache/environment.conf` and so on.
    pub templates: Option<&'a Path>,
    /// Seconds since 1970, where serial numbers start.
    pub now: u32,
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every environment of the routes, also those that come later.
    All,
    /// This one, beside what is there already.
    Add(EnvironmentId),
    /// What is there already without this one.
    Remove(EnvironmentId),
    /// What is there already, as it is now.
    Again,
}

/// One file of a server's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Below `<root>/adt`.
    pub path: String,
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// Every file for one server, sorted by path. `previous` gives a zone file's present content, for its serial number.
pub fn files(home: &Home, facts: &Facts<'_>, previous: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<File>> {
    safe::routes(facts.routes)?;
    safe::path("the folder", &home.root)?;
    let material = material::Material::new(home.server, facts.templates)?;
    let mut files = match home.server {
        Server::Apache | Server::Nginx => traffic::files(home, facts, &material)?,
        Server::Bind => zone::files(home, facts, &material, previous)?,
        Server::Dnsmasq => zone::dnsmasq(home, facts, &material)?,
    };
    files.sort_by(|a, b| a.path.cmp(&b.path));
    match files.windows(2).find(|pair| pair[0].path == pair[1].path) {
        Some(pair) => Err(Error::Twice { path: pair[0].path.clone() }),
        None => Ok(files),
    }
}

fn file(path: impl Into<String>, text: String) -> File {
    File { path: path.into(), bytes: text.into_bytes(), mode: 0o644 }
}
