//! A fleet in which changes have no effect: nothing of them is acknowledged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;
use weir_broker::Config;
use weir_broker::fleet::memory::{MemoryFleet, MemoryNode};
use weir_broker::fleet::{
    Arrival, Bus, Client, DueWill, Forwarded, HandOver, Interest, Leftover, Node, Owned, Route, Subscription,
};

use crate::fleet::{Nodes, take};
use crate::packets::*;
use crate::world::*;

fn client(id: &str) -> Client {
    Client { tenant: "default".into(), id: id.into() }
}

/// Reads a connection to its end. Returns the first bytes of its packets, but for messages to the
/// client, and the reason of a DISCONNECT.
fn rest(peer: &mut Peer) -> (Vec<u8>, Option<u8>) {
    let bytes = all(peer);
    let (mut packets, mut reason, mut rest) = (Vec::new(), None, bytes.as_slice());
    while let [first, length, ..] = rest {
        let (packet, behind) = rest.split_at(2 + usize::from(*length));
        if first & 0xF0 != 0x30 {
            packets.push(*first);
        }
        if *first == 0xE0 {
            reason = packet.get(2).copied();
        }
        rest = behind;
    }
    (packets, reason)
}

/// A node that was paused: others have its client by the time that its changes reach the store, and
/// it does not know it.
#[test]
fn a_node_that_has_lost_a_client_acknowledges_nothing_of_it() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut watcher = join(nodes.at(1), v5, "watcher", 0);
        subscribe(&mut watcher, v5, 1, &[("m", 2)]);
        // The subscription, and the interest of its node.
        nodes.wait_known(0, 2);
        let mut moved = Vec::new();
        for (kind, id) in ["subscribe", "unsubscribe", "publish", "release"].into_iter().zip(["1", "2", "3", "4"]) {
            let mut s = join(nodes.at(0), v5, id, 0);
            subscribe(&mut s, v5, 1, &[("n", 1)]);
            if kind == "release" {
                s.publish_with(0x34, "m", b"released", 9, v5);
                assert_eq!(s.packet().0, 0x50);
            }
            nodes.fleet.cut_off("a", true);
            nodes.fleet.deafen("a", true);
            match kind {
                "subscribe" => s.send(0x82, &[&[0, 2], none(v5), &text("x"), &[1]].concat()),
                "unsubscribe" => s.send(0xA2, &[&[0, 2], none(v5), &text("n")].concat()),
                "publish" => s.publish_with(0x34, "m", b"lost", 9, v5),
                _ => s.send(0x62, &[0, 9]),
            }
            assert!(is_quiet(&s), "the store is away");
            let mut again = rejoin(nodes.at(1), v5, id);
            nodes.fleet.cut_off("a", false);
            let (packets, reason) = rest(&mut s);
            assert_eq!((&packets[..], reason), if v5 { (&[0xE0][..], Some(0x8E)) } else { (&[][..], None) }, "{kind}");
            nodes.fleet.deafen("a", false);
            // The client sends it again.
            if kind == "publish" {
                again.publish_with(0x3C, "m", b"lost", 9, v5);
                assert_eq!(again.packet().0, 0x50);
            }
            again.ping();
            moved.push(again);
        }
        let got = [message(&mut watcher, v5), message(&mut watcher, v5)];
        assert_eq!(got.each_ref().map(|got| &got.payload[..]), [&b"lost"[..], b"released"]);
        got.iter().for_each(|got| acknowledge(&mut watcher, got));
        watcher.ping();
        // The node knows their subscriptions as the store has them: one each, and the interest.
        nodes.wait_known(0, 2 + 4 + 1);
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        for topic in ["n", "x"] {
            publish(&mut p, v5, 0x32, topic, topic.as_bytes());
        }
        for again in &mut moved {
            assert_eq!(take(again, v5, 1), ["n"]);
            again.ping();
        }
    }
}

/// A client `p` at the first node, whose retained message of QoS 2 under packet id 9 is not durable
/// in the log, and a subscriber at the second one that has come since.
fn published_before_its_subscriber(nodes: &Nodes<2>, v5: bool) -> [Peer; 2] {
    let log = &nodes.at(0).log;
    let mut p = join(nodes.at(0), v5, "p", 0);
    log.instant.store(false, Ordering::SeqCst);
    p.publish_with(0x35, "r", b"once", 9, v5);
    wait(|| log.retained.lock().len() == 1);
    let mut s = join(nodes.at(1), v5, "s", 0);
    subscribe(&mut s, v5, 1, &[("r", 1)]);
    s.ping();
    // The subscription, and the interest of its node.
    nodes.wait_known(0, 2);
    [p, s]
}

fn receipts(nodes: &Nodes<2>, id: &str) -> Vec<u16> {
    nodes.fleet.session(&client(id)).and_then(|(_, session)| session).unwrap().receipts
}

#[test]
fn a_retained_message_reaches_a_session_that_has_subscribed_since_once_when_its_client_moves() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let [mut first, mut s] = published_before_its_subscriber(&nodes, v5);
        let mut p = rejoin(nodes.at(1), v5, "p");
        assert_eq!(end(&mut first, v5), if v5 { 0x8E } else { 0 });
        let log = &nodes.at(0).log;
        log.release_to(log.last.load(Ordering::SeqCst));
        // It has gone to its subscribers, as far as it does.
        wait(|| nodes.at(0).metrics.connections.get() == 0);
        p.publish_with(0x3D, "r", b"once", 9, v5);
        assert_eq!(p.packet().0, 0x50);
        assert_eq!(receipts(&nodes, "p"), [9]);
        publish(&mut p, v5, 0x34, "r", b"next");
        assert_eq!(take(&mut s, v5, 2), ["once", "next"]);
        s.ping();
    }
}

#[test]
fn a_retained_message_for_a_session_that_has_subscribed_since_is_over_when_its_client_releases_it() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let [mut p, mut s] = published_before_its_subscriber(&nodes, v5);
        let log = &nodes.at(0).log;
        log.instant.store(true, Ordering::SeqCst);
        log.release_to(log.last.load(Ordering::SeqCst));
        assert_eq!(p.packet().0, 0x50);
        assert_eq!(receipts(&nodes, "p"), [9]);
        p.send(0x62, &[0, 9]);
        assert_eq!(p.packet().0, 0x70);
        assert!(receipts(&nodes, "p").is_empty());
        // Another message under its packet id is a new one, at the next node too.
        let mut p = rejoin(nodes.at(1), v5, "p");
        p.publish_with(0x34, "r", b"next", 9, v5);
        assert_eq!(p.packet().0, 0x50);
        assert_eq!(take(&mut s, v5, 2), ["once", "next"]);
    }
}

#[test]
fn a_change_that_the_store_fails_to_make_ends_its_connection_and_holds_up_no_other() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(0), v5, "s", 0);
        let mut other = join(nodes.at(0), v5, "other", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        subscribe(&mut other, v5, 1, &[("o", 1)]);
        nodes.wait_known(0, 2);
        nodes.fleet.corrupt(Some(client("s")));
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        p.publish_with(0x32, "n", b"x", 7, v5);
        s.send(0x82, &[&[0, 2], none(v5), &text("x"), &[1]].concat());
        for peer in [&mut p, &mut s] {
            let (packets, reason) = rest(peer);
            assert_eq!((&packets[..], reason), if v5 { (&[0xE0][..], Some(0x83)) } else { (&[][..], None) });
        }
        assert_eq!(nodes.at(0).ended("unstored"), 2);
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        publish(&mut p, v5, 0x32, "o", b"y");
        assert_eq!(take(&mut other, v5, 1), ["y"]);
        nodes.fleet.corrupt(None);
        let mut s = rejoin(nodes.at(0), v5, "s");
        publish(&mut p, v5, 0x32, "n", b"z");
        assert_eq!(take(&mut s, v5, 1), ["z"]);
    }
}

/// A node whose clients have little time to connect.
fn hasty(fleet: &MemoryFleet, name: &str) -> World {
    let node = fleet.node(name);
    let config = Config { connect_timeout_ms: 800, ..Config::default() };
    World::with_ports((Arc::clone(&node) as Arc<_>, node as Arc<_>), name, config, Vec::new())
}

#[test]
fn a_client_that_may_have_a_session_waits_for_a_store_that_falters_and_others_do_not() {
    for v5 in [false, true] {
        let level = if v5 { 5 } else { 4 };
        let nodes = Nodes::<1>::new();
        let world = nodes.at(0);
        drop(join(world, v5, "s", 0));
        nodes.wait_away("s");
        nodes.fleet.falter(true);
        let mut s = world.client();
        s.connect(level, "s", 0, 0, LASTS);
        // It has no session to continue.
        join(world, v5, "clean", CLEAN).ping();
        assert!(is_quiet(&s), "it waits");
        nodes.fleet.falter(false);
        assert_eq!(s.packet().1[..2], [1, 0], "its session is there");
        s.ping();

        let world = hasty(&nodes.fleet, "b");
        nodes.fleet.falter(true);
        let mut s = world.client();
        s.connect(level, "other", 0, 0, LASTS);
        assert_eq!(s.packet().1[..2], [0, if v5 { 0x88 } else { 3 }]);
        assert!(s.is_closed());
        wait(|| world.ended("fleet_unavailable") == 1);
        assert_eq!(world.metrics.unclaimed.get(), 0);
        // After some time it is away, and devices get in without their sessions.
        nodes.fleet.away(true);
        let mut s = world.client();
        s.connect(level, "other", 0, 0, LASTS);
        assert_eq!(s.packet().1[..2], [0, 0]);
        s.ping();
        assert_eq!(world.metrics.unclaimed.get(), 1);
    }
}

#[test]
fn connections_of_several_nodes_that_take_a_client_from_each_other_are_paced() {
    const TAKEN: u32 = 12;
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let begun = Instant::now();
        let mut held = None;
        for n in 0..TAKEN {
            let next = join(nodes.at(n as usize % 2), v5, "twins", 0);
            if let Some(mut before) = held.replace(next) {
                assert_eq!(end(&mut before, v5), if v5 { 0x8E } else { 0 });
            }
        }
        // Ten at once, and then one a second.
        assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
        assert!((0..2).any(|node| nodes.at(node).metrics.takeovers_paced.get() > 0));
        // A client that leaves before it connects elsewhere takes nothing over.
        let paced = || (0..2).map(|node| nodes.at(node).metrics.takeovers_paced.get()).sum::<u64>();
        let before = paced();
        for n in 0..30 {
            let mut peer = join(nodes.at(n % 2), v5, "roams", 0);
            peer.send(0xE0, &[]);
            assert!(peer.is_closed());
            nodes.wait_away("roams");
        }
        assert_eq!(paced(), before);
    }
}

/// A node with a second pool, whose routes come when the test lets them.
struct TwoPools {
    first: Arc<MemoryNode>,
    second: Notify,
}

#[async_trait]
impl Bus for TwoPools {
    fn forward(&self, to: &[Node], message: Forwarded) -> bool {
        self.first.forward(to, message)
    }

    fn poll_forward(&self, tenant: &str, cx: &mut Context<'_>) -> Poll<()> {
        self.first.poll_forward(tenant, cx)
    }

    fn begin(&self, owned: &Owned) {
        self.first.begin(owned);
    }

    fn handed_over(&self, hand_over: &HandOver) {
        self.first.handed_over(hand_over);
    }

    fn renew_routes(&self) {
        self.first.renew_routes();
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        self.first.arrivals().await
    }

    async fn leftovers(&self, pool: usize) -> Vec<Leftover> {
        if pool == 0 { self.first.leftovers(pool).await } else { std::future::pending().await }
    }

    async fn wills(&self, pool: usize) -> Vec<DueWill> {
        if pool == 0 { self.first.wills(pool).await } else { std::future::pending().await }
    }

    async fn routes(&self) -> Vec<Route> {
        let how = Subscription { qos: 1, no_local: false, retain_as_published: false, id: None };
        let golden = Client { tenant: "gold".into(), id: "g".into() };
        // A server of another version may accept more levels.
        let deep = Route::Session(golden.clone(), 1, "x/".repeat(5000), Some((how, false)));
        tokio::select! {
            routes = self.first.routes() => routes,
            () = self.second.notified() => {
                vec![Route::Reset(1), deep, Route::Session(golden, 1, "x".into(), Some((how, false)))]
            }
        }
    }

    fn pools(&self) -> usize {
        2
    }

    fn is_in(&self, pool: usize, tenant: &str) -> bool {
        pool == usize::from(tenant == "gold")
    }
}

#[test]
fn a_node_of_several_pools_waits_for_the_subscribers_of_each_and_a_reset_of_one_ends_no_other() {
    let fleet = MemoryFleet::new();
    let first = World::in_fleet(&fleet, "a");
    let mut s = join(&first, true, "s", 0);
    subscribe(&mut s, true, 1, &[("n", 1)]);
    let bus = Arc::new(TwoPools { first: fleet.node("b"), second: Notify::new() });
    let ports = (Arc::clone(&bus.first) as Arc<_>, Arc::clone(&bus) as Arc<_>);
    let world = World::with_ports(ports, "b", Config::default(), Vec::new());
    let mut p = world.client();
    p.connect(5, "p", CLEAN, 0, &[]);
    // The subscription, and the interest of its node.
    wait(|| world.broker.routes("default") == 2);
    assert!(is_quiet(&p), "it is not accepted before the routes of all pools are known");
    bus.second.notify_one();
    assert_eq!(p.packet().1[..2], [0, 0]);
    assert_eq!((world.broker.routes("gold"), world.broker.routes("default")), (1, 2));
    fleet.reset_routes("b");
    drop(s);
    publish(&mut p, true, 0x32, "n", b"x");
    wait(|| world.broker.routes("default") == 1);
    assert_eq!(world.broker.routes("gold"), 1);
    assert_eq!(take(&mut rejoin(&first, true, "s"), true, 1), ["x"]);
}

#[test]
fn a_subscription_that_rises_from_qos_0_is_known_to_other_nodes_all_the_time() {
    for v5 in [false, true] {
        let nodes = Nodes::<1>::new();
        let other = nodes.fleet.node("other");
        let mut s = join(nodes.at(0), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 0)]);
        subscribe(&mut s, v5, 2, &[("n", 2)]);
        let (mut node, mut session, mut order) = (false, 0, Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let is_over = |order: &Vec<(bool, u8)>| matches!(order.as_slice(), [.., (false, 2)]);
        while !is_over(&order) {
            for route in runtime.block_on(other.routes()) {
                match route {
                    Route::Interest(_, _, filter, interest) if filter == "n" => node = interest == Some(Interest::All),
                    Route::Session(_, _, filter, Some((subscription, _))) if filter == "n" => {
                        session = subscription.qos;
                    }
                    _ => continue,
                }
                order.push((node, session));
            }
        }
        let begun = order.iter().position(|(node, _)| *node).unwrap();
        assert!(order[begun..].iter().all(|(node, session)| *node || *session == 2), "{order:?}");
        s.ping();
    }
}
