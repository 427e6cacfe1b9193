//! Packets of either version, as bytes.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
pub(crate) const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];

/// A connected client of either version. A session that it keeps lasts.
pub(crate) fn join(world: &World, v5: bool, id: &str, flags: u8) -> Peer {
    match v5 {
        true => world.v5(id, flags, if flags & CLEAN == 0 { LASTS } else { &[] }),
        false => world.v4(id, flags),
    }
}

/// The next connection of a client that keeps its session, which is present.
pub(crate) fn rejoin(world: &World, v5: bool, id: &str) -> Peer {
    let mut peer = world.client();
    peer.connect(if v5 { 5 } else { 4 }, id, 0, 0, LASTS);
    assert_eq!(peer.packet().1[..2], [1, 0], "session present");
    peer
}

/// An empty list of properties, on MQTT 5.
pub(crate) fn none(v5: bool) -> &'static [u8] {
    if v5 { &[0] } else { &[] }
}

/// A list of properties.
pub(crate) fn list(properties: &[u8]) -> Vec<u8> {
    [&[u8::try_from(properties.len()).unwrap()][..], properties].concat()
}

/// A field of bytes that are not necessarily UTF-8.
pub(crate) fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A short packet, whole.
pub(crate) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    assert!(body.len() < 128, "a short packet");
    [&[first, body.len() as u8][..], &body].concat()
}

/// A CONNECT of either version; `own` are its properties on MQTT 5.
pub(crate) fn connect(v5: bool, flags: u8, own: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    let own = if v5 { list(own) } else { Vec::new() };
    packet(0x10, &[b"\0\x04MQTT", &[if v5 { 5 } else { 4 }, flags, 0, 0], &own, &payload.concat()])
}

/// Subscribes with one packet. Returns the codes of its SUBACK.
pub(crate) fn subscribe(peer: &mut Peer, v5: bool, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let filters: Vec<u8> =
        filters.iter().flat_map(|(filter, options)| [text(filter), vec![*options]].concat()).collect();
    peer.send(0x82, &[&id.to_be_bytes()[..], none(v5), &filters].concat());
    let (first, body) = peer.packet();
    let head = [&id.to_be_bytes()[..], none(v5)].concat();
    assert_eq!((first, &body[..head.len()]), (0x90, &head[..]));
    body[head.len()..].to_vec()
}

/// Unsubscribes with one packet. Returns the codes of its UNSUBACK: none at 3.1.1.
pub(crate) fn unsubscribe(peer: &mut Peer, v5: bool, id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<u8> = filters.iter().flat_map(|filter| text(filter)).collect();
    peer.send(0xA2, &[&id.to_be_bytes()[..], none(v5), &filters].concat());
    let (first, body) = peer.packet();
    let head = [&id.to_be_bytes()[..], none(v5)].concat();
    assert_eq!((first, &body[..head.len()]), (0xB0, &head[..]));
    body[head.len()..].to_vec()
}

/// Publishes, to the end of the exchange.
pub(crate) fn publish(peer: &mut Peer, v5: bool, first: u8, topic: &str, payload: &[u8]) {
    peer.publish_with(first, topic, payload, 7, v5);
    match first & 6 {
        0 => peer.ping(),
        2 => assert_eq!((peer.packet().0, first & 6), (0x40, 2)),
        _ => {
            assert_eq!(peer.packet().0, 0x50);
            peer.send(0x62, &[0, 7]);
            assert_eq!(peer.packet().0, 0x70);
        }
    }
}

/// A PUBLISH of the server.
#[derive(Debug, PartialEq)]
pub(crate) struct Got {
    pub(crate) first: u8,
    pub(crate) topic: String,
    /// 0 at QoS 0.
    pub(crate) id: u16,
    pub(crate) properties: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// The next packet, which is a PUBLISH.
pub(crate) fn message(peer: &mut Peer, v5: bool) -> Got {
    let (first, body) = peer.packet();
    assert_eq!(first & 0xF0, 0x30, "{first:02x} {body:02x?}");
    let (head, rest) = body.split_at(2 + usize::from(u16::from_be_bytes([body[0], body[1]])));
    let (id, rest) = if first & 6 == 0 { (0, rest) } else { (u16::from_be_bytes([rest[0], rest[1]]), &rest[2..]) };
    // Lists of properties are short here.
    let (properties, payload) = if v5 { rest[1..].split_at(usize::from(rest[0])) } else { rest.split_at(0) };
    let topic = String::from_utf8(head[2..].to_vec()).unwrap();
    Got { first, topic, id, properties: properties.to_vec(), payload: payload.to_vec() }
}

/// Answers a message, to the end of the exchange.
pub(crate) fn acknowledge(peer: &mut Peer, got: &Got) {
    let id = got.id.to_be_bytes();
    match got.first & 6 {
        0 => {}
        2 => peer.send(0x40, &id),
        _ => {
            peer.send(0x50, &id);
            assert_eq!(peer.packet(), (0x62, id.to_vec()));
            peer.send(0x70, &id);
        }
    }
}

/// Ids of the properties in a list of the server, and their values.
pub(crate) fn properties(mut list: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((id, rest)) = list.split_first() {
        let text = |at: usize| 2 + usize::from(u16::from_be_bytes([rest[at], rest[at + 1]]));
        let length = match id {
            0x01 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x26 => text(0) + text(text(0)),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => text(0),
            _ => panic!("no property of a server: {id:02x}"),
        };
        out.push((*id, rest[..length].to_vec()));
        list = &rest[length..];
    }
    out
}

/// True when nothing comes for a moment. What comes can be read afterwards.
pub(crate) fn is_quiet(peer: &Peer) -> bool {
    peer.0.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    let is_quiet = peer.0.peek(&mut [0]).is_err();
    peer.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    is_quiet
}

/// All bytes until the server closes the connection.
pub(crate) fn all(peer: &mut Peer) -> Vec<u8> {
    let mut all = Vec::new();
    if let Err(error) = peer.0.read_to_end(&mut all) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    all
}

/// The reason of the DISCONNECT that ends a connection, and nothing follows; 0 at 3.1.1, where the
/// connection ends without a packet.
pub(crate) fn end(peer: &mut Peer, v5: bool) -> u8 {
    let reason = if v5 { peer.packet() } else { (0xE0, vec![0]) };
    assert_eq!(reason.0, 0xE0);
    assert!(all(peer).is_empty(), "bytes after the end");
    reason.1[0]
}

/// Sends bytes to a client's connection of either version and returns how it ends.
pub(crate) fn ended_by(world: &World, v5: bool, bytes: &[u8]) -> u8 {
    let mut peer = join(world, v5, "ended", CLEAN);
    peer.0.write_all(bytes).unwrap();
    end(&mut peer, v5)
}
