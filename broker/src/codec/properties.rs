//! MQTT 5 properties (section 2.2.2): which there are, of what type, and in which packets.

use super::{DecodeError, Reader};

/// Property ids.
pub mod id {
    #![expect(missing_docs, reason = "the standard's own names")]
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0B;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const SERVER_REFERENCE: u8 = 0x1C;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2A;
}

/// Where properties stand; each place allows its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// CONNECT.
    Connect,
    /// The will inside CONNECT.
    Will,
    /// PUBLISH from a client.
    Publish,
    /// PUBLISH from a server.
    Delivery,
    /// CONNACK.
    Connack,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
    Answer,
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// DISCONNECT from a client.
    Disconnect,
    /// DISCONNECT from a server.
    Dismissal,
    /// AUTH.
    Auth,
}

/// The value of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of any width.
    Number(u32),
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(&'a [u8]),
    /// A name and a value.
    Pair(&'a str, &'a str),
}

/// A property with the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// Its id.
    pub id: u8,
    /// Its value.
    pub value: Value<'a>,
    /// Id and value, as sent.
    pub raw: &'a [u8],
}

/// Reads the length and the properties behind it, checks every one, and returns their bytes.
pub(crate) fn read<'a>(reader: &mut Reader<'a>, place: Place) -> Result<&'a [u8], DecodeError> {
    let length = reader.varint()?;
    let bytes = reader.take(length as usize)?;
    let mut seen = 0_u64;
    let mut rest = Reader::new(bytes);
    while !rest.is_empty() {
        let property = next(&mut rest)?;
        let bit = 1_u64 << (property.id & 63);
        if !allowed(property.id, place) {
            return Err(DecodeError::protocol("a property is not allowed in this packet"));
        }
        let repeats = property.id == id::USER || (property.id == id::SUBSCRIPTION_ID && place == Place::Delivery);
        if seen & bit != 0 && !repeats {
            return Err(DecodeError::protocol("a property stands twice"));
        }
        seen |= bit;
        check(&property)?;
    }
    let has = |id: u8| seen & (1 << id) != 0;
    if has(id::AUTHENTICATION_DATA) && !has(id::AUTHENTICATION_METHOD) {
        return Err(DecodeError::protocol("authentication data without an authentication method"));
    }
    Ok(bytes)
}

/// The properties in bytes that were checked when their packet was read.
pub fn iterate(bytes: &[u8]) -> impl Iterator<Item = Property<'_>> {
    let mut rest = Reader::new(bytes);
    std::iter::from_fn(move || if rest.is_empty() { None } else { next(&mut rest).ok() })
}

/// The number of a property that stands at most once.
pub(crate) fn number(bytes: &[u8], wanted: u8) -> Option<u32> {
    iterate(bytes).find_map(|p| match p.value {
        Value::Number(n) if p.id == wanted => Some(n),
        _ => None,
    })
}

fn next<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
    let whole = reader.rest();
    let id = reader.u8()?;
    let value = match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Value::Number(u32::from(reader.u8()?)),
        0x13 | 0x21 | 0x22 | 0x23 => Value::Number(u32::from(reader.u16()?)),
        0x02 | 0x11 | 0x18 | 0x27 => Value::Number(reader.u32()?),
        0x0B => Value::Number(reader.varint()?),
        0x03 | 0x08 | 0x12 | 0x15 | 0x1A | 0x1C | 0x1F => Value::Text(reader.text()?),
        0x09 | 0x16 => Value::Binary(reader.binary()?),
        0x26 => Value::Pair(reader.text()?, reader.text()?),
        _ => return Err(DecodeError::malformed("a property does not exist")),
    };
    Ok(Property { id, value, raw: &whole[..whole.len() - reader.rest().len()] })
}

fn allowed(property: u8, place: Place) -> bool {
    match property {
        id::PAYLOAD_FORMAT | id::MESSAGE_EXPIRY | id::CONTENT_TYPE | id::RESPONSE_TOPIC | id::CORRELATION_DATA => {
            matches!(place, Place::Publish | Place::Delivery | Place::Will)
        }
        id::SUBSCRIPTION_ID => matches!(place, Place::Subscribe | Place::Delivery),
        id::SESSION_EXPIRY => matches!(place, Place::Connect | Place::Connack | Place::Disconnect),
        id::AUTHENTICATION_METHOD | id::AUTHENTICATION_DATA => {
            matches!(place, Place::Connect | Place::Connack | Place::Auth)
        }
        id::REQUEST_PROBLEM | id::REQUEST_RESPONSE => place == Place::Connect,
        id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::MAXIMUM_PACKET_SIZE => {
            matches!(place, Place::Connect | Place::Connack)
        }
        id::WILL_DELAY => place == Place::Will,
        id::REASON_STRING => {
            matches!(place, Place::Connack | Place::Answer | Place::Disconnect | Place::Dismissal | Place::Auth)
        }
        id::SERVER_REFERENCE => matches!(place, Place::Connack | Place::Dismissal),
        id::TOPIC_ALIAS => matches!(place, Place::Publish | Place::Delivery),
        id::USER => true,
        // The others stand in CONNACK only.
        _ => place == Place::Connack,
    }
}

fn check(property: &Property<'_>) -> Result<(), DecodeError> {
    let bad = match (property.id, property.value) {
        (
            id::PAYLOAD_FORMAT
            | id::REQUEST_PROBLEM
            | id::REQUEST_RESPONSE
            | id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARD_AVAILABLE
            | id::SUBSCRIPTION_ID_AVAILABLE
            | id::SHARED_AVAILABLE,
            Value::Number(n),
        ) => n > 1,
        (id::RECEIVE_MAXIMUM | id::MAXIMUM_PACKET_SIZE | id::SUBSCRIPTION_ID, Value::Number(n)) => n == 0,
        (id::RESPONSE_TOPIC, Value::Text(topic)) => model::topic::check_name(topic).is_err(),
        _ => false,
    };
    if bad { Err(DecodeError::protocol("a property has a value that it may not have")) } else { Ok(()) }
}
