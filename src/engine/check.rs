//! `host:check`, `platform:check`, `env:check`: probes of what is really there, each with a verdict and a remedy.

use std::path::Path;

use super::Engine;
use super::bootstrap::REQUIREMENTS;
use crate::config;
use crate::model::response::{CheckItem, Checklist, Verdict};
use crate::model::{Check, EnvironmentId, EnvironmentName, Exec, Failure, MachineSpec, MachineState, PlatformName, Response};
use crate::network::{address, forward_trouble};
use crate::plan::{Goal, Seen, SeenNetwork, Wanted as WantedMachines, plan};
use crate::providers::Stdio;
use crate::store::{Environment, Wanted};

/// Below this a box build may not fit.
const LOW_SPACE: u64 = 5 << 30;

fn item(subject: impl Into<String>, verdict: Verdict, seen: impl Into<String>, remedy: Option<String>) -> CheckItem {
    CheckItem { subject: subject.into(), verdict, seen: seen.into(), remedy }
}

fn ok(subject: impl Into<String>, seen: impl Into<String>) -> CheckItem {
    item(subject, Verdict::Ok, seen, None)
}

fn fault(subject: impl Into<String>, seen: impl Into<String>, remedy: impl Into<String>) -> CheckItem {
    item(subject, Verdict::Fault, seen, Some(remedy.into()))
}

/// A check that could not be made is a fault among the others, not the end of the list.
fn told(subject: impl Into<String>, failure: &Failure, remedy: &str) -> CheckItem {
    fault(subject, failure.to_string(), failure.hints.first().map_or(remedy, String::as_str))
}

impl Engine {
    pub(super) fn host_check(&self) -> Result<Response, Failure> {
        let mut items: Vec<_> = self
            .settings
            .rows()
            .into_iter()
            .map(|(key, value, origin)| {
                let value = if value.is_empty() { "none".to_owned() } else { value };
                ok(format!("setting {key}"), format!("{value} ({origin})"))
            })
            .collect();
        items.extend(REQUIREMENTS.iter().map(|requirement| requirement.item()));
        items.push(match self.provider.ready() {
            Ok(seen) => ok(format!("provider {}", self.provider.capabilities().name), seen),
            Err(error) => fault("provider", error.to_string(), "adt host:bootstrap"),
        });
        items.push(self.check_space());
        items.push(self.check_pool().unwrap_or_else(|failure| told("store", &failure, "adt env:list")));
        items.push(match self.nameservers().as_slice() {
            [] => fault("name servers for machines", "none that a machine can reach", "set `nameservers` in /etc/adt/adt.toml"),
            some => ok("name servers for machines", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        });
        items.push(match forward_trouble() {
            None => ok("other firewalls", "none drops machines' traffic"),
            Some(trouble) => item("other firewalls", Verdict::Notice, trouble, None),
        });
        items.extend(self.check_orphans().unwrap_or_else(|failure| vec![told("networks", &failure, "adt env:list")]));
        Ok(Response::Check(Checklist { items }))
    }

    fn check_space(&self) -> CheckItem {
        let folder = &self.store.folder;
        let subject = format!("space for {}", folder.display());
        match rustix::fs::statvfs(folder) {
            Ok(stat) => {
                let free = stat.f_bavail * stat.f_frsize;
                let seen = format!("{:.1} GB free", free as f64 / 1e9);
                if free < LOW_SPACE {
                    item(subject, Verdict::Notice, seen, Some("adt box:prune".into()))
                } else {
                    ok(subject, seen)
                }
            }
            Err(error) => fault(subject, error.to_string(), "choose another `store` in /etc/adt/adt.toml"),
        }
    }

    fn check_pool(&self) -> Result<CheckItem, Failure> {
        let pool = self.settings.pool_v4.value;
        let taken: Vec<_> = self.store.database.environments(None)?.iter().map(|environment| environment.network).collect();
        let subject = format!("address pool {pool}");
        Ok(match address::allocate(pool, &taken, &self.network.routes()?) {
            Ok(next) => ok(subject, format!("{} networks in use, {next} is next", taken.len())),
            Err(error) => fault(subject, error.to_string(), "choose another `pool_v4` in /etc/adt/adt.toml"),
        })
    }

    /// Kernel objects of this store that no environment accounts for.
    fn check_orphans(&self) -> Result<Vec<CheckItem>, Failure> {
        let known = self.store.database.environments(None)?;
        let install = self.store.install();
        let orphans = self.network.list()?.into_iter().filter_map(|(_, note)| {
            let (owner, name) = note.split_once(' ')?;
            let mine = owner == install && !known.iter().any(|environment| environment.id.to_string() == name);
            mine.then(|| {
                let remedy = format!("adt env:destroy {}", name.replace('/', " "));
                fault(format!("network of {name}"), "there, but the environment is not", remedy)
            })
        });
        Ok(orphans.collect())
    }

    pub(super) fn env_check(&self, id: &EnvironmentId) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        Ok(Response::Check(Checklist { items: self.probe_environment(&environment)? }))
    }

    pub(super) fn platform_check(&self, platform: &PlatformName, names: &[EnvironmentName]) -> Result<Response, Failure> {
        let record = self.platform(platform)?;
        let file = record.folder.join("platform.toml");
        let mut items = vec![match self.read_platform(&record) {
            Ok(_) => ok(format!("{}", file.display()), "sound"),
            Err(failure) => told(file.display().to_string(), &failure, "correct the file"),
        }];
        items.extend(self.check_boxes(&file, platform));
        for environment in self.chosen(platform, names)? {
            items.extend(self.probe_environment(&environment)?);
        }
        Ok(Response::Check(Checklist { items }))
    }

    fn check_boxes(&self, file: &Path, platform: &PlatformName) -> Vec<CheckItem> {
        let Ok(definition) = config::platform::read(file) else { return Vec::new() };
        match self.boxes_of(&definition) {
            Ok(boxes) => boxes
                .into_iter()
                .map(|(name, built)| {
                    let subject = format!("box {name}");
                    if built {
                        ok(subject, "built")
                    } else {
                        let remedy = format!("adt platform:build {platform}");
                        item(subject, Verdict::Notice, "not built in its present form", Some(remedy))
                    }
                })
                .collect(),
            Err(failure) => vec![fault("boxes", failure.to_string(), "correct the recipe")],
        }
    }

    fn probe_environment(&self, environment: &Environment) -> Result<Vec<CheckItem>, Failure> {
        let id = &environment.id;
        let wanted = self.wanted(environment, &self.live_sites(environment)?);
        let seen = self.seen(id, &wanted, true)?;
        let again = format!("adt env:up {} {}", id.platform, id.name);
        match environment.wanted {
            Wanted::Up => {}
            Wanted::Halted | Wanted::Paused => return Ok(vec![halted(id, &wanted, &seen, again)]),
            Wanted::Gone => {
                let remedy = format!("adt env:destroy {} {}", id.platform, id.name);
                return Ok(vec![fault(id.to_string(), "its destroy was interrupted", remedy)]);
            }
        }
        let mut items = vec![match seen.network {
            SeenNetwork::Complete => ok(format!("{id} network"), environment.network.to_string()),
            SeenNetwork::Partly { .. } | SeenNetwork::Nothing => fault(format!("{id} network"), "not connected", again.as_str()),
        }];
        let specs: Vec<_> = wanted.machines.values().map(|machine| &machine.spec).collect();
        let probed: Vec<Vec<CheckItem>> = std::thread::scope(|scope| {
            let probes: Vec<_> = specs.iter().map(|spec| scope.spawn(|| self.probe_machine(spec, &seen, &again))).collect();
            probes.into_iter().map(|probe| probe.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        items.extend(probed.into_iter().flatten());
        Ok(items)
    }

    fn probe_machine(&self, spec: &MachineSpec, seen: &Seen, again: &str) -> Vec<CheckItem> {
        let id = &spec.id;
        let state = seen.machines.get(&id.machine).map_or(MachineState::Absent, |machine| machine.state.clone());
        if !matches!(state, MachineState::Running { .. }) {
            return vec![fault(id.to_string(), state.word(), again)];
        }
        let shell = format!("adt env:ssh {} {} {}", id.environment.platform, id.environment.name, id.machine);
        let mut items = vec![self.check_init(spec, &shell)];
        for check in &spec.health.checks {
            let subject = format!("{id} {}", asked(spec, check));
            items.push(match self.probe.ask(&*self.provider, spec, check) {
                Ok(()) => ok(subject, "answers"),
                Err(reason) => fault(subject, reason, shell.as_str()),
            });
        }
        items
    }

    fn check_init(&self, spec: &MachineSpec, shell: &str) -> CheckItem {
        let mut state = String::new();
        let stdio = Stdio::Pipes { stdin: None, each: &mut |_, line| line.clone_into(&mut state) };
        let asked = self.provider.exec(&spec.id, &Exec::new(["systemctl", "is-system-running"]), stdio);
        let subject = format!("{} init", spec.id);
        match (asked, state.as_str()) {
            (Err(error), _) => fault(subject, error.to_string(), shell),
            (Ok(_), "degraded") => fault(subject, self.failed_units(spec).join(", "), shell),
            (Ok(ended), _) if ended.code == 0 => ok(subject, "running"),
            (Ok(_), state) => item(subject, Verdict::Notice, state, None),
        }
    }
}

/// Halted is what was wanted; whether it is so is another question.
fn halted(id: &EnvironmentId, wanted: &WantedMachines, seen: &Seen, again: String) -> CheckItem {
    let rest = plan(Goal::Halted, wanted, seen);
    if rest.is_empty() {
        return item(id.to_string(), Verdict::Notice, "halted", Some(again));
    }
    let steps: Vec<_> = rest.steps().map(|step| step.action.to_string()).collect();
    let remedy = format!("adt env:halt {} {}", id.platform, id.name);
    fault(id.to_string(), format!("its halt was interrupted; left is to {}", steps.join(", ")), remedy)
}

fn asked(spec: &MachineSpec, check: &Check) -> String {
    let address = spec.network.v4;
    match check {
        Check::Tcp { port } => format!("tcp {address}:{port}"),
        Check::Http { port, path, host } => match host {
            Some(host) => format!("http {address}:{port}{path} as {host}"),
            None => format!("http {address}:{port}{path}"),
        },
        Check::Command { argv } => format!("command {}", argv.join(" ")),
        Check::Booted => "boot".to_owned(),
    }
}
