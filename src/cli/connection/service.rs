//! The way into the service's socket, where root works for members of the group `adt`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::local::command;
use crate::model::{Failure, Kind};
use crate::session::{GROUP, accept};
pub use crate::wire::asker::{Asker as Service, end_of, unexpected};
use crate::wire::frame::{self, Patient, Reader};

/// What everybody hears who is neither root nor let in.
pub fn need_root() -> Failure {
    Failure::new(Kind::Privilege, "work with machines")
}

pub fn open(store: &Path, cancel: &Arc<AtomicBool>) -> Result<Service, Failure> {
    let path = accept::socket(store);
    let stream = UnixStream::connect(&path).map_err(|error| not_let_in(&path, &error))?;
    let input = stream.try_clone().map_err(|error| Failure::new(Kind::Program, "talk to the service").because(&error))?;
    let reader = Reader::new(Patient::from(OwnedFd::from(input)), frame::ANSWERED);
    Service::greet(reader, stream, command(), cancel)
}

fn not_let_in(path: &Path, error: &io::Error) -> Failure {
    let failure = need_root();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.cause(format!("`{}` is open to members of the group `{GROUP}` only", path.display())).hint(format!(
                "become one with `sudo usermod -aG {GROUP} $USER`, which counts from your next login on; or run the same command \
                 with `sudo`"
            ))
        }
        io::ErrorKind::ConnectionRefused => failure
            .cause(format!("nobody listens at `{}`", path.display()))
            .hint("start the service with `sudo adt host:up --detach`, or run the same command with `sudo`"),
        _ => failure
            .cause(format!("adt needs root for namespaces, mounts and bridges, and nobody works for you at `{}`", path.display()))
            .hint("run the same command with `sudo`")
            .hint(format!(
                "to do without: `sudo adt host:bootstrap`, `sudo adt host:up --detach`, and be a member of the group `{GROUP}`"
            )),
    }
}
