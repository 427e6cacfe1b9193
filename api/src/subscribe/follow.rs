//! Follows the logs from a place on and picks the events that are wanted.

use std::collections::VecDeque;
use std::sync::Arc;

use buffer::frame::{Frame, Record};
use buffer::{Log, ReadError};
use futures::future;
use proto::v1::Event;
use proto::v1::event::Payload;
use tokio::sync::watch;
use tonic::Status;

use super::start::Wanted;
use crate::token::Writer;
use crate::{convert, errors, names};

/// Bytes of frames read at one time.
const READ_BYTES: usize = 256 << 10;
/// Bytes of values in a batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes that an event takes beside its values, about.
const EVENT_BYTES: usize = 120;

/// A place in one log.
pub(crate) struct Place {
    log: Arc<dyn Log>,
    end: watch::Receiver<u64>,
    /// Offset of the next record to look at.
    next: u64,
    /// Frames read and not yet looked through.
    frames: VecDeque<Frame>,
}

impl Place {
    pub(crate) fn new(log: &Arc<dyn Log>, next: u64) -> Self {
        Self { log: Arc::clone(log), end: log.watch_end(), next, frames: VecDeque::new() }
    }
}

/// How far a pull came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pull {
    /// The batch holds as much as it may.
    Full,
    /// There may be more at once.
    More,
    /// There is nothing more for now.
    Empty,
    /// What comes next is no longer in the log.
    Trimmed,
}

/// Follows all logs.
pub(crate) struct Follow {
    places: Vec<Place>,
    wanted: Wanted,
    names: watch::Receiver<Arc<[String]>>,
}

/// What a wait for news brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// A log has grown.
    Grown,
    /// A log came or went: [`Follow::renew`].
    Logs,
    /// A log was closed.
    Closed,
}

impl Follow {
    pub(crate) fn new(places: Vec<Place>, wanted: Wanted, names: watch::Receiver<Arc<[String]>>) -> Self {
        Self { places, wanted, names }
    }

    /// Follows these logs from now on: new ones from their beginning, those that went as far as they are not read yet.
    pub(crate) fn renew(&mut self, logs: &[Arc<dyn Log>]) {
        self.places.retain(|place| place.next < place.log.end() || logs.iter().any(|log| log.id() == place.log.id()));
        for log in logs {
            if !self.places.iter().any(|place| place.log.id() == log.id()) {
                self.places.push(Place::new(log, 0));
            }
        }
    }

    /// Writes the places into a token.
    pub(crate) fn write(&self, writer: &mut Writer) {
        write_places(writer, self.places.iter().map(|place| (place.log.id(), place.next)));
    }

    /// Adds what comes next, up to `max` events; reads each log at most once.
    pub(crate) async fn pull(&mut self, events: &mut Vec<Event>, max: usize) -> Result<Pull, Status> {
        let mut more = false;
        // Each log is the first one in turn, so that a busy one does not hold up the others.
        if self.places.len() > 1 {
            self.places.rotate_left(1);
        }
        for place in &mut self.places {
            let end = *place.end.borrow_and_update();
            if place.frames.is_empty() && place.next < end {
                match place.log.read(place.next, READ_BYTES).await {
                    Ok(frames) => place.frames.extend(frames),
                    Err(ReadError::Trimmed { .. }) => return Ok(Pull::Trimmed),
                    Err(error) => return Err(errors::log(place.log.id(), error)),
                }
                // Reads from the ring never wait: leave room for others.
                tokio::task::yield_now().await;
            }
            if place.drain(&self.wanted, events, max) {
                return Ok(Pull::Full);
            }
            more |= place.next < end;
        }
        Ok(if more { Pull::More } else { Pull::Empty })
    }

    /// The next wait ends with [`News::Logs`].
    pub(crate) fn look_again(&mut self) {
        self.names.mark_changed();
    }

    /// Returns when there is something new.
    pub(crate) async fn news(&mut self) -> News {
        let Self { places, names, .. } = self;
        let grown = async {
            if places.is_empty() {
                return future::pending().await;
            }
            let changes = places.iter_mut().map(|place| Box::pin(place.end.changed()));
            future::select_all(changes).await.0
        };
        tokio::select! {
            biased;
            Ok(()) = names.changed() => News::Logs,
            grown = grown => if grown.is_ok() { News::Grown } else { News::Closed },
        }
    }
}

/// Writes places in logs into a token.
pub(crate) fn write_places<'a>(writer: &mut Writer, places: impl ExactSizeIterator<Item = (&'a str, u64)>) {
    writer.u64(places.len() as u64);
    for (log, next) in places {
        writer.text(log);
        writer.u64(next);
    }
}

impl Place {
    /// Looks through the frames at hand; true when the batch is full.
    fn drain(&mut self, wanted: &Wanted, events: &mut Vec<Event>, max: usize) -> bool {
        let mut bytes = 0;
        while let Some(frame) = self.frames.front() {
            if frame.devices().iter().any(|device| wanted.takes(device)) {
                let from = self.next;
                for (offset, record) in frame.records().skip_while(|(offset, _)| *offset < from) {
                    if events.len() >= max || bytes >= BATCH_BYTES {
                        return true;
                    }
                    if let Some(event) = event(self.log.id(), offset, record, wanted, &mut bytes) {
                        events.push(event);
                    }
                    self.next = offset + 1;
                }
            }
            self.next = self.next.max(frame.header().end_offset());
            self.frames.pop_front();
        }
        events.len() >= max || bytes >= BATCH_BYTES
    }
}

fn event(log: &str, offset: u64, record: Record<'_>, wanted: &Wanted, bytes: &mut usize) -> Option<Event> {
    let Record::Reading(reading) = record else { return None };
    if !wanted.takes(reading.device) {
        return None;
    }
    let name = names::device(&reading.device.tenant, &reading.device.id);
    let reading = convert::reading(name, &reading, wanted.metrics())?;
    *bytes += EVENT_BYTES + prost::Message::encoded_len(&reading);
    Some(Event { event_id: format!("{log}:{offset}"), payload: Some(Payload::Reading(reading)) })
}
