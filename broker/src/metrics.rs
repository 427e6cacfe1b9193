//! Metrics. A message costs atomic additions only.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::listener::Listeners;
use crate::takeovers::Takeovers;
use door::Verdict;

type ByReason = Family<[(&'static str, &'static str); 1], Counter>;

/// The labels of a denial.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Denied {
    action: &'static str,
    reason: &'static str,
}

/// The labels of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    qos: &'static str,
    verdict: &'static str,
}

const QOS: [&str; 3] = ["0", "1", "2"];
const VERDICTS: [&str; 6] = ["staged", "unreadable", "held", "plain", "denied", "over_quota"];

/// Reasons why a message does not reach a subscriber.
const DROPPED: [&str; 14] = [
    "expired",
    "memory",
    "memory_qos0",
    "no_member",
    "not_granted",
    "not_in_store",
    "offline_qos0",
    "queue_full",
    "queue_full_qos0",
    "refused_by_client",
    "session_ended",
    "too_large_for_client",
    "retained_full",
    "will_not_stored",
];

/// The broker's metrics.
#[derive(Debug)]
pub struct Metrics {
    /// Open connections.
    pub connections: Gauge,
    /// Connections accepted.
    pub connects: Counter,
    disconnects: ByReason,
    /// Connections that waited because their address connects often, or all clients together do.
    pub connects_paced: Counter,
    /// 1 while connections are closed so that their clients connect to other processes.
    pub draining: Gauge,
    /// The listeners that are open.
    pub listeners: Listeners,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// PUBLISH packets from clients, including those that repeat a QoS 2 message.
    pub publishes: Counter,
    /// PUBACK and PUBREC packets sent.
    pub acknowledgements: Counter,
    /// Time from submitting a batch to the log until its acknowledgements are written; sampled.
    pub acknowledgement_time: Histogram,
    /// Bytes read from sockets.
    pub received: Counter,
    /// Bytes written to sockets.
    pub sent: Counter,
    /// Packets from clients after CONNECT.
    pub packets: Counter,
    /// Packets sent other than PUBLISH, PUBACK and PUBREC.
    pub replies: Counter,
    delivered: Family<[(&'static str, &'static str); 1], Counter>,
    /// The counters of `delivered` by QoS.
    delivered_by_qos: [Counter; 3],
    /// Time from queueing a message for a connected subscriber until it is written; sampled.
    pub delivery_time: Histogram,
    /// Time from accepting a connection until its session is taken up.
    pub connect_time: Histogram,
    /// Bytes of topics that aliases stood for in messages to subscribers.
    pub alias_saved: Counter,
    dropped: ByReason,
    denied: Family<Denied, Counter>,
    limited: ByReason,
    /// Sessions, connected or not.
    pub sessions: Gauge,
    /// Sessions that ended because their clients stayed away for too long.
    pub sessions_expired: Counter,
    /// Sessions that end with their connection, because the maximum number is reached.
    pub sessions_not_kept: Counter,
    /// Clients that have connected while the store of the fleet's sessions was away.
    pub unclaimed: Counter,
    /// Subscriptions.
    pub subscriptions: Gauge,
    /// Shared subscriptions among them.
    pub shared_subscriptions: Gauge,
    /// Retained messages.
    pub retained: Gauge,
    /// Bytes of subscriptions, and of messages that wait for subscribers.
    pub session_bytes: Gauge,
    /// Messages that were let go from memory while they wait for sessions.
    pub put_away: Counter,
    /// Messages that were read again, as their turn was near.
    pub read_back: Counter,
    /// Bytes of retained messages.
    pub retained_bytes: Gauge,
    /// Times that a connection began to wait because the log was full.
    pub waits: Counter,
    /// Takeovers of sessions that had to wait for their turn.
    pub takeovers_paced: Counter,
    /// Client ids that are taken over again and again.
    pub takeovers: Takeovers,
    messages: Family<Kind, Counter>,
    /// The counters of `messages` by QoS and verdict, so that a message costs no look-up.
    by_kind: [[Counter; VERDICTS.len()]; 3],
}

impl Default for Metrics {
    fn default() -> Self {
        let messages = Family::<Kind, Counter>::default();
        let delivered = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let delivered_by_qos = QOS.map(|qos| delivered.get_or_create_owned(&[("qos", qos)]));
        let by_kind = QOS.map(|qos| VERDICTS.map(|verdict| messages.get_or_create_owned(&Kind { qos, verdict })));
        Self {
            connections: Gauge::default(),
            connects: Counter::default(),
            disconnects: ByReason::default(),
            connects_paced: Counter::default(),
            draining: Gauge::default(),
            listeners: Listeners::default(),
            accept_errors: Counter::default(),
            publishes: Counter::default(),
            acknowledgements: Counter::default(),
            // 0.25 ms to 8 s.
            acknowledgement_time: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            received: Counter::default(),
            sent: Counter::default(),
            packets: Counter::default(),
            replies: Counter::default(),
            delivered,
            delivered_by_qos,
            // 0.25 ms to 8 s.
            delivery_time: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            connect_time: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            alias_saved: Counter::default(),
            dropped: ByReason::default(),
            denied: Family::default(),
            limited: ByReason::default(),
            sessions: Gauge::default(),
            sessions_expired: Counter::default(),
            sessions_not_kept: Counter::default(),
            unclaimed: Counter::default(),
            subscriptions: Gauge::default(),
            shared_subscriptions: Gauge::default(),
            retained: Gauge::default(),
            session_bytes: Gauge::default(),
            put_away: Counter::default(),
            read_back: Counter::default(),
            retained_bytes: Gauge::default(),
            waits: Counter::default(),
            takeovers_paced: Counter::default(),
            takeovers: Takeovers::default(),
            messages,
            by_kind,
        }
    }
}

impl Metrics {
    pub(crate) fn count_message(&self, qos: u8, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Staged => 0,
            Verdict::Unreadable => 1,
            Verdict::Held => 2,
            Verdict::Plain => 3,
            Verdict::Denied => 4,
            Verdict::OverQuota(_) => 5,
        };
        self.by_kind[usize::from(qos.min(2))][verdict].inc();
    }

    /// Counts a message that was sent to a subscriber with this QoS.
    pub(crate) fn count_delivered(&self, qos: u8) {
        self.delivered_by_qos[usize::from(qos.min(2))].inc();
    }

    /// Returns the number of messages sent to subscribers.
    pub fn delivered(&self) -> u64 {
        self.delivered_by_qos.iter().map(Counter::get).sum()
    }

    /// Returns the number of packets of all types sent.
    pub(crate) fn packets_sent(&self) -> u64 {
        self.delivered() + self.acknowledgements.get() + self.replies.get()
    }

    /// Returns the counter of connections closed for a reason, of a bounded set.
    pub fn disconnects(&self, reason: &'static str) -> Counter {
        self.disconnects.get_or_create_owned(&[("reason", reason)])
    }

    /// Returns the counter of messages dropped on the way to a subscriber for a reason, of a
    /// bounded set.
    pub fn dropped(&self, reason: &'static str) -> Counter {
        self.dropped.get_or_create_owned(&[("reason", reason)])
    }

    /// Returns the number of messages dropped on the way to subscribers, for all reasons.
    pub(crate) fn all_dropped(&self) -> u64 {
        DROPPED.iter().map(|reason| self.dropped(reason).get()).sum()
    }

    /// Returns the counter of what clients were denied: an action (`connect`,
    /// `authenticate`, `publish`, `subscribe`) for a reason, each of a bounded set.
    pub fn denied(&self, action: &'static str, reason: &'static str) -> Counter {
        self.denied.get_or_create_owned(&Denied { action, reason })
    }

    /// Returns the counter of a limit of tenants, of a bounded set: connections that were refused,
    /// or times that a connection began to wait.
    pub fn limited(&self, limit: &'static str) -> Counter {
        self.limited.get_or_create_owned(&[("limit", limit)])
    }

    /// Registers the metrics as `weir_broker_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_broker");
        r.register("connections", "Open connections", self.connections.clone());
        r.register("connects", "Connections accepted", self.connects.clone());
        r.register(
            "connects_paced",
            "Connections that waited because their address connects often, or all clients together do",
            self.connects_paced.clone(),
        );
        let drains = "1 while connections are closed in slices, so that their clients connect to other processes";
        r.register("draining", drains, self.draining.clone());
        self.listeners.register(r);
        r.register("disconnects", "Connections closed, by reason", self.disconnects.clone());
        r.register("accept_errors", "Connections that could not be accepted", self.accept_errors.clone());
        r.register("publishes", "PUBLISH packets from clients", self.publishes.clone());
        r.register("messages", "Messages from clients, by QoS and verdict", self.messages.clone());
        r.register("acknowledgements", "PUBACK and PUBREC packets sent", self.acknowledgements.clone());
        r.register_with_unit(
            "acknowledgement",
            "Time from submitting a batch to the log until its acknowledgements are written, sampled",
            Unit::Seconds,
            self.acknowledgement_time.clone(),
        );
        r.register_with_unit("received", "Bytes read from sockets", Unit::Bytes, self.received.clone());
        r.register_with_unit("sent", "Bytes written to sockets", Unit::Bytes, self.sent.clone());
        r.register("packets", "Packets from clients after CONNECT", self.packets.clone());
        let saved = "Bytes of topics that aliases stood for in messages to subscribers";
        r.register_with_unit("alias_saved", saved, Unit::Bytes, self.alias_saved.clone());
        r.register("replies", "Packets sent other than PUBLISH, PUBACK and PUBREC", self.replies.clone());
        r.register("delivered", "Messages sent to subscribers, by QoS", self.delivered.clone());
        r.register_with_unit(
            "delivery",
            "Time from queueing a message for a connected subscriber until it is written, sampled",
            Unit::Seconds,
            self.delivery_time.clone(),
        );
        r.register_with_unit(
            "connect",
            "Time from accepting a connection until its session is taken up",
            Unit::Seconds,
            self.connect_time.clone(),
        );
        r.register("dropped", "Messages dropped on the way to a subscriber, by reason", self.dropped.clone());
        r.register("denied", "What clients were denied, by action and reason", self.denied.clone());
        r.register(
            "limited",
            "Connections refused, and times that a connection was paced, because of a limit of its tenant, by limit",
            self.limited.clone(),
        );
        r.register("sessions", "Sessions, connected or not", self.sessions.clone());
        r.register(
            "sessions_expired",
            "Sessions that ended because their clients stayed away for too long",
            self.sessions_expired.clone(),
        );
        r.register(
            "sessions_not_kept",
            "Sessions that end with their connection, because the maximum number is reached",
            self.sessions_not_kept.clone(),
        );
        r.register(
            "unclaimed",
            "Clients that have connected while the store of the fleet's sessions was away: their sessions end with \
             their connections",
            self.unclaimed.clone(),
        );
        r.register(
            "takeovers_paced",
            "Connections whose takeover of a session waited, because there were many",
            self.takeovers_paced.clone(),
        );
        r.register("subscriptions", "Subscriptions", self.subscriptions.clone());
        let shared = "Shared subscriptions among the subscriptions";
        r.register("shared_subscriptions", shared, self.shared_subscriptions.clone());
        r.register("retained", "Retained messages", self.retained.clone());
        let held = "Bytes of subscriptions and of messages that wait for subscribers";
        r.register_with_unit("session", held, Unit::Bytes, self.session_bytes.clone());
        r.register(
            "put_away",
            "Messages that wait for sessions and were let go from memory, as the store has them",
            self.put_away.clone(),
        );
        r.register("read_back", "Messages of those that were read again for their turn", self.read_back.clone());
        r.register_with_unit("retained", "Bytes of retained messages", Unit::Bytes, self.retained_bytes.clone());
        r.register("full_waits", "Times that a connection began to wait because the log was full", self.waits.clone());
    }
}
