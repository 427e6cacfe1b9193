//! PUBLISH (section 3.3), in place.

use super::properties::{self, Carrier, id};
use super::{DecodeError, Framing, Reader, Version, reason};

/// A PUBLISH, borrowed from the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Topic name; empty when only an alias was sent.
    pub topic: &'a str,
    /// Topic alias.
    pub alias: Option<u16>,
    /// Payload.
    pub payload: &'a [u8],
    /// 0, 1 or 2.
    pub qos: u8,
    /// The message may have been sent before.
    pub dup: bool,
    /// Retain flag.
    pub retain: bool,
    /// Packet id; 0 at QoS 0.
    pub packet_id: u16,
    /// Properties as sent, checked.
    pub properties: &'a [u8],
}

/// Reads the body of a PUBLISH from a client.
///
/// # Errors
/// [`DecodeError`].
pub fn decode<'a>(framing: &Framing, body: &'a [u8], version: Version) -> Result<Publish<'a>, DecodeError> {
    let flags = framing.flags();
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    if qos == 3 {
        return Err(DecodeError::malformed("QoS 3 does not exist"));
    }
    if dup && qos == 0 {
        return Err(DecodeError::malformed("DUP is set at QoS 0"));
    }
    let mut reader = Reader::new(body);
    let topic = reader.text()?;
    let packet_id = if qos > 0 { reader.packet_id()? } else { 0 };
    let own = if version == Version::V5 { properties::read(&mut reader, Carrier::Publish)? } else { &[] };
    let alias = if own.is_empty() { None } else { properties::number(own, id::TOPIC_ALIAS) };
    let alias = alias.and_then(|n| u16::try_from(n).ok());
    if alias == Some(0) {
        return Err(DecodeError { reason: reason::TOPIC_ALIAS_INVALID, what: "topic alias 0 does not exist" });
    }
    if topic.is_empty() {
        if alias.is_none() {
            return Err(DecodeError::protocol("PUBLISH has neither a topic nor an alias"));
        }
    } else {
        model::topic::check_name(topic)
            .map_err(|_| DecodeError::malformed("a topic name contains no wildcards and no U+0000"))?;
    }
    Ok(Publish { topic, alias, payload: reader.rest(), qos, dup, retain, packet_id, properties: own })
}
