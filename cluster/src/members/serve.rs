//! Answers of this process to the others.

use std::time::Duration;

use tls::{Acceptor, Connections, Peer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::{Interceptor, InterceptorLayer, Routes};
use tonic::transport::Server;
use tonic::{Request, Status};

use super::secret::Secret;

/// Connections of other processes at one time. Each opens one; others wait for those that have not
/// said the secret.
const CONNECTIONS: usize = 256;
/// Time for a connection to make its first call with the secret.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
/// Calls at one time on one connection.
const CALLS: u32 = 256;
/// Time between two pings on a connection, and the time for an answer.
const PING: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum size of the headers of a call.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Bytes of the request of a call that may arrive before they are read.
const WINDOW: u32 = 64 << 10;

/// Answers the other processes of the fleet by `services` until `stop`. Callers must know `secret`
/// and, with an acceptor, present a certificate. Connections that have not called with the secret
/// yet keep no others out.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    (listener, tls): (TcpListener, Option<Acceptor>),
    services: Routes,
    secret: Secret,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let connections = Connections::new(listener, "256 of the fleet", CONNECTIONS, PING + 2 * PING_TIMEOUT, b"");
    let connections = connections.with_tls(tls).known_within(KNOWN_WITHIN);
    let incoming = futures::stream::unfold(connections, async |mut connections| {
        let (stream, _) = connections.accept().await;
        Some((Ok::<_, std::io::Error>(stream), connections))
    });
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .max_concurrent_streams(CALLS)
        .layer(InterceptorLayer::new(Guard(secret)))
        .add_routes(services)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// Admits callers that know the secret.
#[derive(Clone)]
struct Guard(Secret);

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").map_or(&b""[..], |value| value.as_bytes());
        if !self.0.is(given) {
            return Err(Status::unauthenticated("wrong fleet secret: set the same `fleet.secret` in every process"));
        }
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.admit();
        }
        Ok(request)
    }
}
