//! Targets: where an environment of a platform may live besides the developer's own host, and what is told of that.
//!
//! A server's address is words of a configuration that become words of `ssh`: whatever isn't plainly a user, a host or a port is
//! refused here, so nobody below has to ask whether one of them is an option or a command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv6Addr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::edge::Edge;
use super::limits::Limits;
use super::names::{BoxName, Digest, EnvironmentId, EnvironmentName, PlatformName, RoleName, SiteName};
use super::records::Zone;

/// Servers that targets are rehearsed on are environments of this platform, which is no user's.
pub const REHEARSAL: &str = "rehearsal";

/// A named place where the machines of an environment run on servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub name: String,
    /// An earlier adt kept targets without any.
    #[serde(default)]
    pub servers: Vec<Server>,
    /// Who may come to the servers' ssh; none is everybody.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub admin: BTreeSet<IpNet>,
    #[serde(default, skip_serializing_if = "Edge::is_empty")]
    pub edge: Edge,
    /// Where adt enters the names; without it, somebody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Zone>,
    /// What is otherwise there than on a developer's host. An earlier adt kept other things as `machines`.
    #[serde(default, rename = "terms", skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<RoleName, Terms>,
}

/// What a target says of the machines of one role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// The servers that they stand on, in turn; none is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Those that it names; the others are as at home.
    #[serde(default)]
    pub limits: Limits,
}

/// A computer with an SSH door, as its configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub address: Address,
    /// `None` leaves it to the person's own known hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key: Option<Fingerprint>,
}

impl Server {
    /// As the target's other words call it.
    pub fn name(&self) -> &str {
        &self.address.host
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// `root@a.example`, `root@a.example:2222`, `root@[2001:db8::1]:22`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    pub user: String,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    /// `None` leaves it to the person's own settings of ssh.
    pub port: Option<u16>,
}

/// Why words are no server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the address of a server: {reason}", word.escape_debug())]
pub struct BadAddress {
    pub word: String,
    pub reason: &'static str,
}

impl Address {
    pub fn parse(word: &str) -> Result<Self, BadAddress> {
        Self::read(word).map_err(|reason| BadAddress { word: word.chars().take(300).collect(), reason })
    }

    fn read(word: &str) -> Result<Self, &'static str> {
        let (user, place) = word.split_once('@').ok_or("it names no user")?;
        let starts = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if !starts || user.len() > 32 || !user.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
        {
            return Err("what stands before the `@` is no user's name");
        }
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("its bracket is not closed")?;
                host.parse::<Ipv6Addr>().map_err(|_| "what stands in the brackets is no IPv6 address")?;
                (
                    host,
                    if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or("only a port may follow a bracket")?) },
                )
            }
            None => {
                let (host, port) = place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
                if !is_host(host) {
                    return Err("what stands behind the `@` is no host's name");
                }
                (host, port)
            }
        };
        let port = port.map(|port| port.parse::<u16>().ok().filter(|number| *number > 0 && number.to_string() == port));
        let port = port.map(|port| port.ok_or("its port is no number from 1 to 65535")).transpose()?;
        Ok(Self { user: user.to_owned(), host: host.to_owned(), port })
    }
}

/// A name or an IPv4 address; it may also be one that only the person's settings of ssh know.
fn is_host(word: &str) -> bool {
    let label = |label: &str| {
        let edges = |c: char| c.is_ascii_alphanumeric() || c == '_';
        label.starts_with(edges)
            && label.ends_with(edges)
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    word.len() <= 253 && word.split('.').all(label)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port } = self;
        if host.contains(':') {
            write!(f, "{user}@[{host}]")?
        } else {
            write!(f, "{user}@{host}")?
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for Address {
    type Error = BadAddress;
    fn try_from(word: String) -> Result<Self, BadAddress> {
        Self::parse(&word)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

/// The fingerprint of a host key, as `ssh-keygen -lf` shows it: `SHA256:` and 43 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn new(word: impl Into<String>) -> Result<Self, &'static str> {
        let word = word.into();
        let Some(hash) = word.strip_prefix("SHA256:") else { return Err("it does not begin with `SHA256:`") };
        let is_base64 = hash.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/".contains(&b));
        if hash.len() == 43 && is_base64 { Ok(Self(word)) } else { Err("`SHA256:` is not followed by 43 characters of base64") }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;
    fn try_from(word: String) -> Result<Self, &'static str> {
        Self::new(word)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

/// A target of a platform as a listing shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetSummary {
    pub platform: PlatformName,
    pub name: EnvironmentName,
    pub servers: Vec<Server>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub admin: BTreeSet<IpNet>,
    #[serde(default, skip_serializing_if = "Edge::is_empty")]
    pub edge: Edge,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Zone>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<RoleName, Terms>,
}

/// One change of what an environment of a target is, without the definition itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// Seconds since 1970.
    pub begun: i64,
    /// `None` while it is not known to have gone well.
    #[serde(default)]
    pub finished: Option<i64>,
    /// As the operator's adt says it: `ada@laptop`.
    pub by: String,
    pub deed: Deed,
    /// Of the definition that it brought.
    pub definition: Digest,
}

/// How far back `env:rollback` goes, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Back {
    /// The first letters of the definition that it was then; without them, what was there before the last promotion.
    #[serde(default)]
    pub to: Option<String>,
    /// Volumes go back too, to the snapshot that was taken before the last promotion.
    #[serde(default)]
    pub data: bool,
}

/// What somebody did to the environment of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "deed")]
pub enum Deed {
    /// From a ticket's environment.
    Promote { from: EnvironmentId },
    /// Back to what was there before the last promotion, which had come from this one.
    Rollback { from: EnvironmentId },
}

impl Deed {
    pub fn from(&self) -> &EnvironmentId {
        match self {
            Self::Promote { from } | Self::Rollback { from } => from,
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Promote { from } => write!(f, "promoted from `{from}`"),
            Self::Rollback { from } => write!(f, "rolled back to what came from `{from}`"),
        }
    }
}

/// One step of the way to what a target shall be, as its operator reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStep {
    pub what: String,
    pub loses_data: bool,
    /// That go to the server, before they are packed.
    pub bytes: u64,
}

/// One layer on both sides, by what its files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProof {
    /// Where it is the same or not.
    #[serde(default)]
    pub server: String,
    pub name: BoxName,
    /// What it was made of.
    pub digest: Digest,
    pub here: Option<Digest>,
    pub there: Option<Digest>,
}

impl LayerProof {
    pub fn is_equal(&self) -> bool {
        self.here.is_some() && self.here == self.there
    }
}

/// One site's release on both sides, by what its files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseProof {
    #[serde(default)]
    pub server: String,
    pub site: SiteName,
    pub commit: String,
    /// What it was made of.
    pub digest: Digest,
    pub here: Option<Digest>,
    pub there: Option<Digest>,
}

impl ReleaseProof {
    pub fn is_equal(&self) -> bool {
        self.here.is_some() && self.here == self.there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for (word, user, host, port) in [
            ("root@a.example", "root", "a.example", None),
            ("root@10.1.2.3:2222", "root", "10.1.2.3", Some(2222)),
            ("debian@[2001:db8::1]:22", "debian", "2001:db8::1", Some(22)),
            ("root@[::1]", "root", "::1", None),
            ("root@my_alias", "root", "my_alias", None),
        ] {
            let address = Address::parse(word).unwrap();
            assert_eq!((address.user.as_str(), address.host.as_str(), address.port), (user, host, port));
            assert_eq!(address.to_string(), word);
        }
    }

    #[test]
    fn what_could_be_an_option_or_a_command_is_no_address() {
        for word in [
            "",
            "a.example",
            "@a.example",
            "root@",
            "-oProxyCommand=touch /tmp/x@a.example",
            "root@-oProxyCommand=touch",
            "root@a.example -oProxyCommand=x",
            "root@a.example;id",
            "root@$(id)",
            "root@`id`",
            "root@a..example",
            "root@a.example:",
            "root@a.example:0",
            "root@a.example:65536",
            "root@a.example:+22",
            "root@a.example:022",
            "root@[::1",
            "root@[-oProxyCommand=x]",
            "root@[fe80::1%eth0]",
            "root@[::1]x",
            "Root@a.example",
            "root@a.example\n-oProxyCommand=x",
            "root@root@a.example",
            "root@bücher.example",
            "root@%h",
        ] {
            assert!(Address::parse(word).is_err(), "{word:?}");
        }
        assert!(Address::parse(&format!("root@{}", "a".repeat(300))).is_err());
    }

    #[test]
    fn a_fingerprint_is_one_of_sha256() {
        let hash = "uNiVztksCsDhcc0u9e8BgrJXVGDPP6/HFWVSCSWQXRk";
        assert_eq!(Fingerprint::new(format!("SHA256:{hash}")).unwrap().as_str(), format!("SHA256:{hash}"));
        for word in [
            hash.to_owned(),
            format!("MD5:{hash}"),
            format!("SHA256:{hash}="),
            format!("SHA256:{}", &hash[1..]),
            "SHA256:".into(),
        ] {
            assert!(Fingerprint::new(word).is_err());
        }
        assert!(Fingerprint::new(format!("SHA256:{} ", &hash[1..])).is_err());
    }

    #[test]
    fn an_older_record_of_a_target_is_read() {
        let old = r#"{"name":"production","provider":"exoscale","domain":"shop.example","machines":[]}"#;
        let target: Target = serde_json::from_str(old).unwrap();
        assert_eq!(
            target,
            Target {
                name: "production".into(),
                servers: Vec::new(),
                admin: BTreeSet::new(),
                edge: Edge::default(),
                machines: BTreeMap::new(),
                records: None
            }
        );
    }
}
