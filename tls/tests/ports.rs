//! Ports with TLS, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tls::{Accepted, Acceptor, Client, ClientFiles, HandshakeError, Limits, Metrics, Named, Port, Server, ServerFiles};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weir_tls as tls;

const LIMITS: Limits = Limits { timeout: Duration::from_secs(20), at_once: 64 };

struct World {
    dir: tempfile::TempDir,
    server: Arc<Server>,
    metrics: Metrics,
    listener: TcpListener,
}

fn files(dir: &Path, has_ca: bool) -> ServerFiles {
    ServerFiles {
        certificate: Named::new("tls.certificate", dir.join("server.pem")),
        key: Named::new("tls.key", dir.join("server.key")),
        client_ca: has_ca.then(|| Named::new("tls.client_ca", dir.join("ca.pem"))),
    }
}

async fn world(has_ca: bool, asks_devices: bool, limits: Limits) -> World {
    let dir = tempfile::tempdir().unwrap();
    tls::create(dir.path(), &["weir.example".to_owned()], false).unwrap();
    let metrics = Metrics::default();
    let server = Server::open(files(dir.path(), has_ca), limits, asks_devices, metrics.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    World { dir, server, metrics, listener }
}

impl World {
    fn client(&self, identity: Option<&str>) -> Client {
        client(self.dir.path(), self.dir.path(), identity)
    }

    /// Both ends of a connection from an address.
    async fn open(&self, source: &str) -> (TcpStream, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source.parse::<Ipv4Addr>().unwrap(), 0).into()).unwrap();
        let stream = socket.connect(self.listener.local_addr().unwrap()).await.unwrap();
        (stream, self.listener.accept().await.unwrap().0)
    }

    /// A handshake of both sides.
    async fn connect(
        &self,
        acceptor: &Acceptor,
        client: &Client,
    ) -> (Result<Accepted, HandshakeError>, std::io::Result<tls::ClientStream>) {
        self.connect_from("127.0.0.1", acceptor, client).await
    }

    async fn connect_from(
        &self,
        source: &str,
        acceptor: &Acceptor,
        client: &Client,
    ) -> (Result<Accepted, HandshakeError>, std::io::Result<tls::ClientStream>) {
        let (stream, accepted) = self.open(source).await;
        // In TLS 1.3 a client learns with its first read that its certificate was refused, and
        // takes up the ticket with it.
        let accept = async {
            let mut accepted = accept(acceptor, accepted).await?;
            accepted.stream.write_all(b"hello").await.unwrap();
            Ok(accepted)
        };
        let connect = async {
            let mut stream = client.connect("localhost", stream).await?;
            stream.read_exact(&mut [0; 5]).await?;
            Ok(stream)
        };
        tokio::join!(accept, connect)
    }
}

fn client(ca: &Path, own: &Path, identity: Option<&str>) -> Client {
    let pem = |name: &str, end: &str| Named::new("--certificate", own.join(format!("{name}.{end}")));
    let files = ClientFiles {
        ca: Some(Named::new("--ca", ca.join("ca.pem"))),
        identity: identity.map(|name| (pem(name, "pem"), pem(name, "key"))),
    };
    Client::open(files, &[]).unwrap()
}

/// A certificate of the authority in the folder, without extended key usage.
fn sign_without_usage(dir: &Path, name: &str) {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let authority = rcgen::KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), authority).unwrap();
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::default().signed_by(&pair, &issuer).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), made.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), pair.serialize_pem()).unwrap();
}

/// Performs the handshake of the server's side.
async fn accept(acceptor: &Acceptor, stream: TcpStream) -> Result<Accepted, HandshakeError> {
    let source = stream.peer_addr().unwrap().ip();
    acceptor.accept(stream, source).await
}

#[tokio::test]
async fn both_sides_agree_on_post_quantum_keys_and_resume() {
    let world = world(false, false, LIMITS).await;
    let (acceptor, client) = (world.server.acceptor(Port::Mqtt), world.client(None));
    for (kind, outcome) in [(rustls::HandshakeKind::Full, "full"), (rustls::HandshakeKind::Resumed, "resumed")] {
        let (accepted, connected) = world.connect(&acceptor, &client).await;
        let (accepted, _connected) = (accepted.unwrap(), connected.unwrap());
        let session = accepted.stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(kind));
        assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
        assert!(accepted.certificates.is_empty());
        assert_eq!(world.metrics.handshakes("mqtt", outcome).get(), 1);
    }
}

#[tokio::test]
async fn certificates_of_an_authority_are_accepted_and_handed_on_also_when_resumed() {
    let world = world(true, false, LIMITS).await;
    tls::create_client(world.dir.path(), "pump-7", false).unwrap();
    let acceptor = world.server.acceptor(Port::Mqtt);
    let own = tls::read_certificates(&Named::new("x", world.dir.path().join("pump-7.pem"))).unwrap();
    let own: Vec<Vec<u8>> = own.iter().map(|der: &CertificateDer<'_>| der.to_vec()).collect();
    let client = world.client(Some("pump-7"));
    for outcome in ["full", "resumed"] {
        let (accepted, connected) = world.connect(&acceptor, &client).await;
        assert_eq!(accepted.unwrap().certificates, own);
        connected.unwrap();
        assert_eq!(world.metrics.handshakes("mqtt", outcome).get(), 1);
    }
    // One of another authority, and none.
    let stranger = tempfile::tempdir().unwrap();
    tls::create(stranger.path(), &[], false).unwrap();
    tls::create_client(stranger.path(), "pump-7", false).unwrap();
    let stranger = self::client(world.dir.path(), stranger.path(), Some("pump-7"));
    let (accepted, connected) = world.connect(&acceptor, &stranger).await;
    let error = accepted.unwrap_err();
    assert!(error.to_string().contains("`client_ca`"), "{error}");
    assert!(connected.is_err());
    let (accepted, _) = world.connect(&acceptor, &world.client(None)).await;
    assert!(accepted.unwrap().certificates.is_empty());
    // Between processes it is required.
    let acceptor = world.server.acceptor(Port::Fleet);
    let (accepted, _) = world.connect(&acceptor, &world.client(None)).await;
    assert!(accepted.unwrap_err().to_string().contains("no certificate"));
    // One of a device is not enough.
    let (accepted, _) = world.connect(&acceptor, &client).await;
    assert_eq!(accepted.unwrap_err().label(), "client_certificate");
    // Nor is one that does not say what it is for.
    sign_without_usage(world.dir.path(), "vague");
    let (accepted, _) = world.connect(&world.server.acceptor(Port::Mqtt), &world.client(Some("vague"))).await;
    assert_eq!(accepted.unwrap().certificates.len(), 1);
    let (accepted, _) = world.connect(&acceptor, &world.client(Some("vague"))).await;
    assert_eq!(accepted.unwrap_err().label(), "client_certificate");
    let (accepted, _) = world.connect(&acceptor, &world.client(Some("server"))).await;
    assert_eq!(accepted.unwrap().certificates.len(), 1);
}

#[tokio::test]
async fn devices_of_one_process_have_certificates_and_sessions_of_their_own() {
    let world = world(true, false, LIMITS).await;
    let authority = tls::Authority::open(world.dir.path()).unwrap();
    assert!(authority.client("../pump").is_err());
    let (acceptor, all) = (world.server.acceptor(Port::Mqtt), world.client(None));
    let own = ["pump-1", "pump-2"].map(|name| authority.client(name).unwrap());
    let devices = [0, 1].map(|n| all.for_device(Some(&own[n])).unwrap());
    for outcome in ["full", "resumed"] {
        for (device, own) in devices.iter().zip(&own) {
            let (accepted, connected) = world.connect(&acceptor, device).await;
            assert_eq!(accepted.unwrap().certificates, std::slice::from_ref(&own.certificate));
            connected.unwrap();
        }
        assert_eq!(world.metrics.handshakes("mqtt", outcome).get(), 2);
    }
    let mixed = tls::Identity { key: own[0].key.clone(), ..own[1].clone() };
    assert!(all.for_device(Some(&mixed)).is_err());
    assert!(!format!("{mixed:?}").contains("key:"));
}

#[tokio::test]
async fn a_session_is_not_resumed_past_an_authority_that_is_gone() {
    let world = world(true, false, LIMITS).await;
    tls::create_client(world.dir.path(), "pump-7", false).unwrap();
    let (acceptor, client) = (world.server.acceptor(Port::Mqtt), world.client(Some("pump-7")));
    let (accepted, _) = world.connect(&acceptor, &client).await;
    accepted.unwrap();
    let ca = std::fs::read(world.dir.path().join("ca.pem")).unwrap();
    let other = tempfile::tempdir().unwrap();
    tls::create(other.path(), &[], false).unwrap();
    std::fs::copy(other.path().join("ca.pem"), world.dir.path().join("ca.pem")).unwrap();
    world.server.reload();
    let (accepted, _) = world.connect(&acceptor, &client).await;
    assert_eq!(accepted.unwrap_err().label(), "client_certificate");
    std::fs::write(world.dir.path().join("ca.pem"), ca).unwrap();
    world.server.reload();
    let (accepted, _) = world.connect(&acceptor, &client).await;
    accepted.unwrap();
}

#[tokio::test]
async fn without_authorities_the_gatekeeper_gets_what_the_client_has_the_key_of() {
    let world = world(false, true, LIMITS).await;
    let stranger = tempfile::tempdir().unwrap();
    tls::create(stranger.path(), &[], false).unwrap();
    tls::create_client(stranger.path(), "pump-7", false).unwrap();
    let client = client(world.dir.path(), stranger.path(), Some("pump-7"));
    let (accepted, _) = world.connect(&world.server.acceptor(Port::Mqtt), &client).await;
    assert_eq!(accepted.unwrap().certificates.len(), 1);
    // Third parties have keys.
    let (accepted, _) = world.connect(&world.server.acceptor(Port::Grpc), &client).await;
    assert!(accepted.unwrap().certificates.is_empty());
}

#[tokio::test]
async fn a_new_certificate_is_used_and_a_faulty_one_is_not() {
    let world = world(false, false, LIMITS).await;
    let (acceptor, dir) = (world.server.acceptor(Port::Mqtt), world.dir.path());
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let served = async || {
        let (_, connected) = world.connect(&acceptor, &world.client(None)).await;
        connected.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let (first, key, pem) = (served().await, read("server.key"), read("server.pem"));
    tls::create(dir, &["other.example".to_owned()], true).unwrap();
    let renewed = read("server.pem");
    // The key of before.
    std::fs::write(dir.join("server.key"), &key).unwrap();
    world.server.reload();
    world.server.reload();
    assert_eq!(served().await, first);
    assert_eq!(world.metrics.reloads("failed").get(), 1, "a fault is reported once");
    std::fs::write(dir.join("server.pem"), &pem).unwrap();
    world.server.reload();
    assert_eq!(world.metrics.reloads("loaded").get(), 0);
    tls::create(dir, &["other.example".to_owned()], true).unwrap();
    assert_ne!(read("server.pem"), renewed);
    world.server.reload();
    let second = served().await;
    assert_ne!(second, first);
    assert!(tls::Certificate::parse(&second).unwrap().is_for("other.example"));
    assert_eq!(world.metrics.reloads("loaded").get(), 1);
    std::fs::remove_file(dir.join("server.key")).unwrap();
    world.server.reload();
    assert_eq!(served().await, second);
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_is_named() {
    let world = world(false, false, LIMITS).await;
    for (sent, named) in [(&b"\x10\x0c\0\x04MQTT"[..], "MQTT without TLS"), (b"GET / HTTP/1.1\r\n", "HTTP without TLS")]
    {
        let mut stream = TcpStream::connect(world.listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = world.listener.accept().await.unwrap();
        stream.write_all(sent).await.unwrap();
        let error = accept(&world.server.acceptor(Port::Http), accepted).await.unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(world.metrics.handshakes("http", "not_tls").get(), 2);
}

#[tokio::test]
async fn slow_handshakes_are_bounded_in_time_and_number_and_idle_ones_hold_no_place() {
    let limits = Limits { timeout: Duration::from_millis(400), at_once: 1 };
    let world = world(false, false, limits).await;
    let acceptor = world.server.acceptor(Port::Mqtt);
    let address = world.listener.local_addr().unwrap();
    let begin = async |sent: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = world.listener.accept().await.unwrap();
        stream.write_all(sent).await.unwrap();
        let acceptor = acceptor.clone();
        (stream, tokio::spawn(async move { accept(&acceptor, accepted).await.map(drop) }))
    };
    let (_silent, silent) = begin(b"").await;
    // The silent one does not keep another from its handshake.
    let (accepted, connected) = world.connect(&acceptor, &world.client(None)).await;
    accepted.unwrap();
    connected.unwrap();
    let (_slow, slow) = begin(b"\x16\x03\x01").await;
    let (_late, late) = begin(b"\x16\x03\x01").await;
    assert!(matches!(silent.await.unwrap(), Err(HandshakeError::TimedOut)));
    assert!(matches!(slow.await.unwrap(), Err(HandshakeError::TimedOut)));
    assert!(matches!(late.await.unwrap(), Err(HandshakeError::Busy | HandshakeError::TimedOut)));
    let (accepted, _) = world.connect(&acceptor, &world.client(None)).await;
    accepted.unwrap();
}

#[tokio::test]
async fn stalled_handshakes_of_one_address_leave_other_addresses_and_other_ports_theirs() {
    let world = world(false, false, Limits { timeout: Duration::from_secs(20), at_once: 16 }).await;
    let (mqtt, client) = (world.server.acceptor(Port::Mqtt), world.client(None));
    let mut stalled = Vec::new();
    for _ in 0..24 {
        let (mut stream, accepted) = world.open("127.0.0.2").await;
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        let acceptor = mqtt.clone();
        stalled.push((stream, tokio::spawn(async move { accept(&acceptor, accepted).await.map(drop) })));
    }
    for (source, port) in [("127.0.0.1", Port::Mqtt), ("127.0.0.2", Port::Grpc), ("127.0.0.2", Port::Http)] {
        let (accepted, connected) = world.connect_from(source, &world.server.acceptor(port), &client).await;
        accepted.unwrap();
        connected.unwrap();
    }
    // The address itself waits for its own.
    let (stream, accepted) = world.open("127.0.0.2").await;
    let wait = async { tokio::join!(accept(&mqtt, accepted), client.connect("localhost", stream)) };
    assert!(tokio::time::timeout(Duration::from_millis(200), wait).await.is_err());
    assert!(stalled.iter().all(|(_, stalled)| !stalled.is_finished()));
    for (stream, stalled) in stalled {
        drop(stream);
        assert!(matches!(stalled.await.unwrap(), Err(HandshakeError::Closed)));
    }
    let (accepted, _) = world.connect_from("127.0.0.2", &mqtt, &client).await;
    accepted.unwrap();
}

#[tokio::test]
async fn a_client_with_another_authority_refuses_the_server_and_a_pin_accepts_one_certificate() {
    let world = world(false, false, LIMITS).await;
    let stranger = tempfile::tempdir().unwrap();
    tls::create(stranger.path(), &[], false).unwrap();
    let acceptor = world.server.acceptor(Port::Grpc);
    let (accepted, connected) = world.connect(&acceptor, &client(stranger.path(), stranger.path(), None)).await;
    let error = accepted.unwrap_err();
    assert_eq!(error.label(), "certificate_refused", "{error}");
    assert!(connected.unwrap_err().to_string().contains("UnknownIssuer"));
    let pin = |dir: &Path| Client::with(tls::pinned(&Named::new("tls.certificate", dir.join("server.pem"))).unwrap());
    let (_, connected) = world.connect(&acceptor, &pin(world.dir.path())).await;
    connected.unwrap();
    let (_, connected) = world.connect(&acceptor, &pin(stranger.path())).await;
    connected.unwrap_err();
}
