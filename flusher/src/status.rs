//! The state of each sink, for readiness and for operators.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use buffer::Cursor;
use parking_lot::Mutex;

use crate::Projection;
use crate::engine::progress::{LogPosition, Progress};

/// The state of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkState {
    /// It follows and delivers.
    Running,
    /// The store does not accept its writes now; it keeps trying.
    Retrying {
        /// The store's reason.
        reason: String,
        /// Since when.
        lasting: Duration,
    },
    /// An operator has to act; everything is kept in the log.
    Paused {
        /// The store's reason.
        reason: String,
        /// Since when.
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
    /// Name of the projection.
    pub sink: Arc<str>,
    /// Its kind: `history`, `latest`, `dead_letters`, `retained`, or the type of an export.
    pub kind: Arc<str>,
    /// Its state.
    pub state: SinkState,
    /// An operator has paused the export.
    pub paused: bool,
    /// Readings that the store refused for good, in this log.
    pub refused: u64,
    /// Durable in the store below this offset.
    pub done_to: u64,
    /// Records in the log that are not durable in the store.
    pub lag_records: u64,
    /// Bytes of the frames that hold them.
    pub lag_bytes: u64,
    /// Age of the oldest of them, in seconds.
    pub lag_seconds: f64,
}

impl SinkStatus {
    /// True for an export, false for a standard projection.
    pub fn is_export(&self) -> bool {
        ![crate::HISTORY, crate::LATEST, crate::DEAD_LETTERS, crate::RETAINED].contains(&&*self.kind)
    }
}

/// The state of a sink that its driver shares with readers.
pub(crate) struct Shared {
    pub(crate) log: Arc<str>,
    pub(crate) projection: Arc<Projection>,
    pub(crate) progress: Progress,
    cursor: Mutex<Cursor>,
    state: Mutex<Inner>,
    paused: AtomicBool,
}

#[derive(Debug, Clone)]
enum Inner {
    Running,
    Retrying(String, Instant),
    Paused(String, Instant),
    Ended(String),
}

impl Shared {
    pub(crate) fn new(log: &str, projection: Arc<Projection>, cursor: Cursor) -> Self {
        Self {
            log: log.into(),
            projection,
            progress: Progress::new(cursor.done_to),
            cursor: Mutex::new(cursor),
            state: Mutex::new(Inner::Running),
            paused: AtomicBool::new(false),
        }
    }

    /// Name of the projection.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.projection.name
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

    /// Notes that the store accepts writes; true when it did not before.
    pub(crate) fn running(&self) -> bool {
        !matches!(std::mem::replace(&mut *self.state.lock(), Inner::Running), Inner::Running)
    }

    /// Notes that a write is tried again; true when that is news.
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

    /// Notes that an operator is needed; true when that is news.
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

    /// Notes whether an operator has paused the export.
    pub(crate) fn set_paused_by_operator(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn is_paused_by_operator(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Readings that the store refused for good.
    pub(crate) fn refused(&self) -> u64 {
        self.cursor.lock().tallies.values().map(|tally| tally.refused).sum()
    }

    pub(crate) fn ended(&self, reason: &str) {
        *self.state.lock() = Inner::Ended(reason.to_owned());
        let position = self.progress.position();
        self.progress.set(LogPosition { ended: true, ..position });
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
