//! Commands without sudo: who is let in at the socket, who is not, and what somebody hostile gets there. Each test on a host of its own.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use super::adt::{Adt, Run, program};
use super::dice::{Dice, rounds};
use super::servers::until;

/// A host with a group `adt`, a member of it, and somebody who is none.
pub struct Town {
    pub adt: Adt,
    program: String,
}

pub const ADA: (&str, u32) = ("ada", 4321);
pub const EVE: (&str, u32) = ("eve", 4322);

impl Town {
    pub fn of(adt: Adt) -> Self {
        let adt = adt.alone();
        // The program's own folder may be closed to others.
        let copy = adt.path().join("adt");
        std::fs::copy(program(), &copy).expect("the home is ours");
        std::fs::set_permissions(adt.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
        adt.host().run("groupadd --system adt");
        for (name, uid) in [ADA, EVE] {
            let home = adt.path().join(name);
            adt.host().run(&format!("useradd --uid {uid} --user-group --no-log-init --home-dir {} {name}", home.display()));
            std::fs::create_dir(&home).expect("the home is ours");
            chown(&home, Some(uid), Some(uid)).expect("we are root");
        }
        adt.host().run("usermod --append --groups adt ada");
        chown(adt.here(), Some(ADA.1), Some(ADA.1)).expect("we are root");
        let town = Self { adt, program: copy.display().to_string() };
        town.adt.up();
        town
    }

    /// The program as one of its people starts it, with the groups that they have at the login before.
    fn by(&self, name: &str, groups: &str, words: &[&str]) -> Command {
        let home = format!("HOME={}", self.adt.path().join(name).display());
        let ids = [format!("--reuid={name}"), format!("--regid={name}"), groups.to_owned()];
        self.adt.command_by(&["setpriv", &ids[0], &ids[1], &ids[2], "env", &home, &self.program], words)
    }

    pub fn command(&self, words: &[&str]) -> Command {
        self.by("ada", "--init-groups", words)
    }

    /// As the member.
    pub fn run(&self, words: &str) -> Run {
        let split: Vec<_> = words.split_whitespace().collect();
        Run::of(&mut self.command(&split), words)
    }

    fn of_eve(&self, groups: &str, words: &str) -> Run {
        let split: Vec<_> = words.split_whitespace().collect();
        Run::of(&mut self.by("eve", groups, &split), words)
    }

    /// What the member's command is with sudo.
    pub fn sudo(&self, words: &[&str]) -> Command {
        let person = ["SUDO_USER=ada".to_owned(), format!("SUDO_UID={}", ADA.1), format!("SUDO_GID={}", ADA.1)];
        self.adt.command_by(&["env", &person[0], &person[1], &person[2], &self.program], words)
    }

    pub fn socket(&self) -> PathBuf {
        self.adt.store().join("commands.socket")
    }

    fn connect(&self) -> UnixStream {
        // Not by `/proc` of the host, which is closed to others than root.
        let stream = UnixStream::connect(self.adt.store.join("commands.socket")).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket has timeouts");
        stream
    }

    /// A connection that the kernel knows as hers.
    fn connect_as_ada(&self) -> UnixStream {
        let group = self.adt.there("getent", &["group", "adt"]);
        let group = Gid::from_raw(group.split(':').nth(2).and_then(|number| number.parse().ok()).expect("a number"));
        let become_ada = || {
            // Of this thread alone, which ends with it.
            set_thread_res_gid(group, group, group)?;
            let ada = Uid::from_raw(ADA.1);
            set_thread_res_uid(ada, ada, ada)
        };
        let connected = std::thread::scope(|scope| scope.spawn(|| become_ada().map(|()| self.connect())).join());
        connected.expect("it connects").expect("we are root")
    }

    /// Processes that work for people of this host.
    pub fn sessions(&self) -> Vec<i32> {
        let store = self.adt.store.display().to_string();
        let entries = std::fs::read_dir("/proc").expect("there are processes").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let is_one = |pid: &i32| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let store = || std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap_or_default().contains(&store);
            words.contains("internal:session") && store()
        };
        pids.filter(is_one).collect()
    }
}

#[test]
fn members_are_let_in_and_nobody_else() {
    let town = Town::of(Adt::new());
    let mode = std::fs::metadata(town.socket()).expect("it listens").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    town.run("env:list").ok().says("no environments yet");
    assert_eq!(town.run("env:list --json").ok().stdout, town.adt.run("env:list --json").ok().stdout);

    // Who is none is stopped by the kernel, and whoever got hold of the group's number by the system's database.
    town.of_eve("--init-groups", "env:list").fails(6).says("members of the group `adt`").says("usermod -aG adt");
    let group = town.adt.there("getent", &["group", "adt"]);
    let number = group.split(':').nth(2).expect("a number");
    let groups = format!("--groups={number}");
    town.of_eve(&groups, "env:list").fails(6).says("`eve` is no member of the group `adt`");
    // To say that one is somebody else changes nothing.
    let mut command = town.by("eve", &groups, &["platform:list"]);
    command.env("USER", "ada").env("SUDO_USER", "ada").env("SUDO_UID", "0").env("LOGNAME", "root");
    Run::of(&mut command, "platform:list").fails(6).says("`eve` is no member");

    // What gives and takes the power is root's.
    for words in ["host:bootstrap", "host:bootstrap --remove", "host:up", "host:up --detach", "host:halt", "internal:logs"] {
        town.run(words).fails(6).says("only root may").says("`sudo`");
    }
    // Files for somebody to look at are written as that somebody.
    town.run("host:bind-proxy --with nginx --output /etc/cron.d").fails(8).says("Permission denied");
    assert!(!town.adt.at("/etc/cron.d/nginx").exists());
    town.run("--domain other.test env:list").fails(6).says("`--domain` is a setting of the service");
    let other = town.adt.path().join("other");
    town.run(&format!("--store {} env:list", other.display()))
        .fails(6)
        .says(&other.join("commands.socket").display().to_string());

    // One who goes out of the group is out at once, whatever his shell still has.
    town.adt.host().run("gpasswd --delete ada adt");
    let mut command = town.by("ada", &groups, &["env:list"]);
    Run::of(&mut command, "env:list").fails(6).says("`ada` is no member of the group `adt`");
    until("the sessions are gone", || town.sessions().is_empty());
    town.adt.run("host:halt").ok();
    assert!(!town.socket().exists());
    town.run("env:list").fails(6).says("needs root");
}

/// A frame as the wire has it.
fn frame(kind: u8, channel: u32, body: &str) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(channel.to_be_bytes());
    bytes.extend(body.as_bytes());
    bytes
}

/// The body of the next one.
fn heard(stream: &mut UnixStream) -> String {
    let mut header = [0; 9];
    stream.read_exact(&mut header).expect("it answers");
    let mut body = vec![0; u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize];
    stream.read_exact(&mut body).expect("it answers");
    String::from_utf8(body).expect("a message is text")
}

const GREETING: &str = "{\"protocol\":1,\"adt\":\"0\"}";
const PLATFORMS: &str = "{\"look\":\"platforms\"}";

#[test]
fn who_goes_out_of_the_group_asks_nothing_more_over_a_connection_that_is_open() {
    let town = Town::of(Adt::new());
    let mut streams = [town.connect_as_ada(), town.connect_as_ada()];
    for stream in &mut streams {
        stream.write_all(&frame(1, 0, GREETING)).expect("it listens");
        assert!(heard(stream).contains("\"protocol\":1"));
        stream.write_all(&frame(2, 1, PLATFORMS)).expect("it listens");
        assert_eq!(heard(stream), "{\"found\":{\"platforms\":[]}}");
    }
    let mut ask = |number: usize| {
        let stream = &mut streams[number];
        stream.write_all(&frame(2, 2, PLATFORMS)).expect("it listens");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers and hangs up");
        String::from_utf8_lossy(&answer).into_owned()
    };
    // Still a member, but not with the groups that the session works with.
    town.adt.host().run("usermod --append --groups adt,games ada");
    let answer = ask(0);
    assert!(answer.contains("has changed since this session began"), "{answer:?}");
    town.adt.host().run("gpasswd --delete ada adt");
    let answer = ask(1);
    assert!(answer.contains("`ada` is no member of the group `adt`"), "{answer:?}");
    until("the sessions are gone", || town.sessions().is_empty());
    town.adt.run("host:halt").ok();
}

#[test]
fn a_session_gets_settings_and_no_secret_of_who_started_the_service() {
    let secrets = [("DEPLOY_TOKEN", "hunter2"), ("SSH_AUTH_SOCK", "/root/agent"), ("GIT_SSH_COMMAND", "ssh -i /root/key")];
    let adt = secrets.iter().fold(Adt::new(), |adt, (name, value)| adt.env(name, value));
    let town = Town::of(adt.env("https_proxy", "http://proxy.test:1"));
    let mut stream = town.connect_as_ada();
    stream.write_all(&frame(1, 0, GREETING)).expect("it listens");
    assert!(heard(&mut stream).contains("\"protocol\":1"));
    let sessions = town.sessions();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    // What it has is what all have that it starts.
    let environ = std::fs::read_to_string(format!("/proc/{}/environ", sessions[0])).expect("we are root");
    let names: Vec<_> = environ.split('\0').filter_map(|variable| Some(variable.split_once('=')?.0)).collect();
    assert!(["PATH", "HOME", "ADT_STORE", "https_proxy"].iter().all(|name| names.contains(name)), "{names:?}");
    assert!(secrets.iter().all(|(name, _)| !names.contains(name)), "{names:?}");
    drop(stream);
    until("the session is gone", || town.sessions().is_empty());
    town.adt.run("host:halt").ok();
}

#[test]
fn whatever_comes_in_at_the_socket_others_are_served() {
    let town = Town::of(Adt::new());
    let mut dice = Dice::new();
    let hello = b"\0\0\0\x21\x01\0\0\0\0{\"protocol\":1,\"adt\":\"0\",\"x\":1234}";
    let seeds: [&[u8]; 4] = [
        hello,
        b"GET / HTTP/1.1\r\nHost: adt\r\n\r\n",
        b"\xff\xff\xff\xff\x01\0\0\0\0",
        b"\0\0\0\x21\x02\0\0\0\x01{\"look\":\"platforms\"}",
    ];
    for _ in 0..rounds(10) {
        let mut stream = town.connect();
        let _ = stream.write_all(&dice.damaged(&seeds, &[b"{\"ask\":", &[0xff; 4], hello]));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // It says why, or nothing, and hangs up.
        let _ = stream.read_to_end(&mut answer);
    }
    let mut stream = town.connect();
    stream.write_all(b"\0\0\0\x1f\x01\0\0\0\0{\"protocol\":999,\"adt\":\"9.9.9\"} ").expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.contains("9.9.9") && answer.contains("protocol 999") && answer.contains("host:bootstrap"), "{answer:?}");

    // Half of a greeting from each of many, and then silence: their person has no more than half of all sessions.
    let many: Vec<_> = (0..200).map(|_| town.connect()).collect();
    let refused = many.iter().any(|mut stream| {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let mut answer = [0; 512];
        let count = stream.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..count]).contains("you have 64 already")
    });
    assert!(refused, "nobody was told that there are too many");
    town.run("env:list").ok();
    assert!(town.sessions().len() <= 64, "{:?}", town.sessions());
    drop(many);
    until("they are gone", || town.sessions().is_empty());
    town.adt.run("host:halt").ok();
}

/// As `ssh server adt internal:session` would have it: no socket, and whoever started it.
#[test]
fn a_session_speaks_over_pipes_too() {
    let adt = Adt::new();
    let mut command = adt.command(&["internal:session"]);
    let mut session = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = session.stdin.take().expect("it was piped");
    input.write_all(b"\0\0\0\x1b\x01\0\0\0\0{\"protocol\":1,\"adt\":\"0\"}   ").expect("it reads");
    input.write_all(b"\0\0\0\x1c\x02\0\0\0\x07{\"look\":\"platforms\"}        ").expect("it reads");
    drop(input);
    let mut answer = Vec::new();
    session.stdout.take().expect("it was piped").read_to_end(&mut answer).expect("it answers");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("\"protocol\":1") && answer.contains("{\"found\":{\"platforms\":[]}}"), "{answer:?}");
    assert!(session.wait().expect("it is ours").success());
}

#[test]
fn bootstrap_makes_the_group_and_takes_away_what_it_made() {
    let adt = Adt::new().alone();
    let has = || adt.there("getent", &["group", "adt"]).starts_with("adt:");
    adt.run("host:bootstrap --no-service --dry-run").says("group adt: missing");
    adt.run("host:bootstrap --no-service").says("usermod -aG adt NAME");
    assert!(has());
    adt.run("host:bootstrap --remove").ok().says("removing the group adt");
    assert!(!has());
    adt.host().run("groupadd adt");
    adt.run("host:bootstrap --no-service").ok();
    adt.run("host:bootstrap --remove").ok();
    assert!(has(), "somebody else made it");
}
