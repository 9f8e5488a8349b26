//! Layers that go from one store to another: what is built on one host is not built again on the next, and machines stand on it.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use adt::boxes::packed::Packing;
use adt::boxes::{Layer, Layers};
use adt::disk::marks::Marks;
use adt::model::{Digest, Health};

use super::adt::Adt;

static ON: AtomicBool = AtomicBool::new(false);

/// The layers of a box as `box:show` tells them.
fn chain(adt: &Adt, name: &str) -> serde_json::Value {
    adt.run(&format!("box:show {name} --json")).ok().json()["chain"].clone()
}

#[test]
fn boxes_of_one_store_serve_another_without_a_build() {
    let Some(sender) = Adt::real() else { return };
    sender.run("platform:init hello").ok();
    sender.run("box:export --platform hello").ok().says("layers are packed");
    let file = sender.here().join("hello.layers");
    assert_eq!(std::fs::metadata(&file).expect("it was written").mode() & 0o777, 0o600);

    let receiver = Adt::new();
    receiver.run("platform:init hello").ok();
    receiver.run(&format!("box:import {}", file.display())).ok().says("layers are imported");
    receiver.run("platform:build").ok().says("nothing to build: ").says("boxes are as the recipes say");
    let (before, after) = (chain(&sender, "web-php"), chain(&receiver, "web-php"));
    let contents = |chain: &serde_json::Value| {
        let all = chain.as_array().expect("a list").iter();
        all.map(|one| one["content"].as_str().expect("it is known now").to_owned()).collect::<Vec<_>>()
    };
    assert!(contents(&before).len() >= 3, "{before}");
    assert_eq!(contents(&before), contents(&after));
    // Once more it is nothing, and the sender may leave out what the receiver has.
    receiver.run(&format!("box:import {}", file.display())).ok().says("layers are here already");
    let known = contents(&after)[..2].join(",");
    sender.run(&format!("box:export web-php --output - --without {known} --json")).fails(2).says("writes there, too");
    sender.run(&format!("box:export web-php --output rest.layers --without {known}")).ok().says("2 layers are left out");

    receiver.run("env:init 1").ok();
    receiver.run("env:check 1 --json").well_but_for_names();
    receiver.run("env:destroy 1 --yes").ok();
}

#[test]
fn an_import_that_was_killed_leaves_what_a_prune_removes() {
    let Some(sender) = Adt::real() else { return };
    sender.run("box:export debian").ok();
    let packed = std::fs::read(sender.here().join("debian.layers")).expect("it was written");
    let receiver = Adt::new();
    let import = |bytes: &[u8], kill: bool| {
        let mut command = receiver.command(&["box:import", "-"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut to = child.stdin.take().expect("it is piped");
        to.write_all(bytes).expect("it reads all");
        if kill {
            // It has read all but what a pipe and its buffers hold, so it is in the middle of the first layer.
            child.kill().expect("it waits for more");
        }
        drop(to);
        let mut told = String::new();
        child.stderr.take().expect("it is piped").read_to_string(&mut told).expect("it tells text");
        (child.wait().expect("it ends").success(), told)
    };
    assert!(!import(&packed[..packed.len() / 4], true).0);
    let names = || {
        let entries = std::fs::read_dir(receiver.store().join("layers")).expect("it was opened").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    assert!(names().iter().any(|name| name.starts_with(".build-")), "{:?}", names());
    assert!(names().iter().all(|name| name.starts_with('.')), "{:?}", names());
    receiver.run("box:prune --yes").ok();
    assert_eq!(names(), [""; 0]);
    // Cut off, it says so; whole, it is taken.
    let (done, told) = import(&packed[..packed.len() / 4], false);
    assert!(!done && told.contains("standard input"), "{told}");
    assert_eq!(names(), [""; 0]);
    let (done, told) = import(&packed, false);
    assert!(done, "{told}");
    assert!(names().len() >= 2 && names().iter().all(|name| !name.starts_with('.')), "{:?}", names());
}

fn packing(layers: &Layers, marks: Marks) -> Packing<'_> {
    Packing { layers, marks, cancel: &ON, waiting: &|_| {} }
}

/// A layer over another, which takes away a file and hides a folder.
fn two_layers(layers: &Layers, marks: Marks) -> [Digest; 2] {
    [1, 2].map(|number| {
        let digest = Digest::from_bytes(&[number; 32]);
        let parent = (number == 2).then(|| Digest::from_bytes(&[1; 32]));
        let lock = layers.lock(&digest, None, &ON, &|| {}).expect("nobody else is here");
        let draft = layers.begin(&digest, lock).expect("there is room");
        let root = draft.rootfs();
        std::fs::create_dir_all(root.join("hidden")).expect("it is ours");
        if number == 1 {
            for name in ["gone", "stays", "hidden/below"] {
                std::fs::write(root.join(name), name).expect("it is ours");
            }
        } else {
            std::fs::write(root.join("hidden/above"), "above").expect("it is ours");
            xattr::set(root.join("hidden"), marks.opaque(), b"y").expect("this is root");
            let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::empty());
            rustix::fs::mknodat(rustix::fs::CWD, root.join("gone"), kind, mode, 0).expect("this is root");
        }
        adt::boxes::shift::tree(&root).expect("this is root");
        let (summary, health) = (String::new(), Health { checks: Vec::new(), deadline_seconds: 1 });
        let (name, created) = ("web".parse().expect("a name"), jiff::Timestamp::UNIX_EPOCH);
        let (packages, exposes) = (Vec::new(), Vec::new());
        let layer = Layer { name, digest, parent, created, size: 0, summary, packages, exposes, health, content: None };
        draft.finish(layer).expect("there is room").digest
    })
}

/// What an overlay of both shows, mounted as this host would or as one in a user namespace.
fn shown(layers: &Layers, [below, above]: &[Digest; 2], option: &str) -> String {
    let script = "mount -t overlay adt-test -o \"$1\" /mnt && cd /mnt && find . -type f | LC_ALL=C sort";
    let (below, above) = (layers.rootfs(below), layers.rootfs(above));
    let options = format!("{option}lowerdir={}:{}", above.display(), below.display());
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script, "sh", &options]).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn overlays_of_either_kind_of_host_understand_what_was_unpacked_for_them() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "in CI this must run as root");
        return;
    }
    const WANTED: &str = "./hidden/above ./stays";
    let kinds = [(Marks::Trusted, ""), (Marks::User, "userxattr,")];
    for (from, option) in kinds {
        let home = tempfile::tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
        let layers = Layers::open(home.path()).expect("it is new");
        let both = two_layers(&layers, from);
        assert_eq!(shown(&layers, &both, option), WANTED, "{from:?}");
        for (to, option) in kinds {
            let home = tempfile::tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
            let others = Layers::open(home.path()).expect("it is new");
            for digest in &both {
                let mut packed = Vec::new();
                packing(&layers, from).pack(digest, &mut packed).expect("it can travel");
                packing(&others, to).unpack(&mut packed.as_slice(), Path::new("x")).expect("it is sound");
            }
            assert_eq!(shown(&others, &both, option), WANTED, "{from:?} {to:?}");
        }
    }
}

#[test]
fn a_host_in_a_user_namespace_takes_in_layers_of_a_real_one() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "in CI this must run as root");
        return;
    }
    let home = tempfile::Builder::new().prefix("adt-test-").tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
    let layers = Layers::open(&home.path().join("sender")).expect("it is new");
    let both = two_layers(&layers, Marks::Trusted);
    let packing = packing(&layers, Marks::Trusted);
    let mut file = std::fs::File::create(home.path().join("x.layers")).expect("it is ours");
    both.iter().for_each(|digest| drop(packing.pack(digest, &mut file).expect("it can travel")));
    // Its root is another user of this host, who owns its store.
    const FIRST: u32 = 2_000_000;
    let store = home.path().join("receiver");
    std::fs::create_dir(&store).expect("the home is new");
    for path in [home.path(), &store, &home.path().join("x.layers")] {
        std::os::unix::fs::chown(path, Some(FIRST), Some(FIRST)).expect("this is root");
    }
    let mut inside = Command::new("unshare");
    inside.args(["--user", "sh", "-c", "echo there; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut inside = inside.spawn().expect("it starts");
    let mut there = [0; 6];
    inside.stdout.as_mut().expect("it is piped").read_exact(&mut there).expect("it is in its namespace then");
    let process = inside.id().to_string();
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{process}/{map}"), format!("0 {FIRST} 200000\n")).expect("this is root");
    }
    let adt = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--user", "--target", &process, "--setuid", "0", "--setgid", "0", "--"]);
        command.arg(super::adt::program()).args(words).current_dir(home.path()).env("ADT_STORE", &store);
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    adt(&["box:import", "x.layers"]);
    adt(&["box:import", "x.layers"]);
    drop(inside.stdin.take());
    inside.wait().expect("it ends with its input");
    let hidden = store.join("layers").join(both[1].as_str()).join("rootfs/hidden");
    assert_eq!(xattr::get(&hidden, "user.overlay.opaque").expect("this is root").as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr::get(&hidden, "trusted.overlay.opaque").expect("this is root"), None);
    assert_eq!(std::fs::metadata(&hidden).expect("it came").uid(), FIRST + 100_000);
}
