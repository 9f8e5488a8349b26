//! Asks a server's own checker, and tells the server to read its configuration again.
//!
//! Twice, because either alone is not enough. Before anything is replaced, the staged files are checked under a main file of
//! adt's own: that finds everything that is wrong with them, with the host's files out of the way. After the swap the server's
//! real main file is checked: that finds what does not go together with the host's own files, which can't be found before
//! because main files may include by absolute path. The server has not been told anything until both are content.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::{Error, Home, Result, Server};
use crate::exec::{self, Command};

/// Whether the server works with the new files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing changed.
    Unneeded,
    Done,
    /// It will read them when it starts.
    NotRunning,
    /// It runs, but adt has no way to tell it; the reason, or what to do.
    ByHand(String),
}

/// Checks the files in `stage`, which will become `<root>/adt`. Apache looks only at what was `written`: each of its files stands
/// for itself, and thousands of virtual hosts take it a second.
pub fn staged(home: &Home, stage: &Path, written: &BTreeSet<String>) -> Result<()> {
    let folder = tempfile::tempdir().map_err(Error::io("make a folder in", Path::new("/tmp")))?;
    let main = folder.path().join("main.conf");
    let below = std::fs::read_to_string(stage.join("main.conf")).map_err(Error::io("read", &stage.join("main.conf")))?;
    let below = below.replace(&format!("{}/", home.adt().display()), &format!("{}/", stage.display()));
    let (text, command) = match home.server {
        Server::Apache => {
            let (root, tmp, stage) = (home.root.display(), folder.path().display(), stage.display());
            let parts = written.iter().filter(|path| path.starts_with("conf/"));
            let parts: String = parts.map(|path| format!("Include {stage}/{path}\n")).collect();
            let below = below.replace(&format!("Include {stage}/conf/*.conf\n"), &parts);
            let text = format!(
                "ServerRoot {root}\nServerName localhost\nPidFile {tmp}/pid\nErrorLog {tmp}/error.log\nDefaultRuntimeDir {tmp}\n\
                 IncludeOptional {root}/mods-enabled/*.load\nInclude {stage}/modules.load\nListen 127.0.0.1:80\n{below}"
            );
            (text, Command::new("apache2").arg("-t").arg("-f").arg(&main))
        }
        Server::Nginx => {
            let tmp = folder.path().display();
            let text = format!("pid {tmp}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{below}}}\n");
            (text, Command::new("nginx").args(["-t", "-q", "-e", "stderr", "-c"]).arg(&main))
        }
        Server::Bind => (below, Command::new("named-checkconf").arg("-z").arg(&main)),
        Server::Dnsmasq => (below, Command::new("dnsmasq").arg("--test").arg("-C").arg(&main)),
    };
    std::fs::write(&main, text).map_err(Error::io("write", &main))?;
    run(home, &command)
}

/// Checks what the server would read if it started now.
pub fn whole(home: &Home) -> Result<()> {
    let command = match home.server {
        Server::Apache => {
            let control = Command::new("apache2ctl").env("APACHE_CONFDIR", &home.root);
            control.arg("-t").arg("-f").arg(&home.main)
        }
        Server::Nginx => Command::new("nginx").args(["-t", "-q", "-c"]).arg(&home.main),
        Server::Bind => Command::new("named-checkconf").arg(&home.main),
        // Debian's service adds the folder on the command line, with these three left out.
        Server::Dnsmasq => Command::new("dnsmasq")
            .arg("--test")
            .arg("-C")
            .arg(&home.main)
            .arg(format!("--conf-dir={},.dpkg-dist,.dpkg-old,.dpkg-new", home.root.display())),
    };
    run(home, &command)
}

fn run(home: &Home, command: &Command) -> Result<()> {
    let refused = |source| match source {
        exec::Error::Missing { program } => Error::NotThere { server: home.server, missing: program.into() },
        source => Error::Refused { server: home.server, source },
    };
    command.run().map(drop).map_err(refused)
}

pub fn reload(home: &Home) -> Result<Reloaded> {
    if let Some(unit) = home.unit.as_deref().filter(|unit| active(unit)) {
        // dnsmasq reads hosts again on a signal, but never its configuration.
        let verb = if home.server == Server::Dnsmasq { "restart" } else { "reload" };
        let command = Command::new("systemctl").arg(verb).arg(unit);
        return match command.run() {
            Ok(_) => Ok(Reloaded::Done),
            Err(source) => Err(Error::Reload { server: home.server, source }),
        };
    }
    let Some(pid) = running(home) else { return Ok(Reloaded::NotRunning) };
    let signal = match home.server {
        Server::Apache => Signal::USR1,
        Server::Nginx | Server::Bind => Signal::HUP,
        Server::Dnsmasq => return Ok(Reloaded::ByHand(format!("restart dnsmasq (process {})", pid.as_raw_nonzero()))),
    };
    match kill_process(pid, signal) {
        Ok(()) => Ok(Reloaded::Done),
        Err(errno) => Ok(Reloaded::ByHand(format!("process {} took no signal: {errno}", pid.as_raw_nonzero()))),
    }
}

fn active(unit: &str) -> bool {
    Command::new("systemctl").args(["is-active", "--quiet", unit]).run().is_ok()
}

/// A pid file may outlive its process, and the number may be another's by now.
fn running(home: &Home) -> Option<Pid> {
    let program = match home.server {
        Server::Apache => "apache2",
        Server::Nginx => "nginx",
        Server::Bind => "named",
        Server::Dnsmasq => "dnsmasq",
    };
    let pid: i32 = std::fs::read_to_string(&home.pid_file).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    if name.trim() == program { Pid::from_raw(pid) } else { None }
}
