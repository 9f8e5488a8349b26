//! LXD: the same files as images in a pool that can make snapshots, launched by its client.
//!
//! Its machines give themselves their addresses; everything else about them is adt's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::adt::exec::Command;

use super::adt::{Machine, Model};
use super::image::{Extra, Images};
use super::probe::Target;
use super::sweep::bridge::LXD as BRIDGE;
use super::{HOME, NAME, Peer, Result, at_once, run_peer, sweep};

pub struct Lxd {
    place: PathBuf,
    machines: Vec<Machine>,
}

const SUBNET: &str = "10.229.249";

/// LXD's own images take their address by DHCP, for which ours lack udev. This is quicker.
const NETWORK: &str = "[Unit]\nBefore=network.target\nDefaultDependencies=no\n\
    [Service]\nType=oneshot\n\
    ExecStart=/bin/sh -c 'ip address add $(getent hosts $(hostname) | cut -d\" \" -f1)/24 dev eth0 && ip link set eth0 up'\n";
const WANTS: &str = "rootfs/etc/systemd/system/basic.target.wants/bench-network.service";

impl Lxd {
    pub fn new(model: &Model, images: &Images) -> Result<Self> {
        let lxd = Self { place: Path::new(HOME).join("lxd"), machines: model.machines.clone() };
        std::fs::create_dir_all(&lxd.place)?;
        let daemon = lxd.command("lxd").args(["--group", "root", "--logfile"]).arg(lxd.place.join("lxd.log"));
        sweep::spawn(&daemon, &lxd.place.join("log"))?;
        sweep::until("LXD's daemon answers", Duration::from_secs(60), || {
            lxd.command("lxd").args(["waitready", "--timeout", "5"]).run().is_ok()
        })?;
        run_peer(&lxd.command("lxd").args(["init", "--preseed"]).stdin(lxd.preseed()))?;
        lxd.import(images)?;
        Ok(lxd)
    }

    fn command(&self, program: &str) -> Command {
        let folder = |name: &str| self.place.join(name);
        let command = Command::new(program).env("LXD_DIR", folder("var")).env("LXD_CONF", folder("conf")).cwd(&self.place);
        command.env("HOME", &self.place)
    }

    fn preseed(&self) -> String {
        format!(
            "networks:\n- name: {BRIDGE}\n  type: bridge\n  config: {{ ipv4.address: {SUBNET}.1/24, ipv4.nat: 'false', \
             ipv4.firewall: 'false', ipv6.address: none, ipv6.firewall: 'false' }}\n\
             storage_pools:\n- name: default\n  driver: {}\n  config: {{ {} }}\n\
             profiles:\n- name: default\n  devices:\n    eth0: {{ name: eth0, network: {BRIDGE}, type: nic }}\n    \
             root: {{ path: /, pool: default, type: disk }}\n",
            if has_btrfs() { "btrfs" } else { "dir" },
            if has_btrfs() { "size: 10GB" } else { "" },
        )
    }

    fn import(&self, images: &Images) -> Result<()> {
        if has_btrfs() {
            super::note("LXD's pool is btrfs in a file: launching makes snapshots");
        } else {
            super::note("LXD's pool is a folder, for there is no btrfs: launching copies all files");
        }
        let about = "architecture: x86_64\ncreation_date: 1700000000\nproperties: { description: bench }\n".to_owned();
        let mut hosts = String::from("127.0.0.1 localhost\n");
        for (at, machine) in self.machines.iter().enumerate() {
            hosts.push_str(&format!("{SUBNET}.{} {} {}\n", 11 + at, machine.name, Self::instance(machine)));
        }
        let first = [Extra::Text("metadata.yaml", about)];
        let last = [
            Extra::Text("rootfs/etc/systemd/system/bench-network.service", NETWORK.into()),
            Extra::Link(WANTS, "/etc/systemd/system/bench-network.service"),
            Extra::Text("rootfs/etc/hosts", hosts),
        ];
        for (kind, tarball) in images.tarballs("lxd", "rootfs", &first, &last)? {
            run_peer(&self.command("lxc").args(["image", "import"]).arg(&tarball).args(["--alias", &format!("{NAME}-{kind}")]))?;
            std::fs::remove_file(tarball)?;
        }
        Ok(())
    }

    fn instance(machine: &Machine) -> String {
        format!("{NAME}-{}", machine.name)
    }

    fn address(&self, machine: &Machine) -> String {
        let at = self.machines.iter().position(|other| other.name == machine.name).expect("it is one of them");
        format!("{SUBNET}.{}", 11 + at)
    }
}

fn has_btrfs() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("btrfs"));
    known && super::in_path("mkfs.btrfs")
}

impl Peer for Lxd {
    fn name(&self) -> &'static str {
        "LXD's `lxc launch`, `lxc delete -f`"
    }

    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn start(&self) -> Result<()> {
        at_once(&self.machines, |machine| {
            let kind = if machine.is_web() { "web" } else { "db" };
            let address = format!("eth0,ipv4.address={}", self.address(machine));
            let memory = format!("limits.memory={}", machine.spec.limits.memory_bytes.unwrap_or(256 << 20));
            let launch = self.command("lxc").args(["launch", &format!("{NAME}-{kind}"), &Self::instance(machine)]);
            run_peer(&launch.args(["--quiet", "--device", &address, "--config", &memory]))
        })
    }

    fn targets(&self) -> Vec<Target> {
        let address = |machine: &Machine| self.address(machine).parse().expect("four numbers");
        self.machines.iter().map(|machine| machine.target(address(machine))).collect()
    }

    fn stop(&self) -> Result<()> {
        at_once(&self.machines, |machine| run_peer(&self.command("lxc").args(["delete", "-f", &Self::instance(machine)])))
    }

    fn clean(&mut self) -> Result<()> {
        Ok(())
    }
}
