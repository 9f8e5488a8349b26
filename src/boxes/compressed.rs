//! A file as it was before it was compressed, whatever compressed it; and whether it was the one that a layer's name tells of. It
//! must never know what the bytes mean.

use std::io::{BufReader, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use super::inputs::Entry;
use super::{Error, Result};
use crate::exec::{self, Command, Status};
use crate::model::Digest;

/// The kinds of compression that are told apart by their first bytes, with the program that undoes each.
const PROGRAMS: [(&[u8], &[&str]); 3] = [
    (&[0x1f, 0x8b], &["gzip", "-d", "-c", "-q"]),
    // An archive says itself how much memory it wants; the strongest setting of `xz` wants 65 MB.
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], &["xz", "-d", "-c", "-q", "--memlimit-decompress=512MiB"]),
    (&[0x28, 0xb5, 0x2f, 0xfd], &["zstd", "-d", "-c", "-q"]),
];

/// How much may come behind an archive's end: programs fill up their last record.
const TRAILER: u64 = 16 << 20;

/// A file as it was before it was packed, whatever packed it.
pub(super) struct Source {
    pub reader: Box<dyn Read + Send>,
    child: Option<(Command, Child)>,
    /// What tells, once all is read, whether it was the file that was named.
    check: Option<Check>,
}

struct Check {
    named: Entry,
    taken: JoinHandle<std::io::Result<Digest>>,
}

impl Source {
    /// A file that nobody else can change.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with(path, None)
    }

    /// One that somebody else may change while it is read: [`Source::finish`] then says so.
    pub fn named(path: &Path, named: &Entry) -> Result<Self> {
        Self::with(path, Some(named))
    }

    fn with(path: &Path, named: Option<&Entry>) -> Result<Self> {
        let failed = || Error::io("could not read", path);
        let mut start = Vec::new();
        let file = std::fs::File::open(path).map_err(failed())?;
        file.take(8).read_to_end(&mut start).map_err(failed())?;
        let file = std::fs::File::open(path).map_err(failed())?;
        let (file, check) = match named {
            None => (OwnedFd::from(file), None),
            Some(named) => {
                let (passed, taken) = looked_at(file).map_err(failed())?;
                (OwnedFd::from(passed), Some(Check { named: named.clone(), taken }))
            }
        };
        let Some((_, words)) = PROGRAMS.iter().find(|(magic, _)| start.starts_with(magic)) else {
            let reader = Box::new(BufReader::new(std::fs::File::from(file)));
            return Ok(Self { reader, child: None, check });
        };
        let command = Command::new(words[0]).args(&words[1..]);
        let child = command.to_std().stdin(file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => exec::Error::Missing { program: words[0].to_owned() },
            _ => exec::Error::Start { command: command.to_string(), source },
        })?;
        let reader = Box::new(BufReader::new(child.stdout.take().expect("stdout was piped")));
        Ok(Self { reader, child: Some((command, child)), check })
    }

    /// A cut-off archive shows only in the exit code of the program that unpacked it.
    pub fn finish(mut self, archive: &Path) -> Result<()> {
        // What follows the archive's end mark must be read, or the program dies of a closed pipe.
        let mut trailer = self.reader.by_ref().take(TRAILER + 1);
        let rest = std::io::copy(&mut trailer, &mut std::io::sink()).map_err(Error::io("could not read", archive))?;
        if rest > TRAILER {
            return Err(Error::bad_archive(archive, "its end", format!("is followed by more than {}M", TRAILER >> 20)));
        }
        let status = match &mut self.child {
            Some((_, child)) => child.wait().map_err(Error::io("could not read", archive))?,
            None => ExitStatus::default(),
        };
        // Before what was unpacked is believed, even where it could not be.
        if let Some(Check { named, taken }) = self.check.take() {
            let taken = taken.join().unwrap_or_else(|_| Err(std::io::Error::other("who read it panicked")));
            named.is(&taken.map_err(Error::io("could not read", archive))?, archive)?;
        }
        let Some((command, _)) = self.child.take().filter(|_| !status.success()) else { return Ok(()) };
        let tail = vec![format!("{} is damaged or cut off", archive.display())];
        Err(exec::Error::Failed { command: command.to_string(), status: Status(status), tail }.into())
    }
}

/// A file's bytes on their way, and the digest of what went. Whoever takes them may stop early; the rest is read all the same.
fn looked_at(mut file: std::fs::File) -> std::io::Result<(PipeReader, JoinHandle<std::io::Result<Digest>>)> {
    let (passed, mut pass) = std::io::pipe()?;
    let taken = std::thread::spawn(move || {
        let (mut wanted, mut hash, mut buffer) = (true, Sha256::new(), vec![0; 1 << 16]);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Digest::from_bytes(&hash.finalize()));
            }
            hash.update(&buffer[..count]);
            wanted = wanted && pass.write_all(&buffer[..count]).is_ok();
        }
    });
    Ok((passed, taken))
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some((_, child)) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
