//! PUBACK, PUBREC, PUBREL, PUBCOMP (sections 3.4 to 3.7) and DISCONNECT (3.14) from a client.

use super::properties::{self, Carrier, id};
use super::{DecodeError, Reader, Version, packet_type, reason};

/// Reasons of PUBACK and PUBREC (sections 3.4.2.1 and 3.5.2.1).
const FIRST: &[u8] = &[
    reason::SUCCESS,
    reason::NO_MATCHING_SUBSCRIBERS,
    reason::UNSPECIFIED,
    reason::IMPLEMENTATION_SPECIFIC,
    reason::NOT_AUTHORIZED,
    reason::TOPIC_NAME_INVALID,
    reason::PACKET_ID_IN_USE,
    reason::QUOTA_EXCEEDED,
    reason::PAYLOAD_FORMAT_INVALID,
];
/// Reasons of PUBREL and PUBCOMP (sections 3.6.2.1 and 3.7.2.1).
const SECOND: &[u8] = &[reason::SUCCESS, reason::PACKET_ID_NOT_FOUND];
/// Reasons of a DISCONNECT from a client (section 3.14.2.1).
const ENDS: &[u8] = &[
    reason::SUCCESS,
    reason::DISCONNECT_WITH_WILL,
    reason::UNSPECIFIED,
    reason::MALFORMED,
    reason::PROTOCOL_ERROR,
    reason::IMPLEMENTATION_SPECIFIC,
    reason::TOPIC_NAME_INVALID,
    reason::RECEIVE_MAXIMUM_EXCEEDED,
    reason::TOPIC_ALIAS_INVALID,
    reason::PACKET_TOO_LARGE,
    reason::MESSAGE_RATE_TOO_HIGH,
    reason::QUOTA_EXCEEDED,
    reason::ADMINISTRATIVE_ACTION,
    reason::PAYLOAD_FORMAT_INVALID,
];
const UNKNOWN: DecodeError = DecodeError::protocol("a client cannot send this reason code in this packet");

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Packet id of the message.
    pub packet_id: u16,
    /// Reason code; 0x80 and above are failures.
    pub reason: u8,
}

impl Answer {
    /// Checks that a packet of this type can have the reason.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn of(self, packet_type: u8) -> Result<Self, DecodeError> {
        let is_first = matches!(packet_type, packet_type::PUBACK | packet_type::PUBREC);
        let reasons = if is_first { FIRST } else { SECOND };
        if reasons.contains(&self.reason) { Ok(self) } else { Err(UNKNOWN) }
    }
}

/// Reads the body of a PUBACK, PUBREC, PUBREL or PUBCOMP. The reason is checked by [`Answer::of`].
///
/// # Errors
/// [`DecodeError`].
pub fn decode(body: &[u8], version: Version) -> Result<Answer, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let mut answer = Answer { packet_id, reason: reason::SUCCESS };
    if version == Version::V5 && !reader.is_empty() {
        answer.reason = reader.u8()?;
        if !reader.is_empty() {
            properties::read(&mut reader, Carrier::Answer)?;
        }
    }
    reader.end()?;
    Ok(answer)
}

/// A DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// 0x00 cancels the will message, 0x04 does not.
    pub reason: u8,
    /// New session expiry, when given.
    pub session_expiry_secs: Option<u32>,
}

/// Reads the body of a DISCONNECT; reason and properties are optional.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_disconnect(body: &[u8], version: Version) -> Result<Disconnect, DecodeError> {
    let mut reader = Reader::new(body);
    let mut disconnect = Disconnect { reason: reason::SUCCESS, session_expiry_secs: None };
    if version == Version::V5 && !reader.is_empty() {
        disconnect.reason = reader.u8()?;
        if !ENDS.contains(&disconnect.reason) {
            return Err(UNKNOWN);
        }
        if !reader.is_empty() {
            let own = properties::read(&mut reader, Carrier::Disconnect)?;
            disconnect.session_expiry_secs = properties::number(own, id::SESSION_EXPIRY);
        }
    }
    reader.end()?;
    Ok(disconnect)
}
