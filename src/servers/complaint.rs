//! Why a server could not be reached, in the words of `ssh` and with what helps.

use std::io;

use crate::exec::Wired;
use crate::model::target::Server;
use crate::model::{Failure, Kind};

pub(super) fn failure(server: &Server) -> Failure {
    Failure::new(Kind::Program, format!("reach `{server}`"))
}

/// Why a connection ended before it was through, in `ssh`'s own words. Its pipes are closed.
pub(super) fn why(server: &Server, ssh: Wired, error: &io::Error) -> Failure {
    let (status, said) = ssh.ended();
    let mut failure = failure(server);
    // Where it only ended, its exit code says more.
    if error.kind() != io::ErrorKind::UnexpectedEof || status.is_none() {
        failure = failure.cause(error.to_string());
    }
    if let Some(status) = status {
        failure = failure.cause(format!("`ssh` {status}"));
    }
    let has = |words: &str| said.iter().any(|line| line.contains(words));
    failure = if has("the server shows the") {
        failure.hint("if the server was made anew, write its new `host_key` into `platform.toml`; else somebody is in between")
    } else if has("Host key verification failed") {
        failure.hint(
            "write the fingerprint that its console shows (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`) as `host_key` into \
             `platform.toml`, or let your own `known_hosts` know it",
        )
    } else if has("sudo: ") {
        let user = &server.address.user;
        failure.hint(format!(
            "adt works as root there: let `{user}` use sudo without a password, by `{user} ALL=(ALL) NOPASSWD: ALL` in a file of \
             `/etc/sudoers.d`, or go in as root"
        ))
    } else if has("Permission denied") {
        failure.hint(format!(
            "your key must be in the `.ssh/authorized_keys` of `{}` there, and be loaded or named in your `~/.ssh/config`",
            server.address.user
        ))
    } else {
        failure.hint(format!("try it by hand: ssh -l {} {}", server.address.user, server.address.host))
    };
    failure.tail(said)
}
