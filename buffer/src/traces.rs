//! Spans of appends.

use std::time::Duration;

use model::Nanos;
use model::trace::{Span, Tracer};

use crate::frame::Frame;
use crate::log::now;

/// A durable frame with traced messages.
#[derive(Debug)]
pub(crate) struct Appended {
    frame: Frame,
    writing: Duration,
    spilled: bool,
    at: Nanos,
}

impl Appended {
    /// Creates the value for a frame that is durable now and whose write took `writing`.
    pub(crate) fn now(frame: &Frame, writing: Duration, spilled: bool) -> Self {
        Self { frame: frame.clone(), writing, spilled, at: now() }
    }
}

/// Records spans of the appends to one log.
#[derive(Debug)]
pub(crate) struct Appends {
    tracer: Tracer,
    log: String,
}

impl Appends {
    pub(crate) fn new(tracer: Tracer, log: &str) -> Self {
        Self { tracer, log: log.to_owned() }
    }

    /// A span for each traced message of a frame, from its receipt until it was durable.
    pub(crate) fn tell(&self, appended: &Appended) {
        for message in appended.frame.traced() {
            let context = self.tracer.child(&message.context);
            let mut span = Span::new(context, Some(message.context.span_id), "append", message.received)
                .text("weir.log", if appended.spilled { "spill" } else { &self.log })
                .number("weir.offset", message.first)
                .number("weir.readings", message.last - message.first + 1)
                .number("weir.frame.records", u64::from(appended.frame.header().count))
                .number("weir.write.us", u64::try_from(appended.writing.as_micros()).unwrap_or(u64::MAX));
            span.end = appended.at;
            self.tracer.record(span);
        }
    }
}
