//! Other people's servers follow environments that come, halt and go: nginx and dnsmasq, each told by the host's init.

use std::process::Command;
use std::time::{Duration, Instant};

use super::adt::Adt;
use super::real_check::{LISTEN, host};
use super::real_hello::address;
use super::servers::{installed, until};

const NAMES: &str = "127.0.53.2";
const SITE: &str = "www.1.hello.example.test";

/// In place of an init: its units are the two servers, and it writes down what is asked of it.
const SYSTEMCTL: &str = r#"#!/bin/sh
pid() { cat "/mnt/$1.pid" 2> /dev/null; }
start() {
    case $1 in
    nginx) nginx -e /mnt/error.log ;;
    dnsmasq) dnsmasq -C /etc/dnsmasq.conf --conf-dir=/etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new ;;
    esac
}
stop() {
    was=$(pid "$1") || return 0
    kill "$was"
    while [ -d "/proc/$was" ]; do sleep 0.02; done
}
case "$1 $2" in
"is-active --quiet") was=$(pid "$3") && kill -0 "$was" 2> /dev/null; exit ;;
"start nginx" | "start dnsmasq") start "$2" ;;
"stop nginx" | "stop dnsmasq") stop "$2" ;;
"reload nginx") kill -HUP "$(pid nginx)" ;;
"restart dnsmasq") stop dnsmasq; start dnsmasq ;;
*) exit 1 ;;
esac
echo "$1 $2" >> /mnt/asked"#;

struct Servers {
    adt: Adt,
}

impl Servers {
    /// In a host of their own, with nothing of adt's in them.
    fn new() -> Option<Self> {
        let (adt, _) = host()?;
        let folder = adt.path().join("bin");
        std::fs::create_dir(&folder).expect("the home is ours");
        std::fs::write(folder.join("systemctl"), SYSTEMCTL).expect("it is ours");
        std::fs::set_permissions(folder.join("systemctl"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("it is ours");
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").expect("there is one"));
        let servers = Self { adt: adt.env("PATH", &path) };
        let own = servers.adt.host.as_ref().expect("it is alone");
        own.run("sed -i -e s,/run/nginx.pid,/mnt/nginx.pid, -e s,/var/log/nginx/,/mnt/, /etc/nginx/nginx.conf");
        own.run("rm -f /etc/nginx/sites-enabled/default");
        own.run("mkdir -p /etc/dnsmasq.d");
        let text =
            format!("listen-address={NAMES}\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file=/mnt/dnsmasq.pid\n");
        std::fs::write(servers.adt.at("/etc/dnsmasq.conf"), text).expect("the folder is the test's own");
        servers.init("start nginx");
        servers.init("start dnsmasq");
        Some(servers)
    }

    fn init(&self, words: &str) {
        let program = self.adt.path().join("bin/systemctl");
        let status = self.program(program.to_str().expect("a plain path")).args(words.split(' ')).status();
        assert!(status.expect("it starts").success(), "{words}");
    }

    fn program(&self, program: &str) -> Command {
        self.adt.program_there(program)
    }

    /// What was asked of the init since this was called last.
    fn asked(&self) -> Vec<String> {
        let path = self.adt.at("/mnt/asked");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, "").expect("it is the test's own");
        text.lines().map(str::to_owned).collect()
    }

    /// Status and page of the site as nginx gives it.
    fn page(&self) -> (String, String) {
        let (to, url) = (format!("{SITE}:443:{LISTEN}"), format!("https://{SITE}/"));
        let args = ["-sSk", "--max-time", "10", "-w", "\n%{http_code}", "--resolve", &to, &url];
        let output = self.program("curl").args(args).output().expect("curl is there");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (page, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        (status.to_owned(), page.to_owned())
    }

    #[track_caller]
    fn serve(&self, status: &str, part: &str) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let (told, page) = self.page();
            if told == status && page.contains(part) {
                return;
            }
            assert!(Instant::now() < end, "not {status} with `{part}` but {told}: {page}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn name(&self, name: &str) -> String {
        let server = format!("@{NAMES}");
        let output =
            self.program("dig").args([&server, "+short", "+tries=1", "+time=2", name, "A"]).output().expect("dig is there");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in ["nginx", "dnsmasq"] {
            let pid = std::fs::read_to_string(self.adt.at(format!("/mnt/{server}.pid"))).unwrap_or_default();
            if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                until("the server ends", || !super::servers::is_alive(pid));
            }
        }
    }
}

#[test]
fn nginx_and_dnsmasq_follow() {
    if !installed(&["nginx", "dnsmasq", "dig", "curl"]) {
        return;
    }
    let Some(servers) = Servers::new() else { return };
    let adt = &servers.adt;
    adt.run("platform:init hello").ok();
    adt.run("host:bind-proxy --with nginx --with dnsmasq").ok();
    let mut asked = servers.asked();
    asked.retain(|line| !line.starts_with("start"));
    asked.sort();
    assert_eq!(asked, ["reload nginx", "restart dnsmasq"]);
    assert_eq!((servers.name(SITE), servers.name("www.example.org")), (String::new(), String::new()));

    adt.run("env:init 1").ok();
    servers.serve("200", "web");
    assert_eq!(servers.name(SITE), LISTEN);
    assert_eq!(servers.name(&format!("any.{SITE}")), LISTEN);
    assert_eq!(servers.name("web2.1.hello.example.test"), address(adt, "1", "web2"));
    let dnsmasq = servers.adt.at("/mnt/dnsmasq.pid");
    let before = std::fs::read_to_string(&dnsmasq).expect("dnsmasq writes it");

    // Nothing changed: nobody is disturbed.
    drop(servers.asked());
    adt.run("env:up 1").ok().says("up already");
    assert_eq!(servers.asked(), Vec::<String>::new());
    assert_eq!(std::fs::read_to_string(&dnsmasq).expect("it is there"), before);

    adt.run("env:halt 1").ok();
    servers.serve("503", "adt env:up hello 1");
    assert_eq!(servers.name(SITE), LISTEN, "so that the page which says it is found");
    adt.run("env:up 1").ok();
    servers.serve("200", "web");

    adt.run("env:destroy 1 --yes").ok();
    servers.serve("404", "");
    assert_eq!((servers.name(SITE), servers.name("web2.1.hello.example.test")), (String::new(), String::new()));

    // A server that is down is found changed when it comes back.
    servers.init("stop dnsmasq");
    adt.run("env:init 2").ok();
    servers.init("start dnsmasq");
    assert_eq!(servers.name("www.2.hello.example.test"), LISTEN);
    adt.run("env:destroy 2 --yes").ok();

    adt.run("host:unbind-proxy").ok();
    for folder in ["/etc/nginx/adt", "/etc/dnsmasq.d/adt", "/etc/dnsmasq.d/adt.conf", "/etc/nginx/sites-enabled/zz-adt.conf"] {
        assert!(!servers.adt.at(folder).exists(), "{folder}");
    }
    servers.init("stop nginx");
    servers.init("stop dnsmasq");
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
