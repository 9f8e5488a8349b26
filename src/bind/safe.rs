//! What may become part of a configuration file.
//!
//! The names' types hold labels only. Hosts are plain strings, though, and routes may come from a file: each one is looked at
//! here, once, so that no template has to quote for four languages.

use std::path::Path;

use super::{Error, Result};
use crate::model::route::Routes;

/// Refuses routes in which a host is anything but labels and dots.
pub fn routes(routes: &Routes) -> Result<()> {
    for environment in routes.environments() {
        for site in &environment.sites {
            host(&site.host)?;
            // Else a site could take another environment's name.
            if site.host != format!("{}.{}", site.name, environment.host()) {
                return Err(Error::Unsafe { what: "the host", value: site.host.clone() });
            }
        }
    }
    Ok(())
}

fn host(word: &str) -> Result<()> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if word.len() <= 253 && word.split('.').all(label) {
        Ok(())
    } else {
        Err(Error::Unsafe { what: "the host", value: word.to_owned() })
    }
}

/// Paths stand unquoted, so that no server's own quoting, variables or wildcards have a say.
pub fn path<'a>(what: &'static str, path: &'a Path) -> Result<&'a str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b);
    match path.to_str() {
        Some(text) if path.is_absolute() && text.bytes().all(plain) => Ok(text),
        _ => Err(Error::Unsafe { what, value: path.to_string_lossy().into_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_break_out_are_refused() {
        for word in ["www.a.test", "a", "1.a-b.test"] {
            assert!(host(word).is_ok(), "{word}");
        }
        for word in
            ["", "a..b", "a.b.", "a b", "a\nListen 1", "a;", "a{", "\"a", "a'", "*.a", "-a", "A.test", "$host", "a/b", "é.a"]
        {
            assert!(host(word).is_err(), "{word:?}");
        }
    }

    #[test]
    fn paths_that_break_out_are_refused() {
        assert!(path("x", Path::new("/etc/ssl/*.pem")).is_err());
        for word in ["etc/x", "/a b", "/a\n", "/a;", "/a\"", "/$a", "/a#b", "/a{", "/a\\b", "/é"] {
            assert!(path("x", Path::new(word)).is_err(), "{word:?}");
        }
        assert!(path("x", Path::new("/var/lib/adt/tls/www.1161.shop.example.test.pem")).is_ok());
    }
}
