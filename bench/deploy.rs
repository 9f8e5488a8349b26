//! A release that is built already, put on two machines and taken back, and what unpacking it alone takes.
//!
//! The site's own programs do nothing, so all that is measured is adt's: fetching the branch, unpacking, starting the programs
//! under their rules, switching one machine after the other, and asking each for its page.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::adt::Adt;
use super::report::{Report, Samples};
use super::repository::{self, History};
use super::{HOME, Result, at_once, note};

const FILES: u32 = 5_000;
const MACHINES: [&str; 2] = ["web1", "web2"];

pub fn measure(adt: &Adt, rounds: usize, report: &mut Report) -> Result<()> {
    prepare(adt, rounds)?;
    let [mut forward, mut back, mut bare] = [(); 3].map(|()| Samples::default());
    let mut parts: BTreeMap<String, Samples> = BTreeMap::new();
    for round in 0..=rounds {
        let since = Instant::now();
        let events = adt.events(&format!("site:deploy press 2 www --branch v{round}"))?;
        let deployed = since.elapsed();
        let since = Instant::now();
        adt.run("site:rollback press 2 www")?;
        let rolled_back = since.elapsed();
        let unpacked = unpack(adt, round)?;
        note(&format!("round {round}: deploy {deployed:.1?}, rollback {rolled_back:.1?}, tar alone {unpacked:.1?}"));
        if round > 0 {
            forward.push(deployed);
            back.push(rolled_back);
            bare.push(unpacked);
            for (name, took) in events.tasks() {
                parts.entry(name).or_default().push(took);
            }
        }
    }
    let what = format!("a built release of {FILES} files to two machines");
    report.value(&format!("`site:deploy` of {what}, its programs do nothing"), &forward);
    report.value("`site:rollback` of it", &back);
    report.value("the same release unpacked by `tar` in both at once, through `adt env:exec`", &bare);
    for (name, samples) in &parts {
        report.value(&format!("`site:deploy`: {name}"), samples);
    }
    adt.run("platform:destroy press --yes").map(drop)
}

/// Every version is built in one environment, and deployed in another that never had it.
fn prepare(adt: &Adt, rounds: usize) -> Result<()> {
    let origin = Path::new(HOME).join("press.git");
    let mut history = History::default();
    let own =
        [("public/index.php", "<?php echo 'fine';"), ("deploy/predeploy", "#!/bin/sh\n"), ("deploy/postdeploy", "#!/bin/sh\n")];
    let own = own.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    history.commit("main", repository::sources(FILES).chain(own));
    for version in 0..=rounds {
        history.commit(&format!("v{version}"), [("version".to_owned(), version.to_string().into_bytes())]);
    }
    history.make(&origin)?;
    let text = format!(
        "[platform]\nname = \"press\"\n[machines.web]\nbox = \"web-php\"\ncount = 2\nmemory = \"256M\"\n\
         [sites.www]\non = \"web\"\npath = \"/srv/www\"\nmode = \"release\"\nkeep = {}\n\
         predeploy = \"deploy/predeploy\"\npostdeploy = \"deploy/postdeploy\"\nsource = \"{}\"\n",
        rounds + 3,
        origin.display()
    );
    adt.platform(&Path::new(HOME).join("press"), &text)?;
    adt.run("env:init press 1")?;
    for version in 0..=rounds {
        adt.run(&format!("site:deploy press 1 www --branch v{version}"))?;
    }
    adt.run("env:halt press 1")?;
    adt.run("env:init press 2").map(drop)
}

/// What must be done at least: the archive of a release through the same door into both machines.
fn unpack(adt: &Adt, round: usize) -> Result<Duration> {
    let releases = std::fs::read_dir(adt.store.join("releases"))?.flatten();
    let archive = releases.map(|entry| entry.path().join("tree.tar.zst")).find(|path| path.is_file());
    let archive = archive.ok_or("releases are built")?;
    let since = Instant::now();
    at_once(&MACHINES, |machine| {
        let script = format!("mkdir /srv/tar-{round} && tar --extract --directory /srv/tar-{round}");
        let command = adt.command(&format!("env:exec press 2 {machine} --")).args(["sh", "-c", &script]);
        let mut child = command.to_std().stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut input = child.stdin.take().ok_or("it was piped")?;
        zstd::stream::copy_decode(std::fs::File::open(&archive)?, &mut input)?;
        drop(input);
        if child.wait()?.success() { Ok(()) } else { Err(format!("tar failed in `{machine}`").into()) }
    })?;
    Ok(since.elapsed())
}
