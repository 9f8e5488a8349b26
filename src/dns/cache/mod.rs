//! Answers of the host's name servers, kept for as long as they say, for the machines of the environment that asked.
//!
//! ```text
//! question ─▶ get ── kept? ─▶ the same answer under the asker's id, its times to live run down
//!              └─ no ─▶ turn ─▶ the host's name servers ─▶ keep, by the turn's holder alone
//! ```
//! What always holds:
//! - An environment gets only what its own machines asked for. Under a question is the answer to exactly these bytes, as it came:
//!   nothing that an answer says beside the point is ever told to who asks for that.
//! - Who is forging has one try: of equal questions that are open at the same time only the first is kept, and not if anything came
//!   that didn't fit it.
//! - All of it has [`MOST`] bytes. Where these are full, the machine that holds most in the environment that holds most loses its
//!   oldest answer. So who floods it loses its own, and one that is alone may have it all.
//! - Other name servers of the host's, or another environment at the same address, begin with nothing.
//!
//! Not chosen: hickory-resolver (0.26.3), asked the same of a name server that says what tests here say.
//! - Its resolver asks in its own words. The machine's bits for DNSSEC, its size and whether it wants recursion don't reach the name
//!   server, and the cache knows only name, type and class, so who wants signatures would get what was kept for who doesn't.
//! - "There is no such thing" becomes an error with the SOA. An alias that leads to nothing loses the alias, and costs a second
//!   question; what a refusal says is gone, after three questions. `localhost`, `onion` and `invalid` never reach the name server.
//! - Its cache alone (`ResponseCache`) counts answers, not bytes, and knows nobody whose they are. An answer lives as long as the
//!   records that were asked for: a signature that ended 100 s before is still told, with 0 s to live, and an alias that leads to
//!   nothing is told for its own 300 s where the zone says 30.
//! - It brings 17 crates that this program doesn't have.

mod answer;
mod question;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::model::EnvironmentId;
use crate::model::route::{EnvironmentRoute, Routes};

pub(super) use answer::Answer;
pub(super) use question::Question;

/// In bytes. The answers of a day of one person's work are some hundred KiB.
const MOST: usize = 8 << 20;
/// What maps and pointers take for each answer, about.
const EACH: usize = 256;

/// Which machine asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Machine {
    /// Of its environment.
    pub(super) gateway: Ipv4Addr,
    pub(super) address: IpAddr,
}

pub(super) struct Cache {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    environments: HashMap<Ipv4Addr, Environment>,
    /// Whose each gateway is, and since when.
    owners: HashMap<Ipv4Addr, (EnvironmentId, i64)>,
    /// Questions that are open.
    open: HashSet<(Ipv4Addr, Question)>,
    bytes: usize,
    /// Counts answers, so that the oldest is known.
    number: u64,
    /// How often something was forgotten that an open question may still bring.
    cleared: u64,
}

#[derive(Default)]
struct Environment {
    bytes: usize,
    known: HashMap<Question, Known>,
    members: HashMap<IpAddr, Member>,
}

#[derive(Default)]
struct Member {
    bytes: usize,
    oldest: BTreeMap<u64, Question>,
}

struct Known {
    answer: Answer,
    since: Instant,
    by: IpAddr,
    number: u64,
}

/// The right to have an answer kept, of whoever asked first.
pub(super) struct Turn<'a> {
    cache: &'a Cache,
    machine: Machine,
    question: Question,
    cleared: u64,
}

impl Cache {
    pub(super) fn new() -> Self {
        Self::of(MOST)
    }

    fn of(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the answer to `packet` into `out`, if it is known.
    pub(super) fn get(&self, of: Machine, question: &Question, packet: &[u8], now: Instant, out: &mut Vec<u8>) -> bool {
        let mut state = self.state();
        let Some(known) = state.environments.get(&of.gateway).and_then(|environment| environment.known.get(question)) else {
            return false;
        };
        let age = now.saturating_duration_since(known.since);
        let is_over = age >= Duration::from_secs(known.answer.life().into());
        if is_over {
            state.forget(of.gateway, question);
        } else {
            known.answer.write(packet, age, out);
        }
        !is_over
    }

    /// Nothing while another waits for the same: what this one brings is not kept.
    pub(super) fn turn(&self, machine: Machine, question: Question) -> Option<Turn<'_>> {
        let mut state = self.state();
        let is_first = state.open.insert((machine.gateway, question.clone()));
        let cleared = state.cleared;
        drop(state);
        is_first.then(|| Turn { cache: self, machine, question, cleared })
    }

    /// Forgets what environments had that are gone.
    pub(super) fn follow(&self, routes: &Routes) {
        let owner = |environment: &EnvironmentRoute| (environment.id.clone(), environment.created);
        let owners = routes.environments().map(|environment| (environment.gateway_v4, owner(environment))).collect();
        let mut state = self.state();
        let before = std::mem::replace(&mut state.owners, owners);
        let State { environments, owners, .. } = &mut *state;
        environments.retain(|gateway, _| owners.contains_key(gateway) && owners.get(gateway) == before.get(gateway));
        state.bytes = state.environments.values().map(|environment| environment.bytes).sum();
        state.cleared += 1;
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        state.environments.clear();
        state.bytes = 0;
        state.cleared += 1;
    }

    /// In Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        let state = self.state();
        let answers: usize = state.environments.values().map(|environment| environment.known.len()).sum();
        let all = [
            ("answers", "Answers of the host's name servers that are kept.", answers),
            ("bytes", "What these take.", state.bytes),
        ];
        let text = |(what, help, value)| {
            format!("# HELP adt_dns_cache_{what} {help}\n# TYPE adt_dns_cache_{what} gauge\nadt_dns_cache_{what} {value}\n")
        };
        all.map(text).concat()
    }
}

impl Turn<'_> {
    pub(super) fn keep(&self, answer: Answer, now: Instant) {
        let mut state = self.cache.state();
        if state.cleared != self.cleared {
            return;
        }
        state.forget(self.machine.gateway, &self.question);
        state.keep(self.machine, self.question.clone(), answer, now);
        while state.bytes > self.cache.most {
            state.make_room();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.cache.state().open.remove(&(self.machine.gateway, self.question.clone()));
    }
}

impl State {
    fn keep(&mut self, machine: Machine, question: Question, answer: Answer, since: Instant) {
        let bytes = cost(&question, &answer);
        self.number += 1;
        self.bytes += bytes;
        let environment = self.environments.entry(machine.gateway).or_default();
        environment.bytes += bytes;
        let member = environment.members.entry(machine.address).or_default();
        member.bytes += bytes;
        member.oldest.insert(self.number, question.clone());
        environment.known.insert(question, Known { answer, since, by: machine.address, number: self.number });
    }

    fn forget(&mut self, gateway: Ipv4Addr, question: &Question) {
        let Some(environment) = self.environments.get_mut(&gateway) else { return };
        let Some(known) = environment.known.remove(question) else { return };
        let bytes = cost(question, &known.answer);
        self.bytes -= bytes;
        environment.bytes -= bytes;
        let member = environment.members.get_mut(&known.by).expect("who brought an answer is there as long as it");
        member.bytes -= bytes;
        member.oldest.remove(&known.number);
        if member.oldest.is_empty() {
            environment.members.remove(&known.by);
        }
        if environment.known.is_empty() {
            self.environments.remove(&gateway);
        }
    }

    fn make_room(&mut self) {
        let environment = self.environments.iter().max_by_key(|(_, environment)| environment.bytes);
        let (gateway, environment) = environment.expect("what takes bytes is somebody's");
        let member = environment.members.values().max_by_key(|member| member.bytes).expect("what takes bytes is somebody's");
        let (_, oldest) = member.oldest.first_key_value().expect("it holds most");
        let (gateway, oldest) = (*gateway, oldest.clone());
        self.forget(gateway, &oldest);
    }
}

/// Its question is in both maps.
fn cost(question: &Question, answer: &Answer) -> usize {
    EACH + 2 * question.len() + answer.len()
}
