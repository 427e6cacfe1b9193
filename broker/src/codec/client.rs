//! The client's side of the protocol, for whoever measures or tests a broker: what a client writes, and reads.
//!
//! PUBLISH and its answers are written the same way on both sides: see [`super::encode`].

use super::connect::Connect;
use super::encode::{packet, short_text, text_property, varint};
use super::properties::{self, Place, id};
use super::publish::{self, Publish};
use super::subscribe::{Options, RetainHandling};
use super::{DecodeError, Framing, Reader, Version, packet_type as kind};

/// Writes a CONNECT.
///
/// # Panics
/// When a field is longer than 65,535 bytes.
pub fn connect(out: &mut Vec<u8>, connect: &Connect) {
    let v5 = connect.version == Version::V5;
    let mut body = Vec::new();
    short_text(&mut body, "MQTT");
    body.push(if v5 { 5 } else { 4 });
    let will = connect.will.as_ref().map_or(0, |w| 4 | w.qos << 3 | u8::from(w.retain) << 5);
    let login = u8::from(connect.password.is_some()) << 6 | u8::from(connect.user.is_some()) << 7;
    body.push(u8::from(connect.clean) << 1 | will | login);
    body.extend_from_slice(&connect.keep_alive_secs.to_be_bytes());
    if v5 {
        property_list(&mut body, &connect_properties(connect));
    }
    short_text(&mut body, &connect.client);
    if let Some(will) = &connect.will {
        if v5 {
            let mut list = will.properties.clone();
            if will.delay_secs > 0 {
                list.push(id::WILL_DELAY);
                list.extend_from_slice(&will.delay_secs.to_be_bytes());
            }
            property_list(&mut body, &list);
        }
        short_text(&mut body, &will.topic);
        binary(&mut body, &will.payload);
    }
    if let Some(user) = &connect.user {
        short_text(&mut body, user);
    }
    if let Some(password) = &connect.password {
        binary(&mut body, password);
    }
    packet(out, kind::CONNECT << 4, &body);
}

fn connect_properties(connect: &Connect) -> Vec<u8> {
    let mut list = Vec::new();
    let mut number = |id: u8, bytes: &[u8]| {
        list.push(id);
        list.extend_from_slice(bytes);
    };
    if let Some(secs) = connect.session_expiry_secs {
        number(id::SESSION_EXPIRY, &secs.to_be_bytes());
    }
    if connect.receive_maximum < u16::MAX {
        number(id::RECEIVE_MAXIMUM, &connect.receive_maximum.to_be_bytes());
    }
    if let Some(bytes) = connect.maximum_packet_bytes {
        number(id::MAXIMUM_PACKET_SIZE, &bytes.to_be_bytes());
    }
    if connect.topic_alias_maximum > 0 {
        number(id::TOPIC_ALIAS_MAXIMUM, &connect.topic_alias_maximum.to_be_bytes());
    }
    if !connect.problem_information {
        number(id::REQUEST_PROBLEM, &[0]);
    }
    text_property(&mut list, id::AUTHENTICATION_METHOD, connect.authentication_method.as_deref());
    list
}

/// Writes a SUBSCRIBE. 3.1.1 sends the QoS of the options only.
///
/// # Panics
/// When a filter is longer than 65,535 bytes.
pub fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    filters: &[(&str, Options)],
) {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        let mut list = Vec::new();
        if let Some(subscription) = subscription_id {
            list.push(id::SUBSCRIPTION_ID);
            varint(&mut list, subscription as usize);
        }
        property_list(&mut body, &list);
    }
    for (filter, options) in filters {
        short_text(&mut body, filter);
        let handling = match options.retain_handling {
            RetainHandling::Always => 0,
            RetainHandling::IfNew => 1,
            RetainHandling::Never => 2,
        };
        let own = u8::from(options.no_local) << 2 | u8::from(options.retain_as_published) << 3 | handling << 4;
        body.push(options.qos | if version == Version::V5 { own } else { 0 });
    }
    packet(out, kind::SUBSCRIBE << 4 | 2, &body);
}

/// Writes an UNSUBSCRIBE.
///
/// # Panics
/// When a filter is longer than 65,535 bytes.
pub fn unsubscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[&str]) {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    filters.iter().for_each(|filter| short_text(&mut body, filter));
    packet(out, kind::UNSUBSCRIBE << 4 | 2, &body);
}

/// Writes a PINGREQ.
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGREQ << 4, 0]);
}

/// Writes a DISCONNECT. 3.1.1 sends neither the reason nor the expiry.
pub fn disconnect(out: &mut Vec<u8>, version: Version, reason: u8, session_expiry_secs: Option<u32>) {
    let mut body = Vec::new();
    if version == Version::V5 {
        body.push(reason);
        let mut list = Vec::new();
        if let Some(secs) = session_expiry_secs {
            list.push(id::SESSION_EXPIRY);
            list.extend_from_slice(&secs.to_be_bytes());
        }
        property_list(&mut body, &list);
    }
    packet(out, kind::DISCONNECT << 4, &body);
}

fn property_list(body: &mut Vec<u8>, list: &[u8]) {
    varint(body, list.len());
    body.extend_from_slice(list);
}

fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("binary fields are shorter than 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// What a server sends. Properties are encoded and checked: see [`properties::iterate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPacket<'a> {
    /// Answers CONNECT.
    Connack {
        /// The session is continued.
        session_present: bool,
        /// Reason code; return code in 3.1.1.
        reason: u8,
        /// Empty for 3.1.1.
        properties: &'a [u8],
    },
    /// A message.
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Answer {
        /// Which, of [`super::packet_type`].
        packet_type: u8,
        /// Of the message.
        packet_id: u16,
        /// 0 in 3.1.1.
        reason: u8,
        /// Empty for 3.1.1.
        properties: &'a [u8],
    },
    /// SUBACK or UNSUBACK.
    Granted {
        /// Which, of [`super::packet_type`].
        packet_type: u8,
        /// Of the request.
        packet_id: u16,
        /// One per filter; none in an UNSUBACK of 3.1.1.
        reasons: &'a [u8],
    },
    /// Answers PINGREQ.
    Pingresp,
    /// The server ends the connection.
    Disconnect {
        /// Why.
        reason: u8,
        /// Its properties.
        properties: &'a [u8],
    },
}

/// Reads the body of what a server sent.
///
/// # Errors
/// [`DecodeError`].
pub fn decode<'a>(framing: &Framing, body: &'a [u8], version: Version) -> Result<ServerPacket<'a>, DecodeError> {
    super::check_flags(framing)?;
    let v5 = version == Version::V5;
    let mut reader = Reader::new(body);
    let packet_type = framing.packet_type();
    let read = match packet_type {
        kind::PUBLISH => return publish::decode_delivery(framing, body, version).map(ServerPacket::Publish),
        kind::CONNACK => {
            let (flags, reason) = (reader.u8()?, reader.u8()?);
            if flags > 1 || (flags == 1 && reason != 0) {
                return Err(DecodeError::malformed("flags of CONNACK contradict each other"));
            }
            let properties = if v5 { properties::read(&mut reader, Place::Connack)? } else { &[] };
            ServerPacket::Connack { session_present: flags == 1, reason, properties }
        }
        kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => {
            let packet_id = reader.packet_id()?;
            let (reason, properties) = if v5 { ending(&mut reader, Place::Answer)? } else { (0, &[][..]) };
            ServerPacket::Answer { packet_type, packet_id, reason, properties }
        }
        kind::SUBACK | kind::UNSUBACK => {
            let packet_id = reader.packet_id()?;
            if v5 {
                properties::read(&mut reader, Place::Answer)?;
            }
            let length = if v5 || packet_type == kind::SUBACK { reader.rest().len() } else { 0 };
            ServerPacket::Granted { packet_type, packet_id, reasons: reader.take(length)? }
        }
        kind::PINGRESP => ServerPacket::Pingresp,
        kind::DISCONNECT if v5 => {
            let (reason, properties) = ending(&mut reader, Place::Dismissal)?;
            ServerPacket::Disconnect { reason, properties }
        }
        _ => return Err(DecodeError::protocol("a packet that a server does not send")),
    };
    reader.end()?;
    Ok(read)
}

/// A reason and properties, of which the end may be left out.
fn ending<'a>(reader: &mut Reader<'a>, place: Place) -> Result<(u8, &'a [u8]), DecodeError> {
    let reason = if reader.is_empty() { 0 } else { reader.u8()? };
    let list = if reader.is_empty() { &[] } else { properties::read(reader, place)? };
    Ok((reason, list))
}
