//! Delivery, order and topics: sections 4.1 to 4.7 of the standards.

use std::collections::BTreeSet;

use crate::packets::*;
use crate::world::*;

/// Filters, names that they match, and names that they do not match.
const FILTERS: [(&str, &[&str], &[&str]); 17] = [
    ("a/b", &["a/b"], &["a", "a/", "a/b/", "/a/b", "a/b/c", "A/b", "a/B", "a//b", " a/b", "a/b "]),
    ("a/#", &["a", "a/", "a/b", "a/b/c", "a//"], &["b", "ab", "/a", "A", "aa/b"]),
    ("#", &["a", "/", "//", "a/b/c", " "], &[]),
    ("/#", &["/", "/a", "//"], &["a", "a/"]),
    ("+", &["a", " "], &["/", "/a", "a/", "a/b"]),
    ("+/+", &["/", "/a", "a/", "a/b"], &["a", "a/b/c", "//"]),
    ("/+", &["/", "/a"], &["a", "//", "/a/"]),
    ("a/+", &["a/", "a/b"], &["a", "a/b/", "a//"]),
    ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c", "a/b/c/"]),
    ("+/b/#", &["a/b", "/b", "a/b/", "a/b/c/d"], &["b", "a/b2", "a/a/b"]),
    ("+/+/+/#", &["//", "a/b/c", "a/b/c/d/e"], &["a/b", "/"]),
    ("//", &["//"], &["/", "///", "a/"]),
    // The same letter, composed and not; the order of characters; spaces of several kinds.
    ("\u{E9}", &["\u{E9}"], &["e\u{301}", "e"]),
    ("e\u{301}", &["e\u{301}"], &["\u{E9}"]),
    ("a b", &["a b"], &["a\u{A0}b", "ab", "a  b"]),
    ("\u{212B}/%61", &["\u{212B}/%61"], &["\u{C5}/%61", "\u{212B}/a"]),
    ("a/.", &["a/."], &["a", "a/", "a/.."]),
];

#[test]
fn a_filter_matches_the_names_that_the_standard_says_and_no_others() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut publisher = join(&world, v5, "p", CLEAN);
        for (filter, good, bad) in FILTERS {
            let mut peer = join(&world, v5, "s", CLEAN);
            assert_eq!(subscribe(&mut peer, v5, 1, &[(filter, 0), ("the/end/of/it", 0)]), [0, 0]);
            for name in good.iter().chain(bad).chain(&["the/end/of/it"]) {
                publish(&mut publisher, v5, 0x30, name, b"x");
            }
            let mut got = Vec::new();
            while got.last().is_none_or(|last| last != "the/end/of/it") {
                got.push(message(&mut peer, v5).topic);
            }
            got.pop();
            assert_eq!(got, *good, "{filter}");
        }
    }
}

#[test]
fn wildcards_stand_where_they_may_and_in_no_name() {
    let world = World::new(true);
    for v5 in [false, true] {
        let malformed = if v5 { 0x81 } else { 0 };
        for filter in ["", "a#", "#a", "a/#/b", "##", "a/#b", "+a", "a+", "a/b+/c", "++", "#/"] {
            for (first, tail) in [(0x82, &[0][..]), (0xA2, &[])] {
                let bytes = packet(first, &[b"\0\x01", none(v5), &text(filter), tail]);
                assert_eq!(ended_by(&world, v5, &bytes), malformed, "{filter}");
            }
        }
        for name in ["#", "+", "a/#", "a/+/b", "a#", "a+"] {
            let bytes = packet(0x30, &[&text(name), none(v5), b"x"]);
            assert_eq!(ended_by(&world, v5, &bytes), malformed, "{name}");
        }
    }
}

#[test]
fn a_name_may_have_65535_bytes() {
    let world = World::new(true);
    let name = "n".repeat(65_535);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", CLEAN);
        assert_eq!(subscribe(&mut peer, v5, 1, &[(&name, 0)]), [0]);
        peer.publish(&name, b"x", 0, 0, v5);
        assert_eq!(message(&mut peer, v5).topic, name);
    }
}

#[test]
fn messages_of_one_publisher_come_in_their_order_at_each_qos() {
    let world = World::new(true);
    for v5 in [false, true] {
        for qos in 0..=2_u8 {
            let mut peers: Vec<Peer> = (0..2).map(|n| join(&world, v5, &format!("s{n}"), CLEAN)).collect();
            for (peer, filter) in peers.iter_mut().zip(["n/+", "#"]) {
                subscribe(peer, v5, 1, &[(filter, qos)]);
            }
            let mut publisher = join(&world, v5, "p", CLEAN);
            // In one burst, on two topics.
            for n in 0..100_u8 {
                publisher.publish(["n/1", "n/2"][usize::from(n % 2)], &[n], qos, u16::from(n) + 1, v5);
            }
            for peer in &mut peers {
                let mut got = Vec::new();
                while got.len() < 100 {
                    match peer.packet() {
                        (0x62, body) => peer.send(0x70, &body),
                        (byte, body) => {
                            assert_eq!(byte, 0x30 | qos << 1);
                            got.push(*body.last().unwrap());
                            match qos {
                                0 => {}
                                1 => peer.send(0x40, &body[5..7]),
                                _ => peer.send(0x50, &body[5..7]),
                            }
                        }
                    }
                }
                for parity in 0..2 {
                    let own: Vec<u8> = got.iter().copied().filter(|n| n % 2 == parity).collect();
                    assert_eq!(own, (0..50).map(|n| 2 * n + parity).collect::<Vec<_>>(), "QoS {qos}");
                }
            }
        }
    }
}

#[test]
fn packet_ids_in_flight_are_all_different_and_not_0() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 2)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        let mut held = BTreeSet::new();
        for n in 0..40_u8 {
            publish(&mut publisher, v5, if n % 2 == 0 { 0x32 } else { 0x34 }, "n", &[n]);
            let got = message(&mut peer, v5);
            assert!(got.id != 0 && held.insert(got.id), "{got:?}");
            assert_eq!(got.first & 8, 0, "no DUP");
            // Every third one is over.
            if n % 3 == 0 {
                held.remove(&got.id);
                acknowledge(&mut peer, &got);
            }
        }
    }
}

#[test]
fn a_session_lasts_as_long_as_its_connection_and_no_longer_than_it_was_asked_to() {
    let world = World::new(true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    for v5 in [false, true] {
        // Expiry 0, or a clean session.
        let mut peer = join(&world, v5, "s", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 1)]);
        for _ in 0..3 {
            publish(&mut publisher, true, 0x32, "n", b"x");
            let got = message(&mut peer, v5);
            acknowledge(&mut peer, &got);
        }
        drop(peer);
        wait(|| world.metrics.sessions.get() == 1);
        publisher.publish("n", b"x", 1, 1, true);
        assert_eq!(publisher.packet(), (0x40, vec![0, 1, 0x10]), "no subscriber is left");
    }
}

#[test]
fn messages_of_qos_1_and_2_are_kept_for_a_session_whose_client_is_away() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut peer = join(&world, v5, "s", 0);
        subscribe(&mut peer, v5, 1, &[("n", 2), ("other", 1)]);
        drop(peer);
        wait(|| world.ended("closed") == 1);
        let mut publisher = join(&world, v5, "p", CLEAN);
        for first in [0x32, 0x34] {
            publish(&mut publisher, v5, first, "n", &[first]);
            publish(&mut publisher, v5, first, "unrelated", &[first]);
        }
        publish(&mut publisher, v5, 0x34, "other", b"last");
        let mut peer = rejoin(&world, v5, "s");
        let got: Vec<Got> = (0..3).map(|_| message(&mut peer, v5)).collect();
        assert_eq!(got.iter().map(|got| got.first).collect::<Vec<_>>(), [0x32, 0x34, 0x32]);
        got.iter().for_each(|got| acknowledge(&mut peer, got));
        peer.ping();
    }
}
