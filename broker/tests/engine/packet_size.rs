//! The client's Maximum Packet Size, for every packet that it gets.

use weir_broker::Config;

use crate::world::*;

/// CONNECT property: Maximum Packet Size.
const fn at_most(bytes: u8) -> [u8; 5] {
    [0x27, 0, 0, 0, bytes]
}

/// The next packet, whose size is checked.
fn small(peer: &mut Peer, most: usize) -> (u8, Vec<u8>) {
    let (first, body) = peer.packet();
    assert!(2 + body.len() <= most, "{} bytes: {first:02x} {body:02x?}", 2 + body.len());
    (first, body)
}

#[test]
fn no_reason_string_makes_a_packet_larger_than_the_client_accepts() {
    let world = World::new(true);
    let mut peer = world.client();
    peer.connect(5, "a", CLEAN, 0, &at_most(20));
    assert_eq!(small(&mut peer, 20).1[..2], [0, 0]);
    peer.publish("devices/a/telemetry", b"garbage", 1, 7, true);
    assert_eq!(small(&mut peer, 20), (0x40, vec![0, 7, 0x99]));
    peer.publish("devices/a/telemetry", OTHER_DEVICE, 2, 8, true);
    assert_eq!(small(&mut peer, 20), (0x50, vec![0, 8, 0x87]));
    peer.send(0x20, &[]);
    assert_eq!(small(&mut peer, 20), (0xE0, vec![0x82, 0]));
    assert!(peer.is_closed());
    // One that accepts the text gets it.
    let mut peer = world.v5("b", CLEAN, &at_most(200));
    peer.publish("devices/a/telemetry", b"garbage", 1, 7, true);
    assert!(peer.packet().1.len() > 20);
}

#[test]
fn a_refusal_is_no_larger_than_the_client_accepts() {
    let world = World::with(true, Config { max_connections: 1, ..Config::default() });
    let _first = world.v4("a", CLEAN);
    let mut second = world.client();
    second.connect(5, "b", CLEAN, 0, &at_most(20));
    assert_eq!(small(&mut second, 20), (0x20, vec![0, 0x97, 0]));
    drop(second);
    // An invalid CONNECT, whose properties can be read.
    let mut third = world.client();
    third.send(
        0x10,
        &[b"\0\x04MQTT\x05\x06\0\0\x05", &at_most(20)[..], &text("a"), &[0], &text("#"), &text("x")].concat(),
    );
    assert_eq!(small(&mut third, 20), (0x20, vec![0, 0x81, 0]));
}

#[test]
fn a_client_that_accepts_no_connack_is_refused() {
    let world = World::new(true);
    let mut peer = world.client();
    peer.connect(5, "a", CLEAN, 0, &at_most(8));
    assert_eq!(small(&mut peer, 8), (0x20, vec![0, 0x95, 0]));
    assert!(peer.is_closed());
    let mut peer = world.client();
    peer.connect(5, "a", CLEAN, 0, &at_most(4));
    assert!(peer.is_closed());
    // The assigned client id has to be told.
    let mut peer = world.client();
    peer.connect(5, "", CLEAN, 0, &at_most(30));
    assert_eq!(small(&mut peer, 30), (0x20, vec![0, 0x95, 0]));
    let mut peer = world.client();
    peer.connect(5, "", CLEAN, 0, &at_most(100));
    assert_eq!(small(&mut peer, 100).1[1], 0);
    wait(|| world.ended("too_large_for_client") == 3);
    assert_eq!(world.metrics.sessions.get(), 1, "those that are refused leave no session");
}

#[test]
fn an_answer_that_is_too_large_without_a_text_ends_the_connection() {
    let world = World::new(true);
    let mut peer = world.v5("a", CLEAN, &at_most(20));
    let filters: Vec<u8> = (0..30).flat_map(|n| [text(&format!("f/{n}")), vec![0]].concat()).collect();
    peer.send(0x82, &[&[0, 1, 0][..], &filters].concat());
    assert_eq!(small(&mut peer, 20), (0xE0, vec![0x95, 0]));
    assert!(peer.is_closed());
}

#[test]
fn a_message_that_is_too_large_is_as_good_as_delivered_at_every_qos() {
    let world = World::new(true);
    let lasts = [&[0x11, 0, 0, 1, 0][..], &at_most(20)].concat();
    let mut subscriber = world.v5("s", 0, &lasts);
    subscriber.subscribe("n", 2, true);
    let mut peer = world.v4("p", CLEAN);
    for (qos, id) in [(0, 0), (1, 1), (2, 2)] {
        peer.publish("n", &[7; 30], qos, id, false);
        if qos > 0 {
            assert_eq!(peer.packet().0, if qos == 1 { 0x40 } else { 0x50 });
        }
    }
    peer.publish("n", b"fits so far", 2, 3, false);
    assert_eq!(peer.packet().0, 0x50);
    assert!(small(&mut subscriber, 20).1.ends_with(b"fits so far"));
    assert_eq!(world.dropped("too_large_for_client"), 3);
    // In flight, and too large for the next connection.
    drop(subscriber);
    let mut subscriber = world.client();
    subscriber.connect(5, "s", 0, 0, &[&[0x11, 0, 0, 1, 0][..], &at_most(18)].concat());
    assert_eq!(small(&mut subscriber, 18).1[0], 1);
    subscriber.ping();
    assert_eq!(world.dropped("too_large_for_client"), 4);
}

#[test]
fn a_suback_leaves_its_text_out_where_there_is_no_room_for_it() {
    let world = World::with(true, Config { max_subscriptions: 1, ..Config::default() });
    for (most, has_text) in [(20, false), (200, true)] {
        let mut peer = world.v5("a", CLEAN, &at_most(most));
        peer.send(0x82, &[&[0, 1, 0][..], &text("a"), &[0], &text("b"), &[0]].concat());
        let (first, body) = small(&mut peer, most.into());
        assert_eq!((first, &body[body.len() - 2..]), (0x90, &[0, 0x97][..]));
        assert_eq!(body.len() > 5, has_text, "{body:?}");
    }
}
