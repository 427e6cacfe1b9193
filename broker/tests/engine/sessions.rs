//! Sessions and will messages, which outlive a connection.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::world::*;

#[test]
fn a_kept_session_receives_messages_published_meanwhile_and_unacknowledged_ones_again() {
    let world = World::new(true);
    let mut subscriber = world.v4("s", 0);
    subscriber.subscribe("news", 1, false);
    drop(subscriber);
    let mut peer = world.v4("p", CLEAN);
    peer.publish("news", b"one", 1, 1, false);
    assert_eq!(peer.packet().0, 0x40);
    let mut subscriber = world.client();
    subscriber.connect(4, "s", 0, 0, &[]);
    assert_eq!(subscriber.packet(), (0x20, vec![1, 0]), "session present");
    let (first, body) = subscriber.packet();
    assert_eq!((first, body.ends_with(b"one")), (0x32, true));
    drop(subscriber);
    let mut subscriber = world.v4("s", 0);
    assert_eq!(subscriber.packet().0, 0x3A, "marked DUP");
}

#[test]
fn a_client_that_connects_again_takes_its_session_over() {
    let world = World::new(true);
    let mut old = world.v5("a", CLEAN, &[]);
    let mut new = world.v5("a", CLEAN, &[]);
    let (first, body) = old.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8E));
    assert!(old.is_closed());
    new.send(0xC0, &[]);
    assert_eq!(new.packet(), (0xD0, vec![]));
}

#[test]
fn a_will_is_published_when_the_connection_breaks_and_not_after_disconnect() {
    let world = World::new(true);
    let mut subscriber = world.v4("s", CLEAN);
    subscriber.subscribe("wills/#", 0, false);
    let mut polite = world.with_will("polite", false, &[], &[], true);
    polite.send(0xE0, &[]);
    assert!(polite.is_closed());
    drop(world.with_will("rude", false, &[], &[], true));
    let (first, body) = subscriber.packet();
    assert_eq!(first, 0x30);
    assert!(body.starts_with(&text("wills/rude")) && body.ends_with(b"gone"));
    assert!(subscriber.is_silent());
}

/// CONNECT property: a session that lasts 256 s.
const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];
/// Will property: a delay in seconds.
const fn delay(secs: u8) -> [u8; 5] {
    [0x18, 0, 0, 0, secs]
}

#[test]
fn subscriptions_of_a_session_that_is_taken_over_go_on() {
    let world = World::new(true);
    let mut old = world.v4("s", 0);
    old.subscribe("n", 1, false);
    let mut new = world.v4("s", 0);
    assert!(old.is_closed());
    let mut peer = world.v4("p", CLEAN);
    peer.publish("n", b"x", 1, 1, false);
    assert_eq!(peer.packet().0, 0x40);
    assert_eq!(new.packet().0, 0x32);
    // A clean start leaves nothing of it.
    let _clean = world.v4("s", CLEAN);
    assert!(new.is_closed());
    let mut five = world.v5("q", CLEAN, &[]);
    five.publish("n", b"x", 1, 1, true);
    assert_eq!(five.packet(), (0x40, vec![0, 1, 0x10]), "no subscriber");
}

#[test]
fn a_delayed_will_is_taken_back_when_the_client_returns_in_time() {
    let world = World::new(true);
    let mut subscriber = world.v4("watcher", CLEAN);
    subscriber.subscribe("wills/#", 0, false);
    drop(world.with_will("back", true, LASTS, &delay(1), false));
    wait(|| world.ended("closed") == 1);
    // It comes back and leaves politely before the delay is over: the will of before does not come
    // either.
    let mut peer = world.v5("back", 0, LASTS);
    peer.send(0xE0, &[]);
    assert!(peer.is_closed());
    drop(world.with_will("away", true, LASTS, &delay(1), false));
    let begun = Instant::now();
    let (_, body) = subscriber.packet();
    assert!(body.starts_with(&text("wills/away")), "{body:?}");
    assert!(begun.elapsed() > Duration::from_millis(800));
    assert!(subscriber.is_silent());
}

#[test]
fn a_session_that_ends_sends_its_delayed_will_at_once() {
    let world = World::new(true);
    let mut subscriber = world.v4("watcher", CLEAN);
    subscriber.subscribe("wills/#", 0, false);
    drop(world.with_will("a", true, LASTS, &delay(200), false));
    wait(|| world.ended("closed") == 1);
    let _clean = world.v5("a", CLEAN, &[]);
    assert!(subscriber.packet().1.starts_with(&text("wills/a")));
}

#[test]
fn disconnect_with_will_message_keeps_the_will() {
    let world = World::new(true);
    let mut subscriber = world.v4("watcher", CLEAN);
    subscriber.subscribe("wills/#", 0, false);
    world.with_will("a", true, &[], &[], true).send(0xE0, &[4]);
    assert!(subscriber.packet().1.starts_with(&text("wills/a")));
}

#[test]
fn a_will_for_a_telemetry_topic_is_stored_before_it_is_sent() {
    let world = World::new(false);
    let mut subscriber = world.v4("watcher", CLEAN);
    subscriber.subscribe("devices/#", 0, false);
    let mut peer = world.client();
    let mut body = b"\0\x04MQTT\x04\x06\0\0".to_vec();
    [text("a"), text("devices/a/state"), text("0")].iter().for_each(|t| body.extend_from_slice(t));
    peer.send(0x10, &body);
    assert_eq!(peer.packet().0, 0x20);
    drop(peer);
    // One step keeps the will for the next start, the other publishes it.
    wait(|| world.log.last.load(Ordering::SeqCst) == 2);
    assert!(subscriber.is_silent());
    world.log.release_to(2);
    assert!(subscriber.packet().1.ends_with(b"state0"));
}

#[test]
fn a_session_ends_when_its_expiry_is_over() {
    let world = World::new(true);
    world.v5("s", 0, &[0x11, 0, 0, 0, 1]).subscribe("n", 1, true);
    wait(|| world.ended("closed") == 1 && world.metrics.sessions.get() == 0);
    let mut again = world.client();
    again.connect(5, "s", 0, 0, &[]);
    assert_eq!(again.packet().1[0], 0, "no session present");
}
