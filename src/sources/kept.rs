//! A working tree as it is at one moment, kept in its own repository.
//!
//! `refs/adt/snapshots/<name>` is a commit that has everything git would take (what it ignores is not work), on top of the commit
//! that the tree stands at: objects are shared, nothing is copied twice, and `git show` looks into it without adt. It goes with the
//! checkout. Everything is put together in an index of its own, so the person's own staging area is never touched.
//!
//! Not chosen: `git stash`, which leaves out new files or takes them away while it works; a copy of the folder, which has all that
//! is ignored, dependencies by the ten thousand among it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, statat};

use super::Result;
use super::checkout::{Held, hold, pass_over_submodules};
use super::git::Person;
use crate::exec::Command;
use crate::model::SnapshotName;
use crate::store::snapshots::Work;

/// What a snapshot has of a working tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub work: Work,
    /// What git could not take, in its own words.
    pub left_out: Vec<String>,
}

/// So many of git's complaints are told.
const COMPLAINTS: usize = 5;

pub fn keep(person: &Person, folder: &Path, name: &SnapshotName) -> Result<Kept> {
    let held = hold(person, folder)?;
    let (branch, commit) = stand(&held)?;
    let index = git_path(&held, "adt-snapshot.index")?;
    let it = || held.git().env("GIT_INDEX_FILE", &index);
    copy_index(&held, &index)?;
    let kept: Result<(String, Vec<String>)> = (|| {
        pass_over_submodules(&it)?;
        // A folder in which something planted an empty repository can't be added, and must not keep the others out.
        let mut left_out = Vec::new();
        it().args(["add", "--all", "--ignore-errors", "--", "."]).run_any(&mut |_, line| {
            let complaint = line.strip_prefix("error: ").filter(|_| left_out.len() < COMPLAINTS);
            left_out.extend(complaint.map(str::to_owned));
        })?;
        let tree = it().arg("write-tree").run()?.text();
        let message = format!("as it was in the snapshot {name}");
        let parent = commit.iter().flat_map(|commit| ["-p", commit.as_str()]);
        let work = it().args(NOBODY).args(["commit-tree", tree.trim(), "-m", &message]).args(parent).run()?.text();
        let work = work.trim().to_owned();
        it().args(["update-ref", &reference(name), &work]).run()?;
        Ok((work, left_out))
    })();
    held.command(Command::new("rm").args(["--force", "--"])).arg(&index).run()?;
    let (files, left_out) = kept?;
    Ok(Kept { work: Work { branch, commit, files }, left_out })
}

/// The branch, unless it is on none, and the commit, unless that branch has none yet.
fn stand(held: &Held) -> Result<(Option<String>, Option<String>)> {
    let ask = |words: &[&str]| -> Result<Option<String>> {
        let (status, output) = held.git().args(words.iter().copied()).run_any(&mut |_, _| {})?;
        Ok(status.success().then(|| output.text().trim().to_owned()))
    };
    match (ask(&["symbolic-ref", "--quiet", "HEAD"])?, ask(&["rev-parse", "--verify", "--quiet", "HEAD"])?) {
        (Some(name), commit) => Ok((name.strip_prefix("refs/heads/").map(str::to_owned), commit)),
        // Whatever is wrong with it, git says it.
        (None, _) => held.head().map(|(branch, commit)| (branch, Some(commit))),
    }
}

/// Where git keeps a file of its own for this tree, seen from it: beside others' in a repository that has several trees.
fn git_path(held: &Held, name: &str) -> Result<PathBuf> {
    let told = held.git().args(["rev-parse", "--git-path", name]).run()?;
    Ok(PathBuf::from(OsStr::from_bytes(told.stdout.trim_ascii_end())))
}

/// With what git knows of unchanged files it need not read them all again. A tree in which nothing was ever staged has none.
fn copy_index(held: &Held, to: &Path) -> Result<()> {
    let from = git_path(held, "index")?;
    held.command(Command::new("rm").args(["--force", "--"])).arg(to).run()?;
    if statat(&held.folder, &from, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        held.command(Command::new("cp").args(["--no-dereference", "--"])).arg(&from).arg(to).run()?;
    }
    Ok(())
}

/// Brings a working tree back. Whatever is in it now goes, but for what git ignores.
pub fn put_back(person: &Person, folder: &Path, kept: &Work) -> Result<()> {
    let held = hold(person, folder)?;
    let it = || held.git();
    pass_over_submodules(&it)?;
    // New files are known to git from here on, so that the next step takes them away.
    it().args(["add", "--all", "--ignore-errors", "--", "."]).run_any(&mut |_, _| {})?;
    it().args(["read-tree", "--reset", "-u", &kept.files]).run()?;
    let name = kept.branch.as_ref().map(|branch| format!("refs/heads/{branch}"));
    match (&name, &kept.commit) {
        (Some(name), Some(commit)) => drop(it().args(["update-ref", name, commit]).run()?),
        // The work that was done on it since is in the snapshot that was taken before this.
        (Some(name), None) => drop(it().args(["update-ref", "-d", name]).run()?),
        (None, Some(commit)) => drop(it().args(["update-ref", "--no-deref", "HEAD", commit]).run()?),
        (None, None) => {}
    }
    if let Some(name) = &name {
        it().args(["symbolic-ref", "HEAD", name]).run()?;
    }
    it().args(["reset", "--quiet", "--mixed"]).run()?;
    pass_over_submodules(&it)
}

/// One that is not there is fine.
pub fn forget(person: &Person, folder: &Path, name: &SnapshotName) -> Result<()> {
    hold(person, folder)?.git().args(["update-ref", "-d", &reference(name)]).run()?;
    Ok(())
}

/// A commit needs an author, and a person who never committed here has none.
const NOBODY: [&str; 4] = ["-c", "user.name=adt", "-c", "user.email=adt@localhost"];

fn reference(name: &SnapshotName) -> String {
    format!("refs/adt/snapshots/{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    fn git(folder: &Path, words: &[&str]) -> String {
        Command::new("git").arg("-C").arg(folder).args(NOBODY).args(words.iter().copied()).run().unwrap().text().trim().to_owned()
    }

    #[test]
    fn work_comes_back_as_it_was_whatever_happened_since() {
        let place = tempfile::tempdir().unwrap();
        let (folder, person) = (place.path(), Person::default());
        git(folder, &["init", "--quiet", "--initial-branch=main"]);
        fs::write(folder.join(".gitignore"), "ignored\n").unwrap();
        fs::write(folder.join("file"), "one\n").unwrap();
        fs::write(folder.join("other"), "other\n").unwrap();
        git(folder, &["add", "."]);
        git(folder, &["commit", "--quiet", "-m", "one"]);
        git(folder, &["switch", "--quiet", "-c", "feature/x"]);
        let first = git(folder, &["rev-parse", "HEAD"]);
        fs::write(folder.join("file"), "changed\n").unwrap();
        fs::write(folder.join("new"), "new\n").unwrap();
        fs::remove_file(folder.join("other")).unwrap();
        fs::write(folder.join("ignored"), "before").unwrap();
        let before = git(folder, &["status", "--porcelain"]);
        // As a program on a machine can leave it: a repository without a commit.
        fs::create_dir(folder.join("planted")).unwrap();
        git(&folder.join("planted"), &["init", "--quiet"]);
        let Kept { work: kept, left_out } = keep(&person, folder, &"s".parse().unwrap()).unwrap();
        assert_eq!(left_out, ["'planted/' does not have a commit checked out"]);
        fs::remove_dir_all(folder.join("planted")).unwrap();
        assert_eq!(git(folder, &["status", "--porcelain"]), before, "taking a snapshot changes nothing");
        assert!(!folder.join(".git/adt-snapshot.index").exists());

        git(folder, &["add", "--all"]);
        git(folder, &["commit", "--quiet", "-m", "two"]);
        git(folder, &["switch", "--quiet", "main"]);
        fs::write(folder.join("later"), "later").unwrap();
        fs::write(folder.join("ignored"), "after").unwrap();
        for _ in 0..2 {
            put_back(&person, folder, &kept).unwrap();
            assert_eq!(git(folder, &["status", "--porcelain"]), before);
            assert_eq!(git(folder, &["branch", "--show-current"]), "feature/x");
            assert_eq!(git(folder, &["rev-parse", "HEAD"]), first);
            let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
            assert_eq!(read("file").as_deref(), Some("changed\n"));
            assert_eq!((read("new").as_deref(), read("other"), read("later")), (Some("new\n"), None, None));
            assert_eq!(read("ignored").as_deref(), Some("after"), "what git ignores is no work");
        }
        forget(&person, folder, &"s".parse().unwrap()).unwrap();
        assert_eq!(git(folder, &["for-each-ref", "refs/adt"]), "");
    }

    /// A repository with one commit on `main`.
    fn repository(folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        git(folder, &["init", "--quiet", "--initial-branch=main"]);
        fs::write(folder.join("file"), "one\n").unwrap();
        git(folder, &["add", "."]);
        git(folder, &["commit", "--quiet", "-m", "one"]);
    }

    fn files(folder: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        entries.filter(|path| !path.ends_with(".git")).map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
    }

    /// Kept, lost, and brought back; HEAD and files are as they were.
    fn comes_back(folder: &Path, lose: impl FnOnce()) {
        let (person, name) = (Person::default(), "s".parse().unwrap());
        let stands = || (stand(&hold(&person, folder).unwrap()).unwrap(), files(folder));
        let before = stands();
        let kept = keep(&person, folder, &name).unwrap();
        assert_eq!((stands(), kept.left_out.as_slice()), (before.clone(), &[][..]));
        lose();
        for _ in 0..2 {
            put_back(&person, folder, &kept.work).unwrap();
            assert_eq!(stands(), before);
        }
        forget(&person, folder, &name).unwrap();
    }

    #[test]
    fn a_branch_without_a_commit_comes_back() {
        let place = tempfile::tempdir().unwrap();
        let fresh = place.path().join("fresh");
        fs::create_dir(&fresh).unwrap();
        git(&fresh, &["init", "--quiet", "--initial-branch=main"]);
        fs::write(fresh.join("new"), "new").unwrap();
        comes_back(&fresh, || {
            git(&fresh, &["add", "."]);
            git(&fresh, &["commit", "--quiet", "-m", "one"]);
            fs::write(fresh.join("later"), "later").unwrap();
        });
        let orphan = place.path().join("orphan");
        repository(&orphan);
        git(&orphan, &["switch", "--quiet", "--orphan", "pages"]);
        fs::write(orphan.join("new"), "new").unwrap();
        comes_back(&orphan, || drop(git(&orphan, &["switch", "--quiet", "main"])));
    }

    #[test]
    fn a_tree_in_the_middle_of_a_merge_or_a_rebase_comes_back() {
        for verb in [&["merge", "--quiet", "b"], &["rebase", "--quiet", "b"]] {
            let place = tempfile::tempdir().unwrap();
            let folder = place.path();
            repository(folder);
            git(folder, &["switch", "--quiet", "-c", "b"]);
            for (text, message) in [("b\n", "b"), ("main\n", "m")] {
                fs::write(folder.join("file"), text).unwrap();
                git(folder, &["commit", "--quiet", "--all", "-m", message]);
                git(folder, &["checkout", "--quiet", "main"]);
            }
            let command = Command::new("git").arg("-C").arg(folder).args(NOBODY).args(verb.iter().copied());
            assert!(command.run().is_err(), "{verb:?} has a conflict");
            assert!(fs::read_to_string(folder.join("file")).unwrap().contains("<<<<<<<"));
            comes_back(folder, || drop(git(folder, &[verb[0], "--abort"])));
        }
    }

    #[test]
    fn a_tree_whose_repository_is_elsewhere_comes_back() {
        let place = tempfile::tempdir().unwrap();
        let (main, tree) = (place.path().join("main"), place.path().join("tree"));
        repository(&main);
        git(&main, &["worktree", "add", "--quiet", "-b", "wt", tree.to_str().unwrap()]);
        fs::write(main.join("file"), "of the other tree\n").unwrap();
        fs::write(tree.join("new"), "new").unwrap();
        comes_back(&tree, || fs::remove_file(tree.join("new")).unwrap());
        git(&tree, &["config", "core.bare", "true"]);
        comes_back(&tree, || fs::write(tree.join("file"), "two\n").unwrap());
        assert_eq!(fs::read_to_string(main.join("file")).unwrap(), "of the other tree\n");
    }

    #[test]
    fn what_the_person_can_not_read_is_told() {
        use std::os::unix::fs::{PermissionsExt, chown};
        assert!(rustix::process::geteuid().is_root(), "only root makes files that others can't read");
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        repository(folder);
        fs::write(folder.join("new"), "new").unwrap();
        for entry in walkdir::WalkDir::new(folder).into_iter().flatten() {
            chown(entry.path(), Some(65534), Some(65534)).unwrap();
        }
        fs::write(folder.join("secret"), "root's").unwrap();
        fs::set_permissions(folder.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let kept = keep(&Person::default(), folder, &"s".parse().unwrap()).unwrap();
        assert!(kept.left_out.iter().any(|line| line.contains("secret")), "{:?}", kept.left_out);
        let safe = format!("safe.directory={}", folder.display());
        let has = git(folder, &["-c", &safe, "ls-tree", "--name-only", &kept.work.files]);
        assert_eq!(has, "file\nnew");
    }

    /// What a machine puts into the folder of a submodule, and into one of its own making, is executed by neither way.
    #[test]
    fn nothing_in_the_tree_is_executed() {
        let place = tempfile::tempdir().unwrap();
        let (folder, person) = (place.path().join("tree"), Person::default());
        let (trap, sprung) = (place.path().join("trap"), place.path().join("sprung"));
        fs::write(&trap, format!("#!/bin/sh\ntouch {}\n", sprung.display())).unwrap();
        fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let plant = |name: &str| {
            let inner = folder.join(name);
            fs::create_dir(&inner).unwrap();
            git(&inner, &["init", "--quiet"]);
            fs::write(inner.join("file"), "one").unwrap();
            git(&inner, &["add", "."]);
            git(&inner, &["commit", "--quiet", "-m", "one"]);
            inner
        };
        fs::create_dir(&folder).unwrap();
        git(&folder, &["init", "--quiet", "--initial-branch=main"]);
        let module = plant("module");
        fs::write(folder.join(".gitmodules"), "[submodule \"module\"]\n\tpath = module\n\turl = ./module\n\tignore = none\n")
            .unwrap();
        git(&folder, &["add", "."]);
        git(&folder, &["commit", "--quiet", "-m", "with a submodule"]);
        for inner in [module, plant("planted")] {
            git(&inner, &["config", "core.fsmonitor", trap.to_str().unwrap()]);
            fs::write(inner.join("file"), "two").unwrap();
        }
        git(&folder, &["config", "submodule.recurse", "true"]);
        let name = "s".parse().unwrap();
        let kept = keep(&person, &folder, &name).unwrap().work;
        fs::write(folder.join("later"), "").unwrap();
        put_back(&person, &folder, &kept).unwrap();
        forget(&person, &folder, &name).unwrap();
        assert!(!sprung.exists() && !folder.join("later").exists());
        // The trap works.
        git(&folder.join("module"), &["status"]);
        assert!(sprung.exists());
    }
}
