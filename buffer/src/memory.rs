//! A log in memory, only for tests: a crash loses records that it reports as durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::batcher::{AppendError, BatchConfig, Batcher, LogBackend};
use crate::cursor::{self, Cursor};
use crate::frame::{Frame, FrameBuilder};
use crate::log::{CursorError, Log, ReadError, State, now};
use crate::metrics::Metrics;
use crate::ring::Ring;

/// A log in memory.
#[derive(Debug)]
pub struct MemoryLog {
    id: String,
    ring: Mutex<Ring>,
    cursors: Mutex<BTreeMap<String, Cursor>>,
    start: Mutex<u64>,
    end: watch::Sender<u64>,
    blocked: Mutex<Option<String>>,
}

impl MemoryLog {
    /// Creates an empty log and its batcher.
    ///
    /// # Errors
    /// When the thread of the writer cannot be started.
    pub fn open(id: &str, batch: BatchConfig) -> std::io::Result<(Arc<Self>, Batcher)> {
        let log = Arc::new(Self {
            id: id.to_owned(),
            ring: Mutex::new(Ring::new(usize::MAX)),
            cursors: Mutex::default(),
            start: Mutex::new(0),
            end: watch::channel(0).0,
            blocked: Mutex::default(),
        });
        let batcher = Batcher::start(batch, Arc::new(Metrics::default()), MemoryWriter(Arc::clone(&log)))?;
        Ok((log, batcher))
    }
}

struct MemoryWriter(Arc<MemoryLog>);

impl LogBackend for MemoryWriter {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        let frame = builder.build(*self.0.end.borrow(), 1, now());
        self.0.ring.lock().push(frame.clone());
        self.0.end.send_replace(frame.header().end_offset());
        Ok(frame)
    }

    fn recent(&self) -> Vec<Frame> {
        self.0.ring.lock().frames().cloned().collect()
    }

    fn recent_at(&self, offset: u64) -> Option<Frame> {
        self.0.ring.lock().at(offset)
    }

    fn blocked(&self, reason: Option<&str>) {
        *self.0.blocked.lock() = reason.map(str::to_owned);
    }
}

#[async_trait]
impl Log for MemoryLog {
    fn id(&self) -> &str {
        &self.id
    }

    fn start(&self) -> u64 {
        *self.start.lock()
    }

    fn end(&self) -> u64 {
        *self.end.borrow()
    }

    fn watch_end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    async fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<Frame>, ReadError> {
        let start = self.start();
        if from < start {
            return Err(ReadError::Trimmed { offset: from, start });
        }
        Ok(self.ring.lock().read(from, max_bytes).unwrap_or_default())
    }

    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, CursorError> {
        Ok(self.cursors.lock().clone())
    }

    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        let mut cursors = self.cursors.lock();
        cursor::check_move(sink, cursors.get(sink), &cursor, self.end())?;
        cursors.insert(sink.to_owned(), cursor);
        Ok(())
    }

    async fn rewind_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        // Locked in the same order as in `trim`.
        let mut cursors = self.cursors.lock();
        cursor::check_rewind(sink, cursors.get(sink), &cursor, self.start(), self.end())?;
        cursors.insert(sink.to_owned(), cursor);
        Ok(())
    }

    async fn forget_cursor(&self, sink: &str, epoch: u64) -> Result<(), CursorError> {
        let mut cursors = self.cursors.lock();
        cursor::check_forget(sink, cursors.get(sink), epoch)?;
        cursors.remove(sink);
        Ok(())
    }

    async fn offset_at(&self, time: model::Nanos) -> Result<u64, ReadError> {
        let ring = self.ring.lock();
        Ok(ring.frames().find(|f| f.header().appended >= time).map_or(self.end(), |f| f.header().first_offset))
    }

    async fn trim(&self) -> Result<u64, ReadError> {
        let Some(passed) = self.cursors.lock().values().map(|c| c.done_to).min() else { return Ok(self.start()) };
        let mut ring = self.ring.lock();
        while ring.frames().next().is_some_and(|f| f.header().end_offset() <= passed) {
            ring.pop_front();
        }
        let mut start = self.start.lock();
        *start = ring.first_offset().unwrap_or(self.end());
        Ok(*start)
    }

    fn state(&self) -> State {
        let used = self.ring.lock().frames().map(|f| f.bytes().len() as u64).sum();
        State { used_bytes: used, capacity_bytes: u64::MAX, blocked: self.blocked.lock().clone() }
    }
}
