//! One box over its parent, inside a machine: boot, install, the recipe's steps, units, clean, halt, commit.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::inputs::{self, Material, copy_file, copy_tree, create, fetch, set_mode};
use super::layer::{Draft, remove_tree};
use super::task::Teller;
use super::workshop::{Bench, BenchSpec};
use super::{Error, Layers, Resolved, Result, apt, cache, compressed, phases, seed};
use crate::exec::watched::Watched;
use crate::exec::{HostPath, on_files_of};
use crate::model::topology::{DataEngine, Sql};
use crate::model::{BuildStep, Exec, Failure, Recipe, Stream};

/// How many lines of a failed step are kept for the message.
const TAIL: usize = 20;
/// As for the files of a site and of a platform.
const LONGEST_TEMPLATE: u64 = 1 << 20;
/// Where Debian keeps the certificates that its programs trust, and those that the host's owner added.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const LOCAL: &str = "/usr/local/share/ca-certificates";

/// Builds into the draft's rootfs. The machine is gone afterwards, whatever happens.
pub fn make(teller: &Teller<'_>, resolved: &Resolved, layers: &Layers, draft: &Draft<'_>) -> Result<()> {
    let parent = resolved.parent.as_ref().expect("a box without a parent is a base");
    let store = teller.context.store;
    let spec = BenchSpec {
        digest: resolved.digest.clone(),
        layers: layers.chain(parent)?,
        mounts: cache::mounts(store, &resolved.authors)?,
    };
    let desk = Desk::lay(teller, resolved, draft)?;
    let fail = |step: &str, source| bench_error(&resolved.recipe, step, source);
    let bench = teller.phase("boot", || {
        let bench = teller.context.workshop.open(&spec).map_err(|source| fail("boot", source))?;
        match booted(teller, bench.as_ref(), &resolved.recipe) {
            Ok(()) => Ok(bench),
            Err(error) => Err(discard(teller, bench, error)),
        }
    })?;
    let job = Job { teller, recipe: &resolved.recipe, resolved, bench: bench.as_ref(), desk: &desk };
    if let Err(error) = job.all() {
        return Err(discard(teller, bench, error));
    }
    teller.phase("keep the layer", || {
        bench.commit(&draft.rootfs()).map_err(|source| fail("keep the layer", source))?;
        forget_machine(&draft.rootfs())
    })
}

fn bench_error(recipe: &Recipe, step: &str, source: Failure) -> Error {
    Error::Bench { name: recipe.name.clone(), step: step.to_owned(), source: Box::new(source) }
}

/// The machine goes; the first error is the one that matters.
fn discard(teller: &Teller<'_>, bench: Box<dyn Bench + '_>, error: Error) -> Error {
    if let Err(left) = bench.discard() {
        teller.warn(format!("the machine that built `{}` is left until the next build: {left}", teller.name));
    }
    error
}

/// A machine's name and neighbours are written by its provider, from outside; the next machine gets its own.
fn forget_machine(rootfs: &Path) -> Result<()> {
    let etc = rootfs.join("etc");
    // A link here would lead to the host's own files.
    if std::fs::symlink_metadata(&etc).is_ok_and(|meta| meta.is_dir()) {
        for name in ["hostname", "hosts", "resolv.conf"] {
            let path = etc.join(name);
            if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
                remove_tree(&path)?;
            }
        }
    }
    Ok(())
}

/// Waits until init has finished starting. A machine with a failed unit can be built in; its box's health decides later.
fn booted(teller: &Teller<'_>, bench: &dyn Bench, recipe: &Recipe) -> Result<()> {
    let start = Instant::now();
    let deadline = teller.context.boot_deadline;
    loop {
        teller.context.check_cancelled(recipe.name.as_str())?;
        let mut state = String::new();
        let exec = Exec { env: phases::environment("", &BTreeMap::new(), &BTreeMap::new()), ..phases::state() };
        let code = bench.run(&exec, &mut |line| {
            line.into_iter().for_each(|(_, line)| state = line.trim().to_owned());
            teller.context.flow()
        });
        teller.context.check_cancelled(recipe.name.as_str())?;
        let code = code.map_err(|source| bench_error(recipe, "boot", source))?;
        match state.as_str() {
            "running" | "degraded" => return Ok(()),
            _ if code == 127 || start.elapsed() >= deadline => {
                return Err(Error::BootDeadline { name: recipe.name.clone(), seconds: deadline.as_secs(), state });
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The files that a build brings along, laid out on the host.
struct Desk {
    folder: PathBuf,
    env: Vec<(String, String)>,
    /// Per step: what is copied in, and which file of it is run.
    steps: Vec<(PathBuf, Option<String>)>,
}

impl Desk {
    fn lay(teller: &Teller<'_>, resolved: &Resolved, draft: &Draft<'_>) -> Result<Self> {
        let (recipe, keeper) = (&resolved.recipe, resolved.keeper.as_ref());
        let scratch = draft.scratch()?;
        let folder = scratch.join("desk");
        create(&folder)?;
        let settings = apt::host_settings();
        write(&folder.join("apt.conf"), phases::apt_conf(&settings).as_bytes())?;
        write(&folder.join("vars.json"), &serde_json::to_vec(&recipe.vars).expect("variables are plain text"))?;
        certificates(&folder, Path::new(BUNDLE), Path::new(LOCAL))?;
        let mut steps = Vec::new();
        for (index, step) in recipe.steps.iter().enumerate() {
            let target = scratch.join(format!("step-{index}"));
            let source = on_files_of(keeper, || inputs::source(recipe, step))?;
            let from = HostPath { path: &source, person: keeper };
            let material = &resolved.inputs.steps[index];
            match step {
                BuildStep::Files(_) => stage(teller, recipe, from, material, &target)?,
                BuildStep::Script(_) => {
                    fetch(from, material, &target)?;
                    set_mode(&target, 0o755)?;
                }
                BuildStep::Ansible(_) | BuildStep::Salt(_) | BuildStep::Seed { engine: DataEngine::Files { .. }, .. } => {
                    fetch(from, material, &target)?;
                }
                // A dump is looked at on its way: too large for another copy.
                BuildStep::Seed { .. } => {
                    steps.push((source, None));
                    continue;
                }
            }
            steps.push((target, on_files_of(keeper, || entry(recipe, step, &source))));
        }
        Ok(Self { folder, env: phases::environment(recipe.name.as_str(), &recipe.vars, &proxies()), steps })
    }
}

/// The file of a playbook or state that is run; none where the recipe names the whole folder.
fn entry(recipe: &Recipe, step: &BuildStep, source: &Path) -> Option<String> {
    let path = recipe.folder.join(step.path());
    let alone = path.is_file() && source.is_dir();
    path.file_name().filter(|_| alone).map(|name| name.to_string_lossy().into_owned())
}

/// The host's proxies, for programs other than apt. One on the host's own loopback can't be reached from a machine.
fn proxies() -> BTreeMap<String, String> {
    let names = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    let values = names.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    values
        .filter(|(name, value)| {
            name.to_lowercase() == "no_proxy" || !["localhost", "127.0.0.1", "[::1]"].iter().any(|own| value.contains(own))
        })
        .collect()
}

/// One bundle for programs that take a file, and the local authorities for the machine's own store.
fn certificates(folder: &Path, bundle: &Path, local: &Path) -> Result<()> {
    let mut all = std::fs::read(bundle).unwrap_or_default();
    let entries = std::fs::read_dir(local).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "crt")).collect();
    files.sort();
    for (index, path) in files.iter().enumerate() {
        let text = std::fs::read(path).map_err(Error::io("could not read", path))?;
        all.push(b'\n');
        all.extend_from_slice(&text);
        if index == 0 {
            create(&folder.join("ca"))?;
        }
        write(&folder.join(format!("ca/adt-build-{index}.crt")), &text)?;
    }
    write(&folder.join("ca-bundle.crt"), &all)
}

/// A tree for `/`: `.j2` files rendered without their ending, modes as [`digest`] sees them.
fn stage(teller: &Teller<'_>, recipe: &Recipe, source: HostPath<'_>, material: &Material, target: &Path) -> Result<()> {
    copy_tree(source, material, target, &|from, to, entry| {
        if from.path.extension().is_none_or(|end| end != "j2") {
            return copy_file(from, to, entry);
        }
        let text = from.with_rights(template_text).map_err(Error::io("could not read", from.path))?;
        entry.is(&inputs::digest(&mut text.as_bytes()).expect("memory can be read"), from.path)?;
        let render = teller.context.render;
        let text = render(&text, from.path, &recipe.vars).map_err(|source| bench_error(recipe, "files", source))?;
        let to = to.with_extension("");
        write(&to, text.as_bytes())?;
        set_mode(&to, entry.mode)
    })
}

/// A template is a text that a person wrote.
fn template_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST_TEMPLATE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_TEMPLATE { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(Error::io("could not write", path))
}

/// A machine that has booted, and what is to be done in it.
struct Job<'a> {
    teller: &'a Teller<'a>,
    recipe: &'a Recipe,
    resolved: &'a Resolved,
    bench: &'a dyn Bench,
    desk: &'a Desk,
}

impl Job<'_> {
    fn all(&self) -> Result<()> {
        self.teller.phase("prepare", || {
            self.copy("prepare", (&self.desk.folder).into(), phases::DESK)?;
            self.run("prepare", phases::prepare())
        })?;
        self.packages()?;
        for (index, step) in self.recipe.steps.iter().enumerate() {
            self.step(index, step)?;
        }
        self.units()?;
        self.teller.phase("clean", || self.run("clean", phases::clean()))?;
        self.teller.phase("halt", || self.bench.halt().map_err(|source| bench_error(self.recipe, "halt", source)))?;
        self.harvest();
        self.teller.context.check_cancelled(self.recipe.name.as_str())
    }

    fn packages(&self) -> Result<()> {
        if self.recipe.packages.is_empty() {
            return Ok(());
        }
        self.teller.phase("read package lists", || self.run("read package lists", phases::update()))?;
        self.teller.phase("install packages", || self.run("install packages", phases::install(&self.recipe.packages)))
    }

    fn step(&self, index: usize, step: &BuildStep) -> Result<()> {
        let name = format!("{} {}", step.word(), step.path().display());
        if let BuildStep::Seed { engine, .. } = step {
            return self.teller.phase(&name, || self.seed(&name, engine, index));
        }
        if let Some(tool) = phases::Tool::of(step) {
            let name = format!("install {}", tool.word());
            self.teller.phase(&name, || self.run(&name, tool.install()))?;
        }
        self.teller.phase(&name, || {
            let (source, file) = &self.desk.steps[index];
            self.copy(&name, source.into(), &phases::material(index))?;
            self.run(&name, phases::step(step, index, file.as_deref()))
        })?;
        if let Some(tool) = phases::Tool::of(step) {
            let name = format!("remove {}", tool.word());
            self.teller.phase(&name, || self.run(&name, tool.remove()))?;
        }
        Ok(())
    }

    fn units(&self) -> Result<()> {
        for (verb, units) in [("enable", &self.recipe.services), ("mask", &self.recipe.mask)] {
            if let Some(exec) = phases::units(verb, units) {
                let name = format!("{verb} units");
                self.teller.phase(&name, || self.run(&name, exec))?;
            }
        }
        Ok(())
    }

    fn seed(&self, step: &str, engine: &DataEngine, index: usize) -> Result<()> {
        let source = &self.desk.steps[index].0;
        match engine {
            DataEngine::Sql(sql) => {
                self.run(step, seed::begin(sql))?;
                self.load(step, sql, source, &self.resolved.inputs.steps[index])?;
                self.run(step, seed::end(sql))
            }
            DataEngine::Files { target, user } => {
                if !source.is_dir() {
                    return Err(Error::Seed { file: source.to_owned(), line: None, reason: "it is no folder".to_owned() });
                }
                self.run(step, seed::make_folder(target))?;
                self.copy(step, (&source.join(".")).into(), target)?;
                self.run(step, seed::own(target, user.as_deref()))
            }
            DataEngine::Script => unreachable!("a platform's script is a step of its own kind"),
        }
    }

    /// The dump goes from its file through the program that unpacks it into the server, a piece at a time.
    fn load(&self, step: &str, sql: &Sql, file: &Path, material: &Material) -> Result<()> {
        let [dump] = material.entries.as_slice() else {
            return Err(Error::Seed { file: file.to_owned(), line: None, reason: "it is no file".to_owned() });
        };
        let theirs = HostPath { path: file, person: self.resolved.keeper.as_ref() };
        let mut source = theirs.with_rights(|path| compressed::Source::named(path, dump))?;
        let mut exec = seed::load(sql);
        exec.env.splice(0..0, self.desk.env.iter().cloned());
        let mut said: Vec<String> = Vec::new();
        let mut each = |stream: Stream, line: &str| {
            self.teller.line(stream, line);
            if said.len() < TAIL {
                said.push(line.to_owned());
            }
        };
        let mut input = Watched { inner: &mut source.reader, cancel: self.teller.context.cancel };
        let loaded = self.bench.feed(&exec, &mut input, &mut each);
        self.teller.context.check_cancelled(self.recipe.name.as_str())?;
        match loaded.map_err(|source| bench_error(self.recipe, step, source))? {
            0 => source.finish(file),
            _ => Err(seed::failed(file, &said)),
        }
    }

    fn copy(&self, step: &str, source: HostPath<'_>, target: &str) -> Result<()> {
        self.bench.copy_in(source, target).map_err(|source| bench_error(self.recipe, step, source))
    }

    fn run(&self, step: &str, mut exec: Exec) -> Result<()> {
        exec.env.splice(0..0, self.desk.env.iter().cloned());
        let mut tail = VecDeque::with_capacity(TAIL);
        let code = self.bench.run(&exec, &mut |line| {
            let Some((stream, line)) = line else { return self.teller.context.flow() };
            self.teller.line(stream, line);
            if !line.trim().is_empty() {
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line.to_owned());
            }
            self.teller.context.flow()
        });
        if matches!(code, Ok(0)) {
            return Ok(());
        }
        self.teller.context.check_ended(&self.recipe.name, step)?;
        let code = code.map_err(|source| bench_error(self.recipe, step, source))?;
        Err(Error::Step { name: self.recipe.name.clone(), step: step.to_owned(), code, tail: tail.into() })
    }

    /// Only packages, never lists, and only for builds of the same authors: see [`cache`]. A cache is never a reason to fail.
    fn harvest(&self) {
        let taken = self.bench.harvest(cache::ARCHIVES).map_err(|source| bench_error(self.recipe, "keep downloads", source));
        let taken = taken.and_then(|upper| cache::take(&upper, &cache::kept(self.teller.context.store, &self.resolved.authors)));
        if let Err(error) = taken {
            self.teller.warn(format!("downloads of `{}` are not kept for the next build: {error}", self.recipe.name));
        }
    }
}
