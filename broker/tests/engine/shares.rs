//! Shared subscriptions (MQTT 5.0, section 4.8.2), also of 3.1.1 clients.

use weir_broker::Config;

use crate::devices::LASTS;
use crate::world::*;

const JOBS: &str = "$share/g/jobs";

fn publish(peer: &mut Peer, numbers: std::ops::RangeInclusive<u8>) {
    for n in numbers {
        peer.publish("jobs", &[n], 1, n.into(), true);
        assert_eq!(peer.packet().0, 0x40);
    }
}

/// The last byte of the next message, and its packet id.
fn next(peer: &mut Peer) -> (u8, [u8; 2]) {
    let (first, body) = peer.packet();
    assert_eq!(first & 0xF0, 0x30);
    (*body.last().unwrap(), [body[6], body[7]])
}

#[test]
fn no_member_that_is_away_is_chosen_while_another_is_connected() {
    for qos in [0, 1] {
        let world = World::new(true);
        for id in ["away1", "away2"] {
            world.v5(id, 0, LASTS).subscribe(JOBS, qos, true);
        }
        wait(|| world.metrics.connections.get() == 0);
        let mut here = world.v5("here", CLEAN, &[]);
        here.subscribe(JOBS, qos, true);
        let mut peer = world.v5("p", CLEAN, &[]);
        publish(&mut peer, 1..=20);
        for n in 1..=20 {
            assert_eq!(next(&mut here).0, n, "all, in order");
        }
        assert_eq!(world.dropped("offline_qos0"), 0);
    }
}

#[test]
fn messages_wait_for_the_first_member_that_connects() {
    let world = World::new(true);
    for id in ["a", "b"] {
        world.v5(id, 0, LASTS).subscribe(JOBS, 1, true);
    }
    wait(|| world.metrics.connections.get() == 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=10);
    let mut b = world.v5("b", 0, LASTS);
    for n in 1..=10 {
        assert_eq!(next(&mut b).0, n);
    }
    // A new member gets what waits, too.
    let world = World::new(true);
    world.v5("a", 0, LASTS).subscribe(JOBS, 1, true);
    wait(|| world.metrics.connections.get() == 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=10);
    let mut new = world.v5("new", CLEAN, &[]);
    new.subscribe(JOBS, 1, true);
    for n in 1..=10 {
        assert_eq!(next(&mut new).0, n);
    }
    let mut a = world.v5("a", 0, LASTS);
    a.ping();
}

#[test]
fn what_a_member_leaves_unacknowledged_goes_to_another() {
    for lasts in [LASTS, &[]] {
        let world = World::new(true);
        let mut slow = world.v5("slow", CLEAN, &[&[0x21, 0, 3][..], lasts].concat());
        slow.subscribe(JOBS, 1, true);
        let mut peer = world.v5("p", CLEAN, &[]);
        publish(&mut peer, 1..=8);
        let (_, id) = next(&mut slow);
        slow.send(0x40, &id);
        for n in 2..=4 {
            assert_eq!(next(&mut slow).0, n);
        }
        slow.ping();
        let mut other = world.v5("other", CLEAN, &[]);
        other.subscribe(JOBS, 1, true);
        other.ping();
        drop(slow);
        for n in 2..=8 {
            assert_eq!(next(&mut other).0, n, "in flight and waiting, not the acknowledged one");
        }
        other.ping();
    }
}

#[test]
fn the_last_member_keeps_its_messages_and_gives_them_to_the_next() {
    let world = World::new(true);
    let mut a = world.v5("a", CLEAN, LASTS);
    a.subscribe(JOBS, 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=3);
    assert_eq!(next(&mut a).0, 1);
    drop(a);
    wait(|| world.metrics.connections.get() == 1);
    let mut a = world.v5("a", 0, LASTS);
    for n in 1..=3 {
        assert_eq!(next(&mut a).0, n, "sent again");
    }
    drop(a);
    wait(|| world.metrics.connections.get() == 1);
    let mut b = world.v5("b", CLEAN, &[]);
    b.subscribe(JOBS, 1, true);
    for n in 1..=3 {
        assert_eq!(next(&mut b).0, n);
    }
}

#[test]
fn a_member_that_is_stuck_is_passed_over() {
    let world = World::new(true);
    let mut stuck = world.v5("stuck", CLEAN, &[0x21, 0, 1]);
    stuck.subscribe(JOBS, 1, true);
    let mut quick = world.v5("quick", CLEAN, &[]);
    quick.subscribe(JOBS, 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    let mut got = 0;
    for n in 0..600_u16 {
        peer.publish("jobs", &[1], 1, n + 1, true);
        assert_eq!(peer.packet().0, 0x40);
    }
    quick.0.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    while quick.0.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
        next(&mut quick);
        got += 1;
    }
    assert!((520..=540).contains(&got), "{got} of 600: the other holds its window and a few");
    drop(stuck);
    quick.0.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    for _ in got..600 {
        next(&mut quick);
    }
}

#[test]
fn members_take_turns_and_each_gets_its_messages_in_order() {
    let world = World::new(true);
    let mut members = ["1", "2", "3"].map(|id| {
        let mut member = world.v4(id, CLEAN);
        member.subscribe(JOBS, 1, false);
        member
    });
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=90);
    for member in &mut members {
        let got: Vec<u8> = (0..30).map(|_| *member.packet().1.last().unwrap()).collect();
        assert!(got.is_sorted(), "{got:?}");
        assert!(member.is_silent());
    }
}

#[test]
fn a_plain_and_a_shared_subscription_of_one_client_are_two() {
    let world = World::new(true);
    let mut peer = world.v5("s", CLEAN, &[]);
    peer.subscribe_with_id("jobs", 1, 7);
    peer.subscribe_with_id(JOBS, 1, 8);
    let mut publisher = world.v5("p", CLEAN, &[]);
    publish(&mut publisher, 1..=1);
    let mut ids = [0; 2];
    for id in &mut ids {
        let (_, body) = peer.packet();
        assert_eq!(body[8..10], [2, 0x0B], "one subscription id each");
        *id = body[10];
    }
    ids.sort_unstable();
    assert_eq!(ids, [7, 8]);
    peer.ping();
}

#[test]
fn the_name_and_the_filter_of_a_shared_subscription_follow_the_rules() {
    let world = World::new(true);
    let client = |v5: bool| if v5 { world.v5("five", CLEAN, &[]) } else { world.v4("three", CLEAN) };
    for v5 in [true, false] {
        for filter in ["$share/g/a/+", "$share/g/#", "$share/g//"] {
            assert_eq!(client(v5).subscribe(filter, 1, v5).last(), Some(&1), "{filter}");
        }
        // Malformed.
        for filter in ["$share/g", "$share//a", "$share/g/", "$share/g+/a", "$share/#/a", "$share/g/a#"] {
            let mut peer = client(v5);
            let properties = if v5 { &[0][..] } else { &[] };
            peer.send(0x82, &[&[0, 9], properties, &text(filter), &[1]].concat());
            if v5 {
                let (first, body) = peer.packet();
                assert_eq!((first, body[0]), (0xE0, 0x81), "{filter}");
            }
            assert!(peer.is_closed(), "{filter}");
        }
    }
    // No-local is a protocol error (MQTT-3.8.3-4).
    let mut peer = world.v5("local", CLEAN, &[]);
    let mut body = vec![0, 9, 0];
    body.extend_from_slice(&text(JOBS));
    body.push(4);
    peer.send(0x82, &body);
    let (first, body) = peer.packet();
    assert_eq!((first, body[0]), (0xE0, 0x82));
}

#[test]
fn retained_messages_are_not_sent_to_a_shared_subscription() {
    let world = World::new(true);
    let mut peer = world.v5("p", CLEAN, &[]);
    peer.publish_with(0x33, "jobs", b"1", 1, true);
    assert_eq!(peer.packet().0, 0x40);
    let mut member = world.v5("m", CLEAN, &[]);
    member.subscribe(JOBS, 1, true);
    member.ping();
}

#[test]
fn messages_of_a_session_that_expires_go_to_another_member() {
    let world = World::with(true, Config::default());
    let mut a = world.v5("a", CLEAN, &[0x11, 0, 0, 0, 1]);
    a.subscribe(JOBS, 1, true);
    world.v5("b", 0, LASTS).subscribe(JOBS, 1, true);
    wait(|| world.metrics.connections.get() == 1);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=3);
    drop(a);
    wait(|| world.metrics.sessions.get() == 2);
    let mut b = world.v5("b", 0, LASTS);
    for n in 1..=3 {
        assert_eq!(next(&mut b).0, n);
    }
}

#[test]
fn the_granted_qos_of_a_member_holds() {
    let world = World::new(true);
    let mut member = world.v5("m", CLEAN, &[]);
    member.subscribe(JOBS, 0, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=1);
    assert_eq!(member.packet().0, 0x30);
}

#[test]
fn a_message_that_a_member_refuses_goes_to_no_other() {
    let world = World::new(true);
    let mut member = world.v5("m", CLEAN, &[0x21, 0, 1]);
    member.subscribe(JOBS, 1, true);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=2);
    let (_, [high, low]) = next(&mut member);
    // PUBACK 0x83.
    member.send(0x40, &[high, low, 0x83]);
    assert_eq!(next(&mut member).0, 2, "its place in the window is free");
    assert_eq!(world.dropped("refused_by_client"), 1);
    let mut other = world.v5("o", CLEAN, &[]);
    other.subscribe(JOBS, 1, true);
    drop(member);
    assert_eq!(next(&mut other).0, 2);
    other.ping();
}

#[test]
fn a_message_of_qos_2_that_was_sent_stays_with_its_session() {
    for lasts in [LASTS, &[]] {
        let world = World::new(true);
        let mut member = world.v5("m", CLEAN, &[&[0x21, 0, 2][..], lasts].concat());
        member.subscribe(JOBS, 2, true);
        let mut peer = world.v5("p", CLEAN, &[]);
        for n in 1..=4 {
            peer.publish("jobs", &[n], 2, n.into(), true);
            assert_eq!(peer.packet(), (0x50, vec![0, n]));
            peer.send(0x62, &[0, n]);
            assert_eq!(peer.packet().0, 0x70);
        }
        assert_eq!((next(&mut member).0, next(&mut member).0), (1, 2));
        member.ping();
        let mut other = world.v5("o", CLEAN, &[]);
        other.subscribe(JOBS, 2, true);
        drop(member);
        assert_eq!((next(&mut other).0, next(&mut other).0), (3, 4), "what was not sent");
        other.ping();
        if !lasts.is_empty() {
            let mut member = world.v5("m", 0, LASTS);
            assert_eq!((next(&mut member).0, next(&mut member).0), (1, 2), "sent again");
        }
    }
}

#[test]
fn what_a_member_that_is_away_holds_stays_with_it_when_the_one_that_had_come_has_left() {
    let world = World::new(true);
    world.v5("s", 0, LASTS).subscribe(JOBS, 1, true);
    wait(|| world.metrics.connections.get() == 0);
    let mut peer = world.v5("p", CLEAN, &[]);
    publish(&mut peer, 1..=3);
    world.broker.collect("default", JOBS);
    let mut s = world.v5("s", 0, LASTS);
    for n in 1..=3 {
        let (got, id) = next(&mut s);
        assert_eq!(got, n);
        s.send(0x40, &id);
    }
    s.ping();
    drop(s);
    wait(|| world.metrics.connections.get() == 1);
    // It holds the next one, too, until another member comes.
    publish(&mut peer, 4..=4);
    world.broker.collect("default", JOBS);
    let mut other = world.v5("other", CLEAN, &[]);
    other.subscribe(JOBS, 1, true);
    assert_eq!(next(&mut other).0, 4);
    assert_eq!(world.dropped("no_member"), 0);
}
