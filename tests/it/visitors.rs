//! People who ask for a site without a pause, each a process of curl's, and what they were answered.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::adt::Adt;

/// How somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over a new connection each time.
    Anew,
    /// Over one connection as long as it lasts; what was asked over one that ended unanswered is asked again, as browsers do.
    Kept(&'static str),
}

pub const KEPT: [Way; 2] = [Way::Kept("--http1.1"), Way::Kept("--http2")];

pub struct Visitors {
    asking: Vec<Child>,
    answers: Vec<PathBuf>,
}

impl Visitors {
    /// Who ask for `url` at an address, whatever its name leads to.
    pub fn of(adt: &Adt, address: &str, url: &str, ways: &[Way]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (mut asking, mut answers) = (Vec::new(), Vec::new());
        for way in ways {
            let file = adt.here().join(format!("answers{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            let curl = format!(
                "curl -sk -o /dev/null -w '%{{http_code}} %{{exitcode}}\\n' --max-time 20 --noproxy '*' --connect-to '::{address}:'"
            );
            let (stop, file_name) = (file.with_extension("stop"), file.display());
            let script = match way {
                Way::Anew => format!("{curl} '{url}' >>'{file_name}'"),
                Way::Kept(version) => format!("{curl} {version} --rate 50/s '{url}?[1-200]' >>'{file_name}'"),
            };
            let script = format!("while [ ! -e '{}' ]; do {script}; done", stop.display());
            asking.push(adt.program_there("sh").args(["-c", &script]).stdout(Stdio::null()).spawn().expect("sh starts"));
            answers.push(file);
        }
        Self { asking, answers }
    }

    /// As many answers as there are by now.
    pub fn answered(&self) -> usize {
        self.answers.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default().lines().count()).sum()
    }

    /// Each with the status and curl's own.
    pub fn end(mut self) -> Vec<String> {
        for file in &self.answers {
            std::fs::write(file.with_extension("stop"), "").expect("the folder is ours");
        }
        for child in &mut self.asking {
            child.wait().expect("it ends");
        }
        let mut told = Vec::new();
        for file in &self.answers {
            told.extend(std::fs::read_to_string(file).expect("it asked").lines().map(str::to_owned));
            std::fs::remove_file(file).and_then(|()| std::fs::remove_file(file.with_extension("stop"))).expect("they are ours");
        }
        told
    }

    /// Not one of all these was without an answer.
    #[track_caller]
    pub fn end_well(self) {
        let told = self.end();
        let failed = failed(&told);
        assert!(failed.is_empty() && told.len() > 10, "{} of {}: {failed:?}", failed.len(), told.len());
        eprintln!("{} requests were answered", told.len());
    }
}

pub fn failed(told: &[String]) -> Vec<&String> {
    told.iter().filter(|line| *line != "200 0").collect()
}

impl Drop for Visitors {
    fn drop(&mut self) {
        for child in &mut self.asking {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
