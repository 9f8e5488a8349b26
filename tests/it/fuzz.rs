//! Damaged bytes for everything that reads what strangers wrote: archives, images, definitions, logs. The servers' own are
//! in [`super::proxy`] and in `dns`, git's words in `sources`.
//!
//! Here no answer is right or wrong but these: nothing panics, nothing waits, and what is taken is what it claims to be.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use adt::boxes::archive::{self, Mode, Room};
use adt::boxes::{inputs, oci};
use adt::config::{platform, recipe};
use adt::logs::file::{Line, Reader};
use adt::logs::show::Columns;
use adt::logs::stamp::{Known, stamp};
use adt::logs::{Origin, Place, Record, access, journal, splunk, syslog};
use adt::model::{BoxName, Fault};
use jiff::tz::TimeZone;

use crate::dice::{Dice, rounds};

/// A folder in which things are unpacked, beside a file that is nobody's business.
struct Yard {
    home: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a test can make folders");
        std::fs::write(home.path().join("secret"), "kept").expect("it is ours");
        Self { home }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// An empty folder.
    fn fresh(&self, name: &str) -> PathBuf {
        let folder = self.at(name);
        adt::disk::tree::remove(&folder).expect("whatever was unpacked can be removed");
        std::fs::create_dir(&folder).expect("it is gone");
        folder
    }

    #[track_caller]
    fn check(&self, rootfs: &Path, round: usize) {
        assert_eq!(std::fs::read(self.at("secret")).expect("it is there"), b"kept", "round {round}");
        for entry in std::fs::read_dir(self.home.path()).expect("it is ours").flatten() {
            let name = entry.file_name();
            assert!(
                ["secret", "a", "rootfs", "scratch", "image"].iter().any(|own| name == *own),
                "round {round}: {name:?} is new"
            );
        }
        for entry in walkdir::WalkDir::new(rootfs).into_iter().flatten() {
            let kind = entry.file_type();
            let odd = kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket();
            assert!(!odd && entry.depth() <= 128, "round {round}: {}", entry.path().display());
        }
    }
}

/// Archives with an entry of every kind, as programs of today and of old write them.
fn archives() -> Vec<Vec<u8>> {
    let headers = [tar::Header::new_gnu(), tar::Header::new_ustar(), tar::Header::new_old()];
    headers
        .map(|header| {
            let mut tar = tar::Builder::new(Vec::new());
            let entry = |kind: tar::EntryType, size: usize| {
                let mut header = header.clone();
                header.set_entry_type(kind);
                header.set_mode(0o4755);
                header.set_uid(rustix::process::geteuid().as_raw().into());
                header.set_gid(rustix::process::getegid().as_raw().into());
                header.set_size(size as u64);
                header
            };
            let long = format!("{}/f", "long".repeat(40));
            let is_gnu = header.as_gnu().is_some();
            tar.append_data(&mut entry(tar::EntryType::Directory, 0), "etc/", &[][..]).expect("memory takes all");
            tar.append_data(&mut entry(tar::EntryType::Regular, 4), "etc/file", &b"text"[..]).expect("memory takes all");
            tar.append_link(&mut entry(tar::EntryType::Symlink, 0), "etc/link", "../..").expect("memory takes all");
            tar.append_link(&mut entry(tar::EntryType::Link, 0), "hard", "etc/file").expect("memory takes all");
            tar.append_data(&mut entry(tar::EntryType::Regular, 0), "etc/.wh.file", &[][..]).expect("memory takes all");
            tar.append_data(&mut entry(tar::EntryType::Regular, 0), "etc/.wh..wh..opq", &[][..]).expect("memory takes all");
            tar.append_data(&mut entry(tar::EntryType::Char, 0), "null", &[][..]).expect("memory takes all");
            if is_gnu {
                tar.append_pax_extensions([("SCHILY.xattr.user.a", &b"b"[..]), ("path", b"other")]).expect("memory takes all");
                tar.append_data(&mut entry(tar::EntryType::Regular, 1), &long, &b"x"[..]).expect("memory takes all");
            }
            tar.into_inner().expect("memory takes all")
        })
        .into()
}

/// What those who attack readers of archives write. The sums of headers are mended below, or nothing would get far.
const ENTRIES: &[&[u8]] = &[
    b"../",
    b"/",
    b"./",
    b"..",
    b".wh...",
    b".wh..",
    b".wh.",
    b"etc/link/x\0",
    b"\0\0\0\0\0\0\0\0",
    b"77777777777\0",
    b"\x80\x7f",
];

/// Headers get their sum back, so that what is in them is read at all.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" || block[148..156].iter().all(|byte| byte.is_ascii_digit() || b" \0".contains(byte)) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// A byte or a word in place: the blocks of an archive stay where they are.
fn scribble(dice: &mut Dice, tar: &mut [u8]) {
    for _ in 0..1 + dice.roll(4) {
        // The part of a block in which there is anything.
        let at = dice.roll(tar.len() / 512) * 512 + dice.roll(350);
        if dice.roll(3) == 0 {
            tar[at] = dice.roll(256) as u8;
        } else {
            let word = dice.pick(ENTRIES);
            tar[at..at + word.len()].copy_from_slice(word);
        }
        // The kind of an entry decides most.
        if dice.roll(3) == 0 {
            let kinds = b"0123456LKxgSV\0";
            let at = at / 512 * 512 + 156;
            tar[at] = kinds[dice.roll(kinds.len())];
        }
    }
}

#[test]
fn damaged_archives_stay_in_their_folder() {
    let (yard, seeds, cancel) = (Yard::new(), archives(), AtomicBool::new(false));
    let mut dice = Dice::new();
    let mut taken = 0;
    for round in 0..rounds(1000) {
        let mut tar = seeds[dice.roll(seeds.len())].clone();
        if dice.roll(4) > 0 {
            scribble(&mut dice, &mut tar);
            mend(&mut tar);
        } else {
            dice.damage(&mut tar, ENTRIES);
        }
        std::fs::write(yard.at("a"), &tar).expect("it is ours");
        let rootfs = yard.fresh("rootfs");
        let mode = [Mode::Rootfs, Mode::Layer, Mode::Plain][dice.roll(3)];
        let mut room = Room::on_disk_of(&rootfs, &cancel).expect("it is there");
        taken += usize::from(archive::unpack(&yard.at("a"), &rootfs, mode, &mut room).is_ok());
        yard.check(&rootfs, round);
    }
    println!("{} rounds, {taken} archives were taken", rounds(1000));
    assert!(taken > rounds(1000) / 50, "hardly any archive was read to its end");
}

/// An image layout and what `docker save` writes of the same layer.
fn image(folder: &Path) {
    let put = |bytes: &[u8]| {
        let path = folder.join("new");
        std::fs::write(&path, bytes).expect("it is ours");
        let name = inputs::file(&path).expect("it is there").to_string();
        std::fs::create_dir_all(folder.join("blobs/sha256")).expect("it is ours");
        std::fs::rename(path, folder.join("blobs/sha256").join(&name)).expect("it is ours");
        name
    };
    let layer = put(&archives()[0]);
    let config = put(format!(r#"{{"rootfs": {{"type": "layers", "diff_ids": ["sha256:{layer}"]}}}}"#).as_bytes());
    let manifest = put(format!(r#"{{"layers": [{{"mediaType": "x", "digest": "sha256:{layer}"}}]}}"#).as_bytes());
    let platform = r#"{"architecture": "amd64", "os": "linux"}"#;
    let index = format!(r#"{{"manifests": [{{"digest": "sha256:{manifest}", "platform": {platform}}}]}}"#);
    std::fs::write(folder.join("index.json"), index).expect("it is ours");
    let saved = format!(r#"[{{"Config": "blobs/sha256/{config}", "Layers": ["blobs/sha256/{layer}"]}}]"#);
    std::fs::write(folder.join("manifest.json"), saved).expect("it is ours");
}

#[test]
fn damaged_images_stay_in_their_folder() {
    let words: &[&[u8]] =
        &[b"../", b"/", b"sha256:", b"\"", b"[", b"{", b"}", b"]", b",", b"null", b"0", b"secret", b"manifest.list"];
    let (yard, cancel) = (Yard::new(), AtomicBool::new(false));
    let mut dice = Dice::new();
    for round in 0..rounds(300) {
        let folder = yard.fresh("image");
        image(&folder);
        if dice.roll(2) == 0 {
            std::fs::remove_file(folder.join("index.json")).expect("it is there");
        }
        let blobs = std::fs::read_dir(folder.join("blobs/sha256")).expect("it is there").flatten().map(|entry| entry.path());
        let mut files: Vec<_> = blobs.chain(["index.json", "manifest.json"].map(|name| folder.join(name))).collect();
        files.retain(|path| path.exists());
        files.sort();
        let path = &files[dice.roll(files.len())];
        let mut bytes = std::fs::read(path).expect("it is there");
        dice.damage(&mut bytes, words);
        std::fs::write(path, bytes).expect("it is ours");
        let (rootfs, scratch) = (yard.fresh("rootfs"), yard.fresh("scratch"));
        let mut room = Room::on_disk_of(&rootfs, &cancel).expect("it is there");
        let _ = oci::unpack(&folder, &scratch, &rootfs, &mut room);
        yard.check(&rootfs, round);
    }
}

const TOML: &[&[u8]] = &[
    b"\"",
    b"'''",
    b"[",
    b"]",
    b"{",
    b"}",
    b"=",
    b".",
    b"\n",
    b"#",
    b"\\u0000",
    b"../",
    b"/",
    b"inf",
    b"99999999999999999999",
    b"[[steps]]\n",
    b"\xf0\x9f\x98\x80",
    b"[machines.web]\n",
    b"[sites.x]\non = \"web\"\n",
];

/// Every fault has words and lies in the text.
fn told(text: &str, faults: &[Fault], round: usize) {
    assert!(!faults.is_empty(), "round {round}: refused without a fault\n{text}");
    for fault in faults {
        let place = fault.place.as_ref().unwrap_or_else(|| panic!("round {round}: {fault:?}"));
        assert!(text.get(place.span.clone()).is_some() && !fault.message.is_empty(), "round {round}: {fault:?}\n{text}");
    }
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir))
}

fn examples(below: &str, name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(below);
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    let files = entries.filter(|entry| entry.file_name() == name);
    let all: Vec<_> = files.map(|entry| std::fs::read(entry.path()).expect("it is part of the repository")).collect();
    assert!(all.len() > 1, "{below} has examples");
    all
}

#[test]
fn damaged_platforms_are_refused_or_harmless() {
    let seeds = examples("platforms", "platform.toml");
    let mut dice = Dice::new();
    let mut taken = 0;
    for round in 0..rounds(1000) {
        let text = String::from_utf8_lossy(&dice.damaged(&seeds, TOML)).into_owned();
        match platform::parse(Path::new("/p/platform.toml"), &text) {
            Err(faults) => told(&text, &faults, round),
            Ok(platform) => {
                taken += 1;
                let scripts = platform.machines.iter().flat_map(|machine| &machine.provision);
                let seeds = platform.data.iter().filter_map(|set| set.seed.as_ref());
                assert!(scripts.chain(seeds).all(|path| is_inside(path)), "round {round}\n{text}");
                let spoken = platform.machines.iter().map(|machine| &machine.summary).chain([&platform.summary]);
                assert!(spoken.into_iter().all(|line| !line.chars().any(char::is_control)), "round {round}\n{text}");
                let aliases = platform.sites.iter().flat_map(|site| &site.aliases);
                let plain = |alias: &String| alias.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
                assert!(aliases.into_iter().all(plain), "round {round}\n{text}");
            }
        }
    }
    println!("{} rounds, {taken} platforms were taken", rounds(1000));
    assert!(taken > rounds(1000) / 20, "hardly any was whole");
}

#[test]
fn damaged_recipes_are_refused_or_harmless() {
    let seeds = examples("boxes", "box.toml");
    let name = BoxName::new("web").expect("it is a label");
    let mut dice = Dice::new();
    let mut taken = 0;
    for round in 0..rounds(1000) {
        let text = String::from_utf8_lossy(&dice.damaged(&seeds, TOML)).into_owned();
        match recipe::parse(&name, Path::new("/p/boxes/web/box.toml"), &text) {
            Err(faults) => told(&text, &faults, round),
            Ok(recipe) => {
                taken += 1;
                assert!(recipe.steps.iter().all(|step| is_inside(step.path())), "round {round}\n{text}");
                let words = recipe.packages.iter().chain(&recipe.services).chain(&recipe.mask);
                let plain =
                    |word: &String| !word.starts_with('-') && !word.contains(|c: char| c.is_whitespace() || c.is_control());
                assert!(words.into_iter().all(plain), "round {round}\n{text}");
            }
        }
    }
    println!("{} rounds, {taken} recipes were taken", rounds(1000));
    assert!(taken > rounds(1000) / 20, "hardly any was whole");
}

const LINES: [&str; 10] = [
    r#"{"__CURSOR":"s=a;i=1","__REALTIME_TIMESTAMP":"1700000000123456","MESSAGE":"ready","PRIORITY":"4","_SYSTEMD_UNIT":"db.service"}"#,
    r#"{"__CURSOR":"s=a","__REALTIME_TIMESTAMP":"1","MESSAGE":[104,105,[1,2],"x"],"UNIT":"a.service","_COMM":"b"}"#,
    "2024-01-02T03:04:05.678901Z [error] said",
    "2024/01/02 03:04:05 [error] 1#1: *1 open() failed",
    "[Tue Jan 02 03:04:05.678901 2024] [core:error] [pid 1] AH1: x",
    "[02-Jan-2024 03:04:05 Europe/Berlin] PHP Warning: x",
    "123:M 02 Jan 2024 03:04:05.678 * Ready",
    "Jan  2 03:04:05 web1 sshd[1]: x",
    "www.1161.shop.example.test:80 192.0.2.1 - - [10/Oct/2000:13:55:36 +0000] \"GET / HTTP/1.1\" 200 1",
    "\tat com.example.Main(Main.java:1)",
];

const MARKS: &[&[u8]] = &[
    b"\x1b[2J",
    b"\r",
    b"\n",
    b"\0",
    b"\"",
    b"\\",
    b"]",
    b"9999999999999",
    b"-",
    b":",
    b"\xe2\x80\xae",
    b"\xff",
    b"\xc2\x9b2J",
    b"<0>",
    b"[[[[[[[[",
];

/// What every reader of records may rely on.
fn check_record(record: &Record, round: usize) {
    let mut columns = Columns::default();
    let shown = columns.show(record, &TimeZone::UTC);
    for text in [&shown.time, &shown.machine, &shown.unit, &shown.message] {
        let obeyed = |c: char| c.is_control() && !matches!(c, '\t' | '\n') || matches!(c, '\u{202a}'..='\u{202e}');
        assert!(!text.contains(obeyed), "round {round}: {text:?}");
    }
    // A frame says its own length, so nothing in a message begins another.
    let mut frame = Vec::new();
    syslog::frame(record, &mut frame);
    let blank = frame.iter().position(|byte| *byte == b' ').expect("a length and a blank");
    let length: usize = std::str::from_utf8(&frame[..blank]).expect("digits").parse().expect("digits");
    assert_eq!(frame.len(), blank + 1 + length, "round {round}");
    let header = String::from_utf8(frame[blank + 1..].to_vec()).expect("a record is text");
    assert!(header.starts_with('<') && header.splitn(8, ' ').count() == 8, "round {round}: {header}");
    let body = splunk::batch(std::slice::from_ref(record));
    let event: serde_json::Value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("round {round}: {error}"));
    assert_eq!(event["event"].as_str(), Some(record.message.as_str()), "round {round}");
}

#[test]
fn damaged_lines_of_logs_become_harmless_records() {
    let origin = Arc::new(Origin {
        id: "shop"
            .parse()
            .map(|platform| adt::model::EnvironmentId { platform, name: "1161".parse().expect("a name") })
            .expect("a name")
            .machine(&"web".parse().expect("a name")),
        fqdn: "web.1161.shop.example.test".to_owned(),
    });
    let seeds = LINES.map(|line| line.as_bytes().to_vec());
    let mut dice = Dice::new();
    let mut reader = Reader::new(&origin, "/var/log/x/a.log");
    let mut records = 0;
    for round in 0..rounds(20_000) {
        let text = String::from_utf8_lossy(&dice.damaged(&seeds, MARKS)).into_owned();
        let known = Known {
            offset: [0, 7200, i32::MIN, i32::MAX][dice.roll(4)],
            now: [1_700_000_000_000_000, i64::MAX, i64::MIN][dice.roll(3)],
        };
        let _ = stamp(&text, known);
        let _ = access::host(&text).map(|host| access::belongs(host, "www.1161.shop.example.test", &[]));
        let line = Line { text: &text, place: Place { inode: 1, offset: round as u64 }, arrived: known.now, known };
        for record in [journal::record(&text, &origin), reader.push(line)].into_iter().flatten() {
            records += 1;
            check_record(&record, round);
        }
    }
    assert!(records > rounds(20_000) / 10, "hardly any line was one");
}
