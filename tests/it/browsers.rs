//! Browsers are told of adt's authorities, or somebody is told why they were not. Pages in a real one are in `real_clients.rs`.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::adt::Adt;
use super::real_check::with_own_parts;
use super::servers::installed;

/// Whose home it is.
const ADA: u32 = 61_234;

/// A host of its own whose programs can be taken away, and the home of an ordinary person who calls.
fn host() -> Option<(Adt, PathBuf)> {
    if !installed(&["certutil", "update-ca-certificates"]) {
        return None;
    }
    let (adt, person) = with_own_parts(Adt::new().alone());
    std::fs::set_permissions(adt.path(), PermissionsExt::from_mode(0o711)).expect("the folder is ours");
    chown(&person, Some(ADA), Some(ADA)).expect("root may");
    let people = std::fs::read_to_string(adt.at("/etc/passwd")).expect("every host has it");
    let ada = format!("{people}ada:x:{ADA}:{ADA}::{}:/bin/sh\n", person.display());
    std::fs::write(adt.at("/etc/passwd"), ada).expect("it is a copy");
    let host = adt.host.as_ref().expect("it is alone");
    host.run("mkdir /mnt/bin /mnt/bin-work");
    host.run("mount -t overlay -o lowerdir=/usr/bin,upperdir=/mnt/bin,workdir=/mnt/bin-work overlay /usr/bin");
    host.run("find /usr/bin -name *chrom* -delete");
    host.run("find /usr/bin -name *firefox* -delete");
    Some((adt, person))
}

fn install(adt: &Adt, browser: &str) {
    let file = adt.at("/usr/bin").join(browser);
    std::fs::write(&file, "#!/bin/sh\n").expect("the folder is the test's own");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("it is ours");
}

/// What `host:check` has to say about a path, and the remedy.
fn check(adt: &Adt, subject: &Path) -> Option<(String, String)> {
    let list = adt.run("host:check --json").json();
    let items = list["items"].as_array().expect("a check has items").clone();
    let item = items.into_iter().find(|item| item["subject"] == subject.to_string_lossy().as_ref())?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some((word(&item["seen"]), word(&item["remedy"])))
}

/// What changes the trust of the person's browsers, by its own words.
fn certutil(adt: &Adt, person: &Path, words: &[&str]) -> String {
    let database = format!("sql:{}", person.join(".pki/nssdb").display());
    let mut command = adt.program_there("setpriv");
    command.args(["--reuid", &ADA.to_string(), "--clear-groups", "certutil", "-d", &database, "-f", "/dev/null"]).args(words);
    let output = command.output().expect("it is installed");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn where_nobody_can_tell_browsers_cause_and_remedy_are_said() {
    let Some((adt, person)) = host() else { return };
    adt.host.as_ref().expect("it is alone").run("mv /usr/bin/certutil /usr/bin/certutil-away");
    // No browser: nothing is missing.
    let quiet = adt.run("host:bind-proxy").ok();
    assert!(!quiet.stderr.contains("certutil"), "{}", quiet.stderr);
    assert!(!adt.run("host:bootstrap --dry-run").ok().stderr.contains("certutil"));
    install(&adt, "vivaldi");
    let browser = Path::new("/usr/bin/vivaldi");
    adt.run("host:bind-proxy")
        .ok()
        .says("in /usr/bin/vivaldi, because `certutil` is missing")
        .says("`apt install libnss3-tools`");
    adt.run("host:bootstrap --dry-run").ok().says("program certutil: not installed");
    let (seen, remedy) = check(&adt, browser).expect("it is named");
    assert!(seen.contains("without `certutil`") && remedy.contains("adt host:bootstrap"), "{seen} {remedy}");
    // What a browser left in a home is as good as a program.
    adt.host.as_ref().expect("it is alone").run("rm /usr/bin/vivaldi");
    std::fs::create_dir_all(person.join(".var/app/org.chromium.Chromium")).expect("the folder is ours");
    adt.run("host:bootstrap --dry-run").ok().says("program certutil: not installed");
    adt.host.as_ref().expect("it is alone").run("mv /usr/bin/certutil-away /usr/bin/certutil");
    let told = adt.run("host:bind-proxy").ok();
    assert!(!told.stderr.contains("certificate error") && person.join(".pki/nssdb/cert9.db").exists(), "{}", told.stderr);
    install(&adt, "vivaldi");
    let (seen, remedy) = check(&adt, browser).expect("it is named");
    assert!(seen.starts_with("told of adt's authority") && remedy.is_empty(), "{seen} {remedy}");
    // Whoever can't look does not forget where it was put.
    adt.host.as_ref().expect("it is alone").run("mv /usr/bin/certutil /usr/bin/certutil-away");
    adt.run("host:unbind-proxy").ok().says("may trust adt's authority still").says("apt-get install libnss3-tools");
    adt.host.as_ref().expect("it is alone").run("mv /usr/bin/certutil-away /usr/bin/certutil");
    adt.run("host:unbind-proxy").ok().says("the authority of example.test");
    assert!(!person.join(".pki").exists());
}

#[test]
fn a_check_names_the_person_whose_browser_does_not_trust() {
    let Some((adt, person)) = host() else { return };
    install(&adt, "chromium");
    adt.run("host:bind-proxy").ok();
    let store = person.join(".pki/nssdb");
    assert_eq!(check(&adt, &store), None);
    let owners: Vec<_> =
        walkdir::WalkDir::new(person.join(".pki")).into_iter().map(|entry| entry.expect("it is there")).collect();
    assert!(owners.iter().all(|entry| std::os::unix::fs::MetadataExt::uid(&entry.metadata().expect("there")) == ADA));
    // In the browser's own settings a person can take the trust away from what stays in the list.
    let listed = certutil(&adt, &person, &["-L"]);
    let line = listed.lines().find(|line| line.contains("adt local authority")).expect("it was told");
    let name = line.trim_end().strip_suffix("C,,").expect("it is trusted for servers").trim_end();
    certutil(&adt, &person, &["-M", "-n", name, "-t", ",,"]);
    let untold = "a browser of ada that was not told of adt's authority: pages show a certificate error";
    let expected = Some((untold.to_owned(), "adt host:bind-proxy".to_owned()));
    assert_eq!(check(&adt, &store), expected);
    adt.run("host:bind-proxy").ok();
    assert_eq!(check(&adt, &store), None);
    // A new home has no store yet, and its first page would be met with distrust. Another caller is told of it, too.
    std::fs::remove_dir_all(person.join(".pki")).expect("it is there");
    assert_eq!(check(&adt, &store), expected);
    let adt = adt.env("HOME", "/root");
    assert_eq!(check(&adt, &store), expected);
}

#[test]
fn a_store_that_refuses_is_told_with_its_reason() {
    let Some((adt, person)) = host() else { return };
    install(&adt, "chromium");
    std::fs::create_dir_all(person.join(".pki/nssdb")).expect("the folder is ours");
    for folder in [".pki", ".pki/nssdb"] {
        chown(person.join(folder), Some(ADA), Some(ADA)).expect("root may");
    }
    std::fs::write(person.join("word"), "a word that adt does not know\n").expect("the folder is ours");
    certutil(&adt, &person, &["-N", "-f", &person.join("word").display().to_string()]);
    let home = format!("browsers in {} do not trust adt's pages: could not change", person.display());
    adt.run("host:bind-proxy").ok().says(&home).says("SEC_ERROR");
    let (seen, _) = check(&adt, &person.join(".pki/nssdb")).expect("it is named");
    assert!(seen.contains("a browser of ada"), "{seen}");
}
