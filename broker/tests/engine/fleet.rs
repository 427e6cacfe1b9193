//! Several brokers as one fleet, over a store of sessions in memory.

use std::collections::BTreeSet;

use weir_broker::RetainedMessage;
use weir_broker::fleet::Client;
use weir_broker::fleet::memory::MemoryFleet;

use crate::packets::*;
use crate::world::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Nodes of one fleet.
pub(crate) struct Nodes<const N: usize> {
    pub(crate) fleet: MemoryFleet,
    /// None when it was killed.
    pub(crate) worlds: [Option<World>; N],
}

impl<const N: usize> Nodes<N> {
    pub(crate) fn new() -> Self {
        let fleet = MemoryFleet::new();
        let worlds = std::array::from_fn(|n| Some(World::in_fleet(&fleet, NAMES[n])));
        Self { fleet, worlds }
    }

    pub(crate) fn at(&self, node: usize) -> &World {
        self.worlds[node].as_ref().unwrap()
    }

    /// Waits until a node has so many subscriptions: its own, those of all sessions that last, and
    /// the interests of other nodes.
    pub(crate) fn wait_known(&self, node: usize, subscriptions: usize) {
        let broker = &self.at(node).broker;
        wait(|| broker.kept("default").1 + broker.routes("default") == subscriptions);
    }

    /// Waits until no client with this id is connected, in the store too.
    pub(crate) fn wait_away(&self, id: &str) {
        let client = Client { tenant: "default".into(), id: id.into() };
        wait(|| self.fleet.owner(&client).is_none_or(|(_, is_connected)| !is_connected));
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.fleet.kill(NAMES[node]);
        self.worlds[node] = None;
    }
}

/// Reads the next messages and answers them. Returns their payloads.
pub(crate) fn take(peer: &mut Peer, v5: bool, count: usize) -> Vec<String> {
    let next = |_| {
        let got = message(peer, v5);
        acknowledge(peer, &got);
        String::from_utf8(got.payload).unwrap()
    };
    (0..count).map(next).collect()
}

pub(crate) fn strings(payloads: std::ops::Range<usize>) -> Vec<String> {
    payloads.map(|payload| payload.to_string()).collect()
}

#[test]
fn a_message_reaches_the_subscribers_of_every_node() {
    for v5 in [false, true] {
        let nodes = Nodes::<3>::new();
        let mut subscribers = Vec::new();
        for (node, flags) in [(0, CLEAN), (1, CLEAN), (0, 0), (2, 0)] {
            for qos in 0..=2 {
                let mut peer = join(nodes.at(node), v5, &format!("{node}-{flags}-{qos}"), flags);
                assert_eq!(subscribe(&mut peer, v5, 1, &[("n/+", qos)]), [qos]);
                subscribers.push((qos, peer));
            }
        }
        // Six at each node's sessions that last, three of its own that do not, two interests.
        nodes.wait_known(1, 11);
        let mut publisher = join(nodes.at(1), v5, "p", CLEAN);
        for published in 0..=2_u8 {
            publish(&mut publisher, v5, 0x30 | published << 1, "n/x", published.to_string().as_bytes());
            for (qos, peer) in &mut subscribers {
                let got = message(peer, v5);
                assert_eq!((&*got.topic, got.first), ("n/x", 0x30 | published.min(*qos) << 1));
                assert_eq!(got.payload, published.to_string().as_bytes());
                acknowledge(peer, &got);
            }
        }
        for (_, peer) in &mut subscribers {
            peer.ping();
        }
    }
}

#[test]
fn overlapping_subscriptions_get_one_copy_from_another_node() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        // One subscription gets messages from their node, the other one from the store.
        let mut s = join(nodes.at(0), v5, "s", 0);
        assert_eq!(subscribe(&mut s, v5, 1, &[("n/b", 0), ("+/b", 1)]), [0, 1]);
        nodes.wait_known(1, 4);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        for (first, payload) in [(0x32, b"1"), (0x34, b"2")] {
            publish(&mut p, v5, first, "n/b", payload);
            let got = message(&mut s, v5);
            assert_eq!((got.first, &got.payload[..]), (0x32, &payload[..]));
            acknowledge(&mut s, &got);
        }
        publish(&mut p, v5, 0x30, "n/b", b"3");
        let got = message(&mut s, v5);
        assert_eq!((got.first, &got.payload[..]), (0x30, &b"3"[..]), "no second copy came before it");
        s.ping();
    }
}

#[test]
fn a_session_continues_at_another_node_with_its_exchanges() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 2)]);
        let mut watcher = join(nodes.at(1), v5, "watcher", 0);
        subscribe(&mut watcher, v5, 1, &[("m", 2)]);
        nodes.wait_known(0, 3);
        nodes.wait_known(1, 3);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        for payload in ["1", "2", "3"] {
            publish(&mut p, v5, 0x34, "n", payload.as_bytes());
        }
        let ids: Vec<[u8; 2]> = (0..3).map(|_| message(&mut s, v5).id.to_be_bytes()).collect();
        // It has the second and the first; the exchange of the second is over.
        for id in [ids[1], ids[0]] {
            s.send(0x50, &id);
            assert_eq!(s.packet(), (0x62, id.to_vec()));
        }
        s.send(0x70, &ids[1]);
        // Half of an exchange in the other direction.
        s.publish_with(0x34, "m", b"once", 9, v5);
        assert_eq!(s.packet(), (0x50, vec![0, 9]));
        assert_eq!(take(&mut watcher, v5, 1), ["once"]);
        s.ping();
        drop(s);
        nodes.wait_away("s");
        publish(&mut p, v5, 0x34, "n", b"4");
        publish(&mut p, v5, 0x32, "n", b"5");

        let mut s = rejoin(nodes.at(1), v5, "s");
        assert_eq!(s.packet(), (0x62, ids[0].to_vec()), "released, and not sent again");
        s.send(0x70, &ids[0]);
        let got: Vec<Got> = (0..3).map(|_| message(&mut s, v5)).collect();
        assert_eq!((got[0].first, got[0].id.to_be_bytes(), &got[0].payload[..]), (0x3C, ids[2], &b"3"[..]));
        for (got, (first, payload)) in got[1..].iter().zip([(0x34, b"4"), (0x32, b"5")]) {
            assert_eq!((got.first, &got.payload[..]), (first, &payload[..]));
            assert!(!ids.contains(&got.id.to_be_bytes()), "a packet id of its own");
        }
        got.iter().for_each(|got| acknowledge(&mut s, got));
        // It sends again what it has no answer to.
        s.publish_with(0x3C, "m", b"once", 9, v5);
        assert_eq!(s.packet(), (0x50, vec![0, 9]));
        s.send(0x62, &[0, 9]);
        assert_eq!(s.packet(), (0x70, vec![0, 9]));
        s.publish_with(0x34, "m", b"next", 9, v5);
        assert_eq!(s.packet(), (0x50, vec![0, 9]));
        assert_eq!(take(&mut watcher, v5, 1), ["next"], "and none before it");
        s.ping();
        // And back: nothing is left.
        drop(s);
        nodes.wait_away("s");
        let mut s = rejoin(nodes.at(0), v5, "s");
        publish(&mut p, v5, 0x34, "n", b"6");
        assert_eq!(take(&mut s, v5, 1), ["6"]);
    }
}

#[test]
fn a_session_continues_at_another_node_with_its_queue_and_its_packet_ids() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        nodes.wait_known(1, 2);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        for payload in ["1", "2"] {
            publish(&mut p, v5, 0x32, "n", payload.as_bytes());
        }
        assert_eq!([1, 2], [(); 2].map(|()| message(&mut s, v5).id));
        s.send(0x40, &[0, 1]);
        s.ping();
        drop(s);
        nodes.wait_away("s");
        publish(&mut p, v5, 0x32, "n", b"3");
        let mut s = rejoin(nodes.at(1), v5, "s");
        publish(&mut p, v5, 0x32, "n", b"4");
        // It was left in order: what had been sent is known.
        for (first, id, payload) in [(0x3A, 2, b"2"), (0x32, 3, b"3"), (0x32, 4, b"4")] {
            let got = message(&mut s, v5);
            assert_eq!((got.first, got.id, &got.payload[..]), (first, id, &payload[..]));
        }
    }
}

#[test]
fn a_client_that_connects_to_another_node_is_closed_at_the_first_behind_its_last_messages() {
    const ALL: usize = 50;
    for v5 in [false, true] {
        for flags in [CLEAN, 0] {
            let nodes = Nodes::<2>::new();
            let mut watcher = join(nodes.at(1), v5, "watcher", CLEAN);
            subscribe(&mut watcher, v5, 1, &[("m", 1)]);
            let mut first = join(nodes.at(0), v5, "s", flags);
            subscribe(&mut first, v5, 1, &[("n", 1)]);
            nodes.wait_known(0, 2);
            for n in 0..ALL {
                first.publish_with(0x30, "m", n.to_string().as_bytes(), 0, v5);
            }
            let mut second = nodes.at(1).client();
            second.connect(if v5 { 5 } else { 4 }, "s", flags, 0, if flags == 0 { LASTS } else { &[] });
            assert_eq!(second.packet().1[..2], [u8::from(flags == 0), 0]);
            assert_eq!(end(&mut first, v5), if v5 { 0x8E } else { 0 });
            assert_eq!(take(&mut watcher, v5, ALL), strings(0..ALL));
            second.ping();
            assert_eq!(nodes.at(0).broker.kept("default").0, 0, "the first node has no session");
        }
    }
}

/// A subscriber at QoS 2 with all that it knows, over its connections.
#[derive(Default)]
struct Once {
    /// Messages whose exchange is not over.
    open: BTreeSet<Vec<u8>>,
    got: Vec<String>,
}

impl Once {
    /// Reads packets and answers them until it has so many messages.
    fn take_to(&mut self, peer: &mut Peer, v5: bool, count: usize) {
        while self.got.len() < count {
            let (first, body) = peer.packet();
            let answer = if first & 0xF0 == 0x30 {
                let (id, payload) = (body[3..5].to_vec(), &body[5 + usize::from(v5)..]);
                if self.open.insert(id.clone()) {
                    self.got.push(String::from_utf8(payload.to_vec()).unwrap());
                }
                (0x50, id)
            } else {
                assert_eq!(first, 0x62, "{body:?}");
                self.open.remove(&body);
                (0x70, body)
            };
            peer.send(answer.0, &answer.1);
        }
    }
}

#[test]
fn a_client_that_goes_round_the_nodes_gets_each_message_once_and_in_order() {
    const ROUNDS: usize = 20;
    const EACH: usize = 25;
    for v5 in [false, true] {
        let nodes = Nodes::<3>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 2)]);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        nodes.wait_known(1, 2);
        let publisher = std::thread::spawn(move || {
            for n in 0..ROUNDS * EACH {
                publish(&mut p, v5, 0x34, "n", n.to_string().as_bytes());
            }
        });
        let mut once = Once::default();
        for round in 1..=ROUNDS {
            once.take_to(&mut s, v5, round * EACH / 2);
            // While messages arrive, and exchanges are not over.
            s = rejoin(nodes.at(round % 3), v5, "s");
        }
        once.take_to(&mut s, v5, ROUNDS * EACH);
        publisher.join().unwrap();
        assert_eq!(once.got, strings(0..ROUNDS * EACH));
    }
}

#[test]
fn a_clean_start_at_another_node_ends_the_session() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        nodes.wait_known(1, 2);
        drop(s);
        nodes.wait_away("s");
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        publish(&mut p, v5, 0x32, "n", b"old");
        let mut s = join(nodes.at(1), v5, "s", CLEAN);
        nodes.wait_known(0, 0);
        nodes.wait_known(1, 0);
        publish(&mut p, v5, 0x32, "n", b"early");
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        publish(&mut p, v5, 0x32, "n", b"new");
        assert_eq!(take(&mut s, v5, 1), ["new"]);
        drop(s);
        nodes.wait_away("s");
        let mut s = nodes.at(0).client();
        s.connect(if v5 { 5 } else { 4 }, "s", 0, 0, LASTS);
        assert_eq!(s.packet().1[..2], [0, 0], "no session is present");
    }
}

#[test]
fn each_message_of_a_shared_subscription_reaches_one_member_of_any_node() {
    const ALL: usize = 60;
    for v5 in [false, true] {
        let nodes = Nodes::<3>::new();
        // Two members at each of two nodes: one whose session lasts, one whose does not.
        let mut members = Vec::new();
        for node in [0, 1] {
            for flags in [CLEAN, 0] {
                let mut peer = join(nodes.at(node), v5, &format!("{node}-{flags}"), flags);
                subscribe(&mut peer, v5, 1, &[("$share/g/n", 1)]);
                members.push(peer);
            }
        }
        // Two of sessions that last, and of each node what its clean member asks for.
        nodes.wait_known(2, 4);
        let mut p = join(nodes.at(2), v5, "p", CLEAN);
        for n in 0..ALL {
            publish(&mut p, v5, 0x32, "n", n.to_string().as_bytes());
        }
        let mut all: Vec<usize> = Vec::new();
        let mut most = 0;
        for peer in &mut members {
            let mut own = Vec::new();
            while !is_quiet(peer) {
                own.extend(take(peer, v5, 1).iter().map(|payload| payload.parse::<usize>().unwrap()));
            }
            assert!(own.is_sorted());
            most = most.max(own.len());
            all.extend(own);
        }
        all.sort_unstable();
        assert_eq!(all, (0..ALL).collect::<Vec<_>>());
        assert!(most < ALL, "more than one member has some");
        // Those that leave get none while another is there.
        members.drain(1..);
        nodes.wait_away("0-0");
        nodes.wait_away("1-0");
        nodes.wait_known(2, 3);
        for n in 0..20 {
            publish(&mut p, v5, 0x32, "n", n.to_string().as_bytes());
        }
        assert_eq!(take(&mut members[0], v5, 20), strings(0..20));
    }
}

#[test]
fn retained_messages_are_the_same_at_every_node() {
    let earlier = RetainedMessage {
        tenant: "default".into(),
        topic: "r/earlier".into(),
        payload: b"earlier".to_vec(),
        qos: 0,
        properties: Vec::new(),
        published: model::clock::now(),
    };
    for v5 in [false, true] {
        let fleet = MemoryFleet::new();
        let worlds = ["a", "b"].map(|name| World::in_fleet_with(&fleet, name, vec![earlier.clone()]));
        let retained = |world: &World, wanted: &[&str]| {
            wait(|| {
                let mut peer = join(world, v5, "look", CLEAN);
                subscribe(&mut peer, v5, 1, &[("r/#", 0)]);
                let mut seen = Vec::new();
                peer.send(0xC0, &[]);
                loop {
                    let (first, body) = peer.packet();
                    if first == 0xD0 {
                        break;
                    }
                    assert_eq!(first, 0x31);
                    seen.push(String::from_utf8_lossy(&body).into_owned());
                }
                let is_one = |wanted: &&str| seen.iter().any(|seen| seen.ends_with(*wanted));
                seen.len() == wanted.len() && wanted.iter().all(is_one)
            });
        };
        wait(|| worlds.iter().all(|world| world.broker.other_nodes() == 1));
        let mut p = join(&worlds[0], v5, "p", CLEAN);
        // A node without a subscriber, and without a session.
        publish(&mut p, v5, 0x33, "r/x", b"first");
        publish(&mut p, v5, 0x35, "r/y", b"y");
        worlds.iter().for_each(|world| retained(world, &["earlier", "first", "y"]));
        publish(&mut p, v5, 0x31, "r/x", b"second");
        worlds.iter().for_each(|world| retained(world, &["earlier", "second", "y"]));
        let mut q = join(&worlds[1], v5, "q", CLEAN);
        publish(&mut q, v5, 0x33, "r/x", b"");
        publish(&mut q, v5, 0x33, "r/earlier", b"");
        worlds.iter().for_each(|world| retained(world, &["y"]));
    }
}

#[test]
fn a_delayed_will_is_cancelled_by_a_connection_at_another_node() {
    /// Will delay of 1 s.
    const DELAYED: &[u8] = &[0x18, 0, 0, 0, 1];
    let nodes = Nodes::<2>::new();
    let mut watcher = nodes.at(1).v5("watcher", CLEAN, &[]);
    subscribe(&mut watcher, true, 1, &[("wills/+", 0)]);
    nodes.wait_known(0, 1);
    for id in ["back", "gone"] {
        drop(nodes.at(0).with_will(id, true, LASTS, DELAYED, false));
        nodes.wait_away(id);
    }
    let mut back = nodes.at(1).client();
    back.connect(5, "back", 0, 0, LASTS);
    assert_eq!(back.packet().1[..2], [1, 0]);
    // Its time is over before that of the other.
    assert_eq!(message(&mut watcher, true).topic, "wills/gone");
    watcher.ping();
    // A new session ends the one before, and that publishes its will.
    drop(nodes.at(0).with_will("anew", true, LASTS, &[0x18, 0, 0, 0, 100], false));
    nodes.wait_away("anew");
    let mut anew = nodes.at(1).v5("anew", CLEAN, &[]);
    assert_eq!(message(&mut watcher, true).topic, "wills/anew");
    anew.ping();
    // One without a delay is published when its client is taken over.
    let first = nodes.at(0).with_will("taken", true, LASTS, &[], false);
    let mut second = nodes.at(1).client();
    second.connect(5, "taken", 0, 0, LASTS);
    assert_eq!(second.packet().1[..2], [1, 0]);
    assert_eq!(message(&mut watcher, true).topic, "wills/taken");
    drop(first);
    watcher.ping();
}

#[test]
fn no_local_and_subscription_ids_hold_over_nodes() {
    /// QoS 1 without the client's own messages.
    const NO_LOCAL: u8 = 1 | 4;
    for (flags, properties) in [(CLEAN, &[][..]), (0, LASTS)] {
        let nodes = Nodes::<2>::new();
        let mut s = nodes.at(0).v5("s", flags, properties);
        s.subscribe_with_id("n/#", 1, 3);
        s.subscribe_with_id("n/+", 2, 5);
        let mut own = nodes.at(0).v5("own", flags, properties);
        own.subscribe("o", NO_LOCAL, true);
        // Two or three of sessions that last, and two or three interests of their node.
        nodes.wait_known(1, if flags == CLEAN { 3 } else { 6 });
        let mut p = nodes.at(1).v5("p", CLEAN, &[]);
        publish(&mut p, true, 0x34, "n/x", b"both");
        let got = message(&mut s, true);
        let mut ids: Vec<u8> = properties_of(&got);
        ids.sort_unstable();
        assert_eq!((got.first, ids, &got.payload[..]), (0x34, vec![3, 5], &b"both"[..]));
        acknowledge(&mut s, &got);
        publish(&mut own, true, 0x32, "o", b"own");
        publish(&mut p, true, 0x32, "o", b"of another");
        assert_eq!(take(&mut own, true, 1), ["of another"]);
        s.ping();
    }
}

/// Subscription ids of a message.
fn properties_of(got: &Got) -> Vec<u8> {
    assert!(got.properties.chunks(2).all(|property| property[0] == 0x0B));
    got.properties.chunks(2).map(|property| property[1]).collect()
}

#[test]
fn messages_that_a_member_has_not_acknowledged_go_to_one_at_another_node() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut near = join(nodes.at(0), v5, "near", 0);
        subscribe(&mut near, v5, 1, &[("$share/g/n", 1)]);
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        for payload in strings(0..8) {
            publish(&mut p, v5, 0x32, "n", payload.as_bytes());
        }
        let mut far = join(nodes.at(1), v5, "far", 0);
        subscribe(&mut far, v5, 1, &[("$share/g/n", 1)]);
        nodes.wait_known(0, 3);
        drop(near);
        let mut taken = take(&mut far, v5, 8);
        taken.sort();
        assert_eq!(taken, strings(0..8));
    }
}

#[test]
fn a_message_on_its_way_to_a_member_that_leaves_reaches_one_at_another_node() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut near = join(nodes.at(0), v5, "near", 0);
        subscribe(&mut near, v5, 1, &[("$share/g/n", 1)]);
        let mut far = join(nodes.at(1), v5, "far", CLEAN);
        subscribe(&mut far, v5, 1, &[("$share/g/n", 1)]);
        nodes.wait_known(0, 2);
        nodes.fleet.deafen("b", true);
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        for payload in strings(0..8) {
            publish(&mut p, v5, 0x32, "n", payload.as_bytes());
        }
        drop(far);
        wait(|| nodes.at(1).metrics.connections.get() == 0);
        nodes.fleet.deafen("b", false);
        let mut taken = take(&mut near, v5, 8);
        taken.sort();
        assert_eq!(taken, strings(0..8));
    }
}

#[test]
fn a_message_for_a_member_that_has_left_or_ended_reaches_one_that_is_connected() {
    for (v5, flags) in [(false, 0), (true, 0), (false, CLEAN), (true, CLEAN)] {
        let nodes = Nodes::<2>::new();
        let mut near = join(nodes.at(0), v5, "near", 0);
        subscribe(&mut near, v5, 1, &[("$share/g/n", 1)]);
        let mut far = join(nodes.at(1), v5, "far", 0);
        subscribe(&mut far, v5, 1, &[("$share/g/n", 1)]);
        nodes.wait_known(0, 3);
        // Its node does not learn of it.
        nodes.fleet.deafen("a", true);
        drop(far);
        nodes.wait_away("far");
        drop((flags == CLEAN).then(|| join(nodes.at(1), v5, "far", CLEAN)));
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        for payload in strings(0..8) {
            publish(&mut p, v5, 0x32, "n", payload.as_bytes());
        }
        nodes.fleet.deafen("a", false);
        let mut taken = take(&mut near, v5, 8);
        taken.sort();
        assert_eq!(taken, strings(0..8));
    }
}

#[test]
fn retained_messages_of_a_new_subscription_come_at_the_next_node_when_its_client_moves() {
    const TOPICS: usize = 1500;
    // Ten messages in flight.
    let own = [LASTS, &[0x21, 0, 10]].concat();
    for is_cut in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut p = join(nodes.at(0), true, "p", CLEAN);
        for topic in 0..TOPICS {
            publish(&mut p, true, 0x33, &format!("r/{topic}"), b"kept");
        }
        let last = format!("r/{}", TOPICS - 1);
        wait(|| nodes.at(1).broker.retained_message("default", &last).is_some());
        let mut s = nodes.at(0).v5("s", 0, &own);
        subscribe(&mut s, true, 1, &[("r/#", 1)]);
        let mut topics = BTreeSet::new();
        let next = |s: &mut Peer, topics: &mut BTreeSet<String>| {
            let got = message(s, true);
            acknowledge(s, &got);
            // One that was not acknowledged in time comes again.
            assert!(topics.insert(got.topic.clone()) || got.first & 8 > 0, "{}", got.topic);
        };
        (0..100).for_each(|_| next(&mut s, &mut topics));
        if is_cut {
            drop(s);
            nodes.wait_away("s");
        }
        let mut s = nodes.at(1).client();
        s.connect(5, "s", 0, 0, &own);
        assert_eq!(s.packet().1[..2], [1, 0], "session present");
        while topics.len() < TOPICS {
            next(&mut s, &mut topics);
        }
        s.ping();
    }
}

/// One without a subscriber is known at the other node, too.
#[test]
fn a_retained_message_that_is_sent_again_to_another_node_does_not_replace_a_later_one() {
    for v5 in [false, true] {
        let mut nodes = Nodes::<2>::new();
        let mut c = join(nodes.at(0), v5, "c", 0);
        c.publish_with(0x35, "n", b"before", 1, v5);
        assert_eq!(c.packet().0, 0x50);
        wait(|| nodes.at(1).broker.retained_message("default", "n").is_some());
        let mut s = join(nodes.at(1), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        nodes.wait_known(0, 2);
        assert_eq!(take(&mut s, v5, 1), ["before"]);
        c.publish_with(0x35, "n", b"after", 2, v5);
        assert_eq!(c.packet().0, 0x50);
        assert_eq!(take(&mut s, v5, 1), ["after"]);
        nodes.kill(0);
        let mut c = join(nodes.at(1), v5, "c", 0);
        for (id, payload) in [(1, "before"), (2, "after")] {
            c.publish_with(0x3D, "n", payload.as_bytes(), id, v5);
            assert_eq!(c.packet().0, 0x50);
        }
        let mut new = nodes.at(1).v4("new", CLEAN);
        new.subscribe("n", 1, false);
        assert_eq!(take(&mut new, false, 1), ["after"]);
    }
}
