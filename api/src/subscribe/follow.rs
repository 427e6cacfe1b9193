//! Follows the logs from given positions and picks the selected events.

use std::collections::VecDeque;
use std::sync::Arc;

use buffer::frame::{Frame, Record};
use buffer::{Log, ReadError};
use futures::future;
use proto::v1::Event;
use proto::v1::event::Payload;
use tokio::sync::watch;
use tonic::Status;

use super::start::Selection;
use crate::token::Writer;
use crate::{convert, errors, names};

/// Bytes of frames read at one time.
const READ_BYTES: usize = 256 << 10;
/// Approximate limit of the bytes of values in a batch.
const BATCH_BYTES: usize = 1 << 20;
/// Approximate bytes of an event besides its values.
const EVENT_BYTES: usize = 120;

/// A position in one log.
pub(crate) struct LogPosition {
    log: Arc<dyn Log>,
    end: watch::Receiver<u64>,
    /// Offset of the next record to examine.
    next: u64,
    /// Frames read and not yet examined.
    frames: VecDeque<Frame>,
}

impl LogPosition {
    pub(crate) fn new(log: &Arc<dyn Log>, next: u64) -> Self {
        Self { log: Arc::clone(log), end: log.watch_end(), next, frames: VecDeque::new() }
    }
}

/// Events of one message.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// True with `max` events, or with as many bytes as a message has.
    fn is_full(&self, max: usize) -> bool {
        self.events.len() >= max || self.bytes >= BATCH_BYTES
    }
}

/// Result of a pull.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    /// The batch is full.
    Full,
    /// More may be available at once.
    More,
    /// Nothing more is available for now.
    Empty,
    /// The next record is no longer in the log.
    Trimmed,
}

/// Follows all logs.
pub(crate) struct Follow {
    positions: Vec<LogPosition>,
    selection: Selection,
    names: watch::Receiver<Arc<[String]>>,
}

/// Result of a wait for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A log has grown.
    Grown,
    /// A log was added or removed: call [`Follow::renew`].
    Logs,
    /// A log was closed.
    Closed,
}

impl Follow {
    pub(crate) fn new(
        positions: Vec<LogPosition>,
        selection: Selection,
        names: watch::Receiver<Arc<[String]>>,
    ) -> Self {
        Self { positions, selection, names }
    }

    pub(crate) fn tenant(&self) -> &str {
        self.selection.visible().0
    }

    /// Follows these logs from now on: new logs from their beginning, removed logs until they are
    /// read to their end.
    pub(crate) fn renew(&mut self, logs: &[Arc<dyn Log>]) {
        self.positions.retain(|position| {
            position.next < position.log.end() || logs.iter().any(|log| log.id() == position.log.id())
        });
        for log in logs {
            if !self.positions.iter().any(|position| position.log.id() == log.id()) {
                self.positions.push(LogPosition::new(log, 0));
            }
        }
    }

    /// Writes the positions into a token.
    pub(crate) fn write(&self, writer: &mut Writer) {
        write_positions(writer, self.positions.iter().map(|position| (position.log.id(), position.next)));
    }

    /// Adds the next events, up to `max` in all; reads each log at most once.
    pub(crate) async fn pull(&mut self, batch: &mut Batch, max: usize) -> Result<Pull, Status> {
        let mut more = false;
        // The logs take turns at being first, so that a busy one does not starve the others.
        if self.positions.len() > 1 {
            self.positions.rotate_left(1);
        }
        for position in &mut self.positions {
            let end = *position.end.borrow_and_update();
            if position.frames.is_empty() && position.next < end {
                match position.log.read(position.next, READ_BYTES).await {
                    Ok(frames) => position.frames.extend(frames),
                    Err(ReadError::Trimmed { .. }) => return Ok(Pull::Trimmed),
                    Err(error) => return Err(errors::log(position.log.id(), error)),
                }
                // Reads from the ring never wait: yield to other tasks.
                tokio::task::yield_now().await;
            }
            if position.drain(&self.selection, batch, max) {
                return Ok(Pull::Full);
            }
            more |= position.next < end;
        }
        Ok(if more { Pull::More } else { Pull::Empty })
    }

    /// Makes the next wait end with [`Change::Logs`].
    pub(crate) fn mark_changed(&mut self) {
        self.names.mark_changed();
    }

    /// Returns when something has changed.
    pub(crate) async fn changed(&mut self) -> Change {
        let Self { positions, names, .. } = self;
        let grown = async {
            if positions.is_empty() {
                return future::pending().await;
            }
            let changes = positions.iter_mut().map(|position| Box::pin(position.end.changed()));
            future::select_all(changes).await.0
        };
        tokio::select! {
            biased;
            Ok(()) = names.changed() => Change::Logs,
            grown = grown => if grown.is_ok() { Change::Grown } else { Change::Closed },
        }
    }
}

/// Writes positions in logs into a token.
pub(crate) fn write_positions<'a>(writer: &mut Writer, positions: impl ExactSizeIterator<Item = (&'a str, u64)>) {
    writer.u64(positions.len() as u64);
    for (log, next) in positions {
        writer.text(log);
        writer.u64(next);
    }
}

impl LogPosition {
    /// Examines the frames at hand; true when the batch is full.
    fn drain(&mut self, selection: &Selection, batch: &mut Batch, max: usize) -> bool {
        while let Some(frame) = self.frames.front() {
            if frame.devices().iter().any(|device| selection.selects(device)) {
                let from = self.next;
                for (offset, record) in frame.records().skip_while(|(offset, _)| *offset < from) {
                    if batch.is_full(max) {
                        return true;
                    }
                    if let Some(event) = event(self.log.id(), offset, record, selection, &mut batch.bytes) {
                        batch.events.push(event);
                    }
                    self.next = offset + 1;
                }
            }
            self.next = self.next.max(frame.header().end_offset());
            self.frames.pop_front();
        }
        batch.is_full(max)
    }
}

fn event(log: &str, offset: u64, record: Record<'_>, selection: &Selection, bytes: &mut usize) -> Option<Event> {
    let Record::Reading(reading) = record else { return None };
    if !selection.selects(reading.device) {
        return None;
    }
    let name = names::device(&reading.device.tenant, &reading.device.id);
    let reading = convert::reading(name, &reading, selection.metrics())?;
    *bytes += EVENT_BYTES + prost::Message::encoded_len(&reading);
    Some(Event { event_id: selection.event_id(log, offset), payload: Some(Payload::Reading(reading)) })
}
