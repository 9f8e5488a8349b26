//! Work that nobody waits for, behind that of everybody else on this host.

use rustix::process::{Pid, getpid, getsid, setpriority_process};
use rustix::thread::gettid;

use super::Command;

/// The least that the kernel has, for this thread and all that it starts from now on: processor time that is left over, and
/// the disk where nobody else wants it. There is no way back. What fails leaves us as we were.
pub fn step_behind() {
    let told = [
        ("its niceness", setpriority_process(None, 19).map_err(|error| error.to_string())),
        ("its session's niceness", behind_other_sessions()),
        ("its disk class", disk_when_idle(gettid()).map_err(|error| error.to_string())),
    ];
    for (what, result) in told {
        if let Err(error) = result {
            tracing::debug!(error, "{what} stays as it is");
        }
    }
}

/// Most kernels share processors between sessions first, and look at niceness inside of each only. Ours alone: a person's
/// terminal is not to be slow because this was started in it.
fn behind_other_sessions() -> Result<(), String> {
    if getsid(None).map_err(|error| error.to_string())? != getpid() {
        return Ok(());
    }
    match std::fs::write("/proc/self/autogroup", "19") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn disk_when_idle(thread: Pid) -> Result<(), super::Error> {
    Command::new("ionice").args(["--class", "idle", "--pid"]).arg(thread.to_string()).run().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_is_behind_too() {
        // In a thread, so that the other tests are as fast as before.
        let told = std::thread::spawn(|| {
            step_behind();
            ["nice", "ionice"].map(|program| Command::new(program).run().unwrap().text().trim().to_owned())
        });
        assert_eq!(told.join().unwrap(), ["19", "idle"]);
    }
}
