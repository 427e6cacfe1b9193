//! Records of messages that come again, and of clients that send nothing again.

use std::sync::atomic::Ordering;

use crate::packets::*;
use crate::world::*;

const TELEMETRY: &str = "devices/d1/telemetry";

#[test]
fn a_message_that_comes_again_is_in_flight_until_it_is_acknowledged() {
    let world = World::new(false);
    let mut device = world.v4("d1", CLEAN);
    device.publish(TELEMETRY, b"1", 1, 7, false);
    device.publish_with(0x3A, TELEMETRY, b"1", 7, false);
    world.log.wait_taken(2);
    assert_eq!(*world.log.in_flight.lock(), [false, true]);
    wait(|| {
        world.log.release_to(world.log.last.load(Ordering::SeqCst));
        world.metrics.acknowledgements.get() == 2
    });
    assert_eq!((device.packet().0, device.packet().0), (0x40, 0x40));
    device.publish_with(0x3A, TELEMETRY, b"1", 7, false);
    world.log.wait_taken(3);
    assert_eq!(*world.log.in_flight.lock(), [false, true, false]);
}

#[test]
fn the_log_is_told_of_the_orderly_end_of_a_session_and_of_no_other_end() {
    let world = World::new(true);
    let ended = || world.log.ended.load(Ordering::SeqCst);
    let mut clean = world.v4("clean", CLEAN);
    clean.send(0xE0, &[]);
    assert!(clean.is_closed());
    wait(|| ended() == 1);
    let mut kept = world.v4("kept", 0);
    kept.send(0xE0, &[]);
    assert!(kept.is_closed());
    let mut lasting = world.v5("lasting", CLEAN, &[0x11, 0, 0, 1, 0]);
    lasting.send(0xE0, &[]);
    assert!(lasting.is_closed());
    drop(world.v4("lost", CLEAN));
    wait(|| world.ended("client") == 3 && world.ended("closed") == 1);
    let mut last = world.v5("last", CLEAN, &[]);
    last.send(0xE0, &[]);
    assert!(last.is_closed());
    wait(|| ended() == 2);
}

#[test]
fn a_released_message_is_not_awaited_again() {
    let world = World::new(true);
    let mut device = world.v4("d1", CLEAN);
    device.publish(TELEMETRY, b"1", 2, 7, false);
    assert_eq!(device.packet().0, 0x50);
    device.send(0x62, &[0, 7]);
    assert_eq!(device.packet().0, 0x70);
    assert_eq!(*world.log.released.lock(), [7]);
}

#[test]
fn a_will_of_the_connection_before_comes_before_all_that_the_client_sends_now() {
    let world = World::new(true);
    let mut held = Vec::new();
    for n in 0..40 {
        let (id, topic) = (format!("d{n}"), format!("devices/d{n}/state"));
        let old = world.of("t", &id, CLEAN, &[], Some((&topic, &[])));
        let mut new = world.client();
        let mut body = b"\0\x04MQTT\x05".to_vec();
        body.extend_from_slice(&[0x80 | CLEAN, 0, 0, 0]);
        body.extend_from_slice(&text(&id));
        body.extend_from_slice(&text("t"));
        // Taken over, or lost at this very moment.
        let old = (n % 2 == 0).then_some(old);
        new.send(0x10, &body);
        new.publish(&topic, b"Online", 1, 1, true);
        assert_eq!((new.packet().0, new.packet().0), (0x20, 0x40));
        held.push((old, new));
    }
    world.log.wait_taken(80);
    for n in 0..40 {
        let topic = format!("devices/d{n}/state");
        let taken = world.log.taken.lock();
        let of_device: Vec<_> = taken.iter().filter(|taken| taken.0 == topic).map(|taken| &taken.1[..]).collect();
        assert_eq!(of_device, [&b"will of t"[..], b"Online"], "{topic}");
    }
}

#[test]
fn a_retained_message_that_is_replaced_before_a_subscriber_has_it_comes_at_the_qos_of_the_new_one() {
    let world = World::new(true);
    let (mut p, mut s) = (world.v4("p", CLEAN), join(&world, false, "s", 0));
    p.publish_with(0x35, "n", b"0", 1, false);
    assert_eq!(p.packet().0, 0x50);
    world.log.instant.store(false, Ordering::SeqCst);
    s.send(0x82, &[&[0, 9][..], &text("n"), &[2]].concat());
    wait(|| world.log.staged("$weir/subscriptions/") == 1);
    let subscribed = world.log.last.load(Ordering::SeqCst);
    p.publish_with(0x33, "n", b"1", 2, false);
    wait(|| world.log.staged("n") == 2);
    let arrived = world.log.last.load(Ordering::SeqCst);
    world.log.release_to(subscribed);
    assert_eq!(s.packet().0, 0x90);
    // The copy for its subscription is behind the new one, which is kept first.
    wait(|| world.log.last.load(Ordering::SeqCst) > arrived);
    world.log.release_to(arrived);
    assert_eq!(p.packet(), (0x40, vec![0, 2]));
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    let got = [s.packet(), s.packet()].map(|(first, body)| (first, body.last().copied()));
    assert_eq!(got, [(0x32, Some(b'1')), (0x33, Some(b'1'))]);
    // Also after a kill.
    let copies = |world: &World| world.log.state().iter().filter(|record| record.payload.ends_with(b"1")).count();
    wait(|| copies(&world) == 3);
    let next = world.again();
    drop((s, world));
    let mut s = rejoin(&next, false, "s");
    let got = [s.packet(), s.packet()].map(|(first, body)| (first, body.last().copied()));
    assert_eq!(got, [(0x3A, Some(b'1')), (0x3B, Some(b'1'))]);
}
