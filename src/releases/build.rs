//! From a commit to a release on the shelf. The buildpack runs once, in a machine that stands on the site's own box and is
//! thrown away afterwards, in the folder where the release will lie.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::phase::{Job, Phase, Reader, Until};
use super::shelf::{Draft, Manifest, Shelf};
use super::{Error, Inputs};
use crate::boxes::{Bench, BenchSpec, Workshop, phases};
use crate::exec::Cancel;
use crate::model::{Digest, Event, Exec, Failure, Kind, PlatformName, SiteName, Stream, Tail};
use crate::sources::export;
use crate::sources::mirror::Mirror;
use crate::sources::rendered;
use crate::store::lock::Lock;

/// What a build needs besides its inputs.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub shelf: &'a Shelf,
    pub workshop: &'a dyn Workshop,
    pub emit: &'a (dyn Fn(Event) + Sync),
    pub cancel: &'a Cancel,
    /// So long the buildpack may take.
    pub deadline: Duration,
}

/// Whose release it is, and from where its files come.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub platform: &'a PlatformName,
    pub site: &'a SiteName,
    /// It has the commit.
    pub mirror: &'a Mirror,
    pub commit: &'a str,
}

/// How long a machine to build in may take to boot.
const BOOT: Duration = Duration::from_secs(60);

/// The release of these inputs, built unless it is there. It is held: no prune takes it before the lock is dropped.
pub fn ensure(context: Context<'_>, origin: Origin<'_>, inputs: &Inputs) -> Result<(Manifest, Lock), Failure> {
    let digest = inputs.digest();
    let failed = |error: Error| error.failure(format!("build a release of `{}/{}`", origin.platform, origin.site));
    let hold = context.shelf.hold(&digest).map_err(failed)?;
    if let Ok(manifest) = context.shelf.get(&digest) {
        context.shelf.drop_idle_lock(&digest);
        return Ok((manifest, hold));
    }
    let waiting = || {
        let on = format!("release {}", digest.short());
        (context.emit)(Event::Waiting { on, holder: "another build of it".to_owned() });
    };
    let lock = context.shelf.lock(&digest, &context.cancel.0, &waiting).map_err(failed)?;
    if let Ok(manifest) = context.shelf.get(&digest) {
        return Ok((manifest, hold));
    }
    let draft = context.shelf.begin(&digest, lock).map_err(failed)?;
    let task = Task { context, origin, inputs, digest: &digest };
    task.tree(&draft)?;
    let names = inputs.templates.iter().map(String::as_str);
    let templates = rendered::read(&draft.tree(), None, names).map_err(|error| failed(error.into()))?;
    let manifest = Manifest {
        platform: origin.platform.clone(),
        site: origin.site.clone(),
        commit: origin.commit.to_owned(),
        tree: inputs.tree.clone(),
        buildpack: inputs.buildpack.clone(),
        templates,
        layers: inputs.layers.clone(),
        created: jiff::Timestamp::now(),
        size: 0,
        files: 0,
        content: None,
        digest: digest.clone(),
    };
    let manifest = task.phase("pack the release", || draft.finish(manifest, &context.cancel.0).map_err(failed))?;
    Ok((manifest, hold))
}

struct Task<'a> {
    context: Context<'a>,
    origin: Origin<'a>,
    inputs: &'a Inputs,
    digest: &'a Digest,
}

impl Task<'_> {
    fn tree(&self, draft: &Draft<'_>) -> Result<(), Failure> {
        let export = |folder: &Path| {
            let told = |error| Error::from(error).failure(format!("read commit `{}`", self.origin.commit));
            self.phase("read the commit", || {
                export::export(self.origin.mirror, self.origin.commit, folder, self.context.cancel).map_err(told)
            })
        };
        let Some(buildpack) = &self.inputs.buildpack else { return export(&draft.tree()) };
        let source = draft.source();
        export(&source)?;
        let spec = BenchSpec { digest: self.digest.clone(), layers: self.inputs.layers.clone(), mounts: Vec::new() };
        let bench = self.phase("boot a machine to build in", || {
            let bench = self.context.workshop.open(&spec)?;
            match self.booted(bench.as_ref()) {
                Ok(()) => Ok(bench),
                Err(failure) => Err(self.discard(bench, failure)),
            }
        })?;
        match self.build(bench.as_ref(), &source, &buildpack.to_string_lossy(), draft) {
            Ok(()) => bench.discard(),
            Err(failure) => Err(self.discard(bench, failure)),
        }
    }

    fn build(&self, bench: &dyn Bench, source: &Path, buildpack: &str, draft: &Draft<'_>) -> Result<(), Failure> {
        let tree = format!("{}/{}", self.inputs.folder, self.digest.short());
        let user = &self.inputs.user;
        self.phase("copy the commit", || {
            self.run(bench, Exec::new(["mkdir", "-p", &self.inputs.folder]))?;
            bench.copy_in(source.into(), &tree)?;
            // A colon without a group stands for the user's own.
            self.run(bench, Exec::new(["chown", "-R", &format!("{user}:"), &tree]))
        })?;
        let mut env = self.inputs.variables.clone();
        env.push(("ADT_RELEASE".to_owned(), self.digest.short().to_owned()));
        let job = Job {
            phase: Phase::Buildpack,
            user: user.clone(),
            tree: tree.clone(),
            program: buildpack.to_owned(),
            env,
            services: Vec::new(),
            units: Vec::new(),
        };
        self.phase(Phase::Buildpack.word(), || self.buildpack(bench, &job))?;
        self.phase("take the tree", || bench.copy_out(&tree, &draft.tree()))
    }

    fn buildpack(&self, bench: &dyn Bench, job: &Job) -> Result<(), Failure> {
        let until = Until { cancel: Some(&self.context.cancel.0), deadline: self.context.deadline };
        let mut reader = Reader::new(until);
        let source = self.name();
        let show = |line: &str| {
            (self.context.emit)(Event::Output { source: source.clone(), stream: Stream::Out, line: line.to_owned() });
        };
        let ended = bench.follow(&job.exec(), &mut |line| reader.take(line, show));
        let code = match ended {
            Ok(code) => Some(code),
            // Who had to be killed answers nothing.
            Err(_) if reader.is_cut() => None,
            Err(failure) => return Err(failure),
        };
        reader.end(job, &format!("a machine of its own for `{}/{}`", self.origin.platform, self.origin.site), code)
    }

    /// A program of ours, which has no reason to fail but what it says.
    fn run(&self, bench: &dyn Bench, exec: Exec) -> Result<(), Failure> {
        let mut tail = Tail::default();
        let ended = bench.run(&exec, &mut |line| {
            line.into_iter().for_each(|(_, line)| tail.push(line));
            if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if matches!(ended, Ok(0)) {
            return Ok(());
        }
        if self.is_cancelled() {
            return Err(self.cancelled());
        }
        let code = ended?;
        let failure = Failure::new(Kind::Buildpack, format!("prepare the build of `{}`", self.name()));
        Err(failure.cause(format!("`{}` ended with exit code {code}", exec.argv.join(" "))).tail(tail.lines()))
    }

    fn booted(&self, bench: &dyn Bench) -> Result<(), Failure> {
        let since = Instant::now();
        loop {
            let mut state = String::new();
            bench.run(&phases::state(), &mut |line| {
                line.into_iter().for_each(|(_, line)| line.trim().clone_into(&mut state));
                ControlFlow::Continue(())
            })?;
            if state == "running" || state == "degraded" {
                return Ok(());
            }
            let failure = |kind| Failure::new(kind, format!("boot a machine to build `{}` in", self.name()));
            if self.is_cancelled() {
                return Err(failure(Kind::Cancelled).cause("cancelled"));
            }
            if since.elapsed() > BOOT {
                return Err(failure(Kind::Deadline).cause(format!("after {} s its init is {state}", BOOT.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The machine goes; the first failure is the one that matters.
    fn discard(&self, bench: Box<dyn Bench + '_>, failure: Failure) -> Failure {
        if let Err(left) = bench.discard() {
            let text = format!("the machine that built `{}` is left until the next build: {left}", self.name());
            (self.context.emit)(Event::Warning { text });
        }
        failure
    }

    fn is_cancelled(&self) -> bool {
        self.context.cancel.is_set()
    }

    fn cancelled(&self) -> Failure {
        Failure::new(Kind::Cancelled, format!("build a release of `{}`", self.origin.site)).cause("cancelled")
    }

    fn name(&self) -> String {
        format!("{} {}", self.origin.site, self.digest.short())
    }

    /// One part of the build: told, timed, and not begun once it is cancelled.
    fn phase<T>(&self, text: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        if self.is_cancelled() {
            return Err(self.cancelled());
        }
        let (task, text) = (self.name(), text.to_owned());
        (self.context.emit)(Event::TaskStarted { task: task.clone(), text: text.clone() });
        let since = Instant::now();
        let result = work();
        (self.context.emit)(match &result {
            Ok(_) => {
                let milliseconds = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                Event::TaskDone { task, text, milliseconds }
            }
            Err(failure) => Event::TaskFailed { task, reason: failure.to_string() },
        });
        result
    }
}
