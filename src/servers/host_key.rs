//! The check of a host key by its fingerprint: `ssh` asks this program (`KnownHostsCommand`) which keys it knows, and is told the one
//! that the server shows if that is the one that is expected.
//!
//! Not chosen: asking the server for its keys first (`ssh-keyscan`), which goes past the person's jump hosts and looks at another
//! connection than the one that counts.

use crate::model::target::Fingerprint;

/// The hidden verb, and in this order what `ssh` puts in: why it asks, the key's fingerprint, the host as `known_hosts` would have
/// it, the kind of the key, the key.
pub const VERB: &str = "internal:host-key";
pub const TOKENS: [&str; 5] = ["%I", "%f", "%H", "%t", "%K"];

/// What `ssh` says of the key that it is shown.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    pub fingerprint: &'a str,
    pub host: &'a str,
    pub kind: &'a str,
    pub key: &'a str,
}

/// The line of `known_hosts` that lets it in; else what to tell the person, where there is anything to tell.
pub fn line(wanted: &Fingerprint, why: &str, shown: Shown<'_>) -> Result<String, Option<String>> {
    // Before it is shown a key, it asks in which order it should want them.
    if why != "HOSTNAME" || shown.fingerprint == "NONE" {
        return Err(None);
    }
    if shown.fingerprint == wanted.as_str() {
        return Ok(format!("{} {} {}", shown.host, shown.kind, shown.key));
    }
    Err(Some(format!("the server shows the {} key {}, not {wanted}", shown.kind, shown.fingerprint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_key_is_known() {
        let print = |letter: &str| Fingerprint::new(format!("SHA256:{}", letter.repeat(43))).unwrap();
        let (a, b) = (print("a"), print("b"));
        let shown = |print: &'static str| Shown { fingerprint: print, host: "[10.1.2.3]:2222", kind: "ssh-ed25519", key: "AAAA" };
        let of_a: &'static str = a.as_str().to_owned().leak();
        assert_eq!(line(&a, "HOSTNAME", shown(of_a)).unwrap(), "[10.1.2.3]:2222 ssh-ed25519 AAAA");
        assert!(line(&b, "HOSTNAME", shown(of_a)).unwrap_err().unwrap().contains(&format!("{a}, not {b}")));
        assert_eq!(line(&a, "ORDER", shown("NONE")), Err(None));
        assert_eq!(line(&a, "ADDRESS", shown(of_a)), Err(None), "the address alone vouches for nobody");
    }
}
