//! The working tree of a site with 20,000 files for a new environment, against `git clone` of the same branch.
//!
//! With a spare that earlier commands made ready; for the next environment at once, while the first's spare is made anew behind
//! it; and without any.
//! What was written stays until all is measured: ext4 is slow where many files were removed a moment ago.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::adt::exec::Command;

use super::adt::Adt;
use super::disk::Disk;
use super::probe::time;
use super::report::{Report, Samples};
use super::repository::{self, History};
use super::{HOME, Result, note, sweep};

const FILES: u32 = 20_000;
/// What a ticket's branch has changed.
const CHANGED: u32 = 20;
const GIGABYTES: u64 = 12;

pub fn measure(adt: &Adt, rounds: usize, report: &mut Report) -> Result<()> {
    Place { adt, name: "bulk", folder: Path::new(HOME).join("bulk"), filesystem: "this disk" }.measure(rounds, report)?;
    // Where block sharing might be hoped to help: it does not, because what costs is making files, not filling them.
    let disk = Disk::new("checkouts", GIGABYTES)?;
    Place { adt, name: "bulk-shared", folder: disk.folder.join("bulk"), filesystem: "XFS with reflinks" }
        .measure(rounds, report)?;
    adt.run("platform:destroy bulk-shared --yes").map(drop)
}

/// Where the platform's folder is, and beside it the repository.
struct Place<'a> {
    adt: &'a Adt,
    name: &'static str,
    folder: PathBuf,
    filesystem: &'static str,
}

impl Place<'_> {
    fn measure(&self, rounds: usize, report: &mut Report) -> Result<()> {
        self.prepare(rounds)?;
        let [mut clone, mut spare, mut next, mut bare] = [(); 4].map(|()| Samples::default());
        for round in 0..=rounds {
            let number = 3 * round;
            let clone_of = self.clone(number)?;
            rustix::fs::sync();
            let [first, second] = [self.check_out(number)?, self.check_out(number + 1)?];
            self.settle()?;
            self.take_spares_away(number)?;
            rustix::fs::sync();
            let without = self.check_out(number + 2)?;
            self.settle()?;
            for number in number..number + 3 {
                self.adt.run(&format!("env:halt {} {number}", self.name))?;
            }
            let all = [clone_of, first, second, without];
            note(&format!("round {round}: {}: git clone, with a spare, the next at once, without: {all:.1?}", self.filesystem));
            if round > 0 {
                [&mut clone, &mut spare, &mut next, &mut bare].into_iter().zip(all).for_each(|(samples, one)| samples.push(one));
            }
        }
        let what = format!("sources of {FILES} files on {}", self.filesystem);
        report.value(&format!("{what}: `git clone` beside it"), &clone);
        report.against(&format!("{what}: `env:init`'s own step, with a spare"), &spare, &clone);
        report.against(&format!("{what}: the same for the next environment at once"), &next, &clone);
        report.against(&format!("{what}: the same without"), &bare, &clone);
        Ok(())
    }

    fn origin(&self) -> PathBuf {
        self.folder.with_extension("git")
    }

    /// A branch for each environment, and the spares that `platform:build` leaves.
    fn prepare(&self, rounds: usize) -> Result<()> {
        let mut history = History::default();
        let page = ("public/index.php".to_owned(), b"<?php echo 'fine';".to_vec());
        history.commit("main", repository::sources(FILES).chain([page]));
        for number in 0..3 * (rounds + 1) {
            let changed = repository::sources(FILES).step_by((FILES / CHANGED) as usize);
            history.commit(&number.to_string(), changed.map(|(path, _)| (path, format!("changed in {number}").into_bytes())));
        }
        history.make(&self.origin())?;
        let text = format!(
            "[platform]\nname = \"{}\"\n[machines.web]\nbox = \"web-php\"\nmemory = \"256M\"\n\
             [sites.www]\non = \"web\"\npath = \"/srv/www\"\nsource = \"{}\"\n",
            self.name,
            self.origin().display()
        );
        self.adt.platform(&self.folder, &text)?;
        self.adt.run(&format!("platform:build {}", self.name))?;
        self.settle()
    }

    fn clone(&self, number: usize) -> Result<Duration> {
        rustix::fs::sync();
        let folder = self.folder.with_file_name(format!("clone-{number}"));
        let command = Command::new("git").args(["clone", "--quiet", "--branch", &number.to_string(), "--"]);
        time(|| Ok(command.arg(self.origin()).arg(folder).run().map(drop)?))
    }

    /// A new environment; how long its step for the sources took.
    fn check_out(&self, number: usize) -> Result<Duration> {
        let events = self.adt.events(&format!("env:init {} {number}", self.name))?;
        events.step("checkout").ok_or_else(|| "`env:init` told no step `checkout`".into())
    }

    fn spares(&self) -> Result<Vec<PathBuf>> {
        let all = std::fs::read_dir(self.folder.join(".adt"))?.flatten().map(|entry| entry.path());
        Ok(all.filter(|path| path.join(".git").exists()).collect())
    }

    fn take_spares_away(&self, number: usize) -> Result<()> {
        for (count, spare) in self.spares()?.into_iter().enumerate() {
            std::fs::rename(spare, self.folder.with_file_name(format!("spare-{number}-{count}")))?;
        }
        Ok(())
    }

    /// Waits for what commands leave to be done behind them.
    fn settle(&self) -> Result<()> {
        let store = self.adt.store.display().to_string();
        sweep::until("spares are there", Duration::from_secs(300), || {
            let busy = std::fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
                let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let words = String::from_utf8_lossy(&words);
                words.contains("internal:sources") && words.contains(&store)
            });
            !busy && self.spares().is_ok_and(|spares| spares.len() >= 2)
        })
    }
}
