//! The store in a pool, on a host of its own: moved there whole whatever is killed, mounted whenever it is missing, and first
//! writes to large files of a lower layer take no space.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};

use super::adt::{Adt, built_boxes};
use super::proxy::until;

const TINY: &str = "[platform]\nname = \"tiny\"\nsummary = \"One machine\"\n\
    [machines.node]\nbox = \"debian\"\nmemory = \"128M\"\n";
const BIG: u64 = 256 << 20;
const POOL: &str = "host:bootstrap --no-service --pool 3G";
/// Machines see the ids from here on as theirs.
const FIRST_ID: u32 = 100_000;

/// A store that holds the layers of `debian` itself, not links to them, and a large file in the lowest. Returns that file.
fn with_layers_of_its_own(adt: &Adt) -> PathBuf {
    let shown = adt.run("box:show debian --json").ok().json();
    let layers = adt.store().join("layers");
    std::fs::remove_dir_all(&layers).expect("they are links");
    std::fs::remove_file(adt.store().join("cache")).expect("it is a link");
    std::fs::create_dir(&layers).expect("it was removed");
    let chain = shown["chain"].as_array().expect("a box stands on layers").iter();
    let chain: Vec<_> = chain.map(|one| one["digest"].as_str().expect("a layer's digest")).collect();
    for layer in &chain {
        // Links are made where both names are on one mount, as that host sees them.
        let mut copy = adt.program_there("cp");
        copy.arg("-al").args([built_boxes().join("layers").join(layer), adt.store.join("layers").join(layer)]);
        assert!(copy.status().expect("cp is part of every Linux").success(), "{layer}");
    }
    let file = Path::new(chain[0]).join("rootfs/root/big");
    let dice: Vec<u8> = (0..1_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut big = File::create_new(layers.join(&file)).expect("a file in the layer");
    for _ in 0..BIG >> 20 {
        std::io::Write::write_all(&mut big, &dice).expect("there is space");
    }
    std::os::unix::fs::fchown(&big, Some(FIRST_ID), Some(FIRST_ID)).expect("this is root");
    adt.store.join("layers").join(file)
}

/// A host whose configuration is nobody else's, and which no systemd runs.
fn alone() -> Option<Adt> {
    let adt = Adt::real()?.alone();
    let host = adt.host.as_ref().expect("it is alone");
    for folder in ["/etc/sysctl.d", "/etc/modules-load.d", "/run/systemd"] {
        if Path::new(folder).is_dir() {
            host.run(&format!("mount -t tmpfs none {folder}"));
        }
    }
    Some(adt)
}

fn beside(adt: &Adt, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", adt.store.display()))
}

fn pool_files(adt: &Adt) -> Vec<String> {
    let entries = std::fs::read_dir(adt.path()).expect("its home").flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with("store."));
    names
}

/// How often something is mounted at the store.
fn mounts(adt: &Adt) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{}/mounts", adt.host.as_ref().expect("it is alone").pid()));
    let place = format!(" {} xfs ", adt.store.display());
    table.expect("the host is there").lines().filter(|line| line.contains(&place)).count()
}

/// Kills the command and all that it started as soon as `now` holds.
fn bootstrap_killed_when(adt: &Adt, what: &str, now: impl Fn() -> bool) {
    let words: Vec<_> = POOL.split(' ').collect();
    let mut child = adt.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().expect("it starts");
    until(what, now);
    let group = Pid::from_raw(i32::try_from(child.id()).expect("process numbers are small")).expect("it is not 0");
    kill_process_group(group, Signal::KILL).expect("it runs");
    child.wait().expect("it is ours");
}

fn used(adt: &Adt) -> u64 {
    let stat = rustix::fs::statvfs(adt.store()).expect("it is mounted");
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[test]
fn a_store_moves_into_a_pool_lives_there_and_goes() {
    let Some(adt) = alone() else { return };
    let big = with_layers_of_its_own(&adt);
    adt.platform_toml("tiny", TINY);
    adt.run("platform:init tiny").ok();
    adt.run("env:init a").ok();
    adt.run("env:exec a node -- touch /root/kept").ok();
    adt.run("host:check").says("adt host:bootstrap --pool 50G");

    it_refuses_what_it_cannot_do(&adt);
    it_moves_whatever_is_killed(&adt);
    adt.run("host:check").says("blocks are shared (xfs, in the pool");
    adt.run("env:up a").ok();
    adt.run("env:exec a node -- test -e /root/kept").ok();
    a_first_write_takes_no_space(&adt, &adt.at(&big));
    adt.run("env:halt a").ok();
    it_is_mounted_again(&adt);
    it_goes_when_told(&adt);
}

fn it_refuses_what_it_cannot_do(adt: &Adt) {
    adt.run(POOL).fails(5).says("1 machines run from the store").says("adt platform:halt");
    adt.run("env:halt a").ok();
    adt.run("host:bootstrap --pool 50M").fails(2).says("from 1G");
    adt.run("host:bootstrap --no-service --pool 900T").fails(10).says("its disk has only");
    adt.run(&format!("{POOL} --dry-run")).ok().says("not in a pool").says("would be set up");
    let other = File::open(adt.store()).expect("it is there");
    flock(&other, FlockOperation::LockShared).expect("it can be locked");
    adt.run(POOL).fails(5).says("another command of adt works in the store");
    assert_eq!(pool_files(adt), Vec::<String>::new());
}

fn it_moves_whatever_is_killed(adt: &Adt) {
    let (draft, pool) = (beside(adt, ".pool.new"), beside(adt, ".pool"));
    bootstrap_killed_when(adt, "a draft", || draft.exists());
    adt.run("env:list").ok().says("halted");
    let filled = || std::fs::metadata(&draft).is_ok_and(|data| data.blocks() * 512 > 128 << 20);
    bootstrap_killed_when(adt, "a half filled draft", filled);
    assert!(!pool.exists());
    adt.run("env:list").ok().says("halted");
    assert_eq!(mounts(adt), 0);
    bootstrap_killed_when(adt, "the pool", || pool.exists());
    adt.run("env:list").ok().says("halted");
    assert_eq!(mounts(adt), 1);
    adt.run(POOL).ok();
    adt.run(POOL).ok().says("this host has all that adt needs");
    adt.run("host:bootstrap --no-service --pool 4G").ok().says("is of 3G and stays so");
    assert_eq!(pool_files(adt), ["store.pool"]);
    assert_eq!(std::fs::metadata(&pool).expect("it is there").mode() & 0o777, 0o600, "only root may read it");
}

fn a_first_write_takes_no_space(adt: &Adt, big: &Path) {
    let before = used(adt);
    adt.run("env:exec a node -- truncate --no-create --size +1 /root/big").ok();
    adt.run("env:exec a node -- sync").ok();
    let grown = used(adt).saturating_sub(before);
    assert!(grown < BIG / 8, "the pool grew by {grown} bytes");
    let seen = adt.run("env:exec a node -- stat -c size=%s /root/big").ok();
    seen.says(&format!("size={}", BIG + 1));
    assert_eq!(std::fs::metadata(big).expect("the layer has it").len(), BIG);
}

fn it_is_mounted_again(adt: &Adt) {
    let host = adt.host.as_ref().expect("it is alone");
    let store = adt.store.display();
    host.run(&format!("umount {store}"));
    assert_eq!(std::fs::read_dir(adt.store()).expect("the folder stays").count(), 0, "nothing of the store is left beneath");
    let start = || adt.command(&["env:list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    for child in [start(), start(), start(), start()] {
        let output = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("halted"), "{told}");
    }
    assert_eq!(mounts(adt), 1);

    host.run(&format!("umount {store}"));
    let foreign = adt.store().join("somebody's");
    File::create(&foreign).expect("the folder takes a file");
    adt.run("env:list").fails(5).says("is not empty, and what is in it is not the pool's");
    std::fs::remove_file(&foreign).expect("it was left alone");
    adt.run("env:list").ok().says("halted");
}

fn it_goes_when_told(adt: &Adt) {
    adt.run("host:bootstrap --remove").fails(5).says("still need it");
    adt.run("env:destroy a --yes").ok();
    adt.run("host:bootstrap --remove").ok().says("1 platforms").says("--remove-pool");
    assert_eq!(pool_files(adt), ["store.pool"]);
    adt.run("platform:list").ok().says("tiny");
    let mut left = adt.leftovers();
    let own = format!(" {} ", adt.store.display());
    left.retain(|one| !(one.starts_with("mount ") && one.contains(&own)));
    assert_eq!(left, Vec::<String>::new());
    adt.run("host:bootstrap --remove --remove-pool --dry-run").ok().says("removing the pool");
    assert_eq!(pool_files(adt), ["store.pool"]);
    adt.run("host:bootstrap --remove --remove-pool").ok().says("removing the pool");
    assert_eq!((pool_files(adt), mounts(adt)), (Vec::<String>::new(), 0));
    until("no loop device holds the pool", || {
        let devices = std::fs::read_dir("/sys/block").expect("there are devices").flatten();
        let mut files = devices.filter_map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")).ok());
        !files.any(|file| file.contains(&*adt.path().to_string_lossy()))
    });
}
