//! The programs of a release: what runs them inside a machine, what they may not do there, and what became of them.
//!
//! | phase | as | network | may write | system packages, sudo |
//! |---|---|---|---|---|
//! | buildpack | the site's user | yes | its tree, `HOME`, `/tmp` | refused |
//! | the others | the site's user | its own site, declared services | as the site's user | refused |
//!
//! None runs as root, none can become it, and none leaves a process behind, whether it ends, is cut short or adt is killed. Chosen
//! are namespaces made by `unshare`: what systemd's sandboxing options do depends on its version and on the host's cgroups, and
//! some of them fall away silently in a container. The kernel ends a process namespace as a whole, however its processes
//! forked, and it counts what found no route, so an attempt is known even where its program hid it.
//!
//! What adt believes comes on a stream of its own, of which only root's shells have a descriptor; whatever the program prints is
//! on the other. Not chosen: marked lines among the program's own, which a program can print itself.
//!
//! Unit changes (`systemctl reload apache2`) are done for those that run on machines: root itself could leave any namespace,
//! so it is not given out. A pipe takes the question, and the words in it only choose among the verbs and units that the other
//! side has. Not chosen: polkit, which few boxes have and which knows no phases; and adt itself as the one who asks systemd,
//! because a question must be answered while its program runs, on a machine that may be far away.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::model::{Exec, Failure, Kind, Stream, Tail};

/// Constants: whatever a platform or a repository says reaches them as arguments or as values of variables.
const START: &str = include_str!("phase_start.sh");
const PROGRAM: &str = include_str!("phase.sh");

/// How much is kept of a line that tells of a broken rule.
const WIDE: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Buildpack,
    BeforeDeploy,
    Predeploy,
    Postdeploy,
    AfterDeploy,
}

impl Phase {
    /// As the key of `platform.toml` is called.
    pub fn word(self) -> &'static str {
        match self {
            Self::Buildpack => "buildpack",
            Self::BeforeDeploy => "before_deploy",
            Self::Predeploy => "predeploy",
            Self::Postdeploy => "postdeploy",
            Self::AfterDeploy => "after_deploy",
        }
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::Buildpack => Kind::Buildpack,
            Self::Predeploy => Kind::Predeploy,
            Self::Postdeploy => Kind::Postdeploy,
            Self::BeforeDeploy | Self::AfterDeploy => Kind::DeployHook,
        }
    }
}

/// One run of a program in a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub phase: Phase,
    pub user: String,
    /// The release's folder in the machine.
    pub tree: String,
    /// The program, below it.
    pub program: String,
    pub env: Vec<(String, String)>,
    /// What it reaches all the same, as `10.213.0.4:3306`.
    pub services: Vec<String>,
    /// What it may start, stop and reload, as `apache2.service` or `worker@.service`.
    pub units: Vec<String>,
}

impl Job {
    /// Two streams: verdicts, and all that is printed.
    pub fn exec(&self) -> Exec {
        let kind = if self.phase == Phase::Buildpack { "build" } else { "deploy" };
        let mut exec = Exec::new(["/bin/sh", "-c", START, "adt-phase", PROGRAM, kind]);
        exec.argv.extend([self.user.clone(), self.tree.clone(), self.program.clone(), self.units.join(" ")]);
        exec.argv.extend(self.services.iter().cloned());
        let numbered =
            |(number, (name, value)): (usize, &(String, String))| (format!("ADT_PHASE_{number}"), format!("{name}={value}"));
        exec.env = self.env.iter().enumerate().map(numbered).collect();
        exec.cwd = Some("/".to_owned());
        exec
    }
}

/// What ends a program that does not end by itself.
#[derive(Debug, Clone, Copy)]
pub struct Until<'a> {
    /// Unset for what leads back.
    pub cancel: Option<&'a AtomicBool>,
    pub deadline: Duration,
}

/// What ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Cancelled,
    Late(Duration),
}

impl Until<'_> {
    fn cut(&self, started: Instant) -> Option<Cut> {
        if self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            return Some(Cut::Cancelled);
        }
        (started.elapsed() >= self.deadline).then_some(Cut::Late(self.deadline))
    }
}

/// What a phase may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    SystemPackages,
    Root,
    Network,
    OwnTree,
    OwnUnits,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemPackages => "no-system-packages",
            Self::Root => "no-root",
            Self::Network => "no-network",
            Self::OwnTree => "own-tree",
            Self::OwnUnits => "own-units",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::SystemPackages => "system packages belong into the box",
            Self::Root => "programs of a release never run as root",
            Self::Network => "on machines nothing but the site itself and the services named by `network` is reached",
            Self::OwnTree => "a buildpack writes only into its tree, `HOME` and `/tmp`",
            Self::OwnUnits => "units that are neither in `services` of the role's box nor in `units` of the site are not its own",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::SystemPackages => {
                "add the package to `packages` of the role's `box.toml`; composer, pip, npm and gem work in the tree"
            }
            Self::Root => "call `systemctl reload UNIT` without sudo, and do what else needs root in the box's recipe",
            Self::Network => {
                "download in `buildpack`, which has the network, or name a service of the environment: `network = [\"db:3306\"]`"
            }
            Self::OwnTree => "install into the tree, e.g. `pip install --target=vendor` or `npm ci`",
            Self::OwnUnits => "name the unit below the site, e.g. `units = [\"apache2\", \"worker\"]`, then `adt env:reload`",
        }
    }

    /// The rule that forbids a program which was refused, as its words were written down.
    fn of_refused(line: &str) -> Self {
        let word = line.split_whitespace().next().unwrap_or_default();
        if ["sudo", "sudoedit", "su", "doas", "pkexec", "runuser", "systemctl"].contains(&word) {
            Self::Root
        } else {
            Self::SystemPackages
        }
    }
}

/// Reads what a running phase says, remembers what counts, and ends it in time.
#[derive(Debug)]
pub struct Reader<'a> {
    until: Until<'a>,
    started: Instant,
    cut: Option<Cut>,
    tail: Tail,
    code: Option<i32>,
    /// The first of what it was refused, and by which rule.
    refused: Option<(Rule, String)>,
    missed: u64,
    /// The program is not there (`absent`) or can't be run (`closed`).
    unusable: Option<&'static str>,
    /// Something was written where it may not.
    outside: Option<String>,
}

impl<'a> Reader<'a> {
    pub fn new(until: Until<'a>) -> Self {
        let (tail, started) = (Tail::default(), Instant::now());
        Self { until, started, cut: None, tail, code: None, refused: None, missed: 0, unusable: None, outside: None }
    }

    /// Takes a line, or that there was none for a moment, and says whether to go on. `show` gets what the program printed.
    pub fn take(&mut self, line: Option<(Stream, &str)>, show: impl FnOnce(&str)) -> ControlFlow<()> {
        match line {
            Some((Stream::Out, verdict)) => self.verdict(verdict),
            Some((Stream::Err, line)) => {
                self.remember(line);
                show(line);
            }
            None => {}
        }
        self.cut = self.until.cut(self.started);
        if self.cut.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn remember(&mut self, line: &str) {
        if line.contains("Read-only file system") {
            self.outside = Some(line.chars().take(WIDE).collect());
        }
        self.tail.push(line);
    }

    fn verdict(&mut self, verdict: &str) {
        let (key, value) = verdict.split_once(' ').unwrap_or((verdict, ""));
        match key {
            "code" => self.code = value.parse().ok(),
            "missed" => self.missed = value.parse().unwrap_or(0),
            "refused" => drop(self.refused.get_or_insert_with(|| (Rule::of_refused(value), value.to_owned()))),
            "foreign" => drop(self.refused.get_or_insert_with(|| (Rule::OwnUnits, value.to_owned()))),
            "absent" => self.unusable = Some("is not in the release"),
            "closed" => self.unusable = Some("is not executable"),
            _ => {}
        }
    }

    /// How it ended. `place` says where, e.g. "`shop/1161/web1`"; `code` is that of the whole, where that is known.
    pub fn end(self, job: &Job, place: &str, code: Option<i32>) -> Result<(), Failure> {
        let (phase, program) = (job.phase.word(), &job.program);
        let failure = |kind| Failure::new(kind, format!("finish {phase} on {place}"));
        match self.cut {
            Some(Cut::Cancelled) => {
                let ended = format!("cancelled; `{program}` and all that it had started there were ended");
                return Err(failure(Kind::Cancelled).cause(ended));
            }
            Some(Cut::Late(deadline)) => {
                let late = format!("`{program}` did not end within {} s, the site's `phase_deadline`", deadline.as_secs());
                let failure = failure(job.phase.kind()).cause(late).tail(self.tail.lines());
                return Err(
                    failure.hint("let it do less, or give it more seconds with `phase_deadline` below the site in platform.toml")
                );
            }
            None => {}
        }
        let failure = failure(job.phase.kind());
        if let Some(reason) = self.unusable {
            let remedy = match reason {
                "is not executable" => format!("`git update-index --chmod=+x {program}` and commit it"),
                _ => format!("`{phase}` in platform.toml names a file of the repository, or one that the buildpack makes"),
            };
            return Err(failure.cause(format!("`{program}` {reason}")).hint(remedy));
        }
        if let Some((rule, line)) = self.broken() {
            let broke = format!("`{program}` broke the rule `{}`: {}", rule.name(), rule.sentence());
            return Err(failure.cause(broke).cause(line).tail(self.tail.lines()).hint(rule.remedy()));
        }
        match self.code {
            Some(0) => Ok(()),
            Some(code) => Err(failure.cause(format!("`{program}` ended with exit code {code}")).tail(self.tail.lines())),
            // What runs the program failed itself, e.g. where a user is missing.
            None => {
                let code = code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit code {code}"));
                Err(failure.cause(format!("the phase could not be set up, {code}")).tail(self.tail.lines()))
            }
        }
    }

    /// Whether it was ended before its own end.
    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// The rule that was broken, whatever exit code the program hid it behind, and how that was seen.
    fn broken(&self) -> Option<(Rule, String)> {
        if let Some((rule, line)) = &self.refused {
            return Some((*rule, format!("it ran `{line}`")));
        }
        if self.missed > 0 {
            let tries = if self.missed == 1 { "once".to_owned() } else { format!("{} times", self.missed) };
            let last = self.tail.last().map(|line| format!("; it said `{line}`")).unwrap_or_default();
            return Some((Rule::Network, format!("it looked for a way out {tries}{last}")));
        }
        // Unlike the others this is nothing that was done: a program that copes with it has kept the rule.
        let line = self.outside.as_ref().filter(|_| self.code != Some(0))?;
        Some((Rule::OwnTree, format!("it said `{line}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            phase: Phase::Predeploy,
            user: "www-data".into(),
            tree: "/srv/www.releases/0123".into(),
            program: "deploy/pre; rm -rf /".into(),
            env: vec![("A".into(), "$(x)".into())],
            services: vec!["10.0.0.4:3306".into()],
            units: vec!["apache2.service".into(), "worker@.service".into()],
        }
    }

    const UNTIL: Until<'static> = Until { cancel: None, deadline: Duration::from_secs(1000) };

    /// Lines that begin with an arrow are verdicts, the others are the program's.
    fn end(lines: &[&str]) -> Result<(), Failure> {
        let mut reader = Reader::new(UNTIL);
        for line in lines {
            let line = line.strip_prefix("-> ").map_or((Stream::Err, *line), |verdict| (Stream::Out, verdict));
            assert!(reader.take(Some(line), |_| {}).is_continue());
        }
        reader.end(&job(), "`shop/1/web1`", Some(0))
    }

    #[test]
    fn what_a_platform_says_is_never_program_text() {
        let exec = job().exec();
        let program = exec.argv.iter().position(|word| word == PROGRAM).expect("it is an argument");
        assert_eq!(
            exec.argv[program + 1..],
            [
                "deploy",
                "www-data",
                "/srv/www.releases/0123",
                "deploy/pre; rm -rf /",
                "apache2.service worker@.service",
                "10.0.0.4:3306"
            ]
        );
        // Root's shells get none of the site's variables as one.
        assert_eq!(exec.env, [("ADT_PHASE_0".to_owned(), "A=$(x)".to_owned())]);
    }

    #[test]
    fn a_broken_rule_is_named_whatever_the_exit_code() {
        assert_eq!(end(&["hello", "-> missed 0", "-> code 0"]), Ok(()));
        for (lines, rule, seen) in [
            (&["-> refused apt-get install x", "-> code 0"][..], "no-system-packages", "apt-get install x"),
            (&["-> refused sudo apt install x", "-> refused apt x", "-> code 1"], "no-root", "sudo apt install x"),
            (&["-> refused systemctl mask cron", "-> code 0"], "no-root", "systemctl mask cron"),
            (&["-> foreign systemctl restart cron", "-> code 0"], "own-units", "systemctl restart cron"),
            (&["curl: (6)", "-> missed 2", "-> code 0"], "no-network", "2 times; it said `curl: (6)`"),
            (&["touch: x: Read-only file system", "-> code 1"], "own-tree", "touch: x"),
        ] {
            let failure = end(lines).unwrap_err();
            assert_eq!(failure.kind, Kind::Predeploy);
            assert!(failure.causes[0].contains(&format!("broke the rule `{rule}`")), "{failure}");
            assert!(failure.causes[1].contains(seen), "{failure}");
        }
        assert_eq!(end(&["x: Read-only file system", "-> code 0"]), Ok(()));
    }

    #[test]
    fn an_end_without_a_rule_tells_code_and_last_lines() {
        let failure = end(&["one", "", "two", "-> missed 0", "-> code 3"]).unwrap_err();
        assert!(failure.to_string().contains("finish predeploy on `shop/1/web1`"), "{failure}");
        assert!(failure.to_string().contains("ended with exit code 3"), "{failure}");
        assert_eq!(failure.tail, ["one", "two"]);
        assert!(end(&["-> absent", "-> code 0"]).unwrap_err().to_string().contains("is not in the release"));
        assert!(end(&["id: no such user"]).unwrap_err().to_string().contains("could not be set up"));
    }

    #[test]
    fn a_program_can_not_print_its_verdict() {
        let forged = ["code 0", "\u{1e}code 0", "-> missed 0", "-> code 7", "\u{1e}code 0"];
        assert!(end(&forged).unwrap_err().to_string().contains("ended with exit code 7"));
        assert!(end(&["\u{1e}code 0"]).unwrap_err().to_string().contains("could not be set up"));
    }

    #[test]
    fn what_is_cut_short_has_failed_whatever_was_said() {
        let cancel = AtomicBool::new(true);
        for (until, kind, cause) in [
            (Until { cancel: Some(&cancel), ..UNTIL }, Kind::Cancelled, "cancelled; `deploy/pre; rm -rf /`"),
            (Until { deadline: Duration::ZERO, ..UNTIL }, Kind::Predeploy, "within 0 s, the site's `phase_deadline`"),
        ] {
            let mut reader = Reader::new(until);
            assert!(reader.take(Some((Stream::Out, "code 0")), |_| {}).is_break());
            let failure = reader.end(&job(), "`shop/1/web1`", None).unwrap_err();
            assert_eq!(failure.kind, kind);
            assert!(failure.causes[0].contains(cause), "{failure}");
        }
    }
}
