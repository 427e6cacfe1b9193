//! Bytes that end a connection, and nothing else.

use mqtt_client::Version;

use crate::random::Random;

/// Packets that break the rules of both versions, by what they break.
const BOTH: [(&str, &[u8]); 12] = [
    ("a reserved packet type", &[0x00, 0]),
    ("CONNECT once more", b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0"),
    ("CONNACK from a client", &[0x20, 2, 0, 0]),
    ("SUBACK from a client", &[0x90, 3, 0, 1, 0]),
    ("flags of PINGREQ", &[0xC1, 0]),
    ("flags of SUBSCRIBE", &[0x80, 6, 0, 1, 0, 1, b'n', 0]),
    ("QoS 3", &[0x36, 5, 0, 1, b'n', 0, 1]),
    ("packet id 0", &[0x32, 5, 0, 1, b'n', 0, 0]),
    ("a length of five bytes", &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
    ("a topic with a wildcard", &[0x30, 5, 0, 3, b'n', b'/', b'#']),
    ("a topic that is not UTF-8", &[0x30, 4, 0, 2, 0xC3, 0x28]),
    ("PUBACK without a packet id", &[0x40, 1, 0]),
];

/// Returns a packet that the broker must not accept, with its fault.
pub(crate) fn packet(version: Version, random: &mut Random) -> (&'static str, &'static [u8]) {
    let own: &[(&str, &[u8])] = match version {
        Version::V4 => &[
            ("SUBSCRIBE without a filter", &[0x82, 2, 0, 1]),
            ("QoS 3 of a subscription", &[0x82, 6, 0, 1, 0, 1, b'n', 3]),
            ("DISCONNECT with a body", &[0xE0, 1, 0]),
        ],
        Version::V5 => &[
            ("SUBSCRIBE without a filter", &[0x82, 3, 0, 1, 0]),
            ("options of a subscription", &[0x82, 7, 0, 1, 0, 0, 1, b'n', 0xC0]),
            ("a property twice", &[0x30, 8, 0, 1, b'n', 4, 1, 0, 1, 0]),
            ("a property of another packet", &[0x30, 6, 0, 1, b'n', 2, 0x24, 1]),
            ("topic alias 0", &[0x30, 7, 0, 1, b'n', 3, 0x23, 0, 0]),
            ("an unset topic alias", &[0x30, 6, 0, 0, 3, 0x23, 0, 9]),
            ("AUTH without a method", &[0xF0, 0]),
        ],
    };
    let at = random.below(BOTH.len() + own.len());
    BOTH.get(at).copied().unwrap_or_else(|| own[at - BOTH.len()])
}

/// Returns the bytes of a client of another tenant: a CONNECT and packets of which bytes are
/// changed, missing or too many.
pub(crate) fn garbage(random: &mut Random) -> Vec<u8> {
    let mut bytes = b"\x10\x18\0\x04MQTT\x05\x82\0\0\0\0\x02z1\0\x07another".to_vec();
    bytes[1] = (bytes.len() - 2) as u8;
    let rest: [&[u8]; 6] = [
        &[0x82, 7, 0, 1, 0, 0, 1, b'#', 2],
        &[0x32, 8, 0, 3, b'n', b'/', b'a', 0, 7, 0],
        &[0x35, 8, 0, 3, b'r', b'/', b'1', 0, 8, 0],
        &[0x62, 2, 0, 8],
        &[0xA2, 6, 0, 2, 0, 0, 1, b'#'],
        &[0x30, 9, 0, 3, b'n', b'/', b'b', 3, 0x23, 0, 1],
    ];
    for _ in 0..=random.below(6) {
        bytes.extend_from_slice(random.pick::<&[u8]>(&rest));
    }
    let from = if random.chance(30) { 0 } else { 26.min(bytes.len() - 1) };
    for _ in 0..=random.below(4) {
        let at = from + random.below(bytes.len() - from);
        match random.below(3) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes.insert(at, random.below(256) as u8),
            _ if bytes.len() > from + 1 => drop(bytes.remove(at)),
            _ => {}
        }
    }
    bytes
}
