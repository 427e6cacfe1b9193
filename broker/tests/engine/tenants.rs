//! Two tenants with the same client ids, topics and device ids: nothing of theirs meets.

use std::sync::atomic::Ordering;

use weir_broker::{Config, RetainedMessage};

use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];

#[test]
fn one_client_id_in_two_tenants_is_two_clients() {
    let world = World::new(true);
    let mut a = world.of("a", "gateway", CLEAN, &[], None);
    let mut b = world.of("b", "gateway", CLEAN, &[], None);
    a.ping();
    b.ping();
    assert_eq!(world.metrics.sessions.get(), 2);
    let again = world.of("a", "gateway", CLEAN, &[], None);
    assert_eq!(a.packet().1[0], 0x8E, "taken over within the tenant");
    b.ping();
    drop(again);
    let senders = world.log.senders.lock().clone();
    let senders: Vec<_> = senders.iter().map(|(tenant, client)| (&**tenant, &**client)).collect();
    assert_eq!(senders, [("a", "gateway"), ("b", "gateway"), ("a", "gateway")]);
}

#[test]
fn messages_reach_subscribers_of_their_own_tenant_only() {
    let world = World::new(true);
    let mut subscribers = ["a", "b"].map(|tenant| world.of(tenant, "s", CLEAN, &[], None));
    for subscriber in &mut subscribers {
        subscriber.subscribe("#", 1, true);
    }
    for (tenant, payload) in [("a", &b"of a"[..]), ("b", b"of b")] {
        let mut device = world.of(tenant, "d1", CLEAN, &[], None);
        device.publish("devices/d1/telemetry", payload, 1, 1, true);
        device.publish("chat", payload, 1, 2, true);
        assert_eq!(device.packet(), (0x40, vec![0, 1]));
        assert_eq!(device.packet(), (0x40, vec![0, 2]), "it has a subscriber");
    }
    for (subscriber, payload) in subscribers.iter_mut().zip([b"of a", b"of b"]) {
        for topic in ["devices/d1/telemetry", "chat"] {
            let (_, body) = subscriber.packet();
            assert!(body.starts_with(&text(topic)) && body.ends_with(payload), "{body:?}");
        }
        assert!(subscriber.is_silent());
    }
}

#[test]
fn a_message_that_only_another_tenant_subscribes_to_has_no_matching_subscribers() {
    let world = World::new(true);
    let mut subscriber = world.of("a", "s", CLEAN, &[], None);
    subscriber.subscribe("chat", 1, true);
    let mut peer = world.of("b", "p", CLEAN, &[], None);
    peer.publish("chat", b"hello", 1, 1, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 1, 0x10]));
    assert!(subscriber.is_silent());
}

#[test]
fn retained_messages_are_the_tenants_own() {
    let message = |tenant: &str| RetainedMessage {
        tenant: tenant.into(),
        topic: "state/old".into(),
        payload: format!("of {tenant}").into_bytes(),
        qos: 1,
        properties: Vec::new(),
        published: 0,
    };
    let world = World::restored(true, Config::default(), vec![message("a"), message("b")]);
    for tenant in ["a", "b", "c"] {
        let mut peer = world.of(tenant, "p", CLEAN, &[], None);
        peer.publish_with(0x33, "state/new", format!("of {tenant}").as_bytes(), 1, true);
        assert_eq!(peer.packet(), (0x40, vec![0, 1]));
    }
    // Clearing one tenant's topic leaves the other's.
    let mut peer = world.of("b", "p", CLEAN, &[], None);
    peer.publish_with(0x33, "state/old", b"", 2, true);
    assert_eq!(peer.packet(), (0x40, vec![0, 2]));
    for (tenant, topics) in [("a", &["state/new", "state/old"][..]), ("b", &["state/new"]), ("c", &["state/new"])] {
        let mut subscriber = world.of(tenant, "s", CLEAN, &[], None);
        subscriber.subscribe("#", 1, true);
        for topic in topics {
            let (_, body) = subscriber.packet();
            assert!(body.starts_with(&text(topic)) && body.ends_with(format!("of {tenant}").as_bytes()), "{body:?}");
        }
        assert!(subscriber.is_silent());
    }
}

#[test]
fn a_shared_subscription_of_one_name_is_one_group_in_each_tenant() {
    let world = World::new(true);
    let mut members = ["a", "b"].map(|tenant| world.of(tenant, "worker", CLEAN, &[], None));
    for member in &mut members {
        member.subscribe("$share/workers/jobs/#", 1, true);
    }
    let mut peer = world.of("a", "p", CLEAN, &[], None);
    for id in 1..=4 {
        peer.publish("jobs/1", &[b'0' + id as u8], 1, id, true);
        assert_eq!(peer.packet().0, 0x40);
    }
    for id in 1..=4 {
        assert!(members[0].packet().1.ends_with(&[b'0' + id]), "the other tenant's member never has a turn");
    }
    assert!(members[1].is_silent());
}

#[test]
fn a_will_message_stays_in_its_tenant_and_only_a_client_of_that_tenant_cancels_it() {
    let world = World::new(true);
    let mut subscribers = ["a", "b"].map(|tenant| world.of(tenant, "s", CLEAN, &[], None));
    for subscriber in &mut subscribers {
        subscriber.subscribe("wills/#", 0, true);
    }
    // A delay of two seconds, and sessions that outlive it.
    let delay = [0x18, 0, 0, 0, 2];
    drop(world.of("a", "d1", CLEAN, LASTS, Some(("wills/d1", &delay))));
    drop(world.of("b", "d1", CLEAN, LASTS, Some(("wills/d1", &delay))));
    wait(|| world.ended("closed") == 2);
    let mut back = world.of("b", "d1", 0, LASTS, None);
    let (_, body) = subscribers[0].packet();
    assert!(body.starts_with(&text("wills/d1")) && body.ends_with(b"will of a"), "{body:?}");
    assert!(subscribers[1].is_silent());
    back.ping();
}

#[test]
fn a_waiting_session_continues_in_its_own_tenant_only() {
    let world = World::new(true);
    let mut subscriber = world.of("a", "s", CLEAN, LASTS, None);
    subscriber.subscribe("news", 1, true);
    drop(subscriber);
    wait(|| world.ended("closed") == 1);
    let mut stranger = world.of("b", "s", 0, LASTS, None);
    for (tenant, payload) in [("b", b"of b"), ("a", b"of a")] {
        let mut peer = world.of(tenant, "p", CLEAN, &[], None);
        peer.publish("news", payload, 1, 1, true);
        assert_eq!(peer.packet().0, 0x40);
    }
    assert!(stranger.is_silent());
    let mut owner = world.of("a", "s", 0, LASTS, None);
    let (first, body) = owner.packet();
    assert!(first == 0x32 && body.ends_with(b"of a"), "{body:?}");
    assert!(owner.is_silent());
}

#[test]
fn the_limit_on_retained_messages_counts_those_of_all_tenants() {
    let world = World::with(true, Config { max_retained_messages: 1, ..Config::default() });
    for (tenant, code) in [("a", None), ("b", Some(0x97))] {
        let mut peer = world.of(tenant, "p", CLEAN, &[], None);
        peer.publish_with(0x33, "state", b"on", 1, true);
        let (first, body) = peer.packet();
        assert_eq!((first, &body[..2], body.get(2).copied()), (0x40, &[0, 1][..], code));
    }
    assert_eq!(world.dropped("retained_full"), 1);
    assert_eq!(world.log.last.load(Ordering::SeqCst), 1, "one was stored");
}
