//! MQTT over WebSocket, byte by byte.

use std::io::{Read, Write};
use std::net::SocketAddr;

use weir_broker::{Config, Origins, Settings};

use crate::listeners::{peer, world_with};
use crate::world::*;

const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01w";

fn world(config: Config, origins: &[&str]) -> (World, SocketAddr) {
    let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
    let websocket = Settings { name: "ws".into(), websocket: Some(Origins::new(&origins)), ..Settings::default() };
    let (world, addresses) = world_with(config, vec![websocket]);
    (world, addresses[1])
}

fn request(more: &str) -> String {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n{more}\r\n"
    )
}

/// The head of the next answer of HTTP.
fn head(peer: &mut Peer) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.0.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn open(address: SocketAddr) -> Peer {
    let mut peer = peer(1, address);
    peer.0.write_all(request("").as_bytes()).unwrap();
    assert!(head(&mut peer).starts_with("HTTP/1.1 101 "));
    peer
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    let mask = [1, 2, 3, 4];
    let mut out = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
    out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    out
}

/// The next short frame of the server.
fn answer(peer: &mut Peer) -> (u8, Vec<u8>) {
    let mut header = [0; 2];
    peer.0.read_exact(&mut header).unwrap();
    assert!(header[1] < 126, "short and unmasked: {header:?}");
    let mut payload = vec![0; usize::from(header[1])];
    peer.0.read_exact(&mut payload).unwrap();
    (header[0], payload)
}

fn connected(address: SocketAddr) -> Peer {
    connected_as(address, b'w')
}

/// A connected client with an id of one character.
fn connected_as(address: SocketAddr, id: u8) -> Peer {
    let mut peer = open(address);
    let mut connect = CONNECT.to_vec();
    *connect.last_mut().unwrap() = id;
    peer.0.write_all(&frame(0x82, &connect)).unwrap();
    assert_eq!(answer(&mut peer), (0x82, vec![0x20, 2, 0, 0]));
    peer
}

#[test]
fn packets_may_be_cut_across_frames_and_share_them() {
    let (world, address) = world(Config::default(), &[]);
    let mut peer = open(address);
    let packets = [CONNECT, b"\x32\x17\0\x13devices/w/telemetry\0\x01", b"\x32\x18\0\x13devices/w/telemetry\0\x02x"];
    let bytes = packets.concat();
    // One message in frames of three bytes with pings between, then one with the rest.
    let (cut, rest) = bytes.split_at(40);
    let mut sent = frame(0x02, &cut[..3]);
    for part in cut[3..].chunks(3) {
        sent.extend(frame(0x00, part));
        sent.extend(frame(0x89, b"are you there"));
    }
    sent.extend(frame(0x80, b""));
    sent.extend(frame(0x82, rest));
    for part in sent.chunks(11) {
        peer.0.write_all(part).unwrap();
    }
    let mut data = Vec::new();
    let mut pongs = 0;
    while data.len() < 12 {
        match answer(&mut peer) {
            (0x82, payload) => data.extend(payload),
            (0x8A, payload) => {
                assert_eq!(payload, b"are you there");
                pongs += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(data, [0x20, 2, 0, 0, 0x40, 2, 0, 1, 0x40, 2, 0, 2]);
    assert!(pongs > 0);
    assert_eq!(world.log.taken.lock().len(), 2);
    peer.0.write_all(&[frame(0x82, b"\xe0\0"), frame(0x88, b"")].concat()).unwrap();
    assert_eq!(answer(&mut peer), (0x88, vec![3, 0xE8]), "closed in order");
    assert!(peer.is_closed());
    wait(|| world.ended("client") == 1);
}

#[test]
fn frames_that_break_the_rules_are_closed_with_their_code() {
    let (world, address) = world(Config::default(), &[]);
    let cases: &[(&[u8], [u8; 2])] = &[
        (&frame(0x81, b"text"), [3, 0xEB]),
        (&[0x82, 2, 0xC0, 0], [3, 0xEA]),
        (&frame(0xC2, b"\xc0\0"), [3, 0xEA]),
        (&frame(0x80, b"\xc0\0"), [3, 0xEA]),
        (&frame(0x09, b"half a ping"), [3, 0xEA]),
        (&[0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4], [3, 0xF1]),
    ];
    for (n, (bytes, code)) in cases.iter().enumerate() {
        let mut peer = connected(address);
        peer.0.write_all(bytes).unwrap();
        assert_eq!(answer(&mut peer), (0x88, code.to_vec()), "case {n}");
        assert!(peer.is_closed());
    }
    wait(|| world.ended("protocol") == cases.len() as u64);
}

#[test]
fn the_reason_of_mqtt_comes_before_the_close_frame() {
    let (_world, address) = world(Config::default(), &[]);
    let mut peer = open(address);
    peer.0.write_all(&frame(0x82, b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01w")).unwrap();
    let (first, connack) = answer(&mut peer);
    assert_eq!((first, connack[0], connack[3]), (0x82, 0x20, 0));
    // Packet type 0.
    peer.0.write_all(&frame(0x82, b"\0\0")).unwrap();
    let (first, disconnect) = answer(&mut peer);
    assert_eq!((first, disconnect[0], disconnect[2]), (0x82, 0xE0, 0x81));
    assert_eq!(answer(&mut peer), (0x88, vec![3, 0xE8]));
    assert!(peer.is_closed());
    // A refused CONNECT ends in order, too.
    let mut peer = open(address);
    peer.0.write_all(&frame(0x82, b"\x10\x0c\0\x04MQTT\x02\x02\0\0\0\0")).unwrap();
    assert_eq!(answer(&mut peer), (0x82, vec![0x20, 2, 0, 1]));
    assert_eq!(answer(&mut peer), (0x88, vec![3, 0xE8]));
    assert!(peer.is_closed());
}

#[test]
fn requests_are_refused_with_a_status_and_have_a_deadline() {
    let config = Config { connect_timeout_ms: 500, ..Config::default() };
    let (world, address) = world(config, &["https://app.example"]);
    let cases = [
        (request("Origin: https://evil.example\r\n"), "403"),
        (request("").replace("/mqtt", "/"), "404"),
        (request("").replace("Protocol: mqtt", "Protocol: chat"), "400"),
        (request("").replace("Upgrade: websocket\r\n", ""), "426"),
        (format!("GET /mqtt HTTP/1.1\r\nCookie: {}\r\n", "c".repeat(9 << 10)), "431"),
    ];
    for (request, status) in &cases {
        let mut peer = peer(1, address);
        peer.0.write_all(request.as_bytes()).ok();
        assert!(head(&mut peer).starts_with(&format!("HTTP/1.1 {status} ")), "{request}");
        assert!(peer.is_closed());
    }
    wait(|| world.ended("websocket") == cases.len() as u64);
    let mut listed = peer(1, address);
    listed.0.write_all(request("Origin: https://app.example\r\n").as_bytes()).unwrap();
    assert!(head(&mut listed).starts_with("HTTP/1.1 101 "));
    // Half a request, and a whole one without a CONNECT.
    let mut slow = peer(1, address);
    slow.0.write_all(b"GET /mqtt HTTP/1.1\r\n").unwrap();
    assert!(slow.is_closed() && listed.is_closed());
    wait(|| world.ended("connect_timeout") == 2 && world.metrics.connections.get() == 0);
    // MQTT without WebSocket.
    let mut plain = peer(1, address);
    plain.0.write_all(CONNECT).unwrap();
    assert!(plain.is_closed());
}

#[test]
fn a_frame_that_is_announced_and_not_sent_holds_no_memory() {
    // 1.5 MiB for unfinished packets.
    let config = Config { memory_bytes: 4 << 20, ..Config::default() };
    let (world, address) = world(config, &[]);
    let peers: Vec<_> = (32..96)
        .map(|id| {
            let mut peer = connected_as(address, id);
            // A frame of 255 MiB, with a byte of a packet of MQTT.
            peer.0.write_all(&[0x82, 0xFF, 0, 0, 0, 0, 0x0F, 0xF0, 0, 0, 0, 0, 0, 0, 0x30]).unwrap();
            peer
        })
        .collect();
    let mut last = connected(address);
    last.0.write_all(&frame(0x82, b"\xe0\0")).unwrap();
    assert!(last.is_closed());
    wait(|| world.ended("client") == 1 && world.metrics.connections.get() <= 64);
    assert_eq!((world.ended("memory"), world.metrics.connections.get()), (0, 64));
    drop(peers);
    // What is half-sent in it is counted as without WebSocket.
    let mut hoarders = Vec::new();
    for id in b'a'..b'e' {
        let mut peer = connected_as(address, id);
        // A packet of 1,000,000 bytes, of which half comes.
        peer.0.write_all(&[0x82, 0xFF, 0, 0, 0, 0, 0x0F, 0xF0, 0, 0, 0, 0, 0, 0, 0x30, 0xC0, 0x84, 0x3D]).unwrap();
        peer.0.write_all(&vec![0; 500_000]).ok();
        hoarders.push(peer);
    }
    wait(|| world.ended("memory") >= 1);
    // Others are served.
    connected(address);
}

#[test]
fn pings_of_websocket_are_no_sign_of_life_of_mqtt() {
    let (world, address) = world(Config { max_keep_alive_secs: 1, ..Config::default() }, &[]);
    let mut peer = connected(address);
    // Each is answered, until the keep-alive is over.
    let mut pongs = 0;
    loop {
        let mut header = [0; 2];
        let sent = peer.0.write_all(&frame(0x89, b""));
        if sent.is_err() || peer.0.read_exact(&mut header).is_err() || header != [0x8A, 0] {
            break;
        }
        pongs += 1;
    }
    assert!(pongs > 0);
    wait(|| world.ended("keep_alive") == 1);
}

#[test]
fn the_sub_protocol_that_is_selected_is_mqtt() {
    let (_world, address) = world(Config::default(), &[]);
    for offered in ["mqtt", "chat, mqtt", "mqtt, chat"] {
        let mut peer = peer(1, address);
        let request = request("").replace("Protocol: mqtt", &format!("Protocol: {offered}"));
        peer.0.write_all(request.as_bytes()).unwrap();
        let head = head(&mut peer).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 "), "{offered}: {head}");
        assert!(head.contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{offered}: {head}");
    }
}
