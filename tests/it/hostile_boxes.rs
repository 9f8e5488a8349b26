//! A local user without rights tries to reach the files of a box that is being made: they have the set-id bits of their archive
//! and, until their ids are shifted, belong to the host's root.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use adt::boxes::Layers;
use adt::boxes::archive::{self, Mode};
use adt::model::Digest;
use adt::store::Store;

/// What the user's attempt ended with, and what it printed.
fn as_nobody(words: &[&str]) -> (bool, String) {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        // setpriv keeps capabilities until it starts a program, and finds that one with them.
        .args(["sh", "-c", "exec \"$0\" \"$@\""])
        .args(words);
    let output = command.output().expect("setpriv is a part of util-linux");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An archive with `id` that runs as its owner, which is root.
fn pack(path: &Path) {
    let id = ["/usr/bin/id", "/bin/id"].into_iter().find(|id| Path::new(id).exists()).expect("a host has `id`");
    let bytes = std::fs::read(id).expect("everybody may read it");
    let mut tar = tar::Builder::new(std::fs::File::create(path).expect("the folder is ours"));
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o4755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, "id", bytes.as_slice()).expect("it fits");
    tar.finish().expect("it fits");
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

fn locked_out(rootfs: &Path, layers: &Path, when: &str) {
    let program = rootfs.join("id");
    assert_eq!(std::fs::metadata(&program).expect("it was unpacked").permissions().mode() & 0o7777, 0o4755, "{when}");
    let (program, rootfs, layers) = [program.as_path(), rootfs, layers].map(|path| path.to_str().expect("it is ASCII")).into();
    for attempt in [
        &[program, "-u"] as &[&str],
        &["sh", "-c", "cd \"$1\" && ./id -u", "sh", rootfs],
        &["ln", program, "/tmp/adt-hostile-link"],
        &["cat", program],
        &["ls", rootfs],
        &["ls", layers],
        &["touch", &format!("{rootfs}/new")],
    ] {
        let (done, said) = as_nobody(attempt);
        let modes = || [layers, rootfs].map(|path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777);
        assert!(!done, "{when}: {attempt:?} worked, modes {:?}: {said:.80}", modes().map(|mode| format!("{mode:o}")));
    }
}

#[test]
fn a_local_user_reaches_no_program_of_a_box_in_the_making() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: becoming another user needs root");
        return;
    }
    let home = tempfile::tempdir().expect("a test can make folders");
    mode(home.path(), 0o755);
    let archive = home.path().join("base.tar");
    pack(&archive);
    let folder = home.path().join("store");
    drop(Store::open(&folder).expect("it is new"));
    let layers = Layers::open(&folder).expect("the store is open");
    let digest = Digest::from_bytes(&[7; 32]);
    let lock = layers.lock(&digest, None, &AtomicBool::new(false), &|| {}).expect("nobody else builds");
    let draft = layers.begin(&digest, lock).expect("there is room");
    let rootfs = draft.rootfs();
    std::fs::create_dir(&rootfs).expect("the draft is ours");
    mode(&rootfs, 0o755);
    archive::unpack(&archive, &rootfs, Mode::Rootfs).expect("the archive is whole");
    let place = folder.join("layers");

    locked_out(&rootfs, &place, "while the box is made");
    // The draft's own folder holds alone, too.
    mode(&place, 0o755);
    let (done, said) = as_nobody(&[rootfs.join("id").to_str().expect("it is ASCII"), "-u"]);
    assert!(!done && said.is_empty(), "the draft itself let the user in: {said}");
    // As an older adt's killed build left both; the witness that the attempts can work at all.
    mode(rootfs.parent().expect("it is in the draft"), 0o755);
    let (_, said) = as_nobody(&[rootfs.join("id").to_str().expect("it is ASCII"), "-u"]);
    assert!(said.trim() == "0" || nosuid(home.path()), "the attempt itself is broken: `{said}`");
    // Never dropped, like the draft of a killed process.
    std::mem::forget(draft);
    drop(Store::open(&folder).expect("the store is whole"));
    locked_out(&rootfs, &place, "after a killed build of an older adt");
}

fn nosuid(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID))
}
