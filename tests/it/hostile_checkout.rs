//! Machines, repositories and other users of the host against a person's checkout: nothing that they put there is executed on
//! the host, and what git keeps beside it stays its person's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use adt::sources::checkout::{self, Stand};
use adt::sources::git::{self, Person};
use adt::sources::mirror::{Fetch, Mirror};
use adt::sources::rendered;
use adt::store::{Holder, Store};

use super::real_sites::Bench;

/// A checkout as adt makes one, of a repository with a submodule.
struct Plain {
    home: tempfile::TempDir,
    mirror: Mirror,
    person: Person,
    commits: BTreeMap<String, String>,
}

impl Plain {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        // The worst settings that a person can have.
        let settings = "[user]\nname=Ada\nemail=ada@example.org\n[submodule]\nrecurse=true\n[fetch]\nrecurseSubmodules=true\n";
        fs::write(home.path().join(".gitconfig"), settings).expect("a file");
        let store = Store::open(&home.path().join("store")).expect("a store");
        let origin = home.path().join("origin");
        let mirror = Mirror::of(&store, &origin.display().to_string());
        let person = Person { home: Some(home.path().to_owned()), ..Person::default() };
        let plain = Self { home, mirror, person, commits: BTreeMap::new() };
        plain.git(plain.home.path(), &["init", "--quiet", "--initial-branch=main", "origin"]);
        fs::write(origin.join("index.php"), "one").expect("a file");
        let link = format!("160000,{},lib", "1".repeat(40));
        plain.git(&origin, &["add", "index.php"]);
        plain.git(&origin, &["update-index", "--add", "--cacheinfo", &link]);
        plain.git(&origin, &["commit", "--quiet", "-m", "one"]);
        plain.git(&origin, &["checkout", "--quiet", "-b", "two"]);
        let link = format!("160000,{},other", "2".repeat(40));
        plain.git(&origin, &["update-index", "--add", "--cacheinfo", &link]);
        plain.git(&origin, &["commit", "--quiet", "-m", "two"]);
        let holder = Holder { user: "ada".into(), command: "test".into(), pid: 1, since: 0 };
        let lock = store.lock(&plain.mirror.lock_name(), &holder);
        let lock = lock.wait(&AtomicBool::new(false), &mut |_| {}).expect("nobody holds it");
        plain
            .mirror
            .fetch(&lock, &Fetch { person: &plain.person, now: 5, patience: None, tell: &|_| {} })
            .expect("an origin on this host");
        let commits = plain.mirror.branches().expect("it was fetched").commits;
        Self { commits, ..plain }
    }

    fn stand<'a>(&'a self, branch: &'a str) -> Stand<'a> {
        Stand { branch, commit: &self.commits[branch] }
    }

    fn try_git(&self, folder: &Path, words: &[&str]) -> std::process::Output {
        let mut command = Command::new("git");
        command.args(words).current_dir(folder).env("HOME", self.home.path()).stdin(Stdio::null());
        command.output().expect("git starts")
    }

    fn git(&self, folder: &Path, words: &[&str]) {
        let output = self.try_git(folder, words);
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a machine's program writes into a checkout.
    fn plant(&self, checkout: &Path) {
        let mark = self.home.path().join("executed");
        let trap = self.home.path().join("trap");
        fs::write(&trap, format!("#!/bin/sh\necho \"$PWD\" >>'{}'\n", mark.display())).expect("a file");
        fs::set_permissions(&trap, PermissionsExt::from_mode(0o755)).expect("it is ours");
        let mut modules = String::new();
        for name in ["lib", "other"] {
            let planted = checkout.join(name).join(".git");
            for folder in ["objects", "refs/heads", "hooks"] {
                fs::create_dir_all(planted.join(folder)).expect("a folder");
            }
            fs::write(planted.join("HEAD"), "ref: refs/heads/main\n").expect("a file");
            let trap = trap.display();
            let settings = format!(
                "[core]\nrepositoryformatversion=0\nbare=false\nfsmonitor={trap}\nsshCommand={trap}\nhooksPath={}\n\
                 [filter \"x\"]\nclean={trap}\nsmudge={trap}\n[remote \"origin\"]\nurl=x:y\nuploadpack={trap}\n",
                planted.join("hooks").display()
            );
            fs::write(planted.join("config"), settings).expect("a file");
            for hook in ["post-checkout", "pre-commit", "post-index-change", "reference-transaction"] {
                fs::copy(self.home.path().join("trap"), planted.join("hooks").join(hook)).expect("a file");
            }
            modules += &format!(
                "[submodule \"{name}\"]\npath={name}\nurl=./x\nignore=none\nupdate=checkout\nfetchRecurseSubmodules=true\n"
            );
        }
        fs::write(checkout.join(".gitmodules"), modules).expect("a file");
        fs::write(checkout.join(".gitattributes"), "* filter=x diff=x\n").expect("a file");
    }

    fn executed(&self) -> Option<String> {
        let mark = self.home.path().join("executed");
        let text = fs::read_to_string(&mark).ok();
        let _ = fs::remove_file(mark);
        text
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

#[test]
fn no_git_executes_what_lies_in_a_submodules_folder() {
    let plain = Plain::new();
    let control = plain.folder("control");
    plain.git(plain.home.path(), &["clone", "--quiet", "--branch=main", "origin", "control"]);
    plain.plant(&control);
    plain.try_git(&control, &["status"]);
    assert!(plain.executed().is_some(), "the trap works in a clone that is not adt's");

    let platform = plain.folder("platform");
    let www = platform.join("1161/www");
    fs::create_dir_all(platform.join("1161")).expect("a folder");
    checkout::make(&plain.mirror, &plain.person, &www, &plain.stand("main")).expect("a checkout");
    plain.plant(&www);
    let (person, mirror) = (&plain.person, &plain.mirror);
    let file = || rendered::File { path: "made".to_owned(), mode: 0o644, text: "x".to_owned().into() };
    let own: [(&str, &dyn Fn()); 9] = [
        ("state", &|| drop(checkout::state(Some(mirror), person, &www).unwrap())),
        ("tracked", &|| drop(checkout::tracked(person, &www).unwrap())),
        ("templates", &|| drop(checkout::templates(person, &www).unwrap())),
        ("head", &|| drop(checkout::head(person, &www).unwrap())),
        ("lay", &|| rendered::lay(person, &www, None, &[file()]).unwrap()),
        ("is current", &|| assert!(rendered::is_current(&www, None, &[file()]).unwrap())),
        ("switch", &|| checkout::switch(person, &www, &plain.stand("two")).unwrap()),
        ("switch back", &|| checkout::switch(person, &www, &plain.stand("main")).unwrap()),
        ("pull", &|| drop(git::pull(person, &www))),
    ];
    for (verb, act) in own {
        plain.plant(&www);
        act();
        assert_eq!(plain.executed(), None, "adt's {verb}");
    }
    // The same where nobody has marked the submodules yet, as in a checkout of an older adt.
    plain.git(&www, &["update-index", "--no-skip-worktree", "lib"]);
    checkout::state(Some(mirror), person, &www).unwrap();
    assert_eq!(plain.executed(), None, "adt's state, with the index as git makes it");
    checkout::switch(person, &www, &plain.stand("main")).unwrap();

    let theirs: [&[&str]; 14] = [
        &["status"],
        &["status", "--short", "--branch"],
        &["diff"],
        &["diff", "HEAD"],
        &["ls-files", "--modified"],
        &["grep", "one"],
        &["stash"],
        &["stash", "pop"],
        &["fetch", "--all"],
        &["commit", "--all", "--quiet", "-m", "mine"],
        &["pull", "--quiet"],
        &["checkout", "--quiet", "-b", "mine"],
        &["reset", "--hard", "HEAD"],
        &["push", "--quiet", "origin", "mine"],
    ];
    for words in theirs {
        plain.plant(&www);
        fs::write(www.join("index.php"), words.join(" ")).expect("a file");
        plain.try_git(&www, words);
        assert_eq!(plain.executed(), None, "the person's git {words:?}");
    }
}

/// What root of a machine does to reach `.git` below the cover. `$S` is the site's folder.
const TRIES: [(&str, &str); 14] = [
    ("unmount the cover", "umount $S/.git"),
    ("unmount it lazily", "umount -l $S/.git"),
    ("move it away", "mv $S/.git $S/.git-away"),
    ("remove it", "rm -rf $S/.git; rmdir $S/.git"),
    ("move the mount", "mkdir -p /mnt/m; mount --move $S/.git /mnt/m"),
    ("show the folder elsewhere", "mkdir -p /mnt/b; mount --bind $S /mnt/b; umount -l /mnt/b/.git"),
    ("show all of it elsewhere", "mkdir -p /mnt/r; mount --rbind $S /mnt/r; umount -l /mnt/r/.git"),
    ("unmount in a namespace", "unshare -m sh -c 'mount --make-rprivate /; umount -l $S/.git; echo x >$S/.git/hooks/pre-commit'"),
    ("unmount in a user's namespace", "unshare -Urm sh -c 'umount -l $S/.git; echo x >$S/.git/hooks/pre-commit'"),
    ("lay an overlay over it", "mkdir -p /mnt/o; mount -t overlay -o lowerdir=$S:/mnt none /mnt/o"),
    ("remount it writable", "mount -o remount,rw $S/.git; mount -o remount,bind,rw $S/.git"),
    ("write through the root of a process", "echo x >/proc/1/root$S/.git/hooks/pre-commit"),
    ("leave by a second root", "mkdir -p /mnt/c; mount --rbind / /mnt/c; chroot /mnt/c sh -c 'umount -l $S/.git'"),
    ("show a folder above it", "mkdir -p /mnt/s; mount --bind /srv /mnt/s; umount -l /mnt/s/${S#/srv/}/.git"),
];

/// Every file below, with its content.
fn all_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = walkdir::WalkDir::new(folder).into_iter().map(|entry| entry.expect("it can be read"));
    files
        .filter(|entry| entry.file_type().is_file())
        .map(|file| (file.path().to_owned(), fs::read(file.path()).unwrap()))
        .collect()
}

fn machine_tries(bench: &Bench, environment: &str, site: &str) {
    let git = bench.site(environment, site).join(".git");
    let before = all_of(&git);
    let look = "for d in $S /mnt/b /mnt/r /mnt/o /mnt/m /mnt/c$S /mnt/s/*; do ls -A $d/.git $d/.git-away; cat $d/config; done";
    for (what, script) in TRIES {
        let script = format!("S=/srv/{site}; export S; ({script}); {look}; touch $S/.git/planted; true");
        let words = ["env:exec", environment, "web1", "--", "sh", "-c", &script];
        let output = bench.adt.command(&words).output().expect("the program starts");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!told.contains("HEAD") && !told.contains("[core]"), "{what} shows it: {told}");
        assert!(git.is_dir() && all_of(&git) == before, "{what} changes it");
    }
}

#[test]
fn the_cover_over_git_stays_whatever_a_machine_does() {
    let Some(bench) = Bench::new() else { return };
    bench.run("platform:init shop").ok();
    bench.run("env:init 7 api").ok();
    machine_tries(&bench, "7", "api");
    bench.run("site:add 7 www").ok();
    machine_tries(&bench, "7", "www");
    // It still goes, and comes back.
    bench.run("site:remove 7 www").ok();
    bench.run("site:add 7 www").ok();
    machine_tries(&bench, "7", "www");
    bench.run("env:destroy 7 --yes").ok();
    bench.run("platform:destroy shop --yes").ok();
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
}

/// A program as a user of the host.
fn as_user(user: u32, words: &[&str]) -> bool {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir("/").env("HOME", "/nonexistent").uid(user).gid(user);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it starts").success()
}

#[test]
fn other_users_read_nothing_of_mirrors_spares_and_checkouts() {
    let Some(bench) = Bench::new() else { return };
    bench.run("platform:init shop").ok();
    bench.run("env:init 7").ok();
    let www = bench.site("7", "www");
    let sources = fs::read_dir(bench.adt.store().join("sources")).expect("mirrors").flatten();
    let mut closed: Vec<PathBuf> = sources.map(|entry| entry.path()).collect();
    assert!(closed.len() >= 2, "{closed:?}");
    closed.extend([www.clone(), www.join(".git"), www.parent().and_then(Path::parent).expect("a platform").join(".adt")]);
    for folder in closed {
        let path = folder.display().to_string();
        assert!(as_user(0, &["ls", &path]), "{path} is there");
        for below in ["", "/objects", "/config", "/HEAD", "/packed-refs", "/adt-template/config"] {
            assert!(!as_user(65534, &["ls", &format!("{path}{below}")]), "another user looks at {path}{below}");
        }
        assert!(!as_user(65534, &["git", "-c", "safe.directory=*", "-C", &path, "log"]), "another user's git reads {path}");
    }
    let www = www.display().to_string();
    assert!(as_user(4321, &["git", "-C", &www, "fsck"]), "the person's git reads what the checkout borrows");
    bench.run("env:destroy 7 --yes").ok();
    bench.run("platform:destroy shop --yes").ok();
}
