//! Topic aliases of messages to a client (MQTT 5.0, section 3.3.2.3.4).

use weir_broker::Config;

use crate::devices::LASTS;
use crate::world::*;

/// The next message of QoS 0 or 1 without properties but an alias: topic, alias, payload.
fn next(peer: &mut Peer) -> (String, Option<u16>, Vec<u8>) {
    let (first, body) = peer.packet();
    assert_eq!(first & 0xF0, 0x30);
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let name = String::from_utf8(body[2..2 + topic].to_vec()).unwrap();
    let own = 2 + topic + if first & 6 > 0 { 2 } else { 0 };
    let alias = (body[own] > 0).then(|| {
        assert_eq!(body[own..own + 2], [3, 0x23]);
        u16::from_be_bytes([body[own + 2], body[own + 3]])
    });
    (name, alias, body[own + 1 + usize::from(body[own])..].to_vec())
}

#[test]
fn a_client_gets_no_more_aliases_than_it_accepts_and_a_topic_once() {
    let world = World::new(true);
    // Topic Alias Maximum 2.
    let mut peer = world.v5("s", CLEAN, &[0x22, 0, 2]);
    peer.subscribe("long/#", 1, true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    let topics = ["long/a", "long/b", "long/c"];
    for topic in [topics, topics].concat() {
        publisher.publish(topic, topic.as_bytes(), 0, 0, true);
    }
    let mut known = std::collections::BTreeMap::new();
    let mut empty = 0;
    for topic in [topics, topics].concat() {
        let (name, alias, payload) = next(&mut peer);
        if name.is_empty() {
            empty += 1;
            assert_eq!(known[&alias.unwrap()], topic);
        } else {
            assert_eq!(name, topic);
            if let Some(alias) = alias {
                assert!((1..=2).contains(&alias), "MQTT-3.1.2-26: {alias}");
                known.insert(alias, topic);
            }
        }
        assert_eq!(payload, topic.as_bytes());
    }
    assert_eq!((empty, world.metrics.alias_saved.get()), (2, 12));
}

#[test]
fn a_client_that_accepts_no_aliases_gets_none() {
    let world = World::new(true);
    let off = World::with(true, Config { sent_topic_aliases: 0, ..Config::default() });
    for (world, properties) in [(&world, &[][..]), (&off, &[0x22, 0, 9])] {
        let mut peer = world.v5("s", CLEAN, properties);
        peer.subscribe("long/#", 0, true);
        for _ in 0..2 {
            peer.publish("long/a", b"x", 0, 0, true);
            assert_eq!(next(&mut peer), ("long/a".into(), None, b"x".to_vec()));
        }
    }
}

#[test]
fn aliases_end_with_their_connection() {
    let world = World::new(true);
    let mut peer = world.v5("s", 0, &[&[0x22, 0, 9][..], LASTS].concat());
    peer.subscribe("long/#", 1, true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    for n in 1..=2 {
        publisher.publish("long/a", b"x", 1, n, true);
        assert_eq!(publisher.packet().0, 0x40);
        assert_eq!(next(&mut peer).1, Some(1));
    }
    drop(peer);
    let mut peer = world.v5("s", 0, &[&[0x22, 0, 9][..], LASTS].concat());
    assert_eq!(next(&mut peer), ("long/a".into(), Some(1), b"x".to_vec()), "sent again with its topic");
    assert_eq!(next(&mut peer), (String::new(), Some(1), b"x".to_vec()));
}

#[test]
fn a_message_that_fits_only_without_an_alias_is_sent_without_one() {
    let world = World::new(true);
    // Maximum Packet Size: 2 + 2 + 8 + 1 + 1 bytes.
    let mut peer = world.v5("s", CLEAN, &[0x22, 0, 9, 0x27, 0, 0, 0, 14]);
    peer.subscribe("longer/#", 0, true);
    for payload in [&b"x"[..], b"xy", b"z"] {
        peer.publish("longer/a", payload, 0, 0, true);
    }
    assert_eq!(next(&mut peer), ("longer/a".into(), None, b"x".to_vec()));
    assert_eq!(next(&mut peer), ("longer/a".into(), None, b"z".to_vec()));
    assert_eq!(world.dropped("too_large_for_client"), 1);
}

#[test]
fn aliases_save_most_of_the_bytes_of_topics() {
    let world = World::new(true);
    let mut bytes = Vec::new();
    for properties in [&[][..], &[0x22, 0, 32]] {
        let before = world.metrics.sent.get();
        let mut peer = world.v5("s", CLEAN, properties);
        peer.subscribe("devices/#", 0, true);
        let mut publisher = world.v5("p", CLEAN, &[]);
        for n in 0..1_000 {
            let topic = format!("devices/building-7-floor-3-{:02}/telemetry", n % 20);
            publisher.publish(&topic, b"{\"temperature\":21.5}", 0, 0, true);
        }
        for _ in 0..1_000 {
            next(&mut peer);
        }
        // All writes before are counted then.
        peer.ping();
        bytes.push(world.metrics.sent.get() - before);
    }
    // 64 bytes for each message without, 29 with.
    assert!(bytes[1] * 100 < bytes[0] * 52, "{bytes:?}");
}
