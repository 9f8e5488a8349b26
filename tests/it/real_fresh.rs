//! Bare hosts: the README's two commands on a system as it is installed, typed by an ordinary person who has sudo.
//!
//! Each is a machine that is a host, and reaches out through this one: packages, crates and what is trusted come from where this
//! host's own settings have them. Rust is what the README presupposes, so this host's is handed in. Two things a machine can't
//! do as a real host does: checkouts are shown under other ids only where their file system is the machine's own, hence the demo's
//! folder is a disk in memory; and a whole `make test` would start machines in machines for hours, hence a part of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use adt::boxes::apt;

use super::adt::{Adt, Run, program, take_box};
use super::real_host_machine::{COUNT, give_layers, shell};

const RACK: &str = "[platform]
name = \"rack\"
summary = \"A bare host\"
[machines.node]
box = \"bare\"
memory = \"8G\"
";

/// Of `make test`, what needs neither boxes nor more power over the kernel than a machine's root has: that all is installed,
/// compiles, and works with this distribution's own programs.
const TESTS: &str = "test(/^(bad_input|bind|browsers|documentation|json|layers|resolver|tls)::/)";

/// As the host's owner leaves it to a person: sudo without a password, and a disk for the demo.
const PERSON: &str = "set -e
    useradd --create-home --shell /bin/bash ada
    echo 'ada ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ada
    mkdir /home/ada/adt-demo
    mount -t tmpfs -o mode=0755,size=1g adt-demo /home/ada/adt-demo
    chown ada:ada /home/ada/adt-demo
    update-ca-certificates >/dev/null
    apt-get update -qq";

/// A page as a person sees it, or the browser's complaint.
const BROWSE: &str = "timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
    --disable-background-networking --disable-component-update --dump-dom https://www.1161.hello.example.test/";

struct Bare {
    adt: Adt,
}

impl Bare {
    /// `None`, said loudly, where no such machine can be.
    fn new(suite: &str) -> Option<Self> {
        let adt = Adt::real()?.env("ADT_GRACE_SECONDS", "60");
        if let Err(reason) = reachable(suite) {
            assert!(std::env::var_os("CI").is_none() || suite != "bookworm", "in CI this must run: {reason}");
            eprintln!("NOT RUN, because {reason}");
            return None;
        }
        let folder = adt.platform_toml("rack", RACK);
        take_box(&folder, "bare");
        if suite != "bookworm" {
            another_suite(&folder, suite);
        }
        adt.run("platform:init rack").ok();
        adt.run("platform:build rack").ok();
        adt.run("env:init 1").ok();
        let bare = Self { adt };
        bare.hand_settings();
        bare.root(PERSON).ok();
        bare.hand_sources();
        Some(bare)
    }

    fn root(&self, script: &str) -> Run {
        shell(&self.adt, "node", script)
    }

    fn person(&self, script: &str) -> Run {
        let output = self.adt.command(&["env:exec", "1", "node", "--", "su", "--login", "ada", "-c", script]).output();
        let output = output.expect("the program starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Run { words: script.to_owned(), code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    fn copy(&self, from: &Path, to: &str) {
        self.adt.run(&format!("env:cp 1 {} node:{to}", from.display())).ok();
    }

    /// How this host reaches archives and registries, and whom it trusts on the way.
    fn hand_settings(&self) {
        let file = self.adt.path().join("90host");
        std::fs::write(&file, apt::host_settings().transport.join("\n") + "\n").expect("the folder is ours");
        self.copy(&file, "/etc/apt/apt.conf.d/");
        let names = ["http_proxy", "https_proxy", "no_proxy"];
        let proxies = names.iter().filter_map(|name| Some(format!("{name}={}\n", std::env::var(name).ok()?)));
        std::fs::write(&file, proxies.collect::<String>()).expect("the folder is ours");
        self.copy(&file, "/etc/environment");
        for entry in std::fs::read_dir("/usr/local/share/ca-certificates").into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with("adt-") {
                self.copy(&entry.path(), "/usr/local/share/ca-certificates/");
            }
        }
    }

    /// What is in the working tree, as a repository that can be cloned.
    fn hand_sources(&self) {
        let words = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        // Root runs tests of a folder that may be a person's.
        let safe = ["-c", "safe.directory=*"];
        let list = Command::new("git").args(safe).args(words).current_dir(here()).output().expect("git is installed");
        assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
        // What was removed since the last commit is in git's list still.
        let names = list.stdout.split(|byte| *byte == 0).filter(|name| there(name)).flat_map(|name| [name, b"\0"].concat());
        let names: Vec<u8> = names.collect();
        self.hand(&["--null", "--files-from=-"], here(), &names, "/srv/adt");
        let commit = "git init -q && git add --all && git -c user.name=A -c user.email=a@example.test commit -qm sources";
        self.root("chown -R ada:ada /srv/adt").ok();
        self.person(&format!("cd /srv/adt && {commit} && git clone -q /srv/adt ~/adt")).ok();
    }

    /// This host's compiler, and what runs tests, at a place where root's programs are found, too.
    fn hand_rust(&self) {
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).current_dir(here()).output().expect("it compiled this test");
            PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
        };
        let sysroot = said("rustc", &["--print", "sysroot"]);
        self.hand(&["--exclude=./share", "."], &sysroot, &[], "/usr/local");
        self.copy(&said("sh", &["-c", "command -v cargo-nextest"]), "/usr/local/bin/");
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        if let Some(registries) = home.map(|home| home.join("config.toml")).filter(|file| file.exists()) {
            self.person("mkdir -p ~/.cargo").ok();
            self.copy(&registries, "/home/ada/.cargo/");
        }
    }

    /// Files of a folder, by tar's own words.
    fn hand(&self, words: &[&str], folder: &Path, names: &[u8], to: &str) {
        self.root(&format!("mkdir -p {to}")).ok();
        let mut tar = Command::new("tar");
        tar.arg("-c").args(words).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tar = tar.spawn().expect("tar is installed");
        let (mut input, output) = (tar.stdin.take().expect("it was piped"), tar.stdout.take().expect("it was piped"));
        let mut unpack = self.adt.command(&["env:exec", "1", "node", "--", "tar", "-x", "--no-same-owner", "-C", to]);
        let mut unpack = unpack.stdin(output).spawn().expect("the program starts");
        input.write_all(names).expect("tar reads it");
        drop(input);
        assert!(tar.wait().expect("it is ours").success() && unpack.wait().expect("it is ours").success());
    }

    /// What the demo promises, and what a browser makes of it; then all of it goes, as the demo's last lines say.
    fn shows_the_demo(&self, make: &str) {
        let before = self.root("cat /etc/resolv.conf").ok().stdout;
        let demo = self.person(&format!("cd ~/adt && {make}")).ok();
        for told in ["answered by web1", "answered by web2", "edited on the host", "requests meanwhile, 0 lost"] {
            assert!(demo.stdout.contains(told), "the demo does not say `{told}`\n{}{}", demo.stdout, demo.stderr);
        }
        assert!(!demo.stderr.contains("certificate error"), "{}", demo.stderr);
        let file =
            demo.stdout.lines().find_map(|line| line.trim().strip_prefix("what is there")?.trim().strip_suffix(" env:list"));
        let adt = file.expect("it says what to type").trim().to_owned();
        self.person(&format!("{adt} host:check")).ok();
        self.person(&format!("{adt} env:check hello 1161")).ok();
        self.person("curl --silent --show-error --fail https://www.1161.hello.example.test/").ok().says("Guest book of 1161");
        if self.person("command -v chromium").code == 0 {
            self.person(BROWSE).ok().says("Guest book of 1161");
        }
        self.takes_away(&demo);
        // The folders stay, and who begins anew finds them.
        self.takes_away(&self.person(&format!("cd ~/adt && {make}")).ok());
        self.person(&format!("{adt} host:bootstrap --remove")).ok();
        assert_eq!(self.root(COUNT).stdout, "0\n0\n");
        assert_eq!(self.root("cat /etc/resolv.conf").ok().stdout, before);
        let told = self.root("ls -d /home/*/.pki /root/.pki /usr/local/share/ca-certificates/adt-*-*").stdout;
        assert_eq!(told, "", "who trusted adt trusts it still");
        self.person("! curl --silent https://www.1161.hello.example.test/").ok();
    }

    /// As the demo's last lines say.
    fn takes_away(&self, demo: &Run) {
        let away = demo.stdout.lines().filter(|line| line.contains("away with it") || line.contains("names as before"));
        for line in away.collect::<Vec<_>>() {
            let words = line.trim().split_once("   ").expect("what it does, and how").1.trim();
            self.person(&words.replace(" hello", " hello --yes").replace(" shop", " shop --yes")).ok();
        }
    }

    fn end(&self) {
        self.adt.run("platform:destroy rack --yes").ok();
        assert_eq!(self.adt.leftovers(), Vec::<String>::new());
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn there(name: &[u8]) -> bool {
    !name.is_empty() && here().join(String::from_utf8_lossy(name).as_ref()).symlink_metadata().is_ok()
}

/// Whether this host's own package sources lead to a suite.
fn reachable(suite: &str) -> Result<(), String> {
    let lists = Path::new("/var/lib/apt/lists");
    let sources = apt::inherited(&apt::host_sources(Path::new("/etc/apt")), suite, &|source| apt::origin(lists, source));
    let source = sources.first().ok_or_else(|| format!("this host's apt has no source that would serve {suite}"))?;
    let release = format!("{}/dists/{suite}/InRelease", source.uri.trim_end_matches('/'));
    let mut ask = Command::new("curl");
    let answer = ask.args(["--silent", "--show-error", "--fail", "--head", "--max-time", "60", &release]).output();
    let answer = answer.map_err(|error| format!("curl: {error}"))?;
    if answer.status.success() { Ok(()) } else { Err(format!("{release}: {}", String::from_utf8_lossy(&answer.stderr).trim())) }
}

/// The box that all stand on, of another suite, and no browser where that is no package.
fn another_suite(platform: &Path, suite: &str) {
    let to = platform.join("boxes/debian");
    let copied = Command::new("cp").arg("--recursive").arg(here().join("boxes/debian")).arg(&to).status();
    assert!(copied.expect("cp starts").success());
    let change = |file: PathBuf, from: &str, to: &str| {
        let text = std::fs::read_to_string(&file).expect("it was just copied");
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).expect("it is ours");
    };
    change(to.join("box.toml"), "suite = \"bookworm\"", &format!("suite = \"{suite}\""));
    if suite == "noble" {
        change(platform.join("boxes/bare/box.toml"), "    \"chromium\",\n", "");
    }
}

/// All that the README says, with nothing but Rust handed in.
fn a_whole_quarter_of_an_hour(suite: &str) {
    let Some(bare) = Bare::new(suite) else { return };
    bare.hand_rust();
    bare.shows_the_demo("make demo");
    bare.person(&format!("cd ~/adt && CI=true make test TESTS='{TESTS}'")).ok();
    bare.end();
}

#[test]
fn the_demo_goes_through_on_a_bare_debian_12() {
    let Some(bare) = Bare::new("bookworm") else { return };
    // Nothing is compiled and no box built, so that minutes are enough: this program and its layers are handed in.
    give_layers(&bare.adt);
    bare.copy(Path::new(program()), "/usr/local/bin/adt");
    // A program that was not built for release reads what it ships from the folder that it was built in.
    bare.root(&format!("mkdir -p {0} && cp -r /srv/adt/boxes /srv/adt/platforms /srv/adt/proxy {0}", here().display())).ok();
    bare.root("! command -v certutil lxc-start mmdebstrap nft gcc cargo").ok();
    bare.shows_the_demo("make demo ADT=/usr/local/bin/adt");
    bare.end();
}

#[test]
#[ignore = "an optimised build and boxes from nothing: `make test-fresh`"]
fn both_commands_work_on_a_bare_debian_12() {
    a_whole_quarter_of_an_hour("bookworm");
}

#[test]
#[ignore = "an optimised build and boxes from nothing: `make test-fresh`"]
fn both_commands_work_on_a_bare_debian_13() {
    a_whole_quarter_of_an_hour("trixie");
}

#[test]
#[ignore = "an optimised build and boxes from nothing: `make test-fresh`"]
fn both_commands_work_on_a_bare_ubuntu_24_04() {
    a_whole_quarter_of_an_hour("noble");
}
