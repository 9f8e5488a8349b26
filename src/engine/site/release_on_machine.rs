//! Where a site's releases lie on one machine, and the small steps that change it.
//!
//! ```text
//! /srv/www -> /srv/www.releases/3f2a9c01b7d4    what is served; switched by one rename
//! /srv/www.releases/3f2a9c01b7d4/               a release, the site's user's own
//! /srv/www.releases/.new-3f2a9c01b7d4/          being unpacked; renamed when it is whole
//! /srv/www.releases/.rendered-3f2a9c01b7d4      tells with which facts its templates were rendered, where it has any
//! /srv/www.releases/.before -> …                what the path led to before the first release, where it led anywhere
//! /srv/www.releases/.switched                   the services were not told yet: `postdeploy` of what is served has not ended
//! ```
//! Programs for the shell are constants; what a platform says reaches them as arguments. Each may be cut off anywhere and
//! given again.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::engine::check::probe;
use crate::engine::site::templates::{self, Rendering};
use crate::engine::{Engine, Events};
use crate::model::{Check, Digest, Event, Exec, Failure, Kind, MachineSpec, Site, Stream};
use crate::providers::{self, Provider, Stdio};
use crate::releases::phase::{Job, Reader, Until};
use crate::releases::{Error, Shelf, archive};

/// A site on one of its machines.
pub(in crate::engine) struct Ground<'a> {
    pub engine: &'a Engine,
    pub spec: &'a MachineSpec,
    pub site: &'a Site,
    /// The symlink that is switched.
    pub path: &'a str,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Standing {
    pub serves: Serves,
    /// The whole releases on the machine, by the beginning of their digest, with the stamps of their renderings.
    pub releases: BTreeMap<String, String>,
    /// A switch was cut off before its `postdeploy` had ended.
    pub is_untold: bool,
}

impl Standing {
    /// Whether this release is what the path leads to.
    pub fn leads_to(&self, release: &Digest) -> bool {
        self.serves == Serves::Release(release.short().to_owned())
    }

    /// The path leads to the release, and its services know.
    pub fn is_at(&self, release: &Digest) -> bool {
        self.leads_to(release) && !self.is_untold
    }

    /// Whether the release lies there with these files.
    pub fn has_rendered(&self, release: &Digest, rendering: &Rendering) -> bool {
        self.releases.get(release.short()) == Some(&rendering.stamp)
    }
}

/// What a site's path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) enum Serves {
    Release(String),
    /// What its box or its user put there.
    Elsewhere,
    Nothing,
    /// No link at all, so it can't be switched.
    Folder,
}

/// The folder beside a site's path that holds its releases.
pub(in crate::engine) fn folder(path: &str) -> String {
    format!("{path}.releases")
}

const LOOK: &str = r#"
if [ -L "$1" ]; then printf 'link %s\n' "$(readlink "$1")"; elif [ -e "$1" ]; then echo folder; fi
if [ -e "$2/.switched" ]; then echo untold; fi
cd "$2" 2>/dev/null || exit 0
for name in *; do
    if [ -d "$name" ]; then printf 'has %s %s\n' "$name" "$(cat ".rendered-$name" 2>/dev/null)"; fi
done"#;

const CLEAR: &str = r#"set -e
mkdir -p "$2"
if [ -L "$1" ] && ! [ -L "$2/.before" ]; then
    target=$(readlink "$1")
    case $target in "$2"/*) ;; *) ln -s "$target" "$2/.before" ;; esac
fi
rm -rf "$2/.new-$3"
mkdir "$2/.new-$3"
chown "$4:" "$2/.new-$3""#;

/// Its name must not outlive a power cut that its files don't.
const SETTLE: &str = r#"set -eC
rm -f "$1/.rendered-$2"
rm -rf "$1/$2"
sync -f "$1/.new-$2"
mv -T "$1/.new-$2" "$1/$2"
if [ "$3" ]; then echo "$3" > "$1/.rendered-$2"; fi"#;

/// As the site's user: what leads elsewhere in the release is its own doing, and reaches no further than that user.
const MERGE: &str = r#"set -e
cd "$1"
find . -type f -exec sh -c 'mkdir -p "$0/${1%/*}" && mv -fT "$1" "$0/$1"' "$2" {} \;
test -z "$(find . -type f)""#;

const UNSTAMP: &str = r#"rm -f "$1/.rendered-$2""#;

const STAMP: &str = r#"set -eC
rm -f "$1/.rendered-$2"
rm -rf "$1/.new-$2"
sync -f "$1/$2"
if [ "$3" ]; then echo "$3" > "$1/.rendered-$2"; fi"#;

const SWITCH: &str = r#"set -e
mark=${2%/*}/.switched
if [ "$3" ]; then : > "$mark"; else rm -f "$mark"; fi
ln -sfn "$2" "$1.next"
mv -T "$1.next" "$1"
sync "${1%/*}/""#;

const TOLD: &str = r#"rm -f "$1/.switched""#;

const BACK: &str = r#"set -e
rm -f "$2/.switched"
if [ -L "$2/.before" ]; then
    ln -sfn "$(readlink "$2/.before")" "$1.next"
    mv -T "$1.next" "$1"
else
    rm -f "$1"
fi"#;

const TIDY: &str = r#"set -e
link=$1 folder=$2
shift 2
serves=$(readlink "$link" || :)
cd "$folder" 2>/dev/null || exit 0
for name in * .new-*; do
    case " $* " in *" $name "*) continue ;; esac
    if [ "$serves" != "$folder/$name" ]; then rm -rf -- "$name"; fi
done
for stamp in .rendered-*; do
    if ! [ -d "${stamp#.rendered-}" ]; then rm -f "$stamp"; fi
done"#;

impl Ground<'_> {
    fn folder(&self) -> String {
        folder(self.path)
    }

    fn provider(&self) -> Result<&dyn Provider, Failure> {
        Ok(self.engine.providers.of(self.spec)?)
    }

    /// A release's folder on the machine.
    pub fn tree(&self, release: &str) -> String {
        format!("{}/{release}", self.folder())
    }

    pub fn look(&self) -> Result<Standing, Failure> {
        let (mut serves, mut releases, mut is_untold) = (Serves::Nothing, BTreeMap::new(), false);
        for line in self.shell("look at", LOOK, &[self.path, &self.folder()])? {
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("link", target) => {
                    let release = target.strip_prefix(&self.folder()).and_then(|rest| rest.strip_prefix('/'));
                    serves = release.map_or(Serves::Elsewhere, |release| Serves::Release(release.to_owned()));
                }
                ("folder", _) => serves = Serves::Folder,
                ("untold", _) => is_untold = true,
                ("has", release) => {
                    let (name, stamp) = release.split_once(' ').unwrap_or((release, ""));
                    releases.insert(name.to_owned(), stamp.to_owned());
                }
                _ => {}
            }
        }
        Ok(Standing { serves, releases, is_untold })
    }

    /// Puts a release beside the others. One that is there already is replaced: its scripts may have left it half done.
    pub fn receive(&self, shelf: &Shelf, release: &Digest, rendering: &Rendering) -> Result<(), Failure> {
        let send = |writer| archive::send(&shelf.archive(release), &rendering.files, writer);
        let (sent, unpacked) = self.unpack(release, send)?;
        let told = |error: &Error| error.failure(format!("send release {} to `{}`", release.short(), self.spec.id));
        match (&sent, unpacked) {
            // What is wrong with the archive itself is the reason for whatever the other end says.
            (Err(error @ (Error::BadEntry { .. } | Error::Damaged { .. })), _) => return Err(told(error)),
            (Err(error @ Error::Taken { .. }), _) => return Err(templates::told(self.site, told(error))),
            (_, Err(error)) => return Err(error.into()),
            (Err(error), Ok(())) => return Err(told(error)),
            (Ok(()), Ok(())) => {}
        }
        self.shell("keep a release on", SETTLE, &[&self.folder(), release.short(), &rendering.stamp]).map(drop)
    }

    /// Gives a release that lies there already what its templates become now, each file in one instant. It counts as lacking
    /// that until [`Self::stamp`] says that its programs know, too.
    pub fn refresh(&self, release: &Digest, rendering: &Rendering) -> Result<(), Failure> {
        let (sent, unpacked) = self.unpack(release, |writer| archive::send_rendered(&rendering.files, writer))?;
        unpacked?;
        sent.map_err(|error| Failure::new(Kind::Internal, format!("send files to `{}`", self.spec.id)).because(&error))?;
        self.shell("change a release on", UNSTAMP, &[&self.folder(), release.short()])?;
        let (new, tree) = (self.new_tree(release), self.tree(release.short()));
        self.shell_as(Some(&self.site.code.user), "put rendered files into a release on", MERGE, &[&new, &tree]).map(drop)
    }

    pub fn stamp(&self, release: &Digest, rendering: &Rendering) -> Result<(), Failure> {
        self.shell("keep a release on", STAMP, &[&self.folder(), release.short(), &rendering.stamp]).map(drop)
    }

    fn new_tree(&self, release: &Digest) -> String {
        self.tree(&format!(".new-{}", release.short()))
    }

    /// What `send` writes, as files of the site's user in a new folder: how the one end and the other fared.
    fn unpack<T: Send>(
        &self,
        release: &Digest,
        send: impl FnOnce(std::io::PipeWriter) -> T + Send,
    ) -> Result<(T, providers::Result<()>), Failure> {
        let user = &self.site.code.user;
        self.shell("make room on", CLEAR, &[self.path, &self.folder(), release.short(), user])?;
        let (target, provider) = (self.new_tree(release), self.provider()?);
        let failed = |source| Failure::new(Kind::Internal, "make a pipe").because(&source);
        let (mut reader, writer) = std::io::pipe().map_err(failed)?;
        Ok(std::thread::scope(|scope| {
            let sending = scope.spawn(move || send(writer));
            let unpacked = provider.unpack(&self.spec.id, &mut reader, &target, user, &self.engine.cancel());
            // A sender that still has something to say must not wait for a reader that gave up.
            drop(reader);
            let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (sent, unpacked)
        }))
    }

    /// From one instant to the next the site is this release.
    pub fn switch(&self, release: &str) -> Result<(), Failure> {
        let tells = self.site.code.postdeploy.as_ref().map_or("", |_| "postdeploy");
        self.shell("switch", SWITCH, &[self.path, &self.tree(release), tells]).map(drop)
    }

    /// Its services know what is served.
    pub fn told(&self) -> Result<(), Failure> {
        self.shell("finish a switch on", TOLD, &[&self.folder()]).map(drop)
    }

    /// The site is what it was before its first release.
    pub fn switch_back_to_before(&self) -> Result<(), Failure> {
        self.shell("switch", BACK, &[self.path, &self.folder()]).map(drop)
    }

    /// Removes all releases but these, and never the one that is served.
    pub fn tidy(&self, kept: &[&str]) -> Result<(), Failure> {
        let folder = self.folder();
        let arguments: Vec<&str> = [self.path, &folder].into_iter().chain(kept.iter().copied()).collect();
        self.shell("remove old releases from", TIDY, &arguments).map(drop)
    }

    /// Runs one of the release's own programs, showing what it prints, to its end or until it is cut short. What leads back is
    /// not cancelled, but it has its deadline.
    pub fn run(&self, job: &Job, cancel: Option<&AtomicBool>, events: &Events) -> Result<(), Failure> {
        let deadline = Duration::from_secs(self.site.code.phase_deadline.into());
        let mut reader = Reader::new(Until { cancel, deadline });
        let source = format!("{} {}", self.spec.id.machine, job.phase.word());
        let show = |line: &str| {
            events.emit(Event::Output { source: source.clone(), stream: Stream::Out, line: line.to_owned() });
        };
        let provider = self.provider()?;
        let ended = {
            let each = &mut |line: Option<(Stream, &str)>| reader.take(line, show);
            provider.exec(&self.spec.id, &job.exec(), Stdio::Follow { each })
        };
        let code = match ended {
            Ok(ended) => Some(ended.code),
            // Who had to be killed answers nothing.
            Err(_) if reader.is_cut() => None,
            Err(error) => return Err(error.into()),
        };
        reader.end(job, &format!("`{}`", self.spec.id), code)
    }

    /// Init has finished starting, so that services can be told to reload.
    pub fn await_boot(&self) -> Result<(), Failure> {
        self.await_check(Check::Booted, Kind::Deadline, "boot")
    }

    /// The site answers on this machine.
    pub fn await_health(&self) -> Result<(), Failure> {
        let host = format!("{}.{}", self.site.name, self.spec.search.first().map_or("", String::as_str));
        let check = Check::Http { port: self.site.port, path: self.site.health.clone(), host: Some(host) };
        self.await_check(check, Kind::DeployHealth, "answer")
    }

    fn await_check(&self, check: Check, kind: Kind, verb: &str) -> Result<(), Failure> {
        let mut spec = self.spec.clone();
        spec.health.checks = vec![check];
        let seconds = spec.health.deadline_seconds;
        let cancel = &self.engine.cancel;
        let waited = probe::wait(&*self.engine.probe, self.provider()?, &spec, Duration::from_secs(seconds.into()), cancel);
        let failure = |kind| Failure::new(kind, format!("see `{}` {verb}", spec.id));
        match waited {
            Ok(()) => Ok(()),
            Err(probe::NoAnswer::Cancelled) => Err(failure(Kind::Cancelled).cause("cancelled")),
            Err(probe::NoAnswer::Died(state)) => Err(failure(kind).cause(format!("it went {}", state.word()))),
            Err(probe::NoAnswer::Deadline(reason)) => {
                Err(failure(kind).cause(format!("it did not within {seconds} s: {reason}")))
            }
        }
    }

    /// Runs one of the constants above and gives back its lines.
    fn shell(&self, what: &str, program: &str, arguments: &[&str]) -> Result<Vec<String>, Failure> {
        self.shell_as(None, what, program, arguments)
    }

    /// The same as a user of the machine.
    fn shell_as(&self, user: Option<&str>, what: &str, program: &str, arguments: &[&str]) -> Result<Vec<String>, Failure> {
        let mut exec = Exec::new(["/bin/sh", "-c", program, "adt"]);
        exec.argv.extend(arguments.iter().map(|&word| word.to_owned()));
        exec.cwd = Some("/".to_owned());
        exec.user = user.map(str::to_owned);
        let stdio = Stdio::Pipes { stdin: None, each: &mut |_, _| {} };
        let ended = self.provider()?.exec(&self.spec.id, &exec.as_one_stream(), stdio)?;
        if ended.code == 0 {
            return Ok(ended.output.text().lines().map(str::to_owned).collect());
        }
        let failure = Failure::new(Kind::Program, format!("{what} `{}`", self.spec.id));
        Err(failure.cause(format!("a program there ended with exit code {}", ended.code)).tail(ended.output.tail.lines()))
    }
}
