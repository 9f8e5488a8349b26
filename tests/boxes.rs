//! Boxes for real: mmdebstrap, machines on LXC, a full disk, a killed build.
//!
//! Every test runs as a process of its own in a mount namespace of its own, so that a test can be killed and its disk be small.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use adt::boxes::schedule::{self, Options, Outcome};
use adt::boxes::workshop::{Bench, BenchSpec, Result, Workshop};
use adt::boxes::{Catalogue, Context, Layers, Resolved, cache};
use adt::exec::{Cancel, Follow, HostPath};
use adt::model::machine::Mount;
use adt::model::{
    BoxName, Digest, EnvironmentId, EnvironmentName, Event, Exec, Failure, Health, IdPool, Kind, Limits, MachineId, MachineName,
    MachineSpec, MachineState, NetworkSpec, PlatformName, ProviderName, Stream, Tag,
};
use adt::network::address::{allocate, ula_subnet};
use adt::network::{Linux, Network};
use adt::providers::lxc::{Lxc, LxcHome};
use adt::providers::{Provider, Stdio, copies};

/// As of a host that says nothing else.
const IDS: IdPool = IdPool { first: 1_879_048_192, last: 2_147_352_575 };
const STORE: &str = "ADT_TEST_BOXES_STORE";

/// Runs `body` in a process of its own. `disk` is the size of the store's own small disk.
fn apart(test: &str, disk: Option<&str>, body: impl FnOnce(&Lab)) {
    if let Some(store) = std::env::var_os(STORE) {
        body(&Lab::open(Path::new(&store)));
        return;
    }
    let Some(home) = home(test) else { return };
    let status = again(test, &home.0, disk).wait().unwrap();
    assert!(status.success(), "{test} failed");
}

/// Where a test keeps its store; gone afterwards.
struct Home(PathBuf);

fn home(test: &str) -> Option<Home> {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() || !has("mmdebstrap") || !has("lxc-start") {
        assert!(std::env::var_os("CI").is_none(), "{test} needs root, mmdebstrap and LXC");
        eprintln!("SKIPPED, needs root, mmdebstrap and LXC: {test}");
        return None;
    }
    let home = Home(PathBuf::from(format!("/var/tmp/adt-test-{}-{test}", std::process::id())));
    std::fs::create_dir(&home.0).unwrap();
    Some(home)
}

impl Drop for Home {
    fn drop(&mut self) {
        let lab = Lab::open(&self.0);
        for (id, _) in lab.provider.list().unwrap_or_default() {
            lab.sweep(&id.environment);
        }
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn again(test: &str, store: &Path, disk: Option<&str>) -> Child {
    let mount = match disk {
        Some(size) => format!("mount -t tmpfs -o mode=755,size={size} tmpfs \"$0\" && "),
        None => String::new(),
    };
    Command::new("unshare")
        .args(["--mount", "sh", "-c", &format!("{mount}exec \"$@\"")])
        .arg(store)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(STORE, store)
        .spawn()
        .unwrap()
}

/// Stands for the engine: machines from the provider, on networks of their own.
struct Lab {
    store: PathBuf,
    install: String,
    provider: Lxc,
    network: Linux,
    taken: Mutex<Vec<ipnet::Ipv4Net>>,
    log: Mutex<Vec<String>>,
}

impl Lab {
    fn open(store: &Path) -> Self {
        // The same for every process of one test, another for each test.
        let install = format!("boxes-{}", Tag::of(&store.display().to_string(), &Self::id("lab").environment));
        let home = LxcHome { store: store.to_owned(), install: install.clone(), exe: env!("CARGO_BIN_EXE_adt").into(), ids: IDS };
        Self {
            store: store.to_owned(),
            provider: Lxc::new(home),
            network: Linux::new(&install, "/nowhere".into()),
            install,
            taken: Mutex::default(),
            log: Mutex::default(),
        }
    }

    fn id(name: &str) -> MachineId {
        let platform = PlatformName::new("box").unwrap();
        let environment = EnvironmentId { platform, name: EnvironmentName::new(name).unwrap() };
        environment.machine(&MachineName::new("build").unwrap())
    }

    fn sweep(&self, environment: &EnvironmentId) {
        let id = environment.machine(&MachineName::new("build").unwrap());
        drop(self.provider.delete(&id));
        drop(self.network.disconnect(&Tag::of(&self.install, environment)));
    }

    /// A running machine on these layers.
    fn machine(&self, name: &str, layers: Vec<Digest>, mounts: Vec<Mount>) -> Result<MachineId> {
        let id = Self::id(name);
        self.sweep(&id.environment);
        let fail = |error: &(dyn std::error::Error + 'static)| Failure::new(Kind::Host, format!("make `{id}`")).because(error);
        let v4 = {
            let mut taken = self.taken.lock().unwrap();
            let routes = self.network.routes().map_err(|error| fail(&error))?;
            let v4 = allocate("10.213.0.0/20".parse().unwrap(), &taken, &routes).map_err(|error| fail(&error))?;
            taken.push(v4);
            v4
        };
        let tag = Tag::of(&self.install, &id.environment);
        let network = NetworkSpec { id: id.environment.clone(), tag, v4, v6: ula_subnet(&self.install, &v4), tie: None };
        self.network.connect(&network).and_then(|()| self.network.open(&network)).map_err(|error| fail(&error))?;
        let spec = MachineSpec {
            provider: ProviderName::first(),
            hostname: "build".into(),
            fqdn: "build.test".into(),
            layers,
            seeded: 0,
            limits: Limits::default(),
            network: network.attach(2),
            hosts: std::fs::read_to_string("/etc/hosts").unwrap(),
            nameservers: nameservers(),
            search: Vec::new(),
            trusted: Default::default(),
            mounts,
            volumes: None,
            rewound: None,
            files: [].into(),
            health: Health { checks: Vec::new(), deadline_seconds: 60 },
            host: false,
            spare: true,
            id: id.clone(),
        };
        self.provider.create(&spec).map_err(|error| fail(&error))?;
        self.provider.start(&id).map_err(|error| fail(&error))?;
        Ok(id)
    }

    fn exec(&self, id: &MachineId, exec: &Exec) -> (i32, String) {
        let mut text = String::new();
        let each = &mut |_: Stream, line: &str| text += &format!("{line}\n");
        let ended = self.provider.exec(id, exec, Stdio::Pipes { stdin: None, each }).unwrap();
        (ended.code, text)
    }

    fn resolve(&self, boxes: &Path, names: &[&str]) -> Vec<Resolved> {
        let names: Vec<_> = names.iter().map(|name| BoxName::new(*name).unwrap()).collect();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("boxes");
        Catalogue::of_folders(vec![boxes.to_owned(), shipped], &adt::config::recipe::read).resolve_all(&names).unwrap()
    }

    fn build(&self, boxes: &[Resolved]) -> Vec<Outcome> {
        let none = BTreeSet::new();
        let options = Options { jobs: NonZeroUsize::new(2).unwrap(), force: &none, in_use: &BTreeSet::new() };
        let context = Context {
            store: &self.store,
            workshop: self,
            render: &|text, file, vars| {
                adt::template::render(&file.display().to_string(), text, &serde_json::json!({ "vars": vars }))
                    .map_err(|error| Failure::new(Kind::Config, "render").because(&error))
            },
            boot_deadline: Duration::from_secs(60),
            emit: &|event| self.hear(event),
            cancel: &AtomicBool::new(false),
        };
        schedule::run(context, boxes, &options).unwrap()
    }

    fn hear(&self, event: Event) {
        let line = match event {
            Event::Output { source, line, .. } => format!("{source}| {line}"),
            Event::TaskDone { task, milliseconds, .. } => format!("== {task} {milliseconds} ms"),
            Event::TaskStarted { .. } => return,
            other => format!("== {other:?}"),
        };
        println!("{line}");
        self.log.lock().unwrap().push(line);
    }

    /// No machine, no network, no half layer.
    fn assert_nothing_left(&self) {
        assert_eq!(self.provider.list().unwrap(), []);
        let own: Vec<_> = self.network.list().unwrap().into_iter().filter(|(_, note)| note.contains(&self.install)).collect();
        assert!(own.is_empty(), "{own:?}");
        assert_eq!(Layers::open(&self.store).unwrap().halves().unwrap(), Vec::<PathBuf>::new());
    }
}

fn nameservers() -> Vec<std::net::IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok()).collect()
}

impl Workshop for Lab {
    fn open(&self, spec: &BenchSpec) -> Result<Box<dyn Bench + '_>> {
        let name = spec.digest.short();
        let id = self.machine(name, spec.layers.clone(), spec.mounts.clone());
        let id = id.inspect_err(|_| self.sweep(&Self::id(name).environment))?;
        Ok(Box::new(LabBench { lab: self, id }))
    }
}

struct LabBench<'a> {
    lab: &'a Lab,
    id: MachineId,
}

impl LabBench<'_> {
    fn fail(&self, error: &adt::providers::Error) -> Failure {
        Failure::new(Kind::Program, format!("build in `{}`", self.id)).because(error)
    }
}

impl Bench for LabBench<'_> {
    fn follow(&self, exec: &Exec, each: &mut Follow<'_>) -> Result<i32> {
        let mut each = |line: Option<(Stream, &str)>| each(line);
        let ended = self.lab.provider.exec(&self.id, exec, Stdio::Follow { each: &mut each });
        ended.map(|ended| ended.code).map_err(|error| self.fail(&error))
    }

    fn feed(&self, exec: &Exec, input: &mut (dyn std::io::Read + Send), each: &mut dyn FnMut(Stream, &str)) -> Result<i32> {
        let ended = self.lab.provider.exec(&self.id, &exec.as_one_stream(), Stdio::Fed { input, each });
        ended.map(|ended| ended.code).map_err(|error| self.fail(&error))
    }

    fn copy_in(&self, source: HostPath<'_>, target: &str) -> Result<()> {
        copies::copy_in(&self.lab.provider, &self.id, source, target, &Cancel::default()).map_err(|error| self.fail(&error))
    }

    fn copy_out(&self, source: &str, target: &Path) -> Result<()> {
        copies::copy_out(&self.lab.provider, &self.id, source, target.into(), &Cancel::default())
            .map_err(|error| self.fail(&error))
    }

    fn halt(&self) -> Result<()> {
        self.lab.provider.stop(&self.id, Duration::from_secs(20)).map_err(|error| self.fail(&error))
    }

    fn harvest(&self, target: &str) -> Result<PathBuf> {
        let layers = self.lab.provider.layers().expect("LXC has layers");
        layers.written(&self.id, target).map_err(|error| self.fail(&error))
    }

    fn commit(self: Box<Self>, target: &Path) -> Result<()> {
        let layers = self.lab.provider.layers().expect("LXC has layers");
        layers.commit(&self.id, target).map_err(|error| self.fail(&error))?;
        self.lab.sweep(&self.id.environment);
        Ok(())
    }

    fn discard(self: Box<Self>) -> Result<()> {
        self.lab.sweep(&self.id.environment);
        Ok(())
    }
}

fn recipe(boxes: &Path, name: &str, text: &str, files: &[(&str, &str)]) {
    let folder = boxes.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("box.toml"), text).unwrap();
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// A base with a program that has a file capability, and boxes on it.
fn recipes(store: &Path) -> PathBuf {
    let boxes = store.join("recipes");
    recipe(&boxes, "mini", "[box]\nsummary = \"Base\"\nfrom = { suite = \"bookworm\" }\npackages = [\"iputils-ping\"]\n", &[]);
    let web = "[box]\nsummary = \"Top\"\nfrom = { box = \"mini\" }\npackages = [\"less\"]\n\
               mask = [\"sys-kernel-debug.mount\"]\n[vars]\ncolour = \"blue\"\n\
               [[steps]]\nfiles = \"tree\"\n[[steps]]\nscript = \"setup.sh\"\n";
    recipe(
        &boxes,
        "top",
        web,
        &[
            ("tree/etc/colour.j2", "{{ vars.colour }}\n"),
            ("tree/bin/hello", "#!/bin/sh\n"),
            ("setup.sh", "#!/bin/sh -e\necho $ADT_VAR_COLOUR > /srv/colour\nless --version | head -1\n"),
        ],
    );
    let failing = "[box]\nsummary = \"Fails\"\nfrom = { box = \"mini\" }\n[[steps]]\nscript = \"setup.sh\"\n";
    recipe(
        &boxes,
        "failing",
        failing,
        &[("setup.sh", "#!/bin/sh\nfor i in $(seq 30); do echo line $i; done\necho why >&2\nexit 42\n")],
    );
    let filling = "[box]\nsummary = \"Fills\"\nfrom = { box = \"mini\" }\n[[steps]]\nscript = \"setup.sh\"\n";
    recipe(&boxes, "filling", filling, &[("setup.sh", "#!/bin/sh\ndd if=/dev/zero of=/big bs=1M count=4000\n")]);
    let slow = "[box]\nsummary = \"Slow\"\nfrom = { box = \"mini\" }\n[[steps]]\nscript = \"setup.sh\"\n";
    recipe(&boxes, "slow", slow, &[("setup.sh", "#!/bin/sh\nif [ -e /run/adt/ca-bundle.crt ]; then echo asleep; sleep 3; fi\n")]);
    boxes
}

fn failed(outcome: &Outcome) -> &adt::boxes::Error {
    match outcome {
        Outcome::Failed(error) => error,
        other => panic!("it should have failed: {other:?}"),
    }
}

#[test]
fn a_recipe_becomes_machines() {
    apart("a_recipe_becomes_machines", None, |lab| {
        let boxes = lab.resolve(&recipes(&lab.store), &["top", "failing"]);
        let outcomes = lab.build(&boxes);
        assert!(outcomes[0].is_there() && outcomes[1].is_there(), "{outcomes:?}");
        let error = failed(&outcomes[2]);
        assert_eq!(error.to_string(), "step `script setup.sh` of box `failing` ended with exit code 42");
        assert_eq!(error.tail().len(), 20);
        assert_eq!(error.tail().last().unwrap(), "why", "{:?}", error.tail());
        lab.assert_nothing_left();
        assert!(lab.build(&boxes[..2]).iter().all(|outcome| matches!(outcome, Outcome::Unchanged(_))));
        let debs = std::fs::read_dir(cache::kept(&lab.store, &boxes[1].authors)).unwrap().flatten();
        let debs: Vec<_> = debs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(debs.iter().any(|name| name.starts_with("less_")), "{debs:?}");
        inside(lab, &boxes[1].digest);
    });
}

/// What a machine on the finished box is like.
fn inside(lab: &Lab, digest: &Digest) {
    let layers = Layers::open(&lab.store).unwrap();
    let id = lab.machine("check", layers.chain(digest).unwrap(), Vec::new()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let booted = Exec::new(["systemctl", "is-system-running"]);
    while !["running\n", "degraded\n"].contains(&lab.exec(&id, &booted).1.as_str()) {
        assert!(Instant::now() < deadline, "it does not boot");
        std::thread::sleep(Duration::from_millis(50));
    }
    let shell = |script: &str| lab.exec(&id, &Exec::new(["sh", "-c", script]));
    assert_eq!(shell("cat /etc/colour /srv/colour").1, "blue\nblue\n");
    assert_eq!(shell("stat -c '%u %a' /bin/hello /etc/colour").1, "0 644\n0 644\n");
    assert_eq!(shell("test -L /bin && ls /var/lib/apt/lists /var/cache/apt/archives /tmp | grep -c 'deb$\\|Packages'").1, "0\n");
    assert_eq!(shell("find / -xdev -nouser -o -xdev -nogroup | head").1, "");
    assert_eq!(shell("ls /usr/local/share/ca-certificates /etc/ssl/certs | grep adt-build").1, "");
    // Without groups that may ping, only the file capability lets it.
    shell("sysctl -w net.ipv4.ping_group_range='1 0'");
    let ping = Exec { user: Some("nobody".into()), cwd: Some("/".into()), ..Exec::new(["ping", "-c", "1", "127.0.0.1"]) };
    let (code, text) = lab.exec(&id, &ping);
    assert_eq!(code, 0, "{text}");
    lab.sweep(&id.environment);
}

#[test]
fn a_playbook_leaves_its_result_and_not_its_tool() {
    apart("a_playbook_leaves_its_result_and_not_its_tool", None, |lab| provisioned(lab, "with-ansible"));
}

#[test]
fn a_state_leaves_its_result_and_not_its_tool() {
    apart("a_state_leaves_its_result_and_not_its_tool", None, |lab| provisioned(lab, "with-salt"));
}

fn provisioned(lab: &Lab, name: &str) {
    let boxes = lab.resolve(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes"), &[name]);
    let outcomes = lab.build(&boxes);
    assert!(outcomes.iter().all(Outcome::is_there), "{outcomes:?}");
    lab.assert_nothing_left();
    let chain = Layers::open(&lab.store).unwrap().chain(&boxes.last().unwrap().digest).unwrap();
    let id = lab.machine("check", chain, Vec::new()).unwrap();
    let shell = |script: &str| lab.exec(&id, &Exec::new(["sh", "-c", script]));
    assert_eq!(shell(&format!("test -f /etc/{name}")).0, 0);
    let tools = "command -v ansible-playbook salt-call python3 gcc; ls -d /opt/adt-salt /root/.ansible 2>/dev/null";
    assert_eq!(shell(tools).1, "");
    lab.sweep(&id.environment);
}

#[test]
fn a_full_disk_leaves_nothing_half() {
    apart("a_full_disk_leaves_nothing_half", Some("150M"), |lab| {
        let boxes = lab.resolve(&recipes(&lab.store), &["mini"]);
        let outcomes = lab.build(&boxes);
        let error = failed(&outcomes[0]);
        assert!(error.to_string().contains("is full; box `mini` is not built"), "{error}: {:?}", error.tail());
        assert_eq!(error.kind(), Kind::Exhausted);
        lab.assert_nothing_left();
        let layers = std::fs::read_dir(lab.store.join("layers")).unwrap();
        assert_eq!(layers.count(), 0);
    });
}

#[test]
fn a_disk_that_fills_up_inside_a_machine_leaves_nothing_half() {
    apart("a_disk_that_fills_up_inside_a_machine_leaves_nothing_half", Some("700M"), |lab| {
        let boxes = lab.resolve(&recipes(&lab.store), &["filling"]);
        let outcomes = lab.build(&boxes);
        assert!(outcomes[0].is_there(), "{outcomes:?}");
        let error = failed(&outcomes[1]);
        assert!(error.to_string().contains("is full; box `filling` is not built"), "{error}: {:?}", error.tail());
        lab.assert_nothing_left();
    });
}

#[test]
fn a_killed_build_is_built_by_the_next_run() {
    const TEST: &str = "a_killed_build_is_built_by_the_next_run";
    if let Some(store) = std::env::var_os(STORE) {
        let lab = Lab::open(Path::new(&store));
        let boxes = lab.resolve(&recipes(&lab.store), &["slow"]);
        let outcomes = lab.build(&boxes);
        assert!(outcomes.iter().all(Outcome::is_there), "{outcomes:?}");
        lab.assert_nothing_left();
        return;
    }
    let Some(home) = home(TEST) else { return };
    let building = || std::fs::read_dir(home.0.join("layers")).into_iter().flatten().flatten();
    let building = || building().any(|entry| entry.file_name().to_string_lossy().starts_with(".build-"));
    // Once while mmdebstrap unpacks, once while the machine runs.
    kill_when(TEST, &home.0, || building() && mmdebstrap_runs(&home.0));
    let deadline = Instant::now() + Duration::from_secs(10);
    while mmdebstrap_runs(&home.0) {
        assert!(Instant::now() < deadline, "mmdebstrap outlives its adt");
        std::thread::sleep(Duration::from_millis(20));
    }
    let lab = Lab::open(&home.0);
    kill_when(TEST, &home.0, || {
        lab.provider.list().unwrap().iter().any(|(_, state)| matches!(state, MachineState::Running { .. }))
    });
    assert!(again(TEST, &home.0, None).wait().unwrap().success());
}

fn kill_when(test: &str, store: &Path, ready: impl Fn() -> bool) {
    let mut child = again(test, store, None);
    let deadline = Instant::now() + Duration::from_secs(300);
    while !ready() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "it never came so far");
        std::thread::sleep(Duration::from_millis(20));
    }
    // `unshare` and `sh` gave their place to the test itself.
    child.kill().unwrap();
    child.wait().unwrap();
}

fn mmdebstrap_runs(store: &Path) -> bool {
    let wanted = store.join("layers").display().to_string();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).any(|line| {
        let line = String::from_utf8_lossy(&line);
        line.contains("mmdebstrap") && line.contains(&wanted)
    })
}
