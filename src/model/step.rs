//! What is to be done, as data: a dry run prints it, the engine runs it, tests kill it in the middle.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::{Digest, EnvironmentId, MachineName, SiteName, SnapshotName};

/// The smallest thing that is done to an environment. Each is idempotent, and each may be cut off anywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub environment: EnvironmentId,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Action {
    /// Makes the network, closed: machines can be started on it, and nothing passes.
    Connect,
    /// Puts its isolation in force, and then lets pass what that allows.
    Open,
    Disconnect,
    Create {
        machine: MachineName,
    },
    Start {
        machine: MachineName,
    },
    Await {
        machine: MachineName,
    },
    /// Puts a site's release on one machine; nothing where it is served already.
    Deploy {
        machine: MachineName,
        site: SiteName,
        release: Digest,
    },
    Thaw {
        machine: MachineName,
    },
    Stop {
        machine: MachineName,
    },
    /// Puts a machine's files and volumes back as they were in a snapshot.
    Restore {
        machine: MachineName,
        snapshot: SnapshotName,
    },
    /// Moves what a machine must not lose from its own files into its volumes, where it is not there yet.
    Keep {
        machine: MachineName,
    },
    Delete {
        machine: MachineName,
    },
    /// Ends the volumes of all machines, and the snapshots.
    Erase,
    /// Gives a site's working tree what its templates become.
    Render {
        site: SiteName,
    },
    /// Makes a site's working tree in the platform's folder.
    Checkout {
        site: SiteName,
    },
    /// Brings a site's working tree to another branch.
    Switch {
        site: SiteName,
        branch: String,
    },
    /// Removes a site's working tree, unless it holds work.
    Discard {
        site: SiteName,
    },
    Forget,
}

impl Action {
    /// Programs of the machine run anew after it.
    pub fn starts(&self, wanted: &MachineName) -> bool {
        matches!(self, Self::Start { machine } if machine == wanted)
    }

    pub fn machine(&self) -> Option<&MachineName> {
        match self {
            Self::Create { machine }
            | Self::Start { machine }
            | Self::Await { machine }
            | Self::Deploy { machine, .. }
            | Self::Thaw { machine }
            | Self::Stop { machine }
            | Self::Keep { machine }
            | Self::Restore { machine, .. }
            | Self::Delete { machine } => Some(machine),
            Self::Connect
            | Self::Open
            | Self::Disconnect
            | Self::Erase
            | Self::Checkout { .. }
            | Self::Render { .. }
            | Self::Switch { .. }
            | Self::Discard { .. }
            | Self::Forget => None,
        }
    }

    /// Whether it talks to a machine over the network.
    pub fn needs_network(&self) -> bool {
        matches!(self, Self::Await { .. } | Self::Deploy { .. })
    }

    /// The same once it is done: "web1 answers" for "wait until web1 answers".
    pub fn done(&self) -> String {
        match self {
            Self::Connect => "the network is connected".to_owned(),
            Self::Open => "the network is open".to_owned(),
            Self::Disconnect => "the network is removed".to_owned(),
            Self::Create { machine } => format!("{machine} is created"),
            Self::Start { machine } => format!("{machine} is started"),
            Self::Await { machine } => format!("{machine} answers"),
            Self::Deploy { machine, site, release } => format!("{machine} serves release {} of {site}", release.short()),
            Self::Thaw { machine } => format!("{machine} is thawed"),
            Self::Stop { machine } => format!("{machine} is stopped"),
            Self::Restore { machine, snapshot } => format!("{machine} is as in the snapshot {snapshot}"),
            Self::Keep { machine } => format!("the data of {machine} is kept"),
            Self::Delete { machine } => format!("{machine} is deleted"),
            Self::Erase => "the data is erased".to_owned(),
            Self::Checkout { site } => format!("{site} is checked out"),
            Self::Render { site } => format!("the templates of {site} are rendered"),
            Self::Switch { site, branch } => format!("{site} is at {branch}"),
            Self::Discard { site } => format!("the checkout of {site} is looked after"),
            Self::Forget => "the environment is forgotten".to_owned(),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => write!(f, "connect the network"),
            Self::Open => write!(f, "open the network"),
            Self::Disconnect => write!(f, "remove the network"),
            Self::Create { machine } => write!(f, "create {machine}"),
            Self::Start { machine } => write!(f, "start {machine}"),
            Self::Await { machine } => write!(f, "wait until {machine} answers"),
            Self::Deploy { machine, site, release } => write!(f, "deploy release {} of {site} on {machine}", release.short()),
            Self::Thaw { machine } => write!(f, "thaw {machine}"),
            Self::Stop { machine } => write!(f, "stop {machine}"),
            Self::Restore { machine, snapshot } => write!(f, "put {machine} back as in the snapshot {snapshot}"),
            Self::Keep { machine } => write!(f, "keep the data of {machine}"),
            Self::Delete { machine } => write!(f, "delete {machine}"),
            Self::Erase => write!(f, "erase the data"),
            Self::Checkout { site } => write!(f, "check out {site}"),
            Self::Render { site } => write!(f, "render the templates of {site}"),
            Self::Switch { site, branch } => write!(f, "bring {site} to {branch}"),
            Self::Discard { site } => write!(f, "remove the checkout of {site}"),
            Self::Forget => write!(f, "forget the environment"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.environment, self.action)
    }
}

/// Chains that run at the same time; the steps of a chain run one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    pub chains: Vec<Vec<Step>>,
}

/// Waves that run one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub waves: Vec<Wave>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps().next().is_none()
    }

    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.waves.iter().flat_map(|wave| wave.chains.iter().flatten())
    }

    /// Adds a wave of chains, leaving out empty ones.
    /// The plan without the steps that are done otherwise.
    pub fn without(self, is_done: impl Fn(&Action) -> bool) -> Self {
        let mut plan = Self::default();
        for wave in self.waves {
            let left = |chain: Vec<Step>| chain.into_iter().filter(|step| !is_done(&step.action)).collect();
            plan.then(wave.chains.into_iter().map(left));
        }
        plan
    }

    pub fn then(&mut self, chains: impl IntoIterator<Item = Vec<Step>>) {
        let chains: Vec<_> = chains.into_iter().filter(|chain| !chain.is_empty()).collect();
        if !chains.is_empty() {
            self.waves.push(Wave { chains });
        }
    }
}
