//! How many files this process may have open: every address that is listened at is some, every connection one or two.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Name server and proxy at an environment's gateway, and a copy of each that outlives this process.
const ENVIRONMENT: u64 = 8;
/// The database, logs, own addresses on each core, and connections that are worth serving.
const BASE: u64 = 1024;

/// Raises the limit as far as this process may.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Lower is what it was, and `trouble` tells when that is too low.
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// What is wrong with the limit for this many environments.
pub fn trouble(environments: usize) -> Option<String> {
    trouble_with(getrlimit(Resource::Nofile).current?, environments)
}

fn trouble_with(limit: u64, environments: usize) -> Option<String> {
    let needed = BASE + ENVIRONMENT * environments as u64;
    (limit < needed).then(|| {
        format!(
            "only {limit} files may be open here, and {environments} environments need {needed}: raise it with `ulimit -Hn \
             {needed}`, or in a unit with `LimitNOFILE={needed}`"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_environments_need_more_than_the_usual_soft_limit() {
        assert!(trouble_with(1024, 500).is_some_and(|text| text.contains("need 5024")));
        assert_eq!(trouble_with(524_288, 500), None);
        assert_eq!(trouble_with(1024, 0), None);
    }
}
