//! Packets that a client sends. Lengths are computed first, so that each packet is written once.

use crate::{Ack, Connect, Publish, Subscription, Version, Will, packet_type as kind};

/// Writes a CONNECT.
///
/// # Panics
/// When a field is longer than 65,535 bytes.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    let Connect { version, is_bridge, client_id, clean_start, .. } = connect;
    let Connect { keep_alive_secs, will, username, password, properties, .. } = connect;
    let mut length = 10 + properties_bytes(*version, properties) + prefixed_bytes(client_id.as_bytes());
    let mut flags = u8::from(*clean_start) << 1;
    if let Some(Will { topic, payload, qos, retain, properties }) = will {
        flags |= 4 | qos << 3 | u8::from(*retain) << 5;
        length += properties_bytes(*version, properties) + prefixed_bytes(topic.as_bytes()) + prefixed_bytes(payload);
    }
    if let Some(username) = username {
        flags |= 0x80;
        length += prefixed_bytes(username.as_bytes());
    }
    if let Some(password) = password {
        flags |= 0x40;
        length += prefixed_bytes(password);
    }
    header(out, kind::CONNECT << 4, length);
    out.extend_from_slice(b"\0\x04MQTT");
    let level = match version {
        Version::V4 => 4 | u8::from(*is_bridge) << 7,
        Version::V5 => 5,
    };
    out.extend_from_slice(&[level, flags]);
    out.extend_from_slice(&keep_alive_secs.to_be_bytes());
    write_properties(out, *version, properties);
    prefixed(out, client_id.as_bytes());
    if let Some(will) = will {
        write_properties(out, *version, will.properties);
        prefixed(out, will.topic.as_bytes());
        prefixed(out, will.payload);
    }
    if let Some(username) = username {
        prefixed(out, username.as_bytes());
    }
    if let Some(password) = password {
        prefixed(out, password);
    }
}

/// Writes a PUBLISH.
///
/// # Panics
/// When the topic is longer than 65,535 bytes.
pub fn publish(out: &mut Vec<u8>, version: Version, publish: &Publish<'_>) {
    let Publish { topic, payload, qos, dup, retain, packet_id, properties } = publish;
    let id_bytes = if *qos > 0 { 2 } else { 0 };
    let head = prefixed_bytes(topic.as_bytes()) + id_bytes + properties_bytes(version, properties);
    header(out, kind::PUBLISH << 4 | u8::from(*dup) << 3 | qos << 1 | u8::from(*retain), head + payload.len());
    prefixed(out, topic.as_bytes());
    if *qos > 0 {
        out.extend_from_slice(&packet_id.to_be_bytes());
    }
    write_properties(out, version, properties);
    out.extend_from_slice(payload);
}

/// Writes a PUBACK, PUBREC, PUBREL or PUBCOMP. 3.1.1 does not send the reason.
pub fn ack(out: &mut Vec<u8>, version: Version, ack: Ack, packet_id: u16, reason: u8) {
    let first = (ack as u8) << 4 | if ack == Ack::Pubrel { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    if version == Version::V4 || reason == 0 {
        out.extend_from_slice(&[first, 2, high, low]);
    } else {
        out.extend_from_slice(&[first, 3, high, low, reason]);
    }
}

/// Writes a SUBSCRIBE. `properties` are not sent with 3.1.1.
///
/// # Panics
/// When a filter is longer than 65,535 bytes.
pub fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    properties: &[u8],
    subscriptions: &[Subscription<'_>],
) {
    let filters: usize = subscriptions.iter().map(|s| prefixed_bytes(s.filter.as_bytes()) + 1).sum();
    header(out, kind::SUBSCRIBE << 4 | 2, 2 + properties_bytes(version, properties) + filters);
    out.extend_from_slice(&packet_id.to_be_bytes());
    write_properties(out, version, properties);
    for Subscription { filter, qos, no_local, retain_as_published, retain_handling } in subscriptions {
        prefixed(out, filter.as_bytes());
        let flags = u8::from(*no_local) << 2 | u8::from(*retain_as_published) << 3 | (*retain_handling as u8) << 4;
        out.push(qos | if version == Version::V5 { flags } else { 0 });
    }
}

/// Writes an UNSUBSCRIBE.
///
/// # Panics
/// When a filter is longer than 65,535 bytes.
pub fn unsubscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[&str]) {
    let length: usize = filters.iter().map(|filter| prefixed_bytes(filter.as_bytes())).sum();
    header(out, kind::UNSUBSCRIBE << 4 | 2, 2 + properties_bytes(version, &[]) + length);
    out.extend_from_slice(&packet_id.to_be_bytes());
    write_properties(out, version, &[]);
    filters.iter().for_each(|filter| prefixed(out, filter.as_bytes()));
}

/// Writes a PINGREQ.
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGREQ << 4, 0]);
}

/// Writes an AUTH of MQTT 5.
pub fn auth(out: &mut Vec<u8>, reason: u8, properties: &[u8]) {
    if reason == 0 && properties.is_empty() {
        out.extend_from_slice(&[kind::AUTH << 4, 0]);
        return;
    }
    header(out, kind::AUTH << 4, 1 + properties_bytes(Version::V5, properties));
    out.push(reason);
    write_properties(out, Version::V5, properties);
}

/// Writes a DISCONNECT. 3.1.1 sends neither the reason nor properties.
pub fn disconnect(out: &mut Vec<u8>, version: Version, reason: u8, properties: &[u8]) {
    if version == Version::V4 || (reason == 0 && properties.is_empty()) {
        out.extend_from_slice(&[kind::DISCONNECT << 4, 0]);
        return;
    }
    header(out, kind::DISCONNECT << 4, 1 + properties_bytes(version, properties));
    out.push(reason);
    write_properties(out, version, properties);
}

fn header(out: &mut Vec<u8>, first: u8, length: usize) {
    out.reserve(length + 5);
    out.push(first);
    varint(out, length);
}

fn write_properties(out: &mut Vec<u8>, version: Version, properties: &[u8]) {
    if version == Version::V5 {
        varint(out, properties.len());
        out.extend_from_slice(properties);
    }
}

fn properties_bytes(version: Version, properties: &[u8]) -> usize {
    match (version, properties.len()) {
        (Version::V4, _) => 0,
        (Version::V5, length @ 0..128) => 1 + length,
        (Version::V5, length @ 128..16_384) => 2 + length,
        (Version::V5, length @ 16_384..2_097_152) => 3 + length,
        (Version::V5, length) => 4 + length,
    }
}

fn prefixed_bytes(bytes: &[u8]) -> usize {
    2 + bytes.len()
}

/// Writes a length of two bytes and the bytes.
pub(crate) fn prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("fields of MQTT are shorter than 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes a variable byte integer (section 1.5.5).
pub(crate) fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}
