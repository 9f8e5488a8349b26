//! The `.mount` unit that mounts a store's pool from the host's start on, where systemd is process 1. `adt.service` comes after
//! it by its `RequiresMountsFor`; without systemd the first command mounts the pool.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::engine::host::service::{is_possible, systemctl};
use crate::engine::host::system_file;
use crate::model::{Failure, Kind};
use crate::store::pool;

pub(in crate::engine) const KIND: &str = "xfs";
/// Space that machines give up goes back to the disk beneath.
pub(in crate::engine) const OPTIONS: &str = "loop,discard";

/// Whether the unit is as it should be, or nobody would read it.
pub(in crate::engine) fn is_there(store: &Path) -> bool {
    !is_possible() || std::fs::read_to_string(path(store)).is_ok_and(|there| there == text(store))
}

pub(in crate::engine) fn install(store: &Path) -> Result<(), Failure> {
    system_file::write(path(store), &text(store))?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--quiet", &name(store)])
}

pub(in crate::engine) fn remove(store: &Path) -> Result<(), Failure> {
    let path = path(store);
    if !path.exists() {
        return Ok(());
    }
    if is_possible() {
        systemctl(&["disable", "--quiet", &name(store)])?;
    }
    std::fs::remove_file(&path)
        .map_err(|error| Failure::new(Kind::Host, format!("remove `{}`", path.display())).because(&error))?;
    if is_possible() { systemctl(&["daemon-reload"]) } else { Ok(()) }
}

fn path(store: &Path) -> PathBuf {
    Path::new("/etc/systemd/system").join(name(store))
}

/// systemd finds the unit of a mount point by its name alone.
fn name(store: &Path) -> String {
    let mut name = String::new();
    for (at, byte) in store.to_string_lossy().trim_matches('/').bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if at == 0 => name.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => name.push(byte.into()),
            _ => write!(name, "\\x{byte:02x}").expect("a string takes any text"),
        }
    }
    name + ".mount"
}

fn text(store: &Path) -> String {
    // The rest of a line is the path; only `%` means something else.
    let word = |path: &Path| path.display().to_string().replace('%', "%%");
    format!(
        "# Written by `adt host:bootstrap --pool`; goes with the pool.\n\
         [Unit]\n\
         Description=adt: the store's pool\n\
         \n\
         [Mount]\n\
         What={}\n\
         Where={}\n\
         Type={KIND}\n\
         Options={OPTIONS}\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        word(&pool::file(store)),
        word(store),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_has_the_name_that_systemd_looks_for() {
        // As `systemd-escape --path --suffix=mount` prints them.
        for (path, unit) in [
            ("/var/lib/adt", "var-lib-adt.mount"),
            ("/srv/my-store/", "srv-my\\x2dstore.mount"),
            ("/.hidden/a b", "\\x2ehidden-a\\x20b.mount"),
        ] {
            assert_eq!(name(Path::new(path)), unit);
        }
    }

    #[test]
    fn the_unit_mounts_the_pool_at_the_store() {
        let text = text(Path::new("/srv/50%/my store"));
        assert!(
            text.contains("What=/srv/50%%/my store.pool\nWhere=/srv/50%%/my store\nType=xfs\nOptions=loop,discard\n"),
            "{text}"
        );
        assert!(text.contains("WantedBy=multi-user.target\n"), "{text}");
    }
}
