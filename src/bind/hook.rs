//! What makes a server read adt's folder: links where it reads a folder, one line where it reads a file.
//!
//! They are the only things that adt leaves outside of its own folder, and each can be told from what is not adt's.

use std::path::{Path, PathBuf};

use super::{Error, Home, Result, Server};
use crate::disk;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A relative link into adt's folder.
    Link { path: PathBuf, target: PathBuf },
    /// The first line of a file that is the host's. The first, because then taking it out again gives the same bytes whether
    /// or not the file ends with a newline.
    Line { path: PathBuf, line: String },
}

/// The links sort last, so that the host's own sites stay first and the first of them stays the default.
pub fn hooks(home: &Home) -> Vec<Hook> {
    let root = &home.root;
    let mut all = possible(home);
    match home.server {
        Server::Apache | Server::Dnsmasq => {}
        Server::Nginx if root.join("sites-enabled").is_dir() => drop(all.pop()),
        Server::Nginx => drop(all.remove(0)),
        Server::Bind if root.join("named.conf.local").is_file() => drop(all.pop()),
        Server::Bind => drop(all.remove(0)),
    }
    all
}

/// Those of `hooks`, and those that it would have given had the host been set up otherwise when they were made.
pub fn possible(home: &Home) -> Vec<Hook> {
    let root = &home.root;
    let link = |path: &str, target: &str| Hook::Link { path: root.join(path), target: target.into() };
    match home.server {
        Server::Apache => vec![
            // Among the modules, because `ports.conf` comes after them and listens on 443 only if it finds ssl.
            link("mods-enabled/zz-adt.load", "../adt/modules.load"),
            link("sites-enabled/zz-adt.conf", "../adt/main.conf"),
        ],
        Server::Nginx => {
            vec![link("sites-enabled/zz-adt.conf", "../adt/main.conf"), link("conf.d/zz-adt.conf", "../adt/main.conf")]
        }
        Server::Bind => {
            let include = home.adt().join("main.conf");
            let line = format!("include \"{}\"; // adt's; `adt host:unbind-proxy` removes this line\n", include.display());
            let hook = |path: PathBuf| Hook::Line { path, line: line.clone() };
            vec![hook(root.join("named.conf.local")), hook(home.main.clone())]
        }
        Server::Dnsmasq => vec![link("adt.conf", "adt/main.conf")],
    }
}

impl Hook {
    fn path(&self) -> &Path {
        match self {
            Self::Link { path, .. } | Self::Line { path, .. } => path,
        }
    }

    pub fn there(&self) -> Result<bool> {
        match self {
            Self::Link { path, target } => match std::fs::read_link(path) {
                Ok(found) if found == *target => Ok(true),
                Ok(_) => Err(Error::Foreign { path: path.clone() }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Err(Error::Foreign { path: path.clone() }),
                Err(error) => Err(Error::io("read the link", path)(error)),
            },
            Self::Line { path, line } => match std::fs::read(path) {
                Ok(bytes) => Ok(find(&bytes, line).is_some()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(Error::io("read", path)(error)),
            },
        }
    }

    /// Whether it was missing.
    pub fn set(&self, home: &Home) -> Result<bool> {
        if self.there()? {
            return Ok(false);
        }
        let missing = |path: &Path| Error::NotThere { server: home.server, missing: path.to_owned() };
        match self {
            Self::Link { path, target } => {
                let folder = path.parent().expect("a hook is in a folder");
                if !folder.is_dir() {
                    return Err(missing(folder));
                }
                let linked = std::os::unix::fs::symlink(target, path).and_then(|()| disk::sync_folder(folder));
                linked.map_err(Error::io("make the link", path))?;
            }
            Self::Line { path, line } => {
                let before = std::fs::read(path).map_err(|_| missing(path))?;
                rewrite(path, &[line.as_bytes(), &before].concat())?;
            }
        }
        Ok(true)
    }

    /// Whether it was there.
    pub fn unset(&self) -> Result<bool> {
        if !self.there()? {
            return Ok(false);
        }
        match self {
            Self::Link { path, .. } => std::fs::remove_file(path).map_err(Error::io("remove", path))?,
            Self::Line { path, line } => {
                let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
                let start = find(&bytes, line).expect("it was there a moment ago");
                rewrite(path, &[&bytes[..start], &bytes[start + line.len()..]].concat())?;
            }
        }
        Ok(true)
    }

    /// For `--output`: the same beside a tree that is only looked at.
    pub fn show(&self, home: &Home, folder: &Path) -> Result<PathBuf> {
        let below = self.path().strip_prefix(&home.root).unwrap_or(Path::new("main.conf"));
        let path = folder.join(below);
        let parent = path.parent().expect("a hook is in a folder");
        std::fs::create_dir_all(parent).map_err(Error::io("make the folder", parent))?;
        match self {
            Self::Link { target, .. } => {
                if std::fs::read_link(&path).is_ok_and(|found| found != *target) {
                    return Err(Error::Foreign { path });
                }
                if !path.is_symlink() {
                    std::os::unix::fs::symlink(target, &path).map_err(Error::io("make the link", &path))?;
                }
            }
            Self::Line { line, .. } => std::fs::write(&path, line).map_err(Error::io("write", &path))?,
        }
        Ok(path)
    }
}

fn find(bytes: &[u8], line: &str) -> Option<usize> {
    let starts = std::iter::once(0).chain(bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1));
    starts.into_iter().find(|start| bytes[*start..].starts_with(line.as_bytes()))
}

/// Keeps owner and mode: the file is the host's. A link stays one, because what it leads to is what is replaced.
fn rewrite(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let real = path.canonicalize().map_err(Error::io("find", path))?;
    let meta = std::fs::metadata(&real).map_err(Error::io("look at", &real))?;
    let file = disk::File::at(&real).mode(meta.mode() & 0o7777).owner(meta.uid(), meta.gid());
    file.write(bytes).map_err(Error::io("replace", &real))
}
