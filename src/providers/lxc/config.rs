//! What is wanted of a machine, as liblxc's configuration text. Pure: the same input gives the same text.

use std::path::Path;

use crate::model::{Limits, MachineSpec};

use super::cgroup::{Hierarchies, Version};
use super::{host, masks};

/// The id of a machine's root on disk. Layers are stored shifted by the same number.
pub const FIRST_ID: u32 = 100_000;

/// Where the start helper mounts the machine's root, in a mount namespace of its own: the path means nothing outside, can't
/// grow too long and needs no way for the machine's ids through the store.
pub const ROOT: &str = "/run/lxc/adt/root";

/// Where liblxc mounts it once more, there too.
pub const MOUNT: &str = "/run/lxc/adt/mounted";

/// What the text needs to know about the host.
#[derive(Debug, Clone, Copy)]
pub struct Host<'a> {
    pub hierarchies: &'a Hierarchies,
    /// What liblxc is told of AppArmor, where the kernel has it on: else it would look for a profile of its own.
    pub apparmor: Option<&'a str>,
    /// What a machine gets of which nobody said how much memory it needs.
    pub memory: u64,
    pub seccomp: bool,
}

/// A setting of the kernel's that limits a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub version: Version,
    /// `memory`
    pub controller: &'static str,
    /// `memory.max`
    pub file: &'static str,
    pub value: String,
}

/// A scheduling period; the kernel's own default.
const PERIOD: u64 = 100_000;

/// The settings that keep a machine within `limits`; `memory` is what counts where these say nothing. A controller that the host does not offer is left out: a machine
/// without its limit is more useful than none, and `host:check` says what is missing.
pub fn settings(limits: &Limits, memory: Option<u64>, hierarchies: &Hierarchies) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut add = |controller, legacy: &[(&'static str, String)], unified: (&'static str, String)| match hierarchies
        .version_of(controller)
    {
        Some(Version::Legacy) => settings.extend(legacy.iter().map(|(file, value)| Setting {
            version: Version::Legacy,
            controller,
            file,
            value: value.clone(),
        })),
        Some(Version::Unified) => {
            settings.push(Setting { version: Version::Unified, controller, file: unified.0, value: unified.1 });
        }
        None => {}
    };
    if let Some(bytes) = limits.memory_bytes.or(memory) {
        let (legacy, unified) = match bytes {
            Limits::ALL_MEMORY => ("-1".to_owned(), "max".to_owned()),
            bytes => (bytes.to_string(), bytes.to_string()),
        };
        add("memory", &[("memory.limit_in_bytes", legacy)], ("memory.max", unified));
    }
    if let Some(cpus) = limits.cpus {
        // The kernel refuses a quota below a millisecond.
        let quota = ((cpus * PERIOD as f64).round() as u64).max(1_000);
        let legacy = [("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        add("cpu", &legacy, ("cpu.max", format!("{quota} {PERIOD}")));
    }
    if let Some(processes) = limits.processes {
        add("pids", &[("pids.max", processes.to_string())], ("pids.max", processes.to_string()));
    }
    settings
}

/// The configuration of one machine but for its ids, which are those of its start. `folder` is the machine's folder, `group` its control group.
pub fn text(spec: &MachineSpec, folder: &Path, group: &str, host: Host<'_>) -> String {
    let mut lines = Lines(String::from("# Written by adt for each start; changes are lost.\n"));
    lines.add("lxc.uts.name", &spec.hostname);
    lines.add("lxc.rootfs.path", format_args!("dir:{ROOT}"));
    // Its own default is a folder that comes with its programs, which a host may have without.
    lines.add("lxc.rootfs.mount", MOUNT);
    if spec.host {
        host::lines().into_iter().for_each(|(key, value)| lines.add(key, value));
    } else {
        lines.add("lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed");
    }
    // Without CAP_SYS_RAWIO systemd skips the debug and trace filesystems; with it they fail in a user namespace and the
    // machine counts as degraded.
    lines.add("lxc.cap.drop", "mac_admin mac_override sys_module sys_rawio sys_time");
    if let Some(profile) = host.apparmor {
        lines.add("lxc.apparmor.profile", profile);
    }
    if host.seccomp {
        lines.add("lxc.seccomp.profile", folder.join("seccomp").display());
        // Else a machine that somebody starts who has a filter himself would get none.
        lines.add("lxc.seccomp.allow_nesting", 1);
    }
    lines.add(masks::HOOK.0, masks::HOOK.1);
    lines.add("lxc.tty.max", 0);
    lines.add("lxc.pty.max", 1024);
    lines.add("lxc.signal.halt", "SIGRTMIN+3");
    lines.add("lxc.log.file", folder.join("lxc.log").display());
    lines.add("lxc.log.level", "WARN");
    lines.add("lxc.console.logfile", folder.join("console.log").display());
    lines.add("lxc.console.size", "1MB");
    lines.add("lxc.console.rotate", 1);
    lines.add("lxc.cgroup.dir.container", group);
    lines.add("lxc.cgroup.dir.monitor", super::cgroup::monitor(group));
    // The monitor moves here while it removes its own groups; it must not lie inside of them.
    lines.add("lxc.cgroup.dir.monitor.pivot", super::cgroup::PIVOT);
    for setting in settings(&spec.limits, Some(host.memory), host.hierarchies) {
        let key = match setting.version {
            Version::Legacy => "lxc.cgroup",
            Version::Unified => "lxc.cgroup2",
        };
        lines.add(&format!("{key}.{}", setting.file), setting.value);
    }
    network(&mut lines, spec);
    lines.0
}

fn network(lines: &mut Lines, spec: &MachineSpec) {
    let net = &spec.network;
    lines.add("lxc.net.0.type", "veth");
    lines.add("lxc.net.0.link", &net.net);
    lines.add("lxc.net.0.veth.pair", &net.cable);
    lines.add("lxc.net.0.name", "eth0");
    lines.add("lxc.net.0.hwaddr", &net.mac);
    lines.add("lxc.net.0.flags", "up");
    lines.add("lxc.net.0.ipv4.address", format_args!("{}/{}", net.v4, net.v4_prefix));
    lines.add("lxc.net.0.ipv4.gateway", net.v4_gateway);
    lines.add("lxc.net.0.ipv6.address", format_args!("{}/{}", net.v6, net.v6_prefix));
}

struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        assert!(!value.contains('\n'), "`{key}`: names and addresses are checked where they enter");
        self.0.push_str(&format!("{key} = {value}\n"));
    }
}

/// `/etc/resolv.conf` of a machine.
pub fn resolv(spec: &MachineSpec) -> String {
    let mut text = String::new();
    if !spec.search.is_empty() {
        text.push_str(&format!("search {}\n", spec.search.join(" ")));
    }
    for server in &spec.nameservers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Attachment, EnvironmentId, EnvironmentName, Health, MachineName, PlatformName, ProviderName};

    pub fn spec() -> MachineSpec {
        let id = EnvironmentId { platform: PlatformName::new("shop").unwrap(), name: EnvironmentName::new("1161").unwrap() }
            .machine(&MachineName::new("web1").unwrap());
        MachineSpec {
            id,
            provider: ProviderName::first(),
            hostname: "web1".into(),
            fqdn: "web1.1161.shop.example.test".into(),
            layers: vec![],
            seeded: 0,
            limits: Limits { memory_bytes: Some(512 << 20), cpus: Some(1.5), processes: Some(300) },
            network: Attachment {
                net: "adtabc".into(),
                cable: "adtabc-2".into(),
                mac: "02:ad:00:00:00:02".into(),
                v4: "10.1.2.2".parse().unwrap(),
                v4_prefix: 26,
                v4_gateway: "10.1.2.1".parse().unwrap(),
                v6: "fd00::2".parse().unwrap(),
                v6_prefix: 64,
            },
            hosts: String::new(),
            nameservers: vec!["10.1.2.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            search: vec!["1161.shop.example.test".into()],
            trusted: Default::default(),
            mounts: vec![],
            volumes: None,
            rewound: None,
            files: [].into(),
            health: Health { checks: vec![], deadline_seconds: 30 },
            host: false,
            spare: false,
        }
    }

    fn lines(version: Version) -> Vec<String> {
        let hierarchies = Hierarchies::fixed(version);
        let host = Host { hierarchies: &hierarchies, apparmor: None, memory: 1 << 30, seccomp: true };
        text(&spec(), Path::new("/store/m"), "adt/tag/web1", host).lines().map(str::to_owned).collect()
    }

    #[test]
    fn only_a_host_gets_what_its_machines_need() {
        let hierarchies = Hierarchies::fixed(Version::Unified);
        let host = Host { hierarchies: &hierarchies, apparmor: None, memory: 1 << 30, seccomp: true };
        let text = |is_host| text(&MachineSpec { host: is_host, ..spec() }, Path::new("/store/m"), "adt/tag/web1", host);
        let needs = ["dev/.lxc/proc proc", "dev/.lxc/sys sysfs", "dev/net/tun", "dev/fuse", "cgroup:mixed:force"];
        for need in needs {
            assert!(text(true).contains(need) && !text(false).contains(need), "{need}");
        }
        // All else is the same: the filter of system calls, the covers, the capabilities.
        let plain =
            |text: String| text.lines().filter(|line| !line.starts_with("lxc.mount.")).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(plain(text(true)), plain(text(false)));
    }

    #[test]
    fn limits_on_the_unified_hierarchy() {
        let lines = lines(Version::Unified);
        for line in ["lxc.cgroup2.memory.max = 536870912", "lxc.cgroup2.cpu.max = 150000 100000", "lxc.cgroup2.pids.max = 300"] {
            assert!(lines.iter().any(|l| l == line), "{line} in {lines:#?}");
        }
        assert!(!lines.iter().any(|l| l.starts_with("lxc.cgroup.") && !l.starts_with("lxc.cgroup.dir")), "{lines:#?}");
    }

    #[test]
    fn limits_on_legacy_hierarchies() {
        let lines = lines(Version::Legacy);
        for line in [
            "lxc.cgroup.memory.limit_in_bytes = 536870912",
            "lxc.cgroup.cpu.cfs_period_us = 100000",
            "lxc.cgroup.cpu.cfs_quota_us = 150000",
            "lxc.cgroup.pids.max = 300",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line} in {lines:#?}");
        }
        assert!(!lines.iter().any(|l| l.starts_with("lxc.cgroup2")), "{lines:#?}");
    }

    #[test]
    fn nothing_is_limited_that_was_not_asked_or_that_the_host_can_not() {
        let all = Hierarchies::fixed(Version::Unified);
        assert_eq!(settings(&Limits::default(), None, &all), []);
        assert_eq!(settings(&spec().limits, Some(1 << 30), &Hierarchies::default()), []);
    }

    #[test]
    fn memory_has_a_limit_unless_somebody_lifted_it() {
        let lifted = Limits { memory_bytes: Some(Limits::ALL_MEMORY), ..Limits::default() };
        for (version, none) in [(Version::Legacy, "-1"), (Version::Unified, "max")] {
            let hierarchies = Hierarchies::fixed(version);
            let value = |limits: &Limits| settings(limits, Some(1 << 30), &hierarchies).first().map(|one| one.value.clone());
            assert_eq!(value(&Limits::default()), Some((1 << 30).to_string()));
            assert_eq!(value(&lifted).as_deref(), Some(none));
            assert_eq!(value(&spec().limits), Some((512 << 20).to_string()));
        }
    }

    #[test]
    fn the_network_is_set_without_dhcp() {
        let lines = lines(Version::Unified);
        let net: Vec<_> = lines.iter().filter_map(|l| l.strip_prefix("lxc.net.0.")).collect();
        assert_eq!(
            net,
            [
                "type = veth",
                "link = adtabc",
                "veth.pair = adtabc-2",
                "name = eth0",
                "hwaddr = 02:ad:00:00:00:02",
                "flags = up",
                "ipv4.address = 10.1.2.2/26",
                "ipv4.gateway = 10.1.2.1",
                "ipv6.address = fd00::2/64",
            ]
        );
    }

    #[test]
    fn resolv_conf() {
        assert_eq!(resolv(&spec()), "search 1161.shop.example.test\nnameserver 10.1.2.1\nnameserver fd00::1\n");
    }
}
