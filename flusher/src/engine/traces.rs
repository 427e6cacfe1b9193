//! Spans of flushes: a flush that holds traced messages is a trace of its own, linked to them, and
//! a part of the trace of each.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use buffer::frame::{Frame, Traced};
use model::Nanos;
use model::trace::{Kind, Lost, Span, TraceContext, Tracer};

use crate::flusher::now;
use crate::status::Shared;

/// Most traced messages of one batch that have spans.
const MOST_MESSAGES: usize = 4096;
/// Most of them that the flush links to.
const MOST_LINKS: usize = 16;

/// Receives the spans. Set at most once, before the sinks run.
pub(crate) type Traces = Arc<OnceLock<Tracer>>;

/// The traced messages of a batch, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct BatchTraces {
    messages: Vec<Traced>,
    left_out: u64,
}

impl BatchTraces {
    /// Adds the traced messages of a frame whose readings lie in `from..to`.
    pub(crate) fn take(&mut self, frame: &Frame, from: u64, to: u64) {
        for message in frame.traced().filter(|message| message.last >= from && message.first < to) {
            if self.messages.len() < MOST_MESSAGES {
                self.messages.push(message);
            } else {
                self.left_out += 1;
            }
        }
    }
}

/// Counts of retries and refusals since the flush began.
#[derive(Debug, Default)]
pub(crate) struct FlushFaults {
    retries: AtomicU32,
    refused: AtomicU32,
}

impl FlushFaults {
    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// A flush that holds traced messages.
pub(crate) struct Flush {
    tracer: Tracer,
    store: &'static str,
    shared: Arc<Shared>,
    batch: BatchTraces,
    context: TraceContext,
    from: u64,
    to: u64,
    began: Nanos,
    answered: Nanos,
}

impl Flush {
    /// The beginning of a flush of `from..to`; `None` when it holds no traced message.
    pub(crate) fn begin(
        traces: &Traces,
        shared: &Arc<Shared>,
        batch: BatchTraces,
        faults: &FlushFaults,
        (from, to): (u64, u64),
    ) -> Option<Self> {
        faults.retries.store(0, Ordering::Relaxed);
        faults.refused.store(0, Ordering::Relaxed);
        let tracer = traces.get().filter(|_| !batch.messages.is_empty())?.clone();
        let (store, context, began) = (shared.projection.store?, tracer.root(), now());
        Some(Self { tracer, store, shared: Arc::clone(shared), batch, context, from, to, began, answered: began })
    }

    /// The store has the whole batch.
    pub(crate) fn answered(&mut self) {
        self.answered = now();
    }

    /// The cursor has passed the batch.
    pub(crate) fn end(self, faults: &FlushFaults) {
        let tracer = &self.tracer;
        tracer.lost(Lost::BatchLimit, self.batch.left_out);
        for message in &self.batch.messages {
            let context = tracer.child(&message.context);
            let mut span = self.span("store", context, Some(message.context.span_id), faults).kind(Kind::Client);
            span.end = self.answered;
            span.links.push(self.context);
            tracer.record(span.number("weir.offset", message.first));
        }
        let context = tracer.child(&self.context);
        let mut write = self.span("write", context, Some(self.context.span_id), faults).kind(Kind::Client);
        write.end = self.answered;
        tracer.record(write);
        let traced = self.batch.messages.len() as u64 + self.batch.left_out;
        let mut flush = self.span("flush", self.context, None, faults).number("weir.traced", traced);
        flush.end = now();
        flush.links = self.batch.messages.iter().take(MOST_LINKS).map(|message| message.context).collect();
        tracer.record(flush);
    }

    fn span(&self, what: &str, context: TraceContext, parent: Option<[u8; 8]>, faults: &FlushFaults) -> Span {
        let count = |counter: &AtomicU32| u64::from(counter.load(Ordering::Relaxed));
        let (refused, retries) = (count(&faults.refused), count(&faults.retries));
        let name = Cow::Owned(format!("{what} {}", self.shared.projection.name));
        let mut span = Span::new(context, parent, name, self.began)
            .text("store", self.store)
            .text("weir.log", &self.shared.log)
            .number("weir.offset.from", self.from)
            .number("weir.offset.to", self.to)
            .text("weir.verdict", if refused == 0 { "done" } else { "refused_some" });
        // Left out where nothing happened, which is usual.
        for (name, count) in [("weir.refused", refused), ("weir.retries", retries)] {
            if count > 0 {
                span = span.number(name, count);
            }
        }
        span
    }
}
