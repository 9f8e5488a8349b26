//! A user of the host without rights, who looks at what everybody can see: process lists, environments, folders. The one here
//! is the git server itself, which looks around whenever it is asked something, so that it never comes too early or too late.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;

use adt::exec::Account;
use adt::sources::checkout::{self, Stand};
use adt::sources::git::{self, Person};
use adt::sources::mirror::{self, Fetch, Mirror};
use adt::store::{Holder, Store};

use super::adt::Adt;

const PASSWORD: &str = "sesam-0ffne-dich";
const ADA: u32 = 4321;

/// Serves a folder to `ada` with the password, as `nobody`, and writes down where it has read the password meanwhile.
const SPY: &str = r#"
import base64, encodings.idna, glob, http.server, os, sys
folder, notes, password = sys.argv[1:4]
os.chdir(folder)
sys.argv[:] = []
notes = open(notes, 'a')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
wanted = 'Basic ' + base64.b64encode(('ada:' + password).encode()).decode()
own = '/proc/%d/' % os.getpid()

def look():
    for path in glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ'):
        try:
            text = open(path, 'rb').read()
        except OSError:
            continue
        if path.startswith(own):
            continue
        if b'remote-http' in text:
            notes.write('looked\n')
        if password.encode() in text:
            notes.write('read %s %r\n' % (path, text))
    notes.flush()

class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        look()
        if self.headers.get('Authorization') == wanted:
            notes.write('served\n')
            notes.flush()
            return super().do_GET()
        self.send_response(401)
        self.send_header('WWW-Authenticate', 'Basic realm="git"')
        self.send_header('Content-Length', '0')
        self.end_headers()
    def log_message(self, *words):
        pass

server.RequestHandlerClass = Handler
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Spy {
    server: Child,
    port: u16,
    home: tempfile::TempDir,
}

impl Spy {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let (folder, notes) = (home.path().join("served"), home.path().join("notes"));
        fs::create_dir(&folder).expect("the home is new");
        fs::write(&notes, "").expect("the home is new");
        // Its words have the password too, of course; it looks at others' only, and takes them off itself.
        let mut server = Command::new("python3")
            .args(["-c", SPY])
            .args([&folder, &notes])
            .arg(PASSWORD)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is part of what tests need");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("it was piped")).read_line(&mut line).expect("it tells its port");
        Self { server, port: line.trim().parse().expect("a port"), home }
    }

    /// A repository with these files, and its address with the password.
    fn serve(&self, name: &str, files: &[(&str, &str)]) -> String {
        let work = self.home.path().join("work").join(name);
        fs::create_dir_all(&work).expect("the home is ours");
        let git = |folder: &Path, words: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]).args(words).current_dir(folder);
            assert!(git.env("GIT_CONFIG_GLOBAL", "/dev/null").status().expect("git is there").success(), "{words:?}");
        };
        git(&work, &["init", "--quiet", "-b", "main"]);
        for (path, text) in files {
            fs::write(work.join(path), text).expect("it is ours");
        }
        git(&work, &["add", "."]);
        git(&work, &["commit", "--quiet", "-m", "one"]);
        let bare = self.home.path().join("served").join(format!("{name}.git"));
        git(&work, &["clone", "--quiet", "--bare", ".", bare.to_str().expect("UTF-8")]);
        // Files are all that this server can serve, and a mirror takes packs.
        git(&bare, &["repack", "-a", "-d", "--quiet"]);
        git(&bare, &["update-server-info"]);
        format!("http://ada:{PASSWORD}@127.0.0.1:{}/{name}.git", self.port)
    }

    /// How often it served and looked, and what it read.
    #[track_caller]
    fn has_read_nothing(&self) {
        let notes = fs::read_to_string(self.home.path().join("notes")).expect("it is ours");
        assert!(notes.contains("served") && notes.contains("looked"), "it was asked, and git was there to be looked at: {notes}");
        let read: Vec<_> = notes.lines().filter(|line| line.starts_with("read")).collect();
        assert!(read.is_empty(), "the spy has the password: {read:#?}");
        fs::write(self.home.path().join("notes"), "").expect("it is ours");
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// Files below that a user of the host can read and that have the password.
fn found_by_others(folder: &Path) -> String {
    use std::os::unix::process::CommandExt;
    let mut grep = Command::new("grep");
    grep.args(["--recursive", "--no-messages", "--files-with-matches", PASSWORD]).arg(folder).uid(65534).gid(65534);
    String::from_utf8_lossy(&grep.output().expect("grep is there").stdout).into_owned()
}

fn fetch(store: &Store, mirror: &Mirror, person: &Person) -> adt::sources::Result<bool> {
    let holder = Holder { user: "ada".into(), command: "test".into(), pid: 1, since: 0 };
    let lock = store.lock(&mirror.lock_name(), &holder).wait(&AtomicBool::new(false), &mut |_| {}).expect("nobody holds it");
    mirror.fetch(&lock, &Fetch { person, now: 5, patience: None, tell: &|_| {} })
}

#[test]
fn no_process_list_and_no_folder_shows_a_password() {
    let spy = Spy::new();
    let address = spy.serve("www", &[("index.php", "one")]);
    let home = tempfile::tempdir().expect("a folder");
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let store = Store::open(&home.path().join("store")).expect("a store");
    let person = Person { account: Some(Account::bare(ADA, ADA)), ..Person::default() };
    let mirror = Mirror::of(&store, &address);
    assert!(fetch(&store, &mirror, &person).expect("the login is right"));
    spy.has_read_nothing();

    // The person's own git in the checkout still gets in, and shows it to nobody either.
    let platform = home.path().join("platform");
    fs::create_dir_all(platform.join("1161")).expect("a folder");
    for folder in [platform.clone(), platform.join("1161")] {
        std::os::unix::fs::chown(&folder, Some(ADA), Some(ADA)).expect("we are root");
    }
    let www = platform.join("1161/www");
    let commit = mirror.branches().expect("it was fetched").commits["main"].clone();
    checkout::make(&mirror, &person, &www, &Stand { branch: "main", commit: &commit }).expect("a checkout");
    let own = |words: &[&str]| {
        use std::os::unix::process::CommandExt;
        let mut git = Command::new("git");
        git.arg("-C").arg(&www).args(words).current_dir("/").env("HOME", "/nonexistent").env("GIT_TERMINAL_PROMPT", "0");
        let output = git.uid(ADA).gid(ADA).stdin(Stdio::null()).output().expect("git is there");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    own(&["fetch", "--quiet"]);
    own(&["worktree", "add", "--quiet", "../other", "-b", "other"]);
    own(&["-C", "../other", "fetch", "--quiet"]);
    assert!(!own(&["remote", "-v"]).contains(PASSWORD));
    spy.has_read_nothing();
    assert_eq!(found_by_others(home.path()), "");

    // A platform's own repository, with all that is said of it.
    let address = spy.serve("shop", &[("platform.toml", "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"debian\"\n")]);
    let adt = Adt::new();
    fs::set_permissions(adt.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let mut told = String::new();
    for words in [&format!("platform:init {address}"), "platform:list", "platform:list --json", "platform:pull shop"] {
        let run = adt.run(words).ok();
        told += &(run.stdout + &run.stderr);
    }
    // As an older adt cloned it, with the password in its origin.
    let clone = adt.here().join("shop");
    let set = Command::new("git").arg("-C").arg(&clone).args(["config", "remote.origin.url", &address]).status();
    assert!(set.expect("git is there").success());
    fs::remove_file(clone.join(".git/adt-login")).expect("it was put there");
    fs::write(spy.home.path().join("notes"), "").expect("it is ours");
    let run = adt.run("platform:pull shop").ok();
    told += &(run.stdout + &run.stderr);
    spy.has_read_nothing();
    let wrong = address.replace("ada:", "eve:");
    let run = adt.run(&format!("platform:init {wrong} --json")).fails(8);
    told += &(run.stdout + &run.stderr);
    assert!(!told.contains(PASSWORD), "{told}");
    for file in walkdir::WalkDir::new(&adt.store).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let bytes = fs::read(file.path()).expect("it is ours");
        let has = bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes());
        assert!(!has, "{} has the password", file.path().display());
    }
}

#[test]
fn mirrors_that_an_older_adt_left_open_are_closed_by_the_next_command() {
    let adt = Adt::new();
    let text = "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"debian\"\n[sites.www]\non = \"web\"\n\
                source = \"https://git.example.test/www.git\"\n";
    adt.platform_toml("shop", text);
    adt.run("platform:init shop").ok();
    std::os::unix::fs::chown(adt.here().join("shop"), Some(ADA), Some(ADA)).expect("we are root");
    let store = Store::open(&adt.store).expect("the store opens");
    let mirror = Mirror::of(&store, "https://git.example.test/www.git");
    drop(store);
    let strange = mirror.folder.with_file_name("strange-00.git");
    for folder in [&mirror.folder, &strange] {
        fs::create_dir_all(folder).expect("the store is ours");
        fs::write(folder.join("HEAD"), "secret").expect("the store is ours");
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("it is ours");
    }
    // Ways to the home of a test are closed to others.
    fs::set_permissions(adt.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    let reads = |user: u32, folder: &PathBuf| {
        use std::os::unix::process::CommandExt;
        let mut cat = Command::new("cat");
        cat.arg(folder.join("HEAD")).uid(user).gid(user).stderr(Stdio::null()).stdout(Stdio::null());
        cat.status().expect("cat is there").success()
    };
    assert!(reads(65534, &mirror.folder), "it is open");
    adt.run("platform:init shop").ok();
    assert!(!reads(65534, &mirror.folder) && !reads(65534, &strange) && !reads(ADA, &strange));
    assert!(reads(ADA, &mirror.folder), "whose platform fetches it still gets in");
    assert_eq!(mirror::open_ones(mirror.folder.parent().expect("it lies in a folder")), Vec::<PathBuf>::new());
}

#[test]
fn a_filesystem_without_access_lists_is_refused_with_a_remedy() {
    // SAFETY: no other thread of this test relies on the mounts of this one.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("root has mounts of its own");
    let home = tempfile::tempdir().expect("a folder");
    let run = |words: &[&str]| assert!(Command::new(words[0]).args(&words[1..]).status().expect("it starts").success());
    run(&["mount", "--make-rprivate", "/"]);
    run(&["mount", "-t", "ramfs", "none", home.path().to_str().expect("UTF-8")]);
    let origin = home.path().join("origin");
    run(&["git", "init", "--quiet", origin.to_str().expect("UTF-8")]);
    let store = Store::open(&home.path().join("store")).expect("a store");
    let mirror = Mirror::of(&store, origin.to_str().expect("UTF-8"));
    fs::create_dir_all(&mirror.folder).expect("the store is ours");
    // Alone, root needs none.
    mirror.admit(&Person::default()).expect("its mode does");
    let refused = mirror
        .admit(&Person { account: Some(Account::bare(ADA, ADA)), ..Person::default() })
        .expect_err("nothing could close it");
    let failure = adt::model::Failure::from(refused);
    let told = format!("{failure:?}");
    assert!(told.contains("has no access lists") && told.contains("--pool 50G"), "{told}");
    assert!(git::is_address("x://y"));
    run(&["umount", "--lazy", home.path().to_str().expect("UTF-8")]);
}

#[test]
fn an_authority_from_a_clock_that_was_ahead_is_replaced_with_a_word() {
    let adt = Adt::new();
    adt.platform_toml("shop", "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"debian\"\n");
    adt.run("platform:init shop").ok();
    let domain = adt::model::Domain::new("example.test").expect("a domain");
    let ahead = std::time::SystemTime::now() + std::time::Duration::from_secs(400 * 86_400);
    adt::tls::Certificates::authority(&adt.store, &domain, ahead).expect("it is made");
    adt.run("platform:init shop").ok().says("the authority of example.test was made while the clock was ahead").says("same key");
    let again = adt.run("platform:init shop").ok();
    assert!(!again.stderr.contains("authority"), "{}", again.stderr);
    drop(std::io::stderr().flush());
}
