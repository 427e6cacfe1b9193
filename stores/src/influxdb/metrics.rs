//! Figures of the InfluxDB store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// What was sent and what came of it. Counted per request.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests that were answered or not.
    pub requests: Counter,
    /// Requests that the server did not take.
    pub failures: Counter,
    /// Lines that the server took; one that was written again counts again.
    pub lines: Counter,
    /// Bytes of those lines.
    pub line_bytes: Counter,
    /// Bytes of those lines as they went over the wire.
    pub sent_bytes: Counter,
    /// Writes that were refused before anything was sent: type, name, retention.
    pub refused: Counter,
}

impl Metrics {
    /// Puts them into a registry, under `weir_influxdb_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_influxdb");
        r.register("requests", "Requests made to write lines", self.requests.clone());
        r.register("failures", "Requests that the server did not take", self.failures.clone());
        r.register("lines", "Lines that the server took", self.lines.clone());
        r.register_with_unit("lines", "Bytes of the lines that the server took", Unit::Bytes, self.line_bytes.clone());
        r.register_with_unit(
            "sent",
            "Bytes of the lines that the server took, packed",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        r.register("refused", "Writes refused before anything was sent", self.refused.clone());
    }
}
