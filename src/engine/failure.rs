//! Errors of the layers below become what the user reads: one sentence, the causes, and a command that helps.

use crate::model::{EnvironmentId, Failure, Kind, ProviderName};
use crate::{config, exec, network, providers, store};

const PRUNE: &str = "free some space, e.g. with `adt box:prune`, then run the same command again";
const ROOM: &str = "free some space on the disk that the store is on, then run the same command again";

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        use store::Error;
        let (kind, sentence, hint) = match &error {
            Error::Newer { .. } => (Kind::Store, "use the store", Some("update adt, or choose another store with `--store`")),
            Error::Damaged { .. } | Error::BadRow { .. } => (
                Kind::Store,
                "read the store",
                Some("move the named file away; machines' files stay in `machines/`, and `adt env:init` takes them up again"),
            ),
            Error::BadIdentity { .. } => (
                Kind::Store,
                "open the store",
                Some(
                    "write the identity that links of running environments carry (`ip link show type bridge`) into the named file",
                ),
            ),
            Error::BadEnvironment { .. } => (Kind::Store, "read the store", None),
            Error::BadSnapshot { .. } => {
                (Kind::Store, "read a snapshot's record", Some("put the file back, or remove it: the snapshot goes with it"))
            }
            Error::BadPromotions { .. } => (
                Kind::Store,
                "read what was promoted",
                Some("put the file back, or remove it: nobody can go back to what it names then"),
            ),
            Error::BadDoors { .. } => (
                Kind::Store,
                "read who may reach this server",
                Some("put the file back, or remove it and promote again: until then, what the kernel has stays"),
            ),
            Error::BadKey { .. } => (
                Kind::Store,
                "read an environment's secrets",
                Some("put the file back, or destroy the environment and make it anew: its passwords can't be known again"),
            ),
            // No verb of adt's own can help: each opens the store.
            Error::Full { .. } => (Kind::Exhausted, "write the store", Some(ROOM)),
            Error::Io { source, .. } if is_full(source) => (Kind::Exhausted, "write the store", Some(ROOM)),
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                (Kind::Privilege, "open the store", Some("run it as root, e.g. with `sudo`"))
            }
            Error::PoolExhausted { .. } => (
                Kind::Exhausted,
                "find a network for the environment",
                Some("destroy environments that nobody needs (`adt env:list`), or widen `pool_v4` in /etc/adt/adt.toml"),
            ),
            Error::PoolUnmounted { .. } => (Kind::Store, "open the store", Some("mount it with `adt host:check`")),
            Error::Moving { .. } => (
                Kind::Conflict,
                "open the store",
                Some("wait until `adt host:bootstrap` is done, then run the same command again"),
            ),
            Error::Cancelled { .. } => (Kind::Cancelled, "wait for the lock", None),
            Error::Io { source, .. }
                if matches!(source.kind(), std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory) =>
            {
                (
                    Kind::Store,
                    "open the store",
                    Some("it must be a folder: choose another with `--store` or in /etc/adt/adt.toml"),
                )
            }
            Error::Io { .. } | Error::Database { .. } => (Kind::Store, "use the store", None),
        };
        let failure = Failure::new(kind, sentence).because(&error);
        match (hint, error) {
            (_, Error::BadEnvironment { platform, name, .. }) => {
                failure.hint(format!("`{}` removes it by its name alone", store::record::removal(&platform, &name)))
            }
            (Some(hint), _) => failure.hint(hint),
            (None, _) => failure,
        }
    }
}

impl From<network::Error> for Failure {
    fn from(error: network::Error) -> Self {
        use network::Error;
        match &error {
            Error::Taken { .. } => Self::new(Kind::Conflict, "connect the network")
                .because(&error)
                .hint("destroy that environment, or give the hosts different `pool_v4` in /etc/adt/adt.toml"),
            Error::Overlap { .. } => Self::new(Kind::Conflict, "connect the network")
                .because(&error)
                .hint("choose another `pool_v4` in /etc/adt/adt.toml, or close the other network (a VPN?)"),
            Error::PoolExhausted { .. } => Self::new(Kind::Exhausted, "find a network for the environment")
                .because(&error)
                .hint("destroy environments that nobody needs (`adt env:list`), or widen `pool_v4` in /etc/adt/adt.toml"),
            Error::Kernel { source, .. } => exec_hint(Self::new(Kind::Host, "set up the network"), source).because(&error),
            Error::Io { .. } => Self::new(Kind::Host, "set up the network").because(&error),
        }
    }
}

impl From<providers::Error> for Failure {
    fn from(error: providers::Error) -> Self {
        use providers::Error;
        match &error {
            Error::HostLacks { hint, .. } => {
                let hint = hint.clone();
                Self::new(Kind::Host, "run machines here").because(&error).hint(hint)
            }
            Error::Setup { .. } => Self::new(Kind::Host, "set this host up for machines").because(&error),
            Error::Unknown { name, known } => {
                let known = known.iter().map(ProviderName::as_str);
                let hint = config::meant(name.as_str(), known, "this adt has none");
                Self::new(Kind::Config, "choose what machines run on").because(&error).hint(hint)
            }
            Error::Absent { id } => {
                Self::new(Kind::NotFound, "find the machine").because(&error).hint(format!("{} makes it", up(&id.environment)))
            }
            Error::NotRunning { id, .. } => Self::new(Kind::Conflict, "use the machine")
                .because(&error)
                .hint(format!("start it with {}", up(&id.environment))),
            Error::Broken { id, .. } => Self::new(Kind::Program, "use the machine")
                .because(&error)
                .hint(format!("{} completes what was interrupted", up(&id.environment))),
            Error::LayerMissing { .. } => Self::new(Kind::Store, "stack the machine's layers")
                .because(&error)
                .hint("rebuild it with `adt platform:build`, then run the same command again"),
            Error::Failed { tail, .. } => {
                let tail = tail.clone();
                Self::new(Kind::Program, "work on the machine").because(&error).tail(tail)
            }
            Error::Deadline { .. } => Self::new(Kind::Deadline, "work on the machine").because(&error),
            Error::Io { source, .. } if is_full(source) => {
                Self::new(Kind::Exhausted, "write the machine's files").because(&error).hint(PRUNE)
            }
            Error::Io { .. } => Self::new(Kind::Host, "write the machine's files").because(&error),
            // Only copies are cut short.
            Error::Exec(source) if source.kind() == Kind::Cancelled => {
                Self::new(Kind::Cancelled, "finish the copy").cause("cancelled")
            }
            Error::Exec(source) => exec_hint(Self::new(source.kind(), "work on the machine"), source).because(&error),
        }
    }
}

impl From<exec::Error> for Failure {
    fn from(error: exec::Error) -> Self {
        exec_hint(Self::new(error.kind(), "run a program"), &error).because(&error)
    }
}

fn up(id: &EnvironmentId) -> String {
    format!("`adt env:up {} {}`", id.platform, id.name)
}

fn exec_hint(failure: Failure, error: &exec::Error) -> Failure {
    match error {
        exec::Error::Missing { .. } => failure.hint("install what is missing with `adt host:bootstrap`"),
        exec::Error::Start { .. } | exec::Error::Input { .. } | exec::Error::CutShort { .. } => failure,
        exec::Error::Failed { tail, .. } => failure.tail(tail.iter().cloned()),
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
