//! `platform:init`, `platform:list`, `platform:pull`: how a host comes to know a platform.

use std::path::{Path, PathBuf};

use crate::config;
use crate::disk;
use crate::engine::Engine;
use crate::engine::environment::listing::state_of;
use crate::engine::events::Events;
use crate::exec::{Account, on_files_of};
use crate::model::request::PlatformInit;
use crate::model::response::{Done, EnvironmentState, PlatformSummary};
use crate::model::{Failure, Kind, Platform, PlatformName, Response, SiteName};
use crate::sources::address::Address;
use crate::sources::{self, git, shipped};
use crate::store::{Environment, PlatformRecord, Readable};

/// What a user's word for a platform's source means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Git(String),
    Folder(PathBuf),
    Example(String),
}

impl From<sources::Error> for Failure {
    fn from(error: sources::Error) -> Self {
        use sources::Error;
        match &error {
            // Who stopped it need not read what was stopped.
            Error::Fetch { source, .. } | Error::Exec(source) if source.kind() == Kind::Cancelled => {
                Self::new(Kind::Cancelled, "finish the work of git").cause("cancelled")
            }
            Error::Fetch { source, .. } => {
                Self::new(source.kind(), "fetch the repository").because(&error).tail(source.tail().iter().cloned()).hint(
                    "try the address with `git ls-remote`; adt uses your own keys and credential helpers, and your \
                     agent where sudo leaves it: `sudo --preserve-env=SSH_AUTH_SOCK adt …`",
                )
            }
            Error::NoBranch { known, .. } => {
                let failure = Self::new(Kind::NotFound, "choose the branch").because(&error);
                match known.as_slice() {
                    [] => failure.hint("push a first branch to it"),
                    known => failure.hint(format!("it has {}", known.join(", "))),
                }
            }
            Error::SeveralBranches { .. } => Self::new(Kind::Usage, "choose the branch").because(&error),
            Error::NoCheckout { .. } => Self::new(Kind::Conflict, "pull the platform")
                .because(&error)
                .hint("change its files where they are; they are in force after `adt env:reload`"),
            Error::Occupied { .. } => Self::new(Kind::Conflict, "make the platform's folder")
                .because(&error)
                .hint("name another folder, or give this one to `adt platform:init` if it holds the platform"),
            Error::Unfit { .. } => Self::new(Kind::Config, "render a site's templates").because(&error),
            Error::InTheWay { .. } => Self::new(Kind::Config, "render a site's templates")
                .because(&error)
                .hint("move that file away, or the template if the file is what you want, then run the same command again"),
            Error::NoAccessLists { .. } => Self::new(Kind::Host, "keep a repository for you alone").because(&error).hint(
                "`adt host:bootstrap --pool 50G` moves the store into a filesystem that has them; where only a mount option \
                 is missing, `mount -o remount,acl` gives it",
            ),
            Error::Io { .. } => Self::new(Kind::Host, "keep the sources").because(&error),
            Error::Exec(source) => Self::new(source.kind(), "run git").because(&error).tail(source.tail().iter().cloned()),
        }
    }
}

impl Engine {
    pub(in crate::engine) fn platform_init(&self, init: &PlatformInit, events: &Events) -> Result<Response, Failure> {
        let hands = self.hands();
        let source = on_files_of(hands, || self.source(init))?;
        match source {
            Source::Folder(folder) => {
                let platform = self.sound(&folder, hands.or(Account::owner_of(&folder).as_ref()))?;
                self.register(&platform, folder.display().to_string(), None)
            }
            Source::Git(address) => {
                let branch = init.branch.as_deref();
                let address = Address::new(&address);
                let fetch = |folder: &Path| {
                    events.task("git", &format!("cloning {}", address.shown), || {
                        git::clone(&self.person(), &address, branch, folder).map_err(Failure::from)
                    })
                };
                self.make(init, &address.shown, fetch)
            }
            Source::Example(name) => self.make(init, &name, |folder| {
                on_files_of(hands, || shipped::write(&name, folder))?;
                on_files_of(hands, || self.give_to_caller(folder))
            }),
        }
    }

    /// Fills a new folder beside its final place, checks it, and only then moves it there: a bad platform leaves nothing.
    fn make(
        &self,
        init: &PlatformInit,
        source: &str,
        fill: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<Response, Failure> {
        let beside = init.into.as_ref().and_then(|into| into.parent().map(Path::to_owned)).unwrap_or_else(|| init.here.clone());
        let draft = on_files_of(self.hands(), || new_draft(&beside))?;
        let made = self.fill_and_put(init, source, draft.path(), fill);
        on_files_of(self.hands(), || drop(draft));
        made
    }

    fn fill_and_put(
        &self,
        init: &PlatformInit,
        source: &str,
        draft: &Path,
        fill: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<Response, Failure> {
        let hands = self.hands();
        if let (Some(account), None) = (&self.caller.account, hands) {
            std::os::unix::fs::chown(draft, Some(account.user), Some(account.group))
                .map_err(|error| Failure::new(Kind::Host, "hand the new folder over to you").because(&error))?;
        }
        let content = draft.join("platform");
        fill(&content)?;
        let mut platform = self.sound(&content, hands)?;
        let folder = init.into.clone().unwrap_or_else(|| init.here.join(platform.name.as_str()));
        let folder = on_files_of(hands, || real_place(&folder)).unwrap_or(folder);
        if let Some(known) = self.store.database.platform(&platform.name)?
            && known.folder == folder
            && known.source == source
            && on_files_of(hands, || folder.join("platform.toml").exists())
        {
            return Ok(Response::Done(Done {
                summary: format!("platform `{}` is here already, in `{}`", platform.name, folder.display()),
                ..Done::default()
            }));
        }
        let is_occupied = || std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
        if on_files_of(hands, is_occupied) {
            return Err(sources::Error::Occupied { folder }.into());
        }
        self.may_register(&platform.name, &folder)?;
        on_files_of(hands, || disk::put_tree(&content, &folder))
            .map_err(|error| Failure::new(Kind::Host, format!("move the platform to `{}`", folder.display())).because(&error))?;
        platform.folder = folder;
        self.register(&platform, source.to_owned(), init.branch.clone())
    }

    fn source(&self, init: &PlatformInit) -> Result<Source, Failure> {
        let word = init.source.as_str();
        if git::is_address(word) {
            return Ok(Source::Git(word.to_owned()));
        }
        let folder = init.here.join(word);
        if folder.join("platform.toml").exists() && init.branch.is_none() {
            let folder = folder
                .canonicalize()
                .map_err(|error| Failure::new(Kind::NotFound, format!("open `{}`", folder.display())).because(&error))?;
            return Ok(Source::Folder(folder));
        }
        if folder.join(".git").exists() || folder.join("HEAD").exists() {
            return Ok(Source::Git(folder.display().to_string()));
        }
        let known = shipped::names();
        if known.contains(word) {
            return Ok(Source::Example(word.to_owned()));
        }
        let known: Vec<_> = known.into_iter().collect();
        Err(Failure::new(Kind::NotFound, format!("find the platform `{word}`"))
            .cause("it is no git address, no folder with a `platform.toml`, and no shipped example")
            .hint(format!("the examples are {}", known.join(" and "))))
    }

    /// The definition in `folder`, with every box that it names.
    fn sound(&self, folder: &Path, keeper: Option<&Account>) -> Result<Platform, Failure> {
        let platform = on_files_of(keeper, || config::platform::read(&folder.join("platform.toml")))?;
        self.check_providers(&platform)?;
        self.check_domain(&platform, keeper)?;
        self.boxes_of(&platform, keeper)?;
        Ok(platform)
    }

    fn may_register(&self, name: &PlatformName, folder: &Path) -> Result<(), Failure> {
        if folder.to_str().is_none() {
            return Err(Failure::new(Kind::Usage, format!("add the platform `{name}`"))
                .cause(format!("the path of its folder, `{}`, is not UTF-8", folder.display()))
                .hint("put it into a folder whose path is, e.g. with `mv`"));
        }
        match self.store.database.platform(name)? {
            Some(known) if known.folder != folder && self.is_elsewhere(&known, folder) => {
                Err(Failure::new(Kind::Conflict, format!("add the platform `{name}`"))
                    .cause(format!("a platform of this name is in `{}`", known.folder.display()))
                    .hint(format!("forget that one with `adt platform:destroy {name}`, or rename yours in `platform.toml`")))
            }
            // Who may not pull it may not give its name to what they like either.
            Some(known) => self.has_folder(&known, &format!("change the platform `{name}`")),
            None => Ok(()),
        }
    }

    /// Whether a known platform's folder is there and another than this one, which may have been added by another path.
    fn is_elsewhere(&self, known: &PlatformRecord, folder: &Path) -> bool {
        let real = || known.folder.canonicalize().ok();
        on_files_of(self.keeper(known).as_ref(), real).is_some_and(|real| real != folder)
    }

    fn register(&self, platform: &Platform, source: String, branch: Option<String>) -> Result<Response, Failure> {
        let name = &platform.name;
        self.may_register(name, &platform.folder)?;
        let known = self.store.database.platform(name)?;
        let owner = Account::owner_of(&platform.folder);
        // What adt makes in it for environments would else be put into another's folder.
        if self.hands().is_some_and(|own| owner.as_ref().is_none_or(|owner| owner.user != own.user)) {
            return Err(Failure::new(Kind::Privilege, format!("add the platform `{name}`"))
                .cause(format!("its folder `{}` is not yours", platform.folder.display()))
                .hint("make a copy that is yours, e.g. with `git clone`, or ask the one whose folder it is to add it"));
        }
        let record = PlatformRecord {
            name: name.clone(),
            folder: platform.folder.clone(),
            source,
            branch,
            created: known.as_ref().map_or_else(|| self.now(), |known| known.created),
            keeper: self.hands().map(|account| account.user).or_else(|| owner.map(|owner| owner.user)),
        };
        let changed = known.as_ref() != Some(&record);
        if changed {
            self.store.database.put_platform(&record)?;
        }
        let place = platform.folder.display();
        Ok(Response::Done(Done {
            summary: if changed {
                format!("platform `{name}` is in `{place}`")
            } else {
                format!("platform `{name}` is here already, in `{place}`")
            },
            changed,
            next: vec![
                format!("build its boxes: adt platform:build {name}"),
                format!("a first environment: adt env:init {name} 1161"),
            ],
            ..Done::default()
        }))
    }

    /// The record of a platform, or the error that names what is known.
    pub(in crate::engine) fn platform(&self, name: &PlatformName) -> Result<PlatformRecord, Failure> {
        if let Some(record) = self.store.database.platform(name)? {
            return Ok(record);
        }
        let known: Vec<_> = self.store.database.platforms()?.iter().map(|platform| platform.name.to_string()).collect();
        let failure = Failure::new(Kind::NotFound, format!("find the platform `{name}`"));
        Err(if known.is_empty() {
            failure.hint("add one with `adt platform:init`, e.g. `adt platform:init hello`")
        } else {
            failure.hint(format!("known are {}; add one with `adt platform:init`", known.join(", ")))
        })
    }

    /// The sites of a platform; none where its definition can't be read.
    pub fn site_names(&self, platform: &PlatformName) -> Vec<SiteName> {
        let read = self.platform(platform).and_then(|record| self.read_platform(&record));
        read.map(|platform| platform.sites.into_iter().map(|site| site.name).collect()).unwrap_or_default()
    }

    /// What the platform's folder says now.
    pub(in crate::engine) fn read_platform(&self, record: &PlatformRecord) -> Result<Platform, Failure> {
        let read = || config::platform::read(&record.folder.join("platform.toml"));
        on_files_of(self.keeper(record).as_ref(), read).map_err(|failure| match failure.kind {
            Kind::NotFound => failure.hint(format!(
                "put the platform's folder back, give its new place to `adt platform:init`, or forget it with \
                 `adt platform:destroy {}`",
                record.name
            )),
            _ => failure,
        })
    }

    pub(in crate::engine) fn platform_list(&self) -> Result<Response, Failure> {
        let Readable { sound: environments, damaged } = self.readable_environments(None)?;
        let survey = self.survey(&environments);
        let nameless = self.store.database.nameless_platforms()?.into_iter().map(|(name, folder)| nameless(name, folder));
        let summaries = self.store.database.platforms()?.into_iter().map(|record| {
            let own: Vec<_> = environments.iter().filter(|environment| environment.id.platform == record.name).collect();
            let is_up = |environment: &Environment| state_of(environment, &survey.of(&environment.id)) == EnvironmentState::Up;
            let up = own.iter().filter(|environment| is_up(environment)).count();
            let read = self.read_platform(&record);
            let unreadable = damaged.iter().filter(|damaged| damaged.platform == record.name.as_str()).count();
            PlatformSummary {
                name: record.name.to_string(),
                summary: read.as_ref().map(|platform| platform.summary.clone()).unwrap_or_default(),
                folder: record.folder,
                // An older adt kept it as it was given.
                source: Address::new(&record.source).shown,
                branch: record.branch,
                environments: own.len() + unreadable,
                up,
                fault: read.err(),
            }
        });
        Ok(Response::Platforms(summaries.chain(nameless).collect()))
    }

    pub(in crate::engine) fn platform_pull(&self, name: &PlatformName, events: &Events) -> Result<Response, Failure> {
        let record = self.platform(name)?;
        let told = events.task("git", &format!("pulling {}", record.folder.display()), || {
            git::pull(&self.person(), &record.folder).map_err(Failure::from)
        })?;
        let platform = self.sound(&record.folder, self.keeper(&record).as_ref())?;
        Ok(Response::Done(Done {
            summary: format!("platform `{}`: {told}", platform.name),
            changed: !told.starts_with("already"),
            next: vec![format!("adt platform:build {name}"), format!("adt env:reload {name} <environment>")],
            ..Done::default()
        }))
    }

    /// The one whose folder a platform is; `None` where it is root's.
    pub(in crate::engine) fn keeper(&self, record: &PlatformRecord) -> Option<Account> {
        record.keeper.map(Account::of).or_else(|| Account::owner_of(&record.folder))
    }

    pub(in crate::engine) fn person(&self) -> git::Person {
        let (account, home) = (self.caller.account.clone(), self.caller.home.clone());
        git::Person { account, home, only: false, cancel: self.cancel() }
    }

    /// Files made for a person behind sudo belong to that person.
    fn give_to_caller(&self, folder: &Path) -> Result<(), Failure> {
        let Some(account) = &self.caller.account else { return Ok(()) };
        for entry in walkdir::WalkDir::new(folder) {
            let told = |error: &(dyn std::error::Error + 'static)| {
                Failure::new(Kind::Host, format!("hand `{}` over to you", folder.display())).because(error)
            };
            let entry = entry.map_err(|error| told(&error))?;
            std::os::unix::fs::lchown(entry.path(), Some(account.user), Some(account.group)).map_err(|error| told(&error))?;
        }
        Ok(())
    }
}

/// Without links on the way: whose these are can change.
fn real_place(folder: &Path) -> Option<PathBuf> {
    Some(folder.parent()?.canonicalize().ok()?.join(folder.file_name()?))
}

fn new_draft(beside: &Path) -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new().prefix(".adt-").tempdir_in(beside).map_err(|error| {
        let failure = Failure::new(Kind::Host, format!("write into `{}`", beside.display()));
        if beside.is_dir() {
            failure.because(&error)
        } else {
            failure.cause("there is no such folder").hint(format!("make it first: `mkdir -p {}`", beside.display()))
        }
    })
}

/// A record whose very name is damaged must not hide the others.
fn nameless(name: String, folder: PathBuf) -> PlatformSummary {
    let fault = Failure::new(Kind::Store, "read its record")
        .cause("its name is no name of a platform")
        .hint("`adt platform:destroy` with that name removes it");
    PlatformSummary {
        name,
        summary: String::new(),
        folder,
        source: String::new(),
        branch: None,
        environments: 0,
        up: 0,
        fault: Some(fault),
    }
}
