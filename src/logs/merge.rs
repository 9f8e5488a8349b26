//! Several sources into one order: what ends by its heads, what goes on by a short wait for latecomers. Within one source the order
//! stays as it came, whatever its times say.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::{Micros, Record};

/// Merges sources that end, taking one record of each at a time.
pub struct Merge<I> {
    sources: Vec<I>,
    heads: BinaryHeap<Reverse<Head>>,
}

/// Ordered by time, and between equals by source: a merge is stable.
struct Head {
    time: Micros,
    source: usize,
    record: Record,
}

impl<I: Iterator<Item = Record>> Merge<I> {
    pub fn new(sources: Vec<I>) -> Self {
        let mut merge = Self { heads: BinaryHeap::with_capacity(sources.len()), sources };
        for source in 0..merge.sources.len() {
            merge.advance(source);
        }
        merge
    }

    fn advance(&mut self, source: usize) {
        if let Some(record) = self.sources[source].next() {
            self.heads.push(Reverse(Head { time: record.time, source, record }));
        }
    }
}

impl<I: Iterator<Item = Record>> Iterator for Merge<I> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let Reverse(head) = self.heads.pop()?;
        self.advance(head.source);
        Some(head.record)
    }
}

/// How long a record waits for earlier ones of other machines.
pub const WAIT: Duration = Duration::from_millis(250);
/// More than this wait for nobody, nor more bytes.
const MOST: usize = 4096;
const MOST_BYTES: usize = 16 << 20;

/// Puts records that arrive about when they were written in order.
#[derive(Default)]
pub struct Window {
    waiting: BinaryHeap<Reverse<Waiting>>,
    bytes: usize,
    count: usize,
}

struct Waiting {
    time: Micros,
    /// Between equals, who came first.
    number: usize,
    arrived: Instant,
    record: Record,
}

impl Window {
    pub fn push(&mut self, record: Record, now: Instant) {
        self.count += 1;
        self.bytes += record.bytes();
        self.waiting.push(Reverse(Waiting { time: record.time, number: self.count, arrived: now, record }));
    }

    /// The next record for which no earlier one is expected any more. What was written earlier than one that waited long enough
    /// need not wait itself.
    pub fn pop(&mut self, now: Instant) -> Option<Record> {
        let Reverse(first) = self.waiting.peek()?;
        let full = self.waiting.len() > MOST || self.bytes > MOST_BYTES;
        if full || now.duration_since(first.arrived) >= WAIT { self.take() } else { None }
    }

    fn take(&mut self) -> Option<Record> {
        let Reverse(Waiting { record, .. }) = self.waiting.pop()?;
        self.bytes -= record.bytes();
        Some(record)
    }

    /// Everything that still waits, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Record> {
        std::iter::from_fn(|| self.take())
    }
}

macro_rules! ordered_by {
    ($type:ty, $key:expr) => {
        impl Ord for $type {
            fn cmp(&self, other: &Self) -> std::cmp::Ordering {
                let key: fn(&$type) -> _ = $key;
                key(self).cmp(&key(other))
            }
        }
        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }
        impl Eq for $type {}
    };
}

ordered_by!(Head, |head| (head.time, head.source));
ordered_by!(Waiting, |waiting| (waiting.time, waiting.number));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests::record;
    use proptest::prelude::*;

    #[test]
    fn records_of_a_window_are_ordered_and_none_waits_for_ever() {
        let start = Instant::now();
        let mut window = Window::default();
        window.push(record("web1", 20, "second"), start);
        window.push(record("web2", 10, "first"), start + Duration::from_millis(100));
        assert_eq!(window.pop(start + Duration::from_millis(200)), None);
        let later = start + Duration::from_millis(360);
        assert_eq!(window.pop(later).unwrap().message, "first");
        assert_eq!(window.pop(later).unwrap().message, "second");
        assert_eq!(window.pop(later), None);
    }

    #[test]
    fn a_flood_does_not_wait() {
        let mut window = Window::default();
        let now = Instant::now();
        for time in 0..=MOST {
            window.push(record("web1", time as i64, ""), now);
        }
        assert_eq!(window.pop(now).unwrap().time, 0);
        assert_eq!(window.pop(now), None);
        assert_eq!(window.drain().count(), MOST);
    }

    proptest! {
        #[test]
        fn sources_that_are_in_order_become_one_that_is(mut sources in proptest::collection::vec(proptest::collection::vec(0..50_i64, 0..20), 0..6)) {
            sources.iter_mut().for_each(|times| times.sort_unstable());
            let records = |index: usize, times: &Vec<i64>| {
                times.iter().enumerate().map(|(number, time)| record("web1", *time, &format!("{index}/{number}"))).collect::<Vec<_>>()
            };
            let all: Vec<_> = sources.iter().enumerate().map(|(index, times)| records(index, times).into_iter()).collect();
            let merged: Vec<_> = Merge::new(all).collect();
            // The stable order: by time, then by source, then as it came.
            let mut wanted: Vec<_> = sources.iter().enumerate().flat_map(|(index, times)| records(index, times)).collect();
            wanted.sort_by_key(|record| record.time);
            prop_assert_eq!(merged, wanted);
        }

        #[test]
        fn one_source_keeps_its_own_order(times in proptest::collection::vec(0..50_i64, 0..20), other in proptest::collection::vec(0..50_i64, 0..20)) {
            let source = |machine, times: &Vec<i64>| times.iter().enumerate().map(|(n, time)| record(machine, *time, &n.to_string())).collect::<Vec<_>>().into_iter();
            let merged: Vec<_> = Merge::new(vec![source("web1", &times), source("web2", &other)]).collect();
            let of_first: Vec<_> = merged.iter().filter(|record| record.origin.id.machine.as_str() == "web1").map(|record| record.message.clone()).collect();
            prop_assert_eq!(of_first, (0..times.len()).map(|n| n.to_string()).collect::<Vec<_>>());
            prop_assert_eq!(merged.len(), times.len() + other.len());
        }
    }
}
