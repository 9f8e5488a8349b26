//! What of root's environment a process gets that works for others: whoever started the service may have had passwords and tokens in
//! theirs, and hooks, filters and helpers that git starts for a member would read them.

use std::ffi::{OsStr, OsString};

use super::people;

/// Where programs and words are, how this host reaches others, and settings of adt's own.
pub(super) fn variables() -> Vec<(OsString, OsString)> {
    let mut variables: Vec<_> = std::env::vars_os().filter(|(name, _)| is_shareable(name)).collect();
    let us = people::user(rustix::process::geteuid().as_raw());
    variables.extend(us.ok().flatten().map(|user| ("HOME".into(), user.home.into_os_string())));
    variables
}

fn is_shareable(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    ["PATH", "LANG", "TZ"].contains(&name)
        || name.starts_with("LC_")
        || name.starts_with("ADT_")
        || name.to_lowercase().ends_with("_proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shared_and_nothing_else() {
        for name in ["PATH", "LANG", "LC_ALL", "TZ", "ADT_STORE", "https_proxy", "NO_PROXY"] {
            assert!(is_shareable(OsStr::new(name)), "{name}");
        }
        for name in ["HOME", "SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "AWS_SECRET_ACCESS_KEY", "SUDO_USER", "LD_PRELOAD", "PATHS"] {
            assert!(!is_shareable(OsStr::new(name)), "{name}");
        }
        assert!(variables().iter().any(|(name, _)| name == "HOME"));
    }
}
