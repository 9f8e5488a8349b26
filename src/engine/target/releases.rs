//! The releases of a promotion: which ones go, how they travel, and how the environment there comes to serve them.
//!
//! ```text
//! operator   deployed ──────────────┐
//!            checkout's commit ─ build ─> release of each site ─> the definition names it ─ send what lacks
//! server     take in ─ machines as defined, with the releases of before ─ roll out, site by site ─ recorded as served
//! ```
//! The definition says what each site is to serve, the store what all its machines serve; so whoever comes after a kill sees
//! what is left. A site that is new, or whose machines are made anew on another box, begins with its new release: the old one
//! may not run there. Nothing is ever built on a server, and nothing is checked out there.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::site::code::{Codes, LiveSite, at_checkout, known_mirror};
use crate::engine::site::deploy::deploys;
use crate::model::response::{Done, ReleaseSummary, Standing};
use crate::model::target::ReleaseProof;
use crate::model::topology::Mode;
use crate::model::{Action, Digest, EnvironmentId, Event, Failure, Kind, Machine, Plan, Response, Site, SiteName};
use crate::plan::Goal;
use crate::plan::promotion::Going;
use crate::releases::packed::{self, Unpacked};
use crate::releases::{Error, Manifest};
use crate::sources::address::Address;
use crate::sources::checkout;
use crate::store::record::{Definition, SiteCode};
use crate::store::{Environment, Lock};

/// What the sites of a ticket serve, for a server. The releases are held as long as this lives.
#[derive(Default)]
pub(super) struct Load {
    pub going: Vec<Going>,
    codes: Codes,
    held: Vec<Lock>,
}

impl Load {
    /// A definition that says which release each site gets, and nothing of where its code came from.
    pub fn write_into(&self, definition: &mut Definition) {
        definition.promoted = self.codes.clone();
        for site in definition.platform.sites.iter_mut().filter(|site| site.code.source.is_some()) {
            site.code.mode = Mode::Release;
            site.code.source = site.code.source.as_deref().map(|source| Address::new(source).shown);
        }
    }
}

impl Engine {
    /// The release of each site with a source: the one that is deployed, else that of the commit that its checkout is at.
    pub(super) fn load(&self, environment: &Environment, dry_run: bool, events: &Events) -> Result<Load, Failure> {
        let (mut load, shelf) = (Load::default(), self.shelf()?);
        let mut codes = self.codes(&environment.id)?;
        for site in environment.definition.platform.sites.iter().filter(|site| site.code.source.is_some()) {
            let code = codes.remove(&site.name).ok_or_else(|| undecided(&environment.id, &site.name))?;
            let told = |error: Error| {
                let EnvironmentId { platform, name } = &environment.id;
                error
                    .failure(format!("read the release of site `{}`", site.name))
                    .hint(format!("`adt site:deploy {platform} {name} {}` builds and deploys anew", site.name))
            };
            let (code, digest) = match (code.mode, code.releases.first().cloned()) {
                (Mode::Release, Some(release)) => {
                    load.held.push(shelf.hold(&release).map_err(told)?);
                    (code, release)
                }
                (mode, _) => {
                    let code = if mode == Mode::Live { self.committed(environment, &site.name, code, events)? } else { code };
                    let (release, held) = self.release_of(environment, site, &code, dry_run, events)?;
                    load.held.extend(held);
                    (code, release)
                }
            };
            let manifest = match shelf.with_content(&digest, &self.cancel) {
                Err(Error::Missing { .. }) if dry_run => None,
                other => Some(other.map_err(told)?),
            };
            load.going.push(going(&environment.definition, site, &code, &digest, manifest.as_ref()));
            load.codes.insert(site.name.clone(), SiteCode { mode: Mode::Release, releases: vec![digest], ..code });
        }
        Ok(load)
    }

    /// What the checkout of a live site is at, which must be all that it is.
    fn committed(
        &self,
        environment: &Environment,
        name: &SiteName,
        code: SiteCode,
        events: &Events,
    ) -> Result<SiteCode, Failure> {
        let id = &environment.id;
        let live = self.live_sites_of(environment, [(name.clone(), code.clone())].into()).remove(name);
        let live @ LiveSite { folder, .. } = &live.expect("the code of a live site is a checkout");
        let refused = |cause: String| Failure::new(Kind::Conflict, format!("promote site `{name}` of `{id}`")).cause(cause);
        if !checkout::exists(folder) {
            return Err(refused(format!("its checkout `{}` is not there", folder.display()))
                .hint(format!("`adt env:up {} {}` makes it", id.platform, id.name)));
        }
        let mirror = known_mirror(live);
        let state = checkout::state(Some(mirror), &self.person_of(live.owner), folder);
        let state = state.map_err(|error| at_checkout(folder, error))?;
        if state.changed > 0 {
            let changes = if state.changed == 1 { "1 change".to_owned() } else { format!("{} changes", state.changed) };
            return Err(refused(format!("`{}` has {changes} that no commit has", folder.display()))
                .hint(format!("commit or `git stash` them in `{}`, then run the same command again", folder.display())));
        }
        if !mirror.exists() || !mirror.has(&state.commit)? {
            self.fetch(mirror, live.owner, None, events)?;
        }
        if !mirror.has(&state.commit)? {
            let commit = state.commit.get(..10).unwrap_or(&state.commit);
            return Err(refused(format!("its commit {commit} is nowhere but in `{}`", folder.display()))
                .hint(format!("`git push` it in `{}`, then run the same command again", folder.display())));
        }
        Ok(SiteCode { branch: state.branch.unwrap_or(code.branch), commit: state.commit, ..code })
    }

    /// Writes these releases, one after the other.
    pub(super) fn send_releases(&self, digests: &[Digest], to: &mut (dyn Write + Send), events: &Events) -> Result<(), Failure> {
        let shelf = self.shelf()?;
        for digest in digests {
            let send = || packed::pack(&shelf, digest, to, &self.cancel).map_err(|error| error.failure("send the releases"));
            events.task(&format!("release {}", digest.short()), "send", send)?;
        }
        to.flush().map_err(|error| Failure::new(Kind::Host, "send the releases").because(&error))
    }

    /// Puts the releases that come onto the shelf of a server.
    pub fn take_releases(&self, from: &mut (dyn Read + Send), each: &mut dyn FnMut(Event)) -> Result<Response, Failure> {
        self.with_events(each, |events| {
            let shelf = self.shelf()?;
            let waiting = || events.emit(Event::Waiting { on: "a release".into(), holder: "another command".into() });
            let mut count = 0;
            loop {
                let taken = packed::unpack(&shelf, from, &self.cancel, &waiting);
                let Some(taken) = taken.map_err(|error| error.failure("take in the releases"))? else { break };
                let (manifest, word) = match &taken {
                    Unpacked::New(manifest) => (manifest, "is here now"),
                    Unpacked::There(manifest) => (manifest, "was here already"),
                };
                events.note(format!("release {} {word}", manifest.digest.short()));
                count += 1;
            }
            Ok(Response::Done(Done { summary: format!("{count} releases came"), changed: count > 0, ..Done::default() }))
        })
    }

    /// Every whole release as its manifest tells it, and those that are named as their files are at this moment.
    pub(super) fn releases_there(&self, read_again: &[Digest]) -> Result<Vec<ReleaseSummary>, Failure> {
        let shelf = self.shelf()?;
        let told = |error: Error| error.failure("read the releases");
        let each = shelf.all().map_err(told)?.into_iter().map(|manifest| {
            let content = read_again.contains(&manifest.digest).then(|| shelf.read_again(&manifest, &self.cancel));
            let content = match content {
                // What can't be read any more is not what came, and the others are still to be told of.
                Some(Err(Error::Damaged { .. } | Error::BadEntry { .. })) => None,
                Some(read) => Some(read.map_err(told)?.sha256),
                None => manifest.content.map(|content| content.sha256),
            };
            Ok(ReleaseSummary { digest: manifest.digest, content, size: manifest.size })
        });
        each.collect()
    }

    /// What would fail later is told before anything is written down. In a dry run the releases may be still to come.
    pub(super) fn can_serve(&self, id: &EnvironmentId, definition: &Definition, dry_run: bool) -> Result<(), Failure> {
        let shelf = self.shelf()?;
        let sites = definition.platform.sites.iter().filter(|site| site.code.source.is_some());
        for site in sites.filter(|site| !definition.serving(site).is_empty()) {
            let failure = |kind, cause| Failure::new(kind, format!("make `{id}`")).cause(cause);
            let code = definition.promoted.get(&site.name).filter(|code| code.mode == Mode::Release);
            let Some([release]) = code.map(|code| code.releases.as_slice()) else {
                let cause = format!("its definition does not say which release site `{}` serves", site.name);
                return Err(failure(Kind::Conflict, cause));
            };
            if !dry_run && !shelf.has(release) {
                let cause = format!("the release {} of site `{}` is not here", release.short(), site.name);
                return Err(failure(Kind::NotFound, cause).hint("`adt env:promote` sends what is missing"));
            }
        }
        self.try_sites(&self.rehearsal(id, definition), &definition.promoted)
    }

    /// What the sites begin with that need no roll-out, because nothing of theirs is served or stays. `before` is the definition
    /// until now.
    pub(super) fn beginning(&self, environment: &Environment, before: &Definition) -> Result<Codes, Failure> {
        let served = self.codes(&environment.id)?;
        let definition = &environment.definition;
        let begins = |name: &SiteName| {
            let site = definition.platform.sites.iter().find(|site| site.name == *name);
            let layers = |of: &Definition| site.and_then(|site| of.boxes.get(&site.on)).map(|boxed| boxed.layers.clone());
            !served.contains_key(name) || layers(before) != layers(definition)
        };
        let new = definition.promoted.iter().filter(|(name, _)| begins(name));
        // What a site served stays on its machines and on the shelf for a way back.
        let code = |(name, code): (&SiteName, &SiteCode)| {
            let old = served.get(name).into_iter().flat_map(|old| &old.releases).filter(|old| !code.releases.contains(old));
            let releases = code.releases.iter().chain(old).cloned().collect();
            (name.clone(), SiteCode { releases, ..code.clone() })
        };
        Ok(new.map(code).collect())
    }

    /// Brings the environment up as it is defined, then site by site to what each is to serve, as `site:deploy` does it.
    pub(super) fn drive_promoted(
        &self,
        environment: &Environment,
        first: Codes,
        dry_run: bool,
        events: &Events,
    ) -> Result<Plan, Failure> {
        let id = &environment.id;
        let mut served = self.codes(id)?;
        served.extend(first.clone());
        let promoted = &environment.definition.promoted;
        let is_served = |name: &SiteName, code: &SiteCode| {
            let known = served.get(name);
            known.is_some_and(|known| (known.releases.first(), &known.commit) == (code.releases.first(), &code.commit))
        };
        let later: BTreeMap<&SiteName, &SiteCode> = promoted.iter().filter(|(name, code)| !is_served(name, code)).collect();
        let is_of_later = |action: &Action| matches!(action, Action::Deploy { site, .. } if later.contains_key(site));
        let seen = match later.is_empty() {
            true => None,
            false => Some(self.drive_with(environment, Goal::Up, first.clone(), true, &Events::unread())?),
        };
        let mut plan = match seen {
            // A roll-out that was cut off goes on: what it had switched is not switched back first.
            Some(seen) if dry_run || seen.steps().all(|step| is_of_later(&step.action)) => seen.without(is_of_later),
            Some(_) | None => self.drive_with(environment, Goal::Up, first, dry_run, events)?,
        };
        for (name, code) in later {
            let site = crate::engine::site::sites::find(&environment.definition.platform, id, name)?;
            plan.then(code.releases.first().map(|release| deploys(environment, site, release)).unwrap_or_default());
            if !dry_run {
                self.deploy_promoted(environment, name, code, events).map_err(|failure| {
                    failure.hint("once it is mended, `adt env:promote` tries again; `adt env:rollback` goes back altogether")
                })?;
            }
        }
        if !dry_run {
            for gone in served.keys().filter(|name| !promoted.contains_key(*name)) {
                self.store.database.forget_site_code(id, gone)?;
            }
        }
        Ok(plan)
    }
}

fn undecided(id: &EnvironmentId, site: &SiteName) -> Failure {
    Failure::new(Kind::Conflict, format!("promote site `{site}` of `{id}`"))
        .cause("what it runs is not decided yet")
        .hint(format!("`adt env:up {} {}` brings it up", id.platform, id.name))
}

fn going(definition: &Definition, site: &Site, code: &SiteCode, digest: &Digest, manifest: Option<&Manifest>) -> Going {
    let machines = definition.platform.machine(&site.on).map(Machine::names).unwrap_or_default().len() as u64;
    let content = manifest.and_then(|manifest| manifest.content.as_ref());
    let size = manifest.map_or(0, |manifest| manifest.size);
    Going {
        site: site.name.clone(),
        commit: code.commit.clone(),
        release: ReleaseSummary { digest: digest.clone(), content: content.map(|content| content.sha256.clone()), size },
        room: size + content.map_or(0, |content| content.bytes).saturating_mul(machines),
    }
}

/// What each site serves there, by content: as it went, or as it once came, and as it is on the server's shelf now.
pub(super) fn proof(server: &str, went: &[Going], now: &Standing) -> Vec<ReleaseProof> {
    let proof = |Going { site, commit, release, .. }: &Going| ReleaseProof {
        server: server.to_owned(),
        site: site.clone(),
        commit: commit.clone(),
        digest: release.digest.clone(),
        here: release.content.clone(),
        there: served(now, site).filter(|there| there.digest == release.digest).and_then(|there| there.content.clone()),
    };
    went.iter().map(proof).collect()
}

/// What a server's sites serve, as it came there.
pub(super) fn came(standing: &Standing) -> Vec<Going> {
    let each = standing.serves.iter().filter_map(|(site, code)| {
        let release = served(standing, site)?.clone();
        Some(Going { site: site.clone(), commit: code.commit.clone(), release, room: 0 })
    });
    each.collect()
}

fn served<'s>(standing: &'s Standing, site: &SiteName) -> Option<&'s ReleaseSummary> {
    let digest = standing.serves.get(site)?.release.as_ref()?;
    standing.releases.iter().find(|known| known.digest == *digest)
}
