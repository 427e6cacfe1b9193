//! Messages to subscribers.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::world::*;

#[test]
fn telemetry_reaches_subscribers_only_when_it_is_durable() {
    let world = World::new(false);
    let mut subscriber = world.v4("s", CLEAN);
    assert_eq!(subscriber.subscribe("devices/+/telemetry", 1, false), [0, 9, 1]);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"21.5", 1, 1, false);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    assert!(subscriber.is_silent());
    world.log.release_to(1);
    let (first, body) = subscriber.packet();
    assert_eq!(first, 0x32);
    assert!(body.ends_with(b"21.5"));
}

#[test]
fn overlapping_subscriptions_become_one_message() {
    let world = World::new(true);
    let mut peer = world.v4("s", CLEAN);
    peer.subscribe("a/+", 0, false);
    peer.subscribe("a/#", 1, false);
    peer.publish("a/b", b"x", 1, 1, false);
    let mut firsts = [peer.packet().0, peer.packet().0];
    firsts.sort_unstable();
    assert_eq!(firsts, [0x32, 0x40]);
    assert!(peer.is_silent());
}

#[test]
fn a_retained_message_is_kept_stored_and_sent_to_later_subscribers() {
    let world = World::new(true);
    let mut peer = world.v4("p", CLEAN);
    peer.publish_with(0x33, "state/a", b"on", 1, false);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    assert_eq!(*world.log.retained.lock(), ["state/a"]);
    peer.subscribe("state/#", 1, false);
    let (first, body) = peer.packet();
    assert_eq!((first, body.ends_with(b"on")), (0x33, true));
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    let world = World::new(true);
    let mut peer = world.v5("a", CLEAN, &[]);
    let mut body = text("devices/a/telemetry");
    body.extend_from_slice(&[0, 1, 3, 0x23, 0, 2, b'1']);
    peer.send(0x32, &body);
    peer.send(0x32, &[0, 0, 0, 2, 3, 0x23, 0, 2, b'2']);
    assert_eq!((peer.packet().0, peer.packet().0), (0x40, 0x40));
    let topics: Vec<_> = world.log.taken.lock().iter().map(|(t, ..)| t.clone()).collect();
    assert_eq!(topics, ["devices/a/telemetry"; 2]);
    peer.send(0x32, &[0, 0, 0, 3, 3, 0x23, 0, 9, b'3']);
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x82), "an alias that was not set");
}

#[test]
fn messages_published_right_before_disconnect_reach_subscribers() {
    let world = World::new(false);
    let mut subscriber = world.v4("s", CLEAN);
    subscriber.subscribe("#", 0, false);
    let mut peer = world.v4("a", CLEAN);
    peer.0.write_all(&[0x30, 7, 0, 4, b'c', b'h', b'a', b't', b'x', 0xE0, 0]).unwrap();
    assert!(subscriber.packet().1.ends_with(b"chatx"));
    // Telemetry comes once it is durable, though its sender has gone.
    let mut peer = world.v4("b", CLEAN);
    peer.publish("devices/b/telemetry", b"21.5", 0, 0, false);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    drop(peer);
    assert!(subscriber.is_silent());
    world.log.release_to(1);
    assert!(subscriber.packet().1.ends_with(b"21.5"));
}

#[test]
fn the_members_of_a_shared_group_get_messages_in_turn() {
    let world = World::new(true);
    let mut members = [world.v4("1", CLEAN), world.v4("2", CLEAN)];
    members.iter_mut().for_each(|m| drop(m.subscribe("$share/g/jobs", 0, false)));
    let mut peer = world.v4("p", CLEAN);
    for n in 0..4 {
        peer.publish("jobs", &[n], 0, 0, false);
    }
    for member in &mut members {
        assert_eq!((member.packet().0, member.packet().0), (0x30, 0x30));
        assert!(member.is_silent());
    }
}

#[test]
fn a_subscriber_that_does_not_read_slows_no_publisher_and_gets_all_messages_when_it_reads() {
    let world = World::new(true);
    let mut slow = world.v4("s", CLEAN);
    slow.subscribe("big", 0, false);
    let mut peer = world.v4("p", CLEAN);
    let payload = vec![7; 20_000];
    // More than the buffers of two sockets.
    for id in 1..=900 {
        peer.publish("big", &payload, 1, id, false);
        assert_eq!(peer.packet().0, 0x40, "{id}");
    }
    for n in 1..=900 {
        let (first, body) = slow.packet();
        assert_eq!((first, body.len()), (0x30, 20_005), "{n}");
    }
    slow.ping();
    assert_eq!(world.dropped("queue_full"), 0);
}

#[test]
fn the_receive_maximum_and_the_packet_size_of_the_client_are_kept() {
    let world = World::new(true);
    // Receive Maximum 2, Maximum Packet Size 40.
    let mut subscriber = world.v5("s", CLEAN, &[0x21, 0, 2, 0x27, 0, 0, 0, 40]);
    subscriber.subscribe("n", 1, true);
    let mut peer = world.v4("p", CLEAN);
    peer.publish("n", &[0; 100], 1, 1, false);
    assert_eq!(peer.packet().0, 0x40);
    for id in 2..=4 {
        peer.publish("n", &[id], 1, u16::from(id), false);
        assert_eq!(peer.packet().0, 0x40);
    }
    let first = subscriber.packet().1;
    assert_eq!((first.last(), subscriber.packet().1.last()), (Some(&2), Some(&3)));
    assert!(subscriber.is_silent());
    subscriber.send(0x40, &first[3..5]);
    assert_eq!(subscriber.packet().1.last(), Some(&4));
    assert_eq!(world.dropped("too_large_for_client"), 1);
}

#[test]
fn overlapping_subscriptions_carry_all_their_ids() {
    let world = World::new(true);
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe_with_id("a/+", 0, 7);
    peer.subscribe_with_id("a/#", 0, 8);
    peer.publish("a/b", b"x", 0, 0, true);
    let (first, body) = peer.packet();
    let mut ids = [body[7], body[9]];
    ids.sort_unstable();
    assert_eq!((first, body[5], body[6], body[8], ids), (0x30, 4, 0x0B, 0x0B, [7, 8]));
}

#[test]
fn no_local_retain_as_published_and_retain_handling_are_kept() {
    let world = World::new(true);
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe("own", 4, true);
    peer.publish("own", b"x", 0, 0, true);
    peer.ping();
    let mut other = world.v4("p", CLEAN);
    other.publish_with(0x31, "own", b"kept", 0, false);
    assert_eq!(peer.packet().0, 0x30, "as it was published only when asked for");
    peer.subscribe("own", 0x18, true);
    peer.ping();
    other.publish_with(0x31, "own", b"kept", 0, false);
    assert_eq!(peer.packet().0, 0x31, "retain as published");
    // Retain handling 1 again: it is not a new subscription. 2: never. 0: always.
    peer.subscribe("own", 0x10, true);
    peer.subscribe("own", 0x20, true);
    peer.ping();
    peer.subscribe("own", 0, true);
    assert_eq!(peer.packet().0, 0x31);
}

#[test]
fn an_expired_message_is_not_sent_and_others_carry_the_time_left() {
    let world = World::new(true);
    world.v5("s", 0, &[0x11, 0, 0, 1, 0]).subscribe("n", 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    for (id, secs) in [(1, 1), (2, 100)] {
        let mut body = text("n");
        body.extend_from_slice(&[0, id, 5, 2, 0, 0, 0, secs, b'x']);
        peer.send(0x32, &body);
        assert_eq!(peer.packet().0, 0x40);
    }
    let begun = Instant::now();
    wait(|| begun.elapsed() > Duration::from_millis(1100));
    let mut subscriber = world.client();
    subscriber.connect(5, "s", 0, 0, &[0x11, 0, 0, 1, 0]);
    assert_eq!(subscriber.packet().1[0], 1, "session present");
    let (_, body) = subscriber.packet();
    assert_eq!(body[6], 2, "message expiry");
    assert!((90..100).contains(&body[10]), "{body:?}");
    assert!(subscriber.is_silent());
    assert_eq!(world.dropped("expired"), 1);
}

#[test]
fn properties_of_a_message_are_handed_on() {
    let world = World::new(true);
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe("n", 0, true);
    // Payload format, content type, response topic, correlation data, user property.
    let own = b"\x01\x01\x03\0\x01c\x08\0\x01r\x09\0\x01d\x26\0\x01k\0\x01v";
    let mut body = text("n");
    body.push(own.len() as u8);
    body.extend_from_slice(own);
    body.push(b'x');
    peer.send(0x30, &body);
    assert_eq!(peer.packet().1, body);
}
