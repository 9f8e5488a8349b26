//! Records as syslog messages (RFC 5424), each with its length before it (RFC 6587), so that a message may have several lines.

use super::{Micros, Record};

/// `user`: adt does not know better.
const FACILITY: u8 = 1;
/// Names below this number are private to those who agree on them; it is the one that RFC 5612 gives to documents.
const ENTERPRISE: &str = "32473";

/// Adds one frame to `out`.
pub fn frame(record: &Record, out: &mut Vec<u8>) {
    let message = message(record);
    out.extend_from_slice(format!("{} ", message.len()).as_bytes());
    out.extend_from_slice(message.as_bytes());
}

fn message(record: &Record) -> String {
    let id = &record.origin.id;
    let priority = FACILITY * 8 + record.severity.min(7);
    format!(
        "<{priority}>1 {} {} {} - - [adt@{ENTERPRISE} platform=\"{}\" environment=\"{}\" machine=\"{}\" unit=\"{}\"] {}",
        time(record.time),
        word(&record.origin.fqdn, 255),
        word(&record.unit, 48),
        id.environment.platform,
        id.environment.name,
        id.machine,
        value(&record.unit),
        record.message,
    )
}

fn time(micros: Micros) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.6}"),
        Err(_) => "-".to_owned(),
    }
}

/// A header's word: printable ASCII without blanks, and never nothing.
fn word(text: &str, most: usize) -> String {
    let word: String = text.chars().take(most).map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect();
    if word.is_empty() { "-".to_owned() } else { word }
}

/// Within quotes.
fn value(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '"' | '\\' | ']') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests::record;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_as_the_rfc_says() {
        let mut record = record("web1", 1_700_000_000_123_456, "GET / äöü\n  second line");
        record.severity = 3;
        record.unit = "a \"b\" [c]\\".into();
        assert_eq!(
            message(&record),
            "<11>1 2023-11-14T22:13:20.123456Z web1.1161.shop.example.test a_\"b\"_[c]\\ - - \
             [adt@32473 platform=\"shop\" environment=\"1161\" machine=\"web1\" unit=\"a \\\"b\\\" [c\\]\\\\\"] GET / äöü\n  second line"
        );
    }

    proptest! {
        #[test]
        fn frames_are_found_again(messages in proptest::collection::vec(any::<String>(), 0..5), unit in any::<String>()) {
            let mut bytes = Vec::new();
            for text in &messages {
                let mut record = record("web1", 7, text);
                record.unit = unit.clone();
                frame(&record, &mut bytes);
            }
            let mut rest = bytes.as_slice();
            for text in &messages {
                let blank = rest.iter().position(|byte| *byte == b' ').unwrap();
                let length: usize = std::str::from_utf8(&rest[..blank]).unwrap().parse().unwrap();
                let message = std::str::from_utf8(&rest[blank + 1..blank + 1 + length]).unwrap();
                prop_assert!(message.starts_with("<14>1 1970-01-01T00:00:00.000007Z web1.1161.shop.example.test "));
                prop_assert!(message.ends_with(text.as_str()));
                rest = &rest[blank + 1 + length..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
