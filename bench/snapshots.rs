//! Snapshots of an environment with a large database, and the way back, in a store that shares blocks between files.

use std::path::Path;
use std::time::Duration;

use super::adt::{Adt, Model};
use super::data::{self, OTHER_GIGABYTES, ROW};
use super::disk::Disk;
use super::probe::time;
use super::report::{Report, Samples};
use super::{HOME, Result, note};

/// Looks at the clock all the time and says how long it could not, in milliseconds.
const STANDS_STILL: &str = "my $most = 0; my $last = time; my $end = $last + 3;
while ((my $now = time) < $end) { $most = $now - $last if $now - $last > $most; $last = $now; sleep 0.0005 }
printf \"%.1f\", $most * 1000";

/// A machine's program looks for so long around the snapshot.
const BEGUN: Duration = Duration::from_millis(700);

#[derive(Default)]
struct Times {
    up: Samples,
    snapshot: Samples,
    still: Samples,
    rewind: Samples,
}

pub fn measure(model: &Model, gigabytes: Option<u64>, rounds: usize, report: &mut Report) -> Result<()> {
    let gigabytes = gigabytes.map_or_else(data::that_fit, Ok)?;
    note(&format!("snapshots of `hello` with a database of {gigabytes} GB"));
    let disk = Disk::new("snapshots", 2 * gigabytes + OTHER_GIGABYTES)?;
    let adt = data::store(&disk, model.machines.iter())?;
    adt.run(&format!("platform:init {}", Path::new(HOME).join("hello").display()))?;
    adt.run("env:init hello 1")?;
    fill(&adt, (gigabytes << 30) / ROW)?;
    let mut times = Times::default();
    for round in 0..=rounds {
        let (up, snapshot, still, rewind) = one(&adt)?;
        note(&format!("round {round}: up {up:.1?}, snapshot {snapshot:.1?}, stands still {still:.1?}, rewind {rewind:.1?}"));
        if round > 0 {
            times.up.push(up);
            times.snapshot.push(snapshot);
            times.still.push(still);
            times.rewind.push(rewind);
        }
    }
    adt.run("platform:destroy hello --yes")?;
    report.value(&format!("`env:up` of `hello` with a database of {gigabytes} GB, store on XFS"), &times.up);
    report.value("`env:snapshot` of it", &times.snapshot);
    report.precise("its machines stand still for", &times.still);
    report.against("`env:rewind` of it, with the snapshot that it takes first", &times.rewind, &times.up);
    Ok(())
}

fn fill(adt: &Adt, rows: u64) -> Result<()> {
    let sql = |text: &str| {
        let command = adt.command("env:exec hello 1 db --").args(["mariadb", "--execute", text]);
        command.run().map(drop).map_err(|error| format!("{error}\n{}", error.tail().join("\n")))
    };
    sql("CREATE DATABASE pages; CREATE TABLE pages.pages (id BIGINT PRIMARY KEY, text TEXT NOT NULL)")?;
    for piece in data::pieces(rows) {
        sql(&format!("USE pages; {piece}"))?;
    }
    Ok(())
}

/// The times of one halt and up, of a snapshot, of a machine meanwhile, and of the way back.
fn one(adt: &Adt) -> Result<(Duration, Duration, Duration, Duration)> {
    adt.run("env:halt hello 1")?;
    rustix::fs::sync();
    let up = time(|| adt.run("env:up hello 1").map(drop))?;
    let looking = adt.command("env:exec hello 1 db --").args(["perl", "-MTime::HiRes=time,sleep", "-e", STANDS_STILL]);
    let (snapshot, still) = std::thread::scope(|scope| -> Result<_> {
        let looking = scope.spawn(|| looking.run());
        std::thread::sleep(BEGUN);
        let snapshot = time(|| adt.run("env:snapshot hello 1 kept").map(drop))?;
        let told = looking.join().expect("it only waits")?.text();
        Ok((snapshot, Duration::from_secs_f64(told.trim().parse::<f64>()? / 1000.0)))
    })?;
    let rewind = time(|| adt.run("env:rewind hello 1 kept --yes").map(drop))?;
    adt.run("env:snapshots hello 1 --remove kept --yes")?;
    Ok((up, snapshot, still, rewind))
}
