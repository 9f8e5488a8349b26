//! Disks of hosts as most people have them: Debian with its own kernel, AppArmor, control groups v2 and systemd as process 1. Made
//! once of the packages that this host's apt offers, and kept in a folder of their own. What `host:bootstrap` installs is not
//! among them: it lies in apt's cache, since the host that starts from a disk has no network.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use adt::boxes::apt;
use rustix::fs::{FlockOperation, flock};

/// Raised when what is on the disks changes.
const VERSION: &str = "1";

/// What every one has. `apparmor` is left out: a kernel that has it on and a host without its programs is what a server often is.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libpam-systemd,udev,linux-image-cloud-amd64,initramfs-tools,openssh-server,\
    iproute2,nftables,procps,ca-certificates,curl,kmod,less,sudo,zstd,xz-utils,git,mmdebstrap,debian-archive-keyring";

/// What `host:bootstrap` will install: what few hosts have. All that it could would take minutes under emulation.
const IN_THE_CACHE: &str = "apparmor liblxc-common";

/// One of the usual ways to make a Debian host.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub suite: &'static str,
    /// Who looks after its network and its names.
    pub network: Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// systemd-networkd with systemd-resolved.
    Systemd,
    /// NetworkManager, which writes `/etc/resolv.conf`.
    Manager,
}

impl Network {
    fn packages(self) -> &'static str {
        match self {
            Self::Systemd => "systemd-resolved",
            Self::Manager => "network-manager",
        }
    }

    fn units(self) -> &'static [&'static str] {
        match self {
            Self::Systemd => &["systemd-networkd", "systemd-resolved"],
            Self::Manager => &["NetworkManager"],
        }
    }
}

/// What QEMU starts from, and the key that opens root's door.
pub struct Image {
    pub folder: PathBuf,
}

impl Image {
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }

    pub fn key(&self) -> PathBuf {
        self.folder.join("key")
    }
}

/// The disk of this kind, made where there is none yet.
pub fn of(kind: Kind) -> Image {
    let all = std::env::var_os("ADT_TEST_HOSTS").map_or_else(|| "/var/tmp/adt-test-hosts".into(), PathBuf::from);
    fs::create_dir_all(&all).expect("/var/tmp takes a folder");
    let lock = File::create(all.join(format!("{}.lock", kind.suite))).expect("a file in it");
    flock(&lock, FlockOperation::LockExclusive).expect("an open file can be locked");
    let image = Image { folder: all.join(kind.suite) };
    let made_by = image.folder.join("made-by");
    if fs::read_to_string(&made_by).ok().as_deref() != Some(VERSION) {
        let _ = fs::remove_dir_all(&image.folder);
        fs::create_dir(&image.folder).expect("the folder is ours");
        make(kind, &image);
        fs::write(&made_by, VERSION).expect("the folder is ours");
    }
    image
}

fn make(kind: Kind, image: &Image) {
    let root = image.folder.join("root");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(image.key()));
    install(kind, image, &root);
    settle(kind, image, &root);
    for (name, place) in [("vmlinuz", image.kernel()), ("initrd.img", image.initrd())] {
        let found = fs::read_dir(root.join("boot")).expect("a kernel was installed").flatten();
        let mut found = found.filter(|entry| entry.file_name().to_string_lossy().starts_with(name));
        fs::copy(found.next().expect("a kernel was installed").path(), place).expect("the folder is ours");
    }
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F", "-d"]).arg(&root).arg(image.disk()).arg("8G"));
    fs::remove_dir_all(root).expect("nothing is mounted in it");
}

fn install(kind: Kind, image: &Image, root: &Path) {
    let lists = Path::new("/var/lib/apt/lists");
    let sources = apt::host_sources(Path::new("/etc/apt"));
    let sources = apt::inherited(&sources, kind.suite, &|source| apt::origin(lists, source));
    let file = image.folder.join("host.sources");
    fs::write(&file, apt::to_deb822(&sources)).expect("the folder is ours");
    let mut command = Command::new("mmdebstrap");
    // Lists and packages stay: they are all that this host will ever see of an archive.
    command.args(["--mode=root", "--format=directory", "--variant=minbase", "--skip=download/empty,cleanup/apt"]);
    command.arg(format!("--include={PACKAGES},{}", kind.network.packages()));
    command.arg("--aptopt=Acquire::Languages \"none\"");
    let settings = apt::host_settings();
    for line in settings.transport.iter().chain(&settings.archive) {
        command.arg(format!("--aptopt={}", line.trim_end_matches(';')));
    }
    // By this host's apt, which finds the archive: in there nothing says where name servers are.
    let later = format!(
        "--customize-hook=export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" && apt-get clean && apt-get install --yes --quiet \
         --download-only --no-install-recommends {IN_THE_CACHE}"
    );
    command.arg(later).arg(kind.suite).arg(root);
    if !sources.is_empty() {
        command.arg(&file);
    }
    run(&mut command);
}

/// What the installer of a host asks for, or its owner.
fn settle(kind: Kind, image: &Image, root: &Path) {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("the folder is ours");
        fs::write(&path, text).expect("the folder is ours");
    };
    let key = fs::read_to_string(image.key().with_extension("pub")).expect("it was made");
    write("root/.ssh/authorized_keys", &key);
    write("etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n/dev/vdb /mnt ext4 ro,nofail 0 0\n");
    write("etc/hostname", "usual\n");
    write("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 usual\n::1 localhost\n");
    // QEMU names no name server where it lets nobody out.
    write("etc/systemd/network/80-dhcp.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nDNS=10.0.2.3\n");
    if kind.network == Network::Manager {
        let path = "etc/NetworkManager/system-connections/eth0.nmconnection";
        write(
            path,
            "[connection]\nid=eth0\ntype=ethernet\ninterface-name=eth0\n[ipv4]\nmethod=auto\ndns=10.0.2.3\n[ipv6]\nmethod=disabled\n",
        );
        fs::set_permissions(root.join(path), PermissionsExt::from_mode(0o600)).expect("it was just written");
    }
    // To hash all of them anew takes minutes under emulation.
    write("etc/ca-certificates.conf", "mozilla/ISRG_Root_X1.crt\n");
    // Refused at once, where it would wait for answers that never come; and nothing of this host's ways to its archive.
    let _ = fs::remove_file(root.join("etc/apt/apt.conf.d/99mmdebstrap"));
    write(
        "etc/apt/apt.conf.d/90no-network",
        "Acquire::http::Proxy \"http://127.0.0.1:9\";\nAcquire::https::Proxy \"http://127.0.0.1:9\";\n",
    );
    write("etc/machine-id", "");
    let units = kind.network.units();
    run(Command::new("systemctl").arg("--quiet").arg(format!("--root={}", root.display())).arg("enable").args(units).arg("ssh"));
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; `make test` installs what tests need"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
