//! Several listeners, each with settings of its own.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use weir_broker::{Config, Listener, Settings, bind_unix};

use crate::devices::ByUser;
use crate::world::*;

fn settings(name: &str) -> Settings {
    Settings { name: name.into(), ..Settings::default() }
}

/// A broker with plain listeners, the first of which has no settings.
pub(crate) fn world_with(config: Config, more: Vec<Settings>) -> (World, Vec<SocketAddr>) {
    let all = std::iter::once(settings("mqtt")).chain(more);
    World::at(Box::new(ByUser), true, config, Vec::new(), |bind| {
        all.map(|settings| Listener { socket: bind().into(), tls: None, settings }).collect()
    })
}

/// A connection from 127.0.0.`last`, with a deadline for reads.
pub(crate) fn peer(last: u8, to: SocketAddr) -> Peer {
    let stream = from(last, to);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    Peer(stream)
}

fn connect(peer: &mut Peer, id: &str) -> u8 {
    peer.connect(5, id, CLEAN, 60, &[]);
    let (first, body) = peer.packet();
    assert_eq!(first, 0x20);
    body[1]
}

#[test]
fn each_listener_is_reported_by_its_name_with_its_own_connections() {
    let (mut world, addresses) = world_with(Config::default(), vec![settings("plant")]);
    let mut clients: Vec<_> = (0..3).map(|n| peer(1, addresses[usize::from(n > 0)])).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(connect(client, &format!("d{n}")), 0);
    }
    let list = world.metrics.listeners.list();
    let found: Vec<_> = list.iter().map(|l| (&*l.name, l.address.clone(), l.protocol, l.connections)).collect();
    let [first, second] = [addresses[0].to_string(), addresses[1].to_string()];
    assert_eq!(found, [("mqtt", first, "mqtt", 1), ("plant", second, "mqtt", 2)]);
    assert!(list.iter().all(|listener| listener.fault.is_none()));
    world.stop();
    assert!(clients.iter_mut().all(|client| client.is_closed()));
    assert_eq!(world.metrics.listeners.list(), [], "none is open");
}

#[test]
fn a_listener_has_a_maximum_of_its_own_and_one_source_does_not_use_it_up() {
    let plant = Settings { max_connections: Some(4), ..settings("plant") };
    let (world, addresses) = world_with(Config::default(), vec![plant]);
    let mut known: Vec<_> = (0..3).map(|_| peer(1, addresses[1])).collect();
    for (n, client) in known.iter_mut().enumerate() {
        assert_eq!(connect(client, &format!("d{n}")), 0);
    }
    // One place, and eight for connections that are refused with a reason.
    let _silent: Vec<_> = (0..20).map(|_| peer(3, addresses[1])).collect();
    wait(|| world.ended("max_connections") == 11);
    let mut last = peer(2, addresses[1]);
    wait(|| {
        last = peer(2, addresses[1]);
        last.answer("late") == Some(0)
    });
    let mut beyond = peer(2, addresses[1]);
    beyond.connect(5, "beyond", CLEAN, 0, &[]);
    let (_, body) = beyond.packet();
    let reason = String::from_utf8_lossy(&body).into_owned();
    assert!(body[1] == 0x97 && reason.contains("max_connections of [[mqtt.listener]]"), "{body:?}");
    assert_eq!(connect(&mut peer(2, addresses[0]), "elsewhere"), 0, "the other listener has room");
    for client in &mut known {
        client.ping();
    }
}

#[test]
fn a_listener_accepts_clients_of_its_networks_only_and_has_its_own_longest_keep_alive() {
    let plant = Settings {
        allowed: vec!["127.0.0.2/32".parse().unwrap(), "127.0.0.8/29".parse().unwrap()],
        max_keep_alive_secs: Some(20),
        ..settings("plant")
    };
    let (world, addresses) = world_with(Config { max_keep_alive_secs: 30, ..Config::default() }, vec![plant]);
    for (last, listener, keep_alive) in [(2, 1, 20), (9, 1, 20), (1, 0, 30)] {
        let mut client = peer(last, addresses[listener]);
        client.connect(5, "d", CLEAN, 60, &[]);
        let (_, body) = client.packet();
        let server_keep_alive = [0x13, 0, keep_alive];
        assert!(body.windows(3).any(|window| window == server_keep_alive), "{body:?}");
    }
    assert!(peer(1, addresses[1]).is_closed());
    assert!(peer(16, addresses[1]).is_closed());
    wait(|| world.ended("address") == 2);
}

#[test]
fn clients_over_a_unix_socket_are_served_and_the_file_goes_with_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.sock");
    let (mut world, _) = World::at(Box::new(ByUser), true, Config::default(), Vec::new(), |bind| {
        let plain = Listener { socket: bind().into(), tls: None, settings: settings("mqtt") };
        let local = Listener { socket: bind_unix(&path, 0o660).unwrap(), tls: None, settings: settings("local") };
        vec![plain, local]
    });
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01u\x32\x0a\0\x04u/ok\0\x07hi").unwrap();
    let mut answers = [0; 8];
    client.read_exact(&mut answers).unwrap();
    assert_eq!(answers, [0x20, 2, 0, 0, 0x40, 2, 0, 7]);
    let list = world.metrics.listeners.list();
    assert_eq!((list[1].protocol, list[1].connections), ("unix", 1));
    assert_eq!(list[1].address, format!("unix:{}", path.display()));
    world.stop();
    assert!(!path.exists());
}

#[test]
fn an_address_that_connects_often_waits_for_its_turn_and_is_refused_when_that_is_far_away() {
    let config = Config { address_connects_per_second: 5, connect_timeout_ms: 1_000, ..Config::default() };
    let (world, addresses) = world_with(config, Vec::new());
    let begun = Instant::now();
    let mut clients: Vec<_> = (0..13).map(|_| peer(1, addresses[0])).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.connect(5, &format!("d{n}"), CLEAN, 0, &[]);
    }
    // Another address does not wait.
    assert_eq!(connect(&mut peer(2, addresses[0]), "other"), 0);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    let mut codes: Vec<_> = clients.iter_mut().map(|client| client.packet().1).collect();
    codes.sort_by_key(|body| body[1]);
    let admitted = codes.iter().filter(|body| body[1] == 0).count();
    assert!((10..=11).contains(&admitted), "five at once, five within a second: {admitted}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    for body in &codes[admitted..] {
        let reason = String::from_utf8_lossy(body).into_owned();
        assert!(body[1] == 0x9F && reason.contains("mqtt.address_connects_per_second"), "{body:?}");
    }
    assert_eq!(world.ended("connect_rate"), 13 - admitted as u64);
    assert_eq!(world.metrics.connects_paced.get(), admitted as u64 - 5);
}

#[test]
fn connections_of_all_addresses_together_wait_for_their_turn_and_are_refused_when_that_is_far_away() {
    let config = Config { connects_per_second: 5, connect_timeout_ms: 1_000, ..Config::default() };
    let (world, addresses) = world_with(config, Vec::new());
    let begun = Instant::now();
    // Five at once, five within the second after that; three are too far away.
    let mut clients: Vec<_> = (0..13).map(|n| peer(n, addresses[0])).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.connect(if n % 2 == 0 { 4 } else { 5 }, &format!("d{n}"), CLEAN, 0, &[]);
    }
    let codes: Vec<_> = clients.iter_mut().map(|client| client.packet().1).collect();
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let admitted = codes.iter().filter(|body| body[1] == 0).count();
    assert!((10..=11).contains(&admitted), "{admitted}");
    for (n, body) in codes.iter().enumerate().filter(|(_, body)| body[1] != 0) {
        let reason = String::from_utf8_lossy(body).into_owned();
        match n % 2 {
            0 => assert_eq!(*body, [0, 3], "3.1.1: server unavailable"),
            _ => assert!(body[1] == 0x9F && reason.contains("mqtt.connects_per_second"), "{body:?}"),
        }
    }
    assert_eq!(world.ended("connect_rate"), 13 - admitted as u64);
    assert_eq!(world.metrics.connects_paced.get(), admitted as u64 - 5);
}
