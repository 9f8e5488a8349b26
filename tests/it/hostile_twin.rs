//! Two installations of adt on one host. Each tries every way in which it might take the other's things away: what the other
//! put outside of its store stays, byte for byte.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::adt::{Adt, Run};
use super::real_check::with_own_parts;
use super::servers::installed;

/// Two stores on one host, which is nobody else's.
struct Twins {
    adt: Adt,
    other: PathBuf,
    person: PathBuf,
}

impl Twins {
    fn new() -> Self {
        let (adt, person) = with_own_parts(Adt::new().alone());
        let other = adt.path().join("other");
        Self { adt, other, person }
    }

    fn other(&self, words: &str) -> Run {
        self.adt.run(&format!("--store {} {words}", self.other.display()))
    }

    /// All that programs of this host may read of adt, but for what other programs make of it.
    fn outside(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        for folder in ["/etc", "/usr/local/share/ca-certificates"].map(|folder| self.adt.at(folder)) {
            for entry in walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| !entry.file_type().is_dir()) {
                // Made from the certificates by programs that never tidy up.
                if entry.path().to_string_lossy().contains("/ssl/certs/") {
                    continue;
                }
                let bytes = std::fs::read_link(entry.path()).map(|target| target.to_string_lossy().into_owned().into_bytes());
                let bytes = bytes.or_else(|_| std::fs::read(entry.path())).unwrap_or_default();
                all.insert(entry.path().to_owned(), bytes);
            }
        }
        all
    }

    /// What a browser of the person's trusts.
    fn browser(&self) -> String {
        let database = format!("sql:{}", self.person.join(".pki/nssdb").display());
        let output = self.adt.program_there("certutil").args(["-L", "-d", &database]).output().expect("it is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn install(&self, store: &Path) -> String {
        std::fs::read_to_string(self.adt.at(store).join("install")).expect("it was opened").trim().to_owned()
    }

    /// Links of the system's to a certificate of adt's, also those that lead nowhere.
    fn certificate_links(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.adt.at("/etc/ssl/certs")).expect("the system has certificates").flatten();
        let of_adt = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("adt-"));
        all.map(|entry| entry.path()).filter(of_adt).collect()
    }

    fn resolv_conf(&self) -> String {
        std::fs::read_to_string(self.adt.at("/etc/resolv.conf")).expect("it is there")
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.adt.at(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder is the test's own");
        std::fs::write(path, text).expect("the folder is the test's own");
    }
}

#[track_caller]
fn same(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>, what: &str) {
    let paths = before.keys().chain(after.keys());
    let changed: Vec<_> = paths.filter(|path| before.get(*path) != after.get(*path)).collect();
    assert!(changed.is_empty(), "`{what}` of the other installation changed {changed:?}");
}

#[test]
fn what_one_bound_no_verb_of_another_installation_takes_away() {
    if !installed(&["certutil", "update-ca-certificates"]) {
        return;
    }
    let twins = Twins::new();
    let nothing = twins.outside();
    twins.adt.run("host:bind-proxy").ok();
    let (bound, browser) = (twins.outside(), twins.browser());
    assert!(browser.contains(&twins.install(&twins.adt.store)), "{browser}");
    for attempt in [
        "host:unbind-proxy",
        "--domain example.test host:unbind-proxy",
        "host:halt",
        "host:bootstrap --remove",
        "host:bootstrap --remove --remove-pool",
        "host:unbind-proxy",
        "host:check",
        "host:bind-proxy",
        "--listen 127.0.53.2 host:bind-proxy",
    ] {
        twins.other(attempt);
        same(&bound, &twins.outside(), attempt);
        assert_eq!(twins.browser(), browser, "`{attempt}`");
    }
    let refused = twins.other("host:bind-proxy").fails(5);
    refused.says(&format!("the adt of the store `{}` has this domain here", twins.adt.store.display()));
    assert!(!twins.certificate_links().is_empty(), "the system finds the certificate by links");
    twins.adt.run("host:unbind-proxy").ok();
    assert_eq!(twins.certificate_links(), Vec::<PathBuf>::new());
    let left: Vec<_> =
        twins.outside().into_iter().filter(|(path, bytes)| nothing.get(path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn both_may_bind_and_each_takes_its_own_away() {
    if !installed(&["certutil", "update-ca-certificates"]) {
        return;
    }
    let twins = Twins::new();
    let other = |words: &str| twins.other(&format!("--domain other.test --listen 127.0.53.2 {words}"));
    let nothing = twins.outside();
    twins.adt.run("host:bind-proxy").ok();
    let (one, browser) = (twins.outside(), twins.browser());
    other("host:bind-proxy").ok();
    let both = twins.browser();
    assert!(both.contains("example.test") && both.contains("other.test"), "{both}");
    other("host:unbind-proxy").ok();
    same(&one, &twins.outside(), "host:unbind-proxy");
    assert_eq!(twins.browser(), browser);
    twins.adt.run("host:unbind-proxy").ok();
    same(&nothing, &twins.outside(), "host:unbind-proxy of both");
}

/// Whoever unbinds first: its lines go, the other's stay, and the last one brings back what was there before either came.
#[test]
fn each_takes_its_own_lines_out_of_a_resolv_conf() {
    if !installed(&["certutil", "update-ca-certificates"]) {
        return;
    }
    const BEFORE: &str = "# somebody's\nsearch lan\nnameserver 192.0.2.1\noptions rotate timeout:1\n";
    let twins = Twins::new();
    let other = |words: &str| twins.other(&format!("--domain other.test --listen 127.0.53.2 {words}"));
    let own = |words: &str| twins.adt.run(&format!("--listen 127.0.53.1 {words}"));
    let servers = || -> Vec<String> {
        twins.resolv_conf().lines().filter_map(|line| line.strip_prefix("nameserver ")).map(str::to_owned).collect()
    };
    for (is_link, first_leaves_first) in [(false, true), (true, true), (true, false)] {
        let path = twins.adt.at("/etc/resolv.conf");
        std::fs::remove_file(&path).expect("the copy is the test's own");
        if is_link {
            twins.put("/etc/adt-test-resolv", BEFORE);
            std::os::unix::fs::symlink("adt-test-resolv", &path).expect("the copy is the test's own");
        } else {
            twins.put("/etc/resolv.conf", BEFORE);
        }
        own("host:bind-proxy").ok();
        assert_eq!(servers(), ["127.0.53.1", "192.0.2.1"]);
        other("host:bind-proxy").ok();
        let both = twins.resolv_conf();
        assert_eq!(servers(), ["127.0.53.2", "127.0.53.1", "192.0.2.1"], "{both}");
        for store in [&twins.adt.store, &twins.other] {
            assert!(both.contains(&format!("adt --store {} host:unbind-proxy", store.display())), "{both}");
        }
        own("host:bind-proxy").ok();
        other("host:bind-proxy").ok();
        assert_eq!(twins.resolv_conf(), both, "bound once more, nothing changes");
        if first_leaves_first {
            own("host:unbind-proxy").ok();
            assert_eq!(servers(), ["127.0.53.2", "192.0.2.1"]);
            own("host:unbind-proxy").ok();
            assert_eq!(servers(), ["127.0.53.2", "192.0.2.1"]);
            other("host:unbind-proxy").ok();
        } else {
            other("host:unbind-proxy").ok();
            assert_eq!(servers(), ["127.0.53.1", "192.0.2.1"]);
            own("host:unbind-proxy").ok();
        }
        assert_eq!(twins.resolv_conf(), BEFORE, "link: {is_link}, first leaves first: {first_leaves_first}");
        assert_eq!(std::fs::read_link(&path).is_ok(), is_link, "first leaves first: {first_leaves_first}");
    }
}

#[test]
fn a_certificate_of_an_earlier_adt_is_taken_over_by_whose_key_it_has_and_by_nobody_else() {
    if !installed(&["certutil", "update-ca-certificates"]) {
        return;
    }
    let twins = Twins::new();
    twins.adt.run("host:bind-proxy").ok();
    let named = twins.adt.authority_file("example.test");
    let unnamed = twins.adt.at("/usr/local/share/ca-certificates/adt-example.test.crt");
    std::fs::rename(&named, &unnamed).expect("it was installed");
    twins.other("host:unbind-proxy").ok();
    assert!(unnamed.exists(), "another installation removed it");
    twins.adt.run("host:bind-proxy").ok();
    assert!(named.exists() && !unnamed.exists(), "its own does not take it over");
    std::fs::rename(&named, &unnamed).expect("it was installed");
    twins.adt.run("host:unbind-proxy").ok();
    assert!(!named.exists() && !unnamed.exists());
}

/// As `host:bootstrap` of either would have written them on hosts with systemd.
#[test]
fn a_unit_and_settings_of_another_store_stay() {
    let twins = Twins::new();
    twins.adt.run("platform:list").ok();
    twins.other("platform:list").ok();
    let (own, other) = (twins.install(&twins.adt.store), twins.install(&twins.other));
    let unit = |store: &Path| format!("[Service]\nExecStart=\"/usr/bin/adt\" \"--store\" \"{}\" \"host:up\"\n", store.display());
    twins.put("/etc/systemd/system/adt.service", &unit(&twins.adt.store));
    for install in [&own, &other] {
        twins.put(&format!("/etc/sysctl.d/60-adt-{install}.conf"), "kernel.pty.max = 4096\n");
        twins.put(&format!("/etc/modules-load.d/adt-{install}.conf"), "overlay\n");
    }
    twins.put("/etc/sysctl.d/60-adt.conf", "kernel.pty.max = 4096\n");
    let mut expected = twins.outside();
    expected.retain(|path, _| !path.to_string_lossy().contains(&other));
    twins.other("host:bootstrap --remove").ok().says("/etc/sysctl.d/60-adt.conf, maybe for another store");
    same(&expected, &twins.outside(), "host:bootstrap --remove");
    // A host that systemd runs.
    twins.adt.host.as_ref().expect("it is alone").run("mount -t tmpfs adt-test-run /run");
    twins.adt.host.as_ref().expect("it is alone").run("mkdir -p /run/systemd/system");
    twins.other("host:bootstrap").fails(5).says(&format!("it serves the store `{}`", twins.adt.store.display()));
    same(&expected, &twins.outside(), "host:bootstrap");
    twins.adt.host.as_ref().expect("it is alone").run("umount /run");
    twins.adt.run("host:bootstrap --remove").ok().says("removing adt.service");
    for path in ["/etc/systemd/system/adt.service", "/etc/sysctl.d/60-adt.conf"] {
        assert!(!twins.adt.at(path).exists(), "{path}");
    }
}

/// Tests write to copies: what they bind, and what a failed one leaves, is not this host's.
#[test]
fn a_test_s_host_has_its_own_settings_and_trust() {
    let adt = Adt::new().alone();
    for folder in ["/etc", "/usr/local/share/ca-certificates"] {
        let (real, own) = (std::fs::metadata(folder).expect("it is there"), std::fs::metadata(adt.at(folder)).expect("a copy"));
        assert_ne!((real.dev(), real.ino()), (own.dev(), own.ino()), "{folder}");
        assert_eq!(real.permissions().mode(), own.permissions().mode(), "{folder}");
        std::fs::write(adt.at(folder).join("adt-test-mark"), "").expect("it is the test's own");
        assert!(!Path::new(folder).join("adt-test-mark").exists(), "{folder}");
    }
}
