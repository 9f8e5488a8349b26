//! A TSIG key, in a file as `tsig-keygen` and `keymgr -t` write it for the server.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::BASE64;
use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretSlice};

use super::Error;

/// Of a file, many times what a key needs.
const LONGEST: u64 = 16 << 10;
/// Of a secret, in bytes: who guesses a shorter one may change the zone.
const SHORTEST: usize = 16;

#[derive(Clone)]
pub struct Key {
    pub name: String,
    pub(super) dns_name: Name,
    pub(super) algorithm: TsigAlgorithm,
    secret: SecretSlice<u8>,
}

impl Key {
    /// What only its owner and group may read. The reason never tells what is in the file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |reason: String| Error::Key { path: path.to_owned(), reason };
        let text = text(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(&text).map_err(|reason| failed(reason.to_owned()))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let words = words(text)?;
        let mut words = words.iter().map(String::as_str);
        if words.next() != Some("key") {
            return Err("it does not begin with `key`, as what `tsig-keygen` writes does");
        }
        let name = words.next().ok_or("it names no key")?.to_owned();
        if words.next() != Some("{") {
            return Err("no `{` follows the key's name");
        }
        let (mut algorithm, mut secret) = (None, None);
        loop {
            match (words.next(), words.next(), words.next()) {
                (Some("}"), ..) => break,
                (Some("algorithm"), Some(word), Some(";")) => algorithm = Some(word.to_ascii_lowercase()),
                (Some("secret"), Some(word), Some(";")) => secret = Some(word),
                _ => return Err("between `{` and `}` is something else than an `algorithm` and a `secret`"),
            }
        }
        let algorithm = match algorithm.as_deref().map(|word| word.trim_end_matches('.')) {
            Some("hmac-sha256") => TsigAlgorithm::HmacSha256,
            Some("hmac-sha384") => TsigAlgorithm::HmacSha384,
            Some("hmac-sha512") => TsigAlgorithm::HmacSha512,
            Some(_) => return Err("its algorithm is none of hmac-sha256, hmac-sha384 and hmac-sha512"),
            None => return Err("it has no `algorithm`"),
        };
        let secret = BASE64.decode(secret.ok_or("it has no `secret`")?.as_bytes()).map_err(|_| "its secret is not base64")?;
        if secret.len() < SHORTEST {
            return Err("its secret has less than 128 bits, so it can be guessed");
        }
        let dns_name = Name::from_ascii(&name).map_err(|_| "its name is none that DNS takes")?;
        Ok(Self { name, dns_name, algorithm, secret: secret.into() })
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.expose_secret()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.name)
    }
}

/// Everything is asked of the one file that was opened, so that nobody puts another in its place meanwhile.
fn text(path: &Path) -> io::Result<Zeroizing<String>> {
    let refused = |reason: &str| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    // A pipe would wait for somebody who writes.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return refused("it is no plain file");
    }
    if meta.mode() & 0o007 != 0 {
        return refused("everybody on this computer may read or change it");
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST { refused("it is longer than a key") } else { Ok(text) }
}

/// The words, braces and semicolons of Bind's configuration, without its comments.
fn words(text: &str) -> Result<Zeroizing<Vec<String>>, &'static str> {
    let mut words = Zeroizing::new(Vec::new());
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
                continue;
            }
            '{' | '}' | ';' => 1,
            '/' if rest.starts_with("//") => {
                rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
                continue;
            }
            '/' if rest.starts_with("/*") => {
                rest = rest.split_once("*/").ok_or("a comment in it does not end")?.1.trim_start();
                continue;
            }
            '"' => {
                let (word, after) = rest[1..].split_once('"').ok_or("a quote in it is not closed")?;
                words.push(word.to_owned());
                rest = after.trim_start();
                continue;
            }
            _ => rest.find(|c: char| c.is_whitespace() || "{};\"".contains(c)).unwrap_or(rest.len()),
        };
        words.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &str = "c2l4dGVlbiBieXRlcyBvciBtb3JlLCBub2JvZHlz";

    #[test]
    fn a_key_is_read_as_tsig_keygen_and_keymgr_write_it() {
        let bind = format!("key \"adt.shop\" {{\n\talgorithm hmac-sha512;\n\tsecret \"{SECRET}\";\n}};\n");
        let bare = format!("# hmac-sha256:adt:{SECRET}\n/* mine */ key adt {{ secret {SECRET}; // !\nalgorithm HMAC-SHA256; }};");
        for (text, name, algorithm) in [(bind, "adt.shop", TsigAlgorithm::HmacSha512), (bare, "adt", TsigAlgorithm::HmacSha256)] {
            let key = Key::parse(&text).unwrap();
            assert_eq!((key.name.as_str(), &key.algorithm), (name, &algorithm));
            assert_eq!(key.secret(), b"sixteen bytes or more, nobodys");
            assert!(!format!("{key:?}").contains("sixteen"));
        }
    }

    #[test]
    fn what_is_no_key_is_told_without_a_word_of_it() {
        for text in [
            "",
            "hunter2",
            "key",
            "key \"hunter2",
            "key hunter2 {",
            "key hunter2 { }",
            "key a { algorithm hmac-md5; secret \"hunter2hunter2hunter2hunter2\"; };",
            "key a { algorithm hmac-sha256; secret \"hunter2!\"; };",
            "key a { algorithm hmac-sha256; secret \"aHVudGVyMg==\"; };",
            "key a { algorithm hmac-sha256; hunter2 \"x\"; };",
            "key a.hunter2..b { algorithm hmac-sha256; secret \"c2l4dGVlbiBieXRlcyBvciBtb3JlLCBub2JvZHlz\"; };",
            "/* hunter2",
        ] {
            let reason = Key::parse(text).unwrap_err();
            assert!(!reason.contains("hunter2"), "{text}: {reason}");
        }
    }

    #[test]
    fn a_key_that_everybody_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("key a {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};")).unwrap();
        let read = |mode| {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            Key::read(&path)
        };
        assert!(read(0o600).is_ok() && read(0o640).is_ok());
        for mode in [0o604, 0o602, 0o644] {
            assert!(read(mode).unwrap_err().to_string().contains("everybody on this computer"), "{mode:o}");
        }
        assert!(Key::read(folder.path()).is_err() && Key::read(&folder.path().join("none")).is_err());
        rustix::fs::mknodat(rustix::fs::CWD, folder.path().join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(Key::read(&folder.path().join("pipe")).unwrap_err().to_string().contains("no plain file"));
        std::fs::write(&path, "x".repeat(20_000)).unwrap();
        assert!(read(0o600).unwrap_err().to_string().contains("longer than a key"));
    }
}
