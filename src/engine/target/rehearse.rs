//! `target:rehearse`: servers of this host's own, as a vendor would rent them out, as many as the target has, and on them exactly
//! what `env:promote` does.
//!
//! The server is a machine that is a host itself, set up by cloud-init from user data that have nothing but a public key. Its host
//! key is made by itself at its first start; the fingerprint is read on the machine, as a vendor's console would show it, and from
//! then on it is reached by ssh like any other server, by the same code.
//!
//! Not chosen: a server that stays for the next rehearsal unless it is wanted (a disk full of forgotten ones), the person's own keys
//! (nothing of theirs is needed for what is on this host).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use crate::disk;
use crate::engine::Engine;
use crate::engine::at_once::for_each;
use crate::engine::environment::wanted;
use crate::engine::events::Events;
use crate::engine::program;
use crate::engine::target::cargo::Cargo;
use crate::engine::target::faults::Rehearsed;
use crate::engine::target::fleet::Stand;
use crate::exec::Command;
use crate::model::mishap::Mishap;
use crate::model::request::TargetOf;
use crate::model::response::Promotion;
use crate::model::target::{Address, Fingerprint, REHEARSAL, Server, TargetSummary};
use crate::model::{Edge, EnvironmentId, EnvironmentName, Exec, Failure, Kind, MachineName, PlatformName, Response};
use crate::providers::Stdio;
use crate::servers::Way;
use crate::store::{self, PlatformRecord};

/// The role of the platform below, and its machine where it is the only one.
const SERVER: &str = "server";

/// Its limits are those of its machines and of this host.
const PLATFORM: &str = "[platform]
name = \"rehearsal\"
summary = \"Servers that targets are rehearsed on\"

[machines.server]
box = \"rehearsed-server\"
memory = \"unlimited\"
processes = 65536
host = true
";

/// The same with as many servers as a target has.
fn platform(servers: usize) -> String {
    match servers {
        0 | 1 => PLATFORM.to_owned(),
        several => format!("{PLATFORM}count = {several}\n"),
    }
}

const META_DATA: &str = "instance-id: rehearsal\nlocal-hostname: {{ machine.name }}\n";

/// What a vendor is told of a new server.
fn user_data(public_key: &str) -> String {
    format!(
        "#cloud-config\ndisable_root: false\nssh_pwauth: false\nusers:\n  - name: root\n    ssh_authorized_keys:\n      - {public_key}\n"
    )
}

/// Below the rehearsals' platform.
const SEED: &str = "files/server/var/lib/cloud/seed/nocloud";

impl Engine {
    pub(in crate::engine) fn target_rehearse(
        &self,
        of: &TargetOf,
        from: &EnvironmentName,
        keep: bool,
        faults: &[Mishap],
        events: &Events,
    ) -> Result<Response, Failure> {
        let ticket = EnvironmentId { platform: of.platform.clone(), name: from.clone() };
        let target = rehearsable(self.target_if_any(of)?);
        let cargo = self.cargo(&ticket, &target, false, events)?;
        let id = server_of(of)?;
        let key = self.prepare(&id.platform, target.servers.len())?;
        let way = Way { account: None, home: None, identity: Some(key), program: program()? };
        let promoted = match faults {
            [] => self.on_servers_of_ours(&id, &target, events, |servers| {
                self.bring(&cargo, servers.stands, &way, false, None, events)
            }),
            faults => self.broken_on_servers_of_ours(faults, &id, (&cargo, &target), &way, events),
        };
        if keep {
            return Ok(answer(promoted?, &id, &self.machine_names(&id)?, true));
        }
        if self.cancel.load(Ordering::Relaxed) {
            let cancelled = Failure::new(Kind::Cancelled, "remove the server").cause("cancelled");
            let failure = promoted.err().unwrap_or(cancelled);
            return Err(failure.hint(format!("`adt env:destroy {} {} --yes` removes the server", id.platform, id.name)));
        }
        let removed = self.remove_rehearsed(&id, events);
        let promoted = promoted.map_err(|failure| failure.hint("with `--keep`, the server stays for a look"))?;
        removed?;
        Ok(answer(promoted, &id, &[], false))
    }

    /// Servers that are there, as the target's own would be.
    fn on_servers_of_ours<T>(
        &self,
        id: &EnvironmentId,
        target: &TargetSummary,
        events: &Events,
        work: impl FnOnce(&Rehearsed<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.env_init(id, &[], None, false, false, events)?;
        let machines = self.machine_names(id)?;
        let servers = for_each(&machines, |machine| self.rehearsed(id, machine, events))?;
        let named = target.servers.iter().map(|server| Some(server.name())).chain(std::iter::repeat(None));
        let is_one_of_several = servers.len() > 1;
        let stand =
            |(server, name): (Server, Option<&str>)| Stand { name: name.unwrap_or(SERVER).to_owned(), server, is_one_of_several };
        let stands: Vec<_> = servers.into_iter().zip(named).map(stand).collect();
        work(&Rehearsed { id, machines: &machines, stands: &stands })
    }

    /// New ones for each kind of fault, since nothing is left to break where a promotion was through.
    fn broken_on_servers_of_ours(
        &self,
        faults: &[Mishap],
        id: &EnvironmentId,
        (cargo, target): (&Cargo, &TargetSummary),
        way: &Way,
        events: &Events,
    ) -> Result<Promotion, Failure> {
        let mut promoted = None;
        let mut broken = Vec::new();
        for fault in faults {
            if self.store.database.environment(id)?.is_some() {
                self.env_destroy(id, false, events)?;
            }
            let through =
                self.on_servers_of_ours(id, target, events, |servers| self.bring_through(*fault, cargo, servers, way, events));
            let (promotion, each) = through?;
            broken.extend(each);
            promoted = Some(promotion);
        }
        let promotion = promoted.expect("who calls this names a fault");
        Ok(Promotion { broken, ..promotion })
    }

    /// The rehearsals' platform, whose folder is adt's, and the key that its servers know.
    fn prepare(&self, name: &PlatformName, servers: usize) -> Result<PathBuf, Failure> {
        let folder = self.store.folder.join(REHEARSAL);
        if let Some(known) = self.store.database.platform(name)?
            && known.folder != folder
        {
            return Err(Failure::new(Kind::Conflict, "make a server to rehearse on")
                .cause(format!("a platform `{name}` is in `{}`", known.folder.display()))
                .hint(format!("forget that one with `adt platform:destroy {name}`, or give it another name")));
        }
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Kind::Host, format!("write `{}`", folder.display())).because(error)
        };
        let seed = folder.join(SEED);
        store::make_folder(&folder, store::PRIVATE)?;
        disk::make_folders(&seed, store::PRIVATE).map_err(|error| failed(&error))?;
        let key = folder.join("key");
        if !key.exists() {
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", "adt-rehearsal", "-f"];
            Command::new("ssh-keygen").args(words).arg(&key).run().map_err(|error| failed(&error))?;
        }
        let public = Command::new("ssh-keygen").args(["-y", "-f"]).arg(&key).run().map_err(|error| failed(&error))?.text();
        let files = [
            (folder.join("platform.toml"), platform(servers)),
            (seed.join("meta-data.j2"), META_DATA.to_owned()),
            (seed.join("user-data"), user_data(public.trim())),
        ];
        for (path, text) in files {
            disk::File::at(&path).mode(0o600).write(text).map_err(|error| failed(&error))?;
        }
        let (source, branch, created) = (folder.display().to_string(), None, self.now());
        self.store.database.put_platform(&PlatformRecord {
            name: name.clone(),
            folder,
            source,
            branch,
            created,
            keeper: None,
        })?;
        Ok(key)
    }

    /// The server as a target's configuration would name it, once it is through with its first start.
    fn rehearsed(&self, id: &EnvironmentId, name: &MachineName, events: &Events) -> Result<Server, Failure> {
        let environment = self.environment(id)?;
        self.is_through(id, name, events)?;
        let shown = self.inside(id, name, &["ssh-keygen", "-lf", "/etc/ssh/ssh_host_ed25519_key.pub"])?;
        let fingerprint = shown.first().and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default();
        let host_key = Fingerprint::new(fingerprint)
            .map_err(|reason| Failure::new(Kind::Program, "read the server's host key").cause(reason))?;
        let network = wanted::network(self.store.install(), &environment);
        let host = network.attach(environment.definition.numbers[name]).v4.to_string();
        Ok(Server { address: Address { user: "root".into(), host, port: None }, host_key: Some(host_key) })
    }

    /// Waits for what a server does at its start.
    pub(super) fn is_through(&self, id: &EnvironmentId, name: &MachineName, events: &Events) -> Result<(), Failure> {
        events.task(&format!("cloud-init {name}"), "waiting for the server's start", || {
            self.inside(id, name, &["cloud-init", "status", "--wait"]).map(drop)
        })
    }

    /// The lines that a program prints there.
    pub(super) fn inside(&self, id: &EnvironmentId, machine: &MachineName, argv: &[&str]) -> Result<Vec<String>, Failure> {
        let machine = id.machine(machine);
        let mut lines = Vec::new();
        let each = &mut |_, line: &str| lines.push(line.to_owned());
        let exec = Exec::new(argv.iter().copied());
        let ended = self.provider_of(&machine)?.exec(&machine, &exec, Stdio::Pipes { stdin: None, each })?;
        if ended.code == 0 {
            return Ok(lines);
        }
        Err(Failure::new(Kind::Program, format!("run `{}` on the server", argv.join(" ")))
            .cause(format!("it ended with exit code {}", ended.code))
            .tail(lines))
    }

    /// The last one takes the platform along.
    fn remove_rehearsed(&self, id: &EnvironmentId, events: &Events) -> Result<(), Failure> {
        self.env_destroy(id, false, events)?;
        if self.store.database.forget_platform(&id.platform)? {
            let folder = self.store.folder.join(REHEARSAL);
            std::fs::remove_dir_all(&folder)
                .map_err(|error| Failure::new(Kind::Host, format!("remove `{}`", folder.display())).because(&error))?;
        }
        Ok(())
    }
}

/// No authority on the internet is asked for names that lead elsewhere, maybe to production: only a private one.
fn rehearsable(target: TargetSummary) -> TargetSummary {
    let acme = target.edge.acme.clone().filter(|acme| acme.ca.is_some());
    // Who may come in is about the way from the operator's place, which is not the one to a machine of this host.
    TargetSummary { edge: Edge { acme, ..target.edge.clone() }, admin: BTreeSet::new(), ..target }
}

/// The environment that is the server.
fn server_of(of: &TargetOf) -> Result<EnvironmentId, Failure> {
    let name = EnvironmentName::new(format!("{}-{}", of.platform, of.target));
    let name = name.map_err(|error| Failure::new(Kind::Usage, "name the server").because(&error))?;
    Ok(EnvironmentId { platform: PlatformName::new(REHEARSAL).expect("a constant that is a label"), name })
}

fn answer(mut promotion: Promotion, id: &EnvironmentId, machines: &[MachineName], keep: bool) -> Response {
    let EnvironmentId { platform, name } = id;
    promotion.summary = match promotion.broken.len() {
        0 => format!("rehearsed: {}", promotion.summary),
        times => format!("rehearsed: broken on purpose {times} times, and each time the same command went on"),
    };
    promotion.next = vec![
        "unlike a rented server, this one has this host's kernel, and the packages that adt needs were in its image; no record of a \
         name is touched"
            .to_owned(),
    ];
    if keep {
        let EnvironmentId { platform: of, name: target } = &promotion.id;
        let first = machines.first().map_or(SERVER, MachineName::as_str);
        promotion.next.push(format!("a shell on it: adt env:ssh {platform} {name} {first}"));
        promotion.next.push(format!("there: adt env:check {of}/{target}"));
        promotion.next.push(format!("take it away: adt env:destroy {platform} {name}"));
    } else {
        promotion.next.push("the server is gone again; `--keep` leaves it for a look".to_owned());
    }
    Response::Promotion(Box::new(promotion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rehearsals_platform_is_one_that_adt_reads() {
        let platform = crate::config::platform::parse(std::path::Path::new("platform.toml"), PLATFORM).unwrap();
        assert_eq!(platform.name.as_str(), REHEARSAL);
        let names: Vec<_> = platform.machines[0].names().iter().map(ToString::to_string).collect();
        assert_eq!(names, [SERVER]);
        assert!(platform.machines[0].host && SEED.starts_with(&format!("files/{SERVER}/")));
    }

    #[test]
    fn what_a_vendor_is_told_holds_a_public_key_and_no_secret() {
        let text = user_data("ssh-ed25519 AAAA adt-rehearsal");
        assert!(text.starts_with("#cloud-config\n") && text.contains("- ssh-ed25519 AAAA") && !text.contains("PRIVATE"));
    }
}
