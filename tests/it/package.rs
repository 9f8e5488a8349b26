//! The ways onto a host, `make install` and the Debian package: what they hold, and that shells complete adt's commands.
//!
//! Both are made here of the program that tests run, which is what the same lines of the Makefile make of the optimised one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use super::adt::program;
use super::servers::installed;
use super::terminal::Terminal;

/// `make`, for the program under test. One at a time: they write the same pages.
fn make(words: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Path::new(program()).parent().expect("it is in a folder");
    let lock = File::create(built.join("package.lock")).expect("the folder is ours");
    flock(&lock, FlockOperation::LockExclusive).expect("an open file can be locked");
    let mut command = Command::new("make");
    command.args(["--silent", "PROFILE=dev"]).arg(format!("BUILT={}", built.display())).args(words).current_dir(root);
    let output = command.output().expect("make is there");
    let told = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "make {words:?}: {told}");
}

/// A package of the program under test, which says that it is this version; quickly packed.
pub fn deb(version: &str, folder: &Path) -> PathBuf {
    let path = folder.join(format!("adt-{version}.deb"));
    make(&["package", &format!("DEB_FLAGS=--quiet --fast --deb-version {version} --output {}", path.display())]);
    path
}

fn told(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect("it is installed");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_package_holds_the_program_its_pages_and_what_shells_read() {
    if !installed(&["cargo-deb", "dpkg-deb"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let deb = deb("1.2.3-1", folder.path());
    let deb = deb.to_str().expect("a plain path");
    let list = told("dpkg-deb", &["--contents", deb]);
    for path in [
        "./usr/bin/adt",
        "./usr/share/man/man1/adt.1.gz",
        "./usr/share/man/man1/adt-env:init.1.gz",
        "./usr/share/bash-completion/completions/adt",
        "./usr/share/zsh/vendor-completions/_adt",
        "./usr/share/fish/vendor_completions.d/adt.fish",
        "./usr/share/doc/adt/copyright",
        "./usr/share/doc/adt/changelog.Debian.gz",
        "./usr/share/doc/adt/docs/trouble.md",
    ] {
        let line = list.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("{path} is not in it:\n{list}"));
        let mode = if path.ends_with("bin/adt") { "-rwxr-xr-x 0/0" } else { "-rw-r--r-- 0/0" };
        assert!(line.starts_with(mode), "{line}");
    }
    assert!(!list.contains("internal"), "pages of commands that are adt's own:\n{list}");
    assert!(!list.contains("./etc/") && !list.contains("systemd"), "what the program writes itself:\n{list}");
    let field = |name: &str| told("dpkg-deb", &["--field", deb, name]);
    assert_eq!(field("Version"), "1.2.3-1\n");
    assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));
    let control = folder.path().join("control");
    told("dpkg-deb", &["--control", deb, control.to_str().expect("a plain path")]);
    for script in ["postinst", "prerm", "postrm"] {
        told("sh", &["-n", control.join(script).to_str().expect("a plain path")]);
    }
}

#[test]
fn what_make_installs_it_takes_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let destination = format!("DESTDIR={}", folder.path().display());
    let files = || {
        let all = walkdir::WalkDir::new(folder.path()).sort_by_file_name().into_iter().flatten();
        let files = all.filter(|entry| entry.file_type().is_file());
        files.map(|entry| entry.path().strip_prefix(folder.path()).expect("inside").display().to_string()).collect::<Vec<_>>()
    };
    make(&["put", &destination, "PREFIX=/opt/adt"]);
    let there = files();
    for path in ["bin/adt", "share/man/man1/adt.1", "share/man/man1/adt-site:deploy.1", "share/zsh/site-functions/_adt"] {
        assert!(there.contains(&format!("opt/adt/{path}")), "{path}: {there:?}");
    }
    let installed = folder.path().join("opt/adt/bin/adt");
    assert_eq!(told(installed.to_str().expect("a plain path"), &["--version"]), told(program(), &["--version"]));
    make(&["uninstall", &destination, "PREFIX=/opt/adt"]);
    assert_eq!(files(), Vec::<String>::new());
}

#[test]
fn a_command_has_a_page_of_its_own() {
    let page = told(program(), &["man", "env:init"]);
    for line in [".SH NAME\nadt\\-env:init \\- Create an environment and start it", ".SH EXAMPLES\n.nf\nadt env:init 1161 "] {
        assert!(page.contains(line), "{line:?} is not in:\n{page}");
    }
    assert!(!page.contains("pool\\-v4"), "flags of all commands are on adt's own page:\n{page}");
    let whole = told(program(), &["man"]);
    assert!(whole.contains("pool\\-v4") && whole.contains("adt\\-env:init(1)") && !whole.contains("internal:"), "{whole}");
    let output = Command::new(program()).args(["man", "internal:session"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(2));
}

/// Puts the script for a shell into a folder.
fn script(shell: &str, folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, told(program(), &["completions", shell])).expect("the folder is ours");
    path.display().to_string()
}

/// A shell whose prompt is `ready`, with an `adt` that says what it was given.
fn shell(program: &str, words: &[&str]) -> Terminal {
    let mut command = Command::new(program);
    command.args(words).env("PS1", "ready> ").env("HOME", "/nonexistent").env_remove("ENV");
    let mut shell = Terminal::open(&command, 24, 200);
    shell.shows("ready> ");
    shell
}

#[test]
fn bash_completes_commands_across_their_colon() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = script("bash", folder.path(), "adt.bash");
    let mut bash = shell("bash", &["--norc", "--noprofile", "-i"]);
    bash.types(&format!("cd {}; adt() {{ printf '<%s>' \"$@\"; }}; . {script} && echo read\"\"y\n", folder.path().display()));
    bash.shows("ready\r");
    for (typed, given) in [
        ("adt env:in\t\n", "<env:init>"),
        ("adt env:sn\ts\t\n", "<env:snapshots>"),
        ("adt env:init --dr\t1161\n", "<env:init><--dry-run><1161>"),
        ("adt -p shop site:dep\twww\n", "<-p><shop><site:deploy><www>"),
        // What only adt itself calls is offered to nobody.
        ("adt internal:s\tx\n", "<internal:sx>"),
    ] {
        bash.types(typed);
        bash.shows(given);
    }
    bash.types("exit\n");
    assert_eq!(bash.end(), 0);
}

#[test]
fn zsh_completes_commands_across_their_colon() {
    if !installed(&["zsh"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    script("zsh", folder.path(), "_adt");
    let mut zsh = shell("zsh", &["-f", "-i"]);
    let folder = folder.path().display();
    zsh.types(&format!(
        "adt() {{ printf '<%s>' \"$@\" }}; fpath=({folder} $fpath); autoload -U compinit; compinit -D -u; echo read\"\"y\n"
    ));
    zsh.shows("ready\r");
    zsh.types("adt env:in\t\n");
    zsh.shows("<env:init>");
    zsh.types("adt env:init --dry\t1161\n");
    zsh.shows("<env:init><--dry-run><1161>");
    zsh.types("exit\n");
    assert_eq!(zsh.end(), 0);
}

#[test]
fn fish_completes_commands_across_their_colon() {
    if !installed(&["fish"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let script = script("fish", folder.path(), "adt.fish");
    let asked = |line: &str| told("fish", &["--no-config", "-c", &format!("source {script}; complete -C '{line}'")]);
    assert!(asked("adt env:in").starts_with("env:init\tCreate an environment"), "{}", asked("adt env:in"));
    assert!(asked("adt env:init --dry").starts_with("--dry-run\t"), "{}", asked("adt env:init --dry"));
    assert_eq!(asked("adt internal:s").lines().filter(|line| line.starts_with("internal")).count(), 0);
}
