//! adt itself, run as a user runs it, with a store of its own.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::adt::exec::{Command, Output};
use ::adt::model::{Digest, EnvironmentId, MachineSpec};
use ::adt::store::Store;

use super::probe::Target;
use super::{HOME, Peer, Result};

/// Part of the address space that nothing else here uses.
const POOL: &str = "10.229.0.0/17";
/// Where `host:up` serves: not where the host's own adt does.
pub const LISTEN: Ipv4Addr = Ipv4Addr::new(127, 77, 11, 61);
/// The tests' store: whoever ran those has the boxes already, and whoever comes next will.
pub const BOXES: &str = "/var/tmp/adt-test-boxes/store";

#[derive(Debug, Clone)]
pub struct Adt {
    pub store: PathBuf,
}

impl Adt {
    pub fn new(store: &str) -> Result<Self> {
        let adt = Self { store: Path::new(HOME).join(store) };
        std::fs::create_dir_all(&adt.store)?;
        for name in ["layers", "cache"] {
            let shared = Path::new(BOXES).join(name);
            std::fs::create_dir_all(&shared)?;
            symlink(shared, adt.store.join(name))?;
        }
        std::fs::write(Path::new(HOME).join("adt.toml"), "")?;
        adt.run("platform:init hello")?;
        adt.run("platform:build hello")?;
        Ok(adt)
    }

    /// The command as a value. No setting of this host may change what is measured.
    pub fn command(&self, words: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = Command::new("env").args(["-i"]).cwd(HOME);
        let mut set = |name: &str, value: &std::ffi::OsStr| {
            let mut pair = std::ffi::OsString::from(format!("{name}="));
            pair.push(value);
            command.args.push(pair);
        };
        set("PATH", &path);
        set("ADT_STORE", self.store.as_os_str());
        set("ADT_POOL_V4", POOL.as_ref());
        set("ADT_LISTEN", LISTEN.to_string().as_ref());
        set("ADT_CONFIG", Path::new(HOME).join("adt.toml").as_os_str());
        command.arg(env!("CARGO_BIN_EXE_adt")).args(words.split_whitespace())
    }

    pub fn run(&self, words: &str) -> Result<Output> {
        let command = self.command(words);
        command.run().map_err(|error| format!("{error}\n{}", error.tail().join("\n")).into())
    }

    /// A verb, and all that it told while it ran.
    pub fn events(&self, words: &str) -> Result<Events> {
        let output = self.run(&format!("{words} --json"))?;
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(Events(lines.map(serde_json::from_slice).collect::<std::result::Result<_, _>>()?))
    }

    /// A platform of the benchmarks' own, in a folder that is made for it, with its boxes.
    pub fn platform(&self, folder: &Path, text: &str) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("platform.toml"), text)?;
        self.run(&format!("platform:init {}", folder.display()))?;
        let name = text.split('"').nth(1).ok_or("a platform's first string is its name")?;
        self.run(&format!("platform:build {name}")).map(drop)
    }

    /// Where the machines of an environment are, by their names' order.
    pub fn addresses(&self, environment: &str) -> Result<Vec<Ipv4Addr>> {
        let shown = self.run(&format!("env:show {environment} --json"))?;
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
        let machines = shown["machines"].as_array().ok_or("an environment has machines")?;
        let address = |machine: &serde_json::Value| machine["addresses"][0].as_str().and_then(|text| text.parse().ok());
        machines.iter().map(|machine| address(machine).ok_or_else(|| "a machine has an address".into())).collect()
    }

    /// One environment, made and destroyed: what its machines look like is what the peers are given.
    pub fn model(&self) -> Result<Model> {
        self.run("env:init hello 1")?;
        let store = Store::open(&self.store)?;
        let id = EnvironmentId { platform: "hello".parse()?, name: "1".parse()? };
        let applied = store.database.applied(Some(&id))?;
        let environment = store.database.environment(&id)?.ok_or("the store has it")?;
        let machines = applied.into_iter().map(|(name, spec)| {
            let folder = self.store.join("machines/hello/1").join(name.as_str());
            let config = std::fs::read_to_string(folder.join("config"))?;
            let identity = std::fs::read_to_string(folder.join("upper/etc/machine-id"))?;
            let seccomp = std::fs::read_to_string(folder.join("seccomp"))?;
            Ok(Machine { name: name.to_string(), config, seccomp, identity, spec })
        });
        let model = Model { machines: machines.collect::<Result<_>>()?, environment };
        self.run("env:destroy hello 1 --yes")?;
        Ok(model)
    }
}

/// What a verb told while it ran.
pub struct Events(Vec<serde_json::Value>);

impl Events {
    /// The time of the one step that does this.
    pub fn step(&self, action: &str) -> Option<Duration> {
        let is_it = |event: &&serde_json::Value| event["event"] == "step-done" && event["step"]["action"]["action"] == action;
        self.0.iter().find(is_it).map(took)
    }

    /// The times of all that was told as a task, e.g. `unpack`; of several at the same time or in turn, the longest.
    pub fn tasks(&self) -> BTreeMap<String, Duration> {
        let mut tasks = BTreeMap::new();
        for event in self.0.iter().filter(|event| event["event"] == "task-done") {
            let text = event["text"].as_str().unwrap_or_default();
            // What a task works on (a repository's address) is no part of its name.
            let name = text.split(' ').next().unwrap_or_default().to_owned();
            let longest: &mut Duration = tasks.entry(name).or_default();
            *longest = took(event).max(*longest);
        }
        tasks
    }
}

fn took(event: &serde_json::Value) -> Duration {
    Duration::from_millis(event["milliseconds"].as_u64().unwrap_or_default())
}

/// What an environment of adt's is made of.
pub struct Model {
    pub machines: Vec<Machine>,
    pub environment: ::adt::store::Environment,
}

#[derive(Debug, Clone)]
pub struct Machine {
    pub name: String,
    /// liblxc's configuration, as adt writes it.
    pub config: String,
    /// The calls that are refused to its programs.
    pub seccomp: String,
    pub identity: String,
    pub spec: MachineSpec,
}

impl Machine {
    pub fn is_web(&self) -> bool {
        self.name.starts_with("web")
    }

    /// Its layers as overlayfs wants them.
    pub fn lowers(&self) -> String {
        let folder = |layer: &Digest| format!("{BOXES}/layers/{layer}/rootfs");
        self.spec.layers.iter().rev().map(folder).collect::<Vec<_>>().join(":")
    }

    /// Where it answers when it has this address.
    pub fn target(&self, address: Ipv4Addr) -> Target {
        let page = self.is_web().then(|| ("/healthz".to_owned(), "www.1.hello.example.test".to_owned()));
        Target { address, port: if self.is_web() { 80 } else { 3306 }, page }
    }
}

/// `env:init` and `env:destroy`.
pub struct Environment {
    adt: Adt,
    machines: Vec<Machine>,
    targets: Vec<Target>,
}

impl Environment {
    pub fn new(adt: Adt, model: &Model) -> Self {
        Self { adt, machines: model.machines.clone(), targets: Vec::new() }
    }
}

impl Peer for Environment {
    fn name(&self) -> &'static str {
        "`adt env:init`, `env:destroy`"
    }

    fn prepare(&mut self) -> Result<()> {
        // The peers' networks stand by now, and adt goes out of their way: only a first environment tells where to.
        if self.targets.is_empty() {
            self.adt.run("env:init hello 1")?;
            let shown = self.adt.run("env:show hello 1 --json")?;
            let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
            for machine in shown["machines"].as_array().ok_or("an environment has machines")? {
                let address = machine["addresses"][0].as_str().ok_or("a machine has an address")?.parse()?;
                let known = self.machines.iter().find(|known| machine["name"] == known.name.as_str());
                self.targets.push(known.ok_or("all machines are known")?.target(address));
            }
            self.adt.run("env:destroy hello 1 --yes")?;
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        self.adt.run("env:init hello 1").map(drop)
    }

    fn targets(&self) -> Vec<Target> {
        self.targets.clone()
    }

    fn stop(&self) -> Result<()> {
        self.adt.run("env:destroy hello 1 --yes").map(drop)
    }

    fn clean(&mut self) -> Result<()> {
        Ok(())
    }
}
