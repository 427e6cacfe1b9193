//! The last messages of one client.

use std::collections::VecDeque;

use model::Nanos;

use super::Source;
use crate::frame::{Place, Seen};

/// Packet ids are 1 to this.
const IDS: u32 = 65_535;

/// A message in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    identity: u64,
    received: Nanos,
    place: Place,
    connection: u32,
    packet: u16,
    /// It came marked as resent, or has been sent again since: its packet id was not newly used.
    again: bool,
    /// It was in the log at the start, together with the sessions that get it.
    is_routed: bool,
}

impl Held {
    pub(super) fn new(seen: &Seen, place: Place, is_routed: bool) -> Self {
        Self {
            identity: seen.identity,
            received: seen.received,
            place,
            connection: seen.sent.connection,
            packet: seen.sent.packet,
            again: seen.resent,
            is_routed,
        }
    }
}

/// A client's messages, oldest first, as far as they are kept.
#[derive(Debug, Default)]
pub(super) struct Client {
    messages: VecDeque<Held>,
    /// A session ended at this time: earlier messages are not sent again.
    ended: Option<Nanos>,
    /// The connection of the last message is open.
    is_connected: bool,
    /// Batch of the last message or of the end of the connection.
    used: u64,
    /// Messages came from another log after later ones: a message behind them may have begun anew.
    has_late: bool,
}

impl Client {
    pub(super) fn capacity(&self) -> usize {
        self.messages.capacity()
    }

    /// Order of removal: clients that have left before those that are connected.
    pub(super) fn rank(&self) -> (bool, u64) {
        (self.is_connected, self.used)
    }

    /// Returns the place in the log of a message.
    pub(super) fn place(&self, at: usize) -> Place {
        self.messages.get(at).map_or(Place::UNKNOWN, |held| held.place)
    }

    /// True for a message that was in the log at the start, together with the sessions that get it.
    pub(super) fn is_routed(&self, at: usize) -> bool {
        self.messages.get(at).is_some_and(|held| held.is_routed)
    }

    pub(super) fn leave(&mut self, connection: u32, turn: u64) {
        if self.messages.back().is_some_and(|last| last.connection == connection) {
            self.is_connected = false;
            self.used = turn;
        }
    }

    /// Ends a session: the messages before are confirmed.
    pub(super) fn end(&mut self, received: Nanos, turn: u64) {
        self.used = turn;
        self.messages.retain(|held| held.received > received);
        self.ended = self.ended.max(Some(received));
    }

    /// Forgets the message under this packet id.
    pub(super) fn release(&mut self, packet: u16) {
        if let Some(at) = self.messages.iter().rposition(|held| held.packet == packet) {
            self.messages.remove(at);
        }
    }

    pub(super) fn shrink(&mut self, most: usize) {
        self.messages.drain(..self.messages.len().saturating_sub(most));
        self.messages.shrink_to(most);
    }

    /// Adds a message; of another log, or of an earlier connection, at its place in time.
    pub(super) fn note(&mut self, held: Held, source: Source, most: usize, turn: u64) {
        let elsewhere = source == Source::Elsewhere;
        self.used = turn;
        let last = self.messages.back();
        let is_older = last.is_some_and(|last| held.received < last.received && held.connection != last.connection);
        let is_late = is_older && (elsewhere || self.messages.iter().any(|other| other.connection == held.connection));
        if elsewhere && (self.ended >= Some(held.received) || self.messages.contains(&held)) {
            return;
        }
        if self.messages.len() >= most {
            self.messages.drain(..=self.messages.len() - most);
        }
        if !held.again && !is_late && self.begins_anew(&held, most) {
            self.messages.retain(|other| other.connection == held.connection);
        }
        if is_late {
            let at = self.messages.partition_point(|other| other.received <= held.received);
            self.messages.insert(at, held);
            self.has_late = true;
        } else {
            self.is_connected |= source == Source::Here;
            self.messages.push_back(held);
        }
    }

    /// True for the first new message of a connection if its packet id does not continue those
    /// before: what the client held before is gone, or was sent again over this connection.
    fn begins_anew(&self, held: &Held, most: usize) -> bool {
        let Some(last) = self.messages.back() else { return false };
        let is_new = |other: &Held| other.connection == held.connection && !other.again;
        !is_new(last) && !continues(last.packet, held.packet, most) && !self.messages.iter().any(is_new)
    }

    /// Forgets what the client held before a connection that began anew, for messages that were
    /// not known when the first of that connection was noted.
    fn forget_earlier_lives(&mut self, most: usize) {
        self.has_late = false;
        let (mut met, mut last): (Vec<u32>, Option<u16>) = (Vec::new(), None);
        let mut begins = None;
        for (at, held) in self.messages.iter().enumerate() {
            if !held.again && !met.contains(&held.connection) {
                met.push(held.connection);
                if last.is_some_and(|last| !continues(last, held.packet, most)) {
                    begins = Some((at, held.connection));
                }
            }
            last = Some(held.packet);
        }
        if let Some((begins, connection)) = begins {
            let mut at = 0..;
            self.messages.retain(|held| at.next() >= Some(begins) || held.connection == connection);
        }
    }

    /// Returns the index of a message that the client may send again and that is now marked as
    /// resent. `met` is all clear, before and after.
    pub(super) fn find(&mut self, seen: &Seen, most: usize, met: &mut [u64; 1024]) -> Option<usize> {
        if self.has_late {
            self.forget_earlier_lives(most);
        }
        let found = self.walk(seen, most, met);
        for held in self.messages.iter().rev().take(most) {
            met[usize::from(held.packet >> 6)] = 0;
        }
        found
    }

    fn walk(&self, seen: &Seen, most: usize, met: &mut [u64; 1024]) -> Option<usize> {
        let sent = &seen.sent;
        let mut connection = self.messages.back()?.connection;
        // The first new packet id of the connection that the walk is in.
        let mut first_new = None;
        for (at, held) in self.messages.iter().enumerate().rev().take(most) {
            if held.connection != connection {
                if first_new.is_some_and(|new| !continues(held.packet, new, most)) {
                    return None;
                }
                (connection, first_new) = (held.connection, None);
            }
            if held.packet == sent.packet {
                let is_same = held.identity == seen.identity;
                let is_open = held.connection != sent.connection || sent.in_flight;
                match (sent.packet, is_same) {
                    (0, true) => return Some(at),
                    (0, false) => continue,
                    (_, same) => return (same && is_open).then_some(at),
                }
            }
            let (word, bit) = (&mut met[usize::from(held.packet >> 6)], 1 << (held.packet & 63));
            if *word & bit != 0 {
                // Its packet id was used again: this message and those before are confirmed.
                return None;
            }
            *word |= bit;
            if !held.again {
                first_new = Some(held.packet);
            }
        }
        None
    }

    /// Returns the index of a message with equal contents and an equal time of the device's own:
    /// the same readings, under whichever packet id they came. Without such a time, the packet id
    /// is part of the identity.
    pub(super) fn find_equal(&self, seen: &Seen) -> Option<usize> {
        let equal = |held: &Held| held.identity == seen.identity && (seen.is_timed || held.packet != seen.sent.packet);
        self.messages.iter().rposition(equal)
    }

    /// Returns the index of a message that an earlier connection received but handed on after the
    /// present one had handed on its copy.
    pub(super) fn find_later_copy(&self, seen: &Seen) -> Option<usize> {
        let last = self.messages.back()?;
        if last.connection == seen.sent.connection || last.received <= seen.received {
            return None;
        }
        self.messages.iter().rposition(|held| {
            held.again
                && held.received > seen.received
                && held.packet == seen.sent.packet
                && held.identity == seen.identity
        })
    }

    /// Notes that a message came again, over the connection of `seen`.
    pub(super) fn sent_again(&mut self, at: usize, seen: &Seen, turn: u64) {
        if let Some(held) = self.messages.remove(at) {
            let (connection, received) = (seen.sent.connection, seen.received);
            self.messages.push_back(Held { connection, received, again: true, ..held });
        }
        (self.is_connected, self.used) = (true, turn);
    }
}

/// True when a packet id follows another within a window of `most`.
fn continues(before: u16, packet: u16, most: usize) -> bool {
    let ahead = (u32::from(packet) + IDS - u32::from(before)) % IDS;
    (1..=most).contains(&(ahead as usize))
}
