//! The host's own name resolution, pointed at adt's name server for adt's domains and nothing else.
//!
//! ```text
//! System::detect(root) ─ plan(system, wanted) ─► Plan { files, commands, notices } ─ apply ─► saved originals, written files
//!                                                                                   undo ─► the originals, byte for byte
//! ```
//! | system | how |
//! |---|---|
//! | systemd-resolved | `resolved.conf.d/adt-<install>.conf` with `Domains=~…`; other names stay with the links' servers |
//! | NetworkManager's dnsmasq | `NetworkManager/dnsmasq.d/adt-<install>.conf` with `server=/domain/…` |
//! | dnsmasq | `dnsmasq.d/adt-resolver-<install>.conf`, the same |
//! | resolv.conf | adt's address first, in lines that are marked as the installation's |
//!
//! A resolv.conf knows no domains. adt's server is asked first for every name there, and refuses what is not its own; glibc, musl
//! and Go all ask the next server after a refusal, and after a closed port, without a delay. So adt neither forwards for the host
//! nor is missed when it is down, but a resolv.conf can't say a port, holds three servers only, and `options rotate` would
//! break the order. Programs with a resolver of their own may stop at the refusal; /etc/hosts helps those.
//!
//! Must never know: what serves adt's names, and which names there are.

mod ask;
pub mod holder;
mod plain;
mod saved;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::exec::{self, Command};
use crate::model::names::Domain;

pub use ask::ask;
pub use saved::{Change, apply, undo};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{path}` was written by another adt: {what}")]
    BadState { path: PathBuf, what: String },
    #[error("point the host's resolver at adt, which answers at {address}: a resolv.conf can't name a port other than 53")]
    NeedsPort53 { address: SocketAddr },
    #[error("the resolver did not take the new configuration")]
    Reload(#[source] exec::Error),
}

impl Error {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NeedsPort53 { .. } => {
                Some("let adt's name server listen at port 53 of a loopback address of its own".to_owned())
            }
            Self::Reload(error) if !error.tail().is_empty() => Some(error.tail().join("\n")),
            Self::Reload(_) | Self::Io { .. } | Self::BadState { .. } => None,
        }
    }
}

/// Who resolves names for programs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Resolved,
    /// NetworkManager that runs a dnsmasq of its own.
    NetworkManager,
    Dnsmasq,
    Plain,
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Resolved => "systemd-resolved",
            Self::NetworkManager => "NetworkManager's dnsmasq",
            Self::Dnsmasq => "dnsmasq",
            Self::Plain => "resolv.conf",
        })
    }
}

/// Which names shall be asked of which address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub domains: Vec<Domain>,
    pub address: SocketAddr,
    /// The installation, in the names of its files: another one has its own.
    pub owner: String,
    /// Its folder, for people who find its lines.
    pub store: PathBuf,
}

/// What will be done; a value, so that it can be shown first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub system: System,
    /// The installation.
    pub owner: String,
    /// Path below the root, without a leading slash, and content.
    pub files: Vec<(PathBuf, String)>,
    /// Only where something runs that has to read them.
    pub commands: Vec<Command>,
    /// What the person should know.
    pub notices: Vec<String>,
}

impl System {
    /// Reads what is below `root`, which is `/` but in tests.
    pub fn detect(root: &Path) -> Self {
        let servers = nameservers(&read(root, "etc/resolv.conf"));
        let link = std::fs::read_link(root.join("etc/resolv.conf")).unwrap_or_default();
        let stub = servers.iter().any(|server| server == "127.0.0.53" || server == "127.0.0.54");
        // With the other link, resolv.conf has the links' servers, and only nsswitch leads programs to systemd-resolved.
        let switched = read(root, "etc/nsswitch.conf")
            .lines()
            .any(|line| line.trim_start().starts_with("hosts:") && line.split_whitespace().any(|word| word == "resolve"));
        if stub || link.ends_with("systemd/resolve/stub-resolv.conf") || (switched && root.join("run/systemd/resolve").is_dir()) {
            return Self::Resolved;
        }
        let local = servers.first().is_some_and(|server| server.starts_with("127.") || server == "::1");
        if local && network_manager_runs_dnsmasq(root) {
            return Self::NetworkManager;
        }
        if local
            && servers.first().is_some_and(|server| server == "127.0.0.1" || server == "::1")
            && root.join("etc/dnsmasq.d").is_dir()
        {
            return Self::Dnsmasq;
        }
        Self::Plain
    }
}

fn network_manager_runs_dnsmasq(root: &Path) -> bool {
    let folder = root.join("etc/NetworkManager");
    let more = std::fs::read_dir(folder.join("conf.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(folder.join("NetworkManager.conf")).chain(more).filter_map(|path| std::fs::read_to_string(path).ok()).any(
        |text| {
            text.lines()
                .any(|line| line.split_once('=').is_some_and(|(key, value)| key.trim() == "dns" && value.trim() == "dnsmasq"))
        },
    )
}

fn read(root: &Path, path: &str) -> String {
    std::fs::read_to_string(root.join(path)).unwrap_or_default()
}

fn nameservers(text: &str) -> Vec<String> {
    let server = |line: &str| line.trim().strip_prefix("nameserver").map(|rest| rest.trim().to_owned());
    text.lines().filter_map(server).collect()
}

pub fn plan(root: &Path, system: System, wanted: &Wanted) -> Result<Plan> {
    let owner = &wanted.owner;
    let file = |path: &str, text: String| vec![(PathBuf::from(path), text)];
    let service = |verb: &str, unit: &str| vec![Command::new("systemctl").args([verb, unit])];
    let (files, commands, notices) = match system {
        System::Resolved => (
            file(&format!("etc/systemd/resolved.conf.d/adt-{owner}.conf"), resolved(wanted)),
            service("try-restart", "systemd-resolved"),
            Vec::new(),
        ),
        System::NetworkManager => {
            let reload = vec![Command::new("nmcli").args(["general", "reload", "dns-full"])];
            (file(&format!("etc/NetworkManager/dnsmasq.d/adt-{owner}.conf"), dnsmasq(wanted)), reload, Vec::new())
        }
        System::Dnsmasq => (
            file(&format!("etc/dnsmasq.d/adt-resolver-{owner}.conf"), dnsmasq(wanted)),
            service("try-restart", "dnsmasq"),
            Vec::new(),
        ),
        System::Plain => {
            let link = std::fs::read_link(root.join("etc/resolv.conf")).ok();
            let (text, notices) = plain::bind(&read(root, "etc/resolv.conf"), link.as_deref(), wanted)?;
            (file("etc/resolv.conf", text), Vec::new(), notices)
        }
    };
    Ok(Plan { system, owner: owner.clone(), files, commands, notices })
}

const HEAD: &str = "# Written by adt; `adt host:unbind-proxy` removes it.\n";

fn resolved(wanted: &Wanted) -> String {
    let domains: Vec<_> = wanted.domains.iter().map(|domain| format!("~{domain}")).collect();
    format!("{HEAD}[Resolve]\nDNS={}\nDomains={}\n", wanted.address, domains.join(" "))
}

fn dnsmasq(wanted: &Wanted) -> String {
    let (ip, port) = (wanted.address.ip(), wanted.address.port());
    // An answer with a private address would else be dropped where dnsmasq guards against rebinding.
    let lines = wanted.domains.iter().map(|domain| format!("server=/{domain}/{ip}#{port}\nrebind-domain-ok=/{domain}/\n"));
    HEAD.to_owned() + &lines.collect::<String>()
}

/// What the host's resolution makes of a name that adt answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Works,
    /// With what it found instead.
    Fails(Vec<String>),
}

/// Asks as every program does, through getaddrinfo, whether `name` has the address `expected`.
pub fn check(name: &str, expected: std::net::IpAddr) -> Verdict {
    let text = Command::new("getent").args(["ahosts", name]).run().map(|output| output.text()).unwrap_or_default();
    let mut found: Vec<String> = text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    found.dedup();
    if found.iter().any(|address| address.parse() == Ok(expected)) { Verdict::Works } else { Verdict::Fails(found) }
}
