//! Clients that are not admitted, and topics that are not granted.

use crate::devices::*;
use crate::world::*;

/// Packets of one message: first byte, topic, payload.
fn publish(peer: &mut Peer, topic: &str, payload: &[u8], qos: u8, id: u16, v5: bool) {
    peer.publish_with(0x31 | qos << 1, topic, payload, id, v5);
}

#[test]
fn a_client_that_is_not_admitted_gets_the_code_of_the_reason_and_no_session() {
    let (devices, mut count) = (Devices::new(), 0);
    let world = devices.world(true);
    let d1 = login("a/d1");
    for (login, v4, v5, label, reason) in [
        (Login { user: None, ..d1 }, 4, 0x86, "bad_credentials", "not valid"),
        (Login { password: "wrong", ..d1 }, 4, 0x86, "bad_credentials", "not valid"),
        (Login { password: "", ..d1 }, 4, 0x86, "bad_credentials", "not valid"),
        (login("suspended"), 5, 0x87, "not_authorized", "suspended"),
        (login("busy"), 3, 0x97, "busy", "too many checks"),
        (login("down"), 3, 0x88, "unavailable", "cannot be checked"),
        (Login { id: "d2", ..d1 }, 2, 0x85, "client_id", "does not belong"),
        (Login { id: "d11", ..d1 }, 2, 0x85, "client_id", "does not belong"),
        (Login { id: "d1/x", ..d1 }, 2, 0x85, "client_id", "does not belong"),
        (Login { id: "+", ..d1 }, 2, 0x85, "client_id", "does not belong"),
        (Login { id: "#", ..d1 }, 2, 0x85, "client_id", "does not belong"),
        (login("a/+"), 5, 0x87, "not_authorized", "device id"),
        (login("a/#"), 5, 0x87, "not_authorized", "device id"),
        (login("a/d1/x"), 5, 0x87, "not_authorized", "device id"),
        (login("a/$SYS"), 5, 0x87, "not_authorized", "device id"),
    ] {
        let before = world.metrics.denied("connect", label).get();
        let (mut peer, body) = Login { v5: true, ..login }.connack(&world);
        assert_eq!(body[..2], [0, v5], "{:?}", login.user);
        assert!(has(&body, reason), "{}", String::from_utf8_lossy(&body));
        assert!(peer.is_closed());
        let (mut peer, body) = Login { v5: false, ..login }.connack(&world);
        assert_eq!(body, [0, v4], "{:?}", login.user);
        assert!(peer.is_closed());
        assert_eq!(world.metrics.denied("connect", label).get(), before + 2);
        count += 2;
    }
    let labels = ["bad_credentials", "not_authorized", "busy", "unavailable", "client_id"];
    wait(|| labels.iter().map(|label| world.ended(label)).sum::<u64>() == count);
    assert!(world.log.senders.lock().is_empty());
    assert_eq!(world.metrics.sessions.get(), 0);
}

#[test]
fn a_device_has_its_own_id_one_that_begins_with_it_or_one_that_is_assigned() {
    let world = Devices::new().world(true);
    let d1 = login("a/d1");
    for id in ["d1", "d1:app", "d1:+"] {
        Login { id, ..d1 }.enter(&world).ping();
    }
    let (_peer, body) = Login { id: "", ..d1 }.connack(&world);
    assert!(has(&body, "d1:weir-assigned-"), "{body:?}");
    let senders = world.log.senders.lock().clone();
    assert!(senders[3].1.starts_with("d1:weir-assigned-"), "{senders:?}");
}

#[test]
fn a_message_that_is_not_granted_is_answered_in_its_turn_and_leaves_nothing() {
    for qos in [1, 2] {
        let devices = Devices::new();
        let world = devices.world(false);
        let mut observer = observer(&devices, &world);
        observer.subscribe("#", 1, true);
        let mut device = login("a/d1").enter(&world);
        let denied = ["devices/d2/telemetry", "devices", "chat/d2", "$SYS/x", "$weir/wills//1-1", "devices/d1/other"];
        let mut id = 0;
        for topic in denied {
            let payload = if topic == "devices/d1/other" { OTHER_DEVICE } else { b"1" };
            publish(&mut device, "devices/d1/telemetry", b"2", qos, id + 1, true);
            publish(&mut device, topic, payload, qos, id + 2, true);
            id += 2;
        }
        publish(&mut device, "chat/d1", b"3", qos, id + 1, true);
        world.log.wait_taken(denied.len());
        assert!(device.is_silent(), "nothing is durable");
        world.log.release_to(u64::MAX);
        let first = if qos == 1 { 0x40 } else { 0x50 };
        for n in 1..=id + 1 {
            let (answer, body) = device.packet();
            assert_eq!((answer, &body[..2]), (first, &n.to_be_bytes()[..]));
            if n % 2 == 0 {
                assert_eq!(body[2], 0x87);
                assert!(has(&body, "not granted"), "{body:?}");
            } else {
                assert_eq!(body.len(), 2, "{body:?}");
            }
        }
        for _ in denied {
            assert!(observer.packet().1.starts_with(&text("devices/d1/telemetry")));
        }
        assert!(observer.packet().1.starts_with(&text("chat/d1")));
        assert!(observer.is_silent());
        let retained = world.log.retained.lock().clone();
        assert!(retained.iter().all(|topic| topic == "devices/d1/telemetry" || topic == "chat/d1"), "{retained:?}");
        let counts = ["topic", "server_topic", "device"].map(|reason| world.metrics.denied("publish", reason).get());
        assert_eq!(counts, [3, 2, 1]);
    }
}

#[test]
fn a_denied_message_at_qos_0_is_dropped_in_either_version() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 1, true);
    for v5 in [true, false] {
        let mut device = Login { v5, ..login("a/d1") }.enter(&world);
        for (topic, payload) in
            [("devices/d2/telemetry", &b"1"[..]), ("$SYS/x", b"1"), ("chat/d2", b"1"), ("devices/d1/x", OTHER_DEVICE)]
        {
            publish(&mut device, topic, payload, 0, 0, v5);
        }
        publish(&mut device, "devices/d1/telemetry", b"2", 0, 0, v5);
        device.ping();
        assert!(observer.packet().1.starts_with(&text("devices/d1/telemetry")));
    }
    assert!(observer.is_silent());
    assert_eq!(world.log.taken.lock().len(), 2);
    assert_eq!(*world.log.retained.lock(), ["devices/d1/telemetry"; 2]);
}

#[test]
fn a_client_of_3_1_1_that_publishes_what_is_not_granted_is_closed_and_its_packet_id_is_free() {
    let devices = Devices::new();
    let world = devices.world(true);
    let kept = Login { v5: false, clean: false, ..login("a/d1") };
    let mut count = 0;
    for qos in [1, 2] {
        for (topic, payload) in
            [("devices/d2/telemetry", &b"1"[..]), ("$SYS/x", b"1"), ("chat/d2", b"1"), ("devices/d1/x", OTHER_DEVICE)]
        {
            let mut device = kept.enter(&world);
            publish(&mut device, topic, payload, qos, 7, false);
            assert!(device.is_closed());
            count += 1;
            wait(|| world.ended("publish_denied") == count);
        }
        let mut device = kept.enter(&world);
        publish(&mut device, "devices/d1/telemetry", b"2", qos, 7, false);
        assert_eq!(device.packet(), (if qos == 1 { 0x40 } else { 0x50 }, vec![0, 7]));
    }
    assert_eq!(world.log.taken.lock().len(), 2);
}

#[test]
fn a_message_beyond_a_limit_is_answered_with_the_limit_and_at_3_1_1_by_the_end_of_the_connection() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 1, true);
    for qos in [1, 2] {
        let mut device = login("a/d1").enter(&world);
        publish(&mut device, "devices/d1/telemetry", NEW_SERIES, qos, 7, true);
        let (_, body) = device.packet();
        assert_eq!(body[..3], [0, 7, 0x97]);
        assert!(has(&body, "the limit series of the tenant is reached"), "{body:?}");
        publish(&mut device, "devices/d1/telemetry", b"2", qos, 7, true);
        assert_eq!(device.packet().1, [0, 7], "the packet id is free, and a known series goes on");
        drop(device);
        let mut device = Login { v5: false, ..login("a/d1") }.enter(&world);
        publish(&mut device, "devices/d1/telemetry", NEW_SERIES, qos, 7, false);
        assert!(device.is_closed());
        wait(|| world.ended("over_quota") == u64::from(qos));
        let mut device = Login { v5: false, ..login("a/d1") }.enter(&world);
        publish(&mut device, "devices/d1/telemetry", NEW_SERIES, 0, 0, false);
        device.ping();
    }
    assert_eq!(world.metrics.limited("series").get(), 6);
    assert_eq!(world.log.taken.lock().len(), 2);
    assert_eq!(*world.log.retained.lock(), ["devices/d1/telemetry"; 2], "nothing of it is retained");
    for _ in 0..2 {
        assert!(observer.packet().1.starts_with(&text("devices/d1/telemetry")));
    }
    assert!(observer.is_silent());
}

#[test]
fn a_packet_id_of_qos_2_is_free_after_a_denial() {
    let world = Devices::new().world(true);
    let mut device = login("a/d1").enter(&world);
    publish(&mut device, "chat/d2", b"1", 2, 7, true);
    assert_eq!(device.packet().1[..3], [0, 7, 0x87]);
    publish(&mut device, "devices/d1/telemetry", b"1", 2, 7, true);
    assert_eq!(device.packet(), (0x50, vec![0, 7]));
    assert_eq!(world.log.taken.lock().len(), 1);
}

#[test]
fn no_client_publishes_to_topics_of_the_server_without_authentication_either() {
    let world = World::with(true, weir_broker::Config { sys_interval_secs: 0, ..Default::default() });
    let mut subscriber = world.v5("s", CLEAN, &[]);
    assert_eq!(subscriber.subscribe("$SYS/#", 1, true), [0, 9, 0, 1]);
    let mut client = world.v5("c", CLEAN, &[]);
    for (qos, first) in [(1, 0x40), (2, 0x50)] {
        publish(&mut client, "$SYS/broker/version", b"1", qos, 5, true);
        let (answer, body) = client.packet();
        assert_eq!((answer, &body[..3]), (first, &[0, 5, 0x87][..]));
    }
    publish(&mut client, "$SYS/broker/version", b"1", 0, 0, true);
    client.ping();
    let mut old = world.v4("old", CLEAN);
    publish(&mut old, "$SYS/broker/version", b"1", 1, 5, false);
    assert!(old.is_closed());
    for v5 in [true, false] {
        let will = Some(("$SYS/broker/version", &b"1"[..]));
        let (_, body) = Login { v5, user: None, will, ..login("w") }.connack(&world);
        assert_eq!(body[1], if v5 { 0x87 } else { 5 });
    }
    assert!(subscriber.is_silent());
    assert_eq!(world.metrics.denied("publish", "server_topic").get(), 4);
}

#[test]
fn filters_are_granted_one_by_one_and_every_one_may_be_given_up() {
    let devices = Devices::new();
    let world = devices.world(true);
    let filters = [
        ("devices/d1/#", true),
        ("devices/d1/+/x", true),
        ("$share/g/devices/d1/#", true),
        ("chat/d1", true),
        ("#", false),
        ("+/d1", false),
        ("devices/#", false),
        ("devices/+/telemetry", false),
        ("devices/d2/telemetry", false),
        ("$share/g/#", false),
        ("$share/g/devices/+/#", false),
        ("$SYS/#", false),
        ("$share/g/$SYS/#", false),
    ];
    for v5 in [true, false] {
        let mut device = Login { v5, ..login("a/d1") }.enter(&world);
        let mut body = vec![0, 9];
        let mut names = vec![0, 10];
        if v5 {
            body.push(0);
            names.push(0);
        }
        for (filter, _) in filters {
            body.extend_from_slice(&text(filter));
            body.push(1);
            names.extend_from_slice(&text(filter));
        }
        device.send(0x82, &body);
        let (first, answer) = device.packet();
        let wanted: Vec<u8> = filters.map(|(_, granted)| if granted { 1 } else { 0x80 + 7 * u8::from(v5) }).to_vec();
        assert_eq!((first, &answer[if v5 { 3 } else { 2 }..]), (0x90, &wanted[..]));
        device.send(0xA2, &names);
        let (first, answer) = device.packet();
        assert_eq!(first, 0xB0);
        if v5 {
            assert_eq!(answer[3..], filters.map(|(_, granted)| if granted { 0 } else { 0x11 }));
        }
    }
    assert_eq!(world.metrics.denied("subscribe", "filter").get(), 2 * 9);
    let mut observer = observer(&devices, &world);
    publish(&mut observer, "devices/d2/telemetry", b"1", 1, 1, true);
    assert_eq!(observer.packet(), (0x40, vec![0, 1]));
}

#[test]
fn a_will_message_that_is_not_granted_refuses_the_connection() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe("#", 1, true);
    for topic in ["devices/d2/state", "chat/d2", "$SYS/x"] {
        for v5 in [true, false] {
            let (mut peer, body) = Login { v5, will: Some((topic, b"off")), ..login("a/d1") }.connack(&world);
            assert_eq!(body[1], if v5 { 0x87 } else { 5 });
            assert!(!v5 || has(&body, topic), "{body:?}");
            assert!(peer.is_closed());
        }
    }
    wait(|| world.ended("will_topic") == 6);
    assert_eq!(world.metrics.denied("connect", "will_topic").get(), 6);
    drop(Login { will: Some(("chat/d1", b"off")), ..login("a/d1") }.enter(&world));
    assert!(observer.packet().1.starts_with(&text("chat/d1")));
    // A will message with a reading of another device is dropped when it is due.
    drop(Login { will: Some(("devices/d1/state", OTHER_DEVICE)), ..login("a/d1") }.enter(&world));
    wait(|| world.metrics.denied("publish", "device").get() == 1);
    wait(|| world.log.own.lock().iter().filter(|(_, payload)| payload.is_empty()).count() == 2);
    assert!(observer.is_silent());
}

#[test]
fn a_session_is_taken_over_by_its_own_tenant_only() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut a = Login { properties: LASTS, ..login("a/d1") }.enter(&world);
    a.subscribe("devices/d1/#", 1, true);
    let (mut b, body) = Login { clean: false, ..login("b/d1") }.connack(&world);
    assert_eq!(body[0], 0, "another tenant has no session of this id");
    devices.grant("b/observer", &["#"], &["#"]);
    let mut other = login("b/observer").enter(&world);
    publish(&mut other, "devices/d1/cmd", b"1", 1, 1, true);
    assert_eq!(other.packet().0, 0x40);
    assert!(a.is_silent() && b.is_silent());
    let (_again, body) = Login { clean: false, properties: LASTS, ..login("a/d1") }.connack(&world);
    assert_eq!(body[0], 1);
    assert_eq!(a.packet().1[0], 0x8E);
    b.ping();
}

#[test]
fn a_session_keeps_only_what_is_granted_to_the_client_that_continues_it() {
    let devices = Devices::new();
    let world = devices.world(true);
    let own = "devices/{device}/#";
    devices.grant("a/d1", &[own], &[own, "news/+"]);
    let mut observer = observer(&devices, &world);
    let mut send = |topic: &str| {
        observer.publish(topic, b"1", 1, 3, true);
        observer.packet().1
    };
    let kept = Login { properties: LASTS, clean: false, ..login("a/d1") };
    let mut device = kept.enter(&world);
    for filter in ["news/+", "devices/d1/#"] {
        device.subscribe(filter, 1, true);
    }
    assert_eq!(send("news/1"), [0, 3]);
    assert!(device.packet().1.starts_with(&text("news/1")), "it is not acknowledged");
    drop(device);
    wait(|| world.ended("closed") == 1);
    for topic in ["news/2", "devices/d1/cmd", "news/3"] {
        assert_eq!(send(topic), [0, 3]);
    }
    devices.grant("a/d1", &[own], &[own]);
    let (mut device, body) = kept.connack(&world);
    assert_eq!(body[0], 1, "the session continues");
    assert!(device.packet().1.starts_with(&text("devices/d1/cmd")));
    assert!(device.is_silent());
    assert_eq!(world.dropped("not_granted"), 3);
    assert_eq!(send("news/4"), [0, 3, 0x10], "no subscription is left");
    drop(device);
    wait(|| world.ended("closed") == 2);
    devices.grant("a/d1", &[own], &["#"]);
    let mut device = kept.enter(&world);
    assert_eq!(send("news/5"), [0, 3, 0x10], "nor comes back");
    assert!(device.packet().1.starts_with(&text("devices/d1/cmd")), "it was not acknowledged either");
}
