//! Chromium and Firefox read NSS databases in each user's home folder; `certutil` changes them.
//!
//! It runs as the home's owner: then a link that somebody put into their home leads nowhere they could not write themselves.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Change, Error, Owner, Result};
use crate::exec::{Account, Command};
use crate::model::Domain;

/// Chromium's places, the one of old versions first, then inside snap and flatpak.
const CHROMIUM: &[&str] = &[
    ".pki/nssdb",
    ".local/share/pki/nssdb",
    "snap/chromium/current/.pki/nssdb",
    ".var/app/org.chromium.Chromium/data/pki/nssdb",
    ".var/app/com.google.Chrome/data/pki/nssdb",
];
/// Folders of Firefox profiles.
const FIREFOX: &[&str] = &[
    ".mozilla/firefox",
    ".config/mozilla/firefox",
    "snap/firefox/common/.mozilla/firefox",
    ".var/app/org.mozilla.firefox/.mozilla/firefox",
    ".var/app/org.mozilla.firefox/config/mozilla/firefox",
];
/// What a browser leaves in a home, whatever its database is called by then.
const TRACES: &[&str] = &[
    ".config/chromium",
    ".config/google-chrome",
    ".config/BraveSoftware",
    ".config/microsoft-edge",
    ".config/vivaldi",
    "snap/chromium",
    ".var/app/org.chromium.Chromium",
    ".var/app/com.google.Chrome",
];
/// Beside a database that was made by us, so that removal knows.
const MADE_HERE: &str = ".made-by-adt";

/// One user's home folder.
#[derive(Debug, Clone)]
pub struct Home {
    pub path: PathBuf,
    pub owner: Account,
}

/// The databases below a home folder.
pub fn databases(home: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = CHROMIUM.iter().map(|place| home.join(place)).collect();
    for place in FIREFOX {
        let profiles = std::fs::read_dir(home.join(place)).into_iter().flatten().flatten();
        let mut profiles: Vec<_> = profiles.map(|entry| entry.path()).collect();
        profiles.sort();
        found.extend(profiles);
    }
    found.retain(|folder| folder.join("cert9.db").is_file());
    found
}

/// What some browser has left in a home folder.
pub fn trace(home: &Path) -> Option<PathBuf> {
    let known = TRACES.iter().chain(FIREFOX).map(|place| home.join(place)).find(|place| place.is_dir());
    known.or_else(|| databases(home).into_iter().find(|folder| !folder.join(MADE_HERE).exists()))
}

/// Whether Firefox was started in this home: it makes a profile, and the database in it, only then.
pub fn has_firefox_profile(home: &Path) -> bool {
    databases(home).iter().any(|folder| FIREFOX.iter().any(|place| folder.starts_with(home.join(place))))
}

fn nickname(owner: Owner<'_>, domain: &Domain) -> String {
    format!("{} of {}", unnamed(domain), owner.install)
}

/// As an earlier adt called it, which is nobody's name.
fn unnamed(domain: &Domain) -> String {
    format!("adt local authority for {domain}")
}

impl Home {
    pub fn open(path: &Path) -> Result<Self> {
        let owner = std::fs::metadata(path).map_err(|source| Error::Io { what: "look at", path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), owner: Account::bare(owner.uid(), owner.gid()) })
    }

    /// Trusts the authority in every database. A home without one gets Chromium's, which makes none before it first starts.
    pub fn install(&self, owner: Owner<'_>, domain: &Domain, pem: &str) -> Result<Change> {
        let mut all = databases(&self.path);
        if self.lacks_chromium(&all) {
            all.push(self.make()?);
        }
        let mut change = Ok(Change::Nothing);
        for folder in all {
            // A database that refuses, e.g. one with a password of its own, leaves the others their turn.
            match (self.add(&folder, owner, domain, pem), &change) {
                (Ok(Change::Nothing), _) | (_, Err(_)) => {}
                (other, Ok(_)) => change = other,
            }
        }
        change
    }

    /// The databases whose browsers do not trust the authority. Where the host `has_chromium`, the one that is still to be made
    /// is among them.
    pub fn lacking(&self, owner: Owner<'_>, domain: &Domain, pem: &str, has_chromium: bool) -> Vec<PathBuf> {
        let mut all = databases(&self.path);
        if has_chromium && self.lacks_chromium(&all) {
            all.push(self.path.join(CHROMIUM[0]));
        }
        let name = nickname(owner, domain);
        all.retain(|folder| !self.trusts(folder, &name, pem));
        all
    }

    fn lacks_chromium(&self, databases: &[PathBuf]) -> bool {
        !CHROMIUM.iter().any(|place| databases.contains(&self.path.join(place)))
    }

    /// Whether this very certificate is there, and believed about servers: a person can take that away in the browser's settings.
    fn trusts(&self, folder: &Path, name: &str, pem: &str) -> bool {
        let same = self.known(folder, name).is_ok_and(|known| known.as_deref().map(normal) == Some(normal(pem)));
        let listed = || self.certutil(folder).arg("-L").run().map(|output| output.text()).unwrap_or_default();
        same && listed().lines().filter_map(|line| line.strip_prefix(name)).any(|flags| flags.trim_start().starts_with('C'))
    }

    fn add(&self, folder: &Path, owner: Owner<'_>, domain: &Domain, pem: &str) -> Result<Change> {
        let name = nickname(owner, domain);
        let old = self.delete_unnamed(folder, owner, domain)?;
        if !old && self.trusts(folder, &name, pem) {
            return Ok(Change::Nothing);
        }
        self.delete(folder, &name)?;
        let add = self.certutil(folder).args(["-A", "-t", "C,,", "-n", &name, "-a"]).stdin(pem);
        match add.run() {
            Ok(_) => Ok(Change::Made),
            Err(source) => {
                // It may be in there now, but not trusted.
                let _ = self.delete(folder, &name);
                Err(self.failed(source))
            }
        }
    }

    /// Takes the authority out of every database, and the database away where it was made for it and holds nothing else.
    pub fn remove(&self, owner: Owner<'_>, domain: &Domain) -> Result<Change> {
        let mut change = Change::Nothing;
        let name = nickname(owner, domain);
        for folder in databases(&self.path) {
            let old = self.delete_unnamed(&folder, owner, domain)?;
            let known = self.known(&folder, &name)?.is_some();
            self.delete(&folder, &name)?;
            if old || known {
                change = Change::Made;
            }
            if folder.join(MADE_HERE).exists() && self.empty(&folder) {
                self.run("rm", &["-rf", "--", &folder.to_string_lossy()])?;
                // Only if nothing else is in there.
                let parent = folder.parent().expect("it lies in a folder");
                self.run("rmdir", &["--ignore-fail-on-non-empty", "--", &parent.to_string_lossy()])?;
            }
        }
        Ok(change)
    }

    fn make(&self) -> Result<PathBuf> {
        let folder = self.path.join(CHROMIUM[0]);
        let text = folder.to_string_lossy().into_owned();
        self.run("mkdir", &["-p", "-m", "0700", "--", &text])?;
        self.run("touch", &["--", &format!("{text}/{MADE_HERE}")])?;
        let new = self.certutil(&folder).args(["-N", "--empty-password"]);
        new.run().map_err(|source| self.failed(source))?;
        Ok(folder)
    }

    /// Without `certutil` nobody knows, which is another thing than that nothing is there.
    fn known(&self, folder: &Path, name: &str) -> Result<Option<String>> {
        let list = self.certutil(folder).args(["-L", "-a", "-n", name]);
        match list.run() {
            Ok(output) => Ok(Some(output.text())),
            Err(missing @ crate::exec::Error::Missing { .. }) => Err(self.failed(missing)),
            Err(_) => Ok(None),
        }
    }

    /// Certificates of one nickname are deleted one at a time.
    fn delete(&self, folder: &Path, name: &str) -> Result<()> {
        for _ in 0..16 {
            if self.known(folder, name)?.is_none() {
                return Ok(());
            }
            let delete = self.certutil(folder).args(["-D", "-n", name]);
            delete.run().map_err(|source| self.failed(source))?;
        }
        Ok(())
    }

    /// What an earlier adt put there, if all of it is the owner's. Says whether it was.
    fn delete_unnamed(&self, folder: &Path, owner: Owner<'_>, domain: &Domain) -> Result<bool> {
        const END: &str = "-----END CERTIFICATE-----";
        let name = unnamed(domain);
        let Some(pem) = self.known(folder, &name)? else { return Ok(false) };
        let mut all = pem.split_inclusive(END).filter(|one| one.contains(END));
        if !all.all(|one| (owner.is_own)(domain, one.trim_start())) {
            return Ok(false);
        }
        self.delete(folder, &name).map(|()| true)
    }

    fn empty(&self, folder: &Path) -> bool {
        let listed = self.certutil(folder).arg("-L").run().map(|output| output.text());
        // Below a header of two lines there is one line for each certificate, which ends with its trust, e.g. `C,,`.
        listed.is_ok_and(|text| !text.lines().skip(3).any(|line| line.trim_end().ends_with([',', 'u', 'C', 'T', 'c', 'P', 'p'])))
    }

    fn certutil(&self, folder: &Path) -> Command {
        // Without a file to read passwords from it asks a terminal for one, and where there is none, for ever.
        self.command("certutil").args(["-f", "/dev/null", "-d"]).arg(format!("sql:{}", folder.display()))
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        self.command(program).args(args).run().map(drop).map_err(|source| self.failed(source))
    }

    fn command(&self, program: &str) -> Command {
        Command::new(program).env("HOME", &self.path).account(self.owner.clone())
    }

    fn failed(&self, source: crate::exec::Error) -> Error {
        Error::Program { whose: format!("a browser in `{}`", self.path.display()), source }
    }
}

/// `certutil` prints carriage returns.
fn normal(pem: &str) -> String {
    pem.split_whitespace().collect()
}
