//! What the name server has done so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hickory_proto::op::ResponseCode;

/// Counters for `/metrics`; they only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// By response code: 0 to 5 as in RFC 1035, 16 BADVERS; what is higher counts as the last.
    codes: [AtomicU64; 17],
    pub(super) forwarded: AtomicU64,
    pub(super) known: AtomicU64,
    pub(super) unanswered: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) connections: AtomicU64,
}

impl Stats {
    pub(super) fn count(&self, code: ResponseCode) {
        let place = usize::from(u16::from(code)).min(self.codes.len() - 1);
        self.codes[place].fetch_add(1, Relaxed);
    }

    /// Each response code with how many queries adt itself answered so.
    pub fn by_code(&self) -> impl Iterator<Item = (u16, u64)> {
        (0u16..).zip(&self.codes).map(|(code, count)| (code, count.load(Relaxed))).filter(|(_, count)| *count > 0)
    }

    /// In Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let mut add = |name: &str, help: &str, values: &[(String, u64)]| {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} counter\n"));
            out.extend(values.iter().map(|(labels, value)| format!("{name}{labels} {value}\n")));
        };
        let plain = |value| [(String::new(), value)];
        let codes: Vec<_> = self.by_code().map(|(code, count)| (format!("{{code=\"{code}\"}}"), count)).collect();
        add("adt_dns_answers_total", "Queries answered by adt itself, by response code.", &codes);
        add("adt_dns_forwarded_total", "Queries of machines that went to the host's name servers.", &plain(self.forwarded()));
        add("adt_dns_known_total", "Queries of machines answered by what such a server said before.", &plain(self.known()));
        add("adt_dns_unanswered_total", "Forwarded queries that no name server answered.", &plain(self.unanswered()));
        add("adt_dns_dropped_total", "Packets that deserve no answer.", &plain(self.dropped()));
        add("adt_dns_connections_total", "TCP connections accepted.", &plain(self.connections()));
        out
    }

    /// Queries of machines that went to the host's name servers.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Relaxed)
    }

    /// Queries of machines that were answered by what such a server said before.
    pub fn known(&self) -> u64 {
        self.known.load(Relaxed)
    }

    /// Those of the forwarded that no name server answered.
    pub fn unanswered(&self) -> u64 {
        self.unanswered.load(Relaxed)
    }

    /// Packets that deserve no answer.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// TCP connections accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }
}
