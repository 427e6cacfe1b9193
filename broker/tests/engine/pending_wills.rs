//! Will messages of connections that ended with the process.

use weir_broker::{Config, RetainedMessage};

use crate::world::*;

/// Session expiry of 100 s.
const LASTS: &[u8] = &[0x11, 0, 0, 0, 100];
/// Will delay of 100 s.
const DELAYED: &[u8] = &[0x18, 0, 0, 0, 100];

/// Will messages that a world keeps now, as the next start finds them.
fn kept(world: &World) -> Vec<RetainedMessage> {
    let mut kept = Vec::<RetainedMessage>::new();
    for (topic, payload) in world.log.own.lock().iter() {
        kept.retain(|message| message.topic != *topic);
        let (tenant, topic, payload) = ("default".into(), topic.clone(), payload.clone());
        if !payload.is_empty() {
            kept.push(RetainedMessage { tenant, topic, payload, qos: 0, properties: Vec::new(), published: 0 });
        }
    }
    kept
}

fn wait_kept(world: &World, count: usize) {
    wait(|| kept(world).len() == count);
}

#[test]
fn a_will_is_kept_as_long_as_it_may_become_due() {
    let world = World::new(true);
    let mut polite = world.with_will("polite", false, &[], &[], true);
    let rude = world.with_will("rude", false, &[], &[], true);
    wait_kept(&world, 2);
    polite.send(0xE0, &[]);
    assert!(polite.is_closed());
    wait_kept(&world, 1);
    drop(rude);
    wait_kept(&world, 0);
    // A delayed will is kept until it is published or taken back.
    drop(world.with_will("back", true, LASTS, DELAYED, false));
    wait(|| world.ended("closed") == 2);
    wait_kept(&world, 1);
    let mut back = world.v5("back", 0, LASTS);
    wait_kept(&world, 0);
    back.ping();
    // A connection that is taken over leaves none.
    let first = world.with_will("twice", true, LASTS, DELAYED, false);
    wait_kept(&world, 1);
    let _second = world.with_will("twice", true, LASTS, DELAYED, false);
    wait(|| world.ended("taken_over") == 1);
    wait_kept(&world, 1);
    drop(first);
    wait_kept(&world, 1);
}

#[test]
fn wills_of_an_earlier_start_are_published_before_the_first_connection() {
    let world = World::new(true);
    let peers: Vec<_> = (0..3000).map(|n| world.with_will(&format!("d{n}"), false, &[], &[], true)).collect();
    wait_kept(&world, 3000);
    let left = kept(&world);
    drop(peers);

    let next = World::restored(true, Config::default(), left.clone());
    let mut subscriber = next.v4("s", CLEAN);
    assert_eq!(next.log.own.lock().len(), 3000, "each was cleared with its publication");
    subscriber.subscribe("#", 0, false);
    assert!(subscriber.is_silent(), "none of them is a retained message, or published again");
    let other = Config { node: "other".into(), ..Config::default() };
    let world = World::restored(true, other, left);
    world.v4("s", CLEAN).ping();
    assert!(world.log.own.lock().is_empty(), "another node may be connected to them");
}

#[test]
fn a_will_of_an_earlier_start_is_telemetry_like_any_other() {
    let world = World::new(true);
    let _device = world.of("default", "d1", CLEAN, &[], Some(("devices/d1/telemetry", &[])));
    wait_kept(&world, 1);
    let next = World::restored(true, Config::default(), kept(&world));
    next.log.wait_taken(1);
    assert_eq!(next.log.taken.lock()[0].0, "devices/d1/telemetry");
    assert_eq!(next.log.taken.lock()[0].1, b"will of default");
}

#[test]
fn no_client_sets_topics_of_the_server() {
    let world = World::new(true);
    let mut client = world.v4("c", CLEAN);
    client.publish_with(0x33, "$weir/wills//1-1", b"x", 7, false);
    assert!(client.is_closed(), "3.1.1 has no code for it");
    assert!(world.log.own.lock().is_empty());
    assert_eq!(world.metrics.denied("publish", "server_topic").get(), 1);
}
