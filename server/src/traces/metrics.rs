//! Counts of exported and dropped spans.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Reasons for which a span is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The queue was full.
    QueueFull,
    /// One flush contained more traced messages than are recorded.
    BatchLimit,
    /// The collector did not accept it.
    Unavailable,
    /// It was not sent when the process stopped.
    Stopping,
}

impl Dropped {
    const ALL: [Self; 4] = [Self::QueueFull, Self::BatchLimit, Self::Unavailable, Self::Stopping];

    fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::BatchLimit => "batch_limit",
            Self::Unavailable => "unavailable",
            Self::Stopping => "stopping",
        }
    }
}

/// Figures of spans.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) exported: Counter,
    dropped: Family<[(&'static str, &'static str); 1], Counter>,
    /// The counters of `dropped`, in the order of [`Dropped::ALL`].
    by_reason: [Counter; 4],
}

impl Default for Metrics {
    fn default() -> Self {
        let dropped = Family::<[(&str, &str); 1], Counter>::default();
        let by_reason = Dropped::ALL.map(|why| dropped.get_or_create_owned(&[("reason", why.name())]));
        Self { exported: Counter::default(), dropped, by_reason }
    }
}

impl Metrics {
    /// Puts them into a registry, under `weir_trace_…`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_trace");
        r.register("spans_exported", "Spans that the collector accepted", self.exported.clone());
        r.register("spans_dropped", "Spans that reached no collector, by reason", self.dropped.clone());
    }

    /// Counter of the spans dropped for a reason.
    pub(crate) fn dropped(&self, why: Dropped) -> &Counter {
        &self.by_reason[why as usize]
    }
}
