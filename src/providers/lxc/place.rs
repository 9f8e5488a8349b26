//! The engine's files for a machine, in the machine's own layer. Like everything there, found beneath it and over no link.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, openat2, unlinkat};
use rustix::io::Errno;
use secrecy::ExposeSecret;

use super::attach::User;
use super::ids::Range;
use super::trust::{Right, folder_at, look, make, replace};
use super::upper::BENEATH;
use crate::providers::File;

/// `upper` is the machine's own layer, `layers` lie below it, the uppermost first.
pub fn write(upper: &Path, layers: &[PathBuf], files: &[File], gone: &[String]) -> io::Result<()> {
    let root = folder_at(upper)?;
    let layers = layers.iter().map(|layer| folder_at(layer)).collect::<io::Result<Vec<_>>>()?;
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
    let read = |path: &str| std::iter::once(&root).chain(&layers).find_map(|root| look(root, path)).and_then(Result::ok);
    let (passwd, group) = (read("etc/passwd").unwrap_or_default(), read("etc/group").unwrap_or_default());
    for file in files {
        let (folder, name) = split(&file.path);
        let Some(folder) = make(&root, &layers, folder, Range::DISK)? else {
            let reason = format!("`/{}` leads over a link, or over what is no folder", file.path);
            return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
        };
        let user = file.group.as_deref().and_then(|user| User::parse(user, &passwd, &group));
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
        write(&upper, &layers, &[file("etc/app/one", Some("www-data")), file("top", Some("nobody-here"))], &[]).unwrap();
        let meta = fs::metadata(upper.join("etc/app/one")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (FIRST_ID, FIRST_ID + 33, 0o640));
        assert_eq!(fs::metadata(upper.join("top")).unwrap().gid(), FIRST_ID);
        let gone = ["etc/app/one".to_owned(), "never/was".to_owned()];
        write(&upper, &layers, &[], &gone).unwrap();
        assert!(!upper.join("etc/app/one").exists() && upper.join("top").exists());
        let error = write(&upper, &layers, &[file("etc/link/two", None)], &[]).unwrap_err();
        assert!(error.to_string().contains("`/etc/link/two` leads over a link"), "{error}");
    }

    #[test]
    fn a_link_of_the_machine_leads_nowhere() {
        let (upper, host) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(host.path().join("one"), "host").unwrap();
        symlink(host.path(), upper.path().join("etc")).unwrap();
        assert!(write(upper.path(), &[], &[file("etc/one", None)], &[]).is_err());
        write(upper.path(), &[], &[], &["etc/one".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(host.path().join("one")).unwrap(), "host");
    }
}
