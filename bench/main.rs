//! How fast environments come and go, and their names and pages are served, against the programs that could be used instead.
//! `make bench` runs it as root.
//!
//! Everything is measured in the same run, one peer after the other in each round, and told as ratios of medians: only
//! those mean something on another computer. Peers run the very files that adt's machines run, without a network of their
//! own making, from daemons that are started here and ended here. All that is made carries [`NAME`] or lies in [`HOME`],
//! so that a later run finds what a killed one left.

mod adt;
mod bound;
mod data;
mod deploy;
mod disk;
mod docker;
mod edit;
mod fairness;
mod image;
mod lxc;
mod lxd;
mod many;
mod names;
mod probe;
mod process;
mod reading;
mod report;
mod repository;
mod serving;
mod snapshots;
mod sources;
mod sweep;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::adt::exec::Command;
use report::{Report, Samples};

/// Part of every name that this program gives to a kernel object.
pub const NAME: &str = "adt-bench";
/// Where everything lies; gone at the end.
pub const HOME: &str = "/var/tmp/adt-bench";
/// What can be measured, in this order.
const PARTS: [&str; 17] = [
    "lxc",
    "lxc-copy",
    "lxd",
    "docker",
    "many",
    "reading",
    "build",
    "sources",
    "deploy",
    "edit",
    "data",
    "snapshots",
    "serving",
    "bound",
    "names",
    "traffic",
    "fairness",
];
/// Those that need no machines.
const SERVERS: [&str; 3] = ["names", "traffic", "fairness"];

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Something that brings up two web servers and a database.
pub trait Peer {
    fn name(&self) -> &'static str;
    /// What one would have done long before; not measured.
    fn prepare(&mut self) -> Result<()>;
    /// From nothing running until the commands are back.
    fn start(&self) -> Result<()>;
    /// Where its machines will answer.
    fn targets(&self) -> Vec<probe::Target>;
    /// Until nothing runs any more.
    fn stop(&self) -> Result<()>;
    /// What the next round must not find; not measured.
    fn clean(&mut self) -> Result<()>;
}

/// Which parts and how often.
struct Wish {
    rounds: usize,
    parts: Vec<String>,
    /// Of the large database; as much as the disk has room for, up to five.
    gigabytes: Option<u64>,
}

impl Wish {
    /// `--rounds 7 --only lxc,data --gigabytes 1`; cargo adds `--bench`.
    fn read() -> Result<Self> {
        let mut wish = Self { rounds: 7, parts: PARTS.map(str::to_owned).to_vec(), gigabytes: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("`{word}` needs a value"));
            match word.as_str() {
                "--bench" => {}
                "--rounds" => wish.rounds = value()?.parse()?,
                "--gigabytes" => wish.gigabytes = Some(value()?.parse()?),
                "--only" => wish.parts = value()?.split(',').map(str::to_owned).collect(),
                other => {
                    let known = "`--rounds N`, `--only PART,…` and `--gigabytes N`";
                    return Err(format!("`{other}` is unknown; there are {known}").into());
                }
            }
        }
        if let Some(part) = wish.parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            return Err(format!("there is no part `{part}`; there are {}", PARTS.join(", ")).into());
        }
        Ok(wish)
    }

    fn has(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }
}

fn main() -> ExitCode {
    let done = Wish::read().and_then(|wish| {
        if !rustix::process::geteuid().is_root() {
            return Err("machines are root's: run this as root".into());
        }
        let _alone = sweep::alone()?;
        sweep::all()?;
        let done = run(&wish);
        // Whatever happened, nothing stays behind; what happened is the first thing to tell.
        let swept = sweep::all();
        done.and_then(|report| swept.map(|()| report))
    });
    match done {
        Ok(report) => {
            print!("{}", report.markdown());
            match report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/results.json")) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => complain(&*error),
            }
        }
        Err(error) => complain(&*error),
    }
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        eprintln!("  because: {cause}");
        next = cause.source();
    }
    ExitCode::FAILURE
}

fn run(wish: &Wish) -> Result<Report> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, cancel.clone())?;
    }
    install(wish)?;
    std::fs::create_dir_all(HOME)?;
    rustix::fs::chmod(HOME, rustix::fs::Mode::from_raw_mode(0o711))?;
    let mut report = Report::new();
    if wish.parts.iter().any(|part| !SERVERS.contains(&part.as_str())) {
        machines(wish, &cancel, &mut report)?;
    }
    if wish.has("names") {
        note("names of 500 environments, and other name servers");
        names::measure(wish.rounds, &mut report)?;
    }
    if wish.has("traffic") {
        note("pages of 500 environments, and other proxies");
        traffic::measure(wish.rounds, &mut report)?;
    }
    if wish.has("fairness") {
        note("another's pages while one holds all that it can get");
        fairness::measure(wish.rounds, &mut report)?;
    }
    Ok(report)
}

/// What is done with machines, or with a store that knows many.
fn machines(wish: &Wish, cancel: &AtomicBool, report: &mut Report) -> Result<()> {
    note("the boxes of `hello`, built where they are missing");
    let home = adt::Adt::new("store")?;
    let model = home.model()?;
    rounds(wish, &home, &model, cancel, report)?;
    if wish.has("many") {
        note("ten environments at once");
        many::measure(&home, report)?;
    }
    if wish.has("build") {
        note("building what is built");
        let mut samples = Samples::default();
        for _ in 0..wish.rounds {
            samples.push(probe::time(|| home.run("platform:build hello").map(drop))?);
        }
        report.value("`platform:build` with nothing to do", &samples);
    }
    if wish.has("sources") {
        note("sources of a large site");
        sources::measure(&home, wish.rounds, report)?;
    }
    if wish.has("deploy") {
        note("deploys of a built release");
        deploy::measure(&home, wish.rounds, report)?;
    }
    if wish.has("edit") {
        note("edits in a live checkout");
        edit::measure(&home, report)?;
    }
    if wish.has("data") {
        data::measure(&model, wish.gigabytes, wish.rounds, report)?;
    }
    if wish.has("snapshots") {
        snapshots::measure(&model, wish.gigabytes, wish.rounds, report)?;
    }
    if wish.has("reading") {
        note("reading with 500 environments in the store");
        reading::measure(&home, &model, report)?;
    }
    if wish.has("serving") {
        note("serving 500 environments");
        serving::measure(&home, &model, wish.rounds, report)?;
    }
    if wish.has("bound") {
        note("configuration of other servers for 1,000 environments");
        bound::measure(&home, &model, wish.rounds, report)?;
    }
    Ok(())
}

/// adt and its peers by turns, so that what disturbs one disturbs the others too.
fn rounds(wish: &Wish, home: &adt::Adt, model: &adt::Model, cancel: &AtomicBool, report: &mut Report) -> Result<()> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    if wish.parts.iter().any(|part| PARTS[..4].contains(&part.as_str())) {
        peers.push(Box::new(adt::Environment::new(home.clone(), model)));
    }
    if wish.has("lxc") {
        peers.push(Box::new(lxc::Bare::new(model)?));
    }
    let images = if wish.parts.iter().any(|part| ["lxc-copy", "lxd", "docker"].contains(&part.as_str())) {
        note("the same files as one folder and as images");
        Some(image::Images::new(model)?)
    } else {
        None
    };
    if let Some(images) = &images {
        if wish.has("lxc-copy") {
            for kind in [lxc::Kind::Whole, lxc::Kind::Snapshot] {
                peers.push(Box::new(lxc::Copied::new(model, images, kind)?));
            }
        }
        if wish.has("lxd") {
            note("starting LXD");
            peers.push(Box::new(lxd::Lxd::new(model, images)?));
        }
        if wish.has("docker") {
            note("starting Docker");
            peers.push(Box::new(docker::Docker::new(model, images)?));
        }
    }
    // The first round fills the page cache and is not counted.
    for round in 0..=wish.rounds {
        // There and back, so that nobody always comes after the same one.
        peers.reverse();
        for peer in &mut peers {
            if cancel.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            peer.prepare()?;
            settle();
            let (up, back) = probe::bring_up(&**peer)?;
            // A machine that still boots ends differently from one that has.
            std::thread::sleep(Duration::from_millis(500));
            let down = probe::time(|| peer.stop())?;
            peer.clean()?;
            note(&format!(
                "round {round}: {} up {} ms (command {} ms), down {} ms",
                peer.name(),
                up.as_millis(),
                back.as_millis(),
                down.as_millis()
            ));
            if round > 0 {
                report.peer(peer.name(), up, back, down);
            }
        }
    }
    Ok(())
}

/// What was stopped is not gone yet: the kernel takes its namespaces and control groups down later, and writes what was copied.
/// The next one must not pay for it.
fn settle() {
    rustix::fs::sync();
    std::thread::sleep(Duration::from_secs(1));
}

/// What the peers need, from the distribution's packages.
fn install(wish: &Wish) -> Result<()> {
    let mut packages = Vec::new();
    let needs = [
        ("lxc", "lxc-start", &["lxc"][..]),
        ("lxc-copy", "lxc-copy", &["lxc"]),
        ("lxc-copy", "rsync", &["rsync"]),
        ("lxd", "lxd", &["lxd", "dnsmasq-base", "btrfs-progs"]),
        ("docker", "dockerd", &["docker.io"]),
        ("docker", "docker-compose", &["docker-compose"]),
    ];
    for (part, program, names) in needs {
        if wish.has(part) && !in_path(program) {
            packages.extend_from_slice(names);
        }
    }
    let servers = [
        ("names", names::PACKAGES),
        ("traffic", traffic::PACKAGES),
        ("bound", bound::PACKAGES),
        ("sources", disk::PACKAGES),
        ("data", disk::PACKAGES),
        ("snapshots", disk::PACKAGES),
    ];
    for (part, programs) in servers {
        let missing = programs.iter().filter(|(program, _)| wish.has(part) && !in_path(program));
        packages.extend(missing.map(|(_, package)| *package));
    }
    if packages.is_empty() {
        return Ok(());
    }
    note(&format!("installing {}", packages.join(", ")));
    let apt = |words: &[&str]| {
        Command::new("apt-get").args(words.iter().copied()).env("DEBIAN_FRONTEND", "noninteractive").run().map(drop)
    };
    apt(&["update", "-q"])?;
    apt(&[&["install", "-q", "-y", "--no-install-recommends"], packages.as_slice()].concat())?;
    Ok(())
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).any(|folder| folder.join(program).exists())
}

/// A program of a peer's, to its end; an error has its last lines.
pub fn run_peer(command: &Command) -> Result<()> {
    command.run().map(drop).map_err(|error| format!("{error}\n{}", error.tail().join("\n")).into())
}

pub fn note(text: &str) {
    eprintln!("· {text}");
}

/// Does the same for several at the same time.
pub fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let failures: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a thread of ours ends").err()).collect()
    });
    failures.into_iter().next().map_or(Ok(()), Err)
}
