//! The proof that this host runs machines: one that nobody asked for is started as any other, entered, and taken away. Whatever is
//! missing for that, the kernel and liblxc say it, and no list of requirements has to know of it.
//!
//! It stands on the host's own programs, shown read-only over a layer of empty folders, so it needs no box and costs what a start
//! costs. It has a store of its own within the store, on the same disk, and no network: that is the environments' business. One that
//! was killed ends by itself, and the next one takes away what it left.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::{Error, Lxc, LxcHome, Provider, Result, Stdio, config, failed_io};
use crate::model::machine::{Mount, MountMode};
use crate::model::{
    Attachment, Digest, EnvironmentId, EnvironmentName, Exec, Health, Limits, MachineId, MachineName, MachineSpec, PlatformName,
    ProviderName,
};

/// Below the store.
const FOLDER: &str = "proof";

/// Its init, which ends by itself.
const INIT: &str = "/usr/bin/sleep 300";

/// Enough for a program or two.
const MEMORY: u64 = 32 << 20;

/// What is where on a host whose programs are all below `/usr` is a link there; where not, it is a folder.
const PROGRAMS: [&str; 5] = ["bin", "lib", "lib32", "lib64", "sbin"];

/// What else a machine's root has.
const EMPTY: [&str; 8] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "usr"];

/// `Some`: what its user should know of machines here.
pub fn run(home: &LxcHome) -> Result<Option<String>> {
    let folder = home.store.join(FOLDER);
    let told = |source| failed_io("make a machine to try", &folder)(source);
    // Two at once would be the same machine.
    let _lock = hold(&folder).map_err(told)?;
    let lxc = Lxc::new(LxcHome { store: folder.clone(), ..home.clone() });
    let id = id();
    lxc.delete(&id)?;
    clear(&folder).map_err(told)?;
    let tried = prepare(&folder, &id).map_err(told).and_then(|spec| attempt(&lxc, &spec, &folder));
    let gone = lxc.delete(&id);
    let cleared = clear(&folder).map_err(told);
    let warning = tried?;
    gone.and(cleared).map(|()| warning)
}

/// The folder is the lock, and nothing in it stays.
fn hold(folder: &Path) -> io::Result<File> {
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let lock = File::open(folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}

fn attempt(lxc: &Lxc, spec: &MachineSpec, folder: &Path) -> Result<Option<String>> {
    lxc.create(spec)?;
    let file = super::Folder::new(folder, &spec.id).join("config");
    fs::read_to_string(&file).and_then(|text| fs::write(&file, as_proof(&text))).map_err(failed_io("write", &file))?;
    let started = lxc.start(&spec.id)?;
    let ended = lxc.exec(&spec.id, &Exec::new(["/usr/bin/true"]), Stdio::Pipes { stdin: None, each: &mut |_, _| {} })?;
    if ended.code != 0 {
        let reason = format!("a program in it ended with code {}", ended.code);
        return Err(Error::Failed { verb: "exec", id: spec.id.clone(), reason, tail: ended.output.tail.lines() });
    }
    lxc.stop(&spec.id, Duration::ZERO)?;
    Ok(started.warning)
}

/// The configuration of any machine, but for its network and its init.
fn as_proof(text: &str) -> String {
    let kept: String = text.split_inclusive('\n').filter(|line| !line.starts_with("lxc.net.")).collect();
    format!("{kept}lxc.net.0.type = empty\nlxc.init.cmd = {INIT}\n")
}

fn id() -> MachineId {
    const WHY: &str = "a constant that is a label";
    let environment =
        EnvironmentId { platform: PlatformName::new("adt").expect(WHY), name: EnvironmentName::new(FOLDER).expect(WHY) };
    environment.machine(&MachineName::new("one").expect(WHY))
}

/// Its layer, and what is wanted of it.
fn prepare(store: &Path, id: &MachineId) -> io::Result<MachineSpec> {
    let layer = Digest::from_bytes(&[0; 32]);
    let root = store.join("layers").join(layer.as_str()).join("rootfs");
    fs::create_dir_all(&root)?;
    let mut mounts = vec![shown("/usr")];
    for name in PROGRAMS {
        let host = Path::new("/").join(name);
        match fs::read_link(&host) {
            Ok(target) => symlink(target, root.join(name))?,
            Err(_) if host.is_dir() => {
                fs::create_dir(root.join(name))?;
                mounts.push(shown(&host.to_string_lossy()));
            }
            Err(_) => {}
        }
    }
    for name in EMPTY {
        fs::create_dir(root.join(name))?;
    }
    lchown(&root, Some(config::FIRST_ID), Some(config::FIRST_ID))?;
    for entry in fs::read_dir(&root)? {
        lchown(entry?.path(), Some(config::FIRST_ID), Some(config::FIRST_ID))?;
    }
    Ok(spec(id, layer, mounts))
}

fn shown(path: &str) -> Mount {
    Mount { source: PathBuf::from(path), target: path.to_owned(), mode: MountMode::ReadOnly }
}

fn spec(id: &MachineId, layer: Digest, mounts: Vec<Mount>) -> MachineSpec {
    MachineSpec {
        id: id.clone(),
        provider: ProviderName::first(),
        hostname: "proof".into(),
        fqdn: "proof".into(),
        layers: vec![layer],
        seeded: 0,
        limits: Limits { memory_bytes: Some(MEMORY), ..Limits::default() },
        // Never made: a link of this name is looked for where a machine is taken away.
        network: Attachment {
            net: "adtproof".into(),
            cable: "adtproof-1".into(),
            mac: "02:ad:00:00:00:01".into(),
            v4: [127, 0, 0, 1].into(),
            v4_prefix: 8,
            v4_gateway: [127, 0, 0, 1].into(),
            v6: std::net::Ipv6Addr::LOCALHOST,
            v6_prefix: 128,
        },
        hosts: String::new(),
        nameservers: Vec::new(),
        search: Vec::new(),
        trusted: Default::default(),
        mounts,
        volumes: None,
        rewound: None,
        files: [].into(),
        health: Health { checks: vec![], deadline_seconds: 30 },
        host: false,
        spare: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_no_network_and_all_else_of_a_machine() {
        let text = as_proof("lxc.uts.name = proof\nlxc.net.0.type = veth\nlxc.net.0.link = adtproof\nlxc.seccomp.profile = /x\n");
        assert_eq!(
            text,
            "lxc.uts.name = proof\nlxc.seccomp.profile = /x\nlxc.net.0.type = empty\nlxc.init.cmd = /usr/bin/sleep 300\n"
        );
    }
}
