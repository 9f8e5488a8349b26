//! One environment over three servers: machines of this host that are hosts themselves, tied to each other by WireGuard.

use super::adt::{Adt, Run};
use super::real_target::{Agent, is_proven, killed_at, promotion, ticket};
use super::visitors::{Visitors, Way};

/// The servers by the names that a rehearsal gives them, with their addresses and the fingerprints of their host keys.
struct Servers(Vec<(String, String)>);

impl Servers {
    fn of(adt: &Adt) -> Self {
        let shown = adt.run("env:show rehearsal hello-production --json").ok().json()["machines"].clone();
        let server = |machine: &serde_json::Value| {
            let name = machine["name"].as_str().expect("a name");
            let address = machine["addresses"][0].as_str().expect("an address").to_owned();
            let printed = on(adt, name, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").ok().stdout;
            let print = printed.split_whitespace().find(|word| word.starts_with("SHA256:")).expect("a fingerprint").to_owned();
            (address, print)
        };
        Self(shown.as_array().expect("a list").iter().map(server).collect())
    }

    fn address(&self, index: usize) -> &str {
        &self.0[index].0
    }

    /// The target, with the web servers on these and the database on that one.
    fn target(&self, web: &[usize], more: &str, db: usize) -> String {
        let words = |all: Vec<String>| all.join(", ");
        let servers = words(self.0.iter().map(|(address, _)| format!("\"root@{address}\"")).collect());
        let keys = words(self.0.iter().map(|(address, print)| format!("\"{address}\" = \"{print}\"")).collect());
        let web = words(web.iter().map(|index| format!("\"{}\"", self.address(*index))).collect());
        format!(
            "\n[targets.production]\nservers = [{servers}]\nhost_keys = {{ {keys} }}\ndomain = \"shop.example\"\n\
             [targets.production.machines.web]\non = [{web}]\n{more}\n\
             [targets.production.machines.db]\non = [\"{}\"]\n",
            self.address(db)
        )
    }
}

/// A shell on one of them, not by way of its network.
fn on(adt: &Adt, server: &str, script: &str) -> Run {
    Run::of(&mut adt.command(&["env:exec", "rehearsal", "hello-production", server, "--", "sh", "-c", script]), script)
}

/// Whether each of these machines, and no other, answers for the site at the first server.
#[track_caller]
fn answered_by(adt: &Adt, address: &str, machines: &[&str]) {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 * machines.len().max(1) {
        let mut curl = adt.program_there("curl");
        curl.args(["-sk", "-D-", "-o", "/dev/null", "--resolve", &format!("www.shop.example:443:{address}")]);
        let head = curl.arg("https://www.shop.example/").output().expect("curl starts").stdout;
        let head = String::from_utf8_lossy(&head).into_owned();
        seen.extend(head.lines().filter_map(|line| line.strip_prefix("x-machine: ")).map(|name| name.trim().to_owned()));
    }
    assert_eq!(seen, machines.iter().map(|name| (*name).to_owned()).collect());
}

/// Commands about all of it, and about machines wherever they stand.
fn as_at_home(adt: &Adt) {
    let shown = adt.run("env:show -p hello -t production --json").ok().json();
    let names: Vec<_> = shown["machines"].as_array().expect("a list").iter().map(|machine| machine["name"].clone()).collect();
    assert_eq!((names, shown["state"].as_str()), (vec!["db".into(), "web1".into(), "web2".into()], Some("up")));
    adt.run("env:list -t production -p hello").ok().says("3/3");
    let all = adt.run("env:exec -t production -p hello -- hostname").ok().stdout;
    assert!(["db ", "web1 ", "web2 "].iter().all(|name| all.contains(name)), "{all}");
    for machine in ["web1", "web2", "db"] {
        assert_eq!(adt.run(&format!("env:exec {machine} -t production -p hello -- hostname -s")).ok().stdout.trim(), machine);
    }
    adt.run("env:exec web9 -t production -p hello -- true").fails(4).says("find the machine `web9`");
    std::fs::write(adt.here().join("there"), "from here").expect("the folder is ours");
    adt.run("env:cp there db:/root/there -t production -p hello").ok();
    adt.run("env:snapshot mine -t production -p hello").ok();
    adt.run("env:exec db -t production -p hello -- rm /root/there").ok();
    adt.run("env:rewind mine -t production -p hello --yes").ok();
    assert_eq!(adt.run("env:exec db -t production -p hello -- cat /root/there").ok().stdout, "from here");
    adt.run("env:snapshots -t production -p hello").ok().says("mine");
    adt.run("env:snapshots --remove mine -t production -p hello --yes").ok();
    let lines = adt.run("env:logs -t production -p hello -n 400").ok().stdout;
    assert!(["db", "web1", "web2"].iter().all(|name| lines.contains(name)), "{lines}");
    adt.run("env:halt -t production -p hello").ok();
    adt.run("env:list -t production -p hello").ok().says("halted");
    adt.run("env:up -t production -p hello").ok();
    adt.run("env:list -t production -p hello").ok().says("3/3");
}

/// Nobody but the servers speaks with their ties, and a machine keeps to its own environment there as at home.
fn kept_apart(adt: &Adt, servers: &Servers) {
    let rules = on(adt, "server3", "nft list ruleset").ok().stdout;
    assert!(rules.contains("udp dport 51820 drop") && rules.contains(servers.address(0)), "{rules}");
    // The address of another server's machine, forged on this one, is not let through.
    let forged = "ip addr add 10.213.0.99/32 dev lo; ping -c1 -W1 -I 10.213.0.99 $(getent ahostsv4 db | awk 'NR==1{print $1}')";
    adt.run("env:exec web1 -t production -p hello -- getent ahostsv4 db").ok().says("10.213.0.");
    let run =
        Run::of(&mut adt.command(&["env:exec", "web1", "-t", "production", "-p", "hello", "--", "sh", "-c", forged]), forged);
    assert_ne!(run.code, 0, "{run:?}");
    for server in ["server1", "server2", "server3"] {
        let key = on(adt, server, "stat -c %a /var/lib/adt/tie.key; cat /var/lib/adt/tie.key").ok().stdout;
        let (mode, key) = key.split_once('\n').expect("two lines");
        assert_eq!((mode, key.trim().len()), ("600", 44));
        let files = "/proc/[0-9]*/cmdline /proc/[0-9]*/environ /var/log /run";
        let told = on(adt, server, &format!("grep -rlF -f /var/lib/adt/tie.key {files} 2>/dev/null"));
        assert_eq!(told.stdout.trim(), "", "{told:?}");
    }
}

#[test]
fn an_environment_stands_on_three_servers() {
    let Some(adt) = ticket() else { return };
    let hello = adt.here().join("hello/platform.toml");
    let shipped = std::fs::read_to_string(&hello).expect("it was made");
    let write = |target: &str| std::fs::write(&hello, format!("{shipped}{target}")).expect("the folder is ours");
    let names = Servers(["a", "b", "c"].map(|name| (format!("{name}.example"), format!("SHA256:{}", "a".repeat(43)))).into());
    write(&names.target(&[0, 1], "", 2));
    adt.run("target:list").ok().says("c.example");
    let rehearse = "target:rehearse hello production --from 1161 --keep";
    killed_at(&adt, rehearse, "hello/production: db is started");
    is_proven(&promotion(&adt.run(&format!("{rehearse} --json")).ok()));
    adt.run(rehearse).ok().says("nothing to do");

    // The same as a target of the platform's, with the person's agent and host keys that are checked.
    let servers = Servers::of(&adt);
    let (agent, adt) = Agent::of(adt);
    write(&servers.target(&[0, 1], "", 2));
    adt.run("env:promote hello 1161 production").ok();
    adt.run("env:promote hello 1161 production").ok().says("nothing to do");
    let edge = servers.address(0).to_owned();
    answered_by(&adt, &edge, &["web1", "web2"]);
    as_at_home(&adt);
    kept_apart(&adt, &servers);

    // Other sizes and numbers, and a machine that moves: the others serve meanwhile.
    let load = Visitors::of(&adt, &edge, "https://www.shop.example/", &[Way::Anew]);
    write(&servers.target(&[0, 1], "count = 3\nmemory = \"300M\"", 2));
    adt.run("env:promote hello 1161 production --dry-run").fails(14).says("web3").says("LOSES DATA");
    adt.run("env:promote hello 1161 production").ok();
    write(&servers.target(&[0, 2], "count = 3\nmemory = \"300M\"", 2));
    killed_at(&adt, "env:promote hello 1161 production", "hello/production: web2 is created");
    // Some servers know of it and others don't: the way back is one for all of them.
    adt.run("target:check hello production").fails(13).says("its servers are at different promotions");
    adt.run("env:rollback hello production").ok();
    adt.run("target:check hello production").ok().says("web3");
    adt.run("env:promote hello 1161 production").ok();
    adt.run("env:rollback hello production").ok();
    adt.run("env:promote hello 1161 production").ok();
    load.end_well();
    answered_by(&adt, &edge, &["web1", "web2", "web3"]);
    assert_eq!(on(&adt, "server2", "adt env:list --json").ok().json()[0]["machines"], serde_json::json!({}));

    // What ties servers passes their firewalls, and is made again when it dies.
    let target = servers.target(&[0, 2], "count = 3\nmemory = \"300M\"", 2);
    let ours = edge.rsplit_once('.').expect("an address").0;
    let users = "users = { www = [\"ada:$2y$12$i5uLBA80UKiLVgQ1CFd5JO3vf4iEJmzSkUzb1cDvKhOzn9mXXylYW\"] }";
    write(&target.replace("domain =", &format!("admin = [\"{ours}.0/24\"]\n{users}\ndomain =")));
    adt.run("env:promote hello 1161 production")
        .ok()
        .says("come to the ssh of")
        .says("show `www` to ada only")
        .says("answers 401");
    answered_by(&adt, &edge, &[]);
    let access = adt.run("target:access hello production --json").ok().json();
    let in_force: Vec<_> = access.as_array().expect("a list").iter().map(|one| one["in_force"].clone()).collect();
    assert_eq!(in_force, [true, true, true]);
    for server in ["server1", "server3"] {
        on(&adt, server, "pkill -KILL wireguard-go").ok();
    }
    let tied = || on(&adt, "server1", "ping -c1 -W1 10.213.0.4").code == 0;
    super::servers::until("the tie is back", tied);
    write(&target);
    adt.run("env:promote hello 1161 production").ok();
    answered_by(&adt, &edge, &["web1", "web2", "web3"]);

    // Data stays where it is, and nothing was changed by the try.
    write(&servers.target(&[0, 2], "count = 3\nmemory = \"300M\"", 1));
    adt.run("env:promote hello 1161 production").fails(5).says("the data of `db` is on").says("`machines.db`");
    write(&servers.target(&[0, 2], "count = 3\nmemory = \"300M\"", 2));
    adt.run("env:promote hello 1161 production").ok().says("nothing to do");

    // A server that is gone stops a promotion before anything is changed; back again, it is as it was.
    on(&adt, "server3", "nohup sh -c 'sleep 1; systemctl poweroff' >/dev/null 2>&1 &").ok();
    let gone = || adt.run("env:show rehearsal hello-production --json").ok().json()["state"] == "partial";
    super::servers::until("the server is off", gone);
    write(&servers.target(&[0, 1], "count = 2", 2));
    adt.run("env:promote hello 1161 production").fails(8).says(servers.address(2));
    adt.run("target:check hello production").fails(13).says(servers.address(2));
    adt.run("env:up rehearsal hello-production").ok();
    super::servers::until("the site is back", || adt.run("target:check hello production").code != 13);
    adt.run("env:promote hello 1161 production").ok();
    answered_by(&adt, &edge, &["web1", "web2"]);

    drop(agent);
    adt.run("env:destroy rehearsal hello-production --yes").ok();
    adt.run("platform:destroy rehearsal --yes").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}
