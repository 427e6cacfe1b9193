//! Will messages in a fleet: sent once by the node of the connection, or by another one when that
//! has ended, and not when the client is back at any node before their delay is over.

use std::time::{Duration, Instant};

use weir_broker::fleet::Client;

use crate::fleet::Nodes;
use crate::packets::*;
use crate::world::*;

/// Will delay of 2 s.
const DELAYED: &[u8] = &[0x18, 0, 0, 0, 2];
/// Will delay of 100 s.
const LONG: &[u8] = &[0x18, 0, 0, 0, 100];

/// QoS 0, without the retained messages.
const NO_RETAINED: u8 = 0x20;

/// Two nodes, and a subscriber of all will messages at the second.
fn watched() -> (Nodes<2>, Peer) {
    let nodes = Nodes::<2>::new();
    let mut watcher = nodes.at(1).v5("watcher", CLEAN, &[]);
    subscribe(&mut watcher, true, 1, &[("wills/+", 0)]);
    nodes.wait_known(0, 1);
    (nodes, watcher)
}

/// A client whose session lasts connects to a node and leaves it without a DISCONNECT.
fn leave(nodes: &Nodes<2>, node: usize, id: &str, delay: &[u8]) {
    drop(nodes.at(node).with_will(id, true, LASTS, delay, false));
    wait(|| nodes.at(node).broker.session("default", id).is_none_or(|session| !session.connected));
}

/// Waits until so many will messages are kept.
fn wait_kept(nodes: &Nodes<2>, count: usize) {
    wait(|| nodes.fleet.wills() == count);
}

/// A client `d` with a retained will message `gone` on `wills/d`, as presence is often made.
fn with_retained_will(world: &World, properties: &[u8]) -> Peer {
    let mut peer = world.client();
    // With a will message that is retained.
    let head = [b"\0\x04MQTT\x05", &[0x24, 0, 0][..], &list(properties)].concat();
    let will = [&[0][..], &text("wills/d"), &text("gone")].concat();
    peer.send(0x10, &[head, text("d"), will].concat());
    assert_eq!(peer.packet().1[1], 0);
    peer
}

/// The topics of the next will messages, in any order.
fn wills(watcher: &mut Peer, count: usize) -> Vec<String> {
    let mut topics: Vec<String> = (0..count).map(|_| message(watcher, true).topic).collect();
    topics.sort();
    topics
}

#[test]
fn a_node_asks_before_it_publishes_a_delayed_will() {
    let (nodes, mut watcher) = watched();
    // It does not hear of connections elsewhere, as a node that is behind.
    nodes.fleet.deafen("a", true);
    for id in ["back", "and-left", "gone"] {
        leave(&nodes, 0, id, DELAYED);
        nodes.wait_away(id);
    }
    let mut back = rejoin(nodes.at(1), true, "back");
    drop(rejoin(nodes.at(1), true, "and-left"));
    assert_eq!(wills(&mut watcher, 1), ["wills/gone"]);
    wait_kept(&nodes, 0);
    watcher.ping();
    back.ping();
    nodes.fleet.deafen("a", false);
    // Once.
    drop(rejoin(nodes.at(1), true, "gone"));
    leave(&nodes, 0, "next", DELAYED);
    assert_eq!(wills(&mut watcher, 1), ["wills/next"]);
}

#[test]
fn a_delayed_will_waits_for_a_store_that_is_away_and_nothing_else_does() {
    let (nodes, mut watcher) = watched();
    for id in ["back", "gone", "here", "late"] {
        leave(&nodes, 0, id, DELAYED);
        nodes.wait_away(id);
    }
    nodes.fleet.cut_off("a", true);
    let begun = Instant::now();
    let _back = rejoin(nodes.at(1), true, "back");
    // It is back, with a session that ends with its connection.
    let mut here = nodes.at(0).client();
    here.connect(5, "here", 0, 0, LASTS);
    assert_eq!(here.packet().1[..2], [0, 0]);
    let mut other = join(nodes.at(0), true, "other", CLEAN);
    subscribe(&mut other, true, 1, &[("n", 1)]);
    // One without a delay, at the same node.
    let mut local = nodes.at(0).v5("local", CLEAN, &[]);
    subscribe(&mut local, true, 1, &[("wills/+", 0)]);
    wait(|| begun.elapsed() > Duration::from_millis(2500));
    // It is back after the delay.
    let mut late = nodes.at(0).client();
    late.connect(5, "late", 0, 0, LASTS);
    assert_eq!(late.packet().1[..2], [0, 0]);
    publish(&mut other, true, 0x32, "n", b"1");
    assert_eq!(message(&mut other, true).payload, b"1");
    drop(nodes.at(0).with_will("prompt", true, &[], &[], true));
    assert_eq!(wills(&mut local, 1), ["wills/prompt"]);
    nodes.fleet.cut_off("a", false);
    // That of the other one was on its way.
    assert_eq!(wills(&mut watcher, 2), ["wills/gone", "wills/prompt"]);
    wait_kept(&nodes, 0);
    watcher.ping();
    here.ping();
    late.ping();
}

#[test]
fn a_delayed_will_is_sent_once_when_its_session_ends_before() {
    let (nodes, mut watcher) = watched();
    // Session expiry of 1 s.
    drop(nodes.at(0).with_will("brief", true, &[0x11, 0, 0, 0, 1], LONG, false));
    assert_eq!(wills(&mut watcher, 1), ["wills/brief"]);
    // The store ends it.
    leave(&nodes, 0, "expired", LONG);
    nodes.wait_away("expired");
    nodes.fleet.advance(Duration::from_secs(257));
    assert_eq!(wills(&mut watcher, 1), ["wills/expired"]);
    wait_kept(&nodes, 0);
    watcher.ping();
}

#[test]
fn the_wills_of_a_killed_node_are_sent_by_another_one_unless_their_clients_are_back() {
    let (mut nodes, mut watcher) = watched();
    let clients = ["back", "connected", "waits"].map(|id| nodes.at(0).with_will(id, true, LASTS, DELAYED, false));
    let anew = nodes.at(0).with_will("anew", true, LASTS, LONG, false);
    let prompt = nodes.at(0).with_will("prompt", true, LASTS, &[], false);
    let short = nodes.at(0).with_will("short", true, &[], &[], true);
    let expires = nodes.at(0).with_will("expires", true, &[0x11, 0, 0, 0, 1], LONG, false);
    leave(&nodes, 0, "away", DELAYED);
    nodes.wait_away("away");
    let state = nodes.at(0).log.state();
    assert!(state.iter().all(|record| !record.topic.starts_with("$weir/wills/")), "they are in the store alone");
    let begun = Instant::now();
    nodes.kill(0);
    drop((clients, anew, prompt, short, expires));
    drop(rejoin(nodes.at(1), true, "back"));
    let _connected = rejoin(nodes.at(1), true, "connected");
    let mut anew = nodes.at(1).v5("anew", CLEAN, &[]);
    assert_eq!(wills(&mut watcher, 3), ["wills/anew", "wills/prompt", "wills/short"]);
    // Its next start has nothing to send.
    nodes.worlds[0] = Some(World::in_fleet_with(&nodes.fleet, "a", state));
    assert_eq!(wills(&mut watcher, 3), ["wills/away", "wills/expires", "wills/waits"]);
    assert!(begun.elapsed() > Duration::from_secs(2), "after the delay");
    wait_kept(&nodes, 0);
    anew.ping();
    watcher.ping();
}

#[test]
fn the_will_of_a_killed_node_comes_before_all_that_its_client_sends_next() {
    let (mut nodes, _) = watched();
    let retains = |world: &World, topic: &str| {
        let retained = world.broker.retained_message("default", topic);
        retained.map(|message| String::from_utf8_lossy(&message.payload).into_owned())
    };
    for lasts in [LASTS, &[]] {
        let old = with_retained_will(nodes.at(0), lasts);
        let mut watcher = nodes.at(1).v5("second watcher", CLEAN, &[]);
        // Not the retained one of the round before.
        subscribe(&mut watcher, true, 1, &[("wills/+", NO_RETAINED)]);
        let mut state = nodes.at(0).log.state();
        // A session is stored a moment after its CONNACK.
        let d = Client { tenant: "default".into(), id: "d".into() };
        wait(|| nodes.fleet.session(&d).is_some_and(|(_, kept)| kept.is_some() != lasts.is_empty()));
        nodes.kill(0);
        drop(old);
        let mut back = nodes.at(1).client();
        back.connect(5, "d", 0, 0, LASTS);
        assert_eq!(back.packet().1[0], u8::from(!lasts.is_empty()));
        publish(&mut back, true, 0x31, "wills/d", b"here");
        let payloads: Vec<_> = (0..2).map(|_| message(&mut watcher, true).payload).collect();
        assert_eq!(payloads, [b"gone", b"here"]);
        // The next start of that node does not change it.
        wait(|| retains(nodes.at(1), "wills/d").as_deref() == Some("here"));
        state.extend(nodes.at(1).log.state());
        nodes.worlds[0] = Some(World::in_fleet_with(&nodes.fleet, "a", state));
        wait(|| retains(nodes.at(0), "wills/d").as_deref() == Some("here"));
        wait_kept(&nodes, 0);
        watcher.ping();
        assert_eq!(retains(nodes.at(1), "wills/d").as_deref(), Some("here"));
        // Its session ends.
        back.send(0xE0, &[0, 5, 0x11, 0, 0, 0, 0]);
        nodes.wait_away("d");
    }
}

#[test]
fn the_will_of_a_node_that_does_not_answer_is_sent_once() {
    let (nodes, mut watcher) = watched();
    let _prompt = nodes.at(0).with_will("prompt", true, LASTS, &[], false);
    let _delayed = nodes.at(0).with_will("delayed", true, LASTS, DELAYED, false);
    nodes.fleet.deafen("a", true);
    let mut back = rejoin(nodes.at(1), true, "prompt");
    assert_eq!(wills(&mut watcher, 1), ["wills/prompt"]);
    let mut delayed = rejoin(nodes.at(1), true, "delayed");
    wait_kept(&nodes, 0);
    nodes.fleet.deafen("a", false);
    // It has given them up.
    wait(|| ["prompt", "delayed"].iter().all(|id| nodes.at(0).broker.session("default", id).is_none()));
    leave(&nodes, 0, "next", &[]);
    assert_eq!(wills(&mut watcher, 1), ["wills/next"]);
    back.ping();
    delayed.ping();
    watcher.ping();
}

#[test]
fn many_wills_of_a_killed_node_hold_nothing_up_and_come_once() {
    const ALL: usize = 1500;
    let (mut nodes, mut watcher) = watched();
    let clients: Vec<_> = (0..ALL)
        .map(|n| nodes.at(0).with_will(&format!("d{n:05}"), true, if n % 2 == 0 { LASTS } else { &[] }, &[], true))
        .collect();
    wait_kept(&nodes, ALL);
    nodes.kill(0);
    drop(clients);
    nodes.at(1).v5("c", CLEAN, &[]).ping();
    let expected: Vec<String> = (0..ALL).map(|n| format!("wills/d{n:05}")).collect();
    assert!(wills(&mut watcher, ALL) == expected, "each once");
    wait_kept(&nodes, 0);
    watcher.ping();
}

#[test]
fn a_node_that_stops_leaves_its_delayed_wills_to_the_others() {
    for is_away in [false, true] {
        let (mut nodes, mut watcher) = watched();
        for (id, delay) in [("back", LONG), ("gone", DELAYED)] {
            leave(&nodes, 0, id, delay);
            nodes.wait_away(id);
        }
        nodes.fleet.cut_off("a", is_away);
        nodes.worlds[0].as_mut().unwrap().stop();
        watcher.ping();
        nodes.kill(0);
        let _back = rejoin(nodes.at(1), true, "back");
        assert_eq!(wills(&mut watcher, 1), ["wills/gone"]);
        wait_kept(&nodes, 0);
        watcher.ping();
    }
}

#[test]
fn a_client_that_leaves_in_order_has_no_will() {
    let (mut nodes, mut watcher) = watched();
    let mut client = nodes.at(0).with_will("c", true, LASTS, &[], false);
    wait_kept(&nodes, 1);
    client.send(0xE0, &[]);
    wait_kept(&nodes, 0);
    nodes.kill(0);
    watcher.ping();
}
