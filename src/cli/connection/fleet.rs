//! The engines on a target's servers as one: what is about a machine goes to the server that it stands on, everything else to all of
//! them, and their answers are told as one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use super::remote::Remote;
use super::service::unexpected;
use super::{Connection, EachSaid, Io};
use crate::engine::Engine;
use crate::engine::logs::{Query, Said};
use crate::model::response::{
    CheckItem, Checklist, Done, EnvironmentDetail, EnvironmentState, EnvironmentSummary, SiteDetail, SnapshotSummary,
};
use crate::model::{
    EnvironmentId, Event, Exec, Failure, Kind, MachineId, MachineName, PlatformName, Request, Response, SiteName, SnapshotName,
};
use crate::wire::message::Platform;

/// So many records wait until they are read.
const WAITING: usize = 1024;

/// The servers of a target, the one that faces the world first.
pub struct Fleet {
    members: Vec<(String, Remote)>,
}

impl Fleet {
    pub fn new(members: Vec<(String, Remote)>) -> Self {
        Self { members }
    }

    /// The server that a machine stands on.
    fn with(&self, machine: &MachineId) -> Result<&Remote, Failure> {
        let mut failures = Vec::new();
        for (_, member) in &self.members {
            match member.machine(&machine.environment, &machine.machine) {
                Ok(_) => return Ok(member),
                Err(failure) => failures.push(failure),
            }
        }
        Err(failures.remove(0))
    }

    /// What each of them answers, one after the other. The machines of the first wait for those of the others.
    fn ask(&self, request: &Request, each: &mut dyn FnMut(Event)) -> Result<Vec<Response>, Failure> {
        let halts = matches!(request, Request::EnvHalt { .. });
        let mut answers = Vec::new();
        for index in 0..self.members.len() {
            let index = if halts { index } else { self.members.len() - 1 - index };
            let (name, member) = &self.members[index];
            answers.push(member.run(request, each).map_err(|failure| failure.cause(format!("on the server `{name}`")))?);
        }
        if !halts {
            answers.reverse();
        }
        Ok(answers)
    }

    /// Where one of them can't, none begins.
    fn ask_all(&self, request: &Request, planned: Option<&Request>, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        if let Some(planned) = planned {
            self.ask(planned, &mut |_| ())?;
        }
        merge(self.ask(request, each)?)
    }

    /// The newest moment that all of them have.
    fn newest(&self, id: &EnvironmentId) -> Result<SnapshotName, Failure> {
        let mut known: BTreeMap<SnapshotName, (usize, i64)> = BTreeMap::new();
        for answer in self.ask(&Request::EnvSnapshots { id: id.clone() }, &mut |_| ())? {
            let Response::Snapshots(all) = answer else { return Err(unexpected()) };
            for one in all {
                let entry = known.entry(one.name).or_insert((0, one.taken));
                entry.0 += 1;
            }
        }
        let whole = known.into_iter().filter(|(_, (count, _))| *count == self.members.len());
        whole.max_by_key(|(_, (_, taken))| *taken).map(|(name, _)| name).ok_or_else(|| {
            Failure::new(Kind::NotFound, format!("find a snapshot of `{id}`"))
                .cause("there is none that all of its servers have")
                .hint("`adt env:snapshots` tells those that there are")
        })
    }
}

impl Connection for Fleet {
    fn platforms(&self) -> Result<Vec<Platform>, Failure> {
        self.members[0].1.platforms()
    }

    fn machine_names(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure> {
        let mut names = Vec::new();
        for (_, member) in &self.members {
            names.extend(member.machine_names(id)?);
        }
        names.sort();
        Ok(names)
    }

    fn machine(&self, id: &EnvironmentId, name: &MachineName) -> Result<MachineId, Failure> {
        let machine = id.machine(name);
        self.with(&machine).map(|_| machine)
    }

    fn site_names(&self, platform: &PlatformName) -> Vec<SiteName> {
        self.members[0].1.site_names(platform)
    }

    fn run(&self, request: &Request, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        match request {
            Request::EnvCopy { id, machine, .. } => self.with(&id.machine(machine))?.run(request, each),
            Request::EnvSnapshot { id, name: None } => {
                let time = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
                let name = Some(SnapshotName::new(time).expect("digits and hyphens make a label"));
                self.ask_all(&Request::EnvSnapshot { id: id.clone(), name }, None, each)
            }
            Request::EnvRewind { id, name, dry_run } => {
                let name = name.clone().map_or_else(|| self.newest(id), Ok)?;
                let rewind = |dry_run| Request::EnvRewind { id: id.clone(), name: Some(name.clone()), dry_run };
                self.ask_all(&rewind(*dry_run), (!dry_run).then(|| rewind(true)).as_ref(), each)
            }
            _ => self.ask_all(request, None, each),
        }
    }

    /// The sessions see to it.
    fn refresh_behind(&self, _: &Request) -> Result<(), Failure> {
        Ok(())
    }

    fn exec(&self, machine: &MachineId, exec: &Exec, io: Io<'_>) -> Result<i32, Failure> {
        self.with(machine)?.exec(machine, exec, io)
    }

    fn console(&self, machine: &MachineId) -> Result<(), Failure> {
        self.with(machine)?.console(machine)
    }

    /// Of all at once. What was written already is told in the order of its times.
    fn logs(&self, query: &Query, each: &mut EachSaid<'_>) -> Result<(), Failure> {
        let mut queries = Vec::new();
        for (_, member) in &self.members {
            let there = member.machine_names(&query.id)?;
            let machines: Vec<_> = query.machines.iter().filter(|name| there.contains(name)).cloned().collect();
            if (query.machines.is_empty() && !there.is_empty()) || !machines.is_empty() {
                queries.push((member, Query { machines, ..query.clone() }));
            }
        }
        if queries.is_empty()
            && let Some(name) = query.machines.first()
        {
            return self.machine(&query.id, name).map(drop);
        }
        if query.follow {
            return follow(&queries, each);
        }
        let mut all = Vec::new();
        for (member, query) in &queries {
            member.logs(query, &mut |said| {
                all.push(said);
                std::ops::ControlFlow::Continue(())
            })?;
        }
        let time = |said: &Said| if let Said::Record(record) = said { Some(record.time) } else { None };
        all.sort_by_key(time);
        let many = all.iter().filter(|said| time(said).is_some()).count();
        let mut skip = query.lines.map_or(0, |lines| many.saturating_sub(lines));
        for said in all {
            if time(&said).is_some() && skip > 0 {
                skip -= 1;
            } else if each(said).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn engine(&self) -> Result<&Engine, Failure> {
        self.members[0].1.engine()
    }

    /// The sessions tidy up when they see that we went.
    fn leave(&self) {}
}

/// As it comes.
fn follow(queries: &[(&Remote, Query)], each: &mut EachSaid<'_>) -> Result<(), Failure> {
    let (sender, receiver) = sync_channel(WAITING);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (member, query) in queries {
            let (sender, failures) = (sender.clone(), &failures);
            scope.spawn(move || {
                let mut pass = |said| match sender.send(said) {
                    Ok(()) => std::ops::ControlFlow::Continue(()),
                    Err(_) => std::ops::ControlFlow::Break(()),
                };
                if let Err(failure) = member.logs(query, &mut pass) {
                    failures.lock().expect("nobody panics with it").push(failure);
                }
            });
        }
        drop(sender);
        for said in receiver {
            if each(said).is_break() {
                break;
            }
        }
    });
    match failures.into_inner().expect("nobody panics with it").into_iter().next() {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// What they all say, as one would.
fn merge(answers: Vec<Response>) -> Result<Response, Failure> {
    let mut answers = answers.into_iter();
    let first = answers.next().ok_or_else(unexpected)?;
    answers.try_fold(first, |all, next| {
        Ok(match (all, next) {
            (Response::Done(all), Response::Done(next)) => Response::Done(both_done(all, next)),
            (Response::Check(all), Response::Check(next)) => Response::Check(both_checked(all, next)),
            (Response::Environments(all), Response::Environments(next)) => Response::Environments(both_listed(all, next)),
            (Response::Environment(all), Response::Environment(next)) => Response::Environment(Box::new(both_shown(*all, *next))),
            (Response::Sites(all), Response::Sites(next)) => Response::Sites(both_sites(all, next)),
            (Response::Snapshots(all), Response::Snapshots(next)) => Response::Snapshots(both_snapshots(all, next)),
            _ => return Err(unexpected()),
        })
    })
}

fn both_done(mut all: Done, next: Done) -> Done {
    all.changed |= next.changed;
    if let Some(plan) = next.plan {
        let mut whole = all.plan.unwrap_or_default();
        whole.waves.extend(plan.waves);
        all.plan = Some(whole);
    }
    let new: Vec<_> = next.next.into_iter().filter(|word| !all.next.contains(word)).collect();
    all.next.extend(new);
    all.removes.extend(next.removes);
    all
}

/// What two of them say of the same is said once.
fn both_checked(mut all: Checklist, next: Checklist) -> Checklist {
    let new: Vec<CheckItem> = next.items.into_iter().filter(|item| !all.items.contains(item)).collect();
    all.items.extend(new);
    all.items.sort_by_key(|item| item.step);
    all
}

/// As its machines are on both.
fn both_states(all: (EnvironmentState, usize), next: (EnvironmentState, usize)) -> EnvironmentState {
    match (all, next) {
        // One without machines says nothing.
        ((state, _), (_, 0)) => state,
        ((_, 0), (state, _)) => state,
        ((one, _), (other, _)) if one == other => one,
        ((EnvironmentState::Broken, _), _) | (_, (EnvironmentState::Broken, _)) => EnvironmentState::Broken,
        _ => EnvironmentState::Partial,
    }
}

fn both_listed(mut all: Vec<EnvironmentSummary>, next: Vec<EnvironmentSummary>) -> Vec<EnvironmentSummary> {
    for one in next {
        match all.iter_mut().find(|known| (&known.platform, &known.name) == (&one.platform, &one.name)) {
            None => all.push(one),
            Some(known) => {
                known.state = both_states((known.state, known.machines.len()), (one.state, one.machines.len()));
                known.machines.extend(one.machines);
                known.code.extend(one.code);
                known.disk = known.disk.zip(one.disk).map(|(all, next)| all + next);
                known.fault = known.fault.take().or(one.fault);
            }
        }
    }
    all
}

fn both_shown(mut all: EnvironmentDetail, next: EnvironmentDetail) -> EnvironmentDetail {
    all.state = both_states((all.state, all.machines.len()), (next.state, next.machines.len()));
    all.machines.extend(next.machines);
    all.machines.sort_by(|one, other| one.name.cmp(&other.name));
    all.sites = both_sites(all.sites, next.sites);
    all.volumes.extend(next.volumes);
    all
}

/// Only a server that serves a site knows its code.
fn both_sites(all: Vec<SiteDetail>, next: Vec<SiteDetail>) -> Vec<SiteDetail> {
    let mut others: BTreeMap<_, _> = next.into_iter().map(|site| (site.name.clone(), site)).collect();
    let better = |site: SiteDetail| match others.remove(&site.name) {
        Some(other) if site.code.is_none() => other,
        _ => site,
    };
    all.into_iter().map(better).collect()
}

fn both_snapshots(mut all: Vec<SnapshotSummary>, next: Vec<SnapshotSummary>) -> Vec<SnapshotSummary> {
    for one in next {
        match all.iter_mut().find(|known| known.name == one.name) {
            None => all.push(one),
            Some(known) => known.alone = known.alone.zip(one.alone).map(|(all, next)| all + next),
        }
    }
    all.sort_by_key(|one| one.taken);
    all
}
