//! Delayed will messages in a fleet: not sent when the client is back at any node before the delay
//! is over.

use std::time::{Duration, Instant};

use crate::fleet::Nodes;
use crate::packets::*;
use crate::world::*;

/// Will delay of 2 s.
const DELAYED: &[u8] = &[0x18, 0, 0, 0, 2];
/// Will delay of 100 s.
const LONG: &[u8] = &[0x18, 0, 0, 0, 100];

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

/// Waits until a node keeps only so many will messages.
fn wait_kept(nodes: &Nodes<2>, node: usize, count: usize) {
    let is_will = |record: &&weir_broker::RetainedMessage| record.topic.starts_with("$weir/wills/");
    wait(|| nodes.at(node).log.state().iter().filter(is_will).count() == count);
}

/// Waits until a node has cleared so many will messages of its earlier start, each once.
fn wait_cleared(nodes: &Nodes<2>, node: usize, count: usize) {
    let log = &nodes.at(node).log;
    wait(|| log.own.lock().len() == count);
    assert!(log.own.lock().iter().all(|(_, payload)| payload.is_empty()));
}

/// Starts a node that was killed, with what is in its log.
fn start_again(nodes: &mut Nodes<2>, node: usize, state: Vec<weir_broker::RetainedMessage>) {
    nodes.worlds[node] = Some(World::in_fleet_with(&nodes.fleet, ["a", "b"][node], state));
    // The watcher is known there.
    wait(|| nodes.at(node).broker.routes("default") > 0);
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
    wait_kept(&nodes, 0, 0);
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
    for id in ["back", "gone", "here"] {
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
    publish(&mut other, true, 0x32, "n", b"1");
    assert_eq!(message(&mut other, true).payload, b"1");
    drop(nodes.at(0).with_will("prompt", true, &[], &[], true));
    assert_eq!(wills(&mut local, 1), ["wills/prompt"]);
    wait_kept(&nodes, 0, 2);
    nodes.fleet.cut_off("a", false);
    // That of the other one was on its way.
    assert_eq!(wills(&mut watcher, 2), ["wills/gone", "wills/prompt"]);
    wait_kept(&nodes, 0, 0);
    watcher.ping();
    here.ping();
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
    wait_kept(&nodes, 0, 0);
    watcher.ping();
}

#[test]
fn a_will_that_was_kept_over_a_restart_is_sent_unless_its_client_is_back() {
    let (mut nodes, mut watcher) = watched();
    let clients =
        ["back", "anew", "connected", "waits"].map(|id| nodes.at(0).with_will(id, true, LASTS, DELAYED, false));
    let _expires = nodes.at(0).with_will("expires", true, &[0x11, 0, 0, 0, 1], LONG, false);
    leave(&nodes, 0, "away", DELAYED);
    wait_kept(&nodes, 0, 6);
    let state = nodes.at(0).log.state();
    nodes.kill(0);
    drop(clients);
    drop(rejoin(nodes.at(1), true, "back"));
    let _anew = nodes.at(1).v5("anew", CLEAN, &[]);
    let _connected = rejoin(nodes.at(1), true, "connected");
    let begun = Instant::now();
    start_again(&mut nodes, 0, state);
    assert_eq!(wills(&mut watcher, 3), ["wills/away", "wills/expires", "wills/waits"]);
    assert!(begun.elapsed() > Duration::from_secs(2), "the delay begins anew");
    wait_cleared(&nodes, 0, 6);
    watcher.ping();
}

#[test]
fn many_wills_of_an_earlier_start_hold_nothing_up_and_come_once() {
    const ALL: usize = 10_000;
    let (mut nodes, mut watcher) = watched();
    let first = nodes.at(0).with_will("d00000", true, LASTS, DELAYED, false);
    wait_kept(&nodes, 0, 1);
    let record = nodes.at(0).log.state().remove(0);
    nodes.kill(0);
    drop(first);
    // The others are of sessions that have ended.
    let state = (0..ALL).map(|n| {
        let id = format!("d{n:05}");
        let mut record = record.clone();
        record.topic += &id;
        for at in 0..record.payload.len() - id.len() {
            if record.payload[at..].starts_with(b"d00000") {
                record.payload[at..at + id.len()].copy_from_slice(id.as_bytes());
            }
        }
        record
    });
    nodes.worlds[0] = Some(World::in_fleet_with(&nodes.fleet, "a", state.collect()));
    nodes.at(0).v5("c", CLEAN, &[]).ping();
    let expected: Vec<String> = (0..ALL).map(|n| format!("wills/d{n:05}")).collect();
    assert!(wills(&mut watcher, ALL) == expected, "each once");
    wait_cleared(&nodes, 0, ALL);
    watcher.ping();
}

#[test]
fn a_node_that_starts_or_stops_while_the_store_is_away_keeps_its_delayed_wills() {
    let (mut nodes, mut watcher) = watched();
    for id in ["back", "gone"] {
        leave(&nodes, 0, id, DELAYED);
        nodes.wait_away(id);
    }
    nodes.fleet.cut_off("a", true);
    nodes.worlds[0].as_mut().unwrap().stop();
    wait_kept(&nodes, 0, 2);
    let state = nodes.at(0).log.state();
    nodes.kill(0);
    let _back = rejoin(nodes.at(1), true, "back");
    nodes.fleet.away(true);
    nodes.worlds[0] = Some(World::in_fleet_with(&nodes.fleet, "a", state));
    // It takes clients.
    nodes.at(0).v5("c", CLEAN, &[]).ping();
    assert_eq!(nodes.at(0).log.own.lock().len(), 0);
    nodes.fleet.away(false);
    assert_eq!(wills(&mut watcher, 1), ["wills/gone"]);
    wait_cleared(&nodes, 0, 2);
    watcher.ping();
}
