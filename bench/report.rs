//! The numbers: medians, ratios, the rows of the README and the file of results.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::Result;

#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
        self.0.sort();
    }

    pub fn median(&self) -> Duration {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => Duration::ZERO,
            count if count % 2 == 0 => (self.0[middle - 1] + self.0[middle]) / 2,
            _ => self.0[middle],
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "median_ms": milliseconds(self.median()),
            "samples_ms": self.0.iter().copied().map(milliseconds).collect::<Vec<_>>(),
        })
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[derive(Debug)]
struct PeerTimes {
    name: &'static str,
    up: Samples,
    back: Samples,
    down: Samples,
}

#[derive(Debug)]
pub struct Report {
    peers: Vec<PeerTimes>,
    rows: Vec<(String, String)>,
    json: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    pub fn new() -> Self {
        Self { peers: Vec::new(), rows: Vec::new(), json: serde_json::Map::new() }
    }

    pub fn peer(&mut self, name: &'static str, up: Duration, back: Duration, down: Duration) {
        let at = self.peers.iter().position(|peer| peer.name == name).unwrap_or_else(|| {
            self.peers.push(PeerTimes { name, up: Samples::default(), back: Samples::default(), down: Samples::default() });
            self.peers.len() - 1
        });
        let peer = &mut self.peers[at];
        peer.up.push(up);
        peer.back.push(back);
        peer.down.push(down);
    }

    /// A time of adt alone.
    pub fn value(&mut self, what: &str, samples: &Samples) {
        self.row(what, &format!("{:.0} ms", milliseconds(samples.median())), samples.json());
    }

    pub fn row(&mut self, what: &str, value: &str, json: serde_json::Value) {
        self.rows.push((what.to_owned(), value.to_owned()));
        self.json.insert(what.replace('`', ""), json);
    }

    /// The tables as they stand in the README.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        if let Some(adt) = self.peers.first() {
            let _ = writeln!(
                text,
                "| two web servers and a database with | until all answer | adt / it | until all are gone | adt / it |"
            );
            let _ = writeln!(text, "|---|---|---|---|---|");
            for peer in &self.peers {
                let ratio = |ours: &Samples, its: &Samples| match std::ptr::eq(peer, adt) {
                    true => "1".to_owned(),
                    false => format!("{:.2}", ours.median().as_secs_f64() / its.median().as_secs_f64()),
                };
                let _ = writeln!(
                    text,
                    "| {} | {:.2} s | {} | {:.2} s | {} |",
                    peer.name,
                    peer.up.median().as_secs_f64(),
                    ratio(&adt.up, &peer.up),
                    peer.down.median().as_secs_f64(),
                    ratio(&adt.down, &peer.down),
                );
            }
            text.push('\n');
        }
        if !self.rows.is_empty() {
            text.push_str("| what | measured |\n|---|---|\n");
            for (what, value) in &self.rows {
                let _ = writeln!(text, "| {what} | {value} |");
            }
        }
        text
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let peers = self.peers.iter().map(|peer| {
            let times = serde_json::json!({ "up": peer.up.json(), "command": peer.back.json(), "down": peer.down.json() });
            (peer.name.replace('`', ""), times)
        });
        let host = serde_json::json!({
            "kernel": rustix::system::uname().release().to_string_lossy(),
            "cores": std::thread::available_parallelism()?.get(),
        });
        let all = serde_json::json!({
            "host": host,
            "peers": peers.collect::<serde_json::Map<_, _>>(),
            "adt": self.json,
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
        Ok(())
    }
}
