//! Draining: connections are closed in slices, after all that their clients have sent.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weir_broker::{Config, DrainError};

use crate::world::*;

/// CONNECT property: a session that lasts 256 s.
const LASTS: &[u8] = &[0x11, 0, 0, 1, 0];
const REFERENCE: &str = "mqtt2.example:8883";
const SHUTTING_DOWN: u8 = 0x8B;
const ADMINISTRATIVE_ACTION: u8 = 0x98;
const USE_ANOTHER_SERVER: u8 = 0x9C;

fn draining(drain_secs: u32, drain_connections_per_second: u32) -> Config {
    Config { drain_secs, drain_connections_per_second, ..Config::default() }
}

fn clients(world: &World, count: usize) -> Vec<Peer> {
    (0..count)
        .map(|n| if n % 2 == 0 { world.v4(&format!("d{n}"), 0) } else { world.v5(&format!("d{n}"), 0, &[]) })
        .collect()
}

/// Times after `begun` at which the connections were seen to be closed, in order.
fn closings(peers: &mut [Peer], begun: Instant) -> Vec<Duration> {
    let mut open: Vec<&mut Peer> = peers.iter_mut().collect();
    let mut closed = Vec::new();
    open.iter().for_each(|peer| peer.0.set_nonblocking(true).unwrap());
    wait(|| {
        open.retain_mut(|peer| {
            loop {
                match peer.0.read(&mut [0; 64]) {
                    Ok(0) => {
                        closed.push(begun.elapsed());
                        return false;
                    }
                    // Its DISCONNECT.
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        open.is_empty()
    });
    closed
}

/// Checks that no more than `per_second`, and those of a slice of 100 ms, were closed up to any
/// moment. A closing is seen late rather than early.
fn assert_kept(closings: &[Duration], per_second: f64) {
    for (n, at) in closings.iter().enumerate() {
        let most = per_second * (at.as_secs_f64() + 0.1) + 1.0;
        assert!((n + 1) as f64 <= most, "{} closed after {at:?}", n + 1);
    }
}

/// Expects DISCONNECT with this reason, and a Server Reference, from an MQTT 5 connection, and the
/// end of it.
fn assert_moved(peer: &mut Peer, v5: bool, reason: u8, reference: Option<&str>) {
    if v5 {
        let (first, body) = peer.packet();
        assert_eq!((first, body[0]), (0xE0, reason));
        let property = reference.map(|reference| [&[0x1C][..], &text(reference)].concat());
        assert_eq!(body.contains(&0x1C), property.is_some());
        assert!(property.is_none_or(|property| body.ends_with(&property)), "{body:?}");
    }
    assert!(peer.is_closed());
}

#[test]
fn all_that_was_sent_before_is_acknowledged_then_comes_the_reason() {
    const SENT: u16 = 900;
    for (stops, reference) in [(false, None), (false, Some(REFERENCE)), (true, None), (true, Some(REFERENCE))] {
        for v5 in [false, true] {
            let server_reference = reference.unwrap_or_default().to_owned();
            let world = World::with(false, Config { server_reference, ..draining(60, 500) });
            let mut peer = if v5 { world.v5("d", 0, &[]) } else { world.v4("d", 0) };
            let mut block = Vec::new();
            for id in 1..=SENT {
                let body =
                    [&text("devices/d/telemetry")[..], &id.to_be_bytes(), if v5 { &[0] } else { &[] }, b"1"].concat();
                block.extend_from_slice(&[0x32, body.len() as u8]);
                block.extend_from_slice(&body);
            }
            peer.0.write_all(&block).unwrap();
            // Most of it is still in the socket.
            if stops {
                world.shutdown.cancel();
            } else {
                world.broker.drain(None).unwrap();
            }
            world.log.wait_taken(usize::from(SENT));
            wait(|| world.metrics.draining.get() == 1);
            world.log.instant.store(true, Ordering::SeqCst);
            world.log.release_to(world.log.last.load(Ordering::SeqCst));
            for id in 1..=SENT {
                let (first, body) = peer.packet();
                assert_eq!((first, &body[..2]), (0x40, &id.to_be_bytes()[..]));
            }
            let reason = match (reference, stops) {
                (Some(_), _) => USE_ANOTHER_SERVER,
                (None, true) => SHUTTING_DOWN,
                (None, false) => ADMINISTRATIVE_ACTION,
            };
            assert_moved(&mut peer, v5, reason, reference);
            wait(|| world.ended("moved") == 1);
        }
    }
}

#[test]
fn connections_are_closed_at_the_rate_of_the_operator() {
    let world = World::with(true, draining(0, 500));
    let mut peers = clients(&world, 40);
    let begun = Instant::now();
    world.broker.drain(Some(100)).unwrap();
    let closings = closings(&mut peers, begun);
    assert_kept(&closings, 100.0);
    assert!(closings[39] >= Duration::from_millis(250), "{closings:?}");
    let report = world.broker.drain_report().unwrap();
    assert_eq!((report.closed, report.per_second), (40, 100));
    wait(|| world.broker.drain_report().unwrap().open == 0);
}

#[test]
fn a_stop_closes_connections_at_its_rate() {
    let mut world = World::with(true, draining(60, 50));
    let mut peers = clients(&world, 20);
    let begun = Instant::now();
    world.shutdown.cancel();
    let closings = closings(&mut peers, begun);
    assert_kept(&closings, 50.0);
    world.stop();
    assert_eq!((world.ended("moved"), world.ended("shut_down")), (20, 0));
}

#[test]
fn a_stop_that_has_little_time_closes_more_of_them_evenly() {
    let mut world = World::with(true, draining(1, 1));
    let mut peers = clients(&world, 60);
    let begun = Instant::now();
    world.shutdown.cancel();
    let closings = closings(&mut peers, begun);
    assert!(closings[2] < closings[57], "not all at once: {closings:?}");
    assert!(closings[57] - closings[2] >= Duration::from_millis(500), "{closings:?}");
    assert!(closings[59] < Duration::from_secs(10), "{closings:?}");
    world.stop();
}

#[test]
fn a_few_connections_are_closed_at_once() {
    let mut world = World::new(true);
    let mut peers = clients(&world, 10);
    let begun = Instant::now();
    world.stop();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(peers.iter_mut().all(Peer::is_closed));
    let mut world = World::new(true);
    world.stop();
    assert!(world.broker.drain_report().is_some_and(|report| report.closed == 0), "no client was connected");
}

#[test]
fn a_stop_that_is_hastened_closes_the_rest_at_once() {
    let mut world = World::with(true, draining(600, 1));
    let mut peers = clients(&world, 20);
    assert!(!world.broker.hasten(), "it does not stop");
    world.shutdown.cancel();
    wait(|| world.ended("moved") == 1);
    assert!(world.broker.hasten());
    world.stop();
    assert!(peers.iter_mut().all(Peer::is_closed));
    assert_eq!(world.ended("moved") + world.ended("shut_down"), 20);
    assert!(world.ended("moved") < 15, "most of them at once: {}", world.ended("moved"));
}

#[test]
fn new_connections_are_refused_until_the_drain_is_cancelled() {
    for reference in [None, Some(REFERENCE)] {
        let server_reference = reference.unwrap_or_default().to_owned();
        let world = World::with(true, Config { server_reference, ..draining(0, 500) });
        let mut peers: Vec<_> = (0..5).map(|n| world.v5(&format!("d{n}"), 0, LASTS)).collect();
        assert_eq!(world.broker.cancel_drain(), Err(DrainError::NotDraining));
        world.broker.drain(Some(1)).unwrap();
        let mut newcomer = world.client();
        newcomer.connect(5, "new", 0, 0, &[]);
        let (first, body) = newcomer.packet();
        let code = if reference.is_some() { USE_ANOTHER_SERVER } else { 0x88 };
        assert_eq!((first, body[1]), (0x20, code));
        assert_eq!(body.ends_with(&[&[0x1C][..], &text(REFERENCE)].concat()), reference.is_some());
        assert!(newcomer.is_closed());
        let mut newcomer = world.client();
        newcomer.connect(4, "new", 0, 0, &[]);
        assert_eq!(newcomer.packet(), (0x20, vec![0, 3]));
        assert!(newcomer.is_closed());
        wait(|| world.ended("moved") == 1);
        world.broker.cancel_drain().unwrap();
        assert_eq!((world.broker.drain_report(), world.metrics.draining.get()), (None, 0));
        // Each of them is moved or stays.
        let stays = |peer: &mut Peer| {
            peer.send(0xC0, &[]);
            peer.packet().0 == 0xD0
        };
        let stay = peers.iter_mut().filter_map(|peer| stays(peer).then_some(())).count();
        assert_eq!(stay as u64 + world.ended("moved"), 5);
        assert!(stay >= 3, "{stay}");
        // Sessions are there for the next connection.
        for n in 0..5 {
            let mut again = world.client();
            again.connect(5, &format!("d{n}"), 0, 0, LASTS);
            assert_eq!(again.packet().1[..2], [1, 0], "d{n}");
        }
    }
}

#[test]
fn clients_that_were_connecting_when_the_drain_began_are_moved_too() {
    for v5 in [false, true] {
        let world = World::with(true, draining(0, 500));
        let mut peer = world.client();
        wait(|| world.metrics.connections.get() == 1);
        world.broker.drain(None).unwrap();
        peer.connect(if v5 { 5 } else { 4 }, "d", 0, 0, &[]);
        let (first, body) = peer.packet();
        assert_eq!((first, body[1]), (0x20, 0));
        assert_moved(&mut peer, v5, ADMINISTRATIVE_ACTION, None);
    }
}

#[test]
fn a_client_that_never_stops_sending_is_moved() {
    let world = World::with(true, draining(0, 500));
    let mut peer = world.v4("d", 0);
    let sending = std::thread::spawn(move || {
        let block = [0x30, 3, 0, 1, b'x'].repeat(10_000);
        while peer.0.write_all(&block).is_ok() {}
    });
    wait(|| world.metrics.publishes.get() > 100_000);
    world.broker.drain(None).unwrap();
    sending.join().unwrap();
    wait(|| world.ended("moved") == 1);
}

#[test]
fn a_client_whose_messages_wait_for_the_log_is_moved_when_they_are_stored() {
    let world = World::with(false, draining(0, 500));
    world.log.full.store(true, Ordering::SeqCst);
    let mut peer = world.v5("d", 0, &[]);
    peer.publish("devices/d/telemetry", b"1", 1, 1, true);
    world.log.wait_taken(1);
    world.broker.drain(None).unwrap();
    assert!(peer.is_silent());
    world.log.full.store(false, Ordering::SeqCst);
    world.log.instant.store(true, Ordering::SeqCst);
    world.log.wake();
    assert_eq!(peer.packet().0, 0x40);
    assert_moved(&mut peer, true, ADMINISTRATIVE_ACTION, None);
}

#[test]
fn a_stop_takes_over_the_drain_of_an_operator() {
    let mut world = World::with(true, draining(60, 10));
    let mut peers = clients(&world, 30);
    world.broker.drain(Some(1)).unwrap();
    wait(|| world.ended("moved") == 1);
    let begun = Instant::now();
    world.shutdown.cancel();
    let closings = closings(&mut peers, begun);
    assert!(closings[29] < Duration::from_secs(10), "{closings:?}");
    world.stop();
    assert_eq!(world.broker.drain(None), Err(DrainError::Stopping));
    assert_eq!(world.broker.cancel_drain(), Err(DrainError::Stopping));
}

#[test]
fn clients_of_all_tenants_leave_side_by_side() {
    let world = World::with(true, draining(0, 500));
    let mut peers = Vec::new();
    for (tenant, count) in [("large", 45), ("small", 5)] {
        peers.extend((0..count).map(|n| (tenant, world.of(tenant, &format!("d{n}"), 0, &[], None))));
    }
    world.broker.drain(Some(10)).unwrap();
    wait(|| world.ended("moved") >= 10);
    world.broker.cancel_drain().unwrap();
    let mut moved = |of: &str| {
        let peers = peers.iter_mut().filter(|(tenant, _)| *tenant == of);
        peers
            .filter_map(|(_, peer)| {
                peer.send(0xC0, &[]);
                (peer.packet().0 == 0xE0).then_some(())
            })
            .count()
    };
    let (large, small) = (moved("large"), moved("small"));
    assert!((1..5).contains(&small) && large > small, "{large} of 45 and {small} of 5");
}
