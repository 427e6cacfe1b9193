//! Metrics of the API, counted per call and per message, never per reading.

use std::time::Duration;

use identity::Denied;
use identity::quota::Quota;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

/// Labels of a finished call. Bounded by the methods of the server and the codes of gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Call {
    method: String,
    code: String,
}

/// Label of a method of the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Method {
    method: String,
}

/// Reason for which a call was refused before it reached a service, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Refused {
    Missing,
    Invalid,
    Network,
    NoRole,
    Suspended,
    Unavailable,
    Permission,
    Method,
    Limit,
    Ended,
}

impl From<&Denied> for Refused {
    fn from(denied: &Denied) -> Self {
        match denied {
            Denied::Missing => Self::Missing,
            Denied::Invalid => Self::Invalid,
            Denied::Network => Self::Network,
            Denied::NoRole(_) => Self::NoRole,
            Denied::Suspended => Self::Suspended,
            Denied::Unavailable(_) => Self::Unavailable,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    reason: Refused,
}

/// Metrics of the services. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    calls: Family<Call, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
    refused: Family<Refusal, Counter>,
    limited: Family<[(&'static str, &'static str); 1], Counter>,
    pub(crate) streams_open: Gauge,
    pub(crate) rows_sent: Counter,
    pub(crate) slow_consumers: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates metrics that are all zero.
    pub fn new() -> Self {
        Self {
            calls: Family::default(),
            refused: Family::default(),
            limited: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            streams_open: Gauge::default(),
            rows_sent: Counter::default(),
            slow_consumers: Counter::default(),
        }
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("weir_api_calls", "Finished calls, by method and gRPC code", self.calls.clone());
        registry.register_with_unit(
            "weir_api_call",
            "Time from a call to the start of its answer",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "weir_api_calls_refused",
            "Calls refused or ended because of who called, by reason: the credential is Missing, Invalid, of another \
             Network, of a Suspended tenant, could not be checked (Unavailable), lacks the Permission, has reached a Limit of \
             its tenant, or Ended during the call; or there is no such Method",
            self.refused.clone(),
        );
        registry.register(
            "weir_api_limited",
            "Calls and streams refused because of a limit of their tenant, by limit",
            self.limited.clone(),
        );
        registry.register("weir_api_streams_open", "Open streams", self.streams_open.clone());
        registry.register("weir_api_rows_sent", "Readings sent in answers", self.rows_sent.clone());
        registry.register(
            "weir_api_slow_consumers",
            "Subscriptions closed because the log no longer held their next record",
            self.slow_consumers.clone(),
        );
    }

    /// Counts a call that has ended.
    pub(crate) fn ended(&self, method: &str, code: Code) {
        self.calls.get_or_create(&Call { method: method.to_owned(), code: format!("{code:?}") }).inc();
    }

    /// Counts a call that was refused.
    pub(crate) fn refused(&self, reason: Refused) {
        self.refused.get_or_create(&Refusal { reason }).inc();
    }

    /// Counts a call that was refused because of a limit.
    pub(crate) fn limited(&self, quota: Quota) {
        self.limited.get_or_create(&[("limit", quota.name())]).inc();
    }

    /// Counts the start of an answer.
    pub(crate) fn answered(&self, method: &str, after: Duration) {
        self.seconds.get_or_create(&Method { method: method.to_owned() }).observe(after.as_secs_f64());
    }
}

fn histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}
