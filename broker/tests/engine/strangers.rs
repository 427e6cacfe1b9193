//! Clients that are not admitted yet: those of one source keep no others out.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use weir_broker::Config;

use crate::world::*;

/// True when the other side has closed the connection by now.
fn is_gone(peer: &Peer) -> bool {
    let mut stream = &peer.0;
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    read.map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |read| read == 0)
}

#[test]
fn connections_of_one_source_without_a_connect_keep_no_other_source_out() {
    let world = World::with(true, Config { max_connections: 20, ..Config::default() });
    let silent: Vec<_> = (0..200).map(|_| world.client_from(1)).collect();
    // As many as there are at most, and those that are open for a moment, to be refused.
    wait(|| world.ended("max_connections") == 200 - 20 - 9);
    let mut known = Vec::new();
    for n in 0..10 {
        // One that takes the place of a connection beyond the maximum is refused like that one.
        wait(|| {
            let mut peer = world.client_from(2);
            let is_in = peer.answer(&format!("d{n}")) == Some(0);
            known.extend(is_in.then_some(peer));
            is_in
        });
    }
    wait(|| world.ended("displaced") >= 10);
    wait(|| silent.iter().filter(|peer| is_gone(peer)).count() >= 200 - 20 - 9 + 10);
    // Clients that are admitted stay.
    let _flood: Vec<_> = (0..100).map(|_| world.client_from(1)).collect();
    wait(|| world.ended("max_connections") >= 200 - 20 - 9 + 90);
    for peer in &mut known {
        peer.ping();
    }
}

#[test]
fn the_place_of_a_client_that_is_to_be_refused_is_beyond_the_maximum_as_well() {
    let world = World::with(true, Config { max_connections: 4, ..Config::default() });
    let mut known = Vec::new();
    for n in 0..4 {
        let mut peer = world.client_from(1);
        peer.connect(5, &format!("d{n}"), CLEAN, 0, &[]);
        assert_eq!(peer.packet().1[1], 0);
        known.push(peer);
    }
    let _silent: Vec<_> = (0..8).map(|_| world.client_from(3)).collect();
    wait(|| world.metrics.connections.get() == 12);
    for _ in 0..3 {
        wait(|| {
            let answer = world.client_from(2).answer("late");
            assert_ne!(answer, Some(0), "the maximum is reached");
            answer == Some(0x97)
        });
    }
    wait(|| world.ended("displaced") >= 1);
    for peer in &mut known {
        peer.ping();
    }
}

#[test]
fn one_client_with_all_of_the_memory_gives_way_to_another_source() {
    // 512 KiB for clients that are not admitted.
    let world = World::with(true, Config { memory_bytes: 4 << 20, ..Config::default() });
    let mut half = vec![0x10, 0xC0, 0x84, 0x3D];
    half.extend_from_slice(b"\0\x04MQTT\x05\x02\0\0\0");
    half.resize(500_000, 0);
    let mut hoarder = world.client_from(1);
    hoarder.0.write_all(&half).unwrap();
    let mut body = b"\0\x04MQTT\x05\x82\0\0\0".to_vec();
    body.extend_from_slice(&text("device"));
    body.extend_from_slice(&text(&"u".repeat(60_000)));
    // The first ones may come before its bytes are read; then there is no memory for those.
    wait(|| {
        let mut peer = world.client_from(2);
        peer.send(0x10, &body);
        peer.packet().1[1] == 0 && world.ended("displaced") + world.ended("memory") >= 1
    });
}

#[test]
fn clients_that_reconnect_all_at_once_from_one_source_are_let_in_up_to_the_maximum() {
    let world = World::with(true, Config { max_connections: 50, ..Config::default() });
    let mut peers: Vec<_> = (0..80).map(|_| world.client_from(1)).collect();
    let mut admitted = 0;
    for (n, peer) in peers.iter_mut().enumerate() {
        let mut answer = [0; 4];
        let sent = peer.0.write_all(&connect(&format!("d{n}")));
        // The bytes of a CONNACK up to its code.
        if sent.is_ok() && peer.0.read_exact(&mut answer).is_ok() && answer[3] == 0 {
            admitted += 1;
        }
    }
    assert_eq!(admitted, 50, "none had to give way to another of its own source");
}

fn connect(id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\x02\0\0\0".to_vec();
    body.extend_from_slice(&text(id));
    let mut out = vec![0x10, body.len() as u8];
    out.extend_from_slice(&body);
    out
}

#[test]
fn halves_of_large_connects_of_one_source_leave_memory_for_other_sources() {
    // 512 KiB for clients that are not admitted.
    let world = World::with(true, Config { memory_bytes: 4 << 20, ..Config::default() });
    let mut half = vec![0x10, 0xC0, 0x84, 0x3D];
    half.extend_from_slice(b"\0\x04MQTT\x05\x02\0\0\0");
    half.resize(100_000, 0);
    let mut hoarders: Vec<_> = (0..8).map(|_| world.client_from(1)).collect();
    for hoarder in &mut hoarders {
        hoarder.0.write_all(&half).ok();
    }
    wait(|| world.ended("memory") >= 3);
    // A large CONNECT, as with a certificate or a token in it.
    let mut body = b"\0\x04MQTT\x05\x82\0\0\0".to_vec();
    body.extend_from_slice(&text("device"));
    body.extend_from_slice(&text(&"u".repeat(60_000)));
    for _ in 0..5 {
        let mut peer = world.client_from(2);
        peer.send(0x10, &body);
        assert_eq!(peer.packet().1[1], 0);
    }
    wait(|| world.ended("displaced") >= 1);
}

#[test]
fn a_session_that_is_taken_over_again_and_again_is_given_away_at_a_pace() {
    let world = World::new(true);
    let begun = Instant::now();
    let _peers: Vec<_> = (0..11).map(|_| world.v5("twin", CLEAN, &[])).collect();
    assert_eq!(world.metrics.takeovers_paced.get(), 0, "ten takeovers at once");
    // The next one waits, and another one takes its turn.
    let mut waiting = world.client();
    waiting.connect(5, "twin", CLEAN, 0, &[]);
    wait(|| world.metrics.takeovers_paced.get() == 1);
    let mut last = world.client();
    last.connect(5, "twin", CLEAN, 0, &[]);
    let (first_byte, body) = waiting.packet();
    assert_eq!((first_byte, body[1]), (0x20, 0x97), "the client has connected again");
    world.v5("other", CLEAN, &[]).ping();
    assert_eq!(last.packet().1[1], 0, "never refused");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    last.ping();
    // A client whose connections close is not one of them.
    for _ in 0..30 {
        drop(world.v5("tidy", CLEAN, &[]));
        wait(|| world.metrics.connections.get() == 1);
    }
    assert_eq!(world.metrics.takeovers_paced.get(), 2);
}
