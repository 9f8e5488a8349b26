//! A local user without rights tries to reach the files of a box that is being made: they have the set-id bits of their archive
//! and, until their ids are shifted, belong to the host's root. And whoever packed an archive tries to reach the host with it.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use adt::boxes::archive::{self, Mode, Room};
use adt::boxes::{Error, Layers, oci};
use adt::model::Digest;
use adt::store::Store;
use tar::EntryType;

use super::adt::Adt;

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
    unpack(&archive, &rootfs, Mode::Rootfs).expect("the archive is whole");
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

fn unpack(archive: &Path, rootfs: &Path, mode: Mode) -> Result<(), Error> {
    let cancel = AtomicBool::new(false);
    archive::unpack(archive, rootfs, mode, &mut Room::on_disk_of(rootfs, &cancel)?)
}

/// A folder to unpack into, and beside it what belongs to the host.
struct Place {
    home: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("adt-hostile-").tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
        let place = Self { home };
        std::fs::create_dir(place.rootfs()).expect("the home is new");
        std::fs::create_dir(place.at("host")).expect("the home is new");
        std::fs::write(place.at("host/secret"), "kept").expect("the home is new");
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.home.path().join(path)
    }

    fn rootfs(&self) -> PathBuf {
        self.at("rootfs")
    }

    /// Unpacks an archive that a stranger wrote.
    fn unpack(&self, tar: Tar, mode: Mode) -> Result<(), Error> {
        std::fs::write(self.at("a.tar"), tar.0).expect("there is room");
        unpack(&self.at("a.tar"), &self.rootfs(), mode)
    }

    /// Nothing of the host is another, and nothing is new beside the folder.
    #[track_caller]
    fn untouched(&self, what: &str) {
        assert_eq!(std::fs::read_to_string(self.at("host/secret")).expect("it is there"), "kept", "{what}");
        assert_eq!(std::fs::metadata(self.at("host/secret")).expect("it is there").nlink(), 1, "{what}");
        assert_eq!(std::fs::metadata(self.at("host/secret")).expect("it is there").mode() & 0o7777, 0o644, "{what}");
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).expect("it is there").flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("they are ASCII")).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.at("host")), ["secret"], "{what}");
        let beside: Vec<_> = names(self.home.path()).into_iter().filter(|name| name != "a.tar").collect();
        assert_eq!(beside, ["host", "rootfs"], "{what}");
    }

    fn holds(&self, path: &str) -> bool {
        std::fs::symlink_metadata(self.rootfs().join(path)).is_ok()
    }
}

/// The bytes of an archive, with what no program would write.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: EntryType, name: &str, link: &str, size: u64, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o4755 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        if kind == EntryType::GNUSparse {
            // A hole of four exabytes behind 512 bytes.
            header.as_gnu_mut().expect("it is one").sparse[0].set_offset(0);
            header.as_gnu_mut().expect("it is one").sparse[0].set_length(512);
            header.as_gnu_mut().expect("it is one").sparse[1].set_offset(4 << 60);
            header.as_gnu_mut().expect("it is one").sparse[1].set_length(0);
            header.as_gnu_mut().expect("it is one").set_real_size(4 << 60);
        }
        header.set_device_major(1).expect("it is one");
        header.set_device_minor(8).expect("it is one");
        header.set_cksum();
        self.0.write_all(header.as_bytes()).expect("memory takes all");
        self.0.write_all(data).expect("memory takes all");
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.entry(EntryType::Regular, name, "", text.len() as u64, text.as_bytes())
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, name, to, 0, &[])
    }

    fn hard(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Link, name, to, 0, &[])
    }
}

#[test]
fn no_entry_of_an_archive_reaches_a_file_of_the_host() {
    let host = Place::new();
    let secret = host.at("host/secret");
    let folder = host.at("host");
    let (secret, folder) = (secret.to_str().expect("it is ASCII"), folder.to_str().expect("it is ASCII"));
    let attacks: Vec<(&str, Tar)> = vec![
        ("a path upwards", Tar::default().file("../host/new", "x")),
        ("a path upwards in the middle", Tar::default().file("a/../../host/new", "x")),
        ("an absolute path", Tar::default().file(&format!("{folder}/new"), "x")),
        ("through a link upwards", Tar::default().link("a", "../host").file("a/secret", "x")),
        ("through an absolute link", Tar::default().link("a", folder).file("a/new", "x")),
        ("through a link to a link", Tar::default().link("a", "b").link("b", "../host").file("a/new", "x")),
        ("a folder through a link", Tar::default().link("a", "../host").entry(EntryType::Directory, "a/new", "", 0, &[])),
        ("a link through a link", Tar::default().link("a", "../host").link("a/secret", "/etc/passwd")),
        (
            "a folder over a link",
            Tar::default().link("a", "../host").entry(EntryType::Directory, "a/", "", 0, &[]).file("a/new", "x"),
        ),
        ("another name of a file outside", Tar::default().hard("a", "../host/secret").file("a", "x")),
        ("another name of an absolute file", Tar::default().hard("a", secret).file("a", "x")),
        ("another name through a link", Tar::default().link("d", "../host").hard("a", "d/secret").file("a", "x")),
        ("a file over a link", Tar::default().link("a", secret).file("a", "x")),
        ("a file over another name of a link", Tar::default().link("l", secret).hard("a", "l").file("a", "x")),
        ("a marker for the folder above", Tar::default().file(".wh...", "")),
        ("a marker for the folder itself", Tar::default().file("d/x", "").file("d/.wh..", "")),
        ("a marker through a link", Tar::default().link("a", "../host").file("a/.wh.secret", "")),
        ("an opaque marker through a link", Tar::default().link("a", "../host").file("a/.wh..wh..opq", "")),
        ("a device", Tar::default().entry(EntryType::Char, "dev", "", 0, &[])),
        ("a disk", Tar::default().entry(EntryType::Block, "dev", "", 0, &[])),
        ("a pipe", Tar::default().entry(EntryType::Fifo, "dev", "", 0, &[])),
    ];
    for (what, tar) in attacks {
        for mode in [Mode::Layer, Mode::Rootfs, Mode::Plain] {
            let (host, _) = (&host, std::fs::remove_dir_all(host.rootfs()));
            std::fs::create_dir(host.rootfs()).expect("the home is ours");
            std::fs::write(host.rootfs().join("before"), "of a layer below").expect("the home is ours");
            let result = host.unpack(Tar(tar.0.clone()), mode);
            host.untouched(what);
            assert!(!host.holds("dev"), "{what}");
            assert!(host.holds("before"), "{what}: {result:?}");
        }
    }
    let device = |path: &Path| {
        use std::os::unix::fs::FileTypeExt;
        std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_char_device())
    };
    assert!(!device(&host.rootfs().join("dev")));
}

#[test]
fn no_archive_fills_memory_or_disk() {
    const HUGE: u64 = 1 << 50;
    let deep = "d/".repeat(45);
    // Each link leads as deep as a name can, and each name starts at the link before.
    let mut chain = Tar::default().entry(EntryType::Directory, &deep, "", 0, &[]);
    let mut top = deep.clone();
    for number in 0..4 {
        let name = format!("l{number}");
        chain = chain.link(&name, &top);
        top = format!("{name}/{}", "e/".repeat(40));
        chain = chain.entry(EntryType::Directory, &top, "", 0, &[]);
    }
    let folders = |depth: usize| {
        let long = "d/".repeat(depth);
        let tar = Tar::default().entry(EntryType::GNULongName, "././@LongLink", "", long.len() as u64, long.as_bytes());
        tar.entry(EntryType::Directory, "d", "", 0, &[])
    };
    let pax = format!("{} size={HUGE}\n", 12 + HUGE.to_string().len() - 3);
    let attacks: Vec<(&str, Tar, &str)> = vec![
        ("a file larger than the disk", Tar::default().entry(EntryType::Regular, "big", "", HUGE, &[]), "does not fit"),
        ("a skipped entry larger than the disk", Tar::default().entry(EntryType::Char, "d", "", HUGE, &[]), "does not fit"),
        (
            "a size in the attributes",
            Tar::default().entry(EntryType::XHeader, "x", "", pax.len() as u64, pax.as_bytes()).file("big", "x"),
            "",
        ),
        ("a name without end", Tar::default().entry(EntryType::GNULongName, "x", "", HUGE, &vec![b'a'; 3 << 20]), "too long"),
        ("a link without end", Tar::default().entry(EntryType::GNULongLink, "x", "", HUGE, &vec![b'a'; 3 << 20]), "too long"),
        ("attributes without end", Tar::default().entry(EntryType::XHeader, "x", "", HUGE, &vec![b'a'; 3 << 20]), "too long"),
        ("folders in folders", folders(1000), "folders deep"),
        ("folders in folders by links", chain, "folders deep"),
        ("no end after the end", Tar(vec![0; 20 << 20]), "followed by more than"),
    ];
    let mut taken = Vec::new();
    for (what, tar, says) in attacks {
        let place = Place::new();
        match place.unpack(tar, Mode::Layer) {
            Err(error) if error.to_string().contains(says) => {}
            other => taken.push(format!("{what}: {other:?}")),
        }
        place.untouched(what);
        assert!(!place.holds("big"), "{what}");
    }
    assert!(taken.is_empty(), "{taken:#?}");
    // What is only holes takes nothing.
    let place = Place::new();
    let sparse = Tar::default().entry(EntryType::GNUSparse, "holes", "", 512, &[b'x'; 512]);
    let _ = place.unpack(sparse, Mode::Rootfs);
    let blocks = std::fs::metadata(place.rootfs().join("holes")).map_or(0, |meta| meta.blocks());
    assert!(blocks < 1000, "{blocks} blocks");
}

#[test]
fn no_image_reaches_a_file_of_the_host() {
    let zeros = "0".repeat(64);
    let index = |digest: &str| format!(r#"{{"manifests": [{{"digest": "{digest}", "mediaType": "x"}}]}}"#);
    let attacks = [
        ("a blob upwards", "index.json", index("sha256:../../../host/secret")),
        ("a blob of another kind", "index.json", index("md5:00")),
        ("a blob that is missing", "index.json", index(&format!("sha256:{zeros}"))),
        ("a layer upwards", "manifest.json", r#"[{"Config": "../host/secret", "Layers": ["../host/secret"]}]"#.to_owned()),
        ("a layer by a link", "manifest.json", r#"[{"Config": "link/secret", "Layers": ["link/secret"]}]"#.to_owned()),
        ("no layers at all", "manifest.json", "[]".to_owned()),
        ("nested without end", "index.json", "[".repeat(500_000)),
    ];
    for (what, name, text) in attacks {
        let place = Place::new();
        let image = tempfile::tempdir().expect("a test can make folders");
        std::fs::write(image.path().join(name), text).expect("it is ours");
        symlink(place.at("host"), image.path().join("link")).expect("it is ours");
        let scratch = tempfile::tempdir().expect("a test can make folders");
        let cancel = AtomicBool::new(false);
        let mut room = Room::on_disk_of(&place.rootfs(), &cancel).expect("it is there");
        let error = oci::unpack(image.path(), scratch.path(), &place.rootfs(), &mut room).expect_err(what).to_string();
        assert!(!error.contains("kept"), "{what}: {error}");
        place.untouched(what);
        assert_eq!(std::fs::read_dir(place.rootfs()).expect("it is there").count(), 0, "{what}");
    }
}

const SHOP: &str = "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"web\"\n";

#[test]
fn another_archive_than_the_recipe_wants_is_refused_before_it_is_unpacked() {
    let adt = Adt::new();
    let folder = adt.platform_toml("shop", SHOP);
    let recipe = folder.join("boxes/web");
    std::fs::create_dir_all(&recipe).expect("the folder is ours");
    let tar = Tar::default().entry(EntryType::Directory, "sbin/", "", 0, &[]).file("sbin/init", "");
    std::fs::write(recipe.join("base.tar"), &tar.0).expect("the folder is ours");
    let found = adt::boxes::inputs::file(&recipe.join("base.tar")).expect("it is there").to_string();
    let from = |more: &str| {
        std::fs::write(recipe.join("box.toml"), format!("[box]\nfrom = {{ rootfs = \"base.tar\"{more} }}\n"))
            .expect("it is ours");
    };
    from("");
    adt.run("platform:init shop").ok();
    let wanted = "0".repeat(64);
    from(&format!(", sha256 = \"{wanted}\""));
    adt.run("box:build web --platform shop").fails(3).says(&found).says(&wanted).says("base.tar");
    let layers = || {
        let entries = std::fs::read_dir(adt.store().join("layers")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    assert!(layers().is_empty(), "{:?}", layers());
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: shifting ids needs root");
        return;
    }
    from("");
    adt.run("box:build web --platform shop").ok().says(&format!("sha256 = \"{found}\""));
    from(&format!(", sha256 = \"{found}\""));
    adt.run("box:build web --platform shop --force").ok().says(&format!("its SHA-256 is `{found}`"));
}
