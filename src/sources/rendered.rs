//! A site's own templates, and what they become in a checkout: beside each, without its `.j2`, the person's own file.
//!
//! ```text
//! config/app.ini.j2           git's; what the person has made of it counts
//! config/app.ini              rendered
//! .git/info/exclude           names it, between two lines of ours: git does not see it, and we know it again
//! .git/adt-rendering          being written; renamed when it is whole
//! ```
//! What is not named there is not ours: a file that git tracks, or one that the person made, is never overwritten. The name
//! is written before the file and goes after it, so whatever a kill leaves is found by the next run.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::beneath::Beneath;
use super::git::Person;
use super::{Error, Result, checkout};

/// Templates are configuration; releases carry them in their manifests.
const MOST_BYTES: usize = 1 << 20;
const EXCLUDE: &str = ".git/info/exclude";
const DRAFT: &str = ".git/adt-rendering";
const BEGIN: &str = "# What adt has rendered from templates; adt keeps these lines.";
const END: &str = "# Here adt's lines end.";

/// A file of a site that is rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Below the site's folder, `.j2` included.
    pub path: String,
    pub mode: u32,
    pub text: String,
}

/// What a template became. Its text may be secret, so this can't be printed.
pub struct File {
    /// Below the site's folder.
    pub path: String,
    pub mode: u32,
    pub text: SecretString,
}

/// The templates of these names in a site's folder, which is `user`'s where that is known; those that are gone are left out.
pub fn read<'p>(folder: &Path, user: Option<u32>, paths: impl IntoIterator<Item = &'p str>) -> Result<Vec<Template>> {
    let below = Beneath::open(folder, user).map_err(io("open", folder))?;
    let mut templates = Vec::new();
    let mut left = MOST_BYTES;
    for path in paths {
        let unfit = |reason: String| Error::Unfit { file: path.into(), reason };
        let found = below.read(path, left).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => unfit("the templates of a site may have 1 MB in all".to_owned()),
            _ => unfit(reason(&error)),
        })?;
        let Some(found) = found else { continue };
        left -= found.bytes.len();
        let text = String::from_utf8(found.bytes).map_err(|_| unfit("it is no text".to_owned()))?;
        templates.push(Template { path: path.to_owned(), mode: found.mode, text });
    }
    Ok(templates)
}

/// Whether a checkout has exactly these.
pub fn is_current(folder: &Path, user: Option<u32>, files: &[File]) -> Result<bool> {
    let below = Beneath::open(folder, user).map_err(io("open", folder))?;
    let wanted: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let ours = Exclude::read(folder, &below)?.ours;
    Ok(ours.iter().map(String::as_str).eq(wanted) && files.iter().all(|file| is_there(&below, file)))
}

/// Makes it so that a checkout has these, and what it had of ours before no longer.
pub fn lay(person: &Person, folder: &Path, user: Option<u32>, files: &[File]) -> Result<()> {
    let below = Beneath::open(folder, user).map_err(io("open", folder))?;
    let mut exclude = Exclude::read(folder, &below)?;
    let before = exclude.ours.clone();
    let wanted: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
    if before.is_empty() && wanted.is_empty() {
        return Ok(());
    }
    let tracked = checkout::tracked(person, folder)?;
    for file in files {
        let in_the_way = |reason| Err(Error::InTheWay { file: file.path.clone().into(), reason });
        if file.path.split('/').any(|part| part.eq_ignore_ascii_case(".git")) {
            let reason = "what lies there is git's, and may be a program that it runs on the host".to_owned();
            return Err(Error::Unfit { file: file.path.clone().into(), reason });
        }
        if tracked.contains(file.path.as_bytes()) {
            return in_the_way("git tracks it");
        }
        let unfit = |error: io::Error| Error::Unfit { file: file.path.clone().into(), reason: reason(&error) };
        if !before.contains(&file.path) && below.has(&file.path).map_err(unfit)? && !is_there(&below, file) {
            return in_the_way("adt did not make it");
        }
    }
    exclude.write(&below, before.union(&wanted).cloned().collect())?;
    for file in files.iter().filter(|file| !is_there(&below, file)) {
        let written = below.replace(&file.path, file.mode, file.text.expose_secret().as_bytes(), DRAFT);
        written.map_err(|error| Error::Unfit { file: file.path.clone().into(), reason: reason(&error) })?;
    }
    for gone in before.difference(&wanted).filter(|gone| !tracked.contains(gone.as_bytes())) {
        below.remove(gone).map_err(io("remove", &folder.join(gone)))?;
    }
    exclude.write(&below, wanted)
}

/// Whatever can't be read is not there as it should be, and writing it tells why.
fn is_there(below: &Beneath, file: &File) -> bool {
    let text = file.text.expose_secret().as_bytes();
    let found = below.read(&file.path, text.len());
    matches!(found, Ok(Some(found)) if found.bytes == text && found.mode == file.mode)
}

/// What the kernel says of links means nothing to whom it is told.
fn reason(error: &io::Error) -> String {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV | rustix::io::Errno::NOTDIR) => {
            "it leads over a link, or over what is no folder".to_owned()
        }
        Some(rustix::io::Errno::ISDIR) => "it is a folder".to_owned(),
        _ => error.to_string(),
    }
}

/// git's list of what it does not see in one checkout: the person's lines, and ours.
struct Exclude<'f> {
    folder: &'f Path,
    lines: Vec<u8>,
    mode: u32,
    ours: BTreeSet<String>,
}

impl<'f> Exclude<'f> {
    fn read(folder: &'f Path, below: &Beneath) -> Result<Self> {
        let found = below.read(EXCLUDE, MOST_BYTES).map_err(io("read", &folder.join(EXCLUDE)))?;
        let (bytes, mode) = found.map_or_else(|| (Vec::new(), 0o644), |found| (found.bytes, found.mode));
        let mut exclude = Self { folder, lines: Vec::new(), mode, ours: BTreeSet::new() };
        let mut within = false;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            match (within, text.trim_end_matches('\n')) {
                (_, BEGIN) => within = true,
                (true, END) => within = false,
                (true, text) => drop(text.strip_prefix('/').map(|path| exclude.ours.insert(plain(path)))),
                (false, _) => exclude.lines.extend_from_slice(line),
            }
        }
        Ok(exclude)
    }

    fn write(&mut self, below: &Beneath, ours: BTreeSet<String>) -> Result<()> {
        if ours == self.ours {
            return Ok(());
        }
        let mut text = self.lines.clone();
        if !ours.is_empty() {
            if text.last().is_some_and(|byte| *byte != b'\n') {
                text.push(b'\n');
            }
            let patterns: String = ours.iter().map(|path| format!("/{}\n", pattern(path))).collect();
            text.extend_from_slice(format!("{BEGIN}\n{patterns}{END}\n").as_bytes());
        }
        below.replace(EXCLUDE, self.mode, &text, DRAFT).map_err(io("write", &self.folder.join(EXCLUDE)))?;
        self.ours = ours;
        Ok(())
    }
}

/// A path as git's patterns have it.
fn pattern(path: &str) -> String {
    let mut text = String::new();
    for c in path.chars() {
        if matches!(c, '\\' | '*' | '?' | '[' | ' ') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// And back.
fn plain(pattern: &str) -> String {
    let mut text = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::exec::Command;

    struct Work(tempfile::TempDir);

    impl Work {
        fn new() -> Self {
            let work = Self(tempfile::tempdir().unwrap());
            work.git(&["init", "--quiet"]);
            work
        }

        fn git(&self, words: &[&str]) -> String {
            let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"];
            let command = Command::new("git").arg("-C").arg(self.0.path()).args(identity).args(words.iter().copied());
            command.run().unwrap().text()
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn text(&self, path: &str) -> Option<String> {
            fs::read_to_string(self.0.path().join(path)).ok()
        }

        fn lay(&self, files: &[File]) -> Result<()> {
            lay(&Person::default(), self.0.path(), None, files)
        }

        /// Laid, with nothing for git to see and nothing left to do.
        fn settles(&self, files: &[File]) {
            self.lay(files).unwrap();
            assert!(is_current(self.0.path(), None, files).unwrap());
            assert_eq!(self.git(&["status", "--porcelain"]), "");
            for file in files {
                assert_eq!(self.text(&file.path).as_deref(), Some(file.text.expose_secret()));
            }
            assert!(!self.0.path().join(DRAFT).exists());
        }
    }

    fn file(path: &str, text: &str) -> File {
        File { path: path.into(), mode: 0o640, text: text.into() }
    }

    #[test]
    fn git_sees_nothing_of_what_is_rendered() {
        let work = Work::new();
        let mine = b"# mine \xff\r\n*.bak\n";
        work.write(EXCLUDE, "");
        fs::write(work.0.path().join(EXCLUDE), mine).unwrap();
        work.settles(&[]);
        assert_eq!(fs::read(work.0.path().join(EXCLUDE)).unwrap(), mine);
        let odd = ["a b /c  ", "#x", "!y", "[z]*?", "back\\slash", "new/folder/ü", "\"q\""];
        work.settles(&odd.map(|path| file(path, "one")));
        work.settles(&odd.map(|path| file(path, "two")));
        let mode = fs::metadata(work.0.path().join("#x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // Others of similar names are seen.
        work.write("z", "");
        assert_eq!(work.git(&["status", "--porcelain"]), "?? z\n");
        fs::remove_file(work.0.path().join("z")).unwrap();
        work.settles(&[file("#x", "two")]);
        assert_eq!(work.text("!y"), None);
        work.settles(&[]);
        assert_eq!((work.text("#x"), fs::read(work.0.path().join(EXCLUDE)).unwrap()), (None, mine.to_vec()));
    }

    #[test]
    fn what_is_not_ours_stays() {
        let work = Work::new();
        work.write("tracked", "git's");
        work.git(&["add", "--all"]);
        work.git(&["commit", "--quiet", "-m", "one"]);
        work.write("made", "the person's");
        let error = |files: &[File]| work.lay(files).unwrap_err().to_string();
        assert!(error(&[file("tracked", "x")]).contains("`tracked`: git tracks it"));
        assert!(error(&[file("ok", "x"), file("made", "x")]).contains("`made`: adt did not make it"));
        assert!(error(&[file("tracked/below", "x")]).contains("over what is no folder"));
        assert_eq!(work.text("ok"), None, "nothing is begun");
        assert_eq!((work.text("tracked").unwrap(), work.text("made").unwrap()), ("git's".to_owned(), "the person's".to_owned()));
        // What was rendered and is git's on another branch stays when its template goes.
        fs::remove_file(work.0.path().join("made")).unwrap();
        work.settles(&[file("later", "x")]);
        work.git(&["add", "--force", "later"]);
        work.git(&["commit", "--quiet", "-m", "two"]);
        work.settles(&[]);
        assert_eq!(work.text("later").unwrap(), "x");
    }

    #[test]
    fn whatever_a_kill_leaves_is_finished() {
        let files = [file("new", "two"), file("stays", "two")];
        let block = |names: &[&str]| {
            let lines: String = names.iter().map(|name| format!("/{name}\n")).collect();
            format!("{BEGIN}\n{lines}{END}\n")
        };
        let all = block(&["gone", "new", "stays"]);
        // After each write in turn: the names, a half draft, one file, both, the removal.
        let left: [(&str, &[(&str, &str)]); 5] = [
            (&all, &[("gone", "one"), ("stays", "one")]),
            (&all, &[("gone", "one"), ("stays", "one"), (DRAFT, "tw")]),
            (&all, &[("gone", "one"), ("new", "two"), ("stays", "one")]),
            (&all, &[("gone", "one"), ("new", "two"), ("stays", "two")]),
            (&all, &[("new", "two"), ("stays", "two")]),
        ];
        for (exclude, there) in left {
            let work = Work::new();
            work.write(".git/info/exclude", exclude);
            there.iter().for_each(|(path, text)| work.write(path, text));
            assert!(!is_current(work.0.path(), None, &files).unwrap());
            work.settles(&files);
            assert_eq!(work.text("gone"), None);
        }
    }

    #[test]
    fn links_are_neither_read_nor_written_through() {
        let (work, host) = (Work::new(), tempfile::tempdir().unwrap());
        fs::write(host.path().join("secret.j2"), "host").unwrap();
        symlink(host.path(), work.0.path().join("folder")).unwrap();
        symlink(host.path().join("secret.j2"), work.0.path().join("link.j2")).unwrap();
        for path in ["folder/secret.j2", "link.j2"] {
            let error = read(work.0.path(), None, [path]).unwrap_err().to_string();
            assert!(error.contains("leads over a link"), "{error}");
        }
        let error = work.lay(&[file("folder/new", "x")]).unwrap_err().to_string();
        assert!(error.contains("leads over a link"), "{error}");
        work.git(&["config", "core.excludesFile", "/dev/null"]);
        fs::remove_file(work.0.path().join(".git/info/exclude")).ok();
        fs::remove_dir_all(work.0.path().join(".git/info")).unwrap();
        symlink(host.path(), work.0.path().join(".git/info")).unwrap();
        assert!(work.lay(&[file("new", "x")]).is_err());
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1);
    }

    /// Names are templates too, and git checks only what they are before they are rendered.
    #[test]
    fn nothing_is_rendered_where_git_looks_for_programs() {
        let work = Work::new();
        for path in [".git/hooks/post-index-change", ".GIT/config", "below/.git/config", ".git"] {
            let error = work.lay(&[file("ok", "x"), file(path, "x")]).unwrap_err().to_string();
            assert!(error.contains("may be a program that it runs"), "{path}: {error}");
        }
        assert_eq!(work.text("ok"), None, "nothing is begun");
        work.settles(&[file(".gitignore.d/x", "x"), file("a.git/x", "x")]);
    }

    #[test]
    fn only_small_texts_are_templates() {
        let work = Work::new();
        work.write("a.j2", "{{ env }}");
        work.write("binary.j2", "");
        fs::write(work.0.path().join("binary.j2"), [0xff, 0]).unwrap();
        work.write("large.j2", &"x".repeat(MOST_BYTES));
        fs::create_dir(work.0.path().join("folder.j2")).unwrap();
        let found = read(work.0.path(), None, ["a.j2", "gone.j2"]).unwrap();
        assert_eq!(found.iter().map(|one| (one.path.as_str(), one.text.as_str())).collect::<Vec<_>>(), [("a.j2", "{{ env }}")]);
        for (path, reason) in [("binary.j2", "it is no text"), ("large.j2", "1 MB in all"), ("folder.j2", "no plain file")] {
            let error = read(work.0.path(), None, ["a.j2", path]).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
