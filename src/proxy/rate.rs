//! How often each client may do something: a supply that every use makes smaller, and that fills up again with time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::table::now;

/// Clients that are remembered. Who comes when there are that many, all of them busy, goes by unremembered: places are
/// still shared, and a list that grows for whoever wants it to would be worse.
const MOST: usize = 1 << 16;

/// What is looked for only so often.
const LOOK: u64 = 1000;

#[derive(Debug)]
pub struct Rates<K>(Mutex<Known<K>>);

#[derive(Debug)]
struct Known<K> {
    clients: HashMap<K, Arc<Rate>>,
    looked: u64,
}

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Self(Mutex::new(Known { clients: HashMap::new(), looked: 0 }))
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Takes a lock: who needs it often keeps it.
    pub fn of(&self, client: K) -> Arc<Rate> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rate) = known.clients.get(&client) {
            return rate.clone();
        }
        let now = now();
        if now.saturating_sub(known.looked) >= LOOK {
            known.looked = now;
            known.clients.retain(|_, rate| Arc::strong_count(rate) > 1 || !rate.is_full(now));
        }
        let new = Arc::<Rate>::default();
        if known.clients.len() < MOST {
            known.clients.insert(client, new.clone());
        }
        new
    }
}

/// One client's: when, in microseconds, its supply is full again.
#[derive(Debug, Default)]
pub struct Rate(AtomicU64);

/// One each so often, and so many in one go.
#[derive(Debug, Clone, Copy)]
pub struct Supply {
    pub every: Duration,
    pub most: u32,
}

impl Supply {
    fn every(self) -> u64 {
        u64::try_from(self.every.as_micros()).unwrap_or(u64::MAX)
    }

    /// Nothing of it is there before.
    fn empty_until(self, full: u64) -> u64 {
        full.saturating_sub(self.every().saturating_mul(u64::from(self.most) - 1))
    }
}

impl Rate {
    /// One of the supply, or how long there is none.
    pub fn take(&self, supply: Supply) -> Result<(), Duration> {
        let now = now() * 1000;
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| {
            (supply.empty_until(full) <= now).then(|| full.max(now).saturating_add(supply.every()))
        });
        taken.map(drop).map_err(|full| Duration::from_micros(supply.empty_until(full) - now))
    }

    /// How long there is none, where that is so.
    pub fn look(&self, supply: Supply) -> Result<(), Duration> {
        let (now, empty) = (now() * 1000, supply.empty_until(self.0.load(Ordering::Relaxed)));
        if empty <= now { Ok(()) } else { Err(Duration::from_micros(empty - now)) }
    }

    /// What was taken was not used after all.
    pub fn give_back(&self, supply: Supply) {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| Some(full.saturating_sub(supply.every()))).ok();
    }

    fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now * 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPPLY: Supply = Supply { every: Duration::from_secs(3600), most: 3 };

    #[test]
    fn a_supply_ends_and_what_comes_back_can_be_taken_again() {
        let rates = Rates::default();
        let rate = rates.of("a");
        let taken: Vec<_> = (0..5).map(|_| rate.take(SUPPLY).is_ok()).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        let wait = rate.take(SUPPLY).unwrap_err();
        assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_secs(3600), "{wait:?}");
        assert!(rate.look(SUPPLY).is_err() && rates.of("a").look(SUPPLY).is_err() && rates.of("b").look(SUPPLY).is_ok());
        rate.give_back(SUPPLY);
        assert!(rate.look(SUPPLY).is_ok() && rate.take(SUPPLY).is_ok() && rate.take(SUPPLY).is_err());
        // A short one is there again before anybody can look.
        let rate = rates.of("c");
        let quick = Supply { every: Duration::from_nanos(1), most: 1 };
        assert!((0..100).all(|_| rate.take(quick).is_ok()));
    }

    #[test]
    fn so_many_are_remembered_and_no_more() {
        let rates = Rates::default();
        for client in 0..MOST + 10 {
            rates.of(client).take(SUPPLY).unwrap();
        }
        assert_eq!(rates.0.lock().unwrap().clients.len(), MOST);
        assert!(rates.of(0).take(SUPPLY).is_ok() && rates.of(0).take(SUPPLY).is_ok() && rates.of(0).take(SUPPLY).is_err());
    }
}
