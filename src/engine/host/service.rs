//! `adt.service` and its kin: the units that serve names and pages, send logs and answer commands from the host's start on, where
//! systemd is process 1; and `adt-environments.service`, which halts environments before the host goes down ([`super::at_boot`]).
//!
//! `host:bootstrap` writes and enables it. It serves the store and the settings that bootstrap saw; `host:up --detach` and
//! `host:halt` then start and stop the unit, so that there is one process and one place that knows about it.
//!
//! systemd keeps what it listens at while one process follows another ([`crate::systemd`]): an update turns nobody away. It drops that
//! as soon as the unit is stopped, or has failed five times within ten seconds.
//!
//! Hardened by what the daemon does: it reads the store, writes certificates and the log there, listens, asks the kernel who
//! holds a port, and writes one firewall table. It starts and enters no machine, so it needs none of root's other powers. Logs
//! are read by programs inside the machines: where they are sent, `adt-logs.service` does it, which nobody can talk to. What members
//! of the group ask for is root's whole work: `adt-commands.service` lets them in, and has no limits that machines could inherit. Where
//! there is no systemd to limit any of them, one process does all.
//!
//! Not chosen for commands: a socket unit with a service for each connection, whose bounds for one person depend on systemd's age, and
//! which would be a second way beside that of hosts without systemd.

use std::path::Path;

use crate::config::host::Origin;
use crate::engine::Engine;
use crate::engine::host::outdated::is_outdated;
use crate::engine::host::system_file;
use crate::engine::program;
use crate::exec::Command;
use crate::exec::unit_word::{Dollar, quoted};
use crate::model::{Failure, Kind};
use crate::store::Store;

const UNIT: &str = "adt.service";
const UNIT_FILE: &str = "/etc/systemd/system/adt.service";
const LOGS: &str = "adt-logs.service";
const LOGS_FILE: &str = "/etc/systemd/system/adt-logs.service";
const ENVIRONMENTS: &str = "adt-environments.service";
const ENVIRONMENTS_FILE: &str = "/etc/systemd/system/adt-environments.service";
const COMMANDS: &str = "adt-commands.service";
const COMMANDS_FILE: &str = "/etc/systemd/system/adt-commands.service";

/// Servers that usually listen at every address: who starts first has the port, and theirs must not fail because of adt. What
/// they hold is led around.
const BEFORE_US: &[&str] =
    &["apache2", "nginx", "httpd", "caddy", "haproxy", "lighttpd", "named", "bind9", "dnsmasq", "unbound", "docker"];

/// Whether this host is run by systemd.
pub(in crate::engine) fn is_possible() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether the unit is there and serves this store.
pub fn serves(store: &Store) -> bool {
    let text = std::fs::read_to_string(UNIT_FILE).unwrap_or_default();
    is_possible() && text.contains(&store_words(&store.folder.display().to_string()))
}

/// Whether the unit was written for this store, also where nobody reads it.
pub(in crate::engine) fn is_written_for(store: &Store) -> bool {
    Path::new(UNIT_FILE).exists() && refuse_others(store).is_ok()
}

/// The store that the unit on this host serves.
fn store_of(unit: &str) -> Option<String> {
    let (_, rest) = unit.split_once("\"--store\" \"")?;
    let mut store = String::new();
    let mut left = rest.chars();
    loop {
        match left.next()? {
            '"' => return Some(store),
            '\\' => store.extend(left.next()),
            // Written twice, see `quoted`.
            sign @ ('%' | '$') => {
                left.next();
                store.push(sign);
            }
            other => store.push(other),
        }
    }
}

/// A host has one `adt.service`: another store's stays as it is.
fn refuse_others(store: &Store) -> Result<(), Failure> {
    let text = std::fs::read_to_string(UNIT_FILE).unwrap_or_default();
    if text.is_empty() || text.contains(&store_words(&store.folder.display().to_string())) {
        return Ok(());
    }
    let other = store_of(&text).unwrap_or_else(|| "another one".to_owned());
    Err(Failure::new(Kind::Conflict, format!("write `{UNIT_FILE}`"))
        .cause(format!("it serves the store `{other}`, and this one is `{}`", store.folder.display()))
        .hint(format!(
            "`adt host:bootstrap --no-service` sets up the rest, and `adt host:up --detach` serves without a unit; or take the \
             other away first: adt --store {other} host:bootstrap --remove"
        )))
}

/// Returns when it serves, with what it says about itself.
pub fn start() -> Result<String, Failure> {
    systemctl(&["start", UNIT]).map_err(|failure| {
        let journal = Command::new("journalctl").args(["--unit", UNIT, "--lines", "10", "--output", "cat", "--no-pager"]).run();
        let lines = journal.map(|output| output.text()).unwrap_or_default();
        failure.tail(lines.lines().map(str::to_owned).collect::<Vec<_>>())
    })?;
    let status = Command::new("systemctl").args(["show", UNIT, "--property", "StatusText", "--value"]).run()?;
    Ok(format!("{UNIT}: {}", status.text().trim()))
}

pub fn stop() -> Result<(), Failure> {
    // Its part alone would follow it, and still be at it when this returns.
    let units: &[&str] = if Path::new(LOGS_FILE).exists() { &["stop", UNIT, LOGS] } else { &["stop", UNIT] };
    systemctl(units)
}

/// Whether its process runs, or is about to.
pub fn is_active() -> bool {
    Command::new("systemctl").args(["is-active", "--quiet", UNIT]).run().is_ok()
}

impl Engine {
    /// The units as they should be, that of the logs where they are sent; `None` where there is no systemd to read them.
    fn units(&self) -> Result<Option<Units>, Failure> {
        if !is_possible() {
            return Ok(None);
        }
        let exe = program()?;
        // What came from the file is read from it again; what came from this command's words would be forgotten.
        let rows = self.settings.rows();
        let said = rows.iter().filter(|(_, _, origin)| matches!(origin, Origin::Flag(_) | Origin::Variable(_)));
        let mut settings: Vec<(String, String)> =
            said.filter(|(key, ..)| *key != "store").map(|(key, value, _)| variable(key, value)).collect();
        if let Some(file) = std::env::var("ADT_CONFIG").ok().filter(|value| !value.is_empty()) {
            settings.push(("ADT_CONFIG".into(), file));
        }
        let (exe, store) = (exe.display().to_string(), self.store.folder.display().to_string());
        let text = |part| text(&exe, &store, &settings, part);
        Ok(Some(Units {
            serve: text(Part::Serve),
            commands: text(Part::Commands),
            logs: self.settings.logs.are_sent().then(|| text(Part::SendLogs)),
            environments: text_of_environments(&exe, &store, &settings),
        }))
    }

    /// Says whether the units are as they should be already, and run this program if they run.
    pub(in crate::engine) fn has_unit(&self) -> Result<bool, Failure> {
        let Some(units) = self.units()? else { return Ok(true) };
        refuse_others(&self.store)?;
        let exe = program()?;
        if [UNIT, COMMANDS, LOGS].into_iter().any(|unit| is_outdated(unit, &exe)) {
            return Ok(false);
        }
        let there = |path, name| std::fs::read_to_string(path).ok().filter(|_| is_enabled(name));
        Ok(there(UNIT_FILE, UNIT) == Some(units.serve)
            && there(COMMANDS_FILE, COMMANDS) == Some(units.commands)
            && there(LOGS_FILE, LOGS) == units.logs
            && there(ENVIRONMENTS_FILE, ENVIRONMENTS) == Some(units.environments))
    }

    pub(in crate::engine) fn install_unit(&self) -> Result<(), Failure> {
        let Some(Units { serve, commands, logs, environments }) = self.units()? else { return Ok(()) };
        system_file::write(UNIT_FILE, &serve)?;
        system_file::write(COMMANDS_FILE, &commands)?;
        system_file::write(ENVIRONMENTS_FILE, &environments)?;
        match &logs {
            Some(logs) => system_file::write(LOGS_FILE, logs)?,
            None => remove(LOGS_FILE, LOGS)?,
        }
        systemctl(&["daemon-reload"])?;
        systemctl(&["enable", "--quiet", UNIT, COMMANDS, ENVIRONMENTS])?;
        // What never started is not stopped either, when the host goes down.
        systemctl(&["start", ENVIRONMENTS])?;
        // One that runs has the settings of before; sessions that it started go on.
        systemctl(&["restart", COMMANDS])?;
        if logs.is_some() {
            systemctl(&["enable", "--quiet", LOGS])?;
        }
        // One that runs has the settings of before.
        if is_active() { systemctl(&["restart", UNIT]) } else { Ok(()) }
    }
}

/// Says whether there was one for this store.
pub(in crate::engine) fn remove_unit(store: &Store, dry_run: bool) -> Result<bool, Failure> {
    let is_ours = is_written_for(store);
    if !is_ours || dry_run {
        return Ok(is_ours);
    }
    remove(ENVIRONMENTS_FILE, ENVIRONMENTS)?;
    remove(LOGS_FILE, LOGS)?;
    remove(COMMANDS_FILE, COMMANDS)?;
    remove(UNIT_FILE, UNIT)?;
    if is_possible() {
        systemctl(&["daemon-reload"])?;
    }
    Ok(true)
}

/// Stops a unit and takes its file away, if it is there.
pub(in crate::engine) fn remove(path: &str, unit: &str) -> Result<(), Failure> {
    if !Path::new(path).exists() {
        return Ok(());
    }
    if is_possible() {
        systemctl(&["disable", "--quiet", "--now", unit])?;
    }
    std::fs::remove_file(path).map_err(|error| Failure::new(Kind::Host, format!("remove `{path}`")).because(&error))
}

fn is_enabled(unit: &str) -> bool {
    Command::new("systemctl").args(["is-enabled", "--quiet", unit]).run().is_ok()
}

pub(in crate::engine) fn systemctl(args: &[&str]) -> Result<(), Failure> {
    Command::new("systemctl").args(args.iter().copied()).run().map(drop).map_err(|error| {
        let unit = args.iter().find(|word| word.contains('.')).unwrap_or(&UNIT);
        let failure = Failure::new(Kind::Program, format!("let systemd {} {unit}", args[0])).because(&error);
        failure.hint(format!("`systemctl status {unit}` and `journalctl -u {unit}` tell more"))
    })
}

/// `nameservers` as `ADT_NAMESERVERS`, separated as variables are.
fn variable(key: &str, value: &str) -> (String, String) {
    let separator = if key == "boxes" { ":" } else { "," };
    (format!("ADT_{}", key.to_uppercase()), value.replace(", ", separator))
}

fn store_words(store: &str) -> String {
    format!("\"--store\" {}", quoted(store, Dollar::IsExpanded))
}

/// What they hold.
struct Units {
    serve: String,
    commands: String,
    /// Where they are sent.
    logs: Option<String>,
    environments: String,
}

/// What is done for the host's programs, what enters machines, and what works for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Serve,
    SendLogs,
    Commands,
}

impl Part {
    fn description(self) -> &'static str {
        match self {
            Self::Serve => "names and pages of all environments",
            Self::SendLogs => "logs of all machines, sent to their receivers",
            Self::Commands => "commands of the members of the group adt",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Serve => "\"host:up\" \"--names-only\"",
            Self::SendLogs => "\"internal:logs\"",
            Self::Commands => "\"internal:commands\"",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Serve | Self::Commands => "notify",
            Self::SendLogs => "exec",
        }
    }

    /// The logs begin, end and start again with the names.
    fn order(self) -> &'static str {
        match self {
            Self::Serve | Self::Commands => "",
            Self::SendLogs => "PartOf=adt.service\n",
        }
    }

    fn wanted_by(self) -> &'static str {
        match self {
            Self::Serve | Self::Commands => "multi-user.target",
            Self::SendLogs => UNIT,
        }
    }

    /// Namespaces are entered for logs, a mount namespace is made for the program that enters, and it goes into the machine's
    /// cgroups: who enters a machine needs what the machine's start needed. What is set for commands is what every machine has that
    /// a member starts; and only who lets people in ends with the unit, not who works for them.
    fn limits(self) -> &'static str {
        match self {
            // More than five hundred environments listen at; what a process opens beyond that ends with it.
            Self::Serve => {
                "FileDescriptorStoreMax=8192\n\
                 RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
                 CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_NET_ADMIN CAP_SYS_PTRACE CAP_DAC_READ_SEARCH\n\
                 NoNewPrivileges=yes\n\
                 ProtectControlGroups=yes\n\
                 RestrictNamespaces=yes\n\
                 RestrictSUIDSGID=yes\n\
                 MemoryDenyWriteExecute=yes\n\
                 SystemCallArchitectures=native\n\
                 SystemCallFilter=@system-service\n\
                 SystemCallFilter=~@resources @privileged\n\
                 SystemCallFilter=@chown setrlimit prlimit64\n\
                 SystemCallErrorNumber=EPERM\n\
                 LockPersonality=yes\n\
                 ProtectSystem=strict\n\
                 ProtectHome=read-only\n\
                 ProtectKernelModules=yes\n\
                 ProtectKernelTunables=yes\n\
                 ProtectKernelLogs=yes\n\
                 ProtectClock=yes\n\
                 ProtectHostname=yes\n\
                 PrivateTmp=yes\n\
                 PrivateDevices=yes\n\
                 PrivateMounts=yes\n\
                 KeyringMode=private\n\
                 RestrictRealtime=yes\n"
            }
            Self::SendLogs => {
                "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
                 LockPersonality=yes\n\
                 SystemCallArchitectures=native\n\
                 RestrictRealtime=yes\n"
            }
            Self::Commands => "KillMode=process\nOOMPolicy=continue\nTasksMax=infinity\n",
        }
    }
}

fn text(exe: &str, store: &str, settings: &[(String, String)], part: Part) -> String {
    let after = BEFORE_US.iter().map(|name| format!("{name}.service")).collect::<Vec<_>>().join(" ");
    let environment = variables(settings);
    format!(
        "# Written by `adt host:bootstrap`; `adt host:bootstrap --remove` removes it.\n\
         [Unit]\n\
         Description=adt: {description}\n\
         Wants=network.target\n\
         After=network.target {after}\n\
         {order}\
         RequiresMountsFor={path}\n\
         \n\
         [Service]\n\
         Type={kind}\n\
         {environment}\
         ExecStart={exe} {words} {verb}\n\
         Restart=on-failure\n\
         RestartSec=200ms\n\
         TimeoutStopSec=30\n\
         LimitNOFILE=524288\n\
         \n\
         ReadWritePaths={path}\n\
         {limits}\
         \n\
         [Install]\n\
         WantedBy={wanted_by}\n",
        path = quoted(store, Dollar::IsPlain),
        exe = quoted(exe, Dollar::IsPlain),
        words = store_words(store),
        limits = part.limits(),
        description = part.description(),
        order = part.order(),
        kind = part.kind(),
        verb = part.verb(),
        wanted_by = part.wanted_by(),
    )
}

fn variables(settings: &[(String, String)]) -> String {
    let word = |(name, value): &(String, String)| quoted(&format!("{name}={value}"), Dollar::IsPlain);
    settings.iter().map(|setting| format!("Environment={}\n", word(setting))).collect()
}

/// Started early and stopped before what machines need. It halts them itself: they are not among its processes.
fn text_of_environments(exe: &str, store: &str, settings: &[(String, String)]) -> String {
    let command = format!("{} {} \"internal:environments\"", quoted(exe, Dollar::IsPlain), store_words(store));
    format!(
        "# Written by `adt host:bootstrap`; `adt host:bootstrap --remove` removes it.\n\
         [Unit]\n\
         Description=adt: environments, halted before this host goes down\n\
         After=network.target nftables.service {UNIT}\n\
         RequiresMountsFor={path}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         {environment}\
         ExecStart={command} \"up\"\n\
         ExecStop={command} \"halt\"\n\
         TimeoutStartSec=infinity\n\
         TimeoutStopSec=300\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        path = quoted(store, Dollar::IsPlain),
        environment = variables(settings),
    )
}

/// Before anything comes in from the network: who may.
pub(in crate::engine) fn text_of_access(exe: &str, store: &str) -> String {
    format!(
        "# Written by adt for a target's server; `adt host:bootstrap --remove` removes it.\n\
         [Unit]\n\
         Description=adt: who may reach this server\n\
         Wants=network-pre.target\n\
         Before=network-pre.target\n\
         After=nftables.service\n\
         RequiresMountsFor={path}\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart={exe} {words} \"internal:access\" \"boot\"\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        path = quoted(store, Dollar::IsPlain),
        exe = quoted(exe, Dollar::IsPlain),
        words = store_words(store),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_path_or_a_setting_is_more_than_a_word() {
        let settings = [("ADT_DOMAIN".to_owned(), "ex\"am\nple.test".to_owned())];
        let text = text("/opt/a b/100%/adt", "/var/lib/$a\"d t", &settings, Part::Serve);
        assert!(
            text.contains("ExecStart=\"/opt/a b/100%%/adt\" \"--store\" \"/var/lib/$$a\\\"d t\" \"host:up\" \"--names-only\"\n"),
            "{text}"
        );
        assert!(text.contains("Environment=\"ADT_DOMAIN=ex\\\"am\\nple.test\"\n"), "{text}");
        assert!(text.contains("ReadWritePaths=\"/var/lib/$a\\\"d t\"\n"), "{text}");
    }

    /// Whether logs are sent or not: what browsers and machines talk to is one unit, and it is always this one.
    #[test]
    fn who_answers_machines_and_browsers_is_exposed_to_little() {
        if Command::new("systemd-analyze").arg("--version").run().is_err() {
            assert!(std::env::var_os("CI").is_none(), "systemd-analyze is missing: apt-get install systemd");
            return eprintln!("NOT RUN: systemd-analyze is missing: apt-get install systemd");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(UNIT);
        std::fs::write(&file, text("/bin/true", "/var/lib/adt", &[], Part::Serve)).unwrap();
        // Tenths, of which 30 is "exposed".
        let command = Command::new("systemd-analyze").args(["security", "--no-pager", "--offline=true", "--threshold=29"]);
        command.arg(&file).run().unwrap();
    }

    /// Filters and limits of a unit go down to all that is started in it, and what is started there are people's machines.
    #[test]
    fn the_unit_of_commands_sets_nothing_that_a_machine_would_have() {
        let text = text("/bin/true", "/var/lib/adt", &[], Part::Commands);
        for limit in ["Restrict", "SystemCall", "Protect", "Private", "Capability", "NoNewPrivileges", "MemoryDeny", "Lock"] {
            assert!(!text.contains(limit), "{limit}: {text}");
        }
        assert!(text.contains("KillMode=process\n") && text.contains("TasksMax=infinity\n"), "{text}");
    }

    #[test]
    fn the_store_of_a_unit_is_read_back() {
        for store in ["/var/lib/adt", "/srv/$a\"d 100%\\t"] {
            assert_eq!(store_of(&text("/usr/bin/adt", store, &[], Part::Serve)).as_deref(), Some(store));
        }
        assert_eq!(store_of("[Service]\nExecStart=/usr/bin/adt"), None);
    }

    #[test]
    fn lists_are_separated_as_variables_are() {
        assert_eq!(variable("nameservers", "1.1.1.1, 9.9.9.9"), ("ADT_NAMESERVERS".into(), "1.1.1.1,9.9.9.9".into()));
        assert_eq!(variable("boxes", "/a, /b").1, "/a:/b");
    }
}
