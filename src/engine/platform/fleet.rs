//! `platform:up`, `platform:halt`, `platform:destroy`: one verb over many environments, a few at a time.
//!
//! Each environment is its own success or failure: one that can't start keeps none of the others down.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::Engine;
use crate::engine::at_once::{gather, stopped};
use crate::engine::events::Events;
use crate::engine::permission::Right;
use crate::model::response::Done;
use crate::model::{EnvironmentId, EnvironmentName, Failure, Kind, Plan, PlatformName, Response};
use crate::store::{Environment, Wanted};

/// What one environment's part of a platform verb did.
struct Part {
    changed: bool,
    plan: Plan,
    removes: Vec<String>,
}

impl Engine {
    pub(in crate::engine) fn platform_up(
        &self,
        platform: &PlatformName,
        names: &[EnvironmentName],
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let chosen = self.chosen(platform, names)?;
        // Named ones are started; without names it is exactly those that were up.
        let start = |environment: &Environment| match environment.wanted {
            Wanted::Up | Wanted::Paused => true,
            // A named one whose destroy was interrupted is refused by name.
            Wanted::Halted | Wanted::Gone => !names.is_empty(),
        };
        let chosen: Vec<_> = chosen.into_iter().filter(start).collect();
        let parts = self.each(&chosen, &|environment| part(self.env_up(&environment.id, dry_run, events)?))?;
        Ok(told(platform, "up", &chosen, parts, dry_run))
    }

    pub(in crate::engine) fn platform_halt(
        &self,
        platform: &PlatformName,
        names: &[EnvironmentName],
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let chosen = self.chosen(platform, names)?;
        let parts = self.each(&chosen, &|environment| {
            let _lock = self.lock_environment(&environment.id, Right::Run, events)?;
            let environment = self.environment(&environment.id)?;
            let becomes = match environment.wanted {
                Wanted::Up | Wanted::Paused => Wanted::Paused,
                Wanted::Halted | Wanted::Gone => environment.wanted,
            };
            let plan = self.lower(&environment, becomes, dry_run, events)?;
            Ok(Part { changed: !plan.is_empty() || becomes != environment.wanted, plan, removes: Vec::new() })
        })?;
        Ok(told(platform, "halted", &chosen, parts, dry_run))
    }

    pub(in crate::engine) fn platform_destroy(
        &self,
        platform: &PlatformName,
        names: &[EnvironmentName],
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let known = self.store.database.platform(platform)?.is_some();
        if !known && names.is_empty() && self.remembers("destroyed", platform.as_str()) {
            return Ok(Response::Done(Done {
                summary: format!("platform `{platform}` is forgotten already"),
                ..Done::default()
            }));
        }
        let record = self.platform(platform)?;
        let chosen = self.chosen(platform, names)?;
        let parts = self.each(&chosen, &|environment| part(self.env_destroy(&environment.id, dry_run, events)?))?;
        let mut done = told(platform, "destroyed", &chosen, parts, dry_run);
        if names.is_empty() {
            // As long as the platform is known, a run that was killed is finished by the next.
            let _nobody_prepares = if dry_run { None } else { Some(self.remove_spares(&record, events)?) };
            let layers = self.forget_platform(&record, dry_run, events)?;
            if let Response::Done(done) = &mut done {
                done.removes.extend(layers);
                done.removes.push(format!("the entry of platform `{platform}`"));
                let environments = match chosen.len() {
                    0 => String::new(),
                    1 => " with its environment".to_owned(),
                    count => format!(" with its {count} environments"),
                };
                done.summary = if dry_run {
                    format!("platform `{platform}` would be forgotten{environments}")
                } else {
                    let folder = record.folder.display();
                    format!("platform `{platform}` is forgotten{environments}; its folder `{folder}` is yours and stays")
                };
                done.changed = !dry_run;
            }
        }
        Ok(done)
    }

    /// The named environments of a platform, or all of them.
    pub(in crate::engine) fn chosen(
        &self,
        platform: &PlatformName,
        names: &[EnvironmentName],
    ) -> Result<Vec<Environment>, Failure> {
        let all = self.environments(Some(platform))?;
        if all.is_empty() {
            self.platform(platform)?;
        }
        if let Some(missing) = names.iter().find(|name| !all.iter().any(|environment| environment.id.name == **name)) {
            return Err(self.no_environment(&EnvironmentId { platform: platform.clone(), name: missing.clone() }));
        }
        Ok(all.into_iter().filter(|environment| names.is_empty() || names.contains(&environment.id.name)).collect())
    }

    /// Works on as many environments at once as there are processors, but at least two: starting is mostly waiting.
    pub(in crate::engine) fn each<T: Send>(
        &self,
        environments: &[Environment],
        work: &(dyn Fn(&Environment) -> Result<T, Failure> + Sync),
    ) -> Result<Vec<T>, Failure> {
        let at_once = std::thread::available_parallelism().map_or(2, usize::from).max(2).min(environments.len());
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(environment) = environments.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = if stopped(&self.cancel) {
                            let failure = Failure::new(Kind::Cancelled, format!("work on `{}`", environment.id));
                            Err(self.goes_on(failure.cause("cancelled before it began")))
                        } else {
                            work(environment)
                        };
                        results.lock().expect("no thread panics while it holds the results").push(result);
                    }
                });
            }
        });
        gather(results.into_inner().expect("all threads have ended"))
    }
}

fn part(response: Response) -> Result<Part, Failure> {
    match response {
        Response::Done(done) => Ok(Part { changed: done.changed, plan: done.plan.unwrap_or_default(), removes: done.removes }),
        other => Err(Failure::new(Kind::Internal, format!("read the answer {other:?}"))),
    }
}

fn told(platform: &PlatformName, state: &str, chosen: &[Environment], parts: Vec<Part>, dry_run: bool) -> Response {
    let names: Vec<_> = chosen.iter().map(|environment| environment.id.name.to_string()).collect();
    let summary = match (names.len(), dry_run) {
        (0, _) if state == "up" => format!("no environment of `{platform}` was up"),
        (0, _) => format!("`{platform}` has no environment"),
        (_, true) => format!("of `{platform}` these would be {state}: {}", names.join(", ")),
        (_, false) => format!("of `{platform}` these are {state}: {}", names.join(", ")),
    };
    let changed = !dry_run && parts.iter().any(|part| part.changed);
    let mut plan = Plan::default();
    let mut removes = Vec::new();
    for part in parts {
        plan.waves.extend(part.plan.waves);
        removes.extend(part.removes);
    }
    Response::Done(Done { summary, changed, plan: dry_run.then_some(plan), removes, ..Done::default() })
}
