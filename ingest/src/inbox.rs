//! The inbox behind the doors, in front of the log.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll};

use buffer::{Account, Batcher, Notice, SubmitError, TaskId};
use door::quota::DeviceMeter;
use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use model::trace::{Span, Tracer};
use model::{Clock, Nanos, SystemClock};

use crate::decode::{Class, Refusal};
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
        ConnectionIngest {
            origin: Origin {
                client_hash: self.rules.key.client(&sender.tenant, &sender.client),
                rules: self.rules.clone(),
                tenant: Arc::clone(&sender.tenant),
                client: Arc::clone(&sender.client),
                device: sender.device.clone(),
                meter: sender.meter.clone(),
                connection: connection_number(),
                traces: self.tracer.as_ref().map(|tracer| Box::new(Traces::new(tracer, sender))),
            },
            is_traced: self.tracer.is_some(),
            reader: None,
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

/// One connection's sender, as readers of its messages know it.
#[derive(Debug)]
struct Origin {
    rules: Rules,
    tenant: Arc<str>,
    client: Arc<str>,
    device: Option<Arc<str>>,
    meter: Option<DeviceMeter>,
    client_hash: u64,
    connection: u32,
    /// None when tracing is off, and while there is a reader, which has it.
    traces: Option<Box<Traces>>,
}

impl Origin {
    /// A reader of the messages of the connection.
    fn reader(&mut self) -> Box<PayloadReader> {
        let mut reader = PayloadReader::new(&self.rules, &self.tenant, &self.client, self.device.as_ref());
        reader.connection = self.connection;
        reader.meter.clone_from(&self.meter);
        reader.traces = self.traces.take();
        Box::new(reader)
    }
}

/// One connection's way into the log.
#[derive(Debug)]
pub struct ConnectionIngest {
    origin: Origin,
    is_traced: bool,
    /// From the first message on until the connection is idle: most of what there is to a
    /// connection.
    reader: Option<Box<PayloadReader>>,
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
        let reader = self.reader.get_or_insert_with(|| self.origin.reader());
        match reader.read(message, received) {
            Outcome::Plain => Verdict::Plain,
            Outcome::Staged(readings) => {
                self.is_noted |= message.delivery.id.is_some() && readings > 0;
                self.last_received += Nanos::from(readings);
                Verdict::Staged
            }
            Outcome::Denied(refusal) => {
                reader.deny(message, received, &refusal);
                Verdict::Denied
            }
            Outcome::OverQuota(exceeded) => {
                reader.over_quota(message, received, &exceeded);
                Verdict::OverQuota(exceeded.quota)
            }
            Outcome::Refused(refusal) => {
                self.is_noted |= message.delivery.id.is_some();
                reader.keep(message, received, &refusal);
                // Subscribers get messages that cannot be read, too.
                if reader.is_quarantined() { Verdict::Held } else { Verdict::Unreadable }
            }
            Outcome::Held => {
                self.is_noted |= message.delivery.id.is_some();
                reader.keep(message, received, &Refusal::new(Class::Quarantine, model::IN_QUARANTINE));
                Verdict::Held
            }
        }
    }

    fn is_traced(&self) -> bool {
        self.is_traced
    }

    fn take_span(&mut self) -> Option<Box<Span>> {
        self.reader.as_mut()?.traced.take()
    }

    fn answered(&mut self, span: Box<Span>) {
        let traces = self.reader.as_ref().map_or(&self.origin.traces, |reader| &reader.traces);
        if let Some(traces) = traces {
            traces.end(*span, self.clock.now());
        }
    }

    fn retain(&mut self, message: &Retained<'_>) {
        let received = self.receive_time();
        self.reader.get_or_insert_with(|| self.origin.reader()).retain(message, received);
    }

    fn end_session(&mut self) -> bool {
        if self.is_noted {
            let received = self.receive_time();
            self.reader.get_or_insert_with(|| self.origin.reader()).end_session(received);
        }
        self.is_noted
    }

    fn released(&mut self, id: u64) {
        if let Ok(packet) = u16::try_from(id) {
            self.batcher.notice(Notice::Released { client: self.origin.client_hash, packet });
        }
    }

    fn was_routed(&mut self, id: u64) -> bool {
        u16::try_from(id).is_ok_and(|packet| self.batcher.was_routed(self.origin.connection, packet))
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        self.turn = None;
        let Some(reader) = &mut self.reader else { return Poll::Ready(Ok(self.last_ticket)) };
        reader.flush_tally();
        if reader.staged.count() == 0 {
            // Messages without a value wait only for what was submitted before.
            return Poll::Ready(Ok(self.last_ticket));
        }
        match self.batcher.submit_of(self.account.as_ref(), &mut reader.staged, cx.waker()) {
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

    fn rest(&mut self) {
        if let Some(mut reader) = self.reader.take_if(|reader| reader.is_idle()) {
            self.origin.traces = reader.traces.take();
        }
    }
}

impl Drop for ConnectionIngest {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.batcher.no_longer_waits(self.account.as_ref(), task);
        }
        if self.is_noted {
            let Origin { client_hash: client, connection, .. } = self.origin;
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
