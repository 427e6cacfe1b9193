//! Connections through a load balancer that sends headers of the PROXY protocol.

use std::io::{Read, Write};
use std::time::Duration;

use weir_broker::{Config, Settings};

use crate::listeners::{peer, world_with};
use crate::world::*;

const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01p";

fn proxied(allowed: &[&str]) -> Settings {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    Settings {
        name: "edge".into(),
        proxies: Some(networks(&["127.0.0.1/32"])),
        allowed: networks(allowed),
        ..Settings::default()
    }
}

fn header(last: u8) -> Vec<u8> {
    format!("PROXY TCP4 10.0.0.{last} 10.0.0.1 4000 1883\r\n").into_bytes()
}

/// The header of version 2 for a client at 10.0.0.`last`.
fn binary(command: u8, last: u8) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    out.extend_from_slice(&[command, 0x11, 0, 17, 10, 0, 0, last, 10, 0, 0, 1, 0x0F, 0xA0, 7, 0x5B, 0xEA, 0, 2, 9, 9]);
    out
}

#[test]
fn the_address_in_the_header_is_that_of_the_client() {
    let (world, addresses) = world_with(Config::default(), vec![proxied(&["10.0.0.7/32"])]);
    for begin in [header(7), binary(0x21, 7)] {
        let mut client = peer(1, addresses[1]);
        // In pieces, and with the first packet behind it.
        let bytes = [&begin, CONNECT].concat();
        for part in bytes.chunks(5) {
            client.0.write_all(part).unwrap();
        }
        assert_eq!(client.packet(), (0x20, vec![0, 0]));
    }
    // Neither another client, nor the load balancer itself, is allowed.
    for begin in [header(8), binary(0x21, 8), binary(0x20, 7), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = peer(1, addresses[1]);
        client.0.write_all(&begin).unwrap();
        assert!(client.is_closed(), "{begin:?}");
    }
    wait(|| world.ended("address") == 4);
}

#[test]
fn checks_of_the_load_balancer_itself_are_served_as_its_own() {
    let (_world, addresses) = world_with(Config::default(), vec![proxied(&["127.0.0.1/32"])]);
    for begin in [binary(0x20, 7), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut client = peer(1, addresses[1]);
        client.0.write_all(&[&begin, CONNECT].concat()).unwrap();
        assert_eq!(client.packet(), (0x20, vec![0, 0]));
    }
}

#[test]
fn connections_without_a_header_or_from_elsewhere_are_closed_at_once() {
    let (world, addresses) = world_with(Config::default(), vec![proxied(&[])]);
    for begin in [CONNECT, b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 10.0.0.7 10.0.0.1 4000 70000\r\n", b"GET / HTTP/1.1"]
    {
        let mut client = peer(1, addresses[1]);
        client.0.write_all(begin).unwrap();
        assert!(client.is_closed(), "{begin:?}");
    }
    wait(|| world.ended("proxy_header") == 4);
    let mut elsewhere = peer(2, addresses[1]);
    elsewhere.0.write_all(&header(7)).ok();
    assert!(elsewhere.is_closed());
    wait(|| world.ended("proxy_untrusted") == 1);
    // At a listener without load balancers, a header is not MQTT.
    let mut client = peer(1, addresses[0]);
    client.0.write_all(&header(7)).unwrap();
    assert!(client.is_closed());
}

#[test]
fn a_header_has_a_deadline() {
    let (world, addresses) = world_with(Config { connect_timeout_ms: 300, ..Config::default() }, vec![proxied(&[])]);
    let mut slow = peer(1, addresses[1]);
    slow.0.write_all(b"PROXY TCP4 10.").unwrap();
    assert_eq!(slow.0.read(&mut [0]).unwrap(), 0);
    wait(|| world.ended("connect_timeout") == 1 && world.metrics.connections.get() == 0);
}

#[test]
fn clients_behind_one_load_balancer_are_different_sources() {
    let config = Config { max_connections: 20, ..Config::default() };
    let (world, addresses) = world_with(config, vec![proxied(&[])]);
    let silent: Vec<_> = (0..20)
        .map(|_| {
            let mut client = peer(1, addresses[1]);
            client.0.write_all(&header(7)).unwrap();
            client
        })
        .collect();
    wait(|| world.metrics.connections.get() == 20);
    // All come from 127.0.0.1, and the one with nothing in its header has had no turn yet.
    wait(|| {
        let mut client = peer(1, addresses[1]);
        client.0.write_all(&[&header(8), CONNECT].concat()).unwrap();
        let mut answer = [0; 4];
        client.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.0.read_exact(&mut answer).is_ok() && answer == [0x20, 2, 0, 0]
    });
    wait(|| world.ended("displaced") >= 1);
    drop(silent);
}
