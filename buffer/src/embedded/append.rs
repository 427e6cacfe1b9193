//! The writer: one `pwrite` and one `fdatasync` for each frame.

use std::fs::File;
use std::io;
use std::sync::Arc;

use model::Nanos;

use super::EmbeddedLog;
use super::recover::{END_FILE, encode_end};
use super::segment::Segment;
use super::spare::Spare;
use crate::backlog::Backlog;
use crate::batcher::{AppendError, LogBackend};
use crate::frame::{Frame, FrameBuilder};
use crate::log::now;

/// Writer of the embedded log.
pub(crate) struct EmbeddedWriter {
    /// Dropped before the log and its lock, in this order.
    spare: Spare,
    log: Arc<EmbeddedLog>,
    incarnation: u64,
    end_file: File,
    last_time: Nanos,
    /// A frame that found no room; the builder is empty then.
    waiting: Option<Frame>,
}

impl EmbeddedWriter {
    pub(super) fn new(log: Arc<EmbeddedLog>, incarnation: u64) -> io::Result<Self> {
        let end_path = log.config.dir.join(END_FILE);
        let end_file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&end_path)?;
        // Makes the name of this file durable, and names of segments by a killed process.
        log.disk.sync_folder_of(&end_path)?;
        let mut spare = Spare::start(log.config.dir.join("spare"), Arc::clone(&log.disk))?;
        spare.order(log.config.segment_for(0));
        let last_time = log.shared.lock().ring.frames().last().map_or(0, |f| f.header().appended);
        Ok(Self { log, incarnation, spare, end_file, last_time, waiting: None })
    }

    /// Appends a frame that was made for another log. Without room it is kept: retry with
    /// [`LogBackend::append`] and an empty builder.
    pub(crate) fn append_frame(&mut self, frame: &Frame) -> Result<Frame, AppendError> {
        let moved = frame.moved_to(*self.log.end.borrow(), self.incarnation);
        self.last_time = self.last_time.max(moved.header().appended);
        self.waiting = Some(moved);
        self.append(&mut FrameBuilder::default())
    }

    /// Returns the frame that found no room, which is appended elsewhere.
    pub(crate) fn take_waiting(&mut self) -> Option<Frame> {
        self.waiting.take()
    }

    /// Returns a segment with room for the frame: the last one, or a new one.
    fn segment_for(&mut self, frame: &Frame) -> Result<Arc<Segment>, AppendError> {
        let bytes = frame.bytes().len() as u64;
        let last = {
            let shared = self.log.shared.lock();
            Arc::clone(shared.segments.last().expect("there is always one"))
        };
        if last.end() + bytes <= last.capacity() {
            return Ok(last);
        }
        let config = &self.log.config;
        let wanted = config.segment_for(bytes);
        if self.log.used_bytes() + wanted > config.capacity_bytes {
            self.free(&format!(
                "the log is full: {} bytes that a sink has not stored yet (log.capacity_bytes)",
                config.capacity_bytes
            ))?;
        }
        // The first error may be an old one, of the time when the file was requested.
        let (file, capacity) = match self.spare.take(wanted).or_else(|_| self.spare.take(wanted)) {
            Ok(made) => made,
            Err(error) => {
                let reason = format!("no space for the log in {}: {error}", config.dir.display());
                self.free(&reason)?;
                self.spare.take(wanted).map_err(|_| AppendError::Retry(reason))?
            }
        };
        let path = Segment::path(&config.dir, frame.header().first_offset);
        self.log
            .disk
            .rename(&self.spare.path, &path)
            .map_err(|error| AppendError::Fatal(format!("cannot name the log segment {}: {error}", path.display())))?;
        let segment = Arc::new(Segment::new(frame.header().first_offset, path, file, capacity));
        self.log.shared.lock().segments.push(Arc::clone(&segment));
        self.log.metrics.used.set(i64::try_from(self.log.used_bytes()).unwrap_or(i64::MAX));
        self.spare.order(config.segment_for(0));
        Ok(segment)
    }

    /// Frees space kept for late subscribers; returns `reason` when there is none.
    fn free(&self, reason: &str) -> Result<(), AppendError> {
        let before = self.log.used_bytes();
        let freed = self.log.drop_segments(true).map(|_| self.log.used_bytes() < before);
        match freed {
            Ok(true) => Ok(()),
            Ok(false) => Err(AppendError::Retry(reason.to_owned())),
            Err(error) => Err(AppendError::Retry(format!("{reason}; deleting a segment failed: {error}"))),
        }
    }

    /// Returns a frame as a reader may see it: keys may have been destroyed since it was built.
    fn readable(&self, frame: &Frame) -> Frame {
        let keys = self.log.config.keys.as_ref().filter(|keys| keys.destructions() > 0);
        keys.and_then(|keys| frame.reopened(keys)).unwrap_or_else(|| frame.clone())
    }

    fn store(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let segment = self.segment_for(frame)?;
        let place = segment.end();
        let header = frame.header();
        let fatal = |what: &str, error: &io::Error| {
            AppendError::Fatal(format!("{what} of {} failed at byte {place}: {error}", segment.path.display()))
        };
        self.log.disk.write_at(&segment.file, frame.bytes(), place).map_err(|error| fatal("write", &error))?;
        self.log.disk.sync(&segment.file).map_err(|error| fatal("fsync", &error))?;
        segment.note(header.first_offset, header.appended, place, frame.bytes().len() as u64);
        // Not synced, because a lower bound suffices.
        if let Err(error) = self.log.disk.write_at(&self.end_file, &encode_end(header.end_offset()), 0) {
            tracing::warn!("note the durable end in {}: {error}", self.log.config.dir.join(END_FILE).display());
        }
        let mut shared = self.log.shared();
        let read = self.readable(frame);
        shared.ring.push(read);
        drop(shared);
        self.log.end.send_replace(header.end_offset());
        Ok(())
    }
}

impl LogBackend for EmbeddedWriter {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        let frame = match self.waiting.take() {
            Some(frame) => frame,
            None => {
                // Append times never decrease, so that they can be searched.
                self.last_time = self.last_time.max(now());
                let (end, keys) = (*self.log.end.borrow(), self.log.config.keys.as_ref());
                builder
                    .build_sealed(end, self.incarnation, self.last_time, keys)
                    .map_err(|error| AppendError::Retry(error.to_string()))?
            }
        };
        match self.store(&frame) {
            Ok(()) => Ok(frame),
            Err(error) => {
                self.waiting = Some(frame);
                Err(error)
            }
        }
    }

    fn fits(&self, builder: &FrameBuilder) -> bool {
        self.log.config.keys.as_ref().is_none_or(|keys| !keys.seals()) || builder.fits_sealed()
    }

    fn recent(&self) -> Vec<Frame> {
        self.log.shared.lock().ring.frames().cloned().collect()
    }

    fn recent_at(&self, offset: u64) -> Option<Frame> {
        self.log.shared().ring.at(offset)
    }

    fn key(&self) -> [u64; 2] {
        self.log.key
    }

    fn backlog(&self) -> Option<Arc<Backlog>> {
        self.log.backlog.clone()
    }

    fn blocked(&self, reason: Option<&str>) {
        self.log.metrics.blocked.set(i64::from(reason.is_some()));
        self.log.shared.lock().blocked = reason.map(str::to_owned);
    }

    fn close(&mut self) -> Result<(), AppendError> {
        self.log.disk.sync(&self.end_file).map_err(|error| AppendError::Fatal(error.to_string()))
    }
}
