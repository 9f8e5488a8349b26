//! Who may reach the doors of a target's server: its networks of administrators, and others for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::names::EnvironmentId;

/// So many may be granted at a time.
const MOST_GRANTS: usize = 64;

/// What a server's firewall lets in beside its sites. Without any networks there is none, and everybody may knock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Those of each target (`shop/production`) that has some; they share the server.
    #[serde(default)]
    pub admin: BTreeMap<String, BTreeSet<IpNet>>,
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// A network that may come to the server's ssh for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub network: IpNet,
    /// Seconds since 1970.
    pub until: i64,
    /// As their adt says it: `ada@laptop`.
    pub by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessChange {
    /// What a target's configuration says; none takes its part away.
    Admin {
        of: EnvironmentId,
        networks: BTreeSet<IpNet>,
    },
    Grant {
        network: IpNet,
        seconds: u32,
    },
    Revoke {
        network: IpNet,
    },
}

impl fmt::Display for AccessChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin { of, networks } if networks.is_empty() => write!(f, "`{of}` keeps nobody out"),
            Self::Admin { of, networks } => write!(f, "`{of}` lets in {}", words(networks)),
            Self::Grant { network, seconds } => write!(f, "granted {network} for {} min", seconds.div_ceil(60)),
            Self::Revoke { network } => write!(f, "revoked {network}"),
        }
    }
}

/// `203.0.113.7` or `203.0.113.0/24`.
pub fn network(word: &str) -> Result<IpNet, &'static str> {
    let network = match word.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => word.parse::<IpNet>().map_err(|_| "it is neither an address nor a network")?,
    };
    if network.trunc() != network {
        return Err("it has bits behind its prefix");
    }
    if network.prefix_len() == 0 { Err("it is everybody") } else { Ok(network) }
}

/// Networks as people read them.
pub fn words<'n>(networks: impl IntoIterator<Item = &'n IpNet>) -> String {
    networks.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a change makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Senseless {
    #[error("everybody may come already: no target here has `admin` networks")]
    NobodyIsKeptOut,
    #[error("{MOST_GRANTS} networks are granted already")]
    TooMany,
    #[error("it was not granted, or is over")]
    NotGranted,
}

impl Access {
    pub fn keeps_out(&self) -> bool {
        !self.admin.is_empty()
    }

    /// The networks of all targets.
    pub fn networks(&self) -> BTreeSet<IpNet> {
        self.admin.values().flatten().copied().collect()
    }

    pub fn of(&self, id: &EnvironmentId) -> BTreeSet<IpNet> {
        self.admin.get(&id.to_string()).cloned().unwrap_or_default()
    }

    /// The same without what is over.
    pub fn at(mut self, now: i64) -> Self {
        self.grants.retain(|grant| grant.until > now);
        self
    }

    pub fn changed(&self, change: &AccessChange, by: &str, now: i64) -> Result<Self, Senseless> {
        let mut next = self.clone().at(now);
        match change {
            AccessChange::Admin { of, networks } if networks.is_empty() => {
                next.admin.remove(&of.to_string());
                if !next.keeps_out() {
                    next.grants.clear();
                }
            }
            AccessChange::Admin { of, networks } => drop(next.admin.insert(of.to_string(), networks.clone())),
            AccessChange::Grant { .. } if !next.keeps_out() => return Err(Senseless::NobodyIsKeptOut),
            AccessChange::Grant { network, seconds } => {
                next.grants.retain(|grant| grant.network != *network);
                if next.grants.len() >= MOST_GRANTS {
                    return Err(Senseless::TooMany);
                }
                let by = by.chars().filter(|c| !c.is_control()).take(100).collect();
                next.grants.push(Grant { network: *network, until: now + i64::from(*seconds), by });
            }
            AccessChange::Revoke { network } => {
                let before = next.grants.len();
                next.grants.retain(|grant| grant.network != *network);
                if next.grants.len() == before {
                    return Err(Senseless::NotGranted);
                }
            }
        }
        Ok(next)
    }
}

/// One line of what was done about it on the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEntry {
    /// Seconds since 1970.
    pub time: i64,
    pub by: String,
    pub what: String,
}

/// Who may reach a server now, and how that came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessReport {
    /// As its target names it.
    #[serde(default)]
    pub server: String,
    #[serde(flatten)]
    pub access: Access,
    /// Whether the kernel keeps to it.
    pub in_force: bool,
    /// Whether its sshd lets in who knows a password.
    #[serde(default)]
    pub takes_passwords: bool,
    /// The oldest first.
    #[serde(default)]
    pub log: Vec<AccessEntry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> EnvironmentId {
        EnvironmentId { platform: "shop".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn net(word: &str) -> IpNet {
        word.parse().unwrap()
    }

    fn admin(name: &str, networks: &[&str]) -> AccessChange {
        AccessChange::Admin { of: id(name), networks: networks.iter().map(|word| net(word)).collect() }
    }

    fn after(changes: &[AccessChange], now: i64) -> Result<Access, Senseless> {
        changes.iter().try_fold(Access::default(), |access, change| access.changed(change, "ada", now))
    }

    #[test]
    fn a_network_is_written_exactly() {
        for (word, read) in
            [("203.0.113.7", "203.0.113.7/32"), ("203.0.113.0/24", "203.0.113.0/24"), ("2001:db8::1", "2001:db8::1/128")]
        {
            assert_eq!(network(word).unwrap(), net(read));
        }
        for word in ["", "203.0.113.7/24", "0.0.0.0/0", "::/0", "a.example", "203.0.113.0/33", "1.2.3.4 accept", "fe80::1%eth0"] {
            assert!(network(word).is_err(), "{word}");
        }
    }

    #[test]
    fn targets_of_one_server_add_up_and_go_one_by_one() {
        let both = [admin("production", &["192.0.2.0/24"]), admin("staging", &["198.51.100.0/24", "192.0.2.0/24"])];
        let access = after(&both, 0).unwrap();
        assert_eq!(words(&access.networks()), "192.0.2.0/24, 198.51.100.0/24");
        assert_eq!(access.of(&id("production")), [net("192.0.2.0/24")].into());
        let one = access.changed(&admin("staging", &[]), "ada", 0).unwrap();
        assert!(one.keeps_out() && one.of(&id("staging")).is_empty());
        assert!(!one.changed(&admin("production", &[]), "ada", 0).unwrap().keeps_out());
    }

    #[test]
    fn a_grant_ends_by_itself_or_by_a_word_and_needs_a_wall() {
        let grant = AccessChange::Grant { network: net("203.0.113.7/32"), seconds: 60 };
        let revoke = AccessChange::Revoke { network: net("203.0.113.7/32") };
        assert_eq!(after(std::slice::from_ref(&grant), 0), Err(Senseless::NobodyIsKeptOut));
        let wall = admin("production", &["192.0.2.0/24"]);
        let access = after(&[wall.clone(), grant.clone()], 100).unwrap();
        assert_eq!((access.grants.len(), access.grants[0].until), (1, 160));
        assert_eq!(access.clone().at(160).grants, []);
        // Given again, it is longer and not twice.
        assert_eq!(access.changed(&grant, "bob", 130).unwrap().grants[0].until, 190);
        assert_eq!(access.changed(&revoke, "ada", 130).unwrap().grants, []);
        assert_eq!(access.changed(&revoke, "ada", 161), Err(Senseless::NotGranted));
        // Nobody is kept out any more, so nobody is let in for a while.
        assert_eq!(access.changed(&admin("production", &[]), "ada", 130).unwrap(), Access::default());
        let many: Vec<_> = (0..=MOST_GRANTS as u8)
            .map(|last| AccessChange::Grant { network: net(&format!("203.0.113.{last}/32")), seconds: 60 })
            .collect();
        assert_eq!(after(&[vec![wall], many].concat(), 0), Err(Senseless::TooMany));
    }
}
