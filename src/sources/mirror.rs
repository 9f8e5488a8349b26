//! Bare mirrors of sites' repositories: for each address one of root's and of who works behind sudo, and one of each member.
//!
//! ```text
//! <store>/sources/             0711: who does not know a name can't find it
//!   www-3f2a….git/             root's, closed to all but those who use it (an access list, as a process list tells its name);
//!                              the name holds a hash of the store's identity, the address and the member
//!     adt-template/            what a new checkout begins with: origin, its branches, where objects are
//!     adt-fetched              when it was last known to be as its origin (seconds since 1970)
//!     adt-used                 when somebody made a checkout of it (`stock`)
//!   .fetch-www-3f2a….git/      the caller's, only while one of theirs fetches
//! ```
//! The network part runs as the person who asks, with their keys, agents and settings, and brings packs into a folder of
//! theirs. Root then reads these as data: `index-pack` computes every object's name itself, so nobody can put something
//! wrong into a commit, and no setting of a user's is ever read by root.
//!
//! What lies at an address is the word of the git that asked, and a member's git answers what its settings make it answer. So
//! branches, the access list and the lock are each member's own: nobody's lie reaches another, and nobody waits for another.
//!
//! Checkouts borrow objects from here, so nothing is ever pruned: a branch that was rewritten or deleted at its origin
//! leaves its commits behind for those who use them.
//!
//! Not chosen: one mirror for all, where each shows that the origin lets them in (their own git says so); fetching as root with the user's keys (their settings may name programs to run); hard links instead of
//! borrowing (other filesystems would need a copy of every object); hard links to the objects of an origin on this host
//! (its owner could change them under everybody, and what it borrows itself could go).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::address::Address;
use super::beneath::Beneath;
use super::git::{self, Person};
use super::{Error, Result};
use crate::disk;
use crate::exec::{self, Command, Limits};
use crate::model::BranchName;
use crate::store::{Lock, Store};

/// A mirror's place, whether it was fetched yet or not.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// What git is given as the origin: an address, or an absolute path. Without a password that may belong to it.
    pub address: String,
    pub(super) origin: Address,
    pub folder: PathBuf,
}

/// Branches with their commits, and the one that the repository itself names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Branches {
    pub head: Option<String>,
    pub commits: BTreeMap<String, String>,
}

/// How a mirror is brought to what its origin has.
pub struct Fetch<'a> {
    pub person: &'a Person,
    /// Seconds since 1970.
    pub now: i64,
    /// In seconds, for each talk with the origin. Without it a talk may last for as long as something comes.
    pub patience: Option<u32>,
    /// Hears how far it is.
    pub tell: &'a dyn Fn(&str),
}

/// So long an origin may say nothing; git's own time-outs can be minutes, and of some it has none.
const SILENCE: Duration = Duration::from_secs(600);
/// Files above this are not tried as deltas of each other, nor held in memory.
const LARGE_FILES: &str = "core.bigFileThreshold=1m";
/// Beyond this many packs every look-up gets slower.
const MOST_PACKS: usize = 20;
/// The file that tells when a mirror was last as its origin.
const STAMP: &str = "adt-fetched";

impl Fetch<'_> {
    fn limits(&self) -> Limits {
        let within = self.patience.map(|seconds| Duration::from_secs(seconds.into()));
        Limits { within, silent: Some(SILENCE), ..self.person.limits() }
    }
}

impl Mirror {
    /// Root's, and of who works behind sudo.
    pub fn of(store: &Store, address: &str) -> Self {
        Self::named(store, address, &Self::hash(store, address))
    }

    /// This member's alone.
    pub fn of_member(store: &Store, address: &str, user: u32) -> Self {
        // The hash of a hash: no address makes another's name of it.
        let mut hash = Self::hash(store, address);
        hash.extend(user.to_le_bytes());
        Self::named(store, address, &Sha256::digest(hash))
    }

    fn hash(store: &Store, address: &str) -> Vec<u8> {
        Sha256::digest(format!("{}\0{address}", store.install())).to_vec()
    }

    fn named(store: &Store, address: &str, hash: &[u8]) -> Self {
        let origin = Address::new(address);
        let hash: String = hash[..10].iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = store.folder.join("sources").join(format!("{}-{hash}.git", readable(&origin.shown)));
        Self { address: origin.shown.clone(), origin, folder }
    }

    /// What the lock of those who fetch into it is called.
    pub fn lock_name(&self) -> String {
        let name = self.folder.file_stem().expect("a mirror's folder has a name").to_string_lossy();
        format!("source-{name}")
    }

    pub fn exists(&self) -> bool {
        self.folder.join(STAMP).exists()
    }

    /// Seconds since it was last known to be as its origin; `None` when it never was.
    pub fn age(&self, now: i64) -> Option<i64> {
        let text = fs::read_to_string(self.folder.join(STAMP)).ok()?;
        Some(now.saturating_sub(text.trim().parse().ok()?).max(0))
    }

    /// Where checkouts borrow objects from.
    pub fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    /// What git copies into a new checkout's `.git`.
    pub fn template(&self) -> PathBuf {
        self.folder.join("adt-template")
    }

    /// Makes it as its origin is now; whether anything changed. The caller holds the lock named [`Self::lock_name`].
    pub fn fetch(&self, _lock: &Lock, fetch: &Fetch<'_>) -> Result<bool> {
        let theirs = self.ask(fetch)?;
        self.make()?;
        self.admit(fetch.person)?;
        let ours = self.refs()?;
        let changed = theirs.refs != ours;
        if changed {
            self.bring(fetch)?;
        }
        if let Some(head) = &theirs.head
            && self.branches()?.head.as_ref() != Some(head)
        {
            self.git().args(["symbolic-ref", "HEAD"]).arg(format!("refs/heads/{head}")).run()?;
        }
        self.write_template()?;
        if changed || !self.exists() {
            // The stamp says that all of it is there; git leaves most to the kernel.
            disk::sync_tree(&self.folder).map_err(self.io("write to the disk"))?;
        }
        disk::File::at(&self.folder.join(STAMP)).mode(0o644).write(fetch.now.to_string()).map_err(self.io("write"))?;
        Ok(changed)
    }

    /// Closes the mirror to all but root and those who were let in, and lets this person in: their git reads the objects that a
    /// checkout borrows. Only root may change what is in it, so it can't be theirs, and a group can have other members.
    pub fn admit(&self, person: &Person) -> Result<()> {
        close(&self.folder, person.account.as_ref().map(|account| account.user)).map_err(|error| match error.raw_os_error() {
            Some(number) if number == rustix::io::Errno::OPNOTSUPP.raw_os_error() => {
                Error::NoAccessLists { folder: self.folder.clone() }
            }
            _ => self.io("close to other users")(error),
        })
    }

    pub fn branches(&self) -> Result<Branches> {
        let head = fs::read_to_string(self.folder.join("HEAD")).map_err(self.io("read"))?;
        let head = head.trim().strip_prefix("ref: refs/heads/").map(str::to_owned);
        let refs = self.refs()?;
        let commits: BTreeMap<String, String> =
            refs.into_iter().filter_map(|(name, id)| Some((branch(name.strip_prefix("refs/heads/")?)?, id))).collect();
        Ok(Branches { head: head.filter(|head| commits.contains_key(head)), commits })
    }

    /// A file of a commit; `None` where there is none.
    pub fn file(&self, commit: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let (status, output) = self.git().args(["cat-file", "blob"]).arg(format!("{commit}:{path}")).run_any(&mut |_, _| {})?;
        Ok(status.success().then_some(output.stdout))
    }

    /// Whether an object is here, e.g. the commit that an environment was made from.
    pub fn has(&self, commit: &str) -> Result<bool> {
        let (status, _) = self.git().args(["cat-file", "-e"]).arg(format!("{commit}^{{commit}}")).run_any(&mut |_, _| {})?;
        Ok(status.success())
    }

    /// How many commits `theirs` has that `ours` lacks, and the other way round.
    pub fn ahead_behind(&self, ours: &str, theirs: &str) -> Result<(u64, u64)> {
        let range = format!("{ours}...{theirs}");
        let output = self.git().args(["rev-list", "--left-right", "--count"]).arg(range).arg("--").run()?.text();
        let mut counts = output.split_whitespace().map(|count| count.parse().unwrap_or(0));
        Ok((counts.next().unwrap_or(0), counts.next().unwrap_or(0)))
    }

    /// git on the mirror, as ourselves and with nobody's settings.
    pub fn git(&self) -> Command {
        git::plain().arg(format!("--git-dir={}", self.folder.display()))
    }

    /// What the origin has, asked in one go: most fetches end here, because nothing changed.
    fn ask(&self, fetch: &Fetch<'_>) -> Result<Answer> {
        let ask = self.origin.log_in(git::git(fetch.person)).limits(fetch.limits()).args([
            "ls-remote",
            "--quiet",
            "--symref",
            "--",
            &self.address,
            "HEAD",
            "refs/heads/*",
            "refs/tags/*",
        ]);
        let output = ask.cwd("/").run().map_err(self.unreachable())?;
        Ok(Answer::parse(&output.text()))
    }

    /// Fetches what is new into a folder of the person's own, then takes it over as data.
    fn bring(&self, fetch: &Fetch<'_>) -> Result<()> {
        let draft = Draft::new(self, fetch.person)?;
        let git = || git::git(fetch.person).arg(format!("--git-dir={}", draft.0.display())).cwd("/");
        let command = self
            .origin
            .log_in(git())
            .limits(fetch.limits())
            // Every fetch a pack: what root reads then is always of one kind.
            .args(["-c", "fetch.unpackLimit=1", "-c", LARGE_FILES])
            .args(["fetch", "--progress", "--no-auto-maintenance", "--no-write-fetch-head", "--no-tags"])
            .args(["--no-recurse-submodules"])
            .args(self.is_local().then(|| format!("--upload-pack=git -c {LARGE_FILES} -c pack.compression=0 upload-pack")))
            .args(["--", &self.address, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]);
        let tell = &mut |_, line: &str| {
            if line.contains('%') {
                (fetch.tell)(line.trim());
            }
        };
        command.run_lines(tell).map_err(self.unreachable())?;
        let refs = parse_refs(&git().args(LIST_REFS).run()?.text());
        (fetch.tell)("taking over what came");
        self.take_packs(&draft.0, fetch.person)?;
        self.take_refs(&refs, fetch.person)?;
        self.tidy(fetch.person)
    }

    /// Whether its origin is on this host, where the time goes into packing and not into sending.
    fn is_local(&self) -> bool {
        self.address.starts_with('/') || self.address.starts_with("file://")
    }

    fn take_packs(&self, draft: &Path, person: &Person) -> Result<()> {
        self.remove_halves()?;
        if person.account.is_none() {
            return self.move_packs(&draft.join("objects/pack"));
        }
        // The folder is the person's, who may put anything in the way while it is read.
        let files = Beneath::open(draft, None).and_then(|draft| draft.files("objects/pack")).map_err(self.io("read"))?;
        for (_, pack) in files.into_iter().filter(|(name, _)| name.ends_with(".pack")) {
            let take = self.git().limits(person.limits()).args(["-c", LARGE_FILES, "index-pack", "--stdin"]);
            if let Err(error) = take.run_reading(pack) {
                self.remove_halves()?;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// What root's own git has checked as it came needs no second look. An index goes last: with it a pack is there.
    fn move_packs(&self, from: &Path) -> Result<()> {
        for kind in ["rev", "pack", "idx"] {
            for entry in fs::read_dir(from).map_err(self.io("read"))?.flatten() {
                if entry.path().extension().is_some_and(|extension| extension == kind) {
                    let to = self.objects().join("pack").join(entry.file_name());
                    disk::put_spare(&entry.path(), &to).map_err(self.io("fill"))?;
                }
            }
        }
        Ok(())
    }

    /// What an `index-pack` that was ended had written, which can be as large as all that came.
    fn remove_halves(&self) -> Result<()> {
        for entry in fs::read_dir(self.objects().join("pack")).map_err(self.io("read"))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("tmp_") {
                fs::remove_file(entry.path()).map_err(self.io("tidy"))?;
            }
        }
        Ok(())
    }

    /// Whole histories only; then what is gone, then what is new: `a` must make room for `a/b`.
    fn take_refs(&self, theirs: &BTreeMap<String, String>, person: &Person) -> Result<()> {
        let tips: String = theirs.values().map(|id| format!("{id}\n")).collect();
        let check = self.git().limits(person.limits());
        check.args(["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all"]).stdin(tips).run()?;
        let ours = self.refs()?;
        let gone: String =
            ours.keys().filter(|name| !theirs.contains_key(*name)).map(|name| format!("delete {name}\0\0")).collect();
        let new: String = theirs
            .iter()
            .filter(|(name, id)| ours.get(*name) != Some(*id))
            .map(|(name, id)| format!("update {name}\0{id}\0\0"))
            .collect();
        for change in [gone, new].into_iter().filter(|change| !change.is_empty()) {
            self.git().args(["update-ref", "-z", "--stdin"]).stdin(change).run()?;
        }
        self.git().args(["pack-refs", "--all"]).run()?;
        Ok(())
    }

    /// Few packs, and none lost: a geometric repack keeps what no branch reaches any more.
    fn tidy(&self, person: &Person) -> Result<()> {
        let packs = fs::read_dir(self.objects().join("pack")).map_err(self.io("read"))?.flatten();
        if packs.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "pack")).count() > MOST_PACKS {
            let repack = self.git().limits(person.limits()).args(["-c", LARGE_FILES, "repack", "--quiet", "-d"]);
            repack.args(["--geometric=2", "--no-write-bitmap-index"]).run()?;
        }
        Ok(())
    }

    fn refs(&self) -> Result<BTreeMap<String, String>> {
        Ok(parse_refs(&self.git().args(LIST_REFS).run()?.text()))
    }

    fn make(&self) -> Result<()> {
        if self.folder.join("HEAD").exists() {
            return Ok(());
        }
        let sources = self.folder.parent().expect("a mirror lies in the folder of mirrors");
        fs::DirBuilder::new().recursive(true).mode(0o711).create(sources).map_err(self.io("make the folder of"))?;
        // A half one of before has no HEAD, which is written last.
        bare(&self.folder, "").map_err(self.io("make"))
    }

    /// Each file is replaced as a whole: a checkout may be made at the same time.
    fn write_template(&self) -> Result<()> {
        let template = self.template();
        let branches = self.branches()?;
        let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
        packed.extend(branches.commits.iter().map(|(branch, commit)| format!("{commit} refs/remotes/origin/{branch}\n")));
        let mut files = vec![
            ("objects/info/alternates", format!("{}\n", self.objects().display())),
            ("packed-refs", packed),
            ("config", self.origin_config()?),
        ];
        if let Some(head) = branches.head {
            files.push(("refs/remotes/origin/HEAD", format!("ref: refs/remotes/origin/{head}\n")));
        }
        for (name, text) in files {
            let path = template.join(name);
            let folder = path.parent().expect("a file has a folder");
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(self.io("write into"))?;
            disk::File::at(&path).mode(0o644).write_spare(text).map_err(self.io("write into"))?;
        }
        Ok(())
    }

    /// Written by git, which knows how to quote an address.
    fn origin_config(&self) -> Result<String> {
        let draft = tempfile::NamedTempFile::new_in(&self.folder).map_err(self.io("write into"))?;
        let set = |key: &str, value: &str| git::plain().args(["config", "--file"]).arg(draft.path()).args([key, value]).run();
        set("remote.origin.url", &self.address)?;
        set("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")?;
        // Machines can put a repository into a submodule's folder: the person's git starts none there.
        set("diff.ignoreSubmodules", "dirty")?;
        set("submodule.recurse", "false")?;
        set("fetch.recurseSubmodules", "false")?;
        if let Some((key, helper, _)) = self.origin.kept() {
            set(&key, "")?;
            git::plain().args(["config", "--file"]).arg(draft.path()).args(["--add", &key, helper]).run()?;
        }
        fs::read_to_string(draft.path()).map_err(self.io("read in"))
    }

    /// Lets the person's git in a new checkout log in as this address says.
    pub(super) fn give_login(&self, person: &Person, checkout: &Path) -> Result<()> {
        git::keep_login(person, &self.origin, checkout)
    }

    fn unreachable(&self) -> impl FnOnce(exec::Error) -> Error {
        let address = self.address.clone();
        move |source| Error::Fetch { address, branch: None, source }
    }

    fn io(&self, what: &'static str) -> impl Fn(std::io::Error) -> Error {
        let path = self.folder.clone();
        move |source| Error::Io { what, path: path.clone(), source }
    }
}

/// Mirrors that every user of this host may enter, as an earlier adt made them.
pub fn open_ones(sources: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(sources).into_iter().flatten().flatten();
    let mirrors = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "git"));
    mirrors.filter(|folder| is_open(folder).unwrap_or_default()).collect()
}

/// To all but root, those who were let in before, and these users.
pub fn close(folder: &Path, users: impl IntoIterator<Item = u32>) -> std::io::Result<()> {
    let mut all = access::users(folder)?;
    let known = all.len();
    all.extend(users);
    // Root needs no entry.
    all.remove(&0);
    match (all.is_empty(), is_open(folder)?) {
        (true, true) => fs::set_permissions(folder, PermissionsExt::from_mode(0o700)),
        (false, is_open) if is_open || all.len() != known => access::set(folder, &all),
        (true | false, _) => Ok(()),
    }
}

/// Whether every user of this host may enter.
fn is_open(folder: &Path) -> std::io::Result<bool> {
    Ok(fs::metadata(folder)?.permissions().mode() & 0o007 != 0)
}

/// The kernel's access lists (`system.posix_acl_access`): a version, then a tag, rights and an id for each entry.
mod access {
    use std::collections::BTreeSet;
    use std::io;
    use std::path::Path;

    const NAME: &str = "system.posix_acl_access";
    const VERSION: [u8; 4] = 2_u32.to_le_bytes();
    const USER: u16 = 2;
    const NOBODY: u32 = u32::MAX;

    /// Who was let in.
    pub fn users(folder: &Path) -> io::Result<BTreeSet<u32>> {
        let bytes = match xattr::get(folder, NAME) {
            // Then nobody was let in.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            other => other?,
        };
        let bytes = bytes.unwrap_or_default();
        let entries = bytes.get(VERSION.len()..).unwrap_or_default().as_chunks::<8>().0;
        let users = entries.iter().filter(|[a, b, ..]| u16::from_le_bytes([*a, *b]) == USER);
        Ok(users.map(|[.., a, b, c, d]| u32::from_le_bytes([*a, *b, *c, *d])).collect())
    }

    /// Its owner may do all, these users look inside, and nobody else anything.
    pub fn set(folder: &Path, users: &BTreeSet<u32>) -> io::Result<()> {
        let named = users.iter().map(|user| (USER, 5, *user));
        // The owner, the users, the owner's group, the most that the named ones get, everybody else.
        let entries = [(1, 7, NOBODY)].into_iter().chain(named).chain([(4, 0, NOBODY), (0x10, 5, NOBODY), (0x20, 0, NOBODY)]);
        let mut bytes = VERSION.to_vec();
        for (tag, rights, id) in entries {
            bytes.extend(u16::to_le_bytes(tag));
            bytes.extend(u16::to_le_bytes(rights));
            bytes.extend(u32::to_le_bytes(id));
        }
        xattr::set(folder, NAME, &bytes)
    }
}

/// A repository in which a person's git may write, and which borrows what the mirror has already.
struct Draft(PathBuf);

impl Draft {
    fn new(mirror: &Mirror, person: &Person) -> Result<Self> {
        let name = mirror.folder.file_name().expect("a mirror's folder has a name").to_string_lossy();
        let draft = Self(mirror.folder.with_file_name(format!(".fetch-{name}")));
        let io = mirror.io("make the folder to fetch into beside");
        match fs::remove_dir_all(&draft.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        bare(&draft.0, &format!("{}\n", mirror.objects().display())).map_err(&io)?;
        fs::set_permissions(&draft.0, PermissionsExt::from_mode(0o700)).map_err(&io)?;
        // The folder itself last: until then nobody but root can put anything into it.
        if let Some(account) = &person.account {
            for entry in walkdir::WalkDir::new(&draft.0).contents_first(true) {
                let entry = entry.map_err(|error| io(error.into()))?;
                lchown(entry.path(), Some(account.user), Some(account.group)).map_err(&io)?;
            }
        }
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What stays is removed by the next fetch.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An empty bare repository. Automatic tidying would remove what checkouts borrow.
fn bare(folder: &Path, alternates: &str) -> std::io::Result<()> {
    for inner in ["objects/info", "objects/pack", "refs/heads", "refs/tags"] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder.join(inner))?;
    }
    if !alternates.is_empty() {
        fs::write(folder.join("objects/info/alternates"), alternates)?;
    }
    let config = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[gc]\n\tauto = 0\n\tpruneExpire = never\n";
    fs::write(folder.join("config"), config)?;
    fs::write(folder.join("HEAD"), "ref: refs/heads/main\n")
}

const LIST_REFS: [&str; 4] = ["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags"];

/// An origin's server may call a branch anything; one that git could take for an option is none to us.
fn branch(name: &str) -> Option<String> {
    BranchName::new(name).ok().map(|name| name.to_string())
}

pub(super) fn parse_refs(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    // A name that is no UTF-8 can't be asked for by anybody here.
    lines.filter(|(_, name)| !name.contains('\u{fffd}')).map(|(id, name)| (name.to_owned(), id.to_owned())).collect()
}

/// What `git ls-remote --symref` prints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) head: Option<String>,
    pub(super) refs: BTreeMap<String, String>,
}

impl Answer {
    pub(super) fn parse(text: &str) -> Self {
        let mut answer = Self::default();
        for (value, name) in text.lines().filter_map(|line| line.split_once('\t')) {
            if let Some(target) = value.strip_prefix("ref: ") {
                answer.head = target.strip_prefix("refs/heads/").and_then(branch).or(answer.head);
            } else if name != "HEAD" && !name.ends_with("^{}") && !name.contains('\u{fffd}') {
                answer.refs.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

/// The last part of an address that a person would recognise.
fn readable(address: &str) -> String {
    let address = address.trim_end_matches('/').trim_end_matches(".git");
    let last = address.rsplit(['/', ':']).next().unwrap_or_default().to_ascii_lowercase();
    let word: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
    if word.is_empty() { "repository".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mirrors_are_readable_and_harmless() {
        for (address, name) in [
            ("https://git.example.org/shop/WWW.git", "www"),
            ("git@git.example.org:shop/api", "api"),
            ("/srv/git/../x y/$(reboot).git/", "reboot"),
            ("https://git.example.org/..", "repository"),
        ] {
            assert_eq!(readable(address), name);
        }
    }

    #[test]
    fn an_answer_is_read() {
        let text = "ref: refs/heads/trunk\tHEAD\naa\tHEAD\naa\trefs/heads/trunk\nbb\trefs/tags/v1\ncc\trefs/tags/v1^{}\n";
        let answer = Answer::parse(text);
        assert_eq!(answer.head.as_deref(), Some("trunk"));
        assert_eq!(answer.refs.keys().collect::<Vec<_>>(), ["refs/heads/trunk", "refs/tags/v1"]);
    }

    use std::sync::atomic::AtomicBool;

    use crate::store::Holder;

    /// A store, an origin that is worked in, and the mirror between them.
    struct Bench {
        home: tempfile::TempDir,
        store: Store,
        mirror: Mirror,
    }

    impl Bench {
        fn new() -> Self {
            let home = tempfile::tempdir().unwrap();
            let store = Store::open(&home.path().join("store")).unwrap();
            let origin = home.path().join("origin");
            let mirror = Mirror::of(&store, &origin.display().to_string());
            let bench = Self { home, store, mirror };
            git::plain().args(["init", "--quiet", "--initial-branch=trunk"]).arg(&origin).run().unwrap();
            bench.commit("one");
            bench
        }

        fn origin(&self, words: &[&str]) -> String {
            let git = git::plain().args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-C"]);
            git.arg(self.home.path().join("origin")).args(words).run().unwrap().text().trim().to_owned()
        }

        fn commit(&self, text: &str) -> String {
            self.origin(&["commit", "--quiet", "--allow-empty", "-m", text]);
            self.origin(&["rev-parse", "HEAD"])
        }

        fn fetch(&self, now: i64) -> Result<bool> {
            self.fetch_as(&Person::default(), now)
        }

        fn fetch_as(&self, person: &Person, now: i64) -> Result<bool> {
            let holder = Holder { user: "ada".into(), command: "test".into(), pid: 1, since: 0 };
            let lock = self.store.lock(&self.mirror.lock_name(), &holder);
            let lock = lock.wait(&AtomicBool::new(false), &mut |_| {}).unwrap();
            self.mirror.fetch(&lock, &Fetch { person, now, patience: None, tell: &|_| {} })
        }
    }

    #[test]
    fn a_mirror_follows_its_origin_and_loses_nothing() {
        let bench = Bench::new();
        assert_eq!((bench.mirror.exists(), bench.mirror.age(9)), (false, None));
        bench.origin(&["branch", "a"]);
        assert!(bench.fetch(5).unwrap());
        assert!(!bench.fetch(7).unwrap());
        assert_eq!(bench.mirror.age(9), Some(2));
        let before = bench.mirror.branches().unwrap();
        assert_eq!(before.head.as_deref(), Some("trunk"));
        let old = before.commits["trunk"].clone();

        bench.origin(&["commit", "--quiet", "--amend", "--allow-empty", "-m", "rewritten"]);
        let new = bench.commit("two");
        bench.origin(&["branch", "-D", "a"]);
        bench.origin(&["branch", "a/$(reboot)"]);
        bench.origin(&["branch", "-m", "trunk", "main"]);
        assert!(bench.fetch(8).unwrap());
        let after = bench.mirror.branches().unwrap();
        assert_eq!(after.head.as_deref(), Some("main"));
        assert_eq!(after.commits.keys().collect::<Vec<_>>(), ["a/$(reboot)", "main"]);
        assert_eq!(after.commits["main"], new);
        assert!(bench.mirror.has(&old).unwrap());
        assert_eq!(bench.mirror.ahead_behind(&old, &new).unwrap(), (1, 2));

        std::fs::rename(bench.home.path().join("origin"), bench.home.path().join("moved")).unwrap();
        assert!(matches!(bench.fetch(9).unwrap_err(), Error::Fetch { .. }));
        assert_eq!(bench.mirror.branches().unwrap(), after);
        assert_eq!(bench.mirror.age(100), Some(92));
        let names = std::fs::read_dir(bench.store.folder.join("sources")).unwrap().count();
        assert_eq!(names, 1, "a fetch leaves nothing but the mirror");
    }

    #[test]
    fn a_fetch_is_cut_short_with_all_that_it_started() {
        let bench = Bench::new();
        bench.fetch(1).unwrap();
        let before = bench.mirror.branches().unwrap();
        let new = bench.commit("two");
        // Sends half a pack and then nothing.
        let (home, started) = (bench.home.path().join("ada"), bench.home.path().join("started"));
        fs::create_dir(&home).unwrap();
        let hook = home.join("hook");
        let text = format!("#!/bin/sh\n\"$@\" | head -c 60\necho $$ > {0}.new\nmv {0}.new {0}\nsleep 1000\n", started.display());
        fs::write(&hook, text).unwrap();
        fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(home.join(".gitconfig"), format!("[uploadpack]\npackObjectsHook = {}\n", hook.display())).unwrap();
        let ada = Person { home: Some(home), ..Person::default() };

        let error = std::thread::scope(|scope| {
            let fetching = scope.spawn(|| bench.fetch_as(&ada, 2));
            until(|| started.exists());
            ada.cancel.0.store(true, std::sync::atomic::Ordering::Relaxed);
            fetching.join().unwrap().unwrap_err()
        });
        let Error::Fetch { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), crate::model::Kind::Cancelled, "{source}");
        let group = fs::read_to_string(&started).unwrap();
        // On a host that nobody tidies, an orphan that ended stays to be seen.
        let state = || fs::read_to_string(format!("/proc/{}/stat", group.trim())).unwrap_or_default();
        until(|| state().is_empty() || state().contains(") Z "));
        assert_eq!(bench.mirror.branches().unwrap(), before);
        let sources = fs::read_dir(bench.store.folder.join("sources")).unwrap().count();
        assert_eq!(sources, 1, "what it had fetched is gone");

        // One that was killed as it took over what came leaves this.
        let half = bench.mirror.objects().join("pack/tmp_pack_half");
        fs::write(&half, "half").unwrap();
        assert!(bench.fetch(3).unwrap());
        assert_eq!(bench.mirror.branches().unwrap().commits["trunk"], new);
        assert!(!half.exists());
    }

    #[test]
    fn large_files_of_this_host_are_taken_as_they_are() {
        let bench = Bench::new();
        // Each would be small as a delta of the other, and both if compressed.
        for (name, last) in [("a", "a"), ("b", "b")] {
            fs::write(bench.home.path().join("origin").join(name), "x".repeat(2 << 20) + last).unwrap();
        }
        bench.origin(&["add", "--all"]);
        bench.commit("large");
        bench.fetch(1).unwrap();
        let packs = fs::read_dir(bench.mirror.objects().join("pack")).unwrap().flatten();
        let size: u64 = packs.map(|entry| entry.metadata().unwrap().len()).sum();
        assert!(size > 4 << 20, "{size}");
        assert_eq!(bench.mirror.file("trunk", "b").unwrap().unwrap().len(), (2 << 20) + 1);
    }

    fn until(is_so: impl Fn() -> bool) {
        let since = std::time::Instant::now();
        while !is_so() {
            assert!(since.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn many_fetches_make_few_packs() {
        let bench = Bench::new();
        let first = bench.commit("first");
        for now in 0..30 {
            bench.origin(&["commit", "--quiet", "--amend", "--allow-empty", "-m", &now.to_string()]);
            bench.fetch(now).unwrap();
        }
        let packs = std::fs::read_dir(bench.mirror.objects().join("pack")).unwrap().flatten();
        let packs = packs.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "pack")).count();
        assert!(packs <= MOST_PACKS, "{packs} packs");
        assert!(!bench.mirror.has(&first).unwrap(), "it was never on a branch that was fetched");
        let log = bench.mirror.git().args(["cat-file", "--batch-check", "--batch-all-objects"]).run().unwrap().text();
        assert_eq!(log.matches("commit").count(), 31, "{log}");
    }
}
