//! Credentials that end while a client is connected, connects, or has left; slow checks.

use std::sync::atomic::Ordering;

use weir_broker::Config;

use crate::devices::*;
use crate::world::*;

const TELEMETRY: &str = "devices/d1/telemetry";
const STATE: &str = "devices/d1/state";

/// Will messages that are kept for the next start.
fn kept_wills(world: &World) -> usize {
    let own = world.log.own.lock();
    let last =
        |topic: &str| own.iter().rfind(|(other, _)| other == topic).is_some_and(|(_, payload)| !payload.is_empty());
    let topics: std::collections::BTreeSet<_> = own.iter().map(|(topic, _)| topic).collect();
    topics.into_iter().filter(|topic| last(topic)).count()
}

#[test]
fn a_revoked_client_is_told_and_leaves_neither_will_nor_session() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 1, true);
    for v5 in [true, false] {
        let login = Login { v5, clean: false, properties: LASTS, will: Some((STATE, b"off")), ..login("a/d1") };
        let mut device = login.enter(&world);
        device.subscribe("devices/d1/#", 1, v5);
        wait(|| kept_wills(&world) == 1);
        let mut other = Login { id: "d1:other", ..login }.enter(&world);
        let mut neighbour = Login { id: "d2", user: Some("a/d2"), will: None, ..login }.enter(&world);
        devices.revoke("a/d1");
        for peer in [&mut device, &mut other] {
            if v5 {
                let (first, body) = peer.packet();
                assert_eq!((first, body[0]), (0xE0, 0x98));
                assert!(has(&body, "revoked"), "{body:?}");
            }
            assert!(peer.is_closed());
        }
        neighbour.ping();
        wait(|| world.ended("revoked") == if v5 { 2 } else { 5 });
        wait(|| kept_wills(&world) == 0);
        wait(|| world.metrics.sessions.get() == 2);
        observer.publish(TELEMETRY, b"1", 1, 1, true);
        assert_eq!(observer.packet().0, 0x40, "there was no will");
        assert!(observer.packet().1.starts_with(&text(TELEMETRY)));
        let (mut device, body) = Login { will: None, ..login }.connack(&world);
        assert_eq!(body[..2], [0, 0], "the new credential begins a session");
        assert!(device.is_silent());
        devices.revoke("a/d1");
        assert!(device.is_closed());
        wait(|| world.ended("revoked") == if v5 { 3 } else { 6 });
        drop(neighbour);
        wait(|| world.metrics.sessions.get() == 2);
    }
}

#[test]
fn messages_that_are_durable_by_then_are_acknowledged_and_later_ones_are_stored_all_the_same() {
    let devices = Devices::new();
    let world = devices.world(false);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 0, true);
    let mut device = login("a/d1").enter(&world);
    device.publish(TELEMETRY, b"1", 1, 1, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    // Durable, and the connection has not been woken.
    world.log.durable.store(1, Ordering::SeqCst);
    devices.revoke("a/d1");
    assert_eq!(device.packet(), (0x40, vec![0, 1]));
    assert_eq!(device.packet().1[0], 0x98);
    assert!(observer.packet().1.ends_with(b"1"));
    let mut device = login("a/d1").enter(&world);
    device.publish(TELEMETRY, b"2", 1, 2, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 2);
    devices.revoke("a/d1");
    let (first, body) = device.packet();
    assert_eq!((first, body[0]), (0xE0, 0x98), "it is not durable yet");
    assert!(observer.is_silent());
    world.log.release_to(2);
    assert!(observer.packet().1.ends_with(b"2"), "it was granted when it came");
}

#[test]
fn a_session_that_waits_for_its_client_ends_with_the_credential_and_its_will_is_not_published() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 0, true);
    let delay = &[0x18, 0, 0, 0, 100];
    let login = Login { clean: false, properties: LASTS, will: Some((STATE, b"off")), delay, ..login("a/d1") };
    let mut device = login.enter(&world);
    device.subscribe("devices/d1/#", 1, true);
    wait(|| kept_wills(&world) == 1);
    drop(device);
    wait(|| world.ended("closed") == 1);
    assert_eq!(world.metrics.sessions.get(), 2);
    devices.revoke("a/d1");
    wait(|| world.metrics.sessions.get() == 1 && kept_wills(&world) == 0);
    assert!(observer.is_silent());
    let (device, body) = login.connack(&world);
    assert_eq!(body[..2], [0, 0]);
    // The next connection comes before the session is removed, and the will message becomes due.
    wait(|| kept_wills(&world) == 1);
    drop(device);
    wait(|| world.ended("closed") == 2);
    devices.revoke("a/d1");
    let (_device, body) = Login { will: None, ..login }.connack(&world);
    assert_eq!(body[..2], [0, 0]);
    wait(|| kept_wills(&world) == 0);
    assert!(observer.is_silent());
}

#[test]
fn a_credential_that_ends_while_it_is_checked_opens_nothing() {
    let devices = Devices::new();
    let world = devices.world(true);
    for v5 in [true, false] {
        let mut peer = Login { v5, ..login("a/slow") }.send(&world);
        wait(|| devices.waiting.load(Ordering::SeqCst) == if v5 { 1 } else { 2 });
        devices.revoke("a/slow");
        devices.permits.add_permits(1);
        let (first, body) = peer.packet();
        assert_eq!((first, body[1]), (0x20, if v5 { 0x86 } else { 4 }));
        assert!(peer.is_closed());
    }
    assert!(world.log.senders.lock().is_empty());
    assert_eq!(world.metrics.sessions.get(), 0);
}

#[test]
fn a_credential_that_ends_between_admission_and_connection_ends_the_connection_at_once() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 0, true);
    let login = Login { clean: false, properties: LASTS, will: Some((STATE, b"off")), ..login("a/d1") };
    let mut before = login.enter(&world);
    wait(|| kept_wills(&world) == 1);
    *world.log.cancelled_at_open.lock() = Some(devices.credential("a/d1"));
    let (mut device, body) = login.connack(&world);
    assert_eq!(body[..2], [0, 0], "the session before ended with the credential");
    let (first, body) = device.packet();
    assert_eq!((first, body[0]), (0xE0, 0x98));
    assert!(before.is_closed());
    wait(|| world.ended("revoked") >= 1 && kept_wills(&world) == 0 && world.metrics.sessions.get() == 1);
    assert!(observer.is_silent(), "neither will is published");
}

#[test]
fn a_slow_check_delays_its_own_client_only_and_no_longer_than_a_connect() {
    let devices = Devices::new();
    let config = Config { connect_timeout_ms: 500, ..Config::default() };
    let world = World::guarded(Box::new(std::sync::Arc::clone(&devices)), true, config, Vec::new());
    let mut slow: Vec<Peer> = (0..20).map(|_| login("a/slow").send(&world)).collect();
    wait(|| devices.waiting.load(Ordering::SeqCst) == 20);
    let mut quick = login("a/d1").enter(&world);
    quick.publish(TELEMETRY, b"1", 1, 1, true);
    assert_eq!(quick.packet(), (0x40, vec![0, 1]));
    assert!(slow.iter_mut().all(Peer::is_closed));
    wait(|| world.ended("connect_timeout") == 20);
    let mut late = login("a/slow").send(&world);
    wait(|| devices.waiting.load(Ordering::SeqCst) == 21);
    devices.permits.add_permits(1);
    assert_eq!(late.packet().1[1], 0);
    late.ping();
}
