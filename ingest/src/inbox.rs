//! The inbox behind the doors, in front of the log.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll};

use buffer::{Account, Batcher, Notice, SubmitError, TaskId};
use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use model::trace::{Span, Tracer};
use model::{Clock, Nanos, SystemClock};

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::reader::{Outcome, PayloadReader};
use crate::routes::Routes;
use crate::rules::Rules;
use crate::traces::Traces;

/// Opens a way into the log for each connection, and holds the parts that all connections share.
#[derive(Debug, Clone)]
pub struct TelemetryInbox {
    rules: Rules,
    batcher: Batcher,
    clock: Arc<dyn Clock>,
    tracer: Option<Tracer>,
}

impl TelemetryInbox {
    /// An inbox in front of the log behind `batcher`.
    pub fn new(routes: Routes, limits: Limits, batcher: Batcher, metrics: Arc<Metrics>) -> Self {
        Self::with_rules(Rules::new(routes, limits, metrics), batcher, Arc::new(SystemClock))
    }

    /// An inbox that takes receive times from `clock`.
    pub fn with_rules(rules: Rules, batcher: Batcher, clock: Arc<dyn Clock>) -> Self {
        Self { rules: rules.keyed(batcher.key()), batcher, clock, tracer: None }
    }

    /// The same inbox, recording the spans of traced messages with `tracer`.
    #[must_use]
    pub fn traced(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }
}

impl AsRef<Rules> for TelemetryInbox {
    fn as_ref(&self) -> &Rules {
        &self.rules
    }
}

impl Inbox for TelemetryInbox {
    type Intake = ConnectionIngest;

    fn open(&self, sender: &Sender) -> ConnectionIngest {
        let mut reader = PayloadReader::new(&self.rules, &sender.tenant, &sender.client, sender.device.as_ref());
        reader.connection = connection_number();
        reader.meter.clone_from(&sender.meter);
        reader.traces = self.tracer.as_ref().map(|tracer| Box::new(Traces::new(tracer, sender)));
        ConnectionIngest {
            reader,
            account: self.batcher.account(&sender.tenant),
            batcher: self.batcher.clone(),
            clock: Arc::clone(&self.clock),
            turn: None,
            last_received: 0,
            last_ticket: Ticket(0),
            is_noted: false,
            task: None,
        }
    }
}

/// Returns a random number: no two connections of a client have the same, whichever nodes they are
/// to.
fn connection_number() -> u32 {
    (RandomState::new().hash_one(0_u8) >> 32) as u32
}

/// One connection's way into the log.
#[derive(Debug)]
pub struct ConnectionIngest {
    reader: PayloadReader,
    batcher: Batcher,
    /// The account of the tenant, when tenants are held to a share of the log.
    account: Option<Arc<Account>>,
    clock: Arc<dyn Clock>,
    /// Start of this turn: the clock is read once for all messages between two submits.
    turn: Option<Nanos>,
    /// No two records of a connection have the same receive time.
    last_received: Nanos,
    last_ticket: Ticket,
    /// A message was staged that the client may send again.
    is_noted: bool,
    /// The task that waited for room last.
    task: Option<TaskId>,
}

impl Intake for ConnectionIngest {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        let received = self.receive_time();
        match self.reader.read(message, received) {
            Outcome::Plain => Verdict::Plain,
            Outcome::Staged(readings) => {
                self.is_noted |= message.delivery.id.is_some() && readings > 0;
                self.last_received += Nanos::from(readings);
                Verdict::Staged
            }
            Outcome::Denied(refusal) => {
                self.reader.deny(message, received, &refusal);
                Verdict::Denied
            }
            Outcome::OverQuota(exceeded) => {
                self.reader.over_quota(message, received, &exceeded);
                Verdict::OverQuota(exceeded.quota)
            }
            Outcome::Refused(refusal) => {
                self.is_noted |= message.delivery.id.is_some();
                self.reader.quarantine(message, received, &refusal);
                Verdict::Quarantined
            }
        }
    }

    fn is_traced(&self) -> bool {
        self.reader.traces.is_some()
    }

    fn take_span(&mut self) -> Option<Box<Span>> {
        self.reader.traced.take()
    }

    fn answered(&mut self, span: Box<Span>) {
        if let Some(traces) = &self.reader.traces {
            traces.end(*span, self.clock.now());
        }
    }

    fn retain(&mut self, message: &Retained<'_>) {
        let received = self.receive_time();
        self.reader.retain(message, received);
    }

    fn end_session(&mut self) -> bool {
        if self.is_noted {
            let received = self.receive_time();
            self.reader.end_session(received);
        }
        self.is_noted
    }

    fn released(&mut self, id: u64) {
        if let Ok(packet) = u16::try_from(id) {
            self.batcher.notice(Notice::Released { client: self.reader.client_hash, packet });
        }
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        self.turn = None;
        self.reader.flush_tally();
        if self.reader.staged.count() == 0 {
            // Messages without a value wait only for what was submitted before.
            return Poll::Ready(Ok(self.last_ticket));
        }
        match self.batcher.submit_of(self.account.as_ref(), &mut self.reader.staged, cx.waker()) {
            Ok(ticket) => {
                self.last_ticket = ticket;
                Poll::Ready(Ok(ticket))
            }
            Err(SubmitError::Full) => {
                let task = TaskId::of(cx.waker());
                if let Some(before) = self.task.replace(task).filter(|before| *before != task) {
                    self.batcher.no_longer_waits(self.account.as_ref(), before);
                }
                Poll::Pending
            }
            Err(SubmitError::Failed(reason)) => Poll::Ready(Err(Failed(reason))),
        }
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        self.batcher.durable().map_err(Failed)
    }
}

impl Drop for ConnectionIngest {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.batcher.no_longer_waits(self.account.as_ref(), task);
        }
        if self.is_noted {
            let PayloadReader { client_hash: client, connection, .. } = self.reader;
            self.batcher.notice(Notice::Left { client, connection });
        }
    }
}

impl ConnectionIngest {
    /// Returns a receive time later than every one before.
    fn receive_time(&mut self) -> Nanos {
        let now = *self.turn.get_or_insert_with(|| self.clock.now());
        self.last_received = now.max(self.last_received + 1);
        self.last_received
    }
}
