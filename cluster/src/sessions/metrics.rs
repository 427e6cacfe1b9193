//! Metrics.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the sessions of a fleet.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) appended: Counter,
    pub(crate) dropped: Counter,
    pub(crate) lost: Counter,
    pub(crate) undelivered: Counter,
    pub(crate) not_forwarded: Counter,
    pub(crate) retries: Counter,
    pub(crate) refused: Counter,
    pub(crate) failed: Counter,
    pub(crate) gaps: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) buried: Counter,
    pub(crate) expired: Counter,
    pub(crate) unreadable: Counter,
    pub(crate) stored: Gauge,
    pub(crate) inbox: Gauge,
    pub(crate) claim: Histogram,
    pub(crate) submit: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let times = || Histogram::new(exponential_buckets(0.0005, 2.0, 14));
        Self {
            appended: Counter::default(),
            dropped: Counter::default(),
            lost: Counter::default(),
            undelivered: Counter::default(),
            not_forwarded: Counter::default(),
            retries: Counter::default(),
            refused: Counter::default(),
            failed: Counter::default(),
            gaps: Counter::default(),
            unavailable: Counter::default(),
            buried: Counter::default(),
            expired: Counter::default(),
            unreadable: Counter::default(),
            stored: Gauge::default(),
            inbox: Gauge::default(),
            claim: times(),
            submit: times(),
        }
    }
}

impl Metrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("messages", "Messages appended to sessions of the fleet by this process.", &self.appended),
            ("messages_dropped", "Messages not stored for a session that had too many.", &self.dropped),
            ("sessions_lost", "Sessions that had more messages than are stored.", &self.lost),
            ("letters_undelivered", "Messages for nodes that ended or were too slow.", &self.undelivered),
            ("not_forwarded", "Messages for other nodes that were dropped: too many waited.", &self.not_forwarded),
            ("retries", "Batches of changes sent again.", &self.retries),
            ("changes_refused", "Changes without effect: another node had the client by then.", &self.refused),
            ("changes_failed", "Changes that Redis has failed to make; none was acknowledged.", &self.failed),
            ("gaps", "Times that letters for this node were missing.", &self.gaps),
            ("claims_failed", "Claims of clients without an answer in time.", &self.unavailable),
            ("nodes_buried", "Nodes that this process has found dead.", &self.buried),
            ("sessions_expired", "Sessions ended by this process after their time.", &self.expired),
            ("unreadable", "Messages and routes that could not be decoded.", &self.unreadable),
        ];
        for (name, help, counter) in counters {
            registry.register(format!("fleet_{name}"), help, counter.clone());
        }
        for (name, help, gauge) in [
            ("fleet_stored", "Messages stored for sessions of the fleet.", &self.stored),
            ("fleet_inbox", "Messages at the server that wait for this node.", &self.inbox),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        for (name, help, histogram) in [
            ("fleet_claim", "Time of a claim of a client.", &self.claim),
            ("fleet_submit", "Time until changes of sessions are durable.", &self.submit),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}
