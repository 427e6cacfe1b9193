//! Reason codes for names and codes that are malformed, and for versions of MQTT.

use crate::world::*;

/// The reason of the DISCONNECT, or 0 at 3.1.1, where there is none.
fn end(peer: &mut Peer, v5: bool) -> u8 {
    let reason = if v5 { peer.packet() } else { (0xE0, vec![0]) };
    assert_eq!(reason.0, 0xE0);
    assert!(peer.is_closed());
    reason.1[0]
}

#[test]
fn malformed_names_and_filters_end_the_connection() {
    let world = World::new(true);
    for v5 in [false, true] {
        let wanted = if v5 { 0x81 } else { 0 };
        let client = || if v5 { world.v5("a", CLEAN, &[]) } else { world.v4("a", CLEAN) };
        for topic in ["a/#", "a/+/b", "+"] {
            let mut peer = client();
            peer.publish(topic, b"x", 1, 1, v5);
            assert_eq!(end(&mut peer, v5), wanted, "{topic}");
        }
        for filter in ["", "a/#/b", "a#", "a+/b", "$share/g", "$share//a", "$share/g/", "$share/+/a"] {
            for (first, tail) in [(0x82, &[0][..]), (0xA2, &[][..])] {
                let mut peer = client();
                let properties = if v5 { &[0][..] } else { &[] };
                peer.send(first, &[&[0, 1], properties, &text(filter), tail].concat());
                assert_eq!(end(&mut peer, v5), wanted, "{first:02x} {filter}");
            }
        }
    }
}

#[test]
fn a_filter_with_too_many_levels_is_refused_alone() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = if v5 { world.v5("a", CLEAN, &[]) } else { world.v4("a", CLEAN) };
        let (deepest, deep) = ("/".repeat(200), "/".repeat(201));
        let properties = if v5 { &[0][..] } else { &[] };
        let filters = [deepest.as_str(), &deep, "b"].map(|filter| [&text(filter)[..], &[0]].concat());
        peer.send(0x82, &[&[0, 1], properties, &filters.concat()].concat());
        let (first, body) = peer.packet();
        let reasons = &body[body.len() - 3..];
        assert_eq!((first, reasons), (0x90, &[0, if v5 { 0x8F } else { 0x80 }, 0][..]));
        peer.publish(&deepest, b"x", 0, 0, v5);
        assert_eq!(peer.packet().0, 0x30);
    }
}

#[test]
fn a_will_needs_a_topic() {
    let world = World::new(true);
    for (topic, reason) in [("", 0x82), ("a/#", 0x81)] {
        let mut peer = world.client();
        peer.send(0x10, &[b"\0\x04MQTT\x05\x06\0\0\0", &text("a")[..], &[0], &text(topic), &text("x")].concat());
        let (first, body) = peer.packet();
        assert_eq!((first, &body[..2]), (0x20, &[0, reason][..]), "{topic:?}");
        assert!(peer.is_closed());
        let mut peer = world.client();
        peer.send(0x10, &[b"\0\x04MQTT\x04\x06\0\0", &text("a")[..], &text(topic), &text("x")].concat());
        assert!(peer.is_closed(), "{topic:?}");
    }
}

#[test]
fn reason_codes_that_a_client_may_not_send_are_a_protocol_error() {
    let world = World::new(true);
    let with_id = |reason: u8| vec![0, 9, reason];
    let cases: [(u8, Vec<u8>, bool); 14] = [
        (0x40, with_id(0x10), true),
        (0x40, with_id(0x92), false),
        (0x40, with_id(0x01), false),
        (0x50, with_id(0x99), true),
        (0x50, with_id(0x92), false),
        (0x50, with_id(0xFF), false),
        (0x62, with_id(0x92), true),
        (0x62, with_id(0x10), false),
        (0x70, with_id(0x92), true),
        (0x70, with_id(0x80), false),
        (0xE0, vec![0x04], true),
        (0xE0, vec![0x98], true),
        (0xE0, vec![0x8B], false),
        (0xE0, vec![0x03], false),
    ];
    for (first, body, good) in cases {
        let mut peer = world.v5("a", CLEAN, &[]);
        peer.send(first, &body);
        if good && first == 0xE0 {
            assert!(peer.is_closed());
        } else if good {
            peer.send(0xC0, &[]);
            while peer.packet().0 != 0xD0 {}
        } else {
            let mut packet = peer.packet();
            while packet.0 != 0xE0 {
                packet = peer.packet();
            }
            assert_eq!(packet.1[0], 0x82, "{first:02x} {body:02x?}");
        }
    }
}

#[test]
fn a_version_that_is_not_supported_is_refused_in_the_form_that_it_can_read() {
    let world = World::new(true);
    for (level, wanted) in [(6, vec![0, 0x84, 0]), (127, vec![0, 0x84, 0]), (2, vec![0, 1])] {
        let mut peer = world.client();
        peer.send(0x10, &[b"\0\x04MQTT", &[level, 2, 0, 0][..], &[0], &text("a")].concat());
        let (first, mut body) = peer.packet();
        if level > 5 {
            // Without the text.
            body.truncate(3);
            body[2] = 0;
        }
        assert_eq!((first, body), (0x20, wanted), "level {level}");
        assert!(peer.is_closed());
    }
}
