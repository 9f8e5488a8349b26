//! Examines one environment: the way to each of its sites, and each of its machines by itself.

use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::engine::Engine;
use crate::engine::check::browser::Path;
use crate::engine::check::certificate::Judge;
use crate::engine::environment::{routes, wanted};
use crate::model::response::{CheckItem, CheckStep};
use crate::model::seat::Peer;
use crate::model::{Check, Domain, EnvironmentId, Exec, Failure, MachineSpec, MachineState};
use crate::plan::{Goal, Seen, SeenNetwork, Wanted as WantedMachines, plan};
use crate::providers::Stdio;
use crate::resolver::System;
use crate::store::{Environment, Wanted};
use crate::{tls, trust};

/// Who was not answered greets again after five seconds.
const GREETING: Duration = Duration::from_secs(6);
/// Seconds after which WireGuard takes no word of an end any more that did not greet anew.
const SILENT: i64 = 180;

impl Engine {
    /// Every step from the names to the applications, in that order.
    pub(in crate::engine) fn examine(&self, environment: &Environment) -> Result<Vec<CheckItem>, Failure> {
        let id = &environment.id;
        let wanted = self.wanted(environment, &self.live_sites(environment)?)?;
        let seen = self.seen(Goal::Up, id, &wanted, true)?;
        let again = format!("adt env:up {} {}", id.platform, id.name);
        match environment.wanted {
            Wanted::Up => {}
            Wanted::Halted | Wanted::Paused => return Ok(vec![halted(id, &wanted, &seen, again)]),
            Wanted::Gone => {
                let remedy = format!("adt env:destroy {} {}", id.platform, id.name);
                return Ok(vec![CheckItem::fault(id.to_string(), "its destroy was interrupted", remedy)]);
            }
        }
        let network = match seen.network {
            SeenNetwork::Complete => CheckItem::ok(id.to_string(), format!("network {}", environment.network)),
            SeenNetwork::Partly { .. } | SeenNetwork::Nothing => {
                CheckItem::fault(id.to_string(), "its network is not connected", again.as_str())
            }
        };
        let specs: Vec<_> = wanted.machines.values().map(|machine| &machine.spec).collect();
        let (mut items, probed) = std::thread::scope(|scope| {
            let probes: Vec<_> = specs.iter().map(|spec| scope.spawn(|| self.examine_machine(spec, &seen, &again))).collect();
            let walked = self.walk(environment);
            let probed =
                probes.into_iter().flat_map(|probe| probe.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            (walked, probed.collect::<Vec<_>>())
        });
        items.push(network.at(CheckStep::Machine));
        items.extend(self.check_ties(environment)?.into_iter().map(|item| item.at(CheckStep::Machine)));
        items.extend(probed);
        items.extend(self.check_world(environment));
        // Stable: within a step the order stays.
        items.sort_by_key(|item| item.step);
        Ok(items)
    }

    /// Whether the other servers that carry it are heard.
    fn check_ties(&self, environment: &Environment) -> Result<Vec<CheckItem>, Failure> {
        let Some(seat) = &environment.definition.seat else { return Ok(Vec::new()) };
        let tag = wanted::tag(self.store.install(), &environment.id);
        let others: Vec<_> = seat.servers.iter().filter(|(name, _)| **name != seat.own).collect();
        let since = Instant::now();
        let heard = loop {
            let heard = self.network.heard(&tag)?;
            // One that came this instant is heard within seconds.
            if since.elapsed() > GREETING || others.iter().all(|(_, peer)| heard.contains_key(&peer.key)) {
                break heard;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let item = |(name, peer): &(&String, &Peer)| {
            let subject = format!("{} to {name}", environment.id);
            match heard.get(&peer.key).map(|time| self.now().saturating_sub(*time)) {
                Some(age) if age <= SILENT => CheckItem::ok(subject, format!("tied, heard {} s ago", age.max(0))),
                age => {
                    let seen = age.map_or("was never heard".to_owned(), |age| format!("not heard for {age} s"));
                    let remedy = format!(
                        "let UDP through between the servers, at port {} of {}",
                        peer.endpoint.port(),
                        peer.endpoint.ip()
                    );
                    CheckItem::fault(subject, seen, remedy)
                }
            }
        };
        Ok(others.iter().map(item).collect())
    }

    /// The way to each site, as far as it can be gone without looking into machines.
    pub(in crate::engine) fn walk(&self, environment: &Environment) -> Vec<CheckItem> {
        let route = routes::environment(self.store.install(), environment);
        if route.sites.is_empty() {
            return Vec::new();
        }
        let path = self.path(&[&route.domain]);
        let mut items: Vec<_> = std::thread::scope(|scope| {
            let walks: Vec<_> = route.sites.iter().map(|site| scope.spawn(|| path.walk(&route, site))).collect();
            walks.into_iter().flat_map(|walk| walk.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        items.extend(self.check_browsers(&route.domain, &self.homes()).into_iter().map(|item| item.at(CheckStep::Certificate)));
        items
    }

    /// What this host and adt have to say about ways to sites of these domains.
    fn path(&self, domains: &[&Domain]) -> Path {
        let ours: Vec<_> = domains.iter().map(|domain| self.authority(domain).unwrap_or_default()).collect();
        Path {
            listen: self.settings.listen.value,
            system: System::detect(FilePath::new("/")),
            pages: self.pages_served(),
            names: self.names_served(),
            trusted: Judge::of(&trust::System::believed()),
            ours: Judge::of(ours.concat().as_bytes()),
            untrusted: domains.iter().filter(|domain| !self.is_trusted(domain)).map(|domain| (*domain).clone()).collect(),
        }
    }

    /// The certificate that signs for a domain; none was made before names were served for the first time.
    pub(in crate::engine) fn authority(&self, domain: &Domain) -> Option<String> {
        tls::authority_pem(&self.store.folder, domain).ok().flatten()
    }

    /// Whether programs of this host, and not just the folder they are given, believe the domain's authority.
    pub(in crate::engine) fn is_trusted(&self, domain: &Domain) -> bool {
        let Some(own) = self.authority(domain).and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok()) else {
            return false;
        };
        let Ok(bundle) = trust::System::find().map(|system| system.bundle()) else { return false };
        CertificateDer::pem_file_iter(bundle).is_ok_and(|all| all.flatten().any(|one| one == own))
    }

    fn examine_machine(&self, spec: &MachineSpec, seen: &Seen, again: &str) -> Vec<CheckItem> {
        let id = &spec.id;
        let state = seen.machines.get(&id.machine).map_or(MachineState::Absent, |machine| machine.state.clone());
        if !matches!(state, MachineState::Running { .. }) {
            return vec![CheckItem::fault(id.to_string(), state.word(), again).at(CheckStep::Machine)];
        }
        let shell = format!("adt env:ssh {} {} {}", id.environment.platform, id.environment.name, id.machine);
        let mut items = vec![self.check_init(spec, &shell).at(CheckStep::Machine)];
        for check in &spec.health.checks {
            items.extend(self.ask_machine(spec, check, &shell));
        }
        items
    }

    /// The port first: a closed one says nothing about the application behind it.
    fn ask_machine(&self, spec: &MachineSpec, check: &Check, shell: &str) -> Vec<CheckItem> {
        let subject = spec.id.to_string();
        let ask = |check: &Check, what: String| {
            let provider = self.providers.of(spec).map_err(|error| error.to_string());
            match provider.and_then(|provider| self.probe.ask(provider, spec, check)) {
                Ok(()) => CheckItem::ok(subject.as_str(), what),
                Err(reason) => CheckItem::fault(subject.as_str(), reason, shell),
            }
        };
        let port = |port: u16| ask(&Check::Tcp { port }, format!("port {port} accepts")).at(CheckStep::Machine);
        match check {
            Check::Tcp { port: number } => vec![port(*number)],
            Check::Http { port: number, path, .. } => {
                let open = port(*number);
                if open.remedy.is_some() {
                    return vec![open];
                }
                vec![open, ask(check, format!("GET {path} answers")).at(CheckStep::Application)]
            }
            Check::Command { argv } => {
                vec![ask(check, format!("`{}` succeeds", argv.join(" "))).at(CheckStep::Application)]
            }
            // The machine's own line says so.
            Check::Booted => Vec::new(),
        }
    }

    fn check_init(&self, spec: &MachineSpec, shell: &str) -> CheckItem {
        let mut state = String::new();
        let stdio = Stdio::Pipes { stdin: None, each: &mut |_, line| line.clone_into(&mut state) };
        let exec = Exec::new(["systemctl", "is-system-running"]);
        let asked = self.providers.of(spec).and_then(|provider| provider.exec(&spec.id, &exec, stdio));
        let subject = spec.id.to_string();
        match (asked, state.as_str()) {
            (Err(error), _) => CheckItem::fault(subject, error.to_string(), shell),
            (Ok(_), "degraded") => {
                CheckItem::fault(subject, format!("runs, with units that failed: {}", self.failed_units(spec).join(", ")), shell)
            }
            (Ok(ended), _) if ended.code == 0 => CheckItem::ok(subject, "runs"),
            (Ok(_), state) => CheckItem::notice(subject, format!("runs; its init is {state}"), None),
        }
    }
}

/// Halted is what was wanted; whether it is so is another question.
fn halted(id: &EnvironmentId, wanted: &WantedMachines, seen: &Seen, again: String) -> CheckItem {
    let rest = plan(Goal::Halted, wanted, seen);
    if rest.is_empty() {
        return CheckItem::notice(id.to_string(), "halted", Some(again));
    }
    let steps: Vec<_> = rest.steps().map(|step| step.action.to_string()).collect();
    let remedy = format!("adt env:halt {} {}", id.platform, id.name);
    CheckItem::fault(id.to_string(), format!("its halt was interrupted; left is to {}", steps.join(", ")), remedy)
}
