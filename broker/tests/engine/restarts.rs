//! Sessions after the process was killed.

use std::sync::atomic::Ordering;

use weir_broker::Config;

use crate::exactly_once::{self, send_ack as acknowledge};
use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];
/// The same, and a will delay of 100 s.
const DELAYED: &[u8] = &[0x18, 0, 0, 0, 100];

/// A client whose session lasts; true when it was there.
fn lasting(world: &World, id: &str, v5: bool) -> (Peer, bool) {
    let mut peer = world.client();
    peer.connect(if v5 { 5 } else { 4 }, id, 0, 0, LASTS);
    let (first, body) = peer.packet();
    assert_eq!((first, body[1]), (0x20, 0));
    (peer, body[0] == 1)
}

/// A subscriber to `n` whose session lasts.
fn subscriber(world: &World, id: &str, qos: u8, v5: bool) -> Peer {
    let (mut peer, present) = lasting(world, id, v5);
    assert!(!present);
    assert_eq!(peer.subscribe("n", qos, v5).last(), Some(&qos));
    peer
}

/// The next connection of a client whose session was there.
fn back(world: &World, id: &str, v5: bool) -> Peer {
    let (peer, present) = lasting(world, id, v5);
    assert!(present, "session present");
    peer
}

/// Publishes to `n` at QoS 1.
fn publish(world: &World, payloads: &[&str]) {
    let mut peer = world.v4("publisher", CLEAN);
    for (id, payload) in (1..).zip(payloads) {
        peer.publish("n", payload.as_bytes(), 1, id, false);
        assert_eq!(peer.packet(), (0x40, id.to_be_bytes().to_vec()));
    }
}

/// Publishes to `n` at QoS 2.
fn publish_once(world: &World, payload: &str) {
    exactly_once::publish(&mut world.v4("publisher", CLEAN), "n", payload.as_bytes(), 1);
}

/// Reads a PUBLISH to `n`: its first byte, packet id and payload as text.
fn message(peer: &mut Peer, v5: bool) -> (u8, u16, String) {
    let (first, id, payload) = exactly_once::message(peer, v5);
    (first, id, String::from_utf8_lossy(&payload).into_owned())
}

/// Topics of the records of sessions that are durable.
fn records(world: &World) -> Vec<String> {
    let own = |topic: &String| topic.starts_with("$weir/") && !topic.starts_with("$weir/wills/");
    world.log.state().into_iter().map(|record| record.topic).filter(own).collect()
}

#[test]
fn subscriptions_and_messages_that_wait_are_there_after_a_kill() {
    for v5 in [false, true] {
        let world = World::new(true);
        drop(subscriber(&world, "s", 1, v5));
        publish(&world, &["1", "2", "3"]);
        let next = world.again();
        let mut s = back(&next, "s", v5);
        for payload in ["1", "2", "3"] {
            let (first, id, got) = message(&mut s, v5);
            // That they were not sent is not known after a kill.
            assert_eq!((first, &*got), (0x3A, payload));
            acknowledge(&mut s, 0x40, id);
        }
        publish(&next, &["4"]);
        let (_, id, got) = message(&mut s, v5);
        assert_eq!(got, "4", "the subscription is there");
        acknowledge(&mut s, 0x40, id);
        s.ping();
        wait(|| records(&next).len() == 3);
        let last = next.again();
        assert!(back(&last, "s", v5).is_silent(), "it has all of them");
    }
}

#[test]
fn messages_that_were_sent_come_again_first_and_under_their_packet_ids() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut s = subscriber(&world, "s", 1, v5);
        publish(&world, &["1", "2", "3"]);
        let ids: Vec<u16> = (0..3).map(|_| message(&mut s, v5).1).collect();
        acknowledge(&mut s, 0x40, ids[1]);
        s.ping();
        // What was sent and acknowledged is stored a moment later.
        wait(|| {
            world.log.state().iter().any(|record| record.payload == br#"{"done_to":0,"done":[[2,2]],"sent_to":3}"#)
        });
        drop(s);
        publish(&world, &["4"]);
        let world = world.again();
        let mut s = back(&world, "s", v5);
        let all: Vec<_> = (0..3).map(|_| message(&mut s, v5)).collect();
        let wanted = [(0x3A, ids[0], "1"), (0x3A, ids[2], "3"), (0x3A, ids[2] + 1, "4")];
        assert_eq!(all, wanted.map(|(first, id, payload)| (first, id, payload.to_owned())));
    }
}

#[test]
fn a_message_at_qos_2_reaches_a_subscriber_once_whenever_the_server_is_killed() {
    for v5 in [false, true] {
        let world = World::new(true);
        let mut s = subscriber(&world, "s", 2, v5);
        publish_once(&world, "x");
        let (_, id, _) = message(&mut s, v5);
        // It has the message, and the server does not know it.
        let world = world.again();
        let mut s = back(&world, "s", v5);
        let (_, again, payload) = message(&mut s, v5);
        assert_eq!((again, &*payload), (id, "x"), "under its packet id");
        acknowledge(&mut s, 0x50, id);
        assert_eq!(s.packet(), (0x62, id.to_be_bytes().to_vec()));
        // It has released the message, and the server has not heard of it.
        let world = world.again();
        let mut s = back(&world, "s", v5);
        assert_eq!(s.packet(), (0x62, id.to_be_bytes().to_vec()), "and not the message");
        acknowledge(&mut s, 0x70, id);
        s.ping();
        wait(|| records(&world).iter().all(|topic| !topic.starts_with("$weir/messages/")));
        let world = world.again();
        assert!(back(&world, "s", v5).is_silent());
    }
}

#[test]
fn a_message_at_qos_2_does_not_come_again_right_after_its_exchange() {
    let world = World::new(true);
    let mut s = subscriber(&world, "s", 2, true);
    publish_once(&world, "x");
    publish_once(&world, "y");
    let ids = [message(&mut s, true).1, message(&mut s, true).1];
    acknowledge(&mut s, 0x50, ids[0]);
    assert_eq!(s.packet(), (0x62, ids[0].to_be_bytes().to_vec()));
    acknowledge(&mut s, 0x70, ids[0]);
    // Nothing of the first is among what is released from now on.
    acknowledge(&mut s, 0x50, ids[1]);
    assert_eq!(s.packet(), (0x62, ids[1].to_be_bytes().to_vec()));
    let world = world.again();
    let mut s = back(&world, "s", true);
    assert_eq!(s.packet(), (0x62, ids[1].to_be_bytes().to_vec()), "and neither message");
    assert!(s.is_silent());
}

#[test]
fn answers_wait_until_what_they_promise_is_durable() {
    let world = World::new(false);
    let durable_after = |what: &str, peer: &mut Peer| {
        assert!(peer.is_silent(), "{what} waits");
        world.log.release_to(world.log.last.load(Ordering::SeqCst));
    };
    let (mut s, _) = lasting(&world, "s", true);
    s.send(0x82, &[&[0, 9, 0][..], &text("n"), &[2]].concat());
    durable_after("SUBACK", &mut s);
    assert_eq!(s.packet().0, 0x90);
    let mut p = world.v4("p", CLEAN);
    p.publish("n", b"x", 2, 7, false);
    durable_after("PUBREC", &mut p);
    assert_eq!(p.packet(), (0x50, vec![0, 7]));
    let (_, id, _) = message(&mut s, true);
    acknowledge(&mut s, 0x50, id);
    durable_after("PUBREL", &mut s);
    assert_eq!(s.packet().0, 0x62);
    s.send(0xA2, &[&[0, 9, 0][..], &text("n")].concat());
    durable_after("UNSUBACK", &mut s);
    assert_eq!(s.packet().0, 0xB0);
    p.publish("n", b"x", 1, 8, false);
    assert_eq!(p.packet(), (0x40, vec![0, 8]), "no session that lasts gets it");
}

#[test]
fn a_message_from_a_session_that_lasts_is_taken_once() {
    let world = World::new(true);
    drop(subscriber(&world, "s", 2, false));
    let (mut p, _) = lasting(&world, "p", false);
    p.publish("n", b"1", 2, 5, false);
    assert_eq!(p.packet().0, 0x50);
    let world = world.again();
    let mut p = back(&world, "p", false);
    p.publish_with(0x3C, "n", b"1", 5, false);
    assert_eq!(p.packet(), (0x50, vec![0, 5]));
    p.send(0x62, &[0, 5]);
    assert_eq!(p.packet(), (0x70, vec![0, 5]));
    // Another message under the packet id.
    let world = world.again();
    let mut p = back(&world, "p", false);
    p.publish("n", b"2", 2, 5, false);
    assert_eq!(p.packet().0, 0x50);
    let mut s = back(&world, "s", false);
    assert_eq!([message(&mut s, false).2, message(&mut s, false).2], ["1", "2"]);
    assert!(s.is_silent());
}

#[test]
fn a_session_that_ends_leaves_no_record() {
    let world = World::new(true);
    let mut s = subscriber(&world, "s", 2, true);
    s.subscribe("$share/g/n", 1, true);
    publish_once(&world, "x");
    let mut p = lasting(&world, "p", true).0;
    p.publish("n", b"x", 2, 5, true);
    assert_eq!(p.packet().0, 0x50);
    let ids = [s.packet(), s.packet()].map(|(_, body)| u16::from_be_bytes([body[3], body[4]]));
    acknowledge(&mut s, 0x50, ids[0]);
    wait(|| records(&world).len() > 6);
    // Begun anew, and without a session after it.
    let world = world.again();
    for id in ["s", "p"] {
        world.v5(id, CLEAN, &[]).ping();
    }
    wait(|| records(&world).is_empty());
    assert!(!lasting(&world.again(), "s", true).1);
}

#[test]
fn a_message_is_stored_once_for_all_sessions_and_until_the_last_has_it() {
    let world = World::new(true);
    let peers: Vec<Peer> = (0..3).map(|n| subscriber(&world, &format!("s{n}"), 1, false)).collect();
    let messages = |world: &World| records(world).iter().filter(|topic| topic.starts_with("$weir/messages/")).count();
    publish(&world, &["x"]);
    assert_eq!(messages(&world), 1);
    for (n, mut peer) in peers.into_iter().enumerate() {
        let (_, id, _) = message(&mut peer, false);
        assert_eq!(messages(&world), 1, "{n} does not have it");
        acknowledge(&mut peer, 0x40, id);
        peer.ping();
    }
    wait(|| messages(&world) == 0);
}

#[test]
fn a_shared_subscription_goes_on_with_the_member_that_comes_first() {
    let world = World::new(true);
    for id in ["a", "b"] {
        let (mut peer, _) = lasting(&world, id, true);
        peer.subscribe("$share/g/n", 1, true);
    }
    wait(|| world.ended("closed") == 2);
    publish(&world, &["1", "2"]);
    let world = world.again();
    let mut b = back(&world, "b", true);
    let mut got = Vec::new();
    for _ in 0..2 {
        let (_, id, payload) = message(&mut b, true);
        acknowledge(&mut b, 0x40, id);
        got.push(payload);
    }
    assert_eq!(got, ["1", "2"]);
    b.ping();
    wait(|| records(&world).iter().all(|topic| !topic.starts_with("$weir/messages/")));
    let world = world.again();
    assert!(back(&world, "a", true).is_silent());
}

#[test]
fn a_message_of_a_member_that_left_goes_to_another_one_when_that_is_durable() {
    let world = World::new(true);
    let member = |id: &str| {
        let (mut peer, _) = lasting(&world, id, true);
        peer.subscribe("$share/g/n", 1, true);
        peer
    };
    let mut a = member("a");
    publish(&world, &["1"]);
    assert_eq!(message(&mut a, true).2, "1");
    let mut b = member("b");
    world.log.instant.store(false, Ordering::SeqCst);
    let staged = world.log.staged("$weir/messages/");
    drop(a);
    wait(|| world.log.staged("$weir/messages/") > staged);
    // Its packet id would be that of another message after a kill.
    b.ping();
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    let (first, id, payload) = message(&mut b, true);
    assert_eq!((first, id, &*payload), (0x32, 1, "1"));
    let world = world.again();
    let mut b = back(&world, "b", true);
    assert_eq!(message(&mut b, true), (0x3A, 1, "1".into()));
}

#[test]
fn a_retained_message_for_a_new_subscription_is_sent_after_a_kill() {
    let world = World::new(true);
    let mut p = world.v4("p", CLEAN);
    p.publish_with(0x33, "n", b"kept", 1, false);
    assert_eq!(p.packet().0, 0x40);
    let mut s = subscriber(&world, "s", 1, false);
    assert_eq!(message(&mut s, false).0, 0x33);
    let world = world.again();
    let mut s = back(&world, "s", false);
    assert_eq!(message(&mut s, false).2, "kept");
}

/// A publisher whose retained message to `n` is not durable yet, a client that has subscribed to
/// `n` after it, with a session that lasts, and the ticket of the message.
fn subscribed_meanwhile(world: &World, qos: u8) -> (Peer, Peer, u64) {
    let mut p = world.v4("p", CLEAN);
    let (mut s, _) = lasting(world, "s", false);
    world.log.instant.store(false, Ordering::SeqCst);
    p.publish_with(0x33, "n", b"1", 1, false);
    wait(|| world.log.staged("n") == 1);
    let arrived = world.log.last.load(Ordering::SeqCst);
    s.send(0x82, &[&[0, 9][..], &text("n"), &[qos]].concat());
    wait(|| world.log.staged("$weir/subscriptions/") == 1);
    (p, s, arrived)
}

#[test]
fn a_retained_message_is_durable_for_those_who_subscribed_after_it_arrived() {
    let world = World::new(true);
    let (mut p, mut s, arrived) = subscribed_meanwhile(&world, 2);
    world.log.release_to(arrived);
    wait(|| world.log.staged("$weir/messages/") == 1);
    // Not acknowledged before: after a kill, its packet id would be that of another message.
    p.ping();
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    assert_eq!(p.packet(), (0x40, vec![0, 1]));
    // As a message, and as the retained one of its new subscription; the SUBACK is among them.
    let mut got = [s.packet(), s.packet(), s.packet()];
    got.sort_by_key(|(first, body)| (*first == 0x90, body.clone()));
    let bodies = got.map(|(_, body)| body);
    assert_eq!(bodies[..2], [[0, 1, b'n', 0, 1, b'1'], [0, 1, b'n', 0, 2, b'1']]);
    let world = world.again();
    let mut s = back(&world, "s", false);
    let mut again = [s.packet(), s.packet()].map(|(_, body)| body);
    again.sort();
    assert_eq!(again, bodies[..2]);
}

#[test]
fn a_retained_message_of_a_client_that_has_left_is_durable_for_later_subscribers() {
    let world = World::new(true);
    let (mut p, mut s, arrived) = subscribed_meanwhile(&world, 1);
    p.send(0xE0, &[]);
    world.log.release_to(arrived);
    wait(|| world.log.staged("$weir/messages/") == 1);
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    // In any order.
    let got = [s.packet().0, s.packet().0];
    assert!(got.contains(&0x90) && got.iter().any(|first| first & 0xF0 == 0x30), "{got:02x?}");
}

#[test]
fn a_subscription_that_was_given_up_stays_so() {
    let world = World::new(true);
    let mut s = subscriber(&world, "s", 1, true);
    s.send(0xA2, &[&[0, 9, 0][..], &text("n")].concat());
    assert_eq!(s.packet().0, 0xB0);
    let world = world.again();
    let mut s = back(&world, "s", true);
    let mut p = world.v5("p", CLEAN, &[]);
    p.publish("n", b"x", 1, 1, true);
    assert_eq!(p.packet(), (0x40, vec![0, 1, 0x10]), "no subscriber");
    s.ping();
}

#[test]
fn a_delayed_will_waits_for_the_client_of_a_session_that_has_lasted() {
    let world = World::new(true);
    let _device = world.with_will("back", true, LASTS, DELAYED, false);
    let _other = world.with_will("gone", true, LASTS, &[], false);
    wait(|| world.log.state().len() == 4);
    let world = world.again();
    let mut observer = world.v4("o", CLEAN);
    observer.subscribe("wills/#", 0, false);
    wait(|| world.log.own.lock().len() == 1);
    // The will without a delay was published before. The other one is taken back.
    back(&world, "back", true).ping();
    wait(|| world.log.own.lock().len() == 2);
    assert!(observer.is_silent());
}

#[test]
fn a_client_that_comes_before_the_store_answers_gets_what_waits_for_it_afterwards() {
    let world = World::new(true);
    let mut late = subscriber(&world, "late", 2, true);
    for (id, lasts) in [("early", true), ("anew", true), ("brief", false)] {
        drop(subscriber(&world, id, 1, lasts));
    }
    publish_once(&world, "1");
    // It has one message, and another one waits.
    let (_, id, _) = message(&mut late, true);
    acknowledge(&mut late, 0x50, id);
    assert_eq!(late.packet().0, 0x62);
    drop(late);
    publish(&world, &["2"]);

    let next = World::awaiting();
    let (mut early, present) = lasting(&next, "early", true);
    assert!(!present, "it is not known");
    let mut anew = next.v5("anew", CLEAN, LASTS);
    let mut brief = next.v5("brief", 0, &[]);
    next.restore(world.log.state());
    for peer in [&mut early, &mut brief] {
        for payload in ["1", "2"] {
            let (_, id, got) = message(peer, true);
            assert_eq!(got, payload);
            acknowledge(peer, 0x40, id);
        }
        peer.ping();
    }
    assert!(anew.is_silent(), "a clean start");
    let mut late = back(&next, "late", true);
    assert_eq!(late.packet(), (0x62, id.to_be_bytes().to_vec()));
    assert_eq!(message(&mut late, true).2, "2");
    // What was stored anew for the others is over.
    wait(|| !records(&next).iter().any(|topic| topic.starts_with("$weir/messages/")));
}

#[test]
fn a_session_that_was_ended_does_not_come_back_after_a_kill() {
    for v5 in [false, true] {
        let world = World::new(true);
        drop(subscriber(&world, "s", 1, v5));
        publish(&world, &["x"]);
        wait(|| world.ended("closed") == 2);
        world.log.instant.store(false, Ordering::SeqCst);
        let mut s = world.client();
        s.connect(if v5 { 5 } else { 4 }, "s", CLEAN, 0, if v5 { LASTS } else { &[] });
        // What follows its CONNECT waits with it.
        s.send(0xC0, &[]);
        assert!(s.is_silent(), "CONNACK waits for the end of the session before");
        world.log.release_to(world.log.last.load(Ordering::SeqCst));
        let (first, body) = s.packet();
        assert_eq!((first, body[0]), (0x20, 0));
        assert_eq!(s.packet().0, 0xD0);
        let next = world.again();
        let (mut s, present) = lasting(&next, "s", v5);
        // With MQTT 5 there is the new one.
        assert_eq!(present, v5);
        assert!(s.is_silent(), "no message of before");
    }
}

#[test]
fn a_log_that_is_full_does_not_keep_a_clean_start_out() {
    let world = World::new(true);
    drop(subscriber(&world, "s", 1, true));
    wait(|| world.ended("closed") == 1);
    world.log.full.store(true, Ordering::SeqCst);
    let mut s = world.v5("s", CLEAN, &[]);
    world.log.full.store(false, Ordering::SeqCst);
    world.log.wake();
    s.ping();
}

#[test]
fn a_session_that_a_client_ends_by_disconnect_does_not_come_back_after_a_kill() {
    let world = World::new(true);
    let mut s = subscriber(&world, "s", 1, true);
    world.log.instant.store(false, Ordering::SeqCst);
    s.send(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]);
    assert!(s.is_silent(), "the connection closes after the end of the session");
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    assert!(s.is_closed());
    assert!(!lasting(&world.again(), "s", true).1);
}

/// The durable records, as if they had been stored before.
fn earlier(world: &World, secs: i64) -> Vec<weir_broker::RetainedMessage> {
    let past = |text: &str| {
        let (before, left) = text.split_once(r#""left":"#).unwrap();
        let left: i64 = left.trim_end_matches('}').parse().unwrap();
        format!(r#"{before}"left":{}}}"#, left - secs * model::time::SECOND)
    };
    let mut state = world.log.state();
    for record in state.iter_mut().filter(|record| record.topic.starts_with("$weir/sessions/")) {
        let text = String::from_utf8(record.payload.clone()).unwrap();
        if text.contains("left") {
            record.payload = past(&text).into_bytes();
        }
    }
    state
}

/// True when the record of the session says that no connection has it.
fn is_left(world: &World) -> bool {
    let is_left = |text: &[u8]| String::from_utf8_lossy(text).contains(r#""left":"#);
    world.log.state().iter().any(|record| record.topic.starts_with("$weir/sessions/") && is_left(&record.payload))
}

#[test]
fn the_time_until_a_session_expires_goes_on_over_a_restart() {
    let world = World::new(true);
    let mut s = subscriber(&world, "s", 1, true);
    assert!(!is_left(&world), "a connection has it");
    // At DISCONNECT, and when a connection breaks.
    s.send(0xE0, &[]);
    wait(|| is_left(&world));
    let early = World::restored(true, Config::default(), earlier(&world, 200));
    let late = World::restored(true, Config::default(), earlier(&world, 300));
    drop(back(&early, "s", true));
    assert!(!lasting(&late, "s", true).1, "its 256 s are over");
    // While a connection has it, no time passes.
    let s = back(&world, "s", true);
    wait(|| !is_left(&world));
    let killed = World::restored(true, Config::default(), earlier(&world, 300));
    // From there on, it does.
    wait(|| is_left(&killed));
    drop(s);
    wait(|| is_left(&world));
}

#[test]
fn a_stored_subscription_that_no_client_could_make_is_left_out() {
    let world = World::new(true);
    drop(subscriber(&world, "s", 1, true));
    wait(|| is_left(&world));
    let mut state = world.log.state();
    let stored = state.iter().find(|record| record.topic.starts_with("$weir/subscriptions/")).unwrap().clone();
    for wrong in ["/".repeat(5000), "a/#/b".to_owned(), String::new()] {
        let topic = stored.topic.strip_suffix('n').unwrap().to_owned() + &wrong;
        state.push(weir_broker::RetainedMessage { topic, ..stored.clone() });
    }
    let world = World::restored(true, Config::default(), state);
    let mut s = back(&world, "s", true);
    s.send(0xA2, &[&[0, 1, 0], &text(&"/".repeat(5000))[..]].concat());
    assert_eq!(s.packet(), (0xB0, vec![0, 1, 0, 0x11]), "no subscription existed");
    publish(&world, &["1"]);
    assert_eq!(message(&mut s, true).2, "1");
}

#[test]
fn messages_of_a_member_whose_session_ended_right_before_a_kill_go_to_another_one() {
    for ends_by_connect in [false, true] {
        let world = World::new(true);
        let member = |id: &str| {
            let (mut peer, _) = lasting(&world, id, true);
            peer.subscribe("$share/g/n", 1, true);
            peer
        };
        let mut a = member("a");
        publish(&world, &["1", "2", "3"]);
        let got = [message(&mut a, true), message(&mut a, true), message(&mut a, true)];
        assert_eq!(got.each_ref().map(|(_, _, payload)| &**payload), ["1", "2", "3"]);
        acknowledge(&mut a, 0x40, got[0].1);
        a.ping();
        drop(member("b"));
        wait(|| world.metrics.connections.get() == 1);
        if ends_by_connect {
            world.v5("a", CLEAN, &[]);
        } else {
            // DISCONNECT with a session expiry of 0.
            a.send(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]);
        }
        // The end is durable, and the messages are mostly not those of `b` yet.
        wait(|| records(&world).iter().filter(|topic| topic.starts_with("$weir/sessions/")).count() == 1);
        let world = world.again();
        let mut b = back(&world, "b", true);
        for expected in ["2", "3"] {
            let (_, id, payload) = message(&mut b, true);
            assert_eq!(payload, expected, "{ends_by_connect}");
            acknowledge(&mut b, 0x40, id);
        }
        b.ping();
        wait(|| records(&world).iter().all(|topic| !topic.starts_with("$weir/messages/")));
    }
}

/// The later one of two retained messages of QoS 2 is known after a restart: the other one has to
/// be, too, although it had no subscriber.
#[test]
fn a_retained_message_that_is_sent_again_does_not_replace_a_later_one() {
    for v5 in [false, true] {
        let world = World::new(true);
        let (mut c, _) = lasting(&world, "c", v5);
        c.publish_with(0x35, "n", b"before", 1, v5);
        assert_eq!(c.packet().0, 0x50);
        let s = subscriber(&world, "s", 1, v5);
        c.publish_with(0x35, "n", b"after", 2, v5);
        assert_eq!(c.packet().0, 0x50);
        drop((c, s));
        let next = world.again();
        let mut c = back(&next, "c", v5);
        for (id, payload) in [(1, "before"), (2, "after")] {
            c.publish_with(0x3D, "n", payload.as_bytes(), id, v5);
            assert_eq!(c.packet().0, 0x50);
        }
        let mut new = next.v4("new", CLEAN);
        new.subscribe("n", 1, false);
        assert_eq!(message(&mut new, false).2, "after");
    }
}
