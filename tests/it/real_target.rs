//! From a ticket to a server and back: the server is a machine that is a host itself, reached by ssh as any other.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use super::adt::{Adt, Run};

/// A store with `hello` and its environment 1161.
pub fn ticket() -> Option<Adt> {
    // Where all cores are busy, two machines in one need more than usual.
    let adt = Adt::real()?.alone().env("ADT_GRACE_SECONDS", "60");
    adt.run("platform:init hello").ok();
    adt.run("env:init 1161").ok();
    Some(adt)
}

/// What the last line of a promotion's JSON says.
#[track_caller]
pub fn promotion(run: &Run) -> serde_json::Value {
    let last = run.stdout.lines().last().unwrap_or_default();
    let line: serde_json::Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    line["response"].clone()
}

/// Every layer has one content on both sides, and everything that the server said of itself is well.
#[track_caller]
pub fn is_proven(promotion: &serde_json::Value) {
    let layers = promotion["layers"].as_array().expect("a list");
    assert!(layers.len() >= 5, "{promotion:#}");
    for layer in layers {
        assert!(layer["here"].is_string() && layer["here"] == layer["there"], "{layer}");
    }
    let checks = promotion["checks"]["items"].as_array().expect("a list");
    assert!(checks.len() >= 3 && checks.iter().all(|item| item["verdict"] == "ok"), "{promotion:#}");
}

/// Starts a command and kills it as soon as it says this.
#[track_caller]
pub fn killed_at(adt: &Adt, words: &str, text: &str) {
    let split: Vec<_> = words.split_whitespace().collect();
    let mut child = adt.command(&split).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut said = Vec::new();
    let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    let came = lines.any(|line| {
        said.push(line);
        said.last().is_some_and(|line| line.contains(text))
    });
    let _ = child.kill();
    child.wait().expect("it ends");
    assert!(came, "`adt {words}` never said `{text}`:\n{}", said.join("\n"));
}

/// While one operator is at it, another is told who that is. The first one then dies, and lets go by that.
fn one_at_a_time(adt: &Adt) {
    let words = ["env:promote", "hello", "1162", "production"];
    let mut first = adt.command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(first.stderr.take().expect("it is piped")).lines().map_while(Result::ok);
    lines.find(|line| line.starts_with("plan: ")).expect("it has a plan");
    // It stands still where it is, and its connection with it.
    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it runs");
    adt.run("env:promote hello 1161 production").fails(5).says("is at it").says("env:promote hello 1162 production");
    adt.run("env:rollback hello production").fails(5).says("is at it");
    // What only looks waits for nobody.
    adt.run("target:check hello production");
    first.kill().expect("it is there");
    first.wait().expect("it ends");
}

/// As the first user of a vendor's image, who has to be allowed to become root.
fn as_somebody_else(adt: &Adt, platform: &std::path::Path, text: &str) {
    let there = |script: &str| drop(there(adt, "hello-production", script).ok());
    there(
        "useradd -m -s /bin/bash debian && mkdir -m 700 /home/debian/.ssh && \
         cp /root/.ssh/authorized_keys /home/debian/.ssh/ && chown -R debian: /home/debian/.ssh",
    );
    std::fs::write(platform, text.replace("\"root@", "\"debian@")).expect("the folder is ours");
    adt.run("env:promote hello 1161 production").fails(8).says("NOPASSWD").says("/etc/sudoers.d");
    there("echo 'debian ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/debian");
    adt.run("env:promote hello 1161 production").ok().says("nothing to do");
    // An image that wants another user than root says so.
    there("sed -i 's/^/command=\"echo Please login as the user debian\" /' /root/.ssh/authorized_keys");
    std::fs::write(platform, text).expect("the folder is ours");
    adt.run("env:promote hello 1161 production").fails(8).says("Please login as the user debian");
    there("cp /home/debian/.ssh/authorized_keys /root/.ssh/authorized_keys");
}

/// Commands about the environment on the server, from here.
fn as_at_home(adt: &Adt) {
    let shown = adt.run("env:show -p hello -t production --json").ok().json();
    assert_eq!(shown["machines"].as_array().expect("a list").len(), 4, "{shown:#}");
    adt.run("env:list -t production -p hello").ok().says("production").says("4/4");
    adt.run("env:check -t production -p hello --json").json();
    let all = adt.run("env:exec -t production -p hello -- hostname").ok().stdout;
    assert!(all.contains("web3 ") && all.contains("db "), "{all}");
    assert_eq!(adt.run("env:exec web1 -t production -p hello -- hostname -s").ok().stdout.trim(), "web1");
    adt.run("env:exec web1 -t production -p hello -- false").fails(1);
    let file = adt.here().join("there");
    std::fs::write(&file, "from here").expect("the folder is ours");
    adt.run("env:cp there web1:/root/there -t production -p hello").ok();
    assert_eq!(adt.run("env:ssh web1 -t production -p hello -- cat /root/there").ok().stdout, "from here");
    adt.run("env:cp web1:/root/there back -t production -p hello").ok();
    assert_eq!(std::fs::read_to_string(adt.here().join("back")).expect("it was copied"), "from here");
    adt.run("env:logs -t production -p hello -n 1").ok();
    adt.run("env:snapshot mine -t production -p hello").ok();
    adt.run("env:exec web1 -t production -p hello -- rm /root/there").ok();
    adt.run("env:rewind mine -t production -p hello --yes").ok();
    assert_eq!(adt.run("env:exec web1 -t production -p hello -- cat /root/there").ok().stdout, "from here");
    adt.run("env:snapshots --remove mine -t production -p hello --yes").ok();
    // None of it is about what is here.
    adt.run("env:exec hello 1162 web1 -- test -e /root/there").fails(1);
    adt.run("env:show 1162 -t production -p hello").fails(2).says("beside `--target production`");
    adt.run("env:destroy -t production -p hello --yes").fails(2).says("env:promote");
    adt.run("env:show -t staging -p hello").fails(4).says("its targets are production");
}

/// The address of a rehearsed server, and the fingerprint of its host key.
pub fn server(adt: &Adt, name: &str) -> (String, String) {
    let keygen = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub";
    let shown = adt.run(&format!("env:exec rehearsal {name} server -- {keygen}")).ok().stdout;
    let print = shown.split_whitespace().find(|word| word.starts_with("SHA256:")).expect("a fingerprint").to_owned();
    let machines = adt.run(&format!("env:show rehearsal {name} --json")).ok().json()["machines"].clone();
    (machines[0]["addresses"][0].as_str().expect("an address").to_owned(), print)
}

/// A shell on a rehearsed server, not by way of its network.
pub fn there(adt: &Adt, name: &str, script: &str) -> Run {
    Run::of(&mut adt.command(&["env:exec", "rehearsal", name, "server", "--", "sh", "-c", script]), script)
}

/// An agent that has the key of rehearsed servers; as every person's does, it says who we are.
pub struct Agent(Child);

impl Agent {
    /// The person then has it.
    pub fn of(adt: Adt) -> (Self, Adt) {
        let socket = adt.path().join("agent");
        let agent = Self::new(&adt, &socket);
        (agent, adt.env("SSH_AUTH_SOCK", &socket.display().to_string()))
    }

    fn new(adt: &Adt, socket: &std::path::Path) -> Self {
        let mut agent = adt.program_there("ssh-agent");
        let agent = Self(agent.arg("-D").arg("-a").arg(socket).stdout(Stdio::null()).spawn().expect("ssh-agent starts"));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let add = adt.program_there("ssh-add").arg(adt.store.join("rehearsal/key")).env("SSH_AUTH_SOCK", socket).output();
            if add.expect("ssh-add starts").status.success() {
                return agent;
            }
            assert!(std::time::Instant::now() < until, "the agent takes no key");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_target_is_rehearsed_and_nothing_is_left_of_it() {
    let Some(adt) = ticket() else { return };
    adt.run("target:rehearse production --from 1162").fails(4).says("find the environment");
    let run = adt.run("target:rehearse production --from 1161 --json").ok();
    let promotion = promotion(&run);
    is_proven(&promotion);
    assert_eq!((promotion["changed"].as_bool(), promotion["dry_run"].as_bool()), (Some(true), Some(false)));
    let list = adt.run("env:list --json").ok().json();
    assert_eq!(list.as_array().expect("a list").len(), 1, "{list:#}");
    assert_eq!(adt.run("platform:list --json").ok().json().as_array().expect("a list").len(), 1);
    assert!(!adt.store().join("rehearsal").exists());
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn a_killed_promotion_goes_on_and_there_is_a_way_back() {
    let Some(adt) = ticket() else { return };
    let rehearse = "target:rehearse production --from 1161 --keep";
    for text in ["adt: putting it on", ": send …", "hello/production: db is started"] {
        killed_at(&adt, rehearse, text);
    }
    is_proven(&promotion(&adt.run(&format!("{rehearse} --json")).ok()));
    adt.run(rehearse).ok().says("nothing to do");

    // The same server as a target of the platform's, with the person's agent and a host key that is checked.
    let (address, print) = server(&adt, "hello-production");
    let (agent, adt) = Agent::of(adt);
    let hello = adt.here().join("hello/platform.toml");
    let shipped = std::fs::read_to_string(&hello).expect("it was made");
    let target =
        |print: &str| format!("{shipped}\n[targets.production]\nservers = [\"root@{address}\"]\nhost_key = \"{print}\"\n");
    let other = format!("SHA256:{}", "a".repeat(43));
    std::fs::write(&hello, target(&other)).expect("the folder is ours");
    adt.run("env:promote hello 1161 production").fails(8).says("the server shows the").says("host_key");
    adt.run("target:check hello production").fails(13).says("the server shows the");
    std::fs::write(&hello, format!("{shipped}\n[targets.production]\nservers = [\"root@{address}\"]\n"))
        .expect("the folder is ours");
    adt.run("env:promote hello 1161 production").fails(8).says("Host key verification failed");

    std::fs::write(&hello, target(&print)).expect("the folder is ours");
    adt.run("target:list").ok().says(&print).says("production");
    adt.run("env:promote hello 1161 production").ok().says("nothing to do");
    as_somebody_else(&adt, &hello, &target(&print));
    adt.run("target:check hello production").ok().says("promoted from `hello/1161`");
    adt.run("env:rollback hello production").fails(4).says("nothing was there");

    // Another ticket: other limits for the web servers, and one more of them.
    std::fs::write(&hello, target(&print).replace("count = 2", "count = 3").replace("\"256M\"", "\"300M\""))
        .expect("the folder is ours");
    adt.run("env:init hello 1162").ok();
    adt.run("env:promote hello 1162 production --dry-run").fails(14).says("web3").says("no");
    adt.run("target:check hello production").ok().says("promoted from `hello/1161`");
    one_at_a_time(&adt);
    adt.run("target:plan hello 1162 production --out plan.json").fails(14).says("web3");
    killed_at(&adt, "env:promote hello 1162 production", "hello/production: web1 is ");
    adt.run("target:check hello production").fails(13).says("it was cut off");
    adt.run("target:apply plan.json")
        .fails(5)
        .says("is not what it was when that was planned")
        .says("adt target:plan hello 1162");
    adt.run("target:plan hello 1162 production --out plan.json").fails(14);
    is_proven(&promotion(&adt.run("target:apply plan.json --json").ok()));
    let there = |words: &str| {
        let words = format!("env:exec rehearsal hello-production server -- adt {words}");
        adt.run(&words)
    };
    there("env:list").ok().says("4/4").says("production");
    adt.run("env:promote hello 1162 production").ok().says("nothing to do");
    as_at_home(&adt);

    // And back, once and no further.
    adt.run("env:rollback hello production --dry-run").fails(14).says("web3");
    is_proven(&promotion(&adt.run("env:rollback hello production --json").ok()));
    adt.run("env:rollback hello production").ok().says("nothing to do");
    adt.run("target:check hello production").ok().says("rolled back to what came from `hello/1161`");
    is_proven(&promotion(&adt.run("env:promote hello 1162 production --json").ok()));

    let history = adt.run("target:history hello production --json").ok().json();
    let told: Vec<_> = history.as_array().expect("a list").iter().map(|one| (&one["deed"], one["finished"].is_i64())).collect();
    let (last, all_well) = (history[told.len() - 1].clone(), told.iter().all(|(_, finished)| *finished));
    assert!(last["deed"]["deed"] == "promote" && last["deed"]["from"]["name"] == "1162" && all_well, "{history:#}");
    adt.run("target:history hello production").ok().says("rolled back to what came from `hello/1161`").says("well, after ");

    let first = history[0]["definition"].as_str().expect("a digest")[..8].to_owned();
    adt.run(&format!("env:rollback hello production --to {first} --dry-run")).fails(14).says("web3");
    adt.run("env:rollback hello production --to 0123456789").fails(4).says("find the definition `0123456789`");
    adt.run("env:rollback hello production --data").fails(4).says("find the snapshot before the last promotion");

    drop(agent);
    adt.run("env:destroy rehearsal hello-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
