//! Releases on a server: from a ticket's site to the same site there, while visitors ask, and back.

use super::adt::{Adt, Run};
use super::real_deploy::Repository;
use super::real_target::{Agent, killed_at, promotion, server, there};

const PLATFORM: &str = r#"
[platform]
name = "shop"
[machines.web]
box = "web-php"
count = 2
[sites.www]
on = "web"
source = "REPOSITORY"
path = "/srv/www"
mode = "release"
health = "/health.php"
buildpack = "deploy/buildpack"
predeploy = "deploy/predeploy"
postdeploy = "deploy/postdeploy"
"#;

/// A site, a ticket of it, and a server.
struct Bench {
    adt: Adt,
    repository: Repository,
    platform: std::path::PathBuf,
}

impl Bench {
    fn new() -> Option<Self> {
        let adt = Adt::real()?.alone().env("ADT_GRACE_SECONDS", "60");
        let repository = Repository::new(&adt);
        repository.write("config/www.ini.j2", "{{ env }} {{ machine.name }} {{ site.release }} {{ secret('app') }}\n");
        repository.version("one");
        let text = PLATFORM.replace("REPOSITORY", &repository.0.display().to_string());
        let platform = adt.platform_toml("shop", &text).join("platform.toml");
        adt.run("platform:init shop").ok();
        adt.run("env:init 1161").ok();
        Some(Self { adt, repository, platform })
    }

    fn there(&self, script: &str) -> Run {
        there(&self.adt, "shop-production", script)
    }

    /// What each web machine on the server says, asked itself.
    fn pages(&self) -> String {
        let page = "curl -sS --max-time 10 http://localhost/; echo";
        self.there(&format!("for web in web1 web2; do adt env:exec shop/production $web -- sh -c '{page}'; done")).ok().stdout
    }

    #[track_caller]
    fn serve(&self, version: &str) {
        assert_eq!(self.pages(), format!("{version}+made-{version}\n").repeat(2));
    }

    /// When each machine's init began, in ticks since the host's.
    fn began(&self) -> String {
        self.there("for web in web1 web2; do adt env:exec shop/production $web -- cut -d' ' -f22 /proc/1/stat; done").ok().stdout
    }

    fn deploy(&self, version: &str) {
        self.repository.version(version);
        self.adt.run("site:deploy shop 1161 www").ok();
    }
}

/// Every release has one content on both sides, and everything that the server said of itself is well.
#[track_caller]
fn is_proven(promotion: &serde_json::Value, commit: &str) {
    let releases = promotion["releases"].as_array().expect("a list");
    assert_eq!((releases.len(), releases[0]["commit"].as_str()), (1, Some(commit)), "{promotion:#}");
    assert!(releases[0]["here"].is_string() && releases[0]["here"] == releases[0]["there"], "{promotion:#}");
    let checks = promotion["checks"]["items"].as_array().expect("a list");
    assert!(!checks.is_empty() && checks.iter().all(|item| item["verdict"] == "ok"), "{promotion:#}");
}

/// Asks through the server's own proxy, without a pause, until [`ENOUGH`]; each answer that is none is written down.
const VISITS: &str = "rm -f /root/enough /root/bad; n=0
    host=www.production.shop.example.test
    while ! test -e /root/enough; do
        n=$((n+1))
        page=$(curl -sSk --fail --max-time 10 https://$host/ 2>&1) || echo \"$page\" >>/root/bad
        case $page in one+made-one|two+made-two) ;; *) echo \"$page\" >>/root/bad ;; esac
    done
    echo $n >/root/asked";
const ENOUGH: &str =
    "touch /root/enough; until test -e /root/asked; do sleep 0.1; done; cat /root/asked; cat /root/bad 2>/dev/null || true";

#[test]
fn a_site_goes_to_a_server_with_its_release_and_comes_back() {
    let Some(bench) = Bench::new() else { return };
    let (adt, repository) = (&bench.adt, &bench.repository);
    let one = repository.head();
    let rehearse = "target:rehearse production --from 1161 --keep --json";
    is_proven(&promotion(&adt.run(rehearse).ok()), &one);
    bench.serve("one");
    adt.run(rehearse).ok().says("nothing to do");

    let (address, print) = server(adt, "shop-production");
    let text = std::fs::read_to_string(&bench.platform).expect("it was written above");
    let text = format!("{text}\n[targets.production]\nservers = [\"root@{address}\"]\nhost_key = \"{print}\"\n");
    std::fs::write(&bench.platform, &text).expect("the folder is ours");
    let (agent, adt) = Agent::of(bench.adt);
    let bench = Bench { adt, ..bench };
    let (adt, repository) = (&bench.adt, &bench.repository);
    let promote = "env:promote shop 1161 production";

    // Facts and secrets are the server's environment's own.
    let ini = |machine: &str| {
        let text = adt.run(&format!("env:exec {machine} -t production -p shop -- cat /srv/www/config/www.ini")).ok().stdout;
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        assert_eq!((words.len(), words[0].as_str(), words[1].as_str()), (4, "production", machine), "{text}");
        words[3].clone()
    };
    let at_home = adt.run("env:ssh shop 1161 web1 -- cat /srv/www/config/www.ini").ok().stdout;
    assert!(ini("web1") == ini("web2") && !at_home.contains(&ini("web1")));

    // A new version: nothing but the release goes, and visitors see the old or the new.
    let began = bench.began();
    bench.deploy("two");
    let two = repository.head();
    let plan = adt.run(&format!("{promote} --dry-run")).fails(14);
    assert!(plan.stdout.contains("site `www` gets release") && plan.stdout.contains(&two[..10]), "{plan:?}");
    assert!(!plan.stdout.contains("web1"), "{plan:?}");
    bench.serve("one");
    killed_at(adt, promote, ": send …");
    bench.there("adt host:bind-proxy && adt host:up --detach").ok();
    bench.there(&format!("setsid sh -c '{VISITS}' >/dev/null 2>&1 </dev/null &")).ok();
    killed_at(adt, promote, "www on web1: switch");
    adt.run("target:check shop production").fails(13).says("it was cut off");
    is_proven(&promotion(&adt.run(&format!("{promote} --json")).ok()), &two);
    let asked = bench.there(ENOUGH).ok().stdout;
    assert!(asked.trim().parse::<u32>().is_ok_and(|asked| asked > 20), "failed visits: {asked}");
    bench.serve("two");
    assert_eq!(bench.began(), began, "machines were started anew");
    assert_eq!(bench.there("ls -A /var/lib/adt/releases | grep -c '^\\.'").stdout.trim(), "0");
    adt.run(promote).ok().says("nothing to do");
    adt.run("target:check shop production").ok().says(&format!("commit {}", &two[..10]));
    let sites = adt.run("site:list -t production -p shop --json").ok().json();
    assert_eq!(sites[0]["code"]["commit"].as_str(), Some(two.as_str()), "{sites:#}");
    adt.run("site:deploy www -t production -p shop").fails(2).says("env:promote");
    bench.there("adt site:deploy shop/production www").fails(5).says("env:promote");

    // What one could go back to is kept, and comes back.
    bench.there("adt box:prune").ok();
    is_proven(&promotion(&adt.run("env:rollback shop production --json").ok()), &one);
    bench.serve("one");
    adt.run("env:rollback shop production").ok().says("nothing to do");
    is_proven(&promotion(&adt.run(&format!("{promote} --json")).ok()), &two);
    bench.serve("two");

    // With its data: what was written since goes, and that is told before.
    adt.run("env:exec web1 -t production -p shop -- touch /root/since").ok();
    let back = "env:rollback shop production --data";
    adt.run(back).fails(2).says("there is no terminal");
    adt.run(&format!("{back} --dry-run")).fails(14).says("lose ");
    is_proven(&promotion(&adt.run(&format!("{back} --yes --json")).ok()), &one);
    bench.serve("one");
    adt.run("env:exec web1 -t production -p shop -- test -e /root/since").fails(1);
    is_proven(&promotion(&adt.run(&format!("{promote} --json")).ok()), &two);
    bench.serve("two");

    // One of two machines can't take it: both keep what they have, and the next promotion is like any other.
    repository.script("postdeploy", "test \"$ADT_ENVIRONMENT.$ADT_MACHINE\" != production.web2\nsystemctl reload apache2");
    bench.deploy("three");
    let failed = adt.run(promote).fails(22).says("postdeploy on `shop/production/web2`");
    assert!(failed.stderr.contains("stay on release"), "{failed:?}");
    bench.serve("two");
    repository.script("postdeploy", "systemctl reload apache2");
    // A checkout, as below, is all machines' own, so its templates know none.
    repository.write("config/www.ini.j2", "{{ env }}\n");
    bench.deploy("four");
    is_proven(&promotion(&adt.run(&format!("{promote} --json")).ok()), &repository.head());
    bench.serve("four");

    // Files that were changed there are found.
    bench.there("for file in /var/lib/adt/releases/*/tree.tar.zst; do printf x >>$file; done").ok();
    adt.run("target:check shop production").fails(13).says("its files were changed there");

    of_a_checkout(&bench, &text);
    drop(agent);
    adt.run("env:destroy rehearsal shop-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy shop --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Of a live site goes the commit that its checkout is at, if that is all that it has.
fn of_a_checkout(bench: &Bench, text: &str) {
    let Bench { adt, platform, .. } = bench;
    std::fs::write(platform, text.replace("mode = \"release\"", "mode = \"live\"")).expect("the folder is ours");
    adt.run("env:init shop 1162").ok();
    let promote = "env:promote shop 1162 production";
    let checkout = platform.with_file_name("1162").join("www");
    std::fs::write(checkout.join("version"), "five").expect("the folder is ours");
    adt.run(promote).fails(5).says("has 1 change that no commit has").says("git stash");
    let git = |words: &[&str]| {
        let identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"];
        let output = std::process::Command::new("git").arg("-C").arg(&checkout).args(identity).args(words).output();
        let output = output.expect("git is there");
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    git(&["commit", "--quiet", "--all", "--message", "five"]);
    adt.run(promote).fails(5).says("is nowhere but in").says("git push");
    git(&["push", "--quiet", "origin", "HEAD:refs/heads/five"]);
    adt.run(&format!("{promote} --dry-run")).fails(14).says("which is built first");
    is_proven(&promotion(&adt.run(&format!("{promote} --json")).ok()), &git(&["rev-parse", "HEAD"]));
    bench.serve("five");
    adt.run(promote).ok().says("nothing to do");
}
