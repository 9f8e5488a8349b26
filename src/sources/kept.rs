//! A working tree as it is at one moment, kept in its own repository.
//!
//! `refs/adt/snapshots/<name>` is a commit that has everything git would take (what it ignores is not work), on top of the commit
//! that the tree stands at: objects are shared, nothing is copied twice, and `git show` looks into it without adt. It goes with the
//! checkout. Everything is put together in an index of its own, so the person's own staging area is never touched.
//!
//! Not chosen: `git stash`, which leaves out new files or takes them away while it works; a copy of the folder, which has all that
//! is ignored, dependencies by the ten thousand among it.

use std::path::{Path, PathBuf};

use super::Result;
use super::checkout::{head, in_it, owner, pass_over_submodules};
use super::git::Person;
use crate::exec::Command;
use crate::model::SnapshotName;
use crate::store::snapshots::Work;

pub fn keep(person: &Person, folder: &Path, name: &SnapshotName) -> Result<Work> {
    let (branch, commit) = head(person, folder)?;
    let index = index(folder);
    // With what git knows of unchanged files it need not read them all again.
    as_owner(person, folder, Command::new("cp").args(["--no-dereference", "--force", "--"]))
        .arg(folder.join(".git/index"))
        .arg(&index)
        .run()?;
    let it = || in_it(person, folder).env("GIT_INDEX_FILE", &index);
    let kept: Result<String> = (|| {
        pass_over_submodules(&it)?;
        // A folder in which something planted an empty repository can't be added, and must not keep the others out.
        it().args(["add", "--all", "--ignore-errors", "--", "."]).run_any(&mut |_, _| {})?;
        let tree = it().arg("write-tree").run()?.text();
        let message = format!("as it was in the snapshot {name}");
        let work = it().args(NOBODY).args(["commit-tree", tree.trim(), "-p", &commit, "-m", &message]).run()?.text();
        let work = work.trim().to_owned();
        it().args(["update-ref", &reference(name), &work]).run()?;
        Ok(work)
    })();
    as_owner(person, folder, Command::new("rm").args(["--force", "--"])).arg(&index).run()?;
    Ok(Work { branch, commit, files: kept? })
}

/// Brings a working tree back. Whatever is in it now goes, but for what git ignores.
pub fn put_back(person: &Person, folder: &Path, kept: &Work) -> Result<()> {
    let it = || in_it(person, folder);
    pass_over_submodules(&it)?;
    // New files are known to git from here on, so that the next step takes them away.
    it().args(["add", "--all", "--ignore-errors", "--", "."]).run_any(&mut |_, _| {})?;
    it().args(["read-tree", "--reset", "-u", &kept.files]).run()?;
    match &kept.branch {
        Some(branch) => {
            it().args(["update-ref", &format!("refs/heads/{branch}"), &kept.commit]).run()?;
            it().args(["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]).run()?;
        }
        None => drop(it().args(["update-ref", "--no-deref", "HEAD", &kept.commit]).run()?),
    }
    it().args(["reset", "--quiet", "--mixed"]).run()?;
    pass_over_submodules(&it)
}

/// One that is not there is fine.
pub fn forget(person: &Person, folder: &Path, name: &SnapshotName) -> Result<()> {
    in_it(person, folder).args(["update-ref", "-d", &reference(name)]).run()?;
    Ok(())
}

/// A commit needs an author, and a person who never committed here has none.
const NOBODY: [&str; 4] = ["-c", "user.name=adt", "-c", "user.email=adt@localhost"];

fn reference(name: &SnapshotName) -> String {
    format!("refs/adt/snapshots/{name}")
}

fn as_owner(person: &Person, folder: &Path, command: Command) -> Command {
    match owner(person, folder).account {
        Some(account) => command.account(account),
        None => command,
    }
}

/// Where the index of a snapshot lies while it is taken.
fn index(folder: &Path) -> PathBuf {
    folder.join(".git/adt-snapshot.index")
}

#[cfg(test)]
mod tests {
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
        let kept = keep(&person, folder, &"s".parse().unwrap()).unwrap();
        fs::remove_dir_all(folder.join("planted")).unwrap();
        assert_eq!(git(folder, &["status", "--porcelain"]), before, "taking a snapshot changes nothing");
        assert!(!index(folder).exists());

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
        let kept = keep(&person, &folder, &name).unwrap();
        fs::write(folder.join("later"), "").unwrap();
        put_back(&person, &folder, &kept).unwrap();
        forget(&person, &folder, &name).unwrap();
        assert!(!sprung.exists() && !folder.join("later").exists());
        // The trap works.
        git(&folder.join("module"), &["status"]);
        assert!(sprung.exists());
    }
}
