//! One environment with names, certificates and proxy as its users have them; then one part after another breaks, and the
//! check names exactly that step and what helps.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::adt::{Adt, Run};
use super::servers::until;

const HOST: &str = "www.1161.hello.example.test";
pub const LISTEN: &str = "127.0.53.1";

/// A host with a resolver, a trust and a person of its own.
pub fn host() -> Option<(Adt, PathBuf)> {
    Some(with_own_parts(Adt::real()?.alone()))
}

pub fn with_own_parts(adt: Adt) -> (Adt, PathBuf) {
    let host = adt.host.as_ref().expect("it is alone");
    let person = adt.path().join("person");
    std::fs::create_dir(&person).expect("the home is new");
    host.run("mount -t tmpfs none /mnt");
    for (name, folder) in [("etc", "/etc"), ("trust", "/usr/local/share/ca-certificates")] {
        host.run(&format!("mkdir /mnt/{name} /mnt/{name}-work"));
        let layers = format!("lowerdir={folder},upperdir=/mnt/{name},workdir=/mnt/{name}-work");
        host.run(&format!("mount -t overlay -o {layers} overlay {folder}"));
    }
    // A server that is there, but not adt's, so that nobody waits for an answer from far away.
    std::fs::write(adt.at("/etc/resolv.conf"), "nameserver 127.0.0.9\n").expect("the folder is the test's own");
    let home = person.display().to_string();
    (adt.env("HOME", &home).env("ADT_LISTEN", LISTEN), person)
}

/// What is not as it should be: step, subject, remedy.
fn wrong(run: &Run) -> Vec<[String; 3]> {
    let list = run.json();
    let items = list["items"].as_array().expect("a check has items");
    let word = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let others = items.iter().filter(|item| item["verdict"] != "ok");
    others.map(|item| [word(item, "step"), word(item, "subject"), word(item, "remedy")]).collect()
}

#[track_caller]
fn finds(adt: &Adt, code: i32, expected: &[[&str; 3]]) {
    let run = adt.run("env:check 1161 --json").fails(code);
    assert_eq!(wrong(&run), expected, "{}", run.stdout);
}

#[track_caller]
fn is_well(adt: &Adt) {
    finds(adt, 0, &[]);
}

/// The verdicts of `host:check` about names and pages.
#[track_caller]
fn entrance(adt: &Adt, subject: &str) -> (String, String) {
    let list = adt.run("host:check --json").json();
    let mut items = list["items"].as_array().expect("a check has items").iter();
    let item = items.find(|item| item["subject"] == subject).unwrap_or_else(|| panic!("no `{subject}` in {list:#}"));
    let word = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
    (word("verdict"), word("remedy"))
}

struct Stranger(Child);

impl Stranger {
    /// Listens where adt should.
    fn at(adt: &Adt, port: u16) -> Self {
        let mut command = adt.program_there("python3");
        command.args(["-m", "http.server", "--bind", LISTEN, &port.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is installed");
        let connects =
            || adt.program_there("bash").args(["-c", &format!("</dev/tcp/{LISTEN}/{port}")]).stderr(Stdio::null()).status();
        until("a stranger listens", || connects().is_ok_and(|status| status.success()));
        Self(child)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn each_step_has_a_verdict_of_its_own() {
    let Some((adt, person)) = host() else { return };
    adt.run("platform:init hello").ok();
    assert_eq!(entrance(&adt, "names and pages"), ("notice".into(), "adt host:up --detach".into()), "nobody needs them yet");
    adt.run("env:init 1161").ok();
    let resolv_conf = std::fs::read(adt.at("/etc/resolv.conf")).expect("it was written");
    // A platform's file may name any domain; what others have on the internet stays theirs.
    adt.platform_toml(
        "bank",
        "[platform]\nname = \"bank\"\nsummary = \"B\"\ndomain = \"bank.de\"\n[machines.m]\nbox = \"debian\"\n",
    );
    adt.run("platform:init bank").ok();
    adt.run("env:init bank 1").ok();
    adt.run("host:bind-proxy").ok().says("`bank.de` is on the internet").says("domains = [\"bank.de\"]");
    assert_eq!(entrance(&adt, "domain bank.de").0, "notice");
    assert!(!adt.authority_file("bank.de").exists());
    adt.run("--domains bank.de host:bind-proxy").ok();
    assert!(adt.authority_file("bank.de").exists());
    adt.run("platform:destroy bank --yes").ok();
    adt.run("host:bind-proxy").ok();
    adt.run("host:up --detach").ok();

    whole(&adt);
    machines_break(&adt);
    trust_breaks(&adt, &person);
    resolver_breaks(&adt, &resolv_conf);
    server_breaks(&adt);
    another_server_serves(&adt);

    adt.run("env:halt 1161").ok();
    adt.run("env:check 1161").ok().says("halted").says("adt env:up hello 1161");
    adt.run("host:halt").ok();
    adt.run("host:unbind-proxy").ok();
    assert_eq!(std::fs::read(adt.at("/etc/resolv.conf")).expect("it is back"), resolv_conf);
}

fn whole(adt: &Adt) {
    let run = adt.run("env:check 1161 --json").ok();
    let list = run.json();
    let mut steps: Vec<_> = list["items"].as_array().expect("items").iter().filter_map(|item| item["step"].as_str()).collect();
    steps.dedup();
    assert_eq!(steps, ["name", "address", "certificate", "proxy", "machine", "application"]);
    is_well(adt);
    let page =
        adt.program_there("curl").args(["--fail", "--silent", &format!("https://{HOST}/")]).output().expect("curl is there");
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("answered by"), "what the check calls well, a program can use: {page}");

    let subjects = ["names and pages", "name server for example.test", "resolver for example.test", "authority of example.test"];
    let ports = [53, 80, 443].map(|port| format!("port {LISTEN}:{port}"));
    for subject in subjects.into_iter().chain(ports.iter().map(String::as_str)) {
        assert_eq!(entrance(adt, subject), ("ok".into(), String::new()), "{subject}");
    }
    let text = adt.run("platform:check hello").ok().stdout;
    assert_eq!(text.lines().filter(|line| line.contains("1161")).count(), 1, "{text}");
    let urls = adt.run("env:urls 1161 --check --json").ok();
    assert_eq!(urls.json()["items"].as_array().map(Vec::len), Some(5), "{}", urls.stdout);
}

fn machines_break(adt: &Adt) {
    adt.run("env:exec 1161 web1 -- systemctl stop apache2").ok();
    finds(adt, 13, &[["machine", "hello/1161/web1", "adt env:ssh hello 1161 web1"]]);
    let text = adt.run("platform:check hello").fails(13).stdout;
    assert_eq!(text.lines().filter(|line| line.contains("hello/1161")).count(), 1, "{text}");
    adt.run("env:exec 1161 web1 -- systemctl start apache2").ok();

    adt.run("env:exec 1161 web2 -- systemctl poweroff");
    until("web2 is off", || !adt.run("env:list --json").stdout.contains("\"web2\": \"running\""));
    finds(adt, 13, &[["machine", "hello/1161/web2", "adt env:up hello 1161"]]);
    adt.run("env:up 1161").ok();
    is_well(adt);

    // Everything runs, but the site needs what the database keeps.
    adt.run("env:exec 1161 db -- systemctl stop mariadb").ok();
    let remedy = |machine: &str| format!("adt env:ssh hello 1161 {machine}");
    let (db, web1, web2) = (remedy("db"), remedy("web1"), remedy("web2"));
    finds(
        adt,
        13,
        &[
            ["machine", "hello/1161/db", &db],
            ["application", HOST, &web1],
            ["application", "hello/1161/web1", &web1],
            ["application", "hello/1161/web2", &web2],
        ],
    );
    adt.run("env:exec 1161 db -- systemctl start mariadb").ok();
    until("the site is back", || adt.run("env:check 1161").code == 0);

    // What failed for a reason that is gone, e.g. a full disk, is begun again.
    let breaks = "systemctl stop mariadb; chmod 0 /usr/sbin/mariadbd; ! systemctl start mariadb; chmod 755 /usr/sbin/mariadbd";
    Run::of(&mut adt.command(&["env:exec", "1161", "db", "--", "sh", "-c", breaks]), breaks).ok();
    adt.run("env:up 1161").ok().says("mariadb.service failed earlier and is begun again");
    is_well(adt);
}

fn trust_breaks(adt: &Adt, person: &Path) {
    let host = adt.host.as_ref().expect("it is alone");
    let file = adt.authority_file("example.test");
    let install = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('-').nth(1));
    let authority = format!("adt local authority for example.test of {}", install.expect("the file's name has it"));
    std::fs::remove_file(&file).expect("it was installed");
    host.run("update-ca-certificates");
    finds(adt, 13, &[["certificate", HOST, "adt host:bind-proxy"]]);
    assert_eq!(entrance(adt, "authority of example.test"), ("fault".into(), "adt host:bind-proxy".into()));
    adt.run("host:bind-proxy").ok();
    is_well(adt);

    let browser = person.join(".pki/nssdb").display().to_string();
    let delete = adt.program_there("certutil").args(["-D", "-d", &format!("sql:{browser}")]).arg("-n").arg(&authority).status();
    assert!(delete.expect("it is installed").success());
    // Programs work; a browser is told with them, and its owner may never open one.
    finds(adt, 0, &[["certificate", &browser, "adt host:bind-proxy"]]);
    adt.run("host:bind-proxy").ok();
    is_well(adt);
}

fn resolver_breaks(adt: &Adt, resolv_conf: &[u8]) {
    let bound = std::fs::read(adt.at("/etc/resolv.conf")).expect("adt wrote it");
    std::fs::write(adt.at("/etc/resolv.conf"), resolv_conf).expect("the folder is the test's own");
    finds(adt, 13, &[["name", HOST, "adt host:bind-proxy"]]);
    assert_eq!(entrance(adt, "resolver for example.test"), ("fault".into(), "adt host:bind-proxy".into()));
    std::fs::write(adt.at("/etc/resolv.conf"), bound).expect("the folder is the test's own");

    let hosts = std::fs::read_to_string(adt.at("/etc/hosts")).expect("every host has one");
    std::fs::write(adt.at("/etc/hosts"), format!("{hosts}\n127.0.0.1 {HOST}\n")).expect("the folder is the test's own");
    finds(adt, 13, &[["name", HOST, "sudoedit /etc/hosts"]]);
    std::fs::write(adt.at("/etc/hosts"), hosts).expect("the folder is the test's own");
    is_well(adt);
}

const START: &str = "adt host:up --detach";

fn server_breaks(adt: &Adt) {
    adt.run("host:halt").ok();
    finds(adt, 13, &[["name", HOST, START], ["address", HOST, START]]);
    assert_eq!(entrance(adt, "names and pages"), ("fault".into(), START.into()));

    let stranger = Stranger::at(adt, 443);
    let remedy = format!("kill {}; {START}", stranger.0.id());
    finds(adt, 13, &[["name", HOST, START], ["address", HOST, &remedy]]);
    adt.run("env:check 1161").fails(13).says(&format!("python3 (process {}) listens at {LISTEN}:443", stranger.0.id()));
    assert_eq!(entrance(adt, &format!("port {LISTEN}:443")), ("fault".into(), remedy));
    drop(stranger);
    adt.run("host:up --detach").ok();
    is_well(adt);
}

/// nginx with adt's files, in place of adt's own proxy: pages are judged as they come from it.
fn another_server_serves(adt: &Adt) {
    const AGAIN: &str = "adt host:bind-proxy --with nginx";
    let host = adt.host.as_ref().expect("it is alone");
    adt.run("host:halt").ok();
    host.run("sed -i -e s,/run/nginx.pid,/mnt/nginx.pid, -e s,/var/log/nginx/,/mnt/, /etc/nginx/nginx.conf");
    adt.run("host:bind-proxy --with nginx").ok();
    host.run("nginx -e /mnt/error.log");
    finds(adt, 13, &[["name", HOST, START]]);
    adt.run("env:check 1161").fails(13).says("nginx (process");
    assert_eq!(entrance(adt, "files of nginx"), ("ok".into(), String::new()));

    let main = adt.at("/etc/nginx/adt/main.conf");
    let text = std::fs::read_to_string(&main).expect("adt wrote it");
    std::fs::write(&main, format!("{text}# by hand\n")).expect("the folder is the test's own");
    assert_eq!(entrance(adt, "files of nginx"), ("fault".into(), AGAIN.into()));
    adt.run("host:bind-proxy --with nginx").ok();
    assert_eq!(entrance(adt, "files of nginx"), ("ok".into(), String::new()));

    let pid = std::fs::read_to_string(adt.at("/mnt/nginx.pid")).expect("nginx writes it");
    host.run(&format!("kill {}", pid.trim()));
    until("nginx is gone", || !adt.at("/mnt/nginx.pid").exists());
    finds(adt, 13, &[["name", HOST, START], ["address", HOST, "systemctl restart nginx"]]);
}
