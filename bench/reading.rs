//! The commands that only read, with a store as full as one gets.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ::adt::model::EnvironmentName;
use ::adt::store::{Store, Wanted};
use ipnet::Ipv4Net;

use super::adt::{Adt, Model};
use super::report::{Report, Samples};
use super::{HOME, Result};

const COUNT: u32 = 500;
const TIMES: usize = 20;

pub fn measure(built: &Adt, model: &Model, report: &mut Report) -> Result<()> {
    let full = full(built, model, "full", COUNT)?;
    for words in ["env:list", "env:show hello 250", "platform:list"] {
        let mut samples = Samples::default();
        let mut most = 0;
        for _ in 0..TIMES {
            let (time, peak) = run(&full, words)?;
            samples.push(time);
            most = most.max(peak);
        }
        let name = format!("`{words}` with {COUNT} environments");
        let value = format!("{:.1} ms, {} MB", samples.median().as_secs_f64() * 1000.0, most / 1000);
        report.row(&name, &value, serde_json::json!({ "median_ms": samples.median().as_secs_f64() * 1000.0, "peak_kB": most }));
    }
    Ok(())
}

/// Runs it; how long that took and the most memory it had, in kilobytes.
fn run(adt: &Adt, words: &str) -> Result<(Duration, u64)> {
    let mut command = adt.command(words).to_std();
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let since = Instant::now();
    let child = command.spawn()?;
    let mut status = 0;
    // SAFETY: a structure of numbers, for which all zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are ours and outlive the call; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) };
    let time = since.elapsed();
    if waited < 0 || status != 0 {
        return Err(format!("`adt {words}` ended with status {status}").into());
    }
    Ok((time, usage.ru_maxrss.unsigned_abs()))
}

/// A store of its own with environments like the model, none of which runs.
pub fn full(built: &Adt, model: &Model, name: &str, count: u32) -> Result<Adt> {
    let full = Adt { store: std::path::Path::new(HOME).join(name) };
    std::fs::create_dir_all(&full.store)?;
    std::os::unix::fs::symlink(built.store.join("layers").canonicalize()?, full.store.join("layers"))?;
    full.run(&format!("platform:init {HOME}/hello"))?;
    let store = Store::open(&full.store)?;
    for number in 1..=count {
        add(&store, model, number)?;
    }
    Ok(full)
}

/// One environment more in the store and on disk, as `env:init` would leave it.
pub fn add(store: &Store, model: &Model, number: u32) -> Result<()> {
    let mut environment = model.environment.clone();
    environment.id.name = EnvironmentName::new(number.to_string())?;
    environment.wanted = Wanted::Up;
    environment.disk = Some(20 << 20);
    let network = Ipv4Net::new((0x0AE5_0000 + number * 64).into(), 26)?;
    store.database.add_environment(
        |_| Ok::<_, Box<dyn std::error::Error + Send + Sync>>(network),
        |network| ::adt::store::Environment { network, ..environment.clone() },
        &std::collections::BTreeMap::new(),
    )?;
    for machine in &model.machines {
        let mut spec = machine.spec.clone();
        spec.id.environment = environment.id.clone();
        store.database.put_applied(&spec)?;
        let folder = store.folder.join("machines/hello").join(number.to_string()).join(&machine.name);
        std::fs::create_dir_all(folder.join("upper/etc"))?;
        std::fs::create_dir_all(folder.join("work"))?;
        std::fs::write(folder.join("spec.json"), serde_json::to_vec_pretty(&spec)?)?;
        std::fs::write(folder.join("config"), &machine.config)?;
    }
    Ok(())
}
