//! `host:bind-proxy --with …` for 1,000 environments: configuration for Apache or nginx, and for Bind.
//!
//! Run in a mount namespace in which `/etc/apache2`, `/etc/nginx` and `/etc/bind` are copies, so that the host's own stay as
//! they are. Beside it the time that the servers' own checkers take for the same files: no change can be had for less.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use ::adt::exec::Command;
use ::adt::store::Store;

use super::adt::{Adt, Model};
use super::probe::time;
use super::reading::{add, full};
use super::report::{Report, Samples};
use super::{HOME, Result, note, sweep};

pub const PACKAGES: &[(&str, &str)] = &[("nginx", "nginx-light"), ("apache2", "apache2"), ("named", "bind9")];

const ENVIRONMENTS: u32 = 1000;
const CHECKS: [(&str, &[&str]); 3] =
    [("apache", &["apache2ctl", "-t"]), ("nginx", &["nginx", "-t", "-q"]), ("bind", &["named-checkconf", "-z"])];

pub fn measure(built: &Adt, model: &Model, rounds: usize, report: &mut Report) -> Result<()> {
    let adt = full(built, model, "bound", ENVIRONMENTS)?;
    let store = Store::open(&adt.store)?;
    let etc = Etc::new()?;
    let mut number = ENVIRONMENTS;
    for servers in ["apache,bind", "nginx,bind"] {
        let bind = || etc.run(&adt.command(&format!("host:bind-proxy --with {servers}")));
        let [mut fresh, mut same, mut more] = [(); 3].map(|()| Samples::default());
        // The first round makes certificates, which are kept.
        for round in 0..=rounds {
            let all = [time(bind)?, time(bind)?, {
                number += 1;
                add(&store, model, number)?;
                time(bind)?
            }];
            note(&format!("round {round}: {servers}: fresh, unchanged, one more: {all:.0?}"));
            if round > 0 {
                [&mut fresh, &mut same, &mut more].into_iter().zip(all).for_each(|(samples, one)| samples.push(one));
            }
            if round < rounds {
                etc.run(&adt.command("host:unbind-proxy"))?;
            }
        }
        for (what, samples) in [("from nothing", fresh), ("unchanged", same), ("with one more", more)] {
            report.value(&format!("`host:bind-proxy --with {servers}` of {ENVIRONMENTS} environments, {what}"), &samples);
        }
        for (server, words) in CHECKS.into_iter().filter(|(server, _)| servers.split(',').any(|one| one == *server)) {
            let mut samples = Samples::default();
            for _ in 0..rounds {
                samples.push(time(|| etc.run(&Command::new(words[0]).args(words[1..].iter().copied())))?);
            }
            report.value(&format!("{server}'s own check alone, `{}`, after `--with {servers}`", words.join(" ")), &samples);
        }
        etc.run(&adt.command("host:unbind-proxy"))?;
    }
    Ok(())
}

/// A mount namespace for as long as this lives.
struct Etc(Child);

impl Etc {
    fn new() -> Result<Self> {
        let folder = Path::new(HOME).join("etc");
        sweep::folder(&folder)?;
        for name in ["apache2", "nginx", "bind"] {
            Command::new("cp").args(["-a", &format!("/etc/{name}")]).arg(&folder).run()?;
        }
        let script =
            "for name in apache2 nginx bind; do mount --bind \"$0/$name\" \"/etc/$name\" || exit 1; done; echo; exec cat";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", script]).arg(folder);
        // It ends with us, because then its input does.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let ready = BufReader::new(child.stdout.take().ok_or("it was piped")?).read_line(&mut String::new())?;
        if ready == 0 { Err("no mount namespace could be made".into()) } else { Ok(Self(child)) }
    }

    fn run(&self, command: &Command) -> Result<()> {
        let inside = Command::new("nsenter").args(["--mount", "--target"]).arg(self.0.id().to_string()).arg(&command.program);
        inside.args(&command.args).run().map(drop).map_err(|error| format!("{error}\n{}", error.tail().join("\n")).into())
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
