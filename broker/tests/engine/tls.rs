//! MQTT over TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use door::{Credentials, Gatekeeper, Identity, OneTenant, Refusal};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use tls::{ClientFiles, Limits, Metrics, Named, Port, Server, ServerFiles};
use weir_broker::Config;

use crate::world::{World, from, text, wait};

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// Admits every client, and notes its certificates.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Vec<Vec<u8>>>>>);

#[async_trait]
impl Gatekeeper for Notes {
    async fn admit(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        self.0.lock().push(credentials.certificates.to_vec());
        OneTenant::default().admit(credentials).await
    }
}

struct Site {
    world: World,
    dir: tempfile::TempDir,
    tls: SocketAddr,
    certificates: Notes,
}

fn site(timeout: Duration) -> Site {
    site_with(timeout, Config::default())
}

fn site_with(timeout: Duration, config: Config) -> Site {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    tls::create(path, &[], false).unwrap();
    tls::create_client(path, "d1", false).unwrap();
    let files = ServerFiles {
        certificate: Named::new("tls.certificate", path.join("server.pem")),
        key: Named::new("tls.key", path.join("server.key")),
        client_ca: Some(Named::new("tls.client_ca", path.join("ca.pem"))),
    };
    let server = Server::open(files, Limits { timeout, at_once: 8 }, false, Metrics::default()).unwrap();
    let certificates = Notes::default();
    let gatekeeper = Box::new(certificates.clone());
    let (world, tls) = World::encrypted(gatekeeper, config, server.acceptor(Port::Mqtt));
    Site { world, dir, tls, certificates }
}

impl Site {
    fn connect(&self, identity: bool) -> Encrypted {
        self.connect_from(1, identity)
    }

    fn connect_from(&self, source: u8, identity: bool) -> Encrypted {
        let named = |file: &str| Named::new("file", self.dir.path().join(file));
        let identity = identity.then(|| (named("d1.pem"), named("d1.key")));
        let config = ClientFiles { ca: Some(named("ca.pem")), identity }.load(&[]).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = from(source, self.tls);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    /// A connected client of MQTT 3.1.1.
    fn client(&self, id: &str, identity: bool) -> Encrypted {
        enter(self.connect(identity), id)
    }
}

/// Connects as a client of MQTT 3.1.1.
fn enter(mut client: Encrypted, id: &str) -> Encrypted {
    let mut connect = vec![0x10, 12 + id.len() as u8];
    connect.extend_from_slice(b"\0\x04MQTT\x04\x02\0\0");
    connect.extend_from_slice(&text(id));
    client.write_all(&connect).unwrap();
    assert_eq!(read(&mut client, 4), [0x20, 2, 0, 0]);
    client
}

fn read(client: &mut Encrypted, bytes: usize) -> Vec<u8> {
    let mut found = vec![0; bytes];
    client.read_exact(&mut found).unwrap();
    found
}

fn publish(topic: &str, payload: &[u8], qos1: Option<u16>) -> Vec<u8> {
    let mut body = text(topic);
    body.extend(qos1.into_iter().flat_map(u16::to_be_bytes));
    body.extend_from_slice(payload);
    let mut packet = vec![if qos1.is_some() { 0x32 } else { 0x30 }];
    let mut length = body.len();
    while length >= 128 {
        packet.push((length % 128) as u8 | 128);
        length /= 128;
    }
    packet.push(length as u8);
    packet.extend_from_slice(&body);
    packet
}

#[test]
fn a_publish_over_tls_is_acknowledged_and_the_gatekeeper_gets_the_certificates() {
    let site = site(Duration::from_secs(20));
    for (identity, certificates) in [(true, 1), (false, 0)] {
        let mut client = site.client("d1", identity);
        client.write_all(&publish("devices/d1/telemetry", b"21.5", Some(7))).unwrap();
        assert_eq!(read(&mut client, 4), [0x40, 2, 0, 7]);
        assert_eq!(site.certificates.0.lock().pop().unwrap().len(), certificates);
    }
    // Plain clients have none.
    let mut plain = site.world.v4("d2", 2);
    plain.publish("devices/d2/telemetry", b"1", 1, 1, false);
    plain.packet();
    assert!(site.certificates.0.lock().pop().unwrap().is_empty());
}

#[test]
fn a_slow_subscriber_over_tls_gets_every_message() {
    const COUNT: usize = 60;
    let site = site(Duration::from_secs(20));
    let mut subscriber = site.client("reader", false);
    let mut subscribe = vec![0x82, 9, 0, 1];
    subscribe.extend_from_slice(&text("live"));
    subscribe.push(0);
    subscriber.write_all(&subscribe).unwrap();
    assert_eq!(read(&mut subscriber, 5), [0x90, 3, 0, 1, 0]);
    let mut publisher = site.client("writer", false);
    let payload = |n: usize| vec![n as u8; 100_000];
    for n in 0..COUNT {
        publisher.write_all(&publish("live", &payload(n), Some(n as u16 + 1))).unwrap();
        read(&mut publisher, 4);
    }
    // More than sockets hold: the rest has waited here.
    for n in 0..COUNT {
        let expected = publish("live", &payload(n), None);
        assert!(read(&mut subscriber, expected.len()) == expected, "message {n}");
    }
}

#[test]
fn a_plain_client_and_a_silent_one_at_the_tls_port_are_closed_and_counted() {
    let site = site(Duration::from_millis(300));
    let mut plain = TcpStream::connect(site.tls).unwrap();
    plain.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a").unwrap();
    // Closed with unread bytes.
    let read = plain.read(&mut [0]);
    assert!(read.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |n| *n == 0), "{read:?}");
    let mut silent = TcpStream::connect(site.tls).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    wait(|| site.world.ended("not_tls") == 1 && site.world.ended("tls_timeout") == 1);
    wait(|| site.world.metrics.connections.get() == 0);
}

#[test]
fn a_stop_ends_encrypted_connections_in_order() {
    let mut site = site(Duration::from_secs(20));
    let mut client = site.client("d1", false);
    let begun = site.connect(false);
    site.world.stop();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("the end is announced, so that it cannot be forged");
    drop(begun);
}

#[test]
fn tls_sessions_without_a_connect_have_a_ceiling_and_keep_no_other_source_out() {
    // 512 KiB for clients that are not admitted: 23 sessions.
    let config = Config { memory_bytes: 4 << 20, connect_timeout_ms: 60_000, ..Config::default() };
    let site = site_with(Duration::from_secs(20), config);
    let mut idle = Vec::new();
    for _ in 0..30 {
        let mut client = site.connect(false);
        // Completes the handshake, unless the server has closed the connection.
        client.flush().ok();
        idle.push(client);
    }
    // A connection is counted as ended before its place is free.
    wait(|| site.world.ended("memory") == 7 && site.world.metrics.connections.get() == 23);
    let mut clients = Vec::new();
    for n in 0..5 {
        clients.push(enter(site.connect_from(2, false), &format!("d{n}")));
    }
    // The first of them needed its place, and the others that of the one before.
    wait(|| site.world.ended("displaced") == 1);
}
