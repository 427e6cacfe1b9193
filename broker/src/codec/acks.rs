//! PUBACK, PUBREC, PUBREL, PUBCOMP (sections 3.4 to 3.7) and DISCONNECT (3.14) from a client.

use super::properties::{self, Carrier, id};
use super::{DecodeError, Reader, Version, reason};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Packet id of the message.
    pub packet_id: u16,
    /// Reason code; 0x80 and above are failures.
    pub reason: u8,
}

/// Reads the body of a PUBACK, PUBREC, PUBREL or PUBCOMP.
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
        if !reader.is_empty() {
            let own = properties::read(&mut reader, Carrier::Disconnect)?;
            disconnect.session_expiry_secs = properties::number(own, id::SESSION_EXPIRY);
        }
    }
    reader.end()?;
    Ok(disconnect)
}
