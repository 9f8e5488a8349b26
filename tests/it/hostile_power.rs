//! Power cuts that lose what was not synced: the host's files lie on a file system of their own, whose disk is copied while
//! commands run. Such a copy has what reached the disk and nothing of what the kernel still held. It is mounted over the
//! original, as after a reboot, and adt goes on there.
//!
//! ```text
//! xfs in a file                 copies share blocks, so each is of one instant
//!   disk ── ext4, mounted       with the options that lose the most
//!   cut-7                       as the disk was at point 7
//! ```
//! What a command had under a final name when the power went must be there whole; whatever else is there, the same command
//! reaches its goal when it is given again, and `env:destroy` leaves nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use adt::model::request::{Deploy, SiteWish};
use adt::model::{Domain, Request};
use adt::store::Store;
use adt::tls::Certificates;
use adt::trust::{Installed, Place};

use super::fakes::{Host, id};

/// No allocation ahead of time, no order between names and bytes, no flush that the kernel does out of kindness.
const FORGETFUL: &str = "loop,data=writeback,noauto_da_alloc,commit=300";

/// A disk that can be copied at any instant. Its mounts are this thread's and its children's only, and go with them.
struct Disk {
    outer: PathBuf,
    /// Where the host's files are; the same path after each cut, as adt keeps absolute ones.
    mounted: PathBuf,
    _home: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        // SAFETY: no other thread of this test relies on the mounts of this one.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("root has mounts of its own");
        run(&["mount", "--make-rprivate", "/"]);
        let home = tempfile::Builder::new().prefix("adt-power-").tempdir_in("/var/tmp").expect("a folder");
        let disk = Self { outer: home.path().join("outer"), mounted: home.path().join("host"), _home: home };
        for folder in [&disk.outer, &disk.mounted] {
            std::fs::create_dir(folder).expect("the home is new");
        }
        let file = disk.outer.with_extension("img");
        run(&["truncate", "--size=3G", text(&file)]);
        run(&["mkfs.xfs", "-q", "-m", "reflink=1", text(&file)]);
        run(&["mount", "-o", "loop", text(&file), text(&disk.outer)]);
        let image = disk.image("disk");
        run(&["truncate", "--size=96M", text(&image)]);
        run(&["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", text(&image)]);
        run(&["mount", "-o", FORGETFUL, text(&image), text(&disk.mounted)]);
        disk
    }

    fn image(&self, name: &str) -> PathBuf {
        self.outer.join(name)
    }

    /// The disk as it is at this instant.
    fn copy(&self, name: &str) {
        run(&["cp", "--reflink=always", text(&self.image("disk")), text(&self.image(name))]);
    }

    /// The host after a cut at that instant, until `look` is done.
    fn after_cut(&self, name: &str, look: impl FnOnce()) {
        run(&["mount", "-o", "loop", text(&self.image(name)), text(&self.mounted)]);
        look();
        run(&["umount", text(&self.mounted)]);
        std::fs::remove_file(self.image(name)).expect("the copy is ours");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The folder can't be removed while they are there; after a failed test a cut may lie over the original.
        for _ in 0..2 {
            drop(Command::new("umount").args(["--lazy", text(&self.mounted)]).output());
        }
        drop(Command::new("umount").args(["--lazy", text(&self.outer)]).output());
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

#[track_caller]
fn run(words: &[&str]) -> String {
    let output = Command::new(words[0]).args(&words[1..]).output().expect("the program starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What is under final names in the store, with its bytes: none of it may ever be lost or change by itself.
fn promised(host: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let store = host.join("store");
    let below = |folder: &str| walkdir::WalkDir::new(store.join(folder)).into_iter().flatten();
    let drafts = |path: &Path| path.iter().any(|name| name.to_string_lossy().starts_with('.'));
    let files = ["secrets", "releases", "tls/authority", "resolver"].into_iter().flat_map(below);
    let files = files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path());
    let single = ["install", "trusted.json"].map(|name| store.join(name));
    let checkout = host.join("shop/1161/www/version");
    let all = files.chain(single).chain([checkout]);
    let all = all.filter(|path| !drafts(path.strip_prefix(host).expect("it is below")));
    all.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
}

#[track_caller]
fn holds(host: &Path, promised: &BTreeMap<PathBuf, Vec<u8>>, when: &str) {
    for (path, bytes) in promised {
        let found = std::fs::read(path).ok();
        let words = |bytes: &[u8]| format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(40)]));
        let told = found.as_ref().map_or("nothing".to_owned(), |found| words(found));
        assert!(found.as_ref() == Some(bytes), "{when}: `{}` was {} and is {told}", path.display(), words(bytes));
    }
    let www = host.join("shop/1161/www");
    if www.join(".git").exists() {
        let git = ["git", "-c", "safe.directory=*", "-C", text(&www)];
        run(&[&git[..], &["fsck", "--full", "--no-dangling"]].concat());
        let changed = run(&[&git[..], &["status", "--porcelain", "--untracked-files=no"]].concat());
        assert_eq!(changed, "", "{when}: the checkout is not whole");
    }
}

/// What a point of a command has on the disk, in the kernel, and under final names.
struct Cut {
    name: String,
    place: String,
    promised: BTreeMap<PathBuf, Vec<u8>>,
    kernel: Vec<(PathBuf, Vec<u8>)>,
}

impl Cut {
    fn at(disk: &Disk, place: &str, number: usize) -> Self {
        let name = format!("cut-{number}");
        disk.copy(&name);
        // Machines are the kernel's and their folders' matter; here they are files that no cut touches.
        let kernel = ["machines.json", "networks.json"].map(|name| disk.mounted.join(name));
        let kernel = kernel.into_iter().filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect();
        Self { name, place: format!("{place} (point {number})"), promised: promised(&disk.mounted), kernel }
    }
}

/// As many as show something, spread over a command; the last is the one after its last word.
const CUTS: usize = 9;

/// Cuts the power at points of a command.
fn cut_at_points(prepare: fn(&Host), words: &str, request: &Request) {
    let disk = Arc::new(Disk::new());
    let host = Host::new(&disk.mounted);
    prepare(&host);
    run(&["sync", "--file-system", text(&disk.mounted)]);

    let cuts = Arc::new(Mutex::new(Vec::new()));
    let (seen, from) = (Arc::clone(&cuts), Arc::clone(&disk));
    let take = move |place: &str| {
        let mut seen = seen.lock().unwrap();
        let number = seen.len();
        seen.push(Cut::at(&from, place, number));
    };
    host.watched(words, Some(Arc::new(take.clone()))).done(request.clone());
    take("the end");
    let mut cuts = std::mem::take(&mut *cuts.lock().unwrap());
    let last = cuts.pop().expect("the last was just taken");
    // Another thread may be between giving a file its name and making that last: what was there one point before is promised.
    let mut before = BTreeMap::new();
    for cut in &mut cuts {
        let now = cut.promised.clone();
        cut.promised.retain(|path, bytes| before.get(path) == Some(bytes));
        before = now;
    }
    let every = cuts.len().div_ceil(CUTS - 1);
    eprintln!("{words}: {} points", cuts.len());

    let done = last.name.clone();
    for cut in cuts.into_iter().step_by(every).chain([last]) {
        let when = format!("{words}, a power cut at {}", cut.place);
        disk.after_cut(&cut.name, || {
            for (path, bytes) in &cut.kernel {
                std::fs::write(path, bytes).expect("the disk has space");
            }
            let process = host.process("after the cut");
            process.machines.power_cut();
            process.networks.reboot();
            drop(process);
            goes_on(&host, &cut, cut.name == done, request, &when);
        });
    }
}

fn goes_on(host: &Host, cut: &Cut, is_done: bool, request: &Request, when: &str) {
    holds(&host.folder, &cut.promised, when);
    let rows = host.process("look").engine.store.database.environments(None).expect("the database is whole");
    assert!(!is_done || rows.len() == 1, "{when}: what was done is known");
    if is_done || !matches!(request, Request::EnvInit { .. }) {
        host.process("env:up").done(Request::EnvUp { id: id("1161"), dry_run: false });
    }
    if let Err(failure) = host.process("again").run(request.clone()).result {
        panic!("{when}, the same again: {failure}");
    }
    for machine in ["web1", "web2"] {
        let root = host.process("look").root(machine);
        if let Some(version) = host.version(&root.join("srv/www")) {
            assert!(!version.is_empty(), "{when}: a machine serves half a release");
        }
    }
    holds(&host.folder, &BTreeMap::new(), when);
    host.process("env:destroy").done(Request::EnvDestroy { id: id("1161"), dry_run: false });
    assert_eq!(host.leftovers(), Vec::<String>::new(), "{when} and a destroy");
}

fn init() -> Request {
    let www = SiteWish { site: "www".parse().expect("a label"), branch: Some("hotfix".parse().expect("a branch")) };
    Request::EnvInit { id: id("1161"), sites: vec![www], shared: false, dry_run: false }
}

#[test]
fn an_environment_in_the_making_survives_power_cuts() {
    cut_at_points(Host::define_with_source, "env:init shop 1161 www:hotfix", &init());
}

#[test]
fn a_deploy_survives_power_cuts() {
    let prepare = |host: &Host| {
        host.define_with_releases();
        host.process("env:init").done(init());
        host.commit("two");
    };
    let www = "www".parse().expect("a label");
    let deploy = Request::SiteDeploy { id: id("1161"), site: www, what: Deploy::default(), dry_run: false };
    cut_at_points(prepare, "site:deploy shop 1161 www", &deploy);
}

#[test]
fn an_environment_that_comes_back_survives_power_cuts() {
    let prepare = |host: &Host| {
        host.define_with_source();
        host.process("env:init").done(init());
        host.process("env:halt").done(Request::EnvHalt { id: id("1161"), dry_run: false });
    };
    cut_at_points(prepare, "env:up shop 1161", &Request::EnvUp { id: id("1161"), dry_run: false });
}

/// What a store makes once: each is there for good as soon as the call returns, whatever comes next.
#[test]
fn what_others_were_told_outlives_a_power_cut() {
    let disk = Disk::new();
    let domain = Domain::new("example.test").expect("a domain");
    let folder = disk.mounted.join("store");
    let store = Store::open(&folder).expect("a store");
    let steps: [(&str, &dyn Fn()); 5] = [
        ("the identity", &|| {}),
        ("an authority", &|| drop(Certificates::authority(&folder, &domain, SystemTime::now()).unwrap())),
        ("a place of trust", &|| {
            let place = Place { domain: domain.clone(), home: None };
            Installed::open(&folder).unwrap().add(&place).unwrap();
        }),
        ("an environment's key", &|| store.keys.ensure(&id("1161")).unwrap()),
        ("another key", &|| store.keys.ensure(&id("7")).unwrap()),
    ];
    let mut count = 0;
    for (what, step) in steps {
        step();
        let cut = Cut::at(&disk, what, 0);
        assert!(cut.promised.len() > count, "{what} is a file of its own: {:?}", cut.promised.keys());
        count = cut.promised.len();
        disk.after_cut(&cut.name, || {
            holds(&disk.mounted, &cut.promised, what);
            let after = Store::open(&folder).expect("the store opens");
            assert_eq!(after.install(), store.install(), "{what}");
            if what != "the identity" {
                let pem = Certificates::authority(&folder, &domain, SystemTime::now()).unwrap().pem;
                let path = folder.join("tls/authority/example.test.pem");
                assert_eq!(pem.as_bytes(), cut.promised[&path], "{what}: the authority is the one that was trusted");
            }
        });
    }
}
