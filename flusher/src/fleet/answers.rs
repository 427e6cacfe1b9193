//! Answers about the logs that are held here, to the other processes.

use std::sync::Arc;

use cluster::members::pool_of;
use model::{DeviceKey, TimeRange};
use proto::internal::v1 as wire;
use proto::internal::v1::fleet_service_server::{FleetService, FleetServiceServer};
use stores::contract::{LatestState, StoreError, Tail};
use tonic::codegen::tokio_stream;
use tonic::{Request, Response, Status};

use super::{FleetHandle, Shared, convert, ledger};
use crate::sinks::latest::Question;

/// Maximum size of the request of a call: names of logs and devices.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// The flusher of each pool; the pool of the shared one is `None`.
pub type Pools = Vec<(Option<Arc<str>>, FleetHandle)>;

/// The answers about the logs of `pools`, for [`cluster::members::serve`].
pub fn answers(pools: Pools) -> FleetServiceServer<impl FleetService> {
    FleetServiceServer::new(Service(pools)).max_decoding_message_size(MAX_REQUEST_BYTES)
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
        let wanted = pool_of(request);
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
        let held_logs = self.held(logs);
        for held_log in &held_logs {
            held_log.handle.latest.catch_up().await.map_err(refused)?;
        }
        let complete = held_logs.iter().all(|held_log| held_log.is_complete());
        Ok((held_logs.iter().map(|held_log| held_log.lease.log.clone()).collect(), complete))
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
        for held_log in shared.held(&request.logs) {
            let answer = held_log.handle.tail.tail(&device, range, names).await.map_err(refused)?;
            parts.extend(answer.blocks.iter().map(|block| {
                let block = wire::TailBlock {
                    log: block.id.log.to_string(),
                    first_offset: block.id.first_offset,
                    block: stores::codec::encode(block),
                };
                Ok(wire::TailPart { part: Some(wire::tail_part::Part::Block(block)) })
            }));
            parts.push(Ok(end(&held_log.lease.log, answer.complete_until)));
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
        let held_logs = self.of(&request)?.held(&request.into_inner().logs);
        let logs = held_logs.iter().map(|held_log| held_log.lease.log.clone()).collect();
        let lines = ledger::of_held(&held_logs).await.map_err(refused)?;
        Ok(Response::new(wire::BooksResponse { lines: lines.into_values().map(convert::line).collect(), logs }))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        let sinks = self.of(&request)?.statuses().into_iter().map(convert::sink).collect();
        Ok(Response::new(wire::StatusResponse { sinks }))
    }
}
