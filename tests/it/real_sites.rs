//! Sites from git repositories on real machines: checked out in their person's folder, served from there, edited on either
//! side, brought to other branches, and never lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::adt::{Adt, Run};
use super::leftovers::kill;
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
pub struct Bench {
    pub adt: Adt,
    origins: PathBuf,
    shop: PathBuf,
}

impl Bench {
    pub fn new() -> Option<Self> {
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

    pub fn run(&self, words: &str) -> Run {
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

    pub fn site(&self, environment: &str, site: &str) -> PathBuf {
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

    /// The working tree that the next environment takes.
    fn spare(&self, site: &str) -> PathBuf {
        self.find_spare(site).unwrap_or_else(|| panic!("no spare of {site}"))
    }

    fn find_spare(&self, site: &str) -> Option<PathBuf> {
        let all = fs::read_dir(self.shop.join(".adt")).expect("there are spares").flatten();
        all.map(|entry| entry.path()).find(|path| {
            let is_sites = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{site}-")));
            is_sites && path.extension().is_none()
        })
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
    let deadline = Instant::now() + Duration::from_secs(60);
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
    let facts = "<?php echo '{{ site.branch }} in {{ env }} on {{ roles.web | length }} {{ secret(\"x\") }}';\n";
    write(&bench.origins.join("www.git"), "public/{{ site.name }}-facts.php.j2", facts);
    bench.commit("www.git", "a template");
    bench.branch("www.git", "1161", "ticket");
    bench.run("platform:init shop").ok();
    bench.run("env:init 1161 --dry-run").ok().says("check out www");
    assert!(!bench.shop.join("1161").exists());
    // A build makes trees ready, so that the very first environment need not write its files.
    bench.run("platform:build shop").ok();
    bench.settled();
    let spare = fs::metadata(bench.spare("www")).expect("a folder").ino();
    bench.run("env:init 1161").ok().says("www: branch `1161` (the ticket's)").says("api: branch `main` (default");
    let www = bench.site("1161", "www");
    assert_eq!(fs::metadata(&www).expect("a folder").ino(), spare, "the spare became the checkout");
    for machine in ["web1", "web2"] {
        let page = bench.page("1161", machine);
        assert!(page.contains(&format!("ticket {machine}")), "{page}");
    }
    bench.settled();
    let facts = get(&address(&bench.adt, "1161", "web2"), "www.1161.shop.example.test", "/www-facts.php");
    assert!(facts.contains("1161 in 1161 on 2 ") && !facts.contains("{{"), "{facts}");
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
    assert_eq!(git(www, &["fsck", "--no-dangling"]), "");
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
    let seen = bench.inside("1161", "web2", "stat -c %U:%G /srv/www/ /srv/www/public/index.php /srv/www/cache/page");
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
    let mut host =
        Command::new("python3").args(["-c", watch]).arg(www.join("public")).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(host.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("it prints").expect("text");
    assert_eq!(line(), "ready");
    bench.inside("1161", "web1", "touch /srv/www/public/sign1");
    assert_eq!(line(), "True");
    assert!(host.wait().expect("it ends").success());
    // systemd's path units know of nothing but inotify.
    let unit =
        ["env:exec", "1161", "web2", "--", "systemd-run", "--path-property=PathChanged=/srv/www/public", "touch", "/run/noticed"];
    assert!(bench.adt.command(&unit).output().expect("the program starts").status.success());
    write(www, "public/sign2", "");
    until("the machine notices", || bench.inside("1161", "web2", "ls /run").contains("noticed").then_some(()));
    for name in ["sign1", "sign2"] {
        fs::remove_file(www.join("public").join(name)).expect("it is there");
    }
}

fn what_git_runs_stays_outside(bench: &Bench) {
    let list = bench.inside("1161", "web1", "ls -A /srv/www/.git | wc -l; (echo x > /srv/www/.git/config) 2>&1 || true");
    assert!(list.contains('0') && list.contains("Read-only"), "{list}");
}

#[test]
fn sites_come_go_and_change_branches_while_machines_run() {
    let Some(bench) = Bench::new() else { return };
    bench.branch("www.git", "hotfix", "hot");
    bench.branch("www.git", "$(reboot)", "hostile");
    bench.branch("www.git", "fünf", "unicode");
    bench.branch("api", "feature/5-cart", "cart");
    bench.branch("api", "feature/6-a", "a");
    bench.branch("api", "feature/6-b", "b");
    bench.run("platform:init shop").ok();
    words_that_are_refused(&bench);
    bench
        .run("env:init 5 www:hotfix")
        .ok()
        .says("www: branch `hotfix` (chosen)")
        .says("api: branch `feature/5-cart` (the ticket's)");
    assert!(bench.page("5", "web2").contains("hot web2"));
    bench.run("env:list").ok().says("www@hotfix").says("api@feature/5-cart");
    bench.run("env:show 5").ok().says("feature/5-cart").says("live");
    bench.run("env:init 5 www:main").ok().says("stays at `hotfix`").says("site:branch shop 5 www main");
    switching(&bench);
    coming_and_going(&bench);
    two_environments_are_apart(&bench);
    for environment in ["5", "7"] {
        bench.run(&format!("env:destroy {environment} --yes")).ok();
    }
    bench.settled();
    bench.run("platform:destroy shop --yes").ok();
    assert!(!bench.shop.join(".adt").exists() && bench.shop.join("platform.toml").exists());
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
}

fn words_that_are_refused(bench: &Bench) {
    bench.run("env:init 6").fails(2).says("feature/6-a, feature/6-b").says("api:feature/6-a");
    bench.run("env:init 5 www:nosuch").fails(4).says("no branch `nosuch`").says("site `www`").says("hotfix");
    bench.run("env:init 5 nosuch:main").fails(4).says("www, api");
    for word in ["www:-x", "www:../x", "www:a\nb", "www:", "www:a b", "../www:main"] {
        let output = bench.adt.command(&["env:init", "shop", "5", word]).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{word}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(bench.run("env:list --json").ok().json(), serde_json::json!([]));
}

fn switching(bench: &Bench) {
    let www = bench.site("5", "www");
    let boots = bench.boots("5");
    for (branch, text) in [("$(reboot)", "hostile"), ("fünf", "unicode"), ("main", "one")] {
        let output = bench.adt.command(&["site:branch", "5", "www", branch]).output().expect("the program starts");
        assert!(output.status.success(), "{branch}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(bench.page("5", "web1").contains(text), "{branch}");
        assert_eq!(git(&www, &["rev-parse", "--abbrev-ref", "HEAD@{upstream}"]), format!("origin/{branch}"));
    }
    bench.run("site:branch 5 www main").ok().says("already");
    // A branch that came after the last fetch is fetched.
    bench.branch("www.git", "later", "later");
    bench.run("site:branch 5 www later --dry-run").ok().says("bring www to later");
    assert!(bench.page("5", "web1").contains("one"));
    bench.run("site:branch 5 www later").ok();
    assert!(bench.page("5", "web1").contains("later"));
    write(&www, "public/index.php", "<?php echo 'mine';");
    bench.run("site:branch 5 www main").fails(5).says("1 change there is not committed").says("git stash");
    assert!(bench.page("5", "web2").contains("mine"));
    git(&www, &["commit", "--all", "--quiet", "-m", "mine"]);
    bench.run("site:branch 5 www main").ok();
    bench.run("site:branch 5 www later").ok();
    assert!(bench.page("5", "web2").contains("mine"), "own commits come back with their branch");
    git(&www, &["push", "--quiet"]);
    assert_eq!(bench.boots("5"), boots, "no machine was restarted");
}

fn coming_and_going(bench: &Bench) {
    bench.run("env:init 7 api").ok();
    assert!(bench.site("7", "api").exists() && !bench.site("7", "www").exists());
    let boots = bench.boots("7");
    assert!(bench.page("7", "web1").contains("No site yet"));
    bench.run("site:add 7 nosuch").fails(4).says("www, api");
    bench.run("site:add 7 www:hotfix").ok().says("`www` is added to `shop/7`");
    bench.run("site:add 7 www").ok().says("already");
    assert!(bench.page("7", "web1").contains("hot web1"));
    assert!(bench.inside("7", "web1", "cat /etc/hosts").contains("www.7.shop"));
    bench.run("site:remove 7 api").fails(5).says("www needs it");
    bench.run("site:remove 7 www").ok().says("`www` is removed");
    bench.run("site:remove 7 www").ok().says("already");
    assert!(bench.page("7", "web2").contains("No site yet"));
    assert!(!bench.inside("7", "web2", "cat /etc/hosts").contains("www.7.shop"));
    // This one is there since the start: it is covered, and comes back over the cover.
    bench.run("site:remove 7 api").ok();
    assert!(!bench.site("7", "api").exists());
    assert!(bench.inside("7", "web1", "ls -A /srv/api | wc -l").contains('0'));
    bench.run("env:reload 7").ok();
    assert_eq!(bench.run("site:list 7 --json").ok().json(), serde_json::json!([]));
    bench.run("site:add 7 www").ok().says("needs api: added too");
    assert!(bench.inside("7", "web2", "cat /srv/api/public/index.php").contains("an interface"));
    assert!(bench.page("7", "web2").contains("one web2"));
    bench.run("env:up 7").ok().says("up already");
    assert_eq!(bench.boots("7"), boots, "no machine was restarted");
}

fn two_environments_are_apart(bench: &Bench) {
    write(&bench.site("7", "www"), "public/index.php", "<?php echo 'only seven';");
    assert!(bench.page("7", "web1").contains("only seven"));
    assert!(bench.page("5", "web1").contains("mine"));
    bench.run("site:list 7").ok().says("1 file changed");
    git(&bench.site("7", "www"), &["checkout", "--", "."]);
}

impl Bench {
    /// What changes with every start of a machine.
    fn boots(&self, environment: &str) -> Vec<String> {
        ["web1", "web2"].map(|machine| self.inside(environment, machine, "stat -c %Y%i /proc/1/ns/mnt /run/systemd")).to_vec()
    }
}

#[test]
fn origins_come_back_changed_or_not_at_all() {
    let Some(bench) = Bench::new() else { return };
    write(&bench.origins.join("www.git"), ".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = ../x\n");
    write(&bench.origins.join("www.git"), ".gitattributes", "*.zip filter=lfs\n");
    let first = bench.commit("www.git", "second");
    bench.run("platform:init shop").ok();
    fs::rename(bench.origins.join("api"), bench.origins.join("away")).expect("it is there");
    bench.run("env:init 1").fails(8).says("fetch the source of site `api`").says("git ls-remote");
    assert_eq!(bench.run("env:list --json").ok().json(), serde_json::json!([]));
    fs::rename(bench.origins.join("away"), bench.origins.join("api")).expect("it is there");
    bench.run("env:init 1").ok().says("its submodules are not fetched").says("LFS");
    bench.settled();
    assert!(bench.shop.join(".adt").read_dir().is_ok_and(|all| all.count() == 5), "two spares for each site, and the mark");

    // Without its origins a new environment comes all the same, from the mirrors and the spares.
    fs::rename(&bench.origins, bench.adt.path().join("gone")).expect("it is there");
    bench.forget_when_fetched();
    bench.run("env:init 2").ok().says("can't be reached").says("using its mirror of");
    assert!(bench.page("2", "web1").contains("one web1"));
    assert_eq!(git(&bench.site("2", "www"), &["status", "--porcelain", "--branch"]), "## main...origin/main");
    bench.settled();
    bench.run("site:branch 2 www nosuch").fails(8).says("fetch");
    fs::rename(bench.adt.path().join("gone"), &bench.origins).expect("it is there");

    // A rewritten branch: nothing that environments use is lost.
    let origin = bench.origins.join("www.git");
    git(&origin, &["reset", "--quiet", "--hard", "HEAD~1"]);
    let rewritten = bench.commit("www.git", "rewritten");
    git(&origin, &["branch", "-m", "main", "trunk"]);
    bench.forget_when_fetched();
    bench.run("env:up 1").ok();
    bench.settled();
    assert_eq!(git(&bench.spare("www"), &["rev-parse", "HEAD"]), rewritten, "the spare follows its branch");
    let code = bench.code("1", "www");
    assert_eq!(code["commit"], first);
    assert_eq!(code["drift"], serde_json::json!(["branch `main` is gone at its source"]));
    let www = bench.site("1", "www");
    assert_eq!(git(&www, &["fsck", "--no-dangling"]), "");
    assert_eq!(git(&www, &["rev-parse", "HEAD"]), first);
    bench.run("site:branch 1 www trunk").ok();
    assert_eq!(git(&www, &["rev-parse", "HEAD"]), rewritten);
    fs::remove_dir_all(&www).expect("it is there");
    bench.run("site:list 1").ok().says("its folder is gone");
    bench.run("env:up 1").ok();
    assert_eq!(git(&www, &["rev-parse", "HEAD"]), rewritten);
    write(&www, "public/index.php", "<?php echo 'there again';");
    assert!(bench.page("1", "web2").contains("there again"));
    git(&www, &["checkout", "--", "."]);
    bench.settled();
    bench.run("platform:destroy shop --yes").ok();
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
}

impl Bench {
    /// As if the mirrors had been fetched long ago.
    fn forget_when_fetched(&self) {
        for entry in fs::read_dir(self.adt.store().join("sources")).expect("mirrors").flatten() {
            fs::write(entry.path().join("adt-fetched"), "1700000000").expect("it is ours");
        }
    }
}

#[test]
fn spares_are_whole_whenever_their_making_is_killed() {
    let Some(bench) = Bench::new() else { return };
    let origin = bench.origins.join("www.git");
    for number in 0..500 {
        write(&origin, &format!("public/{}/{number}.txt", number % 20), "text");
    }
    bench.commit("www.git", "many files");
    bench.run("platform:init shop").ok();
    bench.run("platform:build shop").ok();
    bench.settled();
    let spares = bench.shop.join(".adt");
    let names = || fs::read_dir(&spares).expect("there are spares").flatten().map(|entry| entry.file_name().into_string());
    let mut last = String::new();
    for round in 0..8 {
        // One is to be made, and one to be brought to its branch.
        if let Some(first) = bench.find_spare("www") {
            fs::remove_dir_all(first).expect("it is ours");
        }
        for number in 0..200 {
            write(&origin, &format!("public/{}/{number}.txt", number % 20), &format!("text {round}"));
        }
        last = bench.commit("www.git", "changed");
        bench.forget_when_fetched();
        let mut making = bench.adt.command(&["internal:sources", "shop"]).spawn().expect("the program starts");
        let is_draft = |name: &Result<String, _>| name.as_ref().is_ok_and(|name: &String| name.ends_with(".draft"));
        until("a tree is begun", || {
            let ended = making.try_wait().expect("it is our child").is_some();
            (ended || names().any(|name| is_draft(&name))).then_some(())
        });
        std::thread::sleep(Duration::from_millis(round * 12));
        making.kill().expect("it is our child");
        making.wait().expect("it is our child");
        for name in names().map(|name| name.expect("names are plain")).filter(|name| !name.starts_with('.')) {
            assert_eq!(git(&spares.join(&name), &["status", "--porcelain"]), "", "round {round}: {name}");
        }
    }
    bench.run("internal:sources shop").ok();
    let trees: Vec<_> = names().map(|name| name.expect("names are plain")).filter(|name| name.starts_with("www-")).collect();
    assert_eq!(trees.len(), 2, "{trees:?}");
    for tree in trees.iter().map(|tree| spares.join(tree)) {
        assert_eq!(git(&tree, &["status", "--porcelain"]), "");
        assert_eq!(git(&tree, &["rev-parse", "HEAD"]), last);
    }
    assert!(!names().any(|name| name.is_ok_and(|name| name.ends_with(".draft"))));
    bench.run("platform:destroy shop --yes").ok();
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
}

/// Runs a command until a program of git's hangs, stops the command, and waits until that program is gone.
fn stopped_while(bench: &Bench, words: &str, config: &str) -> Run {
    // Ada's programs write there.
    let started = bench.origins.join("started");
    let hangs = bench.origins.join("hangs");
    let text = format!(
        "#!/bin/sh\n[ $# = 0 ] || \"$@\" | head -c 60\necho $$ > {0}.new\nmv {0}.new {0}\nsleep 1000\n",
        started.display()
    );
    fs::write(&hangs, text).expect("it is ours");
    fs::set_permissions(&hangs, PermissionsExt::from_mode(0o755)).expect("it is ours");
    let settings = bench.adt.path().join("gitconfig");
    fs::write(&settings, config.replace("HANGS", &hangs.display().to_string())).expect("it is ours");

    let split: Vec<_> = words.split_whitespace().collect();
    let mut command = bench.adt.command(&split);
    command.env("GIT_CONFIG_GLOBAL", &settings).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let hanging = until("git hangs", || fs::read_to_string(&started).ok());
    kill(i32::try_from(child.id()).expect("process numbers are small"), rustix::process::Signal::TERM);
    let output = child.wait_with_output().expect("it is our child");
    let stat = || fs::read_to_string(format!("/proc/{}/stat", hanging.trim())).unwrap_or_default();
    until("what git started is gone", || (stat().is_empty() || stat().contains(") Z ")).then_some(()));
    fs::remove_file(started).expect("it is there");
    Run {
        words: words.into(),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The second environment is destroyed; its tree goes behind the command, or behind any other where that was killed.
fn trees_are_removed_behind(bench: &Bench) {
    let aside = || {
        let all = fs::read_dir(bench.shop.join(".adt")).expect("there are spares").flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with(".gone-")).count()
    };
    bench.run("env:destroy 2 --yes").ok();
    assert!(!bench.shop.join("2").exists());
    until("its tree is removed", || (aside() == 0).then_some(()));
    write(&bench.shop, ".adt/.gone-before/www/index.php", "left by a removal that was killed");
    assert_eq!(aside(), 1);
    bench.run("env:list").ok();
    until("what was left is removed", || (aside() == 0).then_some(()));
    assert!(bench.spare("www").exists() && bench.site("1", "www").exists());
}

#[test]
fn git_can_be_stopped_in_the_middle() {
    let Some(bench) = Bench::new() else { return };
    write(&bench.origins.join("www.git"), ".gitattributes", "*.php filter=slow\n");
    bench.commit("www.git", "attributes");
    bench.branch("www.git", "2", "two");
    bench.run("platform:init shop").ok();

    let run = stopped_while(&bench, "env:init 1", "[uploadpack]\npackObjectsHook = HANGS\n");
    run.fails(130).says("cancelled").says("`adt env:init 1` goes on from here");
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
    let mirrors = fs::read_dir(bench.adt.store().join("sources")).expect("it was begun").flatten();
    let halves: Vec<_> = mirrors.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).collect();
    assert!(halves.is_empty(), "{halves:?}");
    bench.run("env:init 1").ok();
    assert!(bench.page("1", "web1").contains("one web1"));
    bench.settled();

    let run = stopped_while(&bench, "env:init 2", "[filter \"slow\"]\nsmudge = HANGS\n");
    run.fails(130).says("cancelled").says("`adt env:init 2` goes on from here");
    assert!(!bench.site("2", "www").exists(), "no half checkout is anybody's");
    bench.run("env:init 2").ok();
    assert!(bench.page("2", "web2").contains("two web2"));
    bench.settled();
    trees_are_removed_behind(&bench);
    bench.run("platform:destroy shop --yes").ok();
    assert_eq!(bench.adt.leftovers(), Vec::<String>::new());
}
