//! Packets that a server sends.

use super::properties::id;
use super::{Version, packet_type as kind, reason};

/// Properties of a CONNACK.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnackProperties<'a> {
    /// Session expiry, when it differs from the requested one.
    pub session_expiry_secs: Option<u32>,
    /// Maximum number of messages in flight to the server.
    pub receive_maximum: Option<u16>,
    /// Maximum size of a packet to the server.
    pub maximum_packet_bytes: Option<u32>,
    /// Assigned client id.
    pub assigned_client: Option<&'a str>,
    /// Topic aliases that the server accepts.
    pub topic_alias_maximum: Option<u16>,
    /// Keep-alive, when it differs from the requested one.
    pub server_keep_alive_secs: Option<u16>,
    /// Authentication method, when CONNECT had one.
    pub authentication_method: Option<&'a str>,
    /// Explanation of the reason.
    pub reason_string: Option<&'a str>,
    /// The server that the client is to use.
    pub server_reference: Option<&'a str>,
}

/// Writes a CONNACK. For 3.1.1 the reason is the return code.
pub fn connack(out: &mut Vec<u8>, version: Version, session_present: bool, reason: u8, own: &ConnackProperties<'_>) {
    if version == Version::V4 {
        out.extend_from_slice(&[kind::CONNACK << 4, 2, u8::from(session_present), reason]);
        return;
    }
    let mut body = vec![u8::from(session_present), reason];
    let mut list = Vec::new();
    let mut number = |id: u8, bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            list.push(id);
            list.extend_from_slice(bytes);
        }
    };
    number(id::SESSION_EXPIRY, own.session_expiry_secs.map(u32::to_be_bytes).as_ref().map(|b| &b[..]));
    number(id::RECEIVE_MAXIMUM, own.receive_maximum.map(u16::to_be_bytes).as_ref().map(|b| &b[..]));
    number(id::MAXIMUM_PACKET_SIZE, own.maximum_packet_bytes.map(u32::to_be_bytes).as_ref().map(|b| &b[..]));
    number(id::TOPIC_ALIAS_MAXIMUM, own.topic_alias_maximum.map(u16::to_be_bytes).as_ref().map(|b| &b[..]));
    number(id::SERVER_KEEP_ALIVE, own.server_keep_alive_secs.map(u16::to_be_bytes).as_ref().map(|b| &b[..]));
    text_property(&mut list, id::ASSIGNED_CLIENT_ID, own.assigned_client);
    text_property(&mut list, id::AUTHENTICATION_METHOD, own.authentication_method);
    text_property(&mut list, id::REASON_STRING, own.reason_string);
    text_property(&mut list, id::SERVER_REFERENCE, own.server_reference);
    varint(&mut body, list.len());
    body.extend_from_slice(&list);
    packet(out, kind::CONNACK << 4, &body);
}

/// Writes a PUBACK, PUBREC, PUBREL or PUBCOMP; `first` is the first byte of the packet.
pub fn answer(out: &mut Vec<u8>, version: Version, first: u8, packet_id: u16, reason: u8, text: Option<&str>) {
    let [high, low] = packet_id.to_be_bytes();
    match (version, reason, text) {
        (Version::V4, ..) | (_, reason::SUCCESS, None) => out.extend_from_slice(&[first, 2, high, low]),
        (Version::V5, _, None) => out.extend_from_slice(&[first, 3, high, low, reason]),
        (Version::V5, _, Some(_)) => {
            let mut body = vec![high, low, reason];
            let mut list = Vec::new();
            text_property(&mut list, id::REASON_STRING, text);
            varint(&mut body, list.len());
            body.extend_from_slice(&list);
            packet(out, first, &body);
        }
    }
}

/// Writes a SUBACK.
pub fn suback(out: &mut Vec<u8>, version: Version, packet_id: u16, reasons: &[u8], text: Option<&str>) {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        let mut list = Vec::new();
        text_property(&mut list, id::REASON_STRING, text);
        varint(&mut body, list.len());
        body.extend_from_slice(&list);
    }
    // 3.1.1 has one failure code.
    body.extend(reasons.iter().map(|r| if version == Version::V4 && *r > 2 { 0x80 } else { *r }));
    packet(out, kind::SUBACK << 4, &body);
}

/// Writes an UNSUBACK.
pub fn unsuback(out: &mut Vec<u8>, version: Version, packet_id: u16, reasons: &[u8]) {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
        body.extend_from_slice(reasons);
    }
    packet(out, kind::UNSUBACK << 4, &body);
}

/// Writes a PINGRESP.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGRESP << 4, 0]);
}

/// Writes a DISCONNECT, with the server that the client is to use; nothing for 3.1.1, where servers
/// send none.
pub fn disconnect(out: &mut Vec<u8>, version: Version, reason: u8, text: Option<&str>, server: Option<&str>) {
    if version == Version::V4 {
        return;
    }
    let mut body = vec![reason];
    let mut list = Vec::new();
    text_property(&mut list, id::REASON_STRING, text);
    text_property(&mut list, id::SERVER_REFERENCE, server);
    varint(&mut body, list.len());
    body.extend_from_slice(&list);
    packet(out, kind::DISCONNECT << 4, &body);
}

/// Writes an AUTH of MQTT 5.
pub fn auth(out: &mut Vec<u8>, reason: u8, method: &str) {
    let mut body = vec![reason];
    let mut list = Vec::new();
    text_property(&mut list, id::AUTHENTICATION_METHOD, Some(method));
    varint(&mut body, list.len());
    body.extend_from_slice(&list);
    packet(out, kind::AUTH << 4, &body);
}

/// Flags and properties of a PUBLISH to a subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// QoS.
    pub qos: u8,
    /// The message was sent before.
    pub dup: bool,
    /// Retain flag.
    pub retain: bool,
    /// Packet id; 0 at QoS 0.
    pub packet_id: u16,
    /// Properties to forward, encoded.
    pub properties: &'a [u8],
    /// Topic alias; the topic is empty when the client knows it.
    pub alias: Option<u16>,
    /// Message expiry, in place of the one in `properties`.
    pub expiry_secs: Option<u32>,
    /// Ids of the matching subscriptions.
    pub subscription_ids: &'a [u32],
}

/// Writes a PUBLISH and returns its size.
pub fn publish(out: &mut Vec<u8>, version: Version, topic: &str, payload: &[u8], how: &Outgoing<'_>) -> usize {
    let begun = out.len();
    let mut list = Vec::new();
    if version == Version::V5 {
        for property in super::properties::iterate(how.properties) {
            if !matches!(property.id, id::MESSAGE_EXPIRY | id::TOPIC_ALIAS | id::SUBSCRIPTION_ID) {
                list.extend_from_slice(property.raw);
            }
        }
        if let Some(secs) = how.expiry_secs {
            list.push(id::MESSAGE_EXPIRY);
            list.extend_from_slice(&secs.to_be_bytes());
        }
        if let Some(alias) = how.alias {
            list.push(id::TOPIC_ALIAS);
            list.extend_from_slice(&alias.to_be_bytes());
        }
        for subscription in how.subscription_ids {
            list.push(id::SUBSCRIPTION_ID);
            varint(&mut list, *subscription as usize);
        }
    }
    let head = if version == Version::V5 { varint_bytes(list.len()) + list.len() } else { 0 };
    let id_bytes = if how.qos > 0 { 2 } else { 0 };
    out.push(kind::PUBLISH << 4 | u8::from(how.dup) << 3 | how.qos << 1 | u8::from(how.retain));
    varint(out, 2 + topic.len() + id_bytes + head + payload.len());
    short_text(out, topic);
    if how.qos > 0 {
        out.extend_from_slice(&how.packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        varint(out, list.len());
        out.extend_from_slice(&list);
    }
    out.extend_from_slice(payload);
    out.len() - begun
}

fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    varint(out, body.len());
    out.extend_from_slice(body);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

fn varint_bytes(value: usize) -> usize {
    match value {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

fn short_text(out: &mut Vec<u8>, text: &str) {
    // Names were checked when they were received; the server's own texts are short.
    let length = u16::try_from(text.len()).expect("texts are shorter than 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn text_property(list: &mut Vec<u8>, id: u8, text: Option<&str>) {
    if let Some(text) = text {
        list.push(id);
        short_text(list, text);
    }
}
