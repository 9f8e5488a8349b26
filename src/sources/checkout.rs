//! A site's working tree in its person's own folder: a real repository in which they edit, commit and push.
//!
//! ```text
//! spare ─┐ (renamed: made beforehand, differs in a few files)
//!        ├─→ .www.draft ─→ www ─→ .www.gone-71 ─→ .adt/.gone-x ─→ nothing, behind the command
//! new ───┘
//! ```
//! Objects are borrowed from the mirror, so what costs time is writing the files. A spare ([`super::spare`]) has them written
//! already: who takes it with one rename changes only what their branch has different. Every git here runs as the person,
//! because a repository's own settings name programs; nothing that holds work of theirs is ever removed.
//!
//! Not chosen: copying a prepared tree (on ext4 as slow as writing it anew, measured), hard links into one (an edit in
//! one environment would be an edit in all), `git worktree` (one repository for all: branches could not be in two).

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fstat, open, openat, renameat, statat};
use rustix::io::Errno;

use super::git::{self, Person};
use super::mirror::Mirror;
use super::ready::SPARES;
use super::workspace::Place;
use super::{Error, Result, ready, workspace};
use crate::disk::tree::{self, FOLDER};
use crate::disk::{self, walk};
use crate::exec::{Account, Command, on_files_of};

/// What a checkout is to be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand<'a> {
    pub branch: &'a str,
    pub commit: &'a str,
}

/// What its person has made of a checkout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// `None` is a commit without a branch.
    pub branch: Option<String>,
    pub commit: String,
    /// Files that differ from the commit, new ones too.
    pub changed: usize,
    /// Of these, files that git knows.
    pub tracked: usize,
    /// Commits that are nowhere but here.
    pub unpushed: usize,
}

impl State {
    /// Nothing is lost with it.
    pub fn is_replaceable(&self) -> bool {
        self.changed == 0 && self.unpushed == 0
    }

    /// `2 changed files, 1 commit that was not pushed`
    pub fn words(&self) -> String {
        let count = |number: usize, one: &str, many: &str| match number {
            0 => None,
            1 => Some(format!("1 {one}")),
            number => Some(format!("{number} {many}")),
        };
        let changed = count(self.changed, "changed file", "changed files");
        let unpushed = count(self.unpushed, "commit that was not pushed", "commits that were not pushed");
        [changed, unpushed].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

pub fn exists(folder: &Path) -> bool {
    folder.join(".git").exists()
}

/// Makes a checkout; one that is there stays as it is. True when it was made from a spare.
pub fn make(mirror: &Mirror, person: &Person, folder: &Path, stand: &Stand<'_>) -> Result<bool> {
    if exists(folder) {
        return Ok(false);
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        return Err(Error::Occupied { folder: folder.to_owned() });
    }
    // Another person may have fetched it.
    mirror.admit(person)?;
    let draft = beside(folder, "draft");
    remove(&draft)?;
    let spare = ready::take(mirror, person, folder, &draft) && switch(person, &draft, stand).is_ok();
    if !spare {
        remove(&draft)?;
        fresh(mirror, person, &draft, stand)?;
    }
    disk::put_tree(&draft, folder).map_err(io("move the checkout to", folder))?;
    Ok(spare)
}

/// A new repository that knows the origin's branches and borrows the mirror's objects; then its files.
pub(super) fn fresh(mirror: &Mirror, person: &Person, folder: &Path, stand: &Stand<'_>) -> Result<()> {
    let init = || git::git(person).args(["init", "--quiet"]).cwd("/");
    init().arg(format!("--template={}", mirror.template().display())).arg("--").arg(folder).run()?;
    // Once more for the hooks and excludes that the person gives each new repository.
    init().arg("--").arg(folder).run()?;
    mirror.give_login(person, folder)?;
    switch(person, folder, stand)
}

/// Lets a checkout borrow from this mirror too, where it lacks the commit: it was made from another, e.g. behind sudo.
pub fn borrow(mirror: &Mirror, person: &Person, folder: &Path, stand: &Stand<'_>) -> Result<()> {
    let it = hold(person, folder)?;
    let has = it.git().args(["cat-file", "-e", &format!("{}^{{commit}}", stand.commit)]);
    if has.run_any(&mut |_, _| {})?.0.success() {
        return Ok(());
    }
    mirror.admit(person)?;
    let list = workspace::in_held(&it.folder, OsStr::new(".git/objects/info/alternates"));
    let add = || {
        use std::io::Write as _;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&list)?;
        writeln!(file, "{}", mirror.objects().display())
    };
    on_files_of(it.owner.account.as_ref(), add).map_err(io("write", folder))
}

/// Brings a checkout to a branch. One of this name that is there keeps its own commits and moves only forward.
pub fn switch(person: &Person, folder: &Path, stand: &Stand<'_>) -> Result<()> {
    let Stand { branch, commit } = stand;
    let it = hold(person, folder)?;
    let local = format!("refs/heads/{branch}");
    let remote = format!("refs/remotes/origin/{branch}");
    it.git().args(["update-ref", &remote, commit]).run()?;
    let (known, _) = it.git().args(["show-ref", "--verify", "--quiet", &local]).run_any(&mut |_, _| {})?;
    // As many writers as processors; git itself knows below how many files that is no use.
    let checkout = it.git().limits(person.limits()).args(["-c", "checkout.workers=0", "checkout", "--quiet"]);
    if known.success() {
        checkout.args([*branch, "--"]).run()?;
        let forward = it.git().args(["merge-base", "--is-ancestor", "HEAD", commit]);
        if forward.run_any(&mut |_, _| {})?.0.success() {
            it.git().limits(person.limits()).args(["merge", "--quiet", "--ff-only", commit]).run()?;
        }
    } else {
        checkout.args(["--no-track", "-b", branch, commit, "--"]).run()?;
    }
    it.git().args(["branch", "--quiet", &format!("--set-upstream-to={remote}"), branch]).run()?;
    pass_over_submodules(&|| it.git())
}

/// Makes the person's own `git status` and its kin execute nothing that lies in a submodule's folder. The settings that come
/// with the mirror's template don't do alone, as a `.gitmodules`, which machines can write, outweighs them: in the index,
/// which they can't, each submodule is marked as one whose folder nobody looks into. Who wants to work in one unmarks it, with `git update-index --no-skip-worktree`.
pub(super) fn pass_over_submodules(git: &dyn Fn() -> Command) -> Result<()> {
    let staged = git().args(["ls-files", "--stage", "-z"]).run()?;
    let modules: Vec<&[u8]> = staged
        .stdout
        .split(|byte| *byte == 0)
        .filter(|entry| entry.starts_with(b"160000 "))
        .filter_map(|entry| entry.splitn(2, |byte| *byte == b'\t').nth(1))
        .collect();
    if !modules.is_empty() {
        let names = modules.join(&0);
        git().args(["update-index", "--skip-worktree", "-z", "--stdin"]).stdin(names).run()?;
    }
    Ok(())
}

impl State {
    /// What `git status --porcelain=v2 --branch` prints.
    pub(super) fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("#", rest)) => match rest.split_once(' ') {
                    Some(("branch.oid", commit)) => state.commit = commit.to_owned(),
                    Some(("branch.head", "(detached)")) => {}
                    Some(("branch.head", branch)) => state.branch = Some(branch.to_owned()),
                    _ => {}
                },
                Some(("?", _)) => state.changed += 1,
                _ => {
                    state.changed += 1;
                    state.tracked += 1;
                }
            }
        }
        state
    }
}

/// What is in a checkout. Reading changes nothing in it, and waits for nobody.
pub fn state(mirror: Option<&Mirror>, person: &Person, folder: &Path) -> Result<State> {
    let it = hold(person, folder)?;
    let status = it
        .git()
        // git compresses what it only compares, where a file is large and was written in the index's own second.
        .args(["-c", "core.compression=0"])
        .args(["status", "--porcelain=v2", "--branch", "--untracked-files=normal", git::NO_SUBMODULES])
        .run()?;
    let mut state = State::parse(&status.text());
    state.unpushed = unpushed(mirror, &it)?;
    Ok(state)
}

/// What git knows of a checkout's files, as the person's working tree stands.
pub fn tracked(person: &Person, folder: &Path) -> Result<BTreeSet<Vec<u8>>> {
    files(person, folder, &[])
}

/// The same for those that end in `.j2`.
pub fn templates(person: &Person, folder: &Path) -> Result<BTreeSet<Vec<u8>>> {
    files(person, folder, &["*.j2"])
}

fn files(person: &Person, folder: &Path, patterns: &[&str]) -> Result<BTreeSet<Vec<u8>>> {
    let it = hold(person, folder)?;
    let list = it.git().args(["ls-files", "-z", "--"]).args(patterns.iter().copied()).run()?;
    Ok(list.stdout.split(|byte| *byte == 0).filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Where a checkout stands: its branch, unless it is on none, and its commit.
pub fn head(person: &Person, folder: &Path) -> Result<(Option<String>, String)> {
    hold(person, folder)?.head()
}

/// Commits of branches, tags, stashes and other trees that neither the origin nor the mirror has.
fn unpushed(mirror: Option<&Mirror>, it: &Held) -> Result<usize> {
    let own = it
        .git()
        .args(["rev-list", "HEAD", "--branches", "--tags", "--glob=refs/stash", "--not", "--remotes", "--max-count=10000"])
        .run()?
        .text();
    let Some(mirror) = mirror.filter(|mirror| mirror.exists() && !own.is_empty()) else { return Ok(own.lines().count()) };
    let known = mirror.git().args(["cat-file", "--batch-check"]).stdin(own).run()?.text();
    Ok(known.lines().filter(|line| line.ends_with(" missing")).count())
}

/// Removes a checkout that nobody needs any more. One rename makes it gone; what was in it is put away. The emptied folder
/// stays until its environment goes: machines may have it mounted, and over a folder that is gone no other can be mounted.
pub fn discard(person: &Person, keeper: u32, folder: &Path) -> Result<()> {
    let (Some(workspace), Some(name)) = (folder.parent(), folder.file_name()) else { return Ok(()) };
    let Some(place) = Place::open(workspace, keeper, person)? else { return Ok(()) };
    let failed = |error: Errno| io("remove", folder)(error.into());
    let stat = match statat(&place.workspace, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let gone = format!(".{}.{GONE}{}", name.to_string_lossy(), stat.st_ino);
    renameat(&place.workspace, name, &place.workspace, &gone).map_err(failed)?;
    put_away(&place, person, workspace, OsStr::new(&gone), Part::Inside)
}

/// In the names of folders that are of no more use.
const GONE: &str = "gone-";

/// Finishes what killed commands began to remove.
pub fn sweep(person: &Person, keeper: u32, workspace: &Path) -> Result<()> {
    Place::open(workspace, keeper, person)?.map_or(Ok(()), |place| sweep_in(&place, person, workspace, Part::Inside))
}

/// Leaves nothing of an environment but what holds work. A folder that somebody else has put there is left as it is.
pub fn tidy(person: &Person, keeper: u32, workspace: &Path) -> Result<()> {
    let Ok(Some(place)) = Place::open(workspace, keeper, person) else { return Ok(()) };
    if place.is_ours() {
        sweep_in(&place, person, workspace, Part::Whole)?;
        workspace::remove_empty(&place);
    }
    Ok(())
}

/// With `Whole`, the emptied folders go, too.
fn sweep_in(place: &Place, person: &Person, workspace: &Path, part: Part) -> Result<()> {
    for name in names(&place.workspace).map_err(|error| io("look into", workspace)(error.into()))? {
        let text = name.to_string_lossy();
        let is_gone = text.starts_with('.') && text.rsplit_once('.').is_some_and(|(_, what)| what.starts_with(GONE));
        let is_draft = text.starts_with('.') && text.ends_with(".draft");
        if is_gone || (is_draft && part == Part::Whole) {
            put_away(place, person, workspace, OsStr::from_bytes(name.to_bytes()), part)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// Machines may still show the folder itself.
    Inside,
}

/// Moves it to where [`put_aside`] finds it: to remove a large tree takes seconds, and nobody need wait for that. What can't be
/// moved is removed here. Its person may put anything in its place at any time, so a link is only ever removed as what it is.
pub(super) fn put_away(place: &Place, person: &Person, workspace: &Path, name: &OsStr, part: Part) -> Result<()> {
    let path = workspace.join(name);
    let failed = |error: Errno| io("remove", &path)(error.into());
    let folder = match (part, openat(&place.workspace, name, FOLDER, Mode::empty())) {
        (Part::Whole, _) | (_, Err(Errno::NOTDIR | Errno::LOOP)) => None,
        (Part::Inside, other) => Some(other.map_err(failed)?),
    };
    let inside = match &folder {
        // Another's folder that its person got hold of is not theirs to empty.
        Some(folder) if person.only && fstat(folder).map_err(failed)?.st_uid != person.user() => return Ok(()),
        Some(folder) => names(folder).map_err(failed)?,
        None => vec![CString::new(name.as_bytes()).expect("a path holds no NUL")],
    };
    if inside.is_empty() {
        return Ok(());
    }
    let from = folder.as_ref().unwrap_or(&place.workspace);
    let aside = workspace.parent().and_then(|platform| aside(place, platform, person));
    for name in inside {
        if aside.as_ref().is_some_and(|aside| renameat(from, &name, aside, &name).is_ok()) {
            continue;
        }
        let held = workspace::in_held(from, OsStr::from_bytes(name.to_bytes()));
        tree::remove(&held).map_err(io("remove", &path))?;
    }
    Ok(())
}

pub(super) fn names(folder: &OwnedFd) -> std::result::Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        names.push(entry?.file_name().to_owned());
    }
    names.retain(|name| ![c".", c".."].contains(&name.as_c_str()));
    Ok(names)
}

/// A new folder for what is put away. `None` where there can be none.
fn aside(place: &Place, platform: &Path, person: &Person) -> Option<OwnedFd> {
    let store = workspace::make_in(&place.platform, &platform.join(SPARES), person).ok()?;
    let folder = tempfile::Builder::new().prefix(ASIDE).tempdir_in(workspace::in_held(&store, OsStr::new(""))).ok()?;
    open(folder.keep(), FOLDER, Mode::empty()).ok()
}

/// No spare's name begins so.
const ASIDE: &str = ".gone-";

/// What was put away in a platform's folder and can be removed at any time.
pub fn put_aside(platform: &Path) -> Vec<PathBuf> {
    let store = platform.join(SPARES);
    let entries = fs::read_dir(&store).into_iter().flatten().flatten();
    let trees: Vec<_> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE)).map(|entry| entry.path()).collect();
    if trees.is_empty() || workspace::is_ours(&store) { trees } else { Vec::new() }
}

/// A checkout that is held open, and the one whom it belongs to: nobody else may run what its settings name. Held, because who
/// writes in a folder above may put another in its place between a look at its path and its use.
pub(super) struct Held {
    pub folder: OwnedFd,
    owner: Person,
}

pub(super) fn hold(person: &Person, folder: &Path) -> Result<Held> {
    let failed = |error: std::io::Error| io("use the checkout", folder)(error);
    let held = if person.only {
        walk::open(folder, person.user()).map_err(failed)?
    } else {
        open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| failed(error.into()))?
    };
    let user = fstat(&held).map_err(|error| failed(error.into()))?.st_uid;
    let git = statat(&held, ".git", AtFlags::SYMLINK_NOFOLLOW).map_err(|error| failed(error.into()))?.st_uid;
    if git != user {
        let told = format!("its `.git` belongs to user {git} and not to user {user}");
        return Err(failed(std::io::Error::new(std::io::ErrorKind::PermissionDenied, told)));
    }
    let owner = if user == person.user() {
        person.clone()
    } else {
        Person { account: Some(Account::of(user)), home: None, ..person.clone() }
    };
    Ok(Held { folder: held, owner })
}

impl Held {
    /// git in it. Its place is told, because git would look for a lost one in the folders above.
    pub fn git(&self) -> Command {
        git::git(&self.owner).args(["--no-optional-locks", "--git-dir=.git", "--work-tree=."]).cwd(self.place())
    }

    /// Its branch, unless it is on none, and its commit.
    pub fn head(&self) -> Result<(Option<String>, String)> {
        let output = self.git().args(["rev-parse", "HEAD", "--symbolic-full-name", "HEAD"]).run()?.text();
        let (commit, name) = output.trim().split_once('\n').unwrap_or((output.trim(), "HEAD"));
        Ok((name.strip_prefix("refs/heads/").map(str::to_owned), commit.to_owned()))
    }

    /// Another program in it, as the one whom it belongs to.
    pub fn command(&self, command: Command) -> Command {
        let command = command.cwd(self.place());
        match &self.owner.account {
            Some(account) => command.account(account.clone()),
            None => command,
        }
    }

    fn place(&self) -> PathBuf {
        workspace::in_held(&self.folder, OsStr::new("."))
    }
}

/// `.www.draft` beside `www`.
pub(super) fn beside(folder: &Path, what: &str) -> PathBuf {
    let name = folder.file_name().expect("a checkout's folder has a name").to_string_lossy();
    folder.with_file_name(format!(".{name}.{what}"))
}

pub(super) fn remove(folder: &Path) -> Result<()> {
    tree::remove(folder).map_err(io("remove", folder))
}

pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_gone_is_put_away_and_no_link_is_followed() {
        let platform = tempfile::tempdir().unwrap();
        let keeper = rustix::process::geteuid().as_raw();
        let workspace = workspace::make(platform.path(), keeper, "1161", &Person::default()).unwrap();
        let others = tempfile::tempdir().unwrap();
        fs::write(others.path().join("work"), "").unwrap();
        symlink(others.path(), workspace.join(".link.gone-1")).unwrap();
        fs::create_dir_all(workspace.join(".www.gone-7/public")).unwrap();
        symlink(others.path(), workspace.join(".www.gone-7/link")).unwrap();
        fs::create_dir(workspace.join("www")).unwrap();
        fs::write(workspace.join("www/index.php"), "").unwrap();
        let left = |folder: &Path| {
            let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != ".gitignore").collect::<BTreeSet<_>>()
        };
        let person = Person::default();
        sweep(&person, keeper, &workspace).unwrap();
        assert_eq!(left(&workspace), [".www.gone-7", "www"].map(str::to_owned).into());
        assert_eq!(left(&workspace.join(".www.gone-7")), BTreeSet::new());
        discard(&person, keeper, &workspace.join("www")).unwrap();
        discard(&person, keeper, &workspace.join("www")).unwrap();
        tidy(&person, keeper, &workspace).unwrap();
        assert!(!workspace.exists());
        let aside = put_aside(platform.path());
        let put: usize = aside.iter().map(|folder| left(folder).len()).sum();
        assert_eq!(put, 6, "the link, what was in two trees, and the two emptied folders: {aside:?}");
        assert!(others.path().join("work").exists());
    }
}
