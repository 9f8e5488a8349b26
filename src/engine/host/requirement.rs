//! What this host must have, one thing at a time: what it is called, how it is looked for, and which package brings it.

use std::path::Path;

use crate::disk;
use crate::model::response::CheckItem;

/// One thing that machines need of their host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Requirement {
    /// A program on the path, and the Debian package that brings it.
    Program { program: &'static str, package: &'static str },
    /// A file that any of these patterns' folders may hold.
    Library { name: &'static str, package: &'static str },
    /// A file at a fixed place.
    File { path: &'static str, package: &'static str },
    /// A kernel setting that must be at least this; a host that allows more keeps its value.
    Sysctl { key: &'static str, at_least: u64, why: &'static str },
    /// A filesystem or network ability that may be a module.
    Module { name: &'static str, sign: &'static str },
}

pub(in crate::engine) const REQUIREMENTS: &[Requirement] = &[
    Requirement::Library { name: "liblxc.so.1", package: "liblxc-common" },
    Requirement::Program { program: "mmdebstrap", package: "mmdebstrap" },
    Requirement::Program { program: "ip", package: "iproute2" },
    Requirement::Program { program: "nft", package: "nftables" },
    Requirement::Program { program: "git", package: "git" },
    Requirement::Program { program: "tar", package: "tar" },
    Requirement::Program { program: "zstd", package: "zstd" },
    Requirement::Program { program: "xz", package: "xz-utils" },
    Requirement::File { path: "/usr/share/keyrings/debian-archive-keyring.gpg", package: "debian-archive-keyring" },
    Requirement::Module { name: "overlay", sign: "/sys/module/overlay" },
    Requirement::Module { name: "bridge", sign: "/sys/module/bridge" },
    Requirement::Module { name: "veth", sign: "/sys/module/veth" },
    Requirement::Module { name: "nf_tables", sign: "/sys/module/nf_tables" },
    Requirement::Sysctl { key: "net.ipv4.ip_forward", at_least: 1, why: "machines reach out through this host" },
    Requirement::Sysctl { key: "fs.inotify.max_user_instances", at_least: 8192, why: "each machine's init holds several" },
    Requirement::Sysctl { key: "fs.inotify.max_user_watches", at_least: 524_288, why: "each machine's init holds many" },
    Requirement::Sysctl { key: "kernel.keys.maxkeys", at_least: 2000, why: "each machine's services hold keyrings" },
    Requirement::Sysctl { key: "kernel.pty.max", at_least: 4096, why: "each machine and shell holds one" },
];

impl Requirement {
    pub(in crate::engine) fn subject(self) -> String {
        match self {
            Self::Program { program, .. } => format!("program {program}"),
            Self::Library { name, .. } => format!("library {name}"),
            Self::File { path, .. } => format!("file {path}"),
            Self::Sysctl { key, .. } => format!("kernel setting {key}"),
            Self::Module { name, .. } => format!("kernel module {name}"),
        }
    }

    /// What is there; `Err` says what is missing.
    pub(in crate::engine) fn state(self) -> Result<String, String> {
        match self {
            Self::Program { program, .. } => {
                let path = find_program(program).ok_or("not installed")?;
                Ok(path.display().to_string())
            }
            Self::Library { name, .. } => find_library(name).ok_or_else(|| "not installed".to_owned()),
            Self::File { path, .. } => {
                if Path::new(path).exists() {
                    Ok("there".to_owned())
                } else {
                    Err("missing".to_owned())
                }
            }
            Self::Sysctl { key, at_least, why } => match read_sysctl(key) {
                Some(value) if value >= at_least => Ok(value.to_string()),
                Some(value) => Err(format!("is {value}, should be at least {at_least}: {why}")),
                // Machines are shown no settings that they have no use for: a program in one can't reach what these limit.
                None if !disk::host::is_real() => Ok("the real host's own".to_owned()),
                None => Err("this kernel does not have it".to_owned()),
            },
            Self::Module { name, sign } => {
                if Path::new(sign).exists() || built_in(name) {
                    Ok("loaded".to_owned())
                } else {
                    Err("not loaded".to_owned())
                }
            }
        }
    }

    pub(in crate::engine) fn package(self) -> Option<&'static str> {
        match self {
            Self::Program { package, .. } | Self::Library { package, .. } | Self::File { package, .. } => Some(package),
            Self::Sysctl { .. } | Self::Module { .. } => None,
        }
    }

    pub(in crate::engine) fn item(self) -> CheckItem {
        match self.state() {
            Ok(seen) => CheckItem::ok(self.subject(), seen),
            Err(seen) => CheckItem::fault(self.subject(), seen, "adt host:bootstrap"),
        }
    }
}

pub(in crate::engine) fn sysctl_path(key: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

fn read_sysctl(key: &str) -> Option<u64> {
    std::fs::read_to_string(sysctl_path(key)).ok()?.trim().parse().ok()
}

/// Filesystems and link types that are part of the kernel have no folder in /sys/module where they have no parameters.
fn built_in(name: &str) -> bool {
    if std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with(name))) {
        return true;
    }
    let release = rustix::system::uname();
    let folder = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    match std::fs::read_to_string(folder.join("modules.builtin")) {
        Ok(text) => text.lines().any(|line| line.ends_with(&format!("/{name}.ko"))),
        // A kernel without a folder of modules can't load any: what it can do is built in, and using it tells.
        Err(_) => !folder.exists(),
    }
}

pub(in crate::engine) fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].into_iter().map(Into::into);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Looks where Debian keeps libraries; loading one to find out would run its code in this process.
fn find_library(name: &str) -> Option<String> {
    let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib"].into_iter().map(std::path::PathBuf::from);
    let multiarch = std::fs::read_dir("/usr/lib").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let multiarch = multiarch.filter(|path| path.to_string_lossy().contains("-linux-gnu"));
    let found = folders.chain(multiarch).map(|folder| folder.join(name)).find(|file| file.exists())?;
    let file = std::fs::canonicalize(&found).unwrap_or(found);
    Some(file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::response::Verdict;

    /// What a package brings needs nobody to install it.
    #[test]
    fn the_debian_package_depends_on_all_that_would_be_installed() {
        let manifest: toml::Table = include_str!("../../../Cargo.toml").parse().expect("cargo reads it");
        let depends = manifest["package"]["metadata"]["deb"]["depends"].as_array().expect("a list");
        for package in REQUIREMENTS.iter().filter_map(|requirement| requirement.package()) {
            assert!(depends.iter().any(|one| one.as_str() == Some(package)), "{package} is missing from Cargo.toml");
        }
    }

    /// Nothing is installed on a server that is rehearsed on.
    #[test]
    fn the_rehearsed_server_has_all_that_would_be_installed() {
        let recipe: toml::Table = include_str!("../../../boxes/rehearsed-server/box.toml").parse().expect("it is a recipe");
        let packages = recipe["box"]["packages"].as_array().expect("a list");
        for package in REQUIREMENTS.iter().filter_map(|requirement| requirement.package()) {
            assert!(packages.iter().any(|one| one.as_str() == Some(package)), "{package} is missing from the box");
        }
    }

    #[test]
    fn what_is_missing_says_so_with_a_remedy() {
        let item = Requirement::Program { program: "no-such-program", package: "x" }.item();
        assert_eq!((item.verdict, item.seen.as_str()), (Verdict::Fault, "not installed"));
        assert_eq!(item.remedy.as_deref(), Some("adt host:bootstrap"));
        assert_eq!(Requirement::Program { program: "sh", package: "dash" }.item().verdict, Verdict::Ok);
    }
}
