//! Metrics of the InfluxDB store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// Counters of requests and lines, added to once per request.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests sent, answered or not.
    pub requests: Counter,
    /// Requests that failed.
    pub failures: Counter,
    /// Lines that the server accepted; a repeated line counts again.
    pub lines: Counter,
    /// Bytes of those lines.
    pub line_bytes: Counter,
    /// Bytes of those lines, compressed.
    pub sent_bytes: Counter,
    /// Writes that were refused before anything was sent: type, name, retention.
    pub refused: Counter,
}

impl Metrics {
    /// Adds the metrics to a registry, under `weir_influxdb_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_influxdb");
        r.register("requests", "Requests made to write lines", self.requests.clone());
        r.register("failures", "Requests that failed", self.failures.clone());
        r.register("lines", "Lines that the server accepted", self.lines.clone());
        r.register_with_unit(
            "lines",
            "Bytes of the lines that the server accepted",
            Unit::Bytes,
            self.line_bytes.clone(),
        );
        r.register_with_unit(
            "sent",
            "Bytes of the lines that the server accepted, compressed",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        r.register("refused", "Writes refused before anything was sent", self.refused.clone());
    }
}
