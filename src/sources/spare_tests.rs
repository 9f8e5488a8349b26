use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::sources::git;
use crate::sources::mirror::Fetch;
use crate::sources::ready::SPARES;
use crate::sources::workspace;
use crate::store::{Holder, Store};

struct Bench {
    home: tempfile::TempDir,
    mirror: Mirror,
    folder: PathBuf,
    commit: String,
}

fn keeper() -> u32 {
    rustix::process::geteuid().as_raw()
}

const ROOM: &dyn Fn(&Tree) -> bool = &|_| true;

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("store")).unwrap();
        let origin = home.path().join("origin");
        git::plain().args(["init", "--quiet", "--initial-branch=trunk"]).arg(&origin).run().unwrap();
        let mirror = Mirror::of(&store, &origin.display().to_string());
        let platform = home.path().join("shop");
        fs::create_dir(&platform).unwrap();
        let folder = workspace::make(&platform, keeper(), SPARES, &Person::default()).unwrap();
        let mut bench = Self { home, mirror, folder, commit: String::new() };
        bench.change(&store, "one");
        bench
    }

    fn change(&mut self, store: &Store, text: &str) {
        let origin = self.home.path().join("origin");
        fs::write(origin.join("page"), text).unwrap();
        let git = || git::plain().args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-C"]).arg(&origin);
        git().args(["add", "--all"]).run().unwrap();
        git().args(["commit", "--quiet", "-m", text]).run().unwrap();
        self.commit = git().args(["rev-parse", "HEAD"]).run().unwrap().text().trim().to_owned();
        let holder = Holder { user: "ada".into(), command: "test".into(), pid: 1, since: 0 };
        let lock = store.lock(&self.mirror.lock_name(), &holder).wait(&AtomicBool::new(false), &mut |_| {}).unwrap();
        self.mirror.fetch(&lock, &Fetch { person: &Person::default(), now: 1, patience: None, tell: &|_| {} }).unwrap();
    }

    fn stand(&self) -> Stand<'_> {
        Stand { branch: "trunk", commit: &self.commit }
    }

    fn keep(&self, wanted: &dyn Fn() -> usize, has_room: &dyn Fn(&Tree) -> bool) {
        self.spares(&Person::default()).keep(&self.stand(), wanted, has_room).unwrap();
    }

    fn spares<'a>(&'a self, person: &'a Person) -> Spares<'a> {
        Spares { mirror: &self.mirror, person, keeper: keeper(), folder: &self.folder }
    }

    /// A checkout of an environment; whether it was made of a spare.
    fn checkout(&self, name: &str) -> bool {
        let workspace = workspace::make(&self.home.path().join("shop"), keeper(), name, &Person::default()).unwrap();
        let folder = workspace.join("www");
        let made = checkout::make(&self.mirror, &Person::default(), &folder, &self.stand()).unwrap();
        self.is_whole(&folder);
        made
    }

    fn is_whole(&self, folder: &Path) {
        let state = checkout::state(Some(&self.mirror), &Person::default(), folder).unwrap();
        assert!(state.is_replaceable() && state.commit == self.commit, "{}: {state:?}", folder.display());
    }

    /// What is ready, by its number, and all else.
    fn there(&self) -> (Vec<usize>, BTreeSet<String>) {
        let names = fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let (mut ready, mut others) = (Vec::new(), BTreeSet::new());
        for name in names.filter(|name| name != ".gitignore" && !name.starts_with(".gone-")) {
            match parse(&name) {
                Some((_, What::Ready(number))) => ready.push(number),
                _ => _ = others.insert(name),
            }
        }
        ready.sort_unstable();
        for number in &ready {
            self.is_whole(&self.spares(&Person::default()).place(*number));
        }
        (ready, others)
    }
}

#[test]
fn environments_in_a_row_each_take_one_that_is_ready() {
    let bench = Bench::new();
    bench.keep(&|| 2, ROOM);
    assert_eq!(bench.there(), (vec![0, 1], BTreeSet::new()));
    assert_eq!(["1", "2", "3"].map(|name| bench.checkout(name)), [true, true, false]);
    bench.keep(&|| 2, ROOM);
    assert_eq!(bench.there(), (vec![0, 1], BTreeSet::new()));
}

#[test]
fn they_follow_their_branch() {
    let mut bench = Bench::new();
    bench.keep(&|| 2, ROOM);
    let inode = |bench: &Bench| [0, 1].map(|number| fs::metadata(bench.spares(&Person::default()).place(number)).unwrap().ino());
    let before = inode(&bench);
    let store = Store::open(&bench.home.path().join("store")).unwrap();
    bench.change(&store, "two");
    bench.keep(&|| 2, &|_| panic!("what is there takes no more room"));
    assert_eq!(bench.there().0, [0, 1]);
    assert_eq!(inode(&bench), before, "only what differs is written");
}

#[test]
fn what_is_taken_while_others_are_made_is_made_too() {
    let bench = Bench::new();
    let (looks, wanted) = (Cell::new(0), Cell::new(1));
    bench.keep(
        &|| {
            looks.set(looks.get() + 1);
            if looks.get() == 2 {
                assert!(bench.checkout("1"));
                wanted.set(3);
            }
            wanted.get()
        },
        &|tree| {
            if looks.get() == 3 {
                assert!(bench.checkout("2"), "as the first was measured");
            }
            tree.bytes > 0 && tree.files > 1
        },
    );
    assert_eq!(bench.there(), (vec![0, 1, 2], BTreeSet::new()));
    // One who takes without end keeps nobody here without end.
    let next = Cell::new(10);
    bench.keep(
        &|| {
            next.set(next.get() + 1);
            bench.checkout(&next.get().to_string());
            3
        },
        ROOM,
    );
}

#[test]
fn too_many_go_and_what_has_no_room_is_not_made() {
    let bench = Bench::new();
    bench.keep(&|| 4, &|_| false);
    assert_eq!(bench.there().0, [0], "the first is as large as all");
    bench.keep(&|| 4, ROOM);
    assert_eq!(bench.there().0, [0, 1, 2, 3]);
    bench.keep(&|| 4, &|_| false);
    assert_eq!(bench.there().0, [0, 1, 2, 3], "what is there stays");
    bench.keep(&|| 1, ROOM);
    assert_eq!(bench.there().0, [0]);
    assert_eq!(checkout::put_aside(&bench.home.path().join("shop")).len(), 3, "to be removed behind a command");
}

#[test]
fn only_what_was_made_here_and_is_forgotten_goes() {
    let bench = Bench::new();
    bench.keep(&|| 2, ROOM);
    let own = stem(&bench.mirror);
    let others = ["mine", "mine.2", "a-0123", ".own.draft", "www-0123456789abcdef012g"].map(str::to_owned);
    for name in others.iter().map(String::as_str).chain(["www-0123456789abcdef0123.3", ".www-0123456789abcdef0123.draft"]) {
        fs::create_dir(bench.folder.join(name)).unwrap();
    }
    let forget = |remembered: &dyn Fn(&str) -> bool| {
        put_away_forgotten(&bench.folder, keeper(), &Person::default(), remembered).unwrap();
    };
    forget(&|mirror| mirror == own);
    assert_eq!(bench.there(), (vec![0, 1], others.clone().into()));
    forget(&|_| false);
    assert_eq!(bench.there(), (vec![], others.into()));
    // Without adt's mark it is somebody's folder.
    bench.keep(&|| 1, ROOM);
    fs::write(bench.folder.join(".gitignore"), "").unwrap();
    forget(&|_| false);
    assert_eq!(bench.there().0, [0]);
}

#[test]
fn no_half_tree_is_taken_and_none_stays() {
    let bench = Bench::new();
    let person = Person::default();
    let spares = bench.spares(&person);
    bench.keep(&|| 2, ROOM);
    // Killed as it brought the second to its branch: it is under the draft's name, with a file that is half written.
    disk::put_spare(&spares.place(1), &spares.draft()).unwrap();
    fs::write(spares.draft().join("page"), "ha").unwrap();
    assert_eq!([bench.checkout("1"), bench.checkout("2")], [true, false]);
    bench.keep(&|| 2, ROOM);
    assert_eq!(bench.there(), (vec![0, 1], BTreeSet::new()));
    // Killed as it made the first of all, before git knew anything; nobody wants a second any more.
    fs::create_dir_all(spares.draft().join(".git")).unwrap();
    bench.keep(&|| 1, ROOM);
    assert_eq!(bench.there(), (vec![0], BTreeSet::new()));
    // A power cut left holes: nobody's checkout has them.
    fs::remove_file(spares.place(0).join(".git/HEAD")).unwrap();
    assert!(!bench.checkout("3"));
    // What can't be made leaves nothing half.
    let gone = Stand { branch: "trunk", commit: "0123456789012345678901234567890123456789" };
    assert!(spares.keep(&gone, &|| 1, ROOM).is_err() && !spares.draft().exists());
}
