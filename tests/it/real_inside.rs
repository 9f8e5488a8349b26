//! What a person finds inside: names, neighbours, limits, programs, terminals, files.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use super::adt::Adt;
use super::host::Host;
use super::real_hello::address;
use super::terminal::Terminal;

#[test]
fn names_neighbours_and_limits() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.run("platform:init hello").ok();
    let file = adt.here().join("hello/platform.toml");
    let text = std::fs::read_to_string(&file).expect("it was just made");
    std::fs::write(&file, text + "aliases = [\"www.hello-production.com\"]\n").expect("it is ours");
    adt.run("env:init 1").ok();
    adt.run("env:init 2").ok();

    let names = [
        "db",
        "web1",
        "web1.1.hello.example.test",
        "db.1.hello.example.test",
        "www.1.hello.example.test",
        "www.hello-production.com",
    ];
    for name in names {
        for machine in ["web2", "db"] {
            adt.run(&format!("env:exec 1 {machine} -- getent hosts {name}")).ok();
        }
    }
    let six = adt.run("env:exec 1 web1 -- getent ahostsv6 db.1.hello.example.test").ok().stdout;
    assert!(six.starts_with("fd"), "{six}");
    // A web server asks itself for its own site.
    let own = adt.run("env:exec 1 web2 -- getent hosts www.hello-production.com").ok().stdout;
    assert!(own.starts_with(&address(&adt, "1", "web2")), "{own}");

    let shown = adt.run("env:show 2 --json").ok().json();
    let machines = shown["machines"].as_array().expect("machines");
    let web = machines.iter().find(|one| one["name"] == "web1").expect("it has one");
    let foreign: Vec<_> = web["addresses"].as_array().expect("addresses").iter().filter_map(|one| one.as_str()).collect();
    let within = "env:exec 1 web1 -- curl --silent --fail --max-time 5 --output /dev/null";
    adt.run(&format!("{within} http://web2/healthz")).ok();
    adt.run("env:exec 1 web1 -- ping -6 -c1 -W3 web2.1.hello.example.test").ok();
    for address in foreign {
        let url = if address.contains(':') { format!("http://[{address}]/") } else { format!("http://{address}/") };
        let run = adt.run(&format!("env:exec 1 web1 -- curl --silent --max-time 2 --output /dev/null {url}"));
        assert!([7, 28].contains(&run.code), "{url} from another environment: {}", run.code);
    }

    for (machine, memory) in [("web1", 256), ("db", 384)] {
        let limit = adt.limit("hello/1", machine, ["memory.limit_in_bytes", "memory.max"]);
        assert_eq!(limit, (memory << 20_u64).to_string());
    }
    let states = adt.run("env:exec 1 -- systemctl is-system-running").ok().stdout;
    assert_eq!(states.matches("running").count(), 3, "{states}");
    adt.run("env:exec 1 -- systemctl list-units --failed --no-legend --plain").ok();
    adt.run("platform:destroy hello --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Outside is a second network that this test makes; nothing leaves the host.
#[test]
fn machines_reach_out_through_their_host() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", "[platform]\nname = \"tiny\"\nsummary = \"One\"\n[machines.one]\nbox = \"debian\"\n");
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let (host, outside) = (adt.host.as_ref().expect("it is alone"), Host::new());
    host.run(&format!("ip link add out type veth peer name in netns {}", outside.pid()));
    host.run("ip address add 198.51.100.1/30 dev out");
    host.run("ip link set out up");
    outside.run("ip address add 198.51.100.2/30 dev in");
    outside.run("ip link set in up");
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", outside.pid())).expect("it runs");
    let listener = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .expect("root may");
        TcpListener::bind("198.51.100.2:80").expect("nobody else is there")
    });
    let listener = listener.join().expect("it binds");
    let served = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().expect("somebody comes");
        let mut request = [0; 512];
        let _ = stream.read(&mut request);
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello").expect("it reads");
        from
    });
    adt.run("env:exec 1 one -- curl --silent --fail --max-time 5 http://198.51.100.2/").ok().says("hello");
    // The outside sees the host, not the machine.
    assert_eq!(served.join().expect("it ended").ip().to_string(), "198.51.100.1");
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn programs_and_files() {
    let Some(adt) = Adt::real() else { return };
    let adt = adt.alone();
    adt.platform_toml("tiny", "[platform]\nname = \"tiny\"\nsummary = \"Two\"\n[machines.node]\nbox = \"debian\"\ncount = 2\n");
    adt.run("platform:init tiny").ok();
    adt.run("env:init 1").ok();
    let code = |words: &[&str]| adt.command(words).output().expect("it starts").status.code();
    assert_eq!(code(&["env:exec", "1", "node1", "--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["env:exec", "1", "--", "sh", "-c", "test $(hostname) = node1"]), Some(1));
    assert_eq!(code(&["env:exec", "1", "node1", "--", "no-such-program"]), Some(127));
    assert_eq!(code(&["env:exec", "1", "node1", "--", "/etc/passwd"]), Some(126));
    assert_eq!(code(&["env:ssh", "1", "node1", "--", "sh", "-c", "kill -9 $$"]), Some(137));

    // Any bytes, five megabytes of them, both ways at once.
    let mut bytes = vec![0; 5 << 20];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("the kernel has random bytes");
    let mut cat = adt.command(&["env:ssh", "1", "node1", "--", "cat"]);
    let mut child = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    let copy = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy).expect("it reads"));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("it wrote");
    assert!(output.status.success() && output.stdout == bytes, "{} bytes came back", output.stdout.len());

    let folder = adt.here().join("tree/inner");
    std::fs::create_dir_all(&folder).expect("the folder is ours");
    std::fs::write(folder.join("script"), "#!/bin/sh\nexit 3\n").expect("the folder is ours");
    std::fs::set_permissions(folder.join("script"), PermissionsExt::from_mode(0o750)).expect("it is ours");
    symlink("inner/script", adt.here().join("tree/link")).expect("the folder is ours");
    adt.run("env:cp 1 tree node1:/srv/").ok();
    assert_eq!(code(&["env:exec", "1", "node1", "--", "/srv/tree/link"]), Some(3));
    adt.run("env:exec 1 node1 -- stat -c %a:%U:%N /srv/tree/inner/script /srv/tree/link").ok().says("750:root").says("->");
    adt.run("env:cp 1 node1:/srv/tree back").ok();
    let back = adt.here().join("back");
    assert_eq!(std::fs::read_link(back.join("link")).expect("a link").to_str(), Some("inner/script"));
    let mode = std::fs::metadata(back.join("inner/script")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    adt.run("env:cp 1 nothing node1:/tmp/").fails(4).says("`").says("nothing");
    adt.run("env:cp 1 node1:/no/such/file .").says("No such file");
    assert_eq!(code(&["env:cp", "1", "node1:/no/such/file", "."]), Some(8));

    with_a_terminal(&adt);
    adt.run("env:destroy 1 --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

fn with_a_terminal(adt: &Adt) {
    let mut shell = Terminal::open(&adt.command(&["env:ssh", "1", "node1"]), 33, 101);
    shell.shows("node1");
    shell.types("stty size; tty\r");
    shell.shows("33 101");
    shell.shows("/dev/pts/");
    shell.resize(44, 120);
    shell.types("stty size\r");
    shell.shows("44 120");
    // The shell runs its trap between commands: one that is about to start would be waited for first.
    shell.types("sh -c 'trap \"echo caught; exit\" INT; echo rea\"\"dy; while :; do sleep 0.1; done'\r");
    shell.shows("ready");
    shell.types("\x03");
    shell.shows("caught\r\n");
    shell.types("echo still-$((40+2))\r");
    shell.shows("still-42");
    shell.types("exit 7\r");
    assert_eq!(shell.end(), 7);

    // A question on a terminal, and progress drawn behind it.
    adt.run("env:init 2").ok();
    let mut question = Terminal::open(&adt.command(&["env:destroy", "2"]), 24, 80);
    question.shows("Go on? [y/N]");
    question.types("y\r");
    question.shows("`tiny/2` is destroyed");
    assert_eq!(question.end(), 0);
    // What has come while the question waited is asked about as well, and Ctrl-C is a no.
    let mut question = Terminal::open(&adt.command(&["platform:destroy", "tiny"]), 24, 80);
    question.shows("with its environment. Go on? [y/N]");
    adt.run("env:init 3").ok();
    question.types("y\r");
    question.shows("with its 2 environments. Go on? [y/N]");
    question.types("\x03");
    question.shows("you stopped it; nothing was changed");
    assert_eq!(question.end(), 130);
    adt.run("env:check 3").ok();
    adt.run("env:destroy 3 --yes").ok();

    let mut console = Terminal::open(&adt.command(&["env:ssh", "1", "node1", "--console"]), 24, 80);
    console.shows("joined the console");
    console.types("\r");
    console.shows("login:");
    console.types("\x1d\x1d");
    assert_eq!(console.end(), 0);
}
