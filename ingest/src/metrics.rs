//! What came in, by what became of it.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Figures of the way from payloads to readings.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Messages read.
    pub messages: Counter,
    /// Readings staged.
    pub readings: Counter,
    /// Readings without a value.
    pub empty: Counter,
    /// Messages that could not be read.
    pub dead_letters: Counter,
    /// Messages that no route takes.
    pub plain: Counter,
    /// Readings whose device time lies too far ahead.
    pub clock_ahead: Counter,
}

impl Metrics {
    /// Puts them into a registry, under `weir_ingest_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_ingest");
        r.register("messages", "Telemetry messages read", self.messages.clone());
        r.register("readings", "Readings staged for the log", self.readings.clone());
        r.register("empty", "Readings that held no value", self.empty.clone());
        r.register("dead_letters", "Messages that could not be read", self.dead_letters.clone());
        r.register("plain", "Messages that no route takes", self.plain.clone());
        r.register("clock_ahead", "Readings whose device time was too far ahead", self.clock_ahead.clone());
    }
}
