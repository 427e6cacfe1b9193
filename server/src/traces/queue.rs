//! The queue of spans before their export.

use std::sync::Arc;

use model::trace::{Lost, Recorder, Span};
use tokio::sync::mpsc;

use super::metrics::{Dropped, Metrics};

/// The end that spans are put into.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// Returns a queue with this room, and its other end.
    pub(super) fn new(room: usize, metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Span>) {
        let (spans, out) = mpsc::channel(room.max(1));
        (Self { spans, metrics }, out)
    }
}

impl Recorder for Queue {
    fn record(&self, span: Span) {
        match self.spans.try_send(span) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => drop(self.metrics.dropped(Dropped::QueueFull).inc()),
            Err(mpsc::error::TrySendError::Closed(_)) => drop(self.metrics.dropped(Dropped::Stopping).inc()),
        }
    }

    fn lost(&self, why: Lost, count: u64) {
        let why = match why {
            Lost::BatchLimit => Dropped::BatchLimit,
        };
        self.metrics.dropped(why).inc_by(count);
    }
}

#[cfg(test)]
impl Queue {
    /// True when every span was taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.spans.capacity() == self.spans.max_capacity()
    }
}
