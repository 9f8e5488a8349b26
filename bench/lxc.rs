//! LXC's own programs with machines that are adt's in everything (layers, configuration, addresses) but two: they share one
//! range of ids, so that roots need no id-mapped mounts, and nothing covers `/proc` and `/sys`. Their bridge stands already, and
//! for the bare start their roots are mounted already.

use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};

use ::adt::exec::Command;

use super::adt::{Machine, Model};
use super::image::{Images, SHIFT};
use super::probe::Target;
use super::sweep::bridge::LXC as BRIDGE;
use super::{HOME, NAME, Peer, Result, at_once, run_peer, sweep};

/// With `newuidmap` in the path liblxc uses it, and that asks `/etc/subuid`; root needs neither. adt does the same. But
/// `lxc-copy` looks there for `rsync`.
fn lxc(program: &str) -> Command {
    let path = format!("PATH=/sbin:{}", programs().display());
    Command::new("env").args(["-i", &path, &format!("/usr/bin/{program}")])
}

fn programs() -> PathBuf {
    Path::new(HOME).join("programs")
}

fn bridge(model: &Model) -> Result<()> {
    if Path::new("/sys/class/net").join(BRIDGE).exists() {
        return Ok(());
    }
    let net = &model.machines[0].spec.network;
    let lines = format!(
        "link add name {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         address add {}/{} dev {BRIDGE}\n\
         link set dev {BRIDGE} up\n",
        net.v4_gateway, net.v4_prefix
    );
    run_peer(&Command::new("ip").args(["-batch", "-"]).stdin(lines))
}

/// A machine's folder below `place`, with adt's configuration for other names and another root.
fn configure(place: &Path, machine: &Machine, name: &str, root: &str) -> Result<PathBuf> {
    let folder = place.join(name);
    sweep::folder(&folder.join("root"))?;
    // A machine's ids are those of its start, so the text that it was started from has none.
    let mut text = format!("lxc.idmap = u 0 {SHIFT} 65536\nlxc.idmap = g 0 {SHIFT} 65536\n");
    for line in machine.config.lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once(" = ").ok_or("a setting is a key and a value")?;
        let value = match key {
            // Only adt's own start helper can be called by it.
            "lxc.hook.start-host" => continue,
            "lxc.seccomp.profile" => {
                let profile = folder.join("seccomp");
                std::fs::write(&profile, &machine.seccomp)?;
                profile.display().to_string()
            }
            "lxc.rootfs.path" => root.to_owned(),
            // Where adt has one for all of its machines.
            "lxc.rootfs.mount" => {
                let place = folder.join("mounted");
                std::fs::create_dir(&place)?;
                place.display().to_string()
            }
            "lxc.log.file" => folder.join("lxc.log").display().to_string(),
            "lxc.console.logfile" => folder.join("console.log").display().to_string(),
            "lxc.cgroup.dir.container" => format!("{NAME}/{name}"),
            "lxc.cgroup.dir.monitor" => format!("{NAME}/{name}.monitor"),
            "lxc.cgroup.dir.monitor.pivot" => format!("{NAME}.pivot"),
            "lxc.net.0.link" => BRIDGE.to_owned(),
            "lxc.net.0.veth.pair" => format!("bench-{name}"),
            _ => value.to_owned(),
        };
        text.push_str(&format!("{key} = {value}\n"));
    }
    std::fs::write(folder.join("config"), text)?;
    Ok(folder)
}

/// What adt writes or mounts into a machine before it starts.
fn identify(root: &Path, machine: &Machine) -> Result<()> {
    let etc = root.join("etc");
    std::fs::create_dir_all(&etc)?;
    chown(&etc, Some(SHIFT), Some(SHIFT))?;
    let mut resolv = String::new();
    for server in &machine.spec.nameservers {
        resolv.push_str(&format!("nameserver {server}\n"));
    }
    let files = [
        ("hostname", format!("{}\n", machine.spec.hostname)),
        ("machine-id", machine.identity.clone()),
        ("hosts", machine.spec.hosts.clone()),
        ("resolv.conf", resolv),
    ];
    for (name, text) in files {
        let path = etc.join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, text)?;
        chown(&path, Some(SHIFT), Some(SHIFT))?;
    }
    Ok(())
}

fn start(place: &Path, name: &str) -> Result<()> {
    run_peer(&lxc("lxc-start").arg("-P").arg(place).args(["-n", name]))
}

fn kill(place: &Path, name: &str) -> Result<()> {
    run_peer(&lxc("lxc-stop").arg("-P").arg(place).args(["-n", name, "-k"]))
}

fn targets(machines: &[Machine]) -> Vec<Target> {
    machines.iter().map(|machine| machine.target(machine.spec.network.v4)).collect()
}

/// `lxc-start` of machines that are there.
pub struct Bare {
    place: PathBuf,
    machines: Vec<Machine>,
}

impl Bare {
    pub fn new(model: &Model) -> Result<Self> {
        bridge(model)?;
        let place = Path::new(HOME).join("bare");
        std::fs::create_dir_all(&place)?;
        Ok(Self { place, machines: model.machines.clone() })
    }
}

impl Peer for Bare {
    fn name(&self) -> &'static str {
        "`lxc-start`, `lxc-stop -k`"
    }

    fn prepare(&mut self) -> Result<()> {
        for machine in &self.machines {
            let folder = self.place.join(&machine.name);
            let root = folder.join("root");
            configure(&self.place, machine, &machine.name, &format!("dir:{}", root.display()))?;
            for name in ["upper", "work"] {
                std::fs::create_dir(folder.join(name))?;
            }
            chown(folder.join("upper"), Some(SHIFT), Some(SHIFT))?;
            identify(&folder.join("upper"), machine)?;
            let own = folder.display();
            let options =
                format!("lowerdir={},upperdir={own}/upper,workdir={own}/work,redirect_dir=off,metacopy=off", machine.lowers());
            run_peer(&Command::new("mount").args(["-t", "overlay", NAME, "-o", &options]).arg(&root))?;
        }
        Ok(())
    }

    fn start(&self) -> Result<()> {
        at_once(&self.machines, |machine| start(&self.place, &machine.name))
    }

    fn targets(&self) -> Vec<Target> {
        targets(&self.machines)
    }

    fn stop(&self) -> Result<()> {
        at_once(&self.machines, |machine| kill(&self.place, &machine.name))
    }

    fn clean(&mut self) -> Result<()> {
        for machine in &self.machines {
            let folder = self.place.join(&machine.name);
            rustix::mount::unmount(folder.join("root"), rustix::mount::UnmountFlags::empty())?;
            std::fs::remove_dir_all(folder)?;
        }
        Ok(())
    }
}

/// `lxc-copy` of a machine that is there and `lxc-start` of the copy.
pub struct Copied {
    kind: Kind,
    place: PathBuf,
    machines: Vec<Machine>,
}

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// All files, which is what `lxc-copy` does when it is told nothing else.
    Whole,
    /// An overlay on the files of the one that is there, which must not run as long as the copy does.
    Snapshot,
}

impl Copied {
    pub fn new(model: &Model, images: &Images, kind: Kind) -> Result<Self> {
        bridge(model)?;
        let place = Path::new(HOME).join(format!("copied-{kind:?}").to_lowercase());
        std::fs::create_dir_all(&place)?;
        std::fs::create_dir_all(programs())?;
        let _ = symlink("/usr/bin/rsync", programs().join("rsync"));
        for machine in &model.machines {
            let root = images.folder(machine, &machine.name)?;
            identify(&root, machine)?;
            configure(&place, machine, &machine.name, &format!("dir:{}", root.display()))?;
        }
        Ok(Self { kind, place, machines: model.machines.clone() })
    }
}

impl Peer for Copied {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Whole => "`lxc-copy` and `lxc-start`, `lxc-destroy -f`",
            Kind::Snapshot => "`lxc-copy -s -B overlay` and `lxc-start`, `lxc-destroy -f`",
        }
    }

    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn start(&self) -> Result<()> {
        at_once(&self.machines, |machine| {
            let copy = format!("{}-copy", machine.name);
            let command = lxc("lxc-copy").arg("-P").arg(&self.place).args(["-n", &machine.name, "-N", &copy, "-M"]);
            match self.kind {
                Kind::Whole => run_peer(&command)?,
                Kind::Snapshot => {
                    run_peer(&command.args(["-s", "-B", "overlay"]))?;
                    // It is made root's, and a machine with shifted ids can't write there.
                    chown(self.place.join(&copy).join("overlay/delta"), Some(SHIFT), Some(SHIFT))?;
                }
            }
            start(&self.place, &copy)
        })
    }

    fn targets(&self) -> Vec<Target> {
        targets(&self.machines)
    }

    fn stop(&self) -> Result<()> {
        at_once(&self.machines, |machine| {
            let copy = format!("{}-copy", machine.name);
            run_peer(&lxc("lxc-destroy").arg("-P").arg(&self.place).args(["-n", &copy, "-f"]))
        })
    }

    fn clean(&mut self) -> Result<()> {
        Ok(())
    }
}
