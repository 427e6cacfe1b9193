//! QoS 2 to subscribers.

use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];

/// Publishes at QoS 2, to the end of the exchange.
pub(crate) fn publish(peer: &mut Peer, topic: &str, payload: &[u8], id: u16) {
    peer.publish(topic, payload, 2, id, false);
    assert_eq!(peer.packet(), (0x50, id.to_be_bytes().to_vec()));
    peer.send(0x62, &id.to_be_bytes());
    assert_eq!(peer.packet(), (0x70, id.to_be_bytes().to_vec()));
}

/// Reads a PUBLISH to the topic `n`: its first byte, packet id and payload.
pub(crate) fn message(peer: &mut Peer, v5: bool) -> (u8, u16, Vec<u8>) {
    let (first, body) = peer.packet();
    assert_eq!((first & 0xF0, &body[..3]), (0x30, &[0, 1, b'n'][..]), "{first:02x} {body:?}");
    (first, u16::from_be_bytes([body[3], body[4]]), body[5 + usize::from(v5)..].to_vec())
}

/// A subscriber to `n` at QoS 2, whose session lasts.
fn subscriber(world: &World, v5: bool) -> Peer {
    let mut peer = if v5 { world.v5("s", 0, LASTS) } else { world.v4("s", 0) };
    let granted = peer.subscribe("n", 2, v5);
    assert_eq!(granted.last(), Some(&2), "granted as asked for");
    peer
}

/// The next connection of the subscriber, to its session.
fn again(world: &World, v5: bool) -> Peer {
    let mut peer = world.client();
    peer.connect(if v5 { 5 } else { 4 }, "s", 0, 0, LASTS);
    assert_eq!(peer.packet().1[..2], [1, 0], "session present");
    peer
}

pub(crate) fn send_ack(peer: &mut Peer, first: u8, id: u16) {
    peer.send(first, &id.to_be_bytes());
}

#[test]
fn a_message_at_qos_2_reaches_a_subscriber_at_qos_2_by_the_four_packets() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut s = subscriber(&world, v5);
        let mut p = world.v4("p", CLEAN);
        publish(&mut p, "n", b"one", 7);
        let (first, id, payload) = message(&mut s, v5);
        assert_eq!((first, &payload[..]), (0x34, &b"one"[..]));
        send_ack(&mut s, 0x50, id);
        assert_eq!(s.packet(), (0x62, id.to_be_bytes().to_vec()));
        send_ack(&mut s, 0x70, id);
        s.ping();
        // The lower of the two QoS.
        p.publish("n", b"two", 1, 8, false);
        assert_eq!((p.packet().0, message(&mut s, v5).0), (0x40, 0x32));
        s.subscribe("n", 1, v5);
        publish(&mut p, "n", b"three", 9);
        assert_eq!(message(&mut s, v5).0, 0x32);
    }
}

#[test]
fn what_is_in_flight_is_sent_again_in_order_by_the_next_connection() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut s = subscriber(&world, v5);
        let mut p = world.v4("p", CLEAN);
        for (id, payload) in [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")] {
            publish(&mut p, "n", payload, id);
        }
        let ids: Vec<u16> = (0..4).map(|_| message(&mut s, v5).1).collect();
        // The client has the third and the first, in this order.
        for id in [ids[2], ids[0]] {
            send_ack(&mut s, 0x50, id);
            assert_eq!(s.packet(), (0x62, id.to_be_bytes().to_vec()));
        }
        drop(s);
        for _ in 0..2 {
            let mut s = again(&world, v5);
            assert_eq!(s.packet(), (0x62, ids[2].to_be_bytes().to_vec()), "PUBREL, in the order of PUBREC");
            assert_eq!(s.packet(), (0x62, ids[0].to_be_bytes().to_vec()));
            assert_eq!(message(&mut s, v5), (0x3C, ids[1], b"2".to_vec()), "marked DUP");
            assert_eq!(message(&mut s, v5), (0x3C, ids[3], b"4".to_vec()));
            s.ping();
        }
        let mut s = again(&world, v5);
        let first: Vec<u8> = (0..4).map(|_| s.packet().0).collect();
        assert_eq!(first, [0x62, 0x62, 0x3C, 0x3C]);
        for id in [ids[1], ids[3]] {
            send_ack(&mut s, 0x50, id);
            assert_eq!(s.packet(), (0x62, id.to_be_bytes().to_vec()));
        }
        ids.iter().for_each(|id| send_ack(&mut s, 0x70, *id));
        s.ping();
        drop(s);
        let mut s = again(&world, v5);
        s.ping();
    }
}

#[test]
fn a_message_that_is_taken_over_in_flight_is_delivered_once() {
    let world = World::new(true);
    let mut old = subscriber(&world, true);
    let mut p = world.v4("p", CLEAN);
    publish(&mut p, "n", b"x", 1);
    let (_, id, _) = message(&mut old, true);
    // PUBREC is in the socket when the next connection comes.
    send_ack(&mut old, 0x50, id);
    let mut new = again(&world, true);
    assert_eq!(new.packet(), (0x62, id.to_be_bytes().to_vec()), "no PUBLISH once more");
    send_ack(&mut new, 0x70, id);
    new.ping();
}

#[test]
fn the_receive_maximum_counts_messages_until_pubcomp() {
    let world = World::new(true);
    let mut s = world.v5("s", CLEAN, &[0x21, 0, 2]);
    assert_eq!(s.subscribe("n", 2, true).last(), Some(&2));
    let mut p = world.v4("p", CLEAN);
    for id in 1..=2 {
        publish(&mut p, "n", b"x", id);
    }
    p.publish("n", b"x", 1, 3, false);
    assert_eq!(p.packet().0, 0x40);
    publish(&mut p, "n", b"x", 4);
    let ids = [message(&mut s, true).1, message(&mut s, true).1];
    assert!(s.is_silent());
    send_ack(&mut s, 0x50, ids[0]);
    assert_eq!(s.packet().0, 0x62);
    assert!(s.is_silent(), "released and not complete");
    send_ack(&mut s, 0x70, ids[0]);
    let (first, id, _) = message(&mut s, true);
    assert_eq!(first, 0x32);
    assert!(s.is_silent());
    send_ack(&mut s, 0x40, id);
    assert_eq!(message(&mut s, true).0, 0x34);
}

#[test]
fn a_pubrec_with_an_error_ends_the_exchange() {
    let world = World::new(true);
    let mut s = world.v5("s", 0, &[0x11, 0, 0, 1, 0, 0x21, 0, 1]);
    s.subscribe("n", 2, true);
    let mut p = world.v4("p", CLEAN);
    publish(&mut p, "n", b"1", 1);
    publish(&mut p, "n", b"2", 2);
    let (_, id, _) = message(&mut s, true);
    s.send(0x50, &[id.to_be_bytes().as_slice(), &[0x97]].concat());
    // No PUBREL, and room for the next one.
    let (first, _, payload) = message(&mut s, true);
    assert_eq!((first, &payload[..]), (0x34, &b"2"[..]));
    drop(s);
    let mut s = again(&world, true);
    assert_eq!(message(&mut s, true).2, b"2", "only this one is sent again");
    assert!(s.is_silent());
}

#[test]
fn a_client_with_an_exchange_that_weir_does_not_know_can_end_it() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut s = subscriber(&world, v5);
        let unknown: &[u8] = if v5 { &[0, 77, 0x92] } else { &[0, 77] };
        send_ack(&mut s, 0x50, 77);
        assert_eq!(s.packet(), (0x62, unknown.to_vec()), "PUBREC");
        send_ack(&mut s, 0x70, 77);
        send_ack(&mut s, 0x40, 77);
        s.ping();
        send_ack(&mut s, 0x62, 77);
        assert_eq!(s.packet(), (0x70, unknown.to_vec()), "PUBREL");
        if v5 {
            // There is nothing to end.
            s.send(0x50, &[0, 77, 0x97]);
            s.ping();
        }
        let mut p = world.v4("p", CLEAN);
        publish(&mut p, "n", b"x", 1);
        assert_eq!(message(&mut s, v5).0, 0x34, "all goes on");
    }
}

#[test]
fn a_pubrec_that_comes_again_is_answered_again() {
    let world = World::new(true);
    let mut s = subscriber(&world, false);
    let mut p = world.v4("p", CLEAN);
    publish(&mut p, "n", b"x", 1);
    let (_, id, _) = message(&mut s, false);
    for _ in 0..3 {
        send_ack(&mut s, 0x50, id);
        assert_eq!(s.packet(), (0x62, id.to_be_bytes().to_vec()));
    }
    // An answer to another QoS ends nothing.
    send_ack(&mut s, 0x40, id);
    s.ping();
    drop(s);
    assert_eq!(again(&world, false).packet(), (0x62, id.to_be_bytes().to_vec()));
}

#[test]
fn messages_wait_at_qos_2_while_the_subscriber_is_away_and_retained_ones_are_sent_with_it() {
    let world = World::new(true);
    drop(subscriber(&world, true));
    wait(|| world.ended("closed") == 1);
    let mut p = world.v4("p", CLEAN);
    publish(&mut p, "n", b"away", 1);
    let mut s = again(&world, true);
    assert_eq!(message(&mut s, true), (0x34, 1, b"away".to_vec()));
    p.publish_with(0x35, "n", b"kept", 2, false);
    assert_eq!((p.packet().0, message(&mut s, true).0), (0x50, 0x34));
    s.subscribe("n", 2, true);
    assert_eq!(message(&mut s, true).0, 0x35, "retained, at QoS 2");
}
