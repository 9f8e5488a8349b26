//! Which program a service's process is: after an update it is still the one of before, whose file is gone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::exec::Command;

/// Whether a unit runs, and runs another program than this.
pub(in crate::engine) fn is_outdated(unit: &str, program: &Path) -> bool {
    let told = Command::new("systemctl").args(["show", unit, "--property", "MainPID", "--value"]).run();
    let process = told.map(|output| output.text().trim().to_owned()).unwrap_or_default();
    is_another(Path::new("/proc").join(process).join("exe").as_path(), program)
}

/// By what the kernel has open, which no rename changes. What can't be looked at is no reason to restart anything.
fn is_another(running: &Path, program: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    matches!((identity(running), identity(program)), (Some(running), Some(program)) if running != program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_another_once_its_file_was_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        std::fs::copy("/bin/sleep", &program).expect("it is there");
        let mut process = std::process::Command::new(&program).arg("infinity").spawn().expect("it starts");
        let running = Path::new("/proc").join(process.id().to_string()).join("exe");
        let before = is_another(&running, &program);
        std::fs::copy("/bin/sleep", folder.path().join("new")).expect("it is there");
        std::fs::rename(folder.path().join("new"), &program).expect("the folder is ours");
        let after = is_another(&running, &program);
        process.kill().and_then(|()| process.wait()).expect("it is ours");
        assert_eq!((before, after), (false, true));
        assert!(!is_another(&running, &program), "it has ended");
    }
}
