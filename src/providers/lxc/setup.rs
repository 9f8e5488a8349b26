//! What LXC needs of its host besides what every provider needs: rows for `host:bootstrap` and `host:check`, and the proof that all of
//! it together starts a machine.

use std::path::Path;

use super::{Lxc, apparmor, proof};
use crate::providers::{Error, Need, Result, Setup};

/// The program that loads profiles, where Debian has it.
const PARSER: [&str; 2] = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];

impl Setup for Lxc {
    fn needs(&self) -> Vec<Need> {
        if !apparmor::is_ours_to_set() {
            return Vec::new();
        }
        let parser = PARSER.into_iter().find(|path| Path::new(path).exists());
        vec![
            Need {
                subject: "program apparmor_parser".into(),
                state: parser.map(str::to_owned).ok_or_else(|| "not installed, and this kernel has AppArmor on".into()),
                package: Some("apparmor"),
            },
            Need { subject: format!("AppArmor profile {}", apparmor::name()), state: apparmor::state(), package: None },
        ]
    }

    fn set_up(&self) -> Result<()> {
        if !apparmor::is_ours_to_set() {
            return Ok(());
        }
        apparmor::set_up(&self.home.install).map_err(|reason| Error::Setup { what: "load machines' AppArmor profile", reason })
    }

    fn take_out(&self, dry_run: bool) -> Result<Vec<String>> {
        let taken = apparmor::take_out(&self.home.install, dry_run);
        let taken = taken.map_err(|reason| Error::Setup { what: "remove machines' AppArmor profile", reason })?;
        Ok(taken.into_iter().map(|path| path.display().to_string()).collect())
    }

    fn prove(&self) -> Result<Option<String>> {
        proof::run(&self.home)
    }
}
