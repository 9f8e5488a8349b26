//! The code of an environment's sites: which branch, from which mirror, checked out where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::disk::walk;
use crate::engine::Engine;
use crate::engine::at_once::join;
use crate::engine::events::Events;
use crate::engine::permission::Authority;
use crate::exec::{Account, account};
use crate::model::topology::Mode;
use crate::model::{BranchName, EnvironmentId, Event, Failure, Kind, Platform, PlatformName, Site, SiteName};
use crate::sources::branch::{self, Pick, Wish};
use crate::sources::checkout::{self, Stand};
use crate::sources::git::Person;
use crate::sources::mirror::{Fetch, Mirror};
use crate::sources::stock::{Use, Uses};
use crate::sources::{self, workspace};
use crate::store::record::{Choice, SiteCode};
use crate::store::{Environment, Lock};
use crate::template;

/// A site whose code is a working tree in the platform's folder.
#[derive(Debug, Clone)]
pub(in crate::engine) struct LiveSite {
    pub folder: PathBuf,
    /// Unknown for a site that its environment no longer has.
    pub mirror: Option<Mirror>,
    pub code: SiteCode,
    /// Whose the folder is, where that is known.
    pub owner: Option<u32>,
}

pub(in crate::engine) type LiveSites = BTreeMap<SiteName, LiveSite>;
pub(in crate::engine) type Codes = BTreeMap<SiteName, SiteCode>;
/// The branches that a command names.
pub(in crate::engine) type Chosen = BTreeMap<SiteName, BranchName>;

/// A mirror of this age is not asked again whether a ticket has its branch by now.
pub(super) const FRESH_SECONDS: i64 = 30;
/// So long a new environment waits for the answer whether its ticket has a branch.
const PATIENCE_SECONDS: u32 = 3;

impl Engine {
    /// What an environment's sites run, as the store says it.
    pub(in crate::engine) fn codes(&self, id: &EnvironmentId) -> Result<Codes, Failure> {
        Ok(self.store.database.site_codes(Some(id))?.remove(id).unwrap_or_default())
    }

    pub fn has_live_sites(&self, id: &EnvironmentId) -> Result<bool, Failure> {
        Ok(self.codes(id)?.values().any(|code| code.mode == Mode::Live))
    }

    pub(in crate::engine) fn live_sites(&self, environment: &Environment) -> Result<LiveSites, Failure> {
        Ok(self.live_sites_of(environment, self.codes(&environment.id)?))
    }

    /// The same for codes that the store does not have, or not yet.
    pub(in crate::engine) fn live_sites_of(&self, environment: &Environment, codes: Codes) -> LiveSites {
        let platform = &environment.definition.platform;
        self.live_sites_in(&workspace_of(environment), &platform.folder, &platform.sites, codes, environment.owner.user)
    }

    fn live_sites_in(&self, workspace: &Path, platform: &Path, sites: &[Site], codes: Codes, owner: Option<u32>) -> LiveSites {
        let live = codes.into_iter().filter(|(_, code)| code.mode == Mode::Live).map(|(name, code)| {
            let site = sites.iter().find(|site| site.name == name);
            let mirror = site.and_then(|site| self.mirror(platform, site, owner));
            (name.clone(), LiveSite { folder: workspace.join(name.as_str()), mirror, code, owner })
        });
        live.collect()
    }

    /// The checkouts of an environment whose own record can't be read, and the folder that they are in, as far as its
    /// platform's tells.
    pub(in crate::engine) fn checkouts_without_record(
        &self,
        id: &EnvironmentId,
    ) -> Result<(LiveSites, Option<PathBuf>), Failure> {
        let Some(record) = self.store.database.platform(&id.platform)? else { return Ok((LiveSites::new(), None)) };
        let sites = self.read_platform(&record).map(|platform| platform.sites).unwrap_or_default();
        let workspace = record.folder.join(id.name.as_str());
        Ok((self.live_sites_in(&workspace, &record.folder, &sites, self.codes(id)?, None), Some(workspace)))
    }

    /// The mirror of a site's source for an environment of this owner; `None` for a site whose code is its box's.
    pub(in crate::engine) fn mirror(&self, platform: &Path, site: &Site, owner: Option<u32>) -> Option<Mirror> {
        let address = address(platform, site)?;
        let person = self.fetches_for(owner);
        let is_roots = self.caller.authority == Authority::Root && person.user() == self.person().user();
        Some(if is_roots { Mirror::of(&self.store, &address) } else { Mirror::of_member(&self.store, &address, person.user()) })
    }

    /// With whose keys and settings sources of this owner's environments are fetched: the owner's, whoever starts it. What the
    /// caller may read is nothing that somebody else's platform could ask for. Nobody's work is done with root's.
    fn fetches_for(&self, owner: Option<u32>) -> Person {
        let caller = self.person();
        match owner.filter(|owner| *owner != 0 && *owner != caller.user()) {
            Some(owner) => Person { home: account::home_of(owner), account: Some(Account::of(owner)), ..caller },
            None => caller,
        }
    }

    /// Whose an environment is; nobody's yet, where it is about to be made.
    pub(in crate::engine) fn owner_of(&self, id: &EnvironmentId) -> Result<Option<u32>, Failure> {
        Ok(self.store.database.environment(id)?.and_then(|environment| environment.owner.user))
    }

    /// Chooses what each site with a source runs, where that is not decided yet. Uses the network only for a repository
    /// that was never fetched, and to ask for a branch that the mirror does not have.
    pub(in crate::engine) fn choose_code(
        &self,
        id: &EnvironmentId,
        platform: &Platform,
        chosen: &Chosen,
        dry_run: bool,
        events: &Events,
    ) -> Result<Codes, Failure> {
        let known = self.codes(id)?;
        let open = platform.sites.iter().filter(|site| !known.contains_key(&site.name) && site.code.source.is_some());
        let picks: Vec<(SiteName, Result<SiteCode, Failure>)> = std::thread::scope(|scope| {
            let picking: Vec<_> = open
                .map(|site| {
                    let choice = chosen.get(&site.name);
                    (site.name.clone(), scope.spawn(move || self.pick(id, platform, site, choice, dry_run, events)))
                })
                .collect();
            picking.into_iter().map(|(name, pick)| (name, join(pick))).collect()
        });
        picks.into_iter().map(|(name, pick)| Ok((name, pick?))).collect()
    }

    fn pick(
        &self,
        id: &EnvironmentId,
        platform: &Platform,
        site: &Site,
        chosen: Option<&BranchName>,
        dry_run: bool,
        events: &Events,
    ) -> Result<SiteCode, Failure> {
        let owner = self.owner_of(id)?;
        let mirror = self.mirror(&platform.folder, site, owner).expect("only sites with a source are asked for");
        let pattern = pattern(id, site)?;
        let wish = Wish { chosen, pattern: &pattern, default: site.code.default_branch.as_deref() };
        if dry_run && !mirror.exists() {
            events.note(format!("{}: `{}` would be fetched first", site.name, mirror.address));
            let branch = chosen.map_or_else(|| pattern.clone(), ToString::to_string);
            let code =
                SiteCode { branch, choice: Choice::Ticket, commit: String::new(), mode: site.code.mode, releases: Vec::new() };
            return Ok(code);
        }
        if !dry_run {
            self.bring_mirror(&mirror, owner, site, &wish, events)?;
        }
        let branches = mirror.branches()?;
        let Pick { branch, commit, choice } =
            branch::pick(&mirror.address, &wish, &branches).map_err(|error| at_site(site, error))?;
        events.note(format!("{}: branch `{branch}` ({})", site.name, choice.words()));
        Ok(SiteCode { branch, choice, commit, mode: site.code.mode, releases: Vec::new() })
    }

    /// Makes sure that the mirror is there and has what is wished for, if the origin has it.
    fn bring_mirror(
        &self,
        mirror: &Mirror,
        owner: Option<u32>,
        site: &Site,
        wish: &Wish<'_>,
        events: &Events,
    ) -> Result<(), Failure> {
        if !mirror.exists() {
            let sentence = format!("fetch the source of site `{}`", site.name);
            return self.fetch(mirror, owner, None, events).map_err(|failure| Failure { sentence, ..failure });
        }
        let branches = mirror.branches()?;
        let (lacks, patience) = match wish.chosen {
            Some(chosen) => (!branches.commits.contains_key(chosen.as_str()), None),
            None => (!branch::has_ticket(wish.pattern, &branches), Some(PATIENCE_SECONDS)),
        };
        if !lacks || mirror.age(self.now()).is_some_and(|age| age < FRESH_SECONDS) {
            return Ok(());
        }
        if let Err(failure) = self.fetch(mirror, owner, patience, events) {
            if failure.kind == Kind::Cancelled {
                return Err(failure);
            }
            let age = ago(mirror.age(self.now()).unwrap_or(0));
            let why = failure.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
            events.warn(format!("`{}` can't be reached{why}; using its mirror of {age}", mirror.address));
        }
        Ok(())
    }

    /// Brings a mirror to what its origin has, one command at a time.
    pub(in crate::engine) fn fetch(
        &self,
        mirror: &Mirror,
        owner: Option<u32>,
        patience: Option<u32>,
        events: &Events,
    ) -> Result<(), Failure> {
        let lock = self.lock(&mirror.lock_name(), &mirror.address, events)?;
        self.fetch_locked(&lock, mirror, &self.fetches_for(owner), patience, events)
    }

    pub(super) fn fetch_locked(
        &self,
        lock: &Lock,
        mirror: &Mirror,
        person: &Person,
        patience: Option<u32>,
        events: &Events,
    ) -> Result<(), Failure> {
        let text = format!("fetching {}", mirror.address);
        let tell = |how_far: &str| {
            events.emit(Event::TaskProgress { task: "git".to_owned(), text: format!("{text}: {how_far}") });
        };
        let fetch = Fetch { person, now: self.now(), patience, tell: &tell };
        let told = events.task("git", &text, || mirror.fetch(lock, &fetch).map_err(Failure::from));
        told.map(drop)
    }

    /// The step that makes a site's working tree.
    pub(in crate::engine) fn check_out(
        &self,
        id: &EnvironmentId,
        name: &SiteName,
        site: &LiveSite,
        events: &Events,
    ) -> Result<(), Failure> {
        let (mirror, code) = (known_mirror(site), &site.code);
        let platform = site.folder.parent().and_then(Path::parent).expect("a checkout lies in an environment's folder");
        let (person, keeper) = (self.person_of(site.owner), self.keeper_of(&id.platform)?);
        let occupied = |error| match error {
            sources::Error::Occupied { folder } => Failure::new(Kind::Conflict, format!("check out site `{name}`"))
                .cause(format!("`{}` is there and is not adt's", folder.display()))
                .hint("move it away, or give the environment another name"),
            other => at_checkout(&site.folder, other),
        };
        let workspace = workspace::make(platform, keeper, id.name.as_str(), &person).map_err(occupied)?;
        if let Some(owner) = site.owner {
            walk::open(&workspace, owner).map_err(|error| {
                Failure::new(Kind::Conflict, format!("use the folder `{}`", workspace.display()))
                    .because(&error)
                    .hint("move it away, then run the same command again")
            })?;
        }
        checkout::sweep(&person, keeper, &workspace)?;
        if !mirror.exists() || !mirror.has(&code.commit)? {
            self.fetch(mirror, site.owner, None, events)?;
        }
        if !checkout::exists(&site.folder) {
            note_use(mirror, self.now(), Use::Checkout);
        }
        let stand = Stand { branch: &code.branch, commit: &code.commit };
        checkout::make(mirror, &person, &site.folder, &stand).map_err(occupied)?;
        self.tell_what_is_not_fetched(name, mirror, code, events)
    }

    /// A mirror has neither submodules nor large files: a working tree can fetch them, a release gets what its buildpack gets.
    pub(in crate::engine) fn tell_what_is_not_fetched(
        &self,
        name: &SiteName,
        mirror: &Mirror,
        code: &SiteCode,
        events: &Events,
    ) -> Result<(), Failure> {
        let remedy = |command| match code.mode {
            Mode::Live => format!("run `{command}` in its folder"),
            Mode::Release => "its releases have what `buildpack` downloads".to_owned(),
        };
        if mirror.file(&code.commit, ".gitmodules")?.is_some() {
            events.warn(format!("{name}: its submodules are not fetched; {}", remedy("git submodule update --init")));
        }
        let attributes = mirror.file(&code.commit, ".gitattributes")?.unwrap_or_default();
        if String::from_utf8_lossy(&attributes).contains("filter=lfs") {
            events.warn(format!("{name}: its large files (LFS) are not fetched; {}", remedy("git lfs pull")));
        }
        Ok(())
    }

    /// The step that removes a working tree, or leaves it where it holds work.
    pub(in crate::engine) fn discard(
        &self,
        id: &EnvironmentId,
        name: &SiteName,
        site: &LiveSite,
        events: &Events,
    ) -> Result<(), Failure> {
        match self.work_in(site) {
            None => {
                let discarded = checkout::discard(&self.person_of(site.owner), self.keeper_of(&id.platform)?, &site.folder);
                // Where somebody bent the way to it there is nothing that is known to be adt's, and the site goes all the same.
                if let Err(error) = discarded {
                    events.warn(format!("`{}` is left as it is: {}", site.folder.display(), at_checkout(&site.folder, error)));
                }
            }
            Some(work) => events.warn(format!("`{}` is kept: {work}", site.folder.display())),
        }
        Ok(self.store.database.forget_site_code(id, name)?)
    }

    /// What would be lost with a working tree, in words.
    pub(in crate::engine) fn work_in(&self, site: &LiveSite) -> Option<String> {
        if !checkout::exists(&site.folder) {
            return None;
        }
        match checkout::state(site.mirror.as_ref(), &self.person_of(site.owner), &site.folder) {
            Ok(state) if state.is_replaceable() => None,
            Ok(state) => Some(state.words()),
            Err(error) => Some(format!("git can't tell whether it holds work ({error})")),
        }
    }

    /// Leaves nothing of an environment in its platform's folder but what holds work.
    pub(in crate::engine) fn tidy_workspace(&self, id: &EnvironmentId, folder: &Path) -> Result<(), Failure> {
        Ok(checkout::tidy(&self.person(), self.keeper_of(&id.platform)?, folder)?)
    }

    /// Whose a platform's folder is to be. Of one that adt forgot nothing but root's is touched.
    pub(super) fn keeper_of(&self, platform: &PlatformName) -> Result<u32, Failure> {
        let record = self.store.database.platform(platform)?;
        Ok(record.and_then(|record| self.keeper(&record)).map_or(0, |keeper| keeper.user))
    }
}

/// A guess at what comes is worth no failure.
pub(super) fn note_use(mirror: &Mirror, now: i64, kind: Use) {
    if let Err(error) = Uses::note(&mirror.folder, now, kind) {
        tracing::debug!(%error, "a use of a mirror is not noted");
    }
}

/// Where the code of a site comes from.
pub(in crate::engine) fn address(platform: &Path, site: &Site) -> Option<String> {
    let source = site.code.source.as_ref()?;
    let is_path = !sources::git::is_address(source.trim_end_matches(".git"));
    // A path is meant as the file has it that it stands in, wherever adt is run.
    Some(if is_path { platform.join(source).display().to_string() } else { source.clone() })
}

/// Where an environment's checkouts are.
pub(in crate::engine) fn workspace_of(environment: &Environment) -> PathBuf {
    environment.definition.platform.folder.join(environment.id.name.as_str())
}

pub(in crate::engine) fn known_mirror(site: &LiveSite) -> &Mirror {
    site.mirror.as_ref().expect("a site that its environment has comes from somewhere")
}

/// What a site's pattern becomes for an environment.
pub(in crate::engine) fn pattern(id: &EnvironmentId, site: &Site) -> Result<String, Failure> {
    let facts = serde_json::json!({ "env": id.name, "platform": id.platform, "site": site.name });
    template::render(&format!("sites.{}.branch", site.name), &site.code.branch, &facts).map_err(|error| {
        let failure = Failure::new(Kind::Config, format!("find the branch of site `{}`", site.name)).because(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

pub(in crate::engine) fn at_site(site: &Site, error: sources::Error) -> Failure {
    let meant = match &error {
        sources::Error::SeveralBranches { found, .. } => found.first().cloned(),
        _ => None,
    };
    let mut failure = Failure::from(error);
    failure.hints.extend(meant.map(|branch| format!("name the one that is meant, e.g. `{}:{branch}`", site.name)));
    Failure { sentence: format!("{} of site `{}`", failure.sentence, site.name), ..failure }
}

pub(in crate::engine) fn at_checkout(folder: &Path, error: sources::Error) -> Failure {
    let failure = Failure::from(error);
    Failure { sentence: format!("use the checkout `{}`", folder.display()), ..failure }
}

/// `3 minutes ago`
pub(in crate::engine) fn ago(seconds: i64) -> String {
    let (number, unit) = match seconds {
        ..120 => (seconds.max(0), "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}
