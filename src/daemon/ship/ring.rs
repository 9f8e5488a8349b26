//! Records that wait for a receiver: bounded in bytes. A reader waits while it is full and the receiver takes what it gets; when the
//! receiver is away, the oldest go, and how many of which machine is told in their place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::logs::{Origin, Record, WARNING};
use crate::model::MachineId;

pub struct Ring {
    most: usize,
    state: Mutex<State>,
    /// Something came, or there is room again.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    bytes: usize,
    dropped: BTreeMap<MachineId, (Arc<Origin>, u64)>,
    /// Since when the receiver takes nothing.
    away: Option<Instant>,
    closed: bool,
}

/// A receiver that is away this long will not make room soon.
const PATIENCE: Duration = Duration::from_secs(2);

impl Ring {
    pub fn new(most: usize) -> Self {
        Self { most, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False once nobody takes anything any more.
    pub fn push(&self, record: Record) -> bool {
        let size = size(&record);
        let mut state = self.state();
        while !state.closed && state.bytes + size > self.most && !state.records.is_empty() {
            if state.away.is_some_and(|since| since.elapsed() >= PATIENCE) {
                state.drop_oldest();
            } else {
                state = self.changed.wait_timeout(state, PATIENCE / 10).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        if state.closed {
            return false;
        }
        state.bytes += size;
        state.records.push_back(record);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// The next records, up to so many bytes but at least one; nothing where none came for a while. What was dropped before them
    /// comes first, as a record of each machine that lost some.
    pub fn take(&self, most: usize, wait: Duration) -> Vec<Record> {
        let mut state = self.state();
        if state.records.is_empty() && !state.closed {
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let time = state.records.front().map_or(0, |record| record.time);
        let mut batch: Vec<_> = std::mem::take(&mut state.dropped)
            .into_values()
            .map(|(origin, count)| Record {
                time,
                origin,
                unit: "adt".into(),
                severity: WARNING,
                message: format!(
                    "{count} {} dropped: the receiver took none for too long",
                    if count == 1 { "line was" } else { "lines were" }
                ),
                mark: None,
            })
            .collect();
        let mut bytes = 0;
        while let Some(record) = state.records.front() {
            if bytes > 0 && bytes + size(record) > most {
                break;
            }
            bytes += size(record);
            batch.extend(state.records.pop_front());
        }
        state.bytes -= bytes;
        drop(state);
        self.changed.notify_all();
        batch
    }

    /// Whether the receiver takes what it gets.
    pub fn receiver(&self, takes: bool) {
        let mut state = self.state();
        state.away = if takes { None } else { state.away.or_else(|| Some(Instant::now())) };
    }

    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn drop_oldest(&mut self) {
        let Some(record) = self.records.pop_front() else { return };
        self.bytes -= size(&record);
        let lines = record.message.split('\n').count() as u64;
        let dropped = self.dropped.entry(record.origin.id.clone()).or_insert((record.origin, 0));
        dropped.1 += lines;
    }
}

/// About what a record takes in memory.
fn size(record: &Record) -> usize {
    record.message.len() + record.unit.len() + 300
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests::record;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_fits_is_kept_in_order() {
        let ring = Ring::new(100_000);
        for number in 0..10 {
            assert!(ring.push(record("web1", number, &number.to_string())));
        }
        let first = ring.take(700, SECOND);
        assert_eq!(first.len(), 2);
        let rest = ring.take(usize::MAX, SECOND);
        assert_eq!(rest.iter().map(|record| record.time).collect::<Vec<_>>(), (2..10).collect::<Vec<_>>());
        ring.close();
        assert!(!ring.push(record("web1", 0, "")));
        assert!(ring.take(1, SECOND).is_empty());
    }

    #[test]
    fn a_slow_receiver_loses_nothing_and_one_that_is_away_is_told_what_it_lost() {
        let ring = Ring::new(2_000);
        let ring = &ring;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..50).all(|number| ring.push(record("web1", number, "one\ntwo"))));
            let mut got = Vec::new();
            while got.len() < 50 {
                got.extend(ring.take(1_000, SECOND).into_iter().map(|record| record.time));
            }
            assert!(writer.join().unwrap());
            assert_eq!(got, (0..50).collect::<Vec<_>>());
        });
        ring.receiver(false);
        for number in 0..50 {
            assert!(ring.push(record("db", number, "one\ntwo")));
        }
        ring.receiver(true);
        let batch = ring.take(usize::MAX, SECOND);
        let kept = batch.len() - 1;
        assert_eq!(batch[0].message, format!("{} lines were dropped: the receiver took none for too long", (50 - kept) * 2));
        assert_eq!(batch[kept].time, 49, "the newest are kept");
    }
}
