//! CONNECT (section 3.1).

use super::properties::{self, Place, Value, id};
use super::{DecodeError, Reader, Version, reason};

/// A CONNECT packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Version asked for.
    pub version: Version,
    /// Clean session, clean start.
    pub clean: bool,
    /// Seconds; 0 is off.
    pub keep_alive_secs: u16,
    /// Client id; empty asks for one to be assigned.
    pub client: String,
    /// What to publish when the connection breaks.
    pub will: Option<Will>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Seconds that the session outlives the connection, when given.
    pub session_expiry_secs: Option<u32>,
    /// Messages the client takes in flight.
    pub receive_maximum: u16,
    /// Largest packet the client takes.
    pub maximum_packet_bytes: Option<u32>,
    /// Topic aliases the client takes.
    pub topic_alias_maximum: u16,
    /// The client wants reason strings.
    pub problem_information: bool,
    /// An authentication method was asked for.
    pub authentication_method: Option<String>,
}

/// A will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// How.
    pub qos: u8,
    /// To be kept.
    pub retain: bool,
    /// Seconds to wait for the client to come back.
    pub delay_secs: u32,
    /// Properties to forward, encoded.
    pub properties: Vec<u8>,
}

/// Reads the body of a CONNECT.
///
/// # Errors
/// [`DecodeError`]; with [`reason::UNSUPPORTED_VERSION`] for a version that is not spoken.
pub fn decode(body: &[u8]) -> Result<Connect, DecodeError> {
    let mut reader = Reader::new(body);
    let name = reader.text()?;
    let level = reader.u8()?;
    let version = match (name, level) {
        ("MQTT", 4) => Version::V4,
        ("MQTT", 5) => Version::V5,
        ("MQTT" | "MQIsdp", _) => {
            return Err(DecodeError { reason: reason::UNSUPPORTED_VERSION, what: "only MQTT 3.1.1 and 5 are spoken" });
        }
        _ => return Err(DecodeError::protocol("protocol name is not MQTT")),
    };
    let flags = reader.u8()?;
    let (will, will_qos, will_retain) = (flags & 4 != 0, flags >> 3 & 3, flags & 0x20 != 0);
    if flags & 1 != 0 || will_qos == 3 || (!will && (will_qos != 0 || will_retain)) {
        return Err(DecodeError::malformed("connect flags contradict each other"));
    }
    if version == Version::V4 && flags & 0x40 != 0 && flags & 0x80 == 0 {
        return Err(DecodeError::malformed("password without a user name"));
    }
    let keep_alive_secs = reader.u16()?;
    let own = if version == Version::V5 { properties::read(&mut reader, Place::Connect)? } else { &[] };
    let client = reader.text()?.to_owned();
    let will = if will { Some(read_will(&mut reader, version, will_qos, will_retain)?) } else { None };
    let user = if flags & 0x80 != 0 { Some(reader.text()?.to_owned()) } else { None };
    let password = if flags & 0x40 != 0 { Some(reader.binary()?.to_vec()) } else { None };
    reader.end()?;
    let small = |wanted| properties::number(own, wanted).and_then(|n| u16::try_from(n).ok());
    Ok(Connect {
        version,
        clean: flags & 2 != 0,
        keep_alive_secs,
        client,
        will,
        user,
        password,
        session_expiry_secs: properties::number(own, id::SESSION_EXPIRY),
        receive_maximum: small(id::RECEIVE_MAXIMUM).unwrap_or(u16::MAX),
        maximum_packet_bytes: properties::number(own, id::MAXIMUM_PACKET_SIZE),
        topic_alias_maximum: small(id::TOPIC_ALIAS_MAXIMUM).unwrap_or(0),
        problem_information: properties::number(own, id::REQUEST_PROBLEM) != Some(0),
        authentication_method: properties::iterate(own).find_map(|p| match p.value {
            Value::Text(text) if p.id == id::AUTHENTICATION_METHOD => Some(text.to_owned()),
            _ => None,
        }),
    })
}

fn read_will(reader: &mut Reader<'_>, version: Version, qos: u8, retain: bool) -> Result<Will, DecodeError> {
    let own = if version == Version::V5 { properties::read(reader, Place::Will)? } else { &[] };
    let topic = reader.text()?;
    model::topic::check_name(topic)
        .map_err(|_| DecodeError { reason: reason::TOPIC_NAME_INVALID, what: "topic of the will is not one" })?;
    let payload = reader.binary()?;
    let forwarded = properties::iterate(own).filter(|p| p.id != id::WILL_DELAY).flat_map(|p| p.raw.iter().copied());
    Ok(Will {
        topic: topic.to_owned(),
        payload: payload.to_vec(),
        qos,
        retain,
        delay_secs: properties::number(own, id::WILL_DELAY).unwrap_or(0),
        properties: forwarded.collect(),
    })
}
