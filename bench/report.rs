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

/// What one side did in one round.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    /// A second.
    pub rate: f64,
    pub p99: Option<Duration>,
    /// What one of them cost the program itself.
    pub cpu: Duration,
}

/// Several programs at the same work, adt first.
#[derive(Debug)]
pub struct Contest {
    unit: String,
    sides: Vec<&'static str>,
    rows: Vec<(&'static str, Vec<Vec<Score>>)>,
}

impl Contest {
    pub fn new(unit: &str, sides: impl IntoIterator<Item = &'static str>) -> Self {
        Self { unit: unit.to_owned(), sides: sides.into_iter().collect(), rows: Vec::new() }
    }

    pub fn push(&mut self, what: &'static str, side: usize, score: Score) {
        let at = self.rows.iter().position(|(name, _)| *name == what).unwrap_or_else(|| {
            self.rows.push((what, vec![Vec::new(); self.sides.len()]));
            self.rows.len() - 1
        });
        self.rows[at].1[side].push(score);
    }

    fn markdown(&self, text: &mut String) {
        let _ = write!(text, "| {} |", self.unit);
        for (number, side) in self.sides.iter().enumerate() {
            let _ = write!(text, " {side} |{}", if number == 0 { "" } else { " adt / it |" });
        }
        let _ = writeln!(text, "\n|---|{}", "---|".repeat(self.sides.len() * 2 - 1));
        for (what, sides) in &self.rows {
            let _ = write!(text, "| {what} |");
            let ours = rate(&sides[0]);
            for (number, scores) in sides.iter().enumerate() {
                let p99 = p99(scores).map(|p99| format!("{:.1} ms, ", milliseconds(p99))).unwrap_or_default();
                let _ = write!(text, " {:.0} ({p99}{:.0} µs)", rate(scores), microseconds(scores));
                let _ = if number == 0 { write!(text, " |") } else { write!(text, " | {:.2} |", ours / rate(scores)) };
            }
            text.push('\n');
        }
        text.push('\n');
    }

    fn json(&self) -> serde_json::Value {
        let side = |(name, scores): (&&str, &Vec<Score>)| {
            let rates: Vec<_> = scores.iter().map(|score| score.rate).collect();
            let value = serde_json::json!({
                "median": rate(scores), "samples": rates, "median_p99_ms": p99(scores).map(milliseconds),
                "median_core_us": microseconds(scores),
            });
            ((*name).to_owned(), value)
        };
        let row = |(what, sides): &(&str, Vec<Vec<Score>>)| {
            let sides: serde_json::Map<_, _> = self.sides.iter().zip(sides).map(side).collect();
            ((*what).to_owned(), sides.into())
        };
        self.rows.iter().map(row).collect::<serde_json::Map<_, _>>().into()
    }
}

fn rate(scores: &[Score]) -> f64 {
    let mut rates: Vec<_> = scores.iter().map(|score| score.rate).collect();
    rates.sort_by(f64::total_cmp);
    let middle = rates.len() / 2;
    if rates.len() % 2 == 0 { (rates[middle - 1] + rates[middle]) / 2.0 } else { rates[middle] }
}

fn microseconds(scores: &[Score]) -> f64 {
    let mut samples = Samples::default();
    scores.iter().for_each(|score| samples.push(score.cpu));
    samples.median().as_secs_f64() * 1e6
}

fn p99(scores: &[Score]) -> Option<Duration> {
    let mut samples = Samples::default();
    scores.iter().filter_map(|score| score.p99).for_each(|p99| samples.push(p99));
    (!samples.0.is_empty()).then(|| samples.median())
}

#[derive(Debug)]
pub struct Report {
    peers: Vec<PeerTimes>,
    contests: Vec<Contest>,
    rows: Vec<(String, String)>,
    json: serde_json::Map<String, serde_json::Value>,
}

impl Report {
    pub fn new() -> Self {
        Self { peers: Vec::new(), contests: Vec::new(), rows: Vec::new(), json: serde_json::Map::new() }
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

    pub fn contest(&mut self, contest: Contest) {
        self.contests.push(contest);
    }

    /// A time of adt alone.
    pub fn value(&mut self, what: &str, samples: &Samples) {
        self.row(what, &format!("{:.0} ms", milliseconds(samples.median())), samples.json());
    }

    /// The same, with how it compares to another.
    pub fn against(&mut self, what: &str, ours: &Samples, its: &Samples) {
        let ratio = ours.median().as_secs_f64() / its.median().as_secs_f64();
        let value = format!("{:.0} ms, {ratio:.2} of it", milliseconds(ours.median()));
        let mut json = ours.json();
        json["ratio"] = ratio.into();
        self.row(what, &value, json);
    }

    /// A time of few milliseconds.
    pub fn precise(&mut self, what: &str, samples: &Samples) {
        self.row(what, &format!("{:.1} ms", milliseconds(samples.median())), samples.json());
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
        for contest in &self.contests {
            contest.markdown(&mut text);
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
            "contests": self.contests.iter().map(|one| (one.unit.clone(), one.json())).collect::<serde_json::Map<_, _>>(),
            "peers": peers.collect::<serde_json::Map<_, _>>(),
            "adt": self.json,
        });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
        Ok(())
    }
}
