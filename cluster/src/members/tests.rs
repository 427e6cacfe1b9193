//! Calls between processes: addresses that are not called, and clients without the secret.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::internal::v1 as wire;
use proto::internal::v1::StatusRequest;
use proto::internal::v1::fleet_service_client::FleetServiceClient;
use proto::internal::v1::fleet_service_server::{FleetService, FleetServiceServer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Response, Status};

use super::{Metrics, Peers, Secret, serve};

const SECRET: &str = "a secret of sixteen and more";

fn peers(tls: Option<tls::Client>, trusts_network: bool) -> (Peers, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    (Peers::new(&Secret::new(SECRET).unwrap(), tls, trusts_network, Arc::clone(&metrics)), metrics)
}

#[tokio::test]
async fn the_secret_is_not_sent_unencrypted_to_other_machines() {
    let here = ["http://127.0.0.1:1", "http://127.9.9.9:1", "http://[::1]:1", "http://localhost:1"];
    let elsewhere = [
        "http://10.0.0.7:1",
        "http://[2001:db8::1]:1",
        "http://0.0.0.0:1",
        "http://flusher:1",
        "http://127.0.0.1@evil.example:1",
        "http://127.0.0.1.evil.example:1",
        "http://localhost.evil.example:1",
        "HTTP://10.0.0.7:1",
    ];
    let (closed, metrics) = peers(None, false);
    for address in here {
        assert!(closed.reach(address).is_some(), "{address}");
    }
    for address in elsewhere {
        assert!(closed.reach(address).is_none(), "{address}");
    }
    assert_eq!(metrics.peers_refused("unencrypted").get(), 8);
    // Once within the time for which an address is left alone.
    assert!(closed.reach(elsewhere[0]).is_none());
    assert_eq!(metrics.peers_refused("unencrypted").get(), 8);
    let (trusting, _) = peers(None, true);
    for address in here.into_iter().chain(elsewhere) {
        assert!(trusting.reach(address).is_some(), "{address}");
    }
}

#[tokio::test]
async fn a_process_with_certificates_calls_encrypted_addresses_only_and_one_without_none_of_them() {
    let (plain, metrics) = peers(None, true);
    for address in ["https://127.0.0.1:1", "HTTPS://127.0.0.1:1"] {
        assert!(plain.reach(address).is_none(), "{address}");
    }
    assert_eq!(metrics.peers_refused("no_certificate").get(), 2);
    let (encrypted, metrics) = peers(Some(tls::Client::with(tls::unverified())), true);
    assert!(encrypted.reach("http://127.0.0.1:1").is_none());
    assert!(encrypted.reach("https://10.0.0.7:1").is_some());
    assert_eq!(metrics.peers_refused("no_certificate_there").get(), 1);
    for address in ["10.0.0.7:1", "unix:/tmp/x", "ftp://10.0.0.7:1", "https:", "no address at all"] {
        assert!(encrypted.reach(address).is_none(), "{address}");
    }
    assert_eq!(metrics.peers_refused("address").get(), 5);
}

/// A process that flushes nothing, and says so.
struct Idle;

#[tonic::async_trait]
impl FleetService for Idle {
    type TailStream = tokio_stream::Iter<std::vec::IntoIter<Result<wire::TailPart, Status>>>;

    async fn tail(&self, _: Request<wire::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        Ok(Response::new(tokio_stream::iter(Vec::new())))
    }

    async fn latest(&self, _: Request<wire::LatestRequest>) -> Result<Response<wire::LatestResponse>, Status> {
        Ok(Response::new(wire::LatestResponse::default()))
    }

    async fn list_latest(&self, _: Request<wire::ListLatestRequest>) -> Result<Response<wire::LatestResponse>, Status> {
        Ok(Response::new(wire::LatestResponse::default()))
    }

    async fn books(&self, _: Request<wire::BooksRequest>) -> Result<Response<wire::BooksResponse>, Status> {
        Ok(Response::new(wire::BooksResponse::default()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        Ok(Response::new(wire::StatusResponse::default()))
    }
}

/// Calls from an address, with a secret.
async fn status(to: SocketAddr, from: [u8; 4], secret: &str) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{to}")).unwrap();
    let endpoint = endpoint.local_address(Some(IpAddr::from(from))).connect_timeout(Duration::from_secs(5));
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(StatusRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {secret}").parse().unwrap());
    FleetServiceClient::new(channel).status(request).await.map(drop)
}

async fn open(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn a_thousand_idle_connections_of_one_client_keep_no_process_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (to, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let services = Routes::new(FleetServiceServer::new(Idle));
    let serving = tokio::spawn(serve((listener, None), services, Secret::new(SECRET).unwrap(), stop.clone()));
    let member = [127, 0, 0, 2];
    status(to, member, SECRET).await.unwrap();
    let mut idle = Vec::new();
    for n in 0..1_000 {
        let mut stream = open(to).await;
        // Beyond what the process keeps open, they are closed.
        if n >= 300 && tokio::time::timeout(Duration::from_secs(5), stream.read(&mut [0])).await.is_ok() {
            continue;
        }
        idle.push(stream);
    }
    assert!((200..=400).contains(&idle.len()), "{}", idle.len());
    let begun = Instant::now();
    for _ in 0..20 {
        status(to, member, SECRET).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Without the secret there is no answer, and the connection is not a known one.
    assert_eq!(status(to, member, "another secret of sixteen").await.unwrap_err().code(), Code::Unauthenticated);
    stop.cancel();
    drop(idle);
    serving.await.unwrap().unwrap();
}
