//! The edge: words in, words out. Reads arguments, finds the way to the engine, shows events as they come and the answer at the end.
//!
//! Data goes to stdout, everything else to stderr. Nothing imports this module.

mod answer;
pub mod args;
mod carry;
mod checklist;
mod complaint;
mod completions;
mod connection;
mod examples;
mod logs;
mod manual;
mod plans;
mod progress;
mod question;
mod screen;
mod serve;
mod shell;
mod table;
mod targets;
mod words;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;

use self::args::{Cli, Document, Global, Verb};
use self::connection::Connection;
use self::words::Surroundings;
use crate::model::access::AccessChange;
use crate::model::request::{Bind, Bootstrap, Deploy, Export, PlatformInit, TargetOf};
use crate::model::target::{Back, Fingerprint};
use crate::model::{EnvironmentId, EnvironmentName, Failure, Kind, PlatformName, Request, SnapshotName};
use crate::servers::host_key::{self, Shown};
use crate::{config, session};

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && std::env::args_os().any(|word| word == "--json") => {
            let failure = wrong_words(&error);
            complaint::print(&failure, true);
            return failure.kind.exit_code().into();
        }
        Err(error) => {
            // Help and version are answers, everything else is a wrong word.
            let code = if error.use_stderr() { Kind::Usage.exit_code() } else { 0 };
            return if error.print().is_ok() { code.into() } else { ExitCode::FAILURE };
        }
    };
    log_to_stderr();
    let json = cli.global.json;
    match run(cli) {
        Ok(code) => code,
        Err(failure) => {
            complaint::print(&failure, json);
            failure.kind.exit_code().into()
        }
    }
}

/// What clap has to say, for programs.
fn wrong_words(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let sentence = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    Failure::new(Kind::Usage, "read the command line").cause(sentence).hint("`adt --help` shows the commands and their words")
}

/// For those who look for a bug in adt itself: `ADT_LOG=debug`.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ADT_LOG").unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match &cli.verb {
        Verb::Schema { document } => return print_schema(*document),
        Verb::Completions { shell } => return print(&completions::script(*shell)),
        Verb::Man { output: Some(folder), .. } => return manual::write_all(folder).map(|()| ExitCode::SUCCESS),
        Verb::Man { of, .. } => return print(&manual::page(of.as_deref())?),
        Verb::InternalHostKey { wanted, why, fingerprint, host, kind, key } => {
            return say_host_key(wanted, why, Shown { fingerprint, host, kind, key });
        }
        _ => {}
    }
    let way = match &cli.verb {
        Verb::InternalSession => Some(session::serve::Way::Socket),
        Verb::InternalServer => Some(session::serve::Way::Program),
        _ => None,
    };
    if let Some(way) = way {
        let flags = cli.global.host_flags();
        let settings = || config::host::read(&|name| std::env::var(name).ok(), &flags);
        return session::serve::run(way, settings, cancel_on_interrupt(false)?).map(|()| ExitCode::SUCCESS);
    }
    // What only reads has no step to finish.
    let steps = !matches!(cli.verb, Verb::EnvLogs(_));
    if let Some(target) = &cli.global.target
        && !connection::is_for_targets(&cli.verb)
    {
        return Err(Failure::new(Kind::Usage, format!("do this on the target `{}`", target.escape_debug()))
            .cause("`--target` is for looking at the environment there and its sites, being in it, starting, halting, snapshots and rewinding")
            .hint("`adt env:promote` changes what is there"));
    }
    let session = Session::open(cli.global, steps)?;
    let code = session.verb(cli.verb);
    session.connection.leave();
    code
}

fn print(text: &str) -> Result<ExitCode, Failure> {
    answer::print_text(text).map(|()| ExitCode::SUCCESS)
}

/// What `ssh` asks this program: whether a server is the one that is meant.
fn say_host_key(wanted: &str, why: &str, shown: Shown<'_>) -> Result<ExitCode, Failure> {
    let wanted = Fingerprint::new(wanted).map_err(|reason| Failure::new(Kind::Usage, "read the fingerprint").cause(reason))?;
    match host_key::line(&wanted, why, shown) {
        Ok(line) => print(&line),
        Err(told) => {
            told.iter().for_each(|told| drop(screen::err(told)));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print_schema(document: Document) -> Result<ExitCode, Failure> {
    let schema = config::schema(match document {
        Document::Platform => config::Document::Platform,
        Document::Host => config::Document::Host,
        Document::Box => config::Document::Recipe,
    });
    answer::print_json(&schema)?;
    Ok(ExitCode::SUCCESS)
}

/// One run of the program with everything open.
struct Session {
    global: Global,
    connection: Box<dyn Connection>,
    surroundings: Surroundings,
    /// Set by the first Ctrl-C.
    cancel: Arc<AtomicBool>,
}

impl Session {
    fn open(global: Global, steps: bool) -> Result<Self, Failure> {
        let cancel = cancel_on_interrupt(steps)?;
        let connection = connection::open(&global, &cancel)?;
        let here =
            std::env::current_dir().map_err(|error| Failure::new(Kind::Host, "find the folder you stand in").because(&error))?;
        let platforms = connection.platforms()?;
        let mut surroundings = Surroundings { chosen: global.platform.clone(), here, platforms, target: None };
        let Some(target) = &global.target else { return Ok(Self { global, connection, surroundings, cancel }) };
        let id = EnvironmentId { platform: surroundings.platform(None)?, name: words::name(target)? };
        let connection = connection::of_target(&*connection, &id, &cancel)?;
        surroundings.target = Some(id);
        Ok(Self { global, connection, surroundings, cancel })
    }

    fn verb(&self, verb: Verb) -> Result<ExitCode, Failure> {
        let request = match verb {
            Verb::EnvSsh { words, user, console, command } => return self.ssh(&words, user, console, command),
            Verb::EnvExec { words, user, command } => return self.exec(&words, &user, &command),
            Verb::EnvLogs(words) => return self.logs(&words),
            Verb::HostUp { detach, names_only } => return self.host_up(detach, names_only),
            Verb::InternalLogs => return self.send_logs(),
            Verb::BoxExport { names, output, without } => {
                // Boxes exist without any platform, as for the other verbs.
                let platform = self.surroundings.platform(None).ok();
                let boxes = names.iter().map(|name| words::name(name)).collect::<Result<_, _>>()?;
                return self.box_export(&Export { platform, boxes, without: carry::digests(&without)? }, output);
            }
            Verb::BoxImport { file } => return self.box_import(&file),
            Verb::TargetPlan { words, out } => {
                let (before, [target]) = last(&words);
                let (id, target) = (self.surroundings.environment(before)?, words::name(target)?);
                return self.target_plan(id, target, out.as_deref());
            }
            Verb::TargetApply { file } => plans::read(&self.surroundings.here.join(file))?,
            Verb::InternalEnvironments { moment } => return self.at_boot(moment),
            Verb::InternalAccess { moment, number } => return self.access_moment(moment, number),
            Verb::InternalCommands => return self.answer_commands(),
            Verb::HostHalt => return self.host_halt(),
            Verb::InternalSizes => return self.connection.engine()?.measure().map(|()| ExitCode::SUCCESS),
            Verb::InternalSources { of } => {
                return self.connection.engine()?.refresh_sources(of.as_ref()).map(|()| ExitCode::SUCCESS);
            }
            Verb::EnvDestroy { words, dry_run, yes } => {
                if let Some(request) = self.nameless_environment(&words.words)? {
                    return self.ask(request);
                }
                let id = self.surroundings.environment(&words.words)?;
                let request = |dry_run| Request::EnvDestroy { id: id.clone(), dry_run };
                return self.destructive(&request, dry_run.dry_run, yes.yes);
            }
            Verb::EnvReload { words, data: true, dry_run, yes } => {
                let id = self.surroundings.environment(&words.words)?;
                let request = |dry_run| Request::EnvReload { id: id.clone(), data: true, dry_run };
                return self.destructive(&request, dry_run.dry_run, yes.yes);
            }
            Verb::EnvRewind { words, dry_run, yes } => {
                let (id, name) = self.environment_and_snapshot(&words)?;
                let request = |dry_run| Request::EnvRewind { id: id.clone(), name: name.clone(), dry_run };
                return self.destructive(&request, dry_run.dry_run, yes.yes);
            }
            Verb::EnvSnapshots { words, remove: Some(name), dry_run, yes } => {
                let (id, name) = (self.surroundings.environment(&words.words)?, words::name::<SnapshotName>(&name)?);
                let request = |dry_run| Request::EnvSnapshotRemove { id: id.clone(), name: name.clone(), dry_run };
                return self.destructive(&request, dry_run.dry_run, yes.yes);
            }
            Verb::EnvRollback { words, to, data, dry_run, yes } => {
                let (of, back) = (self.target(&words)?, Back { to, data });
                let request = |dry_run| Request::EnvRollback { of: of.clone(), back: back.clone(), dry_run };
                return self.destructive(&request, dry_run.dry_run, yes.yes || !data);
            }
            Verb::PlatformDestroy { words, dry_run, yes } => {
                if let Some(request) = self.nameless_platform(&words.words)? {
                    return self.ask(request);
                }
                let (platform, environments) = self.surroundings.fleet(&words.words)?;
                let request = |dry_run| {
                    let (platform, environments) = (platform.clone(), environments.clone());
                    Request::PlatformDestroy { platform, environments, dry_run }
                };
                return self.destructive(&request, dry_run.dry_run, yes.yes);
            }
            Verb::BoxPrune { dry_run, yes } => {
                return self.destructive(&|dry_run| Request::BoxPrune { dry_run }, dry_run.dry_run, yes.yes);
            }
            other => self.request(other)?,
        };
        self.ask(request)
    }

    /// Where the words are exactly those of a record that has no valid name: what removes it.
    fn nameless_environment(&self, words: &[String]) -> Result<Option<Request>, Failure> {
        let [platform, name] = words else { return Ok(None) };
        if platform.parse::<PlatformName>().is_ok() && name.parse::<EnvironmentName>().is_ok() {
            return Ok(None);
        }
        // Only root may forget a record.
        let Ok(engine) = self.connection.engine() else { return Ok(None) };
        let damaged = engine.store.database.readable_environments(None)?.damaged;
        let meant = damaged.iter().any(|one| one.id().is_none() && one.platform == *platform && one.name == *name);
        Ok(meant.then(|| Request::Forget { platform: platform.clone(), environment: Some(name.clone()) }))
    }

    fn nameless_platform(&self, words: &[String]) -> Result<Option<Request>, Failure> {
        let [platform] = words else { return Ok(None) };
        let Ok(engine) = self.connection.engine() else { return Ok(None) };
        let nameless = engine.store.database.nameless_platforms()?;
        let meant = nameless.iter().any(|(name, _)| name == platform);
        Ok(meant.then(|| Request::Forget { platform: platform.clone(), environment: None }))
    }

    /// `[PLATFORM] ENV [NAME]`
    fn environment_and_snapshot(&self, words: &[String]) -> Result<(EnvironmentId, Option<SnapshotName>), Failure> {
        let (id, names) = self.surroundings.followed::<SnapshotName>(words, &|id| self.connection.machine_names(id).is_ok())?;
        match names.as_slice() {
            [] => Ok((id, None)),
            [name] => Ok((id, Some(name.clone()))),
            _ => Err(Failure::new(Kind::Usage, "read the snapshot's name").cause("there are too many words")),
        }
    }

    /// The request that a verb without questions of its own stands for.
    fn request(&self, verb: Verb) -> Result<Request, Failure> {
        let around = &self.surroundings;
        let boxes_of = |platform: Option<String>| match platform {
            Some(word) => around.platform(Some(&word)).map(Some),
            // Boxes exist without any platform: an undecided surrounding means those of the host alone.
            None => Ok(around.platform(None).ok()),
        };
        Ok(match verb {
            Verb::HostBootstrap { dry_run, remove, keep_data, no_packages, no_service, pool, remove_pool } => {
                self.connection.engine()?;
                let (packages, service, dry_run) = (!no_packages, !no_service, dry_run.dry_run);
                Request::HostBootstrap(Bootstrap { remove, keep_data, service, packages, pool, remove_pool, dry_run })
            }
            Verb::HostCheck => Request::HostCheck,
            Verb::HostBindProxy { words, with, output } => {
                let environment = (!words.words.is_empty()).then(|| around.environment(&words.words)).transpose()?;
                let output = output.map(|folder| around.here.join(folder));
                Request::HostBind(Bind { environment, with, output })
            }
            Verb::HostUnbindProxy { words } => Request::HostUnbind {
                environment: (!words.words.is_empty()).then(|| around.environment(&words.words)).transpose()?,
            },
            Verb::PlatformInit { source, folder, branch } => {
                let into = folder.map(|folder| around.here.join(folder));
                Request::PlatformInit(PlatformInit { source, branch, into, here: around.here.clone() })
            }
            Verb::PlatformList => Request::PlatformList,
            Verb::PlatformPull { of } => Request::PlatformPull { platform: around.platform(of.as_deref())? },
            Verb::PlatformBuild { of, force } => Request::PlatformBuild { platform: around.platform(of.as_deref())?, force },
            Verb::PlatformUp { words, dry_run } => {
                let (platform, environments) = around.fleet(&words.words)?;
                Request::PlatformUp { platform, environments, dry_run: dry_run.dry_run }
            }
            Verb::PlatformHalt { words, dry_run } => {
                let (platform, environments) = around.fleet(&words.words)?;
                Request::PlatformHalt { platform, environments, dry_run: dry_run.dry_run }
            }
            Verb::PlatformCheck { words } => {
                let (platform, environments) = around.fleet(&words.words)?;
                Request::PlatformCheck { platform, environments }
            }
            Verb::EnvShare { words, off } => Request::EnvShare { id: around.environment(&words.words)?, shared: !off },
            Verb::EnvInit { words, on, shared, dry_run } => {
                let (id, sites) = around.environment_and_sites(&words, &|platform| self.connection.site_names(platform))?;
                let on = on.as_deref().map(words::name).transpose()?;
                Request::EnvInit { id, sites, on, shared, dry_run: dry_run.dry_run }
            }
            Verb::SiteAdd { words, dry_run } => {
                let (before, [site]) = last(&words);
                Request::SiteAdd { id: around.environment(before)?, site: words::site(site)?, dry_run: dry_run.dry_run }
            }
            Verb::SiteRemove { words, dry_run } => {
                let (before, [site]) = last(&words);
                Request::SiteRemove { id: around.environment(before)?, site: words::name(site)?, dry_run: dry_run.dry_run }
            }
            Verb::SiteBranch { words, dry_run } => {
                let (before, [site, branch]) = last(&words);
                let (site, branch) = (words::name(site)?, words::branch(branch)?);
                Request::SiteBranch { id: around.environment(before)?, site, branch, dry_run: dry_run.dry_run }
            }
            Verb::SiteList { words } => Request::SiteList { id: around.environment(&words.words)? },
            Verb::EnvUp { words, dry_run } => Request::EnvUp { id: around.environment(&words.words)?, dry_run: dry_run.dry_run },
            Verb::EnvHalt { words, dry_run } => {
                Request::EnvHalt { id: around.environment(&words.words)?, dry_run: dry_run.dry_run }
            }
            Verb::EnvSnapshot { words } => {
                let (id, name) = self.environment_and_snapshot(&words)?;
                Request::EnvSnapshot { id, name }
            }
            Verb::EnvSnapshots { words, .. } => Request::EnvSnapshots { id: around.environment(&words.words)? },
            Verb::EnvReload { words, data, dry_run, .. } => {
                Request::EnvReload { id: around.environment(&words.words)?, data, dry_run: dry_run.dry_run }
            }
            Verb::EnvCheck { words } => Request::EnvCheck { id: around.environment(&words.words)? },
            // A server knows no platforms: what is there came by promotions.
            Verb::EnvList { of: None } if around.target.is_some() => Request::EnvList { platform: None },
            Verb::EnvList { of } => {
                Request::EnvList { platform: of.or(around.chosen.clone()).map(|word| around.platform(Some(&word))).transpose()? }
            }
            Verb::EnvUrls { words, check } => Request::EnvUrls { id: around.environment(&words.words)?, check },
            Verb::EnvShow { words, facts } => match (around.environment(&words.words)?, facts) {
                (id, false) => Request::EnvShow { id },
                (id, true) => Request::EnvFacts { id },
            },
            Verb::EnvCp { words } => self.copy(&words)?,
            Verb::SiteDeploy { words, branch, commit, dry_run } => {
                let (before, [site]) = last(&words);
                let what = Deploy { branch: branch.as_deref().map(words::branch).transpose()?, commit };
                let (id, site) = (around.environment(before)?, words::name(site)?);
                Request::SiteDeploy { id, site, what, dry_run: dry_run.dry_run }
            }
            Verb::SiteRollback { words, to, dry_run } => {
                let (before, [site]) = last(&words);
                let (id, site) = (around.environment(before)?, words::name(site)?);
                Request::SiteRollback { id, site, to, dry_run: dry_run.dry_run }
            }
            Verb::BoxList { of } => Request::BoxList { platform: boxes_of(of)? },
            Verb::BoxBuild { names, force } => {
                let boxes: Result<Vec<_>, _> = names.iter().map(|word| word.parse()).collect();
                let boxes = boxes
                    .map_err(|error: crate::model::BadName| Failure::new(Kind::Usage, "read the command line").because(&error))?;
                Request::BoxBuild { platform: boxes_of(None)?, boxes, force }
            }
            Verb::BoxShow { name } => {
                let name = name
                    .parse()
                    .map_err(|error: crate::model::BadName| Failure::new(Kind::Usage, "read the command line").because(&error))?;
                Request::BoxShow { platform: boxes_of(None)?, name }
            }
            Verb::TargetList { of } => Request::TargetList { platform: of.map(|word| around.platform(Some(&word))).transpose()? },
            Verb::TargetHistory { words } => Request::TargetHistory(self.target(&words)?),
            Verb::TargetCheck { words } => Request::TargetCheck(self.target(&words)?),
            Verb::TargetAccess { words } => Request::TargetAccess(self.target(&words)?),
            Verb::TargetGrant { words, time } => {
                let (before, [network]) = last(&words);
                let change = AccessChange::Grant { network: words::network(network)?, seconds: words::seconds(&time)? };
                Request::TargetAdmit { of: self.target(before)?, change }
            }
            Verb::TargetRevoke { words } => {
                let (before, [network]) = last(&words);
                let change = AccessChange::Revoke { network: words::network(network)? };
                Request::TargetAdmit { of: self.target(before)?, change }
            }
            Verb::TargetRehearse { words, from, keep, faults } => {
                Request::TargetRehearse { of: self.target(&words)?, from: words::name(&from)?, keep, faults }
            }
            Verb::EnvPromote { words, dry_run } => {
                let (before, [target]) = last(&words);
                let (id, target) = (around.environment(before)?, words::name(target)?);
                Request::EnvPromote { id, target, dry_run: dry_run.dry_run, seen: None }
            }
            Verb::EnvSsh { .. }
            | Verb::EnvExec { .. }
            | Verb::EnvLogs(_)
            | Verb::EnvDestroy { .. }
            | Verb::EnvRewind { .. }
            | Verb::EnvRollback { .. }
            | Verb::HostUp { .. }
            | Verb::HostHalt
            | Verb::PlatformDestroy { .. }
            | Verb::InternalSizes
            | Verb::InternalSources { .. }
            | Verb::InternalLogs
            | Verb::BoxExport { .. }
            | Verb::BoxImport { .. }
            | Verb::TargetPlan { .. }
            | Verb::TargetApply { .. }
            | Verb::InternalEnvironments { .. }
            | Verb::InternalAccess { .. }
            | Verb::InternalCommands
            | Verb::InternalSession
            | Verb::InternalServer
            | Verb::InternalHostKey { .. }
            | Verb::BoxPrune { .. }
            | Verb::Schema { .. }
            | Verb::Completions { .. }
            | Verb::Man { .. } => unreachable!("answered before"),
        })
    }

    /// `[PLATFORM] TARGET`
    fn target(&self, words: &[String]) -> Result<TargetOf, Failure> {
        let (before, [target]) = last(words);
        // An option between them begins a new list of words for clap, which counts each by itself.
        if before.len() > 1 {
            return Err(Failure::new(Kind::Usage, "read the target's name").cause("there are too many words"));
        }
        let platform = self.surroundings.platform(before.first().map(String::as_str))?;
        Ok(TargetOf { platform, target: words::name(target)? })
    }

    fn ask(&self, request: Request) -> Result<ExitCode, Failure> {
        let response = self.carry(&mut |each| self.connection.run(&request, each))?;
        answer::print(&response, &self.global)?;
        self.connection.refresh_behind(&request)?;
        Ok(answer::exit_code(&response))
    }
}

/// The last words and those before them; there are enough, or the command line would have been refused.
fn last<const N: usize>(words: &[String]) -> (&[String], &[String; N]) {
    words.split_last_chunk().expect("the definition of the arguments asks for these")
}

/// First Ctrl-C (or TERM): end what can be ended, stop at the next step. Second: stop at once; the next run converges.
fn cancel_on_interrupt(steps: bool) -> Result<Arc<AtomicBool>, Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    let told = |error: std::io::Error| Failure::new(Kind::Host, "watch for Ctrl-C").because(&error);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // In this order: the first signal finds the flag unset and only sets it, the second ends the process.
        let code = Kind::Cancelled.exit_code().into();
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&cancel)).map_err(told)?;
        signal_hook::flag::register(signal, Arc::clone(&cancel)).map_err(told)?;
    }
    if !steps {
        return Ok(cancel);
    }
    let watch = Arc::clone(&cancel);
    std::thread::spawn(move || {
        // A signal handler can't print; somebody who pressed Ctrl-C must see that it was heard.
        while !watch.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        drop(screen::err("stopping as soon as nothing is left half done; press Ctrl-C again to stop at once"));
    });
    Ok(cancel)
}
