//! `site:add`, `site:remove`, `site:branch`, `site:list`: the sites of an environment that is there, without making it anew.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::engine::environment::perform::done;
use crate::engine::environment::records::leaving;
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::engine::site::code::{Chosen, Codes, LiveSite, at_checkout, known_mirror};
use crate::model::request::SiteWish;
use crate::model::response::{CodeDetail, CodeSummary, SiteDetail};
use crate::model::topology::Mode;
use crate::model::{Action, BranchName, EnvironmentId, Event, Failure, Kind, Plan, Platform, Response, Site, SiteName, Step};
use crate::plan::Goal;
use crate::sources::address::Address;
use crate::sources::branch::{self, Wish};
use crate::sources::checkout::{self, Stand};
use crate::store::record::SiteCode;
use crate::store::{Environment, Wanted};

impl Engine {
    pub(in crate::engine) fn site_add(
        &self,
        id: &EnvironmentId,
        wish: &SiteWish,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let record = self.platform(&id.platform)?;
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let mut environment = self.changeable(id, "add a site to")?;
        let platform = self.read_platform(&record)?;
        let names = with_needs(&platform, [&wish.site])?;
        let new: BTreeSet<_> = names.into_iter().filter(|name| !has(&environment.definition.platform, name)).collect();
        if new.is_empty() {
            self.say_where_it_is(id, wish, events)?;
            let plan = self.follow(&environment, Codes::new(), dry_run, events)?;
            return Ok(done(format!("`{}` is in `{id}` already", wish.site), plan, dry_run, Vec::new()));
        }
        let own = &mut environment.definition.platform;
        for site in platform.sites.iter().filter(|site| new.contains(&site.name)) {
            if own.machine(&site.on).is_none() {
                return Err(Failure::new(Kind::Conflict, format!("add site `{}` to `{id}`", site.name))
                    .cause(format!("it is served by `{}`, which the platform got after `{id}` was made", site.on))
                    .hint(format!("take the whole platform over with `adt env:reload {} {}`", id.platform, id.name)));
            }
        }
        let is_in = |site: &&Site| new.contains(&site.name) || has(own, &site.name);
        // What is there stays as it is, in the platform's order.
        let sites = platform
            .sites
            .iter()
            .filter(is_in)
            .map(|site| own.sites.iter().find(|known| known.name == site.name).unwrap_or(site).clone());
        own.sites = sites.collect();
        environment.definition.left_out.retain(|name| !new.contains(name));
        let needed: Vec<_> = new.iter().filter(|name| **name != wish.site).map(ToString::to_string).collect();
        if !needed.is_empty() {
            events.note(format!("`{}` needs {}: added too", wish.site, needed.join(", ")));
        }
        let chosen: Chosen = wish.branch.iter().map(|branch| (wish.site.clone(), branch.clone())).collect();
        let codes = self.choose_code(id, &environment.definition.platform, &chosen, dry_run, events)?;
        if !dry_run {
            // First what they run: killed in between, the next run finds it decided.
            for (site, code) in &codes {
                self.store.database.put_site_code(id, site, code)?;
            }
            self.store.database.set_definition(id, &environment.definition, self.now())?;
        }
        let plan = self.follow(&environment, codes, dry_run, events)?;
        let words = if dry_run { "would be added to" } else { "is added to" };
        Ok(changed(done(format!("`{}` {words} `{id}`", wish.site), plan, dry_run, Vec::new()), dry_run))
    }

    fn say_where_it_is(&self, id: &EnvironmentId, wish: &SiteWish, events: &Events) -> Result<(), Failure> {
        let codes = self.codes(id)?;
        if let (Some(branch), Some(code)) = (&wish.branch, codes.get(&wish.site))
            && code.branch != branch.as_str()
        {
            let (platform, name, site) = (&id.platform, &id.name, &wish.site);
            events.warn(format!(
                "`{site}` stays at `{}`; `adt site:branch {platform} {name} {site} {branch}` brings it to `{branch}`",
                code.branch
            ));
        }
        Ok(())
    }

    pub(in crate::engine) fn site_remove(
        &self,
        id: &EnvironmentId,
        name: &SiteName,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let mut environment = self.changeable(id, "remove a site from")?;
        let live = self.live_sites(&environment)?;
        let platform = &mut environment.definition.platform;
        let is_there = has(platform, name);
        if !is_there && !environment.definition.left_out.contains(name) {
            return Err(no_site(platform, id, name));
        }
        let users: Vec<_> =
            platform.sites.iter().filter(|site| site.needs.contains(name)).map(|site| site.name.to_string()).collect();
        if !users.is_empty() {
            return Err(Failure::new(Kind::Conflict, format!("remove site `{name}` from `{id}`"))
                .cause(format!("{} needs it", users.join(", ")))
                .hint(format!("remove that first: `adt site:remove {} {} {}`", id.platform, id.name, users[0])));
        }
        let removed = live.get(name).cloned();
        if is_there {
            platform.sites.retain(|site| site.name != *name);
            environment.definition.left_out.insert(name.clone());
            if !dry_run {
                self.store.database.set_definition(id, &environment.definition, self.now())?;
            }
        }
        let plan = self.follow_without(&environment, name, removed.as_ref(), dry_run, events)?;
        let summary = match (is_there || !plan.is_empty(), dry_run) {
            (true, true) => format!("`{name}` would be removed from `{id}`"),
            (true, false) => format!("`{name}` is removed from `{id}`"),
            (false, _) => format!("`{name}` is removed from `{id}` already"),
        };
        let response = done(summary, plan, dry_run, Vec::new());
        Ok(if is_there { changed(response, dry_run) } else { response })
    }

    /// Lets machines and names follow, then removes the working tree of the site that went.
    fn follow_without(
        &self,
        environment: &Environment,
        name: &SiteName,
        removed: Option<&LiveSite>,
        dry_run: bool,
        events: &Events,
    ) -> Result<Plan, Failure> {
        let id = &environment.id;
        let mut plan = self.follow(environment, Codes::new(), dry_run, events)?;
        let discard = Action::Discard { site: name.clone() };
        let planned = plan.steps().any(|step| step.action == discard);
        if let Some(site) = removed.filter(|_| !planned) {
            // A halted environment has no machine that still shows it.
            if !dry_run {
                self.discard(id, name, site, events)?;
            }
            plan.then([vec![Step { environment: id.clone(), action: discard }]]);
        }
        if !dry_run {
            self.store.database.forget_site_code(id, name)?;
        }
        Ok(plan)
    }

    /// A running environment follows its record at once, a halted one at its next start.
    fn follow(&self, environment: &Environment, new: Codes, dry_run: bool, events: &Events) -> Result<Plan, Failure> {
        match environment.wanted {
            Wanted::Up => self.drive_with(environment, Goal::Up, new, dry_run, events),
            Wanted::Halted | Wanted::Paused | Wanted::Gone => Ok(Plan::default()),
        }
    }

    pub(in crate::engine) fn site_branch(
        &self,
        id: &EnvironmentId,
        name: &SiteName,
        branch: &BranchName,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let _lock = self.lock_environment(id, Right::Use, events)?;
        let environment = self.changeable(id, "switch a site of")?;
        let site = find(&environment.definition.platform, id, name)?;
        let live = self.live_sites(&environment)?;
        let Some(there) = live.get(name) else { return Err(self.not_live(id, site)?) };
        let mirror = known_mirror(there);
        if !mirror.exists() || !mirror.branches()?.commits.contains_key(branch.as_str()) {
            self.fetch(mirror, there.owner, None, events)?;
        }
        let wish = Wish { chosen: Some(branch), ..Wish::default() };
        let pick = branch::pick(&mirror.address, &wish, &mirror.branches()?)
            .map_err(|error| crate::engine::site::code::at_site(site, error))?;
        let code = SiteCode { branch: pick.branch, choice: pick.choice, commit: pick.commit, ..there.code.clone() };
        let stands = self.stands(there, &code)?;
        let is_stale = stands && !self.stale_checkouts(&environment, &[(name.clone(), there.clone())].into())?.is_empty();
        if stands && !is_stale && there.code == code {
            return Ok(done(format!("`{name}` is at `{branch}` already"), Plan::default(), dry_run, Vec::new()));
        }
        let action = match stands {
            false => Some(Action::Switch { site: name.clone(), branch: branch.to_string() }),
            true if is_stale => Some(Action::Render { site: name.clone() }),
            true => None,
        };
        let mut plan = Plan::default();
        plan.then(action.map(|action| vec![Step { environment: id.clone(), action }]));
        if !plan.is_empty() {
            events.emit(Event::Planned { plan: plan.clone() });
        }
        if !dry_run {
            let next = LiveSite { code: code.clone(), ..there.clone() };
            self.perform_on_sites(&environment, &plan, [(name.clone(), next)].into(), events)?;
            self.store.database.put_site_code(id, name, &code)?;
        }
        let words = if dry_run { "would be brought to" } else { "is at" };
        Ok(changed(done(format!("`{name}` of `{id}` {words} `{branch}`"), plan, dry_run, Vec::new()), dry_run))
    }

    /// Whether the working tree has the branch with everything that the mirror has of it. Refuses where work is in the way.
    fn stands(&self, there: &LiveSite, code: &SiteCode) -> Result<bool, Failure> {
        if !checkout::exists(&there.folder) {
            return Ok(true);
        }
        let mirror = known_mirror(there);
        let state = checkout::state(Some(mirror), &self.person_of(there.owner), &there.folder)
            .map_err(|error| at_checkout(&there.folder, error))?;
        let on_it = state.branch.as_deref() == Some(code.branch.as_str());
        if on_it && (state.commit == code.commit || state.unpushed > 0) {
            return Ok(true);
        }
        if state.tracked > 0 {
            let folder = there.folder.display();
            return Err(Failure::new(Kind::Conflict, format!("bring `{folder}` to `{}`", code.branch))
                .cause(format!("{} there {} not committed", count(state.tracked, "change"), are(state.tracked)))
                .hint(format!("commit or `git stash` them in `{folder}`, then run the same command again")));
        }
        Ok(false)
    }

    /// The step that brings a working tree to another branch.
    pub(in crate::engine) fn switch(&self, site: &LiveSite) -> Result<(), Failure> {
        let stand = Stand { branch: &site.code.branch, commit: &site.code.commit };
        let person = self.person_of(site.owner);
        let borrow = || checkout::borrow(known_mirror(site), &person, &site.folder, &stand);
        borrow().and_then(|()| checkout::switch(&person, &site.folder, &stand)).map_err(|error| at_checkout(&site.folder, error))
    }

    fn not_live(&self, id: &EnvironmentId, site: &Site) -> Result<Failure, Failure> {
        let failure = Failure::new(Kind::Conflict, format!("switch site `{}` of `{id}`", site.name));
        Ok(match (self.codes(id)?.get(&site.name), &site.code.source) {
            (Some(code), _) if code.mode == Mode::Release => failure.cause("it runs a release, not a checkout"),
            (_, None) => failure.cause("its code comes with its box").hint("give it a `source` in platform.toml"),
            (_, Some(_)) => {
                failure.cause("its code was never checked out").hint(format!("`adt env:up {} {}` does it", id.platform, id.name))
            }
        })
    }

    pub(in crate::engine) fn site_list(&self, id: &EnvironmentId) -> Result<Response, Failure> {
        let environment = self.environment(id)?;
        Ok(Response::Sites(self.site_details(&environment)?))
    }

    pub(in crate::engine) fn site_details(&self, environment: &Environment) -> Result<Vec<SiteDetail>, Failure> {
        let (codes, live) = (self.codes(&environment.id)?, self.live_sites(environment)?);
        let route = crate::engine::environment::routes::environment(self.store.install(), environment);
        let details = route.sites.into_iter().map(|site| {
            let definition = environment.definition.platform.sites.iter().find(|known| known.name == site.name);
            let source = definition.and_then(|known| known.code.source.as_deref()).map(|source| Address::new(source).shown);
            let code = codes.get(&site.name).zip(source).map(|(code, source)| CodeDetail {
                summary: summary(code),
                source,
                folder: live.get(&site.name).map(|live| live.folder.clone()),
                drift: live.get(&site.name).map(|live| self.drift(live)).unwrap_or_default(),
                mirror_age: live.get(&site.name).and_then(|live| known_mirror(live).age(self.now())),
            });
            let addresses = site.backends.iter().map(|backend| backend.address.to_string()).collect();
            SiteDetail { name: site.name, host: site.host, addresses, aliases: site.aliases, code }
        });
        Ok(details.collect())
    }

    /// What differs between a working tree, its branch and what the store says.
    fn drift(&self, site: &LiveSite) -> Vec<String> {
        let mirror = known_mirror(site);
        if !checkout::exists(&site.folder) {
            return vec!["its folder is gone; `env:up` makes it again".to_owned()];
        }
        let state = match checkout::state(Some(mirror), &self.person_of(site.owner), &site.folder) {
            Ok(state) => state,
            Err(error) => return vec![format!("git can't read it: {error}")],
        };
        let mut drift = Vec::new();
        match &state.branch {
            Some(branch) if *branch == site.code.branch => {}
            Some(branch) => drift.push(format!("on branch `{branch}`")),
            None => drift.push("on no branch".to_owned()),
        }
        if state.changed > 0 {
            drift.push(format!("{} changed", count(state.changed, "file")));
        }
        let branch = state.branch.as_ref().unwrap_or(&site.code.branch);
        match mirror.branches().map(|branches| branches.commits.get(branch).cloned()) {
            Ok(Some(tip)) => {
                // Commits that only the checkout has can't be counted in the mirror.
                let ours = if mirror.has(&state.commit).unwrap_or(false) { &state.commit } else { &site.code.commit };
                let behind = mirror.ahead_behind(ours, &tip).map_or(0, |(_, behind)| behind);
                if behind > 0 {
                    drift.push(format!("{} behind", count(usize::try_from(behind).unwrap_or(usize::MAX), "commit")));
                }
            }
            Ok(None) if state.branch.as_deref() == Some(site.code.branch.as_str()) => {
                drift.push(format!("branch `{branch}` is gone at its source"));
            }
            Ok(None) => {}
            Err(_) => drift.push("its mirror is gone; the next fetch makes it again".to_owned()),
        }
        if state.unpushed > 0 {
            drift.push(format!("{} not pushed", count(state.unpushed, "commit")));
        }
        drift
    }

    /// An environment whose sites may be changed now.
    fn changeable(&self, id: &EnvironmentId, verb: &str) -> Result<Environment, Failure> {
        let environment = self.environment(id)?;
        if environment.wanted == Wanted::Gone { Err(leaving(id, verb)) } else { Ok(environment) }
    }
}

/// What a listing shows of a site's code.
pub(in crate::engine) fn summary(code: &SiteCode) -> CodeSummary {
    CodeSummary {
        branch: code.branch.clone(),
        why: code.choice.words(),
        commit: code.commit.clone(),
        mode: code.mode,
        release: code.releases.first().cloned(),
    }
}

/// These sites and whatever they need, and those need.
pub(in crate::engine) fn with_needs<'s>(
    platform: &Platform,
    names: impl IntoIterator<Item = &'s SiteName>,
) -> Result<BTreeSet<SiteName>, Failure> {
    let mut all = BTreeSet::new();
    let mut open: Vec<SiteName> = names.into_iter().cloned().collect();
    while let Some(name) = open.pop() {
        let Some(site) = platform.sites.iter().find(|site| site.name == name) else {
            let known: Vec<_> = platform.sites.iter().map(|site| site.name.to_string()).collect();
            return Err(Failure::new(Kind::NotFound, format!("find the site `{name}` in platform `{}`", platform.name))
                .hint(format!("its sites are {}", known.join(", "))));
        };
        if all.insert(name) {
            open.extend(site.needs.iter().cloned());
        }
    }
    Ok(all)
}

fn has(platform: &Platform, name: &SiteName) -> bool {
    platform.sites.iter().any(|site| site.name == *name)
}

pub(in crate::engine) fn find<'p>(platform: &'p Platform, id: &EnvironmentId, name: &SiteName) -> Result<&'p Site, Failure> {
    platform.sites.iter().find(|site| site.name == *name).ok_or_else(|| no_site(platform, id, name))
}

fn no_site(platform: &Platform, id: &EnvironmentId, name: &SiteName) -> Failure {
    let known: Vec<_> = platform.sites.iter().map(|site| site.name.to_string()).collect();
    Failure::new(Kind::NotFound, format!("find the site `{name}` in `{id}`")).hint(format!(
        "it has {}; `adt site:add {} {} {name}` adds one of the platform's",
        if known.is_empty() { "none".to_owned() } else { known.join(", ") },
        id.platform,
        id.name
    ))
}

/// The record changed, even where no machine had to.
fn changed(response: Response, dry_run: bool) -> Response {
    match response {
        Response::Done(done) => Response::Done(crate::model::response::Done { changed: !dry_run, ..done }),
        other => other,
    }
}

fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

fn are(number: usize) -> &'static str {
    if number == 1 { "is" } else { "are" }
}
