//! The broker's figures. On the way of a message there are atomic additions only, one for each read.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A reason, of a bounded set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// Which.
    pub reason: &'static str,
}

/// Figures of the broker.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connected now.
    pub connections: Gauge,
    /// Connected ever.
    pub connects: Counter,
    /// Ended, by reason.
    pub disconnects: Family<Reason, Counter>,
    /// PUBLISH packets from clients.
    pub publishes: Counter,
    /// PUBACK and PUBREC packets sent.
    pub acknowledgements: Counter,
    /// Telemetry that could not be read.
    pub quarantined: Counter,
    /// Messages that no route takes.
    pub plain: Counter,
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
    /// Times a connection waited because the log was full.
    pub waits: Counter,
}

impl Metrics {
    /// Puts them into a registry, under `weir_broker_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_broker");
        r.register("connections", "Connections now", self.connections.clone());
        r.register("connects", "Connections accepted", self.connects.clone());
        r.register("disconnects", "Connections ended, by reason", self.disconnects.clone());
        r.register("publishes", "PUBLISH packets from clients", self.publishes.clone());
        r.register("acknowledgements", "PUBACK and PUBREC packets sent", self.acknowledgements.clone());
        r.register("quarantined", "Telemetry that could not be read", self.quarantined.clone());
        r.register("plain", "Messages that no route takes", self.plain.clone());
        r.register_with_unit("received", "Bytes read from sockets", Unit::Bytes, self.received.clone());
        r.register_with_unit("sent", "Bytes written to sockets", Unit::Bytes, self.sent.clone());
        r.register("delivered", "Messages sent to subscribers", self.delivered.clone());
        r.register("dropped", "Messages not sent to a subscriber, by reason", self.dropped.clone());
        r.register("sessions", "Sessions held", self.sessions.clone());
        r.register("full_waits", "Times a connection waited because the log was full", self.waits.clone());
    }
}
