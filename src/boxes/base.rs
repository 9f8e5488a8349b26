//! The layer that stands on nothing: a suite through mmdebstrap, a packed root filesystem, or an OCI image.

use std::path::{Path, PathBuf};

use super::archive::{self, Mode, Room};
use super::layer::{Draft, remove_tree};
use super::task::Teller;
use super::{Error, Resolved, Result, apt, cache, inputs, oci, shift};
use crate::exec::{Command, HostPath, Output, on_files_of};
use crate::model::recipe::Archive;
use crate::model::{Parent, Recipe};

/// What makes a suite a machine with an init, and lets it use https.
const PACKAGES: [&str; 3] = ["systemd-sysv", "dbus", "ca-certificates"];

/// Links cost no time and no space, the cache is on the same filesystem. The path comes in the environment, so that no
/// character of it means anything to the shell.
const USE_CACHE: &str = r#"mkdir -p "$1/var/cache/apt/archives" && find "$ADT_CACHE" -maxdepth 1 -name '*.deb' -exec ln -t "$1/var/cache/apt/archives" {} +"#;

/// Makes the draft's rootfs of a recipe that starts from no box.
pub fn make(teller: &Teller<'_>, resolved: &Resolved, draft: &Draft<'_>) -> Result<()> {
    let (recipe, rootfs) = (&resolved.recipe, draft.rootfs());
    match &recipe.parent {
        Parent::Suite(suite) => teller.phase(&format!("unpack {suite}"), || from_suite(teller, recipe, suite, draft))?,
        Parent::Rootfs(packed) => {
            check(teller, resolved, packed)?;
            teller.phase("unpack the root filesystem", || {
                create(&rootfs)?;
                let mut room = Room::on_disk_of(&rootfs, teller.context.cancel)?;
                let unpacked = archive::unpack(&base_of(resolved, packed, draft)?, &rootfs, Mode::Rootfs, &mut room);
                finished(teller, unpacked)?;
                has_init(recipe, &packed.path, &rootfs)
            })?;
        }
        Parent::Oci(packed) => {
            check(teller, resolved, packed)?;
            teller.phase("unpack the image", || {
                create(&rootfs)?;
                let mut room = Room::on_disk_of(&rootfs, teller.context.cancel)?;
                let unpacked = oci::unpack(&base_of(resolved, packed, draft)?, &draft.scratch()?, &rootfs, &mut room);
                finished(teller, unpacked)?;
                has_init(recipe, &packed.path, &rootfs)
            })?;
        }
        Parent::Box(name) => unreachable!("box `{}` stands on `{}`, it is no base", recipe.name, name.name),
    }
    teller.phase("give the files to the machines' ids", || shift::tree(&rootfs))
}

/// Where a base is unpacked from. One in a person's folder is fetched from there with that person's rights first: to unpack
/// takes root's.
fn base_of(resolved: &Resolved, packed: &Archive, draft: &Draft<'_>) -> Result<PathBuf> {
    let keeper = resolved.keeper.as_ref();
    let source = on_files_of(keeper, || inputs::inside(&resolved.recipe, &packed.path))?;
    if keeper.is_none() {
        return Ok(source);
    }
    let copy = draft.scratch()?.join("base");
    let material = resolved.inputs.base.as_ref().expect("an archive that a base starts from was read for its name");
    inputs::fetch(HostPath { path: &source, person: keeper }, material, &copy)?;
    Ok(copy)
}

/// Compares an archive with its digest before anything of it is unpacked, and tells what it is compared with. Read again here:
/// what the catalogue remembers of it may be of a while ago.
fn check(teller: &Teller<'_>, resolved: &Resolved, packed: &Archive) -> Result<()> {
    let (recipe, keeper) = (&resolved.recipe, resolved.keeper.as_ref());
    let found = teller.phase("check the archive", || Ok(inputs::base(recipe, packed, keeper, None)?.1))?;
    let path = packed.path.display();
    teller.note(match packed.sha256 {
        Some(_) => format!("`{path}` is what box `{}` wants: its SHA-256 is `{found}`", recipe.name),
        None => format!("nothing says what `{path}` must be; to keep it as it is now, write `sha256 = \"{found}\"` beside it"),
    });
    Ok(())
}

/// A reader that was stopped is no damage of the archive.
fn finished(teller: &Teller<'_>, unpacked: Result<()>) -> Result<()> {
    teller.context.check_cancelled(teller.name.as_str())?;
    unpacked
}

fn create_all(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io("could not create", path))
}

fn create(path: &Path) -> Result<()> {
    std::fs::create_dir(path).map_err(Error::io("could not create", path))
}

/// Most images are of one program; a machine needs an init.
fn has_init(recipe: &Recipe, path: &Path, rootfs: &Path) -> Result<()> {
    if archive::follow(rootfs, "/sbin/init").is_some() {
        return Ok(());
    }
    let reason = "is missing: a machine needs an init such as systemd".to_owned();
    Err(Error::BadArchive { archive: recipe.folder.join(path), entry: "/sbin/init".to_owned(), reason })
}

fn from_suite(teller: &Teller<'_>, recipe: &Recipe, suite: &str, draft: &Draft<'_>) -> Result<()> {
    if suite.is_empty() || !suite.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) || suite.starts_with('-') {
        return Err(Error::BadSuite { suite: suite.to_owned() });
    }
    let archives = cache::verified(teller.context.store);
    create_all(&archives)?;
    let lists = Path::new("/var/lib/apt/lists");
    let sources = apt::inherited(&apt::host_sources(Path::new("/etc/apt")), suite, &|source| apt::origin(lists, source));
    let settings = apt::host_settings();
    let file = match sources.as_slice() {
        [] => None,
        sources => {
            let file = draft.scratch()?.join("host.sources");
            std::fs::write(&file, apt::to_deb822(sources)).map_err(Error::io("could not write", &file))?;
            Some(file)
        }
    };
    tell_keys(teller, suite, &sources, &settings);
    let rootfs = draft.rootfs();
    let packages = PACKAGES.iter().map(|name| (*name).to_owned()).chain(recipe.packages.iter().cloned()).collect::<Vec<_>>();
    let command = command(suite, &packages, &settings, &rootfs, file.as_deref()).env("ADT_CACHE", &archives);
    let mut said = Output::default();
    let ended = command.follow(&mut |line| {
        if let Some((stream, line)) = line {
            teller.line(stream, line);
            said.tail.push(line);
        }
        teller.context.flow()
    });
    if !ended.as_ref().is_ok_and(|status| status.success()) {
        teller.context.check_ended(&recipe.name, "mmdebstrap")?;
        return Err(command.failed(ended?, &said).into());
    }
    cache::take(&rootfs.join("var/cache/apt/archives"), &archives)?;
    cache::take(&rootfs.join("var/lib/apt/lists"), &cache::lists(teller.context.store))?;
    finish(&rootfs, &sources, &settings)
}

/// The host's apt decides what is trusted; whoever builds a box is told.
fn tell_keys(teller: &Teller<'_>, suite: &str, sources: &[apt::Source], settings: &apt::Settings) {
    if sources.is_empty() {
        teller.note(format!("{suite} is not from this host's apt; mmdebstrap verifies it with the archive keys of this host"));
    }
    for (address, keys) in apt::vouched(sources) {
        match keys {
            Some(keys) => teller.note(format!("{suite} from {address} is verified with {keys}")),
            None => teller.warn(format!(
                "nothing verifies {suite} from {address}: this host's apt marks it as trusted, and so does each machine of the box"
            )),
        }
    }
    for line in &settings.archive {
        teller.note(format!(
            "this host's apt says `{}` of its archives, so it is said of the box's, too",
            line.trim_end_matches(';')
        ));
    }
}

/// Its own mounts and process ids, tied to ours: when adt is killed, everything that it started is gone with its mounts, and
/// nothing writes into a folder that the next run removes.
fn command(suite: &str, packages: &[String], settings: &apt::Settings, rootfs: &Path, sources: Option<&Path>) -> Command {
    let mut command = Command::new("unshare")
        .tied()
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"])
        .args(["--mode=root", "--format=directory", "--variant=minbase", "--skip=download/empty,essential/unlink,cleanup/apt"])
        .arg("--aptopt=Acquire::Languages \"none\"")
        .arg(format!("--include={}", packages.join(",")))
        .arg(format!("--setup-hook={USE_CACHE}"));
    for line in settings.transport.iter().chain(&settings.archive) {
        command = command.arg(format!("--aptopt={}", line.trim_end_matches(';')));
    }
    let command = command.arg(suite).arg(rootfs);
    match sources {
        Some(file) => command.arg(file),
        None => command,
    }
}

/// Takes out what belongs to the making or to one machine. mmdebstrap made the tree from signed packages, so its links are
/// Debian's own.
fn finish(rootfs: &Path, sources: &[apt::Source], settings: &apt::Settings) -> Result<()> {
    for path in ["var/cache/apt", "var/lib/apt/lists", "var/log/apt"] {
        let path = rootfs.join(path);
        remove_tree(&path)?;
        std::fs::create_dir_all(&path).map_err(Error::io("could not create", &path))?;
    }
    for path in [
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/hostname",
        "etc/resolv.conf",
        "var/log/dpkg.log",
        "var/log/bootstrap.log",
        "var/log/alternatives.log",
        "var/lib/systemd/random-seed",
    ] {
        remove_tree(&rootfs.join(path))?;
    }
    write(&rootfs.join("etc/machine-id"), "")?;
    if !settings.archive.is_empty() {
        write(&rootfs.join("etc/apt/apt.conf.d/90host"), &format!("{}\n", settings.archive.join("\n")))?;
    }
    for key in sources.iter().filter_map(|source| source.signed_by.as_deref()).flat_map(str::split_whitespace) {
        let target: PathBuf = rootfs.join(key.trim_start_matches('/'));
        if key.starts_with('/') && !target.exists() {
            let folder = target.parent().expect("the key's path was joined to the root");
            std::fs::create_dir_all(folder).map_err(Error::io("could not create", folder))?;
            std::fs::copy(key, &target).map_err(Error::io("could not copy", key))?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(Error::io("could not write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_carries_the_hosts_settings_and_ends_with_us() {
        let settings = apt::Settings { transport: vec!["Acquire::http::Proxy \"http://p:1\";".into()], archive: Vec::new() };
        let command = command("bookworm", &["nginx".into()], &settings, Path::new("/x y"), Some(Path::new("/s")));
        let text = command.to_string();
        assert!(command.tied && text.starts_with("unshare --mount --pid --fork --kill-child --mount-proc mmdebstrap "), "{text}");
        assert!(text.contains("--include=nginx ") && text.contains("'--aptopt=Acquire::http::Proxy \"http://p:1\"'"), "{text}");
        assert!(text.ends_with(" bookworm '/x y' /s"), "{text}");
    }

    #[test]
    fn whoever_builds_a_suite_is_told_who_vouches_for_it() {
        let events = std::sync::Mutex::new(Vec::new());
        let (workshop, cancel) = (crate::boxes::fake::FakeWorkshop::default(), std::sync::atomic::AtomicBool::new(false));
        let context = crate::boxes::Context {
            store: Path::new("/nowhere"),
            workshop: &workshop,
            render: &|text, _, _| Ok(text.to_owned()),
            boot_deadline: std::time::Duration::ZERO,
            emit: &|event| events.lock().unwrap().push(format!("{event:?}")),
            cancel: &cancel,
        };
        let name = crate::model::BoxName::new("web").unwrap();
        let teller = Teller::new(context, &name);
        let sources =
            apt::one_line("deb [signed-by=/k.gpg] http://a.test bookworm main\ndeb [trusted=yes] http://b.test bookworm main");
        let settings = apt::settings("Acquire::Check-Valid-Until \"false\";\n");
        tell_keys(&teller, "bookworm", &sources, &settings);
        tell_keys(&teller, "noble", &[], &apt::Settings::default());
        let said = events.into_inner().unwrap();
        for (line, says) in [
            "Note { text: \"bookworm from http://a.test is verified with /k.gpg",
            "Warning { text: \"nothing verifies bookworm from http://b.test",
            "Note { text: \"this host's apt says `Acquire::Check-Valid-Until",
            "Note { text: \"noble is not from this host's apt",
        ]
        .iter()
        .enumerate()
        {
            assert!(said[line].starts_with(says), "{said:#?}");
        }
    }
}
