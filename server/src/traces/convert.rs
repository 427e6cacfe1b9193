//! Conversion of spans to those of OpenTelemetry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::trace::{Kind, Span, TraceContext};
use model::{Nanos, Value};
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// Converts a span.
pub(super) fn span(span: Span, scope: &InstrumentationScope) -> SpanData {
    let mut links = SpanLinks::default();
    links.links = span.links.iter().map(|to| Link::new(context(to), Vec::new(), 0)).collect();
    SpanData {
        span_context: context(&span.context),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: matches!(span.kind, Kind::Server | Kind::Consumer),
        span_kind: match span.kind {
            Kind::Internal => SpanKind::Internal,
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
            Kind::Consumer => SpanKind::Consumer,
        },
        name: span.name,
        start_time: time(span.start),
        end_time: time(span.end.max(span.start)),
        attributes: span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, attribute(value))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn context(context: &TraceContext) -> SpanContext {
    let (trace, span) = (TraceId::from_bytes(context.trace_id), SpanId::from_bytes(context.span_id));
    SpanContext::new(trace, span, TraceFlags::new(context.flags), false, TraceState::NONE)
}

fn attribute(value: Value) -> opentelemetry::Value {
    match value {
        Value::Float(v) => v.into(),
        Value::Int(v) => v.into(),
        Value::Bool(v) => v.into(),
        Value::Str(v) => String::from(v).into(),
    }
}

/// Times before 1970 become 1970.
fn time(at: Nanos) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(at).unwrap_or(0))
}
