//! How a session changes hands: what the connection before has sent comes first, and a session that
//! ends with its connection goes to no other.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];
const ROUNDS: u16 = 50;

fn level(v5: bool) -> u8 {
    if v5 { 5 } else { 4 }
}

#[test]
fn disconnect_and_the_last_message_are_read_before_the_next_connection_gets_the_session() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut watcher = world.v4("watcher", CLEAN);
        watcher.subscribe("#", 0, false);
        for n in 0..ROUNDS {
            let id = format!("d{n}");
            let mut old = world.with_will(&id, v5, &[], &[], true);
            let mut new = world.client();
            old.publish("last", &n.to_be_bytes(), 0, 0, v5);
            old.send(0xE0, &[]);
            new.connect(level(v5), &id, CLEAN, 0, &[]);
            assert_eq!(new.packet().0, 0x20);
            new.send(0xE0, &[]);
            assert!(new.is_closed() && old.is_closed());
        }
        let last: Vec<Vec<u8>> = (0..ROUNDS).map(|_| watcher.packet().1).collect();
        let wills = last.iter().filter(|body| body.starts_with(&text("wills/"))).count();
        assert_eq!(wills, 0, "no will message after DISCONNECT");
        assert!(watcher.is_silent(), "nothing else");
        assert_eq!(world.metrics.takeovers_paced.get(), 0, "these are no takeovers");
        assert_eq!(world.ended("taken_over"), 0);
    }
}

#[test]
fn messages_of_a_connection_that_is_taken_over_are_not_lost() {
    let world = World::new(true);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("n", 0, false);
    let mut held = Vec::new();
    for n in 0..ROUNDS {
        let id = format!("d{n}");
        let (mut old, mut new) = (world.v4(&id, 0), world.client());
        old.publish("n", &n.to_be_bytes(), 0, 0, false);
        new.connect(4, &id, 0, 0, &[]);
        assert_eq!(new.packet(), (0x20, vec![1, 0]));
        held.push((old, new));
    }
    for n in 0..ROUNDS {
        assert!(watcher.packet().1.ends_with(&n.to_be_bytes()), "{n}");
    }
    wait(|| world.ended("taken_over") == u64::from(ROUNDS));
}

#[test]
fn acknowledgements_of_a_connection_that_is_taken_over_count() {
    let world = World::new(true);
    let mut publisher = world.v4("p", CLEAN);
    for n in 0..ROUNDS {
        let id = format!("d{n}");
        let (mut old, mut new) = (world.v4(&id, 0), world.client());
        old.subscribe(&id, 1, false);
        publisher.publish(&id, b"x", 1, 1, false);
        assert_eq!(publisher.packet().0, 0x40);
        let (first, body) = old.packet();
        assert_eq!(first, 0x32);
        let at = 2 + id.len();
        old.send(0x40, &body[at..at + 2]);
        new.connect(4, &id, 0, 0, &[]);
        assert_eq!(new.packet(), (0x20, vec![1, 0]));
        // A message that is sent again would come before the answer.
        new.ping();
    }
}

#[test]
fn a_client_that_never_stops_sending_does_not_keep_its_next_connection_out() {
    let world = World::new(true);
    let mut old = world.v4("d", 0);
    let stop = Arc::<AtomicBool>::default();
    let sending = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let block = [0x30, 3, 0, 1, b'x'].repeat(10_000);
            let mut blocks = 0;
            while !stop.load(Ordering::Relaxed) && old.0.write_all(&block).is_ok() {
                blocks += 1;
            }
            blocks
        }
    });
    wait(|| world.metrics.publishes.get() > 100_000);
    let begun = Instant::now();
    let mut new = world.v4("d", 0);
    new.ping();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    assert!(sending.join().unwrap() > 0);
}

#[test]
fn a_connection_whose_socket_is_not_read_is_taken_over_after_a_moment() {
    let world = World::new(true);
    let mut old = world.v4("d", 0);
    // The session.
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.log.full.store(true, Ordering::SeqCst);
    old.publish("devices/a/telemetry", b"1", 1, 1, false);
    world.log.wait_taken(1);
    old.publish("devices/a/telemetry", b"2", 1, 2, false);
    let begun = Instant::now();
    let mut new = world.v4("d", 0);
    new.ping();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    world.log.full.store(false, Ordering::SeqCst);
    world.log.wake();
    assert!(old.is_closed());
}

#[test]
fn a_session_that_ends_with_its_connection_is_not_handed_to_the_next_one() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut publisher = world.v5("p", CLEAN, &[]);
        for n in 0..ROUNDS {
            let id = format!("d{n}");
            let mut old = world.client();
            old.connect(level(v5), &id, CLEAN, 0, &[]);
            assert_eq!(old.packet().0, 0x20);
            old.subscribe(&id, 1, v5);
            // Taken over, or at once after DISCONNECT.
            if n % 2 == 0 {
                old.send(0xE0, &[]);
            }
            let mut new = world.client();
            new.connect(level(v5), &id, 0, 0, LASTS);
            let (first, body) = new.packet();
            assert_eq!((first, &body[..2]), (0x20, &[0, 0][..]), "no session is present, {n}");
            publisher.publish(&id, b"x", 1, 1, true);
            assert_eq!(publisher.packet(), (0x40, vec![0, 1, 0x10]), "no subscriber");
            // The new session is its own, and lasts.
            new.subscribe(&id, 1, v5);
            drop(new);
            let mut again = world.client();
            again.connect(level(v5), &id, 0, 0, LASTS);
            assert_eq!(again.packet().1[..2], [1, 0]);
        }
    }
}

/// A connection that publishes a message of telemetry and leaves before that is durable, and the
/// next one of its client.
fn leave_unstored(world: &World, leaves: bool, retained: bool) -> (Peer, Peer) {
    let mut old = world.v4("d", CLEAN);
    old.publish_with(0x32 | u8::from(retained), "devices/d/telemetry", b"1", 1, false);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    if leaves {
        old.send(0xE0, &[]);
        wait(|| world.ended("client") == 1);
    }
    (old, world.v4("d", CLEAN))
}

#[test]
fn messages_of_the_next_connection_come_after_those_that_wait_for_the_log() {
    for leaves in [true, false] {
        let world = World::new(false);
        let mut watcher = world.v4("watcher", CLEAN);
        watcher.subscribe("#", 0, false);
        let (_old, mut new) = leave_unstored(&world, leaves, false);
        new.publish("n", b"2", 0, 0, false);
        new.ping();
        assert!(watcher.is_silent(), "the first message is not durable");
        world.log.release_to(world.log.last.load(Ordering::SeqCst));
        for topic in ["devices/d/telemetry", "n"] {
            let (first, body) = watcher.packet();
            assert!(first == 0x30 && body.starts_with(&text(topic)), "{topic}: {body:?}");
        }
    }
}

#[test]
fn the_will_message_of_a_connection_that_is_taken_over_comes_after_its_messages() {
    let world = World::new(false);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("#", 0, false);
    let mut old = world.with_will("d", false, &[], &[], true);
    old.publish("devices/d/telemetry", b"1", 1, 1, false);
    world.log.wait_taken(1);
    let mut new = world.client();
    new.connect(4, "d", CLEAN, 0, &[]);
    wait(|| world.ended("taken_over") == 1);
    assert!(watcher.is_silent(), "the first message is not durable");
    // From here on, all is durable at once.
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    assert_eq!(new.packet().0, 0x20);
    new.publish("n", b"2", 0, 0, false);
    for topic in ["devices/d/telemetry", "wills/d", "n"] {
        let (first, body) = watcher.packet();
        assert!(first == 0x30 && body.starts_with(&text(topic)), "{topic}: {body:?}");
    }
}

#[test]
fn a_subscription_of_the_next_connection_comes_after_a_retained_message_that_waits_for_the_log() {
    for leaves in [true, false] {
        let world = World::new(false);
        let (_old, mut new) = leave_unstored(&world, leaves, true);
        new.send(0x82, &[&[0, 9][..], &text("devices/d/telemetry"), &[1]].concat());
        assert!(new.is_silent(), "the message is not durable");
        world.log.release_to(world.log.last.load(Ordering::SeqCst));
        assert_eq!((new.packet().0, new.packet().0), (0x90, 0x33), "as a retained message");
        new.ping();
    }
}

#[test]
fn a_connection_of_the_client_in_between_does_not_let_later_messages_pass() {
    let world = World::new(false);
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("#", 0, false);
    let (_old, mut between) = leave_unstored(&world, true, false);
    between.send(0xE0, &[]);
    wait(|| world.ended("client") == 2);
    let mut new = world.v4("d", CLEAN);
    new.publish("n", b"2", 0, 0, false);
    new.ping();
    assert!(watcher.is_silent(), "the first message is not durable");
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    assert!(watcher.packet().1.starts_with(&text("devices/d/telemetry")));
    assert!(watcher.packet().1.starts_with(&text("n")));
}
