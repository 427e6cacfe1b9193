//! MQTT 3.1.1 and 5.0 packets, read from and written into byte slices.
//!
//! PUBLISH and its acknowledgements are read in place, without an allocation. Packets are checked
//! here against all rules of the standard that do not depend on the session.

pub mod acks;
pub mod auth;
pub mod connect;
pub mod encode;
pub mod properties;
pub mod publish;
mod reader;
pub mod subscribe;

use reader::Reader;

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1
    V4,
    /// 5.0
    V5,
}

/// Reason codes of MQTT 5.0, section 2.4, that a server sends or reads.
pub mod reason {
    #![cfg_attr(feature = "fuzzing", expect(missing_docs, reason = "the standard's own names"))]
    pub const SUCCESS: u8 = 0x00;
    pub const DISCONNECT_WITH_WILL: u8 = 0x04;
    pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub const NO_SUBSCRIPTION: u8 = 0x11;
    pub const CONTINUE_AUTHENTICATION: u8 = 0x18;
    pub const REAUTHENTICATE: u8 = 0x19;
    pub const UNSPECIFIED: u8 = 0x80;
    pub const MALFORMED: u8 = 0x81;
    pub const PROTOCOL_ERROR: u8 = 0x82;
    pub const IMPLEMENTATION_SPECIFIC: u8 = 0x83;
    pub const UNSUPPORTED_VERSION: u8 = 0x84;
    pub const CLIENT_ID_INVALID: u8 = 0x85;
    pub const BAD_CREDENTIALS: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const SERVER_UNAVAILABLE: u8 = 0x88;
    pub const SERVER_BUSY: u8 = 0x89;
    pub const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    pub const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub const SESSION_TAKEN_OVER: u8 = 0x8E;
    pub const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub const TOPIC_NAME_INVALID: u8 = 0x90;
    pub const PACKET_ID_IN_USE: u8 = 0x91;
    pub const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
    pub const MESSAGE_RATE_TOO_HIGH: u8 = 0x96;
    pub const QUOTA_EXCEEDED: u8 = 0x97;
    pub const ADMINISTRATIVE_ACTION: u8 = 0x98;
    pub const PAYLOAD_FORMAT_INVALID: u8 = 0x99;
    pub const USE_ANOTHER_SERVER: u8 = 0x9C;
    pub const CONNECTION_RATE_EXCEEDED: u8 = 0x9F;
}

/// Packet types: the high half of a packet's first byte.
pub mod packet_type {
    #![cfg_attr(feature = "fuzzing", expect(missing_docs, reason = "the standard's own names"))]
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// The reason why a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct DecodeError {
    /// Reason code of the DISCONNECT.
    pub reason: u8,
    /// Explanation.
    pub what: &'static str,
}

impl DecodeError {
    pub(crate) const fn malformed(what: &'static str) -> Self {
        Self { reason: reason::MALFORMED, what }
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self { reason: reason::PROTOCOL_ERROR, what }
    }
}

/// The first byte of a packet, and the position of its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Type and flags.
    pub first: u8,
    /// Bytes before the body.
    pub header_bytes: usize,
    /// Bytes of the whole packet.
    pub total_bytes: usize,
}

impl Framing {
    /// The packet type.
    pub fn packet_type(&self) -> u8 {
        self.first >> 4
    }

    /// The low half of the first byte.
    pub fn flags(&self) -> u8 {
        self.first & 0x0F
    }
}

/// Reads the fixed header at the start of `bytes`. Returns None when it is incomplete; the body may
/// be incomplete too.
///
/// # Errors
/// [`DecodeError`] for an invalid length, or a packet larger than `max_packet_bytes`.
pub fn framing(bytes: &[u8], max_packet_bytes: usize) -> Result<Option<Framing>, DecodeError> {
    let Some(first) = bytes.first() else { return Ok(None) };
    let mut length = 0;
    for i in 0..4 {
        let Some(byte) = bytes.get(1 + i) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            let header_bytes = 2 + i;
            let total_bytes = header_bytes + length;
            if total_bytes > max_packet_bytes {
                return Err(DecodeError { reason: reason::PACKET_TOO_LARGE, what: "packet is larger than allowed" });
            }
            return Ok(Some(Framing { first: *first, header_bytes, total_bytes }));
        }
    }
    Err(DecodeError::malformed("remaining length takes more than four bytes"))
}

/// Checks the low half of the first byte of all packets but PUBLISH (MQTT 5.0, section 2.1.3).
///
/// # Errors
/// [`DecodeError`] for reserved bits or an unknown type.
pub fn check_flags(framing: &Framing) -> Result<(), DecodeError> {
    use packet_type::{PUBREL, SUBSCRIBE, UNSUBSCRIBE};
    let wanted = match framing.packet_type() {
        packet_type::PUBLISH => return Ok(()),
        PUBREL | SUBSCRIBE | UNSUBSCRIBE => 2,
        0 => return Err(DecodeError::malformed("packet type 0 is reserved")),
        _ => 0,
    };
    if framing.flags() == wanted { Ok(()) } else { Err(DecodeError::malformed("reserved flags are set")) }
}

#[cfg(test)]
mod tests;
