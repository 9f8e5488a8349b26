//! How an environment's network on one server goes on to others, and by whose keys they know each other.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// How an environment's network goes on to other servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tie {
    /// This server's own address in it.
    pub own: Ipv4Addr,
    pub port: u16,
    pub ends: Vec<End>,
}

/// Another server, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub key: PublicKey,
    pub endpoint: SocketAddr,
    pub addresses: Vec<Ipv4Addr>,
}

/// The public half of a key of WireGuard: 32 bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(String);

impl PublicKey {
    pub fn new(word: impl Into<String>) -> Result<Self, &'static str> {
        let word = word.into();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
        match word.strip_suffix('=') {
            Some(rest) if rest.len() == 43 && rest.bytes().all(is_base64) => Ok(Self(word)),
            _ => Err("a public key is 43 characters of base64 and `=`"),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PublicKey {
    type Error = &'static str;
    fn try_from(word: String) -> Result<Self, &'static str> {
        Self::new(word)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_one_word_that_no_configuration_reads_as_two() {
        let key = format!("{}=", "a".repeat(43));
        assert_eq!(PublicKey::new(key.clone()).unwrap().as_str(), key);
        for word in
            ["".to_owned(), "a".repeat(44), format!("{}\n=", "a".repeat(42)), format!("{key}="), format!("{}]=", "a".repeat(42))]
        {
            assert!(PublicKey::new(word.clone()).is_err(), "{word:?}");
        }
    }
}
