//! Metrics.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The labels of a handshake.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handshake {
    port: &'static str,
    outcome: &'static str,
}

/// Metrics of all ports.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    handshakes: Family<Handshake, Counter>,
    /// Handshakes in progress.
    pub(crate) pending: Gauge,
    expiry: Family<[(&'static str, String); 1], Gauge<i64, AtomicI64>>,
    reloads: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Returns the counter of handshakes of a port, by outcome: `full`, `resumed`, or the reason of
    /// a failure, of a bounded set.
    pub fn handshakes(&self, port: &'static str, outcome: &'static str) -> Counter {
        self.handshakes.get_or_create_owned(&Handshake { port, outcome })
    }

    /// Returns the time at which the certificate of a key expires, in Unix time.
    pub fn expiry(&self, key: &str) -> i64 {
        self.expiry.get_or_create_owned(&[("key", key.to_owned())]).get()
    }

    pub(crate) fn set_expiry(&self, key: &str, at: i64) {
        self.expiry.get_or_create_owned(&[("key", key.to_owned())]).set(at);
    }

    /// Returns the counter of reloads of changed files: `loaded` or `failed`.
    pub fn reloads(&self, outcome: &'static str) -> Counter {
        self.reloads.get_or_create_owned(&[("outcome", outcome)])
    }

    /// Registers the metrics as `weir_tls_…`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("weir_tls");
        r.register("handshakes", "TLS handshakes, by port and outcome", self.handshakes.clone());
        r.register("pending_handshakes", "TLS handshakes in progress", self.pending.clone());
        r.register_with_unit(
            "certificate_expiry_timestamp",
            "Time at which the first certificate of a file to expire does so, in Unix time, by key of the configuration",
            Unit::Seconds,
            self.expiry.clone(),
        );
        r.register("reloads", "Changed certificate files, by outcome", self.reloads.clone());
    }
}
