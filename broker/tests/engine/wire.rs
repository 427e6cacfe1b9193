//! Sections 1 and 2 of the standards: text, flags, packet ids and lengths.

use std::io::{Read, Write};

use crate::packets::*;
use crate::world::*;

/// Bytes that are no text of MQTT: surrogates, overlong forms, halves, a code point beyond the last
/// one, and U+0000.
const NO_TEXT: [&[u8]; 7] =
    [b"\xED\xA0\x80", b"\xED\xBF\xBF", b"\xC1\x81", b"a\xE2\x82", b"\x80", b"\xF4\x90\x80\x80", b"a\0b"];

#[test]
fn text_that_is_not_utf_8_or_holds_u_0000_ends_the_connection() {
    let world = World::new(true);
    for bad in NO_TEXT {
        for v5 in [false, true] {
            let (own, bad) = (none(v5), field(bad));
            let mut packets = vec![
                packet(0x30, &[&bad, own, b"x"]),
                packet(0x82, &[b"\0\x01", own, &bad, b"\0"]),
                packet(0xA2, &[b"\0\x01", own, &bad]),
            ];
            if v5 {
                // Content type, response topic; name and value of a user property; reason string.
                let (name, value) = ([b"\x26", &bad[..], b"\0\x01v"].concat(), [b"\x26\0\x01n", &bad[..]].concat());
                for property in [[b"\x03", &bad[..]].concat(), [b"\x08", &bad[..]].concat(), name, value] {
                    packets.push(packet(0x30, &[b"\0\x01a", &list(&property), b"x"]));
                }
                packets.push(packet(0x40, &[b"\0\x01\0", &list(&[b"\x1F", &bad[..]].concat())]));
            }
            for bytes in packets {
                assert_eq!(ended_by(&world, v5, &bytes), if v5 { 0x81 } else { 0 }, "{bytes:02x?}");
            }
            // Client id, topic of the will message, user name.
            let id = &text("a")[..];
            for (flags, payload) in [(2, vec![&bad[..]]), (6, vec![id, own, &bad, b"\0\x01x"]), (0x82, vec![id, &bad])]
            {
                let mut peer = world.client();
                peer.0.write_all(&connect(v5, flags, &[], &payload)).unwrap();
                if v5 {
                    assert_eq!(peer.packet().1[..2], [0, 0x81], "{payload:02x?}");
                }
                assert!(all(&mut peer).is_empty(), "3.1.1 has no code for it");
            }
        }
    }
}

#[test]
fn a_byte_order_mark_is_a_part_of_the_text() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        subscribe(&mut peer, v5, 1, &[("\u{FEFF}n", 0)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        publish(&mut publisher, v5, 0x30, "n", b"without");
        publish(&mut publisher, v5, 0x30, "\u{FEFF}n", b"with");
        let got = message(&mut peer, v5);
        assert_eq!((&*got.topic, &got.payload[..]), ("\u{FEFF}n", &b"with"[..]));
    }
}

#[test]
fn reserved_flags_end_the_connection() {
    let world = World::new(true);
    for v5 in [false, true] {
        let own = none(v5);
        let (subscribe, unsubscribe) = ([b"\0\x01", own, b"\0\x01a\0"].concat(), [b"\0\x01", own, b"\0\x01a"].concat());
        let packets: [(u8, &[u8]); 9] = [
            (0x40, b"\0\x01"),
            (0x50, b"\0\x01"),
            (0x62, b"\0\x01"),
            (0x70, b"\0\x01"),
            (0x82, &subscribe),
            (0xA2, &unsubscribe),
            (0xC0, b""),
            (0xE0, b""),
            (0xF0, b"\x19"),
        ];
        for (good, body) in packets {
            for flags in (0..16).filter(|flags| *flags != good & 15) {
                let bytes = packet(good & 0xF0 | flags, &[body]);
                assert_eq!(ended_by(&world, v5, &bytes), if v5 { 0x81 } else { 0 }, "{bytes:02x?}");
            }
        }
    }
}

#[test]
fn packets_that_only_a_server_sends_end_the_connection() {
    let world = World::new(true);
    for v5 in [false, true] {
        for (first, body, wanted) in [
            (0x20, &b"\0\0"[..], 0x82),
            (0x90, b"\0\x01\0", 0x82),
            (0xB0, b"\0\x01", 0x82),
            (0xD0, b"", 0x82),
            (0x00, b"", 0x81),
        ] {
            let reason = ended_by(&world, v5, &packet(first, &[body]));
            assert_eq!(reason, if v5 { wanted } else { 0 }, "{first:02x}");
        }
    }
    assert_eq!(ended_by(&world, false, &packet(0xF0, &[])), 0, "3.1.1 has no AUTH");
}

#[test]
fn packet_id_0_ends_the_connection() {
    let world = World::new(true);
    for v5 in [false, true] {
        let own = none(v5);
        for bytes in [
            packet(0x32, &[b"\0\x01a\0\0", own, b"x"]),
            packet(0x34, &[b"\0\x01a\0\0", own, b"x"]),
            packet(0x82, &[b"\0\0", own, b"\0\x01a\0"]),
            packet(0xA2, &[b"\0\0", own, b"\0\x01a"]),
            packet(0x40, &[b"\0\0"]),
            packet(0x62, &[b"\0\0"]),
        ] {
            assert_eq!(ended_by(&world, v5, &bytes), if v5 { 0x82 } else { 0 }, "{bytes:02x?}");
        }
    }
}

#[test]
fn answers_have_the_packet_id_of_what_they_answer() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        for id in [1, 0x1234, 0xFFFF] {
            // The codes are checked elsewhere; the ids are, where they are sent.
            assert_eq!(subscribe(&mut peer, v5, id, &[("n", 0)]), [0]);
            unsubscribe(&mut peer, v5, id, &["n"]);
            let bytes = u16::to_be_bytes(id);
            for (qos, answer) in [(1, 0x40), (2, 0x50)] {
                peer.publish("n", b"x", qos, id, v5);
                let (first, body) = peer.packet();
                assert_eq!((first, &body[..2]), (answer, &bytes[..]));
            }
            peer.send(0x62, &bytes);
            assert_eq!(peer.packet(), (0x70, bytes.to_vec()));
        }
    }
}

#[test]
fn a_message_of_qos_0_has_no_packet_id_and_an_empty_list_of_properties_is_there() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 1)]);
        peer.publish("n", b"x", 0, 0, v5);
        assert_eq!(peer.packet(), (0x30, [b"\0\x01n", none(v5), b"x"].concat()));
    }
    // Without the length of its properties, a packet of MQTT 5 ends inside it.
    for bytes in [packet(0x30, &[b"\0\x01n"]), packet(0x82, &[b"\0\x01"]), packet(0xA2, &[b"\0\x01"])] {
        assert_eq!(ended_by(&world, true, &bytes), 0x81, "{bytes:02x?}");
    }
    // And so it does with a length that takes more bytes than it needs.
    assert_eq!(ended_by(&world, true, &packet(0x30, &[b"\0\x01n\x80\0x"])), 0x81);
}

#[test]
fn lengths_are_as_short_as_they_can_be() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 0)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        for (length, header) in [
            (127, &[0x30, 0x7F][..]),
            (128, &[0x30, 0x80, 0x01]),
            (16_383, &[0x30, 0xFF, 0x7F]),
            (16_384, &[0x30, 0x80, 0x80, 0x01]),
        ] {
            let payload = vec![b'x'; length - 3 - none(v5).len()];
            publish(&mut publisher, v5, 0x30, "n", &payload);
            let mut bytes = vec![0; header.len() + length];
            peer.0.read_exact(&mut bytes).unwrap();
            assert!(bytes.starts_with(header) && bytes.ends_with(&payload), "{length}: {:02x?}", &bytes[..5]);
        }
    }
}
