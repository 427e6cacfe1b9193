//! Metrics of the embedded store.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the embedded store.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Blocks written.
    pub blocks: Counter,
    /// Readings written.
    pub readings: Counter,
    /// Encoded bytes written.
    pub bytes: Counter,
    /// Blocks that were stored already.
    pub repeated: Counter,
    /// Blocks merged into larger ones.
    pub merged: Counter,
    /// Blocks read.
    pub fetched: Counter,
    /// Partition files.
    pub partitions: Gauge,
}

impl Metrics {
    /// Adds the metrics to a registry, under `weir_store_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_store");
        r.register("blocks", "Blocks written", self.blocks.clone());
        r.register("readings", "Readings written", self.readings.clone());
        r.register_with_unit("written", "Encoded bytes written", Unit::Bytes, self.bytes.clone());
        r.register("repeated_blocks", "Blocks that were stored already", self.repeated.clone());
        r.register("merged_blocks", "Blocks merged into larger ones", self.merged.clone());
        r.register("fetched_blocks", "Blocks read", self.fetched.clone());
        r.register("partitions", "Partition files", self.partitions.clone());
    }
}
