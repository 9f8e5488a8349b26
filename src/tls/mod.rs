//! Certificates for adt's own names: a local authority for each domain, and leaves that it signs when they are asked for.
//!
//! ```text
//! <store>/tls/                       0700
//!   authority/<domain>.{key,pem}     made once; may sign names of this domain only
//!   leaf/<level>.pem                 key and certificate in one file, so that no crash leaves one without the other
//!   own/<domain>.{pem,key}           put there by a person; preferred wherever its names cover the one asked for
//!   acme/<platform>.<target>.pem     given by an authority of the world for names that the world knows; with its key
//! ```
//! Name constraints are fixed when an authority is made. Widening one later would mean that everybody trusts it anew, so
//! each domain has its own: a new domain asks for trust once more, and those already trusted stay as they are.
//!
//! A wildcard covers one label, so there is one leaf for each level: `*.example.test`, `*.shop.example.test`,
//! `*.1161.shop.example.test` and `*.www.1161.shop.example.test`. Which levels exist is read from the routes; other
//! names, and clients that name none, get the domain's leaf, because a page behind a warning explains more than an alert.
//!
//! Must never know who listens with these certificates or how they come to be trusted; starts no process.

mod authority;
mod certificates;
mod challenges;
mod given;
mod leaf;
mod own;
mod public;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk;

pub use authority::{Authority, authority_pem, is_of_authority, renew};
pub use certificates::Certificates;
pub use challenges::{Challenges, Posted};
pub use given::Given;
pub use leaf::{RENEW_AFTER, VALIDITY};
pub use own::Own;
pub use public::{Public, authorities_of, is_brought};
pub use server::acceptor;

pub type Result<T> = std::result::Result<T, Error>;

/// Tells the time; tests bring their own.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The host's clock.
pub fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} `{path}`")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("sign a certificate for `{name}`")]
    Sign {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("use the certificate for `{name}`")]
    Unusable {
        name: String,
        #[source]
        source: rustls::Error,
    },
    #[error("the certificate `{path}` can't be used: {reason}")]
    Own { path: PathBuf, reason: String },
}

fn make_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let io = |what| move |source| Error::Io { what, path: path.to_owned(), source };
    disk::make_folders(path, 0o700).map_err(io("make the folder"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(io("close the folder"))
}

/// What a write does with a file that is already there.
#[derive(Clone, Copy)]
enum Present {
    Replace,
    /// Replaced without waiting for the disk: whatever a power cut leaves of it is made anew.
    Spare,
    Keep,
}

/// Whole or not at all, readable by its owner only. `Keep` leaves a file that another process wrote meanwhile.
fn write(path: &Path, bytes: &[u8], present: Present) -> Result<()> {
    let io = |source| Error::Io { what: "write", path: path.to_owned(), source };
    let file = disk::File::at(path);
    match present {
        Present::Replace => file.write(bytes),
        Present::Spare => file.write_spare(bytes),
        Present::Keep => file.write_new(bytes),
    }
    .map_err(io)
}

/// `None` where there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: "read", path: path.to_owned(), source }),
    }
}

/// Seconds since 1970, as certificates count.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The same instant in the type that certificates are made with.
macro_rules! instant {
    ($time:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + $time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    };
}
use instant;

/// Clocks of machines and hosts differ a little; a certificate from the future is refused.
const BACKDATED: Duration = Duration::from_secs(3600);

const DAY: Duration = Duration::from_secs(86_400);
