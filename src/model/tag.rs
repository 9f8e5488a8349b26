//! The short name of an environment, for what the kernel gives little room for a name.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::names::EnvironmentId;

/// Eight characters that stand for an environment in names that the kernel keeps short: interfaces, nft tables, cgroups.
/// Derived from the installation and the environment, so a later run finds what an interrupted one left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(String);

impl Tag {
    /// FNV-1a over installation and environment, in 40 bits of base 32: no table is needed, and 1,000 environments meet
    /// in one tag once in two million installations.
    pub fn of(install: &str, id: &EnvironmentId) -> Self {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in format!("{install}/{id}").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // The upper bits of FNV mix best; fold them onto the forty that are kept.
        let mut bits = hash ^ (hash >> 29);
        let mut text = String::with_capacity(8);
        for _ in 0..8 {
            text.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[(bits & 31) as usize]));
            bits >>= 5;
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::{EnvironmentName, PlatformName};

    #[test]
    fn tags_differ_between_environments_and_installations() {
        let id = |name: &str| EnvironmentId {
            platform: PlatformName::new("shop").unwrap(),
            name: EnvironmentName::new(name).unwrap(),
        };
        let mut seen = std::collections::BTreeSet::new();
        for install in ["a", "b"] {
            for number in 0..5_000 {
                assert!(seen.insert(Tag::of(install, &id(&number.to_string()))), "{install} {number}");
            }
        }
        assert!(seen.iter().all(|tag| tag.as_str().len() == 8));
    }
}
