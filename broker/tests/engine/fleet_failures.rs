//! A fleet whose nodes die and start, whose store is away, and whose messages are lost on their
//! way.

use std::sync::atomic::{AtomicUsize, Ordering};

use weir_broker::RetainedMessage;
use weir_broker::fleet::memory::MemoryFleet;

use crate::fleet::{Nodes, strings, take};
use crate::packets::*;
use crate::world::*;

#[test]
fn sessions_of_a_node_that_died_continue_at_another_one() {
    for v5 in [false, true] {
        let mut nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1), ("$share/g/n", 1)]);
        let mut clean = join(nodes.at(0), v5, "clean", CLEAN);
        subscribe(&mut clean, v5, 1, &[("n", 0)]);
        nodes.wait_known(1, 4);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        publish(&mut p, v5, 0x32, "n", b"1");
        let mut first: Vec<Got> = (0..2).map(|_| message(&mut s, v5)).collect();
        first.sort_by_key(|got| got.id);
        nodes.kill(0);
        // The interests of the node are gone; the subscriptions of the session are not.
        nodes.wait_known(1, 2);
        publish(&mut p, v5, 0x32, "n", b"2");
        let mut s = rejoin(nodes.at(1), v5, "s");
        let mut again: Vec<Got> = (0..2).map(|_| message(&mut s, v5)).collect();
        again.sort_by_key(|got| got.id);
        for (got, first) in again.iter().zip(first) {
            assert_eq!((got.first, got.id, &got.payload), (0x3A, first.id, &first.payload));
        }
        assert_eq!(take(&mut s, v5, 2), ["2", "2"]);
    }
}

#[test]
fn a_message_is_acknowledged_when_sessions_of_the_fleet_have_it() {
    for qos in [1, 2] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), true, "s", 0);
        subscribe(&mut s, true, 1, &[("n", qos)]);
        nodes.wait_known(1, 2);
        let mut p = join(nodes.at(1), true, "p", CLEAN);
        nodes.fleet.hold();
        p.publish("n", b"x", qos, 7, true);
        // It is on its way already.
        let got = message(&mut s, true);
        assert!(is_quiet(&p), "it is not durable");
        nodes.fleet.release();
        assert_eq!(p.packet().0, if qos == 1 { 0x40 } else { 0x50 });
        acknowledge(&mut s, &got);
    }
}

#[test]
fn clients_connect_and_exchange_messages_while_the_store_is_away() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", CLEAN);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        let mut lasting = join(nodes.at(0), v5, "lasting", 0);
        subscribe(&mut lasting, v5, 1, &[("l", 1)]);
        nodes.wait_known(1, 3);
        nodes.fleet.away(true);
        let mut p = join(nodes.at(0), v5, "p", 0);
        publish(&mut p, v5, 0x32, "n", b"1");
        assert_eq!(take(&mut s, v5, 1), ["1"]);
        publish(&mut p, v5, 0x34, "unknown", b"1");
        // A message for a session that lasts waits; the others do not.
        let mut q = join(nodes.at(0), v5, "q", CLEAN);
        q.publish_with(0x32, "l", b"2", 7, v5);
        publish(&mut p, v5, 0x32, "n", b"3");
        assert_eq!(take(&mut s, v5, 1), ["3"]);
        assert!(is_quiet(&q));
        nodes.fleet.away(false);
        assert_eq!(q.packet().0, 0x40);
        assert_eq!(take(&mut lasting, v5, 1), ["2"]);
        // What was not kept is not there.
        drop(p);
        wait(|| nodes.at(0).metrics.connections.get() == 3);
        let mut p = nodes.at(1).client();
        p.connect(if v5 { 5 } else { 4 }, "p", 0, 0, LASTS);
        assert_eq!(p.packet().1[..2], [0, 0], "no session is present");
    }
}

#[test]
fn messages_that_were_lost_on_their_way_are_read_from_the_store() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        nodes.wait_known(1, 2);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        for n in 0..100 {
            publish(&mut p, v5, 0x32, "n", n.to_string().as_bytes());
            nodes.fleet.drop_arrivals("a");
        }
        assert_eq!(take(&mut s, v5, 100), strings(0..100));
        s.ping();
    }
}

#[test]
fn a_session_expires_wherever_its_client_was() {
    let nodes = Nodes::<2>::new();
    let mut s = nodes.at(0).v5("s", 0, LASTS);
    subscribe(&mut s, true, 1, &[("n", 1)]);
    nodes.wait_known(1, 2);
    drop(s);
    nodes.wait_away("s");
    let mut p = nodes.at(1).v5("p", CLEAN, &[]);
    publish(&mut p, true, 0x32, "n", b"old");
    nodes.fleet.advance(std::time::Duration::from_secs(257));
    nodes.wait_known(0, 0);
    nodes.wait_known(1, 0);
    let mut s = nodes.at(0).client();
    s.connect(5, "s", 0, 0, LASTS);
    assert_eq!(s.packet().1[..2], [0, 0], "no session is present");
    s.ping();
}

/// A publisher at the second node, to a shared subscription whose one member `s` is away.
fn publisher_to_one_away(nodes: &Nodes<2>) -> Peer {
    let mut s = nodes.at(0).v5("s", 0, LASTS);
    subscribe(&mut s, true, 1, &[("$share/g/n", 1)]);
    drop(s);
    nodes.wait_away("s");
    nodes.wait_known(1, 1);
    join(nodes.at(1), true, "p", CLEAN)
}

#[test]
fn what_a_session_leaves_over_goes_to_another_member_of_any_node() {
    const ALL: usize = 300;
    for (flags, way) in [(CLEAN, "claim"), (0, "claim"), (CLEAN, "expiry"), (0, "expiry")] {
        let nodes = Nodes::<2>::new();
        let mut p = publisher_to_one_away(&nodes);
        for n in 0..ALL {
            publish(&mut p, true, 0x32, "n", n.to_string().as_bytes());
        }
        let mut other = join(nodes.at(0), true, "other", flags);
        subscribe(&mut other, true, 1, &[("$share/g/n", 1)]);
        nodes.wait_known(1, if flags == CLEAN { 2 } else { 3 });
        let _s = match way {
            "claim" => Some(join(nodes.at(1), true, "s", CLEAN)),
            _ => {
                nodes.fleet.advance(std::time::Duration::from_secs(257));
                None
            }
        };
        assert_eq!(take(&mut other, true, ALL), strings(0..ALL), "{way}");
        other.ping();
    }
}

#[test]
fn a_session_leaves_many_messages_over_and_each_arrives_once_in_order() {
    const ALL: usize = 100_000;
    const WINDOW: usize = 500;
    let nodes = Nodes::<2>::new();
    let mut p = publisher_to_one_away(&nodes);
    for from in (0..ALL).step_by(WINDOW) {
        for n in from..from + WINDOW {
            p.publish("n", n.to_string().as_bytes(), 1, (n - from + 1) as u16, true);
        }
        for _ in 0..WINDOW {
            assert_eq!(p.packet().0, 0x40);
        }
    }
    // Members of both kinds, at both nodes.
    let members = [("lasts", 0, 0), ("short", 1, CLEAN)].map(|(id, node, flags)| {
        let mut member = join(nodes.at(node), true, id, flags);
        subscribe(&mut member, true, 1, &[("$share/g/n", 1), ("over", 1)]);
        member
    });
    nodes.wait_known(0, 5);
    // With the interests of the other one in messages of QoS 0.
    nodes.wait_known(1, 7);
    let arrived = AtomicUsize::new(0);
    let read = |mut member: Peer| {
        let mut numbers: Vec<usize> = Vec::new();
        loop {
            let got = message(&mut member, true);
            acknowledge(&mut member, &got);
            if got.topic == "over" {
                return numbers;
            }
            numbers.push(String::from_utf8(got.payload).unwrap().parse().unwrap());
            arrived.fetch_add(1, Ordering::SeqCst);
        }
    };
    let numbers = std::thread::scope(|scope| {
        let readers = members.map(|member| scope.spawn(|| read(member)));
        // The session ends.
        join(nodes.at(1), true, "s", CLEAN).ping();
        wait(|| arrived.load(Ordering::SeqCst) == ALL);
        publish(&mut p, true, 0x32, "over", b"");
        readers.map(|reader| reader.join().unwrap())
    });
    assert!(numbers.iter().all(|numbers| numbers.is_sorted() && !numbers.is_empty()), "in order, to both");
    let mut all = numbers.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..ALL), "each once");
}

#[test]
fn no_message_is_lost_while_routes_are_read_again() {
    const ALL: usize = 300;
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        // Others, so that reading takes a moment.
        let mut other = join(nodes.at(0), v5, "other", 0);
        for part in 0..20 {
            let filters: Vec<String> = (0..20).map(|n| format!("x/{part}/{n}")).collect();
            subscribe(&mut other, v5, 1, &filters.iter().map(|filter| (&**filter, 1)).collect::<Vec<_>>());
        }
        nodes.wait_known(1, 802);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        for n in 0..ALL {
            nodes.fleet.reset_routes("b");
            publish(&mut p, v5, 0x32, "n", n.to_string().as_bytes());
        }
        assert_eq!(take(&mut s, v5, ALL), strings(0..ALL));
    }
}

#[test]
fn a_node_that_starts_knows_the_subscribers_of_others_before_its_first_client() {
    const STARTS: usize = 20;
    for v5 in [false, true] {
        let fleet = MemoryFleet::new();
        let first = World::in_fleet(&fleet, "a");
        let mut s = join(&first, v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        let mut other = join(&first, v5, "other", 0);
        for part in 0..20 {
            let filters: Vec<String> = (0..20).map(|n| format!("x/{part}/{n}")).collect();
            subscribe(&mut other, v5, 1, &filters.iter().map(|filter| (&**filter, 1)).collect::<Vec<_>>());
        }
        for n in 0..STARTS {
            let next = World::in_fleet(&fleet, "b");
            let mut p = join(&next, v5, "p", CLEAN);
            publish(&mut p, v5, 0x32, "n", n.to_string().as_bytes());
        }
        assert_eq!(take(&mut s, v5, STARTS), strings(0..STARTS));
    }
}

#[test]
fn a_node_starts_while_the_store_is_away() {
    let fleet = MemoryFleet::new();
    fleet.away(true);
    let world = World::in_fleet(&fleet, "a");
    let mut s = join(&world, true, "s", CLEAN);
    subscribe(&mut s, true, 1, &[("n", 1)]);
    publish(&mut join(&world, true, "p", CLEAN), true, 0x32, "n", b"x");
    assert_eq!(take(&mut s, true, 1), ["x"]);
}

#[test]
fn subscribers_that_may_have_missed_messages_of_other_nodes_are_closed() {
    for missed in [false, true] {
        let nodes = Nodes::<2>::new();
        let subscribed = |id: &str, flags: u8, qos: u8| {
            let mut peer = join(nodes.at(0), true, id, flags);
            subscribe(&mut peer, true, 1, &[("n", qos)]);
            peer
        };
        let mut short = subscribed("short", CLEAN, 1);
        let mut unsure = subscribed("unsure", CLEAN, 0);
        let mut lasting = subscribed("lasting", 0, 2);
        nodes.wait_known(1, 2);
        let mut p = join(nodes.at(1), true, "p", CLEAN);
        publish(&mut p, true, 0x32, "n", b"1");
        for peer in [&mut short, &mut unsure, &mut lasting] {
            assert_eq!(take(peer, true, 1), ["1"]);
        }
        if missed {
            nodes.fleet.miss("a", "other");
            nodes.fleet.miss("a", "default");
        } else {
            nodes.fleet.drop_arrivals("a");
        }
        assert_eq!(end(&mut short, true), 0x97);
        assert_eq!(nodes.at(0).dropped("fleet_gap"), if missed { 2 } else { 1 });
        publish(&mut p, true, 0x32, "n", b"2");
        assert_eq!(take(&mut unsure, true, 1), ["2"]);
        assert_eq!(take(&mut lasting, true, 1), ["2"]);
    }
}

/// The retained messages below `r/` at a node, by topic and payload.
fn retained(world: &World) -> Vec<String> {
    let page = world.broker.retained("default", "r/#", None, 1000);
    // One that is cleared meanwhile is left out.
    let of = |topic: &str| world.broker.retained_message("default", topic);
    let all = page.items.iter().filter_map(|message| of(&message.topic));
    all.map(|of| format!("{} {}", of.report.topic, String::from_utf8_lossy(&of.payload))).collect()
}

#[test]
fn nodes_have_the_same_retained_messages_after_messages_between_them_were_dropped() {
    let nodes = Nodes::<2>::new();
    let [a, b] = [nodes.at(0), nodes.at(1)];
    wait(|| a.broker.other_nodes() == 1 && b.broker.other_nodes() == 1);
    let [mut at_a, mut at_b] = [join(a, false, "p", CLEAN), join(b, false, "q", CLEAN)];
    for topic in ["r/same", "r/cleared", "r/set-again"] {
        publish(&mut at_a, false, 0x33, topic, b"0");
    }
    wait(|| retained(b).len() == 3);
    nodes.fleet.away(true);
    nodes.fleet.fill("a");
    nodes.fleet.fill("b");
    let of_a = [("r/same", "a"), ("r/of-a", "1"), ("r/of-a", "2"), ("r/cleared", ""), ("r/set-again", "")];
    for (topic, payload) in of_a {
        publish(&mut at_a, false, 0x33, topic, payload.as_bytes());
    }
    for (topic, payload) in [("r/same", "b"), ("r/of-b", "3"), ("r/set-again", "4")] {
        publish(&mut at_b, false, 0x33, topic, payload.as_bytes());
    }
    let all = ["r/of-a 2", "r/of-b 3", "r/same b", "r/set-again 4"];
    assert_ne!((retained(a), retained(b)), (all.map(String::from).to_vec(), all.map(String::from).to_vec()));
    nodes.fleet.away(false);
    for world in [a, b] {
        wait(|| retained(world) == all);
    }
    assert!(a.dropped("fleet") >= 5 && b.dropped("fleet") >= 3);
}

#[test]
fn retained_messages_that_are_read_again_are_taken_where_they_are_newer() {
    let nodes = Nodes::<2>::new();
    let a = nodes.at(0);
    let mut p = join(a, false, "p", CLEAN);
    for topic in ["r/here", "r/there"] {
        publish(&mut p, false, 0x33, topic, b"0");
    }
    wait(|| a.broker.other_nodes() == 1);
    nodes.fleet.drop_arrivals("a");
    a.wait_for(a.broker.retained_missed());
    let now = model::clock::now();
    let stored = |topic: &str, published: i64| RetainedMessage {
        tenant: "default".into(),
        topic: topic.into(),
        payload: b"1".to_vec(),
        qos: 1,
        properties: Vec::new(),
        published,
    };
    let all = vec![stored("r/here", now - 60_000_000_000), stored("r/missed", now - 1), stored("r/there", now)];
    a.broker.renew(all);
    assert_eq!(retained(a), ["r/here 0", "r/missed 1", "r/there 1"]);
    // A node whose clock is behind sets a message all the same, and the other one takes it.
    let (b, ahead) = (nodes.at(1), now + 3_600_000_000_000);
    a.broker.renew(vec![stored("r/here", ahead)]);
    b.broker.renew(vec![stored("r/here", ahead)]);
    publish(&mut p, false, 0x33, "r/here", b"2");
    for world in [a, b] {
        wait(|| retained(world).contains(&"r/here 2".to_owned()));
    }
}

#[test]
fn of_retained_messages_at_two_nodes_at_once_both_keep_the_same() {
    let nodes = Nodes::<2>::new();
    let [a, b] = [nodes.at(0), nodes.at(1)];
    wait(|| a.broker.other_nodes() == 1 && b.broker.other_nodes() == 1);
    let [mut at_a, mut at_b] = [join(a, false, "p", CLEAN), join(b, false, "q", CLEAN)];
    for n in 0..50 {
        // Each is on its way to the other node while that sets its own.
        nodes.fleet.away(true);
        for topic in ["r/x", "r/y"] {
            publish(&mut at_a, false, 0x33, topic, format!("a{n}").as_bytes());
            let payload = if topic == "r/y" && n % 2 == 0 { String::new() } else { format!("b{n}") };
            publish(&mut at_b, false, 0x33, topic, payload.as_bytes());
        }
        nodes.fleet.away(false);
        let last = if n % 2 == 0 { vec![format!("r/x b{n}")] } else { vec![format!("r/x b{n}"), format!("r/y b{n}")] };
        for world in [a, b] {
            wait(|| retained(world) == last);
        }
    }
}

#[test]
fn a_retained_message_that_was_on_its_way_as_its_client_moved_does_not_replace_newer_ones() {
    for cleared in [false, true] {
        let nodes = Nodes::<2>::new();
        let [a, b] = [nodes.at(0), nodes.at(1)];
        wait(|| a.broker.other_nodes() == 1 && b.broker.other_nodes() == 1);
        let mut first = join(a, true, "p", 0);
        a.log.instant.store(false, Ordering::SeqCst);
        first.publish_with(0x33, "r/x", b"old", 9, true);
        wait(|| a.log.retained.lock().len() == 1);
        let mut p = rejoin(b, true, "p");
        assert_eq!(end(&mut first, true), 0x8E);
        p.publish_with(0x3B, "r/x", b"old", 9, true);
        assert_eq!(p.packet().0, 0x40);
        publish(&mut p, true, 0x33, "r/x", if cleared { b"" } else { b"new" });
        publish(&mut p, true, 0x33, "r/y", b"1");
        let mut all = if cleared { vec!["r/y 1"] } else { vec!["r/x new", "r/y 1"] };
        wait(|| retained(a) == all);
        a.log.instant.store(true, Ordering::SeqCst);
        a.log.release_to(a.log.last.load(Ordering::SeqCst));
        wait(|| a.metrics.connections.get() == 0);
        publish(&mut join(a, true, "q", CLEAN), true, 0x33, "r/z", b"2");
        all.push("r/z 2");
        wait(|| retained(b).len() == all.len());
        for world in [a, b] {
            assert_eq!(retained(world), all);
        }
    }
}

#[test]
fn a_message_that_was_sent_before_a_kill_is_a_duplicate_for_each_later_connection() {
    for v5 in [false, true] {
        let mut nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        nodes.wait_known(1, 2);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        for payload in ["1", "2", "3"] {
            publish(&mut p, v5, 0x32, "n", payload.as_bytes());
        }
        // Right before the node is killed: what was sent is stored a moment later.
        assert_eq!((0..3).map(|_| message(&mut s, v5).first).collect::<Vec<_>>(), [0x32; 3]);
        nodes.kill(0);
        for _ in 0..2 {
            let mut s = rejoin(nodes.at(1), v5, "s");
            assert_eq!((0..3).map(|_| message(&mut s, v5).first).collect::<Vec<_>>(), [0x3A; 3]);
            s.send(0xE0, &[]);
            nodes.wait_away("s");
        }
    }
}
