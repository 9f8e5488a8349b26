//! The provider contract on real LXC machines with a real systemd, and that nothing is left of them.
//!
//! Needs root, liblxc and mmdebstrap. The base system is made once (`ADT_TEST_BASE`, default `target/test-base`), by whichever
//! test comes first: each is a process of its own.
//! Without these the tests say so and pass, but fail where `CI` is set.

#[path = "contract/mod.rs"]
mod contract;
#[path = "lxc_provider/volumes.rs"]
mod volumes;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Pipe};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use adt::exec::{Account, Cancel, HostPath};
use adt::model::machine::{Mount, MountMode};
use adt::model::{
    Attachment, Digest, EnvironmentId, EnvironmentName, Exec, Health, IdPool, Limits, MachineId, MachineName, MachineSpec,
    MachineState, PlatformName, ProviderName, Stream, Tag,
};
use adt::providers::lxc::{Lxc, LxcHome};
use adt::providers::{Ended, Error, Provider, Stdio, copies};

const EXE: &str = env!("CARGO_BIN_EXE_adt");
/// As of a host that says nothing else.
const IDS: IdPool = IdPool { first: 1_879_048_192, last: 2_147_352_575 };
const GRACE: Duration = Duration::from_secs(30);

/// The folder with the base system, or why these tests can't run here.
fn base() -> Result<&'static Path, String> {
    static BASE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BASE.get_or_init(make_base).as_deref().map_err(Clone::clone)
}

fn make_base() -> Result<PathBuf, String> {
    if !rustix_is_root() {
        return Err("root is needed".into());
    }
    let library = Command::new("ldconfig").arg("-p").output().map_err(|error| error.to_string())?;
    if !String::from_utf8_lossy(&library.stdout).contains("liblxc.so.1") {
        return Err("liblxc is missing".into());
    }
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-base");
    let base = std::env::var_os("ADT_TEST_BASE").map_or(default, PathBuf::from);
    let rootfs = base.join("rootfs");
    fs::create_dir_all(&base).map_err(|error| error.to_string())?;
    // Held until the base is there; two processes in one half-made folder would damage it for all that follow.
    let lock = fs::File::create(base.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if rootfs.is_dir() {
        return Ok(rootfs);
    }
    let new = base.join("rootfs.new");
    let _ = fs::remove_dir_all(&new);
    let status = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,iproute2,iputils-ping", "bookworm"])
        .arg(&new)
        .status()
        .map_err(|error| format!("mmdebstrap: {error}"))?;
    if !status.success() {
        return Err("mmdebstrap failed".into());
    }
    for entry in walkdir::WalkDir::new(&new) {
        let entry = entry.map_err(|error| error.to_string())?;
        let meta = entry.metadata().map_err(|error| error.to_string())?;
        lchown(entry.path(), Some(meta.uid() + 100_000), Some(meta.gid() + 100_000)).map_err(|error| error.to_string())?;
        // Changing the owner clears the set-id bits.
        if !meta.is_symlink() && meta.mode() & 0o6000 != 0 {
            fs::set_permissions(entry.path(), PermissionsExt::from_mode(meta.mode() & 0o7777)).map_err(|e| e.to_string())?;
        }
    }
    fs::rename(&new, &rootfs).map_err(|error| error.to_string())?;
    Ok(rootfs)
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// One environment with its bridge, store and provider; all gone at the end.
struct World {
    store: tempfile::TempDir,
    install: String,
    lxc: Lxc,
    environment: EnvironmentId,
    net: u8,
}

impl World {
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = match base() {
            Ok(base) => base,
            Err(why) => {
                assert!(std::env::var_os("CI").is_none(), "these tests must run in CI: {why}");
                eprintln!("SKIPPED, nothing was tested: {why}");
                return None;
            }
        };
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let store = tempfile::Builder::new().prefix("lxc-store-").tempdir_in(target).unwrap();
        let layer = store.path().join("layers").join(digest().as_str());
        fs::create_dir_all(&layer).unwrap();
        symlink(base, layer.join("rootfs")).unwrap();
        // Other processes run tests of this file at the same time: two bridges with one network would take each other's packets.
        let net = u8::try_from((std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 250).unwrap();
        let install = format!("test-{}-{net}", std::process::id());
        let home = LxcHome { store: store.path().to_owned(), install: install.clone(), exe: store.path().join("adt"), ids: IDS };
        // A path of its own, so that this store's helpers can be told from others'.
        symlink(EXE, store.path().join("adt")).unwrap();
        let environment =
            EnvironmentId { platform: PlatformName::new("shop").unwrap(), name: EnvironmentName::new("1161").unwrap() };
        let world = Self { store, install, lxc: Lxc::new(home), environment, net };
        ip(&["link", "add", &world.bridge(), "type", "bridge"]);
        ip(&["addr", "add", &format!("10.213.{net}.1/24"), "dev", &world.bridge()]);
        ip(&["link", "set", &world.bridge(), "up"]);
        Some(world)
    }

    fn tag(&self) -> Tag {
        Tag::of(&self.install, &self.environment)
    }

    fn bridge(&self) -> String {
        format!("adt{}", self.tag())
    }

    fn id(&self, name: &str) -> MachineId {
        self.environment.machine(&MachineName::new(name).unwrap())
    }

    fn spec(&self, name: &str, number: u8) -> MachineSpec {
        MachineSpec {
            id: self.id(name),
            provider: ProviderName::first(),
            hostname: name.into(),
            fqdn: format!("{name}.1161.shop.example.test"),
            layers: vec![digest()],
            seeded: 0,
            limits: Limits { memory_bytes: Some(256 << 20), cpus: Some(0.5), processes: Some(200) },
            network: Attachment {
                net: self.bridge(),
                cable: format!("adt{}-{number}", self.tag()),
                mac: format!("02:ad:00:00:{:02x}:{number:02x}", self.net),
                v4: Ipv4Addr::new(10, 213, self.net, number),
                v4_prefix: 24,
                v4_gateway: Ipv4Addr::new(10, 213, self.net, 1),
                v6: Ipv6Addr::new(0xfd13, 0, 0, self.net.into(), 0, 0, 0, number.into()),
                v6_prefix: 64,
            },
            hosts: "127.0.0.1 localhost\n10.0.0.1 before\n".into(),
            nameservers: vec![Ipv4Addr::new(10, 213, self.net, 1).into()],
            search: vec!["1161.shop.example.test".into()],
            trusted: Default::default(),
            mounts: vec![],
            volumes: None,
            rewound: None,
            files: [].into(),
            health: Health { checks: vec![], deadline_seconds: 30 },
            host: false,
            spare: false,
        }
    }

    fn run(&self, id: &MachineId, argv: &[&str]) -> Ended {
        self.run_as(id, &Exec::new(argv.iter().copied()))
    }

    fn run_as(&self, id: &MachineId, exec: &Exec) -> Ended {
        self.lxc.exec(id, exec, Stdio::Pipes { stdin: None, each: &mut |_, _| {} }).unwrap()
    }

    fn text(&self, id: &MachineId, argv: &[&str]) -> String {
        let ended = self.run(id, argv);
        assert_eq!(ended.code, 0, "{argv:?}: {}", String::from_utf8_lossy(&ended.output.stderr));
        ended.output.text().trim().to_owned()
    }

    fn booted(&self, id: &MachineId) -> String {
        // systemctl fails until the bus answers, and with `--wait` says the final word.
        until(GRACE, || {
            let text = self.run(id, &["systemctl", "is-system-running", "--wait"]).output.text();
            (!text.trim().is_empty() && text.trim() != "offline").then(|| text.trim().to_owned())
        })
    }

    fn folder(&self, id: &MachineId) -> PathBuf {
        self.store.path().join("machines/shop/1161").join(id.machine.as_str())
    }

    /// What the host still knows of this environment.
    fn traces(&self) -> Vec<String> {
        let tag = self.tag().to_string();
        let mut traces = Vec::new();
        for entry in fs::read_dir("/sys/class/net").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.contains(&tag) && name != self.bridge() {
                traces.push(format!("link {name}"));
            }
        }
        for entry in walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten() {
            if entry.file_name().to_string_lossy() == tag.as_str() {
                traces.push(format!("cgroup {}", entry.path().display()));
            }
        }
        let store = self.store.path().to_string_lossy().into_owned();
        traces
            .extend(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&store)).map(String::from));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line_text = String::from_utf8_lossy(&line);
            if line_text.contains(&store) || line_text.contains(&tag) {
                traces.push(format!("process {}", String::from_utf8_lossy(&line)));
            }
        }
        let machines = walkdir::WalkDir::new(self.store.path().join("machines")).min_depth(1);
        traces.extend(machines.into_iter().flatten().map(|entry| format!("file {}", entry.path().display())));
        let locks = walkdir::WalkDir::new("/run/lxc").into_iter().flatten().map(|entry| entry.path().display().to_string());
        traces.extend(locks.filter(|path| path.contains(&store)));
        traces
    }

    fn assert_no_trace(&self) {
        assert_eq!(self.traces(), Vec::<String>::new());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (id, _) in self.lxc.list().unwrap_or_default() {
            let _ = self.lxc.delete(&id);
        }
        ip(&["link", "delete", &self.bridge()]);
    }
}

fn digest() -> Digest {
    Digest::from_bytes(&[7; 32])
}

fn ip(args: &[&str]) {
    let status = Command::new("ip").args(args).status().unwrap();
    assert!(status.success() || std::thread::panicking(), "ip {args:?}");
}

fn until<T>(most: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + most;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "it did not happen within {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_running(state: &MachineState) -> bool {
    matches!(state, MachineState::Running { .. })
}

#[test]
fn it_keeps_the_contract_of_all_providers() {
    let Some(world) = World::new() else { return };
    contract::holds(&world.lxc, &world.spec("web1", 2));
    world.assert_no_trace();
}

#[test]
fn a_machine_with_spare_files_waits_for_no_disk_and_starts_again() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    lxc.create(&MachineSpec { spare: true, ..world.spec("web1", 2) }).unwrap();
    lxc.start(&id).unwrap();
    let options = world.text(&id, &["sh", "-c", "grep ' / overlay ' /proc/mounts"]);
    assert!(options.contains("volatile"), "{options}");
    world.text(&id, &["touch", "/root/kept"]);
    lxc.stop(&id, GRACE).unwrap();
    lxc.start(&id).unwrap();
    world.text(&id, &["test", "-e", "/root/kept"]);
    lxc.delete(&id).unwrap();
    world.assert_no_trace();
}

#[test]
fn the_contract_from_create_to_delete() {
    let Some(world) = World::new() else { return };
    let (lxc, id, spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Absent);
    assert!(matches!(lxc.start(&id), Err(Error::Absent { .. })));
    lxc.stop(&id, GRACE).unwrap();
    lxc.delete(&id).unwrap();
    for _ in 0..2 {
        lxc.create(&spec).unwrap();
        assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Halted);
    }
    assert_eq!(lxc.list().unwrap(), [(id.clone(), MachineState::Halted)]);
    assert_eq!(lxc.machines(&world.environment).unwrap(), [(id.machine.clone(), MachineState::Halted)].into());
    let error = lxc.exec(&id, &Exec::new(["true"]), Stdio::Caller).unwrap_err();
    assert!(matches!(error, Error::NotRunning { state: "halted", .. }), "{error}");
    for _ in 0..2 {
        let clock = Instant::now();
        lxc.start(&id).unwrap();
        eprintln!("start: {:?}", clock.elapsed());
    }
    let state = lxc.inspect(&id).unwrap();
    assert!(is_running(&state), "{state:?}");
    assert_eq!(lxc.list().unwrap(), [(id.clone(), state)]);
    assert_eq!(lxc.address(&id).unwrap().len(), 2);

    assert_eq!(world.booted(&id), "running", "{}", world.text(&id, &["systemctl", "--failed", "--no-pager"]));
    assert_eq!(world.text(&id, &["systemctl", "--failed", "--no-legend"]), "");
    assert_eq!(world.text(&id, &["hostname"]), "web1");
    assert_eq!(world.text(&id, &["cat", "/etc/hostname"]), "web1");
    let identity = world.text(&id, &["cat", "/etc/machine-id"]);
    assert_eq!(
        world.text(&id, &["ip", "-o", "-4", "addr", "show", "eth0"]).split_whitespace().nth(3),
        Some(format!("10.213.{}.2/24", world.net).as_str())
    );
    assert!(world.text(&id, &["ip", "route"]).contains(&format!("default via 10.213.{}.1", world.net)));
    assert!(lxc.disk(&id).unwrap() > 0);
    assert!(!lxc.console().unwrap().tail(&id, 5).unwrap().is_empty());

    let clock = Instant::now();
    lxc.stop(&id, GRACE).unwrap();
    eprintln!("graceful stop: {:?}", clock.elapsed());
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Halted);
    lxc.stop(&id, GRACE).unwrap();
    lxc.start(&id).unwrap();
    assert_eq!(world.text(&id, &["cat", "/etc/machine-id"]), identity);
    assert!(!fs::read(world.folder(&id).join("console.log.1")).unwrap().is_empty());
    let clock = Instant::now();
    lxc.stop(&id, Duration::ZERO).unwrap();
    eprintln!("forced stop: {:?}", clock.elapsed());
    lxc.start(&id).unwrap();
    let clock = Instant::now();
    lxc.delete(&id).unwrap();
    eprintln!("delete of a running machine: {:?}", clock.elapsed());
    lxc.delete(&id).unwrap();
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Absent);
    world.assert_no_trace();
}

#[test]
fn programs_inside() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    lxc.create(&world.spec("web1", 2)).unwrap();
    lxc.start(&id).unwrap();
    for (argv, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-program"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let clock = Instant::now();
        assert_eq!(world.run(&id, argv).code, code, "{argv:?}");
        eprintln!("exec: {:?}", clock.elapsed());
    }
    assert_eq!(
        world.text(&id, &["env"]).lines().map(|line| line.split('=').next().unwrap()).collect::<BTreeSet<_>>(),
        BTreeSet::from(["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"])
    );
    assert_eq!(world.text(&id, &["pwd"]), "/root");
    let exec =
        Exec { user: Some("daemon".into()), cwd: Some("/usr".into()), ..Exec::new(["sh", "-c", "id -un; id -Gn; pwd; echo $A"]) };
    let exec = Exec { env: vec![("A".into(), "b c".into())], ..exec };
    assert_eq!(world.run_as(&id, &exec).output.text(), "daemon\ndaemon\n/usr\nb c\n");
    let unknown = Exec { user: Some("nobody-here".into()), ..Exec::new(["true"]) };
    let error = lxc.exec(&id, &unknown, Stdio::Caller).unwrap_err();
    assert!(error.to_string().contains("no user `nobody-here`"), "{error}");

    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut lines = Vec::new();
    let ended = lxc
        .exec(
            &id,
            &Exec::new(["sh", "-c", "echo one >&2; cat"]),
            Stdio::Pipes { stdin: Some(&bytes), each: &mut |stream, line| lines.push((stream, line.len())) },
        )
        .unwrap();
    assert_eq!(ended.output.stdout, bytes);
    assert!(lines.contains(&(Stream::Err, 3)));
}

#[test]
fn limits_are_in_force_and_follow_create() {
    let Some(world) = World::new() else { return };
    let (lxc, id, mut spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    lxc.create(&spec).unwrap();
    lxc.start(&id).unwrap();
    let group = |name: &str| -> String {
        let group = format!("adt/{}/web1", world.tag());
        let paths = ["memory", "cpu", "pids", "."].map(|c| Path::new("/sys/fs/cgroup").join(c).join(&group).join(name));
        let path = paths.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("no {name} in {paths:?}"));
        fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let legacy = Path::new("/sys/fs/cgroup/memory").exists();
    let memory = if legacy { "memory.limit_in_bytes" } else { "memory.max" };
    assert_eq!(group(memory), (256 << 20).to_string());
    assert_eq!(group("pids.max"), "200");
    if legacy {
        assert_eq!(group("cpu.cfs_quota_us"), "50000");
    } else {
        assert_eq!(group("cpu.max"), "50000 100000");
    }
    // More memory than allowed ends the program that wants it.
    let greedy = "head -c 400000000 /dev/zero | tail -c 399999999 | wc -c";
    let ended = world.run(&id, &["sh", "-c", greedy]);
    assert_ne!(ended.output.text().trim(), "399999999");
    spec.limits.memory_bytes = Some(300 << 20);
    lxc.create(&spec).unwrap();
    assert_eq!(group(memory), (300 << 20).to_string());
}

#[test]
fn time_stops_and_goes_on() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    let freezer = lxc.freezer().unwrap();
    assert!(freezer.freeze(&id).is_err());
    lxc.create(&world.spec("web1", 2)).unwrap();
    lxc.start(&id).unwrap();
    world.booted(&id);
    for _ in 0..2 {
        freezer.freeze(&id).unwrap();
        assert!(matches!(lxc.inspect(&id).unwrap(), MachineState::Frozen { .. }));
    }
    let error = lxc.exec(&id, &Exec::new(["true"]), Stdio::Caller).unwrap_err();
    assert!(matches!(error, Error::NotRunning { state: "frozen", .. }), "{error}");
    for _ in 0..2 {
        freezer.thaw(&id).unwrap();
    }
    assert_eq!(world.run(&id, &["true"]).code, 0);
    freezer.freeze(&id).unwrap();
    lxc.start(&id).unwrap();
    assert!(is_running(&lxc.inspect(&id).unwrap()));
    freezer.freeze(&id).unwrap();
    lxc.stop(&id, GRACE).unwrap();
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Halted);
    lxc.start(&id).unwrap();
    freezer.freeze(&id).unwrap();
    lxc.delete(&id).unwrap();
    world.assert_no_trace();
}

#[test]
fn files_go_in_and_come_out() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    lxc.create(&world.spec("web1", 2)).unwrap();
    lxc.start(&id).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("sub/run"), [0, 1, 255]).unwrap();
    fs::set_permissions(tree.join("sub/run"), PermissionsExt::from_mode(0o750)).unwrap();
    symlink("sub/run", tree.join("link")).unwrap();
    copies::copy_in(lxc, &id, (&tree).into(), "/srv", &Cancel::default()).unwrap();
    copies::copy_in(lxc, &id, (&tree).into(), "/srv/other", &Cancel::default()).unwrap();
    copies::copy_in(lxc, &id, (&tree.join("sub/run")).into(), "/srv/file", &Cancel::default()).unwrap();
    let listing = world.text(&id, &["stat", "-c", "%n %F %a %U", "/srv/tree/sub/run", "/srv/other/link", "/srv/file"]);
    assert_eq!(
        listing,
        "/srv/tree/sub/run regular file 750 root\n/srv/other/link symbolic link 777 root\n/srv/file regular file 750 root"
    );
    world.text(&id, &["chown", "daemon", "/srv/tree/sub/run"]);
    copies::copy_out(lxc, &id, "/srv/tree", (&folder.path().join("back")).into(), &Cancel::default()).unwrap();
    copies::copy_out(lxc, &id, "/srv/file", folder.path().into(), &Cancel::default()).unwrap();
    let back = folder.path().join("back/sub/run");
    assert_eq!(fs::read(&back).unwrap(), [0, 1, 255]);
    assert_eq!((fs::metadata(&back).unwrap().uid(), fs::metadata(&back).unwrap().mode() & 0o7777), (0, 0o750));
    assert_eq!(fs::read_link(folder.path().join("back/link")).unwrap(), Path::new("sub/run"));
    assert!(folder.path().join("file").exists());
    let error = copies::copy_out(lxc, &id, "/srv/nothing", (&folder.path().join("x")).into(), &Cancel::default()).unwrap_err();
    assert!(error.to_string().contains("exit code 2"), "{error}");
    assert!(copies::copy_in(lxc, &id, (&tree).into(), "/no/such/folder/x", &Cancel::default()).is_err());
}

#[test]
fn a_copy_has_no_other_rights_on_the_host_than_its_persons() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    lxc.create(&world.spec("web1", 2)).unwrap();
    lxc.start(&id).unwrap();
    let nobody = Account::bare(65_534, 65_534);
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("open")).unwrap();
    fs::set_permissions(at("open"), PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(at("closed"), "root alone may read this").unwrap();
    fs::set_permissions(at("closed"), PermissionsExt::from_mode(0o600)).unwrap();
    symlink(at("closed"), at("open/link")).unwrap();
    let copy_in =
        |path: &Path| copies::copy_in(lxc, &id, HostPath { path, person: Some(&nobody) }, "/srv/taken", &Cancel::default());
    let copy_out =
        |path: &Path| copies::copy_out(lxc, &id, "/etc/hostname", HostPath { path, person: Some(&nobody) }, &Cancel::default());
    assert!(copy_in(&at("closed")).is_err());
    // A link goes in as a link.
    copy_in(&at("open/link")).unwrap();
    let content = world.run(&id, &["sh", "-c", "cat /srv/taken /srv/taken/*"]);
    assert!(!String::from_utf8_lossy(&content.output.stdout).contains("root alone"), "{content:?}");
    assert!(copy_out(&at("new")).is_err() && copy_out(&at("closed")).is_err() && !at("new").exists());
    copy_out(&at("open/new")).unwrap();
    assert_eq!(fs::metadata(at("open/new")).unwrap().uid(), 65_534);
    assert_eq!(fs::read_to_string(at("closed")).unwrap(), "root alone may read this");
}

#[test]
fn hosts_and_names_change_in_a_running_machine() {
    let Some(world) = World::new() else { return };
    let (lxc, id, mut spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    lxc.create(&spec).unwrap();
    lxc.start(&id).unwrap();
    assert!(world.text(&id, &["cat", "/etc/hosts"]).contains("before"));
    spec.hosts = "127.0.0.1 localhost\n10.0.0.2 after\n".into();
    spec.nameservers = vec!["10.9.9.9".parse().unwrap()];
    lxc.create(&spec).unwrap();
    assert_eq!(world.text(&id, &["cat", "/etc/hosts"]), spec.hosts.trim());
    assert!(world.text(&id, &["cat", "/etc/resolv.conf"]).contains("nameserver 10.9.9.9"));
    assert!(world.text(&id, &["getent", "hosts", "after"]).contains("10.0.0.2"));
    world.text(&id, &["sh", "-c", "echo 10.0.0.3 own >> /etc/hosts"]);
}

#[test]
fn mounts_of_all_kinds_and_links_that_lead_astray() {
    let Some(world) = World::new() else { return };
    let (lxc, id, mut spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    let host = tempfile::tempdir().unwrap();
    fs::set_permissions(host.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let mut source = |name: &str, mode| {
        let path = host.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), name).unwrap();
        lchown(&path, Some(100_000), Some(100_000)).unwrap();
        lchown(path.join("file"), Some(100_000), Some(100_000)).unwrap();
        spec.mounts.push(Mount { source: path, target: format!("/srv/{name}/deep"), mode });
    };
    source("ro", MountMode::ReadOnly);
    source("rw", MountMode::ReadWrite);
    source("cow", MountMode::CopyOnWrite);
    lxc.create(&spec).unwrap();
    // As a hostile or merely modern rootfs has it.
    let etc = world.folder(&id).join("upper/etc");
    let victim = host.path().join("victim");
    fs::write(&victim, "host").unwrap();
    symlink(&victim, etc.join("hosts")).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
    lxc.start(&id).unwrap();
    assert_eq!(world.text(&id, &["cat", "/etc/hosts"]), spec.hosts.trim());
    assert!(world.text(&id, &["cat", "/etc/resolv.conf"]).contains("nameserver"));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "host");
    for name in ["ro", "rw", "cow"] {
        assert_eq!(world.text(&id, &["cat", &format!("/srv/{name}/deep/file")]), name);
    }
    assert_ne!(world.run(&id, &["sh", "-c", "echo x > /srv/ro/deep/file"]).code, 0);
    world.text(&id, &["sh", "-c", "echo new > /srv/rw/deep/file; echo new > /srv/cow/deep/file"]);
    assert_eq!(fs::read_to_string(host.path().join("rw/file")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(host.path().join("cow/file")).unwrap(), "cow");
    lxc.stop(&id, Duration::ZERO).unwrap();
    lxc.start(&id).unwrap();
    assert_eq!(world.text(&id, &["cat", "/srv/cow/deep/file"]), "new");
    lxc.delete(&id).unwrap();
    world.assert_no_trace();
}

#[test]
fn a_start_that_is_killed_anywhere_is_repeated_or_undone() {
    let Some(world) = World::new() else { return };
    let (lxc, id, spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    lxc.create(&spec).unwrap();
    let mut killed = 0;
    for milliseconds in [0, 1, 2, 3, 5, 7, 9, 12, 15, 18, 22, 26, 30, 40] {
        std::thread::scope(|scope| {
            let start = scope.spawn(|| lxc.start(&id));
            // The helper, found as a person would.
            std::thread::sleep(Duration::from_millis(milliseconds));
            killed += kill_helpers(&world);
            let _ = start.join().unwrap();
        });
        lxc.start(&id).unwrap_or_else(|error| panic!("after {milliseconds} ms: {error:#?}"));
        assert!(is_running(&lxc.inspect(&id).unwrap()), "after {milliseconds} ms");
        assert_eq!(world.run(&id, &["true"]).code, 0);
        lxc.stop(&id, Duration::ZERO).unwrap();
    }
    assert!(killed > 5, "the test killed next to nothing: {killed}");
    lxc.delete(&id).unwrap();
    world.assert_no_trace();
}

/// Kills helpers and monitors of this world, as an impatient person would. Tells how many.
fn kill_helpers(world: &World) -> usize {
    let marks = [world.store.path().to_string_lossy().into_owned(), world.tag().to_string()];
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).into_owned();
        if marks.iter().any(|mark| line.contains(mark)) {
            let pid = entry.file_name();
            killed += usize::from(Command::new("kill").arg("-9").arg(pid).stderr(Pipe::null()).status().unwrap().success());
            // A signal is only sent; what it ends takes its time.
            until(GRACE, || {
                let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
                (stat.is_empty() || stat.contains(") Z ")).then_some(())
            });
        }
    }
    killed
}

#[test]
fn half_created_and_orphaned_machines_can_be_deleted() {
    let Some(world) = World::new() else { return };
    let (lxc, id, spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    lxc.create(&spec).unwrap();
    fs::remove_file(world.folder(&id).join("spec.json")).unwrap();
    assert!(matches!(lxc.inspect(&id).unwrap(), MachineState::Broken { .. }));
    assert!(matches!(lxc.list().unwrap()[..], [(_, MachineState::Broken { .. })]));
    assert!(matches!(lxc.start(&id), Err(Error::Broken { .. })));
    lxc.create(&spec).unwrap();
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Halted);
    lxc.start(&id).unwrap();
    // Somebody removed the files of a running machine.
    fs::remove_dir_all(world.folder(&id)).unwrap();
    let left = lxc.machines(&world.environment).unwrap();
    assert!(matches!(left.values().collect::<Vec<_>>()[..], [MachineState::Broken { .. }]), "{left:?}");
    assert!(matches!(lxc.inspect(&id).unwrap(), MachineState::Broken { .. }));
    lxc.delete(&id).unwrap();
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Absent);
    // The monitor died, e.g. of the kernel's memory killer.
    lxc.create(&spec).unwrap();
    lxc.start(&id).unwrap();
    for path in walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten().filter(|e| e.file_name() == "web1.monitor") {
        if path.path().to_string_lossy().contains(world.tag().as_str()) {
            for pid in fs::read_to_string(path.path().join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
        }
    }
    until(GRACE, || (!is_running(&lxc.inspect(&id).unwrap())).then_some(()));
    lxc.start(&id).unwrap();
    assert_eq!(world.run(&id, &["true"]).code, 0);
    lxc.delete(&id).unwrap();
    // A delete was killed while it removed files: whoever comes back for the environment takes them away.
    let trash = world.store.path().join("machines/.trash");
    fs::create_dir_all(trash.join("1-1-1/upper/etc")).unwrap();
    assert!(lxc.machines(&world.environment).unwrap().is_empty() && !trash.exists());
    world.assert_no_trace();
}

#[test]
fn a_start_that_can_not_work_says_why_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let (lxc, id, mut spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    spec.layers = vec![Digest::from_bytes(&[9; 32])];
    assert!(matches!(lxc.create(&spec), Err(Error::LayerMissing { .. })));
    spec.layers = vec![digest()];
    spec.network.net = "adt-nowhere".into();
    lxc.create(&spec).unwrap();
    let Err(Error::Failed { tail, .. }) = lxc.start(&id) else { panic!("it started") };
    assert!(tail.iter().any(|line| line.contains("adt-nowhere")), "{tail:?}");
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Halted);
    lxc.delete(&id).unwrap();
    world.assert_no_trace();
}

#[test]
fn a_halted_machines_files_become_a_layer() {
    let Some(world) = World::new() else { return };
    let (lxc, id, spec) = (&world.lxc, world.id("build"), world.spec("build", 2));
    lxc.create(&spec).unwrap();
    lxc.start(&id).unwrap();
    world.text(&id, &["sh", "-c", "echo built > /srv/built; rm /etc/issue"]);
    let second = Digest::from_bytes(&[8; 32]);
    let layer = world.store.path().join("layers").join(second.as_str());
    fs::create_dir(&layer).unwrap();
    let layers = lxc.layers().unwrap();
    assert!(layers.commit(&id, &layer.join("rootfs")).is_err());
    lxc.stop(&id, GRACE).unwrap();
    layers.commit(&id, &layer.join("rootfs")).unwrap();
    assert_eq!(lxc.inspect(&id).unwrap(), MachineState::Absent);
    let id = world.id("web1");
    lxc.create(&MachineSpec { layers: vec![digest(), second], ..world.spec("web1", 3) }).unwrap();
    lxc.start(&id).unwrap();
    assert_eq!(world.text(&id, &["cat", "/srv/built"]), "built");
    assert_eq!(world.text(&id, &["cat", "/etc/hostname"]), "web1");
    assert_ne!(world.run(&id, &["test", "-e", "/etc/issue"]).code, 0);
    assert_eq!(world.booted(&id), "running");
}

#[test]
fn machines_start_side_by_side_and_reach_each_other() {
    let Some(world) = World::new() else { return };
    std::thread::scope(|scope| {
        for number in 1..=3 {
            let world = &world;
            scope.spawn(move || {
                let spec = world.spec(&format!("web{number}"), number + 1);
                world.lxc.create(&spec).unwrap();
                world.lxc.start(&spec.id).unwrap();
            });
        }
    });
    let found = world.lxc.list().unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|(_, state)| is_running(state)), "{found:?}");
    let target = format!("10.213.{}.3", world.net);
    until(GRACE, || (world.run(&world.id("web1"), &["ping", "-c1", "-W1", &target]).code == 0).then_some(()));
    std::thread::scope(|scope| {
        for (id, _) in &found {
            scope.spawn(|| world.lxc.delete(id).unwrap());
        }
    });
    world.assert_no_trace();
}

/// Runs one of the `#[ignore]`d children below in a process of its own, as another adt command would.
fn child(world: &World, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command.env("ADT_TEST_STORE", world.store.path()).env("ADT_TEST_INSTALL", &world.install);
    command
}

/// The provider and machine that a child is to use.
fn in_child() -> Option<(Lxc, MachineId)> {
    let store = PathBuf::from(std::env::var_os("ADT_TEST_STORE")?);
    let install = std::env::var("ADT_TEST_INSTALL").ok()?;
    let home = LxcHome { exe: store.join("adt"), store, install, ids: IDS };
    let id = EnvironmentId { platform: PlatformName::new("shop").unwrap(), name: EnvironmentName::new("1161").unwrap() };
    Some((Lxc::new(home), id.machine(&MachineName::new("web1").unwrap())))
}

#[test]
#[ignore = "started by another test"]
fn child_at_a_terminal() {
    let Some((lxc, id)) = in_child() else { return };
    let ended = lxc.exec(&id, &Exec::new(["sh"]), Stdio::Terminal).unwrap();
    println!("ended with {}", ended.code);
}

#[test]
#[ignore = "started by another test"]
fn child_at_the_console() {
    let Some((lxc, id)) = in_child() else { return };
    lxc.console().unwrap().attach(&id, None).unwrap();
    println!("left the console");
}

#[test]
#[ignore = "started by another test"]
fn child_that_waits() {
    let Some((lxc, id)) = in_child() else { return };
    let exec = Exec::new(["sh", "-c", "sleep 1234 & sleep 4321; true"]);
    lxc.exec(&id, &exec, Stdio::Pipes { stdin: None, each: &mut |_, _| {} }).unwrap();
}

/// A terminal with somebody in front of it.
struct Person {
    screen: std::sync::Arc<std::sync::Mutex<String>>,
    keys: fs::File,
    adt: std::process::Child,
}

impl Person {
    fn at(mut command: Command) -> Self {
        use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
        use std::os::unix::process::CommandExt;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let pty = openpt(flags).unwrap();
        unlockpt(&pty).unwrap();
        let tty = fs::File::from(ioctl_tiocgptpeer(&pty, flags).unwrap());
        command.stdin(tty.try_clone().unwrap()).stdout(tty.try_clone().unwrap()).stderr(tty);
        // SAFETY: two system calls that touch no memory.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let adt = command.spawn().unwrap();
        drop(command);
        let keys = fs::File::from(pty);
        let screen = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let (mut pty, shared) = (keys.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = std::io::Read::read(&mut pty, &mut buffer) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { screen, keys, adt }
    }

    fn types(&mut self, text: &str) {
        std::io::Write::write_all(&mut self.keys, text.as_bytes()).unwrap();
    }

    fn sees(&self, text: &str) {
        let deadline = Instant::now() + GRACE;
        while !self.screen.lock().unwrap().contains(text) {
            assert!(Instant::now() < deadline, "no `{text}` on the screen: {}", self.screen.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn resizes(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.keys, size).unwrap();
    }

    fn echoes(&self) -> bool {
        rustix::termios::tcgetattr(&self.keys).unwrap().local_modes.contains(rustix::termios::LocalModes::ECHO)
    }
}

#[test]
fn a_person_at_a_terminal() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    lxc.create(&world.spec("web1", 2)).unwrap();
    lxc.start(&id).unwrap();
    world.booted(&id);
    let mut person = Person::at(child(&world, "child_at_a_terminal"));
    person.sees("# ");
    assert!(!person.echoes());
    person.resizes(33, 99);
    person.types("tty; stty size; echo $((40 + 2)).\n");
    person.sees("/dev/pts/");
    person.sees("42.");
    until(GRACE, || {
        person.types("stty size\n");
        std::thread::sleep(Duration::from_millis(50));
        person.screen.lock().unwrap().contains("33 99").then_some(())
    });
    // A signal typed as a key ends the program, not the shell.
    person.types("sleep 1000; echo st''opped\n");
    std::thread::sleep(Duration::from_millis(300));
    person.types("\u{3}");
    person.types("\necho still $((1 + 1)).\n");
    person.sees("still 2.");
    person.types("exit 7\n");
    person.sees("ended with 7");
    person.adt.wait().unwrap();
    assert!(person.echoes(), "the terminal is as it was");

    // A person whose helper is killed still has a terminal.
    let mut person = Person::at(child(&world, "child_at_a_terminal"));
    person.sees("# ");
    kill_programs(&world);
    person.adt.wait().unwrap();
    assert!(person.echoes(), "the terminal is as it was");
    lxc.inspect(&id).unwrap();

    let mut person = Person::at(child(&world, "child_at_the_console"));
    until(GRACE, || {
        person.types("\n");
        std::thread::sleep(Duration::from_millis(200));
        (!person.screen.lock().unwrap().replace("running 1 test", "").trim().is_empty()).then_some(())
    });
    person.types("\u{1d}\u{1d}");
    person.sees("left the console");
    person.adt.wait().unwrap();
    assert!(person.echoes());
}

/// Kills helpers but no monitors.
fn kill_programs(world: &World) {
    let mark = world.store.path().join("adt").to_string_lossy().into_owned();
    let killed = Command::new("pkill").args(["-9", "-f", &format!("^{mark} internal:lxc")]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn a_program_ends_with_its_caller() {
    let Some(world) = World::new() else { return };
    let (lxc, id) = (&world.lxc, world.id("web1"));
    lxc.create(&world.spec("web1", 2)).unwrap();
    lxc.start(&id).unwrap();
    let mut caller = child(&world, "child_that_waits").stdout(Pipe::null()).stderr(Pipe::null()).spawn().unwrap();
    let programs = || {
        let text = world.text(&id, &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
        text.matches("sleep 1234").count() + text.matches("sleep 4321").count()
    };
    // The shell's own line has both as well.
    until(GRACE, || (programs() >= 4).then_some(()));
    caller.kill().unwrap();
    caller.wait().unwrap();
    until(GRACE, || (programs() == 0).then_some(()));
}

/// Not a test: `cargo test --release --test lxc_provider -- --ignored --nocapture measure`.
#[test]
#[ignore = "prints times"]
fn measure() {
    let Some(world) = World::new() else { return };
    let (lxc, id, spec) = (&world.lxc, world.id("web1"), world.spec("web1", 2));
    let mut times: std::collections::BTreeMap<&str, Vec<Duration>> = Default::default();
    let mut time = |what: &'static str, act: &mut dyn FnMut()| {
        let clock = Instant::now();
        act();
        times.entry(what).or_default().push(clock.elapsed());
    };
    for _ in 0..10 {
        time("create", &mut || lxc.create(&spec).unwrap());
        time("create again", &mut || lxc.create(&spec).unwrap());
        time("start", &mut || drop(lxc.start(&id).unwrap()));
        time("start a running one", &mut || drop(lxc.start(&id).unwrap()));
        world.booted(&id);
        time("inspect", &mut || drop(lxc.inspect(&id).unwrap()));
        time("exec true", &mut || assert_eq!(world.run(&id, &["true"]).code, 0));
        time("freeze", &mut || lxc.freezer().unwrap().freeze(&id).unwrap());
        time("thaw", &mut || lxc.freezer().unwrap().thaw(&id).unwrap());
        time("graceful stop", &mut || lxc.stop(&id, GRACE).unwrap());
        lxc.start(&id).unwrap();
        world.booted(&id);
        time("forced stop", &mut || lxc.stop(&id, Duration::ZERO).unwrap());
        lxc.start(&id).unwrap();
        world.booted(&id);
        time("delete running", &mut || lxc.delete(&id).unwrap());
    }
    for number in 0..500 {
        let name = EnvironmentName::new(format!("{}", number / 3)).unwrap();
        let environment = EnvironmentId { name, ..world.environment.clone() };
        let id = environment.machine(&MachineName::new(format!("web{}", number % 3)).unwrap());
        lxc.create(&MachineSpec { id, ..spec.clone() }).unwrap();
    }
    lxc.create(&spec).unwrap();
    lxc.start(&id).unwrap();
    time("list 501", &mut || assert_eq!(lxc.list().unwrap().len(), 501));
    for (what, mut times) in times {
        times.sort();
        println!("{what:20} median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
}

/// A machine decides what its health command does.
#[test]
fn a_health_command_that_never_ends_holds_nobody() {
    use adt::engine::check::probe::{Live, Probe};
    let Some(world) = World::new() else { return };
    let (lxc, spec) = (&world.lxc, world.spec("web1", 2));
    lxc.create(&spec).unwrap();
    lxc.start(&spec.id).unwrap();
    let ask = |script: &str| {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        Live.ask(lxc, &spec, &adt::model::Check::Command { argv })
    };
    let told = ask("trap '' TERM; echo on; while :; do sleep 1; done").unwrap_err();
    assert!(told.contains("does not end within"), "{told}");
    let told = ask("yes | tr -d '\\n'").unwrap_err();
    assert!(told.contains("does not end within"), "{told}");
    assert_eq!(ask("true"), Ok(()));
    let told = ask("echo why; exit 3").unwrap_err();
    assert!(told.ends_with("exits with 3: why"), "{told}");
}

/// What is as deep as a machine likes is removed all the same, by whatever command comes next.
#[test]
fn a_tree_without_end_goes_with_its_machine() {
    let Some(world) = World::new() else { return };
    let (lxc, spec) = (&world.lxc, world.spec("web1", 2));
    lxc.create(&spec).unwrap();
    lxc.start(&spec.id).unwrap();
    world.text(&spec.id, &["perl", "-e", "chdir '/srv'; for (1..20000) { mkdir 'd' or die; chdir 'd' or die }"]);
    lxc.delete(&spec.id).unwrap();
    world.assert_no_trace();
}
