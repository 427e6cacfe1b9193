//! `[tracing]`

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Destination of the spans and choice of traced messages.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Tracing {
    /// gRPC port of an OTLP collector, as `http://127.0.0.1:4317` or `https://host:4317`. Empty:
    /// nothing is traced.
    pub(crate) endpoint: String,
    /// Headers of every request, as `["authorization=Bearer abc"]`.
    pub(crate) headers: Vec<String>,
    /// Name of this process in the traces.
    pub(crate) service_name: String,
    /// Share of messages and calls that are traced, from 0 to 1. One that carries a trace context
    /// that is not sampled is not traced.
    pub(crate) ratio: f64,
    /// Every message and call that carries a sampled trace context is traced, beyond the ratio:
    /// for senders that you trust.
    pub(crate) by_senders: bool,
    /// Tenants whose messages are all traced.
    pub(crate) tenants: Vec<String>,
    /// Device ids of which every message is traced, whichever the tenant.
    pub(crate) devices: Vec<String>,
    /// Spans that may wait for the collector; more are dropped and counted.
    pub(crate) queue_spans: usize,
    /// Time limit of the collector for a batch, retries included, in milliseconds; then the batch
    /// is dropped.
    pub(crate) timeout_ms: u64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: Vec::new(),
            service_name: "weir".into(),
            ratio: 0.0,
            by_senders: false,
            tenants: Vec::new(),
            devices: Vec::new(),
            queue_spans: 8192,
            timeout_ms: 5_000,
        }
    }
}

impl Tracing {
    /// # Errors
    /// Names the key and what to do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let endpoint = &self.endpoint;
        let named =
            ["http://", "https://"].iter().any(|scheme| endpoint.len() > scheme.len() && endpoint.starts_with(scheme));
        anyhow::ensure!(
            endpoint.is_empty() || named,
            "`tracing.endpoint` is {endpoint:?}: give the address of an OTLP collector's gRPC port, as http://127.0.0.1:4317"
        );
        let path = endpoint.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        anyhow::ensure!(
            path.is_empty(),
            "`tracing.endpoint` is {endpoint:?}: spans are sent over gRPC, which has no path /{path}: give only scheme, \
             host and gRPC port, as http://127.0.0.1:4317"
        );
        anyhow::ensure!(
            (0.0..=1.0).contains(&self.ratio),
            "`tracing.ratio` is {}: give a share from 0 to 1, as 0.01",
            self.ratio
        );
        anyhow::ensure!(
            (1..=1 << 20).contains(&self.queue_spans),
            "`tracing.queue_spans` is {}: give 1 to {}",
            self.queue_spans,
            1 << 20
        );
        anyhow::ensure!(self.timeout_ms > 0, "`tracing.timeout_ms` is 0: give at least 1");
        crate::traces::headers(&self.headers)?;
        Ok(())
    }
}

impl fmt::Debug for Tracing {
    /// Without the headers, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing").field("endpoint", &self.endpoint).field("ratio", &self.ratio).finish_non_exhaustive()
    }
}
