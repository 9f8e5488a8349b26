//! Bytes as people write and read them: `512M`, the same in settings, on the command line and in every answer.
//!
//! Powers of 1024, as control groups, `free` and `du` count. A bare number is refused, because half of its readers take it for
//! megabytes.

use std::fmt;

const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

/// So many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// `None` for what is no whole number with one of these units, or more than a number of bytes can be.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, shift) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
        let is_whole = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        is_whole.then(|| number.parse::<u64>().ok()?.checked_mul(1 << shift)).flatten().map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| self.0 >> shift > 0) else {
            return f.pad(&format!("{}B", self.0));
        };
        let tenths = (self.0 as f64 / (1_u64 << shift) as f64 * 10.0).round() as u64;
        f.pad(&match (tenths / 10, tenths % 10) {
            (whole, 0) => format!("{whole}{unit}"),
            (whole, tenth) => format!("{whole}.{tenth}{unit}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_has_a_unit() {
        for (text, wanted) in [
            ("512M", Some(512 << 20)),
            ("2G", Some(2 << 30)),
            ("16384K", Some(16 << 20)),
            ("1T", Some(1 << 40)),
            ("0M", Some(0)),
            ("512", None),
            ("M", None),
            ("", None),
            ("+1M", None),
            ("-1M", None),
            ("1.5G", None),
            ("2GB", None),
            ("2µ", None),
            ("99999999T", None),
        ] {
            assert_eq!(Size::parse(text), wanted.map(Size), "{text}");
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        for text in ["512M", "2G", "1000M", "1K", "3T"] {
            assert_eq!(Size::parse(text).expect("it is a size").to_string(), text);
        }
        for (bytes, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5K"), (1_000_000_000, "953.7M"), (u64::MAX, "16777216T")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
