//! A release whose own programs are the adversary: they want root's verbs, another verdict, to stay, or to hold the deploy for
//! ever. After each attempt the machine is as it was, the old release serves, and the next command finds the lock free.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::adt::Adt;
use super::leftovers::kill;
use super::real_deploy::{Repository, body};
use super::real_hello::address;

/// Waits for the condition; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What no program of a release may leave running: each attempt that starts something starts this.
const STAYS: &str = "sleep 98765";

/// What must be the same before and after: masked and failed units, who runs since when, what lies where.
const STATE: &str = "set -e
systemctl list-unit-files --no-legend --no-pager --state=masked
systemctl list-units --no-legend --no-pager --plain --state=failed
systemctl show --property=MainPID,ActiveState,NeedDaemonReload dbus systemd-journald systemd-logind apache2
stat -c %Z /proc/1
ls -A / /etc /etc/cron.d /etc/systemd/system /run/systemd/system /usr/local/bin /srv /var/lib
readlink /srv/www
ls -A /srv/www.releases
pgrep -f '[s]leep 98765' || true
";

/// One machine that serves `one+x` as a release, built of harmless programs.
struct Shop {
    adt: Adt,
    repository: Repository,
    address: String,
    state: String,
    versions: u32,
}

const FINE: [(&str, &str); 3] = [("buildpack", "test -e built"), ("predeploy", "true"), ("postdeploy", "true")];
/// Without it nothing is built: that costs a machine each time.
const BUILT: &str = "buildpack = \"deploy/buildpack\"";

impl Shop {
    /// `keys` are more lines of the site.
    fn open(keys: &str) -> Option<Self> {
        let adt = Adt::real()?;
        let repository = Repository::new(&adt);
        for (phase, text) in FINE {
            repository.script(phase, text);
        }
        repository.write("built", "x");
        repository.version("one");
        let source = repository.0.display();
        let text = format!(
            "[platform]\nname = \"shop\"\n[machines.web]\nbox = \"web-php\"\n[sites.www]\non = \"web\"\nsource = \"{source}\"\n\
             path = \"/srv/www\"\nmode = \"release\"\nkeep = 2\nhealth = \"/health.php\"\n\
             predeploy = \"deploy/predeploy\"\npostdeploy = \"deploy/postdeploy\"\n{keys}\n"
        );
        adt.platform_toml("shop", &text);
        adt.run("platform:init shop").ok();
        adt.run("env:init 1161").ok();
        let mut shop = Self { address: address(&adt, "1161", "web"), state: String::new(), versions: 0, adt, repository };
        // What runs when it is first asked runs already, and a unit's file is newer than what systemd knows of it.
        shop.inside("systemctl start dbus systemd-logind; touch /lib/systemd/system/dbus.service");
        shop.state = shop.inside(STATE);
        assert!(shop.state.contains("NeedDaemonReload=yes"), "{}", shop.state);
        Some(shop)
    }

    /// A program of the machine's own root.
    fn inside(&self, script: &str) -> String {
        let output = self.adt.command(&["env:ssh", "1161", "web", "--", "sh", "-c", script]).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Commits a release that is harmless but for this program.
    fn attempt(&mut self, attempt: &[(&str, &str)]) {
        for (phase, text) in FINE.iter().chain(attempt) {
            self.repository.script(phase, text);
        }
        self.versions += 1;
        self.repository.version(&format!("attempt {}", self.versions));
    }

    #[track_caller]
    fn is_as_before(&self, attempt: &str) {
        assert_eq!(body(&self.address), "one+x", "after {attempt}");
        // Takes the lock, and finds nothing to mend.
        self.adt.run("env:up 1161").ok().says("up already");
        let now = self.inside(STATE);
        let lines = |of: &str, lacks: &str| of.lines().filter(|line| !lacks.lines().any(|one| one == *line)).collect::<String>();
        assert!(now == self.state, "after {attempt}: {} became {}", lines(&self.state, &now), lines(&now, &self.state));
    }

    /// Deploys, and does this to the command as soon as it says `mark`; its exit code and what it said.
    fn deploy_until(&self, mark: &str, mut act: impl FnMut(i32)) -> (Option<i32>, String) {
        let mut child = self
            .adt
            .command(&["site:deploy", "1161", "www"])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let pid = i32::try_from(child.id()).expect("process numbers are small");
        let (mut said, mut acted) = (String::new(), false);
        for line in BufReader::new(child.stderr.take().expect("stderr is piped")).lines() {
            let line = line.expect("it is text");
            said += &format!("{line}\n");
            if !acted && line.contains(mark) {
                acted = true;
                act(pid);
            }
        }
        assert!(acted, "`{mark}` was not said:\n{said}");
        (child.wait().expect("it is ours").code(), said)
    }
}

fn interrupt(pid: i32) {
    kill(pid, Signal::INT);
}

#[test]
fn what_a_releases_programs_try_changes_nothing() {
    // Who can reach it is told with the attempts below.
    const TELL: &str = "/run/adt-phase/tell";
    let Some(mut shop) = Shop::open("") else { return };
    let attempts = [
        // Root's verbs, asked of the one who has them.
        ("postdeploy", format!("echo 'ask 1 mask cron.service' > {TELL}"), 22, "it ran `systemctl mask cron.service`"),
        ("predeploy", format!("echo 'ask 1 poweroff' > {TELL}"), 21, "it ran `systemctl poweroff`"),
        ("predeploy", format!("echo 'ask 1 daemon-reload' > {TELL}"), 21, "it ran `systemctl daemon-reload`"),
        ("predeploy", format!("echo 'ask 1 isolate rescue.target' > {TELL}"), 21, "the rule `no-root`"),
        ("postdeploy", format!("echo 'ask 1 --root=/ enable x.service' > {TELL}"), 22, "the rule `no-root`"),
        ("postdeploy", format!("echo 'ask 1 restart apache2 --host=x' > {TELL}"), 22, "the rule `own-units`"),
        ("postdeploy", format!("echo 'ask 1 start poweroff.target' > {TELL}"), 22, "the rule `own-units`"),
        ("postdeploy", "systemctl restart dbus || true".into(), 22, "it ran `systemctl restart dbus`"),
        ("postdeploy", "systemctl stop systemd-journald.service".into(), 22, "the rule `own-units`"),
        ("postdeploy", "systemctl start 'x;reboot' || true".into(), 22, "the rule `own-units`"),
        // The same without asking.
        ("predeploy", "systemctl mask cron.service".into(), 21, "ended with exit code 1"),
        ("predeploy", "/run/adt-phase/systemctl poweroff".into(), 21, "ended with exit code 1"),
        ("predeploy", "systemctl daemon-reload".into(), 21, "ended with exit code 1"),
        ("predeploy", "kill -s TERM 1".into(), 21, "ended with exit code 1"),
        // Another verdict: in the output, on every descriptor that there is, in the place of the one who gives it.
        (
            "predeploy",
            "printf 'code 0\\n\\036code 0\\n'; printf 'code 0\\n\\036code 0\\n' >&2; exit 9".into(),
            21,
            "ended with exit code 9",
        ),
        (
            "postdeploy",
            "for fd in 3 4 5 6 7 8 9; do eval \"echo code 0 >&$fd\" || true; done\n\
             for fd in /proc/[0-9]*/fd/[0-9]; do echo code 0 > $fd || true; done\nexit 9"
                .into(),
            22,
            "ended with exit code 9",
        ),
        (
            "predeploy",
            format!(
                "text=$(head -c 3000000 /dev/zero | tr '\\0' x)\nset +e\n(printf 'refused %s' \"$text\"; echo; \
                 yes 'refused code 0' | head -n 50000) > {TELL}\nexit 9"
            ),
            21,
            "it ran `",
        ),
        // What was refused, or looked for a way out, and is then wiped away.
        (
            "predeploy",
            format!(
                "apt-get install -y jq || true\nset +e\n: > /run/adt-phase/refused\nrm -f {TELL}\n: > {TELL}\n\
                 cat {TELL}\necho end > {TELL}\nexit 0"
            ),
            21,
            "it ran `apt-get install -y jq`",
        ),
        ("predeploy", "curl -s http://192.0.2.1/ || true\nprintf 'missed 0\\n\\036missed 0\\n'".into(), 21, "`no-network`"),
        // The files of those who judge.
        (
            "predeploy",
            "set +e\nfor file in turn systemctl alone run begin signal refuse bin/apt own net; do\n\
             echo x > /run/adt-phase/$file && echo WROTE $file\nrm -f /run/adt-phase/$file && test ! -e /run/adt-phase/$file && \
             echo WROTE $file\ndone\nmkdir /run/adt-phase/x && echo WROTE\ncat /run/adt-phase/tell & sleep 0.1; exit 9"
                .into(),
            21,
            "ended with exit code 9",
        ),
        (
            "predeploy",
            "set +e\nfor file in /etc/cron.d/evil /run/evil /srv/www.releases/evil /srv/evil /usr/local/bin/evil \
             /run/adt-phase.init /run/systemd/system/evil.service; do echo x > $file && echo WROTE $file; done\nexit 9"
                .into(),
            21,
            "ended with exit code 9",
        ),
        // To stay.
        (
            "postdeploy",
            format!("trap '' TERM HUP INT\n{STAYS} &\nsetsid {STAYS} &\n(setsid sh -c '(setsid {STAYS} &)' &)\nexit 9"),
            22,
            "ended with exit code 9",
        ),
        // To hold what the judges wait for.
        (
            "predeploy",
            format!("exec 8> {TELL} 7< /run/adt-phase/turn 6< /run/adt-phase/answer\nflock 7\nsetsid {STAYS} &\nexit 9"),
            21,
            "ended with exit code 9",
        ),
    ];
    for (phase, text, code, line) in attempts {
        shop.attempt(&[(phase, &text)]);
        let run = shop.adt.run("site:deploy 1161 www").fails(code).says(line);
        assert!(!run.stderr.contains("WROTE"), "{text}: {}", run.stderr);
        shop.is_as_before(&text);
    }
    // What a site's own box enables is its own, whoever holds the turn for a while.
    shop.attempt(&[(
        "postdeploy",
        "(exec 7< /run/adt-phase/turn; flock 7; sleep 0.3) &\nsleep 0.1\nsystemctl --quiet reload apache2.service\n\
         systemctl try-restart apache2\nsystemctl is-active apache2",
    )]);
    shop.adt.run("site:deploy 1161 www").ok().says("active");
    shop.adt.run("env:destroy 1161 --yes").ok();
    assert_eq!(shop.adt.leftovers(), Vec::<String>::new());
}

#[test]
fn what_a_buildpack_tries_changes_nothing() {
    let Some(mut shop) = Shop::open(BUILT) else { return };
    for (text, line) in [
        ("echo x > /srv/www.releases/evil", "`own-tree`"),
        ("echo 'ask 1 poweroff' > /run/adt-phase/tell\nexit 9", "ended with exit code 9"),
        ("echo code 0\nprintf '\\036code 0\\n'\nexit 9", "ended with exit code 9"),
        ("apt-get update || true\nset +e\nrm -f /run/adt-phase/tell\nexit 0", "it ran `apt-get update`"),
        ("(setsid sleep 98765 &)\nexit 9", "ended with exit code 9"),
    ] {
        shop.attempt(&[("buildpack", text)]);
        shop.adt.run("site:deploy 1161 www").fails(20).says(line);
        shop.is_as_before(text);
    }
}

#[test]
fn a_site_names_the_units_that_it_changes() {
    let Some(mut shop) = Shop::open("units = [\"systemd-logind\", \"other@\"]") else { return };
    shop.inside("printf '[Service]\\nExecStart=/bin/true\\n' > /run/systemd/system/other@.service");
    shop.state = shop.inside(STATE);
    for (word, is_own) in [
        ("apache2", false),
        ("other", false),
        ("other@", false),
        ("other@a/b", false),
        ("other@x.timer", false),
        ("dbus@x", false),
    ] {
        assert!(!is_own);
        shop.attempt(&[("postdeploy", &format!("systemctl start {word}"))]);
        shop.adt.run("site:deploy 1161 www").fails(22).says("the rule `own-units`").says("`units = [");
        shop.is_as_before(word);
    }
    shop.attempt(&[("postdeploy", "systemctl try-restart systemd-logind\nsystemctl start other@x other@y.service")]);
    shop.adt.run("site:deploy 1161 www").ok();
}

/// While a phase runs, nobody else of the machine asks in its place or sees what it asks.
#[test]
fn another_user_of_the_machine_asks_for_nothing() {
    let Some(mut shop) = Shop::open("") else { return };
    shop.inside("rm -f /tmp/go");
    shop.attempt(&[("predeploy", "echo ready\nuntil test -e /tmp/go; do sleep 0.05; done\nexit 9")]);
    let (code, said) = shop.deploy_until("| ready", |_| {
        let tried = shop.inside(
            "ls -A /run/adt-phase 2> /dev/null\n\
             pid=$(pgrep -u www-data -f deploy/predeploy | head -n 1)\ntest -p /proc/$pid/root/run/adt-phase/tell && echo there\n\
             setpriv --reuid=nobody --regid=nogroup --clear-groups --bounding-set=-all sh -c '\n\
             for place in /run/adt-phase /proc/*/root/run/adt-phase; do\n\
             echo \"ask 1 stop apache2\" > $place/tell && echo ASKED\n\
             cat $place/turn && echo READ\ndone' 2> /dev/null\ntouch /tmp/go",
        );
        assert_eq!(tried, "there\n");
    });
    assert_eq!(code, Some(21), "{said}");
    shop.is_as_before("another user");
}

/// Hears no signal, and has a child that left its session.
const DEAF: &str = "trap '' TERM INT HUP\nsetsid sleep 98765 &\necho ready\nwhile :; do sleep 98765; done";

#[test]
fn the_first_ctrl_c_ends_the_phase_and_goes_back() {
    let Some(mut shop) = Shop::open(BUILT) else { return };
    for phase in ["buildpack", "predeploy", "postdeploy"] {
        for (text, kept) in
            [(DEAF, "ready"), ("trap 'echo tidied; exit 3' TERM\necho ready\nwhile :; do sleep 0.1; done", "ready")]
        {
            shop.attempt(&[(phase, text)]);
            let (code, said) = shop.deploy_until(kept, interrupt);
            assert_eq!(code, Some(130), "{phase}: {said}");
            assert!(said.contains(&format!("could not finish {phase} on")), "{said}");
            assert!(
                said.contains(&format!("cancelled; `deploy/{phase}` and all that it had started there were ended")),
                "{said}"
            );
            assert!(phase == "buildpack" || said.contains("web stay on release"), "{said}");
            shop.is_as_before(phase);
        }
    }
    // The site never answers.
    shop.repository.write("public/health.php", "<?php http_response_code(500);");
    shop.attempt(&[("postdeploy", "echo ready")]);
    let (code, said) = shop.deploy_until("ready", interrupt);
    assert_eq!(code, Some(130), "{said}");
    shop.is_as_before("the wait for health");
}

#[test]
fn the_first_ctrl_c_ends_a_copy() {
    let Some(mut shop) = Shop::open(BUILT) else { return };
    // A tree that takes for ever to copy: half a terabyte without a block on the disk.
    shop.attempt(&[("buildpack", "truncate -s 500G large\necho ready")]);
    let (code, said) = shop.deploy_until("ready", |pid| {
        let copied = || {
            let find = walkdir::WalkDir::new(shop.adt.store().join("releases")).into_iter().flatten();
            find.filter(|entry| entry.file_name() == "large").any(|entry| entry.metadata().is_ok_and(|meta| meta.len() > 0))
        };
        let since = Instant::now();
        while !copied() {
            assert!(since.elapsed() < PATIENCE, "the copy does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        interrupt(pid);
    });
    assert_eq!(code, Some(130), "{said}");
    shop.is_as_before("the copy of a tree");

    // Somebody in the machine who may stops the one that unpacks.
    shop.attempt(&[("buildpack", "head -c 200000000 /dev/urandom > large")]);
    let (code, said) = shop.deploy_until("pack the release (", |pid| {
        shop.inside("until pkill -STOP -u www-data -x tar; do sleep 0.01; done");
        interrupt(pid);
    });
    assert_eq!(code, Some(130), "{said}");
    assert_eq!(shop.inside("ps -eo stat,ppid,args | grep '[t]ar --extract' || true"), "");
    shop.is_as_before("the copy to a machine");

    // git writes a file of the commit through a filter, which takes for ever.
    let started = shop.adt.path().join("started");
    let mirrors = std::fs::read_dir(shop.adt.store().join("sources")).expect("there is one").flatten();
    let mirror = mirrors.map(|entry| entry.path()).find(|path| path.join("HEAD").exists()).expect("of the shop");
    let filter = format!("touch {}; exec sleep 97531", started.display());
    let set = ["-C".as_ref(), mirror.as_os_str(), "config".as_ref(), "filter.slow.smudge".as_ref(), filter.as_ref()];
    assert!(Command::new("git").args(set).status().expect("git is there").success());
    shop.repository.write(".gitattributes", "built filter=slow\n");
    shop.attempt(&[]);
    let (code, said) = shop.deploy_until("read the commit", |pid| {
        let since = Instant::now();
        while !started.exists() {
            assert!(since.elapsed() < PATIENCE, "git does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        interrupt(pid);
    });
    assert_eq!(code, Some(130), "{said}");
    shop.is_as_before("the reading of a commit");
    // A time of this test's own: others' programs are seen from here, too.
    let left = Command::new("pgrep").args(["-f", "[s]leep 97531"]).output().expect("pgrep is there");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
}

#[test]
fn a_second_ctrl_c_and_a_kill_leave_nothing_that_goes_on() {
    let Some(mut shop) = Shop::open("") else { return };
    let gone = |shop: &Shop| {
        let since = Instant::now();
        while !shop.inside("pgrep -f '[s]leep 98765' || true").is_empty() {
            assert!(since.elapsed() < PATIENCE, "the phase goes on");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    shop.attempt(&[("predeploy", DEAF)]);
    let (code, said) = shop.deploy_until("ready", |pid| {
        interrupt(pid);
        // It has heard the first: two of a kind that are not yet delivered are one.
        let since = Instant::now();
        let pending = || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
        };
        while pending() {
            assert!(since.elapsed() < PATIENCE);
        }
        interrupt(pid);
    });
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("stay on release"), "{said}");
    gone(&shop);
    assert_eq!(body(&shop.address), "one+x");
    shop.adt.run("env:up 1161").ok().says("up already");

    // The machine knows who the phase is.
    shop.attempt(&[("predeploy", DEAF)]);
    shop.deploy_until("ready", |pid| {
        shop.inside("read -r pid since < /run/adt-phase.init\ntest \"$(cut -d' ' -f22 /proc/$pid/stat)\" = $since\ngrep -q adt-phase /proc/$pid/cmdline");
        kill(pid, Signal::KILL);
    });
    gone(&shop);
    // Its heart would beat on, had nobody ended it with its caller: the next phase does before it begins.
    shop.inside(
        "systemd-run --quiet --collect --unit=heart sh -c 'trap \"\" TERM HUP INT; while :; do date +%N > /tmp/beat; done'\n\
         until test -s /tmp/beat; do sleep 0.01; done\npid=$(systemctl show --property=MainPID --value heart)\n\
         echo \"$pid $(cut -d' ' -f22 /proc/$pid/stat)\" > /run/adt-phase.init",
    );
    let still = "a=$(cat /tmp/beat)\nsleep 0.5\ntest \"$a\" = \"$(cat /tmp/beat)\"";
    shop.attempt(&[("predeploy", still), ("postdeploy", "false")]);
    shop.adt.run("site:deploy 1161 www").fails(22);
    shop.is_as_before("a kill");
    shop.adt.run("env:destroy 1161 --yes").ok();
    assert_eq!(shop.adt.leftovers(), Vec::<String>::new());
}

/// So many seconds are much for a program that does nothing, also where others keep the host busy.
const SHORT: u32 = 20;

#[test]
fn a_phase_that_does_not_end_is_ended_at_its_deadline() {
    let Some(mut shop) = Shop::open(&format!("{BUILT}\nphase_deadline = {SHORT}")) else { return };
    for (phase, code, text) in [
        ("buildpack", 20, "yes $(head -c 100000 /dev/zero | tr '\\0' x)"),
        ("predeploy", 21, DEAF),
        ("predeploy", 21, "cat /run/adt-phase/answer /dev/zero"),
        ("postdeploy", 22, DEAF),
    ] {
        shop.attempt(&[(phase, text)]);
        let deploy = shop.adt.run("site:deploy 1161 www").fails(code);
        let late = format!("`deploy/{phase}` did not end within {SHORT} s, the site's `phase_deadline`");
        deploy.says(&format!("could not finish {phase} on")).says(&late);
        shop.is_as_before(text);
    }
    // The old release's own program is in the way of going back: that has a deadline too, and the next command goes on.
    let hangs = "test ! -e /tmp/hang || sleep 98765";
    shop.attempt(&[("postdeploy", hangs)]);
    shop.adt.run("site:deploy 1161 www").ok();
    let page = body(&shop.address);
    shop.attempt(&[("postdeploy", "touch /tmp/hang\nexit 9")]);
    shop.adt
        .run("site:deploy 1161 www")
        .fails(22)
        .says("exit code 9")
        .says(&format!("did not end within {SHORT} s"))
        .says("`adt env:up shop 1161`");
    shop.inside("rm /tmp/hang\n! pgrep -f '[s]leep 98765'");
    shop.adt.run("env:up 1161").ok();
    assert_eq!(body(&shop.address), page);
    shop.adt.run("env:up 1161").ok().says("up already");
}
