//! The programs of a release: what runs them inside a machine, what they may not do there, and what became of them.
//!
//! | phase | as | network | may write | system packages, sudo |
//! |---|---|---|---|---|
//! | buildpack | the site's user | yes | its tree, `HOME`, `/tmp` | refused |
//! | the others | the site's user | its own site, declared services | as the site's user | refused |
//!
//! None runs as root, none can become it, and none leaves a process behind. Unit changes (`systemctl reload nginx`) are done
//! for those that run on machines: root itself could leave any namespace, so it is not given out. Chosen are namespaces made by
//! `unshare`: what systemd's sandboxing options do depends on its version and on the host's cgroups, and some of them fall
//! away silently in a container. The kernel counts what found no route, so an attempt is known even where its program hid it.

use crate::model::{Exec, Failure, Kind};

/// Constant: whatever a platform or a repository says reaches it as arguments.
const PROGRAM: &str = include_str!("phase.sh");

/// Lines that begin with this are not the program's.
const MARK: char = '\u{1e}';

/// How many of its last lines are shown of a program that failed.
const TAIL: usize = 20;

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
}

impl Job {
    pub fn exec(&self) -> Exec {
        let namespaces = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let kind = if self.phase == Phase::Buildpack { "build" } else { "deploy" };
        let mut exec = Exec::new(namespaces.into_iter().chain(["--", "/bin/sh", "-c", PROGRAM, "adt", kind]));
        exec.argv.extend([self.user.clone(), self.tree.clone(), self.program.clone()]);
        exec.argv.extend(self.services.iter().cloned());
        exec.env.clone_from(&self.env);
        exec.cwd = Some("/".to_owned());
        exec.as_one_stream()
    }
}

/// What a phase may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    SystemPackages,
    Root,
    Network,
    OwnTree,
}

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemPackages => "no-system-packages",
            Self::Root => "no-root",
            Self::Network => "no-network",
            Self::OwnTree => "own-tree",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::SystemPackages => "system packages belong into the box",
            Self::Root => "programs of a release never run as root",
            Self::Network => "on machines nothing but the site itself and the services named by `network` is reached",
            Self::OwnTree => "a buildpack writes only into its tree, `HOME` and `/tmp`",
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
        }
    }

    /// The rule that forbids a program which was refused, as its words were written down.
    fn of_refused(line: &str) -> Self {
        let word = line.split_whitespace().next().unwrap_or_default();
        if ["sudo", "sudoedit", "su", "doas", "pkexec", "runuser"].contains(&word) { Self::Root } else { Self::SystemPackages }
    }
}

/// Reads what a running phase prints and remembers what counts.
#[derive(Debug, Default)]
pub struct Reader {
    tail: Vec<String>,
    code: Option<i32>,
    refused: Vec<String>,
    missed: u64,
    /// The program is not there (`absent`) or can't be run (`closed`).
    unusable: Option<&'static str>,
    /// Something was written where it may not.
    outside: Option<String>,
}

impl Reader {
    /// Takes a line; true if it is one of the program's own, to be shown.
    pub fn line(&mut self, line: &str) -> bool {
        let Some(word) = line.strip_prefix(MARK) else {
            if line.contains("Read-only file system") {
                self.outside = Some(line.to_owned());
            }
            if !line.trim().is_empty() {
                if self.tail.len() == TAIL {
                    self.tail.remove(0);
                }
                self.tail.push(line.to_owned());
            }
            return true;
        };
        let (key, value) = word.split_once(' ').unwrap_or((word, ""));
        match key {
            "code" => self.code = value.parse().ok(),
            "missed" => self.missed = value.parse().unwrap_or(0),
            "refused" => self.refused.push(value.to_owned()),
            "absent" => self.unusable = Some("is not in the release"),
            "closed" => self.unusable = Some("is not executable"),
            _ => {}
        }
        false
    }

    /// How it ended. `place` says where, e.g. "`shop/1161/web1`"; `code` is that of the whole.
    pub fn end(self, job: &Job, place: &str, code: i32) -> Result<(), Failure> {
        let (phase, program) = (job.phase.word(), &job.program);
        let failure = Failure::new(job.phase.kind(), format!("finish {phase} on {place}"));
        if let Some(reason) = self.unusable {
            let remedy = match reason {
                "is not executable" => format!("`git update-index --chmod=+x {program}` and commit it"),
                _ => format!("`{phase}` in platform.toml names a file of the repository, or one that the buildpack makes"),
            };
            return Err(failure.cause(format!("`{program}` {reason}")).hint(remedy));
        }
        if let Some((rule, line)) = self.broken() {
            let broke = format!("`{program}` broke the rule `{}`: {}", rule.name(), rule.sentence());
            return Err(failure.cause(broke).cause(line).tail(self.tail).hint(rule.remedy()));
        }
        match self.code {
            Some(0) => Ok(()),
            Some(code) => Err(failure.cause(format!("`{program}` ended with exit code {code}")).tail(self.tail)),
            // What runs the program failed itself, e.g. where a user is missing.
            None => Err(failure.cause(format!("the phase could not be set up, exit code {code}")).tail(self.tail)),
        }
    }

    /// The rule that was broken, whatever exit code the program hid it behind, and how that was seen.
    fn broken(&self) -> Option<(Rule, String)> {
        if let Some(line) = self.refused.first() {
            return Some((Rule::of_refused(line), format!("it ran `{line}`")));
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
        }
    }

    fn end(lines: &[&str]) -> Result<(), Failure> {
        let mut reader = Reader::default();
        for line in lines {
            reader.line(line);
        }
        reader.end(&job(), "`shop/1/web1`", 0)
    }

    #[test]
    fn what_a_platform_says_is_never_program_text() {
        let exec = job().exec();
        let program = exec.argv.iter().position(|word| word == PROGRAM).expect("it is an argument");
        assert_eq!(
            exec.argv[program + 1..],
            ["adt", "deploy", "www-data", "/srv/www.releases/0123", "deploy/pre; rm -rf /", "10.0.0.4:3306"]
        );
    }

    #[test]
    fn a_broken_rule_is_named_whatever_the_exit_code() {
        assert_eq!(end(&["hello", "\u{1e}missed 0", "\u{1e}code 0"]), Ok(()));
        for (lines, rule, seen) in [
            (&["\u{1e}refused apt-get install x", "\u{1e}code 0"][..], "no-system-packages", "apt-get install x"),
            (&["\u{1e}refused sudo apt install x", "\u{1e}code 1"], "no-root", "sudo apt install x"),
            (&["curl: (6)", "\u{1e}missed 2", "\u{1e}code 0"], "no-network", "2 times; it said `curl: (6)`"),
            (&["touch: x: Read-only file system", "\u{1e}code 1"], "own-tree", "touch: x"),
        ] {
            let failure = end(lines).unwrap_err();
            assert_eq!(failure.kind, Kind::Predeploy);
            assert!(failure.causes[0].contains(&format!("broke the rule `{rule}`")), "{failure}");
            assert!(failure.causes[1].contains(seen), "{failure}");
        }
        assert_eq!(end(&["x: Read-only file system", "\u{1e}code 0"]), Ok(()));
    }

    #[test]
    fn an_end_without_a_rule_tells_code_and_last_lines() {
        let failure = end(&["one", "", "two", "\u{1e}missed 0", "\u{1e}code 3"]).unwrap_err();
        assert!(failure.to_string().contains("finish predeploy on `shop/1/web1`"), "{failure}");
        assert!(failure.to_string().contains("ended with exit code 3"), "{failure}");
        assert_eq!(failure.tail, ["one", "two"]);
        assert!(end(&["\u{1e}absent", "\u{1e}code 0"]).unwrap_err().to_string().contains("is not in the release"));
        assert!(end(&["id: no such user"]).unwrap_err().to_string().contains("could not be set up"));
    }
}
