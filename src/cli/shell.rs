//! `env:ssh`, `env:exec`, `env:cp`: programs in machines with the caller's own terminal, pipes and files.

use std::io::IsTerminal;
use std::process::ExitCode;

use super::connection::Io;
use super::{Session, screen};
use crate::model::request::Copy;
use crate::model::{EnvironmentId, Exec, Failure, Kind, MachineId, MachineName, Request, Stream};

impl Session {
    pub(super) fn ssh(&self, words: &[String], user: String, console: bool, command: Vec<String>) -> Result<ExitCode, Failure> {
        let (id, machines) = self.machines(words)?;
        let machine = match machines.as_slice() {
            [one] => self.connection.machine(&id, one)?,
            [] => self.only_machine(&id)?,
            several => {
                return Err(Failure::new(Kind::Usage, "open a shell")
                    .cause(format!("{} machines are named", several.len()))
                    .hint("name one; `adt env:exec` runs a command on several"));
            }
        };
        if console {
            return self.console(&machine);
        }
        let interactive = is_terminal();
        let argv = if command.is_empty() { login_shell() } else { command };
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
        let exec = Exec { argv, env: vec![("TERM".into(), term)], cwd: None, user: Some(user) };
        let io = if interactive { Io::Terminal } else { Io::Caller };
        Ok(exit_code(self.connection.exec(&machine, &exec, io)?))
    }

    fn console(&self, machine: &MachineId) -> Result<ExitCode, Failure> {
        if !std::io::stdin().is_terminal() {
            return Err(Failure::new(Kind::Usage, "join the console").cause("there is no terminal"));
        }
        drop(screen::err(&format!("joined the console of {machine}; leave with Ctrl-] twice")));
        self.connection.console(machine)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Every machine at the same time; lines carry the machine's name where there are several.
    pub(super) fn exec(&self, words: &[String], user: &str, command: &[String]) -> Result<ExitCode, Failure> {
        let (id, named) = self.machines(words)?;
        let names = if named.is_empty() { self.all_machines(&id)? } else { named };
        let ids: Result<Vec<_>, _> = names.iter().map(|name| self.connection.machine(&id, name)).collect();
        let ids = ids?;
        let exec = Exec { argv: command.to_vec(), env: Vec::new(), cwd: None, user: Some(user.to_owned()) };
        if let [one] = ids.as_slice() {
            let interactive = is_terminal() && std::io::stderr().is_terminal();
            let io = if interactive { Io::Terminal } else { Io::Caller };
            return Ok(exit_code(self.connection.exec(one, &exec, io)?));
        }
        let width = ids.iter().map(|id| id.machine.as_str().len()).max().unwrap_or(0);
        let ends: Vec<_> = std::thread::scope(|scope| {
            let runs: Vec<_> = ids.iter().map(|id| scope.spawn(|| self.exec_named(id, &exec, width))).collect();
            runs.into_iter().map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let mut code = 0;
        for end in ends {
            // The first that failed tells; all have run.
            let end = end?;
            if code == 0 {
                code = end;
            }
        }
        Ok(exit_code(code))
    }

    fn exec_named(&self, id: &MachineId, exec: &Exec, width: usize) -> Result<i32, Failure> {
        let print = |stream: Stream, line: &str| {
            let line = format!("{:<width$} | {line}", id.machine);
            // Whoever closed our output does not want the rest; the program inside still ends properly.
            drop(match stream {
                Stream::Out => screen::out_as_is(&line),
                Stream::Err => screen::err_as_is(&line),
            });
        };
        self.connection.exec(id, exec, Io::Lines(&print))
    }

    pub(super) fn copy(&self, words: &[String]) -> Result<Request, Failure> {
        let (names, paths) = words.split_at(words.len().saturating_sub(2));
        let id = self.surroundings.environment(names)?;
        let [source, target] = paths else {
            return Err(Failure::new(Kind::Usage, "copy").cause("source and target are missing"));
        };
        let (machine, copy) = match (inside(source), inside(target)) {
            (None, Some((machine, path))) => {
                let source = self.surroundings.here.join(source);
                (machine, Copy::In { source, target: path })
            }
            (Some((machine, path)), None) => {
                let target = self.surroundings.here.join(target);
                (machine, Copy::Out { source: path, target })
            }
            (Some(_), Some(_)) => {
                return Err(Failure::new(Kind::Usage, "copy")
                    .cause("both sides are in machines")
                    .hint("copy to this host first, then to the other machine"));
            }
            (None, None) => {
                return Err(Failure::new(Kind::Usage, "copy")
                    .cause("neither side is in a machine")
                    .hint("write the machine's side as MACHINE:PATH, e.g. `adt env:cp 1161 dump.sql db:/tmp/`"));
            }
        };
        Ok(Request::EnvCopy { id, machine, copy })
    }

    fn machines(&self, words: &[String]) -> Result<(EnvironmentId, Vec<MachineName>), Failure> {
        let known = |id: &EnvironmentId| self.all_machines(id).ok();
        self.surroundings.machines(words, &known)
    }

    fn all_machines(&self, id: &EnvironmentId) -> Result<Vec<MachineName>, Failure> {
        self.connection.machine_names(id)
    }

    fn only_machine(&self, id: &EnvironmentId) -> Result<MachineId, Failure> {
        match self.all_machines(id)?.as_slice() {
            [one] => self.connection.machine(id, one),
            several => {
                let names: Vec<_> = several.iter().map(ToString::to_string).collect();
                Err(Failure::new(Kind::Usage, format!("choose a machine of `{id}`"))
                    .cause("it has several")
                    .hint(format!("name one of {}", names.join(", "))))
            }
        }
    }
}

fn is_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// bash where the machine has it; every machine has a POSIX shell.
fn login_shell() -> Vec<String> {
    ["/bin/sh", "-c", "exec \"$(command -v bash || echo sh)\" -l"].map(str::to_owned).to_vec()
}

/// `web1:/etc/hosts` is inside a machine; `./a:b` and `/a:b` are files here.
fn inside(word: &str) -> Option<(MachineName, String)> {
    let (machine, path) = word.split_once(':')?;
    let machine = machine.parse().ok()?;
    Some((machine, path.to_owned()))
}

fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_a_machine_is_told_from_one_here() {
        assert_eq!(inside("web1:/etc/hosts").unwrap().1, "/etc/hosts");
        for here in ["./web1:x", "/web1:x", "file", "../a:b"] {
            assert!(inside(here).is_none(), "{here}");
        }
    }
}
