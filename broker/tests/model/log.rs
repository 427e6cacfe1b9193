//! A log in memory that survives the broker: a broker that starts again gets what was durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use parking_lot::Mutex;
use weir_broker::{Archive, RetainedMessage, Unreachable};

/// Topics of telemetry begin with this.
pub(crate) const TELEMETRY: &str = "devices/";

#[derive(Default)]
pub(crate) struct Log(Mutex<State>);

#[derive(Default)]
struct State {
    /// Retained messages and the broker's own records, each with its ticket.
    kept: Vec<(u64, RetainedMessage)>,
    last: u64,
    durable: u64,
    /// Nothing becomes durable.
    is_held: bool,
    wakers: Vec<Waker>,
}

impl Log {
    /// From now on nothing becomes durable, until `release`.
    pub(crate) fn hold(&self) {
        self.0.lock().is_held = true;
    }

    pub(crate) fn release(&self) {
        let mut state = self.0.lock();
        state.is_held = false;
        state.durable = state.last;
        state.wakers.drain(..).for_each(Waker::wake);
    }

    /// The log after a crash: records that were not durable are gone.
    pub(crate) fn after_crash(&self) -> Self {
        let state = self.0.lock();
        let kept = state.kept.iter().filter(|(ticket, _)| *ticket <= state.durable).cloned().collect();
        let last = state.durable;
        Self(Mutex::new(State { kept, last, durable: last, ..State::default() }))
    }

    /// Sessions that the next start would find.
    pub(crate) fn sessions(&self) -> usize {
        self.retained().iter().filter(|record| record.topic.starts_with("$weir/sessions/")).count()
    }

    /// The last record of each topic.
    pub(crate) fn retained(&self) -> Vec<RetainedMessage> {
        self.retained_to(u64::MAX)
    }

    /// The last durable record of each topic.
    fn durable(&self) -> Vec<RetainedMessage> {
        let durable = self.0.lock().durable;
        self.retained_to(durable)
    }

    fn retained_to(&self, ticket: u64) -> Vec<RetainedMessage> {
        let mut last = BTreeMap::new();
        for (_, message) in self.0.lock().kept.iter().filter(|(of, _)| *of <= ticket) {
            last.insert((Arc::clone(&message.tenant), message.topic.clone()), message.clone());
        }
        last.into_values().filter(|message| !message.payload.is_empty()).collect()
    }
}

/// As an archive, it has what is durable, and the next start keeps only the ids of it.
#[async_trait]
impl Archive for Log {
    async fn holds(&self, _: &Arc<str>, topics: &[String]) -> Result<Vec<bool>, Unreachable> {
        let held: BTreeSet<String> = self.durable().into_iter().map(|message| message.topic).collect();
        Ok(topics.iter().map(|topic| held.contains(topic)).collect())
    }

    async fn read(
        &self,
        _: &Arc<str>,
        topics: &[String],
        _: usize,
    ) -> Result<Vec<Option<RetainedMessage>>, Unreachable> {
        let mut held: BTreeMap<String, RetainedMessage> =
            self.durable().into_iter().map(|message| (message.topic.clone(), message)).collect();
        // A few at a time.
        Ok(topics.iter().take(3).map(|topic| held.remove(topic)).collect())
    }
}

pub(crate) struct LogInbox(pub(crate) Arc<Log>);

pub(crate) struct LogIntake {
    log: Arc<Log>,
    tenant: Arc<str>,
    staged: Vec<RetainedMessage>,
}

impl Inbox for LogInbox {
    type Intake = LogIntake;

    fn open(&self, sender: &Sender) -> LogIntake {
        LogIntake { log: Arc::clone(&self.0), tenant: Arc::clone(&sender.tenant), staged: Vec::new() }
    }
}

impl Intake for LogIntake {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        if message.topic.starts_with(TELEMETRY) { Verdict::Staged } else { Verdict::Plain }
    }

    fn retain(&mut self, message: &Retained<'_>) {
        self.staged.push(RetainedMessage {
            tenant: Arc::clone(&self.tenant),
            topic: message.topic.to_owned(),
            payload: message.payload.to_vec(),
            qos: message.qos,
            properties: message.properties.to_vec(),
            published: model::clock::now(),
        });
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        let mut state = self.log.0.lock();
        state.last += 1;
        let ticket = state.last;
        state.kept.extend(self.staged.drain(..).map(|message| (ticket, message)));
        if state.is_held {
            state.wakers.push(cx.waker().clone());
        } else {
            state.durable = ticket;
        }
        Poll::Ready(Ok(Ticket(ticket)))
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        Ok(Ticket(self.log.0.lock().durable))
    }
}
