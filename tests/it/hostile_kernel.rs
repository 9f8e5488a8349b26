//! A machine's programs against the host's kernel: calls that act on the whole host are refused to all of them, services without
//! root's power see nothing of the host in `/proc` and `/sys`, and root itself changes nothing of it. What services need is there
//! all the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::adt::{Adt, Run};

const TINY: &str = "[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"debian\"\n";

/// What is refused to a machine is refused to one that is a host itself.
const KINDS: [&str; 2] = ["", "host = true\n"];

fn one_machine(kind: &str) -> Option<Adt> {
    let adt = Adt::real()?.alone();
    adt.platform_toml("tiny", &format!("{TINY}{kind}"));
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    Some(adt)
}

/// A shell's words as root of the machine.
fn shell(adt: &Adt, script: &str) -> Run {
    let output = adt.command(&["env:exec", "1", "one", "--", "sh", "-c", script]).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Run { words: script.to_owned(), code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn end(adt: &Adt) {
    adt.run("platform:destroy tiny --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Settings that a host has one of, and that no other test touches.
const SETTINGS: [&str; 8] = [
    "kernel/core_pattern",
    "kernel/modprobe",
    "kernel/printk",
    "kernel/panic",
    "kernel/poweroff_cmd",
    "vm/swappiness",
    "vm/overcommit_memory",
    "fs/file-max",
];

fn host_settings() -> Vec<Option<String>> {
    // Not every kernel has each.
    SETTINGS.iter().map(|name| fs::read_to_string(format!("/proc/sys/{name}")).ok()).collect()
}

/// A program that makes one call and ends with its error's number, or 0.
#[cfg(target_arch = "x86_64")]
mod program {
    /// Machine code in the smallest file that the kernel runs.
    fn elf(is_64: bool, code: &[u8]) -> Vec<u8> {
        const BASE: u64 = 0x40_0000;
        let head = if is_64 { 64 + 56 } else { 52 + 32 };
        let size = head + code.len() as u64;
        let mut file = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let two = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
        let word = |file: &mut Vec<u8>, value: u64| {
            file.extend(&value.to_le_bytes()[..if is_64 { 8 } else { 4 }]);
        };
        two(&mut file, &[2, if is_64 { 62 } else { 3 }, 1, 0]);
        word(&mut file, BASE + head);
        word(&mut file, if is_64 { 64 } else { 52 });
        word(&mut file, 0);
        two(&mut file, &[0, 0, if is_64 { 64 } else { 52 }, if is_64 { 56 } else { 32 }, 1, 0, 0, 0]);
        let flags = 5_u32.to_le_bytes();
        file.extend(1_u32.to_le_bytes());
        if is_64 {
            file.extend(flags);
        }
        for value in [0, BASE, BASE, size, size] {
            word(&mut file, value);
        }
        if !is_64 {
            file.extend(flags);
        }
        word(&mut file, 0x1000);
        file.extend(code);
        file
    }

    fn with(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    /// By the processor's 64-bit way in.
    pub fn of_64(number: u32, first: u32) -> Vec<u8> {
        let (number, first) = (number.to_le_bytes(), first.to_le_bytes());
        // The other registers are 0; what is negative becomes the exit code.
        let rest = [0x31, 0xf6, 0x31, 0xd2, 0x4d, 0x31, 0xd2, 0x4d, 0x31, 0xc0, 0x0f, 0x05];
        let exit = [0x31, 0xff, 0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
        elf(true, &with(&[&[0xb8], &number, &[0xbf], &first, &rest, &exit]))
    }

    /// By the 32-bit way in, from a program of either kind.
    pub fn of_32(number: u32, first: u32, is_64: bool) -> Vec<u8> {
        let (number, first) = (number.to_le_bytes(), first.to_le_bytes());
        let rest = [0x31, 0xc9, 0x31, 0xd2, 0x31, 0xf6, 0x31, 0xff, 0xcd, 0x80];
        let exit = [0x31, 0xdb, 0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80];
        elf(is_64, &with(&[&[0xb8], &number, &[0xbb], &first, &rest, &exit]))
    }
}

/// Name, number for 64 bits, number for 32 bits, first argument, what a program is told.
#[cfg(target_arch = "x86_64")]
const CALLS: [(&str, u32, Option<u32>, u32, u8); 22] = [
    ("kexec_load", 246, Some(283), 0, 1),
    ("kexec_file_load", 320, None, 0, 1),
    ("init_module", 175, Some(128), 0, 1),
    ("finit_module", 313, Some(350), 0, 1),
    ("delete_module", 176, Some(129), 0, 1),
    ("open_by_handle_at", 304, Some(342), 0, 1),
    ("syslog", 103, Some(103), 10, 1),
    ("swapon", 167, Some(87), 0, 1),
    ("swapoff", 168, Some(115), 0, 1),
    ("quotactl", 179, Some(131), 0, 1),
    ("quotactl_fd", 443, Some(443), 0, 1),
    ("acct", 163, Some(51), 0, 1),
    ("ioperm", 173, Some(101), 0, 1),
    ("iopl", 172, Some(110), 3, 1),
    ("bpf", 321, Some(357), 0, 1),
    ("perf_event_open", 298, Some(336), 0, 1),
    ("add_key", 248, Some(286), 0, 38),
    ("request_key", 249, Some(287), 0, 38),
    ("keyctl", 250, Some(288), 0, 38),
    // For its own memory alone, which the kernel allows to everybody.
    ("userfaultfd", 323, Some(374), 1, 38),
    ("memfd_secret", 447, Some(447), 0, 38),
    ("lookup_dcookie", 212, Some(253), 0, 38),
];

#[cfg(target_arch = "x86_64")]
#[test]
fn what_acts_on_the_host_is_refused_to_programs_of_every_kind() {
    KINDS.into_iter().for_each(refuses_calls);
}

#[cfg(target_arch = "x86_64")]
fn refuses_calls(kind: &str) {
    let Some(adt) = one_machine(kind) else { return };
    let folder = adt.here().join("calls");
    fs::create_dir(&folder).expect("the folder is ours");
    let put = |name: &str, bytes: Vec<u8>| {
        fs::write(folder.join(name), bytes).expect("the folder is ours");
        fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o755)).expect("it is ours");
    };
    // `unshare` with no flag does nothing, and says so.
    put("allowed.64", program::of_64(272, 0));
    put("allowed.32", program::of_32(310, 0, false));
    let mut expected = BTreeMap::new();
    for (name, long, short, first, told) in CALLS {
        put(&format!("{name}.64"), program::of_64(long, first));
        put(&format!("{name}.x32"), program::of_64(long | 0x4000_0000, first));
        expected.insert(format!("{name}.64"), told);
        if let Some(short) = short {
            put(&format!("{name}.32"), program::of_32(short, first, false));
            put(&format!("{name}.mixed"), program::of_32(short, first, true));
            expected.insert(format!("{name}.32"), told);
            expected.insert(format!("{name}.mixed"), told);
        }
    }
    let before = host_settings();
    adt.run("env:cp 1 calls one:/srv/").ok();
    let all = "for call in /srv/calls/*; do $call 2>/dev/null; echo $(basename $call) $?; done";
    // As root of the machine, as root of namespaces of its own, as a service, and as a user without rights.
    let service = format!("systemd-run --quiet --pipe --wait sh -c '{all}'");
    let inner = format!("unshare --user --map-root-user --mount --pid --fork sh -c '{all}'");
    let user = format!("setpriv --reuid 65534 --clear-groups sh -c '{all}'");
    for (whose, script) in [("root", all.to_owned()), ("a namespace's root", inner), ("a service", service), ("a user", user)] {
        let told = shell(&adt, &script).ok().stdout;
        let seen: BTreeMap<&str, u8> =
            told.lines().filter_map(|line| line.split_once(' ')).map(|(name, code)| (name, code.parse().unwrap())).collect();
        assert_eq!(seen["allowed.64"], 0, "{whose}: {told}");
        // A kernel without 32-bit programs runs none.
        let has_32 = seen["allowed.32"] == 0;
        assert!(has_32 || seen["allowed.32"] >= 126, "{whose}: {told}");
        for (name, code) in &expected {
            let right = if name.ends_with(".64") || has_32 { *code } else { seen[name.as_str()].max(126) };
            assert_eq!(seen[name.as_str()], right, "{whose} calls {name}: {told}");
        }
        for (name, code) in seen.iter().filter(|(name, _)| name.ends_with(".x32")) {
            assert!([1, 38, 159].contains(code), "{whose} calls {name}: {code}");
        }
    }
    assert_eq!(host_settings(), before);
    for status in ["/proc/1/status", "/proc/self/status"] {
        shell(&adt, &format!("grep '^Seccomp:.*2$' {status}")).ok();
    }
    end(&adt);
}

/// Prints what it finds of the host below every place that it may have got to.
const LOOK: &str = r#"
for p in /proc /proc/1/root/proc /proc/self/root/proc /mnt/p /mnt/r/proc; do
    for file in config.gz interrupts kallsyms kmsg keys key-users iomem sys/kernel/core_pattern sys/kernel/modprobe sys/kernel/printk; do
        [ -e $p/self ] && head -c 40 $p/$file
    done
    [ -e $p/self ] && ls -A $p/bus $p/irq $p/fs $p/driver $p/sys/dev $p/sys/debug | grep -v -e :$ -e '^$'
done 2>/dev/null
for s in /sys /mnt/s /mnt/r/sys; do
    [ -e $s/class ] && ls -A $s/firmware $s/power $s/devices/virtual/dmi | grep -v -e :$ -e '^$'
    [ -e $s/class ] && head -c 40 $s/kernel/notes $s/kernel/vmcoreinfo
done 2>/dev/null
dmesg 2>/dev/null
head -c 40 /dev/kmsg /mnt/kmsg 2>/dev/null
true
"#;

/// What a service that was broken into does to see the host, as a user and as root of namespaces that it makes itself. `own` is
/// a namespace with mounts in which it is root.
const SERVICE: [(&str, &str); 15] = [
    ("look", "look"),
    ("unmount a cover", "umount /proc/interrupts; umount /sys/firmware; look"),
    ("open a cover", "chmod 777 /proc/interrupts; mount -o remount,rw,bind /sys/firmware; look"),
    (
        "unmount in a namespace",
        "own 'umount -l /proc/interrupts; umount -l /proc/sys/kernel/core_pattern; umount -l /sys/firmware; look'",
    ),
    (
        "unmount all of them",
        "own 'for m in $(cut -d\" \" -f2 /proc/mounts | grep -E ^/[ps][ry][os][c/]); do umount -l $m; done; look'",
    ),
    ("unmount proc as a whole", "own 'umount -l /proc; mount -t proc proc /proc; look'"),
    ("unmount sys as a whole", "own 'umount -l /sys; mount -t sysfs sysfs /sys; look'"),
    ("move a cover", "own 'mount --move /proc/interrupts /mnt/m; mount --move /sys/firmware /mnt/m; look'"),
    ("show proc and sys elsewhere", "own 'mount --bind /proc /mnt/p; mount --bind /sys /mnt/s; look'"),
    (
        "show all of it elsewhere",
        "own 'mount --rbind / /mnt/r; umount -l /mnt/r/proc/interrupts; umount -l /mnt/r/sys/firmware; look'",
    ),
    ("mount a fresh proc and sys", "own 'mount -t proc proc /mnt/p; mount -t sysfs sysfs /mnt/s; look'"),
    ("mount only processes", "own 'mount -t proc -o subset=pid,hidepid=2 proc /mnt/p; look'"),
    (
        "lay overlays over them",
        "own 'mount -t overlay -o lowerdir=/proc:/mnt none /mnt/p; mount -t overlay -o lowerdir=/sys:/mnt none /mnt/s; look'",
    ),
    (
        "leave by a second root",
        "own 'mount --rbind / /mnt/r; chroot /mnt/r sh -c \"umount -l /proc/interrupts; sh /srv/look\"; look'",
    ),
    (
        "make a network of its own",
        "unshare -Urmnpf sh -c 'mount -t tmpfs none /mnt; mkdir /mnt/p /mnt/s; mount -t proc proc /mnt/p; mount -t sysfs sysfs /mnt/s; sh /srv/look'",
    ),
];

/// What the words of [`SERVICE`] and [`ROOT`] mean.
const WORDS: &str = r#"
look() { sh /srv/look; }
own() {
    unshare -Urmpf sh -c "look() { sh /srv/look; }; mount -t tmpfs none /mnt; mkdir /mnt/p /mnt/s /mnt/r /mnt/m; $1"
}
kept() {
    for p in /proc /mnt/p; do
        [ -e $p/self ] || continue
        head -c 40 $p/kmsg; head -c 40 $p/kcore; head -c 40 $p/timer_list
        echo h >$p/sysrq-trigger && echo the host takes a key
        for setting in SETTINGS; do
            echo 1 >$p/sys/$setting && echo $setting is taken
        done
    done
    dmesg
    head -c 40 /dev/kmsg
    head -c 40 /mnt/kmsg
}
"#;

#[test]
fn a_service_sees_nothing_of_the_host_whatever_it_does() {
    let Some(adt) = one_machine("") else { return };
    fs::write(adt.here().join("look"), LOOK).expect("the folder is ours");
    adt.run("env:cp 1 look one:/srv/").ok();
    let control = std::process::Command::new("sh").args(["-c", LOOK]).output().expect("a shell starts");
    assert!(control.stdout.len() > 100, "the host's own root sees it");
    let tell = |(what, script): (_, &str)| {
        let script = format!("{WORDS} {{ {script}; }} 2>/dev/null; true");
        fs::write(adt.here().join("try"), script).expect("the folder is ours");
        adt.run("env:cp 1 try one:/srv/").ok();
        (what, adt.run("env:exec 1 one -- setpriv --reuid 65534 --regid 65534 --clear-groups sh /srv/try").ok().stdout)
    };
    let told: Vec<_> = SERVICE.into_iter().map(tell).filter(|(_, told)| !told.is_empty()).collect();
    assert!(told.is_empty(), "{told:#?}");
    // Its namespaces are not what it lacks.
    shell(&adt, "setpriv --reuid 65534 --regid 65534 --clear-groups unshare -Urm sh -c 'mount -t tmpfs none /mnt'").ok();
    end(&adt);
}

/// What root of a machine does, who may uncover and mount what it likes. `kept` tries all that is the host's own root's.
const ROOT: [(&str, &str); 13] = [
    ("as it is", "kept"),
    (
        "below the covers",
        "for m in kmsg kcore timer_list sysrq-trigger sys/kernel/core_pattern sys/kernel/printk; do umount -l /proc/$m; done; kept",
    ),
    ("in a fresh proc", "mount -t proc proc /mnt/p; kept; umount /mnt/p"),
    ("in a fresh proc of its own processes", "unshare -mpf sh -c 'mount -t proc proc /mnt/p; . /srv/words; kept'"),
    ("as root of a user's namespace", "unshare -Urmpf sh -c 'mount -t proc proc /mnt/p; . /srv/words; kept'"),
    ("with settings made writable", "mount -o remount,rw,bind /proc/sys; mount -o remount,rw /proc/sys; kept"),
    ("without the mount over settings", "umount -l /proc/sys; kept"),
    ("in init's namespaces", "nsenter -t 1 -a sh -c '. /srv/words; kept'"),
    ("as a service without limits", "systemd-run --quiet --pipe --wait sh -c '. /srv/words; kept'"),
    ("with device files", "mknod /mnt/kmsg c 1 11; mknod /mnt/mem c 1 1; head -c 1 /mnt/mem; kept"),
    ("with the kernel's own devices", "mount -t devtmpfs none /mnt/p && ls /mnt/p; kept"),
    (
        "with debug filesystems",
        "for kind in debugfs tracefs configfs pstore efivarfs; do mount -t $kind none /mnt/p && ls -A /mnt/p; done",
    ),
    ("with sysctl's own words", "for s in SETTINGS; do sysctl -w $(echo $s | tr / .)=1 | grep -v denied; done; kept"),
];

#[test]
fn root_of_a_machine_changes_nothing_of_the_host_and_reads_none_of_its_log() {
    KINDS.into_iter().for_each(keeps_its_roots_hands_off);
}

fn keeps_its_roots_hands_off(kind: &str) {
    let Some(adt) = one_machine(kind) else { return };
    let settings = SETTINGS.join(" ");
    let words = WORDS.replace("SETTINGS", &settings);
    fs::write(adt.here().join("words"), words).expect("the folder is ours");
    adt.run("env:cp 1 words one:/srv/").ok();
    shell(&adt, "mkdir -p /mnt/p").ok();
    let before = host_settings();
    let tell = |(what, script): (_, &str)| {
        let script = script.replace("SETTINGS", &settings);
        (what, shell(&adt, &format!(". /srv/words; {{ {script}; }} 2>/dev/null; true")).ok().stdout)
    };
    let told: Vec<_> = ROOT.into_iter().map(tell).filter(|(_, told)| !told.is_empty()).collect();
    assert!(told.is_empty(), "{told:#?}");
    assert_eq!(host_settings(), before);
    device_files(&adt);
    end(&adt);
}

/// As a box from elsewhere might have them.
fn device_files(adt: &Adt) {
    adt.run("env:halt 1").ok();
    let planted = adt.store().join("machines/tiny/1/one/upper/srv/null");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &planted,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .expect("root may");
    fs::set_permissions(&planted, PermissionsExt::from_mode(0o666)).expect("it is ours");
    assert!(fs::write(&planted, "x").is_ok(), "it is a device on the host");
    adt.run("env:up 1").ok();
    shell(adt, "test -c /srv/null && ! echo x >/srv/null").ok().says("Permission denied");
}

#[test]
fn what_services_need_of_a_kernel_is_there() {
    KINDS.into_iter().for_each(has_what_services_need);
}

fn has_what_services_need(kind: &str) {
    let Some(adt) = one_machine(kind) else { return };
    shell(&adt, "systemctl is-system-running --wait").ok().says("running");
    assert_eq!(shell(&adt, "systemctl list-units --failed --no-legend --plain").ok().stdout, "");
    // Says what it may not, and does not hang.
    let dmesg = shell(&adt, "dmesg");
    assert!(dmesg.code != 0 && dmesg.stdout.is_empty() && dmesg.stderr.contains("not permitted"), "{dmesg:?}");
    shell(&adt, "logger -t adt-test heard && journalctl --sync && journalctl -t adt-test -o cat").ok().says("heard");
    shell(&adt, "journalctl --dmesg --no-pager").says("-- No entries --");
    for words in [
        "ps -e -o comm | grep systemd",
        "free",
        "df /",
        "vmstat",
        "top -b -n 1 | grep load",
        "cat /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg /proc/self/mountinfo",
        "cat /proc/sys/vm/overcommit_memory /proc/sys/vm/max_map_count /proc/sys/kernel/pid_max /proc/sys/fs/file-max",
        "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start && sysctl -n net.ipv4.ip_unprivileged_port_start",
        // As systemd, a package's sandbox or an engine of containers puts programs apart.
        "unshare --mount --pid --ipc --uts --net --fork true",
        "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /mnt'",
        "unshare --mount --pid --fork --mount-proc sh -c 'test $(ls -d /proc/[0-9]* | wc -l) -lt 5'",
        "unshare --mount --net mount -t sysfs sysfs /mnt",
        "systemd-run --quiet --wait -p DynamicUser=yes -p ProtectSystem=strict -p PrivateDevices=yes true",
        "systemd-run --quiet --wait -p ProtectKernelLogs=yes -p ProtectKernelTunables=yes -p ProtectKernelModules=yes true",
        "systemd-run --quiet --wait -p ProtectProc=invisible -p ProtectControlGroups=yes -p PrivateNetwork=yes true",
        "systemd-run --quiet --wait -p SystemCallFilter=@system-service -p KeyringMode=private -p MemoryMax=64M true",
    ] {
        shell(&adt, words).ok();
    }
    let check = adt.run("host:check");
    assert!(check.stdout.contains("liblxc") && !check.stdout.contains("without a filter"), "{check:?}");
    let log = fs::read_to_string(adt.store().join("machines/tiny/1/one/lxc.log")).expect("it was started");
    assert!(!log.contains("seccomp"), "{log}");
    end(&adt);
}
