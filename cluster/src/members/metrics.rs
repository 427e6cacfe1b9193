//! Metrics of calls to other processes.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of the calls about one pool.
#[derive(Debug, Default)]
pub struct Metrics {
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Returns the counter of addresses of other processes that are not called, for a reason of a
    /// bounded set.
    pub fn peers_refused(&self, reason: &'static str) -> Counter {
        self.refused.get_or_create_owned(&[("reason", reason)])
    }

    /// Makes them part of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        // Calls about the logs of a pool go to its flushers.
        registry.sub_registry_with_prefix("weir_flusher").register(
            "peers_refused",
            "Addresses of other processes that were not called, by reason",
            self.refused.clone(),
        );
    }
}
