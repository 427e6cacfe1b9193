//! Senders of messages that may come again, and ends of their sessions, in the records of a frame.

use super::record::{
    DEVICE_TIMED, FIXED_BYTES, HAS_CLAIMED, HAS_SENDER, HAS_SEQ, HAS_TRACE, IN_FLIGHT, KIND_READING, KIND_SESSION_END,
    RESENT, TRACE_BYTES,
};
use model::Nanos;

/// Bytes of a sender in a record: client u64, connection u32.
pub(super) const SENDER_BYTES: usize = 12;

/// The sender of a message that may come again, kept in the first record of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Keyed hash of tenant and client id.
    pub client: u64,
    /// Number of the connection: no two of a client have the same.
    pub connection: u32,
    /// Packet id. 0 for a message that its client and its identity tell alone.
    pub packet: u16,
    /// The same packet came over this connection before and is not acknowledged yet.
    pub in_flight: bool,
}

/// The place of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Offset in the log.
    pub(crate) offset: u64,
    /// Position among the bytes of its frame's records. Wrong for a frame that was split.
    pub(crate) position: u32,
}

impl Place {
    /// The place of a record that is not at hand.
    pub(crate) const UNKNOWN: Self = Self { offset: u64::MAX, position: 0 };

    /// The place of the next record.
    pub(super) fn after(self, record: &[u8]) -> Self {
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        Self { offset: self.offset + 1, position: self.position.saturating_add(length) }
    }

    pub(crate) fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }
}

/// A record that matters to the recognition of resent messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// The first record of a message.
    Message(Seen),
    /// A session ended in order: its client sends none of its messages again.
    End {
        /// Keyed hash of tenant and client id.
        client: u64,
        /// Time of the end.
        received: Nanos,
    },
}

/// A message, by its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sent: Sent,
    pub(crate) received: Nanos,
    pub(crate) identity: u64,
    /// The sender marked it as possibly resent.
    pub(crate) resent: bool,
    /// Its first record has a time of the device's own.
    pub(crate) is_timed: bool,
}

/// Reads a whole record, checked; None for a record that does not matter.
pub(super) fn sighting(record: &[u8]) -> Option<Sighting> {
    let (kind, flags) = (record[4], record[5]);
    if kind != KIND_SESSION_END && flags & HAS_SENDER == 0 {
        return None;
    }
    let received = Nanos::from_le_bytes(*record.get(16..)?.first_chunk()?);
    let identity = u64::from_le_bytes(*record.get(32..)?.first_chunk()?);
    if kind == KIND_SESSION_END {
        return Some(Sighting::End { client: identity, received });
    }
    let sender: &[u8; SENDER_BYTES] = record.get(contents_at(kind, flags) - SENDER_BYTES..)?.first_chunk()?;
    let sent = Sent {
        client: u64::from_le_bytes(*sender.first_chunk()?),
        connection: u32::from_le_bytes(*sender.last_chunk()?),
        packet: u16::from_le_bytes(*record.get(6..)?.first_chunk()?),
        in_flight: flags & IN_FLIGHT != 0,
    };
    let is_timed = kind == KIND_READING && flags & DEVICE_TIMED != 0;
    Some(Sighting::Message(Seen { sent, received, identity, resent: flags & RESENT != 0, is_timed }))
}

/// Returns the place in a record where its values, or the fields of a dead letter, begin.
pub(super) fn contents_at(kind: u8, flags: u8) -> usize {
    let sender = if flags & HAS_SENDER != 0 { SENDER_BYTES } else { 0 };
    if kind != KIND_READING {
        return FIXED_BYTES + sender;
    }
    let numbers = [HAS_SEQ, HAS_CLAIMED].iter().filter(|flag| flags & **flag != 0).count();
    FIXED_BYTES + 8 * numbers + if flags & HAS_TRACE != 0 { TRACE_BYTES } else { 0 } + sender
}
