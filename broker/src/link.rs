//! Signals to the connection that owns a session.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::arrivals::{Arrival, Arrivals};
use crate::fleet::{Refusal, Submitter};

/// The way to signal the connection that owns a session. As a waker, it wakes the connection for
/// what has arrived.
#[derive(Debug)]
pub(crate) struct Link {
    signals: AtomicU8,
    /// A change for the store of the fleet's sessions was refused, and the reason.
    refused: AtomicU8,
    waker: Mutex<Option<Waker>>,
    pub(crate) arrival: Arrival,
    /// Dropped with the connection: an operator waits for that.
    pub(crate) gone: OnceLock<watch::Sender<()>>,
    /// Tasks that wait until its messages have gone to subscribers; None when they have, or never
    /// will.
    awaiting: Mutex<Option<Vec<Waker>>>,
}

impl Wake for Link {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.arrival.note();
        self.wake_connection();
    }
}

/// As in [`Link::refused`].
const NOT_OWNED: u8 = 1;
const FAULT: u8 = 2;

impl Submitter for Link {
    fn refused(&self, refusal: Refusal) {
        let reason = if refusal == Refusal::Fault { FAULT } else { NOT_OWNED };
        self.refused.fetch_max(reason, Ordering::Release);
        self.wake_connection();
    }
}

impl Link {
    /// The session has something for the connection.
    pub(crate) const ATTENTION: u8 = 1;
    /// Another connection owns the session now.
    pub(crate) const TAKEN_OVER: u8 = 2;
    /// The process stops.
    pub(crate) const STOP: u8 = 4;
    /// Another connection waits for the session: what has arrived comes first.
    pub(crate) const HAND_OVER: u8 = 8;
    /// The client is to connect to another process: what has arrived comes first.
    pub(crate) const MOVE: u8 = 16;
    /// An operator closes the connection.
    pub(crate) const KICKED: u8 = 32;
    /// An operator ends the session with its connection.
    pub(crate) const ENDED: u8 = 64;

    pub(crate) fn new(arrivals: &Arc<Arrivals>) -> Arc<Self> {
        let arrival = Arrival::new(arrivals);
        let (waker, awaiting) = (Mutex::new(None), Mutex::new(Some(Vec::new())));
        Arc::new(Self {
            signals: AtomicU8::new(0),
            refused: AtomicU8::new(0),
            waker,
            arrival,
            gone: OnceLock::new(),
            awaiting,
        })
    }

    /// Signals the connection and wakes it.
    pub(crate) fn signal(&self, signal: u8) {
        self.remember(signal);
        self.wake_connection();
    }

    fn wake_connection(&self) {
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

    /// Returns the reason why a change of the connection was refused: from then on none of its
    /// changes is acknowledged.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.refused.load(Ordering::Acquire) {
            0 => None,
            FAULT => Some(Refusal::Fault),
            _ => Some(Refusal::NotOwned),
        }
    }

    /// Wakes `waker` from now on.
    pub(crate) fn listen(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
        self.remember(Self::ATTENTION);
    }

    /// Notes that all messages of the connection have gone to subscribers, or never will.
    pub(crate) fn settle(&self) {
        let awaiting = self.awaiting.lock().take();
        awaiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// True when all messages of the connection have gone to subscribers, or never will.
    pub(crate) fn is_settled(&self) -> bool {
        self.awaiting.lock().is_none()
    }

    /// Ready when [`Link::is_settled`]; the task is woken for that.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        let mut awaiting = self.awaiting.lock();
        let Some(tasks) = &mut *awaiting else { return Poll::Ready(()) };
        if !tasks.iter().any(|task| task.will_wake(cx.waker())) {
            tasks.push(cx.waker().clone());
        }
        Poll::Pending
    }
}
