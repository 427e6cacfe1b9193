//! MQTT 3.1, and brokers that bridge.

use crate::world::*;

fn connect(world: &World, name: &[u8], level: u8, id: &str, flags: u8) -> Peer {
    let mut peer = world.client();
    let mut body = name.to_vec();
    body.extend_from_slice(&[level, flags, 0, 0]);
    body.extend_from_slice(&text(id));
    peer.send(0x10, &body);
    peer
}

const NAME_3_1: &[u8] = b"\0\x06MQIsdp";
const NAME: &[u8] = b"\0\x04MQTT";

#[test]
fn a_client_of_3_1_is_served_as_one_of_3_1_1() {
    let world = World::new(true);
    let long = "more-than-the-23-characters-of-3.1";
    let mut old = connect(&world, NAME_3_1, 3, long, 0);
    assert_eq!(old.packet(), (0x20, vec![0, 0]));
    assert_eq!(old.subscribe("a", 1, false), [0, 9, 1]);
    drop(old);
    wait(|| world.metrics.connections.get() == 0);
    let mut publisher = world.v4("p", CLEAN);
    publisher.publish("a", b"x", 1, 1, false);
    assert_eq!(publisher.packet().0, 0x40);
    let mut old = connect(&world, NAME_3_1, 3, long, 0);
    assert_eq!(old.packet(), (0x20, vec![0, 0]), "3.1 has no flag for a session that is present");
    assert_eq!(old.packet().0, 0x32, "the session was kept");
}

#[test]
fn refusals_of_3_1_are_return_codes() {
    let world = World::new(true);
    for (name, level, id, code) in
        [(NAME_3_1, 3, "", 2), (NAME_3_1, 4, "a", 1), (NAME, 3, "a", 1), (NAME, 0x83, "a", 1), (NAME_3_1, 0x84, "a", 1)]
    {
        let mut peer = connect(&world, name, level, id, CLEAN);
        assert_eq!(peer.packet(), (0x20, vec![0, code]), "{name:?} {level}");
        assert!(peer.is_closed());
    }
}

#[test]
fn a_bridge_gets_retained_messages_as_such_and_its_own_ones_not_back() {
    let world = World::new(true);
    let mut publisher = world.v4("p", CLEAN);
    for (name, level) in [(NAME, 0x84), (NAME_3_1, 0x83)] {
        let mut bridge = connect(&world, name, level, "edge", CLEAN);
        assert_eq!(bridge.packet(), (0x20, vec![0, 0]));
        bridge.subscribe("b/#", 1, false);
        bridge.publish("b/own", b"1", 1, 1, false);
        assert_eq!(bridge.packet().0, 0x40);
        publisher.publish_with(0x33, "b/other", b"2", 2, false);
        assert_eq!(publisher.packet().0, 0x40);
        assert_eq!(bridge.packet().0, 0x33, "with its retain flag, and first");
        drop(bridge);
        publisher.publish_with(0x33, "b/other", b"", 3, false);
        assert_eq!(publisher.packet().0, 0x40);
        wait(|| world.metrics.connections.get() == 1);
    }
}

#[test]
fn a_client_of_3_1_may_mark_all_that_it_sends_again() {
    let world = World::new(true);
    let mut old = connect(&world, NAME_3_1, 3, "old", CLEAN);
    assert_eq!(old.packet(), (0x20, vec![0, 0]));
    old.send(0x8A, &[&[0, 1][..], &text("n"), &[0]].concat());
    assert_eq!(old.packet(), (0x90, vec![0, 1, 0]));
    old.publish("other", b"x", 2, 2, false);
    assert_eq!(old.packet(), (0x50, vec![0, 2]));
    for first in [0x62, 0x6A] {
        old.send(first, &[0, 2]);
        assert_eq!(old.packet(), (0x70, vec![0, 2]));
    }
    old.send(0xAA, &[&[0, 3][..], &text("n")].concat());
    assert_eq!(old.packet(), (0xB0, vec![0, 3]));
    // No other flags.
    old.send(0x6B, &[0, 2]);
    assert!(old.is_closed());
}
