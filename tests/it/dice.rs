//! What all fuzzers share: numbers that come again, damage to bytes, and how often.

use std::borrow::Borrow;

/// A fixed sequence, so that what failed once fails again.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        Self(1161)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides
    }

    pub fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.roll(all.len())]
    }

    /// One of the seeds, mostly damaged: a byte changed, removed or doubled, the end cut off, a piece repeated, or one of the
    /// `words` put in that mean something to whoever reads it.
    pub fn damaged(&mut self, seeds: &[impl Borrow<[u8]>], words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seeds[self.roll(seeds.len())].borrow().to_vec();
        self.damage(&mut bytes, words);
        bytes
    }

    pub fn damage(&mut self, bytes: &mut Vec<u8>, words: &[&[u8]]) {
        for _ in 0..self.roll(5) {
            let at = self.roll(bytes.len().max(1));
            match self.roll(6) {
                0 if !bytes.is_empty() => bytes[at] = self.roll(256) as u8,
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at.max(1)),
                3 => {
                    let piece = bytes[at..(at + self.roll(40)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                4 if words.is_empty() => bytes.insert(at.min(bytes.len()), self.roll(256) as u8),
                _ if words.is_empty() => {}
                _ => drop(bytes.splice(at..at, self.pick(words).iter().copied())),
            }
        }
    }
}

/// As often as `ADT_FUZZ` says, or else as often as `make test` has time for.
pub fn rounds(usual: usize) -> usize {
    std::env::var("ADT_FUZZ").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}
