//! `env:promote`, where its operator sits: look at all servers, plan, show, do, prove. The way back is [`super::back`].

use std::io::Write;

use crate::engine::at_once::{for_each, stopped};
use crate::engine::events::Events;
use crate::engine::target::cargo::Cargo;
use crate::engine::target::fleet::{self, Joiner, Stand};
use crate::engine::target::records::had;
use crate::engine::{Engine, program};
use crate::model::access::AccessChange;
use crate::model::request::{Bootstrap, TargetOf};
use crate::model::response::{Done, LayerSummary, Promotion, Standing};
use crate::model::seat::Toward;
use crate::model::target::{Back, Server, TargetStep};
use crate::model::{Digest, EnvironmentId, EnvironmentName, Event, Failure, Kind, Request, Response};
use crate::plan::promotion::{self, Brought, Found, Move, Refused};
use crate::releases::OTHER_CONTENT;
use crate::servers::{self, Door, Session, Way};
use crate::wire::Serve;

/// One of the servers: what it is to have, how it was found, and a session with it where its adt understands ours.
struct Part<'a> {
    stand: &'a Stand,
    brought: Brought,
    found: Found,
    session: Option<Session>,
    moves: Vec<Move>,
}

impl Part<'_> {
    fn server(&self) -> &Server {
        &self.stand.server
    }

    fn is_ours(&self) -> bool {
        self.found.program.as_ref() == Some(&self.brought.program)
    }

    fn session(&self) -> &Session {
        self.session.as_ref().expect("a server that was asked or equipped has one")
    }

    /// To what it was when it was looked at; `None` where nothing was there that went well.
    fn back(&self) -> Option<Back> {
        let last = self.found.standing.as_ref()?.promotions.iter().rev().find(|one| one.finished.is_some())?;
        Some(Back { to: Some(last.definition.to_string()), data: false })
    }

    /// Whether anything of the environment is there that others could be served by.
    fn runs(&self) -> bool {
        self.found.standing.as_ref().and_then(|standing| standing.wanted.as_deref()) == Some("up")
    }

    fn is_defined(&self) -> bool {
        self.moves.iter().any(|each| matches!(each, Move::Define { .. }))
    }

    fn plan(&mut self) -> Result<(), Failure> {
        let moves = promotion::plan(&self.brought, &self.found);
        self.moves = moves.map_err(|refused| refusal(&self.brought, self.server(), &refused))?;
        Ok(())
    }

    /// Its moves as their operator reads them, by its name where it is one of several.
    fn steps(&self) -> Vec<TargetStep> {
        let steps = promotion::steps(&self.moves, &self.brought, &self.found, &self.server().to_string());
        steps.into_iter().map(|step| self.stand.step(step)).collect()
    }
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
        let cargo = self.cargo(id, &target, dry_run, events)?;
        let promotion = self.bring(&cargo, &fleet::stands(&target), &self.way()?, dry_run, seen, events)?;
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

    /// Makes the servers of a target have what a ticket has, and proves it.
    pub(super) fn bring(
        &self,
        cargo: &Cargo,
        stands: &[Stand],
        way: &Way,
        dry_run: bool,
        planned: Option<&Digest>,
        events: &Events,
    ) -> Result<Promotion, Failure> {
        let id = &cargo.brought.id;
        let parts = stands.iter().map(|stand| Part {
            stand,
            brought: cargo.share(stand, stands),
            found: Found::default(),
            session: None,
            moves: Vec::new(),
        });
        let mut parts = for_each(parts, |part| self.look_at_server(cargo, part, way, dry_run, events))?;
        let looked = parts.iter().filter_map(|part| Some((part.stand, part.found.standing.as_ref()?)));
        for stays in fleet::keep_data(&cargo.definition, stands, &looked.collect::<Vec<_>>())? {
            events.warn(stays);
        }
        self.seat(cargo, &mut parts, false, events)?;
        for_each(&mut parts, |part| self.ask_machines(cargo, part, events))?;
        let facing = fleet::facing_the_world(stands);
        let before: Vec<_> = parts.iter().filter_map(|part| part.found.standing.as_ref()).flat_map(had).collect();
        let names = self.names(id, (&before, &cargo.brought.edge), &facing, way, events)?;
        let seen = names.seen(promotion::seen(parts.iter().map(|part| (&part.brought, &part.found))));
        if planned.is_some_and(|planned| *planned != seen) {
            let Brought { from, .. } = &cargo.brought;
            return Err(Failure::new(Kind::Conflict, format!("do what was planned for `{id}`"))
                .cause("the ticket, the target or its server is not what it was when that was planned")
                .hint(format!("plan anew: adt target:plan {} {} {}", id.platform, from.name, id.name)));
        }
        parts.iter_mut().try_for_each(Part::plan)?;
        let steps: Vec<_> = parts.iter().flat_map(Part::steps).collect();
        let is_done = parts.iter().all(|part| part.moves.is_empty());
        let mut promotion = Promotion {
            summary: summary(&cargo.brought, &parts, is_done, dry_run),
            changed: !dry_run && !is_done,
            seen: Some(seen),
            ..Promotion::planned(id.clone(), fleet::words(stands), dry_run, steps)
        };
        names.tell(&mut promotion);
        if dry_run || promotion.steps.is_empty() {
            return Ok(promotion);
        }
        promotion.steps.iter().for_each(|step| events.note(format!("plan: {}", words(step))));
        names.lower(events)?;
        for_each(&mut parts, |part| self.equip(cargo, part, way, events))?;
        self.seat(cargo, &mut parts, true, events)?;
        self.share_key(&parts)?;
        parts.iter_mut().try_for_each(Part::plan)?;
        self.tie_all(cargo, &parts)?;
        self.define_all(cargo, &parts, events)?;
        names.set(events)?;
        let proofs = for_each(&parts, |part| {
            let Brought { layers, releases, .. } = &part.brought;
            self.proof(part.session(), (id, layers, releases), way, events)
        })?;
        proofs.into_iter().for_each(|proof| proof.add_to(&mut promotion));
        names.prove(&mut promotion, events);
        promotion.next = next(&promotion);
        Ok(promotion)
    }

    /// What is there, without changing anything.
    fn look_at_server<'a>(
        &self,
        cargo: &Cargo,
        mut part: Part<'a>,
        way: &Way,
        dry_run: bool,
        events: &Events,
    ) -> Result<Part<'a>, Failure> {
        let (id, server) = (&cargo.brought.id, &part.stand.server);
        let door = events.task(&fleet::task("ssh", server), &format!("looking at {server}"), || servers::knock(way, server))?;
        (part.found.program, part.found.is_pending) = (door.found.program.clone(), door.found.is_pending);
        if part.found.program.is_none() {
            return Ok(part);
        }
        let session = match door.enter(false, &self.caller.command, &self.cancel) {
            Ok(session) => session,
            Err(failure) if part.is_ours() && !part.found.is_pending => return Err(failure),
            // Another adt may speak otherwise; ours takes its place.
            Err(failure) => {
                events.note(format!("the adt on `{server}` can't be asked: {}", failure.causes.join(": ")));
                let is_ours = part.is_ours();
                part.found.program = part.found.program.filter(|_| !is_ours);
                return Ok(part);
            }
        };
        if !dry_run && part.is_ours() {
            session.hold(id, &self.by())?;
        }
        match ask_standing(&session, &part.brought) {
            Ok(standing) => part.found.standing = Some(standing),
            Err(failure) if part.is_ours() => return Err(failure),
            Err(failure) => events.note(format!("the adt on `{server}` is another: {failure}")),
        }
        part.session = Some(session);
        Ok(part)
    }

    /// What bringing up the environment would do there, where that can be known.
    fn ask_machines(&self, cargo: &Cargo, part: &mut Part<'_>, events: &Events) -> Result<(), Failure> {
        let (Some(session), Some(standing)) = (&part.session, &part.found.standing) else { return Ok(()) };
        let has = |ours: &LayerSummary| standing.layers.iter().any(|layer| layer.digest == ours.digest);
        let knows_others = part.brought.others.is_empty() || part.brought.seat.is_some();
        if !knows_others || !part.brought.layers.iter().all(has) {
            return Ok(());
        }
        match self.define_there(session, cargo, &part.brought, true, events) {
            Ok(done) => part.found.machines = done.plan,
            Err(failure) if part.is_ours() => return Err(failure),
            Err(failure) => events.note(format!("the adt on `{}` is another: {failure}", part.server())),
        }
        Ok(())
    }

    /// What several servers must agree on, as far as they can be asked; with `make`, each of them makes what it lacks for it.
    fn seat(&self, cargo: &Cargo, parts: &mut [Part<'_>], make: bool, events: &Events) -> Result<(), Failure> {
        let id = &cargo.brought.id;
        let can_say = |part: &Part<'_>| part.session.is_some() && part.is_ours() && part.found.standing.is_some();
        if parts.len() < 2 || !parts.iter().all(can_say) {
            return Ok(());
        }
        let joinings = for_each(parts.iter(), |part| {
            let ask = || part.session().joining(id, make);
            // Where WireGuard is missing, it is installed.
            if make { events.task(&fleet::task("tie", part.server()), "what it is tied by", ask) } else { ask() }
        })?;
        let joiners = parts.iter().zip(&joinings).map(|(part, joining)| Joiner { stand: part.stand, joining });
        let Some(seats) = fleet::seats(id, &cargo.definition, &joiners.collect::<Vec<_>>())? else { return Ok(()) };
        for (part, seat) in parts.iter_mut().zip(seats) {
            part.brought.seat = Some(seat);
        }
        Ok(())
    }

    /// Machines of all servers find the same passwords.
    fn share_key(&self, parts: &[Part<'_>]) -> Result<(), Failure> {
        let [any, _, ..] = parts else { return Ok(()) };
        let is_there = |part: &&Part<'_>| part.found.standing.as_ref().is_some_and(|standing| standing.wanted.is_some());
        let first = parts.iter().find(is_there).unwrap_or(any);
        let id = &first.brought.id;
        let key = first.session().key(id)?;
        let others = parts.iter().filter(|part| part.stand.name != first.stand.name);
        for_each(others, |part| part.session().take_key(id, &key)).map(drop)
    }

    /// Before any machine comes or moves.
    fn tie_all(&self, cargo: &Cargo, parts: &[Part<'_>]) -> Result<(), Failure> {
        let changes = parts.iter().any(Part::is_defined);
        let tied = parts.iter().filter(|_| changes).filter_map(|part| Some((part, part.brought.seat.clone()?)));
        for_each(tied, |(part, seat)| {
            let toward = Toward::Placed { placed: cargo.definition.placed.clone(), seat };
            part.session().tie(&part.brought.id, &toward)
        })
        .map(drop)
    }

    /// Everything on one server that comes before its environment is touched.
    fn equip(&self, cargo: &Cargo, part: &mut Part<'_>, way: &Way, events: &Events) -> Result<(), Failure> {
        let (id, server) = (part.brought.id.clone(), &part.stand.server);
        let session = match part.session.take() {
            Some(session) if !part.moves.iter().any(|each| matches!(each, Move::Program { .. })) => session,
            old => {
                drop(old);
                self.put_program(cargo, server, way, events)?
            }
        };
        session.hold(&id, &self.by())?;
        if part.moves.contains(&Move::SetUp) {
            self.set_up(&session, events)?;
        }
        // Before it was set up, or by an older adt, nobody could tell all of it.
        part.found.program = Some(part.brought.program.clone());
        part.found.is_pending = false;
        part.found.standing = Some(session.standing(&id, Vec::new())?);
        part.plan()?;
        for each in &part.moves {
            match each {
                Move::Program { .. } | Move::SetUp | Move::Define { .. } => {}
                Move::Admit { networks } => {
                    let change = AccessChange::Admin { of: id.clone(), networks: networks.clone() };
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
            }
        }
        part.session = Some(session);
        Ok(())
    }

    /// First those where nothing runs yet, then one server after the other, so that others serve meanwhile: where one fails, those
    /// before it go back to what they were.
    fn define_all(&self, cargo: &Cargo, parts: &[Part<'_>], events: &Events) -> Result<(), Failure> {
        let names: Vec<_> = parts.iter().map(|part| part.stand.name.as_str()).collect();
        let waves = fleet::waves(&names, &cargo.definition);
        let waves = waves.iter().map(|wave| wave.iter().map(|index| &parts[*index]).filter(|part| part.is_defined()));
        let (quiet, running): (Vec<Vec<_>>, Vec<Vec<_>>) = waves.map(|wave| wave.partition(|part| !part.runs())).unzip();
        let one_by_one = running.into_iter().flatten().map(|part| vec![part]);
        let mut changed: Vec<&Part<'_>> = Vec::new();
        for wave in quiet.into_iter().chain(one_by_one) {
            let define = |part: &&Part<'_>| self.define_there(part.session(), cargo, &part.brought, false, events).map(drop);
            match for_each(&wave, define) {
                Ok(_) => changed.extend(wave),
                Err(failure) if stopped(&self.cancel) => return Err(failure),
                // On a single server, what serves goes on to serve, and its operator decides.
                Err(failure) if parts.len() == 1 => return Err(failure),
                Err(failure) => {
                    changed.extend(wave);
                    let failure =
                        changed.iter().rev().fold(failure, |failure, part| self.back_again(part, parts, failure, events));
                    self.tie_as_recorded(parts);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Those that did not change lead again to where machines are.
    fn tie_as_recorded(&self, parts: &[Part<'_>]) {
        for part in parts.iter().filter(|part| part.runs()) {
            if let Err(failure) = part.session().tie(&part.brought.id, &Toward::Recorded) {
                tracing::warn!(%failure, "the next promotion or way back tells it the same");
            }
        }
    }

    /// Several servers are all on the new version or all on the old one.
    fn back_again(&self, part: &Part<'_>, parts: &[Part<'_>], failure: Failure, events: &Events) -> Failure {
        let (id, by, mut each) = (part.brought.id.clone(), self.by(), told(part.session(), events));
        let went = match part.back() {
            Some(back) => part.session().serve(Serve::Rollback { id, by, back, dry_run: false }, &mut each),
            // The first time, what is up helps to find out what is wrong.
            None if parts.iter().all(|part| part.back().is_none()) => return failure,
            None => part.session().run(&Request::EnvHalt { id, dry_run: false }, &mut each),
        };
        match went {
            Ok(_) => failure.cause(format!("`{}` is at what it was before", part.server())),
            Err(other) => failure.cause(format!("`{}` could not go back to what it was before: {other}", part.server())),
        }
    }

    /// Puts this adt there and speaks with it. One that does not answer goes again.
    fn put_program(&self, cargo: &Cargo, server: &Server, way: &Way, events: &Events) -> Result<Session, Failure> {
        let door = servers::knock(way, server)?;
        let is_there = door.found.program.as_ref() == Some(&cargo.brought.program);
        let door = match is_there {
            true => door,
            false => events.task(&fleet::task("adt", server), &format!("putting it on {server}"), || {
                door.put(&cargo.program, &self.cancel)
            })?,
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

    fn define_there(
        &self,
        session: &Session,
        cargo: &Cargo,
        brought: &Brought,
        dry_run: bool,
        events: &Events,
    ) -> Result<Done, Failure> {
        let Brought { id, from, seat, .. } = brought;
        let serve = Serve::Define { id: id.clone(), by: self.by(), from: from.clone(), seat: seat.clone(), dry_run };
        let write = |to: &mut (dyn Write + Send)| {
            to.write_all(&cargo.text).map_err(|error| Failure::new(Kind::Program, "send the definition").because(&error))
        };
        let response = match dry_run {
            true => session.feed(serve, &mut |_| (), write)?,
            false => session.feed(serve, &mut told(session, events), write)?,
        };
        is_done(response)
    }

    /// A session with the adt that is there, whichever it is.
    pub(super) fn enter_server(&self, server: &Server, way: &Way, events: &Events) -> Result<Session, Failure> {
        let enter = || servers::enter(way, server, &self.caller.command, &self.cancel);
        events.task(&fleet::task("ssh", server), &format!("looking at {server}"), enter)
    }
}

/// Events of a server are told as its own.
pub(super) fn told(session: &Session, events: &Events) -> impl FnMut(Event) + Send + use<> {
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

pub(super) fn is_done(response: Response) -> Result<Done, Failure> {
    match response {
        Response::Done(done) => Ok(done),
        _ => Err(crate::wire::asker::unexpected()),
    }
}

fn summary(brought: &Brought, parts: &[Part<'_>], is_done: bool, dry_run: bool) -> String {
    let Brought { id, from, .. } = brought;
    let server = fleet::quoted(parts.iter().map(Part::server));
    match (is_done, dry_run) {
        (true, _) => {
            let last = parts.iter().find_map(|part| part.found.standing.as_ref()?.promotions.last());
            let by = last.map(|last| format!(", by {}", last.by)).unwrap_or_default();
            format!("nothing to do: `{id}` on {server} is what `{from}` is{by}")
        }
        (false, true) => format!("`{from}` would be promoted to {server} as `{id}`"),
        (false, false) => format!("`{from}` is promoted to {server} as `{id}`"),
    }
}

fn ask_standing(session: &Session, brought: &Brought) -> Result<Standing, Failure> {
    let standing = session.standing(&brought.id, Vec::new())?;
    let is_unknown =
        |layer: &&LayerSummary| layer.content.is_none() && brought.layers.iter().any(|ours| ours.digest == layer.digest);
    let mut unknown: Vec<_> = standing.layers.iter().filter(is_unknown).map(|layer| layer.digest.clone()).collect();
    let releases = standing.releases.iter().filter(|release| release.content.is_none()).map(|release| &release.digest);
    let ours = |digest: &&Digest| brought.releases.iter().any(|going| going.release.digest == **digest);
    unknown.extend(releases.filter(ours).cloned());
    if unknown.is_empty() { Ok(standing) } else { session.standing(&brought.id, unknown) }
}

fn refusal(brought: &Brought, server: &Server, refused: &Refused) -> Failure {
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

fn next(promotion: &Promotion) -> Vec<String> {
    let EnvironmentId { platform, name } = &promotion.id;
    vec![
        format!("look at it: adt target:check {platform} {name}"),
        format!("what was there before: adt env:rollback {platform} {name}"),
    ]
}
