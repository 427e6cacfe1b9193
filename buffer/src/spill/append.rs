//! The writer: appends to the primary or to the spill.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::place::{self, Place};
use super::{Mode, Primary, Shared};
use crate::backlog::{self, Backlog};
use crate::batcher::{AppendError, LogBackend, Placed};
use crate::embedded;
use crate::frame::{Frame, FrameBuilder};
use crate::log::Log;

/// A primary with a spill.
pub(crate) struct SpillWriter<P: Primary> {
    shared: Arc<Shared<P>>,
    spill: embedded::EmbeddedWriter,
    /// Time since which the primary accepts nothing.
    refused: Option<Instant>,
    /// True when other logs are to be read again as soon as possible.
    look_anew: bool,
    /// End in the primary that the last frame will have, when it was spilled.
    spilled_to: Option<u64>,
    drain: Option<JoinHandle<()>>,
}

impl<P: Primary> SpillWriter<P> {
    pub(super) fn new(shared: Arc<Shared<P>>, spill: embedded::EmbeddedWriter, drain: JoinHandle<()>) -> Self {
        Self { shared, spill, refused: None, look_anew: false, spilled_to: None, drain: Some(drain) }
    }

    fn append_direct(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        let shared = Arc::clone(&self.shared);
        // The time-out of a server that does not respond counts.
        let begun = Instant::now();
        let mut primary = shared.primary.lock();
        match primary.append(builder) {
            Err(AppendError::Retry(reason)) => {
                let since = *self.refused.get_or_insert(begun);
                if since.elapsed() < shared.patience() {
                    return Err(AppendError::Retry(reason));
                }
                match primary.take_waiting() {
                    Some(frame) => self.begin(&*primary, &frame, &reason),
                    None => Err(AppendError::Retry(reason)),
                }
            }
            other => {
                self.refused = None;
                other
            }
        }
    }

    /// From here on appends are spilled, starting with this frame.
    fn begin(&mut self, primary: &P, frame: &Frame, reason: &str) -> Result<Frame, AppendError> {
        let shared = Arc::clone(&self.shared);
        let place = Place { log: primary.id().to_owned(), from: shared.log.end(), to: frame.header().first_offset };
        place::write(&shared.config.dir, &place).map_err(|error| AppendError::Fatal(error.to_string()))?;
        tracing::warn!("appends go to the spill: {reason}");
        self.refused = None;
        // Before the drain sees the mode: it must find this frame, or none.
        let stored = self.spill.append_frame(frame);
        let mut mode = shared.mode.lock();
        *mode = Mode::Spilling(place.clone());
        shared.goes_to(backlog::Place::Spill);
        drop(mode);
        shared.changed.notify_all();
        self.spilled(&place, stored)
    }

    fn spilled(&mut self, place: &Place, stored: Result<Frame, AppendError>) -> Result<Frame, AppendError> {
        match stored {
            Ok(frame) => {
                self.spilled_to = Some(place.of(frame.header().end_offset()));
                self.shared.metrics.spilled.inc_by(u64::from(frame.header().count));
                self.shared.changed.notify_all();
                Ok(frame)
            }
            Err(AppendError::Retry(reason)) => Err(AppendError::Retry(format!("spill: {reason}"))),
            Err(AppendError::Fatal(reason)) => Err(AppendError::Fatal(format!("spill: {reason}"))),
        }
    }
}

impl<P: Primary> LogBackend for SpillWriter<P> {
    fn append(&mut self, builder: &mut FrameBuilder) -> Result<Frame, AppendError> {
        let shared = Arc::clone(&self.shared);
        // Held while spilling, so that the drain sees the correct end when it returns to `Direct`.
        let mode = shared.mode.lock();
        match &*mode {
            Mode::Direct => {
                drop(mode);
                self.spilled_to = None;
                if let Some(frame) = self.spill.take_waiting() {
                    let mut primary = shared.primary.lock();
                    let moved = frame.moved_to(primary.end(), primary.incarnation());
                    primary.put_waiting(moved);
                }
                self.append_direct(builder)
            }
            Mode::Spilling(place) => {
                let stored = self.spill.append(builder);
                self.spilled(place, stored)
            }
            Mode::Failed(reason) => Err(AppendError::Fatal(reason.clone())),
            Mode::Closed => Err(AppendError::Fatal("the spill is closed".into())),
        }
    }

    fn recent(&self) -> Vec<Frame> {
        let spilling = matches!(*self.shared.mode.lock(), Mode::Spilling(_));
        let mut frames = self.spill.recent();
        // While the drain has the primary, moved frames are also in the spill.
        if !spilling {
            frames.extend(self.shared.primary.lock().recent());
        } else if let Some(primary) = self.shared.primary.try_lock() {
            frames.extend(primary.recent());
        }
        frames
    }

    fn recent_at(&self, offset: u64) -> Option<Frame> {
        // Offsets of the primary and of the spill are not told apart: the identity of a record is.
        let primary = self.shared.primary.try_lock().and_then(|primary| primary.recent_at(offset));
        primary.or_else(|| self.spill.recent_at(offset))
    }

    fn key(&self) -> [u64; 2] {
        self.shared.primary.lock().key()
    }

    fn recent_elsewhere(&mut self, anew: bool) -> Result<Vec<Frame>, AppendError> {
        self.look_anew |= anew;
        if !matches!(*self.shared.mode.lock(), Mode::Direct) {
            // The server is unavailable.
            return Ok(Vec::new());
        }
        // The time-out of a server that does not respond counts.
        let begun = Instant::now();
        let found = self.shared.primary.lock().recent_elsewhere(self.look_anew);
        match found {
            Ok(frames) => {
                (self.look_anew, self.refused) = (false, None);
                Ok(frames)
            }
            Err(AppendError::Retry(_)) if self.refused.get_or_insert(begun).elapsed() >= self.shared.patience() => {
                // The append begins the spill.
                self.look_anew = true;
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn backlog(&self) -> Option<Arc<Backlog>> {
        self.shared.backlog.clone()
    }

    fn placed(&self, frame: &Frame) -> Placed {
        match self.spilled_to {
            Some(end) => Placed { end, spilled: Some(frame.header().end_offset()), ..self.spill.placed(frame) },
            // The drain does not have it: only this thread begins to spill.
            None => self.shared.primary.lock().placed(frame),
        }
    }

    fn blocked(&self, reason: Option<&str>) {
        (self.shared.blocked)(reason);
    }

    fn close(&mut self) -> Result<(), AppendError> {
        self.end_drain();
        let spill = self.spill.close();
        self.shared.primary.lock().close().and(spill)
    }
}

impl<P: Primary> SpillWriter<P> {
    fn end_drain(&mut self) {
        *self.shared.mode.lock() = Mode::Closed;
        self.shared.changed.notify_all();
        if let Some(drain) = self.drain.take()
            && drain.join().is_err()
        {
            tracing::error!("the drain of the spill panicked");
        }
    }
}

impl<P: Primary> Drop for SpillWriter<P> {
    fn drop(&mut self) {
        self.end_drain();
    }
}
