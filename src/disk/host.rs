//! Whether this is a real host or a machine that is a host itself, in which the kernel mounts less: no file as a disk, no files
//! of a disk under other owners, and overlays that find their marks under other names. Knows nothing of machines' providers.

use std::sync::OnceLock;

/// Whether root here is the kernel's own root.
pub fn is_real() -> bool {
    static REAL: OnceLock<bool> = OnceLock::new();
    *REAL.get_or_init(|| {
        // A kernel without user namespaces has no such file.
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.is_empty() || is_everybody(&map)
    })
}

/// The first namespace shows every id as itself.
fn is_everybody(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::is_everybody;

    #[test]
    fn only_the_real_host_has_all_ids() {
        assert!(is_everybody("         0          0 4294967295\n"));
        for inside in ["0 100000 65536\n", "0 0 65536\n", "0 100000 65536\n65536 1000000 65536\n", ""] {
            assert!(!is_everybody(inside), "{inside}");
        }
    }
}
