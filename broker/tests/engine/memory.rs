//! Clients that would take the memory of all others.

use std::io::Write;
use std::time::{Duration, Instant};

use weir_broker::Config;

use crate::devices::has;
use crate::world::*;

/// A broker with 4 MiB: 512 KiB for CONNECT packets, 1.5 MiB for unfinished packets, 1 MiB for
/// retained messages, 1 MiB for sessions.
fn small(config: Config) -> World {
    World::with(true, Config { memory_bytes: 4 << 20, ..config })
}

/// The start of a PUBLISH of 1 MB, without its last byte.
fn half_sent() -> Vec<u8> {
    let mut half = vec![0x32, 0xC0, 0x84, 0x3D, 0, 1, b'x', 0, 1];
    half.resize(700_000, 0);
    half
}

#[test]
fn unfinished_packets_have_a_ceiling_and_small_packets_are_served_beside_them() {
    let world = small(Config::default());
    let mut quiet = world.v5("quiet", CLEAN, &[]);
    let mut hoarders: Vec<Peer> = (0..6).map(|i| world.v5(&format!("h{i}"), CLEAN, &[])).collect();
    for hoarder in &mut hoarders {
        // The broker may close it before it has read everything.
        hoarder.0.write_all(&half_sent()).ok();
    }
    wait(|| world.ended("memory") >= 4);
    // A packet in two pieces: the first waits for the second in memory that is not shared.
    let publish = [&[0x32, 26, 0, 19][..], b"devices/a/telemetry\0\x01\0", b"21"].concat();
    quiet.0.write_all(&publish[..12]).unwrap();
    std::thread::yield_now();
    quiet.0.write_all(&publish[12..]).unwrap();
    assert_eq!(quiet.packet(), (0x40, vec![0, 1]));
    drop(hoarders);
}

#[test]
fn a_client_that_is_refused_memory_is_told_so() {
    let world = small(Config::default());
    let mut first: Vec<Peer> = (0..2).map(|i| world.v5(&format!("h{i}"), CLEAN, &[])).collect();
    let mut told = false;
    for peer in &mut first {
        peer.0.write_all(&half_sent()).ok();
    }
    wait(|| world.ended("memory") >= 1);
    for peer in &mut first {
        peer.0.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut head = [0; 3];
        if std::io::Read::read_exact(&mut peer.0, &mut head).is_ok() {
            told |= head[0] == 0xE0 && head[2] == 0x97;
        }
    }
    assert!(told, "DISCONNECT 0x97");
}

#[test]
fn a_packet_that_never_ends_is_not_waited_for() {
    let world = World::with(true, Config { packet_timeout_ms: 200, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.0.write_all(&[0x32, 0xC0, 0x84, 0x3D, 0, 1, b'x']).unwrap();
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x83));
    assert!(String::from_utf8_lossy(&body).contains("packet_timeout_ms"));
    assert_eq!(world.ended("packet_timeout"), 1);
}

#[test]
fn a_client_that_sends_whole_packets_is_never_late() {
    // Long enough for a test that waits for a processor between two writes.
    let world = World::with(true, Config { packet_timeout_ms: 1000, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        // Each write ends in the middle of a packet, and begins with the rest of the one before.
        peer.0.write_all(&[0xC0]).unwrap();
        std::thread::yield_now();
        peer.0.write_all(&[0]).unwrap();
        assert_eq!(peer.packet(), (0xD0, vec![]));
    }
}

#[test]
fn half_sent_connects_have_a_ceiling_and_leave_room_for_others() {
    let world = small(Config::default());
    let mut connect = vec![0x10, 0xC0, 0x84, 0x3D];
    connect.extend_from_slice(b"\0\x04MQTT\x05\x02\0\0\0");
    connect.resize(400_000, 0);
    let mut halves: Vec<Peer> = (0..4).map(|_| world.client()).collect();
    for half in &mut halves {
        half.0.write_all(&connect).ok();
    }
    wait(|| world.ended("memory") >= 3);
    let mut other = world.v5("other", CLEAN, &[]);
    other.ping();
    let mut large = world.client();
    large.0.write_all(&connect).ok();
    wait(|| world.ended("memory") >= 4);
}

#[test]
fn names_aliases_and_wills_are_counted_as_long_as_the_connection() {
    let world = small(Config::default());
    let topic = "t".repeat(60_000);
    let mut peers: Vec<Peer> = (0..5).map(|i| world.v5(&format!("a{i}"), CLEAN, &[])).collect();
    for peer in &mut peers {
        for alias in 1..=10_u16 {
            let mut body = text(&topic);
            body.extend_from_slice(&[3, 0x23]);
            body.extend_from_slice(&alias.to_be_bytes());
            let mut out = vec![0x30];
            let length = body.len();
            out.extend_from_slice(&[
                (length % 128) as u8 | 128,
                (length / 128 % 128) as u8 | 128,
                (length / 16384) as u8,
            ]);
            out.extend_from_slice(&body);
            if peer.0.write_all(&out).is_err() {
                break;
            }
        }
    }
    // 600 KB each: two fit into 1.5 MiB.
    wait(|| world.ended("memory") >= 3);
}

#[test]
fn a_subscribe_with_more_filters_than_a_client_may_have_is_granted_in_part() {
    let world = World::with(true, Config { max_subscriptions: 3, ..Config::default() });
    for v5 in [true, false] {
        let mut peer = if v5 { world.v5("a5", CLEAN, &[]) } else { world.v4("a4", CLEAN) };
        let mut body = vec![0, 9];
        if v5 {
            body.push(0);
        }
        for i in 0..5 {
            body.extend_from_slice(&text(&format!("x/{i}")));
            body.push(1);
        }
        peer.send(0x82, &body);
        let (_, answer) = peer.packet();
        let full = if v5 { 0x97 } else { 0x80 };
        assert!(answer.ends_with(&[1, 1, 1, full, full]), "{answer:?}");
        assert_eq!(has(&answer, "mqtt.max_subscriptions"), v5);
        // One that it has can be changed, and one that it gives up makes room.
        assert_eq!(peer.subscribe("x/0", 0, v5).last(), Some(&0));
        let mut body = if v5 { vec![0, 9, 0] } else { vec![0, 9] };
        body.extend_from_slice(&text("x/1"));
        peer.send(0xA2, &body);
        assert_eq!(peer.packet().0, 0xB0);
        assert_eq!(peer.subscribe("x/9", 1, v5).last(), Some(&1));
    }
}

#[test]
fn a_subscribe_of_one_mebibyte_takes_no_more_than_the_memory_of_sessions() {
    let world = small(Config { max_subscriptions: usize::MAX, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    let mut body = vec![0, 9, 0];
    for i in 0..150_000_u32 {
        body.extend_from_slice(&text(&format!("{i:x}")));
        body.push(0);
        if body.len() > 1_040_000 {
            break;
        }
    }
    peer.send(0x82, &body);
    let (first, answer) = peer.packet();
    assert_eq!(first, 0x90);
    let granted = answer[4 + usize::from(answer[2])..].iter().filter(|code| **code == 0).count();
    assert!(has(&answer, "memory.max_bytes"));
    assert!((200..3_000).contains(&granted), "{granted} subscriptions in 1 MiB");
    assert_eq!(answer.last(), Some(&0x97));
    peer.ping();
}

#[test]
fn twenty_thousand_filters_over_two_thousand_retained_messages_hold_up_nobody() {
    let world = World::with(true, Config { max_subscriptions: 20_000, ..Config::default() });
    let mut publisher = world.v5("p", CLEAN, &[]);
    for i in 0..2_000_u16 {
        publisher.publish_with(0x31, &format!("r/{i}"), b"1", 0, true);
    }
    publisher.ping();
    let mut greedy = world.v5("g", CLEAN, &[]);
    let mut quiet = world.v5("q", CLEAN, &[]);
    for part in 0..20 {
        let mut body = vec![0, 9, 0];
        for i in 0..1_000 {
            body.extend_from_slice(&text(&format!("+/+/{}", part * 1_000 + i)));
            body.push(0);
        }
        greedy.send(0x82, &body);
        assert_eq!(greedy.packet().0, 0x90);
    }
    let mut slowest = Duration::ZERO;
    for id in 1..=50 {
        let begun = Instant::now();
        quiet.publish("devices/a/telemetry", b"1", 1, id, true);
        assert_eq!(quiet.packet().0, 0x40);
        slowest = slowest.max(begun.elapsed());
    }
    // 8 s when all filters were looked up at one time.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[test]
fn retained_messages_wait_for_the_subscriber_and_survive_its_reconnecting() {
    let world = World::new(true);
    let mut publisher = world.v5("p", CLEAN, &[]);
    for i in 0..500_u16 {
        publisher.publish_with(0x33, &format!("r/{i:03}"), b"1", i + 1, true);
        assert_eq!(publisher.packet().0, 0x40);
    }
    // A receive maximum of 10, and a session.
    let properties = [0x21, 0, 10, 0x11, 0, 0, 1, 0];
    let mut peer = world.v5("s", CLEAN, &properties);
    peer.subscribe("r/#", 1, true);
    let mut seen = std::collections::BTreeSet::new();
    let mut take = |peer: &mut Peer, acknowledge: bool| {
        let (first, body) = peer.packet();
        assert_eq!(first & 0xF1, 0x31, "PUBLISH with the retain flag");
        let topic = usize::from(body[1]) + 2;
        seen.insert(String::from_utf8_lossy(&body[2..topic]).into_owned());
        if acknowledge {
            peer.send(0x40, &body[topic..topic + 2]);
        }
        seen.len()
    };
    for _ in 0..10 {
        take(&mut peer, false);
    }
    assert!(peer.is_silent(), "the window is full");
    drop(peer);
    let mut peer = world.v5("s", 0, &properties);
    while take(&mut peer, true) < 500 {}
}

#[test]
fn retained_messages_have_a_ceiling_in_bytes_and_the_publisher_is_told() {
    let world = small(Config::default());
    let mut peer = world.v5("p", CLEAN, &[]);
    let payload = vec![7; 100_000];
    let codes: Vec<u8> = (1..=20)
        .map(|id| {
            peer.publish_with(0x33, &format!("r/{id}"), &payload, id, true);
            let (first, body) = peer.packet();
            assert_eq!(first, 0x40);
            body.get(2).copied().unwrap_or(0)
        })
        .collect();
    let kept = codes.iter().filter(|code| **code == 0).count();
    assert!((8..=10).contains(&kept), "{codes:x?}");
    assert_eq!(codes.last(), Some(&0x97));
    assert!(world.dropped("retained_full") >= 10);
    // Telemetry goes on, and clearing a topic makes room.
    peer.publish_with(0x33, "devices/a/telemetry", &payload, 30, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 30]));
    peer.publish_with(0x33, "r/1", &[], 31, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 31]));
    peer.publish_with(0x33, "r/21", &payload, 32, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 32]));
}

#[test]
fn beyond_the_maximum_of_sessions_a_new_one_ends_with_its_connection() {
    let world = World::with(true, Config { max_sessions: 2, ..Config::default() });
    let keep = [0x11, 0, 0, 1, 0];
    for id in ["a", "b"] {
        drop(world.v5(id, CLEAN, &keep));
    }
    wait(|| world.metrics.connections.get() == 0);
    let mut third = world.client();
    third.connect(5, "c", CLEAN, 0, &keep);
    let (_, body) = third.packet();
    assert_eq!(body[1], 0, "it is let in");
    assert!(body.windows(5).any(|w| w == [0x11, 0, 0, 0, 0]), "session expiry 0: {body:?}");
    assert!(has(&body, "mqtt.max_sessions"));
    drop(third);
    wait(|| world.metrics.connections.get() == 0 && world.metrics.sessions.get() == 2);
    assert_eq!(world.metrics.sessions_not_kept.get(), 1);
    let mut again = world.client();
    again.connect(5, "a", 0, 0, &keep);
    assert_eq!(again.packet().1[..2], [1, 0], "a session that is held goes on");
}

#[test]
fn delayed_wills_beyond_their_memory_are_published_at_once() {
    let world = small(Config::default());
    let mut watcher = world.v5("w", CLEAN, &[]);
    watcher.subscribe("wills/#", 0, true);
    let delay = [0x18, 0, 0, 0, 200];
    // Each takes a KiB and a little: a thousand fit.
    let mut peers = Vec::new();
    for i in 0..1_100 {
        peers.push(world.with_will(&format!("c{i}"), true, &[0x11, 0, 0, 1, 0], &delay, true));
        if peers.len() == 100 {
            peers.clear();
        }
    }
    peers.clear();
    assert_eq!(watcher.packet().0, 0x30);
}
