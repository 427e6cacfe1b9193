//! `[tracing]`

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where spans go and what is traced.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tracing {
    pub(crate) endpoint: String,
    pub(crate) headers: Vec<String>,
    pub(crate) service_name: String,
    pub(crate) ratio: f64,
    pub(crate) tenants: Vec<String>,
    pub(crate) devices: Vec<String>,
    pub(crate) queue_spans: usize,
    pub(crate) timeout_ms: u64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: Vec::new(),
            service_name: "weir".into(),
            ratio: 0.0,
            tenants: Vec::new(),
            devices: Vec::new(),
            queue_spans: 8192,
            timeout_ms: 5_000,
        }
    }
}

impl Tracing {
    /// # Errors
    /// Says which key and what to do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let endpoint = &self.endpoint;
        let named =
            ["http://", "https://"].iter().any(|scheme| endpoint.len() > scheme.len() && endpoint.starts_with(scheme));
        anyhow::ensure!(
            endpoint.is_empty() || named,
            "`tracing.endpoint` is {endpoint:?}: give the address of an OTLP collector's gRPC port, as http://127.0.0.1:4317"
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
