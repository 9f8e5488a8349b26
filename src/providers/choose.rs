//! The one place that names the concrete providers. A new one is a folder beside this file and a line in [`registry`].

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::lxc::{self, Lxc, LxcHome};
use super::{Open, Registry};
use crate::model::IdPool;

/// What providers get of the host that they are on.
#[derive(Debug, Clone)]
pub struct Host {
    pub store: PathBuf,
    /// Tells this installation's machines from another's on the same host.
    pub install: String,
    /// The adt program, which providers run again as their helper.
    pub exe: PathBuf,
    /// Where machines' ids come from.
    pub ids: IdPool,
}

/// All that there are, none of them opened.
pub fn registry(host: Host) -> Registry {
    let Host { store, install, exe, ids } = host;
    let home = LxcHome { store, install, exe, ids };
    let lxc: Open = Box::new(move || Ok(Box::new(Lxc::new(home.clone()))));
    Registry::new([("lxc", lxc)])
}

/// Runs adt as the helper that this first word calls; `None` where it calls none.
pub fn help(verb: &OsStr, arguments: impl Iterator<Item = OsString>) -> Option<i32> {
    match verb.to_str()? {
        lxc::helper::VERB => Some(lxc::helper::main(arguments)),
        lxc::masks::VERB => Some(lxc::masks::main()),
        _ => None,
    }
}
