//! Who may hold how much of something that all want: connections, requests that run, questions that wait, sessions.
//!
//! One more is given while its asker holds fewer than are still free. So one alone gets up to half of all there is, whoever holds
//! much is refused first, and the others find places however long it holds on. Those who belong together share half of all, which
//! is the most that they can have, by the same rule among themselves:
//!
//! ```text
//! total ─┬─ a client's address      holds less than what is free
//!        ├─ a user of this host     holds less than what is free
//!        └─ an environment          holds less than what is free
//!             └─ one of its members   holds less than what the environment lacks to half of the total
//! ```
//! Nothing that was given is taken away: a share lasts until its guard is dropped. A few are given to everybody whose rule says no,
//! as long as there are any. Finding an account takes a lock that is one of several; taking a share and giving it back are
//! additions only, so who asks often keeps its account.
//!
//! Not chosen: a fixed number for each asker, which is too small for one who is alone or too large for many; and places that are
//! kept for everybody who might come, of which most would always be empty.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Locks for finding accounts.
const LOCKS: usize = 16;

/// Something of which there is only so much.
pub struct Shares {
    total: usize,
    /// What everybody may hold as long as there is any.
    floor: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    accounts: [Mutex<HashMap<Key, Weak<Account>>>; LOCKS],
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Client(IpAddr),
    /// By its gateway, which no other has.
    Environment(Ipv4Addr),
    Member(Ipv4Addr, IpAddr),
    /// By the number of the user.
    Person(u32),
}

/// What one asker holds.
pub struct Account {
    shares: Arc<Shares>,
    key: Key,
    /// Of those it belongs to.
    within: Option<Arc<Account>>,
    held: AtomicUsize,
}

/// One of what is shared, given back when this is dropped.
#[must_use]
pub struct Share(Arc<Account>);

impl Shares {
    pub fn new(total: usize) -> Arc<Self> {
        let (used, refused, accounts, hasher) = Default::default();
        Arc::new(Self { total, floor: (total / 64).clamp(1, 64), used, refused, accounts, hasher })
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// How often somebody got none.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Of a client that may reach everything.
    pub fn client(self: &Arc<Self>, address: IpAddr) -> Arc<Account> {
        self.account(Key::Client(network(address)), None)
    }

    /// Of a user of this host.
    pub fn person(self: &Arc<Self>, uid: u32) -> Arc<Account> {
        self.account(Key::Person(uid), None)
    }

    /// Of a whole environment.
    pub fn environment(self: &Arc<Self>, gateway: Ipv4Addr) -> Arc<Account> {
        self.account(Key::Environment(gateway), None)
    }

    /// Of one of those who share what an environment has.
    pub fn member(self: &Arc<Self>, gateway: Ipv4Addr, address: IpAddr) -> Arc<Account> {
        let environment = self.environment(gateway);
        self.account(Key::Member(gateway, network(address)), Some(environment))
    }

    /// Of whoever asks from this address: as a member of the environment that it came in from, or as a client.
    pub fn asker(self: &Arc<Self>, gateway: Option<Ipv4Addr>, address: IpAddr) -> Arc<Account> {
        match gateway {
            Some(gateway) => self.member(gateway, address),
            None => self.client(address),
        }
    }

    fn account(self: &Arc<Self>, key: Key, within: Option<Arc<Account>>) -> Arc<Account> {
        let mut accounts = self.accounts(&key);
        if let Some(known) = accounts.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Account { shares: self.clone(), key, within, held: AtomicUsize::new(0) });
        accounts.insert(key, Arc::downgrade(&new));
        new
    }

    fn accounts(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Weak<Account>>> {
        let place = self.hasher.hash_one(key) as usize % LOCKS;
        self.accounts[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever has an IPv6 address has the /64 around it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

impl Account {
    /// One more, or `None` for who holds its share already.
    pub fn take(self: &Arc<Self>) -> Option<Share> {
        let used = self.shares.used.fetch_add(1, Relaxed);
        let mut fits = used < self.shares.total;
        let free = self.shares.total.saturating_sub(used);
        let room = match &self.within {
            None => free,
            Some(environment) => {
                let held = environment.held.fetch_add(1, Relaxed);
                fits &= held < self.shares.floor.max(free);
                (self.shares.total / 2).saturating_sub(held)
            }
        };
        fits &= self.held.fetch_add(1, Relaxed) < self.shares.floor.max(room);
        // Refused or not, it is given back by its guard.
        let share = Share(self.clone());
        if !fits {
            self.shares.refused.fetch_add(1, Relaxed);
        }
        fits.then_some(share)
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Soon it will be refused.
    pub fn is_crowded(&self) -> bool {
        let (free, held) = (self.shares.total.saturating_sub(self.shares.used()), self.held());
        let room = match &self.within {
            None => free,
            Some(environment) => free.min((self.shares.total / 2).saturating_sub(environment.held())),
        };
        held >= self.shares.floor && held + held / 3 >= room
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut accounts = self.shares.accounts(&self.key);
        // Somebody may have come in between and have a new one.
        if accounts.get(&self.key).is_some_and(|account| account.strong_count() == 0) {
            accounts.remove(&self.key);
        }
    }
}

impl Share {
    pub fn account(&self) -> &Arc<Account> {
        &self.0
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
        if let Some(environment) = &self.0.within {
            environment.held.fetch_sub(1, Relaxed);
        }
        self.0.shares.used.fetch_sub(1, Relaxed);
    }
}

impl std::fmt::Debug for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shares").field("total", &self.total).field("used", &self.used()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("key", &self.key).field("held", &self.held()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Share").field(&self.0).finish()
    }
}

/// Of each of these, by name: how many there are, are held, were refused. In Prometheus' text format.
pub fn metrics(prefix: &str, all: &[(&str, &Shares)]) -> String {
    type Get = fn(&Shares) -> u64;
    let kinds: [(&str, &str, &str, Get); 3] = [
        ("shares", "gauge", "What clients and environments share, by what it is.", |shares| shares.total as u64),
        ("shares_held", "gauge", "How many of these are held.", |shares| shares.used() as u64),
        ("shares_refused_total", "counter", "How often somebody who holds too many got no more.", Shares::refused),
    ];
    let mut text = String::new();
    for (name, kind, help, get) in kinds {
        text.push_str(&format!("# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {kind}\n"));
        text.extend(all.iter().map(|(what, shares)| format!("{prefix}_{name}{{of=\"{what}\"}} {}\n", get(shares))));
    }
    text
}

/// How many files this process may open beyond what it needs for itself. What takes one for each share may have a part of these:
/// a process without a free file can serve nobody.
pub fn files() -> usize {
    const OWN: u64 = 1024;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit - OWN.min(limit / 2)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 65);

    fn client(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    fn all(account: &Arc<Account>) -> Vec<Share> {
        std::iter::from_fn(|| account.take()).collect()
    }

    #[test]
    fn one_alone_has_half_and_the_next_one_half_of_the_rest() {
        let shares = Shares::new(1000);
        let accounts: Vec<_> = (0..4).map(|number| shares.client(client(number))).collect();
        let held: Vec<_> = accounts.iter().map(all).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [500, 250, 125, 63]);
        assert_eq!((shares.used(), shares.refused()), (938, 4));
        drop(held);
        assert_eq!((shares.used(), all(&accounts[3]).len()), (0, 500));
    }

    #[test]
    fn a_newcomer_gets_a_few_as_long_as_there_are_any() {
        let shares = Shares::new(640);
        let many: Vec<_> = (0..=255).map(|number| all(&shares.client(client(number)))).collect();
        assert_eq!(shares.used(), 640, "they took all");
        assert!(many[..7].iter().all(|held| held.len() >= 10));
        drop(many);
        assert_eq!(shares.used(), 0);
    }

    #[test]
    fn an_environments_members_share_its_half() {
        let shares = Shares::new(1000);
        let held: Vec<_> = (0..60).map(|number| all(&shares.member(A, client(number)))).collect();
        assert_eq!((held[0].len(), held[1].len()), (250, 125));
        let used = shares.used();
        assert!(used <= 500, "{used} by one environment");
        assert_eq!(all(&shares.member(B, client(1))).len(), 250, "another one finds as many as if it were alone");
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let shares = Shares::new(100);
        let account = |text: &str| shares.client(text.parse().unwrap());
        let first = account("2001:db8::1");
        assert!(Arc::ptr_eq(&first, &account("2001:db8:0:0:ffff::2")));
        assert!(!Arc::ptr_eq(&first, &account("2001:db8:0:1::1")));
        let v4 = account("192.0.2.1");
        assert!(Arc::ptr_eq(&v4, &account("::ffff:192.0.2.1")));
    }

    #[test]
    fn accounts_go_with_their_last_share() {
        let shares = Shares::new(100);
        let held: Vec<_> = (0..50).map(|number| shares.member(A, client(number)).take()).collect();
        let known = || shares.accounts.iter().map(|accounts| accounts.lock().unwrap().len()).sum::<usize>();
        assert_eq!(known(), 51);
        drop(held);
        assert_eq!(known(), 0);
    }

    #[test]
    fn counts_are_right_under_many_threads() {
        let shares = Shares::new(64);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let shares = &shares;
                scope.spawn(move || {
                    for round in 0..5_000u32 {
                        let share = shares.asker((round % 2 == 0).then_some(A), client(thread)).take();
                        assert!(shares.used() <= 64 + 8, "more are held than there are");
                        drop(share);
                    }
                });
            }
        });
        assert_eq!(shares.used(), 0);
    }
}
