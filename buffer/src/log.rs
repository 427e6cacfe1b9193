//! The reading side of a log.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::cursor::Cursor;
use crate::frame::Frame;

pub(crate) use model::clock::now;

/// Error of a read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset was trimmed.
    #[error("offset {offset} is no longer in the log, which starts at {start}")]
    Trimmed {
        /// Requested offset.
        offset: u64,
        /// First available offset.
        start: u64,
    },
    /// Stored bytes differ from what was written.
    #[error("log is damaged: {0}")]
    Damaged(String),
    /// The disk or the server does not respond.
    #[error("cannot read the log: {0}")]
    Unavailable(String),
}

/// The reason why a cursor was not moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Another holder has a higher epoch.
    #[error("cursor of sink {sink} belongs to epoch {held}, not {tried}")]
    Fenced {
        /// Name of the sink.
        sink: String,
        /// Current epoch.
        held: u64,
        /// Epoch of the caller.
        tried: u64,
    },
    /// A cursor never moves back (`done_to`) nor past the durable end.
    #[error("cursor of sink {sink} cannot move from {from} to {to}")]
    Backwards {
        /// Name of the sink.
        sink: String,
        /// Current offset.
        from: u64,
        /// Requested offset.
        to: u64,
    },
    /// A rewind must stay within the log.
    #[error("cannot rewind sink {sink} to {to}: the log holds {start} to {end}")]
    Outside {
        /// Name of the sink.
        sink: String,
        /// Requested offset.
        to: u64,
        /// First offset that can be read.
        start: u64,
        /// Offset after the last durable record.
        end: u64,
    },
    /// The cursors could not be written.
    #[error("cannot write the cursors: {0}")]
    Unavailable(String),
}

/// The reading side of a log. Offsets count records from the beginning of the log, without gaps.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Id of the log, unique among all logs of a store at any time; part of block ids.
    fn id(&self) -> &str;

    /// First offset that can be read.
    fn start(&self) -> u64;

    /// Offset after the last durable record.
    fn end(&self) -> u64;

    /// The current end of the log, read from the server when another process writes it and
    /// [`Log::end`] follows with a delay; and the time until which it is complete. When the server
    /// is unavailable: the last known end and its time.
    async fn confirm_end(&self) -> (u64, model::Nanos) {
        (self.end(), now())
    }

    /// Notifies of changes of [`Log::end`]. Closed with the log.
    fn watch_end(&self) -> watch::Receiver<u64>;

    /// Reads whole frames from the one with `from`, at least one unless `from` is the end, about
    /// `max_bytes` in total. The first may begin below `from`: skip earlier records.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError>;

    /// Cursors of all sinks.
    ///
    /// # Errors
    /// [`CursorError::Unavailable`].
    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, CursorError>;

    /// Sets the cursor of a sink durably. The first call registers the sink: from then on the log
    /// keeps records that the sink has not passed.
    ///
    /// # Errors
    /// [`CursorError`]; the cursor is then unchanged.
    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError>;

    /// Like [`Log::move_cursor`], but the cursor may also move back to [`Log::start`], when an
    /// operator wants records delivered again. Records from the cursor on are not trimmed
    /// meanwhile.
    ///
    /// # Errors
    /// [`CursorError`]; the cursor is then unchanged. [`CursorError::Outside`] for an offset that
    /// cannot be read.
    async fn rewind_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        let _ = cursor;
        Err(CursorError::Unavailable(format!("this log cannot rewind sink {sink}")))
    }

    /// Removes a sink that is no longer configured, durably: the log no longer keeps records for
    /// it, and its tallies are deleted. An unregistered sink is ignored.
    ///
    /// # Errors
    /// [`CursorError`]; the sink is then still registered. [`CursorError::Fenced`] for an epoch
    /// below the cursor's.
    async fn forget_cursor(&self, sink: &str, epoch: u64) -> Result<(), CursorError> {
        let _ = epoch;
        Err(CursorError::Unavailable(format!("this log cannot take sink {sink} off: configure the sink again")))
    }

    /// Offset of the first readable record received at or after `time`, or the end.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn offset_at(&self, time: model::Nanos) -> Result<u64, ReadError>;

    /// Frees the space of records that every registered sink has passed, except for the retention.
    /// Returns the new start. To be called after cursors moved.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`].
    async fn trim(&self) -> Result<u64, ReadError>;

    /// Fill level of the log, and whether it accepts records.
    fn state(&self) -> State;

    /// Faults that an operator has to know although the log accepts records: data that its server
    /// lost since this process started, settings that lose data.
    fn concerns(&self) -> Vec<String> {
        Vec::new()
    }

    /// True when the server of the log has lost data since this process started: offsets that were
    /// never trimmed may be gone.
    fn has_lost(&self) -> bool {
        false
    }
}

/// Status of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Capacity in bytes.
    pub capacity_bytes: u64,
    /// The reason when it does not accept records: "disk full in DIR", "fsync failed: …".
    pub blocked: Option<String>,
}
