//! A host as most people have it, in a virtual machine: what a new user does there first, and what is left when they are done. The
//! other real tests run on the host that they are started on, whatever it is: often one without systemd and AppArmor.
//!
//! The short form is in `make test`; `make test-hosts` runs the long ones as well.

mod image;
mod vm;

use std::fs;
use std::path::Path;
use std::process::Command;

use super::adt::{Adt, program};
use image::{Kind, Network};
use vm::Vm;

const BOOKWORM: Kind = Kind { suite: "bookworm", network: Network::Systemd };
const TRIXIE: Kind = Kind { suite: "trixie", network: Network::Manager };

/// One machine that shows a page.
const SMALL: &str = "[platform]
name = \"small\"
summary = \"One web server\"
[machines.web1]
box = \"web-php\"
memory = \"256M\"
[sites.www]
on = \"web1\"
port = 80
";

/// How a host gets the layers of a platform.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layers {
    /// As a file, for `box:import`.
    Packed,
    /// In its store from the start: to unpack them takes minutes under emulation.
    There,
}

/// A host of this kind with this adt, its shipped files, and a platform with its layers.
fn host(kind: Kind, platform: &str, layers: Layers) -> Option<Vm> {
    let adt = Adt::real()?;
    let given = adt.path().join("given");
    fs::create_dir(&given).expect("the home is new");
    if platform == "small" {
        adt.platform_toml("small", SMALL);
    }
    adt.run(&format!("platform:init {platform}")).ok();
    match layers {
        Layers::Packed => drop(adt.run(&format!("box:export --platform {platform} --output {}/layers", given.display())).ok()),
        Layers::There => give_layers(&adt, &given.join("store")),
    }
    fs::copy(program(), given.join("adt")).expect("it was built");
    for folder in ["boxes", "platforms", "proxy"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &given);
    }
    copy(&adt.here().join(platform), &given);
    let vm = Vm::boot(&image::of(kind), &given);
    vm.run("install /mnt/adt /usr/local/bin/adt").ok();
    // A program that was not built for release reads what it ships from the folder that it was built in.
    let shipped = env!("CARGO_MANIFEST_DIR");
    vm.run(&format!("mkdir -p {shipped} && cp -r /mnt/boxes /mnt/platforms /mnt/proxy {shipped}/")).ok();
    // All takes so much longer.
    vm.run("mkdir -p /etc/adt && echo 'grace_seconds = 300' >/etc/adt/adt.toml").ok();
    vm.run(&format!("cp -r /mnt/{platform} /root/{platform}")).ok();
    Some(vm)
}

/// The layers that the box of the small platform stands on.
fn give_layers(adt: &Adt, store: &Path) {
    fs::create_dir(store).expect("the folder is new");
    let chain = adt.run("box:show web-php --json").ok().json()["chain"].clone();
    for layer in chain.as_array().expect("a box stands on layers") {
        let digest = layer["digest"].as_str().expect("each has one");
        copy(&fs::canonicalize(adt.store().join("layers").join(digest)).expect("it was built"), store);
    }
}

fn copy(from: &Path, to: &Path) {
    image::run(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(to));
}

/// What a new user does first: the host is set up, the platform's layers come from another host, and one environment is up.
fn first_steps(vm: &Vm, platform: &str, layers: Layers) {
    vm.run("grep -q Y /sys/module/apparmor/parameters/enabled && test -e /sys/fs/cgroup/cgroup.controllers").ok();
    vm.run("test -d /run/systemd/system && ! test -e /usr/sbin/apparmor_parser").ok();
    // Nothing is there yet, and each thing that machines need is told.
    vm.run("adt host:check").fails(13).says("program apparmor_parser").says("library liblxc.so.1");
    vm.run("adt host:bootstrap").ok().says("this host is ready");
    vm.run("adt host:bootstrap").ok().says("this host has all that adt needs");
    vm.run("adt host:up --detach && adt host:bind-proxy").ok();
    match layers {
        Layers::Packed => drop(vm.run("adt box:import /mnt/layers").ok().says("layers are imported")),
        Layers::There => drop(vm.run("ln -s /mnt/store/* /var/lib/adt/layers/").ok()),
    }
    vm.run(&format!("adt platform:init /root/{platform} && adt platform:build {platform}")).ok().says("nothing to build");
    vm.run(&format!("adt env:init {platform} 1")).ok().says("is up");
    vm.run("adt host:check").ok().says("one was started, entered and taken away");
}

/// The page of the environment by its name, over https that this host trusts.
fn page(vm: &Vm, platform: &str) -> String {
    vm.run(&format!("curl --silent --show-error --fail --max-time 240 https://www.1.{platform}.example.test/")).ok().stdout
}

/// Every program of the machine has adt's profile, which is one for all, and what it closes is closed.
fn is_confined(vm: &Vm, machine: &str) {
    let inside = |script: &str| vm.run(&format!("adt env:exec 1 {machine} -- sh -c '{script}'"));
    inside("cat /proc/1/attr/current /proc/self/attr/current | sort -u | wc -l").ok().says("1");
    inside("cat /proc/1/attr/current").ok().says("adt-").says("(enforce)");
    // The covers are its root's to take off, and below them is nothing that it could read.
    inside("umount /proc/kallsyms && ! cat /proc/kallsyms").ok().says("Permission denied");
    inside("systemctl is-system-running").ok().says("running");
    vm.run("grep -c ^adt- /sys/kernel/security/apparmor/profiles").ok().says("1");
}

/// The host goes down as its owner says, and comes back with its services and its environments.
fn comes_back(vm: &mut Vm, platform: &str) {
    vm.run("adt env:exec 1 web1 -- touch /root/kept").ok();
    vm.restart();
    vm.run("systemctl is-system-running --wait; systemctl --failed --no-legend").says("running");
    vm.run("systemctl is-active adt adt-commands adt-environments").ok();
    vm.run(&format!("adt env:list {platform} --json")).ok().says("\"up\"");
    vm.run("adt env:exec 1 web1 -- test -e /root/kept").ok();
    page(vm, platform);
    vm.run("adt env:check 1").ok();
}

/// After everything was taken out, this host is as it was, but for packages and the store.
fn leaves_nothing(vm: &Vm, platform: &str) {
    vm.run("adt env:destroy 1 --yes").ok();
    vm.run(&format!("adt platform:destroy {platform} --yes && adt host:unbind-proxy && adt host:halt")).ok();
    vm.run("adt host:bootstrap --remove").ok();
    vm.run("! find /etc -newer /etc/adt/adt.toml -name '*adt*' -not -path '/etc/adt*' | grep .").ok();
    vm.run("! grep ^adt- /sys/kernel/security/apparmor/profiles && ! getent group adt").ok();
    vm.run("! ls /sys/class/net | grep ^adt && ! nft list tables | grep adt").ok();
    vm.run("! find /sys/fs/cgroup -mindepth 3 -type d -path '*/adt/*' -not -path '*/adt/pivot*' | grep .").ok();
    vm.run("! systemctl list-unit-files --no-legend | grep adt && ! systemctl --failed --no-legend | grep .").ok();
}

#[test]
fn a_usual_debian_12_runs_an_environment_and_brings_it_back() {
    let Some(mut vm) = host(BOOKWORM, "small", Layers::There) else { return };
    first_steps(&vm, "small", Layers::There);
    page(&vm, "small");
    is_confined(&vm, "web1");
    comes_back(&mut vm, "small");
    leaves_nothing(&vm, "small");
}

/// What the short form leaves out.
fn every_day(vm: &Vm) {
    assert!(page(vm, "hello").contains("Guest book of 1"));
    vm.run("cat /sys/fs/cgroup/adt/*/web1/memory.max").ok().says(&(256_u64 << 20).to_string());
    vm.run("adt env:exec 1 web1 -- touch /root/before && adt env:snapshot 1 first").ok();
    vm.run("adt env:exec 1 web1 -- rm /root/before && adt env:rewind 1 first --yes").ok();
    vm.run("adt env:exec 1 web1 -- test -e /root/before").ok();
    vm.run("adt env:check 1").ok();
    // Without sudo, and without more than the owner gives.
    vm.run("useradd --create-home ada && usermod --append --groups adt ada").ok();
    let ada = |words: &str| vm.run(&format!("su - ada -c 'adt {words}'"));
    ada("env:list").ok().says("hello");
    ada("env:exec 1 web1 -- hostname").fails(6);
    vm.run("adt env:share 1").ok();
    ada("env:exec 1 web1 -- hostname").ok().says("web1");
    // liblxc is there, its programs and folders are not.
    vm.run("dpkg --purge --force-depends liblxc-common && adt host:check").ok();
    vm.run("systemd-analyze security --no-pager --threshold=29 adt.service").ok();
    is_confined(vm, "db");
}

fn in_full(kind: Kind) {
    let Some(mut vm) = host(kind, "hello", Layers::Packed) else { return };
    first_steps(&vm, "hello", Layers::Packed);
    is_confined(&vm, "web1");
    every_day(&vm);
    comes_back(&mut vm, "hello");
    assert!(page(&vm, "hello").contains("Guest book of 1"));
    leaves_nothing(&vm, "hello");
}

#[test]
#[ignore = "takes long under emulation: make test-hosts"]
fn all_of_a_usual_debian_12() {
    in_full(BOOKWORM);
}

#[test]
#[ignore = "takes long under emulation: make test-hosts"]
fn all_of_a_usual_debian_13() {
    in_full(TRIXIE);
}
