//! Connections that end with the token that they were opened with.

use std::sync::atomic::Ordering;

use crate::devices::*;
use crate::world::*;

const TELEMETRY: &str = "devices/d1/telemetry";
const STATE: &str = "devices/d1/state";

#[test]
fn a_connection_ends_with_its_token_and_its_session_waits_for_the_next_one() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe(STATE, 0, true);
    for v5 in [true, false] {
        let lasting = Login { v5, clean: false, properties: LASTS, ..login("a/d1") };
        let brief = Login { password: BRIEF, will: Some((STATE, b"off")), ..lasting };
        let mut device = brief.enter(&world);
        device.subscribe("devices/d1/commands", 0, v5);
        device.ping();
        if v5 {
            let (first, body) = device.packet();
            assert_eq!((first, body[0]), (0xE0, 0x87));
            assert!(has(&body, "expired"), "{body:?}");
        }
        assert!(device.is_closed());
        assert!(observer.packet().1.ends_with(b"off"), "the will message is published");
        wait(|| world.ended("token_expired") == if v5 { 1 } else { 2 });
        let (mut device, body) = lasting.connack(&world);
        assert_eq!(body[..2], [1, 0], "the session was kept");
        observer.publish("devices/d1/commands", b"on", 1, 1, true);
        assert!(device.packet().1.ends_with(b"on"), "with its subscriptions");
        assert_eq!(observer.packet().0, 0x40);
        match v5 {
            true => device.send(0xE0, &[]),
            // With an answer that is not read, the socket would be reset and not closed.
            false => device.ping(),
        }
        drop(device);
        wait(|| world.ended("client") + world.ended("closed") >= if v5 { 1 } else { 2 });
    }
}

#[test]
fn a_device_that_never_pauses_is_closed_too_and_what_is_durable_by_then_is_acknowledged() {
    let devices = Devices::new();
    let world = devices.world(false);
    let mut device = Login { password: BRIEF, ..login("a/d1") }.enter(&world);
    device.publish(TELEMETRY, b"1", 1, 1, true);
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    // Durable, and the connection has not been woken.
    world.log.durable.store(1, Ordering::SeqCst);
    assert_eq!(device.packet(), (0x40, vec![0, 1]));
    let (first, body) = device.packet();
    assert_eq!((first, body[0]), (0xE0, 0x87));
    let mut busy = Login { password: BRIEF, ..login("a/d1") }.enter(&world);
    let mut sent = 0_u64;
    while world.ended("token_expired") == 1 {
        // QoS 0 is answered by nothing.
        busy.publish(TELEMETRY, b"2", 0, 0, true);
        sent += 1;
    }
    assert!(sent > 100, "{sent}");
}
