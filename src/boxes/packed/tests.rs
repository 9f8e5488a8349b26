//! A tree goes into a stream and comes out of it, whichever store it lies in.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::super::layer::tests::{digest, layer};
use super::super::shift::{BASE, CAPABILITY, LISTS, namespaced};
use super::*;

static ON: AtomicBool = AtomicBool::new(false);

/// `cap_net_raw+ep`, as setcap writes it.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "in CI this must run as root: files have other owners");
    is_root
}

struct Shop {
    home: tempfile::TempDir,
    layers: Layers,
    marks: Marks,
}

impl Shop {
    fn new(marks: Marks) -> Self {
        let home = tempfile::Builder::new().prefix("adt-test-").tempdir_in("/var/tmp").unwrap();
        let layers = Layers::open(home.path()).unwrap();
        Self { home, layers, marks }
    }

    fn packing(&self) -> Packing<'_> {
        Packing { layers: &self.layers, marks: self.marks, cancel: &ON, waiting: &|_| {} }
    }

    /// A layer whose files `make` puts into its folder.
    fn make(&self, number: u8, parent: Option<u8>, make: impl FnOnce(&Path)) {
        let lock = self.layers.lock(&digest(number), None, &ON, &|| {}).unwrap();
        let draft = self.layers.begin(&digest(number), lock).unwrap();
        fs::create_dir(draft.rootfs()).unwrap();
        make(&draft.rootfs());
        super::super::shift::tree(&draft.rootfs()).unwrap();
        draft.finish(layer(number, parent)).unwrap();
    }

    fn pack(&self, number: u8) -> Vec<u8> {
        let mut packed = Vec::new();
        self.packing().pack(&digest(number), &mut packed).unwrap();
        packed
    }

    fn unpack(&self, packed: &[u8]) -> Result<Vec<Unpacked>> {
        let mut from = packed;
        let packing = self.packing();
        std::iter::from_fn(|| packing.unpack(&mut from, Path::new("x.layers")).transpose()).collect()
    }

    fn rootfs(&self, number: u8) -> PathBuf {
        self.layers.rootfs(&digest(number))
    }

    fn content(&self, number: u8) -> Content {
        self.packing().layer(&digest(number)).unwrap().content.unwrap()
    }

    /// Everything that a layer may have.
    fn one_of_each(&self, root: &Path) {
        let write = |name: &str, bytes: &[u8], mode: u32, owner: u32| {
            let path = root.join(name);
            fs::write(&path, bytes).unwrap();
            fchown(fs::File::open(&path).unwrap(), Some(BASE + owner), Some(BASE + owner)).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        fs::create_dir_all(root.join("etc/hidden/deep")).unwrap();
        fs::create_dir_all(root.join("b").join("n".repeat(200))).unwrap();
        fs::set_permissions(root.join("etc"), PermissionsExt::from_mode(0o2755)).unwrap();
        write("a", b"text", 0o640, 33);
        write("set-id", b"program", 0o6755, 0);
        write("-rf", b"", 0o600, 1);
        let ping = write("ping", b"program", 0o755, 0);
        xattr::set(&ping, CAPABILITY, &namespaced(&NET_RAW).unwrap()).unwrap();
        xattr::set(&ping, "user.note", b"with\nnewline and = \xff").unwrap();
        fs::hard_link(&ping, root.join("b/ping6")).unwrap();
        fs::hard_link(&ping, root.join("b").join("n".repeat(200)).join("m".repeat(200))).unwrap();
        write("etc/hidden/below", b"inherits no list", 0o644, 0);
        // Entries of the user 10, whose number is a newline.
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, id) in [(0x01u16, u32::MAX), (0x02, BASE + 10), (0x04, u32::MAX), (0x10, u32::MAX), (0x20, u32::MAX)] {
            list.extend(tag.to_le_bytes().into_iter().chain(5u16.to_le_bytes()).chain(id.to_le_bytes()));
        }
        for name in LISTS {
            xattr::set(root.join("etc/hidden"), name, &list).unwrap();
        }
        xattr::set(root.join("etc/hidden"), self.marks.opaque(), b"y").unwrap();
        xattr::set(root.join("etc"), format!("{}origin", self.marks.prefix()), b"here").unwrap();
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(3 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 1 << 20).unwrap();
        symlink("/nowhere/at all", root.join("link")).unwrap();
        symlink("l".repeat(300), root.join("long link")).unwrap();
        lchown(root.join("link"), Some(BASE + 7), Some(BASE + 8)).unwrap();
        let node = |name: &str, kind, device| mknodat(CWD, root.join(name), kind, Mode::RUSR | Mode::WUSR, device).unwrap();
        node("gone", FileType::CharacterDevice, makedev(0, 0));
        node("pipe", FileType::Fifo, 0);
        node("device", FileType::CharacterDevice, makedev(1, 3));
        node("socket", FileType::Socket, 0);
        let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_007));
        for name in ["a", "b", "etc", ""] {
            fs::File::open(root.join(name)).unwrap().set_times(old).unwrap();
        }
    }
}

/// What a machine would see of each file, and which names are one file.
fn facts(root: &Path, marks: Marks) -> BTreeMap<String, String> {
    let mut first = BTreeMap::new();
    let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
    walk.map(|entry| {
        let (path, meta) = (entry.path(), fs::symlink_metadata(entry.path()).unwrap());
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if meta.file_type().is_char_device() && meta.rdev() == 0 {
            return (name, "gone".to_owned());
        }
        let is_link = meta.is_symlink();
        let names = if is_link { Vec::new() } else { xattr::list(path).unwrap().collect() };
        let mut attributes: Vec<_> = names
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .filter(|name| !name.starts_with(marks.prefix()) || name == marks.opaque())
            .map(|name| (name.replace(marks.prefix(), "overlay."), xattr::get(path, &name).unwrap().unwrap()))
            .collect();
        attributes.sort();
        let bytes = match meta.file_type() {
            kind if kind.is_file() => fs::read(path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        let same = (meta.nlink() > 1 && !meta.is_dir()).then(|| first.entry(meta.ino()).or_insert(name.clone()).clone());
        let bytes = sha(&bytes);
        let fact = format!("{:o} {}:{} {} {attributes:?} {same:?} {bytes}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(),);
        (name, fact)
    })
    .collect()
}

fn sha(bytes: &[u8]) -> Digest {
    super::super::inputs::digest(&mut &bytes[..]).unwrap()
}

#[test]
fn a_layer_arrives_as_it_was_in_a_store_of_either_kind() {
    if !is_root() {
        return;
    }
    for (from, to) in [(Marks::Trusted, Marks::User), (Marks::User, Marks::Trusted), (Marks::Trusted, Marks::Trusted)] {
        let (one, two) = (Shop::new(from), Shop::new(to));
        for shop in [&one, &two] {
            shop.make(1, None, |root| fs::write(root.join("gone"), "below").unwrap());
        }
        // Stores have their layers at other times; what stands on one must be the same everywhere.
        for shop in [&one, &two] {
            let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(9);
            for path in [shop.rootfs(1).join("gone"), shop.rootfs(1)] {
                fs::File::open(path).unwrap().set_modified(old).unwrap();
            }
        }
        one.make(2, Some(1), |root| one.one_of_each(root));
        let packed = one.pack(2);
        assert!(matches!(two.unpack(&packed).unwrap().as_slice(), [Unpacked::New(_)]));
        let (mut before, after) = (facts(&one.rootfs(2), from), facts(&two.rootfs(2), to));
        // What does not travel hides what it hid.
        for name in ["device", "socket"] {
            assert!(before.insert(name.to_owned(), "gone".to_owned()).is_some());
        }
        assert_eq!(before, after);
        assert!(after["etc/hidden"].contains("overlay.opaque") && !after["etc/hidden/below"].contains("posix_acl"), "{after:#?}");
        assert!(fs::metadata(two.rootfs(2).join("sparse")).unwrap().blocks() * 512 <= 128 << 10, "its holes are holes");
        assert_eq!(one.content(2), two.content(2));
        // Again, from there: the same bytes.
        assert_eq!(packed, two.pack(2));
        assert!(matches!(two.unpack(&packed).unwrap().as_slice(), [Unpacked::There(_)]));
        assert_eq!(fs::read_dir(two.home.path().join("layers")).unwrap().count(), 2, "no draft and no lock is left");
    }
}

#[test]
fn the_content_is_of_the_files_and_of_nothing_else() {
    if !is_root() {
        return;
    }
    let shop = Shop::new(Marks::Trusted);
    let fill = |root: &Path, names: [&str; 2], hole: bool| {
        for name in names {
            fs::write(root.join(name), name).unwrap();
        }
        let zeros = fs::File::create(root.join("zeros")).unwrap();
        match hole {
            true => zeros.set_len(1 << 20).unwrap(),
            false => std::io::Write::write_all(&mut &zeros, &vec![0; 1 << 20]).unwrap(),
        }
        for name in ["x", "y", "zeros", ""] {
            fs::File::open(root.join(name)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    };
    shop.make(1, None, |root| fill(root, ["x", "y"], true));
    shop.make(2, None, |root| fill(root, ["y", "x"], false));
    assert_eq!(shop.content(1), shop.content(2));
    shop.make(3, None, |root| {
        fill(root, ["y", "x"], false);
        fs::set_permissions(root.join("x"), PermissionsExt::from_mode(0o600)).unwrap();
    });
    assert_ne!(shop.content(1), shop.content(3));
    // It is kept, and what was packed is held against it.
    let kept = shop.layers.get(&digest(1)).unwrap();
    assert_eq!(kept.content.as_ref(), Some(&shop.content(1)));
    fs::write(shop.rootfs(1).join("x"), "changed").unwrap();
    let error = shop.packing().pack(&digest(1), &mut std::io::sink()).unwrap_err();
    assert!(matches!(&error, Error::LayerDamaged { .. }), "{error}");
}

#[test]
fn other_programs_read_a_packed_layer() {
    if !is_root() {
        return;
    }
    let shop = Shop::new(Marks::Trusted);
    shop.make(1, None, |root| shop.one_of_each(root));
    let file = shop.home.path().join("x.layers");
    fs::write(&file, shop.pack(1)).unwrap();
    let words = ["-c", "zstd -d -q < \"$1\" | tar -t --verbose --xattrs", "sh"];
    let listed = crate::exec::Command::new("sh").args(words).arg(&file).run().unwrap().text();
    for part in ["etc/hidden/.wh..wh..opq", ".wh.gone", "b/ping6 link to", "ping"] {
        assert!(listed.contains(part), "{listed}");
    }
    assert!(!listed.contains("device") && !listed.contains("socket"), "{listed}");
}

#[test]
fn what_would_mean_something_else_elsewhere_is_not_packed() {
    if !is_root() {
        return;
    }
    type Make = fn(&Path);
    let cases: [(Make, &str); 5] = [
        (|root| fs::write(root.join(".wh.x"), "").unwrap(), "`.wh.x` has a name that means a removed file"),
        (|root| fs::create_dir(root.join(".wh..wh..opq")).unwrap(), "means a removed file"),
        (|root| xattr::set(root, "trusted.overlay.redirect", b"/x").unwrap(), "only the host that made it understands"),
        (|root| xattr::set(root, "user.a=b", b"").unwrap(), "whose name holds a `=`"),
        (|root| fs::create_dir_all(root.join("d/".repeat(129))).unwrap(), "more than 128 folders deep"),
    ];
    for (make, says) in cases {
        let shop = Shop::new(Marks::Trusted);
        shop.make(1, None, make);
        let error = shop.packing().pack(&digest(1), &mut std::io::sink()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(shop.layers.get(&digest(1)).unwrap().content, None);
    }
    // Marks of the other kind of host are none here, and must not become some there.
    let shop = Shop::new(Marks::Trusted);
    shop.make(1, None, |root| xattr::set(root, "user.overlay.opaque", b"y").unwrap());
    let other = Shop::new(Marks::User);
    other.unpack(&shop.pack(1)).unwrap();
    assert_eq!(xattr::get(other.rootfs(1), "user.overlay.opaque").unwrap(), None);
}

#[test]
fn a_layer_of_other_content_and_one_without_its_parent_stay_outside() {
    if !is_root() {
        return;
    }
    let (one, two) = (Shop::new(Marks::Trusted), Shop::new(Marks::Trusted));
    one.make(1, None, |root| fs::write(root.join("a"), "one").unwrap());
    one.make(2, Some(1), |root| fs::write(root.join("b"), "one").unwrap());
    let error = two.unpack(&one.pack(2)).unwrap_err();
    assert!(matches!(error, Error::ParentMissing { .. }), "{error}");
    two.make(1, None, |root| fs::write(root.join("a"), "two").unwrap());
    for packed in [one.pack(1), one.pack(2)] {
        let error = two.unpack(&packed).unwrap_err();
        assert!(matches!(error, Error::OtherContent { .. }), "{error}");
    }
    assert!(!two.layers.has(&digest(2)));
    assert_eq!(fs::read(two.rootfs(1).join("a")).unwrap(), b"two");
}

#[test]
fn two_imports_at_once_are_one() {
    if !is_root() {
        return;
    }
    let (one, two) = (Shop::new(Marks::Trusted), Shop::new(Marks::Trusted));
    one.make(1, None, |root| one.one_of_each(root));
    let packed = one.pack(1);
    let new = std::thread::scope(|scope| {
        let imports: Vec<_> = (0..4).map(|_| scope.spawn(|| two.unpack(&packed).unwrap())).collect();
        let all: Vec<_> = imports.into_iter().flat_map(|import| import.join().unwrap()).collect();
        assert_eq!(all.len(), 4);
        all.into_iter().filter(|one| matches!(one, Unpacked::New(_))).count()
    });
    assert_eq!(new, 1);
    assert_eq!(fs::read_dir(two.home.path().join("layers")).unwrap().count(), 1);
}

/// A reader that sets a flag once it has given so much.
struct Until<'a> {
    bytes: &'a [u8],
    given: usize,
    most: usize,
    flag: &'a AtomicBool,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.given >= self.most {
            self.flag.store(true, Ordering::Relaxed);
        }
        let count = (&self.bytes[self.given..]).read(buffer)?;
        self.given += count;
        Ok(count)
    }
}

#[test]
fn a_stopped_import_leaves_nothing() {
    if !is_root() {
        return;
    }
    let (one, two) = (Shop::new(Marks::Trusted), Shop::new(Marks::Trusted));
    let noise: Vec<u8> = (0..4_u32 << 20).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    one.make(1, None, |root| fs::write(root.join("noise"), &noise).unwrap());
    let packed = one.pack(1);
    let cancel = AtomicBool::new(false);
    let packing = Packing { layers: &two.layers, marks: Marks::Trusted, cancel: &cancel, waiting: &|_| {} };
    let from = Until { bytes: &packed, given: 0, most: packed.len() / 2, flag: &cancel };
    let error = packing.unpack(&mut std::io::BufReader::with_capacity(4096, from), Path::new("x")).unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    assert_eq!(fs::read_dir(two.home.path().join("layers")).unwrap().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tree_arrives(names in proptest::collection::btree_map("[ -~\n\u{e9}&&[^/]]{1,12}(/[ -~&&[^/]]{1,120}){0,3}", 0u8..6, 0..24)) {
        if !is_root() {
            return Ok(());
        }
        let (one, two) = (Shop::new(Marks::Trusted), Shop::new(Marks::User));
        one.make(1, None, |root| {
            let mut last = None;
            for (name, kind) in &names {
                let path = root.join(name);
                // A path leaves out a `.` at its end.
                if name.split('/').any(|part| part == "." || part == ".." || part.starts_with(".wh.")) {
                    continue;
                }
                if path.parent().is_none_or(|folder| fs::create_dir_all(folder).is_err()) || path.symlink_metadata().is_ok() {
                    continue;
                }
                match (kind, &last) {
                    (0, _) => fs::create_dir(&path).unwrap(),
                    (1, _) => symlink(name, &path).unwrap(),
                    (2, _) => mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap(),
                    (3, Some(first)) => fs::hard_link(first, &path).unwrap(),
                    _ => {
                        fs::write(&path, name.repeat(usize::from(*kind) * 40)).unwrap();
                        last = Some(path);
                    }
                }
            }
        });
        let packed = one.pack(1);
        two.unpack(&packed).unwrap();
        prop_assert_eq!(facts(&one.rootfs(1), Marks::Trusted), facts(&two.rootfs(1), Marks::User));
        prop_assert_eq!(&packed, &two.pack(1));
    }
}
