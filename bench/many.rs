//! Ten environments of three machines, all at once: whether they come, how soon, and what one of them costs.

use std::time::{Duration, Instant};

use super::adt::Adt;
use super::report::Report;
use super::{Result, at_once};
use walkdir::WalkDir;

const COUNT: u32 = 10;

pub fn measure(adt: &Adt, report: &mut Report) -> Result<()> {
    let names: Vec<_> = (1..=COUNT).map(|number| number.to_string()).collect();
    let since = Instant::now();
    at_once(&names, |name| adt.run(&format!("env:init hello {name}")).map(drop))?;
    let up = since.elapsed();
    // What a service does right after it first answers belongs to it too.
    std::thread::sleep(Duration::from_secs(2));
    let groups = groups(adt)?;
    let anonymous = groups.iter().map(|group| memory(group)).sum::<u64>() / u64::from(COUNT);
    let monitors = groups.iter().map(|group| resident(&format!("{group}.monitor"))).sum::<u64>() / u64::from(COUNT);
    let disk = disk(adt) / u64::from(COUNT);
    let since = Instant::now();
    at_once(&names, |name| adt.run(&format!("env:destroy hello {name} --yes")).map(drop))?;
    let down = since.elapsed();
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let mebibytes = |bytes: u64| format!("{} MiB", bytes >> 20);
    report.row("ten environments (30 machines) at once until all answer", &seconds(up), up.as_secs_f64().into());
    report.row("all ten destroyed at once", &seconds(down), down.as_secs_f64().into());
    report.row("memory of one of them: its processes' own", &mebibytes(anonymous), anonymous.into());
    report.row("memory of one of them: LXC's monitors", &mebibytes(monitors), monitors.into());
    report.row("disk of one of them beyond the shared layers", &mebibytes(disk), disk.into());
    Ok(())
}

/// The control groups of all machines, as their configurations name them.
fn groups(adt: &Adt) -> Result<Vec<String>> {
    let mut groups = Vec::new();
    for entry in WalkDir::new(adt.store.join("machines")).min_depth(4).max_depth(4).into_iter().flatten() {
        if entry.file_name() == "config" {
            let text = std::fs::read_to_string(entry.path())?;
            groups.extend(text.lines().find_map(|line| line.strip_prefix("lxc.cgroup.dir.container = ")).map(str::to_owned));
        }
    }
    Ok(groups)
}

/// Memory that goes with its processes; the page cache of shared layers belongs to nobody.
fn memory(group: &str) -> u64 {
    let stat = |path: String| std::fs::read_to_string(path).ok();
    let text = stat(format!("/sys/fs/cgroup/memory/{group}/memory.stat"))
        .or_else(|| stat(format!("/sys/fs/cgroup/{group}/memory.stat")));
    let text = text.unwrap_or_default();
    // Version 1 counts children only in its totals, version 2 everywhere.
    let own = ["total_rss ", "total_shmem ", "anon ", "shmem "];
    let lines = text.lines().filter_map(|line| own.iter().find_map(|key| line.strip_prefix(key)));
    let all: u64 = lines.filter_map(|number| number.parse::<u64>().ok()).sum();
    if text.contains("total_rss ") {
        all - text.lines().filter_map(|line| line.strip_prefix("shmem ")).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>()
    } else {
        all
    }
}

/// What the processes of a group have in memory, by itself.
fn resident(group: &str) -> u64 {
    let folders = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"];
    let processes = folders.iter().find_map(|folder| std::fs::read_to_string(format!("{folder}/{group}/cgroup.procs")).ok());
    let private = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    processes.unwrap_or_default().lines().map(private).sum()
}

/// Bytes below `machines`.
fn disk(adt: &Adt) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let all = WalkDir::new(adt.store.join("machines")).into_iter().flatten();
    all.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.blocks() * 512).sum()
}
