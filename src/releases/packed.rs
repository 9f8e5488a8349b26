//! Releases that travel: the form in which one goes from one store to another, over a connection of adt's own.
//!
//! ```text
//! a release    length of the manifest ── manifest (JSON), which tells size and content ── its archive as it lies on the shelf
//! ```
//! Each release stands for itself: one that has come is on the shelf, whatever becomes of those behind it, and of one that was
//! cut off nothing stays.
//!
//! The digest says what a release was made of, and whoever packed it claims that; the content says what it is, and is found out
//! here: what has come is read as machines will get it, and put on the shelf only if that gives the content that its manifest
//! tells.
//!
//! Not chosen: packing it anew, for the archive is compressed already; pieces of a release, for all but the largest go over in
//! seconds.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Error, Manifest, Result, Shelf};
use crate::exec::watched::Watched;
use crate::model::Digest;

/// The templates of a site may have a megabyte, and JSON can make six letters of one.
const LONGEST: u32 = 8 << 20;

/// What became of a release that came.
#[derive(Debug, PartialEq)]
pub enum Unpacked {
    New(Manifest),
    /// The same was here already.
    There(Manifest),
}

/// Writes a release. The caller holds it.
pub fn pack(shelf: &Shelf, digest: &Digest, to: &mut dyn Write, cancel: &AtomicBool) -> Result<()> {
    let manifest = shelf.with_content(digest, cancel)?;
    let path = shelf.archive(digest);
    let sent = || Error::io("could not send", &path);
    let text = serde_json::to_vec(&manifest).expect("a manifest is plain data");
    let length = u32::try_from(text.len()).map_err(io::Error::other).map_err(sent())?;
    to.write_all(&length.to_le_bytes()).and_then(|()| to.write_all(&text)).map_err(sent())?;
    let file = File::open(&path).map_err(Error::io("could not read", &path))?;
    let copied =
        io::copy(&mut Watched { inner: file, cancel }.take(manifest.size), to).map_err(|error| match stopped(cancel) {
            true => Error::Cancelled,
            false => sent()(error),
        })?;
    if copied == manifest.size {
        return Ok(());
    }
    Err(Error::Damaged { path: path.clone(), reason: "it is shorter than it was".to_owned() })
}

/// Reads the next release and puts it on the shelf; `None` at the end of the input. `waiting` is called once if another process
/// is at the same one.
pub fn unpack(shelf: &Shelf, from: &mut dyn Read, cancel: &AtomicBool, waiting: &dyn Fn()) -> Result<Option<Unpacked>> {
    let Some(manifest) = head(from)? else { return Ok(None) };
    let digest = &manifest.digest;
    let unfit = |reason: String| Error::Unfit { digest: digest.clone(), reason };
    let Some(content) = &manifest.content else { return Err(unfit("its manifest does not tell its content".to_owned())) };
    let is_hash = |word: &str| (4..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hash(&manifest.commit) || !is_hash(&manifest.tree) {
        return Err(unfit("what its manifest tells of its commit is no name of git's".to_owned()));
    }
    let lock = shelf.lock(digest, cancel, waiting)?;
    if shelf.has(digest) {
        let here = shelf.with_content(digest, cancel)?;
        let passed = io::copy(&mut Watched { inner: from, cancel }.take(manifest.size), &mut io::sink());
        return match (&here.content, passed) {
            (Some(here), _) if here.sha256 != content.sha256 => {
                Err(Error::OtherContent { digest: digest.clone(), here: here.sha256.clone(), there: content.sha256.clone() })
            }
            (_, Ok(passed)) if passed == manifest.size => Ok(Some(Unpacked::There(here))),
            (_, Ok(_) | Err(_)) => Err(unfit("it is cut off".to_owned())),
        };
    }
    // It is unpacked at least once on this disk.
    shelf.has_room(manifest.size.saturating_add(content.bytes))?;
    let draft = shelf.begin(digest, lock)?;
    let path = draft.archive();
    let mut file = File::create(&path).map_err(Error::io("could not write", &path))?;
    let copied =
        io::copy(&mut Watched { inner: from, cancel }.take(manifest.size), &mut file).map_err(|error| match stopped(cancel) {
            true => Error::Cancelled,
            false => Error::io("could not write", &path)(error),
        })?;
    if copied < manifest.size {
        return Err(unfit("it is cut off".to_owned()));
    }
    let found = super::archive::content(&path, &manifest.templates, content.bytes, cancel).map_err(|error| match error {
        Error::Cancelled => error,
        other => unfit(other.to_string()),
    })?;
    if found != *content {
        return Err(unfit(format!("its content is `{}`, not `{}` as its manifest says", found.sha256, content.sha256)));
    }
    draft.place(manifest).map(|manifest| Some(Unpacked::New(manifest)))
}

/// `None` at the end of the input.
fn head(from: &mut dyn Read) -> Result<Option<Manifest>> {
    let bad = |reason: &str| Error::NoRelease { reason: reason.to_owned() };
    let mut length = Vec::new();
    from.take(4).read_to_end(&mut length).map_err(|error| bad(&error.to_string()))?;
    if length.is_empty() {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length.try_into().map_err(|_| bad("it ends within its first bytes"))?);
    if length > LONGEST {
        return Err(bad("its manifest is longer than any"));
    }
    let mut text = Vec::new();
    from.take(length.into()).read_to_end(&mut text).map_err(|error| bad(&error.to_string()))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| bad(&error.to_string()))
}

fn stopped(cancel: &AtomicBool) -> bool {
    cancel.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::releases::shelf::tests::make;
    use crate::sources::rendered::Template;

    static ON: AtomicBool = AtomicBool::new(false);

    struct Bench {
        _home: tempfile::TempDir,
        here: Shelf,
        there: Shelf,
        folder: std::path::PathBuf,
    }

    impl Bench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let open = |name: &str| {
                let store = home.path().join(name);
                std::fs::create_dir(&store).unwrap();
                Shelf::open(&store).unwrap()
            };
            let (here, there) = (open("here"), open("there"));
            Self { folder: home.path().join("there/releases"), here, there, _home: home }
        }

        fn packed(&self, digest: &Digest) -> Vec<u8> {
            let mut bytes = Vec::new();
            pack(&self.here, digest, &mut bytes, &ON).unwrap();
            bytes
        }

        fn take(&self, bytes: &[u8]) -> Result<Option<Unpacked>> {
            unpack(&self.there, &mut &bytes[..], &ON, &|| ())
        }

        fn left(&self) -> usize {
            std::fs::read_dir(&self.folder).unwrap().count()
        }
    }

    /// The same bytes with another manifest.
    fn retold(bytes: &[u8], change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
        let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let mut manifest: Manifest = serde_json::from_slice(&bytes[4..4 + length]).unwrap();
        change(&mut manifest);
        let text = serde_json::to_vec(&manifest).unwrap();
        [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], &text, &bytes[4 + length..]].concat()
    }

    #[test]
    fn releases_come_one_after_the_other_and_each_once() {
        let bench = Bench::new();
        let (one, two) = (make(&bench.here, 1), make(&bench.here, 2));
        let both = [bench.packed(&one.digest), bench.packed(&two.digest)].concat();
        let mut from = &both[..];
        let mut take = || unpack(&bench.there, &mut from, &ON, &|| ()).unwrap();
        let (first, second) = (take(), take());
        assert!(matches!(&first, Some(Unpacked::New(manifest)) if manifest.digest == one.digest && manifest.content.is_some()));
        assert!(matches!(&second, Some(Unpacked::New(manifest)) if manifest.digest == two.digest));
        assert_eq!(take(), None);
        let read = |shelf: &Shelf| std::fs::read(shelf.archive(&one.digest)).unwrap();
        assert_eq!(read(&bench.here), read(&bench.there));
        assert!(matches!(bench.take(&both).unwrap(), Some(Unpacked::There(_))));
        assert_eq!(bench.left(), 2);
    }

    #[test]
    fn what_is_not_what_it_says_it_is_leaves_nothing() {
        let bench = Bench::new();
        let (release, other) = (make(&bench.here, 1), make(&bench.here, 2));
        let release = bench.here.with_content(&release.digest, &ON).unwrap();
        let bytes = bench.packed(&release.digest);
        let others = retold(&bench.packed(&other.digest), |told| *told = Manifest { size: told.size, ..release.clone() });
        let mut broken = bytes.clone();
        broken[bytes.len() - usize::try_from(release.size).unwrap()] ^= 0x55;
        let template = || Template { path: "a.j2".into(), mode: 0o644, text: "{{ secret('db') }}".into() };
        let cases = [
            ("damaged on the way", broken, "did not come as it is"),
            ("the files of another release", others, "its content is"),
            ("more behind its end", [retold(&bytes, |told| told.size += 1), vec![b'x']].concat(), "is damaged"),
            ("cut off in the archive", bytes[..bytes.len() - 3].to_vec(), "is cut off"),
            ("cut off in the manifest", bytes[..40].to_vec(), "no release"),
            ("cut off in the length", bytes[..2].to_vec(), "ends within"),
            ("an endless manifest", vec![0xff; 100], "longer than any"),
            ("no manifest", b"\x04\0\0\0none".to_vec(), "no release"),
            (
                "another content",
                retold(&bytes, |told| told.content.as_mut().unwrap().sha256 = Digest::from_bytes(&[9; 32])),
                "its content is",
            ),
            ("no content", retold(&bytes, |told| told.content = None), "does not tell its content"),
            (
                "more files than it says",
                retold(&bytes, |told| told.content.as_mut().unwrap().bytes = 600),
                "more than the 600 bytes",
            ),
            ("templates of its own", retold(&bytes, |told| told.templates.push(template())), "its content is"),
            ("a commit for a terminal", retold(&bytes, |told| told.commit = "\u{1b}[2J".into()), "no name of git's"),
            ("larger than any disk", retold(&bytes, |told| told.size = u64::MAX), "could not"),
        ];
        for (what, bytes, reason) in cases {
            let error = bench.take(&bytes).unwrap_err();
            assert!(error.to_string().contains(reason), "{what}: {error}");
            assert_eq!(bench.left(), 0, "{what}");
        }
    }

    #[test]
    fn one_that_is_there_with_other_files_stays_as_it_is() {
        let bench = Bench::new();
        let release = make(&bench.here, 1);
        let bytes = bench.packed(&release.digest);
        let other = retold(&bytes, |told| told.content.as_mut().unwrap().sha256 = Digest::from_bytes(&[9; 32]));
        bench.take(&bytes).unwrap();
        assert!(matches!(bench.take(&other), Err(Error::OtherContent { .. })));
        assert!(matches!(bench.take(&bytes), Ok(Some(Unpacked::There(_)))));
    }
}
