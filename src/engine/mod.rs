//! The verbs. Each one inspects, plans, shows the plan and runs it; what a user sees of it are events and one response.
//!
//! The engine decides nothing that [`crate::plan`] can decide, and touches the world only through the providers, the
//! network, the boxes and the store. It prints nothing.
//!
//! | room | whose verbs | to look for |
//! |---|---|---|
//! | [`environment`] | `env:init`, `up`, `halt`, `destroy`, `reload`, `snapshot`, `rewind`, `list`, `show` | what is wanted, what is seen, the steps between |
//! | `site` | `site:add`, `branch`, `deploy`, `rollback` | checkouts, templates, a release on all machines |
//! | `platform` | `platform:init`, `pull`, `up`, `halt`, `destroy` | from a platform's folder to a definition |
//! | `boxes` | `box:build`, `list`, `show`, `export`, `import`, `prune`, `platform:build` | the machines that build, layers that travel |
//! | [`check`] | `env:check`, `platform:check`, `host:check`, `env:urls --check` | each step of the way to a page, probes of machines |
//! | [`host`] | `host:bootstrap`, `bind-proxy`, `unbind-proxy` | what the host must have, the service, the pool |
//! | [`target`] | `target:list`, `check`, `rehearse`, `env:promote`, `rollback` | the way to a server, and what is done there |
//! | [`logs`] | `env:logs` | sources of lines, and how they are followed |
//!
//! Whether the caller may have a request answered is decided in [`permission`], before any room is entered. [`open`] makes an engine
//! of the host's settings, [`behind`] does what nobody waits for.

mod at_once;
pub mod behind;
mod boxes;
pub mod check;
pub mod environment;
mod events;
mod failure;
pub mod host;
pub mod logs;
pub mod open;
pub mod permission;
mod platform;
mod site;
pub mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use events::Events;

use crate::config::host::HostSettings;
use crate::engine::permission::{Authority, Right};
use crate::exec::{Account, Cancel};
use crate::model::{EnvironmentId, Event, Failure, Kind, MachineId, MachineName, MachineState, ProviderName, Request, Response};
use crate::network::Network;
use crate::providers::{Provider, Registry};
use crate::store::{Holder, Lock, Store};

/// Everything that verbs work with.
pub struct Engine {
    pub settings: HostSettings,
    pub store: Store,
    pub providers: Registry,
    pub network: Box<dyn Network>,
    pub probe: Box<dyn check::probe::Probe>,
    pub clock: fn() -> i64,
    pub caller: Caller,
    /// Set by the first Ctrl-C; looked at between steps.
    pub cancel: Arc<AtomicBool>,
}

/// adt itself, which runs as several programs.
pub fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| Failure::new(Kind::Host, "find the program `adt` itself").because(&error))
}

/// Who asks, and with which words.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The person, also behind sudo.
    pub user: String,
    /// As the kernel knows them; `None` is root itself. What belongs to them is done as them.
    pub account: Option<Account>,
    /// What they may, which behind sudo is everything.
    pub authority: Authority,
    /// `env:up shop 1161`
    pub command: String,
    /// Whose git and ssh settings count.
    pub home: Option<PathBuf>,
}

impl Engine {
    /// Runs a request to its end. Events arrive on the calling thread, in order.
    pub fn run(&self, request: Request, each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        if request.only_reads() {
            // At once, so nothing is told late; a thread with a heap of its own would cost a third of the time.
            let (events, receiver) = Events::read_afterwards();
            let answer = self.answer(request, &events);
            drop(events);
            receiver.for_each(each);
            return answer;
        }
        self.with_events(each, |events| self.answer(request, events))
    }

    /// Works on a thread of its own, so that what is told arrives at once.
    fn with_events(
        &self,
        each: &mut dyn FnMut(Event),
        work: impl FnOnce(&Events) -> Result<Response, Failure> + Send,
    ) -> Result<Response, Failure> {
        let (events, receiver) = Events::read();
        std::thread::scope(|scope| {
            let work = scope.spawn(move || work(&events));
            for event in receiver {
                each(event);
            }
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn answer(&self, request: Request, events: &Events) -> Result<Response, Failure> {
        self.permit(&request)?;
        if !request.only_reads() {
            self.upkeep(events);
        }
        let moves = host::follow_bound::moves_routes(&request);
        let result = self.verb(request, events);
        if moves {
            self.follow_bound(events);
        }
        result.map_err(|failure| self.goes_on_if_cancelled(failure))
    }

    fn verb(&self, request: Request, events: &Events) -> Result<Response, Failure> {
        match request {
            Request::HostBootstrap(bootstrap) => self.host_bootstrap(&bootstrap, events),
            Request::HostCheck => self.host_check(),
            Request::HostBind(bind) => self.bind_proxy(&bind, events),
            Request::HostUnbind { environment } => self.unbind_proxy(environment.as_ref(), events),
            Request::PlatformInit(init) => self.platform_init(&init, events),
            Request::PlatformList => self.platform_list(),
            Request::PlatformPull { platform } => self.platform_pull(&platform, events),
            Request::PlatformBuild { platform, force } => self.platform_build(&platform, force, events),
            Request::PlatformUp { platform, environments, dry_run } => {
                self.platform_up(&platform, &environments, dry_run, events)
            }
            Request::PlatformHalt { platform, environments, dry_run } => {
                self.platform_halt(&platform, &environments, dry_run, events)
            }
            Request::PlatformDestroy { platform, environments, dry_run } => {
                self.platform_destroy(&platform, &environments, dry_run, events)
            }
            Request::PlatformCheck { platform, environments } => self.platform_check(&platform, &environments),
            Request::EnvInit { id, sites, on, shared, dry_run } => {
                self.env_init(&id, &sites, on.as_ref(), shared, dry_run, events)
            }
            Request::EnvUp { id, dry_run } => self.env_up(&id, dry_run, events),
            Request::EnvHalt { id, dry_run } => self.env_halt(&id, dry_run, events),
            Request::EnvDestroy { id, dry_run } => self.env_destroy(&id, dry_run, events),
            Request::Forget { platform, environment } => self.forget_nameless(&platform, environment.as_deref()),
            Request::EnvShare { id, shared } => self.env_share(&id, shared, events),
            Request::EnvReload { id, data, dry_run } => self.env_reload(&id, data, dry_run, events),
            Request::EnvSnapshot { id, name } => self.env_snapshot(&id, name, events),
            Request::EnvSnapshots { id } => self.env_snapshots(&id),
            Request::EnvSnapshotRemove { id, name, dry_run } => self.env_snapshot_remove(&id, &name, dry_run, events),
            Request::EnvRewind { id, name, dry_run } => self.env_rewind(&id, name.as_ref(), dry_run, events),
            Request::EnvCheck { id } => self.env_check(&id),
            Request::EnvList { platform } => self.env_list(platform.as_ref()),
            Request::EnvShow { id } => self.env_show(&id),
            Request::EnvFacts { id } => self.env_facts(&id),
            Request::EnvUrls { id, check } => self.env_urls(&id, check),
            Request::EnvCopy { id, machine, copy } => self.env_copy(&id, &machine, &copy),
            Request::SiteDeploy { id, site, what, dry_run } => self.site_deploy(&id, &site, &what, dry_run, events),
            Request::SiteRollback { id, site, to, dry_run } => self.site_rollback(&id, &site, to.as_deref(), dry_run, events),
            Request::SiteAdd { id, site, dry_run } => self.site_add(&id, &site, dry_run, events),
            Request::SiteRemove { id, site, dry_run } => self.site_remove(&id, &site, dry_run, events),
            Request::SiteBranch { id, site, branch, dry_run } => self.site_branch(&id, &site, &branch, dry_run, events),
            Request::SiteList { id } => self.site_list(&id),
            Request::BoxList { platform } => self.box_list(platform.as_ref()),
            Request::BoxBuild { platform, boxes, force } => self.box_build(platform.as_ref(), &boxes, force, events),
            Request::BoxShow { platform, name } => self.box_show(platform.as_ref(), &name),
            Request::BoxPrune { dry_run } => self.box_prune(dry_run, events),
            Request::TargetList { platform } => self.target_list(platform.as_ref()),
            Request::TargetCheck(of) => self.target_check(&of, events),
            Request::TargetHistory(of) => self.target_history(&of),
            Request::TargetAccess(of) => self.target_access(&of),
            Request::TargetAdmit { of, change } => self.target_admit(&of, &change, events),
            Request::EnvPromote { id, target, dry_run, seen } => self.env_promote(&id, &target, dry_run, seen.as_ref(), events),
            Request::EnvRollback { of, back, dry_run } => self.env_rollback(&of, &back, dry_run, events),
            Request::TargetRehearse { of, from, keep, faults } => self.target_rehearse(&of, &from, keep, &faults, events),
        }
    }

    /// Whose rights count for files that the caller names. Root's may be anywhere, also behind sudo.
    fn hands(&self) -> Option<&Account> {
        match self.caller.authority {
            Authority::Root => None,
            Authority::Member => self.caller.account.as_ref(),
        }
    }

    fn now(&self) -> i64 {
        (self.clock)()
    }

    /// For what is cut short by it.
    fn cancel(&self) -> Cancel {
        Cancel(Arc::clone(&self.cancel))
    }

    fn grace(&self) -> Duration {
        Duration::from_secs(self.settings.grace_seconds.value.into())
    }

    /// Who works here, for locks that others read.
    pub fn holder(&self) -> Holder {
        Holder {
            user: self.caller.user.clone(),
            command: self.caller.command.clone(),
            pid: std::process::id(),
            since: self.now(),
        }
    }

    /// Waits until nobody else works on `name`, telling for whom.
    fn lock(&self, name: &str, on: &str, events: &Events) -> Result<Lock, Failure> {
        let request = self.store.lock(name, &self.holder());
        let now = self.now();
        Ok(request.wait(&self.cancel, &mut |holder| {
            let holder = match holder {
                Some(holder) => format!("{holder}, since {} s", now.saturating_sub(holder.since)),
                None => "another command".to_owned(),
            };
            events.emit(Event::Waiting { on: on.to_owned(), holder });
        })?)
    }

    fn lock_environment(&self, id: &EnvironmentId, right: Right, events: &Events) -> Result<Lock, Failure> {
        let lock = self.lock(&format!("{}.{}", id.platform, id.name), &id.to_string(), events)?;
        let record = match self.caller.authority {
            Authority::Root => self.known(id)?,
            // Whose a damaged one is, nobody knows.
            Authority::Member => self.store.database.environment(id)?,
        };
        if let Some(record) = &record {
            self.still_permit(record, right)?;
        }
        self.thaw(id, &self.around_known(record.as_ref())?)?;
        Ok(lock)
    }

    /// Only a snapshot freezes machines, and it holds the lock meanwhile: whoever has the lock and finds one frozen comes after a
    /// snapshot that was killed.
    fn thaw(&self, id: &EnvironmentId, around: &[(&ProviderName, &dyn Provider)]) -> Result<(), Failure> {
        for (_, provider) in around {
            let Some(freezer) = provider.freezer() else { continue };
            for (name, state) in provider.machines(id)? {
                if matches!(state, MachineState::Frozen { .. }) {
                    freezer.thaw(&id.machine(&name))?;
                }
            }
        }
        Ok(())
    }

    fn machine(&self, id: &EnvironmentId, machine: &MachineName) -> Result<MachineId, Failure> {
        let environment = self.environment(id)?;
        let known = environment.definition.machines_here();
        if known.contains_key(machine) {
            return Ok(id.machine(machine));
        }
        let failure = Failure::new(Kind::NotFound, format!("find the machine `{machine}` in `{id}`"));
        if let Some(server) = environment.definition.placed.get(machine) {
            return Err(failure.cause(format!("it stands on `{server}`")));
        }
        let names: Vec<_> = known.keys().map(ToString::to_string).collect();
        Err(failure.hint(format!("its machines are {}", names.join(", "))))
    }
}
