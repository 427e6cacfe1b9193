//! What the sinks tell of traced messages: a flush that holds some is a trace of its own, linked to them, and a part of the
//! trace of each.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use buffer::frame::{Frame, Traced};
use model::Nanos;
use model::trace::{Kind, Lost, Span, TraceContext, Tracer};

use crate::flusher::now;
use crate::status::Shared;

/// Traced messages of one batch that are told of.
const MOST_MESSAGES: usize = 4096;
/// Those that its flush links to.
const MOST_LINKS: usize = 16;

/// Where the sinks tell of traced messages, and what they call the stores.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Takes the spans.
    pub tracer: Tracer,
    /// Name of the store of history and latest states.
    pub store: &'static str,
    /// Name of the store of points.
    pub points: &'static str,
}

/// Set at most once, before the sinks run.
pub(crate) type Traces = Arc<OnceLock<Tracing>>;

impl Tracing {
    /// What the spans of a sink call its store; none for a sink that holds no readings.
    fn store_of(&self, sink: &str) -> Option<&'static str> {
        match sink {
            crate::HISTORY | crate::LATEST => Some(self.store),
            crate::POINTS => Some(self.points),
            _ => None,
        }
    }
}

/// The traced messages of a batch, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    messages: Vec<Traced>,
    left_out: u64,
}

impl Carried {
    /// Adds those of a frame whose readings lie in `from..to`.
    pub(crate) fn take(&mut self, traces: &Traces, sink: &str, frame: &Frame, from: u64, to: u64) {
        if traces.get().and_then(|tracing| tracing.store_of(sink)).is_none() {
            return;
        }
        for message in frame.traced().filter(|message| message.last >= from && message.first < to) {
            if self.messages.len() < MOST_MESSAGES {
                self.messages.push(message);
            } else {
                self.left_out += 1;
            }
        }
    }
}

/// What the store did not take at once, since the flush began.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    retries: AtomicU32,
    refused: AtomicU32,
}

impl Trouble {
    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// A flush that holds traced messages.
pub(crate) struct Flush {
    tracing: Tracing,
    store: &'static str,
    shared: Arc<Shared>,
    carried: Carried,
    context: TraceContext,
    from: u64,
    to: u64,
    began: Nanos,
    answered: Nanos,
}

impl Flush {
    /// Begins to tell of a flush of `from..to`; none when it holds no traced message.
    pub(crate) fn begin(
        traces: &Traces,
        shared: &Arc<Shared>,
        carried: Carried,
        trouble: &Trouble,
        (from, to): (u64, u64),
    ) -> Option<Self> {
        trouble.retries.store(0, Ordering::Relaxed);
        trouble.refused.store(0, Ordering::Relaxed);
        let tracing = traces.get().filter(|_| !carried.messages.is_empty())?.clone();
        let store = tracing.store_of(shared.sink)?;
        let (context, began) = (tracing.tracer.root(), now());
        Some(Self { tracing, store, shared: Arc::clone(shared), carried, context, from, to, began, answered: began })
    }

    /// The store has everything.
    pub(crate) fn answered(&mut self) {
        self.answered = now();
    }

    /// The cursor has passed the batch.
    pub(crate) fn end(self, trouble: &Trouble) {
        let tracer = &self.tracing.tracer;
        tracer.lost(Lost::BatchLimit, self.carried.left_out);
        for message in &self.carried.messages {
            let context = tracer.child(&message.context);
            let mut span = self.span("store", context, Some(message.context.span_id), trouble).kind(Kind::Client);
            span.end = self.answered;
            span.links.push(self.context);
            tracer.record(span.number("weir.offset", message.first));
        }
        let context = tracer.child(&self.context);
        let mut write = self.span("write", context, Some(self.context.span_id), trouble).kind(Kind::Client);
        write.end = self.answered;
        tracer.record(write);
        let traced = self.carried.messages.len() as u64 + self.carried.left_out;
        let mut flush = self.span("flush", self.context, None, trouble).number("weir.traced", traced);
        flush.end = now();
        flush.links = self.carried.messages.iter().take(MOST_LINKS).map(|message| message.context).collect();
        tracer.record(flush);
    }

    fn span(&self, what: &str, context: TraceContext, parent: Option<[u8; 8]>, trouble: &Trouble) -> Span {
        let count = |counter: &AtomicU32| u64::from(counter.load(Ordering::Relaxed));
        let (refused, retries) = (count(&trouble.refused), count(&trouble.retries));
        let name = Cow::Owned(format!("{what} {}", self.shared.sink));
        let mut span = Span::new(context, parent, name, self.began)
            .text("store", self.store)
            .text("weir.log", &self.shared.log)
            .number("weir.offset.from", self.from)
            .number("weir.offset.to", self.to)
            .text("weir.verdict", if refused == 0 { "done" } else { "refused_some" });
        // What is usual is not said of every message.
        for (name, count) in [("weir.refused", refused), ("weir.retries", retries)] {
            if count > 0 {
                span = span.number(name, count);
            }
        }
        span
    }
}
