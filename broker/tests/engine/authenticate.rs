//! Clients that connect with a token, and present the next one in an AUTH.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use door::quota::Limits;
use weir_broker::Config;

use crate::devices::*;
use crate::world::*;

const TELEMETRY: &str = "devices/d1/telemetry";
const STATE: &str = "devices/d1/state";
const METHOD: &str = "WEIR-JWT";
/// Reason of an AUTH with the next token.
const NEXT: u8 = 0x19;

/// Properties with a method and data.
fn with(method: Option<&str>, data: Option<&[u8]>) -> Vec<u8> {
    let mut properties = Vec::new();
    for (id, value) in [(0x15, method.map(str::as_bytes)), (0x16, data)] {
        if let Some(value) = value {
            properties.push(id);
            properties.extend_from_slice(&(value.len() as u16).to_be_bytes());
            properties.extend_from_slice(value);
        }
    }
    properties
}

/// The body of an AUTH.
fn body(reason: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![reason];
    let mut length = properties.len();
    while length >= 128 {
        body.push((length % 128) as u8 | 128);
        length /= 128;
    }
    body.push(length as u8);
    body.extend_from_slice(properties);
    body
}

fn auth(peer: &mut Peer, token: &[u8]) {
    peer.send(0xF0, &body(NEXT, &with(Some(METHOD), Some(token))));
}

/// The broker takes the token.
fn renewed(peer: &mut Peer) {
    let (first, body) = peer.packet();
    assert_eq!((first, body), (0xF0, self::body(0, &with(Some(METHOD), None))));
}

/// The code of the DISCONNECT that comes next; the connection is closed behind it.
fn refused(peer: &mut Peer) -> u8 {
    let (first, body) = peer.packet();
    assert_eq!(first, 0xE0);
    assert!(peer.is_closed());
    body[0]
}

/// A client of `a/d1` that connected with a token.
fn enter(world: &World, token: &[u8]) -> Peer {
    enter_as(world, token, login("a/d1"))
}

fn enter_as(world: &World, token: &[u8], login: Login<'_>) -> Peer {
    let properties = [login.properties, &with(Some(METHOD), Some(token))].concat();
    let (peer, body) = Login { password: "", properties: &properties, ..login }.connack(world);
    assert_eq!(body[1], 0);
    let answer = with(Some(METHOD), None);
    assert!(body.windows(answer.len()).any(|window| window == answer), "CONNACK names the method: {body:?}");
    peer
}

/// Waits until a token of 400 ms that was presented now has expired.
fn outlast_a_brief_token(world: &World) {
    let mut other = Login { id: "d9", user: Some("a/d9"), password: BRIEF, ..login("a/d9") }.enter(world);
    assert!(other.is_closed());
}

#[test]
fn a_client_that_presents_its_next_token_in_time_stays_connected() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut device = enter(&world, BRIEF.as_bytes());
    auth(&mut device, b"secret");
    renewed(&mut device);
    outlast_a_brief_token(&world);
    device.publish(TELEMETRY, b"1", 1, 1, true);
    assert_eq!(device.packet().0, 0x40, "the first token has expired");
    // The next one ends earlier.
    auth(&mut device, BRIEF.as_bytes());
    renewed(&mut device);
    assert_eq!(refused(&mut device), 0x87);
    assert_eq!(world.ended("token_expired"), 2);
    assert_eq!(world.log.senders.lock().iter().filter(|(_, client)| client == "d1").count(), 1, "one connection");
}

#[test]
fn an_auth_that_is_not_valid_ends_the_connection_with_the_reason() {
    let devices = Devices::new();
    let world = devices.world(true);
    let next = |method, data| body(NEXT, &with(method, data));
    let cases: &[(&str, u8, Vec<u8>, u8)] = &[
        ("a wrong token", 0xF0, next(Some(METHOD), Some(b"wrong")), 0x87),
        ("no token", 0xF0, next(Some(METHOD), None), 0x87),
        ("a token of another device", 0xF0, next(Some(METHOD), Some(b"other device")), 0x87),
        ("a token that is too long", 0xF0, next(Some(METHOD), Some(&[b'x'; 8193])), 0x87),
        ("too many checks", 0xF0, next(Some(METHOD), Some(b"busy")), 0x89),
        ("a registry that is away", 0xF0, next(Some(METHOD), Some(b"away")), 0x89),
        ("another method", 0xF0, next(Some("OTHER"), Some(b"secret")), 0x8C),
        ("no method", 0xF0, next(None, None), 0x82),
        ("data without a method", 0xF0, next(None, Some(b"secret")), 0x82),
        ("no exchange goes on", 0xF0, body(0x18, &with(Some(METHOD), Some(b"secret"))), 0x82),
        ("the reason of a server", 0xF0, body(0, &with(Some(METHOD), None)), 0x82),
        ("flags", 0xF2, next(Some(METHOD), Some(b"secret")), 0x81),
        ("longer than a packet may be", 0xF0, vec![0; (1 << 20) + 1], 0x95),
    ];
    for (what, first, body, code) in cases {
        let mut device = enter(&world, b"secret");
        device.send(*first, body);
        assert_eq!(refused(&mut device), *code, "{what}");
    }
    assert_eq!(world.ended("token_refused"), 6);
    assert_eq!(world.metrics.denied("authenticate", "not_authorized").get(), 1);
    assert_eq!(world.metrics.denied("authenticate", "bad_credentials").get(), 3);
    // Without a method in CONNECT.
    let mut device = login("a/d1").enter(&world);
    auth(&mut device, b"secret");
    assert_eq!(refused(&mut device), 0x82);
    let mut old = Login { v5: false, ..login("a/d1") }.enter(&world);
    auth(&mut old, b"secret");
    assert!(old.is_closed());
    let mut early = world.client();
    auth(&mut early, b"secret");
    assert!(early.is_closed(), "before CONNECT");
}

#[test]
fn a_connect_with_another_method_or_a_wrong_token_is_refused() {
    let devices = Devices::new();
    let world = devices.world(true);
    let code = |world: &World, method, data| {
        let properties = with(method, data);
        let (mut peer, body) = Login { password: "", properties: &properties, ..login("a/d1") }.connack(world);
        assert!(peer.is_closed());
        body[1]
    };
    assert_eq!(code(&world, Some("SCRAM-SHA-256"), Some(b"secret")), 0x8C);
    assert_eq!(code(&world, Some(METHOD), Some(b"wrong")), 0x86);
    assert_eq!(code(&world, Some(METHOD), None), 0x86);
    let open = World::new(true);
    assert_eq!(code(&open, Some(METHOD), Some(b"secret")), 0x8C, "an installation without authentication");
}

#[test]
fn messages_go_on_while_a_token_is_checked_and_a_second_auth_meanwhile_is_an_error() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut device = enter(&world, b"secret");
    device.publish(TELEMETRY, b"1", 1, 1, true);
    auth(&mut device, b"slow");
    device.publish(TELEMETRY, b"2", 1, 2, true);
    assert_eq!([device.packet().1[1], device.packet().1[1]], [1, 2]);
    device.ping();
    wait(|| devices.waiting.load(Ordering::SeqCst) == 1);
    devices.permits.add_permits(1);
    renewed(&mut device);
    let begun = Instant::now();
    auth(&mut device, b"slow");
    device.ping();
    wait(|| devices.waiting.load(Ordering::SeqCst) == 2);
    assert!(begun.elapsed() > Duration::from_millis(500), "one check in a second");
    auth(&mut device, b"secret");
    assert_eq!(refused(&mut device), 0x82);
}

#[test]
fn a_token_that_is_not_checked_in_time_ends_the_connection_and_so_does_the_end_of_the_one_before() {
    let devices = Devices::new();
    let config = Config { connect_timeout_ms: 300, ..Config::default() };
    let world = World::guarded(Box::new(std::sync::Arc::clone(&devices)), true, config, Vec::new());
    let mut device = enter(&world, b"secret");
    auth(&mut device, b"slow");
    assert_eq!(refused(&mut device), 0x89);
    let world = devices.world(true);
    let mut device = enter(&world, BRIEF.as_bytes());
    auth(&mut device, b"slow");
    assert_eq!(refused(&mut device), 0x87);
    wait(|| world.ended("token_expired") == 1);
}

#[test]
fn a_connection_ends_with_the_credential_of_its_last_token() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe(STATE, 0, true);
    let lasting = Login { clean: false, properties: LASTS, will: Some((STATE, b"off")), ..login("a/d1") };
    let mut device = enter_as(&world, b"secret", lasting);
    auth(&mut device, SECOND_KEY);
    renewed(&mut device);
    devices.revoke("a/d1");
    device.ping();
    devices.revoke("a/d1#2");
    assert_eq!(refused(&mut device), 0x98);
    wait(|| world.ended("revoked") == 1);
    assert!(observer.is_silent(), "the will message of a revoked client is not published");
    let (_, body) = Login { will: None, ..lasting }.connack(&world);
    assert_eq!(body[..2], [0, 0], "nor is its session kept");
}

#[test]
fn a_revocation_does_not_wait_for_the_check_of_a_token() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut device = enter(&world, b"secret");
    auth(&mut device, b"slow");
    wait(|| devices.waiting.load(Ordering::SeqCst) == 1);
    devices.revoke("a/d1");
    assert_eq!(refused(&mut device), 0x98);
    // One that is revoked before it is watched.
    let mut device = enter(&world, b"secret");
    devices.credential("a/d1#2").cancel();
    auth(&mut device, SECOND_KEY);
    loop {
        match device.packet() {
            (0xF0, _) => {}
            (first, body) => break assert_eq!((first, body[0]), (0xE0, 0x98)),
        }
    }
}

#[test]
fn a_client_whose_token_is_refused_keeps_its_session_and_its_will_is_published() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut observer = observer(&devices, &world);
    observer.subscribe(STATE, 0, true);
    let lasting = Login { clean: false, properties: LASTS, will: Some((STATE, b"off")), ..login("a/d1") };
    let mut device = enter_as(&world, b"secret", lasting);
    device.publish(TELEMETRY, b"1", 1, 1, true);
    auth(&mut device, b"wrong");
    assert_eq!(device.packet(), (0x40, vec![0, 1]), "a message before it is acknowledged");
    assert_eq!(refused(&mut device), 0x87);
    assert!(observer.packet().1.ends_with(b"off"));
    let (_, body) = Login { will: None, ..lasting }.connack(&world);
    assert_eq!(body[..2], [1, 0]);
}

#[test]
fn an_auth_does_not_wait_behind_a_message_that_is_paced() {
    let devices = Devices::new();
    let world = devices.world(true);
    let mut limits = Limits::default();
    limits.set("bytes_per_second", std::num::NonZeroU64::new(1)).unwrap();
    devices.limit("a", &limits);
    let mut device = enter(&world, b"secret");
    device.publish(TELEMETRY, &[b'1'; 40], 1, 1, true);
    assert_eq!(device.packet(), (0x40, vec![0, 1]));
    device.publish(TELEMETRY, b"2", 1, 2, true);
    auth(&mut device, b"secret");
    device.publish(TELEMETRY, b"3", 1, 3, true);
    renewed(&mut device);
    device.ping();
    assert_eq!(world.log.taken.lock().len(), 1, "the message waits");
    devices.limit("a", &Limits::default());
    assert_eq!([device.packet().1[1], device.packet().1[1]], [2, 3], "in order");
}
