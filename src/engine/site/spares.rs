//! Behind commands: mirrors that follow their origins, and working trees that are ready for the next environments.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::permission::Authority;
use crate::exec;
use crate::model::topology::Mode;
use crate::model::{Failure, PlatformName, Site, SiteName};
use crate::sources::checkout::Stand;
use crate::sources::git::Person;
use crate::sources::mirror::Mirror;
use crate::sources::spare::{self, Spares};
use crate::sources::stock::{Disk, Use, Uses};
use crate::sources::{ready, workspace};
use crate::store::{Environment, Lock, PlatformRecord};

use super::code::{FRESH_SECONDS, note_use};

/// A site of a platform that next environments will have, and the mirror that it comes from.
struct Prepared {
    site: Site,
    mirror: Mirror,
}

impl Engine {
    /// Whether environments that a platform has from now on begin with working trees.
    pub fn will_have_live_sites(&self, platform: &PlatformName) -> bool {
        let record = self.store.database.platform(platform).ok().flatten();
        record.is_some_and(|record| !self.sites_to_come(&record).is_empty())
    }

    /// The sites of a platform that are to have working trees, as its folder says now; none where it can't be read.
    fn sites_to_come(&self, record: &PlatformRecord) -> Vec<Site> {
        let sites = self.read_platform(record).map(|platform| platform.sites).unwrap_or_default();
        sites.into_iter().filter(|site| site.code.source.is_some() && site.code.mode == Mode::Live).collect()
    }

    /// Brings every mirror in use to what its origin has, then makes working trees ready for the next environments of each
    /// platform; of the platform `built` also where there is no environment yet. For the background: an origin that can't be
    /// reached, or a mirror that another fetches, is left as it is. The caller's keys work for the caller's own platforms alone.
    pub fn refresh_sources(&self, built: Option<&PlatformName>) -> Result<(), Failure> {
        let person = self.person();
        let mut prepared = Vec::new();
        for record in self.store.database.platforms()?.into_iter().filter(|record| self.works_behind_for(record)) {
            let sites = self.sites_in_use(&record, built, &person)?;
            for Prepared { mirror, .. } in &sites {
                self.follow_origin(mirror, &person)?;
                if built == Some(&record.name) || Uses::of(&mirror.folder).is_empty() {
                    note_use(mirror, self.now(), Use::Build);
                }
            }
            prepared.push((record, sites));
        }
        // Not earlier: commands wait for who fetches into a mirror, and for this only who destroys the platform does.
        exec::step_behind();
        for (record, sites) in prepared {
            if let Err(failure) = self.prepare_spares(&record, &sites, &person) {
                tracing::debug!(%failure, "no spare checkout");
            }
        }
        Ok(())
    }

    fn sites_in_use(
        &self,
        record: &PlatformRecord,
        built: Option<&PlatformName>,
        person: &Person,
    ) -> Result<Vec<Prepared>, Failure> {
        let to_come = if built == Some(&record.name) { self.sites_to_come(record) } else { Vec::new() };
        let mut sites: BTreeMap<SiteName, Site> = to_come.into_iter().map(|site| (site.name.clone(), site)).collect();
        let own = |environment: &Environment| environment.owner.user.is_none_or(|owner| owner == person.user());
        for environment in self.environments(Some(&record.name))?.into_iter().filter(own) {
            let live = self.live_sites(&environment)?;
            let own = environment.definition.platform.sites.into_iter().filter(|site| live.contains_key(&site.name));
            sites.extend(own.map(|site| (site.name.clone(), site)));
        }
        // A site that is live in an older environment may have lost its source since.
        let with_mirror = |site: Site| Some(Prepared { mirror: self.mirror(&record.folder, &site, None)?, site });
        Ok(sites.into_values().filter_map(with_mirror).collect())
    }

    /// Whoever holds the mirror's lock brings it up to date; to wait for that would queue up behind an origin that is away.
    fn follow_origin(&self, mirror: &Mirror, person: &Person) -> Result<(), Failure> {
        let is_old = || mirror.age(self.now()).is_none_or(|age| age >= FRESH_SECONDS);
        let holder = self.holder();
        if is_old()
            && let Ok(lock) = self.store.lock(&mirror.lock_name(), &holder).attempt()?
            && is_old()
        {
            drop(self.fetch_locked(&lock, mirror, person, None, &Events::unread()));
        }
        Ok(())
    }

    /// Whether what nobody waits for is done for a platform: where its folder is the caller's, or root's and they have root's
    /// rights. Root's keys and settings are for nobody's platform but root's, a member's for nobody's but theirs.
    fn works_behind_for(&self, record: &PlatformRecord) -> bool {
        match self.keeper(record) {
            Some(keeper) => keeper.user == self.person().user(),
            None => self.caller.authority == Authority::Root,
        }
    }

    fn prepare_spares(&self, record: &PlatformRecord, sites: &[Prepared], person: &Person) -> Result<(), Failure> {
        let holder = self.holder();
        let lock = self.store.lock(&spares_lock(&record.name), &holder);
        let Ok(_lock) = lock.attempt()? else { return Ok(()) };
        // It may have been destroyed since, and then nobody would remove these.
        if self.store.database.platform(&record.name)?.is_none() {
            return Ok(());
        }
        let keeper = self.keeper_of(&record.name)?;
        let mirrors = self.store.folder.join("sources");
        let remembered = |mirror: &str| Uses::of(&mirrors.join(format!("{mirror}.git"))).is_remembered(self.now());
        spare::put_away_forgotten(&record.folder.join(ready::SPARES), keeper, person, &remembered)?;
        for Prepared { site, mirror } in sites {
            if let Err(failure) = self.prepare_site(record, site, mirror, person, keeper) {
                tracing::debug!(%failure, site = %site.name, "no spare checkout");
            }
        }
        Ok(())
    }

    fn prepare_site(
        &self,
        record: &PlatformRecord,
        site: &Site,
        mirror: &Mirror,
        person: &Person,
        keeper: u32,
    ) -> Result<(), Failure> {
        let branches = mirror.branches()?;
        let Some(branch) = site.code.default_branch.as_ref().or(branches.head.as_ref()) else { return Ok(()) };
        let Some(commit) = branches.commits.get(branch) else { return Ok(()) };
        let disk = || Disk::of(&record.folder).unwrap_or(Disk::FULL);
        let wanted = || Uses::of(&mirror.folder).trees(self.now(), &disk());
        if wanted() == 0 {
            return Ok(());
        }
        let folder = workspace::make(&record.folder, keeper, ready::SPARES, person)?;
        let spares = Spares { mirror, person, keeper, folder: &folder };
        Ok(spares.keep(&Stand { branch, commit }, &wanted, &|tree| disk().has_room_for(tree))?)
    }

    /// Removes what was prepared for environments of a platform that is to be forgotten; waits for whoever prepares. Nobody
    /// does it again as long as what is returned is held.
    pub(in crate::engine) fn remove_spares(&self, record: &PlatformRecord, events: &Events) -> Result<Lock, Failure> {
        let what = format!("the spare checkouts of `{}`", record.name);
        let lock = self.lock(&spares_lock(&record.name), &what, events)?;
        workspace::remove(&record.folder.join(ready::SPARES), self.keeper_of(&record.name)?)?;
        Ok(lock)
    }
}

fn spares_lock(platform: &PlatformName) -> String {
    format!("spares-{platform}")
}
