//! How each sink is, for readiness and for people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::Cursor;
use parking_lot::Mutex;

use crate::progress::Progress;

/// How a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkState {
    /// It follows and delivers.
    Running,
    /// The store does not take its writes now; it goes on trying.
    Retrying {
        /// What the store says.
        reason: String,
        /// For how long.
        lasting: Duration,
    },
    /// A person has to do something; everything is kept.
    Paused {
        /// What the store says.
        reason: String,
        /// For how long.
        lasting: Duration,
    },
    /// It has stopped: at the end of the process, or because another holder has the log.
    Ended {
        /// Why.
        reason: String,
    },
}

/// A sink of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkStatus {
    /// [`buffer::Log::id`].
    pub log: String,
    /// `history`, `latest`, `dead_letters`, `retained` or `points`.
    pub sink: &'static str,
    /// How it is.
    pub state: SinkState,
    /// Durable in the store below this offset.
    pub done_to: u64,
    /// Records in the log that are not durable in the store.
    pub lag_records: u64,
    /// Bytes of the frames that hold them.
    pub lag_bytes: u64,
    /// Age of the oldest of them, in seconds.
    pub lag_seconds: f64,
}

/// What a sink's driver shares with everybody else.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) log: Arc<str>,
    pub(crate) sink: &'static str,
    pub(crate) progress: Progress,
    cursor: Mutex<Cursor>,
    state: Mutex<Inner>,
}

#[derive(Debug, Clone)]
enum Inner {
    Running,
    Retrying(String, Instant),
    Paused(String, Instant),
    Ended(String),
}

impl Shared {
    pub(crate) fn new(log: &str, sink: &'static str, cursor: Cursor) -> Self {
        Self {
            log: log.into(),
            sink,
            progress: Progress::new(cursor.done_to),
            cursor: Mutex::new(cursor),
            state: Mutex::new(Inner::Running),
        }
    }

    /// The cursor as last made durable.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor.lock().clone()
    }

    pub(crate) fn done_to(&self) -> u64 {
        self.cursor.lock().done_to
    }

    pub(crate) fn set_cursor(&self, cursor: Cursor) {
        let done_to = cursor.done_to;
        *self.cursor.lock() = cursor;
        self.progress.set_delivered(done_to);
    }

    /// Says that all is well; true when it was not.
    pub(crate) fn running(&self) -> bool {
        !matches!(std::mem::replace(&mut *self.state.lock(), Inner::Running), Inner::Running)
    }

    /// Says that it tries again; true when that is news.
    pub(crate) fn retrying(&self, reason: &str) -> bool {
        let mut state = self.state.lock();
        let (news, since) = match &*state {
            Inner::Retrying(held, since) => (held != reason, *since),
            Inner::Paused(_, since) => (true, *since),
            Inner::Running | Inner::Ended(_) => (true, Instant::now()),
        };
        *state = Inner::Retrying(reason.to_owned(), since);
        news
    }

    /// Says that a person is needed; true when that is news.
    pub(crate) fn paused(&self, reason: &str) -> bool {
        let mut state = self.state.lock();
        let (news, since) = match &*state {
            Inner::Paused(held, since) => (held != reason, *since),
            Inner::Retrying(_, since) => (true, *since),
            Inner::Running | Inner::Ended(_) => (true, Instant::now()),
        };
        *state = Inner::Paused(reason.to_owned(), since);
        news
    }

    pub(crate) fn ended(&self, reason: &str) {
        *self.state.lock() = Inner::Ended(reason.to_owned());
        let place = self.progress.place();
        self.progress.set(crate::progress::Place { ended: true, ..place });
    }

    pub(crate) fn state(&self) -> SinkState {
        match self.state.lock().clone() {
            Inner::Running => SinkState::Running,
            Inner::Retrying(reason, since) => SinkState::Retrying { reason, lasting: since.elapsed() },
            Inner::Paused(reason, since) => SinkState::Paused { reason, lasting: since.elapsed() },
            Inner::Ended(reason) => SinkState::Ended { reason },
        }
    }
}
