//! How overlay filesystems mark a folder that hides what lies below it: by an extended attribute, whose name depends on who
//! mounts. A whiteout is the character device 0:0 for everybody.

use super::host;

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
        if host::is_real() { Self::Trusted } else { Self::User }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_their_prefix() {
        for marks in [Marks::Trusted, Marks::User] {
            assert_eq!(marks.opaque(), format!("{}opaque", marks.prefix()));
        }
    }
}
