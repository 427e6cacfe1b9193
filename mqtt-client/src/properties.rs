//! MQTT 5 properties (section 2.2.2): their ids, types and encoding.

use crate::decode::{DecodeError, Reader};
use crate::encode::{prefixed, varint};

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

/// A property of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// Property id.
    pub id: u8,
    /// Value, of the type that belongs to the id.
    pub value: Value<'a>,
}

/// The value of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number of any width.
    Number(u32),
    /// UTF-8 text.
    Text(&'a str),
    /// Binary data.
    Binary(&'a [u8]),
    /// Name and value of a user property.
    Pair(&'a str, &'a str),
}

enum Kind {
    Byte,
    TwoBytes,
    FourBytes,
    Varint,
    Text,
    Binary,
    Pair,
}

fn kind(property: u8) -> Option<Kind> {
    Some(match property {
        id::PAYLOAD_FORMAT | id::REQUEST_PROBLEM | id::REQUEST_RESPONSE => Kind::Byte,
        id::MAXIMUM_QOS | id::RETAIN_AVAILABLE | id::WILDCARD_AVAILABLE => Kind::Byte,
        id::SUBSCRIPTION_ID_AVAILABLE | id::SHARED_AVAILABLE => Kind::Byte,
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::TOPIC_ALIAS => Kind::TwoBytes,
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAXIMUM_PACKET_SIZE => Kind::FourBytes,
        id::SUBSCRIPTION_ID => Kind::Varint,
        id::CONTENT_TYPE | id::RESPONSE_TOPIC | id::ASSIGNED_CLIENT_ID | id::AUTHENTICATION_METHOD => Kind::Text,
        id::RESPONSE_INFORMATION | id::SERVER_REFERENCE | id::REASON_STRING => Kind::Text,
        id::CORRELATION_DATA | id::AUTHENTICATION_DATA => Kind::Binary,
        id::USER => Kind::Pair,
        _ => return None,
    })
}

/// Encodes properties for the `properties` field of a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PropertyList(Vec<u8>);

impl PropertyList {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a property with a number.
    ///
    /// # Panics
    /// When the property's type is not a number or `value` exceeds its width.
    #[must_use]
    pub fn number(mut self, property: u8, value: u32) -> Self {
        self.0.push(property);
        match kind(property) {
            Some(Kind::Byte) => self.0.push(u8::try_from(value).expect("the value fits into one byte")),
            Some(Kind::TwoBytes) => {
                let value = u16::try_from(value).expect("the value fits into two bytes");
                self.0.extend_from_slice(&value.to_be_bytes());
            }
            Some(Kind::FourBytes) => self.0.extend_from_slice(&value.to_be_bytes()),
            Some(Kind::Varint) => varint(&mut self.0, value as usize),
            _ => panic!("property {property:#04x} is not a number"),
        }
        self
    }

    /// Adds a property with text or binary data.
    ///
    /// # Panics
    /// When `value` is longer than 65,535 bytes.
    #[must_use]
    pub fn bytes(mut self, property: u8, value: impl AsRef<[u8]>) -> Self {
        self.0.push(property);
        prefixed(&mut self.0, value.as_ref());
        self
    }

    /// Adds a user property.
    ///
    /// # Panics
    /// When the name or the value is longer than 65,535 bytes.
    #[must_use]
    pub fn user(mut self, name: &str, value: &str) -> Self {
        self.0.push(id::USER);
        prefixed(&mut self.0, name.as_bytes());
        prefixed(&mut self.0, value.as_bytes());
        self
    }

    /// The encoded properties, without their length.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads the encoded properties of a decoded packet.
pub fn iterate(bytes: &[u8]) -> impl Iterator<Item = Property<'_>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || if reader.is_empty() { None } else { next(&mut reader).ok() })
}

/// Reads a length and that many bytes of well-formed properties.
pub(crate) fn read<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = reader.varint()?;
    let bytes = reader.take(length)?;
    let mut rest = Reader::new(bytes);
    while !rest.is_empty() {
        next(&mut rest)?;
    }
    Ok(bytes)
}

fn next<'a>(reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
    let id = reader.u8()?;
    let kind = kind(id).ok_or(DecodeError("a property has an unknown id"))?;
    let value = match kind {
        Kind::Byte => Value::Number(reader.u8()?.into()),
        Kind::TwoBytes => Value::Number(reader.u16()?.into()),
        Kind::FourBytes => Value::Number(reader.u32()?),
        Kind::Varint => {
            Value::Number(u32::try_from(reader.varint()?).map_err(|_| DecodeError("a number is too large"))?)
        }
        Kind::Text => Value::Text(reader.text()?),
        Kind::Binary => Value::Binary(reader.binary()?),
        Kind::Pair => Value::Pair(reader.text()?, reader.text()?),
    };
    Ok(Property { id, value })
}
