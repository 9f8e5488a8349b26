//! `site:deploy`, `site:rollback`, and what brings a new machine to the releases that the others serve.

use std::collections::BTreeSet;

use super::events::Events;
use super::ground::{self, Ground, Serves};
use super::perform::Raising;
use super::rollout::Rollout;
use super::workshop::MachineShop;
use super::{Engine, wanted};
use crate::model::request::Deploy;
use crate::model::response::Done;
use crate::model::topology::Mode;
use crate::model::{
    Action, Digest, EnvironmentId, Event, Failure, Kind, MachineName, MachineState, Plan, PlatformName, Response, Site, SiteName,
    Step,
};
use crate::plan::{Seen, Wanted as WantedMachines};
use crate::releases::build::{self, Context, Origin};
use crate::releases::shelf::Unused;
use crate::releases::{Error, Inputs, Manifest, Shelf};
use crate::sources::branch::{self, Pick, Wish};
use crate::sources::export;
use crate::sources::git::Person;
use crate::sources::mirror::Mirror;
use crate::store::record::{Choice, Definition};
use crate::store::{Environment, Lock, SiteCode, Wanted};
use crate::template;

/// A site that releases are put on: what its configuration must say for that.
struct Deployable<'a> {
    site: &'a Site,
    source: &'a str,
    path: &'a str,
}

/// A release that is built, and the lock that keeps it.
struct Built {
    code: SiteCode,
    manifest: Manifest,
    _hold: Lock,
}

impl Engine {
    pub(super) fn site_deploy(
        &self,
        id: &EnvironmentId,
        site: &SiteName,
        what: &Deploy,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, events)?;
        let environment = self.environment(id)?;
        let deployable = deployable(&environment, site)?;
        let before = self.site_code(id, site)?;
        self.is_up(&environment, site)?;
        let pick = self.pick(&deployable, id, before.as_ref(), what, true, events)?;
        if dry_run {
            let inputs = self.inputs(&environment.definition, &id.platform, &deployable, &pick.commit)?;
            return Ok(planned(&environment, site, &inputs.digest()));
        }
        let built = self.built(&environment.definition, &id.platform, &deployable, pick, events)?;
        let keep = deployable.site.code.keep as usize;
        let code = SiteCode { releases: newest(&built.manifest.digest, before.as_ref(), keep), ..built.code.clone() };
        self.roll_out(&environment, &deployable, before.as_ref(), &code, &built.manifest, events)
    }

    pub(super) fn site_rollback(
        &self,
        id: &EnvironmentId,
        site: &SiteName,
        to: Option<&str>,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, events)?;
        let environment = self.environment(id)?;
        let deployable = deployable(&environment, site)?;
        let before = self.site_code(id, site)?;
        self.is_up(&environment, site)?;
        let kept = before.as_ref().map_or(&[][..], |before| &before.releases);
        let chosen = match to {
            None => kept.get(1),
            Some(word) => kept.iter().find(|release| word.len() >= 4 && release.as_str().starts_with(word)),
        };
        let Some(release) = chosen else { return Err(no_release(&environment, site, kept, to)) };
        if dry_run {
            return Ok(planned(&environment, site, release));
        }
        let shelf = self.shelf()?;
        let told = |error: Error| error.failure(format!("roll `{site}` of `{id}` back"));
        let _hold = shelf.hold(release).map_err(told)?;
        let manifest = shelf.get(release).map_err(told)?;
        let code = before.as_ref().expect("a release of it was found in it").clone();
        let mut releases = code.releases.clone();
        releases.retain(|other| other != release);
        releases.insert(0, release.clone());
        let code = SiteCode { releases, commit: manifest.commit.clone(), ..code };
        self.roll_out(&environment, &deployable, before.as_ref(), &code, &manifest, events)
    }

    fn roll_out(
        &self,
        environment: &Environment,
        deployable: &Deployable<'_>,
        before: Option<&SiteCode>,
        code: &SiteCode,
        manifest: &Manifest,
        events: &Events,
    ) -> Result<Response, Failure> {
        let (id, name) = (&environment.id, &deployable.site.name);
        let shelf = self.shelf()?;
        let wanted = self.wanted(environment);
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
        };
        let changed = rollout.everywhere()?;
        let commit = code.commit.get(..10).unwrap_or(&code.commit);
        let what = format!("release {} (commit {commit} of {})", manifest.digest.short(), code.branch);
        if !changed {
            let summary = format!("`{name}` of `{id}` serves {what} already");
            return Ok(Response::Done(Done { summary, ..Done::default() }));
        }
        self.remember(&format!("deployed {} of {name} on", manifest.digest.short()), &id.to_string());
        let (shelf, unused) = self.unused_releases(deployable.site.code.keep as usize)?;
        if let Err(error) = shelf.prune(&unused) {
            events.warn(error.failure("remove unused releases").to_string());
        }
        let mut next = Vec::new();
        if let Some(old) = code.releases.get(1) {
            next.push(format!("back to {}: adt site:rollback {} {} {name}", old.short(), id.platform, id.name));
        }
        let summary = format!("`{name}` of `{id}` serves {what}");
        Ok(Response::Done(Done { summary, changed: true, next, ..Done::default() }))
    }

    /// One step of bringing a machine up.
    pub(super) fn deploy_onto(
        &self,
        raising: &Raising<'_>,
        machine: &MachineName,
        site: &SiteName,
        release: &Digest,
        events: &Events,
    ) -> Result<(), Failure> {
        let environment = raising.environment;
        let deployable = deployable(environment, site)?;
        let shelf = self.shelf()?;
        let told = |error: Error| {
            let id = &environment.id;
            let failure = error.failure(format!("deploy release {} of `{site}` on `{}`", release.short(), id.machine(machine)));
            failure.hint(format!("`adt site:deploy {} {} {site}` builds and deploys anew", id.platform, id.name))
        };
        let _hold = shelf.hold(release).map_err(told)?;
        let manifest = shelf.get(release).map_err(told)?;
        let code = self.site_code(&environment.id, site)?.expect("a release is wanted because this has it");
        let rollout = Rollout {
            engine: self,
            environment,
            site: deployable.site,
            path: deployable.path,
            wanted: raising.wanted,
            shelf: &shelf,
            events,
            variables: self.variables(environment, deployable.site)?,
            before: Some(&code),
            code: &code,
            manifest: &manifest,
        };
        rollout.onto(machine)
    }

    /// What the sites of an environment are meant to serve, as part of what is wanted of its machines.
    pub(super) fn add_releases(&self, environment: &Environment, wanted: &mut WantedMachines) -> Result<(), Failure> {
        let codes = self.store.database.site_codes(Some(&environment.id))?;
        for (name, code) in codes.into_values().flatten() {
            let Ok(deployable) = deployable(environment, &name) else { continue };
            let (Mode::Release, Some(release)) = (code.mode, code.releases.first()) else { continue };
            let role = environment.definition.platform.machine(&deployable.site.on);
            for machine in role.map(crate::model::Machine::names).unwrap_or_default() {
                if let Some(machine) = wanted.machines.get_mut(&machine) {
                    machine.releases.insert(name.clone(), release.clone());
                }
            }
        }
        Ok(())
    }

    /// Asks the running machines which of the wanted releases they serve.
    pub(super) fn add_served(&self, environment: &Environment, wanted: &WantedMachines, seen: &mut Seen) {
        for (name, machine) in &mut seen.machines {
            let (MachineState::Running { .. }, Some(wanted)) = (&machine.state, wanted.machines.get(name)) else { continue };
            for (site, release) in &wanted.releases {
                let Ok(deployable) = deployable(environment, site) else { continue };
                let ground = Ground { engine: self, spec: &wanted.spec, site: deployable.site, path: deployable.path };
                // A machine that can't be asked serves nothing that is known; the step that follows says why.
                if ground.look().is_ok_and(|standing| standing.serves == Serves::Release(release.short().to_owned())) {
                    machine.releases.insert(site.clone(), release.clone());
                }
            }
        }
    }

    /// Gives every site that is meant to serve releases its first one.
    pub(super) fn first_releases(&self, environment: &Environment, events: &Events) -> Result<(), Failure> {
        for (name, built) in self.build_first_releases(&environment.id, &environment.definition, events)? {
            self.store.database.put_site_code(&environment.id, &name, &built)?;
        }
        Ok(())
    }

    /// The same without writing it down: built releases stay on the shelf, so doing it twice costs nothing.
    pub(super) fn build_first_releases(
        &self,
        id: &EnvironmentId,
        definition: &Definition,
        events: &Events,
    ) -> Result<Vec<(SiteName, SiteCode)>, Failure> {
        let meant = |site: &&Site| site.code.mode == Mode::Release && site.code.source.is_some();
        let sites: Vec<&Site> = definition.platform.sites.iter().filter(meant).collect();
        if sites.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.store.database.site_codes(Some(id))?.remove(id).unwrap_or_default();
        let mut codes = Vec::new();
        for site in sites.into_iter().filter(|site| !known.contains_key(&site.name)) {
            let deployable = Deployable::of(site, id)?;
            let pick = self.pick(&deployable, id, None, &Deploy::default(), false, events)?;
            let built = self.built(definition, &id.platform, &deployable, pick, events)?;
            codes.push((site.name.clone(), built.code));
        }
        Ok(codes)
    }

    /// The commit that is meant. `newest`: the origin is asked, otherwise only where nothing is known of it yet.
    fn pick(
        &self,
        deployable: &Deployable<'_>,
        id: &EnvironmentId,
        before: Option<&SiteCode>,
        what: &Deploy,
        newest: bool,
        events: &Events,
    ) -> Result<Pick, Failure> {
        let site = deployable.site;
        let told = |error: crate::sources::Error| Failure::from(error);
        let mirror = Mirror::of(&self.store, deployable.source);
        let commit = |word: &str| -> Result<Option<Pick>, Failure> {
            let Some(commit) = export::commit(&mirror, word).map_err(told)? else { return Ok(None) };
            let branch = before.map_or_else(|| "no branch".to_owned(), |before| before.branch.clone());
            Ok(Some(Pick { branch, commit, choice: before.map_or(Choice::Chosen, |before| before.choice.clone()) }))
        };
        if let Some(word) = &what.commit {
            if mirror.exists()
                && let Some(pick) = commit(word)?
            {
                return Ok(pick);
            }
            self.fetch(&mirror, events)?;
            return commit(word)?.ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("find the commit `{word}` of site `{}`", site.name))
                    .cause(format!("no branch or tag of `{}` leads to it", mirror.address))
            });
        }
        if newest || !mirror.exists() {
            self.fetch(&mirror, events)?;
        }
        let stays = before.filter(|before| before.choice == Choice::Chosen).map(|before| before.branch.parse());
        let stays = stays.transpose().ok().flatten();
        let pattern = self.filled(&site.code.branch, id, site)?;
        let wish = Wish {
            chosen: what.branch.as_ref().or(stays.as_ref()),
            pattern: &pattern,
            default: site.code.default_branch.as_deref(),
        };
        branch::pick(&mirror.address, &wish, &mirror.branches().map_err(told)?).map_err(told)
    }

    fn fetch(&self, mirror: &Mirror, events: &Events) -> Result<(), Failure> {
        let lock = self.lock(&mirror.lock_name(), &mirror.address, events)?;
        let person = Person { ids: self.caller.ids, home: self.caller.home.clone() };
        let text = format!("fetch {}", mirror.address);
        events.task("sources", &text, || mirror.fetch(&lock, &person, self.now(), None)).map(drop).map_err(Failure::from)
    }

    fn built(
        &self,
        definition: &Definition,
        platform: &PlatformName,
        deployable: &Deployable<'_>,
        pick: Pick,
        events: &Events,
    ) -> Result<Built, Failure> {
        let inputs = self.inputs(definition, platform, deployable, &pick.commit)?;
        let mirror = Mirror::of(&self.store, deployable.source);
        let shelf = self.shelf()?;
        let (shop, emit) = (MachineShop { engine: self }, |event: Event| events.emit(event));
        let context = Context { shelf: &shelf, workshop: &shop, emit: &emit, cancel: &self.cancel };
        let origin = Origin { platform, site: &deployable.site.name, mirror: &mirror, commit: &pick.commit };
        let (manifest, hold) = build::ensure(context, origin, &inputs).map_err(|failure| match failure.kind {
            Kind::Cancelled => self.goes_on(failure),
            _ => failure,
        })?;
        let releases = vec![manifest.digest.clone()];
        let code = SiteCode { branch: pick.branch, choice: pick.choice, commit: pick.commit, mode: Mode::Release, releases };
        Ok(Built { code, manifest, _hold: hold })
    }

    fn inputs(
        &self,
        definition: &Definition,
        platform: &PlatformName,
        deployable: &Deployable<'_>,
        commit: &str,
    ) -> Result<Inputs, Failure> {
        let site = deployable.site;
        let mirror = Mirror::of(&self.store, deployable.source);
        let variables = [("ADT_PLATFORM", platform.to_string()), ("ADT_SITE", site.name.to_string())];
        Ok(Inputs {
            tree: export::tree(&mirror, commit)?,
            buildpack: site.code.buildpack.clone(),
            layers: definition.boxes.get(&site.on).map(|boxed| boxed.layers.clone()).unwrap_or_default(),
            folder: ground::folder(deployable.path),
            user: site.code.user.clone(),
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        })
    }

    /// The site's own variables for its programs.
    fn variables(&self, environment: &Environment, site: &Site) -> Result<Vec<(String, String)>, Failure> {
        let fill = |(name, text): &(String, String)| Ok((name.clone(), self.filled(text, &environment.id, site)?));
        site.env.iter().map(fill).collect()
    }

    /// A template of the site's configuration with its holes filled.
    fn filled(&self, text: &str, id: &EnvironmentId, site: &Site) -> Result<String, Failure> {
        let facts = serde_json::json!({ "env": id.name, "platform": id.platform, "site": site.name });
        let place = format!("platform.toml, site {}", site.name);
        template::render(&place, text, &facts).map_err(|error| {
            let hint = error.hint().unwrap_or_else(|| "known here: `env`, `platform`, `site`".to_owned());
            Failure::new(Kind::Config, "fill in a template").because(&error).hint(hint)
        })
    }

    pub(super) fn shelf(&self) -> Result<Shelf, Failure> {
        Shelf::open(&self.store.folder).map_err(|error| error.failure("open the releases"))
    }

    fn site_code(&self, id: &EnvironmentId, site: &SiteName) -> Result<Option<SiteCode>, Failure> {
        Ok(self.store.database.site_codes(Some(id))?.remove(id).and_then(|mut codes| codes.remove(site)))
    }

    /// A deploy reaches all machines or none, so all must be there.
    fn is_up(&self, environment: &Environment, site: &SiteName) -> Result<(), Failure> {
        let id = &environment.id;
        let wanted = wanted::wanted(self.store.install(), &[], environment);
        let role = deployable(environment, site)?.site.on.clone();
        let machines = environment.definition.platform.machine(&role).map(crate::model::Machine::names).unwrap_or_default();
        for machine in machines {
            let state = self.provider.inspect(&wanted.machines[&machine].spec.id)?;
            if environment.wanted != Wanted::Up || !matches!(state, MachineState::Running { .. }) {
                return Err(Failure::new(Kind::Conflict, format!("deploy `{site}` of `{id}`"))
                    .cause(format!("its machine `{machine}` is {}", state.word()))
                    .hint(format!("`adt env:up {} {}` starts it", id.platform, id.name)));
            }
        }
        Ok(())
    }

    /// What no environment has and is not among the newest of its site.
    pub(super) fn unused_releases(&self, newest: usize) -> Result<(Shelf, Unused), Failure> {
        self.releases_without(newest, |_| true)
    }

    /// Releases of a platform that goes with all its environments; removed unless it is a dry run.
    pub(super) fn forget_releases(&self, platform: &PlatformName, dry_run: bool) -> Result<Vec<String>, Failure> {
        // In a dry run its environments still stand.
        let (shelf, mut unused) = self.releases_without(0, |id| id.platform != *platform)?;
        unused.releases.retain(|(_, manifest)| manifest.as_ref().is_some_and(|manifest| manifest.platform == *platform));
        unused.halves.clear();
        if !dry_run {
            shelf.prune(&unused).map_err(|error| error.failure("remove the platform's releases"))?;
        }
        Ok(unused.words())
    }

    fn releases_without(&self, newest: usize, counts: impl Fn(&EnvironmentId) -> bool) -> Result<(Shelf, Unused), Failure> {
        let shelf = self.shelf()?;
        let codes = self.store.database.site_codes(None)?.into_iter().filter(|(id, _)| counts(id));
        let kept: BTreeSet<Digest> = codes.flat_map(|(_, codes)| codes.into_values()).flat_map(|code| code.releases).collect();
        let unused = shelf.unused(&kept, newest).map_err(|error| error.failure("find unused releases"))?;
        Ok((shelf, unused))
    }
}

impl<'a> Deployable<'a> {
    fn of(site: &'a Site, id: &EnvironmentId) -> Result<Self, Failure> {
        let lacks = |key: &str, example: &str| {
            Failure::new(Kind::Config, format!("deploy site `{}` of `{id}`", site.name))
                .cause(format!("its definition has no `{key}`"))
                .hint(format!("add e.g. `{key} = \"{example}\"` below `[sites.{}]`, then `adt env:reload`", site.name))
        };
        let source = site.code.source.as_deref().ok_or_else(|| lacks("source", "https://git.example.org/shop/www.git"))?;
        let path = site.code.path.as_deref().ok_or_else(|| lacks("path", "/srv/www"))?;
        Ok(Self { site, source, path })
    }
}

fn deployable<'a>(environment: &'a Environment, name: &SiteName) -> Result<Deployable<'a>, Failure> {
    let (id, sites) = (&environment.id, &environment.definition.platform.sites);
    let Some(site) = sites.iter().find(|site| site.name == *name) else {
        let known: Vec<_> = sites.iter().map(|site| site.name.to_string()).collect();
        return Err(Failure::new(Kind::NotFound, format!("find the site `{name}` in `{id}`"))
            .hint(format!("its sites are {}", known.join(", "))));
    };
    if site.code.mode == Mode::Live {
        return Err(Failure::new(Kind::Conflict, format!("deploy site `{name}` of `{id}`"))
            .cause("its checkout is live on its machines, where every edit shows at once")
            .hint(format!("write `mode = \"release\"` below `[sites.{name}]`, then `adt env:reload`")));
    }
    Deployable::of(site, id)
}

/// The newest first, each once, as many as are kept.
fn newest(digest: &Digest, before: Option<&SiteCode>, keep: usize) -> Vec<Digest> {
    let old = before.into_iter().flat_map(|before| before.releases.iter().cloned()).filter(|old| old != digest);
    std::iter::once(digest.clone()).chain(old).take(keep).collect()
}

fn planned(environment: &Environment, site: &SiteName, release: &Digest) -> Response {
    let sites = &environment.definition.platform.sites;
    let role = sites.iter().find(|one| one.name == *site).and_then(|site| environment.definition.platform.machine(&site.on));
    let chains = role.map(crate::model::Machine::names).unwrap_or_default().into_iter().map(|machine| {
        let action = Action::Deploy { machine, site: site.clone(), release: release.clone() };
        vec![Step { environment: environment.id.clone(), action }]
    });
    let mut plan = Plan::default();
    plan.then(chains);
    let summary = format!("release {} of `{site}` would be deployed to `{}`", release.short(), environment.id);
    Response::Done(Done { summary, plan: Some(plan), ..Done::default() })
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
