//! MQTT 5 properties (section 2.2.2): their types, and the packets that may carry them.

use model::trace::Carried;

use super::{DecodeError, Reader};

/// Property ids.
pub mod id {
    #![cfg_attr(feature = "fuzzing", expect(missing_docs, reason = "the standard's own names"))]
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

/// The packet, or part of one, that carries properties, from a client; each allows its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// CONNECT.
    Connect,
    /// The will message inside CONNECT.
    Will,
    /// PUBLISH.
    Publish,
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Answer,
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
    /// DISCONNECT.
    Disconnect,
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

/// A property, with the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// Property id.
    pub id: u8,
    /// Value.
    pub value: Value<'a>,
    /// Id and value, as sent.
    pub raw: &'a [u8],
}

/// Reads the length of the properties, checks each, and returns their bytes.
pub(crate) fn read<'a>(reader: &mut Reader<'a>, carrier: Carrier) -> Result<&'a [u8], DecodeError> {
    let length = reader.varint()?;
    let bytes = reader.take(length as usize)?;
    let mut seen = 0_u64;
    let mut rest = Reader::new(bytes);
    while !rest.is_empty() {
        let property = next(&mut rest)?;
        let bit = 1_u64 << (property.id & 63);
        if !allowed(property.id, carrier) {
            return Err(DecodeError::protocol("a property is not allowed in this packet"));
        }
        if seen & bit != 0 && property.id != id::USER {
            return Err(DecodeError::protocol("a property is repeated"));
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

/// Returns the properties in bytes that were checked when their packet was read.
pub fn iterate(bytes: &[u8]) -> impl Iterator<Item = Property<'_>> {
    let mut rest = Reader::new(bytes);
    std::iter::from_fn(move || if rest.is_empty() { None } else { next(&mut rest).ok() })
}

/// Returns the trace context among the user properties.
pub(crate) fn trace(bytes: &[u8]) -> Option<Carried<'_>> {
    if bytes.is_empty() {
        return None;
    }
    Carried::find(iterate(bytes).filter_map(|property| match property.value {
        Value::Pair(name, text) if property.id == id::USER => Some((name, text)),
        _ => None,
    }))
}

/// Returns the value of a numeric property that occurs at most once.
pub(crate) fn number(bytes: &[u8], wanted: u8) -> Option<u32> {
    iterate(bytes).find_map(|p| match p.value {
        Value::Number(n) if p.id == wanted => Some(n),
        _ => None,
    })
}

/// Returns the value of a property of text that occurs at most once.
pub(crate) fn text(bytes: &[u8], wanted: u8) -> Option<&str> {
    iterate(bytes).find_map(|p| match p.value {
        Value::Text(text) if p.id == wanted => Some(text),
        _ => None,
    })
}

/// Returns the value of a binary property that occurs at most once.
pub(crate) fn binary(bytes: &[u8], wanted: u8) -> Option<&[u8]> {
    iterate(bytes).find_map(|p| match p.value {
        Value::Binary(binary) if p.id == wanted => Some(binary),
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

fn allowed(property: u8, carrier: Carrier) -> bool {
    match property {
        id::PAYLOAD_FORMAT | id::MESSAGE_EXPIRY | id::CONTENT_TYPE | id::RESPONSE_TOPIC | id::CORRELATION_DATA => {
            matches!(carrier, Carrier::Publish | Carrier::Will)
        }
        id::SUBSCRIPTION_ID => carrier == Carrier::Subscribe,
        id::SESSION_EXPIRY => matches!(carrier, Carrier::Connect | Carrier::Disconnect),
        id::AUTHENTICATION_METHOD | id::AUTHENTICATION_DATA => matches!(carrier, Carrier::Connect | Carrier::Auth),
        id::REQUEST_PROBLEM | id::REQUEST_RESPONSE => carrier == Carrier::Connect,
        id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::MAXIMUM_PACKET_SIZE => carrier == Carrier::Connect,
        id::WILL_DELAY => carrier == Carrier::Will,
        id::REASON_STRING => matches!(carrier, Carrier::Answer | Carrier::Disconnect | Carrier::Auth),
        id::TOPIC_ALIAS => carrier == Carrier::Publish,
        id::USER => true,
        // The others are sent by servers only.
        _ => false,
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
    if bad { Err(DecodeError::protocol("a property has an invalid value")) } else { Ok(()) }
}
