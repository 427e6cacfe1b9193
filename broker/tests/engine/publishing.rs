//! PUBLISH and its answers: sections 3.3 to 3.7 of the standards.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::packets::*;
use crate::world::*;

#[test]
fn qos_3_and_a_duplicate_of_qos_0_do_not_exist() {
    let world = World::new(true);
    for v5 in [false, true] {
        for first in [0x36, 0x37, 0x3E, 0x3F, 0x38, 0x39] {
            let bytes = packet(first, &[b"\0\x01a\0\x01", none(v5), b"x"]);
            assert_eq!(ended_by(&world, v5, &bytes), if v5 { 0x81 } else { 0 }, "{first:02x}");
        }
    }
}

#[test]
fn a_message_is_answered_as_its_qos_asks() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "a", CLEAN);
        // Each time another session: the one before may have got a message while its connection
        // closed.
        subscribe(&mut join(&world, v5, &format!("s-{v5}"), 0), v5, 1, &[("n", 0)]);
        peer.publish("n", b"x", 0, 0, v5);
        // Nothing at QoS 0.
        peer.ping();
        peer.publish("n", b"x", 1, 0x1FF, v5);
        assert_eq!(peer.packet(), (0x40, vec![1, 0xFF]));
        peer.publish("n", b"x", 2, 0x2FF, v5);
        assert_eq!(peer.packet(), (0x50, vec![2, 0xFF]));
        peer.send(0x62, &[2, 0xFF]);
        assert_eq!(peer.packet(), (0x70, vec![2, 0xFF]));
    }
}

#[test]
fn the_dup_flag_of_a_publisher_is_not_handed_on() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 2)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        for first in [0x3A, 0x3C] {
            publish(&mut publisher, v5, first, "n", b"x");
            let got = message(&mut peer, v5);
            assert_eq!(got.first, first & !8, "a first copy is no duplicate");
            acknowledge(&mut peer, &got);
        }
    }
}

/// A retained message: first byte of the PUBLISH, and payload.
type Kept = Option<(u8, &'static [u8])>;

/// The retained message of `r`, as a new subscriber gets it: first byte and payload.
fn retained(world: &World, v5: bool) -> Option<(u8, Vec<u8>)> {
    let mut peer = join(world, v5, "reader", CLEAN);
    subscribe(&mut peer, v5, 1, &[("r", 2)]);
    (!is_quiet(&peer)).then(|| {
        let got = message(&mut peer, v5);
        (got.first, got.payload)
    })
}

#[test]
fn a_retained_message_is_replaced_and_removed_by_retained_ones_only() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut watcher = join(&world, v5, "watcher", CLEAN);
        subscribe(&mut watcher, v5, 1, &[("r", 0)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        let steps: [(u8, &[u8], Kept); 8] = [
            (0x32, b"plain", None),
            (0x33, b"one", Some((0x33, b"one"))),
            (0x32, b"plain", Some((0x33, b"one"))),
            (0x32, b"", Some((0x33, b"one"))),
            // QoS 0 replaces one of QoS 1, and QoS 2 that.
            (0x31, b"two", Some((0x31, b"two"))),
            (0x35, b"three", Some((0x35, b"three"))),
            (0x33, b"", None),
            (0x31, b"", None),
        ];
        for (first, payload, kept) in steps {
            publish(&mut publisher, v5, first, "r", payload);
            let got = message(&mut watcher, v5);
            assert_eq!((got.first, &got.payload[..]), (0x30, payload), "to a subscription that is there already");
            assert_eq!(retained(&world, v5), kept.map(|(first, payload)| (first, payload.to_vec())));
        }
    }
}

#[test]
fn a_retained_message_stays_when_the_session_of_its_publisher_ends() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut publisher = join(&world, v5, "p", CLEAN);
        publish(&mut publisher, v5, 0x33, "r", b"on");
        publisher.send(0xE0, &[]);
        assert!(all(&mut publisher).is_empty());
        join(&world, v5, "p", CLEAN).ping();
        assert_eq!(retained(&world, v5), Some((0x33, b"on".to_vec())));
    }
}

#[test]
fn retained_messages_are_sent_as_the_subscription_asks() {
    let world = World::new(true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    publish(&mut publisher, true, 0x33, "r/b", b"b");
    for (handling, at_first, later) in [(0, true, true), (0x10, true, false), (0x20, false, false)] {
        publish(&mut publisher, true, 0x33, "r/a", b"a");
        let mut peer = world.v5("s", CLEAN, &[]);
        for sent in [at_first, later] {
            assert_eq!(subscribe(&mut peer, true, 1, &[("r/+", 1 | handling)]), [1]);
            if sent {
                let mut got = [message(&mut peer, true), message(&mut peer, true)];
                got.iter().for_each(|got| acknowledge(&mut peer, got));
                got.sort_by(|a, b| a.topic.cmp(&b.topic));
                assert_eq!(got.map(|got| (got.first, got.topic)), [(0x33, "r/a".into()), (0x33, "r/b".into())]);
            }
            assert!(is_quiet(&peer));
        }
        // One that was given up is a new one.
        assert_eq!(unsubscribe(&mut peer, true, 2, &["r/+"]), [0]);
        subscribe(&mut peer, true, 3, &[("r/a", handling)]);
        if at_first {
            assert_eq!(message(&mut peer, true).first, 0x31);
        }
        assert!(is_quiet(&peer));
        // Forwarded messages have the flag only where it was asked for and set.
        for (options, first, wanted) in [(0x20, 0x31, 0x30), (0x28, 0x31, 0x31), (0x28, 0x30, 0x30)] {
            subscribe(&mut peer, true, 4, &[("r/a", options)]);
            publish(&mut publisher, true, first, "r/a", b"a");
            assert_eq!(message(&mut peer, true).first, wanted);
        }
    }
}

#[test]
fn user_properties_keep_their_order_and_all_properties_their_bytes() {
    let world = World::new(true);
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe("n", 1, true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    let own = [
        // Unspecified bytes, text with all kinds of characters, names twice and in no order.
        &b"\x01\0\x03\0\x05te/xt\x08\0\x03a/b\x09\0\x03\0\xFF\0"[..],
        b"\x26\0\x01z\0\x011\x26\0\x01a\0\0\x26\0\x02\xC3\xA9\0\x012\x26\0\x01z\0\x010\x26\0\x01z\0\x010",
    ]
    .concat();
    publisher.publish_properties(0x32, "n", b"\0\xFFx", 1, Some(&own));
    assert_eq!(publisher.packet().0, 0x40);
    let got = message(&mut peer, true);
    assert_eq!((got.properties, &got.payload[..]), (own, &b"\0\xFFx"[..]));
}

#[test]
fn properties_that_are_none_of_a_message_to_a_server_end_the_connection() {
    let world = World::new(true);
    for (property, reason) in [
        (&b"\x0B\x01"[..], 0x82),
        (b"\x08\0\x03a/#", 0x82),
        (b"\x08\0\x01+", 0x82),
        (b"\x01\x02", 0x82),
        (b"\x11\0\0\0\x01", 0x82),
        (b"\x03\0\x01a\x03\0\x01a", 0x82),
        (b"\x7E\x01", 0x81),
    ] {
        let bytes = packet(0x30, &[b"\0\x01n", &list(property), b"x"]);
        assert_eq!(ended_by(&world, true, &bytes), reason, "{property:02x?}");
    }
}

#[test]
fn topic_aliases_of_a_client_stay_in_their_bounds_and_end_with_its_connection() {
    let world = World::new(true);
    let mut peer = world.client();
    peer.0.write_all(&connect(true, 0, LASTS, &[b"\0\x01a"])).unwrap();
    let own = properties(&peer.packet().1[3..]);
    let most = &own.iter().find(|(id, _)| *id == 0x22).expect("Topic Alias Maximum").1;
    let most = u16::from_be_bytes([most[0], most[1]]);
    assert!(most > 0);
    peer.subscribe("n", 0, true);
    let alias = |alias: u16| [&[0x23][..], &alias.to_be_bytes()].concat();
    for (topic, alias_of) in [("n", 1), ("n", most), ("", 1), ("", most)] {
        peer.publish_properties(0x30, topic, b"x", 0, Some(&alias(alias_of)));
        let got = message(&mut peer, true);
        assert_eq!((&*got.topic, &got.properties[..]), ("n", &[][..]), "{alias_of}");
    }
    drop(peer);
    let mut peer = rejoin(&world, true, "a");
    peer.publish_properties(0x30, "", b"x", 0, Some(&alias(1)));
    assert_eq!(end(&mut peer, true), 0x82, "not carried to another connection");
    for (topic, alias_of, reason) in [("n", 0, 0x94), ("n", most + 1, 0x94), ("", 2, 0x82)] {
        let mut peer = world.v5("b", CLEAN, &[]);
        peer.publish_properties(0x30, topic, b"x", 0, Some(&alias(alias_of)));
        assert_eq!(end(&mut peer, true), reason, "{topic} {alias_of}");
    }
    // Neither a topic nor an alias.
    assert_eq!(ended_by(&world, true, &packet(0x30, &[b"\0\0\0x"])), 0x82);
    assert_eq!(ended_by(&world, false, &packet(0x30, &[b"\0\0x"])), 0);
}

#[test]
fn a_packet_id_is_free_once_its_exchange_is_over_whatever_dup_says() {
    let world = World::new(true);
    for v5 in [false, true] {
        let mut peer = join(&world, v5, "s", CLEAN);
        subscribe(&mut peer, v5, 1, &[("n", 0)]);
        let mut publisher = join(&world, v5, "p", CLEAN);
        for first in [0x32, 0x3A, 0x34, 0x3C] {
            for payload in [b"1", b"2"] {
                publish(&mut publisher, v5, first, "n", payload);
                assert_eq!(message(&mut peer, v5).payload, payload, "{first:02x}: a message of its own");
            }
        }
        // Before PUBREL it is the same one.
        for first in [0x34, 0x3C, 0x34] {
            publisher.publish_with(first, "n", b"3", 9, v5);
            assert_eq!(publisher.packet(), (0x50, vec![0, 9]));
        }
        publisher.send(0x62, &[0, 9]);
        assert_eq!(publisher.packet(), (0x70, vec![0, 9]));
        assert_eq!(message(&mut peer, v5).payload, b"3");
        peer.ping();
    }
}

#[test]
fn an_exchange_goes_on_though_its_message_has_expired() {
    let world = World::new(true);
    let mut subscriber = world.v5("s", 0, LASTS);
    subscriber.subscribe("n", 2, true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    publisher.publish_properties(0x34, "n", b"brief", 5, Some(b"\x02\0\0\0\x01"));
    assert_eq!(publisher.packet(), (0x50, vec![0, 5]));
    let sent = message(&mut subscriber, true);
    // The subscriber is away with it for longer than it lasts; another one was not sent yet.
    drop(subscriber);
    wait(|| world.ended("closed") == 1);
    publisher.publish_properties(0x34, "n", b"late", 6, Some(b"\x02\0\0\0\x01"));
    assert_eq!(publisher.packet(), (0x50, vec![0, 6]));
    let begun = Instant::now();
    wait(|| begun.elapsed() > Duration::from_millis(1200));
    for id in [5, 6] {
        publisher.send(0x62, &[0, id]);
        assert_eq!(publisher.packet(), (0x70, vec![0, id]), "as the receiver");
    }
    let mut subscriber = rejoin(&world, true, "s");
    let again = message(&mut subscriber, true);
    assert_eq!((again.first, again.id, &again.payload[..]), (0x3C, sent.id, &b"brief"[..]), "as the sender");
    acknowledge(&mut subscriber, &again);
    subscriber.ping();
    assert_eq!(world.dropped("expired"), 1, "the one that was not sent");
}

#[test]
fn the_receive_maximum_holds_up_messages_only() {
    let world = World::new(true);
    let mut peer = world.v5("s", CLEAN, &[0x21, 0, 1]);
    subscribe(&mut peer, true, 1, &[("n", 2)]);
    let mut publisher = world.v5("p", CLEAN, &[]);
    publish(&mut publisher, true, 0x32, "n", b"1");
    publish(&mut publisher, true, 0x34, "n", b"2");
    let first = message(&mut peer, true);
    assert_eq!(first.payload, b"1");
    // All other packets are answered meanwhile.
    peer.ping();
    assert_eq!(subscribe(&mut peer, true, 2, &[("m", 0)]), [0]);
    assert_eq!(unsubscribe(&mut peer, true, 3, &["m"]), [0]);
    publish(&mut peer, true, 0x32, "other", b"x");
    publish(&mut peer, true, 0x34, "other", b"x");
    acknowledge(&mut peer, &first);
    let second = message(&mut peer, true);
    assert_eq!((second.first, &second.payload[..]), (0x34, &b"2"[..]));
}

#[test]
fn messages_of_qos_2_are_answered_in_their_order() {
    for v5 in [false, true] {
        let world = World::new(false);
        let mut peer = join(&world, v5, "a", CLEAN);
        let ids = [9, 3, 7, 1, 8];
        for id in ids {
            let topic = if id == 7 { "plain" } else { "devices/a/telemetry" };
            peer.publish(topic, b"1", 2, id, v5);
        }
        world.log.wait_taken(4);
        assert!(is_quiet(&peer), "nothing is durable");
        wait(|| world.log.last.load(Ordering::SeqCst) > 0);
        world.log.instant.store(true, Ordering::SeqCst);
        world.log.release_to(world.log.last.load(Ordering::SeqCst));
        for id in ids {
            let (first, body) = peer.packet();
            assert_eq!((first, u16::from_be_bytes([body[0], body[1]])), (0x50, id));
        }
        for id in [1, 9, 8] {
            peer.send(0x62, &[0, id]);
        }
        for id in [1, 9, 8] {
            assert_eq!(peer.packet(), (0x70, vec![0, id]));
        }
    }
}
