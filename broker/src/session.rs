//! What outlives a connection: subscriptions, messages that wait for the subscriber, packet ids of QoS 2.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

use crate::message::Message;

/// A message for one subscriber.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
}

/// Why a session tells its connection to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kick {
    TakenOver,
    ShuttingDown,
}

/// A session. Its connection looks here when `attention` is set.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    pub(crate) state: Mutex<State>,
    attention: AtomicBool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Number of the connection that owns it; 0 when none does.
    pub(crate) owner: u64,
    pub(crate) kick: Option<Kick>,
    pub(crate) waker: Option<Waker>,
    pub(crate) queue: VecDeque<Queued>,
    /// Sent at QoS 1 and not acknowledged, in order.
    pub(crate) in_flight: VecDeque<(u16, Queued)>,
    pub(crate) last_id: u16,
    /// Packet ids of QoS 2 messages that are stored and not released.
    pub(crate) unreleased: BTreeSet<u16>,
    pub(crate) subscriptions: BTreeMap<String, ()>,
    pub(crate) expiry_secs: u32,
    /// When it ends, while nobody owns it.
    pub(crate) expires: Option<Instant>,
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
}

/// What became of a message for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    Queued,
    Full,
    Offline,
}

impl Session {
    pub(crate) fn new(client: Arc<str>) -> Self {
        Self { client, state: Mutex::default(), attention: AtomicBool::new(true) }
    }

    /// Puts a message into the queue, never waiting: a slow subscriber slows nobody.
    pub(crate) fn push(&self, queued: Queued, capacity: usize) -> Push {
        let waker = {
            let mut state = self.state.lock();
            if state.owner == 0 && queued.qos == 0 {
                return Push::Offline;
            }
            if state.queue.len() >= capacity {
                return Push::Full;
            }
            state.queue.push_back(queued);
            state.waker.clone()
        };
        self.call(waker);
        Push::Queued
    }

    /// Tells the connection that owns it to end.
    pub(crate) fn kick(&self, why: Kick) {
        let waker = {
            let mut state = self.state.lock();
            state.kick = Some(why);
            state.waker.clone()
        };
        self.call(waker);
    }

    /// The connection has to look.
    pub(crate) fn attend(&self) {
        self.attention.store(true, Ordering::Release);
    }

    /// True once after something happened.
    pub(crate) fn attended(&self) -> bool {
        self.attention.load(Ordering::Relaxed) && self.attention.swap(false, Ordering::Acquire)
    }

    fn call(&self, waker: Option<Waker>) {
        self.attend();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
