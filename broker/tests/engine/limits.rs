//! Clients that are silent, greedy or broken, and the end.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weir_broker::Config;

use crate::world::*;

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let world = World::new(true);
    let mut peer = world.client();
    peer.connect(5, "a", CLEAN, 1, &[]);
    assert_eq!(peer.packet().0, 0x20);
    let begun = Instant::now();
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8D));
    assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let world = World::new(true);
    let mut good = world.v4("good", CLEAN);
    for garbage in
        [&[0u8, 0][..], &[0x30, 0x80, 0x80, 0x80, 0x80, 1], &[0x36, 5, 0, 1, b'a', 0, 1], &[0x10, 0], &[0x20, 2, 0, 0]]
    {
        let mut bad = world.v4("bad", CLEAN);
        bad.0.write_all(garbage).unwrap();
        assert!(bad.is_closed(), "{garbage:02x?}");
        let mut first = world.client();
        first.0.write_all(garbage).unwrap();
        drop(first);
    }
    good.send(0xC0, &[]);
    assert_eq!(good.packet(), (0xD0, vec![]));
}

#[test]
fn at_shutdown_durable_messages_are_acknowledged_and_clients_get_the_reason() {
    let mut world = World::new(false);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.publish("devices/a/telemetry", b"1", 1, 1, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.shutdown.cancel();
    world.log.release_to(1);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8B));
    world.stop();
}

#[test]
fn a_connection_without_connect_is_closed() {
    let world = World::with(true, Config { connect_timeout_ms: 200, ..Config::default() });
    assert!(world.client().is_closed());
}

#[test]
fn connections_beyond_the_limit_are_refused_with_a_reason() {
    let world = World::with(true, Config { max_connections: 1, ..Config::default() });
    let _first = world.v4("a", CLEAN);
    let mut second = world.client();
    second.connect(5, "b", CLEAN, 0, &[]);
    let (first, body) = second.packet();
    assert_eq!((first, body[1]), (0x20, 0x97));
    assert!(String::from_utf8_lossy(&body).contains("max_connections"));
}

#[test]
fn a_client_that_waits_for_a_full_log_is_not_silent() {
    let world = World::new(true);
    world.log.full.store(true, Ordering::SeqCst);
    let mut peer = world.client();
    peer.connect(4, "a", CLEAN, 1, &[]);
    assert_eq!(peer.packet().0, 0x20);
    peer.publish("devices/a/telemetry", b"1", 0, 0, false);
    world.log.wait_taken(1);
    // Pings stay unread in the socket for longer than the keep-alive.
    let begun = Instant::now();
    let mut pings = 0_u32;
    while begun.elapsed() < Duration::from_millis(3000) {
        if begun.elapsed() > Duration::from_millis(500) * pings {
            peer.send(0xC0, &[]);
            pings += 1;
        }
        std::thread::yield_now();
    }
    world.log.full.store(false, Ordering::SeqCst);
    world.log.wake();
    for _ in 0..pings {
        assert_eq!(peer.packet(), (0xD0, vec![]));
    }
}

#[test]
fn connections_that_never_said_connect_do_not_hold_up_the_end() {
    let mut world = World::new(true);
    let _silent = world.client();
    wait(|| world.metrics.connections.get() == 1);
    let begun = Instant::now();
    world.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn wills_that_wait_are_sent_at_the_end_and_do_not_hold_it_up() {
    let mut world = World::new(true);
    let connect: &[u8] = &[0x11, 0, 0, 1, 0];
    let mut peer = world.client();
    let mut body = b"\0\x04MQTT\x05\x04\0\0".to_vec();
    body.push(connect.len() as u8);
    body.extend_from_slice(connect);
    body.extend_from_slice(&text("a"));
    body.extend_from_slice(&[5, 0x18, 0, 0, 0, 200]);
    body.extend_from_slice(&text("devices/a/state"));
    body.extend_from_slice(&text("0"));
    peer.send(0x10, &body);
    assert_eq!(peer.packet().0, 0x20);
    drop(peer);
    wait(|| world.ended("closed") == 1);
    let begun = Instant::now();
    world.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(world.log.taken.lock().len(), 1);
}

#[test]
fn the_end_does_not_wait_for_ever_for_a_log_that_is_stuck() {
    let mut world = World::with(false, Config { drain_timeout_ms: 300, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.publish("devices/a/telemetry", b"1", 1, 1, true);
    world.log.wait_taken(1);
    let _will = world.with_will("w", true, &[], &[], true);
    world.stop();
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8B), "no PUBACK, but a word");
}

#[test]
fn a_malformed_connect_of_mqtt_5_is_told_why() {
    let world = World::new(true);
    let mut peer = world.client();
    // Receive Maximum 0.
    peer.connect(5, "a", CLEAN, 0, &[0x21, 0, 0]);
    let (first, body) = peer.packet();
    assert_eq!((first, body[1]), (0x20, 0x82));
    assert!(peer.is_closed());
}

#[test]
fn a_client_that_goes_on_sending_still_hears_why_it_is_closed() {
    let world = World::with(true, Config { receive_maximum: 4, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    let mut block = Vec::new();
    for id in 1..=2000_u16 {
        block.extend_from_slice(&[0x32, 15 + 1]);
        block.extend_from_slice(b"\0\x0adevices/a/");
        block.extend_from_slice(&id.to_be_bytes());
        block.extend_from_slice(b"\0x");
    }
    peer.0.write_all(&block).unwrap();
    wait(|| world.ended("receive_maximum") == 1);
    // Many clients never read the last packets of a connection that is reset.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        peer.0.write_all(&block[..17]).expect("the connection is not reset under the client");
        std::thread::yield_now();
    }
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x93));
}

#[test]
fn the_second_connect_is_a_protocol_error() {
    let world = World::new(true);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.connect(5, "a", CLEAN, 0, &[]);
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x82));
}

#[test]
fn a_3_1_1_client_over_the_limit_gets_return_code_3() {
    let world = World::with(true, Config { max_connections: 1, ..Config::default() });
    let _first = world.v4("a", CLEAN);
    let mut second = world.client();
    second.connect(4, "b", CLEAN, 0, &[]);
    assert_eq!(second.packet(), (0x20, vec![0, 3]));
}

#[test]
fn an_empty_client_id_is_given_one_and_keep_alives_are_bounded() {
    let world = World::with(true, Config { max_keep_alive_secs: 30, ..Config::default() });
    let mut peer = world.client();
    peer.connect(5, "", CLEAN, 0, &[]);
    let (_, body) = peer.packet();
    assert_eq!(body[1], 0);
    assert!(body.windows(3).any(|w| w == [0x13, 0, 30]), "server keep alive: {body:?}");
    assert!(body.contains(&0x12), "assigned client id");
    let mut four = world.client();
    four.connect(4, "", 0, 0, &[]);
    assert_eq!(four.packet(), (0x20, vec![0, 2]));
}
