//! Sessions, which outlive connections: subscriptions, queued messages, packet ids of QoS 2.
//!
//! Locks are taken in this order: a tenant's sessions, one session's state, the trie. With the trie
//! held, no state is taken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;
use std::time::Instant;

use model::Held;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::message::Message;
use crate::retained::Walk;
use crate::takeovers::TakeoverPace;
use crate::will::{LastWill, Settled};

/// Bytes of topics, payloads and properties that may be queued for one subscriber.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Bytes of a place in a queue, without the message, which several queues may share.
const PLACE_BYTES: usize = 64;

/// A message in one subscriber's queue.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
}

/// The way to signal the connection that owns a session.
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

    /// Signals the connection and wakes it.
    pub(crate) fn signal(&self, signal: u8) {
        self.remember(signal);
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Signals the connection without waking it: its next turn comes anyway.
    pub(crate) fn remember(&self, signal: u8) {
        self.signals.fetch_or(signal, Ordering::Release);
    }

    /// Returns the signals since the last call.
    pub(crate) fn take(&self) -> u8 {
        if self.signals.load(Ordering::Relaxed) == 0 { 0 } else { self.signals.swap(0, Ordering::Acquire) }
    }

    /// Wakes `waker` from now on.
    pub(crate) fn listen(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
        self.remember(Self::ATTENTION);
    }
}

/// The state of a QoS 2 message whose PUBREL has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// On its way into the log; the connection of this number waits for it.
    Staged(u64),
    /// Durable.
    Stored,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The connection that owns it.
    pub(crate) link: Option<Arc<Link>>,
    /// The session has ended and accepts no more messages.
    over: bool,
    pub(crate) queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// Memory of the places in the queue; None when the session has ended.
    places: Option<Held>,
    /// QoS 1 messages that the client has not acknowledged, in order.
    pub(crate) in_flight: VecDeque<(u16, Queued)>,
    /// Messages at the front of `in_flight` that the present connection has sent; the rest are sent
    /// before the queue, marked DUP.
    pub(crate) on_the_wire: usize,
    last_id: u16,
    /// QoS 2 messages from the client that it has not released.
    pub(crate) unreleased: BTreeMap<u16, Receipt>,
    pub(crate) subscriptions: BTreeSet<String>,
    /// Subscriptions whose retained messages have not all been queued, by filter.
    pub(crate) walks: BTreeMap<Box<str>, Walk>,
    pub(crate) expiry_secs: u32,
    /// End of a session that no connection owns.
    pub(crate) expires: Option<Instant>,
    /// Cancelled when the credential of its last connection is revoked or expires.
    pub(crate) ended: Option<CancellationToken>,
    /// Takeovers of the session.
    pub(crate) takeovers: TakeoverPace,
    /// Will message of the connection that owns the session. DISCONNECT removes it.
    pub(crate) last_will: Option<Box<LastWill>>,
    /// Publication of the will message before.
    pub(crate) publishing: Option<Settled>,
    /// Pending delayed will. Sending on the channel cancels it; dropping the sender publishes it
    /// now.
    pub(crate) will: Option<oneshot::Sender<()>>,
}

impl State {
    /// Returns the next free packet id.
    pub(crate) fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|(id, _)| *id != self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Removes the message at the front of the queue.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queued_bytes -= queued.message.bytes();
        if let Some(places) = &mut self.places {
            places.shrink(PLACE_BYTES);
        }
        Some(queued)
    }

    /// Removes the message with this packet id from those in flight.
    pub(crate) fn acknowledged(&mut self, packet_id: u16) {
        let sent = self.in_flight.iter().take(self.on_the_wire);
        if let Some(at) = sent.into_iter().position(|(id, _)| *id == packet_id) {
            self.in_flight.remove(at);
            self.on_the_wire -= 1;
        }
    }

    /// True when nothing of the session is left for the next connection.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let is_revoked = self.ended.as_ref().is_some_and(CancellationToken::is_cancelled);
        is_revoked || self.expires.is_some_and(|at| at <= now)
    }

    /// Ends the session and returns its subscriptions.
    pub(crate) fn end(&mut self) -> BTreeSet<String> {
        let before = std::mem::take(self);
        self.over = true;
        before.subscriptions
    }
}

/// The outcome of queueing a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    Queued,
    Full,
    /// The memory for sessions is used up.
    NoMemory,
    Offline,
    /// The session has ended.
    Over,
}

impl Session {
    /// A new session whose queue has its places in `memory`.
    pub(crate) fn new(client: Arc<str>, link: Arc<Link>, expiry_secs: u32, memory: Held) -> Self {
        let state = State { link: Some(link), expiry_secs, places: Some(memory), ..State::default() };
        Self { client, state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the state, if the connection behind `link` owns the session.
    pub(crate) fn owned_by(&self, link: &Arc<Link>) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        let own = state.link.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, link));
        own.then_some(state)
    }

    /// Queues a message without waiting: a slow subscriber slows no publisher.
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
            if state.places.as_mut().is_some_and(|places| places.grow(PLACE_BYTES).is_err()) {
                return Push::NoMemory;
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

    /// Signals the connection that owns the session, if there is one.
    pub(crate) fn signal(&self, signal: u8) {
        let link = self.state.lock().link.clone();
        if let Some(link) = link {
            link.signal(signal);
        }
    }

    /// Ends the wait of connection `number` for a QoS 2 message: its packet id is kept when the
    /// message is durable, and released otherwise. If another connection owns the session by now,
    /// that one is woken: the client may have sent the message again.
    pub(crate) fn end_receipt(&self, packet_id: u16, number: u64, keep: bool, link: &Arc<Link>) {
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
