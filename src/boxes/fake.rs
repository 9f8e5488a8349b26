//! A workshop of folders, for tests: it writes down what is asked of it and fails where it is told to.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::workshop::{Bench, BenchSpec, Result, Workshop};
use crate::exec::{Follow, HostPath};
use crate::model::{Exec, Failure, Kind, Stream};

#[derive(Default)]
pub struct FakeWorkshop {
    /// What was asked, one line each, e.g. `run apt-get update -q`.
    pub calls: Mutex<Vec<String>>,
    /// A command line that contains this ends with exit code 3 and says why on stderr.
    pub fail: Option<String>,
    /// What `systemctl is-system-running` says.
    pub state: Option<&'static str>,
    /// Done when a command line contains the word.
    pub hook: Option<(String, Box<dyn Fn() + Sync + Send>)>,
    /// Machines that are neither committed nor discarded.
    pub open: AtomicUsize,
    /// The most that were open at once.
    pub most: AtomicUsize,
}

impl FakeWorkshop {
    fn note(&self, call: String) {
        self.calls.lock().expect("no test panics while it holds this").push(call);
    }

    /// The first two words of each call, without polling for the boot.
    pub fn verbs(&self) -> Vec<String> {
        let calls = self.calls.lock().expect("no test panics while it holds this");
        let wanted = calls.iter().filter(|call| !call.contains("is-system-running"));
        wanted.map(|call| call.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
    }
}

impl Workshop for FakeWorkshop {
    fn open(&self, spec: &BenchSpec) -> Result<Box<dyn Bench + '_>> {
        self.note(format!("open {} layers", spec.layers.len()));
        if self.fail.as_deref() == Some("open") {
            return Err(Failure::new(Kind::Host, "open it"));
        }
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(open, Ordering::SeqCst);
        let folder = tempfile::tempdir().expect("a test can make folders");
        Ok(Box::new(FakeBench { workshop: self, folder }))
    }
}

struct FakeBench<'a> {
    workshop: &'a FakeWorkshop,
    folder: tempfile::TempDir,
}

impl Bench for FakeBench<'_> {
    fn run(&self, exec: &Exec, _: Option<&[u8]>, each: &mut dyn FnMut(Stream, &str)) -> Result<i32> {
        let line = exec.argv.join(" ");
        self.workshop.note(format!("run {line}"));
        if line.contains("is-system-running") {
            each(Stream::Out, self.workshop.state.unwrap_or("running"));
            return Ok(0);
        }
        if let Some((word, hook)) = &self.workshop.hook
            && line.contains(word)
        {
            hook();
        }
        match &self.workshop.fail {
            Some(word) if line.contains(word) => {
                each(Stream::Out, "so far so good");
                each(Stream::Err, "it broke");
                Ok(3)
            }
            _ => Ok(0),
        }
    }

    fn follow(&self, exec: &Exec, each: &mut Follow<'_>) -> Result<i32> {
        self.run(exec, None, &mut |stream, line| {
            let _ = each(Some((stream, line)));
        })
    }

    fn feed(&self, exec: &Exec, input: &mut (dyn Read + Send), each: &mut dyn FnMut(Stream, &str)) -> Result<i32> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map_err(|error| Failure::new(Kind::Program, "read what is fed").because(&error))?;
        self.workshop.note(format!("feed {} bytes", bytes.len()));
        self.run(exec, None, each)
    }

    fn copy_in(&self, source: HostPath<'_>, target: &str) -> Result<()> {
        let source = source.path;
        assert!(source.exists(), "{} is copied in", source.display());
        let mut files: Vec<_> =
            walkdir::WalkDir::new(source).into_iter().flatten().filter(|one| one.file_type().is_file()).collect();
        files.sort_by(|a, b| a.path().cmp(b.path()));
        let names = files.iter().map(|file| file.path().strip_prefix(source).expect("it is below").display().to_string());
        self.workshop.note(format!("copy {target} {}", names.collect::<Vec<_>>().join(" ")));
        Ok(())
    }

    fn copy_out(&self, source: &str, target: &Path) -> Result<()> {
        self.workshop.note(format!("take {source}"));
        std::fs::create_dir(target).expect("the target does not exist, its parent does");
        std::fs::write(target.join("built"), source).expect("a test can write");
        Ok(())
    }

    fn halt(&self) -> Result<()> {
        self.workshop.note("halt".into());
        Ok(())
    }

    fn harvest(&self, target: &str) -> Result<PathBuf> {
        self.workshop.note(format!("harvest {target}"));
        let upper = self.folder.path().join("upper");
        std::fs::create_dir_all(&upper).expect("a test can make folders");
        std::fs::write(upper.join("new.deb"), "deb").expect("a test can write");
        Ok(upper)
    }

    fn commit(self: Box<Self>, target: &Path) -> Result<()> {
        self.workshop.note("commit".into());
        self.workshop.open.fetch_sub(1, Ordering::SeqCst);
        std::fs::create_dir(target).expect("the target does not exist, its parent does");
        Ok(())
    }

    fn discard(self: Box<Self>) -> Result<()> {
        self.workshop.note("discard".into());
        self.workshop.open.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}
