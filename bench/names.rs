//! Names: adt's name server against Bind and dnsmasq with the zones and records that adt itself writes for them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use ::adt::bind::{self, Facts, Front, Home, Server};
use ::adt::dns::{self, sample};
use ::adt::exec::Command;
use ::adt::model::Routes;

use super::process::{Meter, Process};
use super::report::{Contest, Report, Score};
use super::{HOME, Result, note, sweep};

pub const PACKAGES: &[(&str, &str)] = &[("named", "bind9"), ("dnsmasq", "dnsmasq-base"), ("dnsperf", "dnsperf")];

const ENVIRONMENTS: u32 = 500;
/// The next three are listened at.
const PORT: u16 = 15_350;
/// Long enough for tens of thousands of answers.
const SECONDS: u32 = 2;

pub fn measure(rounds: usize, report: &mut Report) -> Result<()> {
    let folder = Path::new(HOME).join("names");
    sweep::folder(&folder)?;
    let routes = sample::routes(ENVIRONMENTS, Ipv4Addr::new(10, 97, 0, 0));
    let questions = questions(&folder, &routes)?;
    // Bind listens only at addresses that an interface has, of which loopback has one.
    let at = |number: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, PORT + number));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("names").enable_all().build()?;
    let config = dns::Config {
        listen: vec![at(1)],
        // Nobody's bridges are here: a port that is free at addresses that are not there.
        gateway_port: PORT,
        proxy_v4: Ipv4Addr::LOCALHOST,
        proxy_v6: None,
        upstreams: Vec::new(),
        serial: 1,
        listeners: Default::default(),
    };
    let inside = runtime.enter();
    let own = dns::Server::start(config, &routes)?;
    drop(inside);
    let bind = peer(&folder, Server::Bind, &routes, at(2))?;
    let dnsmasq = peer(&folder, Server::Dnsmasq, &routes, at(3))?;
    let sides = [("adt", at(1), Meter::Threads("names")), ("Bind 9", at(2), bind.meter()), ("dnsmasq", at(3), dnsmasq.meter())];
    let unit = format!("answers a second for {ENVIRONMENTS} environments (of a core for each)");
    let mut contest = Contest::new(&unit, sides.map(|(name, ..)| name));
    // The first round fills the peers' caches and is not counted.
    for round in 0..=rounds {
        for (what, code) in &questions {
            for (side, (name, address, meter)) in sides.iter().enumerate() {
                let score =
                    ask(&folder.join(what), code, *address, *meter).map_err(|error| format!("{name}, {what}: {error}"))?;
                note(&format!("round {round}: {name}, {what}: {:.0}/s", score.rate));
                if round > 0 {
                    contest.push(what, side, score);
                }
            }
        }
    }
    report.contest(contest);
    runtime.block_on(own.stop());
    Ok(())
}

/// Files for dnsperf, and the code that most of each one's answers must have.
fn questions(folder: &Path, routes: &Routes) -> Result<[(&'static str, &'static str); 4]> {
    let (mut there, mut below, mut missing, mut all) = (String::new(), String::new(), String::new(), String::new());
    for (number, environment) in routes.environments().enumerate() {
        let host = environment.host();
        for machine in &environment.machines {
            let name = environment.machine_host(machine);
            writeln!(there, "{name} A\n{name} AAAA")?;
        }
        for site in &environment.sites {
            writeln!(there, "{} A", site.host)?;
            writeln!(below, "any{number}.{} A", site.host)?;
            writeln!(missing, "missing-{}.{host} A", site.name)?;
        }
    }
    // Half of the mix exists, a quarter is below sites, a quarter does not exist.
    let (mut more, mut none) = (below.lines(), missing.lines());
    for (number, line) in there.lines().enumerate() {
        let extra = if number % 4 == 0 { more.next() } else { none.next() };
        writeln!(all, "{line}")?;
        extra.map_or(Ok(()), |extra| writeln!(all, "{extra}"))?;
    }
    let files = [
        ("names that exist", there, "NOERROR"),
        ("names below sites", below, "NOERROR"),
        ("names that do not exist", missing, "NXDOMAIN"),
        ("all of these", all, "NOERROR"),
    ];
    for (name, text, _) in &files {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(files.map(|(name, _, code)| (name, code)))
}

fn peer(folder: &Path, server: Server, routes: &Routes, at: SocketAddr) -> Result<Process> {
    let root = folder.join(server.as_str());
    let home = Home { root: root.clone(), unit: None, ..Home::debian(server) };
    let front = Front { v4: Ipv4Addr::LOCALHOST, v6: None, http: 80, https: 443, listen: Vec::new() };
    let facts = Facts {
        owner: adt::bind::Owner { install: "bench", store: std::path::Path::new("/var/lib/adt") },
        routes,
        front: &front,
        certificate: &|_| None,
        templates: None,
        now: 1,
    };
    bind::output(&home, &facts, folder.into())?;
    let (main, root) = (root.join("main"), root.display());
    let (ip, port) = (at.ip(), at.port());
    let (text, command) = if server == Server::Bind {
        let text = format!(
            "options {{ directory \"{root}\"; pid-file none; session-keyfile \"{root}/key\"; recursion no;\n\
             listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\ninclude \"{root}/adt/main.conf\";\n"
        );
        (text, Command::new("named").arg("-g").arg("-c"))
    } else {
        let text = format!(
            "port={port}\nlisten-address={ip}\nbind-interfaces\nno-resolv\nno-hosts\nuser=root\npid-file={root}/pid\n\
             conf-file={root}/adt/main.conf\n"
        );
        (text, Command::new("dnsmasq").arg("--keep-in-foreground").arg("-C"))
    };
    std::fs::write(&main, text)?;
    Process::start(&command.arg(&main), &folder.join(format!("{server}.log")), at)
}

fn ask(questions: &Path, code: &str, at: SocketAddr, meter: Meter) -> Result<Score> {
    let [ip, port, seconds] = [at.ip().to_string(), at.port().to_string(), SECONDS.to_string()];
    let command = Command::new("dnsperf").args(["-s", &ip, "-p", &port, "-l", &seconds, "-c", "8", "-T", "1", "-q", "200", "-d"]);
    let before = meter.read()?;
    let text = command.arg(questions).run()?.text();
    let took = meter.read()? - before;
    let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let number = |name: &str| field(name).and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    let (Some(rate), Some(sent), Some(lost)) = (number("Queries per second:"), number("Queries sent:"), number("Queries lost:"))
    else {
        return Err(format!("dnsperf said something else: {text}").into());
    };
    if lost > sent / 100.0 || !field("Response codes:").is_some_and(|codes| codes.contains(code)) {
        return Err(format!("the answers are wrong or missing: {text}").into());
    }
    Ok(Score { rate, p99: None, cpu: took.div_f64(sent.max(1.0)) })
}
