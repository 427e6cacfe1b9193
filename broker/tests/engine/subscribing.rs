//! SUBSCRIBE, UNSUBSCRIBE and their answers: sections 3.8 to 3.11 of the standards.

use std::sync::atomic::Ordering;

use crate::packets::*;
use crate::world::*;

#[test]
fn a_subscription_without_filters_ends_the_connection() {
    let world = World::new(true);
    for v5 in [false, true] {
        for first in [0x82, 0xA2] {
            let bytes = packet(first, &[b"\0\x01", none(v5)]);
            assert_eq!(ended_by(&world, v5, &bytes), if v5 { 0x82 } else { 0 }, "{first:02x}");
        }
        // A filter without its options, after a whole one.
        let bytes = packet(0x82, &[b"\0\x01", none(v5), b"\0\x01a\0", b"\0\x01b"]);
        assert_eq!(ended_by(&world, v5, &bytes), if v5 { 0x81 } else { 0 });
    }
}

#[test]
fn options_that_do_not_exist_end_the_connection() {
    let world = World::new(true);
    let of_3 = [3, 4, 8, 0x10, 0x20, 0x40, 0x80, 0xFD].map(|options| (false, options, 0));
    let of_5 = [(0x03, 0x81), (0x31, 0x82), (0x41, 0x81), (0x81, 0x81), (0xC1, 0x81)];
    for (v5, options, reason) in of_3.into_iter().chain(of_5.map(|(options, reason)| (true, options, reason))) {
        // The second of two, of which none is made.
        let bytes = packet(0x82, &[b"\0\x01", none(v5), b"\0\x01a\0", b"\0\x01b", &[options]]);
        assert_eq!(ended_by(&world, v5, &bytes), reason, "{options:02x}");
    }
    let mut publisher = world.v5("p", CLEAN, &[]);
    publisher.publish("a", b"x", 1, 1, true);
    assert_eq!(publisher.packet(), (0x40, vec![0, 1, 0x10]));
}

#[test]
fn several_filters_are_answered_in_their_order_by_one_packet() {
    let world = World::new(true);
    let deep = "a/".repeat(201);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", CLEAN);
        let refused = if v5 { 0x8F } else { 0x80 };
        let codes = subscribe(&mut peer, v5, 1, &[("a", 2), (&deep, 1), ("b", 0), ("c/+", 1), ("a", 1)]);
        assert_eq!(codes, [2, refused, 0, 1, 1]);
        let codes = unsubscribe(&mut peer, v5, 2, &["c/+", "none", "a", "a"]);
        assert_eq!(codes, if v5 { vec![0, 0x11, 0, 0x11] } else { vec![] });
        let mut publisher = join(&world, v5, "p", CLEAN);
        for topic in ["a", "c/d", "b"] {
            publish(&mut publisher, v5, 0x32, topic, b"x");
        }
        assert_eq!(message(&mut peer, v5).topic, "b");
        peer.ping();
        // Where nothing is left to end, too.
        for id in [3, 4] {
            assert_eq!(unsubscribe(&mut peer, v5, id, &["none"]), if v5 { vec![0x11] } else { vec![] });
        }
    }
}

#[test]
fn a_subscription_of_the_same_filter_replaces_the_one_before() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut publisher = join(&world, v5, "p", CLEAN);
        publish(&mut publisher, v5, 0x33, "r/1", b"kept");
        let mut peer = join(&world, v5, "s", CLEAN);
        for qos in [2, 0, 1] {
            assert_eq!(subscribe(&mut peer, v5, 1, &[("r/+", qos)]), [qos]);
            let kept = message(&mut peer, v5);
            assert_eq!((kept.first, &kept.payload[..]), (0x31 | qos.min(1) << 1, &b"kept"[..]), "again");
            acknowledge(&mut peer, &kept);
            publish(&mut publisher, v5, 0x34, "r/2", b"live");
            let got = message(&mut peer, v5);
            assert_eq!(got.first, 0x30 | qos << 1, "one copy, at the QoS of the last one");
            acknowledge(&mut peer, &got);
            peer.ping();
        }
        if v5 {
            // The id goes with it.
            for (id, wanted) in [(7, &b"\x0B\x07"[..]), (8, b"\x0B\x08")] {
                peer.subscribe_with_id("r/+", 0x20, id);
                publish(&mut publisher, v5, 0x30, "r/2", b"live");
                assert_eq!(message(&mut peer, v5).properties, wanted);
            }
        }
    }
}

#[test]
fn no_message_is_lost_while_a_subscription_is_replaced() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", CLEAN);
        let mut publisher = join(&world, v5, "p", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 1)]);
        for n in 0..100_u8 {
            publisher.publish("n", &[n], 1, u16::from(n) + 1, v5);
            peer.send(0x82, &[b"\0\x09", none(v5), b"\0\x01n\x01"].concat());
        }
        let (mut got, mut answers) = (Vec::new(), 0);
        while got.len() < 100 || answers < 100 {
            match peer.packet() {
                (0x90, _) => answers += 1,
                (first, body) => {
                    assert_eq!(first, 0x32);
                    got.push(*body.last().unwrap());
                    peer.send(0x40, &body[3..5]);
                }
            }
        }
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        peer.ping();
    }
}

#[test]
fn the_filter_of_an_unsubscribe_is_compared_character_by_character() {
    let world = World::new(true);
    let held = ["a/+", "a/#", "a/b", "A/b", "a//b", "a/b/"];
    for v5 in [false, true] {
        for ended in held {
            let mut peer = join(&world, v5, "s", CLEAN);
            for filter in held {
                subscribe(&mut peer, v5, 1, &[(filter, 0)]);
            }
            for other in ["+/b", "#", "a", "a/", "+/+", "a/B", "/a/b", "a/b//"] {
                assert_eq!(unsubscribe(&mut peer, v5, 2, &[other]), if v5 { vec![0x11] } else { vec![] }, "{other}");
            }
            assert_eq!(unsubscribe(&mut peer, v5, 3, &[ended]), if v5 { vec![0] } else { vec![] });
            // All others are held still: those that only their own name matches.
            let mut publisher = world.v5("p", CLEAN, &[]);
            publisher.publish("A/b", b"x", 1, 1, true);
            let is_held = ended != "A/b";
            assert_eq!(publisher.packet().1.get(2), (!is_held).then_some(&0x10), "{ended}");
            if is_held {
                assert_eq!(message(&mut peer, v5).topic, "A/b");
            }
        }
    }
}

#[test]
fn a_subscription_that_ends_gets_nothing_new_and_what_was_sent_is_completed() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut peer = join(&world, v5, "s", 0);
        subscribe(&mut peer, v5, 1, &[("n", 2)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        publish(&mut publisher, v5, 0x32, "n", b"one");
        publish(&mut publisher, v5, 0x34, "n", b"two");
        let (one, two) = (message(&mut peer, v5), message(&mut peer, v5));
        unsubscribe(&mut peer, v5, 2, &["n"]);
        publish(&mut publisher, v5, 0x34, "n", b"three");
        peer.ping();
        drop(peer);
        let mut peer = rejoin(&world, v5, "s");
        let again = [message(&mut peer, v5), message(&mut peer, v5)];
        again.iter().for_each(|got| acknowledge(&mut peer, got));
        assert_eq!(again, [one, two].map(|sent| Got { first: sent.first | 8, ..sent }));
        peer.ping();
    }
}

#[test]
fn an_unsuback_waits_for_the_removal_of_the_subscription_before_it() {
    let world = World::new(true);
    let mut s = world.client();
    s.connect(4, "s", 0, 60, &[]);
    assert_eq!(s.packet(), (0x20, vec![0, 0]));
    s.subscribe("n", 1, false);
    world.log.instant.store(false, Ordering::SeqCst);
    for id in [1, 2] {
        s.send(0xA2, &[&[0, id][..], &text("n")].concat());
    }
    s.ping();
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    for id in [1, 2] {
        assert_eq!(s.packet(), (0xB0, vec![0, id]));
    }
}
