//! Export of spans to an OTLP collector, for example Jaeger.
//!
//! Spans are put into a bounded queue without waiting; one task sends them in batches. A collector
//! that is unavailable, slow or misconfigured costs spans, which are counted, and one warning;
//! nothing else waits for it.

mod convert;
mod export;
mod metrics;
mod queue;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use model::trace::{Sampling, Tracer};
use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};

use crate::config::Tracing;
pub(crate) use export::{Exporter, tls_differs};
pub(crate) use metrics::Metrics;
use queue::Queue;

/// Returns a tracer and the task that exports its spans; `None` when the configuration names no
/// collector. Must be called inside the runtime; connects with the first span.
///
/// # Errors
/// Names the key to change.
pub(crate) fn open(config: &Tracing, metrics: Arc<Metrics>) -> anyhow::Result<Option<(Tracer, Exporter)>> {
    if config.endpoint.is_empty() {
        return Ok(None);
    }
    let timeout = Duration::from_millis(config.timeout_ms);
    let retry = RetryPolicy::recommended();
    let mut otlp = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.endpoint)
        .with_timeout(timeout)
        .with_metadata(headers(&config.headers)?)
        .with_retry_policy(retry)
        .build()
        .with_context(|| format!("`tracing.endpoint` is {:?}", config.endpoint))?;
    let about = [KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder_empty().with_service_name(config.service_name.clone()).with_attributes(about);
    otlp.set_resource(&resource.build());
    let (queue, spans) = Queue::new(config.queue_spans, Arc::clone(&metrics));
    let tracer = Tracer::new(Arc::new(queue), sampling(config));
    Ok(Some((tracer, Exporter::new(spans, otlp, config.endpoint.clone(), timeout, metrics))))
}

fn sampling(config: &Tracing) -> Sampling {
    let set = |names: &[String]| names.iter().filter(|name| !name.is_empty()).cloned().collect();
    let (tenants, devices) = (set(&config.tenants), set(&config.devices));
    Sampling { ratio: config.ratio, tenants, devices, by_senders: config.by_senders }
}

/// Parses headers, `name=value` each.
///
/// # Errors
/// Names the header that cannot be used, without its value.
pub(crate) fn headers(texts: &[String]) -> anyhow::Result<MetadataMap> {
    let mut map = MetadataMap::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let (name, value) =
            text.split_once('=').context("`tracing.headers` contains an entry without `=`: give name=value")?;
        let name = name.trim().to_lowercase();
        let key: MetadataKey<_> =
            name.parse().map_err(|_| anyhow::anyhow!("`tracing.headers`: {name:?} cannot be the name of a header"))?;
        let value: MetadataValue<_> = value.trim().parse().map_err(|_| {
            anyhow::anyhow!(
                "`tracing.headers`: the value of {name} contains characters that are not allowed in a header"
            )
        })?;
        map.insert(key, value);
    }
    Ok(map)
}
