//! The operator's view: sessions, subscriptions and retained messages, and what is done about them.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::glob::Glob;
use weir_broker::{Config, Page, RetainedMessage, SessionQuery, SessionReport, SubscriptionQuery, SubscriptionReport};

use crate::devices::{Devices, Login, login};
use crate::world::*;

/// Session expiry of 100 s.
const LASTS: &[u8] = &[0x11, 0, 0, 0, 100];
const TENANT: &str = "default";

fn all(world: &World, pattern: &str, connected: Option<bool>) -> Vec<SessionReport> {
    let clients = Glob::new(pattern);
    let query = SessionQuery { clients: &clients, connected, from: Bound::Unbounded };
    let page = world.broker.sessions(TENANT, &query, 1_000);
    assert_eq!(page.next, None);
    page.items
}

fn ids(sessions: &[SessionReport]) -> Vec<&str> {
    sessions.iter().map(|session| &*session.client).collect()
}

fn subscriptions(world: &World, clients: &str, filters: &str, topic: Option<&str>) -> Vec<SubscriptionReport> {
    let (clients, filters) = (Glob::new(clients), Glob::new(filters));
    let query = SubscriptionQuery { clients: &clients, filters: &filters, topic, from: Bound::Unbounded };
    let Page { items, next } = world.broker.subscriptions(TENANT, &query, 1_000);
    assert_eq!(next, None);
    items
}

fn named(found: &[SubscriptionReport]) -> Vec<(&str, &str)> {
    found.iter().map(|of| (&*of.client, &*of.filter)).collect()
}

/// Topics that match, page by page.
fn topics(world: &World, filter: &str, size: usize) -> Vec<String> {
    let (mut topics, mut after) = (Vec::new(), None);
    loop {
        let page = world.broker.retained(TENANT, filter, after.as_deref(), size);
        assert!(page.items.len() <= size);
        topics.extend(page.items.into_iter().map(|message| message.topic));
        after = page.next;
        if after.is_none() {
            return topics;
        }
    }
}

fn session(world: &World, client: &str) -> SessionReport {
    world.broker.session(TENANT, client).unwrap()
}

#[test]
fn a_session_shows_its_connection_and_what_it_holds() {
    let world = World::new(true);
    let before = model::clock::now();
    let mut peer = world.client();
    peer.connect(5, "a", 0, 30, &[0x11, 0, 0, 1, 0, 0x21, 0, 2]);
    assert_eq!(peer.packet().0, 0x20);
    peer.subscribe("n/#", 1, true);
    let mut old = world.v4("b", CLEAN);
    old.subscribe("m", 0, false);
    for n in 1..=3 {
        old.publish("n/1", b"twelve bytes", 1, n, false);
        assert_eq!(old.packet().0, 0x40);
    }
    let found = session(&world, "a");
    let connection = found.connection.clone().unwrap();
    assert!(found.connected && (before..=model::clock::now()).contains(&connection.since));
    assert_eq!((found.expiry_secs, found.subscriptions, found.left, found.expires_in), (256, 1, None, None));
    assert_eq!(connection.peer, peer.0.local_addr().unwrap());
    assert_eq!((&*connection.listener, connection.protocol_version), ("mqtt", "5.0"));
    assert_eq!((connection.keep_alive_secs, connection.clean_start, connection.device.clone()), (30, false, None));
    // Two are in flight, as the client wants no more.
    wait(|| (session(&world, "a").in_flight, session(&world, "a").queued_messages) == (2, 1));
    assert_eq!(session(&world, "a").queued_bytes, 15);
    let connection = session(&world, "b").connection.unwrap();
    assert_eq!((connection.protocol_version, connection.keep_alive_secs, connection.clean_start), ("3.1.1", 0, true));
    // A message of QoS 2 that is not released.
    old.publish("q", b"x", 2, 9, false);
    assert_eq!(old.packet().0, 0x50);
    assert_eq!(session(&world, "b").receipts, 1);
    drop(peer);
    wait(|| !session(&world, "a").connected);
    let found = session(&world, "a");
    assert!((before..=model::clock::now()).contains(&found.left.unwrap()), "{found:?}");
    let left = found.expires_in.unwrap();
    assert!(left <= Duration::from_secs(256) && left > Duration::from_secs(200), "{left:?}");
    assert_eq!(found.connection.unwrap().protocol_version, "5.0", "that of the last connection");
    drop(old);
    wait(|| world.broker.session(TENANT, "b").is_none());
    assert_eq!(world.broker.session("other", "a"), None);
}

#[test]
fn sessions_are_listed_by_pattern_and_state_in_pages() {
    let world = World::new(true);
    let mut peers = Vec::new();
    for n in 0..700 {
        let peer = world.v5(&format!("pump-{n:03}"), 0, LASTS);
        if n % 2 == 0 {
            peers.push(peer);
        }
    }
    let _others = (world.v5("a", CLEAN, &[]), world.v5("pumq", CLEAN, &[]), world.v5("z", CLEAN, &[]));
    wait(|| all(&world, "*", Some(true)).len() == 353);
    assert_eq!((all(&world, "pump-*", Some(true)).len(), all(&world, "pump-*", Some(false)).len()), (350, 350));
    assert_eq!(ids(&all(&world, "pump-*9", Some(false)))[..3], ["pump-009", "pump-019", "pump-029"]);
    assert_eq!((ids(&all(&world, "z", None)), ids(&all(&world, "x*", None))), (vec!["z"], vec![]));
    for size in [1, 7, 700, 1_000] {
        let clients = Glob::new("*");
        let (mut found, mut after): (Vec<SessionReport>, Option<String>) = (Vec::new(), None);
        loop {
            let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = world.broker.sessions(TENANT, &SessionQuery { clients: &clients, connected: None, from }, size);
            assert!(page.items.len() <= size);
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), 703);
        assert!(found.is_sorted_by(|a, b| a.client < b.client), "in order, each once");
    }
}

#[test]
fn a_client_that_is_disconnected_learns_why_and_keeps_its_session() {
    let world = World::new(true);
    let mut watcher = world.v5("watcher", CLEAN, &[]);
    watcher.subscribe("wills/#", 0, true);
    let mut peer = world.with_will("a", true, LASTS, &[], false);
    peer.subscribe("n", 1, true);
    let outcome = world.wait_for(world.broker.disconnect(TENANT, "a", false)).unwrap();
    assert_eq!((outcome.was_connected, outcome.discarded), (true, 0));
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x98));
    assert!(String::from_utf8_lossy(&body).contains("an operator has closed the connection"), "{body:?}");
    assert!(peer.is_closed());
    assert!(watcher.packet().1.ends_with(b"gone"), "its will message is published");
    assert_eq!((session(&world, "a").connected, session(&world, "a").subscriptions), (false, 1));
    assert_eq!(world.ended("kicked"), 1);
    // MQTT 3.1.1 has no DISCONNECT of the server.
    let mut old = world.v4("old", CLEAN);
    assert!(world.wait_for(world.broker.disconnect(TENANT, "old", false)).is_some());
    assert!(old.is_closed());
    assert_eq!(world.broker.session(TENANT, "old"), None);
    for (client, ends) in [("a", false), ("missing", false), ("missing", true)] {
        assert_eq!(world.wait_for(world.broker.disconnect(TENANT, client, ends)), None, "{client}");
    }
    assert_eq!(world.wait_for(world.broker.disconnect("other", "a", true)), None);
}

#[test]
fn a_session_that_is_ended_is_gone_with_what_waited() {
    let world = World::new(true);
    let mut publisher = world.v4("p", CLEAN);
    for is_away in [true, false] {
        // It accepts one message in flight, and acknowledges none.
        let mut peer = world.v5("a", CLEAN, &[0x11, 0, 0, 0, 100, 0x21, 0, 1]);
        peer.subscribe("n", 1, true);
        if is_away {
            drop(peer);
            wait(|| !session(&world, "a").connected);
        }
        for n in 1..=3 {
            publisher.publish("n", b"x", 1, n, false);
            assert_eq!(publisher.packet().0, 0x40);
        }
        wait(|| session(&world, "a").queued_messages + session(&world, "a").in_flight == 3);
        let outcome = world.wait_for(world.broker.disconnect(TENANT, "a", true)).unwrap();
        assert_eq!((outcome.was_connected, outcome.discarded), (!is_away, 3));
        assert_eq!(world.broker.session(TENANT, "a"), None);
        assert_eq!(subscriptions(&world, "*", "*", None), []);
        let mut again = world.client();
        again.connect(5, "a", 0, 0, LASTS);
        assert_eq!(again.packet().1[0], 0, "no session is present");
        again.ping();
        assert!(world.wait_for(world.broker.disconnect(TENANT, "a", true)).is_some());
        wait(|| world.metrics.sessions.get() == 1);
    }
}

#[test]
fn a_session_of_an_earlier_start_is_listed_and_one_that_was_ended_does_not_come_back() {
    let world = World::new(true);
    let mut peer = world.v5("a", 0, LASTS);
    peer.subscribe("n", 1, true);
    drop(world.v5("b", 0, LASTS));
    wait(|| !session(&world, "b").connected);
    let next = world.again();
    assert_eq!(ids(&all(&next, "*", Some(false))), ["a", "b"]);
    let found = session(&next, "a");
    assert_eq!((found.subscriptions, found.connection, found.expiry_secs), (1, None, 100));
    for client in ["a", "b"] {
        assert!(next.wait_for(next.broker.disconnect(TENANT, client, true)).is_some(), "{client}");
    }
    wait(|| next.log.state().iter().all(|record| !record.topic.starts_with("$weir/")));
    assert_eq!(all(&next.again(), "*", None), []);
}

#[test]
fn subscriptions_are_listed_with_their_options_and_by_topic() {
    let world = World::new(true);
    let mut a = world.v5("a", CLEAN, &[]);
    a.subscribe_with_id("n/+", 0x1E, 7);
    a.subscribe("#", 0, true);
    a.subscribe("$share/g/n/#", 0x22, true);
    let mut b = world.v4("b", CLEAN);
    b.subscribe("m", 1, false);
    b.subscribe("n/1", 2, false);
    let found = subscriptions(&world, "*", "*", None);
    let pairs = [("a", "#"), ("a", "$share/g/n/#"), ("a", "n/+"), ("b", "m"), ("b", "n/1")];
    assert_eq!(named(&found), pairs);
    let first = &found[2];
    assert_eq!((first.qos, first.id, first.retain_handling), (2, Some(7), 1));
    assert!(first.no_local && first.retain_as_published && first.connected);
    assert_eq!((found[1].qos, found[1].retain_handling, found[1].no_local), (2, 2, false));
    let of_topic = |topic| named(&subscriptions(&world, "*", "*", Some(topic))).len();
    assert_eq!((of_topic("n/1"), of_topic("n"), of_topic("m"), of_topic("$SYS/x")), (4, 2, 2, 0));
    assert_eq!(named(&subscriptions(&world, "b", "n*", None)), [("b", "n/1")]);
    assert_eq!(named(&subscriptions(&world, "*", "$share/*", None)), [("a", "$share/g/n/#")]);
    for size in 1..=6 {
        let any = Glob::new("*");
        let (mut all, mut after): (Vec<_>, Option<(String, String)>) = (Vec::new(), None);
        loop {
            let from = after.as_ref().map_or(Bound::Unbounded, |(client, of)| Bound::Excluded((&**client, &**of)));
            let query = SubscriptionQuery { clients: &any, filters: &any, topic: None, from };
            let page = world.broker.subscriptions(TENANT, &query, size);
            all.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(named(&all), pairs, "pages of {size}");
    }
}

#[test]
fn a_session_shows_its_device() {
    let world = Devices::new().world(true);
    let peer = Login { clean: false, properties: LASTS, ..login("acme/d1") }.send(&world);
    let clients = Glob::new("*");
    let query = SessionQuery { clients: &clients, connected: None, from: Bound::Unbounded };
    let found = || world.broker.sessions("acme", &query, 10).items;
    wait(|| found().first().is_some_and(|found| found.connection.is_some()));
    assert_eq!(found()[0].device().map(|id| &**id), Some("d1"));
    assert_eq!(all(&world, "*", None), [], "each tenant has its own");
    drop(peer);
    wait(|| found().first().is_some_and(|found| !found.connected));
    assert_eq!(found()[0].device().map(|id| &**id), Some("d1"), "also while it is away");
}

#[test]
fn retained_messages_are_listed_and_shown_with_their_properties() {
    let published = model::clock::now() - 50_000_000_000;
    let restored = RetainedMessage {
        tenant: TENANT.into(),
        topic: "old".into(),
        payload: b"12345".to_vec(),
        qos: 2,
        properties: vec![0x02, 0, 0, 0, 100],
        published,
    };
    let world = World::restored(true, Config::default(), vec![restored]);
    let mut peer = world.v5("p", CLEAN, &[]);
    let before = model::clock::now();
    for n in 0..20 {
        peer.publish_with(0x31, &format!("t/{n:02}"), b"on", 0, true);
    }
    let mut own = vec![0x03];
    own.extend_from_slice(&text("text/plain"));
    for (name, value) in [("k", "1"), ("k", "2")] {
        own.push(0x26);
        own.extend_from_slice(&text(name));
        own.extend_from_slice(&text(value));
    }
    peer.publish_properties(0x31, "u", b"\xFF\x00", 0, Some(&own));
    peer.ping();
    wait(|| topics(&world, "#", 100).len() == 22);
    for size in [1, 3, 22, 100] {
        let found = topics(&world, "#", size);
        assert_eq!((found.len(), &*found[0], &*found[21]), (22, "old", "u"));
        assert!(found.is_sorted());
    }
    assert_eq!(topics(&world, "t/+", 7).len(), 20);
    assert_eq!((topics(&world, "t/03", 7), topics(&world, "x/#", 7)), (vec!["t/03".to_owned()], vec![]));
    let old = world.broker.retained_message(TENANT, "old").unwrap();
    assert_eq!((&*old.payload, old.report.qos, old.report.published), (&b"12345"[..], 2, published));
    let left = old.report.expires_in.unwrap();
    assert!(left <= Duration::from_secs(50) && left > Duration::from_secs(30), "{left:?}");
    let found = world.broker.retained_message(TENANT, "u").unwrap();
    assert_eq!((found.report.content_type.as_deref(), found.report.payload_bytes), (Some("text/plain"), 2));
    assert_eq!(found.user_properties, [("k".into(), "1".into()), ("k".into(), "2".into())]);
    assert!((before..=model::clock::now()).contains(&found.report.published) && found.report.expires_in.is_none());
    assert_eq!(world.broker.retained_message(TENANT, "nothing"), None);
    assert_eq!(world.broker.retained_message("other", "u"), None);
}

#[test]
fn retained_messages_are_cleared_in_the_log_first_and_subscribers_get_the_empty_message() {
    let world = World::new(false);
    let tenant: Arc<str> = TENANT.into();
    world.log.instant.store(true, Ordering::SeqCst);
    let mut peer = world.v5("p", CLEAN, &[]);
    for n in 0..600 {
        peer.publish_with(0x31, &format!("t/{n:03}"), b"on", 0, true);
    }
    peer.publish_with(0x31, "other", b"on", 0, true);
    peer.ping();
    wait(|| topics(&world, "#", 1_000).len() == 601);
    world.log.retained.lock().clear();
    // Retained as published.
    peer.subscribe("t/000", 0x28, true);
    world.log.instant.store(false, Ordering::SeqCst);
    let clearing = {
        let (broker, tenant) = (Arc::clone(&world.broker), Arc::clone(&tenant));
        world.spawn(async move { broker.clear_retained(&tenant, "t/+", None, 300).await })
    };
    wait(|| world.log.retained.lock().len() == 256);
    assert_eq!(topics(&world, "#", 1_000).len(), 601, "it is not durable yet");
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(u64::MAX);
    let cleared = world.wait_for(clearing).unwrap().unwrap();
    assert_eq!((cleared.topics, cleared.next.as_deref()), (512, Some("t/511")));
    let (first, body) = peer.packet();
    assert_eq!((first, &*body), (0x31, &[&text("t/000")[..], &[0]].concat()[..]));
    let cleared = world.wait_for(world.broker.clear_retained(&tenant, "t/+", cleared.next.as_deref(), 300)).unwrap();
    assert_eq!((cleared.topics, cleared.next), (88, None));
    assert_eq!(topics(&world, "#", 1_000), ["other"]);
    assert_eq!(world.log.retained.lock().len(), 600);
    // A log that has failed clears nothing.
    world.log.failed.store(true, Ordering::SeqCst);
    let failed = world.wait_for(world.broker.clear_retained(&tenant, "#", None, 300));
    assert!(failed.unwrap_err().to_string().contains("fsync failed"));
    assert_eq!(topics(&world, "#", 1_000), ["other"]);
}
