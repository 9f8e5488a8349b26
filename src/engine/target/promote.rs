//! `env:promote`, `env:rollback`, where their operator sits.

use std::collections::BTreeSet;
use std::io::Write;

use crate::engine::environment::records::leaving;
use crate::engine::environment::snapshot::unfinished;
use crate::engine::events::Events;
use crate::engine::target::list::only_server;
use crate::engine::target::outside::Outside;
use crate::engine::target::receive::digest;
use crate::engine::target::records::had;
use crate::engine::target::releases::{self, Load};
use crate::engine::{Engine, program};
use crate::model::access::AccessChange;
use crate::model::request::{Bootstrap, TargetOf};
use crate::model::response::{CheckItem, CheckStep, Checklist, Done, LayerSummary, Promotion, Standing};
use crate::model::target::{Back, LayerProof, Server, TargetStep};
use crate::model::{Digest, Edge, EnvironmentId, EnvironmentName, Event, Failure, Kind, Plan, Request, Response};
use crate::plan::promotion::{self, Brought, Found, Going, Move, Refused};
use crate::releases::OTHER_CONTENT;
use crate::servers::{self, Door, Program, Session, Way};
use crate::store::Environment;
use crate::store::record::{Definition, Providers};
use crate::wire::Serve;

/// All that goes to a server.
pub(super) struct Cargo {
    pub brought: Brought,
    program: Program,
    /// The definition, as JSON.
    text: Vec<u8>,
    /// Keeps the releases on the shelf.
    _load: Load,
}

/// A server as it was found, and a session with it where its adt understands ours.
struct Looked {
    found: Found,
    session: Option<Session>,
}

impl Engine {
    pub(in crate::engine) fn env_promote(
        &self,
        id: &EnvironmentId,
        target: &EnvironmentName,
        dry_run: bool,
        seen: Option<&Digest>,
        events: &Events,
    ) -> Result<Response, Failure> {
        let of = TargetOf { platform: id.platform.clone(), target: target.clone() };
        let target = self.target_of(&of)?;
        let mut cargo = self.cargo(id, &of, &target.edge, dry_run, events)?;
        cargo.brought.admin.clone_from(&target.admin);
        let server = only_server(target);
        let promotion = self.bring(&cargo, &server, &self.way()?, dry_run, seen, events)?;
        Ok(Response::Promotion(Box::new(promotion)))
    }

    /// With the keys and settings of the person who asks.
    pub fn way(&self) -> Result<Way, Failure> {
        let (account, home) = (self.caller.account.clone(), self.caller.home.clone());
        Ok(Way { account, home, identity: None, program: program()? })
    }

    /// Whom the other side names to whoever comes meanwhile.
    pub(super) fn by(&self) -> String {
        format!("{}@{}", self.caller.user, rustix::system::uname().nodename().to_string_lossy())
    }

    /// What a ticket has that a target can get.
    pub(super) fn cargo(
        &self,
        id: &EnvironmentId,
        of: &TargetOf,
        edge: &Edge,
        dry_run: bool,
        events: &Events,
    ) -> Result<Cargo, Failure> {
        let environment = self.environment(id)?;
        self.can_go(&environment)?;
        let load = self.load(&environment, dry_run, events)?;
        let mut definition = for_a_target(&environment.definition, edge);
        load.write_into(&mut definition);
        let text = serde_json::to_vec(&definition).expect("definitions have string keys only, so they become JSON");
        let mut seen = BTreeSet::new();
        let digests: Vec<_> = definition.layers().filter(|digest| seen.insert((*digest).clone())).cloned().collect();
        let path = program()?;
        let program = Program::read(&path)
            .map_err(|error| Failure::new(Kind::Host, format!("read `{}`", path.display())).because(&error))?;
        let brought = Brought {
            id: of.id(),
            from: id.clone(),
            program: program.sha256.clone(),
            program_bytes: program.bytes,
            definition: digest(&text),
            layers: self.contents(&digests, events)?,
            releases: load.going.clone(),
            machines: definition.platform.machines_by_name().into_keys().collect(),
            admin: BTreeSet::new(),
            edge: definition.edge.clone(),
        };
        Ok(Cargo { brought, program, text, _load: load })
    }

    /// What isn't carried yet is refused, so that nobody takes a part for the whole.
    fn can_go(&self, environment: &Environment) -> Result<(), Failure> {
        let id = &environment.id;
        if environment.wanted == crate::store::Wanted::Gone {
            return Err(leaving(id, "promote"));
        }
        if environment.definition.rewound.is_some() {
            return Err(unfinished(id, &format!("promote `{id}`")));
        }
        let refused = |cause: String| Err(Failure::new(Kind::Conflict, format!("promote `{id}`")).cause(cause));
        let platform = &environment.definition.platform;
        if let Some(machine) = platform.machines.iter().find(|machine| machine.host) {
            return refused(format!("`{}` is a host itself, and the machines of a server can't be", machine.role));
        }
        Ok(())
    }

    /// Makes a server have what a ticket has, and proves it.
    pub(super) fn bring(
        &self,
        cargo: &Cargo,
        server: &Server,
        way: &Way,
        dry_run: bool,
        planned: Option<&Digest>,
        events: &Events,
    ) -> Result<Promotion, Failure> {
        let brought = &cargo.brought;
        let Looked { mut found, session } = self.look_at_server(cargo, server, way, dry_run, events)?;
        let before = found.standing.as_ref().map(had).unwrap_or_default();
        let names = self.names(&brought.id, (&before, &brought.edge), std::slice::from_ref(server), way, events)?;
        let seen = names.seen(promotion::seen(brought, &found));
        if planned.is_some_and(|planned| *planned != seen) {
            return Err(Failure::new(Kind::Conflict, format!("do what was planned for `{}`", brought.id))
                .cause("the ticket, the target or its server is not what it was when that was planned")
                .hint(format!("plan anew: adt target:plan {} {} {}", brought.id.platform, brought.from.name, brought.id.name)));
        }
        let moves = promotion::plan(brought, &found).map_err(|refused| self.refused(brought, server, &refused))?;
        let steps = promotion::steps(&moves, brought, &found, &server.to_string());
        let mut promotion = Promotion {
            summary: summary(&moves, brought, &found, server, dry_run),
            changed: !dry_run && !moves.is_empty(),
            seen: Some(seen),
            ..Promotion::planned(brought.id.clone(), server.to_string(), dry_run, steps)
        };
        names.tell(&mut promotion);
        if dry_run || promotion.steps.is_empty() {
            return Ok(promotion);
        }
        promotion.steps.iter().for_each(|step| events.note(format!("plan: {}", words(step))));
        let session = match session {
            Some(session) if !matches!(moves.first(), Some(Move::Program { .. })) => session,
            old => {
                drop(old);
                self.put_program(cargo, server, way, events)?
            }
        };
        session.hold(&brought.id, &self.by())?;
        names.lower(events)?;
        if moves.contains(&Move::SetUp) {
            self.set_up(&session, events)?;
        }
        // Before it was set up, or by an older adt, nobody could tell all of it.
        found.program = Some(brought.program.clone());
        found.is_pending = false;
        found.standing = Some(session.standing(&brought.id, Vec::new())?);
        let moves = promotion::plan(brought, &found).map_err(|refused| self.refused(brought, server, &refused))?;
        for each in &moves {
            match each {
                Move::Program { .. } | Move::SetUp => {}
                Move::Admit { networks } => {
                    let change = AccessChange::Admin { of: brought.id.clone(), networks: networks.clone() };
                    self.change_access(&session, server, way, &change, events)?;
                }
                Move::Layers { digests, .. } => {
                    let write = |to: &mut (dyn Write + Send)| self.send_layers(digests, to, events);
                    session.feed(Serve::Layers, &mut told(&session, events), write).map(drop)?;
                }
                Move::Releases { digests } => {
                    let write = |to: &mut (dyn Write + Send)| self.send_releases(digests, to, events);
                    session.feed(Serve::Releases, &mut told(&session, events), write).map(drop)?;
                }
                Move::Define { .. } => drop(self.define_there(&session, cargo, false, events)?),
            }
        }
        names.set(events)?;
        self.prove(&session, &mut promotion, &brought.layers, &brought.releases, (way, events))?;
        names.prove(&mut promotion, events);
        promotion.next = next(&promotion);
        Ok(promotion)
    }

    /// What is there, without changing anything.
    fn look_at_server(
        &self,
        cargo: &Cargo,
        server: &Server,
        way: &Way,
        dry_run: bool,
        events: &Events,
    ) -> Result<Looked, Failure> {
        let id = &cargo.brought.id;
        let door = events.task("ssh", &format!("looking at {server}"), || servers::knock(way, server))?;
        let (program, is_pending) = (door.found.program.clone(), door.found.is_pending);
        let mut found = Found { program, is_pending, ..Found::default() };
        if found.program.is_none() {
            return Ok(Looked { found, session: None });
        }
        let is_ours = found.program.as_ref() == Some(&cargo.brought.program);
        let session = match door.enter(false, &self.caller.command, &self.cancel) {
            Ok(session) => session,
            Err(failure) if is_ours && !found.is_pending => return Err(failure),
            // Another adt may speak otherwise; ours takes its place.
            Err(failure) => {
                events.note(format!("the adt on `{server}` can't be asked: {}", failure.causes.join(": ")));
                found.program = found.program.filter(|_| !is_ours);
                return Ok(Looked { found, session: None });
            }
        };
        if !dry_run && is_ours {
            session.hold(id, &self.by())?;
        }
        let asked = self.ask_standing(&session, cargo, events);
        match asked {
            Ok((standing, machines)) => (found.standing, found.machines) = (Some(standing), machines),
            Err(failure) if is_ours => return Err(failure),
            Err(failure) => events.note(format!("the adt on `{server}` is another: {failure}")),
        }
        Ok(Looked { found, session: Some(session) })
    }

    fn ask_standing(&self, session: &Session, cargo: &Cargo, events: &Events) -> Result<(Standing, Option<Plan>), Failure> {
        let brought = &cargo.brought;
        let mut standing = session.standing(&brought.id, Vec::new())?;
        let is_unknown =
            |layer: &&LayerSummary| layer.content.is_none() && brought.layers.iter().any(|ours| ours.digest == layer.digest);
        let mut unknown: Vec<_> = standing.layers.iter().filter(is_unknown).map(|layer| layer.digest.clone()).collect();
        let releases = standing.releases.iter().filter(|release| release.content.is_none()).map(|release| &release.digest);
        let ours = |digest: &&Digest| brought.releases.iter().any(|going| going.release.digest == **digest);
        unknown.extend(releases.filter(ours).cloned());
        if !unknown.is_empty() {
            standing = session.standing(&brought.id, unknown)?;
        }
        let has_all = brought.layers.iter().all(|ours| standing.layers.iter().any(|layer| layer.digest == ours.digest));
        let machines = has_all.then(|| self.define_there(session, cargo, true, events)).transpose()?;
        Ok((standing, machines.and_then(|done| done.plan)))
    }

    fn refused(&self, brought: &Brought, server: &Server, refused: &Refused) -> Failure {
        let kind = match refused {
            Refused::NoRoom { .. } => Kind::Exhausted,
            Refused::OtherContent { .. } | Refused::OtherRelease { .. } | Refused::Foreign => Kind::Conflict,
        };
        let failure = Failure::new(kind, format!("bring `{}` to `{server}`", brought.from)).because(refused);
        failure.hint(match refused {
            Refused::NoRoom { .. } => "free some space there, e.g. with `adt box:prune`",
            Refused::OtherContent { .. } => "it was built there or changed; remove what stands on it there, then `adt box:prune`",
            Refused::OtherRelease { .. } => OTHER_CONTENT,
            Refused::Foreign => "give the target another name, or end that environment there",
        })
    }

    /// Puts this adt there and speaks with it. One that does not answer goes again.
    fn put_program(&self, cargo: &Cargo, server: &Server, way: &Way, events: &Events) -> Result<Session, Failure> {
        let door = servers::knock(way, server)?;
        let is_there = door.found.program.as_ref() == Some(&cargo.brought.program);
        let door = match is_there {
            true => door,
            false => events.task("adt", &format!("putting it on {server}"), || door.put(&cargo.program, &self.cancel))?,
        };
        match door.enter(!is_there, &self.caller.command, &self.cancel) {
            Ok(session) => Ok(session),
            Err(failure) if self.cancel.load(std::sync::atomic::Ordering::Relaxed) => Err(failure),
            Err(failure) => {
                let back = servers::knock(way, server).and_then(Door::put_back);
                Err(match back {
                    Ok(()) => failure.cause("it did not answer, so what was there before is back"),
                    Err(_) => failure.cause("it did not answer, and what was there before is beside it as `.adt-before`"),
                })
            }
        }
    }

    fn set_up(&self, session: &Session, events: &Events) -> Result<(), Failure> {
        let bootstrap = Bootstrap {
            remove: false,
            keep_data: false,
            service: true,
            packages: true,
            pool: None,
            remove_pool: false,
            dry_run: false,
        };
        session.run(&Request::HostBootstrap(bootstrap), &mut told(session, events))?;
        session.settle()
    }

    fn define_there(&self, session: &Session, cargo: &Cargo, dry_run: bool, events: &Events) -> Result<Done, Failure> {
        let Brought { id, from, .. } = &cargo.brought;
        let serve = Serve::Define { id: id.clone(), by: self.by(), from: from.clone(), dry_run };
        let write = |to: &mut (dyn Write + Send)| {
            to.write_all(&cargo.text).map_err(|error| Failure::new(Kind::Program, "send the definition").because(&error))
        };
        let response = match dry_run {
            true => session.feed(serve, &mut |_| (), write)?,
            false => session.feed(serve, &mut told(session, events), write)?,
        };
        is_done(response)
    }

    /// What is there once all is done: its layers and releases by the files that are there now, the environment from inside, and its
    /// public names from here.
    fn prove(
        &self,
        session: &Session,
        promotion: &mut Promotion,
        layers: &[LayerSummary],
        went: &[Going],
        (way, events): (&Way, &Events),
    ) -> Result<(), Failure> {
        let digests = layers.iter().map(|layer| &layer.digest).chain(went.iter().map(|going| &going.release.digest));
        let read = || session.standing(&promotion.id, digests.cloned().collect());
        let there = events.task("proof", "reading what is there again", read)?;
        promotion.layers = layers.iter().map(|layer| proof(layer, &there)).collect();
        promotion.releases = releases::proof(went, &there);
        let (id, is_rehearsal) = (&promotion.id, way.is_rehearsal());
        let outside = Outside { id, server: &session.server, standing: &there, is_rehearsal, is_new: true };
        let seen = outside.look();
        promotion.checks = inside(session.run(&Request::EnvCheck { id: promotion.id.clone() }, &mut |_| ())?);
        promotion.checks.items.extend(seen);
        Ok(())
    }

    pub(in crate::engine) fn env_rollback(
        &self,
        of: &TargetOf,
        back: &Back,
        dry_run: bool,
        events: &Events,
    ) -> Result<Response, Failure> {
        let (server, id) = (self.server_of(of)?, of.id());
        let promotion = self.go_back(&id, &server, &self.way()?, back, dry_run, events)?;
        Ok(Response::Promotion(Box::new(promotion)))
    }

    pub(super) fn go_back(
        &self,
        id: &EnvironmentId,
        server: &Server,
        way: &Way,
        back: &Back,
        dry_run: bool,
        events: &Events,
    ) -> Result<Promotion, Failure> {
        let session = self.enter_server(server, way, events)?;
        if !dry_run {
            session.hold(id, &self.by())?;
        }
        let go = |dry_run, each: &mut servers::session::Each<'_>| {
            let serve = Serve::Rollback { id: id.clone(), by: self.by(), back: back.clone(), dry_run };
            is_done(session.serve(serve, each)?)
        };
        let planned = go(true, &mut |_| ())?;
        let plan = planned.plan.unwrap_or_default();
        let Standing { edge, edge_before, .. } = session.standing(id, Vec::new())?;
        let step = |loses_data, what: String| TargetStep { what, loses_data, bytes: 0 };
        let back_to = edge_before.unwrap_or_else(|| edge.clone());
        let names = edge.steps_to(&back_to);
        let lost = planned.removes.into_iter().map(|what| step(true, format!("lose {what}")));
        let kept = plan.steps().map(|one| one.action.to_string()).chain(names).map(|what| step(false, what));
        let steps: Vec<_> = lost.chain(kept).collect();
        let data = if back.data { "volumes go back with it" } else { "volumes stay as they are" };
        let mut promotion = Promotion {
            summary: format!("nothing to do: {} on `{server}`", planned.summary),
            ..Promotion::planned(id.clone(), server.to_string(), dry_run, steps)
        };
        self.names_back(id, (&edge, &back_to), server, way, events)?.tell(&mut promotion);
        if dry_run || promotion.steps.is_empty() {
            if !promotion.steps.is_empty() {
                promotion.summary = format!("`{id}` on `{server}` would be rolled back; {data}");
            }
            return Ok(promotion);
        }
        let done = go(false, &mut told(&session, events))?;
        promotion.summary = format!("{} on `{server}`; {data}", done.summary);
        promotion.changed = true;
        let standing = session.standing(id, Vec::new())?;
        let came = releases::came(&standing);
        let stands_on = standing.layers.into_iter().filter(|layer| standing.stands_on.contains(&layer.digest));
        let recorded: Vec<_> = stands_on.collect();
        let names = self.names_back(id, (&edge, &standing.edge), server, way, events)?;
        names.set(events)?;
        self.prove(&session, &mut promotion, &recorded, &came, (way, events))?;
        names.prove(&mut promotion, events);
        Ok(promotion)
    }

    /// A session with the adt that is there, whichever it is.
    pub(super) fn enter_server(&self, server: &Server, way: &Way, events: &Events) -> Result<Session, Failure> {
        let enter = || servers::enter(way, server, &self.caller.command, &self.cancel);
        events.task("ssh", &format!("looking at {server}"), enter)
    }
}

/// A ticket's definition without what is only this host's, or only the ticket's.
fn for_a_target(definition: &Definition, edge: &Edge) -> Definition {
    let mut definition = definition.clone();
    definition.edge = edge.of_sites(|name| definition.platform.sites.iter().any(|site| site.name == *name));
    definition.platform.folder = std::path::PathBuf::new();
    definition.platform.targets = Vec::new();
    // Data begins from the boxes that go there: what the ticket's volumes stand on is the ticket's.
    definition.seeded.clear();
    definition.seeds.clear();
    let ever = definition.platform.machines.iter().map(|machine| definition.provider(machine).clone()).collect();
    definition.providers = Providers { ever, ..definition.providers.clone() };
    definition
}

/// Events of a server are told as its own.
fn told(session: &Session, events: &Events) -> impl FnMut(Event) + Send + use<> {
    let (server, events) = (session.server.address.host.clone(), events.clone());
    move |event| {
        events.emit(match event {
            Event::Note { text } => Event::Note { text: format!("{server}: {text}") },
            Event::Warning { text } => Event::Warning { text: format!("{server}: {text}") },
            Event::Waiting { on, holder } => Event::Waiting { on: format!("{on} on {server}"), holder },
            Event::TaskStarted { task, text } => Event::TaskStarted { task: format!("{server} {task}"), text },
            Event::TaskProgress { task, text } => Event::TaskProgress { task: format!("{server} {task}"), text },
            Event::TaskDone { task, text, milliseconds } => {
                Event::TaskDone { task: format!("{server} {task}"), text, milliseconds }
            }
            Event::TaskFailed { task, reason } => Event::TaskFailed { task: format!("{server} {task}"), reason },
            other => other,
        });
    }
}

fn words(step: &TargetStep) -> String {
    let bytes = if step.bytes > 0 { format!(", {} before packing", crate::model::Size(step.bytes)) } else { String::new() };
    format!("{} (loses data: {}{bytes})", step.what, if step.loses_data { "yes" } else { "no" })
}

fn is_done(response: Response) -> Result<Done, Failure> {
    match response {
        Response::Done(done) => Ok(done),
        _ => Err(crate::wire::asker::unexpected()),
    }
}

fn proof(here: &LayerSummary, there: &Standing) -> LayerProof {
    let there = there.layers.iter().find(|layer| layer.digest == here.digest).and_then(|layer| layer.content.clone());
    LayerProof { name: here.name.clone(), digest: here.digest.clone(), here: here.content.clone(), there }
}

/// What a check says of machines and sites. The names that only the server itself knows are nobody's concern here.
pub(super) fn inside(response: Response) -> Checklist {
    let Response::Check(list) = response else { return Checklist { items: vec![unclear()] } };
    let outside = [CheckStep::Name, CheckStep::Address, CheckStep::Certificate, CheckStep::Proxy];
    let items = list.items.into_iter().filter(|item| !item.step.is_some_and(|step| outside.contains(&step)));
    let items: Vec<_> = items.collect();
    Checklist { items: if items.is_empty() { vec![unclear()] } else { items } }
}

fn unclear() -> CheckItem {
    CheckItem::fault("env:check", "said nothing of its machines", "look with `adt target:check`")
}

fn summary(moves: &[Move], brought: &Brought, found: &Found, server: &Server, dry_run: bool) -> String {
    let Brought { id, from, .. } = brought;
    match (moves.is_empty(), dry_run) {
        (true, _) => {
            let last = found.standing.as_ref().and_then(|standing| standing.promotions.last());
            let by = last.map(|last| format!(", by {}", last.by)).unwrap_or_default();
            format!("nothing to do: `{id}` on `{server}` is what `{from}` is{by}")
        }
        (false, true) => format!("`{from}` would be promoted to `{server}` as `{id}`"),
        (false, false) => format!("`{from}` is promoted to `{server}` as `{id}`"),
    }
}

fn next(promotion: &Promotion) -> Vec<String> {
    let EnvironmentId { platform, name } = &promotion.id;
    vec![
        format!("look at it: adt target:check {platform} {name}"),
        format!("what was there before: adt env:rollback {platform} {name}"),
    ]
}
