//! CONNECT and CONNACK: sections 3.1 and 3.2 of the standards.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::devices::{Devices, Login, has, login};
use crate::packets::*;
use crate::world::*;

/// The answer to a CONNECT: the body of its CONNACK, when there is one, and the connection.
fn try_connect(world: &World, bytes: &[u8]) -> (Peer, Vec<u8>) {
    let mut peer = world.client();
    peer.0.write_all(bytes).unwrap();
    let mut first = [0];
    let body = match std::io::Read::read(&mut peer.0, &mut first) {
        Ok(1) => {
            assert_eq!(first, [0x20]);
            peer.rest(0x20).1
        }
        _ => Vec::new(),
    };
    (peer, body)
}

#[test]
fn the_first_packet_is_connect() {
    let world = World::new(true);
    for bytes in [
        packet(0x11, &[b"\0\x04MQTT\x04\x02\0\0\0\x01a"]),
        packet(0x20, &[b"\0\0"]),
        packet(0x30, &[b"\0\x01ax"]),
        packet(0x40, &[b"\0\x01"]),
        packet(0x50, &[b"\0\x01"]),
        packet(0x62, &[b"\0\x01"]),
        packet(0x70, &[b"\0\x01"]),
        packet(0x82, &[b"\0\x01\0\x01a\0"]),
        packet(0xA2, &[b"\0\x01\0\x01a"]),
        packet(0xC0, &[]),
        packet(0xE0, &[]),
        packet(0xF0, &[b"\x18"]),
    ] {
        let mut peer = world.client();
        peer.0.write_all(&bytes).unwrap();
        assert!(all(&mut peer).is_empty(), "no DISCONNECT before a CONNACK: {bytes:02x?}");
    }
}

#[test]
fn a_second_connect_ends_the_connection_and_is_not_answered_by_a_connack() {
    let world = World::new(true);
    for v5 in [false, true] {
        let id = text("ended");
        assert_eq!(ended_by(&world, v5, &connect(v5, 2, &[], &[&id])), if v5 { 0x82 } else { 0 });
    }
}

#[test]
fn another_protocol_name_is_refused() {
    let world = World::new(true);
    for name in ["", "M", "mqtt", "MQTX", "MQTTT", "MQIsdP"] {
        for level in [4, 5] {
            let bytes = packet(0x10, &[&text(name), &[level, 2, 0, 0], none(level == 5), &text("a")]);
            let (mut peer, body) = try_connect(&world, &bytes);
            assert_eq!((body, all(&mut peer)), (vec![], vec![]), "{name} {level}");
        }
    }
    assert_eq!(world.metrics.sessions.get(), 0);
}

#[test]
fn connect_flags_follow_the_rules() {
    let world = World::new(true);
    let (id, topic, value) = (text("a"), text("w"), text("x"));
    for v5 in [false, true] {
        let will: &[&[u8]] = &[&id, none(v5), &topic, &value];
        for (flags, payload, good) in [
            (0x02, &will[..1], true),
            (0x03, &will[..1], false),
            (0x06, will, true),
            (0x0E, will, true),
            (0x16, will, true),
            (0x1E, will, false),
            (0x26, will, true),
            (0x36, will, true),
            (0x0A, &will[..1], false),
            (0x12, &will[..1], false),
            (0x22, &will[..1], false),
            (0x82, &[&id[..], &value], true),
            (0xC2, &[&id[..], &value, &value], true),
            // A password without a user name, which MQTT 5 has.
            (0x42, &[&id[..], &value], v5),
        ] {
            let (mut peer, body) = try_connect(&world, &connect(v5, flags, &[], payload));
            match (good, v5) {
                (true, _) => assert_eq!(body[..2], [0, 0], "{flags:02x} {v5}"),
                (false, true) => assert_eq!(body[..2], [0, 0x81], "{flags:02x}"),
                (false, false) => assert!(body.is_empty(), "{flags:02x}: no CONNACK"),
            }
            assert!(good || all(&mut peer).is_empty());
        }
    }
}

#[test]
fn the_fields_of_connect_are_those_that_its_flags_announce() {
    let world = World::new(true);
    for v5 in [false, true] {
        // Client id, will properties, topic and payload, user name, password.
        let (id, topic, value) = (text("a"), text("w"), text("x"));
        let whole: [&[u8]; 6] = [&id, none(v5), &topic, &value, &value, &value];
        let mut cases: Vec<(u8, Vec<u8>)> = (0..6).map(|fields| (0xC6, whole[..fields].concat())).collect();
        cases.push((0xC6, [&whole.concat()[..], &value].concat()));
        cases.push((0x02, [&id[..], &value].concat()));
        cases.push((0x06, whole[..5].concat()));
        cases.push((0x82, [&id[..], &value, &value].concat()));
        for (flags, payload) in cases {
            let (mut peer, body) = try_connect(&world, &connect(v5, flags, &[], &[&payload]));
            assert_eq!(body.get(..2), v5.then_some(&[0, 0x81][..]), "{flags:02x} {payload:02x?}");
            assert!(all(&mut peer).is_empty());
        }
        assert_eq!(try_connect(&world, &connect(v5, 0xC6, &[], &whole)).1[..2], [0, 0]);
    }
}

#[test]
fn client_ids_of_every_length_up_to_23_and_every_letter_are_accepted() {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let world = World::new(true);
    for v5 in [false, true] {
        for length in 1..=23 {
            let from = (length * 7) % (letters.len() - 23);
            join(&world, v5, &letters[from..from + length], CLEAN).ping();
        }
        for part in [&letters[..21], &letters[21..42], &letters[42..]] {
            join(&world, v5, part, CLEAN).ping();
        }
    }
}

#[test]
fn an_assigned_client_id_is_a_new_one_and_its_session_is_found_by_it() {
    let world = World::new(true);
    let assigned: Vec<String> = (0..3)
        .map(|_| {
            let (_peer, body) = try_connect(&world, &connect(true, 0, LASTS, &[b"\0\0"]));
            assert_eq!(body[..2], [0, 0]);
            let own = properties(&body[3..]);
            let id = &own.iter().find(|(id, _)| *id == 0x12).expect("an assigned client id").1;
            String::from_utf8(id[2..].to_vec()).unwrap()
        })
        .collect();
    assert!(assigned[0] != assigned[1] && assigned[1] != assigned[2] && assigned[0] != assigned[2]);
    rejoin(&world, true, &assigned[1]).ping();
    // 3.1.1 has no way to tell it: each is a client of its own.
    let mut unnamed = [world.v4("", CLEAN), world.v4("", CLEAN)];
    unnamed.iter_mut().for_each(Peer::ping);
    // Nor is an id left out where a session is to be kept.
    let (mut peer, body) = try_connect(&world, &connect(false, 0, &[], &[b"\0\0"]));
    assert_eq!((body, all(&mut peer)), (vec![0, 2], vec![]));
}

#[test]
fn nothing_that_follows_a_connect_that_is_refused_is_processed() {
    let world = World::new(true);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("#", 0, false);
    for v5 in [false, true] {
        // No client id, or an authentication method that is not known.
        let refused = match v5 {
            true => connect(true, 2, b"\x15\0\x01m", &[b"\0\x01a"]),
            false => connect(false, 0, &[], &[b"\0\0"]),
        };
        let publish = packet(0x32, &[b"\0\x01n\0\x01", none(v5), b"x"]);
        let (mut peer, body) = try_connect(&world, &[refused, publish].concat());
        assert_eq!(body[..2], [0, if v5 { 0x8C } else { 2 }]);
        assert!(all(&mut peer).is_empty(), "one CONNACK, and the end");
    }
    watcher.publish("sentinel", b"", 0, 0, false);
    assert_eq!(message(&mut watcher, false).topic, "sentinel");
}

#[test]
fn a_refusal_says_that_no_session_is_present_though_one_is() {
    let world = Devices::new().world(true);
    for v5 in [false, true] {
        let lasting = Login { v5, clean: false, properties: LASTS, ..login("a/d1") };
        lasting.enter(&world).subscribe("devices/d1/#", 1, v5);
        let (mut peer, body) = Login { password: "wrong", ..lasting }.connack(&world);
        assert_eq!(body[..2], [0, if v5 { 0x86 } else { 4 }]);
        assert!(all(&mut peer).is_empty());
        assert_eq!(lasting.connack(&world).1[..2], [1, 0], "it is there");
    }
}

#[test]
fn connack_comes_before_the_messages_that_waited_and_has_one_flag() {
    let world = World::new(true);
    let mut publisher = world.v4("p", CLEAN);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", 0);
        subscribe(&mut peer, v5, 1, &[("n", 2)]);
        peer.send(0xE0, &[]);
        assert!(all(&mut peer).is_empty());
        for first in [0x32, 0x34] {
            publish(&mut publisher, false, first, "n", &[first]);
        }
        let mut peer = rejoin(&world, v5, "s");
        let got = [message(&mut peer, v5), message(&mut peer, v5)];
        assert_eq!([got[0].first, got[1].first], [0x32, 0x34]);
        got.iter().for_each(|got| acknowledge(&mut peer, got));
        peer.ping();
        drop(peer);
        join(&world, v5, "s", CLEAN).ping();
    }
}

#[test]
fn a_clean_start_discards_the_session_with_all_that_waits_in_it() {
    let world = World::new(true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", 0);
        subscribe(&mut peer, v5, 1, &[("n", 2)]);
        publish(&mut publisher, true, 0x34, "n", b"in flight");
        assert_eq!(message(&mut peer, v5).first, 0x34);
        drop(peer);
        publish(&mut publisher, true, 0x32, "n", b"waits");
        let mut clean = world.client();
        clean.connect(if v5 { 5 } else { 4 }, "s", CLEAN, 0, &[]);
        assert_eq!(clean.packet().1[..2], [0, 0], "no session is present");
        clean.ping();
        drop(clean);
        // Neither is it found by the next one, nor is the one that ended with its connection.
        let mut next = world.client();
        next.connect(if v5 { 5 } else { 4 }, "s", 0, 0, LASTS);
        assert_eq!(next.packet().1[..2], [0, 0]);
        publisher.publish("n", b"x", 1, 9, true);
        assert_eq!(publisher.packet(), (0x40, vec![0, 9, 0x10]), "no subscriber");
        next.ping();
    }
}

#[test]
fn a_will_is_published_at_its_qos_and_retained_when_it_says_so() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut watcher = join(&world, v5, "watcher", CLEAN);
        subscribe(&mut watcher, v5, 1, &[("w/#", 2)]);
        for qos in 0..=2_u8 {
            for retain in [false, true] {
                let topic = format!("w/{qos}/{retain}");
                let flags = 6 | qos << 3 | u8::from(retain) << 5;
                let will: [&[u8]; 4] = [&text("dying"), none(v5), &text(&topic), &text("gone")];
                let (peer, body) = try_connect(&world, &connect(v5, flags, &[], &will));
                assert_eq!(body[..2], [0, 0]);
                drop(peer);
                let got = message(&mut watcher, v5);
                assert_eq!((got.first, &*got.topic, &got.payload[..]), (0x30 | qos << 1, &*topic, &b"gone"[..]));
                acknowledge(&mut watcher, &got);
                let mut later = join(&world, v5, "later", CLEAN);
                subscribe(&mut later, v5, 1, &[(&topic, 2)]);
                if retain {
                    assert_eq!(message(&mut later, v5).first, 0x31 | qos << 1);
                } else {
                    assert!(is_quiet(&later));
                }
            }
        }
        // A client without a will message leaves nothing.
        drop(join(&world, v5, "dying", CLEAN));
        wait(|| world.ended("closed") >= 7);
        watcher.ping();
    }
}

#[test]
fn a_will_carries_its_properties_in_their_order() {
    let world = World::new(true);
    let mut watcher = world.v5("watcher", CLEAN, &[]);
    watcher.subscribe("w", 0, true);
    let users = b"\x26\0\x01b\0\x011\x26\0\x01a\0\x012\x26\0\x01b\0\x010\x26\0\x01b\0\x010";
    let own = [&b"\x01\x01\x03\0\x04text\x08\0\x01r\x09\0\x02\0\xFF"[..], users].concat();
    // With a delay, which is not a property of the message.
    let list = list(&[&b"\x18\0\0\0\0"[..], &own].concat());
    let will: [&[u8]; 4] = [&text("dying"), &list, &text("w"), &text("gone")];
    drop(try_connect(&world, &connect(true, 6, &[], &will)));
    assert_eq!(message(&mut watcher, true).properties, own);
}

#[test]
fn no_response_information_is_returned_to_a_client_that_did_not_ask() {
    let world = World::new(true);
    for asked in [&b""[..], b"\x19\0"] {
        let (_peer, body) = try_connect(&world, &connect(true, 2, asked, &[b"\0\x01a"]));
        assert_eq!(body[..2], [0, 0]);
        assert!(properties(&body[3..]).iter().all(|(id, _)| *id != 0x1A));
    }
}

#[test]
fn a_client_that_wants_no_problem_information_gets_no_texts() {
    let world = World::new(true);
    for (own, has_text) in [(&b"\x17\0"[..], false), (b"\x17\x01", true), (b"", true)] {
        let mut peer = world.v5("a", CLEAN, own);
        for (qos, answer) in [(1, 0x40), (2, 0x50)] {
            peer.publish("devices/a/telemetry", OTHER_DEVICE, qos, 7, true);
            let (first, body) = peer.packet();
            assert_eq!((first, &body[..3]), (answer, &[0, 7, 0x87][..]));
            assert_eq!(has(&body, "not granted"), has_text, "{body:?}");
            assert!(has_text || body.len() <= 4, "neither a text nor user properties: {body:?}");
        }
        // PUBREL and PUBCOMP of exchanges that are not known, SUBACK and UNSUBACK.
        peer.send(0x50, &[0, 9]);
        assert_eq!(peer.packet(), (0x62, vec![0, 9, 0x92]));
        peer.send(0x62, &[0, 9]);
        assert_eq!(peer.packet(), (0x70, vec![0, 9, 0x92]));
        assert_eq!(subscribe(&mut peer, true, 1, &[("n", 0)]), [0]);
        assert_eq!(unsubscribe(&mut peer, true, 1, &["m"]), [0x11]);
    }
}

#[test]
fn a_silent_client_of_either_version_is_closed_as_if_the_network_had_failed() {
    let world = World::new(true);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("w", 0, false);
    let begun = Instant::now();
    let mut peers = [false, true].map(|v5| {
        let mut bytes = connect(v5, 6, &[], &[&text(if v5 { "five" } else { "four" }), none(v5), b"\0\x01w\0\x01x"]);
        // Keep-alive of one second, which the server does not change.
        bytes[11] = 1;
        let (peer, body) = try_connect(&world, &bytes);
        assert_eq!(body[..2], [0, 0]);
        assert!(!v5 || properties(&body[3..]).iter().all(|(id, _)| *id != 0x13), "no Server Keep Alive");
        peer
    });
    assert_eq!((end(&mut peers[0], false), end(&mut peers[1], true)), (0, 0x8D));
    assert!((1.4..6.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    for _ in 0..2 {
        assert_eq!(message(&mut watcher, false).payload, b"x", "the will message");
    }
    // A client that sends anything is not silent.
    let mut peer = world.client();
    peer.connect(4, "busy", CLEAN, 1, &[]);
    assert_eq!(peer.packet().0, 0x20);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        peer.ping();
    }
}
