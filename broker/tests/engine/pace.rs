//! Limits of tenants: messages that wait for their turn, and connections that are refused.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use door::quota::{Limits, TenantMeter};
use weir_broker::Config;

use crate::devices::*;
use crate::world::*;

const TELEMETRY: &str = "devices/d1/telemetry";

fn limits(pairs: &[(&str, u64)]) -> Limits {
    let mut limits = Limits::default();
    pairs.iter().for_each(|(name, limit)| limits.set(name, NonZeroU64::new(*limit)).unwrap());
    limits
}

/// The packet id of the PUBACK that comes next.
fn puback(peer: &mut Peer) -> u16 {
    let (first, body) = peer.packet();
    assert_eq!(first, 0x40);
    u16::from_be_bytes([body[0], body[1]])
}

fn paced(world: &World) -> u64 {
    world.metrics.limited("messages_per_second").get() + world.metrics.limited("bytes_per_second").get()
}

fn taken(world: &World, topic: &str) -> usize {
    world.log.taken.lock().iter().filter(|(taken, ..)| taken == topic).count()
}

/// A tenant in which one message was handled, and the next one of `d1` waits for 40 s or more.
fn with_a_long_wait(devices: &Devices, world: &World) -> Peer {
    devices.limit("a", &limits(&[("bytes_per_second", 1)]));
    let mut peer = login("a/d1").enter(world);
    peer.publish(TELEMETRY, &[b'1'; 40], 1, 1, true);
    peer.publish(TELEMETRY, b"2", 1, 2, true);
    assert_eq!(puback(&mut peer), 1);
    wait(|| paced(world) == 1);
    peer
}

#[test]
fn a_flood_is_slowed_down_to_the_rate_and_none_of_it_is_lost() {
    let devices = Devices::new();
    let meter = devices.limit("a", &limits(&[("messages_per_second", 200), ("message_burst", 10)]));
    let world = devices.world(true);
    let mut peers: Vec<_> = (0..2).map(|n| login(["a/d1", "a/d2"][n]).enter(&world)).collect();
    let begun = Instant::now();
    for (n, peer) in peers.iter_mut().enumerate() {
        for id in 1..=60 {
            peer.publish(&format!("devices/d{}/telemetry", n + 1), &id.to_string().into_bytes(), 1, id, true);
        }
    }
    for peer in &mut peers {
        assert_eq!((1..=60).map(|_| puback(peer)).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    }
    // 110 messages beyond the burst, at 200 in a second.
    assert!(begun.elapsed() >= Duration::from_millis(545), "{:?}", begun.elapsed());
    assert!(paced(&world) > 0);
    let usage = meter.usage();
    assert_eq!((usage.messages, usage.connections), (120, 2));
    for n in 1..=2 {
        let topic = format!("devices/d{n}/telemetry");
        let sent: Vec<_> = (1..=60).map(|id| id.to_string().into_bytes()).collect();
        let log = world.log.taken.lock();
        let taken: Vec<_> = log.iter().filter(|(taken, ..)| *taken == topic).map(|(_, p, _)| p.clone()).collect();
        assert_eq!(taken, sent, "each once, in order");
    }
}

#[test]
fn a_client_that_waits_delays_no_other_tenant_and_is_sent_its_messages() {
    let devices = Devices::new();
    let world = devices.world(true);
    devices.grant("a/d1", &["#"], &["#"]);
    devices.limit("a", &limits(&[("bytes_per_second", 1)]));
    let mut slow = login("a/d1").enter(&world);
    slow.subscribe("devices/d2/#", 0, true);
    // The first message of the tenant passes, the second one waits.
    let mut sibling = login("a/d2").enter(&world);
    slow.publish(TELEMETRY, &[b'1'; 40], 1, 1, true);
    assert_eq!(puback(&mut slow), 1);
    slow.publish(TELEMETRY, b"2", 1, 2, true);
    wait(|| paced(&world) == 1);
    let mut other = login("b/d1").enter(&world);
    for id in 1..=100 {
        other.publish(TELEMETRY, b"1", 1, id, true);
        assert_eq!(puback(&mut other), id);
    }
    assert_eq!((taken(&world, TELEMETRY), paced(&world)), (101, 1), "of tenant a, one");
    // A message that was published before the limit reaches the client that waits.
    devices.limit("a", &Limits::default());
    sibling.publish("devices/d2/telemetry", b"x", 0, 0, true);
    let packets = [slow.packet().0, slow.packet().0];
    assert!(packets.contains(&0x30) && packets.contains(&0x40), "{packets:?}");
}

#[test]
fn a_limit_that_is_raised_ends_the_waits_within_a_second_or_so() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut peer = with_a_long_wait(&devices, &world);
    devices.limit("a", &limits(&[("bytes_per_second", 1_000_000)]));
    assert_eq!(puback(&mut peer), 2);
}

#[test]
fn a_client_that_is_paced_is_not_silent_and_one_that_is_silent_later_is() {
    let devices = Devices::new();
    devices.limit("a", &limits(&[("device_bytes_per_second", 20)]));
    let config = Config { max_keep_alive_secs: 1, ..Config::default() };
    let world = World::guarded(Box::new(std::sync::Arc::clone(&devices)), true, config, Vec::new());
    let mut peer = login("a/d1").enter(&world);
    let begun = Instant::now();
    // 65 bytes and more, of which 20 pass at once: the next one waits for more than 1.5 s.
    peer.publish(TELEMETRY, &[b'1'; 40], 1, 1, true);
    peer.publish(TELEMETRY, b"2", 1, 2, true);
    assert_eq!((puback(&mut peer), puback(&mut peer)), (1, 2));
    assert!(begun.elapsed() > Duration::from_millis(2000), "{:?}", begun.elapsed());
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8D));
}

#[test]
fn the_room_of_a_client_that_is_closed_while_it_waits_is_given_back() {
    let devices = Devices::new();
    let world = devices.world(true);
    devices.limit("a", &limits(&[("bytes_per_second", 100), ("byte_burst", 1)]));
    let mut peer = login("a/d1").enter(&world);
    peer.publish(TELEMETRY, b"1", 1, 1, true);
    assert_eq!(puback(&mut peer), 1);
    // Takes the room of the next 100 s.
    peer.publish(TELEMETRY, &vec![b'2'; 10_000], 1, 2, true);
    wait(|| paced(&world) == 1);
    devices.revoke("a/d1");
    assert!(peer.is_closed());
    wait(|| world.ended("revoked") == 1);
    let mut other = login("a/d2").enter(&world);
    other.publish("devices/d2/telemetry", b"1", 1, 1, true);
    assert_eq!(puback(&mut other), 1);
    assert_eq!(taken(&world, TELEMETRY), 1);
}

#[test]
fn connections_beyond_a_limit_are_refused_with_its_name() {
    let devices = Devices::new();
    let world = devices.world(true);
    let meter = devices.limit("a", &limits(&[("connections", 2), ("device_connections", 1)]));
    let first = login("a/d1").enter(&world);
    let (_, body) = Login { id: "d1:x", ..login("a/d1") }.connack(&world);
    assert_eq!(body[1], 0x97);
    assert!(has(&body, "device_connections = 1"), "{body:?}");
    // The same client in the place of the connection that it has lost.
    let mut again = login("a/d1").enter(&world);
    drop(first);
    wait(|| world.ended("taken_over") == 1);
    let _second = login("a/d2").enter(&world);
    let (_, body) = Login { v5: false, ..login("a/d3") }.connack(&world);
    assert_eq!(body, [0, 3]);
    let mut again_too = login("a/d2").enter(&world);
    again_too.ping();
    let _neighbour = login("b/d3").enter(&world);
    again.ping();
    for limit in ["connections", "device_connections"] {
        assert_eq!((world.metrics.limited(limit).get(), world.ended(limit)), (1, 1), "{limit}");
    }
    drop((again, again_too));
    wait(|| meter.usage().connections == 0);
    login("a/d3").enter(&world);
}

#[test]
fn connections_come_at_their_rate() {
    let devices = Devices::new();
    let world = devices.world(true);
    devices.limit("a", &limits(&[("connects_per_second", 1), ("connect_burst", 2)]));
    let _held = [login("a/d1").enter(&world), login("a/d2").enter(&world)];
    let (_, body) = login("a/d3").connack(&world);
    assert_eq!(body[1], 0x97);
    assert!(has(&body, "connects_per_second = 1") && has(&body, "try again in"), "{body:?}");
    wait(|| login("a/d3").connack(&world).1[1] == 0);
}

#[test]
fn the_end_does_not_wait_for_clients_that_are_paced() {
    let devices = Devices::new();
    let mut world = devices.world(true);
    let mut peer = with_a_long_wait(&devices, &world);
    let begun = Instant::now();
    world.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x8B), "the message that waited has no PUBACK");
    assert_eq!(taken(&world, TELEMETRY), 1);
}

#[test]
fn without_limits_a_meter_counts_and_nothing_waits() {
    let devices = Devices::new();
    let meter: std::sync::Arc<TenantMeter> = devices.limit("a", &Limits::default());
    let world = devices.world(true);
    let mut peer = login("a/d1").enter(&world);
    for id in 1..=200 {
        peer.publish(TELEMETRY, b"1", 1, id, true);
    }
    assert_eq!((1..=200).map(|_| puback(&mut peer)).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    let usage = meter.usage();
    assert_eq!((usage.messages, usage.bytes), (200, 200 * (2 + 2 + 20 + 2 + 1 + 1)));
    assert!(usage.limited.iter().all(|(_, count)| *count == 0), "{usage:?}");
}

#[test]
fn pings_and_acknowledgements_of_a_client_do_not_wait_with_its_messages() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut peer = with_a_long_wait(&devices, &world);
    for id in 3..=20 {
        peer.publish(TELEMETRY, b"1", 1, id, true);
        peer.ping();
    }
    assert_eq!(taken(&world, TELEMETRY), 1);
    devices.limit("a", &Limits::default());
    assert_eq!((2..=20).map(|_| puback(&mut peer)).collect::<Vec<_>>(), (2..=20).collect::<Vec<_>>());
    let log = world.log.taken.lock();
    assert_eq!(log.len(), 20, "each once");
}

#[test]
fn a_ping_that_is_in_memory_is_answered_however_much_waits_before_it() {
    let devices = Devices::new();
    let world = devices.world(true);
    devices.limit("a", &limits(&[("bytes_per_second", 1)]));
    let mut peer = login("a/d2").enter(&world);
    // More than is read behind a message that waits, in one write.
    let topic = "devices/d2/telemetry";
    let mut block = Vec::new();
    for (id, size) in [(1, 1), (2, 10_000), (3, 1)] {
        let length = 2 + topic.len() + 3 + size;
        block.extend_from_slice(&[0x32, (length % 128) as u8 | 128, (length / 128) as u8]);
        block.extend_from_slice(&text(topic));
        block.extend_from_slice(&[0, id, 0]);
        block.resize(block.len() + size, b'1');
        block.extend_from_slice(&[0xC0, 0]);
    }
    std::io::Write::write_all(&mut peer.0, &block).unwrap();
    let mut packets: Vec<_> = (0..4).map(|_| peer.packet().0).collect();
    packets.sort_unstable();
    assert_eq!(packets, [0x40, 0xD0, 0xD0, 0xD0]);
    devices.limit("a", &Limits::default());
    assert_eq!([puback(&mut peer), puback(&mut peer)], [2, 3]);
    assert_eq!(taken(&world, topic), 3, "each once");
}

#[test]
fn a_session_that_takes_the_place_of_one_that_ends_with_its_connection_has_to_find_room() {
    let devices = Devices::new();
    let world = devices.world(true);
    devices.limit("s", &limits(&[("sessions", 2)]));
    let lasts = |user| Login { clean: false, properties: LASTS, ..login(user) };
    drop(lasts("s/d1").enter(&world));
    wait(|| world.ended("closed") == 1);
    // There is room: it is kept from now on.
    let brief = login("s/d2").enter(&world);
    drop(lasts("s/d2").enter(&world));
    drop(brief);
    wait(|| world.ended("closed") == 2);
    // There is none.
    let _brief = login("s/d3").enter(&world);
    let (second, body) = lasts("s/d3").connack(&world);
    assert_eq!(body[..2], [0, 0], "the session before has ended");
    assert!(has(&body, "\x11\0\0\0\0"), "it ends with its connection: {body:?}");
    assert_eq!(world.metrics.limited("sessions").get(), 1);
    drop(second);
    wait(|| world.metrics.sessions.get() == 2);
    assert_eq!(lasts("s/d2").connack(&world).1[0], 1, "those that were kept go on");
}

#[test]
fn messages_of_a_client_that_has_left_are_handled_in_their_turn() {
    let devices = Devices::new();
    devices.limit("a", &limits(&[("messages_per_second", 10), ("message_burst", 1)]));
    let world = devices.world(true);
    for orderly in [true, false] {
        let before = taken(&world, TELEMETRY);
        let mut peer = login("a/d1").enter(&world);
        for _ in 0..5 {
            peer.publish(TELEMETRY, b"1", 0, 0, true);
        }
        if orderly {
            peer.send(0xE0, &[]);
        }
        drop(peer);
        wait(|| world.ended(if orderly { "client" } else { "closed" }) == 1);
        assert_eq!(taken(&world, TELEMETRY) - before, 5);
    }
}

#[test]
fn a_client_in_memory_is_bounded_while_it_waits() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut peer = with_a_long_wait(&devices, &world);
    peer.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let block = [0x30, 24, 0, 20].iter().copied().chain(*b"devices/d1/telemetry").chain([0, b'1']);
    let block: Vec<u8> = block.collect::<Vec<_>>().repeat(100_000);
    let written = std::io::Write::write_all(&mut peer.0, &block);
    let read = world.metrics.received.get();
    assert!(written.is_err() || read < 100_000, "the socket fills up");
    assert!(read < 100_000, "{read} bytes were read");
}

#[test]
fn sessions_subscriptions_and_retained_messages_have_limits_of_the_tenant() {
    let devices = Devices::new();
    let world = devices.world(true);
    for (kept, tenant) in [("sessions", "s"), ("subscriptions", "u"), ("retained_messages", "r")] {
        devices.limit(tenant, &limits(&[(kept, 2)]));
    }
    for user in ["u/d1", "r/d1", "free/d1"] {
        devices.grant(user, &["#"], &["#"]);
    }
    let lasts = |user| Login { clean: false, properties: LASTS, ..login(user) };
    drop([lasts("s/d1").enter(&world), lasts("s/d2").enter(&world)]);
    let (third, body) = lasts("s/d3").connack(&world);
    assert!(body.windows(5).any(|w| w == [0x11, 0, 0, 0, 0]), "it ends with its connection: {body:?}");
    drop(third);
    assert_eq!(lasts("s/d1").connack(&world).1[0], 1, "those that were kept go on");

    for (user, fourth) in [("u/d1", 0x97), ("free/d1", 1)] {
        let mut peer = login(user).enter(&world);
        for (filter, granted) in [("a", 1), ("b", 1), ("c", fourth), ("b", 1)] {
            assert_eq!(peer.subscribe(filter, 1, true).last(), Some(&granted), "{user} {filter}");
        }
    }
    for (user, third) in [("r/d1", 0x97), ("free/d1", 0)] {
        let mut peer = login(user).enter(&world);
        for (id, topic, payload, code) in
            [(1, "x/a", "1", 0), (2, "x/b", "1", 0), (3, "x/c", "1", third), (4, "x/a", "2", 0), (5, "x/b", "", 0)]
        {
            peer.publish_with(0x33, topic, payload.as_bytes(), id, true);
            let (first, body) = peer.packet();
            assert_eq!((first, body.get(2).copied().unwrap_or(0)), (0x40, code), "{user} {topic} {payload}");
        }
        peer.publish_with(0x33, "x/d", b"1", 6, true);
        assert_eq!(peer.packet().1.get(2).copied().unwrap_or(0), 0, "{user}: one was cleared");
    }
    for kept in ["sessions", "subscriptions", "retained_messages"] {
        assert_eq!(world.metrics.limited(kept).get(), 1, "{kept}");
    }
}

#[test]
fn a_retained_will_message_beyond_the_limit_is_delivered_and_not_kept() {
    let devices = Devices::new();
    let world = devices.world(true);
    devices.grant("r/d1", &["#"], &["#"]);
    devices.grant("r/d2", &["#"], &["#"]);
    devices.limit("r", &limits(&[("retained_messages", 1)]));
    let mut peer = login("r/d1").enter(&world);
    peer.publish_with(0x33, "x/a", b"1", 1, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    peer.subscribe("x/#", 1 | 2 << 4, true);
    let gone = |topic| drop(Login { will: Some((topic, b"gone")), retain: true, ..login("r/d2") }.enter(&world));
    let arrived = |peer: &mut Peer, topic: &str| {
        let (first, body) = peer.packet();
        assert_eq!((first, &body[2..2 + topic.len()]), (0x30, topic.as_bytes()));
        assert!(has(&body, "gone"));
    };
    gone("x/b");
    arrived(&mut peer, "x/b");
    assert_eq!(world.metrics.limited("retained_messages").get(), 1);
    assert_eq!(*world.log.retained.lock(), ["x/a"]);
    // The one that is kept can change.
    gone("x/a");
    arrived(&mut peer, "x/a");
    assert_eq!(*world.log.retained.lock(), ["x/a", "x/a"]);
    // Later subscribers get what is kept.
    let mut late = login("r/d1").enter(&world);
    late.subscribe("x/#", 1, true);
    let (first, body) = late.packet();
    assert_eq!((first, has(&body, "x/a") && has(&body, "gone")), (0x31, true));
    assert!(late.is_silent(), "nothing else is kept");
}
