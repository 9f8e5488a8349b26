//! Docker Compose: the same files as images, Apache and MariaDB in the foreground instead of an init.
//!
//! The daemon is our own and leaves this host's firewall alone, which makes it a little faster than usual.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::adt::exec::Command;

use super::adt::{Machine, Model};
use super::image::Images;
use super::probe::Target;
use super::sweep::bridge::DOCKER as BRIDGE;
use super::{HOME, NAME, Peer, Result, run_peer, sweep};

pub struct Docker {
    place: PathBuf,
    machines: Vec<Machine>,
}

const SUBNET: &str = "10.229.250";

impl Docker {
    pub fn new(model: &Model, images: &Images) -> Result<Self> {
        let docker = Self { place: Path::new(HOME).join("docker"), machines: model.machines.clone() };
        std::fs::create_dir_all(&docker.place)?;
        docker.daemon()?;
        for (kind, tarball) in images.tarballs("docker", "", &[], &[])? {
            run_peer(&docker.client("docker").arg("import").arg(&tarball).arg(format!("{NAME}-{kind}")))?;
            std::fs::remove_file(tarball)?;
        }
        std::fs::write(docker.place.join("docker-compose.yml"), docker.compose())?;
        Ok(docker)
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.place.join("socket").display())
    }

    fn daemon(&self) -> Result<()> {
        let mut daemon = Command::new("dockerd");
        for (option, name) in [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")] {
            daemon = daemon.arg(option).arg(self.place.join(name));
        }
        let daemon = daemon.args(["--host", &self.socket(), "--cgroup-parent", &format!("/{NAME}-docker"), "--bridge=none"]);
        let daemon = daemon.args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--userland-proxy=false"]);
        // A default in `/etc/docker` may be another's.
        let daemon = daemon.arg("--config-file").arg(self.place.join("daemon.json"));
        std::fs::write(self.place.join("daemon.json"), "{}")?;
        sweep::spawn(&daemon, &self.place.join("log"))?;
        sweep::until("Docker's daemon answers", Duration::from_secs(60), || self.client("docker").args(["version"]).run().is_ok())
    }

    fn client(&self, program: &str) -> Command {
        Command::new(program).env("DOCKER_HOST", self.socket()).env("DOCKER_CONFIG", &self.place).cwd(&self.place)
    }

    fn address(&self, at: usize) -> String {
        format!("{SUBNET}.{}", 11 + at)
    }

    fn compose(&self) -> String {
        let mut text = String::from("version: '2.4'\nservices:\n");
        for (at, machine) in self.machines.iter().enumerate() {
            let (kind, command) = if machine.is_web() {
                ("web", "apache2ctl -D FOREGROUND")
            } else {
                ("db", "sh -c 'install -d -o mysql /run/mysqld && exec mariadbd --user=mysql'")
            };
            let memory = machine.spec.limits.memory_bytes.unwrap_or(256 << 20);
            text.push_str(&format!(
                "  {0}:\n    image: {NAME}-{kind}\n    hostname: {0}\n    command: {command}\n    mem_limit: {memory}\n    \
                 networks: {{ default: {{ ipv4_address: {1} }} }}\n",
                machine.name,
                self.address(at),
            ));
        }
        text.push_str(&format!(
            "networks:\n  default:\n    driver: bridge\n    driver_opts: {{ com.docker.network.bridge.name: {BRIDGE} }}\n    \
             ipam: {{ config: [ {{ subnet: {SUBNET}.0/24, gateway: {SUBNET}.1 }} ] }}\n",
        ));
        text
    }

    fn run_compose(&self, words: &[&str]) -> Result<()> {
        run_peer(&self.client("docker-compose").args(["-p", NAME]).args(words.iter().copied()))
    }
}

impl Peer for Docker {
    fn name(&self) -> &'static str {
        "`docker-compose up -d`, `down -t 0`"
    }

    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn start(&self) -> Result<()> {
        self.run_compose(&["up", "-d"])
    }

    fn targets(&self) -> Vec<Target> {
        let target = |(at, machine): (usize, &Machine)| machine.target(self.address(at).parse().expect("four numbers"));
        self.machines.iter().enumerate().map(target).collect()
    }

    fn stop(&self) -> Result<()> {
        self.run_compose(&["down", "-v", "-t", "0"])
    }

    fn clean(&mut self) -> Result<()> {
        Ok(())
    }
}
