//! What outlives a connection: subscriptions, messages that wait for the subscriber, packet ids of QoS 2.
//!
//! Locks are taken in this order: all sessions, one session's state, the trie. Nobody who holds the trie takes a state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::message::Message;

/// Bytes of messages that may wait for one subscriber: topics, payloads and properties.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// A message for one subscriber.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
}

/// How others reach the connection that owns a session.
#[derive(Debug, Default)]
pub(crate) struct Link {
    signals: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Link {
    /// The session has something for the connection.
    pub(crate) const ATTENTION: u8 = 1;
    /// Another connection owns the session now.
    pub(crate) const TAKEN_OVER: u8 = 2;
    /// The process stops.
    pub(crate) const STOP: u8 = 4;

    /// Tells the connection to look.
    pub(crate) fn signal(&self, signal: u8) {
        self.remember(signal);
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Lets the connection look at its next turn, which it takes anyway.
    pub(crate) fn remember(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::Release);
    }

    /// What was told since the last call.
    pub(crate) fn take(&self) -> u8 {
        if self.signals.load(Ordering::Relaxed) == 0 { 0 } else { self.signals.swap(0, Ordering::Acquire) }
    }

    /// Calls `waker` from now on.
    pub(crate) fn listen(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
        self.remember(Self::ATTENTION);
    }
}

/// Where a QoS 2 message is whose PUBREL has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// On its way into the log; connection number so-and-so waits for it.
    Staged(u64),
    /// Durable.
    Stored,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The connection that owns it.
    pub(crate) link: Option<Arc<Link>>,
    /// It has ended: nothing goes in any more.
    over: bool,
    pub(crate) queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// Messages at QoS 1 that the client has not acknowledged, in order.
    pub(crate) in_flight: VecDeque<(u16, Queued)>,
    /// How many at the front of `in_flight` the present connection has sent; the others go first, marked DUP.
    pub(crate) on_the_wire: usize,
    last_id: u16,
    /// QoS 2 messages from the client that it has not released.
    pub(crate) unreleased: BTreeMap<u16, Receipt>,
    pub(crate) subscriptions: BTreeSet<String>,
    pub(crate) expiry_secs: u32,
    /// When it ends, while nobody owns it.
    pub(crate) expires: Option<Instant>,
    /// A will that waits: a word takes it back, the end of the sender publishes it.
    pub(crate) will: Option<oneshot::Sender<()>>,
}

impl State {
    /// The next packet id that is free.
    pub(crate) fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|(id, _)| *id != self.last_id) {
                return self.last_id;
            }
        }
    }

    /// The message that waits longest.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queued_bytes -= queued.message.bytes();
        Some(queued)
    }

    /// Takes the message with this packet id out of those in flight.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) {
        let sent = self.in_flight.iter().take(self.on_the_wire);
        if let Some(at) = sent.into_iter().position(|(id, _)| *id == packet_id) {
            self.in_flight.remove(at);
            self.on_the_wire -= 1;
        }
    }

    /// True when it has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Ends it. Returns the subscriptions that it had.
    pub(crate) fn end(&mut self) -> BTreeSet<String> {
        let before = std::mem::take(self);
        self.over = true;
        before.subscriptions
    }
}

/// What became of a message for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    Queued,
    Full,
    Offline,
    /// The session has ended meanwhile.
    Over,
}

impl Session {
    pub(crate) fn new(client: Arc<str>, link: Arc<Link>, expiry_secs: u32) -> Self {
        let state = State { link: Some(link), expiry_secs, ..State::default() };
        Self { client, state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The state, for the connection that owns the session; none when another does.
    pub(crate) fn owned_by(&self, link: &Arc<Link>) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        let own = state.link.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, link));
        own.then_some(state)
    }

    /// Puts a message into the queue, never waiting: a slow subscriber slows nobody.
    pub(crate) fn push(&self, queued: Queued, capacity: usize) -> Push {
        let link = {
            let mut state = self.state.lock();
            if state.over {
                return Push::Over;
            }
            if state.link.is_none() && queued.qos == 0 {
                return Push::Offline;
            }
            let bytes = state.queued_bytes + queued.message.bytes();
            if state.queue.len() >= capacity || bytes > MAX_QUEUED_BYTES {
                return Push::Full;
            }
            state.queued_bytes = bytes;
            state.queue.push_back(queued);
            state.link.clone()
        };
        if let Some(link) = link {
            link.signal(Link::ATTENTION);
        }
        Push::Queued
    }

    /// Tells the connection that owns it, when one does.
    pub(crate) fn signal(&self, signal: u8) {
        let link = self.state.lock().link.clone();
        if let Some(link) = link {
            link.signal(signal);
        }
    }

    /// A QoS 2 message that connection `number` staged is durable, or is not going to be; its packet id is kept, or not. When
    /// another connection than the one behind `link` owns the session by now, the client may have sent it again there.
    pub(crate) fn settle(&self, packet_id: u16, number: u64, keep: bool, link: &Arc<Link>) {
        let owner = {
            let mut state = self.state.lock();
            if state.unreleased.get(&packet_id) != Some(&Receipt::Staged(number)) {
                return;
            }
            if keep {
                state.unreleased.insert(packet_id, Receipt::Stored);
            } else {
                state.unreleased.remove(&packet_id);
            }
            state.link.clone()
        };
        if let Some(owner) = owner.filter(|owner| !Arc::ptr_eq(owner, link)) {
            owner.signal(Link::ATTENTION);
        }
    }
}
