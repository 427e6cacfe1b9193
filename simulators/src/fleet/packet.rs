//! The few MQTT packets that a device needs, 3.1.1 and 5.

use std::io;

use crate::scenario::{Group, Version};

/// An acknowledgement's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// QoS 1.
    Puback,
    /// QoS 2, first.
    Pubrec,
    /// QoS 2, last.
    Pubcomp,
}

/// What a broker sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Incoming {
    Connack { session_present: bool, code: u8, receive_maximum: u16 },
    Ack { ack: Ack, id: u16, reason: u8 },
    Publish,
    Disconnect { reason: u8 },
    Other,
}

/// Payload cannot be read (MQTT 5).
pub(super) const FORMAT_INVALID: u8 = 0x99;

pub(super) fn connect(out: &mut Vec<u8>, group: &Group, client: &str) {
    let v5 = group.mqtt == Version::V5;
    let mut flags = u8::from(group.clean_start) << 1;
    flags |= u8::from(group.username.is_some()) << 7 | u8::from(group.password.is_some()) << 6;
    let keep_alive = u16::try_from(group.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend_from_slice(&[if v5 { 5 } else { 4 }, flags]);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    if v5 {
        let expiry = u32::try_from(group.session_expiry.as_secs()).unwrap_or(u32::MAX);
        body.extend_from_slice(&[5, 0x11]);
        body.extend_from_slice(&expiry.to_be_bytes());
    }
    for part in [Some(client), group.username.as_deref(), group.password.as_deref()].into_iter().flatten() {
        text(&mut body, part);
    }
    packet(out, 0x10, &body);
}

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) qos: u8,
    pub(super) id: u16,
    pub(super) again: bool,
}

pub(super) fn publish(out: &mut Vec<u8>, version: Version, publish: &Publish<'_>) {
    let v5 = usize::from(version == Version::V5);
    let id = if publish.qos > 0 { 2 } else { 0 };
    out.push(0x30 | u8::from(publish.again && publish.qos > 0) << 3 | publish.qos << 1);
    remaining(out, 2 + publish.topic.len() + id + v5 + publish.payload.len());
    text(out, publish.topic);
    if publish.qos > 0 {
        out.extend_from_slice(&publish.id.to_be_bytes());
    }
    if v5 == 1 {
        out.push(0);
    }
    out.extend_from_slice(publish.payload);
}

pub(super) fn pubrel(out: &mut Vec<u8>, id: u16) {
    out.extend_from_slice(&[0x62, 2]);
    out.extend_from_slice(&id.to_be_bytes());
}

pub(super) fn subscribe(out: &mut Vec<u8>, version: Version, id: u16, filter: &str) {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    text(&mut body, filter);
    body.push(0);
    packet(out, 0x82, &body);
}

pub(super) fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

pub(super) fn disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xE0, 0]);
}

fn packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    out.push(first);
    remaining(out, body.len());
    out.extend_from_slice(body);
}

fn remaining(out: &mut Vec<u8>, mut length: usize) {
    while length >= 128 {
        out.push((length % 128) as u8 | 128);
        length /= 128;
    }
    out.push(length as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The first packet in `input` and its length; `None` while it is not whole.
///
/// # Errors
/// When it is no packet that a broker may send.
pub(super) fn decode(input: &[u8], version: Version) -> io::Result<Option<(Incoming, usize)>> {
    let mut length = 0usize;
    let mut at = 1;
    loop {
        let Some(&byte) = input.get(at) else { return Ok(None) };
        length |= usize::from(byte & 127) << (7 * (at - 1));
        at += 1;
        if byte < 128 {
            break;
        }
        if at > 4 {
            return Err(wrong("a length of more than four bytes"));
        }
    }
    let Some(body) = input.get(at..at + length) else { return Ok(None) };
    Ok(Some((read(input[0], body, version)?, at + length)))
}

fn read(first: u8, body: &[u8], version: Version) -> io::Result<Incoming> {
    let ack = match first >> 4 {
        2 => {
            let [flags, code, properties @ ..] = body else { return Err(wrong("a CONNACK that is too short")) };
            let receive_maximum = if version == Version::V5 { receive_maximum(properties) } else { u16::MAX };
            return Ok(Incoming::Connack { session_present: flags & 1 == 1, code: *code, receive_maximum });
        }
        3 => return Ok(Incoming::Publish),
        14 => return Ok(Incoming::Disconnect { reason: body.first().copied().unwrap_or(0) }),
        9 | 13 => return Ok(Incoming::Other),
        4 => Ack::Puback,
        5 => Ack::Pubrec,
        7 => Ack::Pubcomp,
        kind => return Err(wrong(&format!("a packet of kind {kind}"))),
    };
    let [high, low, rest @ ..] = body else { return Err(wrong("an acknowledgement without packet id")) };
    Ok(Incoming::Ack { ack, id: u16::from_be_bytes([*high, *low]), reason: rest.first().copied().unwrap_or(0) })
}

/// The Receive Maximum among a CONNACK's properties; what the protocol says when there is none.
fn receive_maximum(properties: &[u8]) -> u16 {
    let start = properties.iter().position(|byte| *byte < 128).map_or(0, |place| place + 1);
    let mut rest = properties.get(start..).unwrap_or_default();
    while let Some((&id, after)) = rest.split_first() {
        let length = match id {
            // One byte, two, four; texts; pairs of texts.
            0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x21 => return after.get(..2).map_or(u16::MAX, |b| u16::from_be_bytes([b[0], b[1]]).max(1)),
            0x13 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x26 => {
                let name = prefixed(after);
                name + prefixed(after.get(name..).unwrap_or_default())
            }
            _ => prefixed(after),
        };
        rest = after.get(length..).unwrap_or_default();
    }
    u16::MAX
}

fn prefixed(bytes: &[u8]) -> usize {
    bytes.get(..2).map_or(2, |b| 2 + usize::from(u16::from_be_bytes([b[0], b[1]])))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the broker sent {what}"))
}
