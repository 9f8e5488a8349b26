//! A host on fakes: a real store, machines and networks in files beside it. What is in the files outlives a killed
//! process, as a kernel's objects do.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use adt::boxes::{Layer, Layers};
use adt::config::{HostFlags, host};
use adt::engine::check::probe::Probe;
use adt::engine::permission::Authority;
use adt::engine::{Caller, Engine};
use adt::model::request::PlatformInit;
use adt::model::response::{BoxDetail, Done, LayerSummary};
use adt::model::{Check, EnvironmentId, Event, Failure, Health, MachineSpec, MachineState, ProviderName, Request, Response};
use adt::providers::fake::{Checkpoint, Fake as Machines};
use adt::providers::{Open, Provider, Registry, fake};
use adt::store::Store;

pub const PLATFORM: &str = r#"
[platform]
name = "shop"
[machines.web]
box = "web"
count = 2
memory = "64M"
after = ["db"]
[machines.db]
box = "db"
data = ["/var/lib/db"]
[sites.www]
on = "web"
"#;

/// Files that hold the whole state of a host; the rest of the store (layers, recipes) does not change.
const STATE: [&str; 10] = [
    "store/adt.db",
    "store/adt.db-wal",
    "store/adt.db-shm",
    "store/history.log",
    "store/secrets/shop/1161.key",
    "store/secrets/shop/7.key",
    "store/secrets/shop/8.key",
    "machines.json",
    "other.json",
    "networks.json",
];

/// Folders of the same kind: checkouts, what machines have on disk, releases, mirrors.
const FOLDERS: [&str; 6] = ["shop/1161", "machines", "other", "store/releases", "store/snapshots", "store/sources"];

pub struct Host {
    pub folder: PathBuf,
}

/// One process's view of a host.
pub struct Process {
    pub engine: Engine,
    /// Those of the usual provider, called as the real one is, so that the real program reads the store.
    pub machines: Machines,
    /// Those of the provider `other`, which is another one of the same kind.
    pub other: Machines,
    pub networks: adt::network::fake::Fake,
}

/// What a verb did.
pub struct Ran {
    pub result: Result<Response, Failure>,
    pub events: Vec<Event>,
}

impl Host {
    /// Knows the platform `shop`, whose boxes are built; `folder` exists.
    pub fn new(folder: &Path) -> Self {
        let host = Self { folder: folder.to_owned() };
        for name in ["web", "db"] {
            let recipe = host.shop().join("boxes").join(name);
            std::fs::create_dir_all(&recipe).expect("the folder is ours");
            std::fs::write(recipe.join("rootfs.tar"), name).expect("it takes a file");
            std::fs::write(recipe.join("box.toml"), "[box]\nfrom = { rootfs = \"rootfs.tar\" }\n").expect("it takes a file");
        }
        host.define(PLATFORM);
        let here = host.folder.clone();
        let init = PlatformInit { source: "shop".into(), branch: None, into: None, here };
        host.process("platform:init shop").done(Request::PlatformInit(init));
        host.build_boxes();
        host
    }

    pub fn shop(&self) -> PathBuf {
        self.folder.join("shop")
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    pub fn define(&self, platform: &str) {
        std::fs::write(self.shop().join("platform.toml"), platform).expect("the folder is ours");
    }

    /// Puts the layers there that a build would leave.
    pub fn build_boxes(&self) {
        for name in ["web", "db"] {
            let request = Request::BoxShow { platform: Some("shop".parse().unwrap()), name: name.parse().unwrap() };
            let Ok(Response::BoxDetail(detail)) = self.process("box:show").run(request).result else {
                panic!("the box {name} can't be shown")
            };
            self.build(&detail);
        }
    }

    fn build(&self, detail: &BoxDetail) {
        let layers = Layers::open(&self.store()).expect("the store is ours");
        let mut parent = None;
        for LayerSummary { name, digest, .. } in &detail.chain {
            std::fs::create_dir_all(layers.rootfs(digest)).expect("the store is ours");
            let layer = Layer {
                name: name.clone(),
                digest: digest.clone(),
                parent: parent.replace(digest.clone()),
                created: jiff::Timestamp::UNIX_EPOCH,
                size: 0,
                summary: String::new(),
                packages: Vec::new(),
                exposes: Vec::new(),
                health: Health { checks: vec![Check::Tcp { port: 80 }], deadline_seconds: 5 },
                content: None,
            };
            let text = serde_json::to_vec(&layer).expect("a layer is plain data");
            std::fs::write(layers.path(digest).join("layer.json"), text).expect("the store is ours");
        }
    }

    /// A process that is about to run this command.
    pub fn process(&self, command: &str) -> Process {
        self.watched(command, None)
    }

    /// The same, with a function called at each point at which a real command could be killed.
    pub fn watched(&self, command: &str, point: Option<Checkpoint>) -> Process {
        let store = Store::open(&self.store()).expect("the store opens");
        let machines = Machines::kept_in(&self.folder.join("machines.json"));
        let networks = adt::network::fake::Fake::kept_in(&self.folder.join("networks.json"), store.install());
        self.sharing(command, point, &machines, &networks)
    }

    /// The same, for one of several processes that are there at the same time.
    pub fn sharing(
        &self,
        command: &str,
        point: Option<Checkpoint>,
        machines: &Machines,
        networks: &adt::network::fake::Fake,
    ) -> Process {
        let flags = HostFlags { store: Some(self.store().display().to_string()), ..HostFlags::default() };
        let other = Machines::kept_in(&self.folder.join("other.json"));
        let (mut pair, mut network) = ([machines.clone(), other.clone()], networks.clone());
        if let Some(point) = &point {
            pair = pair.map(|provider| provider.with_checkpoint(Arc::clone(point)));
            let point = Arc::clone(point);
            network = networks.on_checkpoint(move |place| point(place));
        }
        let engine = Engine {
            settings: host::settle(None, &|_| None, &flags).expect("the defaults are sound"),
            store: Store::open(&self.store()).expect("the store opens"),
            providers: Registry::new([ProviderName::FIRST, "other"].into_iter().zip(pair.map(open))),
            network: Box::new(network),
            probe: Box::new(Answers { point }),
            clock: || {
                if let Some(point) = CLOCK.get() {
                    point("clock");
                }
                1_000
            },
            caller: Caller { user: "ada".into(), account: None, authority: Authority::Root, command: command.into(), home: None },
            cancel: Arc::new(AtomicBool::new(false)),
        };
        Process { engine, machines: machines.clone(), other, networks: networks.clone() }
    }

    /// The platform with a site from a repository, which has the branches `main` and `hotfix`.
    pub fn define_with_source(&self) {
        std::fs::create_dir_all(self.origin()).expect("the folder is ours");
        self.git(&["init", "--quiet", "-b", "main"]);
        std::fs::write(self.origin().join("app.ini.j2"), "{{ site.branch }} {{ secret('app') }}").expect("the folder is ours");
        self.commit("zero");
        self.git(&["checkout", "--quiet", "-b", "hotfix"]);
        self.commit("one");
        self.define(&PLATFORM.replace("[sites.www]", &format!("[sites.www]\nsource = \"{}\"", self.origin().display())));
    }

    /// The same, served as releases with programs of their own. `.running` is the version whose `postdeploy` ran last.
    pub fn define_with_releases(&self) {
        self.define_with_source();
        let folder = self.origin().join("deploy");
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        let program = |name: &str, text: &str| {
            std::fs::write(folder.join(name), format!("#!/bin/sh\nset -e\n{text}\n")).expect("the folder is ours");
            std::fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).expect("it is ours");
        };
        program("buildpack", "cp version built");
        program("predeploy", "cmp version built");
        program("postdeploy", "cp version ../.running");
        self.commit("one");
        let user = Command::new("id").arg("-un").output().expect("id is there").stdout;
        let keys = format!(
            "[sites.www]\npath = \"/srv/www\"\nmode = \"release\"\nkeep = 2\nuser = \"{}\"\nbuildpack = \"deploy/buildpack\"\n\
             predeploy = \"deploy/predeploy\"\npostdeploy = \"deploy/postdeploy\"",
            String::from_utf8_lossy(&user).trim()
        );
        let text = std::fs::read_to_string(self.shop().join("platform.toml")).expect("it was written above");
        self.define(&text.replace("[sites.www]", &keys));
    }

    pub fn origin(&self) -> PathBuf {
        self.folder.join("origin")
    }

    /// Another version of the site, on the branch that its repository is at.
    pub fn commit(&self, version: &str) {
        std::fs::write(self.origin().join("version"), version).expect("the folder is ours");
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", version]);
    }

    pub fn git(&self, words: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "protocol.file.allow=always"])
            .args(words)
            .current_dir(self.origin());
        assert!(git.status().expect("git is there").success(), "{words:?}");
    }

    /// The version that a site's folder on a machine or in a checkout has: whole, or `None` where there is no such folder.
    pub fn version(&self, folder: &Path) -> Option<String> {
        folder.exists().then(|| std::fs::read_to_string(folder.join("version")).expect("a folder of the site is whole"))
    }

    /// The state as it is now, to go back to.
    pub fn save(&self) -> BTreeMap<&'static str, Vec<u8>> {
        for name in FOLDERS {
            let (now, saved) = (self.folder.join(name), self.saved(name));
            if now.exists() {
                copy(&now, &saved);
            }
        }
        STATE.into_iter().filter_map(|name| Some((name, std::fs::read(self.folder.join(name)).ok()?))).collect()
    }

    pub fn restore(&self, state: &BTreeMap<&'static str, Vec<u8>>) {
        for name in STATE {
            let path = self.folder.join(name);
            match state.get(name) {
                Some(bytes) => {
                    std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder is ours");
                    std::fs::write(path, bytes).expect("the folder is ours");
                }
                None => drop(std::fs::remove_file(path)),
            }
        }
        for name in FOLDERS {
            let (now, saved) = (self.folder.join(name), self.saved(name));
            drop(std::fs::remove_dir_all(&now));
            if saved.exists() {
                copy(&saved, &now);
            }
        }
        for lock in self.locks() {
            std::fs::remove_file(lock).expect("the folder is ours");
        }
    }

    fn saved(&self, name: &str) -> PathBuf {
        self.folder.join("saved").join(name)
    }

    pub fn locks(&self) -> Vec<PathBuf> {
        let locks = std::fs::read_dir(self.store().join("locks")).expect("a store has this folder");
        locks.flatten().map(|entry| entry.path()).collect()
    }

    /// What is there of any environment: machines, networks, rows, locks.
    pub fn leftovers(&self) -> Vec<String> {
        let process = self.process("leftovers");
        let database = &process.engine.store.database;
        let both = [&process.machines, &process.other];
        let machines = both.iter().flat_map(|machines| machines.list().unwrap());
        let mut left: Vec<_> = machines.map(|(id, _)| format!("machine {id}")).collect();
        left.extend(adt::network::Network::list(&process.networks).unwrap().into_iter().map(|(_, note)| note));
        left.extend(database.environments(None).unwrap().into_iter().map(|environment| format!("row {}", environment.id)));
        left.extend(database.applied(None).unwrap().into_iter().map(|(name, _)| format!("applied {name}")));
        left.extend(database.site_codes(None).unwrap().into_keys().map(|id| format!("code {id}")));
        left.extend(Some(self.shop().join("1161")).filter(|path| path.exists()).map(|path| path.display().to_string()));
        left.extend(Some(self.store().join("secrets/shop")).filter(|path| path.exists()).map(|path| path.display().to_string()));
        for machines in both {
            let volumes = machines.begun().into_iter();
            left.extend(volumes.map(|begun| format!("volume {} of {}", begun.volume.path, begun.machine)));
            for name in ["1161", "7", "8"] {
                let volumes = adt::providers::Provider::volumes(machines).expect("this provider has them");
                left.extend(volumes.any(&id(name)).then(|| format!("data or a snapshot of {name}")));
            }
        }
        let records = process.engine.store.snapshots.all().unwrap();
        left.extend(records.into_iter().map(|(id, snapshot)| format!("record of snapshot {} of {id}", snapshot.name)));
        left.extend(self.locks().into_iter().map(|path| path.display().to_string()));
        // What a killed process held goes with the next deploy or prune.
        let shelf = adt::releases::Shelf::open(&self.store()).expect("the store is ours");
        let unused = shelf.unused(&BTreeSet::new(), usize::MAX).unwrap();
        shelf.prune(&unused, &|| Ok(BTreeSet::new())).unwrap();
        for name in ["machines", "other", "store/releases"] {
            let entries = std::fs::read_dir(self.folder.join(name)).into_iter().flatten().flatten();
            // Whole releases are kept for the next environment that wants the same.
            let others = entries.filter(|entry| adt::model::Digest::try_from(entry.file_name().into_string().unwrap()).is_err());
            left.extend(others.map(|entry| entry.path().display().to_string()));
        }
        left
    }

    /// The machines of an environment: their words for a state, and whether each is what the store says it is.
    pub fn machines(&self, id: &EnvironmentId) -> BTreeMap<String, &'static str> {
        let process = self.process("machines");
        let both = [&process.machines, &process.other];
        let states = both.iter().flat_map(|machines| machines.list().unwrap()).filter(|(machine, _)| machine.environment == *id);
        let mut once = BTreeSet::new();
        let states = states.inspect(|(machine, _)| assert!(once.insert(machine.clone()), "`{machine}` is on both providers"));
        let states: BTreeMap<_, MachineState> = states.map(|(machine, state)| (machine.machine, state)).collect();
        let real: BTreeMap<_, MachineSpec> = states
            .keys()
            .filter_map(|name| Some((name.clone(), both.iter().find_map(|one| one.spec(&id.machine(name)))?)))
            .collect();
        let applied: BTreeMap<_, _> = process.engine.store.database.applied(Some(id)).unwrap().into_iter().collect();
        assert_eq!(applied, real, "the store's idea of `{id}` is not what is there");
        states.into_iter().map(|(name, state)| (name.to_string(), state.word())).collect()
    }
}

impl Process {
    pub fn run(&self, request: Request) -> Ran {
        let mut events = Vec::new();
        let result = self.engine.run(request, &mut |event| events.push(event));
        Ran { result, events }
    }

    /// The folder of the host that a machine of environment 1161 has as its root.
    pub fn root(&self, machine: &str) -> PathBuf {
        self.machines.root(&id("1161").machine(&machine.parse().expect("it is a label"))).expect("it has files")
    }

    #[track_caller]
    pub fn done(&self, request: Request) -> Done {
        match self.run(request.clone()).result {
            Ok(Response::Done(done)) => done,
            Ok(other) => panic!("{request:?} answers {other:?}"),
            Err(failure) => panic!("{request:?}: {failure}"),
        }
    }
}

/// Reading the clock is a point at which a command can be killed, too: it happens between writes to the store.
pub static CLOCK: OnceLock<fake::Checkpoint> = OnceLock::new();

/// Machines that answer as soon as they run.
struct Answers {
    point: Option<Checkpoint>,
}

impl Probe for Answers {
    fn ask(&self, provider: &dyn Provider, spec: &MachineSpec, _: &Check) -> Result<(), String> {
        if let Some(point) = &self.point {
            point(&format!("ask {}", spec.id.machine));
        }
        match provider.inspect(&spec.id) {
            Ok(MachineState::Running { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

fn open(machines: Machines) -> Open {
    Box::new(move || Ok(Box::new(machines.clone())))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("it lies in a folder")).expect("the folder is ours");
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is there");
    assert!(copied.success());
}

/// A new environment of the platform, with all of its sites and nothing else said.
pub fn init(name: &str) -> Request {
    Request::EnvInit { id: id(name), sites: Vec::new(), on: None, shared: false, dry_run: false }
}

pub fn id(name: &str) -> EnvironmentId {
    EnvironmentId { platform: "shop".parse().unwrap(), name: name.parse().unwrap() }
}
