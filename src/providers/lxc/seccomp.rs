//! The system calls that a machine's programs do not get: liblxc loads this list as a filter before the machine's init runs,
//! and for each program that adt starts inside. All that comes from these keeps it, in namespaces of their own too.
//!
//! Denied is what acts on the whole host, what the kernel keeps in one pot for all machines, and what only attacks on the
//! kernel have a use for. Most of it the kernel refuses to a machine's root anyway; the filter is there for the day on which
//! it does not, because of a fault or because the host allows it to everybody.
//!
//! The same calls are denied to programs of the processor's 32-bit modes, which have other numbers for them; a program of any
//! other kind is ended by the kernel.
//!
//! Not denied, since what production runs on needs it: `mount`, `unshare`, `clone` and `setns` (systemd puts its services
//! apart, and so do engines of containers), `ptrace` (debuggers), `io_uring` (MariaDB), `mbind` and its kin (databases and
//! Java), `personality` and `modify_ldt` (old programs). `reboot` ends the machine only. The clock is kept by a missing
//! capability, because asking for it is the same call as setting it.
//!
//! Not chosen: a list of what is allowed. Every new kernel, libc and language brings calls that it would lack, and a machine
//! that behaves unlike production is no copy of it.

use std::path::Path;

/// What a program is told that makes such a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// As to anybody without rights: what only root may do.
    NotPermitted,
    /// As on a kernel that was built without it: programs then do without, where they would take a lack of rights for a fault.
    NotThere,
}

impl Refusal {
    fn number(self) -> i32 {
        match self {
            Self::NotPermitted => libc::EPERM,
            Self::NotThere => libc::ENOSYS,
        }
    }
}

const DENIED: &[(Refusal, &[&str])] = &[
    // Another kernel, or more of this one.
    (Refusal::NotPermitted, &["kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module"]),
    // Files by their number on a disk, past every mount.
    (Refusal::NotPermitted, &["open_by_handle_at"]),
    // The kernel's log, which some hosts show to everybody.
    (Refusal::NotPermitted, &["syslog"]),
    // The host's disks, processes and ports of its hardware.
    (Refusal::NotPermitted, &["swapon", "swapoff", "quotactl", "quotactl_fd", "acct", "ioperm", "iopl"]),
    // Programs in the kernel, and its counters: systemd and engines of containers do without where they have no rights.
    (Refusal::NotPermitted, &["bpf", "perf_event_open"]),
    // Keys are counted for each user of the host, and the host's root pays for a machine's. systemd and runc do without them
    // where a kernel has none, and call it a fault where they lack the rights.
    (Refusal::NotThere, &["add_key", "request_key", "keyctl"]),
    // Stops the kernel in the middle of a copy, which is half of many attacks.
    (Refusal::NotThere, &["userfaultfd"]),
    // As long as a program has such memory, the host can't hibernate.
    (Refusal::NotThere, &["memfd_secret"]),
    // Tells where files lie in the kernel's memory of names.
    (Refusal::NotThere, &["lookup_dcookie"]),
];

/// The list as `lxc.seccomp.profile` names it.
pub fn profile() -> String {
    let mut text = String::from("2\ndenylist\n[all]\n");
    for (refusal, calls) in DENIED {
        for call in *calls {
            text.push_str(&format!("{call} errno {}\n", refusal.number()));
        }
    }
    text
}

/// Whether the kernel has filters; liblxc would refuse to start a machine with one where it hasn't.
pub fn is_possible() -> bool {
    Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

/// What keeps machines from getting a filter. liblxc that was built without the library for it says nothing and starts them.
pub fn lacking() -> Option<&'static str> {
    if !is_possible() {
        return Some("the kernel has no system call filters (CONFIG_SECCOMP_FILTER)");
    }
    let loaded = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    (!loaded.contains("/libseccomp.")).then_some("liblxc was built without libseccomp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_denied_once_and_for_every_architecture() {
        let text = profile();
        let rules: Vec<_> = text.strip_prefix("2\ndenylist\n[all]\n").expect("liblxc's second form").lines().collect();
        let names: std::collections::BTreeSet<_> = rules.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names.len(), rules.len(), "{text}");
        assert!(rules.contains(&"kexec_load errno 1") && rules.contains(&"keyctl errno 38"), "{text}");
    }
}
