//! The log as its readers see it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::cursor::Cursor;
use crate::frame::Frame;

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset was trimmed.
    #[error("offset {offset} is no longer in the log, which starts at {start}")]
    Trimmed {
        /// Asked for.
        offset: u64,
        /// First one there.
        start: u64,
    },
    /// Bytes that were written are not there any more as they were.
    #[error("log is damaged: {0}")]
    Damaged(String),
    /// The device or the server does not answer.
    #[error("cannot read the log: {0}")]
    Unavailable(String),
}

/// Why a cursor was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Another holder has a higher epoch.
    #[error("cursor of sink {sink} belongs to epoch {held}, not {tried}")]
    Fenced {
        /// Whose.
        sink: String,
        /// In force.
        held: u64,
        /// Given.
        tried: u64,
    },
    /// A cursor never goes back (`done_to`), nor past the durable end.
    #[error("cursor of sink {sink} cannot move from {from} to {to}")]
    Backwards {
        /// Whose.
        sink: String,
        /// Where it is.
        from: u64,
        /// Where it was told to go.
        to: u64,
    },
    /// Not written.
    #[error("cannot write the cursors: {0}")]
    Unavailable(String),
}

/// A log's reading side. Offsets count records from the log's beginning, without holes.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Its name, unique among all logs that one store ever sees; part of block ids.
    fn id(&self) -> &str;

    /// First offset that can be read.
    fn start(&self) -> u64;

    /// Offset after the last durable record.
    fn end(&self) -> u64;

    /// The end as the log itself has it now, where another process writes it and [`Log::end`] follows a moment later; and the
    /// time until which that is known to be all. When the log cannot be asked: the last end that is known, and since when.
    async fn confirm_end(&self) -> (u64, model::Nanos) {
        (self.end(), now())
    }

    /// Tells of every change of [`Log::end`]. Closed when the log is.
    fn watch_end(&self) -> watch::Receiver<u64>;

    /// Whole frames from the one that holds `from`, at least one unless `from` is the end, about `max_bytes` of them.
    /// The first may begin below `from`: skip what lies before.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError>;

    /// Every sink's cursor.
    ///
    /// # Errors
    /// [`CursorError::Unavailable`].
    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, CursorError>;

    /// Makes `cursor` the sink's, durably. The first move of a sink registers it: from then on the log keeps what the
    /// sink has not passed.
    ///
    /// # Errors
    /// [`CursorError`]; the cursor in force is then the old one.
    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError>;

    /// Takes a sink off the log, durably, for one that is no longer configured: from then on the log keeps nothing for it,
    /// and its tallies are gone. Nothing happens when it is not registered.
    ///
    /// # Errors
    /// [`CursorError`]; the sink is then still registered. [`CursorError::Fenced`] for an epoch below the cursor's.
    async fn forget_cursor(&self, sink: &str, epoch: u64) -> Result<(), CursorError> {
        let _ = epoch;
        Err(CursorError::Unavailable(format!("this log cannot take sink {sink} off: configure the sink again")))
    }

    /// Offset of the first record received at or after `time` among those that can be read; the end when none was.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn offset_at(&self, time: model::Nanos) -> Result<u64, ReadError>;

    /// Gives back the space of what every registered sink has passed, keeping as much as the log's retention says.
    /// Returns the new start. Called by whoever moves cursors, after it did.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`].
    async fn trim(&self) -> Result<u64, ReadError>;

    /// How full it is and whether it takes records.
    fn state(&self) -> State;
}

/// The time of day.
pub(crate) fn now() -> model::Nanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// How a log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes it may use.
    pub capacity_bytes: u64,
    /// Why it takes no records now, if it does not: "disk full in DIR", "fsync failed: …".
    pub blocked: Option<String>,
}
