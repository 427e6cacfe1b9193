//! The broker's figures. On the way of a message there are atomic additions only.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::inbox::Verdict;

/// A reason, of a bounded set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// Which.
    pub reason: &'static str,
}

/// A kind of message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// QoS it came with.
    pub qos: &'static str,
    /// What became of it.
    pub verdict: &'static str,
}

const QOS: [&str; 3] = ["0", "1", "2"];
const VERDICTS: [&str; 3] = ["staged", "quarantined", "plain"];

/// Figures of the broker.
#[derive(Debug)]
pub struct Metrics {
    /// Connected now.
    pub connections: Gauge,
    /// Connected ever.
    pub connects: Counter,
    /// Ended, by reason.
    pub disconnects: Family<Reason, Counter>,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// PUBLISH packets from clients, also those that repeat a QoS 2 message.
    pub publishes: Counter,
    /// PUBACK and PUBREC packets sent.
    pub acknowledgements: Counter,
    /// Time from handing a batch to the log until its acknowledgements are written; a sample.
    pub acknowledgement_time: Histogram,
    /// Bytes read from sockets.
    pub received: Counter,
    /// Bytes written to sockets.
    pub sent: Counter,
    /// Messages sent to subscribers.
    pub delivered: Counter,
    /// Messages not sent to a subscriber, by reason.
    pub dropped: Family<Reason, Counter>,
    /// Sessions held, connected or not.
    pub sessions: Gauge,
    /// Subscriptions held.
    pub subscriptions: Gauge,
    /// Retained messages held.
    pub retained: Gauge,
    /// Times a connection began to wait because the log was full.
    pub waits: Counter,
    messages: Family<Kind, Counter>,
    /// Those of `messages`, by QoS and verdict: no look-up for a message.
    by_kind: [[Counter; 3]; 3],
}

impl Default for Metrics {
    fn default() -> Self {
        let messages = Family::<Kind, Counter>::default();
        let by_kind = QOS.map(|qos| VERDICTS.map(|verdict| messages.get_or_create_owned(&Kind { qos, verdict })));
        Self {
            connections: Gauge::default(),
            connects: Counter::default(),
            disconnects: Family::default(),
            accept_errors: Counter::default(),
            publishes: Counter::default(),
            acknowledgements: Counter::default(),
            // 0.25 ms to 8 s.
            acknowledgement_time: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            received: Counter::default(),
            sent: Counter::default(),
            delivered: Counter::default(),
            dropped: Family::default(),
            sessions: Gauge::default(),
            subscriptions: Gauge::default(),
            retained: Gauge::default(),
            waits: Counter::default(),
            messages,
            by_kind,
        }
    }
}

impl Metrics {
    /// Counts a message from a client.
    pub(crate) fn count_message(&self, qos: u8, verdict: Verdict) {
        self.messages_of(qos, verdict).inc();
    }

    /// The count of one kind of message.
    pub fn messages_of(&self, qos: u8, verdict: Verdict) -> &Counter {
        let verdict = match verdict {
            Verdict::Staged => 0,
            Verdict::Quarantined => 1,
            Verdict::Plain => 2,
        };
        &self.by_kind[usize::from(qos.min(2))][verdict]
    }

    /// Puts them into a registry, under `weir_broker_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_broker");
        r.register("connections", "Connections now", self.connections.clone());
        r.register("connects", "Connections accepted", self.connects.clone());
        r.register("disconnects", "Connections ended, by reason", self.disconnects.clone());
        r.register("accept_errors", "Connections that could not be accepted", self.accept_errors.clone());
        r.register("publishes", "PUBLISH packets from clients", self.publishes.clone());
        r.register("messages", "Messages from clients, by QoS and what became of them", self.messages.clone());
        r.register("acknowledgements", "PUBACK and PUBREC packets sent", self.acknowledgements.clone());
        r.register_with_unit(
            "acknowledgement",
            "Time from the log's taking a batch to its acknowledgements, sampled",
            Unit::Seconds,
            self.acknowledgement_time.clone(),
        );
        r.register_with_unit("received", "Bytes read from sockets", Unit::Bytes, self.received.clone());
        r.register_with_unit("sent", "Bytes written to sockets", Unit::Bytes, self.sent.clone());
        r.register("delivered", "Messages sent to subscribers", self.delivered.clone());
        r.register("dropped", "Messages not sent to a subscriber, by reason", self.dropped.clone());
        r.register("sessions", "Sessions held", self.sessions.clone());
        r.register("subscriptions", "Subscriptions held", self.subscriptions.clone());
        r.register("retained", "Retained messages held", self.retained.clone());
        r.register("full_waits", "Times a connection began to wait because the log was full", self.waits.clone());
    }
}
