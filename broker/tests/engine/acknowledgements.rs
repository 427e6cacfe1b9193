//! Acknowledgements: their time and their order.

use std::io::{ErrorKind, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::Value;
use model::trace::TraceContext;
use weir_broker::Config;

use crate::fleet::take;
use crate::packets::*;
use crate::peer::text;
use crate::world::*;

#[test]
fn no_puback_leaves_before_its_message_is_durable_and_all_leave_in_order() {
    let world = World::new(false);
    let mut peer = world.v4("a", CLEAN);
    for id in 1..=3 {
        peer.publish("devices/a/telemetry", b"1", 1, id, false);
        world.log.wait_taken(usize::from(id));
        wait(|| world.log.last.load(Ordering::SeqCst) == u64::from(id));
    }
    assert!(peer.is_silent());
    world.log.release_to(2);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    assert_eq!(peer.packet(), (0x40, vec![0, 2]));
    assert!(peer.is_silent());
    world.log.release_to(3);
    assert_eq!(peer.packet(), (0x40, vec![0, 3]));
}

#[test]
fn a_plain_message_is_not_acknowledged_ahead_of_telemetry() {
    let world = World::new(false);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"1", 1, 1, false);
    peer.publish("chat", b"hello", 1, 2, false);
    world.log.wait_taken(1);
    assert!(peer.is_silent());
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.log.release_to(1);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    assert_eq!(peer.packet(), (0x40, vec![0, 2]));
}

#[test]
fn after_a_failed_append_nothing_is_acknowledged_and_the_client_gets_the_reason() {
    let world = World::new(false);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.publish("devices/a/telemetry", b"1", 1, 1, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    world.log.failed.store(true, Ordering::SeqCst);
    world.log.wake();
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x83));
    assert!(peer.is_closed());
}

#[test]
fn a_full_log_stops_the_reading_of_the_socket() {
    let world = World::new(true);
    world.log.full.store(true, Ordering::SeqCst);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"1", 1, 1, false);
    world.log.wait_taken(1);
    peer.0.set_nonblocking(true).unwrap();
    let block = [0x30, 3, 0, 1, b'x'].repeat(20_000);
    // The kernel's buffers fill, then nothing more goes.
    let mut written = 0;
    let begun = Instant::now();
    let mut still = Instant::now();
    while still.elapsed() < Duration::from_millis(500) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it goes on reading: {written} bytes");
        match peer.0.write(&block) {
            Ok(n) => {
                written += n;
                still = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    peer.0.set_nonblocking(false).unwrap();
    world.log.full.store(false, Ordering::SeqCst);
    world.log.wake();
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
}

#[test]
fn unreadable_telemetry_is_answered_with_0x99_on_mqtt_5_and_with_success_on_3_1_1() {
    let world = World::new(true);
    let mut five = world.v5("a", CLEAN, &[]);
    five.publish("devices/a/telemetry", b"garbage", 1, 7, true);
    let (first, body) = five.packet();
    assert_eq!((first, &body[..3]), (0x40, &[0, 7, 0x99][..]));
    let mut four = world.v4("b", CLEAN);
    four.publish("devices/a/telemetry", b"garbage", 1, 8, false);
    assert_eq!(four.packet(), (0x40, vec![0, 8]));
}

#[test]
fn a_message_that_is_held_is_acknowledged_and_reaches_no_subscriber() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut s = join(&world, v5, "s", CLEAN);
        subscribe(&mut s, v5, 1, &[("devices/#", 2)]);
        let mut p = join(&world, v5, "p", CLEAN);
        for (flags, answer) in [(0x32, 0x40), (0x33, 0x40), (0x34, 0x50)] {
            p.publish_with(flags, "devices/a/telemetry", b"held", 7, v5);
            assert_eq!(p.packet(), (answer, vec![0, 7]), "with success");
        }
        p.publish_with(0x30, "devices/a/telemetry", b"held", 0, v5);
        let parts = [text("w"), none(v5).to_vec(), text("devices/a/telemetry"), text("held")];
        let mut w = world.client();
        w.0.write_all(&connect(v5, CLEAN | 4, &[], &parts.each_ref().map(Vec::as_slice))).unwrap();
        assert_eq!(w.packet().0, 0x20);
        drop(w);
        wait(|| world.log.taken.lock().len() == 5);
        p.ping();
        assert!(world.log.retained.lock().is_empty(), "the second one asked for it");
        publish(&mut p, v5, 0x32, "devices/a/telemetry", b"1");
        assert_eq!(take(&mut s, v5, 1), ["1"]);
    }
}

#[test]
fn a_qos_2_message_is_stored_once_also_when_it_is_sent_again_after_a_reconnect() {
    let world = World::new(true);
    let mut peer = world.v4("a", 0);
    peer.publish("devices/a/telemetry", b"1", 2, 5, false);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]));
    drop(peer);
    let mut peer = world.v4("a", 0);
    peer.publish_with(0x3C, "devices/a/telemetry", b"1", 5, false);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]));
    assert_eq!(world.log.taken.lock().len(), 1);
    peer.send(0x62, &[0, 5]);
    assert_eq!(peer.packet(), (0x70, vec![0, 5]));
    peer.publish("devices/a/telemetry", b"2", 2, 5, false);
    assert_eq!(peer.packet(), (0x50, vec![0, 5]));
    assert_eq!(world.log.taken.lock().len(), 2);
}

#[test]
fn more_in_flight_than_the_receive_maximum_is_refused_on_mqtt_5() {
    let world = World::with(false, Config { receive_maximum: 4, ..Config::default() });
    let mut peer = world.v5("a", CLEAN, &[]);
    for id in 1..=5 {
        peer.publish("devices/a/telemetry", b"1", 1, id, true);
    }
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x93));
}

#[test]
fn messages_that_come_together_with_connect_are_not_left_behind() {
    let world = World::new(true);
    let mut peer = world.client();
    let mut all = vec![0x10, 13, 0, 4];
    all.extend_from_slice(b"MQTT\x04\x02\0\0\0\x01a");
    all.extend_from_slice(&[0x32, 15, 0, 9]);
    all.extend_from_slice(b"devices/x\0\x01.5");
    peer.0.write_all(&all).unwrap();
    assert_eq!(peer.packet().0, 0x20);
    assert_eq!(peer.packet(), (0x40, vec![0, 1]));
}

#[test]
fn telemetry_that_is_followed_by_disconnect_at_once_is_stored() {
    let world = World::new(true);
    let mut peer = world.v4("a", CLEAN);
    // As mosquitto_pub does at QoS 0.
    let mut both = vec![0x30, 13];
    both.extend_from_slice(b"\0\x0adevices/a/1");
    both.extend_from_slice(&[0xE0, 0]);
    peer.0.write_all(&both).unwrap();
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    assert!(peer.is_closed());
}

#[test]
fn a_qos_2_message_that_is_resent_to_a_new_connection_is_answered_when_it_is_durable_and_stored_once() {
    let world = World::new(false);
    let mut old = world.v4("a", 0);
    // The session.
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    old.publish("devices/a/telemetry", b"1", 2, 5, false);
    wait(|| world.log.last.load(Ordering::SeqCst) == 2);
    let mut new = world.v4("a", 0);
    new.publish_with(0x3C, "devices/a/telemetry", b"1", 5, false);
    assert!(new.is_silent(), "it is not durable");
    world.log.release_to(2);
    assert_eq!(new.packet(), (0x50, vec![0, 5]));
    assert_eq!(world.log.taken.lock().len(), 1);
}

#[test]
fn a_message_without_a_subscriber_is_answered_with_no_matching_subscribers() {
    let world = World::new(true);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.publish("chat", b"x", 1, 1, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 1, 0x10]));
    world.v4("s", CLEAN).subscribe("chat", 0, false);
    peer.subscribe("chat", 0, true);
    peer.publish("chat", b"x", 1, 2, true);
    let mut both = [peer.packet(), peer.packet()];
    both.sort();
    assert_eq!(both[1], (0x40, vec![0, 2]));
}

#[test]
fn a_3_1_1_client_that_sends_more_than_the_receive_maximum_waits_and_is_answered_in_order() {
    let world = World::with(false, Config { receive_maximum: 4, ..Config::default() });
    let mut peer = world.v4("a", CLEAN);
    for id in 1..=100 {
        peer.publish("devices/a/telemetry", b"1", 1, id, false);
    }
    world.log.wait_taken(8);
    assert!(peer.is_silent());
    assert_eq!(world.log.taken.lock().len(), 8, "the others wait in the socket");
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(8);
    for id in 1..=100 {
        assert_eq!(peer.packet(), (0x40, vec![0, id]));
    }
}

#[test]
fn a_packet_that_comes_byte_by_byte_is_read() {
    let world = World::new(true);
    let mut peer = world.v4("a", CLEAN);
    let mut bytes = Vec::new();
    for id in 1..=3 {
        bytes.extend_from_slice(&[0x32, 15]);
        bytes.extend_from_slice(b"\0\x0adevices/a/");
        bytes.extend_from_slice(&[0, id, b'x']);
    }
    for byte in bytes {
        peer.0.write_all(&[byte]).unwrap();
        std::thread::yield_now();
    }
    for id in 1..=3 {
        assert_eq!(peer.packet(), (0x40, vec![0, id]));
    }
    assert_eq!(world.log.taken.lock().len(), 3);
}

#[test]
fn a_packet_larger_than_a_read_is_read_whole() {
    let world = World::new(true);
    let mut peer = world.v4("a", CLEAN);
    let payload: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
    for id in 1..=2 {
        peer.publish("devices/a/telemetry", &payload, 1, id, false);
        peer.publish("devices/a/telemetry", b"small", 1, id + 10, false);
    }
    for id in [1, 11, 2, 12] {
        assert_eq!(peer.packet(), (0x40, vec![0, id]));
    }
    let taken = world.log.taken.lock();
    assert!(taken[0].1 == payload && taken[2].1 == payload && taken[3].1 == b"small");
}

#[test]
fn the_span_of_a_traced_message_ends_with_its_answer_at_every_quality_of_service() {
    let world = World::new(false);
    world.log.traced.store(true, Ordering::SeqCst);
    let mut peer = world.v5("a", CLEAN, &[]);
    for qos in 0..=2 {
        peer.publish("devices/a/telemetry", b"1", qos, u16::from(qos), true);
    }
    peer.publish("chat", b"hello", 1, 9, true);
    world.log.wait_taken(3);
    assert!(peer.is_silent());
    assert!(world.log.answered.lock().is_empty(), "nothing is durable");
    let last = world.log.last.load(Ordering::SeqCst);
    world.log.release_to(last);
    assert_eq!([peer.packet().0, peer.packet().0, peer.packet().0], [0x40, 0x50, 0x40]);
    wait(|| world.log.answered.lock().len() == 3);
    assert!(world.log.answered.lock().iter().all(|span| span.error.is_none()));
}

#[test]
fn the_span_of_a_message_whose_client_left_has_an_error() {
    let world = World::new(false);
    world.log.traced.store(true, Ordering::SeqCst);
    let mut peer = world.v4("a", CLEAN);
    peer.publish("devices/a/telemetry", b"1", 1, 1, false);
    world.log.wait_taken(1);
    drop(peer);
    wait(|| world.ended("closed") == 1);
    world.log.release_to(1);
    wait(|| world.log.answered.lock().len() == 1);
    assert!(world.log.answered.lock()[0].error.is_some());
}

#[test]
fn a_trace_context_in_the_user_properties_reaches_the_inbox_and_the_span_names_version_and_qos() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let world = World::new(true);
    world.log.traced.store(true, Ordering::SeqCst);
    let mut peer = world.v5("a", CLEAN, &[]);
    let property = |name: &str, value: &str| [&[0x26][..], &text(name), &text(value)].concat();
    let properties = [property("other", "x"), property("traceparent", PARENT)].concat();
    peer.publish_properties(0x32, "devices/a/telemetry", b"1", 1, Some(&properties));
    assert_eq!(peer.packet().0, 0x40);
    wait(|| world.log.answered.lock().len() == 1);
    let span = world.log.answered.lock()[0].clone();
    assert_eq!(Some(span.context), TraceContext::from_traceparent(PARENT));
    let attribute = |name| span.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone());
    assert_eq!((attribute("mqtt.version"), attribute("mqtt.qos")), (Some(Value::Int(5)), Some(Value::Int(1))));
}
