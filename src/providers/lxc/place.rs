//! The engine's files for a machine, in the machine's own layer. Like everything there, found beneath it and over no link.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat2, unlinkat};
use rustix::io::Errno;
use secrecy::ExposeSecret;

use super::attach::User;
use super::ids::Range;
use super::trust::{Right, folder_at, look, make, replace};
use super::upper::BENEATH;
use crate::providers::File;

/// What overlayfs shows as one folder.
pub struct Stack<'a> {
    pub upper: &'a Path,
    /// The uppermost first.
    pub layers: &'a [PathBuf],
}

/// Whom a machine knows.
#[derive(Default)]
pub struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub fn users(&self) -> BTreeMap<String, u32> {
        numbers(&self.passwd)
    }

    pub fn groups(&self) -> BTreeMap<String, u32> {
        numbers(&self.group)
    }

    pub fn of(root: &Stack<'_>) -> io::Result<Self> {
        let (upper, layers) = open(root)?;
        let read = |path: &str| std::iter::once(&upper).chain(&layers).find_map(|root| look(root, path)).and_then(Result::ok);
        Ok(Self { passwd: read("etc/passwd").unwrap_or_default(), group: read("etc/group").unwrap_or_default() })
    }
}

/// The third field of each line by its first, as both files have them.
fn numbers(text: &str) -> BTreeMap<String, u32> {
    let mut numbers = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next(), fields.nth(1).and_then(|number| number.parse().ok())) {
            numbers.entry(name.to_owned()).or_insert(number);
        }
    }
    numbers
}

fn open(stack: &Stack<'_>) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let layers = stack.layers.iter().map(|layer| folder_at(layer)).collect::<io::Result<_>>()?;
    Ok((folder_at(stack.upper)?, layers))
}

/// Files with their paths in the stack, which need not be the machine's root.
pub fn write(stack: &Stack<'_>, accounts: &Accounts, files: &[(String, &File)], gone: &[String]) -> io::Result<()> {
    let (root, layers) = open(stack)?;
    for path in gone {
        let (folder, name) = split(path);
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        match openat2(&root, folder, flags, Mode::empty(), BENEATH) {
            Ok(folder) => match unlinkat(&folder, name, AtFlags::empty()) {
                // What became a folder is the machine's own doing.
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            },
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (path, file) in files {
        let (folder, name) = split(path);
        let Some(folder) = make(&root, &layers, folder, Range::DISK)? else {
            let reason = format!("`/{}` leads over a link, or over what is no folder", file.path);
            return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
        };
        let user = file.group.as_deref().and_then(|user| User::parse(user, &accounts.passwd, &accounts.group));
        let group = Range::DISK.id(user.map_or(0, |user| user.gid));
        replace(&folder, name, file.text.expose_secret(), &Right { user: Range::DISK.root(), group, mode: file.mode })?;
    }
    Ok(())
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or((".", path))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::providers::lxc::config::FIRST_ID;

    fn file(path: &str, group: Option<&str>) -> File {
        File { path: path.into(), mode: 0o640, group: group.map(str::to_owned), text: "text".into() }
    }

    #[test]
    fn files_come_and_go_over_what_the_box_has() {
        let folder = tempfile::tempdir().unwrap();
        let (upper, layer) = (folder.path().join("upper"), folder.path().join("layer"));
        fs::create_dir(&upper).unwrap();
        fs::create_dir_all(layer.join("etc/app")).unwrap();
        fs::write(layer.join("etc/passwd"), "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n").unwrap();
        symlink("app", layer.join("etc/link")).unwrap();
        let layers = [layer];
        let stack = Stack { upper: &upper, layers: &layers };
        let write = |files: &[File], gone: &[String]| {
            let files: Vec<_> = files.iter().map(|file| (file.path.clone(), file)).collect();
            write(&stack, &Accounts::of(&stack).unwrap(), &files, gone)
        };
        write(&[file("etc/app/one", Some("www-data")), file("top", Some("nobody-here"))], &[]).unwrap();
        let meta = fs::metadata(upper.join("etc/app/one")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (FIRST_ID, FIRST_ID + 33, 0o640));
        assert_eq!(fs::metadata(upper.join("top")).unwrap().gid(), FIRST_ID);
        let gone = ["etc/app/one".to_owned(), "never/was".to_owned()];
        write(&[], &gone).unwrap();
        assert!(!upper.join("etc/app/one").exists() && upper.join("top").exists());
        let error = write(&[file("etc/link/two", None)], &[]).unwrap_err();
        assert!(error.to_string().contains("`/etc/link/two` leads over a link"), "{error}");
    }

    #[test]
    fn a_link_of_the_machine_leads_nowhere() {
        let (upper, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(host.path().join("one"), "host").unwrap();
        symlink(host.path(), upper.path().join("etc")).unwrap();
        let stack = Stack { upper: upper.path(), layers: &[] };
        let one = file("etc/one", None);
        assert!(write(&stack, &Accounts::of(&stack).unwrap(), &[(one.path.clone(), &one)], &[]).is_err());
        write(&stack, &Accounts::of(&stack).unwrap(), &[], &["etc/one".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(host.path().join("one")).unwrap(), "host");
    }
}
