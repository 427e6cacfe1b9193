//! Metrics of the log. Only the writer thread updates the histograms, once for each batch.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::frame::Frame;

/// Metrics of one log.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) records: Counter,
    pub(crate) bytes: Counter,
    pub(crate) duplicates: Counter,
    pub(crate) full: Counter,
    pub(crate) share_waits: Counter,
    pub(crate) disk_reads: Counter,
    pub(crate) blocked: Gauge,
    pub(crate) used: Gauge,
    pub(crate) spilling: Gauge,
    pub(crate) spilled: Counter,
    pub(crate) losses: Counter,
    batch: Histogram,
    append: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            records: Counter::default(),
            bytes: Counter::default(),
            duplicates: Counter::default(),
            full: Counter::default(),
            share_waits: Counter::default(),
            disk_reads: Counter::default(),
            blocked: Gauge::default(),
            used: Gauge::default(),
            spilling: Gauge::default(),
            spilled: Counter::default(),
            losses: Counter::default(),
            batch: Histogram::new(exponential_buckets(1.0, 4.0, 9)),
            append: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
        }
    }
}

impl Metrics {
    /// Registers the metrics under `weir_buffer_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_buffer");
        registry.register("records", "Records appended durably", self.records.clone());
        registry.register_with_unit("appended", "Frame bytes appended", Unit::Bytes, self.bytes.clone());
        registry.register("duplicates", "Resent records that were in the log already", self.duplicates.clone());
        registry.register("full", "Submits that had to wait for room", self.full.clone());
        registry.register(
            "share_waits",
            "Submits that had to wait because their tenant held its share of the log",
            self.share_waits.clone(),
        );
        registry.register("disk_reads", "Reads that the memory ring could not answer", self.disk_reads.clone());
        registry.register("blocked", "1 while no records are taken", self.blocked.clone());
        registry.register_with_unit("used", "Bytes of the log", Unit::Bytes, self.used.clone());
        registry.register("spilling", "1 while records go to the spill, or come from it", self.spilling.clone());
        registry.register("spilled", "Records that went to the spill", self.spilled.clone());
        registry.register(
            "losses",
            "Times that the server of the log was found to have lost data",
            self.losses.clone(),
        );
        registry.register("batch_records", "Records in one durable append", self.batch.clone());
        registry.register_with_unit("append", "Time of one durable append", Unit::Seconds, self.append.clone());
    }

    pub(crate) fn appended(&self, frame: &Frame, time: Duration) {
        self.records.inc_by(u64::from(frame.header().count));
        self.bytes.inc_by(frame.bytes().len() as u64);
        self.batch.observe(f64::from(frame.header().count));
        self.append.observe(time.as_secs_f64());
    }
}
