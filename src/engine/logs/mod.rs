//! `env:logs`: what the machines of an environment say, in one order; and the same for whoever sends it elsewhere.
//!
//! Everything is read by programs inside the machines: `journalctl` for the journal, a few lines of Perl for log files. They write
//! into pipes, so nothing in a machine ever waits for a slow reader: journald and the web server write to their own files.
//!
//! What is there is read by `once` and remembered by [`Marks`]; what comes is read by [`Follower`] from there on, across restarts.

mod follow;
mod once;
mod source;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use regex::Regex;

pub use follow::Follower;
pub use source::Subject;

use crate::engine::Engine;
use crate::exec::queue;
use crate::logs::merge::Window;
use crate::logs::{Mark, Marks, Micros, Origin, Record, access, file};
use crate::model::{
    BootId, EnvironmentId, Failure, Kind, Machine, MachineId, MachineName, MachineState, ProviderName, Site, SiteName,
};
use crate::providers::Registry;
use crate::store::Environment;

/// Bytes of records that wait to be shown.
const WAITING: usize = 4 << 20;
/// Of the last records, however many were asked for.
const LAST: usize = 64 << 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Query {
    pub id: EnvironmentId,
    /// Empty: all.
    pub machines: Vec<MachineName>,
    pub site: Option<SiteName>,
    pub since: Option<Micros>,
    pub until: Option<Micros>,
    pub grep: Option<Regex>,
    /// The last so many records of what is there; none: all of them.
    pub lines: Option<usize>,
    pub follow: bool,
}

/// What the answer consists of.
#[derive(Debug)]
pub enum Said {
    Record(Record),
    /// About the answer itself, e.g. which machine is left out.
    Note(String),
}

type Each<'a> = dyn FnMut(Said) -> ControlFlow<()> + 'a;

/// How often the store and the machines are looked at while they are followed.
pub const LOOK: Duration = Duration::from_millis(500);

impl Engine {
    /// Reads until there is no more, or for ever with `follow`, or until `each` breaks or the caller cancels.
    pub fn logs(&self, query: &Query, each: &mut Each<'_>) -> Result<(), Failure> {
        let environment = self.environment(&query.id)?;
        for machine in &query.machines {
            self.machine(&query.id, machine)?;
        }
        let filter = Filter::new(query, &environment)?;
        let subjects = filter.subjects(&environment);
        let running = running(&self.providers, &environment.definition.providers.ever)?;
        let (here, away): (Vec<_>, Vec<_>) = subjects.into_iter().partition(|subject| running.contains_key(&subject.origin.id));
        if here.is_empty() && !query.follow {
            return Err(Failure::new(Kind::Conflict, format!("read the logs of `{}`", query.id))
                .cause("none of these machines runs")
                .hint(format!("start them with `adt env:up {} {}`", query.id.platform, query.id.name)));
        }
        for subject in away {
            let note = format!("`{}` is left out: it does not run", subject.origin.id.machine);
            if each(Said::Note(note)).is_break() {
                return Ok(());
            }
        }
        let Some(marks) = self.what_is_there(query, &filter, &here, each) else { return Ok(()) };
        if query.follow { self.what_comes(query, marks, &running, each) } else { Ok(()) }
    }

    /// `None` once nobody wants more.
    fn what_is_there(
        &self,
        query: &Query,
        filter: &Filter,
        subjects: &[Subject],
        each: &mut Each<'_>,
    ) -> Option<BTreeMap<MachineId, Marks>> {
        let range = once::Range {
            since: query.since,
            until: query.until,
            // What is left out later must not count against what each source gives.
            lines: query.lines.filter(|_| query.grep.is_none() && query.site.is_none() && query.until.is_none()),
        };
        let mut last: VecDeque<Record> = VecDeque::new();
        let mut bytes = 0;
        let mut wanted = true;
        let (marks, notes) = once::read(&self.providers, subjects, &range, &mut |record| {
            if self.cancel.load(Ordering::Relaxed) {
                wanted = false;
                return ControlFlow::Break(());
            }
            if !filter.keeps(&record) {
                return ControlFlow::Continue(());
            }
            let Some(most) = query.lines else {
                let flow = each(Said::Record(record));
                wanted = flow.is_continue();
                return flow;
            };
            bytes += record.bytes();
            last.push_back(record);
            while last.len() > most || bytes > LAST {
                bytes -= last.pop_front().map_or(bytes, |record| record.bytes());
            }
            ControlFlow::Continue(())
        });
        let rest = notes.into_iter().map(Said::Note).chain(last.into_iter().map(Said::Record));
        for said in rest {
            if !wanted || each(said).is_break() {
                return None;
            }
        }
        wanted.then_some(marks)
    }

    fn what_comes(
        &self,
        query: &Query,
        marks: BTreeMap<MachineId, Marks>,
        running: &Running,
        each: &mut Each<'_>,
    ) -> Result<(), Failure> {
        let follower = Follower::new(&self.providers, marks);
        let (sender, receiver) = queue::bounded(WAITING);
        let sink = move |record: Record| {
            let bytes = record.bytes();
            if sender.send(record, bytes) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        std::thread::scope(|scope| {
            // Moved in, so that whatever ends this closure also ends those who send.
            let receiver = receiver;
            let mut seen = running.clone();
            let mut look = Instant::now();
            let mut window = Window::default();
            let mut filter = None;
            let result = loop {
                if self.cancel.load(Ordering::Relaxed) {
                    break Ok(());
                }
                if Instant::now() >= look {
                    look = Instant::now() + LOOK;
                    match self.look(query, &mut seen, each) {
                        Ok(Some((now, subjects))) => {
                            follower.reconcile(scope, &subjects, &seen, &sink);
                            filter = Some(now);
                        }
                        Ok(None) => break Ok(()),
                        Err(failure) => break Err(failure),
                    }
                }
                if let Ok(record) = receiver.next_within(Duration::from_millis(50))
                    && filter.as_ref().is_some_and(|filter: &Filter| filter.keeps(&record))
                {
                    window.push(record, Instant::now());
                }
                let mut flow = ControlFlow::Continue(());
                while let Some(record) = window.pop(Instant::now()).filter(|_| flow.is_continue()) {
                    flow = each(Said::Record(record));
                }
                if flow.is_break() {
                    break Ok(());
                }
            };
            follower.stop();
            result
        })
    }

    /// What there is to follow now; tells what came and went. `None` once there is nobody to tell, or nothing to follow.
    fn look(&self, query: &Query, seen: &mut Running, each: &mut Each<'_>) -> Result<Option<(Filter, Vec<Subject>)>, Failure> {
        let Some(environment) = self.store.database.environment(&query.id)? else {
            let _ = each(Said::Note(format!("`{}` is destroyed", query.id)));
            return Ok(None);
        };
        let filter = Filter::new(query, &environment)?;
        let subjects = filter.subjects(&environment);
        let running = running(&self.providers, &environment.definition.providers.ever)?;
        for id in subjects.iter().map(|subject| &subject.origin.id) {
            let note = match (seen.get(id), running.get(id)) {
                (Some(_), None) => format!("`{}` does not run any more", id.machine),
                (None, Some(_)) => format!("`{}` runs", id.machine),
                (Some(before), Some(now)) if before != now => format!("`{}` was restarted", id.machine),
                (Some(_), Some(_)) | (None, None) => continue,
            };
            if each(Said::Note(note)).is_break() {
                return Ok(None);
            }
        }
        *seen = running;
        Ok(Some((filter, subjects)))
    }
}

/// Machines in which programs can run, each with its start: after a restart it is another one.
pub type Running = BTreeMap<MachineId, BootId>;

/// Those that run on these providers.
pub fn running<'n>(providers: &Registry, names: impl IntoIterator<Item = &'n ProviderName>) -> Result<Running, Failure> {
    let runs = |(id, state)| match state {
        MachineState::Running { boot } => Some((id, boot)),
        MachineState::Absent | MachineState::Halted | MachineState::Frozen { .. } | MachineState::Broken { .. } => None,
    };
    let mut running = Running::new();
    for name in names {
        running.extend(providers.get(name)?.list()?.into_iter().filter_map(runs));
    }
    Ok(running)
}

/// What is read of each machine of an environment: its journal, and the log files that its box, its role and its sites name.
pub fn subjects(environment: &Environment) -> Vec<Subject> {
    let definition = &environment.definition;
    let machines = definition.machines_here().into_iter().map(|(name, machine)| {
        let id = environment.id.machine(&name);
        let fqdn = id.fqdn(&definition.domain);
        Subject {
            origin: Arc::new(Origin { id, fqdn }),
            provider: definition.provider(machine).clone(),
            journal: true,
            files: files(environment, machine),
            // What a box's build left in its files is not this machine's.
            since: environment.created.saturating_mul(1_000_000),
        }
    });
    machines.collect()
}

fn files(environment: &Environment, machine: &Machine) -> Vec<String> {
    let definition = &environment.definition;
    let boxed = definition.boxes.get(&machine.role).map(|boxed| &boxed.logs);
    let sites = definition.platform.sites.iter().filter(|site| site.on == machine.role).flat_map(|site| &site.logs);
    let mut files: Vec<String> = Vec::new();
    for path in boxed.into_iter().flatten().chain(&machine.logs).chain(sites) {
        if !files.contains(path) {
            files.push(path.clone());
        }
    }
    files
}

/// Which records are meant.
struct Filter {
    machines: Vec<MachineName>,
    since: Option<Micros>,
    until: Option<Micros>,
    created: Micros,
    grep: Option<Regex>,
    site: Option<SiteFilter>,
}

struct SiteFilter {
    on: Vec<MachineName>,
    host: String,
    site: Site,
    /// No other site is on its machines: what their web servers log is all its own.
    alone: bool,
}

impl Filter {
    fn new(query: &Query, environment: &Environment) -> Result<Self, Failure> {
        Ok(Self {
            machines: query.machines.clone(),
            since: query.since,
            until: query.until,
            created: environment.created.saturating_mul(1_000_000),
            grep: query.grep.clone(),
            site: query.site.as_ref().map(|site| SiteFilter::new(site, environment)).transpose()?,
        })
    }

    fn subjects(&self, environment: &Environment) -> Vec<Subject> {
        let mut subjects = subjects(environment);
        subjects.retain(|subject| {
            let machine = &subject.origin.id.machine;
            let named = self.machines.is_empty() || self.machines.contains(machine);
            named && self.site.as_ref().is_none_or(|site| site.on.contains(machine))
        });
        for subject in &mut subjects {
            subject.journal = self.site.is_none();
            subject.since = subject.since.max(self.since.unwrap_or(Micros::MIN));
        }
        subjects
    }

    fn keeps(&self, record: &Record) -> bool {
        record.time >= self.since.unwrap_or(self.created).max(self.created)
            && self.until.is_none_or(|until| record.time <= until)
            && self.grep.as_ref().is_none_or(|grep| grep.is_match(&record.message))
            && self.site.as_ref().is_none_or(|site| site.keeps(record))
    }
}

impl SiteFilter {
    fn new(name: &SiteName, environment: &Environment) -> Result<Self, Failure> {
        let platform = &environment.definition.platform;
        let Some(site) = platform.sites.iter().find(|site| site.name == *name) else {
            let known: Vec<_> = platform.sites.iter().map(|site| site.name.to_string()).collect();
            return Err(Failure::new(Kind::NotFound, format!("find the site `{name}` in `{}`", environment.id))
                .hint(if known.is_empty() { "it has none".to_owned() } else { format!("its sites are {}", known.join(", ")) }));
        };
        Ok(Self {
            on: environment.definition.serving(site),
            host: format!("{name}.{}", environment.id.fqdn(&environment.definition.domain)),
            alone: platform.sites.iter().filter(|other| other.on == site.on).count() == 1,
            site: site.clone(),
        })
    }

    /// All of its own files, and of the others what is about it.
    fn keeps(&self, record: &Record) -> bool {
        let Some(Mark::File { path, .. }) = &record.mark else { return false };
        self.alone
            || self.site.logs.iter().any(|pattern| file::matches(pattern, path))
            || access::host(&record.message).is_some_and(|host| access::belongs(host, &self.host, &self.site.aliases))
    }
}
