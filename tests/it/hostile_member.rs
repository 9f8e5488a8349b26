//! What a member of the group `adt` may do, and what one tries who wants more: others' environments, others' files, root's.
//!
//! The engine is asked here as the daemon's socket asks it. Members have no entry on this host, only ids.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use adt::engine::Caller;
use adt::engine::permission::Authority;
use adt::exec::Account;
use adt::model::request::{Bind, Bootstrap, Copy, Deploy, PlatformInit, SiteWish};
use adt::model::{EnvironmentId, Failure, Kind, Request, Response};
use adt::store::Owner;

use super::fakes::{Host, PLATFORM, Process, id, init};

pub const ADA: u32 = 70_001;
pub const EVA: u32 = 70_002;
const SECRET: &str = "root alone may read this";

/// A host on which Ada and Eva have folders, and root has one that is closed to them.
pub struct Town {
    pub host: Host,
    _folder: tempfile::TempDir,
}

impl Town {
    /// `None`, said loudly, where this is not root.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "in CI this test must run as root");
            eprintln!("NOT RUN: this test needs root, which alone can be anybody");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("adt-test-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let town = Self { host: Host::new(folder.path()), _folder: folder };
        for (name, owner, mode) in [("ada", ADA, 0o700), ("eva", EVA, 0o700), ("root", 0, 0o700)] {
            let home = town.at(name);
            fs::create_dir(&home).unwrap();
            chown(&home, Some(owner), Some(owner)).unwrap();
            fs::set_permissions(&home, PermissionsExt::from_mode(mode)).unwrap();
        }
        fs::write(town.at("root/secret"), SECRET).unwrap();
        Some(town)
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.host.folder.join(path)
    }

    fn member(&self, name: &str, user: u32) -> Process {
        let mut process = self.host.process("a command");
        process.engine.caller = Caller {
            user: name.into(),
            account: Some(Account::bare(user, user)),
            authority: Authority::Member,
            command: "a command".into(),
            home: Some(self.at(name)),
        };
        process
    }

    pub fn ada(&self) -> Process {
        self.member("ada", ADA)
    }

    pub fn eva(&self) -> Process {
        self.member("eva", EVA)
    }

    /// A platform in a folder of this member's, with boxes that are built already.
    fn platform(&self, member: &str, owner: u32, name: &str) -> PathBuf {
        let folder = self.at(member).join(name);
        copy(&self.host.shop(), &folder, owner);
        let text = PLATFORM.replace("\"shop\"", &format!("\"{name}\""));
        give(&folder.join("platform.toml"), &text, owner);
        folder
    }
}

pub fn copy(from: &Path, to: &Path, owner: u32) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    let own = format!("{owner}:{owner}");
    assert!(Command::new("chown").args(["-R", &own]).arg(to).status().unwrap().success());
}

pub fn give(path: &Path, text: &str, owner: u32) {
    fs::write(path, text).unwrap();
    chown(path, Some(owner), Some(owner)).unwrap();
}

fn refused(process: &Process, request: Request) -> Failure {
    match process.run(request.clone()).result {
        Err(failure) => failure,
        Ok(response) => panic!("{request:?} answers {response:?}"),
    }
}

/// What only an environment's owner may ask, and whom they share it with.
fn owners() -> Vec<Request> {
    let (web, www) = ("web1".parse().unwrap(), "www".parse::<adt::model::SiteName>().unwrap());
    let here = |path: &str| Path::new("/var/tmp").join(path);
    let id = || id("1161");
    vec![
        Request::EnvCopy { id: id(), machine: web, copy: Copy::Out { source: "/etc/passwd".into(), target: here("taken") } },
        Request::EnvReload { id: id(), data: false, dry_run: false },
        Request::EnvReload { id: id(), data: true, dry_run: false },
        Request::EnvSnapshot { id: id(), name: None },
        Request::EnvSnapshotRemove { id: id(), name: "one".parse().unwrap(), dry_run: false },
        Request::EnvRewind { id: id(), name: None, dry_run: false },
        Request::SiteDeploy { id: id(), site: www.clone(), what: Deploy::default(), dry_run: false },
        Request::SiteRollback { id: id(), site: www.clone(), to: None, dry_run: false },
        Request::SiteAdd { id: id(), site: SiteWish { site: www.clone(), branch: None }, dry_run: false },
        Request::SiteBranch { id: id(), site: www.clone(), branch: "main".parse().unwrap(), dry_run: false },
        Request::SiteRemove { id: id(), site: www, dry_run: false },
        Request::HostUnbind { environment: Some(id()) },
        Request::EnvDestroy { id: id(), dry_run: true },
        Request::EnvDestroy { id: id(), dry_run: false },
        Request::PlatformDestroy {
            platform: "shop".parse().unwrap(),
            environments: vec!["1161".parse().unwrap()],
            dry_run: false,
        },
        Request::PlatformDestroy { platform: "shop".parse().unwrap(), environments: Vec::new(), dry_run: false },
    ]
}

#[test]
fn anothers_environment_is_looked_at_and_started_and_nothing_more() {
    let Some(town) = Town::new() else { return };
    town.ada().done(init("1161"));
    let environment = town.ada().engine.store.database.environment(&id("1161")).unwrap().unwrap();
    assert_eq!((environment.owner, environment.shared), (Owner { name: "ada".into(), user: Some(ADA) }, false));
    let eva = town.eva();
    for request in owners() {
        let failure = refused(&eva, request.clone());
        assert_eq!(failure.kind, Kind::Privilege, "{request:?}: {failure}");
        assert!(failure.to_string().contains("it belongs to `ada`"), "{request:?}: {failure}");
        assert!(failure.hints.iter().any(|hint| hint.contains("adt env:share shop 1161") && hint.contains("ada")), "{failure:?}");
    }
    let destroy = refused(&eva, Request::EnvDestroy { id: id("1161"), dry_run: false });
    assert_eq!(destroy.to_string(), "could not destroy `shop/1161`: it belongs to `ada`");
    let share = refused(&eva, Request::EnvShare { id: id("1161"), shared: true });
    assert_eq!(share.kind, Kind::Privilege);
    assert_eq!(eva.engine.enter(&id("1161"), &"web1".parse().unwrap()).unwrap_err().kind, Kind::Privilege);
    for request in [
        Request::EnvList { platform: None },
        Request::EnvShow { id: id("1161") },
        Request::EnvFacts { id: id("1161") },
        Request::EnvSnapshots { id: id("1161") },
        Request::SiteList { id: id("1161") },
        Request::EnvHalt { id: id("1161"), dry_run: false },
        Request::EnvUp { id: id("1161"), dry_run: false },
        init("1161"),
    ] {
        eva.run(request.clone()).result.unwrap_or_else(|failure| panic!("{request:?}: {failure}"));
    }
    let owner = eva.engine.store.database.environment(&id("1161")).unwrap().unwrap().owner;
    assert_eq!(owner.name, "ada", "whoever starts it");
    town.ada().engine.enter(&id("1161"), &"web1".parse().unwrap()).unwrap();
    town.ada().done(Request::EnvDestroy { id: id("1161"), dry_run: false });
    assert!(town.eva().done(Request::EnvDestroy { id: id("1161"), dry_run: false }).summary.contains("already"));
}

#[test]
fn a_shared_environment_is_everybodys_until_its_owner_says_no() {
    let Some(town) = Town::new() else { return };
    town.ada().done(init("1161"));
    let share = |shared| Request::EnvShare { id: id("1161"), shared };
    assert!(town.ada().done(share(true)).changed);
    assert!(!town.ada().done(share(true)).changed);
    town.eva().done(Request::EnvReload { id: id("1161"), data: true, dry_run: false });
    town.eva().engine.enter(&id("1161"), &"web1".parse().unwrap()).unwrap();
    let failure = refused(&town.eva(), share(false));
    assert!(failure.to_string().contains("it belongs to `ada`"), "only its owner ends that: {failure}");
    let Ok(Response::Environments(list)) = town.eva().run(Request::EnvList { platform: None }).result else { panic!() };
    assert!(list[0].shared && list[0].owner == "ada");
    town.ada().done(share(false));
    refused(&town.eva(), Request::EnvDestroy { id: id("1161"), dry_run: false });
    // From its beginning, and root behind sudo, whoever it is.
    let shared = Request::EnvInit { id: id("7"), sites: Vec::new(), on: None, shared: true, dry_run: false };
    town.ada().done(shared);
    town.eva().done(Request::EnvDestroy { id: id("7"), dry_run: false });
    town.host.process("env:destroy").done(Request::EnvDestroy { id: id("1161"), dry_run: false });
}

#[test]
fn an_owner_whom_an_older_adt_knew_by_name_is_written_down_once() {
    let Some(town) = Town::new() else { return };
    town.ada().done(init("1161"));
    let raw = rusqlite::Connection::open(town.host.store().join("adt.db")).unwrap();
    raw.execute("UPDATE environments SET user = NULL", []).unwrap();
    refused(&town.eva(), Request::EnvDestroy { id: id("1161"), dry_run: false });
    town.ada().done(Request::EnvReload { id: id("1161"), data: false, dry_run: false });
    // The name is given to another person later.
    let another = town.member("ada", EVA);
    refused(&another, Request::EnvDestroy { id: id("1161"), dry_run: false });
    town.ada().done(Request::EnvDestroy { id: id("1161"), dry_run: false });
}

#[test]
fn a_member_is_not_root() {
    let Some(town) = Town::new() else { return };
    let shop = || "shop".parse().unwrap();
    for request in [
        Request::HostBootstrap(Bootstrap {
            remove: false,
            keep_data: false,
            service: false,
            packages: false,
            pool: None,
            remove_pool: false,
            dry_run: true,
        }),
        Request::HostUnbind { environment: None },
        Request::Forget { platform: "SHOP".into(), environment: None },
        Request::PlatformPull { platform: shop() },
        Request::PlatformDestroy { platform: shop(), environments: Vec::new(), dry_run: false },
    ] {
        let failure = refused(&town.ada(), request.clone());
        assert_eq!(failure.kind, Kind::Privilege, "{request:?}: {failure}");
    }
    let mut nobody = town.ada();
    nobody.engine.caller.account = None;
    assert_eq!(refused(&nobody, Request::PlatformList).kind, Kind::Privilege, "a member without an id would have root's rights");
}

#[test]
fn no_platform_of_a_member_is_read_or_written_with_roots_rights() {
    let Some(town) = Town::new() else { return };
    let eva = town.eva();
    let from = |source: &Path, into: Option<PathBuf>| {
        let source = source.display().to_string();
        Request::PlatformInit(PlatformInit { source, branch: None, into, here: town.at("eva") })
    };
    // Root's folder, by its own path and by a link; a message shows lines of what is wrong.
    fs::create_dir(town.at("root/platform")).unwrap();
    fs::write(town.at("root/platform/platform.toml"), SECRET).unwrap();
    symlink(town.at("root/platform"), town.at("eva/link")).unwrap();
    for source in ["root/platform", "eva/link"] {
        let failure = refused(&eva, from(&town.at(source), None));
        assert!(!serde_json::to_string(&failure).unwrap().contains(SECRET), "{failure:?}");
    }
    // Ada's, which Eva may read.
    let theirs = town.platform("ada", ADA, "blog");
    fs::set_permissions(town.at("ada"), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(refused(&eva, from(&theirs, None)).kind, Kind::Privilege);
    // A new folder in root's or in Ada's.
    for into in ["root/hello", "ada/hello", "eva/../root/hello"] {
        refused(&eva, from(Path::new("hello"), Some(town.at(into))));
        assert!(!town.at(into).exists(), "{into}");
    }
    assert_eq!(fs::read_dir(town.at("root")).unwrap().count(), 2);
    // Their own, whose files are theirs.
    let own = town.platform("eva", EVA, "news");
    eva.done(from(&own, None));
    let keeper = eva.engine.store.database.platform(&"news".parse().unwrap()).unwrap().unwrap().keeper;
    assert_eq!(keeper, Some(EVA));
    // Another can't give the name to a folder of theirs, not even where the first one is away for a moment.
    let twin = town.platform("ada", ADA, "news");
    assert_eq!(refused(&town.ada(), from(&twin, None)).kind, Kind::Conflict);
    fs::rename(&own, town.at("eva/away")).unwrap();
    assert_eq!(refused(&town.ada(), from(&twin, None)).kind, Kind::Privilege);
    // It leads to Ada's now, whoever asks.
    symlink(town.at("ada/news"), &own).unwrap();
    fs::set_permissions(town.at("ada"), PermissionsExt::from_mode(0o700)).unwrap();
    let check = Request::PlatformBuild { platform: "news".parse().unwrap(), force: false };
    for process in [town.eva(), town.ada(), town.host.process("platform:build")] {
        let failure = refused(&process, check.clone());
        assert!(failure.to_string().contains("ermission denied"), "{failure}");
    }
}

#[test]
fn what_lies_in_a_members_folder_is_read_as_that_member() {
    let Some(town) = Town::new() else { return };
    let own = town.platform("eva", EVA, "news");
    let source = own.display().to_string();
    let init = PlatformInit { source, branch: None, into: None, here: town.at("eva") };
    town.eva().done(Request::PlatformInit(init));
    let news = |name: &str| EnvironmentId { platform: "news".parse().unwrap(), name: name.parse().unwrap() };
    let make = || Request::EnvInit { id: news("1"), sites: Vec::new(), on: None, shared: false, dry_run: false };
    // In the place of each file that adt reads there, one that only root may read: as a link leads to it between two looks.
    for file in ["platform.toml", "boxes/web/box.toml", "boxes/web/rootfs.tar", "files/web/etc/motd"] {
        let path = own.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let before = fs::read(&path).ok();
        fs::write(&path, SECRET).unwrap();
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        for process in [town.eva(), town.host.process("env:init")] {
            let failure = refused(&process, make());
            let told = serde_json::to_string(&failure).unwrap();
            assert!(told.contains("ermission denied") && !told.contains(SECRET), "{file}: {told}");
        }
        fs::remove_file(&path).unwrap();
        before.into_iter().for_each(|text| give(&path, &String::from_utf8(text).unwrap(), EVA));
    }
    town.eva().done(make());
    town.eva().done(Request::EnvDestroy { id: news("1"), dry_run: false });
}

#[test]
fn no_copy_and_no_output_goes_beyond_its_callers_rights() {
    let Some(town) = Town::new() else { return };
    let eva = town.eva();
    eva.done(init("1161"));
    let copy = |copy| Request::EnvCopy { id: id("1161"), machine: "web1".parse().unwrap(), copy };
    fs::create_dir_all(eva.root("web1").join("tmp")).unwrap();
    fs::write(eva.root("web1").join("tmp/file"), "machine").unwrap();
    symlink(town.at("root/secret"), town.at("eva/link")).unwrap();
    for source in ["root/secret", "eva/link"] {
        refused(&eva, copy(Copy::In { source: town.at(source), target: "/tmp/taken".into() }));
        assert!(!eva.root("web1").join("tmp/taken").exists(), "{source}");
    }
    for target in ["root/file", "ada/file", "root/secret"] {
        refused(&eva, copy(Copy::Out { source: "/tmp/file".into(), target: town.at(target) }));
    }
    assert!(!town.at("root/file").exists() && !town.at("ada/file").exists());
    assert_eq!(fs::read_to_string(town.at("root/secret")).unwrap(), SECRET);
    eva.done(copy(Copy::Out { source: "/tmp/file".into(), target: town.at("eva/file") }));
    assert_eq!(fs::metadata(town.at("eva/file")).unwrap().uid(), EVA);
    let bind =
        |folder: &str| Request::HostBind(Bind { environment: None, with: vec!["nginx".into()], output: Some(town.at(folder)) });
    refused(&eva, bind("root/nginx"));
    refused(&eva, bind("ada"));
    assert!(!town.at("root/nginx").exists() && fs::read_dir(town.at("ada")).unwrap().next().is_none());
    eva.done(bind("eva/nginx"));
    assert_eq!(fs::metadata(town.at("eva/nginx")).unwrap().uid(), EVA);
}

/// A platform of Eva's with a site from this repository, which she knows how to name.
pub fn with_site(town: &Town, place: &str, origin: &Path) -> PathBuf {
    let folder = town.platform(place, EVA, "news");
    let text = PLATFORM.replace("\"shop\"", "\"news\"");
    let text = text.replace("[sites.www]", &format!("[sites.www]\nsource = \"{}\"", origin.display()));
    give(&folder.join("platform.toml"), &text, EVA);
    let init = PlatformInit { source: folder.display().to_string(), branch: None, into: None, here: town.at("eva") };
    town.eva().done(Request::PlatformInit(init));
    folder
}

pub fn news(name: &str) -> EnvironmentId {
    EnvironmentId { platform: "news".parse().unwrap(), name: name.parse().unwrap() }
}

pub fn init_news(name: &str) -> Request {
    Request::EnvInit { id: news(name), sites: Vec::new(), on: None, shared: false, dry_run: false }
}

#[test]
fn what_a_members_git_says_of_an_origin_is_for_nobody_else() {
    let Some(town) = Town::new() else { return };
    town.host.define_with_source();
    let origin = town.host.origin();
    // Ada may read it, and nobody else but root.
    copy(&origin, &town.at("owned"), ADA);
    fs::remove_dir_all(&origin).unwrap();
    copy(&town.at("owned"), &origin, ADA);
    fs::remove_dir_all(town.at("owned")).unwrap();
    fs::set_permissions(&origin, PermissionsExt::from_mode(0o700)).unwrap();
    let ada = town.platform("ada", ADA, "mail");
    let sourced = |name: &str| {
        PLATFORM
            .replace("\"shop\"", &format!("\"{name}\""))
            .replace("[sites.www]", &format!("[sites.www]\nsource = \"{}\"", origin.display()))
    };
    give(&ada.join("platform.toml"), &sourced("mail"), ADA);
    let init = PlatformInit { source: ada.display().to_string(), branch: None, into: None, here: town.at("ada") };
    town.ada().done(Request::PlatformInit(init));
    let mail = |name: &str| EnvironmentId { platform: "mail".parse().unwrap(), name: name.parse().unwrap() };
    let make = |id| Request::EnvInit { id, sites: Vec::new(), on: None, shared: false, dry_run: false };
    town.ada().done(make(mail("1")));

    // Eva's git says that the same address is a repository of hers.
    let decoy = town.at("eva/decoy");
    fs::create_dir(&decoy).unwrap();
    let git = |words: &[&str]| {
        let git = Command::new("git")
            .args(["-c", "user.name=Eva", "-c", "user.email=eva@example.org", "-C"])
            .arg(&decoy)
            .args(words)
            .status();
        assert!(git.unwrap().success(), "{words:?}");
    };
    git(&["init", "--quiet", "-b", "main"]);
    fs::write(decoy.join("version"), "decoy").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "decoy"]);
    copy(&decoy, &town.at("eva/given"), EVA);
    let lie = format!("[url \"{}\"]\n\tinsteadOf = {}\n", town.at("eva/given").display(), origin.display());
    give(&town.at("eva/.gitconfig"), &lie, EVA);
    let folder = with_site(&town, "eva", &origin);
    town.eva().done(init_news("1"));
    assert_eq!(fs::read_to_string(folder.join("1/www/version")).unwrap(), "decoy", "her git lied to her");
    // It lies to nobody else, and let her into nothing.
    town.ada().done(make(mail("2")));
    assert_eq!(fs::read_to_string(ada.join("2/www/version")).unwrap(), "one");
    let ours = fs::read_dir(town.host.store().join("sources")).unwrap().flatten().map(|entry| entry.path());
    let mirrors: Vec<_> = ours.filter(|path| path.is_dir()).collect();
    assert_eq!(mirrors.len(), 2, "{mirrors:?}");
    let reads = |user: u32, mirror: &Path| {
        use std::os::unix::process::CommandExt;
        Command::new("cat").arg(mirror.join("packed-refs")).uid(user).gid(user).output().unwrap().status.success()
    };
    assert!(mirrors.iter().all(|mirror| reads(ADA, mirror) != reads(EVA, mirror)), "each is one person's");
    // Nor does the lock of hers keep anybody: another command would be told that it is busy.
    assert_eq!(mirrors.iter().filter(|mirror| reads(EVA, mirror)).count(), 1);
    town.ada().done(Request::EnvDestroy { id: mail("1"), dry_run: false });
    town.ada().done(Request::EnvDestroy { id: mail("2"), dry_run: false });
    town.eva().done(Request::EnvDestroy { id: news("1"), dry_run: false });
}

#[test]
fn work_behind_a_command_uses_the_keys_of_its_caller_for_the_callers_platforms_alone() {
    let Some(town) = Town::new() else { return };
    town.host.define_with_source();
    let origin = town.host.origin();
    // Only Ada may read it; Eva's platform names it.
    fs::set_permissions(&origin, PermissionsExt::from_mode(0o700)).unwrap();
    let folder = with_site(&town, "eva", &origin);
    chown_all(&origin, ADA);
    let news: adt::model::PlatformName = "news".parse().unwrap();
    for process in [town.ada(), town.host.process("a command")] {
        process.engine.refresh_sources(Some(&news)).unwrap();
        let sources = town.host.store().join("sources");
        assert!(fs::read_dir(&sources).map_or(0, |all| all.count()) == 0, "nothing was fetched for Eva");
        assert!(!folder.join(".adt").exists());
    }
    // With what she may read herself, she has it prepared.
    chown_all(&origin, EVA);
    town.eva().engine.refresh_sources(Some(&news)).unwrap();
    assert!(folder.join(".adt").exists());
}

fn chown_all(folder: &Path, owner: u32) {
    assert!(Command::new("chown").args(["-R", &format!("{owner}:{owner}")]).arg(folder).status().unwrap().success());
}

#[test]
fn what_a_lost_store_left_becomes_no_members() {
    let Some(town) = Town::new() else { return };
    town.ada().done(init("1161"));
    town.host.process("a lost store").engine.store.database.forget_environment(&id("1161")).unwrap();
    let failure = refused(&town.eva(), init("1161"));
    assert_eq!(failure.kind, Kind::Privilege, "{failure}");
    let told = format!("{failure:?}");
    assert!(told.contains("web1") && told.contains("the key of its machines") && told.contains("sudo adt env:destroy"), "{told}");
    assert!(town.eva().engine.store.database.environment(&id("1161")).unwrap().is_none());
    // Root ends what is left, down to a key alone, and then the name is anybody's.
    let destroy = || Request::EnvDestroy { id: id("1161"), dry_run: false };
    town.host.process("env:destroy").done(destroy());
    town.host.process("a half removal").engine.store.keys.ensure(&id("1161")).unwrap();
    refused(&town.eva(), init("1161"));
    town.host.process("env:destroy").done(destroy());
    town.eva().done(init("1161"));
    town.eva().done(destroy());
}

#[test]
fn no_platform_of_a_member_answers_at_anothers_names() {
    let Some(town) = Town::new() else { return };
    let add = |who: &Process, member: &str, owner: u32, name: &str, domain: &str| {
        let folder = town.at(member).join(name);
        if !folder.exists() {
            town.platform(member, owner, name);
        }
        let text = PLATFORM.replace("\"shop\"", &format!("\"{name}\"\ndomain = \"{domain}\""));
        give(&folder.join("platform.toml"), &text, owner);
        let init = PlatformInit { source: folder.display().to_string(), branch: None, into: None, here: town.at(member) };
        who.run(Request::PlatformInit(init)).result
    };
    add(&town.ada(), "ada", ADA, "mail", "company.test").unwrap();
    for domain in ["1161.shop.example.test", "shop.example.test", "mail.company.test", "1.mail.company.test"] {
        let failure = add(&town.eva(), "eva", EVA, "www", domain).expect_err(domain);
        assert!(failure.kind == Kind::Conflict && failure.to_string().contains(domain), "{failure}");
    }
    // From above, as environments that bear the names: `mail.company.test` would be the environment `mail` of `company`.
    add(&town.eva(), "eva", EVA, "company", "test").expect_err("its environments are others' platforms");
    add(&town.eva(), "eva", EVA, "example", "test").expect_err("its environments are all platforms");
    // Beside others is room.
    add(&town.eva(), "eva", EVA, "www", "company.test").unwrap();
    add(&town.eva(), "eva", EVA, "www", "elsewhere.test").unwrap();
    // What was good when it was added is looked at again.
    let folder = town.at("eva/www");
    let text = PLATFORM.replace("\"shop\"", "\"www\"\ndomain = \"1.mail.company.test\"");
    give(&folder.join("platform.toml"), &text, EVA);
    let id = EnvironmentId { platform: "www".parse().unwrap(), name: "1".parse().unwrap() };
    let failure = refused(&town.eva(), Request::EnvInit { id, sites: Vec::new(), on: None, shared: false, dry_run: false });
    assert_eq!(failure.kind, Kind::Conflict, "{failure}");
    // One's own may lie in each other, and root's anywhere.
    add(&town.ada(), "ada", ADA, "inner", "1.mail.company.test").unwrap();
}

#[test]
fn a_mirror_gives_a_member_only_what_its_origin_gives_them() {
    let Some(town) = Town::new() else { return };
    town.host.define_with_source();
    town.host.process("env:init").done(init("1161"));
    // It is on this host now; its origin is closed to Eva.
    fs::set_permissions(town.host.origin(), PermissionsExt::from_mode(0o700)).unwrap();
    let folder = with_site(&town, "eva", &town.host.origin());
    let dry = Request::EnvInit { id: news("1"), sites: Vec::new(), on: None, shared: false, dry_run: true };
    let ran = town.eva().run(dry);
    assert!(!format!("{:?}", ran.events).contains("hotfix"), "{:?}", ran.events);
    let failure = refused(&town.eva(), init_news("1"));
    assert!(failure.to_string().contains("fetch the source of site `www`"), "{failure}");
    assert!(!folder.join("1").exists());
    // Open to her, it is as for everybody.
    chown(town.host.origin(), Some(EVA), Some(EVA)).unwrap();
    copy(&town.host.origin(), &town.at("owned"), EVA);
    fs::remove_dir_all(town.host.origin()).unwrap();
    copy(&town.at("owned"), &town.host.origin(), EVA);
    town.eva().done(init_news("1"));
    assert_eq!(fs::metadata(folder.join("1/www/version")).unwrap().uid(), EVA);
    town.eva().done(Request::EnvDestroy { id: news("1"), dry_run: false });
}

#[test]
fn a_checkout_that_became_a_way_to_anothers_folder_is_not_touched() {
    let Some(town) = Town::new() else { return };
    town.host.define_with_source();
    copy(&town.host.origin(), &town.at("owned"), EVA);
    fs::remove_dir_all(town.host.origin()).unwrap();
    copy(&town.at("owned"), &town.host.origin(), EVA);
    let folder = with_site(&town, "eva", &town.host.origin());
    town.eva().done(init_news("1"));
    assert_eq!(fs::read_to_string(folder.join("1/www/app.ini")).unwrap().split(' ').next(), Some("hotfix"));
    // Ada has a folder of the same form.
    copy(&folder.join("1"), &town.at("ada/1"), ADA);
    fs::remove_file(town.at("ada/1/www/app.ini")).unwrap();
    fs::rename(folder.join("1"), folder.join("away")).unwrap();
    let before = tree(&town.at("ada"));
    let try_all = |what: &str| {
        for request in [
            Request::EnvReload { id: news("1"), data: false, dry_run: false },
            Request::EnvUp { id: news("1"), dry_run: false },
            Request::SiteBranch { id: news("1"), site: "www".parse().unwrap(), branch: "main".parse().unwrap(), dry_run: false },
        ] {
            for process in [town.eva(), town.host.process("a command")] {
                refused(&process, request.clone());
                assert_eq!(tree(&town.at("ada")), before, "{what}: {request:?}");
            }
        }
    };
    symlink(town.at("ada/1"), folder.join("1")).unwrap();
    try_all("a link in the place of the environment's folder");
    fs::remove_file(folder.join("1")).unwrap();
    fs::create_dir(folder.join("1")).unwrap();
    chown(folder.join("1"), Some(EVA), Some(EVA)).unwrap();
    symlink(town.at("ada/1/www"), folder.join("1/www")).unwrap();
    try_all("a link in the place of the checkout");
    fs::remove_dir_all(folder.join("1")).unwrap();
    // Ada's own folder, were it here: renamed by whose folder it lies in.
    copy(&town.at("ada/1"), &folder.join("1"), ADA);
    let before = tree(&folder.join("1"));
    refused(&town.eva(), Request::EnvReload { id: news("1"), data: false, dry_run: false });
    assert_eq!(tree(&folder.join("1")), before);
}

/// Every file below a folder with its owner and content, what git writes for itself left out.
fn tree(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let all = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = all.filter(|entry| entry.file_type().is_file());
    files
        .map(|entry| {
            let owner = entry.metadata().unwrap().uid();
            (entry.path().to_owned(), owner, fs::read(entry.path()).unwrap())
        })
        .collect()
}
