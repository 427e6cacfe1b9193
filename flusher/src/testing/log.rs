//! A log whose cursors outlive a crash of the sinks, as its frames do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use buffer::frame::{Frame, Record, Staged};
use buffer::log::State;
use buffer::{Cursor, CursorError, Log, ReadError};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Fate;

pub(crate) struct FakeLog {
    id: String,
    fate: Arc<Fate>,
    frames: Mutex<Vec<Frame>>,
    cursors: Mutex<BTreeMap<String, Cursor>>,
    start: Mutex<u64>,
    end: watch::Sender<u64>,
    pub(crate) damaged: Mutex<Option<ReadError>>,
    /// Keeps the frames that every sink has passed.
    pub(crate) keeps_all: AtomicBool,
}

impl FakeLog {
    pub(crate) fn new(id: &str, fate: Arc<Fate>) -> Self {
        Self {
            id: id.to_owned(),
            fate,
            frames: Mutex::default(),
            cursors: Mutex::default(),
            start: Mutex::new(0),
            end: watch::channel(0).0,
            damaged: Mutex::default(),
            keeps_all: AtomicBool::new(false),
        }
    }

    pub(crate) fn append(&self, stage: impl FnOnce(&mut Staged)) {
        let frame = super::frame(self.end(), stage);
        let end = frame.header().end_offset();
        self.frames.lock().push(frame);
        self.end.send_replace(end);
    }

    pub(crate) fn cursor(&self, sink: &str) -> Cursor {
        self.cursors.lock().get(sink).cloned().unwrap_or_default()
    }

    pub(crate) fn all_cursors(&self) -> BTreeMap<String, Cursor> {
        self.cursors.lock().clone()
    }

    /// Has the cursors of another log.
    pub(crate) fn adopt_cursors(&self, other: &Self) {
        *self.cursors.lock() = other.cursors.lock().clone();
    }

    /// Another holder takes the sink over.
    pub(crate) fn take_over(&self, sink: &str, epoch: u64) {
        self.cursors.lock().get_mut(sink).unwrap().epoch = epoch;
    }
}

#[async_trait]
impl Log for FakeLog {
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
        if let Some(error) = self.damaged.lock().clone() {
            return Err(error);
        }
        if from < self.start() {
            return Err(ReadError::Trimmed { offset: from, start: self.start() });
        }
        let frames = self.frames.lock();
        let first = frames.partition_point(|f| f.header().end_offset() <= from);
        let mut bytes = 0;
        let fits = |f: &&Frame| {
            bytes += f.bytes().len();
            bytes == f.bytes().len() || bytes <= max_bytes
        };
        Ok(frames[first..].iter().take_while(fits).cloned().collect())
    }

    async fn cursors(&self) -> Result<BTreeMap<String, Cursor>, CursorError> {
        Ok(self.cursors.lock().clone())
    }

    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        self.fate.step("before the cursor moves").await;
        {
            let mut cursors = self.cursors.lock();
            let held = cursors.get(sink).cloned().unwrap_or_default();
            if cursor.epoch < held.epoch {
                let (held, tried) = (held.epoch, cursor.epoch);
                return Err(CursorError::Fenced { sink: sink.to_owned(), held, tried });
            }
            assert!(
                cursor.done_to >= held.done_to && cursor.sealed_to >= cursor.done_to && cursor.sealed_to <= self.end()
            );
            if !held.tallies.is_empty() || cursor.done_to > 0 {
                let total: u64 = cursor.tallies.values().map(buffer::Tally::total).sum();
                assert_eq!(total, cursor.done_to, "the tallies of {sink} make its offset");
            }
            cursors.insert(sink.to_owned(), cursor);
        }
        self.fate.step("after the cursor moved").await;
        Ok(())
    }

    async fn rewind_cursor(&self, sink: &str, cursor: Cursor) -> Result<(), CursorError> {
        self.fate.step("before the cursor is set back").await;
        {
            let mut cursors = self.cursors.lock();
            let held = cursors.get(sink).cloned().unwrap_or_default();
            assert!(cursor.epoch >= held.epoch && cursor.done_to >= self.start());
            let total: u64 = cursor.tallies.values().map(buffer::Tally::total).sum();
            assert_eq!(total, cursor.done_to, "the tallies of {sink} make its offset");
            cursors.insert(sink.to_owned(), cursor);
        }
        self.fate.step("after the cursor was set back").await;
        Ok(())
    }

    async fn forget_cursor(&self, sink: &str, _: u64) -> Result<(), CursorError> {
        self.cursors.lock().remove(sink);
        Ok(())
    }

    async fn offset_at(&self, time: model::Nanos) -> Result<u64, ReadError> {
        let frames = self.frames.lock();
        let records = frames.iter().flat_map(Frame::records);
        let received = |record: &Record<'_>| match record {
            Record::Reading(reading) => reading.received,
            Record::DeadLetter(letter) => letter.received,
            Record::Retained(message) => message.received,
            Record::SessionEnd(end) => end.received,
            Record::Destroyed(_) => panic!("no keys were destroyed"),
        };
        let first = records.filter(|(_, record)| received(record) >= time).map(|(offset, _)| offset).next();
        Ok(first.unwrap_or_else(|| self.end()))
    }

    async fn trim(&self) -> Result<u64, ReadError> {
        let cursors = self.cursors.lock();
        assert!(
            [crate::HISTORY, crate::LATEST, crate::DEAD_LETTERS, crate::RETAINED]
                .iter()
                .all(|sink| cursors.contains_key(*sink)),
            "every sink is registered before the first trim"
        );
        let passed = cursors.values().map(|c| c.done_to).min().unwrap_or(0);
        let mut frames = self.frames.lock();
        let keep = frames.partition_point(|f| f.header().end_offset() <= passed);
        let mut start = self.start.lock();
        if keep > 0 && !self.keeps_all.load(Ordering::Relaxed) {
            *start = frames[keep - 1].header().end_offset();
            frames.drain(..keep);
        }
        Ok(*start)
    }

    fn state(&self) -> State {
        State { used_bytes: 0, capacity_bytes: u64::MAX, blocked: None }
    }
}
