//! Environments over a large database against the same over an empty one, in a store that shares blocks between files.
//!
//! What is compared is `env:init` and the first change of a row, because that is where a database of gigabytes would be copied.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ::adt::exec::Command;

use super::adt::{Adt, BOXES, Machine, Model};
use super::disk::Disk;
use super::probe::time;
use super::report::{Report, Samples};
use super::{HOME, Result, note};

/// A row with its text, in bytes.
pub const ROW: u64 = 4096;
/// A dump is loaded in pieces, as `mysqldump` writes them.
const PIECE: u64 = 20_000;
/// What a store takes beside the database: boxes, logs of a load, what environments write.
pub const OTHER_GIGABYTES: u64 = 4;

pub fn measure(model: &Model, gigabytes: Option<u64>, rounds: usize, report: &mut Report) -> Result<()> {
    let gigabytes = gigabytes.map_or_else(that_fit, Ok)?;
    note(&format!("a database of {gigabytes} GB, loaded once"));
    let disk = Disk::new("data", 2 * gigabytes + OTHER_GIGABYTES)?;
    let database = model.machines.iter().filter(|machine| !machine.is_web());
    let adt = store(&disk, database)?;
    for (name, rows) in [("empty", 1), ("large", (gigabytes << 30) / ROW)] {
        let took = time(|| platform(&adt, name, rows))?;
        note(&format!("`{name}` is built in {took:.1?}"));
    }
    let mut times = ["empty", "large"].map(|name| (name, Samples::default(), Samples::default()));
    for round in 0..=rounds {
        for (name, init, write) in &mut times {
            let before = disk.used()?;
            let (began, wrote) = one(&adt, name)?;
            let space = disk.used()?.saturating_sub(before) >> 20;
            note(&format!("round {round}: {name}: `env:init` {began:.1?}, first write {wrote:.1?}, {space} MiB of disk"));
            adt.run(&format!("env:destroy {name} 1 --yes"))?;
            if round > 0 {
                init.push(began);
                write.push(wrote);
            }
        }
    }
    let [(_, empty_init, empty_write), (_, init, write)] = &times;
    report.value("`env:init` over an empty MariaDB, store on XFS", empty_init);
    report.against(&format!("the same over {gigabytes} GB"), init, empty_init);
    report.value("the first change of a row, from the command to its end: empty", empty_write);
    report.against(&format!("the same in {gigabytes} GB"), write, empty_write);
    Ok(())
}

/// Five, if the disk has three times that; a load's own files go again.
pub fn that_fit() -> Result<u64> {
    let disk = rustix::fs::statvfs(HOME)?;
    let free = (disk.f_bavail * disk.f_frsize) >> 30;
    match free.saturating_sub(OTHER_GIGABYTES) / 3 {
        0 => Err(format!("{HOME} has only {free} GB free, and a database of one needs three times that").into()),
        most => Ok(most.min(5)),
    }
}

/// A store of its own on the disk, because machines share blocks only with layers that lie there too.
pub fn store<'m>(disk: &Disk, machines: impl Iterator<Item = &'m Machine>) -> Result<Adt> {
    let adt = Adt { store: disk.folder.join("store") };
    let layers = adt.store.join("layers");
    std::fs::create_dir_all(&layers)?;
    let wanted: BTreeSet<_> = machines.flat_map(|machine| &machine.spec.layers).collect();
    for layer in wanted {
        Command::new("cp").arg("--archive").arg(Path::new(BOXES).join("layers").join(layer.as_str())).arg(&layers).run()?;
    }
    Ok(adt)
}

/// What fills `pages` with so many rows.
pub fn pieces(rows: u64) -> impl Iterator<Item = String> {
    (1..=rows).step_by(PIECE as usize).map(move |first| {
        let last = rows.min(first + PIECE - 1);
        format!("INSERT INTO pages SELECT seq, REPEAT(SHA2(seq, 512), 31) FROM seq_{first}_to_{last};\n")
    })
}

/// One database server with so many rows.
fn platform(adt: &Adt, name: &str, rows: u64) -> Result<()> {
    let folder = adt.store.with_file_name(name);
    std::fs::create_dir_all(folder.join("seed"))?;
    let mut dump = "CREATE TABLE pages (id BIGINT PRIMARY KEY, text TEXT NOT NULL);\n".to_owned();
    pieces(rows).for_each(|piece| dump += &piece);
    std::fs::write(folder.join("seed/pages.sql"), dump)?;
    let text = format!(
        "[platform]\nname = \"{name}\"\n[machines.db]\nbox = \"mariadb\"\nmemory = \"1G\"\ndata = [\"/var/lib/mysql\"]\n\
         [data.pages]\nmachine = \"db\"\nengine = \"mariadb\"\ndatabase = \"pages\"\nseed = \"seed/pages.sql\"\n"
    );
    adt.platform(&folder, &text)
}

/// How long until an environment answers, and from there until a change of its first row is done.
fn one(adt: &Adt, name: &str) -> Result<(Duration, Duration)> {
    rustix::fs::sync();
    let began = time(|| adt.run(&format!("env:init {name} 1")).map(drop))?;
    let change = adt.command(&format!("env:exec {name} 1 db --")).args(["mariadb", "pages", "--execute"]);
    let change = change.arg("UPDATE pages SET text = 'changed' WHERE id = 1");
    let wrote = time(|| Ok(change.run().map(drop)?))?;
    Ok((began, wrote))
}
