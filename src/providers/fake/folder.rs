//! A fake machine's files: a folder in which adt's own small programs run for real.
//!
//! Their paths are moved below the folder. What a folder has not got, namespaces and an init, is answered in its place.

use std::path::{Path, PathBuf};

use crate::exec::Command;

/// Stands in for `releases/phase.sh`: the release's program itself, without what keeps it apart.
const PHASE: &str = r#"exec 3>&1 1>&2
code=0 number=0
while eval "word=\${ADT_PHASE_$number-}" && [ "$word" ]; do
    export "$word"
    number=$((number + 1))
done
(cd "$4" && exec "./$5" < /dev/null 3>&-) || code=$?
echo "code $code" >&3"#;

/// A path of the machine, on the host.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// The program as it runs in the folder; `None` for one that only a real machine has.
pub(super) fn command(root: &Path, argv: &[String], env: &[(String, String)]) -> Option<Command> {
    let [shell, flag, rest @ ..] = argv else { return None };
    if (shell.as_str(), flag.as_str()) != ("/bin/sh", "-c") {
        return None;
    }
    let moved = |word: &String| match word.strip_prefix('/') {
        Some(_) if word != shell => below(root, word).into_os_string(),
        Some(_) | None => word.into(),
    };
    let command = Command::new(shell).arg(flag).cwd(root);
    let phase = rest.iter().position(|word| word == "adt-phase");
    let init = rest.iter().any(|word| word == "is-system-running");
    Some(match phase {
        Some(at) => command.arg(PHASE).args(rest[at..].iter().map(moved)),
        None if init => command.arg("echo running"),
        None => command.args(rest.iter().map(moved)),
    })
    .map(|command| env.iter().fold(command, |command, (name, value)| command.env(name, value)))
}

/// A line as it reads in the machine.
pub(super) fn line(root: &Path, line: &str) -> String {
    line.replace(&*root.to_string_lossy(), "")
}
