//! A host of a test's own: its own links, firewall and mounts, on the real kernel. There a test may cut cables, flush
//! firewalls and fill disks without touching anybody else's machines. Its `/etc` and what it trusts are copies: what a test
//! writes or removes there is not the real host's.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub struct Host {
    /// Keeps the namespaces open.
    holder: Child,
}

/// sysfs shows the links of the network it was mounted in, so it is mounted anew, with the control groups and what the kernel tells of AppArmor back in place. An adt that
/// the real host has bound has its domain there and not here, and so it is with the group of who may use it.
const SETUP: &str = "set -e
    mount --make-rprivate /
    mount -t tmpfs none /mnt
    mkdir /mnt/cgroup
    mount --rbind /sys/fs/cgroup /mnt/cgroup
    mount -t sysfs sysfs /sys
    mount --move /mnt/cgroup /sys/fs/cgroup
    mount -t securityfs none /sys/kernel/security 2>/dev/null || :
    umount /mnt
    mount -t tmpfs adt-test-host /mnt
    for folder in /etc /usr/local/share/ca-certificates; do
        copy=/mnt/$(echo $folder | tr / -)
        cp -a $folder $copy
        mount --bind $copy $folder
    done
    umount -l /mnt
    if ls /usr/local/share/ca-certificates/adt-*.crt >/dev/null 2>&1; then
        rm /usr/local/share/ca-certificates/adt-*.crt
        update-ca-certificates --fresh >/dev/null 2>&1
    fi
    groupdel adt 2>/dev/null || :
    ip link set lo up
    echo ready
    exec sleep infinity";

impl Host {
    pub fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-c", SETUP])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is part of every Linux");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut line).expect("the shell tells when it is ready");
        assert_eq!(line, "ready\n", "no namespaces for a test");
        Self { holder }
    }

    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Its files as they are seen from outside.
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.holder.id()))
    }

    /// A program that will run on this host; no process stands in between.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--", program]);
        command
    }

    /// Runs a program there; it must succeed.
    #[track_caller]
    pub fn run(&self, words: &str) -> String {
        let mut words = words.split_whitespace();
        let output = self.command(words.next().expect("a program")).args(words.clone()).output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
