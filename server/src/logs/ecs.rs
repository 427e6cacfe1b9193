//! Lines with the field names of the Elastic Common Schema, which Elasticsearch, Kibana and Loki
//! index without conversion.
//!
//! `error` becomes `error.message`; fields that the schema does not know get the prefix `weir.`.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::limit::Limit;

/// Version of the schema.
const VERSION: &str = "8.17.0";

/// Writes events as objects.
pub(super) struct Ecs {
    limit: Arc<Limit>,
    pid: u32,
}

impl Ecs {
    pub(super) fn new(limit: Arc<Limit>) -> Self {
        Self { limit, pid: std::process::id() }
    }

    fn line(&self, event: &Event<'_>) -> Map<String, Value> {
        let metadata = event.metadata();
        let mut fields = Fields(Map::new());
        let line = &mut fields.0;
        line.insert("@timestamp".into(), format!("{:.6}", Timestamp::now()).into());
        line.insert("log.level".into(), metadata.level().as_str().to_lowercase().into());
        line.insert("log.logger".into(), metadata.target().into());
        line.insert("ecs.version".into(), VERSION.into());
        line.insert("service.name".into(), "weir".into());
        line.insert("service.version".into(), env!("CARGO_PKG_VERSION").into());
        line.insert("process.pid".into(), self.pid.into());
        event.record(&mut fields);
        let left_out = self.limit.left_out(&metadata.callsite());
        if left_out > 0 {
            fields.0.insert("weir.left_out".into(), left_out.into());
        }
        fields.0
    }
}

impl<S, N> FormatEvent<S, N> for Ecs
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writeln!(out, "{}", Value::Object(self.line(event)))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            "message" => "message".to_owned(),
            "error" => "error.message".to_owned(),
            "trace_id" => "trace.id".to_owned(),
            "span_id" => "span.id".to_owned(),
            other => format!("weir.{other}"),
        };
        self.0.insert(name, value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, value.to_string().into());
    }
}
