//! The last lines of a program, which say best why it failed; so little that any number of failures can be kept.

use std::collections::VecDeque;

/// So many lines.
const MOST: usize = 20;
/// And so many bytes of each.
const LONGEST: usize = 2048;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail(VecDeque<String>);

impl Tail {
    /// Empty lines say nothing.
    pub fn push(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        let end = line.floor_char_boundary(LONGEST);
        let rest = if end < line.len() { "…" } else { "" };
        self.0.push_back(format!("{}{rest}", &line[..end]));
    }

    pub fn last(&self) -> Option<&str> {
        self.0.back().map(String::as_str)
    }

    pub fn lines(self) -> Vec<String> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_last_is_kept_and_little_of_it() {
        let mut tail = Tail::default();
        for number in 0..1000 {
            tail.push(&number.to_string());
            tail.push(" ");
        }
        tail.push(&"ä".repeat(100_000));
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (MOST, "981"));
        assert_eq!(lines[MOST - 1].len(), LONGEST + "…".len());
    }
}
