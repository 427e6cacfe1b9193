//! Calls as traces: a span for each call, and a child span for each of its reads from the tail and
//! the stores.
//!
//! A task-local variable holds the traced call, so that the code that reads takes no parameter for
//! it.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;
use model::Nanos;
use model::trace::{Carried, Kind, Span, TraceContext, Tracer};
use stores::contract::Result as StoreResult;
use tonic::Code;

use crate::convert::now;

/// Maximum number of reads of one call that get a span of their own: a long stream makes many.
const MOST_READS: u64 = 100;

tokio::task_local! {
    static CALL: Arc<Call>;
}

/// A traced call.
#[derive(Debug)]
pub(crate) struct Call {
    tracer: Tracer,
    context: TraceContext,
    parent: Option<[u8; 8]>,
    name: String,
    began: Nanos,
    reads: AtomicU64,
    counts: Counts,
}

/// Counts of the data that a call read.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Devices read.
    pub(crate) devices: AtomicU64,
    /// Blocks fetched from the store.
    pub(crate) blocks: AtomicU64,
    /// Rows in them.
    pub(crate) rows: AtomicU64,
    /// Rows not yet in the store.
    pub(crate) tail_rows: AtomicU64,
}

impl Call {
    /// Begins the span of a call of `path`, such as `/weir.v1.TelemetryService/ListReadings`.
    /// Returns `None` when the call is not sampled; a trace context in its headers decides that.
    pub(crate) fn begin(tracer: Option<&Tracer>, tenant: &str, path: &str, headers: &HeaderMap) -> Option<Arc<Self>> {
        let tracer = tracer?;
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let carried = text("traceparent").map(Carried::Traceparent);
        let carried = carried.or_else(|| text("uber-trace-id").map(Carried::UberTraceId));
        let (context, parent) = tracer.sampler(tenant).sample(carried, None)?;
        Some(Arc::new(Self {
            tracer: tracer.clone(),
            context,
            parent,
            name: path.trim_start_matches('/').to_owned(),
            began: now(),
            reads: AtomicU64::new(0),
            counts: Counts::default(),
        }))
    }

    /// Ends the span with this code.
    pub(crate) fn end(&self, code: Code) {
        let Counts { devices, blocks, rows, tail_rows } = &self.counts;
        let (service, method) = self.name.split_once('/').unwrap_or((&self.name, ""));
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut span = Span::new(self.context, self.parent, Cow::Owned(self.name.clone()), self.began)
            .kind(Kind::Server)
            .text("rpc.system", "grpc")
            .text("rpc.service", service)
            .text("rpc.method", method)
            .number("rpc.grpc.status_code", u64::try_from(i32::from(code)).unwrap_or(0))
            .number("weir.devices", count(devices))
            .number("weir.blocks", count(blocks))
            .number("weir.rows", count(rows))
            .number("weir.tail_rows", count(tail_rows))
            .number("weir.reads", count(&self.reads));
        span.error = (code != Code::Ok).then(|| code.description().to_owned());
        span.end = now();
        self.tracer.record(span);
    }

    /// Runs a function as part of this call.
    pub(crate) fn within<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        CALL.sync_scope(Arc::clone(self), act)
    }

    /// Runs a future as part of this call.
    pub(crate) fn during<F: Future>(self: Arc<Self>, act: F) -> impl Future<Output = F::Output> {
        CALL.scope(self, act)
    }
}

/// Awaits a read from a tail or a store, within a span if the call is traced. `count` adds the
/// result to the counts and returns its number of rows.
pub(crate) async fn reading<T>(
    name: &'static str,
    read: impl Future<Output = StoreResult<T>>,
    count: impl FnOnce(&T, &Counts) -> u64,
) -> StoreResult<T> {
    let Ok(call) = CALL.try_with(Arc::clone) else { return read.await };
    let began = now();
    let answer = read.await;
    let mut span =
        Span::new(call.tracer.child(&call.context), Some(call.context.span_id), name, began).kind(Kind::Client);
    match &answer {
        Ok(answer) => span = span.number("weir.rows", count(answer, &call.counts)),
        Err(error) => span.error = Some(error.to_string()),
    }
    span.end = now();
    if call.reads.fetch_add(1, Ordering::Relaxed) < MOST_READS {
        call.tracer.record(span);
    }
    answer
}

/// Adds to a counter of [`Counts`] and returns the amount.
pub(crate) fn add(counter: &AtomicU64, count: u64) -> u64 {
    counter.fetch_add(count, Ordering::Relaxed);
    count
}
