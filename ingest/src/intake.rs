//! The inbox of the broker, in front of the log.

use std::sync::Arc;
use std::task::{Context, Poll};

use broker::inbox::{self, Client, Failed, Inbox, Publish, Ticket, Verdict};
use buffer::frame::RetainedRef;
use buffer::{Batcher, SubmitError};
use model::Nanos;
use model::trace::{Span, Tracer};

use crate::clock::{Clock, SystemClock};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::reader::{Outcome, Reader};
use crate::routes::Routes;
use crate::rules::Rules;
use crate::traces::Traces;

/// Opens intakes: what all connections share.
#[derive(Debug, Clone)]
pub struct Door {
    rules: Rules,
    batcher: Batcher,
    clock: Arc<dyn Clock>,
    tracer: Option<Tracer>,
}

impl Door {
    /// A door into the log behind `batcher`.
    pub fn new(routes: Routes, limits: Limits, batcher: Batcher, metrics: Arc<Metrics>) -> Self {
        Self::with_rules(Rules::new(routes, limits, metrics), batcher, Arc::new(SystemClock))
    }

    /// A door that tells receive times by `clock`.
    pub fn with_rules(rules: Rules, batcher: Batcher, clock: Arc<dyn Clock>) -> Self {
        Self { rules, batcher, clock, tracer: None }
    }

    /// The same door, telling `tracer` of the messages that are traced.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }
}

impl AsRef<Rules> for Door {
    fn as_ref(&self) -> &Rules {
        &self.rules
    }
}

impl Inbox for Door {
    type Intake = Intake;

    fn open(&self, client: &Client) -> Intake {
        let mut reader = Reader::new(&self.rules, &client.tenant, &client.id);
        reader.traces = self.tracer.as_ref().map(|tracer| Box::new(Traces::new(tracer, client)));
        Intake {
            reader,
            batcher: self.batcher.clone(),
            clock: Arc::clone(&self.clock),
            turn: None,
            last_received: 0,
            last_ticket: Ticket(0),
        }
    }
}

/// See [`inbox::Intake`].
#[derive(Debug)]
pub struct Intake {
    reader: Reader,
    batcher: Batcher,
    clock: Arc<dyn Clock>,
    /// When this turn began: one look at the clock for all messages between two submits.
    turn: Option<Nanos>,
    /// No two records of a connection have one receive time.
    last_received: Nanos,
    last_ticket: Ticket,
}

impl inbox::Intake for Intake {
    fn publish(&mut self, publish: &Publish<'_>) -> Verdict {
        let received = self.receive_time();
        match self.reader.read(publish, received) {
            Outcome::Plain => Verdict::Plain,
            Outcome::Staged(readings) => {
                self.last_received += Nanos::from(readings);
                Verdict::Staged
            }
            Outcome::Refused(refusal) => {
                self.reader.quarantine(publish, received, &refusal);
                Verdict::Quarantined
            }
        }
    }

    fn traced(&mut self) -> Option<Box<Span>> {
        self.reader.traced.take()
    }

    fn answered(&mut self, span: Box<Span>) {
        if let Some(traces) = &self.reader.traces {
            traces.end(*span, self.clock.now());
        }
    }

    fn retain(&mut self, publish: &Publish<'_>) {
        let received = self.receive_time();
        self.reader.staged.retained(&RetainedRef {
            received,
            qos: publish.qos,
            topic: publish.topic,
            payload: publish.payload,
            properties: publish.properties,
        });
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        self.turn = None;
        self.reader.flush_tally();
        if self.reader.staged.count() == 0 {
            // Messages without a value: there is nothing to wait for but what was submitted before.
            return Poll::Ready(Ok(self.last_ticket));
        }
        match self.batcher.submit(&mut self.reader.staged, cx.waker()) {
            Ok(ticket) => {
                self.last_ticket = Ticket(ticket.0);
                Poll::Ready(Ok(self.last_ticket))
            }
            Err(SubmitError::Full) => Poll::Pending,
            Err(SubmitError::Failed(reason)) => Poll::Ready(Err(Failed(reason))),
        }
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        self.batcher.durable().map(|ticket| Ticket(ticket.0)).map_err(Failed)
    }
}

impl Intake {
    /// A receive time later than every one before.
    fn receive_time(&mut self) -> Nanos {
        let now = *self.turn.get_or_insert_with(|| self.clock.now());
        self.last_received = now.max(self.last_received + 1);
        self.last_received
    }
}
