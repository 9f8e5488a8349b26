//! The one place that names the concrete providers.

use std::path::PathBuf;

use super::Provider;
use super::lxc::{Lxc, LxcHome};
use crate::model::{Failure, IdPool, Kind};

/// The provider that the settings name. `exe` is the program itself, which helps with liblxc, `ids` is where machines' ids
/// come from.
pub fn provider(name: &str, store: PathBuf, install: String, exe: PathBuf, ids: IdPool) -> Result<Box<dyn Provider>, Failure> {
    match name {
        "lxc" => Ok(Box::new(Lxc::new(LxcHome { store, install, exe, ids }))),
        other => Err(Failure::new(Kind::Config, format!("use the provider `{other}`"))
            .cause("this adt has no such provider")
            .hint("set `provider = \"lxc\"` in /etc/adt/adt.toml")),
    }
}
