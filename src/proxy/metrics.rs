//! What is counted for each site.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency histogram, in milliseconds.
const BOUNDS: [u64; 11] = [1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000, 30_000];

#[derive(Debug, Default)]
pub struct Metrics {
    classes: [AtomicU64; 5],
    pub in_flight: AtomicI64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub upstream_errors: AtomicU64,
    latency: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Metrics {
    /// Until the last byte of the answer left.
    pub fn finished(&self, status: u16, took: Duration, bytes: u64) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| milliseconds < *bound).unwrap_or(BOUNDS.len());
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Ordering::Relaxed);
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Asked for each time that somebody reads the metrics.
#[derive(Clone)]
pub struct MoreMetrics(pub Arc<dyn Fn() -> String + Send + Sync>);

impl std::fmt::Debug for MoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MoreMetrics").finish_non_exhaustive()
    }
}

const KINDS: [(&str, &str, &str); 6] = [
    ("adt_proxy_requests_total", "counter", "Answered requests by class of status."),
    ("adt_proxy_requests_in_flight", "gauge", "Requests whose answer is not finished."),
    ("adt_proxy_received_bytes_total", "counter", "Bytes of request bodies."),
    ("adt_proxy_sent_bytes_total", "counter", "Bytes of response bodies."),
    ("adt_proxy_upstream_errors_total", "counter", "Attempts that a backend did not answer."),
    ("adt_proxy_request_seconds", "histogram", "From the request's head to the last byte of its answer."),
];

/// Prometheus' text format. Hosts are DNS names, so they need no escaping.
pub fn text<'a>(sites: impl Iterator<Item = (&'a str, &'a Metrics)>, connections: usize) -> String {
    let mut sites: Vec<_> = sites.collect();
    sites.sort_by_key(|(host, _)| *host);
    let mut out = String::from("# HELP adt_proxy_connections Open client connections.\n# TYPE adt_proxy_connections gauge\n");
    line(&mut out, format_args!("adt_proxy_connections {connections}"));
    for (name, kind, help) in KINDS {
        line(&mut out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
        for (host, metrics) in &sites {
            one(&mut out, name, host, metrics);
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes all text");
}

fn one(out: &mut String, name: &str, host: &str, metrics: &Metrics) {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    match name {
        "adt_proxy_requests_total" => {
            for (class, counter) in metrics.classes.iter().enumerate() {
                line(out, format_args!("{name}{{host=\"{host}\",class=\"{}xx\"}} {}", class + 1, get(counter)));
            }
        }
        "adt_proxy_requests_in_flight" => {
            line(out, format_args!("{name}{{host=\"{host}\"}} {}", metrics.in_flight.load(Ordering::Relaxed)));
        }
        "adt_proxy_received_bytes_total" => line(out, format_args!("{name}{{host=\"{host}\"}} {}", get(&metrics.received))),
        "adt_proxy_sent_bytes_total" => line(out, format_args!("{name}{{host=\"{host}\"}} {}", get(&metrics.sent))),
        "adt_proxy_upstream_errors_total" => {
            line(out, format_args!("{name}{{host=\"{host}\"}} {}", get(&metrics.upstream_errors)));
        }
        _ => histogram(out, name, host, metrics),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a graph")]
fn histogram(out: &mut String, name: &str, host: &str, metrics: &Metrics) {
    let mut total = 0;
    for (bucket, counter) in metrics.latency.iter().enumerate() {
        total += counter.load(Ordering::Relaxed);
        match BOUNDS.get(bucket) {
            Some(bound) => {
                let bound = *bound as f64 / 1000.0;
                line(out, format_args!("{name}_bucket{{host=\"{host}\",le=\"{bound}\"}} {total}"));
            }
            None => line(out, format_args!("{name}_bucket{{host=\"{host}\",le=\"+Inf\"}} {total}")),
        }
    }
    let seconds = metrics.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
    line(out, format_args!("{name}_sum{{host=\"{host}\"}} {seconds}\n{name}_count{{host=\"{host}\"}} {total}"));
}
