//! CONNECT (section 3.1).

use super::properties::{self, Carrier, id};
use super::{DecodeError, Reader, Version, reason};

/// The bit of the protocol level by which brokers that bridge are known.
const BRIDGE: u8 = 0x80;

/// A CONNECT packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// The client speaks MQTT 3.1, which is served as 3.1.1.
    pub is_3_1: bool,
    /// The client is a broker that bridges: bit 7 of the protocol level is set.
    pub is_bridge: bool,
    /// Clean session (3.1.1) or clean start (5).
    pub clean: bool,
    /// Keep-alive; 0 turns it off.
    pub keep_alive_secs: u16,
    /// Client id; empty when one is to be assigned.
    pub client: String,
    /// Will message, published when the connection breaks.
    pub will: Option<Will>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Session expiry, when given.
    pub session_expiry_secs: Option<u32>,
    /// Maximum number of messages in flight to the client.
    pub receive_maximum: u16,
    /// Maximum size of a packet to the client.
    pub maximum_packet_bytes: Option<u32>,
    /// Topic aliases that the client accepts.
    pub topic_alias_maximum: u16,
    /// The client asks for reason strings.
    pub problem_information: bool,
    /// Authentication method, when given.
    pub authentication_method: Option<String>,
    /// Authentication data, when given.
    pub authentication_data: Option<Vec<u8>>,
}

/// A will message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS to publish it with.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// Delay during which the client may reconnect.
    pub delay_secs: u32,
    /// Properties to forward, encoded.
    pub properties: Vec<u8>,
}

/// Reads the body of a CONNECT.
///
/// # Errors
/// [`DecodeError`]; with [`reason::UNSUPPORTED_VERSION`] for a version other than 3.1, 3.1.1 and 5.
pub fn decode(body: &[u8]) -> Result<Connect, DecodeError> {
    let mut reader = Reader::new(body);
    let name = reader.text()?;
    let level = reader.u8()?;
    // A bridge of 5 has subscription options, and needs no bit.
    let is_bridge = level == BRIDGE | 3 || level == BRIDGE | 4;
    let (version, is_3_1) = match (name, if is_bridge { level & !BRIDGE } else { level }) {
        ("MQTT", 4) => (Version::V4, false),
        ("MQTT", 5) => (Version::V5, false),
        ("MQIsdp", 3) => (Version::V4, true),
        ("MQTT" | "MQIsdp", _) => {
            return Err(DecodeError {
                reason: reason::UNSUPPORTED_VERSION,
                what: "unsupported protocol version: use MQTT 3.1, 3.1.1 or 5",
            });
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
    let own = if version == Version::V5 { properties::read(&mut reader, Carrier::Connect)? } else { &[] };
    let client = reader.text()?.to_owned();
    let will = if will { Some(read_will(&mut reader, version, will_qos, will_retain)?) } else { None };
    // In 3.1 the end of the packet takes precedence over the flags of user name and password.
    let is_there = |reader: &Reader<'_>, flag| flags & flag != 0 && !(is_3_1 && reader.is_empty());
    let user = if is_there(&reader, 0x80) { Some(reader.text()?.to_owned()) } else { None };
    let password = if is_there(&reader, 0x40) { Some(reader.binary()?.to_vec()) } else { None };
    reader.end()?;
    let small = |wanted| properties::number(own, wanted).and_then(|n| u16::try_from(n).ok());
    Ok(Connect {
        version,
        is_3_1,
        is_bridge,
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
        authentication_method: properties::text(own, id::AUTHENTICATION_METHOD).map(str::to_owned),
        authentication_data: properties::binary(own, id::AUTHENTICATION_DATA).map(<[u8]>::to_vec),
    })
}

/// Returns the form of answers to a CONNECT that cannot be read, as far as it can: the version, and
/// the Maximum Packet Size, when given. Versions after 5 begin as 5 does.
pub fn form(body: &[u8]) -> (Version, Option<u32>) {
    let mut reader = Reader::new(body);
    // Bit 7 is that of a bridge, before version 5.
    let (Ok("MQTT"), Ok(level @ 5..0x80)) = (reader.text(), reader.u8()) else { return (Version::V4, None) };
    let mut own = || {
        // Flags and keep-alive.
        reader.take(3).ok()?;
        properties::read(&mut reader, Carrier::Connect).ok()
    };
    let most = if level == 5 { own().and_then(|own| properties::number(own, id::MAXIMUM_PACKET_SIZE)) } else { None };
    (Version::V5, most)
}

fn read_will(reader: &mut Reader<'_>, version: Version, qos: u8, retain: bool) -> Result<Will, DecodeError> {
    let own = if version == Version::V5 { properties::read(reader, Carrier::Will)? } else { &[] };
    let topic = reader.text()?;
    if topic.is_empty() {
        return Err(DecodeError::protocol("the will message has no topic"));
    }
    model::topic::check_name(topic)
        .map_err(|_| DecodeError::malformed("the topic of the will message is not a topic name"))?;
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
