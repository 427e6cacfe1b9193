//! Packets that violate the standard, and the reason with which each is refused.

use crate::codec::{Version, acks, auth, check_flags, connect, framing, publish, reason, subscribe};

/// Description, parts of the body, and reason of the refusal.
type Connect = (&'static str, &'static [&'static [u8]], Option<u8>);
/// Description, first byte, body, and reason of the refusal.
type Case = (&'static str, u8, Version, &'static [u8], Option<u8>);

/// The reason of the refusal; `None` when the packet is taken.
fn refusal(bytes: &[u8], version: Version) -> Option<u8> {
    let read = || {
        let found = framing(bytes, 1 << 16)?.expect("a whole packet");
        assert_eq!(found.total_bytes, bytes.len(), "{bytes:02x?}");
        check_flags(&found)?;
        let body = &bytes[found.header_bytes..];
        match found.packet_type() {
            1 => connect::decode(body).map(|_| ()),
            3 => publish::decode(&found, body, version).map(|_| ()),
            4..=7 => acks::decode(body, version).map(|_| ()),
            8 => subscribe::decode(body, version).map(|_| ()),
            10 => subscribe::decode_unsubscribe(body, version).map(|_| ()),
            14 => acks::decode_disconnect(body, version).map(|_| ()),
            15 => auth::decode(body, version).map(|_| ()),
            _ => Ok(()),
        }
    };
    read().err().map(|e| e.reason)
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut out = vec![first, u8::try_from(body.len()).expect("a short packet")];
    assert!(body.len() < 128);
    out.extend(body);
    out
}

const V3: &[u8] = b"\0\x06MQIsdp\x03";
const V4: &[u8] = b"\0\x04MQTT\x04";
const V5: &[u8] = b"\0\x04MQTT\x05";
const ID: &[u8] = b"\0\x01c";

#[test]
fn connect_keeps_the_rules() {
    let cases: &[Connect] = &[
        ("3.1.1", &[V4, b"\x02\0\x0a", ID], None),
        ("5", &[V5, b"\x02\0\x0a\0", ID], None),
        ("3.1", &[V3, b"\x02\0\x0a", ID], None),
        ("a client id beyond the 23 characters of 3.1", &[V3, b"\x02\0\x0a", b"\0\x18123456789012345678901234"], None),
        ("user and password that are not there, 3.1", &[V3, b"\xc2\0\x0a", ID], None),
        ("a password that is not there, 3.1", &[V3, b"\xc2\0\x0a", ID, b"\0\x01u"], None),
        ("a user that is not there, 3.1.1", &[V4, b"\x82\0\x0a", ID], Some(reason::MALFORMED)),
        ("half a user, 3.1", &[V3, b"\x82\0\x0a", ID, b"\0"], Some(reason::MALFORMED)),
        ("a bridge of 3.1", &[b"\0\x06MQIsdp\x83\x02\0\x0a", ID], None),
        ("a bridge of 3.1.1", &[b"\0\x04MQTT\x84\x02\0\x0a", ID], None),
        ("a bridge of 5", &[b"\0\x04MQTT\x85\x02\0\x0a\0", ID], Some(reason::UNSUPPORTED_VERSION)),
        (
            "the name of 3.1 with the level of 3.1.1",
            &[b"\0\x06MQIsdp\x04\x02\0\x0a", ID],
            Some(reason::UNSUPPORTED_VERSION),
        ),
        (
            "the level of 3.1 with the name of 3.1.1",
            &[b"\0\x04MQTT\x03\x02\0\x0a", ID],
            Some(reason::UNSUPPORTED_VERSION),
        ),
        ("6", &[b"\0\x04MQTT\x06\x02\0\x0a", ID], Some(reason::UNSUPPORTED_VERSION)),
        ("another protocol", &[b"\0\x04AMQP\x04\x02\0\x0a", ID], Some(reason::PROTOCOL_ERROR)),
        ("reserved flag", &[V4, b"\x03\0\x0a", ID], Some(reason::MALFORMED)),
        ("will QoS without a will", &[V4, b"\x0a\0\x0a", ID], Some(reason::MALFORMED)),
        ("will retain without a will", &[V4, b"\x22\0\x0a", ID], Some(reason::MALFORMED)),
        ("will QoS 3", &[V4, b"\x1e\0\x0a", ID, b"\0\x01t\0\0"], Some(reason::MALFORMED)),
        ("will to a wildcard", &[V4, b"\x06\0\x0a", ID, b"\0\x01#\0\0"], Some(reason::MALFORMED)),
        ("password without a user, 3.1.1", &[V4, b"\x42\0\x0a", ID, b"\0\0"], Some(reason::MALFORMED)),
        ("password without a user, 5", &[V5, b"\x42\0\x0a\0", ID, b"\0\0"], None),
        ("client id with U+0000", &[V4, b"\x02\0\x0a", b"\0\x01\0"], Some(reason::MALFORMED)),
        ("client id of a surrogate", &[V4, b"\x02\0\x0a", b"\0\x03\xed\xa0\x80"], Some(reason::MALFORMED)),
        ("bytes left over", &[V4, b"\x02\0\x0a", ID, b"x"], Some(reason::MALFORMED)),
        ("cut short", &[V4, b"\x02\0\x0a", b"\0\x02c"], Some(reason::MALFORMED)),
        ("receive maximum 0", &[V5, b"\x02\0\x0a\x03\x21\0\0", ID], Some(reason::PROTOCOL_ERROR)),
        ("packet size 0", &[V5, b"\x02\0\x0a\x05\x27\0\0\0\0", ID], Some(reason::PROTOCOL_ERROR)),
        ("a flag of 2", &[V5, b"\x02\0\x0a\x02\x17\x02", ID], Some(reason::PROTOCOL_ERROR)),
        ("a property twice", &[V5, b"\x02\0\x0a\x04\x17\x01\x17\x01", ID], Some(reason::PROTOCOL_ERROR)),
        ("a property of PUBLISH", &[V5, b"\x02\0\x0a\x02\x01\x01", ID], Some(reason::PROTOCOL_ERROR)),
        ("a property of CONNACK", &[V5, b"\x02\0\x0a\x02\x25\x01", ID], Some(reason::PROTOCOL_ERROR)),
        ("a property that is none", &[V5, b"\x02\0\x0a\x02\x04\x01", ID], Some(reason::MALFORMED)),
        ("data without a method", &[V5, b"\x02\0\x0a\x04\x16\0\x01x", ID], Some(reason::PROTOCOL_ERROR)),
        ("properties longer than the packet", &[V5, b"\x02\0\x0a\x7f", ID], Some(reason::MALFORMED)),
        ("a length in two bytes that fits one", &[V5, b"\x02\0\x0a\x80\0", ID], Some(reason::MALFORMED)),
    ];
    for (what, parts, wanted) in cases {
        assert_eq!(refusal(&packet(0x10, parts), Version::V5), *wanted, "{what}");
    }
    let bridge = connect::decode(b"\0\x04MQTT\x84\x02\0\x0a\0\x01c").unwrap();
    assert!(bridge.is_bridge && !bridge.is_3_1 && bridge.version == Version::V4);
    let old = connect::decode(b"\0\x06MQIsdp\x03\xc2\0\x0a\0\x01c\0\x01u").unwrap();
    assert!(!old.is_bridge && old.is_3_1 && old.version == Version::V4);
    assert_eq!((old.user.as_deref(), old.password), (Some("u"), None));
    assert_eq!(refusal(&packet(0x11, cases[0].1), Version::V4), Some(reason::MALFORMED), "flags of CONNECT");
}

#[test]
fn subscribe_and_unsubscribe_keep_the_rules() {
    let cases: &[Case] = &[
        ("one filter", 0x82, Version::V4, b"\0\x01\0\x01a\x01", None),
        ("one filter", 0x82, Version::V5, b"\0\x01\0\0\x01a\x2d", None),
        ("flags", 0x80, Version::V4, b"\0\x01\0\x01a\x01", Some(reason::MALFORMED)),
        ("flags", 0xA0, Version::V4, b"\0\x01\0\x01a", Some(reason::MALFORMED)),
        ("packet id 0", 0x82, Version::V4, b"\0\0\0\x01a\x01", Some(reason::PROTOCOL_ERROR)),
        ("packet id 0", 0xA2, Version::V4, b"\0\0\0\x01a", Some(reason::PROTOCOL_ERROR)),
        ("no filter", 0x82, Version::V4, b"\0\x01", Some(reason::PROTOCOL_ERROR)),
        ("no filter", 0xA2, Version::V5, b"\0\x01\0", Some(reason::PROTOCOL_ERROR)),
        ("QoS 3", 0x82, Version::V4, b"\0\x01\0\x01a\x03", Some(reason::MALFORMED)),
        ("options of 5 in 3.1.1", 0x82, Version::V4, b"\0\x01\0\x01a\x05", Some(reason::MALFORMED)),
        ("reserved options", 0x82, Version::V5, b"\0\x01\0\0\x01a\x41", Some(reason::MALFORMED)),
        ("retain handling 3", 0x82, Version::V5, b"\0\x01\0\0\x01a\x31", Some(reason::PROTOCOL_ERROR)),
        ("subscription id 0", 0x82, Version::V5, b"\0\x01\x02\x0b\0\0\x01a\x01", Some(reason::PROTOCOL_ERROR)),
        (
            "two subscription ids",
            0x82,
            Version::V5,
            b"\0\x01\x04\x0b\x01\x0b\x02\0\x01a\x01",
            Some(reason::PROTOCOL_ERROR),
        ),
        ("no-local on a share", 0x82, Version::V5, b"\0\x01\0\0\x0a$share/g/a\x05", Some(reason::PROTOCOL_ERROR)),
        ("no options", 0x82, Version::V4, b"\0\x01\0\x01a", Some(reason::MALFORMED)),
    ];
    for (what, first, version, body, wanted) in cases {
        assert_eq!(refusal(&packet(*first, &[body]), *version), *wanted, "{what} {version:?}");
    }
    for (separators, fits) in [(200, true), (201, false)] {
        let body = [&[0, 1, 1, (2 * separators + 1 - 256) as u8], "a/".repeat(separators).as_bytes(), b"a\0"].concat();
        let packet = subscribe::decode(&body, Version::V4).unwrap();
        assert_eq!(subscribe::fits(packet.filters[0].0), fits, "{separators}");
    }
}

#[test]
fn answers_disconnect_and_publish_keep_the_rules() {
    let cases: &[Case] = &[
        ("PUBACK", 0x40, Version::V4, b"\0\x01", None),
        ("PUBACK with a reason, 5", 0x40, Version::V5, b"\0\x01\x10", None),
        ("PUBACK with no properties, 5", 0x40, Version::V5, b"\0\x01\x10\0", None),
        ("PUBACK with a reason, 3.1.1", 0x40, Version::V4, b"\0\x01\0", Some(reason::MALFORMED)),
        ("PUBACK of packet id 0", 0x40, Version::V5, b"\0\0", Some(reason::PROTOCOL_ERROR)),
        ("PUBREL without its flags", 0x60, Version::V4, b"\0\x01", Some(reason::MALFORMED)),
        ("PUBREL", 0x62, Version::V4, b"\0\x01", None),
        ("DISCONNECT with a body, 3.1.1", 0xE0, Version::V4, b"\0", Some(reason::MALFORMED)),
        ("DISCONNECT with the reason alone, 5", 0xE0, Version::V5, b"\x04", None),
        ("DISCONNECT with a server's property", 0xE0, Version::V5, b"\0\x04\x1c\0\x01x", Some(reason::PROTOCOL_ERROR)),
        ("PINGREQ with flags", 0xC1, Version::V4, b"", Some(reason::MALFORMED)),
        ("type 0", 0x00, Version::V4, b"", Some(reason::MALFORMED)),
        ("PUBLISH with a subscription id", 0x30, Version::V5, b"\0\x01a\x02\x0b\x01", Some(reason::PROTOCOL_ERROR)),
        ("response topic with a wildcard", 0x30, Version::V5, b"\0\x01a\x04\x08\0\x01#", Some(reason::PROTOCOL_ERROR)),
        ("payload format 2", 0x30, Version::V5, b"\0\x01a\x02\x01\x02", Some(reason::PROTOCOL_ERROR)),
        ("alias alone", 0x30, Version::V5, b"\0\0\x03\x23\0\x01", None),
        ("neither topic nor alias", 0x30, Version::V5, b"\0\0\0", Some(reason::PROTOCOL_ERROR)),
        ("user properties repeat", 0x30, Version::V5, b"\0\x01a\x0e\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b", None),
    ];
    for (what, first, version, body, wanted) in cases {
        assert_eq!(refusal(&packet(*first, &[body]), *version), *wanted, "{what}");
    }
}

#[test]
fn auth_keeps_the_rules() {
    let (v5, protocol, malformed) = (Version::V5, Some(reason::PROTOCOL_ERROR), Some(reason::MALFORMED));
    let cases: &[Case] = &[
        ("the next token", 0xF0, v5, b"\x19\x08\x15\0\x01m\x16\0\x01t", None),
        ("an exchange that goes on", 0xF0, v5, b"\x18\x04\x15\0\x01m", None),
        ("a reason and user properties", 0xF0, v5, b"\x19\x0f\x15\0\x01m\x1f\0\x01r\x26\0\x01a\0\x01b", None),
        ("3.1.1", 0xF0, Version::V4, b"\x19\x08\x15\0\x01m\x16\0\x01t", malformed),
        ("flags", 0xF1, v5, b"\x19\x04\x15\0\x01m", malformed),
        ("nothing, which is a success", 0xF0, v5, b"", protocol),
        ("the reason of a server", 0xF0, v5, b"\0\x04\x15\0\x01m", protocol),
        ("another reason", 0xF0, v5, b"\x87\x04\x15\0\x01m", protocol),
        ("the reason alone", 0xF0, v5, b"\x19", protocol),
        ("no method", 0xF0, v5, b"\x19\0", protocol),
        ("data without a method", 0xF0, v5, b"\x19\x04\x16\0\x01t", protocol),
        ("two methods", 0xF0, v5, b"\x19\x08\x15\0\x01m\x15\0\x01m", protocol),
        ("a property of CONNECT", 0xF0, v5, b"\x19\x09\x15\0\x01m\x11\0\0\0\x01", protocol),
        ("bytes left over", 0xF0, v5, b"\x19\x04\x15\0\x01mx", malformed),
        ("cut short", 0xF0, v5, b"\x19\x04\x15\0\x02m", malformed),
    ];
    for (what, first, version, body, wanted) in cases {
        assert_eq!(refusal(&packet(*first, &[body]), *version), *wanted, "{what}");
    }
}
