//! PINGREQ, DISCONNECT and the end of connections: sections 3.12 to 3.14 and 4.13 of the standards.

use std::io::Write;
use std::sync::atomic::Ordering;

use crate::packets::*;
use crate::world::*;

#[test]
fn every_ping_is_answered() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        peer.0.write_all(&[0xC0, 0].repeat(50)).unwrap();
        for _ in 0..50 {
            assert_eq!(peer.packet(), (0xD0, vec![]));
        }
    }
}

#[test]
fn nothing_that_follows_disconnect_is_processed() {
    let world = World::new(true);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("#", 0, false);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        let publish = |payload: &[u8]| packet(0x32, &[b"\0\x01n\0\x01", none(v5), payload]);
        peer.0.write_all(&[publish(b"before"), vec![0xE0, 0], publish(b"after"), vec![0xC0, 0]].concat()).unwrap();
        assert_eq!(message(&mut watcher, false).payload, b"before");
        let answers = all(&mut peer);
        assert!(answers.is_empty() || answers == [0x40, 2, 0, 1], "no answer to what follows: {answers:02x?}");
    }
    watcher.ping();
}

#[test]
fn disconnect_is_the_last_packet_of_the_server_and_changes_no_session() {
    let world = World::new(true);
    for (n, bad) in [
        (1, packet(0x36, &[b"\0\x01a\0\x01\0x"])),
        (2, packet(0xC1, &[])),
        (3, packet(0x30, &[b"\0\x01#\0x"])),
        (4, packet(0x82, &[b"\0\x01\0"])),
    ] {
        let mut peer = world.v5("a", 0, LASTS);
        // Packets around it that would be answered.
        peer.0.write_all(&[&[0xC0, 0][..], &bad, &[0xC0, 0], &packet(0x82, &[b"\0\x01\0\0\x01a\0"])].concat()).unwrap();
        assert_eq!(peer.packet(), (0xD0, vec![]), "case {n}");
        let (first, body) = peer.packet();
        assert!(first == 0xE0 && body[0] >= 0x80, "case {n}: {first:02x} {body:02x?}");
        let own = properties(body.get(2..).unwrap_or_default());
        assert!(own.iter().all(|(id, _)| *id == 0x1F), "a reason string and no session expiry: {own:?}");
        assert!(all(&mut peer).is_empty(), "case {n}");
        // A session outlasts the error.
        rejoin(&world, true, "a").send(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]);
        wait(|| world.metrics.sessions.get() == 0);
    }
}

#[test]
fn a_session_that_ends_with_its_connection_is_not_made_to_last_by_disconnect() {
    let world = World::new(true);
    let lengthened = packet(0xE0, &[b"\0", &list(&[0x11, 0, 0, 0, 9])]);
    assert_eq!(ended_by(&world, true, &lengthened), 0x82);
    // One that lasts may be made to end.
    let mut peer = world.v5("a", 0, LASTS);
    peer.0.write_all(&packet(0xE0, &[b"\0", &list(&[0x11, 0, 0, 0, 0])])).unwrap();
    assert!(all(&mut peer).is_empty());
    wait(|| world.metrics.sessions.get() == 0);
}

#[test]
fn only_a_normal_disconnect_discards_the_will_message() {
    let world = World::new(true);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("wills/#", 0, false);
    let cases: [(&str, bool, &[u8], bool); 9] = [
        ("3.1.1", false, b"", false),
        ("short", true, b"", false),
        ("normal", true, b"\0", false),
        ("properties", true, b"\0\0", false),
        ("with-will", true, b"\x04", true),
        ("unspecified", true, b"\x80", true),
        ("malformed", true, b"\x81", true),
        ("quota", true, b"\x97", true),
        ("administrative", true, b"\x98", true),
    ];
    for (id, v5, body, is_published) in cases {
        let mut peer = world.with_will(id, v5, &[], &[], true);
        peer.send(0xE0, body);
        assert!(all(&mut peer).is_empty());
        if is_published {
            assert_eq!(message(&mut watcher, false).topic, format!("wills/{id}"));
        }
        watcher.ping();
    }
    // An error is no normal end, in either version.
    for (id, v5) in [("error-4", false), ("error-5", true)] {
        let mut peer = world.with_will(id, v5, &[], &[], true);
        peer.send(0xC1, &[]);
        end(&mut peer, v5);
        assert_eq!(message(&mut watcher, false).topic, format!("wills/{id}"));
    }
}

#[test]
fn an_error_of_the_server_closes_the_connection() {
    for v5 in [false, true] {
        let world = World::new(false);
        let mut peer = join(&world, v5, "a", CLEAN);
        peer.publish("devices/a/telemetry", b"1", 1, 1, v5);
        wait(|| world.log.last.load(Ordering::SeqCst) == 1);
        world.log.failed.store(true, Ordering::SeqCst);
        world.log.wake();
        assert_eq!(end(&mut peer, v5), if v5 { 0x83 } else { 0 });
    }
}
