//! Releases on real machines: Apache with PHP, real git, real systemd. What a visitor sees meanwhile, what the rules refuse,
//! and what a kill leaves.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::adt::{Adt, Run};
use super::leftovers::kill;
use super::real_hello::{address, get};

const PLATFORM: &str = r#"
[platform]
name = "shop"
# A snapshot keeps the releases of its moment, and these tests count releases.
[snapshots]
automatic = false
[machines.web]
box = "web-php"
count = 2
[sites.www]
on = "web"
source = "REPOSITORY"
path = "/srv/www"
mode = "release"
keep = 2
health = "/health.php"
buildpack = "deploy/buildpack"
predeploy = "deploy/predeploy"
postdeploy = "deploy/postdeploy"
env = { GREETING = "hello {{ env }}" }
"#;

const GREET: &str = "echo \"$GREETING from $ADT_MACHINE of $ADT_PLATFORM/$ADT_ENVIRONMENT/$ADT_SITE\"";

/// A template of a site.
const FACTS: &str = "{{ machine.name }} {{ site.release }} of {{ roles.web | length }} key {{ secret('app') }}\n";

/// A site's repository.
pub struct Repository(pub PathBuf);

impl Repository {
    /// Its page says which version it is and what the buildpack made.
    pub fn new(adt: &Adt) -> Self {
        let repository = Self::empty(adt, "www-source");
        repository.write(
            "public/index.php",
            "<?php echo trim(file_get_contents('../version')), '+', trim(file_get_contents('../built'));",
        );
        repository.write("public/health.php", "<?php echo 'fine';");
        repository.script("buildpack", "echo made-$(cat version) > built");
        repository.script("predeploy", GREET);
        repository.script("postdeploy", "systemctl reload apache2\ncurl -sSf http://localhost/");
        repository.version("one");
        repository
    }

    pub fn empty(adt: &Adt, name: &str) -> Self {
        let repository = Self(adt.here().join(name));
        std::fs::create_dir_all(&repository.0).expect("the folder is ours");
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    fn git(&self, args: &[&str]) -> String {
        let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"];
        let output = Command::new("git").arg("-C").arg(&self.0).args(identity).args(args).output().expect("git is there");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().expect("it is below the repository")).expect("the folder is ours");
        std::fs::write(path, text).expect("the folder is ours");
    }

    pub fn script(&self, phase: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = format!("deploy/{phase}");
        self.write(&path, &format!("#!/bin/sh -e\n{text}\n"));
        std::fs::set_permissions(self.0.join(path), PermissionsExt::from_mode(0o755)).expect("it is ours");
    }

    /// Commits everything as this version and says which commit it is.
    pub fn version(&self, version: &str) -> String {
        self.write("version", version);
        self.commit()
    }

    pub fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "next"]);
        self.head()
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }
}

fn platform(adt: &Adt, repository: &Repository) -> PathBuf {
    let folder = adt.platform_toml("shop", &PLATFORM.replace("REPOSITORY", &repository.0.display().to_string()));
    adt.run("platform:init shop").ok();
    folder
}

/// What the machines of an environment say they are.
fn pages(adt: &Adt, environment: &str, machines: &[&str]) -> BTreeSet<String> {
    machines.iter().map(|machine| body(&address(adt, environment, machine))).collect()
}

pub fn body(address: &str) -> String {
    let page = get(address, "www", "/");
    page.split_once("\r\n\r\n").map_or(page.clone(), |(_, body)| body.to_owned())
}

fn only(page: &str) -> BTreeSet<String> {
    BTreeSet::from([page.to_owned()])
}

/// Releases that lie on a machine.
fn kept(adt: &Adt, machine: &str) -> usize {
    let list = adt.run(&format!("env:ssh 1161 {machine} -- ls -A /srv/www.releases")).ok().stdout;
    let stamps = list.lines().filter(|name| name.starts_with(".rendered-")).count();
    let kept = list.lines().filter(|name| *name != ".before").count() - stamps;
    assert!(stamps == 0 || stamps == kept, "{list}");
    kept
}

fn shelf(adt: &Adt) -> Vec<PathBuf> {
    std::fs::read_dir(adt.store().join("releases")).expect("there were releases").flatten().map(|entry| entry.path()).collect()
}

/// How often a run's output has this.
fn count(run: &Run, text: &str) -> usize {
    run.stderr.matches(text).count()
}

/// Asks both machines without a pause until told to stop; every answer that was seen.
fn visitor(addresses: &[String], stop: &AtomicBool) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        for address in addresses {
            seen.insert(visit(address).unwrap_or_else(|error| format!("error: {error}")));
        }
    }
    seen
}

fn visit(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, 80))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: www\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.to_owned()))
}

#[test]
fn visitors_see_the_old_or_the_new_and_machines_agree() {
    let Some(adt) = Adt::real() else { return };
    let repository = Repository::new(&adt);
    repository.write("config/{{ site.name }}.ini.j2", FACTS);
    repository
        .script("predeploy", &format!("{GREET}\ntest \"$(cut -d' ' -f1,2 config/www.ini)\" = \"$ADT_MACHINE $ADT_RELEASE\""));
    repository.version("one");
    let folder = platform(&adt, &repository);
    let both = ["web1", "web2"];

    let first = adt.run("env:init 1161").ok().says("hello 1161 from web1 of shop/1161/www");
    assert_eq!(count(&first, "buildpack ("), 1);
    assert_eq!(pages(&adt, "1161", &both), only("one+made-one"));

    // The same commit elsewhere, and again here, is not built again.
    let second = adt.run("env:init 7").ok();
    assert_eq!(count(&second, "buildpack"), 0, "{}", second.stderr);
    assert_eq!(pages(&adt, "7", &both), only("one+made-one"));
    adt.run("env:destroy 7 --yes").ok();
    let again = adt.run("site:deploy 1161 www").ok().says("already");
    assert_eq!(count(&again, "predeploy"), 0);

    // Another message, the same files: the release is the same.
    repository.commit();
    adt.run("site:deploy 1161 www").ok().says("already");

    repository.version("two");
    adt.run("site:deploy 1161 www --dry-run").ok().says("would be deployed");
    assert_eq!(pages(&adt, "1161", &both), only("one+made-one"));
    let addresses: Vec<_> = both.iter().map(|machine| address(&adt, "1161", machine)).collect();
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let visits = scope.spawn(|| visitor(&addresses, &stop));
        adt.run("site:deploy 1161 www").ok();
        stop.store(true, Ordering::Relaxed);
        visits.join().expect("a visitor only asks")
    });
    assert_eq!(seen, BTreeSet::from(["one+made-one".to_owned(), "two+made-two".to_owned()]));
    assert_eq!(pages(&adt, "1161", &both), only("two+made-two"));

    // Back and forth, without building and without unpacking.
    let back = adt.run("site:rollback 1161 www").ok();
    assert_eq!((count(&back, "buildpack"), count(&back, "unpack")), (0, 0));
    assert_eq!(pages(&adt, "1161", &both), only("one+made-one"));
    adt.run("site:rollback 1161 www").ok();
    adt.run("site:rollback 1161 www --to feed").fails(4).says("no release `feed`");

    // One of two machines can't take it: both keep what they have.
    repository.script("postdeploy", "test $ADT_MACHINE != web2 || { echo no room; exit 3; }\nsystemctl reload apache2");
    repository.version("three");
    let failed = adt.run("site:deploy 1161 www").fails(22);
    for text in ["postdeploy on `shop/1161/web2`", "ended with exit code 3", "| no room", "web1 and web2 stay on release"] {
        assert!(failed.stderr.contains(text), "{text}: {}", failed.stderr);
    }
    assert_eq!(pages(&adt, "1161", &both), only("two+made-two"));
    assert_eq!((kept(&adt, "web1"), kept(&adt, "web2")), (2, 2));

    // The site itself is what counts in the end.
    repository.script("postdeploy", "systemctl reload apache2");
    repository.write("public/health.php", "<?php http_response_code(500);");
    std::fs::write(
        folder.join("platform.toml"),
        PLATFORM.replace("REPOSITORY", &repository.0.display().to_string()) + "rollout = \"together\"\n",
    )
    .expect("the folder is ours");
    adt.run("env:reload 1161").ok();
    repository.version("ill");
    adt.run("site:deploy 1161 www").fails(24).says("answers 500");
    assert_eq!(pages(&adt, "1161", &both), only("two+made-two"));

    // Few are kept, on machines and in the store.
    repository.write("public/health.php", "<?php echo 'fine';");
    repository.script("postdeploy", "test ! -e /etc/full\nsystemctl reload apache2");
    for version in ["four", "five"] {
        repository.version(version);
        adt.run("site:deploy 1161 www").ok();
    }
    assert_eq!((kept(&adt, "web1"), kept(&adt, "web2")), (2, 2));
    assert_eq!(shelf(&adt).len(), 2, "{:?}", shelf(&adt));

    templates_are_filled_in_or_told(&adt, &repository);

    // A new machine, and one that lost its files, serve what the others serve; nothing is built.
    let text = PLATFORM.replace("REPOSITORY", &repository.0.display().to_string()).replace("count = 2", "count = 3");
    std::fs::write(folder.join("platform.toml"), text).expect("the folder is ours");
    // What was cut off behind the new files, before their services knew, is done by the next command.
    adt.run("env:ssh 1161 web1 -- touch /etc/full").ok();
    adt.run("env:reload 1161").fails(22).says("postdeploy on `shop/1161/web1`");
    adt.run("env:ssh 1161 web1 -- rm /etc/full").ok();
    let more = adt.run("env:up 1161").ok().says("web1 serves release");
    assert_eq!(count(&more, "buildpack"), 0, "{}", more.stderr);
    for machine in ["web1", "web3"] {
        assert!(facts(&adt, machine).ends_with("of 3"), "{}", facts(&adt, machine));
    }
    adt.run("env:ssh 1161 web1 -- rm -rf /srv/www /srv/www.releases").ok();
    adt.run("env:up 1161").ok();
    assert_eq!(pages(&adt, "1161", &["web1", "web2", "web3"]), only("five+made-five"));
    adt.run("env:up 1161").ok().says("up already");

    adt.run("platform:destroy shop --yes").ok();
    assert_eq!(shelf(&adt), Vec::<PathBuf>::new());
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// What a machine's release knows of itself, and the key beside it.
fn ini(adt: &Adt, machine: &str) -> (String, String) {
    let text = adt.run(&format!("env:ssh 1161 {machine} -- cat /srv/www/config/www.ini")).ok().stdout;
    let (facts, key) = text.trim().split_once(" key ").unwrap_or_else(|| panic!("{text}"));
    (facts.to_owned(), key.to_owned())
}

fn facts(adt: &Adt, machine: &str) -> String {
    ini(adt, machine).0
}

fn templates_are_filled_in_or_told(adt: &Adt, repository: &Repository) {
    let list = adt.run("site:list 1161 --json").ok().json();
    let release = list[0]["code"]["release"].as_str().expect("it serves one")[..12].to_owned();
    let (first, key) = ini(adt, "web1");
    assert_eq!((first, facts(adt, "web2")), (format!("web1 {release} of 2"), format!("web2 {release} of 2")));
    assert_eq!(key.len(), 32);
    adt.run("env:ssh 1161 web1 -- stat -c %U:%a /srv/www/config/www.ini").ok().says("www-data:644");
    for release in shelf(adt) {
        let unpacked = Command::new("zstd").arg("-dc").arg(release.join("tree.tar.zst")).output().expect("zstd is there");
        let manifest = std::fs::read(release.join("manifest.json")).expect("a release has one");
        for bytes in [unpacked.stdout, manifest] {
            let text = String::from_utf8_lossy(&bytes);
            assert!(text.contains("secret(") && !text.contains(&key), "{}", release.display());
        }
    }
    let pages_before = pages(adt, "1161", &["web1", "web2"]);
    let refused = |path: &str, text: &str, cause: &str| {
        repository.write(path, text);
        repository.version("bad");
        let run = adt.run("site:deploy 1161 www").fails(3).says(cause).says("templates = ");
        assert_eq!((count(&run, "predeploy"), pages(adt, "1161", &["web1", "web2"])), (0, pages_before.clone()));
        std::fs::remove_file(repository.0.join(path)).expect("it was written above");
    };
    refused("bad.j2", "x\n{{ site.prot }}", "www: bad.j2:2: `site.prot`: there is no such value");
    refused("built.j2", "over what the buildpack makes", "`built` can't be rendered: the release has `built`");
    repository.version("five");
}

#[test]
fn what_the_rules_forbid_stops_the_deploy_by_name() {
    let Some(adt) = Adt::real() else { return };
    let repository = Repository::new(&adt);
    platform(&adt, &repository);
    adt.run("env:init 1161").ok();
    let fine = [("buildpack", "echo x > built"), ("predeploy", "true"), ("postdeploy", "true")];
    let cases = [
        ("buildpack", "apt-get install -y jq || true", 20, "`no-system-packages`", "it ran `apt-get install -y jq`"),
        ("buildpack", "sudo apt install jq", 20, "`no-root`", "it ran `sudo apt install jq`"),
        ("buildpack", "/usr/bin/dpkg -i x.deb 2> /dev/null || true", 20, "`no-system-packages`", "it ran `dpkg -i x.deb`"),
        ("buildpack", "echo x > /usr/local/bin/x", 20, "`own-tree`", "Read-only file system"),
        ("buildpack", "su -c id", 20, "`no-root`", "it ran `su -c id`"),
        ("buildpack", "ln -s /etc/passwd public/x; echo x > built", 20, "`public/x`", "leads out of the release"),
        ("buildpack", "echo far; exit 7", 20, "ended with exit code 7", "| far"),
        ("predeploy", "curl -sS http://192.0.2.1/ || true", 21, "`no-network`", "it looked for a way out once"),
        ("predeploy", "php -r 'fsockopen(\"tcp://[2001:db8::1]\", 80);' || true", 21, "`no-network`", "once"),
        ("predeploy", "getent hosts example.org || true", 21, "`no-network`", "it looked for a way out"),
        ("predeploy", "apt-get install -y jq", 21, "`no-system-packages`", "it ran `apt-get install -y jq`"),
        ("postdeploy", "curl -sS http://$ADT_OTHER/ || true", 22, "`no-network`", "it looked for a way out"),
        ("postdeploy", "sudo systemctl reload apache2", 22, "`no-root`", "it ran `sudo systemctl reload apache2`"),
        ("postdeploy", "systemd-run --quiet curl http://192.0.2.1/", 22, "ended with exit code 1", "Access denied"),
        ("postdeploy", "systemctl reload nothing || true", 22, "`own-units`", "it ran `systemctl reload nothing`"),
        ("postdeploy", "systemctl start poweroff.target", 22, "`own-units`", "it ran `systemctl start poweroff.target`"),
        ("postdeploy", "nsenter --net=/run/adt-phase/net true", 22, "ended with exit code 1", "not permitted"),
    ];
    let other = address(&adt, "1161", "web2");
    for (number, (phase, text, code, rule, line)) in cases.into_iter().enumerate() {
        for (phase, text) in fine {
            repository.script(phase, text);
        }
        repository.script(phase, &text.replace("$ADT_OTHER", &other));
        repository.version(&number.to_string());
        let run = adt.run("site:deploy 1161 www").fails(code).says(rule).says(line);
        assert!(run.stderr.contains(&format!("could not finish {phase}")) || line.contains("leads out"), "{}", run.stderr);
        assert_eq!(pages(&adt, "1161", &["web1", "web2"]), only("one+made-one"), "after {phase} `{text}`");
    }
    // What local tools need works: a home, a cache, processes, files of its own.
    repository.script(
        "buildpack",
        "mkdir -p $HOME/.cache\necho x > $HOME/.cache/x\nmktemp > built\nps -e > /dev/null\ntest \"$(id -un)\" = www-data",
    );
    // What is left running does not outlive its phase.
    repository.script("predeploy", "sleep 4321 &");
    repository.script(
        "postdeploy",
        "systemctl restart apache2\nsystemctl is-active apache2\ncurl -sSf http://localhost/\ncurl -sSf http://$(hostname -f)/",
    );
    repository.version("last");
    adt.run("site:deploy 1161 www").ok();
    adt.run("env:ssh 1161 web1 -- pgrep -f 4321").fails(1);
    adt.run("env:ssh 1161 web1 -- ls /run/adt-phase").ok();
    adt.run("env:destroy 1161 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_declared_service_is_reached_and_nothing_else() {
    let Some(adt) = Adt::real() else { return };
    let repository = Repository::new(&adt);
    repository.script("buildpack", "echo x > built");
    repository.script("predeploy", "curl -sSf http://api/.well-known/box-health; curl -sSf http://api:80/");
    repository.script("before", "echo before on $ADT_MACHINE with $ADT_RELEASE");
    repository.script("after", "echo after on $ADT_MACHINE; curl -sSf http://localhost/");
    repository.version("one");
    let text = PLATFORM.replace("REPOSITORY", &repository.0.display().to_string())
        + "network = [\"api:80\"]\nbefore_deploy = \"deploy/before\"\nafter_deploy = \"deploy/after\"\n"
        + "[machines.api]\nbox = \"web-php\"\n";
    adt.platform_toml("shop", &text);
    adt.run("platform:init shop").ok();
    adt.run("env:init 1161").ok();
    repository.version("two");
    let run = adt.run("site:deploy 1161 www").ok();
    assert_eq!((count(&run, "before on web1"), count(&run, "after on web1")), (1, 1), "{}", run.stderr);
    assert_eq!((count(&run, "before on web2"), count(&run, "after on web2")), (0, 0), "{}", run.stderr);
    repository.script("predeploy", "curl -sS --max-time 3 http://api:81/ || true\ncurl -sS http://db.example/ || true");
    repository.version("three");
    adt.run("site:deploy 1161 www").fails(21).says("`no-network`");
    repository.script("predeploy", "true");
    repository.script("after", "exit 9");
    repository.version("four");
    adt.run("site:deploy 1161 www").fails(23).says("after_deploy on `shop/1161/web1`").says("exit code 9");
    assert_eq!(pages(&adt, "1161", &["web1", "web2"]), only("two+x"));
}

#[test]
fn an_archive_that_leads_out_is_refused_and_a_large_odd_tree_is_not() {
    let Some(adt) = Adt::real() else { return };
    let repository = Repository::new(&adt);
    repository.script("buildpack", "echo x > built");
    for number in 0..1_500 {
        repository.write(&format!("vendor/{}/{number}.php", number % 50), "<?php // one of many\n");
    }
    repository.write("public/-rf $(reboot) 'ü\n", "odd");
    let text = PLATFORM.replace("REPOSITORY", &repository.0.display().to_string()).replace("count = 2", "count = 1");
    adt.platform_toml("shop", &text);
    adt.run("platform:init shop").ok();
    repository.version("one");
    adt.run("env:init 1161").ok();
    let files = adt.run("env:ssh 1161 web1 -- find /srv/www/ -name *.php").ok().stdout;
    assert_eq!(files.lines().count(), 1_502);
    adt.run("env:ssh 1161 web1 -- find /srv/www/public -name -rf*").ok().says("(reboot)");

    // Somebody writes into the store.
    repository.version("two");
    adt.run("site:deploy 1161 www").ok();
    adt.run("site:rollback 1161 www").ok();
    let releases = shelf(&adt);
    for release in &releases {
        replace_archive(&release.join("tree.tar.zst"));
    }
    adt.run("env:ssh 1161 web1 -- rm -rf /srv/www /srv/www.releases").ok();
    adt.run("env:up 1161").fails(20).says("leads through a link");
    adt.run("env:ssh 1161 web1 -- test -e /srv/www").fails(1);
    adt.run("env:ssh 1161 web1 -- test -e /usr/share/evil").fails(1);
}

/// An archive in which a link leads out and the next entry goes through it.
fn replace_archive(path: &Path) {
    let tar = path.with_extension("plain");
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).expect("the store is ours"));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_mtime(0);
    builder.append_link(&mut header, "usr", "/usr/share").expect("a file takes it");
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(1);
    header.set_mtime(0);
    builder.append_data(&mut header, "usr/evil", &b"x"[..]).expect("a file takes it");
    builder.finish().expect("a file takes it");
    let output =
        Command::new("zstd").args(["--quiet", "--force", "--rm", "-o"]).arg(path).arg(&tar).output().expect("zstd is there");
    assert!(output.status.success(), "{output:?}");
}

/// Starts a deploy and kills it after so long; what it had started dies with it or is done.
fn killed(adt: &Adt, words: &[&str], after: Duration) -> bool {
    let mut child = adt.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    std::thread::sleep(after);
    let done = child.try_wait().expect("it is ours").is_some();
    if !done {
        kill(i32::try_from(child.id()).expect("process numbers are small"), rustix::process::Signal::KILL);
    }
    child.wait().expect("it is ours");
    !done
}

#[test]
fn a_killed_deploy_converges() {
    let Some(adt) = Adt::real() else { return };
    let repository = Repository::new(&adt);
    repository.write("config/{{ site.name }}.ini.j2", FACTS);
    repository.version("one");
    platform(&adt, &repository);
    adt.run("env:init 1161").ok();
    let both = ["web1", "web2"];
    let whole = ["first", "0"].map(|version| {
        repository.version(version);
        let since = Instant::now();
        adt.run("site:deploy 1161 www").ok();
        since.elapsed()
    });
    // What else this host does may slow either down, and kills must come in time.
    let whole = whole[0].min(whole[1]);
    const ROUNDS: u32 = 10;
    let mut kills = 0;
    let mut served = "0+made-0".to_owned();
    for round in 1..=ROUNDS {
        repository.version(&round.to_string());
        let new = format!("{round}+made-{round}");
        kills += u32::from(killed(&adt, &["site:deploy", "1161", "www"], whole * round / ROUNDS));
        // Whatever was cut off, every page is one of the two.
        let between = pages(&adt, "1161", &both);
        assert!(between.iter().all(|page| *page == served || *page == new), "round {round}: {between:?}");
        if round % 2 == 0 {
            // The environment alone: all are on what the store has.
            adt.run("env:up 1161").ok();
            let pages = pages(&adt, "1161", &both);
            assert!(pages == only(&served) || pages == only(&new), "round {round}: {pages:?}");
        }
        adt.run("site:deploy 1161 www").ok();
        assert_eq!(pages(&adt, "1161", &both), only(&new), "round {round}");
        adt.run("env:up 1161").ok().says("up already");
        assert_eq!((kept(&adt, "web1"), kept(&adt, "web2")), (2, 2), "round {round}");
        assert!(facts(&adt, "web2").starts_with("web2 ") && facts(&adt, "web2").ends_with(" of 2"), "round {round}");
        served = new;
    }
    assert!(kills > ROUNDS / 2, "only {kills} of the kills came in time");
    adt.run("env:destroy 1161 --yes").ok();
    adt.run("box:prune --yes").ok();
    let halves: Vec<_> = shelf(&adt).into_iter().filter(|path| path.to_string_lossy().contains("/.")).collect();
    assert_eq!(halves, Vec::<PathBuf>::new());
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn two_environments_want_the_same_release_at_once() {
    let Some(adt) = Adt::real() else { return };
    let repository = Repository::new(&adt);
    repository.script("buildpack", "sleep 1; echo made-$(cat version) > built");
    platform(&adt, &repository);
    repository.version("one");
    let runs = std::thread::scope(|scope| {
        let running = ["1161", "7"].map(|name| {
            let adt = &adt;
            scope.spawn(move || adt.run(&format!("env:init {name}")).ok())
        });
        running.map(|run| run.join().expect("a run is only asked"))
    });
    assert_eq!(runs.iter().map(|run| count(run, "buildpack (")).sum::<usize>(), 1);
    assert_eq!(runs.iter().map(|run| count(run, "another build of it")).sum::<usize>(), 1);
    for name in ["1161", "7"] {
        assert_eq!(pages(&adt, name, &["web1", "web2"]), only("one+made-one"));
    }
}
