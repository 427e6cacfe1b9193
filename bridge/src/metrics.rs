//! Metrics, by bridge.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of all bridges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    connected: Family<OfBridge, Gauge>,
    connects: Family<OfBridge, Counter>,
    failures: Family<OfBridge, Counter>,
    messages: Family<OfWay, Counter>,
    resent: Family<OfWay, Counter>,
    bytes: Family<OfWay, Counter>,
    dropped: Family<Dropped, Counter>,
    lost: Family<OfSide, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBridge {
    bridge: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWay {
    bridge: String,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    bridge: String,
    direction: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSide {
    bridge: String,
    side: &'static str,
}

impl Metrics {
    /// Registers the metrics as `weir_bridge_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_bridge");
        r.register("connected", "1 while the bridge is connected to the other broker", self.connected.clone());
        r.register("connects", "Connections to the other broker", self.connects.clone());
        r.register("failures", "Attempts to connect that failed, and connections that broke", self.failures.clone());
        r.register("messages", "Messages passed on, with those sent again", self.messages.clone());
        r.register("resent", "Messages passed on that were sent again", self.resent.clone());
        let bytes = "Bytes of messages passed on";
        r.register_with_unit("message", bytes, Unit::Bytes, self.bytes.clone());
        r.register("dropped", "Messages that the receiver does not get, by reason", self.dropped.clone());
        r.register("sessions_lost", "Sessions that were no longer there, by side", self.lost.clone());
    }

    /// The metrics of a bridge.
    pub(crate) fn of(&self, bridge: &str) -> BridgeMetrics {
        let own = OfBridge { bridge: bridge.to_owned() };
        let way = |direction| {
            let own = OfWay { bridge: bridge.to_owned(), direction };
            WayMetrics {
                messages: self.messages.get_or_create_owned(&own),
                resent: self.resent.get_or_create_owned(&own),
                bytes: self.bytes.get_or_create_owned(&own),
                dropped: self.dropped.clone(),
                own,
            }
        };
        let lost = |side| self.lost.get_or_create_owned(&OfSide { bridge: bridge.to_owned(), side });
        BridgeMetrics {
            connected: self.connected.get_or_create_owned(&own),
            connects: self.connects.get_or_create_owned(&own),
            failures: self.failures.get_or_create_owned(&own),
            out: way("out"),
            back: way("in"),
            lost_here: lost("local"),
            lost_there: lost("remote"),
        }
    }

    /// Messages of a bridge that were passed on in a direction, `out` or `in`.
    pub fn messages(&self, bridge: &str, direction: &'static str) -> u64 {
        self.messages.get_or_create_owned(&OfWay { bridge: bridge.to_owned(), direction }).get()
    }

    /// Messages of a bridge that the receiver does not get for this reason.
    pub fn dropped(&self, bridge: &str, direction: &'static str, reason: &'static str) -> u64 {
        self.dropped.get_or_create_owned(&Dropped { bridge: bridge.to_owned(), direction, reason }).get()
    }

    /// Sessions of a bridge that were no longer there, at this side (`local`) or the other
    /// (`remote`).
    pub fn lost(&self, bridge: &str, side: &'static str) -> u64 {
        self.lost.get_or_create_owned(&OfSide { bridge: bridge.to_owned(), side }).get()
    }

    /// True while a bridge is connected to the other broker.
    pub fn is_connected(&self, bridge: &str) -> bool {
        self.connected.get_or_create_owned(&OfBridge { bridge: bridge.to_owned() }).get() == 1
    }
}

/// Metrics of one bridge.
#[derive(Debug)]
pub(crate) struct BridgeMetrics {
    pub(crate) connected: Gauge,
    pub(crate) connects: Counter,
    pub(crate) failures: Counter,
    pub(crate) out: WayMetrics,
    pub(crate) back: WayMetrics,
    pub(crate) lost_here: Counter,
    pub(crate) lost_there: Counter,
}

/// Metrics of one direction of a bridge.
#[derive(Debug)]
pub(crate) struct WayMetrics {
    messages: Counter,
    resent: Counter,
    bytes: Counter,
    dropped: Family<Dropped, Counter>,
    own: OfWay,
}

impl WayMetrics {
    /// Counts a message that was passed on.
    pub(crate) fn passed(&self, bytes: usize, again: bool) {
        self.messages.inc();
        self.resent.inc_by(u64::from(again));
        self.bytes.inc_by(bytes as u64);
    }

    /// Counts a message that the receiver does not get, for a reason of a bounded set.
    pub(crate) fn drop_one(&self, reason: &'static str) {
        let OfWay { bridge, direction } = self.own.clone();
        self.dropped.get_or_create_owned(&Dropped { bridge, direction, reason }).inc();
    }
}
