//! Sites from git repositories on real machines: checked out in their person's folder, served from there, edited on either
//! side, brought to other branches, and never lost.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::adt::{Adt, Run};
use super::real_hello::{address, get};

/// The person behind sudo, who has no entry on this host.
const ADA: u32 = 4321;

const PLATFORM: &str = r#"
[platform]
name = "shop"
[machines.web]
box = "web-php"
count = 2
memory = "256M"
[sites.www]
source = "ORIGINS/www.git"
on = "web"
path = "/srv/www"
needs = ["api"]
[sites.api]
source = "ORIGINS/api"
branch = "feature/{{ env }}-*"
default_branch = "main"
on = "web"
"#;

/// A platform of Ada's with two sites, and the repositories that they come from.
struct Bench {
    adt: Adt,
    origins: PathBuf,
    shop: PathBuf,
}

impl Bench {
    fn new() -> Option<Self> {
        let id = ADA.to_string();
        let adt = Adt::real()?.env("SUDO_USER", "ada").env("SUDO_UID", &id).env("SUDO_GID", &id);
        fs::set_permissions(adt.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        let origins = adt.path().join("origins");
        fs::create_dir(&origins).expect("a new folder");
        for folder in [&origins, adt.here()] {
            chown(folder, Some(ADA), Some(ADA)).expect("it is ours");
        }
        let shop = adt.platform_toml("shop", &PLATFORM.replace("ORIGINS", &origins.display().to_string()));
        chown(&shop, Some(ADA), Some(ADA)).expect("it is ours");
        let bench = Self { adt, origins, shop };
        for (name, text) in [("www.git", "one"), ("api", "an interface")] {
            let origin = bench.origins.join(name);
            git(&bench.origins, &["init", "--quiet", "--initial-branch=main", name]);
            write(&origin, "public/index.php", &format!("<?php echo '{text} ', gethostname();"));
            bench.commit(name, "first");
        }
        Some(bench)
    }

    fn run(&self, words: &str) -> Run {
        self.adt.run(words)
    }

    /// Commits all that is in an origin's working tree.
    fn commit(&self, origin: &str, message: &str) -> String {
        let folder = self.origins.join(origin);
        git(&folder, &["add", "--all"]);
        git(&folder, &["commit", "--quiet", "--allow-empty", "-m", message]);
        git(&folder, &["rev-parse", "HEAD"])
    }

    /// A branch of an origin on which the page says this.
    fn branch(&self, origin: &str, branch: &str, text: &str) -> String {
        let folder = self.origins.join(origin);
        git(&folder, &["checkout", "--quiet", "-B", branch, "main", "--"]);
        write(&folder, "public/index.php", &format!("<?php echo '{text} ', gethostname();"));
        let commit = self.commit(origin, text);
        git(&folder, &["checkout", "--quiet", "main", "--"]);
        commit
    }

    fn site(&self, environment: &str, site: &str) -> PathBuf {
        self.shop.join(environment).join(site)
    }

    fn page(&self, environment: &str, machine: &str) -> String {
        get(&address(&self.adt, environment, machine), &format!("www.{environment}.shop.example.test"), "/")
    }

    /// What a command prints in a machine, as the site's user.
    fn inside(&self, environment: &str, machine: &str, script: &str) -> String {
        let words = ["env:exec", environment, machine, "--user", "www-data", "--", "sh", "-c", script];
        let output = self.adt.command(&words).output().expect("the program starts");
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {told}");
        told
    }

    fn code(&self, environment: &str, site: &str) -> serde_json::Value {
        let list = self.run(&format!("site:list {environment} --json")).ok().json();
        let sites = list.as_array().expect("a list of sites").clone();
        sites.into_iter().find(|one| one["name"] == site).unwrap_or_else(|| panic!("no site {site}"))["code"].clone()
    }

    /// Waits for what commands leave to be done behind them.
    fn settled(&self) {
        let store = self.adt.store.display().to_string();
        until("the background work ends", || {
            let running = fs::read_dir("/proc").expect("a kernel").flatten().any(|entry| {
                let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let words = String::from_utf8_lossy(&words).into_owned();
                words.contains("internal:sources") && words.contains(&store)
            });
            (!running).then_some(())
        });
    }
}

/// git as Ada.
fn git(folder: &Path, words: &[&str]) -> String {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("git");
    command.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]).args(words).current_dir(folder);
    command.env("HOME", "/nonexistent").uid(ADA).gid(ADA).stdin(Stdio::null());
    let output = command.output().expect("git starts");
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A file of Ada's.
fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    let parent = path.parent().expect("a file has a folder");
    fs::create_dir_all(parent).expect("the folder is ours");
    fs::write(&path, text).expect("the folder is ours");
    for path in [parent, &path] {
        chown(path, Some(ADA), Some(ADA)).expect("it is ours");
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_checkout_is_served_and_edited_from_both_sides() {
    let Some(bench) = Bench::new() else { return };
    bench.branch("www.git", "1161", "ticket");
    bench.run("platform:init shop").ok();
    bench.run("env:init 1161 --dry-run").ok().says("check out www");
    assert!(!bench.shop.join("1161").exists());
    bench.run("env:init 1161").ok().says("www: branch `1161` (the ticket's)").says("api: branch `main` (default");
    let www = bench.site("1161", "www");
    for machine in ["web1", "web2"] {
        let page = bench.page("1161", machine);
        assert!(page.contains(&format!("ticket {machine}")), "{page}");
    }
    bench.settled();
    it_is_a_repository_of_adas(&bench, &www);
    edits_show_on_both_machines(&bench, &www);
    owners_are_mapped(&bench, &www);
    changes_are_noticed(&bench, &www);
    what_git_runs_stays_outside(&bench);

    // Work is never lost: first it is kept, then an unchanged checkout goes.
    bench.run("env:destroy 1161 --yes").ok().says("is kept").says("changed file");
    assert!(www.join("public/note.txt").exists() && !bench.site("1161", "api").exists());
    bench.run("env:init 1161").ok();
    assert!(bench.inside("1161", "web2", "cat /srv/www/public/note.txt").contains("from the host"));
    git(&www, &["add", "--all"]);
    git(&www, &["commit", "--quiet", "-m", "work"]);
    assert_eq!(bench.code("1161", "www")["drift"], serde_json::json!(["1 commit not pushed"]));
    bench.run("env:destroy 1161 --yes").ok().says("1 commit that was not pushed");
    git(&www, &["push", "--quiet"]);
    bench.run("env:init 1161").ok();
    bench.settled();
    bench.run("env:destroy 1161 --yes").ok();
    bench.settled();
    assert!(!bench.shop.join("1161").exists(), "{:?}", fs::read_dir(bench.shop.join("1161")).map(|all| all.count()));
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
}

fn it_is_a_repository_of_adas(bench: &Bench, www: &Path) {
    assert_eq!(git(www, &["status", "--porcelain"]), "");
    assert_eq!(git(www, &["remote", "get-url", "origin"]), bench.origins.join("www.git").display().to_string());
    assert_eq!(git(www, &["rev-parse", "--abbrev-ref", "HEAD@{upstream}"]), "origin/1161");
    assert_eq!(git(www, &["rev-parse", "--abbrev-ref", "origin/HEAD"]), "origin/main");
    assert_eq!(git(www, &["fetch", "--all"]), "");
    assert_eq!(git(www, &["fsck"]), "");
    for entry in walkdir::WalkDir::new(www) {
        let entry = entry.expect("it can be read");
        assert_eq!(entry.metadata().expect("it is there").uid(), ADA, "{}", entry.path().display());
    }
    assert_eq!(bench.code("1161", "www")["drift"], serde_json::json!([]));
    let nobody_else = fs::metadata(bench.shop.join("1161")).expect("it is there").permissions().mode();
    assert_eq!(nobody_else & 0o777, 0o700);
    git(&bench.shop, &["init", "--quiet"]);
    assert_eq!(git(&bench.shop, &["status", "--porcelain"]), "?? platform.toml");
}

fn edits_show_on_both_machines(bench: &Bench, www: &Path) {
    write(www, "public/index.php", "<?php echo 'edited ', gethostname();");
    for machine in ["web1", "web2"] {
        assert!(bench.page("1161", machine).contains(&format!("edited {machine}")));
    }
    write(www, "public/note.txt", "from the host");
    fs::rename(www.join("public/note.txt"), www.join("public/moved.txt")).expect("it is there");
    symlink("moved.txt", www.join("public/link")).expect("a new name");
    lchown(www.join("public/link"), Some(ADA), Some(ADA)).expect("it is ours");
    assert!(bench.inside("1161", "web1", "cat /srv/www/public/link").contains("from the host"));
    bench.inside(
        "1161",
        "web2",
        "cd /srv/www/public && rm link && mv moved.txt note.txt && ln -s note.txt back && chmod 750 note.txt",
    );
    assert_eq!(fs::read_link(www.join("public/back")).expect("a link").to_str(), Some("note.txt"));
    assert_eq!(fs::metadata(www.join("public/note.txt")).expect("a file").permissions().mode() & 0o777, 0o750);
}

fn owners_are_mapped(bench: &Bench, www: &Path) {
    bench.inside("1161", "web1", "mkdir /srv/www/cache && echo x > /srv/www/cache/page");
    for name in ["cache", "cache/page"] {
        let meta = fs::metadata(www.join(name)).expect("it is there");
        assert_eq!((meta.uid(), meta.gid()), (ADA, ADA), "{name}");
    }
    let seen = bench.inside("1161", "web2", "stat -c %U:%G /srv/www /srv/www/public/index.php /srv/www/cache/page");
    assert_eq!(seen.matches("www-data:www-data").count(), 3, "{seen}");
    // The machine's root may write too, and never as the host's.
    bench
        .run("env:exec 1161 web1 -- sh -c cp${IFS}/bin/true${IFS}/srv/www/cache/tool;chmod${IFS}4755${IFS}/srv/www/cache/tool")
        .ok();
    let tool = fs::metadata(www.join("cache/tool")).expect("it is there");
    assert_eq!(tool.uid(), 100_000);
    fs::remove_dir_all(www.join("cache")).expect("it is there");
}

/// inotify, both ways.
fn changes_are_noticed(bench: &Bench, www: &Path) {
    let watch = "import os,sys\n\
                 from ctypes import CDLL\n\
                 c=CDLL(None); f=c.inotify_init(); assert c.inotify_add_watch(f,sys.argv[1].encode(),0x100)>=0\n\
                 print('ready',flush=True); print(b'sign' in os.read(f,4096),flush=True)";
    let mut host = Command::new("python3");
    host.args(["-c", watch]).arg(www.join("public"));
    notices(host, || drop(bench.inside("1161", "web1", "touch /srv/www/public/sign1")));
    let script = "perl -e 'require \"syscall.ph\" if 0; $f=syscall(253); syscall(254,$f,\"/srv/www/public\",0x100); \
                  $|=1; print \"ready\\n\"; open(F,\"<&=$f\"); sysread(F,$b,4096); print $b=~/sign/ ? \"True\\n\" : \"False\\n\"'";
    let inside = bench.adt.command(&["env:exec", "1161", "web2", "--", "sh", "-c", script]);
    notices(inside, || write(www, "public/sign2", ""));
    for name in ["sign1", "sign2"] {
        fs::remove_file(www.join("public").join(name)).expect("it is there");
    }
}

fn notices(mut watcher: Command, change: impl FnOnce()) {
    use std::io::{BufRead, BufReader};
    let mut child = watcher.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("it prints").expect("text");
    assert!(line().contains("ready"));
    change();
    assert!(line().contains("True"));
    assert!(child.wait().expect("it ends").success());
}

fn what_git_runs_stays_outside(bench: &Bench) {
    let list = bench.inside("1161", "web1", "ls -A /srv/www/.git | wc -l; (echo x > /srv/www/.git/config) 2>&1 || true");
    assert!(list.contains('0') && list.contains("Read-only"), "{list}");
}
