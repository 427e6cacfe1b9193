//! Resent messages: a client that lost an acknowledgement sends its message again, and the message
//! is in the log already.
//!
//! For each client, the last messages that came under a packet id are held: they are learnt from
//! the log, so that they survive a restart, and from the logs of other nodes. A message that is
//! marked as resent is compared with them, newest first. It is in the log if the newest message
//! under its packet id has its identity, a keyed hash of topic and payload, and if the client may
//! not have received the acknowledgement of that one. It has received it
//!
//! - over one and the same connection, once it was sent: TCP loses nothing;
//! - if the client has used its packet id, or that of a later message, for a new message:
//!   acknowledgements are received in the order in which they are sent;
//! - if a later connection of the client began with packet ids that do not continue those before,
//!   as after a boot: what the client held before is gone;
//! - once its session has ended in order, or a QoS 2 message was released;
//! - if it has published [`Bounds::messages`] more: no client has more in flight.
//!
//! A resent message with a time of the device's own is also in the log if any message that is held
//! for its client has its identity: a device that publishes a reading twice, as two messages, sends
//! the same reading.
//!
//! A resent message that is dropped takes the place of the one in the log, as of this connection:
//! its acknowledgement may be lost, too.
//!
//! Everything is bounded: messages of a client by [`Bounds::messages`], and all of them by
//! [`Bounds::bytes`]. When those are used up, each client keeps its share of them, at least
//! [`LEAST`] messages; then clients that are not connected leave, first those that left first.

mod client;
#[cfg(test)]
mod tests;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use model::Nanos;

use crate::frame::{Frame, FrameBuilder, Place, Record, Seen, Sighting};
use client::{Client, Held};

/// Messages that a client keeps at least, when the memory is shared by many.
const LEAST: usize = 16;
/// Approximate bytes of a client without messages.
const CLIENT_BYTES: usize = 96;
const HELD_BYTES: usize = size_of::<Held>();

/// Bounds of the memory of resent messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Messages of one client.
    pub(crate) messages: usize,
    /// Bytes in total.
    pub(crate) bytes: usize,
}

/// News of a client that are not records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A connection has ended.
    Left {
        /// Keyed hash of tenant and client id.
        client: u64,
        /// Number of the connection.
        connection: u32,
    },
    /// The client has released a QoS 2 message: it does not send it again.
    Released {
        /// Keyed hash of tenant and client id.
        client: u64,
        /// Packet id.
        packet: u16,
    },
}

/// Where a message was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In the batch that is being written.
    Here,
    /// In this log, of an earlier start.
    Log,
    /// In another log.
    Elsewhere,
}

/// The outcome of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    New,
    /// It is in the log.
    Known,
    /// And was there at the start, together with the sessions that get it.
    Routed,
}

/// The last messages of all clients.
#[derive(Debug)]
pub(crate) struct Resends {
    clients: HashMap<u64, Client, FixedState>,
    bounds: Bounds,
    bytes: usize,
    /// Number of the current batch.
    turn: u64,
    /// Packet ids that a walk has met; all clear between two walks.
    met: Box<[u64; 1024]>,
}

impl Resends {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { clients: HashMap::default(), bounds, bytes: 0, turn: 0, met: Box::new([0; 1024]) }
    }

    /// Learns the messages of a frame of this log.
    pub(crate) fn learn(&mut self, frame: &Frame) {
        self.learn_from(frame, Source::Log);
    }

    /// Learns the messages of a frame of another log, which may be older than those known here.
    pub(crate) fn learn_elsewhere(&mut self, frame: &Frame) {
        self.learn_from(frame, Source::Elsewhere);
    }

    fn learn_from(&mut self, frame: &Frame, source: Source) {
        let routed = if source == Source::Log { routed(frame) } else { HashSet::default() };
        for (place, sighting) in frame.sightings() {
            match sighting {
                Sighting::Message(seen) => {
                    let is_routed = routed.contains(&place.offset);
                    let place = if source == Source::Log { place } else { Place::UNKNOWN };
                    self.take(&seen, (place, is_routed), source, |_| true);
                }
                Sighting::End { client, received } => self.end(client, received),
            }
        }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Left { client, connection } => {
                if let Some(held) = self.clients.get_mut(&client) {
                    held.leave(connection, self.turn);
                }
            }
            Notice::Released { client, packet } => {
                if let Some(held) = self.clients.get_mut(&client) {
                    held.release(packet);
                }
            }
        }
    }

    /// Drops the messages of a batch that are in the log already or earlier in the batch, and notes
    /// the others. `end` is the offset at which the batch will be appended, if known; `at` returns
    /// the frame with an offset, as long as it is in memory. Adds the senders of messages that were
    /// in the log at the start, together with the sessions that get them, to `routed`. Returns the
    /// number of dropped records.
    pub(crate) fn screen(
        &mut self,
        batch: &mut FrameBuilder,
        end: Option<u64>,
        at: impl Fn(u64) -> Option<Frame>,
        routed: &mut Vec<(u32, u16)>,
    ) -> u32 {
        self.turn += 1;
        batch.retain_messages(|sighting, before, record| {
            let seen = match sighting {
                Sighting::Message(seen) => seen,
                Sighting::End { client, received } => {
                    self.end(*client, *received);
                    return true;
                }
            };
            let place = end.map_or(Place::UNKNOWN, |end| Place { offset: end + before.offset, ..before });
            let taken = self.take(seen, (place, false), Source::Here, |held| {
                // By value, where the record is at hand.
                let Some(frame) = held.is_known().then(|| at(held.offset)).flatten() else { return true };
                frame.contents(held).is_none_or(|(stored, contents)| {
                    identity(&stored) != Some(seen.identity) || record.has_contents_of(&stored, contents)
                })
            });
            if taken == Taken::Routed {
                routed.push((seen.sent.connection, seen.sent.packet));
            }
            taken == Taken::New
        })
    }

    /// Notes a message, unless it is in the log already: `is_same` compares it with the record at a
    /// place there.
    fn take(
        &mut self,
        seen: &Seen,
        (place, is_routed): (Place, bool),
        source: Source,
        is_same: impl Fn(Place) -> bool,
    ) -> Taken {
        let most = self.share();
        let held = self.clients.entry(seen.sent.client).or_insert_with(|| {
            self.bytes += CLIENT_BYTES;
            Client::default()
        });
        if source == Source::Here {
            let found = if seen.resent {
                held.find(seen, self.bounds.messages, &mut self.met).or_else(|| held.find_equal(seen))
            } else {
                held.find_later_copy(seen)
            };
            if let Some(found) = found.filter(|found| is_same(held.place(*found))) {
                if !seen.resent {
                    return Taken::Known;
                }
                let taken = if held.is_routed(found) { Taken::Routed } else { Taken::Known };
                held.sent_again(found, seen, self.turn);
                return taken;
            }
        }
        let before = held.capacity();
        held.note(Held::new(seen, place, is_routed), source, most, self.turn);
        self.bytes += held.capacity().saturating_sub(before) * HELD_BYTES;
        if self.bytes > self.bounds.bytes {
            self.make_room();
        }
        Taken::New
    }

    fn end(&mut self, client: u64, received: Nanos) {
        let held = self.clients.entry(client).or_insert_with(|| {
            self.bytes += CLIENT_BYTES;
            Client::default()
        });
        held.end(received, self.turn);
        if self.bytes > self.bounds.bytes {
            self.make_room();
        }
    }

    /// Messages that a client may keep now.
    fn share(&self) -> usize {
        let room = self.bounds.bytes / 4 * 3 / HELD_BYTES;
        (room / self.clients.len().max(1)).clamp(LEAST.min(self.bounds.messages), self.bounds.messages)
    }

    /// Cuts every client to its share; then removes clients, those first that left first.
    fn make_room(&mut self) {
        let most = self.share();
        let mut bytes = 0;
        for held in self.clients.values_mut() {
            held.shrink(most);
            bytes += CLIENT_BYTES + held.capacity() * HELD_BYTES;
        }
        let aim = self.bounds.bytes / 8 * 7;
        if bytes > aim {
            let mut order: Vec<_> = self.clients.iter().map(|(id, held)| (held.rank(), *id)).collect();
            order.sort_unstable();
            for (_, id) in order {
                if bytes <= aim {
                    break;
                }
                if let Some(held) = self.clients.remove(&id) {
                    bytes -= CLIENT_BYTES + held.capacity() * HELD_BYTES;
                }
            }
        }
        self.bytes = bytes;
    }
}

/// The offsets of messages that are followed by the sessions that get them. One whose frame ends
/// before is not among them: those may have been lost.
fn routed(frame: &Frame) -> HashSet<u64, FixedState> {
    let has_sessions = |record: &Record<'_>| matches!(record, Record::Retained(retained) if retained.topic.starts_with(model::topic::MESSAGES));
    // Most frames are telemetry alone.
    if !frame.records().any(|(_, record)| has_sessions(&record)) {
        return HashSet::default();
    }
    let begins: HashSet<u64, FixedState> = frame.sightings().map(|(place, _)| place.offset).collect();
    let (mut routed, mut message) = (HashSet::default(), None);
    for (offset, record) in frame.records() {
        if begins.contains(&offset) {
            message = Some(offset);
        } else if has_sessions(&record) {
            routed.extend(message);
        }
    }
    routed
}

fn identity(record: &Record<'_>) -> Option<u64> {
    match record {
        Record::Reading(reading) => Some(reading.identity),
        Record::DeadLetter(letter) => Some(letter.identity),
        Record::Retained(_) | Record::SessionEnd(_) | Record::Destroyed(_) => None,
    }
}
