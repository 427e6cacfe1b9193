//! PUBACK, PUBREC, PUBREL, PUBCOMP (sections 3.4 to 3.7) and DISCONNECT (3.14) from a client.

use super::properties::{self, Place, id};
use super::{DecodeError, Reader, Version, reason};

/// An answer to a PUBLISH, or the answer to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Which message.
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
            properties::read(&mut reader, Place::Answer)?;
        }
    }
    reader.end()?;
    Ok(answer)
}

/// A DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect {
    /// 0x00 takes the will back, 0x04 does not.
    pub reason: u8,
    /// The session's new life, when given.
    pub session_expiry_secs: Option<u32>,
}

/// Reads the body of a DISCONNECT; reason and properties may each be left out.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_disconnect(body: &[u8], version: Version) -> Result<Disconnect, DecodeError> {
    let mut reader = Reader::new(body);
    let mut disconnect = Disconnect { reason: reason::SUCCESS, session_expiry_secs: None };
    if version == Version::V5 && !reader.is_empty() {
        disconnect.reason = reader.u8()?;
        if !reader.is_empty() {
            let own = properties::read(&mut reader, Place::Disconnect)?;
            disconnect.session_expiry_secs = properties::number(own, id::SESSION_EXPIRY);
        }
    }
    reader.end()?;
    Ok(disconnect)
}
