//! Certificates as OpenSSL and NSS see them, and what crashes and time do to them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use adt::model::{Domain, Routes};
use adt::tls::{Authority, Certificates, Clock, Error, Own, RENEW_AFTER, system_clock};
use adt::trust::{Change, Home, Owner, System, databases};
use rcgen::{CertificateParams, Issuer, KeyPair};

use crate::adt::Adt;
use crate::proxy::{HOST, routes};
use crate::real_check::with_own_parts;
use crate::servers::installed;

fn owner() -> Owner<'static> {
    Owner { install: "me", store: std::path::Path::new("/var/lib/adt"), is_own: &|_, _| false }
}
const DAY: Duration = Duration::from_secs(86_400);

/// A clock that stands until it is moved.
fn clock() -> (Arc<Mutex<SystemTime>>, Clock) {
    let time = Arc::new(Mutex::new(SystemTime::now()));
    let told = time.clone();
    (time, Arc::new(move || *told.lock().unwrap()))
}

struct World {
    folder: tempfile::TempDir,
    certificates: Certificates,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(folder.path(), &routes(&[]), system_clock()).unwrap();
    World { folder, certificates }
}

impl World {
    fn authority(&self) -> PathBuf {
        self.folder.path().join("tls/authority/example.test.pem")
    }

    fn leaf(&self, level: &str) -> PathBuf {
        self.folder.path().join(format!("tls/leaf/{level}.pem"))
    }
}

/// What `openssl verify` says about a certificate for a name.
fn verify(authority: &Path, leaf: &Path, name: &str) -> Result<(), String> {
    let mut command = Command::new("openssl");
    command.args(["verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name, "-CAfile"]);
    let output = command.arg(authority).arg(leaf).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn every_level_has_a_certificate_that_openssl_accepts() {
    let world = world();
    for (name, level) in [
        ("example.test", "example.test"),
        ("shop.example.test", "example.test"),
        ("1161.shop.example.test", "shop.example.test"),
        (HOST, "1161.shop.example.test"),
        ("new.1161.shop.example.test", "1161.shop.example.test"),
        ("any.www.1161.shop.example.test", HOST),
    ] {
        world.certificates.certificate(Some(name)).unwrap();
        assert_eq!(verify(&world.authority(), &world.leaf(level), name), Ok(()), "{name}");
    }
    // The name above its wildcard is in it as well.
    assert_eq!(verify(&world.authority(), &world.leaf(HOST), HOST), Ok(()));
}

#[test]
fn names_that_do_not_exist_make_no_certificate() {
    let world = world();
    let default = world.certificates.certificate(None).unwrap();
    for name in
        ["example.com", "a.b.c.d.example.test", "x.9999.shop.example.test", "x.y.www.1161.shop.example.test", "..", "../../etc"]
    {
        let given = world.certificates.certificate(Some(name)).unwrap();
        assert_eq!(given.cert, default.cert, "{name}");
    }
    let count = std::fs::read_dir(world.folder.path().join("tls/leaf")).unwrap().count();
    assert_eq!(count, 1);
}

#[test]
fn an_authority_can_sign_for_nobody_else() {
    let world = world();
    let key = std::fs::read_to_string(world.authority().with_extension("key")).unwrap();
    let pem = std::fs::read_to_string(world.authority()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&key).unwrap()).unwrap();
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(world.authority()).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("X509v3 Name Constraints: critical"), "{text}");
    for (name, accepted) in [("a.example.test", true), ("bank.com", false), ("evil-example.test", false), ("192.0.2.1", false)] {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        parameters.use_authority_key_identifier_extension = true;
        let leaf = world.folder.path().join("stolen.pem");
        let signed = parameters.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        std::fs::write(&leaf, signed.pem()).unwrap();
        let mut command = Command::new("openssl");
        let output = command.args(["verify", "-CAfile"]).arg(world.authority()).arg(&leaf).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), accepted, "{name}: {said}");
        assert!(accepted || said.contains("subtree violation"), "{name}: {said}");
    }
}

#[test]
fn a_second_domain_gets_an_authority_and_the_first_keeps_its_own() {
    let world = world();
    let before = std::fs::read_to_string(world.authority()).unwrap();
    let mut wider: Routes = routes(&[]);
    wider.platforms[1].domain = Domain::new("shop.example.org").unwrap();
    world.certificates.update(&wider).unwrap();
    let domains: Vec<_> = world.certificates.authorities().iter().map(|authority| authority.domain.to_string()).collect();
    assert_eq!(domains, ["example.test", "shop.example.org"]);
    assert_eq!(std::fs::read_to_string(world.authority()).unwrap(), before);
}

#[test]
fn leaves_are_renewed_after_two_thirds_and_kept_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let (time, told) = clock();
    let open = || Certificates::open(folder.path(), &routes(&[]), told.clone()).unwrap();
    let certificates = open();
    let of = |certificates: &Certificates| certificates.certificate(Some(HOST)).unwrap().cert.clone();
    let first = of(&certificates);
    *time.lock().unwrap() += RENEW_AFTER - DAY;
    assert_eq!(of(&certificates), first);
    assert_eq!(of(&open()), first, "another process reads it from disk");
    *time.lock().unwrap() += DAY;
    let second = of(&certificates);
    assert_ne!(second, first);
    assert_eq!(of(&open()), second);
    // Years later the authority itself is made again, with the key that is trusted.
    *time.lock().unwrap() += DAY * 365 * 10;
    let later = open();
    let leaf = of(&later);
    let authority = later.authorities()[0].clone();
    assert_eq!(authority.path, folder.path().join("tls/authority/example.test.pem"));
    assert_ne!(leaf, second);
}

#[test]
fn only_root_reads_the_keys() {
    let world = world();
    world.certificates.certificate(Some(HOST)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let tls = world.folder.path().join("tls");
    for entry in walkdir::WalkDir::new(&tls).into_iter().flatten() {
        let expected = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(entry.path()), expected, "{}", entry.path().display());
    }
}

#[test]
fn what_a_crash_left_of_an_authority_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    let domain = Domain::new("example.test").unwrap();
    let open = || Authority::open(folder.path(), &domain, SystemTime::now()).unwrap();
    let pem = folder.path().join("authority/example.test.pem");
    let key = pem.with_extension("key");
    open();
    let first = std::fs::read(&key).unwrap();
    std::fs::remove_file(&pem).unwrap();
    let after = open();
    assert_eq!(std::fs::read(&key).unwrap(), first, "between key and certificate: the key stays");
    assert_eq!(std::fs::read_to_string(&pem).unwrap(), after.pem);
    std::fs::write(&key, "").unwrap();
    let after = open();
    assert_ne!(std::fs::read(&key).unwrap(), first);
    assert_eq!(std::fs::read_to_string(&pem).unwrap(), after.pem);
    assert_eq!(open().pem, after.pem, "and then it is stable");
    // A leaf of the authority before is not given out.
    let certificates = Certificates::open(folder.path(), &routes(&[]), system_clock()).unwrap();
    let old = certificates.certificate(Some(HOST)).unwrap().cert.clone();
    std::fs::remove_dir_all(folder.path().join("tls/authority")).unwrap();
    let certificates = Certificates::open(folder.path(), &routes(&[]), system_clock()).unwrap();
    assert_ne!(certificates.certificate(Some(HOST)).unwrap().cert, old);
}

#[test]
fn two_processes_that_start_at_once_share_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let domain = Domain::new("example.test").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Authority::open(folder.path(), &domain, SystemTime::now()).unwrap());
        }
    });
    let certificates = Certificates::open(folder.path(), &routes(&[]), system_clock()).unwrap();
    assert_eq!(certificates.authorities().len(), 1);
}

#[test]
fn a_certificate_that_people_bring_goes_first_and_is_checked() {
    let world = world();
    let domain = Domain::new("example.test").unwrap();
    let make = |names: &[&str]| {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (pem, key) = make(&["*.1161.shop.example.test"]);
    let (foreign, foreign_key) = make(&["bank.com"]);
    let now = SystemTime::now();
    assert!(Own::check(&pem, &foreign_key, &domain, now).unwrap_err().contains("another certificate"));
    assert!(Own::check(&foreign, &foreign_key, &domain, now).unwrap_err().contains("bank.com"));
    assert!(Own::check("", &key, &domain, now).unwrap_err().contains("no certificate"));
    assert!(Own::check(&pem, &key, &domain, now + DAY * 365 * 5000).unwrap_err().contains("ended"));
    let own = world.folder.path().join("tls/own");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("example.test.pem"), &pem).unwrap();
    assert!(matches!(world.certificates.update(&routes(&[])), Err(Error::Own { .. })), "its key is missing");
    std::fs::write(own.join("example.test.key"), &key).unwrap();
    world.certificates.update(&routes(&[])).unwrap();
    let given = |name| world.certificates.certificate(Some(name)).unwrap();
    assert_eq!(given(HOST).cert, given("api.1161.shop.example.test").cert);
    assert!(!world.leaf("1161.shop.example.test").exists(), "ours was not needed");
    assert_ne!(given("shop.example.test").cert, given(HOST).cert);
}

#[test]
fn the_systems_store_is_changed_once_and_back() {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let folder = tempfile::tempdir().unwrap();
    let note = folder.path().join("note");
    let refresh = adt::exec::Command::new("sh").args(["-c".to_owned(), format!("echo run >> '{}'", note.display())]);
    let system = System { folder: folder.path().to_owned(), refresh };
    let domain = Domain::new("example.test").unwrap();
    assert_eq!(system.install(owner(), &domain, "one").unwrap(), Change::Made);
    assert_eq!(system.install(owner(), &domain, "one").unwrap(), Change::Nothing);
    assert!(system.trusts(owner(), &domain, "one"));
    let mode = std::fs::metadata(folder.path().join("adt-me-example.test.crt")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    assert_eq!(system.remove(owner(), &domain).unwrap(), Change::Made);
    assert_eq!(system.remove(owner(), &domain).unwrap(), Change::Nothing);
    RUNS.store(std::fs::read_to_string(&note).unwrap().lines().count() as u64, Ordering::Relaxed);
    assert_eq!(RUNS.load(Ordering::Relaxed), 2);
    let failing = System { refresh: adt::exec::Command::new("false"), ..system };
    failing.install(owner(), &domain, "one").unwrap_err();
    assert!(!failing.trusts(owner(), &domain, "one"), "the next call tries again");
}

#[test]
fn unbinding_finds_what_another_user_bound_for_a_domain_that_is_gone() {
    if !installed(&["certutil", "update-ca-certificates"]) {
        return;
    }
    let (adt, ada) = with_own_parts(Adt::new().alone());
    let eve = adt.path().join("eve");
    std::fs::create_dir(&eve).unwrap();
    let bundle = |adt: &Adt| std::fs::read(adt.at("/etc/ssl/certs/ca-certificates.crt")).unwrap();
    let before = bundle(&adt);
    adt.run("--domain old.test host:bind-proxy").ok().says("its certificates are trusted");
    let trusted = |adt: &Adt, domain: &str| adt.authority_file(domain).exists();
    assert!(trusted(&adt, "old.test") && bundle(&adt) != before && ada.join(".pki/nssdb/cert9.db").exists());
    let adt = adt.env("HOME", &eve.display().to_string());
    adt.run("host:bind-proxy").ok();
    assert!(trusted(&adt, "example.test") && eve.join(".pki/nssdb/cert9.db").exists());
    // Whoever goes takes their browsers along.
    std::fs::remove_dir_all(&eve).unwrap();
    adt.run("host:unbind-proxy").ok().says("the authority of old.test").says("the authority of example.test");
    assert!(!trusted(&adt, "old.test") && !trusted(&adt, "example.test") && bundle(&adt) == before);
    assert!(!ada.join(".pki").exists(), "her browsers trust it still");
    assert!(!adt.store().join("trusted.json").exists());
    adt.run("host:unbind-proxy").ok().says("nothing of adt's was there");
}

#[test]
fn browsers_trust_the_authority_and_forget_it_without_a_trace() {
    if Command::new("certutil").arg("-H").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "certutil is missing: apt-get install libnss3-tools");
        return eprintln!("SKIPPED: certutil is missing: apt-get install libnss3-tools");
    }
    let world = world();
    let pem = std::fs::read_to_string(world.authority()).unwrap();
    let domain = Domain::new("example.test").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join(".config/mozilla/firefox/abc.default");
    std::fs::create_dir_all(&profile).unwrap();
    let new = Command::new("certutil")
        .args(["-N", "--empty-password", "-d"])
        .arg(format!("sql:{}", profile.display()))
        .status()
        .unwrap();
    assert!(new.success());
    let home = Home::open(folder.path()).unwrap();
    assert_eq!(home.install(owner(), &domain, &pem).unwrap(), Change::Made);
    assert_eq!(home.install(owner(), &domain, &pem).unwrap(), Change::Nothing);
    let all = databases(folder.path());
    assert_eq!(all, [folder.path().join(".pki/nssdb"), profile.clone()]);
    world.certificates.certificate(Some(HOST)).unwrap();
    for database in &all {
        let listed = Command::new("certutil").args(["-L", "-d"]).arg(format!("sql:{}", database.display())).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("adt local authority for example.test"));
    }
    // The authority is made anew: one certificate, the new one.
    let other = self::world();
    let newer = std::fs::read_to_string(other.authority()).unwrap();
    assert_eq!(home.install(owner(), &domain, &newer).unwrap(), Change::Made);
    assert_eq!(home.remove(owner(), &domain).unwrap(), Change::Made);
    assert_eq!(home.remove(owner(), &domain).unwrap(), Change::Nothing);
    assert!(!folder.path().join(".pki").exists(), "what was made is gone");
    assert_eq!(databases(folder.path()), [profile], "what was there stays");
}
