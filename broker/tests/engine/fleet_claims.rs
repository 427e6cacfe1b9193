//! A client that connects again to its node while that still ends the connection before: what was
//! acknowledged counts.

use weir_broker::Config;
use weir_broker::fleet::{Client, Owned};

use crate::fleet::{Nodes, take};
use crate::packets::*;
use crate::world::*;

fn client() -> Client {
    Client { tenant: "default".into(), id: "c".into() }
}

fn owned<const N: usize>(nodes: &Nodes<N>) -> Owned {
    nodes.fleet.session(&client()).unwrap().0
}

/// Connects `c` to the first node, up to a claim that has effect and no answer.
fn claim<const N: usize>(nodes: &Nodes<N>, v5: bool) -> Peer {
    let before = owned(nodes);
    nodes.fleet.hold_claims(true);
    let mut c = nodes.at(0).client();
    c.connect(if v5 { 5 } else { 4 }, "c", 0, 0, LASTS);
    wait(|| owned(nodes).epoch > before.epoch);
    c
}

/// A client `c` whose message of QoS 2 is acknowledged, and not known in the store: it has gone to
/// a subscriber whose session ends with its connection.
fn published<const N: usize>(nodes: &Nodes<N>, v5: bool) -> [Peer; 2] {
    let mut s = join(nodes.at(0), v5, "s", CLEAN);
    subscribe(&mut s, v5, 1, &[("n", 2)]);
    let mut c = join(nodes.at(0), v5, "c", 0);
    c.publish_with(0x34, "n", b"once", 9, v5);
    assert_eq!(c.packet().0, 0x50);
    assert_eq!(take(&mut s, v5, 1), ["once"]);
    [c, s]
}

/// The client has missed the PUBREC.
fn publish_again(c: &mut Peer, s: &mut Peer, v5: bool) {
    c.publish_with(0x3C, "n", b"once", 9, v5);
    assert_eq!(c.packet().0, 0x50);
    publish(c, v5, 0x34, "n", b"next");
    assert_eq!(take(s, v5, 1), ["next"]);
}

#[test]
fn a_message_that_was_acknowledged_before_its_connection_ends_during_the_next_claim_is_known() {
    for v5 in [false, true] {
        let nodes = Nodes::<1>::new();
        let [c, mut s] = published(&nodes, v5);
        let mut next = claim(&nodes, v5);
        drop(c);
        wait(|| nodes.at(0).ended("closed") == 1);
        nodes.fleet.hold_claims(false);
        assert_eq!(next.packet().1[..2], [1, 0], "session present");
        publish_again(&mut next, &mut s, v5);
    }
}

#[test]
fn a_message_that_was_released_during_the_next_claim_is_over_at_every_node() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let mut s = join(nodes.at(1), v5, "s", 0);
        subscribe(&mut s, v5, 1, &[("n", 1)]);
        nodes.wait_known(0, 2);
        let mut c = join(nodes.at(0), v5, "c", 0);
        c.publish_with(0x34, "n", b"1", 9, v5);
        assert_eq!(c.packet().0, 0x50);
        let mut next = claim(&nodes, v5);
        c.send(0x62, &[0, 9]);
        assert_eq!(end(&mut c, v5), if v5 { 0x8E } else { 0 }, "its release was refused");
        nodes.fleet.hold_claims(false);
        assert_eq!(next.packet().1[..2], [1, 0], "session present");
        next.send(0x62, &[0, 9]);
        assert_eq!(next.packet().0, 0x70);
        next.ping();
        let mut moved = rejoin(nodes.at(1), v5, "c");
        moved.publish_with(0x34, "n", b"2", 9, v5);
        assert_eq!(moved.packet().0, 0x50);
        assert_eq!(take(&mut s, v5, 2), ["1", "2"]);
    }
}

#[test]
fn a_session_whose_next_connection_ends_during_its_claim_goes_to_the_store() {
    for v5 in [false, true] {
        let mut nodes = Nodes::<2>::new();
        let node = nodes.fleet.node("a");
        let config = Config { connect_timeout_ms: 800, ..Config::default() };
        let hasty = World::with_ports((node.clone() as _, node as _), "a", config, Vec::new());
        nodes.worlds[0] = Some(hasty);
        let [c, mut s] = published(&nodes, v5);
        let mut next = claim(&nodes, v5);
        assert_eq!(nodes.fleet.owner(&client()), Some(("a".into(), true)));
        drop(c);
        assert!(next.is_closed(), "it has no more time");
        nodes.fleet.hold_claims(false);
        nodes.wait_away("c");
        let mut c = rejoin(nodes.at(1), v5, "c");
        publish_again(&mut c, &mut s, v5);
    }
}

#[test]
fn a_message_that_was_routed_is_known_when_its_connection_ends_before_the_store_is_back() {
    let nodes = Nodes::<2>::new();
    let mut s = join(nodes.at(1), true, "s", 0);
    subscribe(&mut s, true, 1, &[("n", 1)]);
    nodes.wait_known(0, 2);
    let mut c = join(nodes.at(0), true, "c", 0);
    nodes.fleet.away(true);
    c.publish_with(0x34, "n", b"once", 9, true);
    assert!(is_quiet(&c), "the store is away");
    drop(c);
    // It has waited for the store as long as it does.
    wait(|| nodes.at(0).ended("closed") == 1 && nodes.at(0).metrics.connections.get() == 0);
    nodes.fleet.away(false);
    nodes.wait_away("c");
    let mut c = rejoin(nodes.at(1), true, "c");
    c.publish_with(0x3C, "n", b"once", 9, true);
    assert_eq!(c.packet().0, 0x50);
    publish(&mut c, true, 0x34, "n", b"next");
    assert_eq!(take(&mut s, true, 2), ["once", "next"]);
}

/// A node that is behind: it does not know yet that its client was connected to another one.
#[test]
fn a_client_that_comes_back_finds_what_it_was_sent_elsewhere() {
    for v5 in [false, true] {
        let nodes = Nodes::<2>::new();
        let first = join(nodes.at(0), v5, "c", 0);
        nodes.fleet.deafen("a", true);
        let mut away = rejoin(nodes.at(1), v5, "c");
        subscribe(&mut away, v5, 1, &[("n", 1)]);
        let mut p = join(nodes.at(1), v5, "p", CLEAN);
        publish(&mut p, v5, 0x32, "n", b"1");
        assert_eq!(message(&mut away, v5).payload, b"1");
        drop(away);
        nodes.wait_away("c");
        let mut c = rejoin(nodes.at(0), v5, "c");
        nodes.fleet.deafen("a", false);
        assert_eq!(take(&mut c, v5, 1), ["1"]);
        nodes.wait_known(1, 2);
        publish(&mut p, v5, 0x32, "n", b"2");
        assert_eq!(take(&mut c, v5, 1), ["2"]);
        drop(first);
    }
}

#[test]
fn a_node_that_has_handed_a_client_over_sends_nothing_that_the_next_one_does_not_know_of() {
    for v5 in [false, true] {
        let mut nodes = Nodes::<2>::new();
        let mut c = join(nodes.at(0), v5, "c", 0);
        subscribe(&mut c, v5, 1, &[("n", 2)]);
        let mut p = join(nodes.at(0), v5, "p", CLEAN);
        nodes.fleet.hold_handed_over(true);
        let mut next = nodes.at(1).client();
        next.connect(if v5 { 5 } else { 4 }, "c", 0, 0, LASTS);
        wait(|| nodes.fleet.handed_over() == 1);
        publish(&mut p, v5, 0x34, "n", b"1");
        assert!(is_quiet(&c), "the next node would send it as a new one");
        nodes.fleet.hold_handed_over(false);
        assert_eq!(next.packet().1[..2], [1, 0], "session present");
        let (first, body) = next.packet();
        assert_eq!((first, &body[body.len() - 1..]), (0x34, &b"1"[..]), "not marked as DUP");
        assert_eq!(end(&mut c, v5), if v5 { 0x8E } else { 0 });

        // The node that has asked for the client ends.
        nodes.fleet.hold_handed_over(true);
        let mut back = nodes.at(0).client();
        back.connect(if v5 { 5 } else { 4 }, "c", 0, 0, LASTS);
        wait(|| nodes.fleet.handed_over() == 1);
        publish(&mut p, v5, 0x32, "n", b"2");
        assert!(is_quiet(&next));
        nodes.kill(0);
        wait(|| nodes.fleet.handed_over() == 0);
        assert_eq!(message(&mut next, v5).payload, b"2");
    }
}
