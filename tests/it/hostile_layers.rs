//! Whoever packed a layer tries to reach the host that takes it in: with names, links, attributes and numbers that no `box:export`
//! writes, and with heads that lie. Nothing of such a file is put in place, and nothing is left of it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use adt::boxes::packed::{Packing, Unpacked};
use adt::boxes::{Error, Layers};
use adt::disk::marks::Marks;
use adt::model::Digest;
use sha2::Digest as _;
use tar::EntryType;

use super::adt::Adt;
use super::dice::{Dice, rounds};

static ON: AtomicBool = AtomicBool::new(false);

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "in CI this must run as root");
    is_root
}

/// A store, and beside it what belongs to the host.
struct Place {
    home: tempfile::TempDir,
    layers: Layers,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("adt-hostile-").tempdir_in("/var/tmp").expect("/var/tmp takes a folder");
        std::fs::write(home.path().join("secret"), "kept").expect("the home is new");
        let layers = Layers::open(home.path()).expect("the home is new");
        Self { home, layers }
    }

    fn secret(&self) -> PathBuf {
        self.home.path().join("secret")
    }

    fn unpack(&self, mut file: &[u8]) -> Result<Option<Unpacked>, Error> {
        let packing = Packing { layers: &self.layers, marks: Marks::Trusted, cancel: &ON, waiting: &|_| {} };
        packing.unpack(&mut file, Path::new("x.layers"))
    }

    /// Nothing of the host is another, and nothing is new in the store.
    #[track_caller]
    fn untouched(&self, what: &str) {
        assert_eq!(std::fs::read_to_string(self.secret()).expect("it is there"), "kept", "{what}");
        let meta = std::fs::metadata(self.secret()).expect("it is there");
        assert_eq!((meta.nlink(), meta.mode() & 0o7777, meta.uid()), (1, 0o644, 0), "{what}");
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).expect("it is there").flatten();
            entries.map(|entry| entry.file_name().into_string().expect("they are ASCII")).collect::<Vec<_>>()
        };
        assert_eq!(names(&self.home.path().join("layers")), [""; 0], "{what}");
        let mut beside = names(self.home.path());
        beside.sort();
        assert_eq!(beside, ["layers", "secret"], "{what}");
    }
}

/// A stream as no program would write it.
#[derive(Clone, Default)]
struct Tar {
    bytes: Vec<u8>,
    entries: u64,
}

impl Tar {
    /// One with its first folder.
    fn new() -> Self {
        Self::default().folder("./")
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, owner: u64, data: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(match kind {
            EntryType::Directory => 0o755,
            EntryType::Symlink => 0o777,
            _ => 0o4755,
        });
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(data.len() as u64);
        if kind == EntryType::Char || kind == EntryType::Block {
            header.set_device_major(1).expect("it has such a field");
            header.set_device_minor(8).expect("it has such a field");
        }
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.entries += u64::from(kind != EntryType::XHeader);
        self
    }

    fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0, b"")
    }

    fn file(self, name: &str, text: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0, text.as_bytes())
    }

    fn link(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Symlink, name, to, 0, b"")
    }

    fn hard(self, name: &str, to: &str) -> Self {
        self.entry(EntryType::Link, name, to, 0, b"")
    }

    fn kind(self, name: &str, kind: EntryType) -> Self {
        self.entry(kind, name, "", 0, b"")
    }

    fn record(self, key: &str, value: &[u8]) -> Self {
        let rest = key.len() + value.len() + 3;
        let length = (1..).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).expect("one fits");
        let record = [format!("{length} {key}=").as_bytes(), value, b"\n"].concat();
        self.entry(EntryType::XHeader, "", "", 0, &record)
    }

    fn end(mut self) -> Self {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self
    }
}

/// What a head says, true or not.
struct Head {
    sha256: String,
    bytes: u64,
    entries: u64,
}

impl Head {
    fn of(tar: &Tar) -> Self {
        let sha256 = Digest::from_bytes(&sha2::Sha256::digest(&tar.bytes)).to_string();
        Self { sha256, bytes: tar.bytes.len() as u64, entries: tar.entries }
    }

    fn json(&self) -> serde_json::Value {
        let digest = Digest::from_bytes(&[7; 32]);
        serde_json::json!({
            "format": 1,
            "stands_on": null,
            "layer": {
                "name": "web", "digest": digest, "parent": null, "created": "2026-01-01T00:00:00Z", "size": 0, "summary": "",
                "packages": [], "exposes": [], "health": { "checks": [], "deadline_seconds": 1 },
                "content": { "sha256": self.sha256, "bytes": self.bytes, "entries": self.entries },
            }
        })
    }
}

fn framed(head: &[u8], tar: &[u8]) -> Vec<u8> {
    let length = u32::try_from(head.len()).expect("it is short");
    let packed = zstd::encode_all(tar, 1).expect("memory takes all");
    [&0x184D_2A5A_u32.to_le_bytes()[..], &length.to_le_bytes(), head, &packed].concat()
}

/// The file that an honest packer would make of a stream.
fn packed(tar: &Tar) -> Vec<u8> {
    framed(Head::of(tar).json().to_string().as_bytes(), &tar.bytes)
}

#[test]
fn no_entry_of_a_packed_layer_reaches_a_file_of_the_host() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let secret = place.secret();
    let secret = secret.to_str().expect("it is ASCII");
    let up = "../../../secret";
    let new = Tar::new;
    let capability = [1, 0, 0, 3, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attacks: Vec<(&str, Tar, &str)> = vec![
        ("a path upwards", new().file(up, "x"), "has a `..`"),
        ("a path upwards in the middle", new().folder("a/").file("a/../../../secret", "x"), "has a `..`"),
        ("an absolute path", new().file(secret, "x"), "has an absolute path"),
        ("an absolute path in a record", new().record("path", secret.as_bytes()).file("a", "x"), "has an absolute path"),
        ("a path with a zero", new().record("path", b"a\0b").file("a", "x"), "can't be made"),
        ("a name without end", new().record("path", &[b'a'; 300]).file("a", "x"), "can't be made"),
        ("through a link", new().link("a", "../../..").file("a/secret", "x"), "no entry before it"),
        ("a folder over a link", new().link("a", "../../..").folder("a/").file("a/secret", "x"), "there twice"),
        ("a link over a folder", new().folder("a/").link("a", "../../..").file("a/secret", "x"), "there twice"),
        ("a file over a link", new().link("a", secret).file("a", "x"), "there twice"),
        ("the first folder again", new().link("a", "b").folder("./"), "there twice"),
        ("the first folder as a link", Tar::default().link("./", "../../.."), "is no folder"),
        ("no first folder", Tar::default().file("a", "x"), "comes before"),
        ("nothing at all", Tar::default(), "is missing"),
        ("out of order", new().file("b", "x").file("a", "x"), "not in order"),
        ("a folder that is missing", new().file("a/b", "x"), "no entry before it"),
        ("a folder that is a file", new().file("a", "x").file("a/b", "x"), "no entry before it"),
        ("back into a folder", new().folder("a/").folder("b/").file("a/c", "x"), "not in order"),
        ("another name of a file upwards", new().hard("b", up), "has a `..`"),
        ("another name of an absolute file", new().hard("b", secret), "has an absolute path"),
        ("another name through a link", new().link("a", "../../..").hard("b", "a/secret"), "can't be made"),
        ("another name of a link", new().link("a", secret).hard("b", "a"), "is no plain file"),
        ("another name of a folder", new().folder("a/").hard("b", "a"), "is no plain file"),
        ("another name of itself", new().hard("b", "b"), "has not come before"),
        ("another name of what is to come", new().hard("b", "c").file("c", "x"), "has not come before"),
        ("a device", new().kind("dev", EntryType::Char), "neither file"),
        ("a disk", new().kind("dev", EntryType::Block), "neither file"),
        ("a sparse file", new().kind("dev", EntryType::GNUSparse), "neither file"),
        ("a long name of GNU", new().entry(EntryType::GNULongName, "x", "", 0, b"../x"), "holds bytes"),
        ("records for all", new().kind("x", EntryType::XGlobalHeader), "neither file"),
        ("a device as a marker", new().kind(".wh.dev", EntryType::Block), "is a marker, but"),
        ("a marker for the folder above", new().file(".wh...", ""), "takes away no file"),
        ("a marker for the folder itself", new().file(".wh..", ""), "takes away no file"),
        ("a marker for nothing", new().file(".wh.", ""), "takes away no file"),
        ("a file and its marker", new().file(".wh.a", "").file("a", "x"), "there twice"),
        ("an opaque folder too late", new().folder("a/").file("a/b", "x").file("a/.wh..wh..opq", ""), "does not follow"),
        ("an opaque folder elsewhere", new().folder("a/").file("b/.wh..wh..opq", ""), "does not follow"),
        ("a marker that holds something", new().file(".wh.a", "x"), "not what its head says"),
        ("a folder that holds something", new().entry(EntryType::Directory, "a/", "", 0, b"x"), "holds bytes"),
        ("nobody's file", new().entry(EntryType::Regular, "a", "", 65_536, b""), "which no machine has"),
        ("a file of a machine's own id", new().entry(EntryType::Regular, "a", "", 100_000, b""), "which no machine has"),
        ("another size", new().record("size", b"0").file("a", "x"), "which no layer has"),
        ("another owner", new().record("uid", b"0").file("a", "x"), "which no layer has"),
        ("a sparse map", new().record("GNU.sparse.map", b"0").file("a", "x"), "which no layer has"),
        ("a mark of the host", new().record("SCHILY.xattr.trusted.overlay.opaque", b"y").folder("a/"), "which no layer has"),
        ("a redirect", new().record("SCHILY.xattr.trusted.overlay.redirect", b"/").folder("a/"), "which no layer has"),
        ("a mark of another host", new().record("SCHILY.xattr.user.overlay.opaque", b"y").folder("a/"), "which no layer has"),
        ("a label", new().record("SCHILY.xattr.security.selinux", b"x").file("a", "x"), "which no layer has"),
        ("a host's capability", new().record("SCHILY.xattr.security.capability", &capability).file("a", "x"), "is damaged"),
        ("a damaged list", new().record("SCHILY.xattr.system.posix_acl_access", b"x").file("a", "x"), "is damaged"),
        ("a link with attributes", new().record("SCHILY.xattr.user.a", b"x").link("a", "x"), "a link with attributes"),
        ("records twice", new().record("path", b"a").record("path", b"b").file("a", "x"), "has records twice"),
        ("records of nothing", new().record("path", b"a"), "is missing"),
        ("damaged records", new().entry(EntryType::XHeader, "", "", 0, b"99 path=x\n").file("a", "x"), "damaged records"),
        ("a record of no length", new().entry(EntryType::XHeader, "", "", 0, b"0 path=x\n").file("a", "x"), "damaged records"),
        ("a short record", new().entry(EntryType::XHeader, "", "", 0, b"3 path=x\n").file("a", "x"), "damaged records"),
        ("many records", new().entry(EntryType::XHeader, "", "", 0, &vec![b'a'; 300 << 10]).file("a", "x"), "of attributes"),
    ];
    for (what, tar, says) in attacks {
        let error = place.unpack(&packed(&tar.end())).expect_err(what);
        assert!(error.to_string().contains(says) && error.to_string().contains("x.layers"), "{what}: {error}");
        place.untouched(what);
    }
    // The witness that a file made this way can get in at all, with set-id bits that are good for its machine only.
    let honest = Tar::new().folder("a/").link("a/link", secret).file("b", "x").entry(EntryType::Regular, "c", "", 33, b"x");
    let Ok(Some(Unpacked::New(layer))) = place.unpack(&packed(&honest.end())) else { panic!("an honest layer gets in") };
    let meta = std::fs::metadata(place.layers.rootfs(&layer.digest).join("c")).expect("it came");
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (100_033, 100_033, 0o4755));
}

#[test]
fn no_head_of_a_packed_layer_is_believed() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar = Tar::new().file("a", "text").file("b", &"x".repeat(9000)).end();
    let truth = || Head::of(&tar);
    let file = |head: Head| framed(head.json().to_string().as_bytes(), &tar.bytes);
    let json = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = truth().json();
        change(&mut json);
        framed(json.to_string().as_bytes(), &tar.bytes)
    };
    let whole = packed(&tar);
    let wide = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("there is memory");
        encoder.window_log(27).expect("it is a window");
        std::io::Write::write_all(&mut encoder, &tar.bytes).expect("memory takes all");
        let head = truth().json().to_string();
        let length = u32::try_from(head.len()).expect("it is short");
        let frame = encoder.finish().expect("memory takes all");
        [&0x184D_2A5A_u32.to_le_bytes()[..], &length.to_le_bytes(), head.as_bytes(), &frame].concat()
    };
    let attacks: Vec<(&str, Vec<u8>, &str)> = vec![
        ("another content", file(Head { sha256: "0".repeat(64), ..truth() }), "is not what its head says"),
        ("fewer bytes", file(Head { bytes: truth().bytes - 1024, ..truth() }), "later than its head says"),
        ("far fewer bytes", file(Head { bytes: 1024, ..truth() }), "the last that can be read"),
        ("more bytes", file(Head { bytes: u64::MAX, ..truth() }), "before its head says"),
        ("fewer entries", file(Head { entries: 1, ..truth() }), "one more than the head tells of"),
        ("more entries", file(Head { entries: 9, ..truth() }), "is not what its head says"),
        ("entries without end", file(Head { entries: u64::MAX, ..truth() }), "more than 1000000 files"),
        ("no content", json(&|json| json["layer"]["content"] = serde_json::Value::Null), "does not tell its content"),
        ("a later format", json(&|json| json["format"] = 2.into()), "is of format 2"),
        ("a name upwards", json(&|json| json["layer"]["name"] = "../x".into()), "is damaged"),
        ("a digest upwards", json(&|json| json["layer"]["digest"] = "../../secret".into()), "is damaged"),
        ("a content that is no hash", file(Head { sha256: "x".into(), ..truth() }), "is damaged"),
        (
            "a layer on itself",
            json(&|json| {
                json["layer"]["parent"] = json["layer"]["digest"].clone();
                json["stands_on"] = json["layer"]["digest"].clone();
            }),
            "leads back to itself",
        ),
        ("a parent without content", json(&|json| json["layer"]["parent"] = "0".repeat(64).into()), "without its content"),
        ("a content without parent", json(&|json| json["stands_on"] = "0".repeat(64).into()), "without its content"),
        (
            "a parent that is not here",
            json(&|json| {
                json["layer"]["parent"] = "0".repeat(64).into();
                json["stands_on"] = "0".repeat(64).into();
            }),
            "neither here nor before it",
        ),
        ("no JSON", framed(b"{", &tar.bytes), "is damaged"),
        ("JSON without end", framed("[".repeat(900_000).as_bytes(), &tar.bytes), "is damaged"),
        ("a head without end", [&whole[..4], &[0xff; 4], &whole[8..]].concat(), "is longer than 1 MB"),
        ("a plain tar", tar.bytes.clone(), "is missing"),
        ("a window of 128 MB", wide, "can be read"),
    ];
    for (what, file, says) in attacks {
        let error = place.unpack(&file).expect_err(what);
        assert!(error.to_string().contains(says), "{what}: {error}");
        place.untouched(what);
    }
}

#[test]
fn a_packed_layer_that_would_fill_the_disk_is_refused_at_its_first_entry() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    // A petabyte of zeros is some kilobytes packed, if a packer takes the time.
    let mut tar = Tar::new().file("a", "");
    let at = tar.bytes.len() - 512;
    let mut header = tar::Header::from_byte_slice(&tar.bytes[at..]).clone();
    header.set_size(1 << 50);
    header.set_cksum();
    tar.bytes[at..].copy_from_slice(header.as_bytes());
    tar.bytes.resize(tar.bytes.len() + (1 << 20), 0);
    let head = Head { bytes: 1 << 51, ..Head::of(&tar) };
    let error = place.unpack(&framed(head.json().to_string().as_bytes(), &tar.bytes)).expect_err("it is too large");
    assert!(matches!(error, Error::NoRoom { .. }), "{error}");
    place.untouched("a petabyte");
}

#[test]
fn no_damage_of_a_packed_layer_gets_in() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let tar =
        Tar::new().folder("d/").record("SCHILY.xattr.user.x", b"y\nz").file("d/a", "text").file("e", &"x".repeat(5000)).end();
    let whole = packed(&tar);
    for length in (1..whole.len()).step_by(3) {
        place.unpack(&whole[..length]).expect_err("it is cut off");
        place.untouched("cut off");
    }
    let mut dice = Dice::new();
    for _ in 0..rounds(200) {
        let mut damaged = tar.clone();
        for _ in 0..dice.roll(3) + 1 {
            let at = dice.roll(damaged.bytes.len());
            damaged.bytes[at] ^= 1 << dice.roll(8);
        }
        // With a head that tells the truth about the damaged stream, so that the entries themselves are tried.
        if let Ok(Some(Unpacked::New(layer))) = place.unpack(&packed(&damaged)) {
            place.layers.remove(&layer.digest).expect("it is there");
        }
        place.untouched("damaged");
        // And with the head of the whole one.
        let file = framed(Head::of(&tar).json().to_string().as_bytes(), &damaged.bytes);
        if let Ok(Some(Unpacked::New(layer))) = place.unpack(&file) {
            // What the damage is in is no part of the files, so the content is that of the head.
            place.layers.remove(&layer.digest).expect("it is there");
        }
        place.untouched("damaged");
    }
}

#[test]
fn the_program_takes_in_no_hostile_file_and_says_what_is_wrong() {
    if !is_root() {
        return;
    }
    let adt = Adt::new();
    let file = adt.here().join("x.layers");
    std::fs::write(&file, packed(&Tar::new().file("../../evil", "x").end())).expect("it is ours");
    adt.run("box:import x.layers").fails(3).says("../../evil").says("has a `..`").says("x.layers");
    std::fs::write(&file, "").expect("it is ours");
    adt.run("box:import x.layers").fails(3).says("it holds none");
    adt.run("box:import nothing").fails(7).says("nothing");
    let layers = std::fs::read_dir(adt.store().join("layers")).expect("it was opened").count();
    assert_eq!(layers, 0);
}
