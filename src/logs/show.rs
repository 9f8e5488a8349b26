//! A record as a person reads it, and as one JSON object.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Micros, Record};
use crate::model::visible::spelled;

/// How wide the columns are so far: they grow with what comes.
#[derive(Debug, Default)]
pub struct Columns {
    machine: usize,
    unit: usize,
}

/// A longer unit moves its own message to the right, not everyone's.
const WIDEST: usize = 24;

/// The parts of a line, with what a terminal would obey spelled out.
pub struct Shown {
    pub time: String,
    pub machine: String,
    pub unit: String,
    /// The lines after the first are indented below it.
    pub message: String,
}

impl Columns {
    pub fn show(&mut self, record: &Record, zone: &TimeZone) -> Shown {
        let machine = record.origin.id.machine.as_str();
        let unit = spelled(&record.unit);
        self.machine = self.machine.max(machine.len());
        self.unit = self.unit.max(unit.chars().count()).min(WIDEST);
        let time = time(record.time, zone);
        let indent = " ".repeat(time.len() + self.machine + self.unit.max(unit.chars().count()) + 3);
        let lines: Vec<_> = record.message.split('\n').map(spelled).collect();
        Shown {
            machine: format!("{machine:<width$}", width = self.machine),
            unit: format!("{unit:<width$}", width = self.unit),
            message: lines.join(&format!("\n{indent}")),
            time,
        }
    }
}

fn time(micros: Micros, zone: &TimeZone) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S.%3f").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// What `--json` prints.
pub fn json(record: &Record) -> Value {
    let id = &record.origin.id;
    let time = jiff::Timestamp::from_microsecond(record.time).map(|time| time.to_string());
    json!({
        "time": time.ok(),
        "platform": id.environment.platform,
        "environment": id.environment.name,
        "machine": id.machine,
        "unit": record.unit,
        "severity": record.severity_word(),
        "message": record.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests::record;

    #[test]
    fn columns_stand_below_each_other() {
        let mut columns = Columns::default();
        columns.show(&record("web1", 0, ""), &TimeZone::UTC);
        let shown = columns.show(&record("db", 1_700_000_000_123_456, "one\n two"), &TimeZone::UTC);
        let line = format!("{} {} {} {}", shown.time, shown.machine, shown.unit, shown.message);
        assert_eq!(line, format!("2023-11-14 22:13:20.123 db   apache2 one\n{} two", " ".repeat(37)));
    }
}
