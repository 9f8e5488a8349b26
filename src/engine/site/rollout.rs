//! One release onto all machines of a site, or onto none.
//!
//! ```text
//! unpack ─> before_deploy ─> predeploy ─> switch ─> postdeploy ─> health ─> after_deploy ─> recorded ─> old ones removed
//!  all       first machine      all      └── waves: one machine after the other ──┘  first
//!                                        └── together: each step on all at once ──┘
//! ```
//! A release is unpacked with its templates rendered; where it lies already, rendered with other facts, those files are renewed.
//!
//! What the store has is the release that all machines are meant to serve. It changes when they do, so a deploy that is
//! killed before that is undone by the next `env:up` and finished by the next `site:deploy`; where a step fails, the machines
//! that were switched are switched back at once, and the old release's `postdeploy` runs there, so that services read it again.

use std::collections::BTreeMap;

use crate::engine::at_once::{for_each, parallel, stopped};
use crate::engine::environment::wanted;
use crate::engine::site::release_on_machine::{Ground, Serves, Standing};
use crate::engine::site::templates::Rendering;
use crate::engine::{Engine, Events};
use crate::model::topology::Rollout as Order;
use crate::model::{Digest, Failure, Kind, MachineName, Site};
use crate::plan::Wanted;
use crate::releases::phase::{Job, Phase};
use crate::releases::{Manifest, Shelf};
use crate::store::{Environment, SiteCode};

/// By machine, because they may name it.
pub(in crate::engine) type Variables = BTreeMap<MachineName, Vec<(String, String)>>;

/// A release on its way.
pub(in crate::engine) struct Rollout<'a> {
    pub engine: &'a Engine,
    pub environment: &'a Environment,
    pub site: &'a Site,
    pub path: &'a str,
    pub wanted: &'a Wanted,
    pub shelf: &'a Shelf,
    pub events: &'a Events,
    /// Variables of the site's own, rendered.
    pub variables: Variables,
    /// What the store has of the site until now.
    pub before: &'a SiteCode,
    /// What it will have.
    pub code: &'a SiteCode,
    pub manifest: &'a Manifest,
    /// What its templates are on each machine.
    pub renderings: BTreeMap<MachineName, Rendering>,
}

impl Rollout<'_> {
    /// The site's place on each of its machines, in order.
    fn grounds(&self) -> Vec<Ground<'_>> {
        let names = self.environment.definition.serving(self.site);
        names.iter().map(|name| self.ground(name)).collect()
    }

    fn ground(&self, machine: &MachineName) -> Ground<'_> {
        let spec = &self.wanted.machines[machine].spec;
        Ground { engine: self.engine, spec, site: self.site, path: self.path }
    }

    /// Every machine serves the release, or all serve what they served before.
    pub fn everywhere(&self) -> Result<bool, Failure> {
        let grounds = self.grounds();
        let standings = for_each(&grounds, |ground| ground.look())?;
        let pairs: Vec<(&Ground<'_>, Standing)> = grounds.iter().zip(standings).collect();
        if let Some((ground, _)) = pairs.iter().find(|(_, standing)| standing.serves == Serves::Folder) {
            return Err(Failure::new(Kind::Conflict, format!("deploy `{}` to `{}`", self.site.name, ground.spec.id))
                .cause(format!("`{}` is a folder there, and only a symlink can be switched in one instant", self.path))
                .hint("let the box make it a symlink, or leave it out"));
        }
        let new = &self.manifest.digest;
        let is_served = |(ground, standing): &(&Ground<'_>, Standing)| {
            standing.is_at(new) && standing.has_rendered(new, self.rendering(ground))
        };
        let served = pairs.iter().all(is_served);
        if served && self.before.releases.first() == Some(new) {
            // One that was killed at its very end has left what it should have removed.
            let kept: Vec<&str> = self.code.releases.iter().map(Digest::short).collect();
            let is_old = |name: &String| !kept.contains(&name.as_str());
            if pairs.iter().any(|(_, standing)| standing.releases.keys().any(is_old)) {
                self.tidy(&grounds, &self.code.releases);
            }
            return Ok(false);
        }
        match self.forward(&pairs) {
            Ok(()) => {
                self.tidy(&grounds, &self.code.releases);
                Ok(true)
            }
            Err(failure) => Err(self.back(&grounds, failure)),
        }
    }

    fn forward(&self, pairs: &[(&Ground<'_>, Standing)]) -> Result<(), Failure> {
        let grounds: Vec<&Ground<'_>> = pairs.iter().map(|(ground, _)| *ground).collect();
        let (there, lacking): (Vec<_>, Vec<_>) = pairs.iter().partition(|(_, standing)| self.is_there(standing));
        let lacking: Vec<&Ground<'_>> = lacking.into_iter().map(|(ground, _)| *ground).collect();
        let new = &self.manifest.digest;
        let stale = there.into_iter().filter(|(ground, standing)| !standing.has_rendered(new, self.rendering(ground)));
        let stale: Vec<&Ground<'_>> = stale.map(|(ground, _)| *ground).collect();
        self.together(&lacking, "unpack", |ground| ground.receive(self.shelf, new, self.rendering(ground)))?;
        self.together(&stale, "render", |ground| ground.refresh(new, self.rendering(ground)))?;
        // Of all machines that serve it, also on other servers.
        let role = self.environment.definition.platform.machine(&self.site.on);
        let first = role.and_then(|role| role.names().into_iter().next());
        let is_first = |ground: &&Ground<'_>| first.as_ref() == Some(&ground.spec.id.machine);
        let first = grounds.iter().copied().filter(is_first);
        first.clone().try_for_each(|ground| self.script(ground, Phase::BeforeDeploy))?;
        match self.site.code.rollout {
            Order::Waves => {
                grounds.iter().try_for_each(|ground| self.script(ground, Phase::Predeploy))?;
                for ground in &grounds {
                    self.step(ground, "switch", || ground.switch(self.manifest.digest.short()))?;
                    self.postdeploy(ground)?;
                    self.step(ground, "answer", || ground.await_health())?;
                }
            }
            Order::Together => {
                all(&grounds, |ground| self.script(ground, Phase::Predeploy))?;
                self.together(&grounds, "switch", |ground| ground.switch(self.manifest.digest.short()))?;
                all(&grounds, |ground| self.postdeploy(ground))?;
                self.together(&grounds, "answer", |ground| ground.await_health())?;
            }
        }
        first.clone().try_for_each(|ground| self.script(ground, Phase::AfterDeploy))?;
        all(&stale, |ground| ground.stamp(new, self.rendering(ground)))?;
        self.engine.store.database.put_site_code(&self.environment.id, &self.site.name, self.code)?;
        Ok(())
    }

    fn rendering(&self, ground: &Ground<'_>) -> &Rendering {
        self.renderings.get(&ground.spec.id.machine).expect("every machine of the site has one")
    }

    /// A release that once served is used as it lies; one whose deploy was cut off is unpacked anew, unless it is served.
    fn is_there(&self, standing: &Standing) -> bool {
        let digest = &self.manifest.digest;
        let known = self.before.releases.contains(digest);
        standing.leads_to(digest) || known && standing.releases.contains_key(digest.short())
    }

    /// Brings every machine back to the release that the store has, and says so beside what went wrong.
    fn back(&self, grounds: &[Ground<'_>], failure: Failure) -> Failure {
        let old = self.before.releases.first();
        let returned: Vec<Failure> =
            self.at_once(grounds, |ground| self.return_to(ground, old)).into_iter().filter_map(Result::err).collect();
        let stays = match old {
            Some(old) => format!("release {}", old.short()),
            None => "what they served before their first release".to_owned(),
        };
        let names: Vec<_> = grounds.iter().map(|ground| ground.spec.id.machine.to_string()).collect();
        if returned.is_empty() {
            self.tidy(grounds, &self.before.releases);
            self.events.note(format!("{} stay on {stays}", names.join(" and ")));
            return failure;
        }
        let id = &self.environment.id;
        let mut failure = failure.hint(format!("`adt env:up {} {}` brings all machines back to {stays}", id.platform, id.name));
        failure.parts.extend(returned);
        failure
    }

    fn return_to(&self, ground: &Ground<'_>, old: Option<&Digest>) -> Result<(), Failure> {
        let standing = ground.look()?;
        let Some(old) = old else {
            // Never switched, or not back to anything of ours.
            return match standing.serves {
                Serves::Release(_) => self.task(ground, "switch back", || ground.switch_back_to_before()),
                Serves::Elsewhere | Serves::Nothing | Serves::Folder => Ok(()),
            };
        };
        if standing.is_at(old) {
            return Ok(());
        }
        self.task(ground, "switch back", || ground.switch(old.short()))?;
        let Some(job) = self.job(ground, Phase::Postdeploy, old) else { return Ok(()) };
        self.task(ground, "postdeploy of the old release", || ground.run(&job, None, self.events).and_then(|()| ground.told()))
    }

    /// Old releases that can't be removed are no reason to fail: the next deploy tries again.
    fn tidy(&self, grounds: &[Ground<'_>], kept: &[Digest]) {
        let kept: Vec<&str> = kept.iter().map(Digest::short).collect();
        for failure in self.at_once(grounds, |ground| ground.tidy(&kept)).into_iter().filter_map(Result::err) {
            self.events.warn(failure.to_string());
        }
    }

    /// What a new machine, or one whose facts changed, needs to serve what the others serve: the same steps without those of the
    /// whole.
    pub fn onto(&self, machine: &MachineName) -> Result<(), Failure> {
        let ground = self.ground(machine);
        let (release, rendering) = (&self.manifest.digest, self.rendering(&ground));
        let standing = ground.look()?;
        let (leads, has_files) = (standing.leads_to(release), standing.has_rendered(release, rendering));
        if standing.is_at(release) && has_files {
            return Ok(());
        }
        ground.await_boot()?;
        if !(leads && has_files) {
            match leads {
                // Rendered with other facts than those of now.
                true => ground.refresh(release, rendering)?,
                false => ground.receive(self.shelf, release, rendering)?,
            }
            self.script(&ground, Phase::Predeploy)?;
        }
        ground.switch(release.short())?;
        self.postdeploy(&ground)?;
        if leads && !has_files { ground.stamp(release, rendering) } else { Ok(()) }
    }

    fn postdeploy(&self, ground: &Ground<'_>) -> Result<(), Failure> {
        let Some(job) = self.job(ground, Phase::Postdeploy, &self.manifest.digest) else { return Ok(()) };
        let run = || ground.run(&job, Some(&self.engine.cancel), self.events).and_then(|()| ground.told());
        self.step(ground, Phase::Postdeploy.word(), run)
    }

    fn script(&self, ground: &Ground<'_>, phase: Phase) -> Result<(), Failure> {
        let Some(job) = self.job(ground, phase, &self.manifest.digest) else { return Ok(()) };
        self.step(ground, phase.word(), || ground.run(&job, Some(&self.engine.cancel), self.events))
    }

    /// The run of a phase's program of this release; nothing where the site has none.
    fn job(&self, ground: &Ground<'_>, phase: Phase, release: &Digest) -> Option<Job> {
        let code = &self.site.code;
        let program = match phase {
            Phase::Buildpack => &code.buildpack,
            Phase::BeforeDeploy => &code.before_deploy,
            Phase::Predeploy => &code.predeploy,
            Phase::Postdeploy => &code.postdeploy,
            Phase::AfterDeploy => &code.after_deploy,
        };
        Some(Job {
            phase,
            user: code.user.clone(),
            tree: ground.tree(release.short()),
            program: program.as_ref()?.to_string_lossy().into_owned(),
            env: self.env(ground, release),
            services: self.services(ground),
            units: self.units(),
        })
    }

    /// What its programs may start, stop and reload: what the site says, or else what its box enables.
    fn units(&self) -> Vec<String> {
        let boxed = || self.environment.definition.boxes.get(&self.site.on).map(|boxed| boxed.services.clone());
        self.site.code.units.clone().or_else(boxed).unwrap_or_default()
    }

    /// The names are documented in `docs/releases.md`.
    fn env(&self, ground: &Ground<'_>, release: &Digest) -> Vec<(String, String)> {
        let id = &self.environment.id;
        let previous = self.before.releases.iter().find(|other| *other != release);
        let own = [
            ("ADT_ENVIRONMENT", id.name.to_string()),
            ("ADT_PLATFORM", id.platform.to_string()),
            ("ADT_SITE", self.site.name.to_string()),
            ("ADT_MACHINE", ground.spec.id.machine.to_string()),
            ("ADT_COMMIT", self.code.commit.clone()),
            ("ADT_BRANCH", self.code.branch.clone()),
            ("ADT_RELEASE", release.short().to_owned()),
            ("ADT_PREVIOUS_RELEASE", previous.map_or_else(String::new, |previous| previous.short().to_owned())),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let declared = self.variables.get(&ground.spec.id.machine).into_iter().flatten().cloned();
        declared.chain(own).collect()
    }

    /// The site itself, by every name that leads to it from here, and the services that are declared.
    fn services(&self, ground: &Ground<'_>) -> Vec<String> {
        let definition = &self.environment.definition;
        let own = [format!("127.0.0.1:{}", self.site.port), format!("{}:{}", ground.spec.network.v4, self.site.port)];
        let mut services = Vec::from(own);
        for reach in &self.site.code.network {
            let role = definition.platform.machine(&reach.role);
            for name in role.map(crate::model::Machine::names).unwrap_or_default() {
                let Some(address) = wanted::address_of(self.environment, &name) else { continue };
                let service = format!("{address}:{}", reach.port);
                if !services.contains(&service) {
                    services.push(service);
                }
            }
        }
        services
    }

    /// The same work on all of these at once.
    fn together<F>(&self, grounds: &[&Ground<'_>], text: &str, work: F) -> Result<(), Failure>
    where
        F: Fn(&Ground<'_>) -> Result<(), Failure> + Sync,
    {
        all(grounds, |ground| self.step(ground, text, || work(ground)))
    }

    fn at_once<F>(&self, grounds: &[Ground<'_>], work: F) -> Vec<Result<(), Failure>>
    where
        F: Fn(&Ground<'_>) -> Result<(), Failure> + Sync,
    {
        parallel(grounds, work)
    }

    /// Not begun once the deploy is cancelled; what leads back is never cut short.
    fn step(&self, ground: &Ground<'_>, text: &str, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        if stopped(&self.engine.cancel) {
            let failure = Failure::new(Kind::Cancelled, format!("{text} on `{}`", ground.spec.id));
            return Err(self.engine.goes_on(failure.cause("cancelled before it began")));
        }
        self.task(ground, text, work)
    }

    /// Told and timed.
    fn task(&self, ground: &Ground<'_>, text: &str, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.events.task(&format!("{} on {}", self.site.name, ground.spec.id.machine), text, work)
    }
}

fn all<F>(grounds: &[&Ground<'_>], work: F) -> Result<(), Failure>
where
    F: Fn(&Ground<'_>) -> Result<(), Failure> + Sync,
{
    for_each(grounds, |ground| work(ground)).map(drop)
}
