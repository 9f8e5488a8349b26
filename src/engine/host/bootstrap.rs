//! `host:bootstrap`: what this host must have, as a list that is compared and converged; `host:check` reads the same list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::disk;
use crate::engine::Engine;
use crate::engine::events::Events;
use crate::engine::host::browsers::CERTUTIL;
use crate::engine::host::group;
use crate::engine::host::pool;
use crate::engine::host::pool_unit;
use crate::engine::host::requirement::{REQUIREMENTS, Requirement, find_program, sysctl_path};
use crate::engine::host::service;
use crate::engine::host::system_file::write;
use crate::exec::Command;
use crate::model::request::Bootstrap;
use crate::model::response::Done;
use crate::model::{Event, Failure, Kind, Response};
use crate::providers::Need;

/// Kernel settings that hold after a restart too. Each installation has its own: what one takes away, another may need still.
fn sysctl_file(install: &str) -> String {
    format!("/etc/sysctl.d/60-adt-{install}.conf")
}

fn modules_file(install: &str) -> String {
    format!("/etc/modules-load.d/adt-{install}.conf")
}

/// As an earlier adt named them, for whichever store.
const UNNAMED: [&str; 2] = ["/etc/sysctl.d/60-adt.conf", "/etc/modules-load.d/adt.conf"];
/// What this command installed, so that its removal can say so.
const INSTALLED_FILE: &str = "bootstrap.installed";

impl Engine {
    pub(in crate::engine) fn host_bootstrap(&self, asked: &Bootstrap, events: &Events) -> Result<Response, Failure> {
        if asked.remove { self.unbootstrap(asked, events) } else { self.converge(asked, events) }
    }

    fn converge(&self, asked: &Bootstrap, events: &Events) -> Result<Response, Failure> {
        let new_pool = match asked.pool {
            Some(size) => self.lacks_pool(size, asked.dry_run, events)?.then_some(size),
            None => None,
        };
        let of_pool = if new_pool.is_some() { pool::REQUIREMENTS } else { &[] };
        let of_browser = self.browser().map(|_| CERTUTIL);
        let all = REQUIREMENTS.iter().chain(of_pool).copied().chain(of_browser);
        let missing: Vec<_> = all.filter(|requirement| requirement.state().is_err()).collect();
        let sysctl_file = sysctl_file(self.store.install());
        let before = std::fs::read_to_string(&sysctl_file).unwrap_or_default();
        let settings = settings_text(&before, &others_settings(&sysctl_file), &missing);
        let file_differs = before != settings;
        let needs = self.machines_lack();
        for (subject, seen) in unmet(&missing, &needs) {
            events.note(format!("{subject}: {seen}"));
        }
        let unit_differs = asked.service && !self.has_unit()?;
        if unit_differs {
            events.note("adt.service: not as it should be");
        }
        let mount_differs = (new_pool.is_some() || self.has_pool()) && !pool_unit::is_there(&self.store.folder);
        if new_pool.is_some() {
            events.note(format!("{}: not in a pool", self.store.folder.display()));
        }
        let group_differs = !group::is_there();
        if group_differs {
            events.note(format!("group {}: missing", group::NAME));
        }
        let others = [file_differs, group_differs, unit_differs, mount_differs, new_pool.is_some()];
        let differ = others.into_iter().filter(|differs| *differs).count() + missing.len() + needs.len();
        if differ == 0 {
            if !asked.dry_run {
                self.prove_machines(events)?;
            }
            return Ok(done("this host has all that adt needs", false, Vec::new()));
        }
        if asked.dry_run {
            return Ok(done(format!("{differ} things would be set up"), false, Vec::new()));
        }
        // First, because they need nothing of what may fail to be installed.
        if group_differs {
            events.task("group", group::NAME, || group::make(&self.store.folder))?;
        }
        if unit_differs {
            events.task("systemd", "adt.service", || self.install_unit())?;
        }
        if asked.packages {
            let packages = missing.iter().filter_map(|requirement| requirement.package());
            self.install_packages(packages.chain(needs.iter().filter_map(|need| need.package)).collect(), events)?;
        }
        events.task("kernel", "kernel modules and settings", || {
            load_modules(&modules_file(self.store.install()), &missing)?;
            if file_differs {
                write(&sysctl_file, &settings)?;
            }
            raise_sysctls(&missing)
        })?;
        if !needs.is_empty() {
            events.task("machines", "what machines need of it", || self.set_up_for_machines())?;
        }
        let still = unmet(&missing, &self.machines_lack());
        if !still.is_empty() {
            let mut failure = Failure::new(Kind::Host, "set up everything that adt needs")
                .hint("`adt host:check` shows the state of each; the rest is in place");
            if !disk::host::is_real() {
                failure = failure
                    .hint("this host is a machine itself; what is its kernel's is set on the real host: adt host:bootstrap");
            }
            for (subject, seen) in still {
                failure = failure.cause(format!("{subject} {seen}"));
            }
            return Err(failure);
        }
        if let Some(size) = new_pool {
            self.make_pool(size, events)?;
        }
        if mount_differs {
            events.task("systemd", "the pool's mount unit", || pool_unit::install(&self.store.folder))?;
        }
        self.prove_machines(events)?;
        let next = [
            "a first platform: adt platform:init hello",
            "names and pages: adt host:up --detach",
            "this host's programs find and trust them: adt host:bind-proxy",
            "commands without sudo, for whoever you trust like root: usermod -aG adt NAME; it counts from their next login on",
        ];
        Ok(done("this host is ready", true, next.map(str::to_owned).into()))
    }

    pub(in crate::engine) fn install_packages(&self, packages: BTreeSet<&str>, events: &Events) -> Result<(), Failure> {
        if packages.is_empty() {
            return Ok(());
        }
        if find_program("apt-get").is_none() {
            return Err(Failure::new(Kind::Host, "install what is missing")
                .cause("this host has no apt-get; adt knows Debian and Ubuntu")
                .hint(format!("install what brings {} yourself, then run `adt host:check`", list(&packages))));
        }
        let apt = |args: &[&str]| {
            let command = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive");
            command
                .run_lines(&mut |stream, line| {
                    events.emit(Event::Output { source: "apt".into(), stream, line: line.into() });
                })
                .map_err(Failure::from)
        };
        let words: Vec<&str> = packages.iter().copied().collect();
        let install = [["install", "-y", "-q", "--no-install-recommends"].as_slice(), &words].concat();
        events.task("apt", &format!("installing {}", list(&packages)), || {
            // Lists may be old or, on a fresh image, not there at all; without network the install itself tells why.
            if let Err(failure) = apt(&["update", "-q"]) {
                events.warn(format!("package lists were not refreshed: {failure}"));
            }
            apt(&install)
        })?;
        let path = self.store.folder.join(INSTALLED_FILE);
        let mut all: BTreeSet<String> = installed_before(&path);
        all.extend(words.iter().map(|word| (*word).to_owned()));
        write(&path, &(all.into_iter().collect::<Vec<_>>().join("\n") + "\n"))
    }

    fn unbootstrap(&self, asked: &Bootstrap, events: &Events) -> Result<Response, Failure> {
        let dry_run = asked.dry_run;
        match (asked.keep_data, dry_run) {
            (true, true) => {}
            (true, false) => self.before_the_host_goes_down()?,
            (false, _) => self.refuse_environments()?,
        }
        if !dry_run && !asked.keep_data {
            self.forget_access()?;
        }
        let served = service::is_written_for(&self.store);
        let unit = service::remove_unit(&self.store, dry_run)?;
        let mut next = Vec::new();
        let mut files = vec![sysctl_file(self.store.install()), modules_file(self.store.install())];
        if served {
            // The same command wrote them as wrote the unit.
            files.extend(UNNAMED.map(str::to_owned));
        } else if let Some(file) = UNNAMED.into_iter().find(|path| Path::new(path).exists()) {
            next.push(format!(
                "an earlier adt wrote {file}, maybe for another store; if none is left: rm -f {}",
                UNNAMED.join(" ")
            ));
        }
        files.retain(|path| Path::new(path).exists());
        let of_machines = self.take_out_of_host(dry_run)?;
        let installed = installed_before(&self.store.folder.join(INSTALLED_FILE));
        if asked.keep_data {
            next.push(format!("environments, boxes and the group {} stay as they are: adt host:bootstrap", group::NAME));
        } else if !installed.is_empty() {
            let words: Vec<_> = installed.iter().map(String::as_str).collect();
            next.push(format!("packages that came with it and that others may use by now: apt-get remove {}", words.join(" ")));
        }
        if !asked.keep_data {
            next.push(format!("layers, caches and history: rm -r {}", self.store.folder.display()));
        }
        if unit {
            events.note("removing adt.service");
        }
        for file in &files {
            events.note(format!("removing {file}"));
            if !dry_run {
                std::fs::remove_file(file)
                    .map_err(|error| Failure::new(Kind::Host, format!("remove `{file}`")).because(&error))?;
            }
        }
        for file in &of_machines {
            events.note(format!("removing {file}"));
        }
        let group = !asked.keep_data && group::is_ours(&self.store.folder);
        if group {
            events.note(format!("removing the group {}", group::NAME));
            if !dry_run {
                group::remove(&self.store.folder)?;
            }
        }
        let pool = !asked.keep_data && self.remove_pool(asked.remove_pool, dry_run, events)?;
        let nothing = files.is_empty() && of_machines.is_empty() && !unit && !pool && !group;
        let summary = match (nothing, dry_run) {
            (true, _) => "nothing of adt's set-up is in the system's configuration",
            (false, true) => "these files would be removed",
            (false, false) => "adt's files are removed; kernel settings return to their own values with the next restart",
        };
        Ok(done(summary, !dry_run && !nothing, next))
    }

    fn refuse_environments(&self) -> Result<(), Failure> {
        let environments = self.environments(None)?;
        if environments.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Kind::Conflict, "remove adt's set-up from this host")
            .cause(format!("{} environments still need it", environments.len()))
            .hint("destroy them first, e.g. with `adt platform:destroy`")
            .hint("`adt host:bootstrap --remove --keep-data` halts them, and they stay for whoever sets adt up here again"))
    }
}

/// What is not as it should be, each with what it is.
fn unmet(missing: &[Requirement], needs: &[Need]) -> Vec<(String, String)> {
    let requirements = missing.iter().filter_map(|one| Some((one.subject(), one.state().err()?)));
    let needs = needs.iter().filter_map(|need| Some((need.subject.clone(), need.state.clone().err()?)));
    requirements.chain(needs).collect()
}

fn done(summary: impl Into<String>, changed: bool, next: Vec<String>) -> Response {
    Response::Done(Done { summary: summary.into(), changed, next, ..Done::default() })
}

fn list(words: &BTreeSet<&str>) -> String {
    words.iter().copied().collect::<Vec<_>>().join(", ")
}

fn installed_before(path: &Path) -> BTreeSet<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What this host lacks, and what the file held `before`. A setting that the host has enough of by itself is not for adt to
/// write down: at the next start that would lower it again. Empty where there is none.
fn settings_text(before: &str, others: &str, missing: &[Requirement]) -> String {
    let by_others: BTreeMap<&str, u64> = others.lines().filter_map(setting).collect();
    let held: BTreeMap<&str, u64> = before.lines().filter_map(setting).collect();
    let mut lines = Vec::new();
    for requirement in REQUIREMENTS {
        if let Requirement::Sysctl { key, at_least, .. } = requirement
            && (missing.contains(requirement) || held.contains_key(key) || by_others.contains_key(key))
        {
            let value = held.get(key).copied().unwrap_or_default().max(*at_least);
            lines.push(format!("{key} = {value}\n"));
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    format!("# Written by `adt host:bootstrap`; `adt host:bootstrap --remove` removes it.\n{}", lines.concat())
}

/// What other installations raised: the host has it because of them, and not for longer than they stay.
fn others_settings(own: &str) -> String {
    let entries = std::fs::read_dir("/etc/sysctl.d").into_iter().flatten().flatten();
    let others = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("60-adt") && path != Path::new(own)
    });
    others.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

fn setting(line: &str) -> Option<(&str, u64)> {
    let (key, value) = line.split_once('=')?;
    Some((key.trim(), value.trim().parse().ok()?))
}

fn load_modules(file: &str, missing: &[Requirement]) -> Result<(), Failure> {
    let before = installed_before(Path::new(file));
    let mut names = before.clone();
    for requirement in missing {
        if let Requirement::Module { name, .. } = requirement {
            match Command::new("modprobe").arg(*name).run() {
                // What is missing then is told with whatever else is.
                Err(_) if !disk::host::is_real() => continue,
                loaded => loaded?,
            };
            names.insert((*name).to_owned());
        }
    }
    if names == before { Ok(()) } else { write(file, &(names.into_iter().collect::<Vec<_>>().join("\n") + "\n")) }
}

fn raise_sysctls(missing: &[Requirement]) -> Result<(), Failure> {
    for requirement in missing {
        if let Requirement::Sysctl { key, at_least, .. } = requirement {
            let path = sysctl_path(key);
            match std::fs::write(&path, at_least.to_string()) {
                Err(_) if !disk::host::is_real() => {}
                written => {
                    written.map_err(|error| Failure::new(Kind::Host, format!("write `{}`", path.display())).because(&error))?
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_file_raises_what_the_host_lacks_and_lowers_nothing() {
        let sysctls = REQUIREMENTS.iter().copied().filter(|one| matches!(one, Requirement::Sysctl { .. }));
        let (forward, others): (Vec<_>, Vec<_>) = sysctls.partition(|one| one.subject().ends_with("net.ipv4.ip_forward"));
        assert_eq!(settings_text("", "", &[]), "");
        let text = settings_text("", "", &forward);
        assert!(text.ends_with("removes it.\nnet.ipv4.ip_forward = 1\n"), "{text}");
        assert_eq!(settings_text(&text, "", &[]), text, "it is still needed at the next start");
        assert_eq!(settings_text("", &text, &[]), text, "another installation raised it, and may go");
        let text = settings_text(&text, "", &others);
        assert_eq!(text.lines().count(), 2 + others.len(), "{text}");
        let raised = text.replace("kernel.pty.max = 4096", "kernel.pty.max = 9000").replace("maxkeys = 2000", "maxkeys = 10");
        assert_eq!(settings_text(&raised, "", &[]), text.replace("kernel.pty.max = 4096", "kernel.pty.max = 9000"));
    }
}
