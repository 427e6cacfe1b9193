//! Answers of this process to the others.

use std::sync::Arc;
use std::time::Duration;

use model::{DeviceKey, TimeRange};
use proto::internal::v1 as wire;
use proto::internal::v1::fleet_service_server::{FleetService, FleetServiceServer};
use stores::contract::{LatestState, StoreError, Tail};
use tls::{Acceptor, Connections, Peer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::codegen::tokio_stream;
use tonic::service::{Interceptor, InterceptorLayer, Routes};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::peers::POOL;
use super::{FleetHandle, Shared, convert, ledger};
use crate::sinks::latest::Question;

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
/// Maximum size of the headers and of the request of a call: names of logs and devices.
const MAX_HEADER_BYTES: u32 = 16 << 10;
const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Bytes of the request of a call that may arrive before they are read.
const WINDOW: u32 = 64 << 10;

/// The flusher of each pool; the pool of the shared one is `None`.
pub type Pools = Vec<(Option<Arc<str>>, FleetHandle)>;

/// The answers about the logs of `pools`, for [`serve`].
pub fn answers(pools: Pools) -> FleetServiceServer<impl FleetService> {
    FleetServiceServer::new(Service(pools)).max_decoding_message_size(MAX_REQUEST_BYTES)
}

/// Answers the other processes of the fleet by `services` until `stop`. Callers must know `secret`
/// and, with an acceptor, present a certificate. Connections that have not called with the secret
/// yet keep no others out.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    (listener, tls): (TcpListener, Option<Acceptor>),
    services: Routes,
    secret: &str,
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
        .layer(InterceptorLayer::new(Guard::new(secret)))
        .add_routes(services)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
}

/// Admits callers that know the secret.
#[derive(Clone)]
struct Guard(Arc<str>);

impl Guard {
    fn new(secret: &str) -> Self {
        Self(format!("Bearer {secret}").into())
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").map_or(&b""[..], |value| value.as_bytes());
        // In constant time for a guess of any prefix.
        let wrong = given
            .iter()
            .zip(self.0.as_bytes())
            .fold(given.len() ^ self.0.len(), |wrong, (a, b)| wrong | usize::from(a ^ b));
        if wrong == 0 {
            if let Some(peer) = request.extensions().get::<Peer>() {
                peer.admit();
            }
            Ok(request)
        } else {
            Err(Status::unauthenticated("wrong fleet secret: set the same `fleet.secret` in every process"))
        }
    }
}

struct Service(Pools);

type Parts = Vec<Result<wire::TailPart, Status>>;

fn refused(error: StoreError) -> Status {
    match error {
        StoreError::Damaged(reason) => Status::data_loss(reason),
        error => Status::unavailable(error.to_string()),
    }
}

fn key(tenant: &str, device: &str) -> DeviceKey {
    DeviceKey { tenant: tenant.into(), id: device.into() }
}

fn end(log: &str, complete_until: i64) -> wire::TailPart {
    let end = wire::TailEnd { log: log.to_owned(), complete_until };
    wire::TailPart { part: Some(wire::tail_part::Part::End(end)) }
}

fn answer(states: Vec<LatestState>, logs: Vec<String>, complete: bool) -> Response<wire::LatestResponse> {
    Response::new(wire::LatestResponse { states: states.into_iter().map(convert::state).collect(), logs, complete })
}

impl Service {
    /// The flusher of the pool that a call concerns.
    fn of<T>(&self, request: &Request<T>) -> Result<&Shared, Status> {
        let wanted = request.metadata().get(POOL).map(|pool| pool.as_bytes());
        let found = self.0.iter().find(|(pool, _)| pool.as_ref().map(|pool| pool.as_bytes()) == wanted);
        found.map(|(_, handle)| &*handle.0).ok_or_else(|| {
            let pool = String::from_utf8_lossy(wanted.unwrap_or_default());
            Status::failed_precondition(format!(
                "this process does not have the pool {pool:?}: give every process of the fleet the same [[pool]] tables"
            ))
        })
    }
}

impl Shared {
    /// The ones of `logs` that are held here, each caught up with all that is durable now.
    async fn caught_up(&self, logs: &[String]) -> Result<(Vec<String>, bool), Status> {
        let members = self.held(logs);
        for member in &members {
            member.handle.latest.catch_up().await.map_err(refused)?;
        }
        let complete = members.iter().all(|member| member.is_complete());
        Ok((members.iter().map(|member| member.lease.log.clone()).collect(), complete))
    }
}

#[tonic::async_trait]
impl FleetService for Service {
    type TailStream = tokio_stream::Iter<std::vec::IntoIter<Result<wire::TailPart, Status>>>;

    async fn tail(&self, request: Request<wire::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let shared = self.of(&request)?;
        let request = request.into_inner();
        let device = key(&request.tenant, &request.device);
        let range = TimeRange { start: request.start, end: request.end };
        let names: Vec<Arc<str>> = request.names.iter().map(|name| name.as_str().into()).collect();
        let names = (!request.all_names).then_some(names.as_slice());
        let mut parts = Parts::new();
        for member in shared.held(&request.logs) {
            let answer = member.handle.tail.tail(&device, range, names).await.map_err(refused)?;
            parts.extend(answer.blocks.iter().map(|block| {
                let block = wire::TailBlock {
                    log: block.id.log.to_string(),
                    first_offset: block.id.first_offset,
                    block: stores::codec::encode(block),
                };
                Ok(wire::TailPart { part: Some(wire::tail_part::Part::Block(block)) })
            }));
            parts.push(Ok(end(&member.lease.log, answer.complete_until)));
        }
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn latest(&self, request: Request<wire::LatestRequest>) -> Result<Response<wire::LatestResponse>, Status> {
        let shared = self.of(&request)?;
        let request = request.into_inner();
        let (logs, complete) = shared.caught_up(&request.logs).await?;
        let devices: Vec<_> = request.devices.iter().map(|device| key(&request.tenant, device)).collect();
        let (states, all) = shared.known(&Question::Some(&devices)).await;
        Ok(answer(states, logs, complete && all))
    }

    async fn list_latest(
        &self,
        request: Request<wire::ListLatestRequest>,
    ) -> Result<Response<wire::LatestResponse>, Status> {
        let shared = self.of(&request)?;
        let request = request.into_inner();
        let (logs, complete) = shared.caught_up(&request.logs).await?;
        let after = (!request.after.is_empty()).then_some(request.after.as_str());
        let question = Question::List { tenant: &request.tenant, after, limit: request.limit as usize };
        let (states, all) = shared.known(&question).await;
        Ok(answer(states, logs, complete && all))
    }

    async fn books(&self, request: Request<wire::BooksRequest>) -> Result<Response<wire::BooksResponse>, Status> {
        let members = self.of(&request)?.held(&request.into_inner().logs);
        let logs = members.iter().map(|member| member.lease.log.clone()).collect();
        let lines = ledger::of_members(&members).await.map_err(refused)?;
        Ok(Response::new(wire::BooksResponse { lines: lines.into_values().map(convert::line).collect(), logs }))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        let sinks = self.of(&request)?.statuses().into_iter().map(convert::sink).collect();
        Ok(Response::new(wire::StatusResponse { sinks }))
    }
}
