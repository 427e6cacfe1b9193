//! The order in which packets have their effect.

use std::io::Write;
use std::sync::atomic::Ordering;

use model::time::SECOND;
use weir_broker::{Config, RetainedMessage};

use crate::world::*;

fn subscribe_packet(filter: &str, options: u8, v5: bool) -> Vec<u8> {
    let mut body = vec![0, 9];
    if v5 {
        body.push(0);
    }
    body.extend_from_slice(&text(filter));
    body.push(options);
    [&[0x82, body.len() as u8][..], &body].concat()
}

#[test]
fn packets_of_two_connections_that_arrive_together_are_handled_in_their_order() {
    let world = World::with_workers(1);
    let (mut a, mut b) = (world.v4("a", CLEAN), world.v4("b", CLEAN));
    let mut watcher = world.v4("watcher", CLEAN);
    watcher.subscribe("w", 0, false);
    let mut reversed = 0;
    for n in 0..60 {
        // The one subscribes, and the other publishes.
        let filter = format!("n/{n}");
        let publish = [&[0x30, 3 + filter.len() as u8][..], &text(&filter), b"x"].concat();
        let subscribe = subscribe_packet(&filter, 0, false);
        a.0.write_all(&subscribe).unwrap();
        b.0.write_all(&publish).unwrap();
        b.ping();
        assert_eq!(a.packet().0, 0x90);
        a.send(0xC0, &[]);
        match a.packet().0 {
            0xD0 => reversed += 1,
            _ => assert_eq!(a.packet().0, 0xD0),
        }
        // Both publish.
        let (first, second) = if n % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        first.0.write_all(&[0x30, 4, 0, 1, b'w', 1]).unwrap();
        second.0.write_all(&[0x30, 4, 0, 1, b'w', 2]).unwrap();
        let got = [watcher.packet().1[3], watcher.packet().1[3]];
        reversed += usize::from(got != [1, 2]);
    }
    assert_eq!(reversed, 0, "of 120");
}

#[test]
fn many_connections_that_are_ready_together_are_all_served() {
    let world = World::new(true);
    let mut peers: Vec<Peer> = (0..40).map(|n| world.v4(&format!("c{n}"), CLEAN)).collect();
    for _ in 0..50 {
        peers.iter_mut().for_each(|peer| peer.send(0xC0, &[]));
        peers.iter_mut().for_each(|peer| assert_eq!(peer.packet(), (0xD0, vec![])));
    }
}

#[test]
fn a_subscription_comes_after_a_retained_message_of_its_client_that_is_not_stored_yet() {
    for (v5, options, retained) in [(false, 1, true), (true, 1, true), (true, 0x21, false)] {
        let world = World::new(false);
        let mut peer = if v5 { world.v5("a", CLEAN, &[]) } else { world.v4("a", CLEAN) };
        peer.publish_with(0x33, "state", b"on", 1, v5);
        peer.0.write_all(&subscribe_packet("state", options, v5)).unwrap();
        wait(|| world.log.last.load(Ordering::SeqCst) == 1);
        assert!(peer.is_silent());
        world.log.release_to(1);
        assert_eq!((peer.packet().0, peer.packet().0), (0x40, 0x90));
        if retained {
            assert_eq!(peer.packet().0, 0x33, "as a retained message");
        }
        peer.ping();
        // And after one that clears the topic.
        peer.publish_with(0x33, "state", b"", 2, v5);
        peer.0.write_all(&subscribe_packet("+", options, v5)).unwrap();
        wait(|| world.log.last.load(Ordering::SeqCst) == 2);
        world.log.release_to(2);
        let mut seen = vec![peer.packet().0, peer.packet().0, peer.packet().0];
        seen.sort_unstable();
        assert_eq!(seen, [0x32, 0x40, 0x90], "the subscription of before gets it live, the new one nothing");
        peer.ping();
    }
}

#[test]
fn the_end_of_a_subscription_comes_after_the_messages_before_it() {
    let world = World::new(false);
    let mut peer = world.v4("a", CLEAN);
    peer.subscribe("devices/#", 0, false);
    peer.publish("devices/a/telemetry", b"1", 1, 1, false);
    peer.send(0xA2, &[&[0, 5][..], &text("devices/#")].concat());
    wait(|| world.log.last.load(Ordering::SeqCst) == 1);
    assert!(peer.is_silent());
    world.log.release_to(1);
    let mut seen = vec![peer.packet().0, peer.packet().0, peer.packet().0];
    seen.sort_unstable();
    assert_eq!(seen, [0x30, 0x40, 0xB0]);
}

#[test]
fn the_expiry_of_a_retained_message_goes_on_over_a_restart() {
    let message = |topic: &str, secs: u8| RetainedMessage {
        tenant: "default".into(),
        topic: topic.to_owned(),
        payload: b"x".to_vec(),
        qos: 0,
        properties: vec![2, 0, 0, 0, secs],
        published: model::clock::now() - 60 * SECOND,
    };
    let world = World::restored(true, Config::default(), vec![message("r/long", 100), message("r/over", 30)]);
    let mut peer = world.v5("a", CLEAN, &[]);
    peer.subscribe("r/#", 0, true);
    let (_, body) = peer.packet();
    assert!(body.starts_with(&text("r/long")), "{body:?}");
    assert_eq!(body[8..13], [5, 2, 0, 0, 0]);
    assert!((30..=40).contains(&body[13]), "seconds left: {}", body[13]);
    peer.ping();
}

#[test]
fn a_subscription_that_comes_before_a_retained_message_is_durable_gets_it() {
    let world = World::new(false);
    let mut publisher = world.v4("p", CLEAN);
    publisher.publish_with(0x33, "n", b"x", 1, false);
    wait(|| world.log.retained.lock().len() == 1);
    let mut subscriber = world.v4("s", CLEAN);
    subscriber.subscribe("n", 1, false);
    assert!(subscriber.is_silent(), "it is not durable");
    world.log.release_to(world.log.last.load(Ordering::SeqCst));
    assert_eq!((publisher.packet().0, subscriber.packet().0), (0x40, 0x32));
}
