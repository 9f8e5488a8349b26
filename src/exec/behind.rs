//! Work that nobody waits for, behind that of everybody else on this host.

use rustix::process::{Pid, setpriority_process};
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
    // SAFETY: they take no memory. rustix's own take for granted that the leader has an id; one outside of our process
    // namespace, as a container's runtime may be, has 0.
    if unsafe { libc::getsid(0) != libc::getpid() } {
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

    #[test]
    fn a_session_of_another_process_namespace_is_not_ours() {
        let test = std::env::current_exe().unwrap();
        let ours = std::fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
        // The first process in there keeps the session that it came from.
        let told = Command::new("unshare").args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]).arg(test);
        let told = told.args(["--exact", "exec::behind::tests::what_is_started_is_behind_too"]).run().unwrap();
        assert!(told.text().contains("1 passed"), "{}", told.text());
        assert_eq!(std::fs::read_to_string("/proc/self/autogroup").unwrap_or_default(), ours);
    }
}
