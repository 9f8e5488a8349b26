//! A machine that is a host itself: adt in it runs machines of its own, and what it does there stays there.

use std::collections::HashSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;
use std::process::Command;

use super::adt::{Adt, Run, built_boxes, program, take_box};

/// One server, and a machine of the usual kind beside it.
const RACK: &str = "[platform]
name = \"rack\"
summary = \"A server of its own\"
[machines.node]
box = \"adt-host\"
memory = \"4G\"
[machines.other]
box = \"debian\"
";

/// For the server's own adt, as a shell prints it.
const TINY: &str = "[platform]\\nname = \"tiny\"\\n[machines.one]\\nbox = \"debian\"\\n";

/// The environment `1` of the platform above, with this adt in its server.
fn rack() -> Option<Adt> {
    let adt = bare_rack()?;
    adt.run(&format!("env:cp 1 {} node:/usr/local/bin/adt", program())).ok();
    Some(adt)
}

/// The same without adt.
pub fn bare_rack() -> Option<Adt> {
    // Where all cores are busy, two machines in one need more than usual.
    let adt = Adt::real()?.alone().env("ADT_GRACE_SECONDS", "60");
    let folder = adt.platform_toml("rack", RACK);
    take_box(&folder, "adt-host");
    adt.run("platform:init rack").ok();
    adt.run("env:init 1").ok();
    // A program that was not built for release reads what it ships from the folder that it was built in.
    shell(&adt, "node", &format!("mkdir -p {}", env!("CARGO_MANIFEST_DIR"))).ok();
    for shipped in ["boxes", "platforms"] {
        adt.run(&format!("env:cp 1 {0}/{shipped} node:{0}/", env!("CARGO_MANIFEST_DIR"))).ok();
    }
    Some(adt)
}

/// A shell's words as root of one of its machines.
pub fn shell(adt: &Adt, machine: &str, script: &str) -> Run {
    let output = adt.command(&["env:exec", "1", machine, "--", "sh", "-c", script]).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    Run { words: script.to_owned(), code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The boxes of `hello`, as they are on this host, so that nothing is built in there: their owners have the same numbers in the
/// server, and what hides the layers below is marked as an overlay in a user namespace looks for it.
pub fn give_layers(adt: &Adt) {
    let (from, to) = (built_boxes().join("layers"), own_folder(adt).join("layers"));
    std::fs::create_dir(&to).expect("the folder is empty");
    lchown(&to, Some(ROOT), Some(ROOT)).expect("it is ours");
    for entry in std::fs::read_dir(&from).expect("boxes were built").flatten() {
        let text = std::fs::read_to_string(entry.path().join("layer.json")).unwrap_or_default();
        let layer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let known = ["base-bookworm", "debian", "web-php", "mariadb", "hello-web", "hello-db"];
        if known.contains(&layer["name"].as_str().unwrap_or_default()) {
            give(&entry.path(), &to.join(entry.file_name()));
        }
    }
}

/// Whose files in a machine's store are its root's.
const ROOT: u32 = 100_000;

fn give(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["--archive", "--reflink=auto"]).arg(from).arg(to).status().expect("cp starts");
    assert!(status.success());
    let mut given = HashSet::new();
    for entry in walkdir::WalkDir::new(to) {
        let entry = entry.expect("it was just made");
        let (path, meta) = (entry.path(), entry.metadata().expect("it was just made"));
        // A file with several names is met at each of them.
        if !given.insert(meta.ino()) {
            continue;
        }
        lchown(path, Some(meta.uid() + ROOT), Some(meta.gid() + ROOT)).expect("root may");
        // Changing the owner clears the set-id bits.
        if meta.is_file() && meta.mode() & 0o6000 != 0 {
            std::fs::set_permissions(path, PermissionsExt::from_mode(meta.mode() & 0o7777)).expect("root may");
        }
        if meta.is_dir() && xattr::get(path, "trusted.overlay.opaque").expect("root may").is_some() {
            xattr::set(path, "user.overlay.opaque", b"y").expect("root may");
        }
    }
}

/// Where the server's `/var/lib/adt` is on this host.
fn own_folder(adt: &Adt) -> std::path::PathBuf {
    let volumes = adt.store().join("machines/rack/1/.volumes/node");
    let mut found = std::fs::read_dir(volumes).expect("it has a volume").flatten();
    found.next().expect("one").path().join("upper")
}

pub fn end(adt: &Adt) {
    adt.run("platform:destroy rack --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// What there is of adt's in the server's kernel: links, and control groups of machines.
pub const COUNT: &str = "ls /sys/class/net | grep -c ^adt
    find /sys/fs/cgroup -mindepth 3 -maxdepth 4 -type d -path '*/adt/*' -not -path '*/adt/pivot*' | wc -l";

#[test]
fn adt_in_a_machine_runs_machines_of_its_own() {
    let Some(adt) = rack() else { return };
    give_layers(&adt);
    let node = |script: &str| shell(&adt, "node", script);
    node("systemctl is-system-running --wait").ok().says("running");
    node("adt host:bootstrap").ok();
    node("adt host:check").ok().says("this host is a machine itself").says("only the real host can make a pool");
    node("adt host:bootstrap --pool 1G").fails(5).says("mounts no file as a disk");
    node("cd /root && adt platform:init hello").ok();
    node("adt platform:build hello").ok().says("nothing to build");
    node("adt env:init 1").ok();
    node("adt host:bind-proxy && adt host:up --detach").ok();
    node("adt env:check 1").ok();
    node("curl --silent --fail https://www.1.hello.example.test/").ok().says("Guest book of 1");
    node("adt env:halt 1 && adt env:up 1 && adt env:check 1").ok();
    assert!(!node(COUNT).stdout.starts_with("0\n0"), "the count itself is broken");
    node("adt env:destroy 1 --yes").ok();
    assert_eq!(node(COUNT).stdout, "0\n0\n");
    // A machine in a machine is no host once more.
    node(&format!("mkdir /root/tiny && printf '{TINY}host = true\\n' >/root/tiny/platform.toml && adt platform:init /root/tiny"))
        .ok();
    node("! adt env:init tiny 1").ok().says("can't be hosts once more");
    // Of one pool, those in it get what its own network leaves.
    let network = adt.run("env:show 1 --json").ok().json()["network"].as_str().expect("a network").to_owned();
    let pool = network.replace("/26", "/24");
    node(&format!("adt --pool-v4 {pool} env:init hello 2")).ok();
    let inner = node("adt env:show hello 2 --json").ok().json()["network"].as_str().expect("a network").to_owned();
    assert_eq!(inner, network.replace(".0/26", ".64/26"));
    // With machines that run in it, it leaves as little as any other.
    end(&adt);
}

#[test]
fn a_server_that_goes_down_halts_its_environments_before() {
    let Some(adt) = rack() else { return };
    give_layers(&adt);
    let node = |script: &str| shell(&adt, "node", script);
    node("adt host:bootstrap").ok();
    node(&format!("mkdir /root/tiny && printf '{TINY}' >/root/tiny/platform.toml && adt platform:init /root/tiny")).ok();
    node("adt env:init 1 && adt env:init 2 && adt env:halt 2").ok();
    node("adt env:exec 1 one -- systemd-run --quiet -p RemainAfterExit=yes -p 'ExecStop=touch /root/farewell' true").ok();
    node("mkdir -p /etc/adt && echo 'bring_back = false' >/etc/adt/adt.toml").ok();
    adt.run("env:halt 1").ok();
    adt.run("env:up 1").ok();
    node("adt env:list --json").ok().says("\"down\"");
    node("adt platform:up tiny && adt env:exec 1 one -- rm /root/farewell").ok();
    // What nobody decided otherwise.
    node("rm /etc/adt/adt.toml").ok();
    adt.run("env:halt 1").ok();
    adt.run("env:up 1").ok();
    node("systemctl is-system-running --wait").ok().says("running");
    let list = node("adt env:list --json").ok().json();
    let states: Vec<_> = list.as_array().expect("a list").iter().map(|one| one["state"].as_str().unwrap_or_default()).collect();
    assert_eq!(states, ["up", "halted"], "{list:#}");
    end(&adt);
}

/// Whose ids a machine has in the kernel: the first, and how many.
fn ids(adt: &Adt, machine: &str) -> (u64, u64) {
    // Inside of its own ids a process sees where they lie in those around.
    let map = shell(adt, machine, "cat /proc/self/uid_map").ok().stdout;
    let numbers: Vec<u64> = map.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    assert_eq!((numbers.len(), numbers[0]), (3, 0), "{map}");
    (numbers[1], numbers[2])
}

#[test]
fn root_of_a_server_has_no_way_out_of_it() {
    let Some(adt) = rack() else { return };
    let node = |script: &str| shell(&adt, "node", script);
    // Ids: more than another machine has, and none of its.
    let ((node_first, node_count), (other_first, other_count)) = (ids(&adt, "node"), ids(&adt, "other"));
    assert_eq!((node_count, other_count), (3 * 65_536, 65_536));
    assert!(node_first + node_count <= other_first || other_first + other_count <= node_first);
    node("touch /root/file && chown 196607:196607 /root/file && ! chown 196608 /root/file").ok();
    // What lies beside its folder in the store.
    std::fs::write(adt.store().join("secret"), "the real host's").expect("the store is ours");
    let own = own_folder(&adt);
    std::fs::write(own.parent().expect("a volume").join("secret"), "the real host's").expect("the store is ours");
    node("touch /var/lib/adt/mine && ! ls /var/lib/adt/../secret /var/lib/adt/../../secret").ok();
    assert!(own.join("mine").exists(), "the folder is another one");
    node("! find / -xdev -name secret | grep . && ! find /var/lib/adt /run /dev -name secret | grep .").ok();
    node("mkdir -p /mnt/up && mount --bind /var/lib/adt /mnt/up && ! test -e /mnt/up/../secret && umount /mnt/up").ok();
    // The host's disks, and every device but the two that it was given.
    node("! mknod /root/disk b 254 0 && ! mknod /root/mem c 1 1 && test -z \"$(find /dev -type b)\"").ok();
    node("exec 3<>/dev/net/tun 4<>/dev/fuse").ok();
    node("for kind in ext4 xfs btrfs; do mount -t $kind /dev/vda /mnt && exit 1; done; true").ok();
    // Its limits, the neighbour's, and the copies of proc and sys that its machines need.
    let limit = || adt.limit("rack/1", "node", ["memory.limit_in_bytes", "memory.max"]);
    assert_eq!(limit(), (4_u64 << 30).to_string());
    node("for file in $(find /sys/fs/cgroup -maxdepth 2 '(' -name memory.limit_in_bytes -o -name memory.max ')'); do echo 1T >$file; done; true").ok();
    assert_eq!(limit(), (4_u64 << 30).to_string());
    node("test \"$(cat /proc/[0-9]*/cgroup /dev/.lxc/proc/[0-9]*/cgroup | grep -c other)\" = 0").ok();
    node("! echo h >/dev/.lxc/proc/sysrq-trigger && ! echo 1 >/dev/.lxc/proc/sys/kernel/printk").ok();
    node("! setpriv --reuid 65534 --clear-groups ls /dev/.lxc/proc").ok();
    end(&adt);
}

const SERVER: &str = "[platform]
name = \"rack\"
summary = \"A server as it is rented\"
[machines.node]
box = \"server\"
";

const USER_DATA: &str = "#cloud-config
users:
  - name: ada
    sudo: ALL=(ALL) NOPASSWD:ALL
    shell: /bin/bash
    ssh_authorized_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHcnhqKx8aCXGfT0cGwDqVHqzNlS0aNU4hoxV7NUCOb1 ada]
write_files:
  - path: /etc/told
    content: by its vendor
runcmd: [[touch, /root/ran]]
";

#[test]
fn a_server_is_set_up_by_cloud_init_as_a_rented_one() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    let folder = adt.platform_toml("rack", SERVER);
    let seed = folder.join("files/node/var/lib/cloud/seed/nocloud");
    std::fs::create_dir_all(&seed).expect("the folder is ours");
    std::fs::write(seed.join("meta-data"), "instance-id: first\nlocal-hostname: node\n").expect("the folder is ours");
    std::fs::write(seed.join("user-data"), USER_DATA).expect("the folder is ours");
    adt.run("platform:init rack").ok();
    adt.run("env:init 1").ok();
    shell(&adt, "node", "cloud-init status --wait").ok().says("status: done");
    shell(&adt, "node", "grep -q 'by its vendor' /etc/told && test -e /root/ran && grep -q ada /home/ada/.ssh/authorized_keys")
        .ok();
    shell(&adt, "node", "su ada -c 'sudo -n id -u'").ok().says("0");
    shell(&adt, "node", "systemctl is-system-running --wait").ok().says("running");
    shell(&adt, "node", "test -s /etc/ssh/ssh_host_ed25519_key.pub && systemctl is-active ssh").ok();
    end(&adt);
}
