//! `site:deploy`, `site:rollback`, and what brings a new machine to the releases that the others serve.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::boxes::build_machine::MachineShop;
use crate::engine::environment::perform::Raising;
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::engine::site::code::{Codes, at_site, pattern};
use crate::engine::site::release_on_machine::{self, Ground};
use crate::engine::site::rollout::{Rollout, Variables};
use crate::engine::site::templates;
use crate::model::request::Deploy;
use crate::model::response::Done;
use crate::model::snapshot::Reason;
use crate::model::topology::Mode;
use crate::model::{
    Action, BranchName, Digest, EnvironmentId, Event, Failure, Kind, Machine, MachineName, MachineState, Plan, PlatformName,
    Response, Site, SiteName, Step,
};
use crate::plan::{Seen, Wanted as WantedMachines};
use crate::releases::build::{self, Context, Origin};
use crate::releases::shelf::Unused;
use crate::releases::{Error, Inputs, Manifest, Shelf};
use crate::sources::branch::{self, Wish};
use crate::sources::export;
use crate::sources::mirror::Mirror;
use crate::store::record::{Choice, Definition};
use crate::store::{self, Environment, Lock, SiteCode, Wanted};

/// A site that releases are put on: what its configuration must say for that.
struct Deployable<'a> {
    site: &'a Site,
    mirror: Mirror,
    /// Whose environment it is for; nobody's yet, where that is about to be made.
    owner: Option<u32>,
    path: &'a str,
}

/// A release that is built, and the lock that keeps it.
struct Built {
    manifest: Manifest,
    hold: Lock,
}

impl Engine {
    pub(in crate::engine) fn site_deploy(
        &self,
        id: &EnvironmentId,
        site: &SiteName,
        what: &Deploy,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let environment = self.environment(id)?;
        let (deployable, before) = self.ready(&environment, site)?;
        let code = self.pick_newest(&deployable, id, &before, what, events)?;
        if dry_run {
            let inputs = inputs(&environment.definition, &id.platform, &deployable, &code.commit)?;
            return Ok(planned(&environment, deployable.site, &inputs.digest()));
        }
        let built = self.built(&environment.definition, &id.platform, &deployable, &code, events)?;
        if before.releases.first() != Some(&built.manifest.digest) {
            self.before(&environment, Reason::BeforeDeploy { site: site.clone() }, events)?;
        }
        let releases = newest(&built.manifest.digest, &before.releases, deployable.site.code.keep as usize);
        let code = SiteCode { releases, ..code };
        let changed = self.roll_out(&environment, &deployable, &before, &code, &built.manifest, events)?;
        Ok(served(id, site, &code, changed))
    }

    pub(in crate::engine) fn site_rollback(
        &self,
        id: &EnvironmentId,
        site: &SiteName,
        to: Option<&str>,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let environment = self.environment(id)?;
        let (deployable, before) = self.ready(&environment, site)?;
        let chosen = match to {
            None => before.releases.get(1),
            Some(word) => before.releases.iter().find(|release| word.len() >= 4 && release.as_str().starts_with(word)),
        };
        let Some(release) = chosen else { return Err(no_release(&environment, site, &before.releases, to)) };
        if dry_run {
            return Ok(planned(&environment, deployable.site, release));
        }
        let shelf = self.shelf()?;
        let told = |error: Error| error.failure(format!("roll `{site}` of `{id}` back"));
        let _hold = shelf.hold(release).map_err(told)?;
        let manifest = shelf.get(release).map_err(told)?;
        let releases = newest(release, &before.releases, before.releases.len());
        let code = SiteCode { releases, commit: manifest.commit.clone(), ..before.clone() };
        let changed = self.roll_out(&environment, &deployable, &before, &code, &manifest, events)?;
        Ok(served(id, site, &code, changed))
    }

    /// The release onto all machines of its site, whether anything changed; old ones that nobody needs go.
    fn roll_out(
        &self,
        environment: &Environment,
        deployable: &Deployable<'_>,
        before: &SiteCode,
        code: &SiteCode,
        manifest: &Manifest,
        events: &Events,
    ) -> Result<bool, Failure> {
        let (id, name) = (&environment.id, &deployable.site.name);
        let shelf = self.shelf()?;
        let wanted = self.wanted(environment, &self.live_sites(environment)?)?;
        let rollout = Rollout {
            engine: self,
            environment,
            site: deployable.site,
            path: deployable.path,
            wanted: &wanted,
            shelf: &shelf,
            events,
            variables: self.variables(environment, deployable.site)?,
            before,
            code,
            manifest,
            renderings: self.renderings(environment, deployable.site, code, manifest)?,
        };
        let changed = rollout.everywhere()?;
        if changed {
            self.remember(&format!("deployed {} of {name} on", manifest.digest.short()), &id.to_string());
            let (shelf, unused) = self.unused_releases(deployable.site.code.keep as usize)?;
            if let Err(failure) = self.prune_releases(&shelf, &unused) {
                events.warn(failure.to_string());
            }
        }
        Ok(changed)
    }

    /// The release of a promotion onto all machines of its site, as any other.
    pub(in crate::engine) fn deploy_promoted(
        &self,
        environment: &Environment,
        site: &SiteName,
        wanted: &SiteCode,
        events: &Events,
    ) -> Result<(), Failure> {
        let id = &environment.id;
        let (deployable, before) = self.ready_for(environment, site)?;
        let release = wanted.releases.first().expect("a definition that is not one release for each site is refused");
        let shelf = self.shelf()?;
        let told = |error: Error| error.failure(format!("deploy release {} of `{site}` of `{id}`", release.short()));
        let _hold = shelf.hold(release).map_err(told)?;
        let manifest = shelf.get(release).map_err(told)?;
        let releases = newest(release, &before.releases, deployable.site.code.keep as usize);
        let code = SiteCode { releases, ..wanted.clone() };
        if !self.roll_out(environment, &deployable, &before, &code, &manifest, events)? {
            // The same files of another commit.
            self.store.database.put_site_code(id, site, &code)?;
        }
        Ok(())
    }

    /// The release of a commit for who takes it elsewhere, built unless it is there and held by the lock. In a dry run nothing is
    /// built, and only its name is known.
    pub(in crate::engine) fn release_of(
        &self,
        environment: &Environment,
        site: &Site,
        code: &SiteCode,
        dry_run: bool,
        events: &Events,
    ) -> Result<(Digest, Option<Lock>), Failure> {
        let (id, definition) = (&environment.id, &environment.definition);
        let deployable = self.deployable_of(definition, site, id)?;
        if dry_run {
            return Ok((inputs(definition, &id.platform, &deployable, &code.commit)?.digest(), None));
        }
        let built = self.built(definition, &id.platform, &deployable, code, events)?;
        Ok((built.manifest.digest, Some(built.hold)))
    }

    /// One step of bringing a machine up.
    pub(in crate::engine) fn deploy_onto(
        &self,
        raising: &Raising<'_>,
        machine: &MachineName,
        site: &SiteName,
        release: &Digest,
        events: &Events,
    ) -> Result<(), Failure> {
        let environment = raising.environment;
        let deployable = self.deployable(environment, site)?;
        let shelf = self.shelf()?;
        let told = |error: Error| {
            let id = &environment.id;
            let failure = error.failure(format!("deploy release {} of `{site}` on `{}`", release.short(), id.machine(machine)));
            failure.hint(format!("`adt site:deploy {} {} {site}` builds and deploys anew", id.platform, id.name))
        };
        let _hold = shelf.hold(release).map_err(told)?;
        let manifest = shelf.get(release).map_err(told)?;
        let code = self.codes(&environment.id)?.remove(site).expect("a release is wanted because this has it");
        let rollout = Rollout {
            engine: self,
            environment,
            site: deployable.site,
            path: deployable.path,
            wanted: raising.wanted,
            shelf: &shelf,
            events,
            variables: self.variables(environment, deployable.site)?,
            before: &code,
            code: &code,
            manifest: &manifest,
            renderings: self.renderings(environment, deployable.site, &code, &manifest)?,
        };
        rollout.onto(machine)
    }

    /// Asks the running machines which of the wanted releases they serve, with the files that are rendered now.
    pub(in crate::engine) fn add_served(
        &self,
        environment: &Environment,
        codes: &Codes,
        wanted: &WantedMachines,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let shelf = self.shelf()?;
        for site in &environment.definition.platform.sites {
            let Some(code) = codes.get(&site.name) else { continue };
            let Ok(deployable) = self.deployable(environment, &site.name) else { continue };
            // What the store has lost goes on being served as it lies.
            let manifest = code.releases.first().and_then(|release| shelf.get(release).ok());
            let renderings = manifest.map(|manifest| self.renderings(environment, site, code, &manifest)).transpose()?;
            for (name, machine) in &mut seen.machines {
                let (MachineState::Running { .. }, Some(wanted)) = (&machine.state, wanted.machines.get(name)) else { continue };
                let Some(release) = wanted.releases.get(&site.name) else { continue };
                let ground = Ground { engine: self, spec: &wanted.spec, site, path: deployable.path };
                // A machine that can't be asked serves nothing that is known; the step that follows says why.
                let Ok(standing) = ground.look() else { continue };
                let rendering = renderings.as_ref().and_then(|renderings| renderings.get(name));
                if standing.is_at(release) && rendering.is_none_or(|rendering| standing.has_rendered(release, rendering)) {
                    machine.releases.insert(site.name.clone(), release.clone());
                }
            }
        }
        Ok(())
    }

    /// Builds what sites that serve releases begin with; the names of those that had none. Built releases stay on the shelf,
    /// so doing it again costs nothing.
    pub(in crate::engine) fn build_first_releases(
        &self,
        id: &EnvironmentId,
        definition: &Definition,
        codes: &mut Codes,
        events: &Events,
    ) -> Result<Vec<SiteName>, Failure> {
        let mut first = Vec::new();
        for site in &definition.platform.sites {
            let Some(code) = codes.get_mut(&site.name) else { continue };
            if code.mode == Mode::Release && code.releases.is_empty() {
                let deployable = self.deployable_of(definition, site, id)?;
                let built = self.built(definition, &id.platform, &deployable, code, events)?;
                code.releases = vec![built.manifest.digest];
                first.push(site.name.clone());
            }
        }
        Ok(first)
    }

    /// The commit that is meant, as what the store will have of the site; its releases are still those of before.
    fn pick_newest(
        &self,
        deployable: &Deployable<'_>,
        id: &EnvironmentId,
        before: &SiteCode,
        what: &Deploy,
        events: &Events,
    ) -> Result<SiteCode, Failure> {
        let (site, mirror) = (deployable.site, &deployable.mirror);
        if let Some(word) = &what.commit {
            let mut known = if mirror.exists() { export::commit(mirror, word)? } else { None };
            if known.is_none() {
                self.fetch(mirror, deployable.owner, None, events)?;
                known = export::commit(mirror, word)?;
            }
            return known.map(|commit| SiteCode { commit, ..before.clone() }).ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("find the commit `{word}` of site `{}`", site.name))
                    .cause(format!("no branch or tag of `{}` leads to it", mirror.address))
            });
        }
        self.fetch(mirror, deployable.owner, None, events)?;
        let stays = match before.choice {
            Choice::Chosen => BranchName::new(before.branch.clone()).ok(),
            Choice::Ticket | Choice::Default { .. } => None,
        };
        let pattern = pattern(id, site)?;
        let wish = Wish {
            chosen: what.branch.as_ref().or(stays.as_ref()),
            pattern: &pattern,
            default: site.code.default_branch.as_deref(),
        };
        let pick = branch::pick(&mirror.address, &wish, &mirror.branches()?).map_err(|error| at_site(site, error))?;
        Ok(SiteCode { branch: pick.branch, choice: pick.choice, commit: pick.commit, ..before.clone() })
    }

    fn built(
        &self,
        definition: &Definition,
        platform: &PlatformName,
        deployable: &Deployable<'_>,
        code: &SiteCode,
        events: &Events,
    ) -> Result<Built, Failure> {
        let commit = &code.commit;
        if !deployable.mirror.exists() || !deployable.mirror.has(commit)? {
            self.fetch(&deployable.mirror, deployable.owner, None, events)?;
        }
        self.tell_what_is_not_fetched(&deployable.site.name, &deployable.mirror, code, events)?;
        let inputs = inputs(definition, platform, deployable, commit)?;
        let shelf = self.shelf()?;
        let (shop, emit, cancel) = (MachineShop { engine: self }, |event: Event| events.emit(event), self.cancel());
        let deadline = Duration::from_secs(deployable.site.code.phase_deadline.into());
        let context = Context { shelf: &shelf, workshop: &shop, emit: &emit, cancel: &cancel, deadline };
        let origin = Origin { platform, site: &deployable.site.name, mirror: &deployable.mirror, commit };
        let (manifest, hold) = build::ensure(context, origin, &inputs).map_err(|failure| match failure.kind {
            Kind::Cancelled => self.goes_on(failure),
            _ => templates::told(deployable.site, failure),
        })?;
        Ok(Built { manifest, hold })
    }

    /// The site's own variables for its programs, by machine.
    fn variables(&self, environment: &Environment, site: &Site) -> Result<Variables, Failure> {
        let machines = environment.definition.serving(site);
        let of = |machine: MachineName| Ok((machine.clone(), self.site_env(environment, site, &machine)?));
        machines.into_iter().map(of).collect()
    }

    pub(in crate::engine) fn shelf(&self) -> Result<Shelf, Failure> {
        Shelf::open(&self.store.folder).map_err(|error| error.failure("open the releases"))
    }

    /// The site and what it serves, where a deploy may begin: it reaches all machines or none, so all must be there.
    fn ready<'a>(&self, environment: &'a Environment, name: &SiteName) -> Result<(Deployable<'a>, SiteCode), Failure> {
        if environment.definition.promoted.contains_key(name) {
            let id = &environment.id;
            return Err(Failure::new(Kind::Conflict, format!("deploy site `{name}` of `{id}`"))
                .cause("what it serves comes with promotions")
                .hint("deploy in the ticket, then `adt env:promote` there; `adt env:rollback` goes back"));
        }
        self.ready_for(environment, name)
    }

    fn ready_for<'a>(&self, environment: &'a Environment, name: &SiteName) -> Result<(Deployable<'a>, SiteCode), Failure> {
        let id = &environment.id;
        let deployable = self.deployable(environment, name)?;
        let failure = || Failure::new(Kind::Conflict, format!("deploy site `{name}` of `{id}`"));
        let up = format!("`adt env:up {} {}` brings it up", id.platform, id.name);
        let Some(code) = self.codes(id)?.remove(name) else {
            return Err(failure().cause("what it runs is not decided yet").hint(up));
        };
        if code.mode == Mode::Live {
            let (platform, environment) = (&id.platform, &id.name);
            return Err(failure().cause("its checkout is live on its machines, where every edit shows at once").hint(format!(
                "write `mode = \"release\"` below `[sites.{name}]`, then \
                 `adt site:remove {platform} {environment} {name}` and `adt site:add {platform} {environment} {name}`"
            )));
        }
        let role = environment.definition.platform.machine(&deployable.site.on);
        if let Some(role) = role {
            let provider = self.providers.get(environment.definition.provider(role))?;
            for machine in environment.definition.serving(deployable.site) {
                let state = provider.inspect(&id.machine(&machine))?;
                if environment.wanted != Wanted::Up || !matches!(state, MachineState::Running { .. }) {
                    return Err(failure().cause(format!("its machine `{machine}` is {}", state.word())).hint(up));
                }
            }
        }
        Ok((deployable, code))
    }

    fn deployable<'a>(&self, environment: &'a Environment, name: &SiteName) -> Result<Deployable<'a>, Failure> {
        let (id, definition) = (&environment.id, &environment.definition);
        let site = crate::engine::site::sites::find(&definition.platform, id, name)?;
        self.deployable_of(definition, site, id)
    }

    fn deployable_of<'a>(&self, definition: &Definition, site: &'a Site, id: &EnvironmentId) -> Result<Deployable<'a>, Failure> {
        let lacks = |key: &str, example: &str| {
            Failure::new(Kind::Config, format!("deploy site `{}` of `{id}`", site.name))
                .cause(format!("its definition has no `{key}`"))
                .hint(format!("add e.g. `{key} = \"{example}\"` below `[sites.{}]`, then `adt env:reload`", site.name))
        };
        let owner = self.owner_of(id)?;
        let mirror = self.mirror(&definition.platform.folder, site, owner);
        let mirror = mirror.ok_or_else(|| lacks("source", "https://git.example.org/shop/www.git"))?;
        let path = site.code.path.as_deref().ok_or_else(|| lacks("path", "/srv/www"))?;
        Ok(Deployable { site, mirror, owner, path })
    }

    /// What no environment has and is not among the newest of its site.
    pub(in crate::engine) fn unused_releases(&self, newest: usize) -> Result<(Shelf, Unused), Failure> {
        self.releases_without(newest, |_| true)
    }

    /// Releases of a platform that goes with all its environments; removed unless it is a dry run.
    pub(in crate::engine) fn forget_releases(&self, platform: &PlatformName, dry_run: bool) -> Result<Vec<String>, Failure> {
        // In a dry run its environments still stand.
        let (shelf, mut unused) = self.releases_without(0, |other| other != platform)?;
        unused.releases.retain(|(_, manifest)| manifest.as_ref().is_some_and(|manifest| manifest.platform == *platform));
        unused.halves.clear();
        if !dry_run {
            self.prune_releases(&shelf, &unused)?;
        }
        Ok(unused.words())
    }

    fn releases_without(&self, newest: usize, counts: impl Fn(&PlatformName) -> bool) -> Result<(Shelf, Unused), Failure> {
        let shelf = self.shelf()?;
        let unused = shelf.unused(&self.releases_of(counts)?, newest).map_err(|error| error.failure("find unused releases"))?;
        Ok((shelf, unused))
    }

    fn releases_of(&self, counts: impl Fn(&PlatformName) -> bool) -> store::Result<BTreeSet<Digest>> {
        let codes = self.store.database.site_codes(None)?.into_iter();
        let snapshots = self.store.snapshots.all()?.into_iter().map(|(id, snapshot)| (id, snapshot.codes));
        let codes = codes.chain(snapshots).map(|(id, codes)| (id.platform, codes));
        let promoted = self.store.promotions.definitions()?.into_iter().map(|known| (known.platform.name, known.promoted));
        let codes = codes.chain(promoted).filter(|(platform, _)| counts(platform));
        Ok(codes.flat_map(|(_, codes)| codes.into_values()).flat_map(|code| code.releases).collect())
    }

    pub(in crate::engine) fn prune_releases(&self, shelf: &Shelf, unused: &Unused) -> Result<(), Failure> {
        let kept = || Ok(self.releases_of(|_| true)?);
        shelf.prune(unused, &kept).map_err(|error| error.failure("remove unused releases"))
    }
}

/// What decides a release of this commit.
fn inputs(
    definition: &Definition,
    platform: &PlatformName,
    deployable: &Deployable<'_>,
    commit: &str,
) -> Result<Inputs, Failure> {
    let site = deployable.site;
    let files = export::files(&deployable.mirror, commit)?;
    let variables = [("ADT_PLATFORM", platform.to_string()), ("ADT_SITE", site.name.to_string())];
    Ok(Inputs {
        tree: export::tree(&deployable.mirror, commit)?,
        templates: templates::chosen(site, files).map_err(|error| templates::told(site, error.into()))?,
        buildpack: site.code.buildpack.clone(),
        layers: definition.boxes.get(&site.on).map(|boxed| boxed.layers.clone()).unwrap_or_default(),
        folder: release_on_machine::folder(deployable.path),
        user: site.code.user.clone(),
        variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
    })
}

/// What the sites of an environment are meant to serve, as part of what is wanted of its machines.
pub(in crate::engine) fn add_releases(environment: &Environment, codes: &Codes, wanted: &mut WantedMachines) {
    let platform = &environment.definition.platform;
    for site in &platform.sites {
        let Some(code) = codes.get(&site.name).filter(|code| code.mode == Mode::Release) else { continue };
        let Some(release) = code.releases.first() else { continue };
        for machine in platform.machine(&site.on).map(Machine::names).unwrap_or_default() {
            if let Some(machine) = wanted.machines.get_mut(&machine) {
                machine.releases.insert(site.name.clone(), release.clone());
            }
        }
    }
}

/// The newest first, each once, as many as are kept.
fn newest(digest: &Digest, before: &[Digest], keep: usize) -> Vec<Digest> {
    let old = before.iter().filter(|old| *old != digest);
    std::iter::once(digest).chain(old).take(keep).cloned().collect()
}

fn planned(environment: &Environment, site: &Site, release: &Digest) -> Response {
    let mut plan = Plan::default();
    plan.then(deploys(environment, site, release));
    let summary = format!("release {} of `{}` would be deployed to `{}`", release.short(), site.name, environment.id);
    Response::Done(Done { summary, plan: Some(plan), ..Done::default() })
}

/// The steps that a roll-out is, as a plan tells them.
pub(in crate::engine) fn deploys(environment: &Environment, site: &Site, release: &Digest) -> Vec<Vec<Step>> {
    let chains = environment.definition.serving(site).into_iter().map(|machine| {
        let action = Action::Deploy { machine, site: site.name.clone(), release: release.clone() };
        vec![Step { environment: environment.id.clone(), action }]
    });
    chains.collect()
}

fn served(id: &EnvironmentId, site: &SiteName, code: &SiteCode, changed: bool) -> Response {
    let (platform, environment) = (&id.platform, &id.name);
    let short = code.releases.first().map(Digest::short).unwrap_or_default();
    let commit = code.commit.get(..10).unwrap_or(&code.commit);
    let what = format!("release {short} (commit {commit} of {})", code.branch);
    if !changed {
        let summary = format!("`{site}` of `{id}` serves {what} already");
        return Response::Done(Done { summary, ..Done::default() });
    }
    let back = |old: &Digest| format!("back to {}: adt site:rollback {platform} {environment} {site}", old.short());
    let next = code.releases.get(1).map(back).into_iter().collect();
    Response::Done(Done { summary: format!("`{site}` of `{id}` serves {what}"), changed: true, next, ..Done::default() })
}

fn no_release(environment: &Environment, site: &SiteName, kept: &[Digest], to: Option<&str>) -> Failure {
    let id = &environment.id;
    let failure = Failure::new(Kind::NotFound, format!("roll `{site}` of `{id}` back"));
    let known: Vec<_> = kept.iter().map(Digest::short).collect();
    match (to, known.as_slice()) {
        (Some(word), [_, ..]) => {
            failure.cause(format!("it has no release `{word}`")).hint(format!("it has {}", known.join(", ")))
        }
        (_, _) => failure
            .cause("it has no release before the one that it serves")
            .hint(format!("`adt site:deploy {} {} {site} --commit COMMIT` deploys any other", id.platform, id.name)),
    }
}
