//! What is there right now: asked of the providers and the kernel at the beginning of each verb, never remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use crate::engine::Engine;
use crate::engine::check::probe;
use crate::engine::environment::standing::{Found, with_volumes};
use crate::engine::environment::wanted;
use crate::engine::site::code::LiveSites;
use crate::model::{EnvironmentId, Failure, Kind, MachineName, MachineSpec, MachineState};
use crate::plan::{Goal, Seen, SeenMachine, SeenNetwork, Wanted};
use crate::store::Environment;
use crate::tls;

impl Engine {
    /// The record of an environment, or the error that names what is known.
    pub(in crate::engine) fn environment(&self, id: &EnvironmentId) -> Result<Environment, Failure> {
        match self.store.database.environment(id)? {
            Some(environment) => Ok(environment),
            None => Err(self.no_environment(id)),
        }
    }

    pub(in crate::engine) fn no_environment(&self, id: &EnvironmentId) -> Failure {
        Failure::new(Kind::NotFound, format!("find the environment `{id}`"))
            .hint(format!("`adt env:list` shows what is there; `adt env:init {} {}` makes it", id.platform, id.name))
    }

    /// Machines ask the host's name servers, not adt's at their gateway: while that is down, the kernel says so at most once a
    /// second, and whoever hears nothing waits five. What they need of adt is in their `/etc/hosts`.
    pub(in crate::engine) fn wanted(&self, environment: &Environment, live: &LiveSites) -> Result<Wanted, Failure> {
        let domain = &environment.definition.domain;
        let authority = tls::Certificates::authority(&self.store.folder, domain, SystemTime::now());
        let authority = authority.map_err(|error| Failure::new(Kind::Store, "open the certificates").because(&error))?;
        let nameservers = self.nameservers();
        let around = wanted::Around { nameservers, trusted: [(domain.to_string(), authority.pem)].into() };
        Ok(wanted::wanted(self.store.install(), &around, environment, live))
    }

    /// Name servers that machines can reach: the settings' own, else the host's that are not on its loopback.
    pub fn nameservers(&self) -> Vec<IpAddr> {
        if !self.settings.nameservers.value.is_empty() {
            return self.settings.nameservers.value.clone();
        }
        // systemd-resolved keeps the real servers beside the stub that it puts into /etc/resolv.conf.
        ["/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf", "/etc/resolv.conf"]
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .map(|text| reachable_nameservers(&text))
            .find(|servers| !servers.is_empty())
            .unwrap_or_default()
    }

    /// Everything of one environment that matters for `goal`, whether a record of it exists or not.
    pub(in crate::engine) fn seen(
        &self,
        goal: Goal,
        id: &EnvironmentId,
        wanted: &Wanted,
        remembered: bool,
    ) -> Result<Seen, Failure> {
        let record = self.known(id)?;
        let tie = record.as_ref().and_then(wanted::tie);
        let network = self.network.seen(&wanted::tag(self.store.install(), id), tie.as_ref())?;
        let around = self.around_known(record.as_ref())?;
        let mut found = self.found(id, &around)?;
        for (machine, found) in &mut found {
            if let [provider] = found.on.iter().collect::<Vec<_>>()[..] {
                // Unlike the list, this waits for a start that is still going on although its command was killed.
                found.state = self.providers.get(provider)?.inspect(&id.machine(machine))?;
            }
        }
        let applied: BTreeMap<_, _> = self.store.database.applied(Some(id))?.into_iter().collect();
        // A delete that was killed at its end leaves a specification without a machine.
        for (name, spec) in &applied {
            let absent = || Found { on: [spec.provider.clone()].into(), state: MachineState::Absent };
            found.entry(name.clone()).or_insert_with(absent);
        }
        // What goes down is not asked whether it still works.
        let answers = if goal == Goal::Up { self.answers(&found, &applied, wanted) } else { BTreeMap::new() };
        let machines = found
            .into_iter()
            .map(|(name, Found { on, state })| {
                let answers = answers.get(&name).copied().unwrap_or(false);
                let applied = applied.get(&name).cloned();
                let seen = SeenMachine { state, on, applied, answers, releases: BTreeMap::new() };
                (name, seen)
            })
            .collect();
        Ok(Seen {
            network: match (network.complete(), network.nothing()) {
                (true, _) => SeenNetwork::Complete,
                (_, true) => SeenNetwork::Nothing,
                (false, false) => SeenNetwork::Partly { bridge: network.bridge },
            },
            machines,
            checkouts: BTreeSet::new(),
            stale: BTreeSet::new(),
            volumes: with_volumes(&around).any(|(_, volumes)| volumes.any(id)),
            remembered,
        })
    }

    /// Asks all running machines at the same time.
    fn answers(
        &self,
        found: &BTreeMap<MachineName, Found>,
        applied: &BTreeMap<MachineName, MachineSpec>,
        wanted: &Wanted,
    ) -> BTreeMap<MachineName, bool> {
        let running = found.iter().filter(|(_, found)| matches!(found.state, MachineState::Running { .. }));
        let asked = running.filter_map(|(name, found)| {
            let spec = wanted.machines.get(name).map(|machine| &machine.spec).or(applied.get(name))?;
            // One that moves is made anew, whether it answers or not.
            let provider = found.on.contains(&spec.provider).then(|| self.providers.of(spec).ok())??;
            Some((name.clone(), provider, spec))
        });
        std::thread::scope(|scope| {
            let asking: Vec<_> = asked
                .map(|(name, provider, spec)| (name, scope.spawn(|| probe::once(&*self.probe, provider, spec).is_ok())))
                .collect();
            asking.into_iter().map(|(name, asking)| (name, asking.join().unwrap_or(false))).collect()
        })
    }
}

fn reachable_nameservers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|address| address.trim().parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_stubs_are_no_use_inside_a_machine() {
        let text = "# made by x\nnameserver 127.0.0.53\nnameserver 192.0.2.7\nnameserver ::1\noptions edns0\n";
        assert_eq!(reachable_nameservers(text), ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    }
}
