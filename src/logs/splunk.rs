//! Records as a batch for Splunk's HTTP Event Collector: JSON objects one after the other.

use serde_json::json;

use super::{Mark, Record};

/// Where a collector takes them.
pub const PATH: &str = "/services/collector/event";

/// The body of one request.
pub fn batch(records: &[Record]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        serde_json::to_writer(&mut body, &event(record)).expect("an event has string keys only, so it becomes JSON");
        body.push(b'\n');
    }
    body
}

fn event(record: &Record) -> serde_json::Value {
    let id = &record.origin.id;
    let source = match &record.mark {
        Some(Mark::File { path, .. }) => path,
        Some(Mark::Journal { .. }) => "journal",
        None => "adt",
    };
    // Seconds with a fraction, which a float keeps to the microsecond until the year 2242.
    #[allow(clippy::cast_precision_loss)]
    let time = record.time as f64 / 1e6;
    json!({
        "time": time,
        "host": record.origin.fqdn,
        "source": source,
        "sourcetype": "adt",
        "event": record.message,
        "fields": {
            "platform": id.environment.platform,
            "environment": id.environment.name,
            "machine": id.machine,
            "unit": record.unit,
            "severity": record.severity_word(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::tests::record;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn an_event_says_where_it_is_from() {
        let body = batch(&[record("db", 1_700_000_000_123_456, "ready\n\"now\"")]);
        let event: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(event["time"], 1_700_000_000.123_456);
        assert_eq!(event["host"], "db.1161.shop.example.test");
        assert_eq!(event["event"], "ready\n\"now\"");
        assert_eq!(event["fields"]["unit"], "apache2");
    }

    proptest! {
        #[test]
        fn a_batch_is_one_object_after_the_other(messages in proptest::collection::vec(any::<String>(), 0..6)) {
            let records: Vec<_> = messages.iter().map(|text| record("db", 5, text)).collect();
            let body = batch(&records);
            let events: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&body).into_iter().collect();
            let told: Vec<_> = events.unwrap().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
            prop_assert_eq!(told, messages);
        }
    }
}
