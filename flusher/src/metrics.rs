//! Metrics of the sinks. Touched per batch, never per reading.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::Projections;
use crate::status::{SinkState, SinkStatus};

/// The sink that a figure belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SinkLabel {
    sink: Name,
}

/// The meaning of a store's answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct AnswerLabel {
    sink: Name,
    /// `done`, `retry`, `pause`, `halt`, `split` or `again`.
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name(Arc<str>);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(&self.0)
    }
}

impl SinkLabel {
    pub(crate) fn new(sink: &Arc<str>) -> Self {
        Self { sink: Name(Arc::clone(sink)) }
    }
}

impl AnswerLabel {
    pub(crate) fn new(sink: &Arc<str>, verdict: &'static str) -> Self {
        Self { sink: Name(Arc::clone(sink)), verdict }
    }
}

/// Counters and gauges of all sinks.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) lag_records: Family<SinkLabel, Gauge>,
    pub(crate) lag_seconds: Family<SinkLabel, Gauge<f64, AtomicU64>>,
    pub(crate) lag_bytes: Family<SinkLabel, Gauge>,
    pub(crate) flush: Family<SinkLabel, Histogram, fn() -> Histogram>,
    pub(crate) items: Family<SinkLabel, Counter>,
    pub(crate) records: Family<SinkLabel, Counter>,
    pub(crate) merged: Family<SinkLabel, Counter>,
    pub(crate) refused: Family<SinkLabel, Counter>,
    pub(crate) answers: Family<AnswerLabel, Counter>,
    pub(crate) waits: Family<SinkLabel, Counter>,
    pub(crate) paused: Family<SinkLabel, Gauge>,
    pub(crate) unflushed_records: Family<SinkLabel, Gauge>,
    pub(crate) unflushed_bytes: Family<SinkLabel, Gauge>,
    pub(crate) log_tails: Counter,
    pub(crate) names_left_out: Counter,
    pub(crate) expired: Counter,
    pub(crate) letters_trimmed: Counter,
}

fn flush_histogram() -> Histogram {
    Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            lag_records: Family::default(),
            lag_seconds: Family::default(),
            lag_bytes: Family::default(),
            flush: Family::new_with_constructor(flush_histogram as fn() -> Histogram),
            items: Family::default(),
            records: Family::default(),
            merged: Family::default(),
            refused: Family::default(),
            answers: Family::default(),
            waits: Family::default(),
            paused: Family::default(),
            unflushed_records: Family::default(),
            unflushed_bytes: Family::default(),
            log_tails: Counter::default(),
            names_left_out: Counter::default(),
            expired: Counter::default(),
            letters_trimmed: Counter::default(),
        }
    }
}

impl Metrics {
    /// Dead letters deleted because the store held too many.
    pub fn letters_deleted(&self) -> u64 {
        self.letters_trimmed.get()
    }

    /// Makes them part of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("weir_flusher");
        registry.register("lag_records", "Records not durable in the store, by sink", self.lag_records.clone());
        registry.register_with_unit(
            "lag",
            "Age of the oldest record not durable in the store, by sink",
            Unit::Seconds,
            self.lag_seconds.clone(),
        );
        registry.register_with_unit(
            "lag",
            "Bytes of the frames not durable in the store, by sink",
            Unit::Bytes,
            self.lag_bytes.clone(),
        );
        registry.register_with_unit("flush", "Time to write one batch", Unit::Seconds, self.flush.clone());
        registry.register("items", "Blocks, states, letters or messages written", self.items.clone());
        registry.register("records", "Records passed", self.records.clone());
        registry.register("merged", "Readings equal to one that is stored already", self.merged.clone());
        registry.register("refused", "Items that the store refused for good", self.refused.clone());
        registry.register("answers", "Answers of the store, by verdict", self.answers.clone());
        registry.register("waits", "Waits before a write was tried again", self.waits.clone());
        registry.register("paused", "1 while the sink is paused: an operator has to act", self.paused.clone());
        registry.register(
            "unflushed_records",
            "Records that the sink has taken and not delivered",
            self.unflushed_records.clone(),
        );
        registry.register_with_unit(
            "unflushed",
            "Memory of the records that the sink has taken and not delivered",
            Unit::Bytes,
            self.unflushed_bytes.clone(),
        );
        registry.register(
            "log_tails",
            "Queries that had to read unflushed readings from the log",
            self.log_tails.clone(),
        );
        registry.register(
            "names_left_out",
            "Value names left out of the latest states, of devices with more than `latest.max_names`",
            self.names_left_out.clone(),
        );
        registry.register("expired", "Readings deleted by retention", self.expired.clone());
        registry.register(
            "dead_letters_deleted",
            "Dead letters deleted because the store held too many",
            self.letters_trimmed.clone(),
        );
    }

    /// Starts the counters of a sink at zero, so that its first event is a change.
    pub(crate) fn begin(&self, sink: &Arc<str>) {
        let label = SinkLabel::new(sink);
        for family in [&self.items, &self.records, &self.merged, &self.refused, &self.waits] {
            drop(family.get_or_create(&label));
        }
        drop(self.flush.get_or_create(&label));
        for verdict in ["done", "retry", "pause", "halt", "split", "again"] {
            drop(self.answers.get_or_create(&AnswerLabel::new(sink, verdict)));
        }
    }

    /// Sets the gauges that are computed on demand. Several logs add up; the oldest age counts.
    pub(crate) fn observe(&self, projections: &Projections, statuses: &[SinkStatus]) {
        for projection in projections.iter() {
            let label = SinkLabel::new(&projection.name);
            let of_sink = || statuses.iter().filter(|s| s.sink == projection.name);
            let records: u64 = of_sink().map(|s| s.lag_records).sum();
            self.lag_records.get_or_create(&label).set(signed(records));
            self.lag_bytes.get_or_create(&label).set(signed(of_sink().map(|s| s.lag_bytes).sum()));
            self.lag_seconds.get_or_create(&label).set(of_sink().map(|s| s.lag_seconds).fold(0.0, f64::max));
            let paused = of_sink().filter(|s| !s.paused && matches!(s.state, SinkState::Paused { .. })).count();
            self.paused.get_or_create(&label).set(i64::from(paused > 0));
        }
    }
}

/// The value for a gauge.
pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
