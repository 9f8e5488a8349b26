//! How overlay filesystems mark a folder that hides what lies below it: by an extended attribute, whose name depends on who
//! mounts. A whiteout is the character device 0:0 for everybody.

use std::sync::OnceLock;

/// Under which names this host's overlays look for marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `trusted.overlay.*`, which only root of the real host can read or write.
    Trusted,
    /// `user.overlay.*`: in a user namespace, as in a machine that is a host itself, the kernel takes no others.
    User,
}

impl Marks {
    /// Those of the host on which this program runs.
    pub fn here() -> Self {
        static HERE: OnceLock<Marks> = OnceLock::new();
        *HERE.get_or_init(|| {
            // A kernel without user namespaces has no such file.
            let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            if map.is_empty() || is_everybody(&map) { Self::Trusted } else { Self::User }
        })
    }

    pub fn opaque(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }

    pub fn prefix(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.",
            Self::User => "user.overlay.",
        }
    }
}

/// The first namespace shows every id as itself.
fn is_everybody(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_real_host_has_all_ids() {
        assert!(is_everybody("         0          0 4294967295\n"));
        for inside in ["0 100000 65536\n", "0 0 65536\n", "0 100000 65536\n65536 1000000 65536\n", ""] {
            assert!(!is_everybody(inside), "{inside}");
        }
    }

    #[test]
    fn names_begin_with_their_prefix() {
        for marks in [Marks::Trusted, Marks::User] {
            assert_eq!(marks.opaque(), format!("{}opaque", marks.prefix()));
        }
    }
}
