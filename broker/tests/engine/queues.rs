//! The bounds of subscribers' queues: no message is lost without a trace.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use weir_broker::{Config, QueueFull};

use crate::devices::{LASTS, has};
use crate::world::*;

/// A queue of three messages.
fn three(queue_full: QueueFull) -> World {
    World::with(true, Config { max_queued_messages: 3, queue_full, ..Config::default() })
}

/// Waits until only so many clients are connected.
fn left(world: &World, connections: i64) {
    wait(|| world.metrics.connections.get() == connections);
}

/// Publishes messages at QoS 1, whose payload is their number. Returns the codes of the PUBACKs.
fn publish_all(peer: &mut Peer, topic: &str, numbers: std::ops::RangeInclusive<u16>, padding: usize) -> Vec<u8> {
    let publish = |n: u16| {
        let payload = [&n.to_be_bytes()[..], &vec![7; padding]].concat();
        peer.publish(topic, &payload, 1, n, true);
        let (first, body) = peer.packet();
        assert_eq!((first, &body[..2]), (0x40, &n.to_be_bytes()[..]));
        body.get(2).copied().unwrap_or(0)
    };
    numbers.map(publish).collect()
}

/// The number of a message at QoS 1 on a topic of one letter, and its packet id.
fn number(body: &[u8], v5: bool) -> (u16, [u8; 2]) {
    let payload = if v5 { 6 } else { 5 };
    (u16::from_be_bytes([body[payload], body[payload + 1]]), [body[3], body[4]])
}

/// Takes and acknowledges messages until the broker ends the connection. Returns their numbers, and
/// the body of a DISCONNECT.
fn take_all(peer: &mut Peer, v5: bool) -> (Vec<u16>, Vec<u8>) {
    let mut taken = Vec::new();
    loop {
        let mut first = [0];
        if peer.0.read_exact(&mut first).is_err() {
            return (taken, Vec::new());
        }
        let (first, body) = peer.rest(first[0]);
        if first == 0xE0 {
            return (taken, body);
        }
        assert_eq!(first & 0xF6, 0x32);
        let (n, id) = number(&body, v5);
        taken.push(n);
        peer.send(0x40, &id);
    }
}

#[test]
fn a_slow_subscriber_gets_all_messages_before_the_gap_and_is_told_of_it() {
    for v5 in [true, false] {
        let world = World::with(true, Config { max_queued_messages: 50, ..Config::default() });
        let mut slow = if v5 { world.v5("s", 0, &[0x21, 0, 10, 0x11, 0, 0, 1, 0]) } else { world.v4("s", 0) };
        slow.subscribe("t", 1, v5);
        let mut peer = world.v5("p", CLEAN, &[]);
        // 3.1.1 has no Receive Maximum: more than 1,024 are in flight.
        let count = if v5 { 200 } else { 2_000 };
        publish_all(&mut peer, "t", 1..=count, 0);
        let (taken, farewell) = take_all(&mut slow, v5);
        assert_eq!(taken, (1..=taken.len() as u16).collect::<Vec<_>>(), "without a gap");
        assert!(taken.len() < usize::from(count) && taken.len() >= 60, "{}", taken.len());
        assert_eq!(world.dropped("queue_full"), u64::from(count) - taken.len() as u64, "each one is counted");
        if v5 {
            assert!(farewell[0] == 0x97 && has(&farewell, "mqtt.max_queued_messages"), "{farewell:?}");
        }
        wait(|| world.ended("queue_full") == 1);
        let mut again = world.client();
        again.connect(if v5 { 5 } else { 4 }, "s", 0, 0, if v5 { LASTS } else { &[] });
        assert_eq!(again.packet().1[0], 0, "no session: the client knows that it has missed something");
    }
}

#[test]
fn a_client_that_was_away_gets_the_messages_before_the_gap_and_is_told_of_it() {
    let world = three(QueueFull::EndSession);
    world.v5("s", 0, LASTS).subscribe("t", 1, true);
    left(&world, 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    let codes = publish_all(&mut peer, "t", 1..=5, 0);
    assert_eq!(codes, [0, 0, 0, 0x97, 0x97], "no subscriber got the last two, and the publisher is told");
    let mut back = world.client();
    back.connect(5, "s", 0, 0, LASTS);
    assert_eq!(back.packet().1[..2], [1, 0], "session present");
    let (taken, farewell) = take_all(&mut back, true);
    assert_eq!((taken, farewell[0]), (vec![1, 2, 3], 0x97));
    wait(|| world.metrics.sessions.get() == 1);
    assert_eq!(world.dropped("queue_full"), 2);
}

#[test]
fn a_publisher_whose_message_no_queue_takes_is_told_the_limit() {
    let world = three(QueueFull::DropNewest);
    world.v5("s", 0, LASTS).subscribe("t", 1, true);
    left(&world, 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish_all(&mut peer, "t", 1..=3, 0);
    peer.publish("t", b"no", 1, 4, true);
    let (_, body) = peer.packet();
    assert!(body[2] == 0x97 && has(&body, "mqtt.max_queued_messages"), "{body:?}");
    peer.publish("t", b"no", 2, 5, true);
    let (first, body) = peer.packet();
    assert_eq!((first, body[2]), (0x50, 0x97));
    // Its packet id is free: a failed PUBREC ends the exchange.
    let mut other = world.v5("o", CLEAN, &[]);
    other.subscribe("t", 0, true);
    peer.publish("t", b"ok", 2, 5, true);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]), "another one takes it");
    // Telemetry is in the log: that is its acknowledgement.
    world.v5("d", 0, LASTS).subscribe("devices/a/telemetry", 1, true);
    for id in 10..=15 {
        peer.publish("devices/a/telemetry", b"1", 1, id, true);
        assert_eq!(peer.packet(), (0x40, vec![0, id as u8]));
    }
}

#[test]
fn the_oldest_or_the_newest_is_dropped_by_choice_and_the_session_goes_on() {
    for (queue_full, kept) in [(QueueFull::DropNewest, [1, 2, 3]), (QueueFull::DropOldest, [3, 4, 5])] {
        let world = three(queue_full);
        world.v5("s", 0, LASTS).subscribe("t", 1, true);
        left(&world, 0);
        let mut peer = world.v5("p", CLEAN, &[]);
        publish_all(&mut peer, "t", 1..=5, 0);
        assert_eq!(world.dropped("queue_full"), 2);
        let mut back = world.v5("s", 0, LASTS);
        for n in kept {
            let (_, body) = back.packet();
            assert_eq!(number(&body, true).0, n, "{queue_full:?}");
            back.send(0x40, &body[3..5]);
        }
        back.ping();
    }
}

#[test]
fn messages_of_qos_0_go_first_and_the_oldest_of_them() {
    let world = World::with(true, Config { max_queued_messages: 20, ..Config::default() });
    // A window of one: the queue behind it fills.
    let mut slow = world.v5("s", CLEAN, &[0x21, 0, 1]);
    slow.subscribe("t", 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish_all(&mut peer, "t", 1..=2, 0);
    let (_, first) = slow.packet();
    for n in 0..30 {
        peer.publish("t", &[0, 100 + n], 0, 0, true);
    }
    peer.ping();
    publish_all(&mut peer, "t", 3..=5, 0);
    assert_eq!((world.dropped("queue_full_qos0"), world.dropped("queue_full")), (14, 0));
    slow.send(0x40, &first[3..5]);
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let (first, body) = slow.packet();
        if first == 0x30 {
            seen.push(u16::from(body[5]));
        } else {
            seen.push(number(&body, true).0);
            slow.send(0x40, &body[3..5]);
        }
    }
    let wanted: Vec<u16> = [2].into_iter().chain(114..130).chain(3..=5).collect();
    assert_eq!(seen, wanted, "in order, without the oldest of QoS 0");
}

/// A broker with 1 MiB for sessions.
fn small(queue_full: QueueFull) -> World {
    World::with(true, Config { memory_bytes: 4 << 20, queue_full, ..Config::default() })
}

#[test]
fn the_session_that_holds_most_of_the_memory_gives_way_first_and_returns_it() {
    let world = small(QueueFull::EndSession);
    for (id, topic) in [("greedy", "g"), ("modest", "m")] {
        world.v5(id, 0, &[0x11, 0, 0, 0, 60]).subscribe(topic, 1, true);
    }
    left(&world, 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish_all(&mut peer, "m", 1..=10, 1_000);
    let mut healthy = world.v5("h", CLEAN, &[]);
    healthy.subscribe("m", 1, true);
    let mut most = 0;
    for n in 1..=30 {
        publish_all(&mut peer, "g", n..=n, 100_000);
        publish_all(&mut peer, "m", n + 10..=n + 10, 1_000);
        let (_, body) = healthy.packet();
        assert_eq!(number(&body, true).0, n + 10, "healthy subscribers go on");
        healthy.send(0x40, &body[3..5]);
        most = most.max(world.metrics.session_bytes.get());
    }
    assert!(most <= 1 << 20, "{most} bytes");
    assert!(world.dropped("memory") >= 8);
    let mut greedy = world.client();
    greedy.connect(5, "greedy", 0, 0, LASTS);
    assert_eq!(greedy.packet().1[0], 0, "its session has ended");
    let mut modest = world.v5("modest", 0, &[0x11, 0, 0, 0, 1]);
    for n in 1..=40 {
        let (_, body) = modest.packet();
        assert_eq!(number(&body, true).0, n, "the other one has all");
        modest.send(0x40, &body[3..5]);
    }
    modest.send(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]);
    drop((modest, greedy, healthy));
    wait(|| world.metrics.session_bytes.get() < 2_000);
}

#[test]
fn a_connected_client_that_never_reads_gives_way_and_others_get_everything() {
    let world = small(QueueFull::EndSession);
    // More than what the sockets hold: it never reads.
    let mut stuck = world.v5("stuck", CLEAN, &[]);
    stuck.subscribe("t", 1, true);
    let mut healthy = world.v5("h", CLEAN, &[]);
    healthy.subscribe("t", 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    let mut slowest = Duration::ZERO;
    for n in 1..=300 {
        let begun = Instant::now();
        assert_eq!(publish_all(&mut peer, "t", n..=n, 60_000), [0]);
        slowest = slowest.max(begun.elapsed());
        let (_, body) = healthy.packet();
        assert_eq!(number(&body, true).0, n);
        healthy.send(0x40, &body[3..5]);
        assert!(world.metrics.session_bytes.get() <= 1 << 20);
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    wait(|| world.ended("queue_memory") == 1);
}

#[test]
fn messages_that_a_client_reads_and_never_acknowledges_count_too() {
    for queue_full in [QueueFull::EndSession, QueueFull::DropOldest] {
        let world = small(queue_full);
        let mut reader = world.v5("reader", CLEAN, &[]);
        reader.subscribe("t", 1, true);
        let mut peer = world.v5("p", CLEAN, &[]);
        for n in 1..=30 {
            publish_all(&mut peer, "t", n..=n, 60_000);
            if world.ended("queue_memory") == 0 {
                let (first, body) = reader.packet();
                assert!(first == 0x32 || body[0] == 0x97, "{first:x}");
            }
            assert!(world.metrics.session_bytes.get() <= 1 << 20);
        }
        wait(|| world.ended("queue_memory") == 1);
    }
}

#[test]
fn retained_messages_that_wait_in_queues_leave_room_for_retained_ones() {
    let world = small(QueueFull::DropOldest);
    world.v5("s", 0, LASTS).subscribe("r/#", 1, true);
    left(&world, 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    for id in 1..=30 {
        peer.publish_with(0x33, "r/1", &vec![7; 100_000], id, true);
        assert_eq!(peer.packet(), (0x40, vec![0, id as u8]), "it replaces the one before");
    }
    peer.publish_with(0x33, "r/2", &vec![7; 100_000], 40, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 40]));
    wait(|| (200_000..250_000).contains(&world.metrics.retained_bytes.get()));
}

#[test]
fn when_messages_are_dropped_by_choice_a_full_memory_drops_those_of_the_largest_queue() {
    for queue_full in [QueueFull::DropOldest, QueueFull::DropNewest] {
        let world = small(queue_full);
        world.v5("s", 0, LASTS).subscribe("t", 1, true);
        left(&world, 0);
        let mut peer = world.v5("p", CLEAN, &[]);
        publish_all(&mut peer, "t", 1..=30, 100_000);
        let mut back = world.client();
        back.connect(5, "s", 0, 0, LASTS);
        assert_eq!(back.packet().1[0], 1, "the session goes on");
        let mut seen = Vec::new();
        while seen.len() as u64 + world.dropped("memory") < 30 {
            let (_, body) = back.packet();
            seen.push(number(&body, true).0);
            back.send(0x40, &body[3..5]);
        }
        assert!(seen.len() >= 5 && seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.contains(&1), queue_full == QueueFull::DropNewest, "{seen:?}");
        back.ping();
    }
}

#[test]
fn queues_of_sessions_that_end_return_their_memory() {
    let world = World::with(true, Config { memory_bytes: 256 << 20, ..Config::default() });
    for i in 0..6 {
        world.v5(&format!("s{i}"), 0, &[0x11, 0, 0, 0, 3]).subscribe("t", 1, true);
    }
    left(&world, 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish_all(&mut peer, "t", 1..=300, 60_000);
    wait(|| world.metrics.session_bytes.get() > 15 << 20);
    // When they end, only the places of no one are left.
    wait(|| world.metrics.sessions.get() == 1 && world.metrics.session_bytes.get() == 0);
    assert_eq!(world.dropped("session_ended"), 6 * 300);
}

#[test]
fn a_session_of_3_1_1_is_kept_as_long_as_its_own_key_says() {
    let world = World::with(true, Config { v3_session_expiry_secs: 1, ..Config::default() });
    world.v4("three", 0).subscribe("t", 1, false);
    world.v5("five", 0, LASTS).subscribe("t", 1, true);
    wait(|| world.metrics.sessions.get() == 1);
    let mut again = world.client();
    again.connect(4, "three", 0, 0, &[]);
    assert_eq!(again.packet(), (0x20, vec![0, 0]));
    // 0: a session ends with its connection.
    let world = World::with(true, Config { v3_session_expiry_secs: 0, ..Config::default() });
    drop(world.v4("three", 0));
    wait(|| world.metrics.connections.get() == 0 && world.metrics.sessions.get() == 0);
}

#[test]
fn a_retained_message_that_is_not_kept_names_the_limit() {
    let world = World::with(true, Config { max_retained_messages: 1, ..Config::default() });
    let mut peer = world.v5("p", CLEAN, &[]);
    peer.publish_with(0x33, "a", b"1", 1, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    peer.publish_with(0x33, "b", b"1", 2, true);
    let (_, body) = peer.packet();
    assert!(body[2] == 0x97 && has(&body, "mqtt.max_retained_messages"), "{body:?}");
    let world = small(QueueFull::EndSession);
    let mut peer = world.v5("p", CLEAN, &[]);
    peer.subscribe("r/#", 0, true);
    let mut last = Vec::new();
    for id in 1..=12 {
        peer.publish_with(0x33, &format!("r/{id}"), &vec![7; 100_000], id, true);
        for _ in 0..2 {
            let (first, body) = peer.packet();
            if first == 0x40 {
                last = body;
            }
        }
    }
    assert!(last[2] == 0x97 && has(&last, "memory.max_bytes"), "{last:?}");
}

#[test]
fn a_half_written_packet_and_a_stuck_socket_hold_up_no_queue() {
    let world = World::new(true);
    let mut half = world.v5("half", CLEAN, &[]);
    half.subscribe("t", 1, true);
    half.0.write_all(&[0x32, 0xC0, 0x84, 0x3D, 0]).unwrap();
    let mut healthy = world.v5("h", CLEAN, &[]);
    healthy.subscribe("t", 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish_all(&mut peer, "t", 1..=500, 0);
    for peer in [&mut half, &mut healthy] {
        for n in 1..=500 {
            assert_eq!(number(&peer.packet().1, true).0, n);
        }
    }
}
