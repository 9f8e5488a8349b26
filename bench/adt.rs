//! adt itself, run as a user runs it, with a store of its own.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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
const BOXES: &str = "/var/tmp/adt-test-boxes/store";

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
            Ok(Machine { name: name.to_string(), config, identity, spec })
        });
        let model = Model { machines: machines.collect::<Result<_>>()?, environment };
        self.run("env:destroy hello 1 --yes")?;
        Ok(model)
    }
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
