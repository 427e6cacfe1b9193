//! Packets that a server sends, read in place.

use crate::{Ack, Publish, Version, packet_type as kind, properties};

/// The server violated the protocol; the message names the violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub &'static str);

/// A packet from a server. Properties are encoded: see [`crate::iterate`]; they are empty with
/// 3.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Answer to CONNECT.
    Connack {
        /// The server resumes a session.
        session_present: bool,
        /// Reason code, or return code with 3.1.1.
        reason: u8,
        /// Encoded properties.
        properties: &'a [u8],
    },
    /// A message of a subscription.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        /// Type of the acknowledgement.
        ack: Ack,
        /// Packet id of the PUBLISH.
        packet_id: u16,
        /// Reason code; 0 with 3.1.1.
        reason: u8,
        /// Encoded properties.
        properties: &'a [u8],
    },
    /// Answer to SUBSCRIBE.
    Suback {
        /// Packet id of the SUBSCRIBE.
        packet_id: u16,
        /// One code for each filter.
        reasons: &'a [u8],
    },
    /// Answer to UNSUBSCRIBE.
    Unsuback {
        /// Packet id of the UNSUBSCRIBE.
        packet_id: u16,
        /// One code for each filter; empty with 3.1.1.
        reasons: &'a [u8],
    },
    /// Answer to PINGREQ.
    Pingresp,
    /// The server closes the connection (5.0).
    Disconnect {
        /// Reason code.
        reason: u8,
        /// Encoded properties.
        properties: &'a [u8],
    },
    /// The next step of an authentication, or its success (5.0).
    Auth {
        /// Reason code.
        reason: u8,
        /// Encoded properties.
        properties: &'a [u8],
    },
}

/// Lengths of a packet, from its fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    /// Bytes before the body.
    pub header_bytes: usize,
    /// Bytes of the whole packet.
    pub total_bytes: usize,
}

/// Reads the fixed header of the packet at the start of `input`. None when more bytes are needed;
/// the body may be incomplete.
///
/// # Errors
/// [`DecodeError`] when the remaining length takes more than four bytes.
pub fn framing(input: &[u8]) -> Result<Option<Framing>, DecodeError> {
    let mut length = 0;
    for i in 0..4 {
        let Some(byte) = input.get(1 + i) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some(Framing { header_bytes: 2 + i, total_bytes: 2 + i + length }));
        }
    }
    Err(DecodeError("the remaining length takes more than four bytes"))
}

/// Reads the packet at the start of `input`. Returns it with its length, or None when more bytes
/// are needed.
///
/// # Errors
/// [`DecodeError`] for bytes that are not a packet of a server.
pub fn decode(input: &[u8], version: Version) -> Result<Option<(Packet<'_>, usize)>, DecodeError> {
    let Some(Framing { header_bytes, total_bytes }) = framing(input)? else { return Ok(None) };
    let Some(body) = input.get(header_bytes..total_bytes) else { return Ok(None) };
    Ok(Some((packet(input[0], body, version)?, total_bytes)))
}

fn packet(first: u8, body: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    let packet_type = first >> 4;
    if packet_type == kind::PUBLISH {
        return publish(first, body, version).map(Packet::Publish);
    }
    if first & 0x0F != if packet_type == kind::PUBREL { 2 } else { 0 } {
        return Err(DecodeError("reserved flags are set"));
    }
    let v5 = version == Version::V5;
    let mut reader = Reader::new(body);
    let packet = match packet_type {
        kind::CONNACK => {
            let (flags, reason) = (reader.u8()?, reader.u8()?);
            if flags > 1 || (flags == 1 && reason != 0) {
                return Err(DecodeError("the flags of CONNACK contradict each other"));
            }
            let properties = if v5 { properties::read(&mut reader)? } else { &[] };
            Packet::Connack { session_present: flags == 1, reason, properties }
        }
        kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => {
            let ack = match packet_type {
                kind::PUBACK => Ack::Puback,
                kind::PUBREC => Ack::Pubrec,
                kind::PUBREL => Ack::Pubrel,
                _ => Ack::Pubcomp,
            };
            let packet_id = reader.packet_id()?;
            let (reason, properties) = if v5 { reason(&mut reader)? } else { (0, &[][..]) };
            Packet::Ack { ack, packet_id, reason, properties }
        }
        kind::SUBACK | kind::UNSUBACK => {
            let packet_id = reader.packet_id()?;
            if v5 {
                properties::read(&mut reader)?;
            }
            if packet_type == kind::SUBACK {
                Packet::Suback { packet_id, reasons: reader.rest() }
            } else {
                Packet::Unsuback { packet_id, reasons: if v5 { reader.rest() } else { &[] } }
            }
        }
        kind::PINGRESP => Packet::Pingresp,
        kind::DISCONNECT if v5 => {
            let (reason, properties) = reason(&mut reader)?;
            Packet::Disconnect { reason, properties }
        }
        kind::AUTH if v5 => {
            let (reason, properties) = reason(&mut reader)?;
            Packet::Auth { reason, properties }
        }
        _ => return Err(DecodeError("a server does not send this type of packet")),
    };
    if reader.is_empty() { Ok(packet) } else { Err(DecodeError("a packet is longer than its fields")) }
}

fn publish(first: u8, body: &[u8], version: Version) -> Result<Publish<'_>, DecodeError> {
    let (dup, qos, retain) = (first & 8 != 0, first >> 1 & 3, first & 1 != 0);
    if qos == 3 || (dup && qos == 0) {
        return Err(DecodeError("the flags of PUBLISH contradict each other"));
    }
    let mut reader = Reader::new(body);
    let topic = reader.text()?;
    let packet_id = if qos > 0 { reader.packet_id()? } else { 0 };
    let properties = if version == Version::V5 { properties::read(&mut reader)? } else { &[] };
    Ok(Publish { topic, payload: reader.rest(), qos, dup, retain, packet_id, properties })
}

/// Reads a reason and properties; a server may omit both, or the properties.
fn reason<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), DecodeError> {
    let reason = if reader.is_empty() { 0 } else { reader.u8()? };
    let properties = if reader.is_empty() { &[] } else { properties::read(reader)? };
    Ok((reason, properties))
}

/// Reads fields from the front of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DecodeError("a packet ends within a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub(crate) fn varint(&mut self) -> Result<usize, DecodeError> {
        let mut value = 0;
        for i in 0..4 {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError("a number takes more than four bytes"))
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.binary()?).map_err(|_| DecodeError("a text is not UTF-8"))
    }

    fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError("packet id 0 does not exist")),
            id => Ok(id),
        }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
