//! The way of changes to the server: one task sends what was submitted while the last batches were
//! in flight, and sends batches again until the server has answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use buffer::redis::{AccessError, Command, Durable, Reply};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::changes::{Batch, Batches, Item};
use crate::fleet::Shared;
use crate::reply;
use crate::scripts::APPLY;

/// Bytes of items that are sent together.
const TOGETHER: usize = 1 << 20;
/// Wait before a retry: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Items that wait to be sent.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    /// Number of items that the server has applied.
    applied: watch::Sender<u64>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), applied: watch::channel(0).0 }
    }
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    /// Bytes that wait or are in flight, and those of forwarded messages.
    waiting: (usize, usize),
    wakers: Vec<Waker>,
    /// Items that were ever added.
    added: u64,
}

impl State {
    fn add(&mut self, item: Item) {
        self.items.push_back(item);
        self.added += 1;
    }
}

impl Outbox {
    pub(crate) fn push(&self, item: Item) {
        let mut state = self.state.lock();
        state.waiting.0 += item.size();
        state.add(item);
        self.filled.notify_one();
    }

    /// Waits until the server has applied what was added before.
    pub(crate) async fn flushed(&self) {
        let added = self.state.lock().added;
        // It has a sender: this outbox.
        self.applied.subscribe().wait_for(|applied| *applied >= added).await.ok();
    }

    /// Adds a message for other nodes unless as many bytes of them wait.
    pub(crate) fn forward(&self, item: Item, most: usize) -> bool {
        let (size, mut state) = (item.size(), self.state.lock());
        if state.waiting.1 + size > most {
            return false;
        }
        state.waiting.1 += size;
        state.add(item);
        self.filled.notify_one();
        true
    }

    /// Ready while fewer bytes wait.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        let mut state = self.state.lock();
        if state.waiting.0 < most {
            return Poll::Ready(());
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes items into batches, and returns how many.
    fn take(&self, batches: &mut Batches) -> u64 {
        let mut state = self.state.lock();
        let mut bytes = 0;
        let mut taken = Vec::new();
        while bytes < TOGETHER
            && let Some(item) = state.items.pop_front()
        {
            bytes += item.size();
            taken.push(item);
        }
        drop(state);
        let count = taken.len() as u64;
        for item in taken {
            batches.add(item);
        }
        batches.cut();
        count
    }

    /// Forgets bytes that are no longer on their way.
    fn sent(&self, (changes, forwarded): (usize, usize), most: usize) {
        let mut state = self.state.lock();
        state.waiting.0 -= changes;
        state.waiting.1 -= forwarded;
        let woken = if state.waiting.0 < most { std::mem::take(&mut state.wakers) } else { Vec::new() };
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Sends for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut durable = shared.access.durable();
    let mut batches = Batches::default();
    loop {
        let count = shared.outbox.take(&mut batches);
        if batches.ready.is_empty() {
            shared.outbox.filled.notified().await;
            continue;
        }
        send(&shared, &mut durable, &batches.ready).await;
        for batch in batches.ready.drain(..) {
            batch.tickets.iter().for_each(|ticket| shared.tickets.done(*ticket));
            shared.outbox.sent(batch.waiting, shared.config.max_waiting_bytes);
        }
        shared.outbox.applied.send_modify(|applied| *applied += count);
    }
}

/// Sends batches until the server has answered.
async fn send(shared: &Shared, durable: &mut Durable, batches: &[Batch]) {
    let begun = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        match send_once(shared, durable, batches).await {
            Ok(()) => break,
            Err(error) => {
                tracing::debug!("send changes of sessions: {error}");
                shared.metrics.retries.inc();
                shared.health.set_writer(Some(error.reason));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    shared.health.set_writer(None);
    shared.metrics.submit.observe(begun.elapsed().as_secs_f64());
}

async fn send_once(shared: &Shared, durable: &mut Durable, batches: &[Batch]) -> Result<(), AccessError> {
    let prefix = shared.access.prefix();
    let calls: Vec<Command> =
        batches.iter().map(|batch| batch.call(prefix, &shared.identity, &shared.config)).collect();
    let nudged = format!("{prefix}g");
    let replies = durable.send(&[&APPLY], &nudged, &calls).await?;
    replies.into_iter().try_for_each(|reply| count(shared, reply))
}

/// Counts what a batch has done.
fn count(shared: &Shared, reply: Reply) -> Result<(), AccessError> {
    let mut parts = reply::list(reply)?.into_iter();
    reply::next(&mut parts)?;
    let metrics = &shared.metrics;
    for counter in [&metrics.appended, &metrics.dropped, &metrics.lost, &metrics.undelivered] {
        counter.inc_by(reply::number(reply::next(&mut parts)?)?);
    }
    Ok(())
}
