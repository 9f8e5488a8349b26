//! The shipped boxes: each builds, boots to `running` and answers; what did not change is not built again.
//!
//! `with-salt` is not in here: its step installs a compiler and fetches Salt from PyPI, which takes minutes. By hand: copy
//! `tests/boxes/with-salt` into a platform's `boxes/`, `adt box:build with-salt`, and look for `/etc/with-salt`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::adt::Adt;
use super::leftovers::kill;

const ALL: &str = "[platform]
name = \"all\"
summary = \"One of each\"
[machines.plain]
box = \"debian\"
memory = \"128M\"
[machines.web]
box = \"web-php\"
memory = \"256M\"
[machines.node]
box = \"web-node\"
memory = \"256M\"
[machines.python]
box = \"web-python\"
memory = \"256M\"
[machines.db]
box = \"mariadb\"
memory = \"384M\"
[machines.postgres]
box = \"postgresql\"
memory = \"256M\"
[machines.cache]
box = \"redis\"
memory = \"128M\"
[machines.queue]
box = \"rabbitmq\"
memory = \"512M\"
[machines.logs]
box = \"loghost\"
memory = \"128M\"
[machines.provisioned]
box = \"with-ansible\"
memory = \"128M\"
";

/// What became of each box, as `name outcome`.
fn outcomes(adt: &Adt, words: &str) -> Vec<String> {
    let run = adt.run(&format!("{words} --json")).ok();
    // Events come first, the answer is the last line.
    let last: serde_json::Value = serde_json::from_str(run.stdout.lines().last().expect("an answer")).expect("JSON");
    let list = last["response"].as_array().expect("a list");
    list.iter().map(|one| format!("{} {}", one["name"], one["outcome"]).replace('"', "")).collect()
}

#[test]
fn every_shipped_box_works() {
    let Some(adt) = Adt::real() else { return };
    let folder = adt.platform_toml("all", ALL);
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boxes/with-ansible");
    std::fs::create_dir(folder.join("boxes")).expect("the folder is ours");
    let copied = Command::new("cp").arg("-a").arg(recipe).arg(folder.join("boxes")).status().expect("cp is there");
    assert!(copied.success());
    adt.run("platform:init all").ok();
    adt.run("platform:build").ok();
    let again = outcomes(&adt, "platform:build");
    assert!(again.len() >= 12 && again.iter().all(|one| one.ends_with("unchanged")), "{again:?}");

    adt.run("env:init 1").ok();
    adt.run("env:check 1").ok();
    let states = adt.run("env:exec 1 -- systemctl is-system-running").ok().stdout;
    assert_eq!(states.matches("| running").count(), 10, "{states}");
    // Nothing is made up for at a first boot, however old the box is; what logins need comes when it is asked for.
    let made_up = adt.run("env:exec 1 web -- systemctl show --property Persistent logrotate.timer phpsessionclean.timer").ok();
    assert_eq!(made_up.stdout.matches("Persistent=no").count(), 2, "{made_up:?}");
    adt.run("env:exec 1 plain -- systemctl is-active dbus").fails(3);
    adt.run("env:exec 1 plain -- busctl status org.freedesktop.DBus").ok();
    adt.run("env:exec 1 plain -- systemctl is-active dbus").ok();
    adt.run("env:exec 1 node --user www-data -- npm ci --help").ok();
    adt.run("env:exec 1 python --user www-data -- python3 -m venv --system-site-packages --without-pip /tmp/own").ok();
    adt.run("env:exec 1 python --user www-data -- /tmp/own/bin/python -m gunicorn --version").ok();
    let greeting = adt.run("env:exec 1 provisioned -- cat /etc/with-ansible").ok().stdout;
    assert!(greeting.contains("hello from ansible"), "{greeting}");
    adt.run("env:exec 1 provisioned -- ansible-playbook --version").fails(127);
    adt.run("platform:destroy all --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

#[test]
fn only_what_changed_is_built() {
    let Some(adt) = Adt::real() else { return };
    let text =
        "[platform]\nname = \"tree\"\nsummary = \"A tree\"\n[machines.leaf]\nbox = \"leaf\"\n[machines.other]\nbox = \"other\"\n";
    let folder = adt.platform_toml("tree", text);
    let recipe = |name: &str, parent: &str, package: &str, word: &str| {
        let folder = folder.join("boxes").join(name);
        std::fs::create_dir_all(&folder).expect("the folder is ours");
        let text = format!(
            "[box]\nsummary = \"A test\"\nfrom = {{ box = \"{parent}\" }}\npackages = [{package}]\n[[steps]]\nscript = \"setup.sh\"\n"
        );
        std::fs::write(folder.join("box.toml"), text).expect("the folder is ours");
        std::fs::write(folder.join("setup.sh"), format!("echo {word} > /etc/{name}\n")).expect("the folder is ours");
    };
    recipe("trunk", "debian", "", "one");
    recipe("leaf", "trunk", "\"tree\"", "one");
    // Installs at the same time as its cousin: they share the downloads, not apt's locks.
    recipe("other", "debian", "\"bc\"", "one");
    adt.run("platform:init tree").ok();
    assert_eq!(
        outcomes(&adt, "platform:build"),
        ["base-bookworm unchanged", "debian unchanged", "trunk built", "leaf built", "other built"]
    );
    assert!(outcomes(&adt, "platform:build").iter().all(|one| one.ends_with("unchanged")));
    recipe("trunk", "debian", "", "two");
    assert_eq!(
        outcomes(&adt, "platform:build"),
        ["base-bookworm unchanged", "debian unchanged", "trunk built", "leaf built", "other unchanged"]
    );
    adt.run("env:init 1").ok();
    adt.run("env:exec 1 leaf -- grep -x two /etc/trunk").ok();
    adt.run("env:exec 1 other -- bc --version").ok();
    adt.run("platform:destroy tree --yes").ok();
    assert_eq!(adt.leftovers(), Vec::<String>::new());
}

/// Hears no signal, and has a child that left its session.
fn deaf() -> String {
    let seconds = patience();
    format!("trap '' TERM INT HUP\nsetsid sleep {seconds} &\necho now deaf\nwhile :; do sleep {seconds}; done\n")
}

/// By which this test's programs are known from those of others on this host.
fn patience() -> u32 {
    900_000_000 + std::process::id()
}

/// Gives the command, presses Ctrl-C once as soon as `mark` is said, and has the exit code and all that was said.
fn interrupted(adt: &Adt, words: &str, mark: &str) -> (Option<i32>, String) {
    let words: Vec<_> = words.split(' ').collect();
    let mut child = adt.command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let pid = i32::try_from(child.id()).expect("process numbers are small");
    let (mut said, mut pressed) = (String::new(), false);
    for line in BufReader::new(child.stderr.take().expect("it is piped")).lines() {
        let line = line.expect("it is text");
        said += &format!("{line}\n");
        if !pressed && line.contains(mark) {
            pressed = true;
            kill(pid, Signal::INT);
        }
    }
    assert!(pressed, "`{mark}` was not said:\n{said}");
    (child.wait().expect("it is ours").code(), said)
}

/// No process of a build, no machine, and no half layer.
fn nothing_of_a_build(adt: &Adt) {
    let pattern = format!("[s]leep {}", patience());
    assert!(!Command::new("pgrep").args(["-f", &pattern]).status().expect("pgrep is there").success());
    assert_eq!(adt.leftovers(), Vec::<String>::new());
    let layers = std::fs::read_dir(adt.store().join("layers")).expect("there are some").flatten();
    let halves: Vec<_> = layers.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes()[0] == b'.').collect();
    assert!(halves.is_empty(), "{halves:?}");
}

#[test]
fn the_first_ctrl_c_ends_a_step_of_a_build() {
    let Some(adt) = Adt::real() else { return };
    let text = "[platform]\nname = \"tree\"\n[machines.leaf]\nbox = \"leaf\"\nprovision = [\"provision.sh\"]\n";
    let folder = adt.platform_toml("tree", text);
    let recipe = folder.join("boxes/leaf");
    std::fs::create_dir_all(&recipe).expect("the folder is ours");
    let text = "[box]\nsummary = \"A test\"\nfrom = { box = \"debian\" }\n[[steps]]\nscript = \"setup.sh\"\n";
    std::fs::write(recipe.join("box.toml"), text).expect("the folder is ours");
    let scripts = [recipe.join("setup.sh"), folder.join("provision.sh")];
    for script in &scripts {
        std::fs::write(script, deaf()).expect("the folder is ours");
    }
    adt.run("platform:init tree").ok();
    for (script, words, step) in [
        (&scripts[0], "box:build leaf -p tree", "building box `leaf` was stopped in `script setup.sh`"),
        (&scripts[1], "env:init tree 1", "was stopped in `script provision.sh`"),
    ] {
        let (code, said) = interrupted(&adt, words, "now deaf");
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains(step) && said.contains("which was ended with all that it had started"), "{said}");
        assert!(said.contains(&format!("`adt {words}` goes on from here")), "{said}");
        nothing_of_a_build(&adt);
        std::fs::write(script, "true\n").expect("the folder is ours");
        adt.run(words).ok();
    }
    adt.run("platform:destroy tree --yes").ok();
    nothing_of_a_build(&adt);
}

#[test]
fn the_first_ctrl_c_ends_the_making_of_a_base() {
    use std::os::unix::fs::PermissionsExt;
    let Some(adt) = Adt::real() else { return };
    // In its place stands one that takes for ever.
    let programs = adt.path().join("programs");
    std::fs::create_dir(&programs).expect("the home is ours");
    let program = programs.join("mmdebstrap");
    std::fs::write(&program, format!("#!/bin/sh\n{}", deaf())).expect("the folder is ours");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("there is one"));
    let adt = adt.env("PATH", &path);
    let folder = adt.platform_toml("tree", "[platform]\nname = \"tree\"\n[machines.root]\nbox = \"root\"\n");
    std::fs::create_dir_all(folder.join("boxes/root")).expect("the folder is ours");
    let text = "[box]\nsummary = \"A test\"\nfrom = { suite = \"bookworm\" }\n";
    std::fs::write(folder.join("boxes/root/box.toml"), text).expect("the folder is ours");
    adt.run("platform:init tree").ok();
    let (code, said) = interrupted(&adt, "platform:build tree", "now deaf");
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("building box `root` was stopped in `mmdebstrap`"), "{said}");
    nothing_of_a_build(&adt);
}
