//! The names of things. Each is a DNS label, checked once where it enters, so nobody below has to ask again
//! whether it may become part of a path, an interface or a host name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a word can't be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{word}` is not {} {noun}: {reason}", article(noun))]
pub struct BadName {
    pub word: String,
    pub noun: &'static str,
    pub reason: &'static str,
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// RFC 1123 labels, lower case only, because two spellings of one host name would be two folders.
fn check_label(word: &str) -> Result<(), &'static str> {
    if word.is_empty() {
        return Err("it is empty");
    }
    if word.len() > 63 {
        return Err("it is longer than the 63 characters that DNS allows");
    }
    if word.starts_with('-') || word.ends_with('-') {
        return Err("it starts or ends with a hyphen");
    }
    if !word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err("only lower-case letters, digits and hyphens make a DNS label");
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn new(word: impl Into<String>) -> Result<Self, BadName> {
                let word = word.into();
                match check_label(&word) {
                    Ok(()) => Ok(Self(word)),
                    Err(reason) => Err(BadName { word, noun: $noun, reason }),
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(word: &str) -> Result<Self, BadName> {
                Self::new(word)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(word: String) -> Result<Self, BadName> {
                Self::new(word)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

label!(
    /// A product's production topology, e.g. `shop`.
    PlatformName,
    "platform name"
);
label!(
    /// One live copy of a platform, named after its ticket, e.g. `1161`.
    EnvironmentName,
    "environment name"
);
label!(
    /// A kind of machine in a platform, e.g. `web`.
    RoleName,
    "machine name"
);
label!(
    /// One machine of an environment: its role and, where the role is counted, an index, e.g. `web2`.
    MachineName,
    "machine name"
);
label!(
    /// One moment of an environment, e.g. `before-the-import`.
    SnapshotName,
    "snapshot name"
);
label!(
    /// An application reachable by name, e.g. `www`.
    SiteName,
    "site name"
);
label!(
    /// A machine image's recipe, e.g. `web-php`.
    BoxName,
    "box name"
);

label!(
    /// What machines run on, e.g. `lxc`.
    ProviderName,
    "provider name"
);

impl ProviderName {
    /// What a host's machines run on where nobody says otherwise, and what those run on whose records are older than this word.
    pub const FIRST: &str = "lxc";

    pub fn first() -> Self {
        Self(Self::FIRST.to_owned())
    }
}

impl RoleName {
    /// The machines of this role: `web1`, `web2` where a count is given, else just `db`.
    pub fn machine(&self, index: Option<u32>) -> Result<MachineName, BadName> {
        match index {
            Some(index) => MachineName::new(format!("{self}{index}")),
            None => MachineName::new(self.as_str()),
        }
    }
}

/// The last labels of every name, e.g. `example.test`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(String);

impl Domain {
    pub fn new(word: impl Into<String>) -> Result<Self, BadName> {
        let word = word.into();
        let bad = |reason| Err(BadName { word: word.clone(), noun: "domain", reason });
        for label in word.split('.') {
            if let Err(reason) = check_label(label) {
                return bad(reason);
            }
        }
        // The longest name below it is site.environment.platform.domain: three labels of up to 63.
        if word.len() > 120 {
            return bad("it leaves no room for the labels below it within DNS's 253 characters");
        }
        if word == "local" || word.ends_with(".local") {
            return bad("`.local` belongs to multicast DNS, so many systems never ask a name server for it");
        }
        Ok(Self(word))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_below(&self, other: &Self) -> bool {
        self.0.strip_suffix(&other.0).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Set aside by RFC 2606, 6761, 8375 and ICANN for uses like ours: on the internet nobody can have it.
    pub fn is_nobodys(&self) -> bool {
        const RESERVED: [&str; 9] =
            ["test", "example", "invalid", "localhost", "internal", "home.arpa", "example.com", "example.net", "example.org"];
        RESERVED.iter().any(|reserved| self.0 == *reserved || self.is_below(&Self((*reserved).to_owned())))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Domain {
    type Err = BadName;
    fn from_str(word: &str) -> Result<Self, BadName> {
        Self::new(word)
    }
}

impl TryFrom<String> for Domain {
    type Error = BadName;
    fn try_from(word: String) -> Result<Self, BadName> {
        Self::new(word)
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> String {
        domain.0
    }
}

/// A branch of a git repository: the rules of `git check-ref-format`, and no leading hyphen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BranchName(String);

impl BranchName {
    pub fn new(word: impl Into<String>) -> Result<Self, BadName> {
        let word = word.into();
        let bad = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
        let reason = if word.is_empty() {
            "it is empty"
        } else if word.starts_with('-') {
            "it starts with a hyphen"
        } else if word.chars().any(bad) {
            "git allows no blanks and none of ~ ^ : ? * [ \\ in it"
        } else if word.contains("..") || word.contains("@{") || word == "@" || word.len() > 200 {
            "git does not allow it"
        } else if word
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.') || part.ends_with('.') || part.ends_with(".lock"))
        {
            "each part between slashes needs a name that neither begins nor ends with a dot"
        } else {
            return Ok(Self(word));
        };
        Err(BadName { word, noun: "branch", reason })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for BranchName {
    type Err = BadName;
    fn from_str(word: &str) -> Result<Self, BadName> {
        Self::new(word)
    }
}

impl TryFrom<String> for BranchName {
    type Error = BadName;
    fn try_from(word: String) -> Result<Self, BadName> {
        Self::new(word)
    }
}

impl From<BranchName> for String {
    fn from(name: BranchName) -> String {
        name.0
    }
}

/// One environment of one platform, written `shop/1161`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EnvironmentId {
    pub platform: PlatformName,
    pub name: EnvironmentName,
}

impl fmt::Display for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.platform, self.name)
    }
}

impl EnvironmentId {
    pub fn machine(&self, machine: &MachineName) -> MachineId {
        MachineId { environment: self.clone(), machine: machine.clone() }
    }

    /// `1161.shop.example.test`
    pub fn fqdn(&self, domain: &Domain) -> String {
        format!("{}.{}.{domain}", self.name, self.platform)
    }
}

/// One machine of one environment, written `shop/1161/web1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineId {
    pub environment: EnvironmentId,
    pub machine: MachineName,
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.environment, self.machine)
    }
}

impl MachineId {
    /// `web1.1161.shop.example.test`
    pub fn fqdn(&self, domain: &Domain) -> String {
        format!("{}.{}", self.machine, self.environment.fqdn(domain))
    }
}

/// The content of a box layer, a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of it for a person to tell two apart.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = BadName;
    fn try_from(word: String) -> Result<Self, BadName> {
        if word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            Ok(Self(word))
        } else {
            Err(BadName { word, noun: "digest", reason: "it is not 64 lower-case hexadecimal digits" })
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_dns_takes() {
        for word in ["1161", "a", "web-php", "x1", &"a".repeat(63)] {
            assert!(EnvironmentName::new(word).is_ok(), "{word}");
        }
    }

    #[test]
    fn some_domains_are_nobodys_on_the_internet() {
        let domain = |word: &str| Domain::new(word).unwrap();
        for word in ["test", "shop.test", "a.b.example", "shop.internal", "x.home.arpa", "example.com", "dev.example.org"] {
            assert!(domain(word).is_nobodys(), "{word}");
        }
        for word in ["github.com", "test.de", "mytest", "notexample.com", "arpa", "home.arpa.net"] {
            assert!(!domain(word).is_nobodys(), "{word}");
        }
        assert!(domain("dev.bank.de").is_below(&domain("bank.de")));
        assert!(!domain("mybank.de").is_below(&domain("bank.de")) && !domain("bank.de").is_below(&domain("bank.de")));
    }

    #[test]
    fn labels_that_dns_refuses() {
        for word in ["", "-a", "a-", "A", "a_b", "a.b", "a b", "ä", "../x", "a\n", &"a".repeat(64)] {
            assert!(EnvironmentName::new(word).is_err(), "{word}");
        }
    }

    #[test]
    fn domains_may_have_several_labels_but_not_be_local() {
        for word in ["test", "example.test", "paas.example.com"] {
            assert!(Domain::new(word).is_ok(), "{word}");
        }
        for word in ["", "local", "shop.local", "a..b", ".a", "a.", "A.test", &["a"; 80].join(".")] {
            assert!(Domain::new(word).is_err(), "{word}");
        }
    }

    #[test]
    fn branches_that_git_would_take_for_something_else_are_refused() {
        for word in ["main", "feature/1161-cart", "v1.2", "ünïcode", "$(reboot)", "a@b", "a'b"] {
            assert!(BranchName::new(word).is_ok(), "{word}");
        }
        for word in
            ["", "-x", "--upload-pack=x", "a b", "a\nb", "../x", "a/../b", "a..b", ".a", "a.lock", "a/", "/a", "a//b", "@", "a:b"]
        {
            assert!(BranchName::new(word).is_err(), "{word}");
        }
    }

    #[test]
    fn names_nest_in_the_order_of_the_glossary() {
        let id = EnvironmentId { platform: PlatformName::new("paas").unwrap(), name: EnvironmentName::new("1").unwrap() };
        let domain = Domain::new("example.com").unwrap();
        assert_eq!(id.machine(&MachineName::new("v5").unwrap()).fqdn(&domain), "v5.1.paas.example.com");
    }
}
