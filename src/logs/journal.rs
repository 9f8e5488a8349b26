//! Entries of systemd's journal, as `journalctl --output=json` prints them: one object per line.

use std::sync::Arc;

use serde_json::Value;

use super::{INFO, Mark, Micros, Origin, Record};

/// The only fields that are asked for; the cursor and the time come with every entry.
pub const FIELDS: &str = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,UNIT,SYSLOG_IDENTIFIER,_COMM";

/// `None` for what is no entry.
pub fn record(line: &str, origin: &Arc<Origin>) -> Option<Record> {
    let Value::Object(entry) = serde_json::from_str(line).ok()? else { return None };
    let time: Micros = entry.get("__REALTIME_TIMESTAMP")?.as_str()?.parse().ok()?;
    let cursor = entry.get("__CURSOR")?.as_str()?.to_owned();
    let field = |name: &str| entry.get(name).map(text).filter(|text| !text.is_empty());
    let severity = field("PRIORITY").and_then(|number| number.parse().ok()).filter(|number| *number <= 7);
    // What init says of a unit is told under that unit's name.
    let own = field("_SYSTEMD_UNIT").filter(|unit| unit != "init.scope");
    let unit = field("UNIT").or_else(|| own.filter(|unit| unit.ends_with(".service")).filter(|unit| !unit.starts_with("user@")));
    let unit = unit.map(|unit| unit.strip_suffix(".service").map(str::to_owned).unwrap_or(unit));
    Some(Record {
        time,
        origin: Arc::clone(origin),
        unit: unit.or_else(|| field("SYSLOG_IDENTIFIER")).or_else(|| field("_COMM")).unwrap_or_else(|| "journal".into()),
        severity: severity.unwrap_or(INFO),
        message: field("MESSAGE").unwrap_or_default().trim_end_matches('\n').to_owned(),
        mark: Some(Mark::Journal { cursor }),
    })
}

/// A field is text, or a list of bytes where it is not UTF-8, or a list of these where it is there several times.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let bytes: Option<Vec<u8>> = list.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok())).collect();
            match bytes {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => list.iter().map(text).collect::<Vec<_>>().join("\n"),
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests;

    fn read(fields: &str) -> Option<Record> {
        let origin = tests::record("db", 0, "").origin;
        record(&format!("{{\"__CURSOR\":\"s=a;i=1\",\"__REALTIME_TIMESTAMP\":\"1700000000123456\",{fields}}}"), &origin)
    }

    #[test]
    fn an_entry_has_a_unit_a_severity_and_a_cursor() {
        let record = read(r#""MESSAGE":"ready","PRIORITY":"4","_SYSTEMD_UNIT":"mariadb.service","_COMM":"mariadbd""#).unwrap();
        assert_eq!((record.time, record.unit.as_str(), record.severity), (1_700_000_000_123_456, "mariadb", 4));
        assert_eq!(record.mark, Some(Mark::Journal { cursor: "s=a;i=1".into() }));
    }

    #[test]
    fn whoever_wrote_it_is_named_somehow() {
        for (fields, unit) in [
            (r#""_SYSTEMD_UNIT":"init.scope","UNIT":"cron.service""#, "cron"),
            (r#""_SYSTEMD_UNIT":"init.scope","SYSLOG_IDENTIFIER":"systemd""#, "systemd"),
            (r#""_SYSTEMD_UNIT":"a.socket","SYSLOG_IDENTIFIER":"app""#, "app"),
            (r#""_COMM":"sh""#, "sh"),
            (r#""PRIORITY":"9""#, "journal"),
        ] {
            let record = read(fields).unwrap();
            assert_eq!((record.unit.as_str(), record.severity), (unit, INFO), "{fields}");
        }
    }

    #[test]
    fn bytes_and_several_values_are_text() {
        assert_eq!(read(r#""MESSAGE":[104,105,255]"#).unwrap().message, "hi\u{fffd}");
        assert_eq!(read(r#""MESSAGE":["one","two"]"#).unwrap().message, "one\ntwo");
        assert_eq!(read(r#""MESSAGE":null"#).unwrap().message, "");
    }

    #[test]
    fn what_is_no_entry_is_none() {
        let origin = tests::record("db", 0, "").origin;
        for line in ["", "-- No entries --", "[]", "{}", "{\"__CURSOR\":\"a\",\"__REALTIME_TIMESTAMP\":\"soon\"}"] {
            assert_eq!(record(line, &origin), None, "{line}");
        }
    }
}
